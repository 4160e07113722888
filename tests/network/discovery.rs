//! Finding peers, and finding them again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use timecoin::network::{Config, Topic, identity};

use crate::kit::*;

/// A node that looks for others by itself.
async fn seeker(seed: u8, bootstrap: Vec<Multiaddr>) -> Node {
    start(seed, seeking(bootstrap)).await
}

fn seeking(bootstrap: Vec<Multiaddr>) -> Config {
    Config {
        bootstrap,
        target_peers: 8,
        discovery_interval_ms: 300,
        ..quick()
    }
}

async fn connected(node: &Node, count: usize) {
    let peers = Arc::clone(&node.network.peers);
    eventually(&format!("node {} has {count} peers", node.seed), || {
        peers.connected() >= count
    })
    .await;
}

/// An address where nobody listens, but somebody will.
async fn free_address(seed: u8) -> Multiaddr {
    let node = start_with(seed, &[]).await;
    let address = node.address();
    node.stop().await;
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_find_one_another_through_one_and_need_it_no_more() {
    let first = seeker(100, vec![]).await;
    let mut others = Vec::new();
    for seed in 101..106 {
        others.push(seeker(seed, vec![first.address()]).await);
    }
    let start = Instant::now();
    for node in &others {
        connected(node, 5).await;
    }
    println!("five nodes that knew one found all others in {:?}", start.elapsed());
    first.stop().await;
    for node in &others {
        let peers = Arc::clone(&node.network.peers);
        eventually("the first is gone", || peers.connected() == 4).await;
    }
    // A newcomer that knows one of them finds the rest.
    let newcomer = seeker(106, vec![others[3].address()]).await;
    connected(&newcomer, 5).await;
    newcomer.say(Topic::Votes, b"hello");
    for node in &mut others {
        assert_eq!(node.gossip().await.3, &b"hello"[..]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_bootstrap_peers_are_all_gone_comes_back_by_known_peers() {
    let bootstrap = seeker(110, vec![]).await;
    let address = bootstrap.address();
    let mut stays = seeker(111, vec![address.clone()]).await;
    let restarts = seeker(112, vec![address.clone()]).await;
    connected(&restarts, 2).await;
    connected(&stays, 2).await;
    let known = Arc::clone(&restarts.network.known);
    eventually("both are written down", || known.load().len() == 2).await;
    restarts.stop().await;
    bootstrap.stop().await;
    let peers = Arc::clone(&stays.network.peers);
    eventually("alone", || peers.connected() == 0).await;

    let config = seeking(vec![address.clone()]);
    let without = start(113, config.clone()).await;
    let start = Instant::now();
    let known = known.load().to_vec();
    let mut restarts = try_start_knowing(112, CHAIN, config, known).await.expect("starts");
    let found = restarts.peer_up().await;
    println!("found again after {:?}", start.elapsed());
    assert_eq!(restarts.network.peers.identity(found), Some(identity([111; 32])));
    restarts.say(Topic::Votes, b"back");
    assert_eq!(stays.gossip().await.3, &b"back"[..]);
    assert_eq!(without.network.peers.connected(), 0, "who knew nobody finds nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_living_bootstrap_peer_is_enough_and_the_others_may_come_later() {
    let late = free_address(121).await;
    let dead = free_address(122).await;
    let alive = start_with(120, &[]).await;
    let node = start(
        123,
        Config {
            bootstrap: vec![dead, late.clone(), alive.address()],
            ..quick()
        },
    )
    .await;
    connected(&node, 1).await;
    // Long enough for the delays to have grown.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let _late = start(
        121,
        Config {
            listen: vec![late],
            ..quick()
        },
    )
    .await;
    connected(&node, 2).await;
    assert_eq!(node.network.stats.reconnecting.get(), 1, "the dead one is still dialed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_of_another_chain_are_let_go_at_once_and_not_remembered() {
    let node = seeker(130, vec![]).await;
    let start = Instant::now();
    let other = try_start(131, [8; 32], seeking(vec![node.address()]))
        .await
        .expect("starts");
    let stats = Arc::clone(&node.network.stats);
    let theirs = Arc::clone(&other.network.stats);
    eventually("told apart", || {
        stats.refused_chain.get() + theirs.refused_chain.get() > 0
    })
    .await;
    let peers = Arc::clone(&node.network.peers);
    eventually("let go", || peers.inbound() == 0).await;
    println!("let go after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // A third of our chain, which hears of nobody from us.
    let third = seeker(132, vec![node.address()]).await;
    connected(&third, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(third.network.peers.connected(), 1);
    assert_eq!(
        (other.network.known.load().len(), other.network.stats.known_peers.get()),
        (0, 0)
    );
    assert_eq!(node.network.known.load().len(), 1);
    assert_eq!((node.network.stats.bans.get(), other.network.stats.bans.get()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validators_are_kept_found_where_they_move_and_let_go() {
    let node = start_with(140, &[]).await;
    let validator = start_with(141, &[]).await;
    let who = validator.network.local;
    node.network.commands.keep(vec![(who, vec![validator.address()])]);
    connected(&node, 1).await;
    validator.stop().await;
    let peers = Arc::clone(&node.network.peers);
    eventually("gone", || peers.connected() == 0).await;
    assert_eq!(node.network.stats.reconnecting.get(), 1);
    let validator = start_with(141, &[]).await;
    node.network.commands.keep(vec![(who, vec![validator.address()])]);
    connected(&node, 1).await;
    // No longer wanted: not cut off, but not looked for either.
    node.network.commands.keep(vec![]);
    validator.stop().await;
    eventually("gone", || peers.connected() == 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(node.network.stats.reconnecting.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_node_lets_its_validators_in() {
    let validator = start_with(145, &[]).await;
    let full = start(
        146,
        Config {
            max_connections: 1,
            ..quick()
        },
    )
    .await;
    let first = start_with(147, &[&full]).await;
    connected(&first, 1).await;
    full.network
        .commands
        .keep(vec![(validator.network.local, vec![validator.address()])]);
    connected(&full, 2).await;
}
