//! Machines that joined by what a cloud says of them.

use axum::Json;
use axum::extract::{Path, State};
use blueprint_common_types::HubLine;
use blueprint_hub_registry_core::IdentityRecord;
use serde_json::{Value, json};

use crate::AdminState;
use crate::error::ApiError;
use crate::views::{now, time};

/// What they are, and the line with which others join: it names the hub and holds no secret.
pub(crate) async fn list(State(state): State<AdminState>) -> Result<Json<Value>, ApiError> {
    let records = state.store.list_identities().await?;
    let line = HubLine {
        host: state.facts.advertise_host.clone(),
        port: state.facts.control_port,
        pin: state.facts.pin,
    };
    let identities: Vec<_> = records.iter().map(view).collect();
    Ok(Json(json!({ "hub_line": line.to_string(), "identities": identities })))
}

pub(crate) async fn forget(
    State(state): State<AdminState>,
    Path((cloud, account, instance)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    let name = format!("{cloud}/{account}/{instance}");
    if !state.store.forget_identity(cloud, account, instance, now()).await? {
        let text = format!("no machine joined by the identity {name}");
        return Err(ApiError::not_found(text, "`blueprint-hub identity ls` lists them"));
    }
    Ok(Json(json!({ "forgotten": name })))
}

fn view(record: &IdentityRecord) -> Value {
    json!({
        "cloud": record.cloud,
        "account": record.account,
        "instance": record.instance,
        "agent_id": record.agent.to_string(),
        "joined_at": time(record.joined_at),
    })
}
