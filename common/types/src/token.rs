//! Tokens: secrets of 256 bits that are shown once and stored as a hash.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::Secret;

/// A text is not a token of the kind expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseTokenError {
    /// Wrong prefix.
    #[error("a token that starts with {expected:?} was expected")]
    Prefix {
        /// The prefix of this kind of token.
        expected: &'static str,
    },
    /// Damaged, most often cut off when copied.
    #[error("the token is damaged or cut off; copy it again as a whole")]
    Damaged,
}

/// Public half of a token: names its row in the store and may be logged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 8]);

impl TokenId {
    /// Takes the 64 bits as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One write of all digits: it is told with every request.
        let mut digits = [0u8; 16];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
        f.write_str(std::str::from_utf8(&digits).unwrap_or_default())
    }
}

const fn hex_digit(value: u8) -> u8 {
    if value < 10 { b'0'.wrapping_add(value) } else { b'a'.wrapping_add(value).wrapping_sub(10) }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for TokenId {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let mut bytes = [0u8; 8];
        let mut digits =
            text.bytes().map(|digit| char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok()));
        for byte in &mut bytes {
            let high = digits.next().flatten().ok_or(ParseTokenError::Damaged)?;
            let low = digits.next().flatten().ok_or(ParseTokenError::Damaged)?;
            *byte = (high << 4) | low;
        }
        if digits.next().is_some() { Err(ParseTokenError::Damaged) } else { Ok(Self(bytes)) }
    }
}

/// SHA-256 of a token's secret. A secret of 256 random bits needs no slow hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
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

    /// The right to fetch the agent's program for as long as the token may be used, as text for an address. It tells nothing
    /// of the token.
    #[must_use]
    pub fn ticket(&self) -> Secret<String> {
        let digest =
            Sha256::new().chain_update(b"blueprint-hub agent download\0").chain_update(self.0).finalize();
        Secret::new(URL_SAFE_NO_PAD.encode(digest))
    }

    /// True for the text of [`Self::ticket`]. How long it takes tells nothing of that.
    #[must_use]
    pub fn is_ticket(&self, text: &str) -> bool {
        Sha256::digest(text) == Sha256::digest(self.ticket().expose())
    }
}

macro_rules! token_type {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            id: TokenId,
            secret: Secret<[u8; 32]>,
        }

        impl $name {
            /// Makes a new random one.
            ///
            /// # Errors
            ///
            /// Fails only where the system has no source of randomness.
            pub fn random() -> Result<Self, std::io::Error> {
                let (mut id, mut secret) = ([0u8; 8], [0u8; 32]);
                crate::fill_random(&mut id)?;
                crate::fill_random(&mut secret)?;
                Ok(Self { id: TokenId(id), secret: Secret::new(secret) })
            }

            /// Public half.
            #[must_use]
            pub const fn id(&self) -> TokenId {
                self.id
            }

            /// What the store keeps of the secret half.
            #[must_use]
            pub fn hash(&self) -> TokenHash {
                TokenHash(Sha256::digest(self.secret.expose()).into())
            }

            /// The whole token as text, to be shown once or sent to the hub.
            #[must_use]
            pub fn expose_text(&self) -> Secret<String> {
                Secret::new(format!("{}{}_{}", $prefix, self.id, URL_SAFE_NO_PAD.encode(self.secret.expose())))
            }
        }

        impl FromStr for $name {
            type Err = ParseTokenError;

            fn from_str(text: &str) -> Result<Self, ParseTokenError> {
                let rest = text.strip_prefix($prefix).ok_or(ParseTokenError::Prefix { expected: $prefix })?;
                let (id, secret) = rest.split_once('_').ok_or(ParseTokenError::Damaged)?;
                // The decoder asks for a byte more than 32 take; wiped, as the secret is.
                let mut bytes = Zeroizing::new([0u8; 33]);
                let count = URL_SAFE_NO_PAD.decode_slice(secret, bytes.as_mut_slice());
                let (decoded, _) = bytes.split_first_chunk().ok_or(ParseTokenError::Damaged)?;
                match count {
                    Ok(32) => Ok(Self { id: id.parse()?, secret: Secret::new(*decoded) }),
                    Ok(_) | Err(_) => Err(ParseTokenError::Damaged),
                }
            }
        }
    };
}

token_type! {
    /// Lets one machine become a spoke. Text form `bpj_<id>_<secret>`.
    JoinToken, "bpj_"
}
token_type! {
    /// Lets a client call services through the proxy. Text form `bpa_<id>_<secret>`.
    AccessToken, "bpa_"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_form_and_prints_nothing() {
        let token = JoinToken::random().unwrap();
        let text = token.expose_text();
        let again: JoinToken = text.expose().parse().unwrap();
        assert_eq!(again, token);
        assert_eq!(again.hash(), token.hash());
        // It may have '_' in it.
        let secret = text.expose().splitn(3, '_').nth(2).unwrap().to_owned();
        assert!(!format!("{token:?}").contains(&secret));
    }

    #[test]
    fn a_ticket_is_of_one_token_and_is_not_its_secret() {
        let [one, other] = [(); 2].map(|()| JoinToken::random().unwrap());
        let ticket = one.hash().ticket();
        assert!(one.hash().is_ticket(ticket.expose()));
        assert!(!other.hash().is_ticket(ticket.expose()));
        assert!(!one.hash().is_ticket(""));
        assert!(!one.expose_text().expose().contains(ticket.expose().as_str()));
    }

    #[test]
    fn damage_and_the_wrong_kind_are_told_apart() {
        let token = AccessToken::random().unwrap();
        let text = token.expose_text();
        let cut = text.expose().get(..text.expose().len() - 3).unwrap();
        assert_eq!(cut.parse::<AccessToken>(), Err(ParseTokenError::Damaged));
        assert_eq!(text.expose().parse::<JoinToken>(), Err(ParseTokenError::Prefix { expected: "bpj_" }));
    }
}
