//! How connections to targets open: through the tunnel, or as a test likes it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use blueprint_common_tunnel::{ConnectError, Tunnel, UdpError, UdpFlow};
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

/// Datagrams to and from one target. Dropping it closes the port.
pub trait Datagrams: Send + Sync {
    /// Sends one; that it was sent does not say that it arrives.
    fn send<'a>(&'a self, data: &'a [u8]) -> BoxFuture<'a, Result<(), UdpError>>;

    /// Waits for the next one; what does not fit `buffer` is cut off. Dropping the future loses none.
    fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, Result<usize, UdpError>>;
}

impl Datagrams for UdpFlow {
    fn send<'a>(&'a self, data: &'a [u8]) -> BoxFuture<'a, Result<(), UdpError>> {
        Self::send(self, data).boxed()
    }

    fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, Result<usize, UdpError>> {
        Self::recv(self, buffer).boxed()
    }
}

/// Opens connections to overlay addresses.
pub trait Dial: Send + Sync {
    /// Connects to `target`, which the caller waits for no longer than `timeout`.
    fn connect(&self, target: SocketAddr, timeout: Duration)
    -> BoxFuture<'_, Result<Box<dyn Io>, DialError>>;

    /// Opens a port towards `target`; nothing is sent. Who has no datagrams says [`DialError::NoRoute`].
    fn connect_udp(&self, target: SocketAddr) -> BoxFuture<'_, Result<Box<dyn Datagrams>, DialError>> {
        let _ = target;
        async { Err(DialError::NoRoute) }.boxed()
    }
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

    fn connect_udp(&self, target: SocketAddr) -> BoxFuture<'_, Result<Box<dyn Datagrams>, DialError>> {
        async move {
            let flow: Box<dyn Datagrams> = Box::new(Self::connect_udp(self, target).await?);
            Ok(flow)
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
