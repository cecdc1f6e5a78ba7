//! `POST /v1/oauth/token`: another issuer's assertion for a token of a few minutes (RFC 7523).

use std::sync::Arc;
use std::time::SystemTime;

use blueprint_common_types::Timestamp;
use blueprint_hub_proxy_core::identity::{AssertionError, key_named, seal_for_assertion, verify_assertion};
use blueprint_hub_proxy_core::{CanonicalRequest, Trust};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json as value;
use tracing::{info, warn};

use super::answers::{json, token};
use super::{Answer, AuthApi, named};
use crate::assertions::UseError;
use crate::body::AnswerBody;

/// The only grant there is.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

#[derive(Deserialize)]
struct TokenRequest {
    #[serde(default)]
    grant_type: String,
    #[serde(default)]
    assertion: String,
}

/// As RFC 6749, section 5.2, has it.
fn refuse(status: StatusCode, code: &str, words: &str) -> Response<AnswerBody> {
    json(status, &value!({ "error": code, "error_description": words }))
}

/// Says that the same assertion may work a while later.
const UNAVAILABLE: &str = "temporarily_unavailable";

/// Status and code of the answer to an assertion that is refused.
const fn answer_to(error: AssertionError) -> (StatusCode, &'static str) {
    match error {
        AssertionError::Malformed | AssertionError::Unsupported | AssertionError::NoId => {
            (StatusCode::BAD_REQUEST, "invalid_request")
        }
        AssertionError::Scopes => (StatusCode::BAD_REQUEST, "invalid_scope"),
        AssertionError::Full => (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
        AssertionError::Signature
        | AssertionError::Issuer
        | AssertionError::Audience
        | AssertionError::Subject
        | AssertionError::Times
        | AssertionError::Expired
        | AssertionError::Replayed => (StatusCode::BAD_REQUEST, "invalid_grant"),
    }
}

impl AuthApi {
    pub(super) async fn oauth(&self, request: &CanonicalRequest, trust: &Trust, body: &[u8]) -> Answer {
        let bad = |code, words: &str| Ok(refuse(StatusCode::BAD_REQUEST, code, words));
        let Ok(asked) = serde_urlencoded::from_bytes::<TokenRequest>(body) else {
            return bad("invalid_request", "the body is no form");
        };
        if asked.grant_type != GRANT {
            return bad("unsupported_grant_type", "grant_type must be JWT bearer");
        }
        if asked.assertion.is_empty() {
            return bad("invalid_request", "missing assertion");
        }
        if request.selector().is_none() {
            let words = "Missing X-Service-Id header";
            return Ok(refuse(StatusCode::PRECONDITION_REQUIRED, "invalid_request", words));
        }
        let service = named(request, trust)?;
        let known = trust.services.get(&service);
        let Some((known, policy)) = known.and_then(|known| Some((known, known.settings().oauth.as_ref()?)))
        else {
            return bad("invalid_request", "OAuth not enabled for this service");
        };
        let fetched = match (&self.jwks, key_named(&asked.assertion)) {
            (Some(jwks), Ok(kid)) => jwks.keys(known, kid.as_deref(), &self.spawner).await,
            (None, _) | (_, Err(_)) => Arc::from([]),
        };
        let keys = known.oauth_keys().iter().chain(fetched.iter());
        // Only now: the keys may have taken seconds to come.
        let now = Timestamp::from(SystemTime::now());
        let used = match verify_assertion(&asked.assertion, policy, keys, now) {
            Ok(assertion) => self.assertions.use_up(service, &assertion, now).await.map(|()| assertion),
            Err(error) => Err(error.into()),
        };
        let assertion = match used {
            Ok(assertion) => assertion,
            Err(UseError::Refused(error)) => {
                info!(%service, request_id = request.request_id(), %error, "assertion refused");
                let (status, code) = answer_to(error);
                return Ok(refuse(status, code, &error.to_string()));
            }
            Err(UseError::Failed(error)) => {
                warn!(%service, request_id = request.request_id(), %error, "use of an assertion not stored");
                let words = "that the assertion was used could not be stored; try again";
                return Ok(refuse(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, words));
            }
        };
        match seal_for_assertion(trust, service, &assertion, policy.token_life(), now) {
            Some((text, expires_at)) => Ok(token(&text, expires_at, now)),
            None => Ok(refuse(StatusCode::SERVICE_UNAVAILABLE, "server_error", "no randomness for a token")),
        }
    }
}
