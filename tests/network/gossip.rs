//! Gossip: everybody hears, after the verdict, in every size.

use std::time::{Duration, Instant};

use timecoin::network::{Event, MAX_MESSAGE_SIZE, Topic, Verdict};
use timecoin::primitives::kinds::{self, Channel};

use crate::kit::*;

/// Every node publishes on every topic in every size, and all others get it.
pub async fn everybody_hears_everybody(nodes: &mut [Node], sizes: &[usize]) {
    for (turn, &size) in sizes.iter().enumerate() {
        for topic in Topic::ALL {
            let size = size.min(kinds::max_bytes(Channel::Gossip(topic)) - 8);
            for speaker in 0..nodes.len() {
                let said = payload(size, (turn * 100 + speaker * 10) as u8 + topic as u8);
                nodes[speaker].say(topic, said.clone());
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
        speaker.say(Topic::Votes, vec![u8::from(from_three)]);
        let (_, id, ..) = two.gossip().await;
        two.network.commands.verdict(id, Verdict::Accept);
        listener.gossip().await;
    }
    [one, two, three]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_words_are_heard_on_every_topic_and_again_when_said_again() {
    let mut one = start_with(5, &[]).await;
    let mut two = start_with(6, &[&one]).await;
    one.peer_up().await;
    two.peer_up().await;
    for topic in Topic::ALL {
        one.say(topic, vec![1, 2, 3]);
        assert_eq!(two.gossip().await.2, topic);
    }
    // More often than there are names to begin with: whoever says it again has a reason, and is heard.
    for _ in 0..20 {
        one.say(Topic::Votes, vec![1, 2, 3]);
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
        one.say(Topic::Votes, words.clone());
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_relayed_after_its_verdict_and_only_then() {
    let [one, mut two, mut three] = line(20).await;
    for size in [100, 100_000, 5_000_000] {
        one.say(Topic::Consensus, payload(size, 1));
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
            speaker.say(Topic::Transactions, payload(size, salt));
            let (_, id, ..) = two.gossip().await;
            two.network.commands.verdict(id, verdict);
            listener.listen_for(Duration::from_millis(1_500)).await;
            assert!(!listener.has_gossip(), "{verdict:?}, and relayed");
        }
    }
    assert_eq!(two.network.stats.bans.get(), 0, "a verdict is not a punishment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_everybody_hears_from_its_author_is_not_relayed_and_a_newcomer_changes_that() {
    let one = start_with(30, &[]).await;
    let two = start_with(31, &[&one]).await;
    let three = start_with(32, &[&one, &two]).await;
    let mut nodes = [one, two, three];
    for node in &mut nodes {
        node.peer_up().await;
        node.peer_up().await;
    }
    let spared = |nodes: &[Node; 3]| nodes.each_ref().map(|node| node.network.stats.relays_spared.get());
    assert_eq!(spared(&nodes), [0; 3], "nobody has told anything");
    let mut turn = 0;
    while spared(&nodes).contains(&0) {
        assert!(turn < 50, "{:?}", spared(&nodes));
        everybody_hears_everybody(&mut nodes, &[100 + turn]).await;
        turn += 1;
    }
    // From here on nothing is relayed between these three.
    let before = spared(&nodes);
    everybody_hears_everybody(&mut nodes, &[100_000]).await;
    let (words, listeners) = (Topic::ALL.len() as u64 * 2, nodes.len());
    assert_eq!(
        spared(&nodes),
        std::array::from_fn::<_, 3, _>(|at| before[at] + words),
        "{listeners}"
    );

    // Only two hears the newcomer, and the newcomer hears only two.
    let mut newcomer = start_with(33, &[&nodes[1]]).await;
    newcomer.peer_up().await;
    nodes[1].peer_up().await;
    nodes[0].say(Topic::Votes, payload(300, 1));
    let (_, id, ..) = nodes[1].gossip().await;
    nodes[1].network.commands.verdict(id, Verdict::Accept);
    newcomer.gossip().await;
    newcomer.say(Topic::Votes, payload(300, 2));
    let (_, id, ..) = nodes[1].gossip().await;
    nodes[1].network.commands.verdict(id, Verdict::Accept);
    nodes[2].gossip().await; // what one said
    nodes[2].gossip().await;
    nodes[0].gossip().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latencies_are_printed() {
    let mut one = start_with(76, &[]).await;
    let mut two = start_with(77, &[&one]).await;
    let (to_two, _) = (one.peer_up().await, two.peer_up().await);
    one.say(Topic::Transactions, vec![0]);
    two.gossip().await;
    for size in [250, 16_000, 1_000_000] {
        let mut gossip = Vec::new();
        let mut asked = Vec::new();
        for salt in 0..100_u8 {
            let words = payload(size, salt);
            let start = Instant::now();
            one.say(Topic::Transactions, words);
            let (_, id, ..) = two.gossip().await;
            gossip.push(start.elapsed());
            two.network.commands.verdict(id, Verdict::Accept);
            let start = Instant::now();
            let id = one.ask(to_two, vec![salt; 200]);
            let (_, ticket, _) = two.request().await;
            two.answer(ticket, payload(size, salt));
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
                    payload[3..7].try_into().expect("at least four bytes"),
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
        one.say(Topic::Votes, words);
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
