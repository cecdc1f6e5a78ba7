//! Whether the size in use still passes.

use std::time::{Duration, Instant};

use super::climb::STEPS;
use super::flight::{Flight, Flights, Purpose};

/// Pause between two proofs while large data flows. A kernel whose packets are lost tries again after 0.2, 0.6, 1.4 and
/// 3 s: what is found out before the third, as on short ways mostly, goes on with it.
const CONFIRM_EVERY: Duration = Duration::from_millis(400);
/// How long after the last of it large data counts as flowing, and how long the last quick pair is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pairs that lose only the large probe before the size falls.
const PAIRS_TO_FALL: u32 = 5;
/// Pairs in quick succession: seven more than needed, for small ones get lost, too, and while the last of five is
/// waited for a large one may still come back and end the doubt.
const QUICK_PAIRS: u8 = 12;
const QUICK_PAUSE: Duration = Duration::from_millis(100);
/// Then nothing comes back at all and the path is asked less often, while data flows; the doubt begins anew with the
/// first small one that comes back, or after so many.
const SLOW_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAIRS: u8 = 32;

#[derive(Debug)]
struct Doubt {
    first_token: u64,
    next_at: Instant,
    pairs: u8,
    /// Bit by pair: the large probe missed; the small one came back.
    large_missed: u32,
    small_back: u32,
    /// Largest that came back.
    best: u16,
}

impl Doubt {
    const fn new(first_token: u64, now: Instant) -> Self {
        Self { first_token, next_at: now, pairs: 0, large_missed: 0, small_back: 0, best: 0 }
    }
}

/// Watches one size.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// When large data was sent last.
    large_at: Option<Instant>,
    /// When the size in use was asked about last.
    asked_at: Option<Instant>,
    /// When a proof was sent that has not come back.
    waiting_since: Option<Instant>,
    doubt: Option<Doubt>,
}

impl Guard {
    pub(super) const fn note_large(&mut self, now: Instant) {
        self.large_at = Some(now);
    }

    pub(super) fn note_confirm_sent(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    pub(super) fn handle_answer(&mut self, flight: &Flight, current: u16, now: Instant) {
        if flight.size >= current {
            // One from before the hole says nothing about the one that is waited for.
            self.waiting_since = self.waiting_since.filter(|since| flight.sent_at < *since);
            self.doubt = None;
            return;
        }
        let Some(doubt) = self.doubt.as_mut().filter(|doubt| flight.token >= doubt.first_token) else {
            return;
        };
        doubt.best = doubt.best.max(flight.size);
        if let Purpose::Small(pair) = flight.purpose {
            doubt.small_back |= bit(pair);
            if pair >= QUICK_PAIRS {
                *doubt = Doubt { best: doubt.best, ..Doubt::new(flight.token.saturating_add(1), now) };
            }
        }
    }

    pub(super) fn handle_miss(&mut self, flight: &Flight) {
        let doubt = self.doubt.as_mut().filter(|doubt| flight.token >= doubt.first_token);
        if let (Some(doubt), Purpose::Large(pair)) = (doubt, flight.purpose) {
            doubt.large_missed |= bit(pair);
        }
    }

    /// The size to fall to, where enough pairs lost only the large probe.
    pub(super) fn proven_fall(&self, floor: u16) -> Option<u16> {
        let doubt = self.doubt.as_ref()?;
        let pairs = (doubt.large_missed & doubt.small_back).count_ones();
        (pairs >= PAIRS_TO_FALL).then_some(doubt.best.max(floor))
    }

    /// After a fall the smaller size is to be proven at once.
    pub(super) fn handle_fall(&mut self) {
        *self = Self { large_at: self.large_at, ..Self::default() };
    }

    pub(super) fn handle_timeout(&mut self, current: u16, floor: u16, flights: &mut Flights, now: Instant) {
        if current <= floor {
            self.handle_fall();
            return;
        }
        if self.waiting_since.is_some_and(|since| since + flights.doubt_after() <= now)
            && self.doubt.is_none()
        {
            self.waiting_since = None;
            self.doubt = Some(Doubt::new(flights.next_token(), now));
        }
        if self.doubt.as_ref().is_some_and(|doubt| doubt.next_at <= now) {
            self.ask_pair(current, floor, flights, now);
        }
        if self.confirm_at().is_some_and(|at| at <= now) && flights.ask(current, Purpose::Confirm) {
            self.asked_at = Some(now);
        }
    }

    pub(super) fn deadline(&self, current: u16, floor: u16, flights: &Flights) -> Option<Instant> {
        if current <= floor {
            return None;
        }
        let doubt = self.doubt.as_ref().map(|doubt| doubt.next_at);
        let doubting = self.waiting_since.map(|since| since + flights.doubt_after());
        let waiting = if doubt.is_some() { doubt } else { doubting };
        [waiting, self.confirm_at()].into_iter().flatten().min()
    }

    /// When the size is to be proven next: a pause after the last time, if large data was sent since.
    fn confirm_at(&self) -> Option<Instant> {
        if self.doubt.is_some() {
            return None;
        }
        let large_at = self.large_at?;
        match self.asked_at {
            None => Some(large_at),
            Some(asked_at) if large_at > asked_at => Some(asked_at + CONFIRM_EVERY),
            Some(_) => None,
        }
    }

    /// Asks for the next pair, the large one first: on a path that keeps the order it is also answered first.
    /// The first pair asks about all smaller steps as well, for a fall goes to the largest that comes back.
    fn ask_pair(&mut self, current: u16, floor: u16, flights: &mut Flights, now: Instant) {
        let Some(doubt) = &mut self.doubt else { return };
        let is_quick = doubt.pairs < QUICK_PAIRS;
        let has_data = self.large_at.is_some_and(|at| now.saturating_duration_since(at) < PATIENCE);
        if !is_quick && (!has_data || doubt.pairs >= MAX_PAIRS) {
            (self.doubt, self.asked_at) = (None, Some(now));
            return;
        }
        let pair = doubt.pairs;
        flights.ask(current, Purpose::Large(pair));
        for step in STEPS.into_iter().filter(|step| pair == 0 && *step > floor && *step < current) {
            flights.ask(step, Purpose::Small(pair));
        }
        flights.ask(floor, Purpose::Small(pair));
        doubt.pairs = pair.saturating_add(1);
        // After the last quick one, until all have come back or missed.
        doubt.next_at = now
            + match doubt.pairs {
                0..QUICK_PAIRS => QUICK_PAUSE,
                QUICK_PAIRS => PATIENCE,
                _ => SLOW_PAUSE,
            };
        self.asked_at = Some(now);
    }
}

fn bit(pair: u8) -> u32 {
    1u32.checked_shl(u32::from(pair)).unwrap_or(0)
}
