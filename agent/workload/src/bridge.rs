//! The bridge of one workload: what an unmodified blueprint asks the Blueprint Manager, answered here.
//!
//! The socket belongs to one service. What is the node's own - greetings and ports - is answered here; everything
//! else is the hub's, which judges it again and records what it refuses.

mod kin;
mod ports;
mod strangers;
mod upstream;

use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::workload::Seat;
use blueprint_common_types::{CheckPace, HealthCheck, MetricsPlace, ServiceKey};
use blueprint_proto::blueprint_manager_bridge as wire;
use blueprint_proto::blueprint_manager_bridge::blueprint_manager_bridge_server::{
    BlueprintManagerBridge, BlueprintManagerBridgeServer,
};
use blueprint_proto::v1::bridge_request::Call;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{debug, warn};

pub(crate) use self::kin::Kin;
use self::kin::Peer;
use self::ports::Ports;
use self::strangers::Strangers;
use crate::instance::Reach;
use crate::{HubPort, Offer};

/// Connections of one workload at once; more wait.
const MAX_CONNECTIONS: usize = 32;

/// Largest message: a TLS profile with six envelopes of 64 KiB.
const MAX_MESSAGE_BYTES: usize = 512 * 1024;

/// How long a call waits for the start that it is a part of.
const STARTING: std::time::Duration = std::time::Duration::from_secs(10);

/// Streams of one connection at once.
const MAX_STREAMS: u32 = 32;

/// Where the bridge of a workload is.
#[derive(Debug, Clone)]
pub(crate) struct BridgeConfig {
    pub(crate) seat: Seat,
    /// The assignment that it runs by.
    pub(crate) generation: u64,
    /// Path of the socket; what is there already is replaced.
    pub(crate) socket: PathBuf,
    /// User and group of the workload; `None` for the agent's own.
    pub(crate) user: Option<(u32, u32)>,
    /// How the health of what it registers is checked, and how often.
    pub(crate) check: (HealthCheck, CheckPace),
    /// Counts connections of this node's bridges that are refused.
    pub(crate) refused: Arc<AtomicU64>,
    /// Where the service that it registers shows its metrics, seen from where it listens.
    pub(crate) metrics: MetricsPlace,
}

/// One bridge, from the start of a workload to its end.
pub(crate) struct Bridge {
    seat: Seat,
    generation: u64,
    service: ServiceKey,
    check: (HealthCheck, CheckPace),
    metrics: MetricsPlace,
    hub: Arc<dyn HubPort>,
    ports: Ports,
    is_registered: AtomicBool,
    greeted: Arc<Notify>,
    /// Where the workload is reached, and which processes are its; `None` until it was started.
    reach: watch::Sender<Option<(Reach, Option<Kin>)>>,
    /// Its user, where that is its alone.
    user: Option<u32>,
    strangers: Strangers,
}

/// A bridge that is served; closes with its end, and withdraws what was registered over it.
pub(crate) struct Serving {
    bridge: Arc<Bridge>,
    socket: PathBuf,
    stop: CancellationToken,
}

impl Serving {
    /// Resolves at the first greeting.
    pub(crate) fn greeted(&self) -> impl Future<Output = ()> + use<> {
        let greeted = Arc::clone(&self.bridge.greeted);
        async move { greeted.notified().await }
    }
}

impl Serving {
    /// Says where the workload is reached and which processes are its, once it was started.
    pub(crate) fn reached_at(&self, reach: Reach, kin: Option<Kin>) {
        self.bridge.reach.send_replace(Some((reach, kin)));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
        // Best effort: the next start replaces what stays.
        let _ = std::fs::remove_file(&self.socket);
        self.bridge.hub.withdraw(self.bridge.seat);
    }
}

/// Listens, and serves in tasks of its own.
pub(crate) fn serve(
    config: BridgeConfig,
    hub: Arc<dyn HubPort>,
    spawner: &Spawner,
) -> std::io::Result<Serving> {
    let _ = std::fs::remove_file(&config.socket);
    let listener = UnixListener::bind(&config.socket)?;
    std::fs::set_permissions(&config.socket, std::fs::Permissions::from_mode(0o600))?;
    if let Some((user, group)) = config.user {
        // Its folder is the agent's alone, so nobody has put another file there.
        std::os::unix::fs::lchown(&config.socket, Some(user), Some(group))?;
    }
    let bridge = Arc::new(Bridge {
        seat: config.seat,
        generation: config.generation,
        service: config.seat.service,
        check: config.check,
        metrics: config.metrics,
        hub,
        ports: Ports::default(),
        is_registered: AtomicBool::new(false),
        greeted: Arc::new(Notify::new()),
        reach: watch::Sender::new(None),
        user: config.user.map(|(user, _)| user),
        strangers: Strangers::new(config.refused),
    });
    let stop = CancellationToken::new();
    let accept = accept(listener, Arc::clone(&bridge), stop.clone(), spawner.clone());
    spawner.spawn_base("workload bridge", accept);
    let (told, until) = (Arc::clone(&bridge), stop.clone());
    spawner.spawn_base("workload bridge refusals", async move {
        let _ = until.run_until_cancelled(told.strangers.tell(told.service, told.hub.as_ref())).await;
    });
    Ok(Serving { bridge, socket: config.socket, stop })
}

async fn accept(listener: UnixListener, bridge: Arc<Bridge>, stop: CancellationToken, spawner: Spawner) {
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Some(Ok(place)) = stop.run_until_cancelled(Arc::clone(&places).acquire_owned()).await else {
            return;
        };
        let stream = match stop.run_until_cancelled(listener.accept()).await {
            None => return,
            Some(Ok((stream, _))) => stream,
            Some(Err(error)) => {
                warn!(service = %bridge.service, %error, "accept on the bridge failed");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        // At once: its number may be another's later.
        let peer = Peer::of(&stream);
        let (bridge, stop) = (Arc::clone(&bridge), stop.clone());
        spawner.spawn_base("workload bridge connection", async move {
            let _place = place;
            let served = async {
                if bridge.admits(&peer).await {
                    connection(stream, bridge).await;
                } else {
                    bridge.strangers.refuse(bridge.service, &peer);
                }
            };
            let _ = stop.run_until_cancelled(Box::pin(served)).await;
        });
    }
}

async fn connection(stream: UnixStream, bridge: Arc<Bridge>) {
    let service = bridge.service;
    let server = BlueprintManagerBridgeServer::from_arc(bridge).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let routes = tonic::service::Routes::new(server).prepare();
    let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http2.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    let served = http2.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await;
    if let Err(error) = served {
        debug!(%service, %error, "connection of a bridge ended");
    }
}

impl Bridge {
    /// Hands a call to the hub; what has to follow a registration is refused before one.
    async fn pass(&self, call: Call) -> Result<Response<()>, Status> {
        if !self.is_registered.load(Ordering::Acquire) && !matches!(call, Call::Register(_)) {
            return Err(Status::failed_precondition("register the service first"));
        }
        self.hub.bridge(self.service, call).await.map(Response::new)
    }
}

impl Bridge {
    /// Whether it is a process of the workload. A user of its own says so; among processes of the agent's own user, which
    /// other workloads may have, too, its place below the workload's keeper or in its container does.
    async fn admits(&self, peer: &Peer) -> bool {
        if self.user.is_some() && self.user == peer.user {
            return true;
        }
        let own = nix::unistd::geteuid().as_raw();
        if !peer.user.is_some_and(|user| user == own || user == 0) {
            return false;
        }
        self.started().await.is_some_and(|(_, kin)| kin.is_some_and(|kin| kin.has(peer)))
    }

    /// What is known of the workload once it was started; waits for who calls before its start is over.
    async fn started(&self) -> Option<(Reach, Option<Kin>)> {
        let mut reach = self.reach.subscribe();
        let known = tokio::time::timeout(STARTING, reach.wait_for(Option::is_some)).await;
        known.ok().and_then(Result::ok).and_then(|known| known.clone())
    }

    /// Where the node reaches the service that listens at `own`, seen from the workload, and its metrics: another port of it
    /// has another place on the node, too.
    async fn places(&self, own: SocketAddr) -> Result<(SocketAddr, MetricsPlace), Status> {
        let started = self.started().await;
        let (reach, _) = started.ok_or_else(|| Status::unavailable("the workload is still being started"))?;
        let local = reach.place(own).map_err(Status::invalid_argument)?;
        let at = |port: u16| reach.port_beside(own, port).map_err(Status::invalid_argument);
        let metrics = match &self.metrics {
            MetricsPlace::At { port: Some(port), path } => {
                MetricsPlace::At { port: Some(at(*port)?), path: path.clone() }
            }
            MetricsPlace::Grpc { port: Some(port) } => MetricsPlace::Grpc { port: Some(at(*port)?) },
            place @ (MetricsPlace::Nowhere
            | MetricsPlace::At { port: None, .. }
            | MetricsPlace::Grpc { port: None }) => place.clone(),
        };
        Ok((local, metrics))
    }
}

#[tonic::async_trait]
impl BlueprintManagerBridge for Bridge {
    async fn ping(&self, _: Request<()>) -> Result<Response<()>, Status> {
        // Kept for who waits, also where that begins later.
        self.greeted.notify_one();
        Ok(Response::new(()))
    }

    async fn request_port(
        &self,
        request: Request<wire::PortRequest>,
    ) -> Result<Response<wire::PortResponse>, Status> {
        let preferred = u16::try_from(request.into_inner().preferred_port)
            .map_err(|_| Status::invalid_argument("preferred_port is above 65535"))?;
        let port = self.ports.reserve(preferred).map_err(Status::unavailable)?;
        Ok(Response::new(wire::PortResponse { port: port.into() }))
    }

    async fn register_blueprint_service_proxy(
        &self,
        request: Request<wire::RegisterBlueprintServiceProxyRequest>,
    ) -> Result<Response<()>, Status> {
        let call = request.into_inner();
        let local = upstream::local(&call.upstream_url).map_err(Status::invalid_argument);
        let is_own = call.service_id == self.service.service;
        // The hub judges first, so that it records who asks for another's service.
        if let (Err(status), true) = (&local, is_own) {
            return Err(status.clone());
        }
        self.hub.bridge(self.service, Call::Register(call)).await?;
        let own = local?;
        let (local, metrics) = self.places(own).await?;
        let (check, pace) = self.check.clone();
        let offer = Offer { seat: self.seat, generation: self.generation, local, check, pace, metrics };
        self.hub.offer(offer).map_err(Status::resource_exhausted)?;
        self.is_registered.store(true, Ordering::Release);
        Ok(Response::new(()))
    }

    async fn unregister_blueprint_service_proxy(
        &self,
        request: Request<wire::UnregisterBlueprintServiceProxyRequest>,
    ) -> Result<Response<()>, Status> {
        let done = self.pass(Call::Unregister(request.into_inner())).await?;
        self.hub.withdraw(self.seat);
        self.is_registered.store(false, Ordering::Release);
        Ok(done)
    }

    async fn add_owner_to_service(
        &self,
        request: Request<wire::AddOwnerToServiceRequest>,
    ) -> Result<Response<()>, Status> {
        self.pass(Call::AddOwner(request.into_inner())).await
    }

    async fn remove_owner_from_service(
        &self,
        request: Request<wire::RemoveOwnerFromServiceRequest>,
    ) -> Result<Response<()>, Status> {
        self.pass(Call::RemoveOwner(request.into_inner())).await
    }

    async fn update_blueprint_service_tls_profile(
        &self,
        request: Request<wire::UpdateBlueprintServiceTlsProfileRequest>,
    ) -> Result<Response<()>, Status> {
        self.pass(Call::UpdateTls(request.into_inner())).await
    }
}
