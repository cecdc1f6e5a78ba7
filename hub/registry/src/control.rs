//! The control listener: TLS, then HTTP/2, then the services.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_runtime::accept::AcceptLoop;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::carrier::{ALPN, QuicError, QuicLimits, QuicServer, SharedSocket};
use blueprint_common_tunnel::{ListenError, Tunnel};
use blueprint_common_types::{AgentId, DoorTicket};
use blueprint_hub_registry_core::workload::{LogsAsk, LogsError};
use blueprint_hub_registry_core::{AuditBudget, AuditEvent, AuditKind, Buckets, Store, Told};
use blueprint_proto::v1;
use blueprint_proto::v1::agent_control_server::AgentControlServer;
use blueprint_proto::v1::enrollment_server::EnrollmentServer;
use blueprint_proto::v1::hub_message::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::{Accept, StartHandshake, TlsAcceptor};
use tonic::service::Routes;
use tower_service::Service;
use tracing::{debug, warn};

use crate::carriers::Carriers;
use crate::checks::Checks;
use crate::enroll::{Enroll, JOIN_DEADLINE};
use crate::identity::{self, Connection};
use crate::logs::ReaderKind;
use crate::metrics::{ControlMetrics, register_quic};
use crate::session::{self, Control};
use crate::shared::{JOINS_AT_ONCE, JoinGate, STRANGER_ROWS_PER_MINUTE, Shared};
use crate::tls::HandshakeFailure;
use crate::watch::Watches;
use crate::{
    AgentFiles, Authority, Blueprints, Identities, LaunchersHandle, LogsReader, Peers, PushedFiles,
    RegistrarHandle, TlsError, TunnelFacts, WorkloadsHandle, artefact, carrier_config, control_config,
    download, find, late, logs, rpc, workload,
};
use blueprint_common_runtime::places::Places;

/// A handshake that takes longer is cut.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Largest message of an agent (`reliability.md`, R6).
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Streams that one agent may have open: its session, a renewal, a leave, and calls of its workloads.
const MAX_STREAMS: u32 = 32;
/// Agents, and workloads, whose rates are known at once; only those that used some of theirs lately count.
const MAX_KEYS: usize = 65_536;

/// What the control plane is made of.
pub struct ControlConfig {
    /// Makes certificates.
    pub authority: Authority,
    /// Checks machines that join by what a cloud says of them.
    pub identities: Arc<dyn Identities>,
    /// Keeps what has to last.
    pub store: Arc<dyn Store>,
    /// The task that owns the registry.
    pub registrar: RegistrarHandle,
    /// Who may be a peer of the tunnel.
    pub peers: Arc<dyn Peers>,
    /// The tunnel, for carriers other than plain UDP, and for what its policy says.
    pub tunnel: Tunnel,
    /// Who runs what.
    pub workloads: WorkloadsHandle,
    /// What blueprints ask for.
    pub blueprints: Arc<dyn Blueprints>,
    /// What was pushed for workloads.
    pub artefacts: Arc<dyn PushedFiles>,
    /// The agent's program, for machines that were ordered.
    pub agent_files: Arc<dyn AgentFiles>,
    /// Port of the hub's overlay addresses behind which workloads reach the operator's RPC; `None` for nowhere.
    pub rpc_port: Option<u16>,
    /// How long one of those connections may be silent in both directions.
    pub rpc_idle: Duration,
    /// Who holds what a launcher started.
    pub launchers: LaunchersHandle,
    /// What agents are told of the tunnel.
    pub facts: TunnelFacts,
    /// Life of agents' certificates.
    pub certificate_ttl: Duration,
    /// How long targets outlive their last renewal.
    pub target_ttl: Duration,
    /// Pace of heartbeats and samples.
    pub heartbeat: Duration,
}

impl std::fmt::Debug for ControlConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlConfig").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// The control plane, ready to accept agents.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    shared: Arc<Shared>,
    tls: Arc<ServerConfig>,
    routes: Routes,
}

/// The QUIC carrier cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartQuicError {
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// QUIC refuses.
    #[error("cannot serve the QUIC carrier")]
    Quic(#[from] QuicError),
}

/// An agent could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is none with this id.
    #[error("no agent has this id")]
    Unknown,
    /// The hub cannot do it now.
    #[error("{0}")]
    Failed(String),
}

impl ControlPlane {
    /// Puts the control plane together.
    ///
    /// # Errors
    ///
    /// Fails where TLS cannot be set up.
    pub fn new(config: ControlConfig, metrics: &Metrics, spawner: Spawner) -> Result<Self, TlsError> {
        let tls = control_config(&config.authority)?;
        let registrar = config.registrar.clone();
        let tunnel = config.tunnel.clone();
        let carriers = Carriers::new(config.tunnel, registrar, ControlMetrics::new(metrics), spawner.clone());
        let metrics = carriers.metrics().clone();
        let shared = Arc::new(Shared {
            carriers,
            authority: config.authority,
            identities: config.identities,
            store: config.store,
            registrar: config.registrar,
            peers: config.peers,
            workloads: config.workloads,
            blueprints: config.blueprints,
            artefacts: config.artefacts,
            fetches: Places::new(artefact::AT_ONCE),
            agent_files: config.agent_files,
            downloads: Arc::new(Semaphore::new(download::AT_ONCE)),
            downloads_of_token: Places::new(download::OF_TOKEN),
            download_gate: Mutex::new(JoinGate::new(Instant::now())),
            rpc_places: Places::new(rpc::CONNECTIONS),
            tunnel,
            rpc_of_workload: Places::new(rpc::CONNECTIONS_OF_WORKLOAD),
            rpc_turned_away: Places::new(rpc::TURNED_AWAY),
            rpc_idle: config.rpc_idle,
            bridge_calls: Mutex::new(Buckets::new(workload::BRIDGE_CALLS, MAX_KEYS)),
            reports: Mutex::new(Buckets::new(session::REPORTS, MAX_KEYS)),
            late_calls: Mutex::new(Buckets::new(late::CALLS, MAX_KEYS)),
            finds: Mutex::new(Buckets::new(find::FINDS, MAX_KEYS)),
            watches: Watches::new(),
            told: Mutex::new(Told::new(Instant::now())),
            rpc_port: config.rpc_port.unwrap_or(0),
            logs: Arc::default(),
            launchers: config.launchers,
            facts: config.facts,
            certificate_ttl: config.certificate_ttl,
            target_ttl: config.target_ttl,
            heartbeat: config.heartbeat,
            joins: Semaphore::new(JOINS_AT_ONCE),
            checks: Checks::new(MAX_KEYS),
            metrics,
            spawner,
            strangers: Mutex::new(AuditBudget::new(STRANGER_ROWS_PER_MINUTE, Instant::now())),
            gate: Mutex::new(JoinGate::new(Instant::now())),
        });
        let enroll = EnrollmentServer::new(Enroll { shared: Arc::clone(&shared) })
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let control = AgentControlServer::new(Control { shared: Arc::clone(&shared) })
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let routes = Routes::new(enroll).add_service(control).prepare();
        Ok(Self { shared, tls, routes })
    }

    /// Accepts agents until the drain begins.
    ///
    /// # Errors
    ///
    /// None today; the accept loop pauses and goes on.
    pub async fn run(self, listener: AcceptLoop) -> Result<(), std::convert::Infallible> {
        let spawner = self.shared.spawner.clone();
        let drain = spawner.stop().drain;
        // Boxed here and below: a future that is passed on by value takes its size again in each of its callers,
        // and a connection is a task that lasts as long as an agent (`bench/system` shows what it costs).
        listener.run(spawner, drain, move |stream, source| Box::pin(self.clone().serve(stream, source))).await
    }

    /// Accepts links over QUIC on the port that `socket` shares, until the process stops.
    ///
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`QuicError`] where QUIC cannot be set up.
    pub fn start_quic(
        &self,
        socket: Arc<SharedSocket>,
        limits: QuicLimits,
        metrics: &Metrics,
    ) -> Result<(), StartQuicError> {
        let tls = carrier_config(&self.shared.authority)?;
        let server = Arc::new(QuicServer::new(socket, &tls, limits)?);
        register_quic(metrics, Arc::clone(&server));
        let shared = Arc::clone(&self.shared);
        self.shared.spawner.spawn_base("quic carrier", Carriers::accept_quic(shared, server));
        Ok(())
    }

    /// Opens the port behind which workloads reach the operator's RPC, where there is one, and serves it until the
    /// process stops. Must be called on a tokio runtime, once the tunnel runs.
    ///
    /// # Errors
    ///
    /// Where the port cannot be had: machines may send to it, so nobody else may have it.
    pub async fn start_rpc(&self, tunnel: &Tunnel) -> Result<(), ListenError> {
        if self.shared.rpc_port == 0 {
            return Ok(());
        }
        let listener = rpc::listen(tunnel, self.shared.rpc_port).await?;
        let run = rpc::run(Arc::clone(&self.shared), listener);
        self.shared.spawner.spawn_base("workload rpcs", run);
        Ok(())
    }

    /// Removes an agent for the operator: its peer, targets, sessions and certificate are void at once.
    ///
    /// # Errors
    ///
    /// [`RemoveError::Unknown`] where there is none.
    pub async fn remove_agent(&self, agent: AgentId) -> Result<(), RemoveError> {
        let snapshot = self.shared.registrar.snapshot();
        let view = snapshot.agents.get(&agent).ok_or(RemoveError::Unknown)?;
        session::remove(&self.shared, &view.agent, AuditKind::AgentRemove)
            .await
            .map_err(|status| RemoveError::Failed(status.message().to_owned()))
    }

    /// Asks a node for what a workload wrote.
    ///
    /// # Errors
    ///
    /// See [`LogsError`]; the node may answer to nobody then.
    ///
    /// # Cancel safety
    ///
    /// As the reader: dropping it ends the answer.
    pub async fn logs(&self, agent: AgentId, ask: LogsAsk) -> Result<LogsReader, LogsError> {
        logs::ask(&self.shared, agent, ask, ReaderKind::Operator).await
    }

    /// The same for a launcher, which takes no place of an operator's.
    pub(crate) async fn logs_for_launcher(
        &self,
        agent: AgentId,
        ask: LogsAsk,
    ) -> Result<LogsReader, LogsError> {
        logs::ask(&self.shared, agent, ask, ReaderKind::Launcher).await
    }

    /// Announces a connection for `exec` or `forward` to an agent; false where it has no session, or the hub stops.
    pub async fn door_ticket(&self, agent: AgentId, ticket: &DoorTicket) -> bool {
        let [ticket, proof, ask] = ticket.parts().map(|part| part.to_vec());
        let body = Body::Door(v1::DoorTicket { ticket, proof, ask });
        self.shared.registrar.tell(agent, body).await.unwrap_or(false)
    }

    async fn serve(self, stream: TcpStream, source: SocketAddr) {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.tls));
        self.shake_hands(acceptor.accept(stream), source).await;
    }

    /// Goes on with a handshake that somebody else began for us, and serves the connection to its end.
    pub async fn serve_begun(self, start: StartHandshake<TcpStream>, source: SocketAddr) {
        let accept = start.into_stream(Arc::clone(&self.tls));
        self.shake_hands(accept, source).await;
    }

    async fn shake_hands(self, accept: Accept<TcpStream>, source: SocketAddr) {
        let stream = match tokio::time::timeout(HANDSHAKE_DEADLINE, accept).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.refused(source, HandshakeFailure::of(&error), &error).await,
            Err(_) => {
                let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return self.refused(source, HandshakeFailure::TimedOut, &error).await;
            }
        };
        let (_, tls) = stream.get_ref();
        let hub = self.shared.authority.hub();
        let identity = match tls.peer_certificates().and_then(<[_]>::first).map(|c| identity::read(c, hub)) {
            None => None,
            Some(Ok(identity)) => Some(identity),
            Some(Err(error)) => {
                warn!(%source, %error, "connection closed");
                return;
            }
        };
        let protocol = stream.get_ref().1.alpn_protocol();
        if protocol == Some(ALPN) {
            Carriers::serve_tls(&self.shared, stream, source, identity);
            return;
        }
        if protocol == Some(download::ALPN) {
            return Box::pin(download::serve(self.shared, stream, source)).await;
        }
        Box::pin(self.serve_http(TokioIo::new(stream), Connection { source, identity })).await;
    }

    async fn serve_http(
        self,
        stream: TokioIo<tokio_rustls::server::TlsStream<TcpStream>>,
        connection: Connection,
    ) {
        let routes = self.routes;
        let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(connection);
            let mut routes = routes.clone();
            async move { routes.call(request).await }
        });
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(256 * 1024)
            .max_header_list_size(16 * 1024)
            .max_send_buf_size(64 * 1024)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10));
        let served = server.serve_connection(stream, service);
        tokio::pin!(served);
        // A stranger's connection is for one join; an agent's lasts.
        let limit = if connection.identity.is_some() {
            Duration::from_secs(u64::from(u32::MAX))
        } else {
            JOIN_DEADLINE
        };
        let drain = self.shared.spawner.stop().drain;
        let result = tokio::select! {
            biased;
            result = served.as_mut() => result,
            () = tokio::time::sleep(limit) => return,
            () = drain.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = result {
            debug!(source = %connection.source, %error, "control connection ended");
        }
    }

    /// Counts, logs and, where somebody must be told, audits a failed handshake.
    async fn refused(&self, source: SocketAddr, failure: HandshakeFailure, error: &std::io::Error) {
        self.shared.metrics.handshake_failed(failure.label());
        let text = match failure {
            HandshakeFailure::PinMismatch => {
                "the machine refused this hub's certificate: its join line or its identity is of another hub"
            }
            HandshakeFailure::CertificateExpired => {
                "the agent's certificate ran out too long ago; it has to join again"
            }
            HandshakeFailure::CertificateRefused => "the machine's certificate is not of this hub",
            HandshakeFailure::TimedOut | HandshakeFailure::Other => {
                debug!(%source, %error, reason = failure.label(), "TLS handshake failed");
                return;
            }
        };
        warn!(target: "audit", %source, reason = failure.label(), "TLS handshake refused: {text}");
        let detail = format!("{}: {text}", failure.label());
        self.shared.audit_limited(AuditEvent::new(AuditKind::JoinRefuse, source.ip(), detail)).await;
    }
}
