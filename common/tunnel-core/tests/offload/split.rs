//! Superpackets cut into what the model cuts them into.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests stand outside of test functions"
)]

use std::ops::Range;

use blueprint_common_tunnel_core::offload::{MergeLimits, Merger, SplitError, Superpacket, VnetHeader};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{bodies, model};

/// A superpacket of any of the four kinds, as a kernel would hand it over.
fn any_superpacket(may_have_options: bool) -> impl Strategy<Value = (VnetHeader, Vec<u8>)> {
    let kind = (any::<bool>(), any::<bool>(), any::<[u8; 60]>(), 0usize..=10, any::<bool>());
    let size = prop_oneof![1usize..40, 500usize..1460];
    (kind, size, 0usize..45, vec(any::<u8>(), 0..1500)).prop_map(
        move |((is_v4, is_tcp, noise, option_words, has_options), size, whole, payload)| {
            let options = &noise[20..20 + option_words.min(if is_tcp { 10 } else { 0 }) * 4];
            let mut packet = ip_header(is_v4, is_tcp, has_options && may_have_options, &noise);
            let ip_len = packet.len();
            packet.extend_from_slice(&noise[..if is_tcp { 12 } else { 8 }]);
            if is_tcp {
                let offset = (u8::try_from((20 + options.len()) / 4).unwrap() << 4) | (noise[12] % 16);
                packet.extend_from_slice(&[
                    offset, noise[13], noise[14], noise[15], 0, 0, noise[18], noise[19],
                ]);
                packet.extend_from_slice(options);
            }
            let header_len = packet.len();
            let filling = payload.iter().cycle().take(if payload.is_empty() { 0 } else { size * whole });
            packet.extend(filling.chain(&payload).take(65_535 - header_len).copied());
            let len = packet.len();
            if is_v4 {
                packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
            } else {
                packet[4..6].copy_from_slice(&u16::try_from(len - 40).unwrap().to_be_bytes());
            }
            if !is_tcp {
                packet[ip_len + 4..ip_len + 6]
                    .copy_from_slice(&u16::try_from(len - ip_len).unwrap().to_be_bytes());
            }
            let header = VnetHeader {
                flags: VnetHeader::NEEDS_CSUM,
                gso_type: match (is_tcp, is_v4) {
                    (true, true) => VnetHeader::GSO_TCPV4 | noise[50] & VnetHeader::GSO_ECN,
                    (true, false) => VnetHeader::GSO_TCPV6,
                    (false, _) => VnetHeader::GSO_UDP_L4,
                },
                hdr_len: u16::from(noise[51]),
                gso_size: u16::try_from(size).unwrap(),
                csum_start: u16::try_from(ip_len).unwrap(),
                csum_offset: if is_tcp { 16 } else { 6 },
            };
            (header, packet)
        },
    )
}

fn ip_header(is_v4: bool, is_tcp: bool, has_options: bool, noise: &[u8; 60]) -> Vec<u8> {
    let protocol = if is_tcp { 6 } else { 17 };
    if !is_v4 {
        let mut header =
            vec![0x60 | (noise[30] % 16), noise[31], noise[32], noise[33], 0, 0, protocol, noise[34]];
        header.extend_from_slice(&noise[..32]);
        return header;
    }
    let first = if has_options { 0x47 } else { 0x45 };
    let mut header =
        vec![first, noise[30], 0, 0, noise[31], noise[32], noise[33] & 0x40, 0, noise[34], protocol];
    header.extend_from_slice(&noise[35..45]);
    if has_options {
        header.extend_from_slice(&noise[..8]);
    }
    header
}

fn bytes_of(header: &VnetHeader, packet: &[u8]) -> Vec<u8> {
    [header.to_bytes().as_slice(), packet].concat()
}

/// All segments in a row, each with its place.
fn segments_of(header: &VnetHeader, packet: &[u8]) -> (Vec<u8>, Vec<Range<usize>>) {
    let cut = Superpacket::parse(header, packet).unwrap();
    let (mut buffer, mut places) = (Vec::new(), Vec::new());
    for index in 0..cut.segments() {
        let at = buffer.len();
        buffer.resize(at + cut.segment_len(index), 0);
        let len = cut.write(index, &mut buffer[at..]);
        places.push(at..at + len);
    }
    (buffer, places)
}

proptest! {
    #[test]
    fn a_superpacket_is_cut_as_the_model_cuts_it((header, packet) in any_superpacket(true)) {
        prop_assert!(Superpacket::parse(&header, &packet).is_ok());
        bodies::split_any(&bytes_of(&header, &packet));
    }

    #[test]
    fn a_damaged_superpacket_is_refused_or_cut_as_the_model_cuts_it(
        (header, packet) in any_superpacket(true),
        damages in vec((any::<bool>(), 0usize..100, any::<u8>()), 1..4),
        cut in 0usize..200,
    ) {
        let mut bytes = bytes_of(&header, &packet);
        for (near, at, value) in damages {
            let at = if near { at % 12 } else { at };
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
        }
        bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(100)));
        bodies::split_any(&bytes);
    }

    #[test]
    fn any_bytes_are_split_without_panic(bytes in vec(any::<u8>(), 0..200)) {
        bodies::split_any(&bytes);
    }

    #[test]
    fn a_single_packet_gets_its_checksum_completed(payload in vec(any::<u8>(), 0..100), v4 in any::<bool>()) {
        let mut packet = bodies::Flows::default().packet([u8::from(!v4) | 2, 100, 0, 0]);
        packet.truncate(if v4 { 28 } else { 48 });
        packet.extend(payload);
        model::seal(&mut packet);
        let expected = packet.clone();
        let at = model::ip_len(&packet);
        // The kernel leaves the sum of the pseudo header in the field: what the rest has to be added to.
        let rest: Vec<u8> = { let mut rest = packet[at..].to_vec(); rest[6] = 0; rest[7] = 0; rest };
        let total = 0xffff - u16::from_be_bytes([packet[at + 6], packet[at + 7]]);
        let pseudo = (u32::from(total) + u32::from(model::checksum(&rest))) % 0xffff;
        packet[at + 6..at + 8].copy_from_slice(&u16::try_from(pseudo).unwrap().to_be_bytes());
        let header = VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            csum_start: u16::try_from(at).unwrap(),
            csum_offset: 6,
            ..VnetHeader::default()
        };
        bodies::split_any(&bytes_of(&header, &packet));
        prop_assert_eq!(segments_of(&header, &packet).0, expected);
    }

    #[test]
    fn what_was_split_merges_into_what_it_was((header, packet) in any_superpacket(false)) {
        let ip_len = usize::from(header.csum_start);
        let is_tcp = header.csum_offset == 16;
        let mut packet = packet;
        if is_tcp { packet[ip_len + 13] = 0x10 | packet[ip_len + 13] & 8; }
        // Ports of tunnels, which are all below this one, are never merged.
        if !is_tcp { packet[ip_len + 2] |= 0x80; }
        let (mut buffer, places) = segments_of(&header, &packet);
        // One packet, or more than a superpacket may have, is not what this is about.
        if !(2..=if is_tcp { 128 } else { 64 }).contains(&places.len()) { return Ok(()); }
        let mut merger = Merger::new(MergeLimits { tcp: true, udp: true, max_bytes: 65_535, max_segments: 128 });
        let mut emitted = Vec::new();
        let mut emit = |header: &VnetHeader, buffer: &[u8], ranges: &[Range<usize>]| {
            let bytes: Vec<u8> = ranges.iter().flat_map(|range| &buffer[range.clone()]).copied().collect();
            emitted.push((*header, bytes));
        };
        for place in places { merger.add(&mut buffer, place, &mut emit); }
        merger.flush(&mut buffer, &mut emit);
        prop_assert_eq!(emitted.len(), 1);
        let (merged, mut bytes) = emitted.remove(0);
        prop_assert_eq!(merged.gso_type, header.gso_type & 0x7f);
        prop_assert_eq!((merged.gso_size, merged.csum_start), (header.gso_size, header.csum_start));
        model::check_partial(&bytes);
        // The checksums of what was generated are noise.
        for at in [ip_len + usize::from(header.csum_offset), 10].iter().take(if packet[0] == 0x45 { 2 } else { 1 }) {
            bytes[*at..at + 2].fill(0);
            packet[*at..at + 2].fill(0);
        }
        prop_assert_eq!(bytes, packet);
    }
}

#[test]
fn odd_headers_are_refused_with_their_reason() {
    let packet = bodies::Flows::default().packet([0, 100, 0, 0]);
    let good = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::GSO_TCPV4,
        hdr_len: 0,
        gso_size: 50,
        csum_start: 20,
        csum_offset: 16,
    };
    let parse = |header: VnetHeader| Superpacket::parse(&header, &packet).map(|cut| cut.segments());
    assert_eq!(parse(good), Ok(2));
    assert_eq!(parse(VnetHeader { gso_size: 0, ..good }), Err(SplitError::ZeroSize));
    assert_eq!(parse(VnetHeader { gso_type: 3, ..good }), Err(SplitError::UnsupportedType(3)));
    assert_eq!(parse(VnetHeader { gso_type: VnetHeader::GSO_TCPV6, ..good }), Err(SplitError::Mismatch));
    assert_eq!(parse(VnetHeader { gso_type: VnetHeader::GSO_UDP_L4, ..good }), Err(SplitError::Mismatch));
    assert_eq!(parse(VnetHeader { csum_start: 24, ..good }), Err(SplitError::ChecksumPlace));
    assert_eq!(parse(VnetHeader { csum_offset: 6, ..good }), Err(SplitError::ChecksumPlace));
    assert_eq!(parse(VnetHeader { flags: 0, ..good }), Err(SplitError::ChecksumPlace));
    let plain = VnetHeader { gso_type: 0, ..good };
    assert_eq!(parse(plain), Ok(1));
    assert_eq!(parse(VnetHeader { csum_start: 19, ..plain }), Err(SplitError::ChecksumPlace));
    assert_eq!(parse(VnetHeader { csum_start: 65_535, ..plain }), Err(SplitError::ChecksumPlace));
    assert_eq!(parse(VnetHeader { csum_offset: 65_534, ..plain }), Err(SplitError::ChecksumPlace));
    let mut fragment = packet.clone();
    fragment[6] = 0x20;
    assert_eq!(Superpacket::parse(&good, &fragment).unwrap_err(), SplitError::Mismatch);
    assert_eq!(Superpacket::parse(&good, &packet[..90]).unwrap_err(), SplitError::Malformed);
}
