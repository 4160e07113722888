//! The ledger on a [`Backend`]: what each table holds, and one block as one atomic batch.
//!
//! # Bytes on disk, layout 2
//!
//! All integers are big-endian, so that key order is number order. "Message" means canonical Protobuf bytes.
//!
//! | table | key | value |
//! |---|---|---|
//! | meta | `chain` | layout (u8), chain id (32); written last of a new store: without it the store is empty |
//! | meta | `tip` | height (u64), block id (32), time in ms (u64), utxo root (32), supply (u64), fees (u64), then a u64 for each validator: blocks of the epoch that it signed |
//! | meta | `first` | height (u64) of the first block that is kept; absent: 1 |
//! | meta | `sync` | while the state is being synced: how far that has come, `SyncProgress` message |
//! | coins | outpoint (36) | `Coin` message; at index 2^32 − 1 the mark that a block rejected the transaction |
//! | coins_by_lock | lock hash (32), outpoint (36) | value (u64), height (u64): the whole coin together with the key |
//! | blocks | height (u64) | `CommittedBlock` message |
//! | block_ids | block id (32) | height (u64) |
//! | transactions | txid (32) | height (u64), position in the block (u32) |
//! | closing_headers | epoch (u64) | `CertifiedHeader` message |
//! | buckets | index (u16) | state of the bucket, 2,048 bytes; absent: no coins |
//!
//! A change of any of this is a new layout number, and a program refuses numbers that it does not know. The test
//! `the_bytes_on_disk_are_golden` pins layout 2.
//!
//! # Reading
//!
//! Any thread may read while one thread applies. A reader sees each block whole or not at all in each single answer;
//! two answers may be from before and after a block. The tip and the coins used last are answered from memory.

mod cache;
mod prune;
mod rows;
mod state;
#[cfg(test)]
mod tests;

use super::backend::{Backend, Op, StoreError, StoreSize, Table};
use crate::{
    ledger::{Batch, Commitment, Location, Tip, UTXO_BUCKETS, View, ViewError, Write, apply::genesis_tip, view::Query},
    primitives::{
        BlockId, ChainId, Coin, CommittedBlock, Genesis, Height, LockHash, OutPoint, TxId, genesis::GenesisError,
    },
};
use arc_swap::ArcSwap;
use cache::CoinCache;
use rows::{
    CHAIN_KEY, SYNC_KEY, TIP_KEY, block_ops, put, put_coin, read_height, read_location, read_owned, read_tip,
    tip_bytes, unreadable,
};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};
use thiserror::Error;

/// Version of the bytes described on this page.
pub const LAYOUT: u8 = 2;
/// Bytes that one coin in the cache is reckoned at: key, value and what the map adds.
const CACHED_COIN_BYTES: usize = 192;
/// What the coin cache may take when nothing else is said.
const DEFAULT_COIN_CACHE_BYTES: usize = 16 << 20;
/// Coins of a genesis that go into one batch; it may have millions.
const GENESIS_CHUNK: usize = 10_000;

/// Why the ledger's store cannot be opened or written.
#[derive(Debug, Error)]
pub enum LedgerStoreError {
    /// The tables refuse.
    #[error(transparent)]
    Backend(#[from] StoreError),
    /// What is stored cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The genesis given is none.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// The store is another chain's.
    #[error(
        "the store holds chain {found}, the genesis is that of chain {expected}: give this node the genesis its store \
         was made with, or another data directory"
    )]
    WrongChain {
        /// The chain id in the store.
        found: ChainId,
        /// The chain id of the genesis.
        expected: ChainId,
    },
    /// The store was written by another version of the program.
    #[error("the store has layout {found}, this program reads layout {LAYOUT}: run the version that wrote it")]
    Layout {
        /// The number found.
        found: u8,
    },
    /// The last block and the tip contradict each other, or one of them cannot be read.
    #[error(
        "the store is damaged at height {height}: {what}. Nothing was changed. Move the store away (keep the safety \
         log!) and start again to fetch the chain from peers, or restore a backup; then check the disk"
    )]
    Damaged {
        /// Of the tip.
        height: Height,
        /// What was found.
        what: String,
    },
    /// A block while the state is being synced, or a step of a sync that has ended. Nothing was written.
    #[error("the state is {}: {what} cannot be written", if *.syncing { "being synced" } else { "whole" })]
    Syncing {
        /// Whether a state sync is under way.
        syncing: bool,
        /// What was to be written.
        what: &'static str,
    },
    /// A batch that does not follow the tip. Nothing was written.
    #[error("block {height} with parent {parent} does not follow the tip, block {tip_height} ({tip})")]
    NotNext {
        /// Of the batch.
        height: Height,
        /// Of the batch.
        parent: BlockId,
        /// Of the store.
        tip_height: Height,
        /// Of the store.
        tip: BlockId,
    },
}

/// The committed ledger: [`View`] and [`Query`] over a backend.
pub struct LedgerStore {
    backend: Arc<dyn Backend>,
    chain: ChainId,
    tip: ArcSwap<Tip>,
    coins: Mutex<CoinCache>,
    epoch_length: u64,
    /// Blocks that are kept; 0: all.
    retain_blocks: u64,
    /// What stands before anything is synced.
    genesis: Tip,
    syncing: AtomicBool,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Bytes of memory for coins used lately; 0 for none.
    pub coin_cache_bytes: usize,
    /// Blocks that are kept; 0: all. Those of the epoch under way and of the one before are kept in any case.
    pub retain_blocks: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            coin_cache_bytes: DEFAULT_COIN_CACHE_BYTES,
            retain_blocks: 0,
        }
    }
}

impl LedgerStore {
    /// Opens a store, or makes one with the coins of `genesis` if it is empty. An existing one must be of the same
    /// chain, and its last block must be whole and be the tip's.
    pub fn open(backend: Arc<dyn Backend>, genesis: &Genesis) -> Result<Self, LedgerStoreError> {
        Self::open_with(backend, genesis, StoreOptions::default())
    }

    /// The same with options.
    pub fn open_with(
        backend: Arc<dyn Backend>,
        genesis: &Genesis,
        options: StoreOptions,
    ) -> Result<Self, LedgerStoreError> {
        let chain = genesis.chain_id();
        let before = Tip {
            height: Height(0),
            block: BlockId(chain.0),
            time: genesis.time,
            utxo_root: Commitment::empty().root(),
            supply: genesis.supply().ok_or(GenesisError::Supply)?,
            fees: crate::primitives::Amount::ZERO,
            signed: vec![0; genesis.validators.len()],
        };
        let syncing = backend.get(Table::Meta, SYNC_KEY)?.is_some();
        let tip = match backend.get(Table::Meta, CHAIN_KEY)? {
            None => found(backend.as_ref(), genesis, &chain)?,
            Some(marker) => {
                check_marker(&marker, &chain)?;
                match syncing {
                    true => before.clone(),
                    false => check_last_block(backend.as_ref(), &chain)?,
                }
            }
        };
        Ok(Self {
            backend,
            chain,
            tip: ArcSwap::from_pointee(tip),
            coins: Mutex::new(CoinCache::new(options.coin_cache_bytes / CACHED_COIN_BYTES)),
            epoch_length: genesis.params.epoch_length,
            retain_blocks: options.retain_blocks,
            genesis: before,
            syncing: AtomicBool::new(syncing),
        })
    }

    /// The chain that is stored.
    pub const fn chain(&self) -> ChainId {
        self.chain
    }

    /// Writes a block or a step of a state sync: all of it or nothing. Only one thread may write.
    pub fn write(&self, write: &Write) -> Result<(), LedgerStoreError> {
        match write {
            Write::Block(batch) => self.apply(batch),
            Write::State(step) => self.write_state(step),
        }
    }

    /// Whether the state is being synced: it is not whole.
    pub fn is_syncing(&self) -> bool {
        self.syncing.load(Ordering::Acquire)
    }

    /// Writes one decided block: all of it or nothing. Only one thread may write.
    pub fn apply(&self, batch: &Batch) -> Result<(), LedgerStoreError> {
        if self.is_syncing() {
            return Err(LedgerStoreError::Syncing {
                syncing: true,
                what: "a block",
            });
        }
        let tip = self.tip.load_full();
        let header = &batch.block.block.header;
        if header.height != tip.height.next() || header.parent != tip.block || batch.applied.tip.height != header.height
        {
            return Err(LedgerStoreError::NotNext {
                height: header.height,
                parent: header.parent,
                tip_height: tip.height,
                tip: tip.block,
            });
        }
        let mut ops = block_ops(batch, header.height.closes_epoch(self.epoch_length));
        self.prune(&mut ops, header.height)?;
        self.backend.apply(ops)?;
        self.coins().apply(batch);
        self.tip.store(Arc::new(batch.applied.tip.clone()));
        Ok(())
    }

    /// Makes everything applied survive a loss of power. Slow: never called by the thread that applies.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.backend.flush()
    }

    /// Bytes on disk and keys.
    pub fn size(&self) -> Result<StoreSize, StoreError> {
        self.backend.size()
    }

    /// The last committed block's height, without a copy of the tip.
    pub fn height(&self) -> Height {
        self.tip.load().height
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        self.backend
            .get(table, key)
            .map_err(|error| ViewError(error.to_string()))
    }

    fn coins(&self) -> MutexGuard<'_, CoinCache> {
        // Held for a look-up or an insertion; nothing in there can panic half-way.
        self.coins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry of the table of coins: a coin, or the mark of a rejection.
    fn entry(&self, outpoint: &OutPoint) -> Result<Option<Coin>, ViewError> {
        let generation = {
            let mut coins = self.coins();
            if let Some(known) = coins.get(outpoint) {
                return Ok(known);
            }
            coins.generation
        };
        let coin = match self.get(Table::Coins, &outpoint.to_bytes())? {
            Some(bytes) => Some(Coin::decode(&bytes).map_err(|error| unreadable(Table::Coins, &error))?),
            None => None,
        };
        // Whoever invents coins must not push out those that are there.
        if !self.is_syncing() && (coin.is_some() || outpoint.is_rejection()) {
            self.coins().keep(generation, *outpoint, coin);
        }
        Ok(coin)
    }

    fn number(&self, table: Table, key: &[u8]) -> Result<Option<Height>, ViewError> {
        let value = self.get(table, key)?;
        value.map(|bytes| read_height(table, &bytes)).transpose()
    }
}

impl View for LedgerStore {
    fn tip(&self) -> Result<Tip, ViewError> {
        Ok(Tip::clone(&self.tip.load()))
    }

    fn coin(&self, outpoint: &OutPoint) -> Result<Option<Coin>, ViewError> {
        match outpoint.is_rejection() {
            true => Ok(None),
            false => self.entry(outpoint),
        }
    }

    fn location(&self, txid: &TxId) -> Result<Option<Location>, ViewError> {
        let Some(bytes) = self.get(Table::Transactions, &txid.0)? else {
            return Ok(None);
        };
        read_location(&bytes)
            .map(Some)
            .map_err(|error| unreadable(Table::Transactions, &error))
    }

    fn rejected(&self, txid: &TxId) -> Result<Option<Height>, ViewError> {
        let mark = self.entry(&OutPoint::rejection(*txid))?;
        Ok(mark.map(|mark| mark.height))
    }

    fn block(&self, height: Height) -> Result<Option<CommittedBlock>, ViewError> {
        let Some(bytes) = self.get(Table::Blocks, &height.0.to_be_bytes())? else {
            return Ok(None);
        };
        CommittedBlock::decode(&bytes)
            .map(Some)
            .map_err(|error| unreadable(Table::Blocks, &error))
    }

    fn bucket(&self, index: u16) -> Result<Option<Vec<u8>>, ViewError> {
        self.get(Table::Buckets, &index.to_be_bytes())
    }
}

impl Query for LedgerStore {
    fn coins_of(
        &self,
        lock: &LockHash,
        after: Option<&OutPoint>,
        limit: usize,
    ) -> Result<Vec<(OutPoint, Coin)>, ViewError> {
        if self.is_syncing() {
            return Err(ViewError(
                "the coins are being fetched from peers and are not whole yet".into(),
            ));
        }
        let mut from = lock.0.to_vec();
        if let Some(after) = after {
            from.extend_from_slice(&after.to_bytes());
            // The next possible key.
            from.push(0);
        }
        let entries = self.backend.scan(Table::CoinsByLock, &from, limit);
        let entries = entries.map_err(|error| ViewError(error.to_string()))?;
        let owned = entries.iter().take_while(|(key, _)| key.starts_with(&lock.0));
        owned
            .map(|(key, value)| read_owned(lock, key, value).map_err(|error| unreadable(Table::CoinsByLock, &error)))
            .collect()
    }

    fn height_of(&self, block: &BlockId) -> Result<Option<Height>, ViewError> {
        self.number(Table::BlockIds, &block.0)
    }
}

/// Writes the genesis into an empty store. The marker goes last, so a store that was interrupted while it was made is
/// made again: the same keys with the same values.
fn found(backend: &dyn Backend, genesis: &Genesis, chain: &ChainId) -> Result<Tip, LedgerStoreError> {
    let (tip, coins, commitment) = genesis_tip(genesis)?;
    for chunk in coins.chunks(GENESIS_CHUNK) {
        let mut ops = Vec::with_capacity(2 * chunk.len());
        for (outpoint, coin) in chunk {
            put_coin(&mut ops, outpoint, coin);
        }
        backend.apply(ops)?;
    }
    let mut ops = bucket_ops(&commitment, &coins);
    ops.push(put(Table::Meta, TIP_KEY, tip_bytes(&tip)));
    let marker = [&[LAYOUT][..], &chain.0].concat();
    ops.push(put(Table::Meta, CHAIN_KEY, marker));
    backend.apply(ops)?;
    backend.flush()?;
    Ok(tip)
}

fn bucket_ops(commitment: &Commitment, coins: &[(OutPoint, Coin)]) -> Vec<Op> {
    let used: std::collections::BTreeSet<u16> = coins
        .iter()
        .map(|(outpoint, _)| crate::ledger::commitment::bucket_of(&outpoint.txid))
        .collect();
    debug_assert!(used.iter().all(|index| usize::from(*index) < UTXO_BUCKETS));
    let state = |index: &u16| {
        Some(put(
            Table::Buckets,
            &index.to_be_bytes(),
            commitment.bucket(*index)?.to_bytes(),
        ))
    };
    used.iter().filter_map(state).collect()
}

fn check_marker(marker: &[u8], expected: &ChainId) -> Result<(), LedgerStoreError> {
    let damaged = |what: &str| LedgerStoreError::Damaged {
        height: Height(0),
        what: what.to_owned(),
    };
    let (layout, found) = marker
        .split_first()
        .ok_or_else(|| damaged("the chain's marker is empty"))?;
    if *layout != LAYOUT {
        return Err(LedgerStoreError::Layout { found: *layout });
    }
    let found = ChainId::try_from(found).map_err(|_| damaged("the chain's marker has the wrong length"))?;
    if found != *expected {
        return Err(LedgerStoreError::WrongChain {
            found,
            expected: *expected,
        });
    }
    Ok(())
}

/// Reads the tip and the block it names; they must agree.
fn check_last_block(backend: &dyn Backend, chain: &ChainId) -> Result<Tip, LedgerStoreError> {
    let damaged = |height: Height, what: String| LedgerStoreError::Damaged { height, what };
    let bytes = backend.get(Table::Meta, TIP_KEY)?;
    let bytes = bytes.ok_or_else(|| damaged(Height(0), "there is no tip".into()))?;
    let tip = read_tip(&bytes).map_err(|error| damaged(Height(0), format!("the tip cannot be read: {error}")))?;
    let height = tip.height;
    if height == Height(0) {
        return match tip.block.0 == chain.0 {
            true => Ok(tip),
            false => Err(damaged(height, format!("the tip names block {} as genesis", tip.block))),
        };
    }
    let bytes = backend.get(Table::Blocks, &height.0.to_be_bytes())?;
    let bytes = bytes.ok_or_else(|| damaged(height, "the last block is missing".into()))?;
    let block = CommittedBlock::decode(&bytes)
        .map_err(|error| damaged(height, format!("the last block cannot be read: {error}")))?;
    let header = &block.block.header;
    let (id, certified) = (header.id(chain), block.commit.block);
    if id != tip.block || certified != tip.block {
        let what = format!(
            "the tip is {}, the stored block {id}, its certificate is for {certified}",
            tip.block
        );
        return Err(damaged(height, what));
    }
    if header.height != height || header.time != tip.time {
        let what = format!(
            "the tip is of {}, the stored block of height {} and {}",
            tip.time, header.height, header.time
        );
        return Err(damaged(height, what));
    }
    let indexed = backend.get(Table::BlockIds, &id.0)?;
    if indexed.as_deref() != Some(&height.0.to_be_bytes()) {
        return Err(damaged(
            height,
            "the last block is missing in the index of block ids".into(),
        ));
    }
    Ok(tip)
}
