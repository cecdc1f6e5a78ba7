//! Bearer tokens of the TCP ports.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use blueprint_common_types::Secret;
use http::header::AUTHORIZATION;

use crate::error::ApiError;

/// What a caller on a TCP port has to show.
#[derive(Debug, Clone)]
pub struct OperatorToken {
    secret: Secret<Vec<u8>>,
    /// The file in the hub's state folder that holds it.
    file: &'static str,
}

impl OperatorToken {
    /// Takes the text of a token file, and its name for those who come without it.
    #[must_use]
    pub fn new(text: &str, file: &'static str) -> Self {
        Self { secret: Secret::new(text.trim().as_bytes().to_vec()), file }
    }
}

/// Lets a request through that carries the token; compares in constant time.
pub(crate) async fn require(State(token): State<OperatorToken>, request: Request, next: Next) -> Response {
    let shown = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .map(|text| Secret::new(text.to_vec()));
    if shown.as_ref() == Some(&token.secret) {
        next.run(request).await
    } else {
        ApiError::unauthorized(token.file).into_response()
    }
}
