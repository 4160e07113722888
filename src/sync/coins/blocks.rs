//! The blocks from the base on: several windows of heights at a time, stored in order.

use super::{Answer, Asked, Stage, StateSync, Wants};
use crate::{
    ledger::{Content, StateStep},
    primitives::{BlockId, CommittedBlock, Height, PeerId, Request, Time, TxId},
    sync::window::WindowSize,
};
use std::collections::{BTreeMap, BTreeSet};

/// Windows that are asked for or wait for those before them, at most; the memory of so many answers.
const WINDOWS: usize = 4;

/// Heights that are asked for together.
#[derive(Debug)]
enum Window {
    /// To be asked for, by somebody else than before.
    Open,
    /// Asked for.
    Asked,
    /// Here, and waiting for those before it.
    Here(PeerId, Vec<(CommittedBlock, Content)>),
}

/// The windows under way, by their first height, with how many blocks they are.
#[derive(Debug)]
pub(super) struct Windows {
    windows: BTreeMap<Height, (u32, Window)>,
    size: WindowSize,
    /// The first height that is in none.
    next: Height,
    /// Who does not keep the next block any more.
    pruned: BTreeSet<PeerId>,
}

impl Windows {
    pub(super) fn new(next: Height) -> Self {
        Self {
            windows: BTreeMap::new(),
            size: WindowSize::default(),
            next,
            pruned: BTreeSet::new(),
        }
    }

    /// Whether the next block to store is here.
    pub(super) fn is_ready(&self, next: Height) -> bool {
        matches!(self.windows.get(&next), Some((_, Window::Here(..))))
    }

    /// Opens as many windows as there may be, up to `last`.
    fn open(&mut self, last: Height) {
        while self.windows.len() < WINDOWS && self.next <= last {
            let count = (last.0 - self.next.0 + 1).min(self.size.count());
            self.windows.insert(self.next, (count as u32, Window::Open));
            self.next = Height(self.next.0 + count);
        }
    }

    fn reopen(&mut self, first: Height) {
        if let Some((_, window)) = self.windows.get_mut(&first) {
            *window = Window::Open;
        }
    }
}

impl StateSync {
    pub(super) fn ask_blocks(&mut self, now: Time, wants: &mut Wants) {
        let last = match &self.stage {
            Stage::Fetch | Stage::Digests { .. } | Stage::Clear(_) => self.peers.highest(),
            Stage::Await { height, .. } => height.next(),
            Stage::Replay { .. } | Stage::Count { .. } | Stage::Check(_) | Stage::Done => return,
        };
        self.windows.open(last);
        let open: Vec<(Height, u32)> = self
            .windows
            .windows
            .iter()
            .filter(|(_, (_, window))| matches!(window, Window::Open))
            .map(|(first, (count, _))| (*first, *count))
            .collect();
        for (from, max_count) in open {
            let Some(peer) = self.peers.pick(now, from, |_| false) else {
                continue;
            };
            if let Some((_, window)) = self.windows.windows.get_mut(&from) {
                *window = Window::Asked;
            }
            self.put(peer, Asked::Blocks { from }, Request::Blocks { from, max_count }, wants);
        }
    }

    pub(super) fn on_blocks(&mut self, now: Time, from: PeerId, first: Height, answer: Answer, wants: &mut Wants) {
        match answer {
            Answer::Blocks(blocks, tip) if is_run_from(&blocks, first) => {
                self.peers.helped(from);
                if tip < self.peers.claim(from) {
                    self.peers.has_only_below(from, tip.next());
                }
                self.keep(from, first, blocks);
            }
            Answer::Blocks(_, tip) => {
                self.peers.has_only_below(from, tip.next().min(first));
                self.peers.failed(from, now);
                self.windows.reopen(first);
            }
            Answer::Pruned(kept) => {
                self.peers.failed(from, now);
                self.windows.reopen(first);
                if first == self.progress.next_block() && kept > first {
                    self.windows.pruned.insert(from);
                    let has = self
                        .peers
                        .honest_at(first)
                        .all(|peer| self.windows.pruned.contains(&peer));
                    if has {
                        self.restart(wants);
                    }
                }
            }
            _ => {
                self.peers.failed(from, now);
                self.windows.reopen(first);
            }
        }
    }

    /// Keeps what came until its turn; what is missing of the window is asked for again.
    fn keep(&mut self, from: PeerId, first: Height, blocks: Vec<(CommittedBlock, Content)>) {
        let Some((count, window)) = self.windows.windows.get_mut(&first) else {
            return;
        };
        self.windows.size.learn(&blocks);
        let came = (blocks.len() as u32).min(*count);
        let missing = *count - came;
        (*count, *window) = (came, Window::Here(from, blocks));
        if missing > 0 {
            let rest = Height(first.0 + u64::from(came));
            self.windows.windows.insert(rest, (missing, Window::Open));
        }
    }

    /// Stores the next window if it is here.
    pub(super) fn store_blocks(&mut self, now: Time, wants: &mut Wants) {
        let first = self.progress.next_block();
        if !self.windows.is_ready(first) {
            return;
        }
        let Some((count, Window::Here(from, blocks))) = self.windows.windows.remove(&first) else {
            return;
        };
        let mut stored: Vec<(CommittedBlock, BlockId, Vec<TxId>)> = Vec::with_capacity(blocks.len());
        for (block, content) in blocks.into_iter().take(count as usize) {
            let header = &block.block.header;
            let id = header.id(&self.rules.electorate.chain);
            if !self.follows(&block, id) {
                // Two quorums for one height, or another chain than the headers': nothing honest looks like this.
                let why = format!("block {} does not follow the blocks before it", header.height);
                self.blame(from, why, wants);
                let left = count - stored.len() as u32;
                let first = self.progress.next_block();
                self.windows.windows.insert(first, (left, Window::Open));
                break;
            }
            (self.progress.blocks_to, self.progress.last_id) = (header.height, id);
            let inputs = content
                .transactions
                .iter()
                .map(|transaction| transaction.inputs().len() as u64);
            self.spent.insert(header.height, inputs.sum());
            let txids = content
                .transactions
                .iter()
                .map(|transaction| transaction.txid())
                .collect();
            stored.push((block, id, txids));
        }
        self.windows.pruned.clear();
        let shown = self.progress.blocks_to;
        let since = self.proven.map_or(now, |(_, since)| since);
        self.proven = Some((self.proven.map_or(shown, |(height, _)| height.max(shown)), since));
        self.write(
            StateStep {
                blocks: stored,
                ..StateStep::default()
            },
            wants,
        );
    }

    fn follows(&self, block: &CommittedBlock, id: BlockId) -> bool {
        match self.progress.base {
            Some((base, base_id)) if block.block.header.height == base => id == base_id,
            _ => block.block.header.parent == self.progress.last_id,
        }
    }
}

/// Whether the blocks begin where they were asked for, one after the other.
fn is_run_from(blocks: &[(CommittedBlock, Content)], first: Height) -> bool {
    let heights = blocks.iter().map(|(block, _)| block.block.header.height);
    !blocks.is_empty() && heights.zip(first.0..).all(|(height, expected)| height.0 == expected)
}
