//! The pools' way to a new connection. To the library's pool, which HTTP/2 has, an overlay address is the
//! authority of a URI.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use crate::dial::{Dial, DialError, Io};
use crate::metrics::ProxyMetrics;

/// Dials for the pools.
#[derive(Clone)]
pub(crate) struct Connector {
    dialer: Arc<dyn Dial>,
    timeout: Duration,
    metrics: Arc<ProxyMetrics>,
}

impl Connector {
    pub(crate) fn new(dialer: Arc<dyn Dial>, timeout: Duration, metrics: Arc<ProxyMetrics>) -> Self {
        Self { dialer, timeout, metrics }
    }

    /// Opens a connection, in time or not at all.
    pub(crate) async fn dial(&self, target: SocketAddr) -> Result<(Box<dyn Io>, Dialed), DialError> {
        let began_at = Instant::now();
        let dialed = tokio::time::timeout(self.timeout, self.dialer.connect(target, self.timeout)).await;
        let stream = dialed.map_err(|_| DialError::TimedOut)??;
        let took = began_at.elapsed();
        self.metrics.connect.observe(took.as_secs_f64());
        Ok((stream, Dialed { began_at, took }))
    }
}

/// How a connection came about; every answer that comes over it carries this.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialed {
    pub(crate) began_at: Instant,
    pub(crate) took: Duration,
}

impl Service<Uri> for Connector {
    type Response = Upstream;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Upstream, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        async move {
            let authority = uri.authority().map_or("", |authority| authority.as_str());
            let target: SocketAddr = authority.parse().map_err(|_| DialError::NoRoute)?;
            let (stream, dialed) = connector.dial(target).await?;
            Ok(Upstream { io: TokioIo::new(stream), dialed })
        }
        .boxed()
    }
}

/// An open connection to a target.
pub(crate) struct Upstream {
    io: TokioIo<Box<dyn Io>>,
    dialed: Dialed,
}

impl Connection for Upstream {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.dialed)
    }
}

impl Read for Upstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Upstream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, buffers)
    }
}
