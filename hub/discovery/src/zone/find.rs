//! Looks up what a question is about.

use std::net::IpAddr;
use std::sync::Arc;

use blueprint_common_types::{AgentId, Health, ServiceKey, WgPublicKey};
use blueprint_hub_registry_core::{Agent, RegistrySnapshot, TargetRecord};
use hickory_proto::rr::{Name, Record, RecordType};

use super::{Asker, MAX_TARGETS, Outcome, Question, Reach, Zone, addresses, ns, ptr, record, srv};
use crate::names::Subject;

/// One search with what it has found.
pub(super) struct Found<'a, R: ?Sized> {
    pub(super) zone: &'a Zone,
    pub(super) question: Question<'a>,
    pub(super) snapshot: &'a RegistrySnapshot,
    pub(super) reach: &'a R,
    pub(super) answers: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

impl<R: Reach + ?Sized> Found<'_, R> {
    /// What is known of a name below the domain.
    pub(super) fn subject(&mut self, subject: &Subject) -> Outcome {
        match subject {
            Subject::Apex => self.apex(),
            Subject::Inner => Outcome::NoData,
            Subject::Hub => {
                let hub = self.zone.prefixes.hub();
                self.answers.extend(addresses(self.question.name, &hub, self.question.kind));
                Outcome::Answered
            }
            Subject::Service(service) => self.service(*service, true),
            Subject::ServiceByProtocol(service) => self.service(*service, false),
            Subject::Node(name) => self.node(name),
        }
    }

    fn apex(&mut self) -> Outcome {
        if self.question.kind == RecordType::SOA {
            self.answers.push(self.zone.soa(self.snapshot.index));
        } else if self.question.kind == RecordType::NS {
            self.answers.extend(ns(self.zone).map(|data| record(self.question.name, data)));
        }
        Outcome::Answered
    }

    /// The healthy targets that the asker may reach; without one that it may reach there is no such name.
    fn service(&mut self, service: ServiceKey, has_addresses: bool) -> Outcome {
        let snapshot = self.snapshot;
        let targets: Vec<&TargetRecord> = snapshot.targets_of(service).collect();
        let turn = usize::from(self.question.turn).checked_rem(targets.len()).unwrap_or(0);
        let in_turn = targets.iter().cycle().skip(turn).take(targets.len());
        let (mut is_any, mut healthy) = (false, Vec::new());
        for target in in_turn {
            let Some(agent) = self.agent(target.key.agent).filter(|agent| self.sees_port(agent, target))
            else {
                continue;
            };
            is_any = true;
            if target.health == Health::Healthy && target.weight > 0 {
                healthy.push((agent, *target));
            }
            if healthy.len() >= MAX_TARGETS {
                break;
            }
        }
        if !is_any {
            return Outcome::NoName;
        }
        let kind = self.question.kind;
        let mut told: Vec<AgentId> = Vec::new();
        for (agent, target) in healthy {
            let is_new = !told.contains(&agent.id);
            told.push(agent.id);
            if has_addresses && is_new {
                self.answers.extend(addresses(self.question.name, &agent.lease, kind));
            }
            if matches!(kind, RecordType::SRV | RecordType::ANY) {
                self.place(&agent, target.address.port(), is_new);
            }
        }
        Outcome::Answered
    }

    /// A place for SRV, with the addresses of its machine beside it.
    fn place(&mut self, agent: &Agent, port: u16, is_new: bool) {
        let Some(name) = self.name_of(agent) else { return };
        self.answers.push(record(self.question.name, srv(port, name.clone())));
        if is_new {
            self.additionals.extend(addresses(&name, &agent.lease, RecordType::ANY));
        }
    }

    fn node(&mut self, name: &str) -> Outcome {
        // Nobody gets in the way of a machine's id by calling himself so.
        let id = name.parse::<AgentId>().ok().filter(|id| self.snapshot.agents.contains_key(id));
        let named = self.snapshot.index_of_agents.named(name);
        let meant = id.as_ref().map_or(named, std::slice::from_ref);
        let mut seen = meant.iter().filter_map(|id| self.agent(*id)).filter(|agent| self.sees(agent));
        let Some(agent) = seen.next() else { return Outcome::NoName };
        if seen.next().is_some() {
            return Outcome::Ambiguous;
        }
        self.answers.extend(addresses(self.question.name, &agent.lease, self.question.kind));
        Outcome::Answered
    }

    /// The name behind an address of the overlay.
    pub(super) fn reverse(&mut self, address: IpAddr) -> Outcome {
        let name = if self.zone.is_hub(address) {
            self.zone.below(&["hub"])
        } else {
            let agent = self.snapshot.index_of_agents.at(address).and_then(|id| self.agent(id));
            agent.filter(|agent| self.sees(agent)).and_then(|agent| self.name_of(&agent))
        };
        let Some(name) = name else { return Outcome::NoName };
        if matches!(self.question.kind, RecordType::PTR | RecordType::ANY) {
            self.answers.push(record(self.question.name, ptr(name)));
        }
        Outcome::Answered
    }

    fn agent(&self, id: AgentId) -> Option<Arc<Agent>> {
        self.snapshot.agents.get(&id).map(|view| Arc::clone(&view.agent))
    }

    /// The name of a machine where it is the only one that has it and it is nobody's id, else its id.
    fn name_of(&self, agent: &Agent) -> Option<Name> {
        let is_own = self.snapshot.index_of_agents.named(&agent.name).len() == 1
            && agent.name.parse::<AgentId>().is_err()
            && !agent.name.contains('.');
        let named = is_own.then(|| self.zone.below(&[&agent.name, "node"])).flatten();
        named.or_else(|| self.zone.below(&[&agent.id.to_string(), "node"]))
    }

    /// Whether the asker may begin anything with a machine.
    fn sees(&self, agent: &Agent) -> bool {
        self.allowed(agent, |source| self.reach.may_reach(source, &agent.wireguard_key))
    }

    fn sees_port(&self, agent: &Agent, target: &TargetRecord) -> bool {
        self.allowed(agent, |source| {
            self.reach.may_connect(source, &agent.wireguard_key, target.address.port())
        })
    }

    fn allowed(&self, agent: &Agent, may: impl Fn(&WgPublicKey) -> bool) -> bool {
        match self.question.asker {
            Asker::Operator => true,
            Asker::Node(id) if id == agent.id => true,
            Asker::Node(id) => self.agent(id).is_some_and(|source| may(&source.wireguard_key)),
        }
    }
}
