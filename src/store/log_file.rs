//! An append-only file of checksummed records: how bytes are laid out, and how they are read back after a crash.
//!
//! ```text
//! header (128 B)   magic 8 | version u32 | zero u32 | nonce u64 | identity 64 | zeros | CRC-32 of all before
//! record           tag u32 | crc u32 | length u32 | kind u32 | synced_to u64 | payload
//! tail             zeros up to the end of the file: space prepared so that a sync need not touch metadata
//! ```
//!
//! Integers are little endian. `tag` is derived from the header, whose nonce is random, so no bytes of another file
//! and nothing that a stranger managed to get into a payload can pass for a record of this one. `crc` covers the
//! record's own position, the rest of its header and its payload: bytes that moved do not pass either.
//!
//! # Torn or damaged?
//!
//! A machine that loses power may lose any part of what was written since the last sync, even a page in the middle
//! while later ones survive. Such a tail was never relied on, so it is cut off at the first record that does not
//! check. Anything *before* the last sync, though, must be there, and cutting it off would be forgetting. So each
//! record carries in `synced_to` how far the file had been synced when the record was written. A whole record behind a
//! bad one whose `synced_to` lies beyond the bad one's start proves that the bad one had been on the disk safely: that
//! is damage, and it is reported as such, with nothing cut off. Since `synced_to` moves only after a successful sync,
//! an honest crash can never look like damage. A mark (an empty record) written and synced when the file is closed in
//! order extends this to the last records before an orderly stop. What cannot be told from a torn tail is damage to
//! the very last synced group of a process that was killed, and a file replaced by an older copy of itself.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a file's header.
pub(super) const HEADER_BYTES: usize = 128;
/// Bytes of a record before its payload.
pub(super) const RECORD_HEADER_BYTES: usize = 24;
/// The layout described above.
const VERSION: u32 = 1;
/// A buffer that one large append has grown beyond this is given back.
const SCRATCH_KEPT_BYTES: usize = 1 << 20;

/// What a file is and whom it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub magic: [u8; 8],
    /// Random, so that two files never accept each other's records.
    pub nonce: u64,
    /// Whose file this is; the meaning is the caller's.
    pub identity: [u8; 64],
}

/// Why the first bytes of a file are no header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("it has {0} bytes, fewer than the {HEADER_BYTES} of the header")]
    Short(usize),
    #[error("it starts with {found}, not with {expected}")]
    Magic { found: String, expected: String },
    #[error("its layout is version {found}, this program knows {VERSION}")]
    Version { found: u32 },
    #[error("the checksum of its header is wrong")]
    Checksum,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&self.magic);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.nonce.to_le_bytes());
        out[24..88].copy_from_slice(&self.identity);
        let crc = crc32fast::hash(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8], magic: [u8; 8]) -> Result<Header, HeaderError> {
        let header = bytes.get(..HEADER_BYTES).ok_or(HeaderError::Short(bytes.len()))?;
        if header[..8] != magic {
            let (found, expected) = (header[..8].escape_ascii().to_string(), magic.escape_ascii().to_string());
            return Err(HeaderError::Magic { found, expected });
        }
        if crc32fast::hash(&header[..HEADER_BYTES - 4]) != u32_at(header, HEADER_BYTES - 4) {
            return Err(HeaderError::Checksum);
        }
        let version = u32_at(header, 8);
        if version != VERSION {
            return Err(HeaderError::Version { found: version });
        }
        let mut identity = [0; 64];
        identity.copy_from_slice(&header[24..88]);
        Ok(Header {
            magic,
            nonce: u64_at(header, 16),
            identity,
        })
    }

    /// What every record of this file begins with: the header's checksum. (Not one over the whole header: that of any
    /// bytes followed by their own CRC is always the same.) Never zero, for zeros are prepared space.
    pub fn tag(&self) -> u32 {
        u32_at(&self.encode(), HEADER_BYTES - 4) | 1
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Somebody's bytes.
    Payload = 1,
    /// Nothing but its `synced_to`.
    Mark = 2,
}

fn checksum(position: u64, fields: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&position.to_le_bytes());
    hasher.update(fields);
    hasher.update(payload);
    hasher.finalize()
}

fn encode(out: &mut Vec<u8>, tag: u32, kind: Kind, position: u64, synced_to: u64, payload: &[u8]) {
    let mut fields = [0; 16];
    let length = u32::try_from(payload.len()).expect("callers refuse payloads beyond their own, smaller limit");
    fields[..4].copy_from_slice(&length.to_le_bytes());
    fields[4..8].copy_from_slice(&(kind as u32).to_le_bytes());
    fields[8..].copy_from_slice(&synced_to.to_le_bytes());
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&checksum(position, &fields, payload).to_le_bytes());
    out.extend_from_slice(&fields);
    out.extend_from_slice(payload);
}

struct Record<'a> {
    kind: Kind,
    synced_to: u64,
    payload: &'a [u8],
}

/// The record at `position`, if one stands there whole.
fn decode(file: &[u8], tag: u32, position: usize) -> Option<Record<'_>> {
    let header = file.get(position..position.checked_add(RECORD_HEADER_BYTES)?)?;
    if u32_at(header, 0) != tag {
        return None;
    }
    let length = usize::try_from(u32_at(header, 8)).ok()?;
    let start = position + RECORD_HEADER_BYTES;
    let payload = file.get(start..start.checked_add(length)?)?;
    if checksum(position as u64, &header[8..], payload) != u32_at(header, 4) {
        return None;
    }
    let kind = match u32_at(header, 12) {
        1 => Kind::Payload,
        2 => Kind::Mark,
        _ => return None,
    };
    Some(Record {
        kind,
        synced_to: u64_at(header, 16),
        payload,
    })
}

/// What a file says, read from its start.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Replay {
    /// The payloads, in order.
    pub records: Vec<Vec<u8>>,
    /// Where the next record goes.
    pub end: u64,
    /// Bytes of torn records behind `end`, to be cut off (prepared zeros do not count).
    pub torn_bytes: u64,
    /// How far the records themselves say that the file had been synced.
    pub synced_to: u64,
}

/// A record that had been synced does not check any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// Where the bad record starts.
    pub offset: u64,
    /// Where the record stands which proves that the bad one had been synced.
    pub proof: u64,
}

/// Reads all records of a file that starts with a header of this tag; see the module for what is cut and what is not.
pub(super) fn replay(file: &[u8], tag: u32) -> Result<Replay, Damage> {
    let (mut records, mut position, mut synced_to) = (Vec::new(), HEADER_BYTES, 0);
    while let Some(record) = decode(file, tag, position) {
        synced_to = synced_to.max(record.synced_to);
        if record.kind == Kind::Payload {
            records.push(record.payload.to_vec());
        }
        position += RECORD_HEADER_BYTES + record.payload.len();
    }
    let end = position as u64;
    let rest = file.get(position..).unwrap_or_default();
    let torn_bytes = rest
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last as u64 + 1);
    if torn_bytes > 0
        && let Some(proof) = find_proof(file, tag, position)
    {
        return Err(Damage { offset: end, proof });
    }
    Ok(Replay {
        records,
        end,
        torn_bytes,
        synced_to,
    })
}

/// Looks behind a bad record for a whole one that was written after the bad one had been synced.
fn find_proof(file: &[u8], tag: u32, bad: usize) -> Option<u64> {
    let tag_bytes = tag.to_le_bytes();
    let candidates = file
        .windows(4)
        .enumerate()
        .skip(bad + 1)
        .filter(|(_, window)| *window == tag_bytes);
    candidates
        .map(|(position, _)| position)
        .find(|position| decode(file, tag, *position).is_some_and(|record| record.synced_to > bad as u64))
        .map(|position| position as u64)
}

/// The bytes that an append adds, for a file or for the model of one.
pub(super) struct Encoder {
    tag: u32,
    /// Where the next record goes.
    pub end: u64,
    /// Everything before this has been synced.
    pub synced_to: u64,
}

impl Encoder {
    pub fn new(tag: u32, end: u64, synced_to: u64) -> Encoder {
        Encoder { tag, end, synced_to }
    }

    fn records<'a>(&self, payloads: impl IntoIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
        let start = out.len();
        for payload in payloads {
            let position = self.end + (out.len() - start) as u64;
            encode(out, self.tag, Kind::Payload, position, self.synced_to, payload);
        }
    }

    /// Appends the encoded records to `out` and takes note of them.
    pub fn append<'a>(&mut self, payloads: impl IntoIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
        let start = out.len();
        self.records(payloads, out);
        self.end += (out.len() - start) as u64;
    }
}

/// A file of records, open for appending.
pub(super) struct LogFile {
    file: File,
    path: PathBuf,
    encoder: Encoder,
    /// The file's length: everything from the end of the records up to here is zeros.
    prepared: u64,
    /// By how much the file grows at a time; 0 to let it grow as it is written.
    chunk: u64,
    /// After a failed write or sync nobody knows what is on the disk, so nothing more is written.
    failed: bool,
    scratch: Vec<u8>,
}

impl LogFile {
    /// Makes a new file with a header. Neither the file nor its name is synced yet.
    pub fn create(path: &Path, header: &Header, chunk: u64) -> io::Result<LogFile> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        file.write_all_at(&header.encode(), 0)?;
        let end = HEADER_BYTES as u64;
        let mut log = Self::new(file, path, Encoder::new(header.tag(), end, 0), end, chunk);
        log.prepare(end)?;
        Ok(log)
    }

    /// Opens a file that was replayed: cuts off what is torn and syncs, since a process that was killed may have left
    /// records that no disk has seen, and what is read back now will be relied on.
    pub fn open(path: &Path, header: &Header, replay: &Replay, chunk: u64) -> io::Result<LogFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if replay.torn_bytes > 0 {
            file.set_len(replay.end)?;
        }
        let prepared = file.metadata()?.len();
        file.sync_all()?;
        Ok(Self::new(
            file,
            path,
            Encoder::new(header.tag(), replay.end, replay.end),
            prepared,
            chunk,
        ))
    }

    fn new(file: File, path: &Path, encoder: Encoder, prepared: u64, chunk: u64) -> LogFile {
        LogFile {
            file,
            path: path.to_owned(),
            encoder,
            prepared,
            chunk,
            failed: false,
            scratch: Vec::new(),
        }
    }

    /// Appends the payloads as records with a single write.
    pub fn append<'a>(&mut self, payloads: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
        self.refuse_if_failed()?;
        let mut bytes = std::mem::take(&mut self.scratch);
        self.encoder.records(payloads, &mut bytes);
        let written = self.write(&bytes);
        bytes.clear();
        if bytes.capacity() <= SCRATCH_KEPT_BYTES {
            self.scratch = bytes;
        }
        written
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.encoder.end + bytes.len() as u64;
        let written = self.file.write_all_at(bytes, self.encoder.end).and_then(|()| {
            self.prepared = self.prepared.max(end);
            self.prepare(end)
        });
        self.failed |= written.is_err();
        self.encoder.end = end;
        written
    }

    /// Writes zeros ahead when the records have used up what was prepared. Real zeros, not a hole: with blocks that
    /// are allocated and written already, a sync has only data to bring to the disk.
    fn prepare(&mut self, end: u64) -> io::Result<()> {
        if self.chunk == 0 || end < self.prepared {
            return Ok(());
        }
        let target = (end / self.chunk + 1) * self.chunk;
        let zeros = vec![0; 1 << 16];
        while self.prepared < target {
            let step = (target - self.prepared).min(zeros.len() as u64);
            self.file.write_all_at(&zeros[..step as usize], self.prepared)?;
            self.prepared += step;
        }
        Ok(())
    }

    /// Brings everything appended so far to the disk.
    pub fn sync(&mut self) -> io::Result<()> {
        self.refuse_if_failed()?;
        if self.encoder.synced_to == self.encoder.end {
            return Ok(());
        }
        // After a failed sync the kernel may have dropped the dirty pages, so that a second one would lie.
        self.file.sync_data().inspect_err(|_| self.failed = true)?;
        self.encoder.synced_to = self.encoder.end;
        Ok(())
    }

    /// Syncs a new file whole, even if nothing but its header was written.
    pub fn sync_new(&mut self) -> io::Result<()> {
        self.refuse_if_failed()?;
        self.file.sync_all().inspect_err(|_| self.failed = true)?;
        self.encoder.synced_to = self.encoder.end;
        Ok(())
    }

    /// Leaves the file as a killed process leaves it.
    #[cfg(test)]
    pub fn abandon(&mut self) {
        self.failed = true;
    }

    /// Notes in the file itself that all of it is on the disk, so that damage to its last records can be told later.
    pub fn close(&mut self) -> io::Result<()> {
        self.sync()?;
        let mut mark = Vec::with_capacity(RECORD_HEADER_BYTES);
        encode(
            &mut mark,
            self.encoder.tag,
            Kind::Mark,
            self.encoder.end,
            self.encoder.synced_to,
            &[],
        );
        self.write(&mark)?;
        self.sync()
    }

    fn refuse_if_failed(&self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write or sync of this file failed"));
        }
        Ok(())
    }

    /// Bytes of header and records.
    pub fn end(&self) -> u64 {
        self.encoder.end
    }

    /// Bytes of the file, prepared space included.
    pub fn file_bytes(&self) -> u64 {
        self.prepared
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the file that it goes by another name now.
    pub fn renamed(&mut self, path: &Path) {
        self.path = path.to_owned();
    }
}

/// Makes the names in a directory survive a loss of power.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The directory that a file is in.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        magic: *b"TESTTEST",
        nonce: 7,
        identity: [3; 64],
    };

    /// A file as a list of groups, each synced before the next, the last one not.
    fn file(groups: &[&[&[u8]]]) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = HEADER.encode().to_vec();
        let mut encoder = Encoder::new(HEADER.tag(), bytes.len() as u64, 0);
        let mut starts = Vec::new();
        for group in groups {
            encoder.synced_to = encoder.end;
            starts.push(encoder.end);
            encoder.append(group.iter().copied(), &mut bytes);
        }
        (bytes, starts)
    }

    #[test]
    fn the_layout_on_disk_stays_as_it_is() {
        let (bytes, _) = file(&[&[b"abc"]]);
        assert_eq!(
            hex::encode(&bytes[..24]),
            "54455354544553540100000000000000".to_owned() + "0700000000000000"
        );
        assert_eq!(bytes.len(), HEADER_BYTES + RECORD_HEADER_BYTES + 3);
        let record = &bytes[HEADER_BYTES..];
        assert_eq!(u32_at(record, 0), HEADER.tag());
        assert_eq!(
            (u32_at(record, 8), u32_at(record, 12), u64_at(record, 16)),
            (3, 1, HEADER_BYTES as u64)
        );
        assert_eq!(Header::decode(&bytes, HEADER.magic), Ok(HEADER));
    }

    #[test]
    fn a_header_with_any_bit_changed_is_refused() {
        let bytes = HEADER.encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&changed, HEADER.magic).is_err(), "bit {bit}");
        }
        assert_eq!(
            Header::decode(&bytes[..100], HEADER.magic),
            Err(HeaderError::Short(100))
        );
    }

    #[test]
    fn records_of_another_file_or_position_do_not_pass() {
        let (bytes, _) = file(&[&[b"one", b"two"]]);
        assert_eq!(replay(&bytes, HEADER.tag()).unwrap().records.len(), 2);
        let other = Header { nonce: 8, ..HEADER };
        let stranger = replay(&bytes, other.tag()).unwrap();
        assert_eq!(
            (stranger.records.len(), stranger.torn_bytes),
            (0, (bytes.len() - HEADER_BYTES) as u64)
        );
        // The same record, one byte further on.
        let mut moved = bytes.clone();
        moved.insert(HEADER_BYTES, 0);
        assert_eq!(replay(&moved, HEADER.tag()).unwrap().records.len(), 0);
        // The second record in the first one's place: equally long, whole, and still refused.
        let length = RECORD_HEADER_BYTES + 3;
        moved = bytes[..HEADER_BYTES].to_vec();
        moved.extend_from_slice(&bytes[HEADER_BYTES + length..]);
        assert_eq!(replay(&moved, HEADER.tag()).unwrap().records.len(), 0);
    }

    #[test]
    fn prepared_zeros_are_the_end_and_not_a_tear() {
        let (mut bytes, _) = file(&[&[b"one"]]);
        let end = bytes.len() as u64;
        bytes.resize(bytes.len() + 5_000, 0);
        let read = replay(&bytes, HEADER.tag()).unwrap();
        assert_eq!((read.records.len(), read.end, read.torn_bytes), (1, end, 0));
        bytes[end as usize + 99] = 1;
        assert_eq!(replay(&bytes, HEADER.tag()).unwrap().torn_bytes, 100);
    }

    #[test]
    fn any_changed_bit_in_what_was_synced_is_damage_and_in_what_was_not_a_tear() {
        let (bytes, starts) = file(&[&[b"first"], &[b"second", b"and third"], &[b"fourth", b"fifth"]]);
        let unsynced = starts[2] as usize;
        for bit in HEADER_BYTES * 8..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let read = replay(&changed, HEADER.tag());
            if bit / 8 < unsynced {
                let damage = read.expect_err("synced bytes changed");
                assert!(
                    damage.offset as usize <= bit / 8 && damage.proof as usize > bit / 8,
                    "bit {bit}: {damage:?}"
                );
            } else {
                let read = read.expect("unsynced bytes may be anything");
                assert!(read.records.len() >= 3 && read.records.len() < 5, "bit {bit}");
                assert!(read.torn_bytes > 0);
            }
        }
    }

    #[test]
    fn a_page_lost_in_the_unsynced_middle_is_a_tear() {
        let (mut bytes, _) = file(&[&[b"synced"], &[b"lost", b"found"]]);
        let (whole, starts) = (bytes.clone(), HEADER_BYTES + RECORD_HEADER_BYTES + 6);
        bytes[starts..starts + RECORD_HEADER_BYTES + 4].fill(0);
        let read = replay(&bytes, HEADER.tag()).unwrap();
        assert_eq!((read.records.len(), read.end), (1, starts as u64));
        assert_eq!(read.torn_bytes, (whole.len() - starts) as u64);
    }
}
