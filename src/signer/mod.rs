//! Who holds the key and signs with it.
//!
//! A [`Signer`] may be a key in memory ([`LocalSigner`]), or later a device or another machine: it is asked once a turn
//! for all signatures of that turn. It does not decide anything: what may be signed was decided, and remembered in the
//! safety log, before it is asked.

pub mod key_file;

pub use key_file::{KeyFile, KeyFileError, KeyKind};

use crate::primitives::{PublicKey, SecretKey, Signature, keys::KeySigner};
use thiserror::Error;

/// Why nothing was signed. The node stops: what was remembered but not sent is signed after the next start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the signer of key {public_key} cannot sign: {reason}")]
pub struct SignerError {
    /// The key asked for.
    pub public_key: PublicKey,
    /// What happened, in the words of whatever holds the key.
    pub reason: String,
}

/// Signs digests with one Ed25519 key.
pub trait Signer: Send {
    /// The key's public half.
    fn public_key(&self) -> PublicKey;

    /// One signature for each digest, in order. Deterministic (RFC 8032): the same digest gives the same signature.
    fn sign(&mut self, digests: &[[u8; 32]]) -> Result<Vec<Signature>, SignerError>;
}

/// A key in this process's memory.
pub struct LocalSigner(KeySigner);

impl LocalSigner {
    /// Ready to sign with a secret key.
    pub fn new(key: &SecretKey) -> Self {
        Self(key.signer())
    }
}

impl Signer for LocalSigner {
    fn public_key(&self) -> PublicKey {
        self.0.public()
    }

    fn sign(&mut self, digests: &[[u8; 32]]) -> Result<Vec<Signature>, SignerError> {
        Ok(digests.iter().map(|digest| self.0.sign(digest)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::keys::verify;

    #[test]
    fn signatures_come_in_the_order_of_the_digests() {
        let key = SecretKey::from_seed([3; 32]);
        let mut signer: Box<dyn Signer> = Box::new(LocalSigner::new(&key));
        let digests = [[1; 32], [2; 32]];
        let signatures = signer.sign(&digests).expect("a key in memory signs");
        assert_eq!(signatures.len(), 2);
        for (digest, signature) in digests.iter().zip(&signatures) {
            assert!(verify(&signer.public_key(), digest, signature));
        }
        assert!(!verify(&signer.public_key(), &digests[1], &signatures[0]));
    }
}
