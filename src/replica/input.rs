//! What may come into the replica, and the checks it has passed before.
//!
//! Bytes from peers become a [`Message`] or an [`Answer`] only through the functions here: decoded, within limits,
//! every signature verified, as many as possible in one batch. They are plain functions, run by a shell on whatever
//! threads it has for that.

use crate::{
    ledger::{
        CheckError, CheckedTransaction, Content,
        check::{self, CheckBlockError},
    },
    primitives::{
        BlockVote, Certificate, CommittedBlock, EpochSeal, Fault, Gossip, Height, PeerId, Proposal, Request, Response,
        SignatureBatch, Status, ViewChange, VoteBatch,
        message::{Electorate, MessageError},
    },
};
use thiserror::Error;

/// A client that waits for the verdict on what it submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A gossip message that waits for its verdict before it is relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GossipId(pub u64);

/// A question of ours to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A peer's question that waits for our answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AnswerTicket(pub u64);

/// A gossip message whose signatures are right.
#[derive(Clone, Debug)]
pub enum Message {
    /// Transactions.
    Transactions(Vec<CheckedTransaction>),
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
    /// Where a peer stands.
    Status(Status),
}

/// An answer whose signatures are right.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Blocks with what is in them; ascending.
    Blocks {
        /// Each with its content.
        blocks: Vec<(CommittedBlock, Content)>,
        /// The peer's last height, as it claims.
        tip: Height,
    },
    /// Vote batches.
    Votes(Vec<VoteBatch>),
    /// Bodies.
    Transactions(Vec<CheckedTransaction>),
    /// Certificates.
    Certificates(Vec<Certificate>),
    /// A proposal.
    Proposal(Box<Proposal>),
    /// None, and why.
    Refused(String),
}

/// One thing that happens to the replica.
#[derive(Debug)]
pub enum Input {
    /// Gossip from a peer.
    Gossip {
        /// Who passed it on.
        from: PeerId,
        /// To be named in the verdict.
        id: GossipId,
        /// What it says.
        message: Message,
    },
    /// A client's transaction.
    Submit {
        /// To be named in the reply.
        ticket: Ticket,
        /// The transaction.
        transaction: CheckedTransaction,
    },
    /// A peer asks.
    Request {
        /// Who.
        from: PeerId,
        /// To be named in the answer.
        ticket: AnswerTicket,
        /// What.
        request: Request,
    },
    /// A peer has answered, or cannot any more.
    Response {
        /// Who.
        from: PeerId,
        /// Which question.
        request: RequestId,
        /// `None`: timed out, the peer is gone, or what it sent was wrong.
        answer: Option<Answer>,
    },
    /// A peer is there.
    PeerUp(PeerId),
    /// A peer is gone.
    PeerDown(PeerId),
    /// Own statements, signed and on their way: they count from now on.
    Own(Vec<Gossip>),
    /// The store holds everything up to this height even if the power fails.
    Flushed(Height),
    /// It is at least the deadline.
    Tick,
}

/// Why bytes from a peer are dropped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InputError {
    /// Form, certificate or signature.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A transaction in it.
    #[error(transparent)]
    Transaction(#[from] CheckError),
    /// A block in it.
    #[error(transparent)]
    Block(#[from] CheckBlockError),
}

impl InputError {
    /// What it says about the sender.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Message(error) => error.fault(),
            Self::Transaction(error) => error.fault(),
            Self::Block(error) => error.fault(),
        }
    }
}

/// Checks many gossip messages, their signatures in as few batches as possible. One verdict each, in order; a wrong
/// one spoils no other.
pub fn check_gossip(electorate: &Electorate, messages: &[impl AsRef<[u8]>]) -> Vec<Result<Message, InputError>> {
    let decoded: Vec<Result<Gossip, InputError>> = messages
        .iter()
        .map(|bytes| Gossip::decode(bytes.as_ref()).map_err(|e| MessageError::from(e).into()))
        .collect();
    // Transactions of all messages together, everything else together: two batches whatever came in.
    let lists: Vec<&[Vec<u8>]> = decoded
        .iter()
        .filter_map(|message| match message {
            Ok(Gossip::Transactions(all)) => Some(all.as_slice()),
            _ => None,
        })
        .collect();
    let mut lists = check::check_lists(&electorate.chain, &lists).into_iter();
    let mut statements = Statements::default();
    let decoded: Vec<Result<Message, InputError>> = decoded
        .into_iter()
        .map(|message| match message? {
            Gossip::Transactions(_) => Ok(Message::Transactions(lists.next().transpose()?.unwrap_or_default())),
            other => statements.add(electorate, other),
        })
        .collect();
    statements.judge(decoded)
}

/// Signatures of statements waiting to be checked together, and where each statement's begin.
#[derive(Default)]
struct Statements {
    batch: SignatureBatch,
    spans: Vec<(usize, &'static str)>,
}

impl Statements {
    fn add(&mut self, electorate: &Electorate, message: Gossip) -> Result<Message, InputError> {
        let mut own = SignatureBatch::new();
        message
            .queue_signatures(electorate, &mut own)
            .map_err(MessageError::from)?;
        self.spans.push((own.len(), message.name()));
        self.batch.append(own);
        Ok(match message {
            Gossip::Transactions(_) => return Err(MessageError::Signature("transactions").into()),
            Gossip::Votes(votes) => Message::Votes(votes),
            Gossip::Proposal(proposal) => Message::Proposal(proposal),
            Gossip::BlockVote(vote) => Message::BlockVote(vote),
            Gossip::ViewChange(change) => Message::ViewChange(change),
            Gossip::Seal(seal) => Message::Seal(seal),
            Gossip::Status(status) => Message::Status(status),
        })
    }

    /// Turns those whose signatures are wrong into errors. The spans belong, in order, to the good messages that are
    /// not transactions.
    fn judge(self, mut messages: Vec<Result<Message, InputError>>) -> Vec<Result<Message, InputError>> {
        let lengths: Vec<usize> = self.spans.iter().map(|(length, _)| *length).collect();
        let wrong = self.batch.verify_parts(&lengths);
        let mut spans = self.spans.into_iter().zip(wrong);
        for message in &mut messages {
            if matches!(message, Err(_) | Ok(Message::Transactions(_))) {
                continue;
            }
            let Some(((_, name), wrong)) = spans.next() else { break };
            if wrong.is_some() {
                *message = Err(MessageError::Signature(name).into());
            }
        }
        messages
    }
}

/// Checks an answer.
pub fn check_response(electorate: &Electorate, bytes: &[u8]) -> Result<Answer, InputError> {
    let response = Response::decode(bytes).map_err(MessageError::from)?;
    Ok(match response {
        Response::Blocks { blocks, tip } => {
            let contents = blocks.iter().map(|block| check::check_certified(electorate, block));
            let contents: Vec<Content> = contents.collect::<Result<_, _>>()?;
            Answer::Blocks {
                blocks: blocks.into_iter().zip(contents).collect(),
                tip,
            }
        }
        Response::Transactions(all) => Answer::Transactions(
            check::check_lists(&electorate.chain, &[&all])
                .pop()
                .transpose()?
                .unwrap_or_default(),
        ),
        Response::Votes(batches) => {
            let all: Vec<Gossip> = batches.iter().cloned().map(Gossip::Votes).collect();
            check_signatures(electorate, &all)?;
            Answer::Votes(batches)
        }
        Response::Certificates(certificates) => {
            let mut batch = SignatureBatch::new();
            for certificate in &certificates {
                let set = electorate.of_epoch(certificate.epoch);
                certificate
                    .queue_signatures(&electorate.chain, set, &mut batch)
                    .map_err(MessageError::from)?;
            }
            if !batch.all_valid() {
                return Err(MessageError::Signature("certificates").into());
            }
            Answer::Certificates(certificates)
        }
        Response::Proposal(proposal) => {
            check_signatures(electorate, &[Gossip::Proposal(proposal.clone())])?;
            Answer::Proposal(proposal)
        }
        Response::Refused(reason) => Answer::Refused(reason),
    })
}

fn check_signatures(electorate: &Electorate, all: &[Gossip]) -> Result<(), InputError> {
    let mut batch = SignatureBatch::new();
    for message in all {
        message
            .queue_signatures(electorate, &mut batch)
            .map_err(MessageError::from)?;
    }
    match all.first() {
        Some(first) if !batch.all_valid() => Err(MessageError::Signature(first.name()).into()),
        _ => Ok(()),
    }
}
