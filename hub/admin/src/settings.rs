//! Settings of services.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::{Service, ServiceSettings};
use blueprint_hub_registry_core::{ServiceChange, ServiceChangeError, ServiceRecord};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::AdminState;
use crate::error::ApiError;
use crate::views::{now, time};

/// Largest request body in bytes: settings with a thousand owners.
pub(crate) const MAX_BODY: usize = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetSettings {
    settings: ServiceSettings,
    /// Version that they were made from; 0 where there were none.
    version: Option<u64>,
}

pub(crate) async fn show(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let record = find(&state, key).await?;
    let settings = match &record {
        Some(record) => read(record)?,
        None => ServiceSettings::default(),
    };
    Ok(Json(json!({
        "service": key,
        "version": record.as_ref().map_or(0, |record| record.version),
        "changed_at": record.as_ref().map(|record| time(record.changed_at)),
        "settings": settings,
        "status": state.hub.service_status(key),
    })))
}

pub(crate) async fn set(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    body: Result<Json<SetSettings>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    const SHAPE: &str = "docs/services.md shows every field of the settings";
    let key = ServiceKey { blueprint, service };
    let Json(asked) = body.map_err(|error| ApiError::invalid(error.body_text(), SHAPE))?;
    let checked =
        Service::new(asked.settings).map_err(|error| ApiError::invalid(error.to_string(), SHAPE))?;
    let settings = checked.settings();
    let before = match find(&state, key).await? {
        Some(record) => read(&record)?,
        None => ServiceSettings::default(),
    };
    let allowed = state.hub.check_settings(key, &before, &checked);
    allowed.map_err(|refused| ApiError::invalid(refused.message, refused.hint))?;
    let gone: Vec<String> = before.owners.difference(&settings.owners).map(ToString::to_string).collect();
    let change = ServiceChange {
        service: key,
        document: json!(settings).to_string(),
        replaces: asked.version,
        revoke_owners: gone.clone(),
        summary: summary(settings),
        now: now(),
    };
    let record = match state.store.change_service(change).await {
        Ok(record) => record,
        Err(ServiceChangeError::Conflict { current }) => {
            return Err(ApiError::conflict(
                format!("the settings of {key} have version {current} by now"),
                "read them again, and make the change to those",
            ));
        }
        Err(ServiceChangeError::Store(error)) => return Err(error.into()),
    };
    state.hub.access_changed().await?;
    Ok(Json(
        json!({ "service": key, "version": record.version, "settings": settings, "owners_removed": gone }),
    ))
}

pub(crate) async fn find(state: &AdminState, key: ServiceKey) -> Result<Option<ServiceRecord>, ApiError> {
    Ok(state.store.list_services().await?.into_iter().find(|record| record.service == key))
}

pub(crate) fn read(record: &ServiceRecord) -> Result<ServiceSettings, ApiError> {
    serde_json::from_str(&record.document)
        .map_err(|_| ApiError::unavailable(format!("the stored settings of {} are damaged", record.service)))
}

fn summary(settings: &ServiceSettings) -> String {
    let oauth = if settings.oauth.is_some() { "with" } else { "without" };
    let drained = settings.upstream.drained.len();
    let hidden = if settings.hidden { "hidden, " } else { "" };
    let (owners, rules) = (settings.owners.len(), settings.rules.len());
    format!("{hidden}{owners} owners, {rules} rules, {oauth} OAuth, {drained} nodes drained")
}
