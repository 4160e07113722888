//! Tagged SHA-256, the names made of it, and Merkle trees of RFC 6962 shape.

use sha2::{Digest, Sha256};
use std::fmt;

/// `SHA-256(SHA-256(tag) ‖ SHA-256(tag) ‖ parts…)`: the tagged hash of BIP-340. Hashes made under different tags never
/// meet.
pub fn tagged(tag: &str, parts: &[&[u8]]) -> [u8; 32] {
    let prefix = Sha256::digest(tag.as_bytes());
    let mut hasher = Sha256::new();
    hasher.update(prefix);
    hasher.update(prefix);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub [u8; 32]);

        /// The order of the bytes. Nearly always the first few decide, and maps ordered by hashes are everywhere: two
        /// numbers are compared without a call.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                let order = |hash: &Self| hash.0.first_chunk::<8>().map(|first| u64::from_be_bytes(*first));
                order(self).cmp(&order(other)).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            /// The bytes, 32 of them.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first four bytes in hex: how logs name it.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = std::array::TryFromSliceError;
            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                Ok(Self(bytes.try_into()?))
            }
        }

        impl std::str::FromStr for $name {
            type Err = hex::FromHexError;
            /// Reads 64 hex digits.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes)?;
                Ok(Self(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(|error| serde::de::Error::custom(format!("expected 64 hex digits: {error}")))
            }
        }
    };
}

hash_type!(
    /// A SHA-256 hash without a meaning of its own: roots, certificates, sets.
    Hash
);
hash_type!(
    /// Names a chain: the hash of its genesis. First part of every digest that is signed.
    ChainId
);
hash_type!(
    /// Names a transaction by its body; signatures are not in it.
    TxId
);
hash_type!(
    /// Names a block by its header.
    BlockId
);
hash_type!(
    /// What a coin is locked by: the hash of a key or of a multisig policy. An address spells it out.
    LockHash
);

const LEAF: u8 = 0;
const NODE: u8 = 1;

fn leaf_hash(leaf: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([LEAF]).chain_update(leaf).finalize().into()
}

fn node_hash(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new()
        .chain_update([NODE])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// The Merkle root over `leaves` (RFC 6962, section 2.1: leaf and node prefixes, no duplicated leaf). The root of
/// nothing is the SHA-256 of nothing.
pub fn merkle_root<L: AsRef<[u8]>>(leaves: &[L]) -> Hash {
    let hashes: Vec<[u8; 32]> = leaves.iter().map(|leaf| leaf_hash(leaf.as_ref())).collect();
    Hash(subtree_root(&hashes))
}

fn subtree_root(hashes: &[[u8; 32]]) -> [u8; 32] {
    match hashes {
        [] => Sha256::digest([]).into(),
        [only] => *only,
        _ => {
            let (left, right) = hashes.split_at(split_point(hashes.len()));
            node_hash(&subtree_root(left), &subtree_root(right))
        }
    }
}

/// The largest power of two below `count`, for `count ≥ 2`.
fn split_point(count: usize) -> usize {
    1 << (usize::BITS - 1 - (count - 1).leading_zeros())
}

/// The audit path of leaf `index`, from the leaf up (RFC 6962, section 2.1.1); empty when there is no such leaf.
pub fn merkle_path<L: AsRef<[u8]>>(leaves: &[L], index: usize) -> Vec<[u8; 32]> {
    let hashes: Vec<[u8; 32]> = leaves.iter().map(|leaf| leaf_hash(leaf.as_ref())).collect();
    let mut path = Vec::new();
    if index < hashes.len() {
        collect_path(&hashes, index, &mut path);
    }
    path
}

fn collect_path(hashes: &[[u8; 32]], index: usize, path: &mut Vec<[u8; 32]>) {
    if hashes.len() < 2 {
        return;
    }
    let split = split_point(hashes.len());
    let (left, right) = hashes.split_at(split);
    if index < split {
        collect_path(left, index, path);
        path.push(subtree_root(right));
    } else {
        collect_path(right, index - split, path);
        path.push(subtree_root(left));
    }
}

/// The root that `leaf` at `index` of `count` and its audit path lead to; `None` when the path has the wrong length.
pub fn merkle_path_root(leaf: &[u8], index: usize, count: usize, path: &[[u8; 32]]) -> Option<Hash> {
    if index >= count {
        return None;
    }
    climb(leaf_hash(leaf), index, count, path).map(Hash)
}

fn climb(leaf: [u8; 32], index: usize, count: usize, path: &[[u8; 32]]) -> Option<[u8; 32]> {
    if count == 1 {
        return path.is_empty().then_some(leaf);
    }
    let (sibling, below) = path.split_last()?;
    let split = split_point(count);
    if index < split {
        Some(node_hash(&climb(leaf, index, split, below)?, sibling))
    } else {
        Some(node_hash(sibling, &climb(leaf, index - split, count - split, below)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_6962_roots() {
        // The reference values of the Certificate Transparency test suite.
        let leaves: Vec<Vec<u8>> = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ]
        .iter()
        .map(|text| hex::decode(text).expect("the test's own hex"))
        .collect();
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (count, root) in roots.iter().enumerate() {
            assert_eq!(merkle_root(&leaves[..count]).to_string(), *root, "{count} leaves");
        }
    }

    proptest! {
        #[test]
        fn every_path_leads_to_the_root(count in 1usize..70, pick in any::<prop::sample::Index>(), flip in any::<bool>()) {
            let leaves: Vec<[u8; 4]> = (0..count as u32).map(u32::to_le_bytes).collect();
            let index = pick.index(count);
            let root = merkle_root(&leaves);
            let path = merkle_path(&leaves, index);
            prop_assert_eq!(merkle_path_root(&leaves[index], index, count, &path), Some(root));
            let mut longer = path.clone();
            longer.push([0; 32]);
            prop_assert_eq!(merkle_path_root(&leaves[index], index, count, &longer), None);
            if flip && !path.is_empty() {
                let mut wrong = path;
                wrong[0][0] ^= 1;
                prop_assert_ne!(merkle_path_root(&leaves[index], index, count, &wrong), Some(root));
            }
            prop_assert_ne!(merkle_path_root(b"other", index, count, &merkle_path(&leaves, index)), Some(root));
        }
    }

    #[test]
    fn a_tag_separates() {
        assert_ne!(tagged("a", &[b"x"]), tagged("b", &[b"x"]));
        assert_eq!(tagged("a", &[b"xy"]), tagged("a", &[b"x", b"y"]));
    }
}
