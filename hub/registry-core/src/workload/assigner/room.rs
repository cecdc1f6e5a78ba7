//! What nodes have to do already, and whether one more workload has room on them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blueprint_common_types::AgentId;
use blueprint_common_types::workload::{GpuPolicy, Inventory, Lack, MAX_SLOTS, ResourceLimits};

use super::{MAX_PER_NODE, WorkloadRecord};
use crate::RegistrySnapshot;

/// What each node has to do already.
#[derive(Debug, Default)]
pub(super) struct Load {
    nodes: BTreeMap<AgentId, NodeLoad>,
}

/// Workloads of one node, the GPUs that they cannot do without, and the limits of those that take GPUs where there are some.
#[derive(Debug, Default)]
struct NodeLoad {
    workloads: usize,
    gpus: u8,
    preferring: Vec<ResourceLimits>,
}

impl NodeLoad {
    /// GPUs that workloads may hold which could do without: each got as many as it prefers or none, and keeps them.
    fn preferred(&self, inventory: &Inventory) -> u8 {
        let gets = |limits: &&ResourceLimits| {
            inventory.lacks(&ResourceLimits { gpu_policy: GpuPolicy::Required, ..**limits }).is_none()
        };
        let held = self.preferring.iter().filter(gets).map(|limits| limits.gpu_count);
        held.fold(0, u8::saturating_add)
    }
}

impl Load {
    pub(super) fn of<'a>(records: impl Iterator<Item = &'a Arc<WorkloadRecord>>) -> Self {
        let mut load = Self::default();
        for record in records {
            if let Some(node) = record.node {
                load.add(node, record);
            }
        }
        load
    }

    pub(super) fn add(&mut self, node: AgentId, record: &WorkloadRecord) {
        let load = self.nodes.entry(node).or_default();
        load.workloads = load.workloads.saturating_add(1);
        // Most documents name none and are not read for that.
        if !record.document.contains("gpu_count") {
            return;
        }
        let limits = limits_of(record);
        load.gpus = load.gpus.saturating_add(limits.required_gpus());
        if limits.gpu_policy == GpuPolicy::Preferred && limits.gpu_count > 0 {
            load.preferring.push(limits);
        }
    }

    pub(super) fn count(&self, node: AgentId) -> usize {
        self.nodes.get(&node).map_or(0, |load| load.workloads)
    }

    /// What the node has too little of for a workload; processors and memory are compared with all that it has, GPUs with
    /// those that no other workload needs or, where it is not there yet, may hold. `None` where it has enough, or does not say
    /// what it has.
    pub(super) fn lack(
        &self,
        node: AgentId,
        record: &WorkloadRecord,
        limits: &ResourceLimits,
        snapshot: &RegistrySnapshot,
    ) -> Option<Lack> {
        let inventory = snapshot.agents.get(&node)?.inventory.as_ref()?;
        if let Some(lack) = inventory.lacks(limits).or_else(|| unheld(inventory, record, limits)) {
            return Some(lack);
        }
        let wanted = limits.required_gpus();
        let is_there = record.node == Some(node);
        let used = self.nodes.get(&node).map_or(0, |load| {
            // The agent takes GPUs from nobody: one that needs some would never start behind one that prefers some.
            if is_there {
                load.gpus.saturating_sub(wanted)
            } else {
                load.gpus.saturating_add(load.preferred(inventory))
            }
        });
        let free = inventory.gpus.saturating_sub(used);
        (wanted > free).then_some(Lack::Gpus(wanted, free))
    }
}

/// Limits of a workload; those of a document that cannot be read, which no agent runs, are the usual ones.
pub(super) fn limits_of(record: &WorkloadRecord) -> ResourceLimits {
    #[derive(serde::Deserialize)]
    struct OnlyLimits {
        #[serde(default)]
        limits: Option<ResourceLimits>,
    }
    let read = serde_json::from_str::<OnlyLimits>(&record.document);
    read.ok().and_then(|document| document.limits).unwrap_or_default()
}

/// What both of two versions need; the GPUs are those of the next one, since the other has its own already.
pub(super) fn together(next: &ResourceLimits, serving: &ResourceLimits) -> ResourceLimits {
    ResourceLimits {
        cpu_millis: next.cpu_millis.saturating_add(serving.cpu_millis),
        memory_bytes: next.memory_bytes.saturating_add(serving.memory_bytes),
        ..*next
    }
}

/// The limit that a workload asks for and a machine does not hold. Engines hold those of containers.
fn unheld(inventory: &Inventory, record: &WorkloadRecord, limits: &ResourceLimits) -> Option<Lack> {
    #[derive(serde::Deserialize)]
    struct OnlyKind {
        source: Kind,
    }
    #[derive(serde::Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        name: String,
    }
    let lack = inventory.unheld(limits)?;
    let read = serde_json::from_str::<OnlyKind>(&record.document);
    let is_container = read.is_ok_and(|document| document.source.name == "container");
    (!is_container).then_some(lack)
}

/// Whether a node can run one of the replicas of a workload: it need not be here now.
pub(super) fn runs_on(record: &WorkloadRecord, node: AgentId, snapshot: &RegistrySnapshot) -> bool {
    let Some(view) = snapshot.agents.get(&node) else { return false };
    let limits = limits_of(record);
    let has_enough = |inventory: &Arc<Inventory>| {
        inventory.lacks(&limits).is_none() && unheld(inventory, record, &limits).is_none()
    };
    view.runs_workloads && may_run(record, node) && view.inventory.as_ref().is_none_or(has_enough)
}

pub(super) fn may_run(record: &WorkloadRecord, node: AgentId) -> bool {
    record.nodes.is_empty() || record.nodes.contains(&node)
}

/// Here is who can be told and can be reached: with a control stream and a tunnel that echoes.
pub(super) fn is_here(node: AgentId, snapshot: &RegistrySnapshot) -> bool {
    snapshot.agents.get(&node).is_some_and(|view| view.connected && view.data_plane)
}

/// Whether its agent tells two versions of a service apart.
pub(super) fn runs_two(node: AgentId, snapshot: &RegistrySnapshot) -> bool {
    let inventory = snapshot.agents.get(&node).and_then(|view| view.inventory.as_ref());
    inventory.is_some_and(|inventory| inventory.slots >= MAX_SLOTS)
}

/// The node with the fewest workloads of those that are here, run some and have enough, but for some; the first of equals.
pub(super) fn best_node(
    record: &WorkloadRecord,
    snapshot: &RegistrySnapshot,
    load: &Load,
    except: &BTreeSet<AgentId>,
) -> Option<AgentId> {
    let limits = limits_of(record);
    let of = |node: &AgentId| (load.count(*node), *node);
    let runs = |node: &AgentId| snapshot.agents.get(node).is_some_and(|view| view.runs_workloads);
    let has_room = |node: &AgentId| is_here(*node, snapshot) && runs(node) && of(node).0 < MAX_PER_NODE;
    let fits = |node: &AgentId| {
        may_run(record, *node) && has_room(node) && Some(*node) != record.node && !except.contains(node)
    };
    let has_enough = |node: &AgentId| load.lack(*node, record, &limits, snapshot).is_none();
    snapshot.agents.keys().copied().filter(|node| fits(node) && has_enough(node)).min_by_key(of)
}
