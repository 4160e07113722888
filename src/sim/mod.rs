//! Floor 5: the simulator, the replica's second shell.
//!
//! A seed and a [`Scenario`] become a run: several real replicas on simulated machines, with one heap of events, one
//! seeded generator, and virtual time. Links delay, lose, double and reorder; clocks are wrong; machines crash at every
//! point of a turn and lose what was not synced; validators lie. After every step the [`checkers`] look. Then the faults
//! stop, and everything valid must finish. The same seed gives the same [`Outcome`], down to the hash over everything
//! that was sent, written and reported.

mod book;
pub mod checkers;
mod clients;
pub mod clock;
mod liars;
mod machine;
mod network;
mod random;
pub mod scenario;
#[cfg(test)]
mod tests;
mod world;

pub use checkers::{Checker, Violation};
pub use scenario::Scenario;
pub use world::{Outcome, Trace, run};
