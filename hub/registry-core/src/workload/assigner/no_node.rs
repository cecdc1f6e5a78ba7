//! Why a workload is on no node.

use blueprint_common_types::AgentId;
use blueprint_common_types::workload::Lack;

use super::room::{Load, is_here, limits_of, may_run};
use super::{MAX_PER_NODE, WorkloadRecord, WorkloadsView};
use crate::RegistrySnapshot;

/// Why no node can take a workload, as the operator is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoNode {
    /// None is here that it may be on.
    #[error("no node that it may run on is connected")]
    NotHere,
    /// Those that are here said that they run none.
    #[error(
        "no node runs workloads: workload.enabled is false on each that is connected and that it may run on"
    )]
    NoneRuns,
    /// Those that run some have too little of something; this is what the last of them lacks.
    #[error("no node that it may run on has enough: {0}")]
    TooSmall(Lack),
    /// Those that run some have [`MAX_PER_NODE`].
    #[error("every node that it may run on has 64 workloads")]
    Full,
}

impl NoNode {
    /// Why no node can take the workload now; `None` where one can, or has it.
    #[must_use]
    pub fn of(record: &WorkloadRecord, view: &WorkloadsView, snapshot: &RegistrySnapshot) -> Option<Self> {
        let runs = |node: &AgentId| snapshot.agents.get(node).is_some_and(|view| view.runs_workloads);
        let allowed = snapshot.agents.keys().filter(|node| may_run(record, **node));
        let here: Vec<_> = allowed.filter(|node| is_here(**node, snapshot)).collect();
        if here.is_empty() {
            return Some(Self::NotHere);
        }
        if !here.iter().any(|node| runs(node)) {
            return Some(Self::NoneRuns);
        }
        let load = Load::of(view.runs());
        let limits = limits_of(record);
        let lack = |node: &AgentId| load.lack(*node, record, &limits, snapshot);
        let mut able = here.into_iter().filter(|node| runs(node));
        let lacks: Option<Vec<Lack>> = able.clone().map(&lack).collect();
        if let Some(lack) = lacks.and_then(|lacks| lacks.last().copied()) {
            return Some(Self::TooSmall(lack));
        }
        let fits = |node: &AgentId| {
            lack(node).is_none() && (record.node == Some(*node) || load.count(*node) < MAX_PER_NODE)
        };
        (!able.any(fits)).then_some(Self::Full)
    }
}
