//! The state read whole, for newcomers; and written piece by piece, as one.

use super::{
    LedgerStore, LedgerStoreError,
    rows::{
        FIRST_KEY, SYNC_KEY, TIP_KEY, delete, delete_coin, put, put_block, put_closing, put_coin, tip_bytes, unreadable,
    },
};
use crate::{
    ledger::{StateStep, StateView, StateWrite, Tip, UTXO_BUCKETS, ViewError, view::Buckets},
    primitives::{CertifiedHeader, Coin, Epoch, Height, OutPoint, state::MAX_CURSOR, wire},
    store::backend::{Entry, Table},
};
use std::sync::{Arc, atomic::Ordering};

/// Rows that one [`StateWrite::Wipe`] takes away, at most.
const WIPED_AT_ONCE: usize = 10_000;
/// Of them blocks, which are large.
const BLOCKS_WIPED_AT_ONCE: usize = 20;
/// How often a read is tried while blocks are written in between.
const TRIES: usize = 5;
/// What the state is made of.
const WIPED: [Table; 7] = [
    Table::Coins,
    Table::CoinsByLock,
    Table::Buckets,
    Table::Transactions,
    Table::BlockIds,
    Table::ClosingHeaders,
    Table::Blocks,
];

impl LedgerStore {
    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, ViewError> {
        let entries = self.backend.scan(table, from, limit);
        entries.map_err(|error| ViewError(error.to_string()))
    }

    /// Rows of one table that all belong to the height answered with them. A scan is of one instant between two blocks,
    /// and so is each look at the tip: when the tip before and after the scan is the same, the scan is of it.
    fn scan_at_height(&self, table: Table, from: &[u8], limit: usize) -> Result<(Height, Vec<Entry>), ViewError> {
        let tip = || self.get(Table::Meta, TIP_KEY);
        for _ in 0..TRIES {
            let before = tip()?;
            let entries = self.scan(table, from, limit)?;
            if tip()? == before {
                return Ok((height_of(before.as_deref())?, entries));
            }
        }
        Err(ViewError(format!(
            "blocks were written during each of {TRIES} reads of {table}"
        )))
    }

    /// Writes one step of a state sync.
    pub(super) fn write_state(&self, write: &StateWrite) -> Result<(), LedgerStoreError> {
        match write {
            StateWrite::Wipe { progress } => self.wipe(progress),
            StateWrite::Step(step) => self.step(step),
            StateWrite::Finish { tip, buckets } => self.finish(tip, buckets),
        }
    }

    fn wipe(&self, progress: &[u8]) -> Result<(), LedgerStoreError> {
        if !self.is_syncing() {
            // From here on the store says that it is not whole, whatever happens next.
            self.syncing.store(true, Ordering::Release);
            self.tip.store(Arc::new(self.genesis.clone()));
            self.coins().clear();
        }
        let mut ops = vec![
            put(Table::Meta, SYNC_KEY, progress.to_vec()),
            delete(Table::Meta, TIP_KEY),
            delete(Table::Meta, FIRST_KEY),
        ];
        for table in WIPED {
            let most = if table == Table::Blocks {
                BLOCKS_WIPED_AT_ONCE
            } else {
                WIPED_AT_ONCE
            };
            let left = most.min((WIPED_AT_ONCE + 3).saturating_sub(ops.len()));
            let rows = self.scan(table, &[], left)?;
            ops.extend(rows.iter().map(|(key, _)| delete(table, key)));
        }
        Ok(self.backend.apply(ops)?)
    }

    fn step(&self, step: &StateStep) -> Result<(), LedgerStoreError> {
        self.must_sync("a step of a state sync")?;
        let mut ops = Vec::with_capacity(2 * (step.removed.len() + step.added.len()) + 4);
        for (outpoint, coin) in &step.removed {
            delete_coin(&mut ops, outpoint, coin);
        }
        for (outpoint, coin) in &step.added {
            put_coin(&mut ops, outpoint, coin);
        }
        for (block, id, txids) in &step.blocks {
            put_block(&mut ops, block, id, txids);
        }
        if let Some((first, ..)) = step.blocks.first()
            && self.get(Table::Meta, FIRST_KEY)?.is_none()
        {
            let first = first.block.header.height.0.to_be_bytes();
            ops.push(put(Table::Meta, FIRST_KEY, first.to_vec()));
        }
        for header in &step.headers {
            put_closing(&mut ops, &header.header, &header.commit);
        }
        ops.push(put(Table::Meta, SYNC_KEY, step.progress.clone()));
        Ok(self.backend.apply(ops)?)
    }

    fn finish(&self, tip: &Tip, buckets: &[(u16, Vec<u8>)]) -> Result<(), LedgerStoreError> {
        self.must_sync("the end of a state sync")?;
        let mut ops = vec![put(Table::Meta, TIP_KEY, tip_bytes(tip)), delete(Table::Meta, SYNC_KEY)];
        for (index, state) in buckets {
            ops.push(put(Table::Buckets, &index.to_be_bytes(), state.clone()));
        }
        // Blocks that came after the state are fetched again, in their turn: until then nothing may find them.
        let mut after = tip.height.next();
        while self.forget(&mut ops, after)? > 0 {
            after = after.next();
        }
        self.backend.apply(ops)?;
        self.backend.flush()?;
        self.coins().clear();
        self.tip.store(Arc::new(tip.clone()));
        self.syncing.store(false, Ordering::Release);
        Ok(())
    }

    fn must_sync(&self, what: &'static str) -> Result<(), LedgerStoreError> {
        match self.is_syncing() {
            true => Ok(()),
            false => Err(LedgerStoreError::Syncing { syncing: false, what }),
        }
    }
}

/// The height of a stored tip; 0 when there is none, in the middle of a state sync.
fn height_of(tip: Option<&[u8]>) -> Result<Height, ViewError> {
    let Some(tip) = tip else { return Ok(Height(0)) };
    let short = || ViewError(format!("the tip has {} bytes", tip.len()));
    let height = tip.first_chunk::<8>().ok_or_else(short)?;
    Ok(Height(u64::from_be_bytes(*height)))
}

fn read_coin((key, value): &Entry) -> Result<(OutPoint, Coin), ViewError> {
    let read = || Ok((OutPoint::from_bytes(key)?, Coin::decode(value)?));
    read().map_err(|error| unreadable(Table::Coins, &error))
}

impl StateView for LedgerStore {
    fn first_block(&self) -> Result<Height, ViewError> {
        self.kept_from()
    }

    fn block_bytes(&self, height: Height) -> Result<Option<Vec<u8>>, ViewError> {
        self.get(Table::Blocks, &height.0.to_be_bytes())
    }

    fn closing_header(&self, epoch: Epoch) -> Result<Option<CertifiedHeader>, ViewError> {
        let Some(bytes) = self.get(Table::ClosingHeaders, &epoch.0.to_be_bytes())? else {
            return Ok(None);
        };
        let header = CertifiedHeader::decode(&bytes);
        header
            .map(Some)
            .map_err(|error| unreadable(Table::ClosingHeaders, &error))
    }

    fn coins_after(&self, cursor: &[u8], limit: usize) -> Result<(Height, Vec<(OutPoint, Coin)>), ViewError> {
        let mut from = cursor.to_vec();
        if cursor.len() == MAX_CURSOR {
            // The next possible key.
            from.push(0);
        }
        let (height, rows) = self.scan_at_height(Table::Coins, &from, limit)?;
        Ok((height, rows.iter().map(read_coin).collect::<Result<_, _>>()?))
    }

    fn buckets(&self) -> Result<(Height, Buckets), ViewError> {
        let (height, rows) = self.scan_at_height(Table::Buckets, &[], UTXO_BUCKETS)?;
        let index = |(key, state): Entry| {
            let key = wire::array("bucket index", &key).map_err(|error| unreadable(Table::Buckets, &error))?;
            Ok((u16::from_be_bytes(key), state))
        };
        Ok((height, rows.into_iter().map(index).collect::<Result<_, ViewError>>()?))
    }

    fn sync_progress(&self) -> Result<Option<Vec<u8>>, ViewError> {
        self.get(Table::Meta, SYNC_KEY)
    }

    fn is_wiped(&self) -> Result<bool, ViewError> {
        for table in WIPED {
            if !self.scan(table, &[], 1)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
