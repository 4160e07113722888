//! Stateless checks: bytes to [`Checked`] transactions. Parallel, never on an async thread.
use crate::primitives::{ChainId, DecodeError, Fault, OutPoint, PublicKey, Transaction, TxId};
use std::{ops::Deref, sync::Arc};
use thiserror::Error;

/// Something whose form and signatures are right. Only this module makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<T>(T);

impl<T> Deref for Checked<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A checked transaction as it is passed around.
pub type CheckedTransaction = Arc<Checked<Transaction>>;

/// Which stateless rule a transaction breaks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckError {
    /// Its bytes are wrong.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It spends a coin twice.
    #[error("transaction {txid} has input {outpoint} twice")]
    DuplicateInput {
        /// The transaction.
        txid: TxId,
        /// The coin.
        outpoint: OutPoint,
    },
    /// Its outputs add up to more than 2^64 − 1 units.
    #[error("transaction {0}: the outputs add up to more than 2^64 - 1 units")]
    OutputOverflow(TxId),
    /// A signature is wrong.
    #[error("transaction {txid}: the signature of key {public_key} is not valid")]
    Signature {
        /// The transaction.
        txid: TxId,
        /// Whose.
        public_key: PublicKey,
    },
}

impl CheckError {
    /// No correct program relays such a transaction.
    pub const fn fault(&self) -> Fault {
        Fault::Hostile
    }
}

/// Checks one transaction.
pub fn check(chain: &ChainId, bytes: &[u8]) -> Result<CheckedTransaction, CheckError> {
    let _ = (chain, bytes);
    unimplemented!()
}

/// Checks many with their signatures in one batch; the verdicts are exactly those of [`check`] one by one.
pub fn check_all(chain: &ChainId, all: &[impl AsRef<[u8]>]) -> Vec<Result<CheckedTransaction, CheckError>> {
    let _ = (chain, all);
    unimplemented!()
}

/// Why a block from a peer is dropped before its contents are looked at.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckBlockError {
    /// A transaction in it.
    #[error("block {height}: {error}")]
    Transaction {
        /// The block's height.
        height: crate::primitives::Height,
        /// What is wrong.
        error: CheckError,
    },
    /// A certificate in it.
    #[error("block {height}: {what}: {error}")]
    Certificate {
        /// The block's height.
        height: crate::primitives::Height,
        /// Which certificate.
        what: &'static str,
        /// What is wrong.
        error: crate::primitives::CertificateError,
    },
}

impl CheckBlockError {
    /// No correct program serves such a block.
    pub const fn fault(&self) -> Fault {
        Fault::Hostile
    }
}

/// Checks a block from an untrusted source: form, commit certificate, and every signature in it.
pub fn check_certified(
    electorate: &crate::primitives::message::Electorate,
    block: &crate::primitives::CommittedBlock,
) -> Result<super::Content, CheckBlockError> {
    let _ = (electorate, block);
    unimplemented!()
}
