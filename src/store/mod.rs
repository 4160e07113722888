//! What is kept on disk, by two means that share nothing but a file format.
//!
//! **The store** holds what the chain says: coins, blocks, indexes. [`backend`] is its narrow waist: nine tables of
//! bytes, atomic batches, one batch per block. [`sled_backend`] keeps them on disk, [`memory`] in memory for the
//! simulator, and both pass the same suite (tests/store.rs). A machine that goes down loses at most the latest batches,
//! each whole, and peers have them.
//!
//! **The safety log** ([`safety_log`]) holds what this validator has said: it is synced before a vote leaves, and losing
//! any of it is a fault that peers cannot mend. It depends on nothing of the store.
//!
//! Under both lies one file of checksummed records, `log_file`, which tells a torn tail from damage. In front of the
//! sled tree stands a journal of such files, which is what makes a batch atomic, quick to apply and quick to flush; see
//! [`sled_backend`] for how they play together and for what it costs without.
//!
//! Everything here blocks on the disk: it belongs on the replica's thread and on threads of its own, never on an async
//! one.

pub mod backend;
mod journal;
pub mod ledger_store;
mod lock_file;
mod log_file;
pub mod memory;
mod memtable;
pub mod safety_log;
pub mod sled_backend;
mod tree;
