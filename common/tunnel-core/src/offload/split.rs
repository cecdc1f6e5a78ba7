//! What a TUN device gave, cut into the single packets it stands for.
//!
//! [`Superpacket::parse`] checks and precomputes once; [`Superpacket::write`] then costs a copy of the segment, one
//! checksum pass over its payload, and a handful of stores.

use super::VnetHeader;
use super::checksum;
use super::ip::{
    Ip, TCP, TCP_CHECKSUM_AT, TCP_HEADER_BYTES, UDP, UDP_CHECKSUM_AT, UDP_HEADER_BYTES, field, put, short,
    wide_field,
};

/// The longest IPv4 header and the longest TCP header.
const MAX_HEADER_BYTES: usize = 60;
const TCP_FLAGS_AT: usize = 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Why what was read is not cut. The packet is to be dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// Version or a length of the IP, TCP or UDP header does not fit the bytes there are.
    #[error("malformed packet")]
    Malformed,
    /// The header names a kind of segmentation that was not asked for.
    #[error("unsupported segmentation type {0:#x}")]
    UnsupportedType(u8),
    /// The packet is of another protocol than the kind of segmentation, has extension headers or is a fragment.
    #[error("packet does not match its segmentation type")]
    Mismatch,
    /// Segments without payload.
    #[error("segment size is zero")]
    ZeroSize,
    /// The checksum's start or place is outside of the packet or not where the protocol has it.
    #[error("checksum place is wrong")]
    ChecksumPlace,
}

/// How the checksums of a segment come about.
#[derive(Debug, Clone, Copy)]
enum Plan {
    /// The packet as it is.
    Whole,
    /// The packet, with the bytes from `start` on summed into the field at `field`.
    Complete { start: usize, field: usize },
    /// One of several.
    Cut(Cut),
}

/// What all segments have in common.
#[derive(Debug, Clone, Copy)]
struct Cut {
    is_v4: bool,
    is_tcp: bool,
    /// Bytes of the IP header.
    ip_len: usize,
    /// Bytes of both headers.
    header_len: usize,
    /// The IPv4 header but for total length, identification and checksum.
    ip_sum: u64,
    /// Pseudo header and transport header but for lengths, sequence number, flags and checksum.
    transport_sum: u64,
    /// IPv4's identification in the first segment.
    id: u16,
    /// TCP's sequence number in the first segment, and the flags.
    seq: u32,
    flags: u8,
}

/// One read from a TUN device: a single packet or many segments of one flow.
#[derive(Debug, Clone, Copy)]
pub struct Superpacket<'a> {
    packet: &'a [u8],
    /// Bytes before the first payload; the whole packet where it is not cut.
    template: &'a [u8],
    payload: &'a [u8],
    /// Payload bytes of each segment but the last, at least one.
    size: usize,
    segments: usize,
    plan: Plan,
}

impl<'a> Superpacket<'a> {
    /// Checks what the device gave: `header` and the `packet` behind it.
    ///
    /// # Errors
    ///
    /// Refuses everything [`SplitError`] lists. After success each segment is well-formed and [`Self::write`] fails
    /// only for want of room.
    pub fn parse(header: &VnetHeader, packet: &'a [u8]) -> Result<Self, SplitError> {
        let ip = Ip::parse(packet).ok_or(SplitError::Malformed)?;
        if header.gso_type & !VnetHeader::GSO_ECN == VnetHeader::GSO_NONE {
            return Self::whole(header, &ip, packet);
        }
        if header.gso_size == 0 {
            return Err(SplitError::ZeroSize);
        }
        let cut = Cut::plan(header, &ip, packet)?;
        let (template, payload) = packet.split_at_checked(cut.header_len).ok_or(SplitError::Malformed)?;
        let size = usize::from(header.gso_size);
        let segments = payload.len().div_ceil(size).max(1);
        Ok(Self { packet, template, payload, size, segments, plan: Plan::Cut(cut) })
    }

    fn whole(header: &VnetHeader, ip: &Ip<'_>, packet: &'a [u8]) -> Result<Self, SplitError> {
        let mut plan = Plan::Whole;
        if header.flags & VnetHeader::NEEDS_CSUM != 0 {
            let start = usize::from(header.csum_start);
            let field = start + usize::from(header.csum_offset);
            if start < ip.header_len || field + 2 > packet.len() || !header.csum_offset.is_multiple_of(2) {
                return Err(SplitError::ChecksumPlace);
            }
            plan = Plan::Complete { start, field };
        }
        Ok(Self { packet, template: packet, payload: &[], size: 1, segments: 1, plan })
    }

    /// How many packets it stands for, at least one.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// Bytes of segment `index`, from its IP header on; zero where there is none.
    #[must_use]
    pub fn segment_len(&self, index: usize) -> usize {
        self.payload_of(index).map_or(0, |payload| self.template.len() + payload.len())
    }

    /// Bytes of the longest segment, which is the first.
    #[must_use]
    pub fn largest_len(&self) -> usize {
        self.segment_len(0)
    }

    /// What was read, with the headers of the first segment: what is looked up for all of them.
    #[must_use]
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// Writes segment `index`, ready to be sent, to the start of `out` and gives its length.
    ///
    /// Zero, and nothing written, where there is no such segment or `out` is shorter than [`Self::segment_len`].
    #[must_use]
    pub fn write(&self, index: usize, out: &mut [u8]) -> usize {
        let Some(payload) = self.payload_of(index) else { return 0 };
        let len = self.template.len() + payload.len();
        let Some(out) = out.get_mut(..len) else { return 0 };
        let Some((header, body)) = out.split_at_mut_checked(self.template.len()) else { return 0 };
        header.copy_from_slice(self.template);
        body.copy_from_slice(payload);
        match &self.plan {
            Plan::Whole => {}
            Plan::Complete { start, field } => {
                let sum = checksum::finish(checksum::sum(out.get(*start..).unwrap_or_default(), 0));
                // Zero means none in UDP, and the other zero is as good in every protocol (RFC 768).
                put(out, *field, if sum == 0 { u16::MAX } else { sum }.to_be_bytes());
            }
            Plan::Cut(cut) => {
                let transport = cut.write_ip(header, payload.len(), index);
                let is_last = index + 1 == self.segments;
                cut.write_transport(transport, payload, index * self.size, is_last);
            }
        }
        len
    }

    fn payload_of(&self, index: usize) -> Option<&'a [u8]> {
        if index >= self.segments {
            return None;
        }
        let rest = self.payload.get(index * self.size..)?;
        Some(rest.get(..self.size).unwrap_or(rest))
    }
}

impl Cut {
    fn plan(header: &VnetHeader, ip: &Ip<'_>, packet: &[u8]) -> Result<Self, SplitError> {
        let kind = header.gso_type & !VnetHeader::GSO_ECN;
        let is_tcp = match (kind, ip.is_v4, ip.protocol) {
            (VnetHeader::GSO_TCPV4, true, TCP) | (VnetHeader::GSO_TCPV6, false, TCP) => true,
            (VnetHeader::GSO_UDP_L4, _, UDP) => false,
            (VnetHeader::GSO_TCPV4 | VnetHeader::GSO_TCPV6 | VnetHeader::GSO_UDP_L4, ..) => {
                return Err(SplitError::Mismatch);
            }
            _ => return Err(SplitError::UnsupportedType(header.gso_type)),
        };
        if ip.is_fragment() {
            return Err(SplitError::Mismatch);
        }
        let checksum_at = if is_tcp { TCP_CHECKSUM_AT } else { UDP_CHECKSUM_AT };
        let is_placed = header.flags & VnetHeader::NEEDS_CSUM != 0
            && usize::from(header.csum_start) == ip.header_len
            && usize::from(header.csum_offset) == checksum_at;
        if !is_placed {
            return Err(SplitError::ChecksumPlace);
        }
        let transport = packet.get(ip.header_len..).ok_or(SplitError::Malformed)?;
        let transport_len = transport_header_len(is_tcp, transport).ok_or(SplitError::Malformed)?;
        let header_len = ip.header_len + transport_len;
        Ok(Self {
            is_v4: ip.is_v4,
            is_tcp,
            ip_len: ip.header_len,
            header_len,
            ip_sum: sum_without(packet, ip.header_len, &[2, 4, 10]),
            transport_sum: checksum::pseudo_header(ip.addresses, ip.protocol, 0)
                + if is_tcp {
                    // The data offset stays; it shares its word with the flags.
                    let offset = field(transport, TCP_FLAGS_AT - 1) & 0xff00;
                    checksum::word(offset)
                        + sum_without(transport, transport_len, &[4, 6, 12, TCP_CHECKSUM_AT])
                } else {
                    sum_without(transport, transport_len, &[4, UDP_CHECKSUM_AT])
                },
            id: field(packet, 4),
            seq: wide_field(transport, 4),
            flags: transport.get(TCP_FLAGS_AT).copied().unwrap_or(0),
        })
    }

    /// Finishes the IP header at the start of `header` and gives the rest.
    fn write_ip<'h>(&self, header: &'h mut [u8], payload_len: usize, index: usize) -> &'h mut [u8] {
        let Some((ip, transport)) = header.split_at_mut_checked(self.ip_len) else { return &mut [] };
        if self.is_v4 {
            let total = short(self.header_len + payload_len);
            // Identifications wrap; so may the index, which stays below 65 536.
            let id = self.id.wrapping_add(short(index));
            let sum = self.ip_sum + checksum::word(total) + checksum::word(id);
            put(ip, 2, total.to_be_bytes());
            put(ip, 4, id.to_be_bytes());
            put(ip, 10, checksum::finish(sum).to_be_bytes());
        } else {
            put(ip, 4, short(self.header_len - self.ip_len + payload_len).to_be_bytes());
        }
        transport
    }

    /// Finishes the transport header of the segment whose payload starts `offset` bytes into the whole.
    fn write_transport(&self, transport: &mut [u8], payload: &[u8], offset: usize, is_last: bool) {
        let length = short(transport.len() + payload.len());
        let sum = checksum::sum(payload, self.transport_sum) + checksum::word(length);
        if self.is_tcp {
            let seq = self.seq.wrapping_add(u32::try_from(offset).unwrap_or(u32::MAX));
            let kept = self.flags
                & if is_last { u8::MAX } else { !(FIN | PSH) }
                & if offset == 0 { u8::MAX } else { !CWR };
            let sum = sum + u64::from(seq.to_be()) + checksum::word(u16::from(kept));
            put(transport, 4, seq.to_be_bytes());
            put(transport, TCP_FLAGS_AT, [kept]);
            put(transport, TCP_CHECKSUM_AT, checksum::finish(sum).to_be_bytes());
        } else {
            // The length counts twice: in the pseudo header and in its own field.
            let sum = checksum::finish(sum + checksum::word(length));
            put(transport, 4, length.to_be_bytes());
            put(transport, UDP_CHECKSUM_AT, if sum == 0 { u16::MAX } else { sum }.to_be_bytes());
        }
    }
}

/// Bytes of a TCP or UDP header whose lengths fit `transport`.
fn transport_header_len(is_tcp: bool, transport: &[u8]) -> Option<usize> {
    if is_tcp {
        let len = usize::from(transport.get(TCP_FLAGS_AT - 1)? >> 4) * 4;
        (TCP_HEADER_BYTES..=transport.len()).contains(&len).then_some(len)
    } else {
        let fits = transport.len() >= UDP_HEADER_BYTES && usize::from(field(transport, 4)) == transport.len();
        fits.then_some(UDP_HEADER_BYTES)
    }
}

/// Sums a header of `len` bytes as if the 16-bit fields at `zeros` were zero.
fn sum_without(header: &[u8], len: usize, zeros: &[usize]) -> u64 {
    let mut copy = [0u8; MAX_HEADER_BYTES];
    if let (Some(to), Some(from)) = (copy.get_mut(..len), header.get(..len)) {
        to.copy_from_slice(from);
    }
    for at in zeros {
        put(&mut copy, *at, [0, 0]);
    }
    checksum::sum(&copy, 0)
}
