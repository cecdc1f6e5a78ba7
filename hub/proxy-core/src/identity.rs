//! Who calls, and how that is known.
//!
//! Five ways lead to an [`Identity`]: an access token of the operator, an API key that an owner got
//! for a signature, a sealed token made from such a key, one made from another issuer's assertion,
//! and a client certificate. Each is compared with the tables as they are now, so what is revoked is dead at once.

mod api_key;
mod assertion;
mod bls;
mod challenge;
mod extra_headers;
pub(crate) mod hex;
mod jwks;
mod key_cache;
mod oauth_policy;
mod owner;
mod replays;
mod seal;
mod sealed;
mod signed;
mod verifying_key;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{Secret, ServiceKey, Timestamp, TokenId};

pub use api_key::{KeyGrant, KeyHash, KeyId, KeyTable, NewApiKey};
pub use assertion::{Assertion, AssertionError, SKEW, key_named, verify_assertion};
pub use challenge::{CHALLENGE_LIFE, Challenge, ChallengeError, Challenges, TooManyChallenges};
pub use extra_headers::{ExtraHeaderError, bind_headers, extend_headers, tenant_id};
pub use hex::{decode as decode_hex, encode as encode_hex};
pub use jwks::{JwksHosts, JwksHostsError, JwksUrl, JwksUrlError, is_public, max_age};
pub use key_cache::{Ask, KeyCache};
pub use oauth_policy::{OAuthPolicy, OAuthPolicyError};
pub use owner::{KeyKind, OwnerKey, OwnerKeyError, Signed};
pub use replays::{MAX_USED, Replays, UsedAssertion};
pub use seal::{ParseSealKeyError, SealError, SealForm, SealKey};
pub use sealed::{Claims, DEFAULT_LIFE, MAX_LIFE, SealingKey};
pub use signed::IdentitySigner;
pub use verifying_key::{KeyError, MAX_JWK_SET, VerifyingKey};

pub(crate) use api_key::{DEFAULT_PREFIX, MAX_PREFIX, is_prefix, parse as parse_api_key};
pub use challenge::network as source_network;
pub(crate) use sealed::HEADER as SEALED_HEADER;
use sealed::OAUTH_KEY_ID;

use crate::access::Scope;
use crate::canonical::CanonicalRequest;
use crate::credential::Credential;
use crate::refusal::Refusal;
use crate::tls::{Channel, ClientCertificate};
use crate::trust::Trust;

/// How a caller showed who it is; the value of `x-auth-method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthMethod {
    /// An access token that the operator made.
    Token,
    /// An API key.
    ApiKey,
    /// A token of a few minutes made from an API key.
    AccessToken,
    /// A token of a few minutes made from an assertion.
    OAuth,
    /// A client certificate, alone or beside one of the others.
    Certificate,
}

impl AuthMethod {
    /// Stable name, for headers, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::ApiKey => "api-key",
            Self::AccessToken => "access-token",
            Self::OAuth => "oauth",
            Self::Certificate => "mtls",
        }
    }
}

/// What an identity stands on, to ask again whether it still holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Root {
    Token(TokenId),
    Key(KeyId),
    OAuth { issued_at: Timestamp },
    Certificate,
}

/// A caller that has shown who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    method: AuthMethod,
    root: Root,
    id: Arc<str>,
    tenant_id: Arc<str>,
    tenant_name: Option<Arc<str>>,
    scopes: Vec<String>,
    headers: BTreeMap<String, String>,
    channel: Channel,
    pub(crate) scope: Scope,
}

impl Identity {
    /// How it was shown.
    #[must_use]
    pub const fn method(&self) -> AuthMethod {
        self.method
    }

    /// Public name of the credential that was shown, safe in logs; each token of a few minutes has its own.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Public name of what the credential stands on, safe in logs, and what counters are kept by: the id of a
    /// token of the operator, of the API key that tokens were made from, or `tenant:ID` or `certificate:ID` with
    /// the tenant's id. A client cannot make itself another one by asking for more tokens.
    #[must_use]
    pub fn root_id(&self) -> Arc<str> {
        match &self.root {
            // The credential is what it stands on.
            Root::Token(_) => Arc::clone(&self.id),
            Root::Key(id) if *id.as_str() == *self.id => Arc::clone(&self.id),
            Root::Key(id) => id.as_str().into(),
            Root::OAuth { .. } | Root::Certificate => self.account().into(),
        }
    }

    /// Who limits are counted for: the token of the operator, the API key that all tokens made from it
    /// share, or the tenant of assertions or client certificates.
    #[must_use]
    pub fn account(&self) -> String {
        match &self.root {
            Root::Token(id) => format!("token:{id}"),
            Root::Key(id) => format!("key:{id}"),
            Root::OAuth { .. } => format!("tenant:{}", self.tenant_id),
            Root::Certificate => format!("certificate:{}", self.tenant_id),
        }
    }

    /// Who calls, as services see it in `x-tenant-id`.
    #[must_use]
    pub fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// Who calls, for people.
    #[must_use]
    pub fn tenant_name(&self) -> Option<&str> {
        self.tenant_name.as_deref()
    }

    /// What it may do, in the service's words.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// Headers bound to the credential, names in lower case.
    #[must_use]
    pub const fn headers(&self) -> &BTreeMap<String, String> {
        &self.headers
    }

    /// The service that the credential alone names.
    #[must_use]
    pub fn only_service(&self) -> Option<ServiceKey> {
        match &self.scope {
            Scope::Only(services) if services.len() == 1 && self.method != AuthMethod::Token => {
                services.first().copied()
            }
            Scope::All | Scope::Only(_) => None,
        }
    }

    /// Whether the credential still stands; asked again while a stream is open.
    ///
    /// The end of a token's few minutes does not end what was begun with it; revocation does.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn still_holds(&self, service: ServiceKey, trust: &Trust, now: Timestamp) -> Result<(), Refusal> {
        match &self.root {
            Root::Token(id) => trust.access.live(*id, now),
            Root::Key(id) => trust.keys.live(id, now).map(drop),
            Root::OAuth { issued_at } => trust.oauth_holds(service, *issued_at),
            Root::Certificate => Ok(()),
        }?;
        self.channel.check(service, trust, now)
    }

    /// The certificate that was shown for the service that is called.
    #[must_use]
    pub fn certificate(&self) -> Option<&ClientCertificate> {
        self.channel.client()
    }

    /// Notes the connection, which the caller has checked for the service.
    pub(crate) fn on_channel(mut self, channel: &Channel) -> Self {
        if channel.client().is_some() {
            self.method = AuthMethod::Certificate;
        }
        self.channel = channel.clone();
        self
    }
}

/// Who shows a certificate and nothing else: known to one service only.
fn of_certificate(channel: &Channel, trust: &Trust, now: Timestamp) -> Result<Identity, Refusal> {
    let (Some(service), Some(client)) = (channel.service(), channel.client()) else {
        return Err(Refusal::MissingToken);
    };
    channel.check(service, trust, now)?;
    let facts = client.facts();
    Ok(Identity {
        method: AuthMethod::Certificate,
        root: Root::Certificate,
        id: client.id().into(),
        tenant_id: tenant_id(&facts.subject).into(),
        tenant_name: facts.common_name.as_deref().map(Arc::from),
        scopes: Vec::new(),
        headers: BTreeMap::new(),
        channel: Channel::default(),
        scope: Scope::Only(BTreeSet::from([service])),
    })
}

/// Compares what a request shows with the tables.
pub(crate) fn authenticate(
    credential: &Credential,
    channel: &Channel,
    trust: &Trust,
    now: Timestamp,
) -> Result<Identity, Refusal> {
    match credential {
        Credential::Missing => of_certificate(channel, trust, now),
        Credential::Unreadable => Err(Refusal::InvalidToken),
        Credential::Token { id, hash } => {
            let known = trust.access.authenticate(*id, hash, now)?;
            Ok(Identity {
                method: AuthMethod::Token,
                root: Root::Token(*id),
                id: Arc::clone(&known.name),
                tenant_id: Arc::clone(&known.name),
                tenant_name: known.label.clone(),
                scopes: Vec::new(),
                headers: BTreeMap::new(),
                channel: Channel::default(),
                scope: known.grant.scope.clone(),
            })
        }
        Credential::ApiKey { id, hash } => {
            let grant = trust.keys.authenticate(id, hash, now)?;
            Ok(from_headers(
                AuthMethod::ApiKey,
                Root::Key(id.clone()),
                id.as_str().into(),
                grant.service,
                &grant.headers,
            )
            .or_tenant(|| tenant_id(&grant.owner)))
        }
        Credential::Sealed(token) => from_claims(trust.sealing.open(token.expose()), trust, now),
    }
}

fn from_claims(claims: Option<Claims>, trust: &Trust, now: Timestamp) -> Result<Identity, Refusal> {
    let claims = claims.ok_or(Refusal::InvalidToken)?;
    if claims.end() <= now {
        return Err(Refusal::ExpiredToken { at: claims.end() });
    }
    let (number, sub) = claims.service_id;
    let service = ServiceKey { blueprint: claims.blueprint, service: number };
    if sub != 0 {
        return Err(Refusal::InvalidToken);
    }
    let issued_at = Timestamp::from_millis(claims.issued_at.saturating_mul(1000));
    let (method, root) = if claims.key_id == OAUTH_KEY_ID {
        trust.oauth_holds(service, issued_at)?;
        (AuthMethod::OAuth, Root::OAuth { issued_at })
    } else {
        let id = KeyId::parse(&claims.key_id).ok_or(Refusal::InvalidToken)?;
        if trust.keys.live(&id, now)?.service != service {
            return Err(Refusal::InvalidToken);
        }
        (AuthMethod::AccessToken, Root::Key(id))
    };
    let mut identity = from_headers(method, root, claims.jti.into(), service, &claims.additional_headers);
    identity.scopes = claims.scopes.unwrap_or_default();
    Ok(identity.or_tenant(|| claims.tenant_id.unwrap_or_else(|| tenant_id(&claims.key_id))))
}

fn from_headers(
    method: AuthMethod,
    root: Root,
    id: Arc<str>,
    service: ServiceKey,
    headers: &BTreeMap<String, String>,
) -> Identity {
    let mut headers = headers.clone();
    Identity {
        method,
        root,
        id,
        tenant_id: headers.remove("x-tenant-id").unwrap_or_default().into(),
        tenant_name: headers.remove("x-tenant-name").map(Arc::from),
        scopes: Vec::new(),
        headers,
        channel: Channel::default(),
        scope: Scope::Only(BTreeSet::from([service])),
    }
}

impl Identity {
    fn or_tenant(mut self, other: impl FnOnce() -> String) -> Self {
        if self.tenant_id.is_empty() {
            self.tenant_id = other().into();
        }
        self
    }
}

/// Makes a token of a few minutes from the API key that a request shows.
///
/// # Errors
///
/// A [`Refusal`] where it shows no live key, or asks for headers that cannot go with it.
pub fn exchange(
    request: &CanonicalRequest,
    trust: &Trust,
    asked: &BTreeMap<String, String>,
    life: Duration,
    now: Timestamp,
) -> Result<(Secret<String>, Timestamp), Refusal> {
    let (id, grant) = match request.credential() {
        Credential::Missing => return Err(Refusal::MissingToken),
        Credential::ApiKey { id, hash } => (id, trust.keys.authenticate(id, hash, now)?),
        Credential::Unreadable | Credential::Token { .. } | Credential::Sealed(_) => {
            return Err(Refusal::InvalidToken);
        }
    };
    let headers = extend_headers(&grant.headers, &grant.owner, asked);
    let headers = headers.map_err(|error| Refusal::BadHeaders { error })?;
    let tenant = headers.get("x-tenant-id").cloned().unwrap_or_else(|| tenant_id(&grant.owner));
    // A token does not outlive its key.
    let expires_at = now.plus(life).min(grant.expires_at);
    seal(trust, grant.service, id.as_str(), tenant, headers, None, expires_at, now).ok_or(Refusal::Draining)
}

/// Makes a token of a few minutes for whom an assertion vouches.
#[must_use]
pub fn seal_for_assertion(
    trust: &Trust,
    service: ServiceKey,
    assertion: &Assertion,
    life: Duration,
    now: Timestamp,
) -> Option<(Secret<String>, Timestamp)> {
    let tenant = tenant_id(&assertion.subject);
    let headers = BTreeMap::from([("x-tenant-id".to_owned(), tenant.clone())]);
    seal(trust, service, OAUTH_KEY_ID, tenant, headers, assertion.scopes.clone(), now.plus(life), now)
}

#[expect(clippy::too_many_arguments, reason = "the claims of a token, each from elsewhere")]
fn seal(
    trust: &Trust,
    service: ServiceKey,
    key_id: &str,
    tenant: String,
    headers: BTreeMap<String, String>,
    scopes: Option<Vec<String>>,
    expires_at: Timestamp,
    now: Timestamp,
) -> Option<(Secret<String>, Timestamp)> {
    let mut jti = [0u8; 16];
    blueprint_common_types::fill_random(&mut jti).ok()?;
    let claims = Claims {
        service_id: (service.service, 0),
        blueprint: service.blueprint,
        tenant_id: Some(tenant),
        tenant_binding: None,
        additional_headers: headers,
        expires_at: expires_at.as_secs(),
        issued_at: now.as_secs(),
        key_id: key_id.to_owned(),
        jti: encode_hex(&jti),
        scopes,
    };
    Some((trust.sealing.seal(&claims.bound())?, expires_at))
}
