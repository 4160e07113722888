//! How often a peer may send what: token buckets, one for each peer and type of message, in both directions.
//!
//! The rates are those of the protocol's table ([`Kind::rate`]), and the same for everybody. So a node knows what others
//! take from it: it sends a fifth less than that, whether it writes or relays, and an honest node never runs into the
//! limit of another. What comes faster is not taken in, and counted; only a peer that goes on far beyond has to pay.
//!
//! A bucket is one number, the time at which it would be full again if nothing more came; taking a token moves that time
//! on. One atomic step, no lock, no timer.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::primitives::kinds::{Kind, Rate};

/// A peer whose refused messages alone would fill so many buckets is far beyond its limit.
const FAR_BEYOND: u64 = 10;

/// One bucket.
#[derive(Debug, Default)]
struct Bucket {
    /// In nanoseconds since the table of peers was made.
    full_at: AtomicU64,
}

impl Bucket {
    /// Takes a token, if there is one. `interval`: nanoseconds in which one comes back; `burst`: how many it holds.
    fn take(&self, now: u64, interval: u64, burst: u64) -> bool {
        let next = |full_at: u64| {
            let next = full_at.max(now).saturating_add(interval);
            (next <= now.saturating_add(interval.saturating_mul(burst))).then_some(next)
        };
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.is_ok()
    }
}

const fn interval(rate: Rate) -> u64 {
    1_000_000_000 / rate.per_second as u64
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Within the limit.
    Granted,
    /// Over it.
    Refused,
    /// Far beyond it, and for long: worth a fault.
    Abused,
}

/// What one peer sends.
#[derive(Debug)]
pub(super) struct Inbound {
    buckets: [Bucket; Kind::RATED],
    /// Filled by what is refused.
    beyond: [Bucket; Kind::RATED],
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Bucket::default()),
            beyond: std::array::from_fn(|_| Bucket::default()),
        }
    }
}

impl Inbound {
    /// One message has come. `now` in nanoseconds.
    pub(super) fn take(&self, kind: Kind, now: u64) -> Allowance {
        let Some(rate) = kind.rate() else {
            return Allowance::Granted;
        };
        let (interval, burst, at) = (interval(rate), u64::from(rate.burst), kind.index());
        if self.buckets[at].take(now, interval, burst) {
            Allowance::Granted
        } else if self.beyond[at].take(now, interval, FAR_BEYOND * burst) {
            Allowance::Refused
        } else {
            Allowance::Abused
        }
    }
}

/// What this node sends: to one peer by request, or to any by gossip.
#[derive(Debug)]
pub(super) struct Outbound {
    buckets: [Bucket; Kind::RATED],
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Bucket::default()),
        }
    }
}

impl Outbound {
    /// Whether one more may be sent: a fifth below what is taken by others, so that messages which are held up on the
    /// way and then arrive together do no harm.
    pub(super) fn take(&self, kind: Kind, now: u64) -> bool {
        let Some(rate) = kind.rate() else { return true };
        self.buckets[kind.index()].take(now, interval(rate) * 5 / 4, (u64::from(rate.burst) * 4 / 5).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn named(name: &str) -> Kind {
        Kind::all().find(|kind| kind.name() == name).expect("a row")
    }

    #[test]
    fn a_burst_then_the_rate_and_never_more() {
        let bucket = Bucket::default();
        let at = |now: u64| (0..1_000).filter(|_| bucket.take(now, SECOND / 10, 50)).count();
        assert_eq!(at(0), 50);
        assert_eq!(at(SECOND), 10);
        assert_eq!(at(SECOND + SECOND / 20), 0, "half a token is none");
        assert_eq!(at(100 * SECOND), 50, "no more than it holds, however long the silence");
    }

    #[test]
    fn a_flood_is_refused_and_going_on_costs() {
        let inbound = Inbound::default();
        let kind = named("gossip/status");
        let burst = kind.rate().expect("gossip").burst as usize;
        let all: Vec<_> = (0..20 * burst).map(|_| inbound.take(kind, 0)).collect();
        let count = |what| all.iter().filter(|allowance| **allowance == what).count();
        assert_eq!(count(Allowance::Granted), burst);
        assert_eq!(count(Allowance::Refused), 10 * burst);
        assert_eq!(count(Allowance::Abused), 9 * burst);
        assert_eq!(
            inbound.take(named("gossip/votes"), 0),
            Allowance::Granted,
            "each type by itself"
        );
        assert_eq!(inbound.take(kind, 10 * SECOND), Allowance::Granted);
    }

    #[test]
    fn answers_are_not_limited() {
        let (inbound, outbound) = (Inbound::default(), Outbound::default());
        let kind = named("answer/blocks");
        for _ in 0..100_000 {
            assert_eq!(inbound.take(kind, 0), Allowance::Granted);
            assert!(outbound.take(kind, 0));
        }
    }

    #[test]
    fn an_honest_validator_at_ten_thousand_payments_a_second_is_far_below() {
        // One batch of votes and one message of payments in each turn of four milliseconds; with 40 validators behind
        // one relay, all of their batches.
        for (name, per_second) in [
            ("gossip/votes", 40 * 250),
            ("gossip/transactions", 2_500),
            ("gossip/block_vote", 2 * 256),
            ("gossip/status", 2),
            ("request/blocks", 40),
        ] {
            let inbound = Inbound::default();
            let kind = named(name);
            for number in 0..10 * per_second {
                let now = number * SECOND / per_second;
                assert_eq!(inbound.take(kind, now), Allowance::Granted, "{name} number {number}");
            }
        }
    }

    proptest! {
        /// Whatever an honest node wants to send and however it is held up on the way (up to half a second), the other
        /// side takes all that left.
        #[test]
        fn what_leaves_is_always_taken(
            kind in 0..Kind::RATED,
            pauses in proptest::collection::vec((0_u64..3_000_000, any::<bool>()), 1..3_000),
            delays in proptest::collection::vec(0..SECOND / 2, 64),
        ) {
            let kind = Kind::all().nth(kind).expect("a row");
            let (outbound, inbound) = (Outbound::default(), Inbound::default());
            let (mut now, mut last) = (SECOND, 0);
            for (at, (pause, burst)) in pauses.into_iter().enumerate() {
                now += if burst { 0 } else { pause };
                if !outbound.take(kind, now) {
                    continue;
                }
                // Held up for a while, but never overtaking: one connection.
                last = last.max(now + delays[at / 64 % 64]);
                prop_assert_eq!(inbound.take(kind, last), Allowance::Granted);
            }
        }
    }
}
