//! One cloud: how often it may be called, and whether at all.

use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::lifecycle::{Backoff, Breaker, Bucket, Dice, Hold};
use blueprint_hub_provision_core::{CloudCall, ErrorClass, Provider, ProviderError};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use crate::metrics::ProvisionMetrics;

/// After this long a call is not tried again (`providers.md` 8.4); how long one try takes is for its provider to say.
const ALL_WITHIN: Duration = Duration::from_secs(120);

/// Longest pause that a cloud's own word makes: the window in which the slowest of them count calls.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Tries of one call.
const TRIES: u32 = 5;

/// The ways to one cloud; cheap to clone.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) provider: Arc<dyn Provider>,
    gate: Arc<Mutex<Gate>>,
    /// Read by every order that is being given.
    orders: Arc<RwLock<()>>,
    began: Instant,
    metrics: ProvisionMetrics,
}

struct Gate {
    bucket: Bucket,
    breaker: Breaker,
    /// Until then the cloud wants no calls, as it said itself.
    not_before: Timestamp,
    dice: Dice,
    error: Option<String>,
    /// What it said when it last refused the account itself.
    denied: Option<String>,
}

impl Way {
    pub(crate) fn new(provider: Arc<dyn Provider>, seed: u64, metrics: ProvisionMetrics) -> Self {
        let gate = Gate {
            bucket: Bucket::new(provider.rate()),
            breaker: Breaker::default(),
            not_before: Timestamp::default(),
            dice: Dice::new(seed),
            error: None,
            denied: None,
        };
        let (gate, orders) = (Arc::new(Mutex::new(gate)), Arc::default());
        Self { provider, gate, orders, began: Instant::now(), metrics }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.provider.name()
    }

    /// How long one try of a call may take.
    pub(crate) fn within(&self, call: CloudCall) -> Duration {
        self.provider.within(call).min(CloudCall::LONGEST)
    }

    /// False while calls pause because the cloud failed again and again, or because it asked for a pause that is longer
    /// than a call waits.
    pub(crate) fn is_open(&self) -> bool {
        let now = self.now();
        let gate = self.gate.lock();
        gate.breaker.is_closed(now) && gate.not_before.since(now) <= ALL_WITHIN
    }

    /// What the last call failed with; `None` where it worked.
    pub(crate) fn error(&self) -> Option<String> {
        self.gate.lock().error.clone()
    }

    /// What the cloud said when it refused the account; `None` since it took another call. Offers do not count, since some
    /// providers know theirs without asking.
    pub(crate) fn denied(&self) -> Option<String> {
        self.gate.lock().denied.clone()
    }

    /// Time by the clock that only runs.
    fn now(&self) -> Timestamp {
        Timestamp::default().plus(self.began.elapsed())
    }

    /// Waits until orders are not held; they are not while the guard is there.
    pub(crate) async fn ordering(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.orders).read_owned().await
    }

    /// Has orders wait; `None` where one is being given, or they do already.
    pub(crate) fn hold(&self) -> Option<Hold> {
        let held = Arc::clone(&self.orders).try_write_owned().ok()?;
        Some(Box::new(held))
    }

    /// Waits for its turn, and until the cloud wants calls again.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Throttle`] with what is left, where that is longer than a call waits: nothing may be called.
    pub(crate) async fn turn(&self) -> Result<(), ProviderError> {
        let wait = self.gate.lock().bucket.take(self.now());
        sleep(wait).await;
        // What was called meanwhile may have been answered with another pause.
        loop {
            let now = self.now();
            let left = self.gate.lock().not_before.since(now);
            if left > ALL_WITHIN {
                return Err(ProviderError::Throttle { retry_after: Some(left) });
            }
            if left.is_zero() {
                return Ok(());
            }
            sleep(left).await;
        }
    }

    /// Makes a call whose turn it is, and again after a pause where that is safe: where nothing was done, or where
    /// `is_harmless` says that doing it twice does no harm.
    pub(crate) async fn call<'a, T>(
        &self,
        call: CloudCall,
        is_harmless: bool,
        make: impl Fn() -> BoxFuture<'a, Result<T, ProviderError>> + Send + Sync,
    ) -> Result<T, ProviderError> {
        let (began, within, call) = (Instant::now(), self.within(call), call.label());
        for tried in 1.. {
            let result = match timeout(within, make()).await {
                Ok(result) => result,
                Err(late) => Err(ProviderError::Other { call, source: Box::new(late) }),
            };
            let error = match result {
                Ok(value) => {
                    self.worked(call);
                    return Ok(value);
                }
                Err(error) => error,
            };
            let wait = self.failed(call, &error, tried);
            let may_repeat = match error.class() {
                ErrorClass::Throttle | ErrorClass::Again => true,
                ErrorClass::Unknown => is_harmless,
                ErrorClass::Deny
                | ErrorClass::Reject
                | ErrorClass::Quota
                | ErrorClass::NoQuota
                | ErrorClass::Capacity
                | ErrorClass::NotSold => false,
            };
            let is_over = tried >= TRIES || began.elapsed().saturating_add(wait) > ALL_WITHIN;
            if !may_repeat || is_over || !self.is_open() {
                return Err(error);
            }
            sleep(wait).await;
            self.turn().await?;
        }
        Err(ProviderError::Busy { reason: "no try was made".to_owned() })
    }

    fn worked(&self, call: &'static str) {
        self.metrics.called(self.name(), call, "ok");
        let mut gate = self.gate.lock();
        gate.breaker.handle_success();
        gate.error = None;
        if call != CloudCall::Offers.label() {
            gate.denied = None;
        }
    }

    /// Notes a failure and says how long to wait before the next try.
    fn failed(&self, call: &'static str, error: &ProviderError, tried: u32) -> Duration {
        let class = error.class();
        self.metrics.called(self.name(), call, class.label());
        debug!(
            provider = self.name(),
            call,
            attempt = tried,
            reason = class.label(),
            error = error.line(),
            "call failed"
        );
        let now = self.now();
        let mut gate = self.gate.lock();
        gate.error = Some(format!("{call}: {}", error.line()));
        if class == ErrorClass::Deny {
            gate.denied = Some(error.line());
        }
        if error.counts_for_breaker() && gate.breaker.handle_failure(now) {
            warn!(
                provider = self.name(),
                error = error.line(),
                "calls to this cloud pause: it fails again and again"
            );
        }
        let asked = match error {
            ProviderError::Throttle { retry_after } => *retry_after,
            ProviderError::Busy { .. }
            | ProviderError::Deny { .. }
            | ProviderError::Reject { .. }
            | ProviderError::Quota { .. }
            | ProviderError::Capacity { .. }
            | ProviderError::NotSold { .. }
            | ProviderError::Unsupported { .. }
            | ProviderError::Unsent { .. }
            | ProviderError::Unclear { .. }
            | ProviderError::Other { .. } => None,
        };
        if let Some(asked) = asked {
            gate.not_before = gate.not_before.max(now.plus(asked.min(LONGEST_PAUSE)));
        }
        Backoff::CLOUD.wait(tried, asked, &mut gate.dice)
    }
}
