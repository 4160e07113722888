//! Blocks: headers, bodies, and blocks with the quorum that decided them.

use super::{
    certificate::{BlockCertificate, Certificate},
    hash::{BlockId, ChainId, Hash, TxId, merkle_root},
    keys::signing_digest,
    limits::{MAX_BLOCK_BYTES, MAX_BLOCK_REJECTIONS, MAX_BLOCK_TRANSACTIONS, MAX_VALIDATORS},
    quorum::ValidatorIndex,
    time::{Epoch, Height, Time},
    vote::EpochSeal,
    wire::{self, DecodeError},
};
use crate::proto;
use prost::Message;

const HEADER_VERSION: u32 = 1;

/// What a block says about itself and about the state before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// 1 for the first block.
    pub height: Height,
    /// Of `height`.
    pub epoch: Epoch,
    /// Later than the parent's.
    pub time: Time,
    /// The block before; the chain id's bytes at height 1.
    pub parent: BlockId,
    /// Who made it.
    pub proposer: ValidatorIndex,
    /// Root over all coins after the parent.
    pub utxo_root: Hash,
    /// Merkle root over the txids, in block order.
    pub transactions_root: Hash,
    /// Merkle root over the rejected txids.
    pub rejections_root: Hash,
    /// Merkle root over the digests of the seals.
    pub seals_root: Hash,
    /// Of the commit certificate for the parent; zero at height 1.
    pub last_commit_hash: Hash,
    /// The set that votes on this block.
    pub validators_hash: Hash,
    /// The set that votes on the next block.
    pub next_validators_hash: Hash,
}

impl BlockHeader {
    /// Canonical Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        proto::BlockHeader {
            version: HEADER_VERSION,
            height: self.height.0,
            epoch: self.epoch.0,
            time_ms: self.time.0,
            parent: self.parent.0.to_vec(),
            proposer: self.proposer,
            utxo_root: self.utxo_root.0.to_vec(),
            transactions_root: self.transactions_root.0.to_vec(),
            rejections_root: self.rejections_root.0.to_vec(),
            seals_root: self.seals_root.0.to_vec(),
            last_commit_hash: self.last_commit_hash.0.to_vec(),
            validators_hash: self.validators_hash.0.to_vec(),
            next_validators_hash: self.next_validators_hash.0.to_vec(),
        }
        .encode_to_vec()
    }

    /// Back from [`BlockHeader::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: proto::BlockHeader = wire::decode_canonical("block header", bytes)?;
        if message.version != HEADER_VERSION {
            return Err(DecodeError::Unknown {
                what: "header version",
                value: message.version.into(),
            });
        }
        Ok(Self {
            height: Height(message.height),
            epoch: Epoch(message.epoch),
            time: Time(message.time_ms),
            parent: BlockId(wire::array("parent", &message.parent)?),
            proposer: message.proposer,
            utxo_root: Hash(wire::array("utxo root", &message.utxo_root)?),
            transactions_root: Hash(wire::array("transactions root", &message.transactions_root)?),
            rejections_root: Hash(wire::array("rejections root", &message.rejections_root)?),
            seals_root: Hash(wire::array("seals root", &message.seals_root)?),
            last_commit_hash: Hash(wire::array("last commit hash", &message.last_commit_hash)?),
            validators_hash: Hash(wire::array("validators hash", &message.validators_hash)?),
            next_validators_hash: Hash(wire::array("next validators hash", &message.next_validators_hash)?),
        })
    }

    /// `H("timecoin/block", chain_id, canonical bytes)`.
    pub fn id(&self, chain: &ChainId) -> BlockId {
        BlockId(signing_digest("timecoin/block", chain, &[&self.encode()]))
    }
}

/// The root over a block's txids.
pub fn transactions_root(txids: &[TxId]) -> Hash {
    merkle_root(txids)
}

/// The root over a block's rejections.
pub fn rejections_root(rejections: &[Certificate]) -> Hash {
    merkle_root(&rejections.iter().map(|rejection| rejection.txid).collect::<Vec<_>>())
}

/// The root over a block's seals.
pub fn seals_root(chain: &ChainId, seals: &[EpochSeal]) -> Hash {
    merkle_root(&seals.iter().map(|seal| seal.digest(chain)).collect::<Vec<_>>())
}

/// A block as it is stored and synced. Transactions are the exact bytes, not yet decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The header.
    pub header: BlockHeader,
    /// Signed transactions, parents before children.
    pub transactions: Vec<Vec<u8>>,
    /// Quorums of Abandon.
    pub rejections: Vec<Certificate>,
    /// Only in the closing block of an epoch.
    pub seals: Vec<EpochSeal>,
    /// Commit certificate of the parent; absent at height 1.
    pub last_commit: Option<BlockCertificate>,
}

impl Block {
    pub(crate) fn to_proto(&self) -> proto::Block {
        proto::Block {
            header: self.header.encode(),
            transactions: self.transactions.clone(),
            rejections: self.rejections.iter().map(Certificate::to_proto).collect(),
            seals: self.seals.iter().map(EpochSeal::to_proto).collect(),
            last_commit: self.last_commit.as_ref().map(BlockCertificate::to_proto),
        }
    }

    pub(crate) fn from_proto(message: proto::Block) -> Result<Self, DecodeError> {
        wire::count(
            "block transactions",
            message.transactions.len(),
            0,
            MAX_BLOCK_TRANSACTIONS,
        )?;
        let bytes = message.transactions.iter().map(Vec::len).sum();
        wire::count("block transaction bytes", bytes, 0, MAX_BLOCK_BYTES)?;
        wire::count("block rejections", message.rejections.len(), 0, MAX_BLOCK_REJECTIONS)?;
        wire::count("block seals", message.seals.len(), 0, MAX_VALIDATORS)?;
        Ok(Self {
            header: BlockHeader::decode(&message.header)?,
            transactions: message.transactions,
            rejections: message
                .rejections
                .iter()
                .map(Certificate::from_proto)
                .collect::<Result<_, _>>()?,
            seals: message
                .seals
                .iter()
                .map(EpochSeal::from_proto)
                .collect::<Result<_, _>>()?,
            last_commit: message
                .last_commit
                .as_ref()
                .map(BlockCertificate::from_proto)
                .transpose()?,
        })
    }
}

/// A block and the quorum that decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedBlock {
    /// The block.
    pub block: Block,
    /// A commit certificate for it.
    pub commit: BlockCertificate,
}

impl CommittedBlock {
    /// Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    /// Back from [`CommittedBlock::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_proto(wire::decode("committed block", bytes)?)
    }

    pub(crate) fn to_proto(&self) -> proto::CommittedBlock {
        proto::CommittedBlock {
            block: Some(self.block.to_proto()),
            commit: Some(self.commit.to_proto()),
        }
    }

    pub(crate) fn from_proto(message: proto::CommittedBlock) -> Result<Self, DecodeError> {
        Ok(Self {
            block: Block::from_proto(wire::required("block", message.block)?)?,
            commit: BlockCertificate::from_proto(&wire::required("commit certificate", message.commit)?)?,
        })
    }
}
