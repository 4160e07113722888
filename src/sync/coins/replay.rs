//! From pages of different heights to the coins of one: the blocks since, and what they say of the epoch.

use super::{Goal, Stage, StateSync, Wants, check::Check};
use crate::{
    ledger::{
        StateStep, StateView, ViewError,
        commitment::bucket_of,
        reward::{count_signers, reward_txid},
    },
    primitives::{Coin, CommittedBlock, Height, OutPoint, Output, Transaction},
};
use std::collections::BTreeMap;

/// Inputs and outputs that are replayed in one step; a block is never cut.
const CHANGES_AT_ONCE: usize = 5_000;
/// Bytes of blocks that are read in one step to count who signed them.
const BYTES_AT_ONCE: usize = 1 << 20;

impl StateSync {
    /// Buckets with coins of an epoch's payout that were read before the epoch was closed, for a state after `height`.
    pub(super) fn unpaid_buckets(&self, height: Height) -> Vec<u16> {
        let length = self.rules.params.epoch_length;
        let first = self.progress.lowest().0 / length + 1;
        let mut buckets: Vec<u16> = (first..=height.0 / length)
            .map(|count| Height(count * length))
            .filter_map(|closing| {
                let txid = reward_txid(&self.rules.electorate.chain, closing.epoch(length));
                let bucket = bucket_of(&txid);
                (self.progress.buckets[usize::from(bucket)].low < closing).then_some(bucket)
            })
            .collect();
        buckets.sort_unstable();
        buckets.dedup();
        buckets
    }

    /// Applies some of the blocks that came after the pages.
    pub(super) fn replay(
        &self,
        view: &dyn StateView,
        goal: Goal,
        mut next: Height,
        wants: &mut Wants,
    ) -> Result<Stage, ViewError> {
        let mut changes: BTreeMap<OutPoint, Option<Coin>> = BTreeMap::new();
        if planted!(NoReplay) {
            next = goal.height.next();
        }
        while next <= goal.height && changes.len() < CHANGES_AT_ONCE {
            self.replay_block(&stored(view, next)?, &mut changes)?;
            next = next.next();
        }
        let mut step = StateStep::default();
        for (outpoint, change) in changes {
            match change {
                Some(coin) => step.added.push((outpoint, coin)),
                None => step.removed.extend(view.coin(&outpoint)?.map(|coin| (outpoint, coin))),
            }
        }
        if !step.added.is_empty() || !step.removed.is_empty() {
            self.write(step, wants);
        }
        if next <= goal.height {
            return Ok(Stage::Replay { goal, next });
        }
        let signed = vec![0; self.rules.electorate.of_height(goal.height.next()).len()];
        let next = Height(goal.height.0 / self.rules.params.epoch_length * self.rules.params.epoch_length + 1);
        Ok(Stage::Count { goal, next, signed })
    }

    /// What a block leaves: `None` for what is gone after it.
    fn replay_block(
        &self,
        block: &CommittedBlock,
        changes: &mut BTreeMap<OutPoint, Option<Coin>>,
    ) -> Result<(), ViewError> {
        let height = block.block.header.height;
        let coin = |output: &Output| Coin {
            output: *output,
            height,
        };
        for bytes in &block.block.transactions {
            let transaction = Transaction::decode(&self.rules.electorate.chain, bytes)
                .map_err(|error| ViewError(format!("block {height} cannot be read: {error}")))?;
            changes.extend(transaction.inputs().iter().map(|input| (*input, None)));
            changes.extend(
                transaction
                    .created()
                    .map(|(outpoint, output)| (outpoint, Some(coin(output)))),
            );
        }
        for rejection in &block.block.rejections {
            let mark = (OutPoint::rejection(rejection.txid), Some(Coin::rejection(height)));
            changes.extend([mark]);
        }
        Ok(())
    }

    /// Counts, by validator, the blocks of the epoch whose certificates it signed: the next closing block pays for it.
    pub(super) fn count(
        &self,
        view: &dyn StateView,
        goal: Goal,
        mut next: Height,
        mut signed: Vec<u64>,
    ) -> Result<Stage, ViewError> {
        let mut bytes = 0;
        while next <= goal.height && bytes < BYTES_AT_ONCE {
            let block = stored(view, next)?.block;
            bytes += block.transactions.iter().map(Vec::len).sum::<usize>() + 1_000;
            count_signers(
                &mut signed,
                &block.header,
                block.last_commit.as_ref(),
                self.rules.params.epoch_length,
            );
            next = next.next();
        }
        Ok(if next <= goal.height {
            Stage::Count { goal, next, signed }
        } else {
            Stage::Check(Box::new(Check::new(goal, signed)))
        })
    }
}

/// A block that was stored by this sync.
pub(super) fn stored(view: &dyn StateView, height: Height) -> Result<CommittedBlock, ViewError> {
    let block = view.block(height)?;
    block.ok_or_else(|| ViewError(format!("block {height} was stored by the sync and is not there")))
}
