//! A peer that is no validator and means harm: it speaks the protocol well enough to be let in.

use super::manifest::{Attack, AttackKind};
use crate::{
    api::client::{Client, ClientError},
    cli::{load::payers, testnet::layout::Layout},
    network::{self, Event, Topic},
    primitives::{
        Amount, ChainId, LockHash, OutPoint, Output, SecretKey, TxId,
        keys::KeySigner,
        limits::{MAX_BLOCK_TRANSACTIONS, MAX_TRANSACTION_BYTES_PER_MESSAGE},
    },
    proto::{self, Wait, gossip::Kind},
};
use anyhow::{Context as _, bail};
use prost::Message as _;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Payments in one message.
const TOGETHER: u64 = 500;
/// Signed payments that are prepared at most; then they are sent again.
const MAX_SIGNED: usize = 100_000;
/// How long the attacker waits to be let in before it takes another identity.
const LET_IN: Duration = Duration::from_secs(2);

/// What an attack came to.
pub(super) struct Result {
    pub(super) kind: AttackKind,
    /// Payments or proposals that were sent.
    pub(super) sent: u64,
    /// Identities that it took: it takes another one when it is thrown out.
    pub(super) identities: u64,
    /// What the API answered, for kinds that are sent there too.
    pub(super) refusal: Option<String>,
}

/// Runs an attack to its end. What it sends is made beforehand, as far as that is work: that is no trouble of the
/// network's.
pub(super) async fn run(
    attack: &Attack,
    layout: &Layout,
    mut ammunition: Ammunition,
    chain: ChainId,
) -> anyhow::Result<Result> {
    let end = Instant::now() + Duration::from_secs_f64(attack.length);
    let mut result = Result {
        kind: attack.kind,
        sent: 0,
        identities: 0,
        refusal: None,
    };
    if attack.kind == AttackKind::LargePayment {
        let client = Client::lazy(&layout.nodes[attack.to[0]].api.to_string())?;
        result.refusal = Some(refused(&client, &ammunition.large_payment()).await?);
    }
    while Instant::now() < end {
        result.identities += 1;
        let cancel = CancellationToken::new();
        let peer = join(attack, layout, chain, cancel.clone()).await?;
        let sent = speak(attack, peer, &mut ammunition, end).await;
        cancel.cancel();
        result.sent += sent;
    }
    Ok(result)
}

/// What the API says to a payment that it must not take.
async fn refused(client: &Client, payment: &[u8]) -> anyhow::Result<String> {
    match client
        .submit(payment, Wait::Accepted, Duration::from_secs(5), false)
        .await
    {
        Err(ClientError::Refused(refusal)) => Ok(refusal.to_string()),
        Err(error) => Ok(error.to_string()),
        Ok(_) => bail!("the API accepted a payment of {} bytes", payment.len()),
    }
}

async fn join(
    attack: &Attack,
    layout: &Layout,
    chain: ChainId,
    cancel: CancellationToken,
) -> anyhow::Result<network::Network> {
    let address = |number: &usize| format!("/ip4/127.0.0.1/tcp/{}", layout.nodes[*number].peers.port()).parse();
    let config = network::Config {
        listen: vec![],
        bootstrap: attack.to.iter().map(address).collect::<std::result::Result<_, _>>()?,
        // Only those that it is to attack.
        target_peers: 0,
        ..network::Config::default()
    };
    let mut identity = [0; 32];
    rand::fill(&mut identity);
    network::spawn(config, identity, chain.0, vec![], cancel)
        .await
        .context("the attacker's own network")
}

/// Sends at the rate until time is up or nobody listens any more. Answers how much it sent.
async fn speak(attack: &Attack, mut peer: network::Network, ammunition: &mut Ammunition, end: Instant) -> u64 {
    let (mut up, mut sent) = (0usize, 0u64);
    let begin = Instant::now();
    let mut first = None;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            event = peer.events.recv() => match event {
                Some(Event::PeerUp { .. }) => {
                    up += 1;
                    first.get_or_insert_with(Instant::now);
                }
                Some(Event::PeerDown { .. }) => {
                    up -= 1;
                    if up == 0 {
                        return sent;
                    }
                }
                Some(_) => {}
                None => return sent,
            },
            _ = ticks.tick() => {
                let now = Instant::now();
                let Some(first) = first else {
                    if now > begin + LET_IN || now > end {
                        return sent;
                    }
                    continue;
                };
                if now > end {
                    return sent;
                }
                let due = (now.duration_since(first).as_secs_f64() * attack.rate) as u64;
                while sent < due {
                    let (count, topic, bytes) = ammunition.next();
                    peer.commands.publish(topic, bytes);
                    sent += count;
                }
            }
        }
    }
}

/// Makes messages, each different from all before.
pub(super) struct Ammunition {
    kind: AttackKind,
    chain: ChainId,
    signer: KeySigner,
    number: u64,
    signed: Vec<Vec<u8>>,
}

impl Ammunition {
    pub(super) fn new(attack: &Attack, chain: ChainId) -> Self {
        let mut this = Self {
            kind: attack.kind,
            chain,
            signer: SecretKey::from_seed([66; 32]).signer(),
            number: 0,
            signed: vec![],
        };
        if attack.kind == AttackKind::UnknownCoins {
            let wanted = ((attack.rate * attack.length) as usize).min(MAX_SIGNED);
            this.signed = (0..wanted).map(|_| this.payment()).collect();
            this.number = 0;
        }
        this
    }

    /// How many payments or proposals, where they are published, and the message.
    fn next(&mut self) -> (u64, Topic, Vec<u8>) {
        let gossip = |kind| proto::Gossip { kind: Some(kind) }.encode_to_vec();
        let payments = |transactions| gossip(Kind::Transactions(proto::Transactions { transactions }));
        match self.kind {
            AttackKind::WrongSignatures => {
                let payments_ = (0..TOGETHER).map(|_| self.unsigned_payment()).collect();
                (TOGETHER, Topic::Transactions, payments(payments_))
            }
            AttackKind::UnknownCoins => {
                let all = self.signed.len() as u64;
                let chosen =
                    (0..TOGETHER.min(all)).map(|next| self.signed[((self.number + next) % all) as usize].clone());
                let chosen: Vec<Vec<u8>> = chosen.collect();
                self.number += chosen.len() as u64;
                (chosen.len() as u64, Topic::Transactions, payments(chosen))
            }
            AttackKind::LargePayment => (1, Topic::Transactions, payments(vec![self.large_payment()])),
            AttackKind::LargeBlock => {
                self.number += 1;
                let proposal = proto::Proposal {
                    height: self.number,
                    txids: vec![7; 32 * (MAX_BLOCK_TRANSACTIONS + 1)],
                    signature: vec![7; 64],
                    ..proto::Proposal::default()
                };
                (1, Topic::Consensus, gossip(Kind::Proposal(proposal)))
            }
        }
    }

    /// Pays out of a coin that never was, rightly signed.
    fn payment(&mut self) -> Vec<u8> {
        self.number += 1;
        let mut txid = [9; 32];
        txid[..8].copy_from_slice(&self.number.to_be_bytes());
        let input = OutPoint {
            txid: TxId(txid),
            index: 0,
        };
        let output = Output {
            value: Amount(1_000),
            lock: LockHash([1; 32]),
        };
        payers::sign(&self.chain, &self.signer, input, vec![output]).bytes
    }

    /// The same without the work of signing.
    fn unsigned_payment(&mut self) -> Vec<u8> {
        self.number += 1;
        let mut txid = [8; 32];
        txid[..8].copy_from_slice(&self.number.to_be_bytes());
        let body = proto::TransactionBody {
            version: 1,
            inputs: vec![proto::OutPoint {
                txid: txid.to_vec(),
                index: 0,
            }],
            outputs: vec![proto::Output {
                value: 1_000,
                lock: vec![1; 32],
            }],
            memo: vec![],
        };
        let mut signature = [0; 64];
        rand::fill(&mut signature);
        signature[63] &= 0x0f; // or it would not even look like one
        let witness = proto::Witness {
            public_key: self.signer.public().0.to_vec(),
            signature: signature.to_vec(),
        };
        proto::SignedTransaction {
            body: body.encode_to_vec(),
            witnesses: vec![witness],
            policies: vec![],
        }
        .encode_to_vec()
    }

    fn large_payment(&mut self) -> Vec<u8> {
        self.number += 1;
        let mut memo = vec![7; MAX_TRANSACTION_BYTES_PER_MESSAGE];
        memo[..8].copy_from_slice(&self.number.to_be_bytes());
        let body = proto::TransactionBody {
            version: 1,
            memo,
            ..proto::TransactionBody::default()
        };
        proto::SignedTransaction {
            body: body.encode_to_vec(),
            witnesses: vec![],
            policies: vec![],
        }
        .encode_to_vec()
    }
}
