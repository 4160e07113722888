//! Tests of the simulator, and, by planted faults, of its checkers.
//!
//! Seeds are fixed: a failure here is repeated by the command that it prints.

use super::{Checker, Outcome, Scenario, run};
use crate::primitives::planted::{Planted, plant};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs all scenarios in turn until as many seeds are done.
fn assert_no_violation(seeds: std::ops::Range<u64>) {
    let mut broken = Vec::new();
    for seed in seeds {
        let scenario = Scenario::ALL[(seed % Scenario::ALL.len() as u64) as usize];
        if let Some(violation) = run(scenario, seed, None).violation {
            let name = scenario.name();
            broken.push(format!(
                "timecoin sim --seed {seed} --scenario {name} -v\n    {violation}"
            ));
        }
    }
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn no_rule_is_broken_in_any_scenario_first_part() {
    assert_no_violation(0..400);
}

#[test]
fn no_rule_is_broken_in_any_scenario_second_part() {
    assert_no_violation(10_000..10_400);
}

#[test]
fn what_once_broke_a_rule_does_not_again() {
    // Three rivals, each locked by another validator; a restored payment that nobody told of its parent; a payment whose
    // rival was rejected before others heard of it.
    for (seed, scenario) in [
        (10_201, Scenario::LiarFlood),
        (22_239, Scenario::Mixed),
        (41_087, Scenario::LiarPayments),
    ] {
        let violation = run(scenario, seed, None).violation;
        assert!(violation.is_none(), "seed {seed}, {}: {violation:?}", scenario.name());
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let key = |outcome: &Outcome| (outcome.hash, outcome.steps, outcome.virtual_ms, outcome.finals);
    for scenario in Scenario::ALL {
        let (first, second, other) = (
            run(*scenario, 5, None),
            run(*scenario, 5, None),
            run(*scenario, 6, None),
        );
        assert_eq!(key(&first), key(&second), "{}", scenario.name());
        assert_ne!(first.hash, other.hash, "{}", scenario.name());
    }
}

#[test]
fn a_trace_changes_nothing() {
    let mut lines = 0;
    let mut count = |_: &str| lines += 1;
    let traced = run(Scenario::Mixed, 3, Some(&mut count));
    assert_eq!(traced.hash, run(Scenario::Mixed, 3, None).hash);
    assert!(lines > 100);
}

#[test]
fn the_simulator_does_what_it_is_told() {
    let sum = |scenario, count: fn(&Outcome) -> u64| (1..12).map(|seed| count(&run(scenario, seed, None))).sum::<u64>();
    assert!(sum(Scenario::Crash, |outcome| outcome.crashes) > 20);
    assert!(sum(Scenario::LiarSilent, |outcome| outcome.view_changes) > 10);
    assert!(sum(Scenario::DoubleSpend, |outcome| outcome.rejected as u64) > 20);
    assert!(sum(Scenario::Calm, |outcome| outcome.finals as u64) > 200);
    assert_eq!(sum(Scenario::Calm, |outcome| outcome.view_changes), 0);
}

/// Newcomers in every mood of the network: each one ends with the state that the others have, whatever it was told.
#[test]
fn newcomers_arrive() {
    let scenarios = [
        Scenario::Newcomer,
        Scenario::NewcomerCrash,
        Scenario::NewcomerLiar,
        Scenario::Pruned,
    ];
    let mut broken = Vec::new();
    for scenario in scenarios {
        let (mut synced, mut blamed) = (0, 0);
        for seed in 0..60 {
            let outcome = run(scenario, seed, None);
            synced += outcome.state_syncs;
            blamed += outcome.blamed;
            if let Some(violation) = outcome.violation {
                let name = scenario.name();
                broken.push(format!(
                    "timecoin sim --seed {seed} --scenario {name} -v\n    {violation}"
                ));
            }
        }
        println!("{}: {synced} state syncs, {blamed} lies found", scenario.name());
        // Some come so early that blocks are enough.
        assert!(synced >= 40, "{}: only {synced} state syncs", scenario.name());
        assert!(
            scenario != Scenario::NewcomerLiar || blamed >= 20,
            "only {blamed} lies were found"
        );
    }
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
}

/// What noticed a planted fault, within 300 seeds, in the scenarios where it would do harm.
fn caught(fault: Planted, scenarios: &[Scenario]) -> Checker {
    for count in 0..300u64 {
        let scenario = scenarios[count as usize % scenarios.len()];
        plant(Some(fault));
        let outcome = catch_unwind(AssertUnwindSafe(|| run(scenario, count, None)));
        plant(None);
        let checker = match outcome {
            Ok(outcome) => outcome.violation.map(|violation| violation.checker),
            Err(_) => Some(Checker::Stopped),
        };
        if let Some(checker) = checker {
            println!(
                "{fault:?}: caught by {checker:?} after {} seeds, {}",
                count + 1,
                scenario.name()
            );
            return checker;
        }
    }
    panic!("{fault:?} was not caught within 300 seeds");
}

macro_rules! caught {
    ($($test:ident: $fault:ident in $($scenario:ident),+ by $($checker:ident)|+;)*) => {
        $(
            #[test]
            fn $test() {
                let checker = caught(Planted::$fault, &[$(Scenario::$scenario),+]);
                assert!(matches!(checker, $(Checker::$checker)|+), "caught by {checker:?}");
            }
        )*
    };
}

caught! {
    a_low_quorum_is_caught: QuorumOneTooLow in LiarPayments, DoubleSpend, Partition, LiarBlocks
        by Conflict | Fork | FinalLost | Stopped;
    speaking_too_early_is_caught: SpeakBeforeRemember in Crash, CrashAll, Epochs by Contradiction;
    final_after_abandon_is_caught: FinalAfterAbandon in DoubleSpend, LiarPayments by Contradiction;
    freeing_on_abandon_is_caught: FreeOnAbandon in DoubleSpend, LiarPayments by Contradiction;
    an_ignored_prepared_block_is_caught: IgnorePrepared in Lossy, LiarBlocks, Mixed, LiarSilent
        by Fork | Blame | Liveness | Contradiction;
    a_closing_block_without_what_is_sealed_is_caught: ForgetSealed in Epochs
        by FinalLost | Liveness | Conflict;
    voting_after_sealing_is_caught: VoteAfterSeal in Epochs by Contradiction;
    locking_twice_is_caught: LockTwice in DoubleSpend by Contradiction | Conflict;
    a_stale_root_is_caught: StaleRoot in Calm by Stopped | Divergence | Liveness;
    unchecked_coins_are_caught: BucketsUnchecked in NewcomerLiar by Stopped | Divergence | Supply;
    coins_without_the_blocks_since_are_caught: NoReplay in Newcomer by Liveness | Stopped | Divergence | Blame;
    a_forgotten_log_is_caught: ForgetLog in Crash, CrashAll by Contradiction | Liveness;
}
