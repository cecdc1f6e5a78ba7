//! Tokens of clouds: compact JWS (RFC 7515) with RS256, and nothing else.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{MAX_DOCUMENT, ProofRefusal};

/// The algorithm of every token that is accepted. What a token says of it can only have it refused.
const ALGORITHM: &str = "RS256";

/// The keys of an issuer, as they hold now.
pub trait SignatureKeys {
    /// Whether a key for RS256 with this name made `signature` over `message`.
    fn verifies(&self, name: &str, message: &[u8], signature: &[u8]) -> bool;
}

/// For whom a token was made.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    /// True where it was made for `who`, and maybe for others.
    pub(crate) fn has(&self, who: &str) -> bool {
        match self {
            Self::One(one) => one == who,
            Self::Many(many) => many.iter().any(|one| one == who),
        }
    }

    /// True where it was made for `who` and for nobody else.
    pub(crate) fn is_only(&self, who: &str) -> bool {
        match self {
            Self::One(one) => one == who,
            Self::Many(many) => many.len() == 1 && self.has(who),
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

struct Parts<'t> {
    name: String,
    signed: &'t [u8],
    payload: Vec<u8>,
    signature: Vec<u8>,
}

fn read(text: &str) -> Result<Parts<'_>, ProofRefusal> {
    let malformed = || ProofRefusal::Malformed("not a JWT");
    if text.len() > MAX_DOCUMENT {
        return Err(ProofRefusal::Malformed("longer than such tokens are"));
    }
    let (signed, signature) = text.rsplit_once('.').ok_or_else(malformed)?;
    let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed())?;
    if header.alg != ALGORITHM {
        return Err(ProofRefusal::Algorithm("it is not signed with RS256"));
    }
    if header.crit.is_some() {
        return Err(ProofRefusal::Algorithm("it has a critical extension"));
    }
    let name = header.kid.filter(|name| (1..=256).contains(&name.len())).ok_or_else(malformed)?;
    Ok(Parts { name, signed: signed.as_bytes(), payload: decode(payload)?, signature: decode(signature)? })
}

/// The name (`kid`) of the key that a token says it is signed with. Nothing is verified.
///
/// # Errors
///
/// Where it is no token with RS256 that names a key.
pub fn key_named(text: &str) -> Result<String, ProofRefusal> {
    Ok(read(text)?.name)
}

/// The claims of a token whoever signed it; nothing may be granted by them.
pub(crate) fn unverified<T: DeserializeOwned>(text: &str) -> Result<T, ProofRefusal> {
    serde_json::from_slice(&read(text)?.payload)
        .map_err(|_| ProofRefusal::Malformed("its claims are not as they have to be"))
}

/// The claims of a token that one of the keys signed.
pub(crate) fn claims<T: DeserializeOwned>(text: &str, keys: &dyn SignatureKeys) -> Result<T, ProofRefusal> {
    let Parts { name, signed, payload, signature } = read(text)?;
    if !keys.verifies(&name, signed, &signature) {
        return Err(ProofRefusal::Signature);
    }
    serde_json::from_slice(&payload)
        .map_err(|_| ProofRefusal::Malformed("its claims are not as they have to be"))
}
