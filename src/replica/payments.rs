//! What readers outside the loop may know of payments: states, bodies, receipts. Written by the replica, read
//! concurrently by the API.

use crate::{
    finality::Proof,
    ledger::CheckedTransaction,
    primitives::{Certificate, Height, TxId},
};
use dashmap::DashMap;
use std::{collections::VecDeque, sync::Arc};

/// How far a payment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Admitted; validators are asked.
    Pending,
    /// Another transaction wants one of its coins.
    Contested,
    /// A quorum has locked its coins.
    Certified,
    /// Final: it will be in a block.
    Final,
    /// In the block of this height.
    Committed(Height),
    /// Rejected by the block of this height; never valid again.
    Rejected(Height),
    /// A block spent one of its coins otherwise.
    Conflict,
}

/// What is known of one payment.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its body.
    pub transaction: CheckedTransaction,
    /// How far it has come.
    pub state: State,
    /// The votes behind its finality.
    proof: Option<Proof>,
}

impl Known {
    /// The receipt: proof of finality that anyone can check offline. Costs some hashing, so it is made when asked for.
    pub fn receipt(&self) -> Option<Certificate> {
        self.proof.as_ref().map(Proof::certificate)
    }
}

/// Payments under way and those that ended lately.
///
/// Bounded: those under way by the pool, those that ended by [`Payments::KEPT`].
#[derive(Debug, Default)]
pub struct Payments {
    known: DashMap<TxId, Known>,
}

impl Payments {
    /// Payments that have ended and are still remembered here; older ones are looked up in the store.
    pub const KEPT: usize = 20_000;

    /// What is known of a payment. A copy: no lock is held.
    pub fn get(&self, txid: &TxId) -> Option<Known> {
        self.known.get(txid).map(|known| known.value().clone())
    }

    pub(super) fn admit(&self, transaction: CheckedTransaction) {
        let known = Known {
            transaction,
            state: State::Pending,
            proof: None,
        };
        self.known.insert(known.transaction.txid(), known);
    }

    pub(super) fn set(&self, txid: &TxId, state: State) {
        if let Some(mut known) = self.known.get_mut(txid) {
            known.state = state;
        }
    }

    /// Another transaction wants one of its coins; what is certified is beyond that.
    pub(super) fn contest(&self, txid: &TxId) {
        if let Some(mut known) = self.known.get_mut(txid)
            && known.state == State::Pending
        {
            known.state = State::Contested;
        }
    }

    pub(super) fn set_final(&self, txid: &TxId, proof: Proof) {
        if let Some(mut known) = self.known.get_mut(txid) {
            known.state = State::Final;
            known.proof = Some(proof);
        }
    }

    /// Forgets all: the state that they belonged to is gone.
    pub(super) fn clear(&self) {
        self.known.clear();
    }

    pub(super) fn forget(&self, txid: &TxId) {
        self.known.remove(txid);
    }
}

/// Ended payments in the order they ended: the oldest is forgotten first.
#[derive(Debug, Default)]
pub(super) struct Ended(VecDeque<TxId>);

impl Ended {
    /// Notes that a payment ended, and forgets the oldest when there are too many.
    pub(super) fn push(&mut self, payments: &Arc<Payments>, txid: TxId) {
        self.0.push_back(txid);
        if self.0.len() > Payments::KEPT
            && let Some(oldest) = self.0.pop_front()
        {
            payments.forget(&oldest);
        }
    }
}
