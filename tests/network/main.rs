//! The network over real sockets on loopback.

mod connections;
mod discovery;
mod gossip;
mod honest;
mod kit;
mod requests;
mod stranger;
mod strangers;
