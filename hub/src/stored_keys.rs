//! API keys of owners in the hub's store.

use std::sync::Arc;

use blueprint_common_runtime::tasks::Spawner;
use blueprint_hub_proxy::{ApiKey, KeyStore, KeyStoreError};
use blueprint_hub_registry_core::{ApiKeyError, ApiKeyRecord, MAX_KEYS_OF_OWNER, Store, StoreError};
use futures_util::future::{BoxFuture, FutureExt};

use crate::tables::TablesHandle;

/// Keeps keys in the store, and has the proxy decide by them.
pub(crate) struct StoredKeys {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tables: TablesHandle,
    pub(crate) spawner: Spawner,
}

impl KeyStore for StoredKeys {
    fn create(&self, key: ApiKey) -> BoxFuture<'_, Result<(), KeyStoreError>> {
        let create = create(Arc::clone(&self.store), self.tables.clone(), key);
        async move {
            // A client that leaves takes no key with it that is stored and not in force.
            let created = self.spawner.finish("api key", create).await;
            created.unwrap_or_else(|| Err(KeyStoreError::Failed("the hub is stopping".into())))
        }
        .boxed()
    }
}

async fn create(store: Arc<dyn Store>, tables: TablesHandle, key: ApiKey) -> Result<(), KeyStoreError> {
    let failed = |error: StoreError| KeyStoreError::Failed(Box::new(error));
    let headers = serde_json::to_string(&key.headers).unwrap_or_default();
    let record = ApiKeyRecord {
        id: key.id.to_string(),
        hash: *key.hash.as_bytes(),
        service: key.service,
        owner: key.owner.to_string(),
        headers,
        created_at: key.created_at,
        expires_at: key.expires_at,
        revoked_at: None,
    };
    match store.create_api_key(record, MAX_KEYS_OF_OWNER).await {
        Ok(()) => Ok(tables.reload().await?),
        Err(ApiKeyError::TooMany { live }) => {
            Err(KeyStoreError::TooMany { count: usize::try_from(live).unwrap_or(usize::MAX) })
        }
        Err(ApiKeyError::Store(error)) => Err(failed(error)),
    }
}
