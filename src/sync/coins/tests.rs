//! A newcomer and some servers, each with a real store, and nothing between them: every question is answered at once, by
//! the same functions that answer on the network.

use super::*;
use crate::{
    ledger::{CheckedTransaction, Commitment, Content, View as _, Write, apply, check},
    primitives::{
        Block, BlockCertificate, Coin, Genesis, LockHash, OutPoint, Output, Phase, Response, Round, SecretKey,
        Transaction, TransactionBody, TxId, Validator, ValidatorSet, vote::block_vote_digest,
    },
    store::{ledger_store::LedgerStore, memory::MemoryBackend},
    sync::serve,
};
use std::sync::Arc;

const COINS: usize = 40_000;
const COIN: u64 = 1_000_000;
const FEE: u64 = 1_000;

fn payer() -> SecretKey {
    SecretKey::from_seed([1; 32])
}

/// A chain of one validator over a store.
struct Server {
    genesis: Genesis,
    rules: Rules,
    store: LedgerStore,
    commitment: Commitment,
    last: Option<BlockCertificate>,
}

fn genesis() -> Genesis {
    let validator = Validator {
        public_key: SecretKey::from_seed([100; 32]).public(),
        power: 1,
        payout: LockHash([9; 32]),
    };
    let coin = Output {
        value: Amount(COIN),
        lock: payer().public().lock(),
    };
    Genesis {
        network: "ltime".into(),
        time: Time(1_000),
        params: Params::default(),
        validators: ValidatorSet::new(vec![validator]).expect("one validator"),
        coins: vec![coin; COINS],
    }
}

impl Server {
    fn new() -> Self {
        let genesis = genesis();
        let set = Arc::new(genesis.validators.clone());
        let electorate = Electorate::new(genesis.chain_id(), genesis.params.epoch_length, set);
        let rules = Rules {
            bucket_coins: 1_000,
            ..Rules::new(&genesis, electorate)
        };
        Self {
            store: LedgerStore::open(Arc::new(MemoryBackend::new()), &genesis).expect("opens"),
            commitment: apply::genesis_tip(&genesis).expect("a genesis").2,
            last: None,
            rules,
            genesis,
        }
    }

    fn pay(&self, number: usize) -> CheckedTransaction {
        let (input, _) = self.genesis.named_coins().nth(number).expect("a coin");
        let output = Output {
            value: Amount(COIN - FEE),
            lock: LockHash([number as u8; 32]),
        };
        let body = TransactionBody {
            inputs: vec![input],
            outputs: vec![output],
            memo: Vec::new(),
        };
        let chain = &self.rules.electorate.chain;
        let signed = Transaction::sign(chain, &body, &[&payer()], &[]).expect("a payment");
        check::check(chain, signed.bytes()).expect("signed well")
    }

    /// A block that spends these coins of the genesis.
    fn block(&mut self, numbers: std::ops::Range<usize>) {
        let transactions: Vec<CheckedTransaction> = numbers.map(|number| self.pay(number)).collect();
        let (electorate, params) = (&self.rules.electorate, &self.rules.params);
        let tip = self.store.tip().expect("readable");
        let last_commit = self.last.clone();
        let now = tip.time.plus_ms(1_000);
        let header = apply::build_header(
            &tip,
            params,
            electorate,
            0,
            now,
            &transactions,
            &[],
            &[],
            last_commit.as_ref(),
        );
        let bodies = transactions
            .iter()
            .map(|transaction| transaction.bytes().to_vec())
            .collect();
        let content = Content {
            header: header.clone(),
            transactions,
            rejections: Vec::new(),
            seals: Vec::new(),
            last_commit: last_commit.clone(),
        };
        let applied = apply::apply_block(&self.store, &self.commitment, params, electorate, &content).expect("valid");
        self.commitment.commit(&applied);
        let (height, block) = (header.height, applied.block);
        let digest = block_vote_digest(&electorate.chain, Phase::Commit, height, Round(0), &block);
        let commit = BlockCertificate {
            height,
            round: Round(0),
            phase: Phase::Commit,
            block,
            signatures: vec![(0, SecretKey::from_seed([100; 32]).sign(&digest))],
        };
        self.last = Some(commit.clone());
        let block = Block {
            header,
            transactions: bodies,
            rejections: Vec::new(),
            seals: Vec::new(),
            last_commit,
        };
        let block = CommittedBlock { block, commit };
        self.store.apply(&apply::Batch { applied, block }).expect("follows");
    }

    fn height(&self) -> Height {
        self.store.height()
    }
}

/// Answers as the network would bring them.
fn answer_of(server: &Server, request: &Request, twist: &mut dyn FnMut(Response) -> Response) -> Answer {
    let response = serve::answer(&server.store, request).expect("readable");
    let response = Response::decode(&twist(response).encode());
    match response {
        Ok(Response::Blocks { blocks, tip }) => {
            let contents = check::check_certified_all(&server.rules.electorate, &blocks);
            let contents = contents.into_iter().collect::<Result<Vec<_>, _>>().expect("certified");
            Answer::Blocks(blocks.into_iter().zip(contents).collect(), tip)
        }
        Ok(Response::Coins(page)) => Answer::Coins(page),
        Ok(Response::Digests { height, digests }) => Answer::Digests(height, digests),
        Ok(Response::ClosingHeaders(headers)) => Answer::Headers(headers),
        Ok(Response::Pruned { from }) => Answer::Pruned(from),
        _ => Answer::Nothing,
    }
}

/// A newcomer that can be killed.
struct Newcomer {
    backend: Arc<MemoryBackend>,
    store: LedgerStore,
    sync: StateSync,
    now: Time,
    faults: Vec<(PeerId, Fault, String)>,
    /// Coins that came in pages.
    paged: usize,
    steps: usize,
}

const PEERS: u64 = 3;

impl Newcomer {
    fn new(server: &Server) -> Self {
        let backend = Arc::new(MemoryBackend::new());
        Self {
            store: LedgerStore::open(backend.clone(), &server.genesis).expect("opens"),
            sync: StateSync::new(server.rules.clone(), 0),
            backend,
            now: Time(1_000_000),
            faults: Vec::new(),
            paged: 0,
            steps: 0,
        }
    }

    /// A kill: what was written is there, all else is gone.
    fn restart(&mut self, server: &Server) {
        self.backend = Arc::new(self.backend.crash(usize::MAX));
        self.store = LedgerStore::open(self.backend.clone(), &server.genesis).expect("opens in the middle of a sync");
        let progress = self.store.sync_progress().expect("readable").expect("under way");
        self.sync = StateSync::resume(server.rules.clone(), &progress, 1_000_000).expect("reads its own progress");
    }

    /// One step, with all that it asks answered. `twist`: what a peer makes of its answer.
    fn step(&mut self, server: &Server, twist: &mut dyn FnMut(PeerId, Response) -> Response) {
        for peer in 0..PEERS {
            self.sync.on_claim(PeerId(peer), server.height());
        }
        self.now = self.now.plus_ms(50);
        self.steps += 1;
        let wants = self.sync.step(self.now, &self.store).expect("readable");
        self.faults.extend(wants.faults);
        if let Some(write) = wants.write {
            self.store.write(&Write::State(write)).expect("written");
        }
        for (id, peer, request) in wants.ask {
            let answer = answer_of(server, &request, &mut |response| twist(peer, response));
            if let Answer::Coins(page) = &answer {
                self.paged += page.entries.len();
            }
            self.sync.on_answer(peer, id, answer);
        }
    }

    fn run(&mut self, server: &mut Server, twist: &mut dyn FnMut(PeerId, Response) -> Response) {
        while !self.sync.is_done() {
            assert!(self.steps < 20_000, "no end: {:?}", self.sync.status());
            // The chain goes on.
            if self.steps.is_multiple_of(40) {
                let next = server.height().0 as usize * 5;
                server.block(next..next + 5);
            }
            self.step(server, twist);
        }
    }
}

fn all_coins(store: &LedgerStore) -> Vec<(OutPoint, Coin)> {
    store.coins_after(&[], usize::MAX).expect("readable").1
}

/// The newcomer's state is the one that the chain had at that height, in every respect.
fn assert_same(newcomer: &Newcomer, server: &Server) {
    let tip = newcomer.store.tip().expect("readable");
    let mut other = Server::new();
    for height in 0..tip.height.0 as usize {
        other.block(height * 5..height * 5 + 5);
    }
    assert_eq!(tip, other.store.tip().expect("readable"), "fees and signatures too");
    assert_eq!(all_coins(&newcomer.store), all_coins(&other.store));
    assert!(tip.height <= server.height());
    let loaded = Commitment::load(&newcomer.store).expect("readable");
    assert_eq!(loaded.root(), tip.utxo_root);
    for height in 1..=tip.height.0 + 1 {
        let expected = (height <= tip.height.0).then(|| server.store.block(Height(height)).expect("readable"));
        let found = newcomer.store.block(Height(height)).expect("readable");
        assert_eq!(found, expected.flatten(), "nothing is there that comes after the state");
    }
    assert_eq!(newcomer.store.sync_progress().expect("readable"), None);
}

fn started() -> Server {
    let mut server = Server::new();
    for height in 0..20 {
        server.block(height * 5..height * 5 + 5);
    }
    server
}

#[test]
fn the_state_is_the_chains_though_the_chain_goes_on() {
    let mut server = started();
    let mut newcomer = Newcomer::new(&server);
    let before = server.height();
    newcomer.run(&mut server, &mut |_, response| response);
    assert!(server.height() > before, "blocks came meanwhile");
    assert!(newcomer.faults.is_empty(), "{:?}", newcomer.faults);
    assert_same(&newcomer, &server);
}

#[test]
fn a_killed_newcomer_goes_on_where_it_was() {
    let mut server = started();
    let mut steps = 0;
    for kills in 0..4 {
        let mut newcomer = Newcomer::new(&server);
        // Kills at moments spread over the whole, from the first write to the last.
        for kill in 0..kills {
            let at = steps * (kill + 1) / (kills + 1);
            while newcomer.steps < at && !newcomer.sync.is_done() {
                newcomer.step(&server, &mut |_, response| response);
            }
            if !newcomer.sync.is_done() {
                newcomer.restart(&server);
            }
        }
        newcomer.run(&mut server, &mut |_, response| response);
        assert_same(&newcomer, &server);
        assert!(newcomer.faults.is_empty(), "{:?}", newcomer.faults);
        steps = steps.max(newcomer.steps);
        let all = all_coins(&newcomer.store).len();
        let twice = newcomer.paged.saturating_sub(all);
        assert!(10 * twice < all, "{kills} kills: {twice} of {all} coins came twice");
    }
}

#[test]
fn a_liar_is_named_and_nobody_else() {
    type Lie = (&'static str, fn(Response) -> Response);
    let lies: [Lie; 5] = [
        ("a wrong coin", |response| {
            on_page(response, |page| {
                if let Some((_, coin)) = page.entries.first_mut() {
                    coin.output.value.0 += 1;
                }
            })
        }),
        ("a coin left out", |response| {
            on_page(response, |page| {
                page.entries.truncate(page.entries.len().saturating_sub(1))
            })
        }),
        ("an invented coin", |response| {
            on_page(response, |page| {
                if let Some((outpoint, coin)) = page.entries.last().copied() {
                    let index = outpoint.index + 1;
                    page.entries.push((OutPoint { index, ..outpoint }, coin));
                }
            })
        }),
        ("a coin of another range", |response| {
            on_page(response, |page| {
                let outpoint = OutPoint {
                    txid: TxId([0xff; 32]),
                    index: 0,
                };
                let output = Output {
                    value: Amount(1),
                    lock: LockHash([2; 32]),
                };
                let height = Height(1);
                page.entries.push((outpoint, Coin { output, height }));
            })
        }),
        ("an old page as a new one", |response| {
            on_page(response, |page| {
                page.entries.retain(|(_, coin)| coin.height == Height(0))
            })
        }),
    ];
    for (what, lie) in lies {
        let mut server = started();
        let mut newcomer = Newcomer::new(&server);
        newcomer.run(&mut server, &mut |peer, response| match peer {
            PeerId(1) => lie(response),
            _ => response,
        });
        assert_same(&newcomer, &server);
        let named: BTreeSet<(PeerId, Fault)> = newcomer.faults.iter().map(|(peer, fault, _)| (*peer, *fault)).collect();
        assert_eq!(
            named,
            BTreeSet::from([(PeerId(1), Fault::Hostile)]),
            "{what}: {:?}",
            newcomer.faults
        );
    }
}

#[test]
fn wrong_digests_name_whoever_sent_them() {
    let mut server = started();
    let mut newcomer = Newcomer::new(&server);
    let mut liar = None;
    newcomer.run(&mut server, &mut |peer, response| match response {
        Response::Digests { height, mut digests } if liar.is_none() => {
            liar = Some(peer);
            digests[5].0[5] ^= 1;
            Response::Digests { height, digests }
        }
        other => other,
    });
    assert_same(&newcomer, &server);
    let named: Vec<PeerId> = newcomer.faults.iter().map(|(peer, ..)| *peer).collect();
    assert_eq!(named, Vec::from_iter(liar), "{:?}", newcomer.faults);
}

fn on_page(response: Response, change: impl Fn(&mut CoinPage)) -> Response {
    match response {
        Response::Coins(mut page) => {
            change(&mut page);
            page.more &= !page.entries.is_empty();
            Response::Coins(page)
        }
        other => other,
    }
}

#[test]
fn pages_without_end_are_not_believed() {
    let mut server = started();
    let mut newcomer = Newcomer::new(&server);
    let mut invented = 0u32;
    let mut most = 0;
    newcomer.run(&mut server, &mut |peer, response| match response {
        Response::Coins(page) if peer == PeerId(1) && !page.entries.is_empty() => {
            let (first, coin) = page.entries[0];
            let entries = (0..1_000).map(|_| {
                invented += 1;
                let index = invented;
                (
                    OutPoint {
                        txid: first.txid,
                        index,
                    },
                    coin,
                )
            });
            let entries = entries.collect();
            most += 1;
            Response::Coins(CoinPage {
                height: page.height,
                entries,
                more: true,
            })
        }
        other => other,
    });
    assert_same(&newcomer, &server);
    assert!(most < 300, "{most} pages of invented coins were taken");
    assert!(
        newcomer.faults.iter().all(|(peer, ..)| *peer == PeerId(1)),
        "{:?}",
        newcomer.faults
    );
    assert!(!newcomer.faults.is_empty());
}

#[test]
fn silence_costs_time_and_nothing_else() {
    let mut server = started();
    let mut newcomer = Newcomer::new(&server);
    newcomer.run(&mut server, &mut |peer, response| match peer {
        PeerId(0) => Response::Refused("no".into()),
        _ => response,
    });
    assert_same(&newcomer, &server);
    assert!(newcomer.faults.is_empty(), "{:?}", newcomer.faults);
}

#[test]
fn pages_walk_the_whole_set_and_no_more() {
    let server = started();
    let all = all_coins(&server.store);
    for (limit, end) in [
        (1_000, Vec::new()),
        (7, Vec::new()),
        (250, crate::ledger::commitment::bucket_start(512)),
    ] {
        let inside = |(outpoint, _): &&(OutPoint, Coin)| end.is_empty() || outpoint.to_bytes()[..] < end[..];
        let expected: Vec<_> = all.iter().filter(inside).copied().collect();
        let (mut found, mut cursor) = (Vec::new(), Vec::new());
        loop {
            let request = Request::Coins {
                cursor: cursor.clone(),
                limit,
                end: end.clone(),
            };
            let Response::Coins(page) = serve::answer(&server.store, &request).expect("readable") else {
                panic!("not a page");
            };
            assert!(page.entries.len() <= limit as usize);
            assert_eq!(page.height, server.height());
            found.extend(page.entries);
            match found.last() {
                Some((last, _)) if page.more => cursor = last.to_bytes().to_vec(),
                _ => break,
            }
        }
        assert_eq!(found, expected, "{limit}");
    }
}

#[test]
fn checkpoints_are_read_and_written() {
    let text = format!("3600:{}", "ab".repeat(32));
    let checkpoint: Checkpoint = text.parse().expect("a checkpoint");
    assert_eq!(checkpoint.height, Height(3_600));
    assert_eq!(checkpoint.to_string(), text);
    for wrong in ["", "3600", "x:ab", "1:zz", ":"] {
        let error = wrong.parse::<Checkpoint>().expect_err(wrong);
        assert!(error.contains("expected a height"), "{error}");
    }
}
