//! What went wrong between the hub and a target, and what follows from it.

use std::error::Error as _;

use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::Refusal;
use blueprint_hub_proxy_core::upstream::Outcome;
use http::{Method, StatusCode};
use hyper_util::client::legacy::Error;

use crate::body::RequestBody;
use crate::dial::DialError;
use crate::wire::WireError;

/// Why a target gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No connection opened, so nothing was sent.
    Unreachable,
    /// The hub has no room for another connection; nothing was sent.
    Full,
    /// The connection broke before the answer's head was there.
    Reset,
    /// What came is not HTTP, or not what was asked for.
    Malformed,
    /// The answer's head did not come in time.
    TimedOut,
    /// The client broke its body off.
    Client,
    /// The client's body is larger than this, and was cut.
    TooLarge(u64),
    /// The client's body came too slowly, and was cut.
    TooSlow,
}

impl Fault {
    /// Reads the error of a request over HTTP/1 with that body.
    pub(crate) fn of(error: &WireError, body: &RequestBody) -> Self {
        if let Some(fault) = Self::of_client(body) {
            return fault;
        }
        match error {
            WireError::Dial(DialError::Full) => Self::Full,
            WireError::Dial(
                DialError::Refused | DialError::TimedOut | DialError::NoRoute | DialError::Other(_),
            ) => Self::Unreachable,
            WireError::Framing(_) | WireError::Interim | WireError::Length => Self::Malformed,
            WireError::Io(_) | WireError::Ended | WireError::Upload(_) => Self::Reset,
        }
    }

    fn of_client(body: &RequestBody) -> Option<Self> {
        if let Some(most) = body.is_too_large() {
            return Some(Self::TooLarge(most));
        }
        if body.is_too_slow() {
            return Some(Self::TooSlow);
        }
        body.is_broken().then_some(Self::Client)
    }

    /// Reads the error of a request over HTTP/2 with that body.
    pub(crate) fn of_http2(error: &Error, body: &RequestBody) -> Self {
        if let Some(fault) = Self::of_client(body) {
            return fault;
        }
        if error.is_connect() {
            let full = causes(error).any(|cause| matches!(cause.downcast_ref(), Some(DialError::Full)));
            return if full { Self::Full } else { Self::Unreachable };
        }
        let is_malformed = causes(error)
            .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
            .any(|cause| cause.is_parse() || cause.is_user());
        if is_malformed { Self::Malformed } else { Self::Reset }
    }

    /// Whether no connection opened.
    pub(crate) const fn is_unconnected(self) -> bool {
        matches!(self, Self::Unreachable | Self::Full)
    }

    /// What it says about the target.
    pub(crate) const fn outcome(self) -> Outcome {
        match self {
            Self::Unreachable => Outcome::Unreachable,
            Self::Reset | Self::Malformed | Self::TimedOut => Outcome::Failed,
            Self::Full | Self::Client | Self::TooLarge(_) | Self::TooSlow => Outcome::Unknown,
        }
    }

    /// What the client is told where it stays so.
    pub(crate) const fn refusal(self, service: ServiceKey) -> Refusal {
        match self {
            Self::Unreachable | Self::Full => Refusal::TargetUnreachable { service },
            Self::Reset | Self::Malformed | Self::Client => Refusal::UpstreamFailed { service },
            Self::TooLarge(most) => Refusal::BodyTooLarge { most },
            Self::TimedOut => Refusal::UpstreamTimeout { service },
            Self::TooSlow => Refusal::SlowBody,
        }
    }

    /// Whether the request may be sent again: nothing of it was sent, or it has no body, doing it twice is
    /// as good as once (RFC 9110, section 9.2.2), and the target did not take its time over it.
    pub(crate) fn allows_retry(self, method: &Method, body: &RequestBody) -> bool {
        match self {
            Self::Unreachable | Self::Full => !body.is_touched(),
            Self::Reset => !body.is_touched() && is_idempotent(method),
            Self::Malformed | Self::TimedOut | Self::Client | Self::TooLarge(_) | Self::TooSlow => false,
        }
    }
}

/// How a target took a request that it answered.
pub(crate) const fn outcome_of(status: StatusCode) -> Outcome {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Outcome::Failed
        }
        _ if status.as_u16() >= 500 => Outcome::Erred,
        _ => Outcome::Answered,
    }
}

fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}
