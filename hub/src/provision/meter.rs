//! What scaling knows of services at machines: samples of agents, health of targets, and what the proxy counts.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::{AgentId, Health, ServiceKey};
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
            let mut reading = Reading::default();
            for target in snapshot.targets_of(service).filter(|target| target.key.agent == agent) {
                let (requests, _, open) = self.ledger.tally(service, target.address);
                reading.is_ready |= target.health == Health::Healthy;
                reading.requests = reading.requests.saturating_add(requests);
                reading.open = reading.open.saturating_add(open);
            }
            // A hub that stops measures nothing.
            let sample = self.registrar.qos(agent, 0).await.ok().flatten().and_then(|view| view.latest);
            reading.cpu = sample.and_then(|sample| {
                let own = sample.services.iter().filter(|it| it.service == service);
                let own: Vec<f32> = own.map(|it| it.cpu_percent).collect();
                (!own.is_empty()).then(|| (sample.at, own.iter().sum()))
            });
            readings.insert(agent, reading);
        }
        readings
    }
}

impl Meter for HubMeter {
    fn read(
        &self,
        service: ServiceKey,
        agents: BTreeSet<AgentId>,
    ) -> BoxFuture<'_, BTreeMap<AgentId, Reading>> {
        self.read_all(service, agents).boxed()
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
