//! The commitment to the set of coins: one root that two nodes share exactly when they hold the same coins.
//!
//! Coins are spread over [`UTXO_BUCKETS`] buckets by the first ten bits of their txid. A bucket's state is the sum of
//! its coins' hashes ([`LtHash`]), so a coin goes in or out without looking at the others and in any order. A bucket's
//! digest is the SHA-256 of its state (2,048 bytes, zeros when it is empty); the root is the Merkle root over the
//! digests. Whoever receives the coins of one bucket can check them against one digest ([`verify_bucket`]).

use super::{Applied, View, ViewError};
use crate::primitives::{Coin, DecodeError, Hash, OutPoint, TxId, hash::merkle_root, wire};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt};
use thiserror::Error;

pub use crate::primitives::state::UTXO_BUCKETS;
/// Numbers in a bucket's state.
pub const LANES: usize = 1024;
/// Bytes of a bucket's state.
pub const STATE_BYTES: usize = 2 * LANES;
/// The BLAKE3 key derivation context that coins are hashed under.
pub const COIN_CONTEXT: &str = "timecoin/utxo";

/// Where a bucket begins among the outpoints in byte order: what stands before every one of its coins, and after every
/// coin of the bucket before. Empty beyond the last: there is no end.
pub fn bucket_start(index: usize) -> Vec<u8> {
    match index {
        0 => vec![0],
        1..UTXO_BUCKETS => ((index as u16) << 6).to_be_bytes().to_vec(),
        _ => Vec::new(),
    }
}

/// The bucket of a coin: the first ten bits of its txid.
pub const fn bucket_of(txid: &TxId) -> u16 {
    let [first, second, ..] = txid.0;
    (first as u16) << 2 | (second >> 6) as u16
}

/// A homomorphic hash of a multiset of coins.
///
/// A coin's 1,024 lanes are the BLAKE3 output of 2,048 bytes over its outpoint (36 bytes) and its canonical bytes, in
/// key derivation mode under [`COIN_CONTEXT`], read as little-endian u16. Inserting adds lane by lane, removing
/// subtracts, both modulo 2^16.
#[derive(Clone, PartialEq, Eq)]
pub struct LtHash(Box<[u16; LANES]>);

impl Default for LtHash {
    fn default() -> Self {
        Self(Box::new([0; LANES]))
    }
}

impl fmt::Debug for LtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LtHash({})", self.digest().short())
    }
}

impl LtHash {
    /// The hash of no coins: all lanes zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a coin.
    pub fn insert(&mut self, outpoint: &OutPoint, coin: &Coin) {
        self.insert_by(&CoinHasher::new(), outpoint, coin);
    }

    /// Takes a coin away.
    pub fn remove(&mut self, outpoint: &OutPoint, coin: &Coin) {
        self.remove_by(&CoinHasher::new(), outpoint, coin);
    }

    /// Adds many coins.
    pub fn insert_all(&mut self, coins: &[(OutPoint, Coin)]) {
        let hasher = CoinHasher::new();
        for (outpoint, coin) in coins {
            self.insert_by(&hasher, outpoint, coin);
        }
    }

    fn insert_by(&mut self, hasher: &CoinHasher, outpoint: &OutPoint, coin: &Coin) {
        for (lane, add) in self.0.iter_mut().zip(lanes(&hasher.expand(outpoint, coin))) {
            *lane = lane.wrapping_add(add);
        }
    }

    fn remove_by(&mut self, hasher: &CoinHasher, outpoint: &OutPoint, coin: &Coin) {
        for (lane, take) in self.0.iter_mut().zip(lanes(&hasher.expand(outpoint, coin))) {
            *lane = lane.wrapping_sub(take);
        }
    }

    /// 2,048 bytes: the lanes, little-endian. How stores keep it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; STATE_BYTES];
        for (pair, lane) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(self.0.iter()) {
            *pair = lane.to_le_bytes();
        }
        bytes
    }

    /// Back from [`LtHash::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes: [u8; STATE_BYTES] = wire::array("bucket state", bytes)?;
        let mut state = Self::new();
        for (lane, value) in state.0.iter_mut().zip(lanes(&bytes)) {
            *lane = value;
        }
        Ok(state)
    }

    /// SHA-256 of the 2,048 bytes.
    pub fn digest(&self) -> Hash {
        Hash(Sha256::digest(self.to_bytes()).into())
    }
}

fn lanes(bytes: &[u8; STATE_BYTES]) -> impl Iterator<Item = u16> {
    bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair))
}

/// BLAKE3 with the context already absorbed: deriving the key costs as much as half of hashing a coin.
struct CoinHasher(blake3::Hasher);

impl CoinHasher {
    fn new() -> Self {
        Self(blake3::Hasher::new_derive_key(COIN_CONTEXT))
    }

    fn expand(&self, outpoint: &OutPoint, coin: &Coin) -> [u8; STATE_BYTES] {
        let mut output = [0; STATE_BYTES];
        let mut hasher = self.0.clone();
        hasher.update(&outpoint.to_bytes()).update(&coin.encode());
        hasher.finalize_xof().fill(&mut output);
        output
    }
}

/// What a block does to the commitment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitmentChange {
    /// The new states of the buckets that change, ascending.
    pub buckets: Vec<(u16, LtHash)>,
    /// The new root.
    pub root: Hash,
}

/// The state of all buckets (2 MB), with the Merkle tree over their digests, so that a block costs in proportion to
/// what it changes.
#[derive(Clone)]
pub struct Commitment {
    buckets: Vec<LtHash>,
    tree: Tree,
}

impl fmt::Debug for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Commitment({})", self.root().short())
    }
}

impl Commitment {
    /// The commitment to no coins.
    pub fn empty() -> Self {
        Self::from_buckets(vec![LtHash::new(); UTXO_BUCKETS])
    }

    /// The commitment to these coins, from nothing.
    pub fn of_coins<'a>(coins: impl IntoIterator<Item = (&'a OutPoint, &'a Coin)>) -> Self {
        let hasher = CoinHasher::new();
        let mut buckets = vec![LtHash::new(); UTXO_BUCKETS];
        for (outpoint, coin) in coins {
            buckets[usize::from(bucket_of(&outpoint.txid))].insert_by(&hasher, outpoint, coin);
        }
        Self::from_buckets(buckets)
    }

    /// The buckets as the store has them.
    pub fn load(view: &dyn View) -> Result<Self, ViewError> {
        let bucket = |index: u16| match view.bucket(index)? {
            None => Ok(LtHash::new()),
            Some(bytes) => {
                LtHash::from_bytes(&bytes).map_err(|error| ViewError(format!("coin bucket {index}: {error}")))
            }
        };
        let buckets: Result<_, ViewError> = (0..UTXO_BUCKETS as u16).map(bucket).collect();
        Ok(Self::from_buckets(buckets?))
    }

    /// The commitment to what these buckets hold; 1,024 of them.
    pub fn from_buckets(buckets: Vec<LtHash>) -> Self {
        let digests: Vec<Hash> = buckets.iter().map(LtHash::digest).collect();
        Self {
            buckets,
            tree: Tree::new(&digests),
        }
    }

    /// The Merkle root over the buckets' digests.
    pub fn root(&self) -> Hash {
        self.tree.root()
    }

    /// A bucket's state; `None` beyond the last.
    pub fn bucket(&self, index: u16) -> Option<&LtHash> {
        self.buckets.get(usize::from(index))
    }

    /// All buckets' digests in order: the leaves of the root.
    pub fn digests(&self) -> Vec<Hash> {
        self.buckets.iter().map(LtHash::digest).collect()
    }

    /// What removing and adding these coins changes. Removing a coin that is not in the set, or adding one that is, is
    /// not noticed here: rules come before commitments.
    pub fn with_changes(&self, spent: &[(OutPoint, Coin)], created: &[(OutPoint, Coin)]) -> CommitmentChange {
        let hasher = CoinHasher::new();
        let mut changed: BTreeMap<u16, LtHash> = BTreeMap::new();
        let mut touch = |txid: &TxId, change: &mut dyn FnMut(&mut LtHash)| {
            let index = bucket_of(txid);
            change(
                changed
                    .entry(index)
                    .or_insert_with(|| self.buckets[usize::from(index)].clone()),
            );
        };
        for (outpoint, coin) in spent {
            touch(&outpoint.txid, &mut |bucket| bucket.remove_by(&hasher, outpoint, coin));
        }
        for (outpoint, coin) in created {
            touch(&outpoint.txid, &mut |bucket| bucket.insert_by(&hasher, outpoint, coin));
        }
        let digests = changed
            .iter()
            .map(|(index, bucket)| (*index, bucket.digest()))
            .collect();
        CommitmentChange {
            root: self.tree.root_with(digests),
            buckets: changed.into_iter().collect(),
        }
    }

    /// Takes over what a block changed.
    pub fn commit(&mut self, applied: &Applied) {
        for (index, bytes) in &applied.buckets {
            let state = LtHash::from_bytes(bytes).expect("apply_block writes whole states");
            self.replace(*index, state);
        }
    }

    /// Takes over a change that [`Commitment::with_changes`] worked out.
    pub fn commit_change(&mut self, change: CommitmentChange) {
        for (index, state) in change.buckets {
            self.replace(index, state);
        }
    }

    fn replace(&mut self, index: u16, state: LtHash) {
        self.tree.set(index, &state.digest());
        self.buckets[usize::from(index)] = state;
    }
}

/// Why a list of coins is not what a bucket holds.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BucketError {
    /// A coin of another bucket.
    #[error("coin {outpoint} is of bucket {found}, expected only coins of bucket {expected}")]
    Foreign {
        /// The coin.
        outpoint: OutPoint,
        /// Its bucket.
        found: u16,
        /// The bucket that is checked.
        expected: u16,
    },
    /// Coins are missing, too many, or changed.
    #[error("the coins of bucket {bucket} have the digest {found}, expected {expected}")]
    Digest {
        /// The bucket that is checked.
        bucket: u16,
        /// Of the coins given.
        found: Hash,
        /// As committed to.
        expected: Hash,
    },
}

/// Whether `coins` are exactly the coins of bucket `index`, whose digest is `expected`.
pub fn verify_bucket<'a>(
    index: u16,
    coins: impl IntoIterator<Item = (&'a OutPoint, &'a Coin)>,
    expected: &Hash,
) -> Result<(), BucketError> {
    let hasher = CoinHasher::new();
    let mut state = LtHash::new();
    for (outpoint, coin) in coins {
        let found = bucket_of(&outpoint.txid);
        if found != index {
            return Err(BucketError::Foreign {
                outpoint: *outpoint,
                found,
                expected: index,
            });
        }
        state.insert_by(&hasher, outpoint, coin);
    }
    let found = state.digest();
    if found == *expected {
        return Ok(());
    }
    Err(BucketError::Digest {
        bucket: index,
        found,
        expected: *expected,
    })
}

/// The Merkle tree over the digests with all its nodes. With a power of two of leaves it has the shape of RFC 6962
/// without any special case, so [`Tree::root`] is [`merkle_root`] of the digests.
#[derive(Clone)]
struct Tree {
    /// Leaf hashes first, the root last; each level half as long as the one before.
    levels: Vec<Vec<[u8; 32]>>,
}

impl Tree {
    fn new(digests: &[Hash]) -> Self {
        let mut levels: Vec<Vec<[u8; 32]>> = vec![digests.iter().map(leaf).collect()];
        while let Some(below) = levels.last()
            && below.len() > 1
        {
            let above = below
                .as_chunks::<2>()
                .0
                .iter()
                .map(|[left, right]| node(left, right))
                .collect();
            levels.push(above);
        }
        Self { levels }
    }

    fn root(&self) -> Hash {
        Hash(self.levels.last().map_or([0; 32], |top| top[0]))
    }

    /// The root if some digests were others; hashes only what is above them.
    fn root_with(&self, digests: BTreeMap<u16, Hash>) -> Hash {
        let mut changed: BTreeMap<usize, [u8; 32]> = digests
            .iter()
            .map(|(index, digest)| (usize::from(*index), leaf(digest)))
            .collect();
        for level in &self.levels[..self.levels.len() - 1] {
            let at = |index: usize| changed.get(&index).unwrap_or(&level[index]);
            changed = changed
                .keys()
                .map(|index| index / 2)
                .map(|parent| (parent, node(at(2 * parent), at(2 * parent + 1))))
                .collect();
        }
        changed.get(&0).map_or_else(|| self.root(), |root| Hash(*root))
    }

    fn set(&mut self, index: u16, digest: &Hash) {
        let mut index = usize::from(index);
        let mut hash = leaf(digest);
        for level in &mut self.levels {
            level[index] = hash;
            if let (Some(left), Some(right)) = (level.get(index & !1), level.get(index | 1)) {
                hash = node(left, right);
            }
            index /= 2;
        }
    }
}

fn leaf(digest: &Hash) -> [u8; 32] {
    // A tree of one leaf is that leaf's hash.
    merkle_root(&[digest]).0
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    // The node prefix of RFC 6962.
    Sha256::new()
        .chain_update([1])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{Amount, Height, LockHash, Output};
    use proptest::prelude::*;

    fn coins() -> impl Strategy<Value = BTreeMap<OutPoint, Coin>> {
        // Few first bytes, so that buckets are shared.
        let outpoint = (0u8..4, any::<u8>(), 0u32..3).prop_map(|(first, second, index)| {
            let mut txid = [7; 32];
            (txid[0], txid[1]) = (first, second);
            OutPoint {
                txid: TxId(txid),
                index,
            }
        });
        let coin = (1u64.., any::<[u8; 32]>(), 0u64..1_000).prop_map(|(value, lock, height)| Coin {
            output: Output {
                value: Amount(value),
                lock: LockHash(lock),
            },
            height: Height(height),
        });
        prop::collection::btree_map(outpoint, coin, 0..60)
    }

    fn pairs(coins: &BTreeMap<OutPoint, Coin>) -> Vec<(OutPoint, Coin)> {
        coins.iter().map(|(outpoint, coin)| (*outpoint, *coin)).collect()
    }

    #[test]
    fn the_bucket_is_the_first_ten_bits() {
        let with = |first, second| {
            let mut txid = [0xff; 32];
            (txid[0], txid[1]) = (first, second);
            bucket_of(&TxId(txid))
        };
        assert_eq!(
            [
                with(0, 0x3f),
                with(0, 0x40),
                with(1, 0),
                with(0x80, 0),
                with(0xff, 0xff)
            ],
            [0, 1, 4, 512, 1023]
        );
    }

    #[test]
    fn the_root_of_nothing() {
        let digest = Hash(Sha256::digest([0; STATE_BYTES]).into());
        assert_eq!(LtHash::new().digest(), digest);
        assert_eq!(Commitment::empty().root(), merkle_root(&[digest; UTXO_BUCKETS]));
    }

    #[test]
    fn a_short_state_is_refused() {
        assert!(matches!(
            LtHash::from_bytes(&[0; 2047]),
            Err(DecodeError::Length {
                length: 2047,
                expected: 2048,
                ..
            })
        ));
    }

    proptest! {
        #[test]
        fn order_does_not_matter(coins in coins(), seed: u64) {
            let mut shuffled = pairs(&coins);
            shuffled.sort_by_key(|(outpoint, _)| blake3::hash(&[&seed.to_be_bytes()[..], &outpoint.to_bytes()].concat()).as_bytes()[0]);
            let (mut one, mut other) = (LtHash::new(), LtHash::new());
            coins.iter().for_each(|(outpoint, coin)| one.insert(outpoint, coin));
            shuffled.iter().for_each(|(outpoint, coin)| other.insert(outpoint, coin));
            prop_assert_eq!(&one, &other);
            prop_assert_eq!(LtHash::from_bytes(&one.to_bytes()), Ok(one.clone()));
            prop_assert_eq!(one == LtHash::new(), coins.is_empty());
            // In whatever order they go again, nothing is left.
            coins.iter().for_each(|(outpoint, coin)| other.remove(outpoint, coin));
            prop_assert_eq!(other, LtHash::new());
        }

        #[test]
        fn every_field_of_a_coin_counts(coins in coins(), pick: prop::sample::Index, bit in 0usize..(36 + 40) * 8) {
            prop_assume!(!coins.is_empty());
            let (outpoint, coin) = pairs(&coins)[pick.index(coins.len())];
            let (mut other_outpoint, mut other_coin) = (outpoint, coin);
            match bit / 8 {
                byte @ 0..32 => other_outpoint.txid.0[byte] ^= 1 << (bit % 8),
                32..36 => other_outpoint.index ^= 1 << (bit - 32 * 8),
                byte @ 36..68 => other_coin.output.lock.0[byte - 36] ^= 1 << (bit % 8),
                68..72 => other_coin.output.value.0 ^= 1 << (bit - 68 * 8),
                _ => other_coin.height.0 ^= 1 << (bit - 72 * 8),
            }
            let hash = |outpoint: &OutPoint, coin: &Coin| {
                let mut state = LtHash::new();
                state.insert(outpoint, coin);
                state
            };
            prop_assert_ne!(hash(&outpoint, &coin), hash(&other_outpoint, &other_coin));
        }

        #[test]
        fn a_change_leads_where_rebuilding_leads(before in coins(), after in coins()) {
            let mut commitment = Commitment::of_coins(&before);
            let gone = |from: &BTreeMap<OutPoint, Coin>, to: &BTreeMap<OutPoint, Coin>| -> Vec<(OutPoint, Coin)> {
                pairs(from).into_iter().filter(|(outpoint, coin)| to.get(outpoint) != Some(coin)).collect()
            };
            let change = commitment.with_changes(&gone(&before, &after), &gone(&after, &before));
            let rebuilt = Commitment::of_coins(&after);
            prop_assert_eq!(change.root, rebuilt.root());
            prop_assert_eq!(change.root, merkle_root(&rebuilt.digests()));
            let root = change.root;
            commitment.commit_change(change);
            prop_assert_eq!(commitment.root(), root);
            for index in 0..UTXO_BUCKETS as u16 {
                prop_assert_eq!(commitment.bucket(index), rebuilt.bucket(index));
            }
            // And once more from there, so that the tree's inner nodes were kept right too.
            let back = commitment.with_changes(&gone(&after, &before), &gone(&before, &after));
            prop_assert_eq!(back.root, Commitment::of_coins(&before).root());
        }

        #[test]
        fn a_bucket_is_exactly_its_coins(coins in coins(), pick: prop::sample::Index) {
            prop_assume!(!coins.is_empty());
            let (chosen, _) = pairs(&coins)[pick.index(coins.len())];
            let index = bucket_of(&chosen.txid);
            let mut inside = coins.clone();
            inside.retain(|outpoint, _| bucket_of(&outpoint.txid) == index);
            let digest = Commitment::of_coins(&coins).digests()[usize::from(index)];
            prop_assert_eq!(verify_bucket(index, &inside, &digest), Ok(()));
            let foreign = verify_bucket(index ^ 1, &inside, &digest);
            let named = matches!(foreign, Err(BucketError::Foreign { found, .. }) if found == index);
            prop_assert!(named, "{:?}", foreign);
            let mut more = inside.clone();
            more.get_mut(&chosen).expect("it is of this bucket").height.0 += 1;
            inside.remove(&chosen);
            for wrong in [inside, more] {
                let verdict = verify_bucket(index, &wrong, &digest);
                let named = matches!(verdict, Err(BucketError::Digest { bucket, expected, .. }) if bucket == index && expected == digest);
                prop_assert!(named, "{:?}", verdict);
            }
        }
    }
}
