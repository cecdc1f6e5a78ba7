//! The task that owns who runs what: stores it, tells the registrar, and moves workloads off nodes that are away or on which
//! they do not get well.

mod journal;
mod leavers;
mod updates;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::workload::{Bundle, Lease, WorkloadSpec, WorkloadStatus};
use blueprint_common_types::{AgentId, ServiceKey, Timestamp, WgPublicKey};
use blueprint_hub_registry_core::workload::{
    Assigner, Assignments, FailOvers, Refusals, Replicas, Traffic, UpdateError, UpdateRequest, Updates,
    Version, WINDOW, WorkloadChange, WorkloadChangeError, WorkloadEvent, WorkloadRecord, WorkloadStore,
    WorkloadsView,
};
use blueprint_hub_registry_core::{RegistrySnapshot, StoreError, StoreResult, Weights};
use blueprint_proto::v1;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{error, info};

use self::journal::Journal;
use crate::{RegistrarHandle, Stopping};

/// Commands that wait at most.
const QUEUE: usize = 256;

/// Longest pause between two looks at who is where; also the pause before a failed write is tried again.
const LOOK: Duration = Duration::from_secs(1);

/// Least pause before a deadline: what it is about is told in milliseconds.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// What the control plane asks of the rest of the hub on behalf of blueprints.
pub trait Blueprints: Send + Sync {
    /// The keys of a workload, sealed to a node's tunnel key; empty where it has none.
    ///
    /// # Errors
    ///
    /// One line for the log; the node is told to try again later.
    fn keystore_for(&self, record: &WorkloadRecord, node: &WgPublicKey) -> Result<Vec<u8>, String>;

    /// Seals a keystore as it is stored; `None` where the system has no randomness.
    fn seal_keystore(&self, service: ServiceKey, bundle: &Bundle) -> Option<String>;

    /// What a blueprint asked for over its bridge; `service` is the one whose socket it used.
    fn bridge(
        &self,
        service: ServiceKey,
        call: v1::bridge_request::Call,
    ) -> BoxFuture<'_, Result<(), Status>>;
}

/// What the operator set about workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkloadRules {
    /// How long a node may be away before its workloads go elsewhere.
    pub patience: Duration,
    /// Versions of a service that are kept, within [`KEPT_VERSIONS`](blueprint_hub_registry_core::workload::KEPT_VERSIONS).
    pub keep_versions: usize,
    /// How long what is open at a replica may last once it leaves its node.
    pub drain: Duration,
}

/// The lease of a workload that a launcher started; `None` for an operator's.
#[must_use]
pub fn lease_of(record: &WorkloadRecord) -> Option<Lease> {
    let spec: WorkloadSpec = serde_json::from_str(&record.document).ok()?;
    spec.lease
}

enum Command {
    Set(Box<WorkloadChange>, oneshot::Sender<Result<WorkloadRecord, WorkloadChangeError>>),
    Remove(ServiceKey, oneshot::Sender<StoreResult<bool>>),
    RemoveLeased(ServiceKey, String, &'static str, oneshot::Sender<StoreResult<bool>>),
    End(ServiceKey),
    Update(Box<UpdateRequest>, oneshot::Sender<Result<WorkloadRecord, UpdateError>>),
    Abort(ServiceKey, oneshot::Sender<Result<(), UpdateError>>),
    Report(AgentId, Vec<WorkloadStatus>),
    Replicas(Replicas),
}

/// Access to the task; cheap to clone.
#[derive(Clone)]
pub struct WorkloadsHandle {
    store: Arc<dyn WorkloadStore>,
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<Arc<WorkloadsView>>,
    keep_versions: usize,
}

impl std::fmt::Debug for WorkloadsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkloadsHandle")
    }
}

impl WorkloadsHandle {
    /// Who runs what now.
    #[must_use]
    pub fn view(&self) -> Arc<WorkloadsView> {
        Arc::clone(&self.view.borrow())
    }

    /// Stores a workload and assigns it; done as a whole also where the caller goes away.
    ///
    /// # Errors
    ///
    /// [`WorkloadChangeError`]; nothing was changed then.
    pub async fn set(&self, change: WorkloadChange) -> Result<WorkloadRecord, WorkloadChangeError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Set(Box::new(change), reply)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed.into()))
    }

    /// Takes a workload back; false where there is none.
    ///
    /// # Errors
    ///
    /// Those of the store; nothing was changed then.
    pub async fn remove(&self, service: ServiceKey) -> StoreResult<bool> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Remove(service, reply)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// What happened to a workload, oldest first, the newest hundred.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn events(&self, service: ServiceKey) -> StoreResult<Vec<WorkloadEvent>> {
        self.store.events(service).await
    }

    /// Begins an update; done as a whole also where the caller goes away. How it goes is seen in the view.
    ///
    /// # Errors
    ///
    /// [`UpdateError`]; nothing was changed then.
    pub async fn update(&self, request: UpdateRequest) -> Result<WorkloadRecord, UpdateError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Update(Box::new(request), reply)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed.into()))
    }

    /// Has an update taken back.
    ///
    /// # Errors
    ///
    /// [`UpdateError`]; nothing was changed then.
    pub async fn abort_update(&self, service: ServiceKey) -> Result<(), UpdateError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Abort(service, reply)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed.into()))
    }

    /// Services whose workload runs on all of these nodes from now on, and on no other.
    ///
    /// # Errors
    ///
    /// [`Stopping`] where the hub stops.
    pub async fn set_replicas(&self, replicas: Replicas) -> Result<(), Stopping> {
        self.commands.send(Command::Replicas(replicas)).await.map_err(|_| Stopping)
    }

    /// Versions of a service that are kept at the most.
    #[must_use]
    pub const fn keep_versions(&self) -> usize {
        self.keep_versions
    }

    /// Versions of a service that are kept, the newest first.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn versions(&self, service: ServiceKey) -> StoreResult<Vec<Version>> {
        self.store.list_versions(service).await
    }

    /// A receiver that wakes at every change.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<WorkloadsView>> {
        self.view.clone()
    }

    /// Has a workload end on its node; how it did is told until it is taken back. Not remembered by a next hub.
    pub(crate) async fn end(&self, service: ServiceKey) -> Result<(), Stopping> {
        self.commands.send(Command::End(service)).await.map_err(|_| Stopping)
    }

    /// Takes a workload back if it is the named launcher's; false where it is not.
    pub(crate) async fn remove_leased(
        &self,
        service: ServiceKey,
        launcher: &str,
        why: &'static str,
    ) -> StoreResult<bool> {
        let (reply, answer) = oneshot::channel();
        let command = Command::RemoveLeased(service, launcher.to_owned(), why, reply);
        self.commands.send(command).await.map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    pub(crate) async fn report(&self, agent: AgentId, statuses: Vec<WorkloadStatus>) -> Result<(), Stopping> {
        self.commands.send(Command::Report(agent, statuses)).await.map_err(|_| Stopping)
    }
}

/// The task.
pub struct Workloads {
    assigner: Assigner,
    statuses: BTreeMap<ServiceKey, (AgentId, WorkloadStatus)>,
    updates: Updates,
    /// What nodes say of next versions.
    next_statuses: BTreeMap<(ServiceKey, AgentId), WorkloadStatus>,
    /// What nodes say of replicas.
    copy_statuses: BTreeMap<(ServiceKey, AgentId), WorkloadStatus>,
    traffic: Arc<dyn Traffic>,
    store: Arc<dyn WorkloadStore>,
    registrar: RegistrarHandle,
    commands: mpsc::Receiver<Command>,
    view: watch::Sender<Arc<WorkloadsView>>,
    journal: Journal,
    /// What the registrar was told last.
    told: Option<(Assignments, BTreeSet<ServiceKey>, Weights)>,
    keep_versions: usize,
}

impl std::fmt::Debug for Workloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workloads").field("assigner", &self.assigner).finish_non_exhaustive()
    }
}

impl Workloads {
    /// Loads what is wanted, and tells the registrar before any agent can ask; `replicas` are the nodes of services that have several.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn new(
        store: Arc<dyn WorkloadStore>,
        registrar: RegistrarHandle,
        rules: WorkloadRules,
        traffic: Arc<dyn Traffic>,
        replicas: Replicas,
    ) -> StoreResult<(Self, WorkloadsHandle)> {
        let now = Timestamp::from(SystemTime::now());
        let hour_ago = Timestamp::from_millis(now.as_millis().saturating_sub(millis(WINDOW)));
        let moves = store.fail_overs(hour_ago).await?;
        let workloads = store.list_workloads().await?;
        let refusals = Refusals::restore(&moves, &workloads);
        let assigner = Assigner::new(workloads, FailOvers::restore(&moves), rules.patience);
        let mut assigner = assigner.with_refusals(refusals).draining_for(rules.drain);
        assigner.set_replicas(replicas);
        assigner.spread(&registrar.snapshot());
        assigner.forget_leavers();
        let stored = store.list_updates().await?;
        for stored in &stored {
            if let Some(next) = &stored.next {
                assigner.set_next(next, stored.update.next_nodes());
            }
        }
        let updates = stored.into_iter().map(|it| it.update).collect();
        let updates = Updates::new(updates, now);
        let (sender, commands) = mpsc::channel(QUEUE);
        let (view, receiver) = watch::channel(Arc::default());
        let handle = WorkloadsHandle {
            store: Arc::clone(&store),
            commands: sender,
            view: receiver,
            keep_versions: rules.keep_versions,
        };
        let (statuses, next_statuses, told) = (BTreeMap::new(), BTreeMap::new(), None);
        let mut task = Self {
            assigner,
            statuses,
            updates,
            next_statuses,
            copy_statuses: BTreeMap::new(),
            traffic,
            store,
            registrar,
            commands,
            view,
            journal: Journal::default(),
            told,
            keep_versions: rules.keep_versions,
        };
        task.trim_versions().await;
        task.publish().await;
        Ok((task, handle))
    }

    /// Counts steps of recovery, and shows how many workloads do not get well.
    pub fn register_metrics(&self, metrics: &Metrics) {
        self.journal.register(metrics);
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut snapshots = self.registrar.snapshots();
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            // What a node said is written before the workload leaves it, and what follows from that as soon.
            self.write_journal().await;
            if self.assigner.spread(&snapshot) {
                self.publish().await;
            }
            self.place(&snapshot).await;
            self.look_at_updates(&snapshot).await;
            self.look_at_leavers(&snapshot).await;
            self.save_nodes().await;
            self.write_journal().await;
            let now = Timestamp::from(SystemTime::now());
            let wait = self.assigner.poll_timeout().map_or(LOOK, |at| at.since(now).clamp(LEAST_WAIT, LOOK));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                command = self.commands.recv() => match command {
                    Some(command) => self.apply(command).await,
                    None => return,
                },
                changed = snapshots.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn apply(&mut self, command: Command) {
        match command {
            Command::Set(change, reply) => {
                let stored = self.store.set_workload(*change).await;
                if let Ok(record) = &stored {
                    self.trim_versions().await;
                    self.assigner.set(record.clone());
                    self.assigner.forget_refusals(record.service);
                    // Where it goes is decided before it is told, so that its maker sees the node at once.
                    let snapshot = self.registrar.snapshot();
                    self.assigner.spread(&snapshot);
                    self.place(&snapshot).await;
                    self.publish().await;
                }
                let stored = stored
                    .map(|record| self.assigner.get(record.service).map_or(record, |it| (**it).clone()));
                let _ = reply.send(stored);
            }
            Command::Remove(service, reply) => {
                let _ = reply.send(self.remove(service, "taken back").await);
            }
            Command::RemoveLeased(service, launcher, why, reply) => {
                let lease = self.assigner.get(service).and_then(|record| lease_of(record));
                let is_theirs = lease.is_some_and(|lease| lease.launcher == launcher);
                let removed = if is_theirs { self.remove(service, why).await } else { Ok(false) };
                let _ = reply.send(removed);
            }
            Command::End(service) => {
                self.assigner.end(service);
                self.publish().await;
            }
            Command::Update(request, reply) => {
                let _ = reply.send(self.begin_update(*request).await);
            }
            Command::Abort(service, reply) => {
                let _ = reply.send(self.abort(service).await);
            }
            Command::Replicas(replicas) => {
                self.assigner.set_replicas(replicas);
                if self.assigner.spread(&self.registrar.snapshot()) {
                    self.publish().await;
                }
            }
            Command::Report(agent, statuses) => self.hear(agent, statuses).await,
        }
    }

    async fn remove(&mut self, service: ServiceKey, why: &'static str) -> StoreResult<bool> {
        let removed = self.store.remove_workload(service, why, SystemTime::now().into()).await?;
        self.assigner.remove(service);
        self.updates.remove(service);
        self.publish().await;
        Ok(removed)
    }

    async fn hear(&mut self, agent: AgentId, statuses: Vec<WorkloadStatus>) {
        self.statuses.retain(|_, (from, _)| *from != agent);
        self.next_statuses.retain(|(_, from), _| *from != agent);
        self.copy_statuses.retain(|(_, from), _| *from != agent);
        let is_refused = statuses.iter().any(|status| status.refused);
        for status in statuses {
            let service = status.service;
            let is_of = |record: &Arc<WorkloadRecord>| is_told_of(record, agent, &status);
            if self.assigner.get(service).is_some_and(is_of) {
                // What is said of a next version changes nothing of what the one that serves asks for.
                self.assigner.hear(&status);
                self.statuses.insert(service, (agent, status));
            } else if self.assigner.next(service).iter().any(is_of) {
                self.next_statuses.insert((service, agent), status);
            } else if self.has_or_had_replicas(service) {
                self.copy_statuses.insert((service, agent), status);
            }
        }
        if is_refused {
            // Before anybody is told that it failed: another node may take it.
            self.write_journal().await;
            self.place(&self.registrar.snapshot()).await;
        }
        self.publish().await;
    }

    async fn place(&mut self, snapshot: &RegistrySnapshot) {
        let now = Timestamp::from(SystemTime::now());
        let degraded = self.assigner.degraded().clone();
        self.assigner.hold(self.updates.iter().map(|update| update.service).collect());
        let moves = self.assigner.moves(snapshot, now);
        let mut has_news = degraded != *self.assigner.degraded();
        for one in moves {
            match self.store.place_workload(one.placed(now)).await {
                Ok(Some(record)) => {
                    info!(target: "audit", service = %one.service, to = %one.to, reason = one.reason, "workload placed");
                    self.assigner.moved(&one, now);
                    self.journal.count(one.kind);
                    self.assigner.set(record);
                    has_news = true;
                }
                Ok(None) => {
                    error!(service = %one.service, "a workload was changed behind its owner; not placed")
                }
                // It is looked at again in a second.
                Err(error) => error!(service = %one.service, %error, "workload not placed"),
            }
        }
        if has_news {
            self.publish().await;
        }
    }

    /// One of the replicas of a workload, and what its node says of it.
    fn copy_of(&self, record: &Arc<WorkloadRecord>) -> Option<Run> {
        let key = (record.service, record.node?);
        let status = self.copy_statuses.get(&key).filter(|status| is_told_of(record, key.1, status));
        Some((key, (Arc::clone(record), status.cloned())))
    }

    /// Shows what is, where that is news to somebody.
    async fn publish(&mut self) {
        self.journal.show_updates(self.updates.iter().count());
        self.sort_statuses();
        let assigner = &self.assigner;
        self.next_statuses.retain(|(service, agent), status| {
            assigner.next(*service).iter().any(|record| is_told_of(record, *agent, status))
        });
        let view = WorkloadsView {
            records: assigner.records().map(|record| (record.service, Arc::clone(record))).collect(),
            statuses: self.statuses.iter().map(|(service, (_, status))| (*service, status.clone())).collect(),
            degraded: assigner.degraded().clone(),
            updates: self.updates.iter().map(|update| (update.service, self.view_of(update))).collect(),
            copies: assigner.copies().filter_map(|record| self.copy_of(record)).collect(),
            leavers: assigner.leavers().cloned().collect(),
        };
        self.view.send_if_modified(|shown| {
            let is_news = **shown != view;
            if is_news {
                *shown = Arc::new(view);
            }
            is_news
        });
        let told = (self.assigner.assignments(), self.assigner.unplaced(), self.weights());
        if self.told.as_ref() != Some(&told) {
            // A registrar that is gone has nobody to tell.
            let _ = self.registrar.assign(told.0.clone(), told.1.clone(), told.2.clone()).await;
            self.told = Some(told);
        }
    }
}

/// A run of a service with replicas, by service and node, and what its node says of it.
type Run = ((ServiceKey, AgentId), (Arc<WorkloadRecord>, Option<WorkloadStatus>));

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a node tells that of a record.
fn is_told_of(record: &WorkloadRecord, agent: AgentId, status: &WorkloadStatus) -> bool {
    record.node == Some(agent) && record.generation == status.generation
}
