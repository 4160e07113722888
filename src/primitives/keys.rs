//! Keys and signatures, and the one verification rule: ZIP-215, single and batched alike.

use super::hash::{ChainId, LockHash, tagged};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use sha2::{Digest, Sha256};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// An Ed25519 public key as it is written: any 32 bytes. Whether they are a point is decided when a signature is
/// checked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The lock that this key alone opens: `H("timecoin/key", key)`.
    pub fn lock(&self) -> LockHash {
        LockHash(tagged("timecoin/key", &[&self.0]))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex::encode(&self.0[..4]))
    }
}

impl std::str::FromStr for PublicKey {
    type Err = hex::FromHexError;
    /// Reads 64 hex digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| serde::de::Error::custom(format!("expected 64 hex digits: {error}")))
    }
}

/// An Ed25519 signature as it is written: any 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(&self.0[..4]))
    }
}

/// A secret key: the 32-byte seed of RFC 8032. Wiped from memory when dropped, never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(hidden)")
    }
}

impl SecretKey {
    /// The key made from a 32-byte seed.
    pub const fn from_seed(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// The seed, to be written to a key file and nowhere else.
    pub const fn seed(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(
            ed25519_dalek::SigningKey::from_bytes(&self.0)
                .verifying_key()
                .to_bytes(),
        )
    }

    /// Ready to sign many digests: expanding the seed costs as much as a signature.
    pub fn signer(&self) -> KeySigner {
        KeySigner(ed25519_dalek::SigningKey::from_bytes(&self.0))
    }

    /// Signs one digest; deterministic (RFC 8032).
    pub fn sign(&self, digest: &[u8; 32]) -> Signature {
        self.signer().sign(digest)
    }
}

/// A secret key expanded for signing.
pub struct KeySigner(ed25519_dalek::SigningKey);

impl KeySigner {
    /// Signs one digest; deterministic (RFC 8032).
    pub fn sign(&self, digest: &[u8; 32]) -> Signature {
        use ed25519_dalek::Signer;
        Signature(self.0.sign(digest).to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }
}

/// Whether `signature` over `digest` is `key`'s, by the rules of ZIP-215.
pub fn verify(key: &PublicKey, digest: &[u8; 32], signature: &Signature) -> bool {
    item(key, digest, signature).verify_single().is_ok()
}

fn item(key: &PublicKey, digest: &[u8; 32], signature: &Signature) -> ed25519_zebra::batch::Item {
    let key = ed25519_zebra::VerificationKeyBytes::from(key.0);
    (key, ed25519_zebra::Signature::from_bytes(&signature.0), digest).into()
}

/// Below this many, one by one is as fast and names the culprit at once.
const BATCH_MIN: usize = 3;

/// Signatures waiting to be checked together.
///
/// A batch accepts exactly what [`verify`] accepts: both follow ZIP-215, whose cofactored equation makes the two agree.
/// When a batch fails, halves are tried until the wrong ones are alone.
#[derive(Default)]
pub struct SignatureBatch {
    items: Vec<(PublicKey, [u8; 32], Signature)>,
}

impl SignatureBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a signature over a digest; answers its position.
    pub fn queue(&mut self, key: PublicKey, digest: [u8; 32], signature: Signature) -> usize {
        self.items.push((key, digest, signature));
        self.items.len() - 1
    }

    /// Adds all of another's, after these.
    pub fn append(&mut self, mut other: Self) {
        self.items.append(&mut other.items);
    }

    /// Signatures waiting.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether every one is valid.
    pub fn all_valid(&self) -> bool {
        all_valid(&self.items)
    }

    /// The verdict on each, in the order they were queued.
    pub fn verify(&self) -> Vec<bool> {
        let mut verdicts = vec![true; self.items.len()];
        bisect(&self.items, &mut verdicts);
        verdicts
    }

    /// The position, within each part, of a signature that is wrong; `None` for parts in which all are valid. `parts`
    /// are lengths, in the order in which the signatures were queued.
    ///
    /// A part that is all wrong costs no more than three times what a valid one costs: whoever is wrong once has no
    /// claim to a verdict on the rest.
    pub fn verify_parts(&self, parts: &[usize]) -> Vec<Option<usize>> {
        let mut verdicts = vec![None; parts.len()];
        bisect_parts(&self.items, parts, &mut verdicts);
        verdicts
    }
}

fn bisect_parts(items: &[(PublicKey, [u8; 32], Signature)], parts: &[usize], verdicts: &mut [Option<usize>]) {
    match verdicts {
        [] => {}
        [verdict] => *verdict = first_wrong(items),
        _ if all_valid(items) => {}
        _ => {
            let middle = parts.len() / 2;
            let length = parts[..middle].iter().sum();
            let (left, right) = verdicts.split_at_mut(middle);
            bisect_parts(&items[..length], &parts[..middle], left);
            bisect_parts(&items[length..], &parts[middle..], right);
        }
    }
}

/// Halves what is known to hold a wrong one.
fn first_wrong(items: &[(PublicKey, [u8; 32], Signature)]) -> Option<usize> {
    if items.len() < BATCH_MIN {
        return items
            .iter()
            .position(|(key, digest, signature)| !verify(key, digest, signature));
    }
    if all_valid(items) {
        return None;
    }
    let middle = items.len() / 2;
    first_wrong(&items[..middle]).or_else(|| first_wrong(&items[middle..]).map(|position| middle + position))
}

fn bisect(items: &[(PublicKey, [u8; 32], Signature)], verdicts: &mut [bool]) {
    if items.len() < BATCH_MIN {
        for ((key, digest, signature), verdict) in items.iter().zip(verdicts) {
            *verdict = verify(key, digest, signature);
        }
    } else if !all_valid(items) {
        let middle = items.len() / 2;
        let (left, right) = verdicts.split_at_mut(middle);
        bisect(&items[..middle], left);
        bisect(&items[middle..], right);
    }
}

fn all_valid(items: &[(PublicKey, [u8; 32], Signature)]) -> bool {
    if items.len() < BATCH_MIN {
        return items
            .iter()
            .all(|(key, digest, signature)| verify(key, digest, signature));
    }
    let mut verifier = ed25519_zebra::batch::Verifier::new();
    let mut transcript = Sha256::new();
    for (key, digest, signature) in items {
        transcript.update(key.0);
        transcript.update(digest);
        transcript.update(signature.0);
        verifier.queue(item(key, digest, signature));
    }
    // The coefficients must be out of reach of whoever chose the signatures. A generator seeded by a hash over all of
    // them is (Fiat–Shamir), and keeps the verdict a function of its input.
    verifier
        .verify(ChaCha20Rng::from_seed(transcript.finalize().into()))
        .is_ok()
}

/// The digest that a signature covers: the tagged hash with the chain's name as its first part.
pub fn signing_digest(tag: &str, chain: &ChainId, parts: &[&[u8]]) -> [u8; 32] {
    let mut all: Vec<&[u8]> = Vec::with_capacity(parts.len() + 1);
    all.push(&chain.0);
    all.extend_from_slice(parts);
    tagged(tag, &all)
}
