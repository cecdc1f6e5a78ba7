//! An owner's way to an API key: a challenge, and its signature.

use std::collections::BTreeMap;

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_proxy_core::identity::{
    ChallengeError, KeyKind, NewApiKey, OwnerKey, Signed, bind_headers, decode_hex, encode_hex,
};
use blueprint_hub_proxy_core::{CanonicalRequest, Refusal, ServiceSettings, Trust};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json as value;
use tracing::{info, warn};

use super::answers::{error, json};
use super::{Answer, AuthApi, named, parse};
use crate::body::AnswerBody;
use crate::keys::{ApiKey, KeyStoreError};

/// Who asks. Unknown fields are left alone, as clients may send more.
#[derive(Deserialize)]
struct Asker {
    pub_key: String,
    key_type: KeyKind,
}

#[derive(Deserialize)]
struct VerifyRequest {
    #[serde(flatten)]
    asker: Asker,
    challenge: String,
    signature: String,
    /// When the key is to end, in seconds since 1970; 0 for as long as the service allows.
    #[serde(default)]
    expires_at: u64,
    #[serde(default)]
    additional_headers: BTreeMap<String, String>,
}

impl Asker {
    fn key(&self) -> Result<OwnerKey, String> {
        let bytes = decode_hex(&self.pub_key).ok_or("pub_key is not hexadecimal")?;
        OwnerKey::new(self.key_type, &bytes).map_err(|error| error.to_string())
    }
}

/// `{"status", "data"}`, as the verify route says it.
fn status(status: StatusCode, name: &str) -> Response<AnswerBody> {
    json(status, &value!({ "status": name }))
}

fn unexpected(status: StatusCode, message: &str) -> Response<AnswerBody> {
    json(status, &value!({ "status": "UnexpectedError", "data": { "message": message } }))
}

/// The settings of a service that lets this owner in.
fn of_owner<'t>(trust: &'t Trust, service: ServiceKey, owner: &OwnerKey) -> Option<&'t ServiceSettings> {
    let settings = trust.services.get(&service)?.settings();
    settings.owners.contains(owner).then_some(settings)
}

impl AuthApi {
    /// `POST /v1/auth/challenge`.
    pub(super) fn challenge(
        &self,
        request: &CanonicalRequest,
        trust: &Trust,
        body: &[u8],
        now: Timestamp,
    ) -> Answer {
        let service = named(request, trust)?;
        let asker = parse::<Asker>(body).and_then(|asker| asker.key());
        let owner = match asker {
            Ok(owner) => owner,
            Err(words) => return Ok(json(StatusCode::BAD_REQUEST, &error("invalid_request", &words))),
        };
        if of_owner(trust, service, &owner).is_none() {
            let words = "this key is not one of the service's owners";
            return Ok(json(StatusCode::UNAUTHORIZED, &error("unauthorized", words)));
        }
        let mut nonce = [0u8; 32];
        if blueprint_common_types::fill_random(&mut nonce).is_err() {
            return Ok(json(StatusCode::SERVICE_UNAVAILABLE, &error("unavailable", "no randomness")));
        }
        let opened = self.challenges.lock().open(nonce, service, owner, request.source(), now);
        Ok(match opened {
            Ok(challenge) => json(
                StatusCode::OK,
                &value!({
                    "challenge": encode_hex(&challenge.nonce),
                    "expires_at": challenge.expires_at.as_secs(),
                    "message": challenge.text(),
                }),
            ),
            Err(full) => {
                json(StatusCode::TOO_MANY_REQUESTS, &error("too_many_challenges", &full.to_string()))
            }
        })
    }

    /// `POST /v1/auth/verify`.
    pub(super) async fn verify(
        &self,
        request: &CanonicalRequest,
        trust: &Trust,
        body: &[u8],
        now: Timestamp,
    ) -> Answer {
        let service = match named(request, trust) {
            Err(Refusal::UnknownService { .. }) => {
                return Ok(status(StatusCode::NOT_FOUND, "ServiceNotFound"));
            }
            other => other?,
        };
        let asked = parse::<VerifyRequest>(body).and_then(|asked| Ok((asked.asker.key()?, asked)));
        let (owner, asked) = match asked {
            Ok(read) => read,
            Err(words) => return Ok(unexpected(StatusCode::BAD_REQUEST, &words)),
        };
        let Some(settings) = of_owner(trust, service, &owner) else {
            return Ok(status(StatusCode::UNAUTHORIZED, "Unauthorized"));
        };
        if let Err(refused) = self.check_signature(service, settings, &owner, &asked, now).await {
            info!(%service, %owner, request_id = request.request_id(), reason = %refused.reason, "verify refused");
            return Ok(status(StatusCode::UNAUTHORIZED, refused.name));
        }
        let headers = match bind_headers(&asked.additional_headers) {
            Ok(headers) => headers,
            Err(error) => {
                return Ok(unexpected(StatusCode::BAD_REQUEST, &format!("Invalid headers: {error}")));
            }
        };
        let longest = now.plus(settings.max_key_life());
        let wanted = Timestamp::from_millis(asked.expires_at.saturating_mul(1000));
        let expires_at = if wanted > now { wanted.min(longest) } else { longest };
        let Ok(key) = NewApiKey::random(settings.prefix()) else {
            return Ok(unexpected(StatusCode::SERVICE_UNAVAILABLE, "no randomness for a key"));
        };
        let kept =
            ApiKey { id: key.id, hash: key.hash, service, owner, headers, created_at: now, expires_at };
        Ok(match self.keys.create(kept).await {
            Ok(()) => json(
                StatusCode::CREATED,
                &value!({
                    "status": "Verified",
                    "data": { "api_key": key.text.expose(), "expires_at": expires_at.as_secs() },
                }),
            ),
            Err(error @ KeyStoreError::TooMany { .. }) => {
                unexpected(StatusCode::TOO_MANY_REQUESTS, &error.to_string())
            }
            Err(KeyStoreError::NotInForce(not)) => {
                warn!(%service, "api key stored, not yet in force, and not shown");
                let words = format!("the key is {not}; ask for another challenge then");
                unexpected(StatusCode::SERVICE_UNAVAILABLE, &words)
            }
            Err(KeyStoreError::Failed(error)) => {
                warn!(%service, %error, "api key not stored");
                unexpected(StatusCode::SERVICE_UNAVAILABLE, "the key could not be stored; try again")
            }
        })
    }

    /// Uses the challenge up and looks at its signature.
    async fn check_signature(
        &self,
        service: ServiceKey,
        settings: &ServiceSettings,
        owner: &OwnerKey,
        asked: &VerifyRequest,
        now: Timestamp,
    ) -> Result<(), Refused> {
        let nonce: [u8; 32] = decode_hex(&asked.challenge)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| Refused::new("Expired", "not a challenge"))?;
        let challenge = self.challenges.lock().take(&nonce, service, owner, now);
        let challenge = challenge.map_err(|error| {
            // Both are cured by asking for another.
            let reason = match error {
                ChallengeError::NotOpen => "challenge not open",
                ChallengeError::Expired => "challenge expired",
            };
            Refused::new("Expired", reason)
        })?;
        let signature = decode_hex(&asked.signature).unwrap_or_default();
        let (owner, takes_raw) = (owner.clone(), !settings.require_challenge_text);
        // Elsewhere: pairings take milliseconds, and others share this thread.
        let verify = tokio::task::spawn_blocking(move || {
            owner.verifies(Signed::Text(&challenge.text()), &signature)
                || takes_raw && owner.verifies(Signed::Raw(&nonce), &signature)
        });
        let is_good = verify.await.unwrap_or(false);
        if is_good { Ok(()) } else { Err(Refused::new("InvalidSignature", "wrong signature")) }
    }
}

/// Why a solution is worth nothing: what the client is told, and what the log says.
struct Refused {
    name: &'static str,
    reason: &'static str,
}

impl Refused {
    const fn new(name: &'static str, reason: &'static str) -> Self {
        Self { name, reason }
    }
}
