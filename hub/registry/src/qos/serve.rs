//! Where `qos.QosMetrics` is served beside the operator's socket: inside the tunnel, and on loopback.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use blueprint_common_runtime::accept::ACCEPT_PAUSE;
use blueprint_common_runtime::places::Places;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::{ListenError, Tunnel};
use blueprint_common_types::{AgentId, WgPublicKey};
use blueprint_hub_registry_core::{Buckets, Rate};
use blueprint_proto::qos::qos_metrics_server::QosMetricsServer;
use blueprint_proto::v1::registry_server::RegistryServer;
use http::Uri;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tower_service::Service;
use tracing::{debug, warn};

use super::machines::Machines;
use super::service::Reach;
use super::{Desk, QosMetrics, QosService, Viewer};
use crate::rpc::listen;
use crate::watch::Watches;

/// Connections at once: of one machine, and of all; and of this host.
const OF_MACHINE: u32 = 8;
const OF_ALL: usize = 1024;
const OF_HOST: usize = 64;

/// Questions of one machine: enough for a Manager with many services that asks each minute.
const QUESTIONS: Rate = Rate { burst: 256, every: Duration::from_millis(100) };

/// Calls that one connection may have open.
const MAX_STREAMS: u32 = 16;

/// Largest question in bytes.
const MAX_QUESTION: usize = 4096;

/// Pause between two greetings of a connection, and how long it may take to answer one.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The prefix of paths, and the one that early versions of the SDK used.
const PREFIX: &str = "/qos.QosMetrics/";
const EARLY_PREFIX: &str = "/qos.QoSMetrics/";

/// Gives calls under the early name to the same service.
#[derive(Debug, Clone)]
pub(crate) struct Renamed<S>(pub(crate) S);

impl<S, B> Service<http::Request<B>> for Renamed<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        if let Some(method) = request.uri().path().strip_prefix(EARLY_PREFIX)
            && let Ok(renamed) = format!("{PREFIX}{method}").parse::<Uri>()
        {
            *request.uri_mut() = renamed;
        }
        self.0.call(request)
    }
}

/// What machines go by.
struct ByPolicy {
    tunnel: Tunnel,
    questions: Mutex<Buckets<AgentId>>,
    metrics: QosMetrics,
}

impl Reach for ByPolicy {
    fn may_connect(&self, from: &WgPublicKey, to: &WgPublicKey, port: u16) -> bool {
        self.tunnel.may_connect(from, to, port)
    }

    fn may_ask(&self, agent: AgentId) -> bool {
        let may = self.questions.lock().take(agent, Instant::now());
        if !may {
            self.metrics.refused("too_many_questions");
        }
        may
    }
}

/// Opens the port of the overlay, and serves machines there until the tunnel ends.
///
/// # Errors
///
/// Where the port cannot be had: another program of this machine may have it.
pub async fn serve_overlay(
    tunnel: &Tunnel,
    port: u16,
    desk: Desk,
    metrics: QosMetrics,
    spawner: Spawner,
) -> Result<(), ListenError> {
    let mut listener = listen(tunnel, port).await?;
    let questions = Mutex::new(Buckets::new(QUESTIONS, OF_ALL * 16));
    let reach: Arc<dyn Reach> =
        Arc::new(ByPolicy { tunnel: tunnel.clone(), questions, metrics: metrics.clone() });
    let (all, each) = (Arc::new(Semaphore::new(OF_ALL)), Places::new(OF_MACHINE));
    let watches = Watches::new();
    let children = spawner.clone();
    spawner.spawn_base("quality of service for machines", async move {
        while let Some(stream) = listener.accept().await {
            let source = stream.peer_addr();
            // The tunnel lets nobody send from another's address.
            let Some(agent) = desk.snapshot().index_of_agents.at(source.ip()) else {
                metrics.refused("stranger");
                debug!(%source, "question about quality of service refused: the address is no node's");
                continue;
            };
            let (Ok(place), Some(own)) = (Arc::clone(&all).try_acquire_owned(), each.begin(agent)) else {
                metrics.refused("too_many_connections");
                continue;
            };
            let viewer = Viewer::Machine(agent, Arc::clone(&reach));
            let registry = Machines {
                registrar: desk.parts.registrar.clone(),
                watches: watches.clone(),
                agent,
                reach: Arc::clone(&reach),
                metrics: metrics.clone(),
                spawner: children.clone(),
            };
            let registry = RegistryServer::new(registry).max_decoding_message_size(MAX_QUESTION);
            let routes = routes(&desk, viewer).add_service(registry).prepare();
            let drain = children.stop().drain;
            children.spawn("quality of service", async move {
                tokio::select! {
                    biased;
                    () = drain.cancelled() => {}
                    () = answer(stream, routes) => {}
                }
                drop((place, own));
            });
        }
    });
    Ok(())
}

/// Serves programs of this host, who see everything, until the drain begins.
///
/// # Errors
///
/// Does not fail.
pub async fn serve_local(listener: TcpListener, desk: Desk, spawner: Spawner) -> Result<(), Infallible> {
    let places = Arc::new(Semaphore::new(OF_HOST));
    let drain = spawner.stop().drain;
    loop {
        let stream = match drain.run_until_cancelled(listener.accept()).await {
            None => return Ok(()),
            Some(Ok((stream, _))) => stream,
            Some(Err(error)) => {
                warn!(%error, "accept on the address of quality of service failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let routes = routes(&desk, Viewer::Operator).prepare();
        let drain = drain.clone();
        spawner.spawn("local quality of service", async move {
            tokio::select! {
                biased;
                () = drain.cancelled() => {}
                () = answer(stream, routes) => {}
            }
            drop(place);
        });
    }
}

fn routes(desk: &Desk, viewer: Viewer) -> Routes {
    let service = QosService { desk: desk.clone(), viewer };
    Routes::new(QosMetricsServer::new(service).max_decoding_message_size(MAX_QUESTION))
}

/// Answers one connection until it ends.
async fn answer<S>(stream: S, routes: Routes)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(8 * 1024);
    server.keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
    let service = TowerToHyperService::new(Renamed(routes));
    // Whoever breaks off is gone, and nobody else to be told.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}
