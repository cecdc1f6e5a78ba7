//! Counters of TLS towards clients.

use std::sync::atomic::AtomicU64;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use rustls::{HandshakeKind, ProtocolVersion};

use crate::metrics::set_time;

type Label = [(&'static str, &'static str); 1];
type Labels = [(&'static str, &'static str); 2];

/// What became of a look at certificate files that had changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reload {
    /// They are in use.
    Used,
    /// They cannot be used; the ones before are.
    Refused,
}

impl Reload {
    const fn label(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Refused => "refused",
        }
    }
}

#[derive(Debug)]
pub(crate) struct TlsMetrics {
    handshakes: Family<Labels, Counter>,
    reloads: Family<Label, Counter>,
    expiry: Gauge<f64, AtomicU64>,
}

impl TlsMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let made =
            Self { handshakes: Family::default(), reloads: Family::default(), expiry: Gauge::default() };
        for reload in [Reload::Used, Reload::Refused] {
            let _ = made.reloads.get_or_create(&[("result", reload.label())]);
        }
        metrics.with(|registry| {
            registry.register(
                "hub_proxy_tls_handshakes",
                "TLS handshakes of clients that succeeded, by version and by whether a session was resumed",
                made.handshakes.clone(),
            );
            registry.register(
                "hub_proxy_certificate_reloads",
                "Changed certificate files, by whether they could be used",
                made.reloads.clone(),
            );
            registry.register(
                "hub_proxy_certificate_expiry_timestamp_seconds",
                "When the first certificate of files or ACME ends, in seconds since 1970; 0 without one",
                made.expiry.clone(),
            );
        });
        made
    }

    pub(crate) fn count_handshake(&self, version: Option<ProtocolVersion>, kind: Option<HandshakeKind>) {
        let version = if version == Some(ProtocolVersion::TLSv1_3) { "1.3" } else { "1.2" };
        let resumed = if kind == Some(HandshakeKind::Resumed) { "yes" } else { "no" };
        self.handshakes.get_or_create(&[("version", version), ("resumed", resumed)]).inc();
    }

    pub(crate) fn count_reload(&self, reload: Reload) {
        self.reloads.get_or_create(&[("result", reload.label())]).inc();
    }

    pub(crate) fn set_expiry(&self, at: Option<Timestamp>) {
        match at {
            Some(at) => set_time(&self.expiry, at),
            None => drop(self.expiry.set(0.0)),
        }
    }
}
