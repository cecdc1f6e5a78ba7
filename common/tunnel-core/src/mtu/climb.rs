//! Which larger sizes pass.

use std::time::{Duration, Instant};

use super::MtuLimits;
use super::flight::{Flight, Flights, Purpose};

/// Sizes worth asking about, in bytes: what is left of an outer 1500 with 80 bytes around it (IPv6), of that
/// within PPPoE, GRE, VXLAN or a second tunnel, and of an outer 1280 with 60 around it.
pub(super) const STEPS: [u16; 6] = [1420, 1400, 1380, 1340, 1280, 1220];
/// From here on the sizes between one that passes and one that does not are searched, too.
const JUMBO_FROM: u16 = 1420;
/// Until they are this close: less than 1.2 % of a packet, and the step of WireGuard's padding.
const CLOSE: u16 = 16;
/// A size that misses so often while others come back is too large; by loss of 5 % each way that is one in 10,000.
const MISSES_TO_REFUSE: u8 = 4;
/// Rounds without any answer before the climb waits for data; the pause doubles from one to the next.
const DEAD_ROUNDS: u32 = 6;
const DEAD_PAUSE: Duration = Duration::from_secs(1);
/// Pause before the next climb, doubled each time (RFC 8899, section 5.1.1, has 600 s).
const LEAST_PAUSE: Duration = Duration::from_secs(60);
const MOST_PAUSE: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Candidate {
    size: u16,
    misses: u8,
}

#[derive(Debug)]
struct Round {
    candidates: Vec<Candidate>,
    /// The smallest size that does not pass.
    too_large: u16,
    /// When to send it; `None` while it is under way.
    next_at: Option<Instant>,
    first_token: u64,
    heard: bool,
    dead: u32,
}

/// Raises one path's size.
#[derive(Debug)]
pub(super) struct Climb {
    limits: MtuLimits,
    round: Option<Round>,
    pause: Duration,
    again_at: Instant,
    /// A full packet was sent at or after `again_at`.
    wanted: bool,
}

impl Climb {
    pub(super) fn new(limits: MtuLimits, now: Instant) -> Self {
        let mut climb = Self { limits, round: None, pause: LEAST_PAUSE, again_at: now, wanted: false };
        climb.begin(limits.floor, limits.ceiling, now);
        climb
    }

    pub(super) const fn is_resting(&self) -> bool {
        self.round.is_none()
    }

    /// Notes a full packet; only such a one begins the next climb, so an idle path has none.
    pub(super) fn note_wanted(&mut self, now: Instant) {
        self.wanted |= self.again_at <= now;
    }

    pub(super) fn handle_answer(&mut self, flight: &Flight) {
        let round = self.round.as_mut().filter(|round| flight.token >= round.first_token);
        if let Some(round) = round.filter(|_| flight.purpose == Purpose::Climb) {
            round.heard = true;
        }
    }

    /// Asks again about all from the new size up to the old one, whose fall may have been mere loss.
    pub(super) fn handle_fall(&mut self, current: u16, top: u16, now: Instant) {
        self.begin(current, top, now);
    }

    pub(super) fn handle_timeout(&mut self, current: u16, flights: &mut Flights, now: Instant) {
        if self.round.is_none() && self.again_at(current).is_some_and(|at| at <= now) {
            self.begin(current, self.limits.ceiling, now);
        }
        let Some(round) = &mut self.round else { return };
        round.candidates.retain(|candidate| candidate.size > current);
        if round.next_at.is_none() && (round.candidates.is_empty() || !flights.is_climbing()) {
            round.judge(current, now);
        }
        if round.candidates.is_empty() || round.dead >= DEAD_ROUNDS {
            self.rest(now);
        } else if round.next_at.is_some_and(|at| at <= now) {
            round.send(self.limits.floor, flights, now);
        }
    }

    pub(super) fn deadline(&self, current: u16) -> Option<Instant> {
        self.round.as_ref().map_or_else(|| self.again_at(current), |round| round.next_at)
    }

    fn again_at(&self, current: u16) -> Option<Instant> {
        (self.wanted && current < self.limits.ceiling).then_some(self.again_at)
    }

    fn begin(&mut self, current: u16, top: u16, now: Instant) {
        let steps = STEPS.into_iter().filter(|step| *step > current && *step < top);
        let sizes = [top].into_iter().filter(|top| *top > current).chain(steps);
        let round = Round {
            candidates: sizes.map(|size| Candidate { size, misses: 0 }).collect(),
            too_large: top.saturating_add(1),
            next_at: Some(now),
            first_token: 0,
            heard: false,
            dead: 0,
        };
        self.round = (!round.candidates.is_empty()).then_some(round);
    }

    fn rest(&mut self, now: Instant) {
        self.round = None;
        self.wanted = false;
        self.again_at = now + self.pause;
        self.pause = self.pause.saturating_mul(2).min(MOST_PAUSE);
    }
}

impl Round {
    /// Draws the conclusion once all probes have come back or missed. Misses count only where something came back.
    fn judge(&mut self, current: u16, now: Instant) {
        self.next_at = Some(now);
        if !self.heard && !self.candidates.is_empty() {
            self.next_at = Some(now + DEAD_PAUSE.saturating_mul(1u32.checked_shl(self.dead).unwrap_or(1)));
            self.dead = self.dead.saturating_add(1);
            return;
        }
        self.dead = 0;
        for candidate in &mut self.candidates {
            candidate.misses = candidate.misses.saturating_add(1);
            if candidate.misses >= MISSES_TO_REFUSE {
                self.too_large = self.too_large.min(candidate.size);
            }
        }
        self.candidates.retain(|candidate| candidate.size < self.too_large);
        if self.candidates.is_empty() && current >= JUMBO_FROM {
            let gap = self.too_large.saturating_sub(current);
            let quarters = [3, 2, 1].map(|number| current.saturating_add(gap / 4 * number));
            if gap > CLOSE {
                self.candidates.extend(quarters.map(|size| Candidate { size, misses: 0 }));
            }
        }
    }

    /// Asks about every candidate at once, and about the floor, to tell a size that is too large from a dead path.
    fn send(&mut self, floor: u16, flights: &mut Flights, now: Instant) {
        (self.next_at, self.heard, self.first_token) = (None, false, flights.next_token());
        let mut sizes = self.candidates.iter().map(|candidate| candidate.size).chain([floor]);
        if !sizes.all(|size| flights.ask(size, Purpose::Climb)) {
            self.next_at = Some(now + DEAD_PAUSE);
        }
    }
}
