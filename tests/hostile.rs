//! One hostile peer against a node on real sockets: bombs and floods. What they cost is measured: the memory of the
//! process (stranger included), and how long honest messages take meanwhile. One test at a time, in a process of its own.

#[path = "network/kit.rs"]
mod kit;
#[path = "network/stranger.rs"]
mod stranger;

use std::fs;
use std::io::Write;

use kit::*;
use stranger::*;
use timecoin::network::{MAX_MESSAGE_SIZE, Topic};

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The peak of this process's memory since it was made, in bytes.
struct Peak {
    before: u64,
}

impl Peak {
    fn new() -> Self {
        // 5: forget the peak so far.
        fs::write("/proc/self/clear_refs", "5").expect("Linux");
        Self {
            before: status("VmRSS"),
        }
    }

    fn growth(&self) -> u64 {
        status("VmHWM").saturating_sub(self.before)
    }
}

fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find(|line| line.starts_with(key)).expect("a line");
    let kilobytes = line
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse::<u64>().ok());
    kilobytes.expect("a number") * 1_024
}

/// Ten megabytes of gzip that become ten gigabytes of zeros: one piece, flushed so that it ends at a byte and refers to
/// nothing before it, ten thousand times.
fn gzip_bomb() -> Vec<u8> {
    let zeros = vec![0; 1 << 20];
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&zeros).expect("a Vec takes everything");
    encoder.flush().expect("a Vec takes everything");
    let first = encoder.get_ref().len();
    encoder.write_all(&zeros).expect("a Vec takes everything");
    encoder.flush().expect("a Vec takes everything");
    let bytes = encoder.get_ref();
    let piece = bytes[first..].to_vec();
    let mut bomb = bytes[..first].to_vec();
    while bomb.len() + piece.len() < 9_990_000 {
        bomb.extend_from_slice(&piece);
    }
    assert!((bomb.len() - first) / piece.len() * zeros.len() > 9_000_000_000);
    bomb
}

/// Ten megabytes of Snappy: `length` as it says itself, then copies of 64 bytes, each in three.
fn snappy_bomb(length: u64) -> Vec<u8> {
    let mut bomb = number(0, length)[1..].to_vec();
    // One literal byte, then as many copies of it as fit.
    bomb.extend_from_slice(&[0x00, b'x']);
    while bomb.len() < 9_990_000 {
        bomb.extend_from_slice(&[0xFE, 1, 0]);
    }
    bomb
}

/// Sends an envelope by gossip under two names; how much memory the process has grown by at its peak, in MB.
async fn receive_twice(
    node: &Node,
    stranger: &mut Stranger,
    envelope: &[u8],
    mut arrived: impl FnMut(&Node) -> u64,
) -> u64 {
    let peak = Peak::new();
    stranger.publish(envelope.to_vec());
    stranger.run_while(PATIENCE, || arrived(node) == 0).await;
    assert!(stranger.connected, "once is forgiven");
    stranger.publish([envelope, &[0x18, 1]].concat());
    stranger.run_while(PATIENCE, || arrived(node) == 1).await;
    peak.growth() / 1_000_000
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_that_would_become_ten_gigabytes_cost_their_sender_its_score_and_us_no_memory() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let declared = MAX_MESSAGE_SIZE as u64;
    // What an honest message of that size takes, sender included, is what a bomb may take.
    let honest = message(3, &payload(9_990_000, 1));
    let mut node = start_with(1, &[]).await;
    let mut stranger = Stranger::meet_on(&node, Topic::Consensus).await;
    node.peer_up().await;
    let honest = envelope(0, honest.len() as u64, &honest);
    let allowed = receive_twice(&node, &mut stranger, &honest, |node| {
        node.network.stats.gossip_in.of(Topic::Consensus).get()
    });
    let allowed = allowed.await;
    println!(
        "an honest message of {} bytes, twice: peak memory +{allowed} MB",
        honest.len()
    );
    node.stop().await;
    for (name, bomb) in [
        ("gzip", envelope(2, declared, &gzip_bomb())),
        (
            "snappy, honest about 213 MB",
            envelope(1, declared, &snappy_bomb(213_000_000)),
        ),
        (
            "snappy, says 10 GB",
            envelope(1, declared, &snappy_bomb(10_000_000_000)),
        ),
        ("snappy, lies to fit", envelope(1, declared, &snappy_bomb(declared))),
        ("envelope says 4 GB", envelope(2, u64::from(u32::MAX), &gzip_bomb())),
    ] {
        let mut node = start_with(1, &[]).await;
        let mut stranger = Stranger::meet_on(&node, Topic::Consensus).await;
        node.peer_up().await;
        let broken =
            |node: &Node| node.network.stats.envelopes_damaged.get() + node.network.stats.envelopes_too_large.get();
        let growth = receive_twice(&node, &mut stranger, &bomb, broken).await;
        println!("{name}, {} bytes, twice: peak memory +{growth} MB", bomb.len());
        stranger.run_until("thrown out", |stranger| !stranger.connected).await;
        node.peer_down().await;
        assert_eq!((broken(&node), node.network.stats.bans.get()), (2, 1), "{name}");
        assert!(
            node.waiting.is_empty(),
            "nothing of it reached the node: {:?}",
            node.waiting
        );
        // One output of at most the declared size, and what the allocator does not give back at once.
        assert!(growth < allowed + 50, "{name}: {growth} MB");
        node.stop().await;
    }
}
