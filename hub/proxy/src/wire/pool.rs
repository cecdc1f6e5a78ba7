//! Connections to targets that wait for the next request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use blueprint_common_runtime::lanes;
use bytes::BytesMut;
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep};

use super::{Wire, host_line};
use crate::connector::Connector;
use crate::dial::DialError;

/// How long a connection to a target is kept for the next request. Shorter than the 5 s after which
/// common HTTP servers close an idle one, so that a request is not sent into a closing connection.
pub(crate) const IDLE: Duration = Duration::from_secs(4);

/// Idle connections kept per target, by each lane.
pub(crate) const MAX_IDLE: usize = 64;

/// How often those that nobody took are looked through.
const SWEEP: Duration = Duration::from_secs(1);

type Idle = BTreeMap<SocketAddr, Vec<(Instant, Wire)>>;

/// The connections of all targets; the one that was used last is taken first. Each lane has its own: a connection wakes the
/// thread that it was made on.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    connector: Connector,
    /// By lane; the first is of who is on none.
    idle: Vec<Mutex<Idle>>,
}

impl Pool {
    /// For as many lanes as there are processors; where there are more, some share.
    pub(crate) fn new(connector: Connector) -> Self {
        let lanes = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let idle = std::iter::repeat_with(Mutex::default).take(lanes.saturating_add(1)).collect();
        Self(Arc::new(Shared { connector, idle }))
    }

    /// What waits for who asks.
    fn idle(&self) -> Option<MutexGuard<'_, Idle>> {
        let at = lanes::current().checked_rem(self.0.idle.len())?;
        self.0.idle.get(at).map(Mutex::lock)
    }

    /// Closes connections that nobody takes any more, for as long as it is polled.
    pub(crate) async fn sweep(self) -> Result<Infallible, Infallible> {
        loop {
            sleep(SWEEP).await;
            let now = Instant::now();
            for idle in &self.0.idle {
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
            let (since, mut wire) = self.idle()?.get_mut(&target)?.pop()?;
            if now.saturating_duration_since(since) < IDLE && is_quiet(&mut wire, cx) {
                return Some(wire);
            }
        }
    }

    /// Keeps a connection on which nothing is open since `now`, and the room for what it says next.
    pub(super) fn keep(&self, wire: Wire, room: BytesMut, now: Instant) {
        let Some(mut idle) = self.idle() else { return };
        let kept = idle.entry(wire.target).or_default();
        if kept.len() < MAX_IDLE {
            kept.push((now, Wire { read: room, ..wire }));
        }
    }
}

/// Neither closed nor with a word that nobody asked for.
fn is_quiet(wire: &mut Wire, cx: &mut Context<'_>) -> bool {
    let mut byte = [0];
    Pin::new(&mut wire.io).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
}
