//! What the replica wants done. Nothing here is done by it.

use super::input::{AnswerTicket, GossipId, RequestId, Ticket};
use crate::{
    ledger::Write,
    pool::PoolError,
    primitives::{
        BlockCertificate, BlockId, BlockVote, Certificate, ChainId, DecodeError, EpochSeal, Fault, Gossip, Height,
        PeerId, Proposal, Request, Response, Round, Signature, Time, TxId, ValidatorIndex, ViewChange, VoteBatch,
        keys::KeySigner, limits::MAX_MESSAGE_SIZE, vote::Phase, wire,
    },
    proto,
};
use prost::Message as _;
use std::sync::Arc;

/// Everything that one input, or one turn of inputs, leads to.
///
/// The order in which a shell serves the fields is the contract: each `write` before the next input; then, at the end
/// of a turn, `remember` is synced to disk; then `sign` is signed and published; only then anything else leaves. No
/// handler can speak before it has remembered, since it does not speak at all.
#[derive(Debug, Default)]
pub struct Effects {
    /// One decided block, or a step of a state sync, to be applied to the store at once.
    pub write: Option<Write>,
    /// To be appended to the safety log and synced before anything below leaves.
    pub remember: Vec<SafetyRecord>,
    /// To be signed with the validator's key, published, and handed back as [`super::Input::Own`].
    pub sign: Vec<Statement>,
    /// To be sent.
    pub send: Vec<Send>,
    /// Gossip that may be relayed, or not.
    pub verdicts: Vec<(GossipId, Verdict)>,
    /// Peers that did something wrong.
    pub faults: Vec<(PeerId, Fault, String)>,
    /// To clients that wait.
    pub replies: Vec<Reply>,
    /// For whoever listens.
    pub events: Vec<Event>,
}

impl Effects {
    /// Takes over what another input led to. At most one of them writes.
    pub fn append(&mut self, other: Self) {
        debug_assert!(
            self.write.is_none() || other.write.is_none(),
            "two writes before the first is applied"
        );
        self.write = self.write.take().or(other.write);
        self.remember.extend(other.remember);
        self.sign.extend(other.sign);
        self.send.extend(other.send);
        self.verdicts.extend(other.verdicts);
        self.faults.extend(other.faults);
        self.replies.extend(other.replies);
        self.events.extend(other.events);
    }
}

/// What becomes of a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New and useful: relay it.
    Accept,
    /// Not relayed, nobody's fault.
    Ignore,
    /// Wrong: not relayed, and its sender pays.
    Reject,
}

/// Something to be sent.
#[derive(Clone, Debug)]
pub enum Send {
    /// To everybody.
    Gossip(Gossip),
    /// A question; the answer comes as [`super::Input::Response`] with the same id, always exactly one.
    Ask {
        /// To whom.
        peer: PeerId,
        /// Chosen by the replica.
        id: RequestId,
        /// What.
        request: Request,
    },
    /// The answer to a peer's question.
    Answer {
        /// Which question.
        ticket: AnswerTicket,
        /// The answer.
        response: Response,
    },
}

/// The verdict on a submitted transaction.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Who waits.
    pub ticket: Ticket,
    /// Accepted (or known already), or which rule it breaks.
    pub result: Result<TxId, PoolError>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A transaction was admitted to the pool.
    Accepted(TxId),
    /// A payment is final: it will be in a block, whatever happens.
    Final(TxId),
    /// A block was decided.
    Committed(Arc<Committed>),
    /// A state sync has ended well: the node has the state after this block.
    Synced {
        /// Its height.
        height: Height,
        /// Its name.
        block: BlockId,
    },
    /// A transaction left the pool without being committed.
    Dropped {
        /// Which.
        txid: TxId,
        /// Why.
        reason: Dropped,
    },
    /// Two signed statements of one validator contradict each other.
    Evidence {
        /// Whose.
        validator: ValidatorIndex,
        /// What they are.
        what: String,
    },
    /// Something that should not happen and that this node could deal with: for the log.
    Trouble(String),
    /// The node starts or stops voting, and why.
    Voting {
        /// Whether it votes from now on.
        votes: bool,
        /// Why.
        reason: String,
    },
}

/// A block that was decided, in short.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its height.
    pub height: Height,
    /// Its name.
    pub block: BlockId,
    /// Its time.
    pub time: Time,
    /// The round that decided it.
    pub round: Round,
    /// Its transactions.
    pub transactions: Vec<TxId>,
    /// What it rejects.
    pub rejected: Vec<TxId>,
}

/// Why a transaction left the pool without being committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// A block rejected it: it had a rival and was abandoned by a quorum.
    Rejected,
    /// A block spent one of its coins otherwise.
    Conflict,
    /// Others pay more per byte and the pool is full.
    Evicted,
}

/// Something to be signed with the validator's key. Signatures inside are zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Votes on payments.
    Votes(VoteBatch),
    /// A block.
    Proposal(Box<Proposal>),
    /// A vote on a block.
    BlockVote(BlockVote),
    /// Leaving a round.
    ViewChange(ViewChange),
    /// Leaving an epoch.
    Seal(EpochSeal),
}

impl Statement {
    /// The digest to be signed.
    pub fn digest(&self, chain: &ChainId) -> [u8; 32] {
        match self {
            Self::Votes(batch) => batch.head().digest(chain),
            Self::Proposal(proposal) => proposal.digest(chain),
            Self::BlockVote(vote) => vote.digest(chain),
            Self::ViewChange(change) => change.digest(chain),
            Self::Seal(seal) => seal.digest(chain),
        }
    }

    /// The statement with its signature, ready to be published.
    pub fn signed(self, signature: Signature) -> Gossip {
        match self {
            Self::Votes(batch) => Gossip::Votes(VoteBatch { signature, ..batch }),
            Self::Proposal(mut proposal) => {
                proposal.signature = signature;
                Gossip::Proposal(proposal)
            }
            Self::BlockVote(vote) => Gossip::BlockVote(BlockVote { signature, ..vote }),
            Self::ViewChange(change) => Gossip::ViewChange(ViewChange { signature, ..change }),
            Self::Seal(seal) => Gossip::Seal(EpochSeal { signature, ..seal }),
        }
    }

    /// Signs with a key at hand.
    pub fn sign(self, chain: &ChainId, signer: &KeySigner) -> Gossip {
        let signature = signer.sign(&self.digest(chain));
        self.signed(signature)
    }
}

/// What a validator writes down before it speaks (protocol, section 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SafetyRecord {
    /// A vote batch as decided. Signing is deterministic, so the signature need not be kept.
    Votes(VoteBatch),
    /// The exact bytes of a transaction that a Lock vote names.
    Transaction(Vec<u8>),
    /// A proposal, Prepare or Commit.
    Signed {
        /// At this height,
        height: Height,
        /// in this round,
        round: Round,
        /// in this phase,
        phase: Phase,
        /// for this block.
        block: BlockId,
    },
    /// A view change: no vote below its round any more.
    ViewChange(ViewChange),
    /// The block that a quorum prepared, and the proof.
    Prepared {
        /// The block.
        proposal: Arc<Proposal>,
        /// The proof.
        certificate: BlockCertificate,
    },
    /// A seal: no vote on payments in its epoch any more.
    Seal(EpochSeal),
    /// What was signed in this epoch and before is not known: no votes in it.
    Silent(crate::primitives::Epoch),
    /// Another validator's votes, signed: part of a lock certificate behind an own Final vote. An epoch cannot be closed
    /// without that certificate, and who sent the votes may never repeat them.
    Seen(VoteBatch),
    /// A lock certificate behind an own Final vote that came as such.
    Certificate(Certificate),
}

impl SafetyRecord {
    /// Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        use proto::safety_record::Kind;
        let kind = match self {
            Self::Votes(batch) => Kind::Votes(batch.to_proto()),
            Self::Transaction(bytes) => Kind::Transaction(bytes.clone()),
            Self::Signed {
                height,
                round,
                phase,
                block,
            } => Kind::Signed(proto::SignedPhase {
                height: height.0,
                round: round.0,
                phase: phase.number(),
                block_id: block.0.to_vec(),
            }),
            Self::ViewChange(change) => Kind::ViewChange(change.to_proto()),
            Self::Prepared { proposal, certificate } => Kind::Prepared(proto::PreparedBlock {
                proposal: Some(proposal.to_proto()),
                certificate: Some(certificate.to_proto()),
            }),
            Self::Seal(seal) => Kind::Seal(seal.to_proto()),
            Self::Silent(epoch) => Kind::SilentEpoch(epoch.0),
            Self::Seen(batch) => Kind::Seen(batch.to_proto()),
            Self::Certificate(certificate) => Kind::Certificate(certificate.to_proto()),
        };
        proto::SafetyRecord { kind: Some(kind) }.encode_to_vec()
    }

    /// Back from [`SafetyRecord::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        use proto::safety_record::Kind;
        wire::count("safety record bytes", bytes.len(), 1, MAX_MESSAGE_SIZE)?;
        let message: proto::SafetyRecord = wire::decode("safety record", bytes)?;
        Ok(match wire::required("safety record kind", message.kind)? {
            Kind::Votes(batch) => Self::Votes(VoteBatch::from_proto(&batch)?),
            Kind::Transaction(bytes) => Self::Transaction(bytes),
            Kind::Signed(signed) => Self::Signed {
                height: Height(signed.height),
                round: Round(signed.round),
                phase: Phase::from_number(signed.phase)?,
                block: BlockId(wire::array("signed block id", &signed.block_id)?),
            },
            Kind::ViewChange(change) => Self::ViewChange(ViewChange::from_proto(&change)?),
            Kind::Prepared(prepared) => Self::Prepared {
                proposal: Arc::new(Proposal::from_proto(&wire::required(
                    "prepared proposal",
                    prepared.proposal,
                )?)?),
                certificate: BlockCertificate::from_proto(&wire::required(
                    "prepare certificate",
                    prepared.certificate,
                )?)?,
            },
            Kind::Seal(seal) => Self::Seal(EpochSeal::from_proto(&seal)?),
            Kind::SilentEpoch(epoch) => Self::Silent(crate::primitives::Epoch(epoch)),
            Kind::Seen(batch) => Self::Seen(VoteBatch::from_proto(&batch)?),
            Kind::Certificate(certificate) => Self::Certificate(Certificate::from_proto(&certificate)?),
        })
    }
}
