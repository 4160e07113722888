//! Who waits for which payment. One look-up for each event; bounded in total and for each payment.

use super::Refusal;
use crate::{
    primitives::{Height, TxId},
    replica::{Dropped, Event},
};
use dashmap::{DashMap, Entry};
use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Instant,
};
use tokio::sync::{mpsc, oneshot};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// A quorum of Final, or a block.
    Final,
    /// A block.
    Committed,
}

/// How waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The payment is final.
    Final,
    /// It is in the block of this height.
    Committed(Height),
    /// It left the pool otherwise.
    Dropped(Dropped),
    /// Time is up.
    Expired,
}

/// A submission of a stream, as it comes back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// The client's number for it.
    pub(super) id: u64,
    /// The payment.
    pub(super) txid: TxId,
    /// Whether the answer is to carry the receipt.
    pub(super) want_receipt: bool,
}

/// Where an outcome goes.
#[derive(Debug)]
pub(super) enum Sink {
    /// To a call that waits for this one payment and keeps its own time.
    Call(oneshot::Sender<Outcome>),
    /// To a stream, together with what it said about the submission. What a stream may have waiting is bounded by the
    /// stream itself, so this needs no bound.
    Stream(Ticket, mpsc::UnboundedSender<(Ticket, Outcome)>),
}

impl Sink {
    fn send(self, outcome: Outcome) {
        // Whoever waited may have gone; then nobody misses the answer.
        match self {
            Self::Call(sender) => drop(sender.send(outcome)),
            Self::Stream(ticket, sender) => drop(sender.send((ticket, outcome))),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Call(sender) => sender.is_closed(),
            Self::Stream(_, sender) => sender.is_closed(),
        }
    }
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    goal: Goal,
    deadline: Instant,
    sink: Sink,
}

/// Waiters for one payment at a time; more are refused, so that taking one out stays cheap.
const MAX_PER_PAYMENT: usize = 1_000;

/// All waiters, by payment.
#[derive(Debug)]
pub(super) struct Waiters {
    by_payment: DashMap<TxId, Vec<Waiter>>,
    count: AtomicUsize,
    next: AtomicU64,
    max: usize,
}

impl Waiters {
    pub(super) fn new(max: usize) -> Self {
        Self {
            by_payment: DashMap::new(),
            count: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            max,
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Starts waiting; answers the waiter's number. The caller must look at the payment's state afterwards: the event
    /// may have come before.
    pub(super) fn register(&self, txid: TxId, goal: Goal, deadline: Instant, sink: Sink) -> Result<u64, Refusal> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::too_many("TOO_MANY_WAITERS", "submissions waiting", self.max));
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.by_payment.entry(txid).or_default();
        if waiting.len() >= MAX_PER_PAYMENT {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::too_many(
                "TOO_MANY_WAITERS",
                "submissions waiting for one payment",
                MAX_PER_PAYMENT,
            ));
        }
        waiting.push(Waiter {
            number,
            goal,
            deadline,
            sink,
        });
        Ok(number)
    }

    /// Stops waiting. Answers whether it was still waiting: if not, its outcome has been sent.
    pub(super) fn cancel(&self, txid: &TxId, number: u64) -> bool {
        self.take(txid, |waiter| waiter.number == number, |_| {}) != 0
    }

    /// Answers those that the event concerns.
    pub(super) fn on_event(&self, event: &Event) {
        match event {
            Event::Final(txid) => self.wake(txid, |goal| goal == Goal::Final, Outcome::Final),
            Event::Committed(block) => {
                for txid in &block.transactions {
                    self.wake(txid, |_| true, Outcome::Committed(block.height));
                }
                for txid in &block.rejected {
                    self.wake(txid, |_| true, Outcome::Dropped(Dropped::Rejected));
                }
            }
            Event::Dropped { txid, reason } => self.wake(txid, |_| true, Outcome::Dropped(*reason)),
            _ => {}
        }
    }

    fn wake(&self, txid: &TxId, concerned: impl Fn(Goal) -> bool, outcome: Outcome) {
        if self.len() != 0 {
            self.take(txid, |waiter| concerned(waiter.goal), |sink| sink.send(outcome));
        }
    }

    /// Takes out the waiters that `which` picks and gives their sinks to `then`; answers how many.
    fn take(&self, txid: &TxId, which: impl Fn(&Waiter) -> bool, then: impl Fn(Sink)) -> usize {
        let Entry::Occupied(mut waiting) = self.by_payment.entry(*txid) else {
            return 0;
        };
        let mut taken = 0;
        for waiter in waiting.get_mut().extract_if(.., |waiter| which(waiter)) {
            then(waiter.sink);
            taken += 1;
        }
        if waiting.get().is_empty() {
            waiting.remove();
        }
        self.count.fetch_sub(taken, Ordering::Relaxed);
        taken
    }

    /// Ends the waiting of those whose time is up and forgets those whose client has gone.
    pub(super) fn sweep(&self, now: Instant) {
        let mut taken = 0;
        self.by_payment.retain(|_, waiting| {
            for waiter in waiting.extract_if(.., |waiter| waiter.deadline <= now || waiter.sink.is_closed()) {
                waiter.sink.send(Outcome::Expired);
                taken += 1;
            }
            !waiting.is_empty()
        });
        self.count.fetch_sub(taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        primitives::{BlockId, Round, Time},
        replica::Committed,
    };
    use std::{sync::Arc, time::Duration};

    fn committed(height: u64, transactions: Vec<TxId>, rejected: Vec<TxId>) -> Event {
        Event::Committed(Arc::new(Committed {
            height: Height(height),
            block: BlockId([0; 32]),
            time: Time(0),
            round: Round(0),
            transactions,
            rejected,
        }))
    }

    fn wait(waiters: &Waiters, txid: TxId, goal: Goal) -> (u64, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(60);
        let number = waiters
            .register(txid, goal, deadline, Sink::Call(sender))
            .expect("there is room");
        (number, receiver)
    }

    #[test]
    fn each_event_wakes_whom_it_concerns() {
        let [a, b] = [TxId([1; 32]), TxId([2; 32])];
        let dropped = |reason| Event::Dropped { txid: a, reason };
        let rows: [(&str, Event, Goal, Option<Outcome>); 8] = [
            ("final", Event::Final(a), Goal::Final, Some(Outcome::Final)),
            ("final is not committed", Event::Final(a), Goal::Committed, None),
            ("another payment", Event::Final(b), Goal::Final, None),
            ("accepted is nothing yet", Event::Accepted(a), Goal::Final, None),
            (
                "in a block",
                committed(7, vec![b, a], vec![]),
                Goal::Committed,
                Some(Outcome::Committed(Height(7))),
            ),
            (
                "in a block without having been final here",
                committed(7, vec![a], vec![b]),
                Goal::Final,
                Some(Outcome::Committed(Height(7))),
            ),
            (
                "rejected",
                committed(7, vec![b], vec![a]),
                Goal::Committed,
                Some(Outcome::Dropped(Dropped::Rejected)),
            ),
            (
                "evicted",
                dropped(Dropped::Evicted),
                Goal::Final,
                Some(Outcome::Dropped(Dropped::Evicted)),
            ),
        ];
        for (what, event, goal, expected) in rows {
            let waiters = Waiters::new(10);
            let (_, mut receiver) = wait(&waiters, a, goal);
            waiters.on_event(&event);
            assert_eq!(receiver.try_recv().ok(), expected, "{what}");
            assert_eq!(waiters.len(), usize::from(expected.is_none()), "{what}");
            assert_eq!(waiters.by_payment.len(), waiters.len(), "{what}");
        }
    }

    #[test]
    fn a_cancelled_waiter_is_not_answered_and_an_answered_one_cannot_be_cancelled() {
        let waiters = Waiters::new(10);
        let txid = TxId([1; 32]);
        let (number, mut first) = wait(&waiters, txid, Goal::Final);
        let (second_number, mut second) = wait(&waiters, txid, Goal::Final);
        assert!(waiters.cancel(&txid, number));
        waiters.on_event(&Event::Final(txid));
        assert!(first.try_recv().is_err());
        assert_eq!(second.try_recv(), Ok(Outcome::Final));
        assert!(!waiters.cancel(&txid, second_number));
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn there_is_a_limit_and_room_again_after_an_answer() {
        let waiters = Waiters::new(2);
        let _kept: Vec<_> = (1..=2).map(|n| wait(&waiters, TxId([n; 32]), Goal::Final)).collect();
        let full = |waiters: &Waiters| {
            let (sender, _receiver) = oneshot::channel();
            waiters.register(TxId([9; 32]), Goal::Final, Instant::now(), Sink::Call(sender))
        };
        assert_eq!(full(&waiters).expect_err("full").reason, "TOO_MANY_WAITERS");
        waiters.on_event(&Event::Final(TxId([1; 32])));
        assert!(full(&waiters).is_ok());
    }

    #[test]
    fn one_payment_cannot_gather_all_waiters() {
        let waiters = Waiters::new(MAX_PER_PAYMENT * 2);
        let txid = TxId([1; 32]);
        let _kept: Vec<_> = (0..MAX_PER_PAYMENT)
            .map(|_| wait(&waiters, txid, Goal::Final))
            .collect();
        let (sender, _receiver) = oneshot::channel();
        let refused = waiters.register(txid, Goal::Final, Instant::now(), Sink::Call(sender));
        assert!(refused.is_err());
        assert_eq!(waiters.len(), MAX_PER_PAYMENT);
    }

    #[test]
    fn sweeping_answers_the_late_and_forgets_the_gone() {
        let waiters = Waiters::new(10);
        let now = Instant::now();
        let (to_stream, mut stream) = mpsc::unbounded_channel();
        let ticket = |id| Ticket {
            id,
            txid: TxId([1; 32]),
            want_receipt: false,
        };
        for (id, seconds) in [(1, 1), (2, 100)] {
            waiters
                .register(
                    TxId([1; 32]),
                    Goal::Final,
                    now + Duration::from_secs(seconds),
                    Sink::Stream(ticket(id), to_stream.clone()),
                )
                .expect("there is room");
        }
        let (_, gone) = wait(&waiters, TxId([2; 32]), Goal::Final);
        drop(gone);
        waiters.sweep(now + Duration::from_secs(2));
        assert_eq!(stream.try_recv(), Ok((ticket(1), Outcome::Expired)));
        assert!(stream.try_recv().is_err());
        assert_eq!(waiters.len(), 1);
    }
}
