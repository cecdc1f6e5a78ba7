//! The secrets of one workload, on their way from the hub to its node.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::{Secret, ServiceKey, WgPrivateKey, WgPublicKey, sealed_box};

/// Most bytes of all files of a keystore together.
pub const MAX_KEYSTORE_BYTES: usize = 64 * 1024;

/// Most files of a keystore.
pub const MAX_KEYSTORE_FILES: usize = 256;

/// Longest name of a user of a registry, in bytes.
const MAX_USER_BYTES: usize = 256;

/// Longest password of a registry, in bytes; tokens in its place have some thousand.
const MAX_PASSWORD_BYTES: usize = 16 * 1024;

/// How a node signs in at the registry of a container's image. The container itself does not get it.
#[derive(Debug, Clone)]
pub struct RegistryLogin {
    /// The user.
    pub user: String,
    /// The password, or a token in its place.
    pub password: Secret<String>,
}

impl RegistryLogin {
    /// Takes both, where they can be said to a registry.
    ///
    /// # Errors
    ///
    /// [`BundleError::Login`].
    pub fn new(user: &str, password: Secret<String>) -> Result<Self, BundleError> {
        let is_text = |text: &str, most: usize| {
            !text.is_empty() && text.len() <= most && !text.contains(char::is_control)
        };
        let is_user = is_text(user, MAX_USER_BYTES) && !user.contains(':');
        if is_user && is_text(password.expose(), MAX_PASSWORD_BYTES) {
            return Ok(Self { user: user.to_owned(), password });
        }
        Err(BundleError::Login)
    }
}

/// What a workload may know and nobody else, and what its node has to know for it.
#[derive(Clone, Default)]
pub struct Bundle {
    /// Files of its keystore by their path below it, such as `Ecdsa/ab12`.
    pub keystore: BTreeMap<String, Secret<Vec<u8>>>,
    /// Key of the envelopes in which it hands certificates over its bridge.
    pub envelope_key: Option<Secret<[u8; 32]>>,
    /// How its node signs in at the registry of its image.
    pub registry: Option<RegistryLogin>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("files", &self.keystore.len()).finish_non_exhaustive()
    }
}

/// What is wrong with a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A file that is not below the keystore.
    #[error("{0:?} is not the path of a key: letters, digits, '-', '_' and '.', at most one folder deep")]
    Path(String),
    /// Too much of it.
    #[error("a keystore has at most {MAX_KEYSTORE_FILES} files with {MAX_KEYSTORE_BYTES} bytes together")]
    TooLarge,
    /// Not what a registry takes.
    #[error(
        "the user of a registry has 1 to {MAX_USER_BYTES} bytes without ':', its password 1 to {MAX_PASSWORD_BYTES}, both \
         without control characters"
    )]
    Login,
    /// Not what the other side writes.
    #[error("the bundle is damaged, or for another node or workload")]
    Damaged,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    keystore: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    envelope_key: Option<String>,
    /// Left out where there is none, so that older agents read the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registry: Option<LoginText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginText {
    user: String,
    password: String,
}

impl Bundle {
    /// Adds a file of the keystore.
    ///
    /// # Errors
    ///
    /// For a path that leads elsewhere, and above the bounds.
    pub fn add(&mut self, path: &str, content: Secret<Vec<u8>>) -> Result<(), BundleError> {
        if !is_key_path(path) {
            return Err(BundleError::Path(path.chars().take(128).collect()));
        }
        let bytes: usize = self.keystore.values().map(|content| content.expose().len()).sum();
        let is_full = self.keystore.len() >= MAX_KEYSTORE_FILES
            || bytes.saturating_add(content.expose().len()) > MAX_KEYSTORE_BYTES;
        if is_full {
            return Err(BundleError::TooLarge);
        }
        self.keystore.insert(path.to_owned(), content);
        Ok(())
    }

    /// As JSON, to be sealed.
    #[must_use]
    pub fn to_text(&self) -> Secret<String> {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let files = self.keystore.iter();
        let text = Text {
            keystore: files.map(|(path, content)| (path.clone(), encode(content.expose()))).collect(),
            envelope_key: self.envelope_key.as_ref().map(|key| encode(key.expose())),
            registry: self.registry.as_ref().map(|login| LoginText {
                user: login.user.clone(),
                password: login.password.expose().clone(),
            }),
        };
        Secret::new(serde_json::to_string(&text).unwrap_or_default())
    }

    /// Reads [`Self::to_text`].
    ///
    /// # Errors
    ///
    /// [`BundleError`].
    pub fn from_text(text: &str) -> Result<Self, BundleError> {
        let text: Text = serde_json::from_str(text).map_err(|_| BundleError::Damaged)?;
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| BundleError::Damaged);
        let mut bundle = Self::default();
        for (path, content) in &text.keystore {
            bundle.add(path, Secret::new(decode(content)?))?;
        }
        if let Some(key) = text.envelope_key {
            let key = decode(&key)?.try_into().map_err(|_| BundleError::Damaged)?;
            bundle.envelope_key = Some(Secret::new(key));
        }
        if let Some(LoginText { user, password }) = text.registry {
            bundle.registry = Some(RegistryLogin::new(&user, Secret::new(password))?);
        }
        Ok(bundle)
    }

    /// Seals it to a node, for one assignment of one service.
    ///
    /// # Errors
    ///
    /// Fails only where the system has no source of randomness.
    pub fn seal(
        &self,
        node: &WgPublicKey,
        service: ServiceKey,
        generation: u64,
    ) -> Result<Vec<u8>, std::io::Error> {
        sealed_box::seal(node, &context(service, generation), self.to_text().expose().as_bytes())
    }

    /// Opens what was sealed to this node for this assignment.
    ///
    /// # Errors
    ///
    /// [`BundleError::Damaged`] for anything else.
    pub fn open(
        node: &WgPrivateKey,
        service: ServiceKey,
        generation: u64,
        sealed: &[u8],
    ) -> Result<Self, BundleError> {
        let text =
            sealed_box::open(node, &context(service, generation), sealed).ok_or(BundleError::Damaged)?;
        Self::from_text(std::str::from_utf8(text.expose()).map_err(|_| BundleError::Damaged)?)
    }
}

fn context(service: ServiceKey, generation: u64) -> Vec<u8> {
    format!("workload bundle {service} {generation}").into_bytes()
}

/// A file, or a file in one folder; nothing that leads out or hides.
fn is_key_path(path: &str) -> bool {
    let is_char = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_part = |part: &str| {
        !part.is_empty() && part.len() <= 128 && !part.starts_with('.') && part.bytes().all(is_char)
    };
    path.split('/').count() <= 2 && path.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    #[test]
    fn it_reaches_its_node_for_its_assignment_and_no_other() {
        let (node, other) = (WgPrivateKey::random().unwrap(), WgPrivateKey::random().unwrap());
        let mut bundle = Bundle { envelope_key: Some(Secret::new([3; 32])), ..Bundle::default() };
        bundle.add("Ecdsa/ab12", Secret::new(b"[[1],[2]]".to_vec())).unwrap();
        let sealed = bundle.seal(&node.public_key(), SERVICE, 5).unwrap();
        assert!(!sealed.windows(5).any(|window| window == b"Ecdsa"));
        let opened = Bundle::open(&node, SERVICE, 5, &sealed).unwrap();
        assert_eq!(opened.keystore["Ecdsa/ab12"].expose(), b"[[1],[2]]");
        assert_eq!(opened.envelope_key.unwrap().expose(), &[3; 32]);
        for (key, service, generation) in
            [(&other, SERVICE, 5), (&node, SERVICE, 6), (&node, ServiceKey { blueprint: 7, service: 43 }, 5)]
        {
            assert_eq!(Bundle::open(key, service, generation, &sealed).unwrap_err(), BundleError::Damaged);
        }
    }

    #[test]
    fn a_login_of_a_registry_goes_along_and_shows_itself_nowhere() {
        let login = |user: &str, password: &str| RegistryLogin::new(user, Secret::new(password.to_owned()));
        let bundle = Bundle { registry: Some(login("robot$a", "p:w").unwrap()), ..Bundle::default() };
        let read = Bundle::from_text(bundle.to_text().expose()).unwrap();
        let read = read.registry.unwrap();
        assert_eq!((read.user.as_str(), read.password.expose().as_str()), ("robot$a", "p:w"));
        assert!(!format!("{bundle:?} {read:?}").contains("p:w"));
        assert!(!Bundle::default().to_text().expose().contains("registry"), "older agents read it");
        for (user, password) in [("", "p"), ("a:b", "p"), ("a", ""), ("a", "p\n"), (&"a".repeat(257), "p")] {
            assert_eq!(login(user, password).unwrap_err(), BundleError::Login, "{user:?} {password:?}");
        }
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        let mut bundle = Bundle::default();
        for path in ["", "/etc/passwd", "../a", "a/../b", "a/b/c", ".ssh/id", "a/.b", "a b", "a\0"] {
            let added = bundle.add(path, Secret::new(Vec::new()));
            assert!(matches!(added, Err(BundleError::Path(_))), "{path:?}");
        }
        let large = Secret::new(vec![0; MAX_KEYSTORE_BYTES + 1]);
        assert_eq!(bundle.add("a", large), Err(BundleError::TooLarge));
    }
}
