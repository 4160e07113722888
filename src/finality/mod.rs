//! One payment after another becomes final: locks, Lock / Final / Abandon votes, certificates, contests.
//!
//! # The rules (protocol, section 4)
//!
//! A validator says at most three things about a transaction, each stamped with the epoch, each remembered before it is
//! sent:
//!
//! | vote | cast when | and then |
//! |---|---|---|
//! | Lock | the body is here, its inputs exist, none of them is locked for another, it is neither abandoned nor rejected | its inputs are locked for it |
//! | Final | a quorum has cast Lock, and this validator has not cast Abandon | never Abandon |
//! | Abandon | it has a rival and no lock certificate came within `contest_after`, or more than a third has abandoned | never Final; **the lock stays** |
//!
//! A quorum of Final makes it *final*. A quorum of Abandon lets a block *reject* it; locks are freed when that block is
//! committed, never before.
//!
//! # Why nothing final is ever undone
//!
//! Two quorums share a correct validator. It casts Lock for two rivals only if a block rejected (or made impossible) the
//! first in between; so two rival lock certificates need a rejection between them; that needs a quorum of Abandon, and
//! since no correct validator casts both Final and Abandon, the first was not final and never will be.
//!
//! # Back-pressure
//!
//! A validator holds locks for at most half a block of payments that no block has yet. A certified payment was locked
//! by more than a third of all power that is correct, out of at most all of it; so what is certified and waits is less
//! than a whole block, and the closing block of an epoch can take everything that its seals list.
//!
//! Validators that fill their locks with different payments would wait for one another for ever. So while nothing that
//! is certified waits for a block, a validator without room locks one more now and then: the payment nearest to a
//! quorum. All see the same votes sooner or later, so they choose the same, it becomes certified, and a block makes
//! room. The pauses double until there is progress, so this adds a handful even to a long partition.
//!
//! # What is here and what is not
//!
//! Times come in, votes and [`Change`]s go out. Whether inputs exist is the ledger's question, asked by the replica,
//! which says *ready*. Bodies are held by the pool as well; here they are needed for their inputs.

mod proof;
mod received;

pub use proof::{Proof, Voice};

use crate::{
    ledger::CheckedTransaction,
    primitives::{
        Certificate, Epoch, Fault, Height, OutPoint, Tally, Time, TxId, ValidatorIndex, ValidatorSet, Vote, VoteBatch,
        VoteKind,
        limits::{MAX_VOTE_BATCHES_PER_REQUEST, MAX_VOTES_PER_BATCH},
    },
};
use received::{Novelty, Received};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::Arc,
};
use thiserror::Error;

/// What the machine is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Own index in the current set; `None`: only watches.
    pub own: Option<ValidatorIndex>,
    /// How long a contested transaction may still become certified before it is abandoned.
    pub contest_after_ms: u64,
    /// Payments locked here and in no block, at most: half a block.
    pub max_locked: usize,
    /// Bytes of these, at most: half a block.
    pub max_locked_bytes: usize,
}

/// Blocks whose payments are remembered as settled, so that votes that come late open no new case.
const SETTLED_BLOCKS: usize = 16;
/// Batches of the next epoch that are kept per validator until this node gets there.
const MAX_EARLY: usize = 64;
/// Blocks that a coin waits at most after its spends were rejected again and again.
const MAX_COOLDOWN: u64 = 1 << 10;
/// Transactions that a validator may name without a body here, beyond as many as it may lock. It also abandons, and a vote
/// that is not counted is lost: a correct validator must never get there.
const MAX_NAMED_BESIDE: usize = 1_000;
/// How often the pause before one more lock without room doubles.
const MAX_SQUEEZE_DOUBLINGS: u32 = 6;
/// Coins whose rejections are remembered.
const MAX_COOLING: usize = 10_000;

/// Why a vote or a certificate is not counted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FinalityError {
    /// Of an epoch that is over, or too far ahead.
    #[error("votes of epoch {found}, this node is in epoch {current}")]
    Epoch {
        /// The votes'.
        found: Epoch,
        /// Ours.
        current: Epoch,
    },
    /// Counted already.
    #[error("vote batch {sequence} of validator {validator} is here already")]
    Duplicate {
        /// Whose.
        validator: ValidatorIndex,
        /// Which.
        sequence: u64,
    },
    /// Not in the set.
    #[error("validator {0} is not in the epoch's set")]
    UnknownValidator(ValidatorIndex),
}

impl FinalityError {
    /// What it says about the sender.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Epoch { .. } => Fault::Late,
            Self::Duplicate { .. } => Fault::None,
            Self::UnknownValidator(_) => Fault::Hostile,
        }
    }
}

/// Something that the replica has to know.
#[derive(Clone, Debug)]
pub enum Change {
    /// This node has voted for it: it must not be evicted.
    Voted(TxId),
    /// It has a rival.
    Contested(TxId),
    /// A quorum has locked it: a block may list it.
    Certified(TxId),
    /// A quorum has called it final.
    Final(TxId),
    /// A quorum has abandoned it: a block may reject it.
    Rejectable(TxId),
    /// A validator's signed votes contradict each other.
    Evidence {
        /// Whose.
        validator: ValidatorIndex,
        /// What they are.
        what: String,
    },
}

#[derive(Clone, Debug)]
struct Body {
    transaction: CheckedTransaction,
    rate_milli: u64,
}

/// A part of what proves a lock certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// Somebody's votes.
    Batch(Arc<VoteBatch>),
    /// The certificate as it came.
    Certificate(Certificate),
}

/// What this node has said.
#[derive(Clone, Copy, Debug, Default)]
struct Mine {
    lock: bool,
    finality: bool,
    abandon: bool,
}

#[derive(Clone, Debug)]
struct Payment {
    body: Option<Body>,
    /// Its inputs exist: committed coins, or outputs of what is final here.
    ready: bool,
    locks: Tally<Voice>,
    finals: Tally<Voice>,
    abandons: Tally<Voice>,
    mine: Mine,
    contested: Option<Time>,
    /// A rival that a block rejected, to be shown to those who never saw it: nothing else tells them that there was one.
    rejected_rival: Option<CheckedTransaction>,
    certified: Option<Time>,
    finalled: bool,
    rejectable: bool,
    named: Time,
    /// Who named it before the body was here.
    namer: Option<ValidatorIndex>,
}

impl Payment {
    fn new(named: Time, namer: Option<ValidatorIndex>) -> Self {
        Self {
            body: None,
            ready: false,
            locks: Tally::default(),
            finals: Tally::default(),
            abandons: Tally::default(),
            mine: Mine::default(),
            contested: None,
            rejected_rival: None,
            certified: None,
            finalled: false,
            rejectable: false,
            named,
            namer,
        }
    }

    const fn tally(&mut self, kind: VoteKind) -> &mut Tally<Voice> {
        match kind {
            VoteKind::Lock => &mut self.locks,
            VoteKind::Final => &mut self.finals,
            VoteKind::Abandon => &mut self.abandons,
        }
    }

    fn voices(&self) -> impl Iterator<Item = (ValidatorIndex, &Voice)> {
        self.locks.iter().chain(self.finals.iter()).chain(self.abandons.iter())
    }
}

/// What was committed or rejected lately.
#[derive(Debug, Default)]
struct Settled {
    blocks: VecDeque<Vec<TxId>>,
    txids: BTreeSet<TxId>,
}

impl Settled {
    /// Remembered as long as those of the last block.
    fn add_late(&mut self, txid: TxId) {
        match self.blocks.back_mut() {
            Some(last) => last.push(txid),
            None => self.blocks.push_back(vec![txid]),
        }
        self.txids.insert(txid);
    }

    fn add(&mut self, txids: Vec<TxId>) {
        self.txids.extend(txids.iter().copied());
        self.blocks.push_back(txids);
        if self.blocks.len() > SETTLED_BLOCKS {
            for txid in self.blocks.pop_front().into_iter().flatten() {
                self.txids.remove(&txid);
            }
        }
    }
}

/// A coin whose spends were rejected.
#[derive(Clone, Copy, Debug, Default)]
struct Cooldown {
    rejections: u32,
    /// The block that rejected last.
    rejected: Height,
    until: Height,
}

/// The payments of one epoch and the votes on them.
pub struct Finality {
    config: Config,
    set: Arc<ValidatorSet>,
    epoch: Epoch,
    height: Height,
    voting: bool,
    sealed: bool,
    /// Boxed: a map's nodes are moved about.
    payments: BTreeMap<TxId, Box<Payment>>,
    /// Own locks.
    locks: BTreeMap<OutPoint, TxId>,
    locked: usize,
    locked_bytes: usize,
    spenders: BTreeMap<OutPoint, Vec<TxId>>,
    /// Ready and not locked, best paying first.
    queue: BTreeSet<(Reverse<u64>, TxId)>,
    /// Certified and in no block, in the order they became so.
    certified: BTreeMap<u64, TxId>,
    certified_order: BTreeMap<TxId, u64>,
    next_order: u64,
    /// Certified and not final, by the time they were certified.
    stalled: BTreeSet<(Time, TxId)>,
    /// Abandoned by a quorum and in no block.
    rejectable: BTreeSet<TxId>,
    /// Named by votes, body not here.
    bodyless: BTreeSet<TxId>,
    bodyless_by: BTreeMap<ValidatorIndex, usize>,
    /// When to look at contested payments again.
    due: BTreeSet<(Time, TxId)>,
    /// When one more payment is locked though there is no room, and how many were since there was progress.
    squeeze_at: Option<Time>,
    squeezed: u32,
    cooldowns: BTreeMap<OutPoint, Cooldown>,
    cooling: BTreeSet<(Height, TxId)>,
    settled: Settled,
    received: BTreeMap<ValidatorIndex, Received>,
    early: BTreeMap<ValidatorIndex, Vec<VoteBatch>>,
    accused: BTreeSet<ValidatorIndex>,
    next_sequence: u64,
    outbox: Vec<Vote>,
    locked_bodies: Vec<CheckedTransaction>,
    /// Final was cast in this turn.
    finalling: Vec<TxId>,
    changes: Vec<Change>,
    votes_counted: u64,
    contested: u64,
    finals: u64,
}

impl Finality {
    /// A machine for an epoch that starts after `height`.
    pub fn new(config: Config, set: Arc<ValidatorSet>, epoch: Epoch, height: Height) -> Self {
        Self {
            config,
            set,
            epoch,
            height,
            voting: false,
            sealed: false,
            payments: BTreeMap::new(),
            locks: BTreeMap::new(),
            locked: 0,
            locked_bytes: 0,
            spenders: BTreeMap::new(),
            queue: BTreeSet::new(),
            certified: BTreeMap::new(),
            certified_order: BTreeMap::new(),
            next_order: 0,
            stalled: BTreeSet::new(),
            rejectable: BTreeSet::new(),
            bodyless: BTreeSet::new(),
            bodyless_by: BTreeMap::new(),
            due: BTreeSet::new(),
            squeeze_at: None,
            squeezed: 0,
            cooldowns: BTreeMap::new(),
            cooling: BTreeSet::new(),
            settled: Settled::default(),
            received: BTreeMap::new(),
            early: BTreeMap::new(),
            accused: BTreeSet::new(),
            next_sequence: 0,
            outbox: Vec::new(),
            locked_bodies: Vec::new(),
            finalling: Vec::new(),
            changes: Vec::new(),
            votes_counted: 0,
            contested: 0,
            finals: 0,
        }
    }

    // ---- what happens -------------------------------------------------------------------------------------------

    /// Whether this node may vote. It follows others' votes either way.
    pub fn set_voting(&mut self, now: Time, voting: bool) {
        if mem::replace(&mut self.voting, voting) != voting && voting {
            let all: Vec<TxId> = self.payments.keys().copied().collect();
            for txid in all {
                self.consider(now, txid);
            }
        }
    }

    /// The epoch is sealed: no more votes in it.
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    /// A body is here, admitted to the pool. `ready`: its inputs exist.
    pub fn on_transaction(&mut self, now: Time, transaction: &CheckedTransaction, rate_milli: u64, ready: bool) {
        let txid = transaction.txid();
        if self.settled.txids.contains(&txid) {
            return;
        }
        self.name(now, txid, None);
        let Some(payment) = self.payments.get_mut(&txid) else {
            return;
        };
        if payment.body.is_some() {
            return;
        }
        payment.body = Some(Body {
            transaction: transaction.clone(),
            rate_milli,
        });
        self.finals += u64::from(payment.finalled);
        if self.bodyless.remove(&txid)
            && let Some(count) = payment.namer.and_then(|namer| self.bodyless_by.get_mut(&namer))
        {
            *count = count.saturating_sub(1);
        }
        let mut rivals = BTreeSet::new();
        for outpoint in transaction.inputs() {
            let spenders = self.spenders.entry(*outpoint).or_default();
            rivals.extend(spenders.iter().copied());
            spenders.push(txid);
        }
        if !rivals.is_empty() {
            self.contest(now, txid);
            for rival in rivals {
                self.contest(now, rival);
            }
        }
        if ready {
            self.set_ready(txid);
        }
        self.consider(now, txid);
    }

    /// The inputs of a transaction exist now.
    pub fn set_ready(&mut self, txid: TxId) {
        if let Some(payment) = self.payments.get_mut(&txid) {
            payment.ready = true;
            self.enqueue(txid);
        }
    }

    /// A validator's votes, its signature checked. An own batch comes in the same way once it is signed.
    pub fn on_batch(&mut self, now: Time, batch: VoteBatch) -> Result<(), FinalityError> {
        let validator = batch.validator;
        if self.set.get(validator).is_none() {
            return Err(FinalityError::UnknownValidator(validator));
        }
        if batch.epoch != self.epoch {
            let error = FinalityError::Epoch {
                found: batch.epoch,
                current: self.epoch,
            };
            let early = self.early.entry(validator).or_default();
            if batch.epoch != self.epoch.next() || early.len() >= MAX_EARLY {
                return Err(error);
            }
            early.push(batch);
            return Ok(());
        }
        let sequence = batch.sequence;
        let novelty = self.received.entry(validator).or_default().judge(&batch);
        if novelty == Novelty::Duplicate {
            return Err(FinalityError::Duplicate { validator, sequence });
        }
        let batch = Arc::new(batch);
        let mut touched = Vec::new();
        for (vote, index) in batch.votes.iter().zip(0..) {
            if self.count(now, validator, *vote, Voice::Batch(batch.clone(), index)) {
                touched.push(vote.txid);
            }
        }
        // Of two batches under one number the first is kept; the votes of both are signed and count.
        if novelty == Novelty::New {
            let live = u32::try_from(touched.len()).unwrap_or(u32::MAX);
            self.received.entry(validator).or_default().take(batch, live);
        }
        for txid in touched {
            self.consider(now, txid);
        }
        Ok(())
    }

    /// A certificate, its signatures checked: a quorum of votes at once.
    pub fn on_certificate(&mut self, now: Time, certificate: Certificate) -> Result<(), FinalityError> {
        if certificate.epoch != self.epoch {
            return Err(FinalityError::Epoch {
                found: certificate.epoch,
                current: self.epoch,
            });
        }
        let vote = Vote {
            kind: certificate.kind,
            txid: certificate.txid,
        };
        for proof in certificate.votes {
            self.count(now, proof.validator, vote, Voice::Proof(Arc::new(proof)));
        }
        self.consider(now, vote.txid);
        Ok(())
    }

    /// A block is committed. Answers the transactions that it made impossible: they spend what it spent.
    pub fn on_block(
        &mut self,
        now: Time,
        height: Height,
        committed: &[TxId],
        rejected: &[TxId],
        spent: impl IntoIterator<Item = OutPoint>,
    ) -> Vec<TxId> {
        self.height = height;
        self.settled.add(committed.iter().chain(rejected).copied().collect());
        for txid in committed {
            self.settle(*txid);
        }
        let mut dead = BTreeSet::new();
        for outpoint in spent {
            dead.extend(self.spenders.get(&outpoint).into_iter().flatten().copied());
        }
        for txid in &dead {
            self.settle(*txid);
        }
        for txid in rejected {
            self.cool_down(*txid);
            if let Some(body) = self.body(txid) {
                self.settle(*txid);
                self.on_rejected_rival(now, &body);
            } else {
                self.settle(*txid);
            }
        }
        self.warm_up();
        self.pump(now);
        dead.into_iter().collect()
    }

    /// A transaction that a block has rejected is shown (again): whatever is open here and wants one of its coins had a
    /// rival, which counts once somebody has abandoned it. Answers whether that was news.
    ///
    /// Without it a coin can hang until the epoch ends: who saw both rivals has abandoned both, a block rejects one, and
    /// whoever hears of the other only then sees no reason to abandon it, while too few are left to lock it. Were it to
    /// count by itself, an old transaction that is played back would be enough to have the next ones rejected while
    /// their coin rests, for ever.
    pub fn on_rejected_rival(&mut self, now: Time, rejected: &CheckedTransaction) -> bool {
        let spenders = rejected
            .inputs()
            .iter()
            .filter_map(|outpoint| self.spenders.get(outpoint));
        let rivals: BTreeSet<TxId> = spenders.flatten().copied().collect();
        let mut news = false;
        for txid in rivals {
            if let Some(payment) = self.payments.get_mut(&txid)
                && payment.rejected_rival.is_none()
            {
                payment.rejected_rival = Some(rejected.clone());
                news = true;
                self.contest_rejected(now, txid);
            }
        }
        news
    }

    /// Contests what somebody has abandoned and what had a rival that a block rejected.
    fn contest_rejected(&mut self, now: Time, txid: TxId) {
        let counts = |payment: &Payment| payment.rejected_rival.is_some() && !payment.abandons.is_empty();
        if self.payments.get(&txid).is_some_and(|payment| counts(payment)) {
            self.contest(now, txid);
        }
    }

    /// Votes have named a transaction that a block settled long ago, or before a restart: there is no case.
    pub fn on_settled(&mut self, txid: TxId) {
        self.settle(txid);
        self.settled.add_late(txid);
    }

    /// A transaction was evicted from the pool; never one that was voted for here.
    pub fn on_evicted(&mut self, txid: TxId) {
        let spoken = |mine: Mine| mine.lock || mine.finality || mine.abandon;
        if self.payments.get(&txid).is_some_and(|payment| !spoken(payment.mine)) {
            self.settle(txid);
        }
    }

    /// A new epoch: locks and votes of the old one are forgotten, what is pending is voted on afresh. Nothing is ready
    /// until the replica says so again.
    pub fn on_epoch(&mut self, now: Time, epoch: Epoch, set: Arc<ValidatorSet>, own: Option<ValidatorIndex>) {
        let fresh = Self::new(
            Config {
                own,
                ..self.config.clone()
            },
            set,
            epoch,
            self.height,
        );
        let old = mem::replace(self, fresh);
        self.voting = old.voting;
        self.cooldowns = old.cooldowns;
        self.settled = old.settled;
        self.changes = old.changes;
        self.votes_counted = old.votes_counted;
        for (txid, payment) in old.payments {
            if let Some(body) = payment.body {
                self.on_transaction(now, &body.transaction, body.rate_milli, false);
            } else {
                self.settled.txids.remove(&txid);
            }
        }
        for batch in old.early.into_values().flatten() {
            // Whatever an early batch is now, it is no worse than one that comes late.
            let _ = self.on_batch(now, batch);
        }
    }

    /// It is at least [`Finality::deadline`].
    pub fn on_tick(&mut self, now: Time) {
        while let Some((time, txid)) = self.due.first().copied() {
            if time > now {
                break;
            }
            self.due.pop_first();
            self.consider(now, txid);
        }
        self.squeeze(now);
    }

    /// When to call [`Finality::on_tick`].
    pub fn deadline(&self) -> Option<Time> {
        let due = self.due.first().map(|(time, _)| *time);
        due.into_iter().chain(self.squeeze_at).min()
    }

    // ---- after a restart ----------------------------------------------------------------------------------------

    /// Takes back an own vote batch from the safety log. `settled` says which transactions are committed or rejected;
    /// `body` gives what was remembered with its lock. Nothing is sent for it: the replica has it signed and published
    /// again.
    pub fn restore(
        &mut self,
        now: Time,
        batch: &VoteBatch,
        settled: impl Fn(&TxId) -> bool,
        body: impl Fn(&TxId) -> Option<(CheckedTransaction, u64)>,
    ) {
        if batch.epoch != self.epoch {
            return;
        }
        self.next_sequence = self.next_sequence.max(batch.sequence + 1);
        for vote in batch.votes.iter().filter(|vote| !settled(&vote.txid)) {
            let Some((transaction, rate_milli)) = body(&vote.txid) else {
                self.restore_nameless(now, vote);
                continue;
            };
            self.on_transaction(now, &transaction, rate_milli, false);
            let size = transaction.bytes().len();
            let Some(payment) = self.payments.get_mut(&vote.txid) else {
                continue;
            };
            self.changes.push(Change::Voted(vote.txid));
            match vote.kind {
                VoteKind::Lock => {
                    payment.mine.lock = true;
                    self.locked += 1;
                    self.locked_bytes += size;
                    for outpoint in transaction.inputs() {
                        self.locks.insert(*outpoint, vote.txid);
                    }
                }
                VoteKind::Final => payment.mine.finality = true,
                VoteKind::Abandon => payment.mine.abandon = true,
            }
        }
    }

    /// Takes back a vote whose transaction was not remembered with it: bodies are, with locks. Final and Abandon bind
    /// all the same.
    fn restore_nameless(&mut self, now: Time, vote: &Vote) {
        if vote.kind == VoteKind::Lock || self.settled.txids.contains(&vote.txid) {
            return; // what is locked and still possible has its body in the log
        }
        self.name(now, vote.txid, None);
        let Some(payment) = self.payments.get_mut(&vote.txid) else {
            return;
        };
        match vote.kind {
            VoteKind::Final => payment.mine.finality = true,
            VoteKind::Abandon => payment.mine.abandon = true,
            VoteKind::Lock => {}
        }
        if payment.body.is_none() {
            self.bodyless.insert(vote.txid);
        }
    }

    /// Own batches that a trimmed safety log must still hold, the bodies of what is locked here, and what proves the lock
    /// certificates of what Final was cast for.
    pub fn live(&self) -> (Vec<CheckedTransaction>, Vec<Arc<VoteBatch>>, Vec<Support>) {
        let body = |payment: &Payment| {
            let spoken = payment.mine.lock || payment.mine.finality || payment.mine.abandon;
            payment
                .body
                .as_ref()
                .filter(|_| spoken)
                .map(|body| body.transaction.clone())
        };
        let own = self.config.own.and_then(|own| self.received.get(&own));
        // One that is written down and of no use now may be of use to a later Final vote, and is not written again.
        let mut batches: BTreeMap<*const VoteBatch, Arc<VoteBatch>> = BTreeMap::new();
        let logged = self.received.values().flat_map(Received::logged);
        batches.extend(logged.map(|batch| (Arc::as_ptr(batch), batch.clone())));
        let mut support = Vec::new();
        for (txid, _) in self.payments.iter().filter(|(_, payment)| payment.mine.finality) {
            for part in self.support(txid) {
                match part {
                    Support::Batch(batch) => drop(batches.insert(Arc::as_ptr(&batch), batch)),
                    Support::Certificate(_) => support.push(part),
                }
            }
        }
        let mut batches: Vec<Arc<VoteBatch>> = batches.into_values().collect();
        batches.sort_by_key(|batch| (batch.validator, batch.sequence)); // not by address: runs must repeat
        support.extend(batches.into_iter().map(Support::Batch));
        (
            self.payments.values().filter_map(|payment| body(payment)).collect(),
            own.into_iter().flat_map(|own| own.from(0)).cloned().collect(),
            support,
        )
    }

    /// What proves the lock certificate of a payment, apart from the own vote.
    fn support(&self, txid: &TxId) -> Vec<Support> {
        let Some(payment) = self.payments.get(txid) else {
            return Vec::new();
        };
        let others = payment
            .locks
            .iter()
            .filter(|(index, _)| Some(*index) != self.config.own);
        let batch = |(_, voice): (ValidatorIndex, &Voice)| match voice {
            Voice::Batch(batch, _) => Some(Support::Batch(batch.clone())),
            Voice::Proof(_) => None,
        };
        let batches: Option<Vec<Support>> = others.map(batch).collect();
        batches.unwrap_or_else(|| {
            let proof = self.proof(VoteKind::Lock, txid);
            proof
                .map(|proof| Support::Certificate(proof.certificate()))
                .into_iter()
                .collect()
        })
    }

    /// What proves the lock certificates of what Final was cast for in this turn, as far as it was not given before: to
    /// be remembered together with the votes.
    pub fn take_support(&mut self) -> Vec<Support> {
        let mut support = Vec::new();
        for txid in mem::take(&mut self.finalling) {
            for part in self.support(&txid) {
                let new = match &part {
                    Support::Batch(batch) => self.received.entry(batch.validator).or_default().log(batch),
                    Support::Certificate(_) => true,
                };
                if new {
                    support.push(part);
                }
            }
        }
        support
    }

    // ---- what comes out -----------------------------------------------------------------------------------------

    /// What the replica has to know, in the order it happened.
    pub fn take_changes(&mut self) -> Vec<Change> {
        mem::take(&mut self.changes)
    }

    /// The turn's votes as batches to be remembered and signed, and the bodies that go with the locks.
    pub fn take_votes(&mut self) -> (Vec<CheckedTransaction>, Vec<VoteBatch>) {
        let Some(validator) = self.config.own else {
            return Default::default();
        };
        let votes = mem::take(&mut self.outbox);
        let batches = votes
            .chunks(MAX_VOTES_PER_BATCH)
            .map(|votes| {
                let sequence = self.next_sequence;
                self.next_sequence += 1;
                VoteBatch {
                    epoch: self.epoch,
                    validator,
                    sequence,
                    height: self.height,
                    votes: votes.to_vec(),
                    signature: crate::primitives::Signature([0; 64]),
                }
            })
            .collect();
        (mem::take(&mut self.locked_bodies), batches)
    }

    /// Locks what can be locked, the best paying first. Called once at the end of each input.
    pub fn pump(&mut self, now: Time) {
        if !self.may_vote() {
            return;
        }
        while let Some((rate, txid)) = self.queue.pop_first() {
            if !self.has_room(&txid) {
                self.queue.insert((rate, txid));
                break;
            }
            self.try_lock(now, txid);
        }
        if self.queue.is_empty() || self.waits_for_block() {
            self.squeeze_at = None;
            self.squeezed = 0;
        } else if self.squeeze_at.is_none() {
            let pause = self.config.contest_after_ms << self.squeezed.min(MAX_SQUEEZE_DOUBLINGS);
            self.squeeze_at = Some(now.plus_ms(pause));
        }
    }

    /// Whether anything is certified that a block can take.
    fn waits_for_block(&self) -> bool {
        let has_body = |txid| self.payments.get(txid).is_some_and(|payment| payment.body.is_some());
        self.certified.values().any(has_body)
    }

    /// Locks the payment that is nearest to a quorum, room or not.
    fn squeeze(&mut self, now: Time) {
        if self.squeeze_at.is_none_or(|at| now < at) {
            return;
        }
        self.squeeze_at = None;
        if !self.may_vote() || self.waits_for_block() {
            return;
        }
        let power = |txid: &TxId| {
            let voices = self.payments.get(txid).map(|payment| payment.locks.iter());
            let voices = voices.into_iter().flatten();
            voices.map(|(validator, _)| self.set.power(validator)).sum::<u128>()
        };
        let free = |txid: &TxId| {
            let body = self.payments.get(txid).and_then(|payment| payment.body.as_ref());
            let inputs = body.map_or(&[][..], |body| body.transaction.inputs());
            inputs
                .iter()
                .all(|outpoint| !self.locks.contains_key(outpoint) && self.cooling_until(outpoint).is_none())
        };
        let nearest = self
            .queue
            .iter()
            .filter(|(_, txid)| free(txid))
            .max_by_key(|(_, txid)| (power(txid), Reverse(*txid)))
            .copied();
        if let Some((rate, txid)) = nearest {
            self.queue.remove(&(rate, txid));
            self.squeezed += 1;
            self.try_lock(now, txid);
        }
    }

    // ---- what is known ------------------------------------------------------------------------------------------

    /// The current epoch.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether a transaction is final here.
    pub fn is_final(&self, txid: &TxId) -> bool {
        self.payments.get(txid).is_some_and(|payment| payment.finalled)
    }

    /// Whether a lock certificate for a transaction is here.
    pub fn is_certified(&self, txid: &TxId) -> bool {
        self.payments
            .get(txid)
            .is_some_and(|payment| payment.certified.is_some())
    }

    /// Whether a validator has locked the coins of a transaction for it, and for none of the others known here that
    /// spend them.
    pub fn is_backed(&self, transaction: &CheckedTransaction) -> bool {
        let Some(payment) = self.payments.get(&transaction.txid()) else {
            return false;
        };
        let spenders = transaction
            .inputs()
            .iter()
            .filter_map(|outpoint| self.spenders.get(outpoint));
        let rivals: BTreeSet<TxId> = spenders.flatten().copied().collect();
        let has_locked = |validator, txid: &TxId| {
            let payment = self.payments.get(txid);
            payment.is_some_and(|payment| payment.locks.get(validator).is_some())
        };
        payment
            .locks
            .iter()
            .any(|(validator, _)| !rivals.iter().any(|rival| has_locked(validator, rival)))
    }

    /// The body of a transaction that is neither committed nor rejected.
    pub fn body(&self, txid: &TxId) -> Option<CheckedTransaction> {
        Some(self.payments.get(txid)?.body.as_ref()?.transaction.clone())
    }

    /// The votes of a kind for a transaction, when they are a quorum.
    pub fn proof(&self, kind: VoteKind, txid: &TxId) -> Option<Proof> {
        let payment = self.payments.get(txid)?;
        let tally = match kind {
            VoteKind::Lock => &payment.locks,
            VoteKind::Final => &payment.finals,
            VoteKind::Abandon => &payment.abandons,
        };
        let voices = tally
            .iter()
            .map(|(validator, voice)| (validator, voice.clone()))
            .collect();
        tally.is_quorum(&self.set).then_some(Proof {
            kind,
            txid: *txid,
            epoch: self.epoch,
            voices,
        })
    }

    /// Certified payments that a leader lists: what is final, and what has been certified without becoming final for
    /// `contest_after`; with `all`, everything certified. In the order they were certified here.
    pub fn candidates(&self, now: Time, all: bool) -> impl Iterator<Item = (TxId, &CheckedTransaction)> {
        self.certified.values().filter_map(move |txid| {
            let payment = self.payments.get(txid)?;
            let stuck = payment
                .certified
                .is_some_and(|since| now >= since.plus_ms(self.config.contest_after_ms));
            (all || payment.finalled || stuck).then_some((*txid, &payment.body.as_ref()?.transaction))
        })
    }

    /// When something certified becomes a candidate by waiting; `None`: nothing waits.
    pub fn next_candidate_at(&self) -> Option<Time> {
        self.stalled
            .first()
            .map(|(since, _)| since.plus_ms(self.config.contest_after_ms))
    }

    /// Payments that are certified and in no block.
    pub fn certified_count(&self) -> usize {
        self.certified.len()
    }

    /// Payments that a block may reject: abandoned by a quorum and never certified.
    pub fn rejections(&self) -> Vec<Proof> {
        let never_certified = self.rejectable.iter().filter(|txid| !self.is_certified(txid));
        never_certified
            .filter_map(|txid| self.proof(VoteKind::Abandon, txid))
            .collect()
    }

    /// Whether a block could reject something.
    pub fn has_rejections(&self) -> bool {
        self.rejectable.iter().any(|txid| !self.is_certified(txid))
    }

    /// The sequence that the next own vote batch will have.
    pub const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// What a seal lists: cast Final here and in no block, ascending.
    pub fn to_seal(&self) -> Vec<TxId> {
        self.payments
            .iter()
            .filter(|(_, payment)| payment.mine.finality)
            .map(|(txid, _)| *txid)
            .collect()
    }

    /// Transactions that votes name and whose bodies are not here, named before `before`.
    pub fn missing_bodies(&self, before: Time) -> Vec<TxId> {
        let old = |txid: &&TxId| self.payments.get(*txid).is_some_and(|payment| payment.named < before);
        self.bodyless.iter().filter(old).copied().collect()
    }

    /// Bodies of payments that no certificate has come for, admitted before `before`: to be shown to others again, each
    /// after the rejected rival that it had.
    pub fn uncertified(&self, before: Time, max: usize) -> Vec<CheckedTransaction> {
        let old = |payment: &Payment| payment.certified.is_none() && payment.named < before;
        let bodies = self
            .payments
            .values()
            .filter(|payment| old(payment))
            .flat_map(|payment| {
                let body = payment.body.as_ref().map(|body| &body.transaction);
                let rival = payment.rejected_rival.as_ref().filter(|_| payment.contested.is_some());
                rival.into_iter().chain(body)
            });
        bodies.take(max).cloned().collect()
    }

    /// Payments that were named before `before` and are not final: certificates for them may exist elsewhere.
    pub fn unfinished(&self, before: Time, max: usize) -> Vec<TxId> {
        let old = |payment: &Payment| !payment.finalled && payment.named < before;
        self.payments
            .iter()
            .filter(|(_, payment)| old(payment))
            .take(max)
            .map(|(txid, _)| *txid)
            .collect()
    }

    /// By validator: vote batches held without a gap.
    pub fn sequences(&self) -> Vec<u64> {
        self.set
            .iter()
            .map(|(index, _)| self.received.get(&index).map_or(0, Received::contiguous))
            .collect()
    }

    /// A peer says how many vote batches of each validator it holds.
    pub fn on_claims(&mut self, sequences: &[u64]) {
        for (validator, count) in (0..).zip(sequences) {
            if self.set.get(validator).is_some() {
                self.received.entry(validator).or_default().claim(*count);
            }
        }
    }

    /// Gaps in what has come: validator, first sequence, how many.
    pub fn gaps(&self) -> Vec<(ValidatorIndex, u64, u32)> {
        let gap = |(validator, received): (&ValidatorIndex, &Received)| {
            let (from, count) = received.gap(MAX_VOTE_BATCHES_PER_REQUEST)?;
            Some((*validator, from, count))
        };
        self.received.iter().filter_map(gap).collect()
    }

    /// An answer about a validator's gap has been worked through.
    pub fn on_gap_answered(&mut self, validator: ValidatorIndex) {
        if let Some(received) = self.received.get_mut(&validator) {
            received.answered();
        }
    }

    /// Vote batches that are still kept, from a sequence on.
    pub fn batches(&self, validator: ValidatorIndex, from: u64) -> impl Iterator<Item = &Arc<VoteBatch>> {
        self.received
            .get(&validator)
            .into_iter()
            .flat_map(move |received| received.from(from))
    }

    /// Whether anything is under way here.
    pub fn is_busy(&self) -> bool {
        !self.payments.is_empty()
    }

    /// The machine in numbers.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            payments: self.payments.len() as u64,
            bodyless: self.bodyless.len() as u64,
            contested: self.contested,
            finals: self.finals,
            batches_kept: self.received.values().map(Received::kept).sum::<usize>() as u64,
            votes_counted: self.votes_counted,
        }
    }

    // ---- inside -------------------------------------------------------------------------------------------------

    fn may_vote(&self) -> bool {
        let sealed = self.sealed && !planted!(VoteAfterSeal);
        self.voting && !sealed && self.config.own.is_some()
    }

    /// Opens a case for a txid unless there is one; not when a validator has named too many that nobody knows.
    fn name(&mut self, now: Time, txid: TxId, namer: Option<ValidatorIndex>) {
        if self.payments.contains_key(&txid) {
            return;
        }
        if let Some(namer) = namer {
            let count = self.bodyless_by.entry(namer).or_default();
            if *count >= self.config.max_locked + MAX_NAMED_BESIDE {
                return;
            }
            *count += 1;
            self.bodyless.insert(txid);
        }
        self.payments.insert(txid, Box::new(Payment::new(now, namer)));
    }

    /// Counts one vote. Answers whether it was new.
    fn count(&mut self, now: Time, validator: ValidatorIndex, vote: Vote, voice: Voice) -> bool {
        if self.settled.txids.contains(&vote.txid) {
            return false;
        }
        self.name(now, vote.txid, Some(validator));
        let set = self.set.clone();
        let Some(payment) = self.payments.get_mut(&vote.txid) else {
            return false;
        };
        if !payment.tally(vote.kind).add(&set, validator, voice) {
            return false;
        }
        self.votes_counted += 1;
        self.watch(validator, vote);
        if vote.kind == VoteKind::Abandon {
            self.contest_rejected(now, vote.txid);
        }
        true
    }

    /// Looks whether a vote that was just counted contradicts another of the same validator.
    fn watch(&mut self, validator: ValidatorIndex, vote: Vote) {
        let Some(payment) = self.payments.get(&vote.txid) else {
            return;
        };
        let both = payment.finals.get(validator).is_some() && payment.abandons.get(validator).is_some();
        let what = if vote.kind != VoteKind::Lock && both {
            format!("Final and Abandon for {}", vote.txid)
        } else if let Some(rival) = self.locked_rival(validator, &vote) {
            format!("Lock for {} and for its rival {rival}", vote.txid)
        } else {
            return;
        };
        if self.accused.insert(validator) {
            self.changes.push(Change::Evidence { validator, what });
        }
    }

    /// A rival that a validator has locked too, with no block in between that could excuse it: both are still alive
    /// here, and this node has committed everything that the validator had when it voted.
    fn locked_rival(&self, validator: ValidatorIndex, vote: &Vote) -> Option<TxId> {
        let known = |txid: &TxId| {
            let payment = self.payments.get(txid)?;
            let height = match payment.locks.get(validator)? {
                Voice::Batch(batch, _) => batch.height,
                Voice::Proof(proof) => proof.height,
            };
            (height <= self.height).then_some(())
        };
        if vote.kind != VoteKind::Lock {
            return None;
        }
        known(&vote.txid)?;
        let body = self.payments.get(&vote.txid)?.body.as_ref()?;
        let rivals = body
            .transaction
            .inputs()
            .iter()
            .filter_map(|outpoint| self.spenders.get(outpoint))
            .flatten();
        rivals
            .filter(|rival| **rival != vote.txid)
            .find(|rival| known(rival).is_some())
            .copied()
    }

    fn contest(&mut self, now: Time, txid: TxId) {
        let due = now.plus_ms(self.config.contest_after_ms);
        if let Some(payment) = self.payments.get_mut(&txid)
            && payment.contested.is_none()
        {
            payment.contested = Some(now);
            self.contested += 1;
            self.due.insert((due, txid));
            self.changes.push(Change::Contested(txid));
        }
    }

    /// Applies every rule to one payment: what it has become, and what this node may say about it now.
    fn consider(&mut self, now: Time, txid: TxId) {
        let may_vote = self.may_vote();
        let contest_after = self.config.contest_after_ms;
        let set = self.set.clone();
        let Some(payment) = self.payments.get_mut(&txid) else {
            return;
        };
        if payment.certified.is_none() && payment.locks.is_quorum(&set) {
            payment.certified = Some(now);
            if !payment.finalled {
                self.stalled.insert((now, txid));
            }
            self.certified.insert(self.next_order, txid);
            self.certified_order.insert(txid, self.next_order);
            self.next_order += 1;
            self.changes.push(Change::Certified(txid));
        }
        let abandoned = payment.mine.abandon && !planted!(FinalAfterAbandon);
        if may_vote && payment.certified.is_some() && payment.body.is_some() && !payment.mine.finality && !abandoned {
            payment.mine.finality = true;
            self.outbox.push(Vote {
                kind: VoteKind::Final,
                txid,
            });
            self.finalling.push(txid);
            self.changes.push(Change::Voted(txid));
        }
        if !payment.finalled && payment.finals.is_quorum(&set) {
            payment.finalled = true;
            self.finals += u64::from(payment.body.is_some());
            if let Some(since) = payment.certified {
                self.stalled.remove(&(since, txid));
            }
            self.changes.push(Change::Final(txid));
        }
        let expired = payment
            .contested
            .is_some_and(|since| now >= since.plus_ms(contest_after));
        let hopeless = (expired && payment.certified.is_none()) || payment.abandons.exceeds_third(&set);
        if may_vote && hopeless && payment.body.is_some() && !payment.mine.finality && !payment.mine.abandon {
            payment.mine.abandon = true;
            self.outbox.push(Vote {
                kind: VoteKind::Abandon,
                txid,
            });
            self.changes.push(Change::Voted(txid));
            if planted!(FreeOnAbandon) {
                self.free(txid);
            }
        }
        let Some(payment) = self.payments.get_mut(&txid) else {
            return;
        };
        if !payment.rejectable && payment.abandons.is_quorum(&set) {
            payment.rejectable = true;
            self.rejectable.insert(txid);
            self.changes.push(Change::Rejectable(txid));
        }
    }

    fn has_room(&self, txid: &TxId) -> bool {
        let size = self.payments.get(txid).and_then(|payment| payment.body.as_ref());
        let size = size.map_or(0, |body| body.transaction.bytes().len());
        self.locked < self.config.max_locked && self.locked_bytes + size <= self.config.max_locked_bytes
    }

    /// Locks the inputs of a payment for it and says so, unless a rule forbids it.
    fn try_lock(&mut self, now: Time, txid: TxId) {
        let Some(payment) = self.payments.get(&txid) else {
            return;
        };
        let Some(body) = payment.body.as_ref().filter(|_| payment.ready) else {
            return;
        };
        if payment.mine.lock || payment.mine.abandon {
            return;
        }
        let transaction = body.transaction.clone();
        let taken = |outpoint: &OutPoint| self.locks.get(outpoint).is_some_and(|holder| *holder != txid);
        if transaction.inputs().iter().any(taken) && !planted!(LockTwice) {
            return; // enqueued again when that lock is freed
        }
        if let Some(until) = transaction
            .inputs()
            .iter()
            .filter_map(|outpoint| self.cooling_until(outpoint))
            .max()
        {
            self.cooling.insert((until, txid));
            return;
        }
        for outpoint in transaction.inputs() {
            self.locks.insert(*outpoint, txid);
        }
        self.locked += 1;
        self.locked_bytes += transaction.bytes().len();
        if let Some(payment) = self.payments.get_mut(&txid) {
            payment.mine.lock = true;
        }
        self.outbox.push(Vote {
            kind: VoteKind::Lock,
            txid,
        });
        self.locked_bodies.push(transaction);
        self.changes.push(Change::Voted(txid));
        self.consider(now, txid);
    }

    fn enqueue(&mut self, txid: TxId) {
        if let Some(payment) = self.payments.get(&txid)
            && let Some(body) = &payment.body
            && payment.ready
            && !payment.mine.lock
            && !payment.mine.abandon
        {
            self.queue.insert((Reverse(body.rate_milli), txid));
        }
    }

    /// Forgets a payment that is settled, one way or the other, and frees its locks.
    fn settle(&mut self, txid: TxId) {
        self.free(txid);
        let Some(payment) = self.payments.remove(&txid) else {
            return;
        };
        for (validator, voice) in payment.voices() {
            if let (Some(sequence), Some(received)) = (voice.sequence(), self.received.get_mut(&validator)) {
                received.settle(sequence);
            }
        }
        self.contested -= u64::from(payment.contested.is_some());
        self.finals -= u64::from(payment.finalled && payment.body.is_some());
        if let Some(since) = payment.certified {
            self.stalled.remove(&(since, txid));
        }
        if let Some(order) = self.certified_order.remove(&txid) {
            self.certified.remove(&order);
        }
        self.rejectable.remove(&txid);
        if self.bodyless.remove(&txid)
            && let Some(count) = payment.namer.and_then(|namer| self.bodyless_by.get_mut(&namer))
        {
            *count = count.saturating_sub(1);
        }
        let Some(body) = payment.body else { return };
        self.queue.remove(&(Reverse(body.rate_milli), txid));
        for outpoint in body.transaction.inputs() {
            if let Some(spenders) = self.spenders.get_mut(outpoint) {
                spenders.retain(|spender| *spender != txid);
                if spenders.is_empty() {
                    self.spenders.remove(outpoint);
                }
            }
        }
    }

    /// Frees the locks that a payment holds; whoever waited for them may try again.
    fn free(&mut self, txid: TxId) {
        let Some(payment) = self.payments.get(&txid) else {
            return;
        };
        let Some(body) = payment.body.as_ref().filter(|_| payment.mine.lock) else {
            return;
        };
        let transaction = body.transaction.clone();
        let mut waiting = Vec::new();
        for outpoint in transaction.inputs() {
            if self.locks.get(outpoint) == Some(&txid) {
                self.locks.remove(outpoint);
                waiting.extend(self.spenders.get(outpoint).into_iter().flatten().copied());
            }
        }
        self.locked = self.locked.saturating_sub(1);
        self.locked_bytes = self.locked_bytes.saturating_sub(transaction.bytes().len());
        for other in waiting {
            if other != txid {
                self.enqueue(other);
            }
        }
    }

    /// The coins of a rejected transaction rest: not the first time, which may be an accident, but for `2^(k-1)` blocks
    /// the k-th time. Double-spending oneself must not be a cheap way to fill the chain. Rivals that one block rejects
    /// together count once.
    fn cool_down(&mut self, txid: TxId) {
        let Some(body) = self.payments.get(&txid).and_then(|payment| payment.body.as_ref()) else {
            return;
        };
        for outpoint in body.transaction.inputs() {
            let before = self.cooldowns.get(outpoint).copied().unwrap_or_default();
            if before.rejected == self.height {
                continue;
            }
            let rejections = before.rejections + 1;
            let blocks = 1u64
                .checked_shl(rejections - 1)
                .unwrap_or(MAX_COOLDOWN)
                .min(MAX_COOLDOWN);
            let blocks = if rejections == 1 { 0 } else { blocks };
            let until = Height(self.height.0.saturating_add(blocks));
            self.cooldowns.insert(
                *outpoint,
                Cooldown {
                    rejections,
                    rejected: self.height,
                    until,
                },
            );
        }
    }

    fn cooling_until(&self, outpoint: &OutPoint) -> Option<Height> {
        self.cooldowns
            .get(outpoint)
            .map(|cooldown| cooldown.until)
            .filter(|until| *until > self.height)
    }

    /// Coins that have rested long enough may be locked again; what was forgotten about is forgotten.
    fn warm_up(&mut self) {
        while let Some((until, txid)) = self.cooling.first().copied() {
            if until > self.height {
                break;
            }
            self.cooling.pop_first();
            self.enqueue(txid);
        }
        while self.cooldowns.len() > MAX_COOLING {
            let ended = self
                .cooldowns
                .iter()
                .min_by_key(|(_, cooldown)| cooldown.until)
                .map(|(outpoint, _)| *outpoint);
            let Some(outpoint) = ended else { break };
            self.cooldowns.remove(&outpoint);
        }
    }
}

/// The machine in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Payments that are neither committed nor rejected.
    pub payments: u64,
    /// Of these: named by votes, body not here.
    pub bodyless: u64,
    /// Of these: contested.
    pub contested: u64,
    /// Of these: final.
    pub finals: u64,
    /// Vote batches kept.
    pub batches_kept: u64,
    /// Votes counted since start.
    pub votes_counted: u64,
}

#[cfg(test)]
mod tests;
