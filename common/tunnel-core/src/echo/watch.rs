//! The hub's side: which of its peers are there.

use std::time::{Duration, Instant};

use super::{Beat, Change, EchoStats, INTERVAL};

/// A hub calls a spoke that echoes every second lost after this long without a good echo: it outlasts two misses
/// and a handshake. A spoke that has leave to echo less often gets the difference on top.
const WATCH_LOST_AFTER: Duration = Duration::from_secs(4);
/// How far the acknowledged echo may lie behind the newest.
const MAX_BEHIND: u64 = 3;
/// A peer that never echoed is no agent of ours after this long, and then lives by its traffic.
pub(super) const FOREIGN_AFTER: Duration = Duration::from_secs(3);
/// WireGuard's Reject-After-Time: by then a living peer has made a new handshake (paper, section 6.1).
pub(super) const FOREIGN_LOST_AFTER: Duration = Duration::from_secs(180);

/// A peer's signs of life, as whoever opens its packets notes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// When anything came from it.
    pub(crate) last_rx: Option<Instant>,
    last_good: Option<Instant>,
    /// By when the next echo was promised.
    pace: Duration,
    /// It has echoed, so it is an agent and lives by its echoes alone.
    echoes: bool,
}

impl Heard {
    /// Nothing yet.
    pub(crate) const NONE: Self = Self { last_rx: None, last_good: None, pace: INTERVAL, echoes: false };

    /// Notes an echo.
    pub(crate) fn handle_beat(&mut self, beat: Beat, now: Instant) {
        self.echoes = true;
        self.pace = beat.pace();
        let behind = beat.seq.checked_sub(beat.acked);
        if beat.acked > 0 && behind.is_some_and(|behind| behind <= MAX_BEHIND) {
            self.last_good = Some(now);
        }
    }

    fn lost_after(&self) -> Duration {
        WATCH_LOST_AFTER + self.pace.saturating_sub(INTERVAL)
    }
}

/// Judges by what was heard when it last looked.
#[derive(Debug)]
pub(crate) struct EchoWatch {
    handshake_at: Option<Instant>,
    heard: Heard,
    alive: bool,
}

impl EchoWatch {
    pub(crate) const fn new() -> Self {
        Self { handshake_at: None, heard: Heard::NONE, alive: false }
    }

    pub(crate) fn handle_handshake(&mut self, now: Instant) {
        if !self.alive || self.handshake_at.is_none() {
            self.handshake_at = Some(now);
        }
    }

    /// Judges anew, by what was heard until now.
    pub(crate) fn look(&mut self, heard: Heard, now: Instant) -> Option<Change> {
        self.heard = heard;
        let within =
            |at: Option<Instant>, limit| at.is_some_and(|at| now.saturating_duration_since(at) < limit);
        let alive = if heard.echoes {
            within(heard.last_good, heard.lost_after())
        } else {
            self.handshake_at.is_some_and(|at| at + FOREIGN_AFTER <= now)
                && within(heard.last_rx, FOREIGN_LOST_AFTER)
        };
        match (std::mem::replace(&mut self.alive, alive), alive) {
            (true, false) => Some(Change::Lost),
            (false, true) => Some(Change::Back),
            (true, true) | (false, false) => None,
        }
    }

    pub(crate) const fn is_alive(&self) -> bool {
        self.alive
    }

    /// When after `now` to look again, because the verdict may turn without any input.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let Heard { last_rx, last_good, echoes, .. } = self.heard;
        let turn = match (echoes, self.alive) {
            (true, true) => last_good.map(|at| at + self.heard.lost_after()),
            (false, true) => last_rx.map(|at| at + FOREIGN_LOST_AFTER),
            (false, false) => self.handshake_at.map(|at| at + FOREIGN_AFTER),
            (true, false) => None,
        };
        turn.filter(|at| *at > now)
    }

    pub(crate) fn stats(&self, heard: Heard, now: Instant) -> EchoStats {
        let sign = if heard.echoes { heard.last_good } else { heard.last_rx };
        EchoStats {
            last_reply_age: sign.map(|at| now.saturating_duration_since(at)),
            alive: self.alive,
            pace: if heard.echoes { heard.pace } else { Duration::ZERO },
            ..EchoStats::default()
        }
    }
}
