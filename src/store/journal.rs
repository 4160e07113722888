//! The journal of the sled store: each applied batch is one record, in files numbered by generation.
//!
//! A generation is what one memtable gathers. Its file is synced at the latest before any of it goes into the tree, and
//! it is removed when all of it is there. A file is synced only after all older ones: so when a file is torn, what
//! later files hold was never confirmed, and it is dropped with the torn tail; what remains is a prefix of the batches.

use std::io;
use std::path::{Path, PathBuf};

use super::backend::{Op, StoreError, Table};
use super::log_file::{HEADER_BYTES, Header, LogFile, Replay, replay};

const MAGIC: [u8; 8] = *b"TIMEJRNL";
const PREFIX: &str = "journal-";
/// Files grow by this many bytes at a time. No vote waits for the journal, so a large step is cheap enough.
const PREPARED_BYTES: u64 = 1 << 20;

/// A journal file that was read back.
pub(super) struct Recovered {
    pub generation: u64,
    pub batches: Vec<Vec<Op>>,
    pub log: LogFile,
    /// Bytes cut off behind the last whole batch.
    pub torn_bytes: u64,
}

pub(super) fn path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{generation:016}"))
}

/// Starts the file of a generation. Neither it nor its name is synced yet.
pub(super) fn create(dir: &Path, store_id: u64, generation: u64) -> io::Result<LogFile> {
    let header = Header {
        magic: MAGIC,
        nonce: rand::random(),
        identity: identity(store_id, generation),
    };
    LogFile::create(&path(dir, generation), &header, PREPARED_BYTES)
}

fn identity(store_id: u64, generation: u64) -> [u8; 64] {
    let mut identity = [0; 64];
    identity[..8].copy_from_slice(&store_id.to_le_bytes());
    identity[8..16].copy_from_slice(&generation.to_le_bytes());
    identity
}

/// The generations that have a file, in ascending order.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        found.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Reads the journals of the generations after `drained`, and removes those before it and those that follow a tear.
/// Nothing on the disk is changed before it is clear that nothing is damaged.
pub(super) fn recover(dir: &Path, store_id: u64, drained: u64) -> Result<Vec<Recovered>, StoreError> {
    let found = list(dir).map_err(|source| io_error(dir, "listing the journals", source))?;
    let (obsolete, found): (Vec<u64>, Vec<u64>) = found.into_iter().partition(|generation| *generation <= drained);
    let mut read_back = Vec::new();
    for (generation, expected) in found.iter().copied().zip(drained + 1..) {
        if generation != expected {
            let what = format!("journal {expected} is missing though journal {generation} is there");
            return Err(StoreError::Corrupt {
                path: dir.to_owned(),
                what,
            });
        }
        read_back.push(read(dir, store_id, generation)?);
    }
    let whole = read_back
        .iter()
        .take_while(|journal| journal.as_ref().is_some_and(|j| j.replay.torn_bytes == 0));
    let torn = whole.count();
    // Behind a torn file, a file that had ever been synced says that the torn one had been synced before it.
    if read_back
        .iter()
        .skip(torn + 1)
        .flatten()
        .any(|journal| journal.replay.synced_to > 0)
    {
        let at = read_back[torn].as_ref().map_or(0, |journal| journal.replay.end);
        let what = format!("from byte {at} on it cannot be read, and it had been synced");
        return Err(StoreError::Corrupt {
            path: path(dir, found[torn]),
            what,
        });
    }
    for generation in obsolete.iter().chain(found.iter().skip(torn + 1)) {
        remove(dir, *generation)?;
    }
    if let Some(None) = read_back.get(torn) {
        remove(dir, found[torn])?;
    }
    read_back
        .into_iter()
        .take(torn + 1)
        .flatten()
        .map(|journal| journal.open(dir))
        .collect()
}

/// A journal file as it was found.
struct Found {
    generation: u64,
    header: Header,
    replay: Replay,
    batches: Vec<Vec<Op>>,
}

impl Found {
    fn open(self, dir: &Path) -> Result<Recovered, StoreError> {
        let path = path(dir, self.generation);
        let log = LogFile::open(&path, &self.header, &self.replay, PREPARED_BYTES)
            .map_err(|source| io_error(&path, "opening a journal for writing", source))?;
        let Found {
            generation,
            batches,
            replay,
            ..
        } = self;
        Ok(Recovered {
            generation,
            batches,
            log,
            torn_bytes: replay.torn_bytes,
        })
    }
}

/// Reads one file; `None` if not even its header came to the disk.
fn read(dir: &Path, store_id: u64, generation: u64) -> Result<Option<Found>, StoreError> {
    let path = path(dir, generation);
    let corrupt = |what: String| StoreError::Corrupt {
        path: path.clone(),
        what,
    };
    let bytes = std::fs::read(&path).map_err(|source| io_error(&path, "reading a journal", source))?;
    if bytes.len() < HEADER_BYTES || bytes[..HEADER_BYTES].iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let header =
        Header::decode(&bytes, MAGIC).map_err(|error| corrupt(format!("as a journal it is no good: {error}")))?;
    if header.identity != identity(store_id, generation) {
        return Err(corrupt(
            "it is the journal of another store, or of another generation".into(),
        ));
    }
    let mut replay = replay(&bytes, header.tag()).map_err(|damage| {
        corrupt(format!(
            "the batch at byte {} had been synced and cannot be read any more",
            damage.offset
        ))
    })?;
    let decoded: Option<Vec<Vec<Op>>> = replay.records.iter().map(|record| decode(record)).collect();
    let batches = decoded.ok_or_else(|| corrupt("a batch passes its checksum and makes no sense".into()))?;
    replay.records = Vec::new();
    Ok(Some(Found {
        generation,
        header,
        replay,
        batches,
    }))
}

pub(super) fn remove(dir: &Path, generation: u64) -> Result<(), StoreError> {
    let path = path(dir, generation);
    std::fs::remove_file(&path).map_err(|source| io_error(&path, "removing a journal that is no longer needed", source))
}

fn io_error(path: &Path, doing: &'static str, source: io::Error) -> StoreError {
    StoreError::Io {
        path: path.to_owned(),
        doing,
        source,
    }
}

/// `count u32`, then for each operation `table u8 | put u8 | key length u32 | key`, and for a put `length u32 | value`.
pub(super) fn encode(batch: &[Op]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + batch.iter().map(encoded_len).sum::<usize>());
    out.extend_from_slice(&length(batch.len()));
    for op in batch {
        let (table, key, value) = op.parts();
        out.extend_from_slice(&[table.code(), u8::from(value.is_some())]);
        for bytes in std::iter::once(key).chain(value) {
            out.extend_from_slice(&length(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
    out
}

fn encoded_len(op: &Op) -> usize {
    let (_, key, value) = op.parts();
    6 + key.len() + value.map_or(0, |value| 4 + value.len())
}

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length)
        .expect("a batch within its limits counts fewer than 2^32 of anything")
        .to_le_bytes()
}

fn decode(record: &[u8]) -> Option<Vec<Op>> {
    let mut rest = record;
    let count = take_length(&mut rest)?;
    let mut batch = Vec::with_capacity(count.min(record.len() / 6));
    for _ in 0..count {
        let head = take(&mut rest, 2)?;
        let table = Table::from_code(head[0])?;
        let key = take_counted(&mut rest)?;
        batch.push(match head[1] {
            0 => Op::Delete { table, key },
            1 => Op::Put {
                table,
                key,
                value: take_counted(&mut rest)?,
            },
            _ => return None,
        });
    }
    rest.is_empty().then_some(batch)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

fn take_length(rest: &mut &[u8]) -> Option<usize> {
    let bytes = take(rest, 4)?;
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}

fn take_counted(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let count = take_length(rest)?;
    take(rest, count).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u8) -> Vec<Op> {
        vec![
            Op::Put {
                table: Table::Receipts,
                key: vec![number],
                value: Vec::new(),
            },
            Op::Put {
                table: Table::Meta,
                key: Vec::new(),
                value: vec![number; 300],
            },
            Op::Delete {
                table: Table::Coins,
                key: vec![number; 36],
            },
        ]
    }

    fn write(dir: &Path, generation: u64, batches: &[u8], sync: bool) {
        let mut log = create(dir, 5, generation).unwrap();
        for number in batches {
            log.append([encode(&batch(*number)).as_slice()]).unwrap();
            if sync {
                log.sync().unwrap();
            }
        }
    }

    fn found(dir: &Path, drained: u64) -> Result<Vec<Vec<Op>>, StoreError> {
        Ok(recover(dir, 5, drained)?
            .into_iter()
            .flat_map(|journal| journal.batches)
            .collect())
    }

    fn spoil(dir: &Path, generation: u64, at: usize) {
        let mut bytes = std::fs::read(path(dir, generation)).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path(dir, generation), bytes).unwrap();
    }

    #[test]
    fn a_batch_survives_its_encoding_and_no_shorter_or_longer_bytes_pass() {
        let bytes = encode(&batch(7));
        assert_eq!(decode(&bytes), Some(batch(7)));
        assert_eq!(decode(&encode(&[])), Some(Vec::new()));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None);
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(decode(&longer), None);
        let mut table = bytes.clone();
        table[4] = 200;
        assert_eq!(decode(&table), None);
    }

    #[test]
    fn generations_come_back_in_order_and_drained_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1, &[1, 2], true);
        write(dir.path(), 2, &[3], true);
        write(dir.path(), 3, &[4], false);
        assert_eq!(found(dir.path(), 1).unwrap(), [batch(3), batch(4)]);
        assert_eq!(list(dir.path()).unwrap(), [2, 3]);
        let error = found(dir.path(), 0).unwrap_err();
        assert!(error.to_string().contains("journal 1 is missing"), "{error}");
        assert!(
            matches!(recover(dir.path(), 6, 1), Err(StoreError::Corrupt { .. })),
            "another store's journal"
        );
    }

    #[test]
    fn what_follows_an_unsynced_tear_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1, &[1, 2], false);
        write(dir.path(), 2, &[3], false);
        spoil(dir.path(), 1, HEADER_BYTES + encode(&batch(1)).len() + 80);
        assert_eq!(found(dir.path(), 0).unwrap(), [batch(1)]);
        assert_eq!(list(dir.path()).unwrap(), [1]);
        assert_eq!(found(dir.path(), 0).unwrap(), [batch(1)], "and the cut stays");
    }

    #[test]
    fn a_tear_in_what_had_been_synced_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1, &[1], false);
        write(dir.path(), 2, &[2, 3], true);
        spoil(dir.path(), 1, HEADER_BYTES + 40);
        assert!(matches!(found(dir.path(), 0), Err(StoreError::Corrupt { .. })));
        assert_eq!(list(dir.path()).unwrap(), [1, 2], "nothing is removed");
    }

    #[test]
    fn a_file_whose_header_never_came_to_the_disk_is_an_empty_tail() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1, &[1], true);
        for torn in [Vec::new(), vec![0; 4096], b"TIMEJ".to_vec()] {
            std::fs::write(path(dir.path(), 2), torn).unwrap();
            assert_eq!(found(dir.path(), 0).unwrap(), [batch(1)]);
            assert_eq!(list(dir.path()).unwrap(), [1]);
        }
    }
}
