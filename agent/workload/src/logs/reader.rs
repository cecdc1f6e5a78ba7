//! Reads the ring of one service, while its writer may be at work.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use blueprint_agent_workload_core::log::{Filter, Line, MAX_RECORD_BYTES, next_line};
use blueprint_common_types::{LogCursor, Timestamp};

use super::{ring_of, segment, segments};

/// Bytes that are read at once; a record always fits.
const CHUNK: usize = 2 * MAX_RECORD_BYTES + (64 << 10);

/// Which lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct LogAsk {
    /// Those after this one. Where it is of another ring, all.
    pub after: Option<LogCursor>,
    /// The newest so many of those that fit, where `after` does not count.
    pub tail: Option<u32>,
    /// Those that fit. Its time counts where `after` does not.
    pub filter: Filter,
}

/// Some lines.
#[derive(Debug, Default)]
pub struct LogBatch {
    /// In the order of their numbers.
    pub lines: Vec<Line>,
    /// Lines before them that were gone before they were read.
    pub missed: u64,
    /// Nothing more is there at the moment.
    pub is_end: bool,
}

/// Reads on from line to line.
#[derive(Debug)]
pub struct LogReader {
    folder: PathBuf,
    ring: u64,
    filter: Filter,
    /// Number of the next line.
    next: u64,
    open: Option<Open>,
}

/// The segment that is read.
#[derive(Debug)]
struct Open {
    first: u64,
    file: File,
    offset: u64,
}

impl LogReader {
    pub(super) fn open(folder: PathBuf, ask: &LogAsk) -> io::Result<Option<Self>> {
        let Some(ring) = ring_of(&folder)? else { return Ok(None) };
        let after = ask.after.filter(|after| after.ring == ring);
        let mut filter = ask.filter.clone();
        // What was not read before is wanted, whatever the clock did meanwhile.
        if after.is_some() {
            filter.since = Timestamp::default();
        }
        let oldest = segments(&folder)?.first().copied().unwrap_or(1);
        let next = after.map_or(oldest, |after| after.seq.saturating_add(1));
        let mut reader = Self { folder, ring, filter, next, open: None };
        if let Some(tail) = ask.tail.filter(|_| after.is_none()) {
            reader.skip_to_tail(usize::try_from(tail).unwrap_or(usize::MAX))?;
        }
        Ok(Some(reader))
    }

    /// Number of the ring: a cursor names it.
    #[must_use]
    pub const fn ring(&self) -> u64 {
        self.ring
    }

    /// Number of the last line that was looked at, whether it fits or not.
    #[must_use]
    pub const fn reached(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Leaves out all but the last lines that fit.
    fn skip_to_tail(&mut self, tail: usize) -> io::Result<()> {
        let mut last = VecDeque::new();
        loop {
            let batch = self.read_lines(usize::MAX)?;
            for line in &batch.lines {
                last.push_back(line.seq);
                if last.len() > tail {
                    last.pop_front();
                }
            }
            if batch.is_end {
                break;
            }
        }
        self.next = last.front().copied().unwrap_or(self.next);
        // What is looked at here counts as reached.
        if let Some(open) = self.open.take() {
            open.file.sync_data()?;
        }
        Ok(())
    }

    /// The next lines that fit, of about so many bytes at most, and at least one where there is any; all of them are on the
    /// disk. It blocks its thread.
    ///
    /// # Errors
    ///
    /// Those of the file system; [`io::ErrorKind::StaleNetworkFileHandle`] where another ring has taken the place of this
    /// one.
    pub fn read(&mut self, bytes: usize) -> io::Result<LogBatch> {
        let before = self.next;
        let batch = self.read_lines(bytes)?;
        // Earlier segments were synced when the next began.
        if let Some(open) = self.open.as_ref().filter(|_| self.next != before) {
            open.file.sync_data()?;
        }
        Ok(batch)
    }

    /// Reads one chunk at most.
    fn read_lines(&mut self, bytes: usize) -> io::Result<LogBatch> {
        let mut batch = LogBatch::default();
        if self.open.is_none() && !self.move_on(&mut batch)? {
            batch.is_end = true;
            return Ok(batch);
        }
        if self.read_chunk(bytes, &mut batch)? {
            return Ok(batch);
        }
        // Where a newer segment is there, this one is whole; but a line may have come between the two looks.
        let (newer, removed) = (self.has_newer()?, self.is_removed()?);
        if self.read_chunk(bytes, &mut batch)? {
            return Ok(batch);
        }
        // Another one of the same name may stand in its place: the writer takes back a segment whose first line failed.
        if removed {
            self.open = None;
        }
        batch.is_end = !(newer || removed) || !self.move_on(&mut batch)?;
        Ok(batch)
    }

    /// Reads what comes next in the open segment; false where nothing does.
    fn read_chunk(&mut self, bytes: usize, batch: &mut LogBatch) -> io::Result<bool> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let mut chunk = vec![0; CHUNK];
        let mut filled = 0usize;
        while let Some(free) = chunk.get_mut(filled..).filter(|free| !free.is_empty()) {
            let from = open.offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
            match open.file.read_at(free, from)? {
                0 => break,
                count => filled = filled.saturating_add(count),
            }
        }
        let mut rest = chunk.get(..filled).unwrap_or_default();
        let (mut has_moved, mut taken) = (false, 0usize);
        while let Some((line, length)) = next_line(rest).filter(|_| taken < bytes) {
            has_moved = true;
            open.offset = open.offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
            rest = rest.get(length..).unwrap_or_default();
            if line.seq < self.next {
                continue;
            }
            batch.missed = batch.missed.saturating_add(line.seq.saturating_sub(self.next));
            self.next = line.seq.saturating_add(1);
            if self.filter.fits(&line) {
                taken = taken.saturating_add(line.text.len()).saturating_add(64);
                batch.lines.push(line);
            }
        }
        Ok(has_moved)
    }

    fn has_newer(&self) -> io::Result<bool> {
        if ring_of(&self.folder)? != Some(self.ring) {
            return Err(io::Error::new(
                io::ErrorKind::StaleNetworkFileHandle,
                "what was kept was lost, and something else is kept now",
            ));
        }
        let open = self.open.as_ref().map_or(0, |open| open.first);
        Ok(segments(&self.folder)?.iter().any(|first| *first > open))
    }

    fn is_removed(&self) -> io::Result<bool> {
        self.open.as_ref().map_or(Ok(false), |open| Ok(open.file.metadata()?.nlink() == 0))
    }

    /// Opens the segment with the next line, or the oldest behind it; false where there is none yet.
    fn move_on(&mut self, batch: &mut LogBatch) -> io::Result<bool> {
        let after = self.open.as_ref().map(|open| open.first);
        let all = segments(&self.folder)?;
        let holds_next = all.iter().rev().find(|first| **first <= self.next);
        let found = holds_next.filter(|first| after.is_none_or(|after| **first > after));
        let later = || all.iter().find(|first| after.is_none_or(|after| **first > after));
        let Some(first) = found.or_else(later).copied() else { return Ok(false) };
        match File::open(segment(&self.folder, first)) {
            Ok(file) => {
                batch.missed = batch.missed.saturating_add(first.saturating_sub(self.next));
                self.next = self.next.max(first);
                self.open = Some(Open { first, file, offset: 0 });
                Ok(true)
            }
            // It made room just now; the next look finds another one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}
