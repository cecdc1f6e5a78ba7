//! Accepting TCP connections: a cap on all of them, a cap per source, and no spin when accepting fails.
//!
//! One connection more than a cap is accepted and closed at once, and counted: a client learns of it within one
//! round trip, and others are not kept waiting in the kernel's queue behind it. Where the process has no file
//! descriptor left, new connections wait in that queue until it has one again; nothing ends.

mod places;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::lanes::{LanePlace, Lanes};
use crate::tasks::Spawner;

pub use places::{NoPlace, Place, Places};

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

/// What an accept loop, or whoever else gives [`Places`], has counted since its start.
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

/// A listening TCP socket with its limits.
#[derive(Debug)]
pub struct AcceptLoop {
    name: &'static str,
    listener: TcpListener,
    places: Places,
    lanes: Option<Lanes>,
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
        Self { name, listener, places: Places::new(limits), lanes: None }
    }

    /// Lets this machine itself have as many connections as all sources together: behind another proxy on it
    /// every client has its address.
    #[must_use]
    pub fn exempting_loopback(mut self) -> Self {
        self.places = self.places.exempting_loopback();
        self
    }

    /// Has these threads serve the connections, and not the runtime's own workers.
    #[must_use]
    pub fn on_lanes(mut self, lanes: Option<Lanes>) -> Self {
        self.lanes = lanes;
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
        self.places.stats()
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
        let stats = self.stats();
        let mut warned_at: Option<Instant> = None;
        while let Some(accepted) = drain.run_until_cancelled(self.listener.accept()).await {
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    stats.errors.fetch_add(1, Ordering::Relaxed);
                    if warned_at.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                        warned_at = Some(Instant::now());
                        warn!(listener = self.name, %error, "accept failed");
                    }
                    let _ = drain.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
                    continue;
                }
            };
            let place = match self.places.take(peer.ip()) {
                Ok(place) => place,
                Err(none) => {
                    debug!(listener = self.name, reason = %none, "connection refused");
                    continue;
                }
            };
            let lane = self.lanes.as_ref().map(Lanes::place);
            let _entered = lane.as_ref().and_then(LanePlace::enter);
            if let Err(error) = stream.set_nodelay(true) {
                debug!(listener = self.name, %error, "connection is gone already");
                continue;
            }
            let stream = match of_this_runtime(stream, lane.is_some()) {
                Ok(stream) => stream,
                Err(error) => {
                    stats.errors.fetch_add(1, Ordering::Relaxed);
                    debug!(listener = self.name, %error, "connection cannot be given to its thread");
                    continue;
                }
            };
            stats.accepted.fetch_add(1, Ordering::Relaxed);
            // Boxed, since what wraps it would hold it twice.
            let served = Box::pin(serve(stream, peer));
            spawner.spawn(self.name, async move {
                let _place = (place, lane);
                served.await
            });
        }
        Ok(())
    }
}

/// The stream as one of the runtime that is entered; only where it is `another` than the one that accepted it.
fn of_this_runtime(stream: TcpStream, another: bool) -> io::Result<TcpStream> {
    if another { TcpStream::from_std(stream.into_std()?) } else { Ok(stream) }
}

#[cfg(test)]
mod tests;
