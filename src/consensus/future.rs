//! What came too early: messages for the next height, kept until it begins. Bounded per validator.

use super::ConsensusError;
use crate::primitives::{BlockVote, Height, Phase, Proposal, Round, ValidatorIndex, ViewChange};
use std::collections::BTreeMap;

/// Votes kept of each validator: two phases of four rounds.
const MAX_VOTES: usize = 8;
/// Proposals kept of all validators together; they are large, and their leaders say them again.
const MAX_PROPOSALS: usize = 8;

/// Messages for the next height.
#[derive(Clone, Debug, Default)]
pub(super) struct Future {
    proposals: BTreeMap<ValidatorIndex, Proposal>,
    votes: BTreeMap<ValidatorIndex, BTreeMap<(Round, Phase), BlockVote>>,
    changes: BTreeMap<ValidatorIndex, ViewChange>,
}

impl Future {
    /// How many messages are kept.
    pub(super) fn len(&self) -> usize {
        self.proposals.len() + self.changes.len() + self.votes.values().map(BTreeMap::len).sum::<usize>()
    }

    /// Keeps a leader's latest proposal.
    pub(super) fn keep_proposal(&mut self, proposal: Proposal) -> Result<(), ConsensusError> {
        let leader = proposal.leader;
        match self.proposals.get(&leader) {
            Some(kept) if kept.round >= proposal.round => {
                return Err(ConsensusError::Duplicate {
                    what: "proposal",
                    validator: leader,
                    height: proposal.height,
                    round: proposal.round,
                });
            }
            None if self.proposals.len() == MAX_PROPOSALS => {
                return Err(no_room(proposal.height, "proposal", leader));
            }
            _ => self.proposals.insert(leader, proposal),
        };
        Ok(())
    }

    /// Keeps a vote; a validator's latest rounds drive out its earlier ones.
    pub(super) fn keep_vote(&mut self, vote: BlockVote) -> Result<(), ConsensusError> {
        let votes = self.votes.entry(vote.validator).or_default();
        let key = (vote.round, vote.phase);
        if votes.contains_key(&key) {
            return Err(ConsensusError::Duplicate {
                what: "vote",
                validator: vote.validator,
                height: vote.height,
                round: vote.round,
            });
        }
        if votes.len() == MAX_VOTES {
            if votes.keys().next().is_some_and(|lowest| key < *lowest) {
                return Err(no_room(vote.height, "vote", vote.validator));
            }
            votes.pop_first();
        }
        votes.insert(key, vote);
        Ok(())
    }

    /// Keeps a validator's highest view change.
    pub(super) fn keep_change(&mut self, change: ViewChange) -> Result<(), ConsensusError> {
        match self.changes.get(&change.validator) {
            Some(kept) if kept.round >= change.round => Err(ConsensusError::Duplicate {
                what: "view change",
                validator: change.validator,
                height: change.height,
                round: change.round,
            }),
            _ => {
                self.changes.insert(change.validator, change);
                Ok(())
            }
        }
    }

    /// Gives everything away; empty afterwards.
    pub(super) fn take(&mut self) -> (Vec<Proposal>, Vec<BlockVote>, Vec<ViewChange>) {
        let all = std::mem::take(self);
        (
            all.proposals.into_values().collect(),
            all.votes.into_values().flat_map(BTreeMap::into_values).collect(),
            all.changes.into_values().collect(),
        )
    }
}

const fn no_room(height: Height, what: &'static str, validator: ValidatorIndex) -> ConsensusError {
    ConsensusError::NoRoom {
        height,
        what,
        validator,
    }
}
