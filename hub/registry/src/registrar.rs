//! The task that owns the registry: every change of agents, targets and sessions goes through it.
//!
//! Commands are taken in batches; what a batch changes is saved in one write, and only then
//! acknowledged and published. Where the store fails, nothing is acknowledged and the write is repeated.
//!
//! Invariants:
//! - an agent has at most one live session, the newest;
//! - a sequence number of an agent process is applied at most once;
//! - what is acknowledged is stored.

mod handle;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blueprint_common_types::workload::{Inventory, Seat};
use blueprint_common_types::{
    AgentId, MachineSample, OverlayLease, ServiceKey, ServiceSample, TargetKey, Timestamp, TokenId,
    TunnelSample,
};
use blueprint_hub_registry_core::workload::{Assignment, Assignments};
use blueprint_hub_registry_core::{
    AddressPool, Agent, AuditBudget, AuditEvent, AuditKind, Change, LateRefusal, OfferedTarget, PromiseError,
    QosHistory, QosPoint, QosSample, RefusedTarget, Registry, RegistrySnapshot, ReserveError, Store, Weights,
};
use blueprint_proto::v1::{self, goodbye::Reason, hub_message::Body};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::handle::RegistrarHandle;
use crate::qos::{Kept, Sampled, Samples, Sink};

/// Messages on their way to an agent. Boxed: a channel holds room for 32 of them from its start.
pub(crate) type Outbox = mpsc::Sender<Box<v1::HubMessage>>;

/// Commands that wait at most; a caller past it waits too, which slows its agent down.
const COMMAND_QUEUE: usize = 1024;
/// Commands applied before one save and one publication.
const BATCH: usize = 256;
/// Refused targets of one agent that are remembered.
const REFUSED: usize = 256;
/// Audit rows of refused targets, in one minute. More are counted, and the next row says how many.
const REFUSAL_ROWS_PER_MINUTE: u32 = 120;
/// Pause before a failed save is tried again.
const SAVE_RETRY: Duration = Duration::from_secs(1);

/// Everything other tasks tell the registrar.
enum Command {
    Promise(Ipv4Addr, TokenId, Timestamp, oneshot::Sender<Result<(), PromiseError>>),
    Forget(TokenId),
    Reserve(TokenId, oneshot::Sender<Result<OverlayLease, ReserveError>>),
    Release(OverlayLease),
    Joined(Box<Agent>, oneshot::Sender<()>),
    Renewed(AgentId, u32),
    Removed(AgentId, oneshot::Sender<Option<Arc<Agent>>>),
    Open(Box<Opening>, oneshot::Sender<Option<()>>),
    Close(SessionRef),
    Report(SessionRef, u64, Report),
    DataPlane(AgentId, bool),
    Leaving(BTreeSet<AgentId>, oneshot::Sender<()>),
    Qos(AgentId, usize, oneshot::Sender<Option<QosView>>),
    Late(AgentId, Vec<QosSample>, Recorded, oneshot::Sender<LateTaken>),
    ChangesAfter(u64, oneshot::Sender<Option<Vec<Change>>>),
    Assign(Assignments, BTreeSet<ServiceKey>, Weights, oneshot::Sender<()>),
    Tell(AgentId, Body, oneshot::Sender<bool>),
}

/// Targets of an agent that were recorded before, by service and port.
pub(crate) type Recorded = BTreeSet<(ServiceKey, u16)>;

/// What became of samples that came late.
#[derive(Default)]
pub(crate) struct LateTaken {
    /// Why some are not taken.
    pub(crate) refusals: Vec<LateRefusal>,
    /// Samples of services that the agent may not tell of.
    pub(crate) not_offered: usize,
    /// Each ends once the sample that it is for is on the disk, or known not to be.
    pub(crate) kept: Vec<BoxFuture<'static, Kept>>,
}

/// One session of one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SessionRef {
    pub(crate) agent: AgentId,
    pub(crate) session: u64,
}

/// A session that wants to begin.
pub(crate) struct Opening {
    pub(crate) session: SessionRef,
    pub(crate) process: u64,
    pub(crate) agent_version: String,
    /// Whether the agent runs what it is assigned.
    pub(crate) runs_workloads: bool,
    /// What its machine has, where it says so.
    pub(crate) inventory: Option<Inventory>,
    pub(crate) outbox: Outbox,
    /// The first message; what was acknowledged is filled in.
    pub(crate) welcome: v1::Welcome,
}

/// What an agent reports in a session.
pub(crate) enum Report {
    /// Only that it is there.
    Alive,
    /// All of its targets.
    Targets(Vec<OfferedTarget>),
    /// A sample.
    Qos(Timestamp, MachineSample, TunnelSample, Vec<ServiceSample>),
}

/// Quality of service of one agent.
#[derive(Debug, Clone)]
pub struct QosView {
    /// The last report, whole.
    pub latest: Option<QosSample>,
    /// The history, oldest first.
    pub series: Vec<QosPoint>,
}

/// The registrar is gone: the hub stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hub is stopping")]
pub struct Stopping;

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

/// A live session.
struct Live {
    session: u64,
    process: u64,
    /// `None` between two sessions of the same process.
    outbox: Option<Outbox>,
    /// Last sequence number applied.
    applied: u64,
    /// Last sequence number acknowledged.
    acked: u64,
    /// Targets refused already, so that each is audited once a process; [`REFUSED`] at most.
    refused: BTreeSet<TargetKey>,
}

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

    /// Takes samples with times of their own. What the agent offered then may be another's by now, or not be offered yet: what
    /// is `recorded` of it counts, and what it may offer.
    fn take_late(
        &mut self,
        agent: AgentId,
        samples: Vec<QosSample>,
        recorded: &Recorded,
        now: Timestamp,
    ) -> LateTaken {
        let mut taken = LateTaken::default();
        if self.registry.agent(agent).is_none() {
            return taken;
        }
        for sample in samples {
            if let Err(refusal) = self.history.entry(agent).or_default().push_late(&sample, now) {
                taken.refusals.push(refusal);
                continue;
            }
            let QosSample { at, machine, tunnel, services } = sample;
            let count = services.len();
            let services = self.told_only(agent, services, |target| {
                self.registry.may_tell(target) || recorded.contains(&(target.service, target.port))
            });
            taken.not_offered += count - services.len();
            if let Some(sink) = &self.sink {
                taken.kept.push(sink.keep(Sampled { agent, at, machine, tunnel, services }));
            }
        }
        taken
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

    fn open(&mut self, opening: Opening, now: Timestamp) -> Option<()> {
        let SessionRef { agent, session } = opening.session;
        self.registry.agent(agent)?;
        let (mut applied, mut acked) = (0, 0);
        let mut refused = BTreeSet::new();
        if let Some(old) = self.live.remove(&agent) {
            if old.process == opening.process {
                (applied, acked) = (old.applied, old.acked);
                refused.clone_from(&old.refused);
            } else if old.outbox.is_some() {
                self.audit.push(AuditEvent::new(
                    AuditKind::SessionReplace,
                    agent,
                    "another process of the same agent took over",
                ));
            }
            old.say(Body::Goodbye(v1::Goodbye { reason: Reason::Replaced.into() }));
        }
        let live =
            Live { session, process: opening.process, outbox: Some(opening.outbox), applied, acked, refused };
        // What was acknowledged, not what is applied: that may not be stored yet.
        live.say(Body::Welcome(v1::Welcome { agent_seq: acked, ..opening.welcome }));
        live.say(Body::Workloads(workload_set(self.assignments.get(&agent))));
        self.live.insert(agent, live);
        self.registry.set_connected(agent, true, now);
        self.registry.set_agent_version(agent, &opening.agent_version);
        let changes = self.registry.set_workload_facts(agent, opening.runs_workloads, opening.inventory);
        self.note(changes);
        self.dirty = true;
        Some(())
    }

    fn close(&mut self, session: SessionRef, now: Timestamp) {
        let Some(live) = self.live.get_mut(&session.agent).filter(|live| live.session == session.session)
        else {
            return;
        };
        live.outbox = None;
        self.registry.set_connected(session.agent, false, now);
        self.dirty = true;
    }

    fn report(&mut self, session: SessionRef, seq: u64, report: Report, now: Timestamp) {
        let agent = session.agent;
        let Some(live) = self.live.get_mut(&agent).filter(|live| live.session == session.session) else {
            return;
        };
        let fresh = seq > live.applied;
        live.applied = live.applied.max(seq);
        let back = self.registry.renew(agent, now);
        self.note(back);
        if !fresh {
            return;
        }
        match report {
            Report::Alive => {}
            Report::Targets(offered) => {
                let outcome = self.registry.set_targets(agent, offered, now);
                for (key, reason) in outcome.refused {
                    self.refuse(key, &reason);
                }
                self.note(outcome.changes);
            }
            Report::Qos(at, machine, tunnel, services) => {
                let services = self.told_only(agent, services, |target| self.registry.offers(target));
                if let Some(sink) = &self.sink {
                    let services = services.clone();
                    sink.note(Sampled { agent, at, machine, tunnel, services });
                }
                self.history.entry(agent).or_default().push(at, machine, tunnel, services);
            }
        }
    }

    /// Samples of what the agent may tell of, once each: it says nothing of what is another's, or of what is nobody's.
    fn told_only(
        &self,
        agent: AgentId,
        mut services: Vec<ServiceSample>,
        may_tell: impl Fn(TargetKey) -> bool,
    ) -> Vec<ServiceSample> {
        let count = services.len();
        let mut told = BTreeSet::new();
        services.retain(|sample| {
            let target = TargetKey { service: sample.service, agent, port: sample.port };
            may_tell(target) && told.insert(target)
        });
        if let Some(sink) = &self.sink {
            sink.not_offered(count - services.len());
        }
        services
    }

    fn refuse(&mut self, key: TargetKey, reason: &RefusedTarget) {
        let Some(live) = self.live.get_mut(&key.agent) else { return };
        live.say(Body::Refused(v1::TargetRefused {
            blueprint_id: key.service.blueprint,
            service_id: key.service.service,
            port: key.port.into(),
            reason: reason.to_string(),
        }));
        if live.refused.contains(&key) {
            return;
        }
        if live.refused.len() >= REFUSED {
            return self.refusals.suppress();
        }
        live.refused.insert(key);
        if let Some(suppressed) = self.refusals.take(Instant::now().into_std()) {
            warn!(agent = %key.agent, service = %key.service, %reason, "target refused");
            let detail = format!("{} on port {}: {reason}", key.service, key.port);
            let event = AuditEvent::new(AuditKind::TargetRefuse, key.agent, detail);
            self.audit.push(event.after(suppressed));
        }
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

fn workload_set(services: Option<&BTreeMap<Seat, Assignment>>) -> v1::WorkloadSet {
    let reference = |(seat, assignment): (&Seat, &Assignment)| v1::WorkloadRef {
        blueprint_id: seat.service.blueprint,
        service_id: seat.service.service,
        generation: assignment.generation,
        ends: assignment.ends,
        slot: seat.slot.into(),
    };
    v1::WorkloadSet { workloads: services.into_iter().flatten().map(reference).collect() }
}

impl Live {
    /// Sends without waiting. A full outbox means an agent that does not read; its session ends by its keepalive.
    fn say(&self, body: Body) {
        if let Some(outbox) = &self.outbox {
            let _ = outbox.try_send(Box::new(v1::HubMessage { seq: 0, body: Some(body) }));
        }
    }

    fn acknowledge(&mut self) {
        if self.applied > self.acked {
            self.acked = self.applied;
            self.say(Body::Ack(v1::Ack { agent_seq: self.applied }));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
