//! The one credential of a request: `Authorization: Bearer TOKEN`.

use blueprint_common_types::{AccessToken, Secret, TokenHash, TokenId};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::identity::{KeyHash, KeyId, SEALED_HEADER, parse_api_key};
use crate::refusal::Refusal;

/// What a request shows of its sender; secrets of keys are hashed at once and not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// No `Authorization` at all.
    Missing,
    /// Another scheme, or a text that is not an access token.
    Unreadable,
    /// A well-formed token, not yet compared with any table.
    Token {
        /// Public half.
        id: TokenId,
        /// Hash of the secret half.
        hash: TokenHash,
    },
    /// A well-formed API key, not yet compared with any table.
    ApiKey {
        /// Public part.
        id: KeyId,
        /// Hash of all of it.
        hash: KeyHash,
    },
    /// What looks like a sealed token, not yet opened.
    Sealed(Secret<String>),
}

/// Reads the credential. Two `Authorization` headers have no single meaning and are refused.
pub(crate) fn parse(headers: &HeaderMap) -> Result<Credential, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(Credential::Missing);
    };
    if values.next().is_some() {
        return Err(Refusal::AmbiguousCredential);
    }
    Ok(value.to_str().ok().and_then(bearer).unwrap_or(Credential::Unreadable))
}

fn bearer(value: &str) -> Option<Credential> {
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let token = token.trim_matches(' ');
    if token.starts_with(SEALED_HEADER) {
        return Some(Credential::Sealed(Secret::new(token.to_owned())));
    }
    if let Some((id, hash)) = parse_api_key(token) {
        return Some(Credential::ApiKey { id, hash });
    }
    let token: AccessToken = token.parse().ok()?;
    Some(Credential::Token { id: token.id(), hash: token.hash() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn parse_one(value: &str) -> Result<Credential, Refusal> {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.append(AUTHORIZATION, value);
        }
        parse(&headers)
    }

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        let token = AccessToken::random().unwrap();
        let expected = Credential::Token { id: token.id(), hash: token.hash() };
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let text = format!("{scheme} {}", token.expose_text().expose());
            assert_eq!(parse_one(&text), Ok(expected.clone()), "{scheme}");
        }
    }

    #[test]
    fn what_is_no_access_token_is_unreadable_not_missing() {
        for text in ["", "Bearer", "Bearer ", "Basic dTpw", "Bearer bpj_00_00", "bpa_0_0", "Bearer\tx"] {
            assert_eq!(parse_one(text), Ok(Credential::Unreadable), "{text:?}");
        }
        assert_eq!(parse(&HeaderMap::new()), Ok(Credential::Missing));
    }

    #[test]
    fn two_credentials_are_none() {
        let token = AccessToken::random().unwrap();
        let value = HeaderValue::from_str(&format!("Bearer {}", token.expose_text().expose())).unwrap();
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, value.clone());
        headers.append(AUTHORIZATION, value);
        assert_eq!(parse(&headers), Err(Refusal::AmbiguousCredential));
    }
}
