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
    /// Every connection is in use.
    #[error("too many connections")]
    Full,
    /// Port 0 cannot be listened on.
    #[error("port 0 cannot be listened on")]
    Zero,
    /// The overlay ends in a network device: the kernel's own UDP sockets reach it.
    #[error("the overlay ends in a network device: use a UDP socket of the system")]
    OfTheKernel,
    /// The engine has ended.
    #[error("the tunnel has stopped")]
    Stopped,
}

/// Why a datagram could not be sent or received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UdpError {
    /// It does not fit the tunnel's MTU, and nothing here cuts it into fragments.
    #[error("datagram of {bytes} bytes exceeds {max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest that fits.
        max: usize,
    },
    /// The address is one of our own.
    #[error("no route through the tunnel")]
    NoRoute,
    /// The other end said that nobody listens there.
    #[error("port unreachable")]
    Refused,
    /// The engine has ended.
    #[error("the tunnel has stopped")]
    Stopped,
}

impl From<UdpError> for std::io::Error {
    fn from(error: UdpError) -> Self {
        let kind = match error {
            UdpError::TooLong { .. } => std::io::ErrorKind::InvalidInput,
            UdpError::NoRoute => std::io::ErrorKind::HostUnreachable,
            UdpError::Refused => std::io::ErrorKind::ConnectionRefused,
            UdpError::Stopped => std::io::ErrorKind::NetworkDown,
        };
        Self::new(kind, error)
    }
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

/// Why a tunnel could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A socket could not be bound, or the system has no randomness.
    #[error("cannot bind {address}")]
    Socket {
        /// The UDP address asked for.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The network device could not be made.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The system refused something else: randomness, a thread's wake-up.
    #[error("cannot set the tunnel up")]
    System(#[source] std::io::Error),
}

/// Why there is no network device. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// It could not be made.
    #[error("no network device")]
    Open(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It could not be given its addresses or sizes.
    #[error("network device not set up")]
    Configure(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl InterfaceError {
    pub(crate) fn from_tun(error: crate::sys::tun::TunError) -> Self {
        Self::Open(Box::new(error))
    }

    pub(crate) fn from_netlink(error: crate::sys::netlink::NetlinkError) -> Self {
        Self::Configure(Box::new(error))
    }
}
