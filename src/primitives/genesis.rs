//! The start of a chain: parameters, first validators, first coins. Its hash names the chain.

use super::{
    address::PREFIXES,
    amount::Amount,
    hash::{ChainId, TxId, tagged},
    limits::{MAX_BLOCK_BYTES, MAX_BLOCK_TRANSACTIONS, MAX_GENESIS_SIZE, MAX_TRANSACTION_SIZE, MAX_VALIDATORS},
    quorum::{Validator, ValidatorSet},
    time::{Height, Time},
    transaction::{Coin, OutPoint, Output},
    wire::{self, DecodeError},
};
use crate::proto;
use prost::Message;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Rules that one network agrees on; part of its genesis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// Blocks in an epoch; at least 3.
    pub epoch_length: u64,
    /// Units of fee that a transaction pays for each of its bytes.
    pub min_fee_rate: u64,
    /// From one block to the next when payments wait.
    pub block_interval_ms: u64,
    /// From one block to the next when nothing waits.
    pub idle_block_interval_ms: u64,
    /// How long round 0 may last.
    pub round_base_ms: u64,
    /// How much longer each further round may last.
    pub round_step_ms: u64,
    /// How long a round may last at most.
    pub round_cap_ms: u64,
    /// How long a contested transaction may still become certified before it is abandoned.
    pub contest_after_ms: u64,
    /// How far a new block's time may be from a validator's clock.
    pub max_clock_drift_ms: u64,
    /// Units created at the end of each epoch.
    pub issuance_per_epoch: u64,
    /// Transactions in a block; at most 20,000.
    pub max_block_transactions: u32,
    /// Bytes of transactions in a block; at most 8,000,000.
    pub max_block_bytes: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            epoch_length: 3_600,
            min_fee_rate: 1,
            block_interval_ms: 1_000,
            idle_block_interval_ms: 10_000,
            round_base_ms: 1_000,
            round_step_ms: 500,
            round_cap_ms: 30_000,
            contest_after_ms: 1_000,
            max_clock_drift_ms: 10_000,
            issuance_per_epoch: 0,
            max_block_transactions: MAX_BLOCK_TRANSACTIONS as u32,
            max_block_bytes: MAX_BLOCK_BYTES as u32,
        }
    }
}

impl Params {
    pub(crate) fn to_proto(&self) -> proto::Params {
        proto::Params {
            epoch_length: self.epoch_length,
            min_fee_rate: self.min_fee_rate,
            block_interval_ms: self.block_interval_ms,
            idle_block_interval_ms: self.idle_block_interval_ms,
            round_base_ms: self.round_base_ms,
            round_step_ms: self.round_step_ms,
            round_cap_ms: self.round_cap_ms,
            contest_after_ms: self.contest_after_ms,
            max_clock_drift_ms: self.max_clock_drift_ms,
            issuance_per_epoch: self.issuance_per_epoch,
            max_block_transactions: self.max_block_transactions,
            max_block_bytes: self.max_block_bytes,
        }
    }

    pub(crate) const fn from_proto(message: &proto::Params) -> Self {
        Self {
            epoch_length: message.epoch_length,
            min_fee_rate: message.min_fee_rate,
            block_interval_ms: message.block_interval_ms,
            idle_block_interval_ms: message.idle_block_interval_ms,
            round_base_ms: message.round_base_ms,
            round_step_ms: message.round_step_ms,
            round_cap_ms: message.round_cap_ms,
            contest_after_ms: message.contest_after_ms,
            max_clock_drift_ms: message.max_clock_drift_ms,
            issuance_per_epoch: message.issuance_per_epoch,
            max_block_transactions: message.max_block_transactions,
            max_block_bytes: message.max_block_bytes,
        }
    }

    /// Checks each value and how they relate.
    pub fn check(&self) -> Result<(), GenesisError> {
        let at_least = |name: &'static str, value: u64, min: u64| {
            if value < min {
                Err(GenesisError::TooSmall { name, value, min })
            } else {
                Ok(())
            }
        };
        let at_most = |name: &'static str, value: u64, max: u64| {
            if value > max {
                Err(GenesisError::TooLarge { name, value, max })
            } else {
                Ok(())
            }
        };
        at_least("epoch_length", self.epoch_length, 3)?;
        at_least("block_interval_ms", self.block_interval_ms, 10)?;
        at_least(
            "idle_block_interval_ms",
            self.idle_block_interval_ms,
            self.block_interval_ms,
        )?;
        at_least("round_base_ms", self.round_base_ms, 10)?;
        at_least("round_cap_ms", self.round_cap_ms, self.round_base_ms)?;
        at_least("contest_after_ms", self.contest_after_ms, 1)?;
        at_least("max_clock_drift_ms", self.max_clock_drift_ms, 1)?;
        at_least("max_block_transactions", self.max_block_transactions.into(), 2)?;
        at_most(
            "max_block_transactions",
            self.max_block_transactions.into(),
            MAX_BLOCK_TRANSACTIONS as u64,
        )?;
        at_least(
            "max_block_bytes",
            self.max_block_bytes.into(),
            2 * MAX_TRANSACTION_SIZE as u64,
        )?;
        at_most("max_block_bytes", self.max_block_bytes.into(), MAX_BLOCK_BYTES as u64)
    }

    /// How long round `round` may last.
    pub fn round_timeout_ms(&self, round: super::time::Round) -> u64 {
        let grown = self
            .round_step_ms
            .saturating_mul(round.0.into())
            .saturating_add(self.round_base_ms);
        grown.min(self.round_cap_ms)
    }
}

/// What is wrong with a genesis.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GenesisError {
    /// Its bytes are.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A parameter is too small.
    #[error("genesis parameter {name} is {value}, expected at least {min}")]
    TooSmall {
        /// Which.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        min: u64,
    },
    /// A parameter is too large.
    #[error("genesis parameter {name} is {value}, expected at most {max}")]
    TooLarge {
        /// Which.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The most allowed.
        max: u64,
    },
    /// No such network.
    #[error("genesis network is '{0}', expected time, ttime or ltime")]
    Network(String),
    /// The coins add up to more than there can be.
    #[error("genesis coins add up to more than 2^64 - 1 units")]
    Supply,
}

const GENESIS_VERSION: u32 = 1;

/// The start of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// Address prefix.
    pub network: String,
    /// When the chain starts.
    pub time: Time,
    /// Its rules.
    pub params: Params,
    /// The first validators.
    pub validators: ValidatorSet,
    /// The first coins, in the order that names them.
    pub coins: Vec<Output>,
}

impl Genesis {
    /// Canonical Protobuf bytes.
    pub fn encode(&self) -> Vec<u8> {
        proto::Genesis {
            version: GENESIS_VERSION,
            network: self.network.clone(),
            time_ms: self.time.0,
            params: Some(self.params.to_proto()),
            validators: self
                .validators
                .iter()
                .map(|(_, validator)| validator.to_proto())
                .collect(),
            coins: self.coins.iter().map(|coin| coin.to_proto()).collect(),
        }
        .encode_to_vec()
    }

    /// Back from [`Genesis::encode`], checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, GenesisError> {
        wire::count("genesis bytes", bytes.len(), 1, MAX_GENESIS_SIZE)?;
        let message: proto::Genesis = wire::decode_canonical("genesis", bytes)?;
        if message.version != GENESIS_VERSION {
            return Err(DecodeError::Unknown {
                what: "genesis version",
                value: message.version.into(),
            }
            .into());
        }
        wire::count("genesis validators", message.validators.len(), 1, MAX_VALIDATORS)?;
        let validators: Vec<Validator> = message
            .validators
            .iter()
            .map(Validator::from_proto)
            .collect::<Result<_, _>>()?;
        let keys: Vec<_> = validators.iter().map(|validator| validator.public_key).collect();
        wire::ascending("genesis validators", &keys)?;
        let genesis = Self {
            network: message.network,
            time: Time(message.time_ms),
            params: Params::from_proto(&wire::required("genesis params", message.params)?),
            validators: ValidatorSet::new(validators)?,
            coins: message.coins.iter().map(Output::from_proto).collect::<Result<_, _>>()?,
        };
        genesis.check()?;
        Ok(genesis)
    }

    /// Checks what a decoder or a tool put together.
    pub fn check(&self) -> Result<(), GenesisError> {
        if !PREFIXES.contains(&self.network.as_str()) {
            return Err(GenesisError::Network(self.network.clone()));
        }
        self.params.check()?;
        self.supply().map(|_| ()).ok_or(GenesisError::Supply)
    }

    /// All the first coins together.
    pub fn supply(&self) -> Option<Amount> {
        Amount::sum(self.coins.iter().map(|coin| coin.value))
    }

    /// `H("timecoin/genesis", canonical bytes)`.
    pub fn chain_id(&self) -> ChainId {
        ChainId(tagged("timecoin/genesis", &[&self.encode()]))
    }

    /// The first coins with the outpoints that name them.
    pub fn named_coins(&self) -> impl Iterator<Item = (OutPoint, Coin)> {
        let txid = TxId(tagged("timecoin/genesis-coins", &[&self.chain_id().0]));
        let named = move |(index, output): (u32, &Output)| {
            (
                OutPoint { txid, index },
                Coin {
                    output: *output,
                    height: Height(0),
                },
            )
        };
        (0..).zip(&self.coins).map(named)
    }
}
