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

/// Longest name of a registry, in bytes: that of a host, and a port.
const MAX_REGISTRY_BYTES: usize = 255;

/// Registry of images that name none, as container engines have it, and its other name.
const HUB: &str = "docker.io";
const HUB_TOO: &str = "index.docker.io";

/// Longest name of a user of a registry, in bytes.
const MAX_USER_BYTES: usize = 256;

/// Longest password of a registry, in bytes; tokens in its place have some thousand.
const MAX_PASSWORD_BYTES: usize = 16 * 1024;

/// How a node signs in at the registry of a container's image. The container itself does not get it, and no other registry.
#[derive(Debug, Clone)]
pub struct RegistryLogin {
    /// The registry that it is for, as [`Self::registry_of`] has it.
    pub registry: String,
    /// The user.
    pub user: String,
    /// The password, or a token in its place.
    pub password: Secret<String>,
}

impl RegistryLogin {
    /// Takes them, where they can be said to a registry.
    ///
    /// # Errors
    ///
    /// [`BundleError::Login`].
    pub fn new(registry: &str, user: &str, password: Secret<String>) -> Result<Self, BundleError> {
        let is_text = |text: &str, most: usize| {
            !text.is_empty() && text.len() <= most && !text.contains(char::is_control)
        };
        let is_user = is_text(user, MAX_USER_BYTES) && !user.contains(':');
        let is_registry = is_text(registry, MAX_REGISTRY_BYTES);
        if is_registry && is_user && is_text(password.expose(), MAX_PASSWORD_BYTES) {
            return Ok(Self { registry: registry.to_owned(), user: user.to_owned(), password });
        }
        Err(BundleError::Login)
    }

    /// The host of an image's registry, with its port where it names one. As engines read it: what stands before the first `/`
    /// is a host where it has a `.` or a `:`, or is `localhost`; an image without one is of `docker.io`.
    #[must_use]
    pub fn registry_of(image: &str) -> &str {
        match image.split_once('/') {
            Some((HUB_TOO, _)) => HUB,
            Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
            Some(_) | None => HUB,
        }
    }

    /// Whether it is for the registry of this image.
    #[must_use]
    pub fn is_for(&self, image: &str) -> bool {
        self.registry == Self::registry_of(image)
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
    /// A login that does not say for which registry it is, is for none.
    #[serde(default)]
    registry: Option<String>,
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
                registry: Some(login.registry.clone()),
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
        if let Some(LoginText { registry: Some(registry), user, password }) = text.registry {
            bundle.registry = Some(RegistryLogin::new(&registry, &user, Secret::new(password))?);
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
        let login = |user: &str, password: &str| {
            RegistryLogin::new("r.example", user, Secret::new(password.to_owned()))
        };
        let bundle = Bundle { registry: Some(login("robot$a", "p:w").unwrap()), ..Bundle::default() };
        let read = Bundle::from_text(bundle.to_text().expose()).unwrap();
        let read = read.registry.unwrap();
        let told = (read.registry.as_str(), read.user.as_str(), read.password.expose().as_str());
        assert_eq!(told, ("r.example", "robot$a", "p:w"));
        assert!(!format!("{bundle:?} {read:?}").contains("p:w"));
        assert!(!Bundle::default().to_text().expose().contains("registry"), "older agents read it");
        for (user, password) in [("", "p"), ("a:b", "p"), ("a", ""), ("a", "p\n"), (&"a".repeat(257), "p")] {
            assert_eq!(login(user, password).unwrap_err(), BundleError::Login, "{user:?} {password:?}");
        }
        let unnamed = RegistryLogin::new("", "a", Secret::new("p".to_owned()));
        assert_eq!(unnamed.unwrap_err(), BundleError::Login);
    }

    #[test]
    fn a_login_is_for_one_registry_and_one_that_names_none_is_left_out() {
        for (image, registry) in [
            ("alpine", "docker.io"),
            ("team/demo", "docker.io"),
            ("docker.io/team/demo", "docker.io"),
            ("index.docker.io/team/demo", "docker.io"),
            ("localhost/demo", "localhost"),
            ("r.example/team/demo", "r.example"),
            ("r.example:5000/demo", "r.example:5000"),
            ("r.example.evil.test/r.example/demo", "r.example.evil.test"),
        ] {
            assert_eq!(RegistryLogin::registry_of(image), registry, "{image}");
        }
        let login = RegistryLogin::new("r.example", "a", Secret::new("p".to_owned())).unwrap();
        assert!(login.is_for("r.example/other"));
        for image in ["r.example:5000/demo", "evil.test/r.example/demo", "demo", "r.example"] {
            assert!(!login.is_for(image), "{image}");
        }
        let unnamed = "{\"keystore\":{\"a\":\"\"},\"registry\":{\"user\":\"a\",\"password\":\"p\"}}";
        let read = Bundle::from_text(unnamed).unwrap();
        assert!(read.registry.is_none() && read.keystore.contains_key("a"));
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
