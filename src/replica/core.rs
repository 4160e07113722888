//! What a shell runs: the replica, or, while the state is not there, the sync that fetches it; one turns into the other
//! and back without a restart.
//!
//! ```text
//!            far behind with an empty store,
//!            or nobody keeps the blocks that are missing,
//!            and a peer has shown a block to prove it
//!    live  ──────────────────────────────────────────────►  syncing
//!   replica                                                StateSync
//!          ◄──────────────────────────────────────────────
//!            the state is whole; blocks from there on
//! ```
//!
//! While it syncs, a node votes on nothing, admits nothing, and answers no questions. What it has said before is kept and
//! handed to the replica that follows.

use super::{
    Answer, Effects, Event, GossipId, Input, Message, OpenError, Payments, Records, Replica, Reply, RequestId,
    SafetyRecord, Send, Setup, Snapshot, Verdict,
    stats::{Counters, PoolStats},
};
use crate::{
    ledger::{StateView, ViewError, Write},
    pool::PoolError,
    primitives::{Amount, Epoch, Fault, Height, PeerId, Phase, Request, Response, Round, Time},
    sync::{
        self, StateSync,
        coins::{self, Rules},
        serve,
    },
};
use std::{collections::BTreeMap, sync::Arc};

/// How long a peer that did not prove how far ahead it is is not asked to again.
const DOUBT_MS: u64 = 60_000;
/// How long blocks are not asked for, in all, because somebody claims to be so far ahead that the state is to be fetched.
/// Each peer may take its time to prove it, but many together must not keep a new node from the history for ever.
const MAX_HOLD_MS: u64 = 20_000;
/// Numbers of questions that one replica, or one sync, has for itself.
const QUESTIONS: u64 = 1 << 40;

/// Numbers of questions for proofs begin here, above all others.
const PROOFS: u64 = 1 << 62;

enum Now {
    Live(Box<Replica>),
    Syncing(Box<Syncing>),
}

impl Now {
    fn syncing(sync: StateSync, records: Records) -> Self {
        Self::Syncing(Box::new(Syncing {
            sync,
            records,
            finished: false,
        }))
    }
}

/// A state sync, and what it keeps for the replica after it.
struct Syncing {
    sync: StateSync,
    records: Records,
    /// The last write made the state whole.
    finished: bool,
}

/// The replica or the sync before it.
pub struct Core {
    setup: Setup,
    config: sync::Config,
    now: Now,
    payments: Arc<Payments>,
    /// Whoever is connected, and the last height that it has claimed.
    peers: BTreeMap<PeerId, Height>,
    /// Questions for blocks that prove how far ahead a peer is.
    proofs: BTreeMap<RequestId, PeerId>,
    next_proof_id: u64,
    /// Peers that did not prove what they claim, and until when that is held against them.
    doubted: BTreeMap<PeerId, Time>,
    /// Since when blocks are held back for the state, at the first time.
    held_since: Option<Time>,
    /// Counts replicas and syncs: each has its own numbers for questions.
    lives: u64,
    /// The store held nothing but the genesis when this process began.
    empty: bool,
    synced: u64,
}

impl Core {
    /// Opens the replica over a committed state and what was remembered, or goes on with the sync that was stopped. The
    /// effects are those of a first turn.
    pub fn open(
        setup: Setup,
        config: sync::Config,
        view: &dyn StateView,
        records: Records,
        now: Time,
    ) -> Result<(Self, Effects), OpenError> {
        check_checkpoint(&setup, &config)?;
        let payments = Arc::new(Payments::default());
        let (state, empty, effects) = match view.sync_progress()? {
            Some(progress) => {
                let sync = StateSync::resume(rules(&setup, &config), &progress, QUESTIONS);
                let sync = sync.map_err(|error| OpenError::Sync(error.to_string()))?;
                (Now::syncing(sync, records), false, Effects::default())
            }
            None => {
                let empty = view.tip()?.height == Height(0);
                let opened = Replica::open_as(setup.clone(), payments.clone(), QUESTIONS, view, records, now)?;
                (Now::Live(Box::new(opened.0)), empty, opened.1)
            }
        };
        let core = Self {
            setup,
            config,
            now: state,
            payments,
            peers: BTreeMap::new(),
            proofs: BTreeMap::new(),
            next_proof_id: PROOFS,
            doubted: BTreeMap::new(),
            held_since: None,
            lives: 1,
            empty,
            synced: 0,
        };
        Ok((core, effects))
    }

    /// Takes one input. A `write` in the effects must be applied before the next call: it leads to at most one.
    pub fn handle(
        &mut self,
        now: Time,
        view: &dyn StateView,
        input: Input,
        effects: &mut Effects,
    ) -> Result<(), ViewError> {
        self.note(&input);
        let input = match input {
            Input::Request { ticket, request, .. } if serve::is_for_store(&request) => {
                let response = serve::answer(view, &request)?;
                effects.send.push(Send::Answer { ticket, response });
                Input::Tick
            }
            other => other,
        };
        match &mut self.now {
            Now::Syncing(syncing) if syncing.finished => {
                self.go_live(now, view, effects)?;
                self.handle_live(now, view, input, effects)
            }
            Now::Syncing(_) => self.handle_syncing(now, view, input, effects),
            Now::Live(_) => self.handle_live(now, view, input, effects),
        }
    }

    /// Remembers who is there and what they claim, whoever takes the input.
    fn note(&mut self, input: &Input) {
        match input {
            Input::PeerUp(peer) => drop(self.peers.entry(*peer).or_default()),
            Input::PeerDown(peer) => {
                self.peers.remove(peer);
                self.doubted.remove(peer);
            }
            Input::Gossip {
                from,
                message: Message::Status(status),
                ..
            } => {
                if let Some(claim) = self.peers.get_mut(from) {
                    *claim = status.height;
                }
            }
            _ => {}
        }
    }

    /// Ends a turn of one or more inputs.
    pub fn finish_turn(&mut self, effects: &mut Effects) {
        if let Now::Live(replica) = &mut self.now {
            replica.finish_turn(effects);
        }
    }

    /// When to call with [`Input::Tick`]; in the past: at once.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        match &self.now {
            Now::Live(replica) => replica.deadline(now),
            Now::Syncing(syncing) if syncing.finished => Some(Time(0)),
            Now::Syncing(syncing) => syncing.sync.deadline(now),
        }
    }

    /// Payments for readers outside the loop.
    pub fn payments(&self) -> Arc<Payments> {
        self.payments.clone()
    }

    /// Where it stands.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = match &self.now {
            Now::Live(replica) => replica.snapshot(),
            Now::Syncing(syncing) => self.snapshot_of(&syncing.sync),
        };
        snapshot.counters.state_syncs = self.synced;
        snapshot
    }

    fn snapshot_of(&self, sync: &StateSync) -> Snapshot {
        let status = sync.status();
        let silent_reason = format!(
            "fetching the state: {}, {} of 1024 buckets of coins, blocks up to {} of {}",
            status.phase, status.buckets, status.blocks_to, status.target
        );
        let genesis = &self.setup.genesis;
        Snapshot {
            height: Height(0),
            block: crate::primitives::BlockId(self.setup.electorate.chain.0),
            block_time: genesis.time,
            supply: Amount::ZERO,
            epoch: Epoch(0),
            round: Round(0),
            phase: Phase::Propose,
            validator: self.setup.own.and_then(|own| genesis.validators.index_of(&own)),
            voting: false,
            silent_reason,
            claimed_height: sync.claimed(),
            catching_up: true,
            sync: Some(status),
            peers: self.peers.len(),
            pool: PoolStats::default(),
            counters: Counters::default(),
        }
    }

    /// Everything that a trimmed safety log must still hold. `None` while the state is synced: nothing may go then.
    pub fn live_records(&self) -> Option<Vec<SafetyRecord>> {
        match &self.now {
            Now::Live(replica) => Some(replica.live_records()),
            Now::Syncing(_) => None,
        }
    }

    // ---- live ---------------------------------------------------------------------------------------------------

    fn handle_live(
        &mut self,
        now: Time,
        view: &dyn StateView,
        input: Input,
        effects: &mut Effects,
    ) -> Result<(), ViewError> {
        let input = match input {
            Input::Response {
                from, request, answer, ..
            } if self.proofs.remove(&request).is_some() => {
                if self.is_proven(&answer) {
                    self.begin_sync(effects);
                    return Ok(());
                }
                self.doubted.insert(from, now.plus_ms(DOUBT_MS));
                Input::Tick
            }
            other => other,
        };
        let input = self.hold_to_checkpoint(input, effects);
        // Blocks that the state would make superfluous are not asked for while somebody may still show it.
        let hold = self.far_ahead(now).next().is_some() && self.may_hold(now);
        let Now::Live(replica) = &mut self.now else {
            return Ok(());
        };
        replica.hold_blocks(hold);
        replica.handle(now, view, input, effects)?;
        self.ask_for_proof(now, effects);
        Ok(())
    }

    fn may_hold(&mut self, now: Time) -> bool {
        let since = *self.held_since.get_or_insert(now);
        now < since.plus_ms(MAX_HOLD_MS)
    }

    /// Nothing is taken from whoever has another block than the checkpoint's.
    fn hold_to_checkpoint(&self, input: Input, effects: &mut Effects) -> Input {
        let (Some(checkpoint), Input::Response { from, request, answer }) = (self.config.checkpoint, &input) else {
            return input;
        };
        let Some(Answer::Blocks { blocks, .. }) = answer else {
            return input;
        };
        let chain = &self.setup.electorate.chain;
        let ids = blocks.iter().map(|(block, _)| &block.block.header);
        let other = ids.filter(|header| header.height == checkpoint.height);
        let Some(other) = other.map(|header| header.id(chain)).find(|id| *id != checkpoint.block) else {
            return input;
        };
        let reason = format!(
            "block {} is {other} there, but the checkpoint says {}",
            checkpoint.height, checkpoint.block
        );
        effects.faults.push((*from, Fault::Hostile, reason));
        Input::Response {
            from: *from,
            request: *request,
            answer: None,
        }
    }

    /// How far ahead a peer must be for the state to be fetched; `None`: it is not, however far.
    fn least_ahead(&self) -> Option<Height> {
        let Now::Live(replica) = &self.now else { return None };
        let tip = replica.height();
        if self.config.mode == sync::Mode::Blocks {
            return None;
        }
        if replica.lacks_blocks() {
            return Some(tip.next());
        }
        let empty = self.empty && tip.0 <= self.config.behind_blocks;
        empty.then(|| Height(tip.0.saturating_add(self.config.behind_blocks)))
    }

    /// Who claims to be so far ahead, and has not lately failed to show it.
    fn far_ahead(&self, now: Time) -> impl Iterator<Item = (PeerId, Height)> {
        let least = self.least_ahead();
        self.peers
            .iter()
            .map(|(peer, claim)| (*peer, *claim))
            .filter(move |(peer, claim)| {
                let doubted = self.doubted.get(peer).is_some_and(|until| *until > now);
                least.is_some_and(|least| *claim > least) && !doubted
            })
    }

    /// A height is a claim until its block is shown, and the store is not given up for a claim.
    fn ask_for_proof(&mut self, now: Time, effects: &mut Effects) {
        let ahead: Vec<(PeerId, Height)> = self.far_ahead(now).collect();
        for (peer, claim) in ahead {
            if self.proofs.values().any(|asked| *asked == peer) {
                continue;
            }
            let id = RequestId(self.next_proof_id);
            self.next_proof_id += 1;
            self.proofs.insert(id, peer);
            let request = Request::Blocks {
                from: claim,
                max_count: 1,
            };
            effects.send.push(Send::Ask { peer, id, request });
        }
    }

    fn is_proven(&self, answer: &Option<Answer>) -> bool {
        let Some(Answer::Blocks { blocks, .. }) = answer else {
            return false;
        };
        let shown = blocks.last().map(|(block, _)| block.block.header.height);
        shown
            .zip(self.least_ahead())
            .is_some_and(|(shown, least)| shown > least)
    }

    fn begin_sync(&mut self, effects: &mut Effects) {
        let records = self.live_records().unwrap_or_default();
        self.lives += 1;
        self.proofs.clear();
        self.held_since = None;
        let sync = StateSync::new(rules(&self.setup, &self.config), self.lives * QUESTIONS);
        self.now = Now::syncing(sync, Records::Kept(records));
        let Now::Syncing(syncing) = &mut self.now else { return };
        for (peer, claim) in &self.peers {
            syncing.sync.on_claim(*peer, *claim);
        }
        self.payments.clear();
        if self.setup.own.is_some() {
            effects.events.push(Event::Voting {
                votes: false,
                reason: "far behind the chain: the state is fetched from peers".to_owned(),
            });
        }
    }

    // ---- syncing ------------------------------------------------------------------------------------------------

    fn handle_syncing(
        &mut self,
        now: Time,
        view: &dyn StateView,
        input: Input,
        effects: &mut Effects,
    ) -> Result<(), ViewError> {
        let Now::Syncing(syncing) = &mut self.now else {
            return Ok(());
        };
        match input {
            Input::Gossip { from, id, message } => {
                ignore(id, effects);
                if let Message::Status(status) = message {
                    syncing.sync.on_claim(from, status.height);
                }
            }
            Input::Submit { ticket, .. } => effects.replies.push(Reply {
                ticket,
                result: Err(PoolError::Syncing),
            }),
            Input::Request { ticket, .. } => effects.send.push(Send::Answer {
                ticket,
                response: Response::Refused("this node is syncing its state itself".to_owned()),
            }),
            Input::Response { from, request, answer } => {
                syncing.sync.on_answer(from, request.0, translate(answer));
            }
            Input::PeerDown(peer) => syncing.sync.on_peer_down(peer),
            Input::PeerUp(_) | Input::Own(_) | Input::Flushed(_) | Input::Tick => {}
        }
        let wants = syncing.sync.step(now, view)?;
        syncing.finished = syncing.sync.is_done();
        effects.write = wants.write.map(Write::State);
        effects.faults.extend(wants.faults);
        effects.events.extend(wants.notes.into_iter().map(Event::Trouble));
        effects
            .send
            .extend(wants.ask.into_iter().map(|(id, peer, request)| Send::Ask {
                peer,
                id: RequestId(id),
                request,
            }));
        Ok(())
    }

    /// The state is whole: a replica opens over it, with what was said before.
    fn go_live(&mut self, now: Time, view: &dyn StateView, effects: &mut Effects) -> Result<(), ViewError> {
        let Now::Syncing(syncing) = &mut self.now else {
            return Ok(());
        };
        let records = std::mem::replace(&mut syncing.records, Records::Kept(Vec::new()));
        let epoch = view.tip()?.height.next().epoch(self.setup.genesis.params.epoch_length);
        let records = after_sync(records, epoch, effects);
        self.lives += 1;
        self.synced += 1;
        self.empty = false;
        let first = self.lives * QUESTIONS;
        let opened = Replica::open_as(self.setup.clone(), self.payments.clone(), first, view, records, now);
        let (mut replica, first) = opened.map_err(|error| ViewError(format!("after the state sync: {error}")))?;
        effects.append(first);
        for (peer, claim) in &self.peers {
            replica.on_peer(now, *peer, *claim);
        }
        self.now = Now::Live(Box::new(replica));
        let tip = view.tip()?;
        effects.events.push(Event::Synced {
            height: tip.height,
            block: tip.block,
        });
        Ok(())
    }
}

/// What was said before a state sync, for the replica after it. Bodies of earlier epochs' payments bind nobody any more.
/// Whoever was silent because its memory was lost may have signed in the epoch that it has just reached.
fn after_sync(records: Records, epoch: Epoch, effects: &mut Effects) -> Records {
    let Records::Kept(mut records) = records else {
        return records;
    };
    let speaks = records
        .iter()
        .any(|record| matches!(record, SafetyRecord::Votes(batch) if batch.epoch >= epoch));
    if !speaks {
        records.retain(|record| !matches!(record, SafetyRecord::Transaction(_)));
    }
    if records.iter().any(|record| matches!(record, SafetyRecord::Silent(_))) {
        records.push(SafetyRecord::Silent(epoch));
        effects.remember.push(SafetyRecord::Silent(epoch));
    }
    Records::Kept(records)
}

/// Trust begins where an epoch ends.
fn check_checkpoint(setup: &Setup, config: &sync::Config) -> Result<(), OpenError> {
    let length = setup.genesis.params.epoch_length;
    match config.checkpoint {
        Some(checkpoint) if !checkpoint.height.closes_epoch(length) => Err(OpenError::Checkpoint {
            found: checkpoint.height,
            epoch_length: length,
        }),
        _ => Ok(()),
    }
}

fn rules(setup: &Setup, config: &sync::Config) -> Rules {
    Rules {
        checkpoint: config.checkpoint,
        bucket_coins: config.bucket_coins,
        ..Rules::new(&setup.genesis, setup.electorate.clone())
    }
}

fn ignore(id: GossipId, effects: &mut Effects) {
    effects.verdicts.push((id, Verdict::Ignore));
}

fn translate(answer: Option<Answer>) -> coins::Answer {
    match answer {
        Some(Answer::Blocks { blocks, tip }) => coins::Answer::Blocks(blocks, tip),
        Some(Answer::Coins(page)) => coins::Answer::Coins(page),
        Some(Answer::Digests { height, digests }) => coins::Answer::Digests(height, digests),
        Some(Answer::ClosingHeaders(headers)) => coins::Answer::Headers(headers),
        Some(Answer::Pruned(from)) => coins::Answer::Pruned(from),
        _ => coins::Answer::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pool,
        primitives::{Genesis, LockHash, Params, SecretKey, Status, Validator, ValidatorSet, message::Electorate},
        store::{ledger_store::LedgerStore, memory::MemoryBackend},
    };

    /// A node that is no validator, with nothing but the genesis.
    fn newcomer() -> (Core, LedgerStore) {
        let validator = Validator {
            public_key: SecretKey::from_seed([1; 32]).public(),
            power: 1,
            payout: LockHash([9; 32]),
        };
        let genesis = Genesis {
            network: "ltime".into(),
            time: Time(1_000),
            params: Params::default(),
            validators: ValidatorSet::new(vec![validator]).expect("one validator"),
            coins: vec![],
        };
        let store = LedgerStore::open(Arc::new(MemoryBackend::new()), &genesis).expect("opens");
        let set = Arc::new(genesis.validators.clone());
        let setup = Setup {
            electorate: Electorate::new(genesis.chain_id(), genesis.params.epoch_length, set),
            genesis: Arc::new(genesis),
            own: None,
            pool: pool::Config::default(),
            seed: 1,
        };
        let records = Records::Kept(vec![]);
        let (core, _) = Core::open(setup, sync::Config::default(), &store, records, Time(1_000)).expect("opens");
        (core, store)
    }

    /// Heights at which blocks are asked for, and how many.
    fn asked(core: &mut Core, store: &LedgerStore, now: u64, input: Input) -> Vec<(u64, u32)> {
        let mut effects = Effects::default();
        core.handle(Time(now), store, input, &mut effects).expect("readable");
        let blocks = |send: &Send| match send {
            Send::Ask {
                request: Request::Blocks { from, max_count },
                ..
            } => Some((from.0, *max_count)),
            _ => None,
        };
        effects.send.iter().filter_map(blocks).collect()
    }

    fn status(peer: PeerId, height: u64) -> Input {
        let status = Status {
            height: Height(height),
            ..Status::default()
        };
        Input::Gossip {
            from: peer,
            id: GossipId(height),
            message: Message::Status(status),
        }
    }

    #[test]
    fn claims_that_nobody_proves_hold_blocks_back_for_a_while_in_all() {
        let (mut core, store) = newcomer();
        let honest = PeerId(1_000);
        assert!(asked(&mut core, &store, 1_000, Input::PeerUp(honest)).is_empty());
        let mut first = None;
        // One identity after the other claims what it does not show.
        for number in 0..12 {
            let (now, liar) = (2_000 + 5_000 * number, PeerId(number));
            let mut requests = asked(&mut core, &store, now, Input::PeerUp(liar));
            requests.extend(asked(&mut core, &store, now, status(liar, 1_000_000 + number)));
            requests.extend(asked(&mut core, &store, now + 100, status(honest, 500)));
            assert!(
                requests.contains(&(1_000_000 + number, 1)),
                "it may still prove what it claims: {requests:?}"
            );
            if requests.iter().any(|(from, _)| *from == 1) {
                first = first.or(Some(now));
            }
        }
        assert_eq!(
            first,
            Some(2_000 + MAX_HOLD_MS),
            "then the history is fetched all the same"
        );
    }
}
