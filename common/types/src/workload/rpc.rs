//! Where a workload's RPC URLs lead, where that is the machine of the hub itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::ChainSettings;

/// Which of the two RPC URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RpcKind {
    /// [`ChainSettings::http_rpc_url`].
    Http,
    /// [`ChainSettings::ws_rpc_url`].
    Ws,
}

impl RpcKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Http, Self::Ws];

    /// Its name on the wire and in logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Ws => "ws",
        }
    }
}

impl fmt::Display for RpcKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// A text is neither `http` nor `ws`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither http nor ws")]
pub struct ParseRpcKindError;

impl FromStr for RpcKind {
    type Err = ParseRpcKindError;

    fn from_str(text: &str) -> Result<Self, ParseRpcKindError> {
        Self::ALL.into_iter().find(|kind| kind.label() == text).ok_or(ParseRpcKindError)
    }
}

/// A URL of the loopback of the machine where the operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loopback {
    /// `scheme://`, with user and password where there are any.
    before: String,
    /// Path and query.
    behind: String,
    /// `None` for the name `localhost`.
    ip: Option<IpAddr>,
    port: u16,
}

impl Loopback {
    /// Reads a URL; `None` where it leads elsewhere, or nowhere.
    ///
    /// Loopback is `localhost`, 127.0.0.0/8 and `::1`, in any spelling that has a port of its scheme or names one.
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let default = match scheme {
            "http" | "ws" => 80,
            "https" | "wss" => 443,
            _ => return None,
        };
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, behind) = rest.split_at_checked(end)?;
        // What stands before the last '@' is no host, whatever it looks like.
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (format!("{user}@"), host),
            None => (String::new(), authority),
        };
        let (host, port) = split_port(host)?;
        let port = match port {
            Some("") | None => default,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
        };
        let ip = match host {
            name if name.eq_ignore_ascii_case("localhost") => None,
            host => {
                let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
                let ip: IpAddr = match inner {
                    Some(inner) => IpAddr::V6(inner.parse().ok()?),
                    None => IpAddr::V4(host.parse().ok()?),
                };
                Some(ip).filter(|ip| ip.is_loopback())?.into()
            }
        };
        (port != 0).then(|| Self {
            before: format!("{scheme}://{user}"),
            behind: behind.to_owned(),
            ip,
            port,
        })
    }

    /// Where it leads on that machine: the addresses to try, in their order.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let ips = match self.ip {
            Some(ip) => vec![ip],
            None => vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        };
        ips.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect()
    }

    /// The same URL at another place: user, path and query stay.
    #[must_use]
    pub fn at(&self, place: SocketAddr) -> String {
        format!("{}{place}{}", self.before, self.behind)
    }
}

impl ChainSettings {
    /// Where one of the RPC URLs leads, where that is loopback.
    #[must_use]
    pub fn loopback(&self, kind: RpcKind) -> Option<Loopback> {
        Loopback::of(match kind {
            RpcKind::Http => &self.http_rpc_url,
            RpcKind::Ws => &self.ws_rpc_url,
        })
    }
}

/// Host and port as they are written; an IPv6 address keeps its brackets.
fn split_port(host: &str) -> Option<(&str, Option<&str>)> {
    if host.starts_with('[') {
        let (inner, rest) = host.split_at_checked(host.find(']')?.checked_add(1)?)?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((inner, Some(port))),
            None => rest.is_empty().then_some((inner, None)),
        };
    }
    Some(match host.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (host, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_loopback_keep_all_but_their_place() {
        let there: SocketAddr = "127.0.0.1:40001".parse().unwrap();
        for (url, first, rewritten) in [
            ("http://127.0.0.1:8545", "127.0.0.1:8545", "http://127.0.0.1:40001"),
            ("http://localhost:8545/", "127.0.0.1:8545", "http://127.0.0.1:40001/"),
            ("ws://LOCALHOST/v3?k=a@b", "127.0.0.1:80", "ws://127.0.0.1:40001/v3?k=a@b"),
            ("wss://[::1]:8546/p", "[::1]:8546", "wss://127.0.0.1:40001/p"),
            ("https://127.0.0.9?q", "127.0.0.9:443", "https://127.0.0.1:40001?q"),
            ("http://u:p@127.0.0.1:1/x", "127.0.0.1:1", "http://u:p@127.0.0.1:40001/x"),
        ] {
            let loopback = Loopback::of(url).unwrap_or_else(|| panic!("{url}"));
            assert_eq!(loopback.addresses()[0], first.parse().unwrap(), "{url}");
            assert_eq!(loopback.at(there), rewritten);
        }
        let both = Loopback::of("http://localhost:8545").unwrap().addresses();
        assert_eq!(both[1], "[::1]:8545".parse().unwrap());
        let there: SocketAddr = "[fd00::1]:9".parse().unwrap();
        assert_eq!(Loopback::of("http://127.0.0.1/a").unwrap().at(there), "http://[fd00::1]:9/a");
    }

    #[test]
    fn what_only_looks_like_loopback_is_none() {
        for url in [
            "",
            "http://",
            "127.0.0.1:8545",
            "http://127.0.0.1@evil.example:8545/",
            "http://127.0.0.1:8545@evil.example/",
            "http://localhost.evil.example/",
            "http://127.0.0.1.evil.example/",
            "http://evil.example/127.0.0.1",
            "http://evil.example\\@127.0.0.1/",
            "http://10.0.0.1:8545/",
            "http://0.0.0.0:8545/",
            "http://[::]:8545/",
            "http://[::1:8545/",
            "http://[::1]8545/",
            "http://[127.0.0.1]:1/",
            "http://127.0.0.1:0/",
            "http://127.0.0.1:+80/",
            "http://127.0.0.1:65536/",
            "http://127.1:80/",
            "ftp://127.0.0.1/",
        ] {
            assert_eq!(Loopback::of(url), None, "{url}");
        }
    }

    #[test]
    fn kinds_are_read_back() {
        for kind in RpcKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!("https".parse::<RpcKind>(), Err(ParseRpcKindError));
    }
}
