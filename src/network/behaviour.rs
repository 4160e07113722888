//! What runs on every connection, in the order in which a new one must please them: the gate and the limits come first,
//! so that nothing else ever hears of a connection that is refused.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure, NetworkBehaviour, Swarm, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol, identify, memory_connection_limits, ping, swarm};

use super::peers::PeerTable;
use super::stats::Stats;
use super::{Config, NetworkError, discovery, gossip, request, transport};

/// Connections are not closed for being quiet: ping finds the dead ones, and a validator may have nothing to say.
const IDLE_TIMEOUT: Duration = Duration::from_secs(365 * 86_400);

/// Everything that speaks on a connection.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    /// Bans, and connections per address.
    gate: Gate,
    /// Numbers of connections.
    pub(super) limits: connection_limits::Behaviour,
    /// No new connections while the process holds too much memory.
    memory: Toggle<memory_connection_limits::Behaviour>,
    /// Who is there, and of which chain.
    pub(super) identify: identify::Behaviour,
    /// Finds dead connections.
    pub(super) ping: ping::Behaviour,
    /// Finds peers.
    pub(super) discovery: discovery::Behaviour,
    /// One to all.
    pub(super) gossip: gossip::Behaviour,
    /// One to one.
    pub(super) requests: request::Behaviour,
}

/// The names under which a chain's peers find one another.
pub(super) struct Names {
    /// The first eight bytes of the chain id, in hex.
    pub(super) chain: String,
    /// What identify announces; a peer that announces another is of another chain.
    pub(super) identify: String,
    pub(super) requests: StreamProtocol,
    pub(super) discovery: StreamProtocol,
}

impl Names {
    pub(super) fn new(chain_id: &[u8; 32]) -> Self {
        let chain = hex::encode(&chain_id[..8]);
        let protocol = |name: &str| {
            StreamProtocol::try_from_owned(format!("/timecoin/{chain}/{name}/1"))
                .expect("it begins with a slash, which is all that is asked of it")
        };
        Self {
            identify: format!("/timecoin/{chain}/1"),
            requests: protocol("request"),
            discovery: protocol("kad"),
            chain,
        }
    }
}

/// The swarm, not yet listening.
pub(super) fn swarm(
    config: &Config,
    identity: Keypair,
    names: &Names,
    topics: &gossip::Topics,
    table: &Arc<PeerTable>,
    stats: &Arc<Stats>,
) -> Result<Swarm<Behaviour>, NetworkError> {
    let local = identity.public().to_peer_id();
    let transport = transport::transport(&identity)?;
    let behaviour = Behaviour {
        gate: Gate::new(Arc::clone(table), Arc::clone(stats), config.max_per_address),
        limits: connection_limits::Behaviour::new(limits(config)),
        memory: Toggle::from((config.max_process_memory_mb > 0).then(|| {
            memory_connection_limits::Behaviour::with_max_bytes(config.max_process_memory_mb.saturating_mul(1_000_000))
        })),
        identify: identify::Behaviour::new(
            identify::Config::new(names.identify.clone(), identity.public())
                .with_agent_version(concat!("timecoin/", env!("CARGO_PKG_VERSION")).into())
                .with_cache_size(0),
        ),
        ping: ping::Behaviour::new(
            ping::Config::new()
                .with_interval(Duration::from_millis(config.ping_interval_ms))
                .with_timeout(Duration::from_millis(config.ping_interval_ms)),
        ),
        discovery: discovery::behaviour(
            local,
            names.discovery.clone(),
            Duration::from_millis(config.request_timeout_ms),
        ),
        gossip: gossip::behaviour(topics)?,
        requests: request::behaviour(
            names.requests.clone(),
            Duration::from_millis(config.request_timeout_ms),
            // Both directions share the streams of a connection.
            2 * config.max_requests_per_peer,
            Arc::clone(stats),
        ),
    };
    let settings = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
    Ok(Swarm::new(transport, behaviour, local, settings))
}

fn limits(config: &Config) -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_established(Some(config.max_connections))
        .with_max_established_per_peer(Some(config.max_per_peer))
        .with_max_pending_incoming(Some(config.max_pending_inbound))
        .with_max_pending_outgoing(Some(config.max_pending_outbound))
}

/// Why the gate stays shut.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("the peer is banned")]
    Banned,
    #[error("{count} connections from {address}, at most {max} are allowed")]
    Address { address: IpAddr, count: u32, max: u32 },
}

/// Refuses banned peers, and more than so many connections from one address. Loopback is not counted: there, many nodes
/// of one operator share an address.
pub(super) struct Gate {
    table: Arc<PeerTable>,
    stats: Arc<Stats>,
    max_per_address: u32,
    addresses: HashMap<ConnectionId, IpAddr>,
    counts: HashMap<IpAddr, u32>,
}

impl Gate {
    fn new(table: Arc<PeerTable>, stats: Arc<Stats>, max_per_address: u32) -> Self {
        Self {
            table,
            stats,
            max_per_address,
            addresses: HashMap::new(),
            counts: HashMap::new(),
        }
    }

    fn check_peer(&self, peer: &PeerId) -> Result<(), ConnectionDenied> {
        if self.table.is_banned(peer, Instant::now()) {
            self.stats.refused_banned.up();
            return Err(ConnectionDenied::new(Refused::Banned));
        }
        Ok(())
    }

    fn enter(&mut self, connection: ConnectionId, address: IpAddr) -> Result<(), Refused> {
        let count = self.counts.entry(address).or_default();
        if *count >= self.max_per_address {
            return Err(Refused::Address {
                address,
                count: *count,
                max: self.max_per_address,
            });
        }
        *count += 1;
        self.addresses.insert(connection, address);
        Ok(())
    }

    fn leave(&mut self, connection: ConnectionId) {
        let Some(address) = self.addresses.remove(&connection) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&address);
            }
        }
    }
}

/// The address that counts: none for loopback, and for IPv6 the /64 that one customer gets.
fn counted(address: &Multiaddr) -> Option<IpAddr> {
    let address = address.iter().find_map(|part| match part {
        Protocol::Ip4(address) => Some(IpAddr::V4(address)),
        Protocol::Ip6(address) => Some(IpAddr::V6(address)),
        _ => None,
    })?;
    match address.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V6(address) => Some(IpAddr::V6((u128::from(address) >> 64 << 64).into())),
        address => Some(address),
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let Some(address) = counted(remote) else { return Ok(()) };
        self.enter(connection, address).map_err(|refused| {
            self.stats.refused_address.up();
            ConnectionDenied::new(refused)
        })
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check_peer(&peer).map(|()| dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        peer.map_or(Ok(()), |peer| self.check_peer(&peer)).map(|()| Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check_peer(&peer).map(|()| dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => self.leave(connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::super::peers::BanTerms;
    use super::*;

    fn gate(max: u32) -> Gate {
        let terms = BanTerms {
            base: Duration::from_secs(60),
            max: Duration::from_secs(60),
        };
        Gate::new(Arc::new(PeerTable::new(terms, Instant::now())), Arc::default(), max)
    }

    fn knock(gate: &mut Gate, number: usize, from: &str) -> bool {
        let from: Multiaddr = from.parse().expect("an address");
        gate.handle_pending_inbound_connection(ConnectionId::new_unchecked(number), &from, &from)
            .is_ok()
    }

    #[test]
    fn connections_from_one_address_are_limited_and_counted_down() {
        let mut gate = gate(2);
        let address = "/ip4/192.0.2.1/tcp/1000";
        assert!(knock(&mut gate, 1, address));
        assert!(knock(&mut gate, 2, "/ip4/192.0.2.1/udp/1/quic-v1"));
        assert!(!knock(&mut gate, 3, address));
        assert!(knock(&mut gate, 4, "/ip4/192.0.2.2/tcp/1000"));
        assert_eq!(gate.stats.refused_address.get(), 1);
        // The refused one never counted, so its end frees nothing.
        gate.leave(ConnectionId::new_unchecked(3));
        assert!(!knock(&mut gate, 5, address));
        gate.leave(ConnectionId::new_unchecked(1));
        assert!(knock(&mut gate, 6, address));
        for number in [2, 4, 6] {
            gate.leave(ConnectionId::new_unchecked(number));
        }
        assert!(gate.counts.is_empty() && gate.addresses.is_empty());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_and_loopback_not_at_all() {
        let mut gate = gate(1);
        assert!(knock(&mut gate, 1, "/ip6/2001:db8:1:2::1/tcp/1"));
        assert!(!knock(&mut gate, 2, "/ip6/2001:db8:1:2:ffff::9/tcp/1"));
        assert!(knock(&mut gate, 3, "/ip6/2001:db8:1:3::1/tcp/1"));
        assert!(knock(&mut gate, 4, "/ip6/::ffff:192.0.2.1/tcp/1"));
        assert!(
            !knock(&mut gate, 5, "/ip4/192.0.2.1/tcp/1"),
            "the same address in other clothes"
        );
        for number in 10..20 {
            assert!(knock(&mut gate, number, "/ip4/127.0.0.1/tcp/1"));
            assert!(knock(&mut gate, number + 10, "/ip6/::1/tcp/1"));
        }
    }

    #[test]
    fn names_tell_chains_apart() {
        let mut id = [0xAB; 32];
        let names = Names::new(&id);
        assert_eq!(names.identify, "/timecoin/abababababababab/1");
        assert_eq!(names.requests.as_ref(), "/timecoin/abababababababab/request/1");
        assert_eq!(names.discovery.as_ref(), "/timecoin/abababababababab/kad/1");
        id[7] = 0;
        assert_ne!(Names::new(&id).identify, names.identify);
    }
}
