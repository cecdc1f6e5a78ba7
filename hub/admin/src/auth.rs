//! The operator's bearer token for the TCP port.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use blueprint_common_types::Secret;
use http::header::AUTHORIZATION;

use crate::error::ApiError;

/// What a caller on the TCP port has to show.
#[derive(Debug, Clone)]
pub struct OperatorToken(Secret<Vec<u8>>);

impl OperatorToken {
    /// Takes the text of the token file.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Secret::new(text.trim().as_bytes().to_vec()))
    }
}

/// Lets a request through that carries the token; compares in constant time.
pub(crate) async fn require(State(token): State<OperatorToken>, request: Request, next: Next) -> Response {
    let shown = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .map(|text| Secret::new(text.to_vec()));
    if shown.as_ref() == Some(&token.0) {
        next.run(request).await
    } else {
        ApiError::unauthorized().into_response()
    }
}
