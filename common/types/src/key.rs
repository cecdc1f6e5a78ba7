//! WireGuard keys.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Secret;

/// A text is not a WireGuard key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a WireGuard key: 32 bytes in base64, 44 characters, were expected")]
pub struct ParseKeyError;

/// A peer's static X25519 public key: what a peer *is* in the tunnel. Text form base64, as `wg` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WgPublicKey([u8; 32]);

impl WgPublicKey {
    /// Takes the key as it is.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// First 8 characters, for logs.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl fmt::Display for WgPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for WgPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.short())
    }
}

impl FromStr for WgPublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        decode(text).map(Self)
    }
}

/// The private half of a [`WgPublicKey`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WgPrivateKey(Secret<[u8; 32]>);

impl WgPrivateKey {
    /// Takes the key as it is.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    /// Makes a random one.
    ///
    /// # Errors
    ///
    /// Fails only where the system has no source of randomness.
    pub fn random() -> Result<Self, std::io::Error> {
        let mut bytes = [0u8; 32];
        crate::fill_random(&mut bytes)?;
        Ok(Self::from_bytes(bytes))
    }

    /// The key, for the handshake.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> WgPublicKey {
        let secret = x25519_dalek::StaticSecret::from(*self.0.expose());
        WgPublicKey::from_bytes(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// The key in base64, for a file of mode 0600.
    #[must_use]
    pub fn expose_text(&self) -> Secret<String> {
        Secret::new(STANDARD.encode(self.0.expose()))
    }
}

impl FromStr for WgPrivateKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        decode(text).map(Self::from_bytes)
    }
}

fn decode(text: &str) -> Result<[u8; 32], ParseKeyError> {
    let bytes = STANDARD.decode(text.trim()).map_err(|_| ParseKeyError)?;
    bytes.try_into().map_err(|_| ParseKeyError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_half_is_the_one_that_wg_pubkey_prints() {
        let private: WgPrivateKey = "wHioGePToEVU3PNSPRF8lM70dcqnFuib6imbqhtRW2c=".parse().unwrap();
        assert_eq!(private.public_key().to_string(), "kogSQgnwwcCd8Sz2y5EMnP7ixxpOsXT7KPl4zOl32V8=");
    }

    #[test]
    fn a_key_survives_its_text_form() {
        let key = WgPrivateKey::random().unwrap();
        assert_eq!(key.expose_text().expose().parse(), Ok(key.clone()));
        assert_eq!(key.public_key().to_string().parse(), Ok(key.public_key()));
        assert!("short".parse::<WgPublicKey>().is_err());
    }
}
