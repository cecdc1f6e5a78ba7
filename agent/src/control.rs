//! The driver of the control stream: owns link, outbox and stream, and is the only one that touches them.
//!
//! - All targets go out at the start of every stream and at every change; a heartbeat and samples at the hub's pace.
//! - A renewed certificate replaces the stream: the new one is welcomed before the old one goes.
//! - What the data plane learns is used at once: an echo that comes back starts the next attempt.

mod message;

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_agent_workload::{NodeHandle, Statuses};
use blueprint_common_link_core::{Link, LinkConfig, LinkEnd, LinkEvent, LinkState, Outbox};
use blueprint_common_runtime::Chain;
use blueprint_common_types::fill_random;
use blueprint_proto::v1;
use blueprint_proto::v1::agent_message::Body as ToHub;
use blueprint_proto::v1::goodbye::Reason;
use blueprint_proto::v1::hub_message::Body as FromHub;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tonic::Status;
use tracing::{debug, info, warn};

use self::message::{end_text, targets};
use crate::agent::AgentError;
use crate::identity::{Identity, TunnelSettings};
use crate::join::{CallError, Refusal};
use crate::plane::{Kick, PathRequest};
use crate::session::{self, Opened, Session};
use crate::shared::{ControlState, HealthMap, Shared};
use crate::workloads::{assigned, report};

/// How long the hub may take to close its side of the last stream.
const FAREWELL: Duration = Duration::from_millis(300);

/// Longest time for a stream that replaces one that works.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(5);

type Opening = BoxFuture<'static, Result<Opened, CallError>>;

/// What the driver waits for.
enum Input {
    Stop,
    Finish,
    Drain,
    Due,
    Opened(Result<Box<Opened>, CallError>),
    Replaced(Result<Box<Opened>, CallError>),
    Hub(Result<Option<v1::HubMessage>, Status>),
    Targets,
    Identity,
    Kick(Kick),
    Report(v1::QosReport),
    Workloads,
}

/// See the module.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    link: Link,
    outbox: Outbox<ToHub>,
    process_id: u64,
    hub_seq: u64,
    session: Option<Session>,
    opening: Option<Opening>,
    replacing: Option<Opening>,
    /// The certificate of the last attempt.
    certificate: Vec<u8>,
    is_draining: bool,
    /// The targets as they were told last.
    targets: Option<v1::TargetSet>,
    health: watch::Receiver<Arc<HealthMap>>,
    identity: watch::Receiver<Arc<Identity>>,
    kicks: mpsc::Receiver<Kick>,
    reports: mpsc::Receiver<v1::QosReport>,
    workloads: Option<watch::Receiver<Arc<Statuses>>>,
}

impl Driver {
    /// Puts a driver together; nothing happens until [`Driver::run`].
    pub(crate) fn new(
        shared: Arc<Shared>,
        kicks: mpsc::Receiver<Kick>,
        reports: mpsc::Receiver<v1::QosReport>,
    ) -> Result<Self, std::io::Error> {
        let (mut process_id, mut seed) = ([0u8; 8], [0u8; 8]);
        fill_random(&mut process_id)?;
        fill_random(&mut seed)?;
        Ok(Self {
            link: Link::new(LinkConfig::new(u64::from_le_bytes(seed)), Instant::now()),
            outbox: Outbox::new(),
            process_id: u64::from_le_bytes(process_id),
            hub_seq: 0,
            session: None,
            opening: None,
            replacing: None,
            certificate: Vec::new(),
            is_draining: false,
            targets: None,
            health: shared.health.subscribe(),
            identity: shared.identity.subscribe(),
            kicks,
            reports,
            workloads: shared.node.get().map(NodeHandle::statuses),
            shared,
        })
    }

    /// Keeps the control stream until the agent ends or is removed.
    pub(crate) async fn run(mut self) -> Result<(), AgentError> {
        loop {
            self.link.handle_timeout(Instant::now());
            while let Some(event) = self.link.poll_event() {
                self.apply(event);
            }
            self.flush();
            self.publish();
            match self.next_input().await {
                Input::Stop => return Ok(()),
                Input::Finish => {
                    self.say_goodbye().await;
                    self.shared.control.send_modify(|control| control.is_finished = true);
                    self.shared.stop.cancelled().await;
                    return Ok(());
                }
                Input::Drain => self.drain(),
                Input::Due => {}
                Input::Opened(Ok(opened)) => self.welcome(*opened)?,
                Input::Opened(Err(error)) => self.failed(&error)?,
                Input::Replaced(Ok(opened)) => {
                    info!("control stream replaced with the renewed certificate");
                    self.welcome(*opened)?;
                }
                Input::Replaced(Err(error)) => self.not_replaced(&error),
                Input::Hub(message) => self.hear(message)?,
                Input::Targets => self.offer(false),
                Input::Identity => self.use_identity(),
                Input::Kick(kick) => self.kick(kick),
                Input::Report(report) => {
                    // A full outbox drops the oldest sample, or this one, and counts it.
                    let _ = self.outbox.push(ToHub::Qos(report), true);
                }
                Input::Workloads => self.report_workloads(),
            }
        }
    }

    async fn next_input(&mut self) -> Input {
        let due = async {
            match self.link.poll_timeout() {
                Some(at) => sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        let message = async {
            match &mut self.session {
                Some(session) => session.next().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.shared.stop.cancelled() => Input::Stop,
            () = self.shared.finished.cancelled() => Input::Finish,
            () = self.shared.process.drain.cancelled(), if !self.is_draining => Input::Drain,
            opened = opened(&mut self.opening) => Input::Opened(opened),
            replaced = opened(&mut self.replacing) => Input::Replaced(replaced),
            message = message => Input::Hub(message),
            Ok(()) = self.health.changed() => Input::Targets,
            Ok(()) = self.identity.changed() => Input::Identity,
            Some(kick) = self.kicks.recv() => Input::Kick(kick),
            Ok(()) = changed(&mut self.workloads) => Input::Workloads,
            Some(report) = self.reports.recv() => Input::Report(report),
            () = due => Input::Due,
        }
    }

    fn apply(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connect { attempt } => {
                debug!(attempt, "control stream connects");
                self.opening = Some(self.open());
            }
            LinkEvent::Heartbeat => {
                let heartbeat = ToHub::Heartbeat(v1::Heartbeat { hub_seq: self.hub_seq });
                let _ = self.outbox.push_latest(heartbeat, |old| matches!(old, ToHub::Heartbeat(_)));
            }
            LinkEvent::Disconnect(end) => {
                let was_up = self.session.take().is_some();
                *self.shared.caller.lock() = None;
                self.opening = None;
                self.replacing = None;
                if was_up {
                    info!(reason = end.label(), "control stream ended");
                }
                if was_up || end == LinkEnd::TimedOut {
                    let hub = self.shared.identity().hub.clone();
                    self.down(end_text(end, &hub.to_string()), None);
                }
            }
        }
    }

    fn open(&mut self) -> Opening {
        let hello = v1::Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            process_id: self.process_id,
            hub_seq: self.hub_seq,
        };
        let identity = self.shared.identity();
        self.certificate.clone_from(&identity.credential.certificate);
        Box::pin(session::open(identity, self.shared.config.proxy.clone(), hello))
    }

    /// A stream was welcomed: it takes the place of any other.
    fn welcome(&mut self, opened: Opened) -> Result<(), AgentError> {
        let Opened { session, settings, agent_seq, heartbeat } = opened;
        let now = Instant::now();
        let is_new = !matches!(self.link.state(), LinkState::Up { .. });
        if is_new {
            self.link.handle_welcome(heartbeat, now);
        } else {
            self.link.handle_message(now);
        }
        let reached = session.reached;
        // What is reached through a proxy is the proxy.
        let direct = self.shared.config.proxy.is_none().then_some(reached.ip());
        *self.shared.caller.lock() = Some(session.caller.clone());
        self.session = Some(session);
        self.opening = None;
        self.hub_seq = 0;
        if let Err(error) = self.outbox.resend_after(agent_seq) {
            warn!(%error, "hub and agent disagree on what was said; everything held is sent again");
        }
        self.shared.pace.send_if_modified(|pace| std::mem::replace(pace, heartbeat) != heartbeat);
        info!(hub = %reached, epoch = settings.epoch, "control stream up");
        self.shared.control.send_modify(|control| {
            if control.state != ControlState::Up || is_new {
                control.since = crate::join::now();
            }
            control.state = ControlState::Up;
            control.reason = None;
            control.hint = None;
        });
        self.configure(settings, direct)?;
        self.offer(true);
        self.report_workloads();
        Ok(())
    }

    /// An attempt failed.
    fn failed(&mut self, error: &CallError) -> Result<(), AgentError> {
        self.opening = None;
        debug!(error = %Chain(error), "control stream not opened");
        let end = match error.refusal() {
            Some(Refusal::Revoked | Refusal::Outdated) => return Err(self.revoked(error)),
            Some(Refusal::Expired) => LinkEnd::Expired,
            Some(_) | None => LinkEnd::Broken,
        };
        let hint = crate::hint::of_call(error);
        self.down(Chain(error).to_string(), hint);
        self.link.handle_end(end, Instant::now());
        Ok(())
    }

    /// The stream that stands goes on; at its certificate's end the hub closes it.
    fn not_replaced(&mut self, error: &CallError) {
        warn!(error = %Chain(error), "control stream not replaced");
        if self.session.is_none() {
            self.link.handle_end(LinkEnd::Broken, Instant::now());
        }
    }

    fn revoked(&mut self, error: &CallError) -> AgentError {
        self.link.handle_end(LinkEnd::Revoked, Instant::now());
        self.shared.revoke();
        AgentError::Revoked { why: error.to_string() }
    }

    fn hear(&mut self, message: Result<Option<v1::HubMessage>, Status>) -> Result<(), AgentError> {
        let now = Instant::now();
        let message = match message {
            Ok(Some(message)) => message,
            // The hub closes the old stream as soon as it has the new one.
            Ok(None) | Err(_) if self.replacing.is_some() => {
                self.session = None;
                return Ok(());
            }
            Ok(None) => {
                self.down("the hub closed the control stream".to_owned(), None);
                self.link.handle_end(LinkEnd::Broken, now);
                return Ok(());
            }
            Err(status) => {
                self.link.handle_end(LinkEnd::Broken, now);
                let error = CallError::from(status);
                if matches!(error.refusal(), Some(Refusal::Revoked | Refusal::Outdated)) {
                    return Err(self.revoked(&error));
                }
                debug!(error = %Chain(&error), "control stream broke");
                return Ok(());
            }
        };
        self.link.handle_message(now);
        self.hub_seq = self.hub_seq.max(message.seq);
        match message.body {
            Some(FromHub::Ack(ack)) => {
                if let Err(error) = self.outbox.handle_ack(ack.agent_seq) {
                    debug!(%error, "acknowledgement ignored");
                }
            }
            Some(FromHub::Config(config)) => match TunnelSettings::try_from(config) {
                Ok(settings) => {
                    let is_direct = self.shared.config.proxy.is_none();
                    let reached =
                        self.session.as_ref().filter(|_| is_direct).map(|session| session.reached.ip());
                    self.configure(settings, reached)?;
                }
                Err(error) => warn!(%error, "configuration ignored"),
            },
            Some(FromHub::Goodbye(goodbye)) => return self.goodbye(goodbye.reason(), now),
            Some(FromHub::Refused(refused)) => self.refused(refused),
            Some(FromHub::Workloads(set)) => match self.shared.node.get() {
                Some(node) => node.assign(assigned(&set)),
                None if set.workloads.is_empty() => {}
                None => warn!("the hub assigns workloads, and workload.enabled is false on this node"),
            },
            // Either out of place or of a newer hub: it changes nothing.
            Some(FromHub::Welcome(_)) | None => debug!("message without meaning here"),
        }
        Ok(())
    }

    fn goodbye(&mut self, reason: Reason, now: Instant) -> Result<(), AgentError> {
        let end = match reason {
            // The stream that replaces this one was seen first.
            Reason::Replaced if self.replacing.is_some() => return Ok(()),
            Reason::Replaced => LinkEnd::Replaced,
            Reason::Shutdown => LinkEnd::Shutdown,
            Reason::Expired => LinkEnd::Expired,
            Reason::Unspecified => LinkEnd::Broken,
            Reason::Revoked if self.shared.is_leaving() => LinkEnd::Revoked,
            Reason::Revoked => {
                self.link.handle_end(LinkEnd::Revoked, now);
                self.shared.revoke();
                return Err(AgentError::Revoked { why: "the hub removed this agent".to_owned() });
            }
        };
        self.link.handle_end(end, now);
        Ok(())
    }

    fn refused(&self, refused: v1::TargetRefused) {
        let Ok(port) = u16::try_from(refused.port) else { return };
        let reason: String =
            blueprint_common_runtime::cli::printable(&refused.reason).chars().take(256).collect();
        warn!(
            blueprint = refused.blueprint_id,
            service = refused.service_id,
            port,
            reason,
            "hub refuses target"
        );
        self.shared.refused.lock().insert(port, reason);
    }

    /// Uses what the hub says of the tunnel. Only a new place in the overlay needs a new start.
    fn configure(
        &self,
        settings: TunnelSettings,
        reached: Option<std::net::IpAddr>,
    ) -> Result<(), AgentError> {
        let known = self.shared.identity().tunnel.clone();
        if settings != known {
            let same = TunnelSettings {
                epoch: known.epoch,
                carriers: known.carriers.clone(),
                keepalive: known.keepalive,
                ..settings.clone()
            };
            let is_same_place = same == known;
            if let Err(error) = self.shared.set_tunnel(settings.clone()) {
                warn!(error = %Chain(&error), "what the hub says of the tunnel is not stored");
            }
            if !is_same_place {
                return Err(AgentError::Moved);
            }
        }
        self.shared.path.send_replace(PathRequest { epoch: settings.epoch, reached });
        Ok(())
    }

    /// Tells all targets, where they are not what was told last, or at the start of a stream.
    fn offer(&mut self, always: bool) {
        let health = Arc::clone(&self.health.borrow_and_update());
        let targets = if self.is_draining { v1::TargetSet::default() } else { targets(&health) };
        if !always && self.targets.as_ref() == Some(&targets) {
            return;
        }
        if self.targets.as_ref() != Some(&targets) {
            self.shared.refused.lock().clear();
        }
        self.targets = Some(targets.clone());
        let is_old = |old: &ToHub| matches!(old, ToHub::Targets(_));
        if self.outbox.push_latest(ToHub::Targets(targets), is_old).is_err() {
            warn!("the outbox is full; targets go out with the next change");
            self.targets = None;
        }
    }

    /// Tells how all workloads are doing.
    fn report_workloads(&mut self) {
        let Some(statuses) = &mut self.workloads else { return };
        let message = ToHub::Workloads(report(&statuses.borrow_and_update()));
        let is_old = |old: &ToHub| matches!(old, ToHub::Workloads(_));
        if self.outbox.push_latest(message, is_old).is_err() {
            warn!("the outbox is full; how workloads are doing goes out with the next change");
        }
    }

    fn use_identity(&mut self) {
        self.identity.borrow_and_update();
        if !matches!(self.link.state(), LinkState::Up { .. }) {
            // The reason that the last attempt failed may be gone.
            self.link.handle_path_change(Instant::now());
        } else if self.replacing.is_none()
            && self.certificate != self.shared.identity().credential.certificate
        {
            let opening = self.open();
            self.replacing = Some(Box::pin(async move {
                timeout(REPLACE_TIMEOUT, opening).await.unwrap_or(Err(CallError::TimedOut))
            }));
        }
    }

    fn kick(&mut self, kick: Kick) {
        match kick {
            Kick::Lost => self.link.handle_path_change(Instant::now()),
            Kick::Back => self.link.handle_path_back(Instant::now()),
        }
    }

    fn drain(&mut self) {
        self.is_draining = true;
        let state = v1::AgentState { draining: true, dropped_messages: self.outbox.dropped() };
        let _ = self.outbox.push(ToHub::State(state), false);
        self.offer(true);
    }

    /// Puts what waits in the outbox on the stream.
    fn flush(&mut self) {
        let Some(session) = &self.session else { return };
        while session.has_room() {
            let Some((seq, body)) = self.outbox.poll_transmit() else { return };
            session.send(seq, body.clone());
        }
    }

    /// Ends our side of the stream and lets the hub end its own.
    async fn say_goodbye(&mut self) {
        let Some(session) = self.session.take() else { return };
        let mut inbound = session.finish();
        let _ = timeout(FAREWELL, async { while let Ok(Some(_)) = inbound.message().await {} }).await;
    }

    fn down(&self, reason: String, hint: Option<String>) {
        self.shared.control.send_modify(|control| {
            if control.state == ControlState::Up {
                control.since = crate::join::now();
            }
            control.state = ControlState::Down;
            control.reason = Some(reason);
            control.hint = hint;
        });
    }

    fn publish(&self) {
        let stats = self.link.stats();
        let (held, dropped) = (self.outbox.len(), self.outbox.dropped());
        let is_withdrawn = self.is_draining && (self.session.is_none() || self.outbox.is_empty());
        self.shared.control.send_if_modified(|control| {
            let before =
                (control.attempts, control.sessions, control.held, control.dropped, control.is_withdrawn);
            control.attempts = stats.attempts;
            control.sessions = stats.sessions;
            control.held = held;
            control.dropped = dropped;
            control.is_withdrawn = is_withdrawn;
            before != (stats.attempts, stats.sessions, held, dropped, is_withdrawn)
        });
    }
}

/// Waits for a change, where there is anything to change.
async fn changed<T>(watched: &mut Option<watch::Receiver<T>>) -> Result<(), watch::error::RecvError> {
    match watched {
        Some(watched) => watched.changed().await,
        None => pending().await,
    }
}

/// Waits for an attempt, where there is one.
async fn opened(attempt: &mut Option<Opening>) -> Result<Box<Opened>, CallError> {
    let Some(running) = attempt else { return pending().await };
    let opened = running.await;
    *attempt = None;
    opened.map(Box::new)
}
