//! What is fuzzed: every decoder that reads what a stranger, a disk or a person gives. Each target takes any bytes, must
//! not panic, and holds what it understood against what it was given:
//!
//! - where bytes are hashed or signed (`exact`), what decodes encodes to the same bytes;
//! - elsewhere (`stable`), what decodes encodes to something that decodes to the same value, and to the same bytes
//!   again; and bytes that are canonical Protobuf come back as they were.
//!
//! Shared by `fuzz_targets/` (cargo-fuzz) and `tests/fuzzing.rs` (the corpus and its neighbours, in CI).

use prost::Message;
use timecoin::{
    network::envelope::{Envelope, EnvelopeError},
    primitives::{
        Address, Announcement, BlockCertificate, BlockHeader, Certificate, CertifiedHeader, ChainId, Coin,
        CommittedBlock, DecodeError, Genesis, Gossip, Neighbours, OutPoint, Request, Response, Transaction,
        TransactionBody,
        kinds::{Channel, Kind, Topic},
    },
    proto,
    replica::SafetyRecord,
};

/// A decoder under test.
pub struct Target {
    /// Its name: that of the folder in `corpus/` and of the program in `fuzz_targets/`.
    pub name: &'static str,
    /// Panics when something does not hold.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "envelope",
        run: envelope,
    },
    Target {
        name: "gossip",
        run: gossip,
    },
    Target {
        name: "request",
        run: request,
    },
    Target {
        name: "response",
        run: response,
    },
    Target {
        name: "discovery",
        run: discovery,
    },
    Target {
        name: "transaction",
        run: transaction,
    },
    Target {
        name: "block",
        run: block,
    },
    Target {
        name: "certificate",
        run: certificate,
    },
    Target {
        name: "coin",
        run: coin,
    },
    Target {
        name: "genesis",
        run: genesis,
    },
    Target {
        name: "safety_record",
        run: safety_record,
    },
    Target {
        name: "address",
        run: address,
    },
];

/// Runs the target of a name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of this name").run)(bytes);
}

const CHAIN: ChainId = ChainId([7; 32]);

fn exact<T, E>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, E>, encode: impl Fn(&T) -> Vec<u8>) {
    if let Ok(value) = decode(bytes) {
        assert_eq!(encode(&value), bytes, "what decodes encodes to the same bytes");
    }
}

fn stable<T, M>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, DecodeError>, encode: impl Fn(&T) -> Vec<u8>)
where
    T: PartialEq + std::fmt::Debug,
    M: Message + Default,
{
    let Ok(value) = decode(bytes) else { return };
    let once = encode(&value);
    assert_eq!(
        decode(&once).as_ref(),
        Ok(&value),
        "what was understood is understood again"
    );
    let canonical = M::decode(bytes).is_ok_and(|message| message.encode_to_vec() == bytes);
    assert!(!canonical || once == bytes, "canonical bytes come back as they were");
}

fn envelope(bytes: &[u8]) {
    let open = |bytes: &[u8]| -> Result<_, EnvelopeError> {
        let envelope = Envelope::parse(bytes.to_vec().into())?.expect_payload()?;
        // Ten megabytes for each input would only show how fast zeros are written.
        (!envelope.is_heavy()).then(|| envelope.open()).transpose()
    };
    if let Ok(Some(payload)) = open(bytes) {
        let again = Envelope::wrap(payload.to_vec()).expect("it was within the limits");
        assert_eq!(open(&again.encode(0)), Ok(Some(payload)), "the payload survives");
    }
}

fn gossip(bytes: &[u8]) {
    stable::<_, proto::Gossip>(bytes, Gossip::decode, Gossip::encode);
    for topic in Topic::ALL {
        let _ = Kind::check(Channel::Gossip(topic), bytes);
    }
}

fn request(bytes: &[u8]) {
    stable::<_, proto::Request>(bytes, Request::decode, Request::encode);
}

fn response(bytes: &[u8]) {
    stable::<_, proto::Response>(bytes, Response::decode, Response::encode);
}

fn discovery(bytes: &[u8]) {
    stable::<_, proto::Gossip>(bytes, Announcement::from_gossip, Announcement::to_gossip);
    stable::<_, proto::Gossip>(bytes, Neighbours::from_gossip, Neighbours::to_gossip);
    let _ = Announcement::from_answer(bytes);
}

fn transaction(bytes: &[u8]) {
    exact(
        bytes,
        |bytes| Transaction::decode(&CHAIN, bytes),
        |value| value.bytes().to_vec(),
    );
    exact(bytes, TransactionBody::decode, TransactionBody::encode);
    let _ = timecoin::ledger::check::check(&CHAIN, bytes);
}

fn block(bytes: &[u8]) {
    exact(bytes, BlockHeader::decode, BlockHeader::encode);
    stable::<_, proto::CommittedBlock>(bytes, CommittedBlock::decode, CommittedBlock::encode);
    stable::<_, proto::CertifiedHeader>(bytes, CertifiedHeader::decode, CertifiedHeader::encode);
}

fn certificate(bytes: &[u8]) {
    stable::<_, proto::Certificate>(bytes, Certificate::decode, Certificate::encode);
    stable::<_, proto::BlockCertificate>(bytes, BlockCertificate::decode, BlockCertificate::encode);
}

fn coin(bytes: &[u8]) {
    exact(bytes, Coin::decode, Coin::encode);
    exact(bytes, OutPoint::from_bytes, |outpoint| outpoint.to_bytes().to_vec());
}

fn genesis(bytes: &[u8]) {
    exact(bytes, Genesis::decode, Genesis::encode);
}

fn safety_record(bytes: &[u8]) {
    stable::<_, proto::SafetyRecord>(bytes, SafetyRecord::decode, SafetyRecord::encode);
}

fn address(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for network in ["time", "ttime", "ltime"] {
        if let Ok(address) = Address::parse(text, network) {
            assert_eq!(address.to_string(), text.to_lowercase(), "an address has one spelling");
        }
    }
}
