//! What the rest of the hub asks about quality of service.

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use futures_util::future::BoxFuture;
use serde::Serialize;

use super::{CurvePoint, Month, Objective, ObjectiveOf, ObjectiveRecord, Report, Step, Subject};
use crate::StoreError;

/// How a service stands; the number is the one of the Blueprint SDK's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StandingCode {
    /// 0: a target is healthy.
    Healthy,
    /// 1: none is.
    Unhealthy,
    /// 2: it was not checked yet.
    Unknown,
}

impl StandingCode {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Healthy => 0,
            Self::Unhealthy => 1,
            Self::Unknown => 2,
        }
    }
}

/// How a service stands now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Which service.
    pub service: ServiceKey,
    /// How it stands.
    pub code: StandingCode,
    /// Why, one line.
    pub message: String,
    /// When its workload began to run, or when this hub saw it up first; `None` while it is not up.
    pub started_at: Option<Timestamp>,
    /// When the newest sample was taken.
    pub sampled_at: Option<Timestamp>,
    /// When this was asked.
    pub now: Timestamp,
    /// Names of the machines that offer it.
    pub nodes: Vec<String>,
}

/// What a service uses, from the newest samples of its targets.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct ServiceUse {
    /// Percent of all processors of its machines, 0 to 100.
    pub cpu_percent: f32,
    /// Memory of its processes; of a workload with all that it started, without what the kernel only caches.
    pub memory_bytes: u64,
    /// Processes and threads of its workload; `None` where none offers it.
    pub pids: Option<u64>,
    /// Bytes that its workload read from disks since its start; 0 where its machine does not count them.
    pub read_bytes: Option<u64>,
    /// And written.
    pub written_bytes: Option<u64>,
    /// What it may use: its limit, or the memory of its machines.
    pub memory_total_bytes: u64,
    /// Used bytes of the file systems of its machines.
    pub disk_bytes: u64,
    /// Size of those.
    pub disk_total_bytes: u64,
    /// Bytes that its machines have received since their boot.
    pub network_rx_bytes: u64,
    /// And sent.
    pub network_tx_bytes: u64,
    /// When the newest sample was taken.
    pub at: Timestamp,
}

/// A question about the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryAsk {
    /// From then on; `None` for what fits the step.
    pub from: Option<Timestamp>,
    /// Before then; `None` for now.
    pub until: Option<Timestamp>,
    /// Single samples, minutes or hours; `None` for minutes where all of the range is kept in minutes, and for samples where all of
    /// it is kept in those and only sampled times are wanted.
    pub step: Option<Step>,
    /// Most points; 0 for [`DEFAULT_POINTS`](super::DEFAULT_POINTS).
    pub points: usize,
    /// Whether only times are wanted of which there are samples.
    pub is_sampled: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// Single samples, minutes or hours.
    pub step: Step,
    /// Oldest first. Where points were left out, they are evenly spread.
    pub points: Vec<CurvePoint>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QosError {
    /// There is no such service or machine.
    #[error("nothing is known of {0}")]
    Unknown(String),
    /// No agent of it said anything yet.
    #[error("no sample of {0} has come yet")]
    NoSample(String),
    /// Its metrics cannot be read.
    #[error("the metrics of {service} cannot be read: {reason}")]
    NoMetrics {
        /// Which.
        service: ServiceKey,
        /// Why.
        reason: String,
    },
    /// The range is none, or ends before it begins.
    #[error("{0}")]
    Range(String),
    /// Too much is asked at once.
    #[error("the hub is busy with other questions about {0}; try again")]
    Busy(&'static str),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Answers about quality of service.
pub trait QosDesk: Send + Sync {
    /// How a service stands now.
    fn standing(&self, service: ServiceKey) -> BoxFuture<'_, Result<Standing, QosError>>;

    /// What a service uses now.
    fn usage(&self, service: ServiceKey) -> BoxFuture<'_, Result<ServiceUse, QosError>>;

    /// What was, of a service or a machine.
    fn curve(&self, of: Subject, ask: HistoryAsk) -> BoxFuture<'_, Result<Curve, QosError>>;

    /// The month of a service, a machine or a tunnel, up to now where it is not over.
    fn report(&self, of: ObjectiveOf, month: Month) -> BoxFuture<'_, Result<Report, QosError>>;

    /// Every objective that was set.
    fn objectives(&self) -> BoxFuture<'_, Result<Vec<ObjectiveRecord>, QosError>>;

    /// Sets the objective of something, or goes back to the default; false where there was none to go back from.
    fn set_objective(
        &self,
        of: ObjectiveOf,
        objective: Option<Objective>,
    ) -> BoxFuture<'_, Result<bool, QosError>>;

    /// Since when this hub has seen the tunnel of a machine up or down; `None` where it did not look yet.
    fn tunnel_since(&self, node: AgentId) -> Option<(bool, Timestamp)>;
}
