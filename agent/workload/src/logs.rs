//! What workloads write: kept in a ring of files for each service, and read from there.
//!
//! ```text
//!   workload -- pipes -- keeper (Sink, LogWriter) -- files -- agent (LogReader) -- hub
//! ```
//!
//! The keeper writes, since it lives as long as the workload does, whatever becomes of the agent; the agent reads. What is
//! given to anybody is synced before, so that no number is used twice after a power loss.

mod follow;
mod reader;
mod sink;
mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use blueprint_agent_workload_core::log::{RateLimits, RingLimits, secrets};
use blueprint_common_types::Secret;
use blueprint_common_types::workload::{Bundle, Seat, WorkloadSpec};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracing::warn;

pub(crate) use follow::follow;
pub use reader::{LogAsk, LogBatch, LogReader};
pub(crate) use sink::Sink;

/// Name of the folder of all rings, below that of data.
const FOLDER: &str = "logs";

/// Name of the file that one writer holds a lock on.
const LOCK: &str = "lock";

/// Name of the file with the ring's number.
const RING: &str = "ring";

/// What the name of a segment ends in, behind the 20 digits of its first line.
const SEGMENT: &str = ".log";

/// Most rings of a node; a hub assigns 64 workloads at most, the rest is of those that ran here before.
const MAX_RINGS: usize = 128;

/// How much is kept of what a workload writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes of each ring on the disk.
    pub bytes: u64,
    /// Lines a second, on the average of ten; of 1 KiB each on the average.
    pub lines: u32,
}

impl LogLimits {
    /// Fewest bytes: each of the eight segments takes the longest line.
    pub const LEAST_BYTES: u64 = 256 << 10;

    /// What an agent has where its configuration says nothing else.
    pub const DEFAULT: Self = Self { bytes: 16 << 20, lines: 1000 };
}

/// What a keeper has to know to keep what its workload writes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogErrand {
    folder: PathBuf,
    generation: u64,
    bytes: u64,
    lines: u32,
    secrets: Secrets,
}

/// Values that must not be shown.
#[derive(Debug)]
struct Secrets(Vec<Secret<Vec<u8>>>);

impl Serialize for Secrets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Secret::expose))
    }
}

impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let all = Vec::<Vec<u8>>::deserialize(deserializer)?;
        Ok(Self(all.into_iter().map(Secret::new).collect()))
    }
}

impl LogErrand {
    pub(crate) fn new(
        folder: PathBuf,
        limits: LogLimits,
        generation: u64,
        spec: &WorkloadSpec,
        bundle: &Bundle,
    ) -> Self {
        let LogLimits { bytes, lines } = limits;
        Self { folder, generation, bytes, lines, secrets: Secrets(secrets(spec, bundle)) }
    }

    const fn ring(&self) -> RingLimits {
        RingLimits { bytes: self.bytes }
    }

    fn rate(&self) -> RateLimits {
        RateLimits { lines: self.lines, bytes: u64::from(self.lines) << 10 }
    }
}

/// Where the ring of an instance is; `state` is the folder of data.
pub(crate) fn folder(state: &Path, seat: Seat) -> PathBuf {
    state.join(FOLDER).join(blueprint_agent_workload_core::label(seat))
}

/// The rings of a node, to be read; cheap to clone.
#[derive(Debug, Clone)]
pub struct LogShelf {
    state: PathBuf,
}

impl LogShelf {
    pub(crate) const fn new(state: PathBuf) -> Self {
        Self { state }
    }

    /// Opens what is kept of an instance of a service; `None` where nothing is. It blocks its thread, as reading does.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub fn open(&self, seat: Seat, ask: &LogAsk) -> io::Result<Option<LogReader>> {
        LogReader::open(folder(&self.state, seat), ask)
    }
}

/// The first lines of the segments in a folder, in order.
fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(SEGMENT));
        all.extend(digits.filter(|digits| digits.len() == 20).and_then(|digits| digits.parse::<u64>().ok()));
    }
    all.sort_unstable();
    Ok(all)
}

/// The file of the lines from `first` on.
fn segment(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}{SEGMENT}"))
}

/// The number of the ring in a folder; `None` where there is none.
fn ring_of(folder: &Path) -> io::Result<Option<u64>> {
    match fs::read_to_string(folder.join(RING)) {
        Ok(text) => Ok(u64::from_str_radix(text.trim(), 16).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes the rings that were written to least lately, where there are more than [`MAX_RINGS`]; those that have a writer
/// stay. It blocks its thread.
pub(crate) fn prune(state: &Path) {
    let root = state.join(FOLDER);
    let changed = |folder: &Path| {
        let last = segments(folder).ok().and_then(|all| all.last().copied());
        let last = last.and_then(|first| fs::metadata(segment(folder, first)).ok()?.modified().ok());
        last.unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let folders = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<_> = folders.map(|folder| (changed(&folder), folder)).collect();
    all.sort();
    let many = all.len().saturating_sub(MAX_RINGS);
    for (_, folder) in all.into_iter().take(many) {
        let Ok(Some(_lock)) = writer::lock(&folder) else { continue };
        if let Err(error) = fs::remove_dir_all(&folder) {
            warn!(folder = %folder.display(), %error, "output of a workload that is gone is not removed");
        }
    }
}

#[cfg(test)]
mod tests;
