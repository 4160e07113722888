//! What rules may read: the committed state, and an overlay of it with changes that are not committed.

use crate::primitives::{Amount, BlockId, Coin, CommittedBlock, Hash, Height, OutPoint, Time, TxId};
use std::collections::BTreeMap;
use thiserror::Error;

/// The store could not be read. Nothing can go on without it: the node stops.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the store cannot be read: {0}")]
pub struct ViewError(pub String);

/// The last committed block and what has to be known to make the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Its height; 0 for genesis.
    pub height: Height,
    /// Its name; the chain id's bytes for genesis.
    pub block: BlockId,
    /// Its time.
    pub time: Time,
    /// Root over all coins after it: the next header's `utxo_root`.
    pub utxo_root: Hash,
    /// All coins together.
    pub supply: Amount,
    /// Fees paid in this epoch and not yet given out.
    pub fees: Amount,
    /// By validator: blocks of this epoch whose commit certificates it signed.
    pub signed: Vec<u64>,
}

/// Where a committed transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The block's height.
    pub height: Height,
    /// Position in the block.
    pub index: u32,
}

/// The committed state, as of the tip.
pub trait View {
    /// The tip.
    fn tip(&self) -> Result<Tip, ViewError>;
    /// An unspent coin.
    fn coin(&self, outpoint: &OutPoint) -> Result<Option<Coin>, ViewError>;
    /// Where a transaction was committed.
    fn location(&self, txid: &TxId) -> Result<Option<Location>, ViewError>;
    /// The height of the block that rejected a transaction.
    fn rejected(&self, txid: &TxId) -> Result<Option<Height>, ViewError>;
    /// A block with its commit certificate.
    fn block(&self, height: Height) -> Result<Option<CommittedBlock>, ViewError>;
    /// A bucket of the coin commitment as stored by [`super::Batch::buckets`]; `None`: empty.
    fn bucket(&self, index: u16) -> Result<Option<Vec<u8>>, ViewError>;
}

/// A view and changes to it that are not committed.
pub struct Overlay<'a> {
    base: &'a dyn View,
    created: BTreeMap<OutPoint, Coin>,
    spent: std::collections::BTreeSet<OutPoint>,
}

/// Questions that readers outside the loop ask of the store; rules never do.
pub trait Query: View + Send + Sync {
    /// Unspent coins under a lock, ascending by outpoint, after `after`, at most `limit`.
    fn coins_of(
        &self,
        lock: &crate::primitives::LockHash,
        after: Option<&OutPoint>,
        limit: usize,
    ) -> Result<Vec<(OutPoint, Coin)>, ViewError>;
    /// The height of a block.
    fn height_of(&self, block: &BlockId) -> Result<Option<Height>, ViewError>;
}
