//! Sources that have authenticated before, in a table of fixed size.
//!
//! A source's keyed hash names a set of [`WAYS`] places and is the mark in one of them, so strangers can neither
//! choose whom they meet there nor read out who is known. A newcomer takes a free place of its set, or that of
//! the one silent for longest, but never of one heard in the last [`SETTLED`]: a joined peer that authenticates
//! from many forged sources cannot push out those that are in use.

use std::time::{Duration, Instant};

use super::rate::Gate;

/// Places that one source may be in; with 10,000 sources in 32,768 places one in 2000 finds none.
const WAYS: usize = 8;
/// How long a source stays known: an agent may sleep overnight.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// A peer that talks makes a handshake every 120 s (paper, section 6.1); two of them fit.
const SETTLED: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Place {
    mark: u64,
    /// When it authenticated last; `None` where the place is free.
    heard: Option<Instant>,
    gate: Gate,
}

const FREE: Place = Place { mark: 0, heard: None, gate: Gate { due: None } };

impl Place {
    /// How long it has been silent; `None` where the place is free or the source no longer known.
    fn silence(&self, now: Instant) -> Option<Duration> {
        let silence = now.saturating_duration_since(self.heard?);
        (silence < KNOWN_FOR).then_some(silence)
    }

    fn holds(&self, mark: u64, now: Instant) -> bool {
        self.mark == mark && self.silence(now).is_some()
    }
}

/// The table.
pub(super) struct KnownTable {
    places: Vec<Place>,
}

impl KnownTable {
    /// Makes a table with `sets` sets of [`WAYS`] places; never grows.
    pub(super) fn new(sets: usize) -> Self {
        Self { places: vec![FREE; sets.saturating_mul(WAYS)] }
    }

    /// Notes that the source with this mark authenticated at `now`.
    pub(super) fn note(&mut self, mark: u64, now: Instant) {
        let set = self.set(mark);
        if let Some(place) = set.iter_mut().find(|place| place.holds(mark, now)) {
            place.heard = Some(now);
            return;
        }
        let rank = |place: &&mut Place| place.silence(now).unwrap_or(Duration::MAX);
        let stalest = set.iter_mut().max_by_key(rank);
        if let Some(place) = stalest.filter(|place| rank(place) >= SETTLED) {
            *place = Place { mark, heard: Some(now), gate: Gate::default() };
        }
    }

    /// The gate of a known source.
    pub(super) fn find(&mut self, mark: u64, now: Instant) -> Option<&mut Gate> {
        let place = self.set(mark).iter_mut().find(|place| place.holds(mark, now))?;
        Some(&mut place.gate)
    }

    fn set(&mut self, mark: u64) -> &mut [Place] {
        let sets = u64::try_from(self.places.len() / WAYS).unwrap_or(1);
        let at = mark.checked_rem(sets).and_then(|set| usize::try_from(set).ok()).unwrap_or(0);
        self.places.chunks_exact_mut(WAYS).nth(at).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.places.capacity()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use super::*;

    #[test]
    fn a_source_is_known_for_a_day_after_it_was_last_heard() {
        let (start, mut table) = (Instant::now(), KnownTable::new(4));
        table.note(7, start);
        table.note(7, start + Duration::from_secs(3600));
        let last = start + Duration::from_secs(3600) + KNOWN_FOR;
        assert!(table.find(7, last - Duration::from_secs(1)).is_some());
        assert!(table.find(7, last).is_none());
        assert!(table.find(11, start).is_none(), "same set, another source");
    }

    #[test]
    fn forged_sources_push_out_only_who_is_silent() {
        let (start, mut table) = (Instant::now(), KnownTable::new(1));
        let at = |secs| start + Duration::from_secs(secs);
        (1..=8).for_each(|mark| table.note(mark, at(mark)));
        (100..10_000).for_each(|mark| table.note(mark, at(120)));
        assert!((1..=8).all(|mark| table.find(mark, at(120)).is_some()));
        (2..=8).for_each(|mark| table.note(mark, at(200)));
        (100..10_000).for_each(|mark| table.note(mark, at(320)));
        assert!((2..=8).all(|mark| table.find(mark, at(320)).is_some()));
        assert!(table.find(1, at(320)).is_none() && table.find(100, at(320)).is_some());
    }

    #[test]
    fn ten_thousand_sources_fit() {
        let (start, mut table) = (Instant::now(), KnownTable::new(4096));
        let marks = || (0..10_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31));
        marks().for_each(|mark| table.note(mark, start));
        let found = marks().filter(|mark| table.find(*mark, start).is_some()).count();
        assert!(found >= 9_950, "{found}");
    }
}
