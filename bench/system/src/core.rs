//! What the tunnel core alone can do, in this process: handshakes answered, peers looked up.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_common_tunnel_core::{Discard, SoloTunnel};

use crate::plane;
use crate::report::Figure;
use crate::stats::{Spread, float};

/// Handshakes of one turn, and turns: half a second each, since the kernel counts processor time in steps of up to 4 ms.
const HANDSHAKES: u32 = 2_000;
const TURNS: usize = 3;

/// Between two handshakes on the core's clock: slow enough that no budget refuses one.
const APART: Duration = Duration::from_millis(20);

/// Promise of issue 3: handshakes that one core answers in a second.
const PER_SECOND: f64 = 4000.0;

/// Numbers of peers among which one is looked up, look-ups of one pass, and passes of one turn.
const TABLES: [u32; 3] = [10, 1_000, 10_000];
const LOOKUPS: u32 = 100_000;
const PASSES: u32 = 10;

/// A prime far from every number of peers: steps of it visit all of them in no order a cache could guess.
const STRIDE: u32 = 7_919;

/// Handshakes that a hub answers in a second of one core: initiation taken, response made, first message opened.
///
/// # Errors
///
/// Fails where one of them is not answered.
pub(crate) fn handshakes() -> Result<Vec<Figure>> {
    let rates: Vec<f64> = (0..TURNS).map(|_| handshake_rate()).collect::<Result<_>>()?;
    Ok(vec![least("handshake.responder_rate", "/s and core", rates)])
}

fn least(name: &str, unit: &'static str, values: Vec<f64>) -> Figure {
    Figure::of(name, unit, Spread::of(values)).at_least(PER_SECOND)
}

fn handshake_rate() -> Result<f64> {
    let mut now = Instant::now();
    let hub_at = SocketAddr::from((Ipv4Addr::LOCALHOST, 51820));
    let mut hub = SoloTunnel::new(plane::core(0)?, now);
    let mut spokes = BTreeMap::new();
    let mut initiations = Vec::new();
    for number in 1..=HANDSHAKES {
        hub.upsert_peer(plane::peer(number, None)?, now)?;
        let mut spoke = SoloTunnel::new(plane::core(number)?, now);
        spoke.upsert_peer(plane::peer(0, Some(hub_at))?, now)?;
        initiations
            .push((source(number), spoke.poll_transmit().context("a spoke that does not dial")?.payload));
        spokes.insert(source(number), spoke);
    }
    let (responses, answering) = feed(&mut hub, initiations, &mut now)?;
    ensure!(responses.len() == usize::try_from(HANDSHAKES)?, "{} handshakes answered", responses.len());
    let mut confirmations = Vec::new();
    for (to, response) in responses {
        let spoke = spokes.get_mut(&to).context("an answer to nobody")?;
        spoke.handle_datagram(hub_at, &response, now);
        let first = spoke.poll_transmit().context("a spoke that does not confirm")?;
        confirmations.push((to, first.payload));
    }
    let (_, confirming) = feed(&mut hub, confirmations, &mut now)?;
    ensure!(
        hub.stats().handshakes == u64::from(HANDSHAKES),
        "{} handshakes completed",
        hub.stats().handshakes
    );
    Ok(f64::from(HANDSHAKES) / (answering + confirming).as_secs_f64())
}

/// Where a spoke dials from.
fn source(number: u32) -> SocketAddr {
    SocketAddr::from((
        Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits().saturating_add(number)),
        51820,
    ))
}

/// Datagrams and who sent them, or who gets them.
type Datagrams = Vec<(SocketAddr, Vec<u8>)>;

/// Gives datagrams to a core; what it sends, and how long it took.
fn feed(hub: &mut SoloTunnel, datagrams: Datagrams, now: &mut Instant) -> Result<(Datagrams, Duration)> {
    let mut sent = Vec::with_capacity(datagrams.len());
    let began = on_processor()?;
    for (from, datagram) in datagrams {
        *now += APART;
        hub.handle_datagram(from, &datagram, *now);
        while let Some(transmit) = hub.poll_transmit() {
            sent.push((transmit.to.remote, transmit.payload));
        }
    }
    Ok((sent, on_processor()?.saturating_sub(began)))
}

/// Processor time of this thread, which others that run on this machine do not lengthen (proc_pid_schedstat:
/// nanoseconds on a processor come first).
fn on_processor() -> Result<Duration> {
    let text =
        std::fs::read_to_string("/proc/thread-self/schedstat").context("cannot read the processor time")?;
    let nanos = text.split_whitespace().next().context("no processor time")?.parse()?;
    Ok(Duration::from_nanos(nanos))
}

/// Time that a hub needs to find the peer of a packet, among few and among many peers.
///
/// The peers' endpoints are not known, so that a packet ends where its peer was found.
///
/// # Errors
///
/// Fails where a packet ends elsewhere.
pub(crate) fn lookups() -> Result<Vec<Figure>> {
    TABLES.into_iter().map(|peers| lookup(peers, PASSES)).collect()
}

fn lookup(peers: u32, passes: u32) -> Result<Figure> {
    let all = f64::from(LOOKUPS) * f64::from(passes);
    let now = Instant::now();
    let mut hub = SoloTunnel::new(plane::core(0)?, now);
    for number in 1..=peers {
        hub.upsert_peer(plane::peer(number, None)?, now)?;
    }
    let packets: Vec<_> =
        (0..peers).map(|number| packet(plane::lease(number.saturating_add(1)).v4)).collect();
    let order: Vec<&[u8]> = (0..LOOKUPS)
        .filter_map(|turn| packets.get(usize::try_from(turn.wrapping_mul(STRIDE) % peers).ok()?))
        .map(Vec::as_slice)
        .collect();
    let mut nanos = Vec::new();
    for _ in 0..TURNS {
        let began = on_processor()?;
        for packet in (0..passes).flat_map(|_| &order) {
            hub.handle_packet(packet, now);
        }
        nanos.push(on_processor()?.saturating_sub(began).as_secs_f64() * 1e9 / all);
    }
    let found = float(hub.stats().discarded(Discard::NoEndpoint));
    ensure!(found >= all, "only {found} packets found their peer");
    Ok(Figure::of(format!("peers.lookup_of_{peers}"), "ns", Spread::of(nanos)))
}

/// A UDP packet of the hub without payload (RFC 791, RFC 768; the UDP checksum of 0 is none).
fn packet(to: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(plane::lease(0).v4.octets());
    packet.extend(to.octets());
    let sum = packet.chunks_exact(2).fold(0u32, |sum, pair| match pair {
        [high, low] => sum.saturating_add(u32::from(u16::from_be_bytes([*high, *low]))),
        _ => sum,
    });
    let folded = (sum & 0xffff).saturating_add(sum >> 16);
    let folded = (folded & 0xffff).saturating_add(folded >> 16);
    let [.., high, low] = (!folded).to_be_bytes();
    for (place, byte) in packet.iter_mut().skip(10).zip([high, low]) {
        *place = byte;
    }
    packet.extend([0x30, 0x39, 0, 9, 0, 8, 0, 0]);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handful_of_lookups_ends_at_the_peers() {
        let figure = lookup(10, 1).unwrap();
        assert!(figure.is_kept());
    }
}
