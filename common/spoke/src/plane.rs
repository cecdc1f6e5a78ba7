//! The data plane: one tunnel as a spoke, and the ways to its hub.

use std::net::{IpAddr, SocketAddr};

use blueprint_common_tunnel::{BindError, Engine, Interface, Tunnel, TunnelConfig, UpsertError};
use blueprint_common_tunnel_core::{Config, Limits, OverlayPrefixes, PeerConfig, PeerStats, Role};
use blueprint_common_types::{TunnelSample, WgPublicKey, fill_random};
use ipnetwork::IpNetwork;
use parking_lot::Mutex;

use crate::carrier::Way;
use crate::identity::{Identity, TunnelSettings};

/// TCP connections of one agent at once, all services together.
const MAX_FLOWS: usize = 4096;

/// What the control stream learned about the way to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathRequest {
    /// The hub's epoch; a new one means that its tunnel sessions are gone.
    pub(crate) epoch: u64,
    /// The hub's address that the control stream reached.
    pub(crate) reached: Option<IpAddr>,
}

/// What the data plane tells the control stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kick {
    /// The hub stopped echoing.
    Lost,
    /// The hub echoes again.
    Back,
}

/// The tunnel and what is known of the way to the hub.
#[derive(Debug)]
pub struct Plane {
    tunnel: Tunnel,
    pub(crate) hub: WgPublicKey,
    pub(crate) is_v4_only: bool,
    /// The ways to the hub that may be used, best first. One task changes them.
    pub(crate) ways: Mutex<Vec<Way>>,
}

impl Plane {
    /// Binds the UDP socket; the engine is to be run by the caller.
    ///
    /// # Errors
    ///
    /// Each variant of [`BindError`] says its case.
    pub fn bind(
        identity: &Identity,
        listen: SocketAddr,
        interface: Interface,
    ) -> Result<(Self, Engine), BindError> {
        let settings = &identity.tunnel;
        let mut seed = [0u8; 32];
        fill_random(&mut seed).map_err(BindError::System)?;
        let core = Config {
            private_key: identity.wireguard_key.clone(),
            addresses: settings.address,
            prefixes: OverlayPrefixes { v4: settings.overlay_v4, v6: settings.overlay_v6 },
            role: Role::Spoke,
            mtu: settings.mtu,
            limits: Limits::default(),
            answers_echoes: true,
            own_rules: None,
            seed,
        };
        let (tunnel, engine) = Tunnel::bind(TunnelConfig {
            interface,
            max_flows: MAX_FLOWS,
            ..TunnelConfig::new(listen, core)
        })?;
        let plane =
            Self { tunnel, hub: settings.hub_key, is_v4_only: listen.is_ipv4(), ways: Mutex::default() };
        Ok((plane, engine))
    }

    /// The tunnel itself.
    #[must_use]
    pub const fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// What is known of the hub as a peer.
    #[must_use]
    pub fn hub_stats(&self) -> Option<PeerStats> {
        self.tunnel.snapshot().peers.get(&self.hub).copied()
    }

    /// Whether the hub echoes.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.hub_stats().is_some_and(|stats| stats.echo.alive)
    }

    /// The ways to the hub that may be used, best first, as they are now.
    #[must_use]
    pub fn ways(&self) -> Vec<Way> {
        self.ways.lock().clone()
    }

    /// Why no way works, where that is known.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let ways = self.ways.lock();
        let text = |way: &Way| {
            Some(format!("{} {}: {}", way.offer.carrier, way.offer.endpoint, way.trouble.as_ref()?))
        };
        let troubles: Vec<_> = ways.iter().filter_map(text).collect();
        (!troubles.is_empty()).then(|| troubles.join("; "))
    }

    /// The carrier in use; `None` while none is.
    #[must_use]
    pub fn carrier(&self) -> Option<&'static str> {
        Some(self.hub_stats().filter(|stats| stats.echo.alive)?.endpoint?.via.label())
    }

    /// The tunnel's quality, for the hub.
    #[must_use]
    pub fn sample(&self) -> TunnelSample {
        let Some(stats) = self.hub_stats() else { return TunnelSample::default() };
        TunnelSample {
            rtt_micros: stats.echo.rtt_micros,
            jitter_micros: stats.echo.jitter_micros,
            loss_percent: stats.echo.loss_percent,
            handshake_age_secs: stats
                .handshake_age
                .map(|age| u32::try_from(age.as_secs()).unwrap_or(u32::MAX)),
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
        }
    }

    /// Makes the hub a peer, or changes it.
    ///
    /// # Errors
    ///
    /// Each variant of [`UpsertError`] says its case.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether the peer is changed.
    pub async fn upsert_hub(&self, settings: &TunnelSettings) -> Result<(), UpsertError> {
        let allowed_ips = vec![IpNetwork::V4(settings.overlay_v4), IpNetwork::V6(settings.overlay_v6)];
        let keepalive = Some(settings.keepalive).filter(|keepalive| !keepalive.is_zero());
        let peer = PeerConfig {
            public_key: settings.hub_key,
            allowed_ips,
            endpoint: None,
            preshared_key: None,
            keepalive,
        };
        self.tunnel.upsert_peer(peer).await
    }
}
