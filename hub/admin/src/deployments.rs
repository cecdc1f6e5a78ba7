//! Deployments: machines that the hub orders of clouds.

mod order;
mod plan;
mod refused;
mod view;

use std::cmp::Reverse;

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

/// Finds a deployment by id, by the beginning of its id, or by its name. Of several with one name that are not over it is the
/// one that is not being ended, else the newest.
pub(crate) fn find<'r>(records: &'r Records, text: &str) -> Result<&'r Deployment, ApiError> {
    let exact = text.parse::<DeploymentId>().ok().and_then(|id| records.deployments.get(&id));
    if let Some(deployment) = exact {
        return Ok(deployment);
    }
    let named = |it: &Deployment| it.name == text && !it.name.is_empty() && !view::is_over(it, records);
    let begins = |it: &Deployment| text.len() >= 4 && it.id.as_str().starts_with(text);
    let mut found: Vec<_> = records.deployments.values().filter(|it| named(it) || begins(it)).collect();
    found.sort_by_key(|it| (it.wanted == Wanted::Gone, Reverse((it.created_at, it.id.clone()))));
    let is_clear = |rest: &[&Deployment]| rest.iter().all(|it| it.wanted == Wanted::Gone && named(it));
    match found.as_slice() {
        [] => Err(ApiError::not_found(format!("no deployment is called {text:?}"), LIST)),
        [first, rest @ ..] if rest.is_empty() || (named(first) && is_clear(rest)) => Ok(first),
        several => {
            let ids: Vec<_> = several.iter().map(|it| it.id.as_str()).collect();
            let text = format!("more than one deployment is called {text:?}: {}", ids.join(", "));
            Err(ApiError::conflict(text, format!("name it by its id: {LIST}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Timestamp;
    use blueprint_hub_provision_core::lifecycle::RecordState;
    use http::StatusCode;

    use super::*;

    /// Deployments called `demo`, each made a second after the one before, with one machine.
    fn records(of: &[(Wanted, RecordState)]) -> Records {
        let mut all = Records::default();
        for (number, (wanted, state)) in (1_u8..).zip(of) {
            let (deployment, records) = view::tests::records(*wanted, &[(*state, false)]);
            let id = DeploymentId::from_bytes([number; 10]);
            let created_at = Timestamp::from_millis(u64::from(number) * 1000);
            all.deployments.insert(id.clone(), Deployment { id: id.clone(), created_at, ..deployment });
            for mut record in records.instances.into_values() {
                record.deployment = id.clone();
                record.key = blueprint_hub_provision_core::InstanceKey::of(&id, record.number);
                all.instances.insert(record.key.clone(), record);
            }
        }
        all
    }

    fn found(records: &Records, text: &str) -> Result<Timestamp, StatusCode> {
        find(records, text).map(|it| it.created_at).map_err(|error| error.parts().0)
    }

    #[test]
    fn a_name_is_that_of_the_deployment_that_lasts_while_an_older_one_ends() {
        let ending = (Wanted::Gone, RecordState::Deleting);
        let at = |secs: u64| Ok(Timestamp::from_millis(secs * 1000));
        let both = records(&[ending, (Wanted::Running, RecordState::Active)]);
        assert_eq!(found(&both, "demo"), at(2));
        let both = records(&[(Wanted::Stopped, RecordState::Active), ending]);
        assert_eq!(found(&both, "demo"), at(1), "whichever came first");
        assert_eq!(found(&records(&[ending, ending]), "demo"), at(2), "else the newest");
        assert_eq!(found(&records(&[ending]), "demo"), at(1));
        let over = records(&[(Wanted::Gone, RecordState::Gone)]);
        assert_eq!(found(&over, "demo"), Err(StatusCode::NOT_FOUND));
    }

    #[test]
    fn what_is_not_clear_is_refused_and_named() {
        let running = (Wanted::Running, RecordState::Active);
        let two = records(&[running, running]);
        let (status, _, message, _) = find(&two, "demo").unwrap_err().parts();
        assert_eq!(status, StatusCode::CONFLICT);
        assert!(two.deployments.keys().all(|id| message.contains(id.as_str())), "{message}");
        // The name of one is how the id of another begins.
        let mut odd = records(&[running, (Wanted::Gone, RecordState::Deleting)]);
        let begin = odd.deployments.keys().nth(1).unwrap().as_str()[..6].to_owned();
        odd.deployments.values_mut().next().unwrap().name.clone_from(&begin);
        assert_eq!(found(&odd, &begin), Err(StatusCode::CONFLICT));
    }

    #[test]
    fn others_of_the_same_name_are_named() {
        let both = records(&[(Wanted::Gone, RecordState::Deleting), (Wanted::Running, RecordState::Active)]);
        let old = both.deployments.keys().next().unwrap();
        let shown = view::others(find(&both, "demo").unwrap(), &both);
        assert_eq!(shown, [json!({ "id": old.as_str(), "state": "terminating" })]);
        let over = records(&[(Wanted::Gone, RecordState::Gone), (Wanted::Running, RecordState::Active)]);
        assert!(view::others(find(&over, "demo").unwrap(), &over).is_empty());
    }
}
