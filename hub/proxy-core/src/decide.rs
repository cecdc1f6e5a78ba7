//! The decision: admitted to one service, or refused.

use blueprint_common_types::{Health, ServiceKey, Timestamp, TokenId};

use crate::access::{AccessTable, Scope};
use crate::canonical::CanonicalRequest;
use crate::refusal::Refusal;
use crate::routes::{RouteTable, Target};
use crate::selector::Selector;

/// Most characters of a target's own words that a client gets to see.
const MAX_REASON: usize = 160;

/// A verified identity and the service it may call now. Only [`decide`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    service: ServiceKey,
    token: TokenId,
    label: String,
}

impl Admission {
    /// The service the request goes to.
    #[must_use]
    pub const fn service(&self) -> ServiceKey {
        self.service
    }

    /// Public half of the token that was shown.
    #[must_use]
    pub const fn token(&self) -> TokenId {
        self.token
    }

    /// The operator's name for that token.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }
}

/// Decides about one request.
///
/// Order: who (401), which service (428), may they (403), does it exist (404, 409), does it
/// answer (503). A token that opens only some services learns nothing about the others.
///
/// # Errors
///
/// The [`Refusal`] that the client is to be told.
pub fn decide(
    request: &CanonicalRequest,
    access: &AccessTable,
    routes: &RouteTable,
    now: Timestamp,
) -> Result<Admission, Refusal> {
    let (token, grant) = access.authenticate(request.credential(), now)?;
    let selector = request.selector().ok_or(Refusal::ServiceNotNamed)?;
    let service = resolve(selector, &grant.scope, routes)?;
    let targets = routes.targets(&service).ok_or(Refusal::UnknownService { selector })?;
    if !targets.iter().any(|target| target.health == Health::Healthy) {
        return Err(Refusal::NoHealthyTarget { service, reason: explain(targets) });
    }
    Ok(Admission { service, token, label: grant.label.clone() })
}

fn resolve(selector: Selector, scope: &Scope, routes: &RouteTable) -> Result<ServiceKey, Refusal> {
    let (service, sub) = match selector {
        Selector::Exact(key) if scope.allows(&key) => return Ok(key),
        Selector::Exact(_) => return Err(Refusal::ServiceNotAllowed { selector }),
        Selector::ById { service, sub } => (service, sub),
    };
    let may_ask = match scope {
        Scope::All => true,
        Scope::Only(services) => services.iter().any(|key| key.service == service),
    };
    if !may_ask {
        return Err(Refusal::ServiceNotAllowed { selector });
    }
    let mut found = routes.services().filter(|key| key.service == service && scope.allows(key));
    match (sub, found.next(), found.next()) {
        (0, Some(key), None) => Ok(*key),
        (0, Some(_), Some(_)) => Err(Refusal::AmbiguousService { service }),
        _ => Err(Refusal::UnknownService { selector }),
    }
}

fn explain(targets: &[Target]) -> String {
    let Some(first) = targets.first() else {
        return "no agent offers it now".to_owned();
    };
    let worded = targets.iter().find(|target| !target.reason.is_empty()).unwrap_or(first);
    let words: String = worded.reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
    let words = if words.is_empty() { "no reason given" } else { &words };
    let count = targets.len();
    let noun = if count == 1 { "target" } else { "targets" };
    format!("{count} {noun}, none healthy; {}: {words}", worded.health)
}
