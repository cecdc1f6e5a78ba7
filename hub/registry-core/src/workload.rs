//! Which node runs which workload.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_types::ServiceKey;
use blueprint_common_types::workload::WorkloadStatus;

mod assigner;
mod leases;
mod logs;
mod recovery;
mod store;

pub use assigner::{Assigner, Assignment, Assignments, MAX_PER_NODE, Move, NoNode};
pub use leases::{Gone, LeaseHeld, Leases};
pub use logs::{LogsAsk, LogsError, LogsLine, LogsPiece};
pub use recovery::{EventKind, FailOvers, HUB_ROWS, NODE_ROWS, Verdict, WINDOW, WorkloadEvent};
pub use store::{Placed, WorkloadChange, WorkloadChangeError, WorkloadRecord, WorkloadStore};

/// Who runs what, and how it is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkloadsView {
    /// What is wanted, by service. Shared: a document has up to 256 KiB, and a view is made at every report that says
    /// something new.
    pub records: BTreeMap<ServiceKey, Arc<WorkloadRecord>>,
    /// What nodes say of it; only of what they are assigned now.
    pub statuses: BTreeMap<ServiceKey, WorkloadStatus>,
    /// What does not get well and has no node left to which it could go, and why.
    pub degraded: BTreeMap<ServiceKey, String>,
}

#[cfg(test)]
mod tests;
