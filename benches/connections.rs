//! Holds many connections to one node, opened by several other processes, and says what they cost: the time until all are
//! accepted, the memory of the node for each, and how long messages between two honest nodes take meanwhile.
//!
//! `cargo bench --bench connections -- 1000 10000`; with `gossip` before the numbers, the peers take part in gossip.
//! Every connection has an identity of its own. The dialers are this program again, with other arguments.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, gossipsub, identify, noise, ping, tcp, yamux};
use timecoin::network::{Config, Event, Network, Topic, Verdict, spawn};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

// The allocator of the node: resident memory depends on it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const CHAIN: [u8; 32] = [7; 32];
const DIALERS: usize = 4;
/// Handshakes that one dialer has under way.
const DIALS_AT_ONCE: usize = 16;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    timecoin::node::descriptors::raise(10_000);
    if let Some(["dial", address, count, gossips]) = arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .first_chunk::<4>()
    {
        let (address, count) = (address.parse().expect("an address"), count.parse().expect("a number"));
        return runtime.block_on(dial(address, count, *gossips == "true"));
    }
    let gossips = arguments.iter().any(|argument| argument == "gossip");
    let mut counts: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if counts.is_empty() {
        counts.push(1_000);
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!(
        "{profile} build, {cores} cores shared by the node and {DIALERS} dialing processes; TCP over loopback, Noise, Yamux"
    );
    println!(
        "each peer: an identity of its own, identify and ping{}",
        if gossips { ", gossip on three topics" } else { "" }
    );
    println!("memory: resident, of the process with the node under test and an honest peer\n");
    for count in counts {
        runtime.block_on(hold(count, gossips));
    }
}

// ---- the node ------------------------------------------------------------------------------------------------------

async fn node(seed: u8, bootstrap: Vec<Multiaddr>) -> (Network, CancellationToken) {
    let cancel = CancellationToken::new();
    let config = Config {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
        bootstrap,
        target_peers: 0,
        max_connections: 20_000,
        ..Config::default()
    };
    let network = spawn(config, [seed; 32], CHAIN, vec![], cancel.clone())
        .await
        .expect("starts");
    (network, cancel)
}

async fn hold(count: usize, gossips: bool) {
    let (mut node, cancel) = node(1, vec![]).await;
    let (honest, honest_cancel) = self::node(2, vec![node.listening[0].clone()]).await;
    eventually(|| node.peers.connected() == 1).await;
    println!("quiet: {}", latency(&honest, &mut node).await);
    let before = resident();
    let start = Instant::now();
    let mut dialers: Vec<Child> = (0..DIALERS)
        .map(|number| {
            dialer(
                &node.listening[0],
                count * (number + 1) / DIALERS - count * number / DIALERS,
                gossips,
            )
        })
        .collect();
    let mut shown = Instant::now();
    while node.peers.connected() < count + 1 {
        take(&mut node, Duration::from_millis(20)).await;
        if shown.elapsed() > Duration::from_secs(10) {
            shown = Instant::now();
            eprintln!("{} connected after {:?}", node.peers.connected() - 1, start.elapsed());
        }
    }
    let took = start.elapsed();
    // Two rounds of pings.
    take(&mut node, Duration::from_secs(25)).await;
    assert_eq!(node.peers.connected(), count + 1, "held");
    let after = resident();
    println!(
        "{count} connections: accepted in {:.1} s ({:.0}/s); memory {} MB, {:.1} kB for each connection",
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64(),
        after / 1_000_000,
        (after - before) as f64 / count as f64 / 1_000.0
    );
    println!("held: {}", latency(&honest, &mut node).await);
    for dialer in &mut dialers {
        drop(dialer.stdin.take());
        let _ = dialer.wait();
    }
    let peers = Arc::clone(&node.peers);
    let start = Instant::now();
    while peers.connected() > 1 {
        take(&mut node, Duration::from_millis(20)).await;
    }
    println!(
        "all gone {:?} after they left; memory {} MB\n",
        start.elapsed(),
        resident() / 1_000_000
    );
    cancel.cancel();
    honest_cancel.cancel();
    let _ = tokio::join!(node.task, honest.task);
}

fn dialer(address: &Multiaddr, count: usize, gossips: bool) -> Child {
    let program = std::env::current_exe().expect("this program");
    Command::new(program)
        .args(["dial", &address.to_string(), &count.to_string(), &gossips.to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .expect("starts again")
}

async fn take(node: &mut Network, time: Duration) {
    let deadline = tokio::time::Instant::now() + time;
    while let Ok(Some(_)) = tokio::time::timeout_at(deadline, node.events.recv()).await {}
}

async fn eventually(check: impl Fn() -> bool) {
    while !check() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What 500 messages take from one honest node to the other.
async fn latency(from: &Network, to: &mut Network) -> String {
    let mut took = Vec::new();
    for number in 0..500_u32 {
        // A message of payments with these bytes.
        let content = number.to_be_bytes();
        let said = [&[0x0A, 4][..], &content].concat();
        let begun = Instant::now();
        from.commands.publish(Topic::Transactions, said.clone());
        loop {
            if let Some(Event::Gossip { id, payload, .. }) = to.events.recv().await {
                to.commands.verdict(id, Verdict::Accept);
                if payload == said {
                    took.push(begun.elapsed());
                    break;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    took.sort();
    format!(
        "honest gossip, relayed to all: p50 {:?}, p99 {:?}, max {:?}",
        took[250], took[495], took[499]
    )
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find(|line| line.starts_with("VmRSS")).expect("a line");
    let kilobytes: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("a number");
    kilobytes * 1_024
}

// ---- the dialers ---------------------------------------------------------------------------------------------------

#[derive(NetworkBehaviour)]
struct Light {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    gossip: Toggle<gossipsub::Behaviour>,
}

async fn dial(address: Multiaddr, count: usize, gossips: bool) {
    let places = Arc::new(Semaphore::new(DIALS_AT_ONCE));
    for _ in 0..count {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        tokio::spawn(connection(address.clone(), gossips, place));
    }
    // Until the node's process has had enough.
    let wait = tokio::task::spawn_blocking(|| {
        let _ = BufReader::new(std::io::stdin()).read_line(&mut String::new());
    });
    let _ = wait.await;
    let _ = std::io::stdout().flush();
    std::process::exit(0);
}

/// One identity and its connection; dials again if it is refused. The place is free once it is known at the other end.
async fn connection(address: Multiaddr, gossips: bool, place: tokio::sync::OwnedSemaphorePermit) {
    let chain = hex::encode(&CHAIN[..8]);
    let mut swarm = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .expect("noise")
        .with_behaviour(|key| Light {
            identify: identify::Behaviour::new(identify::Config::new(format!("/timecoin/{chain}/1"), key.public())),
            ping: ping::Behaviour::default(),
            gossip: Toggle::from(gossips.then(|| gossip(&chain))),
        })
        .expect("behaviour")
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(86_400)))
        .build();
    swarm.dial(address.clone()).expect("dials");
    let mut place = Some(place);
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(LightEvent::Identify(identify::Event::Sent { .. })) => drop(place.take()),
            SwarmEvent::OutgoingConnectionError { .. } | SwarmEvent::ConnectionClosed { .. } => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                swarm.dial(address.clone()).expect("dials");
            }
            _ => {}
        }
    }
}

fn gossip(chain: &str) -> gossipsub::Behaviour {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .build()
        .expect("valid");
    let mut gossip = gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, config).expect("valid");
    for topic in Topic::ALL {
        let name = format!("/timecoin/{chain}/{}/1", topic.name());
        gossip.subscribe(&gossipsub::IdentTopic::new(name)).expect("allowed");
    }
    gossip
}
