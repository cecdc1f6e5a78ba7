//! Measures what a workload keeps in its data folder, and in files that it has removed there and still holds open.
//!
//! Invariants:
//! - no link is followed and no folder is entered that is mounted there, whatever the workload puts in the way meanwhile:
//!   each folder is opened below the one that is open already;
//! - a round looks at [`ROUND`] entries or open files at most, on a thread of its own, and rounds of all workloads take turns;
//! - what has several names, or gets others meanwhile, counts once.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions, ReadDir};
use std::future::pending;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blueprint_agent_workload_core::storage::{
    MAX_DEPTH, MAX_ENTRIES, MAX_OPEN, OverStorage, StorageBound, Stored,
};
use blueprint_common_runtime::tasks::Spawner;
use nix::libc::{O_DIRECTORY, O_NOFOLLOW};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use crate::tree;

/// Entries and open files of one round.
const ROUND: u64 = 10_000;

/// Rounds at once, of all workloads.
static TURN: Semaphore = Semaphore::const_new(2);

/// One folder that is open.
#[derive(Debug)]
pub(crate) struct Level {
    pub(crate) folder: File,
    metadata: Metadata,
    /// Number of its mount. Devices would not do: parts of one file system may have several.
    pub(crate) mount: u64,
    pub(crate) entries: ReadDir,
}

impl Level {
    /// Opens a folder; fails where a link is in its place.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let folder = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_DIRECTORY).open(path)?;
        let (metadata, mount) = (folder.metadata()?, mount_of(&folder)?);
        let entries = fs::read_dir(at(&folder))?;
        Ok(Self { folder, metadata, mount, entries })
    }

    /// Opens a folder in this one, wherever this one is by now.
    pub(crate) fn below(&self, name: &OsStr) -> io::Result<Self> {
        Self::open(&at(&self.folder).join(name))
    }
}

/// The path of what is open, whatever becomes of its name.
fn at(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn mount_of(file: &File) -> io::Result<u64> {
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let mount = told.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    mount.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel does not tell its mount"))
}

/// A walk through one folder, and then through what is open.
#[derive(Debug)]
struct Walk {
    levels: Vec<Level>,
    mount: u64,
    /// Devices of what was counted.
    devices: BTreeSet<u64>,
    /// What was counted, by device and number.
    counted: BTreeSet<(u64, u64)>,
    /// Folders of `/proc` whose files are open or mapped and not looked at yet, and the one that is read. `None` while
    /// the walk is among names.
    open: Option<(Vec<PathBuf>, Option<ReadDir>)>,
    stored: Stored,
}

impl Walk {
    fn begin(folder: &Path) -> io::Result<Self> {
        let level = Level::open(folder)?;
        let (mount, devices) = (level.mount, BTreeSet::from([level.metadata.dev()]));
        let (counted, stored) = (BTreeSet::new(), Stored::default());
        Ok(Self { levels: vec![level], mount, devices, counted, open: None, stored })
    }

    /// Goes on for one round; false once it is through.
    fn round(&mut self, holder: Holder) -> bool {
        let mut left = ROUND;
        self.look_at_names(&mut left);
        if self.stored.entries > MAX_ENTRIES {
            return false;
        }
        if left > 0 {
            self.look_at_open(holder, &mut left);
        }
        left == 0 && self.stored.open <= MAX_OPEN
    }

    fn look_at_names(&mut self, left: &mut u64) {
        while let Some(level) = self.levels.last_mut().filter(|_| *left > 0) {
            if self.stored.entries > MAX_ENTRIES {
                return;
            }
            // What cannot be read is gone, or kept from an agent that is an ordinary user.
            let Some(Ok(entry)) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            *left = left.saturating_sub(1);
            self.stored.entries = self.stored.entries.saturating_add(1);
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_dir() {
                self.count(&metadata);
                continue;
            }
            match level.below(&entry.file_name()) {
                Ok(level) if level.mount != self.mount => {}
                Ok(level) if !self.count(&level.metadata) => {}
                Ok(_) if self.levels.len() >= MAX_DEPTH => self.stored.is_too_deep = true,
                Ok(level) => self.levels.push(level),
                Err(_) => {
                    self.count(&metadata);
                }
            }
        }
    }

    /// Adds what was not counted yet; says whether it was not.
    fn count(&mut self, metadata: &Metadata) -> bool {
        let is_new = self.counted.insert((metadata.dev(), metadata.ino()));
        if is_new {
            self.devices.insert(metadata.dev());
            self.stored.bytes = self.stored.bytes.saturating_add(on_disk(metadata));
        }
        is_new
    }

    /// Adds files that have no name any more, and are open or mapped.
    fn look_at_open(&mut self, holder: Holder, left: &mut u64) {
        let (mut folders, mut files) = self.open.take().unwrap_or_else(|| (holder.open(), None));
        while *left > 0 && self.stored.open <= MAX_OPEN {
            let Some(reads) = &mut files else {
                let Some(folder) = folders.pop() else { break };
                // A process that is gone meanwhile has none; reading one takes its time, too.
                files = fs::read_dir(folder).ok();
                *left = left.saturating_sub(1);
                continue;
            };
            let Some(Ok(file)) = reads.next() else {
                files = None;
                continue;
            };
            *left = left.saturating_sub(1);
            self.stored.open = self.stored.open.saturating_add(1);
            // Follows the link of the kernel to the file itself.
            match fs::metadata(file.path()) {
                Ok(metadata) => {
                    let is_removed = metadata.is_file() && metadata.nlink() == 0;
                    if is_removed && holder.may_own(&metadata) && self.devices.contains(&metadata.dev()) {
                        self.count(&metadata);
                    }
                }
                // Whoever may not look at one mapping may look at none.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => files = None,
                Err(_) => {}
            }
        }
        self.open = Some((folders, files));
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
    /// What descends from a keeper, to which all processes come back that lose their parent.
    Keeper(u32),
    /// Nobody that is known.
    Nobody,
}

impl Holder {
    fn processes(self) -> Vec<i32> {
        match self {
            Self::User(user) => tree::of_user(user),
            Self::Process(pid) => i32::try_from(pid)
                .map_or_else(|_| Vec::new(), |pid| tree::descendants(pid).into_iter().chain([pid]).collect()),
            Self::Keeper(pid) => i32::try_from(pid).map_or_else(|_| Vec::new(), tree::descendants),
            Self::Nobody => Vec::new(),
        }
    }

    /// Whether a file that is removed may be of these. A user of its own owns all that it makes; libraries of the system
    /// that were replaced while they are mapped are none of that.
    fn may_own(self, metadata: &Metadata) -> bool {
        match self {
            Self::User(user) => metadata.uid() == user,
            Self::Process(_) | Self::Keeper(_) => true,
            Self::Nobody => false,
        }
    }

    /// Folders of `/proc` with what these processes have open and mapped.
    fn open(self) -> Vec<PathBuf> {
        let of = |pid: i32| ["fd", "map_files"].map(|name| PathBuf::from(format!("/proc/{pid}/{name}")));
        self.processes().into_iter().flat_map(of).collect()
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
            let goes_on = walk.round(holder);
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
    let mut is_told = false;
    loop {
        sleep_until(bound.next().into()).await;
        let (stored, took) = match measure(folder.clone(), holder).await {
            Ok(measured) => measured,
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    warn!(folder = %folder.display(), %error, "a data folder cannot be measured; tried again");
                }
                bound.handle_failed(Instant::now());
                continue;
            }
        };
        if let Some(over) = bound.handle_stored(stored, took, Instant::now()) {
            // A workload that ended meanwhile is not told.
            let _ = sender.send(over);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::waitpid;
    use nix::unistd::Pid;

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
    async fn a_file_that_is_held_by_a_process_without_its_parent_counts() {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let hides = "exec 3>gone; rm gone; head -c 1048576 /dev/zero >&3; exec sleep 60 & echo $!";
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", hides]).current_dir(folder.path()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut left = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut left).unwrap();
        shell.wait().unwrap();
        assert!(of(folder.path(), Holder::Process(shell.id())).await.bytes < 1 << 20);
        let stored = of(folder.path(), Holder::Keeper(std::process::id())).await;
        assert!(stored.bytes >= 1 << 20, "{stored:?}");
        let left = Pid::from_raw(left.trim().parse().unwrap());
        kill(left, Signal::SIGKILL).unwrap();
        waitpid(left, None).unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_removed_and_runs_counts_where_the_kernel_shows_mappings() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("sleep");
        let bytes = fs::copy("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        fs::remove_file(&program).unwrap();
        let mut mapped = fs::read_dir("/proc/self/map_files").unwrap();
        let is_shown = fs::metadata(mapped.next().unwrap().unwrap().path()).is_ok();
        let stored = of(folder.path(), Holder::Keeper(std::process::id())).await;
        assert_eq!(stored.bytes >= bytes, is_shown, "{stored:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn what_is_mounted_does_not_count_whatever_its_device() {
        let mount = |path: &str| Level::open(Path::new(path)).unwrap().mount;
        assert_ne!(mount("/"), mount("/proc"));
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mounted")).unwrap();
        fs::write(folder.path().join("mounted/large"), vec![1; 1 << 20]).unwrap();
        for is_mounted in [false, true] {
            let mut walk = Walk::begin(folder.path()).unwrap();
            walk.mount = if is_mounted { u64::MAX } else { walk.mount };
            assert!(!walk.round(Holder::Nobody));
            assert_eq!(
                (walk.stored.entries, walk.stored.bytes < 1 << 20),
                if is_mounted { (1, true) } else { (2, false) }
            );
        }
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
        assert!(walk.round(Holder::Nobody));
        assert_eq!(walk.stored.entries, ROUND);
        // What has another name by now counts once.
        let before = walk.stored.bytes;
        walk.levels[0].entries = fs::read_dir(many.path()).unwrap();
        assert!(walk.round(Holder::Nobody));
        assert_eq!((walk.stored.entries, walk.stored.bytes), (2 * ROUND, before));
        assert!(!walk.round(Holder::Nobody));
        assert_eq!(walk.stored.entries, 2 * ROUND + 10);
        assert_eq!(walk.counted.len(), usize::try_from(ROUND + 10).unwrap());
    }
}
