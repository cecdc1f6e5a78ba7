//! Errors as every JSON API of the product says them: code, message, next step.

use axum::Json;
use axum::response::{IntoResponse, Response};
use blueprint_hub_proxy_core::NotInForce;
use blueprint_hub_registry_core::StoreError;
use http::StatusCode;
use serde_json::{Value, json};
use tracing::error;

/// An answer that is not the one asked for.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    hint: String,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { status, code, message: message.into(), hint: hint.into() }
    }

    /// Says what was deleted before it failed.
    pub(crate) fn behind(mut self, removed: &[String]) -> Self {
        if !removed.is_empty() {
            self.message = format!("{}; deleted before: {}", self.message, removed.join(", "));
        }
        self
    }

    /// Status, code, message and hint.
    pub(crate) fn parts(self) -> (StatusCode, &'static str, String, String) {
        (self.status, self.code, self.message, self.hint)
    }

    pub(crate) fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message, hint)
    }

    pub(crate) fn invalid(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message, hint)
    }

    pub(crate) fn conflict(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message, hint)
    }

    /// `file` of the hub's state folder holds the token.
    pub(crate) fn unauthorized(file: &str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this port needs a token of the operator",
            format!("send `Authorization: Bearer …` with the content of {file} in the hub's state folder"),
        )
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message, "try again in a moment")
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        error!(%error, "store failed");
        Self::unavailable("the hub's store cannot do this now; the hub's log says why")
    }
}

impl From<NotInForce> for ApiError {
    fn from(not: NotInForce) -> Self {
        const LOOK: &str = "the hub's log says what cannot be read (`credentials not reloaded`); \
                            the metric hub_proxy_tables_stale is 0 once it holds";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_in_force", not.to_string(), LOOK)
    }
}

impl ApiError {
    /// The answer with one more field beside `error`.
    pub(crate) fn with(self, field: &str, value: Value) -> Response {
        self.beside(json!({ field: value }))
    }

    /// The answer with `error` as one more field of `body`, an object.
    pub(crate) fn beside(self, mut body: Value) -> Response {
        if let (Some(fields), Value::Object(error)) = (body.as_object_mut(), self.body()) {
            fields.extend(error);
        }
        (self.status, Json(body)).into_response()
    }

    fn body(&self) -> Value {
        json!({"error": {"code": self.code, "message": self.message, "hint": self.hint}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body())).into_response()
    }
}
