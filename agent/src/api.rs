//! What commands ask of the running agent, over the socket in its state folder.

use std::convert::Infallible;
use std::sync::Arc;

use blueprint_common_runtime::cli::CliError;
use blueprint_common_runtime::local_api;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_spoke::CallError;
use blueprint_common_types::ServiceKey;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::UnixListener;
use tracing::{info, warn};

use crate::agent::AgentError;
use crate::http_text::{Answer, json, refusal};
use crate::service::ServiceSpec;
use crate::shared::Shared;
use crate::status::{self, StatusReport};
use crate::{hint, netcheck};

/// Largest request that is read.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// What removes a service.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveRequest {
    pub(crate) service: ServiceKey,
    pub(crate) port: Option<u16>,
}

/// What ends an identity.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaveRequest {
    /// Forget the identity although the hub cannot be told.
    pub(crate) force: bool,
}

/// Serves commands until the agent ends.
pub(crate) async fn run(
    shared: Arc<Shared>,
    listener: UnixListener,
    spawner: Spawner,
) -> Result<(), AgentError> {
    let stop = shared.stop.clone();
    let children = spawner.clone();
    let make_service = move || {
        let (shared, spawner) = (Arc::clone(&shared), children.clone());
        service_fn(move |request: Request<Incoming>| {
            let (shared, spawner) = (Arc::clone(&shared), spawner.clone());
            async move {
                let answered = Box::pin(respond(&shared, &spawner, request)).await;
                Ok::<_, Infallible>(answered.unwrap_or_else(|error| refusal(&error)))
            }
        })
    };
    match local_api::serve(listener, make_service, spawner, stop).await {
        Ok(()) => Ok(()),
        Err(never) => match never {},
    }
}

async fn respond(shared: &Shared, spawner: &Spawner, request: Request<Incoming>) -> Result<Answer, CliError> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match (&method, path.as_str()) {
        (&Method::GET, "/v1/status") => Ok(json(StatusCode::OK, &StatusReport::of(shared))),
        (&Method::GET, "/v1/services") => Ok(json(StatusCode::OK, &status::services(shared))),
        (&Method::POST, "/v1/services") => {
            let spec: ServiceSpec = body(request).await?;
            let added = shared.add_service(spec.clone())?;
            Ok(json(StatusCode::OK, &json!({ "added": added, "service": spec })))
        }
        (&Method::POST, "/v1/services/remove") => {
            let RemoveRequest { service, port } = body(request).await?;
            let removed = shared.remove_service(service, port)?;
            Ok(json(StatusCode::OK, &json!({ "removed": removed })))
        }
        (&Method::POST, "/v1/netcheck") => {
            let base = shared.spoke.base(spawner.clone());
            Ok(json(StatusCode::OK, &Box::pin(netcheck::beside(shared, base)).await))
        }
        (&Method::POST, "/v1/leave") => {
            let LeaveRequest { force } = body(request).await?;
            let told = leave(shared, force).await?;
            Ok(json(StatusCode::OK, &json!({ "left": true, "hub_told": told })))
        }
        _ => Err(CliError::not_found(format!("no {method} {path} here"))),
    }
}

async fn body<T: for<'de> Deserialize<'de>>(request: Request<Incoming>) -> Result<T, CliError> {
    let body = Limited::new(request.into_body(), MAX_REQUEST_BYTES).collect().await;
    let body = body.map_err(|error| CliError::usage(format!("cannot read the request: {error}")))?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|error| CliError::usage(format!("cannot understand the request: {error}")))
}

/// Gives the identity up and asks the process to end; says whether the hub was told.
async fn leave(shared: &Shared, force: bool) -> Result<bool, CliError> {
    let identity = shared.spoke.identity();
    // The hub's goodbye to the control stream comes before its answer here.
    shared.spoke.set_leaving(true);
    let told = match blueprint_common_spoke::leave(&identity, shared.config.proxy.as_ref()).await {
        Ok(()) => true,
        Err(error) if force => {
            warn!(error = %blueprint_common_runtime::Chain(&error), "left without telling the hub");
            false
        }
        Err(error) => {
            shared.spoke.set_leaving(false);
            return Err(not_told(error));
        }
    };
    shared.spoke.forget()?;
    info!(agent = %identity.agent_id, told, "identity given up");
    shared.process.drain.cancel();
    Ok(told)
}

/// The hub was not told, and nothing was forced.
pub(crate) fn not_told(error: CallError) -> CliError {
    let error = hint::call(&error);
    let message = format!("the hub was not told, so this machine has not left: {}", error.message);
    CliError::new(error.exit, message).hint(
        "try again once the hub is reachable, or use --force and remove the agent there with `blueprint-hub node rm`",
    )
}
