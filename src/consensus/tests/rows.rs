//! Transitions as rows: what comes in, what must go out.
//!
//! Four equal validators at height 1, whose rounds 0, 1, 2, 3 are led by 0, 1, 2, 3. Everything happens at
//! [`start`], one block interval after genesis, unless a row says otherwise.

use super::kit::{
    CHAIN, START, block, certificate, change, config, electorate, genesis, key, machine, round_certificate, shapes,
    signature, tip_after, vote,
};
use crate::{
    consensus::{Action, Consensus, ConsensusError, Mark, Statement, Step, Work},
    primitives::{BlockId, Fault, Gossip, Height, Phase, Proposal, Round, Time, TxId},
};
use std::sync::Arc;

use Phase::{Commit, Prepare};

fn start() -> Time {
    START.plus_ms(1_000)
}

/// The block of validator 0 for round 0.
fn first() -> Proposal {
    block(&genesis(), 0, start(), None, 1)
}

fn id(proposal: &Proposal) -> BlockId {
    proposal.block_id(&CHAIN)
}

/// `block` proposed in a later round by its leader.
fn in_round(round: u32, claim: Option<(u32, BlockId)>, block: Proposal) -> Proposal {
    Proposal {
        round: Round(round),
        leader: round,
        justification: Some(round_certificate(round, claim)),
        signature: signature(round),
        ..block
    }
}

/// A fresh block of the leader of `round`.
fn fresh(round: u32, claim: Option<(u32, BlockId)>) -> Proposal {
    in_round(
        round,
        claim,
        block(&genesis(), round, start(), None, u64::from(round) + 1),
    )
}

/// What a row feeds the machine with.
#[derive(Clone)]
enum In {
    Proposal(Proposal),
    Vote(u32, Phase, BlockId, u32),
    Change(u32, Option<(u32, BlockId)>, u32),
    Valid(BlockId, bool),
    Built(Proposal),
    Restore(Mark),
    Voting(bool),
    /// Milliseconds after [`start`].
    Tick(i64),
}
use In::*;

fn feed(machine: &mut Consensus, now: &mut Time, input: In) -> Result<(), ConsensusError> {
    match input {
        Proposal(proposal) => return machine.on_proposal(*now, proposal),
        Vote(round, phase, block, by) => return machine.on_vote(*now, vote(1, round, phase, block, by)),
        Change(round, claim, by) => return machine.on_view_change(*now, change(round, claim, by)),
        Valid(block, verdict) => machine.on_validated(*now, block, verdict),
        Built(proposal) => machine.on_built(*now, machine.stats().round, proposal),
        Restore(mark) => machine.restore(&mark),
        Voting(voting) => machine.set_voting(voting),
        Tick(ms) => {
            *now = Time(start().0.strict_add_signed(ms));
            machine.on_tick(*now);
        }
    }
    Ok(())
}

/// Feeds a new machine of validator `own` and compares what the last input leads to.
#[track_caller]
fn row(what: &str, own: u32, inputs: Vec<In>, expected: &[&str]) -> Consensus {
    let mut machine = machine(own);
    let mut now = start();
    let mut out = Vec::new();
    for input in inputs {
        machine.take_actions();
        let _ = feed(&mut machine, &mut now, input);
        out = shapes(&mut machine);
    }
    assert_eq!(out, expected, "{what}");
    machine
}

#[test]
fn proposing() {
    row(
        "the leader asks for a block when it is due",
        0,
        vec![Tick(0)],
        &["build 0"],
    );
    row("not before", 0, vec![Tick(-1)], &[]);
    row("others do not", 1, vec![Tick(0)], &[]);
    row(
        "asks again when it is not answered",
        0,
        vec![Tick(0), Tick(250)],
        &["build 0"],
    );
    row("with back-off", 0, vec![Tick(0), Tick(250), Tick(600)], &[]);
    row(
        "the block is proposed",
        0,
        vec![Tick(0), Built(first())],
        &["remember Propose 0", "say Propose 0"],
    );
    row(
        "once",
        0,
        vec![Tick(0), Built(first()), Built(block(&genesis(), 0, start(), None, 2))],
        &[],
    );
    row(
        "not by somebody else",
        1,
        vec![Tick(0), Built(block(&genesis(), 1, start(), None, 2))],
        &[],
    );
    row("not somebody else's", 0, vec![Tick(0), Built(fresh(1, None))], &[]);
    row("silently nothing", 0, vec![Voting(false), Tick(0)], &[]);
    row(
        "an own block needs no validation",
        0,
        vec![Tick(0), Built(first()), Proposal(first())],
        &["remember Prepare 0", "say Prepare 0"],
    );
}

#[test]
fn work_sets_the_pace() {
    let due = |work| {
        let mut machine = Consensus::new(config(4, Some(0)), &genesis(), &[], START);
        machine.on_work(START, work);
        machine.deadline().expect("always").ms_since(START)
    };
    assert_eq!(due(Work::Full), super::super::MIN_PAUSE_MS);
    assert_eq!(due(Work::Some), 1_000);
    let mut idle = Consensus::new(config(4, Some(0)), &genesis(), &[], START);
    idle.on_tick(START.plus_ms(9_999));
    assert_eq!(shapes(&mut idle), [""; 0]);
    idle.on_tick(START.plus_ms(10_000));
    assert_eq!(shapes(&mut idle), ["build 0"]);
    // Work that shows up late is decided at once.
    let mut late = Consensus::new(config(4, Some(0)), &genesis(), &[], START);
    late.on_work(START.plus_ms(3_000), Work::Some);
    assert_eq!(shapes(&mut late), ["build 0"]);
}

#[test]
fn voting() {
    let b = id(&first());
    row("a proposal is judged", 1, vec![Proposal(first())], &["validate"]);
    row(
        "and prepared when it is valid",
        1,
        vec![Proposal(first()), Valid(b, true)],
        &["remember Prepare 0", "say Prepare 0"],
    );
    row("not when it is not", 1, vec![Proposal(first()), Valid(b, false)], &[]);
    row(
        "unless that changes",
        1,
        vec![Proposal(first()), Valid(b, false), Valid(b, true)],
        &["remember Prepare 0", "say Prepare 0"],
    );
    row(
        "a second verdict changes nothing",
        1,
        vec![Proposal(first()), Valid(b, true), Valid(b, true)],
        &[],
    );
    row(
        "silently nothing",
        1,
        vec![Voting(false), Proposal(first()), Valid(b, true)],
        &[],
    );
    let prepares = |own_last: bool| {
        let mut inputs = vec![
            Proposal(first()),
            Valid(b, true),
            Vote(0, Prepare, b, 0),
            Vote(0, Prepare, b, 2),
        ];
        if own_last {
            inputs.push(Vote(0, Prepare, b, 1));
        }
        inputs
    };
    row("two of four are no quorum", 1, prepares(false), &[]);
    row(
        "a quorum of Prepare leads to Commit",
        1,
        prepares(true),
        &["remember prepared 0", "remember Commit 0", "say Commit 0"],
    );
    row(
        "even if the block could not be judged here",
        3,
        vec![
            Proposal(first()),
            Vote(0, Prepare, b, 0),
            Vote(0, Prepare, b, 1),
            Vote(0, Prepare, b, 2),
        ],
        &["remember prepared 0", "remember Commit 0", "say Commit 0"],
    );
    row(
        "but not without the proposal",
        3,
        vec![Vote(0, Prepare, b, 0), Vote(0, Prepare, b, 1), Vote(0, Prepare, b, 2)],
        &[],
    );
    row(
        "which is asked for when more than a third names it",
        3,
        vec![Vote(0, Prepare, b, 0), Vote(0, Prepare, b, 1), Tick(100)],
        &["fetch"],
    );
    row(
        "one vote names nothing",
        3,
        vec![Vote(0, Prepare, b, 0), Tick(100)],
        &[],
    );
    let commits = |by: [u32; 3]| by.map(|by| Vote(0, Commit, b, by)).into_iter();
    let decided = row(
        "a quorum of Commit decides, and the late voice is still heard",
        3,
        [Proposal(first())].into_iter().chain(commits([0, 1, 2])).collect(),
        &["remember Commit 0", "say Commit 0", "decided"],
    );
    assert_eq!(decided.stats().step, Step::Decided);
    row(
        "silent ones decide too",
        3,
        [Voting(false), Proposal(first())]
            .into_iter()
            .chain(commits([0, 1, 2]))
            .collect(),
        &["decided"],
    );
    row(
        "and those who never saw the block",
        3,
        [Voting(false)].into_iter().chain(commits([0, 1, 2])).collect(),
        &["decided unseen"],
    );
    row(
        "who are told when it turns up",
        3,
        [Voting(false)]
            .into_iter()
            .chain(commits([0, 1, 2]))
            .chain([Proposal(first())])
            .collect(),
        &["decided"],
    );
    row(
        "a quorum of Commit decides in a round that is left, without a word",
        1,
        [Proposal(first()), Tick(1), Tick(5_000)]
            .into_iter()
            .chain(commits([0, 2, 3]))
            .collect(),
        &["decided"],
    );
    row(
        "two blocks do not add up",
        1,
        vec![
            Vote(0, Commit, b, 0),
            Vote(0, Commit, b, 2),
            Vote(0, Commit, BlockId([3; 32]), 3),
        ],
        &[],
    );
    row(
        "two rounds do not add up",
        1,
        vec![Vote(0, Commit, b, 0), Vote(1, Commit, b, 2), Vote(0, Commit, b, 3)],
        &[],
    );
}

#[test]
fn leaving_a_round() {
    let b = id(&first());
    let left = &["remember ViewChange 1", "say ViewChange 1"];
    row("the timer starts when a block is due", 1, vec![Tick(0), Tick(999)], &[]);
    row("and runs out", 1, vec![Tick(0), Tick(1_000)], left);
    row("silently nothing", 1, vec![Voting(false), Tick(0), Tick(1_000)], &[]);
    row(
        "left is left",
        1,
        vec![Tick(0), Tick(1_000), Proposal(first()), Valid(b, true)],
        &[],
    );
    row(
        "no Commit any more",
        1,
        vec![
            Tick(0),
            Proposal(first()),
            Tick(1_000),
            Vote(0, Prepare, b, 0),
            Vote(0, Prepare, b, 2),
            Vote(0, Prepare, b, 3),
        ],
        &[],
    );
    row("one is not joined", 1, vec![Change(3, None, 0)], &[]);
    row(
        "more than a third is, at its lowest round",
        1,
        vec![Change(5, None, 0), Change(3, None, 2)],
        &["remember ViewChange 3", "say ViewChange 3"],
    );
    row(
        "a quorum opens a round; its leader makes a block",
        1,
        vec![Change(1, None, 0), Change(1, None, 2), Change(1, None, 1)],
        &["build 1"],
    );
    row(
        "whoever entered without asking asks all the same",
        1,
        vec![
            Voting(false),
            Change(2, None, 0),
            Change(2, None, 2),
            Voting(true),
            Change(2, None, 3),
        ],
        &["remember ViewChange 2", "say ViewChange 2"],
    );
    row(
        "the timer of the new round is longer",
        3,
        vec![Change(1, None, 0), Change(1, None, 1), Change(1, None, 2), Tick(1_499)],
        &["say ViewChange 1"],
    );
    row(
        "but ends",
        3,
        vec![
            Change(1, None, 0),
            Change(1, None, 1),
            Change(1, None, 2),
            Tick(1_499),
            Tick(1_500),
        ],
        &["remember ViewChange 2", "say ViewChange 2"],
    );
    let waiting = || vec![Tick(0), Tick(1_000), Change(1, None, 1)];
    row(
        "a validator waits for a quorum, however long",
        1,
        [waiting(), vec![Tick(60_000)]].concat(),
        &["resend view_change"],
    );
    row(
        "the claim is the highest prepared round, with its proof",
        1,
        vec![
            Proposal(first()),
            Valid(b, true),
            Vote(0, Prepare, b, 0),
            Vote(0, Prepare, b, 1),
            Vote(0, Prepare, b, 2),
            Tick(1),
            Tick(1_001),
        ],
        left,
    );
}

#[test]
fn the_view_change_claims_what_was_prepared() {
    let b = id(&first());
    let mut machine = machine(1);
    let mut now = start();
    for input in [
        Proposal(first()),
        Vote(0, Prepare, b, 0),
        Vote(0, Prepare, b, 3),
        Vote(0, Prepare, b, 2),
        Tick(5_000),
    ] {
        feed(&mut machine, &mut now, input).expect("accepted");
    }
    let said = machine.take_actions().into_iter().find_map(|action| match action {
        Action::Say(Statement::ViewChange(change)) => Some(change),
        _ => None,
    });
    let said = said.expect("it left the round");
    assert_eq!(
        said.prepared.map(|claim| (claim.round, claim.block)),
        Some((Round(0), b))
    );
    assert_eq!(said.certificate, Some(certificate(1, 0, Prepare, b, &[0, 2, 3])));
    assert_eq!(said.validator, 1);
}

#[test]
fn proposing_again() {
    let b = id(&first());
    let claimed = || vec![Change(1, None, 0), Change(1, Some((0, b)), 2), Change(1, None, 3)];
    row(
        "the leader proposes what was prepared",
        1,
        [vec![Proposal(first())], claimed()].concat(),
        &["remember Propose 1", "say Propose 1"],
    );
    row("a leader that lacks it asks for it", 1, claimed(), &["fetch"]);
    row(
        "and proposes it when it comes",
        1,
        [claimed(), vec![Proposal(first())]].concat(),
        &["remember Propose 1", "say Propose 1"],
    );
    row(
        "a proposal that shows a round certificate opens the round",
        3,
        vec![Proposal(in_round(1, Some((0, b)), first()))],
        &["remember ViewChange 1", "say ViewChange 1", "validate"],
    );
    let proposed = in_round(1, Some((0, b)), first());
    row(
        "a block proposed again keeps its time, however old",
        3,
        vec![Tick(60_000), Proposal(proposed.clone()), Valid(b, true)],
        &["remember Prepare 1", "say Prepare 1"],
    );
    let mut machine = row(
        "the proposal said",
        1,
        [vec![Proposal(first())], claimed()].concat(),
        &["remember Propose 1", "say Propose 1"],
    );
    feed(&mut machine, &mut start(), Proposal(Proposal { leader: 1, ..proposed })).expect("its own, signed");
    assert_eq!(machine.proposal(Height(1), &b).map(|body| body.round), Some(Round(1)));
}

#[test]
fn fresh_blocks_are_held_against_the_clock() {
    let at = |ms: u64| block(&genesis(), 0, start().plus_ms(ms), None, 1);
    let early = at(10_001);
    let b = id(&early);
    row(
        "ahead of the clock: wait",
        1,
        vec![Proposal(early.clone()), Valid(b, true)],
        &[],
    );
    row(
        "until its time comes",
        1,
        vec![Proposal(early.clone()), Valid(b, true), Tick(1)],
        &["remember Prepare 0", "say Prepare 0"],
    );
    let edge = at(10_000);
    row(
        "within the drift: fine",
        1,
        vec![Proposal(edge.clone()), Valid(id(&edge), true)],
        &["remember Prepare 0", "say Prepare 0"],
    );
    let old = first();
    row(
        "behind the clock: never",
        1,
        vec![Tick(-999), Proposal(old.clone()), Tick(10_001), Valid(id(&old), true)],
        &[],
    );
    let mut waiting = machine(1);
    feed(&mut waiting, &mut start(), Proposal(early)).expect("kept");
    waiting.on_validated(start(), b, true);
    assert_eq!(waiting.deadline(), Some(start().plus_ms(1)));
}

#[test]
fn what_is_refused_and_why() {
    let other = BlockId([3; 32]);
    let b = id(&first());
    let with = |change: fn(&mut Proposal)| {
        let mut proposal = first();
        change(&mut proposal);
        proposal
    };
    let rows: Vec<(&str, Proposal, &str, Fault)> = vec![
        (
            "not the leader",
            Proposal { leader: 2, ..first() },
            "NotTheLeader",
            Fault::Late,
        ),
        (
            "other parent",
            with(|p| p.header.parent = BlockId([1; 32])),
            "WrongParent",
            Fault::Late,
        ),
        (
            "other transactions",
            with(|p| p.txids.push(TxId([1; 32]))),
            "NotInHeader",
            Fault::Hostile,
        ),
        (
            "a last commit at height 1",
            with(|p| p.last_commit = Some(certificate(0, 0, Commit, p.header.parent, &[0, 1, 2]))),
            "NotInHeader",
            Fault::Hostile,
        ),
        (
            "another height in the header",
            with(|p| p.header.height = Height(2)),
            "NotInHeader",
            Fault::Hostile,
        ),
        (
            "round 0 with a certificate",
            Proposal {
                justification: Some(round_certificate(1, None)),
                ..first()
            },
            "NotJustified",
            Fault::Hostile,
        ),
        (
            "round 1 without",
            Proposal {
                justification: None,
                ..fresh(1, None)
            },
            "NotJustified",
            Fault::Hostile,
        ),
        (
            "a certificate of another round",
            Proposal {
                justification: Some(round_certificate(2, None)),
                ..fresh(1, None)
            },
            "NotJustified",
            Fault::Hostile,
        ),
        (
            "not what was prepared",
            fresh(1, Some((0, b))),
            "NotTheClaim",
            Fault::Hostile,
        ),
        (
            "somebody else's block",
            in_round(1, None, first()),
            "NotFresh",
            Fault::Hostile,
        ),
        (
            "somebody else's block in round 0",
            Proposal {
                leader: 0,
                ..block(&genesis(), 1, start(), None, 1)
            },
            "NotFresh",
            Fault::Hostile,
        ),
        ("too high", with(|p| p.height = Height(9)), "EarlyHeight", Fault::Late),
        ("decided", with(|p| p.height = Height(0)), "StaleHeight", Fault::Late),
    ];
    for (what, proposal, variant, fault) in rows {
        let mut machine = machine(3);
        let error = machine.on_proposal(start(), proposal).expect_err(what);
        assert!(format!("{error:?}").starts_with(variant), "{what}: {error:?}");
        assert_eq!(error.fault(), fault, "{what}");
        assert_eq!(shapes(&mut machine), [""; 0], "{what}");
        // What was refused does not stand in the way of what is right.
        machine.on_proposal(start(), first()).expect(what);
    }
    let votes = [
        (vote(1, 200, Prepare, b, 2), "EarlyRound", Fault::Late),
        (vote(1, 0, Prepare, b, 4), "UnknownValidator", Fault::Hostile),
        (vote(3, 0, Prepare, b, 2), "EarlyHeight", Fault::Late),
        (vote(0, 0, Commit, other, 2), "StaleHeight", Fault::Late),
        (vote(1, 0, Prepare, b, 3), "Foreign", Fault::None),
    ];
    for (vote, variant, fault) in votes {
        let error = machine(3).on_vote(start(), vote).expect_err(variant);
        assert!(format!("{error:?}").starts_with(variant), "{error:?}");
        assert_eq!(error.fault(), fault, "{variant}");
    }
}

#[test]
fn again_and_otherwise() {
    let b = id(&first());
    let second = block(&genesis(), 0, start(), None, 2);
    let mut machine = machine(1);
    let mut now = start();
    let mut fed = |input| feed(&mut machine, &mut now, input).map_err(|error| format!("{error:?}"));
    assert!(fed(Proposal(first())).is_ok());
    assert!(fed(Proposal(first())).is_err_and(|error| error.starts_with("Duplicate")));
    assert!(fed(Proposal(second.clone())).is_err_and(|error| error.starts_with("Conflict")));
    assert!(fed(Vote(0, Prepare, b, 2)).is_ok());
    assert!(fed(Vote(0, Prepare, b, 2)).is_err_and(|error| error.starts_with("Duplicate")));
    assert!(fed(Vote(0, Prepare, id(&second), 2)).is_err_and(|error| error.starts_with("Conflict")));
    assert!(fed(Vote(0, Prepare, BlockId([8; 32]), 2)).is_err_and(|error| error.starts_with("Conflict")));
    assert!(
        fed(Vote(0, Commit, id(&second), 2)).is_ok(),
        "another phase is another matter"
    );
    assert!(fed(Change(2, None, 2)).is_ok());
    assert!(fed(Change(2, None, 2)).is_err_and(|error| error.starts_with("Duplicate")));
    assert!(fed(Change(2, Some((0, b)), 2)).is_err_and(|error| error.starts_with("ConflictingViewChange")));
    let evidence: Vec<_> = machine
        .take_actions()
        .into_iter()
        .filter_map(|action| match action {
            Action::Evidence(evidence) => Some((evidence.first, evidence.second)),
            _ => None,
        })
        .collect();
    let propose = |proposal: &Proposal| vote(1, 0, Phase::Propose, id(proposal), 0);
    assert_eq!(
        evidence,
        [
            (propose(&first()), propose(&second)),
            (vote(1, 0, Prepare, b, 2), vote(1, 0, Prepare, id(&second), 2)),
        ],
        "once for each validator, round and phase"
    );
    let stats = machine.stats();
    assert_eq!(
        (stats.evidence, stats.duplicates, stats.conflicting_view_changes),
        (2, 3, 1)
    );
}

#[test]
fn a_second_block_of_a_leader_is_taken_when_others_vote_for_it() {
    let second = block(&genesis(), 0, start(), None, 2);
    let b = id(&second);
    row(
        "it is asked for, comes, and is committed",
        1,
        vec![
            Proposal(first()),
            Vote(0, Prepare, b, 0),
            Vote(0, Prepare, b, 2),
            Vote(0, Prepare, b, 3),
            Tick(100),
            Proposal(second),
        ],
        &["evidence", "remember prepared 0", "remember Commit 0", "say Commit 0"],
    );
}

#[test]
fn said_again_until_there_is_progress() {
    let b = id(&first());
    let prepared = || vec![Proposal(first()), Valid(b, true), Vote(0, Prepare, b, 1)];
    row("not at once", 1, [prepared(), vec![Tick(249)]].concat(), &[]);
    row(
        "then",
        1,
        [prepared(), vec![Tick(250)]].concat(),
        &["resend block_vote"],
    );
    row(
        "with back-off",
        1,
        [prepared(), vec![Tick(250), Tick(700)]].concat(),
        &[],
    );
    row(
        "again",
        1,
        [prepared(), vec![Tick(250), Tick(750)]].concat(),
        &["resend block_vote"],
    );
    row(
        "a signature that never came back is asked for again",
        1,
        vec![Proposal(first()), Valid(b, true), Tick(250)],
        &["say Prepare 0"],
    );
}

fn signed(round: u32, phase: Phase, block: BlockId) -> Mark {
    Mark::Signed {
        height: Height(1),
        round: Round(round),
        phase,
        block,
    }
}

fn prepared_mark(round: u32, proposal: Proposal) -> Mark {
    let block = id(&proposal);
    Mark::Prepared {
        proposal: Arc::new(proposal),
        certificate: certificate(1, round, Prepare, block, &[0, 1, 2]),
    }
}

#[test]
fn after_a_restart() {
    let b = id(&first());
    let second = block(&genesis(), 0, start(), None, 2);
    row(
        "a vote is said again",
        1,
        vec![Restore(signed(0, Prepare, b)), Tick(0)],
        &["say Prepare 0"],
    );
    row(
        "and no other",
        1,
        vec![
            Restore(signed(0, Prepare, b)),
            Tick(0),
            Proposal(second.clone()),
            Valid(id(&second), true),
        ],
        &[],
    );
    row(
        "no second proposal",
        0,
        vec![Restore(signed(0, Phase::Propose, b)), Tick(0), Built(second.clone())],
        &[],
    );
    row(
        "no second Commit",
        1,
        vec![
            Restore(signed(0, Commit, b)),
            Proposal(second.clone()),
            Vote(0, Prepare, id(&second), 0),
            Vote(0, Prepare, id(&second), 2),
            Vote(0, Prepare, id(&second), 3),
        ],
        &[],
    );
    let left = || Restore(Mark::ViewChanged(change(2, None, 1)));
    row(
        "a round that was left stays left",
        1,
        vec![left(), Proposal(first()), Valid(b, true)],
        &[],
    );
    row(
        "its view change is said again",
        1,
        vec![left(), Tick(0)],
        &["say ViewChange 2"],
    );
    row(
        "and the next claims what was prepared",
        1,
        vec![
            Restore(signed(0, Prepare, b)),
            Restore(prepared_mark(0, first())),
            Restore(signed(0, Commit, b)),
            Tick(0),
            Vote(0, Commit, b, 0),
            Vote(0, Commit, b, 2),
            Vote(0, Commit, b, 1),
        ],
        &["decided"],
    );
    let resumed = row(
        "in the highest round known",
        1,
        vec![left(), Restore(signed(3, Prepare, b)), Tick(0)],
        &["say ViewChange 2", "say Prepare 3"],
    );
    assert_eq!((resumed.stats().round, resumed.stats().step), (Round(3), Step::Propose));
    let later = Mark::Signed {
        height: Height(2),
        round: Round(0),
        phase: Prepare,
        block: b,
    };
    row(
        "where nothing is known any more: silence",
        1,
        vec![Restore(later), Proposal(first()), Valid(b, true)],
        &[],
    );
}

#[test]
fn a_leader_with_marks_proposes_what_was_prepared() {
    let b = id(&first());
    let mut machine = machine(1);
    machine.restore(&prepared_mark(0, first()));
    machine.restore(&Mark::ViewChanged(change(1, Some((0, b)), 1)));
    machine.on_tick(start());
    assert_eq!(shapes(&mut machine), ["say ViewChange 1"]);
    for (claim, by) in [(Some((0, b)), 1), (None, 2), (None, 3)] {
        machine.on_view_change(start(), change(1, claim, by)).expect("counted");
    }
    assert_eq!(shapes(&mut machine), ["remember Propose 1", "say Propose 1"]);
}

#[test]
fn a_trimmed_log_holds_what_binds() {
    let b = id(&first());
    let marks = [
        signed(0, Prepare, b),
        prepared_mark(0, first()),
        signed(0, Commit, b),
        Mark::ViewChanged(change(1, Some((0, b)), 1)),
    ];
    let mut machine = machine(1);
    marks.iter().for_each(|mark| machine.restore(mark));
    let live = machine.live_marks();
    assert_eq!(
        live.len(),
        3,
        "the Prepare of a round that is left does not bind any more: {live:?}"
    );
    let commit = certificate(1, 0, Commit, b, &[0, 2, 3]);
    machine.on_committed(start(), &tip_after(&first()), &commit, None);
    assert_eq!(
        machine.live_marks(),
        live,
        "the height before is kept, should the store lose its block"
    );
    let next = block(&tip_after(&first()), 1, start(), Some(commit), 7);
    let commit = certificate(2, 0, Commit, id(&next), &[0, 2, 3]);
    machine.on_committed(start(), &tip_after(&next), &commit, next.last_commit.as_ref());
    assert_eq!(machine.live_marks(), live, "however long ago");

    // A store that lost more than it ever admitted: these marks are all that is left, and enough to be silent.
    let mut fallen = self::machine(1);
    live.iter().for_each(|mark| {
        let Mark::Signed {
            round, phase, block, ..
        } = mark
        else {
            return;
        };
        fallen.restore(&Mark::Signed {
            height: Height(3),
            round: *round,
            phase: *phase,
            block: *block,
        });
    });
    fallen.on_tick(START.plus_ms(1_000));
    fallen.on_tick(START.plus_ms(9_000));
    assert_eq!(shapes(&mut fallen), [""; 0]);
    assert!(fallen.live_marks().iter().all(|mark| mark.height() == Height(3)));

    // And a mark of a height that is over survives the restart that finds it so.
    let mut again = Consensus::new(config(4, Some(1)), &tip_after(&next), &[], START);
    live.iter().for_each(|mark| again.restore(mark));
    assert_eq!(again.live_marks(), live);
}

#[test]
fn the_next_height() {
    let b = id(&first());
    let tip = tip_after(&first());
    let commit = certificate(1, 0, Commit, b, &[0, 1, 2]);
    let next = block(&tip, 1, start().plus_ms(1_000), Some(commit.clone()), 5);
    let n = id(&next);
    let mut machine = machine(3);
    machine.on_proposal(start(), next.clone()).expect("kept");
    machine.on_vote(start(), vote(2, 0, Prepare, n, 1)).expect("kept");
    machine.on_vote(start(), vote(2, 0, Prepare, n, 2)).expect("kept");
    assert!(machine.on_vote(start(), vote(2, 0, Prepare, n, 2)).is_err(), "once");
    assert_eq!(machine.stats().buffered, 3);
    assert_eq!(shapes(&mut machine), [""; 0]);
    machine.on_committed(start(), &tip, &commit, None);
    assert_eq!(shapes(&mut machine), ["validate"]);
    assert_eq!(
        (
            machine.stats().height,
            machine.stats().buffered,
            machine.stats().prepares
        ),
        (Height(2), 0, 2)
    );
    assert_eq!(machine.proposal(Height(2), &n), Some(&next));

    // A vote that comes late is still in the certificate that the next block carries.
    assert_eq!(machine.last_commit_for_proposal(), Some(commit.clone()));
    machine.on_vote(start(), vote(1, 0, Commit, b, 3)).expect("counted");
    assert_eq!(
        machine.last_commit_for_proposal(),
        Some(certificate(1, 0, Commit, b, &[0, 1, 2, 3]))
    );
    let error = machine.on_vote(start(), vote(1, 0, Commit, BlockId([6; 32]), 3));
    assert!(matches!(error, Err(ConsensusError::Conflict { .. })));
    assert_eq!(shapes(&mut machine), ["evidence"]);
}

#[test]
fn whoever_is_behind_is_sent_the_commit() {
    let b = id(&first());
    let mut machine = machine(3);
    let mut now = start();
    let inputs = [
        Proposal(first()),
        Vote(0, Commit, b, 0),
        Vote(0, Commit, b, 1),
        Vote(0, Commit, b, 2),
    ];
    for input in inputs.into_iter().chain([Vote(0, Commit, b, 3)]) {
        feed(&mut machine, &mut now, input).expect("accepted");
    }
    machine.on_committed(
        now,
        &tip_after(&first()),
        &certificate(1, 0, Commit, b, &[0, 1, 2]),
        None,
    );
    machine.take_actions();
    let behind = |machine: &mut Consensus, ms| {
        let error = machine.on_vote(start().plus_ms(ms), vote(1, 0, Prepare, b, 2));
        assert!(matches!(error, Err(ConsensusError::StaleHeight { .. })));
        machine.take_actions()
    };
    assert_eq!(behind(&mut machine, 10), [], "just late");
    assert_eq!(
        behind(&mut machine, 400),
        [Action::Resend(Gossip::BlockVote(vote(1, 0, Commit, b, 3)))]
    );
    assert_eq!(behind(&mut machine, 500), [], "not for every message");
}

#[test]
fn strangers_fill_nothing() {
    let mut machine = machine(1);
    // One validator, votes and view changes for ever more rounds, heights and blocks.
    for round in 0..2_000u32 {
        let block = BlockId([round as u8; 32]);
        for phase in [Prepare, Commit] {
            let _ = machine.on_vote(start(), vote(1, round, phase, block, 2));
            let _ = machine.on_vote(start(), vote(2, round, phase, block, 2));
        }
        let _ = machine.on_view_change(start(), change(round + 1, Some((round, block)), 2));
        let mut later = block_of_next(round);
        later.leader = 2;
        let _ = machine.on_proposal(start(), later);
    }
    let text = format!("{machine:?}");
    assert!(text.len() < 40_000, "{} characters of state", text.len());
    assert!(machine.stats().buffered <= 10);
    assert_eq!(shapes(&mut machine), [""; 0]);
}

fn block_of_next(salt: u32) -> Proposal {
    let tip = tip_after(&first());
    let commit = certificate(1, 0, Commit, tip.block, &[0, 1, 2]);
    block(&tip, 1, start(), Some(commit), salt.into())
}

#[test]
fn the_watchdog_notices_a_timer_that_is_missing() {
    let mut machine = machine(1);
    machine.on_tick(start());
    assert!(machine.pace.round_end.is_some());
    machine.pace.round_end = Some(start().plus_ms(3_600_000));
    let deadline = machine.deadline().expect("always");
    assert!(deadline <= START.plus_ms(5_000), "looks at least every five seconds");
    machine.on_tick(START.plus_ms(5_000));
    assert_eq!(machine.stats().watchdog, 1);
    assert!(machine.pace.round_end.is_some_and(|end| end <= START.plus_ms(6_000)));
}

#[test]
fn a_clock_set_back_stops_nothing() {
    let mut machine = machine(1);
    machine.on_tick(start());
    let back = Time(start().0 - 3_600_000);
    machine.on_tick(back);
    machine.take_actions();
    machine.on_tick(back.plus_ms(1_000));
    assert_eq!(shapes(&mut machine), ["remember ViewChange 1", "say ViewChange 1"]);
}

#[test]
fn an_observer_follows() {
    let b = id(&first());
    for own in [None, Some(77)] {
        let mut settings = config(4, None);
        settings.own = own.map(key);
        let mut observer = Consensus::new(settings, &genesis(), &[], START);
        observer.on_work(start(), Work::Full);
        observer.on_proposal(start(), first()).expect("kept");
        observer.on_validated(start(), b, true);
        observer.on_tick(start().plus_ms(60_000));
        for by in 0..3 {
            observer
                .on_vote(start().plus_ms(60_000), vote(1, 0, Commit, b, by))
                .expect("counted");
        }
        assert_eq!(shapes(&mut observer), ["validate", "decided"]);
    }
}

#[test]
fn one_validator_alone_decides() {
    let mut settings = config(1, Some(0));
    settings.electorate = electorate(1);
    let mut machine = Consensus::new(settings, &genesis(), &[], START);
    machine.on_work(start(), Work::Some);
    machine.on_built(start(), Round(0), first());
    machine.on_proposal(start(), first()).expect("its own");
    machine
        .on_vote(start(), vote(1, 0, Prepare, id(&first()), 0))
        .expect("its own");
    machine
        .on_vote(start(), vote(1, 0, Commit, id(&first()), 0))
        .expect("its own");
    let shapes = shapes(&mut machine);
    assert_eq!(shapes.last().map(String::as_str), Some("decided"), "{shapes:?}");
}
