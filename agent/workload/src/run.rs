//! One workload, from its assignment to its end.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use blueprint_agent_workload_core::storage::OverStorage;
use blueprint_agent_workload_core::{Done, Life, PrepareFailed, Step, label};
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::workload::{
    Bundle, MAX_STEPS, RecoveryStep, Seat, Source, SourceError, WorkloadSpec, WorkloadState, WorkloadStatus,
};
use blueprint_common_types::{Health, Timestamp};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::artefact::{Artefacts, NativeArtefact};
use crate::beside::{Besides, Listed};
use crate::bridge::{BridgeConfig, Serving, serve};
use crate::cgroup::{Cgroup, Cgroups};
use crate::container::{Engine, EngineError};
use crate::folders::Folders;
use crate::instance::{Instance, Program, Start, contain, failed};
use crate::keeper::Errand;
use crate::logs::{self, LogErrand};
use crate::process::Process;
use crate::pushed::Wants;
use crate::rpc::{self, Rpc};
use crate::storage::{self, Holder, StorageWatch};
use crate::sweep::Claims;
use crate::users::{UserRun, Users};
use crate::{
    DescribeError, Described, Healths, HubPort, WorkloadConfig, keystore, left, native, registration,
};

/// Pause before a hub that could not be asked is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long the end of a workload waits for an engine that does not remove its container. Then the keeper of the
/// container and the sweep go on.
const REMOVE_WITHIN: Duration = Duration::from_secs(60);

/// Pause before an engine is asked again to remove a container.
const REMOVE_AGAIN: Duration = Duration::from_millis(500);

/// What all workloads of a node share.
pub(crate) struct Common {
    pub(crate) config: WorkloadConfig,
    pub(crate) hub: Arc<dyn HubPort>,
    pub(crate) cgroups: Option<Cgroups>,
    pub(crate) artefacts: Artefacts,
    pub(crate) wants: Arc<Wants>,
    pub(crate) engine: Engine,
    /// Users of workloads; `None` where the agent is an ordinary user.
    pub(crate) users: Option<Users>,
    /// Containers that workloads look after.
    pub(crate) claims: Claims,
    /// Workloads that run, for commands beside them.
    pub(crate) besides: Besides,
    pub(crate) spawner: Spawner,
}

/// Where a workload tells how it is doing.
pub(crate) type Tell = Box<dyn Fn(WorkloadStatus) + Send + Sync>;

/// One workload.
pub(crate) struct Workload {
    pub(crate) common: Arc<Common>,
    pub(crate) seat: Seat,
    pub(crate) generation: u64,
    /// Cancelled once it is not wanted any more.
    pub(crate) stop: CancellationToken,
    /// Cancelled once it is to end, and by `stop`; how it ended is told until `stop`.
    pub(crate) finish: CancellationToken,
    pub(crate) tell: Tell,
    /// How often its task fell over before; each is a restart.
    pub(crate) falls: u32,
}

/// What was started, and goes with it.
struct Running {
    instance: Instance,
    bridge: Option<Serving>,
    storage: StorageWatch,
    /// That a container runs as a user of workloads; a process holds that itself.
    _user_run: Option<UserRun>,
    _listed: Listed,
}

/// What happened while it was waited.
enum Event {
    Stop,
    Exit(blueprint_agent_workload_core::Exit),
    Health(Option<(Health, String)>),
    Greeted,
    Over(OverStorage),
    Due,
}

/// Waits until the checks of an instance find something else.
async fn changed(
    healths: &mut watch::Receiver<Arc<Healths>>,
    seat: Seat,
    known: &Option<(Health, String)>,
) -> Option<(Health, String)> {
    loop {
        if healths.changed().await.is_err() {
            return pending().await;
        }
        let found = healths.borrow_and_update().get(&seat).cloned();
        if found != *known {
            return found;
        }
    }
}

/// Waits for a time; for ever where there is none.
async fn due(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until.into()).await,
        None => pending().await,
    }
}

impl Workload {
    /// Runs it until it is not wanted any more, or ends for good; then nothing of it is left but its data.
    pub(crate) async fn run(self) {
        self.say(WorkloadState::Pending, String::new());
        let Some(described) = self.describe().await else { return };
        let mut run = Run::new(&self, described);
        run.go().await;
        run.clean().await;
    }

    /// Asks the hub until it answers; `None` where the workload is not wanted meanwhile, or cannot be run here.
    async fn describe(&self) -> Option<Described> {
        loop {
            let asked = self.common.hub.describe(self.seat.service, self.generation);
            match self.stop.run_until_cancelled(asked).await? {
                Ok(described) => return Some(described),
                // The newer assignment cancels this one; until it comes there is nothing to do.
                Err(DescribeError::Changed) => {}
                Err(error @ DescribeError::Unreadable(_)) => {
                    self.say(WorkloadState::Failed, error.to_string());
                    self.stop.cancelled().await;
                    return None;
                }
                Err(error @ DescribeError::Away(_)) => {
                    self.say(WorkloadState::Pending, error.to_string());
                }
            }
            self.stop.run_until_cancelled(tokio::time::sleep(ASK_AGAIN)).await?;
        }
    }

    /// Tells of one that has not been started yet.
    fn say(&self, state: WorkloadState, reason: String) {
        (self.tell)(WorkloadStatus { reason, restarts: self.falls, ..self.status(state) });
    }

    /// A state since now.
    fn status(&self, state: WorkloadState) -> WorkloadStatus {
        WorkloadStatus::new(self.seat.service, self.generation, state, SystemTime::now().into())
    }
}

/// A workload whose document is known.
struct Run<'a> {
    workload: &'a Workload,
    spec: WorkloadSpec,
    bundle: Bundle,
    folders: Folders,
    life: Life,
    program: Option<Program>,
    running: Option<Running>,
    /// Ports for RPC URLs of loopback; they stay over restarts.
    rpc: Option<Rpc>,
    told: Option<WorkloadStatus>,
    /// What the checks of its port find, and what they found last.
    healths: watch::Receiver<Arc<Healths>>,
    health: Option<(Health, String)>,
    /// What was done to make it well, the newest.
    steps: VecDeque<RecoveryStep>,
}

impl<'a> Run<'a> {
    fn new(workload: &'a Workload, described: Described) -> Self {
        let Described { spec, bundle } = described;
        let config = &workload.common.config;
        let folders = Folders::of(&config.state, &config.runtime, workload.seat, &spec.name);
        let life = Life::new(&spec);
        Self {
            workload,
            spec,
            bundle,
            folders,
            life,
            program: None,
            running: None,
            rpc: None,
            told: None,
            healths: workload.common.hub.healths(),
            health: None,
            steps: VecDeque::new(),
        }
    }

    async fn go(&mut self) {
        loop {
            let step = self.life.next_step(Instant::now());
            self.tell();
            match step {
                Step::Prepare => self.prepare_now(false).await,
                Step::Redeploy => {
                    info!(service = %self.workload.seat.service, "workload is deployed anew");
                    // Held no longer, so that it can be fetched again.
                    self.program = None;
                    keystore::remove(&self.folders);
                    self.folders.remove_runtime();
                    self.prepare_now(true).await;
                }
                Step::Start => match self.start().await {
                    Ok(running) => self.running = Some(running),
                    Err(failed) => {
                        warn!(service = %self.workload.seat.service, reason = failed.reason, "workload not started");
                        self.life.handle_not_started(failed, Instant::now());
                    }
                },
                Step::Terminate => {
                    if let Some(running) = &self.running {
                        running.instance.terminate().await;
                    }
                }
                Step::Kill => {
                    if let Some(running) = &self.running {
                        running.instance.kill().await;
                    }
                }
                Step::Wait(until) => self.wait(until).await,
                Step::Done if self.workload.stop.is_cancelled() => return,
                // It ended by itself: it is told until it is taken back.
                Step::Done => self.remove_traces().await,
            }
            if self.workload.finish.is_cancelled() {
                self.life.handle_stop(Instant::now());
                if self.running.is_none() && self.workload.stop.is_cancelled() {
                    self.tell();
                    return;
                }
            }
        }
    }

    async fn prepare_now(&mut self, is_anew: bool) {
        let prepared = match self.workload.finish.run_until_cancelled(self.prepare(is_anew)).await {
            Some(prepared) => prepared,
            None => Err(PrepareFailed { reason: String::new(), may_pass: true }),
        };
        let now = Instant::now();
        match prepared {
            Ok(program) => {
                self.program = Some(program);
                self.life.handle_prepared(Ok(()), now);
            }
            Err(failed) => {
                warn!(service = %self.workload.seat.service, reason = failed.reason, "workload not prepared");
                self.life.handle_prepared(Err(failed), now);
            }
        }
    }

    /// Fetches and checks its program; `is_anew` also where it is in the cache.
    async fn prepare(&self, is_anew: bool) -> Result<Program, PrepareFailed> {
        native::check_machine(&self.spec)?;
        let common = &self.workload.common;
        match &self.spec.source {
            Source::Testing { path } => native::testing(path, common.config.testing).map(Program::Testing),
            source @ Source::Native { url, .. } => {
                let Some(artefact) = NativeArtefact::of(source) else {
                    return Err(PrepareFailed { reason: format!("{url} is no artefact"), may_pass: false });
                };
                let (service, generation) = (self.workload.seat.service, self.workload.generation);
                let _want = source.pushed().map(|sha256| common.wants.want(*sha256, service, generation));
                let got = if is_anew {
                    common.artefacts.get_anew(&artefact, |_| {}).await
                } else {
                    common.artefacts.get(&artefact, |_| {}).await
                };
                got.map(Program::Native).map_err(|error| PrepareFailed::from(&error))
            }
            Source::Container { image, digest, .. } => {
                let pulled = if is_anew {
                    common.engine.pull_anew(image, digest).await
                } else {
                    common.engine.pull(image, digest, None, |_| {}).await
                };
                pulled.map(|()| Program::Image).map_err(|error| failed(&error))
            }
            Source::Wasm {} => Err(PrepareFailed { reason: SourceError::Wasm.to_string(), may_pass: false }),
        }
    }

    async fn start(&mut self) -> Result<Running, PrepareFailed> {
        if self.rpc.is_none() {
            self.rpc = Some(self.open_rpc().await?);
        }
        let Some(rpc) = &self.rpc else {
            return Err(PrepareFailed { reason: "it has no RPC".to_owned(), may_pass: true });
        };
        let common = &self.workload.common;
        let seat = self.workload.seat;
        let (service, generation) = (seat.service, self.workload.generation);
        let broken = |what: &str, error: &dyn std::fmt::Display| PrepareFailed {
            reason: format!("{what}: {error}"),
            may_pass: true,
        };
        let users = common.users.as_ref().filter(|_| self.spec.sandbox.own_user);
        let user = self.folders.create(users);
        let user = user.map_err(|error| broken("its folders cannot be made", &error))?;
        let storage_limit = self.spec.limits.storage_bytes;
        let held = storage::check(&self.folders.data, storage_limit);
        // Where its end is asked for meanwhile, nothing is started.
        let held = self.workload.finish.run_until_cancelled(held).await.unwrap_or(Err(String::new()));
        let held = held.map_err(|reason| PrepareFailed { reason, may_pass: true })?;
        keystore::write(&self.folders, &self.bundle, user)?;
        let mut user_run = users.zip(user).map(|(users, (user, _))| users.run(user));
        if self.spec.registration {
            let cleared = registration::clear(&self.folders);
            cleared.map_err(|error| broken("earlier registration inputs cannot be removed", &error))?;
        }
        let secret = self.bundle.envelope_key.as_ref().map(|key| {
            let digits: String = key.expose().iter().map(|byte| format!("{byte:02x}")).collect();
            ("TLS_ENVELOPE_KEY".to_owned(), digits)
        });
        let bridge = if self.spec.test_mode {
            None
        } else {
            let check = (self.spec.health.check.clone(), self.spec.health.pace);
            let socket = self.folders.socket.clone();
            let config = BridgeConfig { seat, generation, socket, user, check };
            let served = serve(config, Arc::clone(&common.hub), &common.spawner);
            Some(served.map_err(|error| broken("its bridge cannot listen", &error))?)
        };
        let (spec, folders) = (&self.spec, &self.folders);
        let start = Start { seat, spec, folders, secret_env: secret, user, rpc };
        let limits = common.config.logs;
        if !folders.logs.exists() {
            let state = common.config.state.clone();
            // Whether there is room is another question than whether it starts.
            let _ = spawn_blocking(move || logs::prune(&state)).await;
        }
        let log = LogErrand::new(folders.logs.clone(), limits, generation, spec, &self.bundle);
        let mut native = None;
        let instance = match self.program.as_ref().map(Program::path) {
            None => return Err(PrepareFailed { reason: "it was not prepared".to_owned(), may_pass: true }),
            Some(None) => contain(common, start, log).await?,
            Some(Some(program)) => {
                let group = self.group(label(seat)).await?;
                let launch = native::launch(start, program, group.as_ref());
                let errand = Errand { launch, grace_secs: self.spec.stop_grace_secs.into(), log };
                let process =
                    Process::start(&common.config.agent, &errand, (group, user_run.take()), &common.spawner)
                        .await?;
                left::note(&self.folders.runtime, process.traces());
                native = Some((errand.launch, process.pid()));
                Instance::Process(Box::new(process))
            }
        };
        if let Some(bridge) = &bridge {
            bridge.reached_at(instance.reach());
        }
        info!(%service, pid = instance.pid(), "workload started");
        let holder = match user {
            Some((user, _)) => Holder::User(user),
            None => instance.holder(),
        };
        let data = self.folders.data.clone();
        let storage = StorageWatch::start(data, holder, storage_limit, held, &common.spawner);
        let listed = common.besides.list((service, generation), native, &self.spec, &self.bundle);
        Ok(Running { instance, bridge, storage, _user_run: user_run, _listed: listed })
    }

    /// Listens for what the workload has to reach on the operator's machine.
    async fn open_rpc(&self) -> Result<Rpc, PrepareFailed> {
        let chain = &self.spec.chain;
        if !Rpc::is_needed(chain) {
            return Ok(Rpc::default());
        }
        let common = &self.workload.common;
        let ip = match &self.spec.source {
            Source::Native { .. } | Source::Testing { .. } | Source::Wasm {} => rpc::LOOPBACK,
            Source::Container { .. } => {
                let gateway = common.engine.gateway().await.map_err(|error| failed(&error))?;
                gateway.ok_or_else(|| PrepareFailed {
                    reason: "its RPC URL is on the hub's loopback, and this node's container engine has no address \
                             that containers reach; use Docker, or an RPC URL that the container reaches itself"
                        .to_owned(),
                    may_pass: false,
                })?
            }
        };
        let asker = (self.workload.seat.service, self.workload.generation);
        let opened = Rpc::open(&common.hub, asker, chain, ip, &common.spawner).await;
        opened.map_err(|error| PrepareFailed {
            reason: format!("no port of this node for its RPC: {error}"),
            may_pass: true,
        })
    }

    async fn group(&self, label: String) -> Result<Option<Cgroup>, PrepareFailed> {
        let Some(cgroups) = self.workload.common.cgroups.clone() else { return Ok(None) };
        let limits = self.spec.limits;
        let failed = |reason: String| PrepareFailed { reason, may_pass: true };
        let made = spawn_blocking(move || cgroups.create(&label, &limits)).await;
        let group = made.map_err(|error| failed(error.to_string()))?;
        group.map(Some).map_err(|error| failed(error.to_string()))
    }

    async fn wait(&mut self, until: Option<Instant>) {
        let is_starting = self.life.state() == WorkloadState::Starting;
        let (instance, bridge, storage) = match &mut self.running {
            Some(Running { instance, bridge, storage, .. }) => {
                (Some(instance), bridge.as_ref(), Some(storage))
            }
            None => (None, None, None),
        };
        let greeted = bridge.map(Serving::greeted);
        let greeted = async {
            match greeted.filter(|_| is_starting) {
                Some(greeted) => greeted.await,
                None => pending().await,
            }
        };
        let Workload { stop, finish, seat, .. } = self.workload;
        let asked = if finish.is_cancelled() { stop } else { finish };
        let health = changed(&mut self.healths, *seat, &self.health);
        let exit = async {
            match instance {
                Some(instance) => instance.wait().await,
                None => pending().await,
            }
        };
        let over = async {
            match storage {
                Some(storage) => storage.over().await,
                None => pending().await,
            }
        };
        let event = tokio::select! {
            biased;
            exit = exit => Event::Exit(exit),
            () = greeted => Event::Greeted,
            health = health => Event::Health(health),
            () = asked.cancelled(), if !asked.is_cancelled() => Event::Stop,
            over = over => Event::Over(over),
            () = due(until) => Event::Due,
        };
        let now = Instant::now();
        match event {
            Event::Exit(exit) => {
                let mut ended = self.running.take().map(|running| running.instance);
                let last = ended.as_ref().and_then(Instance::last_line);
                if let Some(instance) = &mut ended
                    && let Err(error) = instance.remove().await
                {
                    warn!(service = %self.workload.seat.service, %error, "its container is not removed yet");
                } else {
                    ended = None;
                }
                info!(service = %self.workload.seat.service, %exit, last, "workload ended");
                if self.spec.registration && self.spec.lease.is_some() && exit.is_success() {
                    let Workload { common, seat, generation, .. } = self.workload;
                    let hub = common.hub.as_ref();
                    registration::hand_over(hub, seat.service, *generation, &self.folders, stop).await;
                }
                self.life.handle_hub(self.workload.common.hub.is_away());
                self.life.handle_exit(exit, last.as_deref(), now);
                if let Some(instance) = ended {
                    self.remove(instance).await;
                }
            }
            Event::Greeted => self.life.handle_ready(now),
            Event::Health(found) => {
                let told = found.as_ref().map(|(health, reason)| (*health, reason.as_str()));
                self.life.handle_health(told, now);
                self.health = found;
            }
            Event::Over(over) => {
                warn!(service = %self.workload.seat.service, %over, "workload ended");
                self.life.handle_over_storage(over.to_string(), now);
            }
            Event::Stop => self.life.handle_stop(now),
            Event::Due => {}
        }
    }

    /// Removes the container of a workload that ended for good, before that is told. One that is started again makes
    /// room for itself.
    async fn remove(&self, mut instance: Instance) {
        if !self.life.is_over() {
            return;
        }
        let tell = |error: &EngineError| {
            let reason = format!("its container is not removed: {error}");
            let restarts = self.life.restarts().saturating_add(self.workload.falls);
            let status = self.workload.status(WorkloadState::Stopping);
            (self.workload.tell)(WorkloadStatus { reason, restarts, ..status });
        };
        if let Err(error) = instance.remove_within(REMOVE_WITHIN, REMOVE_AGAIN, tell).await {
            warn!(service = %self.workload.seat.service, %error, "its container is left to its keeper and the sweep");
        }
    }

    /// Tells where it stands, where that is news.
    fn tell(&mut self) {
        self.note_steps();
        let status = self.workload.status(self.life.state());
        let earlier = self.told.as_ref().filter(|told| told.state == status.state);
        let now = WorkloadStatus {
            reason: self.life.reason().to_owned(),
            restarts: self.life.restarts().saturating_add(self.workload.falls),
            pid: self.running.as_ref().and_then(|running| running.instance.pid()),
            exit_code: self.life.exit_code(),
            since: earlier.map_or(status.since, |told| told.since),
            health: self.life.health(),
            health_reason: self.life.health_reason().to_owned(),
            asks_move: self.life.asks_move(),
            steps: self.steps.iter().cloned().collect(),
            ..status
        };
        if self.told.as_ref() != Some(&now) {
            (self.workload.tell)(now.clone());
            self.told = Some(now);
        }
    }

    /// Gives what was done to make it well its time, each a later one than the last: that tells steps apart.
    fn note_steps(&mut self) {
        for Done { kind, reason } in self.life.take_done() {
            info!(service = %self.workload.seat.service, step = kind.label(), reason, "step of recovery");
            let now = Timestamp::from(SystemTime::now());
            let after = self.steps.back().map(|last| last.at.plus(Duration::from_millis(1)));
            self.steps.push_back(RecoveryStep {
                at: after.map_or(now, |after| after.max(now)),
                kind,
                reason,
            });
            while self.steps.len() > MAX_STEPS {
                self.steps.pop_front();
            }
        }
    }

    /// Leaves nothing but its data: not a process, not a key, not a socket.
    async fn remove_traces(&self) {
        if let Some(cgroups) = &self.workload.common.cgroups {
            let group = cgroups.at(&label(self.workload.seat));
            // It is over at the end of the process, too.
            let _ = spawn_blocking(move || group.remove()).await;
        }
        keystore::remove(&self.folders);
        self.folders.remove_runtime();
    }

    async fn clean(&mut self) {
        self.running = None;
        self.rpc = None;
        self.remove_traces().await;
    }
}
