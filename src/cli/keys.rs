//! `timecoin keys`: makes and shows key files.

use super::say;
use crate::{
    network,
    node::{self, Config},
    primitives::{Address, address::PREFIXES},
    signer::{KeyFile, KeyKind},
};
use anyhow::{Context as _, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Make and show keys.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Make a new key file.
    New {
        /// What it is for: validator, node or wallet.
        #[arg(long)]
        kind: KeyKind,
        /// The new file.
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
    },
    /// Show the public side of a key file.
    Show {
        /// The key file.
        file: PathBuf,
        /// The network whose address is shown: time, ttime or ltime.
        #[arg(long, default_value = "time")]
        network: String,
    },
    /// Make the keys of a new validator; with a genesis, also its safety log, so that it can vote from its first start.
    Validator {
        /// The directory for validator.key and the node's data; made if it does not exist.
        #[arg(long, short, value_name = "DIR")]
        out: PathBuf,
        /// The genesis of the chain that the key will vote on.
        #[arg(long, value_name = "FILE")]
        genesis: Option<PathBuf>,
    },
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::New { kind, out } => {
                let key = KeyFile::generate(kind);
                key.save(&out)?;
                say!("{kind} key {} written to {}", key.public_key(), out.display())?;
            }
            Command::Show { file, network } => show(&file, &network)?,
            Command::Validator { out, genesis } => validator(&out, genesis.as_deref())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn show(file: &Path, network: &str) -> anyhow::Result<()> {
    ensure!(
        PREFIXES.contains(&network),
        "network '{network}', expected one of {}",
        PREFIXES.join(", ")
    );
    let key = KeyFile::load_any(file)?;
    say!("kind        {}", key.kind)?;
    say!("public key  {}", key.public_key())?;
    say!("lock        {}", key.public_key().lock())?;
    match key.kind {
        KeyKind::Node => say!("identity    {}", network::identity(*key.secret.seed()))?,
        KeyKind::Validator | KeyKind::Wallet => say!("address     {}", Address::new(network, key.public_key().lock()))?,
    }
    Ok(())
}

fn validator(out: &Path, genesis: Option<&Path>) -> anyhow::Result<()> {
    let genesis = genesis.map(node::read_genesis).transpose()?;
    fs::create_dir_all(out).with_context(|| format!("the directory {} cannot be made", out.display()))?;
    let path = out.join("validator.key");
    let key = KeyFile::generate(KeyKind::Validator);
    key.save(&path)?;
    say!("validator key {} written to {}", key.public_key(), path.display())?;
    let Some(genesis) = genesis else {
        say!("start its node once with --new-validator; never on two machines at a time")?;
        return Ok(());
    };
    let config = Config {
        data_dir: out.join("data"),
        ..Config::default()
    };
    node::create_safety_log(&config, key.public_key(), &genesis)?;
    say!(
        "safety log written to {}: set data_dir to {}",
        config.safety_log().display(),
        config.data_dir.display()
    )?;
    Ok(())
}
