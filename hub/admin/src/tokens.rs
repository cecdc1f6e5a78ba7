//! Join tokens.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use blueprint_common_types::{JoinLine, JoinToken, TokenId};
use blueprint_hub_registry_core::{JoinTokenRecord, PromiseError, ServiceGrant};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::views::{now, time};
use crate::{AdminState, PromiseFailed};

/// Longest life of a join token (`reliability.md`, R8).
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// Default life.
const DEFAULT_TTL: Duration = Duration::from_secs(15 * 60);
/// Most joins with one token.
const MAX_USES: u32 = 10_000;
/// Longest label in characters.
const MAX_LABEL: usize = 128;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateToken {
    ttl_secs: Option<u64>,
    uses: Option<u32>,
    #[serde(default)]
    label: String,
    /// Services that agents with this token may offer, such as `7/42,7/43`; empty for first claim.
    #[serde(default)]
    services: String,
    /// Overlay address of the one machine that joins with it; any free one without.
    address: Option<String>,
    /// Port of this hub at which its machines come; that of the control plane without.
    port: Option<NonZeroU16>,
}

pub(crate) async fn create(
    State(state): State<AdminState>,
    Json(request): Json<CreateToken>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let ttl = request.ttl_secs.map_or(DEFAULT_TTL, Duration::from_secs);
    if ttl.is_zero() || ttl > MAX_TTL {
        return Err(ApiError::invalid(
            "a join token lives between 1 s and 24 h",
            "give a --ttl such as 15m or 2h",
        ));
    }
    let uses = request.uses.unwrap_or(1);
    if !(1..=MAX_USES).contains(&uses) {
        return Err(ApiError::invalid(
            format!("a join token has 1 to {MAX_USES} uses"),
            "give --uses within it",
        ));
    }
    let label = label(request.label)?;
    let services: ServiceGrant = request.services.parse().map_err(|error| {
        ApiError::invalid(format!("{error}"), "give --services as 7/42,7/43 or leave it out")
    })?;
    let address = address(request.address.as_deref(), uses)?;
    let token = JoinToken::random().map_err(|_| ApiError::unavailable("no randomness for a token"))?;
    let created_at = now();
    let record = JoinTokenRecord {
        id: token.id(),
        hash: token.hash(),
        label,
        created_at,
        expires_at: created_at.plus(ttl),
        uses_left: uses,
        uses,
        services,
        address,
    };
    let shown = view(&record);
    if let Some(address) = address {
        promise(&state, address, &record).await?;
    }
    let id = record.id;
    if let Err(error) = state.store.create_join_token(record).await {
        state.hub.forget_promise(id).await;
        return Err(error.into());
    }
    let line = JoinLine {
        host: state.facts.advertise_host.clone(),
        port: request.port.map_or(state.facts.control_port, NonZeroU16::get),
        pin: state.facts.pin,
        token,
    };
    Ok((StatusCode::CREATED, Json(json!({ "join_line": line.expose_text().expose(), "token": shown }))))
}

pub(crate) async fn list(State(state): State<AdminState>) -> Result<Json<Value>, ApiError> {
    let tokens: Vec<_> = state.store.list_join_tokens().await?.iter().map(view).collect();
    Ok(Json(json!({ "tokens": tokens })))
}

pub(crate) async fn revoke(
    State(state): State<AdminState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    const LIST: &str = "`blueprint-hub token ls` lists them";
    // Not repeated: somebody may have pasted the whole token.
    let id: TokenId =
        id.parse().map_err(|_| ApiError::not_found("that is not the id of a join token", LIST))?;
    if !state.store.revoke_join_token(id, now()).await? {
        return Err(ApiError::not_found(format!("no join token has the id {id}"), LIST));
    }
    state.hub.forget_promise(id).await;
    Ok(Json(json!({ "revoked": id.to_string() })))
}

/// The address asked for, which one machine can have.
fn address(text: Option<&str>, uses: u32) -> Result<Option<Ipv4Addr>, ApiError> {
    const HINT: &str = "give --address as 10.88.0.11, with --uses 1, or leave it out";
    let Some(text) = text else { return Ok(None) };
    if uses != 1 {
        return Err(ApiError::invalid("an address is for one machine, so its token has one use", HINT));
    }
    text.parse().map(Some).map_err(|_| ApiError::invalid("that is no IPv4 address", HINT))
}

/// Keeps the address until the token ends. Where the caller goes away before the token is stored, that is all
/// that is left of it.
async fn promise(state: &AdminState, address: Ipv4Addr, record: &JoinTokenRecord) -> Result<(), ApiError> {
    let kept = state.hub.promise(address, record.id, record.expires_at).await;
    kept.map_err(|error| match error {
        PromiseFailed::Refused(PromiseError::Outside { .. }) => {
            ApiError::invalid(error.to_string(), "give an address of tunnel.overlay_v4 that is not the hub's")
        }
        PromiseFailed::Refused(PromiseError::Held(_) | PromiseError::Promised(_)) => ApiError::conflict(
            error.to_string(),
            "`blueprint-hub node ls` and `blueprint-hub token ls` show who has it",
        ),
        PromiseFailed::Stopping => ApiError::unavailable(error.to_string()),
    })
}

/// A label of at most [`MAX_LABEL`] printable characters.
pub(crate) fn label(text: String) -> Result<String, ApiError> {
    if text.chars().count() > MAX_LABEL || text.chars().any(char::is_control) {
        return Err(ApiError::invalid(
            format!("a label has at most {MAX_LABEL} printable characters"),
            "give a shorter --label",
        ));
    }
    Ok(text)
}

fn view(record: &JoinTokenRecord) -> Value {
    let state = if record.uses_left == 0 {
        "used"
    } else if record.expires_at <= now() {
        "expired"
    } else {
        "open"
    };
    json!({
        "id": record.id.to_string(),
        "label": record.label,
        "state": state,
        "uses_left": record.uses_left,
        "uses": record.uses,
        "created_at": time(record.created_at),
        "expires_at": time(record.expires_at),
        "services": record.services.to_string(),
        "address": record.address.map(|address| address.to_string()),
    })
}
