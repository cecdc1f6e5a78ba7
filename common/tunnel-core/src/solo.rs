//! One end of a tunnel without threads: the core and one packet thread's workspace, driven by whoever holds it.
//!
//! For simulations, tests and tools; a process that serves has threads (`blueprint-common-tunnel`). What passes
//! it passes the same code.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;
use std::time::Instant;

use crate::{
    Config, Discard, Endpoint, Inbound, Notice, Outlet, RUN_SLACK_BYTES, Stats, Tables, Tally, Transmit,
    TunnelCore,
};

/// A core and one packet thread in one. Dereferences to its core.
#[derive(Debug)]
pub struct SoloTunnel {
    core: TunnelCore,
    tables: Tables,
    inbound: Inbound,
    tally: Arc<Tally>,
    sink: Sink,
    buffer: Vec<u8>,
}

/// What waits to be taken out.
#[derive(Debug, Default)]
struct Sink {
    packets: VecDeque<Vec<u8>>,
    transmits: VecDeque<Transmit>,
    notices: Vec<Notice>,
}

impl Deref for SoloTunnel {
    type Target = TunnelCore;

    fn deref(&self) -> &TunnelCore {
        &self.core
    }
}

impl DerefMut for SoloTunnel {
    fn deref_mut(&mut self) -> &mut TunnelCore {
        &mut self.core
    }
}

impl SoloTunnel {
    /// Makes an end without peers.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        let core = TunnelCore::new(config, now);
        let tally = Arc::new(Tally::default());
        Self {
            tables: core.tables(),
            core,
            inbound: Inbound::new(Arc::clone(&tally)),
            tally,
            sink: Sink::default(),
            buffer: Vec::new(),
        }
    }

    /// Takes a datagram that arrived from `from`.
    pub fn handle_datagram(&mut self, from: impl Into<Endpoint>, datagram: &[u8], now: Instant) {
        self.handle_run(from, datagram, datagram.len(), now);
    }

    /// Takes datagrams of `stride` bytes each, the last may be shorter.
    pub fn handle_run(&mut self, from: impl Into<Endpoint>, run: &[u8], stride: usize, now: Instant) {
        self.refresh();
        self.buffer.clear();
        self.buffer.extend_from_slice(run);
        self.buffer.resize(run.len().saturating_add(RUN_SLACK_BYTES), 0);
        let Self { inbound, tables, buffer, sink, .. } = self;
        inbound.handle(tables, &from.into(), buffer, run.len(), stride, now, sink);
        for notice in std::mem::take(&mut self.sink.notices) {
            self.core.handle_notice(notice, now);
        }
    }

    /// Takes an IP packet from the local stack.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.refresh();
        if let Err(discard) = self.seal(packet, now) {
            self.tally.discard(discard);
        }
        for notice in std::mem::take(&mut self.sink.notices) {
            self.core.handle_notice(notice, now);
        }
    }

    fn seal(&mut self, packet: &[u8], now: Instant) -> Result<(), Discard> {
        let route = self.tables.route(packet, now)?;
        let mut sealer = route.lock();
        if packet.len() > sealer.mtu() {
            return Err(Discard::TooBig);
        }
        let to = sealer.endpoint().ok_or(Discard::NoEndpoint)?;
        if sealer.note_len(packet.len()) {
            self.sink.notices.push(Notice::Large { slot: route.slot() });
        }
        let mut padded = packet.to_vec();
        padded.resize(sealer.padded_len(packet.len()), 0);
        let mut payload = vec![0; padded.len().saturating_add(RUN_SLACK_BYTES)];
        match sealer.seal(&padded, &mut payload, now) {
            Ok(len) => {
                payload.truncate(len);
                self.sink.transmits.push_back(Transmit { to, payload });
                Ok(())
            }
            Err(Discard::ExpiredSession) => {
                self.sink.notices.push(route.wait(packet, now)?);
                Ok(())
            }
            Err(discard) => Err(discard),
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.sink.transmits.pop_front().or_else(|| self.core.poll_transmit())
    }

    /// The next packet for the local stack.
    pub fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.sink.packets.pop_front()
    }

    /// Counters since it was made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.core.stats().clone();
        stats.add(&self.tally);
        stats
    }

    fn refresh(&mut self) {
        if let Some(tables) = self.core.poll_tables() {
            self.tables = tables;
        }
    }
}

impl Outlet for Sink {
    fn deliver(&mut self, packets: &mut [u8], range: Range<usize>, _is_alone: bool) {
        self.packets.push_back(packets.get(range).unwrap_or_default().to_vec());
    }

    fn finish(&mut self, _packets: &mut [u8]) {}

    fn send(&mut self, to: &Endpoint, datagrams: &[u8], segment: usize) {
        let datagrams = datagrams.chunks(segment.max(1));
        self.transmits.extend(datagrams.map(|payload| Transmit { to: *to, payload: payload.to_vec() }));
    }

    fn tell(&mut self, notice: Notice) {
        self.notices.push(notice);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use std::net::SocketAddr;
    use std::time::Duration;

    use blueprint_common_types::{OverlayLease, WgPrivateKey};

    use super::*;
    use crate::{Limits, OverlayPrefixes, PeerConfig, Role};

    fn end(number: u8, now: Instant) -> SoloTunnel {
        let private_key = |number: u8| WgPrivateKey::from_bytes([number + 1; 32]);
        let prefixes =
            OverlayPrefixes { v4: "10.7.0.0/16".parse().unwrap(), v6: "fd07::/64".parse().unwrap() };
        let (hub, v4) = (prefixes.hub(), [10, 7, 0, number + 1].into());
        let mut end = SoloTunnel::new(
            Config {
                private_key: private_key(number),
                addresses: OverlayLease { v4, ..hub },
                prefixes,
                role: if number == 0 { Role::Hub } else { Role::Spoke },
                mtu: 1420,
                limits: Limits::default(),
                answers_echoes: true,
                own_rules: None,
                seed: [number; 32],
            },
            now,
        );
        let other = 1 - number;
        let peer = PeerConfig {
            public_key: private_key(other).public_key(),
            allowed_ips: vec![format!("10.7.0.{}/32", other + 1).parse().unwrap()],
            endpoint: (other == 0).then(|| address(0).into()),
            preshared_key: None,
            keepalive: None,
        };
        end.upsert_peer(peer, now).unwrap();
        end
    }

    fn address(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 51820))
    }

    #[test]
    fn a_session_whose_notice_was_lost_is_found_by_the_next_look() {
        let now = Instant::now();
        let (mut hub, mut spoke) = (end(0, now), end(1, now));
        let initiation = spoke.poll_transmit().unwrap().payload;
        hub.handle_datagram(address(1), &initiation, now);
        let response = hub.poll_transmit().unwrap().payload;
        spoke.handle_datagram(address(0), &response, now);
        let confirmation = spoke.poll_transmit().unwrap().payload;

        // As an engine whose queue to the core is full.
        hub.refresh();
        hub.buffer = confirmation.clone();
        hub.buffer.resize(confirmation.len() + RUN_SLACK_BYTES, 0);
        let SoloTunnel { inbound, tables, buffer, sink, .. } = &mut hub;
        let len = confirmation.len();
        inbound.handle(tables, &address(1).into(), buffer, len, len, now, sink);
        let late = hub.sink.notices.pop().unwrap();
        assert!(matches!(late, Notice::Begun { .. }));
        assert_eq!(hub.stats().handshakes, 0);

        hub.handle_timeout(now + Duration::from_secs(2));
        assert_eq!(hub.stats().handshakes, 1);
        hub.handle_timeout(now + Duration::from_secs(20));
        hub.handle_notice(late, now + Duration::from_secs(21));
        assert_eq!(hub.stats().handshakes, 1, "once is enough");
    }
}
