//! A UDP socket that QUIC shares with plain WireGuard.
//!
//! The engine owns the reading side: it hands over with [`SharedSocket::offer`] whatever
//! [`is_wireguard`](crate::carrier::is_wireguard) says is not for it, on the thread of the first links once there are some. The
//! sending side needs no order between the two, so QUIC sends on the same socket by itself. Connections that are no links
//! may come here, too: a [`NeighbourSocket`] reads those.

mod lane;
mod neighbour;

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, EndpointConfig, UdpPoller};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use self::lane::Lane;
use self::neighbour::{BothIds, Whose};
use super::QuicLimits;
use super::thread::LinkThread;
use super::transport::RECEIVE_BYTES;

pub use self::neighbour::{NeighbourSide, NeighbourSocket};

/// The side of a shared socket that QUIC uses.
pub struct SharedSocket {
    socket: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    local: SocketAddr,
    receive_segments: usize,
    /// What waits for the endpoint of links.
    links: Lane,
    /// Who else reads, if somebody does.
    neighbour: OnceLock<Arc<NeighbourSide>>,
    ids: BothIds,
    /// Where the endpoint of links is.
    reader: OnceLock<Arc<LinkThread>>,
    /// True from a send call that would have blocked until the socket says that one may be tried.
    is_blocked: AtomicBool,
}

impl SharedSocket {
    /// Takes a duplicate of the engine's socket, already bound, inside a tokio runtime.
    ///
    /// It sets options that both users of the socket then have: non-blocking, GRO, packet
    /// information, the ECN bits as control messages, and no fragmentation. So the engine has to
    /// wait for it, and its control buffer needs room for them (128 bytes are enough).
    ///
    /// # Errors
    ///
    /// Those of setting options and of registering with the runtime.
    pub fn new(socket: UdpSocket, limits: &QuicLimits) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?;
        // Only for writing: what arrives must not wake the runtime, it is not read here.
        #[expect(deprecated, reason = "it is unsound for what does not own its descriptor; a socket does")]
        let socket = AsyncFd::with_interest(socket, Interest::WRITABLE)?;
        Ok(Self {
            socket,
            state,
            local,
            receive_segments: RECEIVE_BYTES.div_ceil(limits.receive_payload()),
            links: Lane::default(),
            neighbour: OnceLock::new(),
            ids: BothIds::new()?,
            reader: OnceLock::new(),
            is_blocked: AtomicBool::new(false),
        })
    }

    /// Hands over a run of datagrams of `stride` bytes each (the last may be shorter) that came from
    /// `remote` to `local` with these ECN bits of the IP header.
    ///
    /// False where there is no room: the run is dropped and counted. Never blocks for long.
    pub fn offer(
        &self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        ecn: u8,
        datagrams: &[u8],
        stride: usize,
    ) -> bool {
        let meta = RecvMeta {
            addr: SocketAddr::new(self.as_spelled(remote.ip()), remote.port()),
            len: datagrams.len(),
            stride: stride.clamp(1, datagrams.len().max(1)),
            ecn: EcnCodepoint::from_bits(ecn & 0b11),
            dst_ip: local.map(|ip| self.as_spelled(ip)),
        };
        match self.neighbour.get().filter(|neighbour| neighbour.is_open()) {
            None => self.links.push(meta, datagrams, false),
            Some(neighbour) => self.divide(neighbour, meta, datagrams),
        }
    }

    /// Gives each datagram of a run to whom it is for, as many as possible at once.
    fn divide(&self, neighbour: &NeighbourSide, meta: RecvMeta, datagrams: &[u8]) -> bool {
        let (mut rest, mut has_room) = (datagrams, true);
        while !rest.is_empty() {
            let mut all = rest.chunks(meta.stride).map(|datagram| self.ids.whose(datagram));
            let whose = all.next().unwrap_or(Whose::Neighbour);
            // First packets are looked at one by one.
            let more =
                if whose == Whose::First { 0 } else { all.take_while(|other| *other == whose).count() };
            let length = meta.stride.saturating_mul(more.saturating_add(1)).min(rest.len());
            let (run, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            let lane = if whose == Whose::Links { &self.links } else { &neighbour.lane };
            has_room &= lane.push(RecvMeta { len: run.len(), ..meta }, run, whose == Whose::First);
            rest = after;
        }
        has_room
    }

    /// Lets connections that are no links come to this socket as well; `None` where somebody has that already.
    ///
    /// From now on first packets are told apart by the protocol that they offer.
    #[must_use]
    pub fn neighbour(self: &Arc<Self>) -> Option<Arc<NeighbourSocket>> {
        let side = Arc::<NeighbourSide>::default();
        let socket = NeighbourSocket::new(Arc::clone(self), Arc::clone(&side))?;
        // Before it is set, nothing waits in it.
        self.neighbour.set(side).is_ok().then(|| Arc::new(socket))
    }

    /// Has the socket read on this thread, which the endpoint of links is on, for as long as the socket is there.
    pub(super) fn read_on(&self, thread: &Arc<LinkThread>) {
        // Another server of the same socket hears of it from there.
        let _ = self.reader.set(Arc::clone(thread));
    }

    /// The thread to read the socket on; `None` before there is a server.
    pub(crate) fn reader(&self) -> Option<&Arc<LinkThread>> {
        self.reader.get()
    }

    /// Has the endpoint of links make ids by which its datagrams are known.
    pub(super) fn name_links(&self, endpoint: &mut EndpointConfig) {
        self.ids.links.name(endpoint);
    }

    /// Datagrams of links dropped since the start because too many waited.
    pub fn dropped(&self) -> u64 {
        self.links.dropped()
    }

    /// An address as the socket's family spells it.
    fn as_spelled(&self, ip: IpAddr) -> IpAddr {
        match ip {
            IpAddr::V4(v4) if self.local.is_ipv6() => v4.to_ipv6_mapped().into(),
            IpAddr::V4(_) | IpAddr::V6(_) => ip,
        }
    }
}

impl fmt::Debug for SharedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSocket").field("local", &self.local).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for SharedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, wait: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.socket.try_io(Interest::WRITABLE, |socket| self.state.send(socket.into(), transmit));
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.is_blocked.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut arrivals = self.links.lock();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some(run) = arrivals.pop() else { break };
            let bytes = run.put(buffer, meta);
            arrivals.reuse(bytes);
            count += 1;
        }
        if count == 0 {
            arrivals.wait(context);
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.receive_segments
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

type Wait = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// One connection's wait for the socket; costs nothing while the socket takes everything.
struct Writable {
    socket: Arc<SharedSocket>,
    wait: Option<Wait>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.wait.is_none() && !self.socket.is_blocked.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let socket = Arc::clone(&self.socket);
        let wait = self.wait.get_or_insert_with(|| {
            Box::pin(async move {
                socket.socket.writable().await?.retain_ready();
                socket.is_blocked.store(false, Ordering::Relaxed);
                Ok(())
            })
        });
        let outcome = wait.as_mut().poll(context);
        if outcome.is_ready() {
            self.wait = None;
        }
        outcome
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").field("socket", &self.socket).finish_non_exhaustive()
    }
}
