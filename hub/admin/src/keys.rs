//! API keys of owners: listed, replaced, revoked.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use blueprint_hub_proxy_core::ServiceSettings;
use blueprint_hub_proxy_core::identity::{KeyId, NewApiKey};
use blueprint_hub_registry_core::{ApiKeyRecord, ApiKeyRotateError, ApiKeyRotation, MAX_KEYS_OF_OWNER};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::AdminState;
use crate::access::shown_once;
use crate::error::ApiError;
use crate::settings;
use crate::views::{now, time};

/// Longest time for which a key and the one that replaces it both work.
const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where to find ids.
const LIST: &str = "`blueprint-hub key ls` lists them";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotate {
    /// How long the key that goes still works; 0 to end it at once.
    #[serde(default)]
    overlap_secs: u64,
}

pub(crate) async fn list(State(state): State<AdminState>) -> Result<Json<Value>, ApiError> {
    let keys: Vec<_> = state.store.list_api_keys().await?.iter().map(view).collect();
    Ok(Json(json!({ "keys": keys })))
}

pub(crate) async fn revoke(
    State(state): State<AdminState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let id = parse(&id)?;
    let revoked = state.store.revoke_api_key(id.to_string(), now()).await?;
    // Also where it was revoked before: who asks again wants to know that it holds.
    state.hub.access_changed().await?;
    let service = revoked.ok_or_else(|| not_live(&id))?;
    Ok(Json(json!({ "revoked": id.to_string(), "service": service })))
}

/// Gives the owner of a key another one: same service, same headers, a life as long as the first one's.
pub(crate) async fn rotate(
    State(state): State<AdminState>,
    Path(id): Path<String>,
    body: Result<Option<Json<Rotate>>, JsonRejection>,
) -> Result<Response, ApiError> {
    const SHAPE: &str =
        "send {\"overlap_secs\": SECONDS}, at most 604800, or nothing to end the old key at once";
    let asked = body.map_err(|error| ApiError::invalid(error.body_text(), SHAPE))?;
    let overlap = Duration::from_secs(asked.unwrap_or_default().overlap_secs);
    if overlap > MAX_OVERLAP {
        return Err(ApiError::invalid("the old key may work for 7 days more at most", SHAPE));
    }
    let id = parse(&id)?;
    let begun = now();
    let is_live = |record: &ApiKeyRecord| record.revoked_at.is_none() && record.expires_at > begun;
    let found = state.store.list_api_keys().await?.into_iter().find(|record| record.id == id.as_str());
    let old = found.filter(is_live).ok_or_else(|| not_live(&id))?;
    let settings = match settings::find(&state, old.service).await? {
        Some(record) => settings::read(&record)?,
        None => ServiceSettings::default(),
    };
    let life = old.expires_at.since(old.created_at).min(settings.max_key_life());
    let key = NewApiKey::random(id.prefix()).map_err(|_| ApiError::unavailable("no randomness for a key"))?;
    let record = ApiKeyRecord {
        id: key.id.to_string(),
        hash: *key.hash.as_bytes(),
        created_at: begun,
        expires_at: begun.plus(life),
        ..old.clone()
    };
    let old_ends_at = begun.plus(overlap).min(old.expires_at);
    let rotation = ApiKeyRotation { replaces: old.id, ends_at: old_ends_at, record: record.clone() };
    match state.store.rotate_api_key(rotation, MAX_KEYS_OF_OWNER).await {
        Ok(()) => {}
        Err(ApiKeyRotateError::NotLive) => return Err(not_live(&id)),
        Err(ApiKeyRotateError::TooMany { live }) => {
            return Err(ApiError::conflict(
                format!("the owner has {live} other live API keys of {}", record.service),
                "revoke those that nobody uses: `blueprint-hub key revoke ID`",
            ));
        }
        Err(ApiKeyRotateError::Store(error)) => return Err(error.into()),
    }
    let answer = json!({
        "api_key": key.text.expose(),
        "key": view(&record),
        "replaces": id.to_string(),
        "old_ends_at": time(old_ends_at),
    });
    Ok(shown_once(state.hub.access_changed().await, answer))
}

/// The id is not repeated where it is none: somebody may have pasted the whole key.
fn parse(id: &str) -> Result<KeyId, ApiError> {
    KeyId::parse(id).ok_or_else(|| ApiError::not_found("that is not the id of an API key", LIST))
}

fn not_live(id: &KeyId) -> ApiError {
    ApiError::not_found(format!("no live API key has the id {id}"), LIST)
}

fn view(record: &ApiKeyRecord) -> Value {
    let state = match record.revoked_at {
        Some(_) => "revoked",
        None if record.expires_at <= now() => "expired",
        None => "live",
    };
    json!({
        "id": record.id,
        "service": record.service,
        "owner": record.owner,
        "state": state,
        "created_at": time(record.created_at),
        "expires_at": time(record.expires_at),
    })
}
