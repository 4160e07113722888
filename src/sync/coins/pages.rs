//! Pages of coins: runs of buckets, each read from one peer as long as that goes well.

use super::{
    Asked, MAX_AHEAD, StateSync, Swollen, Wants, all_buckets,
    progress::{Bucket, Progress, Stage},
};
use crate::{
    ledger::{
        StateStep, UTXO_BUCKETS,
        commitment::{bucket_of, bucket_start},
    },
    primitives::{CoinPage, Height, OutPoint, PeerId, Request, Time, limits::MAX_UTXOS_PER_PAGE},
};
use std::collections::{BTreeSet, VecDeque};

/// Buckets that are read one after the other by one peer, at most.
const RUN: u16 = 16;
/// Pages that are asked for at the same time.
const PAGES_AT_ONCE: usize = 24;
/// A bucket that has so many times the coins of the average one is unusual.
const UNUSUAL: u64 = 8;

/// Buckets still to be read, one after the other.
#[derive(Debug)]
pub(super) struct Run {
    /// The one that is being read.
    pub(super) next: u16,
    /// The first that is not.
    end: u16,
    /// By whom, so far.
    peer: Option<PeerId>,
    asked: bool,
}

/// Who sent a bucket's coins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Nobody yet.
    None,
    /// This peer alone.
    One(PeerId),
    /// Several, or some before this process began.
    Many,
}

/// The runs that are still to be read, `taken` ones left out.
pub(super) fn plan(progress: &Progress, taken: impl Fn(u16) -> bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for bucket in all_buckets() {
        if progress.buckets[usize::from(bucket)].is_whole() || taken(bucket) {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == bucket && bucket - run.next < RUN => run.end += 1,
            _ => runs.push(Run {
                next: bucket,
                end: bucket + 1,
                peer: None,
                asked: false,
            }),
        }
    }
    runs
}

/// What is known of who sent what, after a stop.
pub(super) fn unknown_sources(progress: &Progress) -> Vec<Source> {
    let source = |bucket: &Bucket| match bucket.stage {
        Stage::Nothing => Source::None,
        _ => Source::Many,
    };
    progress.buckets.iter().map(source).collect()
}

impl StateSync {
    pub(super) fn ask_pages(&mut self, now: Time, wants: &mut Wants) {
        if !matches!(self.stage, super::Stage::Fetch) {
            return;
        }
        let base = self.progress.base.map(|(base, _)| base).unwrap_or_default();
        let suspects = self.suspects();
        let mut asked = self.runs.iter().filter(|run| run.asked).count();
        for index in 0..self.runs.len() {
            if asked >= PAGES_AT_ONCE {
                return;
            }
            let run = &self.runs[index];
            if run.asked {
                continue;
            }
            let first = run.next;
            // The same peer goes on if it can, so that each bucket is one peer's.
            let before = run
                .peer
                .filter(|peer| !suspects.contains(peer))
                .filter(|peer| self.peers.honest_at(base).any(|other| other == *peer));
            let peer = match before {
                Some(peer) => self.peers.pick(now, base, |other| other != peer),
                None if self.is_alone(first) => self.peers.pick(now, base, |_| false),
                None => {
                    let swollen = self.swollen.get(&first);
                    let sent = |peer| swollen.is_some_and(|by| by.iter().any(|other| other.peer == peer));
                    self.peers
                        .pick(now, base, |peer| sent(peer) || suspects.contains(&peer))
                }
            };
            let Some(peer) = peer else { continue };
            let request = Request::Coins {
                cursor: self.progress.cursor(first),
                limit: MAX_UTXOS_PER_PAGE,
                end: bucket_start(usize::from(self.runs[index].end)),
            };
            let run = &mut self.runs[index];
            (run.peer, run.asked) = (Some(peer), true);
            asked += 1;
            self.put(peer, Asked::Page { first }, request, wants);
        }
    }

    /// A page will not come: somebody else reads on.
    pub(super) fn page_failed(&mut self, now: Time, from: PeerId, first: u16) {
        self.peers.failed(from, now);
        if let Some(run) = self.runs.iter_mut().find(|run| run.next == first) {
            (run.peer, run.asked) = (None, false);
        }
    }

    pub(super) fn on_page(&mut self, now: Time, from: PeerId, first: u16, page: CoinPage, wants: &mut Wants) {
        let Some(at) = self.runs.iter().position(|run| run.next == first && run.asked) else {
            return;
        };
        let base = self.progress.base.map(|(base, _)| base).unwrap_or_default();
        let far = self.peers.claim(from).0.saturating_add(MAX_AHEAD);
        if page.height < base || page.height.0 > far {
            return self.page_failed(now, from, first);
        }
        let (cursor, end) = (self.progress.cursor(first), self.runs[at].end);
        if let Some(outpoint) = outside(&page, &cursor, &bucket_start(usize::from(end))) {
            self.page_failed(now, from, first);
            let why = format!("a page of coins of buckets {first} to {end} has {outpoint}, which was not asked for");
            return self.blame(from, why, wants);
        }
        self.peers.helped(from);
        // The bucket that the page ends in; all before it are whole.
        let last = page.entries.last().filter(|_| page.more).map(|(outpoint, _)| *outpoint);
        let open = last.map_or(end, |outpoint| bucket_of(&outpoint.txid));
        for bucket in first..=open.min(end - 1) {
            let state = &mut self.progress.buckets[usize::from(bucket)];
            state.read_at(page.height);
            state.stage = match last {
                Some(cursor) if bucket == open => Stage::Begun(cursor),
                _ => Stage::Whole,
            };
            let source = &mut self.sources[usize::from(bucket)];
            *source = match *source {
                Source::None => Source::One(from),
                Source::One(peer) if peer == from => Source::One(from),
                _ => Source::Many,
            };
        }
        for (outpoint, _) in &page.entries {
            self.counts[usize::from(bucket_of(&outpoint.txid))] += 1;
        }
        self.progress.coins += page.entries.len() as u64;
        let run = &mut self.runs[at];
        (run.next, run.asked) = (open, false);
        if open == end {
            self.runs.remove(at);
        } else if self.counts[usize::from(open)] > self.likely(open) {
            self.doubt(from, open, wants);
        }
        self.write(
            StateStep {
                added: page.entries,
                ..StateStep::default()
            },
            wants,
        );
    }

    /// Those who sent more coins of some bucket than seemed likely, until the bucket is judged: as long as there is
    /// anybody else, they are asked for no other one, or each bucket would grow as far before it is doubted.
    fn suspects(&self) -> BTreeSet<PeerId> {
        let suspects: BTreeSet<PeerId> = self.swollen.values().flatten().map(|swollen| swollen.peer).collect();
        match self.peers.honest_at(Height(0)).all(|peer| suspects.contains(&peer)) {
            true => BTreeSet::new(),
            false => suspects,
        }
    }

    /// Whether nobody is left who has not sent too many coins of a bucket.
    fn is_alone(&self, bucket: u16) -> bool {
        let swollen = self.swollen.get(&bucket);
        let sent = |peer| swollen.is_some_and(|by| by.iter().any(|other| other.peer == peer));
        self.peers.honest_at(Height(0)).all(sent)
    }

    /// Coins that a bucket may have: a multiple of what is usual, and more once several have said so. One peer alone
    /// cannot raise it, unless there is no other.
    fn likely(&self, bucket: u16) -> u64 {
        let whole = self.progress.whole().max(1) as u64;
        let usual = (self.progress.coins / whole).saturating_mul(UNUSUAL);
        let least = self.rules.bucket_coins;
        let times = self.swollen.get(&bucket).map_or(0, Vec::len) as u32;
        let confirmed = if self.is_alone(bucket) {
            times
        } else {
            times.saturating_sub(1)
        };
        let genesis = if bucket == self.rules.genesis_bucket {
            self.rules.genesis_coins
        } else {
            0
        };
        (least.max(usual.min(least.saturating_mul(UNUSUAL))) << (2 * confirmed).min(32)) + genesis
    }

    /// A bucket grows without end: it is thrown away, and somebody else is asked for it.
    fn doubt(&mut self, from: PeerId, bucket: u16, wants: &mut Wants) {
        let sent = self.counts[usize::from(bucket)];
        let swollen = Swollen {
            peer: from,
            sent,
            height: self.progress.buckets[usize::from(bucket)].low,
        };
        self.swollen.entry(bucket).or_default().push(swollen);
        wants.notes.push(format!(
            "{from} sends more than {sent} coins of bucket {bucket}: somebody else is asked"
        ));
        // Pages that are under way are still taken; then the stage turns to clearing.
        let doubted = VecDeque::from([bucket]);
        match &mut self.stage {
            super::Stage::Clear(buckets) => buckets.extend(doubted),
            stage => *stage = super::Stage::Clear(doubted),
        }
    }

    /// Plans anew what is to be read, keeping what is under way.
    pub(super) fn plan_runs(&mut self) {
        let under_way: Vec<Run> = self.runs.drain(..).filter(|run| run.asked).collect();
        let taken = |bucket: u16| under_way.iter().any(|run| (run.next..run.end).contains(&bucket));
        self.runs = plan(&self.progress, taken);
        self.runs.extend(under_way);
    }

    /// Forgets what is known of a bucket.
    pub(super) fn reset_bucket(&mut self, bucket: u16) {
        let index = usize::from(bucket);
        self.progress.buckets[index] = Bucket::EMPTY;
        self.sources[index] = Source::None;
        self.counts[index] = 0;
    }
}

/// A coin of the page that was not asked for.
fn outside(page: &CoinPage, cursor: &[u8], end: &[u8]) -> Option<OutPoint> {
    let first = page
        .entries
        .first()
        .filter(|(outpoint, _)| outpoint.to_bytes()[..] <= *cursor);
    let beyond = |outpoint: &OutPoint| !end.is_empty() && outpoint.to_bytes()[..] >= *end;
    let last = page.entries.last().filter(|(outpoint, _)| beyond(outpoint));
    first.or(last).map(|(outpoint, _)| *outpoint)
}

const _: () = assert!(UTXO_BUCKETS <= u16::MAX as usize);
