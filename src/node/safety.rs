//! The safety log as the loop uses it: records in, one sync a turn, trimmed now and then.

use super::metrics::{Meters, record};
use crate::{
    primitives::{ChainId, PublicKey},
    replica::SafetyRecord,
    store::safety_log::{SafetyLog, SafetyLogError},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use thiserror::Error;

/// Below this many bytes a log is not trimmed.
const TRIM_MIN: u64 = 16 << 20;
/// A log is trimmed when it has grown to so many times what must be kept.
const TRIM_FACTOR: u64 = 4;

/// Why the safety log cannot be used.
#[derive(Debug, Error)]
pub enum SafetyError {
    /// The file refuses.
    #[error(transparent)]
    Log(#[from] SafetyLogError),
    /// A record in it has a good checksum and no meaning.
    #[error(
        "record {index} of the safety log {path} cannot be read: {reason}. It was written by another version of this program: run that one"
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// Which, from 0.
        index: usize,
        /// What the decoder says.
        reason: String,
    },
    /// A new log cannot be put in its place.
    #[error("the new safety log {from} cannot be moved to {to}: {source}")]
    Move {
        /// Where it was made.
        from: PathBuf,
        /// Where it belongs.
        to: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
}

/// A validator's safety log, open.
pub struct Safety {
    log: SafetyLog,
    meters: Arc<Meters>,
    /// Bytes of what had to be kept at the last trimming.
    live: u64,
}

impl Safety {
    /// Makes the empty log of a key that has never voted on this chain. Fails if there is one.
    pub fn create(path: &Path, key: PublicKey, chain: ChainId) -> Result<(), SafetyError> {
        Ok(SafetyLog::create(path, key.0, chain.0)?)
    }

    /// Opens the log of a key; `None` if there is none.
    pub fn open(
        path: &Path,
        key: PublicKey,
        chain: ChainId,
        meters: &Arc<Meters>,
    ) -> Result<Option<(Self, Vec<SafetyRecord>)>, SafetyError> {
        let (log, records, opened) = match SafetyLog::open(path, key.0, chain.0) {
            Err(SafetyLogError::Missing { .. }) => return Ok(None),
            other => other?,
        };
        if opened.torn_bytes > 0 {
            let bytes = opened.torn_bytes;
            tracing::warn!(path = %path.display(), bytes, "the safety log ended in a torn record, never synced; cut off");
        }
        let decode = |(index, bytes): (usize, &Vec<u8>)| {
            SafetyRecord::decode(bytes).map_err(|error| SafetyError::Record {
                path: path.to_owned(),
                index,
                reason: error.to_string(),
            })
        };
        let records: Vec<_> = records.iter().enumerate().map(decode).collect::<Result<_, _>>()?;
        meters.safety_log_bytes.set(log.len_bytes());
        let safety = Self {
            // What of it is still needed is not known yet; the first trimming tells.
            live: 0,
            log,
            meters: meters.clone(),
        };
        Ok(Some((safety, records)))
    }

    /// Makes the log of a key whose former log is gone. It appears together with `records`, which say that nothing is
    /// known: an empty log in its place would mean that the key has never voted.
    pub fn replace_lost(
        path: &Path,
        key: PublicKey,
        chain: ChainId,
        meters: &Arc<Meters>,
        records: &[SafetyRecord],
    ) -> Result<Self, SafetyError> {
        let new = path.with_extension("fresh");
        let _ = std::fs::remove_file(&new);
        SafetyLog::create(&new, key.0, chain.0)?;
        let (mut log, ..) = SafetyLog::open(&new, key.0, chain.0)?;
        log.append(&encode(records))?;
        log.sync()?;
        drop(log);
        let sync_dir = |dir: &Path| std::fs::File::open(dir).and_then(|dir| dir.sync_all());
        let moved = std::fs::rename(&new, path).and_then(|()| sync_dir(path.parent().unwrap_or(Path::new("."))));
        moved.map_err(|source| SafetyError::Move {
            from: new.clone(),
            to: path.to_owned(),
            source,
        })?;
        let _ = std::fs::remove_file(path.with_extension("fresh.lock"));
        let opened = Self::open(path, key, chain, meters)?;
        opened
            .map(|(safety, _)| safety)
            .ok_or_else(|| SafetyLogError::Missing { path: path.to_owned() }.into())
    }

    /// Writes down a turn's records; they are on the disk when this returns.
    pub fn remember(&mut self, records: &[SafetyRecord]) -> Result<(), SafetyError> {
        let encoded = encode(records);
        let start = Instant::now();
        self.log.append(&encoded)?;
        self.log.sync()?;
        record(&self.meters.sync, start.elapsed());
        self.meters.safety_log_bytes.set(self.log.len_bytes());
        Ok(())
    }

    /// Whether the log has grown enough to be trimmed.
    pub fn wants_trimming(&self) -> bool {
        self.log.len_bytes() > TRIM_MIN.max(self.live.saturating_mul(TRIM_FACTOR))
    }

    /// Replaces everything by what must still be known.
    pub fn trim(&mut self, live: &[SafetyRecord]) -> Result<(), SafetyError> {
        let before = self.log.len_bytes();
        self.log.rewrite(&encode(live))?;
        self.live = self.log.len_bytes();
        self.meters.safety_log_bytes.set(self.live);
        self.meters.safety_log_rewrites.add(1);
        tracing::debug!(before, after = self.live, "the safety log was trimmed");
        Ok(())
    }
}

fn encode(records: &[SafetyRecord]) -> Vec<Vec<u8>> {
    records.iter().map(SafetyRecord::encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{node::metrics::Prepared, primitives::Epoch};

    const KEY: PublicKey = PublicKey([1; 32]);
    const CHAIN: ChainId = ChainId([2; 32]);

    #[test]
    fn a_lost_log_comes_back_with_its_confession_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("safety.log");
        let meters = Prepared::new().expect("meters").meters;
        assert!(Safety::open(&path, KEY, CHAIN, &meters).expect("readable").is_none());
        let silent = [SafetyRecord::Silent(Epoch(4))];
        // A leftover of an attempt that was cut short is no obstacle.
        std::fs::write(path.with_extension("fresh"), b"half").expect("writes");
        drop(Safety::replace_lost(&path, KEY, CHAIN, &meters, &silent).expect("made"));
        let (mut safety, records) = Safety::open(&path, KEY, CHAIN, &meters)
            .expect("readable")
            .expect("there");
        assert_eq!(records, silent);
        safety.remember(&[SafetyRecord::Silent(Epoch(5))]).expect("written");
        drop(safety);
        assert_eq!(
            Safety::open(&path, KEY, CHAIN, &meters)
                .expect("readable")
                .expect("there")
                .1
                .len(),
            2
        );
    }

    #[test]
    fn a_log_is_trimmed_when_it_has_grown() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("safety.log");
        let meters = Prepared::new().expect("meters").meters;
        Safety::create(&path, KEY, CHAIN).expect("made");
        let (mut safety, _) = Safety::open(&path, KEY, CHAIN, &meters)
            .expect("readable")
            .expect("there");
        let body = SafetyRecord::Transaction(vec![7; 1 << 20]);
        while !safety.wants_trimming() {
            assert!(safety.log.len_bytes() <= TRIM_MIN);
            safety.remember(std::slice::from_ref(&body)).expect("written");
        }
        safety.trim(std::slice::from_ref(&body)).expect("trimmed");
        assert!(!safety.wants_trimming());
        assert_eq!(meters.safety_log_rewrites.get(), 1);
        drop(safety);
        let (_, records) = Safety::open(&path, KEY, CHAIN, &meters)
            .expect("readable")
            .expect("there");
        assert_eq!(records, [body]);
    }
}
