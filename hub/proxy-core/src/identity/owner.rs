//! Owner keys of services, and what their signatures are worth.
//!
//! Three kinds of keys, as the existing Blueprint clients use them:
//!
//! | kind | key | signature over a raw challenge |
//! |---|---|---|
//! | `Ecdsa` | secp256k1 point, SEC1 | 64 bytes over the challenge as the hash itself |
//! | `Sr25519` | 32 bytes | 64 bytes, signing context `substrate` |
//! | `Bn254Bls` | compressed G2 point, 64 bytes | compressed G1 point, 32 bytes |

use std::fmt;
use std::str::FromStr;

use k256::ecdsa::signature::hazmat::PrehashVerifier;
use k256::ecdsa::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha3::{Digest, Keccak256};

use super::bls;
use super::hex;

/// Signing context of sr25519 challenges.
const SR25519_CONTEXT: &[u8] = b"substrate";

/// Family of an owner's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyKind {
    /// ECDSA over secp256k1.
    Ecdsa,
    /// Schnorr signatures over Ristretto255.
    Sr25519,
    /// BLS signatures over BN254.
    Bn254Bls,
}

impl KeyKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Ecdsa => "ecdsa",
            Self::Sr25519 => "sr25519",
            Self::Bn254Bls => "bn254bls",
        }
    }
}

/// A text or some bytes are not the key of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OwnerKeyError {
    /// Not `KIND:HEX`.
    #[error("an owner key is written as ecdsa:HEX, sr25519:HEX or bn254bls:HEX")]
    Text,
    /// The bytes are no point of the curve that the kind stands for.
    #[error("these bytes are no {} public key", kind.name())]
    Bytes {
        /// The kind that was claimed.
        kind: KeyKind,
    },
}

/// The public key of somebody who may use a service. Text form: `ecdsa:02ab..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerKey {
    kind: KeyKind,
    bytes: Vec<u8>,
}

/// What an owner signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed<'a> {
    /// The 32 random bytes themselves, as the existing Blueprint clients do.
    Raw(&'a [u8; 32]),
    /// A text that names its purpose, as wallets show it before they sign.
    Text(&'a str),
}

impl OwnerKey {
    /// Reads a public key; the two forms of an ECDSA key are one key afterwards.
    ///
    /// # Errors
    ///
    /// Fails where the bytes are no point of that curve, or its neutral element.
    pub fn new(kind: KeyKind, bytes: &[u8]) -> Result<Self, OwnerKeyError> {
        let wrong = OwnerKeyError::Bytes { kind };
        let bytes = match kind {
            KeyKind::Ecdsa => {
                let key = VerifyingKey::from_sec1_bytes(bytes).map_err(|_| wrong)?;
                key.to_encoded_point(true).as_bytes().to_vec()
            }
            KeyKind::Sr25519 => {
                let key = schnorrkel::PublicKey::from_bytes(bytes).map_err(|_| wrong)?;
                if key == schnorrkel::PublicKey::default() {
                    return Err(wrong);
                }
                bytes.to_vec()
            }
            KeyKind::Bn254Bls => {
                let _: ark_bn254::G2Affine = bls::public_key(bytes).ok_or(wrong)?;
                bytes.to_vec()
            }
        };
        Ok(Self { kind, bytes })
    }

    /// Family of the key.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The key in its one form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether `signature` is this owner's over `message`.
    #[must_use]
    pub fn verifies(&self, message: Signed<'_>, signature: &[u8]) -> bool {
        match self.kind {
            KeyKind::Ecdsa => self.verifies_ecdsa(message, signature),
            KeyKind::Sr25519 => self.verifies_sr25519(message, signature),
            KeyKind::Bn254Bls => {
                let message = match message {
                    Signed::Raw(challenge) => &challenge[..],
                    Signed::Text(text) => text.as_bytes(),
                };
                bls::verifies(&self.bytes, message, signature)
            }
        }
    }

    /// 64 bytes, or 65 where a wallet adds the recovery id, which says nothing that is needed here.
    fn verifies_ecdsa(&self, message: Signed<'_>, signature: &[u8]) -> bool {
        let digest = match message {
            Signed::Raw(challenge) => *challenge,
            Signed::Text(text) => personal_digest(text),
        };
        let signature = match signature.split_at_checked(64) {
            Some((signature, [] | [_])) => Signature::from_slice(signature),
            Some(_) | None => return false,
        };
        let (Ok(signature), Ok(key)) = (signature, VerifyingKey::from_sec1_bytes(&self.bytes)) else {
            return false;
        };
        // Wallets differ in which of the two forms of a signature they give; either is used only once.
        key.verify_prehash(&digest, &signature.normalize_s().unwrap_or(signature)).is_ok()
    }

    fn verifies_sr25519(&self, message: Signed<'_>, signature: &[u8]) -> bool {
        let context = schnorrkel::signing_context(SR25519_CONTEXT);
        let transcript = match message {
            Signed::Raw(challenge) => context.bytes(challenge),
            // Wallets wrap texts so, lest a text be a transaction.
            Signed::Text(text) => context.bytes(format!("<Bytes>{text}</Bytes>").as_bytes()),
        };
        let (Ok(signature), Ok(key)) =
            (schnorrkel::Signature::from_bytes(signature), schnorrkel::PublicKey::from_bytes(&self.bytes))
        else {
            return false;
        };
        key.verify(transcript, &signature).is_ok()
    }
}

/// What `personal_sign` of Ethereum wallets hashes (ERC-191, version `0x45`).
fn personal_digest(text: &str) -> [u8; 32] {
    let mut hash = Keccak256::new();
    hash.update(format!("\u{19}Ethereum Signed Message:\n{}", text.len()));
    hash.update(text);
    hash.finalize().into()
}

impl fmt::Display for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), hex::encode(&self.bytes))
    }
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for OwnerKey {
    type Err = OwnerKeyError;

    fn from_str(text: &str) -> Result<Self, OwnerKeyError> {
        let (name, digits) = text.split_once(':').ok_or(OwnerKeyError::Text)?;
        let kind = [KeyKind::Ecdsa, KeyKind::Sr25519, KeyKind::Bn254Bls]
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(name))
            .ok_or(OwnerKeyError::Text)?;
        Self::new(kind, &hex::decode(digits).ok_or(OwnerKeyError::Text)?)
    }
}

impl Serialize for OwnerKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OwnerKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
