//! The decision: admitted to one service, or refused.

use blueprint_common_types::{Health, ServiceKey, Timestamp};

use crate::access::Scope;
use crate::canonical::CanonicalRequest;
use crate::identity::{Identity, authenticate};
use crate::refusal::Refusal;
use crate::routes::{RouteTable, Target};
use crate::rules;
use crate::selector::Selector;
use crate::trust::Trust;

/// Most characters of a target's own words that a client gets to see.
const MAX_REASON: usize = 160;

/// Why a service whose healthy targets are all drained has none.
const DRAINED: &str = "the operator has drained all that are healthy";

/// A verified identity and the service it may call now. Only [`decide`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    service: ServiceKey,
    identity: Identity,
}

impl Admission {
    /// The service the request goes to.
    #[must_use]
    pub const fn service(&self) -> ServiceKey {
        self.service
    }

    /// Who calls.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether what was begun with it may go on.
    ///
    /// # Errors
    ///
    /// Why it may not: what was shown was taken back, or the service is hidden.
    pub fn still_holds(&self, trust: &Trust, now: Timestamp) -> Result<(), Refusal> {
        let service = self.service;
        if trust.services.get(&service).is_some_and(|known| known.settings().hidden) {
            return Err(Refusal::UnknownService { selector: Selector::Exact(service) });
        }
        self.identity.still_holds(service, trust, now)
    }
}

/// Decides about one request.
///
/// Order: who (401), which service (428), may they (403), does this connection lead there (401, 421),
/// does it exist and is not hidden (404, 409), do its rules let this request pass (403), does it
/// answer (503). Who may use only some services learns nothing about the others.
///
/// # Errors
///
/// The [`Refusal`] that the client is to be told.
pub fn decide(request: &CanonicalRequest, trust: &Trust, now: Timestamp) -> Result<Admission, Refusal> {
    let identity = authenticate(request.credential(), request.channel(), trust, now)?;
    let service = match (request.selector(), identity.only_service()) {
        (Some(selector), _) => resolve(selector, &identity.scope, &trust.routes)?,
        (None, Some(only)) => only,
        (None, None) => return Err(Refusal::ServiceNotNamed),
    };
    request.channel().check(service, trust, now)?;
    let identity = identity.on_channel(request.channel());
    let targets = trust
        .routes
        .targets(&service)
        .ok_or(Refusal::UnknownService { selector: Selector::Exact(service) })?;
    let settings = trust.services.get(&service).map(|service| service.settings());
    if settings.is_some_and(|settings| settings.hidden) {
        return Err(Refusal::UnknownService { selector: Selector::Exact(service) });
    }
    if settings.is_some_and(|settings| !rules::admit(&settings.rules, request, identity.scopes())) {
        return Err(Refusal::RuleRefused { service });
    }
    let is_drained =
        |target: &Target| settings.is_some_and(|settings| settings.upstream.weight(&target.agent) == 0);
    let mut healthy = targets.iter().filter(|target| target.health == Health::Healthy).peekable();
    if healthy.peek().is_none() {
        return Err(Refusal::NoHealthyTarget { service, reason: explain(targets) });
    }
    if healthy.all(is_drained) {
        return Err(Refusal::NoHealthyTarget { service, reason: DRAINED.to_owned() });
    }
    Ok(Admission { service, identity })
}

/// Who sent a request that is refused for another reason; for logs, never a ground to let it pass.
#[must_use]
pub fn caller(request: &CanonicalRequest, trust: &Trust, now: Timestamp) -> Option<Identity> {
    authenticate(request.credential(), request.channel(), trust, now).ok()
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
