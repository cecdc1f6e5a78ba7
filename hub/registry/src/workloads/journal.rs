//! What nodes did to make workloads well, and which do not get well: written into the journal, counted and told.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::{EventKind, WorkloadEvent};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tracing::{error, info, warn};

use super::Workloads;

type Kinds = Family<Vec<(&'static str, &'static str)>, Counter<u64, AtomicU64>>;

/// What was written already, so that a step is not written at every report that repeats it.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// The newest step of each workload, and its assignment.
    written: BTreeMap<ServiceKey, (u64, Timestamp)>,
    /// What is known to be degraded, and in which assignment.
    degraded: BTreeMap<ServiceKey, u64>,
    steps: Kinds,
    degraded_now: Gauge,
}

impl Journal {
    pub(super) fn register(&self, metrics: &Metrics) {
        metrics.with(|registry| {
            let registry = registry.sub_registry_with_prefix("hub_workload");
            registry.register(
                "recovery_steps",
                "Steps to make workloads well, and moves to other nodes, by kind",
                self.steps.clone(),
            );
            registry.register(
                "degraded",
                "Workloads that do not get well and have no node left to go to",
                self.degraded_now.clone(),
            );
        });
    }

    pub(super) fn count(&self, kind: EventKind) {
        self.steps.get_or_create(&vec![("kind", kind.label())]).inc();
    }
}

impl Workloads {
    /// Writes what is new; what the store does not take is tried again a second later.
    pub(super) async fn write_journal(&mut self) {
        let assigner = &self.assigner;
        self.journal.written.retain(|service, _| assigner.get(*service).is_some());
        let mut events = Vec::new();
        for (node, status) in self.statuses.values() {
            let written = self.journal.written.get(&status.service);
            let last = written.filter(|(generation, _)| *generation == status.generation).map(|(_, at)| *at);
            let news = status.steps.iter().filter(|step| last.is_none_or(|last| step.at > last));
            events.extend(news.map(|step| WorkloadEvent::of_step(status, *node, step)));
        }
        let degraded: Vec<_> = self.newly_degraded();
        if !events.is_empty() || !degraded.is_empty() {
            let now = Timestamp::from(SystemTime::now());
            let all = events.iter().chain(&degraded).cloned().collect();
            if let Err(error) = self.store.journal(all, now).await {
                error!(%error, "the journal of workloads is not written; tried again in a second");
                return;
            }
        }
        for event in events {
            info!(service = %event.service, kind = event.kind.label(), reason = event.reason, "workload recovery step");
            self.journal.count(event.kind);
            self.journal.written.insert(event.service, (event.generation, event.at));
        }
        for event in degraded {
            warn!(target: "audit", service = %event.service, reason = event.reason, "workload degraded");
            self.journal.count(event.kind);
            self.journal.degraded.insert(event.service, event.generation);
        }
        let now = self.assigner.degraded();
        self.journal.degraded.retain(|service, _| now.contains_key(service));
        self.journal.degraded_now.set(i64::try_from(now.len()).unwrap_or(i64::MAX));
    }

    /// What does not get well any more since the last look.
    fn newly_degraded(&self) -> Vec<WorkloadEvent> {
        let at = Timestamp::from(SystemTime::now());
        let event = |(service, reason): (&ServiceKey, &String)| {
            let record = self.assigner.get(*service)?;
            let is_known = self.journal.degraded.get(service) == Some(&record.generation);
            (!is_known).then(|| WorkloadEvent {
                service: *service,
                generation: record.generation,
                at,
                node: record.node,
                kind: EventKind::Degraded,
                reason: reason.clone(),
            })
        };
        self.assigner.degraded().iter().filter_map(event).collect()
    }
}
