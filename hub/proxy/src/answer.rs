//! The proxy's own answers.

use blueprint_hub_proxy_core::Refusal;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response};
use http_body_util::Full;
use serde_json::json;

use crate::body::AnswerBody;

/// Name of the header that carries the id of a request, in both directions.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts a refusal into words: `{"error":{"code":..,"message":..,"hint":..,"request_id":..}}`.
pub(crate) fn refuse(refusal: &Refusal, request_id: &str) -> Response<AnswerBody> {
    let error = json!({
        "code": refusal.code(),
        "message": refusal.to_string(),
        "hint": refusal.hint(),
        "request_id": request_id,
    });
    let text = format!("{}\n", json!({ "error": error }));
    let mut response = Response::new(AnswerBody::Own(Full::new(Bytes::from(text))));
    *response.status_mut() = refusal.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(challenge) = refusal.challenge() {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    if let Some(seconds) = refusal.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
