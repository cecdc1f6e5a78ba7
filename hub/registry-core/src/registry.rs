//! Who is joined, what they offer and whether it can be reached.
//!
//! ```text
//!             set_targets                        lease runs out
//! (nothing) ---------------> offered --------------------------------> parked (still connected)
//!                            ^  |  ^                                     |  |
//!                      renew |  |  +------------- renew, set_targets ----+  | set_connected(false)
//!                            +--+                                           v
//!               lease runs out while not connected, remove_agent ------> (nothing)
//! ```
//!
//! All targets of one agent share its lease: a renewal or a new target set refreshes them all.
//! Times are the hub's wall clock, since leases are shown and stored.

mod admit;
mod change;
mod facts;
mod held;
mod line;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{AgentId, Health, ServiceKey, TargetKey, Timestamp};

use admit::Admitted;
pub use change::{Change, ChangeBody, OfferedTarget, Outcome, RefusedTarget};
pub use held::knows_no_runs;
use held::{Declared, Held, differences};
pub use line::{MAX_REASON_CHARS, clean_line};
pub use snapshot::{AgentIndex, AgentView, RegistrySnapshot};

use crate::{Agent, ServiceGrant, TargetRecord};

/// Most targets that one agent may offer, and most services that it may claim.
pub const MAX_TARGETS_PER_AGENT: usize = 64;

/// Changes kept for watchers that come back; who missed more begins anew.
pub const WATCH_LOG: usize = 4096;

/// Reason of a target whose agent cannot be reached through the tunnel.
pub const DATA_PLANE_REASON: &str = "data plane does not echo";

/// How requests are shared between the runs of a service's workload: hundredths by node and generation of the assignment.
/// A service that is not named gives to all of its targets alike; of one that is named, what no run offers gets nothing.
pub type Weights = BTreeMap<ServiceKey, BTreeMap<(AgentId, u64), u8>>;

/// The hub's list of agents and targets. Single owner, no lock, no clock.
#[derive(Debug, Clone)]
pub struct Registry {
    ttl: Duration,
    index: u64,
    agents: BTreeMap<AgentId, Held>,
    claims: BTreeMap<ServiceKey, AgentId>,
    /// How many agents were granted a service by name.
    granted: BTreeMap<ServiceKey, usize>,
    /// Services that the hub runs on nodes, and on which: nobody else may offer them, and nobody at all while there is
    /// none.
    assigned: BTreeMap<ServiceKey, BTreeSet<AgentId>>,
    weights: Weights,
    due: BTreeSet<(Timestamp, AgentId)>,
    log: VecDeque<Change>,
    cached: Option<Arc<RegistrySnapshot>>,
    /// Addresses and names of the agents, until one joins or goes.
    known: Option<Arc<AgentIndex>>,
}

impl Registry {
    /// Takes up what the store kept; `ttl` is how long targets outlive their last renewal.
    ///
    /// Stored targets get a whole lease, so that their agents have time to come back; all are
    /// unhealthy until the data plane of their agent echoes. Targets and claims of agents that
    /// are not in `agents` are left out. `index` must be larger than any a watcher has seen.
    #[must_use]
    pub fn restore(
        agents: Vec<Agent>,
        targets: Vec<TargetRecord>,
        claims: BTreeMap<ServiceKey, AgentId>,
        index: u64,
        now: Timestamp,
        ttl: Duration,
    ) -> Self {
        let mut registry = Self {
            ttl,
            index,
            agents: BTreeMap::new(),
            claims: BTreeMap::new(),
            granted: BTreeMap::new(),
            assigned: BTreeMap::new(),
            weights: Weights::new(),
            due: BTreeSet::new(),
            log: VecDeque::new(),
            cached: None,
            known: None,
        };
        for agent in agents {
            registry.add_agent(agent);
        }
        for target in targets {
            registry.restore_target(target);
        }
        registry.claims = claims.into_iter().filter(|(_, id)| registry.agents.contains_key(id)).collect();
        let offering: Vec<_> =
            registry.agents.iter().filter(|(_, held)| !held.targets.is_empty()).map(|(id, _)| *id).collect();
        for id in offering {
            registry.extend_lease(id, now);
        }
        registry
    }

    /// Index of the last change.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The agent with this id, where it is joined.
    #[must_use]
    pub fn agent(&self, id: AgentId) -> Option<&Arc<Agent>> {
        self.agents.get(&id).map(|held| &held.agent)
    }

    /// Whether an agent offers this target, also while its lease has run out.
    #[must_use]
    pub fn offers(&self, target: TargetKey) -> bool {
        let held = self.agents.get(&target.agent);
        held.is_some_and(|held| held.targets.contains_key(&(target.service, target.port)))
    }

    /// Adds an agent that has just joined, or replaces what is known of it and keeps its targets.
    pub fn add_agent(&mut self, agent: Agent) {
        self.cached = None;
        self.known = None;
        let id = agent.id;
        self.count_grant(&agent.services, true);
        let agent = Arc::new(agent);
        if let Some(held) = self.agents.get_mut(&id) {
            let old = std::mem::replace(&mut held.agent, agent);
            self.count_grant(&old.services, false);
            return;
        }
        let held = Held {
            agent,
            connected: false,
            data_plane: false,
            runs_workloads: true,
            is_leaving: false,
            inventory: None,
            last_seen: None,
            expires_at: None,
            targets: BTreeMap::new(),
        };
        self.agents.insert(id, held);
    }

    /// Forgets an agent with its targets and claims; no change where it is not known.
    pub fn remove_agent(&mut self, id: AgentId) -> Vec<Change> {
        let offered = self.withdraw(id);
        let Some(held) = self.agents.remove(&id) else { return Vec::new() };
        self.cached = None;
        self.known = None;
        self.count_grant(&held.agent.services, false);
        let claimed: Vec<_> = self.claims.extract_if(.., |_, owner| *owner == id).map(|(s, _)| s).collect();
        let mut bodies: Vec<_> = offered.into_iter().map(ChangeBody::Remove).collect();
        bodies.extend(claimed.into_iter().map(|service| ChangeBody::Unclaim { service, agent: id }));
        self.record(bodies)
    }

    /// Refreshes the lease of all targets of an agent that was heard from. Targets that ran out
    /// while the session went on come back.
    pub fn renew(&mut self, id: AgentId, now: Timestamp) -> Vec<Change> {
        let Some(held) = self.agents.get_mut(&id) else { return Vec::new() };
        self.cached = None;
        held.last_seen = Some(now);
        if held.targets.is_empty() {
            return Vec::new();
        }
        let before = held.records(&self.weights);
        let parked = held.expires_at.is_none();
        self.extend_lease(id, now);
        if !parked {
            return Vec::new();
        }
        let after = self.agents.get(&id).map(|held| held.records(&self.weights)).unwrap_or_default();
        self.record(differences(before, after))
    }

    /// Makes the agent's targets equal to `offered`, as far as it may offer them.
    pub fn set_targets(&mut self, id: AgentId, offered: Vec<OfferedTarget>, now: Timestamp) -> Outcome {
        let Admitted { accepted, claimed, refused } = self.admit(id, offered);
        let Some(held) = self.agents.get_mut(&id) else { return Outcome { changes: Vec::new(), refused } };
        self.cached = None;
        held.last_seen = Some(now);
        let before = held.records(&self.weights);
        held.targets = accepted;
        self.extend_lease(id, now);
        let after = self.agents.get(&id).map(|held| held.records(&self.weights)).unwrap_or_default();
        let mut bodies: Vec<_> =
            claimed.into_iter().map(|service| ChangeBody::Claim { service, agent: id }).collect();
        bodies.extend(differences(before, after));
        Outcome { changes: self.record(bodies), refused }
    }

    /// Says which services the hub runs on nodes, and on which, none while it has none; and how requests are shared. What
    /// others offer of them goes at once.
    pub fn assign(
        &mut self,
        assigned: BTreeMap<ServiceKey, BTreeSet<AgentId>>,
        weights: Weights,
    ) -> Vec<Change> {
        self.assigned = assigned;
        let weights_before = std::mem::replace(&mut self.weights, weights);
        let mut bodies = Vec::new();
        for (id, held) in &mut self.agents {
            let before = held.records(&weights_before);
            let is_theirs =
                |service: &ServiceKey| self.assigned.get(service).is_none_or(|owners| owners.contains(id));
            held.targets.retain(|(service, _), _| is_theirs(service));
            bodies.extend(differences(before, held.records(&self.weights)));
        }
        self.cached = None;
        self.record(bodies)
    }

    /// Removes the targets of every lease that ended at or before `now`.
    pub fn handle_timeout(&mut self, now: Timestamp) -> Vec<Change> {
        let mut bodies = Vec::new();
        while let Some(&(at, id)) = self.due.first()
            && at <= now
        {
            self.due.pop_first();
            bodies.extend(self.withdraw(id).into_iter().map(ChangeBody::Remove));
            if let Some(held) = self.agents.get_mut(&id)
                && !held.connected
            {
                held.targets.clear();
            }
        }
        self.record(bodies)
    }

    /// When to call [`Self::handle_timeout`] next; `None` while no target is offered.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The changes after `index`, oldest first; `None` where they are not known (any more), so
    /// that a watcher has to take a snapshot.
    #[must_use]
    pub fn changes_after(&self, index: u64) -> Option<Vec<Change>> {
        if index == self.index {
            return Some(Vec::new());
        }
        let first = self.log.front()?.index;
        let known = index < self.index && index.saturating_add(1) >= first;
        known.then(|| {
            let skip = usize::try_from((index + 1) - first).unwrap_or(usize::MAX);
            self.log.iter().skip(skip).cloned().collect()
        })
    }

    /// Everything at this moment; the same `Arc` as before where nothing happened since.
    pub fn snapshot(&mut self) -> Arc<RegistrySnapshot> {
        if let Some(snapshot) = &self.cached {
            return Arc::clone(snapshot);
        }
        let known = self.known.get_or_insert_with(|| {
            Arc::new(AgentIndex::of(self.agents.values().map(|held| held.agent.as_ref())))
        });
        let snapshot = RegistrySnapshot::collect(self.index, &self.agents, &self.weights, Arc::clone(known));
        let snapshot = Arc::new(snapshot);
        self.cached = Some(Arc::clone(&snapshot));
        snapshot
    }

    fn restore_target(&mut self, target: TargetRecord) {
        let Some(held) = self.agents.get_mut(&target.key.agent) else { return };
        // What the agent reported is not stored where the data plane hid it: it will say again.
        let declared = if target.reason == DATA_PLANE_REASON {
            Declared { health: Health::Unknown, reason: String::new(), generation: target.generation }
        } else {
            Declared { health: target.health, reason: target.reason, generation: target.generation }
        };
        held.targets.insert((target.key.service, target.key.port), declared);
    }

    fn count_grant(&mut self, grant: &ServiceGrant, add: bool) {
        let ServiceGrant::Only(services) = grant else { return };
        for service in services {
            let count = self.granted.entry(*service).or_default();
            *count = if add { count.saturating_add(1) } else { count.saturating_sub(1) };
            if *count == 0 {
                self.granted.remove(service);
            }
        }
    }

    /// Starts the agent's lease anew, or ends it where there is no target.
    fn extend_lease(&mut self, id: AgentId, now: Timestamp) {
        let Some(held) = self.agents.get_mut(&id) else { return };
        if let Some(at) = held.expires_at.take() {
            self.due.remove(&(at, id));
        }
        if !held.targets.is_empty() {
            let at = now.plus(self.ttl);
            held.expires_at = Some(at);
            self.due.insert((at, id));
        }
    }

    /// Ends the agent's lease and gives the targets that everybody saw until now.
    fn withdraw(&mut self, id: AgentId) -> Vec<TargetRecord> {
        let Some(held) = self.agents.get_mut(&id) else { return Vec::new() };
        self.cached = None;
        let seen = held.records(&self.weights);
        if let Some(at) = held.expires_at.take() {
            self.due.remove(&(at, id));
        }
        seen.into_values().collect()
    }

    /// Numbers the changes and keeps them for watchers.
    fn record(&mut self, bodies: Vec<ChangeBody>) -> Vec<Change> {
        let mut changes = Vec::with_capacity(bodies.len());
        for body in bodies {
            self.index += 1;
            let change = Change { index: self.index, body };
            if self.log.len() >= WATCH_LOG {
                self.log.pop_front();
            }
            self.log.push_back(change.clone());
            changes.push(change);
        }
        if !changes.is_empty() {
            self.cached = None;
        }
        changes
    }
}

#[cfg(test)]
mod tests;
