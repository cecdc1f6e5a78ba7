//! The operator's side: the `Registry` service, health and reflection, for the hub's Unix socket.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use blueprint_common_types::ServiceKey;
use blueprint_hub_registry_core::{ChangeBody, RegistrySnapshot, TargetRecord};
use blueprint_proto::qos::qos_metrics_server::QosMetricsServer;
use blueprint_proto::v1::launcher_server::LauncherServer;
use blueprint_proto::v1::registry_server::{Registry, RegistryServer};
use blueprint_proto::{FILE_DESCRIPTOR_SET, v1};
use futures_util::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tracing::warn;

use blueprint_common_runtime::accept::ACCEPT_PAUSE;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Spawner;

use crate::launcher::{LauncherService, MAX_MESSAGE_BYTES};
use crate::qos::{QosService, Renamed, Viewer};
use crate::watch::{MAX_SERVICES, registered, services_of};
use crate::{Desk, LauncherParts, RegistrarHandle, status};

/// Events that wait for one watcher; past it the watcher is waited for.
const WATCH_BUFFER: usize = 256;
/// Pause between two greetings of a connection, and how long it may take to answer one.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Calls that one operator's connection may have open.
const MAX_STREAMS: u32 = 100;

/// gRPC services for operators; they authenticate nobody, so they belong behind a private socket.
fn operator_routes(
    registrar: RegistrarHandle,
    (launcher, desk): (LauncherService, Option<Desk>),
    spawner: Spawner,
) -> Result<Routes, tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let ready = reporter.clone();
    let drain = spawner.stop().drain;
    spawner.spawn("operator health", async move {
        ready.set_serving::<RegistryServer<Operator>>().await;
        drain.cancelled().await;
        ready.set_not_serving::<RegistryServer<Operator>>().await;
    });
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let registry = RegistryServer::new(Operator { registrar, spawner });
    let launcher = LauncherServer::new(launcher).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let routes = Routes::new(registry).add_service(launcher).add_service(health).add_service(reflection);
    Ok(match desk {
        Some(desk) => {
            routes.add_service(QosMetricsServer::new(QosService { desk, viewer: Viewer::Operator }))
        }
        None => routes,
    })
}

/// Serves the operator's and launchers' gRPC, and quality of service where there is a desk, on a private Unix socket until the drain begins.
///
/// # Errors
///
/// Fails where the embedded descriptors are damaged, which a test excludes.
pub async fn serve_operator(
    listener: UnixListener,
    registrar: RegistrarHandle,
    (launcher, desk): (LauncherParts, Option<Desk>),
    metrics: &Metrics,
    spawner: Spawner,
) -> Result<(), tonic_reflection::server::Error> {
    let launcher = LauncherService::new(launcher, registrar.clone(), spawner.clone(), metrics);
    let routes = operator_routes(registrar, (launcher, desk), spawner.clone())?.prepare();
    let drain = spawner.stop().drain;
    loop {
        let stream = match drain.run_until_cancelled(listener.accept()).await {
            None => return Ok(()),
            Some(Ok((stream, _))) => stream,
            Some(Err(error)) => {
                warn!(%error, "accept on the operator's socket failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(Renamed(routes.clone()));
        let drain = drain.clone();
        spawner.spawn("operator grpc", async move {
            let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
            // A launcher that hangs is as good as gone.
            server.keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
            let served = server.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(served);
            tokio::select! {
                biased;
                result = served.as_mut() => drop(result),
                () = drain.cancelled() => {
                    served.as_mut().graceful_shutdown();
                    drop(served.await);
                }
            }
        });
    }
}

#[derive(Debug, Clone)]
struct Operator {
    registrar: RegistrarHandle,
    spawner: Spawner,
}

type EventStream = Pin<Box<dyn Stream<Item = Result<v1::WatchEvent, Status>> + Send>>;

#[tonic::async_trait]
impl Registry for Operator {
    type WatchStream = EventStream;

    async fn list(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let snapshot = self.registrar.snapshot();
        let targets = snapshot.targets.values().map(registered).collect();
        Ok(Response::new(v1::ListResponse { index: snapshot.index, targets }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<EventStream>, Status> {
        let request = request.into_inner();
        if request.services.len() > MAX_SERVICES {
            return Err(status::bad_request(format!("at most {MAX_SERVICES} services can be named")));
        }
        let (after, services) = (request.after_index, services_of(&request));
        let (events, receiver) = mpsc::channel(WATCH_BUFFER);
        let watcher = Watcher { registrar: self.registrar.clone(), services, events, index: after };
        let drain = self.spawner.stop().drain;
        self.spawner.spawn("registry watch", async move { drain.run_until_cancelled(watcher.run()).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One watch: sends what changed after `index`, then waits for more.
struct Watcher {
    registrar: RegistrarHandle,
    /// Only these; all where none is named.
    services: BTreeSet<ServiceKey>,
    events: mpsc::Sender<Result<v1::WatchEvent, Status>>,
    index: u64,
}

/// The watcher went away.
struct Gone;

impl Watcher {
    async fn run(mut self) {
        let mut published = self.registrar.snapshots();
        loop {
            published.mark_unchanged();
            let sent = match self.registrar.changes_after(self.index).await {
                Ok(Some(changes)) if self.index > 0 || changes.is_empty() => self.send_changes(changes).await,
                Ok(Some(_) | None) => self.send_everything().await,
                Err(_) => self.events.send(Err(status::stopping())).await.map_err(|_| Gone),
            };
            if sent.is_err() {
                return;
            }
            tokio::select! {
                () = self.events.closed() => return,
                changed = published.changed() => if changed.is_err() { return },
            }
        }
    }

    fn wants(&self, record: &TargetRecord) -> bool {
        self.services.is_empty() || self.services.contains(&record.key.service)
    }

    async fn send_changes(&mut self, changes: Vec<blueprint_hub_registry_core::Change>) -> Result<(), Gone> {
        for change in changes {
            self.index = change.index;
            let body = match change.body {
                ChangeBody::Upsert(record) | ChangeBody::Remove(record) if !self.wants(&record) => continue,
                ChangeBody::Upsert(record) => v1::watch_event::Change::Upsert(registered(&record)),
                ChangeBody::Remove(record) => v1::watch_event::Change::Remove(registered(&record)),
                ChangeBody::Claim { .. } | ChangeBody::Unclaim { .. } => continue,
            };
            self.send(body).await?;
        }
        Ok(())
    }

    async fn send_everything(&mut self) -> Result<(), Gone> {
        let snapshot = self.registrar.snapshot();
        let RegistrySnapshot { index, targets, .. } = &*snapshot;
        self.index = *index;
        self.send(v1::watch_event::Change::Reset(v1::Reset {})).await?;
        for record in targets.values().filter(|record| self.wants(record)) {
            self.send(v1::watch_event::Change::Upsert(registered(record))).await?;
        }
        Ok(())
    }

    async fn send(&self, change: v1::watch_event::Change) -> Result<(), Gone> {
        let event = v1::WatchEvent { index: self.index, change: Some(change) };
        self.events.send(Ok(event)).await.map_err(|_| Gone)
    }
}

#[cfg(test)]
pub(crate) mod tests;
