//! The listening socket with limits that count from the first byte: a connection beyond the limit is closed at once,
//! and one that says nothing is closed soon. When the node stops, connections that do not end by themselves are cut.

use futures::Stream;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long a connection may be silent before its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// How long to wait when the system cannot give out another socket (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that gives its place back when it is dropped.
pub(super) struct Connection {
    stream: TcpStream,
    silence: Option<Pin<Box<Sleep>>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;
    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Whatever else a connection waits for, it always waits to read too.
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the node stops")));
        }
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() {
            self.silence = None;
        } else if let Some(silence) = &mut self.silence
            && silence.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client said nothing")));
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connections as they come in; at most `max` at a time. `cut` ends them all.
pub(super) fn incoming(
    listener: TcpListener,
    max: usize,
    cut: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
    futures::stream::unfold((listener, places, cut), |(listener, places, cut)| async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an API connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::debug!("an API connection was closed: all places are taken");
                continue;
            };
            // Without it, small answers wait for the client's delayed acknowledgements.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "an API connection broke at once");
                continue;
            }
            let connection = Connection {
                stream,
                silence: Some(Box::pin(tokio::time::sleep(FIRST_BYTE))),
                cut: Box::pin(cut.clone().cancelled_owned()),
                _place: place,
            };
            return Some((Ok(connection), (listener, places, cut)));
        }
    })
}
