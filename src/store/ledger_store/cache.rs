//! Coins in memory.

use crate::{
    ledger::Batch,
    primitives::{Coin, OutPoint},
};
use std::collections::HashMap;

/// Coins created or read lately, and marks of rejections that were looked for and are not there: every transaction is
/// looked up so when it comes and when a block has it. Two generations: when the younger one has grown to half the
/// capacity, it becomes the older, and the older is forgotten.
///
/// What a reader found in the backend is kept only if no block was applied meanwhile, or a coin spent by that block
/// could come back.
pub(super) struct CoinCache {
    pub(super) young: HashMap<OutPoint, Option<Coin>>,
    pub(super) old: HashMap<OutPoint, Option<Coin>>,
    half: usize,
    pub(super) generation: u64,
}

impl CoinCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            half: capacity / 2,
            generation: 0,
        }
    }

    /// `None`: nothing is known; `Some(None)`: it is not there.
    pub(super) fn get(&mut self, outpoint: &OutPoint) -> Option<Option<Coin>> {
        if let Some(coin) = self.young.get(outpoint) {
            return Some(*coin);
        }
        let coin = self.old.remove(outpoint)?;
        self.insert(*outpoint, coin);
        Some(coin)
    }

    pub(super) fn keep(&mut self, generation: u64, outpoint: OutPoint, coin: Option<Coin>) {
        if generation == self.generation {
            self.insert(outpoint, coin);
        }
    }

    pub(super) fn apply(&mut self, batch: &Batch) {
        self.generation += 1;
        for (outpoint, _) in &batch.applied.spent {
            self.young.remove(outpoint);
            self.old.remove(outpoint);
        }
        for (outpoint, coin) in &batch.applied.created {
            self.insert(*outpoint, Some(*coin));
        }
    }

    /// Everything may be different now.
    pub(super) fn clear(&mut self) {
        self.generation += 1;
        self.young.clear();
        self.old.clear();
    }

    pub(super) fn insert(&mut self, outpoint: OutPoint, coin: Option<Coin>) {
        if self.half == 0 {
            return;
        }
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(outpoint, coin);
    }
}
