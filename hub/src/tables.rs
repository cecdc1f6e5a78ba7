//! Keeps the proxy's tables equal to the registry and to the access tokens in the store.

use std::sync::Arc;

use arc_swap::ArcSwap;
use blueprint_hub_proxy::Tables;
use blueprint_hub_proxy_core::{AccessGrant, AccessTable, RouteTable, Scope, Target};
use blueprint_hub_registry::RegistrarHandle;
use blueprint_hub_registry_core::{AccessScope, AccessTokenRecord, RegistrySnapshot, Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Reloads that wait at most.
const QUEUE: usize = 16;

/// Asks for fresh access tokens.
#[derive(Debug, Clone)]
pub(crate) struct TablesHandle(mpsc::Sender<oneshot::Sender<()>>);

impl TablesHandle {
    /// Resolves when the proxy decides by what the store holds now.
    pub(crate) async fn reload_access(&self) {
        let (reply, done) = oneshot::channel();
        if self.0.send(reply).await.is_ok() {
            let _ = done.await;
        }
    }
}

/// The task that writes the tables.
pub(crate) struct TablesTask {
    tables: Arc<ArcSwap<Tables>>,
    store: Arc<dyn Store>,
    registrar: RegistrarHandle,
    reloads: mpsc::Receiver<oneshot::Sender<()>>,
}

impl TablesTask {
    /// Loads the tables once, so that the proxy never starts without them.
    pub(crate) async fn new(
        store: Arc<dyn Store>,
        registrar: RegistrarHandle,
    ) -> Result<(Self, TablesHandle, Arc<ArcSwap<Tables>>), StoreError> {
        let (sender, reloads) = mpsc::channel(QUEUE);
        let access = access_table(store.list_access_tokens().await?);
        let routes = route_table(&registrar.snapshot());
        let tables = Arc::new(ArcSwap::from_pointee(Tables { access, routes }));
        let task = Self { tables: Arc::clone(&tables), store, registrar, reloads };
        Ok((task, TablesHandle(sender), tables))
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
                    let access = self.tables.load().access.clone();
                    self.tables.store(Arc::new(Tables { access, routes }));
                }
                Some(reply) = self.reloads.recv() => {
                    self.reload().await;
                    let _ = reply.send(());
                }
            }
        }
    }

    async fn reload(&self) {
        match self.store.list_access_tokens().await {
            Ok(records) => {
                let access = access_table(records);
                let routes = self.tables.load().routes.clone();
                self.tables.store(Arc::new(Tables { access, routes }));
            }
            Err(error) => error!(%error, "access tokens not reloaded, the proxy decides by the old ones"),
        }
    }
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
