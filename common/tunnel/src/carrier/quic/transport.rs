//! The limits and timers of QUIC connections.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::ControllerFactory;
use quinn::{AckFrequencyConfig, EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};

/// UDP payload that a path has to take for this carrier, in bytes: an inner packet of 1280 and everything around it.
///
/// quinn takes a burst of losses for a path that became narrower and falls to its least size; with 1200 not even the
/// least inner packet passes then, and losses in bursts are what congestion looks like here.
const PAYLOAD_MIN: u16 = 1380;

use super::congestion::PathWindows;

/// The most that one receive call brings.
pub(super) const RECEIVE_BYTES: usize = 65_535;
/// Largest UDP payload taken from the other end: a jumbo frame of 9216 bytes.
const RECEIVE_PAYLOAD: u16 = 9216;
/// Datagrams that wait for the connection's task: four bundles of the engine. It is the queue that
/// stands under load, so it is short (1 ms at 2 Gbit/s); what waits longer does so in the outbox.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// Datagrams that wait for the link's task; older ones are dropped.
const RECEIVE_BUFFER_BYTES: usize = 2 << 20;
/// As on the TLS carrier: three keepalives fit into the idle timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(30);
/// One acknowledgement for so many packets: they only measure the path, nothing is sent again.
const PACKETS_PER_ACK: u8 = 64;
/// Longest wait for an acknowledgement (RFC 9000's default).
const ACK_DELAY: Duration = Duration::from_millis(25);

/// What one end of a link allows.
#[derive(Debug, Clone)]
pub struct QuicLimits {
    /// Largest UDP payload, in bytes, that the search for the path's MTU tries. Default 1472, for
    /// 1500 bytes over IPv4; the link begins with 1200 and gets there within some round trips.
    pub max_payload: u16,
    /// Handshakes of addresses that are not validated above which each has to prove its address
    /// with a Retry first. Default 64.
    pub unvalidated_max: usize,
    /// Handshakes at one time; those above are ignored. Default 1024.
    pub handshakes_max: usize,
}

impl Default for QuicLimits {
    fn default() -> Self {
        Self { max_payload: 1472, unvalidated_max: 64, handshakes_max: 1024 }
    }
}

impl QuicLimits {
    /// Largest UDP payload that is received.
    pub(super) fn receive_payload(&self) -> usize {
        usize::from(self.max_payload.max(RECEIVE_PAYLOAD))
    }
}

/// The transport parameters of both ends.
pub(super) fn config(limits: &QuicLimits) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(limits.max_payload).minimum_change(8);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from(PACKETS_PER_ACK)).max_ack_delay(Some(ACK_DELAY));
    let congestion: Arc<dyn ControllerFactory + Send + Sync> = Arc::new(PathWindows);

    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from(0_u8))
        .max_concurrent_uni_streams(VarInt::from(0_u8))
        .initial_mtu(PAYLOAD_MIN)
        .min_mtu(PAYLOAD_MIN)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IDLE.try_into().ok())
        .datagram_send_buffer_size(SEND_BUFFER_BYTES)
        .datagram_receive_buffer_size(Some(RECEIVE_BUFFER_BYTES))
        .congestion_controller_factory(congestion);
    config
}

/// The parameters of both endpoints.
pub(super) fn endpoint(limits: &QuicLimits) -> EndpointConfig {
    let mut config = EndpointConfig::default();
    // RFC 9287 lets a peer clear the fixed bit once we announce that we take it; we do not, because
    // that bit is what tells QUIC from WireGuard on a shared port (see `is_wireguard`).
    config.grease_quic_bit(false);
    // It fails below 1200 only.
    let _ = config.max_udp_payload_size(limits.max_payload.max(RECEIVE_PAYLOAD));
    config
}
