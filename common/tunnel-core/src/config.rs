//! What a core and its peers are made from.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use blueprint_common_types::{OverlayLease, Secret, WgPrivateKey, WgPublicKey};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::{Endpoint, Limits, Rule};

/// A symmetric key that both ends of a tunnel know beforehand (paper, section 5.2).
pub type PresharedKey = Secret<[u8; 32]>;

/// Peers one core holds at most.
pub const MAX_PEERS: usize = 65_536;

/// Prefixes one peer holds at most.
pub const MAX_PREFIXES_PER_PEER: usize = 64;

/// Sizes an inner packet may be allowed; a [`Config::mtu`] outside is moved to the nearer end.
///
/// From IPv6's least link (RFC 8200, section 5) to what fits a UDP datagram with WireGuard's overhead.
pub const MTU_RANGE: RangeInclusive<u16> = 1280..=65_440;

/// Which end of the star a core is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Answers handshakes, relays between spokes where the policy says so, and watches their echoes.
    Hub,
    /// Dials its peers, never gives up on them, and echoes through the tunnel to the hub.
    Spoke,
}

/// The two prefixes of the inner network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OverlayPrefixes {
    /// IPv4 prefix.
    pub v4: Ipv4Network,
    /// IPv6 unique local prefix.
    pub v6: Ipv6Network,
}

impl OverlayPrefixes {
    /// The hub's own addresses: the first after the network's own in both prefixes.
    #[must_use]
    pub fn hub(&self) -> OverlayLease {
        OverlayLease {
            v4: Ipv4Addr::from(u32::from(self.v4.network()).saturating_add(1)),
            v6: Ipv6Addr::from(u128::from(self.v6.network()).saturating_add(1)),
        }
    }
}

/// What one core is.
#[derive(Debug, Clone)]
pub struct Config {
    /// Own static key.
    pub private_key: WgPrivateKey,
    /// Own overlay addresses.
    pub addresses: OverlayLease,
    /// The inner network; a spoke echoes to its [`OverlayPrefixes::hub`].
    pub prefixes: OverlayPrefixes,
    /// Hub or spoke.
    pub role: Role,
    /// Largest inner packet in bytes, within [`MTU_RANGE`].
    pub mtu: u16,
    /// Budgets of handshakes from outside.
    pub limits: Limits,
    /// Answers echo requests of peers to our own addresses; false where a kernel behind a device does.
    pub answers_echoes: bool,
    /// What peers may begin with this end itself beside ICMP; answers to what it began always pass. `None` lets them
    /// begin everything.
    pub own_rules: Option<Vec<Rule>>,
    /// Seed of peer indexes, echo identifiers, jitter and the admission table's hash; fresh from the system's
    /// generator outside tests, or strangers can tell which sources share a bucket.
    pub seed: [u8; 32],
}

/// What one peer may do and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its static public key: who it is.
    pub public_key: WgPublicKey,
    /// Prefixes it may send from and be sent to; host bits are ignored.
    pub allowed_ips: Vec<IpNetwork>,
    /// Its outer address where known; `None` keeps what was learned.
    pub endpoint: Option<Endpoint>,
    /// Mixed into every handshake; both ends need the same. A change ends the sessions.
    pub preshared_key: Option<PresharedKey>,
    /// Sends an empty message after this long without sending; `None` never. Rounded to about a second.
    pub keepalive: Option<Duration>,
}

/// Why a peer was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The key is this core's own.
    #[error("peer {0:?} has this end's own key")]
    OwnKey(WgPublicKey),
    /// The key is one of the few that make every shared secret zero.
    #[error("peer {0:?} has a weak key")]
    WeakKey(WgPublicKey),
    /// Another peer holds exactly this prefix.
    #[error("{prefix} belongs to peer {holder:?}")]
    PrefixTaken {
        /// The prefix.
        prefix: IpNetwork,
        /// Who holds it.
        holder: WgPublicKey,
    },
    /// More than [`MAX_PREFIXES_PER_PEER`].
    #[error("peer {0:?} has too many prefixes")]
    TooManyPrefixes(WgPublicKey),
    /// More than [`MAX_PEERS`].
    #[error("no room for another peer")]
    Full,
}
