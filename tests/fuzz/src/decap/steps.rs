//! What an input can make happen.
#![expect(clippy::indexing_slicing, reason = "fails loudly where a property does not hold")]

use std::net::SocketAddr;
use std::time::Duration;

use boringtun::noise::{Tunn, TunnResult};
use x25519_dalek::{PublicKey, StaticSecret};

use super::net::{A, B, HUB, Net, key};
use crate::input::Input;
use crate::wire;

/// Eight waits of the longest kind are past the life of a session (180 s).
const WAIT_UNIT: Duration = Duration::from_millis(90);

/// Takes one step; `None` where the input is at its end.
pub(super) fn step(net: &mut Net, input: &mut Input<'_>) -> Option<()> {
    match input.below(16)? {
        0 | 1 => hand_one(net, input)?,
        2 => hand_run(net, input)?,
        3 | 4 => {
            for _ in 0..=input.below(16)? {
                net.deliver();
            }
        }
        5 => {
            let count = input.below(8)?.min(net.flying.len());
            net.flying.drain(..count);
        }
        6 => {
            let by = input.byte()?;
            if let (false, at) = (net.flying.is_empty(), usize::from(by)) {
                let len = net.flying.len();
                net.flying.rotate_left(at % len);
            }
        }
        7 | 8 => {
            let (from, to) = (input.below(3)?, input.below(3)?);
            let size = usize::from(input.byte()?) * 6;
            if from != to {
                net.send(from, to, size, size % 4 == 2);
            }
        }
        9 => net.pass_time(WAIT_UNIT * u32::from(input.byte()?), true),
        10 => net.pass_time(WAIT_UNIT * u32::from(input.byte()?), false),
        11 => {
            let (spoke, port) = (A + input.below(2)?, input.byte()?);
            net.ends[spoke].address.set_port(40_000 + u16::from(port));
        }
        12 => {
            let (end, peer) = [(A, HUB), (B, HUB), (HUB, A), (HUB, B)][input.below(4)?];
            let now = net.now;
            net.ends[end].core.start_handshake(&key(peer), now);
            net.pump(end);
        }
        13 => hand_strangers(net, input)?,
        14 => net.lower_floor(A + input.below(2)?),
        _ => net.rejoin(A + input.below(2)?),
    }
    Some(())
}

/// Where a datagram may seem to come from.
fn source(net: &Net, input: &mut Input<'_>) -> Option<SocketAddr> {
    let choice = input.byte()?;
    Some(match choice {
        0..64 => net.ends[usize::from(choice) % 3].address,
        64..128 => SocketAddr::from(([203, 0, 113, choice], 6666)),
        128..192 => SocketAddr::from(([203, 0, 113, 1], u16::from(choice))),
        _ => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(choice)], 51820)),
    })
}

fn target(input: &mut Input<'_>) -> Option<usize> {
    Some([HUB, HUB, A, B][input.below(4)?])
}

fn hand_one(net: &mut Net, input: &mut Input<'_>) -> Option<()> {
    let to = target(input)?;
    let from = source(net, input)?;
    let datagram = forge(net, to, input)?;
    net.hand(to, from, &datagram, datagram.len().max(1));
    Some(())
}

/// Datagrams in a row, cut at a stride that need not be theirs.
fn hand_run(net: &mut Net, input: &mut Input<'_>) -> Option<()> {
    let to = target(input)?;
    let from = source(net, input)?;
    let (count, stride) = (input.below(12)?, usize::from(input.short()?));
    let mut run = Vec::new();
    let mut first_len = 0;
    for _ in 0..=count {
        run.extend(forge(net, to, input)?);
        first_len = if first_len == 0 { run.len() } else { first_len };
    }
    let stride = if stride >= 2048 { first_len } else { stride };
    net.hand(to, from, &run, stride.max(1));
    Some(())
}

/// A datagram out of nothing or out of a genuine one.
fn forge(net: &Net, to: usize, input: &mut Input<'_>) -> Option<Vec<u8>> {
    let choice = input.byte()?;
    let mut datagram = match choice % 10 {
        0 => {
            let len = usize::from(input.byte()?);
            input.bytes(len).to_vec()
        }
        1 => blank(net, input)?,
        2 | 3 => genuine(net, input)?.to_vec(),
        kind => damaged(net, kind, input)?,
    };
    if choice >= 128 {
        wire::set_first_mac(&Net::public(to), &mut datagram);
    }
    Some(datagram)
}

fn genuine<'a>(net: &'a Net, input: &mut Input<'_>) -> Option<&'a [u8]> {
    let back = usize::from(input.byte()?) % net.genuine.len();
    Some(&net.genuine[net.genuine.len() - 1 - back].bytes)
}

/// A message of the right length with an index that is in use, and little else.
fn blank(net: &Net, input: &mut Input<'_>) -> Option<Vec<u8>> {
    let kind = input.byte()?;
    let (kind, len) = [(1, 148), (2, 92), (3, 64), (4, 32), (4, 48), (4, 1452)][usize::from(kind) % 6];
    let mut message = vec![0; len];
    message[0] = kind;
    let index = genuine(net, input)?.get(4..8).unwrap_or(&[0; 4]);
    let at = if kind == 2 { 8 } else { 4 };
    message[at..at + 4].copy_from_slice(index);
    let patch = input.bytes(8);
    message[len - patch.len()..].copy_from_slice(patch);
    Some(message)
}

fn damaged(net: &Net, kind: u8, input: &mut Input<'_>) -> Option<Vec<u8>> {
    let mut datagram = genuine(net, input)?.to_vec();
    let len = datagram.len();
    match kind {
        4 => {
            let (at, bit) = (usize::from(input.short()?) % len, input.byte()? % 8);
            datagram[at] ^= 1 << bit;
        }
        5 => datagram.truncate(usize::from(input.short()?) % len),
        6 => {
            let more = usize::from(input.byte()?);
            datagram.extend(input.bytes(more));
        }
        7 => {
            let at = usize::from(input.byte()?) % len;
            let other = genuine(net, input)?;
            datagram.truncate(at);
            datagram.extend(other.get(at..).unwrap_or_default());
        }
        8 => {
            let at = input.below(24)?.min(len - 1);
            let patch = input.bytes(4);
            let end = (at + patch.len()).min(len);
            datagram[at..end].copy_from_slice(&patch[..end - at]);
        }
        // The counter, near where it may end.
        _ => {
            let left = u64::from(input.short()?);
            if let Some(counter) = datagram.get_mut(8..16) {
                counter.copy_from_slice(&(u64::MAX - left).to_le_bytes());
            }
        }
    }
    Some(datagram)
}

/// Good initiations for the hub of a key that is no peer, from a few places, perhaps too many at once.
fn hand_strangers(net: &mut Net, input: &mut Input<'_>) -> Option<()> {
    let from = source(net, input)?;
    let hub = PublicKey::from(Net::public(HUB));
    let mut tunn = Tunn::new(StaticSecret::from([77; 32]), hub, None, None, 1, None);
    let mut out = [0; 148];
    let TunnResult::WriteToNetwork(datagram) = tunn.format_handshake_initiation(&mut out, true) else {
        return None;
    };
    for number in 0..u16::from(input.byte()?) {
        let from = SocketAddr::new(from.ip(), from.port().wrapping_add(number % 4));
        net.hand(HUB, from, datagram, 148);
    }
    Some(())
}
