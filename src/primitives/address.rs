//! Addresses: bech32m of a lock hash.

use super::hash::LockHash;
use bech32::{Bech32m, Hrp};
use std::fmt;
use thiserror::Error;

/// Prefixes of the networks there are: main, test, local.
pub const PREFIXES: [&str; 3] = ["time", "ttime", "ltime"];

/// Where to pay: a lock hash and the network that it is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `time`, `ttime` or `ltime`.
    pub network: String,
    /// What a coin paid here is locked by.
    pub lock: LockHash,
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Damaged, or not bech32m at all.
    #[error("'{text}' is not an address: {reason}")]
    Form {
        /// What was given.
        text: String,
        /// What the decoder says.
        reason: String,
    },
    /// Another network's, or another chain's altogether.
    #[error("address '{text}' is of network '{found}', expected '{expected}'")]
    Network {
        /// What was given.
        text: String,
        /// Its prefix.
        found: String,
        /// The prefix wanted.
        expected: String,
    },
    /// The right form but not 32 bytes.
    #[error("address '{text}' holds {length} bytes, expected 32")]
    Length {
        /// What was given.
        text: String,
        /// Bytes in it.
        length: usize,
    },
}

impl Address {
    /// The address of a lock on a network; `network` is one of [`PREFIXES`].
    pub fn new(network: &str, lock: LockHash) -> Self {
        Self {
            network: network.to_owned(),
            lock,
        }
    }

    /// Reads an address of `network`. Mixed case, a wrong checksum and the older bech32 are refused.
    pub fn parse(text: &str, network: &str) -> Result<Self, AddressError> {
        let form = |reason: String| AddressError::Form {
            text: text.to_owned(),
            reason,
        };
        let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(text)
            .map_err(|error| form(error.to_string()))?;
        let found = checked.hrp().to_lowercase();
        if found != network {
            return Err(AddressError::Network {
                text: text.to_owned(),
                found,
                expected: network.to_owned(),
            });
        }
        let bytes: Vec<u8> = checked.byte_iter().collect();
        let lock = LockHash::try_from(bytes.as_slice()).map_err(|_| AddressError::Length {
            text: text.to_owned(),
            length: bytes.len(),
        })?;
        Ok(Self { network: found, lock })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hrp = Hrp::parse(&self.network).map_err(|_| fmt::Error)?;
        f.write_str(&bech32::encode::<Bech32m>(hrp, &self.lock.0).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips(lock in any::<[u8; 32]>(), pick in 0usize..3) {
            let address = Address::new(PREFIXES[pick], LockHash(lock));
            prop_assert_eq!(Address::parse(&address.to_string(), PREFIXES[pick]), Ok(address));
        }

        #[test]
        fn one_wrong_letter_is_noticed(lock in any::<[u8; 32]>(), at in 6usize..60) {
            let mut text = Address::new("ltime", LockHash(lock)).to_string().into_bytes();
            text[at] = if text[at] == b'q' { b'p' } else { b'q' };
            prop_assert!(Address::parse(&String::from_utf8(text).expect("ascii"), "ltime").is_err());
        }
    }

    #[test]
    fn other_networks_and_lengths_are_named() {
        let text = Address::new("time", LockHash([7; 32])).to_string();
        assert!(matches!(Address::parse(&text, "ltime"), Err(AddressError::Network { found, .. }) if found == "time"));
        let short = bech32::encode::<Bech32m>(Hrp::parse("ltime").expect("a prefix"), &[1; 20]).expect("short enough");
        assert!(matches!(
            Address::parse(&short, "ltime"),
            Err(AddressError::Length { length: 20, .. })
        ));
        let old = bech32::encode::<bech32::Bech32>(Hrp::parse("ltime").expect("a prefix"), &[1; 32]).expect("fits");
        assert!(matches!(Address::parse(&old, "ltime"), Err(AddressError::Form { .. })));
    }
}
