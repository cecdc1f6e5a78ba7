//! What services can check for themselves: a signed statement of who calls, for one service, for 60 s.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blueprint_common_types::{Secret, Timestamp};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::seal::{SealForm, SealKey, key_name};
use crate::decide::Admission;

/// Life of a statement.
const IDENTITY_LIFE: Duration = Duration::from_secs(60);

/// Signs statements: JWTs with Ed25519 (RFC 8037).
pub struct IdentitySigner {
    key: Ed25519KeyPair,
    name: String,
    issuer: String,
}

impl fmt::Debug for IdentitySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentitySigner").field("name", &self.name).finish_non_exhaustive()
    }
}

impl IdentitySigner {
    /// Makes the signer of a hub that calls itself `issuer`.
    #[must_use]
    pub fn new(seed: &Secret<[u8; 32]>, issuer: &str) -> Option<Self> {
        let key = Ed25519KeyPair::from_seed_unchecked(seed.expose()).ok()?;
        let name = key_name(key.public_key().as_ref());
        Some(Self { key, name, issuer: issuer.to_owned() })
    }

    /// The public key as a JWK set (RFC 7517).
    #[must_use]
    pub fn jwk_set(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key());
        let key = json!({
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.name, "x": x,
        });
        json!({ "keys": [key] }).to_string()
    }

    /// The public key by which [`Self::seal`]ed documents are checked.
    #[must_use]
    pub fn seal_key(&self) -> SealKey {
        let bytes = self.key.public_key().as_ref();
        SealKey::from_bytes(bytes.try_into().unwrap_or_default())
    }

    /// A document with its signature in a last line; `body` ends with a line feed.
    #[must_use]
    pub fn seal(&self, body: &str, form: SealForm) -> String {
        let line = form.line(&self.name, self.key.sign(body.as_bytes()).as_ref());
        format!("{body}{line}")
    }

    /// States who calls; `aud` is the service as `BLUEPRINT/SERVICE`, `cert` what a client certificate says.
    #[must_use]
    pub fn sign(&self, admission: &Admission, now: Timestamp) -> String {
        let identity = admission.identity();
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.name });
        let mut claims = json!({
            "iss": self.issuer,
            "sub": identity.tenant_id(),
            "aud": admission.service().to_string(),
            "iat": now.as_secs(),
            "exp": now.plus(IDENTITY_LIFE).as_secs(),
            "auth_method": identity.method().name(),
            "credential": identity.id(),
            "name": identity.tenant_name(),
            "scope": identity.scopes().join(" "),
        });
        if let (Some(claims), Some(certificate)) = (claims.as_object_mut(), identity.certificate()) {
            let facts = certificate.facts();
            let shown = json!({
                "subject": facts.subject, "issuer": facts.issuer, "serial": facts.serial.as_str(),
            });
            claims.insert("cert".to_owned(), shown);
        }
        let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.key.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
