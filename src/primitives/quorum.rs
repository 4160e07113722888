//! Who may vote, with how much power, and when it is enough. The only place that knows what a quorum is.

use super::{
    hash::{Hash, LockHash, tagged},
    keys::PublicKey,
    limits::MAX_VALIDATORS,
    wire::{self, DecodeError},
};
use crate::proto;
use prost::Message;
use std::collections::BTreeMap;

/// Position of a validator in its epoch's set.
pub type ValidatorIndex = u32;

/// A member of a validator set.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Validator {
    /// Consensus key: votes are signed with it.
    pub public_key: PublicKey,
    /// Voting power, greater than 0.
    pub power: u64,
    /// Lock that rewards are paid to.
    pub payout: LockHash,
}

impl Validator {
    pub(crate) fn to_proto(&self) -> proto::Validator {
        proto::Validator {
            public_key: self.public_key.0.to_vec(),
            power: self.power,
            payout: self.payout.0.to_vec(),
        }
    }

    pub(crate) fn from_proto(message: &proto::Validator) -> Result<Self, DecodeError> {
        if message.power == 0 {
            return Err(DecodeError::Missing {
                what: "validator power",
            });
        }
        Ok(Self {
            public_key: PublicKey(wire::array("validator key", &message.public_key)?),
            power: message.power,
            payout: LockHash(wire::array("validator payout lock", &message.payout)?),
        })
    }
}

/// The validators of an epoch, in ascending order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorSet {
    validators: Vec<Validator>,
    by_key: BTreeMap<PublicKey, ValidatorIndex>,
    total: u128,
    hash: Hash,
}

impl ValidatorSet {
    /// A set of `1 ..= 256` validators with distinct keys and powers above 0; sorted here.
    pub fn new(mut validators: Vec<Validator>) -> Result<Self, DecodeError> {
        wire::count("validators", validators.len(), 1, MAX_VALIDATORS)?;
        validators.sort_by_key(|validator| validator.public_key);
        let keys: Vec<PublicKey> = validators.iter().map(|validator| validator.public_key).collect();
        wire::ascending("validator keys", &keys)?;
        if validators.iter().any(|validator| validator.power == 0) {
            return Err(DecodeError::Missing {
                what: "validator power",
            });
        }
        let encoded = proto::ValidatorSet {
            validators: validators.iter().map(Validator::to_proto).collect(),
        }
        .encode_to_vec();
        Ok(Self {
            by_key: keys.iter().zip(0..).map(|(key, index)| (*key, index)).collect(),
            total: validators.iter().map(|validator| u128::from(validator.power)).sum(),
            hash: Hash(tagged("timecoin/validators", &[&encoded])),
            validators,
        })
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty, reason = "a set is never empty")]
    pub fn len(&self) -> usize {
        self.validators.len()
    }

    /// The member at `index`.
    pub fn get(&self, index: ValidatorIndex) -> Option<&Validator> {
        self.validators.get(usize::try_from(index).ok()?)
    }

    /// The index of a key's member.
    pub fn index_of(&self, key: &PublicKey) -> Option<ValidatorIndex> {
        self.by_key.get(key).copied()
    }

    /// All members with their indexes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (ValidatorIndex, &Validator)> {
        (0..).zip(self.validators.iter())
    }

    /// Power of all members together.
    pub const fn total_power(&self) -> u128 {
        self.total
    }

    /// `H("timecoin/validators", …)`: what headers call this set by.
    pub const fn hash(&self) -> Hash {
        self.hash
    }

    /// Whether `power` is a quorum: more than two thirds of all.
    pub fn is_quorum(&self, power: u128) -> bool {
        let power = if planted!(QuorumOneTooLow) {
            power + self.total / self.validators.len() as u128
        } else {
            power
        };
        3 * power > 2 * self.total
    }

    /// Whether `power` is more than one third of all: at least one correct validator is in it.
    pub const fn exceeds_third(&self, power: u128) -> bool {
        3 * power > self.total
    }

    /// Power of the member at `index`; 0 for none.
    pub fn power(&self, index: ValidatorIndex) -> u128 {
        self.get(index).map_or(0, |validator| u128::from(validator.power))
    }
}

/// Who has said one thing, each counted once.
#[derive(Clone, Debug)]
pub struct Tally<V> {
    voices: BTreeMap<ValidatorIndex, V>,
    power: u128,
}

impl<V> Default for Tally<V> {
    fn default() -> Self {
        Self {
            voices: BTreeMap::new(),
            power: 0,
        }
    }
}

impl<V> Tally<V> {
    /// Counts a validator's voice. Answers whether it was new; a second one changes nothing.
    pub fn add(&mut self, set: &ValidatorSet, validator: ValidatorIndex, voice: V) -> bool {
        let power = set.power(validator);
        if power == 0 || self.voices.contains_key(&validator) {
            return false;
        }
        self.power += power;
        self.voices.insert(validator, voice);
        true
    }

    /// The voice of one validator.
    pub fn get(&self, validator: ValidatorIndex) -> Option<&V> {
        self.voices.get(&validator)
    }

    /// Whether a quorum has spoken.
    pub fn is_quorum(&self, set: &ValidatorSet) -> bool {
        set.is_quorum(self.power)
    }

    /// Whether more than a third has spoken.
    pub fn exceeds_third(&self, set: &ValidatorSet) -> bool {
        set.exceeds_third(self.power)
    }

    /// All voices, ascending by validator.
    pub fn iter(&self) -> impl Iterator<Item = (ValidatorIndex, &V)> {
        self.voices.iter().map(|(index, voice)| (*index, voice))
    }

    /// How many have spoken.
    pub fn len(&self) -> usize {
        self.voices.len()
    }

    /// Whether nobody has.
    pub fn is_empty(&self) -> bool {
        self.voices.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(powers: &[u64]) -> ValidatorSet {
        let member = |(index, power): (usize, &u64)| Validator {
            public_key: PublicKey([index as u8; 32]),
            power: *power,
            payout: LockHash([0; 32]),
        };
        ValidatorSet::new(powers.iter().enumerate().map(member).collect()).expect("a valid set")
    }

    #[test]
    fn a_quorum_of_equals_is_2f_plus_1_of_3f_plus_1() {
        for f in 0..20u128 {
            let n = 3 * f + 1;
            let equals = set(&vec![1; n as usize]);
            assert!(equals.is_quorum(2 * f + 1) && !equals.is_quorum(2 * f), "n = {n}");
            assert!(equals.exceeds_third(f + 1) && !equals.exceeds_third(f), "n = {n}");
        }
    }

    #[test]
    fn powers_near_the_largest_do_not_overflow() {
        let huge = set(&[u64::MAX; 4]);
        assert!(huge.is_quorum(3 * u128::from(u64::MAX)) && !huge.is_quorum(2 * u128::from(u64::MAX)));
    }

    proptest! {
        #[test]
        fn two_quorums_share_more_than_a_third(powers in prop::collection::vec(1u64..1000, 1..20), a: u32, b: u32) {
            let set = set(&powers);
            let power = |mask: u32| -> u128 {
                set.iter().filter(|(index, _)| mask >> index & 1 == 1).map(|(index, _)| set.power(index)).sum()
            };
            if set.is_quorum(power(a)) && set.is_quorum(power(b)) {
                prop_assert!(set.exceeds_third(power(a & b)));
            }
        }

        #[test]
        fn a_tally_counts_each_validator_once(votes in prop::collection::vec(0u32..6, 0..40)) {
            let set = set(&[5, 1, 1, 3]);
            let mut tally = Tally::default();
            for vote in &votes {
                tally.add(&set, *vote, ());
            }
            let mut distinct: Vec<u32> = votes.into_iter().filter(|vote| *vote < 4).collect();
            distinct.sort_unstable();
            distinct.dedup();
            let power: u128 = distinct.iter().map(|index| set.power(*index)).sum();
            prop_assert_eq!(tally.is_quorum(&set), set.is_quorum(power));
            prop_assert_eq!(tally.len(), distinct.len());
        }
    }
}
