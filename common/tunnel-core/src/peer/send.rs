//! What a peer sends: packets, keepalives, initiations, and the packets that wait for a session.

use super::{Attempt, CONFIRM_WITHIN, MAX_PENDING, Peer, RETRY, RETRY_FOREVER, Shared};
use crate::line::Session;
use crate::noise::{Outcome, buffer_len, padded_len};
use crate::{Discard, Endpoint, Role};

impl Peer<'_> {
    /// Sends an inner packet, or keeps it until a handshake made that possible.
    pub(crate) fn send(&mut self, packet: &[u8], shared: &mut Shared) {
        if packet.len() > self.line.mtu {
            shared.output.discard(Discard::TooBig);
        } else if self.line.endpoint.is_none() {
            shared.output.discard(Discard::NoEndpoint);
        } else if self.line.has_session(shared.now) {
            self.seal(packet, shared);
        } else {
            self.hold(packet, shared);
            self.want_session(shared);
        }
    }

    /// Starts a handshake now, also beside a session that works.
    pub(crate) fn start_handshake(&mut self, shared: &mut Shared) {
        if self.line.endpoint.is_none() {
            return;
        }
        let mut buffer = shared.output.buffer(buffer_len(0));
        let outcome = self.line.noise.initiate(&mut buffer);
        self.note_attempt(shared);
        self.finish(outcome, buffer, shared);
    }

    /// Starts a handshake through `to`, wherever the peer is now: its answer moves the peer there.
    pub(crate) fn greet(&mut self, to: &Endpoint, shared: &mut Shared) {
        let mut buffer = shared.output.buffer(buffer_len(0));
        let outcome = self.line.noise.initiate(&mut buffer);
        self.note_attempt(shared);
        match outcome {
            Outcome::Network(len) => {
                buffer.truncate(len);
                shared.output.transmit(*to, buffer);
            }
            Outcome::Done | Outcome::Packet(_) | Outcome::Refused(_) | Outcome::Expired => {
                self.finish(outcome, buffer, shared);
            }
        }
    }

    /// Seals a packet with its padding and sends it.
    pub(super) fn seal(&mut self, packet: &[u8], shared: &mut Shared) {
        let padded = if packet.is_empty() { 0 } else { padded_len(packet.len(), self.line.mtu) };
        let mut plaintext = shared.output.buffer(padded);
        if let Some(start) = plaintext.get_mut(..packet.len()) {
            start.copy_from_slice(packet);
        }
        let mut buffer = shared.output.buffer(buffer_len(padded));
        let outcome = self.line.seal(&plaintext, &mut buffer, shared.now);
        shared.output.recycle(plaintext);
        self.finish(outcome, buffer, shared);
        if outcome == Outcome::Expired && self.care.attempt.is_none() {
            self.want_session(shared);
        }
    }

    pub(super) fn hold(&mut self, packet: &[u8], shared: &mut Shared) {
        if self.care.pending.len() >= MAX_PENDING
            && let Some(oldest) = self.care.pending.pop_front()
        {
            shared.output.discard(Discard::PendingFull);
            shared.output.recycle(oldest);
        }
        let mut kept = shared.output.buffer(0);
        kept.extend_from_slice(packet);
        self.care.pending.push_back(kept);
        self.look_soon(shared);
    }

    pub(super) fn flush(&mut self, shared: &mut Shared) {
        for packet in std::mem::take(&mut self.care.pending) {
            self.send(&packet, shared);
            shared.output.recycle(packet);
        }
    }

    /// Starts a handshake unless one runs or the peer is about to confirm its own.
    pub(super) fn want_session(&mut self, shared: &mut Shared) {
        let is_fresh =
            |session: &Session| shared.now.saturating_duration_since(session.established) < CONFIRM_WITHIN;
        let confirming = shared.role == Role::Hub && self.line.answered.iter().flatten().any(is_fresh);
        if self.care.attempt.is_none() && !confirming {
            self.start_handshake(shared);
        }
    }

    pub(super) fn note_attempt(&mut self, shared: &mut Shared) {
        let (least, spread) = match shared.role {
            Role::Spoke => RETRY_FOREVER,
            Role::Hub => RETRY,
        };
        let retry_at = shared.now + shared.rng.between(least, spread);
        let started = self.care.attempt.map_or(shared.now, |attempt| attempt.started);
        self.care.attempt = Some(Attempt { started, retry_at });
    }

    /// Does what the library wants, where that is a datagram or nothing.
    pub(super) fn finish(&self, outcome: Outcome, mut buffer: Vec<u8>, shared: &mut Shared) {
        match outcome {
            Outcome::Network(len) => {
                buffer.truncate(len);
                self.transmit(buffer, shared);
                return;
            }
            Outcome::Refused(discard) => shared.output.discard(discard),
            Outcome::Done | Outcome::Packet(_) | Outcome::Expired => {}
        }
        shared.output.recycle(buffer);
    }

    fn transmit(&self, datagram: Vec<u8>, shared: &mut Shared) {
        match self.line.endpoint {
            Some(to) => shared.output.transmit(to, datagram),
            None => {
                shared.output.discard(Discard::NoEndpoint);
                shared.output.recycle(datagram);
            }
        }
    }
}
