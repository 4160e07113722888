//! The peers that this node knows how to reach: heard of from others, or met before. So it finds its way back when every
//! configured peer is gone.
//!
//! Pure: told what happens and what time it is. Bounded: of [`MAX_KNOWN`] peers, hearsay gives way to whom we have met,
//! and those met longest ago to those met lately. Whoever was met is forgotten after [`FORGET_AFTER`]; hearsay that leads
//! nowhere a few times, at once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

use super::config::is_reachable;
use super::dial::Backoff;

/// Peers remembered at most.
pub const MAX_KNOWN: usize = 1_024;
/// Addresses of one peer.
const MAX_ADDRESSES: usize = 4;
/// Whoever was not met for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(30 * 86_400);
/// Dials that lead nowhere after which hearsay is forgotten.
const HEARSAY_TRIES: u32 = 4;
/// Delays between dials of one peer; the longest is short enough that one which was away for a night is found soon.
const DIAL_AGAIN: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(300));

/// A peer of this chain that was met, and where: what is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPeer {
    /// Its identity.
    pub identity: PeerId,
    /// Where it says that it listens; at most four.
    pub addresses: Vec<Multiaddr>,
    /// When it was last there, in seconds since 1970.
    pub last_seen: u64,
}

#[derive(Debug)]
struct Entry {
    addresses: Vec<Multiaddr>,
    /// In seconds since 1970; `None`: hearsay.
    last_seen: Option<u64>,
    backoff: Backoff,
    not_before: Instant,
}

impl Entry {
    fn new(addresses: Vec<Multiaddr>, last_seen: Option<u64>, now: Instant) -> Self {
        Self {
            addresses,
            last_seen,
            backoff: DIAL_AGAIN,
            not_before: now,
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Book {
    own: PeerId,
    peers: HashMap<PeerId, Entry>,
    changed: bool,
}

/// The addresses worth keeping: such as can be dialed, without identity, each once. Loopback only among those who meet
/// there; elsewhere it would lead everybody to himself.
fn usable(addresses: impl IntoIterator<Item = Multiaddr>, loopback: bool) -> Vec<Multiaddr> {
    let mut usable = Vec::new();
    for address in addresses {
        let (address, _) = super::dial::split_identity(&address);
        if is_reachable(&address, loopback) && !usable.contains(&address) {
            usable.push(address);
        }
        if usable.len() == MAX_ADDRESSES {
            break;
        }
    }
    usable
}

impl Book {
    /// With what was kept from before; too old, too many or useless entries are left out. `today` in seconds since 1970.
    pub(super) fn new(own: PeerId, kept: Vec<KnownPeer>, today: u64, now: Instant) -> Self {
        let mut book = Self {
            own,
            peers: HashMap::new(),
            changed: false,
        };
        for peer in kept {
            let aged = today.saturating_sub(peer.last_seen) > FORGET_AFTER.as_secs();
            let addresses = usable(peer.addresses, true);
            if !aged && !addresses.is_empty() && peer.identity != own && book.make_room(true) {
                // A clock that was ahead when it was written must not keep it for ever.
                let entry = Entry::new(addresses, Some(peer.last_seen.min(today)), now);
                book.peers.insert(peer.identity, entry);
            }
        }
        book
    }

    /// Somebody says that this peer is there.
    pub(super) fn hear(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, loopback: bool, now: Instant) {
        let addresses = usable(addresses, loopback);
        if peer == self.own || addresses.is_empty() {
            return;
        }
        if let Some(known) = self.peers.get_mut(&peer) {
            // What a peer said itself counts more.
            if known.last_seen.is_none() {
                known.addresses = addresses;
            }
        } else if self.make_room(false) {
            self.peers.insert(peer, Entry::new(addresses, None, now));
        }
    }

    /// The peer is there, of our chain, and says where it listens.
    pub(super) fn meet(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, loopback: bool, today: u64, now: Instant) {
        let addresses = usable(addresses, loopback);
        if peer == self.own || addresses.is_empty() {
            return;
        }
        self.changed = true;
        if let Some(known) = self.peers.get_mut(&peer) {
            *known = Entry::new(addresses, Some(today), now);
        } else if self.make_room(true) {
            self.peers.insert(peer, Entry::new(addresses, Some(today), now));
        }
    }

    /// The peer has just been there; the next dial may come soon.
    pub(super) fn leave(&mut self, peer: &PeerId, today: u64, now: Instant) {
        if let Some(known) = self.peers.get_mut(peer)
            && known.last_seen.is_some()
        {
            known.last_seen = Some(today);
            known.backoff = DIAL_AGAIN;
            known.not_before = now;
            self.changed = true;
        }
    }

    /// Up to `count` peers to dial now, whom we have met first, otherwise in any order. Each is due again after a growing
    /// delay; `random` in 0..1.
    pub(super) fn due(
        &mut self,
        now: Instant,
        count: usize,
        is_busy: impl Fn(&PeerId) -> bool,
        mut random: impl FnMut() -> f64,
    ) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let lost = |entry: &Entry| entry.last_seen.is_none() && entry.backoff.failures() >= HEARSAY_TRIES;
        self.peers
            .retain(|peer, entry| !(lost(entry) && entry.not_before <= now) || is_busy(peer));
        let ready = self
            .peers
            .iter()
            .filter(|(peer, entry)| entry.not_before <= now && !is_busy(peer));
        let mut ready: Vec<_> = ready
            .map(|(peer, entry)| (entry.last_seen.is_none(), random(), *peer))
            .collect();
        ready.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut due = Vec::new();
        for (_, fraction, peer) in ready.into_iter().take(count) {
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.not_before = now + entry.backoff.next(fraction);
                due.push((peer, entry.addresses.clone()));
            }
        }
        due
    }

    /// What to keep on disk, if it has changed since the last time; the latest first.
    pub(super) fn changes(&mut self) -> Option<Vec<KnownPeer>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let met = self.peers.iter().filter_map(|(identity, entry)| {
            entry.last_seen.map(|last_seen| KnownPeer {
                identity: *identity,
                addresses: entry.addresses.clone(),
                last_seen,
            })
        });
        let mut all: Vec<_> = met.collect();
        all.sort_by_key(|peer| (std::cmp::Reverse(peer.last_seen), peer.identity));
        Some(all)
    }

    /// How many are known.
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there is room for one more, after somebody less worth has gone.
    fn make_room(&mut self, met: bool) -> bool {
        if self.peers.len() < MAX_KNOWN {
            return true;
        }
        let worth = |entry: &Entry| (entry.last_seen, std::cmp::Reverse(entry.backoff.failures()));
        let least = self.peers.iter().min_by_key(|(_, entry)| worth(entry));
        match least.map(|(peer, entry)| (*peer, entry.last_seen)) {
            Some((peer, last_seen)) if met || last_seen.is_none() => self.peers.remove(&peer).is_some(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    fn address(number: u16) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{number}").parse().expect("an address")
    }

    fn known(days_ago: u64) -> KnownPeer {
        KnownPeer {
            identity: PeerId::random(),
            addresses: vec![address(1)],
            last_seen: TODAY - days_ago * DAY,
        }
    }

    fn due(book: &mut Book, now: Instant) -> Vec<PeerId> {
        let due = book.due(now, 10_000, |_| false, || 0.5);
        due.into_iter().map(|(peer, _)| peer).collect()
    }

    #[test]
    fn what_was_kept_comes_back_but_not_what_is_too_old_or_of_no_use() {
        let own = PeerId::random();
        let now = Instant::now();
        let (fresh, old, ahead) = (known(29), known(31), known(0));
        let useless = KnownPeer {
            addresses: vec!["/ip4/192.0.2.1/udp/1".parse().expect("an address")],
            ..known(0)
        };
        let myself = KnownPeer {
            identity: own,
            ..known(0)
        };
        let ahead = KnownPeer {
            last_seen: TODAY + 1_000 * DAY,
            ..ahead
        };
        let kept = vec![fresh.clone(), old, useless, myself, ahead.clone()];
        let mut book = Book::new(own, kept, TODAY, now);
        assert_eq!(book.changes(), None, "nothing new");
        let mut all = due(&mut book, now);
        all.sort();
        let mut expected = vec![fresh.identity, ahead.identity];
        expected.sort();
        assert_eq!(all, expected);
        book.leave(&fresh.identity, TODAY, now);
        assert_eq!(book.changes().expect("changed")[0].last_seen, TODAY);
        assert_eq!(book.changes(), None);
    }

    #[test]
    fn hearsay_never_pushes_out_whom_we_have_met() {
        let now = Instant::now();
        let kept: Vec<_> = (0..MAX_KNOWN as u64).map(|number| known(number % 20)).collect();
        let mut book = Book::new(PeerId::random(), kept, TODAY, now);
        for _ in 0..10_000 {
            book.hear(PeerId::random(), vec![address(1)], false, now);
        }
        assert_eq!(book.len(), MAX_KNOWN);
        assert!(book.peers.values().all(|entry| entry.last_seen.is_some()));
        let newcomer = PeerId::random();
        book.meet(newcomer, vec![address(1)], false, TODAY, now);
        assert_eq!(book.len(), MAX_KNOWN);
        assert!(book.peers.contains_key(&newcomer));
        let oldest = book
            .peers
            .values()
            .filter(|entry| entry.last_seen == Some(TODAY - 19 * DAY));
        assert_eq!(oldest.count(), MAX_KNOWN / 20 - 1, "one of the oldest gave way");
    }

    #[test]
    fn a_flood_of_hearsay_is_bounded_and_leaves_no_trace_on_disk() {
        let now = Instant::now();
        let mut book = Book::new(PeerId::random(), vec![], TODAY, now);
        for _ in 0..10_000 {
            book.hear(PeerId::random(), (0..100).map(address).collect(), false, now);
        }
        assert_eq!(book.len(), MAX_KNOWN);
        assert!(book.peers.values().all(|entry| entry.addresses.len() <= MAX_ADDRESSES));
        assert_eq!(book.changes(), None);
        let mut at = now;
        for _ in 0..=HEARSAY_TRIES {
            due(&mut book, at);
            at += Duration::from_secs(301);
        }
        assert_eq!(book.len(), 0, "led nowhere");
    }

    #[test]
    fn whom_we_have_met_is_dialed_first_and_again_with_growing_delays() {
        let now = Instant::now();
        let met = known(1);
        let mut book = Book::new(PeerId::random(), vec![met.clone()], TODAY, now);
        let heard = PeerId::random();
        book.hear(heard, vec![address(2)], false, now);
        let one = book.due(now, 1, |_| false, || 0.5);
        assert_eq!(one, [(met.identity, met.addresses)]);
        assert_eq!(due(&mut book, now), [heard]);
        assert_eq!(due(&mut book, now), []);
        let mut at = now;
        let mut dials = 0;
        while at < now + Duration::from_secs(3_600) {
            at += Duration::from_secs(1);
            dials += due(&mut book, at).iter().filter(|peer| **peer == met.identity).count();
        }
        assert!((10..30).contains(&dials), "{dials} dials in an hour");
        // Once it was there and has left, it is dialed at once.
        book.meet(met.identity, vec![address(1)], false, TODAY, at);
        book.leave(&met.identity, TODAY, at);
        assert_eq!(due(&mut book, at), [met.identity]);
        let busy = book.due(at + Duration::from_secs(60), 9, |_| true, || 0.5);
        assert_eq!(busy, [], "not whom we are connected to");
    }

    #[test]
    fn loopback_is_for_those_who_meet_there() {
        let now = Instant::now();
        let mut book = Book::new(PeerId::random(), vec![], TODAY, now);
        let here: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().expect("an address");
        book.hear(PeerId::random(), vec![here.clone()], false, now);
        assert_eq!(book.len(), 0);
        book.hear(PeerId::random(), vec![here], true, now);
        assert_eq!(book.len(), 1);
        for useless in [
            "/ip4/0.0.0.0/tcp/1",
            "/dns4/example.org/tcp/1",
            "/ip4/224.0.0.1/tcp/1",
            "/ip4/192.0.2.1/tcp/0",
        ] {
            book.hear(PeerId::random(), vec![useless.parse().expect("an address")], true, now);
        }
        assert_eq!(book.len(), 1);
    }
}
