//! Transactions, their parts, and coins.

use super::{
    amount::Amount,
    hash::{ChainId, LockHash, TxId},
    keys::{PublicKey, Signature},
    limits::{MAX_INPUTS, MAX_MEMO, MAX_MULTISIG_KEYS, MAX_OUTPUTS, MAX_TRANSACTION_SIZE, MAX_WITNESSES},
    time::Height,
    wire::{self, DecodeError},
};
use crate::proto;
use prost::Message;
use std::fmt;

/// Names an output: the transaction that made it, and its position there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutPoint {
    /// The transaction that made the output.
    pub txid: TxId,
    /// Position among its outputs, from 0.
    pub index: u32,
}

impl OutPoint {
    /// Where the mark stands that a transaction was rejected ([`Coin::rejection`]). No transaction has so many outputs.
    pub const fn rejection(txid: TxId) -> Self {
        Self { txid, index: u32::MAX }
    }

    /// Whether it is the place of such a mark.
    pub const fn is_rejection(&self) -> bool {
        self.index == u32::MAX
    }

    /// 36 bytes: txid, index big-endian. How stores key it.
    pub fn to_bytes(&self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[..32].copy_from_slice(&self.txid.0);
        bytes[32..].copy_from_slice(&self.index.to_be_bytes());
        bytes
    }

    /// Back from [`OutPoint::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes: [u8; 36] = wire::array("outpoint", bytes)?;
        let (txid, index) = bytes.split_at(32);
        Ok(Self {
            txid: TxId(wire::array("outpoint txid", txid)?),
            index: u32::from_be_bytes(wire::array("outpoint index", index)?),
        })
    }
}

impl fmt::Display for OutPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.txid, self.index)
    }
}

impl std::str::FromStr for OutPoint {
    type Err = String;
    /// Reads `txid:index`.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("'{text}' is not an outpoint: expected 64 hex digits, a colon and a number");
        let (txid, index) = text.split_once(':').ok_or_else(form)?;
        Ok(Self {
            txid: txid.parse().map_err(|_| form())?,
            index: index.parse().map_err(|_| form())?,
        })
    }
}

/// Money under a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// More than 0.
    pub value: Amount,
    /// What opens it.
    pub lock: LockHash,
}

impl Output {
    pub(crate) fn to_proto(self) -> proto::Output {
        proto::Output {
            value: self.value.0,
            lock: self.lock.0.to_vec(),
        }
    }

    pub(crate) fn from_proto(message: &proto::Output) -> Result<Self, DecodeError> {
        if message.value == 0 {
            return Err(DecodeError::Missing {
                what: "output value above 0",
            });
        }
        Ok(Self {
            value: Amount(message.value),
            lock: LockHash(wire::array("output lock", &message.lock)?),
        })
    }
}

/// An unspent output, with what the ledger knows about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coin {
    /// Value and lock.
    pub output: Output,
    /// Height of the block that made it; 0 for genesis.
    pub height: Height,
}

impl Coin {
    /// The mark that a block at `height` rejected a transaction. It stands among the coins, at
    /// [`OutPoint::rejection`], so that whoever has the coins knows what is never valid again. No transaction can spend
    /// it: its value is zero, and nothing hashes to its lock.
    pub const fn rejection(height: Height) -> Self {
        Self {
            output: Output {
                value: Amount::ZERO,
                lock: LockHash([0; 32]),
            },
            height,
        }
    }

    /// Whether it is the mark of a rejection.
    pub fn is_rejection(&self) -> bool {
        self.output == Self::rejection(self.height).output
    }

    pub(crate) fn to_proto(self) -> proto::Coin {
        proto::Coin {
            value: self.output.value.0,
            lock: self.output.lock.0.to_vec(),
            height: self.height.0,
        }
    }

    pub(crate) fn from_proto(message: proto::Coin) -> Result<Self, DecodeError> {
        let height = Height(message.height);
        if message.value == 0 && message.lock == [0; 32] {
            return Ok(Self::rejection(height));
        }
        let output = Output::from_proto(&proto::Output {
            value: message.value,
            lock: message.lock,
        })?;
        Ok(Self { output, height })
    }

    /// Canonical Protobuf bytes: stored, paged, and hashed into the coin commitment together with the outpoint.
    pub fn encode(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    /// Back from [`Coin::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_proto(wire::decode_canonical("coin", bytes)?)
    }
}

/// The policy behind a multisig lock: any `threshold` of the keys open it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Multisig {
    threshold: u32,
    key_hashes: Vec<LockHash>,
}

impl Multisig {
    /// A policy over the locks of single keys; sorted here. `1 ≤ threshold ≤ keys ≤ 16`, keys distinct.
    pub fn new(threshold: u32, mut key_hashes: Vec<LockHash>) -> Result<Self, DecodeError> {
        key_hashes.sort_unstable();
        Self::checked(threshold, key_hashes)
    }

    fn checked(threshold: u32, key_hashes: Vec<LockHash>) -> Result<Self, DecodeError> {
        wire::count("multisig keys", key_hashes.len(), 1, MAX_MULTISIG_KEYS)?;
        wire::ascending("multisig keys", &key_hashes)?;
        wire::count("multisig threshold", threshold as usize, 1, key_hashes.len())?;
        Ok(Self { threshold, key_hashes })
    }

    /// Signatures needed.
    pub const fn threshold(&self) -> u32 {
        self.threshold
    }

    /// Locks of the single keys, ascending.
    pub fn key_hashes(&self) -> &[LockHash] {
        &self.key_hashes
    }

    /// Canonical Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        let key_hashes = self.key_hashes.iter().map(|hash| hash.0.to_vec()).collect();
        proto::Multisig {
            threshold: self.threshold,
            key_hashes,
        }
        .encode_to_vec()
    }

    /// Back from [`Multisig::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: proto::Multisig = wire::decode_canonical("multisig policy", bytes)?;
        wire::count("multisig keys", message.key_hashes.len(), 1, MAX_MULTISIG_KEYS)?;
        let hash = |bytes: &Vec<u8>| Ok(LockHash(wire::array("multisig key hash", bytes)?));
        Self::checked(
            message.threshold,
            message
                .key_hashes
                .iter()
                .map(hash)
                .collect::<Result<_, DecodeError>>()?,
        )
    }

    /// The lock that this policy opens: `H("timecoin/multisig", canonical bytes)`.
    pub fn lock(&self) -> LockHash {
        LockHash(super::hash::tagged("timecoin/multisig", &[&self.encode()]))
    }
}

/// One key's signature over the txid; opens every input that the key owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Whose.
    pub public_key: PublicKey,
    /// Over the 32 bytes of the txid.
    pub signature: Signature,
}

/// What a payer signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionBody {
    /// Coins spent, distinct, 1 to 256.
    pub inputs: Vec<OutPoint>,
    /// Coins made, 1 to 256.
    pub outputs: Vec<Output>,
    /// Free text or bytes, at most 256.
    pub memo: Vec<u8>,
}

const BODY_VERSION: u32 = 1;

impl TransactionBody {
    /// Canonical Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        let input = |point: &OutPoint| proto::OutPoint {
            txid: point.txid.0.to_vec(),
            index: point.index,
        };
        proto::TransactionBody {
            version: BODY_VERSION,
            inputs: self.inputs.iter().map(input).collect(),
            outputs: self.outputs.iter().map(|output| output.to_proto()).collect(),
            memo: self.memo.clone(),
        }
        .encode_to_vec()
    }

    /// Back from [`TransactionBody::encode`]; checks form and counts, not that inputs are distinct.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: proto::TransactionBody = wire::decode_canonical("transaction body", bytes)?;
        if message.version != BODY_VERSION {
            return Err(DecodeError::Unknown {
                what: "transaction version",
                value: message.version.into(),
            });
        }
        wire::count("inputs", message.inputs.len(), 1, MAX_INPUTS)?;
        wire::count("outputs", message.outputs.len(), 1, MAX_OUTPUTS)?;
        wire::count("memo bytes", message.memo.len(), 0, MAX_MEMO)?;
        let input = |point: &proto::OutPoint| {
            Ok(OutPoint {
                txid: TxId(wire::array("input txid", &point.txid)?),
                index: point.index,
            })
        };
        Ok(Self {
            inputs: message.inputs.iter().map(input).collect::<Result<_, DecodeError>>()?,
            outputs: message
                .outputs
                .iter()
                .map(Output::from_proto)
                .collect::<Result<_, DecodeError>>()?,
            memo: message.memo,
        })
    }
}

/// The txid of a body's exact bytes on a chain: `H("timecoin/tx", chain_id, body)`.
pub fn txid(chain: &ChainId, body: &[u8]) -> TxId {
    TxId(super::keys::signing_digest("timecoin/tx", chain, &[body]))
}

/// A signed transaction of the right form, together with the exact bytes it came in. Its signatures are checked by
/// [`crate::ledger::check`].
#[derive(Clone, PartialEq, Eq)]
pub struct Transaction {
    txid: TxId,
    bytes: Vec<u8>,
    body: TransactionBody,
    witnesses: Vec<Witness>,
    policies: Vec<Multisig>,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transaction({}, {} B)", self.txid.short(), self.bytes.len())
    }
}

impl Transaction {
    /// Reads a signed transaction of at most 100,000 bytes.
    pub fn decode(chain: &ChainId, bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::count("transaction bytes", bytes.len(), 1, MAX_TRANSACTION_SIZE)?;
        let message: proto::SignedTransaction = wire::decode_canonical("signed transaction", bytes)?;
        wire::count("witnesses", message.witnesses.len(), 1, MAX_WITNESSES)?;
        wire::count("policies", message.policies.len(), 0, MAX_INPUTS)?;
        let body = TransactionBody::decode(&message.body)?;
        let witness = |witness: &proto::Witness| {
            Ok(Witness {
                public_key: PublicKey(wire::array("witness key", &witness.public_key)?),
                signature: Signature(wire::array("witness signature", &witness.signature)?),
            })
        };
        let witnesses: Vec<Witness> = message
            .witnesses
            .iter()
            .map(witness)
            .collect::<Result<_, DecodeError>>()?;
        let keys: Vec<PublicKey> = witnesses.iter().map(|witness| witness.public_key).collect();
        wire::ascending("witness keys", &keys)?;
        wire::ascending("policies", &message.policies)?;
        let policies = message
            .policies
            .iter()
            .map(|policy| Multisig::decode(policy))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            txid: txid(chain, &message.body),
            bytes: bytes.to_vec(),
            body,
            witnesses,
            policies,
        })
    }

    /// Signs a body: `sign` is asked once for each key. Keys and policies are put into their order here.
    pub fn sign(
        chain: &ChainId,
        body: &TransactionBody,
        keys: &[&super::keys::SecretKey],
        policies: &[Multisig],
    ) -> Result<Self, DecodeError> {
        let body = body.encode();
        let txid = txid(chain, &body);
        let mut witnesses: Vec<proto::Witness> = keys
            .iter()
            .map(|key| proto::Witness {
                public_key: key.public().0.to_vec(),
                signature: key.sign(&txid.0).0.to_vec(),
            })
            .collect();
        witnesses.sort_by(|a, b| a.public_key.cmp(&b.public_key));
        let mut policies: Vec<Vec<u8>> = policies.iter().map(Multisig::encode).collect();
        policies.sort_unstable();
        Self::decode(
            chain,
            &proto::SignedTransaction {
                body,
                witnesses,
                policies,
            }
            .encode_to_vec(),
        )
    }

    /// Its name.
    pub const fn txid(&self) -> TxId {
        self.txid
    }

    /// The exact bytes, signatures and all. Their number is the size that fees are paid for.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Coins spent.
    pub fn inputs(&self) -> &[OutPoint] {
        &self.body.inputs
    }

    /// Coins made.
    pub fn outputs(&self) -> &[Output] {
        &self.body.outputs
    }

    /// The outpoints of the coins made, with them.
    pub fn created(&self) -> impl Iterator<Item = (OutPoint, &Output)> {
        (0..)
            .zip(&self.body.outputs)
            .map(|(index, output)| (OutPoint { txid: self.txid, index }, output))
    }

    /// The memo.
    pub fn memo(&self) -> &[u8] {
        &self.body.memo
    }

    /// Signatures, ascending by key.
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Policies shown.
    pub fn policies(&self) -> &[Multisig] {
        &self.policies
    }

    /// Bytes that keeping it in memory costs: the exact bytes and the decoded parts at their capacity.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.bytes.capacity()
            + self.body.inputs.capacity() * size_of::<OutPoint>()
            + self.body.outputs.capacity() * size_of::<Output>()
            + self.body.memo.capacity()
            + self.witnesses.capacity() * size_of::<Witness>()
            + self
                .policies
                .iter()
                .map(|policy| size_of::<Multisig>() + policy.key_hashes.capacity() * 32)
                .sum::<usize>()
    }
}
