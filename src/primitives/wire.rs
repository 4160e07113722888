//! From bytes to values and back: the canonical check, and what can be wrong with bytes.

use super::fault::Fault;
use prost::Message;
use thiserror::Error;

/// What is wrong with bytes that should be a message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not Protobuf, or not of this type.
    #[error("{what}: not decodable: {reason}")]
    Malformed {
        /// The type that was expected.
        what: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// Decodes, but encoding the result gives other bytes (unknown fields, wrong order, explicit defaults).
    #[error("{what}: bytes are not canonical: encoding the decoded value gives other bytes")]
    NonCanonical {
        /// The type that was expected.
        what: &'static str,
    },
    /// A field that must have an exact length has another.
    #[error("{what}: {length} bytes, expected {expected}")]
    Length {
        /// The field.
        what: &'static str,
        /// Bytes found.
        length: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// More (or fewer) items or bytes than allowed.
    #[error("{what}: {count}, allowed are {min} to {max}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// The least allowed.
        min: usize,
        /// The most allowed.
        max: usize,
    },
    /// A message that is larger than its type allows.
    #[error("{what}: {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// The type.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The most allowed.
        max: usize,
    },
    /// A type of message that this node does not know; perhaps the sender is newer.
    #[error("{what}: unknown type {field}")]
    UnknownKind {
        /// How it came.
        what: &'static str,
        /// The type's field.
        field: u64,
    },
    /// A field that must be there is not.
    #[error("{what} is missing")]
    Missing {
        /// The field.
        what: &'static str,
    },
    /// A field has a value that means nothing.
    #[error("{what}: unknown value {value}")]
    Unknown {
        /// The field.
        what: &'static str,
        /// What it says.
        value: i64,
    },
    /// Items that must be in strictly ascending order (and so be distinct) are not.
    #[error("{what}: not in strictly ascending order at position {position}")]
    Order {
        /// The list.
        what: &'static str,
        /// Where the order breaks.
        position: usize,
    },
}

impl DecodeError {
    /// No correct program sends such bytes, but a newer one may know more types.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::UnknownKind { .. } => Fault::Careless,
            _ => Fault::Hostile,
        }
    }
}

/// Decodes a Protobuf message.
pub fn decode<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|error| DecodeError::Malformed {
        what,
        reason: error.to_string(),
    })
}

/// Decodes a Protobuf message whose bytes are hashed: they must be exactly what encoding the value gives.
pub fn decode_canonical<M: Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, DecodeError> {
    let message: M = decode(what, bytes)?;
    if message.encoded_len() != bytes.len() || message.encode_to_vec() != bytes {
        return Err(DecodeError::NonCanonical { what });
    }
    Ok(message)
}

/// A field of exactly `N` bytes.
pub fn array<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::Length {
        what,
        length: bytes.len(),
        expected: N,
    })
}

/// A field that must be there.
pub fn required<T>(what: &'static str, field: Option<T>) -> Result<T, DecodeError> {
    field.ok_or(DecodeError::Missing { what })
}

/// A count within its limits.
pub const fn count(what: &'static str, count: usize, min: usize, max: usize) -> Result<(), DecodeError> {
    if count < min || count > max {
        Err(DecodeError::Count { what, count, min, max })
    } else {
        Ok(())
    }
}

/// Items in strictly ascending order.
pub fn ascending<T: Ord>(what: &'static str, items: &[T]) -> Result<(), DecodeError> {
    match items.windows(2).position(|pair| pair[0] >= pair[1]) {
        Some(position) => Err(DecodeError::Order {
            what,
            position: position + 1,
        }),
        None => Ok(()),
    }
}

/// A field that is a run of `N`-byte items, at most `max` of them.
pub fn arrays<const N: usize>(what: &'static str, bytes: &[u8], max: usize) -> Result<Vec<[u8; N]>, DecodeError> {
    if !bytes.len().is_multiple_of(N) {
        return Err(DecodeError::Length {
            what,
            length: bytes.len(),
            expected: bytes.len().next_multiple_of(N),
        });
    }
    count(what, bytes.len() / N, 0, max)?;
    Ok(bytes
        .chunks_exact(N)
        .filter_map(|chunk| chunk.try_into().ok())
        .collect())
}
