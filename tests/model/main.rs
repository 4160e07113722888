//! A model check of the payment path: locks, finality, rejections, and the change of epochs.
//!
//! Three correct validators and a faulty one, a few payments over shared coins, a few blocks and epochs; every order of
//! every step that the rules allow is tried. docs/model.md says what is modelled, what is left out and why that is
//! sound. The first part checks the rules that the node implements; the second breaks one rule at a time and wants to
//! see the damage.

mod properties;
mod rules;
mod scenarios;
mod state;
mod world;

use properties as p;
use rules::{FreedBy, LostLog, Parent, Rules};
use scenarios::{BRIDGE, FAMILY, IN_LAWS, PAIR, ROW, SIBLINGS, TRIPLE};
use state::{Set, State};
use stateright::{Checker, Expectation, HasDiscoveries, Model, Path, Property};
use std::collections::{BTreeSet, HashSet};
use std::time::Instant;
use world::{Scenario, Step, World, renamed};

const P: Rules = Rules::PROTOCOL;

/// Visits every state within the bounds: nothing that must hold may fail, everything that must be reachable is reached.
fn holds(scenario: Scenario, rules: Rules, reduced: bool) {
    let start = Instant::now();
    let checker = World {
        scenario,
        rules,
        reduced,
        expected,
    }
    .checker()
    .finish_when(HasDiscoveries::AnyFailures);
    judge(scenario, reduced, &checker.spawn_bfs().join(), start);
}

/// The same depth first: longer counterexamples for a fraction of the memory.
fn holds_deep_down(scenario: Scenario) {
    let start = Instant::now();
    let checker = World {
        scenario,
        rules: P,
        reduced: true,
        expected,
    }
    .checker();
    judge(
        scenario,
        true,
        &checker.finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join(),
        start,
    );
}

fn expected(scenario: &Scenario) -> Vec<Property<World>> {
    p::safety().into_iter().chain((scenario.reachable)()).collect()
}

fn judge(scenario: Scenario, reduced: bool, checker: &impl Checker<World>, start: Instant) {
    let discoveries = checker.discoveries();
    for property in expected(&scenario) {
        let found = discoveries.get(property.name);
        match (property.expectation, found) {
            (Expectation::Always, Some(path)) => panic!("{}: broken: {}\n{}", scenario.name, property.name, told(path)),
            (Expectation::Sometimes, None) => panic!("{}: never happens: {}", scenario.name, property.name),
            _ => {}
        }
    }
    assert!(checker.is_done(), "{}: not all states were visited", scenario.name);
    println!(
        "{:28} {} blocks, {} an epoch, {} lost, {}: {} states, {} steps, depth {}, {:.1?}",
        scenario.name,
        scenario.max_height,
        scenario.epoch_length,
        scenario.max_losses,
        if reduced { "reduced" } else { "in full" },
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        start.elapsed()
    );
}

/// Wants to see a property broken under changed rules.
fn breaks(property: &'static str, scenario: Scenario, rules: Rules, reduced: bool) {
    assert_ne!(rules, P, "nothing was changed");
    let start = Instant::now();
    let checker = World {
        scenario,
        rules,
        reduced,
        expected: |_| p::safety(),
    }
    .checker()
    .finish_when(HasDiscoveries::AllOf(BTreeSet::from([property])))
    .spawn_bfs()
    .join();
    let found = checker.discovery(property);
    let others: Vec<_> = checker
        .discoveries()
        .into_keys()
        .filter(|name| *name != property)
        .collect();
    let path = found.unwrap_or_else(|| {
        panic!(
            "{}: after {} states nothing broke {property:?} (but {others:?})",
            scenario.name,
            checker.unique_state_count()
        )
    });
    println!(
        "{:28} broken in {} steps, after {} states, {:.1?}: {property}",
        scenario.name,
        path.clone().into_actions().len(),
        checker.unique_state_count(),
        start.elapsed()
    );
    if std::env::var_os("MODEL_TRACES").is_some() {
        println!("{}", told(&path));
    }
}

/// A path for a reader: each state and the step taken in it. The numbers of validators and transactions hold for that
/// state only: after every step both are sorted anew.
fn told(path: &Path<State, Step>) -> String {
    let steps = path.clone().into_vec();
    let step = |step: Option<Step>| step.map_or_else(|| "here it is".to_owned(), |step| format!("{step:?}"));
    steps
        .into_iter()
        .map(|(state, next)| format!("{state}\n      -> {}\n", step(next)))
        .collect()
}

/// The end of a path as far as a client or a reader of the chain can tell: height, payments in blocks, payments
/// rejected, payments final but in no block; the least of its names under the scenario's symmetries.
type Outcome = (u8, Set, Set, Set);

/// Every outcome that can be reached.
fn outcomes(scenario: Scenario, reduced: bool) -> BTreeSet<Outcome> {
    let world = World {
        scenario,
        rules: P,
        reduced,
        expected: |_| Vec::new(),
    };
    let mut waiting = world.init_states();
    let mut seen: HashSet<State> = waiting.iter().copied().collect();
    let mut outcomes = BTreeSet::new();
    while let Some(state) = waiting.pop() {
        let (committed, rejected) = (state.committed_by(state.tip), state.rejected_by(state.tip));
        let sets = [committed, rejected, world.final_ever(&state) & !committed];
        let same = scenario
            .symmetries
            .iter()
            .map(|names| sets.map(|set| renamed(set, names)));
        let [committed, rejected, pending] = same.fold(sets, |least, other| least.min(other));
        outcomes.insert((state.tip, committed, rejected, pending));
        waiting.extend(
            world
                .next_steps(&state)
                .into_iter()
                .map(|(_, next)| next)
                .filter(|next| seen.insert(*next)),
        );
    }
    outcomes
}

#[test]
fn a_pair_in_full() {
    holds(PAIR.bounds(2, 3), P, false);
}

#[test]
fn a_family_in_full() {
    holds(FAMILY.bounds(2, 2).reaching(|| vec![p::child()]), P, false);
}

#[test]
fn the_reduced_search_misses_no_outcome() {
    let scenarios = [
        PAIR.bounds(2, 2),
        PAIR.bounds(3, 3),
        PAIR.bounds(1, 2),
        PAIR.bounds(2, 2).losing(1, false),
        FAMILY.bounds(2, 2),
        TRIPLE.bounds(1, 1),
        BRIDGE.bounds(1, 1),
    ];
    for scenario in scenarios {
        let (full, reduced) = (outcomes(scenario, false), outcomes(scenario, true));
        assert!(full.len() > 3, "{}: {full:?}", scenario.name);
        assert_eq!(full, reduced, "{}", scenario.name);
        println!("{:28} {} outcomes, reduced and in full", scenario.name, full.len());
    }
}

#[test]
fn two_payments_over_one_coin() {
    holds(PAIR, P, true);
    holds(PAIR.bounds(3, 9), P, true);
    holds(PAIR.bounds(1, 3), P, true);
}

#[test]
fn three_payments_over_one_coin() {
    holds(TRIPLE.bounds(3, 6), P, true);
}

#[test]
fn a_payment_over_the_coins_of_two_others() {
    holds(BRIDGE, P, true);
    holds(BRIDGE.bounds(1, 3).reaching(|| p::reachable(&[])), P, true);
}

#[test]
fn a_row_of_four_payments() {
    holds(ROW.bounds(2, 2).reaching(|| vec![p::freed()]), P, true);
    holds(ROW.bounds(1, 2).reaching(|| p::reachable(&[])), P, true);
}

#[test]
fn a_contested_parent_and_its_child() {
    holds(FAMILY.bounds(3, 6), P, true);
}

#[test]
fn a_contested_parent_and_contested_children() {
    holds(SIBLINGS, P, true);
    holds(IN_LAWS.bounds(2, 2).reaching(|| vec![p::child()]), P, true);
    holds(IN_LAWS.bounds(1, 2), P, true);
}

#[test]
fn a_lost_log() {
    holds(PAIR.losing(1, false), P, true);
}

#[test]
fn a_lost_log_and_a_lost_chain() {
    holds(PAIR.losing(1, true), P, true);
}

/// Wider bounds, for an idle machine.
#[test]
#[ignore = "takes ten minutes"]
fn deep_down() {
    holds_deep_down(BRIDGE.bounds(3, 6));
    holds_deep_down(IN_LAWS.bounds(2, 3));
}

/// That a seal waits for the height before the closing block keeps its list short; safety does not hang on it.
#[test]
fn an_early_seal_does_no_harm() {
    let rules = Rules {
        seal_at_last_height: false,
        ..P
    };
    holds(PAIR.bounds(3, 6), rules, true);
    holds(PAIR.bounds(2, 2).reaching(Vec::new), rules, false);
}

/// One rule broken: the property that must then fail, the scenario, and the searches that must both find it. What the
/// reduced search finds is a path of the full one too, but some faults only show on steps that it leaves out.
macro_rules! broken {
    ($($name:ident: { $($field:ident: $value:expr)+ } $property:ident in $scenario:expr, $($search:ident)+;)*) => {
        $(#[test]
        fn $name() {
            for search in [$(stringify!($search)),+] {
                breaks(p::$property, $scenario, Rules { $($field: $value,)+ ..P }, search == "reduced");
            }
        })*
    };
}

broken! {
    locks_of_half_certify: { lock_quorum: 2 } FINALS in PAIR, full reduced;
    finals_of_half_suffice: { final_quorum: 2 } FINAL_REJECTED in PAIR, full reduced;
    a_third_and_one_reject: { abandon_quorum: 2 } FINAL_REJECTED in PAIR, full reduced;
    a_third_and_one_free_a_coin: { abandon_quorum: 2 } FINALS in PAIR, full reduced;
    seals_of_half_close: { seal_quorum: 2 } LEFT_OUT in PAIR, full reduced;
    locks_hold_nothing: { locks_exclude: false } FINALS in PAIR, full reduced;
    abandoning_frees: { freed_by: FreedBy::OwnAbandon } FINALS in PAIR, full;
    a_quorum_of_abandons_frees: { freed_by: FreedBy::AbandonQuorum } FINAL_AND_BLOCK in PAIR, full;
    a_rival_certificate_frees: { freed_by: FreedBy::ConflictingCertificate } FINALS in BRIDGE, reduced;
    final_without_certificate: { final_needs_certificate: false } FINALS in PAIR, full reduced;
    final_after_abandon: { final_after_abandon: true } FINAL_REJECTED in PAIR, full reduced;
    abandon_after_final: { abandon_after_final: true } FINAL_REJECTED in PAIR, full reduced;
    voting_after_the_seal: { silent_after_seal: false } LEFT_OUT in PAIR, full reduced;
    next_epoch_before_its_time: { next_epoch_at_closing_block: false } FINAL_AND_BLOCK in PAIR, full reduced;
    empty_seals: { seals_list_finals: false } LEFT_OUT in PAIR, full reduced;
    seals_ignored: { closing_carries_sealed: false } LEFT_OUT in PAIR, full reduced;
    seals_without_certificates: { sealed_needs_certificate: false } BLOCKS in PAIR, full reduced;
    rejected_but_sealed: { rejected_stay_out: false } REJECTED_IN_BLOCK in PAIR, full reduced;
    finals_of_two_epochs: { finals_of_one_epoch: false } FINAL_REJECTED in PAIR, reduced;
    locks_of_an_old_epoch: { locks_of_this_epoch: false } FINAL_AND_BLOCK in PAIR, full reduced;
    abandons_of_an_old_epoch: { abandons_of_this_epoch: false } FINAL_REJECTED in PAIR, full;
    rejections_forgotten: { rejections_last: false } FINAL_REJECTED in PAIR, full reduced;
    rejecting_what_is_in_a_block: { committed_stays: false } REJECTED_IN_BLOCK in PAIR, full;
    child_of_a_certified_parent: { parent: Parent::Certified } APPLICABLE in FAMILY, full reduced;
    voting_on_without_the_log: { lost_log: LostLog::GoesOn } FINALS in PAIR.losing(1, false), full reduced;
    remembering_own_locks_only:
        { lost_log: LostLog::KeepsOwnLocks } FINAL_REJECTED in PAIR.losing(1, false), full reduced;
    sealing_without_the_log: { lost_log: LostLog::StillSeals } LEFT_OUT in PAIR.losing(1, false), full reduced;
    waiting_too_short_without_log_and_chain:
        { lost_log: LostLog::SilentUntilOwnNextEpoch } FINALS in PAIR.bounds(1, 2).losing(1, true), reduced;
    evidence_blind_to_the_dead: { evidence_knows_the_dead: false } EVIDENCE in BRIDGE, full reduced;
    evidence_blind_to_epochs: { evidence_minds_epochs: false } EVIDENCE in PAIR, full;
}
