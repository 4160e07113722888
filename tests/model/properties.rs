//! What must hold in every state, and what must be reachable so that the check is not about an empty world.

use crate::state::{Set, State, Validator, Votes, has, members};
use crate::world::World;
use stateright::Property;

pub const FINALS: &str = "no two conflicting transactions are final";
pub const BLOCKS: &str = "no two conflicting transactions are in blocks";
pub const FINAL_AND_BLOCK: &str = "no final transaction conflicts with one in a block";
pub const FINAL_REJECTED: &str = "nothing final is rejected";
pub const REJECTED_IN_BLOCK: &str = "nothing rejected is in a block";
pub const LEFT_OUT: &str = "nothing final is left out once the closing block of its epoch is decided";
pub const APPLICABLE: &str = "all that a block may carry can be applied together, parents included";
pub const BOTH_WAYS: &str = "nobody correct casts Final and Abandon for one transaction in an epoch";
pub const TWO_LOCKS: &str = "nobody correct locks two live conflicting transactions";
pub const EVIDENCE: &str = "nobody correct produces evidence against itself";

pub const PAID: &str = "a payment becomes final";
pub const RESPENT: &str = "a coin is spent after a block rejected its first spend";
pub const STUCK: &str = "a payment certified in a closed epoch becomes final in the next";
pub const OUTSIDE: &str = "a final payment is in no block when its epoch is about to close";
pub const FREED: &str = "a validator locks a coin that a dead transaction had held there";
pub const CHILD: &str = "a child becomes final before its parent is in a block";
pub const HEALED: &str = "a validator that lost its log votes again";

type Condition = fn(&World, &State) -> bool;

fn always(name: &'static str, condition: Condition) -> Property<World> {
    Property::always(name, condition)
}

fn sometimes(name: &'static str, condition: Condition) -> Property<World> {
    Property::sometimes(name, condition)
}

/// What must hold under the protocol, in every state of every scenario.
pub fn safety() -> Vec<Property<World>> {
    vec![
        always(FINALS, |world, state| {
            !world.contradicts_itself(world.final_ever(state))
        }),
        always(BLOCKS, |world, state| {
            !world.contradicts_itself(state.committed_by(state.tip))
        }),
        always(FINAL_AND_BLOCK, |world, state| {
            world.final_ever(state) & world.dead(state, state.tip) == 0
        }),
        always(FINAL_REJECTED, |world, state| {
            world.final_ever(state) & state.rejected_by(state.tip) == 0
        }),
        always(REJECTED_IN_BLOCK, |_, state| {
            state.committed_by(state.tip) & state.rejected_by(state.tip) == 0
        }),
        always(LEFT_OUT, nothing_left_out),
        always(APPLICABLE, applicable),
        always(BOTH_WAYS, |_, state| {
            state
                .validators
                .iter()
                .flat_map(|v| v.cast)
                .all(|votes| votes.fin & votes.abandon == 0)
        }),
        always(TWO_LOCKS, |world, state| {
            // One that lost its chain cannot tell what had happened on it; the next property judges it.
            state
                .validators
                .iter()
                .filter(|v| v.silent_before <= world.epoch_of(v))
                .all(|v| {
                    let ended = state.rejected_by(v.height) | world.dead(state, v.height);
                    no_two_locks(world, v, ended)
                })
        }),
        always(EVIDENCE, |world, state| {
            let dead = if world.rules.evidence_knows_the_dead {
                world.dead(state, state.tip)
            } else {
                0
            };
            let excused = state.rejected_by(state.tip) | dead;
            state.validators.iter().all(|v| honest(world, v, excused))
        }),
    ]
}

/// What must be reachable, whatever the scenario, and what else is asked for.
pub fn reachable(more: &[fn() -> Property<World>]) -> Vec<Property<World>> {
    let mut reachable = vec![
        sometimes(PAID, |world, state| world.final_ever(state) != 0),
        sometimes(RESPENT, |world, state| {
            members(state.rejected_by(state.tip)).any(|tx| has(world.dead(state, state.tip), tx))
        }),
        sometimes(STUCK, |world, state| {
            let (first, second) = (world.certified(state, 0), world.final_in(state, 1));
            first & second & !world.final_in(state, 0) & !state.committed_by(state.tip) != 0
        }),
        sometimes(OUTSIDE, |world, state| {
            let last = state.tip + 1 == world.scenario.epoch_length;
            last && world.final_in(state, 0) & !state.committed_by(state.tip) != 0
        }),
    ];
    reachable.extend(more.iter().map(|property| property()));
    reachable
}

/// Reachable where a transaction shares one coin of two with another.
pub fn freed() -> Property<World> {
    sometimes(FREED, |world, state| {
        state.validators.iter().any(|v| {
            let dead = world.dead(state, v.height) & !state.rejected_by(v.height);
            members(v.remembers.lock & dead).any(|tx| v.remembers.lock & world.conflicts_of(tx) & !dead != 0)
        })
    })
}

/// Reachable where a transaction spends an output of another.
pub fn child() -> Property<World> {
    sometimes(CHILD, |world, state| {
        let outside = !state.committed_by(state.tip);
        members(world.final_ever(state)).any(|tx| world.scenario.transactions[tx].parents & outside != 0)
    })
}

/// Reachable where safety logs are lost.
pub fn healed() -> Property<World> {
    sometimes(HEALED, |world, state| {
        state.validators.iter().any(|v| {
            v.silent_before != 0 && v.silent_before <= world.epoch_of(v) && v.remembers.lock | v.remembers.fin != 0
        })
    })
}

/// Quorums that come about after the closing block, from validators who have not committed it yet, count too.
fn nothing_left_out(world: &World, state: &State) -> bool {
    let length = world.scenario.epoch_length;
    let closed = state.tip / length;
    (0..closed).all(|epoch| world.final_in(state, epoch) & !state.committed_by((epoch + 1) * length) == 0)
}

/// If it were otherwise, a leader could not put together a closing block from honest seals.
fn applicable(world: &World, state: &State) -> bool {
    let committed = state.committed_by(state.tip);
    let open = !committed & !state.rejected_by(state.tip);
    let carriable = world.certified(state, world.epoch_of_block(state.tip + 1)) & open;
    let parents = members(carriable).fold(0, |set, tx| set | world.scenario.transactions[tx].parents);
    carriable & world.dead(state, state.tip) == 0
        && !world.contradicts_itself(carriable)
        && parents & !(committed | carriable) == 0
}

/// Is there no proof against a validator in what it signed?
fn honest(world: &World, v: &Validator, excused: Set) -> bool {
    if world.rules.evidence_minds_epochs {
        return no_two_locks(world, v, excused) && v.cast.iter().all(|votes| votes.fin & votes.abandon == 0);
    }
    let ever = |kind: fn(&Votes) -> Set| v.cast.iter().fold(0, |set, votes| set | kind(votes));
    let locked = ever(|votes| votes.lock) & !excused;
    !world.contradicts_itself(locked) && ever(|votes| votes.fin) & ever(|votes| votes.abandon) == 0
}

/// Has a validator cast, in one epoch, no Lock votes for two conflicting transactions outside the given ones?
fn no_two_locks(world: &World, v: &Validator, ended: Set) -> bool {
    v.cast
        .iter()
        .all(|votes| !world.contradicts_itself(votes.lock & !ended))
}
