//! A machine that joined and turned bad: it speaks the tunnel's protocol itself and sends what it likes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use blueprint_common_types::{WgPrivateKey, WgPublicKey};
use blueprint_tests_support::Host;
use boringtun::noise::{Tunn, TunnResult};
use serde_json::Value;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::fixture::{Agent, Hub, text};

/// Longest wait for an answer of the hub.
const ANSWER: Duration = Duration::from_secs(3);

/// A joined machine without an agent.
pub(super) struct Intruder<'h> {
    tunn: Tunn,
    pub(super) socket: UdpSocket,
    hub: SocketAddr,
    pub(super) own: Ipv4Addr,
    pub(super) hub_overlay: Ipv4Addr,
    /// Everything it sent before it turned bad.
    pub(super) sent: Vec<Vec<u8>>,
    _agent: Agent<'h>,
}

/// The hub's public key, as a machine that joined knows it.
pub(super) fn hub_key(identity: &Value) -> Result<WgPublicKey> {
    text(identity, "/tunnel/hub_public_key")?.parse().context("no key of the hub")
}

/// What joining left on a machine.
pub(super) fn identity_of(agent: &Agent<'_>) -> Result<Value> {
    let path = agent.state().join("identity.json");
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

impl<'h> Intruder<'h> {
    /// Joins, makes a handshake and has some echoes answered.
    pub(super) fn join(hub: &Hub<'_>, hub_at: SocketAddr, host: &'h Host) -> Result<Self> {
        let agent = Agent::join(Some(host), "intruder", &hub.join_line(&[])?)?;
        let identity = identity_of(&agent)?;
        let key: WgPrivateKey = text(&identity, "/wireguard_private_key")?.parse()?;
        let hub_key = PublicKey::from(*hub_key(&identity)?.as_bytes());
        let tunn = Tunn::new(StaticSecret::from(*key.expose()), hub_key, None, None, 7, None);
        let socket = host.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let own = text(&identity, "/tunnel/address/v4")?.parse()?;
        let hub_overlay = text(&identity, "/tunnel/hub/v4")?.parse()?;
        let mut intruder =
            Self { tunn, socket, hub: hub_at, own, hub_overlay, sent: Vec::new(), _agent: agent };
        intruder.shake_hands()?;
        for _ in 0..20 {
            let echo = echo(intruder.own, intruder.hub_overlay, 56);
            let datagram = intruder.seal(&echo)?;
            intruder.send(datagram)?;
        }
        Ok(intruder)
    }

    /// A handshake from where it is now; what it asks goes to `sent`.
    pub(super) fn shake_hands(&mut self) -> Result<()> {
        let (begin, mut buffer, mut out) = (Instant::now(), [0; 2048], [0; 2048]);
        while begin.elapsed() < ANSWER {
            let TunnResult::WriteToNetwork(initiation) =
                self.tunn.format_handshake_initiation(&mut out, true)
            else {
                bail!("the library made no initiation");
            };
            let initiation = initiation.to_vec();
            self.send(initiation)?;
            let Ok((len, _)) = self.socket.recv_from(&mut buffer) else { continue };
            let answer = buffer.get(..len).unwrap_or_default();
            if let TunnResult::WriteToNetwork(proof) =
                self.tunn.decapsulate(Some(self.hub.ip()), answer, &mut out)
            {
                let proof = proof.to_vec();
                return self.send(proof);
            }
        }
        bail!("the hub did not answer the intruder within {ANSWER:?}")
    }

    fn send(&mut self, datagram: Vec<u8>) -> Result<()> {
        self.socket.send_to(&datagram, self.hub)?;
        self.sent.push(datagram);
        Ok(())
    }

    /// A data message with this packet.
    pub(super) fn seal(&mut self, packet: &[u8]) -> Result<Vec<u8>> {
        let mut out = vec![0; packet.len() + 32];
        let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(packet, &mut out) else {
            bail!("the library sealed nothing");
        };
        ensure!(datagram.first() == Some(&4), "the session is gone");
        Ok(datagram.to_vec())
    }

    /// Gives up its socket and its keys to a flood.
    pub(super) fn into_parts(self) -> (UdpSocket, Tunn) {
        (self.socket, self.tunn)
    }
}

/// An IPv4 packet of `protocol` with a right header checksum.
pub(super) fn packet(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + body.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet.splice(10..12, sum);
    packet.extend(body);
    packet
}

/// An echo request with `len` bytes.
pub(super) fn echo(from: Ipv4Addr, to: Ipv4Addr, len: usize) -> Vec<u8> {
    let mut body = vec![8, 0, 0, 0, 0, 9, 0, 1];
    body.resize(8 + len, 0x55);
    let sum = checksum(&body);
    body.splice(2..4, sum);
    packet(1, from, to, &body)
}

/// A UDP datagram to a port, without a checksum.
pub(super) fn udp(from: Ipv4Addr, to: Ipv4Addr, port: u16, len: usize) -> Vec<u8> {
    let mut body = vec![0x30, 0x39];
    body.extend(port.to_be_bytes());
    body.extend(u16::try_from(8 + len).unwrap_or(u16::MAX).to_be_bytes());
    body.extend([0, 0]);
    body.resize(8 + len, 0x55);
    packet(17, from, to, &body)
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let pair = |pair: &[u8]| {
        let high = pair.first().copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([high, pair.get(1).copied().unwrap_or(0)]))
    };
    let mut sum: u32 = bytes.chunks(2).map(pair).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(0)).to_be_bytes()
}

/// Where the hub answers WireGuard.
pub(super) fn tunnel_of(host: &Host) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(host.address()), 51_820)
}
