//! Headers that an owner binds to a key or a token, and that go with each of its requests.
//!
//! At most 8, names of letters, digits, `-` and `_`, as the existing Blueprint clients send them.
//! What could name a person is hashed before it is stored. Names that belong to the hub or to the
//! connection are refused: nobody writes `x-scopes` or `x-forwarded-for` by this way either. Who holds a
//! key may add what says something else than who calls: that stands with the key, or nowhere.

use std::collections::BTreeMap;

use sha3::{Digest, Keccak256};

use super::hex;
use crate::headers::{is_owner_header, names_a_customer};

/// Most headers of one key or token.
const MAX_HEADERS: usize = 8;

/// Longest name, in bytes.
const MAX_NAME: usize = 256;

/// Longest value, in bytes.
const MAX_VALUE: usize = 512;

/// Names the tenant to the service.
const TENANT: &str = "x-tenant-id";

/// Why a header cannot be bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtraHeaderError {
    /// More than 8.
    #[error("{count} headers, at most {MAX_HEADERS} can be bound to a key")]
    TooMany {
        /// How many there were.
        count: usize,
    },
    /// Not letters, digits, `-` and `_`, or too long.
    #[error("a header name has letters, digits, '-' and '_' and at most {MAX_NAME} of them")]
    Name,
    /// Control characters, bytes outside ASCII, or too long.
    #[error("the value of {name} is not printable ASCII of at most {MAX_VALUE} bytes")]
    Value {
        /// Whose value.
        name: String,
    },
    /// Belongs to the hub or to the connection.
    #[error("{name} cannot be set by clients")]
    Reserved {
        /// The name.
        name: String,
    },
    /// Two spellings of one name.
    #[error("{name} is there twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// A token is to say who calls by a header that its key does not have.
    #[error(
        "{name} says who calls: it has to be bound to the API key and cannot be added in a token made from it"
    )]
    NotBound {
        /// The name.
        name: String,
    },
    /// A token asks for another value than its key has.
    #[error("{name} is bound to the API key and cannot be another in a token made from it")]
    Bound {
        /// The name.
        name: String,
    },
}

/// Checks and normalises headers: names in lower case, personal values hashed.
///
/// # Errors
///
/// Fails at the first header that cannot be bound.
pub fn bind_headers(
    headers: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ExtraHeaderError> {
    if headers.len() > MAX_HEADERS {
        return Err(ExtraHeaderError::TooMany { count: headers.len() });
    }
    let mut bound = BTreeMap::new();
    for (name, value) in headers {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_name) {
            return Err(ExtraHeaderError::Name);
        }
        // Services that cannot tell `_` from `-` would see two.
        let name = name.to_ascii_lowercase().replace('_', "-");
        if value.len() > MAX_VALUE || !value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
            return Err(ExtraHeaderError::Value { name });
        }
        if !is_owner_header(&name) {
            return Err(ExtraHeaderError::Reserved { name });
        }
        let value = protect(&name, value);
        if bound.insert(name.clone(), value).is_some() {
            return Err(ExtraHeaderError::Twice { name });
        }
    }
    Ok(bound)
}

/// Adds the headers that a token asks for to those of its key, which it cannot change. Who calls is not for it
/// to say: the tenant is the key's, or else the key's owner, and the other names stand with the key or nowhere.
///
/// # Errors
///
/// Fails where a header cannot be bound, where the key has it with another value, or where it says who calls
/// and the key does not have it.
pub fn extend_headers(
    of_key: &BTreeMap<String, String>,
    owner: &str,
    asked: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ExtraHeaderError> {
    let mut all = of_key.clone();
    // The hub's word stands beside those of the key, and is not counted with them.
    let ours = usize::from(!all.contains_key(TENANT));
    all.entry(TENANT.to_owned()).or_insert_with(|| tenant_id(owner));
    for (name, value) in bind_headers(asked)? {
        match all.get(&name) {
            Some(held) if *held != value => return Err(ExtraHeaderError::Bound { name }),
            Some(_) => {}
            None if names_a_customer(&name) => return Err(ExtraHeaderError::NotBound { name }),
            None => drop(all.insert(name, value)),
        }
    }
    let count = all.len().saturating_sub(ours);
    if count > MAX_HEADERS { Err(ExtraHeaderError::TooMany { count }) } else { Ok(all) }
}

/// The tenant behind a name: the first 16 bytes of its Keccak-256, in hexadecimal.
#[must_use]
pub fn tenant_id(name: &str) -> String {
    let hash = Keccak256::digest(name);
    hex::encode(hash.get(..16).unwrap_or_default())
}

fn protect(name: &str, value: &str) -> String {
    let is_hashed = value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    match name {
        "x-user-id" | "x-user-email" | "x-customer-email" => tenant_id(value),
        "x-tenant-id" if !is_hashed => tenant_id(value),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn names_are_folded_and_persons_are_hashed() {
        let id = tenant_id("user123@example.com");
        assert_eq!(id.len(), 32);
        let bound = bind_headers(&map(&[
            ("X-Tenant-Id", &id),
            ("X-Tenant-Name", "Acme Corp"),
            ("X_User_Email", "user123@example.com"),
            ("X-Plan", "gold"),
        ]))
        .unwrap();
        let expected = map(&[
            ("x-tenant-id", &id),
            ("x-tenant-name", "Acme Corp"),
            ("x-user-email", &id),
            ("x-plan", "gold"),
        ]);
        assert_eq!(bound, expected);
        assert_eq!(
            bind_headers(&map(&[("x-tenant-id", "acme")])).unwrap(),
            map(&[("x-tenant-id", &tenant_id("acme"))])
        );
    }

    #[test]
    fn what_is_the_hubs_or_the_connections_is_refused() {
        for name in [
            "Connection",
            "host",
            "Content-Length",
            "transfer-encoding",
            "X-Scopes",
            "x_scope",
            "X-Auth-Method",
            "X-Client-Cert-Subject",
            "Authorization",
            "Forwarded",
            "x-forwarded-for",
            "X-Real-Ip",
            "proxy-foo",
            "X-Request-Id",
            "X-Service-Id",
            "x-blueprint-identity",
            "te",
            "upgrade",
            "cookie",
            "X-HTTP-Method-Override",
        ] {
            let refused = bind_headers(&map(&[(name, "1")]));
            assert!(matches!(refused, Err(ExtraHeaderError::Reserved { .. })), "{name}: {refused:?}");
        }
        for (name, value) in [("", "1"), ("a b", "1"), ("a:b", "1"), ("é", "1"), (&"a".repeat(257), "1")] {
            assert_eq!(bind_headers(&map(&[(name, value)])), Err(ExtraHeaderError::Name), "{name}");
        }
        for value in ["a\r\nb: c", "a\0", "é", &"v".repeat(513)] {
            assert!(bind_headers(&map(&[("x-a", value)])).is_err(), "{value:?}");
        }
        assert!(matches!(
            bind_headers(&map(&[("x-a", "1"), ("X_A", "2")])),
            Err(ExtraHeaderError::Twice { .. })
        ));
        let nine: BTreeMap<_, _> = (0..9).map(|n| (format!("x-{n}"), String::new())).collect();
        assert_eq!(bind_headers(&nine), Err(ExtraHeaderError::TooMany { count: 9 }));
    }

    #[test]
    fn a_token_adds_to_its_key_and_changes_nothing() {
        let extend = |of_key: &[(&str, &str)], asked: &[(&str, &str)]| {
            extend_headers(&map(of_key), "ecdsa:02", &map(asked))
        };
        let acme = tenant_id("acme");
        let of_key = [("x-tenant-id", acme.as_str())];
        let added = extend(&of_key, &[("X-Plan", "gold"), ("X-Tenant-Id", "acme")]).unwrap();
        assert_eq!(added, map(&[("x-plan", "gold"), ("x-tenant-id", &tenant_id("acme"))]));
        let other = extend(&of_key, &[("X-Tenant-Id", "evil")]);
        assert_eq!(other, Err(ExtraHeaderError::Bound { name: "x-tenant-id".to_owned() }));
    }

    #[test]
    fn who_holds_a_key_does_not_choose_who_calls() {
        let owner = tenant_id("ecdsa:02");
        let extend = |of_key: &[(&str, &str)], asked: &[(&str, &str)]| {
            extend_headers(&map(of_key), "ecdsa:02", &map(asked))
        };
        assert_eq!(extend(&[], &[]).unwrap(), map(&[("x-tenant-id", &owner)]));
        let twice = extend(&[], &[("X-Tenant-Id", "ecdsa:02"), ("X-Plan", "gold")]).unwrap();
        assert_eq!(twice, map(&[("x-plan", "gold"), ("x-tenant-id", &owner)]));
        for asked in ["X-Tenant-Id", "x_tenant_id"] {
            let refused = extend(&[], &[(asked, "0123456789abcdef0123456789abcdef")]);
            assert_eq!(refused, Err(ExtraHeaderError::Bound { name: "x-tenant-id".to_owned() }), "{asked}");
        }
        for asked in ["X-Tenant-Name", "x-tenant-region", "X-User-Id", "x_user_email", "X-Customer-Email"] {
            let name = asked.to_ascii_lowercase().replace('_', "-");
            let refused = extend(&[("x-plan", "gold")], &[(asked, "1")]);
            assert_eq!(refused, Err(ExtraHeaderError::NotBound { name }), "{asked}");
        }
        // Eight of its own are still eight.
        let names: Vec<_> = (0..8).map(|number| format!("x-{number}")).collect();
        let eight: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        assert_eq!(extend(&eight, &[]).unwrap().len(), 9);
        assert_eq!(extend(&eight, &[("x-9", "1")]), Err(ExtraHeaderError::TooMany { count: 9 }));
    }
}
