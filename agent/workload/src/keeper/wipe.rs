//! How keys leave memory with a workload, also where no agent is left that would remove them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::folders::Folders;
use crate::launch::say;
use crate::removal::remove_tree;

/// The folder in memory of one start of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wipe {
    runtime: PathBuf,
    keystore: PathBuf,
    /// Device and number of the folder: the next agent makes another one in its place.
    id: (u64, u64),
}

impl Wipe {
    /// Takes note of the folder, which is there.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub(crate) fn of(folders: &Folders) -> io::Result<Self> {
        let (runtime, keystore) = (folders.runtime.clone(), folders.keystore.clone());
        Ok(Self { id: id(&runtime)?, runtime, keystore })
    }

    /// Removes the keys. An agent that starts the workload again writes them anew.
    pub(super) fn keys(&self) {
        self.remove(&self.keystore);
    }

    /// Removes all that it had in memory, once nobody else does.
    pub(super) fn all(&self) {
        self.remove(&self.runtime);
    }

    fn remove(&self, folder: &Path) {
        if !id(&self.runtime).is_ok_and(|id| id == self.id) {
            return;
        }
        if let Err(error) = remove_tree(folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            say(&format!("{} stays in memory: {error}", folder.display()));
        }
    }
}

fn id(folder: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(folder).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::ServiceKey;
    use blueprint_common_types::workload::Seat;

    use super::*;

    #[test]
    fn the_folder_of_another_start_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let seat = Seat::first(ServiceKey { blueprint: 7, service: 42 });
        let folders = Folders::of(&place.path().join("state"), &place.path().join("run"), seat, "demo");
        folders.create(None).unwrap();
        fs::create_dir(&folders.keystore).unwrap();
        fs::write(folders.keystore.join("key"), "secret").unwrap();
        let wipe = Wipe::of(&folders).unwrap();
        // Another agent made it anew, while the old folder is there still and has its number.
        fs::rename(&folders.runtime, place.path().join("old")).unwrap();
        folders.create(None).unwrap();
        fs::create_dir(&folders.keystore).unwrap();
        wipe.keys();
        wipe.all();
        assert!(folders.keystore.exists() && folders.bridge.exists(), "it is another's");
        let own = Wipe::of(&folders).unwrap();
        own.keys();
        assert!(!folders.keystore.exists() && folders.bridge.exists());
        own.all();
        assert!(!folders.runtime.exists());
        own.all();
    }
}
