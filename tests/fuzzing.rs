//! The corpus of the fuzz targets, and what lies near it: every file of `fuzz/corpus/` as it is, and some thousands of
//! inputs made of it by cutting, flipping, joining and lengthening, the same ones each time. Long runs are for cargo-fuzz
//! (fuzz/Cargo.toml); what they find is kept as a file of the corpus and so stays found.
//!
//! `TIMECOIN_WRITE_CORPUS=1 cargo test --test fuzzing` writes the seeds anew: one of each type of message, made from the
//! test vectors.

#[path = "../fuzz/targets.rs"]
mod targets;

use prost::Message;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::{collections::BTreeMap, env, fs, path::PathBuf, sync::Once};
use timecoin::{
    network::envelope::{Envelope, Refusal},
    primitives::{
        Announcement, BlockCertificate, BlockId, BlockVote, Certificate, CertifiedHeader, Coin, CoinPage,
        CommittedBlock, Epoch, EpochSeal, Gossip, Hash, Height, Neighbours, OutPoint, Phase, Proposal, PublicKey,
        Request, Response, Round, Signature, Status, TxId, ViewChange, VoteBatch, VoteKind,
    },
    replica::SafetyRecord,
};

/// Inputs made of each seed.
const NEIGHBOURS: usize = 3_000;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

// ---- seeds ------------------------------------------------------------------------------------------------------

/// A file of the test vectors.
fn vectors(name: &str) -> Value {
    let path = root().join("tests/vectors").join(name);
    let text = fs::read_to_string(&path).expect("a file of the test vectors");
    serde_json::from_str(&text).expect("JSON")
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a string")).expect("hex")
}

/// What the messages are made of.
struct Parts {
    block: CommittedBlock,
    transaction: Vec<u8>,
    batch: VoteBatch,
    lock: Certificate,
    vote: BlockVote,
    change: ViewChange,
    seal: EpochSeal,
    prepared: BlockCertificate,
    coins: Vec<(OutPoint, Coin)>,
}

impl Parts {
    fn read() -> Self {
        let (blocks, votes) = (vectors("blocks.json"), vectors("votes.json"));
        let said = |value: &Value| Gossip::decode(&bytes(&value["gossip"])).expect("a message");
        let Gossip::Votes(batch) = said(&votes["batches"][1]) else {
            panic!("a batch of votes")
        };
        let Gossip::ViewChange(change) = said(&blocks["view_changes"][1]) else {
            panic!("a view change")
        };
        let Gossip::Seal(seal) = said(&blocks["seals"][1]) else {
            panic!("a seal")
        };
        let block = CommittedBlock::decode(&bytes(&blocks["committed_block"])).expect("a block");
        let prepared = bytes(&blocks["prepare_certificate"]["bytes"]);
        let all = vectors("coins.json");
        let coins = all["coins"].as_array().expect("a list").iter().map(|coin| {
            let outpoint = OutPoint::from_bytes(&bytes(&coin["outpoint_bytes"])).expect("an outpoint");
            (outpoint, Coin::decode(&bytes(&coin["bytes"])).expect("a coin"))
        });
        // The vectors have a coin in the place of a rejection, which no page has.
        let mut coins: Vec<_> = coins.filter(|(outpoint, _)| !outpoint.is_rejection()).collect();
        coins.sort_by_key(|(outpoint, _)| *outpoint);
        Self {
            transaction: bytes(&vectors("transactions.json")["transactions"][0]["bytes"]),
            batch,
            lock: Certificate::decode(&bytes(&votes["lock_certificate"]["bytes"])).expect("a certificate"),
            vote: BlockVote {
                height: block.commit.height,
                round: Round(2),
                phase: Phase::Commit,
                block: block.commit.block,
                validator: 1,
                signature: Signature([9; 64]),
            },
            change,
            seal,
            prepared: BlockCertificate::decode(&prepared).expect("a certificate"),
            coins,
            block,
        }
    }

    fn proposal(&self) -> Proposal {
        Proposal {
            height: self.block.block.header.height,
            round: Round(0),
            header: self.block.block.header.clone(),
            txids: vec![TxId([1; 32]), TxId([2; 32])],
            rejections: self.block.block.rejections.clone(),
            seals: self.block.block.seals.clone(),
            last_commit: self.block.block.last_commit.clone(),
            justification: None,
            leader: 0,
            signature: Signature([7; 64]),
        }
    }

    fn gossip(&self) -> Vec<Vec<u8>> {
        let all = [
            Gossip::Transactions(vec![self.transaction.clone()]),
            Gossip::Votes(self.batch.clone()),
            Gossip::Proposal(Box::new(self.proposal())),
            Gossip::BlockVote(self.vote.clone()),
            Gossip::ViewChange(self.change.clone()),
            Gossip::Seal(self.seal.clone()),
            Gossip::Status(Status {
                height: Height(7),
                round: Round(1),
                epoch: Epoch(2),
                sequences: vec![0, 3, 300],
            }),
        ];
        all.iter().map(Gossip::encode).collect()
    }

    fn requests() -> Vec<Vec<u8>> {
        let txids = vec![TxId([1; 32]), TxId([2; 32])];
        let all = [
            Request::Blocks {
                from: Height(5),
                max_count: 100,
            },
            Request::Votes {
                epoch: Epoch(1),
                validator: 3,
                from_sequence: 9,
                max_count: 1_000,
            },
            Request::Transactions(txids.clone()),
            Request::Certificates {
                kind: VoteKind::Final,
                epoch: Epoch(1),
                txids,
            },
            Request::Proposal {
                height: Height(5),
                block: BlockId([3; 32]),
            },
            Request::Coins {
                cursor: vec![1, 2],
                limit: 1_000,
                end: vec![3],
            },
            Request::Digests,
            Request::ClosingHeaders {
                from: Epoch(0),
                max_count: 100,
            },
        ];
        all.iter().map(Request::encode).collect()
    }

    fn closing(&self) -> CertifiedHeader {
        CertifiedHeader {
            header: self.block.block.header.clone(),
            commit: self.block.commit.clone(),
        }
    }

    fn responses(&self) -> Vec<Vec<u8>> {
        let all = [
            Response::Blocks {
                blocks: vec![self.block.clone()],
                tip: Height(9),
            },
            Response::Votes(vec![self.batch.clone()]),
            Response::Transactions(vec![self.transaction.clone()]),
            Response::Certificates(vec![self.lock.clone()]),
            Response::Proposal(Box::new(self.proposal())),
            Response::Refused("not here".into()),
            Response::Coins(CoinPage {
                height: Height(3),
                entries: self.coins.clone(),
                more: true,
            }),
            Response::Digests {
                height: Height(3),
                digests: vec![Hash([5; 32]); 1_024],
            },
            Response::ClosingHeaders(vec![self.closing()]),
            Response::Pruned { from: Height(44) },
        ];
        all.iter().map(Response::encode).collect()
    }

    fn records(&self) -> Vec<Vec<u8>> {
        let all = [
            SafetyRecord::Votes(self.batch.clone()),
            SafetyRecord::Transaction(self.transaction.clone()),
            SafetyRecord::Signed {
                height: Height(4),
                round: Round(1),
                phase: Phase::Prepare,
                block: BlockId([3; 32]),
            },
            SafetyRecord::ViewChange(self.change.clone()),
            SafetyRecord::Prepared {
                proposal: self.proposal().into(),
                certificate: self.prepared.clone(),
            },
            SafetyRecord::Seal(self.seal.clone()),
            SafetyRecord::Silent(Epoch(3)),
            SafetyRecord::Seen(self.batch.clone()),
            SafetyRecord::Certificate(self.lock.clone()),
        ];
        all.iter().map(SafetyRecord::encode).collect()
    }

    fn transactions() -> Vec<Vec<u8>> {
        let all = vectors("transactions.json");
        let all = all["transactions"].as_array().expect("a list");
        let both = |one: &Value| [bytes(&one["bytes"]), bytes(&one["body"])];
        all.iter().flat_map(both).collect()
    }

    fn discovery(&self) -> Vec<Vec<u8>> {
        let announcement = Announcement {
            validator: PublicKey([6; 32]),
            peer: vec![1; 38],
            addresses: vec![vec![2; 8], vec![3; 20]],
            counter: 77,
            signature: Signature([4; 64]),
        };
        let neighbours = Neighbours {
            peers: vec![vec![1; 38], vec![2; 38]],
        };
        vec![
            announcement.to_gossip(),
            Announcement::answer([&announcement, &announcement].into_iter()),
            neighbours.to_gossip(),
        ]
    }
}

fn envelopes(payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let wrap = |payload: &Vec<u8>| Envelope::wrap(payload.clone()).expect("small");
    let mut all: Vec<_> = payloads.iter().map(|payload| wrap(payload).encode(1)).collect();
    let text = vec![b'a'; 5_000];
    all.push(wrap(&text).encode(0));
    all.push(
        wrap(&text)
            .published_by(libp2p::PeerId::from_bytes(&[0, 1, 7]).expect("a peer id"))
            .encode(0),
    );
    all.push(Envelope::refuse(Refusal::Busy).encode(0));
    all.push(gzipped(&text));
    all
}

/// An envelope as other languages may send it.
fn gzipped(payload: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(payload).expect("a Vec takes everything");
    let envelope = timecoin::proto::Envelope {
        compression: 2,
        size: payload.len() as u32,
        payload: encoder.finish().expect("a Vec takes everything"),
        ..Default::default()
    };
    envelope.encode_to_vec()
}

/// By target: one input of each kind that it understands.
fn seeds() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let parts = Parts::read();
    let coins = parts.coins.iter();
    let keys = vectors("keys.json");
    let addresses = keys["keys"][0]["addresses"].as_array().expect("a list").iter();
    BTreeMap::from([
        ("envelope", envelopes(&parts.gossip())),
        ("gossip", parts.gossip()),
        ("request", Parts::requests()),
        ("response", parts.responses()),
        ("discovery", parts.discovery()),
        ("transaction", Parts::transactions()),
        (
            "block",
            vec![
                parts.block.encode(),
                parts.block.block.header.encode(),
                parts.closing().encode(),
            ],
        ),
        ("certificate", vec![parts.lock.encode(), parts.prepared.encode()]),
        (
            "coin",
            coins
                .flat_map(|(outpoint, coin)| [outpoint.to_bytes().to_vec(), coin.encode()])
                .collect(),
        ),
        ("genesis", vec![bytes(&vectors("genesis.json")["bytes"])]),
        ("safety_record", parts.records()),
        (
            "address",
            addresses
                .map(|one| one.as_str().expect("text").as_bytes().to_vec())
                .collect(),
        ),
    ])
}

fn folder(target: &str) -> PathBuf {
    root().join("fuzz/corpus").join(target)
}

/// Writes the seeds, once and before anything is read, if that is asked for.
fn write_seeds() {
    static WRITTEN: Once = Once::new();
    WRITTEN.call_once(|| {
        if env::var_os("TIMECOIN_WRITE_CORPUS").is_none_or(|value| value != "1") {
            return;
        }
        for (target, seeds) in seeds() {
            fs::create_dir_all(folder(target)).expect("writable");
            for (number, seed) in seeds.iter().enumerate() {
                fs::write(folder(target).join(format!("seed-{number:02}")), seed).expect("writable");
            }
        }
    });
}

/// The files of a target's corpus.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    write_seeds();
    let files = fs::read_dir(folder(target)).unwrap_or_else(|error| panic!("{target} has no corpus: {error}"));
    let mut files: Vec<_> = files.map(|file| file.expect("readable").path()).collect();
    files.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("readable");
        (path, bytes)
    };
    files.into_iter().map(read).collect()
}

// ---- neighbours -------------------------------------------------------------------------------------------------

/// An input near one of the corpus.
fn neighbour(rng: &mut ChaCha8Rng, all: &[(PathBuf, Vec<u8>)], seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..7) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            2 if at < bytes.len() => bytes[at] = *[0, 1, 0x7F, 0x80, 0xFF].get(rng.random_range(0..5)).unwrap_or(&0),
            3 if at < bytes.len() => drop(bytes.remove(at)),
            4 => bytes.insert(at, rng.random()),
            // A part of it once more: repeated fields, fields out of order.
            5 => {
                let to = rng.random_range(at..=bytes.len());
                let part = bytes[at..to].to_vec();
                let place = rng.random_range(0..=bytes.len());
                bytes.splice(place..place, part);
            }
            // The beginning of this with the end of another.
            _ => {
                let other = &all[rng.random_range(0..all.len())].1;
                let from = rng.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

// ---- tests ------------------------------------------------------------------------------------------------------

#[test]
fn the_corpus_and_its_neighbours_hold() {
    for target in targets::TARGETS {
        let all = corpus(target.name);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (path, bytes) in &all {
            holds(target, bytes, &path.display().to_string());
            for number in 0..NEIGHBOURS {
                let bytes = neighbour(&mut rng, &all, bytes);
                holds(target, &bytes, &format!("neighbour {number} of {}", path.display()));
            }
        }
    }
}

fn holds(target: &targets::Target, bytes: &[u8], what: &str) {
    if std::panic::catch_unwind(|| targets::run(target.name, bytes)).is_err() {
        panic!(
            "target {} does not hold for {what}; keep it as a file of fuzz/corpus/{}: {}",
            target.name,
            target.name,
            hex::encode(bytes)
        );
    }
}

/// A corpus that nothing understands would show nothing.
#[test]
fn every_seed_is_in_the_corpus_and_is_understood() {
    for (target, seeds) in seeds() {
        assert!(
            targets::TARGETS.iter().any(|known| known.name == target),
            "{target} is a target"
        );
        let kept = corpus(target);
        for (number, seed) in seeds.iter().enumerate() {
            assert!(
                kept.iter().any(|(_, bytes)| bytes == seed),
                "{target}: seed {number} is not in the corpus"
            );
            assert!(understood(target, seed), "{target}: seed {number}");
        }
    }
    assert_eq!(seeds().len(), targets::TARGETS.len(), "every target has seeds");
}

fn understood(target: &str, bytes: &[u8]) -> bool {
    use timecoin::primitives as p;
    let text = || std::str::from_utf8(bytes).unwrap_or_default();
    match target {
        "envelope" => Envelope::parse(bytes.to_vec().into()).is_ok_and(|envelope| envelope.open().is_ok()),
        "gossip" => Gossip::decode(bytes).is_ok(),
        "request" => Request::decode(bytes).is_ok(),
        "response" => Response::decode(bytes).is_ok(),
        "discovery" => {
            Announcement::from_gossip(bytes).is_ok()
                || Announcement::from_answer(bytes).is_ok()
                || Neighbours::from_gossip(bytes).is_ok()
        }
        "transaction" => {
            p::Transaction::decode(&p::ChainId([7; 32]), bytes).is_ok() || p::TransactionBody::decode(bytes).is_ok()
        }
        "block" => {
            CommittedBlock::decode(bytes).is_ok()
                || p::BlockHeader::decode(bytes).is_ok()
                || CertifiedHeader::decode(bytes).is_ok()
        }
        "certificate" => Certificate::decode(bytes).is_ok() || BlockCertificate::decode(bytes).is_ok(),
        "coin" => Coin::decode(bytes).is_ok() || OutPoint::from_bytes(bytes).is_ok(),
        "genesis" => p::Genesis::decode(bytes).is_ok(),
        "safety_record" => SafetyRecord::decode(bytes).is_ok(),
        "address" => p::address::PREFIXES
            .iter()
            .any(|network| p::Address::parse(text(), network).is_ok()),
        _ => false,
    }
}
