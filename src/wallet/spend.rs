//! Which coins to spend, what fee to pay, what change to take back; and the signed result.

use super::Wallet;
use crate::{
    primitives::{
        Amount, ChainId, DecodeError, LockHash, Multisig, OutPoint, Output, SecretKey, Transaction, TransactionBody,
        limits::{MAX_INPUTS, MAX_TRANSACTION_SIZE},
    },
    proto,
};
use prost::Message as _;
use std::collections::BTreeSet;
use thiserror::Error;

/// A coin that a wallet can open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spendable {
    /// Its name.
    pub outpoint: OutPoint,
    /// Its value.
    pub value: Amount,
    /// Its lock: of a key or of a policy.
    pub lock: LockHash,
}

/// What is to be paid.
#[derive(Clone, Debug)]
pub struct Order {
    /// To whom and how much.
    pub outputs: Vec<Output>,
    /// Written into the payment; at most 256 bytes.
    pub memo: Vec<u8>,
    /// Where change goes.
    pub change: LockHash,
    /// Units of fee for each byte.
    pub fee_rate: u64,
}

/// A signed payment, not sent yet.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The payment.
    pub transaction: Transaction,
    /// What it pays for being processed.
    pub fee: Amount,
    /// What comes back, if anything.
    pub change: Option<Spendable>,
}

/// Why a payment cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpendError {
    /// Not enough money.
    #[error("not enough: {needed} TIME are needed with the fee, {available} TIME can be spent{}", reserved_note(*reserved))]
    Insufficient {
        /// Amount and fee together.
        needed: Amount,
        /// All coins that may be used.
        available: Amount,
        /// Coins that wait for earlier payments.
        reserved: usize,
    },
    /// Enough money, in too many small coins.
    #[error(
        "the coins are too small: the {MAX_INPUTS} largest hold {largest} TIME, {needed} TIME are needed with the fee; pay yourself in parts first"
    )]
    TooManyCoins {
        /// What the largest coins hold together.
        largest: Amount,
        /// Amount and fee together.
        needed: Amount,
    },
    /// Amounts beyond what there can be.
    #[error("the amounts add up to more than 2^64 - 1 units")]
    Overflow,
    /// A policy's keys are not in this wallet.
    #[error("the policy of {lock} needs {threshold} signatures, this wallet has {found} of its keys")]
    Keys {
        /// The policy's lock.
        lock: LockHash,
        /// Signatures needed.
        threshold: u32,
        /// Keys at hand.
        found: usize,
    },
    /// Nothing here opens the coin.
    #[error("no key of this wallet opens the coin {0}")]
    NotOurs(OutPoint),
    /// The form is wrong: no outputs, too many, a long memo.
    #[error("the payment cannot be built: {0}")]
    Form(#[from] DecodeError),
}

fn reserved_note(reserved: usize) -> String {
    match reserved {
        0 => String::new(),
        n => format!("; {n} more coins wait for earlier payments to end (`wallet history`, `wallet resend`)"),
    }
}

/// Who signs, and what is shown with the signatures.
struct Signers<'a> {
    keys: Vec<&'a SecretKey>,
    policies: Vec<Multisig>,
}

/// Picks coins (the largest first, none that is in `reserved`), pays the fee for the payment's size, and signs.
///
/// `from` says whose coins are spent: `None` for those of the wallet's single keys, a lock for those of one policy.
pub fn plan(
    wallet: &Wallet,
    chain: &ChainId,
    coins: &[Spendable],
    reserved: &BTreeSet<OutPoint>,
    from: Option<&LockHash>,
    order: &Order,
) -> Result<Plan, SpendError> {
    let amount = Amount::sum(order.outputs.iter().map(|output| output.value)).ok_or(SpendError::Overflow)?;
    let ours = |coin: &&Spendable| match from {
        Some(lock) => coin.lock == *lock,
        None => wallet.keys().iter().any(|key| key.lock == coin.lock),
    };
    let (waiting, mut free): (Vec<Spendable>, Vec<Spendable>) = coins
        .iter()
        .filter(ours)
        .partition(|coin| reserved.contains(&coin.outpoint));
    free.sort_by_key(|coin| (std::cmp::Reverse(coin.value), coin.outpoint));
    free.dedup_by_key(|coin| coin.outpoint);
    let mut fee = Amount::ZERO;
    let mut total = Amount::ZERO;
    for count in 1..=free.len().min(MAX_INPUTS) {
        total = total.checked_add(free[count - 1].value).ok_or(SpendError::Overflow)?;
        let inputs = &free[..count];
        let signers = signers(wallet, inputs)?;
        let (cheapest, outputs) = balance(inputs, total, amount, order, &signers);
        fee = cheapest;
        if let Some(outputs) = outputs {
            return sign(chain, inputs, total, outputs, order, &signers);
        }
    }
    let needed = amount.checked_add(fee).ok_or(SpendError::Overflow)?;
    let available = Amount::sum(free.iter().map(|coin| coin.value)).ok_or(SpendError::Overflow)?;
    if free.len() > MAX_INPUTS && available >= needed {
        return Err(SpendError::TooManyCoins { largest: total, needed });
    }
    Err(SpendError::Insufficient {
        needed,
        available,
        reserved: waiting.len(),
    })
}

/// The keys that open these coins, and the policies to be shown.
fn signers<'a>(wallet: &'a Wallet, inputs: &[Spendable]) -> Result<Signers<'a>, SpendError> {
    let mut locks: Vec<LockHash> = Vec::new();
    let mut signers = Signers {
        keys: vec![],
        policies: vec![],
    };
    for coin in inputs {
        if locks.contains(&coin.lock) {
            continue;
        }
        locks.push(coin.lock);
        if let Some(key) = wallet.keys().iter().find(|key| key.lock == coin.lock) {
            signers.keys.push(&key.secret);
            continue;
        }
        let policy = wallet.policy_of(&coin.lock).ok_or(SpendError::NotOurs(coin.outpoint))?;
        let mut own: Vec<&SecretKey> = wallet
            .keys()
            .iter()
            .filter(|key| policy.key_hashes().contains(&key.lock))
            .map(|key| &key.secret)
            .collect();
        let threshold = policy.threshold() as usize;
        if own.len() < threshold {
            return Err(SpendError::Keys {
                lock: coin.lock,
                threshold: policy.threshold(),
                found: own.len(),
            });
        }
        // Exactly as many as are needed: one signature too many makes the payment invalid.
        own.truncate(threshold);
        signers.keys.extend(own);
        signers.policies.push(policy.clone());
    }
    Ok(signers)
}

/// The fee that would be enough, and the outputs with change if `total` covers it.
fn balance(
    inputs: &[Spendable],
    total: Amount,
    amount: Amount,
    order: &Order,
    signers: &Signers<'_>,
) -> (Amount, Option<Vec<Output>>) {
    let fee_of = |outputs: &[Output]| Amount(order.fee_rate.saturating_mul(size_of(inputs, outputs, order, signers)));
    let plain = fee_of(&order.outputs);
    let Some(rest) = total.checked_sub(amount).and_then(|rest| rest.checked_sub(plain)) else {
        return (plain, None);
    };
    let mut outputs = order.outputs.clone();
    outputs.push(Output {
        value: rest,
        lock: order.change,
    });
    // With the fee the change grows smaller, and with it the size, never larger: twice is enough.
    for _ in 0..2 {
        let left = total
            .checked_sub(amount)
            .and_then(|left| left.checked_sub(fee_of(&outputs)));
        match left {
            Some(left) if left > Amount::ZERO => {
                if let Some(change) = outputs.last_mut() {
                    change.value = left;
                }
            }
            // Change that would not pay for itself goes to the fee.
            _ => return (plain, Some(order.outputs.clone())),
        }
    }
    (plain, Some(outputs))
}

/// Bytes of the signed transaction. Keys and signatures have fixed lengths, so nothing has to be signed to know.
fn size_of(inputs: &[Spendable], outputs: &[Output], order: &Order, signers: &Signers<'_>) -> u64 {
    let witness = proto::Witness {
        public_key: vec![0; 32],
        signature: vec![0; 64],
    };
    let message = proto::SignedTransaction {
        body: body_of(inputs, outputs, order).encode(),
        witnesses: vec![witness; signers.keys.len()],
        policies: signers.policies.iter().map(Multisig::encode).collect(),
    };
    message.encoded_len() as u64
}

fn body_of(inputs: &[Spendable], outputs: &[Output], order: &Order) -> TransactionBody {
    TransactionBody {
        inputs: inputs.iter().map(|coin| coin.outpoint).collect(),
        outputs: outputs.to_vec(),
        memo: order.memo.clone(),
    }
}

fn sign(
    chain: &ChainId,
    inputs: &[Spendable],
    total: Amount,
    outputs: Vec<Output>,
    order: &Order,
    signers: &Signers<'_>,
) -> Result<Plan, SpendError> {
    let paid = Amount::sum(outputs.iter().map(|output| output.value)).ok_or(SpendError::Overflow)?;
    let fee = total.checked_sub(paid).ok_or(SpendError::Overflow)?;
    let body = body_of(inputs, &outputs, order);
    let transaction = Transaction::sign(chain, &body, &signers.keys, &signers.policies)?;
    crate::primitives::wire::count("transaction bytes", transaction.bytes().len(), 1, MAX_TRANSACTION_SIZE)?;
    let change = outputs.get(order.outputs.len()).map(|output| Spendable {
        outpoint: OutPoint {
            txid: transaction.txid(),
            // At most 256 outputs: Transaction::sign has checked.
            index: order.outputs.len() as u32,
        },
        value: output.value,
        lock: output.lock,
    });
    Ok(Plan {
        transaction,
        fee,
        change,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ledger::check, primitives::TxId, wallet::file::Key};
    use proptest::prelude::*;

    const CHAIN: ChainId = ChainId([7; 32]);

    fn wallet(keys: u8) -> (tempfile::TempDir, Wallet) {
        let dir = tempfile::tempdir().expect("a directory");
        let keys = (1..=keys)
            .map(|n| Key::new(&n.to_string(), SecretKey::from_seed([n; 32])))
            .collect();
        let wallet = Wallet::create(&dir.path().join("w"), "ltime", keys).expect("creates");
        (dir, wallet)
    }

    fn coin(n: u8, value: u64, lock: LockHash) -> Spendable {
        Spendable {
            outpoint: OutPoint {
                txid: TxId([n; 32]),
                index: n.into(),
            },
            value: Amount(value),
            lock,
        }
    }

    fn order(amount: u64, change: LockHash) -> Order {
        Order {
            outputs: vec![Output {
                value: Amount(amount),
                lock: LockHash([9; 32]),
            }],
            memo: vec![],
            change,
            fee_rate: 1,
        }
    }

    #[test]
    fn the_largest_coin_is_spent_first_and_reserved_ones_never() {
        let (_dir, wallet) = wallet(1);
        let own = wallet.keys()[0].lock;
        let coins = [
            coin(1, 5_000, own),
            coin(2, 90_000, own),
            coin(3, 20_000, own),
            coin(4, 999_999, LockHash([8; 32])),
        ];
        let none = BTreeSet::new();
        let first = plan(&wallet, &CHAIN, &coins, &none, None, &order(1_000, own)).expect("enough");
        assert_eq!(first.transaction.inputs(), [coins[1].outpoint]);
        let reserved = BTreeSet::from([coins[1].outpoint]);
        let second = plan(&wallet, &CHAIN, &coins, &reserved, None, &order(1_000, own)).expect("enough");
        assert_eq!(second.transaction.inputs(), [coins[2].outpoint]);
        let refused = plan(&wallet, &CHAIN, &coins, &reserved, None, &order(80_000, own)).expect_err("too much");
        assert!(matches!(
            refused,
            SpendError::Insufficient {
                available: Amount(25_000),
                reserved: 1,
                ..
            }
        ));
    }

    #[test]
    fn change_that_does_not_pay_for_itself_goes_to_the_fee() {
        let (_dir, wallet) = wallet(1);
        let own = wallet.keys()[0].lock;
        let plain = plan(
            &wallet,
            &CHAIN,
            &[coin(1, 100_000, own)],
            &BTreeSet::new(),
            None,
            &order(1_000, own),
        );
        let size = plain.expect("enough").transaction.bytes().len() as u64;
        // Enough for the payment without change, not for the bytes of the change too.
        let tight = coin(1, 1_000 + size - 20, own);
        let plan = plan(&wallet, &CHAIN, &[tight], &BTreeSet::new(), None, &order(1_000, own)).expect("enough");
        assert_eq!(plan.change, None);
        assert_eq!(plan.transaction.outputs().len(), 1);
        assert_eq!(plan.fee.0, tight.value.0 - 1_000);
    }

    #[test]
    fn many_small_coins_are_told_from_too_little_money() {
        let (_dir, wallet) = wallet(1);
        let own = wallet.keys()[0].lock;
        let small = |index: u32| Spendable {
            outpoint: OutPoint {
                txid: TxId([1; 32]),
                index,
            },
            value: Amount(1_000),
            lock: own,
        };
        let coins: Vec<Spendable> = (0..400).map(small).collect();
        let refused = plan(&wallet, &CHAIN, &coins, &BTreeSet::new(), None, &order(300_000, own));
        assert!(matches!(refused, Err(SpendError::TooManyCoins { .. })), "{refused:?}");
        let refused = plan(&wallet, &CHAIN, &coins, &BTreeSet::new(), None, &order(500_000, own));
        assert!(matches!(refused, Err(SpendError::Insufficient { .. })), "{refused:?}");
    }

    #[test]
    fn a_policy_is_spent_with_exactly_as_many_keys_as_it_needs() {
        let (_dir, mut wallet) = wallet(3);
        let policy = Multisig::new(2, wallet.keys().iter().map(|key| key.lock).collect()).expect("a valid policy");
        let shared = wallet.add_policy("shared", policy.clone()).expect("adds").lock;
        let coins = [coin(1, 100_000, shared)];
        let plan_from = |wallet: &Wallet| {
            plan(
                wallet,
                &CHAIN,
                &coins,
                &BTreeSet::new(),
                Some(&shared),
                &order(1_000, shared),
            )
        };
        let plan = plan_from(&wallet).expect("enough keys");
        assert_eq!(plan.transaction.witnesses().len(), 2);
        assert_eq!(plan.transaction.policies(), [policy]);
        assert!(check::check(&CHAIN, plan.transaction.bytes()).is_ok());
        let strangers = (1..=3).map(|n| LockHash([n; 32])).collect();
        let foreign = Multisig::new(1, strangers).expect("a valid policy");
        let lock = wallet.add_policy("foreign", foreign).expect("adds").lock;
        let refused = super::plan(
            &wallet,
            &CHAIN,
            &[coin(2, 100_000, lock)],
            &BTreeSet::new(),
            Some(&lock),
            &order(1, lock),
        );
        assert!(matches!(refused, Err(SpendError::Keys { found: 0, .. })));
    }

    proptest! {
        #[test]
        fn fees_are_at_least_the_minimum_and_hardly_more(
            values in prop::collection::vec(1_000u64..1_000_000_000_000, 1..12),
            amount in 1u64..2_000_000_000_000,
            fee_rate in 1u64..20,
        ) {
            let (_dir, wallet) = wallet(2);
            let coins: Vec<Spendable> = (0u8..)
                .zip(&values)
                .map(|(n, value)| coin(n, *value, wallet.keys()[usize::from(n % 2)].lock))
                .collect();
            let order = Order { fee_rate, ..order(amount, wallet.keys()[0].lock) };
            match plan(&wallet, &CHAIN, &coins, &BTreeSet::new(), None, &order) {
                Ok(plan) => {
                    let size = plan.transaction.bytes().len() as u64;
                    let spent: u64 = plan.transaction.inputs().iter().map(|input| coins[input.index as usize].value.0).sum();
                    let paid: u64 = plan.transaction.outputs().iter().map(|output| output.value.0).sum();
                    prop_assert_eq!(spent, paid + plan.fee.0);
                    prop_assert!(plan.fee.0 >= size * fee_rate);
                    // Slack: a change's length prefix, or a change too small to be worth its 45 bytes.
                    prop_assert!(plan.fee.0 <= (size + 50) * fee_rate);
                    prop_assert!(check::check(&CHAIN, plan.transaction.bytes()).is_ok());
                }
                Err(SpendError::Insufficient { needed, available, .. }) => prop_assert!(needed > available),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}
