//! The folders of one workload.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use blueprint_agent_workload_core::label;
use blueprint_common_types::workload::{Seat, Volume};

use crate::users::Users;

/// Name of the socket in its folder.
pub(crate) const SOCKET: &str = "bridge.sock";

/// What `statfs` says of a file system in memory.
const IN_MEMORY: [nix::sys::statfs::FsType; 1] = [nix::sys::statfs::TMPFS_MAGIC];

/// Folders of one workload; the agent's, and those that it is given.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    /// Kept from one start to the next.
    pub(crate) data: PathBuf,
    /// In memory, gone with the workload.
    pub(crate) runtime: PathBuf,
    /// Folder of the socket alone, so that a container sees nothing else of what is in memory.
    pub(crate) bridge: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) keystore: PathBuf,
    /// Of what it writes; the agent's alone.
    pub(crate) logs: PathBuf,
}

impl Folders {
    pub(crate) fn of(state: &Path, runtime: &Path, seat: Seat, name: &str) -> Self {
        let service = seat.service;
        let name = if name.is_empty() { "service" } else { name };
        let runtime = runtime.join(label(seat));
        Self {
            // The Manager's name, in a folder of the service's own: two services of a blueprint share no data, two
            // versions of a service do.
            data: state
                .join("data")
                .join(label(Seat::first(service)))
                .join(format!("blueprint-{}-{name}", service.blueprint)),
            bridge: runtime.join("bridge"),
            socket: runtime.join("bridge").join(SOCKET),
            keystore: runtime.join("keystore"),
            logs: crate::logs::folder(state, seat),
            runtime,
        }
    }

    /// Makes them, and gives them to the workload; says whose they are. `users` has those that workloads get; `None` for
    /// none of their own.
    pub(crate) fn create(&self, users: Option<&Users>) -> io::Result<Option<(u32, u32)>> {
        for folder in [&self.data, &self.runtime, &self.bridge] {
            let parents = folder.parent().map(fs::create_dir_all).transpose();
            parents?;
            make(folder)?;
        }
        let Some(users) = users else { return Ok(None) };
        let user = users.assign(&self.data)?;
        // What else it is given stays ours, so that it can put nothing in its place.
        let above = self.data.ancestors().skip(1).take(2).chain(self.runtime.parent());
        for parent in above.chain([self.bridge.as_path(), self.runtime.as_path()]) {
            // To be passed, not to be listed.
            let mode = fs::metadata(parent)?.permissions().mode();
            fs::set_permissions(parent, fs::Permissions::from_mode(mode | 0o011))?;
        }
        Ok(Some((user, user)))
    }

    /// Folder of a volume. It lies beside the data, so that no workload puts a link in its place.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.service().join(format!("volume-{name}"))
    }

    /// Makes the folders of its volumes, and gives them to the user that has its data.
    pub(crate) fn create_volumes(&self, volumes: &[Volume], user: Option<(u32, u32)>) -> io::Result<()> {
        for volume in volumes {
            let folder = self.volume(&volume.name);
            make(&folder)?;
            // Its data may be another's by now, as where the blueprint has another name.
            if let Some(user) = user.filter(|user| fs::metadata(&folder).is_ok_and(|it| it.uid() != user.0)) {
                give(&folder, user)?;
            }
        }
        Ok(())
    }

    /// The folder whose size its limit of storage bounds: its data alone, or with volumes all that the service has.
    pub(crate) fn measured(&self, volumes: &[Volume]) -> &Path {
        if volumes.is_empty() { &self.data } else { self.service() }
    }

    fn service(&self) -> &Path {
        self.data.parent().unwrap_or(&self.data)
    }

    /// Whether what is written to the runtime folder stays off the disk.
    pub(crate) fn is_in_memory(&self) -> bool {
        let kind = nix::sys::statfs::statfs(&self.runtime).map(|stat| stat.filesystem_type());
        kind.is_ok_and(|kind| IN_MEMORY.contains(&kind))
    }

    /// Removes what is in memory.
    pub(crate) fn remove_runtime(&self) {
        if let Err(error) = fs::remove_dir_all(&self.runtime)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %self.runtime.display(), %error, "folder in memory not removed");
        }
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// Gives a folder that was just made with everything in it to a user; the folder last, so that nobody else has changed
/// it meanwhile.
pub(crate) fn give(path: &Path, user: (u32, u32)) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), user)?;
        }
    }
    std::os::unix::fs::lchown(path, Some(user.0), Some(user.1))
}
