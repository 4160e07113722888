//! `timecoin query`: what a node knows.

use super::{Nodes, say};
use crate::{
    api::client::{Client, state_from},
    primitives::{Address, Amount, BlockHeader, BlockId, Certificate, TxId},
    proto::{self, get_block_request::Which, node_event},
};
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    nodes: Nodes,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Where the node stands.
    Status,
    /// How far a payment has come.
    Tx {
        /// 64 hex digits.
        txid: TxId,
        /// Write the proof of finality to this file.
        #[arg(long, value_name = "FILE")]
        receipt: Option<PathBuf>,
    },
    /// Unspent coins of an address.
    Coins {
        /// The address.
        address: String,
        /// List at most this many.
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// Sum of the unspent coins of an address.
    Balance {
        /// The address.
        address: String,
    },
    /// A block.
    Block {
        /// Height, or block id (64 hex digits); without it, the last one.
        which: Option<String>,
        /// List its payments.
        #[arg(long)]
        txids: bool,
    },
    /// Events as they happen, until interrupted.
    Watch {
        /// Only payments from or to this address; can be given several times.
        #[arg(long)]
        address: Vec<String>,
        /// Only blocks.
        #[arg(long, conflicts_with = "address")]
        blocks: bool,
    },
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = args.nodes.connect().await?;
    let answer = match args.command {
        Command::Status => status(&client.status().await?),
        Command::Tx { txid, receipt } => transaction(&client, &txid, receipt).await?,
        Command::Coins { address, limit } => coins(&client, &address, limit).await?,
        Command::Balance { address } => balance(&client, &address).await?,
        Command::Block { which, txids } => block(&client, which.as_deref(), txids).await?,
        Command::Watch { address, blocks } => return watch(&client, address, blocks, args.json).await,
    };
    if args.json {
        say!("{}", serde_json::to_string_pretty(&answer)?)?;
    } else {
        print(&answer, 0)?;
    }
    Ok(())
}

/// Key and value a line; what is nested is indented.
fn print(value: &Value, indent: usize) -> std::io::Result<()> {
    let Value::Object(fields) = value else {
        return say!("{:indent$}{}", "", plain(value));
    };
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    for (key, value) in fields {
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                say!("{:indent$}{key}:", "")?;
                print(value, indent + 2)?;
            }
            Value::Array(items) => {
                say!("{:indent$}{key}:", "")?;
                for item in items {
                    say!("{:indent$}  {}", "", row(item))?;
                }
            }
            _ => say!("{:indent$}{key:width$}  {}", "", plain(value))?,
        }
    }
    Ok(())
}

fn row(item: &Value) -> String {
    match item {
        Value::Object(fields) => {
            let cell = |(key, value): (&String, &Value)| format!("{key} {}", plain(value));
            fields.iter().map(cell).collect::<Vec<_>>().join("  ")
        }
        other => plain(other),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn time(amount: u64) -> String {
    Amount(amount).to_string()
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

/// The status as JSON.
pub(super) fn status(status: &proto::GetStatusResponse) -> Value {
    let pool = status.pool.unwrap_or_default();
    let counters = status.counters.unwrap_or_default();
    let params = status.params.unwrap_or_default();
    let validator = |(index, validator): (usize, &proto::Validator)| json!({ "index": index, "public_key": hash(&validator.public_key), "power": validator.power });
    json!({
        "version": status.version,
        "network": status.network,
        "chain_id": hash(&status.chain_id),
        "ready": status.ready,
        "voting": status.voting,
        "silent_reason": status.silent_reason,
        "validator": status.is_validator.then_some(status.validator),
        "height": status.height,
        "block_id": hash(&status.block_id),
        "block_time_ms": status.block_time_ms,
        "supply": time(status.supply),
        "epoch": status.epoch,
        "round": status.round,
        "phase": status.phase().as_str_name().trim_start_matches("PHASE_"),
        "peers": status.peers,
        "catching_up": status.catching_up,
        "claimed_height": status.claimed_height,
        "pool": {
            "pending": pool.pending,
            "bytes": pool.bytes,
            "average_fee_rate_milli": pool.average_fee_rate_milli,
            "oldest_ms": pool.oldest_ms,
            "certified": pool.certified,
            "final": pool.finals,
            "contested": pool.contested,
        },
        "counters": {
            "admitted": counters.admitted,
            "refused": counters.refused,
            "evicted": counters.evicted,
            "finals": counters.finals,
            "committed": counters.committed,
            "rejected": counters.rejected,
            "blocks": counters.blocks,
            "payment_votes": counters.payment_votes,
            "block_votes": counters.block_votes,
            "round_timeouts": counters.round_timeouts,
            "evidence": counters.evidence,
        },
        "params": {
            "epoch_length": params.epoch_length,
            "min_fee_rate": params.min_fee_rate,
            "block_interval_ms": params.block_interval_ms,
            "idle_block_interval_ms": params.idle_block_interval_ms,
            "contest_after_ms": params.contest_after_ms,
            "max_block_transactions": params.max_block_transactions,
            "max_block_bytes": params.max_block_bytes,
        },
        "validators": status.validators.iter().enumerate().map(validator).collect::<Vec<_>>(),
    })
}

/// How a payment's state is written.
pub(super) fn state_name(state: proto::PaymentState) -> &'static str {
    state.as_str_name().trim_start_matches("PAYMENT_STATE_")
}

async fn transaction(client: &Client, txid: &TxId, receipt: Option<PathBuf>) -> anyhow::Result<Value> {
    let status = client.status().await?;
    let Some(answer) = client.transaction(txid, true, true).await? else {
        bail!("this node does not know transaction {txid}");
    };
    let certificate = answer.receipt.as_ref().map(Certificate::from_proto).transpose()?;
    if let Some(path) = receipt {
        let Some(certificate) = &certificate else {
            bail!("this node has no receipt for transaction {txid}: it is not final, or was long ago");
        };
        let chain = crate::primitives::ChainId::try_from(status.chain_id.as_slice()).context("chain id")?;
        super::receipt::write(&path, &chain, certificate)?;
    }
    let mut value = json!({
        "txid": txid.to_string(),
        "state": state_name(state_from(answer.state)?),
        "height": (answer.height != 0).then_some(answer.height),
        "index": (answer.state() == proto::PaymentState::Committed).then_some(answer.index),
        "final_votes": certificate.map(|certificate| certificate.votes.len()),
    });
    let chain = crate::primitives::ChainId::try_from(status.chain_id.as_slice()).context("chain id")?;
    if let Ok(body) = crate::primitives::Transaction::decode(&chain, &answer.transaction) {
        let output = |output: &crate::primitives::Output| {
            json!({
                "value": output.value.to_string(),
                "address": Address::new(&status.network, output.lock).to_string(),
            })
        };
        value["bytes"] = json!(answer.transaction.len());
        value["memo"] = json!(String::from_utf8_lossy(body.memo()));
        value["inputs"] = body.inputs().iter().map(|input| json!(input.to_string())).collect();
        value["outputs"] = body.outputs().iter().map(output).collect();
    }
    Ok(value)
}

async fn lock_of(client: &Client, address: &str) -> anyhow::Result<crate::primitives::LockHash> {
    let network = client.status().await?.network;
    Ok(Address::parse(address, &network)?.lock)
}

async fn coins(client: &Client, address: &str, limit: usize) -> anyhow::Result<Value> {
    let lock = lock_of(client, address).await?;
    let coins = client.coins(&lock, limit).await?;
    let total = Amount::sum(coins.iter().map(|coin| coin.value)).context("more than there can be")?;
    let coin = |coin: &crate::api::client::OwnedCoin| json!({ "outpoint": coin.outpoint.to_string(), "value": coin.value.to_string() });
    Ok(json!({
        "address": address,
        "count": coins.len(),
        "total": total.to_string(),
        "coins": coins.iter().map(coin).collect::<Vec<_>>(),
    }))
}

async fn balance(client: &Client, address: &str) -> anyhow::Result<Value> {
    let balance = client.balance(&lock_of(client, address).await?).await?;
    Ok(json!({
        "address": address,
        "balance": time(balance.balance),
        "coins": balance.coins,
        "height": balance.height,
    }))
}

fn which_block(text: Option<&str>) -> anyhow::Result<Which> {
    let Some(text) = text else {
        return Ok(Which::Height(0));
    };
    if text.len() == 64 {
        let id: BlockId = text.parse().with_context(|| format!("'{text}' is not a block id"))?;
        return Ok(Which::BlockId(id.0.to_vec()));
    }
    let height = text
        .parse()
        .with_context(|| format!("'{text}' is neither a height nor a block id (64 hex digits)"))?;
    Ok(Which::Height(height))
}

async fn block(client: &Client, which: Option<&str>, txids: bool) -> anyhow::Result<Value> {
    let Some(block) = client.block(which_block(which)?, false).await? else {
        bail!(
            "this node does not have block {}",
            which.unwrap_or("(none committed yet)")
        );
    };
    let header = BlockHeader::decode(&block.header).context("the node sent a header that is not one")?;
    let commit = block.commit.unwrap_or_default();
    let mut value = json!({
        "height": header.height.0,
        "block_id": hash(&block.block_id),
        "parent": header.parent.to_string(),
        "time_ms": header.time.0,
        "epoch": header.epoch.0,
        "proposer": header.proposer,
        "round": commit.round,
        "commit_signatures": commit.signatures.len(),
        "transactions": block.txids.len(),
        "transaction_bytes": block.transaction_bytes,
        "rejections": block.rejected.len(),
        "utxo_root": header.utxo_root.to_string(),
    });
    if txids {
        value["txids"] = block.txids.iter().map(|txid| json!(hash(txid))).collect();
        value["rejected"] = block.rejected.iter().map(|txid| json!(hash(txid))).collect();
    }
    Ok(value)
}

async fn watch(client: &Client, addresses: Vec<String>, blocks_only: bool, as_json: bool) -> anyhow::Result<()> {
    let request = proto::SubscribeRequest {
        addresses,
        blocks_only,
        ..Default::default()
    };
    let mut events = client.subscribe(request).await?;
    loop {
        let message = tokio::select! {
            message = events.message() => message.map_err(crate::api::client::ClientError::from)?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(message) = message else {
            bail!("the node has ended the subscription");
        };
        for event in message.events.into_iter().filter_map(|event| event.event) {
            let value = event_value(event);
            if as_json {
                say!("{value}")?;
            } else {
                say!("{}", event_line(&value))?;
            }
        }
    }
}

/// What happened first, then the rest.
fn event_line(value: &Value) -> String {
    let mut rest = value.clone();
    let event = rest.as_object_mut().and_then(|fields| fields.remove("event"));
    format!("{:<9}  {}", plain(&event.unwrap_or_default()), row(&rest))
}

fn event_value(event: node_event::Event) -> Value {
    match event {
        node_event::Event::Payment(event) => {
            let kind = event.kind().as_str_name().trim_start_matches("PAYMENT_EVENT_KIND_");
            let mut value = json!({ "event": kind, "txid": hash(&event.txid) });
            if event.height != 0 {
                value["height"] = json!(event.height);
            }
            if !event.reason.is_empty() {
                value["reason"] = json!(event.reason);
            }
            value
        }
        node_event::Event::Block(block) => json!({
            "event": "BLOCK",
            "height": block.height,
            "block_id": hash(&block.block_id),
            "time_ms": block.time_ms,
            "round": block.round,
            "transactions": block.transactions,
            "rejections": block.rejections,
        }),
        node_event::Event::Lagged(lagged) => json!({ "event": "LAGGED", "missed_turns": lagged.missed }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_named_by_height_or_id() {
        assert_eq!(which_block(None).expect("the last"), Which::Height(0));
        assert_eq!(which_block(Some("12")).expect("a height"), Which::Height(12));
        let id = BlockId([7; 32]);
        assert_eq!(
            which_block(Some(&id.to_string())).expect("an id"),
            Which::BlockId(vec![7; 32])
        );
        assert!(which_block(Some("last")).is_err() && which_block(Some(&"z".repeat(64))).is_err());
    }

    #[test]
    fn a_status_without_parts_is_shown_as_zeros() {
        let value = status(&proto::GetStatusResponse::default());
        assert_eq!(value["pool"]["pending"], 0);
        assert_eq!(value["phase"], "UNSPECIFIED");
        assert_eq!(value["validator"], Value::Null);
    }
}
