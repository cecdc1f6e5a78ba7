//! A change that was begun goes on to its end, also where the client leaves: between what is stored and what is
//! in force nothing may be left out.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use blueprint_common_runtime::tasks::Spawner;

use crate::error::ApiError;

/// Answers a request that may change something in a task of its own.
pub(crate) async fn finish(State(spawner): State<Spawner>, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match spawner.finish("change by the operator", next.run(request)).await {
        Some(response) => response,
        None => ApiError::unavailable("the change was broken off: the hub is stopping, or its log says why")
            .into_response(),
    }
}
