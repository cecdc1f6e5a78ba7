//! Answers in the forms that clients of the existing Blueprint auth proxy know.

use blueprint_common_types::{Secret, Timestamp};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json as value};

use crate::body::AnswerBody;

/// JSON that nobody keeps: it may hold a secret.
pub(super) fn json(status: StatusCode, body: &Value) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Own(Full::new(Bytes::from(body.to_string()))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// JSON that may be kept for a few minutes.
pub(super) fn cached(body: String) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Own(Full::new(Bytes::from(body))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}

/// `{"error", "message"}`, as the exchange route says it.
pub(super) fn error(code: &str, message: &str) -> Value {
    value!({ "error": code, "message": message })
}

/// A token of a few minutes, as both routes that give one say it.
pub(super) fn token(token: &Secret<String>, expires_at: Timestamp, now: Timestamp) -> Response<AnswerBody> {
    let body = value!({
        "access_token": token.expose(),
        "token_type": "Bearer",
        "expires_at": expires_at.as_secs(),
        "expires_in": expires_at.as_secs().saturating_sub(now.as_secs()),
    });
    json(StatusCode::OK, &body)
}
