//! Whether a peer's data plane answers, known from packets that pass through it and never from anything else.
//!
//! A spoke's [`EchoSender`] sends an ICMP echo request through the tunnel to the hub every second; its payload
//! says which echoes came back. A hub's [`EchoWatch`] reads those payloads, so one message a second proves
//! both directions to both ends:
//!
//! ```text
//!   spoke                                   hub
//!     | -- echo seq 8, acked 7 ----------->  |  got it: spoke -> hub works; 7 came back: hub -> spoke works
//!     | <---------------------- reply 8 ---  |
//! ```
//!
//! Two misses in a row are a loss: the spoke then makes a new handshake, which is also the cure for sessions
//! that go deaf in one direction (boringtun issue 495).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const MAGIC: [u8; 8] = *b"bpecho/2";
const PAYLOAD_BYTES: usize = 26;

/// Pause between two echoes while they come back.
const INTERVAL: Duration = Duration::from_secs(1);
/// Pause while they do not.
const INTERVAL_MISSING: Duration = Duration::from_millis(500);
/// Least and most time an echo may take before it is a miss; between them four mean round trips.
const MISS_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));
/// Misses in a row that are a loss.
const MISSES_TO_LOSE: u32 = 2;
/// Echoes that the figures are made of: one minute.
const WINDOW: usize = 60;

/// A hub calls a spoke lost after this long without a good echo: it outlasts two misses and a handshake.
const WATCH_LOST_AFTER: Duration = Duration::from_secs(4);
/// How far the acknowledged echo may lie behind the newest.
const MAX_BEHIND: u64 = 3;
/// A peer that never echoed is no agent of ours after this long, and then lives by its traffic.
const FOREIGN_AFTER: Duration = Duration::from_secs(3);
/// WireGuard's Reject-After-Time: by then a living peer has made a new handshake (paper, section 6.1).
const FOREIGN_LOST_AFTER: Duration = Duration::from_secs(180);

/// Figures of a data plane. On a hub only the last two are known; the spoke measures the others.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EchoStats {
    /// Mean round trip of the last minute in microseconds; zero where none came back.
    pub rtt_micros: u32,
    /// Mean difference of neighbouring round trips in microseconds (RFC 3550, section 6.4.1, without smoothing).
    pub jitter_micros: u32,
    /// Echoes of the last minute that did not come back, 0 to 100.
    pub loss_percent: f32,
    /// Time since the last answer (spoke) or the last good echo or other sign of life (hub).
    pub last_reply_age: Option<Duration>,
    /// True while the data plane answers.
    pub alive: bool,
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
}

impl Beat {
    /// Reads an echo's payload; `None` where somebody else made it.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let payload: &[u8; PAYLOAD_BYTES] = payload.try_into().ok()?;
        let seq = payload.get(8..16)?.try_into().ok().map(u64::from_be_bytes)?;
        let acked = payload.get(16..24)?.try_into().ok().map(u64::from_be_bytes)?;
        let mtu = payload.last_chunk().copied().map(u16::from_be_bytes)?;
        (payload.first_chunk() == Some(&MAGIC)).then_some(Self { seq, acked, mtu })
    }

    pub(crate) fn to_payload(self) -> Vec<u8> {
        [&MAGIC[..], &self.seq.to_be_bytes(), &self.acked.to_be_bytes(), &self.mtu.to_be_bytes()].concat()
    }
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
    next_at: Instant,
    window: VecDeque<Sent>,
    misses: u32,
    alive: bool,
    last_reply: Option<Instant>,
}

impl EchoSender {
    pub(crate) const fn new(id: u16, now: Instant) -> Self {
        let window = VecDeque::new();
        Self { id, seq: 0, acked: 0, next_at: now, window, misses: 0, alive: false, last_reply: None }
    }

    /// ICMP identifier of this core's echoes.
    pub(crate) const fn id(&self) -> u16 {
        self.id
    }

    /// When to call [`Self::handle_timeout`] and then look whether an echo [`Self::is_due`].
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

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next_at <= now
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
        self.next_at = now + if self.alive && self.misses == 0 { INTERVAL } else { INTERVAL_MISSING };
        Beat { seq: self.seq, acked: self.acked, mtu }
    }

    /// Takes an answer; `None` where it is not new.
    pub(crate) fn handle_reply(&mut self, beat: Beat, now: Instant) -> Option<Change> {
        let sent = self.window.iter_mut().find(|sent| sent.seq == beat.seq)?;
        if matches!(sent.fate, Fate::Back(_)) {
            return None;
        }
        sent.fate = Fate::Back(now.saturating_duration_since(sent.at));
        self.acked = self.acked.max(beat.seq);
        self.misses = 0;
        if self.last_reply.replace(now).is_none() {
            // What was sent before there was a session says nothing about the path.
            self.window.retain(|sent| !matches!(sent.fate, Fate::Missed));
        }
        (!std::mem::replace(&mut self.alive, true)).then_some(Change::Back)
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

/// The hub's side.
#[derive(Debug, Default)]
pub(crate) struct EchoWatch {
    handshake_at: Option<Instant>,
    last_rx: Option<Instant>,
    last_good: Option<Instant>,
    /// It has echoed, so it is an agent and lives by its echoes alone.
    echoes: bool,
    alive: bool,
}

impl EchoWatch {
    pub(crate) fn handle_handshake(&mut self, now: Instant) {
        if !self.alive || self.handshake_at.is_none() {
            self.handshake_at = Some(now);
        }
    }

    /// Is told when the peer was last heard of.
    pub(crate) const fn handle_rx(&mut self, at: Option<Instant>) {
        self.last_rx = at;
    }

    pub(crate) fn handle_beat(&mut self, beat: Beat, now: Instant) -> Option<Change> {
        self.echoes = true;
        let behind = beat.seq.checked_sub(beat.acked);
        if beat.acked > 0 && behind.is_some_and(|behind| behind <= MAX_BEHIND) {
            self.last_good = Some(now);
        }
        self.handle_timeout(now)
    }

    /// Judges anew.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Change> {
        let within =
            |at: Option<Instant>, limit| at.is_some_and(|at| now.saturating_duration_since(at) < limit);
        let alive = if self.echoes {
            within(self.last_good, WATCH_LOST_AFTER)
        } else {
            self.handshake_at.is_some_and(|at| at + FOREIGN_AFTER <= now)
                && within(self.last_rx, FOREIGN_LOST_AFTER)
        };
        match (std::mem::replace(&mut self.alive, alive), alive) {
            (true, false) => Some(Change::Lost),
            (false, true) => Some(Change::Back),
            (true, true) | (false, false) => None,
        }
    }

    /// When after `now` the verdict may turn without any input.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let turn = match (self.echoes, self.alive) {
            (true, true) => self.last_good.map(|at| at + WATCH_LOST_AFTER),
            (false, true) => self.last_rx.map(|at| at + FOREIGN_LOST_AFTER),
            (false, false) => self.handshake_at.map(|at| at + FOREIGN_AFTER),
            (true, false) => None,
        };
        turn.filter(|at| *at > now)
    }

    pub(crate) fn stats(&self, now: Instant) -> EchoStats {
        let sign = if self.echoes { self.last_good } else { self.last_rx };
        EchoStats {
            last_reply_age: sign.map(|at| now.saturating_duration_since(at)),
            alive: self.alive,
            ..EchoStats::default()
        }
    }
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
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A sender and the only clock it sees.
    struct Sim {
        now: Instant,
        sender: EchoSender,
        changes: Vec<Change>,
    }

    impl Sim {
        fn new() -> Self {
            let now = Instant::now();
            Self { now, sender: EchoSender::new(7, now), changes: Vec::new() }
        }

        /// Lets time pass; every echo that is due is answered after `rtt`, if at all.
        fn run(&mut self, time: Duration, rtt: Option<Duration>) {
            let end = self.now + time;
            let mut replies = VecDeque::new();
            while self.now < end {
                self.now += ms(10);
                while replies.front().is_some_and(|(at, _)| *at <= self.now) {
                    let (_, beat) = replies.pop_front().unwrap();
                    self.changes.extend(self.sender.handle_reply(beat, self.now));
                }
                if self.sender.deadline() > self.now {
                    continue;
                }
                self.changes.extend(self.sender.handle_timeout(self.now));
                if self.sender.is_due(self.now) {
                    let beat = self.sender.send(true, 0, self.now);
                    replies.extend(rtt.map(|rtt| (self.now + rtt, beat)));
                }
                assert!(self.sender.deadline() > self.now);
            }
        }
    }

    #[test]
    fn a_beat_survives_its_payload_and_others_are_not_read() {
        let beat = Beat { seq: 9, acked: 8, mtu: 1420 };
        assert_eq!(Beat::parse(&beat.to_payload()), Some(beat));
        assert_eq!(Beat::parse(&[0; PAYLOAD_BYTES]), None);
        assert_eq!(Beat::parse(&beat.to_payload()[1..]), None);
    }

    #[test]
    fn echoes_that_come_back_give_the_figures() {
        let mut sim = Sim::new();
        sim.run(Duration::from_secs(30), Some(ms(20)));
        let stats = sim.sender.stats(sim.now);
        assert_eq!((stats.rtt_micros, stats.jitter_micros), (20_000, 0));
        assert!(stats.alive && stats.loss_percent == 0.0);
        assert_eq!(sim.changes, [Change::Back]);
    }

    #[test]
    fn a_loss_shows_within_three_seconds_and_ends_with_the_first_answer() {
        let mut sim = Sim::new();
        sim.run(Duration::from_secs(5), Some(ms(20)));
        sim.run(Duration::from_secs(3), None);
        assert_eq!(sim.changes, [Change::Back, Change::Lost]);
        assert!(sim.sender.take_loss() && !sim.sender.take_loss());
        assert!(sim.sender.stats(sim.now).loss_percent > 0.0);
        sim.run(ms(600), Some(ms(20)));
        assert_eq!(sim.changes, [Change::Back, Change::Lost, Change::Back]);
    }

    #[test]
    fn echoes_from_before_the_first_session_are_no_loss() {
        let mut sim = Sim::new();
        for _ in 0..3 {
            sim.sender.send(false, 0, sim.now);
        }
        sim.run(Duration::from_secs(5), Some(ms(20)));
        assert!(sim.sender.stats(sim.now).loss_percent == 0.0);
    }

    #[test]
    fn a_slow_path_is_not_a_lost_one() {
        let mut sim = Sim::new();
        sim.run(Duration::from_secs(30), Some(ms(900)));
        assert_eq!(sim.changes, [Change::Back]);
    }

    #[test]
    fn a_hub_believes_only_echoes_that_show_answers() {
        let (start, mut watch) = (Instant::now(), EchoWatch::default());
        let at = |millis| start + ms(millis);
        watch.handle_handshake(start);
        watch.handle_rx(Some(start));
        assert_eq!(
            watch.handle_beat(Beat { seq: 1, acked: 0, mtu: 0 }, at(10)),
            None,
            "nothing came back yet"
        );
        assert_eq!(watch.handle_beat(Beat { seq: 2, acked: 1, mtu: 0 }, at(20)), Some(Change::Back));
        let half_seconds = (3..12).map(|seq| (seq, at(20 + (seq - 2) * 500)));
        let turns: Vec<_> = half_seconds
            .filter_map(|(seq, now)| Some((seq, watch.handle_beat(Beat { seq, acked: 1, mtu: 0 }, now)?)))
            .collect();
        // Echo 4, at 1.02 s, is the last that lies no more than three behind.
        assert_eq!(turns, [], "four seconds have not passed");
        assert_eq!(watch.handle_timeout(at(1020 + 4000)), Some(Change::Lost));
        assert!(!watch.stats(at(5000)).alive);
        assert_eq!(watch.handle_beat(Beat { seq: 2, acked: 9, mtu: 0 }, at(6000)), None, "nonsense");
    }

    #[test]
    fn a_foreign_peer_lives_by_its_traffic() {
        let (start, mut watch) = (Instant::now(), EchoWatch::default());
        watch.handle_handshake(start);
        watch.handle_rx(Some(start));
        assert_eq!(watch.handle_timeout(start), None);
        assert_eq!(watch.handle_timeout(start + FOREIGN_AFTER), Some(Change::Back));
        assert_eq!(watch.deadline(start + FOREIGN_AFTER), Some(start + FOREIGN_LOST_AFTER));
        assert_eq!(watch.handle_timeout(start + FOREIGN_LOST_AFTER), Some(Change::Lost));
    }
}
