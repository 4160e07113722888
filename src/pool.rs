//! Admitted transactions: by txid, by spent outpoint, by fee rate; bounded.

use crate::{
    ledger::TransactionError,
    primitives::{OutPoint, TxId},
};
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
        "the pool is full: transaction {txid} pays {rate_milli} thousandths of a unit per byte, more than {floor_milli} is needed"
    )]
    Full {
        /// The transaction.
        txid: TxId,
        /// What it pays.
        rate_milli: u64,
        /// What the cheapest one pays that could make room.
        floor_milli: u64,
    },
}
