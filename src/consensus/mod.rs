//! Agreement on blocks: heights are decided one after another, each in rounds (protocol, section 5).
//!
//! A pure machine. Messages come in with their signatures and the quorums of their certificates already checked
//! ([`crate::primitives::Gossip::queue_signatures`]); what they are *about* is judged here. Whether a block is valid is
//! judged by whoever answers [`Action::Validate`]. Time comes in as a value; what to do goes out as [`Action`]s.
//!
//! # States
//!
//! ```text
//!            proposal          quorum of Prepare        quorum of Commit (of any round)
//!  Propose ───────────▶ Prepare ───────────────▶ Commit ───────────────▶ Decided ──▶ next height
//!     │                    │                        │
//!     └────────────────────┴───────── timer ────────┘     or > P/3 ViewChange for later rounds
//!                          ▼
//!                     ViewChange(r') ── quorum of ViewChange(r'), or a proposal that shows one ──▶ Propose in r'
//! ```
//!
//! # What a correct validator signs at a height
//!
//! 1. *Propose(r, b)*: once, as the leader of `r`, having entered it. In `r = 0`, and in a later round whose round
//!    certificate claims nothing, a block of its own; otherwise the block of the highest claim.
//! 2. *Prepare(r, b)*: once, in the round it is in, for a proposal that rule 1 allows and that is valid.
//! 3. *Commit(r, b)*: once, in the round it is in, when a quorum has said Prepare(r, b); `prepared = (r, b,
//!    certificate)` is remembered first. Also when a quorum has said Commit(r, b): the block is decided then, and the
//!    voice only shows that the validator is alive.
//! 4. *ViewChange(r')*: nothing is signed in a round below `r'` from then on. Carries `prepared`, the highest.
//!
//! All of it passes through `voice.rs`, is a [`Mark`] in the safety log before it is said, and comes back from there
//! after a restart: "once" and "from then on" include other lives of the process. The log is trimmed only after the
//! store is flushed, so a block that a power cut takes from the store leaves its height's marks in the log, and the
//! height is decided again by the same votes. Should it be otherwise, a validator whose marks reach beyond the height it
//! stands at is silent at heights of which it holds no marks.
//!
//! # Why no two blocks are decided at one height
//!
//! Two quorums share a correct validator, since what is outside of one and what is faulty are less than a third each.
//! *In one round*, two quorums of Prepare for two blocks would share a correct validator that broke rule 2, so all
//! Commit of a round (rule 3) are for one block. *Across rounds:* let `b` be decided by a quorum `C` of Commit in round
//! `r`. Every round certificate for `r' > r` shares a correct validator with `C`. It said Commit(r, b) before
//! ViewChange(r') (rule 4), so its claim is in a round `≥ r`. The highest claim of the certificate is proven by a
//! quorum of Prepare in some round `p`, `r ≤ p < r'`. By induction over `r'`, Prepare quorums in rounds `r ..= r' - 1`
//! are for `b` only: for `p = r` by the first step, later because a Prepare needs a proposal of the highest claim
//! (rules 1 and 2). So the highest claim is `b`, only `b` can be prepared in `r'`, and hence only `b` committed.
//!
//! # Why a block is decided at last
//!
//! Let messages arrive. *Nobody is left behind:* more than a third draws a validator along to the lowest of their
//! rounds; whoever enters a round has said ViewChange for it and says it again until there is progress; a validator
//! that waits for a round which a quorum has reached gives it up after a round's time. So all correct validators come
//! to be in one round within a few message delays, and stay longer in each. *Its leader can propose:* the block of the
//! highest claim is with more than a third; it is asked for ([`Action::Fetch`]). *Its proposal is acceptable to
//! everybody*, since it carries the round certificate that it is judged by. Leaders rotate; the first correct one whose
//! round is long enough is followed by a quorum.
//!
//! # Bounds
//!
//! Per validator: one voice for each round and phase, in rounds from 64 below the current to 128 above it, and at most
//! four of those above; view changes of its latest four rounds (each claim's certificate once); eight votes, one view
//! change and one proposal (eight in all) for the next height; nothing for heights beyond.

mod action;
mod changes;
mod check;
mod error;
mod future;
mod height;
mod leader;
mod messages;
mod pace;
mod rules;
#[cfg(test)]
mod tests;
mod voice;
mod votes;

pub use action::{Action, Config, Evidence, Mark, Statement, Stats, Step, Work};
pub use error::ConsensusError;

use crate::{
    ledger::Tip,
    primitives::{
        BlockCertificate, BlockId, BlockVote, Height, Phase, Proposal, Round, Time, ValidatorIndex, ViewChange,
    },
};
use future::Future;
use height::{Decided, Deciding};
use leader::Leaders;
use messages::When;
use pace::Pace;
use std::{cmp::Ordering, collections::BTreeMap};

/// Blocks whose `last_commit` certificates say who is alive and may lead.
pub const LEADER_WINDOW: usize = 16;
/// Milliseconds from one block to the next, at least.
pub const MIN_PAUSE_MS: u64 = 200;

/// The machine that decides heights one after another.
#[derive(Debug)]
pub struct Consensus {
    config: Config,
    leaders: Leaders,
    pace: Pace,
    at: Deciding,
    last: Option<Decided>,
    future: Future,
    /// Marks of the last height below this one where anything was signed.
    past: Vec<Mark>,
    /// Marks of later heights than the current one.
    restored: BTreeMap<Height, Vec<Mark>>,
    voting: bool,
    actions: Vec<Action>,
    stats: Stats,
}

impl Consensus {
    /// To decide the height after `tip`. `recent`: the `last_commit` certificates inside the last [`LEADER_WINDOW`]
    /// blocks, oldest first (fewer near genesis). It votes unless told otherwise.
    ///
    /// Then: [`Consensus::set_tip_commit`], [`Consensus::restore`], and [`Consensus::on_tick`] at
    /// [`Consensus::deadline`], which is at once if there was something to restore.
    pub fn new(config: Config, tip: &Tip, recent: &[BlockCertificate], now: Time) -> Self {
        let height = tip.height.next();
        Self {
            leaders: Leaders::new(&config.electorate, height, recent),
            pace: Pace::new(tip.time.min(now), now),
            at: deciding(&config, height, tip.block),
            last: None,
            future: Future::default(),
            past: Vec::new(),
            restored: BTreeMap::new(),
            voting: true,
            actions: Vec::new(),
            stats: Stats::default(),
            config,
        }
    }

    /// The stored commit certificate of the tip, without which nothing can be proposed on it; told once after
    /// [`Consensus::new`]. Genesis has none.
    pub fn set_tip_commit(&mut self, commit: &BlockCertificate) {
        if commit.height.next() == self.at.height && self.last.is_none() {
            self.last = Some(Decided::new(commit, self.pace.now));
        }
    }

    /// A mark from the safety log; all of them in their order, before anything else comes in. Those of later heights
    /// (the store has lost blocks) bind when their height comes.
    pub fn restore(&mut self, mark: &Mark) {
        match mark.height().cmp(&self.at.height) {
            Ordering::Less => return self.note_past(vec![mark.clone()]),
            Ordering::Equal => self.at.restore(mark),
            Ordering::Greater => self.restored.entry(mark.height()).or_default().push(mark.clone()),
        }
        self.mute_if_unknown();
        self.pace.poked = true;
    }

    /// `false`: not a word (while behind, or with the safety log lost); votes of others are followed all the same.
    pub fn set_voting(&mut self, voting: bool) {
        self.pace.poked |= voting != self.voting;
        self.voting = voting;
    }

    /// What waits for a block now. Called after every turn; costs nothing while it stays the same.
    pub fn on_work(&mut self, now: Time, work: Work) {
        if work != self.pace.work {
            self.at_time(now);
            self.pace.work = work;
            self.advance();
        }
    }

    /// A proposal whose signatures are right: gossip, an own one that was signed, or the answer to [`Action::Fetch`].
    pub fn on_proposal(&mut self, now: Time, proposal: Proposal) -> Result<(), ConsensusError> {
        self.at_time(now);
        let result = match self.when(proposal.height) {
            Err(error) => Err(error),
            Ok(When::Last) => Err(self.behind(proposal.height)),
            Ok(When::Next) => {
                let block = proposal.block_id(&self.config.electorate.chain);
                check::form(&self.config.electorate.chain, &proposal, block)
                    .and_then(|()| self.future.keep_proposal(proposal))
            }
            Ok(When::Now) => self.take_proposal(proposal),
        };
        self.finish(result)
    }

    /// A vote whose signature is right, own ones included.
    pub fn on_vote(&mut self, now: Time, vote: BlockVote) -> Result<(), ConsensusError> {
        self.at_time(now);
        let member = self.member(vote.validator, vote.height);
        let result = member.and_then(|()| match self.when(vote.height)? {
            When::Last => self.take_late_vote(vote),
            When::Next => self.future.keep_vote(vote),
            When::Now => self.take_vote(vote),
        });
        self.finish(result)
    }

    /// A view change whose signatures are right, own ones included.
    pub fn on_view_change(&mut self, now: Time, change: ViewChange) -> Result<(), ConsensusError> {
        self.at_time(now);
        let member = self.member(change.validator, change.height);
        let result = member.and_then(|()| match self.when(change.height)? {
            When::Last => Err(self.behind(change.height)),
            When::Next => self.future.keep_change(change),
            When::Now => self.take_change(change),
        });
        self.finish(result)
    }

    /// The answer to [`Action::Validate`]; may come late, and again: `false` can become `true`.
    pub fn on_validated(&mut self, now: Time, block: BlockId, verdict: bool) {
        self.at_time(now);
        if self.at.bodies.contains_key(&block) {
            self.stats.refused += u64::from(!verdict);
            self.at.verdicts.insert(block, verdict);
            self.advance();
        }
    }

    /// The answer to [`Action::Build`]: a block on the tip, valid, made by this node. Round, leader, justification and
    /// signature are filled in here. Ignored when the round is over or has its proposal.
    pub fn on_built(&mut self, now: Time, round: Round, proposal: Proposal) {
        self.at_time(now);
        let fits = proposal.header.height == self.at.height
            && proposal.header.parent == self.at.parent
            && Some(proposal.header.proposer) == self.at.me;
        let wanted = round == self.at.round && self.at.entered && self.speaks() && self.leads();
        if let (true, true, Some(leader)) = (fits, wanted, self.at.me) {
            let proposal = Proposal {
                height: self.at.height,
                round,
                justification: self.at.justification.clone(),
                leader,
                signature: voice::UNSIGNED,
                ..proposal
            };
            let block = proposal.block_id(&self.config.electorate.chain);
            self.at.verdicts.insert(block, true);
            self.propose(block, proposal);
        }
        self.advance();
    }

    /// The block at `tip` is committed, decided here or synced: on to the next height. `commit` is a commit certificate
    /// for it, `last_commit` the one inside it. Heights must follow one another: after a jump (synced state), make a
    /// new machine.
    pub fn on_committed(
        &mut self,
        now: Time,
        tip: &Tip,
        commit: &BlockCertificate,
        last_commit: Option<&BlockCertificate>,
    ) {
        self.at_time(now);
        if tip.height < self.at.height {
            return;
        }
        let height = tip.height.next();
        self.leaders.advance(&self.config.electorate, height, last_commit);
        self.last = Some(Decided::after(&self.at, commit, now));
        self.note_past(self.at.voice.marks());
        self.at = deciding(&self.config, height, tip.block);
        self.pace.new_height(now);
        self.restored = self.restored.split_off(&height);
        for mark in self.restored.remove(&height).unwrap_or_default() {
            self.at.restore(&mark);
            self.pace.poked = true;
        }
        self.mute_if_unknown();
        self.replay_future(now);
        self.advance();
    }

    /// Looks at what is due.
    pub fn on_tick(&mut self, now: Time) {
        self.at_time(now);
        if std::mem::take(&mut self.pace.poked) {
            self.pace.resend.start(now);
            self.say_again();
        }
        if self.pace.rejudge.is_some_and(|at| at <= now) {
            self.pace.rejudge = None;
        }
        self.end_round();
        if self.pace.resend.is_due(now) {
            self.say_again();
        }
        self.advance();
        self.watch();
    }

    /// When to call [`Consensus::on_tick`] next. There is always such a time: the watchdog's, if no other.
    pub fn deadline(&self) -> Option<Time> {
        let at = &self.at;
        let waits = self.speaks() && at.entered && at.round == Round(0) && !self.pace.build.is_running();
        let proposes = self.leads() && at.voice.signed(Round(0), Phase::Propose).is_none();
        let due = (waits && (self.pace.round_end.is_none() || proposes)).then(|| self.pace.due(&self.config.params));
        let fetch = at.missing.values().filter_map(pace::BackOff::next).min();
        let deadline = self.pace.deadline(due);
        Some(fetch.map_or(deadline, |fetch| fetch.min(deadline)))
    }

    /// What to do, in order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The tip's commit certificate with all votes that came, late ones too, so that validators that are slow do not
    /// look dead. `None` after genesis, and before [`Consensus::set_tip_commit`].
    pub fn last_commit_for_proposal(&self) -> Option<BlockCertificate> {
        self.last.as_ref().map(Decided::certificate)
    }

    /// A proposal of the current height, or the decided one of the height before.
    pub fn proposal(&self, height: Height, block: &BlockId) -> Option<&Proposal> {
        if height == self.at.height {
            return self.at.bodies.get(block).map(AsRef::as_ref);
        }
        let last = self
            .last
            .as_ref()
            .filter(|last| (last.height, &last.block) == (height, block))?;
        last.proposal.as_deref()
    }

    /// Who may propose in a round of the height being decided.
    pub fn leader(&self, round: Round) -> ValidatorIndex {
        self.leaders.leader(round)
    }

    /// Counters and the present state.
    pub fn stats(&self) -> Stats {
        let at = &self.at;
        Stats {
            height: at.height,
            round: at.round,
            step: self.step(),
            prepares: at.votes.count(at.round, Phase::Prepare),
            commits: at.votes.count(at.round, Phase::Commit),
            buffered: self.future.len(),
            ..self.stats.clone()
        }
    }

    /// What a trimmed safety log must still hold, provided that the store has been flushed up to the tip: the marks of
    /// this height, those of later ones that were restored, and those of the last height before where anything was
    /// signed. They tell a validator whose store turns out to have lost blocks all the same to be silent there.
    pub fn live_marks(&self) -> Vec<Mark> {
        let mut marks = self.past.clone();
        marks.extend(self.at.voice.marks());
        marks.extend(self.restored.values().flatten().cloned());
        marks
    }
}

fn deciding(config: &Config, height: Height, parent: BlockId) -> Deciding {
    let set = config.electorate.of_height(height).clone();
    let me = config.own.as_ref().and_then(|own| set.index_of(own));
    Deciding::new(height, parent, set, me)
}

impl Consensus {
    fn at_time(&mut self, now: Time) {
        let back = self.pace.at(now);
        self.at.missing.values_mut().for_each(|again| again.move_back(back));
    }

    fn replay_future(&mut self, now: Time) {
        let (proposals, votes, changes) = self.future.take();
        // What is wrong with these was not known when they came; nobody is left to be told.
        for proposal in proposals {
            let _ = self.on_proposal(now, proposal);
        }
        for vote in votes {
            let _ = self.on_vote(now, vote);
        }
        for change in changes {
            let _ = self.on_view_change(now, change);
        }
    }

    fn note_past(&mut self, marks: Vec<Mark>) {
        let height = |marks: &[Mark]| marks.first().map(Mark::height);
        match height(&marks).cmp(&height(&self.past)) {
            Ordering::Less => {}
            Ordering::Equal => self.past.extend(marks),
            Ordering::Greater => self.past = marks,
        }
    }

    fn mute_if_unknown(&mut self) {
        self.at.voice.muted = self.at.voice.is_blank() && !self.restored.is_empty();
    }

    fn step(&self) -> Step {
        let at = &self.at;
        match () {
            () if at.decided.is_some() => Step::Decided,
            () if !at.entered => Step::ViewChange,
            () if at.voice.signed(at.round, Phase::Commit).is_some() => Step::Commit,
            () if at.accepted.is_some() => Step::Prepare,
            () => Step::Propose,
        }
    }
}
