//! TimeCoin: a payment node.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod network;
pub mod store;
