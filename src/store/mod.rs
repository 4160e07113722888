//! What is kept on disk.

pub mod backend;
mod journal;
mod lock_file;
mod log_file;
pub mod memory;
mod memtable;
pub mod safety_log;
pub mod sled_backend;
mod tree;
