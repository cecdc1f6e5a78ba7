//! Packets merged, split again by the model, and compared flow by flow.

use blueprint_common_tunnel_core::offload::MergeLimits;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::bodies::{self, Flows, check_merge};
use crate::model;

const ALL: MergeLimits = MergeLimits { tcp: true, udp: true, max_bytes: 65_535, max_segments: 128 };
const TCP_V4: u8 = 0;
const UDP_V4: u8 = 2;

/// The four bytes of a packet that is most often an ordinary one.
fn any_recipe() -> impl Strategy<Value = [u8; 4]> {
    let odd = prop_oneof![20 => Just(0u8), 2 => Just(1), 1 => Just(2), 1 => Just(3), 1 => Just(4)];
    (0u8..16, any::<u8>(), odd, any::<u8>()).prop_map(|(flow, size, odd, place)| [flow, size, odd, place])
}

proptest! {
    #[test]
    fn interleaved_flows_get_their_packets_in_order(
        limits in any::<u8>(),
        few in 1u8..16,
        recipes in vec(any_recipe(), 0..200),
    ) {
        let mut bytes = vec![limits, 255];
        bytes.extend(recipes.into_iter().flat_map(|[flow, size, odd, place]| [flow % few, size, odd, place]));
        bodies::merge_any(&bytes);
    }

    #[test]
    fn any_bytes_are_merged_without_panic(
        limits in any::<u8>(),
        packets in vec((vec(any::<u8>(), 0..120), any::<bool>()), 0..12),
    ) {
        let mut bytes = vec![limits, 255];
        for (mut packet, is_v4) in packets {
            let len = u8::try_from(packet.len()).unwrap();
            if is_v4 && packet.len() >= 20 {
                packet[..4].copy_from_slice(&[0x45, 0, 0, len]);
                packet[9] = if packet[9] % 2 == 0 { 6 } else { 17 };
            } else if packet.len() >= 40 {
                packet[0] = 0x60;
                packet[4..7].copy_from_slice(&[0, len - 40, 6]);
            }
            bytes.extend_from_slice(&[255, len, 0, 0]);
            bytes.extend(packet);
        }
        bodies::merge_any(&bytes);
    }
}

#[test]
fn parallel_flows_leave_in_one_write_each() {
    let mut flows = Flows::default();
    let packets: Vec<_> = (0..40u8).map(|count| flows.packet([count % 8, 100, 0, 0])).collect();
    assert_eq!(check_merge(ALL, &packets), 8);
    assert_eq!(check_merge(MergeLimits { udp: false, ..ALL }, &packets), 4 + 20);
    assert_eq!(check_merge(MergeLimits { tcp: false, ..ALL }, &packets), 4 + 20);
    assert_eq!(check_merge(MergeLimits { max_segments: 1, ..ALL }, &packets), 40);
    assert_eq!(check_merge(MergeLimits { max_segments: 2, ..ALL }, &packets), 24);
}

#[test]
fn a_ninth_flow_pushes_out_the_oldest() {
    let mut flows = Flows::default();
    let packets: Vec<_> = (0..32u8).map(|count| flows.packet([count % 16, 100, 0, 0])).collect();
    assert_eq!(check_merge(ALL, &packets), 32, "each is gone before its second packet comes");
}

#[test]
fn short_and_pushed_segments_end_a_superpacket() {
    let mut flows = Flows::default();
    let mut four = |size, odd| -> Vec<_> {
        [(100, 0), (size, odd), (100, 0), (100, 0)]
            .map(|(size, odd)| flows.packet([TCP_V4, size, odd, 0]))
            .into()
    };
    assert_eq!(check_merge(ALL, &four(100, 0)), 1);
    assert_eq!(check_merge(ALL, &four(100, 1)), 2, "PSH");
    assert_eq!(check_merge(ALL, &four(190, 0)), 3, "a pure acknowledgement stays where it was");
    assert_eq!(
        check_merge(ALL, &four(220, 0)),
        3,
        "a longer one begins anew, and what follows is short for it"
    );
}

/// Two packets that follow each other, the second changed by `change`; true where they still merge.
fn merges(flow: u8, change: impl Fn(&mut Vec<u8>)) -> bool {
    let mut flows = Flows::default();
    let first = flows.packet([flow, 100, 0, 0]);
    let mut second = flows.packet([flow, 100, 0, 0]);
    change(&mut second);
    check_merge(ALL, &[first, second]) == 1
}

#[test]
fn only_what_the_kernel_would_merge_is_merged() {
    let with = |flow: u8, at: usize, bits: u8| {
        merges(flow, |packet| {
            if let Some(byte) = packet.get_mut(at) {
                *byte ^= bits;
            }
            model::seal(packet);
        })
    };
    for flow in [0u8, 1, 2, 3] {
        assert!(with(flow, 0, 0), "flow {flow}");
    }
    for (why, at, bits) in [
        ("TOS", 1, 0x10),
        ("ECN", 1, 3),
        ("DF", 6, 0x40),
        ("TTL", 8, 1),
        ("source", 15, 1),
        ("port", 21, 1),
        ("sequence", 27, 1),
        ("acknowledgement", 31, 1),
        ("reserved bits", 32, 1),
        ("FIN", 33, 1),
        ("SYN", 33, 2),
        ("ECE", 33, 0x40),
        ("CWR", 33, 0x80),
        ("URG", 33, 0x20),
        ("no ACK", 33, 0x10),
        ("window", 34, 1),
        ("urgent pointer", 39, 1),
        ("time stamp", 47, 1),
    ] {
        assert!(!with(TCP_V4, at, bits), "{why}");
    }
    assert!(with(TCP_V4, 4, 7), "the identification of what is not fragmented means nothing");
    assert!(!with(TCP_V4 + 4, 5, 7), "but of what may be, it counts");
    for (why, at, bits) in
        [("traffic class", 0, 1), ("ECN", 1, 0x10), ("flow label", 3, 1), ("hop limit", 7, 1)]
    {
        assert!(!with(1, at, bits), "{why} of IPv6");
    }
}

#[test]
fn a_wrong_checksum_is_never_hidden() {
    let flip = |at: usize| {
        move |packet: &mut Vec<u8>| {
            if let Some(byte) = packet.get_mut(at) {
                *byte ^= 4;
            }
        }
    };
    for flow in 0..4 {
        assert!(!merges(flow, flip(120)), "payload of flow {flow}");
    }
    assert!(!merges(TCP_V4, flip(11)) && !merges(TCP_V4, flip(36)), "the checksums themselves");
    assert!(!merges(UDP_V4, |packet| packet.get_mut(26..28).into_iter().for_each(|field| field.fill(0))));
    let mut flows = Flows::default();
    let mut packets: Vec<_> = (0..5).map(|_| flows.packet([TCP_V4, 100, 0, 0])).collect();
    packets[0][100] ^= 1;
    assert_eq!(check_merge(ALL, &packets), 2, "a corrupt first packet goes alone");
    packets[2][100] ^= 1;
    assert_eq!(check_merge(ALL, &packets), 4, "and so does one in the middle");
}

#[test]
fn a_fragment_overtakes_nothing() {
    let mut flows = Flows::default();
    let mut packets: Vec<_> = (0..4u8).map(|count| flows.packet([count % 2 * 2, 100, 0, 0])).collect();
    packets[2][6] = 0x20;
    assert_eq!(check_merge(ALL, &packets), 4, "both flows left before it");
}
