//! The one place that decides what this validator may sign at a height.
//!
//! Everything signed here is first a [`Mark`], and no mark contradicts another: one block for each round and phase, no
//! vote below the *floor*, which is the highest round signed in or changed to. A restart replays the marks into the same
//! state. What was said is kept to be said again, word for word.

use super::{Mark, Statement};
use crate::primitives::{
    BlockCertificate, BlockId, BlockVote, Gossip, Height, Phase, PreparedClaim, Proposal, Round, Signature,
    ValidatorIndex, ViewChange,
};
use std::{collections::BTreeMap, sync::Arc};

/// What stands where a signature will be.
pub(super) const UNSIGNED: Signature = Signature([0; 64]);

/// View changes that go on being said: the one that led into the round, and the one that leads out of it.
const MAX_CHANGES_SAID: usize = 2;

/// Statements by kind; the latest of each kind is said again until there is progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Change(Round),
    Vote(Phase),
}

/// A statement, and the signed message that it became.
#[derive(Clone, Debug)]
struct Said {
    statement: Statement,
    signed: Option<Gossip>,
}

/// What is to be said again.
#[allow(clippy::large_enum_variant, reason = "few, and gone at the end of the turn")]
pub(super) enum Again {
    /// Signed already.
    Signed(Gossip),
    /// Its signature never came back: lost in a restart.
    Unsigned(Statement),
}

/// Whether something may be signed.
#[derive(Debug, PartialEq)]
pub(super) enum Permit {
    /// It would contradict a mark.
    Refused,
    /// It has a mark already.
    Marked,
    /// Once this is remembered.
    New(Mark),
}

/// What this validator has signed at one height.
#[derive(Debug)]
pub(super) struct Voice {
    height: Height,
    floor: Round,
    signed: BTreeMap<(Round, Phase), BlockId>,
    changed: Option<ViewChange>,
    prepared: Option<(Arc<Proposal>, BlockCertificate)>,
    said: BTreeMap<Topic, Said>,
    /// Somebody else signs with this key, or what was signed is not known: not a word at this height.
    pub(super) muted: bool,
}

impl Voice {
    pub(super) const fn new(height: Height) -> Self {
        Self {
            height,
            floor: Round(0),
            signed: BTreeMap::new(),
            changed: None,
            prepared: None,
            said: BTreeMap::new(),
            muted: false,
        }
    }

    /// Takes back a mark of this height from the safety log.
    pub(super) fn restore(&mut self, mark: &Mark) {
        match mark {
            Mark::Signed {
                round, phase, block, ..
            } => {
                self.signed.insert((*round, *phase), *block);
                self.floor = self.floor.max(*round);
            }
            Mark::ViewChanged(change) => {
                if self.changed.as_ref().is_none_or(|known| known.round < change.round) {
                    self.changed = Some(change.clone());
                }
                self.floor = self.floor.max(change.round);
            }
            Mark::Prepared { proposal, certificate } => self.set_prepared(proposal.clone(), certificate.clone()),
        }
    }

    /// After all marks: the round to resume in and whether it was entered. What was said last will be said again.
    pub(super) fn resume(&mut self, me: ValidatorIndex) -> (Round, bool) {
        let floor = self.floor;
        self.said.clear();
        if let Some(change) = self.changed.clone() {
            self.note(Topic::Change(change.round), Statement::ViewChange(change));
        }
        for ((round, phase), block) in self.signed.clone() {
            if phase == Phase::Commit || (round == floor && phase == Phase::Prepare) {
                self.note_vote(round, phase, block, me);
            }
            if let Some((proposal, _)) = &self.prepared
                && (phase, round, me) == (Phase::Propose, floor, proposal.leader)
                && proposal.round == round
            {
                let unsigned = Proposal {
                    signature: UNSIGNED,
                    ..Proposal::clone(proposal)
                };
                self.note_proposal(unsigned);
            }
        }
        let voted = self.signed.keys().any(|(round, _)| *round == floor);
        let entered = floor == Round(0) || voted || self.prepared_round() == Some(floor);
        (floor, entered)
    }

    /// Whether anything was ever signed at this height.
    pub(super) fn is_blank(&self) -> bool {
        self.signed.is_empty() && self.changed.is_none()
    }

    /// What was signed in a round and phase.
    pub(super) fn signed(&self, round: Round, phase: Phase) -> Option<BlockId> {
        self.signed.get(&(round, phase)).copied()
    }

    /// May `block` be signed in this round and phase? A new permit is a promise: the caller remembers and says it.
    pub(super) fn permit(&mut self, round: Round, phase: Phase, block: BlockId) -> Permit {
        match self.signed.get(&(round, phase)) {
            _ if self.muted || round < self.floor => Permit::Refused,
            Some(signed) if *signed == block => Permit::Marked,
            Some(_) => Permit::Refused,
            None => {
                self.signed.insert((round, phase), block);
                self.floor = self.floor.max(round);
                Permit::New(Mark::Signed {
                    height: self.height,
                    round,
                    phase,
                    block,
                })
            }
        }
    }

    /// Records that a quorum prepared a block. Answers the mark, if this is the highest round so far.
    pub(super) fn prepare(&mut self, proposal: Arc<Proposal>, certificate: BlockCertificate) -> Option<Mark> {
        if self.prepared_round().is_some_and(|known| known >= certificate.round) {
            return None;
        }
        self.set_prepared(proposal.clone(), certificate.clone());
        Some(Mark::Prepared { proposal, certificate })
    }

    /// Leaves all rounds below `round`. Answers what to remember and say; `None` when that is said already or may not be.
    pub(super) fn change(&mut self, round: Round, me: ValidatorIndex) -> Option<ViewChange> {
        let voted = self.signed.keys().any(|(signed, _)| *signed >= round) || self.prepared_round() >= Some(round);
        let changed = self.changed.as_ref().is_some_and(|change| change.round >= round);
        if self.muted || round == Round(0) || voted || changed {
            return None;
        }
        let certificate = self.prepared.as_ref().map(|(_, certificate)| certificate.clone());
        let change = ViewChange {
            height: self.height,
            round,
            prepared: certificate.as_ref().map(|proof| PreparedClaim {
                round: proof.round,
                block: proof.block,
            }),
            certificate,
            validator: me,
            signature: UNSIGNED,
        };
        self.floor = self.floor.max(round);
        self.changed = Some(change.clone());
        // What was not signed so far goes with the round, and its mark with it; a Commit alone keeps both.
        self.said
            .retain(|topic, said| said.signed.is_some() || *topic == Topic::Vote(Phase::Commit));
        self.note(Topic::Change(round), Statement::ViewChange(change.clone()));
        let mut rounds = self.said.keys().filter_map(|topic| match topic {
            Topic::Change(round) => Some(*round),
            Topic::Vote(_) => None,
        });
        let lowest = rounds.next();
        if rounds.count() >= MAX_CHANGES_SAID
            && let Some(lowest) = lowest
        {
            self.said.remove(&Topic::Change(lowest));
        }
        Some(change)
    }

    /// A vote to say now and again.
    pub(super) fn note_vote(&mut self, round: Round, phase: Phase, block: BlockId, me: ValidatorIndex) -> Statement {
        let statement = Statement::BlockVote(BlockVote {
            height: self.height,
            round,
            phase,
            block,
            validator: me,
            signature: UNSIGNED,
        });
        self.note(Topic::Vote(phase), statement.clone());
        statement
    }

    /// A proposal to say now and again.
    pub(super) fn note_proposal(&mut self, proposal: Proposal) -> Statement {
        let statement = Statement::Proposal(proposal);
        self.note(Topic::Vote(Phase::Propose), statement.clone());
        statement
    }

    /// The proposal and prepare of earlier rounds are not said again in this one. A commit is: its round may yet decide.
    pub(super) fn enter(&mut self, round: Round) {
        self.said.retain(|topic, said| match (topic, &said.statement) {
            (Topic::Vote(Phase::Propose), Statement::Proposal(proposal)) => proposal.round >= round,
            (Topic::Vote(Phase::Prepare), Statement::BlockVote(vote)) => vote.round >= round,
            (Topic::Change(changed), _) => *changed >= round,
            _ => true,
        });
    }

    /// An own proposal came back signed. Answers whether this process said it.
    pub(super) fn hear_proposal(&mut self, proposal: &Proposal, block: BlockId) -> bool {
        self.hear(
            Topic::Vote(Phase::Propose),
            |said| matches!(said, Statement::Proposal(said) if said.round == proposal.round && said.header == proposal.header),
            || Gossip::Proposal(Box::new(proposal.clone())),
        );
        self.knows(proposal.round, Phase::Propose, block)
    }

    /// An own vote came back signed. Answers whether this process said it.
    pub(super) fn hear_vote(&mut self, vote: &BlockVote) -> bool {
        self.hear(
            Topic::Vote(vote.phase),
            |said| matches!(said, Statement::BlockVote(said) if said.round == vote.round && said.block == vote.block),
            || Gossip::BlockVote(vote.clone()),
        );
        self.knows(vote.round, vote.phase, vote.block)
    }

    /// An own view change came back signed. Answers whether this process said it.
    pub(super) fn hear_change(&mut self, change: &ViewChange) -> bool {
        self.hear(
            Topic::Change(change.round),
            |said| matches!(said, Statement::ViewChange(said) if said.prepared == change.prepared),
            || Gossip::ViewChange(change.clone()),
        );
        let claimed = |known: &ViewChange| known.prepared == change.prepared;
        match &self.changed {
            Some(known) if known.round == change.round => claimed(known),
            _ => change.round < self.floor,
        }
    }

    /// Everything that is said until there is progress.
    pub(super) fn again(&self) -> impl Iterator<Item = Again> {
        self.said.values().map(|said| match &said.signed {
            Some(gossip) => Again::Signed(gossip.clone()),
            None => Again::Unsigned(said.statement.clone()),
        })
    }

    /// The signed Commit of this height, for those who are behind.
    pub(super) fn commit(&self) -> Option<Gossip> {
        self.said.get(&Topic::Vote(Phase::Commit))?.signed.clone()
    }

    /// The block last seen prepared.
    pub(super) fn prepared(&self) -> Option<&Arc<Proposal>> {
        self.prepared.as_ref().map(|(proposal, _)| proposal)
    }

    /// Marks that still bind: those of the highest round, what was prepared, and the last Commit, which is said again.
    pub(super) fn marks(&self) -> Vec<Mark> {
        let last_commit = self.signed.keys().rfind(|(_, phase)| *phase == Phase::Commit);
        let binds = |key: &(Round, Phase)| key.0 >= self.floor || Some(key) == last_commit;
        let mut marks: Vec<Mark> = self
            .signed
            .iter()
            .filter(|(key, _)| binds(key))
            .map(|((round, phase), block)| Mark::Signed {
                height: self.height,
                round: *round,
                phase: *phase,
                block: *block,
            })
            .collect();
        marks.extend(self.changed.clone().map(Mark::ViewChanged));
        let prepared = self.prepared.clone();
        marks.extend(prepared.map(|(proposal, certificate)| Mark::Prepared { proposal, certificate }));
        marks
    }

    fn set_prepared(&mut self, proposal: Arc<Proposal>, certificate: BlockCertificate) {
        if self.prepared_round().is_none_or(|known| known < certificate.round) {
            self.floor = self.floor.max(certificate.round);
            self.prepared = Some((proposal, certificate));
        }
    }

    fn prepared_round(&self) -> Option<Round> {
        self.prepared.as_ref().map(|(_, certificate)| certificate.round)
    }

    fn note(&mut self, topic: Topic, statement: Statement) {
        let said = Said {
            statement,
            signed: None,
        };
        self.said.insert(topic, said);
    }

    fn hear(&mut self, topic: Topic, same: impl Fn(&Statement) -> bool, gossip: impl Fn() -> Gossip) {
        if let Some(said) = self.said.get_mut(&topic)
            && said.signed.is_none()
            && same(&said.statement)
        {
            said.signed = Some(gossip());
        }
    }

    fn knows(&self, round: Round, phase: Phase, block: BlockId) -> bool {
        round < self.floor || self.signed(round, phase) == Some(block)
    }
}
