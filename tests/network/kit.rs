//! Nodes on loopback, and how tests talk to them.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use prost::bytes::Bytes;
use timecoin::network::{
    Config, Event, GossipId, KnownPeer, Network, NetworkError, PeerId, RequestError, RequestId, Ticket, Topic,
    identity, spawn,
};
use tokio_util::sync::CancellationToken;

pub const CHAIN: [u8; 32] = [7; 32];
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// A running node, and the events that have come but were not asked for yet.
pub struct Node {
    pub network: Network,
    pub cancel: CancellationToken,
    pub seed: u8,
    pub waiting: VecDeque<Event>,
}

pub fn quick() -> Config {
    Config {
        listen: vec![TCP.parse().expect("an address")],
        redial_max_ms: 1_000,
        // Who is connected to whom is for the test to say.
        target_peers: 0,
        ..Config::default()
    }
}

pub async fn try_start(seed: u8, chain: [u8; 32], config: Config) -> Result<Node, NetworkError> {
    try_start_knowing(seed, chain, config, vec![]).await
}

pub async fn try_start_knowing(
    seed: u8,
    chain: [u8; 32],
    config: Config,
    known: Vec<KnownPeer>,
) -> Result<Node, NetworkError> {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let cancel = CancellationToken::new();
    let network = spawn(config, [seed; 32], chain, known, cancel.clone()).await?;
    assert_eq!(network.local, identity([seed; 32]));
    Ok(Node {
        network,
        cancel,
        seed,
        waiting: VecDeque::new(),
    })
}

pub async fn start(seed: u8, config: Config) -> Node {
    try_start(seed, CHAIN, config).await.expect("starts")
}

/// A node that dials the given ones.
pub async fn start_with(seed: u8, others: &[&Node]) -> Node {
    start(
        seed,
        Config {
            bootstrap: others.iter().map(|node| node.address()).collect(),
            ..quick()
        },
    )
    .await
}

impl Node {
    pub fn address(&self) -> Multiaddr {
        self.network.listening[0].clone()
    }

    /// The first event, seen before or still to come, that the closure makes something of. Others are kept.
    pub async fn find<T>(&mut self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        for at in 0..self.waiting.len() {
            if let Some(found) = pick(&self.waiting[at]) {
                self.waiting.remove(at);
                return found;
            }
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let event = tokio::time::timeout_at(deadline, self.network.events.recv()).await;
            let event = event.unwrap_or_else(|_| {
                panic!(
                    "node {}: no {what}; waiting {:?}; {:?}",
                    self.seed,
                    self.waiting,
                    self.network.stats.list()
                )
            });
            let event = event.unwrap_or_else(|| panic!("node {}: stopped before {what}", self.seed));
            if let Some(found) = pick(&event) {
                return found;
            }
            self.waiting.push_back(event);
        }
    }

    /// Takes in what comes for a while.
    pub async fn listen_for(&mut self, time: Duration) {
        let deadline = tokio::time::Instant::now() + time;
        while let Ok(Some(event)) = tokio::time::timeout_at(deadline, self.network.events.recv()).await {
            self.waiting.push_back(event);
        }
    }

    pub fn has_gossip(&self) -> bool {
        self.waiting.iter().any(|event| matches!(event, Event::Gossip { .. }))
    }

    /// Publishes a message of the topic's largest type with this content.
    pub fn say(&self, topic: Topic, content: impl AsRef<[u8]>) {
        self.network
            .commands
            .publish(topic, message(field(topic), content.as_ref()));
    }

    /// Asks for transactions, whatever the content.
    pub fn ask(&self, peer: PeerId, content: impl AsRef<[u8]>) -> RequestId {
        self.network.commands.ask(peer, message(3, content.as_ref()))
    }

    /// Answers [`Node::ask`].
    pub fn answer(&self, ticket: Ticket, content: impl AsRef<[u8]>) {
        self.network.commands.answer(ticket, message(3, content.as_ref()));
    }

    pub async fn peer_up(&mut self) -> PeerId {
        self.find("peer", |event| match event {
            Event::PeerUp { peer, .. } => Some(*peer),
            _ => None,
        })
        .await
    }

    pub async fn peer_down(&mut self) -> PeerId {
        self.find("peer going", |event| match event {
            Event::PeerDown { peer } => Some(*peer),
            _ => None,
        })
        .await
    }

    pub async fn gossip(&mut self) -> (PeerId, GossipId, Topic, Bytes) {
        self.find("gossip", |event| match event {
            Event::Gossip {
                from,
                id,
                topic,
                payload,
            } => Some((*from, *id, *topic, content(payload))),
            _ => None,
        })
        .await
    }

    pub async fn request(&mut self) -> (PeerId, Ticket, Bytes) {
        self.find("request", |event| match event {
            Event::Request { from, ticket, payload } => Some((*from, *ticket, content(payload))),
            _ => None,
        })
        .await
    }

    /// Asks and waits for the one response.
    pub async fn response_to(&mut self, peer: PeerId, payload: Vec<u8>) -> Result<Bytes, RequestError> {
        let id = self.ask(peer, payload);
        self.response(id).await
    }

    pub async fn response(&mut self, id: RequestId) -> Result<Bytes, RequestError> {
        self.find("response", |event| match event {
            Event::Response { request, result, .. } if *request == id => {
                Some(result.clone().map(|payload| content(&payload)))
            }
            _ => None,
        })
        .await
    }

    pub async fn stop(self) -> Duration {
        let start = Instant::now();
        self.cancel.cancel();
        self.network.task.await.expect("no panic");
        start.elapsed()
    }
}

/// The field of the largest type of a topic.
pub const fn field(topic: Topic) -> u8 {
    match topic {
        Topic::Transactions => 1,
        Topic::Votes => 2,
        Topic::Consensus => 3,
    }
}

/// A message of one field with this content, as the network wants them.
pub fn message(field: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![field << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(content);
    bytes
}

/// What is in a message of one field.
fn content(message: &Bytes) -> Bytes {
    let length = message[1..].iter().take_while(|byte| **byte >= 0x80).count();
    message.slice(length + 2..)
}

pub fn payload(size: usize, salt: u8) -> Vec<u8> {
    // Half noise, half zeros: compression is tried and pays.
    (0..size)
        .map(|at| {
            if at % 2 == 0 {
                (at.wrapping_mul(2_654_435_761) >> 7) as u8 ^ salt
            } else {
                0
            }
        })
        .collect()
}

pub async fn eventually(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A wire between two nodes that can go dead: nothing passes, and nobody is told.
pub struct Wire {
    /// Leads to the node behind it.
    pub address: Multiaddr,
    dead: tokio::sync::watch::Sender<bool>,
}

impl Wire {
    pub async fn to(node: &Node) -> Self {
        let port = |address: &Multiaddr| {
            address
                .to_string()
                .rsplit('/')
                .next()
                .and_then(|port| port.parse().ok())
        };
        let target: u16 = port(&node.address()).expect("a port");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("bound").port();
        let (dead, watched) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = tokio::net::TcpStream::connect(("127.0.0.1", target)).await else {
                    continue;
                };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(carry(near_in, far_out, watched.clone()));
                tokio::spawn(carry(far_in, near_out, watched.clone()));
            }
        });
        Self {
            address: format!("/ip4/127.0.0.1/tcp/{own}").parse().expect("an address"),
            dead,
        }
    }

    pub fn cut(&self, dead: bool) {
        self.dead.send_replace(dead);
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut dead: tokio::sync::watch::Receiver<bool>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut bytes = vec![0; 16_384];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        if dead.wait_for(|dead| !dead).await.is_err() || read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
