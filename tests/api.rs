//! The API of a real node: one validator that is a quorum by itself, with its store, safety log and threads, asked over
//! gRPC on the loopback interface.

use futures::StreamExt as _;
use std::{collections::BTreeSet, path::Path, time::Duration};
use timecoin::{
    api::client::{Client, ClientError, Submitted},
    node::{self, Config, Node},
    primitives::{
        Address, Amount, Certificate, Genesis, LockHash, Multisig, OutPoint, Output, Params, SecretKey, Time,
        Transaction, TransactionBody, TxId, Validator, ValidatorSet, VoteKind,
    },
    proto::{
        self, PaymentEventKind, PaymentState, SubmitBatch, SubmitItem, Wait, get_block_request::Which, node_event,
        submit_reply,
    },
    signer::{KeyFile, KeyKind},
};

const COINS: usize = 2_500;
const COIN: u64 = 1_000_000;
const SOON: Duration = Duration::from_secs(20);

fn payer() -> SecretKey {
    SecretKey::from_seed([5; 32])
}

struct Network {
    _dir: tempfile::TempDir,
    genesis: Genesis,
    node: Node,
    client: Client,
}

fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Time(since.expect("after 1970").as_millis() as u64)
}

/// A chain with fast blocks, and its only validator.
async fn start() -> Network {
    start_with(|_| {}).await
}

async fn start_with(change: impl FnOnce(&mut Config)) -> Network {
    let dir = tempfile::tempdir().expect("a directory");
    let key = KeyFile::generate(KeyKind::Validator);
    key.save(&dir.path().join("validator.key")).expect("writes");
    let coin = Output {
        value: Amount(COIN),
        lock: payer().public().lock(),
    };
    let genesis = Genesis {
        network: "ltime".into(),
        time: now(),
        params: Params {
            block_interval_ms: 100,
            idle_block_interval_ms: 1_000,
            ..Params::default()
        },
        validators: ValidatorSet::new(vec![Validator {
            public_key: key.public_key(),
            power: 1,
            payout: LockHash([1; 32]),
        }])
        .expect("a valid set"),
        coins: vec![coin; COINS],
    };
    std::fs::write(dir.path().join("genesis.bin"), genesis.encode()).expect("writes");
    let mut config = config(dir.path());
    change(&mut config);
    node::create_safety_log(&config, key.public_key(), &genesis).expect("a new log");
    let node = Node::start(config).await.expect("starts");
    let client = Client::connect(&node.api.to_string()).await.expect("connects");
    Network {
        _dir: dir,
        genesis,
        node,
        client,
    }
}

fn config(dir: &Path) -> Config {
    let mut config = Config {
        data_dir: dir.join("data"),
        genesis: dir.join("genesis.bin"),
        validator_key: Some(dir.join("validator.key")),
        ..Config::default()
    };
    config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")];
    config.api.listen = "127.0.0.1:0".parse().expect("an address");
    config.http.listen = "127.0.0.1:0".parse().expect("an address");
    config
}

impl Network {
    /// A payment out of one of the first coins; `fee` in units.
    fn payment(&self, coin: usize, fee: u64, to: LockHash) -> Transaction {
        let (outpoint, _) = self.genesis.named_coins().nth(coin).expect("a coin");
        self.spend(outpoint, fee, to)
    }

    fn spend(&self, outpoint: OutPoint, fee: u64, to: LockHash) -> Transaction {
        let body = TransactionBody {
            inputs: vec![outpoint],
            outputs: vec![Output {
                value: Amount(COIN - fee),
                lock: to,
            }],
            memo: vec![],
        };
        Transaction::sign(&self.genesis.chain_id(), &body, &[&payer()], &[]).expect("signs")
    }

    async fn submit(&self, payment: &Transaction, wait: Wait) -> Result<Submitted, ClientError> {
        self.client.submit(payment.bytes(), wait, SOON, true).await
    }
}

fn refusal(result: Result<Submitted, ClientError>) -> timecoin::api::Refusal {
    match result {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_final_with_a_receipt_then_in_a_block_and_the_same_again_is_no_error() {
    let network = start().await;
    let payment = network.payment(0, 1_000, LockHash([9; 32]));
    let submitted = network.submit(&payment, Wait::Final).await.expect("final");
    assert!(submitted.reached && submitted.txid == payment.txid());
    let receipt = submitted.receipt.expect("a receipt");
    assert_eq!((receipt.kind, receipt.txid), (VoteKind::Final, payment.txid()));
    receipt
        .verify(&network.genesis.chain_id(), &network.genesis.validators)
        .expect("proves finality");

    let committed = network.submit(&payment, Wait::Committed).await.expect("committed");
    let height = committed.height.expect("a height");
    assert_eq!(committed.state, PaymentState::Committed);
    for wait in [Wait::Accepted, Wait::Final, Wait::Committed] {
        let again = network.submit(&payment, wait).await.expect("idempotent");
        assert!(again.reached);
        assert_eq!(again.height, Some(height));
    }

    let known = network
        .client
        .transaction(&payment.txid(), true, true)
        .await
        .expect("answers")
        .expect("known");
    assert_eq!(
        (known.state(), known.height, known.transaction.as_slice()),
        (PaymentState::Committed, height.0, payment.bytes())
    );
    let receipt = Certificate::decode(&prost::Message::encode_to_vec(&known.receipt.expect("kept")));
    assert!(receipt.is_ok());
    let block = network
        .client
        .block(Which::Height(height.0), true)
        .await
        .expect("answers")
        .expect("known");
    assert_eq!(block.transactions[known.index as usize], payment.bytes());
    assert_eq!(block.txids[known.index as usize], payment.txid().0);
    let by_id = network
        .client
        .block(Which::BlockId(block.block_id.clone()), false)
        .await
        .expect("answers");
    assert_eq!(by_id.expect("known").header, block.header);
    network.node.stop().await.expect("stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_is_refused_by_its_name_and_values() {
    let network = start().await;
    let unknown = OutPoint {
        txid: TxId([7; 32]),
        index: 3,
    };
    let refused = refusal(
        network
            .submit(&network.spend(unknown, 1_000, LockHash([9; 32])), Wait::Final)
            .await,
    );
    assert_eq!(refused.reason, "UNKNOWN_INPUT");
    assert_eq!(refused.metadata["outpoint"], unknown.to_string());

    let cheap = network.payment(1, 10, LockHash([9; 32]));
    let refused = refusal(network.submit(&cheap, Wait::Final).await);
    assert_eq!(refused.reason, "FEE_TOO_LOW");
    assert_eq!(refused.metadata["fee"], "10");
    assert_eq!(refused.metadata["required"], cheap.bytes().len().to_string());

    let good = network.payment(1, 1_000, LockHash([9; 32]));
    let mut forged = good.bytes().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let answer = network.client.submit(&forged, Wait::Final, SOON, false).await;
    assert_eq!(refusal(answer).reason, "BAD_SIGNATURE");

    let answer = network.client.submit(&vec![0; 100_001], Wait::Final, SOON, false).await;
    let refused = refusal(answer);
    assert_eq!(
        (refused.reason.as_str(), refused.metadata["max"].as_str()),
        ("OUT_OF_LIMITS", "100000")
    );
    let answer = network
        .client
        .submit(b"not a transaction", Wait::Final, SOON, false)
        .await;
    assert_eq!(refusal(answer).reason, "MALFORMED");

    // A payment of another chain.
    let other = Genesis {
        time: Time(1),
        ..network.genesis.clone()
    };
    let (outpoint, _) = network.genesis.named_coins().next().expect("a coin");
    let body = TransactionBody {
        inputs: vec![outpoint],
        outputs: vec![Output {
            value: Amount(1),
            lock: LockHash([1; 32]),
        }],
        memo: vec![],
    };
    let foreign = Transaction::sign(&other.chain_id(), &body, &[&payer()], &[]).expect("signs");
    assert_eq!(
        refusal(network.submit(&foreign, Wait::Final).await).reason,
        "BAD_SIGNATURE"
    );

    // The coin is as free as before.
    assert!(network.submit(&good, Wait::Final).await.expect("final").reached);
    network.node.stop().await.expect("stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_megabyte_is_refused_before_it_is_read() {
    let network = start_with(|config| config.api.max_request_bytes = 200_000).await;
    let answer = network
        .client
        .submit(&vec![0; 1_000_000], Wait::Final, SOON, false)
        .await;
    assert!(answer.is_err());
    let payment = network.payment(0, 1_000, LockHash([9; 32]));
    assert!(
        network
            .submit(&payment, Wait::Final)
            .await
            .expect("still serves")
            .reached
    );
    network.node.stop().await.expect("stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_every_item_once_whatever_becomes_of_it() {
    let network = start().await;
    let count = 600;
    let item = |id: usize, transaction: Vec<u8>| SubmitItem {
        id: id as u64,
        transaction,
        wait: if id.is_multiple_of(2) {
            Wait::Final
        } else {
            Wait::Committed
        }
        .into(),
        timeout_ms: 20_000,
        want_receipt: id.is_multiple_of(3),
    };
    let mut items: Vec<SubmitItem> = (0..count)
        .map(|id| item(id, network.payment(id, 1_000, LockHash([9; 32])).bytes().to_vec()))
        .collect();
    // The same payment again under another number, one that breaks a rule, one that is nothing.
    items.push(item(
        count,
        network.payment(0, 1_000, LockHash([9; 32])).bytes().to_vec(),
    ));
    items.push(item(
        count + 1,
        network.payment(count + 1, 1, LockHash([9; 32])).bytes().to_vec(),
    ));
    items.push(item(count + 2, b"nothing".to_vec()));
    let batches: Vec<SubmitBatch> = items
        .chunks(100)
        .map(|items| SubmitBatch { items: items.to_vec() })
        .collect();
    let mut replies = network
        .client
        .submit_stream(futures::stream::iter(batches))
        .await
        .expect("a stream");
    let mut answered = BTreeSet::new();
    while let Some(message) = replies.message().await.expect("answers") {
        for reply in message.replies {
            assert!(answered.insert(reply.id), "{} twice", reply.id);
            match reply.outcome.expect("an outcome") {
                submit_reply::Outcome::Done(done) => {
                    assert!(done.reached, "{done:?}");
                    let wanted = reply.id % 2 == 1;
                    assert!(!wanted || done.state() == PaymentState::Committed, "{done:?}");
                    assert_eq!(done.receipt.is_some(), reply.id.is_multiple_of(3), "{}", reply.id);
                }
                submit_reply::Outcome::Refused(refused) => {
                    let expected = match reply.id as usize {
                        id if id == count + 1 => "FEE_TOO_LOW",
                        id if id == count + 2 => "MALFORMED",
                        other => panic!("{other}: {refused:?}"),
                    };
                    assert_eq!(refused.reason, expected);
                }
            }
        }
    }
    assert_eq!(answered.len(), count + 3, "the stream ends when all is answered");
    network.node.stop().await.expect("stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn coins_come_by_page_and_add_up() {
    let network = start().await;
    let lock = payer().public().lock();
    let (mut seen, mut cursor, mut pages) = (BTreeSet::new(), Vec::new(), 0);
    loop {
        let (page, next) = network.client.coins_page(&lock, 1_000, cursor).await.expect("a page");
        assert!(page.len() <= 1_000);
        seen.extend(page.iter().map(|coin| coin.outpoint));
        pages += 1;
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!((seen.len(), pages), (COINS, 3));
    let balance = network.client.balance(&lock).await.expect("a balance");
    assert_eq!((balance.balance, balance.coins), (COIN * COINS as u64, COINS as u64));
    let too_many = network.client.coins_page(&lock, 1_001, vec![]).await;
    assert!(matches!(too_many, Err(ClientError::Refused(refusal)) if refusal.reason == "OUT_OF_LIMITS"));
    let bad_cursor = network.client.coins_page(&lock, 10, vec![1, 2]).await;
    assert!(matches!(bad_cursor, Err(ClientError::Refused(refusal)) if refusal.reason == "BAD_CURSOR"));

    let payee = Multisig::new(1, vec![lock]).expect("a policy").lock();
    let payment = network.payment(0, 1_000, payee);
    network.submit(&payment, Wait::Committed).await.expect("committed");
    let coins = network.client.coins(&payee, 10).await.expect("coins");
    assert_eq!((coins.len(), coins[0].value.0), (1, COIN - 1_000));
    network.node.stop().await.expect("stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_see_what_concerns_them_in_order() {
    let network = start().await;
    let mine = LockHash([9; 32]);
    let request = |addresses: Vec<String>, blocks_only| proto::SubscribeRequest {
        addresses,
        blocks_only,
        want_bodies: true,
        ..Default::default()
    };
    let address = Address::new("ltime", mine).to_string();
    let mut to_me = network
        .client
        .subscribe(request(vec![address], false))
        .await
        .expect("subscribes");
    let mut blocks = network
        .client
        .subscribe(request(vec![], true))
        .await
        .expect("subscribes");
    let other = network.payment(0, 1_000, LockHash([8; 32]));
    let payment = network.payment(1, 1_000, mine);
    network.submit(&other, Wait::Final).await.expect("final");
    network.submit(&payment, Wait::Committed).await.expect("committed");
    let mut kinds = Vec::new();
    while kinds.last() != Some(&PaymentEventKind::Committed) {
        let message = tokio::time::timeout(SOON, to_me.message())
            .await
            .expect("in time")
            .expect("answers");
        for event in message.expect("goes on").events {
            if let Some(node_event::Event::Payment(event)) = event.event {
                assert_eq!(event.txid, payment.txid().0, "not mine");
                assert_eq!(event.transaction, payment.bytes());
                kinds.push(event.kind());
            }
        }
    }
    let expected = [
        PaymentEventKind::Accepted,
        PaymentEventKind::Final,
        PaymentEventKind::Committed,
    ];
    assert_eq!(kinds, expected);
    let message = tokio::time::timeout(SOON, blocks.message())
        .await
        .expect("in time")
        .expect("answers");
    for event in message.expect("goes on").events {
        assert!(matches!(event.event, Some(node_event::Event::Block(_))), "{event:?}");
    }

    // Stopping the node ends the subscriptions with a word, and does not wait for their readers.
    network.node.stop().await.expect("stops in order");
    let mut ended = None;
    while let Some(message) = to_me.next().await {
        ended = message.err().or(ended);
    }
    assert_eq!(ended.expect("a word").code(), tonic::Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_too_slow_is_told_what_it_missed_and_holds_nobody_up() {
    let network = start().await;
    let request = proto::SubscribeRequest {
        want_bodies: true,
        ..Default::default()
    };
    let mut slow = network.client.subscribe(request).await.expect("subscribes");
    // Far more than fits into what waits for one reader: bodies fill the windows of the connection.
    let memo = |id: usize| {
        let (outpoint, _) = network.genesis.named_coins().nth(id).expect("a coin");
        let body = TransactionBody {
            inputs: vec![outpoint],
            outputs: vec![
                Output {
                    value: Amount(3_500),
                    lock: LockHash([9; 32]),
                };
                250
            ],
            memo: vec![0; 256],
        };
        Transaction::sign(&network.genesis.chain_id(), &body, &[&payer()], &[]).expect("signs")
    };
    for id in 0..1_500 {
        let submitted = network
            .client
            .submit(memo(id).bytes(), Wait::Final, SOON, false)
            .await
            .expect("final");
        assert!(submitted.reached);
    }
    let mut missed = 0;
    while missed == 0 {
        let message = tokio::time::timeout(SOON, slow.message())
            .await
            .expect("is told")
            .expect("answers");
        for event in message.expect("goes on").events {
            if let Some(node_event::Event::Lagged(lagged)) = event.event {
                missed += lagged.missed;
            }
        }
    }
    network.node.stop().await.expect("stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_health_and_reflection_answer() {
    let network = start().await;
    let status = network.client.status().await.expect("a status");
    assert_eq!(status.chain_id, network.genesis.chain_id().0);
    assert_eq!(
        (status.network.as_str(), status.validators.len(), status.is_validator),
        ("ltime", 1, true)
    );
    assert_eq!(
        status.params.expect("parameters").min_fee_rate,
        network.genesis.params.min_fee_rate
    );

    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", network.node.api))
        .expect("an address")
        .connect()
        .await
        .expect("connects");
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let serving = tonic_health::pb::health_check_response::ServingStatus::Serving;
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let request = tonic_health::pb::HealthCheckRequest {
            service: "timecoin.v1.Node".into(),
        };
        let answer = health.check(request).await.expect("answers").into_inner();
        if answer.status() == serving {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "not serving in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    use tonic_reflection::pb::v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let mut answers = reflection
        .server_reflection_info(futures::stream::iter([request]))
        .await
        .expect("reflects")
        .into_inner();
    let answer = answers.message().await.expect("answers").expect("one answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("not a list");
    };
    assert!(
        list.service.iter().any(|service| service.name == "timecoin.v1.Node"),
        "{list:?}"
    );
    network.node.stop().await.expect("stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_closed_and_places_come_back() {
    let network = start_with(|config| config.api.max_connections = 3).await;
    let address = network.node.api.to_string();
    let mut held = Vec::new();
    for _ in 0..2 {
        let client = Client::connect(&address).await.expect("connects");
        client.status().await.expect("is served");
        held.push(client);
    }
    let refused = async {
        let client = Client::connect(&address).await?;
        client.status().await
    };
    assert!(refused.await.is_err());
    drop(held);
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let again = async { Client::connect(&address).await?.status().await };
        if again.await.is_ok() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "no place came back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    network.node.stop().await.expect("stops in order");
}
