//! Public keys of those whose assertions are believed: RSA and P-256, from PEM or JWK.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// `rsaEncryption` (RFC 8017).
const OID_RSA: &str = "1.2.840.113549.1.1.1";
/// `id-ecPublicKey` (RFC 5480).
const OID_EC: &str = "1.2.840.10045.2.1";
/// Length of an uncompressed point of P-256.
const P256_POINT: usize = 65;
/// Shortest RSA modulus that is believed, in bytes.
const MIN_MODULUS: usize = 256;
/// Longest RSA modulus that is believed, in bytes.
const MAX_MODULUS: usize = 1024;

/// Longest RSA exponent that is believed, in bytes; ring takes 33 bits.
const MAX_EXPONENT: usize = 5;
/// Most entries of a JWK set.
const MAX_KEYS: usize = 32;
/// Longest JWK set, in bytes.
pub const MAX_JWK_SET: usize = 64 * 1024;
/// Longest name of a key, in bytes.
const MAX_NAME: usize = 256;

/// Why a public key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not PEM, or not what its label says.
    #[error("this is no PEM block 'PUBLIC KEY' or 'RSA PUBLIC KEY'")]
    Pem,
    /// Neither RSA from 2048 to 8192 bits nor P-256.
    #[error("only RSA keys of 2048 to 8192 bits and P-256 keys are supported")]
    Kind,
    /// Not JSON of the form that RFC 7517 has, or too much of it.
    #[error("this is no JWK set of at most {MAX_JWK_SET} bytes and {MAX_KEYS} keys")]
    Set,
}

/// A public key with the one algorithm that it is used with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    name: Option<String>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    /// Modulus and exponent, big-endian.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// Uncompressed point.
    P256(Vec<u8>),
}

/// The members of a JSON Web Key that are looked at.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

impl VerifyingKey {
    /// Reads a key in PEM: `PUBLIC KEY` (SPKI) or `RSA PUBLIC KEY` (PKCS #1).
    ///
    /// # Errors
    ///
    /// Fails where it cannot be read or is of another kind.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let (label, der) = pem(text).ok_or(KeyError::Pem)?;
        let material = match label {
            "PUBLIC KEY" => from_spki(&der)?,
            "RSA PUBLIC KEY" => from_pkcs1(&der)?,
            _ => return Err(KeyError::Pem),
        };
        Ok(Self { name: None, material })
    }

    /// Reads the keys of a JWK set (RFC 7517) that can sign assertions; others in it are passed over, so the list
    /// may be empty.
    ///
    /// # Errors
    ///
    /// Fails where it is no JWK set, longer than [`MAX_JWK_SET`], or has more than 32 keys of any kind.
    pub fn from_jwk_set(json: &[u8]) -> Result<Vec<Self>, KeyError> {
        if json.len() > MAX_JWK_SET {
            return Err(KeyError::Set);
        }
        let set: JwkSet = serde_json::from_slice(json).map_err(|_| KeyError::Set)?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeyError::Set);
        }
        Ok(set.keys.into_iter().filter_map(Self::from_jwk).collect())
    }

    fn from_jwk(value: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        if jwk.usage.is_some_and(|usage| usage != "sig")
            || jwk.key_ops.is_some_and(|uses| !uses.iter().any(|usage| usage == "verify"))
            || jwk.kid.as_ref().is_some_and(|name| name.len() > MAX_NAME)
        {
            return None;
        }
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let material = match (jwk.kty.as_str(), jwk.crv.as_str()) {
            ("RSA", _) => rsa(&decode(&jwk.n)?, &decode(&jwk.e)?).ok()?,
            ("EC", "P-256") => {
                let (x, y) = (decode(&jwk.x)?, decode(&jwk.y)?);
                point(&[&[4], &*x, &*y].concat()).ok().filter(|_| x.len() == y.len())?
            }
            _ => return None,
        };
        let key = Self { name: jwk.kid, material };
        jwk.alg.is_none_or(|alg| alg == key.algorithm()).then_some(key)
    }

    /// Name of the algorithm (RFC 7518).
    #[must_use]
    pub const fn algorithm(&self) -> &'static str {
        match self.material {
            Material::Rsa { .. } => "RS256",
            Material::P256(_) => "ES256",
        }
    }

    /// True for a key that has this name, and not for one without.
    #[must_use]
    pub fn is_named(&self, kid: &str) -> bool {
        self.name.as_deref() == Some(kid)
    }

    /// Whether a token that names `kid` can mean this key; one without a name is meant by all.
    #[must_use]
    pub fn is_called(&self, kid: Option<&str>) -> bool {
        match (&self.name, kid) {
            (Some(name), Some(kid)) => name == kid,
            (None, _) | (_, None) => true,
        }
    }

    /// Whether `signature` is this key's over `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { modulus, exponent } => RsaPublicKeyComponents { n: modulus, e: exponent }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
        }
    }
}

/// Label and content of the only PEM block (RFC 7468) in `text`.
fn pem(text: &str) -> Option<(&str, Vec<u8>)> {
    let (label, rest) = text.trim().strip_prefix("-----BEGIN ")?.split_once("-----")?;
    let body = rest.strip_suffix("-----")?.strip_suffix(label)?.strip_suffix("-----END ")?;
    let digits: String = body.split_ascii_whitespace().collect();
    Some((label, STANDARD.decode(digits).ok()?))
}

fn from_spki(der: &[u8]) -> Result<Material, KeyError> {
    let (rest, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::Pem)?;
    if !rest.is_empty() {
        return Err(KeyError::Pem);
    }
    let bits: &[u8] = &spki.subject_public_key.data;
    match spki.algorithm.algorithm.to_id_string().as_str() {
        OID_RSA => from_pkcs1(bits),
        OID_EC => point(bits),
        _ => Err(KeyError::Kind),
    }
}

fn from_pkcs1(der: &[u8]) -> Result<Material, KeyError> {
    let (rest, key) = x509_parser::public_key::RSAPublicKey::from_der(der).map_err(|_| KeyError::Pem)?;
    if rest.is_empty() { rsa(key.modulus, key.exponent) } else { Err(KeyError::Pem) }
}

fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Material, KeyError> {
    let strip = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let (modulus, exponent) = (strip(modulus), strip(exponent));
    let is_long = modulus.len() > MIN_MODULUS || modulus.first().is_some_and(|byte| *byte >= 0x80);
    let fits = (MIN_MODULUS..=MAX_MODULUS).contains(&modulus.len())
        && is_long
        && (1..=MAX_EXPONENT).contains(&exponent.len());
    if fits { Ok(Material::Rsa { modulus, exponent }) } else { Err(KeyError::Kind) }
}

fn point(bytes: &[u8]) -> Result<Material, KeyError> {
    let fits = bytes.len() == P256_POINT && bytes.first() == Some(&4);
    if fits { Ok(Material::P256(bytes.to_vec())) } else { Err(KeyError::Kind) }
}
