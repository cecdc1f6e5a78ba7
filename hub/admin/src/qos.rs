//! Quality of service: how services stand, what was, objectives, and signed months.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_proxy_core::identity::SealForm;
use blueprint_hub_registry_core::qos::{
    Curve, HistoryAsk, MAX_POINTS, Month, Objective, ObjectiveRecord, QosError, Step, Subject,
};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::error;

use crate::error::ApiError;
use crate::views::{now, time};
use crate::{AdminState, nodes};

/// Where one finds how to ask.
const DOCS: &str = "docs/qos.md says what can be asked for";

impl From<QosError> for ApiError {
    fn from(error: QosError) -> Self {
        match error {
            QosError::Unknown(_) => {
                Self::not_found(error.to_string(), "`blueprint-hub service ls` lists services")
            }
            QosError::NoSample(_) | QosError::NoMetrics { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no_sample",
                error.to_string(),
                "`blueprint-hub node ls` shows whether its machine is up",
            ),
            QosError::Busy(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                error.to_string(),
                "ask again in a few seconds",
            ),
            QosError::Range(text) => Self::invalid(text, DOCS),
            QosError::Store(error) => error.into(),
        }
    }
}

pub(crate) async fn show(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let desk = state.hub.quality();
    let standing = desk.standing(key).await?;
    let usage = match desk.usage(key).await {
        Ok(usage) => Some(usage),
        Err(QosError::NoSample(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let month = desk.report(key, Month::of(standing.now)).await?;
    Ok(Json(json!({
        "service": key,
        "state": standing.code,
        "message": standing.message,
        "nodes": standing.nodes,
        "started_at": standing.started_at.map(time),
        "uptime_seconds": standing.started_at.map(|started| standing.now.since(started).as_secs()),
        "sampled_at": standing.sampled_at.map(time),
        "usage": usage,
        "objective": month.objective,
        "verdict": month.verdict,
        "budget": month.budget,
        "month": month.month,
        "total": month.total,
    })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryQuery {
    /// Milliseconds since 1970.
    from: Option<u64>,
    /// Milliseconds since 1970; rows that begin then are left out.
    until: Option<u64>,
    /// `minute` or `hour`.
    step: Option<String>,
    /// Most points; 240 where not given.
    points: Option<usize>,
}

impl HistoryQuery {
    fn ask(query: Result<Query<Self>, QueryRejection>) -> Result<HistoryAsk, ApiError> {
        let Query(query) = query.map_err(|error| ApiError::invalid(error.body_text(), DOCS))?;
        let step = match query.step.as_deref() {
            None => None,
            Some("minute") => Some(Step::Minute),
            Some("hour") => Some(Step::Hour),
            Some(other) => {
                return Err(ApiError::invalid(format!("{other:?} is neither minute nor hour"), DOCS));
            }
        };
        let points = query.points.unwrap_or(0);
        if points > MAX_POINTS {
            return Err(ApiError::invalid(format!("{points} points are more than {MAX_POINTS}"), DOCS));
        }
        let (from, until) = (query.from.map(Timestamp::from_millis), query.until.map(Timestamp::from_millis));
        Ok(HistoryAsk { from, until, step, points, is_sampled: false })
    }
}

pub(crate) async fn history(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let curve = state.hub.quality().curve(Subject::Service(key), HistoryQuery::ask(query)?).await?;
    Ok(Json(curve_view(json!({ "service": key }), &curve)))
}

pub(crate) async fn node_history(
    State(state): State<AdminState>,
    Path(node): Path<String>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let ask = HistoryQuery::ask(query)?;
    let snapshot = state.hub.snapshot();
    let agent = nodes::find(&snapshot, &node)?.agent.clone();
    drop(snapshot);
    let desk = state.hub.quality();
    let curve = desk.curve(Subject::Node(agent.id), ask).await?;
    let tunnel = desk.tunnel_since(agent.id).map(
        |(is_up, since)| json!({ "up": is_up, "since": time(since), "seconds": now().since(since).as_secs() }),
    );
    Ok(Json(curve_view(json!({ "node": agent.id, "name": agent.name, "tunnel": tunnel }), &curve)))
}

/// The fields of a curve beside those that say whose it is. Times are such as people read, too.
fn curve_view(mut answer: Value, curve: &Curve) -> Value {
    let point = |point| {
        let mut view = json!(point);
        if let Some(fields) = view.as_object_mut()
            && let Some(at) = fields.get("at").and_then(Value::as_u64)
        {
            fields.insert("time".to_owned(), time(Timestamp::from_millis(at)).into());
        }
        view
    };
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("step".to_owned(), json!(curve.step));
        fields.insert("points".to_owned(), curve.points.iter().map(point).collect());
    }
    answer
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReportQuery {
    /// Such as `2026-10`; this month where not given.
    month: Option<String>,
    /// `text`, `json` or `csv`.
    format: Option<String>,
}

pub(crate) async fn report(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::invalid(error.body_text(), DOCS))?;
    let month = match query.month.as_deref() {
        None => Month::of(now()),
        Some(text) => text.parse().map_err(|error| ApiError::invalid(format!("{error}"), DOCS))?,
    };
    let report = state.hub.quality().report(ServiceKey { blueprint, service }, month).await?;
    let (form, body, kind) = match query.format.as_deref() {
        None | Some("json") => {
            let body = report.json().map_err(|error| {
                error!(%error, "report not written");
                ApiError::unavailable("the report cannot be written; the hub's log says why")
            })?;
            (SealForm::Json, body, "application/json")
        }
        Some("text") => (SealForm::Text, report.text(), "text/plain; charset=utf-8"),
        Some("csv") => (SealForm::Csv, report.csv(), "text/csv"),
        Some(other) => {
            return Err(ApiError::invalid(format!("{other:?} is neither text, json nor csv"), DOCS));
        }
    };
    Ok(([(header::CONTENT_TYPE, kind)], state.hub.signer().seal(&body, form)).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetObjective {
    /// Percent, as text, such as `99.9`.
    objective: String,
}

pub(crate) async fn objectives(State(state): State<AdminState>) -> Result<Json<Value>, ApiError> {
    let set = state.hub.quality().objectives().await?;
    let rows: Vec<Value> = set.iter().map(objective_view).collect();
    Ok(Json(json!({ "default": Objective::default(), "objectives": rows })))
}

fn objective_view(record: &ObjectiveRecord) -> Value {
    json!({ "service": record.service, "objective": record.objective, "changed_at": time(record.changed_at) })
}

pub(crate) async fn set_objective(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    body: Result<Json<SetObjective>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let Json(asked) = body.map_err(|error| ApiError::invalid(error.body_text(), DOCS))?;
    let objective: Objective =
        asked.objective.parse().map_err(|error| ApiError::invalid(format!("{error}"), DOCS))?;
    state.hub.quality().set_objective(key, Some(objective)).await?;
    Ok(Json(json!({ "service": key, "objective": objective })))
}

pub(crate) async fn remove_objective(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    if !state.hub.quality().set_objective(key, None).await? {
        return Err(ApiError::not_found(
            format!("service {key} has no objective of its own"),
            "`blueprint-hub qos objective ls` lists those that were set",
        ));
    }
    Ok(Json(json!({ "service": key, "objective": Objective::default() })))
}

/// The public key that reports are signed with.
pub(crate) async fn key(State(state): State<AdminState>) -> Json<Value> {
    let key = state.hub.signer().seal_key();
    Json(json!({ "kid": key.name(), "pem": key.pem() }))
}
