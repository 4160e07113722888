//! Whole clusters in virtual time, one seed each: messages are delayed, lost, doubled, reordered and cut off by
//! partitions; validators crash at every point of a turn and come back from what they remembered; liars equivocate.
//! Nothing contradictory may be decided or signed by the correct ones, and when the faults stop, heights must go on.

use super::kit::{CHAIN, START, block, config, electorate, genesis, tip_after};
use crate::{
    consensus::{Action, Consensus, ConsensusError, LEADER_WINDOW, Mark, Statement, Work},
    ledger::Tip,
    primitives::{
        BlockCertificate, BlockId, BlockVote, Gossip, Height, Params, Phase, Proposal, Round, RoundCertificate,
        Signature, Time, ValidatorSet, ViewChange,
        certificate::check_prepared,
        message::Electorate,
        planted::{Planted, plant},
        vote::{block_vote_digest, view_change_digest},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// SplitMix64: enough for choosing faults.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// A signature that can be checked without any cryptography: what is signed, and by whom.
fn sign(validator: u32, digest: [u8; 32]) -> Signature {
    let mut bytes = [validator as u8; 64];
    bytes[..32].copy_from_slice(&digest);
    Signature(bytes)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Liar {
    None,
    /// Never says a word.
    Silent,
    /// Two lives under one key, without a common log.
    Twins,
    /// Proposes two blocks at once, votes for everything, claims nothing.
    Parrot,
}

#[derive(Clone, Debug)]
struct Scenario {
    validators: u32,
    liar: Liar,
    loss: u64,
    doubled: u64,
    delay_ms: u64,
    /// Per mille of turns.
    crashes: u64,
    partitions: bool,
    stores_lose_blocks: bool,
    /// All at once, now and then.
    power_cuts: bool,
    skew_ms: u64,
    /// At each height one node alone hears the Commits of round 0, and nobody hears of that node for a while after.
    one_hears: bool,
}

impl Scenario {
    fn draw(validators: u32, dice: &mut Dice) -> Self {
        let liars = [Liar::None, Liar::Silent, Liar::Twins, Liar::Parrot, Liar::Parrot];
        Self {
            validators,
            liar: liars[dice.below(5) as usize],
            loss: [0, 5, 20, 45][dice.below(4) as usize],
            doubled: [0, 10, 50][dice.below(3) as usize],
            delay_ms: [5, 50, 300, 900][dice.below(4) as usize],
            crashes: [0, 2, 20][dice.below(3) as usize],
            partitions: dice.percent(40),
            stores_lose_blocks: dice.percent(40),
            power_cuts: dice.percent(20),
            skew_ms: [0, 400][dice.below(2) as usize],
            one_hears: dice.percent(25),
        }
    }
}

#[derive(Clone)]
struct Stored {
    proposal: Proposal,
    commit: BlockCertificate,
}

struct Node {
    validator: u32,
    lies: bool,
    life: u64,
    machine: Option<Consensus>,
    log: Vec<Mark>,
    chain: Vec<Stored>,
    /// Blocks that a crash cannot take.
    flushed: usize,
    clock_ahead_ms: u64,
    next_tick: Time,
    alone_until: Time,
}

impl Node {
    fn tip(&self) -> Tip {
        self.chain
            .last()
            .map_or_else(genesis, |stored| tip_after(&stored.proposal))
    }
}

enum Event {
    Message {
        to: usize,
        from: usize,
        gossip: Gossip,
    },
    Tick {
        to: usize,
    },
    Validated {
        to: usize,
        life: u64,
        block: BlockId,
        verdict: bool,
    },
    Built {
        to: usize,
        life: u64,
        height: Height,
        round: Round,
    },
    Commit {
        to: usize,
        life: u64,
        stored: Box<Stored>,
    },
    Blocks {
        to: usize,
        blocks: Vec<Stored>,
    },
    Restart {
        to: usize,
    },
    Chore,
}

struct World {
    scenario: Scenario,
    dice: Dice,
    now: Time,
    number: u64,
    events: BTreeMap<(Time, u64), Event>,
    nodes: Vec<Node>,
    faulty: bool,
    cut: u64,
    electorate: Electorate,
    params: Params,
    decided: BTreeMap<Height, BlockId>,
    signed: BTreeMap<(u32, Height, Round, Phase), BlockId>,
    left: BTreeMap<(u32, Height), Round>,
    parroted: BTreeSet<(Height, Round, BlockId)>,
    evidence: usize,
}

impl World {
    fn new(seed: u64, validators: u32) -> Self {
        let mut dice = Dice(seed);
        let scenario = Scenario::draw(validators, &mut dice);
        let params = Params {
            block_interval_ms: 300,
            idle_block_interval_ms: 700,
            round_base_ms: 600,
            round_step_ms: 300,
            round_cap_ms: 5_000,
            max_clock_drift_ms: 1_000,
            ..Params::default()
        };
        let liars = validators.div_ceil(3) - 1;
        let mut nodes = Vec::new();
        for validator in 0..validators {
            let lies = validator < liars && scenario.liar != Liar::None;
            let twin = lies && scenario.liar == Liar::Twins;
            for _ in 0..=u32::from(twin) {
                nodes.push(Node {
                    validator,
                    lies,
                    life: 0,
                    machine: None,
                    log: Vec::new(),
                    chain: Vec::new(),
                    flushed: 0,
                    clock_ahead_ms: dice.below(scenario.skew_ms + 1),
                    next_tick: Time(u64::MAX),
                    alone_until: START,
                });
            }
        }
        let mut world = Self {
            dice,
            now: START,
            number: 0,
            events: BTreeMap::new(),
            nodes,
            faulty: true,
            cut: 0,
            electorate: electorate(validators),
            params,
            decided: BTreeMap::new(),
            signed: BTreeMap::new(),
            left: BTreeMap::new(),
            parroted: BTreeSet::new(),
            evidence: 0,
            scenario,
        };
        for to in 0..world.nodes.len() {
            world.after(0, Event::Restart { to });
        }
        world.after(100, Event::Chore);
        world
    }

    fn set(&self) -> &Arc<ValidatorSet> {
        self.electorate.of_height(Height(1))
    }

    fn after(&mut self, delay_ms: u64, event: Event) {
        self.number += 1;
        self.events.insert((self.now.plus_ms(delay_ms), self.number), event);
    }

    fn delay(&mut self) -> u64 {
        let most = if self.faulty { self.scenario.delay_ms } else { 40 };
        1 + self.dice.below(most)
    }

    fn run(&mut self, until: Time, enough: impl Fn(&Self) -> bool) -> bool {
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > until {
                return enough(self);
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.handle(event);
            if enough(self) {
                return true;
            }
        }
        unreachable!("chores go on for ever")
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Restart { to } => self.restart(to),
            Event::Chore => self.chore(),
            Event::Tick { to } if self.now >= self.nodes[to].next_tick => {
                self.nodes[to].next_tick = Time(u64::MAX);
                self.turn(to, |machine, now| machine.on_tick(now));
            }
            Event::Message { to, from, gossip } => self.deliver(to, from, gossip),
            Event::Validated {
                to,
                life,
                block,
                verdict,
            } if self.nodes[to].life == life => {
                self.turn(to, |machine, now| machine.on_validated(now, block, verdict));
            }
            Event::Built {
                to,
                life,
                height,
                round,
            } if self.nodes[to].life == life => self.build(to, height, round),
            Event::Commit { to, life, stored } if self.nodes[to].life == life => self.store(to, *stored),
            Event::Blocks { to, blocks } => blocks.into_iter().for_each(|stored| self.store(to, stored)),
            _ => {}
        }
    }

    // ---- one turn of a node -----------------------------------------------------------------------------------

    fn clock(&self, to: usize) -> Time {
        self.now.plus_ms(self.nodes[to].clock_ahead_ms)
    }

    fn turn<T>(&mut self, to: usize, input: impl FnOnce(&mut Consensus, Time) -> T) -> Option<T> {
        let now = self.clock(to);
        let answer = input(self.nodes[to].machine.as_mut()?, now);
        let actions = self.nodes[to].machine.as_mut()?.take_actions();
        self.perform(to, actions);
        if let Some(machine) = &self.nodes[to].machine {
            let deadline = machine.deadline().expect("the watchdog never sleeps");
            let at = Time(deadline.0.saturating_sub(self.nodes[to].clock_ahead_ms)).max(self.now);
            if at < self.nodes[to].next_tick {
                self.nodes[to].next_tick = at;
                let delay = at.ms_since(self.now);
                self.after(delay, Event::Tick { to });
            }
        }
        Some(answer)
    }

    fn perform(&mut self, to: usize, actions: Vec<Action>) {
        let crashes = self.faulty && !self.nodes[to].lies && self.dice.below(1_000) < self.scenario.crashes;
        let crash_at = if crashes { self.dice.below(3) } else { 3 };
        if crash_at == 0 {
            return self.crash(to);
        }
        for action in &actions {
            if let Action::Remember(mark) = action {
                self.remember(to, mark.clone());
            }
        }
        if crash_at == 1 {
            return self.crash(to);
        }
        for action in actions {
            self.act(to, action);
        }
        if crash_at == 2 {
            self.crash(to);
        }
    }

    fn remember(&mut self, to: usize, mark: Mark) {
        let node = &mut self.nodes[to];
        node.log.push(mark.clone());
        if node.lies {
            return;
        }
        let left = self.left.entry((node.validator, mark.height())).or_default();
        match mark {
            Mark::Signed {
                height,
                round,
                phase,
                block,
            } => {
                assert!(round >= *left, "signs in round {round} after leaving for {left}");
                let known = *self
                    .signed
                    .entry((node.validator, height, round, phase))
                    .or_insert(block);
                assert_eq!(
                    known, block,
                    "signs twice in {phase:?} of round {round} of height {height}"
                );
            }
            Mark::ViewChanged(change) => *left = change.round.max(*left),
            Mark::Prepared { proposal, certificate } => {
                assert_eq!(proposal.block_id(&CHAIN), certificate.block);
                assert!(self.is_right(&certificate));
            }
        }
    }

    fn act(&mut self, to: usize, action: Action) {
        let life = self.nodes[to].life;
        let delay = self.delay() / 4;
        match action {
            Action::Remember(_) => {}
            Action::Build { round, .. } => {
                let height = self.nodes[to].tip().height.next();
                self.after(
                    delay,
                    Event::Built {
                        to,
                        life,
                        height,
                        round,
                    },
                );
            }
            Action::Validate(proposal) => {
                let block = proposal.block_id(&CHAIN);
                let mut delay = delay;
                if self.faulty && self.dice.percent(20) {
                    self.after(
                        delay,
                        Event::Validated {
                            to,
                            life,
                            block,
                            verdict: false,
                        },
                    );
                    delay += 200;
                }
                self.after(
                    delay,
                    Event::Validated {
                        to,
                        life,
                        block,
                        verdict: true,
                    },
                );
            }
            Action::Say(statement) => {
                self.check_said(to, &statement);
                let gossip = self.signed(to, statement);
                self.after(
                    0,
                    Event::Message {
                        to,
                        from: to,
                        gossip: gossip.clone(),
                    },
                );
                self.publish(to, &gossip);
                self.lie_about(to, &gossip);
            }
            Action::Resend(gossip) => self.publish(to, &gossip),
            Action::Decided { certificate, proposal } => {
                assert!(self.is_right(&certificate) && certificate.phase == Phase::Commit);
                if !self.nodes[to].lies {
                    self.agree(certificate.height, certificate.block);
                }
                if self.scenario.one_hears && certificate.round == Round(0) {
                    self.nodes[to].alone_until = self.now.plus_ms(2_500);
                }
                if let Some(proposal) = proposal {
                    let stored = Box::new(Stored {
                        proposal: Proposal::clone(&proposal),
                        commit: certificate,
                    });
                    self.after(delay / 4, Event::Commit { to, life, stored });
                }
            }
            Action::Fetch { block } => self.fetch(to, block),
            Action::Evidence(evidence) => {
                self.evidence += 1;
                let (first, second) = (&evidence.first, &evidence.second);
                let liar = self
                    .nodes
                    .iter()
                    .any(|node| node.lies && node.validator == first.validator);
                assert!(liar, "evidence against a correct validator: {evidence:?}");
                assert_ne!(first.block, second.block);
                for vote in [first, second] {
                    assert_eq!(vote.signature, sign(vote.validator, vote.digest(&CHAIN)), "{vote:?}");
                }
            }
        }
    }

    /// Everything said is covered by something remembered.
    fn check_said(&self, to: usize, statement: &Statement) {
        let log = &self.nodes[to].log;
        let signed = |height, round, phase, block| {
            let mark = Mark::Signed {
                height,
                round,
                phase,
                block,
            };
            log.contains(&mark)
        };
        let remembered = match statement {
            Statement::Proposal(proposal) => signed(
                proposal.height,
                proposal.round,
                Phase::Propose,
                proposal.block_id(&CHAIN),
            ),
            Statement::BlockVote(vote) => signed(vote.height, vote.round, vote.phase, vote.block),
            Statement::ViewChange(change) => log.contains(&Mark::ViewChanged(change.clone())),
        };
        assert!(remembered, "said without being remembered: {statement:?}");
    }

    fn signed(&self, to: usize, statement: Statement) -> Gossip {
        let by = self.nodes[to].validator;
        match statement {
            Statement::Proposal(proposal) => Gossip::Proposal(Box::new(Proposal {
                signature: sign(by, proposal.digest(&CHAIN)),
                ..proposal
            })),
            Statement::BlockVote(vote) => Gossip::BlockVote(BlockVote {
                signature: sign(by, vote.digest(&CHAIN)),
                ..vote
            }),
            Statement::ViewChange(change) => Gossip::ViewChange(ViewChange {
                signature: sign(by, change.digest(&CHAIN)),
                ..change
            }),
        }
    }

    fn agree(&mut self, height: Height, block: BlockId) {
        let known = *self.decided.entry(height).or_insert(block);
        assert_eq!(known, block, "two blocks are decided at height {height}");
    }

    // ---- the network ------------------------------------------------------------------------------------------

    fn publish(&mut self, from: usize, gossip: &Gossip) {
        for to in 0..self.nodes.len() {
            self.send(from, to, gossip.clone());
        }
    }

    fn send(&mut self, from: usize, to: usize, gossip: Gossip) {
        // A twin must not learn of the other: it would fall silent.
        if self.nodes[from].validator == self.nodes[to].validator {
            return;
        }
        if self.faulty
            && (self.is_apart(from, to) || self.is_unheard(to, &gossip) || self.dice.percent(self.scenario.loss))
        {
            return;
        }
        let copies = 1 + u64::from(self.faulty && self.dice.percent(self.scenario.doubled));
        for _ in 0..copies {
            let delay = self.delay();
            let gossip = gossip.clone();
            self.after(delay, Event::Message { to, from, gossip });
        }
    }

    fn is_apart(&self, from: usize, to: usize) -> bool {
        let alone = |node: usize| self.now < self.nodes[node].alone_until;
        self.faulty && ((self.cut >> from & 1) != (self.cut >> to & 1) || alone(from) || alone(to))
    }

    fn is_unheard(&self, to: usize, gossip: &Gossip) -> bool {
        let Gossip::BlockVote(vote) = gossip else { return false };
        let hears = vote.height.0 as usize % self.nodes.len() == to;
        self.scenario.one_hears && (vote.phase, vote.round) == (Phase::Commit, Round(0)) && !hears
    }

    fn deliver(&mut self, to: usize, from: usize, gossip: Gossip) {
        if !self.is_checked(&gossip) {
            assert!(
                self.nodes[from].lies,
                "a correct node sends what no check passes: {gossip:?}"
            );
            return;
        }
        if self.nodes[to].lies {
            self.parrot(to, &gossip);
        }
        let result = self.turn(to, |machine, now| match gossip {
            Gossip::Proposal(proposal) => machine.on_proposal(now, *proposal),
            Gossip::BlockVote(vote) => machine.on_vote(now, vote),
            Gossip::ViewChange(change) => machine.on_view_change(now, change),
            _ => Ok(()),
        });
        match result {
            Some(Err(ConsensusError::StaleHeight { .. })) => self.offer_blocks(to, from),
            Some(Err(error @ ConsensusError::Foreign { .. })) if !self.nodes[to].lies => panic!("{error}"),
            Some(Err(error)) if error.fault() == crate::primitives::Fault::Hostile => {
                assert!(self.nodes[from].lies, "a correct node is called hostile: {error}");
            }
            _ => {}
        }
    }

    /// What the check pool does.
    fn is_checked(&self, gossip: &Gossip) -> bool {
        match gossip {
            Gossip::Proposal(proposal) => {
                let right = |certificate: &BlockCertificate| self.is_right(certificate);
                proposal.signature == sign(proposal.leader, proposal.digest(&CHAIN))
                    && proposal.last_commit.as_ref().is_none_or(right)
                    && proposal
                        .justification
                        .as_ref()
                        .is_none_or(|round| self.is_round_right(round))
            }
            Gossip::BlockVote(vote) => vote.signature == sign(vote.validator, vote.digest(&CHAIN)),
            Gossip::ViewChange(change) => {
                let proven = match (&change.prepared, &change.certificate) {
                    (Some(claim), Some(proof)) => {
                        check_prepared(change.height, change.round, claim, proof).is_ok() && self.is_right(proof)
                    }
                    (None, None) => true,
                    _ => false,
                };
                proven && change.signature == sign(change.validator, change.digest(&CHAIN))
            }
            _ => false,
        }
    }

    fn is_right(&self, certificate: &BlockCertificate) -> bool {
        let digest = block_vote_digest(
            &CHAIN,
            certificate.phase,
            certificate.height,
            certificate.round,
            &certificate.block,
        );
        let signatures = &certificate.signatures;
        let power = signatures
            .iter()
            .map(|(validator, _)| self.set().power(*validator))
            .sum();
        signatures.is_sorted_by(|a, b| a.0 < b.0)
            && signatures
                .iter()
                .all(|(validator, signature)| *signature == sign(*validator, digest))
            && self.set().is_quorum(power)
    }

    fn is_round_right(&self, round: &RoundCertificate) -> bool {
        let digest = |claim| view_change_digest(&CHAIN, round.height, round.round, claim);
        let power = round.votes.iter().map(|vote| self.set().power(vote.validator)).sum();
        let proven = match (round.highest_claim(), &round.prepared) {
            (None, None) => true,
            (Some(claim), Some(proof)) => {
                check_prepared(round.height, round.round, &claim, proof).is_ok() && self.is_right(proof)
            }
            _ => false,
        };
        proven
            && round.votes.is_sorted_by(|a, b| a.validator < b.validator)
            && round
                .votes
                .iter()
                .all(|vote| vote.signature == sign(vote.validator, digest(vote.prepared.as_ref())))
            && self.set().is_quorum(power)
    }

    // ---- what the replica does --------------------------------------------------------------------------------

    fn build(&mut self, to: usize, height: Height, round: Round) {
        let node = &self.nodes[to];
        let Some(machine) = &node.machine else { return };
        if node.tip().height.next() != height {
            return;
        }
        let last_commit = machine.last_commit_for_proposal();
        assert_eq!(
            last_commit.is_some(),
            height > Height(1),
            "the tip's certificate is known"
        );
        let salt = self.dice.next();
        let node = &self.nodes[to];
        let proposal = block(&node.tip(), node.validator, self.clock(to), last_commit, salt);
        self.turn(to, |machine, now| machine.on_built(now, round, proposal));
    }

    fn store(&mut self, to: usize, stored: Stored) {
        let node = &mut self.nodes[to];
        if node.machine.is_none() || stored.proposal.height != node.tip().height.next() {
            return;
        }
        assert_eq!(stored.proposal.header.parent, node.tip().block);
        if !node.lies {
            self.agree(stored.proposal.height, stored.commit.block);
        }
        self.nodes[to].chain.push(stored.clone());
        let tip = self.nodes[to].tip();
        self.turn(to, |machine, now| {
            machine.on_committed(now, &tip, &stored.commit, stored.proposal.last_commit.as_ref());
        });
        let trims = self.dice.percent(50);
        let node = &mut self.nodes[to];
        if let Some(machine) = node.machine.as_ref().filter(|_| trims) {
            node.flushed = node.chain.len();
            node.log = machine.live_marks();
        }
    }

    fn offer_blocks(&mut self, from: usize, to: usize) {
        let have = self.nodes[to].chain.len();
        let blocks: Vec<Stored> = self.nodes[from].chain.iter().skip(have).take(10).cloned().collect();
        let lost = self.is_apart(from, to) || (self.faulty && self.dice.percent(self.scenario.loss));
        if !blocks.is_empty() && !lost {
            let delay = self.delay();
            self.after(delay, Event::Blocks { to, blocks });
        }
    }

    fn fetch(&mut self, to: usize, block: BlockId) {
        let from = self.dice.below(self.nodes.len() as u64) as usize;
        let height = self.nodes[to].tip().height.next();
        let found = self.nodes[from]
            .machine
            .as_ref()
            .and_then(|machine| machine.proposal(height, &block).cloned());
        if let Some(proposal) = found {
            self.send(from, to, Gossip::Proposal(Box::new(proposal)));
        }
    }

    fn crash(&mut self, to: usize) {
        let node = &mut self.nodes[to];
        node.machine = None;
        node.life += 1;
        node.next_tick = Time(u64::MAX);
        if self.scenario.stores_lose_blocks {
            let node = &mut self.nodes[to];
            let unflushed = (node.chain.len() - node.flushed) as u64;
            let kept = node.flushed + self.dice.below(unflushed + 1) as usize;
            node.chain.truncate(kept);
        }
        self.nodes[to].flushed = self.nodes[to].chain.len();
        let delay = self.dice.below(3_000);
        self.after(delay, Event::Restart { to });
    }

    fn restart(&mut self, to: usize) {
        let node = &self.nodes[to];
        if (node.lies && self.scenario.liar == Liar::Silent) || node.machine.is_some() {
            return;
        }
        let mut settings = config(self.scenario.validators, Some(node.validator));
        settings.params = self.params.clone();
        let recent: Vec<BlockCertificate> = node
            .chain
            .iter()
            .skip(node.chain.len().saturating_sub(LEADER_WINDOW))
            .filter_map(|stored| stored.proposal.last_commit.clone())
            .collect();
        let mut machine = Consensus::new(settings, &node.tip(), &recent, self.clock(to));
        if let Some(stored) = node.chain.last() {
            machine.set_tip_commit(&stored.commit);
        }
        node.log.iter().for_each(|mark| machine.restore(mark));
        self.nodes[to].machine = Some(machine);
        self.turn(to, |machine, now| machine.on_work(now, Work::Some));
    }

    /// Now and then: another partition, other work, a look at who is behind.
    fn chore(&mut self) {
        if self.scenario.partitions && self.dice.percent(10) {
            self.cut = if self.dice.percent(50) { self.dice.next() } else { 0 };
        }
        if self.faulty && self.scenario.power_cuts && self.dice.percent(3) {
            for node in (0..self.nodes.len())
                .filter(|node| self.nodes[*node].machine.is_some())
                .collect::<Vec<_>>()
            {
                self.crash(node);
            }
        }
        let to = self.dice.below(self.nodes.len() as u64) as usize;
        let work = [Work::None, Work::Some, Work::Full][self.dice.below(3) as usize];
        self.turn(to, |machine, now| machine.on_work(now, work));
        let other = self.dice.below(self.nodes.len() as u64) as usize;
        if self.nodes[to].machine.is_some() {
            self.offer_blocks(other, to);
        }
        self.after(100, Event::Chore);
    }

    // ---- lies -------------------------------------------------------------------------------------------------

    /// A second block beside every proposal, for whoever hears of it first.
    fn lie_about(&mut self, to: usize, gossip: &Gossip) {
        let Gossip::Proposal(proposal) = gossip else { return };
        if !self.nodes[to].lies || self.scenario.liar != Liar::Parrot {
            return;
        }
        let by = self.nodes[to].validator;
        let salt = self.dice.next();
        let tip = self.nodes[to].tip();
        let mut other = block(&tip, by, proposal.header.time, proposal.last_commit.clone(), salt);
        other.round = proposal.round;
        other.justification.clone_from(&proposal.justification);
        let other = self.signed(to, Statement::Proposal(other));
        for victim in 0..self.nodes.len() {
            if self.dice.percent(60) {
                self.send(to, victim, other.clone());
            }
        }
    }

    /// Votes for everything it hears of, in both phases, and claims that nothing was ever prepared.
    fn parrot(&mut self, to: usize, gossip: &Gossip) {
        if self.scenario.liar != Liar::Parrot {
            return;
        }
        let by = self.nodes[to].validator;
        let (height, round, block) = match gossip {
            Gossip::Proposal(proposal) => (proposal.height, proposal.round, proposal.block_id(&CHAIN)),
            Gossip::BlockVote(vote) => (vote.height, vote.round, vote.block),
            Gossip::ViewChange(change) => (change.height, change.round, BlockId::default()),
            _ => return,
        };
        if !self.parroted.insert((height, round, block)) {
            return;
        }
        let mut lies = Vec::new();
        if block == BlockId::default() {
            lies.push(Statement::ViewChange(ViewChange {
                height,
                round,
                prepared: None,
                certificate: None,
                validator: by,
                signature: sign(by, [0; 32]),
            }));
        } else {
            lies.extend([Phase::Prepare, Phase::Commit].map(|phase| {
                Statement::BlockVote(BlockVote {
                    height,
                    round,
                    phase,
                    block,
                    validator: by,
                    signature: sign(by, [0; 32]),
                })
            }));
        }
        for lie in lies {
            let gossip = self.signed(to, lie);
            for victim in 0..self.nodes.len() {
                if self.dice.percent(70) {
                    self.send(to, victim, gossip.clone());
                }
            }
        }
    }
}

/// One seed: faults for a while, then none, and everybody must go on. Answers the heights decided and pairs of
/// contradicting votes seen.
fn run(seed: u64, validators: u32) -> (usize, usize) {
    let mut world = World::new(seed, validators);
    let calm = START.plus_ms(2_000 + world.dice.below(8_000));
    world.run(calm, |_| false);
    world.faulty = false;
    world.cut = 0;
    let decided = world.decided.len() as u64;
    let goal = Height(decided + LEADER_WINDOW as u64 + 4);
    let everybody = |world: &World| {
        let mut correct = world.nodes.iter().filter(|node| !node.lies);
        correct.all(|node| node.tip().height >= goal)
    };
    let late = calm.plus_ms(240_000);
    let done = world.run(late, everybody);
    let heights: Vec<_> = world
        .nodes
        .iter()
        .map(|node| {
            let stats = node.machine.as_ref().map(Consensus::stats).unwrap_or_default();
            (node.lies, node.tip().height, stats.round, stats.step, stats.foreign)
        })
        .collect();
    assert!(done, "stuck below {goal}: {:?}: {heights:?}", world.scenario);
    for node in &world.nodes {
        let stats = node.machine.as_ref().map(Consensus::stats).unwrap_or_default();
        assert!(node.lies || stats.watchdog == 0, "a timer was missing");
    }
    (world.decided.len(), world.evidence)
}

/// What a panic says.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(ToString::to_string);
    panic.downcast_ref::<String>().cloned().or(literal).unwrap_or_default()
}

fn sweep(validators: u32, seeds: u64) {
    let seeds = if cfg!(debug_assertions) { seeds / 20 } else { seeds };
    let mut evidence = 0;
    for seed in 0..seeds {
        match catch_unwind(|| run(seed, validators)) {
            Ok((_, seen)) => evidence += seen,
            Err(panic) => panic!("seed {seed} of {validators} validators: {}", words(&*panic)),
        }
    }
    assert!(evidence > 0, "liars are noticed");
}

#[test]
fn four_validators_agree_and_go_on() {
    sweep(4, 2_000);
}

#[test]
fn seven_validators_agree_and_go_on() {
    sweep(7, 600);
}

#[test]
fn one_seed_is_one_history() {
    assert_eq!(run(77, 4), run(77, 4));
}

/// What a planted fault leads to, at the first seed where it shows.
fn caught(fault: Planted, seeds: u64) -> Option<String> {
    plant(Some(fault));
    let failure = |seed| catch_unwind(AssertUnwindSafe(|| run(seed, 4))).err();
    let failure = (0..seeds).find_map(failure);
    plant(None);
    failure.map(|panic| words(&*panic))
}

#[test]
fn a_quorum_one_too_low_is_caught() {
    let seen = caught(Planted::QuorumOneTooLow, 300).expect("the fault shows");
    assert!(seen.contains("two blocks are decided"), "{seen}");
}

#[test]
fn ignoring_the_prepared_block_is_caught() {
    let seen = caught(Planted::IgnorePrepared, 300).expect("the fault shows");
    assert!(seen.contains("two blocks are decided"), "{seen}");
}
