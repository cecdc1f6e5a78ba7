//! Which carrier to the hub is used, when others are tried, and when one of them is taken.
//!
//! ```text
//!              first answer                     silence 1.5 s
//!   searching ---------------> on a rung ------------------------> doubt: all rungs tried at once
//!                                ^   ^  a better rung answered        |            |
//!                                |   +-- three times in a row         | echo       | silence 2 s, and another
//!                                +-------------------------------------+            | rung answered: moved there
//!                                ^------------------------------------------------- +
//! ```
//!
//! Rungs are numbered from 0, the best. The driver tries a rung by a probe through it, or by a handshake where there
//! is no session, and tells whether an answer came.
//!
//! Invariants:
//! - after [`Ladder::handle_timeout`], [`Ladder::poll_timeout`] is `None` or later than that time;
//! - a rung is tried by one try at a time;
//! - while the data plane answers, only rungs better than the one in use are tried, each at least every
//!   [`CLIMB_PAUSE_MAX`] and so twice before 60 s are over;
//! - while it does not, every rung is tried again within [`SEARCH_PAUSE_MAX`] after its last try ended.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Silence after which the others are tried: one echo a second, and half a second for its answer.
const DOUBT_AFTER: Duration = Duration::from_millis(1500);
/// Silence after which the rung is left: the echo after the one that is missing is missing, too.
const LEAVE_AFTER: Duration = Duration::from_millis(2000);
/// The most that a slow path adds to both; then it is still left within 3 s.
const SLOW_MAX: Duration = Duration::from_millis(500);
/// How long an answer waits for those of better rungs: what needs no connection may take a handshake more.
const GRACE: Duration = Duration::from_millis(150);
/// Pause between tries of one rung while nothing answers: of plain UDP, and the longest of one with connections.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between tries while nothing answers.
pub const SEARCH_PAUSE_MAX: Duration = Duration::from_secs(8);
/// Pause between tries of a better rung: first, and at most.
const CLIMB_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause between tries of a better rung.
pub const CLIMB_PAUSE_MAX: Duration = Duration::from_secs(25);
/// Answers in a row after which a better rung is taken, and the pause between these tries.
const ANSWERS_TO_CLIMB: u32 = 3;
const CLIMB_STEP: Duration = Duration::from_secs(1);

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LadderEvent {
    /// Try this rung, and say how it went.
    Try {
        /// Which.
        rung: usize,
        /// Nothing answers at present: a handshake may be needed.
        is_urgent: bool,
    },
    /// Send through this rung from now on.
    Move {
        /// Which.
        rung: usize,
    },
}

#[derive(Debug, Clone)]
struct Rung {
    /// Trying it needs no connection.
    is_cheap: bool,
    is_tried: bool,
    next_at: Instant,
    failures: u32,
    /// Answers in a row.
    answers: u32,
    answered_at: Option<Instant>,
}

/// See the module. Times never go back; one that does counts as the latest seen.
#[derive(Debug)]
pub struct Ladder {
    rungs: Vec<Rung>,
    current: Option<usize>,
    /// When the data plane last answered, or the rung was taken.
    heard_at: Instant,
    /// What a slow path adds to the limits of silence.
    slow: Duration,
    doubted_at: Option<Instant>,
    now: Instant,
    events: VecDeque<LadderEvent>,
}

impl Ladder {
    /// Starts a search on all rungs at once. `cheap` says of each rung, the best first, whether it needs no
    /// connection.
    #[must_use]
    pub fn new(cheap: impl IntoIterator<Item = bool>, now: Instant) -> Self {
        let rung = |is_cheap| Rung {
            is_cheap,
            is_tried: false,
            next_at: now,
            failures: 0,
            answers: 0,
            answered_at: None,
        };
        let mut ladder = Self {
            rungs: cheap.into_iter().map(rung).collect(),
            current: None,
            heard_at: now,
            slow: Duration::ZERO,
            doubted_at: None,
            now,
            events: VecDeque::new(),
        };
        ladder.search();
        ladder
    }

    /// The rung in use.
    #[must_use]
    pub const fn current(&self) -> Option<usize> {
        self.current
    }

    /// True while the rung in use is not known to answer.
    #[must_use]
    pub const fn is_searching(&self) -> bool {
        self.current.is_none() || self.doubted_at.is_some()
    }

    /// Notes when the data plane last answered over the rung in use, and how long an answer takes.
    pub fn handle_echo(&mut self, at: Instant, round_trip: Duration, now: Instant) {
        self.advance(now);
        self.slow = round_trip.saturating_mul(2).min(SLOW_MAX);
        self.hear(at.min(self.now));
        self.decide();
    }

    /// A try of a rung was answered.
    pub fn handle_answer(&mut self, rung: usize, now: Instant) {
        self.advance(now);
        let (now, pause) = (self.now, CLIMB_STEP);
        let Some(found) = self.rungs.get_mut(rung) else { return };
        found.is_tried = false;
        found.failures = 0;
        found.answers = found.answers.saturating_add(1);
        found.answered_at = Some(now);
        found.next_at = later(now, pause);
        let answers = found.answers;
        match self.current {
            Some(current) if current == rung => self.hear(now),
            Some(current) if !self.is_searching() && rung < current && answers >= ANSWERS_TO_CLIMB => {
                self.take(rung)
            }
            Some(_) | None => {}
        }
        self.decide();
    }

    /// A try of the rung in use was answered at another place than the data plane uses: the hub has moved. What is in
    /// use was silent, or it would not have been tried.
    pub fn handle_answer_elsewhere(&mut self, rung: usize, now: Instant) {
        self.advance(now);
        if self.current == Some(rung) && self.is_searching() {
            if let Some(found) = self.rungs.get_mut(rung) {
                found.is_tried = false;
            }
            self.take(rung);
            self.decide();
        } else {
            self.handle_answer(rung, now);
        }
    }

    /// A try of a rung was not answered.
    pub fn handle_failure(&mut self, rung: usize, now: Instant) {
        self.advance(now);
        let is_searching = self.is_searching();
        let Some(found) = self.rungs.get_mut(rung) else { return };
        found.is_tried = false;
        found.answers = 0;
        found.failures = found.failures.saturating_add(1);
        let doublings = 1u32.checked_shl(found.failures.saturating_sub(1).min(8)).unwrap_or(1);
        let pause = match (is_searching, found.is_cheap) {
            (true, true) => SEARCH_PAUSE,
            (true, false) => SEARCH_PAUSE.saturating_mul(doublings).min(SEARCH_PAUSE_MAX),
            (false, _) => CLIMB_PAUSE.saturating_mul(doublings).min(CLIMB_PAUSE_MAX),
        };
        found.next_at = later(self.now, pause);
        self.decide();
    }

    /// The connection below a rung ended; where it is in use, the others are tried at once.
    pub fn handle_gone(&mut self, rung: usize, now: Instant) {
        self.advance(now);
        if let Some(found) = self.rungs.get_mut(rung) {
            found.answered_at = None;
            found.answers = 0;
        }
        if self.current == Some(rung) {
            self.current = None;
            self.search();
        }
    }

    /// The peer is now on this rung without our doing: a handshake went that way.
    pub fn handle_moved(&mut self, rung: usize, now: Instant) {
        self.advance(now);
        if rung < self.rungs.len() && self.current != Some(rung) {
            self.settle(rung);
        }
    }

    /// The network changed: nothing that failed before says anything now.
    pub fn handle_path_change(&mut self, now: Instant) {
        self.advance(now);
        for rung in &mut self.rungs {
            rung.failures = 0;
            rung.next_at = self.now;
        }
        self.decide();
    }

    /// Does everything that is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.decide();
    }

    /// What to do next.
    pub fn poll_event(&mut self) -> Option<LadderEvent> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let silence = match (self.current, self.doubted_at) {
            (Some(_), None) => Some(self.doubt_at()),
            (Some(_) | None, _) => self.best_answer().map(|best| self.move_at(best)),
        };
        let silence = silence.filter(|at| *at > self.now);
        let tries = self.wanted().map(|(_, rung)| rung.next_at);
        tries.chain(silence).min()
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn hear(&mut self, at: Instant) {
        self.heard_at = self.heard_at.max(at);
        if self.doubt_at() > self.now {
            self.doubted_at = None;
        }
    }

    fn doubt_at(&self) -> Instant {
        later(self.heard_at, DOUBT_AFTER.saturating_add(self.slow))
    }

    fn leave_at(&self) -> Instant {
        later(self.heard_at, LEAVE_AFTER.saturating_add(self.slow))
    }

    /// When to move to a rung that answered.
    fn move_at(&self, best: usize) -> Instant {
        let leave_at = if self.current.is_some() { self.leave_at() } else { self.now };
        let is_awaited = self.rungs.iter().take(best).any(|better| better.is_tried);
        let answered_at = self.rungs.get(best).and_then(|found| found.answered_at).filter(|_| is_awaited);
        answered_at.map_or(leave_at, |at| later(at, GRACE).max(leave_at))
    }

    /// Begins to try every rung.
    fn search(&mut self) {
        self.doubted_at = Some(self.now);
        for rung in &mut self.rungs {
            rung.next_at = self.now;
            rung.failures = 0;
            rung.answers = 0;
            // What answered while another rung was in use is old news.
            rung.answered_at = None;
        }
        self.decide();
    }

    /// Rungs that are to be tried at their time.
    fn wanted(&self) -> impl Iterator<Item = (usize, &Rung)> {
        let end = match self.current {
            Some(current) if self.doubted_at.is_none() => current,
            Some(_) | None => self.rungs.len(),
        };
        self.rungs.iter().enumerate().take(end).filter(|(_, rung)| !rung.is_tried)
    }

    /// The best rung but the one in use that answered since the doubt began.
    fn best_answer(&self) -> Option<usize> {
        let mut rungs = self.rungs.iter().enumerate();
        rungs
            .find(|(rung, found)| Some(*rung) != self.current && found.answered_at.is_some())
            .map(|(rung, _)| rung)
    }

    /// Doubts and moves where that is called for, and tries what is due. To be called with every input: the time of one
    /// may be past a deadline that the driver's timer has not rung for yet.
    fn decide(&mut self) {
        if self.current.is_some() && self.doubted_at.is_none() && self.doubt_at() <= self.now {
            self.search();
            return;
        }
        if self.is_searching()
            && let Some(best) = self.best_answer()
            && self.move_at(best) <= self.now
        {
            self.take(best);
        }
        let is_urgent = self.is_searching();
        let due: Vec<usize> =
            self.wanted().filter(|(_, rung)| rung.next_at <= self.now).map(|(number, _)| number).collect();
        for number in due {
            if let Some(rung) = self.rungs.get_mut(number) {
                rung.is_tried = true;
                self.events.push_back(LadderEvent::Try { rung: number, is_urgent });
            }
        }
    }

    fn take(&mut self, rung: usize) {
        self.events.push_back(LadderEvent::Move { rung });
        self.settle(rung);
    }

    /// Counts a rung as the one in use, and the better ones as not to be tried for a while.
    fn settle(&mut self, rung: usize) {
        self.current = Some(rung);
        self.heard_at = self.now;
        self.doubted_at = None;
        for better in self.rungs.iter_mut().take(rung) {
            better.answers = 0;
            better.failures = 0;
            better.next_at = later(self.now, CLIMB_PAUSE);
        }
    }
}

fn later(at: Instant, by: Duration) -> Instant {
    at.checked_add(by).unwrap_or(at)
}

#[cfg(test)]
mod tests;
