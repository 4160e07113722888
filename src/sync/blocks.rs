//! Catching up by blocks: whom to ask for which, and handing them on one by one, in order.
//!
//! A peer's height is a claim. It is a reason to ask and nothing else: what comes counts only with a commit certificate,
//! which the check pool has verified before a block gets here.

use crate::{
    ledger::Content,
    primitives::{CommittedBlock, Height, PeerId, Request, Time, limits::MAX_BLOCKS_PER_REQUEST},
};
use std::collections::{BTreeMap, VecDeque};

/// How long a peer may be one block ahead before it is asked: the block is probably on its way.
const PATIENCE_MS: u64 = 300;
/// After an answer that did not help, before asking somebody else.
const BACK_OFF_MS: u64 = 500;
/// Blocks fetched in a row, and still not at the claimed tip, that make this node one that is catching up.
const CATCHING_UP: usize = 3;

/// The machine.
#[derive(Debug, Default)]
pub struct BlockSync {
    claims: BTreeMap<PeerId, Height>,
    /// Since when somebody claims more than we have.
    behind_since: Option<Time>,
    /// A height that is known to be decided and whose block is not here.
    wanted: Option<Height>,
    in_flight: Option<PeerId>,
    not_before: Time,
    queue: VecDeque<(PeerId, CommittedBlock, Content)>,
    catching_up: bool,
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
    }

    /// A height is decided, and its block is not here.
    pub fn want(&mut self, height: Height) {
        self.wanted = Some(height);
    }

    /// A block was committed, wherever it came from.
    pub fn on_tip(&mut self, now: Time, tip: Height) {
        self.behind_since = None;
        self.wanted = self.wanted.filter(|wanted| *wanted > tip);
        while self
            .queue
            .front()
            .is_some_and(|(_, block, _)| block.block.header.height <= tip)
        {
            self.queue.pop_front();
        }
        self.look(now, tip);
        if self.queue.is_empty() && self.in_flight.is_none() && self.claimed() <= tip {
            self.catching_up = false;
        }
    }

    fn look(&mut self, now: Time, tip: Height) {
        if self.claimed() > tip {
            self.behind_since.get_or_insert(now);
        }
    }

    /// Whom to ask for what, if it is time to ask. `pick` chooses among that many.
    pub fn next_request(
        &mut self,
        now: Time,
        tip: Height,
        pick: impl FnOnce(usize) -> usize,
    ) -> Option<(PeerId, Request)> {
        if self.in_flight.is_some() || !self.queue.is_empty() || now < self.not_before || !self.is_due(now, tip) {
            return None;
        }
        let ahead: Vec<PeerId> = self
            .claims
            .iter()
            .filter(|(_, height)| **height > tip)
            .map(|(peer, _)| *peer)
            .collect();
        let asked: Vec<PeerId> = if ahead.is_empty() {
            self.claims.keys().copied().collect()
        } else {
            ahead
        };
        let peer = *asked.get(pick(asked.len().max(1)))?;
        self.in_flight = Some(peer);
        Some((
            peer,
            Request::Blocks {
                from: tip.next(),
                max_count: MAX_BLOCKS_PER_REQUEST,
            },
        ))
    }

    fn is_due(&self, now: Time, tip: Height) -> bool {
        let far = self.claimed().0 > tip.0 + 1;
        let waited = self.behind_since.is_some_and(|since| now >= since.plus_ms(PATIENCE_MS));
        self.wanted.is_some() || (self.claimed() > tip && (far || waited))
    }

    /// When [`BlockSync::next_request`] may have something; `None`: not before something else happens.
    pub fn deadline(&self, tip: Height) -> Option<Time> {
        if self.in_flight.is_some() || !self.queue.is_empty() || self.claims.is_empty() {
            return None;
        }
        if self.wanted.is_some() || self.claimed().0 > tip.0 + 1 {
            return Some(self.not_before);
        }
        self.behind_since
            .map(|since| since.plus_ms(PATIENCE_MS).max(self.not_before))
    }

    /// An answer: blocks that are certified, or nothing.
    pub fn on_answer(
        &mut self,
        now: Time,
        from: PeerId,
        tip: Height,
        answer: Option<(Vec<(CommittedBlock, Content)>, Height)>,
    ) {
        self.in_flight = None;
        let (blocks, claim) = answer.unwrap_or((Vec::new(), tip));
        let useful = blocks
            .first()
            .is_some_and(|(block, _)| block.block.header.height <= tip.next())
            && blocks.last().is_some_and(|(block, _)| block.block.header.height > tip);
        if !useful {
            // Whatever it claims, it has nothing for us: not to be asked again before it claims anew.
            self.claims.insert(from, tip.min(claim));
            self.behind_since = None;
            self.not_before = now.plus_ms(BACK_OFF_MS);
            self.look(now, tip);
            if self.claimed() <= tip {
                self.catching_up = false;
            }
            return;
        }
        self.claims.insert(from, claim);
        let new = blocks.into_iter().filter(|(block, _)| block.block.header.height > tip);
        self.queue.extend(new.map(|(block, content)| (from, block, content)));
        self.fetched += self.queue.len() as u64;
        if self.queue.len() >= CATCHING_UP {
            self.catching_up = true;
        }
    }

    /// The block after the tip, if it has come.
    pub fn next_block(&mut self, tip: Height) -> Option<(PeerId, CommittedBlock, Content)> {
        let next = self
            .queue
            .front()
            .is_some_and(|(_, block, _)| block.block.header.height == tip.next());
        if next { self.queue.pop_front() } else { None }
    }

    /// A block that came does not fit: what came with it is worth nothing either.
    pub fn on_misfit(&mut self, now: Time, from: PeerId) {
        self.queue.clear();
        self.claims.remove(&from);
        self.not_before = now.plus_ms(BACK_OFF_MS);
    }

    /// Whether blocks wait to be handed on.
    pub fn has_blocks(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether this node is so far behind that it should not vote.
    pub const fn is_catching_up(&self) -> bool {
        self.catching_up
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
