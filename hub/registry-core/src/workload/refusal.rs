//! Nodes that cannot run a workload although another one may, and for how long they are not asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blueprint_common_types::workload::{Inventory, WorkloadState, WorkloadStatus};
use blueprint_common_types::{AgentId, ServiceKey, Timestamp};

use super::{EventKind, WINDOW, WorkloadEvent, WorkloadRecord};
use crate::RegistrySnapshot;

/// How often within [`WINDOW`] a node may refuse a workload and be asked again because it has another inventory by then:
/// one that says a new one each time does not keep a workload on the way.
const MOST_REFUSALS: u8 = 5;

/// Names of nodes that are told of at most.
const MAX_NAMES: usize = 8;

/// Refusals of the last hour, and what is refused now.
///
/// Invariants:
/// - a node that refused a workload does not get it again within [`WINDOW`], unless it has another inventory by then, the
///   operator gives the workload anew, or the node that has it is gone and no other fits;
/// - a node refuses its own workloads alone: what others say is not given to [`Self::hear`].
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    past: BTreeMap<ServiceKey, BTreeMap<AgentId, Past>>,
    asks: BTreeMap<ServiceKey, Refusal>,
}

#[derive(Debug, Clone)]
struct Past {
    at: Timestamp,
    times: u8,
    /// What the node had when it was looked at first after that; `None` until it says what it has.
    inventory: Option<Arc<Inventory>>,
    /// It has something else since, so it may be asked again.
    is_changed: bool,
}

/// That the node of a workload cannot run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    generation: u64,
    /// What its node said, one line.
    pub reason: String,
    /// Whether its node gave it up; else it is tried there until another one takes it.
    pub is_final: bool,
}

impl Refusals {
    /// Takes up the refusals of the last hour that the journal has, but for those of before a workload was given anew.
    #[must_use]
    pub fn restore(events: &[WorkloadEvent], records: &[WorkloadRecord]) -> Self {
        let mut this = Self::default();
        let is_of = |event: &WorkloadEvent, record: &WorkloadRecord| {
            record.service == event.service && record.changed_at <= event.at
        };
        for event in events.iter().filter(|event| event.kind == EventKind::Refused) {
            let holds = records.iter().any(|record| is_of(event, record));
            if let Some(node) = event.node.filter(|_| holds) {
                this.handle_move(event.service, node, event.at);
            }
        }
        this
    }

    /// Takes in what the node of a workload says of it.
    pub fn hear(&mut self, status: &WorkloadStatus) {
        if !status.refused || status.state == WorkloadState::Running {
            self.asks.remove(&status.service);
            return;
        }
        let is_final = status.state == WorkloadState::Failed;
        let (generation, reason) = (status.generation, status.reason.clone());
        self.asks.insert(status.service, Refusal { generation, reason, is_final });
    }

    /// It left a node that cannot run it.
    pub fn handle_move(&mut self, service: ServiceKey, from: AgentId, at: Timestamp) {
        self.asks.remove(&service);
        let past = self.past.entry(service).or_default();
        let times = past.get(&from).map_or(0, |past| past.times).saturating_add(1);
        past.insert(from, Past { at, times, inventory: None, is_changed: false });
    }

    /// The operator gave it anew, or does not want it any more: every node may be asked again.
    pub fn forget(&mut self, service: ServiceKey) {
        self.asks.remove(&service);
        self.past.remove(&service);
    }

    /// Looks at the time and at what nodes have by now.
    pub fn handle_look(&mut self, snapshot: &RegistrySnapshot, now: Timestamp) {
        for nodes in self.past.values_mut() {
            // A time from the future is a clock that was set back since: counted from now on.
            nodes.values_mut().for_each(|past| past.at = past.at.min(now));
            nodes.retain(|_, past| now.since(past.at) < WINDOW);
            for (node, past) in nodes {
                let has = snapshot.agents.get(node).and_then(|view| view.inventory.as_ref());
                let Some(has) = has else { continue };
                let had = past.inventory.get_or_insert_with(|| Arc::clone(has));
                past.is_changed |= *had != *has && past.times < MOST_REFUSALS;
            }
        }
        self.past.retain(|_, nodes| !nodes.is_empty());
    }

    /// That its node cannot run it; `None` where that one did not say so of this assignment.
    #[must_use]
    pub fn of(&self, record: &WorkloadRecord) -> Option<&Refusal> {
        self.asks.get(&record.service).filter(|refusal| refusal.generation == record.generation)
    }

    /// Nodes that it does not go to now, as of the last look.
    #[must_use]
    pub fn except(&self, service: ServiceKey) -> BTreeSet<AgentId> {
        let nodes = self.past.get(&service).into_iter().flatten();
        nodes.filter(|(_, past)| !past.is_changed).map(|(node, _)| *node).collect()
    }

    /// Why a workload that its node refuses goes nowhere.
    #[must_use]
    pub fn nowhere(&self, service: ServiceKey, snapshot: &RegistrySnapshot) -> String {
        let except = self.except(service);
        let name = |node: &AgentId| {
            snapshot.agents.get(node).map_or_else(|| node.to_string(), |view| view.agent.name.clone())
        };
        let mut names: Vec<String> = except.iter().take(MAX_NAMES).map(name).collect();
        if except.len() > MAX_NAMES {
            names.push("others".to_owned());
        }
        match names.as_slice() {
            [] => "no other node that it may run on fits".to_owned(),
            names => format!(
                "no other node that it may run on fits, and {} could not run it within the hour either: `workload events` \
                 says why, `workload restart` has all tried again",
                names.join(", ")
            ),
        }
    }

    /// When a node may be tried again for a workload that is refused; later than `now`.
    #[must_use]
    pub fn poll_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        let asking = self.past.iter().filter(|(service, _)| self.asks.contains_key(service));
        let ends = asking.flat_map(|(_, nodes)| nodes.values()).map(|past| past.at.plus(WINDOW));
        ends.filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests;
