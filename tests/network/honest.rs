//! What honest peers do on bad days costs them nothing: slow, late, silent, cut off, restarted again and again, behind,
//! saying everything twice, or all at once after a sleep. (Clocks that are wrong are the simulator's: the network looks
//! at no clock of another.)

use std::time::{Duration, Instant};

use timecoin::network::{Config, Fault, RequestError, Topic, identity};

use crate::kit::*;

/// Neither banned nor with a point against it.
fn assert_in_good_standing(node: &Node, seed: u8) {
    let now = Instant::now();
    let peers = &node.network.peers;
    assert!(!peers.is_banned(&identity([seed; 32]), now));
    let number = peers.number(&identity([seed; 32])).expect("it was here");
    let points = peers.get(number, now).expect("known").points;
    assert!(points == 0.0, "{points} points");
    assert_eq!(node.network.stats.bans.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_answers_late_or_never_is_not_blamed() {
    let config = Config {
        request_timeout_ms: 300,
        ..quick()
    };
    let mut node = start(150, config).await;
    let mut slow = start_with(151, &[&node]).await;
    let peer = node.peer_up().await;
    for turn in 0..10_u8 {
        let id = node.ask(peer, [turn]);
        let (_, ticket, _) = slow.request().await;
        assert_eq!(node.response(id).await, Err(RequestError::Timeout));
        if turn % 2 == 0 {
            slow.answer(ticket, b"late");
        }
    }
    // What the node makes of such a peer: it is late, which is no fault.
    for _ in 0..1_000 {
        node.network.commands.punish(peer, Fault::Late);
    }
    node.listen_for(Duration::from_millis(100)).await;
    assert_in_good_standing(&node, 151);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_restarts_again_and_again_is_taken_back_each_time() {
    let mut node = start_with(152, &[]).await;
    for turn in 0..15_u8 {
        let mut other = start_with(153, &[&node]).await;
        let peer = node.peer_up().await;
        other.peer_up().await;
        // In the middle of everything.
        node.ask(peer, [turn]);
        other.say(Topic::Consensus, payload(500_000, turn));
        other.stop().await;
        node.peer_down().await;
    }
    assert_in_good_standing(&node, 153);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_says_everything_again_or_all_at_once_is_heard() {
    let mut node = start_with(154, &[]).await;
    let mut other = start_with(155, &[&node]).await;
    node.peer_up().await;
    other.peer_up().await;
    // Asleep for an hour, and then everything that had gathered: votes, and where it stands.
    for number in 0..2_000_u32 {
        other.say(Topic::Votes, number.to_be_bytes());
    }
    for number in 0..90_u8 {
        let status = message(7, &[0x08, number]);
        other.network.commands.publish(Topic::Consensus, status);
    }
    for _ in 0..2_090 {
        node.gossip().await;
    }
    for _ in 0..20 {
        other.say(Topic::Votes, b"again");
    }
    node.listen_for(Duration::from_millis(300)).await;
    assert_eq!(node.network.stats.limited_in.sum(), 0);
    assert_in_good_standing(&node, 155);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_to_the_limits_of_others_by_itself() {
    let mut node = start_with(156, &[]).await;
    let mut busy = start_with(157, &[&node]).await;
    node.peer_up().await;
    let peer = busy.peer_up().await;
    // More than anybody takes, as fast as it goes: what is too much stays here, and nothing is refused there.
    let mut given_up = 0;
    for round in 0..30_u32 {
        let ids: Vec<_> = (0..50_u32)
            .map(|at| {
                let question = [round, at].map(u32::to_be_bytes).concat();
                busy.network.commands.ask(peer, message(1, &question))
            })
            .collect();
        for number in 0..10_u32 {
            let status = [round, number].map(u32::to_be_bytes).concat();
            busy.network.commands.publish(Topic::Consensus, message(7, &status));
        }
        for id in ids {
            loop {
                tokio::select! {
                    biased;
                    result = busy.response(id) => {
                        given_up += usize::from(result == Err(RequestError::Overloaded));
                        break;
                    }
                    (_, ticket, _) = node.request() => node.network.commands.answer(ticket, message(1, b"")),
                }
            }
        }
    }
    assert!(given_up > 0);
    assert!(busy.network.stats.limited_out.sum() > 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        node.network.stats.limited_in.sum(),
        0,
        "{:?}",
        node.network.stats.limited_in
    );
    assert_in_good_standing(&node, 157);
}
