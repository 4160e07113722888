//! Admitted transactions: by txid, by spent outpoint, by fee rate; bounded in number and in bytes.
//!
//! The pool knows nothing of votes. What this node has voted for is *protected*: it is never evicted, or a vote would
//! point at nothing. A coin can have two spenders here, the first that came and one rival, so that both sides of a
//! conflict can be shown to others; and beyond these what is *backed* by a vote ([`Backing`]).

use crate::{
    ledger::{CheckedTransaction, TransactionError},
    primitives::{Amount, Fault, OutPoint, Time, TxId},
};
use dashmap::DashMap;
use std::collections::BTreeSet;
use thiserror::Error;

/// Limits of the pool.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Transactions held at most.
    pub max_transactions: usize,
    /// Bytes of memory that they may take.
    pub max_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_transactions: 10_000,
            max_bytes: 300_000_000,
        }
    }
}

/// Why a transaction is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PoolError {
    /// It breaks a rule of the ledger.
    #[error(transparent)]
    Invalid(#[from] TransactionError),
    /// It spends a coin that another pending transaction spends.
    #[error("input {outpoint} is already spent by pending transaction {by}")]
    Conflict {
        /// The coin.
        outpoint: OutPoint,
        /// Who has it.
        by: TxId,
    },
    /// A block rejected it.
    #[error("transaction {0} was rejected by a block and is never valid again: build a new one")]
    Rejected(TxId),
    /// The pool is full of better paying ones.
    #[error(
        "the pool is full: transaction {txid} pays {rate_milli} thousandths of a unit per byte, more than {floor_milli} \
         is needed"
    )]
    Full {
        /// The transaction.
        txid: TxId,
        /// What it pays.
        rate_milli: u64,
        /// What the cheapest one pays that could make room; `u64::MAX` when none could.
        floor_milli: u64,
    },
}

impl PoolError {
    /// What it says about a peer that relayed the transaction: honest nodes' pools differ.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Invalid(error) => error.fault(),
            Self::Conflict { .. } | Self::Full { .. } => Fault::None,
            Self::Rejected(_) => Fault::Late,
        }
    }
}

/// A fee rate in thousandths of a unit per byte.
pub fn rate_milli(fee: Amount, bytes: usize) -> u64 {
    let rate = u128::from(fee.0) * 1000 / (bytes.max(1) as u128);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[derive(Clone, Debug)]
struct Entry {
    transaction: CheckedTransaction,
    rate_milli: u64,
    admitted: Time,
    protected: bool,
    bytes: usize,
}

/// Whether a transaction may be the third to spend a coin.
///
/// Each validator may have locked a coin for another transaction. All of these must be known everywhere, or nobody can
/// abandon what it does not know, and the coin is never free again. A correct validator locks a coin once, so no more
/// come in this way than there are validators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// No vote for it is known that counts.
    None,
    /// A validator has locked its coins for it, and for none of the others that spend them.
    Lock,
}

/// Who wants a coin.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spenders {
    first: TxId,
    rivals: Vec<TxId>,
}

impl Spenders {
    fn all(&self) -> impl Iterator<Item = TxId> {
        std::iter::once(self.first).chain(self.rivals.iter().copied())
    }
}

/// What an entry costs besides its transaction: the maps' own bytes, measured against the process.
const ENTRY_BYTES: usize = 420;
/// The same for each input.
const INPUT_BYTES: usize = 160;

/// The pool. Look-ups by txid and outpoint are O(1); the maps that have no order are never walked.
#[derive(Debug)]
pub struct Pool {
    config: Config,
    entries: DashMap<TxId, Entry>,
    spenders: DashMap<OutPoint, Spenders>,
    /// What may be evicted, cheapest first.
    evictable: BTreeSet<(u64, TxId)>,
    by_age: BTreeSet<(Time, TxId)>,
    bytes: usize,
    rate_sum: u128,
}

/// What admission led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It was there already.
    Known,
    /// It is there now.
    New {
        /// Transactions that spend one of the same coins.
        rivals: Vec<TxId>,
        /// What had to give way.
        evicted: Vec<TxId>,
    },
}

impl Pool {
    /// An empty pool.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            entries: DashMap::new(),
            spenders: DashMap::new(),
            evictable: BTreeSet::new(),
            by_age: BTreeSet::new(),
            bytes: 0,
            rate_sum: 0,
        }
    }

    /// The first pending transaction that spends one of these coins, other than `txid` itself.
    pub fn conflict(&self, transaction: &CheckedTransaction) -> Option<(OutPoint, TxId)> {
        let txid = transaction.txid();
        transaction.inputs().iter().find_map(|outpoint| {
            let spenders = self.spenders.get(outpoint)?;
            let other = spenders.all().find(|other| *other != txid);
            other.map(|other| (*outpoint, other))
        })
    }

    /// Admits a transaction that is valid now and pays `fee`. A second spender of a coin is admitted as the first one's
    /// rival, a third only with a vote behind it.
    pub fn admit(
        &mut self,
        now: Time,
        transaction: CheckedTransaction,
        fee: Amount,
        backing: Backing,
    ) -> Result<Admission, PoolError> {
        let txid = transaction.txid();
        if self.entries.contains_key(&txid) {
            return Ok(Admission::Known);
        }
        let rivals = self.rivals(&transaction, backing)?;
        let rate_milli = rate_milli(fee, transaction.bytes().len());
        let bytes = transaction.memory_bytes() + ENTRY_BYTES + INPUT_BYTES * transaction.inputs().len();
        let evicted = self.make_room(txid, rate_milli, bytes)?;
        for outpoint in transaction.inputs() {
            self.spenders
                .entry(*outpoint)
                .and_modify(|spenders| spenders.rivals.push(txid))
                .or_insert(Spenders {
                    first: txid,
                    rivals: Vec::new(),
                });
        }
        self.bytes += bytes;
        self.rate_sum += u128::from(rate_milli);
        self.evictable.insert((rate_milli, txid));
        self.by_age.insert((now, txid));
        self.entries.insert(
            txid,
            Entry {
                transaction,
                rate_milli,
                admitted: now,
                protected: false,
                bytes,
            },
        );
        // Evicting may have taken a rival with it.
        let rivals = rivals.into_iter().filter(|rival| !evicted.contains(rival)).collect();
        Ok(Admission::New { rivals, evicted })
    }

    fn rivals(&self, transaction: &CheckedTransaction, backing: Backing) -> Result<Vec<TxId>, PoolError> {
        let mut rivals = BTreeSet::new();
        for outpoint in transaction.inputs() {
            if let Some(spenders) = self.spenders.get(outpoint) {
                if !spenders.rivals.is_empty() && backing == Backing::None {
                    return Err(PoolError::Conflict {
                        outpoint: *outpoint,
                        by: spenders.first,
                    });
                }
                rivals.extend(spenders.all());
            }
        }
        Ok(rivals.into_iter().collect())
    }

    /// Evicts what pays less until one more fits, or says that it does not and evicts nothing.
    fn make_room(&mut self, txid: TxId, rate_milli: u64, bytes: usize) -> Result<Vec<TxId>, PoolError> {
        let (mut count, mut total) = (self.entries.len() + 1, self.bytes + bytes);
        let mut evicted = Vec::new();
        let mut cheapest = self.evictable.iter();
        while count > self.config.max_transactions || total > self.config.max_bytes {
            match cheapest.next() {
                Some((rate, victim)) if *rate < rate_milli => {
                    count -= 1;
                    total -= self.entries.get(victim).map_or(0, |entry| entry.bytes);
                    evicted.push(*victim);
                }
                other => {
                    let floor_milli = other.map_or(u64::MAX, |(rate, _)| *rate);
                    return Err(PoolError::Full {
                        txid,
                        rate_milli,
                        floor_milli,
                    });
                }
            }
        }
        for victim in &evicted {
            self.remove(victim);
        }
        Ok(evicted)
    }

    /// Never to be evicted from now on: this node has voted for it.
    pub fn protect(&mut self, txid: &TxId) {
        if let Some(mut entry) = self.entries.get_mut(txid) {
            entry.protected = true;
            self.evictable.remove(&(entry.rate_milli, *txid));
        }
    }

    /// May be evicted again: the votes for it belong to an epoch that is over.
    pub fn unprotect(&mut self, txid: &TxId) {
        if let Some(mut entry) = self.entries.get_mut(txid) {
            entry.protected = false;
            self.evictable.insert((entry.rate_milli, *txid));
        }
    }

    /// A pending transaction.
    pub fn get(&self, txid: &TxId) -> Option<CheckedTransaction> {
        self.entries.get(txid).map(|entry| entry.transaction.clone())
    }

    /// Whether a transaction is pending.
    pub fn contains(&self, txid: &TxId) -> bool {
        self.entries.contains_key(txid)
    }

    /// A pending transaction's fee rate, in thousandths of a unit per byte.
    pub fn rate_milli(&self, txid: &TxId) -> Option<u64> {
        self.entries.get(txid).map(|entry| entry.rate_milli)
    }

    /// Takes a transaction out.
    pub fn remove(&mut self, txid: &TxId) -> Option<CheckedTransaction> {
        let (_, entry) = self.entries.remove(txid)?;
        self.evictable.remove(&(entry.rate_milli, *txid));
        self.by_age.remove(&(entry.admitted, *txid));
        self.bytes -= entry.bytes;
        self.rate_sum -= u128::from(entry.rate_milli);
        for outpoint in entry.transaction.inputs() {
            self.forget_spender(outpoint, txid);
        }
        Some(entry.transaction)
    }

    fn forget_spender(&self, outpoint: &OutPoint, txid: &TxId) {
        let Some(mut spenders) = self.spenders.get_mut(outpoint) else {
            return;
        };
        if spenders.first != *txid {
            spenders.rivals.retain(|rival| rival != txid);
        } else if !spenders.rivals.is_empty() {
            spenders.first = spenders.rivals.remove(0);
        } else {
            drop(spenders);
            self.spenders.remove(outpoint);
        }
    }

    /// Pending transactions that spend a coin, the first that came first.
    pub fn spenders(&self, outpoint: &OutPoint) -> Vec<TxId> {
        let spenders = self.spenders.get(outpoint);
        spenders.map(|spenders| spenders.all().collect()).unwrap_or_default()
    }

    /// How many are pending.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is pending.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory that the pending ones take.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Average fee rate, in thousandths of a unit per byte; 0 when nothing is pending.
    pub fn average_rate_milli(&self) -> u64 {
        let average = self.rate_sum / (self.entries.len().max(1) as u128);
        u64::try_from(average).unwrap_or(u64::MAX)
    }

    /// When the one waiting longest was admitted.
    pub fn oldest(&self) -> Option<Time> {
        self.by_age.first().map(|(time, _)| *time)
    }

    /// Pending transactions, the oldest first, from `after` on.
    pub fn oldest_after(&self, after: Option<(Time, TxId)>) -> impl Iterator<Item = (Time, TxId)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.by_age
            .range((after.map_or(Unbounded, Excluded), Unbounded))
            .copied()
    }
}

#[cfg(test)]
mod tests;
