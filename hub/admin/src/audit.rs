//! The audit log: what happened, and whether it still says so.

use axum::Json;
use axum::extract::{Query, State};
use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_proxy_core::identity::{decode_hex, encode_hex};
use blueprint_hub_registry_core::{AuditFilter, AuditKind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::AdminState;
use crate::error::ApiError;
use crate::views::time;

/// Rows in one answer, and how many where nobody says.
const ROWS: (u32, u32) = (1000, 50);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    limit: Option<u32>,
    /// Milliseconds since 1970.
    since: Option<u64>,
    kind: Option<String>,
    service: Option<ServiceKey>,
}

pub(crate) async fn show(
    State(state): State<AdminState>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, ApiError> {
    if let Some(kind) = &asked.kind {
        let is_known = |known: &AuditKind| {
            known.name().strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if !AuditKind::ALL.iter().any(is_known) {
            let names: Vec<_> = AuditKind::ALL.iter().map(|kind| kind.name()).collect();
            let hint = format!("one of {}, or what stands before a dot in them", names.join(", "));
            return Err(ApiError::invalid("no audit row has this kind", &hint));
        }
    }
    let filter = AuditFilter {
        since: asked.since.map(Timestamp::from_millis),
        kind: asked.kind,
        service: asked.service,
        hash: None,
        limit: asked.limit.unwrap_or(ROWS.1).min(ROWS.0),
    };
    let rows = state.store.audit_find(filter).await?;
    let rows = rows.iter().map(|row| {
        json!({
            "seq": row.seq,
            "at": time(row.at),
            "event": row.event.kind.name(),
            "subject": row.event.subject,
            "detail": row.event.detail,
            "hash": encode_hex(&row.hash),
        })
    });
    Ok(Json(json!({ "rows": rows.collect::<Vec<_>>() })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seen {
    /// Hash of a row that somebody noted elsewhere, in hexadecimal.
    seen: Option<String>,
}

pub(crate) async fn verify(
    State(state): State<AdminState>,
    Query(asked): Query<Seen>,
) -> Result<Json<Value>, ApiError> {
    let seen = match asked.seen {
        None => None,
        Some(text) => {
            let hash = decode_hex(&text).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let hint = "the hash that `blueprint-hub audit verify` printed, 64 hexadecimal digits";
            Some(hash.ok_or_else(|| ApiError::invalid("that is not the hash of an audit row", hint))?)
        }
    };
    let check = state.store.audit_verify().await?;
    let row = match seen {
        None => None,
        Some(hash) => {
            let filter = AuditFilter { hash: Some(hash), limit: 1, ..AuditFilter::default() };
            Some(state.store.audit_find(filter).await?.first().map(|row| row.seq))
        }
    };
    Ok(Json(json!({
        "rows": check.rows,
        "intact": check.broken_at.is_none() && row != Some(None),
        "broken_at": check.broken_at,
        "head": encode_hex(&check.head),
        "seen_at": row.flatten(),
    })))
}
