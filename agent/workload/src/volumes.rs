//! Who uses the volumes of services now: two versions of a service share them, and one must not lose them to the other.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// Who a workload without a user of its own is: the engine's root.
pub(crate) const ROOT: u32 = 0;

/// How many instances use each volume, and as which user.
#[derive(Debug, Clone, Default)]
pub(crate) struct VolumeUses(Arc<Mutex<BTreeMap<(PathBuf, u32), usize>>>);

/// The volumes that an instance uses until this is dropped.
#[derive(Debug)]
pub(crate) struct VolumeLease {
    uses: VolumeUses,
    folders: Vec<PathBuf>,
    user: u32,
}

impl VolumeUses {
    /// An instance is to use these folders as a user, to whom they may have to be given.
    ///
    /// # Errors
    ///
    /// Another instance uses one of them as somebody else, or is being given it.
    pub(crate) fn claim(&self, folders: Vec<PathBuf>, user: u32) -> io::Result<VolumeLease> {
        let mut uses = self.0.lock();
        // Root takes nothing away from others.
        for folder in folders.iter().filter(|_| user != ROOT) {
            let is_given = fs::symlink_metadata(folder)?.uid() == user;
            let mut others = uses.keys().filter(|(used, _)| used == folder).map(|(_, other)| *other);
            let other = others.find(|other| !is_given || (*other != user && *other != ROOT));
            if let Some(other) = other {
                return Err(io::Error::other(in_use(folder, other, user)));
            }
        }
        for folder in &folders {
            let count = uses.entry((folder.clone(), user)).or_default();
            *count = count.saturating_add(1);
        }
        drop(uses);
        Ok(VolumeLease { uses: self.clone(), folders, user })
    }
}

fn in_use(folder: &Path, other: u32, user: u32) -> String {
    let folder = folder.display();
    if other == user {
        return format!("{folder} is being given to user {user}; it is tried again");
    }
    format!(
        "{folder} is in use by another version of this service, which runs as user {other}, so user {user} does not \
         get it: end that version first, as an update by `recreate` does, or keep the name and `own_user` of the \
         document as they were"
    )
}

impl VolumeLease {
    pub(crate) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }
}

impl Drop for VolumeLease {
    fn drop(&mut self) {
        let mut uses = self.uses.0.lock();
        for folder in &self.folders {
            let key = (folder.clone(), self.user);
            let left = uses.get(&key).copied().unwrap_or_default().saturating_sub(1);
            if left == 0 {
                uses.remove(&key);
            } else {
                uses.insert(key, left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_not_taken_away_from_another_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = || vec![folder.path().to_owned()];
        // Whose it is already; no test needs to be root for that.
        let (owner, next) = (fs::metadata(folder.path()).unwrap().uid(), 61_201);
        let uses = VolumeUses::default();
        let (first, second) = (uses.claim(path(), owner).unwrap(), uses.claim(path(), owner).unwrap());
        let error = uses.claim(path(), next).unwrap_err().to_string();
        assert!(error.contains(&format!("runs as user {owner}")) && error.contains("recreate"), "{error}");
        drop(first);
        assert!(uses.claim(path(), next).is_err(), "the other one counts");
        drop(second);
        let giving = uses.claim(path(), next).unwrap();
        assert!(uses.claim(path(), next).unwrap_err().to_string().contains("is being given"));
        if owner != ROOT {
            assert!(uses.claim(path(), owner).is_err(), "it is about to lose it");
        }
        assert!(uses.claim(path(), ROOT).is_ok());
        drop(giving);
        let root = uses.claim(path(), ROOT).unwrap();
        assert!(uses.claim(path(), next).is_err(), "root's is another's, too");
        assert!(uses.claim(path(), owner).is_ok());
        drop(root);
        assert!(uses.claim(path(), next).is_ok());
        assert!(uses.0.lock().is_empty());
    }
}
