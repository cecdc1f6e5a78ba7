//! Workloads that the hub assigns, and what they need of the rest of the agent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use blueprint_agent_workload::artefact::PushedError;
use blueprint_agent_workload::logs::LogLimits;
use blueprint_agent_workload::{
    Assigned, Assignment, DescribeError, Described, Healths, HubPort, Node, Offer, PushedReader, RpcStream,
    Statuses, WorkloadConfig,
};
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_spoke::Caller;
use blueprint_common_tunnel::TcpStream;
use blueprint_common_types::workload::{
    Bundle, MAX_SLOTS, RecoveryStep, RpcKind, Seat, Sha256Digest, WorkloadSpec,
};
use blueprint_common_types::{AGENT_DOOR_PORT, AGENT_METRICS_PORT, ServiceKey};
use blueprint_proto::v1;
use blueprint_proto::v1::bridge_request::Call;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::{info, warn};

use crate::agent::AgentError;
use crate::pieces::Pieces;
use crate::service::{ServiceSpec, WorkloadRun};
use crate::shared::Shared;

/// How long the hub may take to answer a call of a workload.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest description of a workload that is read: a document and a keystore.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Longest line in which the hub grants or refuses a connection, in bytes.
const MAX_ANSWER_BYTES: usize = 512;

/// Bytes of one piece of what a workload captured for its registration.
const PIECE_BYTES: usize = 32 * 1024;

/// First overlay port of workloads whose own port is taken.
const FIRST_PORT: u16 = 20_000;

/// What the name of the folder of data and artefacts ends in, beside the agent's state folder: that one stays shut to
/// the users of workloads.
const SUFFIX: &str = "-workloads";

/// How workloads run on this machine.
#[derive(Debug, Clone)]
pub struct WorkloadSettings {
    /// Whether this machine runs any.
    pub enabled: bool,
    /// Whether programs that are on this machine already may be run; for development.
    pub testing: bool,
    /// Whether what asks for limits runs where this machine cannot hold them.
    pub allow_unlimited: bool,
    /// Folder for data and artefacts; beside the state folder where unset.
    pub data_dir: Option<PathBuf>,
    /// Folder in memory for sockets and keys; one below `/run` or `/dev/shm` where unset.
    pub runtime_dir: Option<PathBuf>,
    /// Socket of the container engine.
    pub engine: PathBuf,
    /// How much is kept of what workloads write.
    pub logs: LogLimits,
}

/// Where Docker listens.
pub(crate) const ENGINE: &str = "/var/run/docker.sock";

impl Default for WorkloadSettings {
    /// Off, as an agent inside another program needs it.
    fn default() -> Self {
        let engine = PathBuf::from(ENGINE);
        Self {
            enabled: false,
            testing: false,
            allow_unlimited: false,
            data_dir: None,
            runtime_dir: None,
            engine,
            logs: LogLimits::DEFAULT,
        }
    }
}

/// Makes the task that runs workloads, where this machine does.
pub(crate) fn node(shared: &Arc<Shared>, spawner: Spawner) -> Result<Option<Node>, AgentError> {
    let settings = &shared.config.workloads;
    let id = shared.spoke.identity().agent_id;
    let runtime = settings.runtime_dir.clone().unwrap_or_else(|| runtime_dir(&id.to_string()));
    let is_root = nix::unistd::geteuid().is_root();
    let folder = std::path::absolute(shared.state.path("")).map_err(AgentError::Workloads)?;
    let state = settings.data_dir.clone().unwrap_or_else(|| data_dir(&folder, is_root));
    if !settings.enabled {
        blueprint_agent_workload::clear(state, runtime, &spawner);
        return Ok(None);
    }
    if !is_root {
        info!("workloads run as the agent's own user: it is not root");
    }
    let config = WorkloadConfig {
        state,
        runtime,
        // The program of this process, also where its file was replaced since.
        agent: PathBuf::from("/proc/self/exe"),
        cgroups: Some(PathBuf::from("/sys/fs/cgroup")),
        allow_unlimited: settings.allow_unlimited,
        testing: settings.testing,
        engine: settings.engine.clone(),
        node: id.to_string(),
        proxy: shared.config.proxy.clone(),
        logs: settings.logs,
    };
    let port: Arc<dyn HubPort> = Arc::new(Port { shared: Arc::clone(shared), rpc_port: AtomicU16::new(0) });
    let (node, handle) = Node::new(config, port, spawner).map_err(AgentError::Workloads)?;
    // Set once, before anything runs that reads it.
    let _ = shared.node.set(handle);
    Ok(Some(node))
}

/// Beside the state folder, where workloads are other users; else in it.
fn data_dir(state: &Path, is_root: bool) -> PathBuf {
    if !is_root {
        return state.join("workloads");
    }
    let name = state.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    state.with_file_name(format!("{name}{SUFFIX}"))
}

/// Sockets' names are at most 107 bytes, so the folder's is short.
fn runtime_dir(agent: &str) -> PathBuf {
    let short: String = agent.chars().take(8).collect();
    let user = nix::unistd::geteuid();
    let name = if user.is_root() { "blueprint-agent".to_owned() } else { format!("blueprint-agent-{user}") };
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !user.is_root()).map(PathBuf::from);
    let first = own.unwrap_or_else(|| PathBuf::from("/run"));
    // Not everywhere is `/run` in memory.
    let shared = PathBuf::from("/dev/shm");
    let base = if is_in_memory(&first) || !is_in_memory(&shared) { first } else { shared };
    base.join(name).join(short)
}

fn is_in_memory(folder: &Path) -> bool {
    let kind = nix::sys::statfs::statfs(folder).map(|stat| stat.filesystem_type());
    kind.is_ok_and(|kind| kind == nix::sys::statfs::TMPFS_MAGIC)
}

/// Runs workloads until the agent ends.
pub(crate) async fn run(shared: Arc<Shared>, node: Option<Node>) -> Result<(), AgentError> {
    if let Some(node) = node {
        node.run(shared.idle.clone()).await;
    }
    shared.workloads_ended.cancel();
    shared.stop.cancelled().await;
    Ok(())
}

/// What the hub assigns; rows that make no sense are left out.
pub(crate) fn assigned(set: &v1::WorkloadSet) -> Assigned {
    let row = |row: &v1::WorkloadRef| {
        let service = ServiceKey { blueprint: row.blueprint_id, service: row.service_id };
        let slot = u8::try_from(row.slot).ok().filter(|slot| *slot < MAX_SLOTS)?;
        Some((Seat { service, slot }, Assignment { generation: row.generation, ends: row.ends }))
    };
    set.workloads.iter().filter_map(row).collect()
}

/// How all workloads are doing, for the hub.
pub(crate) fn report(statuses: &Statuses) -> v1::WorkloadReport {
    let rows = statuses.values().map(|status| v1::WorkloadStatus {
        blueprint_id: status.service.blueprint,
        service_id: status.service.service,
        generation: status.generation,
        state: status.state.label().to_owned(),
        reason: status.reason.clone(),
        restarts: status.restarts,
        pid: status.pid,
        exit_code: status.exit_code,
        since_millis: status.since.as_millis(),
        health: status.health.map(|health| v1::Health::from(health).into()),
        health_reason: status.health_reason.clone(),
        asks_move: status.asks_move,
        refused: status.refused,
        steps: status.steps.iter().map(wire_step).collect(),
    });
    v1::WorkloadReport { workloads: rows.collect() }
}

fn wire_step(step: &RecoveryStep) -> v1::RecoveryStep {
    v1::RecoveryStep {
        at_millis: step.at.as_millis(),
        kind: step.kind.label().to_owned(),
        reason: step.reason.clone(),
    }
}

/// The agent as workloads see it.
struct Port {
    shared: Arc<Shared>,
    /// Port of the hub's overlay address behind which the operator's RPC is; 0 for none. The hub says it with each
    /// workload.
    rpc_port: AtomicU16,
}

impl Port {
    fn caller(&self) -> Option<Caller> {
        let caller = self.shared.spoke.caller()?;
        Some(caller.max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn tell_bridge(&self, request: v1::BridgeRequest) -> Result<(), Status> {
        let away = || Status::unavailable("the hub cannot be reached now; try again in a moment");
        let mut caller = self.caller().ok_or_else(away)?;
        match timeout(CALL_TIMEOUT, caller.bridge(request)).await {
            Ok(Ok(_)) => Ok(()),
            // The code and the words alone: the rest is of another connection.
            Ok(Err(status)) => Err(Status::new(status.code(), status.message())),
            Err(_) => Err(away()),
        }
    }

    async fn ask(&self, service: ServiceKey, generation: u64) -> Result<Described, DescribeError> {
        let away = |why: &str| DescribeError::Away(why.to_owned());
        let mut caller = self.caller().ok_or_else(|| away("there is no control stream"))?;
        let request =
            v1::WorkloadRequest { blueprint_id: service.blueprint, service_id: service.service, generation };
        let answer = timeout(CALL_TIMEOUT, caller.workload(request)).await;
        let answer = match answer.map_err(|_| away("it did not answer in time"))? {
            Ok(answer) => answer.into_inner(),
            Err(status) if matches!(status.code(), Code::Aborted | Code::PermissionDenied) => {
                return Err(DescribeError::Changed);
            }
            Err(status) => return Err(away(status.message())),
        };
        self.rpc_port.store(u16::try_from(answer.rpc_port).unwrap_or(0), Ordering::Relaxed);
        let unreadable = |error: &dyn std::fmt::Display| DescribeError::Unreadable(error.to_string());
        let spec: WorkloadSpec =
            serde_json::from_str(&answer.document).map_err(|error| unreadable(&error))?;
        spec.check().map_err(|error| unreadable(&error))?;
        let bundle = match answer.sealed_keystore.as_slice() {
            [] => Bundle::default(),
            sealed => Bundle::open(&self.shared.spoke.identity().wireguard_key, service, generation, sealed)
                .map_err(|error| unreadable(&error))?,
        };
        Ok(Described { spec, bundle })
    }
}

impl HubPort for Port {
    fn describe(
        &self,
        service: ServiceKey,
        generation: u64,
    ) -> BoxFuture<'_, Result<Described, DescribeError>> {
        self.ask(service, generation).boxed()
    }

    fn bridge(&self, service: ServiceKey, call: Call) -> BoxFuture<'_, Result<(), Status>> {
        async move {
            let request = v1::BridgeRequest {
                blueprint_id: service.blueprint,
                service_id: service.service,
                call: Some(call),
                strangers: 0,
            };
            self.tell_bridge(request).await
        }
        .boxed()
    }

    fn strangers(&self, service: ServiceKey, count: u32) -> BoxFuture<'_, Result<(), Status>> {
        let request = v1::BridgeRequest {
            blueprint_id: service.blueprint,
            service_id: service.service,
            call: None,
            strangers: count,
        };
        self.tell_bridge(request).boxed()
    }

    fn artefact(
        &self,
        service: ServiceKey,
        generation: u64,
        sha256: Sha256Digest,
        offset: u64,
    ) -> BoxFuture<'_, Result<PushedReader, PushedError>> {
        async move {
            let away =
                |why: &str| PushedError { reason: format!("the hub cannot be asked: {why}"), may_pass: true };
            let mut caller = self.caller().ok_or_else(|| away("there is no control stream"))?;
            let request = v1::ArtefactRequest {
                blueprint_id: service.blueprint,
                service_id: service.service,
                generation,
                sha256: sha256.as_bytes().to_vec(),
                offset,
            };
            match timeout(CALL_TIMEOUT, caller.artefact(request)).await {
                Ok(Ok(answer)) => {
                    let reader: PushedReader = Box::new(Pieces::new(answer.into_inner()));
                    Ok(reader)
                }
                Ok(Err(status)) => {
                    let may_pass = !matches!(status.code(), Code::PermissionDenied | Code::InvalidArgument);
                    Err(PushedError { reason: status.message().to_owned(), may_pass })
                }
                Err(_) => Err(away("it did not answer in time")),
            }
        }
        .boxed()
    }

    fn registration(
        &self,
        service: ServiceKey,
        generation: u64,
        inputs: Result<Vec<u8>, String>,
    ) -> BoxFuture<'_, Result<(), Status>> {
        async move {
            let away = || Status::unavailable("the hub cannot be reached now");
            let mut caller = self.caller().ok_or_else(away)?;
            let pieces = pieces(service, generation, inputs);
            match timeout(CALL_TIMEOUT, caller.registration(futures_util::stream::iter(pieces))).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(status)) => Err(Status::new(status.code(), status.message())),
                Err(_) => Err(away()),
            }
        }
        .boxed()
    }

    fn rpc(
        &self,
        service: ServiceKey,
        generation: u64,
        kind: RpcKind,
    ) -> BoxFuture<'_, Result<RpcStream, String>> {
        async move {
            let port = match self.rpc_port.load(Ordering::Relaxed) {
                0 => return Err("the hub opens none; tunnel.rpc_port of the hub says where".to_owned()),
                port => port,
            };
            let hub = SocketAddr::from((self.shared.spoke.identity().tunnel.hub.v4, port));
            let opened = timeout(CALL_TIMEOUT, open_rpc(&self.shared, hub, service, generation, kind)).await;
            let stream = opened.unwrap_or_else(|_| Err("the hub did not answer in time".to_owned()))?;
            Ok::<RpcStream, _>(Box::new(stream))
        }
        .boxed()
    }

    fn offer(&self, offer: Offer) -> Result<(), String> {
        let Offer { seat, generation, local, check, pace, metrics } = offer;
        let Seat { service, slot } = seat;
        let port = free_port(&self.shared, seat, local).ok_or("this node has no free overlay port")?;
        let spec = ServiceSpec {
            service,
            port,
            local,
            check,
            pace,
            metrics,
            udp: false,
            run: Some(WorkloadRun { slot, generation }),
        };
        self.shared.offer_workload(spec).map_err(|error| error.to_string())
    }

    fn is_away(&self) -> bool {
        self.shared.spoke.caller().is_none()
    }

    fn healths(&self) -> watch::Receiver<Arc<Healths>> {
        self.shared.workload_health.subscribe()
    }

    fn withdraw(&self, seat: Seat) {
        if let Err(error) = self.shared.withdraw_workload(seat) {
            warn!(service = %seat, %error, "service of a workload not withdrawn");
        }
    }
}

/// Connects to the hub inside the tunnel, says for which workload, and reads whether that is granted.
async fn open_rpc(
    shared: &Shared,
    hub: SocketAddr,
    service: ServiceKey,
    generation: u64,
    kind: RpcKind,
) -> Result<TcpStream, String> {
    let broken =
        |error: &dyn std::fmt::Display| format!("the hub is not reached through the tunnel: {error}");
    let stream = shared.spoke.plane().tunnel().connect(hub, CALL_TIMEOUT).await;
    let mut stream = stream.map_err(|error| broken(&error))?;
    let line = format!("bp-rpc/1 {service} {generation} {kind}\n");
    stream.write_all(line.as_bytes()).await.map_err(|error| broken(&error))?;
    let mut answer = Vec::new();
    loop {
        match stream.read_u8().await.map_err(|error| broken(&error))? {
            b'\n' => break,
            byte if answer.len() < MAX_ANSWER_BYTES => answer.push(byte),
            _ => return Err("the hub gives an answer of another version".to_owned()),
        }
    }
    match String::from_utf8_lossy(&answer).as_ref() {
        "ok" => Ok(stream),
        other => Err(other.strip_prefix("refused ").unwrap_or("the hub gives no reason").to_owned()),
    }
}

/// What a workload captured, or why there is nothing, as the hub takes it.
fn pieces(
    service: ServiceKey,
    generation: u64,
    inputs: Result<Vec<u8>, String>,
) -> Vec<v1::RegistrationPiece> {
    let workload = v1::WorkloadRef {
        blueprint_id: service.blueprint,
        service_id: service.service,
        generation,
        ends: false,
        slot: 0,
    };
    let (failure, content) = match inputs {
        Ok(content) => (String::new(), content),
        Err(failure) => (failure, Vec::new()),
    };
    let first = v1::RegistrationPiece { workload: Some(workload), content: Vec::new(), failure };
    let piece = |content: &[u8]| v1::RegistrationPiece {
        workload: None,
        content: content.to_vec(),
        failure: String::new(),
    };
    std::iter::once(first).chain(content.chunks(PIECE_BYTES).map(piece)).collect()
}

/// The port that the service has on the machine, where that is free on the overlay; else another one.
fn free_port(shared: &Shared, seat: Seat, local: SocketAddr) -> Option<u16> {
    let table = shared.services();
    let is_free = |port: &u16| {
        // Whoever has that one would speak for the agent.
        *port != 0
            && ![AGENT_METRICS_PORT, AGENT_DOOR_PORT].contains(port)
            && table.iter().all(|entry| entry.spec.port != *port || entry.spec.seat() == Some(seat))
    };
    std::iter::once(local.port()).chain(FIRST_PORT..=u16::MAX).find(is_free)
}
