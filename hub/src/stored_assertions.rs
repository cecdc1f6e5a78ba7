//! Used assertions of OAuth issuers in the hub's store.

use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use blueprint_common_types::Timestamp;
use blueprint_hub_proxy::{AssertionStore, UsedAssertions};
use blueprint_hub_proxy_core::identity::UsedAssertion;
use blueprint_hub_registry_core::{AssertionRecord, Store};
use futures_util::future::{BoxFuture, FutureExt};

struct StoredAssertions(Arc<dyn Store>);

impl AssertionStore for StoredAssertions {
    fn keep(
        &self,
        UsedAssertion { service, hash, until }: UsedAssertion,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<bool, Box<dyn Error + Send + Sync>>> {
        async move {
            let kept = self.0.use_assertion(AssertionRecord { service, hash, until }, now).await;
            Ok(kept?)
        }
        .boxed()
    }
}

/// What was used before this start, and where uses are kept from now on.
pub(crate) async fn load(store: &Arc<dyn Store>) -> Result<UsedAssertions> {
    let now = Timestamp::from(SystemTime::now());
    let kept = store.list_assertions(now).await.context("cannot load which assertions were used")?;
    let kept = kept.into_iter().map(|AssertionRecord { service, hash, until }| UsedAssertion {
        service,
        hash,
        until,
    });
    Ok(UsedAssertions::new(Arc::new(StoredAssertions(Arc::clone(store))), kept))
}
