//! What the hub sees of services and machines while it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use blueprint_common_types::workload::WorkloadState;
use blueprint_common_types::{AgentId, Health, ServiceKey, Timestamp};

use super::{Book, LeftOut, Subject};
use crate::RegistrySnapshot;
use crate::workload::WorkloadsView;

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

/// Looks again and again, and adds the time between to a [`Book`].
#[derive(Debug)]
pub struct Sight {
    /// Until then, what is not up is not down either: machines come back after a start of the hub.
    patience_until: Timestamp,
    looked_at: Option<Timestamp>,
    /// Services that a machine offered, and the machine: they are down, not gone, once it vanishes.
    offered: BTreeMap<ServiceKey, AgentId>,
    /// Since when each thing is as it is.
    since: BTreeMap<Subject, (State, Timestamp)>,
}

impl Sight {
    /// Begins to look at `now`; machines have `patience` to come back.
    #[must_use]
    pub fn new(now: Timestamp, patience: Duration) -> Self {
        Self {
            patience_until: now.plus(patience),
            looked_at: None,
            offered: BTreeMap::new(),
            since: BTreeMap::new(),
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
        let is_first = self.looked_at.replace(now).is_none();
        let states = self.states(registry, workloads, now);
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
    fn states(
        &mut self,
        registry: &RegistrySnapshot,
        workloads: &WorkloadsView,
        now: Timestamp,
    ) -> BTreeMap<Subject, State> {
        let mut states = BTreeMap::new();
        for (id, view) in &registry.agents {
            states.insert(Subject::Node(*id), if view.data_plane { State::Up } else { State::Down });
        }
        for (service, targets) in &registry.by_service {
            states.insert(Subject::Service(*service), of_targets(registry, *service));
            if let Some(target) = targets.first()
                && (self.offered.len() < MAX_REMEMBERED || self.offered.contains_key(service))
            {
                self.offered.insert(*service, target.agent);
            }
        }
        for service in workloads.records.keys() {
            let of_workload = || match workloads.statuses.get(service).map(|status| status.state) {
                // A blueprint without a port of its own is healthy while it runs.
                Some(WorkloadState::Running) => State::Up,
                Some(_) | None => State::Down,
            };
            states.entry(Subject::Service(*service)).or_insert_with(of_workload);
        }
        // A machine that is there and offers a service no more has taken it back; one that vanished has not.
        self.offered.retain(|service, agent| {
            registry.by_service.contains_key(service)
                || registry.agents.get(agent).is_some_and(|view| !view.connected || !view.data_plane)
        });
        for service in self.offered.keys() {
            states.entry(Subject::Service(*service)).or_insert(State::Down);
        }
        if now < self.patience_until {
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
