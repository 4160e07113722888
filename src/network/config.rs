//! Settings of the network.

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use serde::{Deserialize, Serialize};

use std::net::IpAddr;

use super::envelope::MAX_MESSAGE_SIZE;
use crate::primitives::limits::MAX_ADDRESSES_PER_ANNOUNCEMENT;

/// Settings of the network; every one has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses to listen on, TCP or QUIC, such as `/ip4/0.0.0.0/tcp/7310` or `/ip4/0.0.0.0/udp/7310/quic-v1`.
    pub listen: Vec<Multiaddr>,
    /// Peers to keep a connection to, such as `/dns4/seed.example.org/tcp/7310`; `/p2p/<identity>` at the end makes sure
    /// of whom it is.
    pub bootstrap: Vec<Multiaddr>,
    /// Addresses at which others reach this node, told to them; where it listens, if none is given.
    pub announce: Vec<Multiaddr>,
    /// Connections that this node wants to have opened itself: while there are fewer, it dials peers that it knows or hears
    /// of; 0 to dial only bootstrap peers and validators, and to tell others of nobody.
    pub target_peers: u32,
    /// How often this node asks around for peers while it has too few, in milliseconds; 12 times as long otherwise.
    pub discovery_interval_ms: u64,
    /// Connections in all (bootstrap peers given with their identity are let in beyond it).
    pub max_connections: u32,
    /// Connections with one peer. At least 2: with 1, two nodes that dial each other at once may lose both.
    pub max_per_peer: u32,
    /// Connections opened by others from one IPv4 address or IPv6 /64; loopback is not counted.
    pub max_per_address: u32,
    /// Handshakes of others in progress.
    pub max_pending_inbound: u32,
    /// Dials in progress.
    pub max_pending_outbound: u32,
    /// Memory of the process, in MB, above which no new connection is taken; 0 for no limit.
    pub max_process_memory_mb: usize,
    /// Requests under way with one peer, in each direction.
    pub max_requests_per_peer: usize,
    /// Requests under way with all peers, in each direction.
    pub max_requests: usize,
    /// How long a request may take, in milliseconds.
    pub request_timeout_ms: u64,
    /// Events waiting for the node.
    pub max_events: usize,
    /// Bytes in the events waiting for the node, in MB.
    pub max_event_mb: usize,
    /// How often connections are probed, in milliseconds; one that does not answer within the same time is closed.
    pub ping_interval_ms: u64,
    /// How long a new connection may take to say of which chain it is, in milliseconds.
    pub identify_timeout_ms: u64,
    /// The shortest delay before a lost bootstrap peer is dialed again, in milliseconds.
    pub redial_min_ms: u64,
    /// The longest such delay, in milliseconds.
    pub redial_max_ms: u64,
    /// How long a first ban lasts, in milliseconds.
    pub ban_base_ms: u64,
    /// How long any ban lasts at most, in milliseconds.
    pub ban_max_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        let address = |text: &str| text.parse().expect("a constant, and a test reads it");
        Self {
            listen: vec![
                address("/ip4/0.0.0.0/tcp/7310"),
                address("/ip4/0.0.0.0/udp/7310/quic-v1"),
            ],
            bootstrap: Vec::new(),
            announce: Vec::new(),
            target_peers: 8,
            discovery_interval_ms: 5_000,
            max_connections: 1_000,
            max_per_peer: 4,
            max_per_address: 32,
            max_pending_inbound: 128,
            max_pending_outbound: 64,
            max_process_memory_mb: 0,
            max_requests_per_peer: 64,
            max_requests: 4_096,
            request_timeout_ms: 10_000,
            max_events: 8_192,
            max_event_mb: 256,
            ping_interval_ms: 10_000,
            identify_timeout_ms: 10_000,
            redial_min_ms: 250,
            redial_max_ms: 15_000,
            ban_base_ms: 60_000,
            ban_max_ms: 86_400_000,
        }
    }
}

/// A setting that cannot work; names its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A number outside its range.
    #[error("network.{key} is {value}, it must be {expected}")]
    OutOfRange {
        /// The setting.
        key: &'static str,
        /// What it is.
        value: u64,
        /// What it should be.
        expected: String,
    },
    /// A list with too many entries.
    #[error("network.{key} has {count} entries, at most {max} are allowed")]
    TooMany {
        /// The setting.
        key: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// An address that this node cannot listen on or dial.
    #[error("network.{key} has {address}, which is not {expected}")]
    Address {
        /// The setting.
        key: &'static str,
        /// The address.
        address: Multiaddr,
        /// What it should be.
        expected: &'static str,
    },
}

impl Config {
    /// Whether the settings can work, alone and together.
    ///
    /// # Errors
    /// The first setting that cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        for address in &self.listen {
            check_address(
                "listen",
                address,
                is_listenable,
                "/ip4 or /ip6, then /tcp/PORT or /udp/PORT/quic-v1",
            )?;
        }
        for address in &self.bootstrap {
            let expected = "/ip4, /ip6 or /dns, then /tcp/PORT or /udp/PORT/quic-v1, then perhaps /p2p/IDENTITY";
            check_address("bootstrap", address, is_dialable, expected)?;
        }
        for address in &self.announce {
            let expected = "/ip4, /ip6 or /dns, then /tcp/PORT or /udp/PORT/quic-v1";
            check_address(
                "announce",
                address,
                |parts| is_dialable(parts) && !names_peer(parts),
                expected,
            )?;
        }
        if self.announce.len() > MAX_ADDRESSES_PER_ANNOUNCEMENT {
            return Err(ConfigError::TooMany {
                key: "announce",
                count: self.announce.len(),
                max: MAX_ADDRESSES_PER_ANNOUNCEMENT,
            });
        }
        let at_least = |key, value: u64, least: u64| {
            let expected = || format!("at least {least}");
            (value >= least).then_some(()).ok_or_else(|| ConfigError::OutOfRange {
                key,
                value,
                expected: expected(),
            })
        };
        at_least("discovery_interval_ms", self.discovery_interval_ms, 100)?;
        at_least("max_connections", self.max_connections.into(), 1)?;
        at_least("max_per_peer", self.max_per_peer.into(), 2)?;
        at_least("max_per_address", self.max_per_address.into(), 1)?;
        at_least("max_pending_inbound", self.max_pending_inbound.into(), 1)?;
        at_least("max_pending_outbound", self.max_pending_outbound.into(), 1)?;
        at_least("max_requests_per_peer", self.max_requests_per_peer as u64, 1)?;
        at_least(
            "max_requests",
            self.max_requests as u64,
            self.max_requests_per_peer as u64,
        )?;
        at_least("request_timeout_ms", self.request_timeout_ms, 10)?;
        at_least("max_events", self.max_events as u64, 16)?;
        // A single message must fit, or the largest could never be received.
        at_least(
            "max_event_mb",
            self.max_event_mb as u64,
            MAX_MESSAGE_SIZE.div_ceil(1_000_000) as u64,
        )?;
        at_least("ping_interval_ms", self.ping_interval_ms, 100)?;
        at_least("identify_timeout_ms", self.identify_timeout_ms, 100)?;
        at_least("redial_min_ms", self.redial_min_ms, 10)?;
        at_least("redial_max_ms", self.redial_max_ms, self.redial_min_ms)?;
        at_least("ban_base_ms", self.ban_base_ms, 1)?;
        at_least("ban_max_ms", self.ban_max_ms, self.ban_base_ms)
    }
}

fn check_address(
    key: &'static str,
    address: &Multiaddr,
    is_right: fn(&[Protocol<'_>]) -> bool,
    expected: &'static str,
) -> Result<(), ConfigError> {
    let parts: Vec<_> = address.iter().collect();
    if is_right(&parts) {
        Ok(())
    } else {
        Err(ConfigError::Address {
            key,
            address: address.clone(),
            expected,
        })
    }
}

fn is_listenable(parts: &[Protocol<'_>]) -> bool {
    match parts {
        [Protocol::Ip4(_) | Protocol::Ip6(_), rest @ ..] => is_transport(rest),
        _ => false,
    }
}

fn is_dialable(parts: &[Protocol<'_>]) -> bool {
    let parts = match parts {
        [rest @ .., Protocol::P2p(_)] => rest,
        all => all,
    };
    match parts {
        [Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_), rest @ ..] => is_transport(rest),
        all => is_listenable(all),
    }
}

fn names_peer(parts: &[Protocol<'_>]) -> bool {
    matches!(parts, [.., Protocol::P2p(_)])
}

/// Whether a stranger's address is worth a dial: an IP address that belongs to one machine, a port, and a transport that
/// this node has. Names are left out, so that nobody makes this node look them up.
pub(crate) fn is_reachable(address: &Multiaddr, loopback: bool) -> bool {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        _ => return false,
    };
    let ip = ip.to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let one_machine = !ip.is_unspecified() && !ip.is_multicast() && !broadcast && (loopback || !ip.is_loopback());
    let rest: Vec<_> = parts.collect();
    let port = !matches!(rest.first(), None | Some(Protocol::Tcp(0) | Protocol::Udp(0)));
    one_machine && port && is_transport(&rest)
}

/// Whether the address is on this machine.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.to_canonical().is_loopback(),
        _ => false,
    }
}

fn is_transport(parts: &[Protocol<'_>]) -> bool {
    matches!(parts, [Protocol::Tcp(_)] | [Protocol::Udp(_), Protocol::QuicV1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_defaults_are_right() {
        assert_eq!(Config::default().check(), Ok(()));
        assert_eq!(
            toml::from_str::<Config>("").expect("nothing is required"),
            Config::default()
        );
        let text = toml::to_string(&Config::default()).expect("writes");
        assert_eq!(toml::from_str::<Config>(&text).expect("reads"), Config::default());
    }

    #[test]
    fn a_slip_of_the_pen_is_an_error() {
        let error = toml::from_str::<Config>("max_conections = 5").expect_err("unknown");
        assert!(error.to_string().contains("max_conections"), "{error}");
        let error = toml::from_str::<Config>("listen = [\"localhost:7310\"]").expect_err("no multiaddr");
        assert!(error.to_string().contains("listen"), "{error}");
    }

    #[test]
    fn numbers_that_cannot_work_are_named() {
        type Change = fn(&mut Config);
        let rows: [(Change, &str); 5] = [
            (|config| config.max_per_peer = 1, "max_per_peer"),
            (|config| config.max_requests = 1, "max_requests"),
            (|config| config.max_event_mb = 9, "max_event_mb"),
            (|config| config.redial_max_ms = 1, "redial_max_ms"),
            (|config| config.ban_max_ms = 1, "ban_max_ms"),
        ];
        for (change, expected) in rows {
            let mut config = Config::default();
            change(&mut config);
            let error = config.check().expect_err(expected);
            assert!(
                matches!(&error, ConfigError::OutOfRange { key, .. } if *key == expected),
                "{error}"
            );
        }
    }

    #[test]
    fn addresses_are_told_apart() {
        let identity = libp2p::PeerId::random();
        let rows = [
            ("/ip4/0.0.0.0/tcp/0".into(), true, true),
            ("/ip6/::/udp/7310/quic-v1".into(), true, true),
            ("/dns4/example.org/tcp/7310".into(), false, true),
            (format!("/ip4/192.0.2.1/tcp/1/p2p/{identity}"), false, true),
            (format!("/dns/example.org/udp/1/quic-v1/p2p/{identity}"), false, true),
            ("/ip4/192.0.2.1/udp/7310".into(), false, false),
            ("/ip4/192.0.2.1/tcp/80/ws".into(), false, false),
            (format!("/p2p/{identity}"), false, false),
            ("/ip4/192.0.2.1".into(), false, false),
        ];
        for (text, listenable, dialable) in rows {
            let address = parse(&text);
            let listen = Config {
                listen: vec![address.clone()],
                ..Config::default()
            };
            assert_eq!(listen.check().is_ok(), listenable, "listen on {text}");
            let bootstrap = Config {
                bootstrap: vec![address],
                ..Config::default()
            };
            assert_eq!(bootstrap.check().is_ok(), dialable, "dial {text}");
        }
    }
}
