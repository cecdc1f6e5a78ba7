//! Deployments: machines that the hub orders of clouds.

mod order;
mod plan;
mod refused;
mod view;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use blueprint_hub_provision_core::DeploymentId;
use blueprint_hub_provision_core::lifecycle::{Deployment, Records, Wanted};
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use self::order::create;
use self::view::{summary, whole};
use crate::AdminState;
use crate::error::ApiError;
use crate::views::time;

const SHAPE: &str = "docs/provisioning.md shows every field of a deployment";
const LIST: &str = "`blueprint-hub deployment ls --all` lists them";

/// Most rows of history at once.
const MAX_EVENTS: u32 = 1000;

#[derive(Debug, Deserialize)]
pub(crate) struct ListQuery {
    #[serde(default)]
    all: bool,
}

pub(crate) async fn list(
    State(state): State<AdminState>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Value>, ApiError> {
    let deployer = state.hub.deployer();
    let records = deployer.records().await?;
    let mut shown: Vec<&Deployment> = records
        .deployments
        .values()
        .filter(|deployment| query.all || !view::is_over(deployment, &records))
        .collect();
    shown.sort_by_key(|deployment| (deployment.created_at, deployment.id.clone()));
    let overview = deployer.overview();
    let clouds: Vec<_> = overview.clouds.iter().map(view::cloud).collect();
    let alarms: Vec<_> = overview.alarms.iter().map(view::alarm).collect();
    let rows: Vec<_> = shown.into_iter().map(|deployment| summary(deployment, &records)).collect();
    Ok(Json(json!({ "deployments": rows, "providers": clouds, "alarms": alarms })))
}

pub(crate) async fn show(
    State(state): State<AdminState>,
    Path(text): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let records = state.hub.deployer().records().await?;
    let deployment = find(&records, &text)?;
    Ok(Json(json!({ "deployment": whole(&state, deployment, &records) })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeDeployment {
    /// `running` or `stopped`.
    wanted: String,
}

pub(crate) async fn change(
    State(state): State<AdminState>,
    Path(text): Path<String>,
    body: Result<Json<ChangeDeployment>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(asked) = body.map_err(|error| ApiError::invalid(error.body_text(), SHAPE))?;
    let wanted = asked.wanted.parse::<Wanted>().ok().filter(|wanted| *wanted != Wanted::Gone);
    let wanted = wanted.ok_or_else(|| {
        ApiError::invalid("a deployment is wanted running or stopped", "DELETE ends it for good")
    })?;
    want(&state, &text, wanted).await
}

pub(crate) async fn terminate(
    State(state): State<AdminState>,
    Path(text): Path<String>,
) -> Result<Json<Value>, ApiError> {
    want(&state, &text, Wanted::Gone).await
}

async fn want(state: &AdminState, text: &str, wanted: Wanted) -> Result<Json<Value>, ApiError> {
    let deployer = state.hub.deployer();
    let records = deployer.records().await?;
    let id = find(&records, text)?.id.clone();
    let deployment = deployer.set_wanted(id, wanted, "by the operator".to_owned()).await?;
    let records = deployer.records().await?;
    Ok(Json(json!({ "deployment": whole(state, &deployment, &records) })))
}

#[derive(Debug, Deserialize)]
pub(crate) struct HistoryQuery {
    deployment: Option<String>,
    limit: Option<u32>,
}

pub(crate) async fn history(
    State(state): State<AdminState>,
    Query(query): Query<HistoryQuery>,
) -> Result<Json<Value>, ApiError> {
    let deployer = state.hub.deployer();
    let id = match &query.deployment {
        Some(text) => Some(find(&deployer.records().await?, text)?.id.clone()),
        None => None,
    };
    let limit = query.limit.unwrap_or(100).min(MAX_EVENTS);
    let events = deployer.events(id, limit).await?;
    let rows: Vec<_> = events
        .iter()
        .map(|event| {
            json!({
                "at": time(event.at),
                "deployment": event.deployment.as_str(),
                "instance": event.instance.as_ref().map(ToString::to_string),
                "what": event.what,
                "reason": event.reason,
            })
        })
        .collect();
    Ok(Json(json!({ "events": rows })))
}

/// Finds a deployment by id, by the beginning of its id, or by its name where only one that is not over has it.
pub(crate) fn find<'r>(records: &'r Records, text: &str) -> Result<&'r Deployment, ApiError> {
    let exact = text.parse::<DeploymentId>().ok().and_then(|id| records.deployments.get(&id));
    if let Some(deployment) = exact {
        return Ok(deployment);
    }
    let named = |it: &&Deployment| it.name == text && !it.name.is_empty() && !view::is_over(it, records);
    let begins = |it: &&Deployment| text.len() >= 4 && it.id.as_str().starts_with(text);
    let mut found = records.deployments.values().filter(|it| named(it) || begins(it));
    match (found.next(), found.next()) {
        (Some(deployment), None) => Ok(deployment),
        (Some(_), Some(_)) => {
            let text = format!("more than one deployment is called {text:?}");
            Err(ApiError::conflict(text, format!("name it by its id: {LIST}")))
        }
        (None, _) => Err(ApiError::not_found(format!("no deployment is called {text:?}"), LIST)),
    }
}
