//! The pool's way to a new connection: an overlay address written as the authority of a URI.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use crate::dial::{Dial, DialError, Io};

/// Dials for the pool.
#[derive(Clone)]
pub(crate) struct Connector {
    dialer: Arc<dyn Dial>,
    timeout: Duration,
}

impl Connector {
    pub(crate) fn new(dialer: Arc<dyn Dial>, timeout: Duration) -> Self {
        Self { dialer, timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = Upstream;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Upstream, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { dialer, timeout } = self.clone();
        async move {
            let authority = uri.authority().map_or("", |authority| authority.as_str());
            let target: SocketAddr = authority.parse().map_err(|_| DialError::NoRoute)?;
            let dialed = tokio::time::timeout(timeout, dialer.connect(target, timeout)).await;
            let stream = dialed.map_err(|_| DialError::TimedOut)??;
            Ok(Upstream(TokioIo::new(stream)))
        }
        .boxed()
    }
}

/// An open connection to a target.
pub(crate) struct Upstream(TokioIo<Box<dyn Io>>);

impl Connection for Upstream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Upstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Upstream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, buffers)
    }
}
