//! Who is paid what at the end of an epoch.
//!
//! The closing block of an epoch shares out all its fees (its own included), whatever earlier epochs left over, and the
//! epoch's issuance. A validator's weight is its power times the blocks of the epoch whose commit certificates it
//! signed. Shares are rounded down; what rounding leaves is carried into the next epoch, and so is everything when
//! nobody signed anything.

use crate::primitives::{
    Amount, BlockCertificate, BlockHeader, ChainId, Coin, Epoch, Height, OutPoint, Output, TxId, ValidatorIndex,
    ValidatorSet, hash::tagged, message::Electorate,
};

/// The outcome of an epoch's payout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payout {
    /// New coins, one for each validator with a share above zero, ascending by validator.
    pub coins: Vec<(OutPoint, Coin)>,
    /// What could not be shared out: the next epoch's first fees.
    pub carried: Amount,
}

/// Names the coins of an epoch's payout, each with its validator's index: `H("timecoin/reward", chain_id, epoch)`, the
/// epoch as u64 big-endian.
pub fn reward_txid(chain: &ChainId, epoch: Epoch) -> TxId {
    TxId(tagged("timecoin/reward", &[&chain.0, &epoch.0.to_be_bytes()]))
}

/// What an epoch may issue: `planned`, or nothing when that would take the supply past 2^64 − 1 units. The schedule ends
/// there; the chain goes on.
pub fn issuance(supply: Amount, planned: Amount) -> Amount {
    supply.checked_add(planned).map_or(Amount::ZERO, |_| planned)
}

/// Counts the signers of the certificate in a block, by validator of the block's epoch. The certificate of an earlier
/// epoch's closing block names validators of that epoch's set and counts for nothing.
pub fn count_signers(
    signed: &mut [u64],
    header: &BlockHeader,
    last_commit: Option<&BlockCertificate>,
    epoch_length: u64,
) {
    let of_this_epoch = last_commit.filter(|commit| commit.height.epoch(epoch_length) == header.epoch);
    for (validator, _) in of_this_epoch.iter().flat_map(|commit| &commit.signatures) {
        let index = usize::try_from(*validator).ok();
        if let Some(count) = index.and_then(|index| signed.get_mut(index)) {
            *count += 1;
        }
    }
}

/// Shares `total` out at the closing block `height`. `signed` counts blocks by validator of the epoch's set.
pub fn payout(electorate: &Electorate, height: Height, signed: &[u64], total: Amount) -> Payout {
    let epoch = height.epoch(electorate.epoch_length);
    let set = electorate.of_epoch(epoch);
    let txid = reward_txid(&electorate.chain, epoch);
    let shares = shares(set, signed, total);
    let paid: u64 = shares.iter().map(|(_, share)| share.0).sum();
    let coin = |(index, share): (ValidatorIndex, Amount)| {
        let output = Output {
            value: share,
            lock: set.get(index)?.payout,
        };
        Some((OutPoint { txid, index }, Coin { output, height }))
    };
    Payout {
        coins: shares.into_iter().filter_map(coin).collect(),
        carried: Amount(total.0 - paid),
    }
}

/// Every share above zero. Together they are at most `total`, since each is rounded down.
fn shares(set: &ValidatorSet, signed: &[u64], total: Amount) -> Vec<(ValidatorIndex, Amount)> {
    let weights: Vec<(ValidatorIndex, u128)> = set
        .iter()
        .zip(signed)
        .map(|((index, validator), blocks)| (index, u128::from(validator.power) * u128::from(*blocks)))
        .collect();
    let sum: u128 = weights.iter().map(|(_, weight)| weight).sum();
    weights
        .into_iter()
        .filter(|(_, weight)| *weight > 0)
        .map(|(index, weight)| (index, Amount(portion(total.0, weight, sum))))
        .filter(|(_, share)| *share > Amount::ZERO)
        .collect()
}

/// `total · weight / sum`, rounded down, for `weight ≤ sum`. The product can have 192 bits, so this is long division, one
/// bit of `total` at a time. `3 · sum` must fit 128 bits: 256 validators with powers of 64 bits reach that after 2^54
/// blocks in one epoch.
fn portion(total: u64, weight: u128, sum: u128) -> u64 {
    let (mut quotient, mut rest) = (0u64, 0u128);
    for bit in (0..u64::BITS).rev() {
        rest = 2 * rest + if total >> bit & 1 == 1 { weight } else { 0 };
        quotient *= 2;
        while rest >= sum {
            rest -= sum;
            quotient += 1;
        }
    }
    quotient
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{LockHash, PublicKey, Validator};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn electorate(powers: &[u64]) -> Electorate {
        let validator = |(index, power): (usize, &u64)| Validator {
            public_key: PublicKey([index as u8; 32]),
            power: *power,
            payout: LockHash([100 + index as u8; 32]),
        };
        let set = ValidatorSet::new(powers.iter().enumerate().map(validator).collect()).expect("a valid set");
        Electorate::new(ChainId([9; 32]), 3, Arc::new(set))
    }

    fn values(powers: &[u64], signed: &[u64], total: u64) -> (Vec<(u32, u64)>, u64) {
        let payout = payout(&electorate(powers), Height(3), signed, Amount(total));
        let pair = |(outpoint, coin): &(OutPoint, Coin)| (outpoint.index, coin.output.value.0);
        (payout.coins.iter().map(pair).collect(), payout.carried.0)
    }

    #[test]
    fn shares_follow_power_times_signed_blocks() {
        for (powers, signed, total, coins, carried) in [
            (&[1, 1, 1][..], &[2, 2, 2][..], 9, &[(0, 3), (1, 3), (2, 3)][..], 0),
            (&[1, 1, 1], &[2, 2, 2], 10, &[(0, 3), (1, 3), (2, 3)], 1),
            (&[5, 1], &[1, 5], 10, &[(0, 5), (1, 5)], 0),
            (&[1, 1], &[0, 3], 7, &[(1, 7)], 0),
            (&[1, 1], &[0, 0], 7, &[], 7),
            (&[1, 1_000], &[1, 1], 10, &[(1, 9)], 1),
            (&[1, 1], &[1, 1], 0, &[], 0),
            (
                &[u64::MAX; 2],
                &[1 << 50; 2],
                u64::MAX,
                &[(0, u64::MAX / 2), (1, u64::MAX / 2)],
                1,
            ),
        ] {
            let expected = (coins.to_vec(), carried);
            assert_eq!(values(powers, signed, total), expected, "{powers:?} {signed:?} {total}");
        }
    }

    #[test]
    fn coins_are_named_by_epoch_and_validator_and_locked_by_the_payout_lock() {
        let electorate = electorate(&[1, 1]);
        let first = payout(&electorate, Height(3), &[1, 1], Amount(8));
        let (outpoint, coin) = first.coins[1];
        assert_eq!(outpoint.txid, reward_txid(&electorate.chain, Epoch(0)));
        assert_eq!(
            (outpoint.index, coin.height, coin.output.lock),
            (1, Height(3), LockHash([101; 32]))
        );
        let second = payout(&electorate, Height(6), &[1, 1], Amount(8));
        assert_ne!(second.coins[1].0, outpoint);
    }

    #[test]
    fn issuance_ends_where_the_amounts_end() {
        assert_eq!(issuance(Amount(u64::MAX - 5), Amount(5)), Amount(5));
        assert_eq!(issuance(Amount(u64::MAX - 5), Amount(6)), Amount::ZERO);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_made(
            members in prop::collection::vec((1u64.., 0u64..1 << 50), 1..20),
            total: u64,
        ) {
            let (powers, signed): (Vec<u64>, Vec<u64>) = members.into_iter().unzip();
            let (coins, carried) = values(&powers, &signed, total);
            let paid: u128 = coins.iter().map(|(_, value)| u128::from(*value)).sum();
            prop_assert_eq!(paid + u128::from(carried), u128::from(total));
            prop_assert!(coins.iter().all(|(_, value)| *value > 0));
            if signed.iter().any(|blocks| *blocks > 0) {
                prop_assert!((carried as usize) < powers.len(), "rounding loses less than one unit a validator");
            }
        }

        #[test]
        fn long_division_is_division(total: u64, weight in 0..1u128 << 60, more in 1..1u128 << 62) {
            let sum = weight + more;
            prop_assert_eq!(u128::from(portion(total, weight, sum)), u128::from(total) * weight / sum);
        }
    }
}
