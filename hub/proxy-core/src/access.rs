//! Who may call what: the access tokens the proxy knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blueprint_common_types::{Secret, ServiceKey, Timestamp, TokenHash, TokenId};

use crate::refusal::Refusal;

/// The services a token opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every service of this hub, also those that come later.
    All,
    /// These and no other.
    Only(BTreeSet<ServiceKey>),
}

impl Scope {
    /// Whether a token with this scope may call `service`.
    #[must_use]
    pub fn allows(&self, service: &ServiceKey) -> bool {
        match self {
            Self::All => true,
            Self::Only(services) => services.contains(service),
        }
    }
}

/// One access token as the proxy has to know it; the secret itself is never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessGrant {
    /// SHA-256 of the secret half.
    pub hash: TokenHash,
    /// Name the operator gave it; sent to services as `x-tenant-name` where it is plain text.
    pub label: String,
    /// What it opens.
    pub scope: Scope,
    /// End of its life; `None` for a token that only ends when it is revoked.
    pub expires_at: Option<Timestamp>,
    /// Whether the operator took it back.
    pub is_revoked: bool,
}

/// All access tokens, by their public half.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessTable {
    grants: BTreeMap<TokenId, Known>,
}

/// A grant with its names, which every request shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) grant: AccessGrant,
    /// The public half as text.
    pub(crate) name: Arc<str>,
    /// `None` where the operator gave it none.
    pub(crate) label: Option<Arc<str>>,
}

impl Known {
    fn new(id: TokenId, grant: AccessGrant) -> Self {
        let label = Some(grant.label.as_str()).filter(|label| !label.is_empty()).map(Arc::from);
        Self { grant, name: id.to_string().into(), label }
    }
}

impl AccessTable {
    /// Builds the table; of two grants with one id the later stays.
    pub fn new(grants: impl IntoIterator<Item = (TokenId, AccessGrant)>) -> Self {
        Self { grants: grants.into_iter().map(|(id, grant)| (id, Known::new(id, grant))).collect() }
    }

    /// How many tokens there are, live or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// Whether nobody can be admitted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// Finds the live grant behind a token that was shown.
    ///
    /// Only who has shown the right secret learns that a token expired or was revoked.
    pub(crate) fn authenticate(
        &self,
        id: TokenId,
        hash: &TokenHash,
        now: Timestamp,
    ) -> Result<&Known, Refusal> {
        let known = self.grants.get(&id).ok_or(Refusal::InvalidToken)?;
        let grant = &known.grant;
        // `Secret` compares in constant time.
        if Secret::new(*grant.hash.as_bytes()) != Secret::new(*hash.as_bytes()) {
            return Err(Refusal::InvalidToken);
        }
        grant.check_life(now)?;
        Ok(known)
    }

    /// Whether a token that was accepted still stands.
    pub(crate) fn live(&self, id: TokenId, now: Timestamp) -> Result<(), Refusal> {
        self.grants.get(&id).ok_or(Refusal::RevokedToken)?.grant.check_life(now)
    }
}

impl AccessGrant {
    fn check_life(&self, now: Timestamp) -> Result<(), Refusal> {
        if self.is_revoked {
            return Err(Refusal::RevokedToken);
        }
        match self.expires_at {
            Some(at) if at <= now => Err(Refusal::ExpiredToken { at }),
            Some(_) | None => Ok(()),
        }
    }
}
