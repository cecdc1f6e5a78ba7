//! Which node runs which workload.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_types::workload::WorkloadStatus;
use blueprint_common_types::{AgentId, ServiceKey};

mod assigner;
mod leases;
mod logs;
mod plan;
mod recovery;
mod refusal;
mod store;
mod update;
mod version;

pub use assigner::{Assigner, Assignment, Assignments, Leaver, MAX_PER_NODE, Move, NoNode, Replicas};
pub use leases::{Gone, LeaseHeld, Leases};
pub use logs::{LogsAsk, LogsError, LogsLine, LogsPiece, Runs};
pub use plan::{MAX_PLAN_SECS, MAX_STEPS, ParseStrategyError, PlanError, Strategy, UpdatePlan};
pub use recovery::{EventKind, FailOvers, HUB_ROWS, NODE_ROWS, Verdict, WINDOW, WorkloadEvent};
pub use refusal::{Refusal, Refusals};
pub use store::{
    NewUpdate, Placed, StoredUpdate, ThrownAway, WorkloadChange, WorkloadChangeError, WorkloadRecord,
    WorkloadStore,
};
pub use update::{
    Advance, NextRun, Phase, Shares, Side, Sight, Tally, Traffic, Update, UpdateError, UpdateRequest, Updates,
};
pub use version::{KEEP_VERSIONS, KEPT_VERSIONS, ParseOutcomeError, Version, VersionOutcome};

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
    /// Updates that are under way.
    pub updates: BTreeMap<ServiceKey, UpdateView>,
    /// Runs of services with replicas beside those of `records`, and what their nodes say of them.
    pub copies: BTreeMap<(ServiceKey, AgentId), (Arc<WorkloadRecord>, Option<WorkloadStatus>)>,
    /// Runs of services that have or had replicas, which leave their nodes.
    pub leavers: Vec<Leaver>,
}

/// An update that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateView {
    /// The update.
    pub update: Update,
    /// The next version on each node that runs it beside the one that serves, and what that says of it; none by `recreate`.
    pub next: Vec<(Arc<WorkloadRecord>, Option<WorkloadStatus>)>,
}

impl WorkloadsView {
    /// What a node is assigned of a service: the version that serves, or the next one. Where it is both, the one of this
    /// generation, and the one that serves where none is.
    #[must_use]
    pub fn on(&self, service: ServiceKey, node: AgentId, generation: u64) -> Option<&Arc<WorkloadRecord>> {
        let next = self.updates.get(&service).map(|update| update.next.iter().map(|(record, _)| record));
        let copy = self.copies.get(&(service, node)).map(|(record, _)| record);
        let leavers = self.leavers.iter().map(|it| &it.record).filter(|it| it.service == service);
        let all = || {
            let next = next.clone().into_iter().flatten();
            let own = self.records.get(&service).into_iter().chain(next).chain(copy).chain(leavers.clone());
            own.filter(|it| it.node == Some(node))
        };
        all().find(|record| record.generation == generation).or_else(|| all().next())
    }

    /// Everything that nodes run or are to run.
    pub fn runs(&self) -> impl Iterator<Item = &Arc<WorkloadRecord>> {
        let next = self.updates.values().flat_map(|update| &update.next).map(|(record, _)| record);
        let copies = self.copies.values().map(|(record, _)| record);
        self.records.values().chain(next).chain(copies).chain(self.leavers.iter().map(|it| &it.record))
    }
}

#[cfg(test)]
mod tests;
