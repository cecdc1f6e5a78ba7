//! What a stream of a tunnel leads to, and how a URL says it.

use std::fmt;
use std::str::FromStr;

use blueprint_common_types::ServiceKey;
use http::Uri;

/// What a stream of a tunnel leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// A healthy target of a service. In a URL `http://s42.b7/` for service 42 of blueprint 7, with any port.
    Service(ServiceKey),
    /// A TCP port of a machine. In a URL `http://NAME:PORT/`, or the machine's overlay address in place of its name.
    Node {
        /// Name, id or overlay address, an IPv6 address without brackets.
        node: String,
        /// TCP port on its overlay address.
        port: u16,
    },
}

/// A text names neither a service nor a port of a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names nothing in the overlay: sSERVICE.bBLUEPRINT such as s42.b7, or NODE:PORT, was expected")]
pub struct ParseDestinationError(String);

impl FromStr for Destination {
    type Err = ParseDestinationError;

    fn from_str(text: &str) -> Result<Self, ParseDestinationError> {
        let refused = || ParseDestinationError(text.chars().take(128).collect());
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') => (host, Some(port)),
            Some(_) | None => (text, None),
        };
        let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(refused));
        let port = port.transpose()?;
        if let Some(service) = service(host) {
            return Ok(Self::Service(service));
        }
        let node = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_text =
            !node.is_empty() && node.len() <= 64 && node.bytes().all(|byte| byte.is_ascii_graphic());
        let port = port.filter(|_| is_text).ok_or_else(refused)?;
        Ok(Self::Node { node: node.to_owned(), port })
    }
}

/// `s42.b7` in any case of letters.
fn service(host: &str) -> Option<ServiceKey> {
    let (service, blueprint) = host.split_once('.')?;
    let number = |text: &str, letter: [char; 2]| {
        let digits = text.strip_prefix(letter)?;
        // The parser of numbers takes a sign.
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?
    };
    Some(ServiceKey { blueprint: number(blueprint, ['b', 'B'])?, service: number(service, ['s', 'S'])? })
}

impl TryFrom<&Uri> for Destination {
    type Error = ParseDestinationError;

    fn try_from(uri: &Uri) -> Result<Self, ParseDestinationError> {
        let authority = uri.authority().ok_or_else(|| ParseDestinationError(uri.to_string()))?;
        // Names and passwords of a URL lead nowhere.
        match (authority.as_str().contains('@'), authority.port_u16()) {
            (false, None) if service(authority.as_str()).is_none() => format!("{authority}:80").parse(),
            (false, _) => authority.as_str().parse(),
            (true, _) => Err(ParseDestinationError(authority.host().to_owned())),
        }
    }
}

impl fmt::Display for Destination {
    /// As the authority of a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(ServiceKey { blueprint, service }) => write!(f, "s{service}.b{blueprint}"),
            Self::Node { node, port } if node.contains(':') => write!(f, "[{node}]:{port}"),
            Self::Node { node, port } => write!(f, "{node}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: &str, port: u16) -> Destination {
        Destination::Node { node: node.to_owned(), port }
    }

    #[test]
    fn services_and_ports_of_machines_are_read_and_written_as_authorities() {
        let service = Destination::Service(ServiceKey { blueprint: 7, service: 42 });
        for (text, wanted) in [
            ("s42.b7", service.clone()),
            ("S42.B7:8080", service.clone()),
            ("gpu-1:8080", node("gpu-1", 8080)),
            ("10.88.0.2:80", node("10.88.0.2", 80)),
            ("[fd00::2]:80", node("fd00::2", 80)),
        ] {
            let read: Destination = text.parse().unwrap();
            assert_eq!(read, wanted, "{text}");
            assert_eq!(read.to_string().parse(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in [
            "",
            "gpu-1",
            "gpu-1:",
            "gpu-1:0",
            "gpu-1:70000",
            ":80",
            "s42.b+7",
            "a b:80",
            "s42.b7.example.org",
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_url_has_the_port_of_its_scheme() {
        let of = |uri: &'static str| Destination::try_from(&Uri::from_static(uri));
        assert_eq!(of("http://gpu-1/healthz").unwrap(), node("gpu-1", 80));
        assert_eq!(of("http://gpu-1:81/").unwrap(), node("gpu-1", 81));
        assert_eq!(of("http://s42.b7/x").unwrap(), "s42.b7".parse().unwrap());
        assert!(of("/x").is_err() && of("http://user@gpu-1/").is_err());
    }
}
