//! Numbers that must not be mixed up: instants, heights, rounds, epochs.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this; stays at the largest value there is.
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// The one before this; stays at zero.
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// Position of a block in the chain; genesis is 0, the first block 1.
    Height(u64)
);
counter!(
    /// Attempt at deciding one height, from 0.
    Round(u32)
);
counter!(
    /// A run of `epoch_length` heights with one validator set, from 0.
    Epoch(u64)
);

impl Height {
    /// The epoch that the block at this height belongs to: heights `1 ..= length` are epoch 0. Genesis is in epoch 0.
    pub const fn epoch(self, length: u64) -> Epoch {
        Epoch(self.0.saturating_sub(1) / length)
    }

    /// Whether the block at this height closes its epoch.
    pub const fn closes_epoch(self, length: u64) -> bool {
        self.0 != 0 && self.0.is_multiple_of(length)
    }
}

/// An instant: milliseconds since the Unix epoch. On floors 0 to 3 it comes in as a value; nobody reads a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// This instant and `ms` milliseconds.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this instant; 0 when that is later.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}
