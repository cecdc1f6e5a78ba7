//! HTTP/3 on a socket that it shares with the carriers of agents.

use std::sync::Arc;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_tunnel::carrier::{NeighbourSide, NeighbourSocket};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;

/// The UDP socket of HTTP/3, which takes TLS.
#[derive(Debug, Clone, Default)]
pub enum Http3Socket {
    /// It is not spoken.
    #[default]
    Off,
    /// One of its own, of the same number as the TCP port with TLS.
    Own,
    /// That of the carriers of agents, whatever its number; `Alt-Svc` tells clients.
    Shared(Arc<NeighbourSocket>),
}

/// Shows what was lost on a shared socket.
pub(crate) fn register_shared(metrics: &Metrics, socket: &Http3Socket) {
    let side = match socket {
        Http3Socket::Off | Http3Socket::Own => return,
        Http3Socket::Shared(shared) => shared.side(),
    };
    metrics.with(|registry| registry.register_collector(Box::new(Lost(side))));
}

#[derive(Debug)]
struct Lost(Arc<NeighbourSide>);

impl Collector for Lost {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (name, help) = (
            "hub_proxy_http3_datagrams_lost",
            "Datagrams on the shared UDP port that no HTTP/3 got, by reason",
        );
        let kind = ConstCounter::new(0u64).metric_type();
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        let reasons = [
            // Came faster than they were looked at.
            ("queue_full", self.0.lost()),
            // First packets that nobody can read.
            ("unreadable", self.0.unreadable()),
        ];
        for (reason, count) in reasons {
            ConstCounter::new(count).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        Ok(())
    }
}
