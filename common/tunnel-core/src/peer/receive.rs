//! What a peer sends us: initiations, answers, cookies, data, and the echoes inside.

use super::{INITIATIONS, Peer, Pulse, RESPONSES, Shared};
use crate::echo::{Beat, Change};
use crate::line::ring_place;
use crate::message::Message;
use crate::noise::{Outcome, buffer_len};
use crate::{Discard, Endpoint, Event};

impl Peer<'_> {
    /// Takes an initiation that names this peer; only now it is proven to be from it and new.
    pub(crate) fn handle_initiation(&mut self, from: &Endpoint, datagram: &[u8], shared: &mut Shared) {
        if !self.care.initiations.is_open(INITIATIONS, shared.now) {
            shared.output.discard(Discard::PeerHandshakeBudget);
            return;
        }
        // The session's age counts from the library's last look at its clock.
        self.handle_library(shared);
        let mut buffer = shared.output.buffer(buffer_len(datagram.len()));
        let outcome = self.line.open_handshake(from.remote.ip(), datagram, &mut buffer);
        if let Outcome::Network(len) = outcome {
            self.care.initiations.take(INITIATIONS, shared.now);
            self.authenticate(from, datagram.len(), shared);
            if let Some(Message::Response { sender, .. }) = buffer.get(..len).and_then(Message::parse) {
                let session = Self::new_session(sender, false, shared);
                if let Some(place) = self.line.answered.get_mut(ring_place(sender)) {
                    *place = Some(session);
                }
            }
        }
        self.finish(outcome, buffer, shared);
    }

    /// Takes an answer to our initiation.
    pub(crate) fn handle_response(
        &mut self,
        from: &Endpoint,
        datagram: &[u8],
        receiver: u32,
        shared: &mut Shared,
    ) {
        if self.care.attempt.is_none() {
            shared.output.discard(Discard::UnexpectedReply);
            return;
        }
        if !self.care.responses.take(RESPONSES, shared.now) {
            shared.output.discard(Discard::PeerHandshakeBudget);
            return;
        }
        let mut buffer = shared.output.buffer(buffer_len(datagram.len()));
        let outcome = self.line.open_handshake(from.remote.ip(), datagram, &mut buffer);
        if matches!(outcome, Outcome::Network(_)) {
            if !self.line.has_session(shared.now) {
                self.line.held_until = None;
            }
            // With one, this may be the late answer of a way that lost the race: it gives keys and moves nobody.
            self.authenticate(from, datagram.len(), shared);
            // The keepalive in the buffer confirms the session to the peer, so it goes first.
            self.finish(outcome, buffer, shared);
            self.line.session = Some(Self::new_session(receiver, true, shared));
            self.begin(shared);
        } else {
            self.finish(outcome, buffer, shared);
        }
    }

    /// Takes a cookie for the next retry. Says nothing about where the peer is (W5).
    pub(crate) fn handle_cookie(&mut self, from: &Endpoint, datagram: &[u8], shared: &mut Shared) {
        let mut buffer = shared.output.buffer(buffer_len(datagram.len()));
        let outcome = self.line.open_handshake(from.remote.ip(), datagram, &mut buffer);
        self.finish(outcome, buffer, shared);
    }

    /// Notes an echo of this peer, on a hub.
    pub(crate) fn handle_beat(&mut self, beat: Beat, shared: &mut Shared) {
        self.line.handle_beat(beat, shared.mtu, shared.now);
        self.judge(shared);
    }

    /// Takes the answer to one of our echoes; false where it is none.
    pub(crate) fn handle_echo_reply(&mut self, id: u16, payload: &[u8], shared: &mut Shared) -> bool {
        let Pulse::Send(sender) = &mut self.care.pulse else { return false };
        let Some(beat) = Beat::parse(payload).filter(|_| sender.id() == id) else { return false };
        // An answer is as long as its question.
        self.line.note_own(self.care.echo_bytes);
        let change = sender.handle_reply(beat, shared.now);
        self.tell(change, shared);
        if change == Some(Change::Back) {
            // The hub believes us only once an echo shows that this answer came.
            self.send_echo(shared);
        }
        true
    }

    fn authenticate(&mut self, from: &Endpoint, len: usize, shared: &mut Shared) {
        self.line.note_own(u64::try_from(len).unwrap_or(u64::MAX));
        if self.line.authenticate(from, len, false, shared.now) {
            self.note_roamed(shared);
        }
    }

    /// Tells that the peer is reached elsewhere now.
    pub(crate) fn note_roamed(&self, shared: &mut Shared) {
        if let Some(endpoint) = self.line.endpoint {
            shared.output.emit(Event::Roam { peer: self.key(), endpoint });
        }
    }

    /// Does what follows from the session that the line has just taken into use.
    pub(crate) fn begin(&mut self, shared: &mut Shared) {
        self.care.begun = self.session_in_use();
        self.care.attempt = None;
        self.care.handshake_at = Some(shared.now);
        shared.output.stats.handshakes = shared.output.stats.handshakes.saturating_add(1);
        shared.output.emit(Event::Handshake { peer: self.key() });
        match &mut self.care.pulse {
            Pulse::Watch(watch) => watch.handle_handshake(shared.now),
            Pulse::Send(_) => self.send_echo(shared),
        }
        self.flush(shared);
        self.drain(shared);
        self.restart_search(shared);
    }

    /// Lets the library send what it kept itself; bounded by its queue of 256.
    fn drain(&mut self, shared: &mut Shared) {
        let Some(to) = self.line.endpoint else { return };
        for _ in 0..=256 {
            let mut buffer = shared.output.buffer(buffer_len(shared.mtu.saturating_add(16)));
            let outcome = self.line.open_handshake(to.remote.ip(), &[], &mut buffer);
            let more = matches!(outcome, Outcome::Network(_));
            self.finish(outcome, buffer, shared);
            if !more {
                return;
            }
        }
    }
}
