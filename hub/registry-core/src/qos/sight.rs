//! What the hub sees of services and machines while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::workload::WorkloadState;
use blueprint_common_types::{AgentId, Health, ServiceKey, Timestamp};

use super::{Book, LeftOut, Subject};
use crate::RegistrySnapshot;
use crate::workload::{WorkloadRecord, WorkloadsView};

/// Longest pause between two looks that counts as seen: in a longer one the hub was stopped itself.
const MOST_BETWEEN: Duration = Duration::from_secs(10);

/// Services that are remembered after they vanished.
const MAX_REMEMBERED: usize = 20_000;

/// How something stands at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It can be reached, and answers its check.
    Up,
    /// It cannot.
    Down,
    /// Nobody can say yet.
    Unknown,
}

/// Who offered a service.
#[derive(Debug)]
struct Offer {
    agent: AgentId,
    /// The workload that it was, where it was one.
    record: Option<Arc<WorkloadRecord>>,
}

/// Looks again and again, and adds the time between to a [`Book`].
#[derive(Debug)]
pub struct Sight {
    /// So long, what is not up is not down either: machines come back after a start of the hub. By a clock that is never
    /// set.
    patience: Duration,
    has_looked: bool,
    /// Services that a machine offered, and the machine: they are down, not gone, once it vanishes.
    offered: BTreeMap<ServiceKey, Offer>,
    /// Since when each thing is as it is.
    since: BTreeMap<Subject, (State, Timestamp)>,
}

impl Sight {
    /// Begins to look; machines have `patience` to come back.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self { patience, has_looked: false, offered: BTreeMap::new(), since: BTreeMap::new() }
    }

    /// Takes up what was offered when the hub ran last: an outage goes on over its restart.
    pub fn remember(&mut self, offered: BTreeMap<ServiceKey, AgentId>) {
        for (service, agent) in offered.into_iter().take(MAX_REMEMBERED) {
            self.offered.entry(service).or_insert(Offer { agent, record: None });
        }
    }

    /// Looks: the time that `passed` since the look before, by a clock that is never set, counts for what is seen now.
    ///
    /// # Errors
    ///
    /// Where the book has no room.
    pub fn look(
        &mut self,
        registry: &RegistrySnapshot,
        workloads: &WorkloadsView,
        passed: Duration,
        now: Timestamp,
        book: &mut Book,
    ) -> Result<(), LeftOut> {
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        self.patience = self.patience.saturating_sub(passed);
        let states = self.states(registry, workloads);
        self.since.retain(|subject, _| states.contains_key(subject));
        let mut full = Ok(());
        for (subject, state) in states {
            let known = self.since.entry(subject).or_insert((state, now));
            if known.0 != state {
                *known = (state, now);
            }
            let is_up = match state {
                State::Up => true,
                State::Down => false,
                State::Unknown => continue,
            };
            if !is_first && passed <= MOST_BETWEEN {
                full = full.and(book.see(subject, is_up, passed, now));
            }
        }
        full
    }

    /// How everything stands, and since when this hub has seen it so.
    #[must_use]
    pub const fn all(&self) -> &BTreeMap<Subject, (State, Timestamp)> {
        &self.since
    }

    /// How everything stands at a moment.
    fn states(&mut self, registry: &RegistrySnapshot, workloads: &WorkloadsView) -> BTreeMap<Subject, State> {
        let mut states = BTreeMap::new();
        for (id, view) in &registry.agents {
            states.insert(Subject::Node(*id), if view.data_plane { State::Up } else { State::Down });
        }
        for (service, targets) in &registry.by_service {
            states.insert(Subject::Service(*service), of_targets(registry, *service));
            if let Some(target) = targets.first()
                && (self.offered.len() < MAX_REMEMBERED || self.offered.contains_key(service))
            {
                let record = workloads.records.get(service).cloned();
                self.offered.insert(*service, Offer { agent: target.agent, record });
            }
        }
        self.offered.retain(|service, offer| {
            registry.by_service.contains_key(service)
                || is_missing(offer, registry, workloads.records.get(service))
        });
        for service in self.offered.keys() {
            states.entry(Subject::Service(*service)).or_insert(State::Down);
        }
        for service in workloads.records.keys() {
            // A blueprint without a port of its own is healthy while it runs.
            let state = if runs(registry, workloads, *service) { State::Up } else { State::Down };
            states.entry(Subject::Service(*service)).or_insert(state);
        }
        if !self.patience.is_zero() {
            for (subject, state) in &mut states {
                let was_up = self.since.get(subject).is_some_and(|(state, _)| *state != State::Unknown);
                if *state == State::Down && !was_up {
                    *state = State::Unknown;
                }
            }
        }
        states
    }
}

/// Whether the process of a workload runs, as far as the hub can tell: what its machine said last counts only while the
/// machine is there.
#[must_use]
pub fn runs(registry: &RegistrySnapshot, workloads: &WorkloadsView, service: ServiceKey) -> bool {
    let node = workloads.records.get(&service).and_then(|record| record.node);
    let is_there = node
        .and_then(|node| registry.agents.get(&node))
        .is_some_and(|view| view.connected && view.data_plane);
    is_there && workloads.statuses.get(&service).is_some_and(|status| status.state == WorkloadState::Running)
}

/// Whether a service that nobody offers any more should be offered.
fn is_missing(offer: &mut Offer, registry: &RegistrySnapshot, wanted: Option<&Arc<WorkloadRecord>>) -> bool {
    if offer.record.is_none() {
        offer.record = wanted.cloned();
    }
    match (&offer.record, wanted) {
        // The same workload offered a port before, and is wanted still.
        (Some(offered), Some(wanted)) => Arc::ptr_eq(offered, wanted) || offered.document == wanted.document,
        (Some(_), None) => false,
        // A machine that is there and offers a service no more has taken it back; one that vanished has not.
        (None, _) => {
            registry.agents.get(&offer.agent).is_some_and(|view| !view.connected || !view.data_plane)
        }
    }
}

/// Up where any target is healthy; not known where none was checked yet.
fn of_targets(registry: &RegistrySnapshot, service: ServiceKey) -> State {
    let mut best = State::Unknown;
    for target in registry.targets_of(service) {
        match target.health {
            Health::Healthy => return State::Up,
            Health::Unhealthy => best = State::Down,
            Health::Unknown => {}
        }
    }
    best
}
