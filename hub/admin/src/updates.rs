//! Updates of workloads, and the versions that they leave.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use blueprint_common_types::workload::WorkloadSpec;
use blueprint_common_types::{AgentId, ServiceKey};
use blueprint_hub_registry_core::RegistrySnapshot;
use blueprint_hub_registry_core::workload::{
    UpdateError, UpdatePlan, UpdateRequest, UpdateView, Version, WorkloadRecord,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::AdminState;
use crate::error::ApiError;
use crate::policy::Way;
use crate::views::time;
use crate::workloads::{Login, SHAPE, Secrets, by, check_login, document, row, seal, unknown};

/// What to do where an update is in the way.
pub(crate) const ABORT: &str = "wait for it (blueprint-hub workload show tells how it goes), or take it back with \
                                blueprint-hub update SERVICE --abort";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedUpdate {
    spec: WorkloadSpec,
    /// Names or ids; absent to keep those that it has.
    nodes: Option<Vec<String>>,
    /// Files by their path below the keystore, in base64; absent to keep those that it has.
    keystore: Option<BTreeMap<String, String>>,
    /// How its node signs in at the registry of its image; absent to keep what it has.
    registry: Option<Login>,
    /// Generation that it was made from.
    generation: Option<u64>,
    #[serde(default)]
    plan: UpdatePlan,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedRollback {
    /// The version to go back to; absent for the last one that served.
    version: Option<u32>,
    #[serde(default)]
    plan: UpdatePlan,
}

pub(crate) async fn update(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    way: Option<Extension<Way>>,
    body: Result<Json<AskedUpdate>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let Json(asked) = body.map_err(|error| ApiError::invalid(error.body_text(), SHAPE))?;
    asked.spec.check().map_err(|error| ApiError::invalid(error.to_string(), SHAPE))?;
    if asked.spec.lease.is_some() {
        return Err(ApiError::invalid("lease: only a launcher has one", "leave it out"));
    }
    let record = current(&state, key)?;
    let snapshot = state.hub.snapshot();
    let nodes: BTreeSet<AgentId> = match &asked.nodes {
        None => record.nodes.clone(),
        Some(names) => {
            let find = |name: &String| crate::nodes::find(&snapshot, name).map(|view| view.agent.id);
            names.iter().map(find).collect::<Result<_, _>>()?
        }
    };
    check_login(&asked.spec, asked.registry.as_ref())?;
    let secrets = Secrets { keystore: asked.keystore.as_ref(), registry: asked.registry.as_ref() };
    let sealed = seal(&state, key, record.keystore.clone(), &asked.spec.source, &secrets)?;
    let request = UpdateRequest {
        service: key,
        document: document(&asked.spec)?,
        keystore: sealed.bundle.clone(),
        nodes,
        repeats: None,
        replaces: asked.generation,
        plan: asked.plan,
        by: by(way),
    };
    let Json(answer) = begin(&state, &record, request).await?;
    Ok(Json(sealed.tell(key, answer)))
}

pub(crate) async fn rollback(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    way: Option<Extension<Way>>,
    body: Result<Json<AskedRollback>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let shape = "docs/updates.md lists what may be asked for";
    let Json(asked) = body.map_err(|error| ApiError::invalid(error.body_text(), shape))?;
    let record = current(&state, key)?;
    let versions = state.hub.workload_versions(key).await?;
    let is_meant = |version: &&Version| match asked.version {
        Some(number) => version.number == number,
        None => version.number < record.version && version.outcome.has_served(),
    };
    let hint = "blueprint-hub workload history shows the versions that are kept";
    let kept: Vec<String> = versions.iter().map(|version| version.number.to_string()).collect();
    let version = versions.into_iter().find(|version| is_meant(&version)).ok_or_else(|| {
        let text = match asked.version {
            Some(number) => format!(
                "version {number} of {key} is not kept, but {} (workloads.keep_versions is {})",
                if kept.is_empty() { "none".to_owned() } else { kept.join(", ") },
                state.hub.keep_versions()
            ),
            None => format!("no version of {key} is kept that served before version {}", record.version),
        };
        ApiError::not_found(text, hint)
    })?;
    if version.number == record.version {
        let text = format!("version {} of {key} is the one that serves", version.number);
        return Err(ApiError::conflict(text, hint));
    }
    let request = UpdateRequest {
        service: key,
        document: version.document,
        keystore: version.keystore,
        nodes: version.nodes,
        repeats: Some(version.number),
        replaces: Some(record.generation),
        plan: asked.plan,
        by: by(way),
    };
    begin(&state, &record, request).await
}

pub(crate) async fn abort(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let record = current(&state, key)?;
    state.hub.abort_update(key).await.map_err(refused)?;
    Ok(Json(row(&state, &record, &state.hub.snapshot())))
}

pub(crate) async fn versions(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    current(&state, key)?;
    let versions = state.hub.workload_versions(key).await?;
    Ok(Json(json!({
        "service": key,
        "versions": versions.iter().map(version_row).collect::<Vec<_>>(),
        "keep_versions": state.hub.keep_versions(),
    })))
}

/// The newest version that was not to serve after all, where no other one came after it; else null.
pub(crate) async fn taken_back(state: &AdminState, record: &WorkloadRecord) -> Result<Value, ApiError> {
    if state.hub.workloads().updates.contains_key(&record.service) {
        return Ok(Value::Null);
    }
    let versions = state.hub.workload_versions(record.service).await?;
    let newest = versions.first().filter(|it| it.number > record.version && !it.outcome.has_served());
    Ok(newest.map_or(Value::Null, version_row))
}

/// An update that is under way.
pub(crate) fn shown(view: &UpdateView, snapshot: &RegistrySnapshot) -> Value {
    let UpdateView { update, next } = view;
    let name =
        |id: AgentId| snapshot.agents.get(&id).map_or_else(|| id.to_string(), |view| view.agent.name.clone());
    // By rolling, the replica that it has come to; else the first.
    let (run, status) = next.last().filter(|_| update.is_in_turn()).or_else(|| next.first()).cloned().unzip();
    let status = status.flatten();
    let replicas = next.iter().filter(|_| !update.replicas.is_empty()).map(|(run, status)| {
        let percent = run.node.and_then(|node| update.shares_at(node)).map(|shares| shares.next);
        json!({
            "node": run.node.map(name),
            "next_percent": percent,
            "state": status.as_ref().map(|status| status.state.label()),
            "state_reason": status.as_ref().map(|status| status.reason.as_str()),
        })
    });
    let shares = update.shares();
    json!({
        "from": update.from,
        "to": update.to,
        "strategy": update.plan.strategy,
        "phase": update.phase_label(),
        "doing": update.doing(),
        "reason": update.reason,
        "began_at": time(update.began_at),
        "since": time(update.since),
        "old_percent": shares.map(|shares| shares.old),
        "next_percent": shares.map(|shares| shares.next),
        "node": run.and_then(|run| run.node).map(name),
        "state": status.as_ref().map(|status| status.state.label()),
        "state_reason": status.as_ref().map(|status| status.reason.as_str()),
        "replicas": replicas.collect::<Vec<_>>(),
        "replicas_in_all": update.replicas.len(),
        "plan": update.plan,
    })
}

fn current(state: &AdminState, key: ServiceKey) -> Result<std::sync::Arc<WorkloadRecord>, ApiError> {
    state.hub.workloads().records.get(&key).cloned().ok_or_else(|| unknown(key))
}

async fn begin(
    state: &AdminState,
    before: &WorkloadRecord,
    request: UpdateRequest,
) -> Result<Json<Value>, ApiError> {
    let shape = "docs/updates.md lists what a plan may say";
    request.plan.check().map_err(|error| ApiError::invalid(format!("plan: {error}"), shape))?;
    let is_same = (&before.document, &before.keystore, &before.nodes)
        == (&request.document, &request.keystore, &request.nodes);
    if is_same {
        return Err(ApiError::invalid(
            format!("this is what version {} is already", before.version),
            "say what is to change; blueprint-hub workload restart starts the same anew",
        ));
    }
    let record = state.hub.update_workload(request).await.map_err(refused)?;
    Ok(Json(row(state, &record, &state.hub.snapshot())))
}

fn refused(error: UpdateError) -> ApiError {
    let text = error.to_string();
    match error {
        UpdateError::NotFound(key) => unknown(key),
        UpdateError::Leased(_) => ApiError::conflict(text, "start the launcher with the new version"),
        UpdateError::Running { .. } => ApiError::conflict(text, ABORT),
        UpdateError::NotRunning(_) => ApiError::conflict(
            text,
            "blueprint-hub workload show tells what it does; blueprint-hub rollback goes back to an earlier version",
        ),
        UpdateError::Exclusive(_) => ApiError::invalid(
            text,
            "give --strategy recreate: the old version ends before the next one starts",
        ),
        UpdateError::NoPlace(_) => ApiError::conflict(
            text,
            "ask for smaller limits with --file, or give --strategy recreate: the old version ends before the next one starts",
        ),
        UpdateError::NoReplica(_) => ApiError::conflict(
            format!("there is nothing to update: {text}"),
            "blueprint-hub workload show tells why; blueprint-hub scale show tells which machines it has",
        ),
        UpdateError::Conflict => ApiError::conflict(text, "read it again, and make the change to that"),
        UpdateError::Store(error) => error.into(),
    }
}

/// A version without its document, which may hold what is secret.
fn version_row(version: &Version) -> Value {
    let spec = serde_json::from_str::<WorkloadSpec>(&version.document).ok();
    json!({
        "version": version.number,
        "source": spec.as_ref().map(|spec| spec.source.kind()),
        "made_at": time(version.made_at),
        "by": version.by,
        "strategy": version.strategy,
        "repeats": version.repeats,
        "outcome": version.outcome.label(),
        "reason": version.reason,
        "decided_at": time(version.decided_at),
        "has_keystore": version.keystore.is_some(),
    })
}
