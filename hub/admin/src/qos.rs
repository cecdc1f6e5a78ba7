//! Quality of service: how services stand, what was, objectives, and signed months.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_proxy_core::identity::SealForm;
use blueprint_hub_registry_core::RegistrySnapshot;
use blueprint_hub_registry_core::qos::{
    Curve, HistoryAsk, MAX_POINTS, Month, Objective, ObjectiveOf, ObjectiveRecord, QosError, Report, Step,
    Subject,
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
                let hint = "`blueprint-hub service ls` lists services, `blueprint-hub node ls` machines";
                Self::not_found(error.to_string(), hint)
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
    let month = desk.report(ObjectiveOf::Service(key), Month::of(standing.now)).await?;
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
    /// `sample`, `minute` or `hour`.
    step: Option<String>,
    /// Most points; 240 where not given.
    points: Option<usize>,
}

impl HistoryQuery {
    fn ask(query: Result<Query<Self>, QueryRejection>) -> Result<HistoryAsk, ApiError> {
        let Query(query) = query.map_err(|error| ApiError::invalid(error.body_text(), DOCS))?;
        let step = match query.step.as_deref() {
            None => None,
            Some("sample") => Some(Step::Sample),
            Some("minute") => Some(Step::Minute),
            Some("hour") => Some(Step::Hour),
            Some(other) => {
                return Err(ApiError::invalid(format!("{other:?} is neither sample, minute nor hour"), DOCS));
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
    signed(&state, ObjectiveOf::Service(ServiceKey { blueprint, service }), query).await
}

/// How a machine and its tunnel did this month.
pub(crate) async fn node_month(
    State(state): State<AdminState>,
    Path(node): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let agent = agent(&state, &node)?;
    let (desk, month) = (state.hub.quality(), Month::of(now()));
    let own = desk.report(ObjectiveOf::Node(agent), month).await?;
    let tunnel = desk.report(ObjectiveOf::Tunnel(agent), month).await?;
    let view = |report: &Report| {
        json!({
            "objective": report.objective,
            "verdict": report.verdict,
            "budget": report.budget,
            "total": report.total,
        })
    };
    Ok(Json(json!({
        "node": agent,
        "name": own.of.name(),
        "month": month,
        "machine": view(&own),
        "tunnel": view(&tunnel),
    })))
}

pub(crate) async fn node_report(
    State(state): State<AdminState>,
    Path(node): Path<String>,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    signed(&state, ObjectiveOf::Node(agent(&state, &node)?), query).await
}

pub(crate) async fn tunnel_report(
    State(state): State<AdminState>,
    Path(node): Path<String>,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    signed(&state, ObjectiveOf::Tunnel(agent(&state, &node)?), query).await
}

/// The machine of this name or id.
fn agent(state: &AdminState, node: &str) -> Result<AgentId, ApiError> {
    Ok(nodes::find(&state.hub.snapshot(), node)?.agent.id)
}

async fn signed(
    state: &AdminState,
    of: ObjectiveOf,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::invalid(error.body_text(), DOCS))?;
    let month = match query.month.as_deref() {
        None => Month::of(now()),
        Some(text) => text.parse().map_err(|error| ApiError::invalid(format!("{error}"), DOCS))?,
    };
    let report = state.hub.quality().report(of, month).await?;
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
    let snapshot = state.hub.snapshot();
    let rows: Vec<Value> = set.iter().map(|record| objective_view(record, &snapshot)).collect();
    Ok(Json(json!({ "default": Objective::default(), "objectives": rows })))
}

fn objective_view(record: &ObjectiveRecord, snapshot: &RegistrySnapshot) -> Value {
    let name = |id: &AgentId| snapshot.agents.get(id).map(|view| view.agent.name.clone());
    let mut view = json!({ "objective": record.objective, "changed_at": time(record.changed_at) });
    let fields = match record.of {
        ObjectiveOf::Service(service) => vec![("kind", json!("service")), ("service", json!(service))],
        ObjectiveOf::Node(id) => {
            vec![("kind", json!("node")), ("node", json!(id)), ("name", json!(name(&id)))]
        }
        ObjectiveOf::Tunnel(id) => {
            vec![("kind", json!("tunnel")), ("node", json!(id)), ("name", json!(name(&id)))]
        }
    };
    if let Some(all) = view.as_object_mut() {
        all.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    view
}

pub(crate) async fn set_objective(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    body: Result<Json<SetObjective>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    set(&state, ObjectiveOf::Service(ServiceKey { blueprint, service }), body).await
}

pub(crate) async fn set_node_objective(
    State(state): State<AdminState>,
    Path(node): Path<String>,
    body: Result<Json<SetObjective>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    set(&state, ObjectiveOf::Node(agent(&state, &node)?), body).await
}

pub(crate) async fn set_tunnel_objective(
    State(state): State<AdminState>,
    Path(node): Path<String>,
    body: Result<Json<SetObjective>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    set(&state, ObjectiveOf::Tunnel(agent(&state, &node)?), body).await
}

async fn set(
    state: &AdminState,
    of: ObjectiveOf,
    body: Result<Json<SetObjective>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(asked) = body.map_err(|error| ApiError::invalid(error.body_text(), DOCS))?;
    let objective: Objective =
        asked.objective.parse().map_err(|error| ApiError::invalid(format!("{error}"), DOCS))?;
    state.hub.quality().set_objective(of, Some(objective)).await?;
    Ok(Json(set_view(of, objective)))
}

fn set_view(of: ObjectiveOf, objective: Objective) -> Value {
    match of {
        ObjectiveOf::Service(service) => json!({ "service": service, "objective": objective }),
        ObjectiveOf::Node(node) => json!({ "node": node, "objective": objective }),
        ObjectiveOf::Tunnel(node) => json!({ "tunnel": node, "objective": objective }),
    }
}

pub(crate) async fn remove_objective(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    remove(&state, ObjectiveOf::Service(ServiceKey { blueprint, service })).await
}

pub(crate) async fn remove_node_objective(
    State(state): State<AdminState>,
    Path(node): Path<String>,
) -> Result<Json<Value>, ApiError> {
    remove(&state, ObjectiveOf::Node(agent(&state, &node)?)).await
}

pub(crate) async fn remove_tunnel_objective(
    State(state): State<AdminState>,
    Path(node): Path<String>,
) -> Result<Json<Value>, ApiError> {
    remove(&state, ObjectiveOf::Tunnel(agent(&state, &node)?)).await
}

async fn remove(state: &AdminState, of: ObjectiveOf) -> Result<Json<Value>, ApiError> {
    if !state.hub.quality().set_objective(of, None).await? {
        let what = match of {
            ObjectiveOf::Service(service) => format!("service {service}"),
            ObjectiveOf::Node(_) | ObjectiveOf::Tunnel(_) => of.to_string(),
        };
        return Err(ApiError::not_found(
            format!("{what} has no objective of its own"),
            "`blueprint-hub qos objective ls` lists those that were set",
        ));
    }
    Ok(Json(set_view(of, Objective::default())))
}

/// The public key that reports are signed with.
pub(crate) async fn key(State(state): State<AdminState>) -> Json<Value> {
    let key = state.hub.signer().seal_key();
    Json(json!({ "kid": key.name(), "pem": key.pem() }))
}
