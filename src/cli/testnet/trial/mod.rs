//! `timecoin testnet trial FILE`: payments all the while, something bad on top, and a verdict.
//!
//! | file | what |
//! |---|---|
//! | `manifest.rs` | the file: load, faults, attacks, what must be true |
//! | `keeper.rs` | kills validators and starts them again, and watches them |
//! | `attack.rs` | a hostile peer |
//! | `newcomer.rs` | nodes that begin with nothing |
//! | `liar.rs` | a peer that lies to them |

mod attack;
mod keeper;
mod liar;
mod manifest;
mod newcomer;

use super::{Children, Layout, await_ready, history, pay};
use crate::{
    cli::{
        load::{self, Target, report::Report},
        say,
    },
    wallet::Wallet,
};
use anyhow::{Context as _, ensure};
use attack::Ammunition;
use keeper::Watched;
use manifest::{Attack, Manifest};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{oneshot, watch},
};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The manifest of the trial; tests/trials has some.
    #[arg(value_name = "FILE")]
    manifest: PathBuf,
    /// Where the network's files go, and stay. Without it: a temporary directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What the validators log, in the language of `RUST_LOG`.
    #[arg(long, default_value = super::LOG, value_name = "FILTER")]
    log: String,
}

/// Payments that are made at the end, with receipts, on the network that has been through it all.
const LAST_PAYMENTS: usize = 20;
/// How long a node may take to show its metrics.
const METRICS_PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let manifest = Manifest::read(&args.manifest)?;
    say!("trial      {}", manifest.about)?;
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("timecoin-trial-{}", std::process::id())),
    };
    let layout = Layout::open_or_create(&dir, &manifest.blueprint())?;
    if let Some(history) = &manifest.history {
        let started = Instant::now();
        say!("history    {} blocks of {} payments", history.blocks, history.payments)?;
        // Nothing else runs yet.
        history::forge(&layout, history, &manifest.absences())?;
        say!("           is there after {:.1} s", started.elapsed().as_secs_f64())?;
    }
    let away: Vec<usize> = manifest.away.iter().map(|away| away.validator).collect();
    let mut children = Children::start(&layout, &away, &args.log)?;
    let outcome = async {
        await_ready(&layout, &away, &mut children).await?;
        let verdict = try_it(&manifest, &layout, &mut children, &args.log).await;
        if verdict.is_err() {
            tell_of_metrics(&layout).await?;
        }
        verdict
    };
    let outcome = tokio::select! {
        outcome = outcome => outcome,
        () = super::stop_signal() => Err(anyhow::anyhow!("interrupted before the verdict")),
    };
    let result = outcome.and(children.stop().await);
    if args.dir.is_none() && result.is_ok() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("{} cannot be removed", dir.display()))?;
    } else {
        say!("everything is left in {}", dir.display())?;
    }
    result
}

async fn try_it(manifest: &Manifest, layout: &Layout, children: &mut Children, log: &str) -> anyhow::Result<()> {
    let away = |number: &usize| manifest.away.iter().any(|away| away.validator == *number);
    let present: Vec<usize> = (0..layout.nodes.len()).filter(|number| !away(number)).collect();
    let nodes: Vec<String> = present
        .iter()
        .map(|number| layout.nodes[*number].api.to_string())
        .collect();
    let target = Target::connect(&nodes).await?;
    let wallet = Wallet::open(&layout.faucet())?;
    let prepared = |attack| (attack, Ammunition::new(attack, target.chain));
    let armed: Vec<(&Attack, Ammunition)> = manifest.attacks.iter().map(prepared).collect();
    let (started, start) = oneshot::channel();
    let (done, finished) = watch::channel(false);
    let load_over = finished.clone();
    let paying = async {
        let report = load::measure(&target, &wallet, &manifest.load, Some(started)).await;
        // Nobody listens when the keeper has failed.
        let _ = done.send(true);
        report
    };
    let trouble = async {
        let Ok(start) = start.await else {
            return Ok((Watched::default(), vec![], vec![])); // the load did not begin, and says why
        };
        let attacks = armed
            .into_iter()
            .map(|(attack, ammunition)| attack_at(start, attack, ammunition, layout, &target));
        let keeping = keeper::keep(start, manifest, layout, children, finished);
        let arriving = async {
            let arrivals = newcomer::all(&manifest.newcomers, &present, layout, target.chain, log).await?;
            ensure!(
                arrivals.is_empty() || !*load_over.borrow(),
                "the payments ended before all newcomers were live: make the load longer"
            );
            Ok(arrivals)
        };
        tokio::try_join!(keeping, futures::future::try_join_all(attacks), arriving)
    };
    let (report, (watched, attacks, _)) = tokio::try_join!(paying, trouble)?;
    report.print()?;
    say!()?;
    for attack in &attacks {
        say!(
            "attack     {} {}, by {} identities",
            attack.sent,
            attack.kind.text(),
            attack.identities
        )?;
        if let Some(refusal) = &attack.refusal {
            say!("           the API: {refusal}")?;
        }
    }
    judge(manifest, layout, &report, &watched).await?;
    pay::verdict(layout, children, LAST_PAYMENTS).await
}

async fn attack_at(
    start: Instant,
    attack: &Attack,
    ammunition: Ammunition,
    layout: &Layout,
    target: &Target,
) -> anyhow::Result<attack::Result> {
    tokio::time::sleep_until((start + Duration::from_secs_f64(attack.at)).into()).await;
    say!("           {} begin", attack.kind.text())?;
    let result = attack::run(attack, layout, ammunition, target.chain).await?;
    say!("           {} end", attack.kind.text())?;
    Ok(result)
}

/// Everything that must be true; the first thing that is not is the error.
async fn judge(manifest: &Manifest, layout: &Layout, report: &Report, watched: &Watched) -> anyhow::Result<()> {
    let expect = &manifest.expect;
    report.verdict()?;
    say!("nothing    lost: all that was final is in blocks")?;
    let outside = report.to_final_in(|second| manifest.counts(second));
    say!("latency    outside the seconds of kills: {}", outside.text())?;
    say!("memory     {} MB at most in one validator", watched.resident_mb)?;
    if !watched.returns.is_empty() {
        let slowest = watched.returns.iter().copied().fold(0.0, f64::max);
        say!(
            "return     {} starts of validators that were down; each voted again within {slowest:.2} s",
            watched.returns.len()
        )?;
        let most = expect.votes_again_seconds.unwrap_or(f64::INFINITY);
        ensure!(
            slowest <= most,
            "a validator took {slowest:.2} s to vote again, {most} s were expected"
        );
    }
    for (number, node) in layout.nodes.iter().enumerate() {
        let evidence = sum_of("timecoin_evidence_total", &metrics(node.http).await?);
        ensure!(evidence == 0.0, "validator {number} holds evidence against somebody");
    }
    say!("evidence   none")?;
    let most = expect.p99_ms.unwrap_or(f64::INFINITY);
    ensure!(
        outside.p99_ms <= most,
        "p99 of submit→final is {:.1} ms outside the seconds of kills, {most} ms were expected",
        outside.p99_ms
    );
    let most = expect.resident_mb.unwrap_or(u64::MAX);
    ensure!(
        watched.resident_mb <= most,
        "a validator took {} MB of memory, {most} MB were expected",
        watched.resident_mb
    );
    Ok(())
}

/// What each node counted that may explain a failure.
async fn tell_of_metrics(layout: &Layout) -> anyhow::Result<()> {
    const TELLING: [&str; 6] = [
        "timecoin_height",
        "timecoin_voting",
        "timecoin_peers",
        "timecoin_pool_pending",
        "timecoin_round_timeouts_total",
        "timecoin_overload_total",
    ];
    for (number, node) in layout.nodes.iter().enumerate() {
        let Ok(text) = metrics(node.http).await else {
            say!("validator {number} shows no metrics")?;
            continue;
        };
        let figures: Vec<String> = TELLING
            .iter()
            .map(|name| format!("{name} {}", sum_of(name, &text)))
            .collect();
        say!("validator {number}: {}", figures.join(", "))?;
    }
    Ok(())
}

/// A node's metrics, as Prometheus would read them.
async fn metrics(address: std::net::SocketAddr) -> anyhow::Result<String> {
    let read = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let text = tokio::time::timeout(METRICS_PATIENCE, read)
        .await
        .with_context(|| format!("http://{address}/metrics does not answer"))??;
    ensure!(
        text.starts_with("HTTP/1.1 200"),
        "http://{address}/metrics does not answer with metrics"
    );
    Ok(text)
}

/// A metric, summed over its labels.
fn sum_of(name: &str, text: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' '])
            .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    };
    text.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_labels() {
        let text = "# HELP a_total x\na_total{b=\"1\"} 2\na_total{b=\"2\"} 3.5\na_total_more 9\nc 1\n";
        assert_eq!(
            (sum_of("a_total", text), sum_of("c", text), sum_of("d", text)),
            (5.5, 1.0, 0.0)
        );
    }
}
