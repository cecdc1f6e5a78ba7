//! What Google says where it does not do what it is asked, and what that means to the hub.
//!
//! It says no in two ways: by an HTTP status with reasons, and by an operation that is done and has errors, behind status 200.

use std::time::Duration;

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::{cloud_time, redacted, retry_after};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::Response;
use serde::Deserialize;

use crate::action::Action;

/// Longest part of Google's own words that is kept, in characters.
const MAX_MESSAGE: usize = 240;

/// Seconds of the windows in which Google counts calls (its page on rate quotas).
const WINDOW: u64 = 60;

/// An answer that says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} ({status}): {message}")]
pub(crate) struct Refusal {
    /// Google's name of the reason: `quotaExceeded` of an answer, `QUOTA_EXCEEDED` of an operation; empty where there is none.
    pub(crate) code: String,
    /// Google's words, cut.
    pub(crate) message: String,
    /// HTTP status; 0 for an operation that does not tell one.
    pub(crate) status: u16,
    /// How long it wants to be left alone.
    pub(crate) pause: Option<Duration>,
    /// The quota, where it is told.
    pub(crate) limit: Option<u64>,
}

/// What a code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Throttle,
    Busy,
    Deny,
    Quota,
    Capacity,
    NotSold,
    Unknown,
    Reject,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    error: ErrorBody,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    message: String,
    status: String,
    errors: Vec<Reason>,
    details: Vec<Detail>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Detail {
    reason: String,
}

/// Errors of an operation, as far as the hub looks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Errors {
    errors: Vec<OperationError>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OperationError {
    code: String,
    message: String,
    error_details: Vec<ErrorDetails>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ErrorDetails {
    quota_info: Option<QuotaInfo>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct QuotaInfo {
    limit: Option<f64>,
}

impl Refusal {
    /// Reads an answer that is no success.
    pub(crate) fn read(answer: &Response<Bytes>, now: Timestamp) -> Self {
        let status = answer.status().as_u16();
        let Body { error } = serde_json::from_slice(answer.body()).unwrap_or_default();
        // What is told in detail is surer than the reason: `forbidden` may be an API that is switched off.
        let detail = error.details.iter().map(|detail| detail.reason.as_str());
        let reason = error.errors.iter().map(|reason| reason.reason.as_str());
        let mut codes = detail.filter(|code| is_telling(code)).chain(reason).chain([error.status.as_str()]);
        let code = codes.find(|code| !code.is_empty()).unwrap_or_default();
        let mut refusal = Self::of(code, &error.message, status);
        if refusal.meaning(Action::GetInstance) == Meaning::Throttle {
            let window =
                || (status == 403).then(|| until_next_window(cloud_time(answer.headers()).unwrap_or(now)));
            refusal.pause = retry_after(answer.headers(), now).or_else(window);
        }
        refusal
    }

    /// Reads the errors of an operation that is done: the first that has a meaning decides. `None` where there are none.
    pub(crate) fn of_operation(errors: Option<&Errors>, status: u16, said: &str) -> Option<Self> {
        let errors = errors.map(|errors| errors.errors.as_slice()).unwrap_or_default();
        let refusals = errors.iter().map(|error| {
            let told = error.error_details.iter().find_map(|detail| detail.quota_info.as_ref()?.limit);
            let own = Self::of(&error.code, &error.message, status);
            Self { limit: told.and_then(whole).or(own.limit), ..own }
        });
        let mut refusals: Vec<_> = refusals.collect();
        if refusals.is_empty() {
            return (status >= 400).then(|| Self::of("", said, status));
        }
        let known = refusals.iter().position(|own| own.meaning(Action::InsertInstance) != Meaning::Unknown);
        Some(refusals.swap_remove(known.unwrap_or_default()))
    }

    fn of(code: &str, message: &str, status: u16) -> Self {
        let message: String =
            redacted(message.as_bytes()).chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
        let code = code.chars().filter(char::is_ascii_graphic).take(80).collect();
        Self { code, limit: limit_in(&message), message, status, pause: None }
    }

    /// The error that it is to the hub; `what` names the plan and the place, or the thing that was asked about.
    pub(crate) fn into_error(self, action: Action, what: &str) -> ProviderError {
        match self.meaning(action) {
            Meaning::Throttle => ProviderError::Throttle { retry_after: self.pause },
            Meaning::Busy => ProviderError::Busy { reason: self.words() },
            Meaning::Deny => ProviderError::Deny { action: self.missing(action) },
            Meaning::Quota => {
                ProviderError::Quota { what: format!("{what}: {}", self.words()), limit: self.limit }
            }
            Meaning::Capacity => ProviderError::Capacity { what: what.to_owned() },
            Meaning::NotSold => ProviderError::NotSold { what: what.to_owned() },
            Meaning::Unknown => ProviderError::Other { call: action.name(), source: Box::new(self) },
            Meaning::Reject => {
                let hint = if self.message.contains("constraints/") {
                    "; a policy of the organisation forbids it: change that, or the configuration of providers.gcp"
                } else {
                    ""
                };
                ProviderError::Reject { reason: format!("{}: {}{hint}", action.name(), self.words()) }
            }
        }
    }

    /// Whether what was asked about is not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.status == 404 && matches!(self.code.as_str(), "notFound" | "NOT_FOUND" | "RESOURCE_NOT_FOUND")
    }

    /// Whether something of that name is there already.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.code.as_str(), "alreadyExists" | "ALREADY_EXISTS" | "RESOURCE_ALREADY_EXISTS")
    }

    /// Whether the next zone of the region may do what this one does not.
    pub(crate) fn is_of_zone(&self) -> bool {
        matches!(self.meaning(Action::InsertInstance), Meaning::Capacity | Meaning::NotSold)
    }

    fn words(&self) -> String {
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => format!("status {}", self.status),
            (code, "") => code.to_owned(),
            ("", message) => message.to_owned(),
            (code, message) => format!("{code}: {message}"),
        }
    }

    /// The permission that is missing, as far as the answer tells, and what to do.
    fn missing(&self, action: Action) -> String {
        match self.code.as_str() {
            "accessNotConfigured" | "SERVICE_DISABLED" => format!(
                "call {}: the API is switched off in the project; switch it on at \
                 https://console.cloud.google.com/apis/library/compute.googleapis.com: {}",
                action.name(),
                self.message
            ),
            "BILLING_DISABLED" | "billingNotEnabled" => {
                format!("order anything: the project has no billing account; link one: {}", self.message)
            }
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT" | "insufficientPermissions" => format!(
                "call {}: the access token lacks the scope https://www.googleapis.com/auth/cloud-platform; make one that \
                 has it",
                action.name()
            ),
            _ if self.status == 401 || is_of_token(&self.code) => format!(
                "use gcp: Google does not take the access token; run `blueprint-hub provider configure gcp` with a key that is \
                 valid: {}",
                self.words()
            ),
            _ => {
                let named = permission_in(&self.message).unwrap_or_else(|| action.permission());
                format!("{named}; add it to the role of the hub's account")
            }
        }
    }

    fn meaning(&self, action: Action) -> Meaning {
        match self.code.as_str() {
            "rateLimitExceeded" | "userRateLimitExceeded" | "RATE_LIMIT_EXCEEDED" | "RESOURCE_EXHAUSTED" => {
                Meaning::Throttle
            }
            "quotaExceeded" | "QUOTA_EXCEEDED" | "limitExceeded" | "LIMIT_EXCEEDED" => Meaning::Quota,
            "ZONE_RESOURCE_POOL_EXHAUSTED"
            | "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"
            | "RESOURCE_POOL_EXHAUSTED"
            | "RESOURCE_POOL_EXHAUSTED_WITH_DETAILS" => Meaning::Capacity,
            "resourceNotReady"
            | "RESOURCE_NOT_READY"
            | "resourceInUseByAnotherResource"
            | "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE" => Meaning::Busy,
            "accessNotConfigured"
            | "SERVICE_DISABLED"
            | "BILLING_DISABLED"
            | "billingNotEnabled"
            | "ACCESS_TOKEN_SCOPE_INSUFFICIENT"
            | "insufficientPermissions"
            | "forbidden"
            | "required"
            | "PERMISSION_DENIED"
            | "IAM_PERMISSION_DENIED"
            | "PERMISSIONS_ERROR"
                if self.code != "required" || self.status == 403 =>
            {
                Meaning::Deny
            }
            code if is_of_token(code) || self.status == 401 => Meaning::Deny,
            "UNSUPPORTED_OPERATION"
            | "INVALID_USAGE"
            | "invalid"
            | "INVALID_FIELD_VALUE"
            | "badRequest"
            | "notFound"
            | "NOT_FOUND"
            | "RESOURCE_NOT_FOUND"
                if action == Action::InsertInstance && names_plan(&self.message) =>
            {
                Meaning::NotSold
            }
            "INTERNAL_ERROR" | "internalError" | "backendError" => Meaning::Unknown,
            code => match self.status {
                403 => Meaning::Deny,
                429 => Meaning::Throttle,
                // Given up on the way: whether it was done, nobody knows.
                408 => Meaning::Unknown,
                400..=499 if !code.is_empty() => Meaning::Reject,
                // An operation that does not tell a status, with a code of its own.
                0 if !code.is_empty() => Meaning::Reject,
                _ => Meaning::Unknown,
            },
        }
    }
}

/// Whether a reason of the details says more than the reason beside it.
fn is_telling(code: &str) -> bool {
    matches!(
        code,
        "SERVICE_DISABLED" | "BILLING_DISABLED" | "ACCESS_TOKEN_SCOPE_INSUFFICIENT" | "RATE_LIMIT_EXCEEDED"
    ) || is_of_token(code)
}

fn is_of_token(code: &str) -> bool {
    matches!(code, "authError" | "UNAUTHENTICATED" | "ACCESS_TOKEN_EXPIRED" | "ACCESS_TOKEN_TYPE_UNSUPPORTED")
        || code == "CREDENTIALS_MISSING"
}

/// Whether Google's words are about the kind of machine.
fn names_plan(message: &str) -> bool {
    let words = message.to_ascii_lowercase();
    ["machinetype", "machine type", "accelerator"].iter().any(|word| words.contains(word))
}

/// The permission in "Required 'compute.instances.create' permission for ...".
fn permission_in(message: &str) -> Option<&str> {
    let is_permission = |text: &&str| {
        text.split('.').count() >= 3 && text.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'.')
    };
    message.split('\'').find(is_permission)
}

/// The quota, out of "Quota 'CPUS' exceeded.  Limit: 24.0 in region us-central1."
fn limit_in(message: &str) -> Option<u64> {
    let after = message.split("Limit: ").nth(1)?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn whole(number: f64) -> Option<u64> {
    format!("{number:.0}").parse().ok()
}

/// The time to the next full minute: windows begin with it, and one second more.
fn until_next_window(now: Timestamp) -> Duration {
    Duration::from_secs(WINDOW.saturating_sub(now.as_secs() % WINDOW).saturating_add(1))
}

#[cfg(test)]
mod tests;
