//! Nodes: the joined machines.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use blueprint_hub_registry_core::{AgentView, HISTORY_POINTS, LATE_MINUTES, RegistrySnapshot};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::AdminState;
use crate::error::ApiError;
use crate::views::{NodeView, TargetView, time};

pub(crate) async fn list(State(state): State<AdminState>) -> Json<Value> {
    let snapshot = state.hub.snapshot();
    let nodes: Vec<_> = snapshot
        .agents
        .values()
        .map(|view| NodeView::new(view, &snapshot, state.hub.peer(&view.agent.wireguard_key)))
        .collect();
    Json(json!({ "nodes": nodes }))
}

pub(crate) async fn show(
    State(state): State<AdminState>,
    Path(node): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let snapshot = state.hub.snapshot();
    let view = find(&snapshot, &node)?;
    let targets: Vec<_> =
        snapshot.targets.values().filter(|t| t.key.agent == view.agent.id).map(TargetView::from).collect();
    let peer = state.hub.peer(&view.agent.wireguard_key);
    Ok(Json(json!({ "node": NodeView::new(view, &snapshot, peer), "targets": targets })))
}

pub(crate) async fn remove(
    State(state): State<AdminState>,
    Path(node): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let snapshot = state.hub.snapshot();
    let agent = Arc::clone(&find(&snapshot, &node)?.agent);
    state.hub.remove(agent.id).await.map_err(|error| ApiError::unavailable(error.to_string()))?;
    Ok(Json(json!({ "removed": agent.id, "name": agent.name })))
}

#[derive(Debug, Deserialize)]
pub(crate) struct QosQuery {
    points: Option<usize>,
}

pub(crate) async fn qos(
    State(state): State<AdminState>,
    Path(node): Path<String>,
    Query(query): Query<QosQuery>,
) -> Result<Json<Value>, ApiError> {
    let snapshot = state.hub.snapshot();
    let view = find(&snapshot, &node)?;
    let points = query.points.unwrap_or(HISTORY_POINTS).min(HISTORY_POINTS + LATE_MINUTES);
    let qos = state.hub.qos(view.agent.id, points).await;
    let (latest, series) = qos.ok_or_else(|| ApiError::unavailable("the hub is stopping"))?;
    Ok(Json(json!({
        "node": view.agent.id,
        "name": view.agent.name,
        "sampled_at": latest.as_ref().map(|sample| time(sample.at)),
        "latest": latest,
        "history": series,
    })))
}

/// Finds a node by id, by a unique prefix of it, or by its name where only one has it.
pub(crate) fn find<'a>(snapshot: &'a RegistrySnapshot, text: &str) -> Result<&'a AgentView, ApiError> {
    if let Some(view) = text.parse().ok().and_then(|id| snapshot.agents.get(&id)) {
        return Ok(view);
    }
    let named = |view: &&AgentView| view.agent.name == text;
    let begins = |view: &&AgentView| text.len() >= 4 && view.agent.id.to_string().starts_with(text);
    let mut found = snapshot.agents.values().filter(|view| named(view) || begins(view));
    match (found.next(), found.next()) {
        (Some(view), None) => Ok(view),
        (Some(_), Some(_)) => Err(ApiError::conflict(
            format!("more than one node is called {text:?}"),
            "use the id, as `blueprint-hub node ls` shows it",
        )),
        (None, _) => Err(ApiError::not_found(
            format!("no node is called {text:?}"),
            "`blueprint-hub node ls` lists all of them",
        )),
    }
}
