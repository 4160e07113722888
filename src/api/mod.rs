//! Floor 4: what a node offers to clients, over gRPC (`proto/timecoin/v1/api.proto` is the reference).
//!
//! ```text
//! Submit, SubmitStream ──► Submission ──► the node's check pool ──► replica
//!        ▲                    │ verdict                               │ events
//!        └──── Waiters ◄──────┴─────────────── on_events ◄────────────┘
//! GetTransaction ──► Payments (memory), else the store
//! GetCoins, GetBalance, GetBlock ──► Reads: blocking threads, a bounded number of them
//! GetStatus ──► Snapshot (ArcSwap)          Subscribe ◄── broadcast of events; a slow reader misses some
//! ```
//!
//! Nothing here holds the node up: submissions go into a bounded queue, events are handed out without waiting, and
//! everything that a stranger can make grow has a limit in [`Config`].
//!
//! The race between a payment becoming final and somebody starting to wait for it is closed by order: the replica
//! writes a payment's state before it emits the event, and a request registers its waiter before it reads the state.

mod events;
mod listener;
mod reads;
mod refusal;
mod service;
mod status;
mod submit;
mod waiters;

pub mod client;

pub use refusal::Refusal;

use crate::{
    ledger::{CheckError, view::Query},
    pool::PoolError,
    primitives::{Genesis, TxId, message::Electorate},
    proto::node_server::NodeServer,
    replica::{Event, Payments, Snapshot},
};
use arc_swap::ArcSwap;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Limits and addresses of the API.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen for gRPC.
    pub listen: SocketAddr,
    /// Connections at a time; further ones are closed at once.
    pub max_connections: usize,
    /// Calls that one connection may have under way.
    pub max_streams_per_connection: u32,
    /// Bytes of a message that is taken in.
    pub max_request_bytes: usize,
    /// Submissions that may wait for finality or a block at a time, over all clients.
    pub max_waiters: usize,
    /// Submissions of one `SubmitStream` that may be unanswered at a time.
    pub max_in_flight_per_stream: usize,
    /// Subscriptions at a time.
    pub max_subscribers: usize,
    /// Reads of the store at a time; more wait for their turn.
    pub max_reads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7401)),
            max_connections: 1_000,
            max_streams_per_connection: 256,
            max_request_bytes: 4 * 1024 * 1024,
            max_waiters: 200_000,
            max_in_flight_per_stream: 20_000,
            max_subscribers: 256,
            max_reads: 16,
        }
    }
}

impl Config {
    /// Names the first setting that makes no sense, and what would.
    pub fn check(&self) -> Result<(), String> {
        let positive: [(&str, usize); 7] = [
            ("max_connections", self.max_connections),
            ("max_streams_per_connection", self.max_streams_per_connection as usize),
            ("max_waiters", self.max_waiters),
            ("max_in_flight_per_stream", self.max_in_flight_per_stream),
            ("max_subscribers", self.max_subscribers),
            ("max_reads", self.max_reads),
            ("max_request_bytes", self.max_request_bytes),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("api.{name} is 0, expected at least 1"));
        }
        let least = crate::primitives::limits::MAX_TRANSACTION_SIZE * 2;
        if self.max_request_bytes < least {
            return Err(format!(
                "api.max_request_bytes is {}, expected at least {least}: a transaction must fit",
                self.max_request_bytes
            ));
        }
        Ok(())
    }
}

/// A transaction on its way to the check pool. Whoever takes it must answer; dropping it counts as
/// [`SubmitError::ShuttingDown`].
#[derive(Debug)]
pub struct Submission {
    /// What the client sent; at most 100,000 bytes, otherwise unchecked.
    pub bytes: Vec<u8>,
    /// For the verdict: the txid when it was admitted or is known already.
    pub reply: oneshot::Sender<Result<TxId, SubmitError>>,
}

/// Why a submission was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// Its bytes or signatures are wrong.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// It breaks a rule of the ledger, or the pool does not take it.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Too much is waiting to be checked.
    #[error("the node has more submissions waiting than it can check: try again in a moment")]
    Overloaded,
    /// The node is stopping.
    #[error("the node is shutting down: submit to another one")]
    ShuttingDown,
}

/// What the node hands to its API.
#[derive(Clone)]
pub struct Context {
    /// The chain's start.
    pub genesis: Arc<Genesis>,
    /// Who votes.
    pub electorate: Electorate,
    /// Committed coins and blocks.
    pub chain: Arc<dyn Query>,
    /// Payments under way and those that ended lately.
    pub payments: Arc<Payments>,
    /// Where the replica stands.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// To the check pool.
    pub submit: mpsc::Sender<Submission>,
    /// Whether the node is connected, in step with its peers, and votes if it should: what the health service says.
    pub ready: watch::Receiver<bool>,
}

/// Why the API cannot serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address is taken, or not ours.
    #[error("the API cannot listen on {address}: {error}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The descriptors compiled into the program are wrong.
    #[error("gRPC reflection cannot be set up: {0}")]
    Reflection(String),
    /// The server failed.
    #[error("the API server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// The API of one node. Cheap to share; the node's event pump calls [`Api::on_events`].
pub struct Api {
    context: Context,
    config: Config,
    waiters: Arc<waiters::Waiters>,
    events: events::Hub,
    reads: reads::Reads,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// How often expired waiters of streams are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long connections may take to end in order when the node stops: a client that does not read would take for ever.
const END_WITHIN: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(20);

impl Api {
    /// Puts the API together. `cancel` stops it and everything it has started.
    pub fn new(context: Context, config: Config, cancel: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            waiters: Arc::new(waiters::Waiters::new(config.max_waiters)),
            events: events::Hub::new(config.max_subscribers),
            reads: reads::Reads::new(context.chain.clone(), config.max_reads),
            tasks: TaskTracker::new(),
            context,
            config,
            cancel,
        })
    }

    /// Hands a turn's events to whoever waits for them. Never blocks; costs one look-up for each event.
    pub fn on_events(&self, events: &[Event]) {
        for event in events {
            self.waiters.on_event(event);
        }
        self.events.publish(events);
    }

    /// Opens the listening socket, so that a taken port is noticed at start.
    pub async fn bind(&self) -> Result<TcpListener, ServeError> {
        let address = self.config.listen;
        TcpListener::bind(address)
            .await
            .map_err(|error| ServeError::Bind { address, error })
    }

    /// Serves until cancelled; when it returns, every task of the API has ended.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> Result<(), ServeError> {
        let result = self.clone().run(listener).await;
        self.tasks.close();
        self.tasks.wait().await;
        result
    }

    async fn run(self: Arc<Self>, listener: TcpListener) -> Result<(), ServeError> {
        let reflection = |error: tonic_reflection::server::Error| ServeError::Reflection(error.to_string());
        let (health_reporter, health) = tonic_health::server::health_reporter();
        self.tasks.spawn(self.clone().report_health(health_reporter));
        self.tasks.spawn(self.clone().sweep());
        let cut = CancellationToken::new();
        let _cut_at_the_end = cut.clone().drop_guard();
        self.tasks.spawn(cut_late(self.cancel.clone(), cut.clone()));
        let node = NodeServer::new(service::Service(self.clone()))
            .max_decoding_message_size(self.config.max_request_bytes)
            .max_encoding_message_size(crate::primitives::limits::MAX_MESSAGE_SIZE);
        tonic::transport::Server::builder()
            .max_concurrent_streams(self.config.max_streams_per_connection)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .http2_max_header_list_size(16 * 1024)
            .add_service(node)
            .add_service(health)
            .add_service(reflection_builder().build_v1().map_err(reflection)?)
            .add_service(reflection_builder().build_v1alpha().map_err(reflection)?)
            .serve_with_incoming_shutdown(
                listener::incoming(listener, self.config.max_connections, cut),
                self.cancel.clone().cancelled_owned(),
            )
            .await?;
        Ok(())
    }

    async fn report_health(self: Arc<Self>, reporter: tonic_health::server::HealthReporter) {
        let mut ready = self.context.ready.clone();
        loop {
            let status = if *ready.borrow_and_update() {
                tonic_health::ServingStatus::Serving
            } else {
                tonic_health::ServingStatus::NotServing
            };
            for service in ["", "timecoin.v1.Node"] {
                reporter.set_service_status(service, status).await;
            }
            tokio::select! {
                () = self.cancel.cancelled() => return,
                changed = ready.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn sweep(self: Arc<Self>) {
        let mut interval = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return,
                _ = interval.tick() => self.waiters.sweep(std::time::Instant::now()),
            }
        }
    }
}

async fn cut_late(cancel: CancellationToken, cut: CancellationToken) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = cut.cancelled() => return,
    }
    tokio::select! {
        () = tokio::time::sleep(END_WITHIN) => cut.cancel(),
        () = cut.cancelled() => {}
    }
}

fn reflection_builder() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
