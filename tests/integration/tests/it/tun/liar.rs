//! A spoke that keeps to no rule: it has a place at the hub and its keys, and speaks WireGuard itself.
//!
//! What it puts into its session is any bytes. That is all that somebody can do who has taken over a machine.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_tests_support::Host;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use serde_json::Value;

use crate::fixture::{Agent, CALL, text};

/// Longer than every datagram.
const ROOM: usize = 4096;

/// A session with the hub.
pub(super) struct Liar {
    tunn: Tunn,
    socket: UdpSocket,
}

impl Liar {
    /// Shakes hands with the hub from `host`, as the machine whose join left `agent`.
    pub(super) fn start(host: &Host, agent: &Agent<'_>, hub: Ipv4Addr) -> Result<Self> {
        let path = agent.state().join("identity.json");
        let identity: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        let key = |pointer| -> Result<[u8; 32]> {
            STANDARD.decode(text(&identity, pointer)?)?.try_into().map_err(|_| anyhow!("{pointer} is no key"))
        };
        let private = StaticSecret::from(key("/wireguard_private_key")?);
        let hub_key = PublicKey::from(key("/tunnel/hub_public_key")?);
        let port = text(&identity, "/tunnel/carriers/0/endpoint")?.trim_start_matches(':').parse()?;
        let socket = host.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        socket.connect(SocketAddr::from((hub, port)))?;
        socket.set_read_timeout(Some(CALL))?;
        let mut liar = Self { tunn: Tunn::new(private, hub_key, None, None, 7, None), socket };
        liar.shake_hands()?;
        Ok(liar)
    }

    fn shake_hands(&mut self) -> Result<()> {
        let mut room = [0; ROOM];
        let TunnResult::WriteToNetwork(first) = self.tunn.format_handshake_initiation(&mut room, false)
        else {
            bail!("no handshake to begin with");
        };
        self.socket.send(first)?;
        let mut answer = [0; ROOM];
        let length = self.socket.recv(&mut answer).context("the hub does not answer the handshake")?;
        let answer = answer.get(..length).unwrap_or_default();
        let mut room = [0; ROOM];
        let TunnResult::WriteToNetwork(keepalive) = self.tunn.decapsulate(None, answer, &mut room) else {
            bail!("the hub's answer is none");
        };
        // The first message of the session, by which the hub begins to use it.
        self.socket.send(keepalive)?;
        Ok(())
    }

    /// Puts any bytes into a data message and sends it; the message.
    pub(super) fn say(&mut self, packet: &[u8]) -> Result<Vec<u8>> {
        let mut room = [0; ROOM];
        let TunnResult::WriteToNetwork(message) = self.tunn.encapsulate(packet, &mut room) else {
            bail!("no session any more");
        };
        self.socket.send(message)?;
        Ok(message.to_vec())
    }

    /// Sends bytes outside of any session.
    pub(super) fn throw(&self, datagram: &[u8]) -> Result<()> {
        self.socket.send(datagram)?;
        Ok(())
    }

    /// Waits for a packet from the hub within the session; `None` where none comes.
    pub(super) fn hear(&mut self, within: Duration) -> Result<Option<Vec<u8>>> {
        self.socket.set_read_timeout(Some(within))?;
        let mut datagram = [0; ROOM];
        let Ok(length) = self.socket.recv(&mut datagram) else { return Ok(None) };
        let mut room = [0; ROOM];
        let datagram = datagram.get(..length).unwrap_or_default();
        match self.tunn.decapsulate(None, datagram, &mut room) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Ok(Some(packet.to_vec()))
            }
            TunnResult::Done | TunnResult::Err(_) | TunnResult::WriteToNetwork(_) => Ok(None),
        }
    }
}
