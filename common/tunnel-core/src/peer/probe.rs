//! Questions about a way to the peer: does a packet of this size come through, and its answer back?
//!
//! A probe is an ICMP echo inside the session, exactly as large as asked, through exactly the endpoint asked. It
//! moves neither end: the answer leaves the way the question came, at the same size. Spokes search the MTU of
//! their path with them and tell the hub in every echo; whoever drives the core tries other carriers with them.

use std::time::Duration;

use super::{Peer, Pulse, Shared};
use crate::mtu::{LAST_STEP, MtuLimits, MtuSearch};
use crate::noise::{Outcome, buffer_len};
use crate::packet::{ICMP_ECHO_BYTES, echo_request, probe_payload};
use crate::{Endpoint, Event, MTU_RANGE};

/// ICMP identifiers of probes for the driver and for the search.
const DRIVER_ID: u16 = 0x6270;
const SEARCH_ID: u16 = 0x6d74;
/// How often a spoke tells its search what was sent while large packets flow, to find a black hole in time.
const SEARCH_TICK: Duration = Duration::from_millis(200);
/// How long only a handshake may move a peer that was just switched: what was sent over the old way has come by then.
const HELD: Duration = Duration::from_secs(5);

/// The answer to a probe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProbeAnswer {
    pub(crate) id: u16,
    pub(crate) token: u64,
    /// Bytes of the inner packet.
    pub(crate) size: u16,
}

impl Peer<'_> {
    /// Sends a probe of `size` bytes through `endpoint`; false where there is no session.
    pub(crate) fn probe(&mut self, endpoint: &Endpoint, size: u16, token: u64, shared: &mut Shared) -> bool {
        self.send_probe(DRIVER_ID, endpoint, size, token, shared)
    }

    /// Moves the peer to a way that answered a probe. Sessions go on; an echo tells the peer at once.
    pub(crate) fn switch(&mut self, endpoint: &Endpoint, ceiling: Option<u16>, shared: &mut Shared) {
        self.line.endpoint = Some(*endpoint);
        self.line.held_until = Some(shared.now + HELD);
        let ceiling = ceiling.filter(|ceiling| ceiling > MTU_RANGE.start());
        if std::mem::replace(&mut self.care.ceiling, ceiling) != ceiling {
            self.care.searched = None;
        }
        if self.line.has_session(shared.now) {
            self.restart_search(shared);
            self.send_echo(shared);
        } else {
            self.start_handshake(shared);
        }
    }

    fn send_probe(&mut self, id: u16, to: &Endpoint, size: u16, token: u64, shared: &mut Shared) -> bool {
        let payload = probe_payload(token, usize::from(size).saturating_sub(ICMP_ECHO_BYTES));
        let packet = echo_request(shared.own.v4, shared.hub.v4, id, 0, &payload);
        self.seal_exactly(&packet, *to, shared)
    }

    /// Seals a packet without padding and sends it to `to`; false where there is no session.
    pub(crate) fn seal_exactly(&mut self, packet: &[u8], to: Endpoint, shared: &mut Shared) -> bool {
        let mut buffer = shared.output.buffer(buffer_len(packet.len()));
        let outcome = self.line.seal(packet, &mut buffer, shared.now);
        if let Outcome::Network(len) = outcome {
            buffer.truncate(len);
            shared.output.transmit(to, buffer);
            return true;
        }
        shared.output.recycle(buffer);
        false
    }

    /// Takes the answer to a probe.
    pub(crate) fn handle_probe_answer(&mut self, from: &Endpoint, answer: ProbeAnswer, shared: &mut Shared) {
        let ProbeAnswer { id, token, size } = answer;
        if id == DRIVER_ID {
            shared.output.emit(Event::Probed { peer: self.key(), endpoint: *from, size, token });
        } else if self.line.endpoint.is_some_and(|endpoint| endpoint.is_same_way(from)) {
            if let Some(search) = &mut self.care.search {
                search.handle_answer(size, token, shared.now);
            }
            self.follow_search(shared);
        }
    }

    /// A spoke begins to search the MTU of its path, or begins anew because the path is another.
    pub(super) fn restart_search(&mut self, shared: &mut Shared) {
        let is_same = self.care.searched.zip(self.line.endpoint).is_some_and(|(a, b)| a.is_same_way(&b));
        let is_known = is_same || self.line.endpoint.is_none() || !self.line.has_session(shared.now);
        if !matches!(self.care.pulse, Pulse::Send(_)) || is_known {
            return;
        }
        self.care.searched = self.line.endpoint;
        self.care.is_trying = true;
        let ceiling = self.ceiling(shared);
        match &mut self.care.search {
            Some(search) => search.restart(ceiling, shared.now),
            None => {
                let limits = MtuLimits { floor: *MTU_RANGE.start(), ceiling };
                self.care.search = Some(Box::new(MtuSearch::new(limits, shared.now)));
            }
        }
        self.follow_search(shared);
    }

    /// Largest inner packet that is tried on this path, in bytes.
    fn ceiling(&self, shared: &Shared) -> u16 {
        let own = u16::try_from(shared.mtu).unwrap_or(u16::MAX);
        self.care.ceiling.map_or(own, |ceiling| ceiling.min(own))
    }

    /// Gives the search what it needs to know, sends what it asks, and uses what it found.
    pub(crate) fn follow_search(&mut self, shared: &mut Shared) {
        self.care.search_at = None;
        let (Some(endpoint), true) = (self.line.endpoint, self.line.has_session(shared.now)) else { return };
        let Some(mut search) = self.care.search.take() else { return };
        let longest = std::mem::take(&mut self.line.longest_seen);
        if longest > 0 {
            search.note_large_sent(longest, shared.now);
        }
        self.line.is_watched = longest > *MTU_RANGE.start();
        search.handle_timeout(shared.now);
        while let Some(probe) = search.poll_probe(shared.now) {
            self.send_probe(SEARCH_ID, &endpoint, probe.size, probe.token, shared);
        }
        // A path that nothing is known of is tried with everything: what does not pass is lost until the search has
        // settled, a few seconds at most, while the floor would lose every full packet for a round trip.
        self.care.is_trying &= !search.is_settled();
        let found = if self.care.is_trying { self.ceiling(shared) } else { search.current() };
        let found = usize::from(found);
        // After a fall senders are told at once, or they would wait for it: it went to the largest step that passes. Of
        // what lies above the steps nothing is known yet.
        let is_near = self.ceiling(shared) <= LAST_STEP;
        let is_settled = !self.care.is_trying && (is_near || search.is_settled());
        let is_news = self.line.mtu != found || self.line.is_mtu_settled != is_settled;
        (self.line.mtu, self.line.is_mtu_settled) = (found, is_settled);
        let watch_at = self.line.is_watched.then_some(shared.now + SEARCH_TICK);
        self.care.search_at = [search.deadline(), watch_at].into_iter().flatten().min();
        self.care.search = Some(search);
        if is_news && !self.care.is_trying {
            // The hub hears of it at once.
            self.send_echo(shared);
        }
    }
}
