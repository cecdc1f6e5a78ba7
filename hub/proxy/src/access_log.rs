//! One line for each request, written when it is over: target `access`, fields only.
//!
//! Never a credential, a query or a header. Where the lines go and that they hold nobody up is the
//! business of whoever starts the logs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::RequestId;
use http::{Method, StatusCode, Version};
use tracing::info;

/// Longest path in a line, in bytes.
const MAX_PATH: usize = 512;

/// Which requests are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLog {
    /// None.
    Off,
    /// Every one.
    #[default]
    On,
    /// One of so many, and every one that failed on the hub's side or was broken off.
    Sampled(u64),
}

impl AccessLog {
    fn writes(self, status: Option<StatusCode>) -> bool {
        static TURN: AtomicU64 = AtomicU64::new(0);
        match self {
            Self::Off => false,
            Self::On => true,
            Self::Sampled(every) => {
                status.is_none_or(|status| status.is_server_error())
                    || TURN.fetch_add(1, Ordering::Relaxed).is_multiple_of(every.max(1))
            }
        }
    }
}

impl AccessLog {
    /// Whether a connection or flow of a raw forward is written, which ended well or not.
    pub(crate) fn writes_forward(self, is_well: bool) -> bool {
        self.writes(is_well.then_some(StatusCode::OK))
    }
}

impl std::str::FromStr for AccessLog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sampled = |text: &str| text.strip_prefix("1/")?.parse().ok().filter(|every| *every > 0);
        match text {
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            other => sampled(other).map(Self::Sampled).ok_or_else(|| "not on, off or 1/N".to_owned()),
        }
    }
}

/// What is known of a request; all of it when it is over.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) request_id: RequestId,
    pub(crate) source: IpAddr,
    pub(crate) tls: bool,
    pub(crate) version: Version,
    /// `None` where the bytes of the request have no one meaning.
    pub(crate) method: Option<Method>,
    pub(crate) path: Option<Arc<str>>,
    pub(crate) service: Option<ServiceKey>,
    pub(crate) auth: Option<&'static str>,
    /// What the credential stands on.
    pub(crate) identity: Option<Arc<str>>,
    /// The credential itself, where it is not the same.
    pub(crate) credential: Option<String>,
    pub(crate) target: Option<SocketAddr>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) refused: Option<&'static str>,
    pub(crate) upgraded: bool,
    /// From the head to the decision, with the choice of a target.
    pub(crate) decided: Option<Duration>,
    /// How often it was sent, or a connection for it was tried.
    pub(crate) tries: Option<u32>,
    /// Of the connection that this request opened, and of those that did not open.
    pub(crate) connected: Option<Duration>,
    /// From the decision to the head of the answer, or until it was given up; without `connected`.
    pub(crate) upstream: Option<Duration>,
}

impl Entry {
    /// A request of which only the connection is known.
    pub(crate) fn new(source: IpAddr, tls: bool) -> Self {
        Self {
            request_id: RequestId::default(),
            source,
            tls,
            version: Version::HTTP_11,
            method: None,
            path: None,
            service: None,
            auth: None,
            identity: None,
            credential: None,
            target: None,
            status: None,
            refused: None,
            upgraded: false,
            decided: None,
            tries: None,
            connected: None,
            upstream: None,
        }
    }

    /// Notes what was asked for: the path in its normal form, without the query.
    pub(crate) fn set_request(&mut self, method: &Method, path: &Arc<str>) {
        self.method = Some(method.clone());
        let shown = path.get(..path.floor_char_boundary(MAX_PATH)).unwrap_or_default();
        self.path = Some(if shown.len() == path.len() { Arc::clone(path) } else { shown.into() });
    }

    pub(crate) fn write(&self, log: AccessLog, took: Duration, (received, sent): (u64, u64)) {
        if !log.writes(self.status) {
            return;
        }
        let protocol = protocol(self.version, self.upgraded);
        info!(
            target: "access",
            request_id = self.request_id.as_str(),
            source = %self.source,
            tls = self.tls,
            protocol,
            method = self.method.as_ref().map(Method::as_str),
            path = self.path.as_deref(),
            service = self.service.map(tracing::field::display),
            auth = self.auth,
            identity = self.identity.as_deref(),
            credential = self.credential.as_deref(),
            target_address = self.target.map(tracing::field::display),
            tries = self.tries,
            status = self.status.map(|status| status.as_u16()),
            refused = self.refused,
            bytes_in = received,
            bytes_out = sent,
            total_us = micros(took),
            decide_us = self.decided.map(micros),
            connect_us = self.connected.map(micros),
            upstream_us = self.upstream.map(micros),
            "request",
        );
    }
}

const fn protocol(version: Version, upgraded: bool) -> &'static str {
    match (version, upgraded) {
        (_, true) => "websocket",
        (Version::HTTP_3, false) => "h3",
        (Version::HTTP_2, false) => "h2",
        (Version::HTTP_10, false) => "http/1.0",
        _ => "http/1.1",
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_its_name() {
        let versions = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2, Version::HTTP_3];
        let names = versions.map(|version| protocol(version, false));
        assert_eq!(names, ["http/1.0", "http/1.1", "h2", "h3"]);
        assert!(versions.iter().all(|version| protocol(*version, true) == "websocket"));
    }

    #[test]
    fn failures_are_written_though_only_some_are() {
        let log: AccessLog = "1/4".parse().unwrap();
        let written = (0..400).filter(|_| log.writes(Some(StatusCode::OK))).count();
        assert!((90..=110).contains(&written), "{written}");
        assert!((0..10).all(|_| log.writes(Some(StatusCode::BAD_GATEWAY)) && log.writes(None)));
        assert!(!AccessLog::Off.writes(None));
        for text in ["", "1/0", "2/3", "yes", "1/"] {
            assert!(text.parse::<AccessLog>().is_err(), "{text:?}");
        }
    }
}
