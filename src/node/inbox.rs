//! The loop's one inbox: two lanes, bounded, taken in batches.
//!
//! Votes, blocks and answers are urgent; transactions wait behind them. Whoever brings checked messages waits when a lane
//! is full: so the check pool's own queue fills, and what is too much is turned away at the door. What must arrive and is
//! bounded otherwise (answers that were asked for, peers coming and going) is never made to wait.

use crate::{
    api::SubmitError,
    ledger::CheckedTransaction,
    network,
    primitives::{PeerId, TxId},
    replica::{Answer, Input, Message},
};
use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::oneshot;

/// To a client that waits for the verdict.
pub type ReplyTo = oneshot::Sender<Result<TxId, SubmitError>>;

/// One thing for the loop.
#[derive(Debug)]
pub enum Item {
    /// An input as it is, and when its bytes arrived.
    Input(Input, Instant),
    /// A client's transaction.
    Submit {
        /// Checked.
        transaction: CheckedTransaction,
        /// For the verdict.
        reply: ReplyTo,
        /// When its bytes arrived.
        at: Instant,
    },
    /// An answer; the loop knows which of the replica's questions it belongs to.
    Response {
        /// Who was asked.
        from: PeerId,
        /// The network's number for the question.
        request: network::RequestId,
        /// `None`: there is none, or it was wrong.
        answer: Option<Answer>,
    },
}

impl Item {
    /// Roughly how much work it is: transactions count each.
    fn weight(&self) -> usize {
        self.payments().max(1)
    }

    /// Payments that it brings.
    pub(super) fn payments(&self) -> usize {
        match self {
            Self::Input(
                Input::Gossip {
                    message: Message::Transactions(all),
                    ..
                },
                _,
            ) => all.len(),
            Self::Submit { .. } => 1,
            Self::Input(..) | Self::Response { .. } => 0,
        }
    }
}

/// Which lane something goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Taken first.
    Urgent,
    /// Transactions.
    Bulk,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    weight: usize,
}

#[derive(Default)]
struct State {
    urgent: Queue,
    bulk: Queue,
    closed: bool,
}

/// The queue between everybody and the loop.
pub struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
    room: Condvar,
    lane_weight: usize,
}

impl Queue {
    fn push(&mut self, item: Item) {
        self.weight += item.weight();
        self.items.push_back(item);
    }

    /// Moves items until `budget` is used up; at least one if there is one and any budget.
    fn take(&mut self, out: &mut Vec<Item>, budget: &mut usize) {
        while *budget > 0
            && let Some(item) = self.items.pop_front()
        {
            let weight = item.weight();
            self.weight -= weight;
            *budget = budget.saturating_sub(weight);
            out.push(item);
        }
    }
}

impl Inbox {
    /// An inbox whose lanes each take about so many transactions or messages.
    pub fn new(lane_weight: usize) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            room: Condvar::new(),
            lane_weight,
        }
    }

    /// Brings items; waits while the lane is full. When the inbox is closed they are dropped.
    pub fn push(&self, lane: Lane, items: impl IntoIterator<Item = Item>) {
        let mut state = self.lock();
        for item in items {
            while state.lane(lane).weight >= self.lane_weight && !state.closed {
                // The loop may be asleep with what was pushed so far.
                self.arrived.notify_one();
                state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed {
                return;
            }
            state.lane(lane).push(item);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Brings something that must arrive; never waits.
    pub fn deliver(&self, item: Item) {
        let mut state = self.lock();
        if !state.closed {
            state.urgent.push(item);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Takes what waits, urgent things first, up to about `budget`; waits for the first until `until`. Answers whether
    /// the inbox is still open.
    pub fn take(&self, out: &mut Vec<Item>, mut budget: usize, until: Instant) -> bool {
        let mut state = self.lock();
        while !state.closed && state.urgent.items.is_empty() && state.bulk.items.is_empty() {
            let Some(left) = until
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            else {
                break;
            };
            state = self
                .arrived
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.urgent.take(out, &mut budget);
        state.bulk.take(out, &mut budget);
        let open = !state.closed;
        drop(state);
        self.room.notify_all();
        open
    }

    /// What waits: weight in the urgent lane, and in the other.
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.urgent.weight, state.bulk.weight)
    }

    /// No more is taken in; who waits is let go.
    pub fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
        self.room.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under it panics but a failed allocation.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lane(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::Height;
    use std::{sync::Arc, time::Duration};

    fn item(number: u64) -> Item {
        Item::Input(Input::Flushed(Height(number)), Instant::now())
    }

    fn numbers(items: &[Item]) -> Vec<u64> {
        let number = |item: &Item| match item {
            Item::Input(Input::Flushed(height), _) => height.0,
            other => panic!("{other:?}"),
        };
        items.iter().map(number).collect()
    }

    #[test]
    fn urgent_things_come_first_and_the_budget_holds() {
        let inbox = Inbox::new(10);
        inbox.push(Lane::Bulk, [item(1), item(2)]);
        inbox.push(Lane::Urgent, [item(3), item(4)]);
        let mut out = Vec::new();
        assert!(inbox.take(&mut out, 3, Instant::now()));
        assert_eq!(numbers(&out), [3, 4, 1]);
        assert_eq!(inbox.waiting(), (0, 1));
    }

    #[test]
    fn a_full_lane_makes_its_bringer_wait_and_not_the_other() {
        let inbox = Arc::new(Inbox::new(2));
        let bringer = {
            let inbox = inbox.clone();
            std::thread::spawn(move || inbox.push(Lane::Bulk, (0..5).map(item)))
        };
        let mut all = Vec::new();
        while all.len() < 5 {
            inbox.push(Lane::Urgent, []);
            let mut out = Vec::new();
            inbox.take(&mut out, 1, Instant::now() + Duration::from_secs(5));
            assert!(inbox.waiting().1 <= 2);
            all.extend(out);
        }
        bringer.join().expect("ends");
        assert_eq!(numbers(&all), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn closing_lets_everybody_go() {
        let inbox = Arc::new(Inbox::new(1));
        inbox.push(Lane::Bulk, [item(1)]);
        let waiting = {
            let inbox = inbox.clone();
            std::thread::spawn(move || inbox.push(Lane::Bulk, [item(2)]))
        };
        inbox.close();
        waiting.join().expect("let go");
        let mut out = Vec::new();
        assert!(!inbox.take(&mut out, 10, Instant::now() + Duration::from_secs(60)));
        assert_eq!(numbers(&out), [1]);
    }

    #[test]
    fn the_deadline_ends_the_wait() {
        let inbox = Inbox::new(1);
        let start = Instant::now();
        let mut out = Vec::new();
        assert!(inbox.take(&mut out, 1, start + Duration::from_millis(20)));
        assert!(out.is_empty() && start.elapsed() >= Duration::from_millis(20));
    }
}
