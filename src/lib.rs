//! TimeCoin: a payment node.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[macro_use]
pub mod primitives;
pub mod ledger;

pub mod consensus;
pub mod epoch;
pub mod finality;
pub mod pool;
pub mod sync;

pub mod replica;

pub mod api;
pub mod network;
pub mod signer;
pub mod store;
pub mod wallet;

pub mod node;

pub mod cli;

/// Messages and services as compiled from `proto/`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    reason = "generated; documented in proto/"
)]
pub mod proto {
    tonic::include_proto!("timecoin.v1");

    /// The compiled definitions, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
