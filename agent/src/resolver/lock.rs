//! One writer at a time: agents of a machine that share `/etc/resolv.conf` take turns.
//!
//! The lock is on a file beside it that nobody but its maker may open, so that no workload can hold the agents up; it is there while
//! somebody holds it. Where that folder takes no files, the lock is on the file itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::{Instant, sleep};

use super::ResolverError;

/// Longest wait for the others: each of them reads and writes one short file.
const PATIENCE: Duration = Duration::from_secs(3);

/// Time between two tries.
const AGAIN: Duration = Duration::from_millis(20);

/// The right to write the file, until dropped.
#[derive(Debug)]
pub(super) struct Turn {
    /// Removed before the lock goes; `None` where the file itself is locked.
    beside: Option<PathBuf>,
    _lock: Flock<File>,
}

impl Turn {
    /// Waits for the turn to write `path`.
    ///
    /// # Errors
    ///
    /// [`ResolverError::Held`] where it does not come in time, [`ResolverError::File`] where nothing can be locked.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing locked.
    pub(super) async fn wait(path: &Path) -> Result<Self, ResolverError> {
        Self::wait_for(path, PATIENCE).await
    }

    async fn wait_for(path: &Path, patience: Duration) -> Result<Self, ResolverError> {
        let beside = path.with_extension("conf.blueprint-agent.lock");
        let until = Instant::now() + patience;
        loop {
            match Self::take(path, &beside) {
                Ok(Some(turn)) => return Ok(turn),
                Ok(None) if Instant::now() < until => sleep(AGAIN).await,
                Ok(None) => {
                    let lock = if beside.exists() { beside } else { path.to_owned() };
                    return Err(ResolverError::Held { lock, patience });
                }
                Err(source) => return Err(ResolverError::File { action: "lock", path: beside, source }),
            }
        }
    }

    /// Tries once; `None` where another has it.
    fn take(path: &Path, beside: &Path) -> io::Result<Option<Self>> {
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(beside);
        let (file, beside) = match opened {
            Ok(file) => (file, Some(beside.to_owned())),
            Err(error)
                if matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied) =>
            {
                (File::open(path)?, None)
            }
            Err(error) => return Err(error),
        };
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        };
        // Who had it before has removed it: the next one makes another.
        if is_at(&lock, beside.as_deref().unwrap_or(path))? {
            Ok(Some(Self { beside, _lock: lock }))
        } else {
            Ok(None)
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            // One that stays is taken over by the next writer.
            let _ = fs::remove_file(beside);
        }
    }
}

/// Whether `path` still leads to the open file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((own.dev(), own.ino()) == (found.dev(), found.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_in_vain_is_told_what_to_look_at_and_a_lock_of_a_killed_agent_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let lock = folder.path().join("resolv.conf.blueprint-agent.lock");
        fs::write(&lock, "").unwrap();
        let turn = Turn::wait(&path).await.unwrap();
        let error = Turn::wait_for(&path, AGAIN * 2).await.unwrap_err();
        assert!(matches!(error, ResolverError::Held { .. }), "{error}");
        assert!(error.to_string().contains(&format!("fuser {}", lock.display())), "{error}");
        drop(turn);
        assert!(!lock.exists(), "nothing stays");
        Turn::wait(&path).await.unwrap();
        let gone = folder.path().join("no").join("resolv.conf");
        assert!(matches!(Turn::wait(&gone).await, Err(ResolverError::File { action: "lock", .. })));
    }
}
