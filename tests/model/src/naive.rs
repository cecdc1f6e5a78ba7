//! The registry once more, by its rules alone: no log, no cache, no deadlines kept in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use blueprint_common_types::{AgentId, Health, OverlayLease, ServiceKey, TargetKey, Timestamp};
use blueprint_hub_registry_core::{
    Agent, DATA_PLANE_REASON, OfferedTarget, RegistrySnapshot, ServiceGrant, TargetRecord,
};

use crate::wire::{ProcessId, TTL};

/// What everybody sees of a target, without its expiry.
pub(crate) type Seen = (Health, String, SocketAddr);

/// All targets at one moment.
pub(crate) type View = BTreeMap<TargetKey, Seen>;

#[derive(Debug, Clone)]
pub(crate) struct NaiveAgent {
    grant: ServiceGrant,
    lease: OverlayLease,
    pub(crate) connected: bool,
    pub(crate) alive: bool,
    expires: Option<Timestamp>,
    declared: BTreeMap<(ServiceKey, u16), (Health, String)>,
    /// The newest target set applied.
    pub(crate) applied: Option<(ProcessId, u64)>,
}

/// Agents, targets and claims.
#[derive(Debug, Clone, Default)]
pub(crate) struct Naive {
    pub(crate) agents: BTreeMap<AgentId, NaiveAgent>,
    pub(crate) claims: BTreeMap<ServiceKey, AgentId>,
    /// What everybody saw after the last step.
    shown: View,
    /// Each target as it was when it last changed for those who see it. A restart hides all targets until their
    /// data plane echoes, which is no such change: it is not saved.
    pub(crate) stored: View,
}

impl Naive {
    /// What a restart makes of a saved state.
    pub(crate) fn restored(&self, now: Timestamp) -> Self {
        let mut restored = self.clone();
        for (id, agent) in &mut restored.agents {
            let seen = self.stored.iter().filter(|(key, _)| key.agent == *id);
            let declare = |(key, (health, reason, _)): (&TargetKey, &Seen)| {
                let is_hidden = reason == DATA_PLANE_REASON;
                let told =
                    if is_hidden { (Health::Unknown, String::new()) } else { (*health, reason.clone()) };
                ((key.service, key.port), told)
            };
            agent.declared = seen.map(declare).collect();
            agent.connected = false;
            agent.alive = false;
            agent.expires = (!agent.declared.is_empty()).then(|| now.plus(TTL));
        }
        restored.shown = restored.view();
        restored
    }

    pub(crate) fn add(&mut self, agent: &Agent) {
        let naive = NaiveAgent {
            grant: agent.services.clone(),
            lease: agent.lease,
            connected: false,
            alive: false,
            expires: None,
            declared: BTreeMap::new(),
            applied: None,
        };
        self.agents.insert(agent.id, naive);
    }

    pub(crate) fn remove(&mut self, id: AgentId) {
        self.agents.remove(&id);
        self.claims.retain(|_, owner| *owner != id);
        self.observe();
    }

    pub(crate) fn set_connected(&mut self, id: AgentId, connected: bool) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.connected = connected;
        if !connected && agent.expires.is_none() {
            agent.declared.clear();
        }
    }

    pub(crate) fn set_alive(&mut self, id: AgentId, alive: bool) {
        if let Some(agent) = self.agents.get_mut(&id) {
            agent.alive = alive;
        }
        self.observe();
    }

    pub(crate) fn renew(&mut self, id: AgentId, now: Timestamp) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.expires = (!agent.declared.is_empty()).then(|| now.plus(TTL));
        self.observe();
    }

    pub(crate) fn set_targets(&mut self, id: AgentId, offered: &[OfferedTarget], now: Timestamp) {
        let mut declared = BTreeMap::new();
        for OfferedTarget { service, port, health, reason, .. } in offered {
            if *port != 0 && self.may_offer(id, *service) {
                declared.insert((*service, *port), (*health, reason.clone()));
            }
        }
        if let Some(agent) = self.agents.get_mut(&id) {
            agent.declared = declared;
        }
        self.renew(id, now);
    }

    /// Ends every lease that ran out.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        for agent in self.agents.values_mut() {
            if agent.expires.is_some_and(|at| at <= now) {
                agent.expires = None;
                if !agent.connected {
                    agent.declared.clear();
                }
            }
        }
        self.observe();
    }

    /// What everybody sees.
    pub(crate) fn view(&self) -> View {
        let mut view = View::new();
        for (id, agent) in self.agents.iter().filter(|(_, agent)| agent.expires.is_some()) {
            for ((service, port), (health, reason)) in &agent.declared {
                let key = TargetKey { service: *service, agent: *id, port: *port };
                let address = SocketAddr::from((agent.lease.v4, *port));
                let seen = if agent.alive {
                    (*health, reason.clone(), address)
                } else {
                    (Health::Unhealthy, DATA_PLANE_REASON.to_owned(), address)
                };
                view.insert(key, seen);
            }
        }
        view
    }

    /// True where the agent's newest target set is `said`, and is shown as it was told.
    pub(crate) fn is_well(&self, id: AgentId, said: (ProcessId, u64)) -> bool {
        self.agents.get(&id).is_some_and(|agent| {
            let is_shown = agent.alive && (agent.expires.is_some() || agent.declared.is_empty());
            agent.connected && is_shown && agent.applied == Some(said)
        })
    }

    fn observe(&mut self) {
        let view = self.view();
        for (key, seen) in &view {
            if self.shown.get(key) != Some(seen) {
                self.stored.insert(*key, seen.clone());
            }
        }
        self.stored.retain(|key, _| view.contains_key(key));
        self.shown = view;
    }

    fn may_offer(&mut self, id: AgentId, service: ServiceKey) -> bool {
        let Some(agent) = self.agents.get(&id) else { return false };
        let names = |grant: &ServiceGrant| match grant {
            ServiceGrant::Only(services) => services.contains(&service),
            ServiceGrant::FirstClaim => false,
        };
        if agent.grant != ServiceGrant::FirstClaim {
            return names(&agent.grant);
        }
        match self.claims.get(&service) {
            Some(owner) => *owner == id,
            None if self.agents.values().any(|other| names(&other.grant)) => false,
            None => {
                self.claims.insert(service, id);
                true
            }
        }
    }
}

pub(crate) fn seen(record: &TargetRecord) -> Seen {
    (record.health, record.reason.clone(), record.address)
}

/// A snapshot as the naive registry would show it.
pub(crate) fn view_of(snapshot: &RegistrySnapshot) -> View {
    snapshot.targets.iter().map(|(key, record)| (*key, seen(record))).collect()
}
