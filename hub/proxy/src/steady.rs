//! A connection that ends where its other side stops reading what it asked for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::metrics::{Cut, ProxyMetrics};

/// A stream whose writes fail once they have waited for too long without a byte of progress.
///
/// A connection that has nothing to write may be as quiet as it likes.
pub(crate) struct Steady<I> {
    io: I,
    patience: Duration,
    waits_since: Option<Instant>,
    /// Made at the first wait and kept: writers that wait once wait often.
    timer: Option<Pin<Box<Sleep>>>,
    metrics: Arc<ProxyMetrics>,
}

impl<I> Steady<I> {
    pub(crate) const fn new(io: I, patience: Duration, metrics: Arc<ProxyMetrics>) -> Self {
        Self { io, patience, waits_since: None, timer: None, metrics }
    }

    /// Passes `polled` on, unless it has waited for too long.
    fn judge<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waits_since = None;
            return polled;
        }
        let due = *self.waits_since.get_or_insert_with(Instant::now) + self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                self.metrics.count_cut(Cut::SlowReader);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")));
            }
            // It was set for an earlier wait.
            timer.as_mut().reset(due);
        }
        polled
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Steady<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Steady<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.judge(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.judge(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.judge(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, buffers);
        self.judge(cx, polled)
    }
}
