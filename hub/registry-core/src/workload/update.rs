//! An update of a service, from the start of its next version to the end of one of the two.
//!
//! ```text
//!   Starting --ready--> Proving --healthy for the time--> Step 0 .. Step n --> Moved --drained--> (finish)
//!      |                   |                                 |                    |
//!      +--- fails ---------+-------------- fails ------------+------- fails ------+---> Back --drained--> (taken back)
//! ```
//!
//! Only a canary has steps. An update by `recreate` has neither steps nor a move: there is one version at any time, and
//! what fails is put back at once. Where the service has replicas, `rolling` goes through `Starting` and `Proving` for one of
//! them after the other, and each that is proved gets its requests; by the other ways all go together.
//!
//! Invariants:
//! - the stored record of the workload is the version that serves in the end; it changes only by a finish, so a hub that
//!   is killed at any moment has one such version, and not two;
//! - the two weights add up to a hundred, and a version that has everything and cannot serve loses it at once where the
//!   other can, so requests always have somewhere to go: after the move for good, before it and on the way back until
//!   the old version serves again, but not to a version that the operator took back;
//! - a phase is entered once it is stored; what was seen in it is seen anew by the next hub;
//! - every phase ends, whatever happens: each has a deadline, or needs the next version to be healthy.

mod judge;
mod replicas;

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::workload::WorkloadState;
use blueprint_common_types::{AgentId, Health, ServiceKey, Timestamp};
use serde::{Deserialize, Serialize};

use super::plan::{Strategy, UpdatePlan};
use crate::StoreError;
use judge::Watch;

/// Where an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The next version is on its way; it gets nothing.
    Starting,
    /// It runs, and has to stay healthy for a while; it gets nothing.
    Proving,
    /// It gets the part of the step with this number, from 0.
    Step(u8),
    /// It gets everything; the old version ends its requests.
    Moved,
    /// The old version gets everything again; the next one ends its requests.
    Back,
}

/// Where the next version runs beside the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextRun {
    /// Number of its assignment.
    pub generation: u64,
    /// Which instance of the service it is.
    pub slot: u8,
    /// Where; of a service with replicas the first of them.
    pub node: AgentId,
}

/// An update as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Of which service.
    pub service: ServiceKey,
    /// The version that serves.
    pub from: u32,
    /// The version that is to take its place.
    pub to: u32,
    /// How.
    pub plan: UpdatePlan,
    /// Where it is.
    pub phase: Phase,
    /// Why it goes back; empty where it does not.
    pub reason: String,
    /// Whether the operator asked for that.
    pub is_aborted: bool,
    /// When it began.
    pub began_at: Timestamp,
    /// When it entered its phase.
    pub since: Timestamp,
    /// The next version's own run; `None` by `recreate`.
    pub next: Option<NextRun>,
    /// Whether the service has a target, so that its next version needs one.
    pub needs_target: bool,
    /// Whether the next version gets everything for now, since the old one cannot serve and it can. Only while it proves
    /// itself, and on the way back.
    #[serde(default)]
    pub is_covered: bool,
    /// Nodes of the replicas that it covers, in the order in which `rolling` goes through them: those that ran the old version
    /// when it began. Empty for a service that has one instance.
    #[serde(default)]
    pub replicas: Vec<AgentId>,
    /// How many of them `rolling` has moved.
    #[serde(default)]
    pub rolled: usize,
}

/// Hundredths of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Of the version that served when the update began.
    pub old: u8,
    /// Of the next one.
    pub next: u8,
}

impl Update {
    /// As it is stored.
    ///
    /// # Errors
    ///
    /// None that is known: every field has a text.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Reads what [`Self::to_text`] gave.
    ///
    /// # Errors
    ///
    /// What is not of this version.
    pub fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// How requests are shared now, of `rolling` over replicas at the one that it has come to; `None` by `recreate`, where
    /// there is one version at a time.
    #[must_use]
    pub fn shares(&self) -> Option<Shares> {
        self.next?;
        let next = match self.phase {
            Phase::Proving | Phase::Back if self.is_covered => 100,
            Phase::Starting | Phase::Proving | Phase::Back => 0,
            Phase::Step(number) => self.plan.canary.get(usize::from(number)).copied().unwrap_or(0).min(100),
            Phase::Moved => 100,
        };
        Some(Shares::of(next))
    }

    /// Where it is, for people.
    #[must_use]
    pub fn doing(&self) -> String {
        let Self { from, to, .. } = self;
        match self.phase {
            Phase::Proving | Phase::Back if self.is_covered => {
                format!("version {to} gets all requests until version {from} can serve again")
            }
            Phase::Starting => format!("version {to} is started{}", self.among()),
            Phase::Proving => {
                format!("version {to} has to stay healthy for {} s{}", self.plan.health_secs, self.among())
            }
            Phase::Step(_) => {
                let share = self.shares().map_or(0, |shares| shares.next);
                format!("version {to} gets {share} % of the requests{}", self.among())
            }
            Phase::Moved => format!("version {to} gets all requests, version {from} ends its own"),
            Phase::Back => format!("version {from} gets all requests again: {}", self.reason),
        }
    }

    /// One word for where it is.
    #[must_use]
    pub const fn phase_label(&self) -> &'static str {
        match self.phase {
            Phase::Starting => "starting",
            Phase::Proving => "proving",
            Phase::Step(_) => "canary",
            Phase::Moved => "moved",
            Phase::Back => "rolling-back",
        }
    }

    /// Whether it is one by which the old version ends first.
    #[must_use]
    pub fn is_recreate(&self) -> bool {
        self.plan.strategy == Strategy::Recreate
    }
}

impl Shares {
    fn of(next: u8) -> Self {
        Self { old: 100u8.saturating_sub(next), next }
    }
}

/// Requests that a target was sent, and how many of them it failed, since the start of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// All of which the end is known.
    pub requests: u64,
    /// Those answered with 5xx, broken, or not answered in time.
    pub failed: u64,
    /// Open now.
    pub open: u32,
}

/// What the proxy knows of its targets.
pub trait Traffic: Send + Sync {
    /// Of one target; nothing where it was never sent anything.
    fn at(&self, service: ServiceKey, address: std::net::SocketAddr) -> Tally;

    /// Nodes that the operator lets get no new requests of a service.
    fn drained(&self, service: ServiceKey) -> BTreeSet<AgentId>;
}

/// What is seen of one version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Side {
    /// Name of the node of the replica that this is about; empty for one instance.
    pub on: String,
    /// Whether its node is connected and reached.
    pub is_here: bool,
    /// What its node says of it; `None` where it says nothing.
    pub state: Option<WorkloadState>,
    /// Why, one line.
    pub reason: String,
    /// How often it was started again; of several replicas, the one that was most often.
    pub restarts: u32,
    /// How often its other replicas were, together; 0 where there is one instance.
    pub other_restarts: u32,
    /// Why its node asks for another one; `None` where it does not.
    pub asks_move: Option<String>,
    /// Health of its target, and why it is not healthy; `None` where it is not registered.
    pub target: Option<(Health, String)>,
    /// What the proxy knows of its target.
    pub tally: Tally,
    /// Whether the operator lets its node get no new requests.
    pub is_drained: bool,
    /// Whether a replica of it serves, whatever the one does that this is about.
    pub is_spared: bool,
}

/// What is seen of both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sight {
    /// The version that served when the update began.
    pub old: Side,
    /// The next one; by `rolling` over replicas, the one that it has come to, until all have moved.
    pub next: Side,
    /// Replicas of the next version that `rolling` has moved, where it has not moved all.
    pub served: Option<Side>,
}

/// What is to be stored, and done once it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advance {
    /// Another phase.
    Enter(Update),
    /// The next version is the one that serves, and the old one ends.
    Finish,
    /// The update is over, and the old version serves; this is why.
    TakeBack(String),
}

/// An update as the operator asks for it.
#[derive(Debug, Clone)]
pub struct UpdateRequest {
    /// Which service.
    pub service: ServiceKey,
    /// JSON, checked by the caller; what serves now where it repeats a version.
    pub document: String,
    /// Keys, sealed by the caller; `None` for none.
    pub keystore: Option<String>,
    /// Nodes that may run it; empty for every node.
    pub nodes: BTreeSet<AgentId>,
    /// The version that it repeats.
    pub repeats: Option<u32>,
    /// Generation that it was made from; `None` where any may be replaced.
    pub replaces: Option<u64>,
    /// How, checked by the caller.
    pub plan: UpdatePlan,
    /// By which way the operator came.
    pub by: String,
}

/// Why an update does not begin.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// There is no such workload.
    #[error("there is no workload for {0}")]
    NotFound(ServiceKey),
    /// A launcher has it.
    #[error("the workload {0} is a launcher's: whoever started the launcher updates it")]
    Leased(ServiceKey),
    /// An update is under way.
    #[error("the workload {service} is being updated: {doing}")]
    Running {
        /// Which.
        service: ServiceKey,
        /// What it does.
        doing: String,
    },
    /// No update is under way.
    #[error("no update of {0} is under way that could be taken back")]
    NotRunning(ServiceKey),
    /// Two versions may not run at once.
    #[error("exclusive_data: two versions of {0} may not run beside each other")]
    Exclusive(ServiceKey),
    /// It cannot run beside the one that serves.
    #[error("{0}")]
    NoPlace(String),
    /// It has a tier, and runs on none of its machines.
    #[error("{0} runs on none of its replicas")]
    NoReplica(ServiceKey),
    /// Somebody else changed it first.
    #[error("the workload was changed meanwhile")]
    Conflict,
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An update with what was seen of it since this hub took it up.
#[derive(Debug, Clone)]
struct Running {
    update: Update,
    watch: Watch,
}

/// The updates of all services.
#[derive(Debug, Clone, Default)]
pub struct Updates {
    running: BTreeMap<ServiceKey, Running>,
}

impl Updates {
    /// Takes up what the store kept.
    #[must_use]
    pub fn new(updates: Vec<Update>, now: Timestamp) -> Self {
        let mut all = Self::default();
        for update in updates {
            all.set(update, now);
        }
        all
    }

    /// An update begins, or has entered a phase; it is stored.
    pub fn set(&mut self, update: Update, now: Timestamp) {
        let mut watch = Watch::new(now);
        match self.running.get(&update.service) {
            // What was seen in the phase counts on.
            Some(running) if running.update.rolled != update.rolled => watch.carry_on(&running.watch),
            Some(running) if running.update.phase == update.phase => watch = running.watch.weighed_anew(now),
            Some(running) if update.phase == Phase::Moved && update.is_in_turn() => {
                watch.carry_to_all(&running.watch);
            }
            Some(running) => watch.carry_over(&running.watch),
            None => {}
        }
        self.running.insert(update.service, Running { update, watch });
    }

    /// An update is over.
    pub fn remove(&mut self, service: ServiceKey) {
        self.running.remove(&service);
    }

    /// The update of a service, where one is under way.
    #[must_use]
    pub fn get(&self, service: ServiceKey) -> Option<&Update> {
        self.running.get(&service).map(|running| &running.update)
    }

    /// Every one.
    pub fn iter(&self) -> impl Iterator<Item = &Update> {
        self.running.values().map(|running| &running.update)
    }

    /// The operator wants it taken back; what to store for that. `None` where there is none, or it goes back already and gets
    /// no requests on the way.
    #[must_use]
    pub fn abort(&self, service: ServiceKey, now: Timestamp) -> Option<Advance> {
        let update = self.get(service).filter(|update| update.phase != Phase::Back || update.is_covered)?;
        let mut reason = "the operator had it taken back".to_owned();
        if !update.reason.is_empty() {
            reason = format!("{}; {reason}", update.reason);
        }
        Some(Advance::Enter(Update {
            phase: Phase::Back,
            is_aborted: true,
            reason,
            since: now,
            is_covered: false,
            ..update.clone()
        }))
    }

    /// Looks at an update; says what is to happen. Where that is stored, [`Self::set`] or [`Self::remove`] follows; where
    /// it cannot be stored, the next look says it again. Its owner looks every second and whenever something changes.
    pub fn look(&mut self, service: ServiceKey, sight: &Sight, now: Timestamp) -> Option<Advance> {
        let Running { update, watch } = self.running.get_mut(&service)?;
        watch.see(update, sight, now);
        watch.judge(update, sight, now)
    }
}

#[cfg(test)]
mod tests;
