//! Artefacts that the operator pushes for nodes that reach nothing else.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use blueprint_common_runtime::cli;
use blueprint_common_types::workload::{Sha256Digest, WorkloadSpec};
use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::{AuditEvent, AuditKind};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{error, info};

use crate::AdminState;
use crate::error::ApiError;
use crate::views::{now, time};

/// How long the rest of a body that is not wanted is read: a client sees the answer only once it has sent all.
const DISCARD: Duration = Duration::from_secs(30);

/// The bytes of an artefact as they come; an error is one line.
pub type ArtefactBody = BoxStream<'static, Result<Bytes, String>>;

/// How much may be pushed, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtefactLimits {
    /// Of one artefact.
    pub one: u64,
    /// Of all of them, those that are on their way included.
    pub all: u64,
}

/// An artefact that was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtefactView {
    /// What it is.
    pub sha256: Sha256Digest,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was pushed.
    pub pushed_at: Timestamp,
}

/// Why an artefact was not taken; nothing of it is left then.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Larger than one may be.
    #[error("the artefact has more than {}", cli::bytes(*limit))]
    TooLarge {
        /// The bound in bytes.
        limit: u64,
    },
    /// With it there would be more than there may be.
    #[error("all artefacts together may have {}, and {} are taken", cli::bytes(*limit), cli::bytes(*taken))]
    Full {
        /// The bound in bytes.
        limit: u64,
        /// Bytes of what is there and on its way.
        taken: u64,
    },
    /// The file system has no room for it.
    #[error("the disk of the hub's state folder is full")]
    DiskFull,
    /// It is something else.
    #[error("the SHA-256 of the {bytes} bytes that came is {found}")]
    Digest {
        /// What came.
        found: Sha256Digest,
        /// How much of it.
        bytes: u64,
    },
    /// It did not come to its end.
    #[error("the artefact broke off after {bytes} bytes: {why}")]
    Broken {
        /// How much came.
        bytes: u64,
        /// What happened.
        why: String,
    },
    /// The file system refuses otherwise.
    #[error("cannot {what} the file of an artefact")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Keeps what was pushed.
pub trait ArtefactShelf: Send + Sync {
    /// How much may be pushed.
    fn limits(&self) -> ArtefactLimits;

    /// Everything that is there, by digest.
    fn list(&self) -> Vec<ArtefactView>;

    /// Takes an artefact whose digest is `sha256`, and whose size is `length` where that is known; true where it
    /// was not there before. What is there already is not read again.
    ///
    /// # Errors
    ///
    /// See [`PushError`]; a part of `body` may be unread.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing of the artefact.
    fn push<'a>(
        &'a self,
        sha256: Sha256Digest,
        length: Option<u64>,
        body: &'a mut ArtefactBody,
    ) -> BoxFuture<'a, Result<(ArtefactView, bool), PushError>>;

    /// Removes an artefact; false where there is none. Who reads it at the moment reads it to its end.
    ///
    /// # Errors
    ///
    /// What the file system says; the artefact is still there then.
    fn remove(&self, sha256: Sha256Digest) -> BoxFuture<'_, io::Result<bool>>;
}

impl From<PushError> for ApiError {
    fn from(failed: PushError) -> Self {
        let text = failed.to_string();
        match failed {
            PushError::TooLarge { .. } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                text,
                "make it smaller, or raise artefacts.max_bytes of the hub",
            ),
            PushError::Full { .. } => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "full",
                text,
                "remove some with `blueprint-hub artefact rm`, or raise artefacts.max_total_bytes of the hub",
            ),
            PushError::DiskFull => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "disk_full",
                text,
                "free some space there, or remove artefacts with `blueprint-hub artefact rm`",
            ),
            PushError::Digest { .. } => {
                Self::invalid(text, "push the file again, under the digest that it has")
            }
            PushError::Broken { .. } => Self::invalid(text, "push it again"),
            PushError::Disk { .. } => {
                error!(error = %blueprint_common_runtime::Chain(&failed), "artefact not stored");
                Self::unavailable("the hub cannot store the artefact; the hub's log says why")
            }
        }
    }
}

pub(crate) async fn list(State(state): State<AdminState>) -> Json<Value> {
    let shelf = state.hub.artefacts();
    let (limits, held) = (shelf.limits(), shelf.list());
    let total = held.iter().map(|one| one.bytes).fold(0, u64::saturating_add);
    let rows: Vec<_> = held.iter().map(|one| row(one, &named_by(&state, one.sha256))).collect();
    Json(json!({
        "artefacts": rows,
        "total_bytes": total,
        "max_bytes": limits.one,
        "max_total_bytes": limits.all,
    }))
}

pub(crate) async fn push(
    State(state): State<AdminState>,
    Path(sha256): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let sha256 = digest(&sha256)?;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let mut body: ArtefactBody =
        body.into_data_stream().map(|piece| piece.map_err(|error| error.to_string())).boxed();
    let pushed = state.hub.artefacts().push(sha256, length, &mut body).await;
    discard(body).await;
    let (view, is_new) = pushed?;
    if is_new {
        info!(target: "audit", %sha256, bytes = view.bytes, "artefact pushed");
        let detail = format!("{} bytes", view.bytes);
        state.store.audit(AuditEvent::new(AuditKind::ArtefactPush, sha256, detail), now()).await?;
    }
    let mut shown = row(&view, &named_by(&state, sha256));
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("is_new".to_owned(), json!(is_new));
    }
    Ok(Json(shown))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Removal {
    #[serde(default)]
    force: bool,
}

pub(crate) async fn remove(
    State(state): State<AdminState>,
    Path(sha256): Path<String>,
    Query(how): Query<Removal>,
) -> Result<Json<Value>, ApiError> {
    let sha256 = digest(&sha256)?;
    let absent = || {
        let text = format!("there is no artefact {sha256}");
        ApiError::not_found(text, "blueprint-hub artefact ls shows them")
    };
    if !state.hub.artefacts().list().iter().any(|held| held.sha256 == sha256) {
        return Err(absent());
    }
    let users = named_by(&state, sha256);
    let names: Vec<String> = users.iter().map(ToString::to_string).collect();
    if !users.is_empty() && !how.force {
        return Err(ApiError::conflict(
            format!("the workload {} names the artefact {sha256}", names.join(", ")),
            "take the workload back or give it another artefact first, or insist with --force",
        ));
    }
    let removed = state.hub.artefacts().remove(sha256).await.map_err(|error| {
        error!(%sha256, %error, "artefact not removed");
        ApiError::unavailable("the hub cannot remove the artefact; the hub's log says why")
    })?;
    if !removed {
        return Err(absent());
    }
    info!(target: "audit", %sha256, force = how.force, "artefact removed");
    let detail =
        if names.is_empty() { String::new() } else { format!("still named by {}", names.join(", ")) };
    state.store.audit(AuditEvent::new(AuditKind::ArtefactRemove, sha256, detail), now()).await?;
    Ok(Json(json!({ "removed": sha256, "workloads": users })))
}

fn digest(text: &str) -> Result<Sha256Digest, ApiError> {
    text.parse().map_err(|error: blueprint_common_types::workload::ParseDigestError| {
        ApiError::invalid(error.to_string(), "an artefact is named by its SHA-256")
    })
}

/// Workloads whose document names the artefact.
fn named_by(state: &AdminState, sha256: Sha256Digest) -> Vec<ServiceKey> {
    let view = state.hub.workloads();
    let names = |document: &str| {
        let spec = serde_json::from_str::<WorkloadSpec>(document);
        spec.is_ok_and(|spec| spec.source.pushed() == Some(&sha256))
    };
    let named = view.runs().filter(|record| names(&record.document));
    named.map(|record| record.service).collect()
}

/// Reads what is left, so that the client hears the answer; not for ever.
async fn discard(mut body: ArtefactBody) {
    let rest = async { while let Some(Ok(_)) = body.next().await {} };
    // A client that still sends after that loses its connection instead.
    let _ = tokio::time::timeout(DISCARD, rest).await;
}

fn row(view: &ArtefactView, workloads: &[ServiceKey]) -> Value {
    json!({
        "sha256": view.sha256,
        "bytes": view.bytes,
        "pushed_at": time(view.pushed_at),
        "workloads": workloads,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_status_and_words() {
        let full = PushError::Full { limit: 1 << 30, taken: 1 << 20 };
        assert_eq!(full.to_string(), "all artefacts together may have 1.0 GiB, and 1.0 MiB are taken");
        let sha256 = Sha256Digest::from_bytes([0; 32]);
        for (error, status) in [
            (full, 507),
            (PushError::DiskFull, 507),
            (PushError::TooLarge { limit: 1 }, 413),
            (PushError::Digest { found: sha256, bytes: 1 }, 400),
            (PushError::Broken { bytes: 1, why: String::new() }, 400),
            (PushError::Disk { what: "write", source: io::ErrorKind::Other.into() }, 503),
        ] {
            use axum::response::IntoResponse;
            assert_eq!(ApiError::from(error).into_response().status().as_u16(), status);
        }
    }
}
