//! A stream of bytes over any transport.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use blueprint_common_tunnel::TcpStream;
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::statistics::OpenStream;

/// An open stream: the same to whoever reads and writes, whatever carries it.
///
/// Either direction ends by itself: shutting down the writing side leaves the other open. Dropping it ends both.
#[derive(Debug)]
pub struct Stream(Inner);

#[derive(Debug)]
enum Inner {
    /// A local socket, or one of a virtual machine.
    Local(UnixStream),
    /// Through the tunnel.
    Tunnel(TcpStream, OpenStream),
}

impl Stream {
    pub(crate) const fn local(stream: UnixStream) -> Self {
        Self(Inner::Local(stream))
    }

    pub(crate) const fn tunnel(stream: TcpStream, counted: OpenStream) -> Self {
        Self(Inner::Tunnel(stream, counted))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Local(stream) => Pin::new(stream).poll_read(cx, buffer),
            Inner::Tunnel(stream, counted) => {
                let before = buffer.filled().len();
                let result = Pin::new(stream).poll_read(cx, buffer);
                counted.received(buffer.filled().len().saturating_sub(before));
                result
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Inner::Local(stream) => Pin::new(stream).poll_write(cx, data),
            Inner::Tunnel(stream, counted) => counted.sent(Pin::new(stream).poll_write(cx, data)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Inner::Local(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Inner::Tunnel(stream, counted) => counted.sent(Pin::new(stream).poll_write_vectored(cx, parts)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Inner::Local(stream) => stream.is_write_vectored(),
            Inner::Tunnel(stream, _) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Local(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Tunnel(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Local(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Tunnel(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
