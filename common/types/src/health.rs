//! Health of a target and how it is checked.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

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
#[error(
    "{0:?} is not a health check: tcp, http:/PATH, http:STATUS:/PATH, http:FIRST-LAST:/PATH, grpc, grpc:SERVICE or none was expected"
)]
pub struct ParseHealthCheckError(String);

/// Statuses of HTTP that count as healthy. Text form `204` or `200-299`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    /// Everything below 400, which is what a check without statuses takes.
    pub const BELOW_400: Self = Self { first: 100, last: 399 };

    /// From `first` to `last`, both included; `None` where that is no range within 100 to 599.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first < 100 || last > 599 || first > last { None } else { Some(Self { first, last }) }
    }

    /// Whether the status is one of them.
    #[must_use]
    pub const fn contains(self, status: u16) -> bool {
        self.first <= status && status <= self.last
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// How an agent finds out whether a service answers. Text form `tcp`, `http:/PATH`, `http:FIRST-LAST:/PATH`, `grpc`,
/// `grpc:SERVICE` or `none`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum HealthCheck {
    /// A TCP connection opens.
    #[default]
    Tcp,
    /// Not at all: it counts as healthy while it is offered.
    Unchecked,
    /// `GET` of this path answers with one of these statuses.
    Http {
        /// The path, with a query where it has one.
        path: String,
        /// What counts as healthy.
        statuses: StatusRange,
    },
    /// `grpc.health.v1.Health/Check` of this service answers `SERVING`; empty for the server as a whole.
    Grpc(String),
}

impl HealthCheck {
    /// `GET` of a path that answers below 400.
    #[must_use]
    pub fn http(path: &str) -> Self {
        Self::Http { path: path.to_owned(), statuses: StatusRange::BELOW_400 }
    }
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Unchecked => f.write_str("none"),
            Self::Http { path, statuses } if *statuses == StatusRange::BELOW_400 => write!(f, "http:{path}"),
            Self::Http { path, statuses } => write!(f, "http:{statuses}:{path}"),
            Self::Grpc(service) if service.is_empty() => f.write_str("grpc"),
            Self::Grpc(service) => write!(f, "grpc:{service}"),
        }
    }
}

impl FromStr for HealthCheck {
    type Err = ParseHealthCheckError;

    fn from_str(text: &str) -> Result<Self, ParseHealthCheckError> {
        let read = match text.split_once(':') {
            None if text == "tcp" => Some(Self::Tcp),
            None if text == "none" => Some(Self::Unchecked),
            None if text == "grpc" => Some(Self::Grpc(String::new())),
            Some(("http", rest)) => read_http(rest),
            Some(("grpc", service)) if is_grpc_service(service) => Some(Self::Grpc(service.to_owned())),
            None | Some(_) => None,
        };
        read.ok_or_else(|| ParseHealthCheckError(text.chars().take(64).collect()))
    }
}

/// `/PATH`, `STATUS:/PATH` or `FIRST-LAST:/PATH`.
fn read_http(text: &str) -> Option<HealthCheck> {
    let (statuses, path) = match text.split_once(':') {
        Some((statuses, path)) if !text.starts_with('/') => {
            let (first, last) = statuses.split_once('-').unwrap_or((statuses, statuses));
            (StatusRange::new(first.parse().ok()?, last.parse().ok()?)?, path)
        }
        Some(_) | None => (StatusRange::BELOW_400, text),
    };
    let is_path = path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic());
    is_path.then(|| HealthCheck::Http { path: path.to_owned(), statuses })
}

/// A name as protobuf has them: `package.Service`.
fn is_grpc_service(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
    !text.is_empty() && text.len() <= 256 && text.bytes().all(is_part)
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

/// How often a service is checked, how long one check may take, and how many results change its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckPace {
    /// Seconds from one check to the next, 1 to 3600; each pause is up to a tenth longer or shorter. Default 1.
    pub interval_secs: u32,
    /// Longest time of one check in milliseconds, 10 to 60000. Default 1500.
    pub timeout_millis: u32,
    /// Failures in a row that make a service unhealthy, 1 to 100. Default 2.
    pub fall: u32,
    /// Successes in a row that make an unhealthy service healthy, 1 to 100. Default 1.
    pub rise: u32,
    /// Seconds from its start for which failures do not count, until it answered once; 0 to 3600. Default 0.
    pub grace_secs: u32,
}

impl Default for CheckPace {
    fn default() -> Self {
        Self { interval_secs: 1, timeout_millis: 1500, fall: 2, rise: 1, grace_secs: 0 }
    }
}

/// A number of a pace is out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, and has to be from {least} to {most}")]
pub struct CheckPaceError {
    /// Which.
    pub field: &'static str,
    /// What it is.
    pub value: u32,
    /// The least.
    pub least: u32,
    /// The most.
    pub most: u32,
}

impl CheckPace {
    /// Checks every number.
    ///
    /// # Errors
    ///
    /// The first that is out of its bounds.
    pub fn check(&self) -> Result<(), CheckPaceError> {
        for (field, value, least, most) in [
            ("interval_secs", self.interval_secs, 1, 3600),
            ("timeout_millis", self.timeout_millis, 10, 60_000),
            ("fall", self.fall, 1, 100),
            ("rise", self.rise, 1, 100),
            ("grace_secs", self.grace_secs, 0, 3600),
        ] {
            if !(least..=most).contains(&value) {
                return Err(CheckPaceError { field, value, least, most });
            }
        }
        Ok(())
    }

    /// Whether nothing was said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Longest time of one check.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_millis.into())
    }

    /// Time for which failures do not count.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_secs.into())
    }

    /// The pause before the next check; `random` spreads it over nine to eleven tenths of the interval.
    #[must_use]
    pub fn pause(&self, random: u8) -> Duration {
        let interval = Duration::from_secs(self.interval_secs.into());
        let tenth = interval / 10;
        interval
            .saturating_sub(tenth)
            .saturating_add(tenth.saturating_mul(2).saturating_mul(random.into()) / 255)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_read_as_it_is_written() {
        for text in [
            "tcp",
            "none",
            "http:/",
            "http:/a?b=c:d",
            "http:204:/ok",
            "http:200-299:/ok",
            "grpc",
            "grpc:a.v1.B",
        ] {
            assert_eq!(text.parse::<HealthCheck>().unwrap().to_string(), text);
        }
        assert_eq!("http:100-399:/ok".parse(), Ok(HealthCheck::http("/ok")));
        let wrong = [
            "",
            "udp",
            "http",
            "http:",
            "http:ok",
            "http:99:/",
            "http:300-200:/",
            "http:600:/",
            "grpc:",
            "grpc:a b",
            "tcp:1",
        ];
        for text in wrong {
            assert!(text.parse::<HealthCheck>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pause_stays_within_a_tenth_and_numbers_within_their_bounds() {
        let pace = CheckPace { interval_secs: 10, ..CheckPace::default() };
        assert_eq!((pace.pause(0), pace.pause(255)), (Duration::from_secs(9), Duration::from_secs(11)));
        assert_eq!(pace.check(), Ok(()));
        let wrong = CheckPace { fall: 0, ..pace };
        assert_eq!(wrong.check().unwrap_err().to_string(), "fall is 0, and has to be from 1 to 100");
        assert!(serde_json::from_str::<CheckPace>(r#"{"falls":1}"#).is_err());
    }
}
