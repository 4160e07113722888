//! One state of the world: the decided blocks, and what every correct validator has committed, cast and remembered.

use std::fmt;

/// A set of transactions, one bit each.
pub type Set = u8;

/// Correct validators; the fourth one is faulty and needs no state, since every vote of it exists from the start.
pub const CORRECT: usize = 3;
/// The most transactions in a scenario.
pub const TRANSACTIONS: usize = 4;
/// The most epochs in a scenario.
pub const EPOCHS: usize = 3;

/// The members of a set, lowest first.
pub fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..TRANSACTIONS).filter(move |tx| has(set, *tx))
}

/// All subsets of a set, the set itself first and the empty one last.
pub fn subsets(set: Set) -> impl Iterator<Item = Set> {
    std::iter::successors(Some(set), move |sub| (*sub != 0).then(|| (*sub - 1) & set))
}

/// Is the transaction in the set?
pub fn has(set: Set, tx: usize) -> bool {
    set & (1 << tx) != 0
}

/// The votes of one validator in one epoch.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Votes {
    pub lock: Set,
    pub fin: Set,
    pub abandon: Set,
}

impl Votes {
    /// Every set of the three, mapped.
    pub fn map(self, f: impl Fn(Set) -> Set) -> Votes {
        Votes {
            lock: f(self.lock),
            fin: f(self.fin),
            abandon: f(self.abandon),
        }
    }
}

/// A seal that was broadcast.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Seal {
    pub epoch: u8,
    pub list: Set,
}

/// One correct validator.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Validator {
    /// Blocks committed.
    pub height: u8,
    /// First epoch in which it may sign again after it lost its safety log; 0 for one that never did.
    pub silent_before: u8,
    /// The seal of the epoch it stands in, if it made one.
    pub seal: Option<Seal>,
    /// What its safety log says about the epoch it stands in.
    pub remembers: Votes,
    /// What it signed, by epoch; such votes exist for ever, whatever it remembers.
    pub cast: [Votes; EPOCHS],
}

/// Where a transaction stands in the decided blocks; 0 is "in none".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fate {
    /// Height of the block that carries it.
    pub committed: u8,
    /// Height of the block that rejects it.
    pub rejected: u8,
}

/// The world.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct State {
    /// Blocks decided.
    pub tip: u8,
    /// By transaction.
    pub fate: [Fate; TRANSACTIONS],
    /// The correct validators, sorted: they are interchangeable.
    pub validators: [Validator; CORRECT],
    /// Safety logs lost so far.
    pub losses: u8,
}

/// One line for the chain and one for each validator, transactions by number.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (committed, rejected) = (self.committed_by(self.tip), self.rejected_by(self.tip));
        write!(
            f,
            "tip {}, in blocks {}, rejected {}",
            self.tip,
            list(committed),
            list(rejected)
        )?;
        for (at, v) in self.validators.iter().enumerate() {
            write!(f, "\n  {at} at {}, silent before epoch {}", v.height, v.silent_before)?;
            if let Some(seal) = v.seal {
                write!(f, ", sealed {} with {}", seal.epoch, list(seal.list))?;
            }
            write!(f, ", remembers {}, cast", v.remembers)?;
            v.cast.iter().try_for_each(|votes| write!(f, " {votes}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Votes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[lock {} final {} abandon {}]",
            list(self.lock),
            list(self.fin),
            list(self.abandon)
        )
    }
}

fn list(set: Set) -> String {
    if set == 0 {
        "-".to_owned()
    } else {
        members(set).map(|tx| tx.to_string()).collect()
    }
}

impl State {
    /// Transactions that blocks up to `height` carry.
    pub fn committed_by(&self, height: u8) -> Set {
        self.collect(|fate| fate.committed != 0 && fate.committed <= height)
    }

    /// Transactions that blocks up to `height` reject.
    pub fn rejected_by(&self, height: u8) -> Set {
        self.collect(|fate| fate.rejected != 0 && fate.rejected <= height)
    }

    /// The lowest height that a correct validator stands at.
    pub fn lowest(&self) -> u8 {
        self.validators.iter().map(|v| v.height).min().unwrap_or(0)
    }

    fn collect(&self, wanted: impl Fn(Fate) -> bool) -> Set {
        (0..TRANSACTIONS)
            .filter(|tx| wanted(self.fate[*tx]))
            .fold(0, |set, tx| set | 1 << tx)
    }
}
