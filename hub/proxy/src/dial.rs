//! How connections to targets open: through the tunnel, or as a test likes it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use blueprint_common_tunnel::{ConnectError, Tunnel};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A stream of bytes in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why no connection to a target came about; no byte of a request was sent in any case.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The agent is there and nothing listens on the port.
    #[error("connection refused")]
    Refused,
    /// No answer in time.
    #[error("connection timed out")]
    TimedOut,
    /// The address belongs to no agent.
    #[error("no route through the tunnel")]
    NoRoute,
    /// The hub has no room for another connection.
    #[error("too many connections")]
    Full,
    /// Anything else.
    #[error("cannot connect")]
    Other(#[source] io::Error),
}

/// Opens connections to overlay addresses.
pub trait Dial: Send + Sync {
    /// Connects to `target`, which the caller waits for no longer than `timeout`.
    fn connect(&self, target: SocketAddr, timeout: Duration)
    -> BoxFuture<'_, Result<Box<dyn Io>, DialError>>;
}

impl Dial for Tunnel {
    fn connect(
        &self,
        target: SocketAddr,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Box<dyn Io>, DialError>> {
        async move {
            let stream = Self::connect(self, target, timeout).await?;
            let stream: Box<dyn Io> = Box::new(stream);
            Ok(stream)
        }
        .boxed()
    }
}

impl From<ConnectError> for DialError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Refused => Self::Refused,
            ConnectError::TimedOut => Self::TimedOut,
            ConnectError::NoRoute => Self::NoRoute,
            ConnectError::Full => Self::Full,
            ConnectError::Stopped => Self::Other(error.into()),
        }
    }
}
