//! Where an issuer's keys may be fetched from: the URL of a policy, the hosts of the hub, the addresses of the net.
//!
//! A policy may be written by somebody who wants the hub to ask a place that only the hub can reach. So its URL has
//! one form, its host is one that the operator of the hub has named, and the address behind it is a public one.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use http::Uri;

/// Longest URL, in bytes.
const MAX_URL: usize = 1024;

/// Most hosts of a hub.
const MAX_HOSTS: usize = 64;

/// Port of HTTPS.
const HTTPS: u16 = 443;

/// A text is no URL that keys are fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwksUrlError {
    /// Not `https`.
    #[error("jwks_url must start with https://")]
    Scheme,
    /// Anything else that is wrong with it.
    #[error(
        "jwks_url is no URL of the form https://HOST[:PORT]/PATH of at most {MAX_URL} bytes, without user and fragment"
    )]
    Form,
}

/// A host and a port, in their one spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Origin {
    /// Lower case; an IPv6 address stands in brackets.
    host: String,
    port: u16,
}

impl Origin {
    fn read(authority: &http::uri::Authority) -> Option<Self> {
        let host = authority.host().to_ascii_lowercase();
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let is_address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_host = match is_address {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.len() <= 253 && host.chars().all(named) && !host.ends_with('.'),
        };
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" => HTTPS,
            rest => rest.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?,
        };
        is_host.then_some(Self { host, port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if self.port == HTTPS { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// Where an issuer publishes its keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JwksUrl {
    origin: Origin,
    target: String,
}

impl JwksUrl {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// Fails for everything but `https://HOST[:PORT]/PATH[?QUERY]`.
    pub fn parse(text: &str) -> Result<Self, JwksUrlError> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#' && byte != b'\\');
        if text.len() > MAX_URL || !is_plain {
            return Err(JwksUrlError::Form);
        }
        let uri: Uri = text.parse().map_err(|_| JwksUrlError::Form)?;
        if uri.scheme_str() != Some("https") {
            return Err(JwksUrlError::Scheme);
        }
        let origin = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let origin = origin.and_then(Origin::read).ok_or(JwksUrlError::Form)?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Ok(Self { origin, target })
    }

    /// Name or address of the host, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.origin.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.origin.port
    }

    /// Host and, unless it is 443, port: what is sent as `Host`, and how the hub's list names it.
    #[must_use]
    pub fn authority(&self) -> String {
        self.origin.to_string()
    }

    /// Path and query.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.origin, self.target)
    }
}

/// A text is no list of hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksHostsError {
    /// One entry is no host.
    #[error("{0:?} is no HOST or HOST:PORT")]
    Host(String),
    /// Too many entries.
    #[error("more than {MAX_HOSTS} hosts")]
    TooMany,
}

/// The hosts that the operator of the hub lets keys be fetched from; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JwksHosts(BTreeSet<Origin>);

impl JwksHosts {
    /// Whether keys may be fetched from there.
    #[must_use]
    pub fn allows(&self, url: &JwksUrl) -> bool {
        self.0.contains(&url.origin)
    }
}

impl FromStr for JwksHosts {
    type Err = JwksHostsError;

    /// Reads `HOST[:PORT]`, separated by commas; the empty text is the empty list.
    fn from_str(text: &str) -> Result<Self, JwksHostsError> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let read = |entry: &str| {
            let authority = entry.parse().ok().filter(|_| !entry.contains('@'));
            let wrong = || JwksHostsError::Host(entry.chars().take(64).collect());
            authority.as_ref().and_then(Origin::read).ok_or_else(wrong)
        };
        let hosts = entries.map(read).collect::<Result<BTreeSet<_>, _>>()?;
        if hosts.len() > MAX_HOSTS { Err(JwksHostsError::TooMany) } else { Ok(Self(hosts)) }
    }
}

/// Whether an address is one of the public Internet.
///
/// What the registries of special-purpose addresses (RFC 6890) call anything but globally reachable is not; of IPv6
/// only the global unicast range is, without what carries or translates an IPv4 address.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

const fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        // This network, private, loopback, multicast and reserved.
        [0 | 10 | 127 | 224.., ..] => true,
        // Shared between a carrier and its customers.
        [100, 64..=127, ..] => true,
        [169, 254, ..] | [172, 16..=31, ..] | [192, 168, ..] => true,
        // Protocol assignments, documentation, relays of 6to4, measurements.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            true
        }
        _ => false,
    };
    !special
}

const fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // Protocol assignments with Teredo, documentation, 6to4.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => false,
        [0x2000..=0x3fff, ..] => true,
        _ => false,
    }
}

/// How long an answer may be kept, as its `Cache-Control` says; `None` where it does not.
#[must_use]
pub fn max_age<'h>(values: impl IntoIterator<Item = &'h str>) -> Option<Duration> {
    let mut found = None;
    for directive in values.into_iter().flat_map(|value| value.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let name = name.trim();
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        if name.eq_ignore_ascii_case("max-age") && found.is_none() {
            let seconds = value.trim().trim_matches('"').parse().unwrap_or(0);
            found = Some(Duration::from_secs(seconds));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_one_form() {
        let url = JwksUrl::parse("https://Issuer.Example:8443/keys?v=1").unwrap();
        assert_eq!((url.host(), url.port(), url.target()), ("issuer.example", 8443, "/keys?v=1"));
        assert_eq!(url.authority(), "issuer.example:8443");
        assert_eq!(JwksUrl::parse("https://a.example:443").unwrap().to_string(), "https://a.example/");
        assert_eq!(JwksUrl::parse("https://[2600::1]/k").unwrap().host(), "2600::1");
        for wrong in ["http://a/", "file:///etc/passwd", "ftp://a/", "/keys", "", "a.example"] {
            assert!(JwksUrl::parse(wrong).is_err(), "{wrong}");
        }
        for wrong in [
            "https://user@a.example/",
            "https://a.example@10.0.0.1/",
            "https://a.example/#x",
            "https://a.example\\@b/",
            "https://a.example:0/",
            "https://a.example:99999/",
            "https://a_b/",
            "https://a.example./",
            "https://ä.example/",
            "https:///keys",
            "https://a.example/ x",
        ] {
            assert_eq!(JwksUrl::parse(wrong), Err(JwksUrlError::Form), "{wrong}");
        }
    }

    #[test]
    fn a_host_is_allowed_by_name_and_port() {
        let hosts: JwksHosts = "issuer.example, KEYS.example:8443".parse().unwrap();
        for (url, allowed) in [
            ("https://issuer.example/k", true),
            ("https://ISSUER.example:443/k", true),
            ("https://issuer.example:444/k", false),
            ("https://keys.example:8443/", true),
            ("https://keys.example/", false),
            ("https://a.issuer.example/k", false),
        ] {
            assert_eq!(hosts.allows(&JwksUrl::parse(url).unwrap()), allowed, "{url}");
        }
        let none: JwksHosts = "".parse().unwrap();
        assert!(!none.allows(&JwksUrl::parse("https://issuer.example/k").unwrap()));
        for wrong in ["*", "https://a", "a/b", "u@a", "a:x"] {
            assert!(wrong.parse::<JwksHosts>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_public_addresses_are_public() {
        for public in
            ["1.1.1.1", "93.184.216.34", "100.63.0.1", "172.32.0.1", "2606:4700::1", "::ffff:1.1.1.1"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "0.0.0.0",
            "10.88.0.1",
            "127.0.0.1",
            "100.64.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "fe80::1",
            "fc00::1",
            "fd07::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:a00:1::",
            "100::1",
            "::10.0.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }

    #[test]
    fn cache_control_is_read_carefully() {
        let age = |text| max_age([text]).map(|age| age.as_secs());
        assert_eq!(age("public, max-age=600"), Some(600));
        assert_eq!(age("MAX-AGE=\"7\""), Some(7));
        assert_eq!(age("max-age=-1"), Some(0));
        assert_eq!(age("max-age=600, no-store"), Some(0));
        assert_eq!(age("public"), None);
    }
}
