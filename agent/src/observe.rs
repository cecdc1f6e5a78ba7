//! Metrics and probes over HTTP. Whoever reaches the address may read them: they hold no secret and take no order.

use std::convert::Infallible;
use std::sync::Arc;

use blueprint_common_runtime::accept::AcceptLoop;
use blueprint_common_runtime::local_api::serve_connection;
use blueprint_common_runtime::metrics::{CONTENT_TYPE, Metrics};
use blueprint_common_runtime::tasks::Spawner;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;

use crate::agent::AgentError;
use crate::http_text::{Answer, answer, text};
use crate::shared::Shared;

/// Serves until the agent ends.
pub(crate) async fn run(
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    listener: AcceptLoop,
    spawner: Spawner,
) -> Result<(), AgentError> {
    let stop = shared.stop.clone();
    let served = listener.run(spawner, stop.clone(), move |stream, _| {
        let (shared, metrics, stop) = (Arc::clone(&shared), Arc::clone(&metrics), stop.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = respond(&shared, &metrics, request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        serve_connection(stream, service, stop)
    });
    match served.await {
        Ok(()) => Ok(()),
        Err(never) => match never {},
    }
}

fn respond(shared: &Shared, metrics: &Metrics, method: &Method, path: &str) -> Answer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    match path {
        "/metrics" => answer(StatusCode::OK, CONTENT_TYPE, metrics.encode()),
        "/healthz" => text(StatusCode::OK, "alive"),
        "/readyz" if shared.is_ready() => text(StatusCode::OK, "ready"),
        "/readyz" if shared.is_draining() => text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "the data plane does not echo"),
        _ => text(StatusCode::NOT_FOUND, "/metrics, /healthz or /readyz"),
    }
}
