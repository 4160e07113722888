//! The node's settings: a TOML file, then environment variables, then flags; each wins over those before.
//!
//! Every section belongs to the module it configures; this page gathers them, checks them together, and says of each
//! mistake where it was made: in which line of the file, which variable, which flag.

mod help;
mod source;

pub use help::{example, markdown};
pub use source::{ConfigError, Origin, Override};

use super::telemetry::LogFormat;
use crate::{api, network, pool, sync};
use serde::{Deserialize, Serialize};
use source::Merged;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// All settings of a node. Every one has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the node keeps its store, its safety log and its network key.
    pub data_dir: PathBuf,
    /// The genesis file, canonical Protobuf.
    pub genesis: PathBuf,
    /// The validator's key file; none for a node that does not vote.
    pub validator_key: Option<PathBuf>,
    /// Peers.
    pub network: network::Config,
    /// Clients, over gRPC.
    pub api: api::Config,
    /// Metrics and health, over HTTP.
    pub http: HttpConfig,
    /// Logs.
    pub log: LogConfig,
    /// Payments that wait for a block.
    pub pool: pool::Config,
    /// The store.
    pub store: StoreConfig,
    /// Threads that check signatures.
    pub check: CheckConfig,
    /// Getting what the others have.
    pub sync: SyncConfig,
}

/// Getting what the others have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyncConfig {
    /// `auto` or `blocks`.
    pub mode: sync::Mode,
    /// A block that is trusted without the history before it, as `height:id`; empty: none.
    pub checkpoint: String,
    /// With an empty store: so many blocks behind, the state is fetched and not the history.
    pub behind_blocks: u64,
}

impl Default for SyncConfig {
    fn default() -> Self {
        let sync::Config {
            mode, behind_blocks, ..
        } = sync::Config::default();
        Self {
            mode,
            checkpoint: String::new(),
            behind_blocks,
        }
    }
}

impl SyncConfig {
    /// What the replica is told. Fails on a checkpoint that is none.
    pub fn rules(&self) -> Result<sync::Config, String> {
        let checkpoint = match self.checkpoint.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|error| format!("sync.checkpoint: {error}"))?),
        };
        Ok(sync::Config {
            mode: self.mode,
            checkpoint,
            behind_blocks: self.behind_blocks,
            ..sync::Config::default()
        })
    }
}

/// Metrics and health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub listen: SocketAddr,
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// What is logged, in the language of `RUST_LOG`: `info`, `info,timecoin::replica=debug`.
    pub filter: String,
    /// For people or for machines.
    pub format: LogFormat,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Bytes of memory for pages of the database.
    pub cache_bytes: u64,
    /// Bytes of memory that gather before they are moved into the database; up to four times as much is used.
    pub generation_bytes: usize,
    /// Bytes of memory for coins used lately.
    pub coin_cache_bytes: usize,
    /// Blocks that are kept; 0: all.
    pub retain_blocks: u64,
}

/// The check pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckConfig {
    /// Threads that check transactions, beside the one for votes and blocks; 0: half the cores, at least one.
    pub threads: usize,
    /// Messages and submissions that may wait to be checked.
    pub max_waiting: usize,
    /// Bytes that may wait to be checked.
    pub max_waiting_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "data".into(),
            genesis: "genesis.bin".into(),
            validator_key: None,
            network: network::Config::default(),
            api: api::Config::default(),
            http: HttpConfig::default(),
            log: LogConfig::default(),
            pool: pool::Config::default(),
            store: StoreConfig::default(),
            check: CheckConfig::default(),
            sync: SyncConfig::default(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7402)),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            // Saying the same words again is how what was lost is made good; gossipsub warns of it.
            filter: "info,libp2p_gossipsub=error".into(),
            format: LogFormat::Text,
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            generation_bytes: 8 << 20,
            coin_cache_bytes: 16 << 20,
            retain_blocks: 0,
        }
    }
}

impl Default for CheckConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            max_waiting: 20_000,
            max_waiting_bytes: 64 << 20,
        }
    }
}

/// The settings that are paths. In a file they are relative to that file, elsewhere to the working directory.
const PATHS: [&str; 3] = ["data_dir", "genesis", "validator_key"];

impl Config {
    /// Reads a file if one is given, then the variables of `environment` that begin with `TIMECOIN_`, then `flags`, and
    /// checks the whole. Also answers what looks like a mistake but does no harm.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[Override],
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let mut merged = Merged::read(file)?;
        let warnings = merged.environment(environment)?;
        flags.iter().try_for_each(|flag| merged.apply(flag))?;
        let mut config = merged.config()?;
        config.settle_paths(file, &merged);
        config.check().map_err(|message| merged.blame(message))?;
        Ok((config, warnings))
    }

    fn settle_paths(&mut self, file: Option<&Path>, merged: &Merged) {
        let Some(base) = file.and_then(Path::parent) else {
            return;
        };
        let slots = [
            Some(&mut self.data_dir),
            Some(&mut self.genesis),
            self.validator_key.as_mut(),
        ];
        for (key, slot) in PATHS.iter().zip(slots) {
            if let Some(path) = slot
                && !merged.is_overridden(key)
            {
                *path = base.join(&*path);
            }
        }
    }

    /// Checks each value and how they relate. The message begins with the key.
    fn check(&self) -> Result<(), String> {
        self.network.check().map_err(|error| error.to_string())?;
        self.api.check()?;
        at_least("pool.max_transactions", self.pool.max_transactions as u64, 1)?;
        at_least("pool.max_bytes", self.pool.max_bytes as u64, 1_000_000)?;
        at_least("store.cache_bytes", self.store.cache_bytes, 1 << 20)?;
        at_least("store.generation_bytes", self.store.generation_bytes as u64, 1 << 16)?;
        at_least("check.max_waiting", self.check.max_waiting as u64, 16)?;
        at_least(
            "check.max_waiting_bytes",
            self.check.max_waiting_bytes as u64,
            network::MAX_MESSAGE_SIZE as u64,
        )?;
        at_least("sync.behind_blocks", self.sync.behind_blocks, 10)?;
        self.sync.rules()?;
        if self.check.threads > 256 {
            return Err(format!("check.threads is {}, expected at most 256", self.check.threads));
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err("data_dir is empty, expected a directory".into());
        }
        if self.api.listen == self.http.listen && self.api.listen.port() != 0 {
            return Err(format!(
                "http.listen is {}, the same as api.listen; expected another port",
                self.http.listen
            ));
        }
        super::telemetry::parse_filter(&self.log.filter)
            .map(|_| ())
            .map_err(|error| {
                format!(
                    "log.filter is '{}', expected a filter like 'info,timecoin=debug': {error}",
                    self.log.filter
                )
            })
    }

    /// The safety log's place.
    pub fn safety_log(&self) -> PathBuf {
        self.data_dir.join("safety.log")
    }

    /// The store's directory.
    pub fn store_dir(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    /// The place of what is remembered of peers.
    pub fn peers_file(&self) -> PathBuf {
        self.data_dir.join("peers.json")
    }

    /// The network key's place.
    pub fn node_key(&self) -> PathBuf {
        self.data_dir.join("node.key")
    }
}

fn at_least(key: &str, value: u64, least: u64) -> Result<(), String> {
    match value < least {
        true => Err(format!("{key} is {value}, expected at least {least}")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
