//! Votes kept in the batches they came in, and certificates cut out of them when somebody asks.

use crate::primitives::{Certificate, Epoch, TxId, ValidatorIndex, VoteBatch, VoteKind, VoteProof};
use std::sync::Arc;

/// One validator's vote, with what proves it.
#[derive(Clone, Debug)]
pub enum Voice {
    /// At this position of a batch.
    Batch(Arc<VoteBatch>, u32),
    /// Came by itself, in a certificate.
    Proof(Arc<VoteProof>),
}

impl Voice {
    /// The sequence of the batch, when it is held.
    pub(super) fn sequence(&self) -> Option<u64> {
        match self {
            Self::Batch(batch, _) => Some(batch.sequence),
            Self::Proof(_) => None,
        }
    }

    fn cut(&self) -> Option<VoteProof> {
        match self {
            Self::Batch(batch, index) => VoteProof::cut(batch, *index as usize),
            Self::Proof(proof) => Some((**proof).clone()),
        }
    }
}

/// The votes behind a certificate, not yet cut out of their batches: cutting costs hashing, so it waits until the
/// certificate is asked for.
#[derive(Clone, Debug)]
pub struct Proof {
    pub(super) kind: VoteKind,
    pub(super) txid: TxId,
    pub(super) epoch: Epoch,
    pub(super) voices: Vec<(ValidatorIndex, Voice)>,
}

impl Proof {
    /// The certificate.
    pub fn certificate(&self) -> Certificate {
        let votes = self.voices.iter().filter_map(|(_, voice)| voice.cut()).collect();
        Certificate {
            kind: self.kind,
            txid: self.txid,
            epoch: self.epoch,
            votes,
        }
    }
}
