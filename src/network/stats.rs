//! What the network counts. Every counter exists, at zero, from the start; only the network writes them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Topic, envelope::EnvelopeError};
use crate::primitives::{DecodeError, kinds::Kind};

/// A number that anyone may read at any time.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(super) fn up(&self) {
        self.add(1);
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// One counter for each topic.
#[derive(Debug, Default)]
pub struct PerTopic([Counter; 3]);

impl PerTopic {
    /// The counter of a topic.
    pub fn of(&self, topic: Topic) -> &Counter {
        &self.0[topic as usize]
    }
}

/// One counter for each type of message.
#[derive(Debug)]
pub struct PerKind([Counter; Kind::COUNT]);

impl Default for PerKind {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl PerKind {
    /// The counter of a type.
    pub fn of(&self, kind: Kind) -> &Counter {
        &self.0[kind.index()]
    }

    /// All types together.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }
}

macro_rules! stats {
    ($($(#[doc = $help:literal])+ $name:ident: $kind:ty,)+) => {
        /// Counters and gauges of the network; a gauge says so.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[doc = $help])+ pub $name: $kind,)+
        }

        impl Stats {
            /// Name and value of everything but the counters by topic or type, in order of declaration.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                [$((stringify!($name), Readable::read(&self.$name))),+]
                    .into_iter()
                    .filter_map(|(name, value)| value.map(|value| (name, value)))
                    .collect()
            }
        }
    };
}

trait Readable {
    fn read(&self) -> Option<u64>;
}

impl Readable for Counter {
    fn read(&self) -> Option<u64> {
        Some(self.get())
    }
}

impl Readable for PerTopic {
    fn read(&self) -> Option<u64> {
        None
    }
}

impl Readable for PerKind {
    fn read(&self) -> Option<u64> {
        None
    }
}

stats! {
    /// Bytes of envelopes received by gossip (once per message), requests and answers.
    bytes_in: Counter,
    /// Bytes of envelopes given out: a published one counts once, whatever the number of peers.
    bytes_out: Counter,
    /// Gossip messages received, by topic (each once).
    gossip_in: PerTopic,
    /// Gossip messages published, by topic.
    gossip_out: PerTopic,
    /// Publications tried again, because no peer was subscribed or every queue was full.
    publish_retries: Counter,
    /// Publications given up: older than their time limit, or pushed out of a full retry queue.
    publish_abandoned: Counter,
    /// Publications dropped because the command queue was full (the oldest goes).
    publish_overflow: Counter,
    /// Publications that gossip already knew.
    publish_duplicates: Counter,
    /// Payloads of ours refused for their size.
    oversized_out: Counter,
    /// Messages that one peer's queue had no room for (some of them are published again).
    slow_peer_losses: Counter,
    /// Verdicts dropped because the command queue was full, or too late to matter.
    verdicts_lost: Counter,
    /// Gossip messages not relayed because everybody beside this node hears their author first hand.
    relays_spared: Counter,
    /// Gossip messages that nobody judged in time.
    unjudged: Counter,
    /// Gossip messages dropped because the event queue was full, by count or by bytes.
    gossip_dropped: Counter,
    /// Envelopes refused: over a size limit.
    envelopes_too_large: Counter,
    /// Envelopes refused: malformed, not canonical, or with fields that make no sense.
    envelopes_malformed: Counter,
    /// Messages refused: larger than their type allows, of no type, or out of place.
    contents_refused: Counter,
    /// Messages of others that came faster than their type allows: gossip is ignored, requests are refused.
    limited_in: PerKind,
    /// Own messages held back or given up because others would not take them so fast.
    limited_out: PerKind,
    /// Envelopes refused: a compressed payload that is damaged or not of the declared size.
    envelopes_damaged: Counter,
    /// Envelopes refused: a compression that this node does not know.
    envelopes_unknown: Counter,
    /// Connections opened by others, since the start.
    connections_in: Counter,
    /// Connections opened by this node, since the start.
    connections_out: Counter,
    /// Gauge: bootstrap peers, and validators to be kept, that are not connected now.
    reconnecting: Counter,
    /// Peers dialed because there were too few: known from before, or heard of.
    dials_known: Counter,
    /// Connections closed because there were more than wanted.
    trimmed: Counter,
    /// Gauge: peers that this node knows how to reach.
    known_peers: Counter,
    /// Dials that failed.
    dial_failures: Counter,
    /// Handshakes of others that failed.
    handshake_failures: Counter,
    /// Connections refused: a limit.
    refused_limit: Counter,
    /// Connections refused: too many from one address.
    refused_address: Counter,
    /// Connections refused: the peer is banned.
    refused_banned: Counter,
    /// Connections closed: the peer is of another chain.
    refused_chain: Counter,
    /// Connections closed: the peer did not say who it is in time, or stopped answering pings.
    reaped: Counter,
    /// Bans imposed.
    bans: Counter,
    /// Requests received.
    requests_in: Counter,
    /// Requests of others refused because too many were in flight.
    requests_refused: Counter,
    /// Requests of others that were never answered.
    requests_unanswered: Counter,
    /// Requests sent.
    requests_out: Counter,
    /// Bytes of the answers to own requests, by type, decompressed.
    answer_bytes: PerKind,
    /// Own requests that timed out.
    request_timeouts: Counter,
    /// Own requests that failed otherwise.
    request_failures: Counter,
    /// Gauge: gossip messages waiting for a verdict.
    waiting_verdicts: Counter,
    /// Gauge: publications waiting for another try.
    waiting_retries: Counter,
    /// Gauge: topics on which peers are connected but none is in the mesh; should be zero.
    meshless_topics: Counter,
}

impl Stats {
    pub(super) fn count_envelope(&self, error: &EnvelopeError) {
        use EnvelopeError as E;
        match error {
            E::EnvelopeTooLarge { .. } | E::PayloadTooLarge { .. } | E::Content(DecodeError::TooLarge { .. }) => {
                &self.envelopes_too_large
            }
            E::Content(_) | E::WrongTopic { .. } | E::WrongAnswer { .. } => &self.contents_refused,
            E::Malformed(_)
            | E::NonCanonical { .. }
            | E::AttemptTooHigh { .. }
            | E::OriginTooLong { .. }
            | E::BadRefusal { .. } => &self.envelopes_malformed,
            E::Implausible { .. } | E::SizeMismatch { .. } | E::Damaged(_) => &self.envelopes_damaged,
            E::UnknownCompression(_) => &self.envelopes_unknown,
        }
        .up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_exists_at_zero_from_the_start() {
        let stats = Stats::default();
        let list = stats.list();
        assert!(list.len() > 30, "{} counters", list.len());
        assert!(list.iter().all(|(_, value)| *value == 0));
        stats.bans.up();
        stats.gossip_in.of(Topic::Votes).add(2);
        assert!(stats.list().contains(&("bans", 1)));
        assert_eq!(stats.gossip_in.of(Topic::Consensus).get(), 0);
        assert_eq!(stats.gossip_in.of(Topic::Votes).get(), 2);
    }
}
