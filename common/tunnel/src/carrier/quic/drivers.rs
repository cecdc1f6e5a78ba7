//! Polls what quinn would run in tasks of its own in the task that needs it.
//!
//! quinn has a task for each connection, which wakes itself after every twenty datagrams. Polled beside the handshake it is on
//! the caller's runtime, so that handshakes of strangers keep no link from its turn; polled beside the link it and the link
//! take turns in one task, whose end is known: what was held for the next datagrams is flushed then.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::task::unconstrained;

use super::coalesce::Coalescing;
use super::thread::LinkThread;

/// Rounds of one turn: so many bundles are sent and received before other tasks of the thread have theirs.
const ROUNDS: usize = 16;

/// Somebody polls.
const POLLING: u8 = 1;
/// Something has to be polled again.
const DUE: u8 = 2;

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The runtime of one of some [`LinkThread`]s after the other, but what quinn spawns is kept for [`Drivers`].
pub(super) struct Keeping {
    threads: Vec<Arc<LinkThread>>,
    /// Whose turn it is.
    turn: AtomicUsize,
    kept: Mutex<Vec<Driver>>,
}

impl Keeping {
    /// Starts as many threads for it, one at least.
    ///
    /// # Errors
    ///
    /// Those of [`LinkThread::start`].
    pub(super) fn start(threads: usize) -> io::Result<Arc<Self>> {
        let threads = (0..threads.max(1)).map(|_| LinkThread::start()).collect::<io::Result<_>>()?;
        Ok(Arc::new(Self { threads, turn: AtomicUsize::new(0), kept: Mutex::default() }))
    }

    /// The thread of the next connection: of several, the first has half as many as each other, for it reads the socket, too.
    #[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "there is one at least")]
    fn thread(&self) -> &Arc<LinkThread> {
        let others = self.threads.len() - 1;
        let at = match self.turn.load(Ordering::Relaxed) % (2 * others + 1) {
            0 => 0,
            turn => 1 + (turn - 1) % others,
        };
        &self.threads[at]
    }

    /// Has the next connection on the next thread.
    pub(super) fn go_round(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// What quinn has spawned since the last call, for a connection with `remote` on `socket`.
    pub(super) fn take(&self, socket: &Arc<Coalescing>, remote: SocketAddr) -> Drivers {
        let drivers = mem::take(&mut *self.kept.lock());
        let (thread, socket) = (Arc::clone(self.thread()), Arc::clone(socket));
        Drivers { drivers, turn: Arc::default(), thread, socket, remote, poller: None, is_last: false }
    }
}

impl fmt::Debug for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeping").finish_non_exhaustive()
    }
}

impl Runtime for Keeping {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        // By whoever polls, who has entered the thread of the connection ([`Drivers::poll_turn`]).
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Driver) {
        self.kept.lock().push(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _context = self.thread().handle().enter();
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// What has to be polled for a connection to live. Dropped, it goes on in a task of the thread until the connection is closed.
pub(super) struct Drivers {
    drivers: Vec<Driver>,
    turn: Arc<Turn>,
    thread: Arc<LinkThread>,
    socket: Arc<Coalescing>,
    /// Where the connection leads at present, as the socket spells it.
    remote: SocketAddr,
    poller: Option<Pin<Box<dyn UdpPoller>>>,
    /// Whoever drops it wants it gone.
    is_last: bool,
}

impl Drivers {
    /// Polls them as long as `work` takes; `remote` says where the connection leads.
    ///
    /// # Cancel safety
    ///
    /// As that of `work`.
    pub(super) async fn beside<T>(
        &mut self,
        remote: impl Fn() -> Option<SocketAddr>,
        work: impl Future<Output = T>,
    ) -> T {
        // With a budget of its own: what the drivers take of the task's would never leave it any, and theirs is the bound.
        let mut work = pin!(unconstrained(work));
        poll_fn(|context| self.poll_turn(context, &remote, |_, context| work.as_mut().poll(context))).await
    }

    /// The thread for what they belong to.
    pub(super) const fn thread(&self) -> &Arc<LinkThread> {
        &self.thread
    }

    /// Polls them until all have ended, in a task of the thread.
    pub(super) fn finish(mut self) {
        self.is_last = true;
        let handle = self.thread.handle().clone();
        handle.spawn(self.run());
    }

    async fn run(mut self) {
        let is_over = |this: &Self| if this.drivers.is_empty() { Poll::Ready(()) } else { Poll::Pending };
        poll_fn(|context| self.poll_turn(context, || None, |this, _| is_over(this))).await;
    }

    fn poll_turn<T>(
        &mut self,
        context: &mut Context<'_>,
        remote: impl Fn() -> Option<SocketAddr>,
        mut work: impl FnMut(&Self, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let (turn, thread) = (Arc::clone(&self.turn), Arc::clone(&self.thread));
        turn.outer.register(context.waker());
        let waker = Waker::from(Arc::clone(&turn));
        let mut inner = Context::from_waker(&waker);
        for _ in 0..ROUNDS {
            // What was due before is seen now; what is due from here on is seen by the next look at this.
            turn.state.swap(POLLING, Ordering::AcqRel);
            {
                // A connection makes its one timer here, and is to wait for no other thread's.
                let _context = thread.handle().enter();
                self.drivers.retain_mut(|driver| driver.as_mut().poll(&mut inner).is_pending());
            }
            let done = work(self, &mut inner);
            if done.is_ready() || turn.state.load(Ordering::Acquire) == POLLING {
                // Nothing follows at once, so what was held for more may go.
                self.flush(remote(), &mut inner);
            }
            if done.is_ready() || turn.rest() {
                return done;
            }
        }
        turn.state.store(DUE, Ordering::Release);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn flush(&mut self, remote: Option<SocketAddr>, context: &mut Context<'_>) {
        if let Some(remote) = remote.filter(|remote| *remote != self.remote) {
            let _ = self.socket.poll_flush(self.remote, &mut self.poller, context);
            self.remote = remote;
        }
        let _ = self.socket.poll_flush(self.remote, &mut self.poller, context);
    }
}

impl Drop for Drivers {
    fn drop(&mut self) {
        let drivers = mem::take(&mut self.drivers);
        if self.is_last || drivers.is_empty() {
            return;
        }
        let (turn, thread, socket) =
            (Arc::clone(&self.turn), Arc::clone(&self.thread), Arc::clone(&self.socket));
        Self { drivers, turn, thread, socket, remote: self.remote, poller: None, is_last: true }.finish();
    }
}

impl fmt::Debug for Drivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drivers").field("count", &self.drivers.len()).finish_non_exhaustive()
    }
}

/// Tells whether to poll again: to who polls, or, where nobody does, to the task.
#[derive(Debug, Default)]
struct Turn {
    state: AtomicU8,
    outer: AtomicWaker,
}

impl Turn {
    /// Ends the polling; false where something is due.
    fn rest(&self) -> bool {
        self.state.compare_exchange(POLLING, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(DUE, Ordering::AcqRel) == 0 {
            self.outer.wake();
        }
    }
}

#[cfg(test)]
mod tests;
