//! Launchers over a real Unix socket, with workloads kept in memory and a node that says what it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::SystemTime;

use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_types::workload::{Bundle, WorkloadState, WorkloadStatus};
use blueprint_common_types::{AgentId, LogCursor, LogStream, ServiceKey, Timestamp, WgPublicKey};
use blueprint_hub_registry_core::workload::{
    LogsAsk, LogsError, LogsLine, LogsPiece, NewUpdate, Placed, Replicas, StoredUpdate, Tally, Traffic,
    Update, Version, WorkloadChange, WorkloadChangeError, WorkloadEvent, WorkloadRecord, WorkloadStore,
};
use blueprint_hub_registry_core::{StoreError, StoreResult};
use blueprint_proto::v1::bridge_request::Call;
use blueprint_proto::v1::launcher_client::LauncherClient;
use blueprint_proto::v1::launcher_event::Body as Event;
use blueprint_proto::v1::launcher_message::Body as Message;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::forward::ReachStream;
use crate::operator::tests::OpenSocket;
use crate::registrar::tests::{Disk, open, session, start, targets};
use crate::{Launchers, Workloads, serve_operator};

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

/// Keeps workloads in memory, and the reasons of what was taken back; fails on demand.
#[derive(Default)]
struct Kept {
    records: Mutex<BTreeMap<ServiceKey, WorkloadRecord>>,
    removed: Mutex<Vec<&'static str>>,
    /// How many removals and changes fail before one is done.
    failures: AtomicU32,
    /// Cancelled at every removal that is tried.
    is_tried: CancellationToken,
    /// Removals wait for it where there is one.
    gate: Mutex<Option<CancellationToken>>,
}

impl Kept {
    fn fail(&self) -> StoreResult<()> {
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
struct Nobody;

impl Traffic for Nobody {
    fn at(&self, _: ServiceKey, _: SocketAddr) -> Tally {
        Tally::default()
    }
    fn drained(&self, _: ServiceKey) -> BTreeSet<AgentId> {
        BTreeSet::new()
    }
}

/// Seals nothing and knows no bridge; reaches one address, whatever is asked for.
struct Rest(SocketAddr);

impl Blueprints for Rest {
    fn keystore_for(&self, _: &WorkloadRecord, _: &WgPublicKey) -> Result<Vec<u8>, String> {
        Ok(Vec::new())
    }
    fn seal_keystore(&self, _: ServiceKey, bundle: &Bundle) -> Option<String> {
        Some(format!("{} files", bundle.keystore.len()))
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
struct Wrote {
    asked: Mutex<Vec<(AgentId, LogsAsk)>>,
    /// Where there is one, the piece comes again once it is cancelled.
    again: Mutex<Option<CancellationToken>>,
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

/// What launchers need, where none comes.
pub(crate) async fn idle(registrar: RegistrarHandle) -> LauncherParts {
    let store: Arc<dyn WorkloadStore> = Arc::new(Kept::default());
    let (_, workloads) =
        Workloads::new(store, registrar, Duration::from_secs(15), Arc::new(Nobody), Replicas::new())
            .await
            .unwrap();
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
struct Hub {
    kept: Arc<Kept>,
    workloads: WorkloadsHandle,
    launchers: LaunchersHandle,
    registrar: RegistrarHandle,
    wrote: Arc<Wrote>,
    client: LauncherClient<Channel>,
}

async fn with_hub<F: Future<Output = ()>>(reach: SocketAddr, test: impl FnOnce(Hub) -> F) {
    with_kept(Arc::default(), reach, test).await;
}

/// A hub that finds this in its store.
async fn with_kept<F: Future<Output = ()>>(kept: Arc<Kept>, reach: SocketAddr, test: impl FnOnce(Hub) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (disk, stop, supervisor) = (Arc::new(Disk::default()), CancellationToken::new(), Supervisor::new());
    let (registrar, run) = start(&disk, &stop);
    let all = async {
        let checks = async {
            let store: Arc<dyn WorkloadStore> = kept.clone();
            let patience = Duration::from_secs(15);
            let (task, workloads) =
                Workloads::new(store, registrar.clone(), patience, Arc::new(Nobody), Replicas::new())
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
struct Run {
    say: mpsc::Sender<v1::LauncherMessage>,
    events: Streaming<v1::LauncherEvent>,
}

fn request(launcher: &str) -> v1::LauncherStart {
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
    async fn run(&self, start: v1::LauncherStart) -> Result<Run, Status> {
        let (say, receiver) = mpsc::channel(8);
        say.send(v1::LauncherMessage { body: Some(Message::Start(start)) }).await.unwrap();
        let events = self.client.clone().run(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Run { say, events })
    }

    fn status(&self, state: WorkloadState, exit_code: Option<i32>) -> WorkloadStatus {
        let generation = self.workloads.view().records[&SERVICE].generation;
        let status = WorkloadStatus::new(SERVICE, generation, state, SystemTime::now().into());
        WorkloadStatus { exit_code, ..status }
    }

    /// The node says how it is doing.
    async fn report(&self, state: WorkloadState, exit_code: Option<i32>) {
        let status = self.status(state, exit_code);
        self.workloads.report(session(1).agent, vec![status]).await.unwrap();
    }
}

impl Run {
    async fn next(&mut self) -> Event {
        self.events.message().await.unwrap().unwrap().body.unwrap()
    }

    async fn answer(&self, id: u64, code: Code, message: &str) {
        let answer = v1::LauncherAnswer { id, code: code.into(), message: message.to_owned() };
        self.say.send(v1::LauncherMessage { body: Some(Message::Answer(answer)) }).await.unwrap();
    }

    async fn state(&mut self) -> String {
        self.status().await.state
    }

    async fn status(&mut self) -> v1::WorkloadStatus {
        let Event::State(state) = self.next().await else { panic!("a state") };
        state.status.unwrap()
    }
}

fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

#[tokio::test]
async fn a_launcher_hears_of_its_workload_answers_for_its_manager_and_gets_the_exit_code() {
    with_hub(nowhere(), |hub| async move {
        let mut run = hub.run(request("a")).await.unwrap();
        hub.report(WorkloadState::Starting, None).await;
        assert_eq!(run.state().await, "starting");
        hub.report(WorkloadState::Running, None).await;
        assert_eq!(run.state().await, "running");
        assert!(matches!(run.next().await, Event::Greeted(_)));

        let call = Call::Unregister(
            blueprint_proto::blueprint_manager_bridge::UnregisterBlueprintServiceProxyRequest {
                service_id: 42,
            },
        );
        let answers = async {
            let Event::Call(call) = run.next().await else { panic!("a call") };
            assert!(matches!(call.request.unwrap().call, Some(Call::Unregister(_))));
            run.answer(call.id, Code::NotFound, "no such service").await;
        };
        let (answer, ()) = tokio::join!(hub.launchers.call(SERVICE, call), answers);
        let status = answer.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no such service"));

        run.say.send(v1::LauncherMessage { body: Some(Message::Stop(v1::LauncherStop {})) }).await.unwrap();
        hub.report(WorkloadState::Ended, Some(7)).await;
        assert_eq!(run.state().await, "ended");
        let Event::Exit(exit) = run.next().await else { panic!("an exit") };
        assert_eq!((exit.code, exit.reason.as_str()), (Some(7), ""));
        assert!(hub.workloads.view().records.is_empty(), "forgotten before it is told");
        assert_eq!(*hub.kept.removed.lock(), ["it ended"]);
    })
    .await;
}

#[tokio::test]
async fn what_a_blueprint_wrote_is_given_to_the_launcher_that_holds_it_and_to_nobody_else() {
    with_hub(nowhere(), |hub| async move {
        let node = session(1).agent;
        let asked = |launcher: &str| v1::LauncherLogs {
            blueprint_id: 7,
            service_id: 42,
            launcher: launcher.to_owned(),
            node: node.to_string(),
            generation: 5,
            after: Some(v1::LogCursor { ring: 9, seq: 1 }),
            follow: true,
        };
        let read = |asked: v1::LauncherLogs| {
            let mut client = hub.client.clone();
            async move { client.logs(asked).await.map(Response::into_inner) }
        };
        let code = |read: Result<_, Status>| read.err().map(|status| status.code());
        assert_eq!(code(read(asked("a")).await), Some(Code::PermissionDenied), "it holds nothing");
        let mut run = hub.run(request("a")).await.unwrap();
        let mut given = read(asked("a")).await.unwrap();
        let piece = given.message().await.unwrap().unwrap();
        let texts: Vec<_> = piece.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["line 2", "line 3"], "none from before it had the workload");
        assert_eq!((piece.missed, piece.ring, piece.reached, piece.is_last), (1, 9, Some(3), true));
        let broken = given.message().await.unwrap_err();
        assert_eq!(
            (broken.code(), broken.message()),
            (Code::Unavailable, "the node broke off: it is silent")
        );
        let (to, ask) = hub.wrote.asked.lock().pop().unwrap();
        assert_eq!((to, ask.after, ask.follow), (node, Some(LogCursor { ring: 9, seq: 1 }), true));
        assert_eq!(code(read(asked("b")).await), Some(Code::PermissionDenied));
        let unnamed = v1::LauncherLogs { node: "one".to_owned(), ..asked("a") };
        assert_eq!(code(read(unnamed).await), Some(Code::InvalidArgument));

        // Its last lines are its own once it ended, too.
        hub.report(WorkloadState::Ended, Some(0)).await;
        while !matches!(run.next().await, Event::Exit(_)) {}
        assert!(hub.workloads.view().records.is_empty());
        assert!(read(asked("a")).await.is_ok());
        assert_eq!(code(read(asked("b")).await), Some(Code::PermissionDenied));
        let _next = hub.run(request("b")).await.unwrap();
        assert_eq!(code(read(asked("a")).await), Some(Code::PermissionDenied), "somebody else's by now");
    })
    .await;
}

#[tokio::test]
async fn a_launcher_that_lost_its_service_gets_no_line_of_the_next_one() {
    with_hub(nowhere(), |hub| async move {
        let asked = v1::LauncherLogs {
            blueprint_id: 7,
            service_id: 42,
            launcher: "a".to_owned(),
            node: session(1).agent.to_string(),
            follow: true,
            ..v1::LauncherLogs::default()
        };
        let _run = hub.run(request("a")).await.unwrap();
        for is_lost in [false, true] {
            let again = CancellationToken::new();
            *hub.wrote.again.lock() = Some(again.clone());
            let mut given = hub.client.clone().logs(asked.clone()).await.unwrap().into_inner();
            assert_eq!(given.message().await.unwrap().unwrap().lines.len(), 3);
            let take_over = v1::LauncherStart { take_over: true, ..request("b") };
            let _next = if is_lost { Some(hub.run(take_over).await.unwrap()) } else { None };
            again.cancel();
            let next = given.message().await;
            if is_lost {
                assert_eq!(next.unwrap_err().code(), Code::PermissionDenied);
            } else {
                assert_eq!(next.unwrap().unwrap().lines[0].text, "line 4");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_launcher_is_told_why_no_node_takes_its_workload_and_when_that_changes() {
    with_hub(nowhere(), |hub| async move {
        let node = session(1).agent;
        hub.registrar.set_data_plane(node, false).await.unwrap();
        let mut run = hub.run(request("a")).await.unwrap();
        let told = run.status().await;
        let why = (told.state.as_str(), told.reason.as_str());
        assert_eq!(why, ("unplaced", "no node that it may run on is connected"));
        hub.registrar.set_data_plane(node, true).await.unwrap();
        let mut views = hub.workloads.views();
        views.wait_for(|view| view.records[&SERVICE].node.is_some()).await.unwrap();
        hub.report(WorkloadState::Starting, None).await;
        assert_eq!(run.state().await, "starting");
    })
    .await;
}

#[tokio::test]
async fn what_was_captured_is_taken_only_once_the_launcher_says_that_it_has_it() {
    with_hub(nowhere(), |hub| async move {
        let inputs = || Ok(b"inputs".to_vec());
        let nobody = hub.launchers.keep(SERVICE, inputs()).await.unwrap_err();
        assert_eq!(nobody.code(), Code::Unavailable, "its node keeps it and asks again");
        let mut run = hub.run(request("a")).await.unwrap();
        let is_written = AtomicBool::new(false);
        for code in [Code::Unavailable, Code::Ok] {
            let launcher = async {
                let Event::Captured(captured) = run.next().await else { panic!("what was captured") };
                assert_eq!((captured.content.as_slice(), captured.failure.as_str()), (&b"inputs"[..], ""));
                is_written.store(code == Code::Ok, Relaxed);
                run.answer(captured.id, code, "no space left").await;
            };
            let (kept, ()) = tokio::join!(hub.launchers.keep(SERVICE, inputs()), launcher);
            assert_eq!(kept.is_ok(), is_written.load(Relaxed));
            assert_eq!(kept.map_or_else(|status| status.code(), |()| Code::Ok), code);
        }
        let launcher = async {
            let Event::Captured(captured) = run.next().await else { panic!("why nothing was captured") };
            assert_eq!((captured.content.len(), captured.failure.as_str()), (0, "no file"));
            run.answer(captured.id, Code::Ok, "").await;
        };
        let (kept, ()) = tokio::join!(hub.launchers.keep(SERVICE, Err("no file".to_owned())), launcher);
        kept.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_workload_that_cannot_be_taken_back_is_tried_again_before_its_launcher_is_told() {
    with_hub(nowhere(), |hub| async move {
        let mut run = hub.run(request("a")).await.unwrap();
        hub.kept.failures.store(1, Relaxed);
        hub.report(WorkloadState::Ended, Some(0)).await;
        assert_eq!(run.state().await, "ended");
        let Event::Exit(exit) = run.next().await else { panic!("an exit") };
        assert_eq!(exit.code, Some(0));
        assert_eq!((hub.kept.failures.load(Relaxed), hub.kept.records.lock().len()), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_workload_that_cannot_be_taken_back_keeps_its_lease_where_its_launcher_goes_meanwhile() {
    with_hub(nowhere(), |hub| async move {
        for asks_for_the_end in [false, true] {
            let mut run = hub.run(request("a")).await.unwrap();
            hub.kept.failures.store(2, Relaxed);
            if asks_for_the_end {
                let stop = Message::Stop(v1::LauncherStop {});
                run.say.send(v1::LauncherMessage { body: Some(stop) }).await.unwrap();
                // What is heard later shows that this was heard.
                let (kept, asked) = tokio::join!(hub.launchers.keep(SERVICE, Ok(Vec::new())), async {
                    let Event::Captured(captured) = run.next().await else { panic!("what was captured") };
                    run.answer(captured.id, Code::Ok, "").await;
                });
                let ((), ()) = (kept.unwrap(), asked);
            } else {
                hub.report(WorkloadState::Ended, Some(0)).await;
                assert_eq!(run.state().await, "ended");
                hub.kept.is_tried.cancelled().await;
            }
            drop(run);
            let mut views = hub.workloads.views();
            views.wait_for(|view| view.records.is_empty()).await.unwrap();
            assert_eq!(hub.kept.failures.load(Relaxed), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn the_next_hub_takes_back_what_is_left_and_tries_until_it_has() {
    let kept = Arc::new(Kept::default());
    let lease = r#"{"source": {"type": "testing", "path": "/bin/b"}, "lease": {"launcher": "a", "secs": 1}}"#;
    let record = WorkloadRecord {
        service: SERVICE,
        generation: 3,
        document: lease.to_owned(),
        nodes: BTreeSet::new(),
        node: None,
        keystore: None,
        changed_at: SystemTime::now().into(),
        version: 1,
        slot: 0,
    };
    kept.records.lock().insert(SERVICE, record);
    kept.failures.store(1, Relaxed);
    with_kept(kept, nowhere(), |hub| async move {
        let mut views = hub.workloads.views();
        views.wait_for(|view| view.records.is_empty()).await.unwrap();
        assert_eq!(*hub.kept.removed.lock(), ["its launcher is gone"]);
    })
    .await;
}

#[tokio::test]
async fn a_launcher_that_comes_back_while_its_workload_is_forgotten_starts_it_anew() {
    with_hub(nowhere(), |hub| async move {
        let mut run = hub.run(request("a")).await.unwrap();
        let first = hub.kept.records.lock()[&SERVICE].changed_at;
        let gate = CancellationToken::new();
        *hub.kept.gate.lock() = Some(gate.clone());
        hub.report(WorkloadState::Ended, Some(0)).await;
        assert_eq!(run.state().await, "ended");
        hub.kept.is_tried.cancelled().await;
        // It asks while the removal is under way, and before it is done.
        let asks = hub.run(request("a"));
        tokio::pin!(asks);
        let early = timeout(Duration::from_millis(200), asks.as_mut()).await;
        gate.cancel();
        let again = match early {
            Ok(again) => again,
            Err(_) => asks.await,
        };
        let _again = again.unwrap();
        let records = hub.kept.records.lock();
        assert!(records[&SERVICE].changed_at > first, "what is forgotten is stored again");
    })
    .await;
}

#[tokio::test]
async fn a_launcher_whose_wish_is_not_stored_leaves_the_lease_that_is() {
    with_hub(nowhere(), |hub| async move {
        let run = hub.run(request("a")).await.unwrap();
        hub.kept.failures.store(1, Relaxed);
        let wish = v1::LauncherStart { take_over: true, ..request("b") };
        assert_eq!(hub.run(wish).await.err().unwrap().code(), Code::Unavailable);
        drop(run);
        let mut views = hub.workloads.views();
        views.wait_for(|view| view.records.is_empty()).await.unwrap();
        assert_eq!(*hub.kept.removed.lock(), ["its launcher is gone"]);
    })
    .await;
}

#[tokio::test]
async fn the_same_launcher_goes_on_another_one_starts_anew_and_one_that_stays_away_loses_it() {
    with_hub(nowhere(), |hub| async move {
        let generation = |hub: &Hub| hub.workloads.view().records[&SERVICE].generation;
        let run = hub.run(v1::LauncherStart { lease_secs: 60, ..request("a") }).await.unwrap();
        let first = generation(&hub);
        drop(run);
        let run = hub.run(v1::LauncherStart { lease_secs: 60, ..request("a") }).await.unwrap();
        assert_eq!(generation(&hub), first, "it came back and goes on");
        let refused = hub.run(request("b")).await.err().unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        let second = hub.run(v1::LauncherStart { take_over: true, ..request("b") }).await.unwrap();
        assert!(
            generation(&hub) > first,
            "a new process of the Manager expects a new process of its blueprint"
        );
        let mut events = run.events;
        let ended = loop {
            match events.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("an end without a word"),
                Err(status) => break status,
            }
        };
        assert_eq!(ended.code(), Code::Aborted);
        let mut views = hub.workloads.views();
        drop(second);
        views.wait_for(|view| view.records.is_empty()).await.unwrap();
        assert_eq!(*hub.kept.removed.lock(), ["its launcher is gone"]);
    })
    .await;
}

#[tokio::test]
async fn what_an_operator_keeps_is_not_taken_over_by_accident_and_his_word_counts_at_once() {
    with_hub(nowhere(), |hub| async move {
        let change = |document: &str| WorkloadChange {
            service: SERVICE,
            document: document.to_owned(),
            nodes: BTreeSet::new(),
            keystore: None,
            replaces: None,
            by: None,
            summary: String::new(),
            now: SystemTime::now().into(),
        };
        let operators = r#"{"source": {"type": "testing", "path": "/bin/own"}}"#;
        hub.workloads.set(change(operators)).await.unwrap();
        let refused = hub.run(request("a")).await.err().unwrap();
        assert_eq!(refused.code(), Code::AlreadyExists);
        assert!(refused.message().contains("blueprint-hub workload rm"), "{refused}");
        let mut run = hub.run(v1::LauncherStart { take_over: true, ..request("a") }).await.unwrap();
        hub.workloads.set(change(operators)).await.unwrap();
        let Event::Exit(exit) = run.next().await else { panic!("an exit") };
        assert_eq!((exit.code, exit.reason.as_str()), (None, "the operator took it back"));
        assert_eq!(hub.workloads.view().records[&SERVICE].document, operators, "it is left alone");
        for bad in [
            v1::LauncherStart { document: "{}".to_owned(), ..request("a") },
            v1::LauncherStart { launcher: "a b".to_owned(), ..request("a") },
            v1::LauncherStart { lease_secs: 100_000, ..request("a") },
            v1::LauncherStart { envelope_key: vec![1], ..request("a") },
        ] {
            assert_eq!(hub.run(bad).await.err().unwrap().code(), Code::InvalidArgument);
        }
        let unknown = v1::LauncherStart { nodes: vec!["nobody".to_owned()], ..request("a") };
        assert_eq!(hub.run(unknown).await.err().unwrap().code(), Code::NotFound);
    })
    .await;
}

#[tokio::test]
async fn a_report_wakes_readers_only_with_news_and_copies_no_document() {
    with_hub(nowhere(), |hub| async move {
        let _run = hub.run(request("a")).await.unwrap();
        let (agent, none) = (session(1).agent, ServiceKey { blueprint: 9, service: 9 });
        let mut views = hub.workloads.views();
        let before = Arc::clone(&views.borrow_and_update());
        let status = hub.status(WorkloadState::Starting, None);
        hub.workloads.report(agent, vec![status.clone()]).await.unwrap();
        // An answer shows that what came before it was heard.
        assert!(!hub.workloads.remove(none).await.unwrap());
        let after = Arc::clone(&views.borrow_and_update());
        assert_eq!(after.statuses[&SERVICE], status);
        assert!(Arc::ptr_eq(&before.records[&SERVICE], &after.records[&SERVICE]));
        hub.workloads.report(agent, vec![status.clone()]).await.unwrap();
        assert!(!hub.workloads.remove(none).await.unwrap());
        assert!(!views.has_changed().unwrap(), "the same again is no news");
    })
    .await;
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_direction_ends_by_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all.reverse();
        stream.write_all(&all).await.unwrap();
    };
    let test = with_hub(address, |hub| async move {
        let (say, receiver) = mpsc::channel(8);
        let to = Some(v1::ForwardTo { blueprint_id: 7, service_id: 42 });
        say.send(v1::ForwardBytes { to, content: b"ab".to_vec() }).await.unwrap();
        hub.registrar.report(session(1), 1, targets()).await.unwrap();
        let mut answer =
            hub.client.clone().forward(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let large = vec![b'x'; 300_000];
        for piece in large.chunks(60_000) {
            say.send(v1::ForwardBytes { to: None, content: piece.to_vec() }).await.unwrap();
        }
        drop(say);
        let mut got = Vec::new();
        while let Some(piece) = answer.message().await.unwrap() {
            got.extend(piece.content);
        }
        assert_eq!(got.len(), large.len() + 2);
        assert!(got.ends_with(b"xba"));
    });
    tokio::join!(echo, test);
}
