//! The loop: the shell's half of the contract with the replica, on a thread of its own.
//!
//! A turn takes what waits in the inbox, or a tick when the replica's deadline has come; hands each input over and
//! applies each block at once; writes down and syncs once what must be remembered; signs; and only then lets anything
//! out. Everything that goes out goes over bounded queues that never make the loop wait. The turn is the batch: an idle
//! node answers at once, a busy one pays one sync and one round of signatures for hundreds of inputs.

use super::{
    bridge,
    clock::Clock,
    flusher::Flushing,
    inbox::{Inbox, Item, ReplyTo},
    metrics::{Meters, record},
    pace::Pace,
    safety::{Safety, SafetyError},
};
use crate::{
    api::SubmitError,
    ledger::{ViewError, Write},
    network::{self, Commands, PeerTable},
    primitives::{ChainId, Fault, Gossip, Request, Time, TxId, limits},
    replica::{Committed, Core, Effects, Event, Input, RequestId, Send, Snapshot, Statement, Ticket},
    signer::{Signer, SignerError},
    store::ledger_store::{LedgerStore, LedgerStoreError},
};
use arc_swap::ArcSwap;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use thiserror::Error;

/// Transactions and messages that one turn takes at most: some milliseconds of work, so that deadlines are kept and the
/// votes of a turn fit into one batch.
const TURN_WEIGHT: usize = 2_000;
/// The loop shows that it is alive at least this often.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Submissions whose time to finality is measured at the same time.
const MAX_MEASURED: usize = 200_000;

/// Why the loop ended though nobody asked it to.
#[derive(Debug, Error)]
pub enum RunError {
    /// The store cannot be written.
    #[error("the node stops: {0}")]
    Store(#[from] LedgerStoreError),
    /// The store cannot be read.
    #[error("the node stops: {0}")]
    View(#[from] ViewError),
    /// What must be remembered cannot be.
    #[error("the node stops before it signs anything that it cannot remember: {0}")]
    Safety(#[from] SafetyError),
    /// Nothing can be signed.
    #[error("the node stops: {0}")]
    Signer(#[from] SignerError),
    /// Something to be signed by a node without a key: a mistake in this program.
    #[error("the node stops: {0} statements were to be signed and there is no validator key")]
    NoKey(usize),
    /// The store cannot be flushed.
    #[error("the node stops: blocks cannot be brought to the disk: {0}")]
    Flush(#[from] crate::store::backend::StoreError),
}

/// When the loop was last seen alive.
#[derive(Debug)]
pub struct Heartbeat {
    start: Instant,
    last_ms: AtomicU64,
}

impl Heartbeat {
    /// Alive now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    fn beat(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    /// How long ago that was.
    pub fn age(&self) -> Duration {
        self.start
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}

/// What listens to events: called by the loop, so it must not wait.
pub type OnEvents = Box<dyn Fn(&[Event]) + std::marker::Send>;

/// A validator's memory and hand.
pub struct Voice {
    /// What it said.
    pub safety: Safety,
    /// Its key.
    pub signer: Box<dyn Signer>,
}

/// Everything that the loop touches.
pub struct Loop {
    /// Decides.
    pub replica: Core,
    /// Read by the replica, written here.
    pub store: Arc<LedgerStore>,
    /// Only on validators.
    pub voice: Option<Voice>,
    /// The chain, first part of every digest.
    pub chain: ChainId,
    /// Where inputs come from.
    pub inbox: Arc<Inbox>,
    /// The network.
    pub commands: Commands,
    /// Who is there.
    pub peers: Arc<PeerTable>,
    /// Told of every block written.
    pub flushing: Arc<Flushing>,
    /// Published after each turn.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Who listens.
    pub on_events: OnEvents,
    /// Counts.
    pub meters: Arc<Meters>,
    /// Shown to whoever asks whether the loop is alive.
    pub heartbeat: Arc<Heartbeat>,
    /// Time.
    pub clock: Clock,
}

/// What the loop keeps from one turn to the next.
#[derive(Default)]
struct Memory {
    /// Statements that were published and that the replica has not been told of.
    own: Vec<Gossip>,
    /// The replica's questions under way, by the network's number.
    questions: HashMap<network::RequestId, RequestId>,
    tickets: BTreeMap<Ticket, ReplyTo>,
    next_ticket: u64,
    /// When submissions that are not final yet came in.
    submitted: HashMap<TxId, Instant>,
    last_block: Option<Instant>,
    voted: Option<bool>,
    /// Messages were published in this turn.
    spoke: bool,
}

impl Loop {
    /// Runs until the inbox is closed or something fails. `first`: the effects of opening the replica.
    pub fn run(mut self, first: Effects) -> Result<(), RunError> {
        let mut memory = Memory::default();
        let mut items = Vec::new();
        self.serve(&mut memory, first)?;
        let mut rest_until = Instant::now();
        let mut pace = Pace::new(rest_until);
        loop {
            std::thread::sleep(rest_until.saturating_duration_since(Instant::now()));
            let until = self.wake_at(&memory);
            let open = self.inbox.take(&mut items, TURN_WEIGHT, until);
            let start = Instant::now();
            self.heartbeat.beat();
            if !open {
                return Ok(());
            }
            let inputs = items.len();
            pace.count(start, items.iter().map(Item::payments).sum());
            if self.turn(&mut memory, items.drain(..))? {
                record(&self.meters.turn, start.elapsed());
                self.meters.turn_inputs.observe(inputs as f64);
            }
            if std::mem::take(&mut memory.spoke) {
                rest_until = start + pace.rest();
            }
            let whole = !self.store.is_syncing();
            if whole && self.voice.as_ref().is_some_and(|voice| voice.safety.wants_trimming()) {
                self.trim(&mut memory)?;
            }
        }
    }

    fn wake_at(&mut self, memory: &Memory) -> Instant {
        let now = Instant::now();
        if !memory.own.is_empty() {
            return now;
        }
        let time = self.clock.now();
        let wait = self
            .replica
            .deadline(time)
            .map_or(HEARTBEAT, |deadline| self.clock.until(deadline));
        now + wait.min(HEARTBEAT)
    }

    /// One turn; answers whether there was anything in it.
    fn turn(&mut self, memory: &mut Memory, items: impl Iterator<Item = Item>) -> Result<bool, RunError> {
        let now = self.clock.now();
        let mut effects = Effects::default();
        let mut any = false;
        if !memory.own.is_empty() {
            any = true;
            let own = std::mem::take(&mut memory.own);
            self.handle(now, Input::Own(own), &mut effects)?;
        }
        for item in items {
            any = true;
            if let Some(input) = self.input(memory, item) {
                self.handle(now, input, &mut effects)?;
            }
        }
        if self.replica.deadline(now).is_some_and(|deadline| deadline <= now) {
            any = true;
            self.handle(now, Input::Tick, &mut effects)?;
        }
        if any {
            self.replica.finish_turn(&mut effects);
            self.serve(memory, effects)?;
        }
        Ok(any)
    }

    fn handle(&mut self, now: Time, input: Input, effects: &mut Effects) -> Result<(), RunError> {
        self.replica.handle(now, self.store.as_ref(), input, effects)?;
        self.write(effects)
    }

    /// Applies a decided block, or a step of a state sync, at once: the next input sees it.
    fn write(&self, effects: &mut Effects) -> Result<(), RunError> {
        let Some(write) = effects.write.take() else {
            return Ok(());
        };
        let start = Instant::now();
        self.store.write(&write)?;
        if let Write::Block(batch) = &write {
            record(&self.meters.block_write, start.elapsed());
            self.flushing.wrote(batch.applied.tip.height);
        }
        Ok(())
    }

    /// What the replica is told of an item.
    fn input(&self, memory: &mut Memory, item: Item) -> Option<Input> {
        match item {
            Item::Input(input, at) => {
                record(&self.meters.queue, at.elapsed());
                Some(input)
            }
            Item::Submit { transaction, reply, at } => {
                record(&self.meters.queue, at.elapsed());
                if memory.submitted.len() < MAX_MEASURED {
                    memory.submitted.entry(transaction.txid()).or_insert(at);
                }
                let ticket = Ticket(memory.next_ticket);
                memory.next_ticket += 1;
                memory.tickets.insert(ticket, reply);
                Some(Input::Submit { ticket, transaction })
            }
            Item::Response { from, request, answer } => {
                let request = memory.questions.remove(&request)?;
                Some(Input::Response { from, request, answer })
            }
        }
    }

    /// Serves a turn's effects in the order of the contract.
    fn serve(&mut self, memory: &mut Memory, mut effects: Effects) -> Result<(), RunError> {
        self.write(&mut effects)?;
        let signed = self.remember_and_sign(&effects.remember, std::mem::take(&mut effects.sign))?;
        for statement in &signed {
            self.commands.publish(bridge::topic(statement), statement.encode());
        }
        memory.spoke |= !signed.is_empty() || effects.send.iter().any(|send| matches!(send, Send::Gossip(_)));
        memory.own = signed;
        self.send(memory, effects.send);
        for (id, verdict) in effects.verdicts {
            self.commands.verdict(network::GossipId(id.0), bridge::verdict(verdict));
        }
        for (peer, fault, reason) in effects.faults {
            bridge::count_fault(&self.meters, fault);
            if fault == Fault::Hostile {
                let who = bridge::name(&self.peers, network::PeerId(peer.0));
                tracing::warn!(peer = peer.0, who, reason, "a peer lied");
            } else if fault == Fault::Careless {
                tracing::debug!(peer = peer.0, reason, "a peer did something wrong");
            }
            self.commands.punish(network::PeerId(peer.0), bridge::fault(fault));
        }
        // Readers see the state before they hear of it.
        self.snapshot.store(Arc::new(self.replica.snapshot()));
        for reply in effects.replies {
            if let Err(error) = &reply.result {
                tracing::debug!(%error, "a submission was refused");
            }
            if let Some(to) = memory.tickets.remove(&reply.ticket) {
                // A client that does not listen any more has its own reasons.
                let _ = to.send(reply.result.map_err(SubmitError::Pool));
            }
        }
        if !effects.events.is_empty() {
            (self.on_events)(&effects.events);
            effects.events.iter().for_each(|event| self.observe(memory, event));
        }
        Ok(())
    }

    fn remember_and_sign(
        &mut self,
        records: &[crate::replica::SafetyRecord],
        statements: Vec<Statement>,
    ) -> Result<Vec<Gossip>, RunError> {
        if records.is_empty() && statements.is_empty() {
            return Ok(Vec::new());
        }
        let Some(voice) = &mut self.voice else {
            return Err(RunError::NoKey(statements.len()));
        };
        if !records.is_empty() {
            voice.safety.remember(records)?;
        }
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let start = Instant::now();
        let digests: Vec<_> = statements
            .iter()
            .map(|statement| statement.digest(&self.chain))
            .collect();
        let signatures = voice.signer.sign(&digests)?;
        if signatures.len() != statements.len() {
            return Err(RunError::Signer(SignerError {
                public_key: voice.signer.public_key(),
                reason: format!("{} signatures for {} digests", signatures.len(), statements.len()),
            }));
        }
        let signed = statements
            .into_iter()
            .zip(signatures)
            .map(|(statement, signature)| statement.signed(signature));
        let signed = signed.collect();
        record(&self.meters.sign, start.elapsed());
        Ok(signed)
    }

    fn send(&self, memory: &mut Memory, sends: Vec<Send>) {
        let mut bodies = Gather::default();
        for send in sends {
            match send {
                Send::Gossip(Gossip::Transactions(all)) => bodies.add(all),
                Send::Gossip(message) => self.commands.publish(bridge::topic(&message), message.encode()),
                Send::Ask { peer, id, request } => self.ask(memory, peer, id, &request),
                Send::Answer { ticket, response } => {
                    self.commands.answer(network::Ticket(ticket.0), response.encode());
                }
            }
        }
        for message in bodies.messages {
            self.commands
                .publish(network::Topic::Transactions, Gossip::Transactions(message).encode());
        }
    }

    fn ask(&self, memory: &mut Memory, peer: crate::primitives::PeerId, id: RequestId, request: &Request) {
        let asked = self.commands.ask(network::PeerId(peer.0), request.encode());
        memory.questions.insert(asked, id);
    }

    /// Logs and measures what happened.
    fn observe(&self, memory: &mut Memory, event: &Event) {
        match event {
            Event::Accepted(_) => {}
            Event::Final(txid) => {
                if let Some(at) = memory.submitted.remove(txid) {
                    record(&self.meters.finality, at.elapsed());
                }
            }
            Event::Committed(block) => self.observe_block(memory, block),
            Event::Dropped { txid, reason } => {
                memory.submitted.remove(txid);
                tracing::debug!(txid = %txid, ?reason, "a transaction left the pool");
            }
            Event::Evidence { validator, what } => {
                self.meters.evidence.add(1);
                tracing::error!(validator, what, "evidence against a validator");
            }
            Event::Synced { height, block } => {
                tracing::info!(height = height.0, block = %block.short(), "the state is fetched and verified");
            }
            Event::Trouble(what) => {
                self.meters.troubles.add(1);
                tracing::warn!(what, "trouble");
            }
            Event::Voting { votes: true, reason } => {
                memory.voted = Some(true);
                tracing::info!(reason, "this validator votes");
            }
            Event::Voting { votes: false, reason } => {
                memory.voted = Some(false);
                tracing::warn!(reason, "this validator does not vote");
            }
        }
    }

    fn observe_block(&self, memory: &mut Memory, block: &Committed) {
        let now = Instant::now();
        let before = memory.last_block.replace(now);
        if let Some(before) = before
            && !self.snapshot.load().catching_up
        {
            record(&self.meters.block_interval, now - before);
        }
        // Committed without having been seen final here.
        for txid in &block.transactions {
            memory.submitted.remove(txid);
        }
        tracing::info!(
            height = block.height.0,
            block = %block.block.short(),
            round = block.round.0,
            transactions = block.transactions.len(),
            rejected = block.rejected.len(),
            "block committed"
        );
    }

    /// Trims the safety log. What was published must have come back to the replica before it can say what is still
    /// needed, so turns without new inputs go first until nothing is under way.
    fn trim(&mut self, memory: &mut Memory) -> Result<(), RunError> {
        while !memory.own.is_empty() {
            self.turn(memory, std::iter::empty())?;
        }
        // The log may forget only what the store holds on the disk: a power cut must not take both.
        self.store.flush()?;
        if let Some(voice) = &mut self.voice
            && let Some(live) = self.replica.live_records()
        {
            voice.safety.trim(&live)?;
        }
        Ok(())
    }
}

/// Gathers a turn's transactions into few messages within the limits.
#[derive(Default)]
struct Gather {
    messages: Vec<Vec<Vec<u8>>>,
    bytes: usize,
}

impl Gather {
    fn add(&mut self, all: Vec<Vec<u8>>) {
        for body in all {
            self.bytes += body.len();
            let fits = self.bytes <= limits::MAX_TRANSACTION_BYTES_PER_MESSAGE;
            match self.messages.last_mut() {
                Some(last) if fits && last.len() < limits::MAX_TRANSACTIONS_PER_MESSAGE => last.push(body),
                _ => {
                    self.bytes = body.len();
                    self.messages.push(vec![body]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_gathered_within_the_limits() {
        let mut gather = Gather::default();
        gather.add(vec![vec![0; 400_000]; 5]);
        gather.add(vec![vec![0; 10]; 3_000]);
        let shapes: Vec<(usize, usize)> = gather
            .messages
            .iter()
            .map(|all| (all.len(), all.iter().map(Vec::len).sum()))
            .collect();
        assert!(shapes.iter().all(|(count, bytes)| {
            *count <= limits::MAX_TRANSACTIONS_PER_MESSAGE && *bytes <= limits::MAX_TRANSACTION_BYTES_PER_MESSAGE
        }));
        assert_eq!(shapes.iter().map(|(count, _)| count).sum::<usize>(), 3_005);
        assert_eq!(shapes.len(), 4, "{shapes:?}");
    }
}
