//! What is kept on the disk: a row of segments, of which the oldest goes where there is no room for a new line.

use std::collections::VecDeque;

use super::record::Scanned;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLimits {
    /// Bytes of all segments together.
    pub bytes: u64,
}

impl RingLimits {
    /// Segments that the whole is made of: one is what goes at once.
    const SEGMENTS: u64 = 8;

    const fn of_segment(self) -> u64 {
        self.bytes / Self::SEGMENTS
    }
}

/// A segment: the file of the lines from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Number of its first line, and its name.
    pub first: u64,
    /// Its size.
    pub bytes: u64,
}

/// What has to be done before a line is written at the end of the newest segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The number of the line.
    pub seq: u64,
    /// The line begins a segment of this name, which is its number.
    pub begins: bool,
    /// Segments that go first.
    pub removes: Vec<u64>,
}

/// What has to be done with what an earlier process left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Cut this segment to so many bytes.
    Cut(Segment),
    /// Remove this one, of which nothing is good.
    Remove(u64),
}

/// Which segments there are, and the number of the next line.
#[derive(Debug)]
pub struct Ring {
    limits: RingLimits,
    segments: VecDeque<Segment>,
    next: u64,
}

impl Ring {
    /// Takes what an earlier process left, in any order: each segment with its size and what is good of it. `None` in the
    /// place of the ring where nothing is: then its numbers must not be used again, and it is another ring.
    #[must_use]
    pub fn recover(limits: RingLimits, found: Vec<(Segment, Scanned)>) -> (Option<Self>, Vec<Repair>) {
        let mut found = found;
        found.sort_by_key(|(segment, _)| segment.first);
        let mut repairs = Vec::new();
        let mut segments: VecDeque<Segment> = VecDeque::new();
        let mut next = None;
        for (segment, good) in found {
            // One that begins before the last one ends is no part of it.
            if good.bytes == 0 || next.is_some_and(|next| segment.first < next) {
                repairs.push(Repair::Remove(segment.first));
                continue;
            }
            let is = Segment { bytes: good.bytes, ..segment };
            if is != segment {
                repairs.push(Repair::Cut(is));
            }
            segments.push_back(is);
            next = Some(good.next);
        }
        (next.map(|next| Self { limits, segments, next }), repairs)
    }

    /// An empty one.
    #[must_use]
    pub const fn new(limits: RingLimits) -> Self {
        Self { limits, segments: VecDeque::new(), next: 1 }
    }

    /// Number of the next line.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The newest segment.
    #[must_use]
    pub fn newest(&self) -> Option<Segment> {
        self.segments.back().copied()
    }

    /// What a line of so many bytes needs; nothing changes before [`Ring::wrote`].
    #[must_use]
    pub fn room(&self, bytes: u64) -> Room {
        let begins =
            self.newest().is_none_or(|newest| newest.bytes.saturating_add(bytes) > self.limits.of_segment());
        let mut total = self.segments.iter().map(|segment| segment.bytes).fold(bytes, u64::saturating_add);
        // The newest stays where the line goes into it.
        let may_go = self.segments.len().saturating_sub(usize::from(!begins));
        let mut removes = Vec::new();
        for segment in self.segments.iter().take(may_go) {
            if total <= self.limits.bytes {
                break;
            }
            total = total.saturating_sub(segment.bytes);
            removes.push(segment.first);
        }
        Room { seq: self.next, begins, removes }
    }

    /// A segment was removed.
    pub fn removed(&mut self, first: u64) {
        self.segments.retain(|segment| segment.first != first);
    }

    /// The line that the room was for is written whole, `bytes` of it.
    pub fn wrote(&mut self, room: &Room, bytes: u64) {
        match self.segments.back_mut().filter(|_| !room.begins) {
            Some(newest) => newest.bytes = newest.bytes.saturating_add(bytes),
            None => self.segments.push_back(Segment { first: room.seq, bytes }),
        }
        self.next = room.seq.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use blueprint_common_types::{LogStream, Timestamp};
    use proptest::prelude::*;

    use super::super::{Line, encode, next_line, scan};
    use super::*;

    const LIMITS: RingLimits = RingLimits { bytes: 4096 };

    /// A disk, and what was written to it and acknowledged.
    struct Sim {
        disk: BTreeMap<u64, Vec<u8>>,
        ring: Ring,
        acknowledged: u64,
    }

    impl Sim {
        fn new() -> Self {
            Self { disk: BTreeMap::new(), ring: Ring::new(LIMITS), acknowledged: 0 }
        }

        fn line(seq: u64, length: usize) -> Vec<u8> {
            let at = Timestamp::from_millis(seq);
            let text = "x".repeat(length);
            encode(&Line {
                seq,
                at,
                generation: 1,
                stream: LogStream::Stdout,
                level: None,
                text,
                goes_on: false,
            })
        }

        /// Appends a line; of a crash only a part of it is on the disk.
        fn append(&mut self, length: usize, torn: Option<usize>) {
            let bytes = Self::line(self.ring.next(), length);
            let count = u64::try_from(bytes.len()).unwrap();
            let room = self.ring.room(count);
            for first in &room.removes {
                self.disk.remove(first);
                self.ring.removed(*first);
            }
            let newest = if room.begins { room.seq } else { self.ring.newest().unwrap().first };
            let file = self.disk.entry(newest).or_default();
            match torn {
                Some(torn) => {
                    file.extend_from_slice(&bytes[..torn.min(bytes.len() - 1)]);
                    self.reopen();
                }
                None => {
                    file.extend_from_slice(&bytes);
                    self.ring.wrote(&room, count);
                    self.acknowledged = room.seq;
                }
            }
        }

        fn reopen(&mut self) {
            let found = self.disk.iter().map(|(first, bytes)| {
                (Segment { first: *first, bytes: u64::try_from(bytes.len()).unwrap() }, scan(*first, bytes))
            });
            let (ring, repairs) = Ring::recover(LIMITS, found.collect());
            for repair in repairs {
                match repair {
                    Repair::Cut(Segment { first, bytes }) => {
                        self.disk.get_mut(&first).unwrap().truncate(usize::try_from(bytes).unwrap());
                    }
                    Repair::Remove(first) => drop(self.disk.remove(&first)),
                }
            }
            self.ring = ring.unwrap_or_else(|| Ring::new(LIMITS));
        }

        fn check(&self) {
            let total: usize = self.disk.values().map(Vec::len).sum();
            assert!(total <= 4096, "{total} bytes");
            let mut numbers = Vec::new();
            for bytes in self.disk.values() {
                let mut rest = bytes.as_slice();
                while let Some((line, length)) = next_line(rest) {
                    numbers.push(line.seq);
                    rest = &rest[length..];
                }
                assert!(rest.is_empty(), "what is torn stays");
            }
            let first = numbers.first().copied().unwrap_or(1);
            let expected: Vec<u64> = (first..=self.acknowledged).collect();
            assert_eq!(numbers, expected, "a suffix of what was acknowledged, without a gap");
            assert_eq!(self.ring.next(), self.acknowledged + 1);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_kept_is_a_suffix_without_a_gap_whatever_happens(
            steps in proptest::collection::vec((0usize..400, proptest::option::weighted(0.1, 0usize..400), prop::bool::weighted(0.1)), 1..200)
        ) {
            let mut sim = Sim::new();
            // One line that stays: a ring of which all is lost is another ring.
            sim.append(10, None);
            for (length, torn, reopens) in steps {
                sim.append(length, torn);
                if reopens {
                    sim.reopen();
                }
                sim.check();
            }
        }
    }

    #[test]
    fn the_newest_lines_fill_most_of_the_room() {
        let mut sim = Sim::new();
        (0..1000).for_each(|_| sim.append(50, None));
        let total: usize = sim.disk.values().map(Vec::len).sum();
        assert!(total > 3072, "{total}");
        sim.check();
    }

    #[test]
    fn a_ring_of_which_nothing_is_good_is_another_one() {
        let bad = Segment { first: 7, bytes: 9 };
        let (ring, repairs) = Ring::recover(LIMITS, vec![(bad, scan(7, b"no record"))]);
        assert!(ring.is_none());
        assert_eq!(repairs, [Repair::Remove(7)]);
    }
}
