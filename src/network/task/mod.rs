//! The task that owns the swarm: turns what libp2p says into events, and commands into what libp2p does.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::gossipsub::{self, MessageAcceptance};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{Swarm, SwarmEvent};
use libp2p::{Multiaddr, StreamProtocol};
use prost::bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::behaviour::{self, Behaviour, Names};
use super::book::Book;
use super::commands::{Commands, Queues};
use super::dial::{Backoff, Dialer};
use super::discovery::Walks;
use super::envelope::{Envelope, EnvelopeError};
use super::events::{self, Outbox};
use super::gossip::{Judge, Retries, Topics};
use super::limits::{Allowance, Outbound};
use super::peers::{BanTerms, PeerTable};
use super::relay::Relay;
use super::request::{Limits, Requests};
use super::stats::Stats;
use super::{Config, Fault, KnownPeer, Network, NetworkError, PeerId, RequestError, Topic};
use crate::primitives::kinds::Kind;

mod connections;
mod discovery;
mod gossip;
mod requests;

/// How often time limits are looked after.
const TICK: Duration = Duration::from_millis(500);
/// How long an address may take until it is listened on.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the announcement of a peer that could gossip waits for its subscriptions.
const SUBSCRIBE_GRACE: Duration = Duration::from_secs(1);
/// What the names of all versions of gossipsub begin with.
const GOSSIP_PROTOCOLS: &str = "/meshsub/";
const ALL_TOPICS: u8 = 0b111;
/// How long publications are held when the queues of all peers are full, or when peers would not take more of their
/// type. A queue of a thousand empties in a few of it.
const HOLD: Duration = Duration::from_millis(2);
/// Large envelopes that are (de)compressed at the same time, in each direction.
const HEAVY_MAX: usize = 8;

/// A peer with at least one connection.
struct Live {
    number: PeerId,
    /// Whether it has shown that it is of this chain, and `PeerUp` was sent.
    admitted: bool,
    /// When it said that it is of this chain.
    identified: Option<Instant>,
    /// The topics it listens to, one bit each.
    subscribed: u8,
    since: Instant,
    outbound: bool,
    /// Whether it is on this machine.
    loopback: bool,
}

/// A large received message back from a blocking thread.
type Opened = (GossipFrom, Result<Bytes, EnvelopeError>);
/// A large message of our own back from a blocking thread.
type Wrapped = (Topic, Result<Envelope, EnvelopeError>);

/// Where a gossip message came from.
struct GossipFrom {
    message: gossipsub::MessageId,
    source: libp2p::PeerId,
    /// Whether `source` published it itself.
    first_hand: bool,
    topic: Topic,
}

struct Task {
    swarm: Swarm<Behaviour>,
    identify_protocol: String,
    identify_timeout: Duration,
    topics: Topics,
    table: Arc<PeerTable>,
    stats: Arc<Stats>,
    commands: Commands,
    outbox: Outbox,
    dialer: Dialer,
    book: Book,
    walks: Walks,
    /// Connections that this node wants to have opened itself.
    target_peers: usize,
    kad_protocol: StreamProtocol,
    known: Arc<ArcSwap<Vec<KnownPeer>>>,
    live: HashMap<libp2p::PeerId, Live>,
    judge: Judge,
    retries: Retries,
    relay: Relay,
    requests: Requests,
    opening: JoinSet<Opened>,
    wrapping: JoinSet<Wrapped>,
    /// Taken from the commands, and waiting for a blocking thread to come free or for room in the peers' queues.
    publications: VecDeque<(Topic, Vec<u8>)>,
    /// Every peer's queue was full, or a limit was reached: no new publication is tried before.
    held_until: Option<Instant>,
    /// Publications so far.
    published: u32,
    /// What may still be published or relayed: no peer gets more from this node than it takes.
    outbound: Outbound,
}

/// Builds everything, waits until all addresses are listened on, and lets the task run.
pub(super) async fn start(
    config: Config,
    keypair: Keypair,
    chain_id: &[u8; 32],
    known: Vec<KnownPeer>,
    cancel: CancellationToken,
) -> Result<Network, NetworkError> {
    let now = Instant::now();
    let local = keypair.public().to_peer_id();
    let names = Names::new(chain_id);
    let topics = Topics::new(&names.chain);
    let stats = Arc::new(Stats::default());
    let terms = BanTerms {
        base: Duration::from_millis(config.ban_base_ms),
        max: Duration::from_millis(config.ban_max_ms),
    };
    let table = Arc::new(PeerTable::new(terms, now));
    let mut swarm = behaviour::swarm(&config, keypair, &names, &topics, &table, &stats)?;
    let listening = listen(&mut swarm, &config.listen).await?;
    info!(identity = %local, chain = %names.chain, ?listening, bootstrap = config.bootstrap.len(), "network is up");

    let backoff = Backoff::new(
        Duration::from_millis(config.redial_min_ms),
        Duration::from_millis(config.redial_max_ms),
    );
    let dialer = Dialer::new(&config.bootstrap, local, backoff, now);
    for peer in dialer.configured_peers() {
        swarm.behaviour_mut().limits.bypass_peer_id(&peer);
    }
    for address in &config.announce {
        swarm.add_external_address(address.clone());
    }
    let book = Book::new(local, known.clone(), discovery::today(), now);
    let known = Arc::new(ArcSwap::from_pointee(known));
    let (outbox, events) = events::queue(config.max_events, config.max_event_mb.saturating_mul(1_000_000));
    let commands = Commands::new(Arc::clone(&stats));
    let requests = Requests::new(Limits {
        per_peer: config.max_requests_per_peer,
        total: config.max_requests,
        timeout: Duration::from_millis(config.request_timeout_ms),
    });
    let task = Task {
        swarm,
        identify_protocol: names.identify,
        identify_timeout: Duration::from_millis(config.identify_timeout_ms),
        topics,
        table: Arc::clone(&table),
        stats: Arc::clone(&stats),
        commands: commands.clone(),
        outbox,
        dialer,
        book,
        walks: Walks::new(Duration::from_millis(config.discovery_interval_ms), now),
        target_peers: config.target_peers as usize,
        kad_protocol: names.discovery,
        known: Arc::clone(&known),
        live: HashMap::new(),
        judge: Judge::default(),
        retries: Retries::default(),
        relay: Relay::new(now),
        requests,
        opening: JoinSet::new(),
        wrapping: JoinSet::new(),
        publications: VecDeque::new(),
        held_until: None,
        published: 0,
        outbound: Outbound::default(),
    };
    let task = tokio::spawn(task.run(cancel));
    Ok(Network {
        local,
        listening,
        events,
        commands,
        peers: table,
        known,
        stats,
        task,
    })
}

/// Opens all addresses; gives them back as the system has made them.
async fn listen(swarm: &mut Swarm<Behaviour>, addresses: &[Multiaddr]) -> Result<Vec<Multiaddr>, NetworkError> {
    let mut waiting: HashMap<ListenerId, Multiaddr> = HashMap::new();
    let failed = |address: &Multiaddr, reason: String| NetworkError::Listen {
        address: address.clone(),
        reason,
    };
    for address in addresses {
        check_free(address).map_err(|error| failed(address, error.to_string()))?;
        let id = swarm
            .listen_on(address.clone())
            .map_err(|error| failed(address, reasons(&error)))?;
        waiting.insert(id, address.clone());
    }
    let deadline = tokio::time::Instant::now() + LISTEN_TIMEOUT;
    while let Some(address) = waiting.values().next().cloned() {
        let event = tokio::time::timeout_at(deadline, swarm.select_next_some()).await;
        match event.map_err(|_| failed(&address, format!("nothing happened for {LISTEN_TIMEOUT:?}")))? {
            SwarmEvent::NewListenAddr { listener_id, .. } => {
                waiting.remove(&listener_id);
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason: Err(error),
                ..
            }
            | SwarmEvent::ListenerError { listener_id, error } => {
                let address = waiting.get(&listener_id).unwrap_or(&address);
                return Err(failed(address, error.to_string()));
            }
            _ => {}
        }
    }
    Ok(swarm.listeners().cloned().collect())
}

/// Whether nobody else listens on a TCP address. libp2p sets SO_REUSEPORT, with which a second node on the same port
/// would start without a word and take half of the connections of the first.
fn check_free(address: &Multiaddr) -> std::io::Result<()> {
    let mut parts = address.iter();
    let address = match parts.next() {
        Some(Protocol::Ip4(address)) => IpAddr::V4(address),
        Some(Protocol::Ip6(address)) => IpAddr::V6(address),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port > 0 => TcpListener::bind((address, port)).map(drop),
        _ => Ok(()),
    }
}

/// An error with all its causes in one line: libp2p's own texts often leave out the one that matters.
fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl Task {
    async fn run(mut self, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.dial(Instant::now());
        loop {
            let wake = self.deadline().map(tokio::time::Instant::from_std);
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.commands.wait() => self.on_commands(),
                event = self.swarm.select_next_some(), if !self.outbox.is_congested() => self.on_swarm(event),
                Some(done) = self.opening.join_next() => self.on_large_opened(done),
                Some(done) = self.wrapping.join_next() => self.on_large_wrapped(done),
                () = self.outbox.drain_one(), if self.outbox.has_backlog() => {}
                () = sleep_until(wake), if wake.is_some() => self.on_deadline(),
                _ = tick.tick() => self.on_tick(),
            }
        }
        self.stop().await;
    }

    /// Tells everybody who still waits, and leaves nothing running.
    async fn stop(mut self) {
        let now = Instant::now();
        self.on_commands();
        for asked in self.requests.drain() {
            self.respond(asked.number, asked.id, Err(RequestError::Stopping));
        }
        let peers: Vec<_> = self.live.keys().copied().collect();
        for peer in peers {
            self.book.leave(&peer, discovery::today(), now);
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        self.tell_known();
        // A moment for the connections to say goodbye, so that peers need not wait for a ping to miss us.
        let goodbye = async {
            while !self.live.is_empty() {
                if let SwarmEvent::ConnectionClosed {
                    peer_id,
                    num_established: 0,
                    ..
                } = self.swarm.select_next_some().await
                {
                    self.live.remove(&peer_id);
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(300), goodbye).await;
        self.opening.shutdown().await;
        self.wrapping.shutdown().await;
        info!(took = ?now.elapsed(), "network has stopped");
    }

    fn deadline(&self) -> Option<Instant> {
        [
            self.dialer.deadline(),
            self.retries.deadline(),
            self.relay.deadline(),
            self.held_until,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_deadline(&mut self) {
        let now = Instant::now();
        self.dial(now);
        while let Some(publication) = self.retries.due(now) {
            self.retry(publication, now);
        }
        self.tell_neighbours(now);
        if self.held_until.is_some_and(|until| until <= now) {
            self.held_until = None;
            self.resume_publishing(now);
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        while let Some(unjudged) = self.judge.expired(now) {
            self.stats.unjudged.up();
            self.report(&unjudged.message, &unjudged.source, MessageAcceptance::Ignore);
        }
        let (asked, unanswered) = self.requests.expire(now);
        self.stats.requests_unanswered.add(unanswered as u64);
        for asked in asked {
            self.finish(asked, Err(RequestError::Timeout));
        }
        self.admit_the_reticent(now);
        self.reap(now);
        self.discover(now);
        self.gauge();
    }

    fn gauge(&self) {
        let gossip = &self.swarm.behaviour().gossip;
        let lonely = |topic: &Topic| gossip.mesh_peers(&self.topics.hash(*topic)).next().is_none();
        let meshless = if self.table.connected() == 0 {
            0
        } else {
            Topic::ALL.iter().filter(|t| lonely(t)).count()
        };
        self.stats.meshless_topics.set(meshless as u64);
        self.stats.waiting_verdicts.set(self.judge.len() as u64);
        self.stats.waiting_retries.set(self.retries.len() as u64);
        self.gauge_reconnecting();
    }

    fn on_commands(&mut self) {
        let Queues {
            publish,
            verdicts,
            asks,
            failed_asks,
            answers,
            faults,
            keep,
            ..
        } = self.commands.take(self.publications.is_empty());
        let now = Instant::now();
        for (id, verdict) in verdicts {
            self.judge(id, verdict);
        }
        self.publications.extend(publish);
        self.publish_waiting(now);
        for (ticket, answer) in answers {
            self.answer(ticket, answer);
        }
        for (peer, id, payload) in asks {
            self.ask(peer, id, payload, now);
        }
        for (peer, id) in failed_asks {
            self.fail(peer, id, RequestError::Overloaded);
        }
        for (peer, fault) in faults {
            self.punish(peer, fault, now);
        }
        if let Some(peers) = keep {
            self.keep(peers, now);
        }
    }

    fn punish(&mut self, peer: PeerId, fault: Fault, now: Instant) {
        let Some(length) = self.table.punish(peer, fault, now) else {
            return;
        };
        self.stats.bans.up();
        let Some(identity) = self.table.identity(peer) else {
            return;
        };
        warn!(%peer, %identity, ?length, "peer banned");
        let _ = self.swarm.disconnect_peer_id(identity);
    }

    /// Whether a message is taken in. Far beyond its limit the peer is priced.
    fn is_within_limits(&mut self, peer: PeerId, kind: Kind) -> bool {
        let now = Instant::now();
        let allowance = self.table.may_send(peer, kind, now);
        if allowance == Allowance::Granted {
            return true;
        }
        self.stats.limited_in.of(kind).up();
        if allowance == Allowance::Abused {
            debug!(%peer, ?kind, "a peer goes on far beyond the limit");
            self.punish(peer, Fault::Careless, now);
        }
        false
    }

    fn on_broken(&mut self, peer: PeerId, error: &EnvelopeError, what: &'static str) {
        self.stats.count_envelope(error);
        debug!(%peer, %error, what, "a broken envelope");
        self.punish(peer, error.fault(), Instant::now());
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}
