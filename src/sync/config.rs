//! How a node gets what the others have.

use super::coins::{BUCKET_COINS, Checkpoint};
use serde::{Deserialize, Serialize};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The state, when the store is empty and the chain far ahead, or when nobody keeps the blocks that are missing;
    /// blocks otherwise.
    Auto,
    /// Blocks only: the whole history, or nothing.
    Blocks,
}

/// Settings of the two syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which way.
    pub mode: Mode,
    /// A block that is trusted without the history before it.
    pub checkpoint: Option<Checkpoint>,
    /// With an empty store: so many blocks behind, the state is fetched and not the history.
    pub behind_blocks: u64,
    /// Coins that a bucket may have before a second peer must confirm it.
    pub bucket_coins: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            checkpoint: None,
            behind_blocks: 1_000,
            bucket_coins: BUCKET_COINS,
        }
    }
}
