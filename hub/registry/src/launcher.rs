//! The `Launcher` service: a process that stands in for a blueprint has a node run it, answers what it asks of its
//! Manager, and reaches it through the tunnel. For the hub's Unix socket: it authenticates nobody.
//!
//! Invariants:
//! - a workload that a launcher started ends with it, after its grace;
//! - what the hub tells of an end is told after the workload was forgotten, so nothing of it is left then.

mod logs;
mod session;
mod start;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_proto::v1;
use futures_util::{Stream, StreamExt};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::warn;

use crate::forward::{self, Reach};
use crate::{Blueprints, LaunchersHandle, RegistrarHandle, WorkloadsHandle, status};

pub use self::logs::{LogPieces, LogSource};
use self::session::Session;

/// Largest message of a launcher: a document and a keystore.
pub(crate) const MAX_MESSAGE_BYTES: usize = 512 * 1024;

/// How long the first message may take.
const FIRST_WITHIN: Duration = Duration::from_secs(5);

/// Events that wait for one launcher; past it the launcher is waited for.
const EVENTS: usize = 64;

/// What launchers need of the hub.
#[derive(Clone)]
pub struct LauncherParts {
    /// Who runs what.
    pub workloads: WorkloadsHandle,
    /// Who holds what.
    pub launchers: LaunchersHandle,
    /// Seals keystores.
    pub blueprints: Arc<dyn Blueprints>,
    /// Opens connections over the overlay.
    pub reach: Arc<dyn Reach>,
    /// Asks nodes for what workloads wrote.
    pub logs: Arc<dyn LogSource>,
}

impl std::fmt::Debug for LauncherParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LauncherParts")
    }
}

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct LauncherService {
    parts: LauncherParts,
    registrar: RegistrarHandle,
    spawner: Spawner,
    refused: Family<Vec<(&'static str, &'static str)>, Counter>,
    forwards: Counter,
}

impl LauncherService {
    /// Puts the service together; its counters have the prefix `hub_launcher_`.
    pub(crate) fn new(
        parts: LauncherParts,
        registrar: RegistrarHandle,
        spawner: Spawner,
        metrics: &Metrics,
    ) -> Self {
        let (refused, forwards) = (Family::default(), Counter::default());
        metrics.with(|registry| {
            let registry = registry.sub_registry_with_prefix("hub_launcher");
            registry.register("calls_refused", "Refused calls of launchers by status", refused.clone());
            registry.register("forwards", "Connections of launchers to services", forwards.clone());
        });
        Self { parts, registrar, spawner, refused, forwards }
    }

    fn refuse(&self, status: &Status) {
        let reason = match status.code() {
            Code::InvalidArgument => "bad_request",
            Code::AlreadyExists => "operators",
            Code::FailedPrecondition => "held",
            Code::NotFound => "unknown_node",
            Code::PermissionDenied => "not_its_own",
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
            | Code::Unauthenticated => "unavailable",
        };
        warn!(reason, status = status.message(), "launcher refused");
        self.refused.get_or_create(&vec![("reason", reason)]).inc();
    }

    async fn start(&self, mut inbound: Streaming<v1::LauncherMessage>) -> Result<EventStream, Status> {
        let first = timeout(FIRST_WITHIN, inbound.message()).await;
        let first = first.map_err(|_| status::bad_request("no start came"))??;
        let Some(v1::launcher_message::Body::Start(start)) = first.and_then(|message| message.body) else {
            return Err(status::bad_request("the first message is not a start"));
        };
        let (outbox, receiver) = mpsc::channel(EVENTS);
        let (parts, spawner) = (self.parts.clone(), self.spawner.clone());
        let registrar = self.registrar.clone();
        // To its end, also where the launcher goes away meanwhile: what it holds then is given back.
        let begun = self.spawner.finish("launcher start", async move {
            let started = start::begin(&parts, &registrar.snapshot(), start).await?;
            let session = Session::new(parts, registrar, started, inbound, outbox, spawner.stop().drain);
            spawner.spawn("launcher session", Box::pin(session.run()));
            Ok::<_, Status>(())
        });
        begun.await.ok_or_else(status::stopping)??;
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    async fn connect(&self, mut inbound: Streaming<v1::ForwardBytes>) -> Result<BytesStream, Status> {
        let (service, early) = forward::first(&mut inbound).await?;
        let stream = forward::open(&self.registrar, self.parts.reach.as_ref(), service).await?;
        let (outbox, receiver) = forward::outbox();
        self.forwards.inc();
        self.spawner.spawn("launcher forward", forward::copy(stream, early, inbound, outbox));
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

type EventStream = Pin<Box<dyn Stream<Item = Result<v1::LauncherEvent, Status>> + Send>>;
type LinesStream = Pin<Box<dyn Stream<Item = Result<v1::LogPiece, Status>> + Send>>;
type BytesStream = Pin<Box<dyn Stream<Item = Result<v1::ForwardBytes, Status>> + Send>>;

#[tonic::async_trait]
impl v1::launcher_server::Launcher for LauncherService {
    type RunStream = EventStream;
    type ForwardStream = BytesStream;
    type LogsStream = LinesStream;

    async fn run(
        &self,
        request: Request<Streaming<v1::LauncherMessage>>,
    ) -> Result<Response<EventStream>, Status> {
        let started = self.start(request.into_inner()).await;
        started.inspect_err(|status| self.refuse(status)).map(Response::new)
    }

    async fn forward(
        &self,
        request: Request<Streaming<v1::ForwardBytes>>,
    ) -> Result<Response<BytesStream>, Status> {
        let connected = self.connect(request.into_inner()).await;
        connected.inspect_err(|status| self.refuse(status)).map(Response::new)
    }

    async fn logs(&self, request: Request<v1::LauncherLogs>) -> Result<Response<LinesStream>, Status> {
        let read = logs::read(&self.parts, request.into_inner()).await;
        // A node that is away is asked again and again.
        let service = self.clone();
        let refuse = move |status: &Status| {
            if status.code() != Code::Unavailable {
                service.refuse(status);
            }
        };
        let lines = read.inspect_err(&refuse)?;
        Ok(Response::new(Box::pin(lines.map(move |piece| piece.inspect_err(&refuse)))))
    }
}

#[cfg(test)]
pub(crate) mod tests;
