//! TimeCoin: a payment node.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[macro_use]
#[deny(clippy::disallowed_types, clippy::disallowed_methods, clippy::disallowed_macros)]
pub mod primitives;
#[deny(clippy::disallowed_types, clippy::disallowed_methods, clippy::disallowed_macros)]
pub mod ledger;

#[deny(clippy::disallowed_types, clippy::disallowed_methods, clippy::disallowed_macros)]
pub mod consensus;
#[deny(clippy::disallowed_types, clippy::disallowed_methods, clippy::disallowed_macros)]
pub mod epoch;
#[deny(clippy::disallowed_types, clippy::disallowed_methods, clippy::disallowed_macros)]
pub mod finality;
#[deny(clippy::disallowed_types, clippy::disallowed_methods, clippy::disallowed_macros)]
pub mod pool;
#[deny(clippy::disallowed_types, clippy::disallowed_methods, clippy::disallowed_macros)]
pub mod sync;

#[deny(clippy::disallowed_types, clippy::disallowed_methods, clippy::disallowed_macros)]
pub mod replica;

pub mod api;
pub mod network;
pub mod signer;
pub mod store;
pub mod wallet;

pub mod node;
pub mod sim;

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
