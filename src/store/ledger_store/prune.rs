//! Forgetting old blocks.

use super::{
    LedgerStore,
    rows::{FIRST_KEY, delete, put, read_height, unreadable},
};
use crate::{
    ledger::ViewError,
    primitives::{CommittedBlock, Height, Transaction},
    store::backend::{Op, Table},
};

/// Old blocks that go with each new one, at most: so a node that begins to prune catches up without ever stopping.
const MAX_AT_ONCE: u64 = 8;
/// Bytes of old blocks that go with a new one, at most, but for the last of them.
const MAX_BYTES_AT_ONCE: usize = 2 << 20;

impl LedgerStore {
    /// The first block that must be kept once `tip` is written. Those of this epoch and of the one before stay whatever
    /// the settings say: the rules look them up, and newcomers begin with them.
    fn keep_from(&self, tip: Height) -> Height {
        let two_epochs = tip.0.saturating_sub(1) / self.epoch_length * self.epoch_length;
        let needed = two_epochs.saturating_sub(self.epoch_length).max(1);
        Height(tip.0.saturating_sub(self.retain_blocks).saturating_add(1).min(needed))
    }

    /// The first block that is kept now.
    pub(super) fn kept_from(&self) -> Result<Height, ViewError> {
        let bytes = self.get(Table::Meta, FIRST_KEY)?;
        bytes.map_or(Ok(Height(1)), |bytes| read_height(Table::Meta, &bytes))
    }

    /// Adds what forgets old blocks, with all that finds them and their transactions, to the batch that writes `tip`.
    pub(super) fn prune(&self, ops: &mut Vec<Op>, tip: Height) -> Result<(), ViewError> {
        if self.retain_blocks == 0 {
            return Ok(());
        }
        let (first, keep) = (self.kept_from()?, self.keep_from(tip));
        let mut height = first;
        let mut bytes = 0;
        while height < keep && height.0 < first.0 + MAX_AT_ONCE && bytes < MAX_BYTES_AT_ONCE {
            bytes += self.forget(ops, height)?;
            height = height.next();
        }
        if height > first {
            ops.push(put(Table::Meta, FIRST_KEY, height.0.to_be_bytes().to_vec()));
        }
        Ok(())
    }

    /// Takes a block away with what finds it; answers its bytes, 0 when there is none.
    pub(super) fn forget(&self, ops: &mut Vec<Op>, height: Height) -> Result<usize, ViewError> {
        let key = height.0.to_be_bytes();
        let Some(bytes) = self.get(Table::Blocks, &key)? else {
            return Ok(0);
        };
        let block = CommittedBlock::decode(&bytes).map_err(|error| unreadable(Table::Blocks, &error))?;
        for transaction in &block.block.transactions {
            let transaction = Transaction::decode(&self.chain, transaction);
            let transaction = transaction.map_err(|error| unreadable(Table::Blocks, &error))?;
            ops.push(delete(Table::Transactions, &transaction.txid().0));
        }
        ops.push(delete(Table::BlockIds, &block.block.header.id(&self.chain).0));
        ops.push(delete(Table::Blocks, &key));
        Ok(bytes.len())
    }
}
