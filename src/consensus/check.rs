//! What of a proposal can be judged without the ledger.

use super::ConsensusError;
use crate::primitives::{
    BlockId, ChainId, Hash, Phase, Proposal, Round,
    block::{rejections_root, seals_root, transactions_root},
};

/// Whether the proposal is of one piece: its header commits to what it carries, and its certificates are about its
/// height and round. The leader's signature covers the header only, so this comes before anything is believed.
pub(super) fn form(chain: &ChainId, proposal: &Proposal, block: BlockId) -> Result<(), ConsensusError> {
    let header = &proposal.header;
    let checks = [
        ("height", header.height == proposal.height),
        ("last commit certificate", carries_last_commit(proposal)),
        ("list of seals", seals_root(chain, &proposal.seals) == header.seals_root),
        (
            "list of rejections",
            rejections_root(&proposal.rejections) == header.rejections_root,
        ),
        (
            "list of transactions",
            transactions_root(&proposal.txids) == header.transactions_root,
        ),
    ];
    match checks.iter().find(|(_, right)| !right) {
        Some((part, _)) => Err(ConsensusError::NotInHeader { block, part }),
        None => justified(proposal),
    }
}

fn carries_last_commit(proposal: &Proposal) -> bool {
    let header = &proposal.header;
    match &proposal.last_commit {
        None => header.height.0 <= 1 && header.last_commit_hash == Hash::default(),
        Some(commit) => {
            header.height.0 > 1
                && commit.height == header.height.previous()
                && commit.phase == Phase::Commit
                && commit.block == header.parent
                && commit.hash() == header.last_commit_hash
        }
    }
}

fn justified(proposal: &Proposal) -> Result<(), ConsensusError> {
    let reason = match &proposal.justification {
        None if proposal.round == Round(0) => return Ok(()),
        None => "the round certificate is missing",
        Some(_) if proposal.round == Round(0) => "round 0 needs no round certificate",
        Some(certificate) if (certificate.height, certificate.round) != (proposal.height, proposal.round) => {
            "the round certificate is for another round"
        }
        Some(_) => return Ok(()),
    };
    Err(ConsensusError::NotJustified {
        height: proposal.height,
        round: proposal.round,
        reason,
    })
}

/// The one rule that ties rounds together: the block of the highest claim must be proposed again; without a claim, the
/// leader proposes a block of its own. Answers whether the block is fresh.
pub(super) fn fresh(proposal: &Proposal, block: BlockId) -> Result<bool, ConsensusError> {
    let claim = proposal.justification.as_ref().and_then(|round| round.highest_claim());
    match claim {
        Some(claim) if !planted!(IgnorePrepared) => {
            if claim.block == block {
                Ok(false)
            } else {
                Err(ConsensusError::NotTheClaim {
                    height: proposal.height,
                    round: proposal.round,
                    found: block,
                    expected: claim.block,
                })
            }
        }
        _ if proposal.header.proposer == proposal.leader => Ok(true),
        _ => Err(ConsensusError::NotFresh {
            height: proposal.height,
            round: proposal.round,
            leader: proposal.leader,
            proposer: proposal.header.proposer,
        }),
    }
}
