//! `timecoin node`: runs a node.

use super::say;
use crate::{
    node::{self, Config, Node, config::Override, telemetry},
    signer::{KeyFile, KeyKind},
};
use anyhow::Context as _;
use std::{path::PathBuf, process::ExitCode};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// Run a node: a validator when it has a validator key, otherwise one that follows the chain and serves clients.
///
/// Settings come from the file, then from environment variables (TIMECOIN_SECTION__KEY), then from flags; each wins over
/// those before. SIGTERM and SIGINT stop the node in order; a second one stops it at once.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The configuration file; without one, everything has its default.
    #[arg(long, short, value_name = "FILE", env = "TIMECOIN_CONFIG")]
    config: Option<PathBuf>,
    /// Where the node keeps its data.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The genesis file.
    #[arg(long, value_name = "FILE")]
    genesis: Option<String>,
    /// The validator's key file.
    #[arg(long, value_name = "FILE")]
    validator_key: Option<String>,
    /// What is logged: info, or info,timecoin::replica=debug.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How log lines look: text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any setting: network.max_connections=50. May be given more than once.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Make the safety log of a validator whose key has never been used on this chain, then run. Fails if there is one.
    #[arg(long)]
    new_validator: bool,
    /// Stop when the standard input is closed: when whoever started the node has gone.
    #[arg(long)]
    stop_with_parent: bool,
    /// Check the settings and end.
    #[arg(long)]
    check_config: bool,
    /// Print a configuration file with every setting at its default, and end.
    #[arg(long)]
    example_config: bool,
    /// Print the reference of all settings as Markdown, and end.
    #[arg(long, hide = true)]
    config_reference: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.example_config {
            say!("{}", node::config::example().trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.config_reference {
            say!("{}", node::config::markdown().trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        let (config, warnings) = Config::load(self.config.as_deref(), std::env::vars(), &self.overrides()?)?;
        if self.check_config {
            warnings.iter().try_for_each(|warning| say!("warning: {warning}"))?;
            say!("the settings can work")?;
            return Ok(ExitCode::SUCCESS);
        }
        telemetry::init(&config.log)?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        if self.new_validator {
            new_validator(&config)?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.context("the async runtime cannot be started")?;
        let result = runtime.block_on(run(config, self.stop_with_parent));
        // Blocking work that is stuck must not hold the process.
        runtime.shutdown_background();
        result.map(|()| ExitCode::SUCCESS)
    }

    fn overrides(&self) -> anyhow::Result<Vec<Override>> {
        let named = [
            ("--data-dir", "data_dir", &self.data_dir),
            ("--genesis", "genesis", &self.genesis),
            ("--validator-key", "validator_key", &self.validator_key),
            ("--log", "log.filter", &self.log),
            ("--log-format", "log.format", &self.log_format),
        ];
        let named = named
            .into_iter()
            .filter_map(|(flag, key, value)| value.as_ref().map(|value| Override::flag(flag, key, value)));
        let set = self.set.iter().map(|text| {
            let (key, value) = text
                .split_once('=')
                .with_context(|| format!("--set {text}: expected KEY=VALUE"))?;
            Ok(Override::flag("--set", key.trim(), value.trim()))
        });
        named.map(Ok).chain(set).collect()
    }
}

fn new_validator(config: &Config) -> anyhow::Result<()> {
    let key = config
        .validator_key
        .as_deref()
        .context("--new-validator needs a validator key (validator_key)")?;
    let key = KeyFile::load(key, KeyKind::Validator)?;
    let genesis = node::read_genesis(&config.genesis)?;
    node::create_safety_log(config, key.public_key(), &genesis)
        .context("--new-validator is for the first start of a key only; leave it out from then on")?;
    tracing::info!(key = %key.public_key(), "the safety log of a new validator was made");
    Ok(())
}

/// Ends when the standard input does. Read by a thread of its own, which blocks until then and ends with the process.
fn parent_gone() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        // Whatever is written there means nothing; an error is as good as the end.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = sender.send(());
    });
    receiver
}

async fn run(config: Config, stop_with_parent: bool) -> anyhow::Result<()> {
    // Before anything is open: a signal during the start is not lost.
    let mut signals = Signals::new()?;
    let parent = stop_with_parent.then(parent_gone);
    let node = Node::start(config).await?;
    tracing::info!(
        api = %node.api,
        http = %node.http,
        listening = ?node.listening.iter().map(ToString::to_string).collect::<Vec<_>>(),
        identity = %node.identity,
        validator = node.validator.map(|key| key.to_string()),
        version = env!("CARGO_PKG_VERSION"),
        "node started"
    );
    let token = node.token();
    let watching = tokio::spawn(async move {
        tokio::select! {
            name = signals.next() => tracing::info!(signal = name, "stopping"),
            () = gone(parent) => tracing::info!("stopping: the parent process has gone"),
            () = token.cancelled() => {}
        }
        token.cancel();
        let name = signals.next().await;
        tracing::warn!(signal = name, "stopping at once");
        std::process::exit(1);
    });
    let result = node.wait().await;
    watching.abort();
    result?;
    tracing::info!("stopped");
    Ok(())
}

async fn gone(parent: Option<oneshot::Receiver<()>>) {
    match parent {
        // An error means that the thread has ended without a word, which it cannot before the input's end.
        Some(parent) => drop(parent.await),
        None => std::future::pending().await,
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened to");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
