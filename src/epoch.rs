//! Leaving an epoch: the seals that its closing block must carry (protocol, section 6).
//!
//! A seal is a validator's last word on payments in the epoch: the transactions that it cast Final for and that no block
//! has yet. Whatever became final did so by a quorum of Final, cast before those validators sealed; any quorum of seals
//! shares a correct validator with it; so any quorum of seals lists it, and the closing block, which must carry such a
//! quorum and everything in it, has it.

use crate::primitives::{Epoch, EpochSeal, Fault, Tally, ValidatorIndex, ValidatorSet};
use std::sync::Arc;
use thiserror::Error;

/// Why a seal is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// Of another epoch.
    #[error("seal of epoch {found}, this node is in epoch {current}")]
    Epoch {
        /// The seal's.
        found: Epoch,
        /// Ours.
        current: Epoch,
    },
    /// Kept already.
    #[error("the seal of validator {0} is here already")]
    Duplicate(ValidatorIndex),
    /// Another one of the same validator is kept.
    #[error("validator {0} sealed the epoch twice, with different lists")]
    Contradiction(ValidatorIndex),
    /// Not in the set.
    #[error("validator {0} is not in the epoch's set")]
    UnknownValidator(ValidatorIndex),
}

impl SealError {
    /// What it says about the sender.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Epoch { .. } => Fault::Late,
            // Who relays two contradicting seals need not be who made them.
            Self::Duplicate(_) | Self::Contradiction(_) => Fault::None,
            Self::UnknownValidator(_) => Fault::Hostile,
        }
    }
}

/// The seals of the current epoch.
#[derive(Debug)]
pub struct Seals {
    epoch: Epoch,
    set: Arc<ValidatorSet>,
    seals: Tally<EpochSeal>,
}

impl Seals {
    /// None yet.
    pub fn new(epoch: Epoch, set: Arc<ValidatorSet>) -> Self {
        Self {
            epoch,
            set,
            seals: Tally::default(),
        }
    }

    /// Keeps a validator's seal, its signature checked: the first one counts.
    pub fn on_seal(&mut self, seal: EpochSeal) -> Result<(), SealError> {
        if seal.epoch != self.epoch {
            return Err(SealError::Epoch {
                found: seal.epoch,
                current: self.epoch,
            });
        }
        let validator = seal.validator;
        if self.set.get(validator).is_none() {
            return Err(SealError::UnknownValidator(validator));
        }
        match self.seals.get(validator) {
            Some(kept) if *kept == seal => Err(SealError::Duplicate(validator)),
            Some(_) => Err(SealError::Contradiction(validator)),
            None => {
                self.seals.add(&self.set, validator, seal);
                Ok(())
            }
        }
    }

    /// All seals that are usable, when they are a quorum: what a closing block carries.
    pub fn quorum(&self, usable: impl Fn(&EpochSeal) -> bool) -> Option<Vec<EpochSeal>> {
        let mut chosen = Tally::default();
        for (validator, seal) in self.seals.iter().filter(|(_, seal)| usable(seal)) {
            chosen.add(&self.set, validator, seal.clone());
        }
        chosen
            .is_quorum(&self.set)
            .then(|| chosen.iter().map(|(_, seal)| seal.clone()).collect())
    }

    /// All seals kept.
    pub fn iter(&self) -> impl Iterator<Item = &EpochSeal> {
        self.seals.iter().map(|(_, seal)| seal)
    }

    /// The seal of one validator.
    pub fn of(&self, validator: ValidatorIndex) -> Option<&EpochSeal> {
        self.seals.get(validator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{LockHash, PublicKey, Signature, TxId, Validator};

    fn seals() -> Seals {
        let member = |index: u8| Validator {
            public_key: PublicKey([index; 32]),
            power: 1,
            payout: LockHash([0; 32]),
        };
        let set = ValidatorSet::new((0..4).map(member).collect()).expect("a valid set");
        Seals::new(Epoch(3), Arc::new(set))
    }

    fn seal(epoch: u64, validator: u32, txids: &[u8]) -> EpochSeal {
        let txids = txids.iter().map(|byte| TxId([*byte; 32])).collect();
        EpochSeal {
            epoch: Epoch(epoch),
            validator,
            txids,
            signature: Signature([0; 64]),
        }
    }

    #[test]
    fn each_reason_to_refuse_a_seal() {
        let mut seals = seals();
        assert_eq!(seals.on_seal(seal(3, 1, &[5])), Ok(()));
        assert_eq!(seals.on_seal(seal(3, 1, &[5])), Err(SealError::Duplicate(1)));
        assert_eq!(seals.on_seal(seal(3, 1, &[])), Err(SealError::Contradiction(1)));
        assert_eq!(seals.on_seal(seal(3, 4, &[])), Err(SealError::UnknownValidator(4)));
        let other = SealError::Epoch {
            found: Epoch(2),
            current: Epoch(3),
        };
        assert_eq!(seals.on_seal(seal(2, 0, &[])), Err(other));
    }

    #[test]
    fn a_quorum_is_made_of_usable_seals_only() {
        let mut seals = seals();
        for (validator, txids) in [(0, vec![1]), (1, vec![1, 2]), (2, vec![9])] {
            seals.on_seal(seal(3, validator, &txids)).expect("new");
        }
        let known = |seal: &EpochSeal| !seal.txids.contains(&TxId([9; 32]));
        assert_eq!(seals.quorum(known), None, "two of four");
        seals.on_seal(seal(3, 3, &[])).expect("new");
        let chosen: Vec<u32> = seals
            .quorum(known)
            .expect("three of four")
            .iter()
            .map(|seal| seal.validator)
            .collect();
        assert_eq!(chosen, [0, 1, 3]);
    }
}
