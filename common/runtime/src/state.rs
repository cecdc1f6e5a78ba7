//! The folder in which a process keeps what must outlive it, private to its user and used by one process.
//!
//! Invariants:
//! - the folder is 0700 and each file in it 0600, from the moment they exist;
//! - a reader sees the old content of a file or the new one, whole, also after a power cut;
//! - two processes never write to one folder: the lock dies with its process, so none is ever stale.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Name of the lock in the folder.
const LOCK: &str = "lock";

/// End of the name of a file that is being written; what a crash left of them is removed at the next open.
const UNFINISHED: &str = ".unfinished";

/// Largest file that [`StateDir::read`] takes in.
const MAX_READ_BYTES: u64 = 64 * 1024 * 1024;

/// Why the folder, or a file in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Others than the owner may enter it.
    #[error("{} is accessible to others (mode {mode:04o}): chmod 700 {}", path.display(), path.display())]
    TooOpen {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to user {owner}, not to user {user} who runs this", path.display())]
    WrongOwner {
        /// The folder.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who runs the process.
        user: u32,
    },
    /// Something else than a folder has its name.
    #[error("{} is not a folder", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The folder does not exist, and is not for this command to make.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// Another process holds the lock.
    #[error("{} is in use by another process (pid {})", path.display(), pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()))]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process, where it wrote its number.
        pid: Option<u32>,
    },
    /// The name is not that of a file right in the folder.
    #[error("{name:?} is not a plain file name")]
    BadName {
        /// The name.
        name: String,
    },
    /// Neither `XDG_STATE_HOME` nor `HOME` says where an ordinary user keeps state.
    #[error("cannot tell where to keep state: neither XDG_STATE_HOME nor HOME is set")]
    NoHome,
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What a file holds. Both kinds are written 0600; the word stands at the call for who reads the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A key, a token or a certificate with its key.
    Secret,
    /// Anything else.
    Plain,
}

impl Mode {
    /// Permission bits of a file of this kind.
    const fn bits(self) -> u32 {
        match self {
            Self::Secret | Self::Plain => 0o600,
        }
    }
}

/// A private folder; see the module for what it guarantees. Clones share the lock.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
    /// Held while any clone lives; missing for [`StateDir::open_shared`].
    _lock: Option<Arc<Flock<File>>>,
}

impl StateDir {
    /// Opens the folder for the one process that owns it, and makes it where it is missing.
    ///
    /// # Errors
    ///
    /// Refuses a folder that others may enter or own, and one that another process has open.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StateError> {
        let path = path.as_ref();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        if let Err(source) = made
            && source.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(StateError::Io { action: "create", path: path.to_owned(), source });
        }
        check_folder(path, false)?;
        let lock = take_lock(path)?;
        let dir = Self { path: path.to_owned(), _lock: Some(Arc::new(lock)) };
        dir.remove_unfinished()?;
        Ok(dir)
    }

    /// Opens an existing folder beside the process that owns it, for a command that reads or writes one file.
    ///
    /// # Errors
    ///
    /// Refuses a folder that is missing, that others may enter, or that another ordinary user owns.
    pub fn open_shared(path: impl AsRef<Path>) -> Result<Self, StateError> {
        let path = path.as_ref();
        check_folder(path, true)?;
        Ok(Self { path: path.to_owned(), _lock: None })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// Path of the file or folder `name` in it, whether or not it exists.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Replaces the file `name` whole, or makes it; it is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// [`StateError::BadName`] for a name with a `/`; [`StateError::Io`] when the disk refuses, and then the old
    /// file is as it was.
    pub fn write(&self, name: &str, bytes: &[u8], mode: Mode) -> Result<(), StateError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        let to = self.checked_path(name)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let beside = self.path.join(format!(".{name}.{}.{number}{UNFINISHED}", std::process::id()));
        let done = write_synced(&beside, bytes, mode)
            .and_then(|()| fs::rename(&beside, &to))
            .and_then(|()| File::open(&self.path)?.sync_all());
        done.map_err(|source| {
            // Best effort: it is gone already where the rename was done, and swept at the next open otherwise.
            let _ = fs::remove_file(&beside);
            StateError::Io { action: "write", path: to, source }
        })
    }

    /// Content of the file `name`, `None` where it does not exist.
    ///
    /// # Errors
    ///
    /// [`StateError::BadName`] for a name with a `/`; [`StateError::Io`] when the disk refuses or the file has
    /// more than 64 MiB.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.checked_path(name)?;
        let failed = |source| StateError::Io { action: "read", path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if file.metadata().map_err(failed)?.len() > MAX_READ_BYTES {
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "more than 64 MiB")));
        }
        let mut bytes = Vec::new();
        file.take(MAX_READ_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
    }

    /// Removes the file `name`; `false` where there was none.
    ///
    /// # Errors
    ///
    /// [`StateError::BadName`] for a name with a `/`; [`StateError::Io`] when the disk refuses.
    pub fn remove(&self, name: &str) -> Result<bool, StateError> {
        let path = self.checked_path(name)?;
        let done = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            done => done.and_then(|()| File::open(&self.path)?.sync_all()),
        };
        done.map_err(|source| StateError::Io { action: "remove", path, source })?;
        Ok(true)
    }

    /// Path of `name`, if it is one plain component.
    fn checked_path(&self, name: &str) -> Result<PathBuf, StateError> {
        let mut components = Path::new(name).components();
        match (components.next(), components.next()) {
            (Some(Component::Normal(only)), None) if only == name => Ok(self.path.join(only)),
            _ => Err(StateError::BadName { name: name.to_owned() }),
        }
    }

    /// Removes what writes that a crash cut short left behind.
    fn remove_unfinished(&self) -> Result<(), StateError> {
        let failed = |source| StateError::Io { action: "clean up", path: self.path.clone(), source };
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(UNFINISHED)) {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Where the program `name` keeps its state: `/var/lib/NAME` for root, else below the user's state folder.
///
/// # Errors
///
/// [`StateError::NoHome`] for an ordinary user without `XDG_STATE_HOME` and `HOME`.
pub fn default_path(name: &str) -> Result<PathBuf, StateError> {
    let is_root = nix::unistd::geteuid().is_root();
    default_path_for(name, is_root, std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"))
}

/// The rule of [`default_path`] without the process around it.
fn default_path_for(
    name: &str,
    is_root: bool,
    state_home: Option<std::ffi::OsString>,
    home: Option<std::ffi::OsString>,
) -> Result<PathBuf, StateError> {
    if is_root {
        return Ok(Path::new("/var/lib").join(name));
    }
    // The XDG base directory specification has relative paths ignored.
    let absolute = |path: std::ffi::OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    state_home
        .and_then(absolute)
        .or_else(|| home.and_then(absolute).map(|home| home.join(".local/state")))
        .map(|base| base.join(name))
        .ok_or(StateError::NoHome)
}

/// Refuses a folder that is not private to who runs the process; root may look into anybody's when `for_root`.
fn check_folder(path: &Path, for_root: bool) -> Result<(), StateError> {
    let path = path.to_owned();
    let found = match fs::metadata(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StateError::Missing { path }),
        Err(source) => return Err(StateError::Io { action: "look at", path, source }),
    };
    if !found.is_dir() {
        return Err(StateError::NotAFolder { path });
    }
    let user = nix::unistd::geteuid();
    if found.uid() != user.as_raw() && !(for_root && user.is_root()) {
        return Err(StateError::WrongOwner { path, owner: found.uid(), user: user.as_raw() });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::TooOpen { path, mode });
    }
    Ok(())
}

/// Takes the lock of the folder and writes this process's number into it.
fn take_lock(folder: &Path) -> Result<Flock<File>, StateError> {
    let path = folder.join(LOCK);
    let failed = |source| StateError::Io { action: "lock", path: path.clone(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            // The number is a help for people; a lock without one is held all the same.
            let _ = file.take(16).read_to_string(&mut text);
            return Err(StateError::InUse { path: folder.to_owned(), pid: text.trim().parse().ok() });
        }
        Err((_, errno)) => return Err(failed(errno.into())),
    };
    lock.set_len(0).map_err(failed)?;
    lock.rewind().map_err(failed)?;
    writeln!(lock, "{}", std::process::id()).map_err(failed)?;
    Ok(lock)
}

/// Makes the file, which must not exist, and has it on the disk.
fn write_synced(path: &Path, bytes: &[u8], mode: Mode) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode.bits()).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
