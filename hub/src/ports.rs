//! Connects the parts that know each other only as traits.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use blueprint_common_runtime::http_get::Page;
use blueprint_common_tunnel::Tunnel;
use blueprint_common_tunnel_core::PeerConfig;
use blueprint_common_types::workload::Bundle;
use blueprint_common_types::{
    AgentId, DoorTicket, OverlayLease, ServiceKey, Timestamp, TokenId, WgPublicKey,
};
use blueprint_hub_admin::{
    AccountDesk, AcmeView, ArtefactShelf, Hub, LogsStream, Overlay, PeerView, PromiseFailed, Qos,
    RemoveFailed, ScrapeFailed, SettingsRefused,
};
use blueprint_hub_provision_core::catalogue::PriceDesk;
use blueprint_hub_provision_core::cost::CostDesk;
use blueprint_hub_provision_core::lifecycle::Deployer;
use blueprint_hub_provision_core::scaling::ScaleDesk;
use blueprint_hub_proxy::Ledger;
use blueprint_hub_proxy_core::identity::IdentitySigner;
use blueprint_hub_proxy_core::tls::TlsAdmin;
use blueprint_hub_proxy_core::usage::{Clients, ServiceUsage};
use blueprint_hub_proxy_core::{NotInForce, Service, ServiceSettings, Trust};
use blueprint_hub_registry::{ControlPlane, Desk, LogsReader, Peers, RegistrarHandle, WorkloadsHandle};
use blueprint_hub_registry_core::qos::QosDesk;
use blueprint_hub_registry_core::workload::{
    LogsAsk, LogsError, Tally, Traffic, UpdateError, UpdateRequest, Version, WorkloadChange,
    WorkloadChangeError, WorkloadEvent, WorkloadRecord, WorkloadsView,
};
use blueprint_hub_registry_core::{Agent, RegistrySnapshot, StoreResult};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::unfold;
use serde_json::Value;
use tracing::error;

use crate::artefacts::Artefacts;
use crate::blueprints::BlueprintPort;
use crate::overlay::TunnelOverlay;
use crate::policy::PolicyHandle;
use crate::provision::Provision;
use crate::scrape::Scraper;
use crate::service_view::ServiceView;
use crate::tables::TablesHandle;
use crate::tls::TlsOperator;

/// The tunnel as the control plane sees it: who may be a peer.
#[derive(Debug, Clone)]
pub(crate) struct TunnelPeers(pub(crate) Tunnel);

/// What an agent is to the tunnel: its key, and its two addresses and no others.
pub(crate) fn peer_of(agent: &Agent) -> PeerConfig {
    PeerConfig {
        public_key: agent.wireguard_key,
        allowed_ips: vec![
            ipnetwork::IpNetwork::from(std::net::IpAddr::V4(agent.lease.v4)),
            ipnetwork::IpNetwork::from(std::net::IpAddr::V6(agent.lease.v6)),
        ],
        endpoint: None,
        preshared_key: None,
        keepalive: None,
    }
}

impl Peers for TunnelPeers {
    fn add<'a>(&'a self, agent: &'a Agent) -> BoxFuture<'a, ()> {
        async move {
            if let Err(error) = self.0.upsert_peer(peer_of(agent)).await {
                error!(agent = %agent.id, %error, "agent joined but cannot be a peer");
            }
        }
        .boxed()
    }

    fn remove<'a>(&'a self, agent: &'a Agent) -> BoxFuture<'a, ()> {
        self.0.remove_peer(agent.wireguard_key).boxed()
    }
}

/// What the proxy knows of its targets, for updates of workloads.
pub(crate) struct ProxyTraffic {
    ledger: Ledger,
    /// What the operator says of services; there before any agent is heard.
    trust: OnceLock<Arc<ArcSwap<Trust>>>,
}

impl ProxyTraffic {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { ledger, trust: OnceLock::new() }
    }

    /// Goes by these settings from now on; by the first that are given.
    pub(crate) fn follow(&self, trust: Arc<ArcSwap<Trust>>) {
        let _ = self.trust.set(trust);
    }
}

impl Traffic for ProxyTraffic {
    fn at(&self, service: ServiceKey, address: SocketAddr) -> Tally {
        let (requests, failed, open) = self.ledger.tally(service, address);
        Tally { requests, failed, open }
    }

    fn drained(&self, service: ServiceKey) -> BTreeSet<AgentId> {
        let trust = self.trust.get().map(|trust| trust.load());
        let settings = trust.as_ref().and_then(|trust| trust.services.get(&service));
        settings.map(|service| service.settings().upstream.without_share()).unwrap_or_default()
    }
}

/// The hub as the JSON API sees it.
#[derive(Clone)]
pub(crate) struct AdminHub {
    pub(crate) tunnel: Tunnel,
    pub(crate) registrar: RegistrarHandle,
    pub(crate) control: ControlPlane,
    pub(crate) tables: TablesHandle,
    pub(crate) policy: PolicyHandle,
    pub(crate) ledger: Ledger,
    pub(crate) services: ServiceView,
    pub(crate) tls: Arc<TlsOperator>,
    pub(crate) workloads: WorkloadsHandle,
    pub(crate) blueprints: Arc<BlueprintPort>,
    pub(crate) artefacts: Arc<Artefacts>,
    pub(crate) provision: Provision,
    pub(crate) scraper: Scraper,
    /// What answers about quality of service, and what signs its reports.
    pub(crate) quality: (Desk, Arc<IdentitySigner>),
    pub(crate) overlay: TunnelOverlay,
}

impl Hub for AdminHub {
    fn snapshot(&self) -> Arc<RegistrySnapshot> {
        self.registrar.snapshot()
    }

    fn peer(&self, key: &WgPublicKey) -> Option<PeerView> {
        let snapshot = self.tunnel.snapshot();
        let since = snapshot.taken_at.elapsed();
        let older = |age: Duration| age.saturating_add(since);
        snapshot.peers.get(key).map(|stats| PeerView {
            endpoint: stats.endpoint.map(|endpoint| endpoint.remote),
            carrier: stats.endpoint.map(|endpoint| endpoint.via.label()),
            mtu: stats.mtu,
            handshake_age: stats.handshake_age.map(older),
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
            last_rx: stats.last_rx.map(older),
            alive: stats.echo.alive,
        })
    }

    fn qos(&self, agent: AgentId, points: usize) -> BoxFuture<'_, Option<Qos>> {
        async move {
            let view = self.registrar.qos(agent, points).await.ok().flatten()?;
            Some((view.latest, view.series))
        }
        .boxed()
    }

    fn scrape(&self, lease: OverlayLease, path: String) -> BoxFuture<'_, Result<Page, ScrapeFailed>> {
        async move { self.scraper.page(lease, &path).await }.boxed()
    }

    fn remove(&self, agent: AgentId) -> BoxFuture<'_, Result<(), RemoveFailed>> {
        async move { self.control.remove_agent(agent).await.map_err(|error| RemoveFailed(error.to_string())) }
            .boxed()
    }

    fn promise(
        &self,
        address: Ipv4Addr,
        token: TokenId,
        until: Timestamp,
    ) -> BoxFuture<'_, Result<(), PromiseFailed>> {
        async move {
            let kept = self.registrar.promise(address, token, until).await;
            Ok(kept.map_err(|_| PromiseFailed::Stopping)??)
        }
        .boxed()
    }

    fn forget_promise(&self, token: TokenId) -> BoxFuture<'_, ()> {
        async move {
            // A registrar that is gone promises nothing any more.
            let _ = self.registrar.forget(token).await;
        }
        .boxed()
    }

    fn access_changed(&self) -> BoxFuture<'_, Result<(), NotInForce>> {
        self.tables.reload().boxed()
    }

    fn clients(&self) -> Clients {
        self.ledger.clients()
    }

    fn usage(&self, service: ServiceKey) -> Option<ServiceUsage> {
        self.ledger.usage(service)
    }

    fn check_settings(
        &self,
        key: ServiceKey,
        before: &ServiceSettings,
        service: &Service,
    ) -> Result<(), SettingsRefused> {
        self.services.check(key, before, service)
    }

    fn service_status(&self, key: ServiceKey) -> Value {
        self.services.status(key)
    }

    fn acme(&self) -> Option<AcmeView> {
        let state = self.tls.acme()?;
        Some(AcmeView {
            names: state.names.into_iter().collect(),
            not_after: state.not_after,
            next_at: state.next_at,
            failures: state.failures,
            error: state.error,
            unsaved: state.unsaved,
        })
    }

    fn tls(&self) -> &dyn TlsAdmin {
        self.tls.as_ref()
    }

    fn workloads(&self) -> Arc<WorkloadsView> {
        self.workloads.view()
    }

    fn set_workload(
        &self,
        change: WorkloadChange,
    ) -> BoxFuture<'_, Result<WorkloadRecord, WorkloadChangeError>> {
        self.workloads.set(change).boxed()
    }

    fn workload_events(&self, service: ServiceKey) -> BoxFuture<'_, StoreResult<Vec<WorkloadEvent>>> {
        self.workloads.events(service).boxed()
    }

    fn remove_workload(&self, service: ServiceKey) -> BoxFuture<'_, StoreResult<bool>> {
        async move {
            // Before it is gone, so that nobody keeps a right of it; and behind it, for what it named meanwhile.
            self.blueprints.forget_owners(service).await?;
            let removed = self.workloads.remove(service).await?;
            self.blueprints.forget_owners(service).await?;
            Ok(removed)
        }
        .boxed()
    }

    fn update_workload(&self, request: UpdateRequest) -> BoxFuture<'_, Result<WorkloadRecord, UpdateError>> {
        self.workloads.update(request).boxed()
    }

    fn abort_update(&self, service: ServiceKey) -> BoxFuture<'_, Result<(), UpdateError>> {
        self.workloads.abort_update(service).boxed()
    }

    fn workload_versions(&self, service: ServiceKey) -> BoxFuture<'_, StoreResult<Vec<Version>>> {
        self.workloads.versions(service).boxed()
    }

    fn keep_versions(&self) -> usize {
        self.workloads.keep_versions()
    }

    fn logs(&self, node: AgentId, ask: LogsAsk) -> BoxFuture<'_, Result<LogsStream, LogsError>> {
        async move {
            let reader = self.control.logs(node, ask).await?;
            let next = |mut reader: LogsReader| async move { Some((reader.next().await?, reader)) };
            Ok(unfold(reader, next).boxed())
        }
        .boxed()
    }

    fn door_ticket<'a>(&'a self, node: AgentId, ticket: &'a DoorTicket) -> BoxFuture<'a, bool> {
        self.control.door_ticket(node, ticket).boxed()
    }

    fn overlay(&self) -> &dyn Overlay {
        &self.overlay
    }

    fn artefacts(&self) -> &dyn ArtefactShelf {
        self.artefacts.as_ref()
    }

    fn costs(&self) -> &dyn CostDesk {
        &self.provision.costs
    }

    fn scaling(&self) -> &dyn ScaleDesk {
        &self.provision.scaling
    }

    fn prices(&self) -> &dyn PriceDesk {
        &self.provision.prices
    }

    fn deployer(&self) -> &dyn Deployer {
        &self.provision.orders
    }

    fn quality(&self) -> &dyn QosDesk {
        &self.quality.0
    }

    fn signer(&self) -> &IdentitySigner {
        &self.quality.1
    }

    fn accounts(&self) -> &dyn AccountDesk {
        self.provision.accounts.as_ref()
    }

    fn seal_keystore(&self, service: ServiceKey, bundle: &Bundle) -> Option<String> {
        self.blueprints.keys.seal(service, bundle)
    }

    fn open_keystore(&self, service: ServiceKey, sealed: &str) -> Option<Bundle> {
        self.blueprints.keys.open_sealed(service, sealed)
    }

    fn policy_changed(&self) -> BoxFuture<'_, bool> {
        self.policy.reload().boxed()
    }
}

/// `host` and `port` as a URL authority.
pub(crate) fn authority(address: SocketAddr) -> String {
    // What listens everywhere is reached at loopback from here.
    let ip = match address.ip() {
        ip if ip.is_unspecified() => std::net::IpAddr::from([127, 0, 0, 1]),
        ip => ip,
    };
    SocketAddr::new(ip, address.port()).to_string()
}
