//! Whose assertions a service accepts. Field names are those of the existing Blueprint auth proxy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::jwks::{JwksUrl, JwksUrlError};
use super::sealed;
use super::verifying_key::{KeyError, VerifyingKey};

/// Longest life of an assertion where the policy names none.
const DEFAULT_ASSERTION_LIFE: u64 = 300;

/// Longest life of an assertion that a policy may allow.
const MAX_ASSERTION_LIFE: u64 = 3600;

/// Most entries of each list of a policy.
const MAX_ENTRIES: usize = 32;

/// A policy as the operator wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuthPolicy {
    /// Values of `iss` that are believed; at least one.
    pub allowed_issuers: Vec<String>,
    /// One of these must be in `aud`; empty to require none.
    #[serde(default)]
    pub required_audiences: Vec<String>,
    /// Public keys in PEM: RSA from 2048 bits, or P-256.
    #[serde(default)]
    pub public_keys_pem: Vec<String>,
    /// Where the issuer publishes its keys (RFC 7517); the hub fetches them from hosts that its operator has named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// Scopes that tokens may have; without the list none.
    #[serde(default)]
    pub allowed_scopes: Option<Vec<String>>,
    /// Not supported: a policy that asks for it is refused rather than half kept.
    #[serde(default)]
    pub require_dpop: bool,
    /// Longest life of a token made from an assertion, in seconds; 0 for the default of 15 minutes.
    #[serde(default)]
    pub max_access_token_ttl_secs: u64,
    /// Longest time from `iat` to `exp`, in seconds; 0 for 300.
    #[serde(default)]
    pub max_assertion_ttl_secs: u64,
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OAuthPolicyError {
    /// No issuer.
    #[error("allowed_issuers is empty: name at least one issuer")]
    NoIssuer,
    /// Neither keys nor where to get them.
    #[error("neither public_keys_pem nor jwks_url is given: no assertion could be verified")]
    NoKey,
    /// A list is too long.
    #[error("a list of the policy has more than {MAX_ENTRIES} entries")]
    TooLong,
    /// One of the keys cannot be used.
    #[error("public_keys_pem, entry {}: {error}", position + 1)]
    Key {
        /// Which, from 0.
        position: usize,
        /// Why.
        error: KeyError,
    },
    /// `jwks_url`.
    #[error(transparent)]
    Url(#[from] JwksUrlError),
    /// `require_dpop`.
    #[error("require_dpop is not supported")]
    Dpop,
    /// A life above what is allowed.
    #[error("{field} is above the most that is allowed, {most}")]
    Life {
        /// Which field.
        field: &'static str,
        /// In seconds.
        most: u64,
    },
}

impl OAuthPolicy {
    /// Checks the policy and reads its keys.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    pub fn keys(&self) -> Result<Vec<VerifyingKey>, OAuthPolicyError> {
        let scopes = self.allowed_scopes.as_ref().map_or(0, Vec::len);
        let lists =
            [self.allowed_issuers.len(), self.required_audiences.len(), self.public_keys_pem.len(), scopes];
        if lists.iter().any(|length| *length > MAX_ENTRIES) {
            return Err(OAuthPolicyError::TooLong);
        }
        if self.allowed_issuers.is_empty() {
            return Err(OAuthPolicyError::NoIssuer);
        }
        if self.jwks()?.is_none() && self.public_keys_pem.is_empty() {
            return Err(OAuthPolicyError::NoKey);
        }
        if self.require_dpop {
            return Err(OAuthPolicyError::Dpop);
        }
        for (field, value, most) in [
            ("max_access_token_ttl_secs", self.max_access_token_ttl_secs, sealed::MAX_LIFE.as_secs()),
            ("max_assertion_ttl_secs", self.max_assertion_ttl_secs, MAX_ASSERTION_LIFE),
        ] {
            if value > most {
                return Err(OAuthPolicyError::Life { field, most });
            }
        }
        let read = |(position, pem): (usize, &String)| {
            VerifyingKey::from_pem(pem).map_err(|error| OAuthPolicyError::Key { position, error })
        };
        self.public_keys_pem.iter().enumerate().map(read).collect()
    }

    /// Where the issuer publishes its keys.
    ///
    /// # Errors
    ///
    /// Fails where it names no URL that keys are fetched from.
    pub fn jwks(&self) -> Result<Option<JwksUrl>, JwksUrlError> {
        self.jwks_url.as_deref().map(JwksUrl::parse).transpose()
    }

    /// Longest time from `iat` to `exp`.
    #[must_use]
    pub fn max_assertion_life(&self) -> Duration {
        let seconds = if self.max_assertion_ttl_secs == 0 {
            DEFAULT_ASSERTION_LIFE
        } else {
            self.max_assertion_ttl_secs
        };
        Duration::from_secs(seconds)
    }

    /// Life of a token made from an assertion.
    #[must_use]
    pub fn token_life(&self) -> Duration {
        match self.max_access_token_ttl_secs {
            0 => sealed::DEFAULT_LIFE,
            seconds => Duration::from_secs(seconds).min(sealed::MAX_LIFE),
        }
    }
}
