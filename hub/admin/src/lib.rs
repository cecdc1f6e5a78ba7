//! JSON API for operators: over the hub's Unix socket, and over an optional TCP port with a bearer token.
//!
//! The command line is its first client. Records of the store and answers are different types: what is
//! not named in [`views`](self) cannot leak. What needs other parts of the hub goes through [`Hub`].

mod access;
mod accounts;
mod alerts;
mod artefacts;
mod audit;
mod auth;
mod changes;
mod costs;
mod deployments;
mod error;
mod identities;
mod keys;
mod logs;
mod market;
mod nodes;
mod offers;
mod policy;
mod prices;
mod qos;
mod router;
mod scaling;
mod scrape;
mod services;
mod sessions;
mod settings;
mod tls;
mod tokens;
mod updates;
mod usage;
mod views;
mod wanted;
mod workloads;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::http_get::Page;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::workload::Bundle;
use blueprint_common_types::{
    AgentId, CaPin, DoorTicket, HubId, OverlayLease, ServiceKey, Timestamp, TokenId, WgPublicKey,
};
use blueprint_hub_provision_core::catalogue::PriceDesk;
use blueprint_hub_provision_core::cost::CostDesk;
use blueprint_hub_provision_core::lifecycle::Deployer;
use blueprint_hub_provision_core::scaling::ScaleDesk;
use blueprint_hub_proxy_core::identity::IdentitySigner;
use blueprint_hub_proxy_core::tls::TlsAdmin;
use blueprint_hub_proxy_core::usage::{Clients, ServiceUsage};
use blueprint_hub_proxy_core::{NotInForce, Service, ServiceSettings};
use blueprint_hub_registry_core::qos::QosDesk;
use blueprint_hub_registry_core::workload::{
    LogsAsk, LogsError, LogsPiece, UpdateError, UpdateRequest, Version, WorkloadChange, WorkloadChangeError,
    WorkloadEvent, WorkloadRecord, WorkloadsView,
};
use blueprint_hub_registry_core::{PromiseError, QosPoint, QosSample, RegistrySnapshot, Store, StoreResult};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

pub use accounts::{AccountDesk, AccountError, AccountView, CredentialField, CredentialOrigin};
pub use artefacts::{ArtefactBody, ArtefactLimits, ArtefactShelf, ArtefactView, PushError};
pub use auth::OperatorToken;
pub use market::{Market, Preferences, Spot};
pub use router::{metrics_router, private_router, public_router};
pub use sessions::{Overlay, SessionGates, SessionStream, Sessions};

/// What the API says of a hub and does not change while it runs.
#[derive(Debug, Clone)]
pub struct HubFacts {
    /// Version of the program.
    pub version: &'static str,
    /// Identity.
    pub id: HubId,
    /// What join lines carry.
    pub pin: CaPin,
    /// Number of this start.
    pub epoch: u64,
    /// When it started.
    pub started_at: Timestamp,
    /// Since when it counts what services use.
    pub usage_since: Timestamp,
    /// Host that join lines name.
    pub advertise_host: String,
    /// TCP port of the control plane.
    pub control_port: u16,
    /// Where the tunnel listens.
    pub tunnel: SocketAddr,
    /// Where the proxy listens, as a URL.
    pub proxy_url: String,
    /// Address that it listens on.
    pub proxy_listen: SocketAddr,
    /// Domain under which host names name services; may be empty.
    pub proxy_domain: String,
    /// Whose certificate it shows: `off`, `hub`, `files` or `acme`.
    pub proxy_tls: &'static str,
}

/// The tunnel to one agent, as the hub sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeerView {
    /// Outer address it was last heard from.
    pub endpoint: Option<SocketAddr>,
    /// What carries its datagrams: udp, quic or tls.
    pub carrier: Option<&'static str>,
    /// Largest inner packet that the way to it takes, in bytes.
    pub mtu: u16,
    /// Time since the last handshake.
    pub handshake_age: Option<Duration>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Time since anything authentic arrived.
    pub last_rx: Option<Duration>,
    /// True while its data plane echoes.
    pub alive: bool,
}

/// Certificates that the hub orders by ACME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeView {
    /// Host names.
    pub names: Vec<String>,
    /// End of the certificate in use; `None` where there is none yet.
    pub not_after: Option<Timestamp>,
    /// When the next is ordered.
    pub next_at: Timestamp,
    /// Orders that failed since the last one that did not.
    pub failures: u32,
    /// What the last of them failed with.
    pub error: Option<String>,
    /// What came and is not on the disk yet, and why.
    pub unsaved: Option<String>,
}

/// Last report and history of an agent.
pub type Qos = (Option<QosSample>, Vec<QosPoint>);

/// What a node gives of what a workload wrote; an error is the last.
pub type LogsStream = BoxStream<'static, Result<LogsPiece, LogsError>>;

/// Why an agent was not removed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RemoveFailed(pub String);

/// Why an overlay address is not kept for a join token.
#[derive(Debug, thiserror::Error)]
pub enum PromiseFailed {
    /// It is not to be had.
    #[error(transparent)]
    Refused(#[from] PromiseError),
    /// The hub is stopping.
    #[error("the hub is stopping")]
    Stopping,
}

/// Why the hub's configuration does not let a service have its settings.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SettingsRefused {
    /// What is wrong.
    pub message: String,
    /// What the operator can do about it.
    pub hint: String,
}

/// Why the metrics of a machine cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeFailed {
    /// Its agent took no connection, or it broke.
    #[error("{0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// As many of its pages as may be are being read.
    #[error("too many of its pages are being read already")]
    Busy,
}

/// The parts of the hub that the API needs beside the store.
pub trait Hub: Send + Sync {
    /// The registry.
    fn snapshot(&self) -> Arc<RegistrySnapshot>;

    /// The tunnel to one peer; `None` where it is not one.
    fn peer(&self, key: &WgPublicKey) -> Option<PeerView>;

    /// Quality of service of an agent; `None` for an unknown one.
    fn qos(&self, agent: AgentId, points: usize) -> BoxFuture<'_, Option<Qos>>;

    /// Reads metrics from the agent with this lease; `path` is one of the agent's.
    fn scrape(&self, lease: OverlayLease, path: String) -> BoxFuture<'_, Result<Page, ScrapeFailed>>;

    /// Removes an agent everywhere.
    fn remove(&self, agent: AgentId) -> BoxFuture<'_, Result<(), RemoveFailed>>;

    /// Keeps an overlay address for whoever joins with a token before `until`.
    fn promise(
        &self,
        address: Ipv4Addr,
        token: TokenId,
        until: Timestamp,
    ) -> BoxFuture<'_, Result<(), PromiseFailed>>;

    /// Takes back what was promised to a token that is gone.
    fn forget_promise(&self, token: TokenId) -> BoxFuture<'_, ()>;

    /// What the proxy decides by changed in the store; resolves when it decides by what is stored now.
    ///
    /// # Errors
    ///
    /// Where that cannot be read; it is tried again each second until it can.
    fn access_changed(&self) -> BoxFuture<'_, Result<(), NotInForce>>;

    /// What clients do at the proxy now, and what was refused.
    fn clients(&self) -> Clients;

    /// What a service and its callers have used since the hub started; `None` where nobody called it.
    fn usage(&self, service: ServiceKey) -> Option<ServiceUsage>;

    /// Compares what is new in the settings of a service with the hub's configuration.
    ///
    /// # Errors
    ///
    /// What it does not allow.
    fn check_settings(
        &self,
        key: ServiceKey,
        before: &ServiceSettings,
        service: &Service,
    ) -> Result<(), SettingsRefused>;

    /// How it stands with what the settings of a service ask for, as a JSON object.
    fn service_status(&self, key: ServiceKey) -> serde_json::Value;

    /// Certificates that are ordered by ACME; `None` where none are.
    fn acme(&self) -> Option<AcmeView>;

    /// TLS of services.
    fn tls(&self) -> &dyn TlsAdmin;

    /// Who runs what, and how it is doing.
    fn workloads(&self) -> Arc<WorkloadsView>;

    /// Stores a workload and assigns it; it is placed when this resolves, where a node is there.
    fn set_workload(
        &self,
        change: WorkloadChange,
    ) -> BoxFuture<'_, Result<WorkloadRecord, WorkloadChangeError>>;

    /// What happened to a workload, oldest first.
    fn workload_events(&self, service: ServiceKey) -> BoxFuture<'_, StoreResult<Vec<WorkloadEvent>>>;

    /// Takes a workload back; false where there is none.
    fn remove_workload(&self, service: ServiceKey) -> BoxFuture<'_, StoreResult<bool>>;

    /// Begins an update of a workload; how it goes is in [`Self::workloads`].
    fn update_workload(&self, request: UpdateRequest) -> BoxFuture<'_, Result<WorkloadRecord, UpdateError>>;

    /// Has an update of a workload taken back.
    fn abort_update(&self, service: ServiceKey) -> BoxFuture<'_, Result<(), UpdateError>>;

    /// Versions of a workload that are kept, the newest first.
    fn workload_versions(&self, service: ServiceKey) -> BoxFuture<'_, StoreResult<Vec<Version>>>;

    /// Versions of a workload that are kept at the most.
    fn keep_versions(&self) -> usize;

    /// Asks a node for what a workload wrote; dropping the stream ends the answer.
    fn logs(&self, node: AgentId, ask: LogsAsk) -> BoxFuture<'_, Result<LogsStream, LogsError>>;

    /// Announces a connection for a session to its node, over what only the two share; false where the node is away.
    fn door_ticket<'a>(&'a self, node: AgentId, ticket: &'a DoorTicket) -> BoxFuture<'a, bool>;

    /// Ways over the overlay, for sessions of the operator.
    fn overlay(&self) -> &dyn Overlay;

    /// What was pushed for workloads.
    fn artefacts(&self) -> &dyn ArtefactShelf;

    /// What orders machines.
    fn deployer(&self) -> &dyn Deployer;

    /// Alerts about costs, and what machines sent.
    fn costs(&self) -> &dyn CostDesk;

    /// Tiers of services, and their replicas.
    fn scaling(&self) -> &dyn ScaleDesk;

    /// Price lists of providers.
    fn prices(&self) -> &dyn PriceDesk;

    /// Accounts at clouds, and their credentials.
    fn accounts(&self) -> &dyn AccountDesk;

    /// Quality of service, its history and its objectives.
    fn quality(&self) -> &dyn QosDesk;

    /// What signs reports.
    fn signer(&self) -> &IdentitySigner;

    /// Seals the keys of a workload as they are stored; `None` where the system has no source of randomness.
    fn seal_keystore(&self, service: ServiceKey, bundle: &Bundle) -> Option<String>;

    /// What was sealed so; `None` where that was done with another key.
    fn open_keystore(&self, service: ServiceKey, sealed: &str) -> Option<Bundle>;

    /// The policy changed in the store; resolves when the tunnel goes by the new one, with false where it
    /// could not be read.
    fn policy_changed(&self) -> BoxFuture<'_, bool>;
}

/// What the routes work on.
#[derive(Clone)]
pub struct AdminState {
    /// What does not change.
    pub facts: Arc<HubFacts>,
    /// The other parts.
    pub hub: Arc<dyn Hub>,
    /// What is known of machines and prices.
    pub market: Arc<Market>,
    /// Durable state.
    pub store: Arc<dyn Store>,
    /// What the operator does beside and through workloads.
    pub sessions: Arc<Sessions>,
    /// Metrics of the whole process.
    pub metrics: Arc<Metrics>,
    /// Runs changes to their end, also where who asked for them leaves.
    pub spawner: Spawner,
}

impl std::fmt::Debug for AdminState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminState").field("facts", &self.facts).finish_non_exhaustive()
    }
}
