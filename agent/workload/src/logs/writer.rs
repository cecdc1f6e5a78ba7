//! Writes the ring of one service.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use blueprint_agent_workload_core::log::{Line, Repair, Ring, RingLimits, Segment, encode, scan};
use blueprint_common_types::fill_random;

use super::{LOCK, RING, ring_of, segment, segments};

/// The one writer of a ring, as long as it lives.
#[derive(Debug)]
pub(super) struct LogWriter {
    folder: PathBuf,
    ring: Ring,
    /// The segment that was written to last, and its first line.
    newest: Option<(u64, File)>,
    _lock: File,
}

/// Takes the lock of a ring; `None` where another process has it.
pub(super) fn lock(folder: &Path) -> io::Result<Option<File>> {
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(folder.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl LogWriter {
    /// Makes the folder where it is not there, and goes on behind the last whole line.
    pub(super) fn open(folder: &Path, limits: RingLimits) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let Some(lock) = lock(folder)? else {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process writes there"));
        };
        let mut found = Vec::new();
        for first in segments(folder)? {
            let bytes = fs::read(segment(folder, first))?;
            let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            found.push((Segment { first, bytes: size }, scan(first, &bytes)));
        }
        let (ring, repairs) = Ring::recover(limits, found);
        for repair in repairs {
            match repair {
                Repair::Cut(Segment { first, bytes }) => {
                    OpenOptions::new().write(true).open(segment(folder, first))?.set_len(bytes)?;
                }
                Repair::Remove(first) => fs::remove_file(segment(folder, first))?,
            }
        }
        let ring = match ring {
            Some(ring) if ring_of(folder)?.is_some() => ring,
            Some(_) | None => {
                for first in segments(folder)? {
                    fs::remove_file(segment(folder, first))?;
                }
                name(folder)?;
                Ring::new(limits)
            }
        };
        Ok(Self { folder: folder.to_owned(), ring, newest: None, _lock: lock })
    }

    /// Writes a line, whose number it sets. After a failure the ring is as it was, but for what had to make room.
    pub(super) fn append(&mut self, mut line: Line) -> io::Result<()> {
        line.seq = self.ring.next();
        let record = encode(&line);
        let bytes = u64::try_from(record.len()).unwrap_or(u64::MAX);
        let room = self.ring.room(bytes);
        for first in &room.removes {
            match fs::remove_file(segment(&self.folder, *first)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => self.ring.removed(*first),
            }
        }
        let target = if room.begins { room.seq } else { self.ring.newest().map_or(room.seq, |it| it.first) };
        if self.newest.as_ref().is_none_or(|(first, _)| *first != target) {
            if let Some((_, full)) = self.newest.take() {
                full.sync_data()?;
            }
            let file = append_to(&segment(&self.folder, target))?;
            File::open(&self.folder)?.sync_all()?;
            self.newest = Some((target, file));
        }
        let Some((_, file)) = &mut self.newest else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(error) = file.write_all(&record) {
            // A part of a line would hide all that come behind it, and an empty segment those before it.
            if room.begins {
                self.newest = None;
                fs::remove_file(segment(&self.folder, target))?;
            } else {
                file.set_len(self.ring.newest().map_or(0, |newest| newest.bytes))?;
            }
            return Err(error);
        }
        self.ring.wrote(&room, bytes);
        Ok(())
    }

    /// Has all of it on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.newest.as_ref().map_or(Ok(()), |(_, file)| file.sync_data())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Gives a new ring its number, whole or not at all.
fn name(folder: &Path) -> io::Result<()> {
    let mut number = [0; 8];
    fill_random(&mut number)?;
    let (beside, place) = (folder.join("ring.new"), folder.join(RING));
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
    file.write_all(format!("{:016x}\n", u64::from_le_bytes(number)).as_bytes())?;
    file.sync_all()?;
    fs::rename(beside, place)?;
    File::open(folder)?.sync_all()
}
