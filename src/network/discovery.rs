//! Finding peers: Kademlia under a name of the chain's own, for routing only. No records are taken or given.
//!
//! Every node answers who is close to a key, and walks to random keys itself while it has fewer peers than it wants.
//! What it hears of goes into the [book](super::book), and is dialed from there.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use libp2p::kad::{self, BucketInserts, Mode, StoreInserts, store::MemoryStore};
use libp2p::{PeerId, StreamProtocol};

pub(super) type Behaviour = kad::Behaviour<MemoryStore>;

/// Addresses that one peer may have in the routing table.
pub(super) const MAX_LISTENED: usize = 8;
/// How much rarer walks are once there are enough peers.
const CALM: u32 = 12;

pub(super) fn behaviour(own: PeerId, protocol: StreamProtocol, query_timeout: Duration) -> Behaviour {
    let mut config = kad::Config::new(protocol);
    config
        .set_query_timeout(query_timeout)
        .set_parallelism(NonZeroUsize::new(3).expect("not zero"))
        .disjoint_query_paths(true)
        // Walks are started here, and only while peers are wanted.
        .set_periodic_bootstrap_interval(None)
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_caching(kad::Caching::Disabled)
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None);
    let mut behaviour = kad::Behaviour::with_config(own, MemoryStore::new(own), config);
    // Answering costs little, and nobody else would.
    behaviour.set_mode(Some(Mode::Server));
    behaviour
}

/// When to walk.
#[derive(Debug)]
pub(super) struct Walks {
    interval: Duration,
    next: Instant,
    under_way: bool,
}

impl Walks {
    pub(super) const fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            next: now,
            under_way: false,
        }
    }

    /// Whether to set out now. `fraction` is random in 0..1, so that nodes do not walk in step.
    pub(super) fn start(&mut self, now: Instant, enough: bool, fraction: f64) -> bool {
        if self.under_way || now < self.next {
            return false;
        }
        let interval = if enough { self.interval * CALM } else { self.interval };
        self.next = now + interval.mul_f64(0.5 + 0.5 * fraction);
        self.under_way = true;
        true
    }

    pub(super) const fn end(&mut self) {
        self.under_way = false;
    }

    /// Peers have become too few: the next walk need not wait as long as when there were enough.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next = self.next.min(now + self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_are_one_at_a_time_and_rare_when_there_are_enough_peers() {
        let start = Instant::now();
        let mut walks = Walks::new(Duration::from_secs(5), start);
        assert!(walks.start(start, false, 1.0));
        let later = start + Duration::from_secs(60);
        assert!(!walks.start(later, false, 1.0), "one is under way");
        walks.end();
        assert!(walks.start(later, true, 1.0));
        walks.end();
        assert!(!walks.start(later + Duration::from_secs(59), true, 1.0));
        walks.hurry(later + Duration::from_secs(10));
        assert!(walks.start(later + Duration::from_secs(15), false, 0.0));
    }
}
