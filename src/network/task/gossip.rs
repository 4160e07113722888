//! Gossip in and out.

use std::time::Instant;

use libp2p::gossipsub::{self, MessageAcceptance};
use prost::bytes::Bytes;
use tokio::task::JoinError;
use tracing::{debug, warn};

use super::{GossipFrom, HEAVY_MAX, HOLD, Opened, Task, Wrapped};
use crate::network::envelope::{Envelope, EnvelopeError, INLINE_LIMIT};
use crate::network::gossip::{self, Outcome, Publication};
use crate::network::{Event, GossipId, PeerId, Topic, Verdict};
use crate::primitives::Neighbours;
use crate::primitives::kinds::{self, Channel, Kind};

impl Task {
    pub(super) fn judge(&mut self, id: GossipId, verdict: Verdict) {
        let Some(unjudged) = self.judge.take(id) else {
            self.stats.verdicts_lost.up();
            return;
        };
        let acceptance = match verdict {
            Verdict::Accept if unjudged.first_hand && !self.relay.is_needed(unjudged.source) => {
                self.stats.relays_spared.up();
                MessageAcceptance::Ignore
            }
            Verdict::Accept if !self.may_gossip(unjudged.kind) => MessageAcceptance::Ignore,
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        self.report(&unjudged.message, &unjudged.source, acceptance);
    }

    pub(super) fn may_gossip(&self, kind: Kind) -> bool {
        let may = self.outbound.take(kind, self.table.nanoseconds(Instant::now()));
        if !may {
            self.stats.limited_out.of(kind).up();
        }
        may
    }

    pub(super) fn report(
        &mut self,
        message: &gossipsub::MessageId,
        source: &libp2p::PeerId,
        acceptance: MessageAcceptance,
    ) {
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        if !gossip.report_message_validation_result(message, source, acceptance) {
            debug!(%message, "the verdict came too late for gossip");
        }
    }

    pub(super) fn publish_waiting(&mut self, now: Instant) {
        while self.wrapping.len() < HEAVY_MAX && self.held_until.is_none() {
            let Some((topic, payload)) = self.publications.pop_front() else {
                return;
            };
            let kind = match gossip_kind(topic, &payload) {
                Ok(kind) => kind,
                Err(error) => {
                    self.stats.oversized_out.up();
                    warn!(topic = topic.name(), %error, "a payload of our own cannot be published");
                    continue;
                }
            };
            if !self.may_gossip(kind) {
                self.publications.push_front((topic, payload));
                self.held_until = Some(now + HOLD);
                return;
            }
            if payload.len() > INLINE_LIMIT {
                self.wrapping.spawn_blocking(move || (topic, Envelope::wrap(payload)));
            } else {
                self.on_wrapped(topic, Envelope::wrap(payload), now);
            }
        }
    }

    /// What held publications up is over: goes on with those taken already, then with those still in the command queue.
    pub(super) fn resume_publishing(&mut self, now: Instant) {
        self.publish_waiting(now);
        if self.publications.is_empty() {
            self.on_commands();
        }
    }

    pub(super) fn on_wrapped(&mut self, topic: Topic, result: Result<Envelope, EnvelopeError>, now: Instant) {
        match result {
            Ok(envelope) => {
                let envelope = envelope.published_by(*self.swarm.local_peer_id());
                self.published = self.published.wrapping_add(1);
                self.publish(Publication::new(topic, envelope, self.published, now), now);
            }
            Err(error) => {
                self.stats.oversized_out.up();
                warn!(topic = topic.name(), %error, "a payload of our own cannot be published");
            }
        }
    }

    pub(super) fn publish(&mut self, mut publication: Publication, now: Instant) {
        let topic = publication.topic;
        let bytes = publication.bytes();
        let length = bytes.len() as u64;
        let result = self
            .swarm
            .behaviour_mut()
            .gossip
            .publish(self.topics.hash(topic), bytes);
        match gossip::outcome(result) {
            Outcome::Sent => {
                self.stats.gossip_out.of(topic).up();
                self.stats.bytes_out.add(length);
            }
            // The same words again, on purpose: whoever says them twice has a reason.
            Outcome::Known if publication.rename() => self.publish(publication, now),
            Outcome::Known => self.stats.publish_duplicates.up(),
            Outcome::Retry { renamed } => {
                if renamed {
                    self.held_until = Some(now + HOLD);
                }
                let given_up = self.retries.add(publication, renamed, now);
                if given_up > 0 {
                    self.stats.publish_abandoned.add(given_up);
                    debug!(topic = topic.name(), given_up, "publications given up");
                }
            }
            Outcome::Impossible(error) => {
                self.stats.publish_abandoned.up();
                warn!(topic = topic.name(), bytes = length, %error, "gossip refuses a payload of our own");
            }
        }
    }

    pub(super) fn retry(&mut self, publication: Publication, now: Instant) {
        self.stats.publish_retries.up();
        self.publish(publication, now);
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            } => {
                let Some(topic) = self.topics.find(&message.topic) else {
                    return;
                };
                self.stats.gossip_in.of(topic).up();
                self.stats.bytes_in.add(message.data.len() as u64);
                let from = GossipFrom {
                    message: message_id,
                    source: propagation_source,
                    first_hand: false,
                    topic,
                };
                self.open_gossip(from, message.data);
            }
            gossipsub::Event::Subscribed { peer_id, topic, .. } => {
                if let Some(topic) = self.topics.find(&topic) {
                    self.on_subscribed(peer_id, topic);
                }
            }
            gossipsub::Event::SlowPeer {
                peer_id,
                failed_messages,
            } => {
                let lost = failed_messages.priority + failed_messages.non_priority;
                self.stats.slow_peer_losses.add(lost as u64);
                debug!(identity = %peer_id, lost, "a peer is too slow for gossip");
            }
            _ => {}
        }
    }

    pub(super) fn open_gossip(&mut self, mut from: GossipFrom, data: Vec<u8>) {
        let max = kinds::max_bytes(Channel::Gossip(from.topic));
        let envelope = Envelope::parse(data.into())
            .and_then(Envelope::expect_payload)
            .and_then(|envelope| envelope.expect_at_most(from.topic.name(), max));
        let envelope = match envelope {
            Ok(envelope) => envelope,
            Err(error) => return self.on_opened(from, Err(error)),
        };
        from.first_hand = envelope.is_published_by(from.source);
        if !envelope.is_heavy() {
            let result = envelope.open();
            return self.on_opened(from, result);
        }
        if self.opening.len() >= HEAVY_MAX {
            self.stats.gossip_dropped.up();
            return self.report(&from.message, &from.source, MessageAcceptance::Ignore);
        }
        self.opening.spawn_blocking(move || (from, envelope.open()));
    }

    pub(super) fn on_opened(&mut self, from: GossipFrom, result: Result<Bytes, EnvelopeError>) {
        let Some(peer) = self.admit(from.source) else {
            // It left while its message was being opened. Nobody is there to be told from whom it is.
            self.stats.gossip_dropped.up();
            return self.report(&from.message, &from.source, MessageAcceptance::Ignore);
        };
        let checked = result.and_then(|payload| Ok((gossip_kind(from.topic, &payload)?, payload)));
        match checked {
            Ok((kind, payload)) => self.offer_gossip(peer, from, kind, payload),
            Err(error) => {
                self.report(&from.message, &from.source, MessageAcceptance::Reject);
                self.on_broken(peer, &error, from.topic.name());
            }
        }
    }

    pub(super) fn offer_gossip(&mut self, peer: PeerId, from: GossipFrom, kind: Kind, payload: Bytes) {
        let GossipFrom {
            message,
            source,
            first_hand,
            topic,
        } = from;
        if !self.is_within_limits(peer, kind) {
            return self.report(&message, &source, MessageAcceptance::Ignore);
        }
        let now = Instant::now();
        if first_hand {
            self.relay.on_first_hand(source, now);
        }
        if kind == Kind::NEIGHBOURS {
            self.report(&message, &source, MessageAcceptance::Ignore);
            return self.on_neighbours(peer, source, &payload);
        }
        let (id, pushed_out) = self.judge.add(message, source, kind, first_hand, now);
        if let Some(oldest) = pushed_out {
            self.stats.unjudged.up();
            self.report(&oldest.message, &oldest.source, MessageAcceptance::Ignore);
        }
        if !self.outbox.offer(Event::Gossip {
            from: peer,
            id,
            topic,
            payload,
        }) {
            self.stats.gossip_dropped.up();
            self.judge(id, Verdict::Ignore);
        }
    }

    /// A peer says whom it hears first hand.
    fn on_neighbours(&mut self, peer: PeerId, source: libp2p::PeerId, payload: &[u8]) {
        match Neighbours::from_gossip(payload) {
            Ok(neighbours) => self.relay.on_neighbours(&source, &neighbours),
            Err(error) => self.on_broken(peer, &error.into(), Topic::Consensus.name()),
        }
    }

    /// Tells everybody whom this node hears, when it is time.
    pub(super) fn tell_neighbours(&mut self, now: Instant) {
        if let Some(neighbours) = self.relay.due(now) {
            self.publications.push_back((Topic::Consensus, neighbours.to_gossip()));
            self.publish_waiting(now);
        }
    }

    pub(super) fn on_large_opened(&mut self, done: Result<Opened, JoinError>) {
        match done {
            Ok((from, result)) => self.on_opened(from, result),
            Err(error) => warn!(%error, "a large message was lost while it was opened"),
        }
    }

    pub(super) fn on_large_wrapped(&mut self, done: Result<Wrapped, JoinError>) {
        let now = Instant::now();
        match done {
            Ok((topic, result)) => self.on_wrapped(topic, result, now),
            Err(error) => warn!(%error, "a large message of our own was lost while it was wrapped"),
        }
        self.resume_publishing(now);
    }
}

/// The type of a gossip message, which must belong to its topic.
fn gossip_kind(topic: Topic, payload: &[u8]) -> Result<Kind, EnvelopeError> {
    let kind = Kind::of(Channel::Gossip(topic), payload, payload.len())?;
    if kind.channel() == Channel::Gossip(topic) {
        return Ok(kind);
    }
    Err(EnvelopeError::WrongTopic {
        kind: kind.name(),
        topic: topic.name(),
    })
}
