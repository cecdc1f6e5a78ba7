//! A TCP connection over the overlay, whoever drives its TCP.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::kernel::Cuts;
use crate::netstack::TcpFlowStream;

/// A TCP connection over the overlay.
///
/// - Shutting it down sends a FIN after everything written; reading goes on until the peer ends its half.
/// - Dropping it closes it; where received bytes stay unread the peer gets a reset.
/// - A peer that says nothing for 60 s ends it, keepalives and retransmissions unanswered: reads
///   and writes then fail with [`io::ErrorKind::ConnectionReset`].
/// - Flushing does nothing: what is written is sent as soon as the peer's window allows.
#[derive(Debug)]
pub struct TcpStream {
    inner: Inner,
}

/// Who drives the connection.
#[derive(Debug)]
enum Inner {
    /// The stack in this process.
    Netstack(TcpFlowStream),
    /// The kernel, through its network device.
    Kernel(KernelStream),
}

/// A connection of the kernel's, with its two ends.
#[derive(Debug)]
struct KernelStream {
    stream: tokio::net::TcpStream,
    local: SocketAddr,
    remote: SocketAddr,
    /// Both become ready once the peer is removed; one for each half, which different tasks may hold.
    reading_ends: Cut,
    writing_ends: Cut,
}

type Cut = Pin<Box<WaitForCancellationFutureOwned>>;

/// What waits for the kernel waits for the end of the peer too.
fn unless_cut<T>(result: Poll<io::Result<T>>, cut: &mut Cut, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
    match result {
        Poll::Pending => cut.as_mut().poll(cx).map(|()| Err(io::ErrorKind::ConnectionReset.into())),
        Poll::Ready(result) => Poll::Ready(result),
    }
}

impl TcpStream {
    pub(crate) fn of_kernel(stream: tokio::net::TcpStream, cuts: &Cuts) -> io::Result<Self> {
        let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
        let token = cuts.token(remote.ip());
        let cut = || Box::pin(token.clone().cancelled_owned());
        let (reading_ends, writing_ends) = (cut(), cut());
        Ok(Self { inner: Inner::Kernel(KernelStream { stream, local, remote, reading_ends, writing_ends }) })
    }
}

impl From<TcpFlowStream> for TcpStream {
    fn from(stream: TcpFlowStream) -> Self {
        Self { inner: Inner::Netstack(stream) }
    }
}

impl TcpStream {
    /// Overlay address and port of the other end.
    #[must_use]
    pub const fn peer_addr(&self) -> SocketAddr {
        match &self.inner {
            Inner::Netstack(stream) => stream.peer_addr(),
            Inner::Kernel(stream) => stream.remote,
        }
    }

    /// Overlay address and port of this end.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        match &self.inner {
            Inner::Netstack(stream) => stream.local_addr(),
            Inner::Kernel(stream) => stream.local,
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Netstack(stream) => Pin::new(stream).poll_read(cx, buffer),
            Inner::Kernel(kernel) => {
                let result = Pin::new(&mut kernel.stream).poll_read(cx, buffer);
                unless_cut(result, &mut kernel.reading_ends, cx)
            }
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Netstack(stream) => Pin::new(stream).poll_write(cx, data),
            Inner::Kernel(kernel) => {
                let result = Pin::new(&mut kernel.stream).poll_write(cx, data);
                unless_cut(result, &mut kernel.writing_ends, cx)
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Netstack(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Inner::Kernel(kernel) => {
                let result = Pin::new(&mut kernel.stream).poll_write_vectored(cx, parts);
                unless_cut(result, &mut kernel.writing_ends, cx)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Inner::Netstack(stream) => stream.is_write_vectored(),
            Inner::Kernel(stream) => stream.stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Netstack(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Kernel(stream) => Pin::new(&mut stream.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Netstack(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Kernel(stream) => Pin::new(&mut stream.stream).poll_shutdown(cx),
        }
    }
}
