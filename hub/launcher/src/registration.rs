//! Where the Manager reads what a blueprint captured for its registration.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Writes beside, syncs and renames: the Manager never reads half of it, and it outlives a crash of the machine.
///
/// # Errors
///
/// Those of the file system; what was there before is there still, unless the last step, to sync the folder, failed.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("unfinished");
    let mut file = File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_write_takes_the_place_of_the_first_and_a_failed_one_of_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registration_inputs.bin");
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write(&folder.path().join("none/inputs.bin"), b"third").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
    }
}
