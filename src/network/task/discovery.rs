//! Peers found, remembered, dialed while there are too few, and let go when there are too many.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libp2p::kad::{self, GetClosestPeersError, QueryResult};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, identify};
use tracing::{debug, info};

use super::Task;
use crate::network::config::is_reachable;
use crate::network::dial::split_identity;
use crate::network::discovery::MAX_LISTENED;

/// Dials begun at once for want of peers.
const DIALS_AT_ONCE: usize = 4;
/// A connection is not trimmed before it is so old: walks need theirs for a moment.
const TRIM_AFTER: Duration = Duration::from_secs(30);

/// Days are counted by the clock on the wall, which may be wrong; nothing but forgetting hangs on it.
pub(super) fn today() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Task {
    /// A peer of our chain says where it listens.
    pub(super) fn on_listens(&mut self, peer: libp2p::PeerId, info: &identify::Info) {
        let Some(live) = self.live.get(&peer) else { return };
        let loopback = live.loopback;
        let listens = info.listen_addrs.iter().take(MAX_LISTENED);
        let addresses: Vec<Multiaddr> = listens
            .map(|address| split_identity(address).0)
            .filter(|address| is_reachable(address, loopback))
            .collect();
        // Kademlia dials by itself whom it hears of, as soon as it knows anybody at all.
        if self.target_peers > 0 && info.protocols.contains(&self.kad_protocol) {
            // Only the latest: whoever lists others each time must not make the table grow.
            self.swarm.behaviour_mut().discovery.remove_peer(&peer);
            for address in &addresses {
                self.swarm.behaviour_mut().discovery.add_address(&peer, address.clone());
            }
        }
        self.book.meet(peer, addresses, loopback, today(), Instant::now());
    }

    pub(super) fn on_discovery(&mut self, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed {
            result: QueryResult::GetClosestPeers(result),
            step,
            ..
        } = event
        else {
            return;
        };
        let found = match result {
            Ok(found) => found.peers,
            Err(GetClosestPeersError::Timeout { peers, .. }) => peers,
        };
        let now = Instant::now();
        let loopback = self.live.values().any(|live| live.admitted && live.loopback);
        debug!(peers = found.len(), "a walk has found peers");
        for peer in found {
            self.book.hear(peer.peer_id, peer.addrs, loopback, now);
        }
        if step.last {
            self.walks.end();
        }
    }

    /// Looks after the number of peers. Only connections that this node opened itself count: others may come from
    /// whoever wants to fill up the table.
    pub(super) fn discover(&mut self, now: Instant) {
        let outbound = self.live.values().filter(|live| live.outbound && live.admitted).count();
        let enough = outbound >= self.target_peers;
        if self.target_peers > 0 {
            if !enough {
                self.walks.hurry(now);
                self.dial_known((self.target_peers - outbound).min(DIALS_AT_ONCE), now);
            }
            if self.walks.start(now, enough, rand::random()) {
                let somewhere = libp2p::PeerId::random();
                self.swarm.behaviour_mut().discovery.get_closest_peers(somewhere);
            }
            self.trim(outbound, now);
        }
        self.stats.known_peers.set(self.book.len() as u64);
        self.tell_known();
    }

    pub(super) fn tell_known(&mut self) {
        if let Some(known) = self.book.changes() {
            self.known.store(Arc::new(known));
        }
    }

    fn dial_known(&mut self, count: usize, now: Instant) {
        let (swarm, table, dialer) = (&self.swarm, &self.table, &self.dialer);
        let is_busy =
            |peer: &libp2p::PeerId| swarm.is_connected(peer) || dialer.wants(peer) || table.is_banned(peer, now);
        for (peer, addresses) in self.book.due(now, count, is_busy, rand::random) {
            let options = DialOpts::peer_id(peer)
                .addresses(addresses)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .allocate_new_port()
                .build();
            self.stats.dials_known.up();
            if let Err(error) = self.swarm.dial(options) {
                debug!(identity = %peer, %error, "a known peer is not dialed");
            }
        }
    }

    /// Walks leave connections behind. What is beyond twice the wanted number goes, the youngest first.
    fn trim(&mut self, outbound: usize, now: Instant) {
        let excess = outbound.saturating_sub(2 * self.target_peers);
        if excess == 0 {
            return;
        }
        let unwanted = self.live.iter().filter(|(peer, live)| {
            live.outbound && now.duration_since(live.since) >= TRIM_AFTER && !self.dialer.wants(peer)
        });
        let mut unwanted: Vec<_> = unwanted
            .map(|(peer, live)| (std::cmp::Reverse(live.since), *peer))
            .collect();
        unwanted.sort();
        for (_, peer) in unwanted.into_iter().take(excess) {
            self.stats.trimmed.up();
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// The validators to stay connected to, as they have announced themselves.
    pub(super) fn keep(&mut self, peers: Vec<(libp2p::PeerId, Vec<Multiaddr>)>, now: Instant) {
        let swarm = &self.swarm;
        let (added, dropped) = self.dialer.keep(peers, now, |peer| swarm.is_connected(peer));
        if !added.is_empty() || !dropped.is_empty() {
            info!(?added, ?dropped, "validators to stay connected to");
        }
        let limits = &mut self.swarm.behaviour_mut().limits;
        added.iter().for_each(|peer| limits.bypass_peer_id(peer));
        dropped.iter().for_each(|peer| limits.remove_peer_id(peer));
        self.dial(now);
    }
}
