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

/// Checks lists of transactions, all signatures of all lists in one batch. The verdict on a list is the first error in
/// it: who sends something wrong has no claim to a verdict on the rest.
pub fn check_lists(chain: &ChainId, lists: &[&[impl AsRef<[u8]>]]) -> Vec<Result<Vec<CheckedTransaction>, CheckError>> {
    let mut signatures = SignatureBatch::new();
    let (mut queued, mut parts) = (Vec::with_capacity(lists.len()), Vec::with_capacity(lists.len()));
    for list in lists {
        let mut own = SignatureBatch::new();
        let transactions: Result<Vec<_>, _> = list
            .iter()
            .map(|bytes| queue(chain, bytes.as_ref(), &mut own))
            .collect();
        if transactions.is_ok() {
            parts.push(own.len());
            signatures.append(own);
        } else {
            parts.push(0);
        }
        queued.push(transactions);
    }
    let verdicts = signatures.verify_parts(&parts);
    let judged = queued.into_iter().zip(verdicts);
    judged
        .map(|(transactions, wrong)| {
            let judge = |(transaction, range): (Transaction, Range<usize>)| {
                let valid: Vec<bool> = range.map(|position| Some(position) != wrong).collect();
                verdict(transaction, &valid)
            };
            transactions?.into_iter().map(judge).collect()
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::testing::{Chain, payer},
        primitives::{
            BlockCertificate, Epoch, Hash, LockHash, Output, Round, SecretKey, Signature, TransactionBody, VoteKind,
        },
        proto,
    };
    use proptest::prelude::*;
    use prost::Message;

    const CHAIN: ChainId = ChainId([7; 32]);

    fn body(inputs: &[u32], values: &[u64]) -> TransactionBody {
        let output = |value: &u64| Output {
            value: Amount(*value),
            lock: LockHash([1; 32]),
        };
        let input = |index: &u32| OutPoint {
            txid: TxId([2; 32]),
            index: *index,
        };
        TransactionBody {
            inputs: inputs.iter().map(input).collect(),
            outputs: values.iter().map(output).collect(),
            memo: b"memo".to_vec(),
        }
    }

    fn signed(body: &TransactionBody, keys: u8) -> Transaction {
        let keys: Vec<SecretKey> = (0..keys).map(payer).collect();
        Transaction::sign(&CHAIN, body, &keys.iter().collect::<Vec<_>>(), &[]).expect("a well-formed transaction")
    }

    /// The transaction with the signature of witness `at` changed in one bit.
    fn corrupted(transaction: &Transaction, at: usize) -> Vec<u8> {
        let mut message = proto::SignedTransaction::decode(transaction.bytes()).expect("its own bytes");
        message.witnesses[at].signature[3] ^= 1;
        message.encode_to_vec()
    }

    #[test]
    fn transactions_that_break_a_stateless_rule() {
        let good = signed(&body(&[0, 1], &[5, 6]), 3);
        let keys: Vec<PublicKey> = good.witnesses().iter().map(|witness| witness.public_key).collect();
        let twice = signed(&body(&[4, 9, 4], &[1]), 1);
        let rich = signed(&body(&[0], &[u64::MAX, 1]), 1);
        let mut unknown_field = good.bytes().to_vec();
        unknown_field.extend([0x78, 1]);
        let signature = |public_key| {
            let txid = good.txid();
            Err(CheckError::Signature { txid, public_key })
        };
        let non_canonical = DecodeError::NonCanonical {
            what: "signed transaction",
        };
        let size = DecodeError::Count {
            what: "transaction bytes",
            count: 100_001,
            min: 1,
            max: 100_000,
        };
        let duplicate = CheckError::DuplicateInput {
            txid: twice.txid(),
            outpoint: twice.inputs()[0],
        };
        let rows: Vec<(&str, Vec<u8>, Result<TxId, CheckError>)> = vec![
            ("a good one", good.bytes().to_vec(), Ok(good.txid())),
            (
                "the largest sum there is",
                signed(&body(&[0], &[u64::MAX - 1, 1]), 1).bytes().to_vec(),
                { Ok(signed(&body(&[0], &[u64::MAX - 1, 1]), 1).txid()) },
            ),
            ("an unknown field", unknown_field, Err(non_canonical.into())),
            ("too large", vec![0; 100_001], Err(size.into())),
            ("an input twice", twice.bytes().to_vec(), Err(duplicate)),
            (
                "outputs that overflow",
                rich.bytes().to_vec(),
                Err(CheckError::OutputOverflow(rich.txid())),
            ),
            ("the first signature is wrong", corrupted(&good, 0), signature(keys[0])),
            ("the last signature is wrong", corrupted(&good, 2), signature(keys[2])),
        ];
        let bytes: Vec<&Vec<u8>> = rows.iter().map(|(_, bytes, _)| bytes).collect();
        let together = check_all(&CHAIN, &bytes);
        for ((what, bytes, expected), in_batch) in rows.iter().zip(together) {
            let alone = check(&CHAIN, bytes);
            assert_eq!(alone.clone().map(|checked| checked.txid()), *expected, "{what}");
            assert_eq!(alone, in_batch, "{what}");
        }
        let elsewhere = check(&ChainId([8; 32]), good.bytes());
        assert!(
            matches!(elsewhere, Err(CheckError::Signature { .. })),
            "signed for another chain: {elsewhere:?}"
        );
        assert_eq!(check(&CHAIN, &[]).map_err(|error| error.fault()), Err(Fault::Hostile));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_slice_is_judged_as_its_members_are(
            members in prop::collection::vec((1u8..4, prop::option::weighted(0.3, 0usize..3), any::<bool>()), 0..12),
        ) {
            let bytes: Vec<Vec<u8>> = members
                .iter()
                .zip(0..)
                .map(|((keys, corrupt, truncate), number)| {
                    let transaction = signed(&body(&[number], &[1]), *keys);
                    let mut bytes = match corrupt {
                        Some(at) => corrupted(&transaction, at % usize::from(*keys)),
                        None => transaction.bytes().to_vec(),
                    };
                    if *truncate && corrupt.is_some() {
                        bytes.pop();
                    }
                    bytes
                })
                .collect();
            let alone: Vec<_> = bytes.iter().map(|bytes| check(&CHAIN, bytes)).collect();
            let good = members.iter().map(|(_, corrupt, _)| corrupt.is_none()).collect::<Vec<_>>();
            prop_assert_eq!(alone.iter().map(Result::is_ok).collect::<Vec<_>>(), good);
            prop_assert_eq!(check_all(&CHAIN, &bytes), alone.clone());
            // The same members as lists of three: the verdict on a list is its first error. One of form comes before one
            // of a signature, which is not looked at then.
            let lists: Vec<&[Vec<u8>]> = bytes.chunks(3).collect();
            for (verdict, alone) in check_lists(&CHAIN, &lists).into_iter().zip(alone.chunks(3)) {
                let wrong = |signature: bool| {
                    let errors = alone.iter().filter_map(|one| one.as_ref().err());
                    let mut errors = errors.filter(move |error| matches!(error, CheckError::Signature { .. }) == signature);
                    errors.next().cloned()
                };
                let expected = match wrong(false).or_else(|| wrong(true)) {
                    Some(error) => Err(error),
                    None => alone.iter().cloned().collect(),
                };
                prop_assert_eq!(verdict, expected);
            }
        }

        #[test]
        fn no_bytes_make_the_door_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at: prop::sample::Index, flip: u8) {
            prop_assert!(check(&CHAIN, &bytes).is_err());
            let mut changed = signed(&body(&[0], &[1]), 2).bytes().to_vec();
            let at = at.index(changed.len());
            changed[at] ^= flip;
            prop_assert_eq!(check(&CHAIN, &changed).is_ok(), flip == 0);
        }
    }

    /// A chain of three blocks, and a closing block with everything that a block can carry.
    fn certified() -> (Chain, CommittedBlock) {
        let mut chain = Chain::new();
        for _ in 0..3 {
            chain.commit(Vec::new());
        }
        let rejected = chain.pay(5, 1).txid();
        let content = chain.content(
            vec![chain.pay(0, 1), chain.pay(1, 2)],
            vec![chain.rejection(rejected)],
            chain.seals_if_closing(),
        );
        assert!(chain.apply(&content).is_ok());
        let block = chain.committed(&content, &[0, 2, 3]);
        (chain, block)
    }

    /// Gives a changed block the header and the certificate that it needs.
    fn recertify(chain: &Chain, block: &mut CommittedBlock) {
        let content = Content {
            header: block.block.header.clone(),
            transactions: Vec::new(),
            rejections: block.block.rejections.clone(),
            seals: block.block.seals.clone(),
            last_commit: block.block.last_commit.clone(),
        };
        block.block.header = crate::primitives::BlockHeader {
            rejections_root: crate::primitives::block::rejections_root(&content.rejections),
            seals_root: crate::primitives::block::seals_root(chain.chain_id(), &content.seals),
            last_commit_hash: content
                .last_commit
                .as_ref()
                .map_or(Hash::default(), BlockCertificate::hash),
            ..content.header.clone()
        };
        let content = Content {
            header: block.block.header.clone(),
            ..content
        };
        block.commit = chain.certificate(&content, &[0, 2, 3]);
    }

    #[test]
    fn blocks_that_prove_nothing() {
        let (chain, good) = certified();
        let height = Height(4);
        let rejected = good.block.rejections[0].txid;
        let certificate = |part, error| CheckBlockError::Certificate { height, part, error };
        let no_quorum = CertificateError::NoQuorum { power: 2, total: 4 };
        let content = |field: &'static str| move |error: &CheckBlockError| matches!(error, CheckBlockError::Content { error, .. } if error.field == field);
        type Change<'a> = Box<dyn Fn(&mut CommittedBlock) + 'a>;
        type Expected<'a> = Box<dyn Fn(&CheckBlockError) -> bool + 'a>;
        let is = |expected: CheckBlockError| -> Expected<'_> { Box::new(move |error| *error == expected) };
        let wrong_commit: fn(&CheckBlockError) -> bool = |error| matches!(error, CheckBlockError::WrongCommit { .. });
        let again = |change: Change<'static>| -> Change<'_> {
            let chain = &chain;
            Box::new(move |block| {
                change(block);
                recertify(chain, block);
            })
        };
        let good_transaction = chain.pay(0, 1);
        let bad_signature = CheckBlockError::Transaction {
            height,
            index: 0,
            error: CheckError::Signature {
                txid: good_transaction.txid(),
                public_key: payer(0).public(),
            },
        };
        let rows: Vec<(&str, Change<'_>, Expected<'_>)> = vec![
            (
                "a prepare certificate",
                Box::new(|it| it.commit.phase = Phase::Prepare),
                Box::new(wrong_commit),
            ),
            (
                "a certificate of another height",
                Box::new(|it| it.commit.height = Height(3)),
                Box::new(wrong_commit),
            ),
            (
                "a certificate of another block",
                Box::new(|it| it.commit.block = BlockId([1; 32])),
                Box::new(wrong_commit),
            ),
            (
                "another header",
                Box::new(|it| it.block.header.proposer = 2),
                Box::new(wrong_commit),
            ),
            (
                "a certificate of another round",
                Box::new(|it| it.commit.round = Round(1)),
                is(certificate(Part::Commit, CertificateError::Signature)),
            ),
            (
                "no quorum",
                Box::new(|it| it.commit.signatures.truncate(2)),
                is(certificate(Part::Commit, no_quorum.clone())),
            ),
            (
                "a signer that is none",
                Box::new(|it| it.commit.signatures[2].0 = 4),
                is(certificate(Part::Commit, CertificateError::UnknownValidator(4))),
            ),
            (
                "a transaction with a wrong signature",
                Box::new(|it| it.block.transactions[0] = corrupted(&good_transaction, 0)),
                is(bad_signature),
            ),
            (
                "a transaction that is none",
                Box::new(|it| it.block.transactions[1].truncate(9)),
                Box::new(|error| {
                    matches!(
                        error,
                        CheckBlockError::Transaction {
                            index: 1,
                            error: CheckError::Decode(_),
                            ..
                        }
                    )
                }),
            ),
            (
                "transactions in another order",
                Box::new(|it| it.block.transactions.reverse()),
                Box::new(content("transactions root")),
            ),
            (
                "a rejection left out",
                Box::new(|it| it.block.rejections.clear()),
                Box::new(content("rejections root")),
            ),
            (
                "a seal left out",
                Box::new(|it| it.block.seals.truncate(2)),
                Box::new(content("seals root")),
            ),
            (
                "no last commit",
                Box::new(|it| it.block.last_commit = None),
                Box::new(content("last commit hash")),
            ),
            (
                "a wrong signature under the parent",
                again(Box::new(|it| {
                    it.block.last_commit.as_mut().expect("height 4 has one").signatures[0].1 = Signature([9; 64]);
                })),
                is(certificate(Part::LastCommit, CertificateError::Signature)),
            ),
            (
                "no quorum under the parent",
                again(Box::new(|it| {
                    it.block
                        .last_commit
                        .as_mut()
                        .expect("height 4 has one")
                        .signatures
                        .truncate(2)
                })),
                is(certificate(Part::LastCommit, no_quorum.clone())),
            ),
            (
                "a rejection with a wrong signature",
                Box::new(|it| it.block.rejections[0].votes[1].signature.0[0] ^= 1),
                is(certificate(Part::Rejection(rejected), CertificateError::Signature)),
            ),
            (
                "a rejection whose votes are of another epoch",
                Box::new(|it| it.block.rejections[0].epoch = Epoch(1)),
                is(certificate(Part::Rejection(rejected), CertificateError::Signature)),
            ),
            (
                "a rejection whose votes are of another kind",
                Box::new(|it| it.block.rejections[0].kind = VoteKind::Lock),
                is(certificate(Part::Rejection(rejected), CertificateError::Signature)),
            ),
            (
                "a rejection without a quorum",
                Box::new(|it| it.block.rejections[0].votes.truncate(2)),
                is(certificate(Part::Rejection(rejected), no_quorum.clone())),
            ),
            (
                "a rejection with a short path",
                Box::new(|it| it.block.rejections[0].votes[2].path.clear()),
                is(certificate(Part::Rejection(rejected), CertificateError::Path(2))),
            ),
            (
                "a seal with a wrong signature",
                Box::new(|it| it.block.seals[1].signature.0[0] ^= 1),
                is(certificate(Part::Seal(1), CertificateError::Signature)),
            ),
            (
                "a seal of nobody",
                again(Box::new(|it| it.block.seals[2].validator = 7)),
                is(certificate(Part::Seal(7), CertificateError::UnknownValidator(7))),
            ),
        ];
        assert!(check_certified(&chain.electorate, &good).is_ok());
        let mut changed: Vec<CommittedBlock> = vec![good.clone()];
        for (what, change, expected) in rows {
            let mut block = good.clone();
            change(&mut block);
            match check_certified(&chain.electorate, &block) {
                Ok(_) => panic!("{what}: accepted"),
                Err(error) => assert!(expected(&error), "{what}: refused with {error:?}"),
            }
            changed.push(block);
        }
        // Together, each gets the verdict that it gets alone.
        let together = check_certified_all(&chain.electorate, &changed);
        for (block, verdict) in changed.iter().zip(together) {
            let alone = check_certified(&chain.electorate, block);
            assert_eq!(verdict.err(), alone.err());
        }
    }
}
