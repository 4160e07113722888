//! The sled tree under the store: one tree for all tables, keys led by the table's byte, large values in pieces.
//!
//! What of sled's behaviour shapes this module (version 0.34.7):
//!
//! - A leaf holds up to some 16 entries whatever their size. A page beyond a quarter of a segment goes into a file of
//!   its own, which sled never syncs. So values are cut into pieces so small that no page ever grows that far.
//! - `flush` waits for the kernel to hand the pages to the device and no more: neither the file's length nor the
//!   device's cache is seen to. So the file is synced here after it.
//! - Space is only given back by the thread that also flushes by itself; hence its interval is not turned off.
//! - `apply_batch` holds its garbage until its end and keeps all readers out. It is not used: the journal makes a batch
//!   atomic, and the tree takes single operations that may be repeated.

use std::collections::BTreeSet;
use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::backend::{StoreError, Table};
use super::log_file::sync_dir;

/// The layout of keys and values described here, and the set of tables.
pub(super) const SCHEMA: u32 = 1;
/// Part of sled's files: it cannot be changed for a store that exists.
const SEGMENT_BYTES: usize = 1 << 19;
/// 17 entries of this size stay below the quarter of a segment.
const PIECE_BYTES: usize = 7 << 10;
/// How often sled looks for segments to empty and reuse.
const CLEAN_EVERY_MS: u64 = 2_000;
/// How often and how long to wait for sled's own lock.
const LOCK_TRIES: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Set in the table's byte for the pieces of large values.
const PIECES: u8 = 0x80;
/// First byte of what the store keeps for itself; no table has it.
const OWN: u8 = 0;

const SCHEMA_KEY: [u8; 2] = [OWN, 1];
const STORE_ID_KEY: [u8; 2] = [OWN, 2];
const PROGRESS_KEY: [u8; 2] = [OWN, 3];

/// First byte of a stored value.
const WHOLE: u8 = 0;
/// Followed by the value's length as u32; the bytes are in pieces.
const IN_PIECES: u8 = 1;

/// What has been moved from the journal into the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// All generations up to this one are in the tree.
    pub drained: u64,
    /// Keys over all tables.
    pub keys: u64,
}

/// The tree on disk.
pub(super) struct Tree {
    db: sled::Db,
    dir: PathBuf,
    /// A second handle on sled's file, to sync it with.
    file: File,
    pub store_id: u64,
}

impl Tree {
    /// Opens or makes the tree. A new one may only be made where there are no journals, as they would belong to a tree
    /// that is gone.
    pub fn open(dir: &Path, cache_bytes: u64, may_create: bool) -> Result<(Tree, Progress), StoreError> {
        let sled_dir = dir.join("tree");
        let db = open_sled(dir, &sled_dir, cache_bytes)?;
        let file = File::open(sled_dir.join("db")).map_err(|source| StoreError::Io {
            path: sled_dir.clone(),
            doing: "opening the tree's file",
            source,
        })?;
        let mut tree = Tree {
            db,
            dir: dir.to_owned(),
            file,
            store_id: 0,
        };
        let progress = match tree.raw_get(&SCHEMA_KEY)? {
            Some(schema) => tree.check(&schema)?,
            None if !tree.db.is_empty() || !may_create => {
                return Err(tree.corrupt("journals or tables are there, but the tree's schema entry is not"));
            }
            None => tree.initialise(&sled_dir)?,
        };
        Ok((tree, progress))
    }

    fn check(&mut self, schema: &[u8]) -> Result<Progress, StoreError> {
        if schema != SCHEMA.to_le_bytes() {
            let found = match schema.try_into() {
                Ok(bytes) => u32::from_le_bytes(bytes).to_string(),
                Err(_) => format!("0x{}", hex::encode(schema)),
            };
            return Err(StoreError::Schema {
                path: self.dir.clone(),
                found,
                supported: SCHEMA,
            });
        }
        let id = self
            .raw_get(&STORE_ID_KEY)?
            .and_then(|bytes| bytes.as_ref().try_into().ok());
        self.store_id = id
            .map(u64::from_le_bytes)
            .ok_or_else(|| self.corrupt("the tree has no store id"))?;
        let progress = self.raw_get(&PROGRESS_KEY)?;
        let progress = progress
            .as_deref()
            .and_then(|bytes| bytes.split_at_checked(8))
            .and_then(|(drained, keys)| {
                let drained = u64::from_le_bytes(drained.try_into().ok()?);
                Some(Progress {
                    drained,
                    keys: u64::from_le_bytes(keys.try_into().ok()?),
                })
            });
        progress.ok_or_else(|| self.corrupt("the tree does not say which journals it holds"))
    }

    /// The schema entry comes last: a tree that has it has everything else.
    fn initialise(&mut self, sled_dir: &Path) -> Result<Progress, StoreError> {
        self.store_id = rand::random();
        self.raw_put(&STORE_ID_KEY, &self.store_id.to_le_bytes())?;
        self.note(Progress::default())?;
        self.sync()?;
        self.raw_put(&SCHEMA_KEY, &SCHEMA.to_le_bytes())?;
        self.sync()?;
        for dir in [sled_dir, self.dir.as_path()] {
            sync_dir(dir).map_err(|source| self.io("syncing the store's directories", source))?;
        }
        Ok(Progress::default())
    }

    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.raw_get(&raw_key(table.code(), key))? {
            Some(stored) => self.value(table, key, &stored).map(Some),
            None => Ok(None),
        }
    }

    /// The entries of a table from a key on, as they are stored: [`Tree::value`] makes values of them.
    pub fn range(&self, table: Table, from: &[u8]) -> impl Iterator<Item = Result<(Vec<u8>, sled::IVec), StoreError>> {
        let entries = self.db.range(raw_key(table.code(), from)..vec![table.code() + 1]);
        entries.map(|entry| match entry {
            Ok((key, stored)) => Ok((key[1..].to_vec(), stored)),
            Err(error) => Err(self.engine("reading", &error)),
        })
    }

    /// Puts a value together from what is stored under its key.
    pub fn value(&self, table: Table, key: &[u8], stored: &[u8]) -> Result<Vec<u8>, StoreError> {
        match stored.split_first() {
            Some((&WHOLE, value)) => Ok(value.to_vec()),
            Some((&IN_PIECES, _)) => self.collect(table, key, stored),
            _ => Err(self.corrupt_entry(table, key, "has an unknown form")),
        }
    }

    fn collect(&self, table: Table, key: &[u8], stored: &[u8]) -> Result<Vec<u8>, StoreError> {
        let length =
            pieces_len(stored).ok_or_else(|| self.corrupt_entry(table, key, "has a head that is cut short"))?;
        let mut value = Vec::with_capacity(length);
        for number in 0..piece_count(length) {
            let piece = self.raw_get(&piece_key(table, key, number))?;
            value.extend_from_slice(&piece.ok_or_else(|| self.corrupt_entry(table, key, "lacks a piece"))?);
        }
        if value.len() != length {
            return Err(self.corrupt_entry(table, key, "has pieces of a wrong length"));
        }
        Ok(value)
    }

    /// Starts moving changes into the tree.
    pub fn writer(&self) -> Result<Writer<'_>, StoreError> {
        // Whether any value of a table is in pieces decides if each write to it must look for pieces to remove.
        let mut with_pieces = BTreeSet::new();
        for table in Table::ALL {
            let code = table.code() | PIECES;
            let first = self.db.range(vec![code]..vec![code + 1]).next();
            if first
                .transpose()
                .map_err(|error| self.engine("reading", &error))?
                .is_some()
            {
                with_pieces.insert(table);
            }
        }
        Ok(Writer {
            tree: self,
            with_pieces,
        })
    }

    pub fn note(&self, progress: Progress) -> Result<(), StoreError> {
        let mut value = progress.drained.to_le_bytes().to_vec();
        value.extend_from_slice(&progress.keys.to_le_bytes());
        self.raw_put(&PROGRESS_KEY, &value).map(drop)
    }

    /// Brings the tree to the disk.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|error| self.engine("flushing", &error))?;
        self.file
            .sync_data()
            .map_err(|source| self.io("syncing the tree's file", source))
    }

    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.db.size_on_disk().map_err(|error| self.engine("measuring", &error))
    }

    fn raw_get(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.db.get(key).map_err(|error| self.engine("reading", &error))
    }

    /// Says whether the key was there.
    fn raw_put(&self, key: &[u8], value: &[u8]) -> Result<bool, StoreError> {
        let before = self
            .db
            .insert(key, value)
            .map_err(|error| self.engine("writing", &error))?;
        Ok(before.is_some())
    }

    fn raw_remove(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self
            .db
            .remove(key)
            .map_err(|error| self.engine("removing", &error))?
            .is_some())
    }

    fn engine(&self, doing: &'static str, error: &sled::Error) -> StoreError {
        match error {
            sled::Error::Corruption { .. } => self.corrupt(&format!("{doing} found {error}")),
            _ => StoreError::Engine {
                path: self.dir.clone(),
                doing,
                reason: error.to_string(),
            },
        }
    }

    fn io(&self, doing: &'static str, source: std::io::Error) -> StoreError {
        StoreError::Io {
            path: self.dir.clone(),
            doing,
            source,
        }
    }

    fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt {
            path: self.dir.clone(),
            what: what.to_owned(),
        }
    }

    fn corrupt_entry(&self, table: Table, key: &[u8], what: &str) -> StoreError {
        self.corrupt(&format!("the entry {} of table {table} {what}", hex::encode(key)))
    }
}

/// Puts and removes single entries; repeating what was done before changes nothing.
pub(super) struct Writer<'a> {
    tree: &'a Tree,
    with_pieces: BTreeSet<Table>,
}

impl Writer<'_> {
    /// Sets or removes an entry and says by how many keys the table has grown.
    pub fn set(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<i64, StoreError> {
        self.remove_pieces(table, key)?;
        let raw = raw_key(table.code(), key);
        let Some(value) = value else {
            return Ok(-i64::from(self.tree.raw_remove(&raw)?));
        };
        let mut stored = Vec::with_capacity(1 + value.len().min(PIECE_BYTES));
        if value.len() <= PIECE_BYTES {
            stored.push(WHOLE);
            stored.extend_from_slice(value);
        } else {
            self.put_pieces(table, key, value)?;
            stored.push(IN_PIECES);
            stored.extend_from_slice(&(value.len() as u32).to_le_bytes());
        }
        Ok(i64::from(!self.tree.raw_put(&raw, &stored)?))
    }

    /// A reader meanwhile takes the entry from the memtable, so it never sees the pieces of two values.
    fn remove_pieces(&self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        if !self.with_pieces.contains(&table) {
            return Ok(());
        }
        let stored = self.tree.raw_get(&raw_key(table.code(), key))?;
        let Some(length) = stored.as_deref().and_then(pieces_len) else {
            return Ok(());
        };
        for number in 0..piece_count(length) {
            self.tree.raw_remove(&piece_key(table, key, number))?;
        }
        Ok(())
    }

    fn put_pieces(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.with_pieces.insert(table);
        for (number, piece) in value.chunks(PIECE_BYTES).enumerate() {
            self.tree.raw_put(&piece_key(table, key, number), piece)?;
        }
        Ok(())
    }
}

fn raw_key(first: u8, key: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(1 + key.len());
    raw.push(first);
    raw.extend_from_slice(key);
    raw
}

/// Two entries never share a piece's key: keys of one length differ, and so do those of different lengths.
fn piece_key(table: Table, key: &[u8], number: usize) -> Vec<u8> {
    let mut raw = raw_key(table.code() | PIECES, key);
    raw.extend_from_slice(&(number as u32).to_be_bytes());
    raw
}

fn piece_count(length: usize) -> usize {
    length.div_ceil(PIECE_BYTES)
}

/// The length of a value that is in pieces.
fn pieces_len(stored: &[u8]) -> Option<usize> {
    let length = stored.strip_prefix(&[IN_PIECES])?;
    Some(u32::from_le_bytes(length.try_into().ok()?) as usize)
}

/// Opens sled. The store's own lock is held by then, so if sled's is still taken, that is by a thread of an instance
/// which was dropped a moment ago: it is waited for.
fn open_sled(dir: &Path, sled_dir: &Path, cache_bytes: u64) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(sled_dir)
        .cache_capacity(cache_bytes)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(Some(CLEAN_EVERY_MS));
    for _ in 0..LOCK_TRIES {
        match try_open_sled(dir, sled_dir, &config) {
            Err(StoreError::Locked { .. }) => std::thread::sleep(LOCK_PAUSE),
            opened => return opened,
        }
    }
    try_open_sled(dir, sled_dir, &config)
}

/// sled reports some kinds of damage by panicking.
fn try_open_sled(dir: &Path, sled_dir: &Path, config: &sled::Config) -> Result<sled::Db, StoreError> {
    let path = dir.to_owned();
    match std::panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(source))) if source.to_string().contains("could not acquire lock") => {
            Err(StoreError::Locked {
                path,
                lock: sled_dir.join("db"),
            })
        }
        Ok(Err(sled::Error::Io(source))) => Err(StoreError::Io {
            path,
            doing: "opening the tree",
            source,
        }),
        Ok(Err(error)) => Err(StoreError::Corrupt {
            path,
            what: format!("opening the tree: {error}"),
        }),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no word why");
            Err(StoreError::Corrupt {
                path,
                what: format!("opening the tree ended in a panic: {said}"),
            })
        }
    }
}
