//! One agent and its targets, as everybody sees them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use blueprint_common_types::workload::Inventory;
use blueprint_common_types::{AgentId, Health, ServiceKey, TargetKey, Timestamp};

use super::{ChangeBody, DATA_PLANE_REASON, Weights};
use crate::{Agent, TargetRecord, WHOLE};

/// A target as its agent reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) health: Health,
    pub(super) reason: String,
    pub(super) generation: u64,
}

/// One agent and everything that hangs on its lease.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) agent: Arc<Agent>,
    pub(super) connected: bool,
    pub(super) data_plane: bool,
    pub(super) runs_workloads: bool,
    /// Its machine is to go: its targets get no new requests.
    pub(super) is_leaving: bool,
    pub(super) inventory: Option<Arc<Inventory>>,
    pub(super) last_seen: Option<Timestamp>,
    /// End of the lease; `None` while there is no target or the targets are parked.
    pub(super) expires_at: Option<Timestamp>,
    pub(super) targets: BTreeMap<(ServiceKey, u16), Declared>,
}

impl Held {
    /// The targets that everybody sees: none without a lease.
    pub(super) fn records(&self, weights: &Weights) -> BTreeMap<TargetKey, TargetRecord> {
        let Some(expires_at) = self.expires_at else { return BTreeMap::new() };
        let agent = &self.agent;
        let record = |(&(service, port), declared): (&(ServiceKey, u16), &Declared)| {
            let key = TargetKey { service, agent: agent.id, port };
            let (health, reason) = if self.data_plane {
                (declared.health, declared.reason.clone())
            } else {
                (Health::Unhealthy, DATA_PLANE_REASON.to_owned())
            };
            let address = SocketAddr::from((agent.lease.v4, port));
            let generation = declared.generation;
            let weight = match weights.get(&service) {
                Some(_) | None if self.is_leaving => 0,
                Some(runs) => self.share(runs, service, port),
                None => WHOLE,
            };
            let agent_name = agent.name.clone();
            (key, TargetRecord { key, health, reason, address, expires_at, agent_name, generation, weight })
        };
        self.targets.iter().map(record).collect()
    }

    /// What a target gets of a service that the hub runs. A run has one target: of more the first healthy one counts. One
    /// of no run, or of a run that is not named, gets nothing, unless the agent is of a version that knows no runs.
    fn share(&self, runs: &BTreeMap<(AgentId, u64), u8>, service: ServiceKey, port: u16) -> u8 {
        let of_service = self.targets.range((service, 0)..=(service, u16::MAX));
        let Some(generation) = self.targets.get(&(service, port)).map(|it| it.generation) else { return 0 };
        let own = of_service.filter(|(_, it)| it.generation == generation);
        let first = own.min_by_key(|((_, port), it)| (it.health != Health::Healthy, *port));
        if first.is_none_or(|((_, first), _)| *first != port) {
            return 0;
        }
        let of_agent = runs.range((self.agent.id, 0)..=(self.agent.id, u64::MAX));
        if generation == 0 && knows_no_runs(self.inventory.as_deref()) {
            return of_agent.map(|(_, share)| *share).max().unwrap_or(0);
        }
        runs.get(&(self.agent.id, generation)).copied().unwrap_or(0)
    }
}

/// Whether an agent of this inventory is too old to say which run of a workload offers a target.
#[must_use]
pub fn knows_no_runs(inventory: Option<&Inventory>) -> bool {
    inventory.is_none_or(|inventory| inventory.slots == 0)
}

/// What a watcher has to be told to get from `before` to `after`; a later expiry is no news.
pub(super) fn differences(
    mut before: BTreeMap<TargetKey, TargetRecord>,
    after: BTreeMap<TargetKey, TargetRecord>,
) -> Vec<ChangeBody> {
    let mut upserts = Vec::new();
    for (key, record) in after {
        let old = before.remove(&key);
        let seen = |it: &TargetRecord| (it.health, it.reason.clone(), it.generation, it.weight);
        if old.is_none_or(|old| seen(&old) != seen(&record)) {
            upserts.push(ChangeBody::Upsert(record));
        }
    }
    before.into_values().map(ChangeBody::Remove).chain(upserts).collect()
}
