//! What validators say: votes on payments in batches, votes on blocks, view changes, epoch seals.

use super::{
    certificate::BlockCertificate,
    hash::{BlockId, ChainId, Hash, TxId, merkle_root},
    keys::{Signature, signing_digest},
    limits::MAX_VOTES_PER_BATCH,
    quorum::ValidatorIndex,
    time::{Epoch, Height, Round},
    wire::{self, DecodeError},
};
use crate::proto;

/// What a validator says about one payment (protocol, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum VoteKind {
    /// Its inputs are reserved for it here.
    Lock = 1,
    /// A quorum has locked; I will never abandon it.
    Final = 2,
    /// It has a rival; I will never call it final.
    Abandon = 3,
}

impl VoteKind {
    /// From its number on the wire.
    pub fn from_number(number: i32) -> Result<Self, DecodeError> {
        match number {
            1 => Ok(Self::Lock),
            2 => Ok(Self::Final),
            3 => Ok(Self::Abandon),
            other => Err(DecodeError::Unknown {
                what: "vote kind",
                value: other.into(),
            }),
        }
    }

    /// Its number on the wire.
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// One vote: a kind and a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vote {
    /// What is said.
    pub kind: VoteKind,
    /// About which transaction.
    pub txid: TxId,
}

impl Vote {
    /// 33 bytes: kind, txid. A leaf of the batch's Merkle tree.
    pub fn to_bytes(&self) -> [u8; 33] {
        let mut bytes = [0; 33];
        bytes[0] = self.kind as u8;
        bytes[1..].copy_from_slice(&self.txid.0);
        bytes
    }

    /// Back from [`Vote::to_bytes`].
    pub fn from_bytes(bytes: &[u8; 33]) -> Result<Self, DecodeError> {
        let (kind, txid) = bytes.split_at(1);
        Ok(Self {
            kind: VoteKind::from_number(kind[0].into())?,
            txid: TxId(wire::array("vote txid", txid)?),
        })
    }
}

/// What a vote batch's signature covers, without the votes themselves: enough to check one vote with its audit path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// Votes are valid in one epoch only.
    pub epoch: Epoch,
    /// Index in the epoch's set.
    pub validator: ValidatorIndex,
    /// From 0 in each epoch, without gaps.
    pub sequence: u64,
    /// The last block that the validator had committed.
    pub height: Height,
    /// Votes in the batch.
    pub count: u32,
    /// Merkle root over the votes' 33-byte leaves.
    pub root: Hash,
}

impl BatchHead {
    /// `H("timecoin/votes", chain_id, epoch, validator, sequence, height, count, root)`, numbers big-endian.
    pub fn digest(&self, chain: &ChainId) -> [u8; 32] {
        signing_digest(
            "timecoin/votes",
            chain,
            &[
                &self.epoch.0.to_be_bytes(),
                &self.validator.to_be_bytes(),
                &self.sequence.to_be_bytes(),
                &self.height.0.to_be_bytes(),
                &self.count.to_be_bytes(),
                &self.root.0,
            ],
        )
    }
}

/// All the votes that one turn of a validator decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoteBatch {
    /// Votes are valid in one epoch only.
    pub epoch: Epoch,
    /// Index in the epoch's set.
    pub validator: ValidatorIndex,
    /// From 0 in each epoch, without gaps.
    pub sequence: u64,
    /// The last block that the validator had committed.
    pub height: Height,
    /// 1 to 10,000 votes.
    pub votes: Vec<Vote>,
    /// Over the head's digest; zeros until it is signed.
    pub signature: Signature,
}

impl VoteBatch {
    /// What the signature covers.
    pub fn head(&self) -> BatchHead {
        let leaves = self.leaves();
        BatchHead {
            epoch: self.epoch,
            validator: self.validator,
            sequence: self.sequence,
            height: self.height,
            count: u32::try_from(leaves.len()).unwrap_or(u32::MAX),
            root: merkle_root(&leaves),
        }
    }

    /// The votes as leaves of the Merkle tree.
    pub fn leaves(&self) -> Vec<[u8; 33]> {
        self.votes.iter().map(Vote::to_bytes).collect()
    }

    pub(crate) fn to_proto(&self) -> proto::VoteBatch {
        proto::VoteBatch {
            epoch: self.epoch.0,
            validator: self.validator,
            sequence: self.sequence,
            height: self.height.0,
            votes: self.leaves().concat(),
            signature: self.signature.0.to_vec(),
        }
    }

    pub(crate) fn from_proto(message: &proto::VoteBatch) -> Result<Self, DecodeError> {
        let leaves: Vec<[u8; 33]> = wire::arrays("votes", &message.votes, MAX_VOTES_PER_BATCH)?;
        wire::count("votes", leaves.len(), 1, MAX_VOTES_PER_BATCH)?;
        Ok(Self {
            epoch: Epoch(message.epoch),
            validator: message.validator,
            sequence: message.sequence,
            height: Height(message.height),
            votes: leaves.iter().map(Vote::from_bytes).collect::<Result<_, _>>()?,
            signature: Signature(wire::array("vote batch signature", &message.signature)?),
        })
    }
}

/// What a vote on a block is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Phase {
    /// A leader's signature under its proposal.
    Propose = 1,
    /// The block is valid.
    Prepare = 2,
    /// A quorum has prepared it.
    Commit = 3,
}

impl Phase {
    /// From its number on the wire.
    pub fn from_number(number: i32) -> Result<Self, DecodeError> {
        match number {
            1 => Ok(Self::Propose),
            2 => Ok(Self::Prepare),
            3 => Ok(Self::Commit),
            other => Err(DecodeError::Unknown {
                what: "phase",
                value: other.into(),
            }),
        }
    }

    /// Its number on the wire.
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// `H("timecoin/block-vote", chain_id, phase, height, round, block_id)`, numbers big-endian.
pub fn block_vote_digest(chain: &ChainId, phase: Phase, height: Height, round: Round, block: &BlockId) -> [u8; 32] {
    signing_digest(
        "timecoin/block-vote",
        chain,
        &[
            &[phase as u8],
            &height.0.to_be_bytes(),
            &round.0.to_be_bytes(),
            &block.0,
        ],
    )
}

/// A vote on a block in one phase of one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockVote {
    /// The height voted on.
    pub height: Height,
    /// The round voted in.
    pub round: Round,
    /// Prepare or Commit.
    pub phase: Phase,
    /// The block.
    pub block: BlockId,
    /// Index in the epoch's set.
    pub validator: ValidatorIndex,
    /// Over [`BlockVote::digest`]; zeros until it is signed.
    pub signature: Signature,
}

impl BlockVote {
    /// What is signed.
    pub fn digest(&self, chain: &ChainId) -> [u8; 32] {
        block_vote_digest(chain, self.phase, self.height, self.round, &self.block)
    }

    pub(crate) fn to_proto(&self) -> proto::BlockVote {
        proto::BlockVote {
            height: self.height.0,
            round: self.round.0,
            phase: self.phase.number(),
            block_id: self.block.0.to_vec(),
            validator: self.validator,
            signature: self.signature.0.to_vec(),
        }
    }

    pub(crate) fn from_proto(message: &proto::BlockVote) -> Result<Self, DecodeError> {
        let phase = Phase::from_number(message.phase)?;
        if phase == Phase::Propose {
            return Err(DecodeError::Unknown {
                what: "block vote phase",
                value: message.phase.into(),
            });
        }
        Ok(Self {
            height: Height(message.height),
            round: Round(message.round),
            phase,
            block: BlockId(wire::array("block id", &message.block_id)?),
            validator: message.validator,
            signature: Signature(wire::array("block vote signature", &message.signature)?),
        })
    }
}

/// The highest round in which a validator saw a block prepared, and which block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PreparedClaim {
    /// The round.
    pub round: Round,
    /// The block.
    pub block: BlockId,
}

impl PreparedClaim {
    pub(crate) fn to_proto(self) -> proto::PreparedClaim {
        proto::PreparedClaim {
            round: self.round.0,
            block_id: self.block.0.to_vec(),
        }
    }

    pub(crate) fn from_proto(message: &proto::PreparedClaim) -> Result<Self, DecodeError> {
        Ok(Self {
            round: Round(message.round),
            block: BlockId(wire::array("prepared block id", &message.block_id)?),
        })
    }
}

/// `H("timecoin/view-change", chain_id, height, round, claimed (0 or 1), prepared round, prepared block)`; without a
/// claim the last two are zero.
pub fn view_change_digest(chain: &ChainId, height: Height, round: Round, prepared: Option<&PreparedClaim>) -> [u8; 32] {
    let (claimed, prepared_round, block) = match prepared {
        Some(claim) => (1u8, claim.round, claim.block),
        None => (0, Round(0), BlockId::default()),
    };
    signing_digest(
        "timecoin/view-change",
        chain,
        &[
            &height.0.to_be_bytes(),
            &round.0.to_be_bytes(),
            &[claimed],
            &prepared_round.0.to_be_bytes(),
            &block.0,
        ],
    )
}

/// "I have left the rounds below `round`", with what was prepared before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewChange {
    /// The height.
    pub height: Height,
    /// The round to enter; 1 or more.
    pub round: Round,
    /// The highest prepared round, if any.
    pub prepared: Option<PreparedClaim>,
    /// Proof of `prepared`; there exactly when that is.
    pub certificate: Option<BlockCertificate>,
    /// Index in the epoch's set.
    pub validator: ValidatorIndex,
    /// Over [`ViewChange::digest`]; zeros until it is signed.
    pub signature: Signature,
}

impl ViewChange {
    /// What is signed.
    pub fn digest(&self, chain: &ChainId) -> [u8; 32] {
        view_change_digest(chain, self.height, self.round, self.prepared.as_ref())
    }

    pub(crate) fn to_proto(&self) -> proto::ViewChange {
        proto::ViewChange {
            height: self.height.0,
            round: self.round.0,
            prepared: self.prepared.map(PreparedClaim::to_proto),
            certificate: self.certificate.as_ref().map(BlockCertificate::to_proto),
            validator: self.validator,
            signature: self.signature.0.to_vec(),
        }
    }

    pub(crate) fn from_proto(message: &proto::ViewChange) -> Result<Self, DecodeError> {
        if message.round == 0 {
            return Err(DecodeError::Unknown {
                what: "view change round",
                value: 0,
            });
        }
        if message.prepared.is_some() != message.certificate.is_some() {
            return Err(DecodeError::Missing {
                what: "prepared claim or its certificate",
            });
        }
        Ok(Self {
            height: Height(message.height),
            round: Round(message.round),
            prepared: message.prepared.as_ref().map(PreparedClaim::from_proto).transpose()?,
            certificate: message
                .certificate
                .as_ref()
                .map(BlockCertificate::from_proto)
                .transpose()?,
            validator: message.validator,
            signature: Signature(wire::array("view change signature", &message.signature)?),
        })
    }
}

/// A validator's last word on payments in an epoch (protocol, section 6): what it voted Final for and no block has yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochSeal {
    /// The epoch that is sealed.
    pub epoch: Epoch,
    /// Index in its set.
    pub validator: ValidatorIndex,
    /// Strictly ascending.
    pub txids: Vec<TxId>,
    /// Over [`EpochSeal::digest`]; zeros until it is signed.
    pub signature: Signature,
}

impl EpochSeal {
    /// `H("timecoin/seal", chain_id, epoch, validator, count, Merkle root of the txids)`, numbers big-endian.
    pub fn digest(&self, chain: &ChainId) -> [u8; 32] {
        let count = u32::try_from(self.txids.len()).unwrap_or(u32::MAX);
        signing_digest(
            "timecoin/seal",
            chain,
            &[
                &self.epoch.0.to_be_bytes(),
                &self.validator.to_be_bytes(),
                &count.to_be_bytes(),
                &merkle_root(&self.txids).0,
            ],
        )
    }

    pub(crate) fn to_proto(&self) -> proto::EpochSeal {
        proto::EpochSeal {
            epoch: self.epoch.0,
            validator: self.validator,
            txids: txids_to_bytes(&self.txids),
            signature: self.signature.0.to_vec(),
        }
    }

    pub(crate) fn from_proto(message: &proto::EpochSeal) -> Result<Self, DecodeError> {
        let txids = txids_from_bytes("sealed txids", &message.txids, super::limits::MAX_BLOCK_TRANSACTIONS)?;
        wire::ascending("sealed txids", &txids)?;
        Ok(Self {
            epoch: Epoch(message.epoch),
            validator: message.validator,
            txids,
            signature: Signature(wire::array("seal signature", &message.signature)?),
        })
    }
}

/// Txids one after another, 32 bytes each.
pub fn txids_to_bytes(txids: &[TxId]) -> Vec<u8> {
    txids.iter().flat_map(|txid| txid.0).collect()
}

/// Back from [`txids_to_bytes`], at most `max` of them.
pub fn txids_from_bytes(what: &'static str, bytes: &[u8], max: usize) -> Result<Vec<TxId>, DecodeError> {
    Ok(wire::arrays(what, bytes, max)?.into_iter().map(TxId).collect())
}
