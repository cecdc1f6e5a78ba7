//! The route table.

use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::response::IntoResponse;
use axum::routing::{delete, get, post, put};
use axum::{Json, Router, middleware};
use blueprint_common_runtime::metrics::CONTENT_TYPE;
use http::header;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::{
    AdminState, OperatorToken, access, accounts, alerts, artefacts, audit, auth, changes, costs, deployments,
    identities, keys, logs, nodes, offers, policy, prices, qos, scaling, scrape, services, sessions,
    settings, tls, tokens, updates, usage, views, workloads,
};

/// Largest request body in bytes, but for policies.
const MAX_BODY: usize = 64 * 1024;

/// Routes for the Unix socket: who can open it is the operator.
pub fn private_router(state: AdminState) -> Router {
    let finish = middleware::from_fn_with_state(state.spawner.clone(), changes::finish);
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/{node}", get(nodes::show).delete(nodes::remove))
        .route("/v1/nodes/{node}/qos", get(nodes::qos))
        .route("/v1/nodes/{node}/metrics", get(scrape::node))
        .route("/v1/nodes/{node}/services/{blueprint}/{service}/{port}/metrics", get(scrape::service))
        .route("/v1/targets", get(scrape::targets))
        .route("/v1/services", get(services::list))
        .route("/v1/services/{blueprint}/{service}", get(services::show))
        .route(
            "/v1/services/{blueprint}/{service}/settings",
            get(settings::show).put(settings::set).layer(DefaultBodyLimit::max(settings::MAX_BODY)),
        )
        .route("/v1/services/{blueprint}/{service}/usage", get(usage::show))
        .merge(quality())
        .route(
            "/v1/services/{blueprint}/{service}/tls",
            get(tls::show).put(tls::set).delete(tls::remove).layer(DefaultBodyLimit::max(tls::MAX_BODY)),
        )
        .route("/v1/services/{blueprint}/{service}/certificates", get(tls::list).post(tls::issue))
        .route("/v1/services/{blueprint}/{service}/certificates/{serial}", delete(tls::revoke))
        .route("/v1/workloads", get(workloads::list))
        .route(
            "/v1/workloads/{blueprint}/{service}",
            get(workloads::show)
                .put(workloads::set)
                .delete(workloads::remove)
                .layer(DefaultBodyLimit::max(workloads::MAX_BODY)),
        )
        .route("/v1/workloads/{blueprint}/{service}/events", get(workloads::events))
        .route("/v1/workloads/{blueprint}/{service}/logs", get(logs::read))
        .route("/v1/workloads/{blueprint}/{service}/versions", get(updates::versions))
        .route(
            "/v1/workloads/{blueprint}/{service}/update",
            post(updates::update).delete(updates::abort).layer(DefaultBodyLimit::max(workloads::MAX_BODY)),
        )
        .route("/v1/workloads/{blueprint}/{service}/rollback", post(updates::rollback))
        .route("/v1/workloads/{blueprint}/{service}/exec", post(sessions::exec))
        .merge(forwards())
        .route("/v1/providers", get(offers::list_providers))
        .merge(accounts())
        .route("/v1/templates", get(offers::list_templates))
        .route("/v1/offers", get(offers::list_offers))
        .route("/v1/estimate", get(offers::estimate))
        .route("/v1/prices", get(prices::list))
        .route("/v1/prices/{provider}/refresh", post(prices::refresh))
        .route("/v1/deployments", get(deployments::list).post(deployments::create))
        .route(
            "/v1/deployments/{deployment}",
            get(deployments::show).put(deployments::change).delete(deployments::terminate),
        )
        .merge(costs())
        .merge(tiers())
        .route("/v1/history", get(deployments::history))
        .route("/v1/artefacts", get(artefacts::list))
        .route("/v1/artefacts/{sha256}", put(artefacts::push).delete(artefacts::remove))
        .route("/v1/keys", get(keys::list))
        .route("/v1/keys/{id}", delete(keys::revoke))
        .route("/v1/keys/{id}/rotate", post(keys::rotate))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/identities", get(identities::list))
        .route("/v1/identities/{cloud}/{account}/{instance}", delete(identities::forget))
        .route("/v1/access", get(access::list).post(access::create))
        .route("/v1/access/{id}", delete(access::revoke))
        .route("/v1/policy", get(policy::show).put(policy::set).layer(policy_limit()))
        .route("/v1/policy/test", post(policy::test).layer(policy_limit()))
        .route("/v1/audit", get(audit::show))
        .route("/v1/audit/verify", get(audit::verify))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .fallback(nowhere)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(finish)
        .with_state(state)
}

/// Ports that are carried between the operator and services or nodes.
fn forwards() -> Router<AdminState> {
    Router::new()
        .route("/v1/services/{blueprint}/{service}/forward", post(sessions::forward))
        .route("/v1/nodes/{node}/forward", post(sessions::forward_node))
        .route("/v1/forwards/{session}/connections", get(sessions::connect))
        .route("/v1/forwards/{session}/connections/{connection}", get(sessions::arrived))
}

/// What machines cost, and alerts about it.
fn costs() -> Router<AdminState> {
    Router::new()
        .route("/v1/costs", get(costs::show))
        .route("/v1/alerts", get(alerts::list))
        .route("/v1/alerts/{alert}", get(alerts::show).put(alerts::set).delete(alerts::remove))
        .route("/v1/alerts/{alert}/release", post(alerts::release))
        .route("/v1/alerts/{alert}/test", post(alerts::test))
        .route("/v1/alert-events", get(alerts::events))
}

/// Tiers of services, and their replicas.
fn tiers() -> Router<AdminState> {
    Router::new()
        .route("/v1/tiers", get(scaling::tiers))
        .route("/v1/scaling", get(scaling::list))
        .route(
            "/v1/services/{blueprint}/{service}/scaling",
            get(scaling::show).put(scaling::set).delete(scaling::remove),
        )
        .route("/v1/services/{blueprint}/{service}/scaling/history", get(scaling::history))
}

/// Accounts at providers.
fn accounts() -> Router<AdminState> {
    Router::new()
        .route("/v1/accounts", get(accounts::list))
        .route("/v1/accounts/{name}/credentials", put(accounts::configure).delete(accounts::forget))
        .route("/v1/accounts/{name}/check", post(accounts::check))
        .route("/v1/accounts/{name}/clean", post(accounts::clean))
        .route("/v1/accounts/{name}/policy", get(accounts::policy))
}

/// Quality of service.
fn quality() -> Router<AdminState> {
    Router::new()
        .route("/v1/services/{blueprint}/{service}/qos", get(qos::show))
        .route("/v1/services/{blueprint}/{service}/qos/history", get(qos::history))
        .route("/v1/services/{blueprint}/{service}/qos/report", get(qos::report))
        .route(
            "/v1/services/{blueprint}/{service}/objective",
            put(qos::set_objective).delete(qos::remove_objective),
        )
        .route("/v1/nodes/{node}/qos/history", get(qos::node_history))
        .route("/v1/nodes/{node}/qos/month", get(qos::node_month))
        .route("/v1/nodes/{node}/qos/report", get(qos::node_report))
        .route("/v1/nodes/{node}/tunnel/report", get(qos::tunnel_report))
        .route("/v1/nodes/{node}/objective", put(qos::set_node_objective).delete(qos::remove_node_objective))
        .route(
            "/v1/nodes/{node}/tunnel/objective",
            put(qos::set_tunnel_objective).delete(qos::remove_tunnel_objective),
        )
        .route("/v1/objectives", get(qos::objectives))
        .route("/v1/report-key", get(qos::key))
}

/// The same routes for a TCP port, each behind the operator's token; only `/healthz` is open.
pub fn public_router(state: AdminState, token: OperatorToken) -> Router {
    let known = private_router(state).layer(Extension(policy::Way::Port));
    let guarded = known.layer(middleware::from_fn_with_state(token, auth::require));
    Router::new().route("/healthz", get(healthz)).fallback_service(guarded)
}

/// What a scraper may read, behind a token that opens nothing else; only `/healthz` is open.
pub fn metrics_router(state: AdminState, token: OperatorToken) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/targets", get(scrape::targets))
        .route("/v1/nodes/{node}/metrics", get(scrape::node))
        .route("/v1/nodes/{node}/services/{blueprint}/{service}/{port}/metrics", get(scrape::service))
        .fallback(nowhere)
        .layer(middleware::from_fn_with_state(token, auth::require))
        .with_state(state);
    Router::new().route("/healthz", get(healthz)).fallback_service(guarded)
}

/// Documents are longer than other bodies.
fn policy_limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(policy::MAX_BODY)
}

async fn nowhere() -> ApiError {
    ApiError::not_found("no such route", "routes are listed in docs/api.md")
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], state.metrics.encode())
}

async fn status(State(state): State<AdminState>) -> Json<Value> {
    let snapshot = state.hub.snapshot();
    let alive = snapshot.agents.values().filter(|view| view.data_plane).count();
    let healthy =
        snapshot.targets.values().filter(|t| t.health == blueprint_common_types::Health::Healthy).count();
    let facts = &state.facts;
    let clients = state.hub.clients();
    Json(json!({
        "version": facts.version,
        "hub": facts.id,
        "epoch": facts.epoch,
        "started_at": views::time(facts.started_at),
        "join_address": format!("{}:{}", facts.advertise_host, facts.control_port),
        "pin": facts.pin.to_string(),
        "tunnel": facts.tunnel.to_string(),
        "proxy": facts.proxy_url,
        "proxy_listen": facts.proxy_listen,
        "proxy_domain": facts.proxy_domain,
        "proxy_tls": facts.proxy_tls,
        "acme": state.hub.acme().map(|acme| json!({
            "names": acme.names,
            "until": acme.not_after.map(views::time),
            "next_order": views::time(acme.next_at),
            "failures": acme.failures,
            "error": acme.error,
            "unsaved": acme.unsaved,
        })),
        "nodes": {"joined": snapshot.agents.len(), "data_plane_up": alive},
        "services": {"named": snapshot.by_service.len(), "targets": snapshot.targets.len(), "healthy": healthy},
        "clients": {"connections": clients.connections, "requests_open": clients.requests, "refused": clients.refused},
        "registry_index": snapshot.index,
    }))
}
