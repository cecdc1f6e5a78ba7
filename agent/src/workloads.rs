//! Workloads that the hub assigns, and what they need of the rest of the agent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blueprint_agent_workload::{
    Assigned, Assignment, DescribeError, Described, HubPort, Node, Offer, Statuses, WorkloadConfig,
};
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::workload::{Bundle, WorkloadSpec};
use blueprint_common_types::{HealthCheck, ServiceKey};
use blueprint_proto::v1;
use blueprint_proto::v1::bridge_request::Call;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::warn;

use crate::agent::AgentError;
use crate::service::ServiceSpec;
use crate::session::Caller;
use crate::shared::Shared;

/// How long the hub may take to answer a call of a workload.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest description of a workload that is read: a document and a keystore.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Bytes of one piece of what a workload captured for its registration.
const PIECE_BYTES: usize = 32 * 1024;

/// First overlay port of workloads whose own port is taken.
const FIRST_PORT: u16 = 20_000;

/// What the name of the folder of data and artefacts ends in, beside the agent's state folder: that one stays shut to
/// the users of workloads.
const SUFFIX: &str = "-workloads";

/// How workloads run on this machine.
#[derive(Debug, Clone, Default)]
pub struct WorkloadSettings {
    /// Whether this machine runs any.
    pub enabled: bool,
    /// Whether programs that are on this machine already may be run; for development.
    pub testing: bool,
    /// Folder for data and artefacts; beside the state folder where unset.
    pub data_dir: Option<PathBuf>,
    /// Folder in memory for sockets and keys; one below `/run` or `/dev/shm` where unset.
    pub runtime_dir: Option<PathBuf>,
}

/// Makes the task that runs workloads, where this machine does.
pub(crate) fn node(shared: &Arc<Shared>, spawner: Spawner) -> Result<Option<Node>, AgentError> {
    let settings = &shared.config.workloads;
    if !settings.enabled {
        return Ok(None);
    }
    let id = shared.identity().agent_id;
    let runtime = settings.runtime_dir.clone().unwrap_or_else(|| runtime_dir(&id.to_string()));
    let is_root = nix::unistd::geteuid().is_root();
    let folder = std::path::absolute(shared.state.path("")).map_err(AgentError::Workloads)?;
    let config = WorkloadConfig {
        state: settings.data_dir.clone().unwrap_or_else(|| beside(&folder)),
        runtime,
        // The program of this process, also where its file was replaced since.
        agent: PathBuf::from("/proc/self/exe"),
        cgroups: is_root.then(|| PathBuf::from("/sys/fs/cgroup")),
        testing: settings.testing,
    };
    let port: Arc<dyn HubPort> = Arc::new(Port(Arc::clone(shared)));
    let (node, handle) = Node::new(config, port, spawner).map_err(AgentError::Workloads)?;
    // Set once, before anything runs that reads it.
    let _ = shared.node.set(handle);
    Ok(Some(node))
}

fn beside(state: &Path) -> PathBuf {
    let name = state.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    state.with_file_name(format!("{name}{SUFFIX}"))
}

/// Sockets' names are at most 107 bytes, so the folder's is short.
fn runtime_dir(agent: &str) -> PathBuf {
    let short: String = agent.chars().take(8).collect();
    let base = if nix::unistd::geteuid().is_root() {
        PathBuf::from("/run/blueprint-agent")
    } else {
        match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(folder) => PathBuf::from(folder).join("blueprint-agent"),
            None => PathBuf::from(format!("/dev/shm/blueprint-agent-{}", nix::unistd::geteuid())),
        }
    };
    base.join(short)
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
        (service, Assignment { generation: row.generation, ends: row.ends })
    };
    set.workloads.iter().map(row).collect()
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
    });
    v1::WorkloadReport { workloads: rows.collect() }
}

/// The agent as workloads see it.
struct Port(Arc<Shared>);

impl Port {
    fn caller(&self) -> Option<Caller> {
        let caller = self.0.caller.lock().clone()?;
        Some(caller.max_decoding_message_size(MAX_MESSAGE_BYTES))
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
        let unreadable = |error: &dyn std::fmt::Display| DescribeError::Unreadable(error.to_string());
        let spec: WorkloadSpec =
            serde_json::from_str(&answer.document).map_err(|error| unreadable(&error))?;
        spec.check().map_err(|error| unreadable(&error))?;
        let bundle = match answer.sealed_keystore.as_slice() {
            [] => Bundle::default(),
            sealed => Bundle::open(&self.0.identity().wireguard_key, service, generation, sealed)
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
            let away = || Status::unavailable("the hub cannot be reached now; try again in a moment");
            let mut caller = self.caller().ok_or_else(away)?;
            let request = v1::BridgeRequest {
                blueprint_id: service.blueprint,
                service_id: service.service,
                call: Some(call),
            };
            match timeout(CALL_TIMEOUT, caller.bridge(request)).await {
                Ok(Ok(_)) => Ok(()),
                // The code and the words alone: the rest is of another connection.
                Ok(Err(status)) => Err(Status::new(status.code(), status.message())),
                Err(_) => Err(away()),
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

    fn offer(&self, offer: Offer) -> Result<(), String> {
        let Offer { service, local } = offer;
        let port = free_port(&self.0, service, local).ok_or("this node has no free overlay port")?;
        let spec = ServiceSpec { service, port, local, check: HealthCheck::Tcp, udp: false };
        self.0.offer_workload(spec).map_err(|error| error.to_string())
    }

    fn withdraw(&self, service: ServiceKey) {
        if let Err(error) = self.0.withdraw_workload(service) {
            warn!(%service, %error, "service of a workload not withdrawn");
        }
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
fn free_port(shared: &Shared, service: ServiceKey, local: SocketAddr) -> Option<u16> {
    let table = shared.services();
    let is_free = |port: &u16| {
        *port != 0 && table.iter().all(|entry| entry.spec.port != *port || entry.spec.service == service)
    };
    std::iter::once(local.port()).chain(FIRST_PORT..=u16::MAX).find(is_free)
}
