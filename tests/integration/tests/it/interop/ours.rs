//! Our end: the tunnel of hub and agent in this process, its sockets and device on a host of the lab.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use blueprint_common_tunnel::{Interface, Tunnel, TunnelConfig};
use blueprint_common_tunnel_core::{Config, Limits, PeerConfig, PeerStats};
use blueprint_common_types::{Secret, WgPrivateKey, WgPublicKey, fill_random};
use blueprint_tests_support::Host;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{End, MTU, PORT, prefixes};

/// What our end is made from.
#[derive(Debug, Clone)]
pub(super) struct Make {
    pub(super) end: End,
    pub(super) interface: Interface,
    pub(super) limits: Limits,
}

/// A running tunnel of ours. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Ours<'h> {
    pub(super) tunnel: Tunnel,
    pub(super) runtime: Runtime,
    pub(super) host: &'h Host,
    end: End,
    key: WgPrivateKey,
    stop: CancellationToken,
    engine: Option<JoinHandle<()>>,
}

impl<'h> Ours<'h> {
    /// Binds and runs one.
    pub(super) fn start(host: &'h Host, make: &Make) -> Result<Self> {
        let key = WgPrivateKey::random()?;
        let mut seed = [0; 32];
        fill_random(&mut seed)?;
        let core = Config {
            private_key: key.clone(),
            addresses: make.end.lease(),
            prefixes: prefixes()?,
            role: make.end.role(),
            mtu: MTU,
            limits: make.limits,
            answers_echoes: true,
            own_rules: None,
            seed,
        };
        let mut config = TunnelConfig::new(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)), core);
        config.interface = make.interface.clone();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (tunnel, engine) = host.enter(|| Tunnel::bind(config))??;
        let stop = CancellationToken::new();
        let engine = Some(runtime.spawn(engine.run(stop.clone())));
        Ok(Self { tunnel, runtime, host, end: make.end, key, stop, engine })
    }

    /// Its public key.
    pub(super) fn key(&self) -> WgPublicKey {
        self.key.public_key()
    }

    /// Tells it of the other end, which it dials if it is a spoke and knows where.
    pub(super) fn meet(
        &self,
        theirs: WgPublicKey,
        at: Option<SocketAddr>,
        preshared_key: Option<[u8; 32]>,
        keepalive: Option<Duration>,
    ) -> Result<()> {
        let allowed = self.end.other().allowed();
        let peer = PeerConfig {
            public_key: theirs,
            allowed_ips: allowed.iter().map(|prefix| prefix.parse()).collect::<Result<_, _>>()?,
            endpoint: at.map(Into::into),
            preshared_key: preshared_key.map(Secret::new),
            keepalive,
        };
        Ok(self.runtime.block_on(self.tunnel.upsert_peer(peer))?)
    }

    /// Begins a handshake at once.
    pub(super) fn dial(&self, theirs: WgPublicKey) {
        self.runtime.block_on(self.tunnel.start_handshake(theirs));
    }

    /// Handshakes completed so far.
    pub(super) fn handshakes(&self) -> u64 {
        self.tunnel.snapshot().stats.handshakes
    }

    /// What it knows of its peer.
    pub(super) fn peer(&self) -> Result<PeerStats> {
        self.tunnel.snapshot().peers.values().next().copied().context("there is no peer")
    }

    /// How often something was refused for `reason`.
    pub(super) fn dropped(&self, reason: &str) -> u64 {
        self.tunnel.snapshot().discards.get(reason).copied().unwrap_or(0)
    }
}

impl Drop for Ours<'_> {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(engine) = self.engine.take() {
            let _ = self.runtime.block_on(engine);
        }
    }
}
