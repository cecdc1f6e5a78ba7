//! The folder of artefacts: what is in it, what is in use, and what goes when it gets too large.
//!
//! ```text
//! lock              held while an agent uses the folder
//! SHA256/           one artefact, read-only; its time of modification is that of its last use
//!   about.json      digests, sizes, programs
//!   files/          what was unpacked, or the one program
//! .part-N .new-N    what is fetched and unpacked; removed at the start
//! .gone-N           what is removed
//! ```

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use blueprint_common_types::workload::{Blake3Digest, Sha256Digest};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{ArtefactError, OpenError};

/// Version of [`About`] on disk.
const SCHEMA: u32 = 1;

/// Room that is left on the disk for others.
const RESERVE_BYTES: u64 = 4 << 20;

/// What is known of an artefact; `about.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// Version of this form.
    pub(super) schema: u32,
    /// By both functions, whatever was asked for first.
    pub(super) sha256: Sha256Digest,
    pub(super) blake3: Blake3Digest,
    /// Bytes of the file that was fetched.
    pub(super) file_bytes: u64,
    /// Bytes that it takes on the disk.
    pub(super) disk_bytes: u64,
    /// Whether `files` holds the file itself, and not what was in it.
    pub(super) is_program: bool,
    /// Paths within `files` of what can be the program, the first few.
    pub(super) programs: Vec<String>,
}

impl About {
    pub(super) const fn new(sha256: Sha256Digest, blake3: Blake3Digest, file_bytes: u64) -> Self {
        Self {
            schema: SCHEMA,
            sha256,
            blake3,
            file_bytes,
            disk_bytes: 0,
            is_program: false,
            programs: Vec::new(),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    max_bytes: u64,
    next: AtomicU64,
    /// How often each artefact is in use. Names of artefacts come and go under this lock.
    in_use: Mutex<BTreeMap<Sha256Digest, usize>>,
    _lock: Flock<File>,
}

/// Keeps one artefact from being removed.
#[derive(Debug)]
pub(super) struct Hold {
    cache: Arc<Cache>,
    about: About,
}

impl Hold {
    pub(super) const fn about(&self) -> &About {
        &self.about
    }

    /// Where its files are.
    pub(super) fn files(&self) -> PathBuf {
        self.cache.place(&self.about.sha256).join("files")
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut in_use = self.cache.in_use.lock();
        if let Some(count) = in_use.get_mut(&self.about.sha256) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                in_use.remove(&self.about.sha256);
            }
        }
    }
}

/// A path that is removed when dropped, file or folder.
#[derive(Debug)]
pub(super) struct Temporary(PathBuf);

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            warn!(path = ?self.0, %error, "a temporary file of an artefact cannot be removed");
        }
    }
}

impl Cache {
    /// Opens the folder, made where it is missing, and removes what a crash left.
    pub(super) fn open(folder: &Path, max_bytes: u64) -> Result<Self, OpenError> {
        let failed =
            |what| move |source: io::Error| OpenError::Folder { path: folder.to_owned(), what, source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("cannot be made"))?;
        let folder = fs::canonicalize(folder).map_err(failed("cannot be found"))?;
        // Users of workloads pass it and do not list it: who knows a digest may read what has it.
        fs::set_permissions(&folder, Permissions::from_mode(0o711)).map_err(failed("is not ours"))?;
        let mut options = OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(folder.join("lock"));
        let lock = lock.map_err(failed("cannot be written to"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
            if error == nix::errno::Errno::EWOULDBLOCK {
                OpenError::InUse(folder.clone())
            } else {
                failed("cannot be locked")(error.into())
            }
        })?;
        for entry in fs::read_dir(&folder).map_err(failed("cannot be listed"))? {
            let entry = entry.map_err(failed("cannot be listed"))?;
            let name = entry.file_name();
            let is_left = [".part-", ".new-", ".gone-"].iter().any(|start| {
                name.to_str()
                    .and_then(|name| name.strip_prefix(start))
                    .is_some_and(|n| n.parse::<u64>().is_ok())
            });
            if is_left {
                remove(&entry.path()).map_err(failed("holds leftovers that cannot be removed"))?;
                info!(?name, "removed what an earlier agent left in the cache of artefacts");
            }
        }
        Ok(Self { folder, max_bytes, next: AtomicU64::new(0), in_use: Mutex::default(), _lock: lock })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn place(&self, sha256: &Sha256Digest) -> PathBuf {
        self.folder.join(sha256.to_string())
    }

    fn temporary(&self, kind: &str) -> Temporary {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Temporary(self.folder.join(format!(".{kind}-{number}")))
    }

    /// An empty file, mode 0600.
    pub(super) fn new_file(&self) -> Result<(File, Temporary), ArtefactError> {
        let temporary = self.temporary("part");
        let mut options = OpenOptions::new();
        let made = options.read(true).write(true).create_new(true).mode(0o600).open(temporary.path());
        let file = made.map_err(|why| super::disk_error("make", temporary.path(), why))?;
        Ok((file, temporary))
    }

    /// A folder with an empty folder `files` in it, mode 0700.
    pub(super) fn new_folder(&self) -> Result<Temporary, ArtefactError> {
        let temporary = self.temporary("new");
        let made = DirBuilder::new().mode(0o700).recursive(true).create(temporary.path().join("files"));
        made.map_err(|why| super::disk_error("make", temporary.path(), why))?;
        Ok(temporary)
    }

    /// An artefact that is there, marked as used now. One whose description cannot be read is as good as not there.
    pub(super) fn look_up(self: &Arc<Self>, sha256: Sha256Digest) -> Option<Hold> {
        let mut in_use = self.in_use.lock();
        let about = self.about(&sha256)?;
        let place = self.place(&sha256);
        if let Err(error) = File::open(&place).and_then(|place| place.set_modified(SystemTime::now())) {
            warn!(path = ?place, %error, "the time of use of an artefact cannot be noted");
        }
        let count = in_use.entry(sha256).or_default();
        *count = count.saturating_add(1);
        Some(Hold { cache: Arc::clone(self), about })
    }

    /// Whether somebody holds the artefact.
    pub(super) fn is_in_use(&self, sha256: &Sha256Digest) -> bool {
        self.in_use.lock().contains_key(sha256)
    }

    fn about(&self, sha256: &Sha256Digest) -> Option<About> {
        let bytes = fs::read(self.place(sha256).join("about.json")).ok()?;
        let about: About = serde_json::from_slice(&bytes).ok()?;
        (about.schema == SCHEMA && about.sha256 == *sha256).then_some(about)
    }

    /// Gives a folder its final name, from when on it is there for everybody.
    pub(super) fn commit(self: &Arc<Self>, made: Temporary, about: &About) -> Result<Hold, ArtefactError> {
        let failed = |why| super::disk_error("write", made.path(), why);
        let text = serde_json::to_vec(about).map_err(|error| failed(error.into()))?;
        let mut options = OpenOptions::new();
        let path = made.path().join("about.json");
        let mut file = options.write(true).create_new(true).mode(0o400).open(path).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::set_permissions(made.path(), Permissions::from_mode(0o555)).map_err(failed)?;
        sync(made.path()).map_err(failed)?;
        let place = self.place(&about.sha256);
        let mut in_use = self.in_use.lock();
        if place.exists() && !in_use.contains_key(&about.sha256) {
            self.discard(&place).map_err(failed)?;
        }
        fs::rename(made.path(), &place).map_err(failed)?;
        let count = in_use.entry(about.sha256).or_default();
        *count = count.saturating_add(1);
        drop(in_use);
        let hold = Hold { cache: Arc::clone(self), about: about.clone() };
        sync(&self.folder).map_err(|why| super::disk_error("write", &self.folder, why))?;
        self.trim(0);
        Ok(hold)
    }

    /// Sees to it that `bytes` more fit, on the disk and as far as possible into the cache.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), ArtefactError> {
        self.trim(bytes);
        let free = self.free_bytes()?;
        if free < bytes.saturating_add(RESERVE_BYTES) {
            let what = format!("{bytes} bytes are needed and {free} are free");
            return Err(ArtefactError::DiskFull { folder: self.folder.clone(), what });
        }
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, ArtefactError> {
        let failed = |errno: nix::errno::Errno| super::disk_error("measure", &self.folder, errno.into());
        let found = statvfs(&self.folder).map_err(failed)?;
        Ok(found.blocks_available().saturating_mul(found.fragment_size()))
    }

    /// Removes what was used least recently and is not in use, until `bytes` more fit.
    fn trim(&self, bytes: u64) {
        let mut found: Vec<(SystemTime, u64, Sha256Digest)> = self.list();
        found.sort_unstable();
        let mut total = found.iter().fold(bytes, |sum, (_, size, _)| sum.saturating_add(*size));
        let is_short = || self.free_bytes().is_ok_and(|free| free < bytes.saturating_add(RESERVE_BYTES));
        for (_, size, sha256) in found {
            if total <= self.max_bytes && !is_short() {
                return;
            }
            let in_use = self.in_use.lock();
            if in_use.contains_key(&sha256) {
                continue;
            }
            match self.discard(&self.place(&sha256)) {
                Ok(gone) => {
                    drop(in_use);
                    drop(gone);
                    total = total.saturating_sub(size);
                    info!(%sha256, size, "removed an artefact that was not used for long");
                }
                Err(error) => warn!(%sha256, %error, "an artefact cannot be removed"),
            }
        }
    }

    /// Takes away the name of an artefact; what is returned removes its files. Called under the lock.
    fn discard(&self, place: &Path) -> io::Result<Temporary> {
        let gone = self.temporary("gone");
        fs::rename(place, gone.path())?;
        Ok(gone)
    }

    /// Time of last use, size and digest of everything.
    fn list(&self) -> Vec<(SystemTime, u64, Sha256Digest)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let digest = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse::<Sha256Digest>().ok();
        let described = |entry: fs::DirEntry| {
            let sha256 = digest(&entry)?;
            let used = entry.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            Some((used, self.about(&sha256).map_or(0, |about| about.disk_bytes), sha256))
        };
        entries.filter_map(described).collect()
    }
}

/// Has the names in a folder written to disk.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a file, or a folder with everything in it though it is read-only; nothing there is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => {
            unlock(path)?;
            fs::remove_dir_all(path)
        }
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lets the owner write to a folder and all in it. There are no links in it.
fn unlock(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}
