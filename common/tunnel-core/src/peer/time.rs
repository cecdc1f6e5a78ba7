//! What a peer does because time passed: retries, rekeys, keepalives, echoes.

use std::time::Instant;

use super::{DEAF_AFTER, GIVE_UP_AFTER, KEEPALIVE_AFTER, Peer, Pulse, Shared, TICK, is_data};
use crate::echo::Change;
use crate::noise::{Outcome, buffer_len};
use crate::packet::echo_request;
use crate::{Discard, Event, Role};

impl Peer {
    /// Does everything that is due.
    pub(crate) fn handle_timeout(&mut self, shared: &mut Shared) {
        if self.tick_at <= shared.now {
            self.tick_at = shared.now + TICK;
            self.handle_library(shared);
            self.handle_silence(shared);
            self.handle_age(shared);
        }
        self.handle_attempt(shared);
        self.handle_pulse(shared);
    }

    pub(super) fn handle_library(&mut self, shared: &mut Shared) {
        let mut buffer = shared.output.buffer(buffer_len(0));
        let outcome = self.noise.update_timers(&shared.identity, &mut buffer);
        if outcome == Outcome::Expired {
            self.session = None;
            self.answered = [None; 8];
        }
        if matches!(outcome, Outcome::Network(_)) && !is_data(&buffer) {
            self.note_attempt(shared);
        }
        self.finish(outcome, buffer, shared);
    }

    /// Keepalives, and a handshake where our data gets no answer at all.
    pub(super) fn handle_silence(&mut self, shared: &mut Shared) {
        let now = shared.now;
        let passed = |since: Option<Instant>, limit| {
            since.is_some_and(|at| now.saturating_duration_since(at) >= limit)
        };
        if passed(self.unanswered_since, DEAF_AFTER) {
            self.unanswered_since = None;
            self.want_session(shared);
        }
        let persistent =
            self.keepalive.is_some_and(|every| self.last_tx.is_none() || passed(self.last_tx, every));
        if self.endpoint.is_some() && (persistent || passed(self.unacknowledged_since, KEEPALIVE_AFTER)) {
            self.unacknowledged_since = None;
            if self.has_session(now) {
                self.seal(&[], shared);
            } else if persistent {
                self.want_session(shared);
            }
        }
    }

    /// Rekeys, and sessions that nobody else will make.
    pub(super) fn handle_age(&mut self, shared: &mut Shared) {
        let is_old = self.session.is_some_and(|session| {
            session.is_initiator && session.sent_data && session.rekey_at <= shared.now
        });
        let is_lone =
            !self.has_session(shared.now) && (shared.role == Role::Spoke || !self.pending.is_empty());
        if self.attempt.is_none() && (is_old || is_lone) {
            self.want_session(shared);
        }
    }

    pub(super) fn handle_attempt(&mut self, shared: &mut Shared) {
        let Some(attempt) = self.attempt.filter(|attempt| attempt.retry_at <= shared.now) else { return };
        let gives_up = shared.role == Role::Hub && attempt.started + GIVE_UP_AFTER <= shared.now;
        if !gives_up && self.endpoint.is_some() {
            self.start_handshake(shared);
            return;
        }
        self.attempt = None;
        for packet in std::mem::take(&mut self.pending) {
            shared.output.discard(Discard::PendingFull);
            shared.output.recycle(packet);
        }
    }

    pub(super) fn handle_pulse(&mut self, shared: &mut Shared) {
        let (change, is_due, is_lost) = match &mut self.pulse {
            Pulse::Send(sender) => {
                let change = sender.handle_timeout(shared.now);
                (change, sender.is_due(shared.now), sender.take_loss())
            }
            Pulse::Watch(watch) => (watch.handle_timeout(shared.now), false, false),
        };
        self.tell(change, shared);
        if is_lost && self.attempt.is_none() {
            self.start_handshake(shared);
        }
        if is_due {
            self.send_echo(shared);
        }
    }

    pub(super) fn send_echo(&mut self, shared: &mut Shared) {
        let has_session = self.has_session(shared.now) && self.endpoint.is_some();
        let Pulse::Send(sender) = &mut self.pulse else { return };
        let beat = sender.send(has_session, shared.now);
        if has_session {
            let [.., high, low] = beat.seq.to_be_bytes();
            let seq = u16::from_be_bytes([high, low]);
            let packet = echo_request(shared.own.v4, shared.hub.v4, sender.id(), seq, &beat.to_payload());
            self.send(&packet, shared);
        }
    }

    pub(super) fn tell(&self, change: Option<Change>, shared: &mut Shared) {
        match change {
            Some(Change::Lost) => shared.output.emit(Event::EchoLost { peer: self.key }),
            Some(Change::Back) => shared.output.emit(Event::EchoBack { peer: self.key }),
            None => {}
        }
    }
}
