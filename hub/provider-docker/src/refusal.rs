//! What the refusals of an engine mean.

use blueprint_hub_provider_kit::redacted;
use blueprint_hub_provision_core::ProviderError;
use http::StatusCode;
use serde::Deserialize;

use crate::engine::Said;

/// The body of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    message: String,
}

/// An answer that says nothing that is known.
#[derive(Debug, thiserror::Error)]
#[error("status {status}, {what}: {body}")]
struct Unclear {
    status: u16,
    what: String,
    body: String,
}

/// The engine's words, one line, without what may be a secret.
pub(crate) fn words(body: &[u8]) -> String {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    redacted(refusal.message.as_bytes()).chars().take(300).collect()
}

/// An answer that is no success. An engine has no codes but statuses; the rest is in its words.
pub(crate) fn refused(said: &Said) -> ProviderError {
    let text = words(&said.body);
    let lower = text.to_ascii_lowercase();
    let has = |signs: &[&str]| signs.iter().any(|sign| lower.contains(sign));
    match said.status {
        StatusCode::TOO_MANY_REQUESTS => ProviderError::Throttle { retry_after: None },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ProviderError::Deny {
            action: format!("{}: the engine's authorization refuses it ({text}); allow it there", said.call),
        },
        StatusCode::CONFLICT => ProviderError::Busy { reason: text },
        // Docker: "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available".
        StatusCode::BAD_REQUEST if has(&["range of cpus", "memory limit"]) => {
            ProviderError::NotSold { what: text }
        }
        // Docker: "could not find an available, non-overlapping IPv4 address pool among the defaults", or "all predefined
        // address pools have been fully subnetted".
        _ if has(&["address pool"]) => ProviderError::Quota { what: text, limit: None },
        _ if has(&["no space left on device", "cannot allocate memory"]) => {
            ProviderError::Capacity { what: text }
        }
        status if status.is_client_error() && !text.is_empty() => {
            ProviderError::Reject { reason: format!("{}: {text}", said.call) }
        }
        _ => unclear(said, "not a success"),
    }
}

/// A success whose document is none.
pub(crate) fn nonsense(said: &Said, error: &serde_json::Error) -> ProviderError {
    // The error's own text may repeat a value.
    let what = format!("with a document that is wrong at line {} column {}", error.line(), error.column());
    unclear(said, &what)
}

/// An answer that leaves open what was done.
pub(crate) fn unclear(said: &Said, what: &str) -> ProviderError {
    let source = Unclear { status: said.status.as_u16(), what: what.to_owned(), body: redacted(&said.body) };
    ProviderError::Other { call: said.call, source: Box::new(source) }
}
