//! When a checked transaction may move the coins it names.

use crate::{
    ledger::{CheckedTransaction, Overlay, ViewError},
    primitives::{Amount, Coin, Fault, LockHash, Multisig, OutPoint, Params, PublicKey, Transaction},
};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Which contextual rule a transaction breaks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransactionError {
    /// No such coin, as far as is known here.
    #[error("input {0} does not exist or is spent")]
    UnknownInput(OutPoint),
    /// Neither a witness's key nor a policy hashes to the coin's lock.
    #[error("input {outpoint} is locked by {lock}, which no witness and no policy of the transaction opens")]
    Locked {
        /// The coin.
        outpoint: OutPoint,
        /// Its lock.
        lock: LockHash,
    },
    /// A policy is shown with too few or too many signatures.
    #[error("policy {lock} needs exactly {threshold} signatures of its keys, the transaction has {found}")]
    Threshold {
        /// The policy's lock.
        lock: LockHash,
        /// Signatures it asks for.
        threshold: u32,
        /// Witnesses that are among its keys.
        found: usize,
    },
    /// One signature would count for two policies; then how many are needed, and with it the size, would depend on who
    /// signs.
    #[error("the signature of key {public_key} counts for policy {policy} and for another, allowed is one")]
    SharedWitness {
        /// The key.
        public_key: PublicKey,
        /// A policy with it, the second by lock.
        policy: LockHash,
    },
    /// No input needs this witness.
    #[error("the signature of key {0} opens none of the inputs")]
    UnneededWitness(PublicKey),
    /// No input needs this policy.
    #[error("policy {0} opens none of the inputs")]
    UnneededPolicy(LockHash),
    /// The inputs add up to more than there can be.
    #[error("the inputs add up to more than 2^64 - 1 units")]
    InputOverflow,
    /// More goes out than comes in.
    #[error("the outputs are {outputs} TIME, more than the inputs, {inputs} TIME")]
    Overspent {
        /// Sum of the inputs.
        inputs: Amount,
        /// Sum of the outputs.
        outputs: Amount,
    },
    /// The fee is too low for the size.
    #[error("the fee is {} units, expected at least {} ({size} bytes at {rate} units a byte)", fee.0, required(*size, *rate))]
    FeeTooLow {
        /// What the inputs leave over.
        fee: Amount,
        /// The transaction's bytes.
        size: usize,
        /// Units a byte.
        rate: u64,
    },
    /// The store cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl TransactionError {
    /// Coins come and go, and peers do not stand on the same tip: what is wrong here may be right where it came from.
    pub const fn fault(&self) -> Fault {
        Fault::None
    }
}

/// In 128 bits, so that no size and no rate overflow it.
const fn required(size: usize, rate: u64) -> u128 {
    size as u128 * rate as u128
}

/// The fee of a transaction whose inputs are unspent in `coins` and that breaks no rule:
///
/// - every input's lock is opened, by a key or by a policy;
/// - every policy has exactly as many witnesses as its threshold, and no witness counts for two policies;
/// - every witness and every policy is needed by an input;
/// - what goes in is what comes out and the fee, and the fee pays for every byte.
///
/// Which witnesses and policies are needed follows from the body and its coins; which keys of a policy sign is free, how
/// many is not. So the size, and with it the fee and a block's bytes, is the same whoever signs. Signatures were checked
/// before: only [`crate::ledger::check`] makes a [`CheckedTransaction`].
pub fn validate(
    coins: &Overlay<'_>,
    params: &Params,
    transaction: &CheckedTransaction,
) -> Result<Amount, TransactionError> {
    judge(coins, params, transaction).map(|(fee, _)| fee)
}

/// [`validate`], with the coins that it has read: whoever spends them next need not read them again.
pub(super) fn judge(
    coins: &Overlay<'_>,
    params: &Params,
    transaction: &CheckedTransaction,
) -> Result<(Amount, Vec<(OutPoint, Coin)>), TransactionError> {
    let spent: Vec<(OutPoint, Coin)> = transaction
        .inputs()
        .iter()
        .map(|input| {
            Ok((
                *input,
                coins.coin(input)?.ok_or(TransactionError::UnknownInput(*input))?,
            ))
        })
        .collect::<Result<_, TransactionError>>()?;
    Opening::new(transaction).check(&spent)?;
    let sum = |values: &mut dyn Iterator<Item = Amount>| Amount::sum(values).ok_or(TransactionError::InputOverflow);
    let inputs = sum(&mut spent.iter().map(|(_, coin)| coin.output.value))?;
    let outputs = sum(&mut transaction.outputs().iter().map(|output| output.value))?;
    let fee = inputs
        .checked_sub(outputs)
        .ok_or(TransactionError::Overspent { inputs, outputs })?;
    let (size, rate) = (transaction.bytes().len(), params.min_fee_rate);
    if u128::from(fee.0) < required(size, rate) {
        return Err(TransactionError::FeeTooLow { fee, size, rate });
    }
    Ok((fee, spent))
}

/// Witnesses and policies by the locks they open, and whether anything needs them.
struct Opening<'a> {
    keys: BTreeMap<LockHash, (PublicKey, bool)>,
    policies: BTreeMap<LockHash, (&'a Multisig, bool)>,
}

impl<'a> Opening<'a> {
    fn new(transaction: &'a Transaction) -> Self {
        let key = |key: PublicKey| (key.lock(), (key, false));
        let policy = |policy: &'a Multisig| (policy.lock(), (policy, false));
        Self {
            keys: transaction
                .witnesses()
                .iter()
                .map(|witness| key(witness.public_key))
                .collect(),
            policies: transaction.policies().iter().map(policy).collect(),
        }
    }

    fn check(mut self, spent: &[(OutPoint, Coin)]) -> Result<(), TransactionError> {
        for (outpoint, coin) in spent {
            self.open(*outpoint, coin.output.lock)?;
        }
        self.count_signatures()?;
        match self.keys.values().find(|(_, needed)| !needed) {
            Some((key, _)) => Err(TransactionError::UnneededWitness(*key)),
            None => Ok(()),
        }
    }

    fn open(&mut self, outpoint: OutPoint, lock: LockHash) -> Result<(), TransactionError> {
        let needed = match (self.keys.get_mut(&lock), self.policies.get_mut(&lock)) {
            (Some((_, needed)), _) | (None, Some((_, needed))) => needed,
            (None, None) => return Err(TransactionError::Locked { outpoint, lock }),
        };
        *needed = true;
        Ok(())
    }

    fn count_signatures(&mut self) -> Result<(), TransactionError> {
        let mut counted: BTreeSet<LockHash> = BTreeSet::new();
        for (lock, (policy, needed)) in &self.policies {
            if !needed {
                return Err(TransactionError::UnneededPolicy(*lock));
            }
            let mut found = 0;
            for key_lock in policy.key_hashes() {
                let Some((key, needed)) = self.keys.get_mut(key_lock) else {
                    continue;
                };
                found += 1;
                *needed = true;
                if !counted.insert(*key_lock) {
                    return Err(TransactionError::SharedWitness {
                        public_key: *key,
                        policy: *lock,
                    });
                }
            }
            if found != policy.threshold() as usize {
                return Err(TransactionError::Threshold {
                    lock: *lock,
                    threshold: policy.threshold(),
                    found,
                });
            }
        }
        Ok(())
    }
}
