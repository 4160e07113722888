//! From a checked transaction to the pool, and to its first vote.

use super::{Dropped, Effects, Event, Replica, Reply, State, Ticket, Verdict};
use crate::{
    ledger::{CheckedTransaction, Overlay, TransactionError, View, ViewError, apply::validate},
    pool::{self, Admission, Backing, PoolError},
    primitives::{Amount, Coin, OutPoint, Time, TxId},
};

/// Transactions that wait for a parent, at most, under all parents together.
const MAX_WAITING: usize = 2_000;

/// What a transaction is worth and whether its inputs are there.
struct Assessment {
    fee: Amount,
    /// Parents that are neither final nor committed.
    parents: Vec<TxId>,
}

impl Replica {
    /// A client submits. What was submitted before is known, not wrong.
    pub(super) fn on_submit(
        &mut self,
        now: Time,
        view: &dyn View,
        ticket: Ticket,
        transaction: CheckedTransaction,
        effects: &mut Effects,
    ) -> Result<(), ViewError> {
        let txid = transaction.txid();
        let result = match self.pool.conflict(&transaction).filter(|_| !self.pool.contains(&txid)) {
            // A client that pays twice from one coin is told so; nobody else needs to hear of it.
            Some((outpoint, by)) => Err(PoolError::Conflict { outpoint, by }),
            None => self.admit(now, view, &transaction, effects)?,
        };
        if let Err(PoolError::Invalid(TransactionError::UnknownInput(missing))) = result
            && self.wait_for_parent(now, view, ticket, &transaction, missing)?
        {
            return Ok(());
        }
        match &result {
            Ok(Admission::New { .. }) => self.fresh.push(transaction),
            Ok(Admission::Known) => {}
            Err(_) => self.counters.refused += 1,
        }
        effects.replies.push(Reply {
            ticket,
            result: result.map(|_| txid),
        });
        Ok(())
    }

    /// Peers pass transactions on.
    pub(super) fn on_transactions(
        &mut self,
        now: Time,
        view: &dyn View,
        transactions: Vec<CheckedTransaction>,
        effects: &mut Effects,
    ) -> Result<Verdict, ViewError> {
        let mut verdict = Verdict::Ignore;
        for transaction in transactions {
            match self.admit(now, view, &transaction, effects)? {
                Ok(Admission::New { .. }) => verdict = Verdict::Accept,
                Ok(Admission::Known) => {}
                // Passed on, once: the payment that it was a rival of cannot be settled by those who do not know it.
                Err(PoolError::Rejected(_)) if self.finality.on_rejected_rival(now, &transaction) => {
                    verdict = Verdict::Accept;
                }
                Err(_) => self.counters.ignored += 1,
            }
        }
        Ok(verdict)
    }

    /// Admits a transaction to the pool if it is valid now, or would be once its pending parents are final.
    pub(super) fn admit(
        &mut self,
        now: Time,
        view: &dyn View,
        transaction: &CheckedTransaction,
        effects: &mut Effects,
    ) -> Result<Result<Admission, PoolError>, ViewError> {
        let txid = transaction.txid();
        if self.pool.contains(&txid) {
            return Ok(Ok(Admission::Known));
        }
        let assessment = self.assess(view, transaction);
        // What is committed has spent its inputs: looking each one up beforehand would cost a read for nothing.
        if assessment.is_err() && view.location(&txid)?.is_some() {
            return Ok(Ok(Admission::Known));
        }
        if view.rejected(&txid)?.is_some() {
            return Ok(Err(PoolError::Rejected(txid)));
        }
        let assessment = match assessment {
            Ok(assessment) => assessment,
            Err(TransactionError::View(error)) => return Err(error),
            Err(error) => return Ok(Err(error.into())),
        };
        if !assessment.parents.is_empty() && self.waiting.values().map(|set| set.len()).sum::<usize>() >= MAX_WAITING {
            let input = transaction.inputs()[0];
            return Ok(Err(TransactionError::UnknownInput(input).into()));
        }
        let backing = if self.finality.is_backed(transaction) {
            Backing::Lock
        } else {
            Backing::None
        };
        let admission = match self.pool.admit(now, transaction.clone(), assessment.fee, backing) {
            Ok(admission) => admission,
            Err(error) => return Ok(Err(error)),
        };
        if let Admission::New { evicted, .. } = &admission {
            for victim in evicted {
                self.finality.on_evicted(*victim);
                self.drop_payment(*victim, Dropped::Evicted, effects);
            }
            self.counters.admitted += 1;
            self.payments.admit(transaction.clone());
            effects.events.push(Event::Accepted(txid));
            self.awaiting.on_arrival(txid);
            let rate = pool::rate_milli(assessment.fee, transaction.bytes().len());
            self.finality
                .on_transaction(now, transaction, rate, assessment.parents.is_empty());
            for parent in assessment.parents {
                self.waiting.entry(parent).or_default().insert(txid);
            }
        }
        Ok(Ok(admission))
    }

    /// Judges a transaction against the committed coins, the outputs of what is final, and those of what is pending.
    fn assess(&self, view: &dyn View, transaction: &CheckedTransaction) -> Result<Assessment, TransactionError> {
        let mut overlay = Overlay::new(view);
        let mut parents = Vec::new();
        for outpoint in transaction.inputs() {
            if let Some(coin) = self.final_coins.get(outpoint) {
                overlay.create(*outpoint, *coin);
            } else if let Some(coin) = view.coin(outpoint)? {
                overlay.create(*outpoint, coin);
            } else if let Some(coin) = self.pending_coin(outpoint) {
                overlay.create(*outpoint, coin);
                parents.push(outpoint.txid);
            } else {
                return Err(TransactionError::UnknownInput(*outpoint));
            }
        }
        let fee = validate(&overlay, &self.params, transaction)?;
        Ok(Assessment { fee, parents })
    }

    pub(super) fn pending_coin(&self, outpoint: &OutPoint) -> Option<Coin> {
        let parent = self.pool.get(&outpoint.txid)?;
        let output = *parent.outputs().get(usize::try_from(outpoint.index).ok()?)?;
        Some(Coin {
            output,
            height: self.tip.height.next(),
        })
    }

    /// The last parent that a transaction waited for has become final or was committed.
    pub(super) fn make_ready(&mut self, txid: TxId) {
        let still_waiting = self.waiting.values().any(|children| children.contains(&txid));
        if !still_waiting {
            self.finality.set_ready(txid);
        }
    }

    /// A new epoch has begun, or this node: what is pending and has its inputs may be voted on, and what has not waits
    /// for them.
    pub(super) fn revive_pending(&mut self, view: &dyn View) -> Result<(), ViewError> {
        let pending: Vec<TxId> = self.pool.oldest_after(None).map(|(_, txid)| txid).collect();
        for txid in pending {
            let Some(transaction) = self.pool.get(&txid) else {
                continue;
            };
            let mut ready = true;
            for outpoint in transaction.inputs() {
                if !self.final_coins.contains_key(outpoint) && view.coin(outpoint)?.is_none() {
                    self.waiting.entry(outpoint.txid).or_default().insert(txid);
                    ready = false;
                }
            }
            if ready {
                self.finality.set_ready(txid);
            }
        }
        Ok(())
    }

    /// A payment ends without being committed; whoever waits for its outputs waits in vain.
    pub(super) fn drop_payment(&mut self, txid: TxId, reason: Dropped, effects: &mut Effects) {
        let mut all = vec![(txid, reason)];
        while let Some((txid, reason)) = all.pop() {
            for children in self.waiting.values_mut() {
                children.remove(&txid);
            }
            self.waiting.retain(|_, children| !children.is_empty());
            for child in self.waiting.remove(&txid).unwrap_or_default() {
                self.finality.on_evicted(child);
                all.push((child, Dropped::Conflict));
            }
            let was_pending = self.pool.remove(&txid).is_some();
            let state = match reason {
                Dropped::Rejected => State::Rejected(self.tip.height),
                Dropped::Conflict => State::Conflict,
                Dropped::Evicted => {
                    self.counters.evicted += 1;
                    self.payments.forget(&txid);
                    effects.events.push(Event::Dropped { txid, reason });
                    continue;
                }
            };
            self.payments.set(&txid, state);
            if was_pending {
                self.ended.push(&self.payments, txid);
                effects.events.push(Event::Dropped { txid, reason });
            }
        }
    }
}
