//! Why an operation of the handle failed.

use blueprint_common_tunnel_core::PeerError;
use ipnetwork::IpNetwork;

use crate::sys::netlink::NetlinkError;
use crate::sys::tun::TunError;

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

/// Why there is no network device.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The machine, or the container, has no such devices.
    #[error("this machine has no network devices for programs")]
    Missing(#[source] Source),
    /// The process may not make one.
    #[error("no right to a network device")]
    Denied(#[source] Source),
    /// Its name is taken.
    #[error("no network device of that name")]
    InUse(#[source] Source),
    /// Its name is none.
    #[error("no network device of that name")]
    Name(#[source] Source),
    /// The overlay's addresses are somewhere else already.
    #[error("the overlay {overlay} and {network}, which is behind {interface}, share addresses")]
    Overlap {
        /// The prefix of the overlay.
        overlay: IpNetwork,
        /// A network of this machine.
        network: IpNetwork,
        /// The interface that leads there.
        interface: String,
    },
    /// Something else could not be made or set.
    #[error("no network device")]
    Other(#[source] Source),
}

/// What lies behind an error.
type Source = Box<dyn std::error::Error + Send + Sync>;

impl InterfaceError {
    /// What to do about it; `None` where nothing is known.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing(_) => Some(
                "load the module (`modprobe tun`) or pass /dev/net/tun into the container; or set tunnel.interface = \"netstack\"",
            ),
            Self::Denied(_) => Some(
                "give it CAP_NET_ADMIN and access to /dev/net/tun: as root, or with AmbientCapabilities=CAP_NET_ADMIN in the service unit; or set tunnel.interface = \"netstack\"",
            ),
            Self::InUse(_) => Some("stop who uses it, or set another tunnel.interface_name, such as bp%d"),
            Self::Name(_) => Some(
                "set tunnel.interface_name to 1 to 15 letters, digits, '.', '_' or '-', with one %d at most",
            ),
            Self::Overlap { .. } => Some(
                "give the hub another tunnel.overlay_v4 before machines join, or take that network away; or set tunnel.interface = \"netstack\"",
            ),
            Self::Other(_) => None,
        }
    }

    pub(crate) fn from_tun(error: TunError) -> Self {
        match error {
            TunError::Missing { .. } => Self::Missing(Box::new(error)),
            TunError::Closed { .. } | TunError::Denied { .. } => Self::Denied(Box::new(error)),
            TunError::InUse { .. } => Self::InUse(Box::new(error)),
            TunError::Name { .. } => Self::Name(Box::new(error)),
            TunError::Queues { .. } | TunError::Other { .. } => Self::Other(Box::new(error)),
        }
    }

    pub(crate) fn from_netlink(error: NetlinkError) -> Self {
        Self::Other(Box::new(error))
    }
}
