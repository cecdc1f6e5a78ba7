//! The header a TUN device puts before each packet with `IFF_VNET_HDR` (`struct virtio_net_hdr`, `linux/virtio_net.h`).

/// `struct virtio_net_hdr`: what the kernel leaves to be done with a packet, or may leave to the kernel.
///
/// Fields are in the machine's byte order, as they are on a TUN device without `TUNSETVNETLE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// [`Self::NEEDS_CSUM`] or [`Self::DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_` constants, with or without [`Self::GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of the network and transport headers; the kernel sets it to other things too, so it is not relied on.
    pub hdr_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the bytes under the checksum begin, in bytes from the packet's start.
    pub csum_start: u16,
    /// Where the checksum field is, in bytes from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Its size.
    pub const BYTES: usize = 10;
    /// The checksum field holds the pseudo header's sum only, and the rest is to be added.
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum was verified.
    pub const DATA_VALID: u8 = 2;
    /// A single packet.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP datagrams of one size, over IPv4 or IPv6.
    pub const GSO_UDP_L4: u8 = 5;
    /// Joined to a TCP type where the first segment carries CWR.
    pub const GSO_ECN: u8 = 0x80;

    /// Reads the header at the start of what the device gave; `None` where that is shorter.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *bytes.first_chunk::<{ Self::BYTES }>()?;
        Some(Self {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }

    /// The header as the device takes it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let [h0, h1] = self.hdr_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_it_was_written_from() {
        let header = VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type: VnetHeader::GSO_TCPV4 | VnetHeader::GSO_ECN,
            hdr_len: 52,
            gso_size: 1368,
            csum_start: 20,
            csum_offset: 16,
        };
        assert_eq!(VnetHeader::parse(&header.to_bytes()), Some(header));
        assert_eq!(VnetHeader::parse(&header.to_bytes()[..9]), None);
        assert_eq!(VnetHeader::default().to_bytes(), [0; VnetHeader::BYTES]);
    }
}
