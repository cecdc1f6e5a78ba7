//! Scaling: the task that looks at services with a tier and does what the core says, and what the operator's side asks.
//!
//! Invariants:
//! - a step is stored before it has an effect, and where the store fails the next look decides anew;
//! - a step is not done where the operator has changed what it was decided by: what was acknowledged holds;
//! - machines that leave are known to the rest of the hub before anything else is done about them, also after a restart.

mod desk;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_provision_core::lifecycle::Deployer;
use blueprint_hub_provision_core::scaling::{ScaleStore, Scaler, ScalerSettings, Sight, TermsLimits};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Provisioner;
use crate::metrics::ScaleMetrics;

pub use desk::ScaleOffice;
pub use watch::ScaleWatch;

/// What is known of a service at one machine.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// Whether it is healthy there, and its tunnel echoes.
    pub is_ready: bool,
    /// Whether the machine's agent is connected.
    pub is_here: bool,
    /// When the agent took its last sample, by its own clock, and the share of one processor in percent that it had then.
    pub cpu: Option<(Timestamp, f32)>,
    /// Requests and connections of clients that began, since the hub started.
    pub requests: u64,
    /// Those that are open.
    pub open: u32,
    /// Those of the open ones that last: each is counted as one request a second.
    pub lasting: u32,
}

/// The hub around scaling.
pub trait Meter: Send + Sync {
    /// What is known of a service at these machines.
    fn read(
        &self,
        service: ServiceKey,
        agents: BTreeSet<AgentId>,
    ) -> BoxFuture<'_, BTreeMap<AgentId, Reading>>;

    /// Whether the hub can be reached: some agent is connected, and its tunnel echoes.
    fn is_reached(&self) -> bool;

    /// What an update of the service does that is under way, one line; `None` where there is none.
    fn updating(&self, service: ServiceKey) -> Option<String>;

    /// These machines are to go, and no others: they get no new requests from then on.
    fn leave(&self, agents: BTreeSet<AgentId>) -> BoxFuture<'_, ()>;

    /// Services that have a tier, and the machines that run what the hub runs of them, each the whole.
    fn place(&self, replicas: BTreeMap<ServiceKey, BTreeSet<AgentId>>) -> BoxFuture<'_, ()>;
}

/// What scaling goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScaleConfig {
    /// Whether anything is scaled; where not, payment and load change nothing.
    pub is_enabled: bool,
    /// Pause between two looks.
    pub every: Duration,
    /// Times of the core.
    pub settings: ScalerSettings,
    /// What all services keep to.
    pub limits: TermsLimits,
    /// Percent of its processors that a replica is to use, where a service says nothing else.
    pub target_cpu: u32,
}

/// What the last look at a service saw, and why it has as many replicas as it has.
pub(crate) type Seen = Arc<Mutex<BTreeMap<ServiceKey, (Sight, String)>>>;

/// What the task and the operator's side share.
#[derive(Clone)]
pub(crate) struct Parts {
    config: ScaleConfig,
    store: Arc<dyn ScaleStore>,
    provisioner: Provisioner,
    seen: Seen,
    kick: Arc<Notify>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Makes the task and the operator's side of it.
#[must_use]
pub fn scale_watch(
    config: ScaleConfig,
    store: Arc<dyn ScaleStore>,
    provisioner: Provisioner,
    meter: Arc<dyn Meter>,
    metrics: &Metrics,
) -> (ScaleWatch, ScaleOffice) {
    let scaler = Scaler::new(config.settings, provisioner.now());
    let parts = Parts { config, store, provisioner, seen: Seen::default(), kick: Arc::default() };
    (ScaleWatch::new(parts.clone(), scaler, meter, ScaleMetrics::new(metrics)), ScaleOffice(parts))
}
