//! Where the replica stands, as readers outside the loop see it.

use crate::{
    primitives::{Amount, BlockId, Epoch, Height, Phase, Round, Time, ValidatorIndex},
    sync::SyncStatus,
};

/// A picture of the replica after a turn; published through an `ArcSwap`, never locked.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Last committed block.
    pub height: Height,
    /// Its name.
    pub block: BlockId,
    /// Its time.
    pub block_time: Time,
    /// All coins together after it.
    pub supply: Amount,
    /// Epoch of the next block.
    pub epoch: Epoch,
    /// Round of the next block.
    pub round: Round,
    /// Furthest phase reached in it.
    pub phase: Phase,
    /// Own index in the validator set; `None`: not a validator.
    pub validator: Option<ValidatorIndex>,
    /// Whether this node votes now.
    pub voting: bool,
    /// Why it does not vote; empty when it does.
    pub silent_reason: String,
    /// Highest tip that a peer claims. Not proven.
    pub claimed_height: Height,
    /// Whether blocks are being fetched.
    pub catching_up: bool,
    /// How far the state sync is, while one is under way.
    pub sync: Option<SyncStatus>,
    /// Peers that gossip or answer.
    pub peers: usize,
    /// The pool.
    pub pool: PoolStats,
    /// Counters since start.
    pub counters: Counters,
}

/// The pool in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Transactions waiting for a block.
    pub pending: u64,
    /// Bytes that they take in memory.
    pub bytes: u64,
    /// Average fee rate, in thousandths of a unit per byte.
    pub average_fee_rate_milli: u64,
    /// Admission of the one waiting longest.
    pub oldest: Option<Time>,
    /// Of those pending: certified by a quorum of Lock and not in a block.
    pub certified: u64,
    /// Of those pending: final and not in a block.
    pub final_: u64,
    /// Of those pending: contested.
    pub contested: u64,
}

/// What was counted since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Transactions admitted to the pool.
    pub admitted: u64,
    /// Transactions refused by a rule or a limit.
    pub refused: u64,
    /// Transactions evicted by better paying ones.
    pub evicted: u64,
    /// Payments that became final here.
    pub finals: u64,
    /// Transactions committed in blocks.
    pub committed: u64,
    /// Transactions rejected by blocks.
    pub rejected: u64,
    /// Blocks committed.
    pub blocks: u64,
    /// Votes on payments counted.
    pub payment_votes: u64,
    /// Votes on blocks counted.
    pub block_votes: u64,
    /// Rounds that timed out.
    pub round_timeouts: u64,
    /// Proposals made.
    pub proposals: u64,
    /// Vote batches that were missed and asked for.
    pub votes_asked: u64,
    /// Bodies that were missed and asked for.
    pub bodies_asked: u64,
    /// Blocks fetched from peers.
    pub blocks_fetched: u64,
    /// State syncs that ended well.
    pub state_syncs: u64,
    /// Pieces of evidence seen.
    pub evidence: u64,
    /// Inputs dropped as duplicate, stale or too early.
    pub ignored: u64,
}
