//! Where raw forwards listen.

use std::net::IpAddr;

use blueprint_common_runtime::accept::AcceptLimits;
use blueprint_common_runtime::config::{Key, Problems, Settings};
use blueprint_hub_proxy::ForwardConfig;
use blueprint_hub_proxy_core::ForwardPorts;

pub(super) const PORTS: Key = Key::unset(
    "proxy.forward_ports",
    "TCP and UDP ports that raw forwards of services may have, such as 20000-20999; none where not set.",
);
pub(super) const LISTEN: Key =
    Key::new("proxy.forward_listen", "0.0.0.0", "Address that raw forwards listen on; :: for IPv6 and IPv4.");

/// Takes both keys; the inner `None` is no forward at all.
pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<ForwardConfig>> {
    let listen = settings.take::<IpAddr>(LISTEN.path, problems)?;
    let Some(text) = settings.take_optional::<String>(PORTS.path, problems) else { return Some(None) };
    match text.parse::<ForwardPorts>() {
        Ok(ports) => Some(Some(ForwardConfig { listen, ports, limits: AcceptLimits::default() })),
        Err(error) => {
            settings.refuse(PORTS.path, &format!("{error}"), problems);
            None
        }
    }
}
