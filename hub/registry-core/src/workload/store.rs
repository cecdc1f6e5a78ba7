//! Workloads as they are stored.

use std::collections::BTreeSet;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use futures_util::future::BoxFuture;

use super::{EventKind, Update, UpdatePlan, Version, WorkloadEvent};
use crate::{StoreError, StoreResult};

/// A workload as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadRecord {
    /// Which service it serves.
    pub service: ServiceKey,
    /// Number of the assignment: it grows whenever the workload is to be started anew.
    pub generation: u64,
    /// JSON ([`blueprint_common_types::workload::WorkloadSpec`]).
    pub document: String,
    /// Nodes that may run it; empty for every node.
    pub nodes: BTreeSet<AgentId>,
    /// The node that runs it; `None` until there is one.
    pub node: Option<AgentId>,
    /// Keys of the blueprint, sealed by the caller; `None` where it gets none.
    pub keystore: Option<String>,
    /// When it was stored.
    pub changed_at: Timestamp,
    /// Which of the service's versions it is.
    pub version: u32,
    /// Which instance of the service on its node it is.
    pub slot: u8,
}

/// A workload that is new, or takes the place of the one of the same service.
#[derive(Debug, Clone)]
pub struct WorkloadChange {
    /// Which service.
    pub service: ServiceKey,
    /// JSON, checked by the caller.
    pub document: String,
    /// Nodes that may run it; empty for every node.
    pub nodes: BTreeSet<AgentId>,
    /// Keys, sealed by the caller; `None` for none.
    pub keystore: Option<String>,
    /// Generation that it was made from, 0 for none; `None` where any may be replaced.
    pub replaces: Option<u64>,
    /// By which way the operator came, for the version that is kept; `None` where none is, as of a launcher's.
    pub by: Option<String>,
    /// For the audit row.
    pub summary: String,
    /// The hub's time.
    pub now: Timestamp,
}

/// A version that is to take the place of the one that serves.
#[derive(Debug, Clone)]
pub struct NewUpdate {
    /// Which service.
    pub service: ServiceKey,
    /// Generation of what serves now; another one by now makes the decision void.
    pub replaces: u64,
    /// JSON, checked by the caller.
    pub document: String,
    /// Nodes that may run it; empty for every node.
    pub nodes: BTreeSet<AgentId>,
    /// Keys, sealed by the caller; `None` for none.
    pub keystore: Option<String>,
    /// The version that it repeats.
    pub repeats: Option<u32>,
    /// How it goes.
    pub plan: UpdatePlan,
    /// Where it runs beside the other, of several replicas the first of them; `None` by `recreate`.
    pub place: Option<(AgentId, u8)>,
    /// Nodes of all replicas that it covers; empty for one instance.
    pub replicas: Vec<AgentId>,
    /// Whether the next version needs a target.
    pub needs_target: bool,
    /// By which way the operator came.
    pub by: String,
    /// The hub's time.
    pub now: Timestamp,
}

/// An update as it is stored, with what nodes run for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredUpdate {
    /// The update.
    pub update: Update,
    /// What serves; by `recreate` it is the next version already.
    pub record: WorkloadRecord,
    /// The next version beside it, of several replicas the first of them.
    pub next: Option<WorkloadRecord>,
}

/// Why a workload was not stored.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadChangeError {
    /// Somebody else changed it first.
    #[error("the workload has generation {current} by now")]
    Conflict {
        /// Generation that is stored; 0 where none is.
        current: u64,
    },
    /// It is being updated.
    #[error("the workload is being updated to version {to}")]
    Updating {
        /// The version that is to take the place of the one that serves.
        to: u32,
    },
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a workload goes.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Which.
    pub service: ServiceKey,
    /// The generation that was decided about; another one by now makes the decision void.
    pub generation: u64,
    /// The node.
    pub node: AgentId,
    /// The node that it leaves.
    pub from: Option<AgentId>,
    /// [`EventKind::FailOver`], [`EventKind::Refused`] or [`EventKind::Move`], for the journal.
    pub kind: EventKind,
    /// For the audit row.
    pub reason: String,
    /// The hub's time.
    pub now: Timestamp,
}

/// Versions that were thrown away, by service, the oldest first.
pub type ThrownAway = Vec<(ServiceKey, Vec<u32>)>;

/// Durable state of workloads. The contract is that of [`Store`](crate::Store), audit rows included.
pub trait WorkloadStore: Send + Sync {
    /// Every workload.
    fn list_workloads(&self) -> BoxFuture<'_, StoreResult<Vec<WorkloadRecord>>>;

    /// Stores a workload with the next generation. A node that it may still run on keeps it. What is another one than
    /// before is a new version.
    fn set_workload(
        &self,
        change: WorkloadChange,
    ) -> BoxFuture<'_, Result<WorkloadRecord, WorkloadChangeError>>;

    /// Gives a workload to a node, with the next generation, and writes that into its journal; `None` where it was changed
    /// meanwhile.
    fn place_workload(&self, placed: Placed) -> BoxFuture<'_, StoreResult<Option<WorkloadRecord>>>;

    /// Writes that one of the replicas of a workload is shown in its place, with the same generation and no audit row: none moves.
    /// Nothing where it has another generation by now.
    fn keep_node(
        &self,
        service: ServiceKey,
        generation: u64,
        node: Option<AgentId>,
    ) -> BoxFuture<'_, StoreResult<()>>;

    /// Every update that is under way.
    fn list_updates(&self) -> BoxFuture<'_, StoreResult<Vec<StoredUpdate>>>;

    /// Every version of a service that is kept, the newest first.
    fn list_versions(&self, service: ServiceKey) -> BoxFuture<'_, StoreResult<Vec<Version>>>;

    /// Throws the oldest versions of every service away that has more than `keep`, but for those that are in use; says which, and
    /// writes an audit row of each service.
    fn trim_versions(&self, keep: usize, now: Timestamp) -> BoxFuture<'_, StoreResult<ThrownAway>>;

    /// Stores a new version and the update to it; `None` where the workload was changed meanwhile. By `recreate` it is
    /// what serves from then on.
    fn begin_update(&self, update: NewUpdate) -> BoxFuture<'_, StoreResult<Option<StoredUpdate>>>;

    /// Stores the phase of an update; nothing where it is over.
    fn save_update(&self, update: Update) -> BoxFuture<'_, StoreResult<()>>;

    /// Ends an update: the next version is the one that serves. `None` where there is none.
    fn finish_update(
        &self,
        service: ServiceKey,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<Option<WorkloadRecord>>>;

    /// Ends an update: the version that served before is the one that serves, by `recreate` with the next generation.
    /// `None` where there is none.
    fn take_back_update(
        &self,
        service: ServiceKey,
        reason: String,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<Option<WorkloadRecord>>>;

    /// Forgets a workload with its versions; false where there is none. `why` is for the audit row, one line.
    fn remove_workload(
        &self,
        service: ServiceKey,
        why: &'static str,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<bool>>;

    /// Writes into the journals of services, which keep the newest [`NODE_ROWS`](super::NODE_ROWS) rows of nodes and
    /// [`HUB_ROWS`](super::HUB_ROWS) of the hub. What is there already is left out: of a node, whatever is not later than its last
    /// row of the same assignment; [`EventKind::Degraded`], where nothing else was decided or settled since the last.
    /// One that is new and says degraded gets an audit row with the time `now`.
    fn journal(&self, events: Vec<WorkloadEvent>, now: Timestamp) -> BoxFuture<'_, StoreResult<()>>;

    /// The journal of a service, oldest first.
    fn events(&self, service: ServiceKey) -> BoxFuture<'_, StoreResult<Vec<WorkloadEvent>>>;

    /// What every journal has of [`EventKind::FailOver`] and [`EventKind::Refused`] since then, oldest first.
    fn fail_overs(&self, since: Timestamp) -> BoxFuture<'_, StoreResult<Vec<WorkloadEvent>>>;
}
