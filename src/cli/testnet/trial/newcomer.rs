//! A node that begins with nothing but the genesis and a peer or two, while payments go on: how long until it is where
//! the others are, what that costs, and what it says of a peer that lies to it.

use super::{
    liar::{self, Lie},
    manifest::{Newcomer, Way},
    metrics, sum_of,
};
use crate::{
    api::client::Client,
    cli::{
        say,
        testnet::{
            children::{Children, peak_mb},
            layout::{self, Layout},
            pay,
        },
    },
    primitives::ChainId,
};
use anyhow::{Context as _, bail, ensure};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// How long the liar may take to hear where the chain stands.
const LIAR_WITHIN: Duration = Duration::from_secs(15);
/// One that has not arrived by then never will.
const PATIENCE: Duration = Duration::from_secs(600);
/// With fewer blocks behind than this, the history is fetched in any case: trials may be small.
const BEHIND_BLOCKS: u64 = 50;
/// What the log says of a liar.
const NAMED: [&str; 2] = ["a peer lied", "peer banned"];

/// How a newcomer arrived.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    pub(super) seconds: f64,
    way: Option<Way>,
    kills: u32,
    coins: f64,
    /// Blocks fetched, without those that came live.
    blocks: f64,
    payments: f64,
    /// Answers to its questions, over all its lives.
    bytes: f64,
    peak_mb: u64,
    hostile_faults: f64,
    careless_faults: f64,
    bad_buckets: f64,
    /// Lines of its log that accuse somebody.
    accusations: Vec<String>,
}

impl Arrival {
    /// How much more it fetched than one that was not killed.
    fn refetched(&self, whole: &Self) -> f64 {
        (self.bytes / whole.bytes - 1.0).max(0.0)
    }
}

/// What one life of the process has shown last.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Of everything that is to be fetched, between 0 and 1.
    part: f64,
    coins: f64,
    blocks: f64,
    payments: f64,
    bytes: f64,
    hostile: f64,
    careless: f64,
    bad_buckets: f64,
}

impl Seen {
    fn read(text: &str) -> Self {
        let value = |name| sum_of(name, text);
        let of = |part: f64, whole: f64| if whole > 0.0 { (part / whole).min(1.0) } else { 0.0 };
        let target = value("timecoin_claimed_height");
        let part = if value("timecoin_state_syncing") > 0.0 {
            let buckets = of(value("timecoin_state_sync_buckets"), 1_024.0);
            (buckets + of(value("timecoin_state_sync_height"), target)) / 2.0
        } else {
            of(value("timecoin_height"), target)
        };
        Self {
            part,
            coins: value("timecoin_state_sync_coins"),
            blocks: value("timecoin_state_sync_height").max(value("timecoin_height")),
            payments: value("timecoin_transactions_committed_total"),
            bytes: value("timecoin_answer_bytes_total"),
            hostile: value("timecoin_peer_faults_total{fault=\"hostile\"}"),
            careless: value("timecoin_peer_faults_total{fault=\"careless\"}"),
            bad_buckets: value("timecoin_state_sync_bad_buckets"),
        }
    }
}

/// Starts the newcomers one after the other and waits for each to arrive. `present`: validators that are there all the
/// while.
pub(super) async fn all(
    newcomers: &[Newcomer],
    present: &[usize],
    layout: &Layout,
    chain: ChainId,
    log: &str,
) -> anyhow::Result<Vec<Arrival>> {
    let mut arrivals = Vec::new();
    for (number, newcomer) in newcomers.iter().enumerate() {
        let arrival = arrive(number, newcomer, present, layout, chain, log)
            .await
            .with_context(|| format!("newcomer {number}"))?;
        judge(newcomer, &arrival, &arrivals).with_context(|| format!("newcomer {number}"))?;
        arrivals.push(arrival);
    }
    Ok(arrivals)
}

async fn arrive(
    number: usize,
    newcomer: &Newcomer,
    present: &[usize],
    layout: &Layout,
    chain: ChainId,
    log: &str,
) -> anyhow::Result<Arrival> {
    let from = match newcomer.from.as_slice() {
        [] => present,
        some => some,
    };
    let sync = match newcomer.sync {
        Way::State => format!("mode = \"auto\"\nbehind_blocks = {BEHIND_BLOCKS}\n"),
        Way::Blocks => "mode = \"blocks\"\n".to_owned(),
    };
    let node = layout.newcomer(number, from, &sync)?;
    let mut children = Children::of([(format!("newcomer {number}"), &node.files)], log)?;
    let liar_gone = CancellationToken::new();
    let mut lying = None;
    if let Some(lie) = newcomer.lie {
        let place = liar::Place {
            newcomer: (node.identity, layout::peer_address(node.files.peers)),
            source: layout::peer_address(layout.nodes[from[0]].peers),
            chain,
        };
        let (ready, is_ready) = oneshot::channel();
        lying = Some(tokio::spawn(liar::run(lie, place, ready, liar_gone.clone())));
        let waited = tokio::time::timeout(LIAR_WITHIN, is_ready).await;
        waited.context("the liar heard nothing from an honest peer")??;
    }
    say!(
        "           newcomer {number} starts with nothing, to fetch {}{}",
        newcomer.sync.text(),
        newcomer
            .lie
            .map(|lie| format!("; a peer lies: {}", lie.text()))
            .unwrap_or_default()
    )?;
    let outcome = watch(newcomer, &node.files, &mut children).await;
    liar_gone.cancel();
    let mut arrival = outcome?;
    if let Some(lying) = lying {
        let told = lying.await??;
        say!("           {} lies were told, by {}", told.lies, told.identity)?;
        ensure!(
            told.lies > 0 || newcomer.lie == Some(Lie::Silence),
            "the liar was never asked"
        );
        arrival.accusations = accusations(&node.files.log())?;
        accused(newcomer, &arrival, &told.identity)?;
    } else {
        arrival.accusations = accusations(&node.files.log())?;
        ensure!(
            arrival.accusations.is_empty() && arrival.hostile_faults + arrival.careless_faults == 0.0,
            "an honest peer is accused: {} hostile and {} careless faults were counted; {}",
            arrival.hostile_faults,
            arrival.careless_faults,
            arrival.accusations.join("; ")
        );
    }
    let mut clients = vec![Client::lazy(&node.files.api.to_string())?];
    for number in from {
        clients.push(Client::lazy(&layout.nodes[*number].api.to_string())?);
    }
    let height = pay::same_chain(&clients).await?;
    say!("           newcomer {number} has the same block as validators {from:?} at height {height}")?;
    children.stop().await?;
    tell(&arrival)?;
    Ok(arrival)
}

/// Waits until the newcomer is live, and kills it on the way as often as wanted.
async fn watch(newcomer: &Newcomer, files: &layout::NodeFiles, children: &mut Children) -> anyhow::Result<Arrival> {
    let client = Client::lazy(&files.api.to_string())?;
    let mut arrival = Arrival {
        way: Some(newcomer.sync),
        ..Arrival::default()
    };
    let (mut seen, mut kills) = (Seen::default(), 0);
    let started = Instant::now();
    children.run(0)?;
    loop {
        children.check()?;
        ensure!(
            started.elapsed() < PATIENCE,
            "it is not live after {} s: {} of the way, see {}",
            PATIENCE.as_secs(),
            seen.part,
            files.log().display()
        );
        let peak = children.pids().into_iter().flatten().filter_map(peak_mb).max();
        arrival.peak_mb = arrival.peak_mb.max(peak.unwrap_or(0));
        // Not there yet, or too busy to answer at once: at the next look.
        if let Ok(Ok(text)) = tokio::time::timeout(Duration::from_secs(1), metrics(files.http)).await {
            seen = Seen::read(&text);
            arrival.coins = arrival.coins.max(seen.coins);
            arrival.blocks = arrival.blocks.max(seen.blocks);
            arrival.bad_buckets = arrival.bad_buckets.max(seen.bad_buckets);
        }
        if kills < newcomer.kill && seen.part > f64::from(kills + 1) / f64::from(newcomer.kill + 1) {
            children.kill(0).await?;
            kills += 1;
            say!(
                "           the newcomer is killed at {:.0} % of its way",
                100.0 * seen.part
            )?;
            arrival.end_of_life(&seen);
            seen = Seen::default();
            children.run(0)?;
            continue;
        }
        let status = tokio::time::timeout(Duration::from_secs(1), client.status()).await;
        if matches!(status, Ok(Ok(status)) if status.ready) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    arrival.seconds = started.elapsed().as_secs_f64();
    arrival.kills = kills;
    arrival.end_of_life(&Seen::read(&metrics(files.http).await?));
    if kills < newcomer.kill {
        bail!(
            "it was live before it could be killed {} times: make the history longer",
            newcomer.kill
        );
    }
    Ok(arrival)
}

impl Arrival {
    fn end_of_life(&mut self, seen: &Seen) {
        self.bytes += seen.bytes;
        self.payments += seen.payments;
        self.hostile_faults += seen.hostile;
        self.careless_faults += seen.careless;
        self.blocks = self.blocks.max(seen.blocks);
    }
}

fn accusations(log: &std::path::Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(log).with_context(|| format!("{} cannot be read", log.display()))?;
    let accuses = |line: &&str| NAMED.iter().any(|named| line.contains(named));
    Ok(text.lines().filter(accuses).map(str::to_owned).collect())
}

/// Whether the liar, and nobody else, is named, in the log and in the metrics.
fn accused(newcomer: &Newcomer, arrival: &Arrival, liar: &str) -> anyhow::Result<()> {
    let others = arrival.accusations.iter().find(|line| !line.contains(liar));
    if let Some(line) = others {
        bail!("somebody else than the liar {liar} is accused: {line}");
    }
    let provable = newcomer.lie.is_some_and(Lie::is_provable);
    ensure!(
        !provable || (!arrival.accusations.is_empty() && arrival.hostile_faults > 0.0),
        "the liar {liar} is not named: {} hostile faults were counted, and the log has no line about it",
        arrival.hostile_faults
    );
    for line in &arrival.accusations {
        say!("           log: {}", line.trim())?;
    }
    Ok(())
}

fn tell(arrival: &Arrival) -> anyhow::Result<()> {
    let rate = |count: f64| count / arrival.seconds;
    say!(
        "newcomer   live after {:.1} s, {} kills: {:.0} coins ({:.0}/s), {:.0} blocks ({:.0}/s), {:.0} payments applied \
         ({:.0}/s), {:.1} MB fetched, {} MB of memory at most, {:.0} buckets fetched again",
        arrival.seconds,
        arrival.kills,
        arrival.coins,
        rate(arrival.coins),
        arrival.blocks,
        rate(arrival.blocks),
        arrival.payments,
        rate(arrival.payments),
        arrival.bytes / 1e6,
        arrival.peak_mb,
        arrival.bad_buckets,
    )?;
    Ok(())
}

/// Whether it is what was expected.
fn judge(newcomer: &Newcomer, arrival: &Arrival, before: &[Arrival]) -> anyhow::Result<()> {
    let most = newcomer.live_within.unwrap_or(f64::INFINITY);
    ensure!(
        arrival.seconds <= most,
        "it was live after {:.1} s, {most} s were expected",
        arrival.seconds
    );
    let most = newcomer.resident_mb.unwrap_or(u64::MAX);
    ensure!(
        arrival.peak_mb <= most,
        "it took {} MB of memory, {most} MB were expected",
        arrival.peak_mb
    );
    let (rate, least) = (
        arrival.payments / arrival.seconds,
        newcomer.payments_per_second.unwrap_or(0.0),
    );
    ensure!(
        rate >= least,
        "it applied {rate:.0} payments a second, {least} were expected"
    );
    if let Some(most) = newcomer.refetched {
        let whole = before.iter().find(|other| other.way == arrival.way && other.kills == 0);
        let whole = whole.context("refetched: a newcomer that is not killed must come before, to compare with")?;
        let part = arrival.refetched(whole);
        say!("           {:.1} % of it was fetched twice", 100.0 * part)?;
        ensure!(
            part <= most,
            "{:.1} % was fetched twice, {:.1} % were expected",
            100.0 * part,
            100.0 * most
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_made_of_coins_and_blocks() {
        let text = |syncing: u8| {
            format!(
                "timecoin_state_syncing {syncing}\ntimecoin_state_sync_buckets 512\ntimecoin_state_sync_height 50\n\
                 timecoin_claimed_height 200\ntimecoin_height 20\n\
                 timecoin_answer_bytes_total{{type=\"answer/coins\"}} 70\n\
                 timecoin_answer_bytes_total{{type=\"answer/blocks\"}} 7\n"
            )
        };
        let (state, blocks) = (Seen::read(&text(1)), Seen::read(&text(0)));
        assert_eq!((state.part, blocks.part, state.bytes), (0.375, 0.1, 77.0));
        assert_eq!(Seen::read("").part, 0.0);
    }

    #[test]
    fn what_was_fetched_twice_is_what_one_that_was_not_killed_did_not_fetch() {
        let of = |bytes| Arrival {
            bytes,
            ..Arrival::default()
        };
        assert!((of(110.0).refetched(&of(100.0)) - 0.1).abs() < 1e-9);
        assert_eq!(of(90.0).refetched(&of(100.0)), 0.0);
    }
}
