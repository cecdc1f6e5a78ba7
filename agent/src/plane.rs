//! The data plane: one tunnel as a spoke, and where its hub is.
//!
//! Invariant: while the hub does not echo, its address is looked up anew every few seconds, so that a hub that
//! moved behind its name is found whether or not the control stream comes back first.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_tunnel::{BindError, Engine, Interface, Tunnel, TunnelConfig, UpsertError};
use blueprint_common_tunnel_core::{Config, Event, Limits, OverlayPrefixes, PeerConfig, PeerStats, Role};
use blueprint_common_types::{TunnelSample, WgPublicKey, fill_random};
use ipnetwork::IpNetwork;
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::agent::AgentError;
use crate::dial;
use crate::identity::{Identity, TunnelSettings, split_endpoint};
use crate::shared::Shared;

/// How often a hub that does not echo is looked for.
const SEARCH_INTERVAL: Duration = Duration::from_secs(2);

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
pub(crate) struct Plane {
    tunnel: Tunnel,
    hub: WgPublicKey,
    is_v4_only: bool,
    /// Where the tunnel was pointed at last; the hub may answer from elsewhere.
    pointed: Mutex<Option<SocketAddr>>,
    /// Why the hub's address is not known, where it is not.
    trouble: Mutex<Option<String>>,
}

impl Plane {
    /// Binds the UDP socket; the engine is to be run by the caller.
    pub(crate) fn bind(
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
            seed,
        };
        let (tunnel, engine) = Tunnel::bind(TunnelConfig {
            interface,
            max_flows: MAX_FLOWS,
            ..TunnelConfig::new(listen, core)
        })?;
        let plane = Self {
            tunnel,
            hub: settings.hub_key,
            is_v4_only: listen.is_ipv4(),
            pointed: Mutex::default(),
            trouble: Mutex::default(),
        };
        Ok((plane, engine))
    }

    pub(crate) const fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// What is known of the hub as a peer.
    pub(crate) fn hub_stats(&self) -> Option<PeerStats> {
        self.tunnel.snapshot().peers.get(&self.hub).copied()
    }

    /// Whether the hub echoes.
    pub(crate) fn is_alive(&self) -> bool {
        self.hub_stats().is_some_and(|stats| stats.echo.alive)
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// The tunnel's quality, for the hub.
    pub(crate) fn sample(&self) -> TunnelSample {
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

    async fn upsert_hub(&self, settings: &TunnelSettings) -> Result<(), UpsertError> {
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

    /// Looks the hub's carrier up and points the tunnel at it; `is_lost` where the present address may be the
    /// reason that it does not answer, `is_new` where the hub lost its sessions.
    async fn locate(&self, identity: &Identity, reached: Option<IpAddr>, is_lost: bool, is_new: bool) {
        let mut trouble = None;
        for endpoint in &identity.tunnel.endpoints {
            match self.candidates(endpoint, identity, reached).await {
                Ok(found) => {
                    let pointed = *self.pointed.lock();
                    if let Some(address) = choose(&found, pointed, is_lost) {
                        *self.trouble.lock() = None;
                        self.point_at(address, is_lost, is_new).await;
                        return;
                    }
                    trouble.get_or_insert_with(|| {
                        format!("{endpoint:?} has no address that tunnel.listen can send to")
                    });
                }
                Err(error) => {
                    let chain = blueprint_common_runtime::Chain(&error).to_string();
                    debug!(endpoint, error = chain, "hub's carrier not found");
                    trouble.get_or_insert(chain);
                }
            }
        }
        *self.trouble.lock() = trouble;
    }

    async fn candidates(
        &self,
        endpoint: &str,
        identity: &Identity,
        reached: Option<IpAddr>,
    ) -> Result<Vec<SocketAddr>, dial::DialError> {
        // The form was checked when the hub sent it.
        let Some((host, port)) = split_endpoint(endpoint) else { return Ok(Vec::new()) };
        let addresses = match (host, reached) {
            ("", Some(reached)) => vec![reached],
            ("", None) => dial::resolve(&identity.hub.host).await?,
            (host, _) => dial::resolve(host).await?,
        };
        let fits = |ip: &IpAddr| ip.is_ipv4() || !self.is_v4_only;
        Ok(addresses.into_iter().filter(fits).map(|ip| SocketAddr::new(ip, port)).collect())
    }

    async fn point_at(&self, address: SocketAddr, is_lost: bool, is_new: bool) {
        let pointed = self.pointed.lock().replace(address);
        let strayed = is_lost
            && self
                .hub_stats()
                .is_some_and(|stats| stats.endpoint.map(|endpoint| endpoint.remote) != Some(address));
        let is_moved = pointed != Some(address) || strayed;
        if is_moved {
            info!(endpoint = %address, "tunnel points at the hub");
            // Dials it, too.
            self.tunnel.set_endpoint(self.hub, address.into()).await;
        } else if is_new {
            self.tunnel.start_handshake(self.hub).await;
        }
    }
}

/// The present address while it is among those found and works, else the one after it.
fn choose(found: &[SocketAddr], present: Option<SocketAddr>, is_lost: bool) -> Option<SocketAddr> {
    match found.iter().position(|address| Some(*address) == present) {
        Some(position) if is_lost => found.get(position.saturating_add(1)).or_else(|| found.first()).copied(),
        Some(_) => present,
        None => found.first().copied(),
    }
}

/// Keeps the tunnel pointed at the hub, and tells the control stream when the echo stops or comes back.
pub(crate) async fn watch(shared: Arc<Shared>, kicks: mpsc::Sender<Kick>) -> Result<(), AgentError> {
    let plane = &shared.plane;
    let mut events = plane.tunnel.events();
    let mut requests = shared.path.subscribe();
    plane.upsert_hub(&shared.identity().tunnel).await?;
    let mut epoch = requests.borrow_and_update().epoch;
    let mut search_at = Instant::now();
    // From the events alone: the snapshot may be older than the event that asks for a search.
    let mut is_alive = false;
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            changed = requests.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let request = *requests.borrow_and_update();
                let is_new = epoch != request.epoch;
                epoch = request.epoch;
                plane.locate(&shared.identity(), request.reached, false, is_new).await;
                search_at = after_search();
            }
            event = events.recv() => match event {
                Ok(Event::EchoLost { .. }) => {
                    warn!("the hub's data plane does not echo");
                    is_alive = false;
                    // Full means that the control stream knows already.
                    let _ = kicks.try_send(Kick::Lost);
                    search_at = Instant::now();
                }
                Ok(Event::EchoBack { .. }) => {
                    info!("the hub's data plane echoes");
                    is_alive = true;
                    let _ = kicks.try_send(Kick::Back);
                }
                // Of many events the oldest are lost, so the last word on the echo is not.
                Ok(Event::Handshake { .. } | Event::Roam { .. } | Event::Probed { .. }) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
            () = sleep_until(search_at) => {
                if !is_alive {
                    let is_lost = plane.hub_stats().is_some_and(|stats| stats.endpoint.is_some());
                    plane.locate(&shared.identity(), None, is_lost, false).await;
                }
                search_at = after_search();
            }
        }
    }
}

fn after_search() -> Instant {
    let now = Instant::now();
    now.checked_add(SEARCH_INTERVAL).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_works_is_kept_and_one_that_does_not_makes_room_for_the_next() {
        let [first, second, gone] = [1, 2, 3].map(|last| SocketAddr::from(([192, 0, 2, last], 51820)));
        let found = [first, second];
        assert_eq!(choose(&found, None, false), Some(first));
        assert_eq!(choose(&found, Some(second), false), Some(second));
        assert_eq!(choose(&found, Some(first), true), Some(second));
        assert_eq!(choose(&found, Some(second), true), Some(first));
        assert_eq!(choose(&found, Some(gone), false), Some(first));
        assert_eq!(choose(&[first], Some(first), true), Some(first));
        assert_eq!(choose(&[], Some(first), true), None);
    }
}
