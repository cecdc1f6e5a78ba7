//! What is true for any bytes: the bodies of fuzz targets, which the tests here run too.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a body fails loudly where a property does not hold"
)]

use std::collections::BTreeMap;
use std::ops::Range;

use blueprint_common_tunnel_core::offload::{MergeLimits, Merger, Superpacket, VnetHeader};

use crate::model;

/// Any ten bytes of header and any packet behind them: refused, or cut into what the model makes of it.
pub(crate) fn split_any(data: &[u8]) {
    let Some((header, packet)) = data.split_first_chunk::<{ VnetHeader::BYTES }>() else { return };
    let vnet = VnetHeader::parse(header).unwrap();
    let Ok(cut) = Superpacket::parse(&vnet, packet) else { return };
    let expected = model::receive(model::Header::of(*header), packet);
    assert_eq!(cut.segments(), expected.len());
    let mut out = vec![0xaa; cut.largest_len() + 1];
    for (index, expected) in expected.iter().enumerate() {
        assert_eq!(cut.segment_len(index), expected.len());
        assert!(cut.segment_len(index) <= cut.largest_len());
        assert_eq!(cut.write(index, &mut out[..expected.len() - 1]), 0, "no room");
        let len = cut.write(index, &mut out);
        assert_eq!(&out[..len], expected.as_slice());
        if vnet.gso_type & 0x7f != 0 {
            assert!(model::verifies(expected));
        }
    }
    assert_eq!(cut.write(expected.len(), &mut out), 0, "no such segment");
}

/// Any bytes as packets of a few flows, whole or damaged: each flow gets its packets, in order.
pub(crate) fn merge_any(data: &[u8]) {
    let Some(([limits, count], mut rest)) = data.split_first_chunk::<2>() else { return };
    let limits = MergeLimits {
        tcp: limits & 1 == 0,
        udp: limits & 2 == 0,
        max_bytes: if limits & 4 == 0 { 65_535 } else { 600 },
        max_segments: if limits & 8 == 0 { 128 } else { usize::from(limits >> 4) },
    };
    let mut flows = Flows::default();
    let mut packets = Vec::new();
    for _ in 0..*count {
        let Some((recipe, left)) = rest.split_first_chunk::<4>() else { break };
        rest = left;
        if recipe[0] == 0xff {
            let len = usize::from(recipe[1]).min(rest.len());
            packets.push(rest[..len].to_vec());
            rest = &rest[len..];
        } else {
            packets.push(flows.packet(*recipe));
        }
    }
    check_merge(limits, &packets);
}

/// Merges, receives by the model, and compares flow by flow. Gives how many writes it took.
pub(crate) fn check_merge(limits: MergeLimits, packets: &[Vec<u8>]) -> usize {
    let mut buffer = vec![0x55; 7];
    let mut places = Vec::new();
    for packet in packets {
        places.push(buffer.len()..buffer.len() + packet.len());
        buffer.extend_from_slice(packet);
        // What a tunnel leaves between packets.
        buffer.extend_from_slice(&[0x55; 32]);
    }
    let (mut received, mut writes) = (Vec::new(), 0);
    let mut emit = |header: &VnetHeader, buffer: &[u8], ranges: &[Range<usize>]| {
        writes += 1;
        let written: Vec<u8> = ranges.iter().flat_map(|range| &buffer[range.clone()]).copied().collect();
        if header.gso_type != 0 {
            assert!(ranges.len() > 1 && ranges.len() <= limits.max_segments);
            assert!(written.len() <= limits.max_bytes);
            assert!(usize::from(header.hdr_len) < ranges[0].len());
            model::check_partial(&written);
        }
        received.extend(model::receive(model::Header::of(header.to_bytes()), &written));
    };
    let mut merger = Merger::new(limits);
    for place in places {
        merger.add(&mut buffer, place, &mut emit);
    }
    merger.flush(&mut buffer, &mut emit);
    merger.flush(&mut buffer, &mut |_: &VnetHeader, _: &[u8], _: &[Range<usize>]| {
        unreachable!("nothing is left after a flush");
    });
    assert_eq!(by_flow(&received), by_flow(packets));
    writes
}

fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Option<Vec<u8>>, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for packet in packets {
        flows.entry(model::flow_of(packet)).or_default().push(model::essence(packet));
    }
    flows
}

/// The running state of sixteen flows: TCP and UDP, IPv4 and IPv6, four of each.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    seq: [u32; 16],
    id: [u16; 16],
}

impl Flows {
    /// The next packet as the four bytes say: flow and oddities, payload size, a damage and its place.
    pub(crate) fn packet(&mut self, [flow, size, odd, place]: [u8; 4]) -> Vec<u8> {
        let number = usize::from(flow % 16);
        let (is_v4, is_tcp) = (flow & 1 == 0, flow & 2 == 0);
        let payload_len = match size {
            0..180 => 100,
            180..200 => 0,
            _ => usize::from(size),
        };
        let mut packet = if is_v4 {
            let dont_fragment = if flow & 4 == 0 { 0x40 } else { 0 };
            let [i0, i1] = self.id[number].to_be_bytes();
            self.id[number] = self.id[number].wrapping_add(1);
            let protocol = if is_tcp { 6 } else { 17 };
            vec![0x45, 0, 0, 0, i0, i1, dont_fragment, 0, 64, protocol, 0, 0, 10, 7, 0, 1, 10, 7, 0, 2]
        } else {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, if is_tcp { 6 } else { 17 }, 64];
            header.extend_from_slice(&[0xfd; 32]);
            header
        };
        packet.extend_from_slice(&[4, flow % 16, 0, 80]);
        if is_tcp {
            packet.extend_from_slice(&self.seq[number].to_be_bytes());
            let flags = if odd == 1 { 0x18 } else { 0x10 };
            packet.extend_from_slice(&[0, 0, 0, 9, 0x80, flags, 1, 0, 0, 0, 0, 0]);
            packet.extend_from_slice(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
            self.seq[number] = self.seq[number].wrapping_add(u32::try_from(payload_len).unwrap());
        } else {
            packet.extend_from_slice(&[0, 0, 0, 0]);
        }
        packet.extend((0..payload_len).map(|at| u8::try_from(at % 251).unwrap() ^ flow ^ odd));
        let at = usize::from(place) % packet.len();
        if odd == 2 {
            packet[at] ^= 1 << (size % 8);
        }
        // What the damage left readable gets good checksums.
        let is_readable = odd != 2 || at >= 1;
        if is_readable && matches!(model::protocol(&packet), 6 | 17) {
            model::seal(&mut packet);
        }
        if odd == 3 {
            packet[at] ^= 1 << (size % 8);
        }
        packet
    }
}
