//! Payments on a test network, and what must be true of them.

use super::{children::Children, layout::Layout};
use crate::{
    api::client::{Client, Submitted},
    cli::{load::report, read_genesis, receipt, say, wallet::pay_once},
    primitives::{Address, Amount, ChainId, Genesis, LockHash, Output, SecretKey, TxId, amount::UNITS_PER_TIME},
    proto::{PaymentState, Wait, get_block_request::Which},
    wallet::{
        Spendable, Wallet,
        spend::{self, Order},
    },
};
use anyhow::{Context as _, bail, ensure};
use futures::StreamExt as _;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// How long a payment may take to be final, and then to be in a block everywhere.
const PATIENCE: Duration = Duration::from_secs(30);
/// Payments under way at a time.
const AT_A_TIME: usize = 16;
/// Coins of the faucet that may be too small to pay with, at most.
const SMALL_COINS: usize = 1_000;
/// Between two looks at a node.
const LOOK: Duration = Duration::from_millis(50);

/// One payment by the wallet, as a user would make it, and its receipt checked offline.
pub(super) async fn demonstrate(layout: &Layout) -> anyhow::Result<()> {
    let genesis = read_genesis(&layout.genesis())?;
    let to = Address::new(&genesis.network, new_lock()).to_string();
    let receipt_file = layout.dir.join("receipt.json");
    let nodes: Vec<String> = layout.nodes.iter().map(|node| node.api.to_string()).collect();
    pay_once(&layout.faucet(), &nodes, &to, Amount(UNITS_PER_TIME), &receipt_file).await?;
    let txid = receipt::check_file(&receipt_file, &genesis, None)?;
    // In a block everywhere before anybody else pays from the faucet: its coins are then the same for all.
    for client in layout.clients()? {
        await_committed(&client, &[txid]).await?;
    }
    Ok(())
}

fn new_lock() -> LockHash {
    let mut seed = [0; 32];
    rand::fill(&mut seed);
    SecretKey::from_seed(seed).public().lock()
}

/// Makes `count` payments through all validators in turn and checks: final, with a receipt that proves it offline, in
/// a block on every validator, and all validators on one chain.
pub(super) async fn verdict(layout: &Layout, children: &mut Children, count: usize) -> anyhow::Result<()> {
    let genesis = read_genesis(&layout.genesis())?;
    let clients = layout.clients()?;
    let wallet = Wallet::open(&layout.faucet())?;
    let payments = prepare(&genesis, &clients[0], &wallet, count).await?;
    say!("{count} payments through {} validators", clients.len())?;
    let started = Instant::now();
    let submit = |(number, (txid, bytes)): (usize, &(TxId, Vec<u8>))| {
        let client = clients[number % clients.len()].clone();
        let (txid, bytes) = (*txid, bytes.clone());
        async move {
            let sent = Instant::now();
            let submitted = client.submit(&bytes, Wait::Final, PATIENCE, true).await;
            (txid, submitted, sent.elapsed())
        }
    };
    let mut answers = futures::stream::iter(payments.iter().enumerate().map(submit)).buffer_unordered(AT_A_TIME);
    let mut latencies = report::new_histogram();
    let mut receipts = 0;
    while let Some((txid, submitted, latency)) = answers.next().await {
        let submitted = submitted.with_context(|| format!("payment {txid}"))?;
        check_final(&submitted, &txid, &genesis)?;
        receipts += 1;
        latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }
    say!(
        "final      {count}, submit→final {}",
        report::Percentiles::of(&latencies).text()
    )?;
    say!("receipts   {receipts} checked offline against the genesis")?;
    let txids: Vec<TxId> = payments.iter().map(|(txid, _)| *txid).collect();
    for client in &clients {
        await_committed(client, &txids).await?;
    }
    say!(
        "committed  {count} on all {} validators after {:.1} s",
        clients.len(),
        started.elapsed().as_secs_f64()
    )?;
    let height = same_chain(&clients).await?;
    say!("one chain  all validators have the same block at height {height}")?;
    children.check()?;
    Ok(say!("verdict    PASS")?)
}

async fn prepare(
    genesis: &Genesis,
    client: &Client,
    wallet: &Wallet,
    count: usize,
) -> anyhow::Result<Vec<(TxId, Vec<u8>)>> {
    let chain = genesis.chain_id();
    let own = wallet.keys().first().context("the faucet has no key")?.lock;
    // Some may be change that is too small to pay with.
    let mut coins = client.coins(&own, 2 * count + SMALL_COINS).await?;
    coins.retain(|coin| coin.value.0 >= 2 * UNITS_PER_TIME);
    coins.truncate(count);
    ensure!(
        coins.len() == count,
        "the faucet has {} coins left, {count} are needed",
        coins.len()
    );
    let payee = new_lock();
    coins
        .iter()
        .map(|coin| {
            let coin = Spendable {
                outpoint: coin.outpoint,
                value: coin.value,
                lock: own,
            };
            prepare_one(&chain, genesis, wallet, coin, payee)
        })
        .collect()
}

fn prepare_one(
    chain: &ChainId,
    genesis: &Genesis,
    wallet: &Wallet,
    coin: Spendable,
    payee: LockHash,
) -> anyhow::Result<(TxId, Vec<u8>)> {
    let order = Order {
        outputs: vec![Output {
            value: Amount(UNITS_PER_TIME),
            lock: payee,
        }],
        memo: vec![],
        change: coin.lock,
        fee_rate: genesis.params.min_fee_rate,
    };
    let plan = spend::plan(wallet, chain, &[coin], &BTreeSet::new(), None, &order)?;
    Ok((plan.transaction.txid(), plan.transaction.bytes().to_vec()))
}

fn check_final(submitted: &Submitted, txid: &TxId, genesis: &Genesis) -> anyhow::Result<()> {
    ensure!(
        submitted.txid == *txid,
        "the node answered for {} instead of {txid}",
        submitted.txid
    );
    ensure!(
        submitted.reached,
        "payment {txid} is {:?} after {} s",
        submitted.state,
        PATIENCE.as_secs()
    );
    // A block may have it before its Final votes are here: a receipt comes only from votes.
    match &submitted.receipt {
        Some(found) => receipt::verify(found, genesis, Some(txid)),
        None => bail!(
            "payment {txid} is {:?}, but its node has no receipt for it",
            submitted.state
        ),
    }
}

async fn await_committed(client: &Client, payments: &[TxId]) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for txid in payments {
        loop {
            let answer = client.transaction(txid, false, false).await?;
            if answer.is_some_and(|answer| answer.state() == PaymentState::Committed) {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "payment {txid} is in no block after {} s",
                PATIENCE.as_secs()
            );
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// The height at which all are known to have the same block.
pub(super) async fn same_chain(clients: &[Client]) -> anyhow::Result<u64> {
    let mut lowest = u64::MAX;
    for client in clients {
        lowest = lowest.min(client.status().await?.height);
    }
    let mut ids = BTreeSet::new();
    for client in clients {
        let block = client.block(Which::Height(lowest.max(1)), false).await?;
        ids.insert(block.map(|block| block.block_id));
    }
    ensure!(
        ids.len() == 1,
        "the validators have different blocks at height {lowest}"
    );
    Ok(lowest)
}
