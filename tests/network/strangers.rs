//! Strangers who say wrong things.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use libp2p::swarm::SwarmEvent;
use libp2p::{noise, tcp, yamux};
use timecoin::network::{Config, RequestError, Topic};

use crate::kit::*;
use crate::stranger::*;

/// The stranger is banned, and nothing that it sent reached the node.
async fn expect_thrown_out(stranger: &mut Stranger, node: &mut Node) {
    stranger.run_until("thrown out", |stranger| !stranger.connected).await;
    node.peer_down().await;
    assert!(
        node.waiting.is_empty(),
        "nothing of it reached the node: {:?}",
        node.waiting
    );
    assert_eq!(node.network.stats.bans.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_plays_by_the_rules_is_understood() {
    let mut node = start_with(80, &[]).await;
    let mut stranger = Stranger::meet(&node, format!("{}/1", prefix())).await;
    stranger.publish(envelope(0, 7, &message(2, b"hello")));
    stranger.run_for(Duration::from_millis(100)).await;
    assert_eq!(node.gossip().await.3, &b"hello"[..]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    io::Write::write_all(&mut encoder, &message(2, &[b'x'; 300_000])).expect("a Vec takes everything");
    stranger.publish(envelope(2, 300_004, &encoder.finish().expect("a Vec takes everything")));
    stranger.run_for(Duration::from_millis(200)).await;
    assert_eq!(node.gossip().await.3, vec![b'x'; 300_000]);
    let commands = node.network.commands.clone();
    let (answer, ()) = tokio::join!(stranger.ask(framed(&envelope(0, 4, &message(3, b"hi")))), async {
        let (_, ticket, asked) = node.request().await;
        assert_eq!(asked, &b"hi"[..]);
        commands.answer(ticket, message(3, b"you"));
    });
    assert_eq!(answer, framed(&envelope(0, 5, &message(3, b"you"))));
    assert_eq!(node.network.stats.bans.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_by_gossip_are_refused_priced_and_banned() {
    for (bytes, counter) in [
        (envelope(2, 10_000_001, &bomb()), 0),
        (envelope(2, 300_000, &bomb()), 1),
        (envelope(1, 300_000, b"\xE0\xA7\x12"), 1),
        (envelope(0, 9, b"four"), 1),
        (b"no envelope".to_vec(), 2),
        // More than a batch of votes can have, before it is decompressed; then of another topic, and cut off.
        (envelope(2, 5_000_000, &bomb()), 0),
        (envelope(0, 3, &[0x0A, 1, 0]), 3),
        (envelope(0, 2, &[0x12, 9]), 3),
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
                &stats.contents_refused,
            ]
            .map(|c| c.get())
        };
        let mut expected = [0, 0, 0, 0];
        expected[counter] = 1;
        assert_eq!(counters(), expected);
        // The same again under another name, for whom duplicates are told by their bytes.
        stranger.publish([&bytes[..], &[0x18, 1]].concat());
        expect_thrown_out(&mut stranger, &mut node).await;
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
    for (kind, refusal) in [(0, 1), (1, 2), (2, 2), (3, 1), (4, 1)] {
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
        expect_thrown_out(&mut stranger, &mut node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_as_answers_are_refused_priced_and_banned() {
    let mut node = start_with(86, &[]).await;
    let mut stranger = Stranger::meet(&node, format!("{}/1", prefix())).await;
    let peer = node.peer_up().await;
    for (kind, expected) in [(0, "PayloadTooLarge"), (3, "EnvelopeTooLarge")] {
        let id = node.ask(peer, vec![kind]);
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
