//! The store and the safety log from outside: one suite for both backends, and real processes that are killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use timecoin::store::backend::{Backend, MAX_KEY_BYTES, MAX_VALUE_BYTES, Op, StoreError, Table};
use timecoin::store::memory::MemoryBackend;
use timecoin::store::safety_log::{SafetyLog, SafetyLogError};
use timecoin::store::sled_backend::{SledBackend, SledOptions};

/// Small enough that a few batches fill a generation, so that every layer is in play.
const SMALL: SledOptions = SledOptions {
    cache_bytes: 1 << 20,
    generation_bytes: 4_000,
};

fn put(table: Table, key: &[u8], value: &[u8]) -> Op {
    Op::Put {
        table,
        key: key.to_vec(),
        value: value.to_vec(),
    }
}

fn delete(table: Table, key: &[u8]) -> Op {
    Op::Delete {
        table,
        key: key.to_vec(),
    }
}

fn sled(dir: &Path) -> SledBackend {
    SledBackend::open(dir, SMALL).expect("the store opens")
}

// ---- the conformance suite --------------------------------------------------------------------------------------

/// What every backend must do. `settle` moves what is gathered in memory to its last place, where there is such a thing.
fn conforms(store: &dyn Backend, settle: &dyn Fn()) {
    empty_store_has_nothing(store);
    tables_are_apart_and_in_order(store, settle);
    later_operations_hold(store);
    large_and_empty_values_come_back(store, settle);
    limits_refuse_the_whole_batch(store);
}

fn empty_store_has_nothing(store: &dyn Backend) {
    for table in Table::ALL {
        assert_eq!(store.get(table, b"k").unwrap(), None);
        assert_eq!(store.scan(table, &[], 10).unwrap(), []);
    }
    store.apply(vec![]).unwrap();
    store.apply(vec![delete(Table::Coins, b"never there")]).unwrap();
    store.flush().unwrap();
}

fn tables_are_apart_and_in_order(store: &dyn Backend, settle: &dyn Fn()) {
    let keys: [&[u8]; 7] = [b"", b"\0", b"a", b"a\0", b"ab", b"b", b"\xff\xff"];
    let batch = |table: Table| keys.iter().map(move |key| put(table, key, table.name().as_bytes()));
    store.apply(Table::ALL.into_iter().flat_map(batch).collect()).unwrap();
    settle();
    store
        .apply(vec![delete(Table::Blocks, b"a"), put(Table::Blocks, b"aa", b"new")])
        .unwrap();
    for table in Table::ALL {
        let found: Vec<Vec<u8>> = store
            .scan(table, &[], 99)
            .unwrap()
            .into_iter()
            .map(|entry| entry.0)
            .collect();
        let mut expected: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
        if table == Table::Blocks {
            expected[2] = b"a\0".to_vec();
            expected[3] = b"aa".to_vec();
        }
        assert_eq!(found, expected, "{table}");
        assert_eq!(store.get(table, b"ab").unwrap(), Some(table.name().as_bytes().to_vec()));
    }
    let from = |from: &[u8], limit| -> Vec<Vec<u8>> {
        store
            .scan(Table::Coins, from, limit)
            .unwrap()
            .into_iter()
            .map(|entry| entry.0)
            .collect()
    };
    assert_eq!(from(b"ab", 2), [b"ab".to_vec(), b"b".to_vec()], "from is included");
    assert_eq!(from(b"ac", 1), [b"b".to_vec()]);
    assert_eq!(from(b"\xff\xff\xff", 1), Vec::<Vec<u8>>::new());
    assert_eq!(from(b"", 0), Vec::<Vec<u8>>::new());
    settle();
    assert_eq!(store.size().unwrap().keys, 9 * 7);
}

fn later_operations_hold(store: &dyn Backend) {
    let (table, key) = (Table::Meta, b"twice");
    store.apply(vec![put(table, key, b"1"), put(table, key, b"2")]).unwrap();
    assert_eq!(store.get(table, key).unwrap(), Some(b"2".to_vec()));
    store.apply(vec![put(table, key, b"3"), delete(table, key)]).unwrap();
    assert_eq!(store.get(table, key).unwrap(), None);
    store.apply(vec![delete(table, key), put(table, key, b"4")]).unwrap();
    assert_eq!(store.get(table, key).unwrap(), Some(b"4".to_vec()));
}

fn large_and_empty_values_come_back(store: &dyn Backend, settle: &dyn Fn()) {
    let value = |bytes: usize| -> Vec<u8> { (0..bytes).map(|at| (at * 31 + bytes) as u8).collect() };
    let mut expected = BTreeMap::new();
    for (number, bytes) in [0, 1, 7_167, 7_168, 7_169, 14_336, 200_000, 3_000_000]
        .into_iter()
        .enumerate()
    {
        expected.insert(vec![b'L', number as u8], value(bytes));
    }
    let check = |expected: &BTreeMap<Vec<u8>, Vec<u8>>| {
        for _ in 0..2 {
            for (key, value) in expected {
                assert!(
                    store.get(Table::Receipts, key).unwrap().as_ref() == Some(value),
                    "{} bytes",
                    value.len()
                );
            }
            let found: BTreeMap<_, _> = store.scan(Table::Receipts, b"L", 8).unwrap().into_iter().collect();
            assert!(found == *expected);
            settle();
        }
    };
    store
        .apply(
            expected
                .iter()
                .map(|(key, value)| put(Table::Receipts, key, value))
                .collect(),
        )
        .unwrap();
    check(&expected);
    // Each large value becomes a small one and the other way round.
    let lengths: Vec<usize> = expected.values().map(Vec::len).rev().collect();
    for (slot, bytes) in expected.values_mut().zip(lengths) {
        *slot = value(bytes);
    }
    store
        .apply(
            expected
                .iter()
                .map(|(key, value)| put(Table::Receipts, key, value))
                .collect(),
        )
        .unwrap();
    check(&expected);
    store
        .apply(expected.keys().map(|key| delete(Table::Receipts, key)).collect())
        .unwrap();
    settle();
    for key in expected.keys() {
        assert_eq!(store.get(Table::Receipts, key).unwrap(), None);
    }
}

fn limits_refuse_the_whole_batch(store: &dyn Backend) {
    let (good, long) = (put(Table::Meta, b"good", b"1"), vec![1; MAX_KEY_BYTES + 1]);
    let error = store
        .apply(vec![good.clone(), put(Table::Coins, &long, b"")])
        .unwrap_err();
    assert!(matches!(error, StoreError::KeyTooLong { table: Table::Coins, bytes } if bytes == MAX_KEY_BYTES + 1));
    let error = store
        .apply(vec![
            good.clone(),
            put(Table::Blocks, b"k", &vec![0; MAX_VALUE_BYTES + 1]),
        ])
        .unwrap_err();
    assert!(matches!(
        error,
        StoreError::ValueTooLarge {
            table: Table::Blocks,
            ..
        }
    ));
    assert_eq!(store.get(Table::Meta, b"good").unwrap(), None);
    store
        .apply(vec![put(Table::Meta, &long[1..], b"longest"), good])
        .unwrap();
    assert_eq!(store.get(Table::Meta, &long[1..]).unwrap(), Some(b"longest".to_vec()));
}

#[test]
fn the_memory_backend_conforms() {
    conforms(&MemoryBackend::new(), &|| ());
}

#[test]
fn the_sled_backend_conforms_from_memory_and_from_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let store = sled(dir.path());
    conforms(&store, &|| store.settle().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let large = SledOptions {
        generation_bytes: 1 << 30,
        ..SMALL
    };
    let store = SledBackend::open(dir.path(), large).unwrap();
    conforms(&store, &|| store.settle().unwrap());
}

// ---- against a model --------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Op>),
    Scan(Table, Vec<u8>, usize),
    Flush,
    Settle,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let table = prop::sample::select(vec![Table::Meta, Table::Coins, Table::Blocks]);
    let key = prop::collection::vec(0u8..3, 0..4);
    let length = prop_oneof![8 => 0usize..60, 1 => 7_000usize..40_000];
    let op = (table.clone(), key.clone(), prop::option::of((length, any::<u8>())));
    let op = op.prop_map(|(table, key, value)| match value {
        Some((length, byte)) => Op::Put {
            table,
            key,
            value: vec![byte; length],
        },
        None => Op::Delete { table, key },
    });
    let step = prop_oneof![
        8 => prop::collection::vec(op, 0..20).prop_map(Step::Apply),
        4 => (table, key, 0usize..12).prop_map(|(table, key, limit)| Step::Scan(table, key, limit)),
        1 => Just(Step::Flush),
        1 => Just(Step::Settle),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

fn contents(store: &dyn Backend) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let table = |table| {
        store
            .scan(table, &[], 10_000)
            .unwrap()
            .into_iter()
            .map(move |(key, value)| (table, key, value))
    };
    Table::ALL.into_iter().flat_map(table).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn both_backends_always_say_the_same(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, model) = (sled(dir.path()), MemoryBackend::new());
        for step in steps {
            match step {
                Step::Apply(batch) => {
                    store.apply(batch.clone()).unwrap();
                    model.apply(batch).unwrap();
                }
                Step::Scan(table, from, limit) => {
                    prop_assert_eq!(store.scan(table, &from, limit).unwrap(), model.scan(table, &from, limit).unwrap());
                    prop_assert_eq!(store.get(table, &from).unwrap(), model.get(table, &from).unwrap());
                }
                Step::Flush => store.flush().unwrap(),
                Step::Settle => store.settle().unwrap(),
                Step::Reopen => {
                    drop(store);
                    store = sled(dir.path());
                }
            }
        }
        prop_assert_eq!(contents(&store), contents(&model));
        store.settle().unwrap();
        prop_assert_eq!(contents(&store), contents(&model));
        prop_assert_eq!(store.size().unwrap().keys, model.size().unwrap().keys);
    }
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all_by_readers_on_other_threads() {
    let dir = tempfile::tempdir().unwrap();
    let store = sled(dir.path());
    let batch = |value: u32| {
        (0..50u8)
            .map(|key| put(Table::Coins, &[key], &value.to_be_bytes()))
            .collect()
    };
    store.apply(batch(0)).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (1..400).for_each(|value| store.apply(batch(value)).unwrap()));
        let mut last = 0;
        while !writer.is_finished() {
            let entries = store.scan(Table::Coins, &[], 100).unwrap();
            let values: Vec<u32> = entries
                .iter()
                .map(|(_, value)| u32::from_be_bytes(value[..].try_into().unwrap()))
                .collect();
            assert_eq!(values.len(), 50);
            assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
            assert!(values[0] >= last, "an older state came back");
            last = values[0];
        }
    });
    assert_eq!(
        store.get(Table::Coins, &[7]).unwrap(),
        Some(399u32.to_be_bytes().to_vec())
    );
}

// ---- files that are not as they should be -----------------------------------------------------------------------

#[test]
fn a_store_without_its_tree_or_its_journals_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledBackend::open(dir.path(), SledOptions::default()).unwrap();
    store.apply(vec![put(Table::Meta, b"tip", b"1")]).unwrap();
    drop(store);
    std::fs::rename(dir.path().join("tree"), dir.path().join("gone")).unwrap();
    let error = SledBackend::open(dir.path(), SMALL).err().unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    std::fs::remove_dir_all(dir.path().join("tree")).unwrap();
    std::fs::rename(dir.path().join("gone"), dir.path().join("tree")).unwrap();
    assert_eq!(sled(dir.path()).get(Table::Meta, b"tip").unwrap(), Some(b"1".to_vec()));
}

#[test]
fn a_damaged_journal_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledBackend::open(dir.path(), SledOptions::default()).unwrap();
    for height in 0..5u8 {
        store.apply(vec![put(Table::Meta, b"tip", &[height; 30])]).unwrap();
        store.flush().unwrap();
    }
    drop(store);
    let journal = dir.path().join("journal-0000000000000001");
    let good = std::fs::read(&journal).unwrap();
    let mut bad = good.clone();
    let at = bad.windows(30).position(|window| window == [2; 30]).unwrap();
    bad[at] ^= 1;
    std::fs::write(&journal, &bad).unwrap();
    let error = SledBackend::open(dir.path(), SMALL).err().unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("journal-0000000000000001"), "{error}");
    assert_eq!(std::fs::read(&journal).unwrap(), bad);
    std::fs::write(&journal, &good).unwrap();
    assert_eq!(sled(dir.path()).get(Table::Meta, b"tip").unwrap(), Some(vec![4; 30]));
}

#[test]
fn a_journal_cut_anywhere_leaves_whole_batches() {
    let origin = tempfile::tempdir().unwrap();
    let store = SledBackend::open(origin.path(), SledOptions::default()).unwrap();
    let (journal, mut ends) = (Path::new("journal-0000000000000001"), vec![]);
    let written = || {
        let bytes = std::fs::read(origin.path().join(journal)).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
    };
    for height in 1..=3u8 {
        store
            .apply((0..4).map(|key| put(Table::Coins, &[key], &[height; 5])).collect())
            .unwrap();
        ends.push(written());
    }
    // Read while it is open: no mark of an orderly end, and nothing synced.
    let bytes = std::fs::read(origin.path().join(journal)).unwrap();
    drop(store);
    for cut in (0..ends[2])
        .step_by(5)
        .chain(ends.iter().copied())
        .chain(ends.iter().map(|end| end - 1))
    {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&origin.path().join("tree"), &dir.path().join("tree"));
        std::fs::write(dir.path().join(journal), &bytes[..cut]).unwrap();
        let expected = ends.iter().filter(|end| **end <= cut).count();
        for _ in 0..2 {
            let store = sled(dir.path());
            let found = store.scan(Table::Coins, &[], 10).unwrap();
            assert_eq!(
                found.len(),
                if expected == 0 { 0 } else { 4 },
                "cut at {cut} of {ends:?}"
            );
            assert!(
                found.iter().all(|(_, value)| *value == [expected as u8; 5]),
                "cut at {cut} of {ends:?}"
            );
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = (
            entry.as_ref().unwrap().path(),
            to.join(entry.as_ref().unwrap().file_name()),
        );
        if entry.is_dir() {
            copy_dir(&entry, &to);
        } else {
            std::fs::copy(&entry, &to).unwrap();
        }
    }
}

// ---- processes --------------------------------------------------------------------------------------------------

const ROLE: &str = "TIMECOIN_TEST_ROLE";
const DIR: &str = "TIMECOIN_TEST_DIR";
const KEY: [u8; 32] = [5; 32];
const CHAIN: [u8; 32] = [6; 32];
/// Coins of one height in the kill test: enough to keep the store's thread always busy, so that kills hit it at work.
const WIDTH: u32 = 300;

/// Not a test of its own: what the child processes of the tests below do. Without a role it has nothing to do.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = std::env::var_os(DIR).expect("a child is given its directory");
    match role.as_str() {
        "store" => write_blocks(Path::new(&dir)),
        "log" => write_log(Path::new(&dir)),
        "hold" => hold(Path::new(&dir)),
        _ => panic!("no role {role}"),
    }
}

/// Runs `child` of this test binary in a process of its own.
struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    fn start(role: &str, dir: &Path) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child", "--nocapture"])
            .env(ROLE, role)
            .env(DIR, dir);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Process { child, lines }
    }

    /// The number on the next line that says `word number`; `None` at the end.
    fn next(&mut self, word: &str) -> Option<u64> {
        self.lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (found, number) = line.split_once(' ')?;
            (found == word).then(|| number.parse().ok())?
        })
    }

    /// Lets it work, kills it, and hands back the last number that it had said by then.
    fn kill_after(mut self, word: &str, first: u64, time: Duration) -> u64 {
        let started = Instant::now();
        let mut last = self.next(word).unwrap_or(first);
        while started.elapsed() < time {
            last = self.next(word).expect("it works until it is killed");
        }
        self.child.kill().unwrap();
        // What it had written before it died and nobody has read yet counts too.
        while let Some(number) = self.next(word) {
            last = number;
        }
        self.child.wait().unwrap();
        last
    }
}

fn tip(store: &dyn Backend) -> u64 {
    let tip = store.get(Table::Meta, b"tip").unwrap();
    tip.map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().unwrap()))
}

fn coin(height: u64, number: u32) -> Vec<u8> {
    // Scattered over the key space, as txids are.
    let mixed = (height.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(number)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    [&mixed.to_be_bytes()[..], &height.to_be_bytes(), &number.to_be_bytes()].concat()
}

/// Each block spends the coins of the one two before it and makes as many new ones.
fn block(height: u64) -> Vec<Op> {
    let mut batch = vec![put(Table::Meta, b"tip", &height.to_be_bytes())];
    for number in 0..WIDTH {
        if height > 2 {
            batch.push(delete(Table::Coins, &coin(height - 2, number)));
        }
        batch.push(put(Table::Coins, &coin(height, number), &height.to_be_bytes()));
    }
    batch.push(put(Table::Blocks, &height.to_be_bytes(), &vec![height as u8; 20_000]));
    if height > 40 {
        batch.push(delete(Table::Blocks, &(height - 40).to_be_bytes()));
    }
    for bucket in 0..8u8 {
        batch.push(put(
            Table::Buckets,
            &[bucket],
            &[height.to_be_bytes().as_slice(), &[bucket; 2040]].concat(),
        ));
    }
    batch
}

fn write_blocks(dir: &Path) {
    let options = SledOptions {
        cache_bytes: 4 << 20,
        generation_bytes: 150_000,
    };
    let store = SledBackend::open(dir, options).unwrap();
    let mut height = tip(&store);
    loop {
        height += 1;
        store.apply(block(height)).unwrap();
        if height.is_multiple_of(5) {
            store.flush().unwrap();
            println!("flushed {height}");
        }
    }
}

/// Everything in the store must be as the block at its tip left it.
fn check_blocks(store: &dyn Backend) -> u64 {
    let tip = tip(store);
    let mut coins: Vec<Vec<u8>> = (tip.saturating_sub(1).max(1)..=tip)
        .flat_map(|height| (0..WIDTH).map(move |number| coin(height, number)))
        .collect();
    coins.sort();
    let found: Vec<Vec<u8>> = store
        .scan(Table::Coins, &[], 10_000)
        .unwrap()
        .into_iter()
        .map(|entry| entry.0)
        .collect();
    assert_eq!(found, coins, "coins of a torn block at {tip}");
    for height in tip.saturating_sub(39).max(1)..=tip {
        let body = store.get(Table::Blocks, &height.to_be_bytes()).unwrap();
        assert!(body.is_some_and(|body| body.len() == 20_000 && body.iter().all(|byte| *byte == height as u8)));
    }
    assert!(store.scan(Table::Blocks, &[], 1_000).unwrap().len() <= 40);
    for (_, bucket) in store.scan(Table::Buckets, &[], 100).unwrap() {
        assert_eq!(bucket[..8], tip.to_be_bytes());
    }
    tip
}

#[test]
fn a_store_that_is_killed_stands_at_a_block_boundary_with_everything_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let mut flushed = 0;
    for round in 0..14u64 {
        let time = Duration::from_millis(50 + round * 83 % 300);
        flushed = Process::start("store", dir.path()).kill_after("flushed", flushed, time);
        // Looked at in turn with the journals replayed in memory, moved into the tree, and by the next child alone.
        if round % 3 < 2 {
            let store = sled(dir.path());
            let tip = check_blocks(&store);
            assert!(tip >= flushed, "flushed up to {flushed}, found {tip}");
            if round % 3 == 0 {
                store.settle().unwrap();
                assert_eq!(check_blocks(&store), tip);
            }
        }
    }
    assert!(
        flushed > 200,
        "only {flushed} blocks were written: the test saw no load"
    );
}

fn log_record(number: u64) -> Vec<u8> {
    let mut record = number.to_be_bytes().to_vec();
    record.resize(8 + (number * 37 % 400) as usize, number as u8);
    record
}

fn write_log(dir: &Path) {
    let (mut log, records, _) = SafetyLog::open(&dir.join("safety.log"), KEY, CHAIN).unwrap();
    let mut number = records
        .last()
        .map_or(0, |record| u64::from_be_bytes(record[..8].try_into().unwrap()));
    loop {
        let group: Vec<_> = (0..number % 5 + 1).map(|more| log_record(number + more + 1)).collect();
        number += group.len() as u64;
        log.append(&group).unwrap();
        log.sync().unwrap();
        println!("synced {number}");
        if number % 64 < 3 {
            let live: Vec<_> = (number.saturating_sub(20).max(1)..=number).map(log_record).collect();
            log.rewrite(&live).unwrap();
        }
    }
}

#[test]
fn a_safety_log_that_is_killed_has_every_synced_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("safety.log");
    SafetyLog::create(&path, KEY, CHAIN).unwrap();
    let mut synced = 0;
    for round in 0..10u64 {
        synced = Process::start("log", dir.path()).kill_after("synced", synced, Duration::from_millis(40 + round * 17));
        let (_, records, _) = SafetyLog::open(&path, KEY, CHAIN).unwrap();
        let numbers: Vec<u64> = records
            .iter()
            .map(|record| u64::from_be_bytes(record[..8].try_into().unwrap()))
            .collect();
        let last = *numbers.last().unwrap();
        assert!(last >= synced, "synced up to {synced}, found {last}");
        assert!(
            numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "a gap: {numbers:?}"
        );
        assert!(numbers[0] <= last.saturating_sub(20).max(1));
        assert!(
            records
                .iter()
                .zip(&numbers)
                .all(|(record, number)| *record == log_record(*number))
        );
    }
    assert!(synced > 500, "only {synced} records were written: the test saw no load");
}

/// Keeps both open until it is killed.
fn hold(dir: &Path) {
    let _store = SledBackend::open(&dir.join("store"), SMALL).unwrap();
    let _log = SafetyLog::open(&dir.join("safety.log"), KEY, CHAIN).unwrap();
    println!("held 1");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_second_process_is_told_which_lock_keeps_it_out() {
    let dir = tempfile::tempdir().unwrap();
    let (log, store) = (dir.path().join("safety.log"), dir.path().join("store"));
    SafetyLog::create(&log, KEY, CHAIN).unwrap();
    let mut other = Process::start("hold", dir.path());
    assert_eq!(other.next("held"), Some(1));
    let error = SafetyLog::open(&log, KEY, CHAIN).err().unwrap();
    assert!(
        matches!(&error, SafetyLogError::Locked { lock } if lock.ends_with("safety.log.lock")),
        "{error}"
    );
    let error = SledBackend::open(&store, SMALL).err().unwrap();
    assert!(
        matches!(&error, StoreError::Locked { lock, .. } if lock.ends_with("store/lock")),
        "{error}"
    );
    other.child.kill().unwrap();
    other.child.wait().unwrap();
    SafetyLog::open(&log, KEY, CHAIN).unwrap();
    SledBackend::open(&store, SMALL).unwrap();
}
