//! Floor 1: when is money moved rightly?
//!
//! Three strengths of "valid" are three types: [`crate::primitives::Transaction`] has the right form,
//! [`Checked`]`<Transaction>` also has right signatures, and what [`apply`] answers is right *now*, against a [`View`].

pub mod apply;
pub mod check;
pub mod commitment;
pub mod reward;
#[cfg(test)]
pub(crate) mod testing;
pub mod view;

pub use apply::{Applied, Batch, BlockError, Content, TransactionError};
pub use check::{CheckBlockError, CheckError, Checked, CheckedTransaction};
pub use commitment::{Commitment, CommitmentChange, LtHash, UTXO_BUCKETS};
pub use view::{Changes, Location, Overlay, StateStep, StateView, StateWrite, Tip, View, ViewError, Write};
