//! How a workload is doing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Health, ServiceKey, Timestamp};

/// Where a workload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadState {
    /// Assigned, and nothing was done yet.
    Pending,
    /// Its program is fetched and checked.
    Fetching,
    /// It was started and has not said that it is there.
    Starting,
    /// It runs.
    Running,
    /// It ended, and is started again after a pause.
    BackingOff,
    /// It was asked to end.
    Stopping,
    /// It ended and is not started again.
    Ended,
    /// It cannot be run; the reason says why. Tried again where the reason may go away by itself.
    Failed,
}

/// A text is not the name of a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the state of a workload")]
pub struct ParseWorkloadStateError(String);

impl WorkloadState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Fetching,
        Self::Starting,
        Self::Running,
        Self::BackingOff,
        Self::Stopping,
        Self::Ended,
        Self::Failed,
    ];

    /// Its name in status, metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Fetching => "fetching",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::BackingOff => "backing-off",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for WorkloadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for WorkloadState {
    type Err = ParseWorkloadStateError;

    fn from_str(text: &str) -> Result<Self, ParseWorkloadStateError> {
        let found = Self::ALL.into_iter().find(|state| state.label() == text);
        found.ok_or_else(|| ParseWorkloadStateError(text.chars().take(64).collect()))
    }
}

/// What an agent says of one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// Which.
    pub service: ServiceKey,
    /// The assignment that it is about.
    pub generation: u64,
    /// Where it stands.
    pub state: WorkloadState,
    /// Why, one line; empty where the state says it all.
    pub reason: String,
    /// How often it was started again since the agent started it first.
    pub restarts: u32,
    /// Its process on the node, where it has one.
    pub pid: Option<u32>,
    /// Exit code of the process that ended last, as shells say it; `None` while none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// What the checks of its port found; `None` where it has registered none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Why it is not healthy, one line; empty where it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub health_reason: String,
    /// Whether its node has tried all that a node can do, and asks the hub for another one.
    #[serde(default)]
    pub asks_move: bool,
    /// Whether its node cannot run it for a reason of the node, so that another one may.
    #[serde(default)]
    pub refused: bool,
    /// What its node did to make it well, the newest [`MAX_STEPS`], oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<RecoveryStep>,
}

impl WorkloadStatus {
    /// A workload in a state, with nothing else to be said.
    #[must_use]
    pub const fn new(service: ServiceKey, generation: u64, state: WorkloadState, since: Timestamp) -> Self {
        Self {
            service,
            generation,
            state,
            reason: String::new(),
            restarts: 0,
            pid: None,
            exit_code: None,
            since,
            health: None,
            health_reason: String::new(),
            asks_move: false,
            refused: false,
            steps: Vec::new(),
        }
    }
}

/// Steps of recovery that a node tells at most; older ones that no hub heard of are lost.
pub const MAX_STEPS: usize = 32;

/// What a node did to make a workload well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecoveryKind {
    /// Started it again, with what it had.
    Restart,
    /// Fetched, checked and unpacked its program anew, and started that.
    Redeploy,
    /// Asked the hub for another node.
    AskMove,
    /// Nothing: it was well for so long that all rungs are begun anew.
    Settled,
}

impl RecoveryKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Restart, Self::Redeploy, Self::AskMove, Self::Settled];

    /// Its name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Redeploy => "redeploy",
            Self::AskMove => "ask-move",
            Self::Settled => "settled",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn find(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.label() == label)
    }
}

/// One step of recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryStep {
    /// When, by the node's clock; later than that of the step before.
    pub at: Timestamp,
    /// What.
    pub kind: RecoveryKind,
    /// Why, one line.
    pub reason: String,
}
