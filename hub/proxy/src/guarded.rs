//! A connection behind the guard of the core: the HTTP library reads only what has one meaning.
//!
//! A head that is refused is replaced by one that the library can read, and the request with that
//! number is known to be the refused one: so its refusal is answered, counted and logged like every
//! other, in its turn, and the connection ends behind it. A fault inside a body breaks the connection.

mod idle;

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use blueprint_hub_proxy_core::guard::{FramingFault, Guard, Step};
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::metrics::{Cut, ProxyMetrics};
use crate::progress::Progress;

/// What stands for a refused head.
const REPLACEMENT: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// Bytes read at once into a buffer of our own; heads and chunk lines are looked at there.
const READ_BYTES: usize = 8 * 1024;

/// How long a connection of HTTP/1 may take for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// From the first byte of a head to its last.
    pub(crate) head: Duration,
    /// From the end of an answer to the next head.
    pub(crate) idle: Duration,
}

/// What the connection and the requests on it share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Framing(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    guard: Guard,
    fault: Option<FramingFault>,
    held: Option<Waker>,
    is_quiet: bool,
}

impl Framing {
    /// What is wrong with the request of this number on its connection, the first being 1.
    pub(crate) fn fault(&self, number: u64) -> Option<FramingFault> {
        let shared = self.0.lock();
        shared.fault.filter(|_| number > shared.guard.heads())
    }

    /// The upgrade that was asked for has happened.
    pub(crate) fn upgrade(&self) {
        self.release(Guard::upgrade);
    }

    /// It has not, if any was asked for: the next request may come.
    pub(crate) fn resume(&self) {
        self.release(Guard::resume);
    }

    fn release(&self, how: fn(&mut Guard)) {
        let mut shared = self.0.lock();
        how(&mut shared.guard);
        if let Some(waker) = shared.held.take() {
            waker.wake();
        }
    }
}

/// A stream of which only what the guard passes can be read.
///
/// It keeps the time between requests as well: a connection that idles ends without a word, a head
/// that does not end is refused like any other.
pub(crate) struct Guarded<I> {
    io: I,
    framing: Framing,
    progress: Progress,
    times: Times,
    waits: Option<Waits>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer was set to end after [`idle::QUIET`] at the latest.
    is_near: bool,
    metrics: Arc<ProxyMetrics>,
    /// Bytes that were read and did not go on yet; so many at the front may.
    pending: BytesMut,
    passed: usize,
    is_over: bool,
    /// Nothing that was written waits.
    is_flushed: bool,
    /// The library does not serve it at present.
    is_resting: bool,
}

/// What the hub waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// The rest of a head, until then.
    Head(Instant),
    /// The next head, since then.
    Next(Instant),
}

impl<I> Guarded<I> {
    /// A connection whose first head began at `begun`.
    pub(crate) fn new(
        io: I,
        framing: Framing,
        progress: Progress,
        (times, begun): (Times, Instant),
        metrics: Arc<ProxyMetrics>,
    ) -> Self {
        Self {
            io,
            framing,
            progress,
            times,
            waits: Some(Waits::Head(begun + times.head)),
            timer: None,
            is_near: false,
            metrics,
            pending: BytesMut::new(),
            passed: 0,
            is_over: false,
            is_flushed: true,
            is_resting: false,
        }
    }

    /// Ready while no request is open.
    ///
    /// Nobody has to be woken at the end of one while a timer runs that ends within [`idle::QUIET`]: it is soon enough to look
    /// then, since when nothing is open is known. That spares each request but the first one more turn of its task.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.as_mut().filter(|_| self.is_near);
        if !timer.is_some_and(|timer| timer.as_mut().poll(cx).is_pending()) {
            return self.progress.poll_idle(cx);
        }
        if self.progress.is_idle() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ready once what the client was to send took too long; [`Waits::Head`] is a fault, [`Waits::Next`] none.
    fn poll_times(&mut self, cx: &mut Context<'_>) -> Poll<Waits> {
        let is_in_head = self.framing.0.lock().guard.is_in_head();
        if !is_in_head || self.poll_idle(cx).is_pending() {
            self.waits = None;
            return Poll::Pending;
        }
        let waits = match self.waits {
            Some(Waits::Head(due)) => Waits::Head(due),
            Some(Waits::Next(since)) if self.pending.is_empty() => Waits::Next(since),
            None if self.pending.is_empty() => Waits::Next(self.progress.idle_since()),
            Some(Waits::Next(_)) | None => Waits::Head(Instant::now() + self.times.head),
        };
        self.waits = Some(waits);
        let (look, due) = match waits {
            Waits::Head(due) => (due, due),
            Waits::Next(since) if self.is_resting => (since + self.times.idle, since + self.times.idle),
            Waits::Next(since) => (since + idle::QUIET.min(self.times.idle), since + self.times.idle),
        };
        let is_near = matches!(waits, Waits::Next(_)) && !self.is_resting;
        let timer = self.timer.get_or_insert_with(|| {
            self.is_near = is_near;
            Box::pin(sleep_until(look))
        });
        // One that was set for an earlier time goes on: to set it anew for each request costs more than a look
        // at the clock when it ends.
        if timer.deadline() > due {
            timer.as_mut().reset(look);
            self.is_near = is_near;
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if now >= due {
                return Poll::Ready(waits);
            }
            if now >= look && self.is_flushed {
                self.framing.0.lock().is_quiet = true;
            }
            self.is_near = is_near && now < look;
            timer.as_mut().reset(if now >= look { due } else { look });
        }
    }

    fn refuse(&mut self, fault: FramingFault) {
        self.framing.0.lock().fault = Some(fault);
        self.pending = BytesMut::from(REPLACEMENT);
        self.passed = REPLACEMENT.len();
    }

    fn hand_over(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.passed.min(buffer.remaining());
        buffer.put_slice(self.pending.get(..count).unwrap_or_default());
        self.pending.advance(count);
        self.passed = self.passed.saturating_sub(count);
        if self.pending.is_empty() {
            // A connection that idles keeps no buffer.
            self.pending = BytesMut::new();
        }
    }
}

impl<I: AsyncRead + Unpin> Guarded<I> {
    /// Reads a sized body past our buffer; what is behind it is taken back.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        unread: u64,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let count = buffer.filled().len().saturating_sub(before);
        let of_body = usize::try_from(unread).unwrap_or(usize::MAX).min(count);
        let end = before.saturating_add(of_body);
        self.pending.extend_from_slice(buffer.filled().get(end..).unwrap_or_default());
        buffer.set_filled(end);
        self.framing.0.lock().guard.skip(u64::try_from(of_body).unwrap_or(u64::MAX));
        Poll::Ready(Ok(()))
    }

    /// Reads past our buffer, in which nothing waits: most heads come whole. What may not go on yet is taken back.
    fn poll_straight(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        self.is_over = read.is_empty();
        let (is_in_body, step) = {
            let guard = &mut self.framing.0.lock().guard;
            (guard.is_in_body(), guard.step(read))
        };
        let passed = match step {
            Step::Pass(count) => {
                self.waits = None;
                count
            }
            Step::Fault(fault) if is_in_body => return Poll::Ready(Err(self.break_off(fault))),
            // It says the same of these bytes when they are in our buffer.
            Step::More | Step::Hold | Step::Fault(_) => 0,
        };
        self.pending.extend_from_slice(read.get(passed..).unwrap_or_default());
        buffer.set_filled(before.saturating_add(passed));
        Poll::Ready(Ok(()))
    }

    fn break_off(&mut self, fault: FramingFault) -> io::Error {
        self.is_over = true;
        io::Error::new(io::ErrorKind::InvalidData, fault)
    }

    /// Ready once something took too long and what follows from it is done.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.poll_times(cx)) {
            Waits::Head(_) => {
                self.metrics.count_cut(Cut::SlowHead);
                self.refuse(FramingFault::TooSlow);
            }
            Waits::Next(_) => self.is_over = true,
        }
        Poll::Ready(())
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        self.pending.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guarded<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        loop {
            if this.passed > 0 {
                this.hand_over(buffer);
                return Poll::Ready(Ok(()));
            }
            if this.is_over || buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            let mut shared = this.framing.0.lock();
            if shared.fault.is_some() {
                // An end here would be a client that left: the library would drop the answer. It closes by itself
                // behind the answer, as the replacement asks.
                return Poll::Pending;
            }
            if this.pending.is_empty() {
                let unread = shared.guard.unread();
                drop(shared);
                if unread > 0 {
                    return this.poll_body(cx, buffer, unread);
                }
                if this.poll_straight(cx, buffer)?.is_pending() {
                    ready!(this.poll_late(cx));
                }
                continue;
            }
            let is_in_body = shared.guard.is_in_body();
            match shared.guard.step(&this.pending) {
                Step::Pass(count) => {
                    this.passed = count;
                    this.waits = None;
                }
                Step::Hold => {
                    shared.held = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Step::Fault(fault) => {
                    drop(shared);
                    if is_in_body {
                        return Poll::Ready(Err(this.break_off(fault)));
                    }
                    this.refuse(fault);
                }
                Step::More => {
                    drop(shared);
                    match this.poll_more(cx)? {
                        Poll::Ready(0) => this.is_over = true,
                        Poll::Ready(_) => {}
                        Poll::Pending => ready!(this.poll_late(cx)),
                    }
                }
            }
        }
    }
}
