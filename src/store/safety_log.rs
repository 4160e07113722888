//! The safety log (protocol, section 7): what a validator has signed, on the disk before the first byte of it is sent.
//!
//! Records are opaque here; what they mean, and which of them are still needed, is known above. The promises:
//!
//! - What [`SafetyLog::sync`] has confirmed is handed back by every later [`SafetyLog::open`], until
//!   [`SafetyLog::rewrite`] replaces it.
//! - What was appended after the last sync may be lost from some record on, never from the middle, and how many bytes
//!   were cut off is said.
//! - Confirmed records that cannot be read any more are an error ([`SafetyLogError::Damaged`]) and nothing is cut off:
//!   a validator that forgets its votes may contradict them. How damage and a torn tail are told apart, and what
//!   cannot be told, is written in the `log_file` module.
//! - One process at a time has the log. The lock is on a file beside it, so it outlives the log's replacement.
//!
//! The file belongs to one consensus key on one chain, and says so in its header.

use std::io;
use std::path::{Path, PathBuf};

use super::lock_file::LockFile;
use super::log_file::{Damage, Encoder, HEADER_BYTES, Header, HeaderError, LogFile, Replay, parent, replay, sync_dir};

/// Largest record, in bytes.
pub const MAX_RECORD_BYTES: usize = 16 << 20;
/// The log's file grows by this many bytes at a time. Small, because the append that crosses a boundary waits until
/// the zeros are written; 1 MiB is a few thousand payments' worth of votes.
const PREPARED_BYTES: u64 = 1 << 20;
const MAGIC: [u8; 8] = *b"TIMESAFE";

/// Why the safety log cannot be used. None of these changes or removes anything; none may be answered by deleting the
/// log, since a validator without it has to stay silent until the next epoch.
#[derive(Debug, thiserror::Error)]
pub enum SafetyLogError {
    /// There is no log.
    #[error(
        "there is no safety log at {path}. If this key has never voted, make one; if it has, the key must stay silent \
         until the next epoch, for what it voted is not known any more"
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A log is there already.
    #[error("there is a safety log at {path} already; it is never overwritten")]
    Exists {
        /// Where it is.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error(
        "the safety log is in use by another process, which holds the lock {lock}. Two validators with one key would \
         contradict each other: stop the other one"
    )]
    Locked {
        /// The lock file.
        lock: PathBuf,
    },
    /// The file does not begin as a safety log does.
    #[error("{path} is not a safety log that can be read: {what}. Restore it from where it was moved or damaged")]
    NotALog {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// It is the log of another validator.
    #[error("the safety log at {path} belongs to the consensus key {found}, not to {expected}; check which key is set")]
    WrongKey {
        /// The file.
        path: PathBuf,
        /// The key in its header, in hex.
        found: String,
        /// The key that was asked for, in hex.
        expected: String,
    },
    /// It is a log of another network.
    #[error("the safety log at {path} belongs to the chain {found}, not to {expected}; check which genesis is set")]
    WrongChain {
        /// The file.
        path: PathBuf,
        /// The chain id in its header, in hex.
        found: String,
        /// The chain id that was asked for, in hex.
        expected: String,
    },
    /// Records that were confirmed do not check any more.
    #[error(
        "the safety log at {path} is damaged: the record at byte {offset} had been synced (the one at byte {proof} \
         says so) and cannot be read. Votes may be forgotten, so this validator must not vote. Check the disk, keep the \
         file, and let the key stay silent until the next epoch"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the unreadable record starts.
        offset: u64,
        /// Where the whole record stands that was written after the unreadable one had been synced.
        proof: u64,
    },
    /// A record is larger than [`MAX_RECORD_BYTES`]; nothing of its group was written.
    #[error("record {index} of {of} has {bytes} bytes, more than {MAX_RECORD_BYTES}; nothing was written")]
    TooLarge {
        /// Its place in the group, from 0.
        index: usize,
        /// How many records were to be written.
        of: usize,
        /// Its length.
        bytes: usize,
    },
    /// The operating system refused. After a failed write or sync the log takes nothing more.
    #[error("{doing} failed at {path}: {source}; the validator must stop, since it cannot remember what it signs")]
    Io {
        /// The file or directory concerned.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

/// What opening a log found beside its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of unconfirmed records that were torn and have been cut off; 0 after an orderly stop.
    pub torn_bytes: u64,
}

/// A validator's safety log, open for appending and locked against other processes.
pub struct SafetyLog {
    log: LogFile,
    identity: [u8; 64],
    /// Held as long as the log is open.
    _lock: LockFile,
}

impl SafetyLog {
    /// Makes an empty log for a key that has never voted on this chain. Fails if there is one; when this returns, the
    /// log and its name are on the disk. A crash on the way leaves no log.
    pub fn create(path: &Path, public_key: [u8; 32], chain_id: [u8; 32]) -> Result<(), SafetyLogError> {
        let _lock = lock(path)?;
        match path.try_exists() {
            Ok(false) => {}
            Ok(true) => return Err(SafetyLogError::Exists { path: path.to_owned() }),
            Err(source) => return Err(io_error(path, "looking for the safety log", source)),
        }
        write_whole(path, identity(public_key, chain_id), &[]).map(drop)
    }

    /// Opens the log and hands back its records in order. A torn tail is cut off; what is handed back is on the disk.
    pub fn open(
        path: &Path,
        public_key: [u8; 32],
        chain_id: [u8; 32],
    ) -> Result<(SafetyLog, Vec<Vec<u8>>, Opened), SafetyLogError> {
        let lock = lock(path)?;
        remove_leftover(path)?;
        let bytes = std::fs::read(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => SafetyLogError::Missing { path: path.to_owned() },
            _ => io_error(path, "reading the safety log", source),
        })?;
        let header = Header::decode(&bytes, MAGIC).map_err(|what: HeaderError| SafetyLogError::NotALog {
            path: path.to_owned(),
            what: what.to_string(),
        })?;
        check_identity(path, &header.identity, &public_key, &chain_id)?;
        let replay = replay(&bytes, header.tag()).map_err(|damage| damaged(path, damage))?;
        let log = LogFile::open(path, &header, &replay, PREPARED_BYTES)
            .map_err(|source| io_error(path, "opening the safety log for writing", source))?;
        let opened = Opened {
            torn_bytes: replay.torn_bytes,
        };
        Ok((
            SafetyLog {
                log,
                identity: header.identity,
                _lock: lock,
            },
            replay.records,
            opened,
        ))
    }

    /// Appends records with one write. They are not safe before [`SafetyLog::sync`] has returned.
    pub fn append(&mut self, records: &[Vec<u8>]) -> Result<(), SafetyLogError> {
        check_sizes(records)?;
        let appended = self.log.append(records.iter().map(Vec::as_slice));
        appended.map_err(|source| io_error(self.log.path(), "appending to the safety log", source))
    }

    /// Brings everything appended so far to the disk. After an error nothing is known about the records since the last
    /// sync, and the log refuses to go on.
    pub fn sync(&mut self) -> Result<(), SafetyLogError> {
        self.log
            .sync()
            .map_err(|source| io_error(self.log.path(), "syncing the safety log", source))
    }

    /// Replaces the log by one that holds only `live`, on the disk when this returns. Killed at any instant, either the
    /// old log or the new one is there, whole; an error leaves the old one in use unless it says that the directory
    /// could not be synced.
    pub fn rewrite(&mut self, live: &[Vec<u8>]) -> Result<(), SafetyLogError> {
        check_sizes(live)?;
        let path = self.log.path().to_owned();
        self.log = write_whole(&path, self.identity, live)?;
        Ok(())
    }

    /// Bytes of the log, without the space prepared for later records.
    pub fn len_bytes(&self) -> u64 {
        self.log.end()
    }
}

impl Drop for SafetyLog {
    /// Marks an orderly end. Should that fail, only the telling of later damage suffers.
    fn drop(&mut self) {
        let _ = self.log.close();
    }
}

/// Writes a whole log under a name of its own, syncs it, and moves it to its place.
fn write_whole(path: &Path, identity: [u8; 64], records: &[Vec<u8>]) -> Result<LogFile, SafetyLogError> {
    remove_leftover(path)?;
    let new = beside(path, "new");
    let header = Header {
        magic: MAGIC,
        nonce: rand::random(),
        identity,
    };
    let write = || {
        let mut log = LogFile::create(&new, &header, PREPARED_BYTES)?;
        log.append(records.iter().map(Vec::as_slice))?;
        log.sync_new()?;
        std::fs::rename(&new, path)?;
        Ok(log)
    };
    let mut log = write().map_err(|source| io_error(&new, "writing a new safety log", source))?;
    log.renamed(path);
    sync_dir(parent(path)).map_err(|source| io_error(parent(path), "syncing the directory", source))?;
    Ok(log)
}

/// A log that was being written when the process died was never in use.
fn remove_leftover(path: &Path) -> Result<(), SafetyLogError> {
    let new = beside(path, "new");
    match std::fs::remove_file(&new) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(io_error(&new, "removing an unfinished safety log", source))
        }
        _ => Ok(()),
    }
}

fn lock(path: &Path) -> Result<LockFile, SafetyLogError> {
    let name = beside(path, "lock");
    let taken = LockFile::take(&name).map_err(|source| io_error(&name, "locking", source))?;
    taken.ok_or(SafetyLogError::Locked { lock: name })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn identity(public_key: [u8; 32], chain_id: [u8; 32]) -> [u8; 64] {
    let mut identity = [0; 64];
    identity[..32].copy_from_slice(&public_key);
    identity[32..].copy_from_slice(&chain_id);
    identity
}

fn check_identity(path: &Path, found: &[u8; 64], key: &[u8; 32], chain: &[u8; 32]) -> Result<(), SafetyLogError> {
    let path = path.to_owned();
    if found[..32] != key[..] {
        let (found, expected) = (hex::encode(&found[..32]), hex::encode(key));
        return Err(SafetyLogError::WrongKey { path, found, expected });
    }
    if found[32..] != chain[..] {
        let (found, expected) = (hex::encode(&found[32..]), hex::encode(chain));
        return Err(SafetyLogError::WrongChain { path, found, expected });
    }
    Ok(())
}

fn check_sizes(records: &[Vec<u8>]) -> Result<(), SafetyLogError> {
    match records.iter().position(|record| record.len() > MAX_RECORD_BYTES) {
        Some(index) => Err(SafetyLogError::TooLarge {
            index,
            of: records.len(),
            bytes: records[index].len(),
        }),
        None => Ok(()),
    }
}

fn io_error(path: &Path, doing: &'static str, source: io::Error) -> SafetyLogError {
    SafetyLogError::Io {
        path: path.to_owned(),
        doing,
        source,
    }
}

fn damaged(path: &Path, damage: Damage) -> SafetyLogError {
    SafetyLogError::Damaged {
        path: path.to_owned(),
        offset: damage.offset,
        proof: damage.proof,
    }
}

/// The safety log without a disk, for the simulator: the same bytes, the same reading after a crash, and the part that
/// a crash tears is chosen by the caller. Deterministic.
pub struct MemoryLog {
    header: Header,
    bytes: Vec<u8>,
    encoder: Encoder,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> MemoryLog {
        Self::with_nonce(1)
    }

    fn with_nonce(nonce: u64) -> MemoryLog {
        let header = Header {
            magic: MAGIC,
            nonce,
            identity: [0; 64],
        };
        let encoder = Encoder::new(header.tag(), HEADER_BYTES as u64, HEADER_BYTES as u64);
        MemoryLog {
            bytes: header.encode().to_vec(),
            header,
            encoder,
        }
    }

    /// Like [`SafetyLog::append`].
    pub fn append(&mut self, records: &[Vec<u8>]) -> Result<(), SafetyLogError> {
        check_sizes(records)?;
        self.encoder.append(records.iter().map(Vec::as_slice), &mut self.bytes);
        Ok(())
    }

    /// Like [`SafetyLog::sync`].
    pub fn sync(&mut self) -> Result<(), SafetyLogError> {
        self.encoder.synced_to = self.encoder.end;
        Ok(())
    }

    /// Like [`SafetyLog::rewrite`].
    pub fn rewrite(&mut self, live: &[Vec<u8>]) -> Result<(), SafetyLogError> {
        check_sizes(live)?;
        let mut new = Self::with_nonce(self.header.nonce + 1);
        new.append(live)?;
        new.sync()?;
        *self = new;
        Ok(())
    }

    /// Like [`SafetyLog::len_bytes`].
    pub fn len_bytes(&self) -> u64 {
        self.encoder.end
    }

    /// How many bytes a crash could tear off.
    pub fn unsynced_bytes(&self) -> usize {
        (self.encoder.end - self.encoder.synced_to) as usize
    }

    /// What a validator finds whose machine went down now: all that was synced, and the first `keep_unsynced_bytes` of
    /// what was appended since, read back the way a file is.
    pub fn crash(&self, keep_unsynced_bytes: usize) -> Result<(MemoryLog, Vec<Vec<u8>>, Opened), SafetyLogError> {
        let kept = self.encoder.synced_to as usize + keep_unsynced_bytes.min(self.unsynced_bytes());
        let mut bytes = self.bytes[..kept].to_vec();
        let name = Path::new("a safety log in memory");
        let Replay {
            records,
            end,
            torn_bytes,
            ..
        } = replay(&bytes, self.header.tag()).map_err(|damage| damaged(name, damage))?;
        bytes.truncate(end as usize);
        let encoder = Encoder::new(self.header.tag(), end, end);
        Ok((
            MemoryLog {
                header: self.header.clone(),
                bytes,
                encoder,
            },
            records,
            Opened { torn_bytes },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [1; 32];
    const CHAIN: [u8; 32] = [2; 32];

    fn new_log(dir: &tempfile::TempDir) -> PathBuf {
        let path = dir.path().join("safety.log");
        SafetyLog::create(&path, KEY, CHAIN).unwrap();
        path
    }

    fn open(path: &Path) -> (SafetyLog, Vec<Vec<u8>>, Opened) {
        SafetyLog::open(path, KEY, CHAIN).unwrap()
    }

    /// Stops as a killed process does: without the mark of an orderly end.
    fn kill(mut log: SafetyLog) {
        log.log.abandon();
    }

    #[test]
    fn records_come_back_in_order_over_restarts_and_rewrites() {
        let dir = tempfile::tempdir().unwrap();
        let path = new_log(&dir);
        let (mut log, records, opened) = open(&path);
        assert!(records.is_empty() && opened.torn_bytes == 0);
        log.append(&[b"a".to_vec(), Vec::new()]).unwrap();
        log.append(&[vec![0; 3 << 20]]).unwrap();
        log.sync().unwrap();
        drop(log);
        let (mut log, records, _) = open(&path);
        assert_eq!(records, [b"a".to_vec(), Vec::new(), vec![0; 3 << 20]]);
        log.append(&[b"b".to_vec()]).unwrap();
        log.sync().unwrap();
        let before = log.len_bytes();
        log.rewrite(&[b"b".to_vec()]).unwrap();
        assert!(log.len_bytes() < before);
        log.append(&[b"c".to_vec()]).unwrap();
        log.sync().unwrap();
        kill(log);
        assert_eq!(open(&path).1, [b"b".to_vec(), b"c".to_vec()]);
        assert!(!beside(&path, "new").exists());
    }

    #[test]
    fn a_log_is_neither_overwritten_nor_taken_for_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("safety.log");
        assert!(matches!(
            SafetyLog::open(&path, KEY, CHAIN),
            Err(SafetyLogError::Missing { .. })
        ));
        SafetyLog::create(&path, KEY, CHAIN).unwrap();
        assert!(matches!(
            SafetyLog::create(&path, KEY, CHAIN),
            Err(SafetyLogError::Exists { .. })
        ));
        assert!(matches!(
            SafetyLog::open(&path, CHAIN, CHAIN),
            Err(SafetyLogError::WrongKey { .. })
        ));
        assert!(matches!(
            SafetyLog::open(&path, KEY, KEY),
            Err(SafetyLogError::WrongChain { .. })
        ));
        let (log, ..) = open(&path);
        let second = SafetyLog::open(&path, KEY, CHAIN).err().unwrap();
        assert!(second.to_string().contains("safety.log.lock"), "{second}");
        assert!(matches!(
            SafetyLog::create(&path, KEY, CHAIN),
            Err(SafetyLogError::Locked { .. })
        ));
        drop(log);
        let text = dir.path().join("other");
        std::fs::write(&text, "not a log, but long enough to be one. ".repeat(9)).unwrap();
        assert!(matches!(
            SafetyLog::open(&text, KEY, CHAIN),
            Err(SafetyLogError::NotALog { .. })
        ));
        std::fs::write(&text, "").unwrap();
        assert!(matches!(
            SafetyLog::open(&text, KEY, CHAIN),
            Err(SafetyLogError::NotALog { .. })
        ));
    }

    #[test]
    fn a_rewrite_that_was_cut_short_leaves_the_old_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = new_log(&dir);
        let (mut log, ..) = open(&path);
        log.append(&[b"old".to_vec()]).unwrap();
        log.sync().unwrap();
        kill(log);
        std::fs::write(beside(&path, "new"), b"half of a new one").unwrap();
        let (mut log, records, _) = open(&path);
        assert_eq!(records, [b"old".to_vec()]);
        assert!(!beside(&path, "new").exists());
        log.rewrite(&[b"new".to_vec()]).unwrap();
        drop(log);
        assert_eq!(open(&path).1, [b"new".to_vec()]);
    }

    #[test]
    fn a_record_too_large_refuses_its_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let path = new_log(&dir);
        let (mut log, ..) = open(&path);
        let group = [b"small".to_vec(), vec![1; MAX_RECORD_BYTES + 1]];
        let bytes = MAX_RECORD_BYTES + 1;
        assert!(
            matches!(log.append(&group), Err(SafetyLogError::TooLarge { index: 1, of: 2, bytes: b }) if b == bytes)
        );
        assert!(matches!(log.rewrite(&group), Err(SafetyLogError::TooLarge { .. })));
        log.append(&[vec![1; MAX_RECORD_BYTES]]).unwrap();
        log.sync().unwrap();
        drop(log);
        assert_eq!(open(&path).1, [vec![1; MAX_RECORD_BYTES]]);
    }

    #[test]
    fn a_bad_record_before_a_synced_one_is_damage_and_nothing_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = new_log(&dir);
        let (mut log, ..) = open(&path);
        for record in [b"first", b"secnd"] {
            log.append(&[record.to_vec()]).unwrap();
            log.sync().unwrap();
        }
        kill(log);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[HEADER_BYTES + 25] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let error = SafetyLog::open(&path, KEY, CHAIN).err().unwrap();
        assert!(
            matches!(error, SafetyLogError::Damaged { offset, .. } if offset == HEADER_BYTES as u64),
            "unexpected: {error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), bad);
        // After an orderly end even the last record is covered.
        std::fs::write(&path, &good).unwrap();
        drop(open(&path));
        let mut bad = std::fs::read(&path).unwrap();
        let last = bad.windows(5).position(|window| window == b"secnd").unwrap();
        bad[last] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(
            SafetyLog::open(&path, KEY, CHAIN),
            Err(SafetyLogError::Damaged { .. })
        ));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append(Vec<Vec<u8>>),
        Sync,
        Rewrite(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let record = prop::collection::vec(any::<u8>(), 0..40);
        let step = prop_oneof![
            4 => prop::collection::vec(record, 0..4).prop_map(Step::Append),
            2 => Just(Step::Sync),
            1 => (0usize..6).prop_map(Step::Rewrite),
        ];
        prop::collection::vec(step, 1..12)
    }

    /// What must come back: everything `confirmed`, and of `written` some beginning.
    #[derive(Default)]
    struct Model {
        written: Vec<Vec<u8>>,
        confirmed: usize,
    }

    impl Model {
        fn note(&mut self, step: &Step) {
            match step {
                Step::Append(records) => self.written.extend_from_slice(records),
                Step::Sync => self.confirmed = self.written.len(),
                Step::Rewrite(live) => {
                    self.written.truncate(*live);
                    self.confirmed = self.written.len();
                }
            }
        }

        fn check(&self, found: &[Vec<u8>], torn_bytes: u64, whole: bool) {
            assert!(found.len() >= self.confirmed, "confirmed records are missing");
            assert!(
                self.written.starts_with(found),
                "records that were never written, or in another order"
            );
            if whole {
                assert_eq!((found, torn_bytes), (&self.written[..], 0));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_memory_log_cut_anywhere_keeps_what_was_synced(steps in steps()) {
            let (mut log, mut model) = (MemoryLog::new(), Model::default());
            for step in &steps {
                model.note(step);
                match step {
                    Step::Append(records) => log.append(records).unwrap(),
                    Step::Sync => log.sync().unwrap(),
                    Step::Rewrite(_) => log.rewrite(&model.written).unwrap(),
                }
                for keep in 0..=log.unsynced_bytes() {
                    let (mut after, found, opened) = log.crash(keep).unwrap();
                    model.check(&found, opened.torn_bytes, keep == log.unsynced_bytes());
                    // And it goes on from there.
                    after.append(&[b"more".to_vec()]).unwrap();
                    after.sync().unwrap();
                    let (_, again, _) = after.crash(0).unwrap();
                    prop_assert_eq!(again.len(), found.len() + 1);
                    prop_assert_eq!(&again[..found.len()], &found[..]);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn a_file_cut_or_zeroed_anywhere_after_the_last_sync_keeps_what_was_synced(steps in steps()) {
            let dir = tempfile::tempdir().unwrap();
            let path = new_log(&dir);
            let (mut log, ..) = open(&path);
            let (mut model, mut synced) = (Model::default(), log.len_bytes());
            for step in &steps {
                model.note(step);
                match step {
                    Step::Append(records) => log.append(records).unwrap(),
                    Step::Sync => log.sync().unwrap(),
                    Step::Rewrite(_) => log.rewrite(&model.written).unwrap(),
                }
                if !matches!(step, Step::Append(_)) {
                    synced = log.len_bytes();
                }
            }
            let end = log.len_bytes();
            kill(log);
            let bytes = std::fs::read(&path).unwrap();
            for cut in synced as usize..=end as usize {
                // The machine lost the end of the file, or only what stood there.
                let zeroed = cut % 2 == 0;
                let mut damaged = bytes[..if zeroed { bytes.len() } else { cut }].to_vec();
                damaged[cut..].fill(0);
                std::fs::write(&path, &damaged).unwrap();
                let (mut log, found, opened) = open(&path);
                // A record that ends in zeros survives the loss of them: then more came back than the cut left.
                model.check(&found, opened.torn_bytes, cut as u64 == end);
                log.append(&[b"more".to_vec()]).unwrap();
                kill(log);
                let (log, again, opened) = open(&path);
                prop_assert_eq!(opened.torn_bytes, 0);
                prop_assert_eq!(again.len(), found.len() + 1);
                kill(log);
            }
        }
    }
}
