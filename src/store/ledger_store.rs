//! The ledger on a [`Backend`]: what each table holds, and one block as one atomic batch.
//!
//! # Bytes on disk, layout 1
//!
//! All integers are big-endian, so that key order is number order. "Message" means canonical Protobuf bytes.
//!
//! | table | key | value |
//! |---|---|---|
//! | meta | `chain` | layout (u8), chain id (32); written last of a new store: without it the store is empty |
//! | meta | `tip` | height (u64), block id (32), time in ms (u64), utxo root (32), supply (u64), fees (u64), then a u64 for each validator: blocks of the epoch that it signed |
//! | coins | outpoint (36) | `Coin` message |
//! | coins_by_lock | lock hash (32), outpoint (36) | value (u64), height (u64): the whole coin together with the key |
//! | blocks | height (u64) | `CommittedBlock` message |
//! | block_ids | block id (32) | height (u64) |
//! | transactions | txid (32) | height (u64), position in the block (u32) |
//! | rejected | txid (32) | height (u64) of the block that rejected it |
//! | buckets | index (u16) | state of the bucket, 2,048 bytes; absent: no coins |
//!
//! A change of any of this is a new layout number, and a program refuses numbers that it does not know. The test
//! `the_bytes_on_disk_are_golden` pins layout 1.
//!
//! # Reading
//!
//! Any thread may read while one thread applies. A reader sees each block whole or not at all in each single answer;
//! two answers may be from before and after a block. The tip and the coins used last are answered from memory.

use super::backend::{Backend, Op, StoreError, StoreSize, Table};
use crate::{
    ledger::{Batch, Commitment, Location, Tip, UTXO_BUCKETS, View, ViewError, apply::genesis_tip, view::Query},
    primitives::{
        Amount, BlockId, ChainId, Coin, CommittedBlock, DecodeError, Genesis, Hash, Height, LockHash, OutPoint, Output,
        Time, TxId, genesis::GenesisError, wire,
    },
};
use arc_swap::ArcSwap;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use thiserror::Error;

/// Version of the bytes described on this page.
pub const LAYOUT: u8 = 1;
const CHAIN_KEY: &[u8] = b"chain";
const TIP_KEY: &[u8] = b"tip";
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
}

impl LedgerStore {
    /// Opens a store, or makes one with the coins of `genesis` if it is empty. An existing one must be of the same
    /// chain, and its last block must be whole and be the tip's.
    pub fn open(backend: Arc<dyn Backend>, genesis: &Genesis) -> Result<Self, LedgerStoreError> {
        Self::open_with(backend, genesis, DEFAULT_COIN_CACHE_BYTES)
    }

    /// The same with a coin cache of so many bytes; 0 for none.
    pub fn open_with(
        backend: Arc<dyn Backend>,
        genesis: &Genesis,
        coin_cache_bytes: usize,
    ) -> Result<Self, LedgerStoreError> {
        let chain = genesis.chain_id();
        let tip = match backend.get(Table::Meta, CHAIN_KEY)? {
            None => found(backend.as_ref(), genesis, &chain)?,
            Some(marker) => {
                check_marker(&marker, &chain)?;
                check_last_block(backend.as_ref(), &chain)?
            }
        };
        Ok(Self {
            backend,
            chain,
            tip: ArcSwap::from_pointee(tip),
            coins: Mutex::new(CoinCache::new(coin_cache_bytes / CACHED_COIN_BYTES)),
        })
    }

    /// The chain that is stored.
    pub const fn chain(&self) -> ChainId {
        self.chain
    }

    /// Writes one decided block: all of it or nothing. Only one thread may apply.
    pub fn apply(&self, batch: &Batch) -> Result<(), LedgerStoreError> {
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
        self.backend.apply(block_ops(batch))?;
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

    /// A block as it is stored: a `CommittedBlock` message. For those who count its bytes before they decode it.
    pub fn block_bytes(&self, height: Height) -> Result<Option<Vec<u8>>, ViewError> {
        self.get(Table::Blocks, &height.0.to_be_bytes())
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
        let generation = {
            let mut coins = self.coins();
            if let Some(coin) = coins.get(outpoint) {
                return Ok(Some(coin));
            }
            coins.generation
        };
        let Some(bytes) = self.get(Table::Coins, &outpoint.to_bytes())? else {
            return Ok(None);
        };
        let coin = Coin::decode(&bytes).map_err(|error| unreadable(Table::Coins, &error))?;
        self.coins().keep(generation, *outpoint, coin);
        Ok(Some(coin))
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
        self.number(Table::Rejected, &txid.0)
    }

    fn block(&self, height: Height) -> Result<Option<CommittedBlock>, ViewError> {
        let Some(bytes) = self.block_bytes(height)? else {
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

fn put(table: Table, key: &[u8], value: Vec<u8>) -> Op {
    Op::Put {
        table,
        key: key.to_vec(),
        value,
    }
}

fn delete(table: Table, key: &[u8]) -> Op {
    Op::Delete {
        table,
        key: key.to_vec(),
    }
}

fn block_ops(batch: &Batch) -> Vec<Op> {
    let applied = &batch.applied;
    let height = batch.block.block.header.height.0.to_be_bytes();
    let count = 2 * (applied.spent.len() + applied.created.len())
        + applied.transactions.len()
        + applied.rejected.len()
        + applied.buckets.len();
    let mut ops = Vec::with_capacity(count + 3);
    for (outpoint, coin) in &applied.spent {
        ops.push(delete(Table::Coins, &outpoint.to_bytes()));
        ops.push(delete(Table::CoinsByLock, &owned_key(outpoint, coin)));
    }
    for (outpoint, coin) in &applied.created {
        put_coin(&mut ops, outpoint, coin);
    }
    for (txid, index) in applied.transactions.iter().zip(0u32..) {
        let value = [&height[..], &index.to_be_bytes()].concat();
        ops.push(put(Table::Transactions, &txid.0, value));
    }
    for txid in &applied.rejected {
        ops.push(put(Table::Rejected, &txid.0, height.to_vec()));
    }
    for (index, state) in &applied.buckets {
        ops.push(put(Table::Buckets, &index.to_be_bytes(), state.clone()));
    }
    ops.push(put(Table::Blocks, &height, batch.block.encode()));
    ops.push(put(Table::BlockIds, &applied.block.0, height.to_vec()));
    ops.push(put(Table::Meta, TIP_KEY, tip_bytes(&applied.tip)));
    ops
}

fn put_coin(ops: &mut Vec<Op>, outpoint: &OutPoint, coin: &Coin) {
    ops.push(put(Table::Coins, &outpoint.to_bytes(), coin.encode()));
    let value = [coin.output.value.0.to_be_bytes(), coin.height.0.to_be_bytes()].concat();
    ops.push(put(Table::CoinsByLock, &owned_key(outpoint, coin), value));
}

fn owned_key(outpoint: &OutPoint, coin: &Coin) -> [u8; 68] {
    let mut key = [0; 68];
    key[..32].copy_from_slice(&coin.output.lock.0);
    key[32..].copy_from_slice(&outpoint.to_bytes());
    key
}

fn read_owned(lock: &LockHash, key: &[u8], value: &[u8]) -> Result<(OutPoint, Coin), DecodeError> {
    let outpoint = OutPoint::from_bytes(&key[lock.0.len()..])?;
    let mut fields = Fields::new("coin of a lock", value);
    let (value, height) = (fields.number()?, fields.number()?);
    fields.end()?;
    let output = Output {
        value: Amount(value),
        lock: *lock,
    };
    let coin = Coin {
        output,
        height: Height(height),
    };
    Ok((outpoint, coin))
}

fn read_height(table: Table, bytes: &[u8]) -> Result<Height, ViewError> {
    let bytes = wire::array("height", bytes).map_err(|error| unreadable(table, &error))?;
    Ok(Height(u64::from_be_bytes(bytes)))
}

fn read_location(bytes: &[u8]) -> Result<Location, DecodeError> {
    let bytes: [u8; 12] = wire::array("location", bytes)?;
    let (height, index) = bytes.split_at(8);
    Ok(Location {
        height: Height(u64::from_be_bytes(wire::array("location height", height)?)),
        index: u32::from_be_bytes(wire::array("location index", index)?),
    })
}

fn tip_bytes(tip: &Tip) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96 + 8 * tip.signed.len());
    bytes.extend_from_slice(&tip.height.0.to_be_bytes());
    bytes.extend_from_slice(&tip.block.0);
    bytes.extend_from_slice(&tip.time.0.to_be_bytes());
    bytes.extend_from_slice(&tip.utxo_root.0);
    bytes.extend_from_slice(&tip.supply.0.to_be_bytes());
    bytes.extend_from_slice(&tip.fees.0.to_be_bytes());
    tip.signed
        .iter()
        .for_each(|count| bytes.extend_from_slice(&count.to_be_bytes()));
    bytes
}

fn read_tip(bytes: &[u8]) -> Result<Tip, DecodeError> {
    let mut fields = Fields::new("tip", bytes);
    Ok(Tip {
        height: Height(fields.number()?),
        block: BlockId(fields.array()?),
        time: Time(fields.number()?),
        utxo_root: Hash(fields.array()?),
        supply: Amount(fields.number()?),
        fees: Amount(fields.number()?),
        signed: {
            let mut signed = Vec::with_capacity(fields.rest.len() / 8);
            while !fields.rest.is_empty() {
                signed.push(fields.number()?);
            }
            signed
        },
    })
}

/// Fixed-width fields, one after the other.
struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let short = || DecodeError::Length {
            what: self.what,
            length: self.rest.len(),
            expected: N,
        };
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(short)?;
        self.rest = rest;
        Ok(*head)
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    fn end(&self) -> Result<(), DecodeError> {
        wire::count(self.what, self.rest.len(), 0, 0)
    }
}

fn unreadable(table: Table, error: &DecodeError) -> ViewError {
    ViewError(format!("table {table} holds bytes that cannot be read: {error}"))
}

/// Coins created or read lately. Two generations: when the younger one has grown to half the capacity, it becomes the
/// older, and the older is forgotten.
///
/// What a reader found in the backend is kept only if no block was applied meanwhile, or a coin spent by that block
/// could come back.
struct CoinCache {
    young: HashMap<OutPoint, Coin>,
    old: HashMap<OutPoint, Coin>,
    half: usize,
    generation: u64,
}

impl CoinCache {
    fn new(capacity: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            half: capacity / 2,
            generation: 0,
        }
    }

    fn get(&mut self, outpoint: &OutPoint) -> Option<Coin> {
        if let Some(coin) = self.young.get(outpoint) {
            return Some(*coin);
        }
        let coin = self.old.remove(outpoint)?;
        self.insert(*outpoint, coin);
        Some(coin)
    }

    fn keep(&mut self, generation: u64, outpoint: OutPoint, coin: Coin) {
        if generation == self.generation {
            self.insert(outpoint, coin);
        }
    }

    fn apply(&mut self, batch: &Batch) {
        self.generation += 1;
        for (outpoint, _) in &batch.applied.spent {
            self.young.remove(outpoint);
            self.old.remove(outpoint);
        }
        for (outpoint, coin) in &batch.applied.created {
            self.insert(*outpoint, *coin);
        }
    }

    fn insert(&mut self, outpoint: OutPoint, coin: Coin) {
        if self.half == 0 {
            return;
        }
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(outpoint, coin);
    }
}

#[cfg(test)]
mod tests;
