//! Every transaction of a run, whoever made it, and what the world knows about it. Only the world: no node reads this.

use crate::{
    ledger::CheckedTransaction,
    primitives::{OutPoint, TxId},
};
use std::collections::{BTreeMap, BTreeSet};

/// What a transaction was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be final and committed.
    Payment,
    /// To compete with another one.
    Rival,
    /// To show that a coin that was contested is free again.
    Probe,
    /// To be refused: it breaks a contextual rule.
    Invalid,
}

/// A transaction and how far it has come, at whichever correct node came furthest.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The transaction.
    pub transaction: CheckedTransaction,
    /// Made for.
    pub purpose: Purpose,
    /// A correct node has called it final.
    pub final_: bool,
    /// A correct node has it in a block.
    pub committed: bool,
    /// A correct node has it rejected by a block.
    pub rejected: bool,
}

/// All transactions.
#[derive(Debug, Default)]
pub struct Book {
    entries: BTreeMap<TxId, Entry>,
    spenders: BTreeMap<OutPoint, Vec<TxId>>,
    in_order: Vec<TxId>,
}

impl Book {
    /// Takes a new transaction in.
    pub fn add(&mut self, transaction: CheckedTransaction, purpose: Purpose) {
        let txid = transaction.txid();
        if purpose != Purpose::Invalid {
            for input in transaction.inputs() {
                let spenders = self.spenders.entry(*input).or_default();
                if !spenders.contains(&txid) {
                    spenders.push(txid);
                }
            }
        }
        self.in_order.push(txid);
        self.entries.insert(
            txid,
            Entry {
                transaction,
                purpose,
                final_: false,
                committed: false,
                rejected: false,
            },
        );
    }

    /// One transaction.
    pub fn get(&self, txid: &TxId) -> Option<&Entry> {
        self.entries.get(txid)
    }

    /// One transaction, to be changed.
    pub fn get_mut(&mut self, txid: &TxId) -> Option<&mut Entry> {
        self.entries.get_mut(txid)
    }

    /// All, in the order in which they were made.
    pub fn iter(&self) -> impl Iterator<Item = (&TxId, &Entry)> {
        self.in_order.iter().filter_map(|txid| self.entries.get_key_value(txid))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.in_order.len()
    }

    /// The `index`th made.
    pub fn nth(&self, index: usize) -> Option<&Entry> {
        self.in_order.get(index).and_then(|txid| self.entries.get(txid))
    }

    /// Valid transactions that spend a coin.
    pub fn spenders(&self, coin: &OutPoint) -> &[TxId] {
        self.spenders.get(coin).map_or(&[], Vec::as_slice)
    }

    /// Coins of every transaction that has a rival.
    pub fn disputed_coins(&self) -> BTreeSet<OutPoint> {
        let disputed = self.spenders.values().filter(|spenders| spenders.len() > 1).flatten();
        let entries = disputed.filter_map(|txid| self.entries.get(txid));
        entries.flat_map(|entry| entry.transaction.inputs()).copied().collect()
    }

    /// The others that spend one of its coins.
    pub fn rivals(&self, txid: &TxId) -> BTreeSet<TxId> {
        let inputs = self
            .entries
            .get(txid)
            .map_or(&[][..], |entry| entry.transaction.inputs());
        let spenders = inputs.iter().flat_map(|input| self.spenders(input));
        spenders.copied().filter(|spender| spender != txid).collect()
    }

    /// Whether it must become final and committed when faults end: valid, and neither it nor what it builds upon has
    /// a rival.
    pub fn is_expected(&self, txid: &TxId) -> bool {
        let Some(entry) = self.entries.get(txid) else {
            return true; // a coin of genesis
        };
        entry.purpose == Purpose::Payment
            && entry.transaction.inputs().iter().all(|input| {
                self.spenders(input).len() <= 1
                    && (self.is_expected(&input.txid)
                        || self.entries.get(&input.txid).is_some_and(|parent| parent.committed))
            })
    }
}
