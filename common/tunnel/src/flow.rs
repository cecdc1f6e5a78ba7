//! One TCP connection: a smoltcp socket that the engine and one [`TcpStream`](crate::TcpStream) share.
//!
//! - The engine moves packets, the stream moves bytes; both do so under the flow's own lock, which is
//!   never held across an `.await`, nor while waking a task.
//! - A stream that changes what the engine has to do rings the [`Bell`] once; it is not rung again
//!   until the engine has served the flow.
//! - Wakers live here and not in smoltcp: the engine wakes a task after a whole batch of packets, not
//!   after each one.
//!
//! # Memory
//!
//! A flow has buffers of the largest size from the start, as address space (see
//! [`FlowSocket`]), so its window scale fits; what it may *fill* grows by use, from 64 KiB in each direction:
//!
//! - Sending: a writer that finds its allowance full doubles it, if half of it is in flight. So a path with a
//!   long round trip gets a long queue, and a peer that is slow to read does not.
//! - Receiving: the window is open from the start, as on Linux. Data further ahead of the reader than the
//!   allowance takes more of it. Bytes after a hole count, so that a peer cannot fill memory with holes.
//! - All flows share a [`Budget`] for what exceeds the first 64 KiB. A writer that gets none waits. Data that
//!   gets none is dropped and counted; its sender is told that we live, and sends it again by its timer.
//! - A flow at rest gives everything back ([`FlowState::rest`]): pages and budget.
//!
//! Measured 2026-11-21 (`netstack_memory`, x86-64, resident and page tables): 10 KiB for an end that moved
//! 4 KiB, 2 KiB for one that rests after it moved 1 MiB.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use smoltcp::socket::tcp;
use tokio::io::ReadBuf;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::budget::{Budget, Share};
use crate::segment::Segment;
use crate::sys::flow_socket::FlowSocket;
use crate::track::Track;

/// An established connection ends when its peer says nothing for this long. Four keepalives fit in it.
pub(crate) const USER_TIMEOUT: Duration = Duration::from_secs(60);
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Long enough for an answer to carry the acknowledgement of its request, short against any timer of a peer.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(5);

/// smoltcp's clock runs so many times faster than ours.
///
/// Deviation: smoltcp 0.14 has RFC 6298's least retransmission timeout of 1 s as a constant. On a clock five
/// times as fast it is 200 ms, as on Linux (`TCP_RTO_MIN`), the first timeout is 200 ms (it doubles, so a longer
/// path costs one or two SYNs), and the longest 12 s. Cubic grows back from a loss in a fifth of the time, which
/// makes it about as fast on 100 ms as the standard one on 500 ms paths. Everything given to smoltcp as a
/// duration is multiplied, so what we set ourselves means what it says.
pub(crate) const CLOCK_SPEED: u32 = 5;
/// A flow at rest is looked at this often for memory to give back; a busy one loses nothing by it.
pub(crate) const REST_AFTER: Duration = Duration::from_secs(5);

/// A flow that received less than this since it last rested keeps its few pages.
const REST_BYTES: usize = 16 << 10;

/// Names a flow within one engine; never used twice.
pub(crate) type FlowId = u64;

/// How streams tell the engine that there is something to do.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<Vec<FlowId>>,
    notify: Notify,
}

impl Bell {
    pub(crate) fn ring(&self, id: FlowId) {
        let mut rung = self.rung.lock();
        let was_silent = rung.is_empty();
        rung.push(id);
        drop(rung);
        if was_silent {
            self.notify.notify_one();
        }
    }

    /// Moves every flow that rang since the last call to the end of `into`.
    pub(crate) fn drain(&self, into: &mut Vec<FlowId>) {
        into.append(&mut self.rung.lock());
    }

    /// Returns once a flow has rung since the last [`Self::drain`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing.
    pub(crate) async fn rung(&self) {
        self.notify.notified().await;
    }
}

/// A connection, shared by the engine and its stream.
pub(crate) struct Flow {
    id: FlowId,
    bell: Arc<Bell>,
    state: Mutex<FlowState>,
    _slot: OwnedSemaphorePermit,
}

impl Flow {
    /// Makes a flow around `state`; `slot` counts against the limit of flows until it is dropped.
    pub(crate) fn new(
        id: FlowId,
        bell: Arc<Bell>,
        state: FlowState,
        slot: OwnedSemaphorePermit,
    ) -> Arc<Self> {
        Arc::new(Self { id, bell, state: Mutex::new(state), _slot: slot })
    }

    pub(crate) const fn id(&self) -> FlowId {
        self.id
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, FlowState> {
        self.state.lock()
    }

    fn ring(&self, mut state: MutexGuard<'_, FlowState>) {
        let was_queued = std::mem::replace(&mut state.queued, true);
        drop(state);
        if !was_queued {
            self.bell.ring(self.id);
        }
    }

    /// Ready once the handshake is over, with whether the connection is open.
    pub(crate) fn poll_open(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.lock();
        match state.view().state() {
            tcp::State::SynSent | tcp::State::SynReceived | tcp::State::Listen => {
                register(&mut state.write_waker, cx);
                Poll::Pending
            }
            tcp::State::Closed => Poll::Ready(false),
            tcp::State::Established
            | tcp::State::FinWait1
            | tcp::State::FinWait2
            | tcp::State::CloseWait
            | tcp::State::Closing
            | tcp::State::LastAck
            | tcp::State::TimeWait => Poll::Ready(true),
        }
    }

    /// Moves received bytes to `buffer`; leaves it as it is at the end of the peer's data.
    pub(crate) fn poll_read(&self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.lock();
        let held = state.view().recv_queue();
        let outcome = state.with(|socket| {
            let first = socket.recv(|data| fill(buffer, data));
            if first.is_ok_and(|count| count > 0) {
                // The buffer is a ring: what wraps around comes with the second call.
                let _ = socket.recv(|data| fill(buffer, data));
            }
            first
        });
        match outcome {
            Ok(0) => {
                register(&mut state.read_waker, cx);
                return Poll::Pending;
            }
            Err(tcp::RecvError::Finished) => return Poll::Ready(Ok(())),
            Err(tcp::RecvError::InvalidState) => return Poll::Ready(Err(reset())),
            Ok(_) => {}
        }
        // The peer learns of room from the next acknowledgement; it waits for a word of its own only
        // where the buffer was so full that the window last told may have been small.
        if held > state.view().recv_capacity() / 2 {
            self.ring(state);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes bytes from `parts` into the send buffer and says how many; at least one where there are any.
    pub(crate) fn poll_write<'a>(
        &self,
        cx: &Context<'_>,
        parts: impl Iterator<Item = &'a [u8]>,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        let mut room = state.room_to_write();
        let (mut offered, mut taken) = (0, 0);
        for part in parts {
            let allowed = part.get(..room).unwrap_or(part);
            let Ok(count) = state.with(|socket| socket.send_slice(allowed)) else {
                let kind =
                    if state.shut { io::ErrorKind::BrokenPipe } else { io::ErrorKind::ConnectionReset };
                return Poll::Ready(Err(kind.into()));
            };
            offered += part.len();
            taken += count;
            room -= count;
            if taken < offered {
                break;
            }
        }
        if taken == 0 && offered > 0 {
            register(&mut state.write_waker, cx);
            return Poll::Pending;
        }
        self.ring(state);
        Poll::Ready(Ok(taken))
    }

    /// Ends our half: everything written so far goes out, then a FIN.
    pub(crate) fn shut(&self) {
        let mut state = self.lock();
        state.shut = true;
        state.with(|socket| socket.close());
        self.ring(state);
    }

    /// Lets go of the connection: FIN, or a reset where received bytes stay unread.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.shut = true;
        state.orphan = true;
        (state.read_waker, state.write_waker) = (None, None);
        state.with(|socket| socket.close());
        state.refuse_data_for_nobody();
        self.ring(state);
    }
}

fn fill(buffer: &mut ReadBuf<'_>, data: &[u8]) -> (usize, usize) {
    let count = data.len().min(buffer.remaining());
    if let Some(part) = data.get(..count) {
        buffer.put_slice(part);
    }
    (count, count)
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

/// What the lock of a flow guards.
pub(crate) struct FlowState {
    /// Holds this flow's socket and no other, so that work per packet does not grow with the number of flows.
    pub(crate) socket: FlowSocket,
    pub(crate) track: Track,
    sending: Share,
    receiving: Share,
    /// Bytes received since the flow last gave its memory back.
    received_bytes: usize,
    /// The engine has been told and has not served the flow since.
    pub(crate) queued: bool,
    /// The stream is gone.
    pub(crate) orphan: bool,
    shut: bool,
    read_waker: Option<Waker>,
    write_waker: Option<Waker>,
}

impl FlowState {
    /// Makes a closed socket whose buffers may grow to `buffer_bytes` each, out of `budget`.
    pub(crate) fn new(buffer_bytes: usize, budget: &Arc<Budget>) -> Self {
        let mut socket = FlowSocket::new(buffer_bytes);
        let capacity = socket.view().recv_capacity();
        socket.socket(|socket| {
            socket.set_nagle_enabled(false);
            socket.set_ack_delay(Some((ACK_DELAY * CLOCK_SPEED).into()));
            socket.set_keep_alive(Some((KEEPALIVE * CLOCK_SPEED).into()));
            socket.set_timeout(Some((USER_TIMEOUT * CLOCK_SPEED).into()));
            socket.set_congestion_control(tcp::CongestionControl::Cubic);
        });
        Self {
            socket,
            track: Track::new(capacity),
            sending: Share::new(budget, capacity),
            receiving: Share::new(budget, capacity),
            received_bytes: 0,
            queued: false,
            orphan: false,
            shut: false,
            read_waker: None,
            write_waker: None,
        }
    }

    pub(crate) fn with<R>(&mut self, use_it: impl for<'b> FnOnce(&mut tcp::Socket<'b>) -> R) -> R {
        self.socket.socket(use_it)
    }

    pub(crate) fn view(&self) -> &tcp::Socket<'_> {
        self.socket.view()
    }

    /// Bytes that a writer may add.
    fn room_to_write(&mut self) -> usize {
        let queued = self.view().send_queue();
        if queued >= self.sending.bytes() && self.track.in_flight() >= self.sending.bytes() / 2 {
            self.sending.grow(self.sending.bytes() * 2);
        }
        self.sending.bytes().saturating_sub(queued)
    }

    /// True where the flow may hold the data of a segment that just came; else it is to be dropped.
    pub(crate) fn may_hold(&mut self, segment: &Segment) -> bool {
        if segment.length == 0 {
            return true;
        }
        let ahead = self.track.reach(segment);
        let needed = self.view().recv_queue() + ahead;
        // What lies beyond the window takes no memory: smoltcp refuses it.
        let may = needed > self.view().recv_capacity() || self.receiving.grow(needed);
        if may {
            self.received_bytes = self.received_bytes.saturating_add(ahead);
        }
        may
    }

    /// True where [`Self::rest`] may have something to give back.
    pub(crate) const fn may_rest(&self) -> bool {
        self.received_bytes >= REST_BYTES || self.sending.is_grown() || self.receiving.is_grown()
    }

    /// Gives back what the flow does not use: both buffers are empty, and nothing has come after a hole.
    pub(crate) fn rest(&mut self) {
        if self.view().recv_queue() == 0 && self.track.is_whole() {
            self.receiving.shrink();
            self.received_bytes = 0;
            self.socket.trim_received();
        }
        if self.view().send_queue() == 0 && self.sending.is_grown() {
            self.sending.shrink();
            self.socket.trim_sent();
        }
    }

    /// Resets a connection whose data nobody will ever read, as RFC 1122, section 4.2.2.13 asks.
    pub(crate) fn refuse_data_for_nobody(&mut self) {
        if self.orphan && self.view().recv_queue() > 0 {
            self.with(|socket| socket.abort());
        }
    }

    /// Takes the wakers whose operation would now get on. Call them after the lock is released.
    pub(crate) fn due_wakers(&mut self) -> [Option<Waker>; 2] {
        let allowance = self.sending.bytes();
        let socket = self.socket.view();
        let readable = socket.can_recv() || !socket.may_recv();
        let writable = match socket.state() {
            tcp::State::Listen | tcp::State::SynSent | tcp::State::SynReceived => false,
            // A quarter of the buffer: a writer woken for every acknowledged segment does little but wake.
            tcp::State::Established | tcp::State::CloseWait => socket.send_queue() <= allowance / 4 * 3,
            tcp::State::FinWait1
            | tcp::State::FinWait2
            | tcp::State::Closing
            | tcp::State::LastAck
            | tcp::State::TimeWait
            | tcp::State::Closed => true,
        };
        [self.read_waker.take_if(|_| readable), self.write_waker.take_if(|_| writable)]
    }
}

/// Wakes what [`FlowState::due_wakers`] took.
pub(crate) fn wake(wakers: [Option<Waker>; 2]) {
    wakers.into_iter().flatten().for_each(Waker::wake);
}
