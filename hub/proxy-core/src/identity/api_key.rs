//! API keys: what an owner gets for a signature, and shows for up to 90 days.
//!
//! Text form `<prefix><8 bytes>.<24 bytes>`, both in URL-safe base64: the part before the dot names
//! the key and may be logged, the whole is the secret and only its hash is stored.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blueprint_common_types::{Secret, ServiceKey, Timestamp};
use sha2::{Digest, Sha256};

use crate::refusal::Refusal;

/// Prefix of the keys of a service that asks for none of its own.
pub(crate) const DEFAULT_PREFIX: &str = "ak_";

/// Longest prefix, in bytes.
pub(crate) const MAX_PREFIX: usize = 32;

/// Characters of the random part of an id: 8 bytes in base64.
const ID_CHARS: usize = 11;

/// Bytes of a key's secret part.
const SECRET_BYTES: usize = 24;

/// Public part of an API key: names it in lists, logs and tokens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Box<str>);

impl KeyId {
    /// Reads an id as it was stored or logged.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (prefix, random) = text.split_at_checked(text.len().checked_sub(ID_CHARS)?)?;
        let is_random = URL_SAFE_NO_PAD.decode(random).is_ok_and(|bytes| bytes.len() == 8);
        (is_prefix(prefix) && is_random).then(|| Self(text.into()))
    }

    /// What the key starts with, before anything random.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.0.len().checked_sub(ID_CHARS).and_then(|length| self.0.get(..length)).unwrap_or_default()
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SHA-256 of a whole API key. A secret of 192 random bits needs no slow hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Takes a stored hash.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash, for the store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Whether `text` may stand in front of a key: letters, digits, `-` and `_`, nothing that ends the id.
#[must_use]
pub(crate) fn is_prefix(text: &str) -> bool {
    text.len() <= MAX_PREFIX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// A fresh API key, whole; shown once.
#[derive(Debug)]
pub struct NewApiKey {
    /// Its public part.
    pub id: KeyId,
    /// What the store keeps of it.
    pub hash: KeyHash,
    /// All of it.
    pub text: Secret<String>,
}

impl NewApiKey {
    /// Makes a random key behind `prefix`.
    ///
    /// # Errors
    ///
    /// Fails where the prefix is none (letters, digits, `-` and `_` make one) or the system has no source of randomness.
    pub fn random(prefix: &str) -> io::Result<Self> {
        if !is_prefix(prefix) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a prefix of API keys"));
        }
        let mut id = [0u8; 8];
        let mut secret = Secret::new([0u8; SECRET_BYTES]);
        blueprint_common_types::fill_random(&mut id)?;
        let mut bytes = *secret.expose();
        blueprint_common_types::fill_random(&mut bytes)?;
        secret = Secret::new(bytes);
        let id = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(id));
        let text = Secret::new(format!("{id}.{}", URL_SAFE_NO_PAD.encode(secret.expose())));
        Ok(Self { id: KeyId(id.into()), hash: hash(text.expose()), text })
    }
}

/// Reads what a client shows as an API key; `None` for what cannot be one.
pub(crate) fn parse(text: &str) -> Option<(KeyId, KeyHash)> {
    let (id, secret) = text.split_once('.')?;
    let is_secret = URL_SAFE_NO_PAD.decode(secret).is_ok_and(|bytes| bytes.len() == SECRET_BYTES);
    if is_secret { Some((KeyId::parse(id)?, hash(text))) } else { None }
}

fn hash(text: &str) -> KeyHash {
    KeyHash(Sha256::digest(text).into())
}

/// One API key as the proxy has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGrant {
    /// Hash of the whole key.
    pub hash: KeyHash,
    /// The one service that it opens.
    pub service: ServiceKey,
    /// Who got it: the text of an [`OwnerKey`](super::OwnerKey).
    pub owner: String,
    /// Headers that go with every request of this key, in their stored form.
    pub headers: BTreeMap<String, String>,
    /// End of its life.
    pub expires_at: Timestamp,
    /// Whether it was taken back.
    pub is_revoked: bool,
}

/// All API keys, by their public part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyTable {
    keys: BTreeMap<KeyId, KeyGrant>,
}

impl KeyTable {
    /// Builds the table; of two keys with one id the later stays.
    pub fn new(keys: impl IntoIterator<Item = (KeyId, KeyGrant)>) -> Self {
        Self { keys: keys.into_iter().collect() }
    }

    /// How many keys there are, live or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Finds the live key that was shown; only who has the secret learns that it ended.
    pub(crate) fn authenticate(
        &self,
        id: &KeyId,
        hash: &KeyHash,
        now: Timestamp,
    ) -> Result<&KeyGrant, Refusal> {
        let grant = self.keys.get(id).ok_or(Refusal::InvalidToken)?;
        // `Secret` compares in constant time.
        if Secret::new(*grant.hash.as_bytes()) != Secret::new(*hash.as_bytes()) {
            return Err(Refusal::InvalidToken);
        }
        grant.check_life(now)?;
        Ok(grant)
    }

    /// The live key that a token was made from.
    pub(crate) fn live(&self, id: &KeyId, now: Timestamp) -> Result<&KeyGrant, Refusal> {
        let grant = self.keys.get(id).ok_or(Refusal::RevokedToken)?;
        grant.check_life(now)?;
        Ok(grant)
    }
}

impl KeyGrant {
    fn check_life(&self, now: Timestamp) -> Result<(), Refusal> {
        if self.is_revoked {
            return Err(Refusal::RevokedToken);
        }
        if self.expires_at <= now { Err(Refusal::ExpiredToken { at: self.expires_at }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    fn grant(key: &NewApiKey) -> KeyGrant {
        KeyGrant {
            hash: key.hash,
            service: SERVICE,
            owner: String::new(),
            headers: BTreeMap::new(),
            expires_at: Timestamp::from_millis(10_000),
            is_revoked: false,
        }
    }

    #[test]
    fn a_key_is_read_as_it_was_made() {
        for prefix in ["ak_", "test_", "", "my-svc_"] {
            let key = NewApiKey::random(prefix).unwrap();
            assert_eq!(parse(key.text.expose()), Some((key.id.clone(), key.hash)), "{prefix:?}");
            assert_eq!(key.id.prefix(), prefix);
            assert_eq!(KeyId::parse(key.id.as_str()), Some(key.id));
        }
        assert!(NewApiKey::random("v4.local.").is_err());
        assert!(NewApiKey::random(&"a".repeat(33)).is_err());
    }

    #[test]
    fn what_is_no_key_is_not_read() {
        let key = NewApiKey::random("ak_").unwrap();
        let text = key.text.expose();
        for wrong in [
            "".to_owned(),
            ".".to_owned(),
            "ak_.".to_owned(),
            format!("{text}A"),
            format!("{text}."),
            format!("{text}.x"),
            format!("é{text}"),
            format!(" {text}"),
            text.trim_end_matches(|_| true).to_owned(),
            text.replace('.', "|"),
        ] {
            assert_eq!(parse(&wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn only_the_right_secret_learns_how_a_key_ended() {
        let now = Timestamp::from_millis(5_000);
        let key = NewApiKey::random("ak_").unwrap();
        let other = NewApiKey::random("ak_").unwrap();
        let table = |grant| KeyTable::new([(key.id.clone(), grant)]);
        assert!(table(grant(&key)).authenticate(&key.id, &key.hash, now).is_ok());
        let revoked = table(KeyGrant { is_revoked: true, ..grant(&key) });
        assert_eq!(revoked.authenticate(&key.id, &key.hash, now), Err(Refusal::RevokedToken));
        assert_eq!(revoked.authenticate(&key.id, &other.hash, now), Err(Refusal::InvalidToken));
        assert_eq!(revoked.authenticate(&other.id, &other.hash, now), Err(Refusal::InvalidToken));
        let end = Timestamp::from_millis(10_000);
        assert_eq!(
            table(grant(&key)).authenticate(&key.id, &key.hash, end),
            Err(Refusal::ExpiredToken { at: end })
        );
    }
}
