//! Section `discovery`: names of services and machines.

use std::net::SocketAddr;

use blueprint_common_runtime::config::{Key, Problems, Settings};
use blueprint_common_tunnel::Interface;
use blueprint_hub_discovery::Domain;

use super::private_address;

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// The keys of the section.
pub(super) const DOMAIN: Key = Key::new(
    "discovery.domain",
    "bp.internal",
    "Domain of the overlay's DNS: sSERVICE.bBLUEPRINT.DOMAIN are the healthy targets of a service, NAME.node.DOMAIN is a \
     machine.",
);
pub(super) const PORT: Key = Key::new(
    "discovery.dns_port",
    "auto",
    "UDP and TCP port of this hub inside the tunnel that tells machines, by DNS, where what they may reach is; auto is \
     53 with tunnel.interface = \"netstack\", and off with \"tun\", where the port is one of this machine's; or off.",
);
pub(super) const LISTEN: Key = Key::new(
    "discovery.dns_listen",
    "off",
    "Loopback address, such as 127.0.0.1:5355, where programs of this machine ask the same DNS and see everything; or \
     off.",
);

/// Where the DNS is served.
#[derive(Debug, Clone)]
pub(crate) struct DiscoveryConfig {
    pub(crate) domain: Domain,
    /// Port inside the tunnel.
    pub(crate) port: Option<u16>,
    /// Loopback address of this machine.
    pub(crate) listen: Option<SocketAddr>,
}

impl DiscoveryConfig {
    /// Takes the section; what cannot be used is a problem.
    pub(super) fn take(
        settings: &Settings,
        interface: Option<&Interface>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let domain = settings.take(DOMAIN.path, problems);
        let port = match settings.text(PORT.path) {
            Some("auto") => interface.map(|end| matches!(end, Interface::Netstack).then_some(DNS_PORT)),
            Some("off") => Some(None),
            _ => settings.take_within(PORT.path, 1..=u16::MAX, problems).map(Some),
        };
        let listen = private_address(settings, LISTEN.path, problems);
        Some(Self { domain: domain?, port: port?, listen: listen? })
    }
}
