//! Building, validating and committing blocks; leaving epochs.

use super::{Committed, Dropped, Effects, Event, Replica, SafetyRecord, Silence, State, Statement, Validated};
use crate::{
    epoch::Seals,
    ledger::{
        Batch, CheckedTransaction, Content, Overlay, TransactionError, View, ViewError, Write,
        apply::{apply_block, build_header, validate},
    },
    primitives::{
        Block, BlockCertificate, Certificate, CommittedBlock, EpochSeal, Fault, OutPoint, Proposal, Round,
        RoundCertificate, Signature, Time, TxId, limits::MAX_BLOCK_REJECTIONS,
    },
};
use std::{collections::BTreeSet, sync::Arc};

/// What a proposal names and is not here.
#[derive(Debug, Default)]
pub(super) struct Missing {
    pub(super) bodies: Vec<TxId>,
    pub(super) certificates: Vec<TxId>,
}

impl Replica {
    /// Takes the next step with whatever block is under way: commit what is decided, make what is to be proposed, judge
    /// what was proposed.
    pub(super) fn progress_blocks(
        &mut self,
        now: Time,
        view: &dyn View,
        effects: &mut Effects,
    ) -> Result<(), ViewError> {
        if let Some((certificate, proposal)) = self.decided.take()
            && certificate.height == self.tip.height.next()
        {
            return self.commit_decided(now, view, certificate, proposal, effects);
        }
        if let Some((round, justification)) = self.building.take() {
            self.build(now, view, round, justification, effects)?;
        }
        let proposals: Vec<Arc<Proposal>> = self.validating.values().cloned().collect();
        for proposal in proposals {
            self.judge(now, view, &proposal, effects)?;
        }
        Ok(())
    }

    // ---- building -----------------------------------------------------------------------------------------------

    /// Makes the block of a round that this node leads. A closing block waits for its seals.
    fn build(
        &mut self,
        now: Time,
        view: &dyn View,
        round: Round,
        justification: Option<RoundCertificate>,
        effects: &mut Effects,
    ) -> Result<(), ViewError> {
        let Some(proposer) = self.own else { return Ok(()) };
        let seals = match self.seals.quorum(|seal| self.is_usable(seal)) {
            Some(seals) if self.closing() => seals,
            None if self.closing() => {
                self.building = Some((round, justification));
                return Ok(());
            }
            _ => Vec::new(),
        };
        let transactions = self.choose(now, view, &seals)?;
        let rejections: Vec<Certificate> = self
            .finality
            .rejections()
            .iter()
            .take(MAX_BLOCK_REJECTIONS)
            .map(|proof| proof.certificate())
            .collect();
        let last_commit = self.consensus.last_commit_for_proposal();
        let header = build_header(
            &self.tip,
            &self.params,
            &self.setup.electorate,
            proposer,
            now,
            &transactions,
            &rejections,
            &seals,
            last_commit.as_ref(),
        );
        let txids = transactions.iter().map(|transaction| transaction.txid()).collect();
        let content = Content {
            header: header.clone(),
            transactions,
            rejections,
            seals,
            last_commit,
        };
        match apply_block(view, &self.commitment, &self.params, &self.setup.electorate, &content) {
            Ok(applied) => {
                let proposal = Proposal {
                    height: header.height,
                    round,
                    header,
                    txids,
                    rejections: content.rejections.clone(),
                    seals: content.seals.clone(),
                    last_commit: content.last_commit.clone(),
                    justification,
                    leader: proposer,
                    signature: Signature([0; 64]),
                };
                self.validated.insert(applied.block, Validated { content, applied });
                self.consensus.on_built(now, round, proposal);
            }
            Err(error) => {
                effects.events.push(Event::Trouble(format!(
                    "own block is not valid and is not proposed: {error}"
                )));
            }
        }
        Ok(())
    }

    /// Certified payments for the next block, parents before children, what seals list first.
    fn choose(&self, now: Time, view: &dyn View, seals: &[EpochSeal]) -> Result<Vec<CheckedTransaction>, ViewError> {
        let sealed: BTreeSet<TxId> = seals.iter().flat_map(|seal| seal.txids.iter().copied()).collect();
        let forget = planted!(ForgetSealed) && self.closing();
        let mut left: Vec<CheckedTransaction> = self
            .finality
            .candidates(now, self.closing())
            .filter(|_| !forget)
            .map(|(_, transaction)| transaction.clone())
            .collect();
        left.sort_by_key(|transaction| !sealed.contains(&transaction.txid()));
        let mut overlay = Overlay::new(view);
        let mut chosen = Vec::new();
        let mut room = (
            self.params.max_block_transactions as usize,
            self.params.max_block_bytes as usize,
        );
        loop {
            let before = chosen.len();
            let mut postponed = Vec::new();
            for transaction in left {
                let size = transaction.bytes().len();
                if room.0 == 0 || room.1 < size {
                    continue;
                }
                match validate(&overlay, &self.params, &transaction) {
                    Ok(_) => {
                        overlay.apply(&transaction)?;
                        room = (room.0 - 1, room.1 - size);
                        chosen.push(transaction);
                    }
                    Err(TransactionError::View(error)) => return Err(error),
                    // Its parent may come later in the list.
                    Err(_) => postponed.push(transaction),
                }
            }
            if chosen.len() == before || postponed.is_empty() {
                return Ok(chosen);
            }
            left = postponed;
        }
    }

    /// Whether everything that a seal lists could be put into a block here.
    pub(super) fn is_usable(&self, seal: &EpochSeal) -> bool {
        seal.txids
            .iter()
            .all(|txid| self.finality.is_certified(txid) && self.finality.body(txid).is_some())
    }

    // ---- validating ---------------------------------------------------------------------------------------------

    /// Says whether a proposed block is valid, as soon as everything that it names is here.
    fn judge(
        &mut self,
        now: Time,
        view: &dyn View,
        proposal: &Arc<Proposal>,
        effects: &mut Effects,
    ) -> Result<(), ViewError> {
        let block = proposal.block_id(&self.setup.electorate.chain);
        if proposal.height != self.tip.height.next() {
            self.validating.remove(&block);
            return Ok(());
        }
        if self.validated.contains_key(&block) {
            self.validating.remove(&block);
            self.consensus.on_validated(now, block, true);
            return Ok(());
        }
        let content = match self.gather(proposal, true) {
            Ok(content) => content,
            Err(missing) => {
                self.ask_missing(missing, effects);
                return Ok(());
            }
        };
        self.validating.remove(&block);
        let verdict = apply_block(view, &self.commitment, &self.params, &self.setup.electorate, &content);
        match verdict {
            Ok(applied) => {
                self.validated.insert(block, Validated { content, applied });
                self.consensus.on_validated(now, block, true);
            }
            Err(crate::ledger::BlockError::View(error)) => return Err(error),
            Err(error) => {
                effects
                    .events
                    .push(Event::Trouble(format!("proposed block {block} is not valid: {error}")));
                self.consensus.on_validated(now, block, false);
            }
        }
        Ok(())
    }

    /// The content of a proposal from what is here. With `certified`, each transaction's lock certificate must be here
    /// as well: that is a condition of voting for the block, not of committing what a quorum has decided.
    fn gather(&self, proposal: &Proposal, certified: bool) -> Result<Content, Missing> {
        let mut missing = Missing::default();
        let mut transactions = Vec::with_capacity(proposal.txids.len());
        for txid in &proposal.txids {
            match self.body(txid) {
                Some(body) => transactions.push(body),
                None => missing.bodies.push(*txid),
            }
            if certified && !self.finality.is_certified(txid) {
                missing.certificates.push(*txid);
            }
        }
        if !missing.bodies.is_empty() || !missing.certificates.is_empty() {
            return Err(missing);
        }
        Ok(Content {
            header: proposal.header.clone(),
            transactions,
            rejections: proposal.rejections.clone(),
            seals: proposal.seals.clone(),
            last_commit: proposal.last_commit.clone(),
        })
    }

    /// A body, wherever it is.
    pub(super) fn body(&self, txid: &TxId) -> Option<CheckedTransaction> {
        self.pool
            .get(txid)
            .or_else(|| self.finality.body(txid))
            .or_else(|| self.strays.get(txid).cloned())
    }

    // ---- committing ---------------------------------------------------------------------------------------------

    fn commit_decided(
        &mut self,
        now: Time,
        view: &dyn View,
        certificate: BlockCertificate,
        proposal: Arc<Proposal>,
        effects: &mut Effects,
    ) -> Result<(), ViewError> {
        if let Some(validated) = self.validated.remove(&certificate.block) {
            self.commit(now, validated, certificate, true, effects);
            return Ok(());
        }
        let content = match self.gather(&proposal, false) {
            Ok(content) => content,
            Err(missing) => {
                self.ask_missing(missing, effects);
                self.sync.want(certificate.height);
                self.decided = Some((certificate, proposal));
                return Ok(());
            }
        };
        match apply_block(view, &self.commitment, &self.params, &self.setup.electorate, &content) {
            Ok(applied) => self.commit(now, Validated { content, applied }, certificate, true, effects),
            Err(error) => {
                // More than a third of all power is faulty, or this node's own state is wrong. Neither is to be built on.
                return Err(ViewError(format!(
                    "a quorum decided block {} at height {}, which breaks a rule here: {error}",
                    certificate.block, certificate.height
                )));
            }
        }
        Ok(())
    }

    /// Commits the next block that came by request, if one has come.
    pub(super) fn apply_fetched(&mut self, now: Time, view: &dyn View, effects: &mut Effects) -> Result<(), ViewError> {
        let Some((from, block, content)) = self.sync.next_block(self.tip.height) else {
            return Ok(());
        };
        match apply_block(view, &self.commitment, &self.params, &self.setup.electorate, &content) {
            Ok(applied) => self.commit(now, Validated { content, applied }, block.commit, false, effects),
            Err(crate::ledger::BlockError::View(error)) => return Err(error),
            Err(error) => {
                effects.faults.push((
                    from,
                    Fault::Hostile,
                    format!("block {}: {error}", block.block.header.height),
                ));
                self.sync.on_misfit(now, from);
            }
        }
        Ok(())
    }

    /// The one place where a block becomes part of the chain, and everybody is told, in one order: the store, the pool
    /// and the payments, the epoch, consensus, sync. `live`: decided by votes seen here, not fetched afterwards.
    fn commit(&mut self, now: Time, validated: Validated, commit: BlockCertificate, live: bool, effects: &mut Effects) {
        let Validated { content, applied } = validated;
        let Content {
            header,
            transactions,
            rejections,
            seals,
            last_commit,
        } = content;
        let height = header.height;
        self.tip = applied.tip.clone();
        self.commitment.commit(&applied);
        self.settle_payments(now, &transactions, &applied.rejected, effects);
        effects.events.push(Event::Committed(Arc::new(Committed {
            height,
            block: applied.block,
            time: header.time,
            round: commit.round,
            transactions: applied.transactions.clone(),
            rejected: applied.rejected.clone(),
        })));
        self.counters.blocks += 1;
        if height.closes_epoch(self.params.epoch_length) {
            self.enter_epoch(now, live, effects);
        }
        self.building = None;
        self.decided = None;
        self.validating.clear();
        self.validated.clear();
        self.strays.clear();
        self.consensus
            .on_committed(now, &self.tip, &commit, last_commit.as_ref());
        self.sync.on_tip(now, height);
        let bodies = transactions
            .iter()
            .map(|transaction| transaction.bytes().to_vec())
            .collect();
        let block = Block {
            header,
            transactions: bodies,
            rejections,
            seals,
            last_commit,
        };
        let block = CommittedBlock { block, commit };
        effects.write = Some(Write::Block(Box::new(Batch { applied, block })));
        self.wrote = true;
    }

    fn settle_payments(
        &mut self,
        now: Time,
        transactions: &[CheckedTransaction],
        rejected: &[TxId],
        effects: &mut Effects,
    ) {
        let height = self.tip.height;
        let txids: Vec<TxId> = transactions.iter().map(|transaction| transaction.txid()).collect();
        let spent: Vec<OutPoint> = transactions
            .iter()
            .flat_map(|transaction| transaction.inputs().iter().copied())
            .collect();
        let dead = self.finality.on_block(now, height, &txids, rejected, spent);
        for transaction in transactions {
            let txid = transaction.txid();
            for (outpoint, _) in transaction.created() {
                self.final_coins.remove(&outpoint);
            }
            if self.pool.remove(&txid).is_some() {
                self.payments.set(&txid, State::Committed(height));
                self.ended.push(&self.payments, txid);
            }
            self.bodies_asked.remove(&txid);
            self.awaiting.on_arrival(txid);
            for child in self.waiting.remove(&txid).unwrap_or_default() {
                self.make_ready(child);
            }
        }
        for txid in rejected {
            self.drop_payment(*txid, Dropped::Rejected, effects);
        }
        for txid in dead {
            self.drop_payment(txid, Dropped::Conflict, effects);
        }
        self.counters.committed += transactions.len() as u64;
        self.counters.rejected += rejected.len() as u64;
    }

    // ---- epochs -------------------------------------------------------------------------------------------------

    /// Seals the epoch once only its closing block is missing: the last word on payments in it.
    pub(super) fn maybe_seal(&mut self, effects: &mut Effects) {
        let Some(validator) = self.own.filter(|_| self.voting && self.closing() && !self.sealed) else {
            return;
        };
        self.sealed = true;
        self.finality.seal();
        let seal = EpochSeal {
            epoch: self.finality.epoch(),
            validator,
            txids: self.finality.to_seal(),
            signature: Signature([0; 64]),
        };
        self.unheard.push(SafetyRecord::Seal(seal.clone()));
        effects.remember.push(SafetyRecord::Seal(seal.clone()));
        effects.sign.push(Statement::Seal(seal));
    }

    /// The closing block is committed: a new validator set, and nothing of the old epoch's votes.
    fn enter_epoch(&mut self, now: Time, live: bool, effects: &mut Effects) {
        let epoch = self.tip.height.next().epoch(self.params.epoch_length);
        let set = self.setup.electorate.of_epoch(epoch).clone();
        self.own = self.setup.own.and_then(|key| set.index_of(&key));
        if !self.later.is_empty() {
            // Not a word until what was said in this epoch before a restart is taken back.
            self.finality.set_voting(now, false);
        }
        self.finality.on_epoch(now, epoch, set.clone(), self.own);
        let pending: Vec<TxId> = self.pool.oldest_after(None).map(|(_, txid)| txid).collect();
        for txid in pending {
            self.pool.unprotect(&txid);
            self.payments.set(&txid, State::Pending);
        }
        self.final_coins.clear();
        self.seals = Seals::new(epoch, set);
        self.own_seal = None;
        self.unheard.clear();
        self.sealed = false;
        self.revive = true;
        // Whoever lost its log and only now catches up may have signed in the epoch that it has just reached.
        if let Some(silence @ (Silence::LostLog(_) | Silence::ForeignVotes(_))) = self.silence
            && !live
        {
            self.silence = Some(match silence {
                Silence::LostLog(_) => Silence::LostLog(epoch),
                Silence::ForeignVotes(_) => Silence::ForeignVotes(epoch),
            });
            effects.remember.push(SafetyRecord::Silent(epoch));
        }
    }
}
