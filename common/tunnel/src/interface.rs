//! Where the overlay ends on this machine: in this process, or in a network device of the kernel.

use blueprint_common_tunnel_core::offload::MergeLimits;
use blueprint_common_tunnel_core::{Config, OverlayPrefixes};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use tracing::{info, warn};

use crate::error::InterfaceError;
use crate::routes;
use crate::sys::netlink::{self, LinkConfig};
use crate::sys::tun::{Offload, TunConfig, TunDevice, TunQueue};

/// Length of the device's queue in packets or superpackets: shorter ones drop where TCP bursts.
const QUEUE_LEN: u32 = 500;
/// Largest payload of one call that sends datagrams, and what WireGuard adds to a packet.
const BUNDLE_BYTES: u32 = 65_507;
const OVERHEAD_BYTES: u32 = 32;
/// Header bytes of a TCP segment with time stamps, over IPv4.
const TCP_HEADER_BYTES: u32 = 52;

/// Where the overlay ends on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interface {
    /// A TCP/IP stack in this process: no right is needed, and only this process sees the overlay.
    Netstack,
    /// A network device of the kernel: every program of the machine sees the overlay. Needs `CAP_NET_ADMIN`.
    Tun(TunSettings),
}

/// How the device is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunSettings {
    /// Its name; `%d` in it becomes the first free number.
    pub name: String,
    /// Runs of UDP datagrams cross into the kernel in one piece (USO, Linux 6.2), those of the well-known tunnel
    /// protocols excepted. To be switched off where what is inside of UDP does not bear it.
    pub udp_offload: bool,
}

impl Default for TunSettings {
    fn default() -> Self {
        Self { name: "bp%d".to_owned(), udp_offload: true }
    }
}

/// A device that stands, with its queues.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) queues: Vec<TunQueue>,
    pub(crate) limits: MergeLimits,
}

/// Makes the device and gives it addresses, MTU and queue. It vanishes with this process, however that ends.
pub(crate) fn open(settings: &TunSettings, core: &Config, queues: usize) -> Result<Device, InterfaceError> {
    let addresses = addresses(core);
    if let Some((overlay, known)) = routes::conflict(&addresses) {
        let (network, interface) = (known.network, known.interface);
        return Err(InterfaceError::Overlap { overlay, network, interface });
    }
    let offload = Offload { tso: true, uso: settings.udp_offload };
    let config = TunConfig { name: settings.name.clone(), queues, offload };
    let (device, queues) = TunDevice::open(&config).map_err(InterfaceError::from_tun)?;
    let mtu = u32::from(core.mtu);
    let segments = BUNDLE_BYTES / (mtu + OVERHEAD_BYTES);
    let link = LinkConfig {
        addresses,
        routes: Vec::new(),
        allow_default_route: false,
        mtu,
        queue_len: QUEUE_LEN,
        // One superpacket then leaves in one call.
        gso_max: Some(segments.saturating_mul(mtu.saturating_sub(TCP_HEADER_BYTES))),
    };
    for notice in netlink::configure(&device, &link).map_err(InterfaceError::from_netlink)? {
        warn!(interface = device.name, "{notice}");
    }
    let had = device.offload();
    let header = device.has_header();
    info!(interface = device.name, mtu, header, tso = had.tso, uso = had.uso, "network device is up");
    let limits = MergeLimits { tcp: had.tso, udp: had.uso, max_bytes: 65_535, max_segments: 64 };
    Ok(Device { name: device.name, queues, limits })
}

/// Our addresses with the overlay's prefixes, from which the kernel makes the routes to the other machines.
fn addresses(core: &Config) -> Vec<IpNetwork> {
    let OverlayPrefixes { v4, v6 } = core.prefixes;
    let v4 = Ipv4Network::new(core.addresses.v4, v4.prefix()).map(IpNetwork::V4);
    let v6 = Ipv6Network::new(core.addresses.v6, v6.prefix()).map(IpNetwork::V6);
    v4.into_iter().chain(v6).collect()
}
