//! What messages do: where they belong, what contradicts what, what is kept.

use super::{
    Action, Consensus, ConsensusError, Evidence, changes::Noted, check, height::Accepted, pace::RESEND_MIN_MS, rules,
    votes::Added,
};
use crate::primitives::{
    BlockId, BlockVote, Gossip, Height, Phase, Proposal, Round, Signature, ValidatorIndex, ViewChange,
};

/// Rounds above the current one that votes are kept for.
const MAX_ROUNDS_AHEAD: u32 = 128;
/// Rounds above the current one in which one validator's votes are kept.
const MAX_LATER_ROUNDS: usize = 4;

/// How a message's height lies.
pub(super) enum When {
    Last,
    Now,
    Next,
}

impl Consensus {
    pub(super) fn when(&self, found: Height) -> Result<When, ConsensusError> {
        let current = self.at.height;
        match found {
            _ if found == current => Ok(When::Now),
            _ if found == current.next() => Ok(When::Next),
            _ if found > current => Err(ConsensusError::EarlyHeight { found, current }),
            _ if found == current.previous() && self.last.is_some() => Ok(When::Last),
            _ => Err(ConsensusError::StaleHeight { found, current }),
        }
    }

    pub(super) fn member(&self, validator: ValidatorIndex, height: Height) -> Result<(), ConsensusError> {
        match self.config.electorate.of_height(height).power(validator) {
            0 => Err(ConsensusError::UnknownValidator { validator, height }),
            _ => Ok(()),
        }
    }

    pub(super) fn take_proposal(&mut self, proposal: Proposal) -> Result<(), ConsensusError> {
        let block = self.check_proposal(&proposal)?;
        let vote = BlockVote {
            height: proposal.height,
            round: proposal.round,
            phase: Phase::Propose,
            block,
            validator: proposal.leader,
            signature: proposal.signature,
        };
        if self.at.me == Some(proposal.leader) && !self.at.voice.hear_proposal(&proposal, block) {
            self.foreign("proposal", vote.round)?;
        }
        // A proposal that is refused below may still be half of a contradiction.
        let conflict = self.count(&vote);
        let fresh = check::fresh(&proposal, block).inspect_err(|_| self.stats.refused += 1)?;
        if proposal.round > self.at.round || !self.at.entered {
            match &proposal.justification {
                Some(certificate) if self.at.decided.is_none() && certificate.round >= self.at.round => {
                    self.enter(certificate.clone());
                }
                _ => {}
            }
        }
        let current = proposal.round == self.at.round && self.at.entered && self.at.decided.is_none();
        if current && self.at.accepted.is_none() {
            self.at.accepted = Some(Accepted { block, fresh });
            if self.at.justification.is_none() {
                self.at.justification.clone_from(&proposal.justification);
            }
        } else if let Err(error) = conflict
            && !self.at.is_wanted(&block)
        {
            return Err(error);
        } else if !self.at.is_wanted(&block) && !self.at.has_room() {
            return Err(self.stale_round(proposal.round));
        }
        self.keep(block, proposal);
        Ok(())
    }

    /// What does not depend on what was seen of this height before.
    fn check_proposal(&self, proposal: &Proposal) -> Result<BlockId, ConsensusError> {
        let (height, round, leader) = (proposal.height, proposal.round, proposal.leader);
        let chain = &self.config.electorate.chain;
        let block = proposal.block_id(chain);
        let known = self.at.bodies.get(&block).is_some_and(|known| known.round >= round);
        let missed = round == self.at.round && self.at.entered && self.at.accepted.is_none();
        if known && !missed {
            return Err(ConsensusError::Duplicate {
                what: "proposal",
                validator: leader,
                height,
                round,
            });
        }
        check::form(chain, proposal, block)?;
        let expected = self.leaders.leader(round);
        if expected != leader {
            return Err(ConsensusError::NotTheLeader {
                height,
                round,
                found: leader,
                expected,
            });
        }
        if proposal.header.parent != self.at.parent {
            return Err(ConsensusError::WrongParent {
                height,
                found: proposal.header.parent,
                expected: self.at.parent,
            });
        }
        Ok(block)
    }

    fn keep(&mut self, block: BlockId, proposal: Proposal) {
        let first = !self.at.bodies.contains_key(&block);
        self.at.keep(block, proposal);
        if let Some(certificate) = self
            .at
            .decided
            .clone()
            .filter(|decided| first && decided.block == block)
        {
            self.actions.push(Action::Decided {
                certificate,
                proposal: self.at.bodies.get(&block).cloned(),
            });
        }
    }

    pub(super) fn take_vote(&mut self, vote: BlockVote) -> Result<(), ConsensusError> {
        let current = self.at.round;
        if vote.round.0 > current.0.saturating_add(MAX_ROUNDS_AHEAD) {
            return Err(ConsensusError::EarlyRound {
                height: vote.height,
                found: vote.round,
                current,
            });
        }
        if vote.round.0 < current.0.saturating_sub(rules::MAX_ROUNDS_BEHIND) {
            return Err(self.stale_round(vote.round));
        }
        if vote.round > current {
            self.make_room(&vote)?;
        }
        if self.at.me == Some(vote.validator) && !self.at.voice.hear_vote(&vote) {
            self.foreign("vote", vote.round)?;
        }
        self.count(&vote)
    }

    /// Of a validator's votes in rounds to come, the latest rounds are kept.
    fn make_room(&mut self, vote: &BlockVote) -> Result<(), ConsensusError> {
        let rounds = self.at.votes.rounds_of(vote.validator, self.at.round);
        if rounds.contains(&vote.round) || rounds.len() < MAX_LATER_ROUNDS {
            return Ok(());
        }
        if vote.round < rounds[0] {
            return Err(ConsensusError::EarlyRound {
                height: vote.height,
                found: vote.round,
                current: self.at.round,
            });
        }
        self.at.votes.forget(&self.at.set, vote.validator, rounds[0]);
        Ok(())
    }

    fn count(&mut self, vote: &BlockVote) -> Result<(), ConsensusError> {
        match self.at.votes.add(&self.at.set, vote) {
            Added::New => {
                self.stats.votes += 1;
                Ok(())
            }
            Added::Known => Err(ConsensusError::Duplicate {
                what: "vote",
                validator: vote.validator,
                height: vote.height,
                round: vote.round,
            }),
            Added::Conflict { kept, signature } => Err(self.accuse(vote, kept, signature)),
        }
    }

    fn accuse(&mut self, second: &BlockVote, kept: BlockId, signature: Signature) -> ConsensusError {
        if self
            .at
            .accused
            .insert((second.validator, second.height, second.round, second.phase))
        {
            self.stats.evidence += 1;
            let first = BlockVote {
                block: kept,
                signature,
                ..second.clone()
            };
            self.actions.push(Action::Evidence(Evidence {
                first,
                second: second.clone(),
            }));
        }
        ConsensusError::Conflict {
            validator: second.validator,
            height: second.height,
            round: second.round,
            phase: second.phase,
            kept,
            found: second.block,
        }
    }

    pub(super) fn take_change(&mut self, change: ViewChange) -> Result<(), ConsensusError> {
        if self.at.me == Some(change.validator) && !self.at.voice.hear_change(&change) {
            self.foreign("view change", change.round)?;
        }
        let (validator, height, round) = (change.validator, change.height, change.round);
        if round < self.at.round {
            return Err(self.stale_round(round));
        }
        match self.at.changes.add(&change) {
            Noted::New => {
                self.stats.votes += 1;
                Ok(())
            }
            Noted::Known => Err(ConsensusError::Duplicate {
                what: "view change",
                validator,
                height,
                round,
            }),
            Noted::Old => Err(self.stale_round(round)),
            Noted::Conflict => Err(ConsensusError::ConflictingViewChange {
                validator,
                height,
                round,
            }),
        }
    }

    /// A Commit for the decided block of the height before still joins its certificate. Any other vote there shows that
    /// its sender is behind.
    pub(super) fn take_late_vote(&mut self, vote: BlockVote) -> Result<(), ConsensusError> {
        let (phase, round, block) = (vote.phase, vote.round, vote.block);
        let Some(last) = self.last.as_mut() else {
            return Err(self.behind(vote.height));
        };
        if phase != Phase::Commit || round != last.round {
            return Err(match phase {
                Phase::Commit => self.stale_height(vote.height),
                _ => self.behind(vote.height),
            });
        }
        let own = self.config.electorate.of_height(vote.height);
        let own = self.config.own.as_ref().and_then(|key| own.index_of(key));
        match last.signatures.get(&vote.validator).copied() {
            _ if block != last.block => Err(match last.signatures.get(&vote.validator).copied() {
                Some(signature) => {
                    let kept = last.block;
                    self.accuse(&vote, kept, signature)
                }
                None => self.stale_height(vote.height),
            }),
            Some(_) => Err(ConsensusError::Duplicate {
                what: "vote",
                validator: vote.validator,
                height: vote.height,
                round,
            }),
            None => {
                last.signatures.insert(vote.validator, vote.signature);
                if own == Some(vote.validator) {
                    last.commit = Some(Gossip::BlockVote(vote));
                }
                Ok(())
            }
        }
    }

    /// Somebody still works on the height before: the own Commit is sent again for it, now and then.
    pub(super) fn behind(&mut self, found: Height) -> ConsensusError {
        let now = self.pace.now;
        if let Some(last) = self.last.as_mut()
            && now.ms_since(last.helped) >= RESEND_MIN_MS
            && let Some(commit) = &last.commit
            && self.voting
        {
            last.helped = now;
            self.stats.resends += 1;
            self.actions.push(Action::Resend(commit.clone()));
        }
        self.stale_height(found)
    }

    /// The own key speaks, and not from here. Whatever is said at this height could contradict it.
    fn foreign(&mut self, what: &'static str, round: Round) -> Result<(), ConsensusError> {
        self.at.voice.muted = true;
        self.stats.foreign += 1;
        Err(ConsensusError::Foreign {
            what,
            height: self.at.height,
            round,
        })
    }

    const fn stale_height(&self, found: Height) -> ConsensusError {
        ConsensusError::StaleHeight {
            found,
            current: self.at.height,
        }
    }

    const fn stale_round(&self, found: Round) -> ConsensusError {
        ConsensusError::StaleRound {
            height: self.at.height,
            found,
            current: self.at.round,
        }
    }

    pub(super) fn finish(&mut self, result: Result<(), ConsensusError>) -> Result<(), ConsensusError> {
        match &result {
            Ok(()) => {}
            Err(ConsensusError::Duplicate { .. }) => self.stats.duplicates += 1,
            Err(ConsensusError::StaleHeight { .. } | ConsensusError::StaleRound { .. }) => self.stats.stale += 1,
            Err(
                ConsensusError::EarlyHeight { .. } | ConsensusError::EarlyRound { .. } | ConsensusError::NoRoom { .. },
            ) => self.stats.early += 1,
            Err(ConsensusError::ConflictingViewChange { .. }) => self.stats.conflicting_view_changes += 1,
            Err(_) => {}
        }
        self.advance();
        result
    }
}
