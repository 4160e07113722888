//! The world: one heap of events ordered by time and number, the machines, the links between them, and the faults.

use super::{
    book::{Book, Purpose},
    checkers::{Checker, Checkers, Violation},
    clients::{Clients, Submission},
    clock::{Clock, MILLI, Micros, SECOND},
    liars::Liar,
    machine::{Disk, Machine, Parcel, PlannedCrash, Process},
    network::{Network, Weather},
    random::Random,
    scenario::{CrashPoint, Plan, Scenario, Trouble, plan},
};
use crate::{
    ledger::{CheckedTransaction, Commitment, StateView as _, StateWrite, Tip, View as _, Write},
    pool,
    primitives::{
        BlockId, Coin, Fault, Genesis, Gossip, LockHash, OutPoint, PeerId, Request, Response, SecretKey, Time,
        Validator, ValidatorSet, hash::tagged, message::Electorate,
    },
    replica::{
        AnswerTicket, Core, Effects, Event, GossipId, Input, Records, RequestId, SafetyRecord, Send, Setup, Ticket,
        Verdict,
        input::{check_gossip, check_response},
    },
    store::{
        backend::{Backend as _, Table},
        ledger_store::{LedgerStore, StoreOptions},
        memory::MemoryBackend,
        safety_log::MemoryLog,
    },
};
use sha2::{Digest as _, Sha256};
use std::{
    cell::OnceCell,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    mem,
    rc::Rc,
    sync::Arc,
};

/// Where a line of the trace goes; `None`: no trace is made.
pub type Trace<'a> = Option<&'a mut dyn FnMut(&str)>;

/// What clocks show when the world begins, in Unix milliseconds.
const BEGIN: Time = Time(1_800_000_000_000);
/// A question without an answer is given up after this.
const ANSWER_TIMEOUT: Micros = 10 * SECOND;
/// From the end of the faults on, everything valid must finish within this.
const PATIENCE: Micros = 180 * SECOND;
/// Events after which a run is called a runaway.
const MOST_STEPS: u64 = 5_000_000;
/// How long a crash waits for its point in a turn.
const CRASH_PATIENCE: Micros = SECOND / 2;

/// What happens at an instant.
enum Happening {
    Turn {
        node: usize,
        plan: u64,
    },
    Gossip {
        to: usize,
        from: usize,
        parcel: Rc<Parcel>,
        relayed: bool,
    },
    Ask {
        to: usize,
        from: usize,
        life: u64,
        id: RequestId,
        bytes: Vec<u8>,
    },
    Answer {
        to: usize,
        life: u64,
        from: usize,
        id: RequestId,
        bytes: Option<Vec<u8>>,
    },
    Peer {
        to: usize,
        peer: usize,
        up: bool,
    },
    Flush {
        node: usize,
        life: u64,
    },
    Boot {
        node: usize,
    },
    CrashNow {
        node: usize,
    },
    Submit(Submission),
    Client,
    Retries,
    Whispers,
    Trouble(usize),
    Calm,
    Probes,
    Look,
}

struct Entry {
    at: Micros,
    number: u64,
    happening: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Why a turn does not reach its end.
enum Stop {
    Crash,
    Violation(Violation),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Its scenario.
    pub scenario: Scenario,
    /// Over everything that was sent, written and reported, in order.
    pub hash: [u8; 32],
    /// Events.
    pub steps: u64,
    /// True time at the end, in milliseconds.
    pub virtual_ms: u64,
    /// Transactions that clients made.
    pub payments: usize,
    /// Of them, reported final.
    pub finals: usize,
    /// In blocks.
    pub committed: usize,
    /// Rejected by blocks.
    pub rejected: usize,
    /// Height of the chain.
    pub blocks: u64,
    /// Blocks that were decided in a later round than the first.
    pub view_changes: u64,
    /// Crashes.
    pub crashes: u64,
    /// State syncs that ended well.
    pub state_syncs: u64,
    /// Coins that they fetched, and entries that they replayed.
    pub coins_fetched: u64,
    /// Faults that correct nodes found in liars.
    pub blamed: u64,
    /// What must not have been.
    pub violation: Option<Violation>,
}

/// Runs a scenario with a seed.
pub fn run(scenario: Scenario, seed: u64, trace: Trace<'_>) -> Outcome {
    let mut world = World::new(scenario, seed, trace);
    let violation = world.live().err();
    if let Some(violation) = &violation {
        world.say(|| format!("VIOLATION {violation}"));
    }
    world.outcome(violation)
}

struct World<'t> {
    scenario: Scenario,
    seed: u64,
    plan: Plan,
    genesis: Arc<Genesis>,
    electorate: Electorate,
    random: Random,
    now: Micros,
    heap: BinaryHeap<Reverse<Entry>>,
    number: u64,
    machines: Vec<Machine>,
    network: Network,
    book: Book,
    clients: Clients,
    checkers: Checkers,
    parcels: BTreeMap<BlockId, Rc<Parcel>>,
    hash: Sha256,
    trace: Trace<'t>,
    crashes: u64,
    state_syncs: u64,
    coins_fetched: u64,
    blamed: u64,
    later_rounds: BTreeMap<u64, bool>,
    done: bool,
}

fn validator_keys(seed: u64, count: usize) -> Vec<SecretKey> {
    let mut random = Random::new(seed, "validators");
    let mut keys: Vec<SecretKey> = (0..count).map(|_| SecretKey::from_seed(random.bytes())).collect();
    // In the order of the set, so that a node's number is its validator's.
    keys.sort_by_key(SecretKey::public);
    keys
}

fn genesis(seed: u64, plan: &Plan, keys: &[SecretKey]) -> Genesis {
    let validators = keys.iter().zip(&plan.powers).map(|(key, power)| Validator {
        public_key: key.public(),
        power: *power,
        payout: LockHash(tagged("timecoin/sim/payout", &[&key.public().0])),
    });
    Genesis {
        network: "ltime".to_owned(),
        time: BEGIN,
        params: plan.params.clone(),
        validators: ValidatorSet::new(validators.collect()).expect("distinct keys and powers above 0"),
        coins: Clients::first_coins(&Clients::keys(seed)),
    }
}

impl<'t> World<'t> {
    fn new(scenario: Scenario, seed: u64, trace: Trace<'t>) -> Self {
        let plan = plan(scenario, seed);
        let mut random = Random::new(seed, "world");
        let mut keys = validator_keys(seed, plan.powers.len());
        let genesis = Arc::new(genesis(seed, &plan, &keys));
        keys.extend((0..plan.observers).map(|_| SecretKey::from_seed(random.bytes())));
        let chain = genesis.chain_id();
        let set = Arc::new(genesis.validators.clone());
        let electorate = Electorate::new(chain, genesis.params.epoch_length, set);
        let machines = keys.iter().enumerate().map(|(index, key)| {
            let vices = plan.liars.iter().find(|(liar, _)| *liar == index);
            let spread = |most: u64, random: &mut Random| random.below(2 * most + 1) as i64 - most as i64;
            Machine {
                index,
                key: key.signer(),
                own: (index < plan.powers.len()).then(|| key.public()),
                clock: Clock {
                    start: BEGIN,
                    offset_us: spread(plan.max_offset_us, &mut random),
                    drift_ppm: spread(plan.max_drift_ppm, &mut random),
                },
                liar: vices.map(|(_, vices)| Liar::new(*vices, index as u32, chain, key.signer(), seed)),
                disk: Disk {
                    tables: Arc::new(MemoryBackend::new()),
                    log: MemoryLog::new(),
                    records: Vec::new(),
                    log_missing: false,
                },
                life: 0,
                process: None,
                crash: None,
                busy_until: 0,
                turn_at: None,
                turn_plan: 0,
            }
        });
        let machines: Vec<Machine> = machines.collect();
        Self {
            network: Network::new(machines.len(), plan.weather, &mut random),
            clients: Clients::new(&genesis, chain, Clients::keys(seed)),
            checkers: Checkers::new(&genesis, chain),
            scenario,
            seed,
            plan,
            genesis,
            electorate,
            random,
            now: 0,
            heap: BinaryHeap::new(),
            number: 0,
            machines,
            book: Book::default(),
            parcels: BTreeMap::new(),
            hash: Sha256::new(),
            trace,
            crashes: 0,
            state_syncs: 0,
            coins_fetched: 0,
            blamed: 0,
            later_rounds: BTreeMap::new(),
            done: false,
        }
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace(&format!("{:4}.{:06}  {}", self.now / SECOND, self.now % SECOND, line()));
        }
    }

    fn at(&mut self, at: Micros, happening: Happening) {
        self.number += 1;
        self.heap.push(Reverse(Entry {
            at: at.max(self.now),
            number: self.number,
            happening,
        }));
    }

    fn absorb(&mut self, what: &str, bytes: &[u8]) {
        self.hash.update((what.len() as u64).to_be_bytes());
        self.hash.update(what.as_bytes());
        self.hash.update((bytes.len() as u64).to_be_bytes());
        self.hash.update(bytes);
    }

    fn outcome(self, violation: Option<Violation>) -> Outcome {
        let mut hash = self.hash;
        hash.update(self.number.to_be_bytes());
        Outcome {
            seed: self.seed,
            scenario: self.scenario,
            hash: hash.finalize().into(),
            steps: self.number,
            virtual_ms: self.now / MILLI,
            payments: self.book.len(),
            finals: self.checkers.finals().len(),
            committed: self.checkers.committed().len(),
            rejected: self.checkers.rejected().len(),
            blocks: self.checkers.blocks().len() as u64,
            view_changes: self.later_rounds.values().filter(|later| **later).count() as u64,
            crashes: self.crashes,
            state_syncs: self.state_syncs,
            coins_fetched: self.coins_fetched,
            blamed: self.blamed,
            violation,
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        self.begin();
        while let Some(Reverse(entry)) = self.heap.pop() {
            self.now = entry.at;
            self.checkers.at(self.now);
            self.happen(entry.happening)?;
            if self.done {
                return self.finish();
            }
            if self.number > MOST_STEPS {
                let what = format!("{MOST_STEPS} events, and no end: some node goes round in circles");
                return Err(self.checkers.violation(Checker::Liveness, what));
            }
        }
        Err(self
            .checkers
            .violation(Checker::Liveness, "nothing is left to happen".to_owned()))
    }

    fn begin(&mut self) {
        for node in 0..self.machines.len() {
            let late = self.plan.late.filter(|(late, _)| *late == node).map_or(0, |(_, at)| at);
            self.at(late, Happening::Boot { node });
        }
        for _ in 0..self.plan.payments {
            let at = self.random.between(SECOND / 10, self.plan.calm_from);
            self.at(at, Happening::Client);
        }
        for index in 0..self.plan.troubles.len() {
            self.at(self.plan.troubles[index].0, Happening::Trouble(index));
        }
        self.at(SECOND, Happening::Retries);
        self.at(SECOND / 5, Happening::Whispers);
        self.at(self.plan.calm_from + CRASH_PATIENCE, Happening::Calm);
        self.at(SECOND / 2, Happening::Look);
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Turn { node, plan } => {
                if self.machines[node].turn_plan == plan {
                    self.machines[node].turn_at = None;
                    return self.turn(node);
                }
            }
            Happening::Gossip {
                to,
                from,
                parcel,
                relayed,
            } => return self.deliver(to, from, &parcel, relayed),
            Happening::Ask {
                to,
                from,
                life,
                id,
                bytes,
            } => self.deliver_question(to, from, life, id, &bytes),
            Happening::Answer {
                to,
                life,
                from,
                id,
                bytes,
            } => return self.deliver_answer(to, life, from, id, bytes.as_deref()),
            Happening::Peer { to, peer, up } => self.tell_peer(to, peer, up),
            Happening::Flush { node, life } => return self.flush(node, life),
            Happening::Boot { node } => return self.boot(node),
            Happening::CrashNow { node } => {
                if self.machines[node].crash.is_some() {
                    self.crash(node);
                }
            }
            Happening::Submit(submission) => self.submit(submission),
            Happening::Client => {
                let (nodes, rivals) = (self.machines.len(), self.plan.double_spends_per_mille);
                let submissions = self
                    .clients
                    .act(&mut self.random, &mut self.book, self.now, nodes, rivals);
                self.schedule(submissions);
            }
            Happening::Retries => {
                let nodes = self.machines.len();
                let submissions = self.clients.retries(&mut self.random, &self.book, self.now, nodes);
                self.schedule(submissions);
                self.at(self.now + SECOND / 2, Happening::Retries);
            }
            Happening::Whispers => self.whisper_idly(),
            Happening::Trouble(index) => self.trouble(index),
            Happening::Calm => self.calm(),
            Happening::Probes => {
                self.probe();
                self.at(self.now + 2 * SECOND, Happening::Probes);
            }
            Happening::Look => return self.look(),
        }
        Ok(())
    }

    // ---- a turn ------------------------------------------------------------------------------------------------

    /// One turn of a node's loop: the whole contract between a replica and its shell.
    fn turn(&mut self, node: usize) -> Result<(), Violation> {
        if self.machines[node].process.is_none() {
            return Ok(());
        }
        if self.now < self.machines[node].busy_until {
            self.plan_turn(node);
            return Ok(());
        }
        let mut effects = Effects::default();
        self.end_turn(node, |world| {
            world.decide(node, &mut effects)?;
            world.serve(node, &mut effects)
        })
    }

    /// Serves what a turn, or the opening, has led to.
    fn serve(&mut self, node: usize, effects: &mut Effects) -> Result<(), Stop> {
        if planted!(SpeakBeforeRemember) {
            self.sign(node, effects)?;
            self.speak(node, effects)?;
            return self.remember(node, effects);
        }
        self.remember(node, effects)?;
        self.sign(node, effects)?;
        self.speak(node, effects)
    }

    fn end_turn(&mut self, node: usize, turn: impl FnOnce(&mut Self) -> Result<(), Stop>) -> Result<(), Violation> {
        match turn(self).and_then(|()| self.may_crash(node, CrashPoint::AfterTurn)) {
            Ok(()) => {
                // Handling, syncing and signing take their time.
                self.machines[node].busy_until = self.now + self.random.between(50, 600);
                self.trim_log(node)?;
                self.plan_turn(node);
                Ok(())
            }
            Err(Stop::Crash) => {
                self.crash(node);
                Ok(())
            }
            Err(Stop::Violation(violation)) => Err(violation),
        }
    }

    fn may_crash(&self, node: usize, point: CrashPoint) -> Result<(), Stop> {
        match &self.machines[node].crash {
            Some(crash) if crash.point == point => Err(Stop::Crash),
            _ => Ok(()),
        }
    }

    /// Step 1: handles what waits, and applies every write at once.
    fn decide(&mut self, node: usize, effects: &mut Effects) -> Result<(), Stop> {
        let now = self.machines[node].clock.read(self.now);
        for input in self.take_inputs(node, now) {
            let Some(process) = &mut self.machines[node].process else {
                return Ok(());
            };
            let handled = process.replica.handle(now, &process.store, input, effects);
            handled.map_err(|error| self.stopped(node, &error.to_string()))?;
            if let Some(write) = effects.write.take() {
                match &write {
                    Write::Block(batch) => self.write(node, batch)?,
                    Write::State(step) => self.write_state(node, step)?,
                }
                self.may_crash(node, CrashPoint::AfterWrite)?;
            }
        }
        if let Some(process) = &mut self.machines[node].process {
            process.replica.finish_turn(effects);
        }
        Ok(())
    }

    /// A tick when one is due, own statements of the last turn, and what waits, up to a limit.
    fn take_inputs(&mut self, node: usize, now: Time) -> Vec<Input> {
        let limit = if self.random.chance(150) {
            1
        } else {
            self.random.between(4, 200) as usize
        };
        let Some(process) = &mut self.machines[node].process else {
            return Vec::new();
        };
        let mut inputs = Vec::new();
        if !process.own.is_empty() {
            inputs.push(Input::Own(mem::take(&mut process.own)));
        }
        if process.replica.deadline(now).is_some_and(|deadline| deadline <= now) {
            inputs.push(Input::Tick);
        }
        let waiting = process.inbox.len().min(limit);
        inputs.extend(process.inbox.drain(..waiting));
        inputs
    }

    /// A step of a state sync.
    fn write_state(&mut self, node: usize, step: &StateWrite) -> Result<(), Stop> {
        let Some(process) = &self.machines[node].process else {
            return Ok(());
        };
        let written = process.store.write(&Write::State(step.clone()));
        written.map_err(|error| self.stopped(node, &error.to_string()))?;
        self.absorb("state", format!("{step:?}").as_bytes());
        match step {
            StateWrite::Finish { tip, .. } => {
                self.say(|| format!("node {node}: has the state after block {}", tip.height));
                self.state_syncs += 1;
                if self.machines[node].is_correct() {
                    self.checkers.on_synced(node, tip)?;
                }
            }
            StateWrite::Wipe { .. } => self.say(|| format!("node {node}: makes room")),
            StateWrite::Step(step) => {
                let (added, removed, blocks) = (step.added.len(), step.removed.len(), step.blocks.len());
                self.coins_fetched += added as u64;
                self.say(|| format!("node {node}: state +{added} -{removed} coins, {blocks} blocks"));
            }
        }
        Ok(())
    }

    fn write(&mut self, node: usize, batch: &crate::ledger::Batch) -> Result<(), Stop> {
        let Some(process) = &self.machines[node].process else {
            return Ok(());
        };
        let before = process
            .store
            .tip()
            .map_err(|error| self.stopped(node, &error.to_string()))?;
        let applied = process.store.apply(batch);
        applied.map_err(|error| self.stopped(node, &error.to_string()))?;
        let tip = &batch.applied.tip;
        let height = tip.height.0;
        self.absorb("write", &[&batch.applied.block.0[..], &tip.utxo_root.0].concat());
        let (block, transactions, rejected) = (
            batch.applied.block.short(),
            batch.applied.transactions.len(),
            batch.applied.rejected.len(),
        );
        let round = batch.block.commit.round;
        self.say(|| {
            format!("node {node}: writes block {height}/{round} {block}: {transactions} paid, {rejected} rejected")
        });
        self.later_rounds.entry(height).or_insert(round.0 > 0);
        if self.machines[node].is_correct() {
            self.checkers.on_write(&self.book, node, &before, batch)?;
            for txid in &batch.applied.transactions {
                if let Some(entry) = self.book.get_mut(txid) {
                    entry.committed = true;
                }
                self.clients.earned(&self.book, txid, true);
            }
            for txid in &batch.applied.rejected {
                if let Some(entry) = self.book.get_mut(txid) {
                    entry.rejected = true;
                }
            }
        }
        Ok(())
    }

    /// Step 2: appends what must be remembered, and syncs once.
    fn remember(&mut self, node: usize, effects: &mut Effects) -> Result<(), Stop> {
        self.may_crash(node, CrashPoint::BeforeRemember)?;
        let remembered = mem::take(&mut effects.remember);
        let records: Vec<Vec<u8>> = remembered.iter().map(SafetyRecord::encode).collect();
        if !records.is_empty() {
            for record in &records {
                self.absorb("remember", record);
            }
            let disk = &mut self.machines[node].disk;
            let appended = disk.log.append(&records);
            appended.map_err(|error| self.stopped(node, &error.to_string()))?;
            self.may_crash(node, CrashPoint::WhileRemembering)?;
            let disk = &mut self.machines[node].disk;
            let synced = disk.log.sync();
            disk.log_missing = false;
            synced.map_err(|error| self.stopped(node, &error.to_string()))?;
            if self.machines[node].is_correct() {
                self.checkers.on_remembered(node, &remembered)?;
            }
        }
        self.may_crash(node, CrashPoint::BeforeSigning)
    }

    /// Step 3: signs what was decided; it comes back as own statements in the next turn, and goes out.
    fn sign(&mut self, node: usize, effects: &mut Effects) -> Result<(), Stop> {
        let mut signed = Vec::new();
        for statement in mem::take(&mut effects.sign) {
            signed.push(statement.sign(&self.electorate.chain, &self.machines[node].key));
        }
        if self.machines[node].is_correct() {
            // A turn's votes are decided before its seal, whatever their order here.
            let is_vote = |statement: &&Gossip| matches!(statement, Gossip::Votes(_));
            let (votes, others): (Vec<&Gossip>, Vec<&Gossip>) = signed.iter().partition(is_vote);
            for statement in votes.into_iter().chain(others) {
                self.checkers.on_signed(&self.book, node, statement)?;
            }
        }
        if let Some(process) = &mut self.machines[node].process {
            process.own.extend(signed.iter().cloned());
        }
        // Statements leave first, in the order in which they were decided.
        let sends = mem::take(&mut effects.send);
        effects.send = signed.into_iter().map(Send::Gossip).chain(sends).collect();
        Ok(())
    }

    /// Step 4: only now anything leaves.
    fn speak(&mut self, node: usize, effects: &mut Effects) -> Result<(), Stop> {
        let sends = mem::take(&mut effects.send);
        let stop_after = self.random.index(sends.len() + 1);
        for (count, send) in sends.into_iter().enumerate() {
            if count == stop_after {
                self.may_crash(node, CrashPoint::WhileSpeaking)?;
            }
            self.send(node, send);
        }
        self.may_crash(node, CrashPoint::WhileSpeaking)?;
        for (id, verdict) in mem::take(&mut effects.verdicts) {
            self.verdict(node, id, verdict)?;
        }
        for (peer, fault, why) in mem::take(&mut effects.faults) {
            self.blame(node, peer, fault, &why)?;
        }
        for reply in mem::take(&mut effects.replies) {
            self.absorb("reply", format!("{:?}", reply.result).as_bytes());
            let (ticket, result) = (reply.ticket.0, &reply.result);
            self.say(|| match result {
                Ok(txid) => format!("node {node}: reply {ticket}: {} accepted", txid.short()),
                Err(error) => format!("node {node}: reply {ticket}: {error}"),
            });
        }
        for event in mem::take(&mut effects.events) {
            self.report(node, &event)?;
        }
        Ok(())
    }

    fn stopped(&self, node: usize, why: &str) -> Stop {
        let what = format!("node {node} stops by itself: {why}");
        Stop::Violation(self.checkers.violation(Checker::Stopped, what))
    }

    /// Plans the next turn: at once when something waits, else at the deadline.
    fn plan_turn(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let Some(process) = &machine.process else { return };
        let now = machine.clock.read(self.now);
        let waits = !process.inbox.is_empty() || !process.own.is_empty();
        let due = if waits {
            Some(self.now)
        } else {
            process
                .replica
                .deadline(now)
                .map(|deadline| machine.clock.when(deadline, self.now))
        };
        let Some(due) = due else { return };
        let due = due.max(machine.busy_until);
        if machine.turn_at == Some(due) {
            return;
        }
        machine.turn_at = Some(due);
        machine.turn_plan += 1;
        let plan = machine.turn_plan;
        self.at(due, Happening::Turn { node, plan });
    }

    fn push(&mut self, node: usize, input: Input) {
        if let Some(process) = &mut self.machines[node].process {
            process.push(input);
            // A little time to gather what comes together.
            if self.machines[node].busy_until < self.now {
                self.machines[node].busy_until = self.now;
            }
            self.plan_turn(node);
        }
    }

    /// Writes the safety log anew with what is still needed.
    fn trim_log(&mut self, node: usize) -> Result<(), Violation> {
        let Some(process) = &mut self.machines[node].process else {
            return Ok(());
        };
        if !mem::take(&mut process.trim) {
            return Ok(());
        }
        // What must be remembered is counted on top of what the store holds for certain.
        process.store.flush().map_err(|error| {
            self.checkers
                .violation(Checker::Stopped, format!("node {node}: {error}"))
        })?;
        let Some(live) = process.replica.live_records() else {
            return Ok(());
        };
        let live: Vec<Vec<u8>> = live.iter().map(SafetyRecord::encode).collect();
        let rewritten = self.machines[node].disk.log.rewrite(&live);
        rewritten.map_err(|error| {
            self.checkers
                .violation(Checker::Stopped, format!("node {node}: {error}"))
        })
    }

    // ---- what leaves -------------------------------------------------------------------------------------------

    fn parcel(&mut self, author: usize, bytes: Vec<u8>) -> Rc<Parcel> {
        let id = BlockId(Sha256::digest(&bytes).into());
        let make = || {
            Rc::new(Parcel {
                id,
                bytes,
                author,
                checked: OnceCell::new(),
            })
        };
        self.parcels.entry(id).or_insert_with(make).clone()
    }

    fn send(&mut self, node: usize, send: Send) {
        match send {
            Send::Gossip(gossip) => {
                self.say(|| format!("node {node}: says {}", describe(&gossip)));
                self.publish(node, &gossip);
            }
            Send::Ask { peer, id, request } => {
                self.say(|| format!("node {node}: asks {peer} for {request:?}"));
                self.ask(node, peer, id, &request);
            }
            Send::Answer { ticket, response } => self.answer(node, ticket, response),
        }
    }

    fn publish(&mut self, node: usize, gossip: &Gossip) {
        if self.machines[node].liar.is_none() {
            let parcel = self.parcel(node, gossip.encode());
            self.absorb("gossip", &parcel.id.0);
            for to in 0..self.machines.len() {
                self.carry_gossip(node, to, &parcel, false);
            }
            return;
        }
        for to in 0..self.machines.len() {
            let spoken = match &mut self.machines[node].liar {
                Some(liar) => liar.speak(to, gossip, &self.book),
                None => Vec::new(),
            };
            for bytes in spoken {
                self.whisper(node, to, bytes);
            }
        }
    }

    fn whisper(&mut self, node: usize, to: usize, bytes: Vec<u8>) {
        let parcel = self.parcel(node, bytes);
        self.absorb("whisper", &parcel.id.0);
        self.carry_gossip(node, to, &parcel, false);
    }

    fn whisper_idly(&mut self) {
        let peers = self.machines.len();
        for node in 0..peers {
            let running = self.machines[node].process.is_some();
            let whispers = match &mut self.machines[node].liar {
                Some(liar) if running => liar.idle(peers),
                _ => continue,
            };
            for (to, bytes) in whispers {
                self.whisper(node, to, bytes);
            }
        }
        self.at(self.now + SECOND / 10, Happening::Whispers);
    }

    fn carry_gossip(&mut self, from: usize, to: usize, parcel: &Rc<Parcel>, relayed: bool) {
        if from == to {
            return;
        }
        for delay in self.network.carry(&mut self.random, from, to) {
            let parcel = parcel.clone();
            let gossip = Happening::Gossip {
                to,
                from,
                parcel,
                relayed,
            };
            self.at(self.now + delay, gossip);
        }
    }

    fn ask(&mut self, node: usize, peer: PeerId, id: RequestId, request: &Request) {
        let bytes = request.encode();
        self.absorb("ask", &bytes);
        let life = self.machines[node].life;
        let to = peer.0 as usize;
        if let Some(process) = &mut self.machines[node].process {
            process.asks.insert(id, to);
        }
        let nothing = Happening::Answer {
            to: node,
            life,
            from: to,
            id,
            bytes: None,
        };
        if to >= self.machines.len() || to == node {
            self.at(self.now, nothing);
            return;
        }
        self.at(self.now + ANSWER_TIMEOUT, nothing);
        if let Some(delay) = self.network.carry(&mut self.random, node, to).first() {
            let ask = Happening::Ask {
                to,
                from: node,
                life,
                id,
                bytes,
            };
            self.at(self.now + delay, ask);
        }
    }

    fn answer(&mut self, node: usize, ticket: AnswerTicket, response: Response) {
        let Some(process) = &mut self.machines[node].process else {
            return;
        };
        let Some((peer, life, id, request)) = process.tickets.remove(&ticket) else {
            return;
        };
        let response = match &mut self.machines[node].liar {
            Some(liar) => liar.answer(&request, response),
            None => Some(response),
        };
        let Some(response) = response else { return };
        let bytes = response.encode();
        self.absorb("answer", &bytes);
        if let Some(delay) = self.network.carry(&mut self.random, node, peer).first() {
            let answer = Happening::Answer {
                to: peer,
                life,
                from: node,
                id,
                bytes: Some(bytes),
            };
            self.at(self.now + delay, answer);
        }
    }

    fn verdict(&mut self, node: usize, id: GossipId, verdict: Verdict) -> Result<(), Stop> {
        let Some(process) = &mut self.machines[node].process else {
            return Ok(());
        };
        let Some((parcel, from)) = process.gossip.remove(&id) else {
            return Ok(());
        };
        if verdict == Verdict::Reject && self.machines[node].is_correct() && self.machines[from].is_correct() {
            let what = format!(
                "node {node} rejects what node {from} sent, made by node {}",
                parcel.author
            );
            return Err(self.checkers.violation(Checker::Blame, what).into());
        }
        if verdict == Verdict::Accept && self.plan.relay && self.machines[node].is_correct() {
            for to in 0..self.machines.len() {
                if to != from && to != parcel.author {
                    self.carry_gossip(node, to, &parcel, true);
                }
            }
        }
        Ok(())
    }

    fn blame(&mut self, node: usize, peer: PeerId, fault: Fault, why: &str) -> Result<(), Stop> {
        self.say(|| format!("node {node}: {peer} is blamed, {fault:?}: {why}"));
        let innocent = self.machines.get(peer.0 as usize).is_some_and(Machine::is_correct);
        if fault >= Fault::Careless && innocent && self.machines[node].is_correct() {
            let what = format!("node {node} blames {peer}, which is correct, {fault:?}: {why}");
            return Err(self.checkers.violation(Checker::Blame, what).into());
        }
        if fault == Fault::Hostile && !innocent {
            self.blamed += 1;
        }
        Ok(())
    }

    /// What a node reports to whoever listens.
    fn report(&mut self, node: usize, event: &Event) -> Result<(), Stop> {
        self.absorb("event", format!("{event:?}").as_bytes());
        self.say(|| format!("node {node}: {}", describe_event(event)));
        if !self.machines[node].is_correct() {
            return Ok(());
        }
        match event {
            Event::Final(txid) => {
                self.checkers.on_final(&self.book, node, txid)?;
                let first = self
                    .book
                    .get_mut(txid)
                    .is_some_and(|entry| !mem::replace(&mut entry.final_, true));
                if first {
                    self.check_receipt(node, txid)?;
                }
                self.clients.earned(&self.book, txid, false);
            }
            Event::Committed(committed) => self.checkers.on_committed(node, committed)?,
            Event::Evidence { validator, what } => {
                if self.machines.get(*validator as usize).is_some_and(Machine::is_correct) {
                    self.checkers.on_evidence(node, *validator, what)?;
                }
            }
            Event::Accepted(_)
            | Event::Dropped { .. }
            | Event::Voting { .. }
            | Event::Synced { .. }
            | Event::Trouble(_) => {}
        }
        Ok(())
    }

    fn check_receipt(&self, node: usize, txid: &crate::primitives::TxId) -> Result<(), Stop> {
        let Some(process) = &self.machines[node].process else {
            return Ok(());
        };
        let known = process.replica.payments().get(txid);
        let wrong = match known.and_then(|known| known.receipt()) {
            None => "there is none".to_owned(),
            Some(receipt) => {
                let set = self.electorate.of_epoch(receipt.epoch);
                match receipt.verify(&self.electorate.chain, set) {
                    Ok(()) if receipt.txid == *txid && receipt.kind == crate::primitives::VoteKind::Final => {
                        return Ok(());
                    }
                    Ok(()) => "it proves something else".to_owned(),
                    Err(error) => error.to_string(),
                }
            }
        };
        let what = format!("node {node} calls {} final, but its receipt: {wrong}", txid.short());
        Err(self.checkers.violation(Checker::Receipt, what).into())
    }

    // ---- what arrives ------------------------------------------------------------------------------------------

    fn deliver(&mut self, to: usize, from: usize, parcel: &Rc<Parcel>, relayed: bool) -> Result<(), Violation> {
        let Some(process) = &mut self.machines[to].process else {
            return Ok(());
        };
        let new = process.seen.insert(parcel.id);
        if relayed && !new {
            return Ok(());
        }
        let checked = parcel.checked.get_or_init(|| {
            let mut verdicts = check_gossip(&self.electorate, &[&parcel.bytes]);
            verdicts.remove(0).map_err(|error| error.to_string())
        });
        match checked {
            Err(error) => {
                if self.machines[from].is_correct() && self.machines[parcel.author].is_correct() {
                    let what = format!("node {to} refuses what node {from} sent: {error}");
                    return Err(self.checkers.violation(Checker::Blame, what));
                }
            }
            Ok(message) => {
                let id = GossipId(process.fresh());
                process.gossip.insert(id, (parcel.clone(), from));
                let message = message.clone();
                let from = PeerId(from as u64);
                self.push(to, Input::Gossip { from, id, message });
            }
        }
        // Liars do not excite one another.
        let peers = self.machines.len();
        let correct = self.machines[parcel.author].is_correct();
        let whispers = match &mut self.machines[to].liar {
            Some(liar) if correct => liar.hear(&parcel.bytes, &self.book, peers),
            _ => Vec::new(),
        };
        for (peer, bytes) in whispers {
            self.whisper(to, peer, bytes);
        }
        Ok(())
    }

    fn deliver_question(&mut self, to: usize, from: usize, life: u64, id: RequestId, bytes: &[u8]) {
        let Some(process) = &mut self.machines[to].process else {
            // A machine that is down refuses the connection, most of the time.
            if self.random.chance(600) {
                let refused = Happening::Answer {
                    to: from,
                    life,
                    from: to,
                    id,
                    bytes: None,
                };
                self.at(self.now + MILLI, refused);
            }
            return;
        };
        let Ok(request) = Request::decode(bytes) else { return };
        let ticket = AnswerTicket(process.fresh());
        process.tickets.insert(ticket, (from, life, id, request.clone()));
        let from = PeerId(from as u64);
        self.push(to, Input::Request { from, ticket, request });
    }

    fn deliver_answer(
        &mut self,
        to: usize,
        life: u64,
        from: usize,
        id: RequestId,
        bytes: Option<&[u8]>,
    ) -> Result<(), Violation> {
        if self.machines[to].life != life {
            return Ok(());
        }
        let Some(process) = &mut self.machines[to].process else {
            return Ok(());
        };
        if process.asks.remove(&id).is_none() {
            return Ok(());
        }
        let answer = bytes.map(|bytes| check_response(&self.electorate, bytes));
        let answer = match answer {
            Some(Err(error)) if self.machines[from].is_correct() => {
                let what = format!("node {to} refuses the answer of node {from}: {error}");
                return Err(self.checkers.violation(Checker::Blame, what));
            }
            Some(answer) => answer.ok(),
            None => None,
        };
        let response = Input::Response {
            from: PeerId(from as u64),
            request: id,
            answer,
        };
        self.push(to, response);
        Ok(())
    }

    fn tell_peer(&mut self, to: usize, peer: usize, up: bool) {
        let there = self.machines[peer].process.is_some();
        let Some(process) = &mut self.machines[to].process else {
            return;
        };
        let id = PeerId(peer as u64);
        let changed = if up {
            there && process.peers.insert(id)
        } else {
            process.peers.remove(&id)
        };
        if changed {
            self.push(to, if up { Input::PeerUp(id) } else { Input::PeerDown(id) });
        }
    }

    fn schedule(&mut self, submissions: Vec<Submission>) {
        for submission in submissions {
            self.at(submission.at, Happening::Submit(submission));
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { to, transaction, .. } = submission;
        let txid = transaction.txid();
        let purpose = self.book.get(&txid).map_or(Purpose::Payment, |entry| entry.purpose);
        let Some(process) = &mut self.machines[to].process else {
            return;
        };
        let ticket = Ticket(process.fresh());
        let number = ticket.0;
        self.push(
            to,
            Input::Submit {
                ticket,
                transaction: clone(&transaction),
            },
        );
        self.say(|| {
            format!(
                "client: submits {} ({purpose:?}) to node {to}, ticket {number}",
                txid.short()
            )
        });
    }

    // ---- faults ------------------------------------------------------------------------------------------------

    fn trouble(&mut self, index: usize) {
        let trouble = self.plan.troubles[index].1.clone();
        self.say(|| format!("trouble: {trouble:?}"));
        match trouble {
            Trouble::Crash {
                node,
                point,
                down,
                log_kept_per_mille,
                store_kept_per_mille,
                lose_log,
            } => {
                if self.machines[node].process.is_none() {
                    return;
                }
                self.machines[node].crash = Some(PlannedCrash {
                    point,
                    down,
                    log_kept_per_mille,
                    store_kept_per_mille,
                    lose_log,
                });
                if point == CrashPoint::Idle {
                    self.crash(node);
                } else {
                    self.at(self.now + CRASH_PATIENCE, Happening::CrashNow { node });
                }
            }
            Trouble::Pause { node, length } => {
                self.machines[node].busy_until = self.now + length;
            }
            Trouble::Step { node, by_us } => {
                // Never further from the truth than the scenario allows.
                let most = self.plan.max_offset_us as i64;
                let clock = &mut self.machines[node].clock;
                clock.offset_us = (clock.offset_us + by_us).clamp(-most, most);
                self.plan_turn(node);
            }
            Trouble::Split(sides) => {
                self.network.split(|node| sides.get(node).copied().unwrap_or(0));
                self.tell_broken_links();
            }
            Trouble::Cut { from, to } => self.network.cut(from, to),
            Trouble::Heal => {
                self.network.heal();
                self.tell_all_links();
            }
            Trouble::Weather(weather) => self.network.weather = weather,
        }
    }

    /// Some notice at once that a link is broken, others never.
    fn tell_broken_links(&mut self) {
        for to in 0..self.machines.len() {
            for peer in 0..self.machines.len() {
                if to != peer && !self.network.connected(to, peer) && self.random.chance(400) {
                    let at = self.now + self.random.below(SECOND);
                    self.at(at, Happening::Peer { to, peer, up: false });
                }
            }
        }
    }

    fn tell_all_links(&mut self) {
        for to in 0..self.machines.len() {
            for peer in 0..self.machines.len() {
                if to != peer {
                    let at = self.now + self.random.below(SECOND / 2);
                    self.at(at, Happening::Peer { to, peer, up: true });
                }
            }
        }
    }

    /// The process is gone, and with it everything that is not on disk.
    fn crash(&mut self, node: usize) {
        let Some(crash) = self.machines[node].crash.take() else {
            return;
        };
        let machine = &mut self.machines[node];
        if machine.process.take().is_none() {
            return;
        }
        self.crashes += 1;
        machine.life += 1;
        machine.turn_plan += 1;
        machine.turn_at = None;
        let disk = &mut machine.disk;
        let unflushed = disk.tables.unflushed_batches();
        let kept = unflushed * crash.store_kept_per_mille as usize / 1000;
        disk.tables = Arc::new(disk.tables.crash(kept));
        let unsynced = disk.log.unsynced_bytes();
        let torn = unsynced * crash.log_kept_per_mille as usize / 1000;
        if crash.lose_log {
            disk.log = MemoryLog::new();
            disk.records = Vec::new();
            disk.log_missing = machine.own.is_some();
        } else if let Ok((log, records, _)) = disk.log.crash(torn) {
            disk.log = log;
            disk.records = records;
        }
        let records = disk.records.len();
        self.say(|| {
            format!(
                "node {node}: CRASH {:?}; {kept} of {unflushed} unflushed blocks and {torn} of {unsynced} unsynced bytes \
                 are left; {records} records{}",
                crash.point,
                if crash.lose_log { ", the log is LOST" } else { "" }
            )
        });
        let boot = self.now + crash.down;
        self.at(boot, Happening::Boot { node });
        for to in 0..self.machines.len() {
            if to != node {
                let noticed = self.now + self.random.below(crash.down.min(SECOND));
                self.at(
                    noticed,
                    Happening::Peer {
                        to,
                        peer: node,
                        up: false,
                    },
                );
            }
        }
    }

    fn boot(&mut self, node: usize) -> Result<(), Violation> {
        if self.machines[node].process.is_some() {
            return Ok(());
        }
        let machine = &mut self.machines[node];
        machine.life += 1;
        machine.crash = None;
        machine.busy_until = self.now;
        let (life, now) = (machine.life, machine.clock.read(self.now));
        let setup = Setup {
            genesis: self.genesis.clone(),
            electorate: self.electorate.clone(),
            own: machine.own,
            pool: self.pool_config(),
            seed: self.seed ^ ((node as u64) << 32) ^ (life << 48),
        };
        let records = self.records(node)?;
        let kept = matches!(&records, Records::Kept(_));
        let options = StoreOptions {
            retain_blocks: self.plan.retain_blocks,
            ..StoreOptions::default()
        };
        let opened = LedgerStore::open_with(self.machines[node].disk.tables.clone(), &self.genesis, options)
            .map_err(|error| error.to_string())
            .and_then(|store| match Core::open(setup, self.plan.sync, &store, records, now) {
                Ok((replica, effects)) => Ok((store, replica, effects)),
                Err(error) => Err(error.to_string()),
            });
        let (store, replica, mut effects) = opened.map_err(|error| {
            let what = format!("node {node} does not start: {error}");
            self.checkers.violation(Checker::Stopped, what)
        })?;
        let height = store.tip().map(|tip| tip.height.0).unwrap_or_default();
        self.say(|| {
            format!(
                "node {node}: starts at height {height}{}",
                if kept { "" } else { ", without its log" }
            )
        });
        self.machines[node].process = Some(Process::new(replica, store));
        self.end_turn(node, |world| world.serve(node, &mut effects))?;
        for peer in 0..self.machines.len() {
            if peer != node && self.machines[peer].process.is_some() {
                let at = self.now + self.random.below(SECOND / 10);
                self.at(
                    at,
                    Happening::Peer {
                        to: node,
                        peer,
                        up: true,
                    },
                );
                self.at(
                    at,
                    Happening::Peer {
                        to: peer,
                        peer: node,
                        up: true,
                    },
                );
            }
        }
        self.at(self.now + SECOND / 3, Happening::Flush { node, life });
        Ok(())
    }

    fn pool_config(&self) -> pool::Config {
        pool::Config {
            max_transactions: 300,
            max_bytes: 2_000_000,
        }
    }

    /// What the safety log held.
    fn records(&self, node: usize) -> Result<Records, Violation> {
        let disk = &self.machines[node].disk;
        if disk.log_missing {
            return Ok(Records::Missing);
        }
        if planted!(ForgetLog) {
            return Ok(Records::Kept(Vec::new()));
        }
        let records = disk.records.iter().map(|bytes| SafetyRecord::decode(bytes));
        records.collect::<Result<_, _>>().map(Records::Kept).map_err(|error| {
            let what = format!("node {node} cannot read its safety log: {error}");
            self.checkers.violation(Checker::Stopped, what)
        })
    }

    fn flush(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if self.machines[node].life != life {
            return Ok(());
        }
        let trim = self.random.chance(300);
        let next = self.now + self.random.between(SECOND / 5, 2 * SECOND);
        let Some(process) = &mut self.machines[node].process else {
            return Ok(());
        };
        let flushed = process.store.flush();
        let height = process.store.height();
        process.trim |= trim;
        flushed.map_err(|error| {
            self.checkers
                .violation(Checker::Stopped, format!("node {node}: {error}"))
        })?;
        self.push(node, Input::Flushed(height));
        self.at(next, Happening::Flush { node, life });
        Ok(())
    }

    /// Faults end here; only liars go on.
    fn calm(&mut self) {
        self.say(|| "the faults end".to_owned());
        self.network.heal();
        self.network.weather = Weather::FAIR;
        for machine in &mut self.machines {
            machine.busy_until = machine.busy_until.min(self.now);
        }
        for node in 0..self.machines.len() {
            self.plan_turn(node);
        }
        self.tell_all_links();
        self.at(self.now + 4 * SECOND, Happening::Probes);
    }

    // ---- the end -----------------------------------------------------------------------------------------------

    fn probe(&mut self) {
        let Some(witness) = self
            .machines
            .iter()
            .find(|machine| machine.is_correct() && machine.process.is_some())
        else {
            return;
        };
        let Some(process) = &witness.process else { return };
        let exists = |coin: &OutPoint| matches!(process.store.coin(coin), Ok(Some(_)));
        let nodes = self.machines.len();
        let submissions = self
            .clients
            .probe(&mut self.random, &mut self.book, self.now, nodes, exists);
        self.schedule(submissions);
    }

    /// Looks at memory all the time, and, once the faults have ended, whether everything has finished.
    fn look(&mut self) -> Result<(), Violation> {
        for machine in self.machines.iter().filter(|machine| machine.is_correct()) {
            let Some(process) = &machine.process else { continue };
            let config = self.pool_config();
            let pool = process.replica.snapshot().pool;
            let node = machine.index;
            self.checkers
                .on_memory(node, "bytes in the pool", pool.bytes, config.max_bytes as u64)?;
            let most = config.max_transactions as u64;
            self.checkers
                .on_memory(node, "transactions in the pool", pool.pending, most)?;
        }
        let ends = self.plan.calm_from + CRASH_PATIENCE;
        if self.now > ends + SECOND {
            match self.unfinished() {
                None => self.done = true,
                Some(what) if self.now > ends + PATIENCE => {
                    let what = format!("{} s after the faults: {what}", PATIENCE / SECOND);
                    return Err(self.checkers.violation(Checker::Liveness, what));
                }
                Some(_) => {}
            }
        }
        self.at(self.now + SECOND / 2, Happening::Look);
        Ok(())
    }

    /// Something that is not finished yet.
    fn unfinished(&self) -> Option<String> {
        for machine in self.machines.iter().filter(|machine| machine.is_correct()) {
            let node = machine.index;
            let Some(process) = &machine.process else {
                return Some(format!("node {node} is down"));
            };
            if process.store.is_syncing() {
                return Some(format!("node {node} is fetching the state"));
            }
            for (txid, entry) in self.book.iter() {
                let must = self.book.is_expected(txid) || entry.final_ || entry.committed;
                // What is in blocks that a node does not keep, it cannot find.
                let kept = process.store.first_block().unwrap_or_default();
                if self.checkers.committed().get(txid).is_some_and(|height| *height < kept) {
                    continue;
                }
                if must && !matches!(process.store.location(txid), Ok(Some(_))) {
                    let final_ = if entry.final_ { "final" } else { "not final" };
                    return Some(format!(
                        "{:?} {} ({final_}) is not committed at node {node}",
                        entry.purpose,
                        txid.short()
                    ));
                }
            }
            for coin in self.book.disputed_coins() {
                // A coin too small to pay two fees is probed by nobody.
                let worth = |coin: &crate::primitives::Coin| coin.output.value.0 > 2 * super::clients::FEE;
                if matches!(process.store.coin(&coin), Ok(Some(coin)) if worth(&coin)) {
                    return Some(format!(
                        "contested coin {coin} is neither free nor spent at node {node}"
                    ));
                }
            }
        }
        None
    }

    /// Recomputes at the end what was kept up to date all along.
    fn finish(&mut self) -> Result<(), Violation> {
        for machine in self.machines.iter().filter(|machine| machine.is_correct()) {
            let node = machine.index;
            let Some(process) = &machine.process else { continue };
            let broken = |error: String| {
                self.checkers
                    .violation(Checker::Stopped, format!("node {node}: {error}"))
            };
            let tip: Tip = process.store.tip().map_err(|error| broken(error.to_string()))?;
            let coins = coins_of(&machine.disk.tables).map_err(broken)?;
            let commitment = Commitment::of_coins(coins.iter().map(|(outpoint, coin)| (outpoint, coin)));
            let sum = coins.iter().map(|(_, coin)| u128::from(coin.output.value.0)).sum();
            self.checkers.on_coins(node, &tip, commitment.root(), sum)?;
            let kept = process.store.first_block().map_err(|error| broken(error.to_string()))?;
            for (height, (block, _)) in self.checkers.blocks().range(kept..=tip.height) {
                let stored = process
                    .store
                    .block(*height)
                    .map_err(|error| broken(error.to_string()))?;
                let id = stored.map(|stored| stored.block.header.id(&self.electorate.chain));
                if id != Some(*block) {
                    let what = format!("node {node} has {id:?} at height {height}, decided was {block}");
                    return Err(self.checkers.violation(Checker::Fork, what));
                }
            }
        }
        self.say(|| "all is well".to_owned());
        Ok(())
    }
}

/// All coins, as they are stored.
fn coins_of(tables: &MemoryBackend) -> Result<Vec<(OutPoint, Coin)>, String> {
    let entries = tables
        .scan(Table::Coins, &[], usize::MAX)
        .map_err(|error| error.to_string())?;
    entries
        .iter()
        .map(|(key, value)| {
            let outpoint = OutPoint::from_bytes(key).map_err(|error| error.to_string())?;
            Ok((outpoint, Coin::decode(value).map_err(|error| error.to_string())?))
        })
        .collect()
}

fn clone(transaction: &CheckedTransaction) -> CheckedTransaction {
    Arc::clone(transaction)
}

fn describe(gossip: &Gossip) -> String {
    match gossip {
        Gossip::Transactions(all) => format!("{} transactions", all.len()),
        Gossip::Votes(batch) => {
            let votes: Vec<String> = batch
                .votes
                .iter()
                .map(|vote| format!("{:?} {}", vote.kind, vote.txid.short()))
                .collect();
            format!("votes {}/{}: {}", batch.epoch, batch.sequence, votes.join(", "))
        }
        Gossip::Proposal(proposal) => format!(
            "proposal {}/{} of {} txids, {} rejections, {} seals, parent {}",
            proposal.height,
            proposal.round,
            proposal.txids.len(),
            proposal.rejections.len(),
            proposal.seals.len(),
            proposal.header.parent.short(),
        ),
        Gossip::BlockVote(vote) => format!("{:?} {}/{} {}", vote.phase, vote.height, vote.round, vote.block.short()),
        Gossip::ViewChange(change) => {
            let claim = change.prepared.map(|claim| (claim.round, claim.block.short()));
            format!("view change to {}/{}, prepared {claim:?}", change.height, change.round)
        }
        Gossip::Seal(seal) => format!("seal of epoch {} over {} payments", seal.epoch, seal.txids.len()),
        Gossip::Status(status) => format!(
            "status {}/{}, epoch {}, batches {:?}",
            status.height, status.round, status.epoch, status.sequences
        ),
    }
}

fn describe_event(event: &Event) -> String {
    match event {
        Event::Accepted(txid) => format!("accepted {}", txid.short()),
        Event::Final(txid) => format!("FINAL {}", txid.short()),
        Event::Committed(committed) => {
            let names: Vec<String> = committed.transactions.iter().map(|txid| txid.short()).collect();
            let rejected: Vec<String> = committed.rejected.iter().map(|txid| txid.short()).collect();
            format!(
                "committed {}/{} {}: {}; rejected: {}",
                committed.height,
                committed.round,
                committed.block.short(),
                names.join(", "),
                rejected.join(", ")
            )
        }
        Event::Dropped { txid, reason } => format!("dropped {}: {reason:?}", txid.short()),
        Event::Evidence { validator, what } => format!("evidence against validator {validator}: {what}"),
        Event::Voting { votes, reason } => format!("voting: {votes}; {reason}"),
        Event::Synced { height, .. } => format!("synced the state after block {height}"),
        Event::Trouble(what) => format!("TROUBLE {what}"),
    }
}
