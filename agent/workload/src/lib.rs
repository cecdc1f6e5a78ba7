//! The workloads of one agent: fetched, checked, started, supervised and ended.
//!
//! `blueprint-agent-workload-core` decides; this crate does it, on this machine. What it needs of the hub and of the
//! rest of the agent it asks through [`HubPort`].

pub mod artefact;
mod beside;
mod bridge;
mod cgroup;
pub mod container;
mod disk;
mod exchange;
mod folders;
mod gpu;
mod image_health;
mod instance;
mod inventory;
mod keeper;
mod keystore;
pub mod launch;
mod left;
pub mod logs;
mod meter;
mod native;
mod node;
mod output;
mod process;
mod pushed;
mod registration;
mod removal;
mod rpc;
mod run;
mod shared;
mod storage;
mod sweep;
mod tree;
mod users;
mod volumes;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use blueprint_common_tunnel::carrier::ProxyUrl;
use blueprint_common_types::workload::{Bundle, RpcKind, Seat, Sha256Digest, WorkloadSpec};
use blueprint_common_types::{CheckPace, Health, HealthCheck, MetricsPlace, ServiceKey};
use blueprint_proto::v1::bridge_request::Call;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tonic::Status;

use crate::artefact::PushedError;
use crate::logs::LogLimits;
pub use beside::Session;
pub use left::clear;
pub use node::{Node, NodeHandle, Statuses};
pub use pushed::PushedReader;
pub use rpc::{RpcIo, RpcStream};

/// What the hub wants this node to run.
pub type Assigned = BTreeMap<Seat, Assignment>;

/// One assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// Its number: another one means that the workload is to be started anew.
    pub generation: u64,
    /// It is to end; how it ended is told until the assignment is taken back.
    pub ends: bool,
}

/// What the hub says of one workload.
#[derive(Debug)]
pub struct Described {
    /// The document, checked.
    pub spec: WorkloadSpec,
    /// What it may know and nobody else.
    pub bundle: Bundle,
}

/// Why the hub says nothing of a workload.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// It cannot be asked now.
    #[error("the hub cannot be asked: {0}")]
    Away(String),
    /// It has another assignment by now, which is on its way.
    #[error("the assignment has changed")]
    Changed,
    /// This agent cannot read what it says.
    #[error("this agent cannot run what the hub asks for: {0}")]
    Unreadable(String),
}

/// What checks found of the services that workloads offer, of each instance, with one line of reason where it is bad.
pub type Healths = BTreeMap<Seat, (Health, String)>;

/// A service that a workload offers on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Which instance of it.
    pub seat: Seat,
    /// The assignment that it runs by.
    pub generation: u64,
    /// Where it listens.
    pub local: SocketAddr,
    /// How its health is checked.
    pub check: HealthCheck,
    /// How often, and how many results count.
    pub pace: CheckPace,
    /// Where it shows its metrics.
    pub metrics: MetricsPlace,
}

/// The hub and the rest of the agent, as workloads need them.
pub trait HubPort: Send + Sync {
    /// Asks for the document and the secrets of a workload.
    fn describe(
        &self,
        service: ServiceKey,
        generation: u64,
    ) -> BoxFuture<'_, Result<Described, DescribeError>>;

    /// Hands on what a blueprint asked for; the status is its answer.
    fn bridge(&self, service: ServiceKey, call: Call) -> BoxFuture<'_, Result<(), Status>>;

    /// Tells that so many connections to a bridge were refused, since no process of its workload opened them.
    ///
    /// # Errors
    ///
    /// The hub did not take it.
    fn strangers(&self, service: ServiceKey, count: u32) -> BoxFuture<'_, Result<(), Status>>;

    /// Opens what was pushed to the hub, from byte `offset` on, in the name of a workload that names it.
    ///
    /// The digest is checked by the caller; a reader that fails may be followed by another one from where it was.
    fn artefact(
        &self,
        service: ServiceKey,
        generation: u64,
        sha256: Sha256Digest,
        offset: u64,
    ) -> BoxFuture<'_, Result<PushedReader, PushedError>>;

    /// Opens a connection to the operator's RPC that the document names.
    ///
    /// # Errors
    ///
    /// One line for the log of this node.
    fn rpc(
        &self,
        service: ServiceKey,
        generation: u64,
        kind: RpcKind,
    ) -> BoxFuture<'_, Result<RpcStream, String>>;

    /// Hands on what a workload captured for its registration, or why there is nothing.
    fn registration(
        &self,
        service: ServiceKey,
        generation: u64,
        inputs: Result<Vec<u8>, String>,
    ) -> BoxFuture<'_, Result<(), Status>>;

    /// Lets the service be reached through the tunnel.
    ///
    /// # Errors
    ///
    /// One line for the blueprint.
    fn offer(&self, offer: Offer) -> Result<(), String>;

    /// Whether the hub cannot be reached now.
    fn is_away(&self) -> bool {
        false
    }

    /// What the checks of all that is offered find, from now on; where nothing is checked it never changes.
    fn healths(&self) -> watch::Receiver<Arc<Healths>> {
        watch::channel(Arc::default()).1
    }

    /// Takes back what was offered; nothing where nothing was.
    fn withdraw(&self, seat: Seat);
}

/// Where workloads live on this machine, and what they may.
#[derive(Debug, Clone)]
pub struct WorkloadConfig {
    /// Folder that lasts: data of workloads and artefacts.
    pub state: PathBuf,
    /// Folder in memory: sockets and keys.
    pub runtime: PathBuf,
    /// The agent's own program, which starts native workloads.
    pub agent: PathBuf,
    /// Where the control groups of this machine are; `None` to hold no limits.
    pub cgroups: Option<PathBuf>,
    /// Whether what asks for limits runs where this machine cannot hold them.
    pub allow_unlimited: bool,
    /// Whether sources of the kind `testing` may be run.
    pub testing: bool,
    /// Socket of the container engine; asked only for workloads that are containers.
    pub engine: PathBuf,
    /// Marks containers of this node on an engine that others use, too.
    pub node: String,
    /// HTTP proxy on the way to artefacts.
    pub proxy: Option<ProxyUrl>,
    /// How much is kept of what workloads write.
    pub logs: LogLimits,
}
