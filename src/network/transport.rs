//! Connections: TCP with Noise and Yamux, and QUIC; names looked up by DNS; time limits at both ends of their life.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox};
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{Boxed, Transport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, dns, noise, quic, tcp, yamux};
use tokio::time::Sleep;

use super::NetworkError;

/// Whoever opens a connection and then says nothing holds a place among the pending ones for so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) fn transport(keypair: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, NetworkError> {
    let setup = |part: &'static str| move |reason: String| NetworkError::Setup { part, reason };
    let noise = noise::Config::new(keypair).map_err(|error| setup("noise")(error.to_string()))?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let quic = quic::tokio::Transport::new(quic::Config::new(keypair))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let both = quic
        .or_transport(tcp)
        .map(|connection, _| connection.into_inner())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(Closing::new(muxer))));
    let named = dns::tokio::Transport::system(both)
        .map_err(|error| setup("DNS (is /etc/resolv.conf readable?)")(error.to_string()))?;
    Ok(TransportTimeout::new(named, HANDSHAKE_TIMEOUT).boxed())
}

/// A connection whose closing ends after a while, whatever the peer does. Otherwise one that does not read keeps its place
/// for ever: its goodbye never leaves, and until it has, the connection counts as there.
struct Closing {
    inner: StreamMuxerBox,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Closing {
    const fn new(inner: StreamMuxerBox) -> Self {
        Self { inner, deadline: None }
    }
}

impl StreamMuxer for Closing {
    type Substream = SubstreamBox;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<SubstreamBox>> {
        Pin::new(&mut self.inner).poll_inbound(cx)
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<SubstreamBox>> {
        Pin::new(&mut self.inner).poll_outbound(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.inner).poll(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(result) = Pin::new(&mut self.inner).poll_close(cx) {
            return Poll::Ready(result);
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the peer did not read the goodbye");
        deadline.as_mut().poll(cx).map(|()| Err(late()))
    }
}
