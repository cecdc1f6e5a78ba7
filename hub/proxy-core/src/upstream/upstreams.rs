//! The targets of all services as the proxy's own requests show them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use blueprint_common_types::{Health, ServiceKey};

use super::ages::Ages;
use super::breaker::{Breaker, BreakerRule};
use super::budget::RetryBudget;
use super::choice::{Candidate, pick};
use super::settings::UpstreamSettings;
use crate::refusal::Refusal;
use crate::routes::Target;

/// When a target is ejected: the figures of Envoy's outlier detection, but that a first ejection is
/// shorter (10 s for its 30 s), since a probe decides about the end.
const EJECTION: BreakerRule =
    BreakerRule { threshold: 5, base: Duration::from_secs(10), most: 30, probe: Duration::from_secs(10) };

/// When the circuit of a service opens. Short, since the registry learns within seconds of what is gone
/// for longer, and only connections count, which no request of a client can break.
const CIRCUIT: BreakerRule =
    BreakerRule { threshold: 10, base: Duration::from_secs(1), most: 5, probe: Duration::from_secs(5) };

/// One in so many targets stays, whatever happens: at most half are ejected.
const EJECTED_PARTS: usize = 2;

/// Services that are remembered; where they are more, those without open requests start anew.
const MAX_SERVICES: usize = 4096;

/// How a request at a target ended, as far as that says something about the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer that is the service's own.
    Answered,
    /// Such an answer that says that the service failed: 5xx but for those below.
    Erred,
    /// 502, 503 or 504, no answer in time, or a connection that broke before the answer.
    Failed,
    /// No connection opened.
    Unreachable,
    /// Nothing: the client left, or the fault is the hub's.
    Unknown,
}

/// A change that is worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The target gets nothing for a while.
    Ejected,
    /// The target is back.
    Returned,
    /// No connection to any target opened for some time: requests are refused at once.
    CircuitOpened,
    /// A connection opened again.
    CircuitClosed,
}

/// What a request asks of its service's targets.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The service.
    pub service: ServiceKey,
    /// Its targets, healthy or not.
    pub targets: &'a [Target],
    /// What the operator says about them.
    pub settings: &'a UpstreamSettings,
    /// Targets that this request was sent to in vain.
    pub tried: &'a [SocketAddr],
    /// 64 uniformly random bits.
    pub random: u64,
}

/// A fifth of the service's requests were sent again within ten seconds, and thirty more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the budget of retries is spent")]
pub struct OverBudget;

/// The target that a request goes to; [`Upstreams::end`] takes it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picked {
    /// Service it is for.
    pub service: ServiceKey,
    /// Where it goes.
    pub address: SocketAddr,
    /// Under which of the counts of its target it is open.
    since: Instant,
    /// Whether it decides about the end of the target's ejection.
    is_probe: bool,
    /// Whether it decides about the service's circuit.
    is_circuit_probe: bool,
}

/// What clients ask of one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests and connections that began there, as long as it is remembered.
    pub begun: u64,
    /// Those that are open.
    pub open: u32,
    /// Those of the open ones that have been for [`LASTING`](super::LASTING).
    pub lasting: u32,
}

impl Load {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            begun: self.begun.saturating_add(other.begun),
            open: self.open.saturating_add(other.open),
            lasting: self.lasting.saturating_add(other.lasting),
        }
    }
}

#[derive(Debug, Default)]
struct TargetState {
    open: u32,
    ages: Ages,
    begun: u64,
    /// Requests of which the end is known, and those of them that failed.
    requests: u64,
    failed: u64,
    ejection: Breaker,
}

#[derive(Debug)]
struct ServiceState {
    targets: BTreeMap<SocketAddr, TargetState>,
    /// Targets that could get requests when the last one came.
    eligible: usize,
    circuit: Breaker,
    budget: RetryBudget,
    /// Room for what a request may choose from; empty between two of them.
    free: Vec<Candidate>,
}

/// Every target that requests were sent to, by service.
#[derive(Debug, Default)]
pub struct Upstreams {
    services: BTreeMap<ServiceKey, ServiceState>,
}

impl Upstreams {
    /// Picks a target for a request and counts the request there.
    ///
    /// # Errors
    ///
    /// [`Refusal::CircuitOpen`], [`Refusal::TargetsBusy`], or [`Refusal::TargetUnreachable`] where no
    /// target is left that was not tried.
    pub fn begin(&mut self, wanted: &Wanted<'_>, now: Instant) -> Result<Picked, Refusal> {
        let service = wanted.service;
        if self.services.len() >= MAX_SERVICES && !self.services.contains_key(&service) {
            let is_busy = |state: &ServiceState| state.targets.values().any(|target| target.open > 0);
            self.services.retain(|_, state| is_busy(state));
        }
        let state = self.services.entry(service).or_insert_with(|| ServiceState::new(now));
        let is_first = wanted.tried.is_empty();
        if is_first {
            state.budget.deposit(now);
            state.circuit.admits(now).map_err(|wait| Refusal::CircuitOpen {
                service,
                retry_after: wait.as_secs().saturating_add(1),
            })?;
        }
        let address = state.pick(wanted, false, now)?;
        let is_circuit_probe = is_first && state.circuit.begin(&CIRCUIT, now);
        Ok(state.open(service, address, is_circuit_probe, now))
    }

    /// Picks a second target for a request that is open at those of `tried`, takes it from the budget of retries, and counts it
    /// there; `None` where no other one is without doubt. What decides about ejections and the circuit is left to requests that
    /// have no other try.
    ///
    /// # Errors
    ///
    /// [`OverBudget`]; nothing is counted then.
    pub fn begin_second(&mut self, wanted: &Wanted<'_>, now: Instant) -> Result<Option<Picked>, OverBudget> {
        let service = wanted.service;
        let Some(state) = self.services.get_mut(&service).filter(|state| !state.circuit.is_open()) else {
            return Ok(None);
        };
        let Ok(address) = state.pick(wanted, true, now) else { return Ok(None) };
        if !state.budget.withdraw(now) {
            return Err(OverBudget);
        }
        Ok(Some(state.open(service, address, false, now)))
    }

    /// Learns from how a request ended at its target; called once for each [`Picked`].
    pub fn report(&mut self, picked: &Picked, outcome: Outcome, now: Instant) -> Option<Event> {
        let state = self.services.get_mut(&picked.service)?;
        let circuit = match outcome {
            Outcome::Answered | Outcome::Erred | Outcome::Failed => {
                state.circuit.succeed(picked.is_circuit_probe, now).then_some(Event::CircuitClosed)
            }
            Outcome::Unreachable => {
                let opened = state.circuit.fail(&CIRCUIT, picked.is_circuit_probe, true, now);
                opened.then_some(Event::CircuitOpened)
            }
            Outcome::Unknown => {
                if picked.is_circuit_probe {
                    state.circuit.abandon(now);
                }
                None
            }
        };
        let ejected = state.targets.values().filter(|target| target.ejection.is_open()).count();
        let may_eject = ejected.saturating_add(1).saturating_mul(EJECTED_PARTS) <= state.eligible;
        let target = state.targets.get_mut(&picked.address)?;
        target.count(outcome);
        let ejection = match outcome {
            Outcome::Answered | Outcome::Erred => {
                target.ejection.succeed(picked.is_probe, now).then_some(Event::Returned)
            }
            Outcome::Failed | Outcome::Unreachable => {
                let ejected = target.ejection.fail(&EJECTION, picked.is_probe, may_eject, now);
                ejected.then_some(Event::Ejected)
            }
            Outcome::Unknown => {
                if picked.is_probe {
                    target.ejection.abandon(now);
                }
                None
            }
        };
        circuit.or(ejection)
    }

    /// The request is not open at its target any more.
    pub fn end(&mut self, picked: &Picked) {
        let Some(state) = self.services.get_mut(&picked.service) else { return };
        if let Some(target) = state.targets.get_mut(&picked.address) {
            target.open = target.open.saturating_sub(1);
            target.ages.end(picked.since);
        }
    }

    /// Whether a request of the service may be sent a second time; counts it where it may.
    pub fn may_retry(&mut self, service: ServiceKey, now: Instant) -> bool {
        self.services.get_mut(&service).is_some_and(|state| state.budget.withdraw(now))
    }

    /// Requests that are open at a target.
    #[must_use]
    pub fn open_at(&self, service: ServiceKey, address: SocketAddr) -> u32 {
        let target = self.services.get(&service).and_then(|state| state.targets.get(&address));
        target.map_or(0, |target| target.open)
    }

    /// What a target did as long as it is remembered: requests of which the end is known, those of them that failed, and
    /// those that are open.
    #[must_use]
    pub fn tally(&self, service: ServiceKey, address: SocketAddr) -> (u64, u64, u32) {
        let target = self.services.get(&service).and_then(|state| state.targets.get(&address));
        target.map_or((0, 0, 0), |target| (target.requests, target.failed, target.open))
    }

    /// What clients ask of a target: every request and connection from its beginning, whether its end is known or not.
    #[must_use]
    pub fn load(&self, service: ServiceKey, address: SocketAddr, now: Instant) -> Load {
        let target = self.services.get(&service).and_then(|state| state.targets.get(&address));
        target.map_or_else(Load::default, |target| Load {
            begun: target.begun,
            open: target.open,
            lasting: target.ages.lasting(now),
        })
    }

    /// How many services are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Whether no service is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// No target of the service is healthy: whatever comes back starts anew.
    pub fn forget(&mut self, service: ServiceKey) {
        if let Some(state) = self.services.get_mut(&service) {
            state.circuit = Breaker::default();
            state.targets.retain(|_, target| target.open > 0);
            state.targets.values_mut().for_each(|target| target.ejection = Breaker::default());
        }
    }
}

impl TargetState {
    fn count(&mut self, outcome: Outcome) {
        let (is_known, is_failed) = match outcome {
            Outcome::Answered => (true, false),
            Outcome::Erred | Outcome::Failed | Outcome::Unreachable => (true, true),
            Outcome::Unknown => (false, false),
        };
        self.requests = self.requests.saturating_add(u64::from(is_known));
        self.failed = self.failed.saturating_add(u64::from(is_failed));
    }
}

impl ServiceState {
    fn new(now: Instant) -> Self {
        Self {
            targets: BTreeMap::new(),
            eligible: 0,
            circuit: Breaker::default(),
            budget: RetryBudget::new(now),
            free: Vec::new(),
        }
    }

    /// Picks among the healthy; where all that are left are ejected, among those.
    /// Counts a request at a target.
    fn open(
        &mut self,
        service: ServiceKey,
        address: SocketAddr,
        is_circuit_probe: bool,
        now: Instant,
    ) -> Picked {
        let target = self.targets.entry(address).or_default();
        target.open = target.open.saturating_add(1);
        target.begun = target.begun.saturating_add(1);
        let since = target.ages.begin(now);
        let is_probe = target.ejection.begin(&EJECTION, now);
        Picked { service, address, since, is_probe, is_circuit_probe }
    }

    /// A target; for a `second` try none that is or was ejected and has not shown itself well since.
    fn pick(&mut self, wanted: &Wanted<'_>, second: bool, now: Instant) -> Result<SocketAddr, Refusal> {
        let (service, max_open) = (wanted.service, wanted.settings.max_open());
        let mut free = std::mem::take(&mut self.free);
        let mut ejected = Vec::new();
        let (mut is_busy, mut eligible) = (false, 0usize);
        for target in wanted.targets {
            // Hundredths of what the operator gives to the machine, so that the two weights stay whole numbers.
            let weight = wanted.settings.weight(&target.agent).saturating_mul(target.weight.into());
            let address = target.address;
            if target.health != Health::Healthy {
                // Its ejection ends with what the registry finds next.
                if let Some(state) = self.targets.get_mut(&address) {
                    state.ejection = Breaker::default();
                }
                continue;
            }
            if weight == 0 {
                continue;
            }
            eligible = eligible.saturating_add(1);
            let state = self.targets.get(&address);
            let open = state.map_or(0, |state| state.open);
            if wanted.tried.contains(&address) {
                continue;
            }
            if open >= max_open {
                is_busy = true;
                continue;
            }
            let is_admitted = state.is_none_or(|state| {
                if second { !state.ejection.is_open() } else { state.ejection.admits(now).is_ok() }
            });
            let candidates = if is_admitted { &mut free } else { &mut ejected };
            candidates.push(Candidate { address, weight, open });
        }
        self.eligible = eligible;
        if self.targets.len() > wanted.targets.len() {
            self.targets.retain(|address, state| {
                state.open > 0 || wanted.targets.iter().any(|target| target.address == *address)
            });
        }
        let none =
            if is_busy { Refusal::TargetsBusy { service } } else { Refusal::TargetUnreachable { service } };
        let last = || if is_busy || second { None } else { pick(&ejected, wanted.random) };
        let picked = pick(&free, wanted.random).or_else(last);
        free.clear();
        self.free = free;
        picked.map(|candidate| candidate.address).ok_or(none)
    }
}
