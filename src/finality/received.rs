//! The vote batches of one validator in one epoch: which came, which are missing, which are still worth keeping.

use crate::primitives::VoteBatch;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Batches that may be ahead of a gap; further ones are counted but not noted, and asked for again later.
const MAX_AHEAD: usize = 10_000;
/// Fruitless questions about a gap before it is passed over. What was in it is either settled (so nobody keeps it) or
/// comes by certificate.
const MAX_TRIES: u32 = 3;

/// What a batch is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Novelty {
    /// Not seen before.
    New,
    /// Held already, the very same.
    Duplicate,
    /// Another one with this sequence is held: its validator signs two things under one number.
    Equivocation,
}

#[derive(Clone, Debug)]
struct Kept {
    batch: Arc<VoteBatch>,
    /// Votes in it about payments that are not settled.
    live: u32,
    /// Written into the own safety log.
    logged: bool,
}

/// The vote batches of one validator in one epoch.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// All below have come or were passed over.
    next: u64,
    /// Those at `next` and above that have come.
    ahead: BTreeSet<u64>,
    /// One more than the highest sequence that a peer says exists. A claim.
    claimed: u64,
    kept: BTreeMap<u64, Kept>,
    tries: u32,
}

impl Received {
    /// Batches held without a gap, counted from 0: what a status says.
    pub const fn contiguous(&self) -> u64 {
        self.next
    }

    /// Compares a batch with what is held.
    pub fn judge(&self, batch: &VoteBatch) -> Novelty {
        match self.kept.get(&batch.sequence) {
            Some(kept) if kept.batch.votes == batch.votes => Novelty::Duplicate,
            Some(_) => Novelty::Equivocation,
            None => Novelty::New,
        }
    }

    /// Takes a new batch, of whose votes `live` are about unsettled payments.
    pub fn take(&mut self, batch: Arc<VoteBatch>, live: u32) {
        let sequence = batch.sequence;
        if sequence >= self.next && self.ahead.len() < MAX_AHEAD {
            self.ahead.insert(sequence);
            self.advance();
        }
        let logged = false;
        self.kept.insert(sequence, Kept { batch, live, logged });
        self.forget_settled(sequence);
    }

    fn advance(&mut self) {
        while self.ahead.remove(&self.next) {
            self.next += 1;
            self.tries = 0;
        }
    }

    /// One vote of a batch is settled.
    pub fn settle(&mut self, sequence: u64) {
        if let Some(kept) = self.kept.get_mut(&sequence) {
            kept.live = kept.live.saturating_sub(1);
            self.forget_settled(sequence);
        }
    }

    /// A batch without live votes is forgotten, but never the latest: it says how far the validator has counted. The
    /// one before the latest is looked at too, since it may have been the latest until now.
    fn forget_settled(&mut self, touched: u64) {
        let Some(latest) = self.kept.last_key_value().map(|(sequence, _)| *sequence) else {
            return;
        };
        let before = self.kept.range(..latest).next_back().map(|(sequence, _)| *sequence);
        for sequence in [Some(touched), before].into_iter().flatten() {
            if sequence != latest && self.kept.get(&sequence).is_some_and(|kept| kept.live == 0) {
                self.kept.remove(&sequence);
            }
        }
    }

    /// A peer says that it holds all batches below `count`.
    pub fn claim(&mut self, count: u64) {
        self.claimed = self.claimed.max(count);
    }

    /// The first gap: where it starts and how many to ask for.
    pub fn gap(&self, max: u32) -> Option<(u64, u32)> {
        let end = self.ahead.first().copied().unwrap_or(self.claimed);
        let length = end.saturating_sub(self.next);
        (length > 0).then(|| (self.next, u32::try_from(length).unwrap_or(max).min(max)))
    }

    /// An answer about the gap has been worked through. When nobody has the rest, it is passed over: as far as the next
    /// batch that is really there, or, where only a claim speaks for more, by no longer believing the claim.
    pub fn answered(&mut self) {
        self.tries += 1;
        if self.tries < MAX_TRIES {
            return;
        }
        self.tries = 0;
        match self.ahead.first().copied() {
            Some(there) => {
                self.next = there;
                self.advance();
            }
            None => self.claimed = self.next,
        }
    }

    /// Batches kept from a sequence on.
    pub fn from(&self, sequence: u64) -> impl Iterator<Item = &Arc<VoteBatch>> {
        self.kept.range(sequence..).map(|(_, kept)| &kept.batch)
    }

    /// Whether a batch must be written into the own safety log now: the first time that it is asked, and always for one
    /// that is not kept.
    pub fn log(&mut self, batch: &Arc<VoteBatch>) -> bool {
        match self.kept.get_mut(&batch.sequence) {
            Some(kept) if Arc::ptr_eq(&kept.batch, batch) => !std::mem::replace(&mut kept.logged, true),
            _ => true,
        }
    }

    /// Batches kept here and in the own safety log.
    pub fn logged(&self) -> impl Iterator<Item = &Arc<VoteBatch>> {
        self.kept.values().filter(|kept| kept.logged).map(|kept| &kept.batch)
    }

    /// How many batches are kept.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }
}
