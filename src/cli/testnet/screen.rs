//! The table: redrawn in place on a terminal, plain lines elsewhere.

use super::{
    children::{Children, resident_mb},
    layout::Layout,
};
use crate::{
    api::client::Client,
    cli::{
        load::{
            Target,
            payers::{self, Coin, Payers, Prepared},
            report::new_histogram,
        },
        say,
    },
    proto::{GetStatusResponse, Wait},
    wallet::Wallet,
};
use hdrhistogram::Histogram;
use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// How often the table is drawn on a terminal, and elsewhere.
const REDRAW: Duration = Duration::from_secs(1);
const REPRINT: Duration = Duration::from_secs(10);
/// Between two probes of one validator.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Probes that the percentiles are taken over.
const PROBES_KEPT: u64 = 120;
/// How long a probe may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(20);
/// How long a status may take before its line is left empty.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);

/// What to try next.
pub(super) fn hints(layout: &Layout) -> std::io::Result<()> {
    for (number, node) in layout.nodes.iter().enumerate() {
        say!(
            "validator {number}: API {}  metrics http://{}/metrics  peers {}  log {}",
            node.api,
            node.http,
            node.peers,
            node.log().display()
        )?;
    }
    let (faucet, genesis) = (layout.faucet(), layout.genesis());
    let nodes = layout.addresses();
    let first = layout
        .nodes
        .first()
        .map_or_else(String::new, |node| node.api.to_string());
    say!()?;
    say!("try, in another terminal:")?;
    say!("  export TIMECOIN_NODE={nodes}")?;
    say!("  timecoin wallet --wallet mine.json new --network ltime")?;
    say!("  timecoin wallet --wallet {} balance", faucet.display())?;
    say!(
        "  timecoin wallet --wallet {} send --to ADDRESS --amount 12.5 --receipt receipt.json",
        faucet.display()
    )?;
    say!("  timecoin receipt verify receipt.json --genesis {}", genesis.display())?;
    say!("  timecoin query --node {first} status")?;
    say!("  timecoin query --node {first} watch")?;
    say!(
        "  timecoin load --wallet {} --rate 1000 --duration 10",
        faucet.display()
    )?;
    say!()
}

/// A validator's line.
struct Row {
    status: Option<GetStatusResponse>,
    resident_mb: Option<u64>,
    latency: Histogram<u64>,
}

/// Draws until the time is up or a validator has ended.
pub(super) async fn watch(layout: &Layout, children: &mut Children, duration: Option<Duration>) -> anyhow::Result<()> {
    let clients = layout.clients()?;
    let in_place = std::io::stdout().is_terminal();
    let (sender, mut probes) = mpsc::channel(1_000);
    let mut prober = std::pin::pin!(probe_all(layout, sender));
    let mut rows: Vec<Row> = clients
        .iter()
        .map(|_| Row {
            status: None,
            resident_mb: None,
            latency: new_histogram(),
        })
        .collect();
    let end = duration.map(|duration| Instant::now() + duration);
    let mut ticks = tokio::time::interval(if in_place { REDRAW } else { REPRINT });
    let mut drawn = 0;
    let mut probing = true;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                children.check()?;
                refresh(&clients, children, &mut rows).await;
                drawn = draw(&rows, in_place, drawn)?;
            }
            Some((node, latency)) = probes.recv() => note(&mut rows[node], latency),
            result = &mut prober, if probing => {
                probing = false;
                if let Err(error) = result {
                    say!("no probes: {error:#}")?;
                    drawn = 0;
                }
            }
            () = until(end) => return Ok(()),
        }
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

fn note(row: &mut Row, latency: Duration) {
    // Old probes fade, so that the figures are about now.
    if row.latency.len() >= PROBES_KEPT {
        row.latency.reset();
    }
    row.latency
        .saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
}

async fn refresh(clients: &[Client], children: &Children, rows: &mut [Row]) {
    let statuses = clients
        .iter()
        .map(|client| tokio::time::timeout(STATUS_PATIENCE, client.status()));
    let statuses = futures::future::join_all(statuses).await;
    for ((row, status), pid) in rows.iter_mut().zip(statuses).zip(children.pids()) {
        row.status = status.ok().and_then(Result::ok);
        row.resident_mb = pid.and_then(resident_mb);
    }
}

const HEADER: &str =
    "validator  height  round  phase    peers   pool    finals  blocks  p50 ms  p99 ms  memory MB  state";

fn line(number: usize, row: &Row) -> String {
    let Some(status) = &row.status else {
        return format!("{number:>9}  does not answer");
    };
    let pool = status.pool.unwrap_or_default();
    let counters = status.counters.unwrap_or_default();
    let quantile = |quantile| match row.latency.len() {
        0 => "-".to_owned(),
        _ => format!("{:.1}", row.latency.value_at_quantile(quantile) as f64 / 1e3),
    };
    let state = match (status.ready, status.voting) {
        (true, _) => "ready",
        (false, true) => "not ready",
        (false, false) => status.silent_reason.as_str(),
    };
    format!(
        "{number:>9}  {:>6}  {:>5}  {:<7}  {:>5}  {:>5}  {:>8}  {:>6}  {:>6}  {:>6}  {:>9}  {state}",
        status.height,
        status.round,
        status.phase().as_str_name().trim_start_matches("PHASE_"),
        status.peers,
        pool.pending,
        counters.finals,
        counters.blocks,
        quantile(0.5),
        quantile(0.99),
        row.resident_mb.map_or_else(|| "-".to_owned(), |mb| mb.to_string()),
    )
}

/// Draws the table over the one drawn before; answers its number of lines.
fn draw(rows: &[Row], in_place: bool, drawn: usize) -> std::io::Result<usize> {
    let mut text = String::new();
    if in_place && drawn > 0 {
        text.push_str(&format!("\x1b[{drawn}A"));
    }
    let clear = if in_place { "\x1b[2K" } else { "" };
    let lines = rows.iter().enumerate().map(|(number, row)| line(number, row));
    for line in std::iter::once(HEADER.to_owned()).chain(lines) {
        text.push_str(&format!("{clear}{line}\n"));
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(rows.len() + 1)
}

/// Small payments through each validator, one a second, for as long as somebody listens.
async fn probe_all(layout: &Layout, latencies: mpsc::Sender<(usize, Duration)>) -> anyhow::Result<()> {
    let nodes: Vec<String> = layout.nodes.iter().map(|node| node.api.to_string()).collect();
    let target = Target::connect(&nodes).await?;
    let wallet = Wallet::open(&layout.probes())?;
    let payers = Payers::new(nodes.len());
    let coins = payers::fund(&target, &wallet, &payers, nodes.len()).await?;
    let probes = coins
        .into_iter()
        .enumerate()
        .map(|(number, coin)| probe(&target, &payers, number, coin, latencies.clone()));
    futures::future::join_all(probes).await;
    Ok(())
}

async fn probe(
    target: &Target,
    payers: &Payers,
    number: usize,
    mut coin: Coin,
    latencies: mpsc::Sender<(usize, Duration)>,
) {
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let payment = payers.next_payment(target, number, &mut coin);
        // The same bytes until they are final: the next probe spends this one's change.
        loop {
            ticks.tick().await;
            let sent = Instant::now();
            if is_final(&target.clients[number], &payment).await {
                if latencies.send((number, sent.elapsed())).await.is_err() {
                    return;
                }
                break;
            }
        }
    }
}

async fn is_final(client: &Client, payment: &Prepared) -> bool {
    let answer = client.submit(&payment.bytes, Wait::Final, PROBE_PATIENCE, false).await;
    answer.is_ok_and(|submitted| submitted.reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_wide_as_the_header_says() {
        let mut row = Row {
            status: Some(GetStatusResponse {
                height: 1_234,
                phase: crate::proto::Phase::Prepare.into(),
                ready: true,
                ..Default::default()
            }),
            resident_mb: Some(99),
            latency: new_histogram(),
        };
        note(&mut row, Duration::from_micros(2_500));
        let text = line(3, &row);
        assert!(
            text.contains("1234") && text.contains("2.5") && text.ends_with("ready"),
            "{text}"
        );
        let column = |name: &str| HEADER.find(name).expect("a column") + name.len();
        assert_eq!(text[..column("height")].trim_end().len(), column("height"));
        assert_eq!(&text[column("memory MB") - 2..column("memory MB")], "99");
    }

    #[test]
    fn a_validator_that_does_not_answer_is_named() {
        let row = Row {
            status: None,
            resident_mb: None,
            latency: new_histogram(),
        };
        assert!(line(2, &row).ends_with("does not answer"));
    }
}
