//! Why a message has no effect.

use crate::primitives::{BlockId, Fault, Height, Phase, Round, ValidatorIndex};
use thiserror::Error;

/// Why a message has no effect. Signatures and quorums are right: they were checked before.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConsensusError {
    /// The height is decided.
    #[error("is about height {found}, which is decided here; height {current} is being decided")]
    StaleHeight {
        /// The message's.
        found: Height,
        /// Being decided here.
        current: Height,
    },
    /// The height is too far ahead to be kept.
    #[error("is about height {found}, too far above height {current} that is being decided here")]
    EarlyHeight {
        /// The message's.
        found: Height,
        /// Being decided here.
        current: Height,
    },
    /// The round is over.
    #[error("is about round {found}, which is over; round {current} of height {height} is running here")]
    StaleRound {
        /// Of this height.
        height: Height,
        /// The message's.
        found: Round,
        /// Running here.
        current: Round,
    },
    /// The round is too far ahead to be kept.
    #[error("is about round {found}, too far above round {current} of height {height} that is running here")]
    EarlyRound {
        /// Of this height.
        height: Height,
        /// The message's.
        found: Round,
        /// Running here.
        current: Round,
    },
    /// There is no room to keep it until its height comes.
    #[error("the buffer for height {height} has no room for another {what} of validator {validator}")]
    NoRoom {
        /// The next height.
        height: Height,
        /// Kind of message.
        what: &'static str,
        /// Who signed it.
        validator: ValidatorIndex,
    },
    /// It is here already.
    #[error("the {what} of validator {validator} for height {height}, round {round} is known")]
    Duplicate {
        /// Kind of message.
        what: &'static str,
        /// Who signed it.
        validator: ValidatorIndex,
        /// About this height.
        height: Height,
        /// About this round.
        round: Round,
    },
    /// The signer has no vote.
    #[error("validator {validator} is not in the set of height {height}")]
    UnknownValidator {
        /// Index named.
        validator: ValidatorIndex,
        /// At this height.
        height: Height,
    },
    /// Somebody else leads the round.
    #[error("validator {found} proposes in round {round} of height {height}, which validator {expected} leads")]
    NotTheLeader {
        /// Of this height.
        height: Height,
        /// In this round.
        round: Round,
        /// Who proposes.
        found: ValidatorIndex,
        /// Who may.
        expected: ValidatorIndex,
    },
    /// The block does not extend the chain.
    #[error("the block proposed for height {height} extends {found}, the last block is {expected}")]
    WrongParent {
        /// The proposal's.
        height: Height,
        /// The parent named.
        found: BlockId,
        /// The last block here.
        expected: BlockId,
    },
    /// What the proposal carries is not what its header commits to. The leader's signature covers the header only, so
    /// anybody may have put it there.
    #[error("block {block}: the {part} carried with the proposal is not what the header commits to")]
    NotInHeader {
        /// The block.
        block: BlockId,
        /// Which part.
        part: &'static str,
    },
    /// The round certificate is missing, unexpected, or for another round.
    #[error("the proposal for height {height}, round {round} is not justified: {reason}")]
    NotJustified {
        /// The proposal's.
        height: Height,
        /// The proposal's.
        round: Round,
        /// What is wrong.
        reason: &'static str,
    },
    /// Another block was prepared before and must be proposed again.
    #[error("round {round} of height {height} must propose block {expected} again, which was prepared; found {found}")]
    NotTheClaim {
        /// The proposal's.
        height: Height,
        /// The proposal's.
        round: Round,
        /// The block proposed.
        found: BlockId,
        /// The block of the highest claim.
        expected: BlockId,
    },
    /// Nothing was prepared before, so the leader must propose a block of its own.
    #[error("round {round} of height {height} is free, but its leader {leader} proposes a block made by {proposer}")]
    NotFresh {
        /// The proposal's.
        height: Height,
        /// The proposal's.
        round: Round,
        /// Who proposes.
        leader: ValidatorIndex,
        /// Who made the block.
        proposer: ValidatorIndex,
    },
    /// The signer has signed something else for the same height, round and phase: evidence.
    #[error(
        "validator {validator} voted {phase:?} in round {round} of height {height} for block {kept} before, \
         now for {found}"
    )]
    Conflict {
        /// Who.
        validator: ValidatorIndex,
        /// At this height.
        height: Height,
        /// In this round.
        round: Round,
        /// In this phase.
        phase: Phase,
        /// What counts.
        kept: BlockId,
        /// What does not.
        found: BlockId,
    },
    /// The signer has claimed something else for the same round.
    #[error("validator {validator} made another claim for round {round} of height {height} before")]
    ConflictingViewChange {
        /// Who.
        validator: ValidatorIndex,
        /// At this height.
        height: Height,
        /// For this round.
        round: Round,
    },
    /// Signed with this node's key, and this node does not remember it: the safety log is lost, or a second copy runs.
    #[error(
        "a {what} for height {height}, round {round} is signed with this node's key, but not by this process; it \
         stays silent at this height"
    )]
    Foreign {
        /// Kind of message.
        what: &'static str,
        /// About this height.
        height: Height,
        /// About this round.
        round: Round,
    },
}

impl ConsensusError {
    /// What it says about the peer that sent the message. Relaying is not signing: what a peer that is a height behind
    /// cannot see is no fault of that peer.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Duplicate { .. }
            | Self::Conflict { .. }
            | Self::ConflictingViewChange { .. }
            | Self::Foreign { .. }
            | Self::NoRoom { .. } => Fault::None,
            Self::StaleHeight { .. }
            | Self::EarlyHeight { .. }
            | Self::StaleRound { .. }
            | Self::EarlyRound { .. }
            | Self::NotTheLeader { .. }
            | Self::WrongParent { .. } => Fault::Late,
            Self::UnknownValidator { .. }
            | Self::NotInHeader { .. }
            | Self::NotJustified { .. }
            | Self::NotTheClaim { .. }
            | Self::NotFresh { .. } => Fault::Hostile,
        }
    }
}
