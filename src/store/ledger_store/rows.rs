//! From the ledger's values to rows and back: layout 2, as the page above describes it.

use crate::{
    ledger::{Batch, Location, Tip, ViewError},
    primitives::{
        Amount, BlockCertificate, BlockHeader, BlockId, CertifiedHeader, Coin, CommittedBlock, DecodeError, Hash,
        Height, LockHash, OutPoint, Output, Time, TxId, wire,
    },
    store::backend::{Op, Table},
};

pub(super) const CHAIN_KEY: &[u8] = b"chain";
pub(super) const TIP_KEY: &[u8] = b"tip";
/// The height of the first block that is kept; absent: 1.
pub(super) const FIRST_KEY: &[u8] = b"first";
/// How far a state sync has come; absent: none is under way.
pub(super) const SYNC_KEY: &[u8] = b"sync";

pub(super) fn put(table: Table, key: &[u8], value: Vec<u8>) -> Op {
    Op::Put {
        table,
        key: key.to_vec(),
        value,
    }
}

pub(super) fn delete(table: Table, key: &[u8]) -> Op {
    Op::Delete {
        table,
        key: key.to_vec(),
    }
}

/// What applying a block writes. `closes_epoch`: whether its header is kept for ever.
pub(super) fn block_ops(batch: &Batch, closes_epoch: bool) -> Vec<Op> {
    let applied = &batch.applied;
    let count = 2 * (applied.spent.len() + applied.created.len()) + applied.transactions.len() + applied.buckets.len();
    let mut ops = Vec::with_capacity(count + 4);
    for (outpoint, coin) in &applied.spent {
        delete_coin(&mut ops, outpoint, coin);
    }
    for (outpoint, coin) in &applied.created {
        put_coin(&mut ops, outpoint, coin);
    }
    for (index, state) in &applied.buckets {
        ops.push(put(Table::Buckets, &index.to_be_bytes(), state.clone()));
    }
    put_block(&mut ops, &batch.block, &applied.block, &applied.transactions);
    ops.push(put(Table::Meta, TIP_KEY, tip_bytes(&applied.tip)));
    if closes_epoch {
        let CommittedBlock { block, commit } = &batch.block;
        put_closing(&mut ops, &block.header, commit);
    }
    ops
}

/// A block and what finds it and its transactions.
pub(super) fn put_block(ops: &mut Vec<Op>, block: &CommittedBlock, id: &BlockId, txids: &[TxId]) {
    let height = block.block.header.height.0.to_be_bytes();
    for (txid, index) in txids.iter().zip(0u32..) {
        let value = [&height[..], &index.to_be_bytes()].concat();
        ops.push(put(Table::Transactions, &txid.0, value));
    }
    ops.push(put(Table::Blocks, &height, block.encode()));
    ops.push(put(Table::BlockIds, &id.0, height.to_vec()));
}

pub(super) fn put_closing(ops: &mut Vec<Op>, header: &BlockHeader, commit: &BlockCertificate) {
    let value = CertifiedHeader {
        header: header.clone(),
        commit: commit.clone(),
    };
    let key = header.epoch.0.to_be_bytes();
    ops.push(put(Table::ClosingHeaders, &key, value.encode()));
}

pub(super) fn delete_coin(ops: &mut Vec<Op>, outpoint: &OutPoint, coin: &Coin) {
    ops.push(delete(Table::Coins, &outpoint.to_bytes()));
    if !coin.is_rejection() {
        ops.push(delete(Table::CoinsByLock, &owned_key(outpoint, coin)));
    }
}

pub(super) fn put_coin(ops: &mut Vec<Op>, outpoint: &OutPoint, coin: &Coin) {
    ops.push(put(Table::Coins, &outpoint.to_bytes(), coin.encode()));
    if coin.is_rejection() {
        return;
    }
    let value = [coin.output.value.0.to_be_bytes(), coin.height.0.to_be_bytes()].concat();
    ops.push(put(Table::CoinsByLock, &owned_key(outpoint, coin), value));
}

pub(super) fn owned_key(outpoint: &OutPoint, coin: &Coin) -> [u8; 68] {
    let mut key = [0; 68];
    key[..32].copy_from_slice(&coin.output.lock.0);
    key[32..].copy_from_slice(&outpoint.to_bytes());
    key
}

pub(super) fn read_owned(lock: &LockHash, key: &[u8], value: &[u8]) -> Result<(OutPoint, Coin), DecodeError> {
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

pub(super) fn read_height(table: Table, bytes: &[u8]) -> Result<Height, ViewError> {
    let bytes = wire::array("height", bytes).map_err(|error| unreadable(table, &error))?;
    Ok(Height(u64::from_be_bytes(bytes)))
}

pub(super) fn read_location(bytes: &[u8]) -> Result<Location, DecodeError> {
    let bytes: [u8; 12] = wire::array("location", bytes)?;
    let (height, index) = bytes.split_at(8);
    Ok(Location {
        height: Height(u64::from_be_bytes(wire::array("location height", height)?)),
        index: u32::from_be_bytes(wire::array("location index", index)?),
    })
}

pub(super) fn tip_bytes(tip: &Tip) -> Vec<u8> {
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

pub(super) fn read_tip(bytes: &[u8]) -> Result<Tip, DecodeError> {
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
pub(super) struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let short = || DecodeError::Length {
            what: self.what,
            length: self.rest.len(),
            expected: N,
        };
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(short)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn number(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        wire::count(self.what, self.rest.len(), 0, 0)
    }
}

pub(super) fn unreadable(table: Table, error: &DecodeError) -> ViewError {
    ViewError(format!("table {table} holds bytes that cannot be read: {error}"))
}
