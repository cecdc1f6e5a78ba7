//! What a peer sends: packets, keepalives, initiations, and the packets that wait for a session.

use std::time::Instant;

use super::{Attempt, CONFIRM_WITHIN, MAX_PENDING, Peer, RETRY, RETRY_FOREVER, Session, Shared, is_data};
use crate::noise::{Outcome, REKEY_AFTER_MESSAGES, buffer_len, padded_len};
use crate::{Discard, Role};

impl Peer {
    /// Sends an inner packet, or keeps it until a handshake made that possible.
    pub(crate) fn send(&mut self, packet: &[u8], shared: &mut Shared) {
        if packet.len() > shared.mtu {
            shared.output.discard(Discard::TooBig);
        } else if self.endpoint.is_none() {
            shared.output.discard(Discard::NoEndpoint);
        } else if self.has_session(shared.now) {
            self.seal(packet, shared);
        } else {
            self.hold(packet, shared);
            self.want_session(shared);
        }
    }

    /// Starts a handshake now, also beside a session that works.
    pub(crate) fn start_handshake(&mut self, shared: &mut Shared) {
        if self.endpoint.is_none() {
            return;
        }
        let mut buffer = shared.output.buffer(buffer_len(0));
        let outcome = self.noise.initiate(&shared.identity, &mut buffer);
        self.note_attempt(shared);
        self.finish(outcome, buffer, shared);
    }

    pub(super) fn has_session(&self, now: Instant) -> bool {
        self.session.is_some_and(|session| !session.is_past_life(now))
    }

    pub(super) fn seal(&mut self, packet: &[u8], shared: &mut Shared) {
        let padded = if packet.is_empty() { 0 } else { padded_len(packet.len(), shared.mtu) };
        let mut plaintext = shared.output.buffer(padded);
        if let Some(start) = plaintext.get_mut(..packet.len()) {
            start.copy_from_slice(packet);
        }
        let mut buffer = shared.output.buffer(buffer_len(padded));
        let outcome = self.noise.seal(&shared.identity, &plaintext, &mut buffer);
        shared.output.recycle(plaintext);
        let sealed = matches!(outcome, Outcome::Network(_)) && is_data(&buffer);
        if sealed {
            self.note_sent(!packet.is_empty(), shared);
        } else {
            // The library lost the session before we did (its clock runs on while a machine sleeps), kept the
            // packet, and may have written an initiation.
            self.session = None;
            if matches!(outcome, Outcome::Network(_)) {
                self.note_attempt(shared);
            }
        }
        self.finish(outcome, buffer, shared);
        if !sealed && self.attempt.is_none() {
            self.want_session(shared);
        }
    }

    pub(super) fn note_sent(&mut self, is_data: bool, shared: &mut Shared) {
        let Some(session) = &mut self.session else { return };
        session.sent = session.sent.saturating_add(1);
        session.sent_data |= is_data;
        let is_worn = session.sent >= REKEY_AFTER_MESSAGES;
        if is_data {
            self.unanswered_since.get_or_insert(shared.now);
        }
        self.unacknowledged_since = None;
        if is_worn && self.attempt.is_none() {
            self.start_handshake(shared);
        }
    }

    pub(super) fn hold(&mut self, packet: &[u8], shared: &mut Shared) {
        if self.pending.len() >= MAX_PENDING
            && let Some(oldest) = self.pending.pop_front()
        {
            shared.output.discard(Discard::PendingFull);
            shared.output.recycle(oldest);
        }
        let mut kept = shared.output.buffer(0);
        kept.extend_from_slice(packet);
        self.pending.push_back(kept);
    }

    pub(super) fn flush(&mut self, shared: &mut Shared) {
        for packet in std::mem::take(&mut self.pending) {
            self.send(&packet, shared);
            shared.output.recycle(packet);
        }
    }

    /// Starts a handshake unless one runs or the peer is about to confirm its own.
    pub(super) fn want_session(&mut self, shared: &mut Shared) {
        let is_fresh =
            |session: &Session| shared.now.saturating_duration_since(session.established) < CONFIRM_WITHIN;
        let confirming = shared.role == Role::Hub && self.answered.iter().flatten().any(is_fresh);
        if self.attempt.is_none() && !confirming {
            self.start_handshake(shared);
        }
    }

    pub(super) fn note_attempt(&mut self, shared: &mut Shared) {
        let (least, spread) = match shared.role {
            Role::Spoke => RETRY_FOREVER,
            Role::Hub => RETRY,
        };
        let retry_at = shared.now + shared.rng.between(least, spread);
        let started = self.attempt.map_or(shared.now, |attempt| attempt.started);
        self.attempt = Some(Attempt { started, retry_at });
    }

    /// Does what the library wants, where that is a datagram or nothing.
    pub(super) fn finish(&mut self, outcome: Outcome, mut buffer: Vec<u8>, shared: &mut Shared) {
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

    pub(super) fn transmit(&mut self, datagram: Vec<u8>, shared: &mut Shared) {
        let Some(to) = self.endpoint else {
            shared.output.discard(Discard::NoEndpoint);
            shared.output.recycle(datagram);
            return;
        };
        self.tx_bytes = self.tx_bytes.saturating_add(u64::try_from(datagram.len()).unwrap_or(u64::MAX));
        self.last_tx = Some(shared.now);
        shared.output.transmit(to, datagram);
    }
}
