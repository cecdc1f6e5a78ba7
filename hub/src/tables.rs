//! Keeps what the proxy decides by equal to the registry and to the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy::{ApiKey, KeyStore, KeyStoreError};
use blueprint_hub_proxy_core::identity::{KeyGrant, KeyHash, KeyId, KeyTable, SealingKey};
use blueprint_hub_proxy_core::{AccessGrant, AccessTable, RouteTable, Scope, Service, Target, Trust};
use blueprint_hub_registry::RegistrarHandle;
use blueprint_hub_registry_core::{
    AccessScope, AccessTokenRecord, ApiKeyError, ApiKeyRecord, MAX_KEYS_OF_OWNER, RegistrySnapshot,
    ServiceRecord, Store, StoreError,
};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::tls::TlsServices;

/// Reloads that wait at most.
const QUEUE: usize = 16;

/// Asks for fresh tables.
#[derive(Debug, Clone)]
pub(crate) struct TablesHandle(mpsc::Sender<oneshot::Sender<()>>);

impl TablesHandle {
    /// Resolves when the proxy decides by what the store holds now.
    pub(crate) async fn reload(&self) {
        let (reply, done) = oneshot::channel();
        if self.0.send(reply).await.is_ok() {
            let _ = done.await;
        }
    }
}

/// The task that writes the tables.
pub(crate) struct TablesTask {
    trust: Arc<ArcSwap<Trust>>,
    store: Arc<dyn Store>,
    registrar: RegistrarHandle,
    tls: Arc<TlsServices>,
    reloads: mpsc::Receiver<oneshot::Sender<()>>,
}

impl TablesTask {
    /// Loads the tables once, so that the proxy never starts without them.
    pub(crate) async fn new(
        store: Arc<dyn Store>,
        registrar: RegistrarHandle,
        sealing: Arc<SealingKey>,
        tls: Arc<TlsServices>,
    ) -> Result<(Self, TablesHandle, Arc<ArcSwap<Trust>>), StoreError> {
        let (sender, reloads) = mpsc::channel(QUEUE);
        let mut trust = Trust::empty(sealing);
        trust.routes = route_table(&registrar.snapshot());
        tls.follow(trust.routes.services());
        read(store.as_ref(), &tls, &mut trust).await?;
        let trust = Arc::new(ArcSwap::from_pointee(trust));
        let task = Self { trust: Arc::clone(&trust), store, registrar, tls, reloads };
        Ok((task, TablesHandle(sender), trust))
    }

    /// Follows the registry and the reloads until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut snapshots = self.registrar.snapshots();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let routes = route_table(&snapshots.borrow_and_update());
                    self.tls.follow(routes.services());
                    let trust = Trust { routes, ..Trust::clone(&self.trust.load()) };
                    self.trust.store(Arc::new(trust));
                }
                Some(reply) = self.reloads.recv() => {
                    // One reading is enough for all who wait.
                    let mut waiting = vec![reply];
                    while let Ok(reply) = self.reloads.try_recv() {
                        waiting.push(reply);
                    }
                    self.reload().await;
                    for reply in waiting {
                        let _ = reply.send(());
                    }
                }
            }
        }
    }

    async fn reload(&self) {
        let mut trust = Trust::clone(&self.trust.load());
        match read(self.store.as_ref(), &self.tls, &mut trust).await {
            Ok(()) => self.trust.store(Arc::new(trust)),
            Err(error) => error!(%error, "credentials not reloaded, the proxy decides by the old ones"),
        }
    }
}

/// Reads everything that the store knows of clients.
async fn read(store: &dyn Store, tls: &TlsServices, trust: &mut Trust) -> Result<(), StoreError> {
    trust.access = access_table(store.list_access_tokens().await?);
    trust.keys = key_table(store.list_api_keys().await?)?;
    trust.services = services(store.list_services().await?)?;
    trust.tls = tls.load().await?;
    Ok(())
}

fn access_table(records: Vec<AccessTokenRecord>) -> AccessTable {
    AccessTable::new(records.into_iter().map(|record| {
        let scope = match record.services {
            AccessScope::All => Scope::All,
            AccessScope::Only(services) => Scope::Only(services),
        };
        let grant = AccessGrant {
            hash: record.hash,
            label: record.label,
            scope,
            expires_at: record.expires_at,
            is_revoked: record.revoked_at.is_some(),
        };
        (record.id, grant)
    }))
}

fn key_table(records: Vec<ApiKeyRecord>) -> Result<KeyTable, StoreError> {
    let read = |record: ApiKeyRecord| {
        let damaged = || StoreError::Damaged(format!("the api key {}", record.id));
        let grant = KeyGrant {
            hash: KeyHash::from_bytes(record.hash),
            service: record.service,
            headers: serde_json::from_str(&record.headers).map_err(|_| damaged())?,
            expires_at: record.expires_at,
            is_revoked: record.revoked_at.is_some(),
            owner: record.owner.clone(),
        };
        Ok((KeyId::parse(&record.id).ok_or_else(damaged)?, grant))
    };
    Ok(KeyTable::new(records.into_iter().map(read).collect::<Result<Vec<_>, StoreError>>()?))
}

fn services(records: Vec<ServiceRecord>) -> Result<BTreeMap<ServiceKey, Arc<Service>>, StoreError> {
    let read = |record: ServiceRecord| {
        let damaged = |why: String| StoreError::Damaged(format!("the settings of {}: {why}", record.service));
        let settings = serde_json::from_str(&record.document).map_err(|error| damaged(error.to_string()))?;
        let service = Service::new(settings).map_err(|error| damaged(error.to_string()))?;
        Ok((record.service, Arc::new(service)))
    };
    records.into_iter().map(read).collect()
}

fn route_table(snapshot: &RegistrySnapshot) -> RouteTable {
    let targets = snapshot.targets.values().map(|record| {
        let target = Target {
            address: record.address,
            health: record.health,
            reason: record.reason.clone(),
            agent: record.key.agent,
        };
        (record.key.service, target)
    });
    RouteTable::new(snapshot.by_service.keys().copied(), targets)
}

/// API keys in the hub's store.
pub(crate) struct StoredKeys {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) tables: TablesHandle,
}

impl KeyStore for StoredKeys {
    fn create(&self, key: ApiKey) -> BoxFuture<'_, Result<(), KeyStoreError>> {
        async move {
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
            match self.store.create_api_key(record, MAX_KEYS_OF_OWNER).await {
                Ok(()) => {}
                Err(ApiKeyError::TooMany { live }) => {
                    let count = usize::try_from(live).unwrap_or(usize::MAX);
                    return Err(KeyStoreError::TooMany { count });
                }
                Err(ApiKeyError::Store(error)) => return Err(failed(error)),
            }
            self.tables.reload().await;
            Ok(())
        }
        .boxed()
    }
}
