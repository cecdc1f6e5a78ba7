//! A TCP connection of the in-process stack, as tokio's traits want it.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::flow::Flow;
use crate::segment::Ends;

/// A connection of the in-process stack; see [`TcpStream`](crate::TcpStream) for what it promises.
pub(crate) struct TcpFlowStream {
    flow: Arc<Flow>,
    ends: Ends,
}

impl TcpFlowStream {
    pub(crate) const fn new(flow: Arc<Flow>, ends: Ends) -> Self {
        Self { flow, ends }
    }

    /// Waits for the end of the handshake; false where it failed.
    pub(crate) async fn opened(&self) -> bool {
        std::future::poll_fn(|cx| self.flow.poll_open(cx)).await
    }

    /// Bytes that wait to be read.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.flow.lock().view().recv_queue()
    }

    /// Overlay address and port of the other end.
    pub(crate) const fn peer_addr(&self) -> SocketAddr {
        self.ends.remote
    }

    /// Overlay address and port of this end.
    pub(crate) const fn local_addr(&self) -> SocketAddr {
        self.ends.local
    }
}

impl fmt::Debug for TcpFlowStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpFlowStream")
            .field("local", &self.ends.local)
            .field("remote", &self.ends.remote)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for TcpFlowStream {
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

impl AsyncWrite for TcpFlowStream {
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

impl Drop for TcpFlowStream {
    fn drop(&mut self) {
        self.flow.abandon();
    }
}
