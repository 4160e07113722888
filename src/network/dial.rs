//! Keeping the connections that this node wants: bootstrap peers, and the validators where it is one itself, are dialed
//! again, for ever, until they are connected.
//!
//! Pure: told what happens and what time it is, says what to dial and when to look again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};

/// How long a connection must have lasted for the next loss to be met with the shortest delay again. A peer that takes
/// us in and throws us out at once is not dialed four times a second.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// When to look again at a peer that is connected, or being dialed through another of its addresses.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Delays that double from `min` to `max`, each drawn from its upper half so that nodes do not dial in step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, failures: 0 }
    }

    /// The next delay; `fraction` is random in 0..1.
    pub(super) fn next(&mut self, fraction: f64) -> Duration {
        let full = self.min.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * fraction.clamp(0.0, 1.0))
    }

    const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Delays given out since the last success.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }
}

#[derive(Debug)]
enum State {
    Waiting {
        until: Instant,
    },
    Dialing {
        id: ConnectionId,
    },
    Connected {
        settled: Option<Instant>,
    },
    /// The address leads to this very node.
    Own,
}

/// A bootstrap address, or a validator.
#[derive(Debug)]
struct Target {
    /// Without the identity; only a validator may have several.
    addresses: Vec<Multiaddr>,
    /// As configured, or as learned by connecting.
    peer: Option<PeerId>,
    /// Whether the identity is certain.
    configured: bool,
    /// Kept by [`Dialer::keep`], and dropped by it.
    validator: bool,
    backoff: Backoff,
    state: State,
}

/// Why a dial came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It was this node that answered.
    OwnAddress,
    /// The peer is connected or being dialed already.
    Superfluous,
    /// Nobody, or not the right one, answered.
    Unreachable,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Dialer {
    own: PeerId,
    backoff: Backoff,
    targets: Vec<Target>,
}

/// Splits `/…/p2p/<identity>` into address and identity.
pub(super) fn split_identity(address: &Multiaddr) -> (Multiaddr, Option<PeerId>) {
    let mut bare = address.clone();
    match bare.pop() {
        Some(Protocol::P2p(peer)) => (bare, Some(peer)),
        _ => (address.clone(), None),
    }
}

impl Dialer {
    pub(super) fn new(bootstrap: &[Multiaddr], own: PeerId, backoff: Backoff, now: Instant) -> Self {
        let mut targets: Vec<Target> = Vec::new();
        for full in bootstrap {
            let (address, peer) = split_identity(full);
            if targets.iter().any(|target| target.addresses == [address.clone()]) {
                continue;
            }
            let state = if peer == Some(own) {
                State::Own
            } else {
                State::Waiting { until: now }
            };
            targets.push(Target {
                addresses: vec![address],
                peer,
                configured: peer.is_some(),
                validator: false,
                backoff,
                state,
            });
        }
        Self { own, backoff, targets }
    }

    /// Keeps connections to these validators, too, and to no others than these. Answers who is new, and who is no longer
    /// among them.
    pub(super) fn keep(
        &mut self,
        validators: Vec<(PeerId, Vec<Multiaddr>)>,
        now: Instant,
        is_connected: impl Fn(&PeerId) -> bool,
    ) -> (Vec<PeerId>, Vec<PeerId>) {
        let wanted: BTreeMap<PeerId, Vec<Multiaddr>> = validators.into_iter().collect();
        let mut dropped = Vec::new();
        self.targets.retain_mut(|target| {
            let Some(peer) = target.peer.filter(|_| target.validator) else {
                return true;
            };
            let addresses = wanted.get(&peer);
            if let Some(addresses) = addresses.filter(|addresses| **addresses != target.addresses) {
                target.addresses.clone_from(addresses);
                target.hurry(now);
            } else if addresses.is_none() {
                dropped.push(peer);
            }
            addresses.is_some()
        });
        let mut added = Vec::new();
        for (peer, addresses) in wanted {
            if peer == self.own || self.configured_peers().any(|known| known == peer) {
                continue;
            }
            let state = if is_connected(&peer) {
                State::Connected { settled: Some(now) }
            } else {
                State::Waiting { until: now }
            };
            added.push(peer);
            self.targets.push(Target {
                addresses,
                peer: Some(peer),
                configured: true,
                validator: true,
                backoff: self.backoff,
                state,
            });
        }
        (added, dropped)
    }

    /// Whether this dial is one of ours.
    pub(super) fn is_dialing(&self, id: ConnectionId) -> bool {
        let dialed = |target: &Target| matches!(target.state, State::Dialing { id: dialed } if dialed == id);
        self.targets.iter().any(dialed)
    }

    /// Whether a connection to this peer is one to be kept.
    pub(super) fn wants(&self, peer: &PeerId) -> bool {
        self.targets.iter().any(|target| target.peer.as_ref() == Some(peer))
    }

    /// Identities that must not be refused for lack of room.
    pub(super) fn configured_peers(&self) -> impl Iterator<Item = PeerId> {
        self.targets
            .iter()
            .filter(|target| target.configured)
            .filter_map(|target| target.peer)
    }

    /// Addresses that are neither connected nor this node's own.
    pub(super) fn missing(&self) -> usize {
        let missing = |target: &&Target| matches!(target.state, State::Waiting { .. } | State::Dialing { .. });
        self.targets.iter().filter(missing).count()
    }

    /// When to call [`Dialer::due`] next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let until = |target: &Target| match target.state {
            State::Waiting { until } => Some(until),
            _ => None,
        };
        self.targets.iter().filter_map(until).min()
    }

    /// What to dial now.
    pub(super) fn due(&mut self, now: Instant, is_connected: impl Fn(&PeerId) -> bool) -> Vec<DialOpts> {
        let mut dials = Vec::new();
        for target in &mut self.targets {
            if !matches!(target.state, State::Waiting { until } if until <= now) {
                continue;
            }
            if target.peer.as_ref().is_some_and(&is_connected) {
                // It came to us.
                target.state = State::Connected { settled: Some(now) };
                continue;
            }
            let options = target.dial();
            target.state = State::Dialing {
                id: options.connection_id(),
            };
            dials.push(options);
        }
        dials
    }

    /// A connection is there, whoever opened it.
    pub(super) fn on_established(&mut self, id: ConnectionId, peer: PeerId) {
        for target in &mut self.targets {
            let dialed = matches!(target.state, State::Dialing { id: dialed } if dialed == id);
            if dialed && !target.configured {
                target.peer = Some(peer);
            }
            let waiting = matches!(target.state, State::Waiting { .. } | State::Dialing { .. });
            if dialed || (waiting && target.peer == Some(peer)) {
                target.state = State::Connected { settled: None };
            }
        }
    }

    /// The peer turned out to be one of ours.
    pub(super) fn on_admitted(&mut self, peer: PeerId, now: Instant) {
        for target in self.of(peer) {
            if let State::Connected {
                settled: settled @ None,
            } = &mut target.state
            {
                *settled = Some(now);
            }
        }
    }

    /// The last connection to a peer is gone.
    pub(super) fn on_closed(&mut self, peer: PeerId, now: Instant, fraction: f64) {
        for target in self.of(peer) {
            let State::Connected { settled } = target.state else {
                continue;
            };
            if settled.is_some_and(|since| now.saturating_duration_since(since) >= SETTLED_AFTER) {
                target.backoff.reset();
            }
            target.state = State::Waiting {
                until: now + target.backoff.next(fraction),
            };
        }
    }

    /// A dial failed. Tells when the address is tried again.
    pub(super) fn on_failed(
        &mut self,
        id: ConnectionId,
        why: Failure,
        now: Instant,
        fraction: f64,
    ) -> Option<Duration> {
        let dialed = |target: &&mut Target| matches!(target.state, State::Dialing { id: dialed } if dialed == id);
        let target = self.targets.iter_mut().find(dialed)?;
        let delay = match why {
            Failure::OwnAddress => {
                target.state = State::Own;
                return None;
            }
            Failure::Superfluous => LOOK_AGAIN,
            Failure::Unreachable => target.backoff.next(fraction),
        };
        target.state = State::Waiting { until: now + delay };
        Some(delay)
    }

    fn of(&mut self, peer: PeerId) -> impl Iterator<Item = &mut Target> {
        self.targets.iter_mut().filter(move |target| target.peer == Some(peer))
    }
}

impl Target {
    /// There is a new way to it: no reason to wait out the delay of the old one.
    fn hurry(&mut self, now: Instant) {
        if let State::Waiting { until } = &mut self.state {
            self.backoff.reset();
            *until = (*until).min(now);
        }
    }

    fn dial(&self) -> DialOpts {
        // A port of its own for every dial: sharing the listening port makes two nodes that restart together meet
        // their own connections of before, which the kernel still remembers.
        match self.peer {
            Some(peer) if self.configured => DialOpts::peer_id(peer)
                .addresses(self.addresses.clone())
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .allocate_new_port()
                .build(),
            _ => DialOpts::unknown_peer_id()
                .address(self.addresses.first().cloned().unwrap_or_else(Multiaddr::empty))
                .allocate_new_port()
                .build(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("an address")
    }

    fn with_identity(port: u16, peer: PeerId) -> Multiaddr {
        address(port).with(Protocol::P2p(peer))
    }

    #[test]
    fn delays_double_with_jitter_up_to_the_cap() {
        let (mut short, mut long) = (BACKOFF, BACKOFF);
        let longest: Vec<_> = (0..8).map(|_| long.next(1.0).as_millis()).collect();
        assert_eq!(longest, [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
        let shortest: Vec<_> = (0..8).map(|_| short.next(0.0).as_millis()).collect();
        assert_eq!(shortest, [125, 250, 500, 1_000, 2_000, 4_000, 7_500, 7_500]);
        for _ in 0..100 {
            assert_eq!(long.next(1.0).as_secs(), 15, "never overflows");
        }
    }

    #[test]
    fn an_unreachable_peer_is_dialed_for_ever_with_growing_delays() {
        let mut now = Instant::now();
        let mut dialer = Dialer::new(&[address(1)], PeerId::random(), BACKOFF, now);
        let mut delays = Vec::new();
        for _ in 0..20 {
            let dials = dialer.due(now, |_| false);
            assert_eq!(dials.len(), 1);
            assert!(dialer.due(now, |_| false).is_empty(), "one dial at a time");
            assert_eq!(dialer.missing(), 1);
            let delay = dialer
                .on_failed(dials[0].connection_id(), Failure::Unreachable, now, 1.0)
                .expect("again");
            delays.push(delay.as_millis());
            assert_eq!(dialer.deadline(), Some(now + delay));
            now += delay;
        }
        assert_eq!(delays[..3], [250, 500, 1_000]);
        assert_eq!(delays[19], 15_000);
    }

    #[test]
    fn a_lost_peer_is_dialed_again_quickly_but_one_that_throws_us_out_is_not() {
        let mut now = Instant::now();
        let peer = PeerId::random();
        let mut dialer = Dialer::new(&[with_identity(1, peer)], PeerId::random(), BACKOFF, now);
        let connect = |dialer: &mut Dialer, now| {
            let dials = dialer.due(now, |_| false);
            dialer.on_established(dials[0].connection_id(), peer);
            dialer.on_admitted(peer, now);
            assert_eq!((dialer.missing(), dialer.deadline()), (0, None));
        };
        let lose = |dialer: &mut Dialer, now| {
            dialer.on_closed(peer, now, 1.0);
            dialer.deadline().expect("dialed again") - now
        };
        let mut delays = Vec::new();
        for lasted in [0, 0, 0, 10, 0] {
            connect(&mut dialer, now);
            now += Duration::from_secs(lasted);
            let delay = lose(&mut dialer, now);
            now += delay;
            delays.push(delay.as_millis());
        }
        assert_eq!(delays, [250, 500, 1_000, 250, 500]);
    }

    #[test]
    fn a_peer_that_comes_to_us_is_not_dialed() {
        let now = Instant::now();
        let peer = PeerId::random();
        let mut dialer = Dialer::new(
            &[with_identity(1, peer), with_identity(2, peer)],
            PeerId::random(),
            BACKOFF,
            now,
        );
        assert!(dialer.due(now, |other| *other == peer).is_empty());
        assert_eq!(dialer.missing(), 0);
        dialer.on_closed(peer, now, 1.0);
        assert_eq!(dialer.missing(), 2);
        let dials = dialer.due(now + Duration::from_secs(1), |_| false);
        assert_eq!(dials.len(), 2);
        dialer.on_established(dials[0].connection_id(), peer);
        assert_eq!(dialer.missing(), 0, "one connection satisfies both addresses");
        let late = dialer.on_failed(dials[1].connection_id(), Failure::Superfluous, now, 1.0);
        assert_eq!(late, None, "nothing to do about the other");
    }

    #[test]
    fn an_identity_is_learned_and_one_that_changes_is_learned_again() {
        let now = Instant::now();
        let (first, second) = (PeerId::random(), PeerId::random());
        let mut dialer = Dialer::new(&[address(1)], PeerId::random(), BACKOFF, now);
        let dial = dialer.due(now, |_| false).remove(0);
        dialer.on_established(dial.connection_id(), first);
        dialer.on_closed(first, now, 1.0);
        let dial = dialer.due(now + Duration::from_secs(1), |_| false).remove(0);
        assert_eq!(dial.get_peer_id(), None, "the address is what was configured");
        dialer.on_established(dial.connection_id(), second);
        dialer.on_closed(second, now, 1.0);
        assert_eq!(dialer.missing(), 1);
    }

    #[test]
    fn validators_are_kept_moved_and_dropped() {
        let now = Instant::now();
        let own = PeerId::random();
        let (bootstrap, one, two) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut dialer = Dialer::new(&[with_identity(1, bootstrap)], own, BACKOFF, now);
        let none = |_: &PeerId| false;
        let all = vec![
            (own, vec![address(9)]),
            (bootstrap, vec![address(1)]),
            (one, vec![address(2), address(3)]),
            (two, vec![address(4)]),
        ];
        let (mut added, dropped) = dialer.keep(all, now, |peer| *peer == two);
        added.sort();
        let mut expected = vec![one, two];
        expected.sort();
        assert_eq!(
            (added, dropped),
            (expected, vec![]),
            "neither this node nor a bootstrap peer again"
        );
        let dials = dialer.due(now, none);
        let peers: Vec<_> = dials.iter().filter_map(DialOpts::get_peer_id).collect();
        assert_eq!(peers, [bootstrap, one], "two is connected");
        let failed = dialer.on_failed(dials[1].connection_id(), Failure::Unreachable, now, 1.0);
        assert_eq!(failed, Some(Duration::from_millis(250)));
        // One has moved: it is dialed there at once. Two is a validator no more.
        let moved = vec![(one, vec![address(5)])];
        assert_eq!(dialer.keep(moved, now, none), (vec![], vec![two]));
        let dials = dialer.due(now, none);
        assert_eq!(dials.len(), 1);
        assert!(dialer.wants(&one) && dialer.wants(&bootstrap) && !dialer.wants(&two));
        assert_eq!(dialer.keep(vec![], now, none), (vec![], vec![one]));
        assert!(dialer.wants(&bootstrap));
    }

    #[test]
    fn this_node_is_never_dialed_twice() {
        let now = Instant::now();
        let own = PeerId::random();
        let mut dialer = Dialer::new(&[with_identity(1, own), address(2), address(2)], own, BACKOFF, now);
        let dials = dialer.due(now, |_| false);
        assert_eq!(dials.len(), 1, "neither by identity nor the same address twice");
        assert_eq!(
            dialer.on_failed(dials[0].connection_id(), Failure::OwnAddress, now, 1.0),
            None
        );
        assert_eq!((dialer.missing(), dialer.deadline()), (0, None));
    }
}
