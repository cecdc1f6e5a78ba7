//! Which node runs which workload.

use std::collections::BTreeMap;

use blueprint_common_types::ServiceKey;
use blueprint_common_types::workload::WorkloadStatus;

mod assigner;
mod leases;
mod store;

pub use assigner::{Assigner, Assignment, Assignments, MAX_PER_NODE, Move, NoNode};
pub use leases::{Gone, LeaseHeld, Leases};
pub use store::{Placed, WorkloadChange, WorkloadChangeError, WorkloadRecord, WorkloadStore};

/// Who runs what, and how it is doing.
#[derive(Debug, Clone, Default)]
pub struct WorkloadsView {
    /// What is wanted, by service.
    pub records: BTreeMap<ServiceKey, WorkloadRecord>,
    /// What nodes say of it; only of what they are assigned now.
    pub statuses: BTreeMap<ServiceKey, WorkloadStatus>,
}

#[cfg(test)]
mod tests;
