//! The registry at one moment, for readers elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_types::{AgentId, ServiceKey, TargetKey, Timestamp};

use super::Held;
use crate::{Agent, TargetRecord};

/// Everything the registry knows at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistrySnapshot {
    /// Index of the last change contained.
    pub index: u64,
    /// Every agent that is joined.
    pub agents: BTreeMap<AgentId, AgentView>,
    /// Every target that is offered.
    pub targets: BTreeMap<TargetKey, TargetRecord>,
    /// Keys of the targets of each service.
    pub by_service: BTreeMap<ServiceKey, Vec<TargetKey>>,
}

/// An agent and how it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentView {
    /// What the hub remembers of it.
    pub agent: Arc<Agent>,
    /// True while its control stream is open.
    pub connected: bool,
    /// True while its data plane echoes.
    pub data_plane: bool,
    /// False where it said that it runs nothing that the hub assigns.
    pub runs_workloads: bool,
    /// When it was last heard from on the control stream; `None` since the hub's start.
    pub last_seen: Option<Timestamp>,
}

impl RegistrySnapshot {
    pub(super) fn collect(index: u64, agents: &BTreeMap<AgentId, Held>) -> Self {
        let mut snapshot = Self { index, ..Self::default() };
        for (id, held) in agents {
            let view = AgentView {
                agent: Arc::clone(&held.agent),
                connected: held.connected,
                data_plane: held.data_plane,
                runs_workloads: held.runs_workloads,
                last_seen: held.last_seen,
            };
            snapshot.agents.insert(*id, view);
            snapshot.targets.extend(held.records());
        }
        for key in snapshot.targets.keys() {
            snapshot.by_service.entry(key.service).or_default().push(*key);
        }
        snapshot
    }

    /// The targets of one service, in the order of agent and port.
    pub fn targets_of(&self, service: ServiceKey) -> impl Iterator<Item = &TargetRecord> {
        let keys = self.by_service.get(&service).map(Vec::as_slice).unwrap_or_default();
        keys.iter().filter_map(|key| self.targets.get(key))
    }
}
