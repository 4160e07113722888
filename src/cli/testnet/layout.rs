//! What a test network is made of on disk.

use crate::{
    api::client::Client,
    cli::now,
    node,
    primitives::{
        Amount, Genesis, LockHash, Output, Params, PublicKey, Time, Validator, ValidatorSet, amount::UNITS_PER_TIME,
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

/// What a new network is to be like.
#[derive(Clone, Debug)]
pub(super) struct Blueprint {
    /// How many validators.
    pub(super) validators: u32,
    /// The chain's parameters.
    pub(super) params: Params,
    /// How long ago it began, by the clock of its genesis.
    pub(super) age_ms: u64,
}

impl Blueprint {
    /// A network of the usual kind that begins now.
    pub(super) fn of(validators: u32) -> Self {
        Self {
            validators,
            params: Params::default(),
            age_ms: 0,
        }
    }
}

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

    /// The settings that all nodes have.
    fn settings(&self, bootstrap: &[String]) -> String {
        let bootstrap: Vec<String> = bootstrap.iter().map(|peer| format!("{peer:?}")).collect();
        format!(
            "data_dir = \"data\"\n\
             genesis = \"../genesis.bin\"\n\
             \n\
             [network]\n\
             listen = [\"{}\"]\n\
             bootstrap = [{}]\n\
             \n\
             [api]\n\
             listen = \"{}\"\n\
             \n\
             [http]\n\
             listen = \"{}\"\n",
            peer_address(self.peers),
            bootstrap.join(", "),
            self.api,
            self.http,
        )
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
    pub(super) fn open_or_create(dir: &Path, blueprint: &Blueprint) -> anyhow::Result<Self> {
        if dir.join(INDEX).exists() {
            return Self::open(dir);
        }
        Self::create(dir, blueprint).with_context(|| format!("the test network cannot be written to {}", dir.display()))
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

    fn create(dir: &Path, blueprint: &Blueprint) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        ensure!(
            fs::read_dir(dir)?.next().is_none(),
            "the directory is not empty and holds no test network"
        );
        let validators = blueprint.validators as usize;
        let mut addresses = free_addresses(3 * validators)?.into_iter();
        let mut nodes = Vec::new();
        for number in 0..validators {
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
        layout.write(blueprint)?;
        Ok(layout)
    }

    fn write(&self, blueprint: &Blueprint) -> anyhow::Result<()> {
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
        let genesis = genesis(
            blueprint,
            &keys,
            rewards,
            &[(faucet, FAUCET_COINS), (probes, PROBE_COINS)],
        )?;
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
        let others = (0..self.nodes.len()).filter(|other| *other != number);
        let bootstrap: Vec<String> = others
            .map(|other| self.bootstrap(other, &identities[other]))
            .collect::<anyhow::Result<_>>()?;
        Ok(format!(
            "validator_key = \"validator.key\"\n{}",
            self.nodes[number].settings(&bootstrap)
        ))
    }

    /// Where a validator's peers find it.
    fn bootstrap(&self, number: usize, identity: &PublicKey) -> anyhow::Result<String> {
        let address = peer_address(self.nodes[number].peers);
        Ok(format!("{address}/p2p/{}", peer_id(identity)?))
    }

    /// The files of a node that is no validator and knows nothing but the genesis and the validators `from`. What an
    /// earlier one of that number has left behind is taken away.
    pub(super) fn newcomer(&self, number: usize, from: &[usize], sync: &str) -> anyhow::Result<Newcomer> {
        let dir = self.dir.join(format!("newcomer{number}"));
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("{} cannot be removed", dir.display()))?;
        }
        fs::create_dir_all(dir.join("data"))?;
        let key = KeyFile::generate(KeyKind::Node);
        key.save(&dir.join("data").join("node.key"))?;
        let identity = peer_id(&key.public_key())?;
        let mut addresses = free_addresses(3)?.into_iter();
        let mut next = || addresses.next().context("too few free ports");
        let files = NodeFiles {
            dir,
            api: next()?,
            http: next()?,
            peers: next()?,
        };
        let bootstrap: Vec<String> = from
            .iter()
            .map(|number| {
                let key = KeyFile::load(&self.nodes[*number].dir.join("data").join("node.key"), KeyKind::Node)?;
                self.bootstrap(*number, &key.public_key())
            })
            .collect::<anyhow::Result<_>>()?;
        fs::write(
            files.config(),
            format!("{}\n[sync]\n{sync}", files.settings(&bootstrap)),
        )?;
        Ok(Newcomer { files, identity })
    }
}

/// A node that is no validator.
pub(super) struct Newcomer {
    pub(super) files: NodeFiles,
    /// Who it is among its peers.
    pub(super) identity: libp2p::PeerId,
}

fn peer_id(key: &PublicKey) -> anyhow::Result<libp2p::PeerId> {
    let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(&key.0)?;
    Ok(libp2p::identity::PublicKey::from(key).to_peer_id())
}

/// The form in which libp2p wants an address.
pub(super) fn peer_address(address: SocketAddr) -> String {
    format!("/ip4/{}/tcp/{}", address.ip(), address.port())
}

fn node_dir(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("node{number}"))
}

fn genesis(
    blueprint: &Blueprint,
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
        time: Time(now().0.saturating_sub(blueprint.age_ms)),
        params: blueprint.params.clone(),
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
        let mut blueprint = Blueprint::of(3);
        blueprint.params.epoch_length = 10;
        let layout = Layout::open_or_create(&dir, &blueprint).expect("writes");
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
        let again = Layout::open_or_create(&dir, &Blueprint::of(7)).expect("is there");
        assert_eq!(again.nodes.len(), 3, "a network that is there is not changed");
        assert_eq!(again.nodes[2].config(), layout.nodes[2].config());
    }

    #[test]
    fn a_directory_with_something_else_in_it_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("thesis.txt"), "x").expect("writes");
        assert!(Layout::open_or_create(dir.path(), &Blueprint::of(3)).is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 1);
    }
}
