//! Which workloads leave nodes on which they do not get well, and how often; and what the journal says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blueprint_common_types::workload::{Recovery, RecoveryKind, RecoveryStep, WorkloadState, WorkloadStatus};
use blueprint_common_types::{AgentId, Health, ServiceKey, Timestamp};
use serde::Serialize;

use super::WorkloadRecord;

/// The time within which moves are counted, and for which a node that a workload left is not tried again.
pub const WINDOW: Duration = Duration::from_secs(3600);

/// Rows of what nodes did that the journal keeps of each service.
pub const NODE_ROWS: usize = 80;

/// Rows of what the hub decided that the journal keeps of each service; nodes cannot push them out.
pub const HUB_ROWS: usize = 20;

/// What happened to a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// Its node started it again.
    Restart,
    /// Its node fetched, checked and unpacked it anew.
    Redeploy,
    /// Its node could do no more and asked for another one.
    AskMove,
    /// It was well for so long that its node begins all rungs anew.
    Settled,
    /// The hub gave it to a node, for other reasons than its health.
    Move,
    /// The hub gave it to another node because it did not get well.
    FailOver,
    /// The hub gave it to another node because its own cannot run it.
    Refused,
    /// No node is left to which it could go now.
    Degraded,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Restart,
        Self::Redeploy,
        Self::AskMove,
        Self::Settled,
        Self::Move,
        Self::FailOver,
        Self::Refused,
        Self::Degraded,
    ];

    /// Its name in the store, for people and in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Redeploy => "redeploy",
            Self::AskMove => "ask-move",
            Self::Settled => "settled",
            Self::Move => "move",
            Self::FailOver => "fail-over",
            Self::Refused => "refused",
            Self::Degraded => "degraded",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn find(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.label() == label)
    }

    /// Whether the hub decided it.
    #[must_use]
    pub const fn is_of_hub(self) -> bool {
        match self {
            Self::Restart | Self::Redeploy | Self::AskMove | Self::Settled => false,
            Self::Move | Self::FailOver | Self::Refused | Self::Degraded => true,
        }
    }
}

impl From<RecoveryKind> for EventKind {
    fn from(kind: RecoveryKind) -> Self {
        match kind {
            RecoveryKind::Restart => Self::Restart,
            RecoveryKind::Redeploy => Self::Redeploy,
            RecoveryKind::AskMove => Self::AskMove,
            RecoveryKind::Settled => Self::Settled,
        }
    }
}

/// One row of the journal of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEvent {
    /// Which.
    pub service: ServiceKey,
    /// The assignment that it is about.
    pub generation: u64,
    /// When: by the node's clock what a node did, by the hub's what the hub decided.
    pub at: Timestamp,
    /// The node that did it, or that was left; `None` where there was none.
    pub node: Option<AgentId>,
    /// What.
    pub kind: EventKind,
    /// Why, one line.
    pub reason: String,
}

impl WorkloadEvent {
    /// Its kind for people: the hub's first word about where it runs is no move.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match (self.kind, self.node) {
            (EventKind::Move, None) => "placed",
            (kind, _) => kind.label(),
        }
    }

    /// What a node did, as it said it.
    #[must_use]
    pub fn of_step(status: &WorkloadStatus, node: AgentId, step: &RecoveryStep) -> Self {
        Self {
            service: status.service,
            generation: status.generation,
            at: step.at,
            node: Some(node),
            kind: step.kind.into(),
            reason: step.reason.clone(),
        }
    }
}

/// Moves of workloads that did not get well, of the last hour; and who asks for one.
///
/// Invariants:
/// - a workload is moved at most as often within [`WINDOW`] as its document says, also over restarts of the hub;
/// - it does not go to a node that it left within that time;
/// - a node asks for its own workloads alone: what others say is not given to [`Self::hear`].
#[derive(Debug, Clone, Default)]
pub struct FailOvers {
    past: BTreeMap<ServiceKey, Vec<(Timestamp, AgentId)>>,
    asks: BTreeMap<ServiceKey, Ask>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ask {
    generation: u64,
    reason: String,
}

/// What is to be done about a workload whose node asks for another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to any other node than these, if one fits.
    Move {
        /// Left within the hour.
        except: BTreeSet<AgentId>,
        /// What its node said.
        reason: String,
    },
    /// It stays until then: it was moved as often as it may be.
    Stay {
        /// When the oldest of those moves is an hour old.
        until: Timestamp,
        /// How often that was.
        moves: usize,
    },
}

impl FailOvers {
    /// Takes up the moves of the last hour that the journal has.
    #[must_use]
    pub fn restore(events: &[WorkloadEvent]) -> Self {
        let mut this = Self::default();
        for event in events.iter().filter(|event| event.kind == EventKind::FailOver) {
            if let Some(node) = event.node {
                this.handle_move(event.service, node, event.at);
            }
        }
        this
    }

    /// Takes in what the node of a workload says of it. What asked and is well again by now stays: a move leaves its data
    /// behind.
    pub fn hear(&mut self, status: &WorkloadStatus) {
        let is_well = status.state == WorkloadState::Running && status.health != Some(Health::Unhealthy);
        if !status.asks_move || is_well {
            self.asks.remove(&status.service);
            return;
        }
        let last = status.steps.iter().rev().find(|step| step.kind == RecoveryKind::AskMove);
        let reason = match last {
            Some(step) => step.reason.clone(),
            None if status.health_reason.is_empty() => status.reason.clone(),
            None => status.health_reason.clone(),
        };
        self.asks.insert(status.service, Ask { generation: status.generation, reason });
    }

    /// It left a node because it did not get well.
    pub fn handle_move(&mut self, service: ServiceKey, from: AgentId, at: Timestamp) {
        self.asks.remove(&service);
        self.past.retain(|_, past| past.iter().any(|(earlier, _)| at.since(*earlier) < WINDOW));
        self.past.entry(service).or_default().push((at, from));
    }

    /// A workload is not wanted any more; its moves stay counted for the hour.
    pub fn forget(&mut self, service: ServiceKey) {
        self.asks.remove(&service);
    }

    /// Whether its node asks for another one.
    #[must_use]
    pub fn is_asked(&self, record: &WorkloadRecord) -> bool {
        self.asks.get(&record.service).is_some_and(|ask| ask.generation == record.generation)
    }

    /// What is to be done; `None` where its node does not ask.
    pub fn judge(&mut self, record: &WorkloadRecord, now: Timestamp) -> Option<Verdict> {
        if !self.is_asked(record) {
            return None;
        }
        let ask = self.asks.get(&record.service)?;
        let past = self.past.entry(record.service).or_default();
        // A time from the future is a clock that was set back since: counted from now on.
        past.iter_mut().for_each(|(at, _)| *at = (*at).min(now));
        past.retain(|(at, _)| now.since(*at) < WINDOW);
        let most = usize::try_from(rules_of(record).moves_per_hour).unwrap_or(usize::MAX);
        let oldest = past.iter().map(|(at, _)| *at).min();
        if past.len() >= most {
            let until = oldest.unwrap_or(now).plus(WINDOW);
            return Some(Verdict::Stay { until, moves: past.len() });
        }
        let except = past.iter().map(|(_, node)| *node).collect();
        Some(Verdict::Move { except, reason: ask.reason.clone() })
    }

    /// Nodes that it left within the hour.
    #[must_use]
    pub fn left(&self, service: ServiceKey, now: Timestamp) -> BTreeSet<AgentId> {
        let past = self.past.get(&service).into_iter().flatten();
        past.filter(|(at, _)| now.since(*at) < WINDOW).map(|(_, node)| *node).collect()
    }

    /// When a node may be tried again for a workload that asks; later than `now`.
    #[must_use]
    pub fn poll_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        let asking = self.past.iter().filter(|(service, _)| self.asks.contains_key(service));
        asking.flat_map(|(_, past)| past).map(|(at, _)| at.plus(WINDOW)).filter(|at| *at > now).min()
    }
}

/// The rules of a workload; those of a document that cannot be read, which no agent runs, are the usual ones.
fn rules_of(record: &WorkloadRecord) -> Recovery {
    #[derive(Default, serde::Deserialize)]
    struct OnlyHealth {
        #[serde(default)]
        health: OnlyRecovery,
    }
    #[derive(Default, serde::Deserialize)]
    struct OnlyRecovery {
        #[serde(default)]
        recovery: Recovery,
    }
    serde_json::from_str::<OnlyHealth>(&record.document).unwrap_or_default().health.recovery
}

#[cfg(test)]
mod tests;
