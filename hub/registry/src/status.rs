//! What a caller on the wire is told; the log says more.

use blueprint_common_types::Timestamp;
use blueprint_hub_registry_core::JoinRefusal;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Metadata key of the stable code behind a refusal.
pub const CODE_KEY: &str = "x-blueprint-code";

fn with_code(code: Code, name: &'static str, text: impl Into<String>) -> Status {
    let mut status = Status::new(code, text);
    status.metadata_mut().insert(CODE_KEY, MetadataValue::from_static(name));
    status
}

/// Says why a machine may not join. A wrong secret and an unknown token are one case to the outside.
pub(crate) fn refused(refusal: &JoinRefusal, now: Timestamp) -> Status {
    match refusal {
        JoinRefusal::Unknown | JoinRefusal::WrongSecret => with_code(
            Code::PermissionDenied,
            "token_unknown",
            "the hub does not know this join token; make a new one with `blueprint-hub token create`",
        ),
        JoinRefusal::Used => with_code(
            Code::PermissionDenied,
            "token_used",
            "the join token was used already; if it was not you, look at `blueprint-hub node ls`, else make a new one with `blueprint-hub token create`",
        ),
        JoinRefusal::Bound => with_code(
            Code::PermissionDenied,
            "token_bound",
            "the join token was made for one machine that the hub ordered, and this is not it, or it is not wanted any more; `blueprint-hub deployment ls` shows them",
        ),
        JoinRefusal::Expired => with_code(
            Code::PermissionDenied,
            "token_expired",
            "the join token has expired; make a new one with `blueprint-hub token create`",
        ),
        JoinRefusal::ClockSkew { skew, allowed } => with_code(
            Code::FailedPrecondition,
            "clock_skew",
            format!(
                "this machine's clock is {} s away from the hub's ({now}) and at most {} s are allowed; set the clock and join again",
                skew.as_secs(),
                allowed.as_secs(),
            ),
        ),
        JoinRefusal::BadRequest(why) => with_code(
            Code::InvalidArgument,
            "bad_request",
            format!("the hub cannot use the join request: {why}"),
        ),
        JoinRefusal::Full => with_code(
            Code::ResourceExhausted,
            "full",
            "the hub's overlay has no free address; remove nodes or widen tunnel.overlay_v4",
        ),
        JoinRefusal::Proof { code, .. } => with_code(
            Code::PermissionDenied,
            code,
            format!(
                "the hub does not accept this machine's identity ({code}); the hub's log and `blueprint-hub audit` say why"
            ),
        ),
        JoinRefusal::NotOrdered => with_code(
            Code::PermissionDenied,
            "identity_not_ordered",
            "the hub did not order this machine, or does not wait for it; use the name that it ordered it by, or set join.identity.unordered on the hub",
        ),
        JoinRefusal::IdentityUsed(_) => with_code(
            Code::PermissionDenied,
            "identity_used",
            "this machine joined by its identity before, which works once; if it is to join anew, run `blueprint-hub identity forget` on the hub; where the hub ordered it, `blueprint-hub node rm` there has another one take its place",
        ),
    }
}

/// The hub takes no proof of any cloud.
pub(crate) fn no_identities() -> Status {
    with_code(
        Code::FailedPrecondition,
        "identity_off",
        "this hub takes no identity of a cloud; join with a token, or set join.identity in its configuration",
    )
}

pub(crate) fn busy(text: &'static str) -> Status {
    with_code(Code::Unavailable, "busy", text)
}

pub(crate) fn stopping() -> Status {
    with_code(Code::Unavailable, "stopping", "the hub is stopping")
}

pub(crate) fn internal() -> Status {
    with_code(Code::Internal, "internal", "the hub failed; its log says why")
}

pub(crate) fn bad_request(text: impl Into<String>) -> Status {
    with_code(Code::InvalidArgument, "bad_request", text)
}

/// The policy lets the caller reach no such thing, or there is none: one case to the outside.
pub(crate) fn find_denied(text: String) -> Status {
    with_code(Code::PermissionDenied, "find_denied", text)
}

/// What the caller may reach is there, and nothing of it is healthy.
pub(crate) fn find_not_healthy(text: String) -> Status {
    with_code(Code::Unavailable, "find_not_healthy", text)
}

/// There is no place for another watch.
pub(crate) fn watch_too_many(text: String) -> Status {
    with_code(Code::ResourceExhausted, "watch_too_many", text)
}

/// Several machines are called like what the caller asked for.
pub(crate) fn find_ambiguous(text: String) -> Status {
    with_code(Code::FailedPrecondition, "find_ambiguous", text)
}

/// The caller has no certificate, or one that ran out.
pub(crate) fn unauthenticated(name: &'static str, text: &'static str) -> Status {
    with_code(Code::Unauthenticated, name, text)
}

/// The caller's identity is void.
pub(crate) fn revoked() -> Status {
    with_code(
        Code::PermissionDenied,
        "revoked",
        "this agent was removed from the hub; join again with a new token",
    )
}

/// The caller's state was copied: another process renewed since.
pub(crate) fn outdated() -> Status {
    with_code(
        Code::PermissionDenied,
        "certificate_outdated",
        "a newer certificate of this agent is in use: its state folder was copied; join again with a new token",
    )
}
