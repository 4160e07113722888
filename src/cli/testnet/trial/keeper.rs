//! Kills validators and starts them again when the manifest says so, and watches them all the while.

use super::manifest::Manifest;
use crate::{
    api::client::Client,
    cli::{
        say,
        testnet::{
            children::{Children, resident_mb},
            layout::Layout,
        },
    },
};
use anyhow::ensure;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// A validator that does not vote again by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// The most that one validator took.
    pub(super) resident_mb: u64,
    /// Seconds from each start after a kill until the validator voted again.
    pub(super) returns: Vec<f64>,
}

/// A validator that was started again and does not vote yet.
struct Returning {
    number: usize,
    since: Instant,
    client: Client,
}

/// Keeps to the schedule until the load has ended and everybody votes again.
pub(super) async fn keep(
    start: Instant,
    manifest: &Manifest,
    layout: &Layout,
    children: &mut Children,
    finished: watch::Receiver<bool>,
) -> anyhow::Result<Watched> {
    let mut watched = Watched::default();
    let mut schedule = manifest.schedule().into_iter().peekable();
    let mut returning: Vec<Returning> = Vec::new();
    loop {
        while let Some((_, kill, numbers)) =
            schedule.next_if(|(at, ..)| start + Duration::from_secs_f64(*at) <= Instant::now())
        {
            for number in numbers {
                if kill {
                    children.kill(number).await?;
                    returning.retain(|one| one.number != number);
                    say!("           validator {number} is killed")?;
                } else {
                    children.run(number)?;
                    returning.push(Returning {
                        number,
                        since: Instant::now(),
                        client: Client::lazy(&layout.nodes[number].api.to_string())?,
                    });
                    say!("           validator {number} is started")?;
                }
            }
        }
        children.check()?;
        let resident = children.pids().into_iter().flatten().filter_map(resident_mb).max();
        watched.resident_mb = watched.resident_mb.max(resident.unwrap_or(0));
        look_for_returns(&mut returning, &mut watched).await?;
        if *finished.borrow() && schedule.peek().is_none() && returning.is_empty() {
            return Ok(watched);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look_for_returns(returning: &mut Vec<Returning>, watched: &mut Watched) -> anyhow::Result<()> {
    let mut still = Vec::new();
    for one in returning.drain(..) {
        let status = tokio::time::timeout(LOOK, one.client.status()).await;
        let took = one.since.elapsed();
        if matches!(status, Ok(Ok(status)) if status.voting && status.ready) {
            say!(
                "           validator {} votes again after {:.2} s",
                one.number,
                took.as_secs_f64()
            )?;
            watched.returns.push(took.as_secs_f64());
            continue;
        }
        ensure!(
            took < PATIENCE,
            "validator {} does not vote {} s after its start",
            one.number,
            PATIENCE.as_secs()
        );
        still.push(one);
    }
    *returning = still;
    Ok(())
}
