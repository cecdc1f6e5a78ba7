//! One peer: its handshake attempts, sessions, timers, waiting packets and data plane.
//!
//! ```text
//!            want a session               answered                    first message on it
//!   idle --------------------> attempt --------------> session <------------------------- answered
//!    ^                          |   ^ retry                |  initiator: rekey at 115 to 120 s  ^
//!    +---- hub: 90 s -----------+---+                      +--- 180 s: refused both ways        | their initiation
//! ```
//!
//! - A spoke's attempt retries every 1 to 2 s and ends only by an answer. Deviation: WireGuard retries every 5 s
//!   and gives up after 90 s (paper, section 6.4), which would leave a spoke away for long after its hub is back.
//! - A responder's session counts only after the first message on it arrived (paper, section 6.5: key confirmation).
//! - Packets that wait for a session wait here, a few per peer; the library's own queue stays empty.

mod probe;
mod receive;
mod send;
mod time;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_types::{OverlayLease, WgPublicKey};
use ipnetwork::IpNetwork;

pub(crate) use self::probe::ProbeAnswer;
use crate::admission::{Gate, Rate};
use crate::echo::{EchoSender, EchoWatch};
use crate::line::{Conduit, Line, Session};
use crate::mtu::MtuSearch;
use crate::noise::{Identity, Noise};
use crate::output::Output;
use crate::rng::Rng;
use crate::{Discard, Endpoint, PeerConfig, PeerStats, PresharedKey, Role};

/// Paper, section 6.1: Rekey-After-Time less the most our stagger takes off, so that the library's never acts first.
const REKEY_AFTER: Duration = Duration::from_secs(115);
const REKEY_STAGGER: Duration = Duration::from_secs(5);
/// Paper, section 6.1: Rekey-Timeout and its jitter (section 6.4), and Rekey-Attempt-Time.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(333));
const GIVE_UP_AFTER: Duration = Duration::from_secs(90);
/// A spoke's retries.
const RETRY_FOREVER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(1));
/// Paper, section 6.1: Keepalive-Timeout; with Rekey-Timeout, how long silence after our data may last.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const DEAF_AFTER: Duration = Duration::from_secs(15);
/// After answering an initiation, how long we leave it to the initiator to confirm before we initiate.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// How often a peer is looked at that waits for something; the granularity of keepalives, too.
const TICK: Duration = Duration::from_secs(1);
/// How often, at least, one is looked at that does not. What a packet thread does between two looks calls for nothing sooner
/// than a keepalive, so nothing is late; and the library's clock, which moves only then, is ten seconds behind at most.
const IDLE_TICK: Duration = KEEPALIVE_AFTER;
/// A hub looks at its peers in steps of this: one that knows thousands of idle ones wakes for many of them at once, instead of
/// a thousand times a second.
pub(crate) const COARSE_STEP: Duration = Duration::from_millis(50);
/// Packets that wait for a handshake: a connection's first few; the sender repeats what is lost.
const MAX_PENDING: usize = 16;
/// A peer that authenticates may still not occupy us with handshakes; a spoke needs one a second.
const INITIATIONS: Rate = Rate::new(10, 10);
const RESPONSES: Rate = Rate::new(20, 20);

/// What all peers of a core share.
pub(crate) struct Shared {
    pub(crate) now: Instant,
    /// When the core was made, which steps are counted from.
    pub(crate) start: Instant,
    pub(crate) role: Role,
    pub(crate) mtu: usize,
    pub(crate) own: OverlayLease,
    pub(crate) hub: OverlayLease,
    pub(crate) identity: Arc<Identity>,
    pub(crate) rng: Rng,
    pub(crate) output: Output,
}

impl Shared {
    /// A time that is not before `start`, rounded up to the next step.
    pub(crate) fn coarse(&self, at: Instant) -> Instant {
        let since = at.saturating_duration_since(self.start);
        let nanos = since.as_nanos().next_multiple_of(COARSE_STEP.as_nanos());
        self.start + u64::try_from(nanos).map_or(since, Duration::from_nanos)
    }
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    started: Instant,
    retry_at: Instant,
}

#[derive(Debug)]
enum Pulse {
    Send(EchoSender),
    Watch(EchoWatch),
}

/// What only the core knows of a peer; the rest is in its [`Line`].
#[derive(Debug)]
pub(crate) struct Care {
    pub(crate) conduit: Arc<Conduit>,
    pub(crate) allowed: Vec<IpNetwork>,
    pub(crate) keepalive: Option<Duration>,
    /// When the core's timer list has it down for; `None` while it is not listed.
    pub(crate) scheduled: Option<Instant>,
    attempt: Option<Attempt>,
    /// Index of the session that was last taken into use, and since when it stands.
    begun: Option<(u32, Instant)>,
    pending: VecDeque<Vec<u8>>,
    pulse: Pulse,
    tick_at: Instant,
    /// Length of the last echo's datagram.
    echo_bytes: u64,
    initiations: Gate,
    responses: Gate,
    handshake_at: Option<Instant>,
    /// A spoke's search for the MTU of its path, and the path it is for.
    search: Option<Box<MtuSearch>>,
    searched: Option<Endpoint>,
    /// Largest inner packet that the carrier takes, in bytes, where that is known.
    ceiling: Option<u16>,
    /// When the search has something to do.
    search_at: Option<Instant>,
    /// The first search on this path goes on.
    is_trying: bool,
}

impl Care {
    pub(crate) fn new(config: &PeerConfig, slot: u32, shared: &mut Shared) -> Self {
        let [high, low, ..] = shared.rng.bytes();
        let pulse = match shared.role {
            Role::Spoke => Pulse::Send(EchoSender::new(u16::from_be_bytes([high, low]), shared.now)),
            Role::Hub => Pulse::Watch(EchoWatch::new()),
        };
        let key = config.public_key;
        let noise = Noise::new(&shared.identity, &key, config.preshared_key.clone(), slot);
        Self {
            conduit: Arc::new(Conduit::new(key, slot, Line::new(noise, shared.mtu))),
            allowed: Vec::new(),
            keepalive: None,
            scheduled: None,
            attempt: None,
            begun: None,
            pending: VecDeque::new(),
            pulse,
            tick_at: shared.now + shared.rng.between(Duration::from_millis(1), TICK),
            echo_bytes: 0,
            initiations: Gate::default(),
            responses: Gate::default(),
            handshake_at: None,
            search: None,
            searched: None,
            ceiling: None,
            search_at: None,
            is_trying: false,
        }
    }

    /// Drops the packets that wait for a session.
    pub(crate) fn forget_pending(&mut self, output: &mut Output) {
        for packet in std::mem::take(&mut self.pending) {
            output.discard(Discard::PendingFull);
            output.recycle(packet);
        }
    }

    pub(crate) fn stats(&self, now: Instant) -> PeerStats {
        let line = self.conduit.lock();
        let age = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        PeerStats {
            endpoint: line.endpoint,
            mtu: u16::try_from(line.mtu).unwrap_or(u16::MAX),
            handshake_age: age(self.handshake_at),
            rx_bytes: line.rx_bytes,
            tx_bytes: line.tx_bytes,
            last_rx: age(line.last_rx),
            echo: match &self.pulse {
                Pulse::Send(sender) => sender.stats(now),
                Pulse::Watch(watch) => watch.stats(line.heard(), now),
            },
        }
    }

    /// When [`Peer::handle_timeout`] has something to do, at the latest.
    pub(crate) fn deadline(&self, now: Instant) -> Instant {
        let pulse = match &self.pulse {
            Pulse::Send(sender) => Some(sender.deadline()),
            Pulse::Watch(watch) => watch.deadline(now),
        };
        let retry = self.attempt.map(|attempt| attempt.retry_at);
        [pulse, retry, self.search_at].into_iter().flatten().fold(self.tick_at, Instant::min)
    }
}

/// A whole peer, while the core works on it: its [`Line`] is locked.
#[derive(Debug)]
pub(crate) struct Peer<'a> {
    pub(crate) care: &'a mut Care,
    pub(crate) line: &'a mut Line,
}

impl Peer<'_> {
    pub(crate) fn key(&self) -> WgPublicKey {
        self.care.conduit.key
    }

    /// Brings the next look at deadlines forward: something changed that none of them knew of.
    pub(crate) fn look_soon(&mut self, shared: &Shared) {
        self.care.tick_at = self.care.tick_at.min(shared.now + TICK);
    }

    /// Forgets sessions and replay floor (W11).
    pub(crate) fn reset(&mut self) {
        self.line.noise.reset();
        self.forget_sessions();
    }

    /// Takes another preshared key; what was agreed with the old one ends.
    pub(crate) fn set_preshared_key(&mut self, preshared_key: Option<PresharedKey>) {
        if self.line.noise.set_preshared_key(preshared_key) {
            self.forget_sessions();
        }
    }

    fn forget_sessions(&mut self) {
        self.line.session = None;
        self.line.answered = [None; 8];
        self.care.attempt = None;
        self.care.begun = None;
    }

    fn session_in_use(&self) -> Option<(u32, Instant)> {
        self.line.session.map(|session| (session.local_index, session.established))
    }

    fn new_session(local_index: u32, is_initiator: bool, shared: &mut Shared) -> Session {
        let rekey_after = shared.rng.between(REKEY_AFTER, REKEY_STAGGER);
        let (established, rekey_at) = (shared.now, shared.now + rekey_after);
        Session { local_index, established, is_initiator, rekey_at, sent: 0, sent_data: false }
    }
}
