//! The wrapper around every payload on the wire: compression, size limits, re-publication counter.
//!
//! A receiver trusts nothing in it. The order of checks is what makes it safe to read from strangers:
//!
//! 1. the length of the envelope, before it is parsed;
//! 2. its form: known fields only, nothing after them, every default left out (so one payload has few encodings);
//! 3. the declared size, against the limit and against what the compression could possibly reach, before memory is
//!    reserved;
//! 4. the real size, while decompressing: the output never grows past what was declared;
//! 5. declared and real size must agree in the end.

use std::io::Read;

use flate2::bufread::GzDecoder;
use prost::Message;
use prost::bytes::Bytes;

use super::Fault;
use crate::primitives::{DecodeError, limits::MAX_PEER_BYTES};

/// The most bytes that a payload may have, compressed or not (protocol section 9).
pub const MAX_MESSAGE_SIZE: usize = 10_000_000;
/// Payloads above this many bytes are compressed when that makes them smaller (protocol section 9).
pub const COMPRESSION_THRESHOLD: usize = 1_024;
/// Bytes that an envelope may have beyond its payload: tags and lengths of its fields and the longest origin,
/// rounded up.
pub const ENVELOPE_OVERHEAD: usize = 128;
/// The highest `attempt`. It bounds how many encodings, and so gossip names, one payload has.
pub const MAX_ATTEMPT: u32 = 32;
/// (De)compressing up to this many bytes takes less than 0.1 ms and is done in place; more goes to a blocking thread.
pub const INLINE_LIMIT: usize = 64 * 1_024;

/// Raw Snappy's longest copy writes 64 bytes for 3, so no input grows more than this.
const SNAPPY_MAX_RATIO: usize = 22;
/// DEFLATE's limit is 1,032 : 1.
const GZIP_MAX_RATIO: usize = 1_033;

const NONE: i32 = 0;
const SNAPPY: i32 = 1;
const GZIP: i32 = 2;

/// `timecoin.v1.Envelope`, field for field.
#[derive(Clone, PartialEq, Eq, Message)]
struct Wire {
    #[prost(int32, tag = "1")]
    compression: i32,
    #[prost(uint32, tag = "2")]
    size: u32,
    #[prost(uint32, tag = "3")]
    attempt: u32,
    #[prost(bytes = "bytes", tag = "4")]
    payload: Bytes,
    #[prost(int32, tag = "5")]
    refusal: i32,
    #[prost(bytes = "bytes", tag = "6")]
    origin: Bytes,
}

/// Why a peer did not answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request was over a size limit.
    #[error("the request is over the peer's size limit")]
    TooLarge,
    /// The request could not be read.
    #[error("the peer could not read the request")]
    Malformed,
    /// Too much is in flight at the peer.
    #[error("the peer is busy")]
    Busy,
    /// The answer would be over the size limit: ask for less.
    #[error("the answer would be over the size limit of {MAX_MESSAGE_SIZE} bytes")]
    AnswerTooLarge,
}

impl Refusal {
    const fn code(self) -> i32 {
        match self {
            Self::TooLarge => 1,
            Self::Malformed => 2,
            Self::Busy => 3,
            Self::AnswerTooLarge => 4,
        }
    }

    const fn from_code(code: i32) -> Option<Self> {
        match code {
            1 => Some(Self::TooLarge),
            2 => Some(Self::Malformed),
            3 => Some(Self::Busy),
            4 => Some(Self::AnswerTooLarge),
            _ => None,
        }
    }
}

/// What is wrong with an envelope (protocol section 9).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// More bytes than any envelope may have; refused before they are parsed, or even read.
    #[error("an envelope of {bytes} bytes, at most {limit} are allowed")]
    EnvelopeTooLarge {
        /// Length of the envelope, announced or real.
        bytes: u64,
        /// The most bytes allowed.
        limit: usize,
    },
    /// A payload over the limit, to be sent or as declared by a peer.
    #[error("a payload of {bytes} bytes, at most {MAX_MESSAGE_SIZE} are allowed")]
    PayloadTooLarge {
        /// Length of the payload.
        bytes: u64,
    },
    /// Not a Protobuf message of this kind.
    #[error("not an envelope: {0}")]
    Malformed(String),
    /// Unknown fields, explicit defaults or over-long numbers: the same content has a shorter encoding.
    #[error("an envelope of {bytes} bytes whose canonical form has {canonical}")]
    NonCanonical {
        /// Length as received.
        bytes: usize,
        /// Length of what was understood, encoded again.
        canonical: usize,
    },
    /// A compression that this node does not know; perhaps the peer is newer.
    #[error("unknown compression {0}")]
    UnknownCompression(i32),
    /// The re-publication counter is over its limit.
    #[error("attempt {attempt}, at most {MAX_ATTEMPT} are allowed")]
    AttemptTooHigh {
        /// The counter as received.
        attempt: u32,
    },
    /// No peer id has so many bytes.
    #[error("an origin of {bytes} bytes, at most {MAX_PEER_BYTES} are allowed")]
    OriginTooLong {
        /// Its length.
        bytes: usize,
    },
    /// A refusal where none belongs, one with a payload, or an unknown one.
    #[error("refusal {code} with {bytes} bytes of payload where that makes no sense")]
    BadRefusal {
        /// The refusal's number.
        code: i32,
        /// Length of the payload beside it.
        bytes: usize,
    },
    /// The declared size cannot come out of so few compressed bytes: a bomb.
    #[error("{compressed} compressed bytes cannot become the {declared} declared")]
    Implausible {
        /// Length of the compressed payload.
        compressed: usize,
        /// Declared length.
        declared: usize,
    },
    /// The payload has another length than declared. `real` stops counting one past `declared`.
    #[error("{declared} bytes declared, {real} found")]
    SizeMismatch {
        /// Declared length.
        declared: usize,
        /// Real length.
        real: usize,
    },
    /// What is inside is of no type, or larger than its type allows.
    #[error(transparent)]
    Content(#[from] DecodeError),
    /// A type of message that does not belong to the topic it came on.
    #[error("{kind} came on the topic {topic}")]
    WrongTopic {
        /// The type.
        kind: &'static str,
        /// The topic.
        topic: &'static str,
    },
    /// An answer to something else than what was asked.
    #[error("{answer} came as the answer to {request}")]
    WrongAnswer {
        /// The type of the answer.
        answer: &'static str,
        /// The type of the request.
        request: &'static str,
    },
    /// The compressed bytes are damaged, or something follows them.
    #[error("the compressed payload is damaged: {0}")]
    Damaged(String),
}

impl EnvelopeError {
    /// How much the sender is to blame. Only what a newer version might know could be meant well.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::UnknownCompression(_) | Self::Content(DecodeError::UnknownKind { .. }) => Fault::Careless,
            _ => Fault::Hostile,
        }
    }

    /// What to answer a request that failed so.
    pub(super) const fn refusal(&self) -> Refusal {
        match self {
            Self::EnvelopeTooLarge { .. }
            | Self::PayloadTooLarge { .. }
            | Self::Content(DecodeError::TooLarge { .. }) => Refusal::TooLarge,
            _ => Refusal::Malformed,
        }
    }
}

/// An envelope whose form has been checked; its payload may still be compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    wire: Wire,
}

impl Envelope {
    /// Wraps a payload, with Snappy if it is over the threshold and shrinks by at least one part in sixteen (less is
    /// not worth the receiver's work).
    ///
    /// # Errors
    /// [`EnvelopeError::PayloadTooLarge`].
    pub fn wrap(payload: Vec<u8>) -> Result<Self, EnvelopeError> {
        let size = checked_size(payload.len() as u64)?;
        let (compression, payload) = match squeeze(&payload) {
            Some(smaller) => (SNAPPY, smaller),
            None => (NONE, payload),
        };
        Ok(Self {
            wire: Wire {
                compression,
                size,
                attempt: 0,
                payload: payload.into(),
                refusal: 0,
                origin: Bytes::new(),
            },
        })
    }

    /// An answer that says why there is none.
    pub fn refuse(refusal: Refusal) -> Self {
        Self {
            wire: Wire {
                compression: NONE,
                size: 0,
                attempt: 0,
                payload: Bytes::new(),
                refusal: refusal.code(),
                origin: Bytes::new(),
            },
        }
    }

    /// Says who publishes it.
    pub fn published_by(mut self, peer: libp2p::PeerId) -> Self {
        self.wire.origin = peer.to_bytes().into();
        self
    }

    /// Whether this peer says that it published it.
    pub fn is_published_by(&self, peer: libp2p::PeerId) -> bool {
        self.wire.origin == peer.to_bytes()
    }

    /// The bytes for the wire, stamped with the number of the attempt.
    pub fn encode(&self, attempt: u32) -> Vec<u8> {
        // Cloning costs nothing: the payload is shared.
        Wire {
            attempt,
            ..self.wire.clone()
        }
        .encode_to_vec()
    }

    /// Bytes of the payload as it travels.
    pub(super) fn len(&self) -> usize {
        self.wire.payload.len()
    }

    /// Parses and checks all that can be checked without decompressing. Copies nothing.
    ///
    /// # Errors
    /// Every variant of [`EnvelopeError`] but those of decompression.
    pub fn parse(bytes: Bytes) -> Result<Self, EnvelopeError> {
        let limit = MAX_MESSAGE_SIZE + ENVELOPE_OVERHEAD;
        if bytes.len() > limit {
            return Err(EnvelopeError::EnvelopeTooLarge {
                bytes: bytes.len() as u64,
                limit,
            });
        }
        let length = bytes.len();
        let wire = Wire::decode(bytes).map_err(|error| EnvelopeError::Malformed(error.to_string()))?;
        let canonical = wire.encoded_len();
        if canonical != length {
            return Err(EnvelopeError::NonCanonical {
                bytes: length,
                canonical,
            });
        }
        check(&wire)?;
        Ok(Self { wire })
    }

    /// Why the peer refused, if this is a refusal.
    pub fn refusal(&self) -> Option<Refusal> {
        Refusal::from_code(self.wire.refusal)
    }

    /// Takes the payload of a gossip message or a request, where a refusal has no place.
    ///
    /// # Errors
    /// [`EnvelopeError::BadRefusal`].
    pub fn expect_payload(self) -> Result<Self, EnvelopeError> {
        match self.wire.refusal {
            0 => Ok(self),
            code => Err(EnvelopeError::BadRefusal {
                code,
                bytes: self.wire.payload.len(),
            }),
        }
    }

    /// Refuses what says that it is larger than anything of its kind, before it is decompressed.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`], with the name given.
    pub(super) fn expect_at_most(self, what: &'static str, max: usize) -> Result<Self, EnvelopeError> {
        match self.wire.size as usize {
            bytes if bytes > max => Err(DecodeError::TooLarge { what, bytes, max }.into()),
            _ => Ok(self),
        }
    }

    /// Whether [`Envelope::open`] is too much work for an async thread.
    pub fn is_heavy(&self) -> bool {
        self.wire.compression != NONE && self.wire.size as usize > INLINE_LIMIT
    }

    /// The payload, decompressed. Never reserves or writes more than the declared size (plus one byte).
    ///
    /// # Errors
    /// [`EnvelopeError::SizeMismatch`], [`EnvelopeError::Damaged`].
    pub fn open(self) -> Result<Bytes, EnvelopeError> {
        let declared = self.wire.size as usize;
        match self.wire.compression {
            SNAPPY => unsnap(&self.wire.payload, declared).map(Bytes::from),
            GZIP => gunzip(&self.wire.payload, declared).map(Bytes::from),
            _ => Ok(self.wire.payload),
        }
    }
}

fn checked_size(bytes: u64) -> Result<u32, EnvelopeError> {
    match u32::try_from(bytes) {
        Ok(size) if bytes <= MAX_MESSAGE_SIZE as u64 => Ok(size),
        _ => Err(EnvelopeError::PayloadTooLarge { bytes }),
    }
}

fn squeeze(payload: &[u8]) -> Option<Vec<u8>> {
    if payload.len() <= COMPRESSION_THRESHOLD {
        return None;
    }
    let smaller = snap::raw::Encoder::new().compress_vec(payload).ok()?;
    (smaller.len() <= payload.len() - payload.len() / 16).then_some(smaller)
}

fn check(wire: &Wire) -> Result<(), EnvelopeError> {
    let declared = wire.size as usize;
    let real = wire.payload.len();
    checked_size(u64::from(wire.size))?;
    checked_size(real as u64)?;
    if wire.attempt > MAX_ATTEMPT {
        return Err(EnvelopeError::AttemptTooHigh { attempt: wire.attempt });
    }
    if wire.origin.len() > MAX_PEER_BYTES {
        let bytes = wire.origin.len();
        return Err(EnvelopeError::OriginTooLong { bytes });
    }
    if wire.refusal != 0 && (Refusal::from_code(wire.refusal).is_none() || real != 0 || declared != 0) {
        return Err(EnvelopeError::BadRefusal {
            code: wire.refusal,
            bytes: real,
        });
    }
    let ratio = match wire.compression {
        NONE if declared == real => return Ok(()),
        NONE => return Err(EnvelopeError::SizeMismatch { declared, real }),
        SNAPPY => SNAPPY_MAX_RATIO,
        GZIP => GZIP_MAX_RATIO,
        other => return Err(EnvelopeError::UnknownCompression(other)),
    };
    if declared > real * ratio {
        return Err(EnvelopeError::Implausible {
            compressed: real,
            declared,
        });
    }
    Ok(())
}

fn unsnap(compressed: &[u8], declared: usize) -> Result<Vec<u8>, EnvelopeError> {
    let damaged = |error: snap::Error| EnvelopeError::Damaged(error.to_string());
    // The format has its own idea of the size; it must be ours before memory is reserved for it.
    let real = snap::raw::decompress_len(compressed).map_err(damaged)?;
    if real != declared {
        return Err(EnvelopeError::SizeMismatch { declared, real });
    }
    let mut output = vec![0; declared];
    let written = snap::raw::Decoder::new()
        .decompress(compressed, &mut output)
        .map_err(damaged)?;
    if written != declared {
        return Err(EnvelopeError::SizeMismatch {
            declared,
            real: written,
        });
    }
    Ok(output)
}

fn gunzip(compressed: &[u8], declared: usize) -> Result<Vec<u8>, EnvelopeError> {
    let mut decoder = GzDecoder::new(compressed);
    // Grows with what really comes out, since the format cannot tell its size in advance.
    let mut output = Vec::with_capacity(declared.min(INLINE_LIMIT));
    let limit = declared as u64 + 1;
    decoder
        .by_ref()
        .take(limit)
        .read_to_end(&mut output)
        .map_err(|error| EnvelopeError::Damaged(error.to_string()))?;
    if output.len() != declared {
        return Err(EnvelopeError::SizeMismatch {
            declared,
            real: output.len(),
        });
    }
    let rest = decoder.into_inner().len();
    if rest != 0 {
        return Err(EnvelopeError::Damaged(format!("{rest} bytes after the end")));
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn gzip(payload: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(payload).expect("a Vec takes everything");
        encoder.finish().expect("a Vec takes everything")
    }

    fn wire(compression: i32, size: usize, payload: Vec<u8>) -> Wire {
        Wire {
            compression,
            size: size as u32,
            attempt: 0,
            payload: payload.into(),
            refusal: 0,
            origin: Bytes::new(),
        }
    }

    fn receive(wire: &Wire) -> Result<Bytes, EnvelopeError> {
        Envelope::parse(wire.encode_to_vec().into())?.expect_payload()?.open()
    }

    fn text(length: usize) -> Vec<u8> {
        b"all work and no play makes a dull node. "
            .iter()
            .copied()
            .cycle()
            .take(length)
            .collect()
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let step = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 32) as u8
        };
        (0..length).map(|_| step(&mut state)).collect()
    }

    #[test]
    fn the_bytes_are_those_of_the_proto_file() {
        let plain = Envelope::wrap(b"abc".to_vec()).expect("small").encode(2);
        assert_eq!(plain, [0x10, 3, 0x18, 2, 0x22, 3, b'a', b'b', b'c']);
        let refusal = Envelope::refuse(Refusal::Busy).encode(0);
        assert_eq!(refusal, [0x28, 3]);
        let compressed = Envelope::wrap(text(2_000)).expect("small").encode(0);
        assert_eq!(compressed[..5], [0x08, 1, 0x10, 0xD0, 0x0F], "Snappy, 2,000 bytes");
    }

    #[test]
    fn the_origin_is_the_last_field_and_may_be_left_out() {
        let (author, other) = (libp2p::PeerId::random(), libp2p::PeerId::random());
        let anonymous = Envelope::wrap(b"abc".to_vec()).expect("small");
        assert!(!anonymous.is_published_by(author));
        let signed = anonymous.clone().published_by(author);
        let bytes = signed.encode(0);
        let id = author.to_bytes();
        assert_eq!(bytes, [&anonymous.encode(0)[..], &[0x32, id.len() as u8], &id].concat());
        let parsed = Envelope::parse(bytes.into()).expect("whole");
        assert!(parsed.is_published_by(author) && !parsed.is_published_by(other));
    }

    #[test]
    fn compresses_above_the_threshold_and_only_when_it_helps() {
        let compression = |payload| Envelope::wrap(payload).expect("small").wire.compression;
        assert_eq!(compression(text(COMPRESSION_THRESHOLD)), NONE);
        assert_eq!(compression(text(COMPRESSION_THRESHOLD + 1)), SNAPPY);
        assert_eq!(compression(noise(5_000)), NONE);
    }

    #[test]
    fn an_attempt_changes_the_bytes_and_nothing_else() {
        let envelope = Envelope::wrap(b"vote".to_vec()).expect("small");
        assert_ne!(envelope.encode(0), envelope.encode(1));
        let again = Envelope::parse(envelope.encode(1).into()).expect("valid");
        assert_eq!(again.open().expect("valid"), &b"vote"[..]);
    }

    #[test]
    fn the_largest_payload_passes_and_one_byte_more_does_not() {
        let largest = noise(MAX_MESSAGE_SIZE);
        let bytes = Envelope::wrap(largest.clone())
            .expect("at the limit")
            .encode(MAX_ATTEMPT);
        assert!(bytes.len() <= MAX_MESSAGE_SIZE + ENVELOPE_OVERHEAD);
        assert_eq!(
            Envelope::parse(bytes.into()).expect("valid").open().expect("valid"),
            largest
        );
        let error = Envelope::wrap(vec![0; MAX_MESSAGE_SIZE + 1]).expect_err("over the limit");
        assert_eq!(
            error,
            EnvelopeError::PayloadTooLarge {
                bytes: MAX_MESSAGE_SIZE as u64 + 1
            }
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let over = MAX_MESSAGE_SIZE + 1;
        let zeros = gzip(&vec![0; over]);
        let ten = gzip(&[7; 10]);
        let mut trailing = ten.clone();
        trailing.push(0);
        let mut flipped = gzip(&text(100));
        let checksum = flipped.len() - 6;
        flipped[checksum] ^= 1;
        let snapped = snap::raw::Encoder::new()
            .compress_vec(&text(5_000))
            .expect("compresses");
        let mut cut = snapped.clone();
        cut.truncate(cut.len() - 1);
        let rows = [
            ("size over the limit", wire(NONE, over, vec![]), "PayloadTooLarge"),
            (
                "payload longer than declared",
                wire(NONE, 2, vec![1, 2, 3]),
                "SizeMismatch",
            ),
            (
                "payload shorter than declared",
                wire(NONE, 4, vec![1, 2, 3]),
                "SizeMismatch",
            ),
            (
                "gzip bomb, honest about it",
                wire(GZIP, over, zeros.clone()),
                "PayloadTooLarge",
            ),
            ("gzip bomb, declared small", wire(GZIP, 100, zeros), "SizeMismatch"),
            (
                "gzip shorter than declared",
                wire(GZIP, 11, ten.clone()),
                "SizeMismatch",
            ),
            ("gzip with something behind", wire(GZIP, 10, trailing), "Damaged"),
            ("gzip with a wrong checksum", wire(GZIP, 100, flipped), "Damaged"),
            ("gzip that is none", wire(GZIP, 10, vec![1, 2, 3]), "Damaged"),
            (
                "gzip of nothing that claims much",
                wire(GZIP, 1_000_000, ten),
                "Implausible",
            ),
            (
                "snappy that claims much",
                wire(SNAPPY, MAX_MESSAGE_SIZE, snapped[..9].to_vec()),
                "Implausible",
            ),
            (
                "snappy, declared small",
                wire(SNAPPY, 4_999, snapped.clone()),
                "SizeMismatch",
            ),
            ("snappy, declared large", wire(SNAPPY, 5_001, snapped), "SizeMismatch"),
            ("snappy, cut", wire(SNAPPY, 5_000, cut), "Damaged"),
            ("unknown compression", wire(3, 1, vec![1]), "UnknownCompression"),
            (
                "attempt",
                Wire {
                    attempt: MAX_ATTEMPT + 1,
                    ..wire(NONE, 0, vec![])
                },
                "AttemptTooHigh",
            ),
            (
                "origin",
                Wire {
                    origin: vec![1; MAX_PEER_BYTES + 1].into(),
                    ..wire(NONE, 0, vec![])
                },
                "OriginTooLong",
            ),
            (
                "refusal where none belongs",
                Wire {
                    refusal: 3,
                    ..wire(NONE, 0, vec![])
                },
                "BadRefusal",
            ),
            (
                "refusal with a payload",
                Wire {
                    refusal: 3,
                    ..wire(NONE, 1, vec![1])
                },
                "BadRefusal",
            ),
            (
                "unknown refusal",
                Wire {
                    refusal: 9,
                    ..wire(NONE, 0, vec![])
                },
                "BadRefusal",
            ),
        ];
        for (name, wire, expected) in rows {
            let error = receive(&wire).expect_err(name);
            assert!(
                format!("{error:?}").starts_with(expected),
                "{name}: {error:?}, expected {expected}"
            );
        }
    }

    #[test]
    fn other_encodings_of_the_same_content_are_refused() {
        let plain = Envelope::wrap(b"abc".to_vec()).expect("small").encode(0);
        let unknown_field = [&plain[..], &[0x78, 1]].concat();
        let explicit_default = [&[0x18, 0], &plain[..]].concat();
        let long_number = [&[0x10, 0x83, 0], &plain[2..]].concat();
        for bytes in [unknown_field, explicit_default, long_number] {
            let error = Envelope::parse(bytes.into()).expect_err("not canonical");
            assert!(matches!(error, EnvelopeError::NonCanonical { .. }), "{error:?}");
        }
    }

    #[test]
    fn an_oversized_envelope_is_not_even_parsed() {
        let bytes = vec![0xFF; MAX_MESSAGE_SIZE + ENVELOPE_OVERHEAD + 1];
        let error = Envelope::parse(bytes.into()).expect_err("too large");
        assert!(matches!(error, EnvelopeError::EnvelopeTooLarge { .. }), "{error:?}");
    }

    proptest! {
        #[test]
        fn any_payload_comes_back(payload in proptest::collection::vec(any::<u8>(), 0..5_000), repeat in 1_usize..20, attempt in 0..=MAX_ATTEMPT) {
            let payload = payload.repeat(repeat);
            let bytes = Envelope::wrap(payload.clone()).expect("small").encode(attempt);
            let opened = Envelope::parse(bytes.into()).and_then(Envelope::expect_payload).and_then(Envelope::open);
            prop_assert_eq!(opened.expect("valid"), payload);
        }

        #[test]
        fn gzip_is_understood(payload in proptest::collection::vec(0_u8..4, 0..5_000)) {
            let wire = wire(GZIP, payload.len(), gzip(&payload));
            prop_assert_eq!(receive(&wire).expect("valid"), payload);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Envelope::parse(bytes.into()).and_then(Envelope::open);
        }

        #[test]
        fn a_damaged_envelope_never_opens_as_something_longer(flips in proptest::collection::vec((0_usize..400, any::<u8>()), 1..4), gz in any::<bool>()) {
            let payload = text(3_000);
            let mut bytes = if gz {
                wire(GZIP, payload.len(), gzip(&payload)).encode_to_vec()
            } else {
                Envelope::wrap(payload).expect("small").encode(0)
            };
            for (at, mask) in flips {
                let at = at % bytes.len();
                bytes[at] ^= mask;
            }
            if let Ok(envelope) = Envelope::parse(bytes.into()) {
                let declared = envelope.wire.size as usize;
                if let Ok(opened) = envelope.open() {
                    prop_assert_eq!(opened.len(), declared);
                }
            }
        }
    }
}
