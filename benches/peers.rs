//! What looking after peers costs: the questions that are asked for every message and every connection, with few and with
//! many identities in the table. Prints figures with their conditions. `cargo bench --bench peers`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};
use timecoin::network::Fault;
use timecoin::network::peers::{BanTerms, PeerTable};
use timecoin::primitives::kinds::Kind;

// The allocator of the node.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ROUNDS: usize = 400_000;

fn main() {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!(
        "{profile} build, {cores} cores; {ROUNDS} of each, peers in random order; ns each, best of five runs,\none thread unless said (four threads: wall-clock time over all calls, once)\n"
    );
    println!(
        "| identities | banned? | connected? | by identity | token in | token out | punish | connect and close | banned?, 4 threads |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for count in [10, 1_000, 60_000] {
        row(count);
    }
}

struct Peers {
    table: Arc<PeerTable>,
    identities: Vec<PeerId>,
    numbers: Vec<timecoin::network::PeerId>,
    address: Multiaddr,
}

fn peers(count: usize) -> Peers {
    let terms = BanTerms {
        base: Duration::from_secs(60),
        max: Duration::from_secs(3_600),
    };
    let now = Instant::now();
    let table = Arc::new(PeerTable::new(terms, now));
    let address: Multiaddr = "/ip4/192.0.2.1/tcp/7310".parse().expect("an address");
    let identities: Vec<_> = (0..count).map(|_| PeerId::random()).collect();
    let numbers = identities.iter().map(|identity| {
        let number = table.on_connected(*identity, false, address.clone(), now);
        table.on_admitted(identity);
        number
    });
    let numbers = numbers.collect();
    Peers {
        table,
        identities,
        numbers,
        address,
    }
}

/// Nanoseconds for each of `ROUNDS` calls, the peers chosen at random; the best of five runs.
fn time<T>(count: usize, mut work: impl FnMut(usize) -> T) -> u128 {
    (0..5).map(|_| time_once(count, &mut work)).min().unwrap_or(0)
}

fn time_once<T>(count: usize, work: &mut impl FnMut(usize) -> T) -> u128 {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % count as u64) as usize
    };
    let start = Instant::now();
    for _ in 0..ROUNDS {
        black_box(work(next()));
    }
    start.elapsed().as_nanos() / ROUNDS as u128
}

fn row(count: usize) {
    let Peers {
        table,
        identities,
        numbers,
        address,
    } = peers(count);
    let now = Instant::now();
    let kind = Kind::all().next().expect("a row");
    let banned = time(count, |at| table.is_banned(&identities[at], now));
    let connected = time(count, |at| table.is_connected(numbers[at]));
    let by_identity = time(count, |at| table.number(&identities[at]));
    let token_in = time(count, |at| table.may_send(numbers[at], kind, Instant::now()));
    let token_out = time(count, |at| table.may_ask(numbers[at], kind, Instant::now()));
    let punish = time(count, |at| table.punish(numbers[at], Fault::Late, now));
    let connect = time(count, |at| {
        table.on_connected(identities[at], true, address.clone(), now);
        table.on_closed(&identities[at], true);
    });
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| time_once(count, &mut |at| table.is_banned(&identities[at], now)));
        }
    });
    let together = start.elapsed().as_nanos() / (4 * ROUNDS) as u128;
    println!(
        "| {count} | {banned} | {connected} | {by_identity} | {token_in} | {token_out} | {punish} | {connect} | {together} |"
    );
}
