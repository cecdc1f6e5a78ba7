//! Which flow a packet belongs to, as a number.

use super::ip::{Ip, TCP, UDP, wide_field};

/// Odd constants without pattern: the first 64 fractional bits of the golden ratio and of the square root of two.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const ROOT_TWO: u64 = 0x6a09_e667_f3bc_c909;

/// A hash of addresses, protocol and ports, for queueing by flow.
///
/// Fragments and packets without ports are told apart by addresses and protocol only, so all parts of a packet
/// meet; what is no IP packet has one hash. `key` is to be random, or strangers can choose flows that collide. It is
/// no cryptographic hash: a collision costs fairness, nothing else.
#[must_use]
pub fn flow_hash(packet: &[u8], key: u64) -> u64 {
    let Some(ip) = Ip::parse(packet) else { return mix(key, GOLDEN) };
    let ports = match ip.protocol {
        TCP | UDP if !ip.is_fragment() => wide_field(packet, ip.header_len),
        _ => 0,
    };
    let (words, _) = ip.addresses.as_chunks::<8>();
    let start = u64::from(ports) << 8 | u64::from(ip.protocol);
    let hash = words.iter().fold(mix(start ^ key, key.rotate_left(32) ^ GOLDEN), |hash, word| {
        mix(hash ^ u64::from_ne_bytes(*word), key ^ ROOT_TWO)
    });
    mix(hash, GOLDEN)
}

/// Multiplies to 128 bits and folds the halves.
fn mix(a: u64, b: u64) -> u64 {
    let product = (u128::from(a) * u128::from(b)).to_le_bytes();
    let (halves, _) = product.as_chunks::<8>();
    halves.iter().fold(0, |hash, half| hash ^ u64::from_le_bytes(*half))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn udp(source: u8, port: u16, fragment: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 7, 0, source, 10, 7, 0, 1];
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet.extend_from_slice(&port.to_be_bytes());
        packet.extend_from_slice(&[0, 53, 0, 9, 0, 0, 7]);
        packet
    }

    #[test]
    fn flows_are_told_apart_and_packets_of_one_are_not() {
        let mut seen = BTreeSet::new();
        for source in 0..16 {
            for port in 0..256 {
                seen.insert(flow_hash(&udp(source, port, 0), 42) % 65_536);
            }
        }
        assert!(seen.len() > 3900, "{} of 4096 values of 16 bits, about 3970 expected", seen.len());
        let mut other = udp(3, 7, 0x4000);
        other[28] = 9;
        assert_eq!(flow_hash(&udp(3, 7, 0), 42), flow_hash(&other, 42));
        assert_ne!(flow_hash(&other, 42), flow_hash(&other, 43));
    }

    #[test]
    fn parts_of_a_packet_meet_and_nonsense_has_a_hash() {
        assert_eq!(flow_hash(&udp(3, 7, 0x2000), 1), flow_hash(&udp(3, 99, 0x0004), 1));
        assert_eq!(flow_hash(&[], 1), flow_hash(&[0x45; 7], 1));
    }
}
