//! Floor 3: the replica. The only place where the machines of floor 2 meet.
//!
//! It is pure: no clock, no disk, no socket, no thread, no key. A shell feeds it [`Input`]s and serves its [`Effects`];
//! there are two, `node` and `sim`, and they run the same replica, byte for byte.

pub mod effects;
pub mod input;
pub mod payments;
pub mod stats;

pub use effects::{Committed, Dropped, Effects, Event, Reply, SafetyRecord, Send, Statement, Verdict};
pub use input::{Answer, AnswerTicket, GossipId, Input, InputError, Message, RequestId, Ticket};
pub use payments::{Known, Payments, State};
pub use stats::{Counters, PoolStats, Snapshot};

use crate::{
    ledger::{View, ViewError},
    pool,
    primitives::{Genesis, PublicKey, Time, message::Electorate},
};
use std::sync::Arc;
use thiserror::Error;

/// What a replica is opened with.
#[derive(Clone)]
pub struct Setup {
    /// The chain's start.
    pub genesis: Arc<Genesis>,
    /// Who votes.
    pub electorate: Electorate,
    /// Own consensus key; `None` for a node that is no validator.
    pub own: Option<PublicKey>,
    /// Limits of the pool.
    pub pool: pool::Config,
    /// Seeds the replica's own choices (whom to ask). Nothing valid depends on it.
    pub seed: u64,
}

/// What the safety log held.
#[derive(Clone, Debug)]
pub enum Records {
    /// The log is there, with these records (none, when it is new with its key).
    Kept(Vec<SafetyRecord>),
    /// The key may have voted, but its log is gone: silent until the next epoch.
    Missing,
}

/// Why a replica cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The store cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The store is of another chain.
    #[error("the store does not belong to this genesis: {0}")]
    Chain(String),
    /// A record makes no sense.
    #[error("the safety log cannot be used: {0}")]
    Record(String),
}

/// The replica.
pub struct Replica {
    setup: Setup,
    payments: Arc<Payments>,
}

impl Replica {
    /// Opens the replica over a committed state and what was remembered. The effects are those of a first turn, to be
    /// served like any other's.
    pub fn open(setup: Setup, view: &dyn View, records: Records, now: Time) -> Result<(Self, Effects), OpenError> {
        let _ = (setup, view, records, now);
        unimplemented!()
    }

    /// Takes one input. A `write` in the effects must be applied before the next call: it leads to at most one.
    /// An error means that the store cannot be read; the node must stop.
    pub fn handle(&mut self, now: Time, view: &dyn View, input: Input, effects: &mut Effects) -> Result<(), ViewError> {
        let _ = (now, view, input, effects);
        unimplemented!()
    }

    /// Ends a turn of one or more inputs: what was decided in it becomes one vote batch.
    pub fn finish_turn(&mut self, now: Time, effects: &mut Effects) {
        let _ = (now, effects);
        unimplemented!()
    }

    /// When to call with [`Input::Tick`]; in the past: at once.
    pub fn deadline(&self) -> Option<Time> {
        unimplemented!()
    }

    /// Where it stands.
    pub fn snapshot(&self) -> Snapshot {
        unimplemented!()
    }

    /// Payments for readers outside the loop.
    pub fn payments(&self) -> Arc<Payments> {
        let _ = &self.setup;
        self.payments.clone()
    }

    /// Everything that a trimmed safety log must still hold.
    pub fn live_records(&self) -> Vec<SafetyRecord> {
        unimplemented!()
    }
}
