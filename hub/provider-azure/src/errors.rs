//! What Azure says where it does not do what it is asked, and what that means to the hub.
//!
//! The code decides, and the status only where there is none that is known.

use std::time::Duration;

use blueprint_hub_provider_kit::{redacted, retry_after};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::api::{Call, now};

/// Longest part of Azure's own words that is kept.
const MAX_MESSAGE: usize = 300;

/// An answer that says no, or an operation that failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
#[error("{code} ({status}): {message}; request {request}")]
pub(crate) struct Refusal {
    /// Azure's name of the reason; empty where there is none.
    pub(crate) code: String,
    message: String,
    request: String,
    /// Of the answer; 200 for an operation that failed.
    status: u16,
    retry_after: Option<Duration>,
}

/// What was asked for, as far as a refusal depends on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    /// Plan and place; empty where it is no machine.
    pub(crate) what: String,
    /// Whether the machine is one that Azure may take back.
    pub(crate) is_spot: bool,
}

/// An error as Azure writes it, of which the first detail often tells more.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    code: String,
    message: String,
    details: Vec<Value>,
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

impl Refusal {
    /// Reads an answer that is no success.
    pub(crate) fn read(answer: &Response<Bytes>) -> Self {
        let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let request =
            answer.headers().get("x-ms-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        Self {
            status: answer.status().as_u16(),
            retry_after: retry_after(answer.headers(), now()),
            request: request.chars().filter(char::is_ascii_graphic).take(80).collect(),
            ..Self::of(body.get("error").unwrap_or(&body))
        }
    }

    /// Reads the error of an operation that failed.
    pub(crate) fn of(error: &Value) -> Self {
        let mut written = Written::deserialize(error).unwrap_or_default();
        // "DeploymentFailed" and the like say nothing by themselves.
        if is_wrapper(&written.code)
            && let Some(first) = written.details.first().and_then(|first| Written::deserialize(first).ok())
        {
            written = first;
        }
        Self {
            code: written.code.chars().filter(char::is_ascii_graphic).take(80).collect(),
            message: redacted(written.message.as_bytes()).chars().take(MAX_MESSAGE).collect(),
            status: StatusCode::OK.as_u16(),
            ..Self::default()
        }
    }

    /// Code and words, for a person.
    pub(crate) fn words(&self) -> String {
        let words = match (self.code.as_str(), self.message.as_str()) {
            ("", "") => format!("status {}", self.status),
            (code, "") => code.to_owned(),
            (code, message) => format!("{code}: {message}"),
        };
        if self.request.is_empty() { words } else { format!("{words} (request {})", self.request) }
    }

    /// The error that it is to the hub.
    pub(crate) fn into_error(self, call: Call, about: &About) -> ProviderError {
        let what =
            || if about.what.is_empty() { self.words() } else { format!("{}: {}", about.what, self.words()) };
        match self.meaning(about) {
            Meaning::Throttle => ProviderError::Throttle { retry_after: self.retry_after },
            Meaning::Busy => ProviderError::Busy { reason: self.words() },
            Meaning::Deny => ProviderError::Deny { action: self.denied(call) },
            Meaning::Quota => ProviderError::Quota { what: what(), limit: limit_in(&self.message) },
            Meaning::Capacity => ProviderError::Capacity { what: what() },
            Meaning::NotSold => ProviderError::NotSold { what: what() },
            Meaning::Unknown => ProviderError::Other { call: call.name, source: Box::new(self) },
            Meaning::Reject => ProviderError::Reject { reason: format!("{}: {}", call.name, self.words()) },
        }
    }

    /// Why it is not allowed, and what to do.
    fn denied(&self, call: Call) -> String {
        let why = match self.code.as_str() {
            "AuthorizationFailed" | "LinkedAuthorizationFailed" => {
                let action = action_in(&self.message).unwrap_or(call.action);
                return format!(
                    "{action}; add it to the role of the hub's application (`blueprint-hub provider policy azure`)"
                );
            }
            "MissingSubscriptionRegistration" => "register the namespace that it names in the subscription",
            "SubscriptionNotFound" | "InvalidSubscriptionId" => {
                "correct the subscription_id with `blueprint-hub provider configure azure`"
            }
            "RequestDisallowedByPolicy" => "a policy of the subscription forbids it; ask its owner",
            "ReadOnlyDisabledSubscription" => "the subscription is switched off; ask its owner",
            _ => {
                "the credentials are wrong, or not valid any more; run `blueprint-hub provider configure azure`"
            }
        };
        format!("{} ({}): {why}", call.action, self.words())
    }

    fn meaning(&self, about: &About) -> Meaning {
        let message = self.message.to_ascii_lowercase();
        if self.status == StatusCode::TOO_MANY_REQUESTS.as_u16() {
            return Meaning::Throttle;
        }
        match self.code.as_str() {
            "TooManyRequests" | "SubscriptionRequestsThrottled" | "ResourceRequestsThrottled" => {
                Meaning::Throttle
            }
            "AuthorizationFailed"
            | "LinkedAuthorizationFailed"
            | "AuthenticationFailed"
            | "InvalidAuthenticationToken"
            | "InvalidAuthenticationTokenTenant"
            | "ExpiredAuthenticationToken"
            | "MissingSubscriptionRegistration"
            | "SubscriptionNotFound"
            | "InvalidSubscriptionId"
            | "RequestDisallowedByPolicy"
            | "ReadOnlyDisabledSubscription" => Meaning::Deny,
            "AllocationFailed"
            | "ZonalAllocationFailed"
            | "OverconstrainedAllocationRequest"
            | "OverconstrainedZonalAllocationRequest"
            | "SpotPriceGreaterThanProvidedMaxPrice"
            | "LowPriorityCapacityNotAvailable" => Meaning::Capacity,
            // Of machines that may be taken back there is none left for now; others are closed to the subscription for longer.
            "SkuNotAvailable" if about.is_spot => Meaning::Capacity,
            "SkuNotAvailable" | "LocationNotAvailableForResourceType" => Meaning::NotSold,
            "InvalidParameter" if message.contains("vm size") || message.contains("vmsize") => {
                Meaning::NotSold
            }
            "OperationNotAllowed" if message.contains("quota") || message.contains("core") => Meaning::Quota,
            code if code.ends_with("QuotaExceeded")
                || code.ends_with("LimitReached")
                || code.ends_with("LimitExceeded") =>
            {
                Meaning::Quota
            }
            // Whoever came first made it; and what another call is at is free soon.
            "PreconditionFailed"
            | "AnotherOperationInProgress"
            | "OperationPreempted"
            | "Conflict"
            | "RetryableError"
            | "ReferencedResourceNotProvisioned"
            | "ResourceGroupBeingDeleted"
            | "InvalidResourceLocation"
            | "NicInUse"
            | "NicReservedForAnotherVm"
            | "InUseSubnetCannotBeDeleted"
            | "PublicIPAddressCannotBeDeleted"
            | "AttachDiskWhileBeingDetached" => Meaning::Busy,
            "InternalServerError"
            | "InternalExecutionError"
            | "ServiceUnavailable"
            | "ServerTimeout"
            | "OperationTimedOut" => Meaning::Unknown,
            code => match self.status {
                401 | 403 => Meaning::Deny,
                408 => Meaning::Unknown,
                412 => Meaning::Busy,
                400..500 if !code.is_empty() => Meaning::Reject,
                _ => Meaning::Unknown,
            },
        }
    }
}

/// A success whose document is none.
pub(crate) fn nonsense(call: Call, answer: &Response<Bytes>, error: &serde_json::Error) -> ProviderError {
    // The error's own text may repeat a value.
    let text = format!(
        "status {} with a document that is wrong at line {} column {}: {}",
        answer.status().as_u16(),
        error.line(),
        error.column(),
        redacted(answer.body()),
    );
    ProviderError::Other { call: call.name, source: text.into() }
}

fn is_wrapper(code: &str) -> bool {
    matches!(code, "" | "DeploymentFailed" | "ResourceDeploymentFailure" | "MultipleErrorsOccurred")
}

/// The action that a refusal names: `... to perform action 'Microsoft.Compute/virtualMachines/write' over scope ...`.
fn action_in(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("perform action '")?;
    let (action, _) = rest.split_once('\'')?;
    let is_of_action = |byte: u8| byte.is_ascii_alphanumeric() || b"./".contains(&byte);
    (!action.is_empty() && action.bytes().all(is_of_action)).then_some(action)
}

/// The quota, out of `... Current Limit: 10, Current Usage: 8 ...`.
fn limit_in(message: &str) -> Option<u64> {
    let (_, rest) = message.split_once("Limit: ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests;
