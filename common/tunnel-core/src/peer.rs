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

mod receive;
mod send;
mod time;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use blueprint_common_types::{OverlayLease, WgPublicKey};
use ipnetwork::IpNetwork;

use crate::admission::{Gate, Rate};
use crate::echo::{EchoSender, EchoWatch};
use crate::noise::{Identity, Noise, REJECT_COUNTER};
use crate::output::Output;
use crate::rng::Rng;
use crate::{PeerStats, Role};

/// Paper, section 6.1: Rekey-After-Time less the most our stagger takes off, so that the library's never acts first.
const REKEY_AFTER: Duration = Duration::from_secs(115);
const REKEY_STAGGER: Duration = Duration::from_secs(5);
/// Paper, section 6.1: Reject-After-Time.
const REJECT_AFTER: Duration = Duration::from_secs(180);
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
/// How often the library looks at its clock; the granularity of keepalives, too.
const TICK: Duration = Duration::from_secs(1);
/// Packets that wait for a handshake: a connection's first few; the sender repeats what is lost.
const MAX_PENDING: usize = 16;
/// The library's ring of sessions.
const SESSIONS: u32 = 8;
/// A peer that authenticates may still not occupy us with handshakes; a spoke needs one a second.
const INITIATIONS: Rate = Rate::new(10, 10);
const RESPONSES: Rate = Rate::new(20, 20);

/// What all peers of a core share.
pub(crate) struct Shared {
    pub(crate) now: Instant,
    pub(crate) role: Role,
    pub(crate) mtu: usize,
    pub(crate) own: OverlayLease,
    pub(crate) hub: OverlayLease,
    pub(crate) identity: Identity,
    pub(crate) rng: Rng,
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    /// Index the peer puts into its messages to us.
    local_index: u32,
    established: Instant,
    is_initiator: bool,
    rekey_at: Instant,
    sent: u64,
    sent_data: bool,
}

impl Session {
    fn new(local_index: u32, is_initiator: bool, shared: &mut Shared) -> Self {
        let rekey_after = shared.rng.between(REKEY_AFTER, REKEY_STAGGER);
        let (established, rekey_at) = (shared.now, shared.now + rekey_after);
        Self { local_index, established, is_initiator, rekey_at, sent: 0, sent_data: false }
    }

    fn is_past_life(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.established) >= REJECT_AFTER || self.sent >= REJECT_COUNTER
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

/// State of one peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: WgPublicKey,
    pub(crate) allowed: Vec<IpNetwork>,
    pub(crate) keepalive: Option<Duration>,
    /// When the core's timer list has it down for; `None` while it is not listed.
    pub(crate) scheduled: Option<Instant>,
    endpoint: Option<SocketAddr>,
    noise: Noise,
    session: Option<Session>,
    /// Sessions we answered for, until their first message; by session number.
    answered: [Option<Session>; 8],
    attempt: Option<Attempt>,
    pending: VecDeque<Vec<u8>>,
    pulse: Pulse,
    tick_at: Instant,
    initiations: Gate,
    responses: Gate,
    handshake_at: Option<Instant>,
    last_rx: Option<Instant>,
    last_tx: Option<Instant>,
    /// First data sent since anything came back.
    unanswered_since: Option<Instant>,
    /// First data received since anything was sent.
    unacknowledged_since: Option<Instant>,
    rx_bytes: u64,
    tx_bytes: u64,
}

impl Peer {
    pub(crate) fn new(key: WgPublicKey, slot: u32, shared: &mut Shared) -> Self {
        let [high, low, ..] = shared.rng.bytes();
        let pulse = match shared.role {
            Role::Spoke => Pulse::Send(EchoSender::new(u16::from_be_bytes([high, low]), shared.now)),
            Role::Hub => Pulse::Watch(EchoWatch::default()),
        };
        Self {
            key,
            allowed: Vec::new(),
            keepalive: None,
            scheduled: None,
            endpoint: None,
            noise: Noise::new(&shared.identity, &key, slot),
            session: None,
            answered: [None; 8],
            attempt: None,
            pending: VecDeque::new(),
            pulse,
            tick_at: shared.now + shared.rng.between(Duration::from_millis(1), TICK),
            initiations: Gate::default(),
            responses: Gate::default(),
            handshake_at: None,
            last_rx: None,
            last_tx: None,
            unanswered_since: None,
            unacknowledged_since: None,
            rx_bytes: 0,
            tx_bytes: 0,
        }
    }

    pub(crate) const fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint
    }

    pub(crate) fn set_endpoint(&mut self, endpoint: SocketAddr) {
        self.endpoint = Some(endpoint);
    }

    /// Forgets sessions and replay floor (W11).
    pub(crate) fn reset(&mut self, shared: &Shared) {
        self.noise.reset(&shared.identity);
        self.session = None;
        self.answered = [None; 8];
        self.attempt = None;
    }

    pub(crate) fn stats(&self, now: Instant) -> PeerStats {
        let age = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        PeerStats {
            endpoint: self.endpoint,
            handshake_age: age(self.handshake_at),
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
            last_rx: age(self.last_rx),
            echo: match &self.pulse {
                Pulse::Send(sender) => sender.stats(now),
                Pulse::Watch(watch) => watch.stats(now),
            },
        }
    }

    /// When [`Self::handle_timeout`] has something to do, at the latest.
    pub(crate) fn deadline(&self, now: Instant) -> Instant {
        let pulse = match &self.pulse {
            Pulse::Send(sender) => Some(sender.deadline()),
            Pulse::Watch(watch) => watch.deadline(now),
        };
        let retry = self.attempt.map(|attempt| attempt.retry_at);
        [pulse, retry].into_iter().flatten().fold(self.tick_at, Instant::min)
    }
}

fn is_data(datagram: &[u8]) -> bool {
    datagram.first() == Some(&4)
}

fn ring_place(local_index: u32) -> usize {
    usize::try_from(local_index % SESSIONS).unwrap_or(0)
}
