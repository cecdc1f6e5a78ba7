//! A TCP connection over the overlay, as tokio's traits want it.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::flow::Flow;
use crate::segment::Ends;

/// A TCP connection over the overlay.
///
/// - Shutting it down sends a FIN after everything written; reading goes on until the peer ends its half.
/// - Dropping it closes it; where received bytes stay unread the peer gets a reset.
/// - A peer that says nothing for 60 s ends it, keepalives and retransmissions unanswered: reads
///   and writes then fail with [`io::ErrorKind::ConnectionReset`].
/// - Flushing does nothing: what is written is sent as soon as the peer's window allows.
pub struct TcpStream {
    flow: Arc<Flow>,
    ends: Ends,
}

impl TcpStream {
    pub(crate) const fn new(flow: Arc<Flow>, ends: Ends) -> Self {
        Self { flow, ends }
    }

    /// Waits for the end of the handshake; false where it failed.
    pub(crate) async fn opened(&self) -> bool {
        std::future::poll_fn(|cx| self.flow.poll_open(cx)).await
    }

    /// Overlay address and port of the other end.
    #[must_use]
    pub const fn peer_addr(&self) -> SocketAddr {
        self.ends.remote
    }

    /// Overlay address and port of this end.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.ends.local
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream")
            .field("local", &self.ends.local)
            .field("remote", &self.ends.remote)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let progress = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        let outcome = self.flow.poll_read(cx, buffer);
        if outcome.is_ready() {
            progress.made_progress();
        }
        outcome
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let progress = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        let outcome = self.flow.poll_write(cx, std::iter::once(data));
        if outcome.is_ready() {
            progress.made_progress();
        }
        outcome
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        let outcome = self.flow.poll_write(cx, parts.iter().map(|part| &**part));
        if outcome.is_ready() {
            progress.made_progress();
        }
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flow.shut();
        Poll::Ready(Ok(()))
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.flow.abandon();
    }
}
