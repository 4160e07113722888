//! Contextual rules: what a checked transaction or block does to the coins, or which rule it breaks.
use super::{
    CheckedTransaction, Commitment, View, ViewError,
    view::{Overlay, Tip},
};
use crate::primitives::{
    Amount, BlockCertificate, BlockHeader, BlockId, Certificate, ChainId, Coin, CommittedBlock, EpochSeal, Fault,
    Height, LockHash, OutPoint, Params, TxId, message::Electorate,
};
use thiserror::Error;

/// Which contextual rule a transaction breaks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransactionError {
    /// No such coin, as far as is known here.
    #[error("input {0} does not exist or is spent")]
    UnknownInput(OutPoint),
    /// Helper: more variants.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// Which rule a block breaks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BlockError {
    /// The store cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// A block before it is decided: the header and everything it commits to.
#[derive(Clone, Debug)]
pub struct Content {
    /// The header.
    pub header: BlockHeader,
    /// Bodies in block order.
    pub transactions: Vec<CheckedTransaction>,
    /// Quorums of Abandon, signatures checked.
    pub rejections: Vec<Certificate>,
    /// Seals, signatures checked.
    pub seals: Vec<EpochSeal>,
    /// Commit certificate of the parent, signatures checked.
    pub last_commit: Option<BlockCertificate>,
}

/// What a valid block does.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The block's name.
    pub block: BlockId,
    /// The tip after it.
    pub tip: Tip,
    /// Coins that are gone.
    pub spent: Vec<(OutPoint, Coin)>,
    /// Coins that are new.
    pub created: Vec<(OutPoint, Coin)>,
    /// Committed transactions in block order.
    pub transactions: Vec<TxId>,
    /// Rejected transactions.
    pub rejected: Vec<TxId>,
    /// The coin commitment's buckets that changed, as stored.
    pub buckets: Vec<(u16, Vec<u8>)>,
}

/// One block as one atomic write.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What it does.
    pub applied: Applied,
    /// The block and the quorum behind it.
    pub block: CommittedBlock,
}

/// Fee of a transaction whose inputs exist in `coins` and that breaks no rule.
pub fn validate(
    coins: &Overlay<'_>,
    params: &Params,
    transaction: &CheckedTransaction,
) -> Result<Amount, TransactionError> {
    let _ = (coins, params, transaction);
    unimplemented!()
}

/// What a block does to the state that `view` shows, or which rule it breaks. The one validation path: a leader runs
/// it on its own proposal, validators before they prepare, and everybody on blocks that come by sync.
pub fn apply_block(
    view: &dyn View,
    commitment: &Commitment,
    params: &Params,
    electorate: &Electorate,
    content: &Content,
) -> Result<Applied, BlockError> {
    let _ = (view, commitment, params, electorate, content);
    unimplemented!()
}
