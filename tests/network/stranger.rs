//! A stranger who can say anything: libp2p's own parts, without our rules.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::request_response::{self, OutboundRequestId, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, StreamProtocol, gossipsub, identify, noise, ping, tcp, yamux};
use timecoin::network::{MAX_MESSAGE_SIZE, Topic};

use crate::kit::*;

/// Writes bytes as they are; reads until the end.
#[derive(Clone, Default)]
pub struct Raw;

impl request_response::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        let mut first = vec![0; 16];
        let read = io.read(&mut first).await?;
        first.truncate(read);
        Ok(first)
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        io.read_to_end(&mut all).await?;
        Ok(all)
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&bytes).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        io.write_all(&bytes).await
    }
}

#[derive(NetworkBehaviour)]
pub struct Loose {
    pub gossip: gossipsub::Behaviour,
    /// Writes whatever it likes where gossip is read.
    pub raw_gossip: request_response::Behaviour<Raw>,
    pub ping: ping::Behaviour,
    pub requests: request_response::Behaviour<Raw>,
    identify: identify::Behaviour,
}

pub struct Stranger {
    pub swarm: Swarm<Loose>,
    pub target: libp2p::PeerId,
    pub topic: gossipsub::IdentTopic,
    pub responses: HashMap<OutboundRequestId, Vec<u8>>,
    pub connected: bool,
    pub heard: usize,
    pub asked: usize,
    pub pings: usize,
}

pub fn prefix() -> String {
    format!("/timecoin/{}", "07".repeat(8))
}

impl Stranger {
    /// Connects to the node and waits until it will hear gossip about votes.
    pub async fn meet(node: &Node, protocol: String) -> Self {
        Self::connect(node, protocol, Topic::Votes, Duration::from_secs(15)).await
    }

    /// The same for any topic, as a peer of the right chain.
    pub async fn meet_on(node: &Node, topic: Topic) -> Self {
        Self::connect(node, format!("{}/1", prefix()), topic, Duration::from_secs(15)).await
    }

    /// The same by address and identity, with pings as often as it likes.
    pub async fn meet_at(address: Multiaddr, target: libp2p::PeerId, ping_every: Duration) -> Self {
        Self::connect_to(address, target, format!("{}/1", prefix()), Topic::Votes, ping_every).await
    }

    async fn connect(node: &Node, protocol: String, topic: Topic, ping_every: Duration) -> Self {
        Self::connect_to(node.address(), node.network.local, protocol, topic, ping_every).await
    }

    async fn connect_to(
        address: Multiaddr,
        target: libp2p::PeerId,
        protocol: String,
        topic: Topic,
        ping_every: Duration,
    ) -> Self {
        let topic = gossipsub::IdentTopic::new(format!("{}/{}/1", prefix(), topic.name()));
        let swarm = libp2p::SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .expect("noise")
            .with_behaviour(|key| {
                let config = gossipsub::ConfigBuilder::default()
                    .validation_mode(gossipsub::ValidationMode::Anonymous)
                    .max_transmit_size(20_000_000)
                    .message_id_fn(|message| gossipsub::MessageId::new(&message.data))
                    .build()
                    .expect("valid");
                let mut gossip =
                    gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, config).expect("valid");
                gossip.subscribe(&topic).expect("allowed");
                let name = StreamProtocol::try_from_owned(format!("{}/request/1", prefix())).expect("a name");
                let meshsub = (StreamProtocol::new("/meshsub/1.1.0"), ProtocolSupport::Outbound);
                Loose {
                    gossip,
                    raw_gossip: request_response::Behaviour::new([meshsub], Default::default()),
                    ping: ping::Behaviour::new(ping::Config::new().with_interval(ping_every)),
                    requests: request_response::Behaviour::new([(name, ProtocolSupport::Full)], Default::default()),
                    identify: identify::Behaviour::new(identify::Config::new(protocol, key.public())),
                }
            })
            .expect("behaviour")
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build();
        let mut stranger = Self {
            swarm,
            target,
            topic,
            responses: HashMap::new(),
            connected: false,
            heard: 0,
            asked: 0,
            pings: 0,
        };
        stranger.swarm.dial(address).expect("dials");
        stranger
            .run_until("the node subscribes", |stranger| {
                stranger
                    .swarm
                    .behaviour()
                    .gossip
                    .all_peers()
                    .any(|(_, topics)| !topics.is_empty())
            })
            .await;
        stranger
    }

    pub async fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !done(self) {
            let event = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await;
            self.on_event(event.unwrap_or_else(|_| panic!("never: {what}")));
        }
    }

    pub async fn run_for(&mut self, time: Duration) {
        let deadline = tokio::time::Instant::now() + time;
        while let Ok(event) = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await {
            self.on_event(event);
        }
    }

    /// Runs as long as the condition holds, up to a time.
    pub async fn run_while(&mut self, time: Duration, mut condition: impl FnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + time;
        while condition() && tokio::time::Instant::now() < deadline {
            self.run_for(Duration::from_millis(20)).await;
        }
    }

    fn on_event(&mut self, event: SwarmEvent<LooseEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { .. } => self.connected = true,
            SwarmEvent::ConnectionClosed { .. } => self.connected = false,
            SwarmEvent::Behaviour(LooseEvent::Gossip(gossipsub::Event::Message { .. })) => self.heard += 1,
            SwarmEvent::Behaviour(LooseEvent::Ping(ping::Event { result: Ok(_), .. })) => self.pings += 1,
            SwarmEvent::Behaviour(LooseEvent::Requests(event)) => self.on_request(event),
            _ => {}
        }
    }

    fn on_request(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        use request_response::Message;
        let request_response::Event::Message { message, .. } = event else {
            return;
        };
        match message {
            Message::Response { request_id, response } => {
                self.responses.insert(request_id, response);
            }
            Message::Request { request, channel, .. } => {
                self.asked += 1;
                // Whoever asks with [.., n] gets the n-th kind of bad answer.
                let kind = request.last().copied().unwrap_or(0);
                let _ = self
                    .swarm
                    .behaviour_mut()
                    .requests
                    .send_response(channel, bad_frame(kind));
            }
        }
    }

    /// Nothing, if nobody listens any more.
    pub fn publish(&mut self, bytes: Vec<u8>) {
        let _ = self.swarm.behaviour_mut().gossip.publish(self.topic.clone(), bytes);
    }

    /// Writes bytes on a stream of gossip of their own.
    pub fn write_gossip(&mut self, bytes: Vec<u8>) {
        let target = self.target;
        self.swarm.behaviour_mut().raw_gossip.send_request(&target, bytes);
    }

    /// Asks, and does not wait.
    pub fn send(&mut self, bytes: Vec<u8>) {
        let target = self.target;
        self.swarm.behaviour_mut().requests.send_request(&target, bytes);
    }

    pub async fn ask(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        let target = self.target;
        let id = self.swarm.behaviour_mut().requests.send_request(&target, bytes);
        self.run_until("an answer", |stranger| stranger.responses.contains_key(&id))
            .await;
        self.responses.remove(&id).expect("just seen")
    }
}

/// A field of an envelope: number and value.
pub fn number(field: u8, mut value: u64) -> Vec<u8> {
    let mut bytes = vec![field << 3];
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

pub fn envelope(compression: u64, size: u64, payload: &[u8]) -> Vec<u8> {
    let length = number(0, payload.len() as u64);
    let kind = if compression == 0 {
        vec![]
    } else {
        number(1, compression)
    };
    [&kind[..], &number(2, size), &[0x22], &length[1..], payload].concat()
}

pub fn framed(envelope: &[u8]) -> Vec<u8> {
    [&number(0, envelope.len() as u64)[1..], envelope].concat()
}

/// Ten kilobytes that become ten megabytes and one byte.
pub fn bomb() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    io::Write::write_all(&mut encoder, &vec![0; MAX_MESSAGE_SIZE + 1]).expect("a Vec takes everything");
    encoder.finish().expect("a Vec takes everything")
}

pub fn bad_frame(kind: u8) -> Vec<u8> {
    match kind {
        0 => framed(&envelope(2, 10_000_001, &bomb())),
        1 => framed(&envelope(2, 30_000, &bomb())),
        2 => framed(b"no envelope at all"),
        // A request for blocks is a few bytes.
        4 => framed(&envelope(0, 103, &[&[0x0A, 101][..], &[0; 101]].concat())),
        _ => number(0, 4_000_000_000)[1..].to_vec(),
    }
}
