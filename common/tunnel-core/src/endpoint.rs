//! Where a peer is reached: over which carrier, at which outer address, and from which of ours.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Number of one connection of a carrier that has connections; never used again by the same process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// What carries a peer's datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// A UDP socket of ours, by number: 0 is the tunnel's own port.
    Udp(u8),
    /// A QUIC connection.
    Quic(LinkId),
    /// A TLS stream.
    Tls(LinkId),
}

impl Via {
    /// The carrier's name in metrics and status.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp(_) => "udp",
            Self::Quic(_) => "quic",
            Self::Tls(_) => "tls",
        }
    }
}

/// Where a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The carrier.
    pub via: Via,
    /// The peer's outer address.
    pub remote: SocketAddr,
    /// Our outer address that the peer talks to, where it is known: answers leave from it.
    pub local: Option<IpAddr>,
}

impl Endpoint {
    /// True where both are the same way; our own address may differ.
    #[must_use]
    pub fn is_same_way(&self, other: &Self) -> bool {
        (self.via, self.remote) == (other.via, other.remote)
    }
}

/// Plain UDP on the tunnel's own port.
impl From<SocketAddr> for Endpoint {
    fn from(remote: SocketAddr) -> Self {
        Self { via: Via::Udp(0), remote, local: None }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.via.label(), self.remote)
    }
}
