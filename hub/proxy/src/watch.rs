//! Whether what let a request in still holds, asked while the request is open.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use blueprint_common_types::Timestamp;
use blueprint_hub_proxy_core::{Admission, Refusal, Trust};
use tokio::time::{Instant, Sleep, sleep};

/// How long after a revocation what was open before may go on, at most.
const EVERY: Duration = Duration::from_secs(1);

/// Watches one request; costs nothing where the request is over sooner than the first look.
pub(crate) struct Watch {
    admission: Admission,
    trust: Arc<ArcSwap<Trust>>,
    next: Option<Pin<Box<Sleep>>>,
    looked_at: Instant,
}

impl Watch {
    pub(crate) fn new(admission: Admission, trust: Arc<ArcSwap<Trust>>) -> Self {
        Self { admission, trust, next: None, looked_at: Instant::now() }
    }

    /// Looks where the last look is long enough ago; wakes nobody. For whoever is busy with one piece after the
    /// other: a client that reads slowly may take minutes for a few of them.
    pub(crate) fn glance(&mut self) -> Option<Refusal> {
        if self.looked_at.elapsed() < EVERY { None } else { self.look() }
    }

    fn look(&mut self) -> Option<Refusal> {
        self.looked_at = Instant::now();
        let now = Timestamp::from(SystemTime::now());
        self.admission.still_holds(&self.trust.load(), now).err()
    }

    /// Ready once the request has to end; wakes the task for each look.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        loop {
            let next = self.next.get_or_insert_with(|| Box::pin(sleep(EVERY)));
            ready!(next.as_mut().poll(cx));
            self.next = None;
            if let Some(refusal) = self.look() {
                return Poll::Ready(refusal);
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
