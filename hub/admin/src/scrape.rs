//! What a Prometheus server asks: which targets there are, and the metrics of each, all through this hub.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use blueprint_common_types::{AGENT_METRICS_PORT, ServiceKey};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::{AdminState, ScrapeFailed, nodes};

/// Longest `host` that is given back, in bytes.
const MAX_HOST: usize = 255;

/// Every target, as Prometheus' HTTP service discovery wants it: the address under which this was asked for, and the path.
pub(crate) async fn targets(
    State(state): State<AdminState>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.filter(|host| !host.is_empty() && host.len() <= MAX_HOST).ok_or_else(|| {
        ApiError::invalid(
            "the request names no host",
            "ask with HTTP/1.1, over the TCP port of metrics.listen",
        )
    })?;
    let group = |path: String, labels: Value| {
        let mut group = json!({ "targets": [host], "labels": labels });
        if let Some(labels) = group.get_mut("labels").and_then(Value::as_object_mut) {
            labels.insert("__metrics_path__".to_owned(), path.into());
        }
        group
    };
    let mut groups = vec![group("/metrics".to_owned(), json!({ "kind": "hub", "instance": "hub" }))];
    let snapshot = state.hub.snapshot();
    for view in snapshot.agents.values() {
        let (id, name) = (view.agent.id, &view.agent.name);
        let labels = json!({ "kind": "agent", "instance": name, "node": name, "node_id": id });
        groups.push(group(format!("/v1/nodes/{id}/metrics"), labels));
    }
    for target in snapshot.targets.values() {
        let (key, service) = (&target.key, target.key.service);
        let labels = json!({
            "kind": "service",
            "instance": format!("{}:{}", target.agent_name, key.port),
            "node": target.agent_name,
            "node_id": key.agent,
            "blueprint": service.blueprint.to_string(),
            "service": service.service.to_string(),
        });
        let path = format!("/v1/nodes/{}/services/{}/{}/metrics", key.agent, service, key.port);
        groups.push(group(path, labels));
    }
    Ok(Json(Value::Array(groups)))
}

/// The metrics of an agent.
pub(crate) async fn node(
    State(state): State<AdminState>,
    Path(node): Path<String>,
) -> Result<Response, ApiError> {
    page(&state, &node, "/metrics".to_owned()).await
}

/// The metrics that a service shows of itself.
pub(crate) async fn service(
    State(state): State<AdminState>,
    Path((node, blueprint, service, port)): Path<(String, u64, u64, u16)>,
) -> Result<Response, ApiError> {
    let key = ServiceKey { blueprint, service };
    page(&state, &node, format!("/services/{key}/{port}")).await
}

async fn page(state: &AdminState, node: &str, path: String) -> Result<Response, ApiError> {
    let snapshot = state.hub.snapshot();
    let agent = nodes::find(&snapshot, node)?.agent.clone();
    // What a service says at that port is not what the agent says.
    if snapshot.targets.keys().any(|key| key.agent == agent.id && key.port == AGENT_METRICS_PORT) {
        return Err(ApiError::new(
            StatusCode::BAD_GATEWAY,
            "no_metrics",
            format!(
                "node {} offers a service at overlay port {AGENT_METRICS_PORT}, where its agent shows metrics",
                agent.name
            ),
            "offer the service at another overlay port",
        ));
    }
    drop(snapshot);
    let page = state.hub.scrape(agent.lease, path).await.map_err(|failed| {
        let status = match failed {
            ScrapeFailed::Late(_) => StatusCode::GATEWAY_TIMEOUT,
            ScrapeFailed::Unreachable(_) => StatusCode::BAD_GATEWAY,
            ScrapeFailed::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        ApiError::new(
            status,
            "no_metrics",
            format!("metrics of node {} cannot be read: {failed}", agent.name),
            "`blueprint-hub node ls` shows whether the node is up",
        )
    })?;
    // What a node says of itself is text for a scraper, and nothing that a browser would run.
    let kind = HeaderValue::from_str(&page.kind).unwrap_or_else(|_| HeaderValue::from_static("text/plain"));
    let safe = [
        (header::CONTENT_TYPE, kind),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'")),
    ];
    Ok((page.status, safe, page.body).into_response())
}
