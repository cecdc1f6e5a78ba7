//! Why a machine may not join.

use std::fmt;
use std::time::Duration;

use blueprint_common_types::{AgentId, ProofKind, Timestamp};

use crate::ServiceGrant;

/// Most that an agent's clock may differ from the hub's at join.
///
/// Five minutes, as Kerberos allows (RFC 4120, section 1.6); certificates start that much early.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Why a join was refused, in the words of the hub's log.
///
/// The agent is told [`Self::code`] and a text of the driver's; never whether a token exists
/// whose secret it does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// No token has this id; it may have been revoked.
    #[error("no join token has this id; it was never made here or was revoked")]
    Unknown,
    /// The id exists, the secret is another.
    #[error("the secret of the join token is wrong")]
    WrongSecret,
    /// No join is left on the token.
    #[error("the join token was used already")]
    Used,
    /// It was made for a machine that the hub ordered: for another one, or that machine joined or is not wanted.
    #[error(
        "the join token is bound to a machine that the hub ordered, and this is not it, or it is not to join"
    )]
    Bound,
    /// The token's time is over.
    #[error("the join token expired")]
    Expired,
    /// The agent's clock and the hub's are too far apart.
    #[error("the agent's clock is {}s off, {}s are allowed", .skew.as_secs(), .allowed.as_secs())]
    ClockSkew {
        /// Difference of the two clocks.
        skew: Duration,
        /// Most that is allowed.
        allowed: Duration,
    },
    /// The request is malformed or contradicts what is there; says how.
    #[error("the join request is not acceptable: {0}")]
    BadRequest(String),
    /// The overlay has no address left.
    #[error("the overlay has no free address")]
    Full,
    /// The identity that a cloud gave it is not accepted.
    #[error("{why}")]
    Proof {
        /// Stable code of the reason.
        code: &'static str,
        /// The reason, for the log.
        why: String,
    },
    /// A cloud vouches for it, and the hub did not order it, or does not wait for it.
    #[error(
        "the machine is not one that this hub ordered and waits for, and join.identity.unordered does not let others in"
    )]
    NotOrdered,
    /// A machine joins once by its identity.
    #[error("the machine joined with this identity before, as agent {0}")]
    IdentityUsed(AgentId),
}

/// A machine for which a cloud vouches, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudIdentity {
    /// Who vouches.
    pub kind: ProofKind,
    /// Account, project, subscription, or service account.
    pub account: String,
    /// What the cloud calls the machine, for good.
    pub instance: String,
    /// How the provider of the same name may call it, the surest first.
    pub provider_ids: Vec<String>,
    /// What it may offer although this hub did not order it; `None` where it may not join then.
    pub unordered: Option<ServiceGrant>,
}

impl fmt::Display for CloudIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.account, self.instance)
    }
}

/// A machine that joined by its identity, as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityRecord {
    /// Name of the kind of its identity.
    pub cloud: String,
    /// Account, project, subscription, or service account.
    pub account: String,
    /// What the cloud calls the machine.
    pub instance: String,
    /// The agent that it became; it may be gone since.
    pub agent: AgentId,
    /// When.
    pub joined_at: Timestamp,
}

impl JoinRefusal {
    /// Stable code for the wire, audit rows and metric labels.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "token_unknown",
            Self::WrongSecret => "token_wrong_secret",
            Self::Used => "token_used",
            Self::Bound => "token_bound",
            Self::Expired => "token_expired",
            Self::ClockSkew { .. } => "clock_skew",
            Self::BadRequest(_) => "bad_request",
            Self::Full => "overlay_full",
            Self::Proof { code, .. } => code,
            Self::NotOrdered => "identity_not_ordered",
            Self::IdentityUsed(_) => "identity_used",
        }
    }
}

/// Compares the agent's clock with the hub's.
///
/// # Errors
///
/// [`JoinRefusal::ClockSkew`] where they are more than [`MAX_CLOCK_SKEW`] apart.
pub fn check_clock(agent: Timestamp, hub: Timestamp) -> Result<(), JoinRefusal> {
    let skew = agent.distance(hub);
    if skew > MAX_CLOCK_SKEW {
        return Err(JoinRefusal::ClockSkew { skew, allowed: MAX_CLOCK_SKEW });
    }
    Ok(())
}

/// Checks the name that an agent gives itself: 1 to 63 characters of `a-z`, `0-9` and `-`.
///
/// # Errors
///
/// [`JoinRefusal::BadRequest`] for any other name.
pub fn check_name(name: &str) -> Result<(), JoinRefusal> {
    let is_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=63).contains(&name.len()) && name.bytes().all(is_label) {
        return Ok(());
    }
    Err(JoinRefusal::BadRequest("a name has 1 to 63 characters of a-z, 0-9 and '-'".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_five_minutes_apart_are_the_last_that_pass() {
        let hub = Timestamp::from_millis(10_000_000);
        assert_eq!(check_clock(hub.plus(MAX_CLOCK_SKEW), hub), Ok(()));
        let late = Timestamp::from_millis(10_000_000 - 300_001);
        let refusal = check_clock(late, hub).unwrap_err();
        assert_eq!(refusal.code(), "clock_skew");
        assert_eq!(refusal.to_string(), "the agent's clock is 300s off, 300s are allowed");
        assert!(check_clock(Timestamp::from_millis(u64::MAX), hub).is_err());
    }

    #[test]
    fn names_are_labels() {
        for name in ["a", "node-1", &"x".repeat(63)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "A", "a b", "a.b", "ü", &"x".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
