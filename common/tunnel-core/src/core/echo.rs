//! Echoes and probes for the tunnel itself, as far as packet threads leave them to the core.

use std::net::IpAddr;
use std::time::Instant;

use blueprint_common_types::WgPublicKey;

use super::TunnelCore;
use crate::echo::{Beat, pace_for};
use crate::packet::{Header, is_own_echo, parse_probe};
use crate::peer::ProbeAnswer;
use crate::{Discard, Endpoint, Role};

impl TunnelCore {
    /// Asks through `endpoint` whether a packet of `size` bytes comes through to a peer and its answer back;
    /// [`Event::Probed`](crate::Event::Probed) tells. The peer is not moved. False where there is no such peer or no session.
    pub fn probe(
        &mut self,
        key: &WgPublicKey,
        endpoint: &Endpoint,
        size: u16,
        token: u64,
        now: Instant,
    ) -> bool {
        self.advance(now);
        let Some(slot) = self.slots.get(key).copied() else { return false };
        self.with_slot(slot, |peer, shared| peer.probe(endpoint, size, token, shared)) == Some(true)
    }

    /// Answers echo requests to our own addresses, and takes the answers to our own; false for all else.
    pub(super) fn handle_echo(
        &mut self,
        sender: u32,
        from: &Endpoint,
        header: &Header,
        packet: &mut [u8],
    ) -> bool {
        let Some(echo) = header.echo(packet) else { return false };
        let is_of_hub = header.source == IpAddr::V4(self.shared.hub.v4);
        if is_own_echo(echo.payload) && self.shared.role == Role::Spoke && !is_of_hub {
            // Another spoke that the policy lets send ICMP has no say in our path to the hub.
            self.discard(Discard::SpoofedSource);
            return true;
        }
        if let Some(token) = parse_probe(echo.payload) {
            return self.handle_probe(sender, from, header, packet, token);
        }
        if !echo.is_request {
            let (id, payload) = (echo.id, echo.payload);
            let taken = self.with_slot(sender, |peer, shared| {
                header.source == shared.hub.v4 && peer.handle_echo_reply(id, payload, shared)
            });
            return taken == Some(true);
        }
        let beat = Beat::parse(echo.payload);
        if beat.is_some() {
            Beat::write_pace(packet, pace_for(self.slots.len()));
        }
        if beat.is_none() && !self.tables.answers_echoes || header.answer_echo(packet).is_none() {
            return false;
        }
        self.with_slot(sender, |peer, shared| {
            if let Some(beat) = beat {
                peer.handle_beat(beat, shared);
            }
            let unanswered_since = peer.line.unanswered_since;
            peer.send(packet, shared);
            if beat.is_some() {
                peer.line.unanswered_since = unanswered_since;
            }
        });
        true
    }

    /// Answers a probe the way it came, and reports the answer to one of ours.
    fn handle_probe(
        &mut self,
        sender: u32,
        from: &Endpoint,
        header: &Header,
        packet: &mut [u8],
        token: u64,
    ) -> bool {
        let Some((is_request, id)) = header.echo(packet).map(|echo| (echo.is_request, echo.id)) else {
            return false;
        };
        if !is_request {
            let size = u16::try_from(packet.len()).unwrap_or(u16::MAX);
            let answer = ProbeAnswer { id, token, size };
            self.with_slot(sender, |peer, shared| peer.handle_probe_answer(from, answer, shared));
            return true;
        }
        if header.answer_echo(packet).is_none() {
            return false;
        }
        self.with_slot(sender, |peer, shared| peer.seal_exactly(packet, *from, shared));
        true
    }
}
