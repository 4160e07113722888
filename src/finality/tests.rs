//! The rules as rows: what happens to a validator, and what it says then.

use super::*;
use crate::{
    ledger::check,
    primitives::{Amount, ChainId, LockHash, Output, SecretKey, Signature, Transaction, TransactionBody, Validator},
};

const CHAIN: ChainId = ChainId([7; 32]);
const ME: ValidatorIndex = 0;
const CONTEST_MS: u64 = 1_000;

fn set() -> Arc<ValidatorSet> {
    let member = |index: u8| Validator {
        public_key: SecretKey::from_seed([index + 1; 32]).public(),
        power: 1,
        payout: LockHash([0; 32]),
    };
    Arc::new(ValidatorSet::new((0..4).map(member).collect()).expect("a valid set"))
}

fn coin(number: u8) -> OutPoint {
    OutPoint {
        txid: TxId([number; 32]),
        index: 0,
    }
}

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

/// One validator of four, and the others' sequences.
struct One {
    finality: Finality,
    now: Time,
    sequences: [u64; 4],
}

impl One {
    fn new() -> Self {
        Self::with_limit(100)
    }

    fn with_limit(max_locked: usize) -> Self {
        let config = Config {
            own: Some(ME),
            contest_after_ms: CONTEST_MS,
            max_locked,
            max_locked_bytes: 1_000_000,
        };
        let mut finality = Finality::new(config, set(), Epoch(0), Height(0));
        finality.set_voting(Time(0), true);
        Self {
            finality,
            now: Time(0),
            sequences: [0; 4],
        }
    }

    fn submit(&mut self, transaction: &CheckedTransaction) {
        self.finality.on_transaction(self.now, transaction, 1_000, true);
        self.finality.pump(self.now);
    }

    /// The other validators say something.
    fn hear(&mut self, validators: &[ValidatorIndex], kind: VoteKind, txid: TxId) {
        for validator in validators {
            let sequence = self.sequences[*validator as usize];
            self.sequences[*validator as usize] += 1;
            self.batch(*validator, sequence, vec![Vote { kind, txid }])
                .expect("new");
        }
    }

    fn batch(&mut self, validator: ValidatorIndex, sequence: u64, votes: Vec<Vote>) -> Result<(), FinalityError> {
        let height = self.finality.height;
        let signature = Signature([0; 64]);
        let batch = VoteBatch {
            epoch: self.finality.epoch(),
            validator,
            sequence,
            height,
            votes,
            signature,
        };
        self.finality.on_batch(self.now, batch)
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.finality.on_tick(self.now);
        self.finality.pump(self.now);
    }

    fn block(&mut self, committed: &[&CheckedTransaction], rejected: &[&CheckedTransaction]) -> Vec<TxId> {
        let txids = |all: &[&CheckedTransaction]| all.iter().map(|one| one.txid()).collect::<Vec<_>>();
        let spent: Vec<OutPoint> = committed.iter().flat_map(|one| one.inputs().to_vec()).collect();
        let height = self.finality.height.next();
        self.finality
            .on_block(self.now, height, &txids(committed), &txids(rejected), spent)
    }

    /// What it says now; own votes come back and count.
    fn said(&mut self) -> Vec<(VoteKind, TxId)> {
        let (_, batches) = self.finality.take_votes();
        let mut said = Vec::new();
        for batch in batches {
            said.extend(batch.votes.iter().map(|vote| (vote.kind, vote.txid)));
            self.finality.on_batch(self.now, batch).expect("own");
        }
        said
    }
}

use VoteKind::{Abandon, Final, Lock};

#[test]
fn the_way_of_an_uncontested_payment() {
    let (mut one, t) = (One::new(), spend(&[1], 1));
    one.submit(&t);
    assert_eq!(one.said(), [(Lock, t.txid())]);
    one.hear(&[1], Lock, t.txid());
    assert_eq!(one.said(), [], "two of four are no quorum");
    one.hear(&[2], Lock, t.txid());
    assert!(one.finality.is_certified(&t.txid()));
    assert_eq!(one.said(), [(Final, t.txid())]);
    one.hear(&[1], Final, t.txid());
    assert!(!one.finality.is_final(&t.txid()), "two of four are no quorum");
    one.hear(&[3], Final, t.txid());
    assert!(one.finality.is_final(&t.txid()));
    assert_eq!(one.finality.to_seal(), [t.txid()]);
    one.block(&[&t], &[]);
    assert!(!one.finality.is_busy() && one.finality.locks.is_empty() && one.finality.locked == 0);
    assert_eq!(one.said(), []);
}

#[test]
fn nothing_is_final_however_long_one_waits() {
    let (mut one, t) = (One::new(), spend(&[1], 1));
    one.submit(&t);
    one.hear(&[1], Lock, t.txid());
    one.said();
    one.wait(1_000_000_000);
    assert!(!one.finality.is_final(&t.txid()) && !one.finality.is_certified(&t.txid()));
    assert_eq!(one.said(), [], "and nothing is abandoned without a rival");
}

#[test]
fn a_rival_is_not_locked_and_both_are_abandoned_in_time() {
    let (mut one, t, rival) = (One::new(), spend(&[1], 1), spend(&[1, 2], 2));
    one.submit(&t);
    one.submit(&rival);
    assert_eq!(one.said(), [(Lock, t.txid())]);
    one.wait(CONTEST_MS - 1);
    assert_eq!(one.said(), []);
    one.wait(1);
    let mut said = one.said();
    said.sort_unstable();
    let mut both = [(Abandon, t.txid()), (Abandon, rival.txid())];
    both.sort_unstable();
    assert_eq!(said, both);
    // The lock stays until a block rejects it; a late certificate changes nothing.
    assert_eq!(one.finality.locks.get(&coin(1)), Some(&t.txid()));
    one.hear(&[1, 2, 3], Lock, t.txid());
    assert!(one.finality.is_certified(&t.txid()));
    assert_eq!(one.said(), [], "never Final after Abandon");
}

#[test]
fn each_validator_backs_one_spender_of_a_coin_and_no_more() {
    let mut one = One::new();
    let [mine, theirs, third, fourth] = [1, 2, 3, 4].map(|salt| spend(&[1], salt));
    one.submit(&mine);
    assert_eq!(one.said(), [(Lock, mine.txid())]);
    one.hear(&[1], Lock, theirs.txid());
    one.submit(&theirs);
    assert!(!one.finality.is_backed(&third), "no vote names it");
    // Validator 1 has locked the coin for another one, so this is a lie and opens no door; validator 2 has not.
    one.hear(&[1], Lock, third.txid());
    assert!(!one.finality.is_backed(&third));
    one.hear(&[2], Lock, third.txid());
    assert!(one.finality.is_backed(&third));
    one.submit(&third);
    one.hear(&[1, 2], Lock, fourth.txid());
    assert!(!one.finality.is_backed(&fourth));
}

#[test]
fn a_certificate_in_time_wins_over_the_contest() {
    let (mut one, t, rival) = (One::new(), spend(&[1], 1), spend(&[1], 2));
    one.submit(&rival);
    one.submit(&t);
    one.said();
    one.hear(&[1, 2, 3], Lock, t.txid());
    assert_eq!(one.said(), [(Final, t.txid())], "though the rival is locked here");
    one.hear(&[1, 2], Abandon, t.txid());
    one.wait(10 * CONTEST_MS);
    assert_eq!(one.said(), [(Abandon, rival.txid())], "never Abandon after Final");
}

#[test]
fn more_than_a_third_of_abandon_is_joined() {
    let (mut one, t) = (One::new(), spend(&[1], 1));
    one.submit(&t);
    one.said();
    one.hear(&[1], Abandon, t.txid());
    assert_eq!(one.said(), []);
    one.hear(&[2], Abandon, t.txid());
    assert_eq!(one.said(), [(Abandon, t.txid())]);
    assert!(one.finality.has_rejections());
    assert_eq!(one.finality.rejections().len(), 1);
}

#[test]
fn a_committed_rejection_frees_the_coin_and_repeated_ones_let_it_rest() {
    let (mut one, t, rival) = (One::new(), spend(&[1], 1), spend(&[1], 2));
    one.submit(&t);
    one.submit(&rival);
    one.wait(CONTEST_MS);
    one.said();
    one.block(&[], &[&t, &rival]);
    let (second, other) = (spend(&[1], 3), spend(&[1], 4));
    one.submit(&second);
    assert_eq!(one.said(), [(Lock, second.txid())], "free at once after the first time");
    one.submit(&other);
    one.wait(CONTEST_MS);
    one.said();
    one.block(&[], &[&second, &other]);
    let third = spend(&[1], 5);
    one.submit(&third);
    one.block(&[], &[]);
    assert_eq!(one.said(), [], "rests for two blocks after the second time");
    one.block(&[], &[]);
    assert_eq!(one.said(), [(Lock, third.txid())]);
}

#[test]
fn a_rejected_rival_is_shown_to_those_who_never_saw_it() {
    let (a, b) = (spend(&[1], 1), spend(&[1], 2));
    let mut knows = One::new();
    knows.submit(&a);
    knows.submit(&b);
    knows.wait(CONTEST_MS);
    knows.said();
    knows.block(&[], &[&a]);
    let shown = |one: &One| one.finality.uncertified(one.now.plus_ms(1), 10);
    let txids = |bodies: Vec<CheckedTransaction>| bodies.iter().map(|body| body.txid()).collect::<Vec<_>>();
    assert_eq!(txids(shown(&knows)), [a.txid(), b.txid()]);

    let mut late = One::new();
    late.block(&[], &[&a]);
    late.submit(&b);
    assert_eq!(late.said(), [(Lock, b.txid())]);
    late.wait(10 * CONTEST_MS);
    assert_eq!(late.said(), [], "as far as it knows there was no rival");
    assert!(late.finality.on_rejected_rival(late.now, &a), "news");
    assert!(!late.finality.on_rejected_rival(late.now, &a), "no longer");
    assert!(
        !late.finality.on_rejected_rival(late.now, &spend(&[2], 1)),
        "of another coin"
    );
    late.wait(10 * CONTEST_MS);
    assert_eq!(late.said(), [], "an old one played back is no reason");
    assert_eq!(txids(shown(&late)), [b.txid()]);
    late.hear(&[1], Abandon, b.txid());
    late.wait(CONTEST_MS - 1);
    assert_eq!(late.said(), []);
    late.wait(1);
    assert_eq!(late.said(), [(Abandon, b.txid())]);
    assert_eq!(txids(shown(&late)), [a.txid(), b.txid()], "and shows it in its turn");
}

#[test]
fn a_certificate_wins_over_a_rejected_rival() {
    let (a, b) = (spend(&[1], 1), spend(&[1], 2));
    let mut one = One::new();
    one.submit(&b);
    one.said();
    one.finality.on_rejected_rival(one.now, &a);
    one.hear(&[3], Abandon, b.txid());
    one.hear(&[1, 2], Lock, b.txid());
    assert_eq!(one.said(), [(Final, b.txid())]);
    one.wait(10 * CONTEST_MS);
    assert_eq!(one.said(), []);
}

#[test]
fn a_block_kills_the_rival_and_frees_its_other_coins() {
    let (mut one, t, rival, waiting) = (One::new(), spend(&[1], 1), spend(&[1, 2], 2), spend(&[2], 3));
    one.submit(&rival);
    one.submit(&t);
    one.submit(&waiting);
    assert_eq!(one.said(), [(Lock, rival.txid())]);
    assert_eq!(one.block(&[&t], &[]), [rival.txid()]);
    assert_eq!(one.said(), [(Lock, waiting.txid())]);
}

#[test]
fn locks_are_bounded_and_the_best_paying_goes_first() {
    let mut one = One::with_limit(2);
    let all: Vec<_> = (1..=4).map(|number| spend(&[number], number)).collect();
    for (transaction, rate) in all.iter().zip([10, 40, 20, 30]) {
        one.finality.on_transaction(one.now, transaction, rate, true);
    }
    one.finality.pump(one.now);
    assert_eq!(one.said(), [(Lock, all[1].txid()), (Lock, all[3].txid())]);
    one.block(&[&all[1]], &[]);
    assert_eq!(one.said(), [(Lock, all[2].txid())]);
}

#[test]
fn after_the_seal_nothing_is_said_until_the_next_epoch() {
    let (mut one, t, u) = (One::new(), spend(&[1], 1), spend(&[2], 2));
    one.submit(&t);
    one.said();
    one.finality.seal();
    one.hear(&[1, 2, 3], Lock, t.txid());
    one.submit(&u);
    assert_eq!(one.said(), []);
    one.finality.on_epoch(one.now, Epoch(1), set(), Some(ME));
    assert!(
        one.finality.locks.is_empty() && !one.finality.is_certified(&t.txid()),
        "all is forgotten"
    );
    one.finality.set_ready(t.txid());
    one.finality.pump(one.now);
    assert_eq!(one.said(), [(Lock, t.txid())]);
}

#[test]
fn what_was_said_is_remembered_across_a_restart() {
    let (mut one, t, rival) = (One::new(), spend(&[1], 1), spend(&[1], 2));
    one.submit(&t);
    let (_, batches) = one.finality.take_votes();
    let mut again = One::new();
    again.finality.restore(
        again.now,
        &batches[0],
        |_| false,
        |txid| (*txid == t.txid()).then(|| (t.clone(), 1_000)),
    );
    again.finality.set_ready(t.txid());
    again.submit(&rival);
    assert_eq!(again.said(), [], "the coin is locked for the other");
    assert_eq!(again.finality.next_sequence(), 1);
    // Settled meanwhile: the number is used up all the same.
    let mut later = One::new();
    later.finality.restore(later.now, &batches[0], |_| false, |_| None);
    later.submit(&rival);
    assert_eq!(later.finality.take_votes().1[0].sequence, 1);
}

#[test]
fn contradictions_are_evidence_and_excused_ones_are_not() {
    let evidence = |one: &mut One| {
        let changes = one.finality.take_changes();
        changes
            .iter()
            .any(|change| matches!(change, Change::Evidence { validator: 3, .. }))
    };
    let (t, rival) = (spend(&[1], 1), spend(&[1, 2], 2));
    let mut one = One::new();
    one.hear(&[3], Final, t.txid());
    one.hear(&[3], Abandon, t.txid());
    assert!(evidence(&mut one), "Final and Abandon");

    let mut one = One::new();
    one.submit(&t);
    one.submit(&rival);
    one.hear(&[3], Lock, t.txid());
    one.hear(&[3], Lock, rival.txid());
    assert!(evidence(&mut one), "Lock for two rivals");

    let mut one = One::new();
    one.submit(&t);
    one.submit(&rival);
    one.hear(&[3], Lock, t.txid());
    // It has committed a block that this node does not know yet: perhaps that freed it.
    let vote = Vote {
        kind: Lock,
        txid: rival.txid(),
    };
    let batch = VoteBatch {
        epoch: Epoch(0),
        validator: 3,
        sequence: 1,
        height: Height(1),
        votes: vec![vote],
        signature: Signature([0; 64]),
    };
    one.finality.on_batch(one.now, batch).expect("new");
    assert!(!evidence(&mut one));
}

#[test]
fn one_validator_can_name_only_so_many_unknown_transactions() {
    let limit = 5 + MAX_NAMED_BESIDE;
    let mut one = One::with_limit(5);
    let unknown = |number: usize| {
        let mut txid = [0xEE; 32];
        txid[..8].copy_from_slice(&number.to_be_bytes());
        TxId(txid)
    };
    let lock = |number| Vote {
        kind: Lock,
        txid: unknown(number),
    };
    one.batch(3, 0, (0..2 * limit).map(lock).collect()).expect("new");
    assert_eq!(one.finality.numbers().bodyless, limit as u64);
    one.hear(&[2], Lock, TxId([1; 32]));
    assert_eq!(
        one.finality.numbers().bodyless,
        limit as u64 + 1,
        "another validator has its own bound"
    );
}

#[test]
fn who_abandons_more_than_it_may_lock_is_heard() {
    let mut one = One::with_limit(2);
    let all: Vec<CheckedTransaction> = (1..=9).map(|salt| spend(&[salt], salt)).collect();
    let abandon = |transaction: &CheckedTransaction| Vote {
        kind: Abandon,
        txid: transaction.txid(),
    };
    for validator in [1, 2] {
        one.batch(validator, 0, all.iter().map(abandon).collect()).expect("new");
    }
    one.submit(&all[8]);
    assert_eq!(one.said(), [(Abandon, all[8].txid())], "more than a third has");
}

#[test]
fn gaps_are_noticed_asked_for_and_at_last_passed_over() {
    let mut one = One::new();
    let vote = |number: u8| {
        vec![Vote {
            kind: Lock,
            txid: TxId([number; 32]),
        }]
    };
    one.batch(1, 0, vote(10)).expect("new");
    one.batch(1, 3, vote(13)).expect("new");
    assert_eq!(one.finality.gaps(), [(1, 1, 2)]);
    one.batch(1, 1, vote(11)).expect("new");
    assert_eq!(one.finality.gaps(), [(1, 2, 1)]);
    for _ in 0..3 {
        one.finality.on_gap_answered(1);
    }
    assert_eq!(one.finality.gaps(), []);
    assert_eq!(one.finality.sequences()[1], 4);
    let duplicate = FinalityError::Duplicate {
        validator: 1,
        sequence: 3,
    };
    assert_eq!(one.batch(1, 3, vote(13)), Err(duplicate));
    // A claim alone is believed only until nobody can show what it speaks of.
    one.finality.on_claims(&[0, 0, u64::MAX, 0]);
    assert_eq!(one.finality.gaps().len(), 1);
    for _ in 0..3 {
        one.finality.on_gap_answered(2);
    }
    assert_eq!(one.finality.gaps(), []);
    assert_eq!(one.finality.sequences()[2], 0);
}

#[test]
fn settled_batches_are_forgotten_but_the_latest() {
    let (mut one, t, u) = (One::new(), spend(&[1], 1), spend(&[2], 2));
    one.submit(&t);
    one.submit(&u);
    one.hear(&[1], Lock, t.txid());
    one.hear(&[1], Lock, u.txid());
    assert_eq!(one.finality.batches(1, 0).count(), 2);
    one.block(&[&t], &[]);
    assert_eq!(one.finality.batches(1, 0).count(), 1);
    one.block(&[&u], &[]);
    assert_eq!(
        one.finality
            .batches(1, 0)
            .map(|batch| batch.sequence)
            .collect::<Vec<_>>(),
        [1]
    );
    // A late vote for what is settled opens no new case.
    one.hear(&[2], Final, t.txid());
    assert!(!one.finality.is_busy());
}

#[test]
fn a_receipt_is_a_quorum_that_checks_out_and_nothing_less_does() {
    let (mut one, t) = (One::new(), spend(&[1], 1));
    let keys: Vec<SecretKey> = {
        let mut keys: Vec<SecretKey> = (1..=4u8).map(|seed| SecretKey::from_seed([seed; 32])).collect();
        keys.sort_by_key(SecretKey::public);
        keys
    };
    one.submit(&t);
    for validator in 0..3u32 {
        let other = Vote {
            kind: Lock,
            txid: TxId([9; 32]),
        };
        let votes = vec![
            other,
            Vote {
                kind: Final,
                txid: t.txid(),
            },
            other,
        ];
        let mut batch = VoteBatch {
            epoch: Epoch(0),
            validator,
            sequence: 0,
            height: Height(0),
            votes,
            signature: Signature([0; 64]),
        };
        batch.signature = keys[validator as usize].sign(&batch.head().digest(&CHAIN));
        one.finality.on_batch(one.now, batch).expect("new");
    }
    let receipt = one.finality.proof(Final, &t.txid()).expect("final").certificate();
    assert_eq!(receipt.verify(&CHAIN, &set()), Ok(()));
    let decoded = crate::primitives::Certificate::decode(&receipt.encode()).expect("round trip");
    assert_eq!(decoded, receipt);
    type Spoil = fn(&mut crate::primitives::Certificate);
    let spoil: [(&str, Spoil); 6] = [
        ("a vote less", |receipt| drop(receipt.votes.pop())),
        ("another transaction", |receipt| receipt.txid = TxId([8; 32])),
        ("another kind", |receipt| receipt.kind = Lock),
        ("another epoch", |receipt| receipt.epoch = Epoch(1)),
        ("another position", |receipt| receipt.votes[0].index = 0),
        ("a spoiled path", |receipt| receipt.votes[0].path[0][0] ^= 1),
    ];
    for (what, spoil) in spoil {
        let mut spoiled = receipt.clone();
        spoil(&mut spoiled);
        assert!(spoiled.verify(&CHAIN, &set()).is_err(), "{what}");
    }
    assert!(receipt.verify(&ChainId([1; 32]), &set()).is_err(), "another chain");
}
