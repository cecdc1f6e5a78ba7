//! The login of a registry that the operator lets a blueprint's node use.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use blueprint_common_runtime::cli::CliError;
use blueprint_proto::v1;

/// Longest file that is read, in bytes: more than the longest login has.
const MAX_BYTES: u64 = 32 * 1024;

/// Reads a file with a line `USER:PASSWORD`, which is nobody else's to read.
pub(crate) fn read(path: &Path) -> Result<v1::RegistryLogin, CliError> {
    let failed = |why: &dyn std::fmt::Display| {
        CliError::config(format!("registry_login: {}: {why}", path.display()))
            .hint("write USER:PASSWORD into one line of a file with mode 0600, or leave registry_login out")
    };
    let file = File::open(path).map_err(|error| failed(&error))?;
    let mode = file.metadata().map_err(|error| failed(&error))?.mode();
    if mode & 0o077 != 0 {
        return Err(failed(&format!("its mode is {:o}, so others may read it", mode & 0o777)));
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(|error| failed(&error))?;
    match text.trim_end_matches(['\r', '\n']).split_once(':') {
        Some((user, password)) => {
            Ok(v1::RegistryLogin { user: user.to_owned(), password: password.to_owned() })
        }
        None => Err(failed(&"it does not hold USER:PASSWORD")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_login_is_one_line_of_a_file_that_nobody_else_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("login");
        let written = |text: &str, mode: u32| {
            write(&path, text).unwrap();
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            read(&path)
        };
        let login = written("team:pass:word\n", 0o600).unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("team", "pass:word"));
        assert!(written("team:word\n", 0o640).unwrap_err().message.contains("mode is 640"));
        let error = written("a-secret\n", 0o600).unwrap_err();
        assert!(error.message.contains("USER:PASSWORD") && !error.message.contains("a-secret"), "{error:?}");
        assert!(read(&folder.path().join("none")).is_err());
    }
}
