//! Gossip: topics, message names, verdicts, and publications that are tried until somebody takes them.
//!
//! **Settings.** Nothing is signed by gossip itself, since what travels is signed inside. A message is named by the
//! SHA-256 of topic and envelope, and relayed only after its verdict. What this node publishes goes to every subscribed peer
//! it is connected to (flood publishing), so a handful of validators hear one another in one hop whatever the mesh looks
//! like; the mesh decides who gets what is relayed. Up to [`MESH_LOW`] peers are taken into the mesh the moment they
//! subscribe, so small networks are fully meshed without waiting for a heartbeat. Bootstrap peers are *not* gossipsub's
//! "explicit" peers: that is an agreement of both sides, and where only one side knows of it (a newcomer's bootstrap
//! node does not know the newcomer) the other keeps it out of its mesh and relays nothing to it.
//!
//! **Delivery.** gossipsub forgets a message that no queue has room for, while remembering its name. So a refused
//! publication is kept, and tried again under another name (the envelope's `attempt`) with growing delays, at once when
//! a peer subscribes, for up to 30 s. While every queue is full, new publications are held back for a moment rather than
//! thrown at it, and the command queue decides what gives way. What is lost after all that is counted; whoever misses it
//! asks for it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use libp2p::gossipsub::{
    self, ConfigBuilder, DataTransform, IdentTopic, IdentityTransform, MaxCountSubscriptionFilter, MessageAuthenticity,
    MessageId, PublishError, RawMessage, TopicHash, ValidationMode, WhitelistSubscriptionFilter,
};
use sha2::{Digest, Sha256};

use super::envelope::{ENVELOPE_OVERHEAD, Envelope, MAX_ATTEMPT, MAX_MESSAGE_SIZE};
use super::{GossipId, NetworkError, Topic};
use crate::primitives::kinds::Kind;

/// Peers that are taken into the mesh at once.
const MESH_LOW: usize = 6;
const MESH_TARGET: usize = 8;
const MESH_HIGH: usize = 12;
const HEARTBEAT: Duration = Duration::from_millis(700);
/// Messages are kept for so many heartbeats; a verdict that takes longer relays nothing.
const HISTORY: usize = 5;
/// Messages waiting for one slow peer; what does not fit, or waits longer than a second, is asked for by that peer.
const QUEUE_LENGTH: usize = 1_024;
/// Bytes of gossipsub's own framing around a message.
const FRAMING: usize = 1_024;

const UNJUDGED_MAX: usize = 65_536;
const UNJUDGED_FOR: Duration = Duration::from_secs(10);

const RETRIES_MAX: usize = 1_024;
const RETRY_BYTES_MAX: usize = 64_000_000;
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(2);
const RETRY_FOR: Duration = Duration::from_secs(30);

type Filter = MaxCountSubscriptionFilter<WhitelistSubscriptionFilter>;
pub(super) type Behaviour = gossipsub::Behaviour<OurTopics, Filter>;

/// Drops what is on a topic that this node does not listen to before gossip remembers its name: otherwise a stranger fills
/// that memory for nothing, and nobody hears of it.
#[derive(Clone, Debug)]
pub(super) struct OurTopics(Topics);

impl DataTransform for OurTopics {
    fn inbound_transform(&self, message: RawMessage) -> Result<gossipsub::Message, io::Error> {
        if self.0.find(&message.topic).is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a topic of this chain"));
        }
        IdentityTransform.inbound_transform(message)
    }

    fn outbound_transform(&self, topic: &TopicHash, data: Vec<u8>) -> Result<Vec<u8>, io::Error> {
        IdentityTransform.outbound_transform(topic, data)
    }
}

/// The three topics of a chain.
#[derive(Clone, Debug)]
pub(super) struct Topics([IdentTopic; 3]);

impl Topics {
    pub(super) fn new(chain: &str) -> Self {
        Self(Topic::ALL.map(|topic| IdentTopic::new(format!("/timecoin/{chain}/{}/1", topic.name()))))
    }

    pub(super) fn hash(&self, topic: Topic) -> TopicHash {
        self.0[topic as usize].hash()
    }

    pub(super) fn find(&self, hash: &TopicHash) -> Option<Topic> {
        Topic::ALL.into_iter().find(|topic| self.hash(*topic) == *hash)
    }
}

/// The behaviour, subscribed to all topics.
pub(super) fn behaviour(topics: &Topics) -> Result<Behaviour, NetworkError> {
    let setup = |reason: String| NetworkError::Setup { part: "gossip", reason };
    let config = ConfigBuilder::default()
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(name)
        .max_transmit_size(MAX_MESSAGE_SIZE + ENVELOPE_OVERHEAD + FRAMING)
        .flood_publish(true)
        .mesh_n_low(MESH_LOW)
        .mesh_n(MESH_TARGET)
        .mesh_n_high(MESH_HIGH)
        .mesh_outbound_min(1)
        .gossip_lazy(MESH_LOW)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .heartbeat_interval(HEARTBEAT)
        .history_length(HISTORY)
        .history_gossip(3)
        .connection_handler_queue_len(QUEUE_LENGTH)
        .max_publish_messages(QUEUE_LENGTH)
        // Peers come and go; a short grudge keeps a small network whole.
        .prune_backoff(Duration::from_secs(10))
        .unsubscribe_backoff(Duration::from_secs(1))
        .graft_flood_threshold(Duration::from_secs(1))
        .build()
        .map_err(|error| setup(error.to_string()))?;
    let allowed: HashSet<_> = Topic::ALL.into_iter().map(|topic| topics.hash(topic)).collect();
    let filter = MaxCountSubscriptionFilter {
        filter: WhitelistSubscriptionFilter(allowed),
        max_subscribed_topics: Topic::ALL.len(),
        max_subscriptions_per_request: 16,
    };
    let mut behaviour = Behaviour::new_with_subscription_filter_and_transform(
        MessageAuthenticity::Anonymous,
        config,
        filter,
        OurTopics(topics.clone()),
    )
    .map_err(|error| setup(error.into()))?;
    for topic in &topics.0 {
        behaviour.subscribe(topic).map_err(|error| setup(error.to_string()))?;
    }
    Ok(behaviour)
}

/// SHA-256 of topic, a zero byte, and envelope. The topic is in it so that nobody can have a message taken for a
/// duplicate by sending it on another topic first.
fn name(message: &gossipsub::Message) -> MessageId {
    let mut hasher = Sha256::new();
    hasher.update(message.topic.as_str());
    hasher.update([0]);
    hasher.update(&message.data);
    MessageId::new(&hasher.finalize())
}

/// A gossip message that waits for its verdict.
#[derive(Clone, Debug)]
pub(super) struct Unjudged {
    pub(super) message: MessageId,
    pub(super) source: libp2p::PeerId,
    pub(super) kind: Kind,
    /// Whether `source` published it itself.
    pub(super) first_hand: bool,
    since: Instant,
}

/// All messages that wait for verdicts. Bounded in number and in time.
#[derive(Debug, Default)]
pub(super) struct Judge {
    waiting: HashMap<GossipId, Unjudged>,
    order: VecDeque<GossipId>,
    last: u64,
}

impl Judge {
    /// Gives the message a number; when there are too many, the oldest comes back and is no longer waited for.
    pub(super) fn add(
        &mut self,
        message: MessageId,
        source: libp2p::PeerId,
        kind: Kind,
        first_hand: bool,
        now: Instant,
    ) -> (GossipId, Option<Unjudged>) {
        self.last += 1;
        let id = GossipId(self.last);
        self.waiting.insert(
            id,
            Unjudged {
                message,
                source,
                kind,
                first_hand,
                since: now,
            },
        );
        self.order.push_back(id);
        let oldest = if self.waiting.len() > UNJUDGED_MAX {
            self.pop()
        } else {
            None
        };
        (id, oldest)
    }

    pub(super) fn take(&mut self, id: GossipId) -> Option<Unjudged> {
        let taken = self.waiting.remove(&id);
        self.skip_judged();
        if self.order.len() > 2 * UNJUDGED_MAX {
            self.order.retain(|id| self.waiting.contains_key(id));
        }
        taken
    }

    /// A message that nobody judged in time.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Unjudged> {
        let oldest = self.waiting.get(self.order.front()?)?;
        if now.duration_since(oldest.since) >= UNJUDGED_FOR {
            self.pop()
        } else {
            None
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn pop(&mut self) -> Option<Unjudged> {
        let oldest = self.order.pop_front().and_then(|id| self.waiting.remove(&id));
        self.skip_judged();
        oldest
    }

    /// Judged messages leave their numbers behind. Afterwards the front, if any, is one that still waits.
    fn skip_judged(&mut self) {
        while self
            .order
            .front()
            .is_some_and(|front| !self.waiting.contains_key(front))
        {
            self.order.pop_front();
        }
    }
}

/// A publication, before it has gone out.
#[derive(Clone, Debug)]
pub(super) struct Publication {
    pub(super) topic: Topic,
    pub(super) envelope: Envelope,
    /// Part of the message's name.
    attempt: u32,
    tries: u32,
    since: Instant,
}

impl Publication {
    /// `count` is how many were published before: the same words are said again on purpose, and under the same name they
    /// would go nowhere. Half of the attempts are left for when nobody takes it.
    pub(super) const fn new(topic: Topic, envelope: Envelope, count: u32, now: Instant) -> Self {
        Self {
            topic,
            envelope,
            attempt: count % (MAX_ATTEMPT / 2),
            tries: 0,
            since: now,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.envelope.encode(self.attempt)
    }

    /// Takes another name; `false`: none is left.
    pub(super) const fn rename(&mut self) -> bool {
        self.attempt += 1;
        self.attempt <= MAX_ATTEMPT
    }
}

/// What became of a publication.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// At least one peer's queue took it.
    Sent,
    /// Something was published under this name lately.
    Known,
    /// Worth another try, under another name if `renamed`.
    Retry {
        /// Whether gossip remembers the name that failed.
        renamed: bool,
    },
    /// It can never be sent.
    Impossible(String),
}

pub(super) fn outcome(result: Result<MessageId, PublishError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Sent,
        Err(PublishError::Duplicate) => Outcome::Known,
        Err(PublishError::NoPeersSubscribedToTopic) => Outcome::Retry { renamed: false },
        Err(PublishError::AllQueuesFull(_)) => Outcome::Retry { renamed: true },
        Err(error) => Outcome::Impossible(error.to_string()),
    }
}

/// Publications that wait for another try. Bounded in number, bytes and time; the oldest gives way.
#[derive(Debug, Default)]
pub(super) struct Retries {
    waiting: BTreeMap<(Instant, u64), Publication>,
    bytes: usize,
    last: u64,
}

impl Retries {
    /// Keeps a publication for later. How many were given up for it, itself included.
    pub(super) fn add(&mut self, mut publication: Publication, renamed: bool, now: Instant) -> u64 {
        if now.duration_since(publication.since) >= RETRY_FOR || publication.attempt >= MAX_ATTEMPT {
            return 1;
        }
        publication.attempt += u32::from(renamed);
        let delay = RETRY_FIRST
            .saturating_mul(1 << publication.tries.min(10))
            .min(RETRY_MAX);
        publication.tries += 1;
        self.bytes += publication.envelope.len();
        self.last += 1;
        self.waiting.insert((now + delay, self.last), publication);
        let mut given_up = 0;
        while self.waiting.len() > RETRIES_MAX || (self.bytes > RETRY_BYTES_MAX && self.waiting.len() > 1) {
            let oldest = self
                .waiting
                .iter()
                .min_by_key(|(_, publication)| publication.since)
                .map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            self.remove(oldest);
            given_up += 1;
        }
        given_up
    }

    /// When the next one is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// The next one that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Publication> {
        let key = *self.waiting.first_key_value()?.0;
        if key.0 <= now { self.remove(key) } else { None }
    }

    /// A peer has subscribed: everything for that topic is worth a try, oldest first.
    pub(super) fn on_subscribed(&mut self, topic: Topic) -> Vec<Publication> {
        let of_topic = |(_, publication): &(&_, &Publication)| publication.topic == topic;
        let keys: Vec<_> = self.waiting.iter().filter(of_topic).map(|(key, _)| *key).collect();
        let mut publications: Vec<_> = keys.into_iter().filter_map(|key| self.remove(key)).collect();
        publications.sort_by_key(|publication| publication.since);
        publications
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn remove(&mut self, key: (Instant, u64)) -> Option<Publication> {
        let publication = self.waiting.remove(&key)?;
        self.bytes -= publication.envelope.len();
        Some(publication)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(topic: Topic, size: usize, now: Instant) -> Publication {
        Publication::new(topic, Envelope::wrap(vec![0; size]).expect("small"), 0, now)
    }

    #[test]
    fn topics_carry_the_chain() {
        let topics = Topics::new("0123456789abcdef");
        assert_eq!(topics.hash(Topic::Votes).as_str(), "/timecoin/0123456789abcdef/votes/1");
        for topic in Topic::ALL {
            assert_eq!(topics.find(&topics.hash(topic)), Some(topic));
        }
        assert_eq!(topics.find(&Topics::new("00").hash(Topic::Votes)), None);
    }

    #[test]
    fn what_is_on_another_topic_is_dropped_before_its_name_is_remembered() {
        let ours = Topics::new("0123456789abcdef");
        let message = |topic| RawMessage {
            source: None,
            data: vec![1],
            sequence_number: None,
            topic,
            signature: None,
            key: None,
            validated: false,
        };
        let transform = OurTopics(ours.clone());
        for topic in Topic::ALL {
            assert!(transform.inbound_transform(message(ours.hash(topic))).is_ok());
        }
        let other = Topics::new("00").hash(Topic::Votes);
        assert!(transform.inbound_transform(message(other)).is_err());
    }

    #[test]
    fn the_settings_are_accepted() {
        behaviour(&Topics::new("00")).expect("gossipsub accepts them");
    }

    #[test]
    fn verdicts_are_given_once_and_waited_for_in_bounds() {
        let now = Instant::now();
        let mut judge = Judge::default();
        let source = libp2p::PeerId::random();
        let message = |number: usize| MessageId::new(&number.to_be_bytes());
        let (first, _) = judge.add(message(0), source, Kind::ANNOUNCEMENT, true, now);
        assert_eq!(judge.take(first).map(|entry| entry.message), Some(message(0)));
        assert!(judge.take(first).is_none());
        let ids: Vec<_> = (0..UNJUDGED_MAX)
            .map(|number| judge.add(message(number), source, Kind::ANNOUNCEMENT, true, now).0)
            .collect();
        let (_, oldest) = judge.add(message(9), source, Kind::ANNOUNCEMENT, true, now);
        assert_eq!(oldest.map(|entry| entry.message), Some(message(0)));
        assert!(judge.take(ids[0]).is_none());
        judge.take(ids[2]);
        // Judging everything but the oldest must not let the order of numbers grow without end.
        for _ in 0..5 * UNJUDGED_MAX {
            let (id, _) = judge.add(message(1), source, Kind::ANNOUNCEMENT, true, now);
            judge.take(id);
        }
        assert!(judge.order.len() <= 2 * UNJUDGED_MAX + 1);
        assert!(judge.expired(now + UNJUDGED_FOR - Duration::from_millis(1)).is_none());
        let late = now + UNJUDGED_FOR;
        let expired = std::iter::from_fn(|| judge.expired(late)).count();
        assert_eq!((expired, judge.len()), (UNJUDGED_MAX - 1, 0));
    }

    #[test]
    fn a_judged_message_does_not_make_a_younger_one_seem_late() {
        let now = Instant::now();
        let mut judge = Judge::default();
        let source = libp2p::PeerId::random();
        let add = |judge: &mut Judge, at| judge.add(MessageId::new(&[0]), source, Kind::ANNOUNCEMENT, true, at).0;
        add(&mut judge, now);
        let second = add(&mut judge, now);
        let third = add(&mut judge, now + UNJUDGED_FOR);
        judge.take(second);
        assert!(judge.expired(now + UNJUDGED_FOR).is_some(), "the first is late");
        assert!(judge.expired(now + UNJUDGED_FOR).is_none(), "the third is not");
        assert!(judge.take(third).is_some());
    }

    #[test]
    fn a_retry_is_renamed_only_when_the_name_is_spent() {
        let now = Instant::now();
        let mut retries = Retries::default();
        let fresh = publication(Topic::Votes, 10, now);
        let name = fresh.bytes();
        retries.add(fresh, false, now);
        assert!(retries.due(now).is_none());
        let again = retries.due(now + RETRY_FIRST).expect("due");
        assert_eq!(again.bytes(), name);
        retries.add(again, true, now);
        assert_eq!(retries.deadline(), Some(now + 2 * RETRY_FIRST));
        let renamed = retries.due(now + 2 * RETRY_FIRST).expect("due");
        assert_ne!(renamed.bytes(), name);
    }

    #[test]
    fn retries_end_after_their_time_and_within_the_limit_of_attempts() {
        let start = Instant::now();
        let mut retries = Retries::default();
        let (mut now, mut tries) = (start, 0);
        assert_eq!(retries.add(publication(Topic::Votes, 10, start), true, now), 0);
        while let Some(due) = retries.deadline() {
            now = due;
            let again = retries.due(now).expect("due");
            assert!(
                Envelope::parse(again.bytes().into()).is_ok(),
                "receivers accept attempt {tries}"
            );
            tries += 1;
            retries.add(again, true, now);
        }
        assert!((10..=MAX_ATTEMPT).contains(&tries), "{tries}");
        assert!(now - start >= RETRY_FOR && now - start < RETRY_FOR + 2 * RETRY_MAX);
    }

    #[test]
    fn full_retries_drop_the_oldest() {
        let start = Instant::now();
        let mut retries = Retries::default();
        for number in 0..RETRIES_MAX as u32 {
            assert_eq!(
                retries.add(
                    publication(Topic::Votes, 10, start + number * HEARTBEAT / 1_000),
                    false,
                    start
                ),
                0
            );
        }
        let newest = publication(Topic::Consensus, 10, start + HEARTBEAT);
        assert_eq!(retries.add(newest, false, start), 1);
        let votes = retries.on_subscribed(Topic::Votes);
        assert_eq!(votes.len(), RETRIES_MAX - 1);
        assert!(votes.is_sorted_by_key(|publication| publication.since));
        assert!(votes[0].since > start, "the oldest is gone");
        assert_eq!((retries.len(), retries.on_subscribed(Topic::Consensus).len()), (1, 1));
        assert_eq!(retries.bytes, 0);
    }
}
