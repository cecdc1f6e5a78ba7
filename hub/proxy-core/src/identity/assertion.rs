//! OAuth 2.0 JWT bearer assertions (RFC 7523): somebody else's word for who calls.
//!
//! The signature is checked with the keys of the service's policy before anything in the payload is
//! believed, and a key has one algorithm: the header of a token chooses among keys, never among
//! algorithms. Times are checked against the hub's clock with [`SKEW`]; each assertion works once.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blueprint_common_types::Timestamp;
use serde::Deserialize;

use super::oauth_policy::OAuthPolicy;
use super::verifying_key::VerifyingKey;

/// By how much the clocks of issuer and hub may differ.
pub const SKEW: Duration = Duration::from_secs(60);

/// Longest assertion, in bytes.
const MAX_ASSERTION: usize = 16 * 1024;

/// Longest text of a claim that is kept.
const MAX_CLAIM: usize = 256;

/// Why an assertion is refused; `Display` is what the client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// Not a compact JWS of a JSON object, or too long.
    #[error("the assertion is not a readable JWT of at most {MAX_ASSERTION} bytes")]
    Malformed,
    /// `alg` is neither RS256 nor ES256, or `crit` names something.
    #[error("the assertion must be signed with RS256 or ES256 and have no critical extension")]
    Unsupported,
    /// No key of the policy made the signature.
    #[error("no key of this service's policy made the signature of the assertion")]
    Signature,
    /// `iss` is not allowed.
    #[error("the issuer is not allowed")]
    Issuer,
    /// `aud` is not one that the policy requires.
    #[error("the audience is not the one required")]
    Audience,
    /// No `sub`, or a very long one.
    #[error("the assertion names no subject")]
    Subject,
    /// `iat` and `exp` are missing, in the wrong order or too far apart, or `nbf` is to come.
    #[error("the assertion's times (iat, exp, nbf) are missing or do not fit the policy")]
    Times,
    /// Its time is over.
    #[error("the assertion expired")]
    Expired,
    /// No `jti`, or a very long one.
    #[error("the assertion has no jti")]
    NoId,
    /// It was used before.
    #[error("the assertion was used before")]
    Replayed,
    /// More assertions of the service are live than can be remembered.
    #[error("too many assertions of this service are live; try again once some of them have expired")]
    Full,
    /// It asks for scopes, and none of them is allowed.
    #[error("none of the scopes asked for is allowed")]
    Scopes,
}

/// What a good assertion says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// Who vouches.
    pub issuer: String,
    /// For whom.
    pub subject: String,
    /// What the token may do: allowed ones of those asked for, lower case, sorted. `None` where the
    /// assertion asked for none.
    pub scopes: Option<Vec<String>>,
    /// Name of the assertion, unique with its issuer.
    pub id: String,
    /// End of the assertion.
    pub expires_at: Timestamp,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Payload {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audience>,
    iat: Option<f64>,
    exp: Option<f64>,
    nbf: Option<f64>,
    jti: Option<String>,
    scope: Option<String>,
}

/// The parts of an assertion, decoded.
struct Parts<'t> {
    header: Header,
    signed: &'t [u8],
    payload: Vec<u8>,
    signature: Vec<u8>,
}

fn read(text: &str) -> Result<Parts<'_>, AssertionError> {
    if text.len() > MAX_ASSERTION {
        return Err(AssertionError::Malformed);
    }
    let (signed, signature) = text.rsplit_once('.').ok_or(AssertionError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(AssertionError::Malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| AssertionError::Malformed);
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| AssertionError::Malformed)?;
    if !matches!(header.alg.as_str(), "RS256" | "ES256") || header.crit.is_some() {
        return Err(AssertionError::Unsupported);
    }
    Ok(Parts { header, signed: signed.as_bytes(), payload: decode(payload)?, signature: decode(signature)? })
}

/// The name (`kid`) of the key that an assertion says it is signed with. Nothing is verified.
///
/// # Errors
///
/// [`AssertionError::Malformed`] and [`AssertionError::Unsupported`].
pub fn key_named(text: &str) -> Result<Option<String>, AssertionError> {
    Ok(read(text)?.header.kid)
}

/// Checks an assertion against the policy of a service and the keys that hold for it now.
///
/// Whether it was used before is another question: ask [`Replays`](super::Replays) once everything else is good.
///
/// # Errors
///
/// The first thing that is wrong with it; what the payload says is looked at only behind a good signature.
pub fn verify_assertion<'k>(
    text: &str,
    policy: &OAuthPolicy,
    keys: impl IntoIterator<Item = &'k VerifyingKey>,
    now: Timestamp,
) -> Result<Assertion, AssertionError> {
    let Parts { header, signed, payload, signature } = read(text)?;
    let is_signed = keys.into_iter().any(|key| {
        key.algorithm() == header.alg
            && key.is_called(header.kid.as_deref())
            && key.verifies(signed, &signature)
    });
    if !is_signed {
        return Err(AssertionError::Signature);
    }
    let payload: Payload = serde_json::from_slice(&payload).map_err(|_| AssertionError::Malformed)?;
    check(payload, policy, now)
}

fn check(payload: Payload, policy: &OAuthPolicy, now: Timestamp) -> Result<Assertion, AssertionError> {
    let issuer =
        payload.iss.filter(|iss| policy.allowed_issuers.contains(iss)).ok_or(AssertionError::Issuer)?;
    let is_for_us = |audience: &String| policy.required_audiences.contains(audience);
    let audience_fits = policy.required_audiences.is_empty()
        || match &payload.aud {
            None => false,
            Some(Audience::One(audience)) => is_for_us(audience),
            Some(Audience::Many(audiences)) => audiences.iter().any(is_for_us),
        };
    if !audience_fits {
        return Err(AssertionError::Audience);
    }
    let subject =
        payload.sub.filter(|sub| (1..=MAX_CLAIM).contains(&sub.len())).ok_or(AssertionError::Subject)?;
    let expires_at = check_times(payload.iat, payload.exp, payload.nbf, policy, now)?;
    let id = payload.jti.filter(|jti| (1..=MAX_CLAIM).contains(&jti.len())).ok_or(AssertionError::NoId)?;
    let scopes = granted(payload.scope.as_deref(), policy)?;
    Ok(Assertion { issuer, subject, scopes, id, expires_at })
}

/// A NumericDate (RFC 7519) between 1970 and the year 10000.
fn date(seconds: f64) -> Option<Timestamp> {
    let is_date = seconds.is_finite() && (0.0..253_402_300_800.0).contains(&seconds);
    is_date
        .then(|| Duration::try_from_secs_f64(seconds).ok())
        .flatten()
        .map(|at| Timestamp::from_millis(0).plus(at))
}

fn check_times(
    iat: Option<f64>,
    exp: Option<f64>,
    nbf: Option<f64>,
    policy: &OAuthPolicy,
    now: Timestamp,
) -> Result<Timestamp, AssertionError> {
    let read = |seconds: Option<f64>| seconds.and_then(date).ok_or(AssertionError::Times);
    let (iat, exp) = (read(iat)?, read(exp)?);
    let nbf = if nbf.is_some() { read(nbf)? } else { iat };
    let latest_start = now.plus(SKEW);
    if iat > latest_start || nbf > latest_start || exp <= iat || exp.since(iat) > policy.max_assertion_life()
    {
        return Err(AssertionError::Times);
    }
    if exp.plus(SKEW) <= now { Err(AssertionError::Expired) } else { Ok(exp) }
}

fn granted(scope: Option<&str>, policy: &OAuthPolicy) -> Result<Option<Vec<String>>, AssertionError> {
    let asked: BTreeSet<String> =
        scope.unwrap_or_default().split_ascii_whitespace().map(str::to_lowercase).collect();
    if asked.is_empty() {
        return Ok(None);
    }
    let allowed = policy.allowed_scopes.iter().flatten().map(|scope| scope.to_lowercase()).collect();
    let granted: Vec<String> = asked.intersection(&allowed).cloned().collect();
    if granted.is_empty() { Err(AssertionError::Scopes) } else { Ok(Some(granted)) }
}
