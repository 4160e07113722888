//! Requests and answers.

use std::time::{Duration, Instant};

use timecoin::network::{Config, MAX_MESSAGE_SIZE, PeerId, Refusal, RequestError, Topic};
use timecoin::primitives::DecodeError;

use crate::kit::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_both_ways() {
    let mut one = start_with(30, &[]).await;
    let mut two = start_with(31, &[&one]).await;
    let (to_two, to_one) = (one.peer_up().await, two.peer_up().await);
    for size in [0, 100, 100_000, 5_000_000, MAX_MESSAGE_SIZE - 5] {
        for swap in [false, true] {
            let (asker, answerer, peer) = if swap {
                (&mut two, &mut one, to_one)
            } else {
                (&mut one, &mut two, to_two)
            };
            let question = payload(size.min(32_000), 1);
            let id = asker.ask(peer, &question);
            let (_, ticket, asked) = answerer.request().await;
            assert!(asked == question);
            answerer.answer(ticket, payload(size, 2));
            assert!(asker.response(id).await.expect("answered") == payload(size, 2));
            answerer.answer(ticket, vec![3]);
        }
    }
    // Many at once, answered in the other order.
    let ids: Vec<_> = (0..50_u8).map(|salt| one.ask(to_two, vec![salt])).collect();
    let mut tickets = Vec::new();
    for _ in &ids {
        tickets.push(two.request().await);
    }
    for (_, ticket, asked) in tickets.into_iter().rev() {
        two.answer(ticket, vec![asked[0], 99]);
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
    assert_eq!(
        too_large,
        Err(RequestError::Unsendable(DecodeError::TooLarge {
            what: "request/transactions",
            bytes: MAX_MESSAGE_SIZE + 6,
            max: 32_064
        }))
    );
    assert_eq!(
        one.response_to(PeerId(999), vec![]).await,
        Err(RequestError::UnknownPeer)
    );

    let id = one.ask(to_two, vec![1]);
    let (_, ticket, _) = two.request().await;
    two.answer(ticket, vec![0; MAX_MESSAGE_SIZE + 1]);
    assert_eq!(
        one.response(id).await,
        Err(RequestError::Refused(Refusal::AnswerTooLarge))
    );

    let start = Instant::now();
    let id = one.ask(to_two, vec![2]);
    let (_, ticket, _) = two.request().await;
    assert_eq!(one.response(id).await, Err(RequestError::Timeout));
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert_eq!(one.network.stats.request_timeouts.get(), 1);
    let stats = std::sync::Arc::clone(&two.network.stats);
    eventually("the ticket expires", || stats.requests_unanswered.get() == 1).await;
    // The late answer goes nowhere, and the place it took is free.
    two.answer(ticket, vec![2]);

    let ids: Vec<_> = (0..6).map(|_| one.ask(to_two, vec![3])).collect();
    assert_eq!(one.response(ids[4]).await, Err(RequestError::Overloaded));
    assert_eq!(one.response(ids[5]).await, Err(RequestError::Overloaded));
    for _ in 0..4 {
        let (_, ticket, _) = two.request().await;
        two.answer(ticket, vec![3]);
    }
    for id in &ids[..4] {
        assert_eq!(one.response(*id).await.expect("answered"), vec![3]);
    }

    // This time the answerer gives up first.
    let id = two.ask(to_one, vec![6]);
    one.request().await;
    assert_eq!(two.response(id).await, Err(RequestError::Unanswered));

    let id = two.ask(to_one, vec![4]);
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
    let id = two.ask(to_one, vec![1]);
    one.request().await;
    two.cancel.cancel();
    assert_eq!(two.response(id).await, Err(RequestError::Stopping));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_under_load_takes_less_than_a_second() {
    let mut one = start_with(72, &[]).await;
    let mut two = start_with(73, &[&one]).await;
    let to_one = two.peer_up().await;
    one.peer_up().await;
    for salt in 0..30 {
        two.say(Topic::Consensus, payload(2_000_000, salt));
        two.ask(to_one, payload(30_000, salt));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let took = two.stop().await;
    println!("stopped in {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    one.peer_down().await;
}
