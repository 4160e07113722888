//! Stateless checks: bytes to [`Checked`] transactions, and committed blocks to [`Content`]. Parallel, never on an
//! async thread.
//!
//! Signatures are the dearest thing a node does, so both doors take many things at once and check all their signatures
//! in one batch. Only when a batch fails are the wrong ones looked for, and then the answer names exactly what checking
//! one by one would have named.

use super::{Content, apply::ContentError};
use crate::primitives::{
    Amount, BlockId, ChainId, CommittedBlock, DecodeError, Fault, Height, OutPoint, Phase, PublicKey, SignatureBatch,
    Transaction, TxId, certificate::CertificateError, message::Electorate, quorum::ValidatorIndex,
};
use std::{
    ops::{Deref, Range},
    sync::Arc,
};
use thiserror::Error;

/// Something whose form and signatures are right. Only this module makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<T>(T);

impl<T> Deref for Checked<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// A checked transaction as it is passed around.
pub type CheckedTransaction = Arc<Checked<Transaction>>;

/// Which stateless rule a transaction breaks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckError {
    /// Its bytes are wrong.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It spends a coin twice.
    #[error("transaction {txid} has input {outpoint} twice")]
    DuplicateInput {
        /// The transaction.
        txid: TxId,
        /// The coin.
        outpoint: OutPoint,
    },
    /// Its outputs add up to more than 2^64 − 1 units.
    #[error("transaction {0}: the outputs add up to more than 2^64 - 1 units")]
    OutputOverflow(TxId),
    /// A signature is wrong.
    #[error("transaction {txid}: the signature of key {public_key} is not valid")]
    Signature {
        /// The transaction.
        txid: TxId,
        /// Whose.
        public_key: PublicKey,
    },
}

impl CheckError {
    /// No correct program relays such a transaction.
    pub const fn fault(&self) -> Fault {
        Fault::Hostile
    }
}

/// Checks one transaction.
pub fn check(chain: &ChainId, bytes: &[u8]) -> Result<CheckedTransaction, CheckError> {
    let mut signatures = SignatureBatch::new();
    let (transaction, range) = queue(chain, bytes, &mut signatures)?;
    verdict(transaction, &signatures.verify()[range])
}

/// Checks many with their signatures in one batch; the verdicts are exactly those of [`check`] one by one.
pub fn check_all(chain: &ChainId, all: &[impl AsRef<[u8]>]) -> Vec<Result<CheckedTransaction, CheckError>> {
    let mut signatures = SignatureBatch::new();
    let queued: Vec<_> = all
        .iter()
        .map(|bytes| queue(chain, bytes.as_ref(), &mut signatures))
        .collect();
    let verdicts = signatures.verify();
    queued
        .into_iter()
        .map(|result| result.and_then(|(transaction, range)| verdict(transaction, &verdicts[range])))
        .collect()
}

/// Checks everything but the signatures and queues those; answers where in the batch they are.
fn queue(
    chain: &ChainId,
    bytes: &[u8],
    signatures: &mut SignatureBatch,
) -> Result<(Transaction, Range<usize>), CheckError> {
    let transaction = Transaction::decode(chain, bytes)?;
    let txid = transaction.txid();
    let mut inputs = transaction.inputs().to_vec();
    inputs.sort_unstable();
    if let Some(pair) = inputs.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(CheckError::DuplicateInput {
            txid,
            outpoint: pair[0],
        });
    }
    Amount::sum(transaction.outputs().iter().map(|output| output.value)).ok_or(CheckError::OutputOverflow(txid))?;
    let first = signatures.len();
    for witness in transaction.witnesses() {
        signatures.queue(witness.public_key, txid.0, witness.signature);
    }
    Ok((transaction, first..signatures.len()))
}

/// One verdict for each witness, in their order.
fn verdict(transaction: Transaction, signatures: &[bool]) -> Result<CheckedTransaction, CheckError> {
    let wrong = transaction
        .witnesses()
        .iter()
        .zip(signatures)
        .find(|(_, valid)| !**valid);
    match wrong {
        Some((witness, _)) => Err(CheckError::Signature {
            txid: transaction.txid(),
            public_key: witness.public_key,
        }),
        None => Ok(Arc::new(Checked(transaction))),
    }
}

/// A part of a block that carries signatures of validators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The commit certificate of the block itself.
    Commit,
    /// The commit certificate of its parent.
    LastCommit,
    /// The rejection of a transaction.
    Rejection(TxId),
    /// A validator's seal.
    Seal(ValidatorIndex),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Commit => f.write_str("its commit certificate"),
            Self::LastCommit => f.write_str("the commit certificate of its parent"),
            Self::Rejection(txid) => write!(f, "the rejection of transaction {txid}"),
            Self::Seal(validator) => write!(f, "the seal of validator {validator}"),
        }
    }
}

/// Why a committed block from a peer proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckBlockError {
    /// One of its transactions breaks a stateless rule.
    #[error("block {height}: transaction {index}: {error}")]
    Transaction {
        /// The block's height, as its header says.
        height: Height,
        /// Position in the block.
        index: usize,
        /// The rule.
        #[source]
        error: CheckError,
    },
    /// Its commit certificate is about something else.
    #[error(
        "block {height}: its certificate is for phase {phase:?} of block {found} at height {found_height}, expected \
         Commit of {expected}"
    )]
    WrongCommit {
        /// The block's height, as its header says.
        height: Height,
        /// The certificate's phase.
        phase: Phase,
        /// The certificate's height.
        found_height: Height,
        /// The certificate's block.
        found: BlockId,
        /// This block.
        expected: BlockId,
    },
    /// What the header commits to is not what came with it.
    #[error("block {height}: {error}")]
    Content {
        /// The block's height, as its header says.
        height: Height,
        /// What does not match.
        #[source]
        error: ContentError,
    },
    /// A certificate or seal in it proves nothing.
    #[error("block {height}: {part}: {error}")]
    Certificate {
        /// The block's height, as its header says.
        height: Height,
        /// Which.
        part: Part,
        /// Why.
        #[source]
        error: CertificateError,
    },
}

impl CheckBlockError {
    /// Blocks with certificates are only passed on by those who checked them.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Certificate { error, .. } => error.fault(),
            Self::Transaction { .. } | Self::WrongCommit { .. } | Self::Content { .. } => Fault::Hostile,
        }
    }
}

/// Checks a block from a peer: form, that its content is what its header commits to, and every signature in it, the
/// quorum that decided it included. The only way from an untrusted block to [`Content`]; what it does to the coins is
/// for [`super::apply::apply_block`] to say.
pub fn check_certified(electorate: &Electorate, block: &CommittedBlock) -> Result<Content, CheckBlockError> {
    let mut signatures = SignatureBatch::new();
    let queued = QueuedBlock::queue(electorate, block, &mut signatures)?;
    queued.verdict(&signatures.verify())
}

/// Checks many blocks with all their signatures in one batch; the verdicts are exactly those of [`check_certified`] one
/// by one.
pub fn check_certified_all<'a>(
    electorate: &Electorate,
    blocks: impl IntoIterator<Item = &'a CommittedBlock>,
) -> Vec<Result<Content, CheckBlockError>> {
    let mut signatures = SignatureBatch::new();
    let queued: Vec<_> = blocks
        .into_iter()
        .map(|block| QueuedBlock::queue(electorate, block, &mut signatures))
        .collect();
    let verdicts = signatures.verify();
    queued
        .into_iter()
        .map(|result| result.and_then(|block| block.verdict(&verdicts)))
        .collect()
}

/// A block of the right form whose signatures wait in a batch.
struct QueuedBlock<'a> {
    block: &'a CommittedBlock,
    transactions: Vec<(Transaction, Range<usize>)>,
    parts: Vec<(Part, Range<usize>)>,
}

impl<'a> QueuedBlock<'a> {
    fn queue(
        electorate: &Electorate,
        committed: &'a CommittedBlock,
        signatures: &mut SignatureBatch,
    ) -> Result<Self, CheckBlockError> {
        let (block, height) = (&committed.block, committed.block.header.height);
        check_subject(electorate, committed)?;
        let mut transactions = Vec::with_capacity(block.transactions.len());
        for (index, bytes) in block.transactions.iter().enumerate() {
            let queued = queue(&electorate.chain, bytes, signatures);
            transactions.push(queued.map_err(|error| CheckBlockError::Transaction { height, index, error })?);
        }
        let txids: Vec<TxId> = transactions.iter().map(|(transaction, _)| transaction.txid()).collect();
        super::apply::check_content(
            &electorate.chain,
            &block.header,
            &txids,
            &block.rejections,
            &block.seals,
            block.last_commit.as_ref(),
        )
        .map_err(|error| CheckBlockError::Content { height, error })?;
        let mut queued = Self {
            block: committed,
            transactions,
            parts: Vec::new(),
        };
        queued.queue_parts(electorate, signatures)?;
        Ok(queued)
    }

    fn queue_parts(&mut self, electorate: &Electorate, signatures: &mut SignatureBatch) -> Result<(), CheckBlockError> {
        let (chain, block) = (&electorate.chain, &self.block.block);
        let height = block.header.height;
        let mut part = |part: Part, queue: &mut dyn FnMut(&mut SignatureBatch) -> Result<(), CertificateError>| {
            let first = signatures.len();
            queue(signatures).map_err(|error| CheckBlockError::Certificate { height, part, error })?;
            self.parts.push((part, first..signatures.len()));
            Ok(())
        };
        for rejection in &block.rejections {
            let set = electorate.of_epoch(rejection.epoch);
            part(Part::Rejection(rejection.txid), &mut |batch| {
                rejection.queue_signatures(chain, set, batch)
            })?;
        }
        for seal in &block.seals {
            part(Part::Seal(seal.validator), &mut |batch| {
                let member = electorate
                    .of_epoch(seal.epoch)
                    .get(seal.validator)
                    .ok_or(CertificateError::UnknownValidator(seal.validator))?;
                batch.queue(member.public_key, seal.digest(chain), seal.signature);
                Ok(())
            })?;
        }
        for (name, certificate) in [
            (Part::LastCommit, block.last_commit.as_ref()),
            (Part::Commit, Some(&self.block.commit)),
        ] {
            if let Some(certificate) = certificate {
                let set = electorate.of_height(certificate.height);
                part(name, &mut |batch| certificate.queue_signatures(chain, set, batch))?;
            }
        }
        Ok(())
    }

    fn verdict(self, verdicts: &[bool]) -> Result<Content, CheckBlockError> {
        let block = &self.block.block;
        let height = block.header.height;
        let mut transactions = Vec::with_capacity(self.transactions.len());
        for (index, (transaction, range)) in self.transactions.into_iter().enumerate() {
            let checked = verdict(transaction, &verdicts[range]);
            transactions.push(checked.map_err(|error| CheckBlockError::Transaction { height, index, error })?);
        }
        for (part, range) in self.parts {
            if verdicts[range].contains(&false) {
                let error = CertificateError::Signature;
                return Err(CheckBlockError::Certificate { height, part, error });
            }
        }
        Ok(Content {
            header: block.header.clone(),
            transactions,
            rejections: block.rejections.clone(),
            seals: block.seals.clone(),
            last_commit: block.last_commit.clone(),
        })
    }
}

fn check_subject(electorate: &Electorate, committed: &CommittedBlock) -> Result<(), CheckBlockError> {
    let (header, commit) = (&committed.block.header, &committed.commit);
    let expected = header.id(&electorate.chain);
    if commit.phase == Phase::Commit && commit.height == header.height && commit.block == expected {
        return Ok(());
    }
    Err(CheckBlockError::WrongCommit {
        height: header.height,
        phase: commit.phase,
        found_height: commit.height,
        found: commit.block,
        expected,
    })
}

/// Why a block from a peer is dropped before its contents are looked at.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckBlockError {
    /// A transaction in it.
    #[error("block {height}: {error}")]
    Transaction {
        /// The block's height.
        height: crate::primitives::Height,
        /// What is wrong.
        error: CheckError,
    },
    /// A certificate in it.
    #[error("block {height}: {what}: {error}")]
    Certificate {
        /// The block's height.
        height: crate::primitives::Height,
        /// Which certificate.
        what: &'static str,
        /// What is wrong.
        error: crate::primitives::CertificateError,
    },
}

impl CheckBlockError {
    /// No correct program serves such a block.
    pub const fn fault(&self) -> Fault {
        Fault::Hostile
    }
}

/// Checks a block from an untrusted source: form, commit certificate, and every signature in it.
pub fn check_certified(
    electorate: &crate::primitives::message::Electorate,
    block: &crate::primitives::CommittedBlock,
) -> Result<super::Content, CheckBlockError> {
    let _ = (electorate, block);
    unimplemented!()
}
