//! The tunnel as the hub binds it, and what agents are told of it.

use anyhow::Result;
use blueprint_common_tunnel::{BindError, Engine, Tunnel, TunnelConfig};
use blueprint_common_tunnel_core::{Config as CoreConfig, Limits, OverlayPrefixes, Protocol, Role, Rule};
use blueprint_common_types::{Carrier, fill_random};
use blueprint_hub_registry::TunnelFacts;
use tracing::info;

use super::{Base, Sockets};
use crate::config::{CarrierListen, HubConfig};
use crate::files::Identity;

/// Binds the tunnel; without a port for carriers where `auto` cannot have one.
pub(super) fn bind(
    config: &HubConfig,
    identity: &Identity,
    prefixes: OverlayPrefixes,
) -> Result<(Tunnel, Engine), BindError> {
    let mut seed = [0u8; 32];
    fill_random(&mut seed).map_err(BindError::System)?;
    let core = CoreConfig {
        private_key: identity.wireguard.clone(),
        addresses: prefixes.hub(),
        prefixes,
        role: Role::Hub,
        mtu: config.mtu,
        limits: Limits::default(),
        answers_echoes: true,
        own_rules: Some(own_rules(config)),
        seed,
    };
    let interface = config.interface.clone();
    let listen_also = config.carrier_listen.address();
    let settings = TunnelConfig { interface, listen_also, ..TunnelConfig::new(config.tunnel_listen, core) };
    match Tunnel::bind(settings.clone()) {
        Err(BindError::Socket { address, source })
            if config.carrier_listen == CarrierListen::Auto && Some(address) == listen_also =>
        {
            info!(
                %address,
                error = %source,
                "no carriers on UDP port 443: it needs CAP_NET_BIND_SERVICE and a free port; \
                 tunnel.carrier_listen names another one, or off"
            );
            Tunnel::bind(TunnelConfig { listen_also: None, ..settings })
        }
        bound => bound,
    }
}

/// What machines may begin with the hub itself: what the operator lets them, and the ways to his RPC, to the DNS and to quality of
/// service, which ask who they are.
fn own_rules(config: &HubConfig) -> Vec<Rule> {
    let rule = |protocol, port: u16| Rule { protocol, ports: port..=port };
    let rpc = config.rpc_port.map(|port| rule(Protocol::Tcp, port));
    let dns = config.discovery.port.map(|port| [rule(Protocol::Udp, port), rule(Protocol::Tcp, port)]);
    let qos = config.qos.port.map(|port| rule(Protocol::Tcp, port));
    config.to_hub.iter().cloned().chain(rpc).chain(qos).chain(dns.into_iter().flatten()).collect()
}

/// Ways to this hub, best first.
fn carriers(base: &Base, sockets: &Sockets) -> Result<Vec<(Carrier, String)>> {
    let at = |port: u16| format!(":{port}");
    let mut carriers = vec![(Carrier::Udp, at(base.tunnel.local_addr().port()))];
    if let Some(shared) = base.tunnel.carrier_addr() {
        carriers.push((Carrier::Udp, at(shared.port())));
        carriers.push((Carrier::Quic, at(shared.port())));
    }
    for control in sockets.control_also.iter().chain([&sockets.control]) {
        carriers.push((Carrier::Tls, at(control.local_addr()?.port())));
    }
    if let Some(shared) = &sockets.shared {
        carriers.push((Carrier::Tls, at(shared.port)));
    }
    Ok(carriers)
}

/// What every agent is told.
pub(super) fn facts(
    config: &HubConfig,
    identity: &Identity,
    base: &Base,
    sockets: &Sockets,
) -> Result<TunnelFacts> {
    Ok(TunnelFacts {
        epoch: base.epoch,
        hub_public_key: identity.wireguard.public_key(),
        carriers: carriers(base, sockets)?,
        hub: base.prefixes.hub(),
        prefixes: [base.prefixes.v4.to_string(), base.prefixes.v6.to_string()],
        mtu: config.mtu,
        keepalive: config.keepalive,
    })
}
