//! Catching up by blocks: whom to ask for which, and handing them on one by one, in order.
//!
//! A peer's height is a claim. It is a reason to ask and nothing else: what comes counts only with a commit certificate,
//! which the check pool has verified before a block gets here. Far behind, several windows of heights are asked for at
//! the same time, from several peers: while one window is applied, the next ones arrive. What waits is bounded by the
//! windows.

use super::window::WindowSize;
use crate::{
    ledger::Content,
    primitives::{CommittedBlock, Height, PeerId, Request, Time},
};
use std::collections::{BTreeMap, VecDeque};

/// How long a peer may be one block ahead before it is asked: the block is probably on its way.
const PATIENCE_MS: u64 = 300;
/// After an answer that did not help, before the same peer is asked again.
const REST_MS: u64 = 500;
/// Blocks fetched in a row, and still not at the claimed tip, that make this node one that is catching up.
const CATCHING_UP: usize = 3;
/// Windows that are asked for or wait to be handed on, at most.
const WINDOWS: usize = 4;
/// Of them, those that one peer is asked for at the same time.
const WINDOWS_OF_PEER: usize = 2;

type Fetched = VecDeque<(CommittedBlock, Content)>;

#[derive(Debug)]
enum State {
    /// To be asked for.
    Open,
    /// Asked for.
    Asked(PeerId),
    /// Here, from this peer.
    Here(PeerId, Fetched),
}

/// Some heights in a row.
#[derive(Debug)]
struct Window {
    count: u64,
    state: State,
}

/// The machine.
#[derive(Debug, Default)]
pub struct BlockSync {
    claims: BTreeMap<PeerId, Height>,
    /// From which height on a peer keeps blocks, when it does not keep all.
    kept: BTreeMap<PeerId, Height>,
    /// Peers that did not help lately, and until when they are left alone.
    resting: BTreeMap<PeerId, Time>,
    /// Since when somebody claims more than we have.
    behind_since: Option<Time>,
    /// A height that is known to be decided and whose block is not here.
    wanted: Option<Height>,
    /// By their first height.
    windows: BTreeMap<Height, Window>,
    size: WindowSize,
    catching_up: bool,
    held: bool,
    fetched: u64,
}

impl BlockSync {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A peer says where it stands.
    pub fn on_claim(&mut self, now: Time, peer: PeerId, height: Height, tip: Height) {
        self.claims.insert(peer, height);
        self.look(now, tip);
    }

    /// A peer is gone.
    pub fn on_peer_down(&mut self, peer: PeerId) {
        self.claims.remove(&peer);
        self.kept.remove(&peer);
        self.resting.remove(&peer);
    }

    /// Whether nothing is to be asked for, for now.
    pub const fn hold(&mut self, hold: bool) {
        self.held = hold;
    }

    /// A height is decided, and its block is not here.
    pub fn want(&mut self, height: Height) {
        self.wanted = Some(height);
    }

    /// A block was committed, wherever it came from.
    pub fn on_tip(&mut self, now: Time, tip: Height) {
        self.behind_since = None;
        self.wanted = self.wanted.filter(|wanted| *wanted > tip);
        self.drop_old(tip);
        self.look(now, tip);
        if self.windows.is_empty() && self.claimed() <= tip {
            self.catching_up = false;
        }
    }

    /// Forgets what is at the tip or below.
    fn drop_old(&mut self, tip: Height) {
        while let Some((first, window)) = self.windows.first_key_value()
            && *first <= tip
        {
            let (first, last) = (*first, Height(first.0 + window.count - 1));
            let Some(mut window) = self.windows.remove(&first) else {
                return;
            };
            // What is asked for stays under its first height, by which the answer will name it.
            if last <= tip || matches!(window.state, State::Asked(_)) {
                continue;
            }
            let old = tip.next().0 - first.0;
            if let State::Here(_, blocks) = &mut window.state {
                blocks.drain(..(old as usize).min(blocks.len()));
            }
            window.count -= old;
            self.windows.insert(tip.next(), window);
        }
    }

    fn look(&mut self, now: Time, tip: Height) {
        if self.claimed() > tip {
            self.behind_since.get_or_insert(now);
        }
    }

    /// Whom to ask for what, if it is time to ask; to be called until it is not. `pick` chooses among that many.
    pub fn next_request(
        &mut self,
        now: Time,
        tip: Height,
        pick: impl FnOnce(usize) -> usize,
    ) -> Option<(PeerId, Request)> {
        if !self.is_due(now, tip) {
            return None;
        }
        self.open_windows(tip);
        let is_open = |(_, window): &(&Height, &Window)| matches!(window.state, State::Open);
        let first = self.windows.iter().find(is_open).map(|(first, _)| *first)?;
        let able = self.able(now, first);
        let peer = *able.get(pick(able.len().max(1)))?;
        let window = self.windows.get_mut(&first)?;
        window.state = State::Asked(peer);
        let max_count = window.count as u32;
        Some((peer, Request::Blocks { from: first, max_count }))
    }

    /// Opens windows after the last, as many as there may be and as are claimed to exist.
    fn open_windows(&mut self, tip: Height) {
        // What is asked for and was overtaken leaves a gap before the windows after it.
        if let Some((first, _)) = self.windows.first_key_value()
            && *first > tip.next()
        {
            let count = (first.0 - tip.0 - 1).min(self.size.count());
            let state = State::Open;
            self.windows.insert(tip.next(), Window { count, state });
        }
        let last = self.claimed().max(self.wanted.unwrap_or_default());
        let mut next = self.windows.last_key_value().map_or(tip.next(), |(first, window)| {
            Height(first.0.saturating_add(window.count)).max(tip.next())
        });
        while self.windows.len() < WINDOWS && next <= last {
            let count = (last.0 - next.0 + 1).min(self.size.count());
            let state = State::Open;
            self.windows.insert(next, Window { count, state });
            next = Height(next.0.saturating_add(count));
        }
    }

    /// Those who may be asked for a window: whoever claims to have its first block, or, if nobody does and it is known to
    /// exist, anybody.
    fn able(&self, now: Time, first: Height) -> Vec<PeerId> {
        let asked = |peer: PeerId| {
            let windows = self.windows.values();
            windows
                .filter(|window| matches!(window.state, State::Asked(by) if by == peer))
                .count()
        };
        let free = |peer: &PeerId| {
            self.resting.get(peer).is_none_or(|until| *until <= now)
                && self.kept.get(peer).is_none_or(|kept| *kept <= first)
                && asked(*peer) < WINDOWS_OF_PEER
        };
        let free: Vec<(PeerId, Height)> = self
            .claims
            .iter()
            .filter(|(peer, _)| free(peer))
            .map(|(peer, claim)| (*peer, *claim))
            .collect();
        let ahead: Vec<PeerId> = free
            .iter()
            .filter(|(_, claim)| *claim >= first)
            .map(|(peer, _)| *peer)
            .collect();
        if ahead.is_empty() && self.wanted.is_some_and(|wanted| wanted >= first) {
            return free.into_iter().map(|(peer, _)| peer).collect();
        }
        ahead
    }

    fn is_due(&self, now: Time, tip: Height) -> bool {
        let far = self.claimed().0 > tip.0 + 1;
        let waited = self.behind_since.is_some_and(|since| now >= since.plus_ms(PATIENCE_MS));
        !self.held && (self.wanted.is_some() || (self.claimed() > tip && (far || waited)))
    }

    /// When [`BlockSync::next_request`] may have something; `None`: not before something else happens.
    pub fn deadline(&self, now: Time, tip: Height) -> Option<Time> {
        let under_way = |window: &Window| !matches!(window.state, State::Open);
        if self.claims.is_empty() || self.windows.values().filter(|window| under_way(window)).count() > 0 {
            return None;
        }
        let rested = self.resting.values().filter(|until| **until > now).min().copied();
        if self.is_due(now, tip) {
            // Everybody who could be asked was: the next comes back from its rest.
            return rested;
        }
        self.behind_since.map(|since| since.plus_ms(PATIENCE_MS))
    }

    /// The answer for the window that begins at `first`: blocks that are certified, or nothing.
    pub fn on_answer(
        &mut self,
        now: Time,
        from: PeerId,
        first: Height,
        tip: Height,
        answer: Option<(Vec<(CommittedBlock, Content)>, Height)>,
    ) {
        let (blocks, claim) = answer.unwrap_or((Vec::new(), tip));
        let in_order = blocks.iter().zip(first.0..);
        let in_order = in_order.take_while(|((block, _), height)| block.block.header.height.0 == *height);
        let useful = in_order.count() as u64;
        let asked = match self.windows.get(&first) {
            Some(window) => matches!(window.state, State::Asked(by) if by == from),
            None => false,
        };
        if useful == 0 {
            // Whatever it claims, it has nothing for us: not to be asked again before it claims anew.
            self.claims.insert(from, tip.min(claim));
            self.resting.insert(from, now.plus_ms(REST_MS));
            if asked && let Some(window) = self.windows.get_mut(&first) {
                window.state = State::Open;
            }
            self.drop_unclaimed();
            self.behind_since = None;
            self.look(now, tip);
            if self.claimed() <= tip && self.windows.is_empty() {
                self.catching_up = false;
            }
            return;
        }
        self.claims.insert(from, claim);
        if !asked {
            return;
        }
        self.size.learn(&blocks);
        let window = self.windows.remove(&first).expect("it was asked for: looked up above");
        let count = useful.min(window.count);
        let blocks = blocks.into_iter().take(count as usize).collect();
        self.fetched += count;
        self.windows.insert(
            first,
            Window {
                count,
                state: State::Here(from, blocks),
            },
        );
        if count < window.count {
            let rest = Window {
                count: window.count - count,
                state: State::Open,
            };
            self.windows.insert(Height(first.0 + count), rest);
        }
        self.drop_unclaimed();
        self.drop_old(tip);
        let here = |window: &Window| match &window.state {
            State::Here(_, blocks) => blocks.len(),
            _ => 0,
        };
        if self.windows.values().map(here).sum::<usize>() >= CATCHING_UP {
            self.catching_up = true;
        }
    }

    /// A peer keeps blocks only from `kept` on, and was asked for earlier ones.
    pub fn on_pruned(&mut self, now: Time, from: PeerId, first: Height, tip: Height, kept: Height) {
        if let Some(window) = self.windows.get_mut(&first)
            && matches!(window.state, State::Asked(by) if by == from)
        {
            window.state = State::Open;
        }
        match kept > first {
            true => drop(self.kept.insert(from, kept)),
            // It refuses what it says it has.
            false => drop(self.resting.insert(from, now.plus_ms(REST_MS))),
        }
        self.look(now, tip);
    }

    /// Windows at the end that nobody claims to have any more.
    fn drop_unclaimed(&mut self) {
        let last = self.claimed().max(self.wanted.unwrap_or_default());
        while let Some((first, window)) = self.windows.last_key_value()
            && *first > last
            && matches!(window.state, State::Open)
        {
            self.windows.pop_last();
        }
    }

    /// The block after the tip, if it has come.
    pub fn next_block(&mut self, tip: Height) -> Option<(PeerId, CommittedBlock, Content)> {
        let entry = self.windows.first_entry()?;
        if *entry.key() != tip.next() {
            return None;
        }
        let mut window = entry.remove();
        let State::Here(from, blocks) = &mut window.state else {
            self.windows.insert(tip.next(), window);
            return None;
        };
        let from = *from;
        let next = blocks.pop_front().map(|(block, content)| (from, block, content));
        window.count -= 1;
        if window.count > 0 {
            self.windows.insert(tip.next().next(), window);
        }
        next
    }

    /// A block that came does not fit: what came with it is worth nothing either.
    pub fn on_misfit(&mut self, now: Time, from: PeerId) {
        self.windows.clear();
        self.claims.remove(&from);
        self.resting.insert(from, now.plus_ms(REST_MS));
    }

    /// Whether the block after the tip waits to be handed on.
    pub fn has_block(&self, tip: Height) -> bool {
        matches!(
            self.windows.get(&tip.next()),
            Some(Window {
                state: State::Here(..),
                ..
            })
        )
    }

    /// Whether this node is so far behind that it should not vote.
    pub const fn is_catching_up(&self) -> bool {
        self.catching_up
    }

    /// Whether somebody is ahead, and nobody of those keeps the next block.
    pub fn lacks_blocks(&self, tip: Height) -> bool {
        let mut ahead = self.claims.iter().filter(|(_, claim)| **claim > tip).peekable();
        ahead.peek().is_some() && ahead.all(|(peer, _)| self.kept.get(peer).is_some_and(|kept| *kept > tip.next()))
    }

    /// The highest tip that a peer claims.
    pub fn claimed(&self) -> Height {
        self.claims.values().max().copied().unwrap_or_default()
    }

    /// Blocks that came by request, since start.
    pub const fn fetched(&self) -> u64 {
        self.fetched
    }
}
