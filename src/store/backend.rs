//! The narrow waist of the store: nine tables of bytes, read by key or in key order, written in atomic batches.
//!
//! Nothing here knows what a coin or a block is; the ledger's types are mapped onto these tables one level up. That
//! keeps a backend small enough to be replaced, and lets one conformance suite judge all of them.

use std::path::PathBuf;

/// Longest key that a table takes, in bytes.
pub const MAX_KEY_BYTES: usize = 1 << 10;
/// Largest value that a table takes, in bytes (a block of the largest size with its certificates fits several times).
pub const MAX_VALUE_BYTES: usize = 64 << 20;
/// Largest batch, in bytes of keys and values together with [`OP_OVERHEAD_BYTES`] for each operation.
pub const MAX_BATCH_BYTES: usize = 512 << 20;
/// What one operation of a batch counts for beside its key and its value.
pub const OP_OVERHEAD_BYTES: usize = 16;

/// The tables. The set is fixed: a new one is a new schema version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The tip, the schema, and other single values.
    Meta,
    /// Unspent outputs by outpoint.
    Coins,
    /// Outpoints by the lock that owns them.
    CoinsByLock,
    /// Blocks by height.
    Blocks,
    /// Heights by block id.
    BlockIds,
    /// Where a committed transaction stands, by txid.
    Transactions,
    /// Headers that closed epochs, by epoch.
    ClosingHeaders,
    /// States of the coin commitment's buckets, by bucket number.
    Buckets,
    /// Finality receipts by txid.
    Receipts,
}

impl Table {
    /// Every table, in the order of the codes.
    pub const ALL: [Table; 9] = [
        Table::Meta,
        Table::Coins,
        Table::CoinsByLock,
        Table::Blocks,
        Table::BlockIds,
        Table::Transactions,
        Table::ClosingHeaders,
        Table::Buckets,
        Table::Receipts,
    ];

    /// The table's name, for logs, metrics and the command line.
    pub fn name(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Coins => "coins",
            Table::CoinsByLock => "coins_by_lock",
            Table::Blocks => "blocks",
            Table::BlockIds => "block_ids",
            Table::Transactions => "transactions",
            Table::ClosingHeaders => "closing_headers",
            Table::Buckets => "buckets",
            Table::Receipts => "receipts",
        }
    }

    /// The byte that stands for the table on disk. Never reuse or renumber one: files written before rely on it.
    pub(super) fn code(self) -> u8 {
        self.index() as u8 + 1
    }

    pub(super) fn from_code(code: u8) -> Option<Table> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One change to one table. A `Vec<Op>` is one atomic batch; where a batch names a key twice, the later one holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Set a key, whether or not it was there.
    Put {
        /// The table to write to.
        table: Table,
        /// At most [`MAX_KEY_BYTES`].
        key: Vec<u8>,
        /// At most [`MAX_VALUE_BYTES`]; may be empty.
        value: Vec<u8>,
    },
    /// Remove a key; removing one that is not there is no error.
    Delete {
        /// The table to remove from.
        table: Table,
        /// At most [`MAX_KEY_BYTES`].
        key: Vec<u8>,
    },
}

impl Op {
    /// The table, the key, and the value if this is a put.
    pub fn parts(&self) -> (Table, &[u8], Option<&[u8]>) {
        match self {
            Op::Put { table, key, value } => (*table, key, Some(value)),
            Op::Delete { table, key } => (*table, key, None),
        }
    }

    pub(super) fn into_parts(self) -> (Table, Vec<u8>, Option<Vec<u8>>) {
        match self {
            Op::Put { table, key, value } => (table, key, Some(value)),
            Op::Delete { table, key } => (table, key, None),
        }
    }
}

/// A key with its value, as [`Backend::scan`] hands them out.
pub type Entry = (Vec<u8>, Vec<u8>);

/// How large a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSize {
    /// Bytes of all its files (0 in memory).
    pub disk_bytes: u64,
    /// Keys over all tables. A backend that writes behind counts a key when it has been moved to its place, so this
    /// lags a little, and each kill of the process may leave it wrong by a few hundred: a figure for operators, not for
    /// rules.
    pub keys: u64,
}

/// What a store must be able to do.
pub trait Backend: Send + Sync {
    /// The value of a key, as the last applied batch left it.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Up to `limit` entries in ascending order of key, from `from` (inclusive) on. All of them belong to one instant
    /// between two batches. The values are held in memory together: choose `limit` by their size.
    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError>;

    /// Applies a batch: all of it or nothing, visible to every reader when this returns. A process that is killed
    /// later finds a prefix of the applied batches, each whole; which of those after the last [`Backend::flush`] are
    /// among them is open when the machine itself goes down.
    fn apply(&self, batch: Vec<Op>) -> Result<(), StoreError>;

    /// Makes everything applied so far survive a loss of power; it has when this returns.
    fn flush(&self) -> Result<(), StoreError>;

    /// Bytes on disk and keys.
    fn size(&self) -> Result<StoreSize, StoreError>;
}

/// Refuses a batch whose keys, values or sum are beyond the limits, naming the first that is.
pub(super) fn check_batch(batch: &[Op]) -> Result<(), StoreError> {
    let mut total = 0usize;
    for op in batch {
        let (table, key, value) = op.parts();
        let value_bytes = value.map_or(0, <[u8]>::len);
        if key.len() > MAX_KEY_BYTES {
            return Err(StoreError::KeyTooLong {
                table,
                bytes: key.len(),
            });
        }
        if value_bytes > MAX_VALUE_BYTES {
            return Err(StoreError::ValueTooLarge {
                table,
                bytes: value_bytes,
            });
        }
        total += key.len() + value_bytes + OP_OVERHEAD_BYTES;
    }
    if total > MAX_BATCH_BYTES {
        return Err(StoreError::BatchTooLarge {
            bytes: total,
            ops: batch.len(),
        });
    }
    Ok(())
}

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has the store open.
    #[error(
        "the store at {path} is in use by another process (it holds {lock}); stop that process, or give this one \
         another data directory"
    )]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// The file whose lock is taken.
        lock: PathBuf,
    },
    /// The store was written by a program that lays out its data differently.
    #[error(
        "the store at {path} has schema version {found}, this program knows {supported}; run the program that wrote \
         it, or move the directory away and sync again"
    )]
    Schema {
        /// The store's directory.
        path: PathBuf,
        /// The version found there.
        found: String,
        /// The only version this program reads.
        supported: u32,
    },
    /// What is on disk contradicts itself. Nothing was changed or deleted.
    #[error(
        "the store at {path} is damaged: {what}. Nothing was changed. Move the directory away (keep the safety log!) \
         and start again to sync from peers, or restore a backup; then check the disk"
    )]
    Corrupt {
        /// The store's directory or the file concerned.
        path: PathBuf,
        /// What was found, and where.
        what: String,
    },
    /// The operating system refused a read, a write or a sync.
    #[error("{doing} failed at {path}: {source}")]
    Io {
        /// The file or directory concerned.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The engine under the store refused.
    #[error("{doing} failed in the store at {path}: {reason}; the node must stop, what was flushed is safe")]
    Engine {
        /// The store's directory.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The engine's own words.
        reason: String,
    },
    /// Something failed earlier, and what is on disk since is not known well enough to go on.
    #[error("the store at {path} takes no more writes since {reason}; restart the node once that is repaired")]
    Stopped {
        /// The store's directory.
        path: PathBuf,
        /// The first failure.
        reason: String,
    },
    /// A key is longer than [`MAX_KEY_BYTES`].
    #[error("a key of {bytes} bytes for table {table} is longer than {MAX_KEY_BYTES}")]
    KeyTooLong {
        /// The table it was meant for.
        table: Table,
        /// Its length.
        bytes: usize,
    },
    /// A value is larger than [`MAX_VALUE_BYTES`].
    #[error("a value of {bytes} bytes for table {table} is larger than {MAX_VALUE_BYTES}")]
    ValueTooLarge {
        /// The table it was meant for.
        table: Table,
        /// Its length.
        bytes: usize,
    },
    /// A batch is larger than [`MAX_BATCH_BYTES`].
    #[error("a batch of {ops} operations has {bytes} bytes, more than {MAX_BATCH_BYTES}; split it")]
    BatchTooLarge {
        /// Bytes of the whole batch.
        bytes: usize,
        /// Operations in it.
        ops: usize,
    },
}
