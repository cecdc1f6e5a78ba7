//! Every way a request can be refused, with what the client and the metrics are told.

use blueprint_common_types::{ServiceKey, Timestamp};
use http::StatusCode;

use crate::guard::FramingFault;
use crate::identity::ExtraHeaderError;
use crate::limits::LimitKind;
use crate::path::PathFault;
use crate::selector::Selector;

/// Why a request is not forwarded, or why forwarding it failed.
///
/// The `Display` text is what the client reads; it names what to do about it in [`Self::hint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No `Authorization` header.
    #[error("this request carries no access token")]
    MissingToken,
    /// Not a token, not a known one, or the wrong secret; the client is not told which.
    #[error("the access token is not valid here")]
    InvalidToken,
    /// The right secret of a token whose time is over.
    #[error("the access token expired at {at}")]
    ExpiredToken {
        /// End of its life.
        at: Timestamp,
    },
    /// The right secret of a token that was taken back.
    #[error("the access token was revoked")]
    RevokedToken,
    /// The service lets only callers with a certificate in.
    #[error("service {service} asks for a client certificate")]
    CertificateRequired {
        /// The service.
        service: ServiceKey,
    },
    /// A client certificate that was taken back.
    #[error("the client certificate was revoked")]
    RevokedCertificate,
    /// A client certificate whose time is over.
    #[error("the client certificate expired at {at}")]
    ExpiredCertificate {
        /// End of its life.
        at: Timestamp,
    },
    /// The connection was opened for another service, or by rules that have changed since.
    #[error("service {service} is not reached by this connection")]
    Misdirected {
        /// The service.
        service: ServiceKey,
    },
    /// A route of the operator, and somebody else; the token in clear from another machine counts as nobody.
    #[error("only the operator of this hub may do this")]
    OperatorOnly,
    /// More than one `Authorization` header.
    #[error("the request carries more than one authorization header")]
    AmbiguousCredential,
    /// The token does not open this service.
    #[error("the access token does not open service {}", selector_text(*.selector))]
    ServiceNotAllowed {
        /// The service as it was named.
        selector: Selector,
    },
    /// The service has rules, and they do not let this request pass.
    #[error("the rules of service {service} do not allow this request")]
    RuleRefused {
        /// The service.
        service: ServiceKey,
    },
    /// No service of that name was ever offered.
    #[error("no service {} is known here", selector_text(*.selector))]
    UnknownService {
        /// The service as it was named.
        selector: Selector,
    },
    /// Neither header nor host name says which service is meant.
    #[error("the request does not name a service")]
    ServiceNotNamed,
    /// `X-Service-Id` cannot be read, or is there twice.
    #[error("the X-Service-Id header cannot be read")]
    MalformedServiceId,
    /// Several blueprints have a service of that number.
    #[error("several blueprints offer a service {service}")]
    AmbiguousService {
        /// The number that was named.
        service: u64,
    },
    /// Two of host name, path and `X-Service-Id` name different services.
    #[error("host name, path and X-Service-Id name different services")]
    ContradictoryService,
    /// `Host` is missing, doubled, unreadable, or differs from the request target.
    #[error("the host of the request is missing, unreadable or contradictory")]
    MalformedAuthority,
    /// The body's length has no single reading.
    #[error("the length of the request body is ambiguous")]
    AmbiguousFraming,
    /// The bytes of the request cannot be read in only one way.
    #[error("the request cannot be read in only one way: {fault}")]
    MalformedRequest {
        /// What is wrong.
        fault: FramingFault,
    },
    /// The path has no normal form.
    #[error("the path of the request is refused: {fault}")]
    MalformedPath {
        /// What is wrong with it.
        fault: PathFault,
    },
    /// The request target is longer than [`crate::MAX_TARGET_BYTES`].
    #[error("the request target is longer than {} bytes", crate::MAX_TARGET_BYTES)]
    TargetTooLong,
    /// More or longer headers than [`crate::MAX_HEADERS`] and [`crate::MAX_HEADER_BYTES`].
    #[error("more than {} headers or {} bytes of them", crate::MAX_HEADERS, crate::MAX_HEADER_BYTES)]
    HeadersTooLarge,
    /// `CONNECT` and `TRACE`: one opens tunnels, the other repeats secrets.
    #[error("this method is not forwarded")]
    MethodRefused,
    /// A WebSocket handshake that is none: not a GET over HTTP/1.1 or an extended CONNECT over HTTP/2, or with a body.
    #[error("the websocket handshake is no GET over HTTP/1.1 or CONNECT over HTTP/2 without a body")]
    MalformedUpgrade,
    /// Headers that cannot be bound to a token.
    #[error("{error}")]
    BadHeaders {
        /// What is wrong with them.
        error: ExtraHeaderError,
    },
    /// Too much of something; the client is told when to come back.
    #[error("too many requests")]
    TooManyRequests {
        /// Seconds until one more is let in.
        retry_after: u64,
    },
    /// The service is known and nothing answers for it.
    #[error("service {service} has no healthy target: {reason}")]
    NoHealthyTarget {
        /// The service.
        service: ServiceKey,
        /// What is known of its targets.
        reason: String,
    },
    /// A limit of the service or of the client is reached.
    #[error("too many {}", .limit.words())]
    LimitReached {
        /// Which.
        limit: LimitKind,
        /// Seconds until there may be room.
        retry_after: u64,
    },
    /// The body of the request is larger than the service takes.
    #[error("the body of the request is larger than {most} bytes")]
    BodyTooLarge {
        /// Largest body in bytes.
        most: u64,
    },
    /// So many connections to its targets failed that none is tried for a moment.
    #[error("no target of service {service} could be reached for some time")]
    CircuitOpen {
        /// The service.
        service: ServiceKey,
        /// Seconds until the next try.
        retry_after: u64,
    },
    /// As many requests are open at every target as may be.
    #[error("every target of service {service} is busy")]
    TargetsBusy {
        /// The service.
        service: ServiceKey,
    },
    /// Every target that was tried refused or did not answer the connection.
    #[error("no target of service {service} could be reached")]
    TargetUnreachable {
        /// The service.
        service: ServiceKey,
    },
    /// The connection broke, or what came back was not HTTP, before an answer was complete enough to pass on.
    #[error("service {service} broke off the request")]
    UpstreamFailed {
        /// The service.
        service: ServiceKey,
    },
    /// The head of the answer did not come in the time that the service is given.
    #[error("service {service} did not answer in time")]
    UpstreamTimeout {
        /// The service.
        service: ServiceKey,
    },
    /// The body of the request comes too slowly.
    #[error("the body of the request came too slowly")]
    SlowBody,
    /// The hub is short of memory.
    #[error("the hub is short of memory")]
    Overloaded,
    /// The hub is shutting down.
    #[error("the hub is shutting down")]
    Draining,
}

// What clients can do, where several refusals or a long line say it.
const ASK: &str = "ask the operator of this hub for an access token";
const SEND: &str =
    "send the header 'Authorization: Bearer TOKEN' with an access token from the operator of this hub";
const NAME: &str = "send 'X-Service-Id: BLUEPRINT/SERVICE', such as 7/42, or call the path /sSERVICE.bBLUEPRINT/ or the host sSERVICE.bBLUEPRINT.DOMAIN";
const LIST: &str = "blueprint-hub service ls lists what this hub offers";
const WAIT: &str = "try again later; blueprint-hub service show tells the operator more";
const OPERATOR: &str = "send the content of admin.token as bearer token, by TLS or on this machine";
const REPEAT: &str = "the request may have had an effect: repeat it only if that is safe";
const RULES: &str = "ask the operator of this hub which paths, methods and sources the service allows";
const LIMITS: &str = "wait as long as Retry-After says; the operator of this hub sets the limits";
const LESS: &str = "send less at once; the operator of this hub sets the limit";

/// Status, code and hint of one refusal; one row per variant so that none is forgotten.
struct Row(StatusCode, &'static str, &'static str);

impl Refusal {
    /// HTTP status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.row().0
    }

    /// Stable name: the `code` in the body and the `reason` label of the metric.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.row().1
    }

    /// What the client can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.row().2
    }

    /// Whether it says that somebody was not allowed something, so that the audit log counts it.
    #[must_use]
    pub fn is_by_rule(&self) -> bool {
        matches!(
            self.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        ) && !matches!(self, Self::MissingToken)
    }

    /// Value of `WWW-Authenticate`, on the answers that must carry one (RFC 6750, section 3).
    #[must_use]
    pub fn challenge(&self) -> Option<&'static str> {
        match (self, self.status()) {
            (Self::MissingToken, _) => Some("Bearer realm=\"blueprint-hub\""),
            (_, StatusCode::UNAUTHORIZED) => Some("Bearer realm=\"blueprint-hub\", error=\"invalid_token\""),
            _ => None,
        }
    }

    /// Seconds after which the client may come back, where the hub can say.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        /// Where a service or the hub is away.
        const SOON: u64 = 2;
        match (self, self.status()) {
            (
                Self::TooManyRequests { retry_after }
                | Self::LimitReached { retry_after, .. }
                | Self::CircuitOpen { retry_after, .. },
                _,
            ) => Some(*retry_after),
            (_, StatusCode::SERVICE_UNAVAILABLE) => Some(SOON),
            _ => None,
        }
    }

    /// Every code there is, for metrics that start at zero.
    pub const CODES: [&'static str; 42] = [
        "missing_token",
        "invalid_token",
        "expired_token",
        "revoked_token",
        "certificate_required",
        "revoked_certificate",
        "expired_certificate",
        "misdirected_request",
        "operator_only",
        "ambiguous_credential",
        "service_not_allowed",
        "rule_refused",
        "unknown_service",
        "service_not_named",
        "malformed_service_id",
        "ambiguous_service",
        "contradictory_service",
        "malformed_authority",
        "ambiguous_framing",
        "malformed_request",
        "malformed_path",
        "target_too_long",
        "headers_too_large",
        "method_refused",
        "malformed_upgrade",
        "bad_headers",
        "too_many_requests",
        "no_healthy_target",
        "service_rate_limit",
        "key_rate_limit",
        "service_concurrency_limit",
        "key_concurrency_limit",
        "body_too_large",
        "circuit_open",
        "targets_busy",
        "target_unreachable",
        "upstream_failed",
        "upstream_timeout",
        "slow_head",
        "slow_body",
        "overloaded",
        "draining",
    ];

    fn row(&self) -> Row {
        match self {
            Self::MissingToken => Row(StatusCode::UNAUTHORIZED, "missing_token", SEND),
            Self::InvalidToken => Row(StatusCode::UNAUTHORIZED, "invalid_token", ASK),
            Self::ExpiredToken { .. } => Row(StatusCode::UNAUTHORIZED, "expired_token", ASK),
            Self::RevokedToken => Row(StatusCode::UNAUTHORIZED, "revoked_token", ASK),
            Self::CertificateRequired { .. } => certificate_row("certificate_required"),
            Self::RevokedCertificate => certificate_row("revoked_certificate"),
            Self::ExpiredCertificate { .. } => certificate_row("expired_certificate"),
            Self::Misdirected { .. } => Row(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected_request",
                "open a new connection to its host",
            ),
            Self::OperatorOnly => Row(StatusCode::UNAUTHORIZED, "operator_only", OPERATOR),
            Self::AmbiguousCredential => {
                Row(StatusCode::BAD_REQUEST, "ambiguous_credential", "send exactly one")
            }
            Self::ServiceNotAllowed { .. } => Row(StatusCode::FORBIDDEN, "service_not_allowed", ASK),
            Self::RuleRefused { .. } => Row(StatusCode::FORBIDDEN, "rule_refused", RULES),
            Self::UnknownService { .. } => Row(StatusCode::NOT_FOUND, "unknown_service", LIST),
            Self::ServiceNotNamed => Row(StatusCode::PRECONDITION_REQUIRED, "service_not_named", NAME),
            Self::MalformedServiceId => Row(StatusCode::BAD_REQUEST, "malformed_service_id", NAME),
            Self::AmbiguousService { .. } => Row(StatusCode::CONFLICT, "ambiguous_service", NAME),
            Self::ContradictoryService => {
                Row(StatusCode::BAD_REQUEST, "contradictory_service", "name the service once")
            }
            Self::MalformedAuthority => Row(
                StatusCode::BAD_REQUEST,
                "malformed_authority",
                "send one Host that equals the request target's",
            ),
            Self::AmbiguousFraming => framing_row(FramingFault::Both),
            Self::MalformedRequest { fault } => framing_row(*fault),
            Self::MalformedPath { .. } => {
                Row(StatusCode::BAD_REQUEST, "malformed_path", "send the path in its plain form")
            }
            Self::TargetTooLong => {
                Row(StatusCode::URI_TOO_LONG, "target_too_long", "move data into the body")
            }
            Self::HeadersTooLarge => {
                Row(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", "send fewer headers")
            }
            Self::MethodRefused => Row(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_refused",
                "every method but CONNECT and TRACE is forwarded, and CONNECT for a websocket over HTTP/2",
            ),
            Self::MalformedUpgrade => Row(
                StatusCode::BAD_REQUEST,
                "malformed_upgrade",
                "send the handshake as RFC 6455 has it over HTTP/1.1, or RFC 8441 over HTTP/2",
            ),
            Self::BadHeaders { .. } => {
                Row(StatusCode::BAD_REQUEST, "bad_headers", "leave out the headers that are named")
            }
            Self::TooManyRequests { .. } => {
                Row(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "wait as long as Retry-After says")
            }
            Self::NoHealthyTarget { .. } => Row(StatusCode::SERVICE_UNAVAILABLE, "no_healthy_target", WAIT),
            Self::LimitReached { limit, .. } => {
                Row(StatusCode::TOO_MANY_REQUESTS, limit_code(*limit), LIMITS)
            }
            Self::BodyTooLarge { .. } => Row(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", LESS),
            Self::CircuitOpen { .. } => Row(StatusCode::SERVICE_UNAVAILABLE, "circuit_open", WAIT),
            Self::TargetsBusy { .. } => Row(StatusCode::SERVICE_UNAVAILABLE, "targets_busy", WAIT),
            Self::TargetUnreachable { .. } => {
                Row(StatusCode::SERVICE_UNAVAILABLE, "target_unreachable", WAIT)
            }
            Self::UpstreamFailed { .. } => Row(StatusCode::BAD_GATEWAY, "upstream_failed", REPEAT),
            Self::UpstreamTimeout { .. } => Row(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", REPEAT),
            Self::SlowBody => Row(
                StatusCode::REQUEST_TIMEOUT,
                "slow_body",
                "send the body faster: this hub asks for a least rate",
            ),
            Self::Overloaded => {
                Row(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "try again as Retry-After says")
            }
            Self::Draining => Row(StatusCode::SERVICE_UNAVAILABLE, "draining", "try again in a few seconds"),
        }
    }
}

/// What the client is told where it lacks a certificate that counts.
const fn certificate_row(code: &'static str) -> Row {
    const HINT: &str = "connect by TLS to the host name of the service, with a client certificate from the operator of this hub";
    Row(StatusCode::UNAUTHORIZED, code, HINT)
}

/// What the client is told of a request whose bytes have no single reading.
const fn framing_row(fault: FramingFault) -> Row {
    match fault {
        FramingFault::TooLarge => {
            Row(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", "send fewer headers")
        }
        FramingFault::TooSlow => Row(
            StatusCode::REQUEST_TIMEOUT,
            "slow_head",
            "send the head of a request in one piece, and at once",
        ),
        FramingFault::Length | FramingFault::Encoding | FramingFault::Both => Row(
            StatusCode::BAD_REQUEST,
            "ambiguous_framing",
            "send one Content-Length or 'Transfer-Encoding: chunked', never both",
        ),
        FramingFault::LineEnd
        | FramingFault::StatusLine
        | FramingFault::RequestLine
        | FramingFault::HeaderLine
        | FramingFault::HeaderValue
        | FramingFault::Chunk => {
            Row(StatusCode::BAD_REQUEST, "malformed_request", "send the request as RFC 9112 has it")
        }
    }
}

const fn limit_code(limit: LimitKind) -> &'static str {
    match limit {
        LimitKind::ServiceRate => "service_rate_limit",
        LimitKind::KeyRate => "key_rate_limit",
        LimitKind::ServiceConcurrency => "service_concurrency_limit",
        LimitKind::KeyConcurrency => "key_concurrency_limit",
    }
}

fn selector_text(selector: Selector) -> String {
    match selector {
        Selector::Exact(key) => key.to_string(),
        Selector::ById { service, sub: 0 } => service.to_string(),
        Selector::ById { service, sub } => format!("{service}:{sub}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_may_change_is_not_quoted_to_clients() {
        for refusal in [Refusal::SlowBody, Refusal::MalformedRequest { fault: FramingFault::TooSlow }] {
            let hint = refusal.hint();
            assert!(!hint.contains(|c: char| c.is_ascii_digit()) && !hint.contains("second"), "{hint}");
        }
    }
}
