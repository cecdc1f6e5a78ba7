//! What a single packet is to the merger, and whether two follow each other.

use super::MergeLimits;
use crate::offload::checksum;
use crate::offload::ip::{
    Ip, TCP, TCP_CHECKSUM_AT, TCP_HEADER_BYTES, UDP, UDP_CHECKSUM_AT, UDP_HEADER_BYTES, V4_HEADER_BYTES,
    field, wide_field,
};

const ACK: u8 = 0x10;
pub(super) const PSH: u8 = 0x08;
/// Where the flags are in a TCP header.
pub(super) const TCP_FLAGS_AT: usize = 13;
const DONT_FRAGMENT: u16 = 0x4000;
/// Headers behind which TCP or UDP may follow in IPv6: hop-by-hop, routing, fragment, authentication, destination
/// options, mobility, host identity, shim6 and the two experimental ones (IANA, "IPv6 Extension Header Types").
const V6_EXTENSIONS: [u8; 10] = [0, 43, 44, 51, 60, 135, 139, 140, 253, 254];

/// UDP ports of other tunnels: GTP-U, VXLAN, VXLAN-GPE, Geneve, VXLAN as Linux first had it. A run of such datagrams
/// in one piece confuses the kernel's own decapsulation (tailscale issue 11026).
const TUNNEL_PORTS: [u16; 5] = [2152, 4789, 4790, 6081, 8472];

/// A flow: both addresses, both ports, protocol and IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    addresses: [u64; 4],
    ports: u32,
    protocol: u8,
    is_v4: bool,
}

impl Key {
    /// No flow: protocol zero is neither TCP nor UDP.
    pub(super) const FREE: Self = Self { addresses: [0; 4], ports: 0, protocol: 0, is_v4: false };

    fn of(ip: &Ip<'_>, ports: u32) -> Self {
        let mut addresses = [0; 4];
        let (words, _) = ip.addresses.as_chunks::<8>();
        for (to, word) in addresses.iter_mut().zip(words) {
            *to = u64::from_ne_bytes(*word);
        }
        Self { addresses, ports, protocol: ip.protocol, is_v4: ip.is_v4 }
    }
}

/// What is to be done with a packet.
#[derive(Debug)]
pub(super) enum Class {
    /// Its flow is never gathered: it may pass at once.
    Apart,
    /// It may belong to any flow: fragments, options, extension headers, nonsense.
    Unknown,
    /// It is of a flow that may be gathered, but is never merged itself.
    Kept(Key),
    /// It may join or open a group.
    Segment(Key, Segment),
}

/// A packet that may join a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) is_v4: bool,
    pub(super) is_tcp: bool,
    /// Bytes of the IP header.
    pub(super) ip_len: usize,
    /// Bytes of both headers.
    pub(super) header_len: usize,
    pub(super) payload_len: usize,
    /// TCP's sequence number; zero for UDP.
    pub(super) seq: u32,
    /// True where nothing may follow in its group: PSH is set.
    pub(super) ends: bool,
}

impl Class {
    pub(super) fn of(packet: &[u8], limits: &MergeLimits) -> Self {
        let Some(ip) = Ip::parse(packet) else { return Self::Unknown };
        let has_options = ip.is_v4 && ip.header_len != V4_HEADER_BYTES;
        match ip.protocol {
            _ if has_options || ip.is_fragment() => Self::Unknown,
            TCP if limits.tcp => Self::of_tcp(&ip, packet),
            UDP if limits.udp => Self::of_udp(&ip, packet),
            protocol if !ip.is_v4 && V6_EXTENSIONS.contains(&protocol) => Self::Unknown,
            _ => Self::Apart,
        }
    }

    fn of_tcp(ip: &Ip<'_>, packet: &[u8]) -> Self {
        let tcp = packet.get(ip.header_len..).unwrap_or_default();
        let Some([offset, flags]) = tcp.get(TCP_FLAGS_AT - 1..).and_then(<[u8]>::first_chunk) else {
            return Self::Unknown;
        };
        let key = Key::of(ip, wide_field(tcp, 0));
        let tcp_len = usize::from(offset >> 4) * 4;
        let is_plain = flags & !PSH == ACK && (TCP_HEADER_BYTES..tcp.len()).contains(&tcp_len);
        if !is_plain {
            return Self::Kept(key);
        }
        let segment = Segment {
            is_v4: ip.is_v4,
            is_tcp: true,
            ip_len: ip.header_len,
            header_len: ip.header_len + tcp_len,
            payload_len: tcp.len() - tcp_len,
            seq: wide_field(tcp, 4),
            ends: flags & PSH != 0,
        };
        Self::Segment(key, segment)
    }

    fn of_udp(ip: &Ip<'_>, packet: &[u8]) -> Self {
        let udp = packet.get(ip.header_len..).unwrap_or_default();
        if udp.len() < UDP_HEADER_BYTES {
            return Self::Unknown;
        }
        let key = Key::of(ip, wide_field(udp, 0));
        let is_plain = !TUNNEL_PORTS.contains(&field(udp, 2))
            && usize::from(field(udp, 4)) == udp.len()
            && udp.len() > UDP_HEADER_BYTES
            && field(udp, UDP_CHECKSUM_AT) != 0;
        if !is_plain {
            return Self::Kept(key);
        }
        let segment = Segment {
            is_v4: ip.is_v4,
            is_tcp: false,
            ip_len: ip.header_len,
            header_len: ip.header_len + UDP_HEADER_BYTES,
            payload_len: udp.len() - UDP_HEADER_BYTES,
            seq: 0,
            ends: false,
        };
        Self::Segment(key, segment)
    }
}

impl Segment {
    /// True where all checksums of `packet` verify.
    pub(super) fn is_intact(&self, packet: &[u8]) -> bool {
        let (Some((header, transport)), protocol) =
            (packet.split_at_checked(self.ip_len), if self.is_tcp { TCP } else { UDP })
        else {
            return false;
        };
        if self.is_v4 && !checksum::is_good(checksum::sum(header, 0)) {
            return false;
        }
        let addresses = header.get(if self.is_v4 { 12 } else { 8 }..).unwrap_or_default();
        let length = u32::try_from(transport.len()).unwrap_or(u32::MAX);
        checksum::is_good(checksum::sum(transport, checksum::pseudo_header(addresses, protocol, length)))
    }

    /// Where the checksum is in its transport header.
    pub(super) fn checksum_at(&self) -> usize {
        if self.is_tcp { TCP_CHECKSUM_AT } else { UDP_CHECKSUM_AT }
    }

    /// True where the headers of `packet`, the one `place` behind `first` of the same flow, differ only in what the
    /// kernel makes anew when it splits: lengths, identification, sequence number, PSH and checksums.
    pub(super) fn is_alike(&self, first: &[u8], packet: &[u8], place: u16) -> bool {
        let [Some((first_ip, first)), Some((ip, other))] =
            [first.split_at_checked(self.ip_len), packet.split_at_checked(self.ip_len)]
        else {
            return false;
        };
        let is_ip_alike =
            if self.is_v4 { is_v4_alike(first_ip, ip, place) } else { is_v6_alike(first_ip, ip) };
        is_ip_alike && (!self.is_tcp || self.is_tcp_alike(first, other))
    }

    /// Acknowledgement, data offset with its reserved bits, window, urgent pointer and options.
    fn is_tcp_alike(&self, first: &[u8], other: &[u8]) -> bool {
        let options = TCP_HEADER_BYTES..self.header_len - self.ip_len;
        first.get(8..TCP_FLAGS_AT) == other.get(8..TCP_FLAGS_AT)
            && field(first, 14) == field(other, 14)
            && field(first, 18) == field(other, 18)
            && first.get(options.clone()) == other.get(options)
    }
}

/// Version and header length, TOS with ECN, flags and TTL; identifications that count up, or DF.
fn is_v4_alike(first: &[u8], other: &[u8], place: u16) -> bool {
    let flags = field(first, 6);
    let is_id_free = flags & DONT_FRAGMENT != 0 || field(first, 4).wrapping_add(place) == field(other, 4);
    is_id_free
        && field(first, 0) == field(other, 0)
        && flags == field(other, 6)
        && first.get(8) == other.get(8)
}

/// Version, traffic class with ECN, flow label, and hop limit.
fn is_v6_alike(first: &[u8], other: &[u8]) -> bool {
    wide_field(first, 0) == wide_field(other, 0) && first.get(7) == other.get(7)
}
