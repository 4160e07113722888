//! What a header must say about its block: built by leaders and checked by everybody from the same few lines.

use crate::{
    ledger::{CheckedTransaction, Content, Tip},
    primitives::{
        BlockCertificate, BlockHeader, Certificate, CertificateError, ChainId, EpochSeal, Hash, Height, Params, Phase,
        Time, TxId, ValidatorIndex,
        block::{rejections_root, seals_root, transactions_root},
        message::Electorate,
    },
};
use thiserror::Error;

use super::BlockError;

/// What came with a header is not what the header commits to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the {field} is {found} in the header, expected {expected}")]
pub struct ContentError {
    /// The header's field.
    pub field: &'static str,
    /// What it says.
    pub found: Hash,
    /// What the content hashes to.
    pub expected: Hash,
}

/// The header of a block on `tip`. `now` is the leader's clock; the block's time is later than its parent's in any case.
#[allow(clippy::too_many_arguments, reason = "the parts of a block, each once")]
pub fn build_header(
    tip: &Tip,
    params: &Params,
    electorate: &Electorate,
    proposer: ValidatorIndex,
    now: Time,
    transactions: &[CheckedTransaction],
    rejections: &[Certificate],
    seals: &[EpochSeal],
    last_commit: Option<&BlockCertificate>,
) -> BlockHeader {
    let height = tip.height.next();
    let txids: Vec<TxId> = transactions.iter().map(|transaction| transaction.txid()).collect();
    BlockHeader {
        height,
        epoch: height.epoch(params.epoch_length),
        time: now.max(tip.time.plus_ms(1)),
        parent: tip.block,
        proposer,
        utxo_root: tip.utxo_root,
        transactions_root: transactions_root(&txids),
        rejections_root: rejections_root(rejections),
        seals_root: seals_root(&electorate.chain, seals),
        last_commit_hash: last_commit_hash(last_commit),
        validators_hash: electorate.of_height(height).hash(),
        next_validators_hash: electorate.of_height(height.next()).hash(),
    }
}

fn last_commit_hash(last_commit: Option<&BlockCertificate>) -> Hash {
    last_commit.map_or(Hash::default(), BlockCertificate::hash)
}

/// Whether the four parts of a block are those that its header commits to.
pub fn check_content(
    chain: &ChainId,
    header: &BlockHeader,
    txids: &[TxId],
    rejections: &[Certificate],
    seals: &[EpochSeal],
    last_commit: Option<&BlockCertificate>,
) -> Result<(), ContentError> {
    let same = |field: &'static str, found: Hash, expected: Hash| {
        if found == expected {
            Ok(())
        } else {
            Err(ContentError { field, found, expected })
        }
    };
    same("transactions root", header.transactions_root, transactions_root(txids))?;
    same("rejections root", header.rejections_root, rejections_root(rejections))?;
    same("seals root", header.seals_root, seals_root(chain, seals))?;
    same(
        "last commit hash",
        header.last_commit_hash,
        last_commit_hash(last_commit),
    )
}

/// Whether the header is one that may follow `tip` with this content.
pub(super) fn check_header(
    tip: &Tip,
    params: &Params,
    electorate: &Electorate,
    content: &Content,
) -> Result<(), BlockError> {
    let header = &content.header;
    if header.height != tip.height.next() {
        return Err(BlockError::Height {
            found: header.height,
            expected: tip.height.next(),
        });
    }
    if header.parent != tip.block {
        return Err(BlockError::Parent {
            found: header.parent,
            expected: tip.block,
        });
    }
    let epoch = header.height.epoch(params.epoch_length);
    if header.epoch != epoch {
        return Err(BlockError::Epoch {
            found: header.epoch,
            expected: epoch,
        });
    }
    if header.time <= tip.time {
        return Err(BlockError::Time {
            found: header.time,
            parent: tip.time,
        });
    }
    let set = electorate.of_height(header.height);
    if set.get(header.proposer).is_none() {
        return Err(BlockError::Proposer {
            found: header.proposer,
            validators: set.len(),
        });
    }
    if header.utxo_root != tip.utxo_root {
        return Err(BlockError::UtxoRoot {
            found: header.utxo_root,
            expected: tip.utxo_root,
        });
    }
    let next = electorate.of_height(header.height.next());
    for (which, found, expected) in [
        ("this", header.validators_hash, set.hash()),
        ("the next", header.next_validators_hash, next.hash()),
    ] {
        if found != expected {
            return Err(BlockError::Validators { which, found, expected });
        }
    }
    let txids: Vec<TxId> = content
        .transactions
        .iter()
        .map(|transaction| transaction.txid())
        .collect();
    check_content(
        &electorate.chain,
        header,
        &txids,
        &content.rejections,
        &content.seals,
        content.last_commit.as_ref(),
    )?;
    check_last_commit(tip, content.last_commit.as_ref())
}

/// Whether the certificate is about the parent; its quorum and signatures were checked before.
fn check_last_commit(tip: &Tip, last_commit: Option<&BlockCertificate>) -> Result<(), BlockError> {
    let wrong = |what| Err(BlockError::LastCommit(CertificateError::Subject(what)));
    match last_commit {
        None if tip.height == Height(0) => Ok(()),
        None => wrong("there is none, expected the parent's"),
        Some(_) if tip.height == Height(0) => wrong("genesis has no commit certificate"),
        Some(certificate) if certificate.phase != Phase::Commit => wrong("its phase is not Commit"),
        Some(certificate) if certificate.height != tip.height => wrong("its height is not the parent's"),
        Some(certificate) if certificate.block != tip.block => wrong("its block is not the parent"),
        Some(_) => Ok(()),
    }
}
