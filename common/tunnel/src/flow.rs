//! One TCP connection: a smoltcp socket that the engine and one [`TcpStream`](crate::TcpStream) share.
//!
//! - The engine moves packets, the stream moves bytes; both do so under the flow's own lock, which is
//!   never held across an `.await`, nor while waking a task.
//! - A stream that changes what the engine has to do rings the [`Bell`] once; it is not rung again
//!   until the engine has served the flow.
//! - Wakers live here and not in smoltcp: the engine wakes a task after a whole batch of packets, not
//!   after each one.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use tokio::io::ReadBuf;
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// An established connection ends when its peer says nothing for this long. Four keepalives fit in it.
pub(crate) const USER_TIMEOUT: Duration = Duration::from_secs(60);
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Long enough for an answer to carry the acknowledgement of its request, short against any timer of a peer.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(5);

/// Names a flow within one engine; never used twice.
pub(crate) type FlowId = u64;

/// How streams tell the engine that there is something to do.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<Vec<FlowId>>,
    notify: Notify,
}

impl Bell {
    fn ring(&self, id: FlowId) {
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
        match state.socket_ref().state() {
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
        let socket = state.socket();
        let held = socket.recv_queue();
        let first = socket.recv(|data| fill(buffer, data));
        match first {
            Ok(0) => {
                register(&mut state.read_waker, cx);
                return Poll::Pending;
            }
            Err(tcp::RecvError::Finished) => return Poll::Ready(Ok(())),
            Err(tcp::RecvError::InvalidState) => return Poll::Ready(Err(reset())),
            // The buffer is a ring: what wraps around comes with the second call.
            Ok(_) => {
                let _ = socket.recv(|data| fill(buffer, data));
            }
        }
        // The peer learns of room from the next acknowledgement; it waits for a word of its own only
        // where the buffer was so full that the window last told may have been small.
        if held > socket.recv_capacity() / 2 {
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
        let (mut offered, mut taken) = (0, 0);
        for part in parts {
            let Ok(count) = state.socket().send_slice(part) else {
                let kind =
                    if state.shut { io::ErrorKind::BrokenPipe } else { io::ErrorKind::ConnectionReset };
                return Poll::Ready(Err(kind.into()));
            };
            offered += part.len();
            taken += count;
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
        state.socket().close();
        self.ring(state);
    }

    /// Lets go of the connection: FIN, or a reset where received bytes stay unread.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.shut = true;
        state.orphan = true;
        (state.read_waker, state.write_waker) = (None, None);
        state.socket().close();
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
    pub(crate) sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// The engine has been told and has not served the flow since.
    pub(crate) queued: bool,
    /// The stream is gone.
    pub(crate) orphan: bool,
    shut: bool,
    read_waker: Option<Waker>,
    write_waker: Option<Waker>,
}

impl FlowState {
    /// Makes a closed socket with two buffers of `buffer_bytes`.
    pub(crate) fn new(buffer_bytes: usize) -> Self {
        let buffer = || tcp::SocketBuffer::new(vec![0; buffer_bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(ACK_DELAY.into()));
        socket.set_keep_alive(Some(KEEPALIVE.into()));
        socket.set_timeout(Some(USER_TIMEOUT.into()));
        socket.set_congestion_control(tcp::CongestionControl::Cubic);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            sockets,
            handle,
            queued: false,
            orphan: false,
            shut: false,
            read_waker: None,
            write_waker: None,
        }
    }

    pub(crate) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(crate) fn socket_ref(&self) -> &tcp::Socket<'static> {
        self.sockets.get(self.handle)
    }

    /// Resets a connection whose data nobody will ever read, as RFC 1122, section 4.2.2.13 asks.
    pub(crate) fn refuse_data_for_nobody(&mut self) {
        if self.orphan && self.socket_ref().recv_queue() > 0 {
            self.socket().abort();
        }
    }

    /// Takes the wakers whose operation would now get on. Call them after the lock is released.
    pub(crate) fn due_wakers(&mut self) -> [Option<Waker>; 2] {
        let socket = self.socket_ref();
        let readable = socket.can_recv() || !socket.may_recv();
        let writable = match socket.state() {
            tcp::State::Listen | tcp::State::SynSent | tcp::State::SynReceived => false,
            // A quarter of the buffer: a writer woken for every acknowledged segment does little but wake.
            tcp::State::Established | tcp::State::CloseWait => {
                socket.send_queue() <= socket.send_capacity() / 4 * 3
            }
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
