//! What scaling knows of services at machines: samples of agents, health of targets, and what the proxy counts.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::{AgentId, Health, ServiceKey, ServiceSample};
use blueprint_hub_provision::{Meter, Reading};
use blueprint_hub_proxy::Ledger;
use blueprint_hub_registry::{RegistrarHandle, WorkloadsHandle};
use futures_util::future::{BoxFuture, FutureExt};
use tracing::debug;

/// The registry and the proxy, as scaling needs them.
pub(super) struct HubMeter {
    registrar: RegistrarHandle,
    ledger: Ledger,
    workloads: WorkloadsHandle,
}

impl HubMeter {
    pub(super) const fn new(registrar: RegistrarHandle, ledger: Ledger, workloads: WorkloadsHandle) -> Self {
        Self { registrar, ledger, workloads }
    }

    async fn read_all(&self, service: ServiceKey, agents: BTreeSet<AgentId>) -> BTreeMap<AgentId, Reading> {
        let snapshot = self.registrar.snapshot();
        let mut readings = BTreeMap::new();
        for agent in agents {
            let is_here = snapshot.agents.get(&agent).is_some_and(|view| view.connected);
            let mut reading = Reading { is_here, ..Reading::default() };
            for target in snapshot.targets_of(service).filter(|target| target.key.agent == agent) {
                let load = self.ledger.load(service, target.address);
                reading.is_ready |= target.health == Health::Healthy;
                reading.requests = reading.requests.saturating_add(load.begun);
                reading.open = reading.open.saturating_add(load.open);
                reading.lasting = reading.lasting.saturating_add(load.lasting);
            }
            // A hub that stops measures nothing.
            let sample = self.registrar.qos(agent, 0).await.ok().flatten().and_then(|view| view.latest);
            reading.cpu = sample.and_then(|sample| Some((sample.at, used(service, &sample.services)?)));
            readings.insert(agent, reading);
        }
        readings
    }
}

/// What a service uses at a machine, in percent of one processor; `None` where it is not there, or where what one of its
/// targets uses is not known.
fn used(service: ServiceKey, samples: &[ServiceSample]) -> Option<f32> {
    let mut own = samples.iter().filter(|sample| sample.service == service).peekable();
    own.peek()?;
    own.map(|sample| sample.is_measured().then_some(sample.cpu_percent)).sum()
}

impl Meter for HubMeter {
    fn read(
        &self,
        service: ServiceKey,
        agents: BTreeSet<AgentId>,
    ) -> BoxFuture<'_, BTreeMap<AgentId, Reading>> {
        self.read_all(service, agents).boxed()
    }

    fn is_reached(&self) -> bool {
        self.registrar.snapshot().agents.values().any(|view| view.connected && view.data_plane)
    }

    fn updating(&self, service: ServiceKey) -> Option<String> {
        self.workloads.view().updates.get(&service).map(|it| it.update.doing())
    }

    fn leave(&self, agents: BTreeSet<AgentId>) -> BoxFuture<'_, ()> {
        async move {
            if self.registrar.set_leaving(agents).await.is_err() {
                debug!("nobody is told which machines leave: the hub stops");
            }
        }
        .boxed()
    }

    fn place(&self, replicas: BTreeMap<ServiceKey, BTreeSet<AgentId>>) -> BoxFuture<'_, ()> {
        async move {
            if self.workloads.set_replicas(replicas).await.is_err() {
                debug!("replicas of workloads are not placed: the hub stops");
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    fn sample(service: ServiceKey, pid: Option<u32>, cpu_percent: f32) -> ServiceSample {
        let (port, health, memory_bytes) = (8080, Health::Healthy, 0);
        ServiceSample { service, port, health, pid, cpu_percent, memory_bytes, check_micros: 0, whole: None }
    }

    #[test]
    fn what_is_not_measured_is_not_idle() {
        let other = sample(ServiceKey { blueprint: 7, service: 43 }, Some(1), 50.0);
        assert_eq!(used(SERVICE, &[]), None);
        assert_eq!(used(SERVICE, &[other]), None);
        assert_eq!(used(SERVICE, &[other, sample(SERVICE, Some(2), 0.0)]), Some(0.0), "idle");
        assert_eq!(used(SERVICE, &[sample(SERVICE, None, 0.0)]), None, "nobody knows whose it is");
        let both = [sample(SERVICE, Some(2), 30.0), sample(SERVICE, Some(3), 40.0)];
        assert_eq!(used(SERVICE, &both), Some(70.0));
        let one = [both[0], sample(SERVICE, None, 0.0)];
        assert_eq!(used(SERVICE, &one), None, "one of two targets is not known");
        let engine = ServiceSample { memory_bytes: 4096, ..sample(SERVICE, None, 3.0) };
        assert_eq!(used(SERVICE, &[engine]), Some(3.0), "a figure without a process is one");
    }
}
