//! The Manager's keystore: files, at most one folder deep.

use std::fs;
use std::path::Path;

use blueprint_common_runtime::cli::CliError;
use blueprint_common_types::workload::{MAX_KEYSTORE_BYTES, MAX_KEYSTORE_FILES};
use blueprint_proto::v1;

/// Reads all of it.
pub(crate) fn read(folder: &Path) -> Result<Vec<v1::KeyFile>, CliError> {
    let mut files = Vec::new();
    let mut bytes = 0usize;
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((at, prefix)) = folders.pop() {
        let failed = |error: std::io::Error| {
            CliError::usage(format!("KEYSTORE_URI: {}: {error}", at.display()))
                .hint("the Manager names a folder of keys there; without send_keystore none is read")
        };
        for entry in fs::read_dir(&at).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() && prefix.is_empty() {
                folders.push((entry.path(), format!("{name}/")));
                continue;
            }
            if !kind.is_file() {
                let text = format!("KEYSTORE_URI: {} is no file of a keystore", entry.path().display());
                return Err(CliError::usage(text).hint("a keystore holds files, at most one folder deep"));
            }
            let size = entry.metadata().map_err(failed)?.len();
            bytes = bytes.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
            if bytes > MAX_KEYSTORE_BYTES || files.len() >= MAX_KEYSTORE_FILES {
                return Err(CliError::usage(format!(
                    "KEYSTORE_URI: {} holds more than {MAX_KEYSTORE_FILES} files or {MAX_KEYSTORE_BYTES} bytes",
                    folder.display()
                )));
            }
            let content = fs::read(entry.path()).map_err(failed)?;
            files.push(v1::KeyFile { path: format!("{prefix}{name}"), content });
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keystore_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("Ecdsa")).unwrap();
        fs::write(folder.path().join("Ecdsa/ab12"), b"key").unwrap();
        let files = read(folder.path()).unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!((files[0].path.as_str(), files[0].content.as_slice()), ("Ecdsa/ab12", &b"key"[..]));
        std::os::unix::fs::symlink("/etc/shadow", folder.path().join("Ecdsa/link")).unwrap();
        assert!(read(folder.path()).is_err(), "a link leads elsewhere");
        fs::remove_file(folder.path().join("Ecdsa/link")).unwrap();
        fs::write(folder.path().join("large"), vec![0; MAX_KEYSTORE_BYTES]).unwrap();
        assert!(read(folder.path()).is_err());
        assert!(read(&folder.path().join("missing")).is_err());
    }
}
