//! An image comes: by its digest, with credentials or none, and how far it is.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use blueprint_common_types::Secret;
use blueprint_common_types::workload::{RegistryLogin, Sha256Digest};
use http::HeaderValue;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::transport::{Call, encode};
use super::{Engine, EngineError, spec};

/// How long a pull may be silent; engines report every layer several times a second, while it is unpacked, too.
const SILENCE: Duration = Duration::from_secs(300);

/// Longest line of a report, in bytes.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Most layers that are told apart in a report; no image may have more than 127.
const MAX_LAYERS: usize = 1024;

/// Credentials for the registry of an image.
#[derive(Debug, Clone)]
pub struct RegistryAuth {
    /// The registry that they are for, as [`RegistryLogin::registry_of`] has it; no other one gets them.
    pub registry: String,
    /// The user.
    pub user: String,
    /// The password, or a token in its place.
    pub password: Secret<String>,
}

impl From<&RegistryLogin> for RegistryAuth {
    fn from(login: &RegistryLogin) -> Self {
        Self { registry: login.registry.clone(), user: login.user.clone(), password: login.password.clone() }
    }
}

/// How far a pull is. Layers are learned of one by one, so the sums grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Layers that are there.
    pub layers_done: usize,
    /// Layers that are known.
    pub layers: usize,
    /// Bytes that came.
    pub bytes_done: u64,
    /// Bytes of the layers that are known.
    pub bytes: u64,
}

/// `GET /images/NAME/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Image {
    repo_digests: Option<Vec<String>>,
    config: Option<ImageConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ImageConfig {
    volumes: Option<BTreeMap<String, IgnoredAny>>,
}

impl Image {
    /// Paths that it declares as volumes.
    pub(super) fn volumes(&self) -> Vec<String> {
        let volumes = self.config.iter().filter_map(|config| config.volumes.as_ref()).flatten();
        volumes.map(|(path, _)| path.clone()).collect()
    }

    /// Whether it has this digest, and what it has else. The name before the digest is not compared: engines write
    /// `docker.io/library/x` as `x`, and the digest is the identity.
    fn check(&self, image: &str, digest: &Sha256Digest) -> Result<(), EngineError> {
        let wanted = format!("@sha256:{digest}");
        let digests = self.repo_digests.as_deref().unwrap_or_default();
        if digests.iter().any(|found| found.ends_with(&wanted)) {
            return Ok(());
        }
        let found = digests.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let said = if found.is_empty() { "it has none".to_owned() } else { format!("it has {found}") };
        Err(EngineError::Digest { image: image.to_owned(), wanted: *digest, said })
    }
}

impl Engine {
    /// Fetches an image by its digest, and does nothing where it is there. What arrived is checked against the digest.
    ///
    /// `progress` is called with every report of the engine, some ten times a second.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoImage`], [`EngineError::ImageDenied`], [`EngineError::Registry`], [`EngineError::Digest`] and
    /// [`EngineError::NoSpace`] as they say; [`EngineError::Timeout`] after five minutes without a report.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the pull; layers that came stay with the engine for the next one.
    pub async fn pull(
        &self,
        image: &str,
        digest: &Sha256Digest,
        auth: Option<&RegistryAuth>,
        progress: impl Fn(Progress),
    ) -> Result<(), EngineError> {
        if !spec::is_image(image) {
            let name = image.chars().filter(|c| !c.is_control()).take(64).collect();
            let reason = "has to be REGISTRY/REPOSITORY in lower case, without a tag".to_owned();
            return Err(EngineError::Spec { name, field: "image", reason });
        }
        let api = self.api().await?;
        if let Some(there) = self.image(&api, image, digest).await? {
            return there.check(image, digest);
        }
        self.fetch(&api, image, digest, auth, progress).await
    }

    /// Like [`Self::pull`], but the registry is asked also where the image is there: layers that are missing come again.
    /// Where that fails, an image that is there and has the digest is good enough.
    ///
    /// # Errors
    ///
    /// Those of [`Self::pull`].
    pub(crate) async fn pull_anew(
        &self,
        image: &str,
        digest: &Sha256Digest,
        auth: Option<&RegistryAuth>,
    ) -> Result<(), EngineError> {
        if !spec::is_image(image) {
            return self.pull(image, digest, auth, |_| {}).await;
        }
        let api = self.api().await?;
        let Err(error) = self.fetch(&api, image, digest, auth, |_| {}).await else { return Ok(()) };
        let Some(there) = self.image(&api, image, digest).await? else { return Err(error) };
        tracing::warn!(image, %error, "an image cannot be pulled anew; the one that is there is used");
        there.check(image, digest)
    }

    async fn fetch(
        &self,
        api: &str,
        image: &str,
        digest: &Sha256Digest,
        auth: Option<&RegistryAuth>,
        progress: impl Fn(Progress),
    ) -> Result<(), EngineError> {
        let path = format!("{api}/images/create?fromImage={}&tag=sha256:{digest}", encode(image));
        let auth = auth.map(|auth| auth.header(image)).transpose()?.flatten();
        let call = Call::post(format!("pull {image}"), path).registry_auth(auth);
        let mut answer = in_time(&call, self.socket.open(&call)).await?;
        if !answer.status.is_success() {
            let body = in_time(&call, answer.collect(&call)).await?;
            let refused = EngineError::refusal(&call.action, answer.status, &body);
            return Err(EngineError::pull(image, digest, refused.said()));
        }
        let mut report = Report::default();
        while let Some(chunk) = in_time(&call, answer.chunk(&call)).await? {
            report.read(&chunk, &call).map_err(|fault| fault.error(image, digest))?;
            progress(report.progress());
        }
        match self.image(api, image, digest).await? {
            Some(there) => there.check(image, digest),
            None => {
                let said = "the engine does not find it after the pull".to_owned();
                Err(EngineError::Digest { image: image.to_owned(), wanted: *digest, said })
            }
        }
    }

    /// What the engine knows of an image; `None` where it is not there.
    pub(super) async fn image(
        &self,
        api: &str,
        image: &str,
        digest: &Sha256Digest,
    ) -> Result<Option<Image>, EngineError> {
        let path = format!("{api}/images/{}/json", encode(&spec::reference(image, digest)));
        self.socket.find(&Call::get(format!("look for the image {image}"), path)).await
    }
}

impl RegistryAuth {
    /// What an engine is told for an image; `None` for an image of another registry, which must not get the password.
    fn header(&self, image: &str) -> Result<Option<HeaderValue>, EngineError> {
        let server = RegistryLogin::registry_of(image);
        if server != self.registry {
            tracing::warn!(image, login_of = %self.registry, "the login is for another registry; it is not used");
            return Ok(None);
        }
        let text = json!({
            "username": self.user, "password": self.password.expose(), "serveraddress": server,
        });
        let mut value = HeaderValue::from_str(&URL_SAFE.encode(text.to_string())).map_err(|_| {
            let reason = "cannot be sent to the engine".to_owned();
            EngineError::Spec { name: image.to_owned(), field: "credentials", reason }
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

async fn in_time<T>(
    call: &Call,
    step: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    let timeout = || EngineError::Timeout { action: call.action.clone(), after: SILENCE };
    tokio::time::timeout(SILENCE, Box::pin(step)).await.map_err(|_| timeout())?
}

/// What an engine reports on a pull: a JSON value on each line.
#[derive(Debug, Default)]
struct Report {
    line: Vec<u8>,
    layers: BTreeMap<String, Layer>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Layer {
    done: u64,
    bytes: u64,
    is_there: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Line {
    id: String,
    status: String,
    error: Option<String>,
    progress_detail: Option<Detail>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Detail {
    current: Option<u64>,
    total: Option<u64>,
}

/// How a report ends early.
enum Fault {
    /// The engine says so.
    Said(String),
    /// It is no report.
    Error(EngineError),
}

impl Fault {
    fn error(self, image: &str, digest: &Sha256Digest) -> EngineError {
        match self {
            Self::Said(said) => EngineError::pull(image, digest, &said),
            Self::Error(error) => error,
        }
    }
}

impl Report {
    fn read(&mut self, bytes: &[u8], call: &Call) -> Result<(), Fault> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len().saturating_add(part.len()) > MAX_LINE_BYTES {
                let reason = format!("a line has more than {MAX_LINE_BYTES} bytes");
                return Err(Fault::Error(EngineError::Answer { action: call.action.clone(), reason }));
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.note(&line, call)?;
            }
        }
        Ok(())
    }

    fn note(&mut self, line: &[u8], call: &Call) -> Result<(), Fault> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let line: Line = serde_json::from_slice(line).map_err(|error| {
            Fault::Error(EngineError::Answer { action: call.action.clone(), reason: error.to_string() })
        })?;
        if let Some(error) = line.error {
            return Err(Fault::Said(error));
        }
        let is_layer = matches!(
            line.status.as_str(),
            "Pulling fs layer"
                | "Waiting"
                | "Downloading"
                | "Verifying Checksum"
                | "Download complete"
                | "Extracting"
                | "Pull complete"
                | "Already exists"
        );
        if !is_layer || (self.layers.len() >= MAX_LAYERS && !self.layers.contains_key(&line.id)) {
            return Ok(());
        }
        let layer = self.layers.entry(line.id).or_default();
        layer.is_there |= matches!(line.status.as_str(), "Pull complete" | "Already exists");
        // While a layer is unpacked the same figures mean something else.
        if let Some(detail) = line.progress_detail.filter(|_| line.status == "Downloading") {
            layer.bytes = detail.total.unwrap_or(layer.bytes);
            layer.done = detail.current.unwrap_or(layer.done);
        }
        if line.status != "Downloading" && (layer.is_there || line.status == "Download complete") {
            layer.done = layer.bytes;
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        let sum = |part: fn(&Layer) -> u64| self.layers.values().map(part).fold(0, u64::saturating_add);
        Progress {
            layers_done: self.layers.values().filter(|layer| layer.is_there).count(),
            layers: self.layers.len(),
            bytes_done: sum(|layer| layer.done),
            bytes: sum(|layer| layer.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call::post("pull a/b", "/images/create".to_owned())
    }

    #[test]
    fn a_login_is_shown_to_its_own_registry_alone() {
        let login = RegistryLogin::new("r.example", "u", Secret::new("p".to_owned())).unwrap();
        let auth = RegistryAuth::from(&login);
        assert!(auth.header("r.example/a/b").unwrap().unwrap().is_sensitive());
        for image in ["r.example:5000/a", "evil.example/a", "a/b", "evil.example/r.example/a"] {
            assert!(auth.header(image).unwrap().is_none(), "{image}");
        }
    }

    #[test]
    fn reports_add_up_however_they_are_cut() {
        let text = concat!(
            "{\"status\":\"Pulling from a/b\",\"id\":\"sha256:07\"}\r\n",
            "{\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"one\"}\n",
            "{\"status\":\"Already exists\",\"progressDetail\":{},\"id\":\"two\"}\n",
            "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":10,\"total\":100},\"id\":\"one\"}\n",
        );
        for step in 1..text.len() {
            let mut report = Report::default();
            for chunk in text.as_bytes().chunks(step) {
                assert!(report.read(chunk, &call()).is_ok());
            }
            let expected = Progress { layers_done: 1, layers: 2, bytes_done: 10, bytes: 100 };
            assert_eq!(report.progress(), expected, "in steps of {step}");
            let rest = b"{\"status\":\"Pull complete\",\"id\":\"one\"}\n";
            assert!(report.read(rest, &call()).is_ok());
            let expected = Progress { layers_done: 2, layers: 2, bytes_done: 100, bytes: 100 };
            assert_eq!(report.progress(), expected);
        }
    }

    #[test]
    fn an_error_in_a_report_is_the_error_of_the_pull() {
        let digest = Sha256Digest::from_bytes([7; 32]);
        let line = b"{\"errorDetail\":{\"message\":\"x\"},\"error\":\"write /x: no space left on device\"}\n";
        let fault = Report::default().read(line, &call()).err().unwrap();
        assert_eq!(fault.error("a/b", &digest).reason(), "no_space");
        let fault = Report::default().read(&vec![b' '; MAX_LINE_BYTES + 1], &call()).err().unwrap();
        assert_eq!(fault.error("a/b", &digest).reason(), "answer");
        let fault = Report::default().read(b"<html>\n", &call()).err().unwrap();
        assert_eq!(fault.error("a/b", &digest).reason(), "answer");
    }

    #[test]
    fn the_digest_of_what_is_there_is_compared_without_its_name() {
        let digest = Sha256Digest::from_bytes([7; 32]);
        let image = |digests: &[&str]| Image {
            repo_digests: Some(digests.iter().map(|digest| (*digest).to_owned()).collect()),
            config: None,
        };
        let there = image(&["old@sha256:00", &format!("alpine@sha256:{digest}")]);
        assert_eq!(there.check("docker.io/library/alpine", &digest), Ok(()));
        let error = image(&["alpine@sha256:00"]).check("a/b", &digest).unwrap_err().to_string();
        assert!(error.contains("it has alpine@sha256:00"), "{error}");
        assert_eq!(Image::default().check("a/b", &digest).unwrap_err().reason(), "digest");
    }
}
