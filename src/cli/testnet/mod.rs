//! `timecoin testnet`: a network of validators on this machine, from nothing, with one command.
//!
//! | file | what |
//! |---|---|
//! | `layout.rs` | keys, genesis and settings, written to a directory |
//! | `history.rs` | blocks that the validators might have made before |
//! | `children.rs` | the validators as processes: started, watched, stopped |
//! | `screen.rs` | the table |
//! | `pay.rs` | payments, and what must be true of them |
//! | `trial/` | payments while validators die and strangers attack, and a verdict |

mod children;
mod history;
mod layout;
mod pay;
mod screen;
mod trial;

use super::say;
use crate::primitives::Params;
use anyhow::{Context as _, bail};
use children::Children;
use layout::{Blueprint, Layout};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// What validators log unless told otherwise.
const LOG: &str = "info,libp2p_gossipsub=error";

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// How many validators.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=32))]
    validators: u32,
    /// Where keys, genesis, settings, stores and logs go. One that has a test network already is started again as it
    /// is. Without it: a temporary directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Blocks in an epoch of a new network.
    #[arg(long, default_value_t = Params::default().epoch_length, value_name = "BLOCKS",
          value_parser = clap::value_parser!(u64).range(3..))]
    epoch_length: u64,
    /// Leave the temporary directory behind.
    #[arg(long)]
    keep: bool,
    /// Make so many payments through all validators, check everything that must be true of them, and stop. The exit
    /// code is the verdict.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    payments: Option<u32>,
    /// Stop after so many seconds; without it, go on until interrupted.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
    /// What the validators log, in the language of `RUST_LOG`.
    #[arg(long, default_value = LOG, value_name = "FILTER")]
    log: String,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Put a network of its own through trouble, under load, as a manifest says, and judge. The exit code is the verdict.
    Trial(trial::Args),
}

/// How long all validators may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Whether it is time to stop is looked at so often.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    if let Some(Command::Trial(args)) = args.command {
        return trial::run(args).await;
    }
    let temporary = args.dir.is_none();
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("timecoin-testnet-{}", std::process::id())),
    };
    let mut blueprint = Blueprint::of(args.validators);
    blueprint.params.epoch_length = args.epoch_length;
    let layout = Layout::open_or_create(&dir, &blueprint)?;
    say!("test network of {} validators in {}", layout.nodes.len(), dir.display())?;
    let mut children = Children::start(&layout, &[], &args.log)?;
    let mut interrupted = std::pin::pin!(stop_signal());
    let outcome = tokio::select! {
        outcome = operate(&args, &layout, &mut children) => outcome,
        () = &mut interrupted => {
            say!("\nstopping")?;
            // With payments, an interruption is no verdict.
            if args.payments.is_some() { Err(anyhow::anyhow!("interrupted before the verdict")) } else { Ok(()) }
        }
    };
    let stopped = children.stop().await;
    let result = outcome.and(stopped);
    if temporary && !args.keep && result.is_ok() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("{} cannot be removed", dir.display()))?;
    } else {
        say!("everything is left in {}", dir.display())?;
    }
    result
}

/// Everything between the start of the validators and their stop.
async fn operate(args: &Args, layout: &Layout, children: &mut Children) -> anyhow::Result<()> {
    let started = Instant::now();
    await_ready(layout, &[], children).await?;
    say!(
        "all {} validators are ready after {:.1} s",
        layout.nodes.len(),
        started.elapsed().as_secs_f64()
    )?;
    if let Some(payments) = args.payments {
        return pay::verdict(layout, children, payments as usize).await;
    }
    pay::demonstrate(layout).await?;
    screen::hints(layout)?;
    screen::watch(layout, children, args.duration.map(Duration::from_secs)).await
}

/// Waits for all validators but those that are away.
async fn await_ready(layout: &Layout, away: &[usize], children: &mut Children) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    let clients = layout.clients()?;
    let mut waiting: Vec<usize> = (0..clients.len()).filter(|number| !away.contains(number)).collect();
    while !waiting.is_empty() {
        children.check()?;
        let mut still = Vec::new();
        for index in waiting {
            let status = tokio::time::timeout(Duration::from_secs(1), clients[index].status()).await;
            if !matches!(status, Ok(Ok(status)) if status.ready) {
                still.push(index);
            }
        }
        waiting = still;
        if !waiting.is_empty() && Instant::now() > deadline {
            bail!(
                "validators {waiting:?} are not ready after {} s: see {}",
                READY_WITHIN.as_secs(),
                layout.nodes[waiting[0]].log().display()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Interrupt, or the signal by which services are stopped.
async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
