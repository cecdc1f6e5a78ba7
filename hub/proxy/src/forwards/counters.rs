//! What forwards count.

use std::time::Duration;

use blueprint_common_runtime::accept::NoPlace;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_hub_proxy_core::Transport;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

type Label = [(&'static str, &'static str); 1];

/// Why a connection or flow did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The forward is not for that network.
    Source,
    /// Too many are open in all.
    Full,
    /// As many as one forward may have are open of it.
    FullInForward,
    /// Too many are open from there.
    FullFromSource,
    /// The TLS handshake failed or took too long, also for want of a certificate.
    Handshake,
    /// Its certificate does not count, or not any more.
    Certificate,
    /// The service has as many connections and flows open as its settings allow requests, or gets them too fast.
    Limit,
    /// The hub is short of memory.
    Overloaded,
    /// The service has no healthy target.
    NoTarget,
    /// No target could be reached.
    Unreachable,
}

impl From<NoPlace> for Refused {
    fn from(none: NoPlace) -> Self {
        match none {
            NoPlace::Full => Self::Full,
            NoPlace::FullFromSource => Self::FullFromSource,
        }
    }
}

impl Refused {
    const ALL: [Self; 10] = [
        Self::Source,
        Self::Full,
        Self::FullInForward,
        Self::FullFromSource,
        Self::Handshake,
        Self::Certificate,
        Self::Limit,
        Self::Overloaded,
        Self::NoTarget,
        Self::Unreachable,
    ];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Full => "full",
            Self::FullInForward => "full_in_forward",
            Self::FullFromSource => "full_from_source",
            Self::Handshake => "tls_failed",
            Self::Certificate => "certificate",
            Self::Limit => "limit_reached",
            Self::Overloaded => "overloaded",
            Self::NoTarget => "no_healthy_target",
            Self::Unreachable => "target_unreachable",
        }
    }

    /// What the audit log calls it where a rule of the operator refuses.
    pub(super) const fn rule(self) -> Option<&'static str> {
        match self {
            Self::Source => Some("forward_source"),
            Self::Certificate => Some("forward_certificate"),
            Self::Limit => Some("forward_limit"),
            Self::Handshake
            | Self::Full
            | Self::FullInForward
            | Self::FullFromSource
            | Self::Overloaded
            | Self::NoTarget
            | Self::Unreachable => None,
        }
    }
}

/// Why one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides were done.
    Closed,
    /// One side broke it off.
    Broken,
    /// The forward is gone, or is another one.
    Removed,
    /// The forward is not for that network any more.
    Source,
    /// The certificate of the client does not count any more.
    Certificate,
    /// Nothing passed for a long time.
    Idle,
    /// The target is not one to send to any more.
    Target,
    /// The hub stops.
    Stopped,
}

impl End {
    const ALL: [Self; 8] = [
        Self::Closed,
        Self::Broken,
        Self::Removed,
        Self::Source,
        Self::Certificate,
        Self::Idle,
        Self::Target,
        Self::Stopped,
    ];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Removed => "forward_removed",
            Self::Source => "source_removed",
            Self::Certificate => "certificate",
            Self::Idle => "idle",
            Self::Target => "target_gone",
            Self::Stopped => "stopped",
        }
    }
}

/// Why a datagram was not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// They came faster than they left.
    QueueFull,
    /// It does not fit the tunnel, or a datagram of the system.
    TooLong,
    /// The system or the tunnel did not take it.
    Failed,
}

impl Dropped {
    const ALL: [Self; 3] = [Self::QueueFull, Self::TooLong, Self::Failed];

    const fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooLong => "too_long",
            Self::Failed => "failed",
        }
    }
}

/// Bytes and time of one connection or flow.
pub(super) struct Passed {
    /// From the client to the service.
    pub(super) up: u64,
    /// From the service to the client.
    pub(super) down: u64,
    pub(super) took: Duration,
}

/// All counters of forwards.
#[derive(Debug)]
pub(super) struct Counters {
    open: Family<Label, Gauge>,
    ended: Family<[(&'static str, &'static str); 2], Counter>,
    refused: Family<Label, Counter>,
    dropped: Family<Label, Counter>,
    bytes: Family<Label, Counter>,
}

impl Counters {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let made = Self {
            open: Family::default(),
            ended: Family::default(),
            refused: Family::default(),
            dropped: Family::default(),
            bytes: Family::default(),
        };
        for refused in Refused::ALL {
            let _ = made.refused.get_or_create(&[("reason", refused.label())]);
        }
        for dropped in Dropped::ALL {
            let _ = made.dropped.get_or_create(&[("reason", dropped.label())]);
        }
        for transport in Transport::ALL {
            let _ = made.open.get_or_create(&[("protocol", transport.name())]);
            for end in End::ALL {
                let _ = made.ended.get_or_create(&[("protocol", transport.name()), ("reason", end.label())]);
            }
        }
        metrics.with(|registry| {
            let help = "Connections and flows of raw forwards that are open, by protocol";
            registry.register("hub_proxy_forward_open", help, made.open.clone());
            let help = "Connections and flows of raw forwards that ended, by protocol and reason";
            registry.register("hub_proxy_forward_ended", help, made.ended.clone());
            let help = "Connections and flows of raw forwards that were refused, by reason";
            registry.register("hub_proxy_forward_refused", help, made.refused.clone());
            let help = "Datagrams of raw forwards that were dropped, by reason";
            registry.register("hub_proxy_forward_datagrams_dropped", help, made.dropped.clone());
            let help = "Bytes that raw forwards passed on, by direction";
            registry.register("hub_proxy_forward_bytes", help, made.bytes.clone());
        });
        made
    }

    pub(super) fn count_refusal(&self, refused: Refused) {
        self.refused.get_or_create(&[("reason", refused.label())]).inc();
    }

    pub(super) fn count_dropped(&self, dropped: Dropped) {
        self.dropped.get_or_create(&[("reason", dropped.label())]).inc();
    }

    pub(super) fn begin(&self, transport: Transport) {
        self.open.get_or_create(&[("protocol", transport.name())]).inc();
    }

    /// Counts the end of what [`Self::begin`] counted.
    pub(super) fn end(&self, transport: Transport, passed: &Passed, end: End) {
        self.open.get_or_create(&[("protocol", transport.name())]).dec();
        self.ended.get_or_create(&[("protocol", transport.name()), ("reason", end.label())]).inc();
        self.bytes.get_or_create(&[("direction", "up")]).inc_by(passed.up);
        self.bytes.get_or_create(&[("direction", "down")]).inc_by(passed.down);
    }
}
