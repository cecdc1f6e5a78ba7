//! The key of a service account, and the assertion that it signs (RFC 7523).

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_provider_kit::Credentials;
use blueprint_hub_provision_core::ProviderError;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::unusable;

/// Largest file of a key that is read, in bytes; Google's have some 2.4 KB.
const MAX_BYTES: u64 = 64 * 1024;

/// What a token may be used for; the rights of the account say the rest.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Seconds that an assertion is good for: Google takes an hour at most.
const LIFE: u64 = 3600;

/// A key, read.
pub(super) struct Key {
    /// The project that the account is of.
    pub(super) project: Option<String>,
    /// The address of the account.
    pub(super) email: String,
    id: String,
    pair: RsaKeyPair,
}

/// A key as Google's console writes it.
#[derive(Deserialize)]
struct Written {
    #[serde(rename = "type", default)]
    kind: String,
    project_id: Option<String>,
    #[serde(default)]
    private_key_id: String,
    #[serde(default)]
    private_key: String,
    #[serde(default)]
    client_email: String,
}

impl Key {
    /// The key that stands in these credentials, or in the file that they name.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Deny`] that says what to do where there is none, or it cannot be used.
    pub(super) async fn of(own: &Credentials) -> Result<Self, ProviderError> {
        let field = |name: &str| own.get(name).filter(|value| !value.expose().is_empty());
        if let Some(packed) = field("service_account_key") {
            let what = format!("the service_account_key of {}", own.origin());
            let text = STANDARD.decode(packed.expose()).map(Zeroizing::new);
            let text =
                text.map_err(|_| unusable(&format!("{what} is no base64 of a JSON key; set it again")))?;
            return Self::read(&what, &text);
        }
        let Some(path) = field("service_account_file") else {
            return Err(unusable(&format!(
                "{} has neither a key nor a token; add service_account_file or access_token, or give the JSON key of a service \
                 account to `blueprint-hub provider configure gcp`",
                own.origin()
            )));
        };
        let path = Path::new(path.expose());
        let what = format!("the key file {}", path.display());
        let text = text_of(path).await.map_err(|why| unusable(&format!("{what} {why}")))?;
        Self::read(&what, &text)
    }

    fn read(what: &str, text: &[u8]) -> Result<Self, ProviderError> {
        let wrong = |why: &str| unusable(&format!("{what} {why}"));
        // The error's own text may repeat a value.
        let mut written: Written = serde_json::from_slice(text).map_err(|error| {
            wrong(&format!("is no JSON key at line {} column {}", error.line(), error.column()))
        })?;
        let private_key = Zeroizing::new(std::mem::take(&mut written.private_key));
        if written.kind != "service_account" {
            let kind: String = written.kind.chars().filter(|c| c.is_ascii_graphic()).take(40).collect();
            return Err(wrong(&format!(
                "is of the type {kind:?}, and the hub takes service_account alone; make a key of a service account, or set \
                 access_token"
            )));
        }
        let is_of = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        let is_email = written.client_email.contains('@') && written.client_email.bytes().all(is_of);
        if !is_email || written.client_email.len() > 200 {
            return Err(wrong("has no client_email that can be read; download it again"));
        }
        let der =
            der_of(&private_key).ok_or_else(|| wrong("has no private_key in PEM; download it again"))?;
        let pair = RsaKeyPair::from_pkcs8(&der).map_err(|_| {
            wrong("has a private_key that is no RSA key of 2048 bits or more in PKCS #8; make a new one")
        })?;
        let (project, email, id) = (written.project_id, written.client_email, written.private_key_id);
        Ok(Self { project, email, id, pair })
    }

    /// Says, signed, who asks for a token.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Busy`] where the system gives no randomness.
    pub(super) fn assertion(&self, audience: &str, now: Timestamp) -> Result<Secret<String>, ProviderError> {
        let issued = now.as_secs();
        let head = json!({ "alg": "RS256", "typ": "JWT", "kid": self.id });
        let claims = json!({
            "iss": self.email,
            "scope": SCOPE,
            "aud": audience,
            "iat": issued,
            "exp": issued.saturating_add(LIFE),
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).map_err(
            |_| ProviderError::Busy { reason: "the system gave no randomness for a signature".to_owned() },
        )?;
        Ok(Secret::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

/// The bytes of a PEM text.
fn der_of(pem: &str) -> Option<Zeroizing<Vec<u8>>> {
    let inner = pem.split_once("-----BEGIN PRIVATE KEY-----")?.1.split_once("-----END PRIVATE KEY-----")?.0;
    let plain: Zeroizing<String> = Zeroizing::new(inner.chars().filter(|c| !c.is_whitespace()).collect());
    STANDARD.decode(plain.as_bytes()).ok().map(Zeroizing::new)
}

/// The text of a file that nobody else may use.
async fn text_of(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::AsyncReadExt;

    let unread = |error: std::io::Error| format!("cannot be read: {error}");
    let file = tokio::fs::File::open(path).await.map_err(unread)?;
    // Of the open file, so that it cannot be another one that is read.
    let about = file.metadata().await.map_err(unread)?;
    let mode = about.permissions().mode() & 0o7777;
    if !about.is_file() || about.len() > MAX_BYTES {
        return Err("is no file of 64 KiB at most".to_owned());
    }
    if mode & 0o077 != 0 {
        return Err(format!("has mode {mode:04o} and others may use it; run `chmod 600 {}`", path.display()));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_BYTES).unwrap_or(0)));
    file.take(MAX_BYTES).read_to_end(&mut text).await.map_err(unread)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(fields: &[(&str, &str)]) -> String {
        let fields =
            fields.iter().map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned())));
        match Key::of(&Credentials::new("a test", fields)).await {
            Ok(_) => "a key".to_owned(),
            Err(error) => error.line(),
        }
    }

    #[tokio::test]
    async fn what_is_no_key_is_told_and_not_repeated() {
        let packed = |text: &str| STANDARD.encode(text);
        for (text, word) in [
            ("canary", "no JSON key at line 1"),
            (r#"{"type":"authorized_user","refresh_token":"canary"}"#, "\"authorized_user\""),
            (
                r#"{"type":"service_account","client_email":"a@b","private_key":"canary"}"#,
                "no private_key in PEM",
            ),
            (r#"{"type":"service_account","client_email":"canary"}"#, "no client_email"),
            (
                "{\"type\":\"service_account\",\"client_email\":\"a@b\",\"private_key\":\"-----BEGIN PRIVATE KEY-----\\nY2FuYXJ5\\n-----END PRIVATE KEY-----\"}",
                "no RSA key",
            ),
        ] {
            let told = told(&[("service_account_key", &packed(text))]).await;
            assert!(told.contains(word) && !told.contains("canary"), "{text}: {told}");
        }
        assert!(told(&[("service_account_key", "!")]).await.contains("no base64"));
        assert!(told(&[]).await.contains("add service_account_file"));
        assert!(told(&[("service_account_file", "/no/such/file")]).await.contains("cannot be read"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        std::fs::write(&path, "{}").unwrap();
        let told = told(&[("service_account_file", path.to_str().unwrap())]).await;
        assert!(told.contains("chmod 600"), "{told}");
    }
}
