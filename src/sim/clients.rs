//! Clients that pay, pay again, pay twice with the same coin, and now and then something invalid.

use super::{
    book::{Book, Purpose},
    clock::{Micros, SECOND},
    random::Random,
};
use crate::{
    ledger::{CheckedTransaction, check::check},
    primitives::{Amount, ChainId, Genesis, OutPoint, Output, SecretKey, Transaction, TransactionBody, TxId},
};
use std::collections::{BTreeMap, BTreeSet};

/// A transaction on its way to a node.
#[derive(Clone, Debug)]
pub struct Submission {
    /// When.
    pub at: Micros,
    /// To which node.
    pub to: usize,
    /// What.
    pub transaction: CheckedTransaction,
}

/// Money that somebody has, as the clients know it.
#[derive(Clone, Copy, Debug)]
struct Money {
    value: Amount,
    owner: usize,
}

/// All clients together: they share what they learn.
pub struct Clients {
    chain: ChainId,
    keys: Vec<SecretKey>,
    /// Every coin ever seen.
    coins: BTreeMap<OutPoint, Money>,
    /// Those that nothing spends yet.
    free: BTreeSet<OutPoint>,
    /// By transaction: when it is submitted again, and how often it was.
    retry: BTreeMap<TxId, (Micros, u32)>,
    next: u64,
}

/// Fee of every payment: well above what the sizes made here cost at one unit a byte.
pub(super) const FEE: u64 = 3_000;
/// Clients.
const PURSES: usize = 5;
/// Coins that each has at the start.
const COINS_EACH: usize = 5;
/// Value of a first coin.
const COIN: u64 = 50_000_000;
/// How often a transaction that has a rival is submitted at most.
const CONTEST_TRIES: u32 = 4;

impl Clients {
    /// The keys of the clients of a run.
    pub fn keys(seed: u64) -> Vec<SecretKey> {
        let mut random = Random::new(seed, "purses");
        (0..PURSES).map(|_| SecretKey::from_seed(random.bytes())).collect()
    }

    /// What genesis gives them.
    pub fn first_coins(keys: &[SecretKey]) -> Vec<Output> {
        let coin = |key: &SecretKey| Output {
            value: Amount(COIN),
            lock: key.public().lock(),
        };
        keys.iter().flat_map(|key| vec![coin(key); COINS_EACH]).collect()
    }

    /// Clients with the coins that genesis gives to their keys.
    pub fn new(genesis: &Genesis, chain: ChainId, keys: Vec<SecretKey>) -> Self {
        let owner_of = |lock| keys.iter().position(|key| key.public().lock() == lock);
        let coins: BTreeMap<OutPoint, Money> = genesis
            .named_coins()
            .filter_map(|(outpoint, coin)| {
                let owner = owner_of(coin.output.lock)?;
                Some((
                    outpoint,
                    Money {
                        value: coin.output.value,
                        owner,
                    },
                ))
            })
            .collect();
        Self {
            chain,
            free: coins.keys().copied().collect(),
            coins,
            keys,
            retry: BTreeMap::new(),
            next: 0,
        }
    }

    /// A transaction is final, or in a block: what it makes can be spent.
    pub fn earned(&mut self, book: &Book, txid: &TxId, committed: bool) {
        let Some(entry) = book.get(txid) else { return };
        // The change of a contested payment is spent only when a block has it.
        if !committed && !book.rivals(txid).is_empty() {
            return;
        }
        for (outpoint, _) in entry.transaction.created() {
            if book.spenders(&outpoint).is_empty() && self.coins.contains_key(&outpoint) {
                self.free.insert(outpoint);
            }
        }
    }

    /// Does something: what is to be submitted because of it.
    pub fn act(
        &mut self,
        random: &mut Random,
        book: &mut Book,
        now: Micros,
        nodes: usize,
        rivals: u64,
    ) -> Vec<Submission> {
        if random.chance(70) && book.len() > 0 {
            return self.again(random, book, now, nodes);
        }
        if random.chance(80) {
            return self.invalid(random, book, now, nodes);
        }
        let Some(coins) = self.choose(random) else {
            return self.again(random, book, now, nodes);
        };
        if random.chance(rivals) {
            return self.double_spend(random, book, now, nodes, &coins);
        }
        let transaction = self.build(random, &coins);
        self.record(book, &transaction, Purpose::Payment);
        let copies = if random.chance(200) { 3 } else { 1 };
        (0..copies)
            .map(|_| self.submit(random, now, nodes, &transaction))
            .collect()
    }

    /// One or more free coins of one owner; the newest first, so that chains of payments grow.
    fn choose(&self, random: &mut Random) -> Option<Vec<OutPoint>> {
        let free: Vec<OutPoint> = self.free.iter().copied().collect();
        let first = *random.pick(&free)?;
        let owner = self.coins[&first].owner;
        let mut coins = vec![first];
        if random.chance(120) {
            let others = free
                .iter()
                .filter(|coin| **coin != first && self.coins[coin].owner == owner);
            coins.extend(others.take(random.index(3) + 1));
        }
        let total: u64 = coins.iter().map(|coin| self.coins[coin].value.0).sum();
        (total > 2 * FEE).then_some(coins)
    }

    /// Spends coins of one owner: something to another, the rest back.
    fn build(&mut self, random: &mut Random, coins: &[OutPoint]) -> CheckedTransaction {
        let owner = self.coins[&coins[0]].owner;
        let total: u64 = coins.iter().map(|coin| self.coins[coin].value.0).sum();
        let to = random.index(self.keys.len());
        let value = random.between(1, total - FEE - 1);
        let output = |value, owner: usize| Output {
            value: Amount(value),
            lock: self.keys[owner].public().lock(),
        };
        self.next += 1;
        let body = TransactionBody {
            inputs: coins.to_vec(),
            outputs: vec![output(value, to), output(total - FEE - value, owner)],
            memo: self.next.to_be_bytes().to_vec(),
        };
        let transaction = self.sign(&body, owner);
        for ((outpoint, output), owner) in transaction.created().zip([to, owner]) {
            let value = output.value;
            self.coins.insert(outpoint, Money { value, owner });
        }
        transaction
    }

    fn sign(&self, body: &TransactionBody, owner: usize) -> CheckedTransaction {
        let signed = Transaction::sign(&self.chain, body, &[&self.keys[owner]], &[]).expect("a body of the right form");
        check(&self.chain, signed.bytes()).expect("a transaction with a right signature")
    }

    fn record(&mut self, book: &mut Book, transaction: &CheckedTransaction, purpose: Purpose) {
        for input in transaction.inputs() {
            self.free.remove(input);
        }
        book.add(transaction.clone(), purpose);
    }

    fn submit(
        &mut self,
        random: &mut Random,
        at: Micros,
        nodes: usize,
        transaction: &CheckedTransaction,
    ) -> Submission {
        let (again, tries) = self.retry.entry(transaction.txid()).or_default();
        *again = at + random.between(SECOND, 3 * SECOND);
        *tries += 1;
        Submission {
            at,
            to: random.index(nodes),
            transaction: transaction.clone(),
        }
    }

    /// Two or three transactions that cannot all be valid, at once or one after another.
    fn double_spend(
        &mut self,
        random: &mut Random,
        book: &mut Book,
        now: Micros,
        nodes: usize,
        coins: &[OutPoint],
    ) -> Vec<Submission> {
        let late = if random.chance(600) {
            0
        } else {
            random.below(2 * SECOND)
        };
        let rivals = if random.chance(150) { 3 } else { 2 };
        let mut submissions = Vec::new();
        for rival in 0..rivals {
            // A later rival may share only some of the coins.
            let shared = if rival > 0 && random.chance(200) {
                &coins[..1]
            } else {
                coins
            };
            let transaction = self.build(random, shared);
            self.record(book, &transaction, Purpose::Rival);
            submissions.push(self.submit(random, now + rival * late, nodes, &transaction));
        }
        submissions
    }

    /// The same bytes once more: an old payment, whatever became of it.
    fn again(&mut self, random: &mut Random, book: &Book, now: Micros, nodes: usize) -> Vec<Submission> {
        let Some(entry) = book.nth(random.index(book.len())) else {
            return Vec::new();
        };
        vec![Submission {
            at: now,
            to: random.index(nodes),
            transaction: entry.transaction.clone(),
        }]
    }

    /// Something whose form and signatures are right and that must never be accepted.
    fn invalid(&mut self, random: &mut Random, book: &mut Book, now: Micros, nodes: usize) -> Vec<Submission> {
        let all: Vec<OutPoint> = self.coins.keys().copied().collect();
        let Some(coin) = random.pick(&all).copied() else {
            return Vec::new();
        };
        let money = self.coins[&coin];
        let mut body = TransactionBody {
            inputs: vec![coin],
            outputs: vec![Output {
                value: Amount(money.value.0.saturating_sub(FEE).max(1)),
                lock: self.keys[0].public().lock(),
            }],
            memo: random.bytes::<8>().to_vec(),
        };
        let mut signer = money.owner;
        match random.below(4) {
            0 => body.outputs[0].value = Amount(money.value.0 + 1),
            1 => body.outputs[0].value = Amount(money.value.0.saturating_sub(10).max(1)),
            2 => body.inputs[0].index = u32::MAX,
            _ => signer = (signer + 1) % self.keys.len(),
        }
        let transaction = self.sign(&body, signer);
        book.add(transaction.clone(), Purpose::Invalid);
        vec![Submission {
            at: now,
            to: random.index(nodes),
            transaction,
        }]
    }

    /// What is submitted again because no answer came: payments until they are reported final, rivals a few times.
    pub fn retries(&mut self, random: &mut Random, book: &Book, now: Micros, nodes: usize) -> Vec<Submission> {
        let due: Vec<TxId> = self
            .retry
            .iter()
            .filter(|(txid, (at, tries))| *at <= now && Self::wants_retry(book, txid, *tries))
            .map(|(txid, _)| *txid)
            .collect();
        due.iter()
            .filter_map(|txid| book.get(txid))
            .map(|entry| self.submit(random, now, nodes, &entry.transaction))
            .collect()
    }

    fn wants_retry(book: &Book, txid: &TxId, tries: u32) -> bool {
        let open = |entry: &super::book::Entry| !entry.final_ && !entry.committed && !entry.rejected;
        let tries_left = |entry: &super::book::Entry| match entry.purpose {
            Purpose::Payment | Purpose::Probe => true,
            Purpose::Rival => tries < CONTEST_TRIES,
            Purpose::Invalid => false,
        };
        book.get(txid).is_some_and(|entry| open(entry) && tries_left(entry))
    }

    /// A new transaction for each contested coin that still exists and that nothing wants any more.
    pub fn probe(
        &mut self,
        random: &mut Random,
        book: &mut Book,
        now: Micros,
        nodes: usize,
        exists: impl Fn(&OutPoint) -> bool,
    ) -> Vec<Submission> {
        let settled = |txid: &TxId| book.get(txid).is_none_or(|entry| entry.committed || entry.rejected);
        // A rival that nobody ever locked, or whose other coin is gone, is never settled: it is given up.
        let given_up = |txid: &TxId| {
            let tries = self.retry.get(txid).map_or(0, |(_, tries)| *tries);
            book.get(txid)
                .is_none_or(|entry| !entry.final_ && entry.purpose == Purpose::Rival && tries >= CONTEST_TRIES)
        };
        let nobody_wants = |coin: &OutPoint| book.spenders(coin).iter().all(|txid| settled(txid) || given_up(txid));
        let coins: Vec<OutPoint> = book
            .disputed_coins()
            .into_iter()
            .filter(|coin| self.coins.contains_key(coin) && nobody_wants(coin) && exists(coin))
            .collect();
        let mut submissions = Vec::new();
        for coin in coins {
            if self.coins[&coin].value.0 > 2 * FEE {
                let transaction = self.build(random, &[coin]);
                self.record(book, &transaction, Purpose::Probe);
                submissions.push(self.submit(random, now, nodes, &transaction));
            }
        }
        submissions
    }
}
