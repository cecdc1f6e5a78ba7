//! Credentials from a file that nobody else may read.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blueprint_hub_provision_core::ProviderError;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use super::{CredentialSource, CredentialSpec, Credentials};

/// Largest such file, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// Reads a file with mode 0600 or less at every call: lines `name = value` with comments after `#`, or one JSON object of texts.
///
/// A name is that of a field or of one of its variables, so a file for a shell will do.
#[derive(Debug, Clone)]
pub struct FileSource {
    spec: CredentialSpec,
    path: PathBuf,
}

impl FileSource {
    /// The file at `path`, which need not be there yet.
    #[must_use]
    pub fn new(spec: CredentialSpec, path: &Path) -> Self {
        Self { spec, path: path.to_owned() }
    }

    fn unusable(&self, why: &str) -> ProviderError {
        self.spec.unusable(&format!("the file {} {why}", self.path.display()))
    }

    async fn read(&self) -> Result<Arc<Credentials>, ProviderError> {
        let text = match self.text().await {
            Ok(text) => text?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.spec.missing()),
            Err(error) => return Err(self.unusable(&format!("cannot be read: {error}"))),
        };
        let origin = format!("the file {}", self.path.display());
        match Credentials::read(&self.spec, &origin, &text) {
            Ok(credentials) => Ok(Arc::new(credentials)),
            Err(why) => Err(self.unusable(&why.to_string())),
        }
    }

    async fn text(&self) -> io::Result<Result<Zeroizing<String>, ProviderError>> {
        let mut file = File::open(&self.path).await?;
        // Of the open file, so that it cannot be another one that is read.
        let about = file.metadata().await?;
        let mode = about.permissions().mode() & 0o7777;
        if !about.is_file() {
            return Ok(Err(self.unusable("is no file; put one there")));
        }
        if mode & 0o077 != 0 {
            let path = self.path.display();
            return Ok(Err(
                self.unusable(&format!("has mode {mode:04o} and others may use it; run `chmod 600 {path}`"))
            ));
        }
        if about.len() > MAX_BYTES {
            return Ok(Err(self.unusable("is larger than 64 KiB, so it is another file")));
        }
        let mut text = Zeroizing::new(String::with_capacity(usize::try_from(MAX_BYTES).unwrap_or(0)));
        let mut limited = (&mut file).take(MAX_BYTES);
        match limited.read_to_string(&mut text).await {
            Ok(_) => Ok(Ok(text)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Ok(Err(self.unusable("is not UTF-8; write it again")))
            }
            Err(error) => Err(error),
        }
    }
}

impl CredentialSource for FileSource {
    fn get(&self) -> BoxFuture<'_, Result<Arc<Credentials>, ProviderError>> {
        self.read().boxed()
    }

    fn is_there(&self) -> BoxFuture<'_, bool> {
        // One that cannot be looked at is there.
        async { tokio::fs::try_exists(&self.path).await.unwrap_or(true) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::super::{AWS, DIGITALOCEAN};
    use super::*;

    fn read(
        spec: CredentialSpec,
        mode: u32,
        text: impl AsRef<[u8]>,
    ) -> Result<Arc<Credentials>, ProviderError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aws.conf");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(FileSource::new(spec, &path).get())
    }

    #[test]
    fn lines_json_and_files_for_a_shell_are_read() {
        for text in [
            "access_key_id = a\n# other\n\n secret_access_key= b=c\n",
            "export AWS_ACCESS_KEY_ID=\"a\"\r\nexport AWS_SECRET_ACCESS_KEY='b=c'\r\n",
            r#" {"access_key_id":"a","secret_access_key":"b=c"}"#,
        ] {
            let found = read(AWS, 0o600, text).unwrap();
            assert_eq!(found.require("access_key_id").unwrap().expose(), "a");
            assert_eq!(found.require("secret_access_key").unwrap().expose(), "b=c");
            assert!(found.get("session_token").is_none());
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o611] {
            let error = read(DIGITALOCEAN, mode, "token = canary").unwrap_err().to_string();
            assert!(error.contains("chmod 600") && error.contains("aws.conf"), "{error}");
        }
        read(DIGITALOCEAN, 0o400, "token = canary").unwrap();
    }

    #[test]
    fn wrong_files_are_named_and_not_repeated() {
        for (text, expected) in [
            ("canary", "line 1"),
            ("token = canary\nother = canary", "line 2 what is no field; known are token"),
            ("token = canary\nDO_TOKEN = canary", "says token twice"),
            ("", "add `token = ...`"),
            ("token =", "add `token = ...`"),
            (r#"{"token": ["canary"]}"#, "JSON"),
            (r#"{"token": "canary"#, "JSON"),
        ] {
            let error = read(DIGITALOCEAN, 0o600, text).unwrap_err();
            assert!(matches!(error, ProviderError::Deny { .. }), "{error:?}");
            assert!(error.line().contains(expected), "{text}: {}", error.line());
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
        let error = read(DIGITALOCEAN, 0o600, [0xff, 0xfe]).unwrap_err().to_string();
        assert!(error.contains("UTF-8"), "{error}");
        let error = read(DIGITALOCEAN, 0o600, "#".repeat(70_000)).unwrap_err().to_string();
        assert!(error.contains("64 KiB"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_passed_over() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let source = FileSource::new(AWS, Path::new("/no/such/file"));
        assert!(!runtime.block_on(source.is_there()));
        let error = runtime.block_on(source.get()).unwrap_err().to_string();
        assert!(error.contains("provider configure aws"), "{error}");
    }
}
