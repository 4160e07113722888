//! Whole nodes that find one another: validators by what they announce, everybody by the file of known peers.

mod common;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use timecoin::{
    network,
    node::{Config, Node, create_safety_log},
    primitives::{Genesis, Params},
    signer::KeyFile,
};

/// A chain of validators, each with a home of its own.
struct Chain {
    dir: tempfile::TempDir,
    genesis: Genesis,
    keys: Vec<KeyFile>,
}

impl Chain {
    fn new(validators: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let params = Params {
            block_interval_ms: 100,
            idle_block_interval_ms: 200,
            round_base_ms: 500,
            ..Params::default()
        };
        let (keys, genesis) = common::chain(validators, params);
        std::fs::write(dir.path().join("genesis.bin"), genesis.encode()).expect("writes");
        for (number, key) in keys.iter().enumerate() {
            key.save(&dir.path().join(format!("{number}.key"))).expect("saves");
        }
        Self { dir, genesis, keys }
    }

    /// A node that looks for nobody by itself beyond these bootstrap peers and the validators.
    fn config(&self, number: usize, bootstrap: Vec<Multiaddr>) -> Config {
        let path = |name: String| -> PathBuf { self.dir.path().join(name) };
        Config {
            data_dir: path(format!("data-{number}")),
            genesis: path("genesis.bin".into()),
            validator_key: self.keys.get(number).map(|_| path(format!("{number}.key"))),
            network: network::Config {
                listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
                bootstrap,
                target_peers: 0,
                ..network::Config::default()
            },
            api: timecoin::api::Config {
                listen: ([127, 0, 0, 1], 0).into(),
                ..timecoin::api::Config::default()
            },
            http: timecoin::node::config::HttpConfig {
                listen: ([127, 0, 0, 1], 0).into(),
            },
            ..Config::default()
        }
    }

    /// Starts a validator for the first time.
    async fn first(&self, number: usize, bootstrap: Vec<Multiaddr>) -> Node {
        let config = self.config(number, bootstrap);
        create_safety_log(&config, self.keys[number].public_key(), &self.genesis).expect("made");
        Node::start(config).await.expect("starts")
    }

    /// Starts a node again, or one that does not vote.
    async fn again(&self, number: usize, bootstrap: Vec<Multiaddr>) -> Node {
        Node::start(self.config(number, bootstrap)).await.expect("starts")
    }
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

fn peers(node: &Node) -> usize {
    node.readiness().peers
}

fn height(node: &Node) -> u64 {
    node.snapshot.load().height.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validators_find_one_another_and_outlive_the_one_they_knew() {
    let chain = Chain::new(4);
    let hub = chain.first(0, vec![]).await;
    let address = hub.listening[0].clone();
    let mut others = Vec::new();
    for number in 1..4 {
        others.push(chain.first(number, vec![address.clone()]).await);
    }
    // Each was told of one; the rest they have by their announcements.
    let took = eventually("all are connected", || others.iter().all(|node| peers(node) == 3)).await;
    println!("four validators that knew one are all connected after {took:?}");
    eventually("blocks", || height(&hub) > 2).await;

    hub.stop().await.expect("stops");
    eventually("the one is gone", || others.iter().all(|node| peers(node) == 2)).await;
    let before = height(&others[0]);
    eventually("blocks without it", || height(&others[0]) > before + 2).await;

    // One of them restarts, with nothing but a dead address and its file.
    let restarted = others.pop().expect("three");
    restarted.stop().await.expect("stops");
    let text = std::fs::read_to_string(chain.config(3, vec![]).peers_file()).expect("written");
    assert!(text.contains("\"announcements\""), "{text}");
    let before = height(&others[0]);
    let restarted = chain.again(3, vec![address.clone()]).await;
    let took = eventually("back among them", || peers(&restarted) == 2).await;
    println!("a restarted validator whose only bootstrap peer is dead is back after {took:?}");
    eventually("blocks again", || {
        height(&others[0]) > before + 2 && height(&restarted) > before
    })
    .await;

    // A node that does not vote and knows one of them hears of all, and passes it on.
    let light = chain.again(9, vec![others[0].listening[0].clone()]).await;
    eventually("connected", || peers(&light) >= 1).await;
    let file = chain.config(9, vec![]).peers_file();
    tokio::time::sleep(Duration::from_secs(1)).await;
    light.stop().await.expect("stops");
    let text = std::fs::read_to_string(file).expect("written");
    let page: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let held = page["announcements"].as_array().expect("a list").len();
    assert!(held >= 3, "{text}");
    for node in others.into_iter().chain([restarted]) {
        node.stop().await.expect("stops");
    }
}
