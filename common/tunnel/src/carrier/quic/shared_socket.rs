//! A UDP socket that QUIC shares with plain WireGuard.
//!
//! The engine's receive thread owns the reading side: it hands over with [`SharedSocket::offer`]
//! whatever [`is_wireguard`](crate::carrier::is_wireguard) says is not for it. The sending side needs
//! no order between the two, so QUIC sends on the same socket by itself.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::QuicLimits;
use super::transport::RECEIVE_BYTES;

/// Bytes that wait for QUIC's task, as many as the buffer of the socket itself.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Runs that wait for it; each is one receive call's.
const WAITING_RUNS_MAX: usize = 1024;
/// Empty buffers kept for the next runs.
const SPARE_MAX: usize = 32;

/// The side of a shared socket that QUIC uses.
pub struct SharedSocket {
    socket: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    local: SocketAddr,
    receive_segments: usize,
    arrivals: Mutex<Arrivals>,
    /// True from a send call that would have blocked until the socket says that one may be tried.
    is_blocked: AtomicBool,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Arrivals {
    runs: VecDeque<(RecvMeta, Vec<u8>)>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
    reader: Option<Waker>,
}

impl SharedSocket {
    /// Takes a duplicate of the engine's socket, already bound, inside a tokio runtime.
    ///
    /// It sets options that both users of the socket then have: non-blocking, GRO, packet
    /// information, the ECN bits as control messages, and no fragmentation. So the engine has to
    /// wait with `poll`, and its control buffer needs room for them (128 bytes are enough).
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
            arrivals: Mutex::default(),
            is_blocked: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
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
        let reader = {
            let mut arrivals = self.arrivals.lock();
            let has_room = arrivals.bytes + datagrams.len() <= WAITING_BYTES_MAX
                && arrivals.runs.len() < WAITING_RUNS_MAX
                && datagrams.len() <= RECEIVE_BYTES;
            if !has_room {
                drop(arrivals);
                let count = datagrams.len().div_ceil(stride.max(1));
                self.dropped.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
                return false;
            }
            let mut run = arrivals.spare.pop().unwrap_or_default();
            run.extend_from_slice(datagrams);
            arrivals.bytes += datagrams.len();
            arrivals.runs.push_back((meta, run));
            arrivals.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    /// Datagrams dropped since the start because too many waited.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
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

impl Arrivals {
    /// Moves the oldest run into `buffer`.
    fn take(&mut self, buffer: &mut [u8]) -> Option<RecvMeta> {
        let (meta, mut run) = self.runs.pop_front()?;
        self.bytes -= run.len();
        // quinn's buffers hold the largest run (`max_receive_segments`).
        if let Some(room) = buffer.get_mut(..run.len()) {
            room.copy_from_slice(&run);
        }
        if self.spare.len() < SPARE_MAX {
            run.clear();
            self.spare.push(run);
        }
        Some(meta)
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
        let mut arrivals = self.arrivals.lock();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some(taken) = arrivals.take(buffer) else { break };
            *meta = taken;
            count += 1;
        }
        if count == 0 {
            arrivals.reader = Some(context.waker().clone());
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
