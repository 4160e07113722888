//! `timecoin sim`: many runs of the simulator, or one with a trace.

use super::say;
use crate::sim::{Outcome, Scenario, run};
use anyhow::bail;
use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

#[derive(clap::Args, Debug)]
pub(super) struct SimArgs {
    /// The first seed. The same seed and scenario give the same run, to the last bit.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run, one after another.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// What goes wrong: a name from --list, or `all`, which takes the next scenario with each seed.
    #[arg(long, default_value = "all")]
    scenario: String,
    /// Runs at the same time; as many as there are processors when left out.
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// Print everything that happens, in order; one run at a time.
    #[arg(long, short)]
    verbose: bool,
    /// List the scenarios and stop.
    #[arg(long)]
    list: bool,
}

/// What the runs of one scenario came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    payments: usize,
    finals: usize,
    blocks: u64,
    view_changes: u64,
    crashes: u64,
    violations: u64,
    virtual_ms: u64,
    took: Duration,
}

/// One run: its outcome, or the panic that ended it.
struct Run {
    seed: u64,
    scenario: Scenario,
    outcome: Result<Outcome, String>,
    took: Duration,
}

impl SimArgs {
    /// Runs the seeds and prints a line for each scenario. An error when a run broke a rule.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        if self.list {
            for scenario in Scenario::ALL {
                say!("{:14}{}", scenario.name(), scenario.about().trim())?;
            }
            return Ok(());
        }
        let only = match self.scenario.as_str() {
            "all" => None,
            name => Some(name.parse::<Scenario>().map_err(anyhow::Error::msg)?),
        };
        let scenario_of = |seed: u64| only.unwrap_or(Scenario::ALL[(seed % Scenario::ALL.len() as u64) as usize]);
        let seeds = self.seed..self.seed.saturating_add(self.seeds);
        let sums = if self.verbose {
            let mut sums = BTreeMap::new();
            for seed in seeds {
                let mut lines = |line: &str| drop(writeln!(io::stdout().lock(), "{line}"));
                tally(&mut sums, one(scenario_of(seed), seed, Some(&mut lines)))?;
            }
            sums
        } else {
            self.many(seeds, scenario_of)?
        };
        report(&sums)
    }

    fn many(
        &self,
        seeds: std::ops::Range<u64>,
        scenario_of: impl Fn(u64) -> Scenario + Sync,
    ) -> anyhow::Result<BTreeMap<Scenario, Sum>> {
        let jobs = self.jobs.or_else(|| thread::available_parallelism().ok());
        let jobs = jobs.map_or(1, NonZeroUsize::get);
        let next = AtomicU64::new(seeds.start);
        let (sender, receiver) = mpsc::channel();
        let mut sums = BTreeMap::new();
        thread::scope(|scope| {
            for _ in 0..jobs {
                let (sender, next, scenario_of) = (sender.clone(), &next, &scenario_of);
                scope.spawn(move || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end || sender.send(one(scenario_of(seed), seed, None)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            receiver.iter().try_for_each(|run| tally(&mut sums, run))
        })?;
        Ok(sums)
    }
}

/// One run. A panic in it is a finding like any other.
fn one(scenario: Scenario, seed: u64, trace: crate::sim::Trace<'_>) -> Run {
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| run(scenario, seed, trace)));
    let outcome = outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "without words".to_owned())
    });
    Run {
        seed,
        scenario,
        outcome,
        took: started.elapsed(),
    }
}

fn tally(sums: &mut BTreeMap<Scenario, Sum>, run: Run) -> io::Result<()> {
    let sum = sums.entry(run.scenario).or_default();
    sum.seeds += 1;
    sum.took += run.took;
    let broken = match &run.outcome {
        Ok(outcome) => {
            sum.payments += outcome.payments;
            sum.finals += outcome.finals;
            sum.blocks += outcome.blocks;
            sum.view_changes += outcome.view_changes;
            sum.crashes += outcome.crashes;
            sum.virtual_ms += outcome.virtual_ms;
            outcome.violation.as_ref().map(ToString::to_string)
        }
        Err(panic) => Some(format!("panic: {panic}")),
    };
    if let Some(what) = broken {
        sum.violations += 1;
        say!("VIOLATION {what}")?;
        say!(
            "    to see it: timecoin sim --seed {} --scenario {} -v",
            run.seed,
            run.scenario.name()
        )?;
    }
    Ok(())
}

fn report(sums: &BTreeMap<Scenario, Sum>) -> anyhow::Result<()> {
    say!(
        "{:14}{:>7}{:>10}{:>9}{:>9}{:>8}{:>9}{:>11}{:>10}{:>9}",
        "scenario",
        "seeds",
        "payments",
        "finals",
        "blocks",
        "rounds",
        "crashes",
        "virtual s",
        "broken",
        "CPU s"
    )?;
    for (scenario, sum) in sums {
        say!(
            "{:14}{:>7}{:>10}{:>9}{:>9}{:>8}{:>9}{:>11}{:>10}{:>9.1}",
            scenario.name(),
            sum.seeds,
            sum.payments,
            sum.finals,
            sum.blocks,
            sum.view_changes,
            sum.crashes,
            sum.virtual_ms / 1000,
            sum.violations,
            sum.took.as_secs_f32()
        )?;
    }
    let violations: u64 = sums.values().map(|sum| sum.violations).sum();
    if violations > 0 {
        bail!("{violations} runs broke a rule; each is repeated by the command printed with it");
    }
    Ok(())
}
