//! Getting what others have: the blocks that are missing, or the state as a whole; and giving it to others.

pub mod blocks;
pub mod coins;
pub mod config;
pub mod serve;
mod window;

pub use blocks::BlockSync;
pub use coins::{Checkpoint, StateSync, SyncStatus};
pub use config::{Config, Mode};
