//! Sessions of agents: how one begins and ends, what it says, and what is said to it.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::workload::Seat;
use blueprint_common_types::{AgentId, ServiceSample, TargetKey, Timestamp};
use blueprint_hub_registry_core::workload::Assignment;
use blueprint_hub_registry_core::{AuditEvent, AuditKind, QosSample, RefusedTarget};
use blueprint_proto::v1::{self, goodbye::Reason, hub_message::Body};
use tokio::time::Instant;
use tracing::warn;

use super::{LateTaken, Opening, Outbox, Recorded, Registrar, Report, SessionRef};
use crate::qos::Sampled;

/// Refused targets of one agent that are remembered.
const REFUSED: usize = 256;

/// A live session.
pub(super) struct Live {
    pub(super) session: u64,
    pub(super) process: u64,
    /// `None` between two sessions of the same process.
    pub(super) outbox: Option<Outbox>,
    /// Last sequence number applied.
    pub(super) applied: u64,
    /// Last sequence number acknowledged.
    pub(super) acked: u64,
    /// Targets refused already, so that each is audited once a process; [`REFUSED`] at most.
    pub(super) refused: BTreeSet<TargetKey>,
}

impl Live {
    /// Sends without waiting. A full outbox means an agent that does not read; its session ends by its keepalive.
    pub(super) fn say(&self, body: Body) {
        if let Some(outbox) = &self.outbox {
            let _ = outbox.try_send(Box::new(v1::HubMessage { seq: 0, body: Some(body) }));
        }
    }

    pub(super) fn acknowledge(&mut self) {
        if self.applied > self.acked {
            self.acked = self.applied;
            self.say(Body::Ack(v1::Ack { agent_seq: self.applied }));
        }
    }
}

impl Registrar {
    pub(super) fn open(&mut self, opening: Opening, now: Timestamp) -> Option<()> {
        let SessionRef { agent, session } = opening.session;
        self.registry.agent(agent)?;
        let (mut applied, mut acked) = (0, 0);
        let mut refused = BTreeSet::new();
        if let Some(old) = self.live.remove(&agent) {
            if old.process == opening.process {
                (applied, acked) = (old.applied, old.acked);
                refused.clone_from(&old.refused);
            } else if old.outbox.is_some() {
                self.audit.push(AuditEvent::new(
                    AuditKind::SessionReplace,
                    agent,
                    "another process of the same agent took over",
                ));
            }
            old.say(Body::Goodbye(v1::Goodbye { reason: Reason::Replaced.into() }));
        }
        let live =
            Live { session, process: opening.process, outbox: Some(opening.outbox), applied, acked, refused };
        // What was acknowledged, not what is applied: that may not be stored yet.
        live.say(Body::Welcome(v1::Welcome { agent_seq: acked, ..opening.welcome }));
        live.say(Body::Workloads(workload_set(self.assignments.get(&agent))));
        self.live.insert(agent, live);
        self.registry.set_connected(agent, true, now);
        self.registry.set_agent_version(agent, &opening.agent_version);
        let changes = self.registry.set_workload_facts(agent, opening.runs_workloads, opening.inventory);
        self.note(changes);
        self.dirty = true;
        Some(())
    }

    pub(super) fn close(&mut self, session: SessionRef, now: Timestamp) {
        let Some(live) = self.live.get_mut(&session.agent).filter(|live| live.session == session.session)
        else {
            return;
        };
        live.outbox = None;
        self.registry.set_connected(session.agent, false, now);
        self.dirty = true;
    }

    pub(super) fn report(&mut self, session: SessionRef, seq: u64, report: Report, now: Timestamp) {
        let agent = session.agent;
        let Some(live) = self.live.get_mut(&agent).filter(|live| live.session == session.session) else {
            return;
        };
        let fresh = seq > live.applied;
        live.applied = live.applied.max(seq);
        let back = self.registry.renew(agent, now);
        self.note(back);
        if !fresh {
            return;
        }
        match report {
            Report::Alive => {}
            Report::Targets(offered) => {
                let outcome = self.registry.set_targets(agent, offered, now);
                for (key, reason) in outcome.refused {
                    self.refuse(key, &reason);
                }
                self.note(outcome.changes);
            }
            Report::Qos(at, machine, tunnel, services) => {
                let services = self.told_only(agent, services, |target| self.registry.offers(target));
                if let Some(sink) = &self.sink {
                    let services = services.clone();
                    sink.note(Sampled { agent, at, machine, tunnel, services });
                }
                self.history.entry(agent).or_default().push(at, machine, tunnel, services);
            }
        }
    }

    /// Samples of what the agent may tell of, once each: it says nothing of what is another's, or of what is nobody's.
    fn told_only(
        &self,
        agent: AgentId,
        mut services: Vec<ServiceSample>,
        may_tell: impl Fn(TargetKey) -> bool,
    ) -> Vec<ServiceSample> {
        let count = services.len();
        let mut told = BTreeSet::new();
        services.retain(|sample| {
            let target = TargetKey { service: sample.service, agent, port: sample.port };
            may_tell(target) && told.insert(target)
        });
        if let Some(sink) = &self.sink {
            sink.not_offered(count - services.len());
        }
        services
    }

    fn refuse(&mut self, key: TargetKey, reason: &RefusedTarget) {
        let Some(live) = self.live.get_mut(&key.agent) else { return };
        live.say(Body::Refused(v1::TargetRefused {
            blueprint_id: key.service.blueprint,
            service_id: key.service.service,
            port: key.port.into(),
            reason: reason.to_string(),
        }));
        if live.refused.contains(&key) {
            return;
        }
        if live.refused.len() >= REFUSED {
            return self.refusals.suppress();
        }
        live.refused.insert(key);
        if let Some(suppressed) = self.refusals.take(Instant::now().into_std()) {
            warn!(agent = %key.agent, service = %key.service, %reason, "target refused");
            let detail = format!("{} on port {}: {reason}", key.service, key.port);
            let event = AuditEvent::new(AuditKind::TargetRefuse, key.agent, detail);
            self.audit.push(event.after(suppressed));
        }
    }

    /// Takes samples with times of their own. What the agent offered then may be another's by now, or not be offered yet: what
    /// is `recorded` of it counts, and what it may offer.
    pub(super) fn take_late(
        &mut self,
        agent: AgentId,
        samples: Vec<QosSample>,
        recorded: &Recorded,
        now: Timestamp,
    ) -> LateTaken {
        let mut taken = LateTaken::default();
        if self.registry.agent(agent).is_none() {
            return taken;
        }
        for sample in samples {
            if let Err(refusal) = self.history.entry(agent).or_default().push_late(&sample, now) {
                taken.refusals.push(refusal);
                continue;
            }
            let QosSample { at, machine, tunnel, services } = sample;
            let count = services.len();
            let services = self.told_only(agent, services, |target| {
                self.registry.may_tell(target) || recorded.contains(&(target.service, target.port))
            });
            taken.not_offered += count - services.len();
            if let Some(sink) = &self.sink {
                taken.kept.push(sink.keep(Sampled { agent, at, machine, tunnel, services }));
            }
        }
        taken
    }
}

pub(super) fn workload_set(services: Option<&BTreeMap<Seat, Assignment>>) -> v1::WorkloadSet {
    let reference = |(seat, assignment): (&Seat, &Assignment)| v1::WorkloadRef {
        blueprint_id: seat.service.blueprint,
        service_id: seat.service.service,
        generation: assignment.generation,
        ends: assignment.ends,
        slot: seat.slot.into(),
    };
    v1::WorkloadSet { workloads: services.into_iter().flatten().map(reference).collect() }
}
