//! What becomes known of an agent beside its targets.

use std::collections::BTreeSet;
use std::sync::Arc;

use blueprint_common_types::workload::Inventory;
use blueprint_common_types::{AgentId, Timestamp};

use super::held::differences;
use super::{Change, Registry, clean_line};

impl Registry {
    /// Notes the generation of the agent's newest certificate.
    pub fn set_generation(&mut self, id: AgentId, generation: u32) {
        if let Some(held) = self.agents.get_mut(&id)
            && held.agent.generation != generation
        {
            Arc::make_mut(&mut held.agent).generation = generation;
            self.cached = None;
        }
    }

    /// Notes the version that the agent reported.
    pub fn set_agent_version(&mut self, id: AgentId, version: &str) {
        if let Some(held) = self.agents.get_mut(&id)
            && held.agent.agent_version != version
        {
            Arc::make_mut(&mut held.agent).agent_version = clean_line(version);
            self.cached = None;
        }
    }

    /// Notes whether the agent runs what the hub assigns, until it says so it does, and what its machine has for that;
    /// the parts of its targets change where it tells runs apart and did not before.
    pub fn set_workload_facts(
        &mut self,
        id: AgentId,
        runs: bool,
        inventory: Option<Inventory>,
    ) -> Vec<Change> {
        let Some(held) = self.agents.get_mut(&id) else { return Vec::new() };
        if held.runs_workloads == runs && held.inventory.as_deref() == inventory.as_ref() {
            return Vec::new();
        }
        let before = held.records(&self.weights);
        held.runs_workloads = runs;
        held.inventory = inventory.map(Arc::new);
        let bodies = differences(before, held.records(&self.weights));
        self.cached = None;
        self.record(bodies)
    }

    /// Notes that the agent's session began or ended. Targets stay: the data plane and the lease
    /// say whether they can be reached.
    pub fn set_connected(&mut self, id: AgentId, connected: bool, now: Timestamp) {
        let Some(held) = self.agents.get_mut(&id) else { return };
        self.cached = None;
        held.connected = connected;
        held.last_seen = Some(now);
        if !connected && held.expires_at.is_none() {
            held.targets.clear();
        }
    }

    /// Notes whether the agent's data plane echoes; its targets change where that is news.
    pub fn set_data_plane(&mut self, id: AgentId, alive: bool) -> Vec<Change> {
        let Some(held) = self.agents.get_mut(&id) else { return Vec::new() };
        if held.data_plane == alive {
            return Vec::new();
        }
        let before = held.records(&self.weights);
        held.data_plane = alive;
        let bodies = differences(before, held.records(&self.weights));
        self.cached = None;
        self.record(bodies)
    }

    /// Says which agents are to go, and no others: their targets stay, and get no new requests.
    pub fn set_leaving(&mut self, leaving: &BTreeSet<AgentId>) -> Vec<Change> {
        let mut bodies = Vec::new();
        for (id, held) in &mut self.agents {
            let is_leaving = leaving.contains(id);
            if held.is_leaving != is_leaving {
                let before = held.records(&self.weights);
                held.is_leaving = is_leaving;
                bodies.extend(differences(before, held.records(&self.weights)));
            }
        }
        self.record(bodies)
    }
}
