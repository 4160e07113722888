//! A node in one process: start, ready, stop, start again; and what keeps it from starting.

mod common;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use timecoin::{
    node::{Config, Node, StartError, create_safety_log},
    primitives::{Genesis, Params},
    signer::{KeyFile, KeyKind},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A directory with a genesis of one validator, its key and a configuration.
struct Home {
    dir: tempfile::TempDir,
    genesis: Genesis,
    key: KeyFile,
}

impl Home {
    fn new() -> Self {
        Self::with_validators(1)
    }

    /// Others beside the first exist in the set only.
    fn with_validators(count: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let params = Params {
            block_interval_ms: 50,
            idle_block_interval_ms: 100,
            round_base_ms: 200,
            ..Params::default()
        };
        let (keys, genesis) = common::chain(count, params);
        std::fs::write(dir.path().join("genesis.bin"), genesis.encode()).expect("writes");
        keys[0].save(&dir.path().join("validator.key")).expect("saves");
        std::fs::write(
            dir.path().join("node.toml"),
            "data_dir = \"data\"\ngenesis = \"genesis.bin\"\nvalidator_key = \"validator.key\"\n\
             [network]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n[api]\nlisten = \"127.0.0.1:0\"\n\
             [http]\nlisten = \"127.0.0.1:0\"\n",
        )
        .expect("writes");
        let key = keys.into_iter().next().expect("at least one");
        Self { dir, genesis, key }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> Config {
        Config::load(Some(&self.path("node.toml")), [], &[])
            .expect("can work")
            .0
    }

    fn ready_to_vote(&self) -> Config {
        let config = self.config();
        create_safety_log(&config, self.key.public_key(), &self.genesis).expect("made");
        config
    }
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers");
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a status");
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default();
    (status, body)
}

/// Looks until it is so, for at most ten seconds.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn error_of(result: Result<Node, StartError>) -> String {
    result.err().map(|error| error.to_string()).expect("does not start")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_one_validator_starts_stops_and_goes_on() {
    let home = Home::new();
    let node = Node::start(home.ready_to_vote()).await.expect("starts");
    eventually("ready", || node.readiness().ready).await;
    eventually("some blocks", || node.snapshot.load().height.0 >= 5).await;
    assert_eq!(get(node.http, "/healthz").await.0, 200);
    let (status, body) = get(node.http, "/readyz").await;
    assert_eq!(status, 200, "{body}");
    let (status, text) = get(node.http, "/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("timecoin_voting 1"), "{text}");
    let snapshot = node.snapshot.clone();
    let begun = Instant::now();
    node.stop().await.expect("stops in order");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let before = snapshot.load_full();

    let node = Node::start(home.config()).await.expect("starts again");
    let opened = node.snapshot.load_full();
    assert!(
        opened.height >= before.height,
        "{} after {}",
        opened.height,
        before.height
    );
    eventually("blocks go on", || node.snapshot.load().height > before.height).await;
    assert!(node.snapshot.load().voting);
    node.stop().await.expect("stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_from_the_start() {
    let home = Home::new();
    let node = Node::start(home.ready_to_vote()).await.expect("starts");
    let text = node.metrics.text().expect("can be written");
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).expect("a page");
    let documented: std::collections::BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let found: std::collections::BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(found, documented);
    assert!(
        text.contains("timecoin_finality_seconds_count 0"),
        "a histogram without samples is missing"
    );
    assert!(!text.contains("otel_scope"), "scope labels are on");
    node.stop().await.expect("stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_without_its_safety_log_stays_silent_and_says_why() {
    let home = Home::new();
    for start in 1..=2 {
        let node = Node::start(home.config()).await.expect("starts");
        let readiness = node.readiness();
        assert!(!readiness.ready && !readiness.voting, "start {start}: {readiness:?}");
        assert!(
            readiness
                .reasons
                .iter()
                .any(|reason| reason.starts_with("not voting: ")),
            "{readiness:?}"
        );
        let (status, body) = get(node.http, "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("not voting"), "{body}");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(node.snapshot.load().height.0, 0, "it has voted");
        node.stop().await.expect("stops in order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_without_the_others_is_not_ready() {
    let home = Home::with_validators(4);
    let node = Node::start(home.ready_to_vote()).await.expect("starts");
    let readiness = node.readiness();
    assert!(
        readiness
            .reasons
            .iter()
            .any(|reason| reason.contains("connected to 0 peers, at least 2")),
        "{readiness:?}"
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(node.snapshot.load().height.0, 0, "a block without a quorum");
    node.stop().await.expect("stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_node_from_starting_is_said() {
    let home = Home::new();
    let config = home.ready_to_vote();
    let node = Node::start(config.clone()).await.expect("starts");
    let error = error_of(Node::start(config.clone()).await);
    assert!(error.contains("in use by another process"), "{error}");

    let taken = Config {
        data_dir: home.path("other"),
        validator_key: None,
        http: timecoin::node::config::HttpConfig { listen: node.http },
        ..config.clone()
    };
    let error = error_of(Node::start(taken).await);
    assert!(error.contains(&node.http.to_string()), "{error}");
    node.stop().await.expect("stops in order");

    let other = Home::new();
    std::fs::copy(other.path("genesis.bin"), home.path("genesis.bin")).expect("copies");
    let error = error_of(Node::start(config.clone()).await);
    assert!(error.contains(&home.genesis.chain_id().to_string()), "{error}");
    assert!(error.contains(&other.genesis.chain_id().to_string()), "{error}");

    std::fs::write(home.path("genesis.bin"), b"not a genesis").expect("writes");
    let error = error_of(Node::start(config.clone()).await);
    assert!(error.contains("genesis.bin is not valid"), "{error}");
    std::fs::remove_file(home.path("genesis.bin")).expect("removes");
    let error = error_of(Node::start(config).await);
    assert!(error.contains("genesis.bin cannot be read"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_safety_log_of_another_key_is_refused() {
    let home = Home::new();
    let config = home.config();
    let other = KeyFile::generate(KeyKind::Validator);
    create_safety_log(&config, other.public_key(), &home.genesis).expect("made");
    let error = error_of(Node::start(config).await);
    assert!(error.contains(&other.public_key().to_string()), "{error}");
}
