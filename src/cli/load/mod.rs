//! `timecoin load`: offers payments at a given rate and measures what becomes of them.
//!
//! The load is *open*: payment `i` is due at `start + i / rate` whatever the nodes do, and its latency counts from that
//! instant, so a node that stalls cannot hide by slowing the generator down. Payments are signed beforehand. Each
//! payer owns coins of its own and pays out of its own change, over and over; all validators are given the same share
//! over one stream each. A payment that gets no answer (its node was killed) is submitted to another node, unchanged.
//!
//! ```text
//! signers (threads) ──► scheduler (thread): what is due ──► engine ◄──► lanes, one a node: SubmitStream
//!                                                             ▲
//!                                                             └──────── commits: Subscribe
//! ```

mod conditions;
mod conflicts;
mod engine;
mod lanes;
pub(super) mod payers;
pub(super) mod report;

use super::{Nodes, say};
use crate::{
    api::client::Client,
    primitives::{ChainId, Params},
    wallet::Wallet,
};
use anyhow::{Context as _, ensure};
use serde::Deserialize;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

#[derive(clap::Args, Clone)]
pub(super) struct Args {
    #[command(flatten)]
    nodes: Nodes,
    #[command(flatten)]
    offer: Offer,
    /// Wallet that the payers' coins are taken from.
    #[arg(
        long = "wallet",
        visible_alias = "faucet",
        env = "TIMECOIN_WALLET",
        value_name = "FILE"
    )]
    wallet: PathBuf,
    /// Instead of a load: so many pairs of payments that want the same coin, sent to two nodes at the same moment, at
    /// `--rate` pairs a second; checks that never both are final and that all nodes agree.
    #[arg(long, value_name = "PAIRS")]
    conflicts: Option<u32>,
    /// Write figures and conditions to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is offered.
#[derive(clap::Args, Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Offer {
    /// Payments a second.
    #[arg(long, default_value_t = 100.0, value_parser = positive)]
    pub(super) rate: f64,
    /// For how many seconds.
    #[arg(long, default_value_t = 10.0, value_parser = positive, value_name = "SECONDS")]
    pub(super) duration: f64,
    /// Keys that pay; each signs with its own.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) payers: u32,
    /// Coins that the payers spend in turn; without it, enough for two seconds, and at least one a payer.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) coins: Option<u32>,
    /// After the load, wait for blocks at most so long.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(super) drain: u64,
    /// Print the lines of each second as comma-separated values.
    #[arg(long)]
    pub(super) csv: bool,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            rate: 100.0,
            duration: 10.0,
            payers: 1_000,
            coins: None,
            drain: 60,
            csv: false,
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        Ok(_) => Err("expected more than 0".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What the load runs against.
pub(in crate::cli) struct Target {
    pub(super) addresses: Vec<String>,
    pub(super) clients: Vec<Client>,
    pub(super) chain: ChainId,
    pub(super) params: Params,
    pub(super) validators: usize,
    pub(super) node_version: String,
}

impl Target {
    /// Connects to every node and makes sure that they are on one chain.
    pub(in crate::cli) async fn connect(nodes: &[String]) -> anyhow::Result<Self> {
        let mut clients = Vec::new();
        let mut first: Option<crate::proto::GetStatusResponse> = None;
        for address in nodes {
            let client = Client::lazy(address)?;
            let status = client.status().await.with_context(|| format!("node {address}"))?;
            match &first {
                Some(first) => ensure!(
                    first.chain_id == status.chain_id,
                    "nodes {} and {address} are on different chains",
                    nodes[0]
                ),
                None => first = Some(status),
            }
            clients.push(client);
        }
        let status = first.context("no node is given: --nodes HOST:PORT,HOST:PORT")?;
        Ok(Self {
            addresses: nodes.to_vec(),
            clients,
            chain: ChainId::try_from(status.chain_id.as_slice()).context("the node sent a chain id that is not one")?,
            params: Params::from_proto(&status.params.unwrap_or_default()),
            validators: status.validators.len(),
            node_version: status.version,
        })
    }
}

/// Runs the command. Everything happens on one thread, except for signing and keeping time: the generator shares its
/// cores with the nodes that it measures.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?
        .block_on(drive(args))
}

async fn drive(args: &Args) -> anyhow::Result<()> {
    let wallet = Wallet::open(&args.wallet).context("the wallet that the payers' coins come from")?;
    let target = Target::connect(&args.nodes.addresses).await?;
    if let Some(pairs) = args.conflicts {
        return conflicts::run(&target, &wallet, pairs, args.offer.rate, args.json.as_deref()).await;
    }
    let report = measure(&target, &wallet, &args.offer, None).await?;
    report.print()?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    report.verdict()
}

/// Offers a load and measures it. `started` is told when the first payment is due.
pub(super) async fn measure(
    target: &Target,
    wallet: &Wallet,
    offer: &Offer,
    started: Option<oneshot::Sender<Instant>>,
) -> anyhow::Result<report::Report> {
    let total = (offer.rate * offer.duration).ceil() as u64;
    let coins = offer
        .coins
        .unwrap_or((offer.rate * 2.0).ceil() as u32)
        .max(offer.payers);
    let coins = usize::try_from(total.min(coins.into()))?;
    let payers = payers::Payers::new(offer.payers as usize);
    say!("funding {coins} coins of {} payers", offer.payers)?;
    let funded = payers::fund(target, wallet, &payers, coins).await?;
    let signing = payers::sign_ahead(target, payers, funded, total);
    let signed = signing.wait().await;
    say!(
        "signed {} payments beforehand in {:.1} s",
        signed.payments,
        signed.seconds
    )?;
    let plan = engine::Plan {
        rate: offer.rate,
        total,
        coins,
        drain: Duration::from_secs(offer.drain),
        csv: offer.csv,
    };
    let figures = engine::run(target, &plan, signing, started).await?;
    Ok(report::Report::new(target, offer, figures, &signed))
}
