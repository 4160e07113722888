//! Floor 6: the command line.
//!
//! Exit codes: 0 done · 1 the operation failed (the message says why) · 2 the command line makes no sense.

mod genesis;
mod keys;
mod load;
mod node;
mod query;
mod receipt;
mod sim;
mod testnet;
mod wallet;

use crate::primitives::{Genesis, Time};
use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};
use std::{
    io,
    path::Path,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

/// Writes one line to the standard output; a closed pipe is an error like any other, not a panic.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout().lock(), $($part)*)
    }};
}
use say;

/// A payment node: payments final in milliseconds by two quorums of validator votes, ordered by BFT blocks.
#[derive(Parser)]
#[command(name = "timecoin", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node.
    Node(Box<node::Args>),
    /// Make and show keys.
    Keys(keys::Args),
    /// Make, show and check the start of a chain.
    Genesis(genesis::Args),
    /// Run a local network of validators, pay on it, watch it.
    Testnet(testnet::Args),
    /// Hold keys, pay, and see what was paid.
    Wallet(wallet::Args),
    /// Ask a node.
    Query(query::Args),
    /// Check proofs of finality, offline.
    Receipt(receipt::Args),
    /// Offer payments at a given rate and measure what becomes of them.
    Load(load::Args),
    /// Simulate networks in which everything goes wrong, and see that nothing is lost.
    Sim(sim::SimArgs),
    /// Print a script that completes these commands in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the program with the arguments of this process.
pub fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Node(args) => args.run().map(drop),
        Command::Keys(args) => args.run().map(drop),
        Command::Genesis(args) => args.run().map(drop),
        Command::Testnet(args) => block_on(testnet::run(args)),
        Command::Wallet(args) => block_on(wallet::run(args)),
        Command::Query(args) => block_on(query::run(args)),
        Command::Receipt(args) => receipt::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Sim(args) => args.run(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "timecoin", &mut io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // Nothing is left to say when even this fails.
            let _ = writeln!(io::stderr().lock(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?
        .block_on(work)
}

/// The wall clock.
fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Reads a genesis file.
fn read_genesis(path: &Path) -> anyhow::Result<Genesis> {
    let bytes = std::fs::read(path).with_context(|| format!("genesis {} cannot be read", path.display()))?;
    Genesis::decode(&bytes).with_context(|| format!("genesis {} is not valid", path.display()))
}

/// Nodes to talk to.
#[derive(clap::Args, Clone, Debug)]
struct Nodes {
    /// API addresses of nodes, host:port, separated by commas. When one does not answer, the next is asked.
    #[arg(
        long = "node",
        visible_alias = "nodes",
        global = true,
        env = "TIMECOIN_NODE",
        default_value = "127.0.0.1:7401",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    addresses: Vec<String>,
}

impl Nodes {
    /// The first node that can be connected to.
    async fn connect(&self) -> anyhow::Result<crate::api::client::Client> {
        let mut last = None;
        for address in &self.addresses {
            match crate::api::client::Client::connect(address).await {
                Ok(client) => return Ok(client),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error).context("is a node running there? (--node HOST:PORT)"),
            None => anyhow::bail!("no node is given: --node HOST:PORT"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn command_lines_that_people_write() {
        let good = [
            "testnet",
            "testnet --validators 7 --payments 100 --dir /tmp/x --keep",
            "wallet new --network ltime",
            "wallet send --to ltime1x --amount 12.5 --wait committed --receipt r.json --node a:1,b:2",
            "wallet --wallet w.json history --json",
            "query status --json",
            "query --node h:1 block 12",
            "query watch",
            "receipt verify r.json --genesis g.bin",
            "load --rate 1000 --duration 60 --nodes a:1,b:2 --wallet w.json",
            "completions bash",
        ];
        for line in good {
            let words = std::iter::once("timecoin").chain(line.split(' '));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
        let bad = [
            "",
            "wallet send --to x",
            "wallet send --to x --amount 1,5",
            "wallet send --to x --amount 0",
            "load --rate 0",
            "testnet --validators 0",
            "completions klingon",
        ];
        for line in bad {
            let words = std::iter::once("timecoin").chain(line.split(' ').filter(|word| !word.is_empty()));
            let Err(error) = Cli::try_parse_from(words) else {
                panic!("{line} was taken");
            };
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
