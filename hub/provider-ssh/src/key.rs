//! By what a host is known: its public key, or the fingerprint of it.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

/// Kinds of keys that a host may have, and the signatures that are asked of it then.
const KINDS: [(&str, &str); 5] = [
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
    ("ssh-rsa", "rsa-sha2-512,rsa-sha2-256"),
];

/// Longest key in characters of base64: RSA of 16384 bits has less.
const MAX_KEY: usize = 4096;

/// A text does not say by what a host is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    /// Neither a key nor a fingerprint.
    #[error("is no key of a host: `ssh-ed25519 AAAA...`, or its fingerprint `SHA256:...`, was expected")]
    Shape,
    /// A kind of key that is not used.
    #[error("is a key of kind {0:?}; ssh-ed25519, ecdsa-sha2-nistp256, -384, -521 or ssh-rsa was expected")]
    Kind(String),
    /// A private key.
    #[error("is a private key; the public one of the host was expected")]
    Private,
}

/// The public key of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    kind: &'static str,
    algorithms: &'static str,
    /// As OpenSSH writes it.
    text: String,
    fingerprint: String,
}

impl HostKey {
    /// Kind of key, such as `ssh-ed25519`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        self.kind
    }

    /// Signatures that a host with this key may give.
    pub(crate) const fn algorithms(&self) -> &'static str {
        self.algorithms
    }

    /// `SHA256:` and the digest, as `ssh-keygen -l` shows it.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.text)
    }
}

impl FromStr for HostKey {
    type Err = ParseKeyError;

    fn from_str(line: &str) -> Result<Self, ParseKeyError> {
        if line.contains("PRIVATE KEY") {
            return Err(ParseKeyError::Private);
        }
        let mut words = line.split_whitespace();
        let (Some(kind), Some(text)) = (words.next(), words.next()) else { return Err(ParseKeyError::Shape) };
        let Some((kind, algorithms)) = KINDS.into_iter().find(|(name, _)| *name == kind) else {
            return Err(ParseKeyError::Kind(kind.chars().take(40).collect()));
        };
        let bytes = Some(text).filter(|text| text.len() <= MAX_KEY).and_then(|it| STANDARD.decode(it).ok());
        let bytes = bytes.ok_or(ParseKeyError::Shape)?;
        // The key repeats its kind, behind four bytes of length (RFC 4253, 6.6).
        let own = u32::try_from(kind.len()).unwrap_or_default().to_be_bytes();
        let named = bytes.strip_prefix(&own).and_then(|rest| rest.strip_prefix(kind.as_bytes()));
        if named.is_none_or(<[u8]>::is_empty) {
            return Err(ParseKeyError::Shape);
        }
        let fingerprint = format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&bytes)));
        Ok(Self { kind, algorithms, text: text.to_owned(), fingerprint })
    }
}

/// What the operator wrote down of a host's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// The key itself.
    Key(HostKey),
    /// Its fingerprint: the key is asked for, and compared, before each first connection.
    Fingerprint(String),
}

impl Pin {
    /// Whether `key` is the one that is meant.
    #[must_use]
    pub fn is_of(&self, key: &HostKey) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Fingerprint(own) => own == key.fingerprint(),
        }
    }

    /// The fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        match self {
            Self::Key(key) => key.fingerprint(),
            Self::Fingerprint(text) => text,
        }
    }
}

impl FromStr for Pin {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let text = text.trim();
        let Some(digest) = text.strip_prefix("SHA256:") else { return text.parse().map(Self::Key) };
        let digest = digest.trim_end_matches('=');
        let is_digest = STANDARD_NO_PAD.decode(digest).is_ok_and(|bytes| bytes.len() == 32);
        if is_digest { Ok(Self::Fingerprint(format!("SHA256:{digest}"))) } else { Err(ParseKeyError::Shape) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A key, and what `ssh-keygen -l` says of it.
    pub(crate) const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    #[test]
    fn a_key_and_its_fingerprint_mean_the_same_host() {
        let key: HostKey = format!("{KEY} root@rack-1").parse().unwrap();
        assert_eq!(key.to_string(), KEY);
        assert!(key.fingerprint().starts_with("SHA256:") && key.fingerprint().len() == 50, "{key:?}");
        let pins = [key.fingerprint().to_owned(), format!("{}=", key.fingerprint()), KEY.to_owned()];
        for pin in pins {
            let pin: Pin = pin.parse().unwrap();
            assert!(pin.is_of(&key));
            assert_eq!(pin.fingerprint(), key.fingerprint());
        }
    }

    #[test]
    fn what_is_no_key_says_what_was_expected() {
        for wrong in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "SHA256:abc", "MD5:00:11", "ssh-ed25519 %%%%"] {
            assert!(wrong.parse::<Pin>().is_err(), "{wrong}");
        }
        // The bytes are those of another kind than the line says.
        let other = KEY.replacen("ssh-ed25519", "ssh-rsa", 1);
        assert_eq!(other.parse::<Pin>(), Err(ParseKeyError::Shape));
        assert_eq!("ssh-dss AAAA".parse::<Pin>(), Err(ParseKeyError::Kind("ssh-dss".to_owned())));
        assert_eq!("-----BEGIN OPENSSH PRIVATE KEY-----".parse::<Pin>(), Err(ParseKeyError::Private));
    }
}
