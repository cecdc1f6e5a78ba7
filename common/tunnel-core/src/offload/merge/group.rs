//! One superpacket while it grows.

use std::ops::Range;

use super::segment::{PSH, Segment, TCP_FLAGS_AT};
use super::{MAX_SEGMENTS, MAX_UDP_SEGMENTS, MergeLimits};
use crate::offload::VnetHeader;
use crate::offload::checksum;
use crate::offload::ip::{TCP, UDP, put, short};

/// What became of a packet that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    /// Taken; more may follow.
    Open,
    /// Taken as the last.
    Closed,
    /// Not taken; it may open a group of its own.
    Refused,
    /// Not taken: it does not verify, and is to leave as it is.
    Corrupt,
}

/// The whole first packet and the payloads of those behind it.
#[derive(Debug)]
pub(super) struct Group {
    first: Segment,
    ranges: [Range<usize>; MAX_SEGMENTS],
    count: usize,
    /// Bytes from the IP header on.
    bytes: usize,
    /// True once the first packet's checksums were found good, which a lone one never needs.
    is_verified: bool,
    /// True where the last packet has PSH.
    is_pushed: bool,
}

impl Group {
    pub(super) fn empty() -> Self {
        let first = Segment {
            is_v4: false,
            is_tcp: false,
            ip_len: 0,
            header_len: 0,
            payload_len: 0,
            seq: 0,
            ends: false,
        };
        let ranges = [const { 0..0 }; MAX_SEGMENTS];
        Self { first, ranges, count: 0, bytes: 0, is_verified: false, is_pushed: false }
    }

    /// Starts over with one packet.
    pub(super) fn open(&mut self, range: Range<usize>, segment: &Segment) {
        self.first = *segment;
        self.bytes = range.len();
        self.count = 1;
        self.is_verified = false;
        self.is_pushed = false;
        if let Some(place) = self.ranges.first_mut() {
            *place = range;
        }
    }

    /// What is to be written, in order.
    pub(super) fn ranges(&self) -> &[Range<usize>] {
        self.ranges.get(..self.count).unwrap_or_default()
    }

    /// Takes a packet of the same flow if it follows.
    pub(super) fn join(
        &mut self,
        packets: &[u8],
        range: &Range<usize>,
        segment: &Segment,
        limits: &MergeLimits,
    ) -> Join {
        let max_segments =
            if self.first.is_tcp { limits.max_segments } else { limits.max_segments.min(MAX_UDP_SEGMENTS) };
        let bytes = self.bytes + segment.payload_len;
        if self.count >= max_segments || bytes > limits.max_bytes || !self.is_next(segment) {
            return Join::Refused;
        }
        let whole = self.ranges.first().cloned().unwrap_or_default();
        let (Some(first), Some(packet)) = (packets.get(whole), packets.get(range.clone())) else {
            return Join::Refused;
        };
        if !segment.is_alike(first, packet, short(self.count)) {
            return Join::Refused;
        }
        self.is_verified = self.is_verified || self.first.is_intact(first);
        if !self.is_verified {
            return Join::Refused;
        }
        if !segment.is_intact(packet) {
            return Join::Corrupt;
        }
        let Some(place) = self.ranges.get_mut(self.count) else { return Join::Refused };
        *place = range.start + segment.header_len..range.end;
        self.count += 1;
        self.bytes = bytes;
        self.is_pushed = segment.ends;
        let is_full = self.count == max_segments || bytes == limits.max_bytes;
        if segment.ends || is_full || segment.payload_len < self.first.payload_len {
            Join::Closed
        } else {
            Join::Open
        }
    }

    /// True where a packet has the next sequence number and fits the segment size and the first one's headers.
    fn is_next(&self, segment: &Segment) -> bool {
        let taken = u32::try_from(self.bytes - self.first.header_len).unwrap_or(u32::MAX);
        let is_in_order = !segment.is_tcp || self.first.seq.wrapping_add(taken) == segment.seq;
        is_in_order
            && segment.header_len == self.first.header_len
            && segment.payload_len <= self.first.payload_len
    }

    /// Makes the first packet's headers those of the whole, and says what the device is to be told.
    ///
    /// A lone packet is left unchanged.
    pub(super) fn seal(&mut self, packets: &mut [u8]) -> VnetHeader {
        let first = &self.first;
        let whole = self.ranges.first().cloned().unwrap_or_default();
        let Some(packet) = packets.get_mut(whole).filter(|_| self.count > 1) else {
            return VnetHeader::default();
        };
        let Some((ip, transport)) = packet.split_at_mut_checked(first.ip_len) else {
            return VnetHeader::default();
        };
        let transport_len = short(self.bytes - first.ip_len);
        if first.is_v4 {
            put(ip, 2, short(self.bytes).to_be_bytes());
            put(ip, 10, [0, 0]);
            let sum = checksum::finish(checksum::sum(ip, 0));
            put(ip, 10, sum.to_be_bytes());
        } else {
            put(ip, 4, transport_len.to_be_bytes());
        }
        if !first.is_tcp {
            put(transport, 4, transport_len.to_be_bytes());
        } else if let Some(flags) = transport.get_mut(TCP_FLAGS_AT).filter(|_| self.is_pushed) {
            *flags |= PSH;
        }
        let addresses = ip.get(if first.is_v4 { 12 } else { 8 }..).unwrap_or_default();
        let protocol = if first.is_tcp { TCP } else { UDP };
        let partial = checksum::fold(checksum::pseudo_header(addresses, protocol, u32::from(transport_len)));
        put(transport, first.checksum_at(), partial.to_be_bytes());
        VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type: match (first.is_tcp, first.is_v4) {
                (true, true) => VnetHeader::GSO_TCPV4,
                (true, false) => VnetHeader::GSO_TCPV6,
                (false, _) => VnetHeader::GSO_UDP_L4,
            },
            hdr_len: short(first.header_len),
            gso_size: short(first.payload_len),
            csum_start: short(first.ip_len),
            csum_offset: short(first.checksum_at()),
        }
    }
}
