//! The view changes of one height: who has left which rounds, and what they saw prepared.

use crate::primitives::{
    BlockCertificate, PreparedClaim, Round, RoundCertificate, Signature, ValidatorIndex, ValidatorSet, ViewChange,
    certificate::ViewChangeVote,
};
use std::collections::BTreeMap;

/// Rounds for which a validator's view changes are kept: its latest ones.
const MAX_ROUNDS: usize = 4;

/// What became of a view change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    New,
    Known,
    /// It made another claim for this round before; that one counts.
    Conflict,
    /// It has gone on through several rounds since.
    Old,
}

#[derive(Clone, Copy, Debug)]
struct Voice {
    prepared: Option<PreparedClaim>,
    signature: Signature,
}

/// All view changes of one height, the certificates behind their claims kept once for each claim.
#[derive(Clone, Debug, Default)]
pub(super) struct ViewChanges {
    voices: BTreeMap<ValidatorIndex, BTreeMap<Round, Voice>>,
    proofs: BTreeMap<PreparedClaim, BlockCertificate>,
}

impl ViewChanges {
    /// Notes a view change of a member of the set.
    pub(super) fn add(&mut self, change: &ViewChange) -> Noted {
        let rounds = self.voices.entry(change.validator).or_default();
        if let Some(voice) = rounds.get(&change.round) {
            return if voice.prepared == change.prepared {
                Noted::Known
            } else {
                Noted::Conflict
            };
        }
        let lowest = rounds.keys().next().copied();
        if rounds.len() == MAX_ROUNDS {
            if lowest.is_some_and(|lowest| change.round < lowest) {
                return Noted::Old;
            }
            rounds.pop_first();
        }
        let voice = Voice {
            prepared: change.prepared,
            signature: change.signature,
        };
        rounds.insert(change.round, voice);
        if let (Some(claim), Some(proof)) = (change.prepared, &change.certificate) {
            self.proofs.entry(claim).or_insert_with(|| proof.clone());
        }
        self.drop_unclaimed();
        Noted::New
    }

    /// The highest round from `from` on that a quorum wants to enter.
    pub(super) fn quorum(&self, set: &ValidatorSet, from: Round) -> Option<Round> {
        let mut power: BTreeMap<Round, u128> = BTreeMap::new();
        for (validator, rounds) in &self.voices {
            for round in rounds.range(from..).map(|(round, _)| *round) {
                *power.entry(round).or_default() += set.power(*validator);
            }
        }
        power
            .into_iter()
            .rev()
            .find(|(_, power)| set.is_quorum(*power))
            .map(|(round, _)| round)
    }

    /// Whether a quorum has left all rounds below `round`.
    pub(super) fn reached(&self, set: &ValidatorSet, round: Round) -> bool {
        let power = self
            .highest()
            .filter(|(_, highest)| *highest >= round)
            .map(|(validator, _)| set.power(validator))
            .sum();
        set.is_quorum(power)
    }

    /// The lowest round above `round` that validators with more than a third of the power have gone on to, one correct
    /// validator among them.
    pub(super) fn join(&self, set: &ValidatorSet, round: Round) -> Option<Round> {
        let later = || self.highest().filter(|(_, highest)| *highest > round);
        let power = later().map(|(validator, _)| set.power(validator)).sum();
        let lowest = later().map(|(_, highest)| highest).min()?;
        set.exceeds_third(power).then_some(lowest)
    }

    /// The view changes for one round, as a certificate.
    pub(super) fn certificate(&self, height: crate::primitives::Height, round: Round) -> RoundCertificate {
        let votes = self.voices.iter().filter_map(|(validator, rounds)| {
            rounds.get(&round).map(|voice| ViewChangeVote {
                validator: *validator,
                prepared: voice.prepared,
                signature: voice.signature,
            })
        });
        let mut certificate = RoundCertificate {
            height,
            round,
            votes: votes.collect(),
            prepared: None,
        };
        certificate.prepared = certificate
            .highest_claim()
            .and_then(|claim| self.proofs.get(&claim).cloned());
        certificate
    }

    /// Whether nobody wants to leave.
    pub(super) fn is_empty(&self) -> bool {
        self.voices.is_empty()
    }

    /// Forgets view changes for rounds below `round`.
    pub(super) fn forget_below(&mut self, round: Round) {
        for rounds in self.voices.values_mut() {
            *rounds = rounds.split_off(&round);
        }
        self.voices.retain(|_, rounds| !rounds.is_empty());
        self.drop_unclaimed();
    }

    fn highest(&self) -> impl Iterator<Item = (ValidatorIndex, Round)> {
        self.voices
            .iter()
            .filter_map(|(validator, rounds)| Some((*validator, *rounds.last_key_value()?.0)))
    }

    fn drop_unclaimed(&mut self) {
        let voices = &self.voices;
        self.proofs.retain(|claim, _| {
            let mut all = voices.values().flat_map(BTreeMap::values);
            all.any(|voice| voice.prepared == Some(*claim))
        });
    }
}
