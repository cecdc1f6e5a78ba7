//! Between wire types and domain types; wire types stop at the drivers.

use blueprint_common_types::{
    Carrier, Health, LogCursor, LogLevel, LogStream, MachineSample, ServiceKey, ServiceSample, TunnelSample,
    WholeSample,
};

use crate::v1;

/// A message holds a value that its field does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertError {
    /// Field name as in the `.proto` file.
    pub field: &'static str,
}

impl std::fmt::Display for ConvertError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "field {} is missing or out of range", self.field)
    }
}

impl std::error::Error for ConvertError {}

impl From<Health> for v1::Health {
    fn from(health: Health) -> Self {
        match health {
            Health::Unknown => Self::Unknown,
            Health::Healthy => Self::Healthy,
            Health::Unhealthy => Self::Unhealthy,
        }
    }
}

impl From<v1::Health> for Health {
    fn from(health: v1::Health) -> Self {
        match health {
            v1::Health::Healthy => Self::Healthy,
            v1::Health::Unhealthy => Self::Unhealthy,
            v1::Health::Unspecified | v1::Health::Unknown => Self::Unknown,
        }
    }
}

impl From<Option<LogLevel>> for v1::LogLevel {
    fn from(level: Option<LogLevel>) -> Self {
        match level {
            None => Self::Unspecified,
            Some(LogLevel::Trace) => Self::Trace,
            Some(LogLevel::Debug) => Self::Debug,
            Some(LogLevel::Info) => Self::Info,
            Some(LogLevel::Warn) => Self::Warn,
            Some(LogLevel::Error) => Self::Error,
        }
    }
}

impl From<v1::LogLevel> for Option<LogLevel> {
    fn from(level: v1::LogLevel) -> Self {
        match level {
            v1::LogLevel::Unspecified => None,
            v1::LogLevel::Trace => Some(LogLevel::Trace),
            v1::LogLevel::Debug => Some(LogLevel::Debug),
            v1::LogLevel::Info => Some(LogLevel::Info),
            v1::LogLevel::Warn => Some(LogLevel::Warn),
            v1::LogLevel::Error => Some(LogLevel::Error),
        }
    }
}

impl From<LogStream> for v1::LogStream {
    fn from(stream: LogStream) -> Self {
        match stream {
            LogStream::Stdout => Self::Stdout,
            LogStream::Stderr => Self::Stderr,
            LogStream::Node => Self::Node,
        }
    }
}

impl From<v1::LogStream> for LogStream {
    /// What a newer agent may know beside them is the node's.
    fn from(stream: v1::LogStream) -> Self {
        match stream {
            v1::LogStream::Stdout => Self::Stdout,
            v1::LogStream::Stderr => Self::Stderr,
            v1::LogStream::Node | v1::LogStream::Unspecified => Self::Node,
        }
    }
}

impl From<LogCursor> for v1::LogCursor {
    fn from(cursor: LogCursor) -> Self {
        Self { ring: cursor.ring, seq: cursor.seq }
    }
}

impl From<v1::LogCursor> for LogCursor {
    fn from(cursor: v1::LogCursor) -> Self {
        Self { ring: cursor.ring, seq: cursor.seq }
    }
}

impl From<Carrier> for v1::carrier_offer::Kind {
    fn from(carrier: Carrier) -> Self {
        match carrier {
            Carrier::Udp => Self::Udp,
            Carrier::Quic => Self::Quic,
            Carrier::Tls => Self::Tls,
        }
    }
}

/// Fails for a kind that this version does not know.
impl TryFrom<v1::carrier_offer::Kind> for Carrier {
    type Error = ConvertError;

    fn try_from(kind: v1::carrier_offer::Kind) -> Result<Self, ConvertError> {
        match kind {
            v1::carrier_offer::Kind::Udp => Ok(Self::Udp),
            v1::carrier_offer::Kind::Quic => Ok(Self::Quic),
            v1::carrier_offer::Kind::Tls => Ok(Self::Tls),
            v1::carrier_offer::Kind::Unspecified => Err(ConvertError { field: "kind" }),
        }
    }
}

impl From<MachineSample> for v1::MachineSample {
    fn from(sample: MachineSample) -> Self {
        Self {
            cpu_percent: sample.cpu_percent,
            memory_used_bytes: sample.memory_used_bytes,
            memory_total_bytes: sample.memory_total_bytes,
            disk_used_bytes: sample.disk_used_bytes,
            disk_total_bytes: sample.disk_total_bytes,
            network_rx_bytes: sample.network_rx_bytes,
            network_tx_bytes: sample.network_tx_bytes,
        }
    }
}

impl From<v1::MachineSample> for MachineSample {
    fn from(sample: v1::MachineSample) -> Self {
        Self {
            cpu_percent: percent(sample.cpu_percent, 100.0),
            memory_used_bytes: sample.memory_used_bytes,
            memory_total_bytes: sample.memory_total_bytes,
            disk_used_bytes: sample.disk_used_bytes,
            disk_total_bytes: sample.disk_total_bytes,
            network_rx_bytes: sample.network_rx_bytes,
            network_tx_bytes: sample.network_tx_bytes,
        }
    }
}

impl From<TunnelSample> for v1::TunnelSample {
    fn from(sample: TunnelSample) -> Self {
        Self {
            rtt_micros: sample.rtt_micros,
            jitter_micros: sample.jitter_micros,
            loss_percent: sample.loss_percent,
            handshake_age_secs: sample.handshake_age_secs,
            rx_bytes: sample.rx_bytes,
            tx_bytes: sample.tx_bytes,
        }
    }
}

impl From<v1::TunnelSample> for TunnelSample {
    fn from(sample: v1::TunnelSample) -> Self {
        Self {
            rtt_micros: sample.rtt_micros,
            jitter_micros: sample.jitter_micros,
            loss_percent: percent(sample.loss_percent, 100.0),
            handshake_age_secs: sample.handshake_age_secs,
            rx_bytes: sample.rx_bytes,
            tx_bytes: sample.tx_bytes,
        }
    }
}

impl From<ServiceSample> for v1::ServiceSample {
    fn from(sample: ServiceSample) -> Self {
        Self {
            blueprint_id: sample.service.blueprint,
            service_id: sample.service.service,
            port: sample.port.into(),
            health: v1::Health::from(sample.health).into(),
            pid: sample.pid,
            cpu_percent: sample.cpu_percent,
            memory_bytes: sample.memory_bytes,
            check_micros: sample.check_micros,
            whole: sample.whole.map(|whole| v1::WholeSample {
                pids: whole.pids,
                read_bytes: whole.read_bytes,
                written_bytes: whole.written_bytes,
            }),
        }
    }
}

impl TryFrom<v1::ServiceSample> for ServiceSample {
    type Error = ConvertError;

    fn try_from(sample: v1::ServiceSample) -> Result<Self, ConvertError> {
        Ok(Self {
            service: ServiceKey { blueprint: sample.blueprint_id, service: sample.service_id },
            port: u16::try_from(sample.port).map_err(|_| ConvertError { field: "port" })?,
            health: sample.health().into(),
            pid: sample.pid,
            cpu_percent: percent(sample.cpu_percent, 1_000_000.0),
            memory_bytes: sample.memory_bytes,
            check_micros: sample.check_micros,
            whole: sample.whole.map(|whole| WholeSample {
                pids: whole.pids,
                read_bytes: whole.read_bytes,
                written_bytes: whole.written_bytes,
            }),
        })
    }
}

/// A share that an agent measured: nothing outside 0 to `most` reaches a metric or a page.
fn percent(value: f32, most: f32) -> f32 {
    if value.is_finite() { value.clamp(0.0, most) } else { 0.0 }
}
