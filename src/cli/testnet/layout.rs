//! What a test network is made of on disk.

use crate::{
    api::client::Client,
    cli::now,
    node,
    primitives::{
        Amount, Genesis, LockHash, Output, Params, PublicKey, Validator, ValidatorSet, amount::UNITS_PER_TIME,
    },
    signer::{KeyFile, KeyKind},
    wallet::{Wallet, file::Key},
};
use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

/// Coins of the faucet: enough for large loads.
const FAUCET_COINS: usize = 20_000;
/// Coins that probes begin with: one for each start of the table.
const PROBE_COINS: usize = 100;
/// What each is worth.
const FIRST_COIN: Amount = Amount(1_000 * UNITS_PER_TIME);
/// Addresses of a test network begin with this.
const NETWORK: &str = "ltime";

/// A test network on disk.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    pub(super) nodes: Vec<NodeFiles>,
}

/// One validator.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeFiles {
    /// Its directory.
    #[serde(skip)]
    pub(super) dir: PathBuf,
    /// gRPC.
    pub(super) api: SocketAddr,
    /// Metrics and health.
    pub(super) http: SocketAddr,
    /// Peers.
    pub(super) peers: SocketAddr,
}

impl NodeFiles {
    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }
}

/// Lists the nodes; that it is there means that everything else is.
const INDEX: &str = "testnet.json";

impl Layout {
    pub(super) fn genesis(&self) -> PathBuf {
        self.dir.join("genesis.bin")
    }

    pub(super) fn faucet(&self) -> PathBuf {
        self.dir.join("faucet.json")
    }

    /// The wallet that the table's probes pay from: nobody else's payments meet theirs.
    pub(super) fn probes(&self) -> PathBuf {
        self.dir.join("probes.json")
    }

    /// The wallet that validators' rewards go to.
    fn rewards(&self) -> PathBuf {
        self.dir.join("rewards.json")
    }

    /// API addresses, separated by commas.
    pub(super) fn addresses(&self) -> String {
        let all: Vec<String> = self.nodes.iter().map(|node| node.api.to_string()).collect();
        all.join(",")
    }

    pub(super) fn clients(&self) -> anyhow::Result<Vec<Client>> {
        let client = |node: &NodeFiles| Ok(Client::lazy(&node.api.to_string())?);
        self.nodes.iter().map(client).collect()
    }

    /// The network that is in `dir` already, or a new one.
    pub(super) fn open_or_create(dir: &Path, validators: u32, params: &Params) -> anyhow::Result<Self> {
        if dir.join(INDEX).exists() {
            return Self::open(dir);
        }
        Self::create(dir, validators, params)
            .with_context(|| format!("the test network cannot be written to {}", dir.display()))
    }

    fn open(dir: &Path) -> anyhow::Result<Self> {
        let index = dir.join(INDEX);
        let text = fs::read_to_string(&index).with_context(|| format!("{} cannot be read", index.display()))?;
        let mut nodes: Vec<NodeFiles> =
            serde_json::from_str(&text).with_context(|| format!("{} is damaged", index.display()))?;
        for (number, node) in nodes.iter_mut().enumerate() {
            node.dir = node_dir(dir, number);
        }
        Ok(Self {
            dir: dir.to_owned(),
            nodes,
        })
    }

    fn create(dir: &Path, validators: u32, params: &Params) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        ensure!(
            fs::read_dir(dir)?.next().is_none(),
            "the directory is not empty and holds no test network"
        );
        let mut addresses = free_addresses(3 * validators as usize)?.into_iter();
        let mut nodes = Vec::new();
        for number in 0..validators as usize {
            let mut next = || addresses.next().context("too few free ports");
            nodes.push(NodeFiles {
                dir: node_dir(dir, number),
                api: next()?,
                http: next()?,
                peers: next()?,
            });
        }
        let layout = Self {
            dir: dir.to_owned(),
            nodes,
        };
        layout.write(params)?;
        Ok(layout)
    }

    fn write(&self, params: &Params) -> anyhow::Result<()> {
        let purse = |path: PathBuf, label: &str| -> anyhow::Result<LockHash> {
            let key = Key::random(label);
            let lock = key.lock;
            Wallet::create(&path, NETWORK, vec![key])?;
            Ok(lock)
        };
        let faucet = purse(self.faucet(), "faucet")?;
        let probes = purse(self.probes(), "probes")?;
        let rewards = purse(self.rewards(), "rewards")?;
        let mut keys = Vec::new();
        let mut identities = Vec::new();
        for node in &self.nodes {
            fs::create_dir_all(node.dir.join("data"))?;
            let validator = KeyFile::generate(KeyKind::Validator);
            validator.save(&node.dir.join("validator.key"))?;
            keys.push(validator.public_key());
            let identity = KeyFile::generate(KeyKind::Node);
            identity.save(&node.dir.join("data").join("node.key"))?;
            identities.push(identity.public_key());
        }
        let genesis = genesis(params, &keys, rewards, &[(faucet, FAUCET_COINS), (probes, PROBE_COINS)])?;
        fs::write(self.genesis(), genesis.encode())?;
        for (number, node) in self.nodes.iter().enumerate() {
            fs::write(node.config(), self.config(number, &identities)?)?;
            // These keys have never signed anything: their safety logs begin here.
            let (config, _) = node::Config::load(Some(&node.config()), [], &[])?;
            node::create_safety_log(&config, keys[number], &genesis)?;
        }
        let index = serde_json::to_string_pretty(&self.nodes)?;
        fs::write(self.dir.join(INDEX), index)?;
        Ok(())
    }

    fn config(&self, number: usize, identities: &[PublicKey]) -> anyhow::Result<String> {
        let node = &self.nodes[number];
        let mut others = Vec::new();
        for (other, identity) in self.nodes.iter().zip(identities) {
            if other.peers != node.peers {
                let peer = libp2p::identity::ed25519::PublicKey::try_from_bytes(&identity.0)?;
                let peer = libp2p::identity::PublicKey::from(peer).to_peer_id();
                others.push(format!(
                    "{:?}",
                    format!("/ip4/127.0.0.1/tcp/{}/p2p/{peer}", other.peers.port())
                ));
            }
        }
        Ok(format!(
            "data_dir = \"data\"\n\
             genesis = \"../genesis.bin\"\n\
             validator_key = \"validator.key\"\n\
             \n\
             [network]\n\
             listen = [\"/ip4/127.0.0.1/tcp/{}\"]\n\
             bootstrap = [{}]\n\
             \n\
             [api]\n\
             listen = \"{}\"\n\
             \n\
             [http]\n\
             listen = \"{}\"\n",
            node.peers.port(),
            others.join(", "),
            node.api,
            node.http,
        ))
    }
}

fn node_dir(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("node{number}"))
}

fn genesis(
    params: &Params,
    keys: &[PublicKey],
    rewards: LockHash,
    purses: &[(LockHash, usize)],
) -> anyhow::Result<Genesis> {
    let validator = |key: &PublicKey| Validator {
        public_key: *key,
        power: 1,
        payout: rewards,
    };
    let coins = |(lock, count): &(LockHash, usize)| {
        let coin = Output {
            value: FIRST_COIN,
            lock: *lock,
        };
        vec![coin; *count]
    };
    let genesis = Genesis {
        network: NETWORK.to_owned(),
        time: now(),
        params: params.clone(),
        validators: ValidatorSet::new(keys.iter().map(validator).collect())?,
        coins: purses.iter().flat_map(coins).collect(),
    };
    genesis.check()?;
    Ok(genesis)
}

/// Ports on the loopback interface that nobody listens on at the moment.
fn free_addresses(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    // All are held until all are known, so that none is given out twice.
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<Result<_, _>>()
        .context("no free ports on 127.0.0.1")?;
    held.iter().map(|listener| Ok(listener.local_addr()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_a_node_reads() {
        let temporary = tempfile::tempdir().expect("a directory");
        let dir = temporary.path().join("net");
        let params = Params {
            epoch_length: 10,
            ..Params::default()
        };
        let layout = Layout::open_or_create(&dir, 3, &params).expect("writes");
        let genesis = node::read_genesis(&layout.genesis()).expect("a valid genesis");
        assert_eq!(
            (
                genesis.validators.len(),
                genesis.coins.len(),
                genesis.params.epoch_length
            ),
            (3, FAUCET_COINS + PROBE_COINS, 10)
        );
        for (path, count) in [(layout.faucet(), FAUCET_COINS), (layout.probes(), PROBE_COINS)] {
            let wallet = Wallet::open(&path).expect("a wallet");
            assert_eq!(
                genesis.coins.iter().filter(|coin| wallet.owns(&coin.lock)).count(),
                count
            );
        }
        for node in &layout.nodes {
            let (config, warnings) = node::Config::load(Some(&node.config()), [], &[]).expect("valid settings");
            assert!(warnings.is_empty(), "{warnings:?}");
            assert_eq!((config.api.listen, config.network.bootstrap.len()), (node.api, 2));
            assert!(config.safety_log().exists() && config.node_key().exists());
            let key = config.validator_key.expect("a key");
            let key = KeyFile::load(&key, KeyKind::Validator).expect("a key file");
            assert!(genesis.validators.index_of(&key.public_key()).is_some());
        }
        let again = Layout::open_or_create(&dir, 7, &params).expect("is there");
        assert_eq!(again.nodes.len(), 3, "a network that is there is not changed");
        assert_eq!(again.nodes[2].config(), layout.nodes[2].config());
    }

    #[test]
    fn a_directory_with_something_else_in_it_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("thesis.txt"), "x").expect("writes");
        assert!(Layout::open_or_create(dir.path(), 3, &Params::default()).is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 1);
    }
}
