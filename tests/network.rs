//! The network over real sockets on loopback: gossip, requests, restarts, strangers.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::request_response::{self, OutboundRequestId, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, StreamProtocol, gossipsub, identify, noise, tcp, yamux};
use prost::bytes::Bytes;
use timecoin::network::{
    Config, ConfigError, EnvelopeError, Event, Fault, GossipId, MAX_MESSAGE_SIZE, Network, NetworkError, PeerId,
    Refusal, RequestError, Ticket, Topic, Verdict, identity, spawn,
};
use tokio_util::sync::CancellationToken;

const CHAIN: [u8; 32] = [7; 32];
const PATIENCE: Duration = Duration::from_secs(20);
const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// A running node, and the events that have come but were not asked for yet.
struct Node {
    network: Network,
    cancel: CancellationToken,
    seed: u8,
    waiting: VecDeque<Event>,
}

fn quick() -> Config {
    Config {
        listen: vec![TCP.parse().expect("an address")],
        redial_max_ms: 1_000,
        ..Config::default()
    }
}

async fn try_start(seed: u8, chain: [u8; 32], config: Config) -> Result<Node, NetworkError> {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let cancel = CancellationToken::new();
    let network = spawn(config, [seed; 32], chain, cancel.clone()).await?;
    assert_eq!(network.local, identity([seed; 32]));
    Ok(Node {
        network,
        cancel,
        seed,
        waiting: VecDeque::new(),
    })
}

async fn start(seed: u8, config: Config) -> Node {
    try_start(seed, CHAIN, config).await.expect("starts")
}

/// A node that dials the given ones.
async fn start_with(seed: u8, others: &[&Node]) -> Node {
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
    fn address(&self) -> Multiaddr {
        self.network.listening[0].clone()
    }

    /// The first event, seen before or still to come, that the closure makes something of. Others are kept.
    async fn find<T>(&mut self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
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
    async fn listen_for(&mut self, time: Duration) {
        let deadline = tokio::time::Instant::now() + time;
        while let Ok(Some(event)) = tokio::time::timeout_at(deadline, self.network.events.recv()).await {
            self.waiting.push_back(event);
        }
    }

    fn has_gossip(&self) -> bool {
        self.waiting.iter().any(|event| matches!(event, Event::Gossip { .. }))
    }

    async fn peer_up(&mut self) -> PeerId {
        self.find("peer", |event| match event {
            Event::PeerUp { peer, .. } => Some(*peer),
            _ => None,
        })
        .await
    }

    async fn peer_down(&mut self) -> PeerId {
        self.find("peer going", |event| match event {
            Event::PeerDown { peer } => Some(*peer),
            _ => None,
        })
        .await
    }

    async fn gossip(&mut self) -> (PeerId, GossipId, Topic, Bytes) {
        self.find("gossip", |event| match event {
            Event::Gossip {
                from,
                id,
                topic,
                payload,
            } => Some((*from, *id, *topic, payload.clone())),
            _ => None,
        })
        .await
    }

    async fn request(&mut self) -> (PeerId, Ticket, Bytes) {
        self.find("request", |event| match event {
            Event::Request { from, ticket, payload } => Some((*from, *ticket, payload.clone())),
            _ => None,
        })
        .await
    }

    /// Asks and waits for the one response.
    async fn response_to(&mut self, peer: PeerId, payload: Vec<u8>) -> Result<Bytes, RequestError> {
        let id = self.network.commands.ask(peer, payload);
        self.response(id).await
    }

    async fn response(&mut self, id: timecoin::network::RequestId) -> Result<Bytes, RequestError> {
        self.find("response", |event| match event {
            Event::Response { request, result, .. } if *request == id => Some(result.clone()),
            _ => None,
        })
        .await
    }

    async fn stop(self) -> Duration {
        let start = Instant::now();
        self.cancel.cancel();
        self.network.task.await.expect("no panic");
        start.elapsed()
    }
}

fn payload(size: usize, salt: u8) -> Vec<u8> {
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

async fn eventually(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Every node publishes on every topic in every size, and all others get it.
async fn everybody_hears_everybody(nodes: &mut [Node], sizes: &[usize]) {
    for (turn, &size) in sizes.iter().enumerate() {
        for topic in Topic::ALL {
            for speaker in 0..nodes.len() {
                let said = payload(size, (turn * 100 + speaker * 10) as u8 + topic as u8);
                nodes[speaker].network.commands.publish(topic, said.clone());
                for (at, node) in nodes.iter_mut().enumerate() {
                    if at == speaker {
                        continue;
                    }
                    let (_, id, heard_topic, heard) = node.gossip().await;
                    assert_eq!(heard_topic, topic);
                    assert!(heard == said, "{size} bytes from node {speaker} to node {at}");
                    node.network.commands.verdict(id, Verdict::Accept);
                }
            }
        }
    }
    for node in nodes.iter_mut() {
        node.listen_for(Duration::from_millis(300)).await;
        assert!(!node.has_gossip(), "node {} heard something twice", node.seed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_words_are_heard_on_every_topic_and_again_when_said_again() {
    let mut one = start_with(5, &[]).await;
    let mut two = start_with(6, &[&one]).await;
    one.peer_up().await;
    two.peer_up().await;
    for topic in Topic::ALL {
        one.network.commands.publish(topic, vec![1, 2, 3]);
        assert_eq!(two.gossip().await.2, topic);
    }
    // More often than there are names to begin with: whoever says it again has a reason, and is heard.
    for _ in 0..20 {
        one.network.commands.publish(Topic::Votes, vec![1, 2, 3]);
        assert_eq!(two.gossip().await.2, Topic::Votes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_gossip_both_ways_in_all_sizes() {
    let mut one = start_with(1, &[]).await;
    let mut two = start_with(2, &[&one]).await;
    one.peer_up().await;
    two.peer_up().await;
    let mut nodes = [one, two];
    everybody_hears_everybody(&mut nodes, &[1, 200, 100_000, 5_000_000, MAX_MESSAGE_SIZE]).await;
    let [one, two] = nodes;
    let sent = one.network.stats.gossip_out.of(Topic::Votes).get();
    assert_eq!((sent, two.network.stats.gossip_in.of(Topic::Votes).get()), (5, 5));
    assert_eq!(
        (
            one.network.peers.connected(),
            one.network.peers.inbound(),
            two.network.peers.outbound()
        ),
        (1, 1, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_gossip_in_all_directions() {
    let one = start_with(11, &[]).await;
    let two = start_with(12, &[&one]).await;
    let three = start_with(13, &[&one, &two]).await;
    let four = start_with(14, &[&one, &two, &three]).await;
    let mut nodes = [one, two, three, four];
    for node in &mut nodes {
        for _ in 0..3 {
            node.peer_up().await;
        }
    }
    everybody_hears_everybody(&mut nodes, &[300, 100_000, 5_000_000]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_before_anybody_listens_is_said_again() {
    let mut one = start_with(16, &[]).await;
    let said: Vec<_> = (0..5).map(|salt| payload(500, salt)).collect();
    for words in &said {
        one.network.commands.publish(Topic::Votes, words.clone());
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(one.network.stats.gossip_out.of(Topic::Votes).get(), 0);
    let mut two = start_with(17, &[&one]).await;
    let mut heard = Vec::new();
    for _ in &said {
        heard.push(two.gossip().await.3.to_vec());
    }
    heard.sort();
    let mut expected = said;
    expected.sort();
    assert_eq!(heard, expected);
    assert!(one.network.stats.publish_retries.get() >= 5);
    one.peer_up().await;
}

/// One and three know only two; two knows nobody (and still relays both ways).
async fn line(seed: u8) -> [Node; 3] {
    let mut two = start_with(seed + 1, &[]).await;
    let mut one = start_with(seed, &[&two]).await;
    let mut three = start_with(seed + 2, &[&two]).await;
    one.peer_up().await;
    three.peer_up().await;
    two.peer_up().await;
    two.peer_up().await;
    // A first message both ways shows that the meshes stand.
    for from_three in [false, true] {
        let (speaker, listener) = if from_three {
            (&mut three, &mut one)
        } else {
            (&mut one, &mut three)
        };
        speaker
            .network
            .commands
            .publish(Topic::Votes, vec![u8::from(from_three)]);
        let (_, id, ..) = two.gossip().await;
        two.network.commands.verdict(id, Verdict::Accept);
        listener.gossip().await;
    }
    [one, two, three]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_relayed_after_its_verdict_and_only_then() {
    let [one, mut two, mut three] = line(20).await;
    for size in [100, 100_000, 5_000_000] {
        one.network.commands.publish(Topic::Votes, payload(size, 1));
        let (_, id, _, heard) = two.gossip().await;
        // Longer than a heartbeat: not even offered to whoever might ask for it.
        three.listen_for(Duration::from_millis(1_000)).await;
        assert!(!three.has_gossip(), "relayed before its verdict");
        two.network.commands.verdict(id, Verdict::Accept);
        assert_eq!(three.gossip().await.3, heard);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_not_accepted_is_never_relayed() {
    let [mut one, mut two, mut three] = line(24).await;
    for (salt, verdict) in [(1, Verdict::Reject), (2, Verdict::Ignore)] {
        for (from_three, size) in [(false, 100), (true, 100_000)] {
            let (speaker, listener) = if from_three {
                (&mut three, &mut one)
            } else {
                (&mut one, &mut three)
            };
            speaker
                .network
                .commands
                .publish(Topic::Transactions, payload(size, salt));
            let (_, id, ..) = two.gossip().await;
            two.network.commands.verdict(id, verdict);
            listener.listen_for(Duration::from_millis(1_500)).await;
            assert!(!listener.has_gossip(), "{verdict:?}, and relayed");
        }
    }
    assert_eq!(two.network.stats.bans.get(), 0, "a verdict is not a punishment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_both_ways() {
    let mut one = start_with(30, &[]).await;
    let mut two = start_with(31, &[&one]).await;
    let (to_two, to_one) = (one.peer_up().await, two.peer_up().await);
    for size in [0, 100, 100_000, 5_000_000, MAX_MESSAGE_SIZE] {
        for swap in [false, true] {
            let (asker, answerer, peer) = if swap {
                (&mut two, &mut one, to_one)
            } else {
                (&mut one, &mut two, to_two)
            };
            let id = asker.network.commands.ask(peer, payload(size, 1));
            let (_, ticket, asked) = answerer.request().await;
            assert!(asked == payload(size, 1));
            answerer.network.commands.answer(ticket, payload(size, 2));
            assert!(asker.response(id).await.expect("answered") == payload(size, 2));
            answerer.network.commands.answer(ticket, vec![3]);
        }
    }
    // Many at once, answered in the other order.
    let ids: Vec<_> = (0..50_u8)
        .map(|salt| one.network.commands.ask(to_two, vec![salt]))
        .collect();
    let mut tickets = Vec::new();
    for _ in &ids {
        tickets.push(two.request().await);
    }
    for (_, ticket, asked) in tickets.into_iter().rev() {
        two.network.commands.answer(ticket, vec![asked[0], 99]);
    }
    for (salt, id) in ids.into_iter().enumerate() {
        assert_eq!(one.response(id).await.expect("answered"), vec![salt as u8, 99]);
    }
    one.listen_for(Duration::from_millis(200)).await;
    assert!(one.waiting.is_empty(), "a second response: {:?}", one.waiting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failed_request_says_why_and_just_once() {
    let config = Config {
        request_timeout_ms: 600,
        max_requests_per_peer: 4,
        ..quick()
    };
    let mut one = start(34, config.clone()).await;
    // The answerer is the more patient one, so that it is clear whose time runs out first.
    let patient = Config {
        request_timeout_ms: 1_500,
        bootstrap: vec![one.address()],
        ..config
    };
    let mut two = start(35, patient).await;
    let (to_two, to_one) = (one.peer_up().await, two.peer_up().await);

    let too_large = one.response_to(to_two, vec![0; MAX_MESSAGE_SIZE + 1]).await;
    let bytes = MAX_MESSAGE_SIZE as u64 + 1;
    assert_eq!(
        too_large,
        Err(RequestError::TooLarge(EnvelopeError::PayloadTooLarge { bytes }))
    );
    assert_eq!(
        one.response_to(PeerId(999), vec![]).await,
        Err(RequestError::UnknownPeer)
    );

    let id = one.network.commands.ask(to_two, vec![1]);
    let (_, ticket, _) = two.request().await;
    two.network.commands.answer(ticket, vec![0; MAX_MESSAGE_SIZE + 1]);
    assert_eq!(
        one.response(id).await,
        Err(RequestError::Refused(Refusal::AnswerTooLarge))
    );

    let start = Instant::now();
    let id = one.network.commands.ask(to_two, vec![2]);
    let (_, ticket, _) = two.request().await;
    assert_eq!(one.response(id).await, Err(RequestError::Timeout));
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert_eq!(one.network.stats.request_timeouts.get(), 1);
    let stats = std::sync::Arc::clone(&two.network.stats);
    eventually("the ticket expires", || stats.requests_unanswered.get() == 1).await;
    // The late answer goes nowhere, and the place it took is free.
    two.network.commands.answer(ticket, vec![2]);

    let ids: Vec<_> = (0..6).map(|_| one.network.commands.ask(to_two, vec![3])).collect();
    assert_eq!(one.response(ids[4]).await, Err(RequestError::Overloaded));
    assert_eq!(one.response(ids[5]).await, Err(RequestError::Overloaded));
    for _ in 0..4 {
        let (_, ticket, _) = two.request().await;
        two.network.commands.answer(ticket, vec![3]);
    }
    for id in &ids[..4] {
        assert_eq!(one.response(*id).await.expect("answered"), vec![3]);
    }

    // This time the answerer gives up first.
    let id = two.network.commands.ask(to_one, vec![6]);
    one.request().await;
    assert_eq!(two.response(id).await, Err(RequestError::Unanswered));

    let id = two.network.commands.ask(to_one, vec![4]);
    one.request().await;
    one.stop().await;
    assert_eq!(two.response(id).await, Err(RequestError::Disconnected));
    two.peer_down().await;
    assert_eq!(two.response_to(to_one, vec![5]).await, Err(RequestError::NotConnected));
    two.listen_for(Duration::from_millis(200)).await;
    assert!(two.waiting.is_empty(), "something came twice: {:?}", two.waiting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_node_answers_its_own_requests() {
    let mut one = start_with(36, &[]).await;
    let mut two = start_with(37, &[&one]).await;
    let to_one = two.peer_up().await;
    let id = two.network.commands.ask(to_one, vec![1]);
    one.request().await;
    two.cancel.cancel();
    assert_eq!(two.response(id).await, Err(RequestError::Stopping));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_is_found_again_within_about_a_second() {
    let mut one = start_with(40, &[]).await;
    let address = one.address();
    let mut two = start_with(41, &[&one]).await;
    let (before, _) = (two.peer_up().await, one.peer_up().await);
    for turn in 0..3_u8 {
        assert!(one.stop().await < Duration::from_secs(1));
        assert_eq!(two.peer_down().await, before);
        // Down for a while, so that the delays have grown.
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(two.network.stats.reconnecting.get(), 1);
        one = start(
            40,
            Config {
                listen: vec![address.clone()],
                ..quick()
            },
        )
        .await;
        let start = Instant::now();
        assert_eq!(two.peer_up().await, before, "the same identity has the same number");
        let took = start.elapsed();
        println!("reconnected after {took:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        one.peer_up().await;
        one.network.commands.publish(Topic::Consensus, vec![turn]);
        assert_eq!(two.gossip().await.3, vec![turn]);
        two.network.commands.publish(Topic::Consensus, vec![turn, 1]);
        assert_eq!(one.gossip().await.3, vec![turn, 1]);
    }
    assert_eq!(two.network.stats.reconnecting.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_dial_each_other_at_once_stay_connected() {
    let mut one = start_with(43, &[]).await;
    let address = one.address();
    let mut two = start_with(44, &[&one]).await;
    one.peer_up().await;
    two.peer_up().await;
    one.stop().await;
    two.peer_down().await;
    let config = Config {
        listen: vec![address],
        bootstrap: vec![two.address()],
        ..quick()
    };
    let mut one = start(43, config).await;
    one.peer_up().await;
    two.peer_up().await;
    for node in [&mut one, &mut two] {
        node.listen_for(Duration::from_millis(1_500)).await;
        assert!(node.waiting.is_empty(), "{:?}", node.waiting);
        assert_eq!(
            (node.network.peers.connected(), node.network.stats.reconnecting.get()),
            (1, 0)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_chain_is_sent_away() {
    let one = start_with(46, &[]).await;
    let config = Config {
        bootstrap: vec![one.address()],
        ..quick()
    };
    let mut other = try_start(47, [8; 32], config).await.expect("starts");
    let stats = std::sync::Arc::clone(&one.network.stats);
    let theirs = std::sync::Arc::clone(&other.network.stats);
    eventually("somebody notices", || {
        stats.refused_chain.get() + theirs.refused_chain.get() > 0
    })
    .await;
    other.listen_for(Duration::from_millis(800)).await;
    assert!(other.waiting.is_empty(), "{:?}", other.waiting);
    assert_eq!((one.network.peers.connected(), other.network.peers.connected()), (0, 0));
    assert_eq!(
        one.network.stats.bans.get(),
        0,
        "a mistake in a configuration is no attack"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_takes_effect_and_ends() {
    let mut one = start(
        50,
        Config {
            ban_base_ms: 2_000,
            ..quick()
        },
    )
    .await;
    let mut two = start_with(51, &[&one]).await;
    let (bad, _) = (one.peer_up().await, two.peer_up().await);
    for _ in 0..100 {
        one.network.commands.punish(bad, Fault::Late);
    }
    one.network.commands.punish(bad, Fault::Hostile);
    one.listen_for(Duration::from_millis(100)).await;
    assert!(
        one.waiting.is_empty(),
        "lateness costs nothing and once is forgiven: {:?}",
        one.waiting
    );
    let start = Instant::now();
    one.network.commands.punish(bad, Fault::Hostile);
    assert_eq!(one.peer_down().await, bad);
    two.peer_down().await;
    assert!(one.network.peers.is_banned(&two.network.local, Instant::now()));
    // Two goes on dialing, and is refused, until the ban is over.
    assert_eq!(one.peer_up().await, bad);
    two.peer_up().await;
    assert!(start.elapsed() >= Duration::from_millis(1_900), "{:?}", start.elapsed());
    assert!(one.network.stats.refused_banned.get() > 0);
    assert_eq!(one.network.stats.bans.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_works_like_tcp() {
    let listen = vec![TCP.parse().expect("an address"), QUIC.parse().expect("an address")];
    let mut one = start(54, Config { listen, ..quick() }).await;
    assert_eq!(one.network.listening.len(), 2);
    let quic = one
        .network
        .listening
        .iter()
        .find(|address| address.to_string().contains("quic-v1"));
    let address = quic
        .expect("a QUIC address")
        .clone()
        .with_p2p(one.network.local)
        .expect("no identity in it yet");
    let mut two = start(
        55,
        Config {
            bootstrap: vec![address],
            ..quick()
        },
    )
    .await;
    let to_one = two.peer_up().await;
    let to_two = one.peer_up().await;
    let info = one.network.peers.get(to_two, Instant::now()).expect("known");
    assert!(info.address.expect("connected").to_string().contains("quic-v1"));
    let id = two.network.commands.ask(to_one, payload(3_000_000, 1));
    let (_, ticket, asked) = one.request().await;
    one.network.commands.answer(ticket, asked.to_vec());
    assert!(two.response(id).await.expect("answered") == payload(3_000_000, 1));
    everybody_hears_everybody(&mut [one, two], &[300, 100_000, 5_000_000]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_identity_is_checked_and_the_own_address_left_out() {
    let one = start_with(58, &[]).await;
    let wrong = one
        .address()
        .with_p2p(libp2p::PeerId::random())
        .expect("no identity in it yet");
    let mut two = start(
        59,
        Config {
            bootstrap: vec![wrong],
            ..quick()
        },
    )
    .await;
    let stats = std::sync::Arc::clone(&two.network.stats);
    eventually("the wrong identity is refused", || stats.dial_failures.get() > 1).await;
    two.listen_for(Duration::from_millis(100)).await;
    assert!(two.waiting.is_empty(), "{:?}", two.waiting);
    let address = two.address();
    two.stop().await;
    // Once by an address that turns out to be its own, once by its identity.
    let own = address
        .clone()
        .with_p2p(identity([59; 32]))
        .expect("no identity in it yet");
    let config = Config {
        listen: vec![address.clone()],
        bootstrap: vec![address, own],
        ..quick()
    };
    let two = start(59, config).await;
    let stats = std::sync::Arc::clone(&two.network.stats);
    eventually("nothing is left to dial", || stats.reconnecting.get() == 0).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((stats.dial_failures.get(), two.network.peers.connected()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_says_why() {
    let one = start_with(62, &[]).await;
    let taken = one.address();
    let error = try_start(
        63,
        CHAIN,
        Config {
            listen: vec![taken.clone()],
            ..quick()
        },
    )
    .await
    .err()
    .expect("taken");
    let text = error.to_string();
    assert!(
        matches!(&error, NetworkError::Listen { address, .. } if *address == taken),
        "{error:?}"
    );
    assert!(text.contains("in use"), "{text}");
    let error = try_start(
        63,
        CHAIN,
        Config {
            max_per_peer: 1,
            ..quick()
        },
    )
    .await
    .err()
    .expect("too few");
    assert!(
        matches!(
            &error,
            NetworkError::Config(ConfigError::OutOfRange {
                key: "max_per_peer",
                ..
            })
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_limited_but_bootstrap_peers_get_in() {
    let friend = start_with(66, &[]).await;
    let friends_address = friend.address();
    friend.stop().await;
    let known = friends_address
        .clone()
        .with_p2p(identity([66; 32]))
        .expect("no identity in it yet");
    let mut full = start(
        67,
        Config {
            max_connections: 1,
            bootstrap: vec![known],
            ..quick()
        },
    )
    .await;
    let mut first = start_with(68, &[&full]).await;
    first.peer_up().await;
    full.peer_up().await;
    let mut second = start_with(69, &[&full]).await;
    second.listen_for(Duration::from_millis(700)).await;
    assert!(second.waiting.is_empty(), "{:?}", second.waiting);
    assert!(full.network.stats.refused_limit.get() > 0);
    assert_eq!(full.network.peers.connected(), 1);
    let _friend = start(
        66,
        Config {
            listen: vec![friends_address],
            ..quick()
        },
    )
    .await;
    full.peer_up().await;
    assert_eq!(full.network.peers.connected(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_under_load_takes_less_than_a_second() {
    let mut one = start_with(72, &[]).await;
    let mut two = start_with(73, &[&one]).await;
    let to_one = two.peer_up().await;
    one.peer_up().await;
    for salt in 0..30 {
        two.network.commands.publish(Topic::Consensus, payload(2_000_000, salt));
        two.network.commands.ask(to_one, payload(1_000_000, salt));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let took = two.stop().await;
    println!("stopped in {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    one.peer_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latencies_are_printed() {
    let mut one = start_with(76, &[]).await;
    let mut two = start_with(77, &[&one]).await;
    let (to_two, _) = (one.peer_up().await, two.peer_up().await);
    one.network.commands.publish(Topic::Votes, vec![0]);
    two.gossip().await;
    for size in [250, 16_000, 1_000_000] {
        let mut gossip = Vec::new();
        let mut asked = Vec::new();
        for salt in 0..100_u8 {
            let words = payload(size, salt);
            let start = Instant::now();
            one.network.commands.publish(Topic::Votes, words);
            let (_, id, ..) = two.gossip().await;
            gossip.push(start.elapsed());
            two.network.commands.verdict(id, Verdict::Accept);
            let start = Instant::now();
            let id = one.network.commands.ask(to_two, vec![salt; 200]);
            let (_, ticket, _) = two.request().await;
            two.network.commands.answer(ticket, payload(size, salt));
            one.response(id).await.expect("answered");
            asked.push(start.elapsed());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        for (what, mut times) in [("gossip", gossip), ("request", asked)] {
            times.sort();
            println!(
                "{what}, {size} bytes, idle: p50 {:?}, p99 {:?}, max {:?}",
                times[50], times[98], times[99]
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_is_printed_and_nothing_is_lost_silently() {
    let mut one = start_with(78, &[]).await;
    let mut two = start_with(79, &[&one]).await;
    one.peer_up().await;
    two.peer_up().await;
    let commands = two.network.commands.clone();
    let heard = tokio::spawn(async move {
        let mut heard = std::collections::BTreeSet::new();
        while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(3), two.network.events.recv()).await {
            if let Event::Gossip { id, payload, .. } = event {
                commands.verdict(id, Verdict::Ignore);
                heard.insert(u32::from_be_bytes(
                    payload[..4].try_into().expect("at least four bytes"),
                ));
            }
        }
        (heard, two)
    });
    // Far more than a queue holds, as fast as it goes; then spaced so that the command queue never overflows.
    const COUNT: u32 = 20_000;
    let start = Instant::now();
    for number in 0..COUNT {
        let mut words = number.to_be_bytes().to_vec();
        words.resize(250, 7);
        one.network.commands.publish(Topic::Votes, words);
        if number % 1_000 == 999 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let offered = start.elapsed();
    let (heard, two) = heard.await.expect("no panic");
    let stats = &one.network.stats;
    println!(
        "{COUNT} messages of 250 bytes offered in {offered:?}: {} heard, {} retries, {} given up, {} overflowed, {} lost \
         by a slow peer, {} dropped by the receiver",
        heard.len(),
        stats.publish_retries.get(),
        stats.publish_abandoned.get(),
        stats.publish_overflow.get(),
        stats.slow_peer_losses.get(),
        two.network.stats.gossip_dropped.get(),
    );
    let counted = stats.publish_abandoned.get()
        + stats.publish_overflow.get()
        + stats.slow_peer_losses.get()
        + two.network.stats.gossip_dropped.get();
    assert!(
        heard.len() as u64 + counted >= u64::from(COUNT),
        "some are missing without a trace"
    );
}

// ---- a stranger who can say anything ---------------------------------------------------------------------------

/// Writes bytes as they are; reads until the end.
#[derive(Clone, Default)]
struct Raw;

impl request_response::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        let mut first = vec![0; 16];
        let read = io.read(&mut first).await?;
        first.truncate(read);
        Ok(first)
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        io.read_to_end(&mut all).await?;
        Ok(all)
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&bytes).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&bytes).await
    }
}

#[derive(NetworkBehaviour)]
struct Loose {
    gossip: gossipsub::Behaviour,
    requests: request_response::Behaviour<Raw>,
    identify: identify::Behaviour,
}

struct Stranger {
    swarm: Swarm<Loose>,
    target: libp2p::PeerId,
    responses: HashMap<OutboundRequestId, Vec<u8>>,
    connected: bool,
    heard: usize,
    asked: usize,
}

fn prefix() -> String {
    format!("/timecoin/{}", "07".repeat(8))
}

fn votes() -> gossipsub::IdentTopic {
    gossipsub::IdentTopic::new(format!("{}/votes/1", prefix()))
}

impl Stranger {
    /// Connects to the node and waits until it will hear gossip.
    async fn meet(node: &Node, protocol: String) -> Self {
        let swarm = libp2p::SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .expect("noise")
            .with_behaviour(|key| {
                let config = gossipsub::ConfigBuilder::default()
                    .validation_mode(gossipsub::ValidationMode::Anonymous)
                    .max_transmit_size(20_000_000)
                    .message_id_fn(|message| gossipsub::MessageId::new(&message.data))
                    .build()
                    .expect("valid");
                let mut gossip =
                    gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, config).expect("valid");
                gossip.subscribe(&votes()).expect("allowed");
                let name = StreamProtocol::try_from_owned(format!("{}/request/1", prefix())).expect("a name");
                Loose {
                    gossip,
                    requests: request_response::Behaviour::new([(name, ProtocolSupport::Full)], Default::default()),
                    identify: identify::Behaviour::new(identify::Config::new(protocol, key.public())),
                }
            })
            .expect("behaviour")
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build();
        let mut stranger = Self {
            swarm,
            target: node.network.local,
            responses: HashMap::new(),
            connected: false,
            heard: 0,
            asked: 0,
        };
        stranger.swarm.dial(node.address()).expect("dials");
        stranger
            .run_until("the node subscribes", |stranger| {
                stranger
                    .swarm
                    .behaviour()
                    .gossip
                    .all_peers()
                    .any(|(_, topics)| !topics.is_empty())
            })
            .await;
        stranger
    }

    async fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !done(self) {
            let event = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await;
            self.on_event(event.unwrap_or_else(|_| panic!("never: {what}")));
        }
    }

    async fn run_for(&mut self, time: Duration) {
        let deadline = tokio::time::Instant::now() + time;
        while let Ok(event) = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await {
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: SwarmEvent<LooseEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { .. } => self.connected = true,
            SwarmEvent::ConnectionClosed { .. } => self.connected = false,
            SwarmEvent::Behaviour(LooseEvent::Gossip(gossipsub::Event::Message { .. })) => self.heard += 1,
            SwarmEvent::Behaviour(LooseEvent::Requests(event)) => self.on_request(event),
            _ => {}
        }
    }

    fn on_request(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        use request_response::Message;
        let request_response::Event::Message { message, .. } = event else {
            return;
        };
        match message {
            Message::Response { request_id, response } => {
                self.responses.insert(request_id, response);
            }
            Message::Request { request, channel, .. } => {
                self.asked += 1;
                // Whoever asks with [.., n] gets the n-th kind of bad answer.
                let kind = request.last().copied().unwrap_or(0);
                let _ = self
                    .swarm
                    .behaviour_mut()
                    .requests
                    .send_response(channel, bad_frame(kind));
            }
        }
    }

    fn publish(&mut self, bytes: Vec<u8>) {
        self.swarm
            .behaviour_mut()
            .gossip
            .publish(votes(), bytes)
            .expect("published");
    }

    async fn ask(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        let target = self.target;
        let id = self.swarm.behaviour_mut().requests.send_request(&target, bytes);
        self.run_until("an answer", |stranger| stranger.responses.contains_key(&id))
            .await;
        self.responses.remove(&id).expect("just seen")
    }
}

/// A field of an envelope: number and value.
fn number(field: u8, mut value: u64) -> Vec<u8> {
    let mut bytes = vec![field << 3];
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn envelope(compression: u64, size: u64, payload: &[u8]) -> Vec<u8> {
    let length = number(0, payload.len() as u64);
    let kind = if compression == 0 {
        vec![]
    } else {
        number(1, compression)
    };
    [&kind[..], &number(2, size), &[0x22], &length[1..], payload].concat()
}

fn framed(envelope: &[u8]) -> Vec<u8> {
    [&number(0, envelope.len() as u64)[1..], envelope].concat()
}

/// Ten kilobytes that become ten megabytes and one byte.
fn bomb() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    io::Write::write_all(&mut encoder, &vec![0; MAX_MESSAGE_SIZE + 1]).expect("a Vec takes everything");
    encoder.finish().expect("a Vec takes everything")
}

fn bad_frame(kind: u8) -> Vec<u8> {
    match kind {
        0 => framed(&envelope(2, 10_000_001, &bomb())),
        1 => framed(&envelope(2, 5_000_000, &bomb())),
        2 => framed(b"no envelope at all"),
        _ => number(0, 4_000_000_000)[1..].to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_plays_by_the_rules_is_understood() {
    let mut node = start_with(80, &[]).await;
    let mut stranger = Stranger::meet(&node, format!("{}/1", prefix())).await;
    stranger.publish(envelope(0, 5, b"hello"));
    stranger.run_for(Duration::from_millis(100)).await;
    assert_eq!(node.gossip().await.3, &b"hello"[..]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    io::Write::write_all(&mut encoder, &[b'x'; 300_000]).expect("a Vec takes everything");
    stranger.publish(envelope(2, 300_000, &encoder.finish().expect("a Vec takes everything")));
    stranger.run_for(Duration::from_millis(200)).await;
    assert_eq!(node.gossip().await.3, vec![b'x'; 300_000]);
    let commands = node.network.commands.clone();
    let (answer, ()) = tokio::join!(stranger.ask(framed(&envelope(0, 2, b"hi"))), async {
        let (_, ticket, asked) = node.request().await;
        assert_eq!(asked, &b"hi"[..]);
        commands.answer(ticket, b"you".to_vec());
    });
    assert_eq!(answer, framed(&envelope(0, 3, b"you")));
    assert_eq!(node.network.stats.bans.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_by_gossip_are_refused_priced_and_banned() {
    for (bytes, counter) in [
        (envelope(2, 10_000_001, &bomb()), 0),
        (envelope(2, 5_000_000, &bomb()), 1),
        (envelope(1, 10_000_000, b"\x80\xAD\xE2\x04"), 1),
        (envelope(0, 9, b"four"), 1),
        (b"no envelope".to_vec(), 2),
    ] {
        let mut node = start_with(81, &[]).await;
        let mut stranger = Stranger::meet(&node, format!("{}/1", prefix())).await;
        node.peer_up().await;
        stranger.publish(bytes.clone());
        stranger.run_for(Duration::from_millis(300)).await;
        assert!(stranger.connected, "once is forgiven");
        let counters = || {
            let stats = &node.network.stats;
            [
                &stats.envelopes_too_large,
                &stats.envelopes_damaged,
                &stats.envelopes_malformed,
            ]
            .map(|c| c.get())
        };
        let mut expected = [0, 0, 0];
        expected[counter] = 1;
        assert_eq!(counters(), expected);
        // The same again under another name, for whom duplicates are told by their bytes.
        stranger.publish([&bytes[..], &[0x18, 1]].concat());
        stranger.run_until("thrown out", |stranger| !stranger.connected).await;
        node.peer_down().await;
        assert!(
            node.waiting.is_empty(),
            "nothing of it reached the node: {:?}",
            node.waiting
        );
        assert_eq!(node.network.stats.bans.get(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_gossip_message_is_never_taken_in() {
    let mut node = start_with(84, &[]).await;
    let mut stranger = Stranger::meet(&node, format!("{}/1", prefix())).await;
    node.peer_up().await;
    stranger.publish(envelope(0, 12_000_000, &vec![0; 12_000_000]));
    stranger.run_for(Duration::from_millis(1_000)).await;
    assert_eq!(node.network.stats.gossip_in.of(Topic::Votes).get(), 0);
    node.listen_for(Duration::from_millis(100)).await;
    assert!(!node.has_gossip());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_by_request_are_refused_priced_and_banned() {
    for (kind, refusal) in [(0, 1), (1, 2), (2, 2), (3, 1)] {
        let mut node = start_with(85, &[]).await;
        let mut stranger = Stranger::meet(&node, format!("{}/1", prefix())).await;
        node.peer_up().await;
        assert_eq!(
            stranger.ask(bad_frame(kind)).await,
            framed(&[0x28, refusal]),
            "kind {kind}"
        );
        let target = stranger.target;
        stranger
            .swarm
            .behaviour_mut()
            .requests
            .send_request(&target, bad_frame(kind));
        stranger.run_until("thrown out", |stranger| !stranger.connected).await;
        node.peer_down().await;
        assert!(
            node.waiting.is_empty(),
            "nothing of it reached the node: {:?}",
            node.waiting
        );
        assert_eq!(node.network.stats.bans.get(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_as_answers_are_refused_priced_and_banned() {
    let mut node = start_with(86, &[]).await;
    let mut stranger = Stranger::meet(&node, format!("{}/1", prefix())).await;
    let peer = node.peer_up().await;
    for (kind, expected) in [(0, "PayloadTooLarge"), (3, "EnvelopeTooLarge")] {
        let id = node.network.commands.ask(peer, vec![kind]);
        let before = stranger.asked;
        stranger.run_until("asked", |stranger| stranger.asked > before).await;
        stranger.run_for(Duration::from_millis(100)).await;
        let error = node.response(id).await.expect_err("a bad answer");
        assert!(
            matches!(&error, RequestError::Broken(error) if format!("{error:?}").starts_with(expected)),
            "{error}"
        );
    }
    stranger.run_until("thrown out", |stranger| !stranger.connected).await;
    assert_eq!(node.network.stats.bans.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_never_says_who_it_is_is_closed() {
    let config = Config {
        identify_timeout_ms: 500,
        ..quick()
    };
    let mut node = start(88, config).await;
    let mut swarm = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("noise")
        .with_behaviour(|_| libp2p::swarm::dummy::Behaviour)
        .expect("behaviour")
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build();
    swarm.dial(node.address()).expect("dials");
    let closed = async { while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionClosed { .. }) {} };
    tokio::time::timeout(PATIENCE, closed).await.expect("closed");
    node.listen_for(Duration::from_millis(100)).await;
    assert!(node.waiting.is_empty(), "{:?}", node.waiting);
    assert_eq!((node.network.stats.reaped.get(), node.network.peers.inbound()), (1, 0));
}
