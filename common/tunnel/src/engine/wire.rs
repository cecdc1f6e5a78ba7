//! The way out for datagrams: UDP sockets by number, and the links of other carriers.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use blueprint_common_tunnel_core::{Endpoint, LinkId, Via};

use crate::carrier::{QuicLimits, SharedSocket};
use crate::links::LinkSink;
use crate::sys::udp::{UdpSocket, dropped};

/// Links that exist at once; each is a connection of a machine that proved who it is.
const LINKS_MAX: usize = 65_536;

/// Everything that datagrams leave through.
pub(crate) struct Wire {
    /// By port and then by shard: 0 is the tunnel's own port.
    ports: Vec<Vec<UdpSocket>>,
    links: ArcSwap<HashMap<LinkId, Arc<dyn LinkSink>>>,
    next_link: AtomicU32,
    /// QUIC's side of the second port.
    quic: OnceLock<Arc<SharedSocket>>,
    errors: WireErrors,
}

/// What was lost since the start.
#[derive(Debug, Default)]
pub(crate) struct WireErrors {
    /// Datagrams that the kernel refused or had no room for.
    pub(crate) udp_send: AtomicU64,
    /// Failed receive calls.
    pub(crate) udp_receive: AtomicU64,
    /// Datagrams that a link had no room for, or that were for a link that is gone.
    pub(crate) link_send: AtomicU64,
}

impl Wire {
    pub(crate) fn new(ports: Vec<Vec<UdpSocket>>) -> Self {
        Self {
            ports,
            links: ArcSwap::default(),
            next_link: AtomicU32::new(1),
            quic: OnceLock::new(),
            errors: WireErrors::default(),
        }
    }

    /// Shares the second port with QUIC; `None` where there is none, or it is shared already.
    pub(crate) fn share(&self, limits: &QuicLimits) -> io::Result<Option<Arc<SharedSocket>>> {
        let Some(socket) = self.ports.get(1).and_then(|shards| shards.first()) else { return Ok(None) };
        let shared = Arc::new(SharedSocket::new(socket.share()?, limits)?);
        Ok(self.quic.set(Arc::clone(&shared)).is_ok().then_some(shared))
    }

    /// QUIC's side of the second port.
    pub(crate) fn quic(&self) -> Option<&Arc<SharedSocket>> {
        self.quic.get()
    }

    pub(crate) const fn errors(&self) -> &WireErrors {
        &self.errors
    }

    /// Datagrams that the queues of our sockets had no room for.
    pub(crate) fn overflown(&self) -> u64 {
        self.ports.iter().flatten().map(dropped).fold(0, u64::saturating_add)
    }

    pub(crate) fn ports(&self) -> usize {
        self.ports.len()
    }

    /// The socket of a port that one shard reads; a port that we do not have is the tunnel's own.
    pub(crate) fn socket(&self, port: usize, shard: usize) -> Option<&UdpSocket> {
        let sockets = self.ports.get(port).or_else(|| self.ports.first())?;
        sockets.get(shard.checked_rem(sockets.len())?)
    }

    /// Sends `datagrams` of `segment` bytes each, the last may be shorter. What cannot be sent is dropped and
    /// counted, as a network would do it. With `patience` a full socket is waited for, and a full link as long as it says.
    pub(crate) fn send(
        &self,
        shard: usize,
        to: &Endpoint,
        datagrams: &[u8],
        segment: usize,
        patience: Duration,
    ) {
        let (lost, counter) = match to.via {
            Via::Udp(port) => (
                self.send_udp(shard, port, to, datagrams, segment, !patience.is_zero()),
                &self.errors.udp_send,
            ),
            Via::Quic(link) | Via::Tls(link) => {
                let lost = match self.links.load().get(&link) {
                    Some(sink) => sink.send_within(datagrams, segment, patience),
                    None => datagrams.len().div_ceil(segment.max(1)),
                };
                (lost, &self.errors.link_send)
            }
        };
        if lost > 0 {
            counter.fetch_add(u64::try_from(lost).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    fn send_udp(
        &self,
        shard: usize,
        port: u8,
        to: &Endpoint,
        datagrams: &[u8],
        segment: usize,
        wait: bool,
    ) -> usize {
        let all = datagrams.len().div_ceil(segment.max(1));
        let Some(socket) = self.socket(port.into(), shard) else { return all };
        socket.send(datagrams, segment, to.remote, to.local, wait).unwrap_or(all)
    }

    /// Longest datagram that goes to an endpoint; `None` where only the path knows.
    pub(crate) fn max_datagram(&self, to: &Endpoint) -> Option<usize> {
        match to.via {
            Via::Udp(_) => None,
            Via::Quic(link) | Via::Tls(link) => Some(self.links.load().get(&link)?.max_datagram()),
        }
    }

    /// Takes a link in; `None` where there are too many.
    pub(crate) fn attach(&self, sink: &Arc<dyn LinkSink>) -> Option<LinkId> {
        if self.links.load().len() >= LINKS_MAX {
            return None;
        }
        let id = LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
        self.links.rcu(|links| {
            let mut links = HashMap::clone(links);
            links.insert(id, Arc::clone(sink));
            links
        });
        Some(id)
    }

    pub(crate) fn detach(&self, id: LinkId) {
        self.links.rcu(|links| {
            let mut links = HashMap::clone(links);
            links.remove(&id);
            links
        });
    }

    /// Ends the waits that threads at our sockets are in; false where none is there any more.
    pub(crate) fn interrupt(&self) -> bool {
        self.ports.iter().flatten().filter(|socket| socket.interrupt()).count() > 0
    }

    /// Number of links.
    pub(crate) fn links(&self) -> usize {
        self.links.load().len()
    }

    /// Bound address of a port.
    pub(crate) fn local_addr(&self, port: usize) -> io::Result<SocketAddr> {
        self.socket(port, 0).ok_or(io::ErrorKind::NotFound)?.local_addr()
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("ports", &self.ports.len()).field("links", &self.links()).finish()
    }
}
