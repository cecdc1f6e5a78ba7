//! The folders of one workload.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use blueprint_agent_workload_core::label;
use blueprint_agent_workload_core::storage::MAX_DEPTH;
use blueprint_common_types::workload::{Seat, Volume};
use nix::fcntl::AtFlags;
use nix::unistd::{Gid, Uid, fchownat};

use crate::removal::remove_tree;
use crate::storage::Level;
use crate::users::Users;
use crate::volumes::{PREFIX, ROOT, VolumeLease};

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
        self.service().join(format!("{PREFIX}{name}"))
    }

    /// Makes the folders of its volumes, and gives them to the user that has its data, until `is_over`. They are in use of
    /// this assignment until what is returned is dropped; `None` where workloads get no users of their own. It blocks its thread.
    ///
    /// # Errors
    ///
    /// Those of the file system; another version uses one of them as another user.
    pub(crate) fn create_volumes(
        &self,
        volumes: &[Volume],
        user: Option<(u32, u32)>,
        (users, of): (Option<&Users>, (Seat, u64)),
        is_over: &dyn Fn() -> bool,
    ) -> io::Result<Option<VolumeLease>> {
        let folders: Vec<PathBuf> = volumes.iter().map(|volume| self.volume(&volume.name)).collect();
        for folder in &folders {
            make(folder)?;
        }
        let Some(users) = users else { return Ok(None) };
        let lease = users.volumes().claim(folders, user.map_or(ROOT, |(user, _)| user), of)?;
        for folder in lease.folders() {
            // Its data may be another's by now, as where the blueprint has another name.
            if let Some(user) = user.filter(|user| fs::metadata(folder).is_ok_and(|it| it.uid() != user.0)) {
                give(folder, user, is_over)?;
            }
        }
        Ok(Some(lease))
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
        if let Err(error) = remove_tree(&self.runtime)
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

/// Gives a folder with everything in it to a user, until `is_over`. Whoever writes to it meanwhile cannot lead this
/// elsewhere: folders are opened below the one that is open already, no link is followed and no mount entered. It blocks
/// its thread.
pub(crate) fn give(path: &Path, user: (u32, u32), is_over: &dyn Fn() -> bool) -> io::Result<()> {
    let top = Level::open(path)?;
    let mount = top.mount;
    // The folder is the user's last: one that was given in part is given anew.
    fchown(&top.folder, Some(ROOT), Some(ROOT))?;
    let mut levels = vec![top];
    while let Some(level) = levels.last_mut() {
        if is_over() {
            return Err(io::Error::other("its end was asked for"));
        }
        let Some(entry) = level.entries.next() else {
            fchown(&level.folder, Some(user.0), Some(user.1))?;
            levels.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        let below = entry.file_type().and_then(|kind| {
            if kind.is_dir() {
                level.below(&name).map(Some)
            } else {
                give_entry(level, &name, user).map(|()| None)
            }
        });
        match below {
            Ok(None) => {}
            Ok(Some(below)) if below.mount != mount => {}
            Ok(Some(_)) if levels.len() >= MAX_DEPTH => {
                let reason = format!("folders are more than {MAX_DEPTH} deep in {}", path.display());
                return Err(io::Error::other(reason));
            }
            Ok(Some(below)) => levels.push(below),
            // It is gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives what is no folder, and a link itself.
fn give_entry(level: &Level, name: &OsStr, user: (u32, u32)) -> io::Result<()> {
    let (owner, group) = (Uid::from_raw(user.0), Gid::from_raw(user.1));
    fchownat(&level.folder, name, Some(owner), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn owner(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().uid()
    }

    #[test]
    fn what_links_lead_to_is_not_given() {
        // Only root gives files away.
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (place, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (volume, kept) = (place.path().join("volume"), outside.path().join("kept"));
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::write(volume.join("a/b/file"), "x").unwrap();
        symlink(&kept, volume.join("a/link")).unwrap();
        let user = (61_202, 61_202);
        assert!(give(&volume, user, &|| true).is_err());
        assert_eq!(owner(&volume), ROOT, "it is not given in part");
        give(&volume, user, &|| false).unwrap();
        for name in ["", "a", "a/b", "a/b/file", "a/link"] {
            assert_eq!(owner(&volume.join(name)), user.0, "{name}");
        }
        assert_eq!((owner(&kept), owner(&kept.join("file"))), (ROOT, ROOT));
        // A link in the place of the folder itself.
        symlink(&kept, place.path().join("link")).unwrap();
        assert!(give(&place.path().join("link"), user, &|| false).is_err());
        assert_eq!(owner(&kept), ROOT);
        let deep = (0..=MAX_DEPTH).fold(volume.clone(), |path, _| path.join("d"));
        fs::create_dir_all(deep).unwrap();
        assert!(give(&volume, user, &|| false).unwrap_err().to_string().contains("deep"));
    }
}
