//! Agreement on blocks.

mod action;
mod error;

pub use action::{Action, Config, Evidence, Mark, Statement, Stats, Step, Work};
pub use error::ConsensusError;

use crate::{
    ledger::Tip,
    primitives::{BlockCertificate, BlockId, BlockVote, Height, Proposal, Round, Time, ViewChange},
};

/// Blocks whose `last_commit` certificates say who is alive and may lead.
pub const LEADER_WINDOW: usize = 16;
/// Milliseconds from one block to the next, at least.
pub const MIN_PAUSE_MS: u64 = 50;

/// The machine that decides heights one after another.
pub struct Consensus {
    actions: Vec<Action>,
}

impl Consensus {
    /// To decide the height after `tip`. `recent`: the `last_commit` certificates inside the last [`LEADER_WINDOW`]
    /// blocks, oldest first.
    pub fn new(config: Config, tip: &Tip, recent: &[BlockCertificate], now: Time) -> Self {
        let _ = (config, tip, recent, now);
        Self { actions: Vec::new() }
    }

    /// The commit certificate of the tip, needed to propose; told once after [`Consensus::new`], absent for genesis.
    pub fn set_tip_commit(&mut self, commit: &BlockCertificate) {
        let _ = commit;
    }

    /// From the safety log, each mark in turn, before anything else.
    pub fn restore(&mut self, mark: &Mark) {
        let _ = mark;
    }

    /// `false`: stay silent, follow only.
    pub fn set_voting(&mut self, voting: bool) {
        let _ = voting;
    }

    /// After every turn; cheap when nothing changed.
    pub fn on_work(&mut self, now: Time, work: Work) {
        let _ = (now, work);
    }

    /// A proposal, signatures checked.
    pub fn on_proposal(&mut self, now: Time, proposal: Proposal) -> Result<(), ConsensusError> {
        let _ = (now, proposal);
        Ok(())
    }

    /// A vote, signature checked.
    pub fn on_vote(&mut self, now: Time, vote: BlockVote) -> Result<(), ConsensusError> {
        let _ = (now, vote);
        Ok(())
    }

    /// A view change, signatures checked.
    pub fn on_view_change(&mut self, now: Time, change: ViewChange) -> Result<(), ConsensusError> {
        let _ = (now, change);
        Ok(())
    }

    /// The answer to [`Action::Validate`].
    pub fn on_validated(&mut self, now: Time, block: BlockId, verdict: bool) {
        let _ = (now, block, verdict);
    }

    /// The answer to [`Action::Build`].
    pub fn on_built(&mut self, now: Time, round: Round, proposal: Proposal) {
        let _ = (now, round, proposal);
    }

    /// A height was decided, here or by sync: on to the next.
    pub fn on_committed(
        &mut self,
        now: Time,
        tip: &Tip,
        commit: &BlockCertificate,
        last_commit: Option<&BlockCertificate>,
    ) {
        let _ = (now, tip, commit, last_commit);
    }

    /// Looks at what is due.
    pub fn on_tick(&mut self, now: Time) {
        let _ = now;
    }

    /// When to call [`Consensus::on_tick`] next.
    pub fn deadline(&self) -> Option<Time> {
        None
    }

    /// What to do, in order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The tip's commit certificate with all votes that came, late ones too.
    pub fn last_commit_for_proposal(&self) -> Option<BlockCertificate> {
        None
    }

    /// A proposal of the current or the previous height.
    pub fn proposal(&self, height: Height, block: &BlockId) -> Option<&Proposal> {
        let _ = (height, block);
        None
    }

    /// Counters and state.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// What a trimmed safety log must still hold.
    pub fn live_marks(&self) -> Vec<Mark> {
        Vec::new()
    }
}
