//! Assertions that were used: what is known of them, and where that is kept.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_proxy_core::identity::{Assertion, AssertionError, Replays, UsedAssertion};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

/// Keeps which assertions were used.
pub trait AssertionStore: Send + Sync {
    /// Keeps that an assertion was used; once it resolves that is durable. False where it was kept before.
    ///
    /// One that was being kept may be kept also where the future is dropped or fails.
    fn keep(
        &self,
        used: UsedAssertion,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<bool, Box<dyn Error + Send + Sync>>>;
}

/// Why an assertion gets no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UseError {
    /// It is refused.
    #[error(transparent)]
    Refused(#[from] AssertionError),
    /// That it was used could not be kept.
    #[error("the use of the assertion could not be stored")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

/// Uses assertions up, each once.
#[derive(Clone)]
pub struct UsedAssertions {
    known: Arc<Mutex<Replays>>,
    store: Arc<dyn AssertionStore>,
}

impl UsedAssertions {
    /// Begins with what `store` has kept before.
    #[must_use]
    pub fn new(store: Arc<dyn AssertionStore>, kept: impl IntoIterator<Item = UsedAssertion>) -> Self {
        let mut known = Replays::default();
        known.restore(kept);
        Self { known: Arc::new(Mutex::new(known)), store }
    }

    /// Uses an assertion up; what it opens may be given once this is durable.
    ///
    /// # Cancel safety
    ///
    /// One whose future is dropped counts as used.
    pub(crate) async fn use_up(
        &self,
        service: ServiceKey,
        assertion: &Assertion,
        now: Timestamp,
    ) -> Result<(), UseError> {
        let used = self.known.lock().use_up(service, assertion, now)?;
        match self.store.keep(used, now).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(AssertionError::Replayed.into()),
            Err(error) => {
                self.known.lock().give_back(&used);
                Err(UseError::Failed(error))
            }
        }
    }
}

impl fmt::Debug for UsedAssertions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UsedAssertions")
    }
}
