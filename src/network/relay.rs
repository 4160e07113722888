//! Which gossip need not be relayed: what came straight from its author, when everybody beside this node hears the
//! author just as well.
//!
//! Validators are connected to one another and publish to everybody they are connected to. Were everything relayed as
//! well, each message would arrive at each of them once for every other, and nearly all of the work of gossip would be
//! to throw copies away. So a node tells those beside it whom it hears first hand ([`Neighbours`]), and relays nothing of
//! an author that all of them have named. Nobody else's word is taken for it: whoever has said nothing, or has lost the
//! author, is relayed to, and who claims too much harms only itself. It is a saving and no rule: a message that is lost
//! because of it is noticed and asked for like any other.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::primitives::{Neighbours, limits::MAX_NEIGHBOURS};

/// How long news waits for more.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is said again, since gossip may lose it.
const REFRESH: Duration = Duration::from_secs(5);

/// Who hears whom.
#[derive(Debug)]
pub(super) struct Relay {
    /// Peers that gossip of their own came from.
    heard: BTreeSet<PeerId>,
    /// By peer that listens to gossip: whom it hears, as it says.
    listeners: HashMap<PeerId, HashSet<PeerId>>,
    /// Answers given since anything changed.
    known: HashMap<PeerId, bool>,
    tell_at: Instant,
}

impl Relay {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: BTreeSet::new(),
            listeners: HashMap::new(),
            known: HashMap::new(),
            tell_at: now + REFRESH,
        }
    }

    /// A peer listens to gossip. It has not heard what was told before.
    pub(super) fn on_listener(&mut self, peer: PeerId, now: Instant) {
        self.listeners.entry(peer).or_default();
        self.known.clear();
        self.hurry(now);
    }

    /// A peer is gone.
    pub(super) fn on_gone(&mut self, peer: &PeerId, now: Instant) {
        self.listeners.remove(peer);
        self.known.clear();
        if self.heard.remove(peer) {
            self.hurry(now);
        }
    }

    /// Gossip came from the peer that wrote it.
    pub(super) fn on_first_hand(&mut self, author: PeerId, now: Instant) {
        if self.listeners.contains_key(&author) && self.heard.insert(author) {
            self.hurry(now);
        }
    }

    /// A peer says whom it hears.
    pub(super) fn on_neighbours(&mut self, peer: &PeerId, neighbours: &Neighbours) {
        if let Some(hears) = self.listeners.get_mut(peer) {
            let ids = neighbours.peers.iter();
            *hears = ids.filter_map(|bytes| PeerId::from_bytes(bytes).ok()).collect();
            self.known.clear();
        }
    }

    /// Whether somebody beside this node may not hear an author first hand.
    pub(super) fn is_needed(&mut self, author: PeerId) -> bool {
        let listeners = &self.listeners;
        *self.known.entry(author).or_insert_with(|| {
            let mut others = listeners.iter().filter(|(peer, _)| **peer != author);
            others.any(|(_, hears)| !hears.contains(&author))
        })
    }

    /// When [`Relay::due`] has something to say; never without anybody to say it to.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.listeners.is_empty()).then_some(self.tell_at)
    }

    /// What is to be told to everybody now, if anything.
    pub(super) fn due(&mut self, now: Instant) -> Option<Neighbours> {
        if self.deadline().is_none_or(|at| now < at) {
            return None;
        }
        self.tell_at = now + REFRESH;
        let heard = self.heard.iter().take(MAX_NEIGHBOURS);
        Some(Neighbours {
            peers: heard.map(|peer| peer.to_bytes()).collect(),
        })
    }

    fn hurry(&mut self, now: Instant) {
        self.tell_at = self.tell_at.min(now + PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers<const N: usize>() -> [PeerId; N] {
        std::array::from_fn(|_| PeerId::random())
    }

    fn hears(peers: &[PeerId]) -> Neighbours {
        Neighbours {
            peers: peers.iter().map(|peer| peer.to_bytes()).collect(),
        }
    }

    #[test]
    fn what_all_others_hear_themselves_is_not_relayed() {
        let now = Instant::now();
        let [author, second, third] = peers();
        let mut relay = Relay::new(now);
        assert!(!relay.is_needed(author), "nobody is there");
        for peer in [author, second, third] {
            relay.on_listener(peer, now);
        }
        assert!(relay.is_needed(author), "nobody has said anything");
        relay.on_neighbours(&second, &hears(&[author, third]));
        assert!(relay.is_needed(author), "the third has not");
        relay.on_neighbours(&third, &hears(&[author]));
        assert!(!relay.is_needed(author));
        assert!(relay.is_needed(second), "the third does not hear it");
        let [newcomer] = peers();
        relay.on_listener(newcomer, now);
        assert!(relay.is_needed(author));
        relay.on_gone(&newcomer, now);
        assert!(!relay.is_needed(author));
        relay.on_neighbours(&third, &hears(&[]));
        assert!(relay.is_needed(author), "the third has lost it");
    }

    #[test]
    fn who_comes_again_must_say_it_again() {
        let now = Instant::now();
        let [author, second] = peers();
        let mut relay = Relay::new(now);
        relay.on_listener(author, now);
        relay.on_listener(second, now);
        relay.on_neighbours(&second, &hears(&[author]));
        assert!(!relay.is_needed(author));
        relay.on_gone(&second, now);
        relay.on_listener(second, now);
        assert!(relay.is_needed(author));
        let [stranger] = peers();
        relay.on_neighbours(&stranger, &hears(&[author]));
        assert_eq!(
            relay.listeners.len(),
            2,
            "whoever does not listen leaves nothing behind"
        );
    }

    #[test]
    fn news_is_told_soon_and_everything_again_now_and_then() {
        let now = Instant::now();
        let [author, second] = peers();
        let mut relay = Relay::new(now);
        assert_eq!(relay.deadline(), None);
        relay.on_first_hand(author, now);
        assert_eq!(relay.deadline(), None, "it is not there");
        relay.on_listener(author, now);
        relay.on_first_hand(author, now);
        assert_eq!(relay.due(now), None);
        let soon = now + PAUSE;
        assert_eq!(relay.due(soon), Some(hears(&[author])));
        assert_eq!(relay.due(soon), None);
        relay.on_first_hand(author, soon);
        assert_eq!(relay.due(soon + PAUSE), None, "no news");
        assert_eq!(relay.due(soon + REFRESH), Some(hears(&[author])));
        relay.on_listener(second, soon + REFRESH);
        relay.on_gone(&author, soon + REFRESH);
        assert_eq!(relay.due(soon + REFRESH + PAUSE), Some(hears(&[])));
    }

    #[test]
    fn at_most_so_many_are_named() {
        let now = Instant::now();
        let mut relay = Relay::new(now);
        for _ in 0..=MAX_NEIGHBOURS {
            let [peer] = peers();
            relay.on_listener(peer, now);
            relay.on_first_hand(peer, now);
        }
        assert_eq!(
            relay.due(now + PAUSE).map(|told| told.peers.len()),
            Some(MAX_NEIGHBOURS)
        );
    }
}
