//! Reads set-up, steps and packets from an input.
#![expect(clippy::indexing_slicing, reason = "every index follows a check of the length")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::model::{Grant, Kind, Model, Party, Rule, covers};
use super::rig::{OWN_V4, OWN_V6, Rig};
use super::{Outcome, SPOKES};
use crate::input::Input;
use crate::wire;

const PROTOCOLS: [u8; 14] = [6, 17, 1, 58, 6, 17, 0, 43, 44, 50, 51, 59, 60, 135];
const SPECIAL_V4: [[u8; 4]; 8] = [
    [0, 0, 0, 0],
    [127, 0, 0, 1],
    [169, 254, 1, 1],
    [224, 0, 0, 1],
    [240, 0, 0, 1],
    [255, 255, 255, 255],
    [192, 0, 2, 1],
    [169, 255, 0, 1],
];
const SPECIAL_V6: [&str; 12] = [
    "::",
    "::1",
    "::10.7.0.2",
    "::ffff:10.7.0.2",
    "fe80::2",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "64:ff9b::a07:2",
    "2002:a07:2::",
    "2001:db8::1",
    "::fffe:10.7.0.2",
];

/// Prefixes and policy; every spoke holds at least one address of each family.
pub(super) fn set_up(input: &mut Input<'_>) -> Option<Rig> {
    let switches = input.byte()?;
    let own_rules =
        [Rule { kind: Kind::Udp, ports: (0, 2) }, Rule { kind: Kind::Tcp, ports: (3, 3) }].to_vec();
    let mut model = Model {
        own: [OWN_V4.into(), OWN_V6.into()],
        prefixes: Vec::new(),
        grants: Vec::new(),
        answers_echoes: switches & 1 != 0,
        own_rules: (switches & 2 != 0).then_some(own_rules),
        is_joined: [true, true, true, false],
        mtu: [1420; SPOKES],
        begun: Vec::new(),
    };
    for (number, spoke) in (2..).zip(0..SPOKES) {
        model.prefixes.push((Ipv4Addr::new(10, 7, 0, number).into(), 32, spoke));
        model.prefixes.push((Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, number.into()).into(), 128, spoke));
    }
    for _ in 0..input.below(7)? {
        let (spoke, prefix, len) = (input.below(SPOKES)?, address(input)?, input.byte()?);
        let len = if prefix.is_ipv4() { len % 33 } else { len % 129 };
        let is_taken =
            |(other, other_len, _): &(IpAddr, u8, usize)| *other_len == len && covers(*other, len, prefix);
        if !model.prefixes.iter().any(is_taken) {
            model.prefixes.push((prefix, len, spoke));
        }
    }
    for _ in 0..input.below(6)? {
        let grant = grant(input)?;
        model.grants.push(grant);
    }
    Some(Rig::new(model))
}

/// Takes one step; `None` where the input is at its end.
pub(super) fn step(rig: &mut Rig, input: &mut Input<'_>) -> Option<Outcome> {
    match input.below(10)? {
        0..=5 => {
            let (sender, filling) = (input.below(SPOKES - 1)?, input.byte()?);
            let mut packets: Vec<Vec<u8>> = Vec::new();
            for _ in 0..=input.below(8)? {
                let packet = match packets.last() {
                    Some(last) if input.byte()? < 128 => patched(last.clone(), input)?,
                    _ => packet(input)?,
                };
                packets.push(packet);
            }
            Some(rig.send(sender, &packets, filling))
        }
        6 => {
            let packet = packet(input)?;
            Some(rig.send_own(&packet))
        }
        7 => {
            rig.wait(Duration::from_millis(u64::from(input.byte()?) * 750));
            Some(Ok(()))
        }
        8 => {
            if input.byte()? < 128 {
                rig.model.grants.pop();
            } else if rig.model.grants.len() < 70 {
                let grant = grant(input)?;
                rig.model.grants.push(grant);
            }
            rig.apply_grants();
            Some(Ok(()))
        }
        _ => {
            if rig.model.prefixes.len() > 2 * SPOKES
                && let Some((_, _, spoke)) = rig.model.prefixes.pop()
            {
                rig.apply_prefixes(spoke);
            }
            Some(Ok(()))
        }
    }
}

fn grant(input: &mut Input<'_>) -> Option<Grant> {
    let (source, destination) = (party(input)?, party(input)?);
    let mut rules = Vec::new();
    for _ in 0..input.below(3)? {
        let kind = [Kind::Other, Kind::Tcp, Kind::Udp, Kind::Icmp][input.below(4)?];
        rules.push(Rule { kind, ports: (port(input)?, port(input)?) });
    }
    Some(Grant { source, destination, rules })
}

fn party(input: &mut Input<'_>) -> Option<Party> {
    let bits = input.byte()?;
    if bits >= 200 {
        return Some(Party::Anyone);
    }
    Some(Party::Spokes([1, 2, 4, 8].map(|bit| bits & bit != 0)))
}

/// Few ports, so that they meet.
fn port(input: &mut Input<'_>) -> Option<u16> {
    match input.byte()? {
        small @ 0..240 => Some(u16::from(small % 6)),
        240..248 => Some(u16::MAX),
        _ => input.short(),
    }
}

/// Few addresses, so that they meet.
fn address(input: &mut Input<'_>) -> Option<IpAddr> {
    let choice = input.byte()?;
    Some(match choice {
        0..80 => [10, 7, 0, choice % 8].into(),
        80..100 => [10, 7, choice % 4, choice % 3].into(),
        100..108 => SPECIAL_V4[usize::from(choice - 100)].into(),
        108..112 => <[u8; 4]>::try_from(input.bytes(4)).ok()?.into(),
        112..200 => [0xfd07, 0, 0, 0, 0, 0, 0, u16::from(choice % 8)].into(),
        200..220 => [0xfd07, 0, 0, 0, u16::from(choice % 3), 0, 0, u16::from(choice % 4)].into(),
        220..232 => SPECIAL_V6[usize::from(choice - 220)].parse().ok()?,
        _ => <[u8; 16]>::try_from(input.bytes(16)).ok()?.into(),
    })
}

/// A packet that is often whole, and then perhaps damaged.
fn packet(input: &mut Input<'_>) -> Option<Vec<u8>> {
    let shape = input.byte()?;
    if shape == u8::MAX {
        let len = usize::from(input.byte()?);
        return Some(input.bytes(len).to_vec());
    }
    let (source, destination) = (address(input)?, address(input)?);
    let destination = match (source, destination) {
        (IpAddr::V4(_), IpAddr::V6(v6)) => [10, 7, 0, v6.octets()[15]].into(),
        (IpAddr::V6(_), IpAddr::V4(v4)) => [0xfd07, 0, 0, 0, 0, 0, 0, u16::from(v4.octets()[3])].into(),
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => destination,
    };
    let protocol = match input.byte()? {
        choice @ 0..240 => PROTOCOLS[usize::from(choice) % PROTOCOLS.len()],
        other => other,
    };
    let hops = [64, 64, 2, 1, 0, 255][input.below(6)?];
    let body = body(input, protocol, source, destination)?;
    let mut packet = wire::ip_packet(source, destination, protocol, hops, &body);
    if matches!(protocol, 1 | 58) && shape < 200 {
        seal_icmp(&mut packet, protocol);
    }
    if shape % 4 == 0 {
        packet = patched(packet, input)?;
    }
    if shape % 8 == 1 {
        let padding = usize::from(input.byte()?);
        packet.resize(packet.len() + padding, shape);
    }
    Some(packet)
}

fn body(input: &mut Input<'_>, protocol: u8, source: IpAddr, destination: IpAddr) -> Option<Vec<u8>> {
    let len = usize::from(input.byte()?);
    let len = if len >= 250 { 1400 - (255 - len) * 12 } else { len };
    let ports = [port(input)?.to_be_bytes(), port(input)?.to_be_bytes()].concat();
    let mut body = match protocol {
        6 => [&ports[..], &[0; 9], &[input.byte()?], &[0; 6]].concat(),
        1 | 58 => {
            let kinds: &[u8] =
                if protocol == 1 { &[8, 0, 3, 11, 12, 5] } else { &[128, 129, 1, 2, 3, 4, 135] };
            let kind = kinds[input.below(kinds.len())?];
            let head = [&[kind, 0, 0, 0][..], &ports].concat();
            match input.byte()? {
                0..80 => [&head[..], &quoted(input, destination, source)?].concat(),
                80..90 => [&head[..], b"bpprobe1", &[7; 8]].concat(),
                90..100 => {
                    [&head[..], b"bpecho/3", &[0; 16], &input.short()?.to_be_bytes(), &[0; 2]].concat()
                }
                _ => head,
            }
        }
        _ => [&ports[..], &[0, 0, 0, 0]].concat(),
    };
    if len >= 8 && body.len() != 36 {
        body.resize(len.max(body.len()), 0x61);
    } else if len < 8 && len % 2 == 1 {
        body.truncate(len);
    }
    Some(body)
}

/// The beginning of the packet that an error is about.
fn quoted(input: &mut Input<'_>, source: IpAddr, destination: IpAddr) -> Option<Vec<u8>> {
    let protocol = PROTOCOLS[input.below(PROTOCOLS.len())?];
    let ports = [port(input)?.to_be_bytes(), port(input)?.to_be_bytes()].concat();
    let mut quoted = wire::ip_packet(source, destination, protocol, 63, &[&ports[..], &[0; 4]].concat());
    let cut = input.below(32)?;
    if cut < 16 {
        quoted.truncate(quoted.len() - cut.min(quoted.len()));
    }
    Some(quoted)
}

/// Writes the checksum of an ICMP or ICMPv6 message, whichever header it stands behind.
fn seal_icmp(packet: &mut [u8], protocol: u8) {
    let is_v4 = packet[0] >> 4 == 4;
    let at = if is_v4 { 20 } else { 40 };
    if packet.len() < at + 4 {
        return;
    }
    packet[at + 2..at + 4].fill(0);
    let mut covered = Vec::new();
    if !is_v4 {
        covered.extend_from_slice(&packet[8..40]);
        let [high, low] = u16::try_from(packet.len() - at).unwrap_or(0).to_be_bytes();
        covered.extend_from_slice(&[0, 0, high, low, 0, 0, 0, protocol]);
    }
    covered.extend_from_slice(&packet[at..]);
    let sum = wire::checksum(&covered);
    packet[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
}

/// A few bytes changed, and the header's checksum made good again or not.
fn patched(mut packet: Vec<u8>, input: &mut Input<'_>) -> Option<Vec<u8>> {
    for _ in 0..input.below(4)? {
        let (at, value) = (usize::from(input.byte()?), input.byte()?);
        if let Some(byte) = packet.get_mut(at) {
            *byte = value;
        }
    }
    if input.byte()? < 192 && packet.len() >= 20 && packet[0] >> 4 == 4 {
        wire::seal_header(&mut packet);
    }
    Some(packet)
}
