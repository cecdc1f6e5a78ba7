//! How long a segment takes, where asked for: `cargo test --release offload -- --ignored bench --nocapture`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a bench measures and says what it found"
)]

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use blueprint_common_tunnel_core::offload::{
    MergeLimits, Merger, Superpacket, VnetHeader, checksum, flow_hash,
};

use crate::bodies::Flows;
use crate::model;

const SEGMENTS: usize = 44;
const PAYLOAD: usize = 1368;
const ROUNDS: usize = 20_000;

/// One TCP packet of 1420 bytes.
fn segment(seq: usize) -> Vec<u8> {
    let mut packet = Flows::default().packet([0, 190, 0, 0]);
    packet.extend((0..PAYLOAD).map(|at| u8::try_from((at * 7 + seq) % 256).unwrap()));
    packet[24..28].copy_from_slice(&u32::try_from(seq * PAYLOAD).unwrap().to_be_bytes());
    model::seal(&mut packet);
    packet
}

/// Nanoseconds of one of `per_round` steps: the best of five runs.
fn time(per_round: usize, mut round: impl FnMut()) -> f64 {
    let run = |round: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..ROUNDS / per_round {
            round();
        }
        start.elapsed().as_secs_f64() * 1e9
            / f64::from(u32::try_from(ROUNDS / per_round * per_round).unwrap())
    };
    (0..5).map(|_| run(&mut round)).fold(f64::MAX, f64::min)
}

#[test]
#[ignore = "says how fast, which is no pass or fail"]
fn bench_of_a_segment() {
    let one = segment(0);
    let sum = time(1, || {
        black_box(checksum::sum(black_box(&one), 0));
    });
    let hash = time(1, || {
        black_box(flow_hash(black_box(&one), 7));
    });
    let mut big = one.clone();
    for seq in 1..SEGMENTS {
        big.extend_from_slice(&segment(seq)[52..]);
    }
    model::seal(&mut big);
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::GSO_TCPV4,
        hdr_len: 52,
        gso_size: u16::try_from(PAYLOAD).unwrap(),
        csum_start: 20,
        csum_offset: 16,
    };
    let mut out = vec![0u8; SEGMENTS * 1452];
    let split = time(SEGMENTS, || {
        let cut = Superpacket::parse(black_box(&header), black_box(&big)).unwrap();
        for (index, place) in out.chunks_exact_mut(1452).enumerate() {
            black_box(cut.write(index, place));
        }
    });
    let copy = time(SEGMENTS, || {
        for (place, payload) in out.chunks_exact_mut(1452).zip(big.chunks(1420)) {
            place[..payload.len()].copy_from_slice(payload);
        }
        black_box(&mut out);
    });
    let merge = merge_time();
    eprintln!(
        "ns per 1420 B: checksum {sum:.1}, flow hash {hash:.1}, split {split:.1} (of it copy {copy:.1}), merge {}",
        merge.map(|(flows, ns)| format!("{ns:.1} ({flows} flows)")).join(", ")
    );
}

fn merge_time() -> [(usize, f64); 3] {
    [1, 4, 8].map(|flows| {
        let mut buffer = Vec::new();
        let mut places = Vec::new();
        for count in 0..SEGMENTS {
            let mut packet = segment(count / flows);
            packet[21] = u8::try_from(count % flows).unwrap();
            model::seal(&mut packet);
            places.push(buffer.len()..buffer.len() + packet.len());
            buffer.extend_from_slice(&packet);
            buffer.extend_from_slice(&[0; 32]);
        }
        let fresh = buffer.clone();
        let mut merger =
            Merger::new(MergeLimits { tcp: true, udp: true, max_bytes: 65_535, max_segments: 128 });
        let mut emit = |header: &VnetHeader, buffer: &[u8], ranges: &[Range<usize>]| {
            assert!(ranges.len() > 1);
            black_box((header, buffer, ranges));
        };
        let ns = time(SEGMENTS, || {
            // A merge rewrites the first packets' headers, so these are put back.
            for place in &places[..flows] {
                buffer[place.start..place.start + 52].copy_from_slice(&fresh[place.start..place.start + 52]);
            }
            for place in &places {
                merger.add(&mut buffer, place.clone(), &mut emit);
            }
            merger.flush(&mut buffer, &mut emit);
        });
        (flows, ns)
    })
}
