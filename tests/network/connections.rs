//! Who connects to whom: restarts, bans, limits, other chains.

use std::time::{Duration, Instant};

use timecoin::network::{Config, ConfigError, Fault, NetworkError, Topic, identity};

use crate::gossip::everybody_hears_everybody;
use crate::kit::*;

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
        one.say(Topic::Consensus, vec![turn]);
        assert_eq!(two.gossip().await.3, vec![turn]);
        two.say(Topic::Consensus, vec![turn, 1]);
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
    let id = two.ask(to_one, payload(30_000, 1));
    let (_, ticket, asked) = one.request().await;
    assert!(asked == payload(30_000, 1));
    one.answer(ticket, payload(3_000_000, 1));
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
async fn a_connection_that_has_gone_dead_is_let_go_at_both_ends_and_made_anew() {
    let often = Config {
        ping_interval_ms: 400,
        ..quick()
    };
    for full in [false, true] {
        let mut one = start(90, often.clone()).await;
        let wire = Wire::to(&one).await;
        let config = Config {
            bootstrap: vec![wire.address.clone()],
            ..often.clone()
        };
        let mut two = start(91, config).await;
        one.peer_up().await;
        two.peer_up().await;
        wire.cut(true);
        let begun = Instant::now();
        if full {
            // More than fits into any buffer on the way, so that not even a goodbye can leave.
            for salt in 0..10 {
                one.say(Topic::Consensus, payload(5_000_000, salt));
                two.say(Topic::Consensus, payload(5_000_000, salt));
            }
        }
        one.peer_down().await;
        two.peer_down().await;
        println!("let go after {:?}, buffers full: {full}", begun.elapsed());
        assert!(one.network.stats.reaped.get() + two.network.stats.reaped.get() > 0);
        assert_eq!(
            (one.network.peers.inbound(), two.network.stats.reconnecting.get()),
            (0, 1)
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
        wire.cut(false);
        let begun = Instant::now();
        one.peer_up().await;
        two.peer_up().await;
        println!("connected again {:?} after the wire", begun.elapsed());
        assert_eq!((one.network.stats.bans.get(), two.network.stats.bans.get()), (0, 0));
        one.stop().await;
        two.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_banned_is_gone_even_if_it_does_not_read() {
    let mut one = start_with(92, &[]).await;
    let wire = Wire::to(&one).await;
    let config = Config {
        bootstrap: vec![wire.address.clone()],
        ..quick()
    };
    let mut two = start(93, config).await;
    let bad = one.peer_up().await;
    let to_one = two.peer_up().await;
    // As many large answers as may be under way: more than fits into the buffers of the wire.
    for number in 0..60_u8 {
        two.ask(to_one, [number]);
    }
    let mut tickets = Vec::new();
    for _ in 0..60 {
        tickets.push(one.request().await.1);
    }
    wire.cut(true);
    for ticket in tickets {
        one.answer(ticket, payload(9_000_000, 1));
    }
    one.listen_for(Duration::from_secs(2)).await;
    let begun = Instant::now();
    one.network.commands.punish(bad, Fault::Hostile);
    one.network.commands.punish(bad, Fault::Hostile);
    one.peer_down().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(one.network.peers.inbound(), 0);
}
