//! Payers: their keys, their first coins, and their payments, signed before they are due.

use super::Target;
use crate::{
    api::client::Client,
    primitives::{
        Amount, ChainId, LockHash, OutPoint, Output, SecretKey, Transaction, TransactionBody, TxId, keys::KeySigner,
        limits::MAX_OUTPUTS, transaction,
    },
    proto::{self, Wait},
    wallet::{
        Spendable, Wallet,
        spend::{self, Order},
    },
};
use anyhow::{Context as _, ensure};
use prost::Message as _;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Outputs of one funding payment, with room for change.
const COINS_PER_FUNDING: usize = MAX_OUTPUTS - 1;
/// What a payer pays each time.
const AMOUNT: Amount = Amount(1_000);
/// Payments that may lie signed and waiting; about 400 bytes each.
const MAX_AHEAD: u64 = 1_000_000;
/// Coins of the wallet that may be too small to be split, at most.
const SMALL_COINS: usize = 100;
/// How long funding may take.
const FUNDING: Duration = Duration::from_secs(60);

/// The keys that pay.
pub(in crate::cli) struct Payers {
    signers: Vec<KeySigner>,
    locks: Vec<LockHash>,
}

impl Payers {
    /// New keys; what they hold in the end is lost, so this is for test money.
    pub(in crate::cli) fn new(count: usize) -> Self {
        Self::of((0..count).map(|_| new_signer()).collect())
    }

    /// These keys; at least one.
    pub(in crate::cli) fn of(signers: Vec<KeySigner>) -> Self {
        Self {
            locks: signers.iter().map(|signer| signer.public().lock()).collect(),
            signers,
        }
    }

    pub(in crate::cli) fn lock_of_coin(&self, coin: usize) -> LockHash {
        self.locks[coin % self.locks.len()]
    }

    /// The next payment out of coin `index`, which becomes the change.
    pub(in crate::cli) fn next_payment(&self, target: &Target, index: usize, coin: &mut Coin) -> Prepared {
        let fee = Amount(target.params.min_fee_rate * PAYMENT_BYTES);
        next_payment(&target.chain, self, index, coin, fee)
    }

    fn signer_of_coin(&self, coin: usize) -> &KeySigner {
        &self.signers[coin % self.signers.len()]
    }
}

/// A new key.
pub(in crate::cli) fn new_signer() -> KeySigner {
    let mut seed = [0; 32];
    rand::fill(&mut seed);
    SecretKey::from_seed(seed).signer()
}

/// A payer's coin.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Coin {
    pub(in crate::cli) outpoint: OutPoint,
    pub(in crate::cli) value: Amount,
}

/// Splits coins of the wallet into `count` coins of the payers, and waits until every node has them in a block.
pub(in crate::cli) async fn fund(
    target: &Target,
    wallet: &Wallet,
    payers: &Payers,
    count: usize,
) -> anyhow::Result<Vec<Coin>> {
    let fundings = count.div_ceil(COINS_PER_FUNDING);
    let sources = sources(&target.clients[0], wallet, fundings).await?;
    let mut transactions = Vec::new();
    let mut coins = Vec::new();
    for (number, source) in sources.into_iter().enumerate() {
        let first = number * COINS_PER_FUNDING;
        let last = (first + COINS_PER_FUNDING).min(count);
        let locks: Vec<LockHash> = (first..last).map(|coin| payers.lock_of_coin(coin)).collect();
        let transaction = split(target, wallet, source, &locks)?;
        coins.extend(transaction.created().take(locks.len()).map(|(outpoint, output)| Coin {
            outpoint,
            value: output.value,
        }));
        transactions.push(transaction);
    }
    let deliver = |(number, transaction): (usize, &Transaction)| {
        let client = target.clients[number % target.clients.len()].clone();
        let bytes = transaction.bytes().to_vec();
        async move { client.submit(&bytes, Wait::Committed, FUNDING, false).await }
    };
    let all = futures::future::try_join_all(transactions.iter().enumerate().map(deliver));
    let mut height = 0;
    for submitted in all.await.context("funding the payers")? {
        let block = submitted
            .height
            .context("a funding payment was not in a block in time")?;
        height = height.max(block.0);
    }
    for client in &target.clients {
        wait_for_height(client, height).await?;
    }
    Ok(coins)
}

async fn sources(client: &Client, wallet: &Wallet, count: usize) -> anyhow::Result<Vec<Spendable>> {
    let mut sources = Vec::new();
    for key in wallet.keys() {
        // Change of earlier payments may be small.
        let found = client.coins(&key.lock, count + SMALL_COINS).await?;
        sources.extend(found.into_iter().map(|coin| Spendable {
            outpoint: coin.outpoint,
            value: coin.value,
            lock: key.lock,
        }));
    }
    sources.sort_by_key(|coin| std::cmp::Reverse(coin.value));
    sources.truncate(count);
    ensure!(
        sources.len() == count,
        "the wallet has {} coins, {count} are needed to fund the payers: take fewer payers or coins",
        sources.len()
    );
    Ok(sources)
}

/// One payment that makes a coin of equal value for each lock out of one coin.
fn split(target: &Target, wallet: &Wallet, source: Spendable, locks: &[LockHash]) -> anyhow::Result<Transaction> {
    let rate = target.params.min_fee_rate;
    // Generous: an output takes less than 48 bytes, the rest less than 1,000.
    let fee = rate * (1_000 + 48 * locks.len() as u64);
    let share = source.value.0.saturating_sub(fee) / locks.len() as u64;
    ensure!(
        share > 100 * (AMOUNT.0 + 400 * rate),
        "a coin of {} TIME is too small to be split into {}",
        source.value,
        locks.len()
    );
    let output = |lock: &LockHash| Output {
        value: Amount(share),
        lock: *lock,
    };
    let order = Order {
        outputs: locks.iter().map(output).collect(),
        memo: vec![],
        change: source.lock,
        fee_rate: rate,
    };
    let plan = spend::plan(wallet, &target.chain, &[source], &BTreeSet::new(), None, &order)?;
    Ok(plan.transaction)
}

async fn wait_for_height(client: &Client, height: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + FUNDING;
    while client.status().await?.height < height {
        ensure!(Instant::now() < deadline, "a node does not come to height {height}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A payment ready to be sent.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Prepared {
    pub(in crate::cli) txid: TxId,
    pub(in crate::cli) bytes: Vec<u8>,
}

/// Signs a payment: one coin in, `outputs` out.
pub(in crate::cli) fn sign(chain: &ChainId, signer: &KeySigner, input: OutPoint, outputs: Vec<Output>) -> Prepared {
    let body = TransactionBody {
        inputs: vec![input],
        outputs,
        memo: vec![],
    }
    .encode();
    let txid = transaction::txid(chain, &body);
    let witness = proto::Witness {
        public_key: signer.public().0.to_vec(),
        signature: signer.sign(&txid.0).0.to_vec(),
    };
    let bytes = proto::SignedTransaction {
        body,
        witnesses: vec![witness],
        policies: vec![],
    }
    .encode_to_vec();
    Prepared { txid, bytes }
}

/// Bytes of a payment with one input and two outputs, at most.
pub(in crate::cli) const PAYMENT_BYTES: u64 = 320;

/// A payer's next payment out of a coin, and the change that it will pay with after that.
fn next_payment(chain: &ChainId, payers: &Payers, index: usize, coin: &mut Coin, fee: Amount) -> Prepared {
    let change = coin
        .value
        .checked_sub(AMOUNT)
        .and_then(|left| left.checked_sub(fee))
        .unwrap_or(Amount::ZERO);
    let outputs = vec![
        Output {
            value: AMOUNT,
            lock: payers.lock_of_coin(index + 1),
        },
        Output {
            value: change,
            lock: payers.lock_of_coin(index),
        },
    ];
    let prepared = sign(chain, payers.signer_of_coin(index), coin.outpoint, outputs);
    *coin = Coin {
        outpoint: OutPoint {
            txid: prepared.txid,
            index: 1,
        },
        value: change,
    };
    prepared
}

/// Payments that come signed, in the order in which they are due: payment `i` spends coin `i % coins`.
pub(in crate::cli) struct Signing {
    /// One channel a thread; a round takes a part from each.
    parts: Vec<Receiver<Vec<Prepared>>>,
    signed: Arc<AtomicU64>,
    wanted: u64,
    stop: Arc<AtomicBool>,
    started: Instant,
}

/// How much was signed before the start, and in what time.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Signed {
    pub(in crate::cli) payments: u64,
    pub(in crate::cli) seconds: f64,
}

/// Starts to sign `total` payments, ahead of when they are due by at most [`MAX_AHEAD`].
pub(in crate::cli) fn sign_ahead(target: &Target, payers: Payers, coins: Vec<Coin>, total: u64) -> Signing {
    let chain = target.chain;
    let fee = Amount(target.params.min_fee_rate * PAYMENT_BYTES);
    let threads = thread::available_parallelism().map_or(1, usize::from).clamp(1, 8);
    let count = coins.len() as u64;
    let rounds = total.div_ceil(count);
    let ahead = rounds.min((MAX_AHEAD / count).max(2));
    let payers = Arc::new(payers);
    let signed = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let part = coins.len().div_ceil(threads);
    let mut parts = Vec::new();
    for (number, chunk) in coins.chunks(part.max(1)).enumerate() {
        let (sender, receiver) = sync_channel(usize::try_from(ahead).unwrap_or(usize::MAX));
        let work = Part {
            first: number * part,
            coins: chunk.to_vec(),
            chain,
            fee,
            payers: payers.clone(),
            signed: signed.clone(),
            stop: stop.clone(),
        };
        thread::spawn(move || work.run(rounds, total, count, &sender));
        parts.push(receiver);
    }
    Signing {
        parts,
        signed,
        wanted: total.min(ahead * count),
        stop,
        started: Instant::now(),
    }
}

struct Part {
    first: usize,
    coins: Vec<Coin>,
    chain: ChainId,
    fee: Amount,
    payers: Arc<Payers>,
    signed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Part {
    fn run(mut self, rounds: u64, total: u64, count: u64, sender: &SyncSender<Vec<Prepared>>) {
        for round in 0..rounds {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // The last round may be a part of one.
            let left = total.saturating_sub(round * count + self.first as u64);
            let these = self.coins.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let mut payments = Vec::with_capacity(these);
            for (index, coin) in self.coins.iter_mut().enumerate().take(these) {
                payments.push(next_payment(
                    &self.chain,
                    &self.payers,
                    self.first + index,
                    coin,
                    self.fee,
                ));
            }
            self.signed.fetch_add(payments.len() as u64, Ordering::Relaxed);
            if sender.send(payments).is_err() {
                return;
            }
        }
    }
}

impl Signing {
    /// Waits until everything, or as much as may lie ready, is signed.
    pub(in crate::cli) async fn wait(&self) -> Signed {
        while self.signed.load(Ordering::Relaxed) < self.wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Signed {
            payments: self.signed.load(Ordering::Relaxed),
            seconds: self.started.elapsed().as_secs_f64(),
        }
    }

    /// Payments in the order in which they are due.
    pub(in crate::cli) fn into_payments(self) -> impl Iterator<Item = Prepared> {
        let Self { parts, stop, .. } = self;
        // Dropped with the iterator: then nobody needs more.
        let stop = StopOnDrop(stop);
        std::iter::from_fn(move || {
            let _kept = &stop;
            let round: Vec<Vec<Prepared>> = parts.iter().map_while(|part| part.recv().ok()).collect();
            (!round.is_empty()).then(|| round.into_iter().flatten())
        })
        .flatten()
    }
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ledger::check, primitives::Params};

    fn target() -> Target {
        Target {
            addresses: vec![],
            clients: vec![],
            chain: ChainId([3; 32]),
            params: Params::default(),
            validators: 4,
            node_version: String::new(),
        }
    }

    fn coins(count: u8) -> Vec<Coin> {
        (0..count)
            .map(|n| Coin {
                outpoint: OutPoint {
                    txid: TxId([n; 32]),
                    index: 0,
                },
                value: Amount(1_000_000),
            })
            .collect()
    }

    #[test]
    fn payments_come_in_order_each_out_of_the_change_of_its_coins_last_one() {
        for total in [1, 4, 5, 12, 13] {
            let signing = sign_ahead(&target(), Payers::new(3), coins(5), total);
            let payments: Vec<Transaction> = signing
                .into_payments()
                .map(|payment| {
                    let checked = check::check(&ChainId([3; 32]), &payment.bytes).expect("valid in form and signature");
                    assert_eq!(checked.txid(), payment.txid);
                    Transaction::decode(&ChainId([3; 32]), &payment.bytes).expect("decodes")
                })
                .collect();
            assert_eq!(payments.len() as u64, total);
            for (index, payment) in payments.iter().enumerate() {
                let expected = match index.checked_sub(5) {
                    Some(earlier) => OutPoint {
                        txid: payments[earlier].txid(),
                        index: 1,
                    },
                    None => coins(5)[index].outpoint,
                };
                assert_eq!(payment.inputs(), [expected]);
                assert!(
                    payment.bytes().len() as u64 <= PAYMENT_BYTES,
                    "{}",
                    payment.bytes().len()
                );
            }
        }
    }

    #[test]
    fn signing_stops_when_nobody_takes_the_payments() {
        let signing = sign_ahead(&target(), Payers::new(1), coins(1), u64::MAX);
        let (stop, signed) = (signing.stop.clone(), signing.signed.clone());
        assert_eq!(signing.into_payments().take(3).count(), 3);
        assert!(stop.load(Ordering::Relaxed));
        assert!(signed.load(Ordering::Relaxed) <= MAX_AHEAD + 4);
    }
}
