//! The ballots of one height: who voted for which block in which round and phase.

use crate::primitives::{
    BlockCertificate, BlockId, BlockVote, Height, Phase, Round, Signature, ValidatorIndex, ValidatorSet,
};
use std::collections::BTreeMap;

/// What became of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It counts.
    New,
    /// It counted before.
    Known,
    /// The validator voted for another block; that one counts, this one does not.
    Conflict {
        /// The block that counts.
        kept: BlockId,
        /// The vote's signature.
        signature: Signature,
    },
}

/// One phase of one round. Each validator has one voice, so this is bounded by the set.
#[derive(Clone, Debug, Default)]
struct Ballot {
    voices: BTreeMap<ValidatorIndex, (BlockId, Signature)>,
    power: BTreeMap<BlockId, u128>,
}

impl Ballot {
    fn find(&self, enough: impl Fn(u128) -> bool) -> Option<BlockId> {
        self.power
            .iter()
            .find(|(_, power)| enough(**power))
            .map(|(block, _)| *block)
    }

    fn remove(&mut self, set: &ValidatorSet, validator: ValidatorIndex) {
        if let Some((block, _)) = self.voices.remove(&validator)
            && let Some(power) = self.power.get_mut(&block)
        {
            *power -= set.power(validator);
            if *power == 0 {
                self.power.remove(&block);
            }
        }
    }
}

/// All ballots of one height.
#[derive(Clone, Debug, Default)]
pub(super) struct Votes {
    ballots: BTreeMap<(Round, Phase), Ballot>,
}

impl Votes {
    /// Counts a vote of a member of the set. The first of a validator's votes in a ballot is the one that counts.
    pub(super) fn add(&mut self, set: &ValidatorSet, vote: &BlockVote) -> Added {
        let ballot = self.ballots.entry((vote.round, vote.phase)).or_default();
        match ballot.voices.get(&vote.validator) {
            Some((kept, _)) if *kept == vote.block => Added::Known,
            Some((kept, signature)) => Added::Conflict {
                kept: *kept,
                signature: *signature,
            },
            None => {
                ballot.voices.insert(vote.validator, (vote.block, vote.signature));
                *ballot.power.entry(vote.block).or_default() += set.power(vote.validator);
                Added::New
            }
        }
    }

    /// The block that a quorum prepared in a round.
    pub(super) fn prepared(&self, set: &ValidatorSet, round: Round) -> Option<BlockId> {
        self.ballots
            .get(&(round, Phase::Prepare))?
            .find(|power| set.is_quorum(power))
    }

    /// The block that a quorum committed, in whatever round.
    pub(super) fn committed(&self, set: &ValidatorSet) -> Option<(Round, BlockId)> {
        let commits = self.ballots.iter().filter(|((_, phase), _)| *phase == Phase::Commit);
        commits
            .filter_map(|((round, _), ballot)| Some((*round, ballot.find(|power| set.is_quorum(power))?)))
            .next()
    }

    /// Blocks that more than a third stands behind in some ballot: at least one correct validator has seen them.
    pub(super) fn named(&self, set: &ValidatorSet) -> impl Iterator<Item = BlockId> {
        let votes = self.ballots.iter().filter(|((_, phase), _)| *phase != Phase::Propose);
        votes.filter_map(|(_, ballot)| ballot.find(|power| set.exceeds_third(power)))
    }

    /// The votes of a ballot for one block, as a certificate.
    pub(super) fn certificate(&self, height: Height, round: Round, phase: Phase, block: BlockId) -> BlockCertificate {
        let voices = self.ballots.get(&(round, phase)).into_iter().flat_map(|b| &b.voices);
        BlockCertificate {
            height,
            round,
            phase,
            block,
            signatures: voices
                .filter(|(_, (voted, _))| *voted == block)
                .map(|(validator, (_, signature))| (*validator, *signature))
                .collect(),
        }
    }

    /// How many have voted in a ballot.
    pub(super) fn count(&self, round: Round, phase: Phase) -> usize {
        self.ballots
            .get(&(round, phase))
            .map_or(0, |ballot| ballot.voices.len())
    }

    /// Whether nobody has voted at all.
    pub(super) fn is_empty(&self) -> bool {
        self.ballots.is_empty()
    }

    /// Rounds above `round` that a validator has voted in, ascending.
    pub(super) fn rounds_of(&self, validator: ValidatorIndex, above: Round) -> Vec<Round> {
        let later = self.ballots.range((above.next(), Phase::Propose)..);
        let mut rounds: Vec<Round> = later
            .filter(|(_, ballot)| ballot.voices.contains_key(&validator))
            .map(|((round, _), _)| *round)
            .collect();
        rounds.dedup();
        rounds
    }

    /// Forgets a validator's votes in one round.
    pub(super) fn forget(&mut self, set: &ValidatorSet, validator: ValidatorIndex, round: Round) {
        for phase in [Phase::Propose, Phase::Prepare, Phase::Commit] {
            if let Some(ballot) = self.ballots.get_mut(&(round, phase)) {
                ballot.remove(set, validator);
                if ballot.voices.is_empty() {
                    self.ballots.remove(&(round, phase));
                }
            }
        }
    }

    /// Forgets all rounds below `round`.
    pub(super) fn forget_below(&mut self, round: Round) {
        self.ballots = self.ballots.split_off(&(round, Phase::Propose));
    }
}
