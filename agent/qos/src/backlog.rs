//! Samples that the hub has not got yet, in files of bounded size.
//!
//! ```text
//! NUMBER.samples   records from that number on; the last one is written to, the others are closed
//! taken            number of the last record that the hub has, and its check
//! .new             what is written anew, before it has its name
//! ```
//!
//! A record is its length, its check, its number and its time, and then the sample; numbers are little-endian. Where the whole
//! takes more than half of what it may, closed files are thinned from the oldest on: of each minute the last sample stays.
//! Where that is not enough, or samples are not of one thing ([`Backlog::unthinned`]), the oldest file goes, and its records are
//! counted.
//!
//! Invariants:
//! - numbers grow by one with each sample and are never given twice, so what is sent again is known again;
//! - what a crash leaves at any byte of any write is what was there before, with or without the newest records;
//! - the files take no more than they may, but for one record;
//! - a file that cannot be read costs its own samples, and stops nothing.

mod record;

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use blueprint_common_types::Timestamp;
use tracing::warn;

use self::record::{check, read_all};

/// What the name of a file of records ends in.
const SUFFIX: &str = ".samples";

/// Files that the whole is cut into.
const FILES: u64 = 16;

/// Longest sample, in bytes; a report of 64 services has some 3 KiB.
pub const MAX_SAMPLE_BYTES: usize = 64 * 1024;

/// Least size of a backlog, in bytes: a longest sample in each of its files.
pub const MIN_BACKLOG_BYTES: u64 = 1 << 20;

/// One sample that the hub has not got yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its number, by which it is acknowledged.
    pub number: u64,
    /// When it was taken.
    pub at: Timestamp,
    /// The sample, as it was given.
    pub bytes: Vec<u8>,
}

/// One file.
#[derive(Debug)]
struct Segment {
    /// Number of its first record, and its name.
    first: u64,
    /// Number of its last record.
    last: u64,
    records: u64,
    bytes: u64,
    is_thin: bool,
}

/// See the module. It writes synchronously, a record and its sync for each sample.
#[derive(Debug)]
pub struct Backlog {
    folder: PathBuf,
    max_bytes: u64,
    segments: VecDeque<Segment>,
    /// The last segment, while it is written to.
    open: Option<File>,
    next: u64,
    taken: u64,
    dropped: u64,
    /// Whether the last sample of a minute may stand for the others.
    is_thinned: bool,
    /// Whether each write is on the disk before it is done; a test of many writes goes without.
    is_synced: bool,
}

impl Backlog {
    /// Opens the folder, made where it is missing, and reads what it holds; `max_bytes` is at least
    /// [`MIN_BACKLOG_BYTES`], whatever is said.
    ///
    /// # Errors
    ///
    /// Fails where the folder cannot be used.
    pub fn open(folder: impl Into<PathBuf>, max_bytes: u64) -> io::Result<Self> {
        let folder = folder.into();
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut firsts = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let Ok(name) = entry.map(|entry| entry.file_name()) else { continue };
            let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            firsts.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        firsts.sort_unstable();
        let max_bytes = max_bytes.max(MIN_BACKLOG_BYTES);
        let taken = read_taken(&folder);
        let mut this = Self {
            folder,
            max_bytes,
            segments: VecDeque::new(),
            open: None,
            next: taken.saturating_add(1),
            taken,
            dropped: 0,
            is_thinned: true,
            is_synced: true,
        };
        for first in firsts {
            let path = this.path(first);
            let read = fs::read(&path);
            if let Err(error) = &read {
                warn!(?path, %error, "samples that are kept cannot be read; they are left out");
                this.dropped = this.dropped.saturating_add(1);
            }
            // As many numbers as it may have held are not given again.
            let length = fs::metadata(&path).map_or(0, |meta| meta.len());
            let most = length / u64::try_from(record::HEAD_BYTES).unwrap_or(u64::MAX);
            let bytes = read.unwrap_or_default();
            let records = read_all(&bytes);
            let Some(last) = records.last() else {
                this.next = this.next.max(first.saturating_add(most).saturating_add(1));
                remove(&path);
                continue;
            };
            this.next = this.next.max(last.number.saturating_add(1));
            this.segments.push_back(Segment {
                first,
                last: last.number,
                records: count(&records),
                bytes: size(&bytes),
                is_thin: false,
            });
        }
        Ok(this)
    }

    /// Has it keep every sample as long as there is room: for samples of many things, of which none stands for another.
    #[must_use]
    pub fn unthinned(mut self) -> Self {
        self.is_thinned = false;
        self
    }

    /// Keeps a sample. A first one that fits nowhere else goes where the oldest was.
    ///
    /// # Errors
    ///
    /// Fails where the disk refuses, or the sample is longer than [`MAX_SAMPLE_BYTES`]; it is not kept then, and counted.
    pub fn push(&mut self, at: Timestamp, sample: &[u8]) -> io::Result<()> {
        let pushed = self.write(at, sample);
        if pushed.is_err() {
            self.dropped = self.dropped.saturating_add(1);
            self.take_back();
        }
        self.make_room();
        pushed
    }

    /// Cuts what is half written off its file, so that a full disk does not make a file of each sample.
    fn take_back(&mut self) {
        let (Some(mut file), Some(last)) = (self.open.take(), self.segments.back()) else { return };
        let (records, bytes) = (last.records, last.bytes);
        if records == 0 {
            let path = self.path(last.first);
            self.segments.pop_back();
            remove(&path);
        } else if file.set_len(bytes).is_ok() && file.seek(SeekFrom::Start(bytes)).is_ok() {
            self.open = Some(file);
        }
    }

    fn write(&mut self, at: Timestamp, sample: &[u8]) -> io::Result<()> {
        if sample.len() > MAX_SAMPLE_BYTES {
            let text = format!("a sample of {} bytes is longer than {MAX_SAMPLE_BYTES}", sample.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let number = self.next;
        let bytes = record::write(&Kept { number, at, bytes: sample.to_vec() });
        let is_full = self.segments.back().is_some_and(|last| last.bytes >= self.max_bytes / FILES);
        if is_full {
            self.open = None;
        }
        let file = match &mut self.open {
            Some(file) => file,
            None => {
                let mut options = OpenOptions::new();
                let path = self.folder.join(format!("{number}{SUFFIX}"));
                let file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
                let segment = Segment { first: number, last: number, records: 0, bytes: 0, is_thin: false };
                self.segments.push_back(segment);
                self.open.insert(file)
            }
        };
        // A number that did not come to the disk whole is not used again.
        self.next = number.saturating_add(1);
        file.write_all(&bytes)?;
        if self.is_synced {
            file.sync_data()?;
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.last = number;
            segment.records = segment.records.saturating_add(1);
            segment.bytes = segment.bytes.saturating_add(size(&bytes));
        }
        Ok(())
    }

    /// The oldest samples that the hub has not got, at most so many and so many bytes, and one at least where there is any.
    /// A file that cannot be read is left out for good, and its samples are counted.
    pub fn oldest(&mut self, most: usize, most_bytes: usize) -> Vec<Kept> {
        let mut found: Vec<Kept> = Vec::new();
        let mut bytes = 0usize;
        let mut position = 0;
        while let Some(segment) = self.segments.get(position) {
            let records = fs::read(self.path(segment.first)).map(|bytes| read_all(&bytes));
            let has_more = |kept: &Vec<Kept>| kept.last().is_some_and(|last| last.number > self.taken);
            let is_needed = segment.last > self.taken;
            let records = match records {
                Ok(records) if !is_needed || has_more(&records) => records,
                Ok(_) => {
                    self.lose(position, "its records are damaged");
                    continue;
                }
                Err(error) => {
                    self.lose(position, &error.to_string());
                    continue;
                }
            };
            position = position.saturating_add(1);
            for kept in records {
                bytes = bytes.saturating_add(kept.bytes.len());
                let is_enough = found.len() >= most || (bytes > most_bytes && !found.is_empty());
                if is_enough {
                    return found;
                }
                if kept.number > self.taken {
                    found.push(kept);
                } else {
                    bytes = bytes.saturating_sub(kept.bytes.len());
                }
            }
        }
        found
    }

    /// The hub has all samples up to this number; an older number changes nothing.
    ///
    /// # Errors
    ///
    /// Fails where the disk refuses; some are then sent again after a restart.
    pub fn acknowledge(&mut self, through: u64) -> io::Result<()> {
        if through <= self.taken {
            return Ok(());
        }
        self.taken = through.min(self.next.saturating_sub(1));
        let mut bytes = self.taken.to_le_bytes().to_vec();
        bytes.extend_from_slice(&check(&self.taken.to_le_bytes()).to_le_bytes());
        self.replace("taken", &bytes)?;
        while self.segments.front().is_some_and(|segment| segment.last <= self.taken) {
            if self.segments.len() == 1 {
                self.open = None;
            }
            self.remove_oldest();
        }
        Ok(())
    }

    /// Whether the hub has everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.back().is_none_or(|last| last.last <= self.taken)
    }

    /// Bytes on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Samples that had no room, were refused by the disk or cannot be read any more, since it was opened; those that were
    /// thinned are not counted. A file that could not be read when it was opened is one.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Thins what is old where that is allowed, and removes the oldest where that is not enough.
    fn make_room(&mut self) {
        while self.is_thinned && self.bytes() > self.max_bytes / 2 {
            let closed = self.segments.len().saturating_sub(1);
            let Some(thick) = self.segments.iter().take(closed).position(|segment| !segment.is_thin) else {
                break;
            };
            if let Err(error) = self.thin(thick) {
                warn!(%error, "samples that are kept are not thinned; the oldest go once there is no room");
                break;
            }
        }
        while self.bytes() > self.max_bytes && self.segments.len() > 1 {
            let records = self.segments.front().map_or(0, |segment| segment.records);
            self.dropped = self.dropped.saturating_add(records);
            self.remove_oldest();
        }
    }

    /// Keeps the last sample of each minute of one closed file.
    fn thin(&mut self, position: usize) -> io::Result<()> {
        let Some(segment) = self.segments.get(position) else { return Ok(()) };
        let (first, path) = (segment.first, self.path(segment.first));
        let records = match fs::read(path) {
            Ok(bytes) => read_all(&bytes),
            Err(error) => {
                self.lose(position, &error.to_string());
                return Ok(());
            }
        };
        let minute = |kept: &Kept| kept.at.as_millis() / 60_000;
        let next = records.iter().skip(1).map(|kept| Some(minute(kept))).chain([None]);
        let lasts: Vec<&Kept> = records
            .iter()
            .zip(next)
            .filter(|(kept, next)| *next != Some(minute(kept)))
            .map(|(kept, _)| kept)
            .collect();
        let bytes: Vec<u8> = lasts.iter().flat_map(|kept| record::write(kept)).collect();
        self.replace(&format!("{first}{SUFFIX}"), &bytes)?;
        if let Some(segment) = self.segments.get_mut(position) {
            segment.records = count(&lasts);
            segment.bytes = size(&bytes);
            segment.is_thin = true;
        }
        Ok(())
    }

    fn remove_oldest(&mut self) {
        if let Some(segment) = self.segments.pop_front() {
            remove(&self.path(segment.first));
        }
    }

    /// Goes on without a file.
    fn lose(&mut self, position: usize, reason: &str) {
        if position.saturating_add(1) == self.segments.len() {
            self.open = None;
        }
        let Some(segment) = self.segments.remove(position) else { return };
        let (path, records) = (self.path(segment.first), segment.records);
        warn!(?path, records, reason, "samples that are kept cannot be read; they are left out");
        self.dropped = self.dropped.saturating_add(records);
        remove(&path);
    }

    /// Writes a file beside, and gives it its name once it is on the disk.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = self.folder.join(".new");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes).and_then(|()| file.sync_data())?;
        fs::rename(&beside, self.folder.join(name))?;
        File::open(&self.folder)?.sync_all()
    }

    fn path(&self, first: u64) -> PathBuf {
        self.folder.join(format!("{first}{SUFFIX}"))
    }
}

/// What cannot be removed takes room and does no harm: a next start reads it again.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(?path, %error, "a file of kept samples is not removed");
        }
        Ok(()) | Err(_) => {}
    }
}

/// The last number that the hub has; 0 where that is not known, and everything is sent again.
fn read_taken(folder: &Path) -> u64 {
    let read = || {
        let bytes = fs::read(folder.join("taken")).ok()?;
        let (number, sum) = bytes.split_at_checked(8)?;
        let number: [u8; 8] = number.try_into().ok()?;
        (sum == check(&number).to_le_bytes()).then(|| u64::from_le_bytes(number))
    };
    read().unwrap_or_else(|| {
        if folder.join("taken").exists() {
            warn!(?folder, "what the hub has of the samples kept here cannot be read; all are sent again");
        }
        0
    })
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn count<T>(records: &[T]) -> u64 {
    u64::try_from(records.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
