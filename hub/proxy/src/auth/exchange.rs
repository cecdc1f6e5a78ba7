//! `POST /v1/auth/exchange`: an API key for a token of a few minutes.

use std::collections::BTreeMap;
use std::time::Duration;

use blueprint_common_types::Timestamp;
use blueprint_hub_proxy_core::identity::{DEFAULT_LIFE, MAX_LIFE, exchange};
use blueprint_hub_proxy_core::{CanonicalRequest, Trust};
use http::{Response, StatusCode};
use serde::Deserialize;

use super::answers::{error, json, token};
use super::parse;
use crate::body::AnswerBody;

#[derive(Default, Deserialize)]
struct ExchangeRequest {
    #[serde(default)]
    additional_headers: BTreeMap<String, String>,
    /// Life of the token; longer ones are cut to an hour.
    #[serde(default)]
    ttl_seconds: Option<u64>,
}

pub(super) fn answer(
    request: &CanonicalRequest,
    trust: &Trust,
    body: &[u8],
    now: Timestamp,
) -> Response<AnswerBody> {
    let asked = if body.is_empty() { Ok(ExchangeRequest::default()) } else { parse::<ExchangeRequest>(body) };
    let asked = match asked {
        Ok(asked) => asked,
        Err(words) => return json(StatusCode::BAD_REQUEST, &error("invalid_request", &words)),
    };
    let life = match asked.ttl_seconds {
        None => DEFAULT_LIFE,
        Some(seconds) => Duration::from_secs(seconds).clamp(Duration::from_secs(1), MAX_LIFE),
    };
    match exchange(request, trust, &asked.additional_headers, life, now) {
        Ok((text, expires_at)) => token(&text, expires_at, now),
        Err(refusal) => {
            // The words of the existing proxy where it has some.
            let code = match refusal.code() {
                "missing_token" => "missing_authorization_header",
                "expired_token" => "expired_api_key",
                "revoked_token" => "disabled_api_key",
                "bad_headers" => "invalid_headers",
                _ => "invalid_api_key",
            };
            json(refusal.status(), &error(code, &refusal.to_string()))
        }
    }
}
