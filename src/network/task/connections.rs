//! Connections: who comes and goes, who is of this chain, who is dialed.

use std::time::Instant;

use libp2p::core::ConnectedPoint;
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, identify, ping};
use tracing::{debug, info, warn};

use super::{ALL_TOPICS, GOSSIP_PROTOCOLS, Live, SUBSCRIBE_GRACE, Task, reasons};
use crate::network::behaviour::{BehaviourEvent, Refused};
use crate::network::config::is_loopback;
use crate::network::dial::Failure;
use crate::network::{Event, PeerId, Topic};

impl Task {
    pub(super) fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
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

    pub(super) fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info);
            }
            BehaviourEvent::Ping(event) => self.on_ping(event),
            BehaviourEvent::Discovery(event) => self.on_discovery(event),
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Requests(event) => self.on_request_event(event),
            _ => {}
        }
    }

    pub(super) fn on_established(&mut self, peer: libp2p::PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
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
            loopback: is_loopback(endpoint.get_remote_address()),
        });
        self.dialer.on_established(id, peer);
        if self.live.get(&peer).is_some_and(|live| live.admitted) {
            self.dialer.on_admitted(peer, now);
        }
        self.gauge_reconnecting();
    }

    pub(super) fn on_closed(&mut self, peer: libp2p::PeerId, endpoint: &ConnectedPoint, left: u32) {
        self.table.on_closed(&peer, endpoint.is_dialer());
        if left > 0 {
            return;
        }
        self.dialer.on_closed(peer, Instant::now(), rand::random());
        self.gauge_reconnecting();
        self.relay.on_gone(&peer, Instant::now());
        let Some(live) = self.live.remove(&peer) else { return };
        if live.admitted {
            self.book.leave(&peer, super::discovery::today(), Instant::now());
            info!(peer = %live.number, identity = %peer, peers = self.table.connected(), "peer is gone");
            self.outbox.deliver(Event::PeerDown { peer: live.number });
        }
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId, error: &DialError) {
        let why = match error {
            // libp2p strikes the addresses it listens on from what it dials, and says that none is left.
            DialError::LocalPeerId { .. } | DialError::NoAddresses => {
                info!(%error, "a bootstrap address leads to this node itself; it is left out");
                Failure::OwnAddress
            }
            DialError::DialPeerConditionFalse(_) => Failure::Superfluous,
            DialError::WrongPeerId { obtained, address } if self.dialer.is_dialing(id) => {
                warn!(%obtained, %address, "an address is answered by another identity than expected");
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

    pub(super) fn on_handshake_failed(&mut self, error: &ListenError, from: &Multiaddr) {
        match error {
            // The gate has counted its own refusals.
            ListenError::Denied { cause } if cause.downcast_ref::<Refused>().is_some() => {}
            ListenError::Denied { .. } => self.stats.refused_limit.up(),
            _ => self.stats.handshake_failures.up(),
        }
        debug!(%from, error = %reasons(error), "connection refused or broken");
    }

    pub(super) fn dial(&mut self, now: Instant) {
        let swarm = &self.swarm;
        for options in self.dialer.due(now, |peer| swarm.is_connected(peer)) {
            let id = options.connection_id();
            if let Err(error) = self.swarm.dial(options) {
                self.on_dial_failed(id, &error);
            }
        }
        self.gauge_reconnecting();
    }

    pub(super) fn on_identified(&mut self, peer: libp2p::PeerId, info: identify::Info) {
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
        self.on_listens(peer, &info);
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
    pub(super) fn on_subscribed(&mut self, peer: libp2p::PeerId, topic: Topic) {
        let now = Instant::now();
        for publication in self.retries.on_subscribed(topic) {
            self.retry(publication, now);
        }
        let Some(live) = self.live.get_mut(&peer) else { return };
        live.subscribed |= 1 << topic as u8;
        self.relay.on_listener(peer, now);
        if live.identified.is_some() && live.subscribed == ALL_TOPICS {
            self.admit(peer);
        }
    }

    /// Announces those that could gossip and have not said of all topics that they listen: they need not.
    pub(super) fn admit_the_reticent(&mut self, now: Instant) {
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
    pub(super) fn admit(&mut self, peer: libp2p::PeerId) -> Option<PeerId> {
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

    pub(super) fn on_ping(&mut self, event: ping::Event) {
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

    /// Closes connections that do not say of which chain they are.
    pub(super) fn reap(&mut self, now: Instant) {
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

    pub(super) fn gauge_reconnecting(&self) {
        self.stats.reconnecting.set(self.dialer.missing() as u64);
    }
}
