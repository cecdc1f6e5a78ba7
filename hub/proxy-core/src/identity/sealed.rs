//! Access tokens of a few minutes: PASETO `v4.local`, made from an API key or an assertion.
//!
//! Only this hub can read them. The payload has the shape of the existing Blueprint auth proxy: one
//! claim `data` that holds the claims as JSON text, and beside it the registered times.

use std::collections::BTreeMap;
use std::time::Duration;

use blueprint_common_types::{Secret, Timestamp};
use pasetors::Local;
use pasetors::keys::SymmetricKey;
use pasetors::token::UntrustedToken;
use pasetors::version4::{LocalToken, V4};
use serde::{Deserialize, Serialize};
use sha3::{Digest, Keccak256};

use super::hex;

/// Every token starts so.
pub(crate) const HEADER: &str = "v4.local.";

/// Life of a token that asks for none.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(15 * 60);

/// Longest life of a token, whatever it asks for.
pub const MAX_LIFE: Duration = Duration::from_secs(60 * 60);

/// Longest token that is looked at, in bytes: 8 headers of full length and room to spare.
const MAX_TOKEN: usize = 12 * 1024;

/// `key_id` of tokens that come from an assertion, not from a key.
pub(super) const OAUTH_KEY_ID: &str = "oauth";

/// Tells texts that are kept from tokens.
const KEPT: &str = "blueprint-hub kept text: ";

/// What a token says. Names and meaning as in the existing Blueprint auth proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The service it opens: its number, and its blueprint's.
    pub service_id: (u64, u64),
    /// Blueprint of the service; the number alone may name several.
    pub blueprint: u64,
    /// Who calls, hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Ties `tenant_id` to `key_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_binding: Option<String>,
    /// Headers that go with every request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub additional_headers: BTreeMap<String, String>,
    /// End of its life, in seconds since 1970.
    pub expires_at: u64,
    /// Start of its life, in seconds since 1970.
    pub issued_at: u64,
    /// The API key it was made from, or `oauth` for an assertion.
    pub key_id: String,
    /// Its own name, for logs.
    pub jti: String,
    /// What it may do, in the service's words: lower case, sorted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    data: String,
}

impl Claims {
    /// Binds the tenant to the key that the token comes from.
    #[must_use]
    pub fn bound(mut self) -> Self {
        self.tenant_binding = self.tenant_id.as_deref().map(|tenant| binding(&self.key_id, tenant));
        self
    }

    fn is_bound(&self) -> bool {
        self.tenant_binding == self.tenant_id.as_deref().map(|tenant| binding(&self.key_id, tenant))
    }

    /// End of its life.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        Timestamp::from_millis(self.expires_at.saturating_mul(1000))
    }
}

fn binding(key_id: &str, tenant: &str) -> String {
    hex::encode(&Keccak256::digest(format!("{key_id}::tenant::{tenant}")))
}

/// The key that seals tokens and opens them.
pub struct SealingKey(SymmetricKey<V4>);

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

impl SealingKey {
    /// Takes 32 random bytes.
    #[must_use]
    pub fn new(bytes: &Secret<[u8; 32]>) -> Option<Self> {
        SymmetricKey::<V4>::from(bytes.expose()).ok().map(Self)
    }

    /// Makes the token; `None` where the system has no source of randomness.
    #[must_use]
    pub fn seal(&self, claims: &Claims) -> Option<Secret<String>> {
        let data = serde_json::to_string(claims).ok()?;
        let payload = serde_json::to_string(&Payload { data }).ok()?;
        LocalToken::encrypt(&self.0, payload.as_bytes(), None, None).ok().map(Secret::new)
    }

    /// Seals a text that is kept, such as a private key; `purpose` must be the same when it is opened. What was
    /// sealed so is no token.
    #[must_use]
    pub fn seal_text(&self, purpose: &str, text: &Secret<String>) -> Option<String> {
        let implicit = format!("{KEPT}{purpose}");
        LocalToken::encrypt(&self.0, text.expose().as_bytes(), None, Some(implicit.as_bytes())).ok()
    }

    /// Opens what [`Self::seal_text`] sealed for the same purpose.
    #[must_use]
    pub fn open_text(&self, purpose: &str, sealed: &str) -> Option<Secret<String>> {
        let implicit = format!("{KEPT}{purpose}");
        let untrusted = UntrustedToken::<Local, V4>::try_from(sealed).ok()?;
        let trusted = LocalToken::decrypt(&self.0, &untrusted, None, Some(implicit.as_bytes())).ok()?;
        Some(Secret::new(trusted.payload().to_owned()))
    }

    /// Reads a token that this key sealed; says nothing about its time.
    #[must_use]
    pub fn open(&self, token: &str) -> Option<Claims> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let untrusted = UntrustedToken::<Local, V4>::try_from(token).ok()?;
        let trusted = LocalToken::decrypt(&self.0, &untrusted, None, None).ok()?;
        let payload: Payload = serde_json::from_str(trusted.payload()).ok()?;
        let claims: Claims = serde_json::from_str(&payload.data).ok()?;
        claims.is_bound().then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            service_id: (42, 0),
            blueprint: 7,
            tenant_id: Some("0123456789abcdef0123456789abcdef".to_owned()),
            tenant_binding: None,
            additional_headers: BTreeMap::from([("x-plan".to_owned(), "gold".to_owned())]),
            expires_at: 900,
            issued_at: 0,
            key_id: "ak_x".to_owned(),
            jti: "1".to_owned(),
            scopes: Some(vec!["read".to_owned()]),
        }
        .bound()
    }

    #[test]
    fn what_was_sealed_is_opened_and_by_no_other_key() {
        let key = SealingKey::new(&Secret::new([1; 32])).unwrap();
        let token = key.seal(&claims()).unwrap();
        assert!(token.expose().starts_with(HEADER));
        assert_eq!(key.open(token.expose()), Some(claims()));
        assert_eq!(SealingKey::new(&Secret::new([2; 32])).unwrap().open(token.expose()), None);
        let mut bytes = token.expose().clone().into_bytes();
        for position in HEADER.len()..bytes.len() {
            bytes[position] ^= 1;
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert_eq!(key.open(&text), None, "byte {position}");
            bytes[position] ^= 1;
        }
    }

    #[test]
    fn a_tenant_of_another_key_is_not_believed() {
        let key = SealingKey::new(&Secret::new([1; 32])).unwrap();
        let moved = Claims { key_id: "ak_y".to_owned(), ..claims() };
        assert_eq!(key.open(key.seal(&moved).unwrap().expose()), None);
        let unbound = Claims { tenant_binding: None, ..claims() };
        assert_eq!(key.open(key.seal(&unbound).unwrap().expose()), None);
    }

    #[test]
    fn a_kept_text_is_opened_for_its_purpose_and_is_no_token() {
        let key = SealingKey::new(&Secret::new([1; 32])).unwrap();
        let sealed = key.seal_text("tls 7/42", &Secret::new("-----BEGIN".to_owned())).unwrap();
        assert!(!sealed.contains("BEGIN"));
        assert_eq!(key.open_text("tls 7/42", &sealed).unwrap().expose(), "-----BEGIN");
        assert_eq!(key.open_text("tls 7/43", &sealed), None);
        assert_eq!(key.open(&sealed), None);
        let token = key.seal(&claims()).unwrap();
        assert_eq!(key.open_text("tls 7/42", token.expose()), None);
    }

    #[test]
    fn what_is_too_long_or_no_token_is_not_opened() {
        let key = SealingKey::new(&Secret::new([1; 32])).unwrap();
        for text in ["", "v4.local.", "v4.public.AAAA", &format!("{HEADER}{}", "A".repeat(MAX_TOKEN))] {
            assert_eq!(key.open(text), None);
        }
    }
}
