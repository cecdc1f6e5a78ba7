//! Health of a target and how it is checked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is known of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Not checked yet; gets no requests.
    Unknown,
    /// Answers its check.
    Healthy,
    /// Fails its check, or its data plane does not echo.
    Unhealthy,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// A text is not a health check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a health check: tcp, http:/PATH or none was expected")]
pub struct ParseHealthCheckError(String);

/// How an agent finds out whether a service answers. Text form `tcp`, `http:/PATH` or `none`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum HealthCheck {
    /// A TCP connection opens.
    #[default]
    Tcp,
    /// Not at all: it counts as healthy while it is offered.
    Unchecked,
    /// `GET` of this path answers with a status below 400.
    Http(String),
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Unchecked => f.write_str("none"),
            Self::Http(path) => write!(f, "http:{path}"),
        }
    }
}

impl FromStr for HealthCheck {
    type Err = ParseHealthCheckError;

    fn from_str(text: &str) -> Result<Self, ParseHealthCheckError> {
        let is_path = |path: &str| {
            path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic())
        };
        match text.strip_prefix("http:") {
            None if text == "tcp" => Ok(Self::Tcp),
            None if text == "none" => Ok(Self::Unchecked),
            Some(path) if is_path(path) => Ok(Self::Http(path.to_owned())),
            None | Some(_) => Err(ParseHealthCheckError(text.chars().take(64).collect())),
        }
    }
}

impl Serialize for HealthCheck {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HealthCheck {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
