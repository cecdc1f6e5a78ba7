//! What a peer sends us: initiations, answers, cookies, data, and the echoes inside.

use std::net::SocketAddr;

use super::{INITIATIONS, Peer, Pulse, RESPONSES, Session, Shared, ring_place};
use crate::echo::{Beat, Change};
use crate::message::Message;
use crate::noise::{Outcome, buffer_len};
use crate::{Discard, Event};

impl Peer {
    /// Takes an initiation that names this peer; only now it is proven to be from it and new.
    pub(crate) fn handle_initiation(&mut self, from: SocketAddr, datagram: &[u8], shared: &mut Shared) {
        if !self.initiations.is_open(INITIATIONS, shared.now) {
            shared.output.discard(Discard::PeerHandshakeBudget);
            return;
        }
        let mut buffer = shared.output.buffer(buffer_len(datagram.len()));
        let outcome = self.noise.open(&shared.identity, from.ip(), datagram, &mut buffer);
        if let Outcome::Network(len) = outcome {
            self.initiations.take(INITIATIONS, shared.now);
            self.authenticate(from, datagram.len(), shared);
            if let Some(Message::Response { sender, .. }) = buffer.get(..len).and_then(Message::parse) {
                let session = Session::new(sender, false, shared);
                if let Some(place) = self.answered.get_mut(ring_place(sender)) {
                    *place = Some(session);
                }
            }
        }
        self.finish(outcome, buffer, shared);
    }

    /// Takes an answer to our initiation.
    pub(crate) fn handle_response(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        receiver: u32,
        shared: &mut Shared,
    ) {
        if self.attempt.is_none() {
            shared.output.discard(Discard::UnexpectedReply);
            return;
        }
        if !self.responses.take(RESPONSES, shared.now) {
            shared.output.discard(Discard::PeerHandshakeBudget);
            return;
        }
        let mut buffer = shared.output.buffer(buffer_len(datagram.len()));
        let outcome = self.noise.open(&shared.identity, from.ip(), datagram, &mut buffer);
        if matches!(outcome, Outcome::Network(_)) {
            self.authenticate(from, datagram.len(), shared);
            // The keepalive in the buffer confirms the session to the peer, so it goes first.
            self.finish(outcome, buffer, shared);
            let session = Session::new(receiver, true, shared);
            self.begin(session, shared);
        } else {
            self.finish(outcome, buffer, shared);
        }
    }

    /// Takes a cookie for the next retry. Says nothing about where the peer is (W5).
    pub(crate) fn handle_cookie(&mut self, from: SocketAddr, datagram: &[u8], shared: &mut Shared) {
        let mut buffer = shared.output.buffer(buffer_len(datagram.len()));
        let outcome = self.noise.open(&shared.identity, from.ip(), datagram, &mut buffer);
        self.finish(outcome, buffer, shared);
    }

    /// Opens a data message; a packet where it holds one.
    pub(crate) fn open(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        receiver: u32,
        shared: &mut Shared,
    ) -> Option<Vec<u8>> {
        let known = self.session.iter().chain(self.answered.iter().flatten());
        let mut of_it = known.filter(|session| session.local_index == receiver);
        if of_it.any(|session| session.is_past_life(shared.now)) {
            shared.output.discard(Discard::ExpiredSession);
            return None;
        }
        let mut buffer = shared.output.buffer(buffer_len(datagram.len()));
        let outcome = self.noise.open(&shared.identity, from.ip(), datagram, &mut buffer);
        match outcome {
            Outcome::Done | Outcome::Packet(_) => {
                self.authenticate(from, datagram.len(), shared);
                self.confirm(receiver, shared);
            }
            Outcome::Network(_) | Outcome::Refused(_) | Outcome::Expired => {}
        }
        if let Outcome::Packet(len) = outcome {
            self.unacknowledged_since.get_or_insert(shared.now);
            buffer.truncate(len);
            return Some(buffer);
        }
        self.finish(outcome, buffer, shared);
        None
    }

    /// Notes an echo of this peer, on a hub.
    pub(crate) fn handle_beat(&mut self, beat: Beat, shared: &mut Shared) {
        let change = match &mut self.pulse {
            Pulse::Watch(watch) => watch.handle_beat(beat, shared.now),
            Pulse::Send(_) => None,
        };
        self.tell(change, shared);
    }

    /// Takes the answer to one of our echoes; false where it is none.
    pub(crate) fn handle_echo_reply(&mut self, id: u16, payload: &[u8], shared: &mut Shared) -> bool {
        let Pulse::Send(sender) = &mut self.pulse else { return false };
        let Some(beat) = Beat::parse(payload).filter(|_| sender.id() == id) else { return false };
        let change = sender.handle_reply(beat, shared.now);
        self.tell(change, shared);
        if change == Some(Change::Back) {
            // The hub believes us only once an echo shows that this answer came.
            self.send_echo(shared);
        }
        true
    }

    pub(super) fn authenticate(&mut self, from: SocketAddr, len: usize, shared: &mut Shared) {
        self.rx_bytes = self.rx_bytes.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        self.last_rx = Some(shared.now);
        self.unanswered_since = None;
        if let Pulse::Watch(watch) = &mut self.pulse {
            watch.handle_rx(shared.now);
        }
        let before = self.endpoint.replace(from);
        if before.is_some_and(|before| before != from) {
            shared.output.emit(Event::Roam { peer: self.key, endpoint: from });
        }
    }

    /// The peer has used a session that we answered for, so both ends have it.
    pub(super) fn confirm(&mut self, receiver: u32, shared: &mut Shared) {
        let place = self.answered.get_mut(ring_place(receiver));
        let answered = place.and_then(|place| place.take_if(|session| session.local_index == receiver));
        let Some(answered) = answered else { return };
        if self.session.is_none_or(|session| answered.established >= session.established) {
            self.begin(answered, shared);
        }
    }

    pub(super) fn begin(&mut self, session: Session, shared: &mut Shared) {
        self.session = Some(session);
        self.attempt = None;
        self.handshake_at = Some(shared.now);
        shared.output.stats.handshakes = shared.output.stats.handshakes.saturating_add(1);
        shared.output.emit(Event::Handshake { peer: self.key });
        match &mut self.pulse {
            Pulse::Watch(watch) => watch.handle_handshake(shared.now),
            Pulse::Send(_) => self.send_echo(shared),
        }
        self.flush(shared);
        self.drain(shared);
    }

    /// Lets the library send what it kept itself; bounded by its queue of 256.
    pub(super) fn drain(&mut self, shared: &mut Shared) {
        let Some(to) = self.endpoint else { return };
        for _ in 0..=256 {
            let mut buffer = shared.output.buffer(buffer_len(shared.mtu.saturating_add(16)));
            let outcome = self.noise.open(&shared.identity, to.ip(), &[], &mut buffer);
            let more = matches!(outcome, Outcome::Network(_));
            self.finish(outcome, buffer, shared);
            if !more {
                return;
            }
        }
    }
}
