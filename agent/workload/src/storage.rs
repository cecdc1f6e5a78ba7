//! Measures what a workload keeps in its data folder, and in files that it has removed there and still holds open.
//!
//! Invariants:
//! - no link is followed and no other file system is entered, whatever the workload puts in the way meanwhile: each
//!   folder is opened below the one that is open already;
//! - a round looks at [`ROUND`] entries at most, on a thread of its own, and rounds of all workloads take turns;
//! - files with several names count once.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata, OpenOptions, ReadDir};
use std::future::pending;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blueprint_agent_workload_core::storage::{MAX_DEPTH, MAX_ENTRIES, OverStorage, StorageBound, Stored};
use blueprint_common_runtime::tasks::Spawner;
use nix::libc::{O_DIRECTORY, O_NOFOLLOW};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use crate::tree;

/// Entries of one round.
const ROUND: u64 = 10_000;

/// Open files of one process that are looked at, at most.
const FILES: usize = 10_000;

/// Rounds at once, of all workloads.
static TURN: Semaphore = Semaphore::const_new(2);

/// One folder that is open.
#[derive(Debug)]
struct Level {
    folder: File,
    entries: ReadDir,
}

impl Level {
    fn open(path: &Path) -> io::Result<Self> {
        let folder = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_DIRECTORY).open(path)?;
        let entries = fs::read_dir(at(&folder))?;
        Ok(Self { folder, entries })
    }
}

/// The path of what is open, whatever becomes of its name.
fn at(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A walk through one folder.
#[derive(Debug)]
struct Walk {
    levels: Vec<Level>,
    device: u64,
    /// Files with several names that were counted.
    linked: BTreeSet<u64>,
    stored: Stored,
}

impl Walk {
    fn begin(folder: &Path) -> io::Result<Self> {
        let level = Level::open(folder)?;
        let device = level.folder.metadata()?.dev();
        Ok(Self { levels: vec![level], device, linked: BTreeSet::new(), stored: Stored::default() })
    }

    /// Goes on for one round; false once it is through.
    fn round(&mut self) -> bool {
        let until = self.stored.entries.saturating_add(ROUND);
        while let Some(level) = self.levels.last_mut() {
            if self.stored.entries > MAX_ENTRIES {
                return false;
            }
            if self.stored.entries >= until {
                return true;
            }
            // What cannot be read is gone, or kept from an agent that is an ordinary user.
            let Some(Ok(entry)) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            self.stored.entries = self.stored.entries.saturating_add(1);
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != self.device {
                continue;
            }
            let path = at(&level.folder).join(entry.file_name());
            self.count(&metadata);
            if !metadata.is_dir() {
                continue;
            }
            if self.levels.len() >= MAX_DEPTH {
                self.stored.is_too_deep = true;
            } else if let Ok(level) = Level::open(&path)
                && level.folder.metadata().is_ok_and(|opened| opened.dev() == self.device)
            {
                self.levels.push(level);
            }
        }
        false
    }

    fn count(&mut self, metadata: &Metadata) {
        let is_new = metadata.is_dir() || metadata.nlink() < 2 || self.linked.insert(metadata.ino());
        if is_new {
            self.stored.bytes = self.stored.bytes.saturating_add(on_disk(metadata));
        }
    }

    /// Adds files that have no name any more and are open in these processes.
    fn count_removed(&mut self, processes: &[i32]) {
        for pid in processes {
            let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            for file in files.take(FILES) {
                // Follows the link of the kernel to the file itself.
                let Ok(metadata) = fs::metadata(file.path()) else { continue };
                let is_removed = metadata.is_file() && metadata.nlink() == 0 && metadata.dev() == self.device;
                if is_removed && self.linked.insert(metadata.ino()) {
                    self.stored.bytes = self.stored.bytes.saturating_add(on_disk(&metadata));
                }
            }
        }
    }
}

fn on_disk(metadata: &Metadata) -> u64 {
    // Blocks of `stat` have 512 bytes, whatever those of the file system have.
    metadata.blocks().saturating_mul(512)
}

/// Whose processes may hold files that are removed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Holder {
    /// A user that is no other workload's.
    User(u32),
    /// A process and what descends from it.
    Process(u32),
    /// Nobody that is known.
    Nobody,
}

impl Holder {
    fn processes(self) -> Vec<i32> {
        match self {
            Self::User(user) => tree::of_user(user),
            Self::Process(pid) => i32::try_from(pid)
                .map_or_else(|_| Vec::new(), |pid| tree::descendants(pid).into_iter().chain([pid]).collect()),
            Self::Nobody => Vec::new(),
        }
    }
}

/// Measures a folder, a round at a time; says how long that took, without pauses. One that is not there holds nothing.
async fn measure(folder: PathBuf, holder: Holder) -> io::Result<(Stored, Duration)> {
    let mut took = Duration::ZERO;
    let mut walk: Option<Walk> = None;
    loop {
        let folder = folder.clone();
        // The semaphore is never closed. Who waits longest comes first, so one that keeps much holds up nobody.
        let turn = TURN.acquire().await;
        let round = spawn_blocking(move || {
            let begin = Instant::now();
            let mut walk = match walk {
                Some(walk) => walk,
                None => match Walk::begin(&folder) {
                    Ok(walk) => walk,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                },
            };
            let goes_on = walk.round();
            if !goes_on {
                walk.count_removed(&holder.processes());
            }
            Ok(Some((walk, goes_on, begin.elapsed())))
        });
        let Some((next, goes_on, round)) = round.await.map_err(io::Error::other)?? else {
            return Ok((Stored::default(), took));
        };
        drop(turn);
        took = took.saturating_add(round);
        if !goes_on {
            return Ok((next.stored, took));
        }
        walk = Some(next);
        // The disk is others', too.
        sleep(round).await;
    }
}

/// What a workload keeps before it is started, or why that is too much.
pub(crate) async fn check(folder: &Path, limit: u64) -> Result<Stored, String> {
    let measured = measure(folder.to_owned(), Holder::Nobody).await;
    let (stored, _) = measured.map_err(|error| format!("its data folder cannot be measured: {error}"))?;
    match StorageBound::judge(limit, stored) {
        Some(over) => Err(over.to_string()),
        None => Ok(stored),
    }
}

/// Looks after one workload while it runs; its task ends when this is dropped.
#[derive(Debug)]
pub(crate) struct StorageWatch {
    over: oneshot::Receiver<OverStorage>,
    _stop: DropGuard,
}

impl StorageWatch {
    /// Begins; `held` is what was there before, `limit` in bytes.
    pub(crate) fn start(
        folder: PathBuf,
        holder: Holder,
        limit: u64,
        held: Stored,
        spawner: &Spawner,
    ) -> Self {
        let (sender, over) = oneshot::channel();
        let stop = CancellationToken::new();
        let bound = StorageBound::new(limit, held, Instant::now());
        let watch = watch(folder, holder, bound, sender);
        let stopped = stop.clone();
        spawner.spawn_base("workload storage", async move { stopped.run_until_cancelled(watch).await });
        Self { over, _stop: stop.drop_guard() }
    }

    /// Waits until it keeps too much; that is said once.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub(crate) async fn over(&mut self) -> OverStorage {
        if !self.over.is_terminated()
            && let Ok(over) = (&mut self.over).await
        {
            return over;
        }
        pending().await
    }
}

async fn watch(
    folder: PathBuf,
    holder: Holder,
    mut bound: StorageBound,
    sender: oneshot::Sender<OverStorage>,
) {
    let mut last = Stored::default();
    let mut is_told = false;
    loop {
        sleep_until(bound.next().into()).await;
        let (stored, took) = match measure(folder.clone(), holder).await {
            Ok(measured) => measured,
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    warn!(folder = %folder.display(), %error, "a data folder cannot be measured; tried again");
                }
                (last, Duration::ZERO)
            }
        };
        last = stored;
        if let Some(over) = bound.handle_stored(stored, took, Instant::now()) {
            // A workload that ended meanwhile is not told.
            let _ = sender.send(over);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    async fn of(folder: &Path, holder: Holder) -> Stored {
        measure(folder.to_owned(), holder).await.unwrap().0
    }

    #[tokio::test]
    async fn what_is_in_a_folder_counts_once_and_what_links_lead_to_does_not() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = folder.path();
        let empty = of(path, Holder::Nobody).await;
        assert_eq!((empty.entries, empty.is_too_deep), (0, false));
        fs::write(other.path().join("large"), vec![1; 4 << 20]).unwrap();
        symlink(other.path(), path.join("folder")).unwrap();
        symlink(other.path().join("large"), path.join("file")).unwrap();
        assert!(of(path, Holder::Nobody).await.bytes < 64 << 10);
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/one"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(path.join("a/b/one"), path.join("a/again")).unwrap();
        let stored = of(path, Holder::Nobody).await;
        assert_eq!(stored.entries, 6);
        assert!((1 << 20..(1 << 20) + (128 << 10)).contains(&stored.bytes), "{stored:?}");
        assert!(check(path, 64 << 10).await.unwrap_err().starts_with("over its storage limit: "));
        assert_eq!(check(path, 1 << 30).await.unwrap(), stored);
        assert_eq!(check(&path.join("absent"), 1).await.unwrap(), Stored::default());
    }

    #[tokio::test]
    async fn a_file_that_is_removed_and_held_open_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gone");
        let held = File::create(&path).unwrap();
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(of(folder.path(), Holder::Nobody).await.bytes < 64 << 10);
        let stored = of(folder.path(), Holder::Process(std::process::id())).await;
        assert!(stored.bytes >= 1 << 20, "{stored:?}");
        drop(held);
    }

    #[tokio::test]
    async fn folders_that_are_too_deep_are_not_followed_and_many_files_take_many_rounds() {
        let folder = tempfile::tempdir().unwrap();
        let deep: PathBuf = (0..MAX_DEPTH + 5).map(|_| "d").collect();
        fs::create_dir_all(folder.path().join(deep)).unwrap();
        assert!(of(folder.path(), Holder::Nobody).await.is_too_deep);
        let many = tempfile::tempdir().unwrap();
        for number in 0..ROUND + 10 {
            File::create(many.path().join(number.to_string())).unwrap();
        }
        let mut walk = Walk::begin(many.path()).unwrap();
        assert!(walk.round());
        assert_eq!(walk.stored.entries, ROUND);
        assert!(!walk.round());
        assert_eq!(walk.stored.entries, ROUND + 10);
    }
}
