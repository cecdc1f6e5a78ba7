//! Connections to targets that wait for the next request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use blueprint_common_runtime::lanes::PerLane;
use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep};

use super::{Wire, host_line};
use crate::connector::Connector;
use crate::dial::DialError;

/// How long a connection to a target is kept for the next request. Shorter than the 5 s after which
/// common HTTP servers close an idle one, so that a request is not sent into a closing connection.
pub(crate) const IDLE: Duration = Duration::from_secs(4);

/// Idle connections kept per target by one lane at most, and at least. All together keep twice the most where they are many,
/// as not all have the same to do.
pub(crate) const MAX_IDLE: usize = 64;
const LEAST_IDLE: usize = 8;

/// How often those that nobody took are looked through.
const SWEEP: Duration = Duration::from_secs(1);

type Idle = BTreeMap<SocketAddr, Vec<(Instant, Wire)>>;

/// The connections of all targets; the one that was used last is taken first. Each lane has its own: one of the kernel wakes the
/// thread that it was made on, and no lane waits for another's.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    connector: Connector,
    idle: PerLane<Mutex<Idle>>,
    /// Kept by each of them per target.
    most: usize,
}

impl Pool {
    pub(crate) fn new(connector: Connector) -> Self {
        let idle = PerLane::new(Mutex::default);
        let share = MAX_IDLE.saturating_mul(2).checked_div(idle.lanes()).unwrap_or(MAX_IDLE);
        Self(Arc::new(Shared { connector, idle, most: share.clamp(LEAST_IDLE, MAX_IDLE) }))
    }

    /// Closes connections that nobody takes any more, for as long as it is polled.
    pub(crate) async fn sweep(self) -> Result<Infallible, Infallible> {
        loop {
            sleep(SWEEP).await;
            let now = Instant::now();
            for idle in self.0.idle.iter() {
                idle.lock().retain(|_, kept| {
                    kept.retain(|(since, _)| now.saturating_duration_since(*since) < IDLE);
                    !kept.is_empty()
                });
            }
        }
    }

    /// A connection to the target that was good a moment ago, or a new one.
    pub(super) async fn connection(&self, target: SocketAddr, now: Instant) -> Result<Wire, DialError> {
        // Unconstrained, so that a spent budget of the task is not taken for silence.
        let taken = unconstrained(poll_fn(|cx| Poll::Ready(self.take(target, now, cx))));
        if let Some(wire) = taken.await {
            return Ok(wire);
        }
        let (io, dialed) = self.0.connector.dial(target).await?;
        Ok(Wire { io, read: BytesMut::new(), target, host: host_line(target), dialed })
    }

    fn take(&self, target: SocketAddr, now: Instant, cx: &mut Context<'_>) -> Option<Wire> {
        loop {
            let (since, mut wire) = self.0.idle.own().lock().get_mut(&target)?.pop()?;
            if now.saturating_duration_since(since) < IDLE && is_quiet(&mut wire, cx) {
                return Some(wire);
            }
        }
    }

    /// Keeps a connection on which nothing is open since `now`, and the room for what it says next.
    pub(super) fn keep(&self, wire: Wire, room: BytesMut, now: Instant) {
        let mut idle = self.0.idle.own().lock();
        let kept = idle.entry(wire.target).or_default();
        if kept.len() < self.0.most {
            kept.push((now, Wire { read: room, ..wire }));
        }
    }
}

/// Neither closed nor with a word that nobody asked for.
fn is_quiet(wire: &mut Wire, cx: &mut Context<'_>) -> bool {
    let mut byte = [0];
    Pin::new(&mut wire.io).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
}
