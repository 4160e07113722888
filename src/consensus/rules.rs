//! The rules of a round (protocol, section 5). After every input, [`Consensus::advance`] asks each of them in turn
//! whether its time has come.

use super::{
    Action, Consensus, Mark, Statement,
    pace::{BackOff, WATCHDOG_MS},
    voice::{Again, Permit, UNSIGNED},
};
use crate::primitives::{BlockId, Phase, Proposal, Round, RoundCertificate, Time};

/// How many rounds back votes are kept: a quorum of Commit decides in whatever round.
pub(super) const MAX_ROUNDS_BEHIND: u32 = 64;
/// Votes are small and overtake the proposal that they name: so long it may still come by itself.
const FETCH_AFTER_MS: u64 = 100;

impl Consensus {
    /// Does whatever has become possible or due.
    pub(super) fn advance(&mut self) {
        if self.at.decided.is_none() {
            self.change_rounds();
            self.lead();
            self.prepare();
            self.commit();
            self.decide();
        }
        self.want();
        self.fetch();
        if self.needs_timer() {
            let round = self.at.round;
            self.pace.start_round(&self.config.params, round);
        }
    }

    /// Whether this node has a voice here and now.
    pub(super) fn speaks(&self) -> bool {
        self.voting && self.at.me.is_some() && !self.at.voice.muted && self.at.decided.is_none()
    }

    pub(super) fn leads(&self) -> bool {
        self.at.me == Some(self.leaders.leader(self.at.round))
    }

    /// S 5.4: a quorum opens a round; more than a third draws this node along.
    fn change_rounds(&mut self) {
        loop {
            let at = &self.at;
            let open = at.changes.quorum(&at.set, at.round);
            match open {
                Some(round) if round > at.round || !at.entered => {
                    let certificate = at.changes.certificate(at.height, round);
                    self.enter(certificate);
                    continue;
                }
                // Only after a restart, which remembers the round but not the right to be in it.
                Some(round) if at.justification.is_none() => {
                    self.at.justification = Some(at.changes.certificate(at.height, round));
                }
                _ => {}
            }
            let join = self.at.changes.join(&self.at.set, self.at.round);
            match join {
                Some(round) if self.leave(round) => {}
                _ => return,
            }
        }
    }

    /// S 5.4: begins a round.
    pub(super) fn enter(&mut self, certificate: RoundCertificate) {
        let round = certificate.round;
        self.at.round = round;
        self.at.entered = true;
        self.at.justification = Some(certificate);
        self.at.accepted = None;
        self.at.asked.clear();
        self.at.voice.enter(round);
        self.at.changes.forget_below(round);
        self.at
            .votes
            .forget_below(Round(round.0.saturating_sub(MAX_ROUNDS_BEHIND)));
        self.pace.new_round();
        self.pace.start_round(&self.config.params, round);
        // Whoever entered by others' view changes adds its own: without it those who lack a vote might wait for ever.
        self.change(round);
    }

    /// S 5.4: stops voting below `round` and asks for it. Answers whether that was possible.
    pub(super) fn leave(&mut self, round: Round) -> bool {
        if !self.change(round) {
            return false;
        }
        self.at.round = round;
        self.at.entered = false;
        self.at.justification = None;
        self.at.accepted = None;
        self.pace.new_round();
        true
    }

    fn change(&mut self, round: Round) -> bool {
        let Some(me) = self.at.me.filter(|_| self.speaks()) else {
            return false;
        };
        let Some(change) = self.at.voice.change(round, me) else {
            return false;
        };
        self.stats.view_changes += 1;
        self.actions.push(Action::Remember(Mark::ViewChanged(change.clone())));
        self.say(Statement::ViewChange(change));
        true
    }

    /// S 5.1: proposes, when it is this node's turn and time.
    fn lead(&mut self) {
        let proposed = self.at.voice.signed(self.at.round, Phase::Propose).is_some();
        if proposed || !self.speaks() || !self.at.entered || !self.leads() {
            self.pace.build.stop();
            return;
        }
        let due = self.pace.due(&self.config.params) <= self.pace.now || self.pace.build.is_running();
        let justified = self.at.justification.is_some();
        if (self.at.round == Round(0) && !due) || (self.at.round > Round(0) && !justified) {
            return;
        }
        match self.claimed() {
            Some(block) => self.propose_again(block),
            None => self.ask_for_block(),
        }
    }

    /// The block that the leader of this round must propose again.
    fn claimed(&self) -> Option<BlockId> {
        let certificate = self.at.justification.as_ref()?;
        if planted!(IgnorePrepared) {
            return None;
        }
        certificate.highest_claim().map(|claim| claim.block)
    }

    fn ask_for_block(&mut self) {
        let now = self.pace.now;
        if self.pace.build.is_running() && !self.pace.build.is_due(now) {
            return;
        }
        if !self.pace.build.is_running() {
            self.pace.build.start(now);
        }
        self.actions.push(Action::Build {
            round: self.at.round,
            justification: self.at.justification.clone(),
        });
    }

    fn propose_again(&mut self, block: BlockId) {
        match (self.at.bodies.get(&block), self.at.me) {
            (Some(body), Some(leader)) => {
                let proposal = Proposal {
                    round: self.at.round,
                    justification: self.at.justification.clone(),
                    leader,
                    signature: UNSIGNED,
                    ..Proposal::clone(body)
                };
                self.propose(block, proposal);
            }
            _ => {
                self.at.missing.entry(block).or_insert(BackOff::at(self.pace.now));
            }
        }
    }

    /// Remembers and says a proposal for the current round.
    pub(super) fn propose(&mut self, block: BlockId, proposal: Proposal) {
        if let Permit::New(mark) = self.at.voice.permit(proposal.round, Phase::Propose, block) {
            self.actions.push(Action::Remember(mark));
            let statement = self.at.voice.note_proposal(proposal);
            self.say(statement);
        }
        self.pace.build.stop();
    }

    /// S 5.2: votes for the round's proposal once it is known to be valid.
    fn prepare(&mut self) {
        let Some(accepted) = self.at.accepted.filter(|_| self.at.entered) else {
            return;
        };
        match (
            self.at.verdicts.get(&accepted.block),
            self.at.bodies.get(&accepted.block),
        ) {
            (Some(true), _) => {}
            (_, Some(body)) => {
                if self.at.asked.insert(accepted.block) {
                    self.actions.push(Action::Validate(body.clone()));
                }
                return;
            }
            _ => return,
        }
        if accepted.fresh && !self.is_of_now(accepted.block) {
            return;
        }
        self.vote(self.at.round, Phase::Prepare, accepted.block);
    }

    /// Whether a fresh block's time is near the local clock's. One that is ahead is judged again when its time comes.
    fn is_of_now(&mut self, block: BlockId) -> bool {
        let drift = self.config.params.max_clock_drift_ms;
        let Some(time) = self.at.bodies.get(&block).map(|body| body.header.time) else {
            return false;
        };
        let now = self.pace.now;
        let ahead = time > now.plus_ms(drift);
        self.pace.rejudge = ahead.then(|| Time(time.0.saturating_sub(drift)));
        !ahead && now <= time.plus_ms(drift)
    }

    /// S 5.3: a quorum of Prepare in the current round, before it is left.
    fn commit(&mut self) {
        let round = self.at.round;
        if !self.at.entered || !self.speaks() || self.at.voice.signed(round, Phase::Commit).is_some() {
            return;
        }
        let Some(block) = self.at.votes.prepared(&self.at.set, round) else {
            return;
        };
        // Without the proposal there is nothing to propose again: it is asked for, and Commit waits.
        let Some(body) = self.at.bodies.get(&block).cloned() else {
            return;
        };
        let certificate = self.at.votes.certificate(self.at.height, round, Phase::Prepare, block);
        if let Some(mark) = self.at.voice.prepare(body, certificate) {
            self.actions.push(Action::Remember(mark));
        }
        self.vote(round, Phase::Commit, block);
    }

    /// S 5.3: a quorum of Commit, in whatever round.
    fn decide(&mut self) {
        let Some((round, block)) = self.at.votes.committed(&self.at.set) else {
            return;
        };
        // The block is decided; a Commit that comes after all the others still shows that this validator is alive.
        self.vote(round, Phase::Commit, block);
        let certificate = self.at.votes.certificate(self.at.height, round, Phase::Commit, block);
        self.at.decided = Some(certificate.clone());
        self.stats.decided += 1;
        self.pace.round_end = None;
        self.pace.rejudge = None;
        self.pace.build.stop();
        self.actions.push(Action::Decided {
            certificate,
            proposal: self.at.bodies.get(&block).cloned(),
        });
    }

    fn vote(&mut self, round: Round, phase: Phase, block: BlockId) {
        let Some(me) = self.at.me.filter(|_| self.speaks()) else {
            return;
        };
        if let Permit::New(mark) = self.at.voice.permit(round, phase, block) {
            self.actions.push(Action::Remember(mark));
            let statement = self.at.voice.note_vote(round, phase, block, me);
            self.say(statement);
        }
    }

    fn say(&mut self, statement: Statement) {
        self.actions.push(Action::Say(statement));
        self.pace.resend.start(self.pace.now);
    }

    /// Says the latest of each kind again.
    pub(super) fn say_again(&mut self) {
        if !self.voting || self.at.voice.muted {
            return;
        }
        for again in self.at.voice.again() {
            self.stats.resends += 1;
            self.actions.push(match again {
                Again::Signed(gossip) => Action::Resend(gossip),
                Again::Unsigned(statement) => Action::Say(statement),
            });
        }
    }

    /// Notes blocks that somebody correct has seen and this node has not.
    fn want(&mut self) {
        let later = self.pace.now.plus_ms(FETCH_AFTER_MS);
        let lacking: Vec<BlockId> = self
            .at
            .votes
            .named(&self.at.set)
            .filter(|block| !self.at.bodies.contains_key(block))
            .collect();
        for block in lacking {
            self.at.missing.entry(block).or_insert(BackOff::at(later));
        }
    }

    /// Asks for what is missing and due.
    fn fetch(&mut self) {
        let now = self.pace.now;
        for (block, again) in &mut self.at.missing {
            if again.is_due(now) {
                self.stats.fetches += 1;
                self.actions.push(Action::Fetch { block: *block });
            }
        }
    }

    /// S 5.5: whether a round is running, or a quorum waits for one, and no timer is.
    fn needs_timer(&self) -> bool {
        if !self.speaks() || self.pace.round_end.is_some() {
            return false;
        }
        let at = &self.at;
        if !at.entered {
            return at.changes.reached(&at.set, at.round);
        }
        at.round > Round(0) || at.has_begun() || self.pace.due(&self.config.params) <= self.pace.now
    }

    /// Gives up a round whose time is over.
    pub(super) fn end_round(&mut self) {
        if self.pace.round_end.is_some_and(|end| end <= self.pace.now) {
            self.pace.round_end = None;
            self.stats.timeouts += u64::from(self.speaks());
            self.leave(self.at.round.next());
        }
    }

    /// S 5.5: looks whether something that should be timed is not, or for longer than it can be right.
    pub(super) fn watch(&mut self) {
        let now = self.pace.now;
        if now < self.pace.watchdog {
            return;
        }
        self.pace.watchdog = now.plus_ms(WATCHDOG_MS);
        let longest = now.plus_ms(self.config.params.round_timeout_ms(self.at.round));
        if self.pace.round_end.is_some_and(|end| end > longest) || self.needs_timer() {
            self.stats.watchdog += 1;
            let round = self.at.round;
            self.pace.start_round(&self.config.params, round);
        }
        let silent = self.at.voice.again().next().is_none();
        if !silent && !self.pace.resend.is_running() {
            self.stats.watchdog += 1;
            self.pace.resend.start(now);
        }
    }
}
