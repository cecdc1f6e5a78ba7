//! What offloads and edits read of an IP header (RFC 791, 8200), and how they write into one.

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMP_V6: u8 = 58;
pub(super) const V4_HEADER_BYTES: usize = 20;
pub(super) const V6_HEADER_BYTES: usize = 40;
pub(super) const TCP_HEADER_BYTES: usize = 20;
pub(super) const UDP_HEADER_BYTES: usize = 8;
/// Where the checksum is in a TCP and in a UDP header.
pub(super) const TCP_CHECKSUM_AT: usize = 16;
pub(super) const UDP_CHECKSUM_AT: usize = 6;
/// The IPv6 fragment header.
pub(super) const V6_FRAGMENT: u8 = 44;

/// Bits of the IPv4 field that holds flags and the fragment's offset.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The header of a packet whose length field names exactly the bytes there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ip<'a> {
    pub(super) is_v4: bool,
    /// Source and destination in a row: 8 or 32 bytes.
    pub(super) addresses: &'a [u8],
    /// IPv4's protocol or IPv6's first next header, which may be an extension.
    pub(super) protocol: u8,
    /// Bytes before the payload: with the options of IPv4, without the extension headers of IPv6.
    pub(super) header_len: usize,
    /// The IPv4 field of flags and fragment offset; zero for IPv6.
    fragment: u16,
}

impl<'a> Ip<'a> {
    /// Reads the header; `None` where version or lengths are wrong.
    pub(super) fn parse(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &'a [u8]) -> Option<Self> {
        let header: &[u8; V4_HEADER_BYTES] = packet.first_chunk()?;
        let [first, _, l0, l1, _, _, f0, f1, _, protocol, ..] = *header;
        let header_len = usize::from(first & 0x0f) * 4;
        let is_whole = usize::from(u16::from_be_bytes([l0, l1])) == packet.len();
        if header_len < V4_HEADER_BYTES || header_len > packet.len() || !is_whole {
            return None;
        }
        let fragment = u16::from_be_bytes([f0, f1]);
        Some(Self { is_v4: true, addresses: header.get(12..20)?, protocol, header_len, fragment })
    }

    fn parse_v6(packet: &'a [u8]) -> Option<Self> {
        let header: &[u8; V6_HEADER_BYTES] = packet.first_chunk()?;
        let [_, _, _, _, l0, l1, protocol, ..] = *header;
        if usize::from(u16::from_be_bytes([l0, l1])) + V6_HEADER_BYTES != packet.len() {
            return None;
        }
        let addresses = header.get(8..40)?;
        Some(Self { is_v4: false, addresses, protocol, header_len: V6_HEADER_BYTES, fragment: 0 })
    }

    /// True for each part of a fragmented IPv4 packet.
    pub(super) fn is_fragment(&self) -> bool {
        self.fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// True for each part of a fragmented IPv4 packet but the first.
    pub(super) fn is_later_fragment(&self) -> bool {
        self.fragment & FRAGMENT_OFFSET != 0
    }
}

/// The 16-bit field at `at`, zero where the bytes end before.
pub(super) fn field(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |field| u16::from_be_bytes(*field))
}

/// The 32-bit field at `at`, zero where the bytes end before.
pub(super) fn wide_field(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |field| u32::from_be_bytes(*field))
}

/// Writes `value` at `at`; nothing where the bytes end before.
pub(super) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(field) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *field = value;
    }
}

/// A length as a 16-bit field; what does not fit becomes the largest, which every caller has excluded.
pub(super) fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
