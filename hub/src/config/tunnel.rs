//! Section `tunnel`: the overlay's prefixes, where it ends, and where carriers come in.

use std::net::{IpAddr, SocketAddr};

use blueprint_common_runtime::config::{Problems, Settings};
use blueprint_common_tunnel::{Interface, TunSettings};
use blueprint_common_tunnel_core::Rule;
use blueprint_hub_registry_core::policy::Traffic;
use ipnetwork::{Ipv4Network, Ipv6Network};

use super::http3::meets;
use super::optional_address;
use crate::policy::rule;

/// Where QUIC and plain WireGuard share a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CarrierListen {
    /// UDP port 443 where that is possible.
    Auto,
    Off,
    At(SocketAddr),
}

impl CarrierListen {
    /// What `auto` means.
    const AUTO: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 443);

    /// Takes the key; what cannot be used is a problem.
    pub(super) fn take(
        settings: &Settings,
        tunnel: Option<SocketAddr>,
        problems: &mut Problems,
    ) -> Option<Self> {
        if settings.text("tunnel.carrier_listen") == Some("auto") {
            return Some(Self::Auto);
        }
        let address = optional_address(settings, "tunnel.carrier_listen", problems)?;
        if address.zip(tunnel).is_some_and(|(at, tunnel)| meets(at, tunnel)) {
            let why = "tunnel.listen has the same UDP port; plain WireGuard is taken here as well, so give tunnel.listen \
                       another port, or set this to off";
            settings.refuse("tunnel.carrier_listen", why, problems);
            return None;
        }
        Some(address.map_or(Self::Off, Self::At))
    }

    /// The address to bind, where there is one.
    pub(crate) const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Auto => Some(Self::AUTO),
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

/// Where the overlay ends on this machine.
pub(super) fn interface(settings: &Settings, problems: &mut Problems) -> Option<Interface> {
    let name: Option<String> = settings.take("tunnel.interface_name", problems);
    let udp_offload: Option<bool> = settings.take("tunnel.udp_offload", problems);
    match settings.text("tunnel.interface")? {
        "netstack" => Some(Interface::Netstack),
        "tun" => Some(Interface::Tun(TunSettings { name: name?, udp_offload: udp_offload? })),
        _ => {
            settings.refuse("tunnel.interface", "neither netstack nor tun", problems);
            None
        }
    }
}

/// What machines may begin with the hub itself; nothing for `none`.
pub(super) fn to_hub(settings: &Settings, problems: &mut Problems) -> Option<Vec<Rule>> {
    let text: String = settings.take("tunnel.to_hub", problems)?;
    if text == "none" {
        return Some(Vec::new());
    }
    let kinds: Result<Vec<Traffic>, _> = text.split(',').map(|kind| kind.trim().parse()).collect();
    match kinds {
        Ok(kinds) => Some(kinds.into_iter().map(rule).collect()),
        Err(error) => {
            settings.refuse("tunnel.to_hub", &error.to_string(), problems);
            None
        }
    }
}

/// Where workloads reach the operator's RPC; the inner `None` for nowhere.
pub(super) fn rpc_port(settings: &Settings, problems: &mut Problems) -> Option<Option<u16>> {
    if settings.text("tunnel.rpc_port") == Some("off") {
        return Some(None);
    }
    settings.take_within("tunnel.rpc_port", 1..=u16::MAX, problems).map(Some)
}

/// The IPv4 prefix: inside 10.0.0.0/8, with room for a machine.
pub(super) fn overlay_v4(settings: &Settings, problems: &mut Problems) -> Option<Ipv4Network> {
    let network = settings.take::<Ipv4Network>("tunnel.overlay_v4", problems)?;
    if network.ip().octets().first() != Some(&10) || network.prefix() < 8 {
        // The Blueprint Manager passes only private addresses, and of those 10.0.0.0/8 is ours.
        settings.refuse("tunnel.overlay_v4", "not inside 10.0.0.0/8", problems);
        return None;
    }
    if network.prefix() > 29 {
        settings.refuse(
            "tunnel.overlay_v4",
            "no room for machines: a prefix of at most /29 is needed",
            problems,
        );
        return None;
    }
    Some(network)
}

/// The IPv6 prefix; the inner `None` where it is made from the hub's identity.
pub(super) fn overlay_v6(settings: &Settings, problems: &mut Problems) -> Option<Option<Ipv6Network>> {
    let Some(network) = settings.take_optional::<Ipv6Network>("tunnel.overlay_v6", problems) else {
        return Some(None);
    };
    let is_local = network.ip().octets().first() == Some(&0xfd);
    if !is_local || network.prefix() != 64 {
        settings.refuse("tunnel.overlay_v6", "not a /64 inside fd00::/8", problems);
        return None;
    }
    Some(Some(network))
}
