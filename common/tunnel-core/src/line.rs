//! The part of a peer that packet threads and the core share: sessions, endpoint and counts, behind one lock.
//!
//! A packet thread takes the lock once for a run of packets of one peer; the core takes it for a handshake,
//! a timer or an echo. Nothing is awaited and no other lock is taken while it is held.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use blueprint_common_types::WgPublicKey;
use parking_lot::{Mutex, MutexGuard};

use crate::echo::{Beat, Heard};
use crate::noise::{Noise, Outcome, REJECT_COUNTER};
use crate::{Discard, Endpoint, MTU_RANGE, packet};

/// Paper, section 6.1: Reject-After-Time.
const REJECT_AFTER: Duration = Duration::from_secs(180);
/// The library's ring of sessions.
const SESSIONS: u32 = 8;

/// One peer, as packet threads see it.
pub struct Conduit {
    pub(crate) key: WgPublicKey,
    pub(crate) slot: u32,
    line: Mutex<Line>,
}

impl Conduit {
    pub(crate) const fn new(key: WgPublicKey, slot: u32, line: Line) -> Self {
        Self { key, slot, line: Mutex::new(line) }
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
}

impl Opened {
    const fn refused(discard: Discard) -> Self {
        Self { outcome: Outcome::Refused(discard), is_roamed: false, is_begun: false }
    }
}

/// Sessions, endpoint and counts of one peer.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) noise: Noise,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) session: Option<Session>,
    /// Sessions we answered for, until their first message; by session number.
    pub(crate) answered: [Option<Session>; 8],
    /// Largest inner packet that the way to the peer takes, in bytes.
    pub(crate) mtu: usize,
    /// False while `mtu` may rise at any moment, so that nobody is to be told of it.
    pub(crate) is_mtu_settled: bool,
    /// Longest packet sent since the search for the MTU was last told, in bytes.
    pub(crate) longest_sent: u16,
    /// The search looks at `longest_sent` often, because large packets flow.
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
            session: None,
            answered: [None; 8],
            mtu,
            is_mtu_settled: true,
            longest_sent: 0,
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
        let is_current = self.session.is_some_and(|session| session.local_index == receiver);
        let known = self.session.iter().chain(self.answered.iter().flatten());
        let mut of_it = known.filter(|session| session.local_index == receiver);
        if of_it.any(|session| session.is_past_life(now)) {
            return Opened::refused(Discard::ExpiredSession);
        }
        let outcome = self.noise.open(from.remote.ip(), datagram, buffer);
        let is_probe = match outcome {
            Outcome::Done => {
                self.note_own(u64::try_from(datagram.len()).unwrap_or(u64::MAX));
                false
            }
            Outcome::Packet(len) => {
                self.unacknowledged_since.get_or_insert(now);
                let is_elsewhere = !self.endpoint.is_some_and(|endpoint| endpoint.is_same_way(from));
                is_elsewhere && buffer.get(..len).is_some_and(packet::is_probe)
            }
            Outcome::Network(_) | Outcome::Refused(_) | Outcome::Expired => {
                return Opened { outcome, is_roamed: false, is_begun: false };
            }
        };
        let is_roamed = self.authenticate(from, datagram.len(), is_probe, now);
        Opened { outcome, is_roamed, is_begun: !is_current && self.confirm(receiver) }
    }

    /// Seals a plaintext into `buffer`, which has at least [`buffer_len`](crate::noise::buffer_len) of it.
    ///
    /// [`Outcome::Network`] is a data message; [`Outcome::Expired`] means that there is no session.
    pub(crate) fn seal(&mut self, plaintext: &[u8], buffer: &mut [u8], now: Instant) -> Outcome {
        if !self.has_session(now) {
            return Outcome::Expired;
        }
        let outcome = self.noise.seal(plaintext, buffer);
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

    /// Notes an authentic message; true where it moved the peer. A probe moves nobody.
    pub(crate) fn authenticate(&mut self, from: &Endpoint, len: usize, is_probe: bool, now: Instant) -> bool {
        self.rx_bytes = self.rx_bytes.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        self.last_rx = Some(now);
        self.unanswered_since = None;
        if is_probe {
            return false;
        }
        let before = self.endpoint.replace(*from);
        before.is_some_and(|before| !before.is_same_way(from))
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
        self.noise.open(from, datagram, buffer)
    }
}

pub(crate) fn is_data(datagram: &[u8]) -> bool {
    datagram.first() == Some(&4)
}

pub(crate) fn ring_place(local_index: u32) -> usize {
    usize::try_from(local_index % SESSIONS).unwrap_or(0)
}
