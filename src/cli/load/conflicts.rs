//! Pairs of payments that want the same coin, sent to two nodes at the same moment: never both final, the coin spent
//! or free again soon, and all nodes of one mind.

use super::{
    Target,
    payers::{self, Coin, Payers, Prepared},
    report::{Percentiles, new_histogram},
};
use crate::{
    api::client::{ClientError, Submitted},
    cli::say,
    primitives::{Amount, Output, SecretKey, TxId, keys::KeySigner},
    proto::{PaymentState, Wait},
    wallet::Wallet,
};
use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use serde::Serialize;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// By then the coin must be spent or free.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// How long a pair is followed in all.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often nodes are asked.
const LOOK: Duration = Duration::from_millis(100);
/// Pairs under way at a time.
const AT_A_TIME: usize = 200;

/// How a pair ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The first payment is in a block.
    First,
    /// The second is.
    Second,
    /// Neither, and the coin is free.
    Free,
    /// Not the same on all nodes, or not at all, within the patience.
    Open,
}

#[derive(Debug)]
struct Pair {
    end: End,
    both_final: bool,
    settled: Duration,
    respent: Option<bool>,
}

#[derive(Default, Serialize)]
struct Summary {
    pairs: usize,
    first_committed: usize,
    second_committed: usize,
    freed: usize,
    freed_and_spent_again: usize,
    open: usize,
    both_final: usize,
    late: usize,
    settling: Option<Percentiles>,
}

pub(super) async fn run(
    target: &Target,
    wallet: &Wallet,
    pairs: u32,
    rate: f64,
    json: Option<&Path>,
) -> anyhow::Result<()> {
    ensure!(target.clients.len() >= 2, "conflicts need two nodes: --nodes A,B");
    let key = conflict_key();
    let payers = Payers::of(vec![key.signer()]);
    let coins = payers::fund(target, wallet, &payers, pairs as usize).await?;
    say!("{pairs} coins are wanted twice, {rate} a second")?;
    let start = Instant::now();
    let signer = key.signer();
    let work = coins.iter().enumerate().map(|(number, coin)| {
        let due = start + Duration::from_secs_f64(number as f64 / rate);
        let signer = &signer;
        async move {
            tokio::time::sleep_until(due.into()).await;
            follow(target, signer, number, *coin).await
        }
    });
    let mut settling = new_histogram();
    let mut summary = Summary {
        pairs: pairs as usize,
        ..Summary::default()
    };
    let mut ended = futures::stream::iter(work).buffer_unordered(AT_A_TIME.max(rate as usize * 2));
    while let Some(pair) = ended.next().await {
        settling.saturating_record(u64::try_from(pair.settled.as_micros()).unwrap_or(u64::MAX));
        summary.count(&pair);
    }
    summary.settling = Some(Percentiles::of(&settling));
    summary.print()?;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&summary)?;
        std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    ensure!(summary.both_final == 0, "{} pairs were both final", summary.both_final);
    ensure!(
        summary.open == 0,
        "{} pairs did not settle alike on all nodes",
        summary.open
    );
    ensure!(
        summary.late == 0,
        "{} pairs took longer than {} s to settle",
        summary.late,
        SETTLED_WITHIN.as_secs()
    );
    ensure!(
        summary.freed == summary.freed_and_spent_again,
        "{} coins that should be free could not be spent again",
        summary.freed - summary.freed_and_spent_again
    );
    Ok(())
}

fn conflict_key() -> SecretKey {
    let mut seed = [0; 32];
    rand::fill(&mut seed);
    SecretKey::from_seed(seed)
}

impl Summary {
    fn count(&mut self, pair: &Pair) {
        match pair.end {
            End::First => self.first_committed += 1,
            End::Second => self.second_committed += 1,
            End::Free => self.freed += 1,
            End::Open => self.open += 1,
        }
        self.both_final += usize::from(pair.both_final);
        self.late += usize::from(pair.settled > SETTLED_WITHIN);
        self.freed_and_spent_again += usize::from(pair.respent == Some(true));
    }

    fn print(&self) -> std::io::Result<()> {
        say!("pairs              {:>6}", self.pairs)?;
        say!("first committed    {:>6}", self.first_committed)?;
        say!("second committed   {:>6}", self.second_committed)?;
        say!(
            "both rejected      {:>6}, coin spent again {}",
            self.freed,
            self.freed_and_spent_again
        )?;
        say!("not settled alike  {:>6}", self.open)?;
        say!("both final         {:>6}", self.both_final)?;
        say!("later than {} s     {:>6}", SETTLED_WITHIN.as_secs(), self.late)?;
        if let Some(settling) = &self.settling {
            say!("submit→settled on all nodes  {}", settling.text())?;
        }
        Ok(())
    }
}

/// Two payments, or three, out of one coin; they differ in what is paid.
fn rival(target: &Target, signer: &KeySigner, coin: Coin, variant: u64) -> Prepared {
    let lock = signer.public().lock();
    let fee = target.params.min_fee_rate * payers::PAYMENT_BYTES;
    let paid = 1_000 + variant;
    let change = coin.value.0.saturating_sub(fee).saturating_sub(paid);
    let outputs = [paid, change].map(|value| Output {
        value: Amount(value),
        lock,
    });
    payers::sign(&target.chain, signer, coin.outpoint, outputs.to_vec())
}

async fn follow(target: &Target, signer: &KeySigner, number: usize, coin: Coin) -> Pair {
    let [first, second] = [1, 2].map(|variant| rival(target, signer, coin, variant));
    let nodes = target.clients.len();
    let submit = |payment: &Prepared, node: usize| {
        let client = target.clients[node % nodes].clone();
        let bytes = payment.bytes.clone();
        async move { client.submit(&bytes, Wait::Final, PATIENCE, false).await }
    };
    let started = Instant::now();
    // Which payment goes to which node, and which leaves first, changes from pair to pair.
    let answers = if number.is_multiple_of(2) {
        futures::future::join(submit(&first, number), submit(&second, number + 1))
    } else {
        futures::future::join(submit(&first, number + 1), submit(&second, number))
    };
    let (answers, (end, settled)) =
        futures::future::join(answers, settle(target, &first.txid, &second.txid, started)).await;
    let respent = match end {
        End::Free => Some(is_final(&submit(&rival(target, signer, coin, 3), number).await)),
        _ => None,
    };
    Pair {
        end,
        both_final: is_final(&answers.0) && is_final(&answers.1),
        settled,
        respent,
    }
}

fn is_final(answer: &Result<Submitted, ClientError>) -> bool {
    answer.as_ref().is_ok_and(|submitted| submitted.reached)
}

/// Asks all nodes until they agree on how the pair ended.
async fn settle(target: &Target, first: &TxId, second: &TxId, started: Instant) -> (End, Duration) {
    loop {
        tokio::time::sleep(LOOK).await;
        let views = target.clients.iter().map(|client| async move {
            let state = |txid| async move {
                let answer = client.transaction(txid, false, false).await?;
                Ok::<_, ClientError>(answer.map(|answer| answer.state()))
            };
            Ok::<_, ClientError>(end_of(state(first).await?, state(second).await?))
        });
        let views: Result<Vec<Option<End>>, ClientError> = futures::future::try_join_all(views).await;
        let passed = started.elapsed();
        if let Ok(views) = views
            && let [Some(end), rest @ ..] = views.as_slice()
            && rest.iter().all(|other| *other == Some(*end))
        {
            return (*end, passed);
        }
        if passed > PATIENCE {
            return (End::Open, passed);
        }
    }
}

/// How a pair ended for one node, by the states of its payments there; `None`: not yet.
fn end_of(first: Option<PaymentState>, second: Option<PaymentState>) -> Option<End> {
    let gone = |state| matches!(state, None | Some(PaymentState::Rejected | PaymentState::Conflict));
    match (first, second) {
        (Some(PaymentState::Committed), other) if gone(other) => Some(End::First),
        (other, Some(PaymentState::Committed)) if gone(other) => Some(End::Second),
        // Unknown to the node is not rejected: both must be known to have ended, or it has only not heard of them.
        (Some(PaymentState::Rejected), other) | (other, Some(PaymentState::Rejected)) if gone(other) => Some(End::Free),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_pair_ended() {
        use PaymentState::{Certified, Committed, Conflict, Contested, Final, Pending, Rejected};
        let rows = [
            (Some(Committed), Some(Conflict), Some(End::First)),
            (Some(Committed), None, Some(End::First)),
            (Some(Rejected), Some(Committed), Some(End::Second)),
            (Some(Rejected), Some(Rejected), Some(End::Free)),
            (Some(Rejected), None, Some(End::Free)),
            (None, None, None),
            (Some(Final), Some(Contested), None),
            (Some(Rejected), Some(Pending), None),
            (Some(Certified), Some(Contested), None),
            (Some(Committed), Some(Committed), None),
        ];
        for (first, second, expected) in rows {
            assert_eq!(end_of(first, second), expected, "{first:?} {second:?}");
        }
    }
}
