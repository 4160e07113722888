//! Quorums of signed votes for one thing: proofs that anyone with the validator set can check.

use super::{
    fault::Fault,
    hash::{BlockId, ChainId, Hash, TxId, merkle_path_root, tagged},
    keys::{Signature, SignatureBatch},
    limits::{MAX_VALIDATORS, MAX_VOTES_PER_BATCH},
    quorum::{ValidatorIndex, ValidatorSet},
    time::{Epoch, Height, Round},
    vote::{BatchHead, Phase, PreparedClaim, Vote, VoteBatch, VoteKind, block_vote_digest, view_change_digest},
    wire::{self, DecodeError},
};
use crate::proto;
use prost::Message;
use thiserror::Error;

/// Why a certificate proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Names a validator that the set does not have.
    #[error("validator {0} is not in the epoch's set")]
    UnknownValidator(ValidatorIndex),
    /// The signers' power is no quorum.
    #[error("power {power} of {total} is no quorum: more than two thirds are needed")]
    NoQuorum {
        /// Power of the signers.
        power: u128,
        /// Power of the set.
        total: u128,
    },
    /// A Merkle path has the wrong length for its position.
    #[error("vote of validator {0}: the Merkle path does not fit its position")]
    Path(ValidatorIndex),
    /// A signature is wrong.
    #[error("a signature is not valid")]
    Signature,
    /// Made for another epoch than the one it is judged by.
    #[error("is of epoch {found}, expected {expected}")]
    Epoch {
        /// The certificate's.
        found: Epoch,
        /// The one judged by.
        expected: Epoch,
    },
    /// About another height, round, phase or block than it is used for.
    #[error("does not prove what it is used for: {0}")]
    Subject(&'static str),
}

impl CertificateError {
    /// Wrong epochs happen to honest peers; the rest does not.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Epoch { .. } => Fault::Late,
            _ => Fault::Hostile,
        }
    }
}

fn require_quorum(set: &ValidatorSet, signers: impl Iterator<Item = ValidatorIndex>) -> Result<(), CertificateError> {
    let mut power = 0;
    for validator in signers {
        power += match set.power(validator) {
            0 => return Err(CertificateError::UnknownValidator(validator)),
            some => some,
        };
    }
    if set.is_quorum(power) {
        Ok(())
    } else {
        Err(CertificateError::NoQuorum {
            power,
            total: set.total_power(),
        })
    }
}

/// One vote, cut out of the signed batch that it travelled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoteProof {
    /// Index in the epoch's set.
    pub validator: ValidatorIndex,
    /// Of the batch.
    pub sequence: u64,
    /// Of the batch.
    pub height: Height,
    /// Votes in the batch.
    pub count: u32,
    /// Position of this vote.
    pub index: u32,
    /// Audit path from the leaf up.
    pub path: Vec<[u8; 32]>,
    /// The batch's.
    pub signature: Signature,
}

/// Steps of an audit path in the largest batch.
const MAX_PATH: usize = (usize::BITS - (MAX_VOTES_PER_BATCH - 1).leading_zeros()) as usize;

impl VoteProof {
    /// Cuts vote `index` out of a batch; `None` when it has no such vote.
    pub fn cut(batch: &VoteBatch, index: usize) -> Option<Self> {
        let leaves = batch.leaves();
        leaves.get(index)?;
        Some(Self {
            validator: batch.validator,
            sequence: batch.sequence,
            height: batch.height,
            count: u32::try_from(leaves.len()).ok()?,
            index: u32::try_from(index).ok()?,
            path: super::hash::merkle_path(&leaves, index),
            signature: batch.signature,
        })
    }

    fn head(&self, epoch: Epoch, vote: &Vote) -> Option<BatchHead> {
        let (index, count) = (usize::try_from(self.index).ok()?, usize::try_from(self.count).ok()?);
        Some(BatchHead {
            epoch,
            validator: self.validator,
            sequence: self.sequence,
            height: self.height,
            count: self.count,
            root: merkle_path_root(&vote.to_bytes(), index, count, &self.path)?,
        })
    }

    fn to_proto(&self) -> proto::VoteProof {
        proto::VoteProof {
            validator: self.validator,
            sequence: self.sequence,
            height: self.height.0,
            count: self.count,
            index: self.index,
            path: self.path.concat(),
            signature: self.signature.0.to_vec(),
        }
    }

    fn from_proto(message: &proto::VoteProof) -> Result<Self, DecodeError> {
        wire::count("votes in a batch", message.count as usize, 1, MAX_VOTES_PER_BATCH)?;
        Ok(Self {
            validator: message.validator,
            sequence: message.sequence,
            height: Height(message.height),
            count: message.count,
            index: message.index,
            path: wire::arrays("audit path", &message.path, MAX_PATH)?,
            signature: Signature(wire::array("vote signature", &message.signature)?),
        })
    }
}

/// A quorum of votes of one kind for one transaction. With kind Final it is the receipt that a merchant keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Lock, Final or Abandon.
    pub kind: VoteKind,
    /// The transaction.
    pub txid: TxId,
    /// The epoch that the votes belong to.
    pub epoch: Epoch,
    /// Strictly ascending by validator.
    pub votes: Vec<VoteProof>,
}

impl Certificate {
    /// Checks everything but the signatures and queues those.
    pub fn queue_signatures(
        &self,
        chain: &ChainId,
        set: &ValidatorSet,
        batch: &mut SignatureBatch,
    ) -> Result<(), CertificateError> {
        require_quorum(set, self.votes.iter().map(|vote| vote.validator))?;
        let vote = Vote {
            kind: self.kind,
            txid: self.txid,
        };
        for proof in &self.votes {
            let member = set
                .get(proof.validator)
                .ok_or(CertificateError::UnknownValidator(proof.validator))?;
            let head = proof
                .head(self.epoch, &vote)
                .ok_or(CertificateError::Path(proof.validator))?;
            batch.queue(member.public_key, head.digest(chain), proof.signature);
        }
        Ok(())
    }

    /// Checks everything: what a shop does with a receipt, offline.
    pub fn verify(&self, chain: &ChainId, set: &ValidatorSet) -> Result<(), CertificateError> {
        let mut batch = SignatureBatch::new();
        self.queue_signatures(chain, set, &mut batch)?;
        if batch.all_valid() {
            Ok(())
        } else {
            Err(CertificateError::Signature)
        }
    }

    /// Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    /// Back from [`Certificate::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_proto(&wire::decode("certificate", bytes)?)
    }

    pub(crate) fn to_proto(&self) -> proto::Certificate {
        proto::Certificate {
            kind: self.kind.number(),
            txid: self.txid.0.to_vec(),
            epoch: self.epoch.0,
            votes: self.votes.iter().map(VoteProof::to_proto).collect(),
        }
    }

    pub(crate) fn from_proto(message: &proto::Certificate) -> Result<Self, DecodeError> {
        wire::count("certificate votes", message.votes.len(), 1, MAX_VALIDATORS)?;
        let votes: Vec<VoteProof> = message
            .votes
            .iter()
            .map(VoteProof::from_proto)
            .collect::<Result<_, _>>()?;
        wire::ascending(
            "certificate validators",
            &votes.iter().map(|vote| vote.validator).collect::<Vec<_>>(),
        )?;
        Ok(Self {
            kind: VoteKind::from_number(message.kind)?,
            txid: TxId(wire::array("certificate txid", &message.txid)?),
            epoch: Epoch(message.epoch),
            votes,
        })
    }
}

/// A quorum of Prepare or Commit for one block in one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockCertificate {
    /// The height voted on.
    pub height: Height,
    /// The round voted in.
    pub round: Round,
    /// Prepare or Commit.
    pub phase: Phase,
    /// The block.
    pub block: BlockId,
    /// Strictly ascending by validator.
    pub signatures: Vec<(ValidatorIndex, Signature)>,
}

impl BlockCertificate {
    /// Checks everything but the signatures and queues those.
    pub fn queue_signatures(
        &self,
        chain: &ChainId,
        set: &ValidatorSet,
        batch: &mut SignatureBatch,
    ) -> Result<(), CertificateError> {
        require_quorum(set, self.signatures.iter().map(|(validator, _)| *validator))?;
        let digest = block_vote_digest(chain, self.phase, self.height, self.round, &self.block);
        for (validator, signature) in &self.signatures {
            let member = set
                .get(*validator)
                .ok_or(CertificateError::UnknownValidator(*validator))?;
            batch.queue(member.public_key, digest, *signature);
        }
        Ok(())
    }

    /// Checks everything.
    pub fn verify(&self, chain: &ChainId, set: &ValidatorSet) -> Result<(), CertificateError> {
        let mut batch = SignatureBatch::new();
        self.queue_signatures(chain, set, &mut batch)?;
        if batch.all_valid() {
            Ok(())
        } else {
            Err(CertificateError::Signature)
        }
    }

    /// Its name in the next block's header: `H("timecoin/commit", Protobuf bytes)`.
    pub fn hash(&self) -> Hash {
        Hash(tagged("timecoin/commit", &[&self.encode()]))
    }

    /// Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    /// Back from [`BlockCertificate::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_proto(&wire::decode("block certificate", bytes)?)
    }

    pub(crate) fn to_proto(&self) -> proto::BlockCertificate {
        let signature = |(validator, signature): &(ValidatorIndex, Signature)| proto::ValidatorSignature {
            validator: *validator,
            signature: signature.0.to_vec(),
        };
        proto::BlockCertificate {
            height: self.height.0,
            round: self.round.0,
            phase: self.phase.number(),
            block_id: self.block.0.to_vec(),
            signatures: self.signatures.iter().map(signature).collect(),
        }
    }

    pub(crate) fn from_proto(message: &proto::BlockCertificate) -> Result<Self, DecodeError> {
        wire::count(
            "block certificate signatures",
            message.signatures.len(),
            1,
            MAX_VALIDATORS,
        )?;
        let signature = |part: &proto::ValidatorSignature| {
            Ok((
                part.validator,
                Signature(wire::array("block vote signature", &part.signature)?),
            ))
        };
        let signatures: Vec<_> = message
            .signatures
            .iter()
            .map(signature)
            .collect::<Result<_, DecodeError>>()?;
        wire::ascending(
            "block certificate validators",
            &signatures.iter().map(|(validator, _)| *validator).collect::<Vec<_>>(),
        )?;
        Ok(Self {
            height: Height(message.height),
            round: Round(message.round),
            phase: Phase::from_number(message.phase)?,
            block: BlockId(wire::array("block id", &message.block_id)?),
            signatures,
        })
    }
}

/// One validator's part of a round certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewChangeVote {
    /// Index in the epoch's set.
    pub validator: ValidatorIndex,
    /// Its claim.
    pub prepared: Option<PreparedClaim>,
    /// Over the view change's digest.
    pub signature: Signature,
}

/// A quorum of ViewChange for one round: the right to enter it, and what its leader has to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundCertificate {
    /// The height.
    pub height: Height,
    /// The round that may be entered; 1 or more.
    pub round: Round,
    /// Strictly ascending by validator.
    pub votes: Vec<ViewChangeVote>,
    /// The prepare certificate of the highest claim; there exactly when somebody claims.
    pub prepared: Option<BlockCertificate>,
}

impl RoundCertificate {
    /// The highest claim among the votes: the block that must be proposed again.
    pub fn highest_claim(&self) -> Option<PreparedClaim> {
        self.votes.iter().filter_map(|vote| vote.prepared).max()
    }

    /// Checks everything but the signatures and queues those.
    pub fn queue_signatures(
        &self,
        chain: &ChainId,
        set: &ValidatorSet,
        batch: &mut SignatureBatch,
    ) -> Result<(), CertificateError> {
        require_quorum(set, self.votes.iter().map(|vote| vote.validator))?;
        for vote in &self.votes {
            let member = set
                .get(vote.validator)
                .ok_or(CertificateError::UnknownValidator(vote.validator))?;
            let digest = view_change_digest(chain, self.height, self.round, vote.prepared.as_ref());
            batch.queue(member.public_key, digest, vote.signature);
        }
        match (self.highest_claim(), &self.prepared) {
            (None, None) => Ok(()),
            (Some(claim), Some(proof)) => {
                check_prepared(self.height, self.round, &claim, proof)?;
                proof.queue_signatures(chain, set, batch)
            }
            (None, Some(_)) => Err(CertificateError::Subject("a prepare certificate without a claim")),
            (Some(_), None) => Err(CertificateError::Subject("a claim without a prepare certificate")),
        }
    }

    pub(crate) fn to_proto(&self) -> proto::RoundCertificate {
        let vote = |vote: &ViewChangeVote| proto::ViewChangeVote {
            validator: vote.validator,
            prepared: vote.prepared.map(PreparedClaim::to_proto),
            signature: vote.signature.0.to_vec(),
        };
        proto::RoundCertificate {
            height: self.height.0,
            round: self.round.0,
            votes: self.votes.iter().map(vote).collect(),
            prepared: self.prepared.as_ref().map(BlockCertificate::to_proto),
        }
    }

    pub(crate) fn from_proto(message: &proto::RoundCertificate) -> Result<Self, DecodeError> {
        wire::count("round certificate votes", message.votes.len(), 1, MAX_VALIDATORS)?;
        let vote = |vote: &proto::ViewChangeVote| {
            Ok(ViewChangeVote {
                validator: vote.validator,
                prepared: vote.prepared.as_ref().map(PreparedClaim::from_proto).transpose()?,
                signature: Signature(wire::array("view change signature", &vote.signature)?),
            })
        };
        let votes: Vec<ViewChangeVote> = message.votes.iter().map(vote).collect::<Result<_, DecodeError>>()?;
        wire::ascending(
            "round certificate validators",
            &votes.iter().map(|vote| vote.validator).collect::<Vec<_>>(),
        )?;
        Ok(Self {
            height: Height(message.height),
            round: Round(message.round),
            votes,
            prepared: message
                .prepared
                .as_ref()
                .map(BlockCertificate::from_proto)
                .transpose()?,
        })
    }
}

/// Whether a prepare certificate is about exactly what a claim says, in a round below `round`.
pub fn check_prepared(
    height: Height,
    round: Round,
    claim: &PreparedClaim,
    proof: &BlockCertificate,
) -> Result<(), CertificateError> {
    if proof.phase != Phase::Prepare || proof.height != height {
        return Err(CertificateError::Subject("not a prepare certificate of this height"));
    }
    if proof.round != claim.round || proof.block != claim.block || claim.round >= round {
        return Err(CertificateError::Subject(
            "the prepare certificate is not the one that is claimed",
        ));
    }
    Ok(())
}
