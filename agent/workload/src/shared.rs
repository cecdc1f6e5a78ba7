//! What a workload leaves in the folders that all of a machine write to, and how that goes with it.
//!
//! A `/tmp` of its own goes with its last process. `/dev/shm` it shares, and `/tmp` where it has none of its own. What lies
//! there and belongs to its user is its alone, since nobody else has that user.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tracing::warn;

use crate::native::SHARED;
use crate::removal::remove_tree;

/// Removes what a user of workloads has in the folders that all write to; nothing may run as that user any more. It blocks
/// its thread.
pub(crate) fn remove(user: u32) {
    for place in SHARED {
        remove_in(Path::new(place), user);
    }
}

/// Removes the entries of one folder that belong to a user, with all below them.
fn remove_in(place: &Path, user: u32) {
    let mut failed = None;
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let path = entry.path();
        // Not what a link leads to: that may be anybody's.
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.uid() != user {
            continue;
        }
        if let Err(error) = remove_tree(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            failed.get_or_insert(error);
        }
    }
    if let Some(error) = failed {
        warn!(folder = %place.display(), user, %error, "what a workload left there is not removed");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, lchown, symlink};

    use super::*;

    #[test]
    fn what_is_a_users_goes_and_what_it_links_to_stays() {
        // Only root gives files away.
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (place, user) = (tempfile::tempdir().unwrap(), *crate::users::USERS.end());
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("its/deep")).unwrap();
        fs::write(at("its/deep/file"), "x").unwrap();
        fs::write(at("file"), "x").unwrap();
        fs::write(at("ours"), "x").unwrap();
        fs::create_dir(at("theirs")).unwrap();
        fs::write(at("theirs/file"), "x").unwrap();
        symlink(at("theirs"), at("link")).unwrap();
        for name in ["its", "file"] {
            chown(at(name), Some(user), Some(user)).unwrap();
        }
        lchown(at("link"), Some(user), Some(user)).unwrap();
        remove_in(place.path(), user);
        let mut left: Vec<_> =
            fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["ours", "theirs"]);
        assert!(at("theirs/file").exists());
        remove_in(&at("absent"), user);
    }
}
