//! What a run is about: a seed and a name become a plan of the network, the faults and the payments.

use super::{
    clock::{Micros, SECOND},
    liars::Vices,
    network::Weather,
    random::Random,
};
use crate::{primitives::Params, sync};
use std::str::FromStr;

macro_rules! scenarios {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal,)*) => {
        /// A kind of trouble.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Scenario {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Scenario {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What it is, in a line.
            pub const fn about(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),*),)*
                }
            }
        }
    };
}

scenarios! {
    /// Nothing goes wrong.
    Calm = "calm",
    /// Messages are late, lost, doubled and out of order.
    Lossy = "lossy",
    /// The network falls apart and heals, several times.
    Partition = "partition",
    /// Validators crash at any point of a turn, lose what was not synced, and come back.
    Crash = "crash",
    /// The power fails: everybody crashes at once.
    CrashAll = "crash-all",
    /// Clocks are wrong, run unevenly, and are set forward and back.
    Skew = "skew",
    /// One validator says different things about blocks to different peers.
    LiarBlocks = "liar-blocks",
    /// One validator votes for everything, and differently to each peer.
    LiarPayments = "liar-payments",
    /// One validator withholds, or says nothing at all.
    LiarSilent = "liar-silent",
    /// One validator sends garbage, junk with right signatures, and old messages.
    LiarFlood = "liar-flood",
    /// Many payments have a rival.
    DoubleSpend = "double-spend",
    /// Epochs of a few blocks, under every fault in turn.
    Epochs = "epochs",
    /// One validator loses its safety log and must be silent until the next epoch.
    LostLog = "lost-log",
    /// Seven validators, two of them liars.
    Seven = "seven",
    /// A node that is no validator follows.
    Observer = "observer",
    /// A newcomer fetches the state by pages, under double spends.
    Newcomer = "newcomer",
    /// A newcomer is stopped again and again while it fetches the state.
    NewcomerCrash = "newcomer-crash",
    /// A newcomer is lied to: coins that are wrong, missing or invented, stale pages, endless ones, silence.
    NewcomerLiar = "newcomer-liar",
    /// Nodes forget old blocks; one was away for so long that nobody has those that it lacks.
    Pruned = "pruned",
    /// A bit of everything.
    Mixed = "mixed",
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let find = Self::ALL.iter().find(|scenario| scenario.name() == text);
        find.copied().ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|scenario| scenario.name()).collect();
            format!("'{text}' is no scenario: expected one of {}", names.join(", "))
        })
    }
}

/// Where in a turn a node stops for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// Between two turns.
    Idle,
    /// A block was applied to the store, and nothing else done.
    AfterWrite,
    /// All inputs are handled, nothing is appended to the safety log.
    BeforeRemember,
    /// Some bytes of the records are in the log, nothing is synced.
    WhileRemembering,
    /// Everything is synced, nothing signed.
    BeforeSigning,
    /// Everything is signed, some of it published.
    WhileSpeaking,
    /// The turn is over, the own statements are not yet handed back.
    AfterTurn,
}

impl CrashPoint {
    const ALL: [Self; 7] = [
        Self::Idle,
        Self::AfterWrite,
        Self::BeforeRemember,
        Self::WhileRemembering,
        Self::BeforeSigning,
        Self::WhileSpeaking,
        Self::AfterTurn,
    ];
}

/// Something that goes wrong, or ends going wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A node goes down at a point of one of its next turns.
    Crash {
        /// Which.
        node: usize,
        /// Where in the turn.
        point: CrashPoint,
        /// How long it stays down.
        down: Micros,
        /// Of a thousand unsynced bytes of its safety log, so many are on disk all the same.
        log_kept_per_mille: u64,
        /// Of a thousand unflushed blocks, so many are on disk all the same.
        store_kept_per_mille: u64,
        /// Whether the safety log is gone altogether.
        lose_log: bool,
    },
    /// A node does nothing for a while.
    Pause {
        /// Which.
        node: usize,
        /// How long.
        length: Micros,
    },
    /// A node's clock is set forward or back.
    Step {
        /// Whose.
        node: usize,
        /// By how much.
        by_us: i64,
    },
    /// The network falls apart: one side for each node.
    Split(Vec<u8>),
    /// One direction of a link is dead.
    Cut {
        /// From here,
        from: usize,
        /// to there.
        to: usize,
    },
    /// All links work again.
    Heal,
    /// Links behave differently from now on.
    Weather(Weather),
}

/// Everything that is decided about a run before it begins.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Power of each validator.
    pub powers: Vec<u64>,
    /// Nodes that are no validators.
    pub observers: usize,
    /// The rules of the chain.
    pub params: Params,
    /// Validators run by the adversary, and what they do.
    pub liars: Vec<(usize, Vices)>,
    /// How links behave at the start.
    pub weather: Weather,
    /// Whether nodes pass gossip on.
    pub relay: bool,
    /// What goes wrong when; ascending.
    pub troubles: Vec<(Micros, Trouble)>,
    /// From here on nothing goes wrong any more, except that liars lie.
    pub calm_from: Micros,
    /// Payments that clients begin until then.
    pub payments: usize,
    /// Of a thousand of them, so many have a rival.
    pub double_spends_per_mille: u64,
    /// Each clock's offset is at most this, either way.
    pub max_offset_us: u64,
    /// Each clock's drift is at most this, either way.
    pub max_drift_ppm: u64,
    /// When this node starts for the first time; the others at 0.
    pub late: Option<(usize, Micros)>,
    /// How nodes get what they missed.
    pub sync: sync::Config,
    /// Blocks that nodes keep; 0: all.
    pub retain_blocks: u64,
}

/// Builds the plan of a scenario for a seed.
pub fn plan(scenario: Scenario, seed: u64) -> Plan {
    let mut planner = Planner {
        random: Random::new(seed, scenario.name()),
        plan: quiet(seed, scenario),
    };
    planner.add(scenario);
    let mut plan = planner.plan;
    plan.troubles.sort_by_key(|(at, _)| *at);
    plan
}

/// Four validators on a good network, with payments and nothing else.
fn quiet(seed: u64, scenario: Scenario) -> Plan {
    let mut random = Random::new(seed, &format!("{}, the quiet part", scenario.name()));
    let block_interval_ms = random.between(200, 900);
    let round_base_ms = random.between(300, 900);
    let params = Params {
        epoch_length: 3_600,
        min_fee_rate: 1,
        block_interval_ms,
        idle_block_interval_ms: block_interval_ms * random.between(1, 4),
        round_base_ms,
        round_step_ms: round_base_ms / 2,
        round_cap_ms: round_base_ms * 6,
        contest_after_ms: random.between(100, 800),
        max_clock_drift_ms: 10_000,
        issuance_per_epoch: random.below(2) * 1_000_003,
        max_block_transactions: *random.pick(&[4, 10, 50, 1_000]).unwrap_or(&50),
        ..Params::default()
    };
    Plan {
        powers: vec![1; 4],
        observers: 0,
        params,
        liars: Vec::new(),
        weather: Weather::FAIR,
        relay: random.chance(500),
        troubles: Vec::new(),
        calm_from: random.between(6, 14) * SECOND,
        payments: random.between(15, 45) as usize,
        double_spends_per_mille: 30,
        max_offset_us: 20_000,
        max_drift_ppm: 20,
        late: None,
        sync: sync::Config {
            mode: sync::Mode::Blocks,
            ..sync::Config::default()
        },
        retain_blocks: 0,
    }
}

struct Planner {
    random: Random,
    plan: Plan,
}

impl Planner {
    fn add(&mut self, scenario: Scenario) {
        match scenario {
            Scenario::Calm => self.plan.double_spends_per_mille = 0,
            Scenario::Lossy => self.bad_weather(),
            Scenario::Partition => self.partitions(),
            Scenario::Crash => self.crashes(),
            Scenario::CrashAll => self.crash_all(),
            Scenario::Skew => self.skew(),
            Scenario::LiarBlocks => self.liar(Vices::blocks),
            Scenario::LiarPayments => self.liar(Vices::payments),
            Scenario::LiarSilent => self.liar(Vices::silence),
            Scenario::LiarFlood => self.liar(|_| Vices::flood()),
            Scenario::DoubleSpend => self.double_spends(),
            Scenario::Epochs => self.epochs(),
            Scenario::LostLog => self.lost_log(),
            Scenario::Seven => self.seven(),
            Scenario::Observer => self.observer(),
            Scenario::Newcomer => self.newcomer(),
            Scenario::NewcomerCrash => self.newcomer_crash(),
            Scenario::NewcomerLiar => self.newcomer_liar(),
            Scenario::Pruned => self.pruned(),
            Scenario::Mixed => self.mixed(),
        }
    }

    fn nodes(&self) -> usize {
        self.plan.powers.len() + self.plan.observers
    }

    /// An instant at which faults may happen.
    fn instant(&mut self) -> Micros {
        self.random.between(SECOND / 2, self.plan.calm_from - SECOND / 2)
    }

    fn bad_weather(&mut self) {
        self.plan.weather = Weather::bad(&mut self.random);
        for _ in 0..self.random.below(4) {
            let weather = if self.random.chance(300) {
                Weather::FAIR
            } else {
                Weather::bad(&mut self.random)
            };
            let at = self.instant();
            self.plan.troubles.push((at, Trouble::Weather(weather)));
        }
    }

    fn partitions(&mut self) {
        for _ in 0..self.random.between(1, 4) {
            let at = self.instant();
            let nodes = self.nodes();
            let trouble = if self.random.chance(250) {
                Trouble::Cut {
                    from: self.random.index(nodes),
                    to: self.random.index(nodes),
                }
            } else {
                let sides = self.random.between(2, 3);
                Trouble::Split((0..nodes).map(|_| self.random.below(sides) as u8).collect())
            };
            self.plan.troubles.push((at, trouble));
            let healed = at + self.random.between(SECOND / 5, 4 * SECOND);
            self.plan
                .troubles
                .push((healed.min(self.plan.calm_from), Trouble::Heal));
        }
    }

    fn crash_at(&mut self, at: Micros, node: usize) {
        let trouble = Trouble::Crash {
            node,
            point: *self.random.pick(&CrashPoint::ALL).unwrap_or(&CrashPoint::Idle),
            down: self.random.between(SECOND / 50, 3 * SECOND),
            log_kept_per_mille: *self.random.pick(&[0, 0, 100, 500, 900, 1000]).unwrap_or(&0),
            store_kept_per_mille: *self.random.pick(&[0, 0, 500, 1000]).unwrap_or(&0),
            lose_log: false,
        };
        self.plan.troubles.push((at, trouble));
    }

    fn crashes(&mut self) {
        for _ in 0..self.random.between(2, 10) {
            let (at, node) = (self.instant(), self.random.index(self.nodes()));
            self.crash_at(at, node);
        }
    }

    fn crash_all(&mut self) {
        for _ in 0..self.random.between(1, 3) {
            let at = self.instant();
            for node in 0..self.nodes() {
                // At once, or within a few turns of one another.
                let late = self.random.below(30_000) * self.random.below(2);
                self.crash_at(at + late, node);
            }
        }
    }

    fn skew(&mut self) {
        self.plan.max_offset_us = 2 * SECOND;
        self.plan.max_drift_ppm = 2_000;
        for _ in 0..self.random.below(6) {
            let trouble = Trouble::Step {
                node: self.random.index(self.nodes()),
                by_us: self.random.between(0, 2 * SECOND) as i64 - SECOND as i64,
            };
            let at = self.instant();
            self.plan.troubles.push((at, trouble));
        }
        for _ in 0..self.random.below(3) {
            let trouble = Trouble::Pause {
                node: self.random.index(self.nodes()),
                length: self.random.between(SECOND / 10, 3 * SECOND),
            };
            let at = self.instant();
            self.plan.troubles.push((at, trouble));
        }
    }

    fn liar(&mut self, vices: impl Fn(&mut Random) -> Vices) {
        let liar = self.random.index(self.plan.powers.len());
        let vices = vices(&mut self.random);
        self.plan.liars.push((liar, vices));
        self.plan.double_spends_per_mille = self.random.between(50, 300);
        if self.random.chance(300) {
            self.bad_weather();
        }
        if self.random.chance(200) {
            self.partitions();
        }
        if self.random.chance(200) {
            self.crashes();
        }
        if self.random.chance(300) {
            // The liar holds as much power as it may: just below a third.
            self.plan.powers = vec![self.random.between(3, 5); 4];
            let others: u64 = self.plan.powers.iter().sum::<u64>() - self.plan.powers[liar];
            self.plan.powers[liar] = (others - 1) / 2;
        }
    }

    fn double_spends(&mut self) {
        self.plan.double_spends_per_mille = self.random.between(300, 800);
        if self.random.chance(400) {
            self.bad_weather();
        }
    }

    fn epochs(&mut self) {
        self.plan.params.epoch_length = self.random.between(3, 8);
        self.plan.double_spends_per_mille = self.random.between(0, 300);
        match self.random.below(8) {
            0 => {}
            1 => self.bad_weather(),
            2 => self.partitions(),
            3 => self.crashes(),
            4 => self.crash_all(),
            5 => self.skew(),
            6 => self.liar(Vices::any),
            _ => {
                self.bad_weather();
                self.crashes();
            }
        }
    }

    fn lost_log(&mut self) {
        self.plan.params.epoch_length = self.random.between(4, 10);
        let (at, node) = (self.instant(), self.random.index(self.plan.powers.len()));
        self.crash_at(at, node);
        if let Some((_, Trouble::Crash { lose_log, .. })) = self.plan.troubles.last_mut() {
            *lose_log = true;
        }
        if self.random.chance(300) {
            self.bad_weather();
        }
    }

    fn seven(&mut self) {
        self.plan.powers = vec![1; 7];
        self.plan.payments = self.plan.payments.min(25);
        let first = self.random.index(7);
        let second = (first + 1 + self.random.index(6)) % 7;
        for liar in [first, second] {
            let vices = Vices::any(&mut self.random);
            self.plan.liars.push((liar, vices));
        }
        self.plan.double_spends_per_mille = self.random.between(50, 300);
        match self.random.below(4) {
            0 => self.bad_weather(),
            1 => self.partitions(),
            2 => self.crashes(),
            _ => {}
        }
        if self.random.chance(300) {
            self.plan.params.epoch_length = self.random.between(4, 12);
        }
    }

    fn observer(&mut self) {
        self.plan.observers = 1;
        if self.random.chance(500) {
            self.plan.params.epoch_length = self.random.between(4, 12);
        }
        if self.random.chance(500) {
            self.plan.late = Some((4, self.instant()));
        }
        match self.random.below(4) {
            0 => self.bad_weather(),
            1 => self.partitions(),
            2 => self.crashes(),
            _ => {}
        }
    }

    /// A fifth node comes when there are some blocks already.
    fn newcomer(&mut self) {
        self.plan.observers = 1;
        self.plan.calm_from = self.random.between(8, 14) * SECOND;
        self.plan.late = Some((4, self.random.between(4 * SECOND, self.plan.calm_from - 2 * SECOND)));
        self.plan.sync = sync::Config {
            mode: sync::Mode::Auto,
            behind_blocks: self.random.between(2, 4),
            bucket_coins: 40,
            ..sync::Config::default()
        };
        self.plan.double_spends_per_mille = self.random.between(100, 600);
        if self.random.chance(700) {
            self.plan.params.epoch_length = self.random.between(3, 12);
        }
        if self.random.chance(300) {
            self.bad_weather();
        }
        if self.random.chance(300) {
            // A validator that was away from the beginning.
            self.plan.observers = 0;
            self.plan.late = self.plan.late.map(|(_, at)| (3, at));
        }
    }

    fn newcomer_crash(&mut self) {
        self.newcomer();
        let Some((node, from)) = self.plan.late else { return };
        for _ in 0..self.random.between(2, 6) {
            let at = self.random.between(from, (from + 2 * SECOND).min(self.plan.calm_from));
            self.crash_at(at, node);
            if let Some((_, Trouble::Crash { down, .. })) = self.plan.troubles.last_mut() {
                *down = (*down).min(SECOND / 4);
            }
        }
    }

    fn newcomer_liar(&mut self) {
        self.newcomer();
        // A quorum must be there without the newcomer.
        self.plan.observers = 1;
        self.plan.late = self.plan.late.map(|(_, at)| (4, at));
        let liar = self.random.index(4);
        let vices = Vices::state(&mut self.random);
        self.plan.liars.push((liar, vices));
    }

    fn pruned(&mut self) {
        self.newcomer();
        self.plan.observers = 1;
        self.plan.params.epoch_length = self.random.between(3, 4);
        self.plan.retain_blocks = 1;
        // Away, not new: it starts with the others, and comes back when they have forgotten what it lacks.
        let (from, to) = (self.plan.late.map_or(SECOND, |(_, at)| at), self.plan.calm_from);
        self.plan.late = None;
        self.plan.sync.behind_blocks = 1_000_000;
        let down = self.random.between(from, to) - SECOND;
        self.crash_at(SECOND, 4);
        if let Some((_, Trouble::Crash { down: away, .. })) = self.plan.troubles.last_mut() {
            *away = down;
        }
    }

    fn mixed(&mut self) {
        self.plan.observers = self.random.below(2) as usize;
        if self.random.chance(500) {
            self.plan.params.epoch_length = self.random.between(3, 15);
        }
        self.plan.double_spends_per_mille = self.random.between(0, 400);
        let troubles: [fn(&mut Self); 6] = [
            Self::bad_weather,
            Self::partitions,
            Self::crashes,
            Self::crash_all,
            Self::skew,
            |planner| planner.liar(Vices::any),
        ];
        for trouble in troubles {
            if self.random.chance(400) {
                trouble(self);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn liars_have_less_than_a_third_of_the_power() {
        for scenario in Scenario::ALL {
            for seed in 0..200 {
                let plan = plan(*scenario, seed);
                let lying: u64 = plan.liars.iter().map(|(liar, _)| plan.powers[*liar]).sum();
                let all: u64 = plan.powers.iter().sum();
                assert!(3 * lying < all, "{} {seed}: {lying} of {all}", scenario.name());
            }
        }
    }

    #[test]
    fn every_plan_is_possible_and_ends() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.name().parse(), Ok(*scenario));
            for seed in 0..200 {
                let plan = plan(*scenario, seed);
                plan.params.check().expect("possible parameters");
                assert!(plan.troubles.iter().all(|(at, _)| *at <= plan.calm_from + SECOND));
                assert!(plan.troubles.is_sorted_by_key(|(at, _)| *at));
            }
        }
    }

    #[test]
    fn every_crash_point_is_reached() {
        let crashes: Vec<Trouble> = (0..50)
            .flat_map(|seed| plan(Scenario::Crash, seed).troubles)
            .map(|(_, t)| t)
            .collect();
        for point in CrashPoint::ALL {
            let here = |trouble: &&Trouble| matches!(trouble, Trouble::Crash { point: at, .. } if *at == point);
            assert!(crashes.iter().filter(here).count() > 5, "{point:?}");
        }
    }
}
