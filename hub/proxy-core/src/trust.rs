//! Everything that the proxy decides by, as one value that is swapped whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_types::{ServiceKey, Timestamp};

use crate::access::AccessTable;
use crate::identity::{JwksUrl, KeyTable, OAuthPolicyError, SealingKey, VerifyingKey};
use crate::refusal::Refusal;
use crate::routes::RouteTable;
use crate::settings::{ServiceSettings, SettingsError};
use crate::tls::ServiceTls;

/// Settings of one service, checked and read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    settings: ServiceSettings,
    oauth_keys: Vec<VerifyingKey>,
    jwks: Option<JwksUrl>,
}

impl Service {
    /// Checks the settings and reads the keys in them.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with the settings.
    pub fn new(mut settings: ServiceSettings) -> Result<Self, SettingsError> {
        settings.check()?;
        let owners = &settings.owners;
        settings.blueprint_owners.retain(|owner| owners.contains(owner));
        let (oauth_keys, jwks) = match &settings.oauth {
            Some(policy) => (policy.keys()?, policy.jwks().map_err(OAuthPolicyError::Url)?),
            None => (Vec::new(), None),
        };
        Ok(Self { settings, oauth_keys, jwks })
    }

    /// The settings as the operator wrote them.
    #[must_use]
    pub const fn settings(&self) -> &ServiceSettings {
        &self.settings
    }

    /// Where more keys of its OAuth policy are to be fetched.
    #[must_use]
    pub const fn jwks(&self) -> Option<&JwksUrl> {
        self.jwks.as_ref()
    }

    /// The keys of its OAuth policy that were given as PEM.
    #[must_use]
    pub fn oauth_keys(&self) -> &[VerifyingKey] {
        &self.oauth_keys
    }
}

/// What was stored is not what the proxy decides by yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stored, not yet in force: the proxy cannot read it back; it is retried each second")]
pub struct NotInForce;

/// One consistent view of who may call what, and where it is.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Access tokens of the operator.
    pub access: AccessTable,
    /// API keys of owners.
    pub keys: KeyTable,
    /// Services with settings of their own.
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
    /// Services whose callers show certificates, or must.
    pub tls: BTreeMap<ServiceKey, ServiceTls>,
    /// Services and their targets.
    pub routes: RouteTable,
    /// Opens tokens of a few minutes.
    pub sealing: Arc<SealingKey>,
}

impl Trust {
    /// Nobody, nothing, nowhere.
    #[must_use]
    pub fn empty(sealing: Arc<SealingKey>) -> Self {
        Self {
            access: AccessTable::default(),
            keys: KeyTable::default(),
            services: BTreeMap::new(),
            tls: BTreeMap::new(),
            routes: RouteTable::default(),
            sealing,
        }
    }

    /// The service that a number names: one with settings, with TLS or with targets, and only one.
    ///
    /// # Errors
    ///
    /// Fails where none has the number, or several have.
    pub fn find(&self, selector: crate::Selector) -> Result<ServiceKey, Refusal> {
        let number = match selector {
            crate::Selector::Exact(key) => {
                let is_known = self.services.contains_key(&key)
                    || self.tls.contains_key(&key)
                    || self.routes.targets(&key).is_some();
                return if is_known { Ok(key) } else { Err(Refusal::UnknownService { selector }) };
            }
            crate::Selector::ById { service, sub: 0 } => service,
            crate::Selector::ById { .. } => return Err(Refusal::UnknownService { selector }),
        };
        let known = self.services.keys().chain(self.tls.keys()).chain(self.routes.services());
        let mut found: Vec<ServiceKey> = known.filter(|key| key.service == number).copied().collect();
        found.sort_unstable();
        found.dedup();
        match found.as_slice() {
            [] => Err(Refusal::UnknownService { selector }),
            [key] => Ok(*key),
            _ => Err(Refusal::AmbiguousService { service: number }),
        }
    }

    /// Whether tokens made from assertions at that time still hold.
    pub(crate) fn oauth_holds(&self, service: ServiceKey, issued_at: Timestamp) -> Result<(), Refusal> {
        let settings = self.services.get(&service).map(|service| service.settings());
        let holds = settings.is_some_and(|settings| {
            settings.oauth.is_some() && settings.tokens_not_before <= issued_at.as_secs()
        });
        if holds { Ok(()) } else { Err(Refusal::RevokedToken) }
    }
}
