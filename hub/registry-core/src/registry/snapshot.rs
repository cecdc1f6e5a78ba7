//! The registry at one moment, for readers elsewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use blueprint_common_types::workload::Inventory;
use blueprint_common_types::{AgentId, ServiceKey, TargetKey, Timestamp};

use super::{Held, Weights};
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
    /// Who has which address and which name.
    pub index_of_agents: Arc<AgentIndex>,
}

/// Finds agents by what others know of them; it changes only when one joins or goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentIndex {
    by_address: BTreeMap<IpAddr, AgentId>,
    by_name: BTreeMap<String, Vec<AgentId>>,
}

impl AgentIndex {
    /// Of all these agents.
    pub fn of<'a>(agents: impl Iterator<Item = &'a Agent>) -> Self {
        let mut index = Self::default();
        for agent in agents {
            index.by_address.insert(agent.lease.v4.into(), agent.id);
            index.by_address.insert(agent.lease.v6.into(), agent.id);
            index.by_name.entry(agent.name.to_ascii_lowercase()).or_default().push(agent.id);
        }
        index
    }

    /// The agent with this overlay address.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Option<AgentId> {
        self.by_address.get(&address).copied()
    }

    /// Agents of this name, whatever its case; names need not be unique.
    #[must_use]
    pub fn named(&self, name: &str) -> &[AgentId] {
        self.by_name.get(&name.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
    }
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
    /// What its machine has for workloads, where it says so.
    pub inventory: Option<Arc<Inventory>>,
    /// When it was last heard from on the control stream; `None` since the hub's start.
    pub last_seen: Option<Timestamp>,
}

impl RegistrySnapshot {
    pub(super) fn collect(
        index: u64,
        agents: &BTreeMap<AgentId, Held>,
        weights: &Weights,
        known: Arc<AgentIndex>,
    ) -> Self {
        let mut snapshot = Self { index, index_of_agents: known, ..Self::default() };
        for (id, held) in agents {
            let view = AgentView {
                agent: Arc::clone(&held.agent),
                connected: held.connected,
                data_plane: held.data_plane,
                runs_workloads: held.runs_workloads,
                inventory: held.inventory.clone(),
                last_seen: held.last_seen,
            };
            snapshot.agents.insert(*id, view);
            snapshot.targets.extend(held.records(weights));
        }
        for key in snapshot.targets.keys() {
            snapshot.by_service.entry(key.service).or_default().push(*key);
        }
        snapshot
    }

    /// Makes the index of agents anew, after they were changed here.
    pub fn index_agents(&mut self) {
        self.index_of_agents = Arc::new(AgentIndex::of(self.agents.values().map(|view| view.agent.as_ref())));
    }

    /// The targets of one service, in the order of agent and port.
    pub fn targets_of(&self, service: ServiceKey) -> impl Iterator<Item = &TargetRecord> {
        let keys = self.by_service.get(&service).map(Vec::as_slice).unwrap_or_default();
        keys.iter().filter_map(|key| self.targets.get(key))
    }
}
