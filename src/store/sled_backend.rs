//! The store on disk: a journal in front, a sled tree behind, and a thread that moves changes from one to the other.
//!
//! ```text
//! apply ──► journal (one record per batch) ──► memtable ──(thread, in key order)──► sled tree
//!                 ▲                               │ ▲                                  ▲
//! flush ── sync ──┘                  get, scan ───┴─┴──────────────────────────────────┘
//! ```
//!
//! Why not batches straight into sled, whose `apply_batch` is atomic? Measured (benches/store.rs): a block of 1,000
//! payments takes it some hundred milliseconds during which no reader gets in, its garbage grows without bound, and
//! `flush` does not reach the disk. Here a batch costs its caller one sequential write and as many insertions into a
//! map; a flush is one sync; and what later batches undo never reaches the tree at all: most coins do not live long,
//! and of a bucket's states only the last one counts.
//!
//! Why a batch is atomic and lasts: it is one checksummed record of the journal. The tree gets single operations in any
//! state of completion, but only of a *generation* (all that one memtable gathered) whose journal is synced; and that
//! journal goes away only when the tree has been synced with all of it. So whatever instant a process is killed at, tree
//! and journals together hold exactly the batches up to some point: opening replays the journals over the tree.
//!
//! Memory is bounded by sled's cache and a few generations: when the thread falls behind, `apply` waits for it.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::backend::{Backend, Entry, Op, StoreError, StoreSize, Table, check_batch};
use super::journal;
use super::lock_file::LockFile;
use super::log_file::{LogFile, sync_dir};
use super::memtable::Memtable;
use super::tree::{Progress, Tree};

/// How many closed generations may wait for the thread before the open one has to grow.
const MAX_WAITING: usize = 2;
/// An open generation that has grown to this multiple of its size, with others waiting, makes `apply` wait.
const MAX_GROWTH: usize = 2;
/// So many operations go into the tree between two looks at whether to stop.
const DRAIN_STEP: usize = 256;
/// While nobody waits for the thread and it has no more to do, it rests for so many times as long as each step took: validators fill their
/// generations at the same rate, so all of them are moved at the same moment, and payments would wait meanwhile.
const REST_FACTOR: u32 = 3;

/// What a store may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SledOptions {
    /// What sled may keep of its pages in memory, in bytes.
    pub cache_bytes: u64,
    /// How much gathers in memory before it moves into the tree, in bytes of memory. Up to four times as much can be
    /// held at once. More means fewer writes, and a longer replay at opening.
    pub generation_bytes: usize,
}

impl Default for SledOptions {
    fn default() -> Self {
        SledOptions {
            cache_bytes: 64 << 20,
            generation_bytes: 16 << 20,
        }
    }
}

/// A generation that takes no more batches and waits to be moved into the tree.
#[derive(Clone)]
struct Closed {
    number: u64,
    table: Arc<Memtable>,
    journal: Arc<Mutex<LogFile>>,
}

/// What readers look through, newest first: `open`, then `closed` from the back, then the tree.
#[derive(Default)]
struct Memory {
    open: Memtable,
    closed: VecDeque<Closed>,
}

/// The journal that is being written.
struct Current {
    number: u64,
    log: Arc<Mutex<LogFile>>,
    /// Held up while the thread fell behind; said once.
    waited: bool,
}

struct Shared {
    dir: PathBuf,
    options: SledOptions,
    tree: Tree,
    /// Taken before `memory` by everything that needs both. Whoever holds it is the only writer.
    current: Mutex<Current>,
    memory: RwLock<Memory>,
    /// A journal file's name may not be on the disk yet.
    new_names: AtomicBool,
    keys: AtomicU64,
    thread: Mutex<ThreadState>,
    /// Told of every change of `thread` and of `memory.closed`.
    changed: Condvar,
    stopping: AtomicBool,
}

#[derive(Default)]
struct ThreadState {
    failed: Option<String>,
    /// How many wait for it to get on.
    waiting: usize,
}

/// A [`Backend`] on disk. Dropping it flushes and stops its thread; what has not reached the tree by then is replayed
/// from the journal when it is opened again.
pub struct SledBackend {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Held as long as the store is open.
    _lock: LockFile,
}

impl SledBackend {
    /// Opens the store in a directory, or makes one there. Journals that a stopped process left are read back; one that
    /// ends in a torn batch is cut off behind its last whole one.
    pub fn open(dir: &Path, options: SledOptions) -> Result<SledBackend, StoreError> {
        std::fs::create_dir_all(dir).map_err(|source| io(dir, "making the store's directory", source))?;
        let lock = lock(dir)?;
        let journals = journal::list(dir).map_err(|source| io(dir, "listing the journals", source))?;
        let (tree, progress) = Tree::open(dir, options.cache_bytes, journals.is_empty())?;
        let recovered = journal::recover(dir, tree.store_id, progress.drained)?;
        let closed: VecDeque<Closed> = recovered.into_iter().map(recovered_generation).collect();
        let number = closed.back().map_or(progress.drained, |last| last.number) + 1;
        let log = journal::create(dir, tree.store_id, number)
            .map_err(|source| io(&journal::path(dir, number), "starting a journal", source))?;
        let log = Arc::new(Mutex::new(log));
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            options,
            tree,
            current: Mutex::new(Current {
                number,
                log,
                waited: false,
            }),
            memory: RwLock::new(Memory {
                open: Memtable::default(),
                closed,
            }),
            new_names: AtomicBool::new(true),
            keys: AtomicU64::new(progress.keys),
            thread: Mutex::new(ThreadState::default()),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let in_thread = shared.clone();
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || {
            step_back();
            in_thread.run();
        });
        let thread = thread.map_err(|source| io(dir, "starting the store's thread", source))?;
        Ok(SledBackend {
            shared,
            thread: Some(thread),
            _lock: lock,
        })
    }

    /// Moves everything into the tree and waits until it is there. Not needed for safety; it makes the next opening
    /// quick and the journals short.
    pub fn settle(&self) -> Result<(), StoreError> {
        let mut current = lock_of(&self.shared.current);
        if !self.shared.read().open.is_empty() {
            self.shared.close_generation(&mut current)?;
        }
        drop(current);
        self.shared.wait_for_waiting(0)
    }
}

/// This thread's work is never urgent: what it moves is on the disk already. Where the system refuses, all is as before.
fn step_back() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, 10);
}

impl Drop for SledBackend {
    fn drop(&mut self) {
        // Best effort: whoever needs to know has called `flush` before.
        let _ = self.flush();
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.announce();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = lock_of(&lock_of(&self.shared.current).log).close();
    }
}

impl Backend for SledBackend {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let memory = self.shared.read();
        for memtable in memory.newest_first() {
            if let Some(found) = memtable.get(table, key) {
                return Ok(found.map(<[u8]>::to_vec));
            }
        }
        self.shared.tree.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        let memory = self.shared.read();
        let mut layers: Vec<_> = memory
            .newest_first()
            .map(|layer| layer.range(table, from).peekable())
            .collect();
        let mut tree = self.shared.tree.range(table, from).peekable();
        let mut found = Vec::new();
        while found.len() < limit {
            if tree.peek().is_some_and(Result::is_err)
                && let Some(Err(error)) = tree.next()
            {
                return Err(error);
            }
            let tree_key = tree
                .peek()
                .and_then(|entry| entry.as_ref().ok())
                .map(|(key, _)| key.as_slice());
            let lowest = layers
                .iter_mut()
                .filter_map(|layer| layer.peek().map(|(key, _)| *key))
                .chain(tree_key)
                .min();
            let Some(key) = lowest.map(<[u8]>::to_vec) else { break };
            let stored = tree.next_if(|entry| entry.as_ref().is_ok_and(|(found, _)| *found == key));
            match take_newest(&mut layers, &key) {
                Some(Some(value)) => found.push((key, value.to_vec())),
                Some(None) => {}
                None => {
                    if let Some(entry) = stored {
                        let value = self.shared.tree.value(table, &key, &entry?.1)?;
                        found.push((key, value));
                    }
                }
            }
        }
        Ok(found)
    }

    fn apply(&self, batch: Vec<Op>) -> Result<(), StoreError> {
        check_batch(&batch)?;
        let record = journal::encode(&batch);
        let shared = &self.shared;
        let mut current = lock_of(&shared.current);
        shared.make_room(&mut current)?;
        let written = lock_of(&current.log).append([record.as_slice()]);
        written.map_err(|source| {
            io(
                &journal::path(&shared.dir, current.number),
                "writing the journal",
                source,
            )
        })?;
        shared.write().open.apply(batch);
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.refuse_if_failed()?;
        let current = lock_of(&shared.current);
        // Oldest first: a younger journal that is on the disk vouches for the older ones.
        let waiting: Vec<_> = shared
            .read()
            .closed
            .iter()
            .map(|closed| closed.journal.clone())
            .collect();
        for log in waiting.iter().chain([&current.log]) {
            shared.sync_journal(log)?;
        }
        Ok(())
    }

    fn size(&self) -> Result<StoreSize, StoreError> {
        let current = lock_of(&self.shared.current).log.clone();
        let waiting: Vec<_> = self
            .shared
            .read()
            .closed
            .iter()
            .map(|closed| closed.journal.clone())
            .collect();
        let journals: u64 = waiting
            .iter()
            .chain([&current])
            .map(|log| lock_of(log).file_bytes())
            .sum();
        let disk_bytes = self.shared.tree.disk_bytes()? + journals;
        Ok(StoreSize {
            disk_bytes,
            keys: self.shared.keys.load(Ordering::Relaxed),
        })
    }
}

/// The state of the key in the newest layer that knows it; all layers move past the key.
fn take_newest<'a, I>(layers: &mut [Peekable<I>], key: &[u8]) -> Option<Option<&'a [u8]>>
where
    I: Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
{
    let mut newest = None;
    for layer in layers {
        if let Some((_, value)) = layer.next_if(|(found, _)| *found == key) {
            newest = newest.or(Some(value));
        }
    }
    newest
}

impl Memory {
    fn newest_first(&self) -> impl Iterator<Item = &Memtable> {
        std::iter::once(&self.open).chain(self.closed.iter().rev().map(|closed| closed.table.as_ref()))
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse_if_failed(&self) -> Result<(), StoreError> {
        match &lock_of(&self.thread).failed {
            Some(reason) => Err(StoreError::Stopped {
                path: self.dir.clone(),
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Closes the open generation when it is full, and waits when the thread is too far behind.
    fn make_room(&self, current: &mut Current) -> Result<(), StoreError> {
        self.refuse_if_failed()?;
        let (bytes, waiting) = {
            let memory = self.read();
            (memory.open.bytes(), memory.closed.len())
        };
        if bytes < self.options.generation_bytes {
            return Ok(());
        }
        if waiting >= MAX_WAITING {
            if bytes < self.options.generation_bytes.saturating_mul(MAX_GROWTH) {
                return Ok(());
            }
            if !std::mem::replace(&mut current.waited, true) {
                tracing::warn!(dir = %self.dir.display(), "the disk does not keep up with the blocks; waiting for it");
            }
            self.wait_for_waiting(MAX_WAITING - 1)?;
        }
        current.waited = false;
        self.close_generation(current)
    }

    fn close_generation(&self, current: &mut Current) -> Result<(), StoreError> {
        let number = current.number + 1;
        let log = journal::create(&self.dir, self.tree.store_id, number)
            .map_err(|source| io(&journal::path(&self.dir, number), "starting a journal", source))?;
        self.new_names.store(true, Ordering::Release);
        let full = std::mem::replace(&mut current.log, Arc::new(Mutex::new(log)));
        let mut memory = self.write();
        let table = Arc::new(std::mem::take(&mut memory.open));
        memory.closed.push_back(Closed {
            number: current.number,
            table,
            journal: full,
        });
        drop(memory);
        current.number = number;
        self.announce();
        Ok(())
    }

    /// Waits until no more than so many closed generations are left.
    fn wait_for_waiting(&self, at_most: usize) -> Result<(), StoreError> {
        let mut thread = lock_of(&self.thread);
        thread.waiting += 1;
        self.changed.notify_all();
        while self.read().closed.len() > at_most && thread.failed.is_none() {
            thread = self.changed.wait(thread).unwrap_or_else(PoisonError::into_inner);
        }
        thread.waiting -= 1;
        drop(thread);
        self.refuse_if_failed()
    }

    fn sync_journal(&self, log: &Mutex<LogFile>) -> Result<(), StoreError> {
        let mut log = lock_of(log);
        log.sync()
            .map_err(|source| io(log.path(), "syncing the journal", source))?;
        if self.new_names.swap(false, Ordering::AcqRel) {
            sync_dir(&self.dir).map_err(|source| {
                self.new_names.store(true, Ordering::Release);
                io(&self.dir, "syncing the store's directory", source)
            })?;
        }
        Ok(())
    }

    /// The thread: takes the oldest closed generation, moves it into the tree, removes its journal, and so on.
    fn run(&self) {
        while let Some(closed) = self.next_closed() {
            // sled asserts what it expects of its file and of the disk.
            let drained = std::panic::catch_unwind(AssertUnwindSafe(|| self.drain(&closed)));
            let failure = match drained {
                Ok(Ok(true)) => {
                    self.announce();
                    continue;
                }
                Ok(Ok(false)) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "sled panicked while it was written to (its words are on standard error)".to_owned(),
            };
            tracing::error!(failure, "the store cannot write its tree and takes no more blocks");
            lock_of(&self.thread).failed = Some(failure);
            return self.announce();
        }
    }

    /// Wakes whoever waits for a change. Taking the lock first makes sure that nobody is between looking and waiting.
    fn announce(&self) {
        drop(lock_of(&self.thread));
        self.changed.notify_all();
    }

    /// Waits for work; `None` when the store is being closed.
    fn next_closed(&self) -> Option<Closed> {
        let mut thread = lock_of(&self.thread);
        loop {
            if self.stopping.load(Ordering::Acquire) {
                return None;
            }
            if let Some(closed) = self.read().closed.front() {
                return Some(closed.clone());
            }
            thread = self.changed.wait(thread).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets others work, unless somebody waits for this thread.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut thread = lock_of(&self.thread);
        while thread.waiting == 0 && self.read().closed.len() == 1 && !self.stopping.load(Ordering::Acquire) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.changed.wait_timeout(thread, left);
            thread = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Moves one generation into the tree; `false` if it was interrupted by the closing of the store.
    fn drain(&self, closed: &Closed) -> Result<bool, StoreError> {
        self.sync_journal(&closed.journal)?;
        let mut writer = self.tree.writer()?;
        let mut keys = self.keys.load(Ordering::Relaxed);
        let mut finished = true;
        let mut step = Instant::now();
        for (count, (table, key, value)) in closed.table.iter().enumerate() {
            if count % DRAIN_STEP == DRAIN_STEP - 1 {
                collect_garbage();
                self.tree.note(Progress {
                    drained: closed.number - 1,
                    keys,
                })?;
                self.rest(step.elapsed() * REST_FACTOR);
                step = Instant::now();
                if self.stopping.load(Ordering::Acquire) {
                    finished = false;
                    break;
                }
            }
            keys = keys.saturating_add_signed(writer.set(table, key, value)?);
            self.keys.store(keys, Ordering::Relaxed);
        }
        let drained = if finished { closed.number } else { closed.number - 1 };
        self.tree.note(Progress { drained, keys })?;
        self.tree.sync()?;
        if finished {
            // The readers' lock, since a reader that missed a key in the memtables goes on to the tree.
            self.write().closed.pop_front();
            journal::remove(&self.dir, closed.number)?;
        }
        collect_garbage();
        Ok(finished)
    }
}

/// sled frees memory through this collector, a few dozen pieces at a time and only as its epoch moves on; asking it
/// keeps pace with what the operations leave behind.
fn collect_garbage() {
    for _ in 0..4 {
        crossbeam_epoch::pin().flush();
    }
}

fn recovered_generation(recovered: journal::Recovered) -> Closed {
    let mut table = Memtable::default();
    let batches = recovered.batches.len();
    for batch in recovered.batches {
        table.apply(batch);
    }
    let (generation, torn_bytes) = (recovered.generation, recovered.torn_bytes);
    tracing::info!(generation, batches, torn_bytes, "journal read back");
    Closed {
        number: generation,
        table: Arc::new(table),
        journal: Arc::new(Mutex::new(recovered.log)),
    }
}

fn lock(dir: &Path) -> Result<LockFile, StoreError> {
    let name = dir.join("lock");
    let taken = LockFile::take(&name).map_err(|source| io(&name, "locking", source))?;
    taken.ok_or_else(|| StoreError::Locked {
        path: dir.to_owned(),
        lock: name,
    })
}

// A poisoned lock means that a thread panicked while it held it; what these locks guard is changed in single steps, and
// an error on the way is kept in the guarded value itself.
fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn io(path: &Path, doing: &'static str, source: std::io::Error) -> StoreError {
    StoreError::Io {
        path: path.to_owned(),
        doing,
        source,
    }
}
