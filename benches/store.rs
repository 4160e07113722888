//! What the store costs: blocks of payments applied and flushed, and the safety log's syncs. Prints figures with their
//! conditions. `cargo bench --bench store`; `-- sled` adds sled's own batches for comparison.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use timecoin::store::backend::{Backend, Op, Table};
use timecoin::store::safety_log::SafetyLog;
use timecoin::store::sled_backend::{SledBackend, SledOptions};

// The allocator of the node: resident memory depends on it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BUCKETS: u32 = 1024;
const COINS_BEFORE: usize = 200_000;

fn main() {
    let with_sled = std::env::args().any(|argument| argument == "sled");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!(
        "{profile} build, {cores} cores, files under {}",
        std::env::temp_dir().display()
    );
    println!("{COINS_BEFORE} coins before; a payment removes 1 coin and adds 2, each with its entry by lock, adds 1");
    println!("transaction and 250 B of block; a block writes {BUCKETS} buckets of 2,048 B; every block is flushed\n");
    safety_log();
    for payments in [1_000, 10_000] {
        for (name, spend) in [
            ("old coins spent", Spend::Old),
            ("last block's coins spent", Spend::Last),
        ] {
            blocks(name, payments, 40_000 / payments + 20, spend, with_sled);
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Spend {
    /// Any coin: most have been in the tree for long.
    Old,
    /// What the block before made, as a load generator or a busy shop does.
    Last,
}

/// Makes blocks of payments out of random bytes.
struct Payments {
    random: ChaCha8Rng,
    coins: Vec<[u8; 36]>,
    fresh: Vec<[u8; 36]>,
    height: u64,
}

impl Payments {
    fn coin(outpoint: [u8; 36], add: bool, ops: &mut Vec<Op>) {
        let by_lock = [&outpoint[4..36], &outpoint].concat();
        for (table, key, value) in [
            (Table::Coins, outpoint.to_vec(), vec![7; 60]),
            (Table::CoinsByLock, by_lock, vec![]),
        ] {
            ops.push(if add {
                Op::Put { table, key, value }
            } else {
                Op::Delete { table, key }
            });
        }
    }

    fn genesis() -> (Payments, Vec<Op>) {
        let mut payments = Payments {
            random: ChaCha8Rng::seed_from_u64(1),
            coins: vec![],
            fresh: vec![],
            height: 0,
        };
        let mut ops = Vec::new();
        for _ in 0..COINS_BEFORE {
            let outpoint = payments.random.random();
            Self::coin(outpoint, true, &mut ops);
            payments.coins.push(outpoint);
        }
        (payments, ops)
    }

    fn block(&mut self, count: usize, spend: Spend) -> Vec<Op> {
        let mut ops = Vec::with_capacity(count * 7 + BUCKETS as usize + 2);
        let mut spendable = std::mem::take(&mut self.fresh);
        for _ in 0..count {
            let from = if spend == Spend::Last && !spendable.is_empty() {
                &mut spendable
            } else {
                &mut self.coins
            };
            let spent = from.swap_remove(self.random.random_range(0..from.len()));
            Self::coin(spent, false, &mut ops);
            let mut outpoint: [u8; 36] = self.random.random();
            ops.push(Op::Put {
                table: Table::Transactions,
                key: outpoint[..32].to_vec(),
                value: vec![1; 12],
            });
            for index in 0..2 {
                outpoint[35] = index;
                Self::coin(outpoint, true, &mut ops);
                self.fresh.push(outpoint);
            }
        }
        self.coins.append(&mut spendable);
        self.height += 1;
        let key = self.height.to_be_bytes().to_vec();
        let body: Vec<u8> = (0..250 * count).map(|_| self.random.random()).collect();
        ops.push(Op::Put {
            table: Table::Blocks,
            key,
            value: body,
        });
        ops.push(Op::Put {
            table: Table::Meta,
            key: b"tip".to_vec(),
            value: self.height.to_be_bytes().to_vec(),
        });
        for bucket in 0..BUCKETS {
            let value = (0..2048).map(|_| self.random.random()).collect();
            ops.push(Op::Put {
                table: Table::Buckets,
                key: bucket.to_be_bytes().to_vec(),
                value,
            });
        }
        ops
    }
}

fn blocks(name: &str, payments: usize, blocks: usize, spend: Spend, with_sled: bool) {
    println!("blocks of {payments} payments, {name}, {blocks} blocks:");
    if with_sled {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let direct = Direct::open(dir.path());
        run(payments, blocks, spend, &mut |ops| direct.apply(ops), &mut || {
            direct.db.flush().map(drop).expect("flush")
        });
        println!(
            "  sled alone: {} MB on disk",
            direct.db.size_on_disk().unwrap_or(0) >> 20
        );
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = SledBackend::open(dir.path(), SledOptions::default()).expect("a store");
    let cpu = cpu_time();
    run(
        payments,
        blocks,
        spend,
        &mut |ops| store.apply(ops).expect("apply"),
        &mut || store.flush().expect("flush"),
    );
    let started = Instant::now();
    store.settle().expect("settle");
    let (settled, size) = (started.elapsed(), store.size().expect("size"));
    let cpu = (cpu_time() - cpu).as_secs_f64() * 1e6 / (payments * blocks) as f64;
    println!(
        "  {:.0} ms to settle; {} MB on disk, {} keys",
        ms(settled),
        size.disk_bytes >> 20,
        size.keys
    );
    println!("  {cpu:.0} us of processor time a payment, making the payments included");
    let (mut random, mut times) = (ChaCha8Rng::seed_from_u64(2), Vec::new());
    let coins = store.scan(Table::Coins, &[], 20_000).expect("scan");
    for _ in 0..20_000 {
        let key = &coins[random.random_range(0..coins.len())].0;
        let started = Instant::now();
        assert!(store.get(Table::Coins, key).expect("get").is_some());
        times.push(started.elapsed());
    }
    println!("  get {}", quantiles_us(times));
    drop(store);
    let started = Instant::now();
    drop(SledBackend::open(dir.path(), SledOptions::default()).expect("a store"));
    println!("  {:.0} ms to open and close again\n", ms(started.elapsed()));
}

/// Applies and flushes blocks as fast as they come and says how long each took.
fn run(payments: usize, blocks: usize, spend: Spend, apply: &mut dyn FnMut(Vec<Op>), flush: &mut dyn FnMut()) {
    let (mut source, genesis) = Payments::genesis();
    apply(genesis);
    flush();
    let (mut applied, mut flushed, mut highest) = (Vec::new(), Vec::new(), 0);
    for _ in 0..blocks {
        let ops = source.block(payments, spend);
        let started = Instant::now();
        apply(ops);
        let between = Instant::now();
        flush();
        applied.push(between - started);
        flushed.push(between.elapsed());
        highest = highest.max(resident_mb());
        // A second between blocks, less what the making of the payments takes, is what the thread has in a node.
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("  apply {}", quantiles_ms(applied));
    println!(
        "  flush {}; {highest} MB resident at most, {} MB now",
        quantiles_ms(flushed),
        resident_mb()
    );
}

/// sled's own way: one batch, and turns of its collector after it.
struct Direct {
    db: sled::Db,
}

impl Direct {
    fn open(dir: &Path) -> Direct {
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(64 << 20)
            .flush_every_ms(Some(2_000));
        Direct {
            db: config.open().expect("sled"),
        }
    }

    fn apply(&self, ops: Vec<Op>) {
        let mut batch = sled::Batch::default();
        let count = ops.len();
        for op in ops {
            let (table, key, value) = op.parts();
            let key = [table.name().as_bytes(), key].concat();
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).expect("apply");
        for _ in 0..count / 16 {
            crossbeam_epoch::pin().flush();
        }
    }
}

fn safety_log() {
    for (records, bytes) in [(1, 250), (20, 250), (500, 250)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("safety.log");
        SafetyLog::create(&path, [1; 32], [2; 32]).expect("a log");
        let (mut log, ..) = SafetyLog::open(&path, [1; 32], [2; 32]).expect("a log");
        let group = vec![vec![9; bytes]; records];
        let mut times = Vec::new();
        for _ in 0..3_000 {
            let started = Instant::now();
            log.append(&group).expect("append");
            log.sync().expect("sync");
            times.push(started.elapsed());
        }
        println!(
            "safety log, {records} records of {bytes} B appended and synced: {}",
            quantiles_us(times)
        );
        let started = Instant::now();
        log.rewrite(&vec![vec![9; bytes]; 10_000]).expect("rewrite");
        println!(
            "safety log, rewritten with 10,000 records of {bytes} B: {:.1} ms",
            ms(started.elapsed())
        );
    }
    println!();
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn quantiles_ms(times: Vec<Duration>) -> String {
    quantiles(times, 1e3, "ms")
}

fn quantiles_us(times: Vec<Duration>) -> String {
    quantiles(times, 1e6, "us")
}

fn quantiles(mut times: Vec<Duration>, unit: f64, name: &str) -> String {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * unit;
    format!("p50 {:.1} p99 {:.1} max {:.1} {name}", at(0.5), at(0.99), at(1.0))
}

/// The process's resident memory (Linux; 0 elsewhere).
fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next())
        .and_then(|kb| kb.parse::<u64>().ok())
        .unwrap_or(0)
        >> 10
}

/// Processor time of all threads so far, in steps of 10 ms (Linux; 0 elsewhere).
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat
        .split_whitespace()
        .skip(13)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}
