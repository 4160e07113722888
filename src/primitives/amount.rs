//! Money: checked, never wrapped, never clamped.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// An amount in the smallest unit; 1 TIME is 100,000,000 units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amount(pub u64);

/// Units in 1 TIME.
pub const UNITS_PER_TIME: u64 = 100_000_000;
const DECIMALS: usize = 8;

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The sum, or `None` when it does not fit.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or `None` when it would be negative.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// The sum of all, or `None` when it does not fit.
    pub fn sum(amounts: impl IntoIterator<Item = Self>) -> Option<Self> {
        amounts.into_iter().try_fold(Self::ZERO, Self::checked_add)
    }
}

/// Why a text is no amount.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AmountError {
    /// Not digits with at most one point between them.
    #[error("'{0}' is not an amount: expected TIME with up to 8 decimals, as in 12.5")]
    Form(String),
    /// More than 8 decimals.
    #[error("'{0}' has more than 8 decimals; the smallest amount is 0.00000001 TIME")]
    TooFine(String),
    /// More than 2^64 − 1 units.
    #[error("'{0}' is more than the largest amount, 184467440737.09551615 TIME")]
    TooLarge(String),
}

impl FromStr for Amount {
    type Err = AmountError;

    /// Reads TIME with up to 8 decimals: `12`, `12.5`, `0.00000001`.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let form = || AmountError::Form(text.to_owned());
        let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(decimals) || (text.contains('.') && decimals.is_empty()) {
            return Err(form());
        }
        if decimals.len() > DECIMALS {
            return Err(AmountError::TooFine(text.to_owned()));
        }
        let too_large = || AmountError::TooLarge(text.to_owned());
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let units: u64 = format!("{decimals:0<DECIMALS$}").parse().map_err(|_| form())?;
        whole
            .checked_mul(UNITS_PER_TIME)
            .and_then(|w| w.checked_add(units))
            .map(Self)
            .ok_or_else(too_large)
    }
}

impl fmt::Display for Amount {
    /// Writes TIME, without trailing zeros: `12.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, units) = (self.0 / UNITS_PER_TIME, self.0 % UNITS_PER_TIME);
        if units == 0 {
            return f.pad(&whole.to_string());
        }
        let decimals = format!("{units:0>DECIMALS$}");
        f.pad(&format!("{whole}.{}", decimals.trim_end_matches('0')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips(units in any::<u64>()) {
            prop_assert_eq!(Amount(units).to_string().parse::<Amount>(), Ok(Amount(units)));
        }
    }

    #[test]
    fn texts_that_are_no_amounts() {
        for text in ["", ".", "1.", ".5", "-1", "1e3", "1,5", "1.2.3", "+1", " 1"] {
            assert_eq!(text.parse::<Amount>(), Err(AmountError::Form(text.into())), "{text:?}");
        }
        assert_eq!(
            "0.000000001".parse::<Amount>(),
            Err(AmountError::TooFine("0.000000001".into()))
        );
        let above = "184467440737.09551616";
        assert_eq!(above.parse::<Amount>(), Err(AmountError::TooLarge(above.into())));
    }

    #[test]
    fn sums_do_not_wrap() {
        assert_eq!(Amount::sum([Amount(u64::MAX), Amount(1)]), None);
        assert_eq!(Amount(1).checked_sub(Amount(2)), None);
    }
}
