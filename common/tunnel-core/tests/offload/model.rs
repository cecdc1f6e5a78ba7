//! A naive model of segmentation, byte by byte from the RFCs (791, 768, 9293, 8200, 1071), sharing no code with what
//! it checks. Fuzz targets include it too.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a model says loudly where it was given nonsense"
)]

/// What stands before a packet on the device: ten bytes of `struct virtio_net_hdr`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) needs_csum: bool,
    pub(crate) gso_type: u8,
    pub(crate) gso_size: usize,
    pub(crate) csum_start: usize,
    pub(crate) csum_offset: usize,
}

impl Header {
    pub(crate) fn of(bytes: [u8; 10]) -> Self {
        let wide = |at: usize| usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        Self {
            needs_csum: bytes[0] & 1 == 1,
            gso_type: bytes[1] & 0x7f,
            gso_size: wide(4),
            csum_start: wide(6),
            csum_offset: wide(8),
        }
    }
}

/// The complement of the one's complement sum of big-endian pairs.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    let mut at = 0;
    while at < bytes.len() {
        let low = if at + 1 < bytes.len() { bytes[at + 1] } else { 0 };
        sum += u32::from(bytes[at]) * 256 + u32::from(low);
        if sum > 0xffff {
            sum -= 0xffff;
        }
        at += 2;
    }
    0xffff - u16::try_from(sum).unwrap()
}

fn short_at(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) * 256 + usize::from(bytes[at + 1])
}

fn set_short(bytes: &mut [u8], at: usize, value: usize) {
    bytes[at] = u8::try_from(value / 256 % 256).unwrap();
    bytes[at + 1] = u8::try_from(value % 256).unwrap();
}

/// Bytes of the IP header without extension headers.
pub(crate) fn ip_len(packet: &[u8]) -> usize {
    match packet[0] >> 4 {
        4 => usize::from(packet[0] % 16) * 4,
        6 => 40,
        other => panic!("version {other}"),
    }
}

pub(crate) fn protocol(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { packet[9] } else { packet[6] }
}

/// Pseudo header and transport in a row.
fn covered(packet: &[u8]) -> Vec<u8> {
    let at = ip_len(packet);
    let length = u32::try_from(packet.len() - at).unwrap();
    let mut bytes = Vec::new();
    if packet[0] >> 4 == 4 {
        bytes.extend_from_slice(&packet[12..20]);
        bytes.extend_from_slice(&[0, packet[9]]);
        bytes.extend_from_slice(&length.to_be_bytes()[2..]);
    } else {
        bytes.extend_from_slice(&packet[8..40]);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, packet[6]]);
    }
    bytes.extend_from_slice(&packet[at..]);
    bytes
}

/// True where the IPv4 header and the TCP or UDP checksum verify.
pub(crate) fn verifies(packet: &[u8]) -> bool {
    (packet[0] >> 4 == 6 || checksum(&packet[..ip_len(packet)]) == 0) && checksum(&covered(packet)) == 0
}

/// Writes lengths and checksums of a TCP or UDP packet.
pub(crate) fn seal(packet: &mut [u8]) {
    let (at, len) = (ip_len(packet), packet.len());
    if packet[0] >> 4 == 4 {
        set_short(packet, 2, len);
        set_short(packet, 10, 0);
        let sum = checksum(&packet[..at]);
        set_short(packet, 10, usize::from(sum));
    } else {
        set_short(packet, 4, len - 40);
    }
    let field = at + if protocol(packet) == 6 { 16 } else { 6 };
    if protocol(packet) == 17 {
        set_short(packet, at + 4, len - at);
    }
    set_short(packet, field, 0);
    let mut sum = checksum(&covered(packet));
    if sum == 0 && protocol(packet) == 17 {
        sum = 0xffff;
    }
    set_short(packet, field, usize::from(sum));
}

/// The packets a kernel makes of what was written to the device.
pub(crate) fn receive(header: Header, packet: &[u8]) -> Vec<Vec<u8>> {
    if header.gso_type == 0 {
        let mut packet = packet.to_vec();
        if header.needs_csum {
            let mut sum = checksum(&packet[header.csum_start..]);
            if sum == 0 {
                sum = 0xffff;
            }
            set_short(&mut packet, header.csum_start + header.csum_offset, usize::from(sum));
        }
        return vec![packet];
    }
    assert!(header.needs_csum, "a superpacket has a partial checksum");
    let (at, is_tcp) = (ip_len(packet), protocol(packet) == 6);
    assert_eq!(header.csum_start, at);
    assert_eq!(header.csum_offset, if is_tcp { 16 } else { 6 });
    let kind = match (is_tcp, packet[0] >> 4) {
        (true, 4) => 1,
        (true, _) => 4,
        (false, _) => 5,
    };
    assert_eq!(header.gso_type, kind);
    let transport_len = if is_tcp { usize::from(packet[at + 12] / 16) * 4 } else { 8 };
    let (head, payload) = packet.split_at(at + transport_len);
    let mut pieces: Vec<&[u8]> = payload.chunks(header.gso_size).collect();
    if pieces.is_empty() {
        pieces.push(&[]);
    }
    let count = pieces.len();
    let mut seq = u32::from_be_bytes(packet[at + 4..at + 8].try_into().unwrap());
    let mut made = Vec::new();
    for (index, piece) in pieces.into_iter().enumerate() {
        let mut one = head.to_vec();
        one.extend_from_slice(piece);
        if packet[0] >> 4 == 4 {
            set_short(&mut one, 4, (short_at(packet, 4) + index) % 65_536);
        }
        if is_tcp {
            one[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
            seq = seq.wrapping_add(u32::try_from(piece.len()).unwrap());
            if index > 0 {
                one[at + 13] &= 0b0111_1111; // CWR
            }
            if index + 1 < count {
                one[at + 13] &= 0b1111_0110; // PSH and FIN
            }
        }
        seal(&mut one);
        made.push(one);
    }
    made
}

/// A superpacket's lengths and checksums are those of one big packet whose transport sum is still to be made.
pub(crate) fn check_partial(packet: &[u8]) {
    let at = ip_len(packet);
    let field = at + if protocol(packet) == 6 { 16 } else { 6 };
    if packet[0] >> 4 == 4 {
        assert_eq!(checksum(&packet[..at]), 0, "header checksum");
        assert_eq!(short_at(packet, 2), packet.len());
    } else {
        assert_eq!(short_at(packet, 4), packet.len() - 40);
    }
    let pseudo_len = covered(packet).len() - (packet.len() - at);
    let pseudo = 0xffff - checksum(&covered(packet)[..pseudo_len]);
    assert_eq!(short_at(packet, field), usize::from(pseudo), "pseudo header sum");
    if protocol(packet) == 17 {
        assert_eq!(short_at(packet, at + 4), packet.len() - at);
    }
}

/// Addresses, protocol and ports, where a packet has them plainly; nothing else is told apart.
pub(crate) fn flow_of(packet: &[u8]) -> Option<Vec<u8>> {
    let is_v4 = match packet.first()? >> 4 {
        4 if packet.len() >= 20 => true,
        6 if packet.len() >= 40 => false,
        _ => return None,
    };
    let is_whole = if is_v4 {
        short_at(packet, 2) == packet.len() && packet[0] == 0x45 && short_at(packet, 6).is_multiple_of(0x4000)
    } else {
        short_at(packet, 4) + 40 == packet.len()
    };
    let at = ip_len(packet);
    let least = match protocol(packet) {
        6 => 20,
        17 => 8,
        _ => return None,
    };
    if !is_whole || packet.len() < at + least {
        return None;
    }
    let addresses = if is_v4 { &packet[12..20] } else { &packet[8..40] };
    Some([addresses, &[protocol(packet)], &packet[at..at + 4]].concat())
}

/// The packet without what may differ after merge and split: checksums that verify (zero has two forms), and the
/// identification of a packet that may not be fragmented.
pub(crate) fn essence(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if flow_of(&packet).is_none() || !verifies(&packet) {
        return packet;
    }
    let at = ip_len(&packet);
    let field = at + if protocol(&packet) == 6 { 16 } else { 6 };
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        set_short(&mut packet, 4, 0);
        set_short(&mut packet, 10, 0);
    }
    // A UDP field of zero means something else than a sum of zero.
    if protocol(&packet) == 6 || short_at(&packet, field) != 0 {
        set_short(&mut packet, field, 1);
    }
    packet
}
