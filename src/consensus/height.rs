//! Everything that is known about the height being decided, and what is left of the one before.

use super::{Mark, changes::ViewChanges, pace::BackOff, voice::Voice, votes::Votes};
use crate::primitives::{
    BlockCertificate, BlockId, Gossip, Height, Phase, Proposal, Round, RoundCertificate, Signature, Time,
    ValidatorIndex, ValidatorSet,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Proposals kept of one height, those that votes or claims name aside.
const MAX_BODIES: usize = 8;

/// The proposal that counts in the current round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    pub(super) block: BlockId,
    /// Made for this round, not proposed again: the local clock has a say.
    pub(super) fresh: bool,
}

/// The height being decided.
#[derive(Debug)]
pub(super) struct Deciding {
    pub(super) height: Height,
    pub(super) parent: BlockId,
    pub(super) set: Arc<ValidatorSet>,
    /// This node's index in the set.
    pub(super) me: Option<ValidatorIndex>,
    /// The round that runs, or that is wanted when it is not entered.
    pub(super) round: Round,
    pub(super) entered: bool,
    /// The right to be in `round`.
    pub(super) justification: Option<RoundCertificate>,
    pub(super) accepted: Option<Accepted>,
    pub(super) votes: Votes,
    pub(super) changes: ViewChanges,
    pub(super) voice: Voice,
    pub(super) bodies: BTreeMap<BlockId, Arc<Proposal>>,
    pub(super) verdicts: BTreeMap<BlockId, bool>,
    /// Blocks that the replica was asked to validate in this round.
    pub(super) asked: BTreeSet<BlockId>,
    /// Blocks that are needed and not here, and when to ask for each.
    pub(super) missing: BTreeMap<BlockId, BackOff>,
    /// Whose contradictions were reported.
    pub(super) accused: BTreeSet<(ValidatorIndex, Height, Round, Phase)>,
    pub(super) decided: Option<BlockCertificate>,
}

impl Deciding {
    pub(super) fn new(height: Height, parent: BlockId, set: Arc<ValidatorSet>, me: Option<ValidatorIndex>) -> Self {
        Self {
            height,
            parent,
            set,
            me,
            round: Round(0),
            entered: true,
            justification: None,
            accepted: None,
            votes: Votes::default(),
            changes: ViewChanges::default(),
            voice: Voice::new(height),
            bodies: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            asked: BTreeSet::new(),
            missing: BTreeMap::new(),
            accused: BTreeSet::new(),
            decided: None,
        }
    }

    /// Takes a mark of this height back and stands where it was made.
    pub(super) fn restore(&mut self, mark: &Mark) {
        let Some(me) = self.me else { return };
        self.voice.restore(mark);
        (self.round, self.entered) = self.voice.resume(me);
        if let Mark::Prepared { proposal, certificate } = mark {
            self.bodies.insert(certificate.block, proposal.clone());
        }
    }

    /// Whether anybody has begun to decide.
    pub(super) fn has_begun(&self) -> bool {
        self.accepted.is_some() || !self.votes.is_empty() || !self.changes.is_empty()
    }

    /// Whether a block's proposal is worth keeping beyond its round.
    pub(super) fn is_wanted(&self, block: &BlockId) -> bool {
        let claim = self.justification.as_ref().and_then(|round| round.highest_claim());
        self.missing.contains_key(block)
            || claim.is_some_and(|claim| claim.block == *block)
            || self.decided.as_ref().is_some_and(|decided| decided.block == *block)
            || self.votes.named(&self.set).any(|named| named == *block)
    }

    /// Whether there is room for the proposal of a round that is over.
    pub(super) fn has_room(&self) -> bool {
        self.bodies.len() < MAX_BODIES
    }

    /// Keeps a proposal; of one block the latest round's.
    pub(super) fn keep(&mut self, block: BlockId, proposal: Proposal) {
        let newer = |kept: &Arc<Proposal>| kept.round < proposal.round;
        if self.bodies.get(&block).is_none_or(newer) {
            self.bodies.insert(block, Arc::new(proposal));
        }
        self.missing.remove(&block);
        while self.bodies.len() > MAX_BODIES {
            let prepared = self.voice.prepared().map(|proposal| &proposal.header);
            let oldest = self
                .bodies
                .iter()
                .filter(|(other, body)| **other != block && Some(&body.header) != prepared && !self.is_wanted(other))
                .min_by_key(|(_, body)| body.round)
                .map(|(block, _)| *block);
            let Some(oldest) = oldest else { break };
            self.bodies.remove(&oldest);
            self.verdicts.remove(&oldest);
        }
    }
}

/// The height that was decided last: its votes go on being gathered.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) height: Height,
    pub(super) round: Round,
    pub(super) block: BlockId,
    pub(super) signatures: BTreeMap<ValidatorIndex, Signature>,
    pub(super) proposal: Option<Arc<Proposal>>,
    /// The own Commit, for those who are behind, and when it was sent last.
    pub(super) commit: Option<Gossip>,
    pub(super) helped: Time,
}

impl Decided {
    pub(super) fn new(certificate: &BlockCertificate, now: Time) -> Self {
        Self {
            height: certificate.height,
            round: certificate.round,
            block: certificate.block,
            signatures: certificate.signatures.iter().copied().collect(),
            proposal: None,
            commit: None,
            helped: now,
        }
    }

    /// What stays of a height when it is over.
    pub(super) fn after(deciding: &Deciding, certificate: &BlockCertificate, now: Time) -> Self {
        let mut decided = Self::new(certificate, now);
        let own = deciding
            .votes
            .certificate(certificate.height, certificate.round, Phase::Commit, certificate.block);
        decided.signatures.extend(own.signatures);
        decided.proposal = deciding.bodies.get(&certificate.block).cloned();
        decided.commit = deciding.voice.commit();
        decided
    }

    /// The commit certificate with all votes that came.
    pub(super) fn certificate(&self) -> BlockCertificate {
        BlockCertificate {
            height: self.height,
            round: self.round,
            phase: Phase::Commit,
            block: self.block,
            signatures: self
                .signatures
                .iter()
                .map(|(validator, signature)| (*validator, *signature))
                .collect(),
        }
    }
}
