//! A connection of HTTP/2 whose frames are counted on their way to the HTTP library.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use blueprint_hub_proxy_core::frames::{FrameFault, FrameMeter};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::metrics::{Cut, ProxyMetrics};

/// A stream that ends where the client floods, or leaves a head unfinished.
pub(crate) struct Metered<I> {
    io: I,
    meter: FrameMeter,
    head_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    metrics: Arc<ProxyMetrics>,
}

impl<I> Metered<I> {
    pub(crate) fn new(io: I, head_timeout: Duration, metrics: Arc<ProxyMetrics>) -> Self {
        Self { io, meter: FrameMeter::new(Instant::now().into_std()), head_timeout, timer: None, metrics }
    }

    fn cut(&self, cut: Cut, kind: io::ErrorKind, why: &'static str) -> Poll<io::Result<()>> {
        self.metrics.count_cut(cut);
        Poll::Ready(Err(io::Error::new(kind, why)))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Metered<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if Pin::new(&mut this.io).poll_read(cx, buffer)?.is_ready() {
            let bytes = buffer.filled().get(before..).unwrap_or_default();
            return match this.meter.receive(bytes, Instant::now().into_std()) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(FrameFault::Resets) => {
                    this.cut(Cut::Resets, io::ErrorKind::InvalidData, "too many streams are reset")
                }
                Err(FrameFault::Frames) => {
                    this.cut(Cut::Frames, io::ErrorKind::InvalidData, "too many frames that move nothing")
                }
            };
        }
        let Some(since) = this.meter.head_since() else {
            this.timer = None;
            return Poll::Pending;
        };
        let due = Instant::from_std(since) + this.head_timeout;
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        ready!(timer.as_mut().poll(cx));
        this.cut(Cut::SlowHead, io::ErrorKind::TimedOut, "the head of a request took too long")
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Metered<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.meter.send(bytes.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, buffers))?;
        let mut left = count;
        for buffer in buffers {
            let here = left.min(buffer.len());
            self.meter.send(buffer.get(..here).unwrap_or_default());
            left = left.saturating_sub(here);
        }
        Poll::Ready(Ok(count))
    }
}
