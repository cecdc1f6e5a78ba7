//! Whether a workload keeps to its storage limit: when its folder is measured next, and what is too much.
//!
//! A folder that grows, or is nearly full, is measured every two seconds, one that rests ever less often, down to every
//! half a minute. Measuring takes a twentieth of the time, or more where that would leave a folder alone for over a minute:
//! what a workload keeps there must not choose how seldom it is looked at. What is too much is measured a second time at
//! once, since files that are renamed or written anew meanwhile may be seen twice.

use std::fmt;
use std::time::{Duration, Instant};

/// Pause before a folder is measured again that grows, and the longest one of one that does not.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause at all: of a folder that takes very long to measure.
const SLOWEST_PAUSE: Duration = Duration::from_secs(60);

/// So many times as long as it took to measure is paused.
const REST: u32 = 20;

/// Files and folders of one workload at most: more could not be measured in time.
pub const MAX_ENTRIES: u64 = 200_000;

/// Open files and mappings of all processes of one workload at most, for the same reason.
pub const MAX_OPEN: u64 = 1_000_000;

/// How deep folders may be within each other.
pub const MAX_DEPTH: usize = 64;

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// Bytes that it takes on the disk.
    pub bytes: u64,
    /// Files and folders that were counted; counting ends past [`MAX_ENTRIES`].
    pub entries: u64,
    /// Open files and mappings that were looked at; looking ends past [`MAX_OPEN`].
    pub open: u64,
    /// Some folder is deeper than [`MAX_DEPTH`], and what is in it was not counted.
    pub is_too_deep: bool,
}

/// A workload keeps more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverStorage {
    /// Bytes, and how many it may have.
    Bytes(u64, u64),
    /// Files and folders.
    Entries,
    /// Folders within folders.
    Depth,
    /// Open files and mappings.
    Open,
}

impl fmt::Display for OverStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("over its storage limit: ")?;
        match self {
            Self::Bytes(bytes, limit) => write!(
                f,
                "{bytes} of {limit} bytes; remove some of its data on the node, or give it more (limits.storage_bytes)"
            ),
            Self::Entries => {
                write!(f, "more than {MAX_ENTRIES} files and folders; remove some of its data on the node")
            }
            Self::Depth => {
                write!(f, "folders deeper than {MAX_DEPTH} levels; remove some of its data on the node")
            }
            Self::Open => {
                write!(f, "more than {MAX_OPEN} open files and mappings, which may be removed ones")
            }
        }
    }
}

/// The bound of one workload.
#[derive(Debug, Clone)]
pub struct StorageBound {
    limit: u64,
    last: u64,
    pause: Duration,
    next: Instant,
    /// It was too much at the last look.
    was_over: bool,
}

impl StorageBound {
    /// A workload that holds so much now, and is measured again soon; `limit` in bytes.
    #[must_use]
    pub fn new(limit: u64, held: Stored, now: Instant) -> Self {
        let next = now.checked_add(FIRST_PAUSE).unwrap_or(now);
        Self { limit, last: held.bytes, pause: FIRST_PAUSE, next, was_over: false }
    }

    /// Why that is too much; `None` where it is not.
    #[must_use]
    pub const fn judge(limit: u64, stored: Stored) -> Option<OverStorage> {
        if stored.bytes > limit {
            Some(OverStorage::Bytes(stored.bytes, limit))
        } else if stored.entries > MAX_ENTRIES {
            Some(OverStorage::Entries)
        } else if stored.is_too_deep {
            Some(OverStorage::Depth)
        } else if stored.open > MAX_OPEN {
            Some(OverStorage::Open)
        } else {
            None
        }
    }

    /// When to measure.
    #[must_use]
    pub const fn next(&self) -> Instant {
        self.next
    }

    /// It was measured, which took so long: why that is too much, where it was that at two looks one after the other.
    pub fn handle_stored(&mut self, stored: Stored, took: Duration, now: Instant) -> Option<OverStorage> {
        let step = self.limit / 256;
        let grows = stored.bytes > self.last.saturating_add(step);
        let is_nearly_full = stored.bytes > self.limit.saturating_sub(self.limit / 10);
        self.last = stored.bytes;
        self.pause = if grows || is_nearly_full {
            FIRST_PAUSE
        } else {
            self.pause.saturating_mul(2).min(LONGEST_PAUSE)
        };
        let over = Self::judge(self.limit, stored);
        if !std::mem::replace(&mut self.was_over, over.is_some()) && over.is_some() {
            self.next = now;
            return None;
        }
        self.rest(took, now);
        over
    }

    /// It could not be measured.
    pub fn handle_failed(&mut self, now: Instant) {
        self.was_over = false;
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        self.rest(Duration::ZERO, now);
    }

    fn rest(&mut self, took: Duration, now: Instant) {
        let pause = self.pause.max(took.saturating_mul(REST)).min(SLOWEST_PAUSE);
        self.next = now.checked_add(pause).unwrap_or(now);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn of(bytes: u64) -> Stored {
        Stored { bytes, entries: 1, ..Stored::default() }
    }

    #[test]
    fn a_folder_that_grows_or_is_nearly_full_is_looked_at_often_and_one_that_rests_is_not() {
        let mut now = Instant::now();
        let mut bound = StorageBound::new(GIB, Stored::default(), now);
        let quick = Duration::from_millis(5);
        let mut pause_after = |bytes: u64, took: Duration| {
            now = bound.next();
            assert_eq!(bound.handle_stored(of(bytes), took, now), None);
            (bound.next() - now).as_secs()
        };
        assert_eq!([0; 5].map(|bytes| pause_after(bytes, quick)), [4, 8, 16, 30, 30]);
        assert_eq!(pause_after(GIB / 2, quick), 2, "it grew");
        assert_eq!(pause_after(GIB / 2, quick), 4);
        assert_eq!([GIB - 1; 3].map(|bytes| pause_after(bytes, quick)), [2; 3], "nearly full");
        assert_eq!(pause_after(0, Duration::from_secs(2)), 40, "it takes long");
        assert_eq!(pause_after(0, Duration::from_secs(300)), 60, "however long it takes");
    }

    #[test]
    fn what_is_too_much_is_measured_again_at_once_before_anything_ends() {
        let now = Instant::now();
        let mut bound = StorageBound::new(GIB, Stored::default(), now);
        let quick = Duration::from_millis(5);
        let mut look = |bytes: Option<u64>| {
            let over = match bytes {
                Some(bytes) => bound.handle_stored(of(bytes), quick, now),
                None => {
                    bound.handle_failed(now);
                    None
                }
            };
            (over.is_some(), (bound.next() - now).as_secs())
        };
        assert_eq!(look(Some(GIB + 1)), (false, 0));
        assert_eq!(look(Some(GIB)), (false, 2), "seen twice, and nearly full");
        assert_eq!(look(Some(GIB + 1)), (false, 0));
        assert_eq!(look(None), (false, 4), "what could not be measured confirms nothing");
        assert_eq!(look(Some(GIB + 1)), (false, 0));
        assert!(look(Some(GIB + 1)).0);
    }

    #[test]
    fn what_is_too_much_says_how_much() {
        let over = StorageBound::judge(GIB, of(GIB + 1)).unwrap().to_string();
        assert!(over.starts_with("over its storage limit: 1073741825 of 1073741824 bytes"), "{over}");
        assert_eq!(StorageBound::judge(GIB, of(GIB)), None);
        let many = Stored { entries: MAX_ENTRIES + 1, ..of(1) };
        assert_eq!(StorageBound::judge(GIB, many), Some(OverStorage::Entries));
        let open = Stored { open: MAX_OPEN + 1, ..of(1) };
        assert_eq!(StorageBound::judge(GIB, open), Some(OverStorage::Open));
        let deep = Stored { is_too_deep: true, ..of(1) };
        assert_eq!(StorageBound::judge(GIB, deep), Some(OverStorage::Depth));
    }

    proptest! {
        #[test]
        fn the_next_look_is_within_a_minute_and_later_but_where_it_confirms(
            steps in prop::collection::vec((0u64..2_000_000_000, 0u64..100_000), 1..40)
        ) {
            let (mut now, mut was_over) = (Instant::now(), false);
            let mut bound = StorageBound::new(GIB, Stored::default(), now);
            for (bytes, took) in steps {
                now = bound.next();
                let over = bound.handle_stored(of(bytes), Duration::from_millis(took), now);
                let is_over = bytes > GIB;
                prop_assert_eq!(over.is_some(), is_over && was_over);
                let is_at_once = is_over && !was_over;
                prop_assert_eq!(bound.next() == now, is_at_once);
                prop_assert!(bound.next() - now <= SLOWEST_PAUSE);
                was_over = is_over;
            }
        }
    }
}
