//! What AWS says where it does not do what it is asked, and what that means to the hub.
//!
//! The code decides, and the status only where there is none that is known: capacity and pace come with 500 and 503.

use std::time::Duration;

use blueprint_hub_provider_kit::redacted;
use blueprint_hub_provision_core::ProviderError;
use serde_json::Value;

use crate::action::Action;
use crate::xml::Node;

/// Longest part of AWS's own words that is kept.
const MAX_MESSAGE: usize = 240;

/// An answer that says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} ({status}): {message}; request {request}")]
pub(crate) struct Refusal {
    /// AWS's name of the reason, without `Client.` and `Server.`; empty where the answer has none.
    pub(crate) code: String,
    /// AWS's words, cut.
    pub(crate) message: String,
    /// Its number of the request, which AWS's people ask for.
    pub(crate) request: String,
    /// HTTP status.
    pub(crate) status: u16,
    /// How long it wants to be left alone.
    pub(crate) retry_after: Option<Duration>,
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
    Unsupported,
    Unknown,
    Reject,
}

impl Refusal {
    /// Reads the body of an answer that is no success, in any of the three dialects.
    pub(crate) fn read(status: u16, request: &str, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let (code, message, own) = in_xml(body).or_else(|| in_json(body)).unwrap_or_default();
        let code = code.trim_start_matches("Client.").trim_start_matches("Server.");
        let message: String =
            redacted(message.as_bytes()).chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
        let request = if own.is_empty() { request } else { &own };
        Self {
            code: code.chars().take(80).collect(),
            message,
            request: request.chars().filter(char::is_ascii_graphic).take(80).collect(),
            status,
            retry_after,
        }
    }

    /// The error that it is to the hub; `what` names the plan and the place, or the place alone.
    pub(crate) fn into_error(self, action: Action, what: &str) -> ProviderError {
        match self.meaning(action) {
            Meaning::Throttle => ProviderError::Throttle { retry_after: self.retry_after },
            Meaning::Busy => ProviderError::Busy { reason: self.words() },
            Meaning::Deny => ProviderError::Deny { action: self.missing(action) },
            Meaning::Quota => {
                let limit = limit_in(&self.message);
                ProviderError::Quota { what: format!("{what}: {}", self.words()), limit }
            }
            Meaning::Capacity => ProviderError::Capacity { what: what.to_owned() },
            Meaning::NotSold => ProviderError::NotSold { what: what.to_owned() },
            Meaning::Unsupported => ProviderError::Unsupported {
                action: if action == Action::StopInstances {
                    "stop a spot machine, or one without a disk that lasts"
                } else {
                    "start a machine of this kind again"
                },
            },
            Meaning::Unknown => ProviderError::Other { call: action.name(), source: Box::new(self) },
            Meaning::Reject => {
                ProviderError::Reject { reason: format!("{}: {}", action.name(), self.words()) }
            }
        }
    }

    /// Whether a machine is named that does not exist.
    pub(crate) fn is_unknown_machine(&self) -> bool {
        matches!(self.code.as_str(), "InvalidInstanceID.NotFound" | "InvalidInstanceID.Malformed")
    }

    /// Whether the next zone of the region may do what this one does not.
    pub(crate) fn is_of_zone(&self, action: Action) -> bool {
        matches!(self.meaning(action), Meaning::Capacity | Meaning::NotSold)
    }

    fn words(&self) -> String {
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => format!("status {}", self.status),
            (code, "") => code.to_owned(),
            (code, message) => format!("{code}: {message}"),
        }
    }

    /// The permission that is missing, as far as the answer tells, and what to do.
    fn missing(&self, action: Action) -> String {
        let why = match self.code.as_str() {
            "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
                let named = self.message.split("to perform: ").nth(1).and_then(|rest| rest.split(' ').next());
                let own = action.permission();
                return format!("{}; add it to the policy of the hub's key or role", named.unwrap_or(&own));
            }
            "RequestExpired" | "SignatureDoesNotMatch" | "InvalidSignatureException" => {
                "compare this machine's clock with the time of day, and the secret key with the account's; \
                 `blueprint-hub provider configure aws` takes another one"
            }
            "ExpiredToken" | "ExpiredTokenException" => "the session token has ended; set a new one",
            "OptInRequired" => "switch the region on in the account",
            "PendingVerification" => "AWS is still verifying the account",
            _ => {
                "look at the hub's key in the account, or take another one with `blueprint-hub provider configure aws`"
            }
        };
        format!("{} ({}): {why}", action.permission(), self.words())
    }

    fn meaning(&self, action: Action) -> Meaning {
        match self.code.as_str() {
            "RequestLimitExceeded"
            | "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "EC2ThrottledException"
            | "TooManyRequestsException"
            | "PriorRequestNotComplete"
            | "BandwidthLimitExceeded"
            | "SlowDown" => Meaning::Throttle,
            // An id that was made a moment ago is not known everywhere yet.
            "IncorrectInstanceState"
            | "IncorrectState"
            | "InvalidGroup.NotFound"
            | "InvalidGroup.Duplicate" => Meaning::Busy,
            "UnauthorizedOperation"
            | "AccessDenied"
            | "AccessDeniedException"
            | "AuthFailure"
            | "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
            | "Blocked"
            | "OptInRequired"
            | "PendingVerification"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "MissingAuthenticationToken"
            | "UnrecognizedClientException"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "RequestExpired" => Meaning::Deny,
            "MaxSpotInstanceCountExceeded" | "MaxFleetCountExceeded" | "MaxIOPSLimitExceeded" => {
                Meaning::Quota
            }
            "InsufficientInstanceCapacity"
            | "InsufficientHostCapacity"
            | "InsufficientCapacityOnHost"
            | "InsufficientCapacity"
            | "InsufficientReservedInstanceCapacity"
            | "InsufficientVolumeCapacity"
            | "InsufficientAddressCapacity"
            | "InsufficientFreeAddressesInSubnet"
            | "UnfulfillableCapacity"
            | "ReservationCapacityExceeded"
            | "SpotMaxPriceTooLow" => Meaning::Capacity,
            "Unsupported" | "InvalidInstanceType" | "InvalidInstanceType.NotFound" => Meaning::NotSold,
            "InvalidParameterValue" if action == Action::RunInstances && self.names_plan() => {
                Meaning::NotSold
            }
            "UnsupportedOperation" if matches!(action, Action::StartInstances | Action::StopInstances) => {
                Meaning::Unsupported
            }
            "IncorrectSpotRequestState" => Meaning::Unsupported,
            // The token of this call made something else before: a fault of the hub. What it made is in the list.
            "IdempotentParameterMismatch" | "IdempotentInstanceTerminated" => Meaning::Unknown,
            "InternalError" | "InternalFailure" | "ServiceUnavailable" | "Unavailable" => Meaning::Unknown,
            code if code.ends_with("LimitExceeded") => Meaning::Quota,
            _ => match self.status {
                429 => Meaning::Throttle,
                401 | 403 => Meaning::Deny,
                // Some codes of such answers tell of a machine that stands; one that cannot be read may be one of them.
                400..500 if !self.code.is_empty() => Meaning::Reject,
                _ => Meaning::Unknown,
            },
        }
    }

    fn names_plan(&self) -> bool {
        let words = self.message.to_ascii_lowercase();
        words.contains("instancetype") || words.contains("instance type")
    }
}

/// Code, message and number of the request.
type Parts = (String, String, String);

fn in_xml(body: &[u8]) -> Option<Parts> {
    let root = Node::parse(body).ok()?;
    // EC2: Response/Errors/Error and RequestID; STS: ErrorResponse/Error and RequestId.
    let errors = root.child("Errors").unwrap_or(&root);
    let error = errors.child("Error")?;
    let part = |node: &Node, name: &str| node.text(name).unwrap_or_default().to_owned();
    let request = root.text("RequestID").or_else(|| root.text("RequestId")).unwrap_or_default();
    Some((part(error, "Code"), part(error, "Message"), request.to_owned()))
}

fn in_json(body: &[u8]) -> Option<Parts> {
    let error: Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| error.get(name).and_then(Value::as_str);
    // `com.amazonaws.ssm#ParameterNotFound`
    let code = text("__type")?.rsplit('#').next().unwrap_or_default().to_owned();
    let message = text("message").or_else(|| text("Message")).unwrap_or_default();
    Some((code, message.to_owned(), String::new()))
}

/// The quota, out of "... your current vCPU limit of 32 allows ...".
fn limit_in(message: &str) -> Option<u64> {
    let after = message.split("limit of ").nth(1)?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests;
