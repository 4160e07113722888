//! What a node remembers of its peers from one run to the next: those it has met, and where the validators are.
//!
//! One small JSON file, replaced as a whole: written beside, synced, renamed. It is a convenience: when it is missing,
//! damaged or of another chain, the node says so and starts without.

use crate::{
    network::KnownPeer,
    primitives::{Announcement, ChainId},
};
use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A longer file is not ours.
const MAX_BYTES: u64 = 4 << 20;

/// What is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Peers met.
    pub peers: Vec<KnownPeer>,
    /// Announcements; their signatures are checked again by whoever reads them.
    pub announcements: Vec<Announcement>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    chain: String,
    peers: Vec<Line>,
    /// Gossip messages in hex.
    announcements: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    identity: String,
    addresses: Vec<Multiaddr>,
    /// Seconds since 1970.
    last_seen: u64,
}

/// Reads the file; with nothing in it if there is none or it is of no use.
pub fn read(path: &Path, chain: &ChainId) -> Remembered {
    match try_read(path, chain) {
        Ok(remembered) => remembered,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Remembered::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the file of known peers is of no use; starting without");
            Remembered::default()
        }
    }
}

fn try_read(path: &Path, chain: &ChainId) -> io::Result<Remembered> {
    let length = fs::metadata(path)?.len();
    if length > MAX_BYTES {
        let reason = format!("it has {length} bytes, expected at most {MAX_BYTES}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    let page: Page = serde_json::from_slice(&fs::read(path)?)?;
    if page.chain != chain.to_string() {
        return Err(invalid(format!("it belongs to the chain {}", page.chain)));
    }
    let peer = |line: Line| {
        let identity = line
            .identity
            .parse()
            .map_err(|error| invalid(format!("{}: {error}", line.identity)))?;
        Ok(KnownPeer {
            identity,
            addresses: line.addresses,
            last_seen: line.last_seen,
        })
    };
    let announcement = |text: String| {
        let bytes = hex::decode(&text).map_err(|error| invalid(format!("an announcement: {error}")))?;
        Announcement::from_gossip(&bytes).map_err(|error| invalid(format!("an announcement: {error}")))
    };
    Ok(Remembered {
        peers: page.peers.into_iter().map(peer).collect::<io::Result<_>>()?,
        announcements: page
            .announcements
            .into_iter()
            .map(announcement)
            .collect::<io::Result<_>>()?,
    })
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Replaces the file.
///
/// # Errors
/// The operating system's; then the old file is as it was.
pub fn write(path: &Path, chain: &ChainId, remembered: &Remembered) -> io::Result<()> {
    let line = |peer: &KnownPeer| Line {
        identity: peer.identity.to_string(),
        addresses: peer.addresses.clone(),
        last_seen: peer.last_seen,
    };
    let page = Page {
        chain: chain.to_string(),
        peers: remembered.peers.iter().map(line).collect(),
        announcements: remembered
            .announcements
            .iter()
            .map(|one| hex::encode(one.to_gossip()))
            .collect(),
    };
    let mut beside = PathBuf::from(path);
    beside.set_extension("json.new");
    let mut file = fs::File::create(&beside)?;
    serde_json::to_writer_pretty(io::BufWriter::new(&file), &page)?;
    io::Write::flush(&mut file)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{PublicKey, Signature};

    const CHAIN: ChainId = ChainId([1; 32]);

    fn remembered() -> Remembered {
        Remembered {
            peers: vec![KnownPeer {
                identity: libp2p::PeerId::random(),
                addresses: vec!["/ip4/192.0.2.1/tcp/7310".parse().expect("an address")],
                last_seen: 1_800_000_000,
            }],
            announcements: vec![Announcement {
                validator: PublicKey([2; 32]),
                peer: vec![3; 38],
                addresses: vec![vec![4; 8]],
                counter: 5,
                signature: Signature([6; 64]),
            }],
        }
    }

    #[test]
    fn what_is_written_comes_back_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("peers.json");
        assert_eq!(read(&path, &CHAIN), Remembered::default());
        for _ in 0..2 {
            let remembered = remembered();
            write(&path, &CHAIN, &remembered).expect("writes");
            assert_eq!(read(&path, &CHAIN), remembered);
        }
        assert_eq!(
            fs::read_dir(dir.path()).expect("lists").count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn a_file_of_no_use_is_an_empty_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("peers.json");
        write(&path, &CHAIN, &remembered()).expect("writes");
        assert_eq!(read(&path, &ChainId([9; 32])), Remembered::default(), "another chain's");
        let text = fs::read_to_string(&path).expect("reads");
        for broken in [&text[..text.len() / 2], "", "[]", &"x".repeat(5 << 20)] {
            fs::write(&path, broken).expect("writes");
            assert_eq!(read(&path, &CHAIN), Remembered::default());
        }
        // A crash while writing leaves half a file beside the whole one.
        write(&path, &CHAIN, &remembered()).expect("writes");
        fs::write(path.with_extension("json.new"), "{").expect("writes");
        assert_ne!(read(&path, &CHAIN), Remembered::default());
    }
}
