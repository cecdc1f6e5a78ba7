//! Where a service shows its own metrics.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// TCP port of an agent's overlay addresses where its hub, and nobody else, reads metrics over HTTP.
pub const AGENT_METRICS_PORT: u16 = 9464;

/// Longest path in bytes.
const MAX_PATH: usize = 256;

/// A text is not a place of metrics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place of metrics: none, /PATH, PORT, PORT/PATH, grpc or grpc:PORT was expected")]
pub struct ParseMetricsPlaceError(String);

/// Where a service shows its metrics, seen from where it listens. Text form `none`, `/PATH`, `PORT`,
/// `PORT/PATH`, `grpc` or `grpc:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsPlace {
    /// Nowhere: it is not asked.
    Nowhere,
    /// At a path over HTTP, at the service's own port or another one of the same address.
    At {
        /// The port; the service's own where there is none.
        port: Option<u16>,
        /// The path, with its slash.
        path: String,
    },
    /// By `qos.QosMetrics/GetBlueprintMetrics` of the Blueprint SDK, over HTTP/2 in clear text.
    Grpc {
        /// The port; the service's own where there is none.
        port: Option<u16>,
    },
}

/// What is asked for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsAsk<'p> {
    /// A page over HTTP, at this path.
    Page(SocketAddr, &'p str),
    /// A map by gRPC.
    Grpc(SocketAddr),
}

impl Default for MetricsPlace {
    fn default() -> Self {
        Self::At { port: None, path: "/metrics".to_owned() }
    }
}

impl MetricsPlace {
    /// What to ask, for a service that listens at `local`.
    #[must_use]
    pub fn of(&self, local: SocketAddr) -> Option<MetricsAsk<'_>> {
        let at = |port: Option<u16>| SocketAddr::new(local.ip(), port.unwrap_or_else(|| local.port()));
        match self {
            Self::Nowhere => None,
            Self::At { port, path } => Some(MetricsAsk::Page(at(*port), path)),
            Self::Grpc { port } => Some(MetricsAsk::Grpc(at(*port))),
        }
    }

    /// Whether nothing else was said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for MetricsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("none"),
            Self::At { port: None, path } => f.write_str(path),
            Self::At { port: Some(port), path } => write!(f, "{port}{path}"),
            Self::Grpc { port: None } => f.write_str("grpc"),
            Self::Grpc { port: Some(port) } => write!(f, "grpc:{port}"),
        }
    }
}

impl FromStr for MetricsPlace {
    type Err = ParseMetricsPlaceError;

    fn from_str(text: &str) -> Result<Self, ParseMetricsPlaceError> {
        let refused = || ParseMetricsPlaceError(text.chars().take(64).collect());
        if text == "none" {
            return Ok(Self::Nowhere);
        }
        let number = |digits: &str| digits.parse().ok().filter(|port| *port != 0).ok_or_else(refused);
        if text == "grpc" {
            return Ok(Self::Grpc { port: None });
        }
        if let Some(digits) = text.strip_prefix("grpc:") {
            return Ok(Self::Grpc { port: Some(number(digits)?) });
        }
        let (port, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let port = match port {
            "" => None,
            digits => Some(number(digits)?),
        };
        let path = match (path, port) {
            ("", Some(_)) => "/metrics",
            ("", None) => return Err(refused()),
            (path, _) => path,
        };
        if path.len() > MAX_PATH || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused());
        }
        Ok(Self::At { port, path: path.to_owned() })
    }
}

impl Serialize for MetricsPlace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MetricsPlace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let local = SocketAddr::from(([127, 0, 0, 1], 8080));
        for (text, port, path) in
            [("/metrics", 8080, "/metrics"), ("9090", 9090, "/metrics"), ("9090/m?x=1", 9090, "/m?x=1")]
        {
            let place: MetricsPlace = text.parse().unwrap();
            let at = SocketAddr::from(([127, 0, 0, 1], port));
            assert_eq!(place.of(local), Some(MetricsAsk::Page(at, path)), "{text}");
            assert_eq!(place.to_string().parse::<MetricsPlace>().unwrap(), place);
        }
        for (text, port) in [("grpc", 8080), ("grpc:9090", 9090)] {
            let place: MetricsPlace = text.parse().unwrap();
            let at = SocketAddr::from(([127, 0, 0, 1], port));
            assert_eq!((place.of(local), place.to_string()), (Some(MetricsAsk::Grpc(at)), text.to_owned()));
        }
        assert_eq!("none".parse::<MetricsPlace>().unwrap().of(local), None);
        assert_eq!(MetricsPlace::default().to_string(), "/metrics");
        for bad in [
            "",
            "0/metrics",
            "70000",
            "x/metrics",
            "/a b",
            "http://x/",
            "grpc:",
            "grpc:0",
            "grpc:x",
            "grpc/m",
            "9090/\u{e4}",
        ] {
            assert!(bad.parse::<MetricsPlace>().is_err(), "{bad}");
        }
        assert!(format!("/{}", "a".repeat(256)).parse::<MetricsPlace>().is_err());
    }
}
