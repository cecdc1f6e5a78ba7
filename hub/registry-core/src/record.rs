//! What the hub remembers of agents, tokens and targets.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use blueprint_common_types::{
    AgentId, Health, OverlayLease, ServiceKey, TargetKey, Timestamp, TokenHash, TokenId, WgPublicKey,
};

/// Text of a set that is allowed to be empty and grants nothing.
const NOTHING: &str = "none";
/// Text of a scope that covers every service.
const EVERYTHING: &str = "*";

/// A text is not a list of services.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a list of services such as 7/42,7/43")]
pub struct ParseServicesError(String);

/// Which services a spoke may offer. Text form: empty for first claim, else `7/42,7/43`, or `none`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ServiceGrant {
    /// Any service that no other agent has claimed or was granted by name.
    #[default]
    FirstClaim,
    /// These and no others; several agents may hold the same one.
    Only(BTreeSet<ServiceKey>),
}

impl fmt::Display for ServiceGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstClaim => Ok(()),
            Self::Only(services) => fmt_services(services, f),
        }
    }
}

impl FromStr for ServiceGrant {
    type Err = ParseServicesError;

    fn from_str(text: &str) -> Result<Self, ParseServicesError> {
        if text.is_empty() { Ok(Self::FirstClaim) } else { parse_services(text).map(Self::Only) }
    }
}

/// Which services a client may call. Text form: `*` for all, else `7/42,7/43`, or `none`.
///
/// The empty text is not a scope, so that a lost value never grants everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessScope {
    /// Every service of this hub.
    All,
    /// These and no others.
    Only(BTreeSet<ServiceKey>),
}

impl AccessScope {
    /// True where the scope covers `service`.
    #[must_use]
    pub fn contains(&self, service: ServiceKey) -> bool {
        match self {
            Self::All => true,
            Self::Only(services) => services.contains(&service),
        }
    }
}

impl fmt::Display for AccessScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(EVERYTHING),
            Self::Only(services) => fmt_services(services, f),
        }
    }
}

impl FromStr for AccessScope {
    type Err = ParseServicesError;

    fn from_str(text: &str) -> Result<Self, ParseServicesError> {
        if text == EVERYTHING { Ok(Self::All) } else { parse_services(text).map(Self::Only) }
    }
}

fn fmt_services(services: &BTreeSet<ServiceKey>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if services.is_empty() {
        return f.write_str(NOTHING);
    }
    for (position, service) in services.iter().enumerate() {
        let comma = if position == 0 { "" } else { "," };
        write!(f, "{comma}{service}")?;
    }
    Ok(())
}

fn parse_services(text: &str) -> Result<BTreeSet<ServiceKey>, ParseServicesError> {
    if text == NOTHING {
        return Ok(BTreeSet::new());
    }
    text.split(',')
        .map(|part| part.trim().parse())
        .collect::<Result<_, _>>()
        .map_err(|_| ParseServicesError(text.chars().take(64).collect()))
}

/// A machine that joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Identity, as in its certificate.
    pub id: AgentId,
    /// Name for people; need not be unique.
    pub name: String,
    /// What the agent is in the tunnel; unique.
    pub wireguard_key: WgPublicKey,
    /// Its overlay addresses, for as long as it is joined.
    pub lease: OverlayLease,
    /// When it joined.
    pub joined_at: Timestamp,
    /// Number of its newest certificate; the first is 1 and every renewal adds one.
    pub generation: u32,
    /// Join token it came with.
    pub token: TokenId,
    /// What it may offer, taken from that token.
    pub services: ServiceGrant,
    /// Version it reported last, for display.
    pub agent_version: String,
}

/// A right to join, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinTokenRecord {
    /// Public half of the token.
    pub id: TokenId,
    /// Hash of the secret half.
    pub hash: TokenHash,
    /// What the operator called it.
    pub label: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From this time on it is refused.
    pub expires_at: Timestamp,
    /// How many joins are left.
    pub uses_left: u32,
    /// How many joins it was made for.
    pub uses: u32,
    /// What agents that join with it may offer.
    pub services: ServiceGrant,
    /// The overlay address of the machine that joins with it; `None` for any free one.
    pub address: Option<Ipv4Addr>,
}

/// A right to call services through the proxy, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessTokenRecord {
    /// Public half of the token.
    pub id: TokenId,
    /// Hash of the secret half.
    pub hash: TokenHash,
    /// What the operator called it.
    pub label: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From this time on it is refused; `None` where it lasts until revoked.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, where it was.
    pub revoked_at: Option<Timestamp>,
    /// What it opens.
    pub services: AccessScope,
}

/// A target as everybody but its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRecord {
    /// Service, agent and port.
    pub key: TargetKey,
    /// Effective health: what the agent reported, or unhealthy while its data plane does not echo.
    pub health: Health,
    /// Why the target is not healthy, one line; empty where it is.
    pub reason: String,
    /// IPv4 overlay address of the agent, and the port.
    pub address: SocketAddr,
    /// When the target goes unless its agent renews it.
    pub expires_at: Timestamp,
    /// Name of the agent.
    pub agent_name: String,
    /// Assignment of the workload that offers it; 0 where none does.
    pub generation: u64,
    /// Its part of the requests, in hundredths: less than [`WHOLE`] while its service is updated, 0 for none.
    pub weight: u8,
}

/// Weight of a target that gets all that its service gives to a target.
pub const WHOLE: u8 = 100;

/// The policy between machines as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRecord {
    /// Number of the policy; the first is 1 and every change adds one.
    pub version: u64,
    /// What the operator wrote ([`crate::policy::PolicyDocument`]).
    pub document: String,
    /// When it was stored.
    pub changed_at: Timestamp,
    /// By which way the operator came.
    pub changed_by: String,
}

/// The settings of a service as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Which service.
    pub service: ServiceKey,
    /// Number of the settings; the first is 1 and every change adds one.
    pub version: u64,
    /// JSON.
    pub document: String,
    /// When they were stored.
    pub changed_at: Timestamp,
}

/// An owner's right to call one service through the proxy, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// Public part of the key.
    pub id: String,
    /// SHA-256 of the whole key.
    pub hash: [u8; 32],
    /// The service that it opens.
    pub service: ServiceKey,
    /// The owner's public key as text.
    pub owner: String,
    /// Headers that go with its requests, as a JSON object.
    pub headers: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From this time on it is refused.
    pub expires_at: Timestamp,
    /// When it was revoked, where it was.
    pub revoked_at: Option<Timestamp>,
}

/// Another issuer's assertion that was used for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssertionRecord {
    /// The service.
    pub service: ServiceKey,
    /// SHA-256 of its issuer and its name.
    pub hash: [u8; 32],
    /// From this time on it is refused as expired.
    pub until: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_and_scopes_survive_their_text_form() {
        let some = BTreeSet::from([
            ServiceKey { blueprint: 7, service: 42 },
            ServiceKey { blueprint: 7, service: 43 },
        ]);
        for grant in
            [ServiceGrant::FirstClaim, ServiceGrant::Only(BTreeSet::new()), ServiceGrant::Only(some.clone())]
        {
            assert_eq!(grant.to_string().parse(), Ok(grant));
        }
        for scope in [AccessScope::All, AccessScope::Only(BTreeSet::new()), AccessScope::Only(some.clone())] {
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
        assert_eq!(ServiceGrant::Only(some).to_string(), "7/42,7/43");
    }

    #[test]
    fn a_lost_scope_opens_nothing() {
        assert!("".parse::<AccessScope>().is_err());
        assert!("7".parse::<AccessScope>().is_err());
        assert!(!AccessScope::Only(BTreeSet::new()).contains(ServiceKey { blueprint: 1, service: 1 }));
    }
}
