//! Sends what quinn sends in tens in as few calls as the kernel allows.
//!
//! quinn fills at most ten datagrams for one call. A call costs more than all it does for its datagrams, and so does what
//! it sets off at the receiver, so full tens are held until the next ones fill the call, a shorter one shows that nothing
//! follows, or the connection's turn is over and it flushes. Order within a destination stays.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// Bytes of one call at most: what an IPv4 datagram may hold, less what options would take.
const CALL_BYTES_MAX: usize = 65_000;
/// A transmit of so many full datagrams says that more may follow: quinn's own bound of one.
const FULL_SEGMENTS: usize = 10;
/// Destinations held for at one time where many share a socket; others that fall on one push each other out.
const PLACES: usize = 16;

/// A socket of quinn's, with calls of up to 64 datagrams.
#[derive(Debug)]
pub(super) struct Coalescing {
    inner: Arc<dyn AsyncUdpSocket>,
    places: Vec<Mutex<Held>>,
    hasher: RandomState,
}

/// Datagrams that wait for others of the same way and length.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    way: Option<Way>,
    segment: usize,
}

/// What one call has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    source: Option<IpAddr>,
}

impl Coalescing {
    /// Wraps the socket of one connection.
    pub(super) fn for_one(inner: Arc<dyn AsyncUdpSocket>) -> Arc<Self> {
        Self::new(inner, 1)
    }

    /// The same for a socket that many connections share.
    pub(super) fn for_many(inner: Arc<dyn AsyncUdpSocket>) -> Arc<Self> {
        Self::new(inner, PLACES)
    }

    fn new(inner: Arc<dyn AsyncUdpSocket>, places: usize) -> Arc<Self> {
        let places = std::iter::repeat_with(Mutex::default).take(places).collect();
        Arc::new(Self { inner, places, hasher: RandomState::new() })
    }

    fn place(&self, destination: SocketAddr) -> Option<&Mutex<Held>> {
        let at = match self.places.len() {
            0 | 1 => 0,
            count => {
                let count = u64::try_from(count).unwrap_or(u64::MAX);
                usize::try_from(self.hasher.hash_one(destination) % count).unwrap_or(0)
            }
        };
        self.places.get(at)
    }

    /// Bytes that wait, in all places.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.places.iter().map(|place| place.lock().bytes.len()).sum()
    }

    /// Sends all that waits.
    fn send_all(&self) -> io::Result<()> {
        self.places.iter().try_for_each(|place| place.lock().send(&*self.inner))
    }

    /// Sends what waits for a destination; `Pending` while the socket would block, with `poller` waiting for it.
    pub(super) fn poll_flush(
        &self,
        destination: SocketAddr,
        poller: &mut Option<Pin<Box<dyn UdpPoller>>>,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(place) = self.place(destination) else { return Poll::Ready(()) };
        loop {
            match place.lock().send(&*self.inner) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // What could not be sent is gone, as with any other call; quinn hears of it with the next.
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
            let poller = poller.get_or_insert_with(|| Arc::clone(&self.inner).create_io_poller());
            // A socket that fails says so to quinn, too.
            let _ = ready!(poller.as_mut().poll_writable(context));
        }
    }
}

impl Held {
    /// Whether `transmit` can go in the same call.
    fn takes(&self, transmit: &Transmit<'_>, segments_max: usize) -> bool {
        let length = self.bytes.len().saturating_add(transmit.contents.len());
        let is_alike = match transmit.segment_size {
            Some(segment) => segment == self.segment,
            None => transmit.contents.len() <= self.segment,
        };
        self.way == Some(Way::of(transmit))
            && is_alike
            && self.bytes.len().is_multiple_of(self.segment)
            && length <= CALL_BYTES_MAX.min(self.segment.saturating_mul(segments_max))
    }

    fn add(&mut self, transmit: &Transmit<'_>) {
        if self.bytes.is_empty() {
            self.way = Some(Way::of(transmit));
            self.segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        }
        self.bytes.extend_from_slice(transmit.contents);
    }

    /// Sends what waits; keeps it where the socket would block.
    fn send(&mut self, socket: &dyn AsyncUdpSocket) -> io::Result<()> {
        let Some(way) = self.way else { return Ok(()) };
        // The kernel may have refused the offload since: then one by one.
        let has_offload = socket.max_transmit_segments() > 1;
        let length = if has_offload { self.bytes.len() } else { self.segment };
        let (mut taken, mut sent) = (0, Ok(()));
        for contents in self.bytes.chunks(length.max(1)) {
            let segment_size = (contents.len() > self.segment).then_some(self.segment);
            let Way { destination, ecn, source: src_ip } = way;
            sent = socket.try_send(&Transmit { destination, ecn, contents, segment_size, src_ip });
            if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
            taken += contents.len();
        }
        self.bytes.drain(..taken);
        if self.bytes.is_empty() {
            self.way = None;
        }
        sent
    }
}

impl Way {
    const fn of(transmit: &Transmit<'_>) -> Self {
        Self { destination: transmit.destination, ecn: transmit.ecn, source: transmit.src_ip }
    }
}

/// Whether quinn filled all that it fills for one call.
fn is_full(transmit: &Transmit<'_>) -> bool {
    transmit.segment_size.is_some_and(|segment| {
        transmit.contents.len() >= segment.saturating_mul(FULL_SEGMENTS)
            && transmit.contents.len().is_multiple_of(segment)
    })
}

impl AsyncUdpSocket for Coalescing {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segments_max = self.inner.max_transmit_segments();
        let Some(place) = self.place(transmit.destination) else { return self.inner.try_send(transmit) };
        let mut held = place.lock();
        if !held.takes(transmit, segments_max) {
            held.send(&*self.inner)?;
        }
        let is_full = is_full(transmit) && segments_max > FULL_SEGMENTS;
        if held.bytes.is_empty() && !is_full {
            return self.inner.try_send(transmit);
        }
        held.add(transmit);
        if !is_full || !held.takes(transmit, segments_max) {
            match held.send(&*self.inner) {
                // It is taken, and flushed once the socket takes something.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return sent,
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl Drop for Coalescing {
    fn drop(&mut self) {
        let _ = self.send_all();
    }
}

#[cfg(test)]
mod tests;
