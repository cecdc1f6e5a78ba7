//! What the streams of one tunnel did.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

/// What one tunnel did since it was established, and how it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Statistics {
    /// Streams that were opened.
    pub opened: u64,
    /// Streams that are open.
    pub open: u64,
    /// Streams that the hub's policy refused.
    pub denied: u64,
    /// Streams that could not be opened for another reason.
    pub failed: u64,
    /// Bytes that streams read.
    pub received_bytes: u64,
    /// Bytes that streams wrote.
    pub sent_bytes: u64,
    /// Whether the hub echoes through the tunnel: streams pass.
    pub is_alive: bool,
    /// Whether the hub's control plane is connected: streams can be opened.
    pub is_connected: bool,
    /// The carrier in use: `udp`, `quic` or `tls`; `None` while none works.
    pub carrier: Option<&'static str>,
    /// Mean round trip to the hub; zero where it is not known.
    pub round_trip: Duration,
    /// Echoes of the hub that were lost, in percent.
    pub loss_percent: f32,
    /// Bytes that the tunnel received from the hub, its own included.
    pub tunnel_received_bytes: u64,
    /// Bytes that the tunnel sent to the hub, its own included.
    pub tunnel_sent_bytes: u64,
}

/// The counters behind [`Statistics`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    opened: AtomicU64,
    open: AtomicU64,
    denied: AtomicU64,
    failed: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Counters {
    pub(crate) fn denied(&self) {
        self.denied.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// The streams' part of the statistics; the tunnel's is at its default.
    pub(crate) fn read(&self) -> Statistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            opened: read(&self.opened),
            open: read(&self.open),
            denied: read(&self.denied),
            failed: read(&self.failed),
            received_bytes: read(&self.received),
            sent_bytes: read(&self.sent),
            ..Statistics::default()
        }
    }
}

/// An open stream in the counters; leaves them when dropped.
#[derive(Debug)]
pub(crate) struct OpenStream(Arc<Counters>);

impl OpenStream {
    pub(crate) fn new(counters: &Arc<Counters>) -> Self {
        counters.opened.fetch_add(1, Ordering::Relaxed);
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.0.received.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts what a write took, and passes its result on.
    pub(crate) fn sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.0.sent.fetch_add(u64::try_from(*bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        written
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
