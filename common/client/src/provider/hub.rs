//! A hub and the nodes that have joined it, as infrastructure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::workload::{GpuPolicy, ResourceLimits, WorkloadState};
use blueprint_common_types::{AgentId, JoinLine, Micros, ServiceKey};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api::{Api, ApiError};
use super::{
    Cost, DeploymentSpec, InstanceState, InstanceStatus, NodeResources, RemoteInfrastructureProvider,
    RemoteInstance, Resources,
};
use crate::tunnel::{EstablishError, TunnelHandle, TunnelOptions};

/// Name of the API's socket in a hub's state folder.
const SOCKET: &str = "hub.sock";

/// Life of a join token that is spent at once, in seconds.
const TOKEN_TTL_SECS: u64 = 60;

/// How this process reaches the instances of a hub.
#[derive(Debug, Clone)]
pub struct TunnelHub {
    /// As what, and with which folder. Where the folder holds no identity and no line is given, the provider has the hub
    /// make a token for one join.
    pub options: TunnelOptions,
}

/// Why a hub did not do something.
#[derive(Debug, thiserror::Error)]
pub enum HubProviderError {
    /// There is a workload for this service already.
    #[error("{service} is deployed already; terminate it first")]
    AlreadyDeployed {
        /// The service.
        service: ServiceKey,
    },
    /// There is no such instance.
    #[error("there is no instance of {service}")]
    NotFound {
        /// The service.
        service: ServiceKey,
    },
    /// The hub refuses: its words, and what to do.
    #[error("{0}")]
    Refused(String),
    /// No price is known.
    #[error("no price is known: {missing}")]
    NoPrice {
        /// What is missing.
        missing: String,
    },
    /// The hub's API cannot be used.
    #[error("cannot {action}")]
    Api {
        /// What was attempted.
        action: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This process did not become a spoke.
    #[error("cannot establish the tunnel")]
    Tunnel(#[from] EstablishError),
}

/// A hub as infrastructure: instances are workloads on the nodes that have joined it.
///
/// Nothing here orders a machine: where no node is connected that may run an instance, it is [`InstanceState::Unplaced`]
/// until one is. A cost is that of the machine which the hub would take for it, from its list of prices. Whoever may open
/// the hub's socket is its operator.
#[derive(Debug, Clone)]
pub struct HubProvider {
    api: Api,
}

#[derive(Deserialize)]
struct WorkloadRow {
    service: ServiceKey,
    node: Option<String>,
    state: String,
    reason: String,
    restarts: u32,
    exit_code: Option<i32>,
}

#[derive(Deserialize)]
struct Workloads {
    workloads: Vec<WorkloadRow>,
}

#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<NodeRow>,
}

#[derive(Deserialize)]
struct NodeRow {
    id: AgentId,
    name: String,
    state: String,
}

#[derive(Deserialize)]
struct Qos {
    latest: Option<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    machine: Machine,
}

#[derive(Deserialize)]
struct Machine {
    cpu_percent: f32,
    memory_used_bytes: u64,
    memory_total_bytes: u64,
    disk_used_bytes: u64,
    disk_total_bytes: u64,
}

#[derive(Deserialize)]
struct Estimate {
    /// Machines in the order in which they would be tried.
    plan: Vec<Candidate>,
}

#[derive(Deserialize)]
struct Candidate {
    /// Absent where the price is in a currency without a rate.
    cost: Option<CostRow>,
    #[serde(flatten)]
    machine: MachineOffer,
}

#[derive(Deserialize)]
struct MachineOffer {
    provider: String,
    plan: String,
    region: String,
    freshness: String,
}

#[derive(Deserialize)]
struct CostRow {
    final_hourly: String,
    monthly: String,
    currency: String,
}

#[derive(Deserialize)]
struct Token {
    join_line: String,
}

impl HubProvider {
    /// The hub with this state folder, on this machine.
    #[must_use]
    pub fn new(state: impl AsRef<Path>) -> Self {
        Self::at(state.as_ref().join(SOCKET))
    }

    /// The hub whose JSON API is served at this Unix socket.
    #[must_use]
    pub const fn at(socket: PathBuf) -> Self {
        Self { api: Api { socket } }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        action: &'static str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, HubProviderError> {
        let answer = self.api.ask(method, path, body).await.map_err(|error| failed(action, error))?;
        serde_json::from_value(answer).map_err(|error| failed(action, ApiError::Answer(error.to_string())))
    }

    async fn join_line(&self) -> Result<JoinLine, HubProviderError> {
        let action = "have a join token made";
        let asked = json!({ "ttl_secs": TOKEN_TTL_SECS, "uses": 1, "label": "a program's tunnel" });
        let token: Token = self.ask(action, Method::POST, "/v1/tokens", Some(&asked)).await?;
        // The text is a secret: what does not parse is not repeated.
        token.join_line.parse().map_err(|_| failed(action, ApiError::Answer("no join line".to_owned())))
    }

    async fn node(&self, row: NodeRow, workloads: usize) -> Result<NodeResources, HubProviderError> {
        let path = format!("/v1/nodes/{}/qos?points=0", row.id);
        let machine = match self.ask("read a node's sample", Method::GET, &path, None).await {
            Ok(Qos { latest }) => latest.map(|sample| sample.machine),
            // It left meanwhile.
            Err(HubProviderError::Refused(_)) => None,
            Err(error) => return Err(error),
        };
        let machine = machine.as_ref();
        Ok(NodeResources {
            id: row.id,
            name: row.name,
            is_up: row.state == "up",
            cpu_percent: machine.map(|machine| machine.cpu_percent),
            memory_total_bytes: machine.map(|machine| machine.memory_total_bytes),
            memory_used_bytes: machine.map(|machine| machine.memory_used_bytes),
            disk_total_bytes: machine.map(|machine| machine.disk_total_bytes),
            disk_used_bytes: machine.map(|machine| machine.disk_used_bytes),
            workloads,
        })
    }
}

impl RemoteInfrastructureProvider for HubProvider {
    type InstanceId = ServiceKey;
    type NetworkConfig = TunnelHub;
    type Error = HubProviderError;

    async fn deploy_instance(
        &self,
        spec: DeploymentSpec,
    ) -> Result<RemoteInstance<ServiceKey>, HubProviderError> {
        let DeploymentSpec { service, workload, nodes, keystore } = spec;
        let files = keystore.iter().map(|(path, content)| (path, STANDARD.encode(content.expose())));
        let files: BTreeMap<_, _> = files.collect();
        // Made from generation 0: what is there already is not replaced.
        let mut body = json!({ "spec": workload, "nodes": nodes, "generation": 0 });
        if let (false, Some(fields)) = (files.is_empty(), body.as_object_mut()) {
            fields.insert("keystore".to_owned(), json!(files));
        }
        let path = workload_path(service);
        let answer = self.api.ask(Method::PUT, &path, Some(&body)).await;
        let answer = answer.map_err(|error| match error.status() {
            Some(StatusCode::CONFLICT) => HubProviderError::AlreadyDeployed { service },
            Some(_) | None => failed("deploy an instance", error),
        })?;
        let status = status(row("deploy an instance", answer)?)?;
        Ok(RemoteInstance { id: service, status })
    }

    async fn establish_tunnel(&self, network: &TunnelHub) -> Result<TunnelHandle, HubProviderError> {
        let options = network.options.clone();
        match TunnelHandle::establish(options.clone()).await {
            Err(EstablishError::NotJoined { .. }) => {
                let line = self.join_line().await?;
                Ok(TunnelHandle::establish(options.line(line)).await?)
            }
            established => Ok(established?),
        }
    }

    async fn get_instance_status(&self, id: &ServiceKey) -> Result<InstanceStatus, HubProviderError> {
        let answer = self.api.ask(Method::GET, &workload_path(*id), None).await;
        let answer = answer.map_err(|error| match error.status() {
            Some(StatusCode::NOT_FOUND) => HubProviderError::NotFound { service: *id },
            Some(_) | None => failed("read an instance's status", error),
        })?;
        status(row("read an instance's status", answer)?)
    }

    async fn terminate_instance(&self, id: &ServiceKey) -> Result<(), HubProviderError> {
        match self.api.ask(Method::DELETE, &workload_path(*id), None).await {
            Ok(_) | Err(ApiError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(()),
            Err(error) => Err(failed("terminate an instance", error)),
        }
    }

    async fn get_available_resources(&self) -> Result<Resources, HubProviderError> {
        let action = "list the nodes";
        let Nodes { nodes: rows } = self.ask(action, Method::GET, "/v1/nodes", None).await?;
        let Workloads { workloads } = self.ask(action, Method::GET, "/v1/workloads", None).await?;
        let mut nodes = Vec::with_capacity(rows.len());
        for row in rows {
            // The API names nodes; those that share a name share the count, too.
            let held = workloads.iter().filter(|workload| workload.node.as_ref() == Some(&row.name)).count();
            nodes.push(self.node(row, held).await?);
        }
        Ok(Resources { nodes })
    }

    async fn estimate_cost(&self, spec: &DeploymentSpec) -> Result<Cost, HubProviderError> {
        let action = "estimate a cost";
        let query = [("spec", needs(&spec.workload.limits).to_string())];
        let query = serde_urlencoded::to_string(query)
            .map_err(|error| failed(action, ApiError::Answer(error.to_string())))?;
        let answer = self.api.ask(Method::GET, &format!("/v1/estimate?{query}"), None).await;
        let answer = answer.map_err(|error| match error.status() {
            Some(StatusCode::UNPROCESSABLE_ENTITY) => {
                HubProviderError::NoPrice { missing: error.to_string() }
            }
            Some(_) | None => failed(action, error),
        })?;
        let estimate: Estimate = serde_json::from_value(answer)
            .map_err(|error| failed(action, ApiError::Answer(error.to_string())))?;
        let no_price =
            || HubProviderError::NoPrice { missing: "the hub names no machine with a price".to_owned() };
        let priced = estimate.plan.into_iter().find_map(|row| Some((row.cost?, row.machine)));
        let (cost, machine) = priced.ok_or_else(no_price)?;
        let amount = |text: &str| {
            text.parse::<Micros>().map_err(|error| failed(action, ApiError::Answer(error.to_string())))
        };
        Ok(Cost {
            hourly: amount(&cost.final_hourly)?,
            monthly: amount(&cost.monthly)?,
            currency: cost.currency,
            machine: format!("{} of {} in {}", machine.plan, machine.provider, machine.region),
            price: machine.freshness,
        })
    }
}

/// What an instance needs of a machine, as the hub's estimates are asked.
fn needs(limits: &ResourceLimits) -> Value {
    let gpu = (limits.gpu_policy == GpuPolicy::Required && limits.gpu_count > 0).then(
        || json!({ "count": limits.gpu_count, "min_vram_mib": limits.gpu_min_vram_gb.saturating_mul(1024) }),
    );
    json!({
        "cpu_millis": limits.cpu_millis,
        "memory_bytes": limits.memory_bytes,
        "storage_bytes": limits.storage_bytes,
        "gpu": gpu,
    })
}

fn workload_path(service: ServiceKey) -> String {
    format!("/v1/workloads/{}/{}", service.blueprint, service.service)
}

fn row(action: &'static str, answer: Value) -> Result<WorkloadRow, HubProviderError> {
    serde_json::from_value(answer).map_err(|error| failed(action, ApiError::Answer(error.to_string())))
}

fn status(row: WorkloadRow) -> Result<InstanceStatus, HubProviderError> {
    let state = match row.state.as_str() {
        "unplaced" => InstanceState::Unplaced,
        "assigned" => InstanceState::Assigned,
        "unknown" => InstanceState::Unknown,
        other => InstanceState::Node(other.parse::<WorkloadState>().map_err(|error| {
            let text = format!("{} is in a state that is not known here: {error}", row.service);
            failed("read an instance's status", ApiError::Answer(text))
        })?),
    };
    let WorkloadRow { node, reason, restarts, exit_code, .. } = row;
    Ok(InstanceStatus { state, node, reason, restarts, exit_code })
}

fn failed(action: &'static str, error: ApiError) -> HubProviderError {
    match error {
        ApiError::Refused { message, hint, .. } => HubProviderError::Refused(format!("{message}; {hint}")),
        ApiError::Connect(_) | ApiError::TimedOut | ApiError::Broken(_) | ApiError::Answer(_) => {
            HubProviderError::Api { action, source: error.into() }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    /// What a provider makes of one answer of its hub.
    async fn told(answer: &str) -> Result<InstanceStatus, HubProviderError> {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let provider = HubProvider::new(folder.path());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0u8; 4096];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /v1/workloads/7/42 HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(serve, provider.get_instance_status(&SERVICE)).1
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn row(state: &str) -> String {
        let row = json!({
            "service": "7/42", "node": "gpu-1", "state": state, "reason": "", "restarts": 2, "exit_code": 1, "pid": 9,
        });
        answer("200 OK", &row.to_string())
    }

    #[tokio::test]
    async fn every_state_of_the_hub_has_a_meaning_and_others_are_errors() {
        for (text, state) in [
            ("unplaced", InstanceState::Unplaced),
            ("assigned", InstanceState::Assigned),
            ("unknown", InstanceState::Unknown),
            ("running", InstanceState::Node(WorkloadState::Running)),
            ("backing-off", InstanceState::Node(WorkloadState::BackingOff)),
        ] {
            let status = told(&row(text)).await.unwrap();
            assert_eq!((status.state, status.restarts, status.exit_code), (state, 2, Some(1)), "{text}");
        }
        assert!(matches!(told(&row("of the future")).await, Err(HubProviderError::Api { .. })));
    }

    #[tokio::test]
    async fn refusals_are_told_in_the_hubs_words_and_nonsense_is_no_answer() {
        let error =
            |code: &str| json!({"error": {"code": code, "message": "why", "hint": "what next"}}).to_string();
        let gone = told(&answer("404 Not Found", &error("not_found"))).await;
        assert!(matches!(gone, Err(HubProviderError::NotFound { service: SERVICE })), "{gone:?}");
        let busy = told(&answer("503 Service Unavailable", &error("unavailable"))).await;
        assert!(
            matches!(&busy, Err(HubProviderError::Refused(text)) if text == "why; what next"),
            "{busy:?}"
        );
        for nonsense in [
            answer("200 OK", "{}"),
            answer("200 OK", "no JSON"),
            answer("500 Internal Server Error", "no JSON"),
            "HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\ncut off".to_owned(),
            String::new(),
        ] {
            let told = told(&nonsense).await;
            assert!(matches!(told, Err(HubProviderError::Api { .. })), "{nonsense}: {told:?}");
        }
    }
}
