//! Golden files for everything that is hashed or signed: a changed byte splits the network, so it never changes by
//! accident. `TIMECOIN_WRITE_VECTORS=1 cargo test --test vectors` writes them anew; the difference is then for people
//! to judge. The files are for implementers in other languages too: see tests/vectors/README.md.

use serde_json::{Value, json};
use std::{env, fs, path::PathBuf};
use timecoin::{
    ledger::{
        Commitment, LtHash,
        commitment::{COIN_CONTEXT, bucket_of},
        reward::reward_txid,
    },
    primitives::{
        Address, Amount, Block, BlockCertificate, BlockHeader, BlockId, BlockVote, Certificate, ChainId, Coin,
        CommittedBlock, Epoch, EpochSeal, Genesis, Gossip, Hash, Height, LockHash, Multisig, OutPoint, Output, Params,
        Phase, PreparedClaim, PublicKey, Round, SecretKey, Signature, Time, Transaction, TransactionBody, TxId,
        Validator, ValidatorSet, ViewChange, Vote, VoteBatch, VoteKind, VoteProof,
        address::PREFIXES,
        block::{rejections_root, seals_root, transactions_root},
        hash::{merkle_path, merkle_path_root, merkle_root, tagged},
        keys::verify,
    },
};

// ---- the files -------------------------------------------------------------------------------------------------

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name)
}

/// Compares what the code makes today with what is written down, entry by entry.
fn golden(name: &str, made: Value) {
    let path = file(name);
    if env::var_os("TIMECOIN_WRITE_VECTORS").is_some_and(|value| value == "1") {
        let text = serde_json::to_string_pretty(&made).expect("a JSON value") + "\n";
        fs::write(&path, text).expect("tests/vectors is writable");
        return;
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let written: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let difference = first_difference(&written, &made, name.to_owned());
    assert!(
        difference.is_none(),
        "{}\nIf this change of the protocol is meant: TIMECOIN_WRITE_VECTORS=1 cargo test --test vectors",
        difference.unwrap_or_default()
    );
}

fn first_difference(written: &Value, made: &Value, path: String) -> Option<String> {
    match (written, made) {
        (Value::Object(one), Value::Object(other)) if one.keys().all(|key| other.contains_key(key)) => {
            other.iter().find_map(|(key, value)| match one.get(key) {
                Some(old) => first_difference(old, value, format!("{path}/{key}")),
                None => Some(format!("{path}/{key} is not in the file")),
            })
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => (0..)
            .zip(one.iter().zip(other))
            .find_map(|(index, (old, new))| first_difference(old, new, format!("{path}/{index}"))),
        _ if written == made => None,
        _ => Some(format!("{path} is {made}, in the file {written}")),
    }
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(bytes)
}

fn each<T>(items: impl IntoIterator<Item = T>, write: impl FnMut(T) -> Value) -> Vec<Value> {
    items.into_iter().map(write).collect()
}

/// 64-bit numbers are written as decimal text: JSON numbers lose digits above 2^53 in some languages.
fn number(value: u64) -> String {
    value.to_string()
}

// ---- what the vectors are about --------------------------------------------------------------------------------

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

fn key_lock(number: u8) -> LockHash {
    key(number).public().lock()
}

/// Validators with the seeds 11 to 14 repeated, powers 1 to 4, in the set's order.
fn validators() -> (ValidatorSet, Vec<SecretKey>) {
    let mut keys: Vec<SecretKey> = (11..15).map(key).collect();
    let member = |key: &SecretKey| Validator {
        public_key: key.public(),
        power: u64::from(key.seed()[0]) - 10,
        payout: key.public().lock(),
    };
    let set = ValidatorSet::new(keys.iter().map(member).collect()).expect("four validators");
    keys.sort_by_key(SecretKey::public);
    (set, keys)
}

fn genesis() -> Genesis {
    Genesis {
        network: "ltime".into(),
        time: Time(1_767_225_600_000),
        params: Params::default(),
        validators: validators().0,
        coins: vec![output(5_000_000_000, key_lock(1)), output(1, policy().lock())],
    }
}

fn chain() -> ChainId {
    genesis().chain_id()
}

fn output(value: u64, lock: LockHash) -> Output {
    Output {
        value: Amount(value),
        lock,
    }
}

fn policy() -> Multisig {
    Multisig::new(2, vec![key_lock(1), key_lock(2), key_lock(3)]).expect("a valid policy")
}

fn payment() -> Transaction {
    let inputs: Vec<OutPoint> = genesis().named_coins().map(|(outpoint, _)| outpoint).collect();
    let body = TransactionBody {
        inputs,
        outputs: vec![output(4_999_990_000, key_lock(4)), output(9_000, policy().lock())],
        memo: b"invoice 7".to_vec(),
    };
    Transaction::sign(&chain(), &body, &[&key(1), &key(2)], &[policy()]).expect("well-formed")
}

fn simple_payment() -> Transaction {
    let (coin, _) = genesis().named_coins().next().expect("a first coin");
    let body = TransactionBody {
        inputs: vec![coin],
        outputs: vec![output(4_999_999_000, key_lock(2))],
        memo: Vec::new(),
    };
    Transaction::sign(&chain(), &body, &[&key(1)], &[]).expect("well-formed")
}

fn signed_batch(keys: &[SecretKey], validator: u32, votes: Vec<Vote>) -> VoteBatch {
    let mut batch = VoteBatch {
        epoch: Epoch(3),
        validator,
        sequence: 41,
        height: Height(10_805),
        votes,
        signature: Signature([0; 64]),
    };
    batch.signature = keys[validator as usize].sign(&batch.head().digest(&chain()));
    batch
}

/// Validators 1 to 3 (power above two thirds whatever their order) vote on the payment as the last of several.
fn certificate(kind: VoteKind) -> Certificate {
    let (set, keys) = validators();
    let mut members: Vec<u32> = set.iter().map(|(index, _)| index).collect();
    members.sort_by_key(|index| set.power(*index));
    let mut members = members.split_off(1);
    members.sort_unstable();
    let vote = Vote {
        kind,
        txid: payment().txid(),
    };
    let proof = |validator: &u32| {
        let others = (0..*validator + 2).map(|number| Vote {
            kind: VoteKind::Lock,
            txid: TxId([number as u8; 32]),
        });
        let batch = signed_batch(&keys, *validator, others.chain([vote]).collect());
        VoteProof::cut(&batch, batch.votes.len() - 1).expect("the last vote")
    };
    Certificate {
        kind,
        txid: vote.txid,
        epoch: Epoch(3),
        votes: members.iter().map(proof).collect(),
    }
}

fn seal(validator: u32) -> EpochSeal {
    let mut txids = vec![payment().txid(), TxId([0xab; 32]), TxId([0; 32])];
    txids.sort_unstable();
    txids.truncate(validator as usize);
    let mut seal = EpochSeal {
        epoch: Epoch(3),
        validator,
        txids,
        signature: Signature([0; 64]),
    };
    seal.signature = validators().1[validator as usize].sign(&seal.digest(&chain()));
    seal
}

fn block_vote(phase: Phase, validator: u32, block: BlockId) -> BlockVote {
    let mut vote = BlockVote {
        height: Height(14_400),
        round: Round(2),
        phase,
        block,
        validator,
        signature: Signature([0; 64]),
    };
    vote.signature = validators().1[validator as usize].sign(&vote.digest(&chain()));
    vote
}

fn block_certificate(phase: Phase, block: BlockId) -> BlockCertificate {
    let votes = (0..4).map(|validator| block_vote(phase, validator, block));
    BlockCertificate {
        height: Height(14_400),
        round: Round(2),
        phase,
        block,
        signatures: votes.map(|vote| (vote.validator, vote.signature)).collect(),
    }
}

fn header() -> BlockHeader {
    let set = validators().0.hash();
    let last_commit = block_certificate(Phase::Commit, BlockId([6; 32]));
    BlockHeader {
        height: Height(14_401),
        epoch: Epoch(4),
        time: Time(1_767_240_000_123),
        parent: BlockId([6; 32]),
        proposer: 2,
        utxo_root: Commitment::empty().root(),
        transactions_root: transactions_root(&[simple_payment().txid(), payment().txid()]),
        rejections_root: rejections_root(&[certificate(VoteKind::Abandon)]),
        seals_root: seals_root(&chain(), &[seal(0), seal(1), seal(2)]),
        last_commit_hash: last_commit.hash(),
        validators_hash: set,
        next_validators_hash: set,
    }
}

fn coin(outpoint: OutPoint, value: u64, lock: LockHash, height: u64) -> (OutPoint, Coin) {
    let coin = Coin {
        output: output(value, lock),
        height: Height(height),
    };
    (outpoint, coin)
}

fn coins() -> Vec<(OutPoint, Coin)> {
    let at = |first: u8, index: u32| OutPoint {
        txid: TxId([first; 32]),
        index,
    };
    vec![
        coin(at(0, 0), 1, key_lock(1), 0),
        coin(at(0, 1), u64::MAX, key_lock(1), 7),
        coin(at(0x80, 255), 100_000_000, policy().lock(), u64::MAX),
        coin(at(0xff, u32::MAX), 12_345, key_lock(2), 3_600),
    ]
}

// ---- how they are written --------------------------------------------------------------------------------------

/// A digest with the signature of the key with this seed over it.
fn signature(key: &SecretKey, digest: [u8; 32]) -> Value {
    let signature = key.sign(&digest);
    assert!(verify(&key.public(), &digest, &signature));
    json!({
        "seed": text(key.seed()),
        "public_key": key.public(),
        "digest": text(digest),
        "signature": text(signature.0),
    })
}

fn outpoint_value(outpoint: &OutPoint) -> Value {
    json!({ "txid": outpoint.txid, "index": outpoint.index })
}

fn output_value(output: &Output) -> Value {
    json!({ "value": number(output.value.0), "lock": output.lock })
}

fn transaction_value(transaction: &Transaction) -> Value {
    let inputs: Vec<Value> = transaction.inputs().iter().map(outpoint_value).collect();
    let outputs: Vec<Value> = transaction.outputs().iter().map(output_value).collect();
    let body = TransactionBody {
        inputs: transaction.inputs().to_vec(),
        outputs: transaction.outputs().to_vec(),
        memo: transaction.memo().to_vec(),
    };
    let witness = |witness: &timecoin::primitives::Witness| {
        let signer = (1..5)
            .map(key)
            .find(|key| key.public() == witness.public_key)
            .expect("one of ours");
        signature(&signer, transaction.txid().0)
    };
    json!({
        "chain_id": chain(),
        "version": 1,
        "inputs": inputs,
        "outputs": outputs,
        "memo": text(transaction.memo()),
        "body": text(body.encode()),
        "txid": transaction.txid(),
        "witnesses": transaction.witnesses().iter().map(witness).collect::<Vec<_>>(),
        "policies": transaction.policies().iter().map(|policy| text(policy.encode())).collect::<Vec<_>>(),
        "bytes": text(transaction.bytes()),
    })
}

fn vote_value(vote: &Vote) -> Value {
    json!({ "kind": vote.kind.number(), "txid": vote.txid, "leaf": text(vote.to_bytes()) })
}

fn batch_value(batch: &VoteBatch, key: &SecretKey) -> Value {
    let head = batch.head();
    json!({
        "chain_id": chain(),
        "epoch": number(batch.epoch.0),
        "validator": batch.validator,
        "sequence": number(batch.sequence),
        "height": number(batch.height.0),
        "votes": batch.votes.iter().map(vote_value).collect::<Vec<_>>(),
        "count": head.count,
        "root": head.root,
        "signed": signature(key, head.digest(&chain())),
        "gossip": text(Gossip::Votes(batch.clone()).encode()),
    })
}

fn proof_value(proof: &VoteProof) -> Value {
    json!({
        "validator": proof.validator,
        "sequence": number(proof.sequence),
        "height": number(proof.height.0),
        "count": proof.count,
        "index": proof.index,
        "path": proof.path.iter().map(text).collect::<Vec<_>>(),
        "signature": text(proof.signature.0),
    })
}

fn certificate_value(certificate: &Certificate) -> Value {
    let (set, _) = validators();
    assert_eq!(certificate.verify(&chain(), &set), Ok(()));
    assert_eq!(Certificate::decode(&certificate.encode()).as_ref(), Ok(certificate));
    json!({
        "chain_id": chain(),
        "kind": certificate.kind.number(),
        "txid": certificate.txid,
        "epoch": number(certificate.epoch.0),
        "votes": certificate.votes.iter().map(proof_value).collect::<Vec<_>>(),
        "bytes": text(certificate.encode()),
    })
}

fn block_certificate_value(certificate: &BlockCertificate) -> Value {
    let (set, _) = validators();
    assert_eq!(certificate.verify(&chain(), &set), Ok(()));
    assert_eq!(
        BlockCertificate::decode(&certificate.encode()).as_ref(),
        Ok(certificate)
    );
    let signer =
        |(validator, signature): &(u32, Signature)| json!({ "validator": validator, "signature": text(signature.0) });
    json!({
        "chain_id": chain(),
        "height": number(certificate.height.0),
        "round": certificate.round.0,
        "phase": certificate.phase.number(),
        "block_id": certificate.block,
        "signatures": certificate.signatures.iter().map(signer).collect::<Vec<_>>(),
        "bytes": text(certificate.encode()),
        "hash": certificate.hash(),
    })
}

fn header_value(header: &BlockHeader) -> Value {
    assert_eq!(BlockHeader::decode(&header.encode()).as_ref(), Ok(header));
    json!({
        "chain_id": chain(),
        "version": 1,
        "height": number(header.height.0),
        "epoch": number(header.epoch.0),
        "time_ms": number(header.time.0),
        "parent": header.parent,
        "proposer": header.proposer,
        "utxo_root": header.utxo_root,
        "transactions_root": header.transactions_root,
        "rejections_root": header.rejections_root,
        "seals_root": header.seals_root,
        "last_commit_hash": header.last_commit_hash,
        "validators_hash": header.validators_hash,
        "next_validators_hash": header.next_validators_hash,
        "bytes": text(header.encode()),
        "block_id": header.id(&chain()),
    })
}

fn seal_value(seal: &EpochSeal) -> Value {
    json!({
        "chain_id": chain(),
        "epoch": number(seal.epoch.0),
        "validator": seal.validator,
        "txids": seal.txids,
        "txids_root": merkle_root(&seal.txids),
        "signed": signature(&validators().1[seal.validator as usize], seal.digest(&chain())),
        "gossip": text(Gossip::Seal(seal.clone()).encode()),
    })
}

fn view_change_value(prepared: Option<PreparedClaim>) -> Value {
    let key = &validators().1[1];
    let mut change = ViewChange {
        height: Height(14_400),
        round: Round(3),
        prepared,
        certificate: prepared.map(|claim| block_certificate(Phase::Prepare, claim.block)),
        validator: 1,
        signature: Signature([0; 64]),
    };
    change.signature = key.sign(&change.digest(&chain()));
    json!({
        "chain_id": chain(),
        "height": number(change.height.0),
        "round": change.round.0,
        "prepared": prepared.map(|claim| json!({ "round": claim.round.0, "block_id": claim.block })),
        "validator": change.validator,
        "signed": signature(key, change.digest(&chain())),
        "gossip": text(Gossip::ViewChange(change).encode()),
    })
}

fn coin_value((outpoint, coin): &(OutPoint, Coin)) -> Value {
    let mut state = LtHash::new();
    state.insert(outpoint, coin);
    assert_eq!(Coin::decode(&coin.encode()).as_ref(), Ok(coin));
    json!({
        "outpoint": outpoint_value(outpoint),
        "outpoint_bytes": text(outpoint.to_bytes()),
        "value": number(coin.output.value.0),
        "lock": coin.output.lock,
        "height": number(coin.height.0),
        "bytes": text(coin.encode()),
        "bucket": bucket_of(&outpoint.txid),
        "state_first_64_bytes": text(&state.to_bytes()[..64]),
        "state_digest": state.digest(),
    })
}

// ---- the tests -------------------------------------------------------------------------------------------------

#[test]
fn hashes() {
    let tags = [
        ("timecoin/tx", "", ""),
        ("timecoin/tx", "00", "ff00"),
        ("a", "6162", "63"),
        ("", "", ""),
    ];
    let tagged_hash = |(tag, first, second): &(&str, &str, &str)| {
        let part = |part: &str| hex::decode(part).expect("the test's own hex");
        json!({ "tag": tag, "parts": [first, second], "hash": text(tagged(tag, &[&part(first), &part(second)])) })
    };
    let tree = |count: u8| {
        let leaves: Vec<Vec<u8>> = (0..count)
            .map(|number| vec![number; usize::from(number % 3) + 1])
            .collect();
        let root = merkle_root(&leaves);
        let path = |index: usize| {
            let path = merkle_path(&leaves, index);
            assert_eq!(merkle_path_root(&leaves[index], index, leaves.len(), &path), Some(root));
            path.iter().map(text).collect::<Vec<_>>()
        };
        json!({
            "leaves": leaves.iter().map(text).collect::<Vec<_>>(),
            "root": root,
            "paths": (0..leaves.len()).map(path).collect::<Vec<_>>(),
        })
    };
    golden(
        "hashes.json",
        json!({
            "tagged": tags.iter().map(tagged_hash).collect::<Vec<_>>(),
            "merkle": each([0, 1, 2, 3, 5, 8, 11], tree),
        }),
    );
}

#[test]
fn keys_and_locks() {
    let one = |number: u8| {
        let key = key(number);
        let address = |prefix: &str| Address::new(prefix, key.public().lock()).to_string();
        for prefix in PREFIXES {
            let parsed = Address::parse(&address(prefix), prefix).expect("just written");
            assert_eq!(parsed.lock, key.public().lock());
        }
        json!({
            "seed": text(key.seed()),
            "public_key": key.public(),
            "lock": key.public().lock(),
            "addresses": PREFIXES.map(address),
            "signatures": each([[0; 32], [0xff; 32], tagged("timecoin/tx", &[])], |digest| signature(&key, digest)),
        })
    };
    let multisig = |policy: &Multisig| {
        assert_eq!(Multisig::decode(&policy.encode()).as_ref(), Ok(policy));
        json!({
            "threshold": policy.threshold(),
            "key_hashes": policy.key_hashes(),
            "bytes": text(policy.encode()),
            "lock": policy.lock(),
            "addresses": PREFIXES.map(|prefix| Address::new(prefix, policy.lock()).to_string()),
        })
    };
    let single = Multisig::new(1, vec![key_lock(9)]).expect("a valid policy");
    let largest = Multisig::new(16, (1..17).map(key_lock).collect()).expect("a valid policy");
    golden(
        "keys.json",
        json!({ "keys": each([0, 1, 2, 255], one), "multisig": each([&single, &policy(), &largest], multisig) }),
    );
}

#[test]
fn transactions() {
    for transaction in [simple_payment(), payment()] {
        assert_eq!(
            Transaction::decode(&chain(), transaction.bytes()),
            Ok(transaction.clone())
        );
        assert!(timecoin::ledger::check::check(&chain(), transaction.bytes()).is_ok());
    }
    golden(
        "transactions.json",
        json!({ "transactions": each([simple_payment(), payment()], |transaction| transaction_value(&transaction)) }),
    );
}

#[test]
fn votes() {
    let (set, keys) = validators();
    let vote = |kind, fill| Vote {
        kind,
        txid: TxId([fill; 32]),
    };
    let one = signed_batch(&keys, 0, vec![vote(VoteKind::Lock, 1)]);
    let many = vec![
        vote(VoteKind::Lock, 1),
        vote(VoteKind::Final, 2),
        vote(VoteKind::Abandon, 3),
    ];
    let many = signed_batch(&keys, 3, many);
    let batches: Vec<Value> = [one, many]
        .iter()
        .map(|batch| batch_value(batch, &keys[batch.validator as usize]))
        .collect();
    let member = |(index, validator): (u32, &Validator)| {
        json!({
            "index": index,
            "public_key": validator.public_key,
            "power": number(validator.power),
            "payout": validator.payout,
        })
    };
    golden(
        "votes.json",
        json!({
            "validators": set.iter().map(member).collect::<Vec<_>>(),
            "validators_hash": set.hash(),
            "batches": batches,
            "lock_certificate": certificate_value(&certificate(VoteKind::Lock)),
            "receipt": certificate_value(&certificate(VoteKind::Final)),
            "rejection": certificate_value(&certificate(VoteKind::Abandon)),
        }),
    );
}

#[test]
fn blocks() {
    let (header, keys) = (header(), validators().1);
    let id = header.id(&chain());
    let vote = |phase: Phase| {
        let vote = block_vote(phase, 2, id);
        json!({
            "chain_id": chain(),
            "height": number(vote.height.0),
            "round": vote.round.0,
            "phase": phase.number(),
            "block_id": id,
            "validator": vote.validator,
            "signed": signature(&keys[2], vote.digest(&chain())),
        })
    };
    let first = BlockHeader {
        height: Height(1),
        epoch: Epoch(0),
        parent: BlockId(chain().0),
        proposer: 0,
        transactions_root: transactions_root(&[]),
        rejections_root: rejections_root(&[]),
        seals_root: seals_root(&chain(), &[]),
        last_commit_hash: Hash::default(),
        ..header.clone()
    };
    let committed = CommittedBlock {
        block: Block {
            header: header.clone(),
            transactions: vec![simple_payment().bytes().to_vec(), payment().bytes().to_vec()],
            rejections: vec![certificate(VoteKind::Abandon)],
            seals: vec![seal(0), seal(1), seal(2)],
            last_commit: Some(block_certificate(Phase::Commit, BlockId([6; 32]))),
        },
        commit: block_certificate(Phase::Commit, id),
    };
    assert_eq!(CommittedBlock::decode(&committed.encode()).as_ref(), Ok(&committed));
    let claim = PreparedClaim {
        round: Round(2),
        block: id,
    };
    golden(
        "blocks.json",
        json!({
            "headers": [header_value(&first), header_value(&header)],
            "block_votes": each([Phase::Propose, Phase::Prepare, Phase::Commit], vote),
            "view_changes": [view_change_value(None), view_change_value(Some(claim))],
            "seals": each(0..4, |validator| seal_value(&seal(validator))),
            "prepare_certificate": block_certificate_value(&block_certificate(Phase::Prepare, id)),
            "commit_certificate": block_certificate_value(&block_certificate(Phase::Commit, id)),
            "committed_block": text(committed.encode()),
            "reward_txids": each([0, 3, u64::MAX], |epoch| json!({
                "chain_id": chain(),
                "epoch": number(epoch),
                "txid": reward_txid(&chain(), Epoch(epoch)),
            })),
        }),
    );
}

#[test]
fn genesis_and_chain_id() {
    let genesis = genesis();
    assert_eq!(Genesis::decode(&genesis.encode()).as_ref(), Ok(&genesis));
    let (tip, coins, _) = timecoin::ledger::apply::genesis_tip(&genesis).expect("a valid genesis");
    let named = |(outpoint, coin): &(OutPoint, Coin)| json!({ "outpoint": outpoint_value(outpoint), "output": output_value(&coin.output) });
    let member = |(_, validator): (u32, &Validator)| {
        json!({
            "public_key": validator.public_key,
            "power": number(validator.power),
            "payout": validator.payout,
        })
    };
    golden(
        "genesis.json",
        json!({
            "network": genesis.network,
            "time_ms": number(genesis.time.0),
            "params": serde_json::to_value(&genesis.params).expect("plain numbers"),
            "validators": genesis.validators.iter().map(member).collect::<Vec<_>>(),
            "validators_hash": genesis.validators.hash(),
            "coins": coins.iter().map(named).collect::<Vec<_>>(),
            "bytes": text(genesis.encode()),
            "chain_id": genesis.chain_id(),
            "utxo_root": tip.utxo_root,
            "supply": number(tip.supply.0),
        }),
    );
}

#[test]
fn coin_commitment() {
    let coins = coins();
    let root_of = |count: usize| {
        let commitment = Commitment::of_coins(coins[..count].iter().map(|(outpoint, coin)| (outpoint, coin)));
        commitment.root()
    };
    let mut shared = LtHash::new();
    for (outpoint, coin) in &coins[..2] {
        shared.insert(outpoint, coin);
    }
    let mut back = shared.clone();
    back.remove(&coins[0].0, &coins[0].1);
    golden(
        "coins.json",
        json!({
            "context": COIN_CONTEXT,
            "coins": coins.iter().map(coin_value).collect::<Vec<_>>(),
            "empty_bucket_digest": LtHash::new().digest(),
            "bucket_0": { "coins": [0, 1], "state": text(shared.to_bytes()), "digest": shared.digest() },
            "bucket_0_without_coin_0": { "coins": [1], "state": text(back.to_bytes()), "digest": back.digest() },
            "roots": (0..=coins.len())
                .map(|count| json!({ "first_coins": count, "root": root_of(count) }))
                .collect::<Vec<_>>(),
        }),
    );
}

/// RFC 8032, section 7.1, tests 1 to 3 are over messages that are no digests; the keys and the one over 32 bytes made
/// by us come from the same code, so their published keys are enough to tie it to the standard.
#[test]
fn published_ed25519_keys() {
    for (seed, public_key) in [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        ),
    ] {
        let seed: [u8; 32] = hex::decode(seed).expect("hex").try_into().expect("32 bytes");
        let expected: PublicKey = public_key.parse().expect("64 hex digits");
        assert_eq!(SecretKey::from_seed(seed).public(), expected);
    }
}
