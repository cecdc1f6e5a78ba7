//! Addresses of the inner network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The two overlay addresses that one spoke holds for as long as it is joined: a `/32` and a `/128`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OverlayLease {
    /// Address inside the overlay's IPv4 prefix.
    pub v4: Ipv4Addr,
    /// Address inside the overlay's unique local IPv6 prefix.
    pub v6: Ipv6Addr,
}

impl OverlayLease {
    /// True where `address` is one of the two.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => v4 == self.v4,
            IpAddr::V6(v6) => v6 == self.v6,
        }
    }
}
