//! Whether a peer's data plane answers, known from packets that pass through it and never from anything else.
//!
//! A spoke's [`EchoSender`] sends an ICMP echo request through the tunnel to the hub every second; its payload
//! says which echoes came back. A hub's [`EchoWatch`] reads those payloads, so one message a second proves
//! both directions to both ends:
//!
//! ```text
//!   spoke                                   hub
//!     | -- echo seq 8, acked 7 ----------->  |  got it: spoke -> hub works; 7 came back: hub -> spoke works
//!     | <------- reply 8, pace 1000 ms ----  |
//! ```
//!
//! A hub of many spokes asks for fewer echoes: its answers name a pace of up to twenty seconds, so that all spokes
//! together send no more than five hundred a second. A spoke keeps to it only while nothing else flows: it looks
//! every second, and traffic, an echo that is missing or a hub that is away make it echo as ever. So whoever uses
//! a path learns of its death within three seconds at any pace, and who does not, within the pace and three seconds.
//! Each echo promises by when the next one comes; the hub judges by that.
//!
//! Two misses in a row are a loss: the spoke then makes a new handshake, which is also the cure for sessions
//! that go deaf in one direction (boringtun issue 495).

mod watch;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub(crate) use self::watch::{EchoWatch, Heard};

const MAGIC: [u8; 8] = *b"bpecho/3";
const PAYLOAD_BYTES: usize = 28;

/// Pause between two echoes while they come back, and between two looks whether one may be left out.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest pause that a hub may ask for: within the 25 s that WireGuard's users keep NAT open with, and the 30 s after
/// which the worst of NATs forget a UDP flow (RFC 4787, section 4.3, wants 120 s).
const INTERVAL_MAX: Duration = Duration::from_secs(20);
/// Pause that each peer of a hub adds.
const PACE_PER_PEER: Duration = Duration::from_millis(2);
/// How long after other traffic a spoke still echoes every second.
const LINGER: Duration = Duration::from_secs(3);
/// Pause while they do not.
const INTERVAL_MISSING: Duration = Duration::from_millis(500);
/// Least and most time an echo may take before it is a miss; between them four mean round trips.
const MISS_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));
/// Misses in a row that are a loss.
const MISSES_TO_LOSE: u32 = 2;
/// Echoes that the figures are made of: one minute at the usual pace, ten at the slowest.
const WINDOW: usize = 60;

/// Figures of a data plane. On a hub only the last three are known; the spoke measures the others.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EchoStats {
    /// Mean round trip of the last 60 echoes in microseconds; zero where none came back.
    pub rtt_micros: u32,
    /// Mean difference of neighbouring round trips in microseconds (RFC 3550, section 6.4.1, without smoothing).
    pub jitter_micros: u32,
    /// Those of the last 60 echoes that did not come back, 0 to 100.
    pub loss_percent: f32,
    /// Time since the last answer (spoke) or the last good echo or other sign of life (hub).
    pub last_reply_age: Option<Duration>,
    /// True while the data plane answers.
    pub alive: bool,
    /// Time within which the peer promised its next echo (hub); zero where it does not echo, and on a spoke.
    pub pace: Duration,
}

/// Turn of a data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Lost,
    Back,
}

/// What one echo says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) seq: u64,
    /// Highest that came back; zero before the first.
    pub(crate) acked: u64,
    /// Largest inner packet that the spoke found to pass its path, in bytes; zero while it searches.
    pub(crate) mtu: u16,
    /// In a question: the next one comes within this time. In an answer: what the hub asks for while nothing else
    /// flows. Milliseconds.
    pub(crate) pace: u16,
}

/// The pause between two echoes of an idle spoke that a hub of so many peers asks for: five hundred echoes a second
/// from all of them together, of which each costs about 25 us of a core (measured 2026-11-21).
pub(crate) fn pace_for(peers: usize) -> Duration {
    let peers = u32::try_from(peers).unwrap_or(u32::MAX);
    PACE_PER_PEER.saturating_mul(peers).clamp(INTERVAL, INTERVAL_MAX)
}

impl Beat {
    /// Reads an echo's payload; `None` where somebody else made it.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let payload: &[u8; PAYLOAD_BYTES] = payload.try_into().ok()?;
        let seq = payload.get(8..16)?.try_into().ok().map(u64::from_be_bytes)?;
        let acked = payload.get(16..24)?.try_into().ok().map(u64::from_be_bytes)?;
        let mtu = payload.get(24..26)?.try_into().ok().map(u16::from_be_bytes)?;
        let pace = payload.last_chunk().copied().map(u16::from_be_bytes)?;
        (payload.first_chunk() == Some(&MAGIC)).then_some(Self { seq, acked, mtu, pace })
    }

    pub(crate) fn to_payload(self) -> Vec<u8> {
        let Self { seq, acked, mtu, pace } = self;
        let head = [&MAGIC[..], &seq.to_be_bytes(), &acked.to_be_bytes()].concat();
        [&head[..], &mtu.to_be_bytes(), &pace.to_be_bytes()].concat()
    }

    /// The pace, within what may be asked for.
    pub(crate) fn pace(self) -> Duration {
        Duration::from_millis(self.pace.into()).clamp(INTERVAL, INTERVAL_MAX)
    }

    /// Writes the pace into a packet that ends with the payload of an echo.
    pub(crate) fn write_pace(packet: &mut [u8], pace: Duration) {
        if let Some(end) = packet.last_chunk_mut() {
            *end = millis(pace).to_be_bytes();
        }
    }
}

/// What passes beside the echoes, as far as the sender needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Beside {
    /// Bytes of traffic so far, both ways; only its changes count.
    pub(crate) bytes: u64,
    /// Data was sent and nothing has come back since.
    pub(crate) is_unanswered: bool,
}

#[derive(Debug)]
enum Fate {
    Waiting,
    Back(Duration),
    Missed,
}

#[derive(Debug)]
struct Sent {
    seq: u64,
    at: Instant,
    fate: Fate,
}

/// The spoke's side.
#[derive(Debug)]
pub(crate) struct EchoSender {
    id: u16,
    seq: u64,
    acked: u64,
    /// When the next echo is sent, or left out.
    next_at: Instant,
    /// When the last one was sent.
    sent_at: Instant,
    /// What the hub asks for.
    pace: Duration,
    /// Traffic at the last look, and until when it calls for an echo every second.
    beside: u64,
    busy_until: Instant,
    /// Data has no answer and echoes were left out until now: the next follows quickly.
    is_doubtful: bool,
    window: VecDeque<Sent>,
    misses: u32,
    alive: bool,
    last_reply: Option<Instant>,
}

impl EchoSender {
    pub(crate) const fn new(id: u16, now: Instant) -> Self {
        Self {
            id,
            seq: 0,
            acked: 0,
            next_at: now,
            sent_at: now,
            pace: INTERVAL,
            beside: 0,
            busy_until: now,
            is_doubtful: false,
            window: VecDeque::new(),
            misses: 0,
            alive: false,
            last_reply: None,
        }
    }

    /// ICMP identifier of this core's echoes.
    pub(crate) const fn id(&self) -> u16 {
        self.id
    }

    /// When to call [`Self::handle_timeout`] and then ask whether an echo [`Self::is_due`].
    pub(crate) fn deadline(&self) -> Instant {
        let limit = self.miss_after();
        let waiting = self.window.iter().filter(|sent| matches!(sent.fate, Fate::Waiting));
        waiting.map(|sent| sent.at + limit).fold(self.next_at, Instant::min)
    }

    /// Counts what should have come back by now as missed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Change> {
        let limit = self.miss_after();
        for sent in &mut self.window {
            if matches!(sent.fate, Fate::Waiting) && sent.at + limit <= now {
                sent.fate = Fate::Missed;
                // One that a later echo overtook says nothing about the path now.
                self.misses = self.misses.saturating_add(u32::from(sent.seq > self.acked));
            }
        }
        (self.misses >= MISSES_TO_LOSE && std::mem::take(&mut self.alive)).then_some(Change::Lost)
    }

    /// True where an echo is to be sent now. One that the hub does not ask for is left out where nothing else
    /// flowed for a while and none is missing.
    pub(crate) fn is_due(&mut self, beside: Beside, now: Instant) -> bool {
        if now < self.next_at {
            return false;
        }
        if std::mem::replace(&mut self.beside, beside.bytes) != beside.bytes {
            self.busy_until = now + LINGER;
        }
        let is_idle = self.is_settled() && self.busy_until <= now && !beside.is_unanswered;
        // Looks are a second apart, give or take; the one nearest to the pace is the one.
        let is_early = now + INTERVAL / 2 < self.sent_at + self.pace;
        let has_spared = self.sent_at + INTERVAL * 3 / 2 < now;
        self.is_doubtful = has_spared && beside.is_unanswered;
        if is_idle && is_early {
            self.next_at = now + INTERVAL;
            return false;
        }
        true
    }

    /// Every echo came back so far, or may yet.
    pub(crate) const fn is_settled(&self) -> bool {
        self.alive && self.misses == 0
    }

    /// Notes an echo as sent, or as missed where there is no session to send it through.
    pub(crate) fn send(&mut self, has_session: bool, mtu: u16, now: Instant) -> Beat {
        self.seq = self.seq.saturating_add(1);
        if !has_session {
            self.misses = self.misses.saturating_add(1);
        }
        let fate = if has_session { Fate::Waiting } else { Fate::Missed };
        self.window.push_back(Sent { seq: self.seq, at: now, fate });
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        let is_calm = self.is_settled() && !self.is_doubtful;
        self.next_at = now + if is_calm { INTERVAL } else { INTERVAL_MISSING };
        self.sent_at = now;
        let is_sparing = is_calm && self.busy_until <= now + INTERVAL;
        let pace = if is_sparing { self.pace } else { INTERVAL };
        Beat { seq: self.seq, acked: self.acked, mtu, pace: millis(pace) }
    }

    /// Takes an answer; `None` where it is not new.
    pub(crate) fn handle_reply(&mut self, beat: Beat, now: Instant) -> Option<Change> {
        let sent = self.window.iter_mut().find(|sent| sent.seq == beat.seq)?;
        if matches!(sent.fate, Fate::Back(_)) {
            return None;
        }
        sent.fate = Fate::Back(now.saturating_duration_since(sent.at));
        if beat.seq.saturating_sub(self.acked) > 1 {
            // Echoes before it are missing or under way, so the hub may not have believed it. It does once an echo says
            // that this answer came, and that one must not wait for the pace.
            self.busy_until = self.busy_until.max(now + LINGER);
        }
        self.acked = self.acked.max(beat.seq);
        self.pace = beat.pace();
        self.misses = 0;
        if self.last_reply.replace(now).is_none() {
            // What was sent before there was a session says nothing about the path.
            self.window.retain(|sent| !matches!(sent.fate, Fate::Missed));
        }
        if std::mem::replace(&mut self.alive, true) {
            return None;
        }
        self.busy_until = self.busy_until.max(now + LINGER);
        Some(Change::Back)
    }

    /// True after so many misses that a new handshake should be made; true once per loss, then anew after the next.
    pub(crate) fn take_loss(&mut self) -> bool {
        let lost = self.misses >= MISSES_TO_LOSE;
        if lost {
            self.misses = 0;
        }
        lost
    }

    pub(crate) fn stats(&self, now: Instant) -> EchoStats {
        let rtts = || {
            self.window.iter().filter_map(|sent| match sent.fate {
                Fate::Back(rtt) => Some(micros(rtt)),
                Fate::Waiting | Fate::Missed => None,
            })
        };
        let missed = self.window.iter().filter(|sent| matches!(sent.fate, Fate::Missed)).count();
        let back = rtts().count();
        EchoStats {
            rtt_micros: mean(rtts()),
            jitter_micros: mean(rtts().zip(rtts().skip(1)).map(|(a, b)| a.abs_diff(b))),
            loss_percent: percent(missed, missed + back),
            last_reply_age: self.last_reply.map(|at| now.saturating_duration_since(at)),
            alive: self.alive,
            pace: Duration::ZERO,
        }
    }

    fn miss_after(&self) -> Duration {
        let last = self.window.iter().rev().find_map(|sent| match sent.fate {
            Fate::Back(rtt) => Some(rtt),
            Fate::Waiting | Fate::Missed => None,
        });
        let (least, most) = MISS_AFTER;
        last.map_or(least, |rtt| rtt.saturating_mul(4).clamp(least, most))
    }
}

fn millis(duration: Duration) -> u16 {
    u16::try_from(duration.as_millis()).unwrap_or(u16::MAX)
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

fn mean(values: impl Iterator<Item = u32>) -> u32 {
    let (sum, count) = values.fold((0u64, 0u64), |(sum, count), value| (sum + u64::from(value), count + 1));
    sum.checked_div(count).and_then(|mean| u32::try_from(mean).ok()).unwrap_or(0)
}

/// Both at most [`WINDOW`], so both fit.
fn percent(part: usize, whole: usize) -> f32 {
    let float = |count: usize| u8::try_from(count).map_or(0.0, f32::from);
    if whole == 0 { 0.0 } else { float(part) * 100.0 / float(whole) }
}

#[cfg(test)]
mod tests;
