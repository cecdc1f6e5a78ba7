//! UDP by the stack of this process: bound ports, connected flows, and the queues between them and the netstack.
//!
//! - A queue holds 1024 datagrams or 256 KiB, what comes first. What arrives at a full one is dropped and
//!   counted; who sends into a full one waits.
//! - A datagram is never cut into fragments: what does not fit the tunnel's MTU is refused.
//! - The lock of a port is never held across an `.await`.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use blueprint_common_types::OverlayLease;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::coop::consume_budget;

use crate::error::UdpError;
use crate::flow::{Bell, FlowId};

const QUEUE_DATAGRAMS: usize = 1024;
const QUEUE_BYTES: usize = 256 << 10;
/// IPv4 and UDP headers, in bytes (RFC 791, RFC 768).
pub(crate) const OVERHEAD_V4: usize = 28;
/// IPv6 and UDP headers, in bytes (RFC 8200, RFC 768).
pub(crate) const OVERHEAD_V6: usize = 48;

/// A UDP port of both our overlay addresses. Dropping it closes the port.
#[derive(Debug)]
pub(crate) struct PortSocket {
    port: Arc<UdpPort>,
}

impl PortSocket {
    pub(crate) const fn new(port: Arc<UdpPort>) -> Self {
        Self { port }
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port.number
    }

    /// Sends a datagram; waits while 1024 datagrams or 256 KiB are queued.
    ///
    /// That it was sent does not say that it arrives.
    ///
    /// # Errors
    ///
    /// [`UdpError::TooLong`], [`UdpError::NoRoute`] for our own addresses, [`UdpError::Stopped`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it sends nothing.
    pub(crate) async fn send_to(&self, data: &[u8], to: SocketAddr) -> Result<(), UdpError> {
        self.port.send(data, to).await
    }

    /// The next datagram and who sent it. What does not fit `buffer` is cut off.
    ///
    /// # Errors
    ///
    /// [`UdpError::Stopped`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no datagram.
    pub(crate) async fn recv_from(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), UdpError> {
        self.port.receive(buffer).await
    }

    /// Datagrams dropped because they came faster than they were taken.
    pub(crate) fn dropped(&self) -> u64 {
        self.port.state.lock().inbox.dropped
    }
}

impl Drop for PortSocket {
    fn drop(&mut self) {
        self.port.abandon();
    }
}

/// UDP between a port of ours and one of a peer. Dropping it closes our port.
#[derive(Debug)]
pub(crate) struct PortFlow {
    port: Arc<UdpPort>,
    local: SocketAddr,
    remote: SocketAddr,
}

impl PortFlow {
    pub(crate) const fn new(port: Arc<UdpPort>, local: SocketAddr, remote: SocketAddr) -> Self {
        Self { port, local, remote }
    }

    /// Overlay address and port of this end.
    pub(crate) const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Overlay address and port of the other end.
    pub(crate) const fn peer_addr(&self) -> SocketAddr {
        self.remote
    }

    /// Sends a datagram; waits while 1024 datagrams or 256 KiB are queued.
    ///
    /// # Errors
    ///
    /// [`UdpError::TooLong`], [`UdpError::Stopped`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it sends nothing.
    pub(crate) async fn send(&self, data: &[u8]) -> Result<(), UdpError> {
        self.port.send(data, self.remote).await
    }

    /// The next datagram of the other end. What does not fit `buffer` is cut off.
    ///
    /// # Errors
    ///
    /// [`UdpError::Refused`] once for each time that the peer said that nobody listens there;
    /// [`UdpError::Stopped`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no datagram.
    pub(crate) async fn recv(&self, buffer: &mut [u8]) -> Result<usize, UdpError> {
        self.port.receive(buffer).await.map(|(count, _)| count)
    }

    /// Datagrams dropped because they came faster than they were taken.
    pub(crate) fn dropped(&self) -> u64 {
        self.port.state.lock().inbox.dropped
    }
}

impl Drop for PortFlow {
    fn drop(&mut self) {
        self.port.abandon();
    }
}

/// What socket and netstack share.
#[derive(Debug)]
pub(crate) struct UdpPort {
    id: FlowId,
    bell: Arc<Bell>,
    addresses: OverlayLease,
    number: u16,
    mtu: usize,
    state: Mutex<PortState>,
    readable: Notify,
    writable: Notify,
    _slot: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct PortState {
    inbox: Queue,
    outbox: Queue,
    /// The netstack has been told and has not served the port since.
    queued: bool,
    /// The socket is gone.
    abandoned: bool,
    /// The netstack is gone.
    stopped: bool,
    refused: bool,
}

impl UdpPort {
    /// Makes port `number`; `slot` counts against the limit of flows until it is dropped.
    pub(crate) fn new(
        id: FlowId,
        bell: Arc<Bell>,
        addresses: OverlayLease,
        number: u16,
        mtu: u16,
        slot: OwnedSemaphorePermit,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            bell,
            addresses,
            number,
            mtu: mtu.into(),
            state: Mutex::default(),
            readable: Notify::new(),
            writable: Notify::new(),
            _slot: slot,
        })
    }

    pub(crate) const fn id(&self) -> FlowId {
        self.id
    }

    pub(crate) const fn number(&self) -> u16 {
        self.number
    }

    /// Our address and port towards `remote`.
    pub(crate) fn local_for(&self, remote: &SocketAddr) -> SocketAddr {
        let address: IpAddr =
            if remote.is_ipv4() { self.addresses.v4.into() } else { self.addresses.v6.into() };
        SocketAddr::new(address, self.number)
    }

    async fn send(&self, data: &[u8], to: SocketAddr) -> Result<(), UdpError> {
        consume_budget().await;
        let overhead = if to.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        let max = self.mtu.saturating_sub(overhead);
        if data.len() > max {
            return Err(UdpError::TooLong { bytes: data.len(), max });
        }
        if self.addresses.contains(to.ip()) {
            return Err(UdpError::NoRoute);
        }
        loop {
            let mut room = pin!(self.writable.notified());
            room.as_mut().enable();
            if self.offer(data, to)? {
                return Ok(());
            }
            room.await;
        }
    }

    fn offer(&self, data: &[u8], to: SocketAddr) -> Result<bool, UdpError> {
        let mut state = self.state.lock();
        if state.stopped {
            return Err(UdpError::Stopped);
        }
        let taken = state.outbox.push(to, data);
        let was_queued = std::mem::replace(&mut state.queued, true);
        drop(state);
        if !was_queued {
            self.bell.ring(self.id);
        }
        Ok(taken)
    }

    async fn receive(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), UdpError> {
        consume_budget().await;
        loop {
            let mut arrival = pin!(self.readable.notified());
            arrival.as_mut().enable();
            if let Some(received) = self.take(buffer)? {
                return Ok(received);
            }
            arrival.await;
        }
    }

    fn take(&self, buffer: &mut [u8]) -> Result<Option<(usize, SocketAddr)>, UdpError> {
        let mut state = self.state.lock();
        if let Some((from, head, tail)) = state.inbox.front() {
            let count = copy(head, buffer) + copy(tail, buffer.get_mut(head.len()..).unwrap_or_default());
            state.inbox.pop();
            return Ok(Some((count, from)));
        }
        if std::mem::take(&mut state.refused) {
            return Err(UdpError::Refused);
        }
        if state.stopped { Err(UdpError::Stopped) } else { Ok(None) }
    }

    fn abandon(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        let was_queued = std::mem::replace(&mut state.queued, true);
        drop(state);
        if !was_queued {
            self.bell.ring(self.id);
        }
    }

    /// Hands a datagram to the socket; false where its queue is full.
    pub(crate) fn deliver(&self, from: SocketAddr, data: &[u8]) -> bool {
        let mut state = self.state.lock();
        let taken = state.inbox.push(from, data);
        state.inbox.dropped += u64::from(!taken);
        drop(state);
        self.readable.notify_waiters();
        taken
    }

    /// Tells the socket that nobody listens at the other end.
    pub(crate) fn refuse(&self) {
        self.state.lock().refused = true;
        self.readable.notify_waiters();
    }

    /// Tells the socket that the netstack is gone.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.readable.notify_waiters();
        self.writable.notify_waiters();
    }

    /// Begins to serve the port.
    pub(crate) fn begin_service(&self) {
        self.state.lock().queued = false;
    }

    /// Shows the oldest datagram to send to `send` and forgets it; false where there is none.
    pub(crate) fn send_one(&self, send: impl FnOnce(SocketAddr, &[u8], &[u8])) -> bool {
        let mut state = self.state.lock();
        let Some((to, head, tail)) = state.outbox.front() else { return false };
        send(to, head, tail);
        state.outbox.pop();
        true
    }

    /// Wakes who waits for room.
    pub(crate) fn end_service(&self) {
        self.writable.notify_waiters();
    }

    /// True where the socket is gone and everything it sent is out.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.abandoned && state.outbox.heads.is_empty()
    }

    /// True where the socket is gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.state.lock().abandoned
    }
}

/// Copies as much as fits, and says how much that is.
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    if let (Some(from), Some(to)) = (from.get(..count), to.get_mut(..count)) {
        to.copy_from_slice(from);
    }
    count
}

/// Datagrams one after the other, in memory that is used again.
#[derive(Debug, Default)]
struct Queue {
    heads: VecDeque<(SocketAddr, usize)>,
    bytes: VecDeque<u8>,
    dropped: u64,
}

impl Queue {
    fn push(&mut self, remote: SocketAddr, data: &[u8]) -> bool {
        if self.heads.len() >= QUEUE_DATAGRAMS || self.bytes.len() + data.len() > QUEUE_BYTES {
            return false;
        }
        self.heads.push_back((remote, data.len()));
        self.bytes.extend(data);
        true
    }

    /// The oldest datagram, in the two parts in which it lies.
    fn front(&self) -> Option<(SocketAddr, &[u8], &[u8])> {
        let (remote, length) = *self.heads.front()?;
        let (head, tail) = self.bytes.as_slices();
        let (head, rest) = match head.get(..length) {
            Some(whole) => (whole, 0),
            None => (head, length.saturating_sub(head.len())),
        };
        Some((remote, head, tail.get(..rest)?))
    }

    fn pop(&mut self) {
        if let Some((_, length)) = self.heads.pop_front() {
            self.bytes.drain(..length);
        }
    }
}
