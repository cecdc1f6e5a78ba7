//! The task that owns the registry: every change of agents, targets and sessions goes through it.
//!
//! Commands are taken in batches; what a batch changes is saved in one write, and only then
//! acknowledged and published. Where the store fails, nothing is acknowledged and the write is repeated.
//!
//! Invariants:
//! - an agent has at most one live session, the newest;
//! - a sequence number of an agent process is applied at most once;
//! - what is acknowledged is stored.

mod command;
mod handle;
mod live;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::Assignments;
use blueprint_hub_registry_core::{
    AddressPool, Agent, AuditBudget, AuditEvent, Change, QosHistory, Registry, RegistrySnapshot, Store,
    Weights,
};
use blueprint_proto::v1::{self, goodbye::Reason, hub_message::Body};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::command::Command;
pub use self::command::QosView;
pub(crate) use self::command::{LateTaken, Opening, Outbox, Recorded, Report, SessionRef};
pub use self::handle::RegistrarHandle;
use self::live::{Live, workload_set};
use crate::qos::{Samples, Sink};

/// Commands that wait at most; a caller past it waits too, which slows its agent down.
const COMMAND_QUEUE: usize = 1024;
/// Commands applied before one save and one publication.
const BATCH: usize = 256;
/// Audit rows of refused targets, in one minute. More are counted, and the next row says how many.
const REFUSAL_ROWS_PER_MINUTE: u32 = 120;
/// Pause before a failed save is tried again.
const SAVE_RETRY: Duration = Duration::from_secs(1);

/// The registrar is gone: the hub stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hub is stopping")]
pub struct Stopping;

/// The task.
pub struct Registrar {
    registry: Registry,
    pool: AddressPool,
    history: BTreeMap<AgentId, QosHistory>,
    live: BTreeMap<AgentId, Live>,
    assignments: Assignments,
    /// What the hub is to run and has no node for.
    unplaced: BTreeSet<ServiceKey>,
    /// How requests are shared where a service is updated.
    weights: Weights,
    store: Arc<dyn Store>,
    commands: mpsc::Receiver<Command>,
    snapshots: watch::Sender<Arc<RegistrySnapshot>>,
    unsaved: Vec<Change>,
    audit: Vec<AuditEvent>,
    refusals: AuditBudget,
    /// Where samples go to be recorded.
    sink: Option<Sink>,
    /// What is published is older than what is.
    dirty: bool,
}

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrar").field("live", &self.live.len()).finish_non_exhaustive()
    }
}

impl Registrar {
    /// Puts the task and its handle together from what the store held.
    #[must_use]
    pub fn new(mut registry: Registry, pool: AddressPool, store: Arc<dyn Store>) -> (Self, RegistrarHandle) {
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        let (snapshots, receiver) = watch::channel(registry.snapshot());
        let handle = RegistrarHandle { commands: sender, snapshots: receiver };
        let registrar = Self {
            registry,
            pool,
            history: BTreeMap::new(),
            live: BTreeMap::new(),
            assignments: Assignments::new(),
            unplaced: BTreeSet::new(),
            weights: Weights::new(),
            store,
            commands,
            snapshots,
            unsaved: Vec::new(),
            audit: Vec::new(),
            refusals: AuditBudget::new(REFUSAL_ROWS_PER_MINUTE, Instant::now().into_std()),
            sink: None,
            dirty: false,
        };
        (registrar, handle)
    }

    /// Gives the samples of agents to a recorder.
    #[must_use]
    pub fn recorded(mut self, samples: &Samples) -> Self {
        self.sink = Some(samples.sink.clone());
        self
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let deadline = self.wait();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(deadline) => {}
                taken = self.commands.recv_many(&mut batch, BATCH) => if taken == 0 { break },
            }
            let now = Timestamp::from(SystemTime::now());
            for command in batch.drain(..) {
                self.apply(command, now);
            }
            let expired = self.registry.handle_timeout(now);
            self.note(expired);
            self.settle(now).await;
        }
        for (_, live) in std::mem::take(&mut self.live) {
            live.say(Body::Goodbye(v1::Goodbye { reason: Reason::Shutdown.into() }));
        }
    }

    fn wait(&self) -> Duration {
        let now = Timestamp::from(SystemTime::now());
        let retry = if self.unsaved.is_empty() { Duration::from_secs(3600) } else { SAVE_RETRY };
        self.registry
            .poll_timeout()
            .map_or(retry, |at| at.since(now).max(Duration::from_millis(1)).min(retry))
    }

    fn apply(&mut self, command: Command, now: Timestamp) {
        match command {
            Command::Promise(address, token, until, reply) => {
                let _ = reply.send(self.pool.promise(address, token, until, now));
            }
            Command::Forget(token) => {
                self.pool.forget(token);
            }
            Command::Reserve(token, reply) => {
                if let Err(Ok(lease)) = reply.send(self.pool.reserve_for(token, now)) {
                    self.pool.release(lease);
                }
            }
            Command::Release(lease) => {
                self.pool.release(lease);
            }
            Command::Joined(agent, reply) => {
                self.pool.mark(agent.lease);
                self.pool.forget(agent.token);
                self.registry.add_agent(*agent);
                self.dirty = true;
                let _ = reply.send(());
            }
            Command::Renewed(agent, generation) => {
                self.registry.set_generation(agent, generation);
                self.dirty = true;
            }
            Command::Removed(agent, reply) => {
                let _ = reply.send(self.remove(agent));
            }
            Command::Open(opening, reply) => {
                let _ = reply.send(self.open(*opening, now));
            }
            Command::Close(session) => self.close(session, now),
            Command::Report(session, seq, report) => self.report(session, seq, report, now),
            Command::DataPlane(agent, alive) => {
                let changes = self.registry.set_data_plane(agent, alive);
                self.note(changes);
                self.dirty = true;
            }
            Command::Leaving(leaving, reply) => {
                let changes = self.registry.set_leaving(&leaving);
                self.dirty |= !changes.is_empty();
                self.note(changes);
                let _ = reply.send(());
            }
            Command::Qos(agent, points, reply) => {
                let known = self.registry.agent(agent).is_some();
                let view = self.history.get(&agent).map_or_else(
                    || QosView { latest: None, series: Vec::new() },
                    |history| QosView {
                        latest: history.latest().cloned(),
                        series: history.series(points).cloned().collect(),
                    },
                );
                let _ = reply.send(known.then_some(view));
            }
            Command::Late(agent, samples, recorded, reply) => {
                let _ = reply.send(self.take_late(agent, samples, &recorded, now));
            }
            Command::Assign(assignments, unplaced, weights, reply) => {
                self.assign(assignments, unplaced, weights);
                let _ = reply.send(());
            }
            Command::Tell(agent, body, reply) => {
                let live = self.live.get(&agent).filter(|live| live.outbox.is_some());
                let is_there = live.is_some();
                if let Some(live) = live {
                    live.say(body);
                }
                let _ = reply.send(is_there);
            }
            Command::ChangesAfter(index, reply) => {
                let _ = reply.send(self.registry.changes_after(index));
            }
        }
    }

    /// Tells every agent whose workloads are others now.
    fn assign(&mut self, assignments: Assignments, unplaced: BTreeSet<ServiceKey>, weights: Weights) {
        if assignments == self.assignments && unplaced == self.unplaced && weights == self.weights {
            return;
        }
        self.unplaced = unplaced;
        self.weights.clone_from(&weights);
        let before = std::mem::replace(&mut self.assignments, assignments);
        for (agent, live) in &self.live {
            if before.get(agent) != self.assignments.get(agent) {
                live.say(Body::Workloads(workload_set(self.assignments.get(agent))));
            }
        }
        let mut owners: BTreeMap<ServiceKey, BTreeSet<AgentId>> = BTreeMap::new();
        for (agent, seats) in &self.assignments {
            for seat in seats.keys() {
                owners.entry(seat.service).or_default().insert(*agent);
            }
        }
        for service in &self.unplaced {
            owners.entry(*service).or_default();
        }
        let changes = self.registry.assign(owners, weights);
        self.note(changes);
        self.dirty = true;
    }

    fn remove(&mut self, id: AgentId) -> Option<Arc<Agent>> {
        let agent = self.registry.agent(id).cloned();
        let changes = self.registry.remove_agent(id);
        self.note(changes);
        self.history.remove(&id);
        if let Some(live) = self.live.remove(&id) {
            live.say(Body::Goodbye(v1::Goodbye { reason: Reason::Revoked.into() }));
        }
        if let Some(agent) = &agent {
            self.pool.release(agent.lease);
        }
        self.dirty = true;
        agent
    }

    fn note(&mut self, changes: Vec<Change>) {
        self.dirty |= !changes.is_empty();
        self.unsaved.extend(changes);
    }

    /// Saves, then acknowledges and publishes.
    async fn settle(&mut self, now: Timestamp) {
        for event in self.audit.drain(..) {
            if let Err(error) = self.store.audit(event, now).await {
                error!(%error, "audit row not stored");
            }
        }
        if !self.unsaved.is_empty() {
            if let Err(error) = self.store.save_changes(&self.unsaved, self.registry.index()).await {
                error!(%error, changes = self.unsaved.len(), "registry not saved, nothing is acknowledged until it is");
                return;
            }
            info!(changes = self.unsaved.len(), index = self.registry.index(), "registry changed");
            self.unsaved.clear();
        }
        for live in self.live.values_mut() {
            live.acknowledge();
        }
        if std::mem::take(&mut self.dirty) {
            self.snapshots.send_replace(self.registry.snapshot());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
