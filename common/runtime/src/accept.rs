//! Accepting TCP connections: a cap on all of them, a cap per source, and no spin when accepting fails.
//!
//! One connection more than a cap is accepted and closed at once, and counted: a client learns of it within one
//! round trip, and others are not kept waiting in the kernel's queue behind it. Where the process has no file
//! descriptor left, new connections wait in that queue until it has one again; nothing ends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::tasks::Spawner;

/// Pause after a failed accept: out of file descriptors is not cured by trying harder.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Pause between two lines in the log about failed accepts, of which there may be twenty a second.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// How many connections may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptLimits {
    /// From everywhere together.
    pub total: usize,
    /// From one IPv4 address or one IPv6 /64.
    pub per_ip: usize,
}

impl Default for AcceptLimits {
    /// 4096 in all, 256 from one source.
    fn default() -> Self {
        Self { total: 4096, per_ip: 256 }
    }
}

/// What an accept loop has counted since its start.
#[derive(Debug, Default)]
pub struct AcceptStats {
    accepted: AtomicU64,
    refused_total: AtomicU64,
    refused_per_ip: AtomicU64,
    errors: AtomicU64,
    open: AtomicU64,
}

impl AcceptStats {
    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections handed to the closure.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections closed at once because there were too many in all.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused_total.load(Ordering::Relaxed)
    }

    /// Connections closed at once because there were too many from their source.
    #[must_use]
    pub fn refused_per_ip(&self) -> u64 {
        self.refused_per_ip.load(Ordering::Relaxed)
    }

    /// Failed calls of accept.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// Open connections, in all and by source.
#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_source: BTreeMap<IpAddr, usize>,
}

/// The place that one open connection takes; given back on drop.
#[derive(Debug)]
struct Slot {
    open: Arc<Mutex<Open>>,
    source: IpAddr,
    stats: Arc<AcceptStats>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        open.total = open.total.saturating_sub(1);
        self.stats.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(count) = open.by_source.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_source.remove(&self.source);
            }
        }
    }
}

/// A listening TCP socket with its limits.
#[derive(Debug)]
pub struct AcceptLoop {
    name: &'static str,
    listener: TcpListener,
    limits: AcceptLimits,
    exempts_loopback: bool,
    open: Arc<Mutex<Open>>,
    stats: Arc<AcceptStats>,
}

impl AcceptLoop {
    /// Binds `address`; `name` is for the log and for the connection tasks.
    ///
    /// # Errors
    ///
    /// Fails where the system does not let this process listen there; the text names the address.
    pub async fn bind(name: &'static str, address: SocketAddr, limits: AcceptLimits) -> io::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
        Ok(Self::new(name, listener, limits))
    }

    /// Takes over a socket that listens already.
    #[must_use]
    pub fn new(name: &'static str, listener: TcpListener, limits: AcceptLimits) -> Self {
        Self { name, listener, limits, exempts_loopback: false, open: Arc::default(), stats: Arc::default() }
    }

    /// Lets this machine itself have as many connections as all sources together: behind another proxy on it
    /// every client has its address.
    #[must_use]
    pub const fn exempting_loopback(mut self) -> Self {
        self.exempts_loopback = true;
        self
    }

    /// The address that the socket has, with the port that the system chose.
    ///
    /// # Errors
    ///
    /// Fails where the system cannot say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Counters that stay valid while the loop runs.
    #[must_use]
    pub fn stats(&self) -> Arc<AcceptStats> {
        Arc::clone(&self.stats)
    }

    /// Accepts until `drain`, and runs `serve` for each connection as a task of `spawner`.
    ///
    /// The connection counts against the limits until the future of `serve` is dropped.
    ///
    /// # Errors
    ///
    /// Never; the type fits [`crate::tasks::Supervisor::spawn_essential`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listening socket; accepted connections go on.
    pub async fn run<F, Fut>(
        self,
        spawner: Spawner,
        drain: CancellationToken,
        serve: F,
    ) -> Result<(), Infallible>
    where
        F: Fn(TcpStream, SocketAddr) -> Fut,
        Fut: Future + Send + 'static,
        Fut::Output: Send,
    {
        let mut warned_at: Option<Instant> = None;
        while let Some(accepted) = drain.run_until_cancelled(self.listener.accept()).await {
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.stats.errors.fetch_add(1, Ordering::Relaxed);
                    if warned_at.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                        warned_at = Some(Instant::now());
                        warn!(listener = self.name, %error, "accept failed");
                    }
                    let _ = drain.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
                    continue;
                }
            };
            let Some(slot) = self.take_slot(peer.ip()) else { continue };
            if let Err(error) = stream.set_nodelay(true) {
                debug!(listener = self.name, %error, "connection is gone already");
                continue;
            }
            self.stats.accepted.fetch_add(1, Ordering::Relaxed);
            // Boxed, since what wraps it would hold it twice.
            let served = Box::pin(serve(stream, peer));
            spawner.spawn(self.name, async move {
                let _slot = slot;
                served.await
            });
        }
        Ok(())
    }

    /// Takes a place for a connection from `ip`, or counts the refusal.
    fn take_slot(&self, ip: IpAddr) -> Option<Slot> {
        let source = source_of(ip);
        let mut open = self.open.lock();
        if open.total >= self.limits.total {
            self.stats.refused_total.fetch_add(1, Ordering::Relaxed);
            debug!(listener = self.name, limit = self.limits.total, "connection refused, too many");
            return None;
        }
        let from_source = open.by_source.get(&source).copied().unwrap_or(0);
        let is_exempt = self.exempts_loopback && source.is_loopback();
        if from_source >= self.limits.per_ip && !is_exempt {
            self.stats.refused_per_ip.fetch_add(1, Ordering::Relaxed);
            debug!(listener = self.name, limit = self.limits.per_ip, "connection refused, too many from it");
            return None;
        }
        open.total = open.total.saturating_add(1);
        open.by_source.insert(source, from_source.saturating_add(1));
        self.stats.open.fetch_add(1, Ordering::Relaxed);
        Some(Slot { open: Arc::clone(&self.open), source, stats: Arc::clone(&self.stats) })
    }
}

/// What counts as one source: an IPv4 address, also in IPv6 clothes, or an IPv6 /64, which one household has whole.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests;
