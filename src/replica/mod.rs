//! Floor 3: the replica. The only place where the machines of floor 2 meet.
//!
//! It is pure: no clock, no disk, no socket, no thread, no key. A shell feeds it [`Input`]s and serves its [`Effects`];
//! there are two, `node` and `sim`, and they run the same replica, byte for byte.
//!
//! | file | what |
//! |---|---|
//! | `core.rs` | the replica, or the state sync before it: what a shell runs |
//! | `input.rs` | what may come in, and the checks it has passed |
//! | `effects.rs` | what it wants done, and in which order |
//! | `open.rs` | from a store and a safety log to a replica that contradicts neither |
//! | `admission.rs` | from a checked transaction to the pool and its first vote |
//! | `awaiting.rs` | clients' transactions that came before their parents |
//! | `blocks.rs` | building, validating and committing blocks; leaving epochs |
//! | `chores.rs` | noticing what was lost on the way, and asking for it |
//! | `payments.rs`, `stats.rs` | what readers outside the loop see |

mod admission;
mod awaiting;
mod blocks;
mod chores;
pub mod core;
pub mod effects;
pub mod input;
mod open;
pub mod payments;
pub mod stats;

pub use core::Core;
pub use effects::{Committed, Dropped, Effects, Event, Reply, SafetyRecord, Send, Statement, Verdict};
pub use input::{Answer, AnswerTicket, GossipId, Input, InputError, Message, RequestId, Ticket};
pub use payments::{Known, Payments, State};
pub use stats::{Counters, PoolStats, Snapshot};

use crate::{
    consensus::{self, Consensus, Mark, Step, Work},
    epoch::Seals,
    finality::{self, Change, Finality, Support},
    ledger::{Applied, CheckedTransaction, Commitment, Content, Tip, View, ViewError},
    pool::{self, Pool},
    primitives::{
        BlockCertificate, BlockId, Coin, Epoch, Fault, Genesis, Gossip, Height, OutPoint, Params, PeerId, Phase,
        Proposal, PublicKey, Round, RoundCertificate, Time, TxId, ValidatorIndex, VoteKind,
        limits::{MAX_TRANSACTION_BYTES_PER_MESSAGE, MAX_TRANSACTIONS_PER_MESSAGE},
        message::Electorate,
    },
    sync::BlockSync,
};
use payments::Ended;
use rand_chacha::ChaCha8Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use thiserror::Error;

/// What a replica is opened with.
#[derive(Clone)]
pub struct Setup {
    /// The chain's start.
    pub genesis: Arc<Genesis>,
    /// Who votes.
    pub electorate: Electorate,
    /// Own consensus key; `None` for a node that is no validator.
    pub own: Option<PublicKey>,
    /// Limits of the pool.
    pub pool: pool::Config,
    /// Seeds the replica's own choices (whom to ask). Nothing valid depends on it.
    pub seed: u64,
}

/// What the safety log held.
#[derive(Clone, Debug)]
pub enum Records {
    /// The log is there, with these records (none, when it is new with its key).
    Kept(Vec<SafetyRecord>),
    /// The key may have voted, but its log is gone: silent until the next epoch.
    Missing,
}

/// Why a replica cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The store cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The store is of another chain.
    #[error("the store does not belong to this genesis: {0}")]
    Chain(String),
    /// What is remembered of a state sync cannot be read.
    #[error(
        "the store says that its state is being synced, but not how far: {0}. Move the store away (keep the safety \
         log!) and start again"
    )]
    Sync(String),
    /// A checkpoint in the middle of an epoch.
    #[error(
        "sync.checkpoint is of height {found}, expected the last of an epoch: a multiple of {epoch_length} on this chain"
    )]
    Checkpoint {
        /// Its height.
        found: Height,
        /// Heights in an epoch.
        epoch_length: u64,
    },
    /// A record makes no sense.
    #[error("the safety log cannot be used: {0}")]
    Record(String),
}

/// So many final payments are worth a block before its interval is over: all validators work on a block at the same
/// moment, and payments wait behind it, so several small blocks disturb less than a large one (docs/benchmarks.md).
const BRISK_BLOCK: usize = 256;

/// What was asked of a peer.
#[derive(Clone, Debug)]
enum Asked {
    /// From this height on.
    Blocks(Height),
    Votes(ValidatorIndex),
    Bodies(Vec<TxId>),
    Certificates,
    Proposal,
}

/// Why this node does not vote though it is a validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// What its key signed in this epoch and before is not known.
    LostLog(Epoch),
    /// Votes signed with its key arrived in this epoch that it does not remember.
    ForeignVotes(Epoch),
}

/// A block that was found valid, ready to be committed should a quorum decide it.
struct Validated {
    content: Content,
    applied: Applied,
}

/// The replica.
pub struct Replica {
    setup: Setup,
    params: Params,
    /// Own index in the current set.
    own: Option<ValidatorIndex>,
    tip: Tip,
    commitment: Commitment,
    pool: Pool,
    finality: Finality,
    consensus: Consensus,
    seals: Seals,
    sync: BlockSync,
    payments: Arc<Payments>,
    ended: Ended,
    /// Outputs of payments that are final and in no block: coins for those who come after.
    final_coins: BTreeMap<OutPoint, Coin>,
    /// Transactions by a parent that is neither final nor committed.
    waiting: BTreeMap<TxId, BTreeSet<TxId>>,
    /// A round that this node leads and has not yet made a block for.
    building: Option<(Round, Option<RoundCertificate>)>,
    /// Proposals whose parts are still being gathered.
    validating: BTreeMap<BlockId, Arc<Proposal>>,
    validated: BTreeMap<BlockId, Validated>,
    /// Bodies that a proposal names and the pool does not have.
    strays: BTreeMap<TxId, CheckedTransaction>,
    /// Decided, but its bodies are still being fetched.
    decided: Option<(BlockCertificate, Arc<Proposal>)>,
    silence: Option<Silence>,
    voting: bool,
    /// Own seal of the current epoch, signed.
    own_seal: Option<Gossip>,
    /// Own vote batches and seals that were decided and have not come back signed, as remembered.
    unheard: Vec<SafetyRecord>,
    /// What the safety log holds of later epochs than the store has reached.
    later: Vec<SafetyRecord>,
    /// Remembered transactions that could not be put back into the pool yet: the store has lost the blocks that make
    /// their inputs.
    orphans: BTreeMap<TxId, CheckedTransaction>,
    sealed: bool,
    peers: BTreeSet<PeerId>,
    asked: BTreeMap<RequestId, Asked>,
    bodies_asked: BTreeSet<TxId>,
    next_request: u64,
    rng: ChaCha8Rng,
    awaiting: awaiting::Awaiting,
    /// Admitted in this turn from clients, to be shown to everybody.
    fresh: Vec<CheckedTransaction>,
    /// A block was handed over to be written: what depends on it waits for the next call.
    wrote: bool,
    /// A new epoch began: which pending payments have their inputs must be looked up.
    revive: bool,
    chores: chores::Due,
    counters: Counters,
}

impl Replica {
    /// Takes one input. A `write` in the effects must be applied before the next call: it leads to at most one.
    /// An error means that the store cannot be read; the node must stop.
    pub fn handle(&mut self, now: Time, view: &dyn View, input: Input, effects: &mut Effects) -> Result<(), ViewError> {
        if std::mem::take(&mut self.wrote) && !self.orphans.is_empty() {
            self.adopt_orphans(now, view, effects)?;
        }
        if std::mem::take(&mut self.revive) {
            self.restore_votes(now, view, effects)?;
            self.revive_pending(view)?;
        }
        match input {
            Input::Gossip { from, id, message } => {
                let verdict = self.on_gossip(now, view, from, message, effects)?;
                effects.verdicts.push((id, verdict));
            }
            Input::Submit { ticket, transaction } => self.on_submit(now, view, ticket, transaction, effects)?,
            Input::Request { ticket, request, .. } => {
                let response = self.answer(request);
                effects.send.push(Send::Answer { ticket, response });
            }
            Input::Response { from, request, answer } => self.on_answer(now, view, from, request, answer, effects)?,
            Input::PeerUp(peer) => {
                self.peers.insert(peer);
                self.chores.hurry();
            }
            Input::PeerDown(peer) => {
                self.peers.remove(&peer);
                self.sync.on_peer_down(peer);
            }
            Input::Own(statements) => {
                for statement in statements {
                    self.on_own(now, statement);
                }
            }
            Input::Flushed(_) => {}
            Input::Tick => {
                self.finality.on_tick(now);
                self.consensus.on_tick(now);
            }
        }
        self.adopt(now, view, effects)?;
        self.do_chores(now, view, effects)?;
        self.settle_down(now, view, effects)
    }

    /// Ends a turn of one or more inputs: what was decided in it becomes one vote batch.
    pub fn finish_turn(&mut self, effects: &mut Effects) {
        let support = self.finality.take_support();
        effects.remember.extend(support.into_iter().map(record_of_support));
        let (bodies, batches) = self.finality.take_votes();
        effects.remember.extend(
            bodies
                .iter()
                .map(|body| SafetyRecord::Transaction(body.bytes().to_vec())),
        );
        for batch in batches {
            self.unheard.push(SafetyRecord::Votes(batch.clone()));
            effects.remember.push(SafetyRecord::Votes(batch.clone()));
            effects.sign.push(Statement::Votes(batch));
        }
        let fresh = std::mem::take(&mut self.fresh);
        effects.send.extend(in_messages(&fresh).map(Send::Gossip));
    }

    /// When to call with [`Input::Tick`]; in the past: at once.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        if self.wrote || self.revive || self.sync.has_block(self.tip.height) || self.awaiting.is_due() {
            return Some(Time(0));
        }
        [
            self.finality.deadline(),
            self.consensus.deadline(),
            self.finality.next_candidate_at(),
            self.sync.deadline(now, self.tip.height),
            Some(self.chores.at()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A peer that was there before this replica was opened.
    pub(super) fn on_peer(&mut self, now: Time, peer: PeerId, claim: Height) {
        self.peers.insert(peer);
        self.sync.on_claim(now, peer, claim, self.tip.height);
        self.chores.hurry();
    }

    /// The last committed height.
    pub(super) const fn height(&self) -> Height {
        self.tip.height
    }

    /// Whether blocks are not to be asked for, for now.
    pub(super) const fn hold_blocks(&mut self, hold: bool) {
        self.sync.hold(hold);
    }

    /// Whether nobody who is ahead keeps the blocks that are missing here.
    pub(super) fn lacks_blocks(&self) -> bool {
        self.sync.lacks_blocks(self.tip.height)
    }

    /// Payments for readers outside the loop.
    pub fn payments(&self) -> Arc<Payments> {
        self.payments.clone()
    }

    /// Where it stands.
    pub fn snapshot(&self) -> Snapshot {
        let consensus = self.consensus.stats();
        let numbers = self.finality.numbers();
        let phase = match consensus.step {
            Step::Propose | Step::ViewChange => Phase::Propose,
            Step::Prepare => Phase::Prepare,
            Step::Commit | Step::Decided => Phase::Commit,
        };
        Snapshot {
            height: self.tip.height,
            block: self.tip.block,
            block_time: self.tip.time,
            supply: self.tip.supply,
            epoch: self.finality.epoch(),
            round: consensus.round,
            phase,
            validator: self.own,
            voting: self.voting,
            silent_reason: if self.voting {
                String::new()
            } else {
                self.silent_reason()
            },
            claimed_height: self.sync.claimed(),
            catching_up: self.sync.is_catching_up(),
            sync: None,
            peers: self.peers.len(),
            pool: PoolStats {
                pending: self.pool.len() as u64,
                bytes: self.pool.bytes() as u64,
                average_fee_rate_milli: self.pool.average_rate_milli(),
                oldest: self.pool.oldest(),
                certified: self.finality.certified_count() as u64,
                final_: numbers.finals,
                contested: numbers.contested,
            },
            counters: Counters {
                payment_votes: numbers.votes_counted,
                block_votes: consensus.votes,
                round_timeouts: consensus.timeouts,
                blocks_fetched: self.sync.fetched(),
                ..self.counters
            },
        }
    }

    /// Everything that a trimmed safety log must still hold, on top of the committed state: the store must be flushed
    /// before the log is written anew with these.
    pub fn live_records(&self) -> Vec<SafetyRecord> {
        let mut records = Vec::new();
        if let Some(Silence::LostLog(epoch) | Silence::ForeignVotes(epoch)) = self.silence {
            records.push(SafetyRecord::Silent(epoch));
        }
        let (bodies, batches, support) = self.finality.live();
        records.extend(support.into_iter().map(record_of_support));
        records.extend(
            bodies
                .iter()
                .map(|body| SafetyRecord::Transaction(body.bytes().to_vec())),
        );
        let body = |body: &CheckedTransaction| SafetyRecord::Transaction(body.bytes().to_vec());
        records.extend(self.orphans.values().map(body));
        records.extend(batches.iter().map(|batch| SafetyRecord::Votes((**batch).clone())));
        records.extend(self.unheard.iter().chain(&self.later).cloned());
        if let Some(Gossip::Seal(seal)) = &self.own_seal {
            records.push(SafetyRecord::Seal(seal.clone()));
        }
        records.extend(self.consensus.live_marks().into_iter().map(record_of));
        records
    }

    // ---- one input ----------------------------------------------------------------------------------------------

    fn on_gossip(
        &mut self,
        now: Time,
        view: &dyn View,
        from: PeerId,
        message: Message,
        effects: &mut Effects,
    ) -> Result<Verdict, ViewError> {
        let outcome = match message {
            Message::Transactions(transactions) => return self.on_transactions(now, view, transactions, effects),
            Message::Votes(batch) => {
                self.watch_own(batch.epoch, batch.validator, batch.sequence, effects);
                self.finality
                    .on_batch(now, batch)
                    .map_err(|error| (error.fault(), error.to_string()))
            }
            Message::Proposal(proposal) => self
                .consensus
                .on_proposal(now, *proposal)
                .map_err(|error| (error.fault(), error.to_string())),
            Message::BlockVote(vote) => self
                .consensus
                .on_vote(now, vote)
                .map_err(|error| (error.fault(), error.to_string())),
            Message::ViewChange(change) => self
                .consensus
                .on_view_change(now, change)
                .map_err(|error| (error.fault(), error.to_string())),
            Message::Seal(seal) => self
                .seals
                .on_seal(seal)
                .map_err(|error| (error.fault(), error.to_string())),
            Message::Status(status) => {
                self.sync.on_claim(now, from, status.height, self.tip.height);
                if status.epoch == self.finality.epoch() {
                    self.finality.on_claims(&status.sequences);
                }
                // A status is about its sender: told to neighbours, not passed on.
                return Ok(Verdict::Ignore);
            }
        };
        Ok(match outcome {
            Ok(()) => Verdict::Accept,
            Err((fault, reason)) => {
                self.counters.ignored += 1;
                if fault >= Fault::Careless {
                    effects.faults.push((from, fault, reason));
                    Verdict::Reject
                } else {
                    Verdict::Ignore
                }
            }
        })
    }

    fn on_own(&mut self, now: Time, statement: Gossip) {
        // Refusals here are duplicates and what a later block has overtaken: nothing to be done about either.
        match statement {
            Gossip::Votes(batch) => {
                let (epoch, sequence) = (batch.epoch, batch.sequence);
                drop(self.finality.on_batch(now, batch));
                self.unheard.retain(|record| {
                    !matches!(record, SafetyRecord::Votes(own) if (own.epoch, own.sequence) == (epoch, sequence))
                });
            }
            Gossip::Proposal(proposal) => drop(self.consensus.on_proposal(now, *proposal)),
            Gossip::BlockVote(vote) => drop(self.consensus.on_vote(now, vote)),
            Gossip::ViewChange(change) => drop(self.consensus.on_view_change(now, change)),
            Gossip::Seal(seal) => {
                if seal.epoch == self.finality.epoch() {
                    self.own_seal = Some(Gossip::Seal(seal.clone()));
                }
                self.unheard
                    .retain(|record| !matches!(record, SafetyRecord::Seal(own) if own.epoch == seal.epoch));
                drop(self.seals.on_seal(seal));
            }
            Gossip::Transactions(_) | Gossip::Status(_) => {}
        }
    }

    /// Votes under our own key that we did not cast: somebody else has it, or our memory is gone.
    fn watch_own(&mut self, epoch: Epoch, validator: ValidatorIndex, sequence: u64, effects: &mut Effects) {
        let unknown = sequence >= self.finality.next_sequence() && epoch == self.finality.epoch();
        if Some(validator) == self.own && unknown && self.silence.is_none() {
            self.silence = Some(Silence::ForeignVotes(epoch));
            effects.remember.push(SafetyRecord::Silent(epoch));
        }
    }

    // ---- what one machine means for the others ------------------------------------------------------------------

    /// Passes news between the machines until there is none. Stops early when a block has been handed over to be
    /// written: what comes after it must see it.
    fn settle_down(&mut self, now: Time, view: &dyn View, effects: &mut Effects) -> Result<(), ViewError> {
        self.finality.pump(now);
        loop {
            self.pass_changes(effects);
            self.update_voting(now, effects);
            if !self.wrote {
                self.apply_fetched(now, view, effects)?;
            }
            if !self.wrote {
                self.progress_blocks(now, view, effects)?;
            }
            self.maybe_seal(effects);
            self.consensus.on_work(now, self.work(now));
            let actions = if self.wrote {
                Vec::new()
            } else {
                self.consensus.take_actions()
            };
            if actions.is_empty() {
                self.pass_changes(effects);
                return Ok(());
            }
            for action in actions {
                self.on_action(now, view, action, effects)?;
            }
        }
    }

    fn on_action(
        &mut self,
        now: Time,
        view: &dyn View,
        action: consensus::Action,
        effects: &mut Effects,
    ) -> Result<(), ViewError> {
        use consensus::Action;
        match action {
            Action::Build { round, justification } => self.building = Some((round, justification)),
            Action::Validate(proposal) => {
                self.validating
                    .insert(proposal.block_id(&self.setup.electorate.chain), proposal);
                self.chores.hurry();
            }
            Action::Remember(mark) => effects.remember.push(record_of(mark)),
            Action::Say(statement) => effects.sign.push(match statement {
                consensus::Statement::Proposal(proposal) => {
                    self.counters.proposals += 1;
                    Statement::Proposal(Box::new(proposal))
                }
                consensus::Statement::BlockVote(vote) => Statement::BlockVote(vote),
                consensus::Statement::ViewChange(change) => Statement::ViewChange(change),
            }),
            Action::Resend(gossip) => effects.send.push(Send::Gossip(gossip)),
            Action::Decided { certificate, proposal } => match proposal {
                Some(proposal) => self.decided = Some((certificate, proposal)),
                None => self.sync.want(certificate.height),
            },
            Action::Fetch { block } => self.ask_proposal(block, effects),
            Action::Evidence(evidence) => {
                self.counters.evidence += 1;
                let what = format!(
                    "two {:?} votes at height {} round {}: {} and {}",
                    evidence.first.phase,
                    evidence.first.height,
                    evidence.first.round,
                    evidence.first.block,
                    evidence.second.block
                );
                effects.events.push(Event::Evidence {
                    validator: evidence.first.validator,
                    what,
                });
            }
        }
        let _ = (now, view);
        Ok(())
    }

    /// What finality has found out, for the pool, for readers, and for whoever waits.
    fn pass_changes(&mut self, effects: &mut Effects) {
        for change in self.finality.take_changes() {
            match change {
                Change::Voted(txid) => self.pool.protect(&txid),
                Change::Contested(txid) => self.payments.contest(&txid),
                Change::Certified(txid) => self.payments.set(&txid, State::Certified),
                Change::Final(txid) => self.on_final(txid, effects),
                Change::Rejectable(_) => {}
                Change::Evidence { validator, what } => {
                    self.counters.evidence += 1;
                    effects.events.push(Event::Evidence { validator, what });
                }
            }
        }
    }

    fn on_final(&mut self, txid: TxId, effects: &mut Effects) {
        let (Some(body), Some(proof)) = (self.finality.body(&txid), self.finality.proof(VoteKind::Final, &txid)) else {
            return; // said again when the body is here
        };
        self.counters.finals += 1;
        self.payments.set_final(&txid, proof);
        let height = self.tip.height.next();
        self.final_coins.extend(body.created().map(|(outpoint, output)| {
            (
                outpoint,
                Coin {
                    output: *output,
                    height,
                },
            )
        }));
        for child in self.waiting.remove(&txid).unwrap_or_default() {
            self.make_ready(child);
        }
        effects.events.push(Event::Final(txid));
    }

    /// Whether this node votes: a validator that remembers all it said and is not behind.
    fn update_voting(&mut self, now: Time, effects: &mut Effects) {
        let epoch = self.finality.epoch();
        if let Some(Silence::LostLog(until) | Silence::ForeignVotes(until)) = self.silence
            && epoch > until
        {
            self.silence = None;
        }
        let remembers = self.silence.is_none() && !self.must_restore_votes();
        let voting = self.own.is_some() && remembers && !self.sync.is_catching_up();
        self.finality.set_voting(now, voting);
        self.consensus.set_voting(voting);
        if voting != self.voting {
            self.voting = voting;
            let reason = if voting {
                "all that was signed is known".to_owned()
            } else {
                self.silent_reason()
            };
            effects.events.push(Event::Voting { votes: voting, reason });
        }
    }

    fn silent_reason(&self) -> String {
        match self.silence {
            None if self.own.is_none() => "not a validator".to_owned(),
            None => "behind the chain: fetching blocks".to_owned(),
            Some(Silence::LostLog(epoch)) => format!(
                "the safety log is missing: what this key signed in epoch {epoch} and before is not known, so nothing is \
                 signed until the next epoch begins"
            ),
            Some(Silence::ForeignVotes(epoch)) => format!(
                "votes of epoch {epoch} signed with this validator's key arrived that this node does not remember: \
                 another process has the key, or the safety log was replaced; nothing is signed until the next epoch"
            ),
        }
    }

    /// What waits for a block, for consensus to time it.
    fn work(&self, now: Time) -> Work {
        let closing = self.closing();
        if closing && self.seals.quorum(|seal| self.is_usable(seal)).is_some() {
            return Work::Full;
        }
        let full = (self.finality_limits().0 / 4).clamp(1, BRISK_BLOCK);
        let due = self.finality.next_candidate_at().is_some_and(|at| at <= now);
        let finals = self.finality.numbers().finals;
        if finals as usize >= full {
            Work::Full
        } else if finals > 0 || due || closing || self.finality.has_rejections() {
            Work::Some
        } else {
            Work::None
        }
    }

    /// Whether the next block closes its epoch.
    fn closing(&self) -> bool {
        self.tip.height.next().closes_epoch(self.params.epoch_length)
    }

    /// Payments, and bytes of them, that this node may hold locked at once: half a block (see [`finality`]).
    const fn finality_limits(&self) -> (usize, usize) {
        (
            self.params.max_block_transactions as usize / 2,
            self.params.max_block_bytes as usize / 2,
        )
    }

    fn finality_config(params: &Params, own: Option<ValidatorIndex>) -> finality::Config {
        finality::Config {
            own,
            contest_after_ms: params.contest_after_ms,
            max_locked: params.max_block_transactions as usize / 2,
            max_locked_bytes: params.max_block_bytes as usize / 2,
        }
    }
}

/// Transactions in as few messages as the limits allow.
fn in_messages(transactions: &[CheckedTransaction]) -> impl Iterator<Item = Gossip> {
    let mut messages: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut bytes = 0;
    for transaction in transactions {
        bytes += transaction.bytes().len();
        match messages.last_mut() {
            Some(last) if bytes <= MAX_TRANSACTION_BYTES_PER_MESSAGE && last.len() < MAX_TRANSACTIONS_PER_MESSAGE => {
                last.push(transaction.bytes().to_vec());
            }
            _ => {
                bytes = transaction.bytes().len();
                messages.push(vec![transaction.bytes().to_vec()]);
            }
        }
    }
    messages.into_iter().map(Gossip::Transactions)
}

fn record_of_support(support: Support) -> SafetyRecord {
    match support {
        Support::Batch(batch) => SafetyRecord::Seen((*batch).clone()),
        Support::Certificate(certificate) => SafetyRecord::Certificate(certificate),
    }
}

fn record_of(mark: Mark) -> SafetyRecord {
    match mark {
        Mark::Signed {
            height,
            round,
            phase,
            block,
        } => SafetyRecord::Signed {
            height,
            round,
            phase,
            block,
        },
        Mark::ViewChanged(change) => SafetyRecord::ViewChange(change),
        Mark::Prepared { proposal, certificate } => SafetyRecord::Prepared { proposal, certificate },
    }
}
