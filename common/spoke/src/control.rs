//! The driver of the control stream: owns link, outbox and stream, and is the only one that touches them.
//!
//! - All targets go out at the start of every stream and at every change; a heartbeat and samples at the hub's pace.
//! - A renewed certificate replaces the stream: the new one is welcomed before the old one goes.
//! - What the data plane learns is used at once: an echo that comes back starts the next attempt.

mod hear;
mod message;
mod say;

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_link_core::{Link, LinkConfig, LinkEnd, LinkEvent, LinkState, Outbox};
use blueprint_common_types::fill_random;
use blueprint_proto::v1;
use blueprint_proto::v1::agent_message::Body as ToHub;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tonic::Status;
use tracing::{debug, info};

use self::message::end_text;
use crate::duties::{Duties, Says};
use crate::error::SpokeError;
use crate::identity::Identity;
use crate::join::CallError;
use crate::plane::Kick;
use crate::session::{self, Opened, Session};
use crate::spoke::Spoke;

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
    Targets(v1::TargetSet),
    Identity,
    Kick(Kick),
    Report(v1::QosReport),
    Workloads(v1::WorkloadReport),
}

/// See the module.
pub(crate) struct Driver {
    spoke: Arc<Spoke>,
    duties: Arc<dyn Duties>,
    says: Says,
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
    /// The targets as they are.
    targets: v1::TargetSet,
    /// The targets as they were told last.
    told: Option<v1::TargetSet>,
    /// How the workloads are doing, where this machine runs any.
    workloads: Option<v1::WorkloadReport>,
    identity: watch::Receiver<Arc<Identity>>,
    kicks: mpsc::Receiver<Kick>,
}

impl Driver {
    /// Puts a driver together; nothing happens until [`Driver::run`].
    pub(crate) fn new(
        spoke: Arc<Spoke>,
        says: Says,
        duties: Arc<dyn Duties>,
        kicks: mpsc::Receiver<Kick>,
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
            targets: v1::TargetSet::default(),
            told: None,
            workloads: None,
            identity: spoke.identity.subscribe(),
            kicks,
            spoke,
            duties,
            says,
        })
    }

    /// Keeps the control stream until the agent ends or is removed.
    pub(crate) async fn run(mut self) -> Result<(), SpokeError> {
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
                    self.spoke.control.send_modify(|control| control.is_finished = true);
                    self.spoke.stop.cancelled().await;
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
                Input::Targets(targets) => {
                    self.targets = targets;
                    self.offer(false);
                }
                Input::Identity => self.use_identity(),
                Input::Kick(kick) => self.kick(kick),
                Input::Report(report) => {
                    // A full outbox drops the oldest sample, or this one, and counts it.
                    let _ = self.outbox.push(ToHub::Qos(report), true);
                }
                Input::Workloads(report) => {
                    self.workloads = Some(report);
                    self.report_workloads();
                }
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
            () = self.spoke.stop.cancelled() => Input::Stop,
            () = self.spoke.finished.cancelled() => Input::Finish,
            () = self.spoke.process.drain.cancelled(), if !self.is_draining => Input::Drain,
            opened = opened(&mut self.opening) => Input::Opened(opened),
            replaced = opened(&mut self.replacing) => Input::Replaced(replaced),
            message = message => Input::Hub(message),
            Some(targets) = self.says.targets.next() => Input::Targets(targets),
            Ok(()) = self.identity.changed() => Input::Identity,
            Some(kick) = self.kicks.recv() => Input::Kick(kick),
            Some(report) = self.says.workloads.next() => Input::Workloads(report),
            Some(report) = self.says.samples.recv() => Input::Report(report),
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
                *self.spoke.caller.lock() = None;
                self.opening = None;
                self.replacing = None;
                if was_up {
                    info!(reason = end.label(), "control stream ended");
                }
                if was_up || end == LinkEnd::TimedOut {
                    let hub = self.spoke.identity().hub.clone();
                    self.down(end_text(end, &hub.to_string()), None);
                }
            }
        }
    }

    fn open(&mut self) -> Opening {
        let hello =
            v1::Hello { process_id: self.process_id, hub_seq: self.hub_seq, ..self.says.hello.clone() };
        let identity = self.spoke.identity();
        self.certificate.clone_from(&identity.credential.certificate);
        Box::pin(session::open(identity, self.spoke.config.proxy.clone(), hello))
    }

    fn use_identity(&mut self) {
        self.identity.borrow_and_update();
        if !matches!(self.link.state(), LinkState::Up { .. }) {
            // The reason that the last attempt failed may be gone.
            self.link.handle_path_change(Instant::now());
        } else if self.replacing.is_none() && self.certificate != self.spoke.identity().credential.certificate
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
}

/// Waits for an attempt, where there is one.
async fn opened(attempt: &mut Option<Opening>) -> Result<Box<Opened>, CallError> {
    let Some(running) = attempt else { return pending().await };
    let opened = running.await;
    *attempt = None;
    opened.map(Box::new)
}
