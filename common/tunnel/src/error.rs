//! Why an operation of the handle failed.

use blueprint_common_tunnel_core::PeerError;

/// Why no connection over the overlay came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The other end answered with a reset: nobody listens there, or its backlog is full.
    #[error("connection refused")]
    Refused,
    /// The other end did not answer in time.
    #[error("connection timed out")]
    TimedOut,
    /// No peer is responsible for the address, or it is not one to connect to.
    #[error("no route through the tunnel")]
    NoRoute,
    /// Every connection or every local port is in use.
    #[error("too many connections")]
    Full,
    /// The engine has ended.
    #[error("the tunnel has stopped")]
    Stopped,
}

impl From<ConnectError> for std::io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match error {
            ConnectError::Refused => std::io::ErrorKind::ConnectionRefused,
            ConnectError::TimedOut => std::io::ErrorKind::TimedOut,
            ConnectError::NoRoute => std::io::ErrorKind::HostUnreachable,
            ConnectError::Full => std::io::ErrorKind::ResourceBusy,
            ConnectError::Stopped => std::io::ErrorKind::NetworkDown,
        };
        Self::new(kind, error)
    }
}

/// Why a port could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there already.
    #[error("port {port} is in use")]
    InUse {
        /// The port asked for.
        port: u16,
    },
    /// Port 0 cannot be listened on.
    #[error("port 0 cannot be listened on")]
    Zero,
    /// The engine has ended.
    #[error("the tunnel has stopped")]
    Stopped,
}

/// Why a peer could not be added or changed.
#[derive(Debug, thiserror::Error)]
pub enum UpsertError {
    /// The core refused it.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The engine has ended.
    #[error("the tunnel has stopped")]
    Stopped,
}
