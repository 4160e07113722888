//! What nodes send one another: gossip to everybody, requests and responses between two.
//!
//! Decoding checks form and limits. Signatures are queued by [`Gossip::queue_signatures`], against the validator sets
//! that the [`Electorate`] knows.

use super::{
    block::{BlockHeader, CommittedBlock},
    certificate::{BlockCertificate, Certificate, CertificateError, RoundCertificate, check_prepared},
    fault::Fault,
    hash::{BlockId, ChainId, Hash, TxId},
    keys::{Signature, SignatureBatch},
    kinds::{self, Channel, Topic},
    limits::{
        MAX_BLOCK_REJECTIONS, MAX_BLOCK_TRANSACTIONS, MAX_BLOCKS_PER_REQUEST, MAX_HEADERS_PER_REQUEST,
        MAX_TRANSACTION_BYTES_PER_MESSAGE, MAX_TRANSACTIONS_PER_MESSAGE, MAX_TXIDS_PER_REQUEST, MAX_UTXOS_PER_PAGE,
        MAX_VALIDATORS, MAX_VOTE_BATCHES_PER_REQUEST,
    },
    quorum::{ValidatorIndex, ValidatorSet},
    state::{self, CertifiedHeader, CoinPage, MAX_CURSOR},
    time::{Epoch, Height, Round},
    vote::{
        BlockVote, EpochSeal, Phase, ViewChange, VoteBatch, VoteKind, block_vote_digest, txids_from_bytes,
        txids_to_bytes,
    },
    wire::{self, DecodeError},
};
use crate::proto;
use prost::Message;
use std::sync::Arc;
use thiserror::Error;

/// A peer, by the number that the network gave it at its first connection. Means nothing outside this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

impl std::fmt::Display for PeerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "peer {}", self.0)
    }
}

/// The chain and who votes on it when: all that checking a signature needs.
#[derive(Clone, Debug)]
pub struct Electorate {
    /// First part of every digest.
    pub chain: ChainId,
    /// Heights in an epoch.
    pub epoch_length: u64,
    set: Arc<ValidatorSet>,
}

impl Electorate {
    /// The electorate of a chain whose validators do not change.
    pub const fn new(chain: ChainId, epoch_length: u64, set: Arc<ValidatorSet>) -> Self {
        Self {
            chain,
            epoch_length,
            set,
        }
    }

    /// The set of an epoch.
    pub fn of_epoch(&self, _epoch: Epoch) -> &Arc<ValidatorSet> {
        &self.set
    }

    /// The set that votes on a height.
    pub fn of_height(&self, height: Height) -> &Arc<ValidatorSet> {
        self.of_epoch(height.epoch(self.epoch_length))
    }
}

/// Why a message from a peer is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Its form is wrong.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A certificate in it proves nothing.
    #[error("certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// A signature is wrong.
    #[error("a signature in the {0} is not valid")]
    Signature(&'static str),
}

impl MessageError {
    /// What it says about the sender.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Decode(error) => error.fault(),
            Self::Certificate(error) => error.fault(),
            Self::Signature(_) => Fault::Hostile,
        }
    }
}

/// A leader's block, without the bodies that validators hold already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Height of the header.
    pub height: Height,
    /// The round that it is proposed in.
    pub round: Round,
    /// The header; in a later round it may be an earlier round's.
    pub header: BlockHeader,
    /// Transactions in block order.
    pub txids: Vec<TxId>,
    /// Quorums of Abandon.
    pub rejections: Vec<Certificate>,
    /// Only in the closing block of an epoch.
    pub seals: Vec<EpochSeal>,
    /// Commit certificate of the parent; absent at height 1.
    pub last_commit: Option<BlockCertificate>,
    /// The right to propose in a round above 0; absent in round 0.
    pub justification: Option<RoundCertificate>,
    /// Who proposes in this round; whoever made the block is in its header.
    pub leader: ValidatorIndex,
    /// The leader's, over [`Proposal::digest`]; zeros until it is signed.
    pub signature: Signature,
}

impl Proposal {
    /// The block's name.
    pub fn block_id(&self, chain: &ChainId) -> BlockId {
        self.header.id(chain)
    }

    /// What the leader signs.
    pub fn digest(&self, chain: &ChainId) -> [u8; 32] {
        block_vote_digest(chain, Phase::Propose, self.height, self.round, &self.block_id(chain))
    }

    /// Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    /// Back from [`Proposal::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_proto(&wire::decode("proposal", bytes)?)
    }

    pub(crate) fn to_proto(&self) -> proto::Proposal {
        proto::Proposal {
            height: self.height.0,
            round: self.round.0,
            header: self.header.encode(),
            txids: txids_to_bytes(&self.txids),
            rejections: self.rejections.iter().map(Certificate::to_proto).collect(),
            seals: self.seals.iter().map(EpochSeal::to_proto).collect(),
            last_commit: self.last_commit.as_ref().map(BlockCertificate::to_proto),
            justification: self.justification.as_ref().map(RoundCertificate::to_proto),
            leader: self.leader,
            signature: self.signature.0.to_vec(),
        }
    }

    pub(crate) fn from_proto(message: &proto::Proposal) -> Result<Self, DecodeError> {
        wire::count("proposal rejections", message.rejections.len(), 0, MAX_BLOCK_REJECTIONS)?;
        wire::count("proposal seals", message.seals.len(), 0, MAX_VALIDATORS)?;
        let header = BlockHeader::decode(&message.header)?;
        if header.height.0 != message.height {
            return Err(DecodeError::Unknown {
                what: "proposal height",
                value: message.height as i64,
            });
        }
        if (message.round == 0) != message.justification.is_none() {
            return Err(DecodeError::Missing {
                what: "justification in a round above 0, and only there,",
            });
        }
        Ok(Self {
            height: header.height,
            round: Round(message.round),
            header,
            txids: txids_from_bytes("proposal txids", &message.txids, MAX_BLOCK_TRANSACTIONS)?,
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
            justification: message
                .justification
                .as_ref()
                .map(RoundCertificate::from_proto)
                .transpose()?,
            leader: message.leader,
            signature: Signature(wire::array("proposal signature", &message.signature)?),
        })
    }

    /// Queues its signature and those of everything it carries. Whether `leader` leads the round is for consensus.
    fn queue_signatures(&self, electorate: &Electorate, batch: &mut SignatureBatch) -> Result<(), CertificateError> {
        let chain = &electorate.chain;
        let set = electorate.of_height(self.height);
        let leader = set
            .get(self.leader)
            .ok_or(CertificateError::UnknownValidator(self.leader))?;
        batch.queue(leader.public_key, self.digest(chain), self.signature);
        for rejection in &self.rejections {
            if rejection.kind != VoteKind::Abandon {
                return Err(CertificateError::Subject("a rejection needs a quorum of Abandon"));
            }
            rejection.queue_signatures(chain, electorate.of_epoch(rejection.epoch), batch)?;
        }
        for seal in &self.seals {
            let members = electorate.of_epoch(seal.epoch);
            let member = members
                .get(seal.validator)
                .ok_or(CertificateError::UnknownValidator(seal.validator))?;
            batch.queue(member.public_key, seal.digest(chain), seal.signature);
        }
        if let Some(last_commit) = &self.last_commit {
            if last_commit.phase != Phase::Commit || last_commit.height != self.height.previous() {
                return Err(CertificateError::Subject(
                    "not a commit certificate of the height below",
                ));
            }
            last_commit.queue_signatures(chain, electorate.of_height(last_commit.height), batch)?;
        }
        if let Some(justification) = &self.justification {
            if justification.height != self.height || justification.round != self.round {
                return Err(CertificateError::Subject("the round certificate is for another round"));
            }
            justification.queue_signatures(chain, set, batch)?;
        }
        Ok(())
    }
}

/// Where a node stands; sent now and then, so that what was lost on the way is noticed and asked for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Status {
    /// Last committed block. A claim: nothing is believed of it without a certificate.
    pub height: Height,
    /// Round of the next height.
    pub round: Round,
    /// Current epoch.
    pub epoch: Epoch,
    /// By validator: vote batches of the epoch held without a gap.
    pub sequences: Vec<u64>,
}

/// What is published to everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gossip {
    /// Signed transactions, exact bytes.
    Transactions(Vec<Vec<u8>>),
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
    /// Where the sender stands.
    Status(Status),
}

impl Gossip {
    /// The type's name, for errors and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Transactions(_) => "transactions",
            Self::Votes(_) => "votes",
            Self::Proposal(_) => "proposal",
            Self::BlockVote(_) => "block_vote",
            Self::ViewChange(_) => "view_change",
            Self::Seal(_) => "seal",
            Self::Status(_) => "status",
        }
    }

    /// Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        use proto::gossip::Kind;
        let kind = match self {
            Self::Transactions(transactions) => Kind::Transactions(proto::Transactions {
                transactions: transactions.clone(),
            }),
            Self::Votes(batch) => Kind::Votes(batch.to_proto()),
            Self::Proposal(proposal) => Kind::Proposal(proposal.to_proto()),
            Self::BlockVote(vote) => Kind::BlockVote(vote.to_proto()),
            Self::ViewChange(change) => Kind::ViewChange(change.to_proto()),
            Self::Seal(seal) => Kind::Seal(seal.to_proto()),
            Self::Status(status) => Kind::Status(proto::Status {
                height: status.height.0,
                round: status.round.0,
                epoch: status.epoch.0,
                sequences: status.sequences.clone(),
            }),
        };
        proto::Gossip { kind: Some(kind) }.encode_to_vec()
    }

    /// Back from [`Gossip::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        use proto::gossip::Kind;
        kinds::Kind::check(Channel::Gossip(Topic::Consensus), bytes)?;
        let message: proto::Gossip = wire::decode("gossip", bytes)?;
        Ok(match wire::required("gossip kind", message.kind)? {
            Kind::Transactions(transactions) => Self::Transactions(checked_transactions(transactions.transactions)?),
            Kind::Votes(batch) => Self::Votes(VoteBatch::from_proto(&batch)?),
            Kind::Proposal(proposal) => Self::Proposal(Box::new(Proposal::from_proto(&proposal)?)),
            Kind::BlockVote(vote) => Self::BlockVote(BlockVote::from_proto(&vote)?),
            Kind::ViewChange(change) => Self::ViewChange(ViewChange::from_proto(&change)?),
            Kind::Seal(seal) => Self::Seal(EpochSeal::from_proto(&seal)?),
            Kind::Status(status) => {
                wire::count("status sequences", status.sequences.len(), 0, MAX_VALIDATORS)?;
                Self::Status(Status {
                    height: Height(status.height),
                    round: Round(status.round),
                    epoch: Epoch(status.epoch),
                    sequences: status.sequences,
                })
            }
            Kind::Neighbours(_) => return Err(not_for_the_replica("list of neighbours")),
            Kind::Announcement(_) => return Err(not_for_the_replica("announcement")),
        })
    }

    /// Checks the certificates inside and queues every signature but those of transactions, which
    /// [`crate::ledger::check`] checks.
    pub fn queue_signatures(
        &self,
        electorate: &Electorate,
        batch: &mut SignatureBatch,
    ) -> Result<(), CertificateError> {
        let chain = &electorate.chain;
        let mut by = |set: &ValidatorSet, validator: ValidatorIndex, digest, signature| {
            let member = set
                .get(validator)
                .ok_or(CertificateError::UnknownValidator(validator))?;
            batch.queue(member.public_key, digest, signature);
            Ok(())
        };
        match self {
            Self::Transactions(_) | Self::Status(_) => Ok(()),
            Self::Votes(votes) => by(
                electorate.of_epoch(votes.epoch),
                votes.validator,
                votes.head().digest(chain),
                votes.signature,
            ),
            Self::BlockVote(vote) => by(
                electorate.of_height(vote.height),
                vote.validator,
                vote.digest(chain),
                vote.signature,
            ),
            Self::Seal(seal) => by(
                electorate.of_epoch(seal.epoch),
                seal.validator,
                seal.digest(chain),
                seal.signature,
            ),
            Self::ViewChange(change) => {
                let set = electorate.of_height(change.height);
                by(set, change.validator, change.digest(chain), change.signature)?;
                if let (Some(claim), Some(proof)) = (&change.prepared, &change.certificate) {
                    check_prepared(change.height, change.round, claim, proof)?;
                    proof.queue_signatures(chain, set, batch)?;
                }
                Ok(())
            }
            Self::Proposal(proposal) => proposal.queue_signatures(electorate, batch),
        }
    }
}

/// [`crate::primitives::Announcement`]s concern whoever keeps connections, and are read there.
fn not_for_the_replica(what: &'static str) -> DecodeError {
    DecodeError::Malformed {
        what,
        reason: "it has no place here".to_owned(),
    }
}

fn checked_transactions(transactions: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, DecodeError> {
    wire::count(
        "transactions in a message",
        transactions.len(),
        1,
        MAX_TRANSACTIONS_PER_MESSAGE,
    )?;
    let bytes = transactions.iter().map(Vec::len).sum();
    wire::count(
        "bytes of transactions in a message",
        bytes,
        1,
        MAX_TRANSACTION_BYTES_PER_MESSAGE,
    )?;
    Ok(transactions)
}

/// What one node asks another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Blocks from a height on.
    Blocks {
        /// The first wanted.
        from: Height,
        /// 1 to 100.
        max_count: u32,
    },
    /// One validator's vote batches.
    Votes {
        /// Of this epoch.
        epoch: Epoch,
        /// Whose.
        validator: ValidatorIndex,
        /// The first wanted.
        from_sequence: u64,
        /// 1 to 1,000.
        max_count: u32,
    },
    /// Bodies, 1 to 1,000.
    Transactions(Vec<TxId>),
    /// Certificates, 1 to 1,000.
    Certificates {
        /// Of this kind.
        kind: VoteKind,
        /// Of this epoch.
        epoch: Epoch,
        /// For these transactions.
        txids: Vec<TxId>,
    },
    /// A proposal that others voted for.
    Proposal {
        /// Its height.
        height: Height,
        /// Its block.
        block: BlockId,
    },
    /// Coins after a cursor.
    Coins {
        /// 0 to 36 bytes: the first of an outpoint.
        cursor: Vec<u8>,
        /// 1 to 1,000.
        limit: u32,
        /// Where to stop: 0 to 36 bytes; empty: at the end.
        end: Vec<u8>,
    },
    /// The digests of the coin commitment's buckets.
    Digests,
    /// Headers that closed epochs.
    ClosingHeaders {
        /// The first wanted.
        from: Epoch,
        /// 1 to 100.
        max_count: u32,
    },
}

impl Request {
    /// The type's name, for errors and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Blocks { .. } => "blocks",
            Self::Votes { .. } => "votes",
            Self::Transactions(_) => "transactions",
            Self::Certificates { .. } => "certificates",
            Self::Proposal { .. } => "proposal",
            Self::Coins { .. } => "coins",
            Self::Digests => "digests",
            Self::ClosingHeaders { .. } => "closing_headers",
        }
    }

    /// Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        use proto::request::Kind;
        let kind = match self {
            Self::Blocks { from, max_count } => Kind::Blocks(proto::GetBlocks {
                from_height: from.0,
                max_count: *max_count,
            }),
            Self::Votes {
                epoch,
                validator,
                from_sequence,
                max_count,
            } => Kind::Votes(proto::GetVotes {
                epoch: epoch.0,
                validator: *validator,
                from_sequence: *from_sequence,
                max_count: *max_count,
            }),
            Self::Transactions(txids) => Kind::Transactions(proto::GetTransactions {
                txids: txids_to_bytes(txids),
            }),
            Self::Certificates { kind, epoch, txids } => Kind::Certificates(proto::GetCertificates {
                kind: kind.number(),
                epoch: epoch.0,
                txids: txids_to_bytes(txids),
            }),
            Self::Proposal { height, block } => Kind::Proposal(proto::GetProposal {
                height: height.0,
                block_id: block.0.to_vec(),
            }),
            Self::Coins { cursor, limit, end } => Kind::Coins(proto::GetUtxoSetPage {
                cursor: cursor.clone(),
                limit: *limit,
                end: end.clone(),
            }),
            Self::Digests => Kind::Digests(proto::GetBucketDigests { version: 1 }),
            Self::ClosingHeaders { from, max_count } => Kind::ClosingHeaders(proto::GetClosingHeaders {
                from_epoch: from.0,
                max_count: *max_count,
            }),
        };
        proto::Request { kind: Some(kind) }.encode_to_vec()
    }

    /// Back from [`Request::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        use proto::request::Kind;
        kinds::Kind::check(Channel::Request, bytes)?;
        let message: proto::Request = wire::decode("request", bytes)?;
        let txids = |bytes: &[u8]| {
            let txids = txids_from_bytes("requested txids", bytes, MAX_TXIDS_PER_REQUEST)?;
            wire::count("requested txids", txids.len(), 1, MAX_TXIDS_PER_REQUEST)?;
            Ok::<_, DecodeError>(txids)
        };
        Ok(match wire::required("request kind", message.kind)? {
            Kind::Blocks(get) => {
                wire::count(
                    "requested blocks",
                    get.max_count as usize,
                    1,
                    MAX_BLOCKS_PER_REQUEST as usize,
                )?;
                Self::Blocks {
                    from: Height(get.from_height),
                    max_count: get.max_count,
                }
            }
            Kind::Votes(get) => {
                let max = MAX_VOTE_BATCHES_PER_REQUEST as usize;
                wire::count("requested vote batches", get.max_count as usize, 1, max)?;
                Self::Votes {
                    epoch: Epoch(get.epoch),
                    validator: get.validator,
                    from_sequence: get.from_sequence,
                    max_count: get.max_count,
                }
            }
            Kind::Transactions(get) => Self::Transactions(txids(&get.txids)?),
            Kind::Certificates(get) => Self::Certificates {
                kind: VoteKind::from_number(get.kind)?,
                epoch: Epoch(get.epoch),
                txids: txids(&get.txids)?,
            },
            Kind::Proposal(get) => Self::Proposal {
                height: Height(get.height),
                block: BlockId(wire::array("requested block id", &get.block_id)?),
            },
            Kind::Coins(get) => {
                wire::count("requested coins", get.limit as usize, 1, MAX_UTXOS_PER_PAGE as usize)?;
                wire::count("bytes of a coin cursor", get.cursor.len(), 0, MAX_CURSOR)?;
                wire::count("bytes of a coin range's end", get.end.len(), 0, MAX_CURSOR)?;
                Self::Coins {
                    cursor: get.cursor,
                    limit: get.limit,
                    end: get.end,
                }
            }
            Kind::Digests(get) if get.version == 1 => Self::Digests,
            Kind::Digests(get) => {
                return Err(DecodeError::Unknown {
                    what: "version of bucket digests",
                    value: get.version.into(),
                });
            }
            Kind::ClosingHeaders(get) => {
                let max = MAX_HEADERS_PER_REQUEST as usize;
                wire::count("requested headers", get.max_count as usize, 1, max)?;
                Self::ClosingHeaders {
                    from: Epoch(get.from_epoch),
                    max_count: get.max_count,
                }
            }
            Kind::Announcements(_) => return Err(not_for_the_replica("request for announcements")),
        })
    }
}

/// What one node answers another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Ascending and without gaps from the height asked for; as many as fit.
    Blocks {
        /// The blocks.
        blocks: Vec<CommittedBlock>,
        /// The answering node's last height. A claim.
        tip: Height,
    },
    /// Vote batches held.
    Votes(Vec<VoteBatch>),
    /// Bodies held, exact bytes.
    Transactions(Vec<Vec<u8>>),
    /// Certificates held.
    Certificates(Vec<Certificate>),
    /// The proposal.
    Proposal(Box<Proposal>),
    /// Not answered, and why.
    Refused(String),
    /// Coins.
    Coins(CoinPage),
    /// The digests of all buckets after a block.
    Digests {
        /// Its height.
        height: Height,
        /// In order.
        digests: Vec<Hash>,
    },
    /// One for each epoch from the one asked for, as many as there are and fit.
    ClosingHeaders(Vec<CertifiedHeader>),
    /// The blocks asked for are not kept any more.
    Pruned {
        /// The first that is.
        from: Height,
    },
}

/// Longest reason of a refusal that is read, in bytes.
const MAX_REASON: usize = 1_000;

impl Response {
    /// Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        use proto::response::Kind;
        let kind = match self {
            Self::Blocks { blocks, tip } => Kind::Blocks(proto::Blocks {
                blocks: blocks.iter().map(CommittedBlock::to_proto).collect(),
                tip: tip.0,
            }),
            Self::Votes(batches) => Kind::Votes(proto::Votes {
                batches: batches.iter().map(VoteBatch::to_proto).collect(),
            }),
            Self::Transactions(transactions) => Kind::Transactions(proto::Transactions {
                transactions: transactions.clone(),
            }),
            Self::Certificates(certificates) => Kind::Certificates(proto::Certificates {
                certificates: certificates.iter().map(Certificate::to_proto).collect(),
            }),
            Self::Proposal(proposal) => Kind::Proposal(proposal.to_proto()),
            Self::Refused(reason) => Kind::Refused(reason.clone()),
            Self::Coins(page) => Kind::Coins(page.to_proto()),
            Self::Digests { height, digests } => Kind::Digests(state::digests_to_proto(*height, digests)),
            Self::ClosingHeaders(headers) => Kind::ClosingHeaders(proto::ClosingHeaders {
                headers: headers.iter().map(CertifiedHeader::to_proto).collect(),
            }),
            Self::Pruned { from } => Kind::Pruned(from.0),
        };
        proto::Response { kind: Some(kind) }.encode_to_vec()
    }

    /// Back from [`Response::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        use proto::response::Kind;
        kinds::Kind::check(Channel::Answer, bytes)?;
        let message: proto::Response = wire::decode("response", bytes)?;
        Ok(match wire::required("response kind", message.kind)? {
            Kind::Blocks(blocks) => {
                wire::count("blocks", blocks.blocks.len(), 0, MAX_BLOCKS_PER_REQUEST as usize)?;
                Self::Blocks {
                    blocks: blocks
                        .blocks
                        .into_iter()
                        .map(CommittedBlock::from_proto)
                        .collect::<Result<_, _>>()?,
                    tip: Height(blocks.tip),
                }
            }
            Kind::Votes(votes) => {
                wire::count(
                    "vote batches",
                    votes.batches.len(),
                    0,
                    MAX_VOTE_BATCHES_PER_REQUEST as usize,
                )?;
                Self::Votes(
                    votes
                        .batches
                        .iter()
                        .map(VoteBatch::from_proto)
                        .collect::<Result<_, _>>()?,
                )
            }
            Kind::Transactions(transactions) => {
                let transactions = transactions.transactions;
                wire::count("transactions", transactions.len(), 0, MAX_TXIDS_PER_REQUEST)?;
                Self::Transactions(transactions)
            }
            Kind::Certificates(certificates) => {
                let certificates = certificates.certificates;
                wire::count("certificates", certificates.len(), 0, MAX_TXIDS_PER_REQUEST)?;
                Self::Certificates(
                    certificates
                        .iter()
                        .map(Certificate::from_proto)
                        .collect::<Result<_, _>>()?,
                )
            }
            Kind::Proposal(proposal) => Self::Proposal(Box::new(Proposal::from_proto(&proposal)?)),
            Kind::Refused(reason) => {
                wire::count("bytes of a reason", reason.len(), 0, MAX_REASON)?;
                Self::Refused(reason)
            }
            Kind::Coins(page) => Self::Coins(CoinPage::from_proto(page)?),
            Kind::Digests(message) => {
                let (height, digests) = state::digests_from_proto(&message)?;
                Self::Digests { height, digests }
            }
            Kind::ClosingHeaders(message) => {
                let max = MAX_HEADERS_PER_REQUEST as usize;
                wire::count("closing headers", message.headers.len(), 0, max)?;
                let headers = message.headers.iter().map(CertifiedHeader::from_proto);
                Self::ClosingHeaders(headers.collect::<Result<_, _>>()?)
            }
            Kind::Pruned(from) => Self::Pruned { from: Height(from) },
            Kind::Announcements(_) => return Err(not_for_the_replica("answer with announcements")),
        })
    }
}
