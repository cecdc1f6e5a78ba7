//! Alerts about costs.

mod terms;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use blueprint_hub_provision_core::cost::CostDeskError;
use blueprint_hub_provision_core::cost::alert::{Alert, AlertEvent, Scope, Standing};
use blueprint_hub_provision_core::lifecycle::Records;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use self::terms::SetAlert;
use crate::AdminState;
use crate::error::ApiError;
use crate::views::time;

const LIST: &str = "`blueprint-hub alerts ls` lists them";
const SHAPE: &str = "docs/costs.md shows every field of an alert";

/// Most rows of history at once, and how many there are where nobody says.
const EVENTS: (u32, u32) = (1000, 100);

/// Rows of history beside one alert.
const OWN_EVENTS: u32 = 20;

/// Longest name, in characters.
const MAX_NAME: usize = 40;

pub(crate) async fn list(State(state): State<AdminState>) -> Result<Json<Value>, ApiError> {
    let records = state.hub.deployer().records().await?;
    let alerts = state.hub.costs().alerts().await?;
    let rows: Vec<_> = alerts.iter().map(|(alert, standing)| view(alert, standing, &records)).collect();
    Ok(Json(json!({ "alerts": rows })))
}

pub(crate) async fn show(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let alert = shown(&state, &name).await?;
    let events = state.hub.costs().alert_events(Some(name), OWN_EVENTS).await?;
    let events: Vec<_> = events.iter().map(event).collect();
    Ok(Json(json!({ "alert": alert, "events": events })))
}

pub(crate) async fn set(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    body: Result<Json<SetAlert>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(asked) = body.map_err(|error| ApiError::invalid(error.body_text(), SHAPE))?;
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_plain) || name.starts_with('-') {
        return Err(ApiError::invalid(
            "an alert has a name of 1 to 40 characters of a-z, 0-9 and '-'",
            "give another name, such as team or web-2",
        ));
    }
    let (deployer, costs) = (state.hub.deployer(), state.hub.costs());
    let records = deployer.records().await?;
    let known = costs.alerts().await?.into_iter().map(|(alert, _)| alert).find(|alert| alert.name == name);
    let is_sure = asked.sure;
    let (terms, webhook) = asked.over(known.as_ref(), &records, &deployer.limits())?;
    let (_, key) = costs.set_alert(name.clone(), terms, webhook, is_sure).await?;
    let alert = shown(&state, &name).await?;
    Ok(Json(json!({ "alert": alert, "webhook_key": key.as_ref().map(|key| key.expose()) })))
}

pub(crate) async fn remove(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    state.hub.costs().remove_alert(name.clone()).await?;
    Ok(Json(json!({ "removed": name })))
}

pub(crate) async fn release(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let period = state.hub.costs().release_alert(name.clone()).await?;
    Ok(Json(json!({ "alert": shown(&state, &name).await?, "released": period })))
}

pub(crate) async fn test(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let told = state.hub.costs().test_alert(name).await?;
    Ok(Json(json!({ "event": event(&told) })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsQuery {
    alert: Option<String>,
    limit: Option<u32>,
}

pub(crate) async fn events(
    State(state): State<AdminState>,
    Query(query): Query<EventsQuery>,
) -> Result<Json<Value>, ApiError> {
    let limit = query.limit.unwrap_or(EVENTS.1).min(EVENTS.0);
    let events = state.hub.costs().alert_events(query.alert, limit).await?;
    let rows: Vec<_> = events.iter().map(event).collect();
    Ok(Json(json!({ "events": rows })))
}

async fn shown(state: &AdminState, name: &str) -> Result<Value, ApiError> {
    let records = state.hub.deployer().records().await?;
    let alerts = state.hub.costs().alerts().await?;
    let found = alerts.iter().find(|(alert, _)| alert.name == name);
    let (alert, standing) = found.ok_or_else(|| CostDeskError::Unknown(name.to_owned()))?;
    Ok(view(alert, standing, &records))
}

/// Alerts whose action is in force, in short.
pub(crate) async fn in_force(state: &AdminState) -> Result<Vec<Value>, ApiError> {
    let alerts = state.hub.costs().alerts().await?;
    let held = alerts.iter().filter(|(_, standing)| standing.is_in_force);
    let row = |(alert, standing): &(Alert, Standing)| {
        json!({
            "alert": alert.name,
            "action": alert.terms.action.label(),
            "scope": alert.terms.scope.to_string(),
            "period": standing.period,
            "spent": standing.spent.to_string(),
            "amount": alert.terms.amount.to_string(),
        })
    };
    Ok(held.map(row).collect())
}

fn view(alert: &Alert, standing: &Standing, records: &Records) -> Value {
    let terms = &alert.terms;
    let name = match &terms.scope {
        Scope::Deployment(id) => records.deployments.get(id).map(|deployment| deployment.name.clone()),
        Scope::All | Scope::Provider(_) => None,
    };
    json!({
        "name": alert.name,
        "scope": terms.scope.label(),
        "subject": terms.scope.subject(),
        "deployment_name": name,
        "per": terms.period.label(),
        "amount": terms.amount.to_string(),
        "at": terms.thresholds,
        "action": terms.action.label(),
        "anomaly": terms.anomaly.map(|it| json!({ "times": it.times, "floor": it.floor.to_string() })),
        "webhook": terms.webhook.as_ref().map(|hook| &hook.shown),
        "period": standing.period,
        "spent": standing.spent.to_string(),
        "forecast": standing.forecast.map(|forecast| forecast.to_string()),
        "over": standing.is_over,
        "in_force": standing.is_in_force,
        "released": alert.released.as_ref() == Some(&standing.period),
        "created_at": time(alert.created_at),
        "changed_at": time(alert.changed_at),
    })
}

fn event(event: &AlertEvent) -> Value {
    let (finding, delivery) = (&event.finding, &event.delivery);
    json!({
        "id": event.id,
        "alert": event.alert,
        "at": time(event.at),
        "kind": finding.mark.kind.label(),
        "period": finding.mark.period,
        "threshold": (finding.mark.threshold > 0).then_some(finding.mark.threshold),
        "amount": event.amount.to_string(),
        "spent": finding.spent.to_string(),
        "forecast": finding.forecast.map(|forecast| forecast.to_string()),
        "action": event.action.label(),
        "text": finding.text,
        "delivery": delivery.state.label(),
        "attempts": delivery.attempts,
        "next_try": delivery.next_at.map(time),
        "error": delivery.error,
    })
}

impl From<CostDeskError> for ApiError {
    fn from(error: CostDeskError) -> Self {
        let text = error.to_string();
        match error {
            CostDeskError::Unknown(_) => Self::not_found(text, LIST),
            CostDeskError::TooMany => Self::conflict(text, "remove one: `blueprint-hub alerts rm NAME`"),
            CostDeskError::WouldEnd { .. } => Self::new(
                StatusCode::CONFLICT,
                "would_end",
                text,
                "give --yes (`sure` in the API) where that is meant, or a higher amount",
            ),
            CostDeskError::Webhook(_) => Self::invalid(
                text,
                "name an https URL of a public host, or an http URL of this machine; docs/costs.md says what is allowed",
            ),
            CostDeskError::NotHeld { .. } => Self::conflict(text, "there is nothing to release"),
            CostDeskError::Crowded(_) => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "busy",
                text,
                "`blueprint-hub alerts history` shows why they are not delivered",
            ),
            CostDeskError::Unavailable(_) => Self::unavailable(text),
            CostDeskError::Store(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, source, "store failed");
                Self::unavailable("the hub's store cannot do this now; the hub's log says why")
            }
        }
    }
}
