//! Both backends under the ledger: blocks in, answers out, reopening, and stores that must be refused.

use super::{rows::delete, *};
use crate::{
    ledger::{Content, apply, check},
    primitives::{
        Amount, Block, BlockCertificate, Output, Params, Phase, Round, SecretKey, Time, Transaction, TransactionBody,
        Validator, ValidatorSet, message::Electorate,
    },
    store::{
        memory::MemoryBackend,
        sled_backend::{SledBackend, SledOptions},
    },
};

const COIN: u64 = 1_000_000;
const FEE: u64 = 1_000;

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

fn lock(number: u8) -> LockHash {
    key(number).public().lock()
}

fn genesis(time: u64) -> Genesis {
    let validator = Validator {
        public_key: key(100).public(),
        power: 1,
        payout: lock(100),
    };
    let coin = |number: u8| Output {
        value: Amount(COIN),
        lock: lock(number % 2),
    };
    Genesis {
        network: "ltime".into(),
        time: Time(time),
        params: Params::default(),
        validators: ValidatorSet::new(vec![validator]).expect("one validator"),
        coins: (0..6).map(coin).collect(),
    }
}

/// A chain of one validator that makes blocks over a store.
struct Maker {
    genesis: Genesis,
    electorate: Electorate,
    commitment: Commitment,
    last: Option<BlockCertificate>,
}

impl Maker {
    fn new() -> Self {
        let genesis = genesis(1_000);
        let set = Arc::new(genesis.validators.clone());
        Self {
            electorate: Electorate::new(genesis.chain_id(), genesis.params.epoch_length, set),
            commitment: genesis_tip(&genesis).expect("a genesis").2,
            last: None,
            genesis,
        }
    }

    fn outpoint(&self, number: usize) -> OutPoint {
        self.genesis.named_coins().nth(number).expect("one of six").0
    }

    fn pay(&self, input: OutPoint, from: u8, to: u8, value: u64) -> Vec<u8> {
        let body = TransactionBody {
            inputs: vec![input],
            outputs: vec![Output {
                value: Amount(value - FEE),
                lock: lock(to),
            }],
            memo: Vec::new(),
        };
        let signed = Transaction::sign(&self.electorate.chain, &body, &[&key(from)], &[]);
        signed.expect("a payment").bytes().to_vec()
    }

    fn block(&mut self, store: &LedgerStore, transactions: &[Vec<u8>]) -> Batch {
        let chain = &self.electorate.chain;
        let checked = check::check_all(chain, transactions).into_iter();
        let checked: Vec<_> = checked.collect::<Result<_, _>>().expect("signed well");
        let tip = store.tip().expect("readable");
        let (params, last_commit) = (&self.genesis.params, self.last.clone());
        let now = tip.time.plus_ms(1_000);
        let header = apply::build_header(
            &tip,
            params,
            &self.electorate,
            0,
            now,
            &checked,
            &[],
            &[],
            last_commit.as_ref(),
        );
        let content = Content {
            header: header.clone(),
            transactions: checked,
            rejections: Vec::new(),
            seals: Vec::new(),
            last_commit: last_commit.clone(),
        };
        let applied = apply::apply_block(store, &self.commitment, params, &self.electorate, &content).expect("valid");
        self.commitment.commit(&applied);
        let id = header.id(chain);
        let digest = crate::primitives::vote::block_vote_digest(chain, Phase::Commit, header.height, Round(0), &id);
        let commit = BlockCertificate {
            height: header.height,
            round: Round(0),
            phase: Phase::Commit,
            block: id,
            signatures: vec![(0, key(100).sign(&digest))],
        };
        self.last = Some(commit.clone());
        let block = Block {
            header,
            transactions: transactions.to_vec(),
            rejections: Vec::new(),
            seals: Vec::new(),
            last_commit,
        };
        let block = CommittedBlock { block, commit };
        Batch { applied, block }
    }
}

/// A store on either backend that can be closed and opened again.
enum Home {
    Memory(Arc<MemoryBackend>),
    Disk(tempfile::TempDir),
}

impl Home {
    fn both() -> [Self; 2] {
        [
            Self::Memory(Arc::new(MemoryBackend::new())),
            Self::Disk(tempfile::tempdir().expect("a directory")),
        ]
    }

    fn backend(&self) -> Arc<dyn Backend> {
        match self {
            Self::Memory(backend) => backend.clone(),
            Self::Disk(dir) => Arc::new(SledBackend::open(dir.path(), SledOptions::default()).expect("opens")),
        }
    }

    fn open(&self, genesis: &Genesis) -> Result<LedgerStore, LedgerStoreError> {
        LedgerStore::open(self.backend(), genesis)
    }
}

#[test]
fn a_new_store_holds_the_genesis() {
    for home in Home::both() {
        let maker = Maker::new();
        let store = home.open(&maker.genesis).expect("opens");
        let tip = store.tip().expect("readable");
        assert_eq!((tip.height, tip.block.0), (Height(0), maker.electorate.chain.0));
        assert_eq!(tip.supply, Amount(6 * COIN));
        for (outpoint, coin) in maker.genesis.named_coins() {
            assert_eq!(store.coin(&outpoint).expect("readable"), Some(coin));
        }
        let loaded = Commitment::load(&store).expect("readable");
        assert_eq!(loaded.root(), tip.utxo_root);
        assert_eq!(loaded.root(), maker.commitment.root());
    }
}

#[test]
fn a_block_changes_everything_at_once_and_survives_reopening() {
    for home in Home::both() {
        let mut maker = Maker::new();
        let store = home.open(&maker.genesis).expect("opens");
        let (first, second) = (maker.outpoint(0), maker.outpoint(1));
        // Read before, so that the spent coins sit in the cache.
        assert!(store.coin(&first).expect("readable").is_some());
        let payments = [maker.pay(first, 0, 7, COIN), maker.pay(second, 1, 7, COIN)];
        let batch = maker.block(&store, &payments);
        store.apply(&batch).expect("follows");
        let empty = maker.block(&store, &[]);
        store.apply(&empty).expect("follows");
        store.flush().expect("flushes");
        let check = |store: &LedgerStore| {
            let tip = store.tip().expect("readable");
            assert_eq!((tip.height, &tip), (Height(2), &empty.applied.tip));
            assert_eq!(store.coin(&first).expect("readable"), None);
            assert_eq!(store.block(Height(1)).expect("readable").as_ref(), Some(&batch.block));
            assert_eq!(store.block(Height(3)).expect("readable"), None);
            assert_eq!(
                store.height_of(&batch.applied.block).expect("readable"),
                Some(Height(1))
            );
            for (txid, index) in batch.applied.transactions.iter().zip(0..) {
                let location = Location {
                    height: Height(1),
                    index,
                };
                assert_eq!(store.location(txid).expect("readable"), Some(location));
                assert_eq!(store.rejected(txid).expect("readable"), None);
            }
            let owned = store.coins_of(&lock(7), None, 10).expect("readable");
            assert_eq!(owned, batch.applied.created);
            assert_eq!(Commitment::load(store).expect("readable").root(), tip.utxo_root);
        };
        check(&store);
        drop(store);
        check(&home.open(&maker.genesis).expect("opens again"));
    }
}

#[test]
fn coins_of_a_lock_come_by_page() {
    for home in Home::both() {
        let maker = Maker::new();
        let store = home.open(&maker.genesis).expect("opens");
        let all = store.coins_of(&lock(0), None, 10).expect("readable");
        assert_eq!(all.len(), 3);
        assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = store.coins_of(&lock(0), after.as_ref(), 2).expect("readable");
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            paged.extend(page);
        }
        assert_eq!(paged, all);
        assert!(store.coins_of(&lock(9), None, 10).expect("readable").is_empty());
    }
}

#[test]
fn rejections_are_found() {
    let maker = &mut Maker::new();
    let store = LedgerStore::open(Arc::new(MemoryBackend::new()), &maker.genesis).expect("opens");
    let mut batch = maker.block(&store, &[]);
    let txid = TxId([8; 32]);
    assert_eq!(store.rejected(&txid).expect("readable"), None, "looked for in vain");
    batch.applied.rejected.push(txid);
    let mark = (OutPoint::rejection(txid), Coin::rejection(Height(1)));
    batch.applied.created.push(mark);
    store.apply(&batch).expect("follows");
    assert_eq!(store.rejected(&txid).expect("readable"), Some(Height(1)));
    assert_eq!(store.coin(&mark.0).expect("readable"), None, "a mark is no coin");
    let unlocked = store.coins_of(&LockHash([0; 32]), None, 10).expect("readable");
    assert!(unlocked.is_empty(), "and nobody owns it");
}

#[test]
fn only_the_next_block_is_taken() {
    let maker = &mut Maker::new();
    let store = LedgerStore::open(Arc::new(MemoryBackend::new()), &maker.genesis).expect("opens");
    let batch = maker.block(&store, &[]);
    store.apply(&batch).expect("follows");
    let before = store.tip().expect("readable");
    assert!(matches!(store.apply(&batch), Err(LedgerStoreError::NotNext { .. })));
    assert_eq!(store.tip().expect("readable"), before);
}

#[test]
fn a_cached_coin_does_not_outlive_its_spending() {
    let maker = &mut Maker::new();
    let store = LedgerStore::open(Arc::new(MemoryBackend::new()), &maker.genesis).expect("opens");
    let spent = maker.outpoint(2);
    // A reader that began before the block and ends after it.
    let generation = store.coins().generation;
    let coin = store.coin(&spent).expect("readable").expect("unspent");
    let payment = maker.pay(spent, 0, 7, COIN);
    let batch = maker.block(&store, &[payment]);
    store.apply(&batch).expect("follows");
    store.coins().keep(generation, spent, Some(coin));
    assert_eq!(store.coin(&spent).expect("readable"), None);
}

#[test]
fn the_cache_is_bounded() {
    let mut cache = CoinCache::new(10);
    let coin = Coin {
        output: Output {
            value: Amount(1),
            lock: lock(0),
        },
        height: Height(0),
    };
    let outpoint = |index| OutPoint {
        txid: TxId([1; 32]),
        index,
    };
    for index in 0..1_000 {
        cache.insert(outpoint(index), Some(coin));
        assert!(cache.young.len() + cache.old.len() <= 10);
    }
    assert_eq!(cache.get(&outpoint(999)), Some(Some(coin)));
    assert_eq!(cache.get(&outpoint(0)), None);
}

#[test]
fn another_genesis_is_refused() {
    for home in Home::both() {
        drop(home.open(&genesis(1_000)).expect("opens"));
        let error = home.open(&genesis(1_001)).err().expect("another chain");
        assert!(matches!(error, LedgerStoreError::WrongChain { .. }), "{error}");
    }
}

#[test]
fn a_store_that_contradicts_itself_is_refused() {
    type Damage = (&'static str, fn(&LedgerStore, &Batch) -> Op);
    let rows: [Damage; 6] = [
        ("the last block is missing", |_, _| {
            delete(Table::Blocks, &1u64.to_be_bytes())
        }),
        ("the last block cannot be read", |_, _| {
            put(Table::Blocks, &1u64.to_be_bytes(), vec![9; 40])
        }),
        ("there is no tip", |_, _| delete(Table::Meta, TIP_KEY)),
        ("the tip cannot be read", |_, batch| {
            let mut bytes = tip_bytes(&batch.applied.tip);
            bytes.pop();
            put(Table::Meta, TIP_KEY, bytes)
        }),
        ("the tip is", |_, batch| {
            let mut tip = batch.applied.tip.clone();
            tip.block.0[0] ^= 1;
            put(Table::Meta, TIP_KEY, tip_bytes(&tip))
        }),
        ("index of block ids", |_, batch| {
            delete(Table::BlockIds, &batch.applied.block.0)
        }),
    ];
    for (expected, damage) in rows {
        let backend = Arc::new(MemoryBackend::new());
        let mut maker = Maker::new();
        let store = LedgerStore::open(backend.clone(), &maker.genesis).expect("opens");
        let batch = maker.block(&store, &[]);
        store.apply(&batch).expect("follows");
        backend.apply(vec![damage(&store, &batch)]).expect("writes");
        let error = LedgerStore::open(backend, &maker.genesis).err().expect(expected);
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_store_interrupted_while_it_was_made_is_made_again() {
    let backend = Arc::new(MemoryBackend::new());
    let genesis = genesis(1_000);
    drop(LedgerStore::open(backend.clone(), &genesis).expect("opens"));
    let unmarked = vec![delete(Table::Meta, CHAIN_KEY), delete(Table::Meta, TIP_KEY)];
    backend.apply(unmarked).expect("writes");
    let store = LedgerStore::open(backend, &genesis).expect("opens");
    assert_eq!(
        store.tip().expect("readable"),
        genesis_tip(&genesis).expect("a genesis").0
    );
}

#[test]
fn a_newer_layout_is_refused() {
    let backend = Arc::new(MemoryBackend::new());
    let genesis = genesis(1_000);
    drop(LedgerStore::open(backend.clone(), &genesis).expect("opens"));
    let marker = [&[LAYOUT + 1][..], &genesis.chain_id().0].concat();
    backend
        .apply(vec![put(Table::Meta, CHAIN_KEY, marker)])
        .expect("writes");
    let error = LedgerStore::open(backend, &genesis).err().expect("unknown layout");
    assert!(matches!(error, LedgerStoreError::Layout { found } if found == LAYOUT + 1));
}

/// Every byte of a small chain, hashed. If this fails and the change is meant, count [`LAYOUT`] up.
#[test]
fn the_bytes_on_disk_are_golden() {
    use sha2::{Digest, Sha256};
    let backend = Arc::new(MemoryBackend::new());
    let mut maker = Maker::new();
    let store = LedgerStore::open(backend.clone(), &maker.genesis).expect("opens");
    let payment = maker.pay(maker.outpoint(0), 0, 7, COIN);
    let mut batch = maker.block(&store, &[payment]);
    batch
        .applied
        .created
        .push((OutPoint::rejection(TxId([8; 32])), Coin::rejection(Height(1))));
    store.apply(&batch).expect("follows");
    let digest = |table: Table| {
        let entries = backend.scan(table, &[], 10_000).expect("readable");
        let mut hash = Sha256::new();
        for (key, value) in &entries {
            hash.update([key.len() as u8]);
            hash.update(key);
            hash.update((value.len() as u32).to_be_bytes());
            hash.update(value);
        }
        format!(
            "{} {} {}",
            table.name(),
            entries.len(),
            &hex::encode(hash.finalize())[..16]
        )
    };
    let found: Vec<String> = Table::ALL.into_iter().map(digest).collect();
    let expected = [
        "meta 2 359e335b02929dd1",
        "coins 7 cc8df2894751fa9d",
        "coins_by_lock 6 fceabeb3b76ae3ef",
        "blocks 1 f07a28c97f172113",
        "block_ids 1 8fb3a4d51689448a",
        "transactions 1 d63b015ed610ea42",
        "closing_headers 0 e3b0c44298fc1c14",
        "buckets 2 ab18b7d6ff728002",
        "receipts 0 e3b0c44298fc1c14",
    ];
    assert_eq!(found, expected);
}

#[test]
fn old_blocks_are_forgotten() {
    use crate::{
        ledger::StateView,
        primitives::{Request, Response},
        sync::serve,
    };
    for home in Home::both() {
        let mut maker = Maker::new();
        let options = StoreOptions {
            retain_blocks: 2,
            ..StoreOptions::default()
        };
        let mut store = LedgerStore::open_with(home.backend(), &maker.genesis, options).expect("opens");
        // Epochs of three blocks as far as forgetting is concerned.
        store.epoch_length = 3;
        let mut batches = Vec::new();
        for number in 0..12 {
            let outpoint = (number < 6).then(|| maker.outpoint(number));
            let payment = outpoint.map(|outpoint| maker.pay(outpoint, number as u8 % 2, 7, COIN));
            let batch = maker.block(&store, payment.as_slice());
            store.apply(&batch).expect("follows");
            batches.push(batch);
        }
        // Block 12 is of the epoch that began after block 9; the one before began after block 6.
        assert_eq!(store.first_block().expect("readable"), Height(6));
        for (batch, height) in batches.iter().zip(1..) {
            let kept = height >= 6;
            assert_eq!(
                store.block(Height(height)).expect("readable").is_some(),
                kept,
                "{height}"
            );
            let found = store.height_of(&batch.applied.block).expect("readable");
            assert_eq!(found.is_some(), kept, "{height}");
            for txid in &batch.applied.transactions {
                assert_eq!(store.location(txid).expect("readable").is_some(), kept, "{height}");
            }
        }
        let ask = |from| {
            let max_count = 100;
            let request = Request::Blocks { from, max_count };
            serve::answer(&store, &request).expect("readable")
        };
        assert_eq!(ask(Height(2)), Response::Pruned { from: Height(6) });
        assert!(matches!(ask(Height(6)), Response::Blocks { blocks, .. } if blocks.len() == 7));
        let rows = store.backend.scan(Table::Blocks, &[], 100).expect("readable");
        assert_eq!(rows.len(), 7);
    }
}
