//! The part of a peer that packet threads and the core share: sessions, endpoint and counts, behind one lock.
//!
//! A packet thread takes the lock once for a run of packets of one peer; the core takes it for a handshake,
//! a timer or an echo. Nothing is awaited while it is held, and no lock is taken but that of the same peer's errands,
//! which is always the last.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use blueprint_common_types::WgPublicKey;
use parking_lot::{Mutex, MutexGuard};

use crate::admission::{Gate, Rate};
use crate::echo::{Beat, Heard};
use crate::noise::{Noise, Outcome, REJECT_COUNTER};
use crate::{Discard, Endpoint, MTU_RANGE, packet};

/// How long what comes the way a peer has just left does not move it back: longer than packets are under way.
const STAY: Duration = Duration::from_secs(1);
/// Paper, section 6.1: Reject-After-Time.
const REJECT_AFTER: Duration = Duration::from_secs(180);
/// The library's ring of sessions.
const SESSIONS: u32 = 8;

/// What a peer may have the core do. The thread of the core serves all peers: none may keep it from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errand {
    /// An echo, 200/s, 200 at once: a spoke sends one or two a second and a few more while it searches for its MTU;
    /// the rest is for people with `ping`.
    Echo,
    /// A move to another endpoint, 10/s, 20 at once: all others hold as well, and are told by the next.
    Roam,
    /// A packet that waits for a session with the peer, 100/s, 100 at once: it has room for 16.
    Unsent,
    /// An answer that a packet is too large for the way, 100/s, 100 at once: one a flow is enough.
    TooBig,
}

impl Errand {
    const fn rate(self) -> Rate {
        match self {
            Self::Echo => Rate::new(200, 200),
            Self::Roam => Rate::new(10, 20),
            Self::Unsent | Self::TooBig => Rate::new(100, 100),
        }
    }
}

#[derive(Debug, Default)]
struct Errands {
    echo: Gate,
    roam: Gate,
    unsent: Gate,
    too_big: Gate,
}

/// One peer, as packet threads see it.
pub struct Conduit {
    pub(crate) key: WgPublicKey,
    pub(crate) slot: u32,
    line: Mutex<Line>,
    errands: Mutex<Errands>,
}

impl Conduit {
    pub(crate) fn new(key: WgPublicKey, slot: u32, line: Line) -> Self {
        Self { key, slot, line: Mutex::new(line), errands: Mutex::default() }
    }

    /// Whether the core may be asked for this once more; counts it if so.
    pub(crate) fn may_ask(&self, errand: Errand, now: Instant) -> bool {
        let errands = &mut *self.errands.lock();
        let gate = match errand {
            Errand::Echo => &mut errands.echo,
            Errand::Roam => &mut errands.roam,
            Errand::Unsent => &mut errands.unsent,
            Errand::TooBig => &mut errands.too_big,
        };
        gate.take(errand.rate(), now)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock()
    }
}

impl fmt::Debug for Conduit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conduit").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A session as far as we keep books about it; its keys are in the library.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    /// Index the peer puts into its messages to us.
    pub(crate) local_index: u32,
    pub(crate) established: Instant,
    pub(crate) is_initiator: bool,
    pub(crate) rekey_at: Instant,
    pub(crate) sent: u64,
    pub(crate) sent_data: bool,
}

impl Session {
    pub(crate) fn is_past_life(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.established) >= REJECT_AFTER || self.sent >= REJECT_COUNTER
    }
}

/// What opening a data message came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) outcome: Outcome,
    /// The peer is now reached elsewhere than before.
    pub(crate) is_roamed: bool,
    /// This was the first message of a session that we answered for.
    pub(crate) is_begun: bool,
    /// A large packet came, and none had for a while.
    pub(crate) is_large: bool,
}

impl Opened {
    const fn refused(discard: Discard) -> Self {
        Self { outcome: Outcome::Refused(discard), is_roamed: false, is_begun: false, is_large: false }
    }
}

/// Sessions, endpoint and counts of one peer.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) noise: Noise,
    pub(crate) endpoint: Option<Endpoint>,
    /// Where the peer was before, and until when messages from there do not move it back.
    left: Option<(Endpoint, Instant)>,
    /// Until then only a handshake moves the peer: what is still on its way over the way it left must not take
    /// it back there.
    pub(crate) held_until: Option<Instant>,
    pub(crate) session: Option<Session>,
    /// Sessions we answered for, until their first message; by session number.
    pub(crate) answered: [Option<Session>; 8],
    /// Largest inner packet that the way to the peer takes, in bytes.
    pub(crate) mtu: usize,
    /// False while `mtu` may rise at any moment, so that nobody is to be told of it.
    pub(crate) is_mtu_settled: bool,
    /// Longest packet that passed, either way, since the search for the MTU was last told, in bytes.
    pub(crate) longest_seen: u16,
    /// The search looks at `longest_seen` often, because large packets flow.
    pub(crate) is_watched: bool,
    pub(crate) last_rx: Option<Instant>,
    pub(crate) last_tx: Option<Instant>,
    /// First data sent since anything came back.
    pub(crate) unanswered_since: Option<Instant>,
    /// First data received since anything was sent.
    pub(crate) unacknowledged_since: Option<Instant>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    /// Those of `rx_bytes` and `tx_bytes` that are the tunnel's own signs of life and handshakes.
    pub(crate) own_bytes: u64,
    /// The peer's echoes, on a hub.
    pub(crate) heard: Heard,
    /// The core knows that the peer's data plane answers: packet threads deal with its echoes alone.
    pub(crate) is_alive: bool,
}

impl Line {
    pub(crate) const fn new(noise: Noise, mtu: usize) -> Self {
        Self {
            noise,
            endpoint: None,
            left: None,
            held_until: None,
            session: None,
            answered: [None; 8],
            mtu,
            is_mtu_settled: true,
            longest_seen: 0,
            is_watched: false,
            last_rx: None,
            last_tx: None,
            unanswered_since: None,
            unacknowledged_since: None,
            rx_bytes: 0,
            tx_bytes: 0,
            own_bytes: 0,
            heard: Heard::NONE,
            is_alive: false,
        }
    }

    /// The peer's signs of life.
    pub(crate) const fn heard(&self) -> Heard {
        let mut heard = self.heard;
        heard.last_rx = self.last_rx;
        heard
    }

    /// Notes an echo of the peer, on a hub whose packets have at most `most` bytes.
    pub(crate) fn handle_beat(&mut self, beat: Beat, most: usize, now: Instant) {
        self.heard.handle_beat(beat, now);
        if MTU_RANGE.contains(&beat.mtu) {
            self.mtu = usize::from(beat.mtu).min(most);
        }
    }

    /// Bytes of what others than the tunnel itself sent and received; only its changes say something.
    pub(crate) const fn traffic(&self) -> u64 {
        self.rx_bytes.wrapping_add(self.tx_bytes).wrapping_sub(self.own_bytes)
    }

    /// Notes that so many bytes, which are counted already or will be, were no traffic.
    pub(crate) fn note_own(&mut self, bytes: u64) {
        self.own_bytes = self.own_bytes.wrapping_add(bytes);
    }

    pub(crate) fn has_session(&self, now: Instant) -> bool {
        self.session.is_some_and(|session| !session.is_past_life(now))
    }

    /// Opens a data message into `buffer`, which has at least [`buffer_len`](crate::noise::buffer_len) of it.
    pub(crate) fn open(
        &mut self,
        from: &Endpoint,
        datagram: &[u8],
        receiver: u32,
        buffer: &mut [u8],
        now: Instant,
    ) -> Opened {
        let current = self.session.filter(|session| session.local_index == receiver);
        let answered = || self.answered.iter().flatten().find(|session| session.local_index == receiver);
        if current.as_ref().or_else(answered).is_some_and(|session| session.is_past_life(now)) {
            return Opened::refused(Discard::ExpiredSession);
        }
        let outcome = self.noise.open(from.remote.ip(), datagram, buffer);
        self.forget_after_panic(outcome);
        let mut is_large = false;
        let is_probe = match outcome {
            Outcome::Done => {
                self.note_own(u64::try_from(datagram.len()).unwrap_or(u64::MAX));
                false
            }
            Outcome::Packet(len) => {
                self.unacknowledged_since.get_or_insert(now);
                let is_probe = buffer.get(..len).is_some_and(packet::is_probe);
                // The search's own probes are no traffic, or it would never rest.
                is_large = !is_probe && self.note_len(len);
                is_probe && !self.endpoint.is_some_and(|endpoint| endpoint.is_same_way(from))
            }
            Outcome::Network(_) | Outcome::Refused(_) | Outcome::Expired => {
                return Opened { outcome, is_roamed: false, is_begun: false, is_large: false };
            }
        };
        let is_roamed = self.authenticate(from, datagram.len(), is_probe, now);
        Opened { outcome, is_roamed, is_begun: current.is_none() && self.confirm(receiver), is_large }
    }

    /// Seals a plaintext into `buffer`, which has at least [`buffer_len`](crate::noise::buffer_len) of it.
    ///
    /// [`Outcome::Network`] is a data message; [`Outcome::Expired`] means that there is no session.
    pub(crate) fn seal(&mut self, plaintext: &[u8], buffer: &mut [u8], now: Instant) -> Outcome {
        if !self.has_session(now) {
            return Outcome::Expired;
        }
        let outcome = self.noise.seal(plaintext, buffer);
        self.forget_after_panic(outcome);
        match outcome {
            Outcome::Network(len) if is_data(buffer) => {
                self.note_sent(!plaintext.is_empty(), len, now);
                outcome
            }
            Outcome::Network(_) | Outcome::Done | Outcome::Packet(_) | Outcome::Expired => {
                // The library lost the session before we did (its clock runs on while a machine sleeps) and
                // kept the packet.
                self.session = None;
                Outcome::Expired
            }
            Outcome::Refused(_) => outcome,
        }
    }

    /// Seals the answer to a sign of life. Nothing has to come back after it: a spoke that fell silent dials anew
    /// by itself, and a hub that dialled thousands of them would be busy with that alone.
    pub(crate) fn seal_answer(&mut self, plaintext: &[u8], buffer: &mut [u8], now: Instant) -> Outcome {
        let unanswered_since = self.unanswered_since;
        let outcome = self.seal(plaintext, buffer, now);
        self.unanswered_since = unanswered_since;
        outcome
    }

    fn note_sent(&mut self, is_data: bool, len: usize, now: Instant) {
        if let Some(session) = &mut self.session {
            session.sent = session.sent.saturating_add(1);
            session.sent_data |= is_data;
        }
        if is_data {
            self.unanswered_since.get_or_insert(now);
        }
        self.unacknowledged_since = None;
        self.tx_bytes = self.tx_bytes.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        self.last_tx = Some(now);
    }

    /// Notes an authentic message; true where it moved the peer. A probe moves nobody, nor does anything while the
    /// peer is held where it is.
    pub(crate) fn authenticate(&mut self, from: &Endpoint, len: usize, is_probe: bool, now: Instant) -> bool {
        self.rx_bytes = self.rx_bytes.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        self.last_rx = Some(now);
        self.unanswered_since = None;
        let is_held = self.held_until.is_some_and(|until| now < until);
        let is_elsewhere = self.endpoint.is_some_and(|endpoint| !endpoint.is_same_way(from));
        if is_probe || is_held && is_elsewhere {
            return false;
        }
        let is_left = |(left, until): &(Endpoint, Instant)| left.is_same_way(from) && now < *until;
        if self.left.as_ref().is_some_and(is_left) {
            // Sent before the other end knew: what is late does not move anybody back.
            return false;
        }
        self.move_to(*from, now)
    }

    /// The peer is reached at `endpoint` from now on; true where that is another way than before. For a moment nothing
    /// that still comes the old way moves it back.
    pub(crate) fn move_to(&mut self, endpoint: Endpoint, now: Instant) -> bool {
        let before = self.endpoint.replace(endpoint);
        let left = before.filter(|before| !before.is_same_way(&endpoint));
        if let Some(left) = left {
            self.left = Some((left, now + STAY));
        }
        left.is_some()
    }

    /// Notes the longest packet of a run; true where none was above the least MTU for a while and this one is.
    pub(crate) fn note_len(&mut self, len: usize) -> bool {
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        self.longest_seen = self.longest_seen.max(len);
        len > *MTU_RANGE.start() && !std::mem::replace(&mut self.is_watched, true)
    }

    /// The peer has used a session that we answered for, so both ends have it; true where that is new.
    fn confirm(&mut self, receiver: u32) -> bool {
        let place = self.answered.get_mut(ring_place(receiver));
        let answered = place.and_then(|place| place.take_if(|session| session.local_index == receiver));
        let Some(answered) = answered else { return false };
        let is_newer = self.session.is_none_or(|session| answered.established >= session.established);
        if is_newer {
            self.session = Some(answered);
        }
        is_newer
    }

    /// Opens a handshake message or cookie reply.
    pub(crate) fn open_handshake(&mut self, from: IpAddr, datagram: &[u8], buffer: &mut [u8]) -> Outcome {
        let outcome = self.noise.open(from, datagram, buffer);
        self.forget_after_panic(outcome);
        outcome
    }

    /// The library has lost its sessions, and may give the next one an index of theirs: the books end with them.
    const fn forget_after_panic(&mut self, outcome: Outcome) {
        if matches!(outcome, Outcome::Refused(Discard::LibraryPanic)) {
            self.session = None;
            self.answered = [None; 8];
        }
    }
}

pub(crate) fn is_data(datagram: &[u8]) -> bool {
    datagram.first() == Some(&4)
}

pub(crate) fn ring_place(local_index: u32) -> usize {
    usize::try_from(local_index % SESSIONS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use super::*;

    #[test]
    fn w2_a_session_ends_with_its_time_or_its_messages() {
        let now = Instant::now();
        let session = Session {
            local_index: 1,
            established: now,
            is_initiator: true,
            rekey_at: now,
            sent: REJECT_COUNTER - 1,
            sent_data: true,
        };
        assert!(!session.is_past_life(now + REJECT_AFTER - Duration::from_nanos(1)));
        assert!(session.is_past_life(now + REJECT_AFTER));
        assert!(Session { sent: REJECT_COUNTER, ..session }.is_past_life(now));
    }
}
