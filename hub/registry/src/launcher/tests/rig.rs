//! A hub with one node, a store in memory that fails on demand, and launchers of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::SystemTime;

use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_types::workload::{Bundle, WorkloadState, WorkloadStatus};
use blueprint_common_types::{AgentId, LogCursor, LogStream, ServiceKey, Timestamp, WgPublicKey};
use blueprint_hub_registry_core::workload::{
    LogsAsk, LogsError, LogsLine, LogsPiece, NewUpdate, Placed, Replicas, StoredUpdate, Tally, ThrownAway,
    Traffic, Update, Version, WorkloadChange, WorkloadChangeError, WorkloadEvent, WorkloadRecord,
    WorkloadStore,
};
use blueprint_hub_registry_core::{StoreError, StoreResult};
use blueprint_proto::v1::bridge_request::Call;
use blueprint_proto::v1::launcher_client::LauncherClient;
use blueprint_proto::v1::launcher_event::Body as Event;
use blueprint_proto::v1::launcher_message::Body as Message;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::net::{TcpStream, UnixListener};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::super::*;
use crate::forward::ReachStream;
use crate::operator::tests::OpenSocket;
use crate::registrar::tests::{Disk, open, session, start};
use crate::{Launchers, WorkloadRules, Workloads, serve_operator};

pub(super) const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

/// Keeps workloads in memory, and the reasons of what was taken back; fails on demand.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) records: Mutex<BTreeMap<ServiceKey, WorkloadRecord>>,
    pub(super) removed: Mutex<Vec<&'static str>>,
    /// How many removals and changes fail before one is done.
    pub(super) failures: AtomicU32,
    /// Cancelled at every removal that is tried.
    pub(super) is_tried: CancellationToken,
    /// Removals wait for it where there is one.
    pub(super) gate: Mutex<Option<CancellationToken>>,
}

impl Kept {
    pub(super) fn fail(&self) -> StoreResult<()> {
        let left = self.failures.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        if left.is_ok() { Err(StoreError::Full) } else { Ok(()) }
    }
}

impl WorkloadStore for Kept {
    fn journal(&self, _: Vec<WorkloadEvent>, _: Timestamp) -> BoxFuture<'_, StoreResult<()>> {
        async { Ok(()) }.boxed()
    }
    fn events(&self, _: ServiceKey) -> BoxFuture<'_, StoreResult<Vec<WorkloadEvent>>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn fail_overs(&self, _: Timestamp) -> BoxFuture<'_, StoreResult<Vec<WorkloadEvent>>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn keep_node(
        &self,
        service: ServiceKey,
        generation: u64,
        node: Option<AgentId>,
    ) -> BoxFuture<'_, StoreResult<()>> {
        let mut records = self.records.lock();
        if let Some(record) = records.get_mut(&service).filter(|record| record.generation == generation) {
            record.node = node;
        }
        async { Ok(()) }.boxed()
    }
    fn list_workloads(&self) -> BoxFuture<'_, StoreResult<Vec<WorkloadRecord>>> {
        async { Ok(self.records.lock().values().cloned().collect()) }.boxed()
    }
    fn set_workload(
        &self,
        change: WorkloadChange,
    ) -> BoxFuture<'_, Result<WorkloadRecord, WorkloadChangeError>> {
        async move {
            self.fail()?;
            let mut records = self.records.lock();
            let before = records.get(&change.service);
            let current = before.map_or(0, |record| record.generation);
            if change.replaces.is_some_and(|replaces| replaces != current) {
                return Err(WorkloadChangeError::Conflict { current });
            }
            let record = WorkloadRecord {
                service: change.service,
                generation: current + 1,
                document: change.document,
                nodes: change.nodes,
                node: before.and_then(|record| record.node),
                keystore: change.keystore,
                changed_at: change.now,
                version: 1,
                slot: 0,
            };
            records.insert(change.service, record.clone());
            Ok(record)
        }
        .boxed()
    }
    fn place_workload(&self, placed: Placed) -> BoxFuture<'_, StoreResult<Option<WorkloadRecord>>> {
        async move {
            let mut records = self.records.lock();
            Ok(records.get_mut(&placed.service).map(|record| {
                record.generation += 1;
                record.node = Some(placed.node);
                record.clone()
            }))
        }
        .boxed()
    }
    fn list_updates(&self) -> BoxFuture<'_, StoreResult<Vec<StoredUpdate>>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn list_versions(&self, _: ServiceKey) -> BoxFuture<'_, StoreResult<Vec<Version>>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn trim_versions(&self, _: usize, _: Timestamp) -> BoxFuture<'_, StoreResult<ThrownAway>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn begin_update(&self, _: NewUpdate) -> BoxFuture<'_, StoreResult<Option<StoredUpdate>>> {
        async { Ok(None) }.boxed()
    }
    fn save_update(&self, _: Update) -> BoxFuture<'_, StoreResult<()>> {
        async { Ok(()) }.boxed()
    }
    fn finish_update(
        &self,
        _: ServiceKey,
        _: Timestamp,
    ) -> BoxFuture<'_, StoreResult<Option<WorkloadRecord>>> {
        async { Ok(None) }.boxed()
    }
    fn take_back_update(
        &self,
        _: ServiceKey,
        _: String,
        _: Timestamp,
    ) -> BoxFuture<'_, StoreResult<Option<WorkloadRecord>>> {
        async { Ok(None) }.boxed()
    }
    fn remove_workload(
        &self,
        service: ServiceKey,
        why: &'static str,
        _: Timestamp,
    ) -> BoxFuture<'_, StoreResult<bool>> {
        async move {
            self.is_tried.cancel();
            let gate = self.gate.lock().take();
            if let Some(gate) = gate {
                gate.cancelled().await;
            }
            self.fail()?;
            self.removed.lock().push(why);
            Ok(self.records.lock().remove(&service).is_some())
        }
        .boxed()
    }
}

/// No proxy, and so no requests.
pub(super) struct Nobody;

impl Traffic for Nobody {
    fn at(&self, _: ServiceKey, _: SocketAddr) -> Tally {
        Tally::default()
    }
    fn drained(&self, _: ServiceKey) -> BTreeSet<AgentId> {
        BTreeSet::new()
    }
}

/// Seals nothing and knows no bridge; reaches one address, whatever is asked for.
pub(super) struct Rest(SocketAddr);

impl Blueprints for Rest {
    fn keystore_for(&self, _: &WorkloadRecord, _: &WgPublicKey) -> Result<Vec<u8>, String> {
        Ok(Vec::new())
    }
    fn seal_keystore(&self, _: ServiceKey, bundle: &Bundle) -> Option<String> {
        let registry =
            bundle.registry.as_ref().map(|login| format!(", {} of {}", login.user, login.registry));
        Some(format!("{} files{}", bundle.keystore.len(), registry.unwrap_or_default()))
    }
    fn bridge(&self, _: ServiceKey, _: Call) -> BoxFuture<'_, Result<(), Status>> {
        async { Err(Status::internal("the hub does not do what a Manager does")) }.boxed()
    }
}

impl Reach for Rest {
    fn connect(&self, _: SocketAddr) -> BoxFuture<'_, Result<Box<dyn ReachStream>, String>> {
        async move {
            let stream = TcpStream::connect(self.0).await.map_err(|error| error.to_string())?;
            Ok::<Box<dyn ReachStream>, _>(Box::new(stream))
        }
        .boxed()
    }
}

/// Gives one piece of a node, of two assignments, and says what it was asked.
#[derive(Default)]
pub(super) struct Wrote {
    pub(super) asked: Mutex<Vec<(AgentId, LogsAsk)>>,
    /// Where there is one, the piece comes again once it is cancelled.
    pub(super) again: Mutex<Option<CancellationToken>>,
}

impl LogSource for Wrote {
    fn read(&self, node: AgentId, ask: LogsAsk) -> BoxFuture<'_, Result<LogPieces, LogsError>> {
        async move {
            self.asked.lock().push((node, ask));
            let line = |seq: u64, generation: u64| LogsLine {
                cursor: LogCursor { ring: 9, seq },
                at: Timestamp::from_millis(seq),
                generation,
                stream: LogStream::Stderr,
                level: None,
                text: format!("line {seq}"),
                goes_on: false,
            };
            let lines = vec![line(1, 4), line(2, 5), line(3, 6)];
            let piece = LogsPiece { lines, missed: 1, reached: None, is_last: true };
            let again = self.again.lock().take();
            let second = async move {
                let Some(again) = again else { return Err(LogsError::Broken("it is silent".to_owned())) };
                again.cancelled().await;
                Ok(LogsPiece { lines: vec![line(4, 7)], missed: 0, reached: None, is_last: false })
            };
            let first = futures_util::stream::iter([Ok(piece)]);
            Ok(first.chain(futures_util::stream::once(second)).boxed())
        }
        .boxed()
    }
}

const RULES: WorkloadRules =
    WorkloadRules { patience: Duration::from_secs(15), keep_versions: 10, drain: Duration::from_secs(60) };

/// What launchers need, where none comes.
pub(crate) async fn idle(registrar: RegistrarHandle) -> LauncherParts {
    let store: Arc<dyn WorkloadStore> = Arc::new(Kept::default());
    let (_, workloads) =
        Workloads::new(store, registrar, RULES, Arc::new(Nobody), Replicas::new()).await.unwrap();
    let (_, launchers) = Launchers::new(workloads.clone());
    let rest = Arc::new(Rest(nowhere()));
    LauncherParts {
        workloads,
        launchers,
        blueprints: rest.clone(),
        reach: rest,
        logs: Arc::new(Wrote::default()),
    }
}

/// A hub with one node that is here.
pub(super) struct Hub {
    pub(super) kept: Arc<Kept>,
    pub(super) workloads: WorkloadsHandle,
    pub(super) launchers: LaunchersHandle,
    pub(super) registrar: RegistrarHandle,
    pub(super) wrote: Arc<Wrote>,
    pub(super) client: LauncherClient<Channel>,
}

pub(super) async fn with_hub<F: Future<Output = ()>>(reach: SocketAddr, test: impl FnOnce(Hub) -> F) {
    with_kept(Arc::default(), reach, test).await;
}

/// A hub that finds this in its store.
pub(super) async fn with_kept<F: Future<Output = ()>>(
    kept: Arc<Kept>,
    reach: SocketAddr,
    test: impl FnOnce(Hub) -> F,
) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (disk, stop, supervisor) = (Arc::new(Disk::default()), CancellationToken::new(), Supervisor::new());
    let (registrar, run) = start(&disk, &stop);
    let all = async {
        let checks = async {
            let store: Arc<dyn WorkloadStore> = kept.clone();
            let (task, workloads) =
                Workloads::new(store, registrar.clone(), RULES, Arc::new(Nobody), Replicas::new())
                    .await
                    .unwrap();
            let (leases, launchers) = Launchers::new(workloads.clone());
            let (blueprints, reach) = (Arc::new(Rest(reach)), Arc::new(Rest(reach)));
            let wrote = Arc::new(Wrote::default());
            let parts = LauncherParts {
                workloads: workloads.clone(),
                launchers: launchers.clone(),
                blueprints,
                reach,
                logs: Arc::<Wrote>::clone(&wrote),
            };
            let metrics = Metrics::new();
            let served = serve_operator(
                listener,
                registrar.clone(),
                (parts, None),
                &metrics,
                supervisor.child_spawner(),
            );
            let tests = async {
                let (_, _messages) = open(&registrar, 1, 9).await;
                registrar.set_data_plane(session(1).agent, true).await.unwrap();
                let endpoint = Endpoint::from_static("http://hub.test");
                let channel = endpoint.connect_with_connector(OpenSocket(path)).await.unwrap();
                let client = LauncherClient::new(channel);
                let (kept, registrar) = (kept.clone(), registrar.clone());
                test(Hub { kept, workloads, launchers, registrar, wrote, client }).await;
                stop.cancel();
                supervisor.shutdown();
            };
            let (_, _, served, ()) =
                tokio::join!(task.run(stop.clone()), leases.run(stop.clone()), served, tests);
            served.unwrap();
        };
        tokio::join!(run, checks)
    };
    timeout(Duration::from_secs(20), all).await.unwrap();
}

/// A launcher with its stream.
pub(super) struct Run {
    pub(super) say: mpsc::Sender<v1::LauncherMessage>,
    pub(super) events: Streaming<v1::LauncherEvent>,
}

pub(super) fn request(launcher: &str) -> v1::LauncherStart {
    v1::LauncherStart {
        blueprint_id: 7,
        service_id: 42,
        document: r#"{"source": {"type": "testing", "path": "/bin/b"}}"#.to_owned(),
        launcher: launcher.to_owned(),
        lease_secs: 1,
        ..v1::LauncherStart::default()
    }
}

impl Hub {
    pub(super) async fn run(&self, start: v1::LauncherStart) -> Result<Run, Status> {
        let (say, receiver) = mpsc::channel(8);
        say.send(v1::LauncherMessage { body: Some(Message::Start(start)) }).await.unwrap();
        let events = self.client.clone().run(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Run { say, events })
    }

    pub(super) fn status(&self, state: WorkloadState, exit_code: Option<i32>) -> WorkloadStatus {
        let generation = self.workloads.view().records[&SERVICE].generation;
        let status = WorkloadStatus::new(SERVICE, generation, state, SystemTime::now().into());
        WorkloadStatus { exit_code, ..status }
    }

    /// The node says how it is doing.
    pub(super) async fn report(&self, state: WorkloadState, exit_code: Option<i32>) {
        let status = self.status(state, exit_code);
        self.workloads.report(session(1).agent, vec![status]).await.unwrap();
    }
}

impl Run {
    pub(super) async fn next(&mut self) -> Event {
        self.events.message().await.unwrap().unwrap().body.unwrap()
    }

    pub(super) async fn answer(&self, id: u64, code: Code, message: &str) {
        let answer = v1::LauncherAnswer { id, code: code.into(), message: message.to_owned() };
        self.say.send(v1::LauncherMessage { body: Some(Message::Answer(answer)) }).await.unwrap();
    }

    pub(super) async fn state(&mut self) -> String {
        self.status().await.state
    }

    pub(super) async fn status(&mut self) -> v1::WorkloadStatus {
        let Event::State(state) = self.next().await else { panic!("a state") };
        state.status.unwrap()
    }
}

pub(super) fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}
