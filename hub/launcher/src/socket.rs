//! gRPC over a Unix socket.

use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// How long a process of this machine may take to accept.
const WITHIN: Duration = Duration::from_secs(5);

/// Connects; the channel connects again by itself where the socket is served anew.
pub(crate) async fn channel(path: &Path) -> Result<Channel, String> {
    // The authority is never looked up; other clients of bridges use the same.
    let endpoint = Endpoint::from_static("http://[::]:50051");
    let connecting = endpoint.connect_with_connector(Socket(path.to_owned()));
    let connected = tokio::time::timeout(WITHIN, connecting).await;
    let failed = |error: &dyn std::error::Error| {
        let mut text = format!("{}: {error}", path.display());
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    };
    match connected {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(format!("{}: nobody accepted within {} s", path.display(), WITHIN.as_secs())),
    }
}

/// Connects to the socket, whatever address is asked for.
struct Socket(PathBuf);

impl tower_service::Service<http::Uri> for Socket {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let path = self.0.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }.boxed()
    }
}
