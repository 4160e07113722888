//! Whom to ask. A peer's height is a claim: a reason to ask it, and nothing else.

use crate::primitives::{Height, PeerId, Time};
use std::collections::BTreeMap;

/// Questions that one peer is asked at once.
const AT_ONCE: usize = 4;
/// After an answer that did not help, a peer rests this long; twice as long each time again.
const REST_MS: u64 = 250;
/// And at most this long.
const MAX_REST_MS: u64 = 16_000;

#[derive(Debug, Default)]
struct Peer {
    claim: Height,
    asked: usize,
    failures: u32,
    rests_until: Time,
    /// It lied: not asked again.
    shunned: bool,
}

/// The peers of a sync.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<PeerId, Peer>,
    /// Turns through the peers.
    turn: usize,
}

impl Peers {
    /// A peer says where it stands.
    pub(super) fn claims(&mut self, peer: PeerId, height: Height) {
        self.peers.entry(peer).or_default().claim = height;
    }

    pub(super) fn gone(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
    }

    /// It has nothing from this height on, whatever it says.
    pub(super) fn has_only_below(&mut self, peer: PeerId, height: Height) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.claim = peer.claim.min(height.previous());
        }
    }

    pub(super) fn asked(&mut self, peer: PeerId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.asked += 1;
        }
    }

    /// It has answered, or will not any more.
    pub(super) fn answered(&mut self, peer: PeerId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.asked = peer.asked.saturating_sub(1);
        }
    }

    /// The answer helped.
    pub(super) fn helped(&mut self, peer: PeerId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.failures = 0;
        }
    }

    /// The answer did not help: somebody else first.
    pub(super) fn failed(&mut self, peer: PeerId, now: Time) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            let rest = REST_MS << peer.failures.min(16);
            peer.failures += 1;
            peer.rests_until = now.plus_ms(rest.min(MAX_REST_MS));
        }
    }

    /// It lied.
    pub(super) fn shun(&mut self, peer: PeerId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.shunned = true;
        }
    }

    /// Somebody who may be asked now, has `height`, and is not `unwanted`; the least busy first, in turns.
    pub(super) fn pick(&mut self, now: Time, height: Height, unwanted: impl Fn(PeerId) -> bool) -> Option<PeerId> {
        let free =
            |peer: &Peer| !peer.shunned && peer.asked < AT_ONCE && peer.rests_until <= now && peer.claim >= height;
        let able: Vec<(PeerId, usize)> = self
            .peers
            .iter()
            .filter(|(id, peer)| free(peer) && !unwanted(**id))
            .map(|(id, peer)| (*id, peer.asked))
            .collect();
        let least = able.iter().map(|(_, asked)| *asked).min()?;
        let least: Vec<PeerId> = able
            .into_iter()
            .filter(|(_, asked)| *asked == least)
            .map(|(id, _)| id)
            .collect();
        self.turn = self.turn.wrapping_add(1);
        Some(least[self.turn % least.len()])
    }

    /// Those who have never lied and say that they have this height.
    pub(super) fn honest_at(&self, height: Height) -> impl Iterator<Item = PeerId> {
        self.peers
            .iter()
            .filter(move |(_, peer)| !peer.shunned && peer.claim >= height)
            .map(|(id, _)| *id)
    }

    /// What a peer says; 0 for one that is not there.
    pub(super) fn claim(&self, peer: PeerId) -> Height {
        self.peers.get(&peer).map(|peer| peer.claim).unwrap_or_default()
    }

    /// The highest claim of those who have never lied.
    pub(super) fn highest(&self) -> Height {
        let honest = self.peers.values().filter(|peer| !peer.shunned);
        honest.map(|peer| peer.claim).max().unwrap_or_default()
    }

    /// When the first of those who rest may be asked again.
    pub(super) fn next_rested(&self, now: Time) -> Option<Time> {
        let resting = self
            .peers
            .values()
            .filter(|peer| !peer.shunned && peer.rests_until > now);
        resting.map(|peer| peer.rests_until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_busy_are_asked_in_turns() {
        let mut peers = Peers::default();
        for id in 0..3 {
            peers.claims(PeerId(id), Height(10));
        }
        let mut seen: Vec<PeerId> = Vec::new();
        while let Some(peer) = peers.pick(Time(0), Height(10), |_| false) {
            peers.asked(peer);
            seen.push(peer);
        }
        assert_eq!(seen.len(), 3 * AT_ONCE);
        for round in seen.chunks(3) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, [PeerId(0), PeerId(1), PeerId(2)]);
        }
    }

    #[test]
    fn who_cannot_help_is_passed_over() {
        let mut peers = Peers::default();
        for id in 0..4 {
            peers.claims(PeerId(id), Height(10));
        }
        peers.claims(PeerId(3), Height(9));
        peers.shun(PeerId(0));
        peers.failed(PeerId(1), Time(1_000));
        let pick = |peers: &mut Peers, at| peers.pick(Time(at), Height(10), |_| false);
        assert_eq!(pick(&mut peers, 1_000), Some(PeerId(2)));
        assert_eq!(peers.pick(Time(1_000), Height(10), |id| id == PeerId(2)), None);
        assert_eq!(peers.next_rested(Time(1_000)), Some(Time(1_250)));
        peers.has_only_below(PeerId(2), Height(10));
        assert_eq!(pick(&mut peers, 1_249), None);
        assert_eq!(pick(&mut peers, 1_250), Some(PeerId(1)));
        peers.failed(PeerId(1), Time(2_000));
        assert_eq!(peers.next_rested(Time(2_000)), Some(Time(2_500)), "twice as long");
    }
}
