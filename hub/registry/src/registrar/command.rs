//! What other tasks tell the registrar, and what it answers.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use blueprint_common_types::workload::Inventory;
use blueprint_common_types::{
    AgentId, MachineSample, OverlayLease, ServiceKey, ServiceSample, Timestamp, TokenId, TunnelSample,
};
use blueprint_hub_registry_core::workload::Assignments;
use blueprint_hub_registry_core::{
    Agent, Change, LateRefusal, OfferedTarget, PromiseError, QosPoint, QosSample, ReserveError, Weights,
};
use blueprint_proto::v1::{self, hub_message::Body};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::qos::Kept;

/// Messages on their way to an agent. Boxed: a channel holds room for 32 of them from its start.
pub(crate) type Outbox = mpsc::Sender<Box<v1::HubMessage>>;

/// Everything that other tasks tell the registrar.
pub(super) enum Command {
    Promise(Ipv4Addr, TokenId, Timestamp, oneshot::Sender<Result<(), PromiseError>>),
    Forget(TokenId),
    Reserve(TokenId, oneshot::Sender<Result<OverlayLease, ReserveError>>),
    Release(OverlayLease),
    Joined(Box<Agent>, oneshot::Sender<()>),
    Renewed(AgentId, u32),
    Removed(AgentId, oneshot::Sender<Option<Arc<Agent>>>),
    Open(Box<Opening>, oneshot::Sender<Option<()>>),
    Close(SessionRef),
    Report(SessionRef, u64, Report),
    DataPlane(AgentId, bool),
    Leaving(BTreeSet<AgentId>, oneshot::Sender<()>),
    Qos(AgentId, usize, oneshot::Sender<Option<QosView>>),
    Late(AgentId, Vec<QosSample>, Recorded, oneshot::Sender<LateTaken>),
    ChangesAfter(u64, oneshot::Sender<Option<Vec<Change>>>),
    Assign(Assignments, BTreeSet<ServiceKey>, Weights, oneshot::Sender<()>),
    Tell(AgentId, Body, oneshot::Sender<bool>),
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

/// One session of one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionRef {
    pub(crate) agent: AgentId,
    pub(crate) session: u64,
}

/// A session that wants to begin.
pub(crate) struct Opening {
    pub(crate) session: SessionRef,
    pub(crate) process: u64,
    pub(crate) agent_version: String,
    /// Whether the agent runs what it is assigned.
    pub(crate) runs_workloads: bool,
    /// What its machine has, where it says so.
    pub(crate) inventory: Option<Inventory>,
    pub(crate) outbox: Outbox,
    /// The first message; what was acknowledged is filled in.
    pub(crate) welcome: v1::Welcome,
}

/// What an agent reports in a session.
pub(crate) enum Report {
    /// Only that it is there.
    Alive,
    /// All of its targets.
    Targets(Vec<OfferedTarget>),
    /// A sample.
    Qos(Timestamp, MachineSample, TunnelSample, Vec<ServiceSample>),
}

/// Targets of an agent that were recorded before, by service and port.
pub(crate) type Recorded = BTreeSet<(ServiceKey, u16)>;

/// What became of samples that came late.
#[derive(Default)]
pub(crate) struct LateTaken {
    /// Why some are not taken.
    pub(crate) refusals: Vec<LateRefusal>,
    /// Samples of services that the agent may not tell of.
    pub(crate) not_offered: usize,
    /// Each ends once the sample that it is for is on the disk, or known not to be.
    pub(crate) kept: Vec<BoxFuture<'static, Kept>>,
}

/// Quality of service of one agent.
#[derive(Debug, Clone)]
pub struct QosView {
    /// The last report, whole.
    pub latest: Option<QosSample>,
    /// The history, oldest first.
    pub series: Vec<QosPoint>,
}
