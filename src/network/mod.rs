//! The network: bytes to and from peers, over libp2p. What the bytes mean is none of its business.
//!
//! # What it promises
//!
//! - **Peers** of the same chain only. They are known by node-local numbers ([`PeerId`]), given at the first connection
//!   and never reused while the process lives. [`Event::PeerUp`] comes once a peer has shown its chain and, if it takes
//!   part in gossip, listens: what is published from then on reaches it. Nothing else comes from a peer before it.
//!   [`Event::PeerDown`] comes when the last connection is gone.
//! - **Gossip** (`gossip.rs`): what is published reaches all subscribed peers that are connected, directly; it is relayed
//!   further by whoever accepts it. A received message is relayed only after [`Verdict::Accept`].
//! - **Requests** (`request.rs`): every [`Commands::ask`] is answered by exactly one [`Event::Response`].
//! - **Limits** on everything a stranger can make grow: message sizes by type, before and while decompressing
//!   ([`kinds`](crate::primitives::kinds), [`envelope`]), messages of each type from each peer (`limits.rs`), connections in all, per peer, per address and by memory (`behaviour.rs`), requests in flight,
//!   events in number and bytes (`events.rs`), commands (`commands.rs`), identities ([`peers`]). What is full has a chosen
//!   behaviour, and [`Stats`] counts it.
//! - **Faults** have one price list ([`peers`]). Broken envelopes are priced here; what is wrong inside of them is
//!   reported by [`Commands::punish`].
//! - **Bootstrap peers**, and the validators named by [`Commands::keep`], are dialed again whenever they are not connected,
//!   for ever (`dial.rs`).
//! - **Other peers** are found by Kademlia (`discovery.rs`) and remembered ([`book`]); while there are fewer than wanted,
//!   they are dialed.
//!
//! # What it does not promise
//!
//! Delivery of gossip, order between messages, or that a number means the same peer after a restart.
//!
//! # How it runs
//!
//! One task owns the swarm and never computes for long: envelopes above 64 KiB are (de)compressed on blocking threads,
//! requests and answers in the tasks of their connections. Commands come in over bounded queues that never make the
//! caller wait; events go out over one bounded queue. No disk is touched. When the token is cancelled the task ends
//! within a second, and everything that it started with it.
//!
//! ```text
//!  node ──Commands──▶ ┌────────────────────┐ ──▶ gossip, requests ──▶ peers
//!                     │ task (owns swarm)  │
//!  node ◀──Events──── └────────────────────┘ ◀── gate, limits, identify, ping, Kademlia
//!         PeerTable, Stats: read by anyone
//! ```

use std::fmt;
use std::sync::Arc;

use crate::primitives::DecodeError;
use arc_swap::ArcSwap;
use libp2p::Multiaddr;
use prost::bytes::Bytes;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod behaviour;
pub mod book;
mod commands;
mod config;
mod dial;
mod discovery;
pub mod envelope;
mod events;
mod gossip;
mod limits;
pub mod peers;
mod relay;
mod request;
pub mod stats;
mod task;
mod transport;

pub use crate::primitives::kinds::Topic;
pub use book::KnownPeer;
pub use commands::Commands;
pub(crate) use config::is_reachable;
pub use config::{Config, ConfigError};
pub use envelope::{EnvelopeError, MAX_MESSAGE_SIZE, Refusal};
pub use events::Events;
pub use peers::{PeerInfo, PeerTable};
pub use stats::Stats;

/// A node-local number for a peer's identity. Never reused while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer-{}", self.0)
    }
}

/// What a peer did wrong, in the only four degrees there are. Prices: [`peers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Nothing.
    None,
    /// Something that an honest peer does when it is slow, behind, or has just restarted.
    Late,
    /// Something that an honest peer should not do, but might, for instance with other software.
    Careless,
    /// Something that no honest peer does.
    Hostile,
}

/// Names a received gossip message until its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GossipId(pub u64);

/// Names a received request until its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names a sent request until its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What becomes of a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Right, and news: relay it.
    Accept,
    /// Neither relay it nor mind: known already, or not to be judged now.
    Ignore,
    /// Wrong: do not relay it.
    Reject,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No peer has this number (any more).
    #[error("no such peer")]
    UnknownPeer,
    /// The peer is not connected.
    #[error("the peer is not connected")]
    NotConnected,
    /// The request is of no type, or larger than its type allows, and was not sent.
    #[error("the request cannot be sent: {0}")]
    Unsendable(DecodeError),
    /// Too many requests are under way, or more of this type than the peer takes; this one was not sent.
    #[error("too many requests are under way, or of this type lately")]
    Overloaded,
    /// No answer in time. The peer may have received the request.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke. The peer may have received the request.
    #[error("the connection broke before the answer")]
    Disconnected,
    /// The peer does not take requests of this chain.
    #[error("the peer does not speak the request protocol")]
    Unsupported,
    /// The peer says why not.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The answer is broken; the peer has been punished.
    #[error("a broken answer: {0}")]
    Broken(EnvelopeError),
    /// The peer ended the stream without an answer: most likely it had none in time.
    #[error("the peer gave no answer")]
    Unanswered,
    /// The stream failed.
    #[error("the stream failed: {0}")]
    Stream(String),
    /// This node is stopping.
    #[error("the network is stopping")]
    Stopping,
}

/// What the network tells the node.
#[derive(Clone, Debug)]
pub enum Event {
    /// A gossip message, new here. It waits for [`Commands::verdict`] for a few seconds.
    Gossip {
        /// Who passed it on (not who wrote it).
        from: PeerId,
        /// Its name for the verdict.
        id: GossipId,
        /// Its subject.
        topic: Topic,
        /// Its content.
        payload: Bytes,
    },
    /// A request. It waits for [`Commands::answer`] for as long as requests may take.
    Request {
        /// Who asks.
        from: PeerId,
        /// Its name for the answer.
        ticket: Ticket,
        /// Its content.
        payload: Bytes,
    },
    /// What became of a request of this node; exactly one for each.
    Response {
        /// Who was asked.
        from: PeerId,
        /// Which request.
        request: RequestId,
        /// The answer, or why there is none.
        result: Result<Bytes, RequestError>,
    },
    /// A peer of this chain is there.
    PeerUp {
        /// Its number.
        peer: PeerId,
        /// Whether this node opened the connection.
        outbound: bool,
    },
    /// The last connection to a peer is gone.
    PeerDown {
        /// Its number.
        peer: PeerId,
    },
}

/// Why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system says.
        reason: String,
    },
    /// A part could not be set up.
    #[error("cannot set up {part}: {reason}")]
    Setup {
        /// Which part.
        part: &'static str,
        /// What it says.
        reason: String,
    },
}

/// A running network.
#[derive(Debug)]
pub struct Network {
    /// This node's identity.
    pub local: libp2p::PeerId,
    /// The addresses it listens on, with real ports.
    pub listening: Vec<Multiaddr>,
    /// The door out.
    pub events: Events,
    /// The door in.
    pub commands: Commands,
    /// Who is there.
    pub peers: Arc<PeerTable>,
    /// Peers met and where they listen, the latest first; replaced now and then. For whoever keeps them on disk.
    pub known: Arc<ArcSwap<Vec<KnownPeer>>>,
    /// What has been counted.
    pub stats: Arc<Stats>,
    /// Ends when the token is cancelled.
    pub task: JoinHandle<()>,
}

/// The libp2p identity that belongs to a seed.
pub fn identity(seed: [u8; 32]) -> libp2p::PeerId {
    keypair(seed).public().to_peer_id()
}

fn keypair(seed: [u8; 32]) -> libp2p::identity::Keypair {
    libp2p::identity::Keypair::ed25519_from_bytes(seed).expect("any 32 bytes are an Ed25519 seed")
}

/// Starts the network, inside a tokio runtime. Returns once every address is listened on.
///
/// The identity belongs to the node, not to the validator: it signs handshakes, never votes. `known`: peers met before,
/// as kept by whoever called this.
///
/// # Errors
/// [`NetworkError`]: a bad setting, or an address that cannot be listened on.
pub async fn spawn(
    config: Config,
    identity_seed: [u8; 32],
    chain_id: [u8; 32],
    known: Vec<KnownPeer>,
    cancel: CancellationToken,
) -> Result<Network, NetworkError> {
    config.check()?;
    task::start(config, keypair(identity_seed), &chain_id, known, cancel).await
}
