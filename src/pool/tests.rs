//! The pool's limits and promises, and a property against a plain model of it.

use super::*;
use crate::{
    ledger::check,
    primitives::{ChainId, LockHash, Output, SecretKey, Transaction, TransactionBody},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CHAIN: ChainId = ChainId([7; 32]);

fn coin(number: u8) -> OutPoint {
    OutPoint {
        txid: TxId([number; 32]),
        index: 0,
    }
}

/// A transaction that spends these coins; `salt` makes it another one.
fn spend(coins: &[u8], salt: u8) -> CheckedTransaction {
    let body = TransactionBody {
        inputs: coins.iter().map(|number| coin(*number)).collect(),
        outputs: vec![Output {
            value: Amount(1),
            lock: LockHash([salt; 32]),
        }],
        memo: Vec::new(),
    };
    let signed = Transaction::sign(&CHAIN, &body, &[&SecretKey::from_seed([1; 32])], &[]).expect("of the right form");
    check::check(&CHAIN, signed.bytes()).expect("signed")
}

fn pool(max_transactions: usize) -> Pool {
    Pool::new(Config {
        max_transactions,
        ..Config::default()
    })
}

fn admit(pool: &mut Pool, transaction: &CheckedTransaction, fee: u64) -> Result<Admission, PoolError> {
    pool.admit(Time(1), transaction.clone(), Amount(fee), Backing::None)
}

#[test]
fn a_transaction_is_there_once() {
    let mut pool = pool(10);
    let transaction = spend(&[1], 1);
    assert_eq!(
        admit(&mut pool, &transaction, 9),
        Ok(Admission::New {
            rivals: vec![],
            evicted: vec![]
        })
    );
    let bytes = pool.bytes();
    assert_eq!(admit(&mut pool, &transaction, 9), Ok(Admission::Known));
    assert_eq!((pool.len(), pool.bytes()), (1, bytes));
}

#[test]
fn a_second_spender_is_a_rival_and_a_third_is_refused() {
    let mut pool = pool(10);
    let (first, second, third) = (spend(&[1], 1), spend(&[1, 2], 2), spend(&[1], 3));
    admit(&mut pool, &first, 9).expect("admitted");
    let rivals = vec![first.txid()];
    assert_eq!(
        admit(&mut pool, &second, 9),
        Ok(Admission::New {
            rivals,
            evicted: vec![]
        })
    );
    assert_eq!(
        admit(&mut pool, &third, 9),
        Err(PoolError::Conflict {
            outpoint: coin(1),
            by: first.txid()
        })
    );
    assert_eq!(pool.conflict(&third), Some((coin(1), first.txid())));
    // The rival takes the place of the first when that is gone, and the third may come.
    pool.remove(&first.txid());
    assert_eq!(pool.spenders(&coin(1)), vec![second.txid()]);
    assert!(admit(&mut pool, &third, 9).is_ok());
}

#[test]
fn what_a_validator_has_locked_may_be_the_third_and_takes_its_place_in_the_row() {
    let mut pool = pool(10);
    let [first, second, third, fourth] = [1, 2, 3, 4].map(|salt| spend(&[1], salt));
    admit(&mut pool, &first, 9).expect("admitted");
    admit(&mut pool, &second, 9).expect("admitted");
    assert_eq!(
        pool.admit(Time(1), third.clone(), Amount(9), Backing::Lock),
        Ok(Admission::New {
            rivals: {
                let mut rivals = vec![first.txid(), second.txid()];
                rivals.sort_unstable();
                rivals
            },
            evicted: vec![]
        })
    );
    assert!(admit(&mut pool, &fourth, 9).is_err());
    assert_eq!(pool.spenders(&coin(1)), [&first, &second, &third].map(|one| one.txid()));
    pool.remove(&second.txid());
    assert_eq!(pool.spenders(&coin(1)), [&first, &third].map(|one| one.txid()));
    pool.remove(&first.txid());
    assert_eq!(pool.spenders(&coin(1)), [third.txid()]);
    pool.remove(&third.txid());
    assert_eq!(pool.spenders(&coin(1)), []);
    assert_eq!(pool.bytes(), 0);
}

#[test]
fn the_cheapest_gives_way_but_never_what_was_voted_for() {
    let mut pool = pool(2);
    let (cheap, fair, rich) = (spend(&[1], 1), spend(&[2], 2), spend(&[3], 3));
    admit(&mut pool, &cheap, 1_000).expect("admitted");
    admit(&mut pool, &fair, 2_000).expect("admitted");
    pool.protect(&cheap.txid());
    let evicted = vec![fair.txid()];
    assert_eq!(
        admit(&mut pool, &rich, 3_000),
        Ok(Admission::New {
            rivals: vec![],
            evicted
        })
    );
    pool.protect(&rich.txid());
    let refused = admit(&mut pool, &fair, u64::MAX);
    assert!(
        matches!(
            refused,
            Err(PoolError::Full {
                floor_milli: u64::MAX,
                ..
            })
        ),
        "{refused:?}"
    );
    pool.unprotect(&cheap.txid());
    assert!(
        matches!(admit(&mut pool, &fair, 1_000), Err(PoolError::Full { .. })),
        "as cheap is not cheaper"
    );
    assert!(matches!(admit(&mut pool, &fair, 1_001), Ok(Admission::New { .. })));
}

#[test]
fn bytes_are_a_limit_too_and_nothing_is_evicted_in_vain() {
    let one = spend(&[1], 1);
    let cost = one.memory_bytes() + ENTRY_BYTES + INPUT_BYTES;
    let mut pool = Pool::new(Config {
        max_transactions: 10,
        max_bytes: 2 * cost,
    });
    admit(&mut pool, &one, 1_000).expect("admitted");
    let dear = spend(&[2], 2);
    admit(&mut pool, &dear, 9_000).expect("admitted");
    // Three inputs need more than the room of one; the second in line pays more, so nobody leaves.
    let large = spend(&[3, 4, 5, 6, 7, 8], 3);
    assert!(matches!(admit(&mut pool, &large, 9_000), Err(PoolError::Full { .. })));
    assert!(pool.contains(&one.txid()) && pool.contains(&dear.txid()));
}

proptest! {
    /// Whatever happens to it, the pool agrees with a plain list about who is there, and its books balance.
    #[test]
    fn the_books_balance(steps in prop::collection::vec((0u8..6, 0u8..6, 1u64..5, 0u8..4), 1..60)) {
        let mut pool = pool(8);
        let mut model: BTreeMap<TxId, CheckedTransaction> = BTreeMap::new();
        for (a, b, fee, what) in steps {
            let coins: Vec<u8> = if a == b { vec![a] } else { vec![a, b] };
            let transaction = spend(&coins, a ^ b);
            if what == 0 {
                let removed = pool.remove(&transaction.txid()).is_some();
                prop_assert_eq!(removed, model.remove(&transaction.txid()).is_some());
            } else {
                let backing = if what == 3 { Backing::Lock } else { Backing::None };
                let admission = pool.admit(Time(1), transaction.clone(), Amount(fee * 1_000), backing);
                if let Ok(Admission::New { evicted, .. }) = admission {
                    for victim in evicted {
                        prop_assert!(model.remove(&victim).is_some());
                    }
                    model.insert(transaction.txid(), transaction);
                }
            }
            prop_assert_eq!(pool.len(), model.len());
            prop_assert!(pool.len() <= 8);
            for number in 0..6 {
                let mut spenders = pool.spenders(&coin(number));
                spenders.sort_unstable();
                let expected: Vec<TxId> = model
                    .values()
                    .filter(|transaction| transaction.inputs().contains(&coin(number)))
                    .map(|transaction| transaction.txid())
                    .collect();
                prop_assert_eq!(spenders, expected);
            }
        }
        for txid in model.keys() {
            pool.remove(txid);
        }
        prop_assert_eq!((pool.bytes(), pool.average_rate_milli(), pool.oldest()), (0, 0, None));
    }
}
