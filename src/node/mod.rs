//! Floor 5: the shell that runs on real machines. Starts everything, wires it, stops it.
//!
//! ```text
//!  peers ─► network ─► pump ─┐                         ┌─► network (publish, ask, answer, verdicts)
//!  clients ─► api ───────────┴► check pool ─► inbox ─► loop ─► store, safety log, signer
//!                                                      ├─► api (events, replies), snapshot
//!  flusher: blocks to the disk ◄───────────────────────┘
//! ```
//!
//! | file | what |
//! |---|---|
//! | `run.rs` | the loop |
//! | `checker.rs`, `inbox.rs` | from bytes to checked inputs, and where they wait |
//! | `safety.rs`, `flusher.rs`, `serve.rs` | what touches the disk beside the loop's own writes |
//! | `discovery.rs`, `roster.rs`, `peers_file.rs` | where validators are, and whom this node has met |
//! | `config.rs` | settings, and where each mistake was made |
//! | `descriptors.rs` | how many connections and files the system allows |
//! | `metrics.rs`, `http.rs`, `ready.rs`, `progress.rs`, `telemetry.rs` | what operators see |
//!
//! Threads of the operating system do what blocks: the loop, the checks, the flusher, blocks and coins for peers. Tasks do the
//! rest. All of them end with one token, and all are joined.

mod bridge;
pub mod checker;
pub mod clock;
pub mod config;
pub mod descriptors;
mod discovery;
#[cfg(test)]
mod docs;
mod flusher;
mod http;
pub mod inbox;
pub mod metrics;
mod open;
mod pace;
mod peers_file;
mod progress;
pub mod ready;
pub mod roster;
pub mod run;
mod safety;
mod serve;
pub mod telemetry;
mod threads;

pub use config::Config;
pub use open::{StartError, create_safety_log, read_genesis};

use crate::{
    api::{self, Api},
    network::{self, Network},
    primitives::PublicKey,
    replica::Snapshot,
};
use arc_swap::ArcSwap;
use checker::{Checker, Job, Jobs};
use discovery::Discovery;
use flusher::Flushing;
use inbox::{Inbox, Item, Lane};
use metrics::{Meters, Prepared, Sources};
use open::Opened;
use ready::{Readiness, Watch};
use roster::Roster;
use run::{Heartbeat, Loop, RunError};
use serve::StoreServer;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use thiserror::Error;
use threads::Threads;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Checked transactions and messages that may wait for the loop, in each lane.
const INBOX_WEIGHT: usize = 8_192;
/// Network events taken at once.
const PUMP_BATCH: usize = 256;
/// How often readiness is looked at for the API's health service and the metrics.
const READY_EVERY: Duration = Duration::from_millis(250);
/// Stopping takes at most this long; what is stuck then is named and left.
const STOP_WITHIN: Duration = Duration::from_millis(4_500);

/// How a node ended though nobody asked it to.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The loop or the flusher failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A thread ended by a panic: a mistake in this program.
    #[error("the node stops: its thread '{0}' has panicked; the message is above. This is a mistake in the program")]
    Panic(String),
    /// A server ended though nobody asked it to.
    #[error("the node stops: {0}")]
    Server(String),
    /// Something did not end in time.
    #[error("the node did not stop in time: {0} still runs")]
    Stuck(String),
}

/// A running node.
pub struct Node {
    /// Where gRPC is served, with the real port.
    pub api: SocketAddr,
    /// Where metrics and health are served, with the real port.
    pub http: SocketAddr,
    /// Where peers connect to, with real ports.
    pub listening: Vec<libp2p::Multiaddr>,
    /// The name that peers know this node by.
    pub identity: libp2p::PeerId,
    /// The validator's key; `None` for a node that does not vote.
    pub validator: Option<PublicKey>,
    /// Where the replica stands.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Everything that an operator may count.
    pub metrics: Arc<metrics::Metrics>,
    watch: Watch,
    running: Running,
}

/// What has to be ended.
struct Running {
    cancel: CancellationToken,
    tasks: TaskTracker,
    threads: Threads,
    jobs: Arc<Jobs>,
    inbox: Arc<Inbox>,
    blocks: Arc<StoreServer>,
    flushing: Arc<Flushing>,
}

impl Node {
    /// Starts a node. When this fails, nothing of it runs any more.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let cancel = CancellationToken::new();
        let guard = cancel.clone().drop_guard();
        let node = Self::start_under(config, cancel).await?;
        guard.disarm();
        Ok(node)
    }

    async fn start_under(config: Config, cancel: CancellationToken) -> Result<Self, StartError> {
        descriptors::raise(config.network.max_connections.into());
        let prepared = Prepared::new()?;
        let meters = prepared.meters.clone();
        let opened = open::open(&config, &meters).await?;
        // Ports before threads: what is taken is noticed while nothing has to be undone.
        let http_listener = http::bind(config.http.listen).await?;
        let chain = opened.genesis.chain_id();
        let network = network::spawn(
            config.network.clone(),
            opened.identity_seed,
            chain.0,
            vec![],
            cancel.clone(),
        )
        .await?;
        let Network {
            local,
            listening,
            events,
            commands,
            peers,
            known,
            stats,
            task,
        } = network;

        let snapshot = Arc::new(ArcSwap::from_pointee(opened.replica.snapshot()));
        let inbox = Arc::new(Inbox::new(INBOX_WEIGHT));
        let jobs = Arc::new(Jobs::new(config.check.max_waiting, config.check.max_waiting_bytes));
        let flushing = Arc::new(Flushing::default());
        let heartbeat = Arc::new(Heartbeat::new());
        let (blocks, block_worker) = StoreServer::new(opened.store.clone(), commands.clone());
        let (ready_sender, ready) = watch::channel(false);
        let watch = Watch {
            snapshot: snapshot.clone(),
            peers: peers.clone(),
            heartbeat: heartbeat.clone(),
            electorate: opened.electorate.clone(),
            params: opened.genesis.params.clone(),
        };
        let (submit, submissions) = mpsc::channel(config.check.max_waiting);
        let context = api::Context {
            genesis: opened.genesis.clone(),
            electorate: opened.electorate.clone(),
            chain: opened.store.clone(),
            payments: opened.replica.payments(),
            snapshot: snapshot.clone(),
            submit,
            ready: ready.clone(),
        };
        let api = Api::new(context, config.api.clone(), cancel.clone());
        let api_listener = api.bind().await?;
        let address = |listener: &tokio::net::TcpListener| listener.local_addr().map_err(StartError::Address);
        let (api_address, http_address) = (address(&api_listener)?, address(&http_listener)?);
        let metrics = Arc::new(prepared.with(Sources {
            snapshot: snapshot.clone(),
            network: stats.clone(),
            peers: peers.clone(),
            store: opened.store.clone(),
            meters: meters.clone(),
            inbox: inbox.clone(),
            jobs: jobs.clone(),
            ready,
        })?);

        let threads = Threads::new(cancel.clone());
        let tasks = TaskTracker::new();
        let Opened {
            genesis: _,
            electorate,
            store,
            replica,
            first,
            voice,
            validator,
            announcer,
            identity_seed: _,
            remembered,
        } = opened;
        let roster = {
            let (electorate, snapshot) = (electorate.clone(), snapshot.clone());
            let present = Box::new(move || electorate.of_epoch(snapshot.load().epoch).clone());
            Arc::new(Roster::new(chain, present, validator, commands.clone()))
        };
        let discovery = Discovery {
            roster: roster.clone(),
            announcer,
            chain,
            identity: local,
            listening: listening.clone(),
            announce: config.network.announce.clone(),
            commands: commands.clone(),
            peers: peers.clone(),
            stats,
            known,
            file: config.peers_file(),
        };
        let running = Running {
            cancel: cancel.clone(),
            tasks: tasks.clone(),
            threads: threads.clone(),
            jobs: jobs.clone(),
            inbox: inbox.clone(),
            blocks: blocks.clone(),
            flushing: flushing.clone(),
        };
        let checker = Checker {
            electorate,
            jobs: jobs.clone(),
            inbox: inbox.clone(),
            commands: commands.clone(),
            peers: peers.clone(),
            served: blocks,
            roster,
            meters: meters.clone(),
        };
        let on_events = {
            let api = api.clone();
            Box::new(move |events: &[crate::replica::Event]| api.on_events(events))
        };
        let the_loop = Loop {
            replica,
            store: store.clone(),
            voice,
            chain,
            inbox: inbox.clone(),
            commands: commands.clone(),
            peers,
            flushing: flushing.clone(),
            snapshot: snapshot.clone(),
            on_events,
            meters: meters.clone(),
            heartbeat,
            clock: clock::Clock::new(),
        };
        let started = start_threads(
            &threads,
            &config,
            checker,
            block_worker,
            the_loop,
            first,
            store,
            flushing,
        );
        if let Err(error) = started {
            let _ = running.stop().await;
            return Err(error);
        }
        let network_ended = CancellationToken::new();
        tasks.spawn(watch_network(
            task,
            cancel.clone(),
            network_ended.clone(),
            threads.clone(),
        ));
        tasks.spawn(discovery.run(remembered, cancel.clone(), network_ended));
        tasks.spawn(pump(events, jobs.clone(), inbox, commands.clone(), meters.clone()));
        tasks.spawn(take_submissions(submissions, jobs, commands, meters, cancel.clone()));
        let pages = http::Pages {
            metrics: metrics.clone(),
            watch: watch.clone(),
        };
        tasks.spawn(http::serve(http_listener, pages, cancel.clone()));
        tasks.spawn(serve_api(api, api_listener, cancel.clone(), threads));
        tasks.spawn(progress::watch(watch.clone(), cancel.clone()));
        tasks.spawn(watch_readiness(watch.clone(), ready_sender, cancel));
        Ok(Self {
            api: api_address,
            http: http_address,
            listening,
            identity: local,
            validator,
            snapshot,
            metrics,
            watch,
            running,
        })
    }

    /// Asks the node to stop.
    pub fn cancel(&self) {
        self.running.cancel.cancel();
    }

    /// The token that stops it.
    pub fn token(&self) -> CancellationToken {
        self.running.cancel.clone()
    }

    /// Whether it is of use now.
    pub fn readiness(&self) -> Readiness {
        self.watch.readiness(clock::wall())
    }

    /// Waits until the node stops, by request or by failure; everything is flushed and joined when this returns.
    pub async fn wait(self) -> Result<(), NodeError> {
        self.running.cancel.cancelled().await;
        self.running.stop().await
    }

    /// Stops the node and waits until it has.
    pub async fn stop(self) -> Result<(), NodeError> {
        self.cancel();
        self.wait().await
    }
}

impl Running {
    /// Ends everything, inwards: first what brings work, then what does it, then what writes it down.
    async fn stop(self) -> Result<(), NodeError> {
        self.cancel.cancel();
        self.jobs.close();
        self.inbox.close();
        self.blocks.close();
        self.tasks.close();
        let (tasks, threads) = (self.tasks.clone(), self.threads.clone());
        let flushing = self.flushing;
        let joined = tokio::task::spawn_blocking(move || {
            // The flusher flushes once more after the loop's last write.
            threads.join(|name| name != FLUSHER);
            flushing.close();
            threads.join(|_| true);
        });
        let all = async { tokio::join!(self.tasks.wait(), joined) };
        if tokio::time::timeout(STOP_WITHIN, all).await.is_err() {
            let mut stuck = self.threads.names();
            if !tasks.is_empty() {
                stuck.push(format!("{} tasks", tasks.len()));
            }
            return Err(NodeError::Stuck(stuck.join(", ")));
        }
        match self.threads.failure() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

const FLUSHER: &str = "flush";

#[allow(clippy::too_many_arguments, reason = "each goes to one thread")]
fn start_threads(
    threads: &Threads,
    config: &Config,
    checker: Checker,
    blocks: serve::StoreWorker,
    the_loop: Loop,
    first: crate::replica::Effects,
    store: Arc<crate::store::ledger_store::LedgerStore>,
    flushing: Arc<Flushing>,
) -> Result<(), StartError> {
    let (inbox, meters) = (the_loop.inbox.clone(), the_loop.meters.clone());
    threads.spawn(FLUSHER, move || {
        flusher::run(&flushing, &store, &inbox, &meters).map_err(|error| NodeError::Run(error.into()))
    })?;
    threads.spawn("blocks", move || {
        blocks.run();
        Ok(())
    })?;
    for number in 0..=check_threads(config) {
        let (name, lane) = match number {
            0 => ("check-votes".to_owned(), Lane::Urgent),
            _ => (format!("check-{number}"), Lane::Bulk),
        };
        let checker = checker.clone();
        threads.spawn(&name, move || {
            checker.run(lane);
            Ok(())
        })?;
    }
    threads.spawn("replica", move || the_loop.run(first).map_err(NodeError::Run))
}

/// Threads for transactions, beside the one for what is urgent.
fn check_threads(config: &Config) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match config.check.threads {
        0 => (cores / 2).max(1),
        threads => threads,
    }
}

/// Network events to the check pool and the inbox.
async fn pump(
    mut events: network::Events,
    jobs: Arc<Jobs>,
    inbox: Arc<Inbox>,
    commands: network::Commands,
    meters: Arc<Meters>,
) {
    let mut buffer = Vec::with_capacity(PUMP_BATCH);
    // Ends when the network has ended: it is the one that the token stops.
    while events.recv_many(&mut buffer, PUMP_BATCH).await > 0 {
        let mut batch = Vec::with_capacity(buffer.len());
        for event in buffer.drain(..) {
            match event {
                network::Event::Gossip {
                    from,
                    id,
                    topic,
                    payload,
                } => batch.push(Job::Gossip {
                    from,
                    id,
                    topic,
                    payload,
                }),
                network::Event::Request { from, ticket, payload } => batch.push(Job::Request { from, ticket, payload }),
                network::Event::Response {
                    from,
                    request,
                    result: Ok(payload),
                } => batch.push(Job::Response { from, request, payload }),
                network::Event::Response {
                    from,
                    request,
                    result: Err(error),
                } => {
                    tracing::debug!(peer = from.0, %error, "a question was not answered");
                    let from = crate::primitives::PeerId(from.0);
                    inbox.deliver(Item::Response {
                        from,
                        request,
                        answer: None,
                    });
                }
                network::Event::PeerUp { peer, outbound } => {
                    tracing::info!(peer = peer.0, outbound, "peer connected");
                    deliver(&inbox, crate::replica::Input::PeerUp(crate::primitives::PeerId(peer.0)));
                }
                network::Event::PeerDown { peer } => {
                    tracing::info!(peer = peer.0, "peer disconnected");
                    deliver(
                        &inbox,
                        crate::replica::Input::PeerDown(crate::primitives::PeerId(peer.0)),
                    );
                }
            }
        }
        checker::turn_away(jobs.offer(batch), &commands, &meters);
    }
}

fn deliver(inbox: &Inbox, input: crate::replica::Input) {
    inbox.deliver(Item::Input(input, std::time::Instant::now()));
}

/// Clients' transactions to the check pool.
async fn take_submissions(
    mut submissions: mpsc::Receiver<api::Submission>,
    jobs: Arc<Jobs>,
    commands: network::Commands,
    meters: Arc<Meters>,
    cancel: CancellationToken,
) {
    let mut buffer = Vec::with_capacity(PUMP_BATCH);
    loop {
        let taken = tokio::select! {
            taken = submissions.recv_many(&mut buffer, PUMP_BATCH) => taken,
            () = cancel.cancelled() => return,
        };
        if taken == 0 {
            return;
        }
        let batch = buffer
            .drain(..)
            .map(|api::Submission { bytes, reply }| Job::Submit { bytes, reply });
        checker::turn_away(jobs.offer(batch), &commands, &meters);
    }
}

async fn serve_api(api: Arc<Api>, listener: tokio::net::TcpListener, cancel: CancellationToken, threads: Threads) {
    let result = api.serve(listener).await;
    if !cancel.is_cancelled() {
        let reason = result
            .err()
            .map_or_else(|| "the API ended".into(), |error| error.to_string());
        threads.fail(NodeError::Server(reason));
    }
}

/// The network's task ends when the token is cancelled; if it ends otherwise, so does the node.
async fn watch_network(
    task: tokio::task::JoinHandle<()>,
    cancel: CancellationToken,
    ended: CancellationToken,
    threads: Threads,
) {
    let result = task.await;
    ended.cancel();
    if !cancel.is_cancelled() {
        let reason = result
            .err()
            .map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        threads.fail(NodeError::Server(format!("the network failed: {reason}")));
    }
}

/// Tells the API's health service and the metrics, and logs when the answer changes.
async fn watch_readiness(watch: Watch, sender: watch::Sender<bool>, cancel: CancellationToken) {
    let mut interval = tokio::time::interval(READY_EVERY);
    let mut last: Option<bool> = None;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = interval.tick() => {}
        }
        let readiness = watch.readiness(clock::wall());
        if last != Some(readiness.ready) {
            match readiness.ready {
                true => tracing::info!(height = readiness.height, peers = readiness.peers, "ready"),
                false => tracing::warn!(height = readiness.height, reasons = ?readiness.reasons, "not ready"),
            }
        }
        last = Some(readiness.ready);
        // Nobody listening is no reason to stop looking.
        let _ = sender.send_if_modified(|before| std::mem::replace(before, readiness.ready) != readiness.ready);
    }
}
