//! Whether a workload keeps to its storage limit: when its folder is measured next, and what is too much.
//!
//! A folder that grows, or is nearly full, is measured every two seconds, one that rests ever less often, down to every
//! half a minute. Measuring takes a twentieth of the time at most.

use std::fmt;
use std::time::{Duration, Instant};

/// Pause before a folder is measured again that grows, and the longest one of one that does not.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause at all: of a folder that takes very long to measure.
const SLOWEST_PAUSE: Duration = Duration::from_secs(600);

/// So many times as long as it took to measure is paused.
const REST: u32 = 20;

/// Files and folders of one workload at most: more could not be measured in time.
pub const MAX_ENTRIES: u64 = 1_000_000;

/// How deep folders may be within each other.
pub const MAX_DEPTH: usize = 64;

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// Bytes that it takes on the disk.
    pub bytes: u64,
    /// Files and folders that were counted; counting ends past [`MAX_ENTRIES`].
    pub entries: u64,
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
}

impl fmt::Display for OverStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes, limit) => write!(f, "over its storage limit: {bytes} of {limit} bytes")?,
            Self::Entries => write!(f, "over its storage limit: more than {MAX_ENTRIES} files and folders")?,
            Self::Depth => write!(f, "over its storage limit: folders deeper than {MAX_DEPTH} levels")?,
        }
        f.write_str("; remove some of its data on the node, or give it more (limits.storage_bytes)")
    }
}

/// The bound of one workload.
#[derive(Debug, Clone)]
pub struct StorageBound {
    limit: u64,
    last: u64,
    pause: Duration,
    next: Instant,
}

impl StorageBound {
    /// A workload that holds so much now, and is measured again soon; `limit` in bytes.
    #[must_use]
    pub fn new(limit: u64, held: Stored, now: Instant) -> Self {
        let next = now.checked_add(FIRST_PAUSE).unwrap_or(now);
        Self { limit, last: held.bytes, pause: FIRST_PAUSE, next }
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
        } else {
            None
        }
    }

    /// When to measure.
    #[must_use]
    pub const fn next(&self) -> Instant {
        self.next
    }

    /// It was measured, which took so long: why that is too much, where it is.
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
        let pause = self.pause.max(took.saturating_mul(REST)).min(SLOWEST_PAUSE);
        self.next = now.checked_add(pause).unwrap_or(now);
        Self::judge(self.limit, stored)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn of(bytes: u64) -> Stored {
        Stored { bytes, entries: 1, is_too_deep: false }
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
        assert_eq!(pause_after(0, Duration::from_secs(4)), 80, "it takes long");
    }

    #[test]
    fn what_is_too_much_says_how_much() {
        let over = StorageBound::judge(GIB, of(GIB + 1)).unwrap().to_string();
        assert!(over.starts_with("over its storage limit: 1073741825 of 1073741824 bytes"), "{over}");
        assert_eq!(StorageBound::judge(GIB, of(GIB)), None);
        let many = Stored { entries: MAX_ENTRIES + 1, ..of(1) };
        assert_eq!(StorageBound::judge(GIB, many), Some(OverStorage::Entries));
        let deep = Stored { is_too_deep: true, ..of(1) };
        assert_eq!(StorageBound::judge(GIB, deep), Some(OverStorage::Depth));
    }

    proptest! {
        #[test]
        fn the_next_look_is_always_later_and_within_ten_minutes(
            steps in prop::collection::vec((0u64..2_000_000_000, 0u64..100_000), 1..40)
        ) {
            let mut now = Instant::now();
            let mut bound = StorageBound::new(GIB, Stored::default(), now);
            for (bytes, took) in steps {
                now = bound.next();
                let over = bound.handle_stored(of(bytes), Duration::from_millis(took), now);
                prop_assert_eq!(over.is_some(), bytes > GIB);
                prop_assert!(bound.next() > now && bound.next() - now <= SLOWEST_PAUSE);
            }
        }
    }
}
