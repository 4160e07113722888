//! What is right reaches the loop, what is wrong does not, and what is too much is said to be.

use super::*;
use crate::{
    node::metrics::Prepared,
    primitives::{
        Amount, Genesis, Gossip, Height, LockHash, OutPoint, Output, Params, SecretKey, Status, Time, Transaction,
        TransactionBody, TxId, Validator, ValidatorSet, Vote, VoteBatch, VoteKind,
    },
    replica::{Message, Statement},
    store::{ledger_store::LedgerStore, memory::MemoryBackend},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

struct Bench {
    checker: Checker,
    key: SecretKey,
    cancel: CancellationToken,
    _network: crate::network::Network,
}

impl Bench {
    async fn new(max: usize) -> Self {
        let key = SecretKey::from_seed([1; 32]);
        let validator = Validator {
            public_key: key.public(),
            power: 1,
            payout: LockHash([0; 32]),
        };
        let genesis = Genesis {
            network: "ltime".into(),
            time: Time(1),
            params: Params::default(),
            validators: ValidatorSet::new(vec![validator]).expect("a set"),
            coins: Vec::new(),
        };
        let config = crate::network::Config {
            listen: Vec::new(),
            ..crate::network::Config::default()
        };
        let cancel = CancellationToken::new();
        let network = crate::network::spawn(config, [2; 32], [3; 32], vec![], cancel.clone())
            .await
            .expect("starts");
        let store = LedgerStore::open(Arc::new(MemoryBackend::new()), &genesis).expect("opens");
        let (blocks, _) = StoreServer::new(Arc::new(store), network.commands.clone());
        let set = Arc::new(genesis.validators.clone());
        let roster = Roster::new(
            genesis.chain_id(),
            Box::new(move || set.clone()),
            None,
            network.commands.clone(),
        );
        let checker = Checker {
            roster: Arc::new(roster),
            electorate: Electorate::new(genesis.chain_id(), 100, Arc::new(genesis.validators)),
            jobs: Arc::new(Jobs::new(max, 1 << 20)),
            inbox: Arc::new(Inbox::new(1_000)),
            commands: network.commands.clone(),
            peers: network.peers.clone(),
            served: blocks,
            meters: Prepared::new().expect("meters").meters,
        };
        Self {
            checker,
            key,
            cancel,
            _network: network,
        }
    }

    fn payment(&self, number: u32) -> Vec<u8> {
        let body = TransactionBody {
            inputs: vec![OutPoint {
                txid: TxId([4; 32]),
                index: number,
            }],
            outputs: vec![Output {
                value: Amount(1),
                lock: LockHash([5; 32]),
            }],
            memo: Vec::new(),
        };
        let signed = Transaction::sign(&self.checker.electorate.chain, &body, &[&self.key], &[]);
        signed.expect("a payment").bytes().to_vec()
    }

    fn votes(&self) -> Gossip {
        let batch = VoteBatch {
            epoch: crate::primitives::Epoch(0),
            validator: 0,
            sequence: 0,
            height: Height(1),
            votes: vec![Vote {
                kind: VoteKind::Lock,
                txid: TxId([6; 32]),
            }],
            signature: crate::primitives::Signature([0; 64]),
        };
        Statement::Votes(batch).sign(&self.checker.electorate.chain, &self.key.signer())
    }

    fn gossip(&self, number: u64, message: &Gossip) -> Job {
        let topic = bridge::topic(message);
        self.raw(number, topic, message.encode())
    }

    fn raw(&self, number: u64, topic: Topic, payload: Vec<u8>) -> Job {
        // Everything from another peer: one that lies is not listened to further.
        Job::Gossip {
            from: network::PeerId(number),
            id: network::GossipId(number),
            topic,
            payload: payload.into(),
        }
    }

    /// Checks everything that waits, as the pool's threads would; what reached the loop.
    fn check(&self) -> Vec<Item> {
        let mut batch = Vec::new();
        while self.checker.jobs.waiting() != (0, 0) {
            assert!(self.checker.jobs.take(Lane::Bulk, &mut batch));
            self.checker.check(std::mem::take(&mut batch));
        }
        let mut items = Vec::new();
        self.checker.inbox.take(&mut items, 1_000, Instant::now());
        items
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn submit(bytes: Vec<u8>) -> (Job, oneshot::Receiver<Result<TxId, SubmitError>>) {
    let (reply, answer) = oneshot::channel();
    (Job::Submit { bytes, reply }, answer)
}

#[tokio::test]
async fn right_and_wrong_are_told_apart_within_one_batch() {
    let bench = Bench::new(100).await;
    let Gossip::Votes(mut forged) = bench.votes() else {
        panic!()
    };
    forged.sequence = 7;
    let mut bent = bench.payment(2);
    let last = bent.len() - 1;
    bent[last] ^= 1;
    let refused = bench.checker.jobs.offer([
        bench.gossip(1, &Gossip::Transactions(vec![bench.payment(1)])),
        bench.gossip(2, &Gossip::Transactions(vec![bent])),
        bench.gossip(3, &bench.votes()),
        bench.gossip(4, &Gossip::Votes(forged)),
        bench.gossip(5, &Gossip::Status(Status::default())),
        bench.raw(6, Topic::Votes, vec![0xff; 9]),
    ]);
    assert!(refused.is_empty());
    let mut reached: Vec<(u64, &str)> = bench
        .check()
        .iter()
        .map(|item| match item {
            Item::Input(Input::Gossip { id, message, .. }, _) => match message {
                Message::Transactions(_) => (id.0, "transactions"),
                Message::Votes(_) => (id.0, "votes"),
                Message::Status(_) => (id.0, "status"),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        })
        .collect();
    reached.sort_unstable();
    assert_eq!(reached, [(1, "transactions"), (3, "votes"), (5, "status")]);
    assert_eq!(
        (
            bench.checker.meters.checked.get(),
            bench.checker.meters.check_refused.get()
        ),
        (3, 3)
    );
    assert_eq!(bench.checker.meters.faults_hostile.get(), 3);
}

#[tokio::test]
async fn who_lies_once_is_not_listened_to_further() {
    let bench = Bench::new(1_000).await;
    let good = |number| Gossip::Transactions(vec![bench.payment(number)]);
    let mut lie = bench.payment(1);
    let end = lie.len() - 1;
    lie[end] ^= 1;
    let from = |peer: u64, number: u64| Job::Gossip {
        from: network::PeerId(peer),
        id: network::GossipId(number),
        topic: Topic::Transactions,
        payload: good(number as u32).encode().into(),
    };
    // More than one thread takes at a time: the lie, and later what the same peer said after it.
    let jobs: Vec<Job> = std::iter::once(bench.gossip(1, &Gossip::Transactions(vec![lie])))
        .chain((2..=MAX_JOBS as u64).map(|number| from(2, number)))
        .chain((1_000..1_010).map(|number| from(1, number)))
        .chain((2_000..2_003).map(|number| from(2, number)))
        .collect();
    assert!(bench.checker.jobs.offer(jobs).is_empty());
    let bytes = bench.checker.jobs.lock().bulk.bytes;
    assert!(bytes > 0);
    let heard: Vec<Item> = bench.check();
    assert_eq!(
        heard.len(),
        MAX_JOBS - 1 + 3,
        "all of the other peer, nothing of the liar"
    );
    assert_eq!(bench.checker.meters.check_refused.get(), 11);
    assert_eq!(bench.checker.jobs.lock().bulk.bytes, 0);
}

#[tokio::test]
async fn a_client_hears_which_rule_its_bytes_break() {
    let bench = Bench::new(100).await;
    let (good, _good_answer) = submit(bench.payment(1));
    let (bad, bad_answer) = submit(vec![1, 2, 3]);
    bench.checker.jobs.offer([good, bad]);
    let items = bench.check();
    assert!(matches!(&items[..], [Item::Submit { .. }]), "{items:?}");
    let answer = bad_answer.await.expect("answered");
    assert!(matches!(answer, Err(SubmitError::Check(_))), "{answer:?}");
}

#[tokio::test]
async fn what_is_too_much_is_turned_away_and_counted() {
    let bench = Bench::new(3).await;
    let message = Gossip::Transactions(vec![bench.payment(1)]);
    let (last, answer) = submit(bench.payment(2));
    let jobs = (1..=4).map(|number| bench.gossip(number, &message)).chain([last]);
    let refused = bench.checker.jobs.offer(jobs);
    assert_eq!((refused.len(), bench.checker.jobs.waiting()), (2, (0, 3)));
    // The other lane has room of its own, and answers to our questions always have.
    assert!(bench.checker.jobs.offer([bench.gossip(9, &bench.votes())]).is_empty());
    let response = |payload: Vec<u8>| Job::Response {
        from: network::PeerId(1),
        request: network::RequestId(1),
        payload: payload.into(),
    };
    assert!(
        bench
            .checker
            .jobs
            .offer((0..5).map(|_| response(vec![0; LARGE_ANSWER + 1])))
            .is_empty()
    );
    turn_away(refused, &bench.checker.commands, &bench.checker.meters);
    assert!(matches!(answer.await.expect("answered"), Err(SubmitError::Overloaded)));
    let meters = &bench.checker.meters;
    assert_eq!((meters.gossip_overload.get(), meters.submit_overload.get()), (1, 1));
}

#[tokio::test]
async fn bytes_that_wait_are_bounded() {
    let bench = Bench::new(1_000).await;
    let jobs = (0..5).map(|number| bench.raw(number, Topic::Transactions, vec![0; 300_000]));
    assert_eq!(bench.checker.jobs.offer(jobs).len(), 2);
}

#[tokio::test]
async fn a_wrong_answer_counts_as_none() {
    let bench = Bench::new(10).await;
    bench.checker.jobs.offer([Job::Response {
        from: network::PeerId(4),
        request: network::RequestId(8),
        payload: vec![9; 9].into(),
    }]);
    let items = bench.check();
    assert!(matches!(
        &items[..],
        [Item::Response {
            from: PeerId(4),
            request: network::RequestId(8),
            answer: None
        }]
    ));
}

#[tokio::test]
async fn questions_for_blocks_do_not_reach_the_loop_and_others_do() {
    let bench = Bench::new(10).await;
    let ask = |ticket: u64, request: Request| Job::Request {
        from: network::PeerId(1),
        ticket: network::Ticket(ticket),
        payload: request.encode().into(),
    };
    let blocks = Request::Blocks {
        from: Height(1),
        max_count: 5,
    };
    bench
        .checker
        .jobs
        .offer([ask(1, blocks), ask(2, Request::Transactions(vec![TxId([1; 32])]))]);
    let items = bench.check();
    assert!(
        matches!(
            &items[..],
            [Item::Input(
                Input::Request {
                    ticket: AnswerTicket(2),
                    ..
                },
                _
            )]
        ),
        "{items:?}"
    );
}

#[tokio::test]
async fn announcements_are_for_the_roster_and_not_for_the_loop() {
    let bench = Bench::new(100).await;
    let address: libp2p::Multiaddr = "/ip4/192.0.2.1/tcp/7310".parse().expect("an address");
    let mut announcement = Announcement {
        validator: bench.key.public(),
        peer: network::identity([1; 32]).to_bytes(),
        addresses: vec![address.to_vec()],
        counter: 1,
        signature: crate::primitives::Signature([0; 64]),
    };
    let forged = announcement.to_gossip();
    announcement.signature = bench.key.sign(&announcement.digest(&bench.checker.electorate.chain));
    bench.checker.jobs.offer([
        bench.raw(1, Topic::Consensus, forged),
        bench.raw(2, Topic::Consensus, announcement.to_gossip()),
        Job::Response {
            from: network::PeerId(1),
            request: network::RequestId(1),
            payload: Announcement::answer(std::iter::once(&announcement)).into(),
        },
        Job::Request {
            from: network::PeerId(1),
            ticket: network::Ticket(1),
            payload: Announcement::request().into(),
        },
    ]);
    assert!(bench.check().is_empty(), "nothing of it reaches the loop");
    assert_eq!(bench.checker.roster.all(), [announcement]);
    assert_eq!(bench.checker.meters.faults_hostile.get(), 1, "the forged one");
    bench.cancel.cancel();
}
