//! What a refusal of the API means.

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::{redacted, retry_after};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::api::Call;

/// Longest detail of an error that is shown, in bytes.
const MAX_SHOWN: usize = 400;

/// The body of an error, as far as it is one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    #[serde(rename = "type")]
    kind: String,
    message: String,
    details: Vec<Value>,
    resource: String,
    /// Of the older dialect: texts by the name of a field.
    fields: Value,
}

/// An answer that says nothing that is known.
#[derive(Debug, thiserror::Error)]
#[error("status {status}, {what}: {body}")]
struct Unclear {
    status: u16,
    what: String,
    body: String,
}

/// Whether an answer says that there is no such thing. What something else on the way says with that status is not.
pub(crate) fn is_absent(answer: &Response<Bytes>) -> bool {
    let says_so = || {
        let refusal: Refusal = serde_json::from_slice(answer.body()).unwrap_or_default();
        matches!(refusal.kind.as_str(), "not_found" | "unknown_resource")
    };
    answer.status() == StatusCode::NOT_FOUND && says_so()
}

/// An answer that is no success.
pub(crate) fn refused(call: Call, answer: &Response<Bytes>, now: Timestamp) -> ProviderError {
    let refusal: Refusal = serde_json::from_slice(answer.body()).unwrap_or_default();
    let said = refusal.said(answer);
    match answer.status() {
        StatusCode::TOO_MANY_REQUESTS => {
            return ProviderError::Throttle { retry_after: retry_after(answer.headers(), now) };
        }
        StatusCode::UNAUTHORIZED => return wrong_key(),
        // Whether a call that was given up was done, nobody knows.
        StatusCode::REQUEST_TIMEOUT => return unclear(call, answer, "given up"),
        status if status.is_redirection() => {
            return unclear(
                call,
                answer,
                "led elsewhere, which is not followed; check providers.scaleway.endpoint",
            );
        }
        status if status.is_success() => return unclear(call, answer, "without a document"),
        _ => {}
    }
    match refusal.kind.as_str() {
        "denied_authentication" => wrong_key(),
        "too_many_requests" => ProviderError::Throttle { retry_after: retry_after(answer.headers(), now) },
        "quotas_exceeded" => ProviderError::Quota { limit: refusal.quota(), what: said },
        "out_of_stock" => ProviderError::Capacity { what: said },
        "transient_state" | "conflict" => ProviderError::Busy { reason: said },
        // A volume whose server is not gone yet.
        "precondition_failed" => ProviderError::Busy { reason: said },
        "permissions_denied" => lacks(call),
        "invalid_arguments" | "invalid_request_error" => wrong_order(said),
        "" if answer.status() == StatusCode::FORBIDDEN => lacks(call),
        // The API's own words, of a kind that is not known: nothing was done.
        kind if !kind.is_empty() && answer.status().is_client_error() => {
            ProviderError::Reject { reason: said }
        }
        _ => unclear(call, answer, "not a success"),
    }
}

fn wrong_key() -> ProviderError {
    ProviderError::Deny {
        action: "use scaleway: the secret key is wrong, or not valid any more; make one at \
                 https://console.scaleway.com/iam/api-keys and run `blueprint-hub provider configure scaleway`"
            .to_owned(),
    }
}

fn lacks(call: Call) -> ProviderError {
    ProviderError::Deny {
        action: format!(
            "{}: the key lacks the permission set {}; add it to its policy, for this project",
            call.name, call.right
        ),
    }
}

/// An order that cannot be made is one of many things; only its text tells.
fn wrong_order(said: String) -> ProviderError {
    let lower = said.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["quota"]) {
        return ProviderError::Quota { what: said, limit: None };
    }
    if has(&["out of stock", "not enough capacity", "no capacity", "shortage"]) {
        return ProviderError::Capacity { what: said };
    }
    if has(&["commercial_type", "commercial type", "not available in"]) {
        return ProviderError::NotSold { what: said };
    }
    ProviderError::Reject { reason: said }
}

/// A success whose document is none.
pub(crate) fn nonsense(call: Call, answer: &Response<Bytes>, error: &serde_json::Error) -> ProviderError {
    // The error's own text may repeat a value.
    let what = format!("with a document that is wrong at line {} column {}", error.line(), error.column());
    unclear(call, answer, &what)
}

fn unclear(call: Call, answer: &Response<Bytes>, what: &str) -> ProviderError {
    let source =
        Unclear { status: answer.status().as_u16(), what: what.to_owned(), body: redacted(answer.body()) };
    ProviderError::Other { call: call.name, source: Box::new(source) }
}

impl Refusal {
    /// What it says, in one line without secrets, and the number that support asks for.
    fn said(&self, answer: &Response<Bytes>) -> String {
        let mut said = redacted(self.message.as_bytes());
        let mut add = |text: &str| {
            let text = redacted(text.as_bytes());
            if !text.is_empty() {
                said.push_str(if said.is_empty() { "" } else { ": " });
                said.push_str(&text);
            }
        };
        add(&self.resource);
        for detail in &self.details {
            let words = ["argument_name", "resource", "help_message", "reason"]
                .into_iter()
                .filter_map(|name| detail.get(name)?.as_str());
            add(&words.collect::<Vec<_>>().join(" "));
        }
        for (name, texts) in self.fields.as_object().into_iter().flatten() {
            add(&format!("{name} {texts}"));
        }
        let end = said.floor_char_boundary(MAX_SHOWN);
        said.truncate(end);
        let is_plain = |text: &&str| {
            text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        let request = answer.headers().get("x-request-id").and_then(|value| value.to_str().ok());
        match (Some(self.kind.as_str()).filter(is_plain), request.filter(is_plain)) {
            (Some(kind), Some(request)) => format!("{said} ({kind}, request {request})"),
            (Some(kind), None) => format!("{said} ({kind})"),
            (None, _) => said,
        }
    }

    fn quota(&self) -> Option<u64> {
        self.details.iter().find_map(|detail| detail.get("quota")?.as_u64())
    }
}

#[cfg(test)]
mod tests;
