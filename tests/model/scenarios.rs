//! Which payments meet over which coins, and within which bounds.

use crate::properties as p;
use crate::state::TRANSACTIONS;
use crate::world::{Scenario, Transaction, World};
use stateright::Property;

const A: u8 = 1;
const B: u8 = 2;
const C: u8 = 4;
/// The coin that a parent makes.
const CHANGE: u8 = 8;

const fn spends(coins: u8) -> Transaction {
    Transaction { coins, parents: 0 }
}

/// A child spends the output of the first transaction, and perhaps another coin.
const fn child(coins: u8) -> Transaction {
    Transaction {
        coins: CHANGE | coins,
        parents: 1,
    }
}

const NO_SYMMETRY: &[[usize; TRANSACTIONS]] = &[];

/// Two payments over one coin.
pub const PAIR: Scenario = Scenario {
    name: "T1{a} T2{a}",
    transactions: &[spends(A), spends(A)],
    symmetries: &[[1, 0, 2, 3]],
    epoch_length: 2,
    max_height: 4,
    max_losses: 0,
    chain_may_be_lost: false,
    reachable: || p::reachable(&[]),
};

/// Three payments over one coin, so that a coin can be rejected twice before it is spent.
pub const TRIPLE: Scenario = Scenario {
    name: "T1{a} T2{a} T3{a}",
    transactions: &[spends(A), spends(A), spends(A)],
    symmetries: &[[1, 0, 2, 3], [0, 2, 1, 3], [2, 1, 0, 3], [1, 2, 0, 3], [2, 0, 1, 3]],
    ..PAIR
};

/// The middle payment competes with both others: one of them in a block frees its other coin.
pub const BRIDGE: Scenario = Scenario {
    name: "T1{a} T2{ab} T3{b}",
    transactions: &[spends(A), spends(A | B), spends(B)],
    symmetries: &[[2, 1, 0, 3]],
    reachable: || p::reachable(&[p::freed]),
    ..PAIR
};

/// Four payments, each competing with its neighbours.
pub const ROW: Scenario = Scenario {
    name: "T1{a} T2{ab} T3{bc} T4{c}",
    transactions: &[spends(A), spends(A | B), spends(B | C), spends(C)],
    symmetries: &[[3, 2, 1, 0]],
    ..BRIDGE
};

/// A contested parent and its child.
pub const FAMILY: Scenario = Scenario {
    name: "P{a} P'{a} C{P}",
    transactions: &[spends(A), spends(A), child(0)],
    symmetries: NO_SYMMETRY,
    reachable: || p::reachable(&[p::child]),
    ..PAIR
};

/// A contested parent and two children that compete for its output.
pub const SIBLINGS: Scenario = Scenario {
    name: "P{a} P'{a} C{P} C'{P}",
    transactions: &[spends(A), spends(A), child(0), child(0)],
    symmetries: &[[0, 1, 3, 2]],
    ..FAMILY
};

/// A contested parent whose child competes with a stranger over another coin.
pub const IN_LAWS: Scenario = Scenario {
    name: "P{a} P'{a} C{P,b} D{b}",
    transactions: &[spends(A), spends(A), child(B), spends(B)],
    ..FAMILY
};

impl Scenario {
    /// The same payments over other bounds.
    pub const fn bounds(self, epoch_length: u8, max_height: u8) -> Scenario {
        Scenario {
            epoch_length,
            max_height,
            ..self
        }
    }

    /// The same payments while safety logs are lost, and the chain with them if so said.
    pub const fn losing(self, max_losses: u8, chain_may_be_lost: bool) -> Scenario {
        Scenario {
            max_losses,
            chain_may_be_lost,
            reachable: || p::reachable(&[p::healed]),
            ..self
        }
    }

    /// The same payments, with other things that must be reachable.
    pub const fn reaching(self, reachable: fn() -> Vec<Property<World>>) -> Scenario {
        Scenario { reachable, ..self }
    }
}
