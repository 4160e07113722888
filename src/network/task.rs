//! The task that owns the swarm: turns what libp2p says into events, and commands into what libp2p does.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::gossipsub::{self, MessageAcceptance};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{self, Message};
use libp2p::swarm::{ConnectionId, DialError, ListenError, Swarm, SwarmEvent};
use libp2p::{Multiaddr, identify, ping};
use prost::bytes::Bytes;
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::behaviour::{self, Behaviour, BehaviourEvent, Names, Refused};
use super::commands::{Commands, Queues};
use super::dial::{Backoff, Dialer, Failure};
use super::envelope::{Envelope, EnvelopeError, INLINE_LIMIT, Refusal};
use super::events::{self, Outbox};
use super::gossip::{self, Judge, Outcome, Publication, Retries, Topics};
use super::limits::{Allowance, Outbound};
use super::peers::{BanTerms, PeerTable};
use super::request::{self, Asked, Frame, Limits, Requests};
use super::stats::Stats;
use crate::primitives::kinds::{self, Channel, Kind};

use super::{
    Config, Event, Fault, GossipId, Network, NetworkError, PeerId, RequestError, RequestId, Ticket, Topic, Verdict,
};

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
}

/// A large received message back from a blocking thread.
type Opened = (GossipFrom, Result<Bytes, EnvelopeError>);
/// A large message of our own back from a blocking thread.
type Wrapped = (Topic, Result<Envelope, EnvelopeError>);

/// Where a gossip message came from.
struct GossipFrom {
    message: gossipsub::MessageId,
    source: libp2p::PeerId,
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
    live: HashMap<libp2p::PeerId, Live>,
    judge: Judge,
    retries: Retries,
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
        live: HashMap::new(),
        judge: Judge::default(),
        retries: Retries::default(),
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
            let _ = self.swarm.disconnect_peer_id(peer);
        }
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
        [self.dialer.deadline(), self.retries.deadline(), self.held_until]
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
        self.gauge();
    }

    /// Closes connections that do not say of which chain they are.
    fn reap(&mut self, now: Instant) {
        let silent = |live: &Live| !live.admitted && now.duration_since(live.since) >= self.identify_timeout;
        let silent: Vec<_> = self
            .live
            .iter()
            .filter(|(_, live)| silent(live))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in silent {
            debug!(identity = %peer, "closing a connection that does not identify itself");
            self.stats.reaped.up();
            let _ = self.swarm.disconnect_peer_id(peer);
        }
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

    fn gauge_reconnecting(&self) {
        self.stats.reconnecting.set(self.dialer.missing() as u64);
    }

    // ---- commands ----------------------------------------------------------------------------------------------

    fn on_commands(&mut self) {
        let Queues {
            publish,
            verdicts,
            asks,
            failed_asks,
            answers,
            faults,
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
    }

    fn judge(&mut self, id: GossipId, verdict: Verdict) {
        let Some(unjudged) = self.judge.take(id) else {
            self.stats.verdicts_lost.up();
            return;
        };
        let acceptance = match verdict {
            Verdict::Accept if !self.may_gossip(unjudged.kind) => MessageAcceptance::Ignore,
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        self.report(&unjudged.message, &unjudged.source, acceptance);
    }

    fn may_gossip(&self, kind: Kind) -> bool {
        let may = self.outbound.take(kind, self.table.nanoseconds(Instant::now()));
        if !may {
            self.stats.limited_out.of(kind).up();
        }
        may
    }

    fn report(&mut self, message: &gossipsub::MessageId, source: &libp2p::PeerId, acceptance: MessageAcceptance) {
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        if !gossip.report_message_validation_result(message, source, acceptance) {
            debug!(%message, "the verdict came too late for gossip");
        }
    }

    fn publish_waiting(&mut self, now: Instant) {
        while self.wrapping.len() < HEAVY_MAX && self.held_until.is_none() {
            let Some((topic, payload)) = self.publications.pop_front() else {
                return;
            };
            let kind = match gossip_kind(topic, &payload) {
                Ok(kind) => kind,
                Err(error) => {
                    self.stats.oversized_out.up();
                    warn!(topic = topic.name(), %error, "a payload of our own cannot be published");
                    continue;
                }
            };
            if !self.may_gossip(kind) {
                self.publications.push_front((topic, payload));
                self.held_until = Some(now + HOLD);
                return;
            }
            if payload.len() > INLINE_LIMIT {
                self.wrapping.spawn_blocking(move || (topic, Envelope::wrap(payload)));
            } else {
                self.on_wrapped(topic, Envelope::wrap(payload), now);
            }
        }
    }

    /// What held publications up is over: goes on with those taken already, then with those still in the command queue.
    fn resume_publishing(&mut self, now: Instant) {
        self.publish_waiting(now);
        if self.publications.is_empty() {
            self.on_commands();
        }
    }

    fn on_wrapped(&mut self, topic: Topic, result: Result<Envelope, EnvelopeError>, now: Instant) {
        match result {
            Ok(envelope) => {
                self.published = self.published.wrapping_add(1);
                self.publish(Publication::new(topic, envelope, self.published, now), now);
            }
            Err(error) => {
                self.stats.oversized_out.up();
                warn!(topic = topic.name(), %error, "a payload of our own cannot be published");
            }
        }
    }

    fn publish(&mut self, mut publication: Publication, now: Instant) {
        let topic = publication.topic;
        let bytes = publication.bytes();
        let length = bytes.len() as u64;
        let result = self
            .swarm
            .behaviour_mut()
            .gossip
            .publish(self.topics.hash(topic), bytes);
        match gossip::outcome(result) {
            Outcome::Sent => {
                self.stats.gossip_out.of(topic).up();
                self.stats.bytes_out.add(length);
            }
            // The same words again, on purpose: whoever says them twice has a reason.
            Outcome::Known if publication.rename() => self.publish(publication, now),
            Outcome::Known => self.stats.publish_duplicates.up(),
            Outcome::Retry { renamed } => {
                if renamed {
                    self.held_until = Some(now + HOLD);
                }
                let given_up = self.retries.add(publication, renamed, now);
                if given_up > 0 {
                    self.stats.publish_abandoned.add(given_up);
                    debug!(topic = topic.name(), given_up, "publications given up");
                }
            }
            Outcome::Impossible(error) => {
                self.stats.publish_abandoned.up();
                warn!(topic = topic.name(), bytes = length, %error, "gossip refuses a payload of our own");
            }
        }
    }

    fn retry(&mut self, publication: Publication, now: Instant) {
        self.stats.publish_retries.up();
        self.publish(publication, now);
    }

    fn ask(&mut self, peer: PeerId, id: RequestId, payload: Vec<u8>, now: Instant) {
        let kind = match Kind::of(Channel::Request, &payload, payload.len()) {
            Ok(kind) => kind,
            Err(error) => {
                self.stats.oversized_out.up();
                return self.fail(peer, id, RequestError::Unsendable(error));
            }
        };
        let Some(identity) = self.table.identity(peer) else {
            return self.fail(peer, id, RequestError::UnknownPeer);
        };
        if !self.swarm.is_connected(&identity) {
            return self.fail(peer, id, RequestError::NotConnected);
        }
        if !self.requests.may_ask(&identity) {
            return self.fail(peer, id, RequestError::Overloaded);
        }
        if !self.table.may_ask(peer, kind, now) {
            self.stats.limited_out.of(kind).up();
            return self.fail(peer, id, RequestError::Overloaded);
        }
        let sent = self
            .swarm
            .behaviour_mut()
            .requests
            .send_request(&identity, Frame::Payload(payload.into()));
        self.requests.on_asked(sent, id, identity, peer, now);
        self.stats.requests_out.up();
    }

    fn fail(&mut self, peer: PeerId, id: RequestId, error: RequestError) {
        self.stats.request_failures.up();
        self.respond(peer, id, Err(error));
    }

    fn answer(&mut self, ticket: Ticket, answer: Option<Vec<u8>>) {
        let Some(channel) = self.requests.redeem(ticket) else {
            debug!(?ticket, "an answer came too late");
            return;
        };
        let frame = match answer {
            Some(payload) => self.answer_frame(payload),
            None => Frame::Refused(Refusal::Busy),
        };
        // If the peer is gone, an inbound failure tells.
        let _ = self.swarm.behaviour_mut().requests.send_response(channel, frame);
    }

    /// Our own answers keep to the limits, too.
    fn answer_frame(&self, payload: Vec<u8>) -> Frame {
        match Kind::of(Channel::Answer, &payload, payload.len()) {
            Ok(_) => Frame::Payload(payload.into()),
            Err(error) => {
                self.stats.oversized_out.up();
                warn!(%error, "an answer of our own cannot be sent");
                Frame::Refused(Refusal::AnswerTooLarge)
            }
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

    // ---- the swarm ---------------------------------------------------------------------------------------------

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                self.on_established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                endpoint,
                num_established,
                cause,
                ..
            } => {
                debug!(identity = %peer_id, ?cause, left = num_established, "connection closed");
                self.on_closed(peer_id, &endpoint, num_established);
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id, error, ..
            } => {
                self.on_dial_failed(connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError {
                error, send_back_addr, ..
            } => {
                self.on_handshake_failed(&error, &send_back_addr);
            }
            SwarmEvent::ListenerClosed {
                addresses,
                reason: Err(error),
                ..
            } => {
                warn!(?addresses, %error, "an address is no longer listened on");
            }
            SwarmEvent::ListenerError { error, .. } => debug!(%error, "a connection could not be taken"),
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info);
            }
            BehaviourEvent::Ping(event) => self.on_ping(event),
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Requests(event) => self.on_request_event(event),
            _ => {}
        }
    }

    fn on_established(&mut self, peer: libp2p::PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let now = Instant::now();
        let outbound = endpoint.is_dialer();
        let address = endpoint.get_remote_address().clone();
        let direction = if outbound {
            &self.stats.connections_out
        } else {
            &self.stats.connections_in
        };
        direction.up();
        debug!(identity = %peer, %address, outbound, "connection established");
        let number = self.table.on_connected(peer, outbound, address, now);
        self.live.entry(peer).or_insert(Live {
            number,
            admitted: false,
            identified: None,
            subscribed: 0,
            since: now,
            outbound,
        });
        self.dialer.on_established(id, peer);
        if self.live.get(&peer).is_some_and(|live| live.admitted) {
            self.dialer.on_admitted(peer, now);
        }
        self.gauge_reconnecting();
    }

    fn on_closed(&mut self, peer: libp2p::PeerId, endpoint: &ConnectedPoint, left: u32) {
        self.table.on_closed(&peer, endpoint.is_dialer());
        if left > 0 {
            return;
        }
        self.dialer.on_closed(peer, Instant::now(), rand::random());
        self.gauge_reconnecting();
        let Some(live) = self.live.remove(&peer) else { return };
        if live.admitted {
            info!(peer = %live.number, identity = %peer, peers = self.table.connected(), "peer is gone");
            self.outbox.deliver(Event::PeerDown { peer: live.number });
        }
    }

    fn on_dial_failed(&mut self, id: ConnectionId, error: &DialError) {
        let why = match error {
            // libp2p strikes the addresses it listens on from what it dials, and says that none is left.
            DialError::LocalPeerId { .. } | DialError::NoAddresses => {
                info!(%error, "a bootstrap address leads to this node itself; it is left out");
                Failure::OwnAddress
            }
            DialError::DialPeerConditionFalse(_) => Failure::Superfluous,
            DialError::WrongPeerId { obtained, address } => {
                warn!(%obtained, %address, "a bootstrap address is answered by another identity than configured");
                Failure::Unreachable
            }
            _ => Failure::Unreachable,
        };
        if why == Failure::Unreachable {
            self.stats.dial_failures.up();
        }
        let again = self.dialer.on_failed(id, why, Instant::now(), rand::random());
        self.gauge_reconnecting();
        debug!(error = %reasons(error), ?again, "dial failed");
    }

    fn on_handshake_failed(&mut self, error: &ListenError, from: &Multiaddr) {
        match error {
            // The gate has counted its own refusals.
            ListenError::Denied { cause } if cause.downcast_ref::<Refused>().is_some() => {}
            ListenError::Denied { .. } => self.stats.refused_limit.up(),
            _ => self.stats.handshake_failures.up(),
        }
        debug!(%from, error = %reasons(error), "connection refused or broken");
    }

    fn dial(&mut self, now: Instant) {
        let swarm = &self.swarm;
        for options in self.dialer.due(now, |peer| swarm.is_connected(peer)) {
            let id = options.connection_id();
            if let Err(error) = self.swarm.dial(options) {
                self.on_dial_failed(id, &error);
            }
        }
        self.gauge_reconnecting();
    }

    fn on_identified(&mut self, peer: libp2p::PeerId, info: identify::Info) {
        if info.protocol_version != self.identify_protocol {
            self.stats.refused_chain.up();
            let theirs: String = info
                .protocol_version
                .chars()
                .filter(|c| !c.is_control())
                .take(80)
                .collect();
            info!(identity = %peer, %theirs, ours = self.identify_protocol, "closing: the peer is of another chain");
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        self.table.on_identified(&peer, &info.agent_version, info.observed_addr);
        let Some(live) = self.live.get_mut(&peer) else { return };
        live.identified = Some(Instant::now());
        let gossips = info
            .protocols
            .iter()
            .any(|protocol| protocol.as_ref().starts_with(GOSSIP_PROTOCOLS));
        if !gossips || live.subscribed == ALL_TOPICS {
            self.admit(peer);
        }
    }

    /// A peer that takes part in gossip is announced when it listens, so that what the node publishes on hearing of it
    /// reaches it.
    fn on_subscribed(&mut self, peer: libp2p::PeerId, topic: Topic) {
        let now = Instant::now();
        for publication in self.retries.on_subscribed(topic) {
            self.retry(publication, now);
        }
        let Some(live) = self.live.get_mut(&peer) else { return };
        live.subscribed |= 1 << topic as u8;
        if live.identified.is_some() && live.subscribed == ALL_TOPICS {
            self.admit(peer);
        }
    }

    /// Announces those that could gossip and have not said of all topics that they listen: they need not.
    fn admit_the_reticent(&mut self, now: Instant) {
        let waited = |live: &Live| {
            live.identified
                .is_some_and(|since| now.duration_since(since) >= SUBSCRIBE_GRACE)
        };
        let due = |live: &Live| !live.admitted && waited(live);
        let due: Vec<_> = self
            .live
            .iter()
            .filter(|(_, live)| due(live))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            self.admit(peer);
        }
    }

    /// The peer has shown its chain, by saying so or by speaking a protocol that carries its name. `None` if it is gone.
    fn admit(&mut self, peer: libp2p::PeerId) -> Option<PeerId> {
        let live = self.live.get_mut(&peer)?;
        if !live.admitted {
            live.admitted = true;
            let (number, outbound) = (live.number, live.outbound);
            self.table.on_admitted(&peer);
            self.dialer.on_admitted(peer, Instant::now());
            info!(peer = %number, identity = %peer, outbound, peers = self.table.connected(), "peer is there");
            self.outbox.deliver(Event::PeerUp { peer: number, outbound });
            return Some(number);
        }
        Some(live.number)
    }

    fn on_ping(&mut self, event: ping::Event) {
        match event.result {
            Ok(round_trip) => self.table.on_ping(&event.peer, round_trip),
            Err(ping::Failure::Unsupported) => {}
            Err(error) => {
                debug!(identity = %event.peer, %error, "closing a connection that does not answer");
                self.stats.reaped.up();
                self.swarm.close_connection(event.connection);
            }
        }
    }

    // ---- gossip ------------------------------------------------------------------------------------------------

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            } => {
                let Some(topic) = self.topics.find(&message.topic) else {
                    return;
                };
                self.stats.gossip_in.of(topic).up();
                self.stats.bytes_in.add(message.data.len() as u64);
                let from = GossipFrom {
                    message: message_id,
                    source: propagation_source,
                    topic,
                };
                self.open_gossip(from, message.data);
            }
            gossipsub::Event::Subscribed { peer_id, topic, .. } => {
                if let Some(topic) = self.topics.find(&topic) {
                    self.on_subscribed(peer_id, topic);
                }
            }
            gossipsub::Event::SlowPeer {
                peer_id,
                failed_messages,
            } => {
                let lost = failed_messages.priority + failed_messages.non_priority;
                self.stats.slow_peer_losses.add(lost as u64);
                debug!(identity = %peer_id, lost, "a peer is too slow for gossip");
            }
            _ => {}
        }
    }

    fn open_gossip(&mut self, from: GossipFrom, data: Vec<u8>) {
        let max = kinds::max_bytes(Channel::Gossip(from.topic));
        let envelope = Envelope::parse(data.into())
            .and_then(Envelope::expect_payload)
            .and_then(|envelope| envelope.expect_at_most(from.topic.name(), max));
        let envelope = match envelope {
            Ok(envelope) => envelope,
            Err(error) => return self.on_opened(from, Err(error)),
        };
        if !envelope.is_heavy() {
            let result = envelope.open();
            return self.on_opened(from, result);
        }
        if self.opening.len() >= HEAVY_MAX {
            self.stats.gossip_dropped.up();
            return self.report(&from.message, &from.source, MessageAcceptance::Ignore);
        }
        self.opening.spawn_blocking(move || (from, envelope.open()));
    }

    fn on_opened(&mut self, from: GossipFrom, result: Result<Bytes, EnvelopeError>) {
        let Some(peer) = self.admit(from.source) else {
            // It left while its message was being opened. Nobody is there to be told from whom it is.
            self.stats.gossip_dropped.up();
            return self.report(&from.message, &from.source, MessageAcceptance::Ignore);
        };
        let checked = result.and_then(|payload| Ok((gossip_kind(from.topic, &payload)?, payload)));
        match checked {
            Ok((kind, payload)) => self.offer_gossip(peer, from, kind, payload),
            Err(error) => {
                self.report(&from.message, &from.source, MessageAcceptance::Reject);
                self.on_broken(peer, &error, from.topic.name());
            }
        }
    }

    fn offer_gossip(&mut self, peer: PeerId, from: GossipFrom, kind: Kind, payload: Bytes) {
        let GossipFrom { message, source, topic } = from;
        if !self.is_within_limits(peer, kind) {
            return self.report(&message, &source, MessageAcceptance::Ignore);
        }
        let (id, pushed_out) = self.judge.add(message, source, kind, Instant::now());
        if let Some(oldest) = pushed_out {
            self.stats.unjudged.up();
            self.report(&oldest.message, &oldest.source, MessageAcceptance::Ignore);
        }
        if !self.outbox.offer(Event::Gossip {
            from: peer,
            id,
            topic,
            payload,
        }) {
            self.stats.gossip_dropped.up();
            self.judge(id, Verdict::Ignore);
        }
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

    // The work of blocking threads cannot panic on any input; if it ever does, that is said, and one message is lost.

    fn on_large_opened(&mut self, done: Result<Opened, JoinError>) {
        match done {
            Ok((from, result)) => self.on_opened(from, result),
            Err(error) => warn!(%error, "a large message was lost while it was opened"),
        }
    }

    fn on_large_wrapped(&mut self, done: Result<Wrapped, JoinError>) {
        let now = Instant::now();
        match done {
            Ok((topic, result)) => self.on_wrapped(topic, result, now),
            Err(error) => warn!(%error, "a large message of our own was lost while it was wrapped"),
        }
        self.resume_publishing(now);
    }

    // ---- requests ----------------------------------------------------------------------------------------------

    fn on_request_event(&mut self, event: request_response::Event<Frame, Frame>) {
        use request_response::Event as E;
        match event {
            E::Message {
                peer,
                message:
                    Message::Request {
                        request_id,
                        request,
                        channel,
                    },
                ..
            } => {
                self.on_request(peer, request_id, request, channel);
            }
            E::Message {
                message: Message::Response { request_id, response },
                ..
            } => {
                if let Some(asked) = self.requests.finish(request_id) {
                    self.on_response(asked, response);
                }
            }
            E::OutboundFailure { request_id, error, .. } => {
                if let Some(asked) = self.requests.finish(request_id) {
                    self.finish(asked, Err(request::outbound_error(error)));
                }
            }
            E::InboundFailure { request_id, error, .. } => {
                if self.requests.close(request_id) == Some(false) {
                    self.stats.requests_unanswered.up();
                }
                debug!(%error, "a request could not be answered");
            }
            E::ResponseSent { request_id, .. } => {
                self.requests.close(request_id);
            }
        }
    }

    fn on_request(
        &mut self,
        source: libp2p::PeerId,
        id: request_response::InboundRequestId,
        frame: Frame,
        channel: request_response::ResponseChannel<Frame>,
    ) {
        self.stats.requests_in.up();
        let Some(peer) = self.admit(source) else { return };
        match frame {
            Frame::Payload(payload) => {
                // The codec has looked at it already.
                let kind = Kind::of(Channel::Request, &payload, payload.len());
                if !kind.is_ok_and(|kind| self.is_within_limits(peer, kind)) {
                    return self.refuse(channel, Refusal::Busy);
                }
                let ticket = match self.requests.admit(id, source, channel, Instant::now()) {
                    Ok(ticket) => ticket,
                    Err(channel) => return self.refuse(channel, Refusal::Busy),
                };
                if !self.outbox.offer(Event::Request {
                    from: peer,
                    ticket,
                    payload,
                }) {
                    self.stats.requests_refused.up();
                    self.answer(ticket, None);
                }
            }
            // Our own codec had no room; a peer that sends a refusal as a request gets it back.
            Frame::Refused(refusal) => self.refuse(channel, refusal),
            Frame::Bad(error) => {
                self.refuse(channel, error.refusal());
                self.on_broken(peer, &error, "request");
            }
        }
    }

    fn refuse(&mut self, channel: request_response::ResponseChannel<Frame>, refusal: Refusal) {
        self.stats.requests_refused.up();
        let _ = self
            .swarm
            .behaviour_mut()
            .requests
            .send_response(channel, Frame::Refused(refusal));
    }

    fn on_response(&mut self, asked: Asked, frame: Frame) {
        let peer = asked.number;
        match frame {
            Frame::Payload(payload) => self.finish(asked, Ok(payload)),
            Frame::Refused(refusal) => self.finish(asked, Err(RequestError::Refused(refusal))),
            Frame::Bad(error) => {
                self.finish(asked, Err(RequestError::Broken(error.clone())));
                self.on_broken(peer, &error, "answer");
            }
        }
    }

    fn finish(&mut self, asked: Asked, result: Result<Bytes, RequestError>) {
        match &result {
            Ok(_) => {}
            Err(RequestError::Timeout) => self.stats.request_timeouts.up(),
            Err(_) => self.stats.request_failures.up(),
        }
        self.respond(asked.number, asked.id, result);
    }

    fn respond(&mut self, from: PeerId, request: RequestId, result: Result<Bytes, RequestError>) {
        self.outbox.deliver(Event::Response { from, request, result });
    }
}

/// The type of a gossip message, which must belong to its topic.
fn gossip_kind(topic: Topic, payload: &[u8]) -> Result<Kind, EnvelopeError> {
    let kind = Kind::of(Channel::Gossip(topic), payload, payload.len())?;
    if kind.channel() == Channel::Gossip(topic) {
        return Ok(kind);
    }
    Err(EnvelopeError::WrongTopic {
        kind: kind.name(),
        topic: topic.name(),
    })
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}
