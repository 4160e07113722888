//! Floor 4: a wallet. Keys, which coins to spend, building and signing, and a journal of what was paid.
//!
//! A payment goes through these hands in this order: [`spend::plan`] picks coins and signs; [`Journal::prepare`] writes
//! the exact bytes to disk and syncs them; only then are they sent. When no answer comes, **the same bytes** are sent
//! again, as often as needed: that is harmless, since a node answers a payment that it knows with its state. What must
//! never happen is a second payment built over coins of a first whose fate is unknown; so coins of unresolved
//! payments are reserved ([`Journal::reserved`]) until a node says that the payment ended.
//!
//! The wallet talks to nobody. Asking nodes for coins and sending bytes is the caller's part.

pub mod file;
pub mod journal;
pub mod spend;

pub use file::{Wallet, WalletError};
pub use journal::{Entry, Fate, Journal, JournalError};
pub use spend::{Plan, SpendError, Spendable};
