//! Who is connected, how well they behaved, and who is banned.
//!
//! The table is read from anywhere without waiting (concurrent maps and atomics); only the network task writes it.
//! A look-up clones an `Arc` and lets the map go at once, so no guard is ever held while a map is touched again.
//!
//! **The price list of faults is here and nowhere else.** Others say *what* a peer did ([`Fault`]); this module says
//! what it costs. What an honest peer can do by being slow, behind or restarted costs nothing.
//!
//! | fault | points | at the threshold of 100 |
//! |---|---|---|
//! | `None`, `Late` | 0 | never |
//! | `Careless` | 11 | ten in quick succession |
//! | `Hostile` | 60 | two within five minutes |
//!
//! Points halve every ten minutes. At the threshold the peer is banned: `ban_base`, doubled by every ban that is not
//! yet forgiven, at most `ban_max`; one ban is forgiven per day. Bans are by identity, so that honest peers behind one
//! address do not suffer for each other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use libp2p::Multiaddr;

pub use super::limits::Allowance;
use super::limits::{Inbound, Outbound};
use super::{Fault, PeerId};
use crate::primitives::kinds::Kind;

/// Identities remembered at most, connected ones included; beyond it those that left longest ago are forgotten.
pub const MAX_IDENTITIES: usize = 65_536;

const BAN_THRESHOLD: f64 = 100.0;
const HALF_LIFE: Duration = Duration::from_secs(600);
const FORGIVE_AFTER: Duration = Duration::from_secs(86_400);

/// What a fault costs.
const fn price(fault: Fault) -> f64 {
    match fault {
        Fault::None | Fault::Late => 0.0,
        Fault::Careless => 11.0,
        Fault::Hostile => 60.0,
    }
}

/// How long bans last.
#[derive(Clone, Copy, Debug)]
pub struct BanTerms {
    /// The first.
    pub base: Duration,
    /// The longest.
    pub max: Duration,
}

/// The record of one identity: points with decay, and bans.
#[derive(Debug)]
struct Standing {
    points: f64,
    at: Instant,
    /// Bans not yet forgiven.
    bans: u32,
    last_ban: Option<Instant>,
}

impl Standing {
    const fn new(now: Instant) -> Self {
        Self {
            points: 0.0,
            at: now,
            bans: 0,
            last_ban: None,
        }
    }

    fn points(&self, now: Instant) -> f64 {
        let halvings = now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.points * (-halvings).exp2()
    }

    /// Adds the price of a fault; at the threshold starts afresh and tells for how long the peer is banned.
    fn punish(&mut self, fault: Fault, now: Instant, terms: BanTerms) -> Option<Duration> {
        self.points = self.points(now) + price(fault);
        self.at = now;
        if self.points < BAN_THRESHOLD {
            return None;
        }
        self.points = 0.0;
        self.forgive(now);
        let length = terms.base.saturating_mul(1 << self.bans.min(20)).min(terms.max);
        self.bans = self.bans.saturating_add(1);
        self.last_ban = Some(now);
        Some(length)
    }

    fn forgive(&mut self, now: Instant) {
        let Some(last) = self.last_ban else { return };
        let days = now.saturating_duration_since(last).as_secs() / FORGIVE_AFTER.as_secs();
        self.bans = self.bans.saturating_sub(u32::try_from(days).unwrap_or(u32::MAX));
    }
}

#[derive(Debug)]
struct Details {
    standing: Standing,
    address: Option<Multiaddr>,
    agent: Option<String>,
    since: Instant,
    outbound: bool,
}

/// One identity.
#[derive(Debug)]
struct Entry {
    number: PeerId,
    identity: libp2p::PeerId,
    inbound: AtomicU32,
    outbound: AtomicU32,
    /// Whether the peer has shown that it is of this chain.
    admitted: AtomicU32,
    /// Milliseconds since the table was made; zero: not banned.
    banned_until_ms: AtomicU64,
    round_trip_us: AtomicU64,
    /// Changes with every departure, so that an old note in the queue of the gone can be told from the newest.
    departure: AtomicU64,
    /// What it may still send. Kept while it is away: coming back does not fill the buckets.
    heard: Inbound,
    /// What it may still be asked.
    asked: Outbound,
    details: Mutex<Details>,
}

impl Entry {
    fn connections(&self) -> u32 {
        self.inbound.load(Ordering::Relaxed) + self.outbound.load(Ordering::Relaxed)
    }

    fn details(&self) -> MutexGuard<'_, Details> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a peer, for people and pages.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The node-local number.
    pub peer: PeerId,
    /// The libp2p identity.
    pub identity: libp2p::PeerId,
    /// Where the latest connection leads.
    pub address: Option<Multiaddr>,
    /// What software it says it runs.
    pub agent: Option<String>,
    /// Whether this node opened the first connection.
    pub outbound: bool,
    /// Connections now.
    pub connections: u32,
    /// Points against it, after decay; at 100 it is banned.
    pub points: f64,
    /// How long it is still banned.
    pub banned_for: Option<Duration>,
    /// The latest ping.
    pub round_trip: Option<Duration>,
    /// Since the first of the present connections.
    pub connected_for: Duration,
}

/// All identities met, by number and by key. Every question takes constant time but [`PeerTable::list`].
#[derive(Debug)]
pub struct PeerTable {
    started: Instant,
    terms: BanTerms,
    capacity: usize,
    by_identity: DashMap<libp2p::PeerId, Arc<Entry>>,
    by_number: DashMap<PeerId, Arc<Entry>>,
    next: AtomicU64,
    peers: AtomicUsize,
    inbound: AtomicUsize,
    outbound: AtomicUsize,
    gone: Mutex<VecDeque<(PeerId, u64)>>,
    own_address: ArcSwapOption<Multiaddr>,
}

impl PeerTable {
    /// Empty.
    pub fn new(terms: BanTerms, now: Instant) -> Self {
        Self::with_capacity(terms, now, MAX_IDENTITIES)
    }

    fn with_capacity(terms: BanTerms, now: Instant, capacity: usize) -> Self {
        Self {
            started: now,
            terms,
            capacity,
            by_identity: DashMap::new(),
            by_number: DashMap::new(),
            next: AtomicU64::new(1),
            peers: AtomicUsize::new(0),
            inbound: AtomicUsize::new(0),
            outbound: AtomicUsize::new(0),
            gone: Mutex::new(VecDeque::new()),
            own_address: ArcSwapOption::empty(),
        }
    }

    /// Peers of this chain that are connected now.
    pub fn connected(&self) -> usize {
        self.peers.load(Ordering::Relaxed)
    }

    /// Connections opened by others, now.
    pub fn inbound(&self) -> usize {
        self.inbound.load(Ordering::Relaxed)
    }

    /// Connections opened by this node, now.
    pub fn outbound(&self) -> usize {
        self.outbound.load(Ordering::Relaxed)
    }

    /// Whether the peer is connected and of this chain.
    pub fn is_connected(&self, peer: PeerId) -> bool {
        self.entry(peer)
            .is_some_and(|entry| entry.admitted.load(Ordering::Relaxed) > 0)
    }

    /// Whether the identity is banned at `now`.
    pub fn is_banned(&self, identity: &libp2p::PeerId, now: Instant) -> bool {
        self.known(identity)
            .is_some_and(|entry| self.banned_for(&entry, now).is_some())
    }

    /// The number of an identity that has been met.
    pub fn number(&self, identity: &libp2p::PeerId) -> Option<PeerId> {
        self.known(identity).map(|entry| entry.number)
    }

    /// The identity behind a number.
    pub fn identity(&self, peer: PeerId) -> Option<libp2p::PeerId> {
        self.entry(peer).map(|entry| entry.identity)
    }

    /// What is known of a peer.
    pub fn get(&self, peer: PeerId, now: Instant) -> Option<PeerInfo> {
        self.entry(peer).map(|entry| self.info(&entry, now))
    }

    /// The peers connected now, by number.
    pub fn list(&self, now: Instant) -> Vec<PeerInfo> {
        let entries: Vec<_> = self.by_number.iter().map(|entry| Arc::clone(&entry)).collect();
        let connected = entries
            .iter()
            .filter(|entry| entry.admitted.load(Ordering::Relaxed) > 0);
        let mut list: Vec<_> = connected.map(|entry| self.info(entry, now)).collect();
        list.sort_by_key(|info| info.peer);
        list
    }

    /// The address at which the first peer that told us sees this node; kept once learned.
    pub fn own_address(&self) -> Option<Arc<Multiaddr>> {
        self.own_address.load_full()
    }

    fn entry(&self, peer: PeerId) -> Option<Arc<Entry>> {
        self.by_number.get(&peer).map(|entry| Arc::clone(&entry))
    }

    fn known(&self, identity: &libp2p::PeerId) -> Option<Arc<Entry>> {
        self.by_identity.get(identity).map(|entry| Arc::clone(&entry))
    }

    fn banned_for(&self, entry: &Entry, now: Instant) -> Option<Duration> {
        let until = self.started + Duration::from_millis(entry.banned_until_ms.load(Ordering::Relaxed));
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    fn info(&self, entry: &Entry, now: Instant) -> PeerInfo {
        let round_trip_us = entry.round_trip_us.load(Ordering::Relaxed);
        let details = entry.details();
        PeerInfo {
            peer: entry.number,
            identity: entry.identity,
            address: details.address.clone(),
            agent: details.agent.clone(),
            outbound: details.outbound,
            connections: entry.connections(),
            points: details.standing.points(now),
            banned_for: self.banned_for(entry, now),
            round_trip: (round_trip_us > 0).then(|| Duration::from_micros(round_trip_us)),
            connected_for: now.saturating_duration_since(details.since),
        }
    }

    /// A connection is there: gives the peer its number at the first one.
    pub fn on_connected(&self, identity: libp2p::PeerId, outbound: bool, address: Multiaddr, now: Instant) -> PeerId {
        let entry = self.known(&identity).unwrap_or_else(|| self.intern(identity, now));
        {
            let mut details = entry.details();
            if entry.connections() == 0 {
                details.since = now;
                details.outbound = outbound;
            }
            details.address = Some(address);
        }
        let (own, total) = if outbound {
            (&entry.outbound, &self.outbound)
        } else {
            (&entry.inbound, &self.inbound)
        };
        own.fetch_add(1, Ordering::Relaxed);
        total.fetch_add(1, Ordering::Relaxed);
        entry.number
    }

    /// A connection is gone. Must mirror [`PeerTable::on_connected`].
    pub fn on_closed(&self, identity: &libp2p::PeerId, outbound: bool) {
        let Some(entry) = self.known(identity) else { return };
        let (own, total) = if outbound {
            (&entry.outbound, &self.outbound)
        } else {
            (&entry.inbound, &self.inbound)
        };
        own.fetch_sub(1, Ordering::Relaxed);
        total.fetch_sub(1, Ordering::Relaxed);
        if entry.connections() > 0 {
            return;
        }
        if entry.admitted.swap(0, Ordering::Relaxed) > 0 {
            self.peers.fetch_sub(1, Ordering::Relaxed);
        }
        let departure = entry.departure.fetch_add(1, Ordering::Relaxed) + 1;
        self.forget_the_oldest((entry.number, departure));
    }

    /// The peer has shown that it is of this chain. Whether that is news.
    pub fn on_admitted(&self, identity: &libp2p::PeerId) -> bool {
        let Some(entry) = self.known(identity) else {
            return false;
        };
        let news = entry.admitted.swap(1, Ordering::Relaxed) == 0;
        if news {
            self.peers.fetch_add(1, Ordering::Relaxed);
        }
        news
    }

    /// What the peer told about itself and about us. Texts of strangers are cut to a sensible length.
    pub(super) fn on_identified(&self, identity: &libp2p::PeerId, agent: &str, observed: Multiaddr) {
        if let Some(entry) = self.known(identity) {
            entry.details().agent = Some(agent.chars().filter(|c| !c.is_control()).take(80).collect());
        }
        if self.own_address.load().is_none() {
            self.own_address.store(Some(Arc::new(observed)));
        }
    }

    pub(super) fn on_ping(&self, identity: &libp2p::PeerId, round_trip: Duration) {
        if let Some(entry) = self.known(identity) {
            let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
            entry.round_trip_us.store(micros.max(1), Ordering::Relaxed);
        }
    }

    /// A message has come from a peer: whether it is within the limits of its type.
    pub fn may_send(&self, peer: PeerId, kind: Kind, now: Instant) -> Allowance {
        let allowance = |entry: Arc<Entry>| entry.heard.take(kind, self.nanoseconds(now));
        self.entry(peer).map_or(Allowance::Refused, allowance)
    }

    /// Whether the peer takes one more request of this type from us.
    pub fn may_ask(&self, peer: PeerId, kind: Kind, now: Instant) -> bool {
        self.entry(peer)
            .is_some_and(|entry| entry.asked.take(kind, self.nanoseconds(now)))
    }

    /// Since the table was made.
    pub(super) fn nanoseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Books a fault. Tells for how long the peer is banned, if this was the last straw.
    pub fn punish(&self, peer: PeerId, fault: Fault, now: Instant) -> Option<Duration> {
        let entry = self.entry(peer)?;
        if self.banned_for(&entry, now).is_some() {
            return None;
        }
        let length = entry.details().standing.punish(fault, now, self.terms)?;
        let until = now.saturating_duration_since(self.started) + length;
        entry
            .banned_until_ms
            .store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Some(length)
    }

    fn intern(&self, identity: libp2p::PeerId, now: Instant) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            number: PeerId(self.next.fetch_add(1, Ordering::Relaxed)),
            identity,
            inbound: AtomicU32::new(0),
            outbound: AtomicU32::new(0),
            admitted: AtomicU32::new(0),
            banned_until_ms: AtomicU64::new(0),
            round_trip_us: AtomicU64::new(0),
            departure: AtomicU64::new(0),
            heard: Inbound::default(),
            asked: Outbound::default(),
            details: Mutex::new(Details {
                standing: Standing::new(now),
                address: None,
                agent: None,
                since: now,
                outbound: false,
            }),
        });
        self.by_identity.insert(identity, Arc::clone(&entry));
        self.by_number.insert(entry.number, Arc::clone(&entry));
        entry
    }

    /// Notes a departure, and forgets whoever left longest ago while there are too many.
    fn forget_the_oldest(&self, departed: (PeerId, u64)) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.push_back(departed);
        while self.by_number.len() > self.capacity {
            let Some(oldest) = gone.pop_front() else { break };
            self.forget(oldest);
        }
        // Whoever comes and goes again and again leaves stale notes behind.
        if gone.len() > 2 * self.capacity {
            gone.retain(|note| self.entry(note.0).is_some_and(|entry| is_current(&entry, *note)));
        }
    }

    fn forget(&self, note: (PeerId, u64)) {
        let Some(entry) = self.entry(note.0) else { return };
        if is_current(&entry, note) {
            self.by_number.remove(&entry.number);
            self.by_identity.remove(&entry.identity);
        }
    }
}

fn is_current(entry: &Entry, note: (PeerId, u64)) -> bool {
    entry.connections() == 0 && entry.departure.load(Ordering::Relaxed) == note.1
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: BanTerms = BanTerms {
        base: Duration::from_secs(60),
        max: Duration::from_secs(3_600),
    };
    const MINUTE: Duration = Duration::from_secs(60);

    fn address() -> Multiaddr {
        "/ip4/192.0.2.1/tcp/7310".parse().expect("an address")
    }

    fn meet(table: &PeerTable, identity: libp2p::PeerId, now: Instant) -> PeerId {
        table.on_connected(identity, false, address(), now)
    }

    #[test]
    fn faults_cost_what_the_list_says() {
        let now = Instant::now();
        // (fault, how many until the ban)
        for (fault, expected) in [
            (Fault::Careless, Some(10)),
            (Fault::Hostile, Some(2)),
            (Fault::Late, None),
            (Fault::None, None),
        ] {
            let mut standing = Standing::new(now);
            let banned_at = (1..=10_000).find(|_| standing.punish(fault, now, TERMS).is_some());
            assert_eq!(banned_at, expected, "{fault:?}");
        }
    }

    #[test]
    fn points_halve_in_ten_minutes() {
        let now = Instant::now();
        let mut standing = Standing::new(now);
        standing.punish(Fault::Hostile, now, TERMS);
        assert!((standing.points(now + 10 * MINUTE) - 30.0).abs() < 1e-9);
        assert!((standing.points(now + 20 * MINUTE) - 15.0).abs() < 1e-9);
        // A careless fault every ten minutes never adds up to a ban.
        let ban = (1..1_000).find_map(|turn| standing.punish(Fault::Careless, now + turn * 10 * MINUTE, TERMS));
        assert_eq!(ban, None);
    }

    #[test]
    fn bans_double_up_to_a_cap_and_are_forgiven_day_by_day() {
        let mut now = Instant::now();
        let mut standing = Standing::new(now);
        let mut ban = |now| {
            std::iter::repeat_with(|| standing.punish(Fault::Hostile, now, TERMS))
                .flatten()
                .next()
        };
        let lengths: Vec<_> = (0..8).map(|_| ban(now).expect("banned").as_secs()).collect();
        assert_eq!(lengths, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
        now += 3 * FORGIVE_AFTER;
        assert_eq!(ban(now).expect("banned").as_secs(), 60 << 5, "three of eight forgiven");
        now += 100 * FORGIVE_AFTER;
        assert_eq!(ban(now).expect("banned").as_secs(), 60);
    }

    #[test]
    fn a_ban_takes_effect_and_ends() {
        let now = Instant::now();
        let table = PeerTable::new(TERMS, now);
        let identity = libp2p::PeerId::random();
        let peer = meet(&table, identity, now);
        assert_eq!(table.punish(peer, Fault::Hostile, now), None);
        assert!(!table.is_banned(&identity, now));
        let now = now + 5 * MINUTE;
        assert_eq!(table.punish(peer, Fault::Hostile, now), Some(MINUTE));
        assert!(table.is_banned(&identity, now + MINUTE - Duration::from_millis(1)));
        assert!(!table.is_banned(&identity, now + MINUTE));
        // What arrives late from the closing connection must not prolong the ban.
        assert_eq!(table.punish(peer, Fault::Hostile, now), None);
        assert_eq!(table.punish(peer, Fault::Hostile, now), None);
        assert!(!table.is_banned(&libp2p::PeerId::random(), now));
    }

    #[test]
    fn connections_are_counted_by_direction_and_peers_once() {
        let now = Instant::now();
        let table = PeerTable::new(TERMS, now);
        let identity = libp2p::PeerId::random();
        let peer = meet(&table, identity, now);
        assert_eq!(
            table.on_connected(identity, true, address(), now),
            peer,
            "one number for one identity"
        );
        assert_eq!((table.inbound(), table.outbound(), table.connected()), (1, 1, 0));
        assert!(table.on_admitted(&identity));
        assert!(!table.on_admitted(&identity));
        assert!(table.is_connected(peer));
        assert_eq!(table.connected(), 1);
        table.on_closed(&identity, false);
        assert!(table.is_connected(peer));
        table.on_closed(&identity, true);
        assert_eq!((table.inbound(), table.outbound(), table.connected()), (0, 0, 0));
        assert!(!table.is_connected(peer));
        assert!(table.list(now).is_empty());
        assert_eq!(meet(&table, identity, now), peer, "and after it came back");
    }

    #[test]
    fn identities_are_bounded_and_numbers_never_used_again() {
        let now = Instant::now();
        let table = PeerTable::with_capacity(TERMS, now, 10);
        let staying = libp2p::PeerId::random();
        let number = meet(&table, staying, now);
        let mut last = number;
        for _ in 0..100 {
            let passing = libp2p::PeerId::random();
            let fresh = meet(&table, passing, now);
            assert!(fresh > last);
            last = fresh;
            table.on_closed(&passing, false);
        }
        assert!(table.by_number.len() <= 10);
        assert_eq!(table.by_identity.len(), table.by_number.len());
        assert_eq!(
            table.number(&staying),
            Some(number),
            "a connected peer is never forgotten"
        );
        // One that comes and goes leaves no growing trail.
        for _ in 0..100 {
            table.on_closed(&staying, false);
            assert_eq!(meet(&table, staying, now), number);
        }
        assert!(table.gone.lock().expect("not poisoned").len() <= 20);
    }

    #[test]
    fn the_own_address_is_learned_once() {
        let now = Instant::now();
        let table = PeerTable::new(TERMS, now);
        let identity = libp2p::PeerId::random();
        let peer = meet(&table, identity, now);
        assert_eq!(table.own_address(), None);
        table.on_identified(&identity, "timecoin/1\u{7}", address());
        table.on_identified(
            &identity,
            &"x".repeat(1_000),
            "/ip4/192.0.2.9/tcp/1".parse().expect("an address"),
        );
        assert_eq!(table.own_address().as_deref(), Some(&address()));
        assert_eq!(
            table
                .get(peer, now)
                .and_then(|info| info.agent)
                .map(|agent| agent.len()),
            Some(80)
        );
    }
}
