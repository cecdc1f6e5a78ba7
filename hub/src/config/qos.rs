//! Section `qos`: what is recorded of services and machines, and who is told.

use std::net::SocketAddr;
use std::time::Duration;

use blueprint_common_runtime::config::{Key, Problems, Settings};
use blueprint_common_tunnel::Interface;
use blueprint_hub_registry_core::qos::Keep;

use super::{private_address, span};

/// The port that the Blueprint SDK has for it.
const QOS_PORT: u16 = 9615;

const DAY: u64 = 24 * 3600;

/// The keys of the section.
pub(super) const PORT: Key = Key::new(
    "qos.port",
    "auto",
    "TCP port of this hub inside the tunnel where machines ask, by the Blueprint SDK's qos.QosMetrics, how services are \
     doing that the policy lets them reach; auto is 9615 with tunnel.interface = \"netstack\", and off with \"tun\", where \
     the port is one of this machine's; or off.",
);
pub(super) const LISTEN: Key = Key::new(
    "qos.listen",
    "off",
    "Loopback address, such as 127.0.0.1:9615, where programs of this machine ask the same and see every service; or off.",
);
pub(super) const WRITE_EVERY: Key = Key::new(
    "qos.write_every",
    "60s",
    "How often history is stored, 1s to 5m; a hub that is killed loses so much.",
);
pub(super) const SAMPLES: Key = Key::new(
    "qos.keep_samples",
    "1h",
    "How long single samples of agents are kept, 1m to 48h; minutes are made of them at once and kept for longer.",
);
pub(super) const MINUTES: Key =
    Key::new("qos.keep_minutes", "48h", "How long history is kept by the minute, 2h to 30 days.");
pub(super) const HOURS: Key = Key::new(
    "qos.keep_hours",
    "400d",
    "How long history is kept by the hour, 1 day to 3660 days; monthly reports need it.",
);
pub(super) const ROWS: Key = Key::new(
    "qos.max_rows",
    "1000000",
    "Most single samples, and rows of minutes, and of hours, about 150 bytes each, the hours of services left out; where there are more, the \
     oldest go.",
);
pub(super) const METRICS_EVERY: Key = Key::new(
    "qos.metrics_every",
    "5m",
    "How often the metrics that services show of themselves are stored, for 48 hours, 1s to 1h; or off.",
);

/// What is recorded, and where it is served.
#[derive(Debug, Clone)]
pub(crate) struct QosConfig {
    /// Port inside the tunnel.
    pub(crate) port: Option<u16>,
    /// Loopback address of this machine.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) write_every: Duration,
    pub(crate) keep: Keep,
    pub(crate) metrics_every: Option<Duration>,
}

impl QosConfig {
    /// Takes the section; what cannot be used is a problem.
    pub(super) fn take(
        settings: &Settings,
        interface: Option<&Interface>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let port = match settings.text(PORT.path) {
            Some("auto") => interface.map(|end| matches!(end, Interface::Netstack).then_some(QOS_PORT)),
            Some("off") => Some(None),
            _ => settings.take_within(PORT.path, 1..=u16::MAX, problems).map(Some),
        };
        let listen = private_address(settings, LISTEN.path, problems);
        let write_every = span(settings, WRITE_EVERY.path, 1, 300, problems);
        let samples = span(settings, SAMPLES.path, 60, 2 * DAY, problems);
        let minutes = span(settings, MINUTES.path, 2 * 3600, 30 * DAY, problems);
        let hours = span(settings, HOURS.path, DAY, 3660 * DAY, problems);
        let rows = settings.take_within(ROWS.path, 10_000..=100_000_000u64, problems);
        let metrics_every = match settings.text(METRICS_EVERY.path) {
            Some("off") => Some(None),
            _ => span(settings, METRICS_EVERY.path, 1, 3600, problems).map(Some),
        };
        if let (Some(minutes), Some(hours)) = (minutes, hours)
            && hours < minutes
        {
            settings.refuse(HOURS.path, "less than qos.keep_minutes", problems);
        }
        Some(Self {
            port: port?,
            listen: listen?,
            write_every: write_every?,
            keep: Keep { samples: samples?, minutes: minutes?, hours: hours?, rows: rows? },
            metrics_every: metrics_every?,
        })
    }
}
