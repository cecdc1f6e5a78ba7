//! TLS of services as the operator changes it: over the JSON API, over the proxy, and for blueprints.

use std::sync::Arc;

use arc_swap::ArcSwap;
use blueprint_common_runtime::tasks::{Spawner, Supervisor};
use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy::Proxy;
use blueprint_hub_proxy::acme::{AcmeState, AcmeStatus};
use blueprint_hub_proxy_core::Trust;
use blueprint_hub_proxy_core::tls::{
    CertificateRequest, CertificateView, IssuedCertificate, NewProfile, Serial, TlsAdmin, TlsAdminError,
    TlsView,
};
use futures_util::future::{BoxFuture, FutureExt};

use super::profiles::{Done, Profiles};
use super::services::{RENEW, TlsServices};
use crate::tables::TablesHandle;

/// Runs each change in a task of its own: between what is stored and what is in force, no client that leaves
/// may come.
pub(crate) struct TlsOperator {
    profiles: Arc<Profiles>,
    tables: TablesHandle,
    acme: Option<Arc<AcmeStatus>>,
    spawner: Spawner,
}

impl TlsOperator {
    /// Also has server certificates made again before they end.
    pub(crate) fn new(
        services: Arc<TlsServices>,
        (tables, trust): (TablesHandle, Arc<ArcSwap<Trust>>),
        acme: Option<Arc<AcmeStatus>>,
        supervisor: &Supervisor,
    ) -> Self {
        let (stop, renewed) = (supervisor.stop().stop, tables.clone());
        crate::app::spawn(supervisor, "proxy service certificates", async move {
            while stop.run_until_cancelled(tokio::time::sleep(RENEW)).await.is_some() {
                // What fails is logged and tried again there.
                let _ = renewed.reload().await;
            }
        });
        let profiles = Arc::new(Profiles::new(services, tables.clone(), trust));
        Self { profiles, tables, acme, spawner: supervisor.child_spawner() }
    }

    /// Notes where the proxy listens.
    pub(crate) fn listens(&self, proxy: &Proxy) -> anyhow::Result<()> {
        self.profiles.listens(proxy)
    }

    /// What ACME is doing, where certificates are ordered.
    pub(crate) fn acme(&self) -> Option<AcmeState> {
        self.acme.as_ref().map(|status| status.state())
    }

    /// What the proxy decides by.
    pub(crate) const fn tables(&self) -> &TablesHandle {
        &self.tables
    }

    /// Runs a change to its end, also where the caller is dropped.
    fn finish<T, F>(&self, change: impl FnOnce(Arc<Profiles>) -> F) -> BoxFuture<'_, Done<T>>
    where
        T: Send + 'static,
        F: Future<Output = Done<T>> + Send + 'static,
    {
        let change = change(Arc::clone(&self.profiles));
        async move {
            let done = self.spawner.finish("tls of a service", change).await;
            done.unwrap_or(Err(TlsAdminError::Failed("the hub is stopping", None)))
        }
        .boxed()
    }
}

impl TlsAdmin for TlsOperator {
    fn show(&self, service: ServiceKey) -> BoxFuture<'_, Done<Option<TlsView>>> {
        self.profiles.show(service).boxed()
    }

    fn set(&self, service: ServiceKey, profile: NewProfile) -> BoxFuture<'_, Done<TlsView>> {
        self.finish(move |profiles| async move { profiles.put(service, profile).await })
    }

    fn remove(&self, service: ServiceKey) -> BoxFuture<'_, Done<bool>> {
        self.finish(move |profiles| async move { profiles.remove(service).await })
    }

    fn issue(
        &self,
        service: ServiceKey,
        request: CertificateRequest,
    ) -> BoxFuture<'_, Done<IssuedCertificate>> {
        self.finish(move |profiles| async move { profiles.make(service, request).await })
    }

    fn certificates(&self) -> BoxFuture<'_, Done<Vec<CertificateView>>> {
        self.profiles.certificates().boxed()
    }

    fn revoke(&self, service: ServiceKey, serial: Serial) -> BoxFuture<'_, Done<bool>> {
        self.finish(move |profiles| async move { profiles.revoke(service, serial).await })
    }
}
