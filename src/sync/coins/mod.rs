//! Getting the state without the history: pages of coins from many peers, and the blocks since.
//!
//! # How
//!
//! 1. A peer's tip counts once it has shown that block with its certificate.
//! 2. The headers that closed epochs are verified forward from genesis, or from a checkpoint. The last of them is the
//!    *base*: blocks are fetched from there on, each with its certificate and linked to the one before. They are kept:
//!    the rules of the epoch under way look them up.
//! 3. The coins are read page by page, by ranges of buckets, from several peers side by side. A page says at which height
//!    it was read; pages of one bucket may be of different heights, for the chain goes on.
//! 4. When all buckets are there, a peer is asked for the digests of all buckets after its last block, `d`. They are right
//!    when their Merkle root is the one in the certified header of `d + 1`.
//! 5. The blocks after the lowest page, up to `d`, are replayed: what they spend goes, what they make comes.
//! 6. Each bucket is hashed and compared. A bad one names its liar if all of it came from one peer; it is thrown away and
//!    read again from somebody else, and only it. Then 4 to 6 are repeated.
//!
//! # Why replaying is right
//!
//! A coin is made once and spent once, and never comes back. Take any coin and the blocks after the lowest page up to
//! `d`. If one of them makes or spends it, the last that does so decides whether it is there at `d`, and replaying in
//! order ends with just that, whatever the page said. If none does, it is there at every height from the lowest page to
//! `d` or at none of them, so the page was right. So replaying may begin too early and may be repeated, and a stop in the
//! middle costs nothing but time. The one thing that blocks do not list is what an epoch pays out: those coins share one
//! txid, and if an epoch was closed after its bucket was read, that bucket is read again.
//!
//! The sum of all coins gives the fees that wait for the end of the epoch: the supply is known from the schedule.
//!
//! # Bounds
//!
//! Four windows of blocks and a few pages are in memory at a time; everything else goes to the store as it comes, with
//! the progress in the same batch. A bucket may grow far beyond the others only when two peers say so.

mod blocks;
mod check;
mod pages;
mod peers;
mod progress;
mod replay;
#[cfg(test)]
mod tests;

use crate::{
    ledger::{Content, StateStep, StateView, StateWrite, ViewError, commitment::bucket_of},
    primitives::{
        Amount, BlockId, CertifiedHeader, CoinPage, CommittedBlock, DecodeError, Epoch, Fault, Genesis, Hash, Height,
        Params, PeerId, Request, Time, hash::merkle_root, limits::MAX_HEADERS_PER_REQUEST, message::Electorate,
    },
};
use blocks::Windows;
use check::Check;
use pages::{Run, Source};
use peers::Peers;
use progress::Progress;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    str::FromStr,
};

/// After the first proven tip, so long others may show theirs.
const PROOF_MS: u64 = 1_000;
/// A page or digests that claim to be so many blocks ahead of what their peer last said of itself are not believed.
const MAX_AHEAD: u64 = 1_000;
/// Digests from before the last page are asked for again so often; then the pages are doubted.
const MAX_DIGEST_TRIES: u32 = 10;
/// The block after the digests may take so long.
const AWAIT_MS: u64 = 60_000;

/// A block that is trusted without the history before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last of an epoch.
    pub height: Height,
    /// The block there.
    pub block: BlockId,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.height, self.block)
    }
}

impl FromStr for Checkpoint {
    type Err = String;

    /// Reads `height:block id`.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("'{text}' is no checkpoint: expected a height, a colon and a block id of 64 hex digits");
        let (height, block) = text.split_once(':').ok_or_else(form)?;
        Ok(Self {
            height: Height(height.parse().map_err(|_| form())?),
            block: block.parse().map_err(|_| form())?,
        })
    }
}

/// What a state sync needs to know of the chain.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Who votes.
    pub electorate: Electorate,
    /// The chain's parameters.
    pub params: Params,
    /// All coins of the genesis together.
    pub genesis_supply: Amount,
    /// How many they are; all are of one bucket, since they share one txid.
    pub genesis_coins: u64,
    /// Of that txid.
    pub genesis_bucket: u16,
    /// Where trust begins, if not at the genesis.
    pub checkpoint: Option<Checkpoint>,
    /// A bucket of more coins than this (and many times more than the others have) must be confirmed by a second peer.
    pub bucket_coins: u64,
}

impl Rules {
    /// The rules of a chain, with no checkpoint.
    pub fn new(genesis: &Genesis, electorate: Electorate) -> Self {
        let mut coins = genesis.named_coins().map(|(outpoint, _)| bucket_of(&outpoint.txid));
        Self {
            genesis_bucket: coins.next().unwrap_or_default(),
            genesis_coins: genesis.coins.len() as u64,
            genesis_supply: genesis.supply().unwrap_or_default(),
            params: genesis.params.clone(),
            electorate,
            checkpoint: None,
            bucket_coins: BUCKET_COINS,
        }
    }
}

/// Coins that a bucket may have before it must be confirmed.
pub const BUCKET_COINS: u64 = 1 << 15;

/// An answer, its signatures checked.
#[derive(Debug)]
pub enum Answer {
    /// Certified blocks, ascending, and where the peer stands.
    Blocks(Vec<(CommittedBlock, Content)>, Height),
    /// Blocks are kept from here on.
    Pruned(Height),
    /// Coins.
    Coins(CoinPage),
    /// Digests of all buckets after a block.
    Digests(Height, Vec<Hash>),
    /// Certified headers.
    Headers(Vec<CertifiedHeader>),
    /// None, or none of use.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Proof,
    Headers,
    Page { first: u16 },
    Blocks { from: Height },
    Digests,
}

/// What the machine wants.
#[derive(Debug, Default)]
pub struct Wants {
    /// Questions with their numbers.
    pub ask: Vec<(u64, PeerId, Request)>,
    /// To be applied before the next call.
    pub write: Option<StateWrite>,
    /// What peers did wrong.
    pub faults: Vec<(PeerId, Fault, String)>,
    /// Worth a line in the log.
    pub notes: Vec<String>,
}

/// What it is at.
#[derive(Debug)]
enum Stage {
    /// Pages and blocks.
    Fetch,
    /// The digests of all buckets.
    Digests { tries: u32, asked: bool },
    /// The block after the digests.
    Await {
        from: PeerId,
        height: Height,
        digests: Vec<Hash>,
        until: Time,
    },
    /// Applying what came after the pages.
    Replay { goal: Goal, next: Height },
    /// Counting who signed the blocks of the epoch.
    Count { goal: Goal, next: Height, signed: Vec<u64> },
    /// Hashing the buckets.
    Check(Box<Check>),
    /// Throwing bad buckets away.
    Clear(VecDeque<u16>),
    /// The last write is handed over.
    Done,
}

/// The state that is aimed at: that after this block.
#[derive(Clone, Debug)]
struct Goal {
    height: Height,
    root: Hash,
    digests: Vec<Hash>,
}

/// How far it has come, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncStatus {
    /// What is being done.
    pub phase: &'static str,
    /// Coins fetched, those thrown away again included.
    pub coins: u64,
    /// Buckets that are there, of 1,024.
    pub buckets: u64,
    /// The last block that is stored.
    pub blocks_to: Height,
    /// The first block that is stored, or will be.
    pub blocks_from: Height,
    /// The height that is aimed at.
    pub target: Height,
    /// Buckets that were thrown away.
    pub bad_buckets: u64,
}

/// The machine.
#[derive(Debug)]
pub struct StateSync {
    rules: Rules,
    progress: Progress,
    peers: Peers,
    asked: BTreeMap<u64, (PeerId, Asked)>,
    next_id: u64,
    arrived: VecDeque<(PeerId, Asked, Answer)>,
    /// The highest tip that was shown with its certificate, and since when one is known.
    proven: Option<(Height, Time)>,
    shown: BTreeSet<PeerId>,
    runs: Vec<Run>,
    /// By bucket: who sent its coins, since this process began.
    sources: Vec<Source>,
    /// By bucket: coins that came since it was begun.
    counts: Vec<u64>,
    /// By bucket: what seemed too much.
    swollen: BTreeMap<u16, Vec<Swollen>>,
    windows: Windows,
    stage: Stage,
    bad_buckets: u64,
    /// Inputs of each block that was stored since this process began.
    spent: BTreeMap<Height, u64>,
    /// The first block that was.
    counted_from: Height,
}

/// More coins of a bucket than seemed likely.
#[derive(Clone, Copy, Debug)]
struct Swollen {
    /// Who sent them.
    peer: PeerId,
    /// How many.
    sent: u64,
    /// The lowest height that they were said to be of.
    height: Height,
}

impl StateSync {
    /// A sync that begins by taking away what is there. `first_id`: of its first question.
    pub fn new(rules: Rules, first_id: u64) -> Self {
        let first_epoch = first_epoch(&rules);
        Self::with(rules, Progress::new(first_epoch), first_id)
    }

    /// A sync that was stopped, from what the store remembers of it.
    pub fn resume(rules: Rules, progress: &[u8], first_id: u64) -> Result<Self, DecodeError> {
        Ok(Self::with(rules, Progress::decode(progress)?, first_id))
    }

    fn with(rules: Rules, progress: Progress, first_id: u64) -> Self {
        Self {
            runs: pages::plan(&progress, |_| false),
            sources: pages::unknown_sources(&progress),
            counts: vec![0; progress.buckets.len()],
            swollen: BTreeMap::new(),
            windows: Windows::new(progress.next_block()),
            counted_from: progress.next_block(),
            rules,
            progress,
            peers: Peers::default(),
            asked: BTreeMap::new(),
            next_id: first_id,
            arrived: VecDeque::new(),
            proven: None,
            shown: BTreeSet::new(),
            stage: Stage::Fetch,
            bad_buckets: 0,
            spent: BTreeMap::new(),
        }
    }

    /// A peer says where it stands.
    pub fn on_claim(&mut self, peer: PeerId, height: Height) {
        self.peers.claims(peer, height);
    }

    /// A peer is gone.
    pub fn on_peer_down(&mut self, peer: PeerId) {
        self.peers.gone(peer);
    }

    /// A question is answered, or will not be.
    pub fn on_answer(&mut self, from: PeerId, id: u64, answer: Answer) {
        if let Some((peer, asked)) = self.asked.remove(&id)
            && peer == from
        {
            self.peers.answered(peer);
            self.arrived.push_back((peer, asked, answer));
        }
    }

    /// Goes on as far as it can: to the next write, or until something has to come.
    pub fn step(&mut self, now: Time, view: &dyn StateView) -> Result<Wants, ViewError> {
        let mut wants = Wants::default();
        if self.progress.wiping {
            self.wipe(view, &mut wants)?;
            return Ok(wants);
        }
        while wants.write.is_none()
            && let Some((from, asked, answer)) = self.arrived.pop_front()
        {
            self.take(now, from, asked, answer, &mut wants);
        }
        if wants.write.is_none() {
            self.advance(now, view, &mut wants)?;
        }
        self.ask(now, &mut wants);
        Ok(wants)
    }

    /// When [`StateSync::step`] has something to do though nothing comes; in the past: at once.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let busy = match &self.stage {
            Stage::Replay { .. } | Stage::Count { .. } | Stage::Check(_) | Stage::Clear(_) => true,
            Stage::Await { height, .. } => self.progress.blocks_to > *height,
            Stage::Fetch => self.runs.is_empty() && self.progress.base.is_some(),
            Stage::Digests { .. } | Stage::Done => false,
        };
        if self.progress.wiping || busy || !self.arrived.is_empty() || self.windows.is_ready(self.progress.next_block())
        {
            return Some(Time(0));
        }
        let proof = self.proven.map(|(_, since)| since.plus_ms(PROOF_MS));
        let until = match &self.stage {
            Stage::Await { until, .. } => Some(*until),
            _ => None,
        };
        let proof = proof.filter(|_| self.progress.base.is_none());
        [proof, until, self.peers.next_rested(now)].into_iter().flatten().min()
    }

    /// Whether the state is whole once the last write is applied.
    pub const fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// A number above those of all questions so far.
    pub const fn next_id(&self) -> u64 {
        self.next_id
    }

    /// The highest tip that a peer claims.
    pub fn claimed(&self) -> Height {
        self.peers.highest()
    }

    /// Where it stands.
    pub fn status(&self) -> SyncStatus {
        let phase = match &self.stage {
            _ if self.progress.wiping => "making room",
            _ if self.progress.base.is_none() => "headers",
            Stage::Fetch => "coins",
            Stage::Digests { .. } | Stage::Await { .. } => "digests",
            Stage::Replay { .. } | Stage::Count { .. } => "blocks since",
            Stage::Check(_) => "checking",
            Stage::Clear(_) => "throwing away what is wrong",
            Stage::Done => "done",
        };
        let first = self.progress.base.map(|(base, _)| Height(base.0.max(1)));
        SyncStatus {
            phase,
            coins: self.progress.coins,
            buckets: self.progress.whole() as u64,
            blocks_to: self.progress.blocks_to,
            blocks_from: first.unwrap_or_default(),
            target: self.target(),
            bad_buckets: self.bad_buckets,
        }
    }

    /// The block that is fetched last, as far as is known.
    fn target(&self) -> Height {
        match &self.stage {
            Stage::Fetch | Stage::Digests { .. } => self.peers.highest(),
            Stage::Await { height, .. } => height.next(),
            Stage::Replay { goal, .. } | Stage::Count { goal, .. } => goal.height.next(),
            Stage::Check(_) | Stage::Clear(_) | Stage::Done => self.progress.blocks_to,
        }
    }

    fn write(&self, step: StateStep, wants: &mut Wants) {
        let progress = self.progress.encode();
        wants.write = Some(StateWrite::Step(Box::new(StateStep { progress, ..step })));
    }

    fn wipe(&mut self, view: &dyn StateView, wants: &mut Wants) -> Result<(), ViewError> {
        // Before the first write the store holds the old state, and says so.
        if view.sync_progress()?.is_some() && view.is_wiped()? {
            self.progress.wiping = false;
            self.write(StateStep::default(), wants);
        } else {
            let progress = self.progress.encode();
            wants.write = Some(StateWrite::Wipe { progress });
        }
        Ok(())
    }

    /// Everything is to be fetched anew: nobody has the blocks any more that this sync began with.
    fn restart(&mut self, wants: &mut Wants) {
        wants
            .notes
            .push("the blocks that this sync began with are not kept by anybody any more: it begins again".to_owned());
        let (peers, next_id) = (std::mem::take(&mut self.peers), self.next_id);
        let asked = std::mem::take(&mut self.asked);
        let mut fresh = Self::new(self.rules.clone(), next_id);
        fresh.peers = peers;
        for (peer, _) in asked.into_values() {
            fresh.peers.answered(peer);
        }
        *self = fresh;
    }

    // ---- what comes ---------------------------------------------------------------------------------------------

    fn take(&mut self, now: Time, from: PeerId, asked: Asked, answer: Answer, wants: &mut Wants) {
        match (asked, answer) {
            (Asked::Proof, Answer::Blocks(blocks, _)) => self.on_proof(now, from, &blocks),
            (Asked::Headers, Answer::Headers(headers)) => self.on_headers(now, from, headers, wants),
            (Asked::Page { first }, Answer::Coins(page)) => self.on_page(now, from, first, page, wants),
            (Asked::Page { first }, _) => self.page_failed(now, from, first),
            (Asked::Blocks { from: first }, answer) => self.on_blocks(now, from, first, answer, wants),
            (Asked::Digests, Answer::Digests(height, digests)) => {
                self.on_digests(now, from, height, digests, wants);
            }
            (Asked::Digests, _) => self.digests_failed(now, from),
            (Asked::Proof | Asked::Headers, _) => self.peers.failed(from, now),
        }
    }

    fn blame(&mut self, from: PeerId, why: String, wants: &mut Wants) {
        self.peers.shun(from);
        wants.faults.push((from, Fault::Hostile, why));
    }

    fn on_proof(&mut self, now: Time, from: PeerId, blocks: &[(CommittedBlock, Content)]) {
        let shown = blocks.last().map(|(block, _)| block.block.header.height);
        let Some(height) = shown.filter(|height| *height > Height(0)) else {
            return self.peers.failed(from, now);
        };
        self.shown.insert(from);
        let since = self.proven.map_or(now, |(_, since)| since);
        let before = self.proven.map_or(Height(0), |(height, _)| height);
        self.proven = Some((before.max(height), since));
    }

    /// Headers are consecutive; each is certified, and of the right validators, or it would not be here.
    fn on_headers(&mut self, now: Time, from: PeerId, headers: Vec<CertifiedHeader>, wants: &mut Wants) {
        let length = self.rules.params.epoch_length;
        let mut epoch = self.progress.next_epoch;
        for header in &headers {
            let (height, id) = (header.header.height, header.header.id(&self.rules.electorate.chain));
            if height.0 != (epoch.0 + 1).saturating_mul(length) || header.header.epoch != epoch {
                let why = format!("the closing header of epoch {epoch} is one of height {height}");
                return self.blame(from, why, wants);
            }
            if let Some(checkpoint) = self.rules.checkpoint
                && checkpoint.height == height
                && checkpoint.block != id
            {
                let why = format!(
                    "block {height} is {id} there, but the checkpoint says {}",
                    checkpoint.block
                );
                return self.blame(from, why, wants);
            }
            epoch = epoch.next();
        }
        if headers.is_empty() {
            return self.peers.failed(from, now);
        }
        self.peers.helped(from);
        self.progress.next_epoch = epoch;
        self.write(
            StateStep {
                headers,
                ..StateStep::default()
            },
            wants,
        );
    }

    /// Epochs that the proven tip has closed.
    fn epochs_proven(&self) -> Epoch {
        let tip = self.proven.map_or(Height(0), |(height, _)| height);
        Epoch(tip.0 / self.rules.params.epoch_length)
    }

    fn begin_at(&mut self, base: (Height, BlockId)) {
        self.progress.base = Some(base);
        self.progress.last_id = base.1;
        self.windows = Windows::new(self.progress.next_block());
        self.counted_from = self.progress.next_block();
    }

    // ---- what is done with it -----------------------------------------------------------------------------------

    fn advance(&mut self, now: Time, view: &dyn StateView, wants: &mut Wants) -> Result<(), ViewError> {
        if self.progress.base.is_none() {
            return self.look_for_base(now, view, wants);
        }
        self.store_blocks(now, wants);
        if wants.write.is_some() {
            return Ok(());
        }
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Fetch if self.runs.is_empty() => {
                self.stage = Stage::Digests { tries: 0, asked: false };
            }
            Stage::Await {
                from,
                height,
                digests,
                until,
            } => self.stage = self.await_block(now, view, (from, height, digests, until), wants)?,
            Stage::Replay { goal, next } => self.stage = self.replay(view, goal, next, wants)?,
            Stage::Count { goal, next, signed } => self.stage = self.count(view, goal, next, signed)?,
            Stage::Check(check) => self.stage = self.check(view, *check, wants)?,
            Stage::Clear(buckets) => self.stage = self.clear(view, buckets, wants)?,
            stage => self.stage = stage,
        }
        Ok(())
    }

    /// The base is the last closing block that the proven tip has behind it, once all headers up to it are here; with no
    /// epoch closed, the genesis.
    fn look_for_base(&mut self, now: Time, view: &dyn StateView, wants: &mut Wants) -> Result<(), ViewError> {
        if !self.has_proof(now) || self.progress.next_epoch < self.epochs_proven() {
            return Ok(());
        }
        let chain = &self.rules.electorate.chain;
        let base = match self.progress.next_epoch {
            Epoch(0) => Some((Height(0), BlockId(chain.0))),
            next => view
                .closing_header(next.previous())?
                .map(|header| (header.header.height, header.header.id(chain))),
        };
        if let Some(base) = base {
            self.begin_at(base);
            self.write(StateStep::default(), wants);
        }
        Ok(())
    }

    /// Whether a tip is proven, and whoever might show a higher one has had the time to.
    fn has_proof(&self, now: Time) -> bool {
        let all = || self.peers.honest_at(Height(1)).all(|peer| self.shown.contains(&peer));
        self.proven
            .is_some_and(|(_, since)| now >= since.plus_ms(PROOF_MS) || all())
    }

    fn on_digests(&mut self, now: Time, from: PeerId, height: Height, digests: Vec<Hash>, wants: &mut Wants) {
        let Stage::Digests { tries, asked } = &mut self.stage else {
            return;
        };
        *asked = false;
        *tries += 1;
        let tries = *tries;
        let far = self.peers.claim(from).0.saturating_add(MAX_AHEAD);
        let first = self.progress.base.map_or(Height(1), |(base, _)| Height(base.0.max(1)));
        if height < first || height.0 > far {
            return self.peers.failed(from, now);
        }
        if height < self.progress.highest() {
            self.peers.failed(from, now);
            if tries >= MAX_DIGEST_TRIES {
                // Pages from a height that nobody reaches.
                let early = |bucket: &u16| self.progress.buckets[usize::from(*bucket)].high > height;
                let doubted: VecDeque<u16> = all_buckets().filter(early).collect();
                wants.notes.push(format!(
                    "{} buckets claim to be of a height that nobody has",
                    doubted.len()
                ));
                self.stage = Stage::Clear(doubted);
            }
            return;
        }
        self.peers.helped(from);
        let unpaid: VecDeque<u16> = self.unpaid_buckets(height).into();
        self.stage = if unpaid.is_empty() {
            Stage::Await {
                from,
                height,
                digests,
                until: now.plus_ms(AWAIT_MS),
            }
        } else {
            Stage::Clear(unpaid)
        };
    }

    fn digests_failed(&mut self, now: Time, from: PeerId) {
        self.peers.failed(from, now);
        if let Stage::Digests { asked, .. } = &mut self.stage {
            *asked = false;
        }
    }

    /// Once the header after the digests is here, it says whether they are right.
    fn await_block(
        &mut self,
        now: Time,
        view: &dyn StateView,
        (from, height, digests, until): (PeerId, Height, Vec<Hash>, Time),
        wants: &mut Wants,
    ) -> Result<Stage, ViewError> {
        let again = Stage::Digests { tries: 0, asked: false };
        if self.progress.blocks_to <= height {
            if now < until {
                return Ok(Stage::Await {
                    from,
                    height,
                    digests,
                    until,
                });
            }
            self.peers.failed(from, now);
            return Ok(again);
        }
        let Some(after) = view.block(height.next())? else {
            return Err(ViewError(format!(
                "block {} was stored and is not there",
                height.next()
            )));
        };
        let (found, root) = (merkle_root(&digests), after.block.header.utxo_root);
        if found != root {
            let why = format!("its bucket digests after block {height} have the root {found}, but it is {root}");
            self.blame(from, why, wants);
            return Ok(again);
        }
        let goal = Goal { height, root, digests };
        let next = self.progress.lowest().next();
        Ok(Stage::Replay { goal, next })
    }

    // ---- what is asked ------------------------------------------------------------------------------------------

    fn ask(&mut self, now: Time, wants: &mut Wants) {
        if self.progress.wiping {
            return;
        }
        if self.progress.base.is_none() {
            self.ask_proofs(now, wants);
            self.ask_headers(now, wants);
            return;
        }
        self.ask_blocks(now, wants);
        self.ask_pages(now, wants);
        let height = self.progress.highest();
        if let Stage::Digests { asked: false, .. } = self.stage
            && let Some(peer) = self.peers.pick(now, height, |_| false)
        {
            if let Stage::Digests { asked, .. } = &mut self.stage {
                *asked = true;
            }
            self.put(peer, Asked::Digests, Request::Digests, wants);
        }
    }

    fn put(&mut self, peer: PeerId, asked: Asked, request: Request, wants: &mut Wants) {
        let id = self.next_id;
        self.next_id += 1;
        self.peers.asked(peer);
        self.asked.insert(id, (peer, asked));
        wants.ask.push((id, peer, request));
    }

    fn is_asked(&self, peer: PeerId, what: Asked) -> bool {
        self.asked.values().any(|asked| *asked == (peer, what))
    }

    fn ask_proofs(&mut self, now: Time, wants: &mut Wants) {
        let height = Height(1);
        loop {
            let known = |peer: PeerId| self.shown.contains(&peer) || self.is_asked(peer, Asked::Proof);
            let waiting: BTreeSet<PeerId> = self.peers.honest_at(height).filter(|peer| known(*peer)).collect();
            let Some(peer) = self.peers.pick(now, height, |peer| waiting.contains(&peer)) else {
                return;
            };
            let request = Request::Blocks {
                from: self.peers.claim(peer),
                max_count: 1,
            };
            self.put(peer, Asked::Proof, request, wants);
        }
    }

    fn ask_headers(&mut self, now: Time, wants: &mut Wants) {
        let missing = self.epochs_proven().0.saturating_sub(self.progress.next_epoch.0);
        let asked = self.asked.values().any(|(_, asked)| *asked == Asked::Headers);
        if missing == 0 || asked || !self.has_proof(now) {
            return;
        }
        let last = Height(self.epochs_proven().0 * self.rules.params.epoch_length);
        let Some(peer) = self.peers.pick(now, last, |_| false) else {
            return;
        };
        let request = Request::ClosingHeaders {
            from: self.progress.next_epoch,
            max_count: u32::try_from(missing).unwrap_or(u32::MAX).min(MAX_HEADERS_PER_REQUEST),
        };
        self.put(peer, Asked::Headers, request, wants);
    }
}

/// The first closing header that is asked for.
fn first_epoch(rules: &Rules) -> Epoch {
    let checkpoint = rules.checkpoint.map(|checkpoint| checkpoint.height);
    checkpoint.map_or(Epoch(0), |height| height.epoch(rules.params.epoch_length))
}

fn all_buckets() -> impl Iterator<Item = u16> {
    0..crate::ledger::UTXO_BUCKETS as u16
}
