//! Counters of the proxy.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use blueprint_common_runtime::accept::AcceptStats;
use blueprint_common_runtime::logs::lost_access_lines;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::Timestamp;
use blueprint_hub_proxy_core::Refusal;
use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;

use crate::ledger::{Ledger, UsageCollector};

type Label = [(&'static str, &'static str); 1];

/// Upper bounds of the duration histogram, in seconds: from a service next door to a long stream.
const DURATION_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// Shows a moment in seconds since 1970.
pub(crate) fn set_time(gauge: &Gauge<f64, AtomicU64>, at: Timestamp) {
    // Seconds of a date are far below what an f64 holds exactly.
    gauge.set(f64::from(u32::try_from(at.as_secs()).unwrap_or(u32::MAX)));
}
/// What a request ended with; the first where its client was gone before there was a status.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Why the hub ended a connection of a client, or one answer on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The TLS handshake failed or took too long.
    Tls,
    /// The first bytes of a request took too long.
    Silent,
    /// The head of a request took too long.
    SlowHead,
    /// The client did not read its answer for too long.
    SlowReader,
    /// More streams of HTTP/2 were reset than their budget allows.
    Resets,
    /// More frames of HTTP/2 moved nothing than their budget allows.
    Frames,
    /// The hub is short of memory.
    Overloaded,
}

impl Cut {
    const ALL: [Self; 7] = [
        Self::Tls,
        Self::Silent,
        Self::SlowHead,
        Self::SlowReader,
        Self::Resets,
        Self::Frames,
        Self::Overloaded,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Silent => "silent",
            Self::SlowHead => "slow_head",
            Self::SlowReader => "slow_reader",
            Self::Resets => "reset_flood",
            Self::Frames => "frame_flood",
            Self::Overloaded => "overloaded",
        }
    }
}

/// Connections of clients, as the accept loop counts them.
#[derive(Debug)]
struct Connections(Vec<Arc<AcceptStats>>);

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let open: u64 = self.0.iter().map(|stats| stats.open()).sum();
        let open = ConstGauge::new(i64::try_from(open).unwrap_or(i64::MAX));
        let help = "Connections of clients that are open";
        open.encode(encoder.encode_descriptor(
            "hub_proxy_connections_open",
            help,
            None,
            open.metric_type(),
        )?)?;
        let lost = ConstCounter::new(lost_access_lines());
        let help = "Lines of the access log that were lost because it was read too slowly";
        lost.encode(encoder.encode_descriptor(
            "hub_access_log_lines_lost",
            help,
            None,
            lost.metric_type(),
        )?)?;
        let sum = |of: &dyn Fn(&AcceptStats) -> u64| self.0.iter().map(|stats| of(stats)).sum::<u64>();
        let mut count = |name, help, labels: &[(&str, u64)]| {
            let kind = ConstCounter::new(0u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (reason, value) in labels {
                ConstCounter::new(*value).encode(family.encode_family(&[("reason", *reason)])?)?;
            }
            Ok::<_, std::fmt::Error>(())
        };
        count(
            "hub_proxy_connections_refused",
            "Connections closed at once because there were too many, in all or from their source",
            &[("total", sum(&AcceptStats::refused_total)), ("source", sum(&AcceptStats::refused_per_ip))],
        )?;
        count(
            "hub_proxy_accept_errors",
            "Failed calls of accept, such as for want of files",
            &[("system", sum(&AcceptStats::errors))],
        )
    }
}

/// All metrics of the proxy; counting takes no lock but that of a histogram.
#[derive(Debug)]
pub(crate) struct ProxyMetrics {
    pub(crate) open: Gauge,
    pub(crate) aborted: Counter,
    pub(crate) retries: Counter,
    pub(crate) retries_over_budget: Counter,
    pub(crate) hedges: Counter,
    pub(crate) ejections: Counter,
    pub(crate) circuits_opened: Counter,
    revoked: Counter,
    requests: Family<Label, Counter>,
    /// Those of `requests`, in the order of [`CLASSES`]: to look one up costs a lock and a hash.
    by_class: [Counter; 6],
    refused: Family<Label, Counter>,
    cut: Family<Label, Counter>,
    duration: Histogram,
    pub(crate) first_byte: Histogram,
    pub(crate) connect: Histogram,
}

impl ProxyMetrics {
    pub(crate) fn register(metrics: &Metrics, connections: Vec<Arc<AcceptStats>>, ledger: Ledger) -> Self {
        let requests = Family::default();
        let by_class = CLASSES.map(|class| Counter::clone(&requests.get_or_create(&[("class", class)])));
        let made = Self {
            open: ledger.requests(),
            aborted: Counter::default(),
            retries: Counter::default(),
            retries_over_budget: Counter::default(),
            hedges: Counter::default(),
            ejections: Counter::default(),
            circuits_opened: Counter::default(),
            revoked: Counter::default(),
            requests,
            by_class,
            refused: Family::default(),
            cut: Family::default(),
            duration: Histogram::new(DURATION_BUCKETS),
            first_byte: Histogram::new(DURATION_BUCKETS),
            connect: Histogram::new(DURATION_BUCKETS),
        };
        for code in Refusal::CODES {
            let _ = made.refused.get_or_create(&[("reason", code)]);
        }
        for cut in Cut::ALL {
            let _ = made.cut.get_or_create(&[("reason", cut.label())]);
        }
        metrics.with(|registry| {
            registry.register_collector(Box::new(Connections(connections)));
            registry.register_collector(Box::new(UsageCollector(ledger)));
            registry.register("hub_proxy_requests_open", "Requests being answered now", made.open.clone());
            for (name, help, family) in made.families() {
                registry.register(name, help, family.clone());
            }
            for (name, help, histogram) in made.histograms() {
                registry.register(name, help, histogram.clone());
            }
            for (name, help, counter) in made.counters() {
                registry.register(name, help, counter.clone());
            }
        });
        made
    }

    const fn families(&self) -> [(&'static str, &'static str, &Family<Label, Counter>); 3] {
        let cut = "Connections of clients that the hub ended, and answers that it cut, by reason";
        [
            ("hub_proxy_requests", "Requests answered, by class of status", &self.requests),
            ("hub_proxy_requests_refused", "Requests refused, by reason", &self.refused),
            ("hub_proxy_connections_cut", cut, &self.cut),
        ]
    }

    const fn histograms(&self) -> [(&'static str, &'static str, &Histogram); 3] {
        let duration = "From the head of a request to the end of its answer";
        let first_byte = "From the decision about a request to the head of its answer";
        let connect = "How long connections to services took to open, through the tunnel";
        [
            ("hub_proxy_request_duration_seconds", duration, &self.duration),
            ("hub_proxy_upstream_first_byte_seconds", first_byte, &self.first_byte),
            ("hub_proxy_upstream_connect_seconds", connect, &self.connect),
        ]
    }

    const fn counters(&self) -> [(&'static str, &'static str, &Counter); 7] {
        let retries = "Requests sent again because a connection did not open or broke before an answer";
        let over = "Requests not sent again because a fifth of the service's requests were already";
        let hedges = "Requests sent to a second target because the first took its time";
        let ejections = "Times that a target failed so often that it got no requests for a while";
        let circuits =
            "Times that no target of a service could be reached, so that requests were refused at once";
        let aborted = "Answers that a service broke off after their head";
        let revoked = "Open requests cut because what let them in was taken back";
        [
            ("hub_proxy_upstream_retries", retries, &self.retries),
            ("hub_proxy_upstream_retries_over_budget", over, &self.retries_over_budget),
            ("hub_proxy_upstream_hedges", hedges, &self.hedges),
            ("hub_proxy_upstream_ejections", ejections, &self.ejections),
            ("hub_proxy_upstream_circuits_opened", circuits, &self.circuits_opened),
            ("hub_proxy_upstream_aborts", aborted, &self.aborted),
            ("hub_proxy_requests_revoked", revoked, &self.revoked),
        ]
    }

    pub(crate) fn count_refusal(&self, refusal: &Refusal) {
        self.refused.get_or_create(&[("reason", refusal.code())]).inc();
    }

    pub(crate) fn count_revoked(&self) {
        self.revoked.inc();
    }

    pub(crate) fn count_cut(&self, cut: Cut) {
        self.cut.get_or_create(&[("reason", cut.label())]).inc();
    }

    /// `status` is `None` where the client went away before there was one.
    pub(crate) fn count_request(&self, status: Option<StatusCode>, took: Duration) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100).clamp(1, 5));
        if let Some(counter) = self.by_class.get(class) {
            counter.inc();
        }
        self.duration.observe(took.as_secs_f64());
    }
}
