//! Keeps what the proxy decides by equal to the registry and to the store.
//!
//! Where the store cannot be read after a change, who waits for it is told so, and reading is tried again until
//! it works: what was revoked never stays open because nobody asked twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use blueprint_common_runtime::Chain;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::identity::{KeyGrant, KeyHash, KeyId, KeyTable, SealingKey};
use blueprint_hub_proxy_core::{
    AccessGrant, AccessTable, NotInForce, RouteTable, Scope, Service, Target, Trust,
};
use blueprint_hub_registry::RegistrarHandle;
use blueprint_hub_registry_core::{
    AccessScope, AccessTokenRecord, ApiKeyRecord, RegistrySnapshot, ServiceRecord, Store, StoreError,
};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::tls::TlsServices;

/// Reloads that wait at most.
const QUEUE: usize = 16;

/// How long after a reading that failed the next one comes: bounds how long what was revoked still opens
/// something once the store can be read again.
const RETRY: Duration = Duration::from_secs(1);

/// Every so many failures in a row are said again: about once a minute.
const SAY_AGAIN: u64 = 60;

/// Where the answer to one who waits for a reading goes.
type Reply = oneshot::Sender<Result<(), NotInForce>>;

/// Asks for fresh tables.
#[derive(Debug, Clone)]
pub(crate) struct TablesHandle {
    reloads: mpsc::Sender<Reply>,
    /// Readings that failed in a row; 0 while the proxy decides by what is stored.
    failures: watch::Receiver<u64>,
}

impl TablesHandle {
    /// Resolves when the proxy decides by what the store holds now.
    ///
    /// # Errors
    ///
    /// Where that cannot be read; the proxy goes on by what it knows, and reading is tried again each second.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it was polled to its first wait leaves the tables as they are: call it from a task that
    /// is finished whoever leaves.
    pub(crate) async fn reload(&self) -> Result<(), NotInForce> {
        let (reply, done) = oneshot::channel();
        self.reloads.send(reply).await.map_err(|_| NotInForce)?;
        done.await.map_err(|_| NotInForce)?
    }
}

/// The task that writes the tables.
pub(crate) struct TablesTask {
    trust: Arc<ArcSwap<Trust>>,
    store: Arc<dyn Store>,
    registrar: RegistrarHandle,
    tls: Arc<TlsServices>,
    reloads: mpsc::Receiver<Reply>,
    failures: watch::Sender<u64>,
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
        let (failures, counted) = watch::channel(0);
        let mut trust = Trust::empty(sealing);
        trust.routes = route_table(&registrar.snapshot());
        tls.follow(trust.routes.services());
        read(store.as_ref(), &tls, &mut trust).await?;
        let trust = Arc::new(ArcSwap::from_pointee(trust));
        let task = Self { trust: Arc::clone(&trust), store, registrar, tls, reloads, failures };
        Ok((task, TablesHandle { reloads: sender, failures: counted }, trust))
    }

    /// Follows the registry and the reloads until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut snapshots = self.registrar.snapshots();
        let mut retry_at: Option<Instant> = None;
        loop {
            let retry = async {
                match retry_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
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
                    let held = self.reload().await;
                    for reply in waiting {
                        let _ = reply.send(held);
                    }
                    retry_at = held.is_err().then(|| Instant::now() + RETRY);
                }
                () = retry => {
                    let held = self.reload().await;
                    retry_at = held.is_err().then(|| Instant::now() + RETRY);
                }
            }
        }
    }

    async fn reload(&self) -> Result<(), NotInForce> {
        let mut trust = Trust::clone(&self.trust.load());
        let failures = *self.failures.borrow();
        match read(self.store.as_ref(), &self.tls, &mut trust).await {
            Ok(()) => {
                self.trust.store(Arc::new(trust));
                if failures > 0 {
                    info!(failures, "credentials reloaded, what was stored is in force");
                }
                self.failures.send_replace(0);
                Ok(())
            }
            Err(error) => {
                if failures.is_multiple_of(SAY_AGAIN) {
                    error!(
                        error = %Chain(&error), failures,
                        "credentials not reloaded, the proxy decides by the old ones and tries again each second"
                    );
                }
                self.failures.send_replace(failures.saturating_add(1));
                Err(NotInForce)
            }
        }
    }
}

/// Adds the gauge of what is stored and not in force.
pub(crate) fn register_metrics(metrics: &Metrics, tables: TablesHandle) {
    metrics.with(|registry| registry.register_collector(Box::new(TablesCollector(tables))));
}

#[derive(Debug)]
struct TablesCollector(TablesHandle);

impl Collector for TablesCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauge = ConstGauge::new(i64::from(*self.0.failures.borrow() > 0));
        let help =
            "1 while what is stored of credentials and settings cannot be read, so that the old ones hold";
        gauge.encode(encoder.encode_descriptor("hub_proxy_tables_stale", help, None, MetricType::Gauge)?)
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
            weight: record.weight,
        };
        (record.key.service, target)
    });
    RouteTable::new(snapshot.by_service.keys().copied(), targets)
}

#[cfg(test)]
mod tests;
