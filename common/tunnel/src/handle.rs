//! The cheap handle through which the rest of the process uses a tunnel.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use blueprint_common_tunnel_core::{Config, Event, PeerConfig, Policy};
use blueprint_common_types::WgPublicKey;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::command::Command;
use crate::engine::Engine;
use crate::error::{ConnectError, ListenError, UpsertError};
use crate::flow::USER_TIMEOUT;
use crate::listener::Listener;
use crate::snapshot::TunnelSnapshot;
use crate::stream::TcpStream;

/// What a tunnel is made from.
#[derive(Debug, Clone)]
pub struct TunnelConfig {
    /// UDP address to bind; port 0 lets the system choose, `[::]` receives IPv4 too.
    pub listen: SocketAddr,
    /// Keys, addresses and role.
    pub core: Config,
    /// TCP connections that exist at once. More are refused and counted. Default 4096.
    pub max_flows: usize,
    /// Size of each of a connection's two buffers, and so of its TCP window. Default 256 KiB.
    pub buffer_bytes: usize,
    /// Connections of one listener that open or wait to be accepted. More are refused and counted. Default 256.
    pub backlog: usize,
}

impl TunnelConfig {
    /// A configuration with the default limits.
    #[must_use]
    pub const fn new(listen: SocketAddr, core: Config) -> Self {
        Self { listen, core, max_flows: 4096, buffer_bytes: 256 << 10, backlog: 256 }
    }
}

/// Handle of a tunnel; clones are the same tunnel.
///
/// The [`Engine`] ends only through its own token, not when the last handle goes. Requests wait
/// while 256 of them are queued.
#[derive(Debug, Clone)]
pub struct Tunnel {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) snapshot: Arc<ArcSwap<TunnelSnapshot>>,
    pub(crate) local_addr: SocketAddr,
}

impl Tunnel {
    /// Binds the UDP socket and makes the engine; nothing happens until [`Engine::run`].
    ///
    /// Must be called inside a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    ///
    /// Those of binding, or where the system has no randomness.
    pub fn bind(config: TunnelConfig) -> io::Result<(Self, Engine)> {
        Engine::bind(config)
    }

    /// Bound UDP address.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// State of the tunnel, at most 250 ms old while the engine runs.
    #[must_use]
    pub fn snapshot(&self) -> Arc<TunnelSnapshot> {
        self.snapshot.load_full()
    }

    /// Events from now on. A receiver that falls 1024 behind loses the oldest and is told so.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Adds a peer or changes it.
    ///
    /// # Errors
    ///
    /// What the core refuses; [`UpsertError::Stopped`] once the engine has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether the peer is changed.
    pub async fn upsert_peer(&self, peer: PeerConfig) -> Result<(), UpsertError> {
        let peer = Box::new(peer);
        let answer = self.ask(|reply| Command::UpsertPeer { peer, reply }).await;
        Ok(answer.ok_or(UpsertError::Stopped)??)
    }

    /// Removes a peer; does nothing where there is none.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether the peer is removed.
    pub async fn remove_peer(&self, key: WgPublicKey) {
        self.ask(|reply| Command::RemovePeer { key, reply }).await;
    }

    /// Begins a handshake at once, whatever the state of the session.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether the handshake begins.
    pub async fn start_handshake(&self, key: WgPublicKey) {
        self.ask(|reply| Command::StartHandshake { key, reply }).await;
    }

    /// Says at which outer address a peer is.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether the endpoint is set.
    pub async fn set_endpoint(&self, key: WgPublicKey, endpoint: SocketAddr) {
        self.ask(|reply| Command::SetEndpoint { key, endpoint, reply }).await;
    }

    /// Accepts handshakes of a peer again whose clock went back; false where there is no such peer.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether that happens.
    pub async fn reset_replay_floor(&self, key: WgPublicKey) -> bool {
        self.ask(|reply| Command::ResetReplayFloor { key, reply }).await.unwrap_or(false)
    }

    /// Says which spokes may send to which.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether the policy holds.
    pub async fn set_policy(&self, policy: Policy) {
        self.ask(|reply| Command::SetPolicy { policy, reply }).await;
    }

    /// Opens a TCP connection to an overlay address within `timeout` (more than 60 s count as 60 s).
    ///
    /// # Errors
    ///
    /// Each variant of [`ConnectError`] says its case.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends the attempt.
    pub async fn connect(&self, remote: SocketAddr, timeout: Duration) -> Result<TcpStream, ConnectError> {
        let timeout = timeout.min(USER_TIMEOUT);
        tokio::time::timeout(timeout, self.open(remote)).await.unwrap_or(Err(ConnectError::TimedOut))
    }

    async fn open(&self, remote: SocketAddr) -> Result<TcpStream, ConnectError> {
        let began_at = Instant::now();
        let answer = self.ask(|reply| Command::Connect { remote, reply }).await;
        let stream = answer.ok_or(ConnectError::Stopped)??;
        if stream.opened().await {
            Ok(stream)
        } else if self.commands.is_closed() {
            Err(ConnectError::Stopped)
        } else if began_at.elapsed() >= USER_TIMEOUT {
            Err(ConnectError::TimedOut)
        } else {
            Err(ConnectError::Refused)
        }
    }

    /// Accepts connections on `port` of both our overlay addresses.
    ///
    /// # Errors
    ///
    /// Each variant of [`ListenError`] says its case.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the port closed.
    pub async fn listen(&self, port: u16) -> Result<Listener, ListenError> {
        self.ask(|reply| Command::Listen { port, reply }).await.ok_or(ListenError::Stopped)?
    }

    /// Sends a command and waits for its answer; `None` once the engine has ended.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}
