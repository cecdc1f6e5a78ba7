//! Sessions of the operator beside and through workloads, and on nodes: `exec` and `forward`.
//!
//! A request asks its connection to become a stream (`Upgrade: blueprint-session/1`). Two gates have to be open before: the hub's
//! configuration and a `[[session]]` of the policy document say yes here, and the node's own configuration there. What passes is
//! written down before it begins and at its end; what does not, with its code. Sessions end with their client, their hub and
//! their node, and there are never more than a few.

mod door;
mod exec;
mod forward;
mod pipe;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use blueprint_common_runtime::datagrams::Datagrams;
use blueprint_common_runtime::local_api::PROTOCOL;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::places::Places;
use blueprint_common_types::{AgentId, OverlayLease, ServiceKey, Timestamp, fill_random};
use blueprint_hub_registry_core::policy::{PolicyDocument, SessionKind};
use blueprint_hub_registry_core::{Agent, AuditBudget, AuditEvent, AuditKind};
use futures_util::future::BoxFuture;
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::sleep;

use crate::AdminState;
use crate::error::ApiError;
use crate::policy::Way;

pub(crate) use exec::exec;
pub(crate) use forward::{arrived, connect, forward, forward_node};

/// Commands at once, of the hub and of one node.
const EXECS: usize = 32;
const EXECS_OF_NODE: u32 = 8;

/// Forwards at once.
const FORWARDS: usize = 32;

/// Connections of forwards that are being opened at once. Each holds one of the 64 places of the hub's socket until its node
/// has answered, and a node may take its time.
const OPENING: usize = 32;

/// Refusals that are written down in one minute; the rest is counted.
const REFUSALS: u32 = 60;

/// Pause between two looks whether what is open may go on.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Longest body of a request in bytes.
const MAX_BODY: usize = 256 << 10;

/// Bytes in both directions.
pub trait SessionStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> SessionStream for T {}

/// Ways over the overlay.
pub trait Overlay: Send + Sync {
    /// Opens a TCP connection within a few seconds.
    ///
    /// # Errors
    ///
    /// One line for the operator.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, Result<Box<dyn SessionStream>, String>>;

    /// Opens a way for datagrams; nothing is sent.
    ///
    /// # Errors
    ///
    /// One line for the operator.
    fn connect_udp(&self, to: SocketAddr) -> BoxFuture<'_, Result<Box<dyn Datagrams>, String>>;
}

/// Which sessions the hub's configuration lets the operator begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionGates {
    /// Commands beside workloads.
    pub exec: bool,
    /// Forwards.
    pub forward: bool,
}

/// The sessions of a hub.
pub struct Sessions {
    gates: SessionGates,
    execs: Arc<Semaphore>,
    execs_of: Arc<Places<AgentId>>,
    forwards: Mutex<BTreeMap<String, Arc<forward::Forward>>>,
    forward_places: Arc<Semaphore>,
    opening: Semaphore,
    refusals: Mutex<AuditBudget>,
    begun: Family<Vec<(&'static str, &'static str)>, Counter>,
    refused: Family<Vec<(&'static str, String)>, Counter>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("gates", &self.gates).finish_non_exhaustive()
    }
}

impl Sessions {
    /// None yet; the counters have the prefix `hub_session_`.
    #[must_use]
    pub fn new(gates: SessionGates, metrics: &Metrics) -> Arc<Self> {
        let (begun, refused) = (Family::default(), Family::default());
        metrics.with(|registry| {
            let registry = registry.sub_registry_with_prefix("hub_session");
            registry.register("begun", "Sessions of the operator that began, by kind", begun.clone());
            registry.register("refused", "Refused sessions of the operator by reason", refused.clone());
        });
        Arc::new(Self {
            gates,
            execs: Arc::new(Semaphore::new(EXECS)),
            execs_of: Places::new(EXECS_OF_NODE),
            forwards: Mutex::default(),
            forward_places: Arc::new(Semaphore::new(FORWARDS)),
            opening: Semaphore::new(OPENING),
            refusals: Mutex::new(AuditBudget::new(REFUSALS, Instant::now())),
            begun,
            refused,
        })
    }

    fn began(&self, kind: &'static str) {
        self.begun.get_or_create(&vec![("kind", kind)]).inc();
    }
}

/// Why there is no session: a stable code, what, and the next step.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    code: String,
    message: String,
    hint: String,
}

/// Codes of nodes that become labels of a metric; others are `node`.
const CODES: [&str; 10] = [
    "exec_off_node",
    "exec_too_many",
    "exec_failed",
    "exec_container",
    "forward_off_node",
    "reverse_off_node",
    "port_failed",
    "not_running",
    "invalid",
    "gone",
];

impl Refusal {
    fn new(status: StatusCode, code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), hint: hint.into() }
    }

    fn denied(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message, hint)
    }

    fn unavailable(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message, hint)
    }

    fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many", message, "end another one first")
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let (status, code, message, hint) = error.parts();
        Self { status, code: code.to_owned(), message, hint }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { status, code, message, hint } = self;
        let body = serde_json::json!({"error": {"code": code, "message": message, "hint": hint}});
        (status, axum::Json(body)).into_response()
    }
}

/// What a session is with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Of {
    Service(ServiceKey),
    /// A node, whatever runs there, as it is called; without an id there is none, and nothing begins.
    Node(Option<AgentId>, String),
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::Node(_, name) => f.write_str(name),
        }
    }
}

impl Of {
    /// The service in whose name a node is asked.
    const fn service(&self) -> Option<ServiceKey> {
        match self {
            Self::Service(service) => Some(*service),
            Self::Node(..) => None,
        }
    }
}

/// Who asks for what, of which workload or node.
struct Asker {
    of: Of,
    who: &'static str,
    kind: SessionKind,
}

impl Asker {
    fn new(of: Of, way: Option<Way>, kind: SessionKind) -> Self {
        Self { of, who: way.unwrap_or(Way::Socket).name(), kind }
    }

    const fn audit_kinds(&self) -> [AuditKind; 3] {
        match self.kind {
            SessionKind::Exec => [AuditKind::ExecBegin, AuditKind::ExecEnd, AuditKind::ExecRefuse],
            SessionKind::Forward | SessionKind::Port(_) | SessionKind::Reverse(_) => {
                [AuditKind::ForwardBegin, AuditKind::ForwardEnd, AuditKind::ForwardRefuse]
            }
        }
    }

    /// The hub's own gates. Gives the name of the grant.
    async fn pass(&self, state: &AdminState) -> Result<String, Refusal> {
        let gates = state.sessions.gates;
        let (is_open, key) = match self.kind {
            SessionKind::Exec => (gates.exec, "exec.enabled"),
            SessionKind::Forward | SessionKind::Port(_) | SessionKind::Reverse(_) => {
                (gates.forward, "forward.enabled")
            }
        };
        if !is_open {
            let hint = format!("set {key} = true in hub.toml and start the hub again");
            return Err(Refusal::denied(
                "off_hub",
                format!("this hub does not allow it: {key} is false"),
                hint,
            ));
        }
        let failed = |error: &dyn fmt::Display| {
            Refusal::unavailable(format!("the policy cannot be read: {error}"), "the hub's log says more")
        };
        let record = state.store.policy().await.map_err(|error| failed(&error))?;
        let text = record.map(|record| record.document).unwrap_or_default();
        let document: PolicyDocument = text.parse().map_err(|error| failed(&error))?;
        let Self { kind, of, .. } = self;
        let (granted, key) = match of {
            Of::Service(service) => (document.lets(*kind, *service), "services"),
            Of::Node(node, _) => (document.lets_node(*kind, agent_of(state, *node)?.as_ref()), "nodes"),
        };
        granted.map(str::to_owned).ok_or_else(|| {
            let hint = format!(
                "add a [[session]] with {key} = [\"{of}\"] and allow = [\"{kind}\"] by `blueprint-hub policy set`"
            );
            Refusal::denied("not_granted", format!("no [[session]] of the policy allows {kind} with {of}"), hint)
        })
    }

    /// Waits until the hub's gates are shut to what they let in.
    async fn shut(&self, state: &AdminState) {
        loop {
            sleep(LOOK_AGAIN).await;
            // A store that cannot be read now has taken nothing back.
            let is_shut =
                |refusal: Refusal| [StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&refusal.status);
            if self.pass(state).await.is_err_and(is_shut) {
                return;
            }
        }
    }

    async fn note(&self, state: &AdminState, kind: AuditKind, detail: String) -> Result<(), Refusal> {
        self.store(state, AuditEvent::new(kind, &self.of, detail)).await
    }

    async fn store(&self, state: &AdminState, event: AuditEvent) -> Result<(), Refusal> {
        state.store.audit(event, Timestamp::from(SystemTime::now())).await.map_err(|error| {
            tracing::error!(%error, "audit row of a session not stored");
            Refusal::unavailable(
                "the audit log cannot be written, and so nothing is begun",
                "the hub's log says why",
            )
        })
    }

    async fn begin(&self, state: &AdminState, detail: String) -> Result<(), Refusal> {
        let [begin, ..] = self.audit_kinds();
        self.note(state, begin, detail).await
    }

    async fn end(&self, state: &AdminState, detail: String) {
        let [_, end, _] = self.audit_kinds();
        // It is in the log of the hub.
        let _ = self.note(state, end, detail).await;
    }

    /// Ends in the audit log what was to begin and did not.
    async fn not_begun(&self, state: &AdminState, name: &str, refusal: Refusal) -> Refusal {
        self.end(state, format!("session {name}: it did not begin: {}", refusal.code)).await;
        refusal
    }

    /// Counts a refusal, and writes it down within a budget: a command that is refused may ask again and again.
    async fn refuse(&self, state: &AdminState, refusal: Refusal) -> Response {
        let known =
            ["off_hub", "not_granted", "not_found", "too_many", "unavailable", "not_here", "not_the_agent"];
        let is_known = known.iter().chain(&CODES).any(|code| *code == refusal.code);
        let label = if is_known { refusal.code.clone() } else { "node".to_owned() };
        state.sessions.refused.get_or_create(&vec![("reason", label)]).inc();
        let [_, _, kind] = self.audit_kinds();
        let Self { who, .. } = self;
        let detail = format!("{}: {} by {who}: {}", refusal.code, self.kind, refusal.message);
        let suppressed = state.sessions.refusals.lock().take(Instant::now());
        if let Some(suppressed) = suppressed {
            // What cannot be stored is in the log of the hub.
            let _ = self.store(state, AuditEvent::new(kind, &self.of, detail).after(suppressed)).await;
        }
        refusal.into_response()
    }
}

/// The node of a session.
struct Runner {
    node: AgentId,
    name: String,
    lease: OverlayLease,
    generation: u64,
}

/// The machine of a node.
fn agent_of(state: &AdminState, node: Option<AgentId>) -> Result<Arc<Agent>, Refusal> {
    let snapshot = state.hub.snapshot();
    let agent = node.and_then(|node| snapshot.agents.get(&node)).map(|view| Arc::clone(&view.agent));
    agent.ok_or_else(|| {
        let hint = "`blueprint-hub node ls` lists all of them";
        Refusal::new(StatusCode::NOT_FOUND, "not_found", "the node is gone", hint)
    })
}

/// Finds the node of a session; of a workload's, `wanted` names one that it has to be.
fn runner(state: &AdminState, of: &Of, wanted: Option<&str>) -> Result<Runner, Refusal> {
    let service = match of {
        Of::Service(service) => *service,
        Of::Node(node, _) => {
            let agent = agent_of(state, *node)?;
            return Ok(Runner {
                node: agent.id,
                name: agent.name.clone(),
                lease: agent.lease,
                generation: 0,
            });
        }
    };
    let view = state.hub.workloads();
    let not_found = |text: String, hint: &str| Refusal::new(StatusCode::NOT_FOUND, "not_found", text, hint);
    let record = view.records.get(&service).ok_or_else(|| {
        not_found(format!("there is no workload for {service}"), "`blueprint-hub workload ls` shows them")
    })?;
    let hint = "`blueprint-hub workload show BLUEPRINT/SERVICE` says why";
    let node = record.node.ok_or_else(|| not_found(format!("the workload {service} has no node"), hint))?;
    let snapshot = state.hub.snapshot();
    let agent = snapshot.agents.get(&node).map(|view| Arc::clone(&view.agent));
    let agent = agent.ok_or_else(|| not_found(format!("the node of {service} is gone"), hint))?;
    if let Some(wanted) = wanted {
        let is_it = agent.name == wanted || agent.id.to_string() == wanted;
        if !is_it {
            let text = format!("the workload {service} runs on node {}, not on {wanted}", agent.name);
            return Err(Refusal::new(StatusCode::CONFLICT, "not_here", text, "leave --node out"));
        }
    }
    Ok(Runner { node, name: agent.name.clone(), lease: agent.lease, generation: record.generation })
}

/// Takes a request apart: what becomes its stream, and its body.
async fn parts<T: DeserializeOwned>(mut request: Request) -> Result<(OnUpgrade, T), ApiError> {
    let upgrade = upgrade_of(&mut request)?;
    let bytes = axum::body::to_bytes(request.into_body(), MAX_BODY).await;
    let shape = "docs/api.md shows what may be asked for";
    let bytes =
        bytes.map_err(|_| ApiError::invalid(format!("the body has more than {MAX_BODY} bytes"), shape))?;
    let body = serde_json::from_slice(&bytes).map_err(|error| ApiError::invalid(error.to_string(), shape))?;
    Ok((upgrade, body))
}

fn upgrade_of(request: &mut Request) -> Result<OnUpgrade, ApiError> {
    let asks = |name, value: &str| {
        let found = request.headers().get(name).and_then(|found: &HeaderValue| found.to_str().ok());
        found.is_some_and(|found| found.eq_ignore_ascii_case(value))
    };
    if asks(header::CONNECTION, "upgrade") && asks(header::UPGRADE, PROTOCOL) {
        return Ok(hyper::upgrade::on(request));
    }
    let text = "this needs a connection that becomes a stream";
    let hint = format!("send `Connection: upgrade` and `Upgrade: {PROTOCOL}` over HTTP/1.1");
    Err(ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", text, hint))
}

/// What a task answers that goes on behind its answer: it ends what it began also where nobody waits for it any more.
async fn answer_of(answer: oneshot::Receiver<Response>) -> Result<Response, ApiError> {
    answer.await.map_err(|_| ApiError::unavailable("the hub is stopping"))
}

/// The answer after which the connection is a stream.
fn switching() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

/// A name of a session that nobody guesses.
fn session_name() -> Result<String, Refusal> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes).map_err(|error| {
        Refusal::unavailable(
            format!("the system has no randomness: {error}"),
            "look at the machine of the hub",
        )
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Cuts what a node says of itself: no control characters, and not for ever.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}
