//! Names that all parts share, and what hub and agent say to each other.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use blueprint_common_link_core::LinkEnd;
use blueprint_common_tunnel_core::OverlayPrefixes;
use blueprint_common_types::{AgentId, Timestamp};
use blueprint_hub_registry_core::OfferedTarget;
use ipnetwork::{Ipv4Network, Ipv6Network};

/// How often an agent sends a heartbeat; the hub closes a session after four silent ones.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long targets outlive their last renewal.
pub(crate) const TTL: Duration = Duration::from_secs(10);

/// How long a certificate is valid; a round of trouble is over before its second half is.
pub(crate) const CERTIFICATE: Duration = Duration::from_secs(120);

/// How long the hub and its agents may take to be well once the network is.
pub(crate) const HEALED_WITHIN: Duration = Duration::from_secs(5);

/// Where the hub's carrier listens.
pub(crate) const HUB_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 51820);

/// Overlay of eight addresses in IPv4, so that they run out and are given again.
pub(crate) fn overlay() -> OverlayPrefixes {
    OverlayPrefixes {
        v4: Ipv4Network::new(Ipv4Addr::new(10, 88, 0, 0), 29).unwrap(),
        v6: Ipv6Network::new("fd12:3456:789a::".parse().unwrap(), 64).unwrap(),
    }
}

/// Number of a machine; numbers are never given again.
pub(crate) type MachineId = usize;

/// One end of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    Hub,
    Machine(MachineId),
}

/// Number of an agent process, which its sequence numbers belong to.
pub(crate) type ProcessId = u64;

/// What an agent reports; numbered and kept until acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    Heartbeat,
    Targets(Vec<OfferedTarget>),
    Qos(Timestamp),
}

/// Agent to hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToHub {
    Hello { agent: AgentId, process: ProcessId },
    Report { seq: u64, report: Report },
    Renew { generation: u32 },
}

/// Hub to agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToAgent {
    Welcome { applied: u64, epoch: u64 },
    Ack { seq: u64 },
    Renewed { generation: u32 },
    Goodbye(LinkEnd),
}
