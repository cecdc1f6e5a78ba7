//! The cheap handle through which the rest of the process uses a tunnel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use blueprint_common_tunnel_core::{Config, Endpoint, Event, PeerConfig, Policy, Via};
use blueprint_common_types::{OverlayLease, WgPublicKey};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::carrier::{QuicLimits, SharedSocket};
use crate::command::{Command, StackCommand};
use crate::engine::{Engine, LinkReceiver, LocalSide, Shared};
use crate::error::{BindError, ConnectError, ListenError, UpsertError};
use crate::flow::USER_TIMEOUT;
use crate::interface::Interface;
use crate::kernel::{self, Cuts, KernelFlow, KernelListener, KernelSocket};
use crate::links::{Batch, CarrierKind, LinkIngress, LinkSink};
use crate::listener::Listener;
use crate::snapshot::TunnelSnapshot;
use crate::stream::TcpStream;
use crate::udp::{UdpFlow, UdpSocket};

/// What a tunnel is made from.
#[derive(Debug, Clone)]
pub struct TunnelConfig {
    /// UDP address to bind; port 0 lets the system choose, `[::]` receives IPv4 too.
    pub listen: SocketAddr,
    /// One more UDP address on which plain WireGuard is answered.
    pub listen_also: Option<SocketAddr>,
    /// Where the overlay ends on this machine.
    pub interface: Interface,
    /// Keys, addresses and role.
    pub core: Config,
    /// TCP connections that exist at once. More are refused and counted. Default 4096.
    pub max_flows: usize,
    /// What each of a connection's two buffers may grow to, and so its TCP window. Default 4 MiB, enough for
    /// 300 Mbit/s over 100 ms.
    pub buffer_bytes: usize,
    /// What the buffers of all connections together may grow by beyond 64 KiB each. Default 512 MiB.
    pub growth_bytes: usize,
    /// Connections of one listener that open or wait to be accepted. More are refused and counted. Default 256.
    pub backlog: usize,
}

impl TunnelConfig {
    /// A configuration with the default limits.
    #[must_use]
    pub const fn new(listen: SocketAddr, core: Config) -> Self {
        Self {
            listen,
            listen_also: None,
            interface: Interface::Netstack,
            core,
            max_flows: 4096,
            buffer_bytes: 4 << 20,
            growth_bytes: 512 << 20,
            backlog: 256,
        }
    }
}

/// Handle of a tunnel; clones are the same tunnel.
///
/// The [`Engine`] ends only through its own token, not when the last handle goes. Requests wait
/// while 256 of them are queued.
#[derive(Debug, Clone)]
pub struct Tunnel {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) ends: Arc<Ends>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) snapshot: Arc<ArcSwap<TunnelSnapshot>>,
    pub(crate) local_addr: SocketAddr,
    pub(crate) shared: Arc<Shared>,
    pub(crate) local: LocalSide,
}

/// Who opens and accepts connections over the overlay.
#[derive(Debug)]
pub(crate) enum Ends {
    /// The stack of this process.
    Stack(mpsc::Sender<StackCommand>),
    /// The kernel, through a device.
    Kernel { own: OverlayLease, name: String, cuts: Arc<Cuts> },
}

impl Tunnel {
    /// Binds the UDP sockets, makes the device where there is one, and the engine; nothing happens until [`Engine::run`].
    ///
    /// A network device stands from here on, until the engine and all handles are gone.
    ///
    /// # Errors
    ///
    /// Each variant of [`BindError`] says its case.
    pub fn bind(config: TunnelConfig) -> Result<(Self, Engine), BindError> {
        Engine::bind(config)
    }

    /// Bound UDP address.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// State of the tunnel while the engine runs, at most 250 ms old, or 400 us per peer where those are more.
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

    /// Removes a peer and resets the connections with it; does nothing where there is none.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether the peer is removed.
    pub async fn remove_peer(&self, key: WgPublicKey) {
        match &*self.ends {
            // First, so that the peer still hears of the resets.
            Ends::Stack(commands) => {
                ask(commands, |reply| StackCommand::ResetPeer { key, reply }).await;
            }
            Ends::Kernel { cuts, .. } => {
                let tables = self.shared.tables.load();
                cuts.cut(|remote| tables.holder(remote) == Some(key));
            }
        }
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
    pub async fn set_endpoint(&self, key: WgPublicKey, endpoint: Endpoint) {
        self.ask(|reply| Command::SetEndpoint { key, endpoint, reply }).await;
    }

    /// Moves a peer to a way that has answered a probe: its session and its flows go on.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether the peer is moved.
    pub async fn switch(&self, key: WgPublicKey, endpoint: Endpoint) {
        self.ask(|reply| Command::Switch { key, endpoint, reply }).await;
    }

    /// Begins a handshake through `endpoint`, wherever the peer is; its answer moves the peer there.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether the handshake begins.
    pub async fn greet(&self, key: WgPublicKey, endpoint: Endpoint) {
        self.ask(|reply| Command::Greet { key, endpoint, reply }).await;
    }

    /// Lets QUIC share the socket of [`TunnelConfig::listen_also`]; `None` where there is no such socket, or it is
    /// shared already. Must be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// Those of duplicating the socket and of setting its options.
    pub fn share_port(&self, limits: &QuicLimits) -> std::io::Result<Option<Arc<SharedSocket>>> {
        self.shared.wire.share(limits)
    }

    /// Bound UDP address of [`TunnelConfig::listen_also`].
    #[must_use]
    pub fn carrier_addr(&self) -> Option<SocketAddr> {
        if self.shared.wire.ports() > 1 { self.shared.wire.local_addr(1).ok() } else { None }
    }

    /// Longest datagram that goes to `endpoint`, in bytes; `None` where only the path knows, or the link is gone.
    #[must_use]
    pub fn max_datagram(&self, endpoint: &Endpoint) -> Option<usize> {
        self.shared.wire.max_datagram(endpoint)
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

    /// True where the policy that the packets go by lets one peer begin TCP with another, at this port.
    #[must_use]
    pub fn may_connect(&self, source: &WgPublicKey, destination: &WgPublicKey, port: u16) -> bool {
        self.shared.tables.load().may_connect(source, destination, port)
    }

    /// True where that policy lets one peer begin anything with another.
    #[must_use]
    pub fn may_reach(&self, source: &WgPublicKey, destination: &WgPublicKey) -> bool {
        self.shared.tables.load().may_reach(source, destination)
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
        let commands = match &*self.ends {
            Ends::Stack(commands) => commands,
            Ends::Kernel { own, cuts, .. } => {
                if !self.leads_to(own, remote) {
                    return Err(ConnectError::NoRoute);
                }
                let stream = kernel::connect(own, remote).await?;
                return TcpStream::of_kernel(stream, cuts).map_err(|_| ConnectError::Refused);
            }
        };
        let answer = ask(commands, |reply| StackCommand::Connect { remote, reply }).await;
        let stream = answer.ok_or(ConnectError::Stopped)??;
        if stream.opened().await {
            Ok(stream.into())
        } else if commands.is_closed() {
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
        match &*self.ends {
            Ends::Stack(commands) => {
                let answer = ask(commands, |reply| StackCommand::Listen { port, reply }).await;
                Ok(answer.ok_or(ListenError::Stopped)??.into())
            }
            Ends::Kernel { own, cuts, .. } => {
                Ok(KernelListener::bind(own, port, self.commands.clone(), Arc::clone(cuts))?.into())
            }
        }
    }

    /// Opens UDP `port` of both our overlay addresses.
    ///
    /// # Errors
    ///
    /// Each variant of [`ListenError`] says its case.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the port closed.
    pub async fn listen_udp(&self, port: u16) -> Result<UdpSocket, ListenError> {
        match &*self.ends {
            Ends::Stack(commands) => {
                let answer = ask(commands, |reply| StackCommand::ListenUdp { port, reply }).await;
                Ok(answer.ok_or(ListenError::Stopped)??.into())
            }
            Ends::Kernel { own, .. } => {
                Ok(KernelSocket::bind(own, port, self.mtu(), self.commands.clone())?.into())
            }
        }
    }

    /// Opens a UDP port of the system's choice towards an overlay address; nothing is sent.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NoRoute`], [`ConnectError::Full`], [`ConnectError::Stopped`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the port closed.
    pub async fn connect_udp(&self, remote: SocketAddr) -> Result<UdpFlow, ConnectError> {
        match &*self.ends {
            Ends::Stack(commands) => {
                let answer = ask(commands, |reply| StackCommand::ConnectUdp { remote, reply }).await;
                Ok(answer.ok_or(ConnectError::Stopped)??.into())
            }
            Ends::Kernel { own, .. } => {
                if !self.leads_to(own, remote) {
                    return Err(ConnectError::NoRoute);
                }
                Ok(KernelFlow::connect(own, remote, self.mtu(), self.commands.clone()).await?.into())
            }
        }
    }

    /// True where a peer holds the address.
    fn leads_to(&self, own: &OverlayLease, remote: SocketAddr) -> bool {
        !own.contains(remote.ip()) && self.shared.tables.load().is_routed(remote.ip())
    }

    fn mtu(&self) -> usize {
        self.shared.tables.load().mtu()
    }

    /// Asks whether a packet of `size` bytes comes through to a peer by exactly `endpoint`, and its answer back;
    /// the time that took, or `None` where none came within `timeout`. The peer is not moved.
    ///
    /// # Cancel safety
    ///
    /// Dropping it forgets the question.
    pub async fn probe(
        &self,
        key: WgPublicKey,
        endpoint: Endpoint,
        size: u16,
        timeout: Duration,
    ) -> Option<Duration> {
        let answer = self.ask(|reply| Command::Probe { key, endpoint, size, reply });
        tokio::time::timeout(timeout, answer).await.ok()?
    }

    /// Name of the network device; `None` where the overlay ends in this process.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        match &*self.ends {
            Ends::Stack(_) => None,
            Ends::Kernel { name, .. } => Some(name),
        }
    }

    /// Takes a carrier's connection in; `None` where there are too many.
    #[must_use]
    pub fn attach(&self, kind: CarrierKind, remote: SocketAddr, sink: Arc<dyn LinkSink>) -> Option<Link> {
        let id = self.shared.wire.attach(&sink)?;
        let via = match kind {
            CarrierKind::Quic => Via::Quic(id),
            CarrierKind::Tls => Via::Tls(id),
        };
        let endpoint = Endpoint { via, remote, local: None };
        let tally = Arc::clone(&self.shared.of_links);
        let receiver = Box::new(LinkReceiver::new(Arc::clone(&self.shared), &self.local, 0, tally));
        Some(Link { endpoint, shared: Arc::clone(&self.shared), receiver })
    }

    /// Sends a command and waits for its answer; `None` once the engine has ended.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        ask(&self.commands, command).await
    }
}

async fn ask<C, T>(commands: &mpsc::Sender<C>, command: impl FnOnce(oneshot::Sender<T>) -> C) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.ok()?;
    answer.await.ok()
}

/// A carrier's connection, as the tunnel sees it. Dropping it takes it out.
pub struct Link {
    endpoint: Endpoint,
    shared: Arc<Shared>,
    /// Boxed: a packet thread's workspace is larger than a task should be.
    receiver: Box<LinkReceiver>,
}

impl Link {
    /// Where a peer is that is reached over this connection.
    #[must_use]
    pub const fn endpoint(&self) -> Endpoint {
        self.endpoint
    }
}

impl LinkIngress for Link {
    fn receive(&mut self, batch: &mut Batch) {
        self.receiver.handle_batch(&self.endpoint, batch);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Via::Quic(id) | Via::Tls(id) = self.endpoint.via {
            self.shared.wire.detach(id);
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
