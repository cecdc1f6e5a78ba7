//! One launcher that holds its workload, until either is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::ServiceKey;
use blueprint_common_types::workload::{WorkloadState, WorkloadStatus};
use blueprint_hub_registry_core::workload::{NoNode, WorkloadRecord, WorkloadsView};
use blueprint_hub_registry_core::{RegistrySnapshot, clean_line};
use blueprint_proto::v1;
use blueprint_proto::v1::launcher_event::Body as ToLauncher;
use blueprint_proto::v1::launcher_message::Body as FromLauncher;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tracing::{error, info};

use super::LauncherParts;
use super::start::Started;
use crate::launchers::{Ask, Attached, Relayed};
use crate::workloads::lease_of;
use crate::{RegistrarHandle, Stopping, status};

type Outbox = mpsc::Sender<Result<v1::LauncherEvent, Status>>;

/// Pause before a workload that could not be taken back is tried again.
const TAKE_BACK_AGAIN: Duration = Duration::from_secs(1);

/// Pause between two looks at the nodes.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How a session ends.
enum End {
    /// Before its workload.
    Early(Early),
    /// The workload is over.
    Over(Over),
}

/// What ends a session before its workload is over and taken back.
enum Early {
    /// The launcher is gone.
    Lost,
    /// Another connection holds the workload.
    Replaced,
    /// The hub stops.
    Stopping,
}

/// How a workload ended.
struct Over {
    /// Its last status; `None` where it did not run.
    status: Option<WorkloadStatus>,
    /// One line where there is no status.
    reason: &'static str,
    /// Whether the workload is this launcher's still.
    is_ours: bool,
}

/// See the module.
pub(super) struct Session {
    parts: LauncherParts,
    registrar: RegistrarHandle,
    service: ServiceKey,
    launcher: String,
    attached: Attached,
    view: watch::Receiver<Arc<WorkloadsView>>,
    inbound: Streaming<v1::LauncherMessage>,
    outbox: Outbox,
    drain: CancellationToken,
    /// Calls that wait for the Manager's answer.
    waiting: BTreeMap<u64, oneshot::Sender<Result<(), Status>>>,
    next_call: u64,
    told: Option<v1::LauncherState>,
    is_greeted: bool,
    /// The launcher asked for the end.
    ends: bool,
}

impl Session {
    pub(super) fn new(
        parts: LauncherParts,
        registrar: RegistrarHandle,
        started: Started,
        inbound: Streaming<v1::LauncherMessage>,
        outbox: Outbox,
        drain: CancellationToken,
    ) -> Self {
        let Started { service, launcher, attached } = started;
        Self {
            view: parts.workloads.views(),
            parts,
            registrar,
            service,
            launcher,
            attached,
            inbound,
            outbox,
            drain,
            waiting: BTreeMap::new(),
            next_call: 0,
            told: None,
            is_greeted: false,
            ends: false,
        }
    }

    /// Runs until the launcher or its workload is gone; says which, and gives up what it holds.
    pub(super) async fn run(mut self) {
        let early = match self.follow().await {
            End::Over(over) => match self.finish(over).await {
                Ok(()) => return,
                Err(early) => early,
            },
            End::Early(early) => early,
        };
        let (service, connection) = (self.service, self.attached.connection);
        match early {
            Early::Lost => {
                if self.ends {
                    let ended = self.parts.launchers.end(service, connection, "its launcher ended it").await;
                    if let Ok(Err(error)) = ended {
                        error!(%service, %error, "the workload of a launcher is not taken back; tried again after its grace");
                    }
                }
                // Nothing where it is taken back.
                self.parts.launchers.detach(service, connection).await;
            }
            Early::Replaced => {
                let taken = Status::aborted("another launcher took this service over");
                let _ = self.outbox.send(Err(taken)).await;
            }
            // Its launcher comes back to the next hub.
            Early::Stopping => {
                let _ = self.outbox.send(Err(status::stopping())).await;
            }
        }
    }

    async fn follow(&mut self) -> End {
        loop {
            let view = Arc::clone(&self.view.borrow_and_update());
            if let Some(end) = self.look(&view).await {
                return end;
            }
            tokio::select! {
                biased;
                () = self.drain.cancelled() => return End::Early(Early::Stopping),
                () = self.attached.replaced.cancelled() => return End::Early(Early::Replaced),
                () = self.outbox.closed() => return End::Early(Early::Lost),
                message = self.inbound.message() => match message {
                    Ok(Some(message)) => self.hear(message).await,
                    Ok(None) | Err(_) => return End::Early(Early::Lost),
                },
                Some(relayed) = self.attached.calls.recv() => {
                    if let Err(early) = self.relay(relayed).await {
                        return End::Early(early);
                    }
                }
                // Nodes that come and go are no news of workloads.
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                changed = self.view.changed() => if changed.is_err() { return End::Early(Early::Stopping) },
            }
        }
    }

    /// Tells what is new of the workload; its end where it is over.
    async fn look(&mut self, view: &WorkloadsView) -> Option<End> {
        let over = |status, reason, is_ours| Some(End::Over(Over { status, reason, is_ours }));
        let record = view.records.get(&self.service);
        let lease = record.and_then(|record| lease_of(record));
        let Some(record) = record.filter(|_| lease.is_some_and(|lease| lease.launcher == self.launcher))
        else {
            return over(None, "the operator took it back", false);
        };
        if record.node.is_none() && self.ends {
            return over(None, "it had no node yet when its end was asked for", true);
        }
        let status = view.statuses.get(&self.service);
        let has_ended =
            status.is_some_and(|it| matches!(it.state, WorkloadState::Ended | WorkloadState::Failed));
        // A node that is away says nothing, whatever it said last; but an end is an end.
        let standing = standing(record, view, &self.registrar.snapshot()).filter(|_| !has_ended);
        if let Some(standing) = standing {
            return self.tell(standing, record).await.err().map(End::Early);
        }
        let status = status?;
        if let Err(early) = self.tell(wire(status), record).await {
            return Some(End::Early(early));
        }
        match status.state {
            WorkloadState::Running if !self.is_greeted => {
                self.is_greeted = true;
                self.say(ToLauncher::Greeted(v1::LauncherGreeted {})).await.err().map(End::Early)
            }
            WorkloadState::Ended | WorkloadState::Failed => over(Some(status.clone()), "", true),
            WorkloadState::Pending
            | WorkloadState::Fetching
            | WorkloadState::Starting
            | WorkloadState::Running
            | WorkloadState::BackingOff
            | WorkloadState::Stopping => None,
        }
    }

    /// Tells how it is doing, where that is news.
    async fn tell(&mut self, status: v1::WorkloadStatus, record: &WorkloadRecord) -> Result<(), Early> {
        let state = v1::LauncherState { status: Some(status), node: node_of(record) };
        if self.told.as_ref() == Some(&state) {
            return Ok(());
        }
        self.told = Some(state.clone());
        self.say(ToLauncher::State(state)).await
    }

    async fn hear(&mut self, message: v1::LauncherMessage) {
        match message.body {
            Some(FromLauncher::Answer(answer)) => {
                let v1::LauncherAnswer { id, code, message } = answer;
                // Whoever asked may have given up.
                let Some(reply) = self.waiting.remove(&id) else { return };
                let message = clean_line(&message);
                let code = Code::from_i32(code);
                let answer = if code == Code::Ok { Ok(()) } else { Err(Status::new(code, message)) };
                let _ = reply.send(answer);
            }
            Some(FromLauncher::Stop(_)) => {
                info!(service = %self.service, "launcher asks for the end");
                self.ends = true;
                // A task that is gone means that the hub stops, which is seen elsewhere.
                let _ = self.parts.workloads.end(self.service).await;
            }
            // A second start or the word of a newer launcher: it changes nothing.
            Some(FromLauncher::Start(_)) | None => {}
        }
    }

    async fn relay(&mut self, relayed: Relayed) -> Result<(), Early> {
        self.waiting.retain(|_, reply| !reply.is_closed());
        self.next_call = self.next_call.saturating_add(1);
        let id = self.next_call;
        let ServiceKey { blueprint, service } = self.service;
        self.waiting.insert(id, relayed.reply);
        let asked = match relayed.ask {
            Ask::Call(call) => {
                let (blueprint_id, service_id, call) = (blueprint, service, Some(*call));
                let request = Some(v1::BridgeRequest { blueprint_id, service_id, call, strangers: 0 });
                ToLauncher::Call(v1::LauncherCall { id, request })
            }
            Ask::Keep(Ok(content)) => {
                ToLauncher::Captured(v1::LauncherCaptured { id, content, failure: String::new() })
            }
            Ask::Keep(Err(failure)) => {
                ToLauncher::Captured(v1::LauncherCaptured { id, content: Vec::new(), failure })
            }
        };
        self.say(asked).await
    }

    /// Tells the launcher, if it is there.
    async fn say(&self, body: ToLauncher) -> Result<(), Early> {
        let sent = self.outbox.send(Ok(v1::LauncherEvent { body: Some(body) })).await;
        sent.map_err(|_| Early::Lost)
    }

    /// Forgets the workload, and only then tells how it ended.
    async fn finish(&self, over: Over) -> Result<(), Early> {
        let Over { status, reason, is_ours } = over;
        if is_ours {
            self.take_back("it ended").await?;
        } else {
            self.parts.launchers.forget(self.service, self.attached.connection).await;
        }
        let told = status.as_ref().map_or_else(|| reason.to_owned(), |status| status.reason.clone());
        let exit = v1::LauncherExit { code: status.and_then(|status| status.exit_code), reason: told };
        // A launcher that is gone meanwhile needs no word.
        let _ = self.say(ToLauncher::Exit(exit)).await;
        Ok(())
    }

    /// Tries until the hub has forgotten the workload. Where something else comes first, its lease goes on: it is taken
    /// back once its launcher is away for its grace, by this hub or the next.
    async fn take_back(&self, why: &'static str) -> Result<(), Early> {
        loop {
            match self.parts.launchers.end(self.service, self.attached.connection, why).await {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) => return Err(Early::Replaced),
                Ok(Err(error)) => {
                    error!(service = %self.service, %error, "the workload of a launcher is not taken back; tried again");
                }
                Err(Stopping) => return Err(Early::Stopping),
            }
            tokio::select! {
                biased;
                () = self.drain.cancelled() => return Err(Early::Stopping),
                () = self.attached.replaced.cancelled() => return Err(Early::Replaced),
                () = self.outbox.closed() => return Err(Early::Lost),
                () = tokio::time::sleep(TAKE_BACK_AGAIN) => {}
            }
        }
    }
}

fn node_of(record: &WorkloadRecord) -> String {
    record.node.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// What the hub itself says of a workload that has no node, or one that is not connected; `None` where its node says it.
fn standing(
    record: &WorkloadRecord,
    view: &WorkloadsView,
    snapshot: &RegistrySnapshot,
) -> Option<v1::WorkloadStatus> {
    let node = record.node.and_then(|node| snapshot.agents.get(&node));
    // It looks at all nodes and workloads: only where it is asked for.
    let why = || NoNode::of(record, view, snapshot).map(|why| why.to_string());
    let (state, reason) = match (record.node, node) {
        (None, _) => ("unplaced", why()?),
        (Some(_), Some(node)) if node.connected => return None,
        (Some(_), _) => {
            let here = "its node is not connected".to_owned();
            ("unknown", why().map_or(here.clone(), |why| format!("{here}, and {why}")))
        }
    };
    Some(v1::WorkloadStatus {
        blueprint_id: record.service.blueprint,
        service_id: record.service.service,
        generation: record.generation,
        state: state.to_owned(),
        reason,
        since_millis: record.changed_at.as_millis(),
        ..v1::WorkloadStatus::default()
    })
}

fn wire(status: &WorkloadStatus) -> v1::WorkloadStatus {
    v1::WorkloadStatus {
        blueprint_id: status.service.blueprint,
        service_id: status.service.service,
        generation: status.generation,
        state: status.state.label().to_owned(),
        reason: status.reason.clone(),
        restarts: status.restarts,
        pid: status.pid,
        since_millis: status.since.as_millis(),
        exit_code: status.exit_code,
        ..v1::WorkloadStatus::default()
    }
}
