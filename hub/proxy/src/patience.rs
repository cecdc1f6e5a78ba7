//! How long a connection of HTTP/2 may do nothing, and its answers may stay unread.
//!
//! The library closes neither: pings keep an idle connection alive, and a stream whose window is never
//! opened waits for ever, with what it holds at the service.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::progress::Progress;
use crate::rarely::Rarely;
use crate::streams::{Running, Streams};

/// How long an idle client may take to agree that the connection ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// Looks in the shorter of the two times.
const LOOKS: u32 = 4;

/// The time limits of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Without an open request.
    pub(crate) idle: Duration,
    /// With a piece of an answer that the client does not take.
    pub(crate) reader: Duration,
}

impl Patience {
    /// Runs a connection and its streams; from `drain` on, and once it idles, it ends with the requests that are open on it.
    pub(crate) async fn drive<C>(
        self,
        (mut connection, streams): (Pin<&mut C>, Streams),
        finish: fn(Pin<&mut C>),
        progress: &Progress,
        drain: &CancellationToken,
    ) -> hyper::Result<()>
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let mut streams = Running::new(streams);
        let mut drained = Rarely::new(drain.cancelled());
        let mut finished: Option<Instant> = None;
        let pace = self.idle.min(self.reader) / LOOKS;
        let mut looks = interval(pace.max(Duration::from_millis(10)));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = &mut drained, if finished.is_none() => {
                    finish(connection.as_mut());
                    streams.look();
                    finished = Some(Instant::now());
                }
                ended = poll_fn(|cx| streams.poll(connection.as_mut(), cx)) => return ended,
                _ = looks.tick() => {
                    if progress.look(self.reader).is_dead {
                        return Ok(());
                    }
                    let idle = progress.idle_for();
                    match finished {
                        None if idle.is_some_and(|idle| idle >= self.idle) => {
                            finish(connection.as_mut());
                            streams.look();
                            finished = Some(Instant::now());
                        }
                        Some(since) if idle.is_some() && since.elapsed() >= FAREWELL => {
                            debug!("an idle client does not agree to the end of its connection");
                            return Ok(());
                        }
                        None | Some(_) => {}
                    }
                }
            }
        }
    }
}
