//! Validators that the adversary runs. A liar is a real replica whose words are twisted on the way out: it may sign
//! whatever its own key can sign, and send something else to everybody. It sees all transactions.

use super::{book::Book, random::Random};
use crate::primitives::{
    Amount, BlockId, BlockVote, ChainId, Coin, CoinPage, Epoch, EpochSeal, Gossip, Height, LockHash, OutPoint, Output,
    Proposal, Request, Response, Round, Signature, Status, TxId, ValidatorIndex, ViewChange, Vote, VoteBatch, VoteKind,
    keys::KeySigner, vote::Phase,
};
use std::collections::{BTreeMap, VecDeque};

/// What a liar does, each thing with some luck, every time that it could.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vices {
    /// Two proposals for a round, votes for every block that it hears of, claims of prepared blocks left out.
    pub two_blocks: bool,
    /// Votes for everything that has a rival; other votes under the same sequence for each peer; wrong seals.
    pub two_payments: bool,
    /// Of a thousand messages, so many are withheld from a peer.
    pub withhold_per_mille: u64,
    /// Wrong, empty or no answers.
    pub false_answers: bool,
    /// Old messages again.
    pub replay: bool,
    /// Garbage, and junk with right signatures.
    pub junk: bool,
    /// What newcomers are told of the state.
    pub state: Option<StateLie>,
}

/// Lies about the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateLie {
    /// A coin of another value.
    Wrong,
    /// A coin left out.
    Missing,
    /// A coin that does not exist.
    Invented,
    /// Pages from long ago, as if they were new.
    Stale,
    /// Pages that never end.
    Endless,
    /// Coins that were not asked for.
    Outside,
    /// Digests of something else.
    Digests,
    /// No answer at all.
    Silence,
    /// Closing headers of other epochs.
    Headers,
}

impl StateLie {
    const ALL: [Self; 9] = [
        Self::Wrong,
        Self::Missing,
        Self::Invented,
        Self::Stale,
        Self::Endless,
        Self::Outside,
        Self::Digests,
        Self::Silence,
        Self::Headers,
    ];
}

impl Vices {
    /// Lies about blocks.
    pub fn blocks(random: &mut Random) -> Self {
        Self {
            two_blocks: true,
            withhold_per_mille: random.below(2) * 200,
            false_answers: random.chance(500),
            ..Self::default()
        }
    }

    /// Lies about payments.
    pub fn payments(random: &mut Random) -> Self {
        Self {
            two_payments: true,
            withhold_per_mille: random.below(2) * 200,
            false_answers: random.chance(500),
            ..Self::default()
        }
    }

    /// Says less than it should, or nothing.
    pub fn silence(random: &mut Random) -> Self {
        Self {
            withhold_per_mille: *random.pick(&[300, 700, 1000]).unwrap_or(&1000),
            false_answers: random.chance(300),
            ..Self::default()
        }
    }

    /// Says more than it should.
    pub fn flood() -> Self {
        Self {
            junk: true,
            replay: true,
            ..Self::default()
        }
    }

    /// Lies about the state.
    pub fn state(random: &mut Random) -> Self {
        Self {
            state: random.pick(&StateLie::ALL).copied(),
            ..Self::default()
        }
    }

    /// Any of them, in any mixture.
    pub fn any(random: &mut Random) -> Self {
        Self {
            two_blocks: random.chance(600),
            two_payments: random.chance(600),
            withhold_per_mille: *random.pick(&[0, 0, 100, 500]).unwrap_or(&0),
            false_answers: random.chance(300),
            replay: random.chance(200),
            junk: random.chance(200),
            state: None,
        }
    }
}

/// Messages kept for later: for replaying.
const MEMORY: usize = 100;

/// One liar.
pub struct Liar {
    vices: Vices,
    index: ValidatorIndex,
    chain: ChainId,
    key: KeySigner,
    random: Random,
    /// By epoch and peer: the sequence that its next batch of votes gets there.
    sequences: BTreeMap<(Epoch, usize), u64>,
    heard: VecDeque<Vec<u8>>,
    /// Pages as they were when they were asked for first.
    pages: BTreeMap<(Vec<u8>, bool), CoinPage>,
    height: Height,
    epoch: Epoch,
}

/// Bytes for one peer.
pub type Whisper = (usize, Vec<u8>);

impl Liar {
    /// A liar with its own key and its own luck.
    pub fn new(vices: Vices, index: ValidatorIndex, chain: ChainId, key: KeySigner, seed: u64) -> Self {
        Self {
            vices,
            index,
            chain,
            key,
            random: Random::new(seed, &format!("liar {index}")),
            sequences: BTreeMap::new(),
            heard: VecDeque::new(),
            pages: BTreeMap::new(),
            height: Height(0),
            epoch: Epoch(0),
        }
    }

    /// What a peer gets to hear in place of an honest message.
    pub fn speak(&mut self, to: usize, honest: &Gossip, book: &Book) -> Vec<Vec<u8>> {
        if self.random.chance(self.vices.withhold_per_mille) {
            return Vec::new();
        }
        match honest {
            Gossip::Votes(batch) if self.vices.two_payments => self.other_votes(to, batch, book),
            Gossip::Seal(seal) if self.vices.two_payments => vec![self.other_seal(seal).encode()],
            Gossip::Proposal(proposal) if self.vices.two_blocks => self.other_proposal(to, proposal),
            Gossip::ViewChange(change) if self.vices.two_blocks => vec![self.other_view_change(change).encode()],
            _ => vec![honest.encode()],
        }
    }

    /// What it says because of something heard.
    pub fn hear(&mut self, heard: &[u8], book: &Book, peers: usize) -> Vec<Whisper> {
        if self.vices.replay && self.random.chance(200) {
            self.heard.push_back(heard.to_vec());
            if self.heard.len() > MEMORY {
                self.heard.pop_front();
            }
        }
        match Gossip::decode(heard) {
            Ok(Gossip::Proposal(proposal)) => {
                let block = proposal.block_id(&self.chain);
                self.height = self.height.max(proposal.height);
                self.epoch = proposal.header.epoch;
                self.vote_for(proposal.height, proposal.round, block, peers)
            }
            Ok(Gossip::BlockVote(vote)) => self.vote_for(vote.height, vote.round, vote.block, peers),
            Ok(Gossip::Votes(batch)) if self.vices.two_payments => {
                self.epoch = batch.epoch;
                self.vote_for_all(&batch, book, peers)
            }
            _ => Vec::new(),
        }
    }

    /// Prepare and Commit for a block, to some.
    fn vote_for(&mut self, height: Height, round: Round, block: BlockId, peers: usize) -> Vec<Whisper> {
        if !self.vices.two_blocks || !self.random.chance(300) {
            return Vec::new();
        }
        let mut whispers = Vec::new();
        for phase in [Phase::Prepare, Phase::Commit] {
            let vote = self.block_vote(height, round, phase, block).encode();
            for to in 0..peers {
                if self.random.chance(500) {
                    whispers.push((to, vote.clone()));
                }
            }
        }
        whispers
    }

    fn block_vote(&self, height: Height, round: Round, phase: Phase, block: BlockId) -> Gossip {
        let mut vote = BlockVote {
            height,
            round,
            phase,
            block,
            validator: self.index,
            signature: Signature([0; 64]),
        };
        vote.signature = self.key.sign(&vote.digest(&self.chain));
        Gossip::BlockVote(vote)
    }

    /// A second valid block for the same round: a millisecond later.
    fn other_proposal(&mut self, to: usize, honest: &Proposal) -> Vec<Vec<u8>> {
        let mut other = honest.clone();
        other.header.time = honest.header.time.plus_ms(1);
        other.signature = self.key.sign(&other.digest(&self.chain));
        let (first, second) = (
            Gossip::Proposal(Box::new(honest.clone())).encode(),
            Gossip::Proposal(Box::new(other)).encode(),
        );
        match (to.is_multiple_of(2), self.random.below(5)) {
            (_, 0) => vec![first, second],
            (true, _) => vec![first],
            (false, _) => vec![second],
        }
    }

    /// The same view change, as if nothing had been prepared.
    fn other_view_change(&mut self, honest: &ViewChange) -> Gossip {
        let mut other = honest.clone();
        if self.random.chance(500) {
            other.prepared = None;
            other.certificate = None;
            other.signature = self.key.sign(&other.digest(&self.chain));
        }
        Gossip::ViewChange(other)
    }

    /// A seal that lists something else.
    fn other_seal(&mut self, honest: &EpochSeal) -> Gossip {
        let mut other = honest.clone();
        match self.random.below(3) {
            0 => other.txids.clear(),
            1 => other.txids.push(TxId(self.random.bytes())),
            _ => {}
        }
        other.txids.sort_unstable();
        other.signature = self.key.sign(&other.digest(&self.chain));
        Gossip::Seal(other)
    }

    fn signed_votes(&mut self, to: usize, epoch: Epoch, height: Height, votes: Vec<Vote>) -> Vec<u8> {
        let sequence = self.sequences.entry((epoch, to)).or_default();
        let mut batch = VoteBatch {
            epoch,
            validator: self.index,
            sequence: *sequence,
            height,
            votes,
            signature: Signature([0; 64]),
        };
        *sequence += 1;
        batch.signature = self.key.sign(&batch.head().digest(&self.chain));
        Gossip::Votes(batch).encode()
    }

    /// Other votes for each peer, under one sequence.
    fn other_votes(&mut self, to: usize, honest: &VoteBatch, book: &Book) -> Vec<Vec<u8>> {
        let mut votes: Vec<Vote> = Vec::new();
        for vote in &honest.votes {
            let rivals: Vec<TxId> = book.rivals(&vote.txid).into_iter().collect();
            let txid = match self.random.pick(&rivals) {
                Some(rival) if self.random.chance(600) => *rival,
                _ => vote.txid,
            };
            let kind = if self.random.chance(700) {
                vote.kind
            } else {
                self.any_kind()
            };
            votes.push(Vote { kind, txid });
        }
        vec![self.signed_votes(to, honest.epoch, honest.height, votes)]
    }

    fn any_kind(&mut self) -> VoteKind {
        *self
            .random
            .pick(&[VoteKind::Lock, VoteKind::Final, VoteKind::Abandon])
            .unwrap_or(&VoteKind::Lock)
    }

    /// Every vote there is, for what others vote on, when it has a rival.
    fn vote_for_all(&mut self, heard: &VoteBatch, book: &Book, peers: usize) -> Vec<Whisper> {
        let mut contested: Vec<TxId> = Vec::new();
        for vote in &heard.votes {
            let rivals = book.rivals(&vote.txid);
            if !rivals.is_empty() {
                contested.push(vote.txid);
                contested.extend(rivals);
            }
        }
        contested.truncate(20);
        let mut whispers = Vec::new();
        for to in 0..peers {
            if contested.is_empty() || !self.random.chance(300) {
                continue;
            }
            let mut votes: Vec<Vote> = Vec::new();
            for txid in &contested {
                if self.random.chance(500) {
                    let kind = self.any_kind();
                    votes.push(Vote { kind, txid: *txid });
                }
            }
            if !votes.is_empty() {
                let bytes = self.signed_votes(to, heard.epoch, heard.height, votes);
                whispers.push((to, bytes));
            }
        }
        whispers
    }

    /// What it answers; `None`: nothing.
    pub fn answer(&mut self, request: &Request, honest: Response) -> Option<Response> {
        if let Some(lie) = self.vices.state {
            return self.lie_about_state(lie, request, honest);
        }
        if self.random.chance(self.vices.withhold_per_mille) {
            return None;
        }
        if !self.vices.false_answers || self.random.chance(300) {
            return Some(honest);
        }
        match self.random.below(5) {
            0 => None,
            1 => Some(Response::Refused("no".to_owned())),
            2 => Some(Response::Transactions(Vec::new())),
            3 => Some(match honest {
                Response::Blocks { mut blocks, .. } => {
                    if let Some(block) = blocks.first_mut() {
                        block.block.transactions.pop();
                    }
                    let tip = Height(u64::MAX);
                    Response::Blocks { blocks, tip }
                }
                Response::Transactions(mut all) => {
                    all.reverse();
                    Response::Transactions(all)
                }
                Response::Votes(mut batches) => {
                    batches.truncate(1);
                    Response::Votes(batches)
                }
                other => other,
            }),
            _ => Some(match request {
                Request::Blocks { .. } => Response::Blocks {
                    blocks: Vec::new(),
                    tip: Height(self.random.below(1_000_000)),
                },
                Request::Transactions(_) => Response::Transactions(Vec::new()),
                Request::Votes { .. } => Response::Votes(Vec::new()),
                Request::Certificates { .. } => Response::Certificates(Vec::new()),
                Request::Proposal { .. } => Response::Refused("none".to_owned()),
                Request::Coins { .. } | Request::Digests | Request::ClosingHeaders { .. } => honest,
            }),
        }
    }

    fn lie_about_state(&mut self, lie: StateLie, request: &Request, honest: Response) -> Option<Response> {
        let state = matches!(
            request,
            Request::Coins { .. } | Request::Digests | Request::ClosingHeaders { .. }
        );
        match (lie, honest) {
            (StateLie::Silence, _) if state => None,
            (StateLie::Digests, Response::Digests { height, mut digests }) => {
                digests.swap(0, 1);
                digests[2] = digests[3];
                digests[7].0[0] ^= 1;
                Some(Response::Digests { height, digests })
            }
            (StateLie::Headers, Response::ClosingHeaders(mut headers)) => {
                headers.reverse();
                headers.truncate(1);
                Some(Response::ClosingHeaders(headers))
            }
            (_, Response::Coins(page)) => Some(Response::Coins(self.other_page(lie, request, page))),
            (_, honest) => Some(honest),
        }
    }

    fn other_page(&mut self, lie: StateLie, request: &Request, mut page: CoinPage) -> CoinPage {
        let Request::Coins { cursor, .. } = request else {
            return page;
        };
        match lie {
            StateLie::Wrong => {
                if let Some((_, coin)) = page.entries.first_mut() {
                    coin.output.value.0 ^= 1;
                }
            }
            StateLie::Missing => drop(page.entries.pop()),
            StateLie::Invented if self.random.chance(500) => {
                if let Some((mut outpoint, coin)) = page.entries.last().copied() {
                    outpoint.index = outpoint.index.saturating_add(7).min(u32::MAX - 1);
                    if !coin.is_rejection() {
                        page.entries.push((outpoint, coin));
                    }
                }
            }
            StateLie::Stale => {
                // What it said first about a range it says for ever.
                let key = (cursor.clone(), page.more);
                let height = page.height;
                page = self.pages.entry(key).or_insert(page).clone();
                page.height = height;
            }
            StateLie::Endless => {
                let mut txid = [0xff; 32];
                let length = cursor.len().min(32);
                txid[..length].copy_from_slice(&cursor[..length]);
                if cursor.len() <= 2 {
                    txid[2..].fill(0);
                }
                let index = cursor.get(32..36).map_or(0, |index| {
                    index.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte))
                });
                page.entries = (1..=10)
                    .map(|step| {
                        let outpoint = OutPoint {
                            txid: TxId(txid),
                            index: index + step,
                        };
                        let output = Output {
                            value: Amount(5),
                            lock: LockHash([3; 32]),
                        };
                        let height = Height(1);
                        (outpoint, Coin { output, height })
                    })
                    .collect();
                page.more = true;
            }
            StateLie::Outside => {
                let outpoint = OutPoint {
                    txid: TxId([0; 32]),
                    index: 0,
                };
                let output = Output {
                    value: Amount(5),
                    lock: LockHash([3; 32]),
                };
                let height = Height(1);
                page.entries.insert(0, (outpoint, Coin { output, height }));
            }
            _ => {}
        }
        page.more &= !page.entries.is_empty();
        page
    }

    /// What it sends unasked, called every now and then.
    pub fn idle(&mut self, peers: usize) -> Vec<Whisper> {
        let mut whispers = Vec::new();
        if self.vices.replay
            && let Some(old) = self.random.pick(&self.heard.iter().cloned().collect::<Vec<_>>())
        {
            whispers.push((self.random.index(peers), old.clone()));
        }
        if self.vices.junk {
            for _ in 0..self.random.between(1, 3) {
                let junk = self.junk();
                whispers.push((self.random.index(peers), junk));
            }
        }
        whispers
    }

    fn junk(&mut self) -> Vec<u8> {
        let (height, round) = (
            Height(
                self.height
                    .0
                    .saturating_add(*self.random.pick(&[0, 1, 2, 50, 1 << 40]).unwrap_or(&0)),
            ),
            Round(*self.random.pick(&[0, 1, 7, 1_000_000, u32::MAX]).unwrap_or(&0)),
        );
        let block = BlockId(self.random.bytes());
        match self.random.below(7) {
            0 => self.random.bytes::<200>().to_vec(),
            1 => self.block_vote(height, round, Phase::Prepare, block).encode(),
            2 => self.block_vote(height, round, Phase::Commit, block).encode(),
            3 => {
                let votes = (0..50)
                    .map(|_| Vote {
                        kind: self.any_kind(),
                        txid: TxId(self.random.bytes()),
                    })
                    .collect();
                let (to, epoch) = (self.random.index(4), self.epoch);
                let height = self.height;
                self.signed_votes(to, epoch, height, votes)
            }
            4 => {
                let mut change = ViewChange {
                    height,
                    round: round.next(),
                    prepared: None,
                    certificate: None,
                    validator: self.index,
                    signature: Signature([0; 64]),
                };
                change.signature = self.key.sign(&change.digest(&self.chain));
                Gossip::ViewChange(change).encode()
            }
            5 => Gossip::Status(Status {
                height: Height(self.random.number()),
                round,
                epoch: Epoch(self.random.number()),
                sequences: vec![u64::MAX; 4],
            })
            .encode(),
            _ => {
                let mut seal = EpochSeal {
                    epoch: Epoch(self.epoch.0 + self.random.below(3)),
                    validator: self.index,
                    txids: vec![TxId(self.random.bytes())],
                    signature: Signature([0; 64]),
                };
                seal.signature = self.key.sign(&seal.digest(&self.chain));
                Gossip::Seal(seal).encode()
            }
        }
    }
}
