//! Documents that carry the hub's signature in their last line.
//!
//! ```text
//! text   signature EdDSA KID BASE64
//! CSV    signature,EdDSA,KID,BASE64
//! JSON   "signature": {"alg": "EdDSA", "kid": "KID", "value": "BASE64"}}
//! ```
//!
//! Signed are all bytes before that line, its line feed before it included, as they are (Ed25519, RFC 8032). So
//! `head -n -1` gives what is signed, whatever the form. Such a document begins with a word that no JWT begins with.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Beginning of the DER of an Ed25519 public key (RFC 8410), before its 32 bytes.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// How the last line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealForm {
    /// Text for people.
    Text,
    /// CSV.
    Csv,
    /// JSON: the last field of an object whose brace is not closed yet.
    Json,
}

/// Why a document is not what the hub signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It has no signature of a known form in its last line.
    #[error("the last line is no signature")]
    NoSignature,
    /// It was signed with another key.
    #[error("it is signed with the key {found}, and the key given is {given}")]
    OtherKey {
        /// Name of the key that signed.
        found: String,
        /// Name of the key that was given.
        given: String,
    },
    /// Signature and document do not belong together.
    #[error("the signature does not belong to this document: it was changed")]
    Changed,
}

/// A text holds no public key of a hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no Ed25519 public key was found: a PEM file or the hub's JWK set was expected")]
pub struct ParseSealKeyError;

/// The public key of a hub, by which its documents are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealKey([u8; 32]);

/// Name of a key: 8 bytes of its hash.
pub(super) fn key_name(public: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(public).get(..8).unwrap_or_default())
}

impl SealForm {
    /// The last line, its line feed included.
    pub(super) fn line(self, name: &str, signature: &[u8]) -> String {
        let value = STANDARD.encode(signature);
        let (before, between, after) = self.parts();
        format!("{before}{name}{between}{value}{after}\n")
    }

    /// What stands before the key's name, before the value, and behind it.
    const fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Text => ("signature EdDSA ", " ", ""),
            Self::Csv => ("signature,EdDSA,", ",", ""),
            Self::Json => ("\"signature\": {\"alg\": \"EdDSA\", \"kid\": \"", "\", \"value\": \"", "\"}}"),
        }
    }

    /// Reads the last line: the key's name and the signature.
    fn read(self, line: &str) -> Option<(&str, Vec<u8>)> {
        let (before, between, after) = self.parts();
        let (name, value) = line.strip_prefix(before)?.strip_suffix(after)?.split_once(between)?;
        // Whatever else would decode to the same bytes is no signature of ours.
        let signature = STANDARD.decode(value).ok().filter(|bytes| STANDARD.encode(bytes) == value)?;
        Some((name, signature))
    }
}

impl SealKey {
    /// From 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a PEM file, or a JWK set of which the first Ed25519 key is taken.
    ///
    /// # Errors
    ///
    /// [`ParseSealKeyError`] where there is none.
    pub fn parse(text: &str) -> Result<Self, ParseSealKeyError> {
        let bytes = Self::from_pem(text).or_else(|| Self::from_jwks(text));
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(ParseSealKeyError)
    }

    fn from_pem(text: &str) -> Option<Vec<u8>> {
        let body = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----")?;
        let body: String = body.strip_suffix("-----END PUBLIC KEY-----")?.split_whitespace().collect();
        STANDARD.decode(body).ok()?.strip_prefix(SPKI_PREFIX.as_slice()).map(<[u8]>::to_vec)
    }

    fn from_jwks(text: &str) -> Option<Vec<u8>> {
        let set: Value = serde_json::from_str(text).ok()?;
        let is_ours = |key: &&Value| key.get("crv").and_then(Value::as_str) == Some("Ed25519");
        let key = set.get("keys")?.as_array()?.iter().find(is_ours)?;
        URL_SAFE_NO_PAD.decode(key.get("x")?.as_str()?).ok()
    }

    /// The key as PEM (RFC 8410).
    #[must_use]
    pub fn pem(&self) -> String {
        let der = [SPKI_PREFIX.as_slice(), self.0.as_slice()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    /// Name of the key.
    #[must_use]
    pub fn name(&self) -> String {
        key_name(&self.0)
    }

    /// Checks a document, and gives what of it is signed.
    ///
    /// # Errors
    ///
    /// [`SealError`] says why it is not what the hub signed.
    pub fn open<'d>(&self, document: &'d [u8]) -> Result<&'d [u8], SealError> {
        let ended = document.strip_suffix(b"\n").ok_or(SealError::NoSignature)?;
        let cut = ended.iter().rposition(|byte| *byte == b'\n').ok_or(SealError::NoSignature)?;
        let (signed, line) = document.split_at_checked(cut + 1).ok_or(SealError::NoSignature)?;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| SealError::NoSignature)?;
        let forms = [SealForm::Text, SealForm::Csv, SealForm::Json];
        let (name, signature) =
            forms.iter().find_map(|form| form.read(line)).ok_or(SealError::NoSignature)?;
        if name != self.name() {
            return Err(SealError::OtherKey {
                found: name.chars().filter(char::is_ascii_graphic).take(32).collect(),
                given: self.name(),
            });
        }
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        key.verify(signed, &signature).map_err(|_| SealError::Changed)?;
        Ok(signed)
    }
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Secret;

    use super::*;
    use crate::identity::IdentitySigner;

    const BODIES: [(SealForm, &str); 3] = [
        (SealForm::Text, "blueprint-hub report\n\nup 99.9\n"),
        (SealForm::Csv, "day,up\n2026-10-01,99.9\n"),
        (SealForm::Json, "{\n\"report\": {\"up\": 99.9},\n"),
    ];

    fn signer(seed: u8) -> IdentitySigner {
        IdentitySigner::new(&Secret::new([seed; 32]), "hub").unwrap()
    }

    #[test]
    fn a_document_is_opened_by_its_hubs_key_in_every_form_and_json_stays_json() {
        let signer = signer(1);
        for (form, body) in BODIES {
            let sealed = signer.seal(body, form);
            assert_eq!(signer.seal_key().open(sealed.as_bytes()).unwrap(), body.as_bytes());
            if form == SealForm::Json {
                let value: Value = serde_json::from_str(&sealed).unwrap();
                assert_eq!(value.pointer("/report/up"), Some(&serde_json::json!(99.9)));
            }
        }
    }

    #[test]
    fn a_changed_byte_at_any_place_is_seen() {
        let signer = signer(1);
        let key = signer.seal_key();
        for (form, body) in BODIES {
            let sealed = signer.seal(body, form).into_bytes();
            for at in 0..sealed.len() {
                for bit in 0..8 {
                    let mut changed = sealed.clone();
                    changed[at] ^= 1 << bit;
                    assert!(key.open(&changed).is_err(), "{form:?}: byte {at}, bit {bit}");
                }
                let (mut shorter, mut longer) = (sealed.clone(), sealed.clone());
                shorter.remove(at);
                longer.insert(at, b' ');
                assert!(key.open(&shorter).is_err() && key.open(&longer).is_err(), "{form:?}: byte {at}");
            }
            let mut more = sealed.clone();
            more.push(b'\n');
            assert!(key.open(&more).is_err());
        }
    }

    #[test]
    fn another_hubs_key_opens_nothing_and_says_so() {
        let sealed = signer(1).seal(BODIES[0].1, SealForm::Text);
        let error = signer(2).seal_key().open(sealed.as_bytes()).unwrap_err();
        assert!(matches!(&error, SealError::OtherKey { given, .. } if *given == signer(2).seal_key().name()));
    }

    #[test]
    fn a_key_is_read_from_pem_and_from_the_published_set() {
        let signer = signer(1);
        let key = signer.seal_key();
        assert_eq!(SealKey::parse(&key.pem()), Ok(key));
        assert_eq!(SealKey::parse(&signer.jwk_set()), Ok(key));
        for bad in ["", "{}", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"] {
            assert_eq!(SealKey::parse(bad), Err(ParseSealKeyError), "{bad}");
        }
    }
}
