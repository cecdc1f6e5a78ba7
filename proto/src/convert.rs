//! Between wire types and domain types; wire types stop at the drivers.

use blueprint_common_types::{Carrier, Health, MachineSample, ServiceKey, ServiceSample, TunnelSample};

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
        })
    }
}

/// A share that an agent measured: nothing outside 0 to `most` reaches a metric or a page.
fn percent(value: f32, most: f32) -> f32 {
    if value.is_finite() { value.clamp(0.0, most) } else { 0.0 }
}
