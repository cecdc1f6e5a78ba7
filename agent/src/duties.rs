//! What the agent does at its hub: it offers the services of this machine and runs the workloads that it is assigned.

use std::sync::Arc;

use blueprint_common_runtime::cli::printable;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_spoke::{CallError, Duties, Says};
use blueprint_common_types::DoorTicket;
use blueprint_common_types::workload::Inventory;
use blueprint_proto::v1;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;
use tracing::warn;

use crate::hint;
use crate::logs::LogGiver;
use crate::shared::{HealthMap, ServiceHealth, Shared};
use crate::workloads::{assigned, report};

/// Longest reason of the hub that is kept, in characters.
const MAX_REASON: usize = 256;

/// What goes to the hub: hello, health of the services, workloads where this machine runs any, and samples.
pub(crate) fn says(shared: &Shared, samples: mpsc::Receiver<v1::QosReport>) -> Says {
    let health = WatchStream::new(shared.health.subscribe());
    let mut says = Says::nothing(env!("CARGO_PKG_VERSION"));
    if let Some(node) = shared.node.get() {
        let statuses = node.statuses();
        says.hello.runs_workloads = Some(true);
        says.hello.inventory = Some(wire(node.inventory()));
        says.workloads = WatchStream::new(statuses).map(|statuses| report(&statuses)).boxed();
    }
    says.targets = health.map(|health| targets(&health)).boxed();
    says.samples = samples;
    says
}

fn wire(inventory: Inventory) -> v1::Inventory {
    let Inventory { cpu_millis, memory_bytes, gpus, gpu_models, arch, slots, .. } = inventory;
    v1::Inventory {
        cpu_millis,
        memory_bytes,
        gpus: gpus.into(),
        gpu_models,
        arch,
        slots: slots.into(),
        limits_held: inventory.limits_held,
        runs_unlimited: inventory.runs_unlimited,
        gpu_vram_bytes: inventory.gpu_vram_bytes,
    }
}

/// All targets, with what the checks found.
fn targets(health: &HealthMap) -> v1::TargetSet {
    let target = |(port, known): (&u16, &ServiceHealth)| v1::Target {
        blueprint_id: known.service.blueprint,
        service_id: known.service.service,
        port: (*port).into(),
        health: v1::Health::from(known.health).into(),
        reason: known.reason.clone(),
        generation: known.generation,
    };
    v1::TargetSet { targets: health.iter().map(target).collect() }
}

/// The agent as its control stream sees it.
#[derive(Debug)]
pub(crate) struct AgentDuties {
    shared: Arc<Shared>,
    logs: LogGiver,
}

impl AgentDuties {
    pub(crate) fn new(shared: Arc<Shared>, spawner: Spawner) -> Self {
        let logs = LogGiver::new(Arc::clone(&shared), spawner);
        Self { shared, logs }
    }
}

impl Duties for AgentDuties {
    fn offered_anew(&self) {
        self.shared.refused.lock().clear();
    }

    fn refused(&self, refused: v1::TargetRefused) {
        let Ok(port) = u16::try_from(refused.port) else { return };
        let reason: String = printable(&refused.reason).chars().take(MAX_REASON).collect();
        warn!(
            blueprint = refused.blueprint_id,
            service = refused.service_id,
            port,
            reason,
            "hub refuses target"
        );
        self.shared.refused.lock().insert(port, reason);
    }

    fn assigned(&self, set: v1::WorkloadSet) {
        match self.shared.node.get() {
            Some(node) => node.assign(assigned(&set)),
            None if set.workloads.is_empty() => {}
            None => warn!("the hub assigns workloads, and workload.enabled is false on this node"),
        }
    }

    fn logs(&self, request: v1::LogRequest) {
        self.logs.give(request);
    }

    fn door(&self, ticket: v1::DoorTicket) {
        let v1::DoorTicket { ticket, proof, ask } = &ticket;
        match DoorTicket::of_parts([ticket, proof, ask]) {
            Some(ticket) => self.shared.tickets.put(ticket, Instant::now()),
            None => warn!("a ticket for exec or forward ignored: it is damaged"),
        }
    }

    fn hint(&self, error: &CallError) -> Option<String> {
        hint::of_call(error)
    }
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::{Health, ServiceKey};

    use super::*;

    #[test]
    fn targets_say_what_the_checks_found() {
        let service = ServiceKey { blueprint: 7, service: 42 };
        let sick = ServiceHealth {
            service,
            generation: 9,
            health: Health::Unhealthy,
            reason: "connection refused".to_owned(),
            check_micros: 3,
        };
        let set = targets(&HealthMap::from([(80, sick)]));
        let [target] = set.targets.as_slice() else { unreachable!("one target") };
        assert_eq!((target.blueprint_id, target.service_id, target.port, target.generation), (7, 42, 80, 9));
        assert_eq!(target.health(), v1::Health::Unhealthy);
        assert_eq!(target.reason, "connection refused");
    }
}
