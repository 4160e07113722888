//! The door in: what others tell the network to do.
//!
//! No method waits. Each kind of command has a bounded queue with a chosen behaviour when it is full, and every loss
//! is counted:
//!
//! | command | bound | when full |
//! |---|---|---|
//! | publish | 4,096 and 64 MB | the oldest goes: newer votes and payments are worth more, and gaps are asked for |
//! | verdict | 65,536 | the oldest goes: its message is not relayed by this node |
//! | ask | 4,096 and 64 MB | the new one fails with [`RequestError::Overloaded`](super::RequestError) |
//! | answer | 4,096 and 256 MB | the new one becomes a refusal: busy |
//! | punish | 65,536 | the new one is ignored |
//! | keep | 1 | the new one takes the place of the old one |
//!
//! The network task takes everything that waits at once, so under load one wake-up serves many commands.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::Multiaddr;
use tokio::sync::Notify;

use super::stats::Stats;
use super::{Fault, GossipId, PeerId, RequestId, Ticket, Topic, Verdict};

const PUBLISH_MAX: usize = 4_096;
const PUBLISH_BYTES_MAX: usize = 64_000_000;
const ASKS_MAX: usize = 4_096;
const ASK_BYTES_MAX: usize = 64_000_000;
const ANSWERS_MAX: usize = 4_096;
const ANSWER_BYTES_MAX: usize = 256_000_000;
const SMALL_MAX: usize = 65_536;

/// The handle by which everybody else steers the network. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commands {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queues: Mutex<Queues>,
    wake: Notify,
    next_request: AtomicU64,
    stats: Arc<Stats>,
}

/// What waits for the network task.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) publish: VecDeque<(Topic, Vec<u8>)>,
    publish_bytes: usize,
    pub(super) verdicts: VecDeque<(GossipId, Verdict)>,
    pub(super) asks: VecDeque<(PeerId, RequestId, Vec<u8>)>,
    ask_bytes: usize,
    /// Asked when the queue was full. Only names, which the next turn of the task clears, since each of them is owed
    /// an event.
    pub(super) failed_asks: Vec<(PeerId, RequestId)>,
    /// `None` where the answer did not fit.
    pub(super) answers: VecDeque<(Ticket, Option<Vec<u8>>)>,
    answer_bytes: usize,
    pub(super) faults: VecDeque<(PeerId, Fault)>,
    pub(super) keep: Option<Vec<(libp2p::PeerId, Vec<Multiaddr>)>>,
}

impl Commands {
    pub(super) fn new(stats: Arc<Stats>) -> Self {
        let shared = Shared {
            queues: Mutex::default(),
            wake: Notify::new(),
            next_request: AtomicU64::new(1),
            stats,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Sends a payload to everybody who is subscribed to the topic, as soon as there is anybody (for up to 30 s).
    pub fn publish(&self, topic: Topic, payload: Vec<u8>) {
        let mut queues = self.queues();
        queues.publish_bytes += payload.len();
        queues.publish.push_back((topic, payload));
        // One message always stays, however large.
        while queues.publish.len() > PUBLISH_MAX
            || (queues.publish_bytes > PUBLISH_BYTES_MAX && queues.publish.len() > 1)
        {
            let Some((_, dropped)) = queues.publish.pop_front() else {
                break;
            };
            queues.publish_bytes -= dropped.len();
            self.shared.stats.publish_overflow.up();
        }
        self.wake(queues);
    }

    /// Judges a gossip message. Only an accepted one is relayed. A rejected one is not priced by that: see
    /// [`Commands::punish`].
    pub fn verdict(&self, id: GossipId, verdict: Verdict) {
        let mut queues = self.queues();
        if queues.verdicts.len() >= SMALL_MAX {
            queues.verdicts.pop_front();
            self.shared.stats.verdicts_lost.up();
        }
        queues.verdicts.push_back((id, verdict));
        self.wake(queues);
    }

    /// Asks one peer. Exactly one [`Event::Response`](super::Event) with this id will come, whatever happens.
    pub fn ask(&self, peer: PeerId, payload: Vec<u8>) -> RequestId {
        let id = RequestId(self.shared.next_request.fetch_add(1, Ordering::Relaxed));
        let mut queues = self.queues();
        if queues.asks.len() >= ASKS_MAX || queues.ask_bytes + payload.len() > ASK_BYTES_MAX {
            queues.failed_asks.push((peer, id));
        } else {
            queues.ask_bytes += payload.len();
            queues.asks.push_back((peer, id, payload));
        }
        self.wake(queues);
        id
    }

    /// Answers a request. A ticket that has expired, or was used before, is ignored.
    pub fn answer(&self, ticket: Ticket, payload: Vec<u8>) {
        let mut queues = self.queues();
        if queues.answers.len() >= 2 * ANSWERS_MAX {
            // Even the refusals have piled up; the peer's own time limit will tell it.
            self.shared.stats.requests_unanswered.up();
            return;
        }
        let fits = queues.answers.len() < ANSWERS_MAX && queues.answer_bytes + payload.len() <= ANSWER_BYTES_MAX;
        if fits {
            queues.answer_bytes += payload.len();
        }
        queues.answers.push_back((ticket, fits.then_some(payload)));
        self.wake(queues);
    }

    /// Says what a peer did. What it costs is decided in [`peers`](super::peers).
    pub fn punish(&self, peer: PeerId, fault: Fault) {
        if matches!(fault, Fault::None | Fault::Late) {
            return;
        }
        let mut queues = self.queues();
        if queues.faults.len() < SMALL_MAX {
            queues.faults.push_back((peer, fault));
        }
        self.wake(queues);
    }

    /// Keeps a connection to each of these peers, besides the bootstrap peers, and no longer to those named before: the
    /// other validators and where they are.
    pub fn keep(&self, peers: Vec<(libp2p::PeerId, Vec<Multiaddr>)>) {
        let mut queues = self.queues();
        queues.keep = Some(peers);
        self.wake(queues);
    }

    /// Waits until there is something to take.
    pub(super) async fn wait(&self) {
        self.shared.wake.notified().await;
    }

    /// Takes all that waits; of the publications only if they are wanted.
    pub(super) fn take(&self, publications: bool) -> Queues {
        let mut queues = self.queues();
        let mut taken = std::mem::take(&mut *queues);
        if !publications {
            queues.publish = std::mem::take(&mut taken.publish);
            queues.publish_bytes = taken.publish_bytes;
        }
        taken
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        // Held for a push or a swap, never while anything else is done.
        self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, queues: MutexGuard<'_, Queues>) {
        drop(queues);
        self.shared.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> (Commands, Arc<Stats>) {
        let stats = Arc::new(Stats::default());
        (Commands::new(Arc::clone(&stats)), stats)
    }

    #[test]
    fn a_full_publish_queue_drops_the_oldest_and_counts_it() {
        let (commands, stats) = commands();
        for number in 0..PUBLISH_MAX as u32 + 3 {
            commands.publish(Topic::Votes, number.to_be_bytes().to_vec());
        }
        let taken = commands.take(true);
        assert_eq!(taken.publish.len(), PUBLISH_MAX);
        assert_eq!(taken.publish.front().expect("full").1, 3_u32.to_be_bytes());
        assert_eq!(stats.publish_overflow.get(), 3);
        assert!(commands.take(true).publish.is_empty());
    }

    #[test]
    fn bytes_are_bounded_too() {
        let (commands, stats) = commands();
        for _ in 0..8 {
            commands.publish(Topic::Consensus, vec![0; 9_000_000]);
        }
        assert_eq!(commands.take(false).publish.len(), 0, "left where they are");
        assert_eq!(commands.take(true).publish.len(), 7);
        assert_eq!(stats.publish_overflow.get(), 1);
        commands.publish(Topic::Consensus, vec![0; PUBLISH_BYTES_MAX + 1]);
        assert_eq!(
            commands.take(true).publish.len(),
            1,
            "too large for the queue is for the envelope to say"
        );
    }

    #[test]
    fn every_ask_has_an_id_and_is_taken_once() {
        let (commands, _) = commands();
        let ids: Vec<_> = (0..ASKS_MAX + 2).map(|_| commands.ask(PeerId(7), vec![1])).collect();
        let taken = commands.take(true);
        let mut seen: Vec<_> = taken.asks.iter().map(|(_, id, _)| *id).collect();
        seen.extend(taken.failed_asks.iter().map(|(_, id)| *id));
        assert_eq!(taken.failed_asks.len(), 2);
        assert_eq!(seen, ids);
        assert!(commands.take(true).asks.is_empty());
    }

    #[test]
    fn an_answer_that_does_not_fit_becomes_a_refusal() {
        let (commands, stats) = commands();
        for ticket in 0..3 * ANSWERS_MAX as u64 {
            commands.answer(Ticket(ticket), vec![1]);
        }
        let taken = commands.take(true);
        assert_eq!(
            taken.answers.iter().filter(|(_, answer)| answer.is_some()).count(),
            ANSWERS_MAX
        );
        assert_eq!(
            taken.answers.iter().filter(|(_, answer)| answer.is_none()).count(),
            ANSWERS_MAX
        );
        assert_eq!(stats.requests_unanswered.get(), ANSWERS_MAX as u64);
    }

    #[test]
    fn lateness_is_not_even_passed_on() {
        let (commands, _) = commands();
        commands.punish(PeerId(1), Fault::Late);
        commands.punish(PeerId(1), Fault::None);
        commands.punish(PeerId(1), Fault::Hostile);
        assert_eq!(commands.take(true).faults, [(PeerId(1), Fault::Hostile)]);
    }

    #[tokio::test]
    async fn a_command_wakes_the_task_also_before_it_waits() {
        let (commands, _) = commands();
        commands.verdict(GossipId(1), Verdict::Accept);
        commands.wait().await;
        assert_eq!(commands.take(true).verdicts, [(GossipId(1), Verdict::Accept)]);
    }
}
