//! Host names of TLS connections: exact ones, and one star for one label.

use std::collections::BTreeMap;

use blueprint_common_types::ServiceKey;

/// Longest host name (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// Longest label of one.
const MAX_LABEL: usize = 63;

/// Values by host name. An exact name goes before a wildcard, and of two equal names the first stays.
#[derive(Debug, Clone)]
pub struct NameTable<T> {
    exact: BTreeMap<String, T>,
    /// By what is behind `*.`.
    wildcard: BTreeMap<String, T>,
}

impl<T> Default for NameTable<T> {
    fn default() -> Self {
        Self { exact: BTreeMap::new(), wildcard: BTreeMap::new() }
    }
}

impl<T> NameTable<T> {
    /// Adds a name, such as `hub.example` or `*.hub.example`; says whether it was free and is one.
    pub fn insert(&mut self, name: &str, value: T) -> bool {
        let name = fold(name);
        let (table, key) = match name.strip_prefix("*.") {
            Some(rest) => (&mut self.wildcard, rest),
            None => (&mut self.exact, name.as_str()),
        };
        if !is_dns_name(key) || table.contains_key(key) {
            return false;
        }
        table.insert(key.to_owned(), value);
        true
    }

    /// The value of a host name that a client asked for; a star stands for exactly one label (RFC 9525,
    /// section 6.3).
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&T> {
        let name = fold(name);
        let above = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(&name).or_else(above)
    }
}

fn fold(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Whether a text is a host name in lower case, without a star and without a dot at its end.
#[must_use]
pub fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    (1..=MAX_NAME).contains(&name.len()) && !is_address && name.split('.').all(is_label)
}

/// The host name under which a service is called: `s42.b7.DOMAIN`.
#[must_use]
pub fn service_name(service: ServiceKey, domain: &str) -> String {
    format!("s{}.b{}.{}", service.service, service.blueprint, domain.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_name_goes_before_a_star_and_a_star_is_one_label() {
        let mut names = NameTable::default();
        assert!(names.insert("*.Hub.example", "star"));
        assert!(names.insert("a.hub.example", "exact"));
        assert!(!names.insert("A.hub.example.", "later"));
        for (name, found) in [
            ("a.hub.example", Some("exact")),
            ("A.HUB.example.", Some("exact")),
            ("b.hub.example", Some("star")),
            ("hub.example", None),
            ("c.b.hub.example", None),
            ("", None),
            (".hub.example", Some("star")),
        ] {
            assert_eq!(names.find(name).copied(), found, "{name}");
        }
    }

    #[test]
    fn what_is_no_host_name_is_not_taken() {
        let long = "a".repeat(64);
        let mut names = NameTable::default();
        for wrong in ["", ".", "*", "*.", "a..b", "-a.b", "a-.b", "a b", "a*.b", "*.*.b", "192.0.2.1", &long]
        {
            assert!(!names.insert(wrong, ()), "{wrong:?}");
            assert!(!is_dns_name(wrong), "{wrong:?}");
        }
        assert!(is_dns_name("localhost") && is_dns_name("s42.b7.hub.example"));
        assert!(!is_dns_name("Hub.example"));
    }

    #[test]
    fn a_service_has_the_host_name_that_requests_use() {
        let key = ServiceKey { blueprint: 7, service: 42 };
        assert_eq!(service_name(key, "BP.example"), "s42.b7.bp.example");
    }
}
