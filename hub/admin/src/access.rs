//! Access tokens: what clients of the proxy show.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use blueprint_common_types::{AccessToken, TokenId};
use blueprint_hub_proxy_core::NotInForce;
use blueprint_hub_registry_core::{AccessScope, AccessTokenRecord};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::AdminState;
use crate::error::ApiError;
use crate::tokens::label;
use crate::views::{now, time};

/// Longest life of an access token; there is none without an end.
const MAX_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// Default life.
const DEFAULT_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateAccess {
    ttl_secs: Option<u64>,
    #[serde(default)]
    label: String,
    /// Services it opens, such as `7/42,7/43`, or `*` for all.
    services: String,
}

pub(crate) async fn create(
    State(state): State<AdminState>,
    Json(request): Json<CreateAccess>,
) -> Result<Response, ApiError> {
    let ttl = request.ttl_secs.map_or(DEFAULT_TTL, Duration::from_secs);
    if ttl.is_zero() || ttl > MAX_TTL {
        return Err(ApiError::invalid(
            "an access token lives between 1 s and 90 days",
            "give a --ttl such as 12h or 30d",
        ));
    }
    let services: AccessScope = request.services.parse().map_err(|error| {
        ApiError::invalid(format!("{error}"), "give --service as 7/42, several times for several, or --all")
    })?;
    let token = AccessToken::random().map_err(|_| ApiError::unavailable("no randomness for a token"))?;
    let created_at = now();
    let record = AccessTokenRecord {
        id: token.id(),
        hash: token.hash(),
        label: label(request.label)?,
        created_at,
        expires_at: Some(created_at.plus(ttl)),
        revoked_at: None,
        services,
    };
    let shown = view(&record);
    state.store.create_access_token(record).await?;
    let answer = json!({ "access_token": token.expose_text().expose(), "token": shown });
    Ok(shown_once(state.hub.access_changed().await, answer))
}

/// A credential that is stored, and not shown again: also where it does not open anything yet.
pub(crate) fn shown_once(in_force: Result<(), NotInForce>, answer: Value) -> Response {
    match in_force {
        Ok(()) => (StatusCode::CREATED, Json(answer)).into_response(),
        Err(not) => ApiError::from(not).beside(answer),
    }
}

pub(crate) async fn list(State(state): State<AdminState>) -> Result<Json<Value>, ApiError> {
    let tokens: Vec<_> = state.store.list_access_tokens().await?.iter().map(view).collect();
    Ok(Json(json!({ "tokens": tokens })))
}

pub(crate) async fn revoke(
    State(state): State<AdminState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    const LIST: &str = "`blueprint-hub access ls` lists them";
    // Not repeated: somebody may have pasted the whole token.
    let id: TokenId =
        id.parse().map_err(|_| ApiError::not_found("that is not the id of an access token", LIST))?;
    let was_live = state.store.revoke_access_token(id, now()).await?;
    // Also where it was revoked before: who asks again wants to know that it holds.
    state.hub.access_changed().await?;
    if !was_live {
        return Err(ApiError::not_found(format!("no live access token has the id {id}"), LIST));
    }
    Ok(Json(json!({ "revoked": id.to_string() })))
}

fn view(record: &AccessTokenRecord) -> Value {
    let state = match (record.revoked_at, record.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(end)) if end <= now() => "expired",
        (None, Some(_) | None) => "live",
    };
    json!({
        "id": record.id.to_string(),
        "label": record.label,
        "state": state,
        "created_at": time(record.created_at),
        "expires_at": record.expires_at.map(time),
        "services": record.services.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_credential_that_is_not_in_force_is_an_error_and_is_shown_all_the_same() {
        let answer = json!({ "access_token": "bp_x" });
        assert_eq!(shown_once(Ok(()), answer.clone()).status(), StatusCode::CREATED);
        let late = shown_once(Err(NotInForce), answer);
        assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = axum::body::to_bytes(late.into_body(), 4096).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body.pointer("/access_token"), Some(&json!("bp_x")));
        assert_eq!(body.pointer("/error/code"), Some(&json!("not_in_force")));
        let message = body.pointer("/error/message").and_then(Value::as_str).unwrap();
        assert!(message.contains("retried each second"), "{message}");
    }
}
