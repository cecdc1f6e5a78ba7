//! Workloads: what nodes run.

mod secrets;

use std::collections::{BTreeMap, BTreeSet};

use axum::Extension;
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use blueprint_common_types::workload::{Source, WorkloadSpec, WorkloadState, WorkloadStatus};
use blueprint_common_types::{AgentId, Health, ServiceKey};
use blueprint_hub_registry_core::RegistrySnapshot;
use blueprint_hub_registry_core::workload::{
    NoNode, WorkloadChange, WorkloadChangeError, WorkloadEvent, WorkloadRecord, WorkloadsView,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::policy::Way;
use crate::views::{now, time};
use crate::{AdminState, updates};

pub(crate) use secrets::{Login, Sealed, Secrets, check_login, seal};

/// Largest request body in bytes: a document and a keystore.
pub(crate) const MAX_BODY: usize = 512 * 1024;

/// Longest document, in bytes; agents take no longer ones.
const MAX_DOCUMENT: usize = 256 * 1024;

/// Rows of its journal that are shown with a workload; the others are asked for by `events`.
const SHOWN_EVENTS: usize = 10;

pub(crate) const SHAPE: &str = "docs/workloads.md shows every field of a workload";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetWorkload {
    spec: WorkloadSpec,
    /// Names or ids; empty for every node.
    #[serde(default)]
    nodes: Vec<String>,
    /// Files by their path below the keystore, in base64; absent to keep those that it has.
    keystore: Option<BTreeMap<String, String>>,
    /// How its node signs in at the registry of its image; absent to keep what it has.
    registry: Option<Login>,
    /// Generation that it was made from; 0 where there was none.
    generation: Option<u64>,
}

pub(crate) async fn list(State(state): State<AdminState>) -> Json<Value> {
    let (view, snapshot) = (state.hub.workloads(), state.hub.snapshot());
    let rows: Vec<_> = view.records.values().map(|record| row(&state, record, &snapshot)).collect();
    Json(json!({ "workloads": rows }))
}

pub(crate) async fn show(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let view = state.hub.workloads();
    let record = view.records.get(&key).ok_or_else(|| unknown(key))?;
    let snapshot = state.hub.snapshot();
    let mut shown = row(&state, record, &snapshot);
    let events = state.hub.workload_events(key).await?;
    if let Some(fields) = shown.as_object_mut() {
        let newest = events.iter().skip(events.len().saturating_sub(SHOWN_EVENTS));
        let newest: Vec<_> = newest.map(|event| event_row(event, &snapshot)).collect();
        fields.insert("events".to_owned(), newest.into());
        let spec: Value = serde_json::from_str(&record.document).unwrap_or_default();
        fields.insert("spec".to_owned(), spec);
        let taken_back = updates::taken_back(&state, record).await?;
        fields.insert("taken_back".to_owned(), taken_back);
    }
    Ok(Json(shown))
}

pub(crate) async fn events(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    if !state.hub.workloads().records.contains_key(&key) {
        return Err(unknown(key));
    }
    let (events, snapshot) = (state.hub.workload_events(key).await?, state.hub.snapshot());
    let rows: Vec<_> = events.iter().map(|event| event_row(event, &snapshot)).collect();
    Ok(Json(json!({ "service": key, "events": rows })))
}

fn event_row(event: &WorkloadEvent, snapshot: &RegistrySnapshot) -> Value {
    json!({
        "at": time(event.at),
        "kind": event.label(),
        "node": event.node.as_ref().map(|node| node_name(node, snapshot)),
        "generation": event.generation,
        "reason": event.reason,
    })
}

/// Name of a node, or its id where it is not joined any more.
pub(crate) fn node_name(id: &AgentId, snapshot: &RegistrySnapshot) -> String {
    snapshot.agents.get(id).map_or_else(|| id.to_string(), |view| view.agent.name.clone())
}

pub(crate) async fn set(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    way: Option<Extension<Way>>,
    body: Result<Json<SetWorkload>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let Json(asked) = body.map_err(|error| ApiError::invalid(error.body_text(), SHAPE))?;
    asked.spec.check().map_err(|error| ApiError::invalid(error.to_string(), SHAPE))?;
    check_lease(&state, key, &asked.spec)?;
    let is_leased = asked.spec.lease.is_some();
    let snapshot = state.hub.snapshot();
    let nodes: BTreeSet<AgentId> = asked
        .nodes
        .iter()
        .map(|name| crate::nodes::find(&snapshot, name).map(|view| view.agent.id))
        .collect::<Result<_, _>>()?;
    let document = document(&asked.spec)?;
    check_login(&asked.spec, asked.registry.as_ref())?;
    let before = state.hub.workloads().records.get(&key).and_then(|record| record.keystore.clone());
    let secrets = Secrets { keystore: asked.keystore.as_ref(), registry: asked.registry.as_ref() };
    let sealed = seal(&state, key, before, &asked.spec.source, &secrets)?;
    let change = WorkloadChange {
        service: key,
        document,
        nodes,
        keystore: sealed.bundle.clone(),
        replaces: asked.generation,
        by: (!is_leased).then(|| by(way)),
        summary: summary(&asked, &sealed),
        now: now(),
    };
    match state.hub.set_workload(change).await {
        Ok(record) => Ok(Json(sealed.tell(key, row(&state, &record, &state.hub.snapshot())))),
        Err(WorkloadChangeError::Conflict { current }) => Err(ApiError::conflict(
            format!("the workload {key} has generation {current} by now"),
            "read it again, and make the change to that",
        )),
        Err(error @ WorkloadChangeError::Updating { .. }) => {
            Err(ApiError::conflict(error.to_string(), updates::ABORT))
        }
        Err(WorkloadChangeError::Store(error)) => Err(error.into()),
    }
}

/// By which way the operator came.
pub(crate) fn by(way: Option<Extension<Way>>) -> String {
    way.map_or(Way::Socket, |Extension(way)| way).name().to_owned()
}

/// The document as it is stored, where it is not too long.
pub(crate) fn document(spec: &WorkloadSpec) -> Result<String, ApiError> {
    let document = json!(spec).to_string();
    if document.len() > MAX_DOCUMENT {
        return Err(ApiError::invalid(
            format!("the workload has {} bytes as JSON, the most are {MAX_DOCUMENT}", document.len()),
            "give large values as files of the artefact",
        ));
    }
    Ok(document)
}

pub(crate) async fn remove(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    if state.hub.remove_workload(key).await? {
        Ok(Json(json!({ "removed": key })))
    } else {
        Err(unknown(key))
    }
}

/// Leases are given to launchers by the hub; what has one may be changed with it, or taken over without it.
pub(crate) fn check_lease(state: &AdminState, key: ServiceKey, spec: &WorkloadSpec) -> Result<(), ApiError> {
    let Some(lease) = &spec.lease else { return Ok(()) };
    let view = state.hub.workloads();
    let stored = view.records.get(&key).and_then(|record| serde_json::from_str(&record.document).ok());
    if stored.and_then(|stored: WorkloadSpec| stored.lease).as_ref() == Some(lease) {
        return Ok(());
    }
    Err(ApiError::invalid(
        "lease: only a launcher has one",
        "leave it out: the workload is the operator's then",
    ))
}

pub(crate) fn unknown(key: ServiceKey) -> ApiError {
    ApiError::not_found(format!("there is no workload for {key}"), "blueprint-hub workload list shows them")
}

fn summary(asked: &SetWorkload, sealed: &Sealed) -> String {
    let files = asked.keystore.as_ref().map_or(0, BTreeMap::len);
    let nodes = if asked.nodes.is_empty() { "any node".to_owned() } else { asked.nodes.join(", ") };
    let login = match &sealed.left_out {
        Some(registry) => format!(", the login of {registry} left out"),
        None if asked.registry.is_some() => ", a login of its registry".to_owned(),
        None => String::new(),
    };
    format!("{} source, {files} keys{login}, on {nodes}", asked.spec.source.kind())
}

pub(crate) fn row(state: &AdminState, record: &WorkloadRecord, snapshot: &RegistrySnapshot) -> Value {
    let name = |id: &AgentId| node_name(id, snapshot);
    let view = state.hub.workloads();
    let status = view.statuses.get(&record.service);
    let source = serde_json::from_str::<WorkloadSpec>(&record.document);
    let degraded = view.degraded.get(&record.service);
    let (label, reason) = match (status, degraded) {
        (Some(status), Some(why))
            if !matches!(status.state, WorkloadState::Ended | WorkloadState::Failed) =>
        {
            ("degraded", format!("{}; {why}", ill(status)))
        }
        (Some(status), _) if status.reason.is_empty() && status.health == Some(Health::Unhealthy) => {
            (status.state.label(), ill(status))
        }
        (Some(status), Some(why)) => (status.state.label(), format!("{}; {why}", status.reason)),
        (Some(status), None) => (status.state.label(), status.reason.clone()),
        (None, _) => unsaid(record, &view, snapshot),
    };
    json!({
        "service": record.service,
        "generation": record.generation,
        "source": source.as_ref().map(|spec| spec.source.kind()).unwrap_or_default(),
        "nodes": record.nodes.iter().map(name).collect::<Vec<_>>(),
        "node": record.node.as_ref().map(name),
        "state": label,
        "reason": reason,
        "health": status.and_then(|status| status.health),
        "health_reason": status.map(|status| &status.health_reason),
        "asks_move": status.is_some_and(|status| status.asks_move),
        "refused": status.is_some_and(|status| status.refused),
        "restarts": status.map_or(0, |status| status.restarts),
        "exit_code": status.and_then(|status| status.exit_code),
        "launcher": source.as_ref().ok().and_then(|spec| spec.lease.as_ref()).map(|lease| &lease.launcher),
        "pid": status.and_then(|status| status.pid),
        "limits_held": record.node.and_then(|node| limits_held(&source, node, snapshot)),
        "since": status.map(|status| time(status.since)),
        "has_keystore": record.keystore.is_some(),
        "changed_at": time(record.changed_at),
        "replicas": copies(record, &view, snapshot),
        "leaving": leaving(record, &view, snapshot),
        "version": record.version,
        "update": view.updates.get(&record.service).map(|update| updates::shown(update, snapshot)),
    })
}

/// Whether its limits hold where it runs: an engine holds those of containers, else its node says. `None` where that does not.
fn limits_held(
    source: &Result<WorkloadSpec, serde_json::Error>,
    node: AgentId,
    snapshot: &RegistrySnapshot,
) -> Option<bool> {
    if source.as_ref().is_ok_and(|spec| matches!(spec.source, Source::Container { .. })) {
        return Some(true);
    }
    snapshot.agents.get(&node)?.inventory.as_ref()?.limits_held
}

/// Other nodes that run it, where its service has a tier.
fn copies(record: &WorkloadRecord, view: &WorkloadsView, snapshot: &RegistrySnapshot) -> Vec<Value> {
    let own = view.copies.iter().filter(|((service, _), _)| *service == record.service);
    own.map(|((_, node), (_, status))| {
        json!({
            "node": node_name(node, snapshot),
            "state": status.as_ref().map_or("assigned", |status| status.state.label()),
            "reason": status.as_ref().map(|status| &status.reason),
        })
    })
    .collect()
}

/// Nodes that it leaves, where it gets no new requests.
fn leaving(record: &WorkloadRecord, view: &WorkloadsView, snapshot: &RegistrySnapshot) -> Vec<Value> {
    let own = view.leavers.iter().filter(|leaver| leaver.record.service == record.service);
    own.map(|leaver| {
        json!({
            "node": leaver.record.node.as_ref().map(|node| node_name(node, snapshot)),
            "since": leaver.since.map(time),
            "until": leaver.until.map(time),
        })
    })
    .collect()
}

/// Why it is not well, as its node says.
fn ill(status: &WorkloadStatus) -> String {
    match status.health {
        Some(Health::Unhealthy) => format!("unhealthy: {}", status.health_reason),
        Some(Health::Healthy | Health::Unknown) | None => status.reason.clone(),
    }
}

/// Where a workload stands of which no node has said anything yet.
fn unsaid(
    record: &WorkloadRecord,
    view: &WorkloadsView,
    snapshot: &RegistrySnapshot,
) -> (&'static str, String) {
    let node = record.node.and_then(|node| snapshot.agents.get(&node));
    let is_here = node.is_some_and(|node| node.connected);
    if record.node.is_none() {
        let why = NoNode::of(record, view, snapshot).map(|why| why.to_string());
        return ("unplaced", why.unwrap_or_else(|| "a node is being chosen".to_owned()));
    }
    if !is_here {
        return ("unknown", "its node is not connected".to_owned());
    }
    if node.is_some_and(|node| !node.runs_workloads) {
        return ("assigned", "its node runs no workloads".to_owned());
    }
    ("assigned", String::new())
}
