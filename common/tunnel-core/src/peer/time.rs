//! What a peer does because time passed: retries, rekeys, keepalives, echoes.

use std::time::Instant;

use super::{DEAF_AFTER, GIVE_UP_AFTER, IDLE_TICK, KEEPALIVE_AFTER, Peer, Pulse, Shared, TICK};
use crate::echo::{Beside, Change};
use crate::line::is_data;
use crate::noise::{Outcome, REKEY_AFTER_MESSAGES, buffer_len};
use crate::packet::echo_request;
use crate::{Event, Role};

impl Peer<'_> {
    /// Does everything that is due; true where it found a session in use that nobody had told of.
    pub(crate) fn handle_timeout(&mut self, shared: &mut Shared) -> bool {
        let mut is_found = false;
        if self.care.tick_at <= shared.now {
            // A notice that found no room is made up for: the attempt would go on and what waits would not be sent.
            is_found = self.begin_once(shared);
            self.handle_library(shared);
            self.handle_silence(shared);
            self.handle_age(shared);
            self.care.tick_at = self.next_tick(shared);
        }
        self.handle_attempt(shared);
        self.handle_pulse(shared);
        self.restart_search(shared);
        self.follow_search(shared);
        is_found
    }

    /// Does what follows from the session in use, unless that is done; true where it was not.
    pub(crate) fn begin_once(&mut self, shared: &mut Shared) -> bool {
        let is_new = self.line.has_session(shared.now) && self.session_in_use() != self.care.begun;
        if is_new {
            self.begin(shared);
        }
        is_new
    }

    /// When to look again. A spoke has one peer and looks every second; a hub at those of its many that have
    /// something coming.
    fn next_tick(&self, shared: &mut Shared) -> Instant {
        let line = &*self.line;
        let soonest = shared.now + TICK;
        if shared.role == Role::Spoke || self.care.attempt.is_some() || !self.care.pending.is_empty() {
            return soonest;
        }
        let rekey = line.session.filter(|session| session.is_initiator && session.sent_data);
        let keepalive = self.care.keepalive.filter(|_| line.endpoint.is_some());
        let due = [
            line.unanswered_since.map(|at| at + DEAF_AFTER),
            line.unacknowledged_since.map(|at| at + KEEPALIVE_AFTER),
            keepalive.map(|every| line.last_tx.unwrap_or(shared.now) + every),
            rekey.map(|session| session.rekey_at),
        ];
        // Drawn anew each time, or peers that were once looked at together would be for ever.
        let idle = shared.now + shared.rng.between(IDLE_TICK - TICK, TICK);
        // In a step, so that a look which comes early for another reason needs none between two of them.
        shared.coarse(due.into_iter().flatten().fold(idle, Instant::min).max(soonest))
    }

    pub(super) fn handle_library(&mut self, shared: &mut Shared) {
        let mut buffer = shared.output.buffer(buffer_len(0));
        let outcome = self.line.noise.update_timers(&mut buffer);
        if outcome == Outcome::Expired {
            self.line.session = None;
            self.line.answered = [None; 8];
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
        if passed(self.line.unanswered_since, DEAF_AFTER) {
            self.line.unanswered_since = None;
            self.want_session(shared);
        }
        let persistent = self
            .care
            .keepalive
            .is_some_and(|every| self.line.last_tx.is_none() || passed(self.line.last_tx, every));
        // A spoke's echoes are keepalives enough.
        let echoes = matches!(&self.care.pulse, Pulse::Send(sender) if sender.is_settled());
        let acknowledges = !echoes && passed(self.line.unacknowledged_since, KEEPALIVE_AFTER);
        if self.line.endpoint.is_some() && (persistent || acknowledges) {
            self.line.unacknowledged_since = None;
            if self.line.has_session(now) {
                let before = self.line.tx_bytes;
                self.seal(&[], shared);
                self.line.note_own(self.line.tx_bytes.saturating_sub(before));
            } else if persistent {
                self.want_session(shared);
            }
        }
    }

    /// Rekeys, and sessions that nobody else will make.
    pub(super) fn handle_age(&mut self, shared: &mut Shared) {
        let is_old = self.line.session.is_some_and(|session| {
            session.sent >= REKEY_AFTER_MESSAGES
                || session.is_initiator && session.sent_data && session.rekey_at <= shared.now
        });
        let is_lone = !self.line.has_session(shared.now)
            && (shared.role == Role::Spoke || !self.care.pending.is_empty());
        if self.care.attempt.is_none() && (is_old || is_lone) {
            self.want_session(shared);
        }
    }

    pub(super) fn handle_attempt(&mut self, shared: &mut Shared) {
        let Some(attempt) = self.care.attempt.filter(|attempt| attempt.retry_at <= shared.now) else {
            return;
        };
        let gives_up = shared.role == Role::Hub && attempt.started + GIVE_UP_AFTER <= shared.now;
        if !gives_up && self.line.endpoint.is_some() {
            self.start_handshake(shared);
            return;
        }
        self.care.attempt = None;
        self.care.forget_pending(&mut shared.output);
    }

    pub(super) fn handle_pulse(&mut self, shared: &mut Shared) {
        self.judge(shared);
        let is_unanswered = self.line.unanswered_since.is_some();
        let beside = Beside { bytes: self.line.traffic(), is_unanswered };
        let Pulse::Send(sender) = &mut self.care.pulse else { return };
        let change = sender.handle_timeout(shared.now);
        let (is_due, is_lost) = (sender.is_due(beside, shared.now), sender.take_loss());
        self.tell(change, shared);
        if is_lost && self.care.attempt.is_none() {
            self.start_handshake(shared);
        }
        if is_due {
            self.send_echo(shared);
        }
    }

    /// Judges on a hub whether the peer is there.
    pub(super) fn judge(&mut self, shared: &mut Shared) {
        let Pulse::Watch(watch) = &mut self.care.pulse else { return };
        let change = watch.look(self.line.heard(), shared.now);
        self.line.is_alive = watch.is_alive();
        self.tell(change, shared);
    }

    pub(super) fn send_echo(&mut self, shared: &mut Shared) {
        let has_session = self.line.has_session(shared.now) && self.line.endpoint.is_some();
        let settled = !self.care.is_trying && self.care.search.is_some();
        let mtu = if settled { u16::try_from(self.line.mtu).unwrap_or(u16::MAX) } else { 0 };
        let Pulse::Send(sender) = &mut self.care.pulse else { return };
        let beat = sender.send(has_session, mtu, shared.now);
        if has_session {
            let [.., high, low] = beat.seq.to_be_bytes();
            let seq = u16::from_be_bytes([high, low]);
            let packet = echo_request(shared.own.v4, shared.hub.v4, sender.id(), seq, &beat.to_payload());
            let before = self.line.tx_bytes;
            self.send(&packet, shared);
            self.care.echo_bytes = self.line.tx_bytes.saturating_sub(before);
            self.line.note_own(self.care.echo_bytes);
        }
    }

    pub(super) fn tell(&self, change: Option<Change>, shared: &mut Shared) {
        match change {
            Some(Change::Lost) => shared.output.emit(Event::EchoLost { peer: self.key() }),
            Some(Change::Back) => shared.output.emit(Event::EchoBack { peer: self.key() }),
            None => {}
        }
    }
}
