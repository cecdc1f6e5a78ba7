//! Services.

use axum::Json;
use axum::extract::{Path, State};
use blueprint_common_types::{Health, ServiceKey};
use serde_json::{Value, json};

use crate::AdminState;
use crate::error::ApiError;
use crate::views::TargetView;

pub(crate) async fn list(State(state): State<AdminState>) -> Json<Value> {
    let snapshot = state.hub.snapshot();
    let services: Vec<_> = snapshot
        .by_service
        .keys()
        .map(|service| {
            let targets: Vec<_> = snapshot.targets_of(*service).collect();
            let healthy = targets.iter().filter(|target| target.health == Health::Healthy).count();
            let targets: Vec<_> = targets.into_iter().map(TargetView::from).collect();
            json!({ "service": service, "healthy": healthy, "targets": targets })
        })
        .collect();
    Json(json!({ "index": snapshot.index, "services": services }))
}

pub(crate) async fn show(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let snapshot = state.hub.snapshot();
    if !snapshot.by_service.contains_key(&key) {
        return Err(ApiError::not_found(
            format!("no node offers service {key}"),
            "`blueprint-hub service ls` lists what is offered",
        ));
    }
    let targets: Vec<_> = snapshot.targets_of(key).map(TargetView::from).collect();
    Ok(Json(json!({ "service": key, "targets": targets })))
}
