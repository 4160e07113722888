//! Bucket against digest; and the end.

use super::{Goal, Source, Stage, StateSync, Swollen, Wants, replay::stored};
use crate::{
    ledger::{
        LtHash, StateStep, StateView, StateWrite, Tip, UTXO_BUCKETS, ViewError,
        commitment::{bucket_of, bucket_start},
        reward::issuance,
    },
    primitives::{Amount, Coin, Height, OutPoint, PeerId},
};
use std::collections::{BTreeMap, VecDeque};

/// Coins that one step looks at.
const COINS_AT_ONCE: usize = 10_000;
/// Coins that one step throws away.
const CLEARED_AT_ONCE: usize = 5_000;

/// How far checking has come.
#[derive(Debug)]
pub(super) struct Check {
    goal: Goal,
    signed: Vec<u64>,
    /// Where it goes on.
    cursor: Vec<u8>,
    bucket: u16,
    state: LtHash,
    coins: u64,
    sum: u128,
    /// Of the buckets that hold coins.
    states: Vec<(u16, Vec<u8>)>,
    bad: Vec<u16>,
    /// Bad buckets by whoever sent all of their coins: how many, and what is wrong with the first.
    liars: BTreeMap<PeerId, (usize, String)>,
}

impl Check {
    pub(super) fn new(goal: Goal, signed: Vec<u64>) -> Self {
        Self {
            goal,
            signed,
            cursor: Vec::new(),
            bucket: 0,
            state: LtHash::new(),
            coins: 0,
            sum: 0,
            states: Vec::new(),
            bad: Vec::new(),
            liars: BTreeMap::new(),
        }
    }

    /// Takes coins up, in order, and closes the buckets that end before the last of them.
    fn add(&mut self, entries: &[(OutPoint, Coin)], judge: &mut dyn FnMut(&mut Self)) {
        let mut rest = entries;
        while let Some((outpoint, _)) = rest.first() {
            let bucket = bucket_of(&outpoint.txid);
            while self.bucket < bucket {
                judge(self);
            }
            let count = rest.partition_point(|(outpoint, _)| bucket_of(&outpoint.txid) == bucket);
            let (here, after) = rest.split_at(count);
            self.state.insert_all(here);
            self.coins += here.len() as u64;
            self.sum += here
                .iter()
                .map(|(_, coin)| u128::from(coin.output.value.0))
                .sum::<u128>();
            rest = after;
        }
    }
}

impl StateSync {
    /// Looks at some coins, and after the last of them says how it all ends.
    pub(super) fn check(
        &mut self,
        view: &dyn StateView,
        mut check: Check,
        wants: &mut Wants,
    ) -> Result<Stage, ViewError> {
        let (_, entries) = view.coins_after(&check.cursor, COINS_AT_ONCE)?;
        check.add(&entries, &mut |check| self.judge(check, wants));
        if let Some((last, _)) = entries.last()
            && entries.len() == COINS_AT_ONCE
        {
            check.cursor = last.to_bytes().to_vec();
            return Ok(Stage::Check(Box::new(check)));
        }
        while usize::from(check.bucket) < UTXO_BUCKETS {
            self.judge(&mut check, wants);
        }
        // What is right now is right as of the goal: it need not be replayed from further back.
        for (bucket, state) in (0..).zip(&mut self.progress.buckets) {
            if !check.bad.contains(&bucket) {
                (state.low, state.high) = (check.goal.height, check.goal.height);
            }
        }
        if check.bad.is_empty() {
            return self.finish(view, &check, wants);
        }
        self.bad_buckets += check.bad.len() as u64;
        for (peer, (count, first)) in std::mem::take(&mut check.liars) {
            let others = match count {
                1 => String::new(),
                _ => format!("; so it is with {} other buckets", count - 1),
            };
            self.blame(peer, format!("{first}{others}"), wants);
        }
        Ok(Stage::Clear(check.bad.into()))
    }

    /// Closes a bucket and goes on to the next.
    fn judge(&mut self, check: &mut Check, wants: &mut Wants) {
        let (bucket, coins) = (check.bucket, std::mem::take(&mut check.coins));
        let state = std::mem::take(&mut check.state);
        check.bucket += 1;
        let (found, expected) = (state.digest(), check.goal.digests[usize::from(bucket)]);
        if found == expected || planted!(BucketsUnchecked) {
            check.states.extend((coins > 0).then(|| (bucket, state.to_bytes())));
            for Swollen { peer, sent, height } in self.swollen.remove(&bucket).unwrap_or_default() {
                let spent = self.spent_between(height, check.goal.height);
                if spent.is_some_and(|spent| sent > coins + spent) {
                    self.blame(
                        peer,
                        format!("it sent {sent} coins of bucket {bucket}, which has {coins}"),
                        wants,
                    );
                }
            }
            return;
        }
        check.bad.push(bucket);
        let height = check.goal.height;
        let why =
            format!("the coins of bucket {bucket} have the digest {found} after block {height}, expected {expected}");
        match self.sources[usize::from(bucket)] {
            Source::One(peer) => check.liars.entry(peer).or_insert((0, why)).0 += 1,
            Source::None | Source::Many => wants.notes.push(format!("{why}; several peers sent them")),
        }
    }

    /// Coins spent by the blocks after `low`, up to `high`; no bucket can have lost more. `None`: some of them were stored
    /// before this process began, and were not counted.
    fn spent_between(&self, low: Height, high: Height) -> Option<u64> {
        let counted = low.next() >= self.counted_from;
        counted.then(|| {
            self.spent
                .range(low.next()..=high.max(low.next()))
                .map(|(_, spent)| spent)
                .sum()
        })
    }

    /// All is well: the state becomes the committed one.
    fn finish(&self, view: &dyn StateView, check: &Check, wants: &mut Wants) -> Result<Stage, ViewError> {
        let height = check.goal.height;
        let header = stored(view, height)?.block.header;
        let (supply, coins) = (self.supply_after(height), u64::try_from(check.sum).ok().map(Amount));
        let fees = coins.and_then(|coins| supply.checked_sub(coins));
        let Some(fees) = fees else {
            let sum = check.sum;
            return Err(ViewError(format!(
                "the coins after block {height} are {sum} units, more than the supply of {supply}, though a quorum \
                 committed to them"
            )));
        };
        let tip = Box::new(Tip {
            height,
            block: header.id(&self.rules.electorate.chain),
            time: header.time,
            utxo_root: check.goal.root,
            supply,
            fees,
            signed: check.signed.clone(),
        });
        let buckets = check.states.clone();
        wants.write = Some(StateWrite::Finish { tip, buckets });
        Ok(Stage::Done)
    }

    /// All money there is after a block: what genesis made, and what each closed epoch issued.
    fn supply_after(&self, height: Height) -> Amount {
        let planned = Amount(self.rules.params.issuance_per_epoch);
        let closed = height.0 / self.rules.params.epoch_length;
        (0..closed).fold(self.rules.genesis_supply, |supply, _| {
            supply.checked_add(issuance(supply, planned)).unwrap_or(supply)
        })
    }

    /// Throws some coins of bad buckets away; after the last, they are read again.
    pub(super) fn clear(
        &mut self,
        view: &dyn StateView,
        mut buckets: VecDeque<u16>,
        wants: &mut Wants,
    ) -> Result<Stage, ViewError> {
        let mut step = StateStep::default();
        while let Some(bucket) = buckets.front().copied() {
            let left = CLEARED_AT_ONCE - step.removed.len();
            let cursor = bucket_start(usize::from(bucket));
            let (_, mut entries) = view.coins_after(&cursor, left)?;
            let full = entries.len() == left;
            entries.truncate(entries.partition_point(|(outpoint, _)| bucket_of(&outpoint.txid) == bucket));
            let more = full && entries.len() == left;
            step.removed.extend(entries);
            if more {
                break;
            }
            self.reset_bucket(bucket);
            buckets.pop_front();
        }
        self.write(step, wants);
        if !buckets.is_empty() {
            return Ok(Stage::Clear(buckets));
        }
        self.plan_runs();
        Ok(Stage::Fetch)
    }
}
