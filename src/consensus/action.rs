//! What goes into the machine besides messages, and what comes out of it.

use crate::primitives::{
    BlockCertificate, BlockId, BlockVote, Gossip, Height, Params, Phase, Proposal, PublicKey, Round, RoundCertificate,
    ViewChange, message::Electorate,
};
use std::sync::Arc;

/// What the machine is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The chain and who votes on it.
    pub electorate: Electorate,
    /// The network's rules; the intervals and timers are used here.
    pub params: Params,
    /// The key that this node votes with. `None`, or not in the set: an observer, which follows and decides but never
    /// speaks.
    pub own: Option<PublicKey>,
}

/// What waits for a block, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Work {
    /// Nothing: a block is due after `idle_block_interval_ms`.
    #[default]
    None,
    /// Something: a block is due after `block_interval_ms`.
    Some,
    /// A whole block or more: due at once, [`super::MIN_PAUSE_MS`] after the last.
    Full,
}

/// What the replica is asked to do, in this order.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "few, and gone at the end of the turn")]
pub enum Action {
    /// This node leads the round and nothing is prepared: make a block and answer with
    /// [`super::Consensus::on_built`]. Asked again, with back-off, until answered.
    Build {
        /// For this round of the current height.
        round: Round,
        /// The right to propose in it; `None` in round 0.
        justification: Option<RoundCertificate>,
    },
    /// Is this block valid? Answer with [`super::Consensus::on_validated`], sooner or later; `false` may turn into
    /// `true`. Blocks that this node built itself are not asked about.
    Validate(Arc<Proposal>),
    /// Must be durable before any later [`Action::Say`] leaves the process.
    Remember(Mark),
    /// Sign it, publish it, and hand it back signed through [`super::Consensus::on_proposal`],
    /// [`super::Consensus::on_vote`] or [`super::Consensus::on_view_change`].
    Say(Statement),
    /// An own signed message again: publish it.
    Resend(Gossip),
    /// The height is decided. Commit the block and answer with [`super::Consensus::on_committed`].
    Decided {
        /// A quorum of Commit.
        certificate: BlockCertificate,
        /// `None`: the block is not known here and must come by sync. Asked again with the proposal should that turn
        /// up first.
        proposal: Option<Arc<Proposal>>,
    },
    /// A proposal of the current height is needed that is not here: ask peers for it and hand it to
    /// [`super::Consensus::on_proposal`].
    Fetch {
        /// Its block.
        block: BlockId,
    },
    /// A validator has signed two things that contradict each other.
    Evidence(Evidence),
}

/// What the safety log keeps of block consensus (protocol, section 7).
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// Nothing of a lower round of this height, and nothing else in this phase of this round, may be signed.
    Signed {
        /// Signed at this height.
        height: Height,
        /// In this round.
        round: Round,
        /// Propose, Prepare or Commit.
        phase: Phase,
        /// For this block.
        block: BlockId,
    },
    /// No vote below its round any more. Unsigned: signing is deterministic.
    ViewChanged(ViewChange),
    /// A quorum prepared this block; every later view change says so.
    Prepared {
        /// The block, so that it can be proposed again.
        proposal: Arc<Proposal>,
        /// The quorum of Prepare.
        certificate: BlockCertificate,
    },
}

impl Mark {
    /// The height that it binds.
    pub fn height(&self) -> Height {
        match self {
            Self::Signed { height, .. } => *height,
            Self::ViewChanged(change) => change.height,
            Self::Prepared { certificate, .. } => certificate.height,
        }
    }
}

/// What this validator says; the signature is zeros.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "few, and gone at the end of the turn")]
pub enum Statement {
    /// As the leader of a round.
    Proposal(Proposal),
    /// Prepare or Commit.
    BlockVote(BlockVote),
    /// Leaving a round.
    ViewChange(ViewChange),
}

/// Two votes of one validator for one height, round and phase, for two blocks, both signed. A proposal counts as a vote
/// in the phase Propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The one that came first.
    pub first: BlockVote,
    /// The one that contradicts it.
    pub second: BlockVote,
}

/// Where the machine stands within a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Step {
    /// No acceptable proposal of the round is here yet.
    #[default]
    Propose,
    /// The proposal is here, a quorum of Prepare is not.
    Prepare,
    /// This node has voted Commit.
    Commit,
    /// The round is left, the next not entered.
    ViewChange,
    /// A quorum of Commit is here.
    Decided,
}

/// Counters and the present state, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The height being decided.
    pub height: Height,
    /// Its round.
    pub round: Round,
    /// Where in the round.
    pub step: Step,
    /// Blocks decided here (not by sync).
    pub decided: u64,
    /// Votes and view changes counted.
    pub votes: u64,
    /// Prepare votes seen in the current round.
    pub prepares: usize,
    /// Commit votes seen in the current round.
    pub commits: usize,
    /// Round timers that ran out.
    pub timeouts: u64,
    /// View changes signed.
    pub view_changes: u64,
    /// Messages that were here already.
    pub duplicates: u64,
    /// Messages for heights or rounds that are over.
    pub stale: u64,
    /// Messages too far ahead to be kept.
    pub early: u64,
    /// Messages kept for the next height, now.
    pub buffered: usize,
    /// Proposals refused.
    pub refused: u64,
    /// Pairs of contradicting votes.
    pub evidence: u64,
    /// View changes that contradict an earlier one for the same round.
    pub conflicting_view_changes: u64,
    /// Messages signed with this node's key that it does not remember.
    pub foreign: u64,
    /// Own messages sent again.
    pub resends: u64,
    /// Proposals asked for.
    pub fetches: u64,
    /// Times that the watchdog found a timer missing.
    pub watchdog: u64,
}
