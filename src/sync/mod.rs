//! Getting what others have: blocks, so far.

pub mod blocks;
pub mod serve;

pub use blocks::BlockSync;
