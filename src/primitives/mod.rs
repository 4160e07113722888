//! Floor 0: what crosses the wire or the disk, and the few words everything else is said in.
//!
//! Decoding gives values of the right *form* (lengths, counts, canonical bytes); it says nothing about signatures or
//! about coins. Signatures are checked by [`crate::ledger::check`] and [`message::Gossip::queue_signatures`]; coins
//! only by [`crate::ledger::apply`].

pub mod address;
pub mod amount;
pub mod announcement;
pub mod block;
pub mod certificate;
pub mod fault;
pub mod genesis;
pub mod hash;
pub mod keys;
pub mod kinds;
pub mod limits;
pub mod message;
pub mod neighbours;
#[macro_use]
pub mod planted;
pub mod quorum;
pub mod state;
pub mod time;
pub mod transaction;
pub mod vote;
pub mod wire;

pub use address::{Address, AddressError};
pub use amount::Amount;
pub use announcement::Announcement;
pub use block::{Block, BlockHeader, CommittedBlock};
pub use certificate::{BlockCertificate, Certificate, CertificateError, RoundCertificate, VoteProof};
pub use fault::Fault;
pub use genesis::{Genesis, Params};
pub use hash::{BlockId, ChainId, Hash, LockHash, TxId};
pub use keys::{PublicKey, SecretKey, Signature, SignatureBatch};
pub use message::{Gossip, PeerId, Proposal, Request, Response, Status};
pub use neighbours::Neighbours;
pub use quorum::{Tally, Validator, ValidatorIndex, ValidatorSet};
pub use state::{CertifiedHeader, CoinPage};
pub use time::{Epoch, Height, Round, Time};
pub use transaction::{Coin, Multisig, OutPoint, Output, Transaction, TransactionBody, Witness};
pub use vote::{BlockVote, EpochSeal, Phase, PreparedClaim, ViewChange, Vote, VoteBatch, VoteKind};
pub use wire::DecodeError;
