//! The side of a shared socket that is for connections which are no links, such as HTTP/3.
//!
//! Two endpoints of the library read one socket, so that each has transport parameters, limits and congestion control of
//! its own. Whose a datagram is:
//!
//! ```text
//!   for an id that the links' endpoint made       -> links
//!   for an id that the neighbour's endpoint made  -> neighbour
//!   first packet of a connection                  -> read here: ALPN of links -> links, else neighbour
//!   anything else                                 -> neighbour, which answers or drops it
//! ```
//!
//! The first three need no memory of connections: an id holds a check that only the key of its endpoint makes. First
//! packets are read in the neighbour's task, never in the packet threads: keys for them cost some microseconds.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use blueprint_common_types::fill_random;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, UdpPoller};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, HashedConnectionIdGenerator};

use super::lane::{Lane, Run};
use super::{RECEIVE_BYTES, SharedSocket};
use crate::carrier::quic::first::{Asked, FirstPackets, OWN_ID_BYTES, destination, is_first};

/// First packets that are read before others get a turn.
const FIRSTS_AT_ONCE: usize = 16;
/// Largest UDP payload that the neighbour takes, the library's own default.
const RECEIVE_PAYLOAD: usize = 1472;

/// Whose a datagram is, as far as its head tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Links,
    Neighbour,
    /// It begins a connection.
    First,
}

/// Makes connection ids, and knows them again.
pub(super) struct Ids {
    key: u64,
    generator: HashedConnectionIdGenerator,
}

impl Ids {
    fn new() -> io::Result<Self> {
        let mut key = [0; 8];
        fill_random(&mut key)?;
        let key = u64::from_ne_bytes(key);
        Ok(Self { key, generator: HashedConnectionIdGenerator::from_key(key) })
    }

    /// Has an endpoint make its ids here.
    pub(super) fn name(&self, endpoint: &mut EndpointConfig) {
        let key = self.key;
        endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
    }

    fn made(&self, id: &[u8]) -> bool {
        id.len() == OWN_ID_BYTES && self.generator.validate(&ConnectionId::new(id)).is_ok()
    }
}

/// The ids of both sides.
pub(super) struct BothIds {
    pub(super) links: Ids,
    neighbour: Ids,
}

impl BothIds {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { links: Ids::new()?, neighbour: Ids::new()? })
    }

    pub(super) fn whose(&self, datagram: &[u8]) -> Whose {
        match destination(datagram) {
            Some(id) if self.links.made(id) => Whose::Links,
            Some(id) if self.neighbour.made(id) => Whose::Neighbour,
            Some(_) | None if is_first(datagram) => Whose::First,
            Some(_) | None => Whose::Neighbour,
        }
    }
}

/// What waits for the neighbour, and what it lost.
#[derive(Default)]
pub struct NeighbourSide {
    pub(super) lane: Lane,
    is_over: AtomicBool,
    unreadable: AtomicU64,
}

impl NeighbourSide {
    /// Whether the neighbour still reads.
    pub(super) fn is_open(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// Datagrams dropped since the start because too many waited.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lane.dropped()
    }

    /// First packets dropped since the start because no server could read them.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for NeighbourSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NeighbourSide").field("lost", &self.lost()).finish_non_exhaustive()
    }
}

/// A shared socket as the neighbour reads it. When it is dropped, everything is for the links again.
#[derive(Debug)]
pub struct NeighbourSocket {
    shared: Arc<SharedSocket>,
    side: Arc<NeighbourSide>,
    firsts: FirstPackets,
}

impl NeighbourSocket {
    pub(super) fn new(shared: Arc<SharedSocket>, side: Arc<NeighbourSide>) -> Option<Self> {
        Some(Self { shared, side, firsts: FirstPackets::new()? })
    }

    /// An endpoint on this socket that accepts by `config`; runs on the current tokio runtime.
    ///
    /// There may be one.
    ///
    /// # Errors
    ///
    /// Those of the library.
    pub fn endpoint(self: &Arc<Self>, config: ServerConfig) -> io::Result<Endpoint> {
        let mut endpoint = EndpointConfig::default();
        // That bit tells QUIC from WireGuard here (see `is_wireguard`).
        endpoint.grease_quic_bit(false);
        self.shared.ids.neighbour.name(&mut endpoint);
        let socket = Arc::<Self>::clone(self);
        Endpoint::new_with_abstract_socket(endpoint, Some(config), socket, Arc::new(TokioRuntime))
    }

    /// The next run that is the neighbour's; first packets of links go to these on the way. `None` where nothing waits,
    /// or `firsts` of them were read.
    fn next(&self, firsts: &mut usize) -> Option<Run> {
        while *firsts > 0 {
            let run = self.side.lane.lock().pop()?;
            if !run.is_first {
                return Some(run);
            }
            *firsts = firsts.saturating_sub(1);
            match self.firsts.read(&run.bytes) {
                Asked::Other => return Some(run),
                // What finds no room is lost, and counted there.
                Asked::Link => {
                    self.shared.links.push(run.meta, &run.bytes, false);
                }
                Asked::Broken => {
                    self.side.unreadable.fetch_add(1, Ordering::Relaxed);
                }
            }
            self.side.lane.lock().reuse(run.bytes);
        }
        None
    }

    /// What waits and what was lost.
    #[must_use]
    pub fn side(&self) -> Arc<NeighbourSide> {
        Arc::clone(&self.side)
    }
}

impl Drop for NeighbourSocket {
    fn drop(&mut self) {
        self.side.is_over.store(true, Ordering::Relaxed);
        self.side.lane.lock().clear();
    }
}

impl AsyncUdpSocket for NeighbourSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.shared).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.shared.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (mut count, mut firsts) = (0_usize, FIRSTS_AT_ONCE);
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some(run) = self.next(&mut firsts) else { break };
            let bytes = run.put(buffer, meta);
            self.side.lane.lock().reuse(bytes);
            count = count.saturating_add(1);
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        let mut arrivals = self.side.lane.lock();
        if arrivals.is_empty() {
            arrivals.wait(context);
        } else {
            // More first packets wait, or something came just now.
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.shared.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        RECEIVE_BYTES.div_ceil(RECEIVE_PAYLOAD)
    }

    fn may_fragment(&self) -> bool {
        self.shared.may_fragment()
    }
}
