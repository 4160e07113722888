//! One row for each rule, then random chains.

use super::*;
use crate::{
    ledger::{
        check,
        testing::{COIN, Chain, FEE, MemoryView, PAYERS, payer, policy},
    },
    primitives::{LockHash, Multisig, PublicKey, SecretKey, planted},
};
use proptest::prelude::*;

// ---- transactions ----------------------------------------------------------------------------------------------

fn verdict(chain: &Chain, transaction: &CheckedTransaction) -> Result<Amount, TransactionError> {
    validate(&Overlay::new(&chain.view), &chain.params, transaction)
}

fn lock(number: u8) -> LockHash {
    payer(number).public().lock()
}

#[test]
fn transactions_that_break_a_rule() {
    let chain = Chain::new();
    let coin = |number: usize| chain.genesis_coins[number];
    let key = |number: u8| payer(number);
    let unknown = OutPoint {
        txid: TxId([3; 32]),
        index: 7,
    };
    let out = |value| [(lock(7), value)];
    let make = |inputs: &[OutPoint], value: u64, keys: &[u8], policies: &[Multisig]| {
        let keys: Vec<SecretKey> = keys.iter().map(|number| key(*number)).collect();
        chain.transaction(inputs, &out(value), &keys.iter().collect::<Vec<_>>(), policies)
    };
    let threshold = |found| TransactionError::Threshold {
        lock: policy().lock(),
        threshold: 2,
        found,
    };
    let other_policy = Multisig::new(1, vec![lock(0), lock(5)]).expect("a valid policy");
    let rows: Vec<(&str, CheckedTransaction, Result<Amount, TransactionError>)> = vec![
        (
            "one key, one coin",
            make(&[coin(0)], COIN - FEE, &[0], &[]),
            Ok(Amount(FEE)),
        ),
        (
            "one key for each of two coins",
            make(&[coin(1), coin(0)], 2 * COIN - FEE, &[0, 1], &[]),
            Ok(Amount(FEE)),
        ),
        (
            "a policy with its threshold",
            make(&[coin(8)], COIN - FEE, &[0, 2], &[policy()]),
            Ok(Amount(FEE)),
        ),
        (
            "a witness for a coin of its own and for a policy",
            make(&[coin(8), coin(0)], 2 * COIN - FEE, &[0, 1], &[policy()]),
            Ok(Amount(FEE)),
        ),
        (
            "the input does not exist",
            make(&[coin(0), unknown], COIN - FEE, &[0], &[]),
            Err(TransactionError::UnknownInput(unknown)),
        ),
        (
            "somebody else's key",
            make(&[coin(0)], COIN - FEE, &[1], &[]),
            Err(TransactionError::Locked {
                outpoint: coin(0),
                lock: lock(0),
            }),
        ),
        (
            "a multisig coin without its policy",
            make(&[coin(8)], COIN - FEE, &[0, 1], &[]),
            Err(TransactionError::Locked {
                outpoint: coin(8),
                lock: policy().lock(),
            }),
        ),
        (
            "a multisig coin with another policy",
            make(&[coin(8)], COIN - FEE, &[0], std::slice::from_ref(&other_policy)),
            Err(TransactionError::Locked {
                outpoint: coin(8),
                lock: policy().lock(),
            }),
        ),
        (
            "one signature too few",
            make(&[coin(8)], COIN - FEE, &[0], &[policy()]),
            Err(threshold(1)),
        ),
        (
            "one signature too many",
            make(&[coin(8)], COIN - FEE, &[0, 1, 2], &[policy()]),
            Err(threshold(3)),
        ),
        (
            "one too many that another input needs",
            make(
                &[coin(8), coin(0), coin(1), coin(2)],
                4 * COIN - FEE,
                &[0, 1, 2],
                &[policy()],
            ),
            Err(threshold(3)),
        ),
        (
            "a witness that no input needs",
            make(&[coin(0)], COIN - FEE, &[0, 1], &[]),
            Err(TransactionError::UnneededWitness(key(1).public())),
        ),
        (
            "a policy that no input needs",
            make(&[coin(0)], COIN - FEE, &[0], std::slice::from_ref(&other_policy)),
            Err(TransactionError::UnneededPolicy(other_policy.lock())),
        ),
        (
            "more out than in",
            make(&[coin(0)], COIN + 1, &[0], &[]),
            Err(TransactionError::Overspent {
                inputs: Amount(COIN),
                outputs: Amount(COIN + 1),
            }),
        ),
    ];
    for (what, transaction, expected) in rows {
        assert_eq!(verdict(&chain, &transaction), expected, "{what}");
    }
}

#[test]
fn a_fee_pays_for_every_byte() {
    let chain = Chain::new();
    let size = chain.pay(0, 1).bytes().len();
    let paying = |fee: u64| {
        let coin = chain.genesis_coins[0];
        chain.transaction(&[coin], &[(lock(1), COIN - fee)], &[&payer(0)], &[])
    };
    let enough = size as u64;
    assert_eq!(paying(enough).bytes().len(), size);
    assert_eq!(verdict(&chain, &paying(enough)), Ok(Amount(enough)));
    let low = TransactionError::FeeTooLow {
        fee: Amount(enough - 1),
        size,
        rate: 1,
    };
    assert_eq!(verdict(&chain, &paying(enough - 1)), Err(low.clone()));
    assert!(low.to_string().contains(&format!("expected at least {size}")), "{low}");
}

#[test]
fn a_witness_counts_for_one_policy() {
    let mut chain = Chain::new();
    let first = Multisig::new(1, vec![lock(0), lock(1)]).expect("a valid policy");
    let second = Multisig::new(1, vec![lock(0), lock(2)]).expect("a valid policy");
    let half = (COIN - FEE) / 2;
    let funding = chain.transaction(
        &[chain.genesis_coins[3]],
        &[(first.lock(), half), (second.lock(), half)],
        &[&payer(3)],
        &[],
    );
    chain.commit(vec![funding.clone()]);
    let inputs: Vec<OutPoint> = funding.created().map(|(outpoint, _)| outpoint).collect();
    let spend = |keys: &[&SecretKey]| {
        chain.transaction(
            &inputs,
            &[(lock(4), 2 * half - FEE)],
            keys,
            &[first.clone(), second.clone()],
        )
    };
    assert_eq!(verdict(&chain, &spend(&[&payer(1), &payer(2)])), Ok(Amount(FEE)));
    let shared = verdict(&chain, &spend(&[&payer(0)]));
    let is_payer_0 = |key: PublicKey| key == payer(0).public();
    assert!(
        matches!(shared, Err(TransactionError::SharedWitness { public_key, .. }) if is_payer_0(public_key)),
        "{shared:?}"
    );
}

#[test]
fn a_chain_of_transactions_in_one_overlay() {
    let chain = Chain::new();
    let first = chain.pay(0, 1);
    let (outpoint, _) = first.created().next().expect("one output");
    let second = chain.transaction(&[outpoint], &[(lock(2), COIN - 2 * FEE)], &[&payer(1)], &[]);
    let mut coins = Overlay::new(&chain.view);
    assert_eq!(
        validate(&coins, &chain.params, &second),
        Err(TransactionError::UnknownInput(outpoint))
    );
    coins.apply(&first).expect("memory");
    assert_eq!(
        validate(&coins, &chain.params, &first),
        Err(TransactionError::UnknownInput(chain.genesis_coins[0]))
    );
    assert_eq!(validate(&coins, &chain.params, &second), Ok(Amount(FEE)));
    coins.apply(&second).expect("memory");
    let changes = coins.into_changes();
    let spent: Vec<OutPoint> = changes.spent.iter().map(|(outpoint, _)| *outpoint).collect();
    assert_eq!(
        spent,
        [chain.genesis_coins[0]],
        "the coin in between is in neither list"
    );
    assert_eq!(changes.created.len(), 1);
}

// ---- blocks ----------------------------------------------------------------------------------------------------

/// A chain with a block at height 1 (a payment of payer 0 in it) and transactions rejected at height 2.
fn grown() -> (Chain, CheckedTransaction, CheckedTransaction) {
    let mut chain = Chain::new();
    let committed = chain.pay(0, 1);
    let rejected = chain.pay(6, 1);
    chain.commit(vec![committed.clone()]);
    let content = chain.content(Vec::new(), vec![chain.rejection(rejected.txid())], Vec::new());
    chain.commit_signed(&content, &[0, 1, 3]);
    (chain, committed, rejected)
}

/// Gives the header the roots that the changed content has.
fn rehash(chain: &Chain, content: &mut Content) {
    let rebuilt = build_header(
        &chain.view.tip,
        &chain.params,
        &chain.electorate,
        content.header.proposer,
        content.header.time,
        &content.transactions,
        &content.rejections,
        &content.seals,
        content.last_commit.as_ref(),
    );
    content.header = rebuilt;
}

/// Changes the block's transactions, and the header with them.
fn listing<'a>(chain: &'a Chain, change: impl Fn(&mut Vec<CheckedTransaction>) + 'a) -> Change<'a, Content> {
    Box::new(move |content| {
        change(&mut content.transactions);
        rehash(chain, content);
    })
}

/// Changes the block's rejections, and the header with them.
fn rejecting<'a>(chain: &'a Chain, change: impl Fn(&mut Vec<Certificate>) + 'a) -> Change<'a, Content> {
    Box::new(move |content| {
        change(&mut content.rejections);
        rehash(chain, content);
    })
}

/// Changes the block's seals, and the header with them.
fn sealing<'a>(chain: &'a Chain, change: impl Fn(&mut Vec<EpochSeal>) + 'a) -> Change<'a, Content> {
    Box::new(move |content| {
        change(&mut content.seals);
        rehash(chain, content);
    })
}

/// What a row does to a part of a block.
type Change<'a, T> = Box<dyn Fn(&mut T) + 'a>;
/// Its name, what it does to a valid block, and what must come of it.
type Row<'a> = (
    &'a str,
    Box<dyn Fn(&mut Content) + 'a>,
    Box<dyn Fn(&BlockError) -> bool + 'a>,
);

fn run(chain: &Chain, base: &Content, rows: Vec<Row<'_>>) {
    assert!(
        chain.apply(base).is_ok(),
        "the block that rows change is valid: {:?}",
        chain.apply(base)
    );
    for (what, change, expected) in rows {
        let mut content = base.clone();
        change(&mut content);
        match chain.apply(&content) {
            Ok(_) => panic!("{what}: accepted"),
            Err(error) => assert!(expected(&error), "{what}: refused with {error:?}"),
        }
    }
}

macro_rules! row {
    ($what:literal, |$content:ident| $change:expr, $expected:pat $(if $guard:expr)?) => {
        (
            $what,
            Box::new(move |$content: &mut Content| {
                $change;
            }),
            Box::new(move |error: &BlockError| matches!(error, $expected $(if $guard)?)),
        )
    };
}

#[test]
fn headers_that_break_a_rule() {
    let (chain, ..) = grown();
    let base = chain.content(vec![chain.pay(1, 2)], Vec::new(), Vec::new());
    let other = Hash([1; 32]);
    run(
        &chain,
        &base,
        vec![
            row!(
                "a height too far",
                |it| it.header.height = Height(4),
                BlockError::Height {
                    found: Height(4),
                    expected: Height(3)
                }
            ),
            row!(
                "an old height",
                |it| it.header.height = Height(2),
                BlockError::Height { found: Height(2), .. }
            ),
            row!(
                "another epoch",
                |it| it.header.epoch = Epoch(1),
                BlockError::Epoch {
                    found: Epoch(1),
                    expected: Epoch(0)
                }
            ),
            row!(
                "another parent",
                |it| it.header.parent = BlockId([1; 32]),
                BlockError::Parent { .. }
            ),
            row!(
                "its parent's time",
                |it| it.header.time = Time(3_000),
                BlockError::Time {
                    found: Time(3_000),
                    parent: Time(3_000)
                }
            ),
            row!(
                "no such proposer",
                |it| it.header.proposer = 4,
                BlockError::Proposer {
                    found: 4,
                    validators: 4
                }
            ),
            row!(
                "another utxo root",
                |it| it.header.utxo_root = other,
                BlockError::UtxoRoot { .. }
            ),
            row!(
                "another validator set",
                |it| it.header.validators_hash = other,
                BlockError::Validators { which: "this", .. }
            ),
            row!(
                "another next validator set",
                |it| it.header.next_validators_hash = other,
                BlockError::Validators { which: "the next", .. }
            ),
            row!(
                "another transactions root",
                |it| it.header.transactions_root = other,
                BlockError::Content(ContentError {
                    field: "transactions root",
                    ..
                })
            ),
            row!(
                "another rejections root",
                |it| it.header.rejections_root = other,
                BlockError::Content(ContentError {
                    field: "rejections root",
                    ..
                })
            ),
            row!(
                "another seals root",
                |it| it.header.seals_root = other,
                BlockError::Content(ContentError {
                    field: "seals root",
                    ..
                })
            ),
            row!(
                "another last commit hash",
                |it| it.header.last_commit_hash = other,
                BlockError::Content(ContentError {
                    field: "last commit hash",
                    ..
                })
            ),
            row!(
                "a transaction left out",
                |it| it.transactions.clear(),
                BlockError::Content(ContentError {
                    field: "transactions root",
                    ..
                })
            ),
        ],
    );
}

#[test]
fn last_commits_that_break_a_rule() {
    let (chain, ..) = grown();
    let base = chain.content(Vec::new(), Vec::new(), Vec::new());
    let first = chain.view.blocks[&Height(1)].commit.clone();
    let chain = &chain;
    let with = |change: Change<'static, BlockCertificate>| {
        Box::new(move |content: &mut Content| {
            change(content.last_commit.as_mut().expect("height 3 has one"));
            rehash(chain, content);
        })
    };
    let subject = |what: &'static str| -> Box<dyn Fn(&BlockError) -> bool> {
        Box::new(move |error| *error == BlockError::LastCommit(CertificateError::Subject(what)))
    };
    run(
        chain,
        &base,
        vec![
            (
                "of prepare",
                with(Box::new(|it| it.phase = crate::primitives::Phase::Prepare)),
                subject("its phase is not Commit"),
            ),
            (
                "of another height",
                with(Box::new(|it| it.height = Height(1))),
                subject("its height is not the parent's"),
            ),
            (
                "of another block",
                with(Box::new(|it| it.block = BlockId([1; 32]))),
                subject("its block is not the parent"),
            ),
            (
                "the grandparent's",
                with(Box::new(move |it| *it = first.clone())),
                subject("its height is not the parent's"),
            ),
            (
                "none",
                Box::new(|content| {
                    content.last_commit = None;
                    rehash(chain, content);
                }),
                subject("there is none, expected the parent's"),
            ),
        ],
    );
    let fresh = Chain::new();
    let mut content = fresh.content(Vec::new(), Vec::new(), Vec::new());
    assert_eq!(content.header.last_commit_hash, Hash::default());
    assert_eq!(content.header.parent.0, fresh.chain_id().0);
    assert!(fresh.apply(&content).is_ok());
    content.last_commit = chain.last_commit.clone();
    rehash(&fresh, &mut content);
    assert!(subject("genesis has no commit certificate")(
        &fresh.apply(&content).expect_err("height 1 has none")
    ));
}

#[test]
fn transactions_and_rejections_that_do_not_belong_into_a_block() {
    let (chain, committed, rejected) = grown();
    let (fine, rival) = (chain.pay(1, 2), chain.pay(1, 3));
    let (child_of_fine, _) = fine.created().next().expect("one output");
    let child = chain.transaction(&[child_of_fine], &[(lock(3), COIN - 2 * FEE)], &[&payer(2)], &[]);
    let overspent = chain.transaction(&[chain.genesis_coins[2]], &[(lock(3), COIN + 1)], &[&payer(2)], &[]);
    let pending = chain.pay(5, 1).txid();
    let (fine_id, committed_id, rejected_id) = (fine.txid(), committed.txid(), rejected.txid());
    let base = chain.content(vec![fine, child], vec![chain.rejection(pending)], Vec::new());
    let chain = &chain;
    let is = |expected: BlockError| -> Box<dyn Fn(&BlockError) -> bool> { Box::new(move |error| *error == expected) };
    let broken = |txid, error| is(BlockError::Transaction { txid, error });
    let (rival_id, overspent_id) = (rival.txid(), overspent.txid());
    let child_id = base.transactions[1].txid();
    run(
        chain,
        &base,
        vec![
            (
                "a transaction twice",
                listing(chain, |it| it.push(it[0].clone())),
                is(BlockError::Repeated(fine_id)),
            ),
            (
                "a transaction of an earlier block",
                listing(chain, move |it| it.push(committed.clone())),
                is(BlockError::AlreadyCommitted {
                    txid: committed_id,
                    height: Height(1),
                }),
            ),
            (
                "a transaction that was rejected",
                listing(chain, move |it| it.push(rejected.clone())),
                is(BlockError::AlreadyRejected {
                    txid: rejected_id,
                    height: Height(2),
                }),
            ),
            (
                "a child before its parent",
                listing(chain, |it| it.reverse()),
                broken(child_id, TransactionError::UnknownInput(child_of_fine)),
            ),
            (
                "two that spend one coin",
                listing(chain, move |it| it.push(rival.clone())),
                broken(rival_id, TransactionError::UnknownInput(chain.genesis_coins[1])),
            ),
            (
                "one that breaks a rule of transactions",
                listing(chain, move |it| it.push(overspent.clone())),
                broken(
                    overspent_id,
                    TransactionError::Overspent {
                        inputs: Amount(COIN),
                        outputs: Amount(COIN + 1),
                    },
                ),
            ),
            (
                "a rejection that is a lock certificate",
                rejecting(chain, move |it| it[0] = chain.votes(VoteKind::Lock, pending, Epoch(0))),
                is(BlockError::RejectionKind {
                    txid: pending,
                    kind: VoteKind::Lock,
                }),
            ),
            (
                "a rejection of another epoch",
                rejecting(chain, move |it| {
                    it[0] = chain.votes(VoteKind::Abandon, pending, Epoch(1))
                }),
                is(BlockError::RejectionEpoch {
                    txid: pending,
                    found: Epoch(1),
                    expected: Epoch(0),
                }),
            ),
            (
                "a rejection twice",
                rejecting(chain, |it| it.push(it[0].clone())),
                is(BlockError::RejectionRepeated(pending)),
            ),
            (
                "a rejection of what the block has",
                rejecting(chain, move |it| it[0] = chain.rejection(fine_id)),
                is(BlockError::RejectionCommitted(fine_id)),
            ),
            (
                "a rejection of what an earlier block has",
                rejecting(chain, move |it| it[0] = chain.rejection(committed_id)),
                is(BlockError::AlreadyCommitted {
                    txid: committed_id,
                    height: Height(1),
                }),
            ),
            (
                "a rejection of what was rejected",
                rejecting(chain, move |it| it[0] = chain.rejection(rejected_id)),
                is(BlockError::AlreadyRejected {
                    txid: rejected_id,
                    height: Height(2),
                }),
            ),
            (
                "more rejections than fit",
                rejecting(chain, move |it| {
                    let template = it[0].clone();
                    let numbered = |number: u16| {
                        let mut certificate = template.clone();
                        certificate.txid.0[..2].copy_from_slice(&number.to_be_bytes());
                        certificate
                    };
                    *it = (0..257).map(numbered).collect();
                }),
                is(BlockError::TooMany {
                    what: "rejections",
                    count: 257,
                    max: 256,
                }),
            ),
            (
                "seals before the epoch closes",
                Box::new(|content| {
                    content.seals.push(chain.seal(0, &[]));
                    rehash(chain, content);
                }),
                is(BlockError::EarlySeals {
                    count: 1,
                    epoch: Epoch(0),
                }),
            ),
        ],
    );
}

#[test]
fn a_block_is_not_larger_than_the_parameters_say() {
    let mut chain = Chain::new();
    let transactions = vec![chain.pay(0, 1), chain.pay(1, 2)];
    let bytes: usize = transactions.iter().map(|transaction| transaction.bytes().len()).sum();
    let content = chain.content(transactions, Vec::new(), Vec::new());
    chain.params.max_block_bytes = bytes as u32;
    chain.params.max_block_transactions = 2;
    assert!(chain.apply(&content).is_ok());
    chain.params.max_block_bytes -= 1;
    let (count, max) = (bytes, bytes - 1);
    let what = "bytes of transactions";
    assert_eq!(chain.apply(&content), Err(BlockError::TooMany { what, count, max }));
    chain.params.max_block_bytes += 1;
    chain.params.max_block_transactions = 1;
    let what = "transactions";
    assert_eq!(
        chain.apply(&content),
        Err(BlockError::TooMany { what, count: 2, max: 1 })
    );
}

#[test]
fn seals_that_break_a_rule() {
    let (mut chain, committed, rejected) = grown();
    chain.commit(Vec::new());
    let (listed, pending) = (chain.pay(1, 2), chain.pay(2, 3).txid());
    let settled = [listed.txid(), committed.txid(), rejected.txid()];
    let also_rejected = chain.pay(5, 1).txid();
    let seals = vec![
        chain.seal(0, &settled),
        chain.seal(1, &[also_rejected]),
        chain.seal(3, &[]),
    ];
    let base = chain.content(vec![listed], vec![chain.rejection(also_rejected)], seals);
    let chain = &chain;
    let is = |expected: BlockError| -> Box<dyn Fn(&BlockError) -> bool> { Box::new(move |error| *error == expected) };
    let no_quorum = |power| BlockError::SealQuorum {
        epoch: Epoch(0),
        power,
        total: 4,
    };
    run(
        chain,
        &base,
        vec![
            ("no seals", sealing(chain, Vec::clear), is(no_quorum(0))),
            ("no quorum", sealing(chain, |it| it.truncate(2)), is(no_quorum(2))),
            (
                "one validator twice",
                sealing(chain, |it| it[1] = it[0].clone()),
                is(BlockError::SealOrder(0)),
            ),
            (
                "out of order",
                sealing(chain, |it| it.swap(1, 2)),
                is(BlockError::SealOrder(1)),
            ),
            (
                "of no validator",
                sealing(chain, |it| it[2].validator = 9),
                is(no_quorum(2)),
            ),
            (
                "of another epoch",
                sealing(chain, |it| it[2].epoch = Epoch(1)),
                is(BlockError::SealEpoch {
                    validator: 3,
                    found: Epoch(1),
                    expected: Epoch(0),
                }),
            ),
            (
                "a sealed transaction left out",
                sealing(chain, move |it| it[2] = chain.seal(3, &[pending])),
                is(BlockError::SealedLeftOut(pending)),
            ),
        ],
    );
    planted::plant(Some(planted::Planted::ForgetSealed));
    let mut forgetful = base;
    forgetful.seals[2] = chain.seal(3, &[pending]);
    rehash(chain, &mut forgetful);
    let outcome = chain.apply(&forgetful);
    planted::plant(None);
    assert!(outcome.is_ok(), "planted: {outcome:?}");
}

#[test]
fn a_commitment_that_lags_is_noticed() {
    let mut chain = Chain::new();
    let old = chain.commitment.clone();
    chain.commit(vec![chain.pay(0, 1)]);
    let current = std::mem::replace(&mut chain.commitment, old);
    let content = chain.content(Vec::new(), Vec::new(), Vec::new());
    let (found, expected) = (chain.commitment.root(), current.root());
    assert_eq!(chain.apply(&content), Err(BlockError::Commitment { found, expected }));
}

#[test]
fn the_planted_stale_root_is_stale() {
    let chain = Chain::new();
    let content = chain.content(vec![chain.pay(0, 1)], Vec::new(), Vec::new());
    planted::plant(Some(planted::Planted::StaleRoot));
    let stale = chain.apply(&content);
    planted::plant(None);
    let right = chain.apply(&content).expect("a valid block");
    let stale = stale.expect("a valid block");
    assert_eq!(stale.tip.utxo_root, chain.view.tip.utxo_root);
    assert_ne!(right.tip.utxo_root, chain.view.tip.utxo_root);
    assert_eq!(stale.buckets, right.buckets);
}

#[test]
fn a_view_that_fails_is_an_error_and_no_verdict() {
    struct Broken(MemoryView);
    impl View for Broken {
        fn tip(&self) -> Result<Tip, ViewError> {
            self.0.tip()
        }
        fn coin(&self, _: &OutPoint) -> Result<Option<Coin>, ViewError> {
            Err(ViewError("disk on fire".into()))
        }
        fn location(&self, txid: &TxId) -> Result<Option<crate::ledger::Location>, ViewError> {
            self.0.location(txid)
        }
        fn rejected(&self, txid: &TxId) -> Result<Option<Height>, ViewError> {
            self.0.rejected(txid)
        }
        fn block(&self, height: Height) -> Result<Option<CommittedBlock>, ViewError> {
            self.0.block(height)
        }
        fn bucket(&self, index: u16) -> Result<Option<Vec<u8>>, ViewError> {
            self.0.bucket(index)
        }
    }
    let chain = Chain::new();
    let content = chain.content(vec![chain.pay(0, 1)], Vec::new(), Vec::new());
    let view = Broken(chain.view.clone());
    let outcome = apply_block(&view, &chain.commitment, &chain.params, &chain.electorate, &content);
    let cause = ViewError("disk on fire".into());
    assert_eq!(outcome, Err(BlockError::View(cause)));
}

// ---- epochs ----------------------------------------------------------------------------------------------------

#[test]
fn an_epoch_is_paid_out_by_its_closing_block() {
    let mut chain = Chain::new();
    let start = chain.view.tip.supply;
    chain.commit(vec![chain.pay(0, 1)]);
    assert_eq!((chain.view.tip.fees, chain.view.tip.supply), (Amount(FEE), start));
    let next = chain.content(vec![chain.pay(1, 2)], Vec::new(), Vec::new());
    chain.commit_signed(&next, &[0, 1, 3]);
    let next = chain.content(Vec::new(), Vec::new(), Vec::new());
    chain.commit_signed(&next, &[0, 1, 2, 3]);
    assert_eq!(
        chain.view.tip.signed,
        [2, 2, 1, 1],
        "heights 1 and 2, by their certificates"
    );
    let closing = chain.commit(vec![chain.pay(2, 3)]);
    // Three fees and the issuance of 1,003 by weights 3, 3, 2, 2: 4,003 units, of which 2 cannot be shared out.
    let rewards: Vec<(u32, u64, LockHash)> = closing
        .created
        .iter()
        .filter(|(outpoint, _)| outpoint.txid == reward::reward_txid(chain.chain_id(), Epoch(0)))
        .map(|(outpoint, coin)| (outpoint.index, coin.output.value.0, coin.output.lock))
        .collect();
    let payout = |index: usize| chain.validators[index].public().lock();
    assert_eq!(
        rewards,
        [
            (0, 1_200, payout(0)),
            (1, 1_200, payout(1)),
            (2, 800, payout(2)),
            (3, 800, payout(3))
        ]
    );
    let tip = &chain.view.tip;
    assert_eq!((tip.fees, tip.supply), (Amount(3), Amount(start.0 + 1_003)));
    assert_eq!(tip.signed, [0; 4]);
    chain.commit(Vec::new());
    assert_eq!(
        chain.view.tip.signed, [0; 4],
        "the closing block's certificate is of the epoch before"
    );
    assert_eq!(chain.view.tip.fees, Amount(3));
}

#[test]
fn checks_and_rules_agree_on_a_synced_chain() {
    let mut chain = Chain::new();
    for number in 0..9u8 {
        let transactions = if number < PAYERS - 1 {
            vec![chain.pay(number, 7)]
        } else {
            Vec::new()
        };
        chain.commit(transactions);
    }
    let mut newcomer = Chain::new();
    let blocks: Vec<CommittedBlock> = chain.view.blocks.values().cloned().collect();
    for (block, content) in blocks
        .iter()
        .zip(check::check_certified_all(&chain.electorate, &blocks))
    {
        let bytes = block.encode();
        assert_eq!(CommittedBlock::decode(&bytes).as_ref(), Ok(block));
        let content = content.expect("a certified block");
        let signers: Vec<ValidatorIndex> = block.commit.signatures.iter().map(|(signer, _)| *signer).collect();
        newcomer.commit_signed(&content, &signers);
    }
    assert_eq!(newcomer.view.tip, chain.view.tip);
    assert_eq!(newcomer.view.coins, chain.view.coins);
}

// ---- random chains ---------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
struct Step {
    /// For each transaction: which coin, how many outputs, how much fee above the least.
    payments: Vec<(prop::sample::Index, u8, u16)>,
    signers: usize,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let payment = (any::<prop::sample::Index>(), 1u8..4, any::<u16>());
    let step =
        (prop::collection::vec(payment, 0..5), 0usize..5).prop_map(|(payments, signers)| Step { payments, signers });
    prop::collection::vec(step, 1..14)
}

/// The payer or validator that a single-key lock is of.
fn owner(chain: &Chain, lock: &LockHash) -> Option<SecretKey> {
    let payers = (0..PAYERS).map(payer);
    payers
        .chain(chain.validators.iter().cloned())
        .find(|key| key.public().lock() == *lock)
}

/// A payment from one of the coins that are there when the block's earlier payments are counted in.
fn random_payment(
    chain: &Chain,
    coins: &std::collections::BTreeMap<OutPoint, Coin>,
    (pick, outputs, extra): &(prop::sample::Index, u8, u16),
) -> Option<CheckedTransaction> {
    let (outpoint, coin) = coins.iter().nth(pick.index(coins.len()))?;
    let spendable = coin.output.value.0.checked_sub(1_000 + u64::from(*extra))?;
    let each = spendable / u64::from(*outputs);
    let outputs: Vec<(LockHash, u64)> = (0..*outputs).map(|number| (lock(number), each)).collect();
    if each == 0 {
        return None;
    }
    Some(match owner(chain, &coin.output.lock) {
        Some(key) => chain.transaction(&[*outpoint], &outputs, &[&key], &[]),
        None => chain.transaction(&[*outpoint], &outputs, &[&payer(0), &payer(1)], &[policy()]),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_chains_keep_the_supply_and_the_root(steps in steps()) {
        let mut chain = Chain::new();
        let quorums: [&[ValidatorIndex]; 5] = [&[0, 1, 2], &[0, 1, 3], &[0, 2, 3], &[1, 2, 3], &[0, 1, 2, 3]];
        let start = chain.view.tip.supply.0;
        for step in steps {
            let mut coins = chain.view.coins.clone();
            let mut transactions = Vec::new();
            for payment in &step.payments {
                if let Some(transaction) = random_payment(&chain, &coins, payment) {
                    coins.remove(&transaction.inputs()[0]);
                    let height = chain.view.tip.height.next();
                    coins.extend(transaction.created().map(|(at, output)| (at, Coin { output: *output, height })));
                    transactions.push(transaction);
                }
            }
            let content = chain.content(transactions, Vec::new(), chain.seals_if_closing());
            let applied = chain.commit_signed(&content, quorums[step.signers]);
            let tip = &chain.view.tip;
            prop_assert_eq!(chain.view.coin_sum() + tip.fees.0, tip.supply.0);
            let epochs_closed = tip.height.0 / chain.params.epoch_length;
            prop_assert_eq!(tip.supply.0, start + epochs_closed * chain.params.issuance_per_epoch);
            prop_assert_eq!(tip.utxo_root, chain.view.rebuilt_root());
            prop_assert_eq!(chain.commitment.root(), tip.utxo_root);
            prop_assert_eq!(Commitment::load(&chain.view).map(|loaded| loaded.root()), Ok(tip.utxo_root));
            prop_assert!(applied.created.iter().all(|(_, coin)| coin.height == applied.tip.height));
            // The coins are what the payments alone say, but for the rewards.
            let reward = |at: &OutPoint| (0..=epochs_closed).any(|epoch| at.txid == reward::reward_txid(chain.chain_id(), Epoch(epoch)));
            coins.extend(chain.view.coins.iter().filter(|(at, _)| reward(at)).map(|(at, coin)| (*at, *coin)));
            prop_assert_eq!(&coins, &chain.view.coins);
        }
    }
}
