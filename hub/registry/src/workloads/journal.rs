//! What nodes did to make workloads well, and which do not get well: written into the journal, counted and told.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::workload::MAX_STEPS;
use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::{EventKind, WINDOW, WorkloadEvent};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tracing::{error, info, warn};

use super::Workloads;

type Kinds = Family<Vec<(&'static str, &'static str)>, Counter<u64, AtomicU64>>;

/// Pause after which one more step of a workload is written; [`MAX_STEPS`] at once, which is one report.
const STEP_PAUSE: Duration = Duration::from_secs(1);

/// What was written already, so that a step is not written at every report that repeats it.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// The newest step of each assignment of a workload: two of them run while it is updated.
    written: BTreeMap<(ServiceKey, u64), Timestamp>,
    paces: BTreeMap<ServiceKey, Pace>,
    degraded: BTreeMap<ServiceKey, Told>,
    steps: Kinds,
    held: Counter<u64, AtomicU64>,
    degraded_now: Gauge,
    updates: Kinds,
    updates_now: Gauge,
}

/// How many steps of a workload may be written now.
#[derive(Debug, Clone, Copy)]
struct Pace {
    left: usize,
    since: Instant,
    /// The newest step that had to wait, so that it is counted once.
    held: Option<Timestamp>,
}

impl Pace {
    const fn new(now: Instant) -> Self {
        Self { left: MAX_STEPS, since: now, held: None }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < MAX_STEPS && now.saturating_duration_since(self.since) >= STEP_PAUSE {
            self.left = self.left.saturating_add(1);
            self.since = self.since.checked_add(STEP_PAUSE).unwrap_or(now);
        }
        if self.left == MAX_STEPS {
            self.since = now;
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

/// That a workload is degraded was written.
#[derive(Debug, Clone, Copy)]
struct Told {
    generation: u64,
    at: Instant,
    /// Whether it has been so ever since.
    holds: bool,
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
                "recovery_steps_held",
                "Steps that nodes told faster than they are written; lost where the node tells others meanwhile",
                self.held.clone(),
            );
            registry.register(
                "degraded",
                "Workloads that do not get well and have no node left to go to",
                self.degraded_now.clone(),
            );
            registry.register(
                "updates",
                "Updates by what became of them: started, moved, through, covered (the old version could not serve before the move), \
                 or back and the phase that they were in, aborted where the operator asked for it",
                self.updates.clone(),
            );
            registry.register("updates_running", "Updates that are under way", self.updates_now.clone());
        });
    }

    /// Counts what became of an update.
    pub(super) fn count_update(&self, result: &'static str) {
        self.updates.get_or_create(&vec![("result", result)]).inc();
    }

    /// Shows how many are under way.
    pub(super) fn show_updates(&self, running: usize) {
        self.updates_now.set(i64::try_from(running).unwrap_or(i64::MAX));
    }

    pub(super) fn count(&self, kind: EventKind) {
        self.steps.get_or_create(&vec![("kind", kind.label())]).inc();
    }
}

impl Workloads {
    /// Writes what is new; what the store does not take is tried again a second later.
    pub(super) async fn write_journal(&mut self) {
        let assigner = &self.assigner;
        self.journal.written.retain(|(service, generation), _| {
            let mut runs = assigner.get(*service).into_iter().chain(assigner.next(*service));
            runs.any(|record| record.generation == *generation)
        });
        self.journal.paces.retain(|service, _| assigner.get(*service).is_some());
        let mut events = Vec::new();
        let clock = Instant::now();
        let next = self.next_statuses.iter().map(|((_, node), status)| (node, status));
        let own = self.statuses.values().map(|(node, status)| (node, status));
        for (node, status) in own.chain(next) {
            let last = self.journal.written.get(&(status.service, status.generation)).copied();
            let pace = self.journal.paces.entry(status.service).or_insert(Pace::new(clock));
            for step in status.steps.iter().filter(|step| last.is_none_or(|last| step.at > last)) {
                // What has to wait is looked at again in a second.
                if pace.take(clock) {
                    events.push(WorkloadEvent::of_step(status, *node, step));
                } else if pace.held.is_none_or(|held| step.at > held) {
                    pace.held = Some(step.at);
                    self.journal.held.inc();
                }
            }
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
            self.journal.written.insert((event.service, event.generation), event.at);
        }
        for event in degraded {
            warn!(target: "audit", service = %event.service, reason = event.reason, "workload degraded");
            self.journal.count(event.kind);
            let told = Told { generation: event.generation, at: clock, holds: true };
            self.journal.degraded.insert(event.service, told);
        }
        let now = self.assigner.degraded();
        self.journal.degraded.retain(|service, told| {
            told.holds &= now.contains_key(service);
            told.holds || clock.saturating_duration_since(told.at) < WINDOW
        });
        self.journal.degraded_now.set(i64::try_from(now.len()).unwrap_or(i64::MAX));
    }

    /// What does not get well any more since the last look; of each workload once in an hour.
    fn newly_degraded(&self) -> Vec<WorkloadEvent> {
        let (at, clock) = (Timestamp::from(SystemTime::now()), Instant::now());
        let event = |(service, reason): (&ServiceKey, &String)| {
            let record = self.assigner.get(*service)?;
            let told = self.journal.degraded.get(service);
            let is_known = told.is_some_and(|told| {
                (told.holds && told.generation == record.generation)
                    || clock.saturating_duration_since(told.at) < WINDOW
            });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_written_at_once_and_a_flood_a_step_a_second() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!((0..100).filter(|_| pace.take(now)).count(), MAX_STEPS);
        for _ in 0..5 {
            now += STEP_PAUSE;
            assert_eq!((0..100).filter(|_| pace.take(now)).count(), 1);
        }
        now += STEP_PAUSE * 1000;
        assert_eq!((0..100).filter(|_| pace.take(now)).count(), MAX_STEPS);
    }
}
