//! A small chain for tests: a view in memory, keys with coins, and blocks made the way leaders make them.

use super::{
    Applied, BlockError, CheckedTransaction, Commitment, Content, Location, Tip, View, ViewError,
    apply::{apply_block, build_header, genesis_tip},
    check,
};
use crate::primitives::{
    Amount, Block, BlockCertificate, Certificate, ChainId, Coin, CommittedBlock, Epoch, EpochSeal, Genesis, Hash,
    Height, LockHash, Multisig, OutPoint, Output, Params, Phase, Round, SecretKey, Signature, Time, Transaction,
    TransactionBody, TxId, Validator, ValidatorIndex, ValidatorSet, Vote, VoteBatch, VoteKind, VoteProof,
    message::Electorate, vote::block_vote_digest,
};
use std::{collections::BTreeMap, sync::Arc};

/// The committed state in maps.
#[derive(Clone, Debug)]
pub(crate) struct MemoryView {
    pub(crate) tip: Tip,
    pub(crate) coins: BTreeMap<OutPoint, Coin>,
    pub(crate) locations: BTreeMap<TxId, Location>,
    pub(crate) rejected: BTreeMap<TxId, Height>,
    pub(crate) blocks: BTreeMap<Height, CommittedBlock>,
    pub(crate) buckets: BTreeMap<u16, Vec<u8>>,
}

impl MemoryView {
    pub(crate) fn write(&mut self, applied: &Applied) {
        for (outpoint, _) in &applied.spent {
            assert!(
                self.coins.remove(outpoint).is_some(),
                "{outpoint} was not there to be spent"
            );
        }
        for (outpoint, coin) in &applied.created {
            assert!(
                self.coins.insert(*outpoint, *coin).is_none(),
                "{outpoint} was there already"
            );
        }
        for (txid, index) in applied.transactions.iter().zip(0..) {
            let height = applied.tip.height;
            self.locations.insert(*txid, Location { height, index });
        }
        self.rejected
            .extend(applied.rejected.iter().map(|txid| (*txid, applied.tip.height)));
        self.buckets.extend(applied.buckets.iter().cloned());
        self.tip = applied.tip.clone();
    }

    pub(crate) fn coin_sum(&self) -> u64 {
        self.coins.values().map(|coin| coin.output.value.0).sum()
    }

    pub(crate) fn rebuilt_root(&self) -> Hash {
        Commitment::of_coins(&self.coins).root()
    }
}

impl View for MemoryView {
    fn tip(&self) -> Result<Tip, ViewError> {
        Ok(self.tip.clone())
    }
    fn coin(&self, outpoint: &OutPoint) -> Result<Option<Coin>, ViewError> {
        Ok(self.coins.get(outpoint).copied().filter(|coin| !coin.is_rejection()))
    }
    fn location(&self, txid: &TxId) -> Result<Option<Location>, ViewError> {
        Ok(self.locations.get(txid).copied())
    }
    fn rejected(&self, txid: &TxId) -> Result<Option<Height>, ViewError> {
        Ok(self.rejected.get(txid).copied())
    }
    fn block(&self, height: Height) -> Result<Option<CommittedBlock>, ViewError> {
        Ok(self.blocks.get(&height).cloned())
    }
    fn bucket(&self, index: u16) -> Result<Option<Vec<u8>>, ViewError> {
        Ok(self.buckets.get(&index).cloned())
    }
}

pub(crate) const COIN: u64 = 1_000_000;
pub(crate) const FEE: u64 = 1_000;

/// Payer `number`.
pub(crate) fn payer(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

/// Four validators of power 1, epochs of four blocks; key `payer(i)` owns genesis coin `i`, for `i < 8`; coin 8 is locked
/// by [`policy`].
pub(crate) struct Chain {
    pub(crate) params: Params,
    pub(crate) electorate: Electorate,
    /// By index in the set.
    pub(crate) validators: Vec<SecretKey>,
    pub(crate) genesis_coins: Vec<OutPoint>,
    pub(crate) view: MemoryView,
    pub(crate) commitment: Commitment,
    /// For the tip.
    pub(crate) last_commit: Option<BlockCertificate>,
}

pub(crate) const PAYERS: u8 = 8;

/// Two of the first three payers.
pub(crate) fn policy() -> Multisig {
    Multisig::new(2, (0..3).map(|number| payer(number).public().lock()).collect()).expect("a valid policy")
}

impl Chain {
    pub(crate) fn new() -> Self {
        Self::with_params(Params {
            epoch_length: 4,
            issuance_per_epoch: 1_003,
            ..Params::default()
        })
    }

    pub(crate) fn with_params(params: Params) -> Self {
        let mut validators: Vec<SecretKey> = (0..4).map(|number| SecretKey::from_seed([200 + number; 32])).collect();
        validators.sort_by_key(SecretKey::public);
        let member = |key: &SecretKey| Validator {
            public_key: key.public(),
            power: 1,
            payout: key.public().lock(),
        };
        let locks = (0..PAYERS).map(|number| payer(number).public().lock());
        let coin = |lock: LockHash| Output {
            value: Amount(COIN),
            lock,
        };
        let genesis = Genesis {
            network: "ltime".into(),
            time: Time(1_000),
            params: params.clone(),
            validators: ValidatorSet::new(validators.iter().map(member).collect()).expect("four validators"),
            coins: locks.chain([policy().lock()]).map(coin).collect(),
        };
        let (tip, coins, commitment) = genesis_tip(&genesis).expect("a valid genesis");
        let electorate = Electorate::new(
            genesis.chain_id(),
            params.epoch_length,
            Arc::new(genesis.validators.clone()),
        );
        let buckets = (0..1024).map(|index| (index, commitment.bucket(index).expect("a bucket").to_bytes()));
        Self {
            params,
            electorate,
            validators,
            genesis_coins: coins.iter().map(|(outpoint, _)| *outpoint).collect(),
            view: MemoryView {
                tip,
                coins: coins.into_iter().collect(),
                locations: BTreeMap::new(),
                rejected: BTreeMap::new(),
                blocks: BTreeMap::new(),
                buckets: buckets.collect(),
            },
            commitment,
            last_commit: None,
        }
    }

    pub(crate) fn chain_id(&self) -> &ChainId {
        &self.electorate.chain
    }

    /// A checked transaction with these parts.
    pub(crate) fn transaction(
        &self,
        inputs: &[OutPoint],
        outputs: &[(LockHash, u64)],
        keys: &[&SecretKey],
        policies: &[Multisig],
    ) -> CheckedTransaction {
        let body = TransactionBody {
            inputs: inputs.to_vec(),
            outputs: outputs
                .iter()
                .map(|(lock, value)| Output {
                    value: Amount(*value),
                    lock: *lock,
                })
                .collect(),
            memo: Vec::new(),
        };
        let signed = Transaction::sign(self.chain_id(), &body, keys, policies).expect("a well-formed transaction");
        check::check(self.chain_id(), signed.bytes()).expect("a well-signed transaction")
    }

    /// Payer `from` spends its genesis coin to payer `to`, with [`FEE`].
    pub(crate) fn pay(&self, from: u8, to: u8) -> CheckedTransaction {
        let coin = self.genesis_coins[usize::from(from)];
        self.transaction(
            &[coin],
            &[(payer(to).public().lock(), COIN - FEE)],
            &[&payer(from)],
            &[],
        )
    }

    /// The content of a next block with these parts.
    pub(crate) fn content(
        &self,
        transactions: Vec<CheckedTransaction>,
        rejections: Vec<Certificate>,
        seals: Vec<EpochSeal>,
    ) -> Content {
        let header = build_header(
            &self.view.tip,
            &self.params,
            &self.electorate,
            1,
            self.view.tip.time.plus_ms(1_000),
            &transactions,
            &rejections,
            &seals,
            self.last_commit.as_ref(),
        );
        Content {
            header,
            transactions,
            rejections,
            seals,
            last_commit: self.last_commit.clone(),
        }
    }

    pub(crate) fn apply(&self, content: &Content) -> Result<Applied, BlockError> {
        apply_block(&self.view, &self.commitment, &self.params, &self.electorate, content)
    }

    /// A certificate of `signers` for the block.
    pub(crate) fn certificate(&self, content: &Content, signers: &[ValidatorIndex]) -> BlockCertificate {
        let (height, round, block) = (content.header.height, Round(0), content.header.id(self.chain_id()));
        let digest = block_vote_digest(self.chain_id(), Phase::Commit, height, round, &block);
        let sign = |signer: &ValidatorIndex| (*signer, self.validators[*signer as usize].sign(&digest));
        BlockCertificate {
            height,
            round,
            phase: Phase::Commit,
            block,
            signatures: signers.iter().map(sign).collect(),
        }
    }

    /// The block with a certificate of `signers`.
    pub(crate) fn committed(&self, content: &Content, signers: &[ValidatorIndex]) -> CommittedBlock {
        CommittedBlock {
            block: Block {
                header: content.header.clone(),
                transactions: content
                    .transactions
                    .iter()
                    .map(|transaction| transaction.bytes().to_vec())
                    .collect(),
                rejections: content.rejections.clone(),
                seals: content.seals.clone(),
                last_commit: content.last_commit.clone(),
            },
            commit: self.certificate(content, signers),
        }
    }

    /// Applies and writes the block, with a certificate of `signers`.
    pub(crate) fn commit_signed(&mut self, content: &Content, signers: &[ValidatorIndex]) -> Applied {
        let applied = self.apply(content).expect("a valid block");
        self.view
            .blocks
            .insert(content.header.height, self.committed(content, signers));
        self.last_commit = Some(self.certificate(content, signers));
        self.commitment.commit(&applied);
        self.view.write(&applied);
        applied
    }

    /// Commits a block with the seals it needs and a certificate of validators 0 to 2.
    pub(crate) fn commit(&mut self, transactions: Vec<CheckedTransaction>) -> Applied {
        let content = self.content(transactions, Vec::new(), self.seals_if_closing());
        self.commit_signed(&content, &[0, 1, 2])
    }

    /// Seals of validators 0 to 2 that list nothing, when the next block closes its epoch.
    pub(crate) fn seals_if_closing(&self) -> Vec<EpochSeal> {
        if self.view.tip.height.next().closes_epoch(self.params.epoch_length) {
            (0..3).map(|validator| self.seal(validator, &[])).collect()
        } else {
            Vec::new()
        }
    }

    /// A validator's seal of the next block's epoch.
    pub(crate) fn seal(&self, validator: ValidatorIndex, txids: &[TxId]) -> EpochSeal {
        let mut txids = txids.to_vec();
        txids.sort_unstable();
        let epoch = self.view.tip.height.next().epoch(self.params.epoch_length);
        let mut seal = EpochSeal {
            epoch,
            validator,
            txids,
            signature: Signature([0; 64]),
        };
        seal.signature = self.validators[validator as usize].sign(&seal.digest(self.chain_id()));
        seal
    }

    /// A quorum of votes of validators 0 to 2.
    pub(crate) fn votes(&self, kind: VoteKind, txid: TxId, epoch: Epoch) -> Certificate {
        let votes = (0..3).map(|validator| {
            let mut batch = VoteBatch {
                epoch,
                validator,
                sequence: 5,
                height: self.view.tip.height,
                votes: vec![
                    Vote { kind, txid },
                    Vote {
                        kind: VoteKind::Lock,
                        txid: TxId([1; 32]),
                    },
                ],
                signature: Signature([0; 64]),
            };
            batch.signature = self.validators[validator as usize].sign(&batch.head().digest(self.chain_id()));
            VoteProof::cut(&batch, 0).expect("the batch has a first vote")
        });
        Certificate {
            kind,
            txid,
            epoch,
            votes: votes.collect(),
        }
    }

    /// A rejection that the next block may carry.
    pub(crate) fn rejection(&self, txid: TxId) -> Certificate {
        let epoch = self.view.tip.height.next().epoch(self.params.epoch_length);
        self.votes(VoteKind::Abandon, txid, epoch)
    }
}
