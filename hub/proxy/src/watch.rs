//! Whether what let a request in still holds, asked while the request is open.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use blueprint_common_types::Timestamp;
use blueprint_hub_proxy_core::{Admission, Refusal, Trust};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long after a revocation what was open before may go on, at most.
const EVERY: Duration = Duration::from_secs(1);

/// Timers that one connection keeps for its next requests.
const MAX_SPARE: usize = 4;

/// Timers of one connection that nobody waits for now.
///
/// To set one costs more than most of what is done for a request, so they are left running: one that ends early
/// is only set again where somebody waits for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timers(Arc<Mutex<Vec<Pin<Box<Sleep>>>>>);

impl Timers {
    fn take(&self, due: Instant) -> Pin<Box<Sleep>> {
        let spare = self.0.lock().pop().filter(|spare| spare.deadline() <= due);
        spare.unwrap_or_else(|| Box::pin(sleep_until(due)))
    }

    fn keep(&self, timer: Pin<Box<Sleep>>) {
        let mut spare = self.0.lock();
        if spare.len() < MAX_SPARE {
            spare.push(timer);
        }
    }
}

/// Watches one request; costs next to nothing where the request is over sooner than the first look.
pub(crate) struct Watch {
    admission: Arc<Admission>,
    trust: Arc<ArcSwap<Trust>>,
    timers: Timers,
    timer: Option<Pin<Box<Sleep>>>,
    looked_at: Instant,
}

impl Watch {
    /// For a request that was let in at `looked_at`.
    pub(crate) fn new(
        admission: Arc<Admission>,
        trust: Arc<ArcSwap<Trust>>,
        timers: Timers,
        looked_at: Instant,
    ) -> Self {
        Self { admission, trust, timers, timer: None, looked_at }
    }

    /// Looks where the last look is long enough ago; wakes nobody. For whoever is busy with one piece after the
    /// other: a client that reads slowly may take minutes for a few of them.
    pub(crate) fn glance(&mut self, now: Instant) -> Option<Refusal> {
        if now.saturating_duration_since(self.looked_at) < EVERY { None } else { self.look() }
    }

    fn look(&mut self) -> Option<Refusal> {
        self.looked_at = Instant::now();
        let now = Timestamp::from(SystemTime::now());
        self.admission.still_holds(&self.trust.load(), now).err()
    }

    /// Ready once the request has to end; wakes the task for each look.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        loop {
            let due = self.looked_at + EVERY;
            let timer = self.timer.get_or_insert_with(|| self.timers.take(due));
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= due
                && let Some(refusal) = self.look()
            {
                return Poll::Ready(refusal);
            }
            if let Some(timer) = &mut self.timer {
                timer.as_mut().reset(self.looked_at + EVERY);
            }
        }
    }

    /// Resolves once the request has to end.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> Refusal {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.timers.keep(timer);
        }
    }
}
