//! One simulated machine: a disk that outlives crashes, a clock, a key, and the process that may be running on it.

use super::{
    clock::{Clock, Micros},
    liars::Liar,
    scenario::CrashPoint,
};
use crate::{
    primitives::{BlockId, Gossip, PeerId, PublicKey, Request, keys::KeySigner},
    replica::{AnswerTicket, Core, GossipId, Input, Message, RequestId},
    store::{ledger_store::LedgerStore, memory::MemoryBackend, safety_log::MemoryLog},
};
use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    sync::Arc,
};

/// A published message, shared by all who receive it: what it says is checked once.
pub struct Parcel {
    /// Its name: the hash of its bytes.
    pub id: BlockId,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Who published them first.
    pub author: usize,
    /// What checking said; an error in words.
    pub checked: OnceCell<Result<Message, String>>,
}

/// A crash that waits for its point in a turn.
#[derive(Clone, Copy, Debug)]
pub struct PlannedCrash {
    /// Where in the turn.
    pub point: CrashPoint,
    /// How long the machine stays down.
    pub down: Micros,
    /// Of a thousand unsynced bytes of the safety log, so many survive.
    pub log_kept_per_mille: u64,
    /// Of a thousand unflushed blocks, so many survive.
    pub store_kept_per_mille: u64,
    /// Whether the safety log is lost.
    pub lose_log: bool,
}

/// What survives.
pub struct Disk {
    /// The store's tables.
    pub tables: Arc<MemoryBackend>,
    /// The safety log.
    pub log: MemoryLog,
    /// What the log held when it was opened last.
    pub records: Vec<Vec<u8>>,
    /// The log is gone, and the replica has not yet written down that it is.
    pub log_missing: bool,
}

/// A machine.
pub struct Machine {
    /// Its position among all.
    pub index: usize,
    /// Signs what the replica decides.
    pub key: KeySigner,
    /// The public half, when it is a validator.
    pub own: Option<PublicKey>,
    /// Its clock.
    pub clock: Clock,
    /// What twists its words, when the adversary runs it.
    pub liar: Option<Liar>,
    /// Its disk.
    pub disk: Disk,
    /// Counts the processes that ran on it: what was meant for an earlier one is dropped.
    pub life: u64,
    /// The process, if one is running.
    pub process: Option<Process>,
    /// Its next crash.
    pub crash: Option<PlannedCrash>,
    /// The loop does nothing before.
    pub busy_until: Micros,
    /// When its next turn is due, if one is planned.
    pub turn_at: Option<Micros>,
    /// Counts plans of turns: only the latest holds.
    pub turn_plan: u64,
}

impl Machine {
    /// Whether its word counts: it is not run by the adversary.
    pub const fn is_correct(&self) -> bool {
        self.liar.is_none()
    }
}

/// Inputs that may wait; what comes then is dropped.
pub const INBOX: usize = 10_000;

/// A running process.
pub struct Process {
    /// The replica.
    pub replica: Core,
    /// The committed state.
    pub store: LedgerStore,
    /// What waits for the next turn.
    pub inbox: VecDeque<Input>,
    /// Own statements signed in the last turn.
    pub own: Vec<Gossip>,
    /// Gossip that waits for its verdict, and who sent it.
    pub gossip: BTreeMap<GossipId, (Rc<Parcel>, usize)>,
    /// Gossip seen, by its bytes.
    pub seen: BTreeSet<BlockId>,
    /// Questions of peers: who, in which life, under which id, and what.
    pub tickets: BTreeMap<AnswerTicket, (usize, u64, RequestId, Request)>,
    /// Own questions without an answer yet.
    pub asks: BTreeMap<RequestId, usize>,
    /// Peers that the replica was told are there.
    pub peers: BTreeSet<PeerId>,
    /// Whether the safety log is to be trimmed at the end of the turn.
    pub trim: bool,
    next_id: u64,
}

impl Process {
    /// A process that has just started.
    pub fn new(replica: Core, store: LedgerStore) -> Self {
        Self {
            replica,
            store,
            inbox: VecDeque::new(),
            own: Vec::new(),
            gossip: BTreeMap::new(),
            seen: BTreeSet::new(),
            tickets: BTreeMap::new(),
            asks: BTreeMap::new(),
            peers: BTreeSet::new(),
            trim: false,
            next_id: 0,
        }
    }

    /// A number that was not used before in this process.
    pub fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Puts an input into the inbox, if there is room.
    pub fn push(&mut self, input: Input) {
        if self.inbox.len() < INBOX {
            self.inbox.push_back(input);
        }
    }
}
