//! The task that knows which launcher holds which workload: hands it what its blueprint asks for, and takes the workload
//! back where the launcher stays away.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::{Duration, Instant};

use blueprint_common_types::ServiceKey;
use blueprint_common_types::workload::Lease;
use blueprint_hub_registry_core::StoreResult;
use blueprint_hub_registry_core::workload::{Gone, LeaseHeld, Leases, WorkloadRecord};
use blueprint_proto::v1::bridge_request::Call;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{error, info, warn};

use crate::workloads::lease_of;
use crate::{Stopping, WorkloadsHandle, status};

/// Commands that wait at most.
const QUEUE: usize = 256;

/// Calls of one blueprint that wait for its launcher at most; more are refused.
const CALLS: usize = 64;

/// How long a Manager may take to answer; less than an agent waits for its hub.
const ANSWER_PATIENCE: Duration = Duration::from_secs(8);

/// Pause before a workload that could not be taken back is tried again, in seconds.
const TAKE_BACK_AGAIN_SECS: u32 = 1;

/// What a launcher is asked.
pub(crate) enum Ask {
    /// What the blueprint asked of its Manager.
    Call(Box<Call>),
    /// To keep what the blueprint captured for its registration.
    Keep(Inputs),
}

/// A question on its way to a launcher.
pub(crate) struct Relayed {
    pub(crate) ask: Ask,
    pub(crate) reply: oneshot::Sender<Result<(), Status>>,
}

/// What a blueprint captured for its registration, or why there is nothing.
pub(crate) type Inputs = Result<Vec<u8>, String>;

/// A launcher that holds a workload.
pub(crate) struct Attached {
    /// Number of its connection.
    pub(crate) connection: u64,
    /// What its blueprint asks for.
    pub(crate) calls: mpsc::Receiver<Relayed>,
    /// Cancelled once another connection holds the workload.
    pub(crate) replaced: CancellationToken,
}

enum Command {
    Attach { service: ServiceKey, lease: Lease, take_over: bool, reply: AttachReply },
    Detach(ServiceKey, u64),
    Forget(ServiceKey, u64),
    End(ServiceKey, u64, &'static str, oneshot::Sender<StoreResult<bool>>),
    Ask(ServiceKey, Relayed),
    MayRead(ServiceKey, String, oneshot::Sender<bool>),
}

type AttachReply = oneshot::Sender<Result<Attached, LeaseHeld>>;

/// Access to the task; cheap to clone.
#[derive(Clone)]
pub struct LaunchersHandle {
    commands: mpsc::Sender<Command>,
}

impl std::fmt::Debug for LaunchersHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LaunchersHandle")
    }
}

impl LaunchersHandle {
    pub(crate) async fn attach(
        &self,
        service: ServiceKey,
        lease: Lease,
        take_over: bool,
    ) -> Result<Result<Attached, LeaseHeld>, Stopping> {
        self.ask(|reply| Command::Attach { service, lease, take_over, reply }).await
    }

    /// The connection ended: the launcher has its grace to come back.
    pub(crate) async fn detach(&self, service: ServiceKey, connection: u64) {
        // A task that is gone forgets all leases anyway; the next hub takes them up from the store.
        let _ = self.commands.send(Command::Detach(service, connection)).await;
    }

    /// The connection has nothing to hold any more. A lease that is stored has its grace then, whoever made it.
    pub(crate) async fn forget(&self, service: ServiceKey, connection: u64) {
        let _ = self.commands.send(Command::Forget(service, connection)).await;
    }

    /// Takes the workload of the connection back, and lets go of it once that is stored; false where another connection
    /// holds it by now. Where the store fails the connection holds it still.
    pub(crate) async fn end(
        &self,
        service: ServiceKey,
        connection: u64,
        why: &'static str,
    ) -> Result<StoreResult<bool>, Stopping> {
        self.ask(|reply| Command::End(service, connection, why, reply)).await
    }

    /// Asks the Manager behind the launcher of a service; its status is the answer.
    pub(crate) async fn call(&self, service: ServiceKey, call: Call) -> Result<(), Status> {
        self.relay(service, Ask::Call(Box::new(call))).await
    }

    /// Gives the launcher of a service what its blueprint captured; done once the launcher says that it is kept.
    pub(crate) async fn keep(&self, service: ServiceKey, inputs: Inputs) -> Result<(), Status> {
        self.relay(service, Ask::Keep(inputs)).await
    }

    /// Whether what the workload wrote is the named launcher's to read.
    pub(crate) async fn may_read(&self, service: ServiceKey, launcher: String) -> Result<bool, Stopping> {
        self.ask(|reply| Command::MayRead(service, launcher, reply)).await
    }

    async fn relay(&self, service: ServiceKey, ask: Ask) -> Result<(), Status> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Ask(service, Relayed { ask, reply })).await;
        sent.map_err(|_| status::stopping())?;
        match timeout(ANSWER_PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(away()),
            Err(_) => Err(Status::unavailable("the Blueprint Manager did not answer in time; try again")),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopping> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }
}

fn away() -> Status {
    Status::unavailable("the launcher of this service is away; try again in a moment")
}

/// A launcher that is there.
struct Live {
    connection: u64,
    launcher: String,
    calls: mpsc::Sender<Relayed>,
    replaced: CancellationToken,
}

/// The task.
pub struct Launchers {
    leases: Leases,
    live: BTreeMap<ServiceKey, Live>,
    workloads: WorkloadsHandle,
    commands: mpsc::Receiver<Command>,
}

impl std::fmt::Debug for Launchers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launchers").field("leases", &self.leases).finish_non_exhaustive()
    }
}

impl Launchers {
    /// Takes up the leases of an earlier hub: each launcher has its grace to come back, from now on.
    #[must_use]
    pub fn new(workloads: WorkloadsHandle) -> (Self, LaunchersHandle) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let mut leases = Leases::default();
        let now = Instant::now();
        for record in workloads.view().records.values() {
            if let Some(lease) = lease_of(record) {
                leases.adopt(record.service, &lease, now);
            }
        }
        let task = Self { leases, live: BTreeMap::new(), workloads, commands };
        (task, LaunchersHandle { commands: sender })
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            self.leases.handle_timeout(Instant::now());
            while let Some(gone) = self.leases.poll_event() {
                self.take_back(gone).await;
            }
            let deadline = self.leases.poll_timeout();
            let due = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = due => {}
                command = self.commands.recv() => match command {
                    Some(command) => self.apply(command).await,
                    None => return,
                },
            }
        }
    }

    async fn take_back(&mut self, gone: Gone) {
        let Gone { service, launcher } = gone;
        match self.workloads.remove_leased(service, &launcher, "its launcher is gone").await {
            Ok(true) => warn!(target: "audit", %service, "workload taken back, its launcher is gone"),
            // An operator keeps it by now, or took it back.
            Ok(false) => {}
            Err(error) => {
                error!(%service, %error, "the workload of a launcher that is gone is not taken back; tried again");
                let lease = Lease { launcher, secs: TAKE_BACK_AGAIN_SECS };
                self.leases.adopt(service, &lease, Instant::now());
            }
        }
    }

    async fn apply(&mut self, command: Command) {
        match command {
            Command::Attach { service, lease, take_over, reply } => {
                let attached = self.attach(service, &lease, take_over);
                if let Err(Ok(attached)) = reply.send(attached) {
                    self.leases.detach(service, attached.connection, Instant::now());
                }
            }
            Command::Detach(service, connection) => {
                info!(%service, "launcher is away");
                self.leases.detach(service, connection, Instant::now());
                self.hang_up(service, connection);
            }
            Command::Forget(service, connection) => {
                self.hang_up(service, connection);
                if self.leases.forget(service, connection, Instant::now()) {
                    self.adopt(service);
                }
            }
            Command::End(service, connection, why, reply) => {
                let _ = reply.send(self.end(service, connection, why).await);
            }
            Command::MayRead(service, launcher, reply) => {
                let _ = reply.send(self.may_read(service, &launcher));
            }
            Command::Ask(service, relayed) => {
                // Its reply says by itself that nobody takes it, by being dropped.
                if let Some(live) = self.live.get(&service)
                    && let Err(mpsc::error::TrySendError::Full(relayed)) = live.calls.try_send(relayed)
                {
                    let full = Status::resource_exhausted("too many calls wait for the Blueprint Manager");
                    let _ = relayed.reply.send(Err(full));
                }
            }
        }
    }

    /// What somebody else runs by now is his to read.
    fn may_read(&self, service: ServiceKey, launcher: &str) -> bool {
        let view = self.workloads.view();
        let is_its = |record: &WorkloadRecord| lease_of(record).is_some_and(|it| it.launcher == launcher);
        view.records.get(&service).is_none_or(|record| is_its(record))
            && self.leases.may_read(service, launcher, Instant::now())
    }

    /// A stored lease that nobody holds has its grace, so that it is always somebody's or runs out.
    fn adopt(&mut self, service: ServiceKey) {
        if let Some(lease) = self.workloads.view().records.get(&service).and_then(|record| lease_of(record)) {
            self.leases.adopt(service, &lease, Instant::now());
        }
    }

    /// In turn with the connections that come: what a newer one holds is not taken from it.
    async fn end(&mut self, service: ServiceKey, connection: u64, why: &'static str) -> StoreResult<bool> {
        let live = self.live.get(&service).filter(|live| live.connection == connection);
        let Some(launcher) = live.map(|live| live.launcher.clone()) else { return Ok(false) };
        self.workloads.remove_leased(service, &launcher, why).await?;
        self.leases.forget(service, connection, Instant::now());
        self.hang_up(service, connection);
        Ok(true)
    }

    fn attach(&mut self, service: ServiceKey, lease: &Lease, take_over: bool) -> Result<Attached, LeaseHeld> {
        let connection = self.leases.attach(service, lease, take_over)?;
        let (sender, calls) = mpsc::channel(CALLS);
        let replaced = CancellationToken::new();
        let launcher = lease.launcher.clone();
        let live = Live { connection, launcher, calls: sender, replaced: replaced.clone() };
        if let Some(old) = self.live.insert(service, live) {
            old.replaced.cancel();
        }
        info!(%service, launcher = lease.launcher, "launcher is there");
        Ok(Attached { connection, calls, replaced })
    }

    /// Hands it no more calls; nothing where another connection holds the workload by now.
    fn hang_up(&mut self, service: ServiceKey, connection: u64) {
        if self.live.get(&service).is_some_and(|live| live.connection == connection) {
            self.live.remove(&service);
        }
    }
}
