//! Metrics of this machine for its hub: the agent's own, and those that services show of themselves.
//!
//! ```text
//! GET /metrics                               the agent's
//! GET /services/BLUEPRINT/SERVICE/PORT       those of the service at that overlay port
//! ```
//!
//! Served at one port of the overlay addresses, to the hub's own addresses alone.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use blueprint_agent_qos::{ScrapeError, ask, scrape};
use blueprint_common_runtime::local_api::serve_connection;
use blueprint_common_runtime::metrics::{CONTENT_TYPE, Metrics};
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::Listener;
use blueprint_common_types::{AGENT_METRICS_PORT, MetricsAsk, ServiceKey};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::agent::AgentError;
use crate::forward::LISTEN_PAUSE;
use crate::http_text::{Answer, answer, text};
use crate::service::ServiceTable;
use crate::shared::Shared;

/// Connections of the hub at once.
const CONNECTIONS: usize = 16;

/// Tries to open the port, [`LISTEN_PAUSE`] apart, after which a person is told: it may be closing before that.
const TOLD_AFTER: u32 = 20;

/// Longest wait for a service of this machine: less than a scraper's usual ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until the agent ends, while no service has the port.
pub(crate) async fn run(
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    spawner: Spawner,
) -> Result<(), AgentError> {
    let _ = shared.stop.run_until_cancelled(serve(&shared, &metrics, &spawner)).await;
    Ok(())
}

async fn serve(shared: &Arc<Shared>, metrics: &Arc<Metrics>, spawner: &Spawner) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut changes = shared.watch_services();
    let mut failures = 0u32;
    let is_taken =
        |table: &Arc<ServiceTable>| table.iter().any(|entry| entry.spec.port == AGENT_METRICS_PORT);
    loop {
        if changes.wait_for(|table| !is_taken(table)).await.is_err() {
            return;
        }
        match shared.spoke.plane().tunnel().listen(AGENT_METRICS_PORT).await {
            Ok(listener) => tokio::select! {
                () = accept(shared, metrics, (listener, &places), spawner) => {}
                _ = changes.wait_for(is_taken) => {
                    info!(port = AGENT_METRICS_PORT, "a service has the port where the hub reads metrics: it reads none");
                }
            },
            Err(error) => {
                failures = failures.saturating_add(1);
                if failures == TOLD_AFTER {
                    warn!(port = AGENT_METRICS_PORT, %error, "no metrics for the hub: another program has the port");
                }
            }
        }
        sleep(LISTEN_PAUSE).await;
    }
}

async fn accept(
    shared: &Arc<Shared>,
    metrics: &Arc<Metrics>,
    (mut listener, places): (Listener, &Arc<Semaphore>),
    spawner: &Spawner,
) {
    while let Some(stream) = listener.accept().await {
        let source = stream.peer_addr();
        let identity = shared.spoke.identity();
        if !identity.tunnel.hub.contains(source.ip()) {
            debug!(%source, "connection for metrics refused: it is not the hub's");
            continue;
        }
        let Ok(place) = Arc::clone(places).try_acquire_owned() else { continue };
        let (shared, metrics) = (Arc::clone(shared), Arc::clone(metrics));
        let stop = shared.stop.clone();
        spawner.spawn("metrics for the hub", async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (shared, metrics) = (Arc::clone(&shared), Arc::clone(&metrics));
                async move { Ok::<_, Infallible>(respond(&shared, &metrics, &request).await) }
            });
            // Whoever breaks off is gone, and nobody else to be told.
            let _ = serve_connection(stream, service, stop).await;
            drop(place);
        });
    }
}

async fn respond(shared: &Shared, metrics: &Metrics, request: &Request<Incoming>) -> Answer {
    if *request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    let path = request.uri().path();
    if path == "/metrics" {
        return answer(StatusCode::OK, CONTENT_TYPE, metrics.encode());
    }
    match service(path) {
        Some((key, port)) => of_service(shared, key, port).await,
        None => text(StatusCode::NOT_FOUND, "/metrics, or /services/BLUEPRINT/SERVICE/PORT"),
    }
}

/// Reads `/services/BLUEPRINT/SERVICE/PORT`.
fn service(path: &str) -> Option<(ServiceKey, u16)> {
    let (key, port) = path.strip_prefix("/services/")?.rsplit_once('/')?;
    Some((key.parse().ok()?, port.parse().ok()?))
}

/// Kind of the page that is made of what a service tells by gRPC.
const ASKED_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn of_service(shared: &Shared, key: ServiceKey, port: u16) -> Answer {
    let table = shared.services();
    let entry = table.iter().find(|entry| entry.spec.service == key && entry.spec.port == port);
    let Some(spec) = entry.map(|entry| &entry.spec) else {
        return text(StatusCode::NOT_FOUND, &format!("service {key} is not offered at overlay port {port}"));
    };
    let Some(place) = spec.metrics.of(spec.local) else {
        return text(StatusCode::NOT_FOUND, &format!("service {key} shows no metrics (it says none)"));
    };
    let (page, from) = match place {
        MetricsAsk::Page(address, path) => {
            (scrape(address, path, PATIENCE).await, format!("{address}{path}"))
        }
        MetricsAsk::Grpc(address) => match ask(address, key, PATIENCE).await {
            Ok(page) => return answer(StatusCode::OK, ASKED_TYPE, page),
            Err(error) => (Err(error), format!("{address} by qos.QosMetrics")),
        },
    };
    match page {
        Ok(page) => {
            let mut response = Response::new(Full::new(Bytes::clone(&page.body)));
            let kind = HeaderValue::from_str(&page.kind);
            let kind = kind.unwrap_or_else(|_| HeaderValue::from_static("text/plain"));
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => {
            let status = match error {
                ScrapeError::Late(_) => StatusCode::GATEWAY_TIMEOUT,
                ScrapeError::Status(StatusCode::NOT_FOUND) => StatusCode::NOT_FOUND,
                ScrapeError::Status(_) | ScrapeError::Unreachable(_) => StatusCode::BAD_GATEWAY,
            };
            text(status, &format!("metrics of service {key} at {from}: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_place_of_a_service() {
        let key = ServiceKey { blueprint: 7, service: 42 };
        assert_eq!(service("/services/7/42/80"), Some((key, 80)));
        for bad in [
            "/services/7/42",
            "/services/7/42/80/",
            "/services/7/42/65536",
            "/services/../7/42/80",
            "/x/7/42/80",
        ] {
            assert_eq!(service(bad), None, "{bad}");
        }
    }
}
