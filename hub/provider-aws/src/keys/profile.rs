//! The file that AWS's own tools keep keys in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blueprint_hub_provider_kit::{CredentialSource, Credentials};
use blueprint_hub_provision_core::ProviderError;
use futures_util::future::{BoxFuture, FutureExt};
use zeroize::Zeroizing;

use super::credentials;

/// Largest such file that is read, in bytes.
const MAX_BYTES: u64 = 256 * 1024;

/// One profile of a file such as `~/.aws/credentials`, read anew at each call.
///
/// Only keys that stand in it count: a profile that names a command, a single sign-on or another profile is refused by name.
#[derive(Debug, Clone)]
pub struct Profile {
    path: PathBuf,
    name: String,
}

impl Profile {
    /// The profile `name` of the file at `path`, which need not be there yet.
    #[must_use]
    pub fn new(path: &Path, name: &str) -> Self {
        Self { path: path.to_owned(), name: name.to_owned() }
    }

    async fn read(&self) -> Result<Option<Credentials>, ProviderError> {
        let text = match tokio::fs::metadata(&self.path).await {
            Ok(file) if file.len() > MAX_BYTES => Err(io::Error::other("it is larger than 256 KiB")),
            Ok(_) => tokio::fs::read_to_string(&self.path).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        };
        let text = Zeroizing::new(text.map_err(|error| self.unusable(&format!("cannot be read: {error}")))?);
        let Some(rows) = section(&text, &self.name) else { return Ok(None) };
        let value = |name: &str| rows.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        match (value("aws_access_key_id"), value("aws_secret_access_key")) {
            (Some(id), Some(secret)) => {
                let origin = format!("the profile {} of {}", self.name, self.path.display());
                Ok(Some(credentials(&origin, id, secret, value("aws_session_token"))))
            }
            (Some(_), None) => Err(self.unusable("has no aws_secret_access_key in that profile; add it")),
            (None, Some(_)) => Err(self.unusable("has no aws_access_key_id in that profile; add it")),
            (None, None) => {
                let others: Vec<_> = rows.iter().map(|(key, _)| *key).take(5).collect();
                let why = format!(
                    "has no keys in that profile (but {}); put aws_access_key_id and aws_secret_access_key there, or use \
                     another profile",
                    if others.is_empty() { "nothing".to_owned() } else { others.join(", ") }
                );
                Err(self.unusable(&why))
            }
        }
    }

    fn unusable(&self, why: &str) -> ProviderError {
        let action = format!("use aws: the file {} {why} (profile {})", self.path.display(), self.name);
        ProviderError::Deny { action }
    }
}

impl CredentialSource for Profile {
    fn get(&self) -> BoxFuture<'_, Result<Arc<Credentials>, ProviderError>> {
        async {
            let found = self.read().await?;
            found.map(Arc::new).ok_or_else(|| self.unusable("is not there, or has no such profile; make it"))
        }
        .boxed()
    }

    fn is_there(&self) -> BoxFuture<'_, bool> {
        async { !matches!(self.read().await, Ok(None)) }.boxed()
    }
}

/// The rows of a section `[name]`, as AWS's tools read them; `None` where it is not there.
fn section<'a>(text: &'a str, name: &str) -> Option<Vec<(&'a str, &'a str)>> {
    let mut rows = None;
    let mut is_inside = false;
    for line in text.lines() {
        // Nested settings are indented, comments take a line.
        if line.trim().is_empty() || line.starts_with(['#', ';', ' ', '\t']) {
            continue;
        }
        if let Some(head) = line.trim_end().strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let head = head.trim();
            is_inside = head == name || head.strip_prefix("profile ").map(str::trim) == Some(name);
            if is_inside {
                rows.get_or_insert_with(Vec::new);
            }
        } else if is_inside && let Some((key, value)) = line.split_once('=') {
            rows.get_or_insert_with(Vec::new).push((key.trim(), value.trim()));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# a comment\n[default]\naws_access_key_id = AKIDEFAULT\naws_secret_access_key=canary=/+\n\n\
        [ci]\naws_access_key_id=AKICI\naws_secret_access_key = canary2\naws_session_token = canary3\ns3 =\n  max = 1\n\
        [sso]\nsso_session = x\n[half]\naws_access_key_id = AKIHALF\n";

    async fn of(text: Option<&str>, name: &str) -> (bool, Result<String, String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let profile = Profile::new(&path, name);
        let got = profile.get().await.map_err(|error| error.to_string());
        let shown = format!("{got:?} {profile:?}");
        assert!(!shown.contains("canary"), "{shown}");
        let words = |credentials: Arc<Credentials>| {
            let text = |name| credentials.get(name).map_or("-", |value| value.expose()).to_owned();
            [text("access_key_id"), text("secret_access_key"), text("session_token")].join(" ")
        };
        (profile.is_there().await, got.map(words))
    }

    #[tokio::test]
    async fn a_profile_is_read_and_what_cannot_be_used_is_named() {
        assert_eq!(of(Some(FILE), "default").await, (true, Ok("AKIDEFAULT canary=/+ -".to_owned())));
        assert_eq!(of(Some(FILE), "ci").await, (true, Ok("AKICI canary2 canary3".to_owned())));
        let (is_there, got) = of(Some(FILE), "sso").await;
        assert!(is_there && got.unwrap_err().contains("but sso_session"));
        let (is_there, got) = of(Some(FILE), "half").await;
        assert!(is_there && got.unwrap_err().contains("no aws_secret_access_key"));
        assert!(matches!(of(Some(FILE), "nobody").await, (false, Err(_))));
        assert!(matches!(of(None, "default").await, (false, Err(_))));
    }
}
