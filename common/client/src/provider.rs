//! Infrastructure that runs blueprints for somebody, as the Blueprint Manager's specification of remote deployments has
//! it.
//!
//! Deviation: the methods' futures are named as `Send`, so that they run on any runtime; `establish_tunnel` takes
//! [`RemoteInfrastructureProvider::NetworkConfig`], which the specification leaves without a use.

mod api;
mod hub;

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;

use blueprint_common_types::workload::{WorkloadSpec, WorkloadState};
use blueprint_common_types::{AgentId, Micros, Secret, ServiceKey};

pub use self::hub::{HubProvider, HubProviderError, TunnelHub};
use crate::tunnel::TunnelHandle;

/// Infrastructure on which blueprints are deployed, and which is reached by a tunnel.
pub trait RemoteInfrastructureProvider: Send + Sync + 'static {
    /// Names one deployed instance.
    type InstanceId: Send + Sync + Clone + 'static;
    /// How this process reaches the network of the instances.
    type NetworkConfig: Send + Sync + 'static;
    /// Why something failed.
    type Error: Error + Send + Sync + 'static;

    /// Has an instance run; that it is assigned is all that is waited for.
    fn deploy_instance(
        &self,
        spec: DeploymentSpec,
    ) -> impl Future<Output = Result<RemoteInstance<Self::InstanceId>, Self::Error>> + Send;

    /// Makes this process part of the network of the instances.
    fn establish_tunnel(
        &self,
        network: &Self::NetworkConfig,
    ) -> impl Future<Output = Result<TunnelHandle, Self::Error>> + Send;

    /// How an instance is doing.
    fn get_instance_status(
        &self,
        id: &Self::InstanceId,
    ) -> impl Future<Output = Result<InstanceStatus, Self::Error>> + Send;

    /// Ends an instance; that there is none is success.
    fn terminate_instance(
        &self,
        id: &Self::InstanceId,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// What there is to deploy on.
    fn get_available_resources(&self) -> impl Future<Output = Result<Resources, Self::Error>> + Send;

    /// What a machine for an instance would cost. Where no price is known that is an error, never a number.
    fn estimate_cost(&self, spec: &DeploymentSpec) -> impl Future<Output = Result<Cost, Self::Error>> + Send;
}

/// What is deployed.
#[derive(Debug, Clone)]
pub struct DeploymentSpec {
    /// Which service it is, and of which blueprint.
    pub service: ServiceKey,
    /// Where the program comes from, what it gets and what it may use.
    pub workload: WorkloadSpec,
    /// Names or ids of the nodes that may run it; empty for all.
    pub nodes: Vec<String>,
    /// Files of its keystore by path, such as `Ecdsa/KEY`; empty for none.
    pub keystore: BTreeMap<String, Secret<Vec<u8>>>,
}

impl DeploymentSpec {
    /// A workload on any node, without keys.
    #[must_use]
    pub const fn new(service: ServiceKey, workload: WorkloadSpec) -> Self {
        Self { service, workload, nodes: Vec::new(), keystore: BTreeMap::new() }
    }
}

/// An instance that was deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteInstance<Id> {
    /// Its name from now on.
    pub id: Id,
    /// How it was doing when it was deployed.
    pub status: InstanceStatus,
}

/// How an instance is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceStatus {
    /// Where it stands.
    pub state: InstanceState,
    /// Name of the node that runs it; `None` while none does.
    pub node: Option<String>,
    /// Why it stands there, one line; empty where there is nothing to say.
    pub reason: String,
    /// How often it was started again.
    pub restarts: u32,
    /// Exit code of the process that ended last.
    pub exit_code: Option<i32>,
}

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    /// No node that it may run on is connected.
    Unplaced,
    /// A node has it and has said nothing of it yet.
    Assigned,
    /// Its node is not connected.
    Unknown,
    /// What its node says.
    Node(WorkloadState),
}

impl InstanceState {
    /// True while it serves.
    #[must_use]
    pub fn is_running(self) -> bool {
        self == Self::Node(WorkloadState::Running)
    }
}

/// What there is to deploy on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resources {
    /// The nodes, connected or not.
    pub nodes: Vec<NodeResources>,
}

/// What one node has. What is `None` was not told; nothing here is estimated.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeResources {
    /// The node.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// True while its control stream and its tunnel are up.
    pub is_up: bool,
    /// Processor time in use, in percent of all its processors.
    pub cpu_percent: Option<f32>,
    /// Memory in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Memory in use, in bytes.
    pub memory_used_bytes: Option<u64>,
    /// Disk of its state folder in bytes.
    pub disk_total_bytes: Option<u64>,
    /// Disk in use, in bytes.
    pub disk_used_bytes: Option<u64>,
    /// Workloads that it has been assigned.
    pub workloads: usize,
}

/// What a machine costs that an instance fits on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// For an hour, rounded up.
    pub hourly: Micros,
    /// For a month of 730 hours, rounded up.
    pub monthly: Micros,
    /// ISO 4217 code, such as `USD`.
    pub currency: String,
    /// The machine: plan, provider and region.
    pub machine: String,
    /// Where the price is from and how old it is, for people.
    pub price: String,
}
