//! Removes what a workload made, however it nested that.
//!
//! Invariants:
//! - no link is followed and no mount is entered: each folder is opened below the one that is open already;
//! - at most [`MAX_LEVELS`] folders are open at once, and nothing recurs: what lies deeper is moved up to the top first.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::renameat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::storage::Level;

/// Folders that are open at once, the top with them; each has two descriptors.
const MAX_LEVELS: usize = 32;

/// Removes a file, a link, or a folder with all below it. It goes on where something cannot be removed. It blocks its
/// thread.
///
/// # Errors
///
/// Nothing is there; something is left, and this is the first reason.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    let mut removal = Removal::default();
    loop {
        let has_changed = removal.pass(Level::open(path)?);
        let Err(error) = fs::remove_dir(path) else { return Ok(()) };
        if !has_changed || error.kind() != io::ErrorKind::DirectoryNotEmpty {
            return Err(removal.failed.take().unwrap_or(error));
        }
    }
}

/// The removal of one folder.
#[derive(Debug, Default)]
struct Removal {
    /// Folders that are open, each with its name in the one before.
    levels: Vec<(Level, OsString)>,
    mount: u64,
    /// Number of the next folder that is moved up.
    next: u64,
    /// Whether anything went or was moved in this pass.
    has_changed: bool,
    failed: Option<io::Error>,
}

impl Removal {
    /// Goes through everything once; says whether anything went, or was moved up and is for the next pass.
    fn pass(&mut self, top: Level) -> bool {
        self.mount = top.mount;
        self.levels = vec![(top, OsString::new())];
        self.has_changed = false;
        self.failed = None;
        while let Some((level, _)) = self.levels.last_mut() {
            let done = match level.entries.next() {
                Some(Ok(entry)) => self.take(&entry),
                // One that cannot be read any further is left to the next pass.
                Some(Err(error)) => self.leave().and(Err(error)),
                None => self.leave(),
            };
            // What is gone already needs nothing.
            if let Err(error) = done
                && error.kind() != io::ErrorKind::NotFound
            {
                self.failed.get_or_insert(error);
            }
        }
        self.has_changed
    }

    /// Removes an entry of the deepest folder, or goes into it.
    fn take(&mut self, entry: &DirEntry) -> io::Result<()> {
        let Some((level, _)) = self.levels.last() else { return Ok(()) };
        let name = entry.file_name();
        if !entry.file_type()?.is_dir() {
            unlinkat(&level.folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
            self.has_changed = true;
            return Ok(());
        }
        if self.levels.len() >= MAX_LEVELS {
            return self.move_up(&name);
        }
        let below = level.below(&name)?;
        if below.mount != self.mount {
            return Err(io::Error::other("something is mounted in it"));
        }
        self.levels.push((below, name));
        Ok(())
    }

    /// Closes the deepest folder, and removes it where it is not the top.
    fn leave(&mut self) -> io::Result<()> {
        let Some((_, name)) = self.levels.pop() else { return Ok(()) };
        let Some((above, _)) = self.levels.last() else { return Ok(()) };
        unlinkat(&above.folder, name.as_os_str(), UnlinkatFlags::RemoveDir)?;
        self.has_changed = true;
        Ok(())
    }

    /// Moves a folder of the deepest one into the top, under a name that nothing there has.
    fn move_up(&mut self, name: &OsStr) -> io::Result<()> {
        let (Some((top, _)), Some((last, _))) = (self.levels.first(), self.levels.last()) else {
            return Ok(());
        };
        loop {
            let moved = format!(".blueprint-removed-{}", self.next);
            self.next = self.next.saturating_add(1);
            match renameat(&last.folder, name, &top.folder, moved.as_str()) {
                Ok(()) => break,
                // The name is taken: by a folder that is not empty, or by a file.
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) if self.next < u64::MAX => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.has_changed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::{Mode, mkdirat};

    use super::*;

    /// Makes folders within each other, more than a path can name, with a file in each hundredth.
    fn nest(top: &Path, levels: usize) {
        let mut folder = File::open(top).unwrap();
        for level in 0..levels {
            if level % 100 == 0 {
                let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                openat(&folder, "file", flags, Mode::S_IRUSR).unwrap();
            }
            mkdirat(&folder, "d", Mode::S_IRWXU).unwrap();
            let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            folder = File::from(openat(&folder, "d", flags, Mode::empty()).unwrap());
        }
    }

    #[test]
    fn what_is_nested_deeper_than_any_stack_goes() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("top");
        fs::create_dir(&top).unwrap();
        // Names that moved folders would get.
        fs::write(top.join(".blueprint-removed-0"), "x").unwrap();
        fs::create_dir_all(top.join(".blueprint-removed-1/full")).unwrap();
        nest(&top, 20_000);
        remove_tree(&top).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        assert_eq!(remove_tree(&top).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_links_lead_to_survives() {
        let (place, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kept = outside.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let top = place.path().join("top");
        // Also where links are deeper than folders are open at once.
        let deep = (0..MAX_LEVELS + 8).fold(top.clone(), |path, _| path.join("d"));
        fs::create_dir_all(&deep).unwrap();
        for folder in [top.as_path(), &deep] {
            symlink(&kept, folder.join("folder")).unwrap();
            symlink(kept.join("file"), folder.join("file")).unwrap();
            symlink(folder, folder.join("loop")).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists() && kept.join("file").exists());
        // The link itself, and not what it leads to.
        symlink(&kept, &top).unwrap();
        remove_tree(&top).unwrap();
        assert!(fs::symlink_metadata(&top).is_err() && kept.join("file").exists());
    }

    #[test]
    fn wide_and_deep_folders_go() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("top");
        for branch in 0..20 {
            let deep = (0..3 * MAX_LEVELS).fold(top.join(branch.to_string()), |path, _| path.join("d"));
            for leaf in 0..5 {
                fs::create_dir_all(deep.join(leaf.to_string())).unwrap();
                fs::write(deep.join(format!("file-{leaf}")), "x").unwrap();
            }
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
    }
}
