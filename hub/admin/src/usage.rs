//! What a service and its callers have used: the sums that bills are made of.

use axum::Json;
use axum::extract::{Path, State};
use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::usage::Used;
use serde_json::{Value, json};

use crate::AdminState;
use crate::error::ApiError;
use crate::views::time;

pub(crate) async fn show(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let used = state.hub.usage(key);
    if used.is_none() && !state.hub.snapshot().by_service.contains_key(&key) {
        return Err(ApiError::not_found(
            format!("no node offers service {key}, and nobody called it"),
            "`blueprint-hub service ls` lists what is offered",
        ));
    }
    let used = used.unwrap_or_default();
    let by_key: Vec<_> = used.by_key.iter().map(|(name, used)| view(used, ("key", name))).collect();
    let mut answer = view(&used.total, ("service", &key.to_string()));
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("since".to_owned(), json!(time(state.facts.usage_since)));
        fields.insert("by_key".to_owned(), json!(by_key));
    }
    Ok(Json(answer))
}

fn view(used: &Used, (field, name): (&str, &str)) -> Value {
    json!({
        field: name,
        "requests": used.requests,
        "refused": used.refused,
        "bytes_in": used.bytes_in,
        "bytes_out": used.bytes_out,
        "open_seconds": used.open.as_secs_f64(),
    })
}
