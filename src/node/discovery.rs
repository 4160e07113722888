//! What a node does to be found and to find its way back: a validator announces where it is, announcements that are
//! missing are asked for, and whoever was met is written down.

use super::{
    clock,
    peers_file::{self, Remembered},
    roster::Roster,
};
use crate::{
    network::{self, Commands, KnownPeer, PeerTable, Stats, Topic},
    primitives::{Announcement, ChainId, Signature, limits::MAX_ADDRESSES_PER_ANNOUNCEMENT},
    signer::Signer,
};
use arc_swap::ArcSwap;
use libp2p::{Multiaddr, multiaddr::Protocol};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How often this is looked after.
const EVERY: Duration = Duration::from_millis(500);
/// An announcement is repeated this soon at the earliest, for newcomers...
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(10);
/// ...and made anew this late at the latest.
const ANNOUNCE_ANEW: Duration = Duration::from_secs(600);
/// Between two questions for announcements that are missing.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// The file is written this often at most.
const WRITE_EVERY: Duration = Duration::from_secs(30);

/// Who signs announcements. Shared, because signing may take its time and is done off the async threads.
pub type Announcer = Arc<Mutex<Box<dyn Signer>>>;

/// Everything that is needed for it.
pub struct Discovery {
    /// What is known of the validators.
    pub roster: Arc<Roster>,
    /// `None` on a node that does not vote.
    pub announcer: Option<Announcer>,
    /// The chain.
    pub chain: ChainId,
    /// This node's name among peers.
    pub identity: libp2p::PeerId,
    /// Where it listens.
    pub listening: Vec<Multiaddr>,
    /// Where it says that it is reached; empty: where it listens.
    pub announce: Vec<Multiaddr>,
    /// The network.
    pub commands: Commands,
    /// Who is connected.
    pub peers: Arc<PeerTable>,
    /// Tells when somebody has come.
    pub stats: Arc<Stats>,
    /// Who was met.
    pub known: Arc<ArcSwap<Vec<KnownPeer>>>,
    /// Where that is kept.
    pub file: PathBuf,
}

/// What it remembers from one look to the next.
struct Memory {
    /// Connections so far: more than before means that somebody has come.
    connections: u64,
    said: Option<(Announcement, Instant, Instant)>,
    asked: Option<Instant>,
    turn: usize,
    written: (Instant, Remembered),
}

impl Discovery {
    /// Runs until the network has ended. `remembered`: what was read from the file.
    pub async fn run(self, remembered: Remembered, cancel: CancellationToken, network_ended: CancellationToken) {
        for announcement in remembered.announcements.iter().cloned() {
            if let Err(error) = self.roster.take(announcement) {
                tracing::debug!(%error, "a remembered announcement counts for nothing");
            }
        }
        let mut memory = Memory {
            connections: 0,
            said: None,
            asked: None,
            turn: 0,
            written: (Instant::now(), remembered),
        };
        let mut interval = tokio::time::interval(EVERY);
        while !cancel.is_cancelled() {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = interval.tick() => {}
            }
            let now = Instant::now();
            self.announce(&mut memory, now).await;
            self.ask(&mut memory, now);
            if now.duration_since(memory.written.0) >= WRITE_EVERY {
                self.write(&mut memory).await;
            }
        }
        // The network's last word on whom it has met.
        network_ended.cancelled().await;
        self.write(&mut memory).await;
    }

    /// Says where this validator is: when somebody has come, when that has changed, and now and then.
    async fn announce(&self, memory: &mut Memory, now: Instant) {
        let Some(announcer) = &self.announcer else { return };
        let connections = self.stats.connections_in.get() + self.stats.connections_out.get();
        let news = connections != memory.connections;
        if self.peers.connected() == 0 {
            return;
        }
        let addresses = self.addresses();
        if let Some((announcement, made, said)) = &mut memory.said
            && announcement.addresses == addresses
            && now.duration_since(*made) < ANNOUNCE_ANEW
        {
            if news && now.duration_since(*said) >= ANNOUNCE_AGAIN {
                *said = now;
                memory.connections = connections;
                self.commands.publish(Topic::Consensus, announcement.to_gossip());
            }
            return;
        }
        let before = memory
            .said
            .as_ref()
            .map_or(0, |(announcement, ..)| announcement.counter);
        let Some(announcement) = self.sign(announcer.clone(), addresses, before).await else {
            return;
        };
        memory.connections = connections;
        self.commands.publish(Topic::Consensus, announcement.to_gossip());
        // So that whoever asks this node hears of it, too.
        if let Err(error) = self.roster.take(announcement.clone()) {
            tracing::debug!(%error, "the own announcement is of no use now");
        }
        memory.said = Some((announcement, now, now));
    }

    async fn sign(&self, announcer: Announcer, addresses: Vec<Vec<u8>>, before: u64) -> Option<Announcement> {
        if addresses.is_empty() {
            return None;
        }
        let (chain, peer) = (self.chain, self.identity.to_bytes());
        // Later runs come after this one, as long as the clock does not go back.
        let counter = clock::wall().0.max(before + 1);
        let signed = tokio::task::spawn_blocking(move || {
            let mut signer = announcer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut announcement = Announcement {
                validator: signer.public_key(),
                peer,
                addresses,
                counter,
                signature: Signature([0; 64]),
            };
            let signatures = signer.sign(&[announcement.digest(&chain)])?;
            announcement.signature = signatures.first().copied().unwrap_or(announcement.signature);
            Ok::<_, crate::signer::SignerError>(announcement)
        });
        match signed.await {
            Ok(Ok(announcement)) => Some(announcement),
            Ok(Err(error)) => {
                tracing::warn!(%error, "this validator cannot announce where it is");
                None
            }
            Err(_) => None,
        }
    }

    /// The bytes of the addresses to announce; at most eight.
    fn addresses(&self) -> Vec<Vec<u8>> {
        let addresses = match self.announce.is_empty() {
            true => reachable(&self.listening, self.peers.own_address().as_deref()),
            false => self.announce.clone(),
        };
        let bytes = addresses.iter().take(MAX_ADDRESSES_PER_ANNOUNCEMENT);
        bytes.map(Multiaddr::to_vec).collect()
    }

    /// Gossip may be missed: what is missing is asked for, of one peer after another.
    fn ask(&self, memory: &mut Memory, now: Instant) {
        let waits = memory.asked.is_some_and(|asked| now.duration_since(asked) < ASK_EVERY);
        if waits || self.peers.connected() == 0 || !self.roster.is_incomplete() {
            return;
        }
        let list = self.peers.list(now);
        let Some(info) = list.get(memory.turn % list.len().max(1)) else {
            return;
        };
        memory.turn = memory.turn.wrapping_add(1);
        memory.asked = Some(now);
        self.commands.ask(info.peer, Announcement::request());
    }

    async fn write(&self, memory: &mut Memory) {
        let remembered = Remembered {
            peers: self.known.load().to_vec(),
            announcements: self.roster.all(),
        };
        memory.written.0 = Instant::now();
        if remembered == memory.written.1 {
            return;
        }
        let (file, chain) = (self.file.clone(), self.chain);
        let written =
            tokio::task::spawn_blocking(move || peers_file::write(&file, &chain, &remembered).map(|()| remembered));
        match written.await {
            Ok(Ok(remembered)) => memory.written.1 = remembered,
            Ok(Err(error)) => {
                tracing::warn!(path = %self.file.display(), %error, "known peers cannot be written down");
            }
            Err(_) => {}
        }
    }
}

/// Where others may reach this node: where it listens, and at the address that others see it at. Loopback only if there is
/// nothing else.
fn reachable(listening: &[Multiaddr], observed: Option<&Multiaddr>) -> Vec<Multiaddr> {
    let ip = observed.and_then(|address| address.iter().next());
    let seen = ip.into_iter().flat_map(|ip| {
        let moved = move |address: &Multiaddr| {
            let mut parts = address.iter();
            let same_family = matches!(
                (parts.next(), &ip),
                (Some(Protocol::Ip4(_)), Protocol::Ip4(_)) | (Some(Protocol::Ip6(_)), Protocol::Ip6(_))
            );
            same_family.then(|| std::iter::once(ip.clone()).chain(parts).collect::<Multiaddr>())
        };
        listening.iter().filter_map(moved)
    });
    let mut all: Vec<Multiaddr> = Vec::new();
    for address in listening.iter().cloned().chain(seen) {
        if network::is_reachable(&address, true) && !all.contains(&address) {
            all.push(address);
        }
    }
    let elsewhere: Vec<_> = all
        .iter()
        .filter(|address| network::is_reachable(address, false))
        .cloned()
        .collect();
    if elsewhere.is_empty() { all } else { elsewhere }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn what_is_announced_is_where_others_can_reach_this_node() {
        let observed = parse(&["/ip4/203.0.113.9/tcp/50123"]);
        let rows: [(&[&str], Option<&Multiaddr>, &[&str]); 3] = [
            (&["/ip4/127.0.0.1/tcp/7310"], None, &["/ip4/127.0.0.1/tcp/7310"]),
            (
                &[
                    "/ip4/127.0.0.1/tcp/7310",
                    "/ip4/10.0.0.5/tcp/7310",
                    "/ip6/::1/udp/7310/quic-v1",
                ],
                None,
                &["/ip4/10.0.0.5/tcp/7310"],
            ),
            (
                &["/ip4/127.0.0.1/tcp/7310", "/ip4/10.0.0.5/udp/7310/quic-v1"],
                observed.first(),
                &[
                    "/ip4/10.0.0.5/udp/7310/quic-v1",
                    "/ip4/203.0.113.9/tcp/7310",
                    "/ip4/203.0.113.9/udp/7310/quic-v1",
                ],
            ),
        ];
        for (listening, observed, expected) in rows {
            assert_eq!(reachable(&parse(listening), observed), parse(expected));
        }
    }
}
