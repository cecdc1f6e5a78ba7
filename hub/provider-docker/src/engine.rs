//! One engine: calls with their limits, and answers told apart.

use std::io;
use std::time::Duration;

use blueprint_common_engine::{ApiVersion, Place, WireError};
use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::cloud_time;
use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::resource::Arch;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;
use tracing::debug;

use crate::archive::Body;
use crate::refusal;

/// Largest answer, in bytes: a list of thousands of containers has a few MiB.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// A call.
pub(crate) struct Call {
    /// Its name in errors and logs.
    pub(crate) name: &'static str,
    method: Method,
    path: String,
    body: Option<(&'static str, Body)>,
    within: Duration,
}

impl Call {
    pub(crate) const fn new(name: &'static str, method: Method, path: String, within: Duration) -> Self {
        Self { name, method, path, body: None, within }
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
        self.body = Some(("application/json", body));
        self
    }

    pub(crate) fn archive(mut self, body: Body) -> Self {
        self.body = Some(("application/x-tar", body));
        self
    }
}

/// An answer, read whole.
pub(crate) struct Said {
    pub(crate) call: &'static str,
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
    /// The engine's own clock.
    pub(crate) time: Option<Timestamp>,
}

impl Said {
    /// The document of a success.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, ProviderError> {
        if !self.status.is_success() {
            return Err(refusal::refused(self));
        }
        serde_json::from_slice(&self.body).map_err(|error| refusal::nonsense(self, &error))
    }

    /// A success, or one of the statuses in `fine`.
    pub(crate) fn done(&self, fine: &[StatusCode]) -> Result<(), ProviderError> {
        if self.status.is_success() || fine.contains(&self.status) {
            return Ok(());
        }
        Err(refusal::refused(self))
    }
}

/// `GET /version`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Version {
    api_version: String,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: String,
    arch: String,
}

/// What an engine speaks.
#[derive(Debug, Clone)]
pub(crate) struct Spoken {
    /// The beginning of all paths.
    pub(crate) prefix: String,
    /// Its processors; `None` where they are of neither kind.
    pub(crate) arch: Option<Arch>,
}

/// One engine.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub(crate) place: Place,
    pub(crate) ask: Duration,
}

impl Engine {
    /// Asks what it speaks. Each time, since an engine may be replaced while the hub runs.
    pub(crate) async fn spoken(&self) -> Result<Spoken, ProviderError> {
        let said = self.send(Call::new("Version", Method::GET, "/version".to_owned(), self.ask)).await?;
        let version: Version = said.read()?;
        let Some(api) = ApiVersion::common(&version.min_api_version, &version.api_version) else {
            let reason = format!(
                "the engine on {} does not speak version 1.41 of the Docker Engine API or a later 1.x; it needs Docker 20.10 \
                 at least",
                self.place
            );
            return Err(ProviderError::Reject { reason });
        };
        let arch = match version.arch.as_str() {
            "amd64" | "x86_64" => Some(Arch::X86_64),
            "arm64" | "aarch64" => Some(Arch::Arm64),
            _ => None,
        };
        Ok(Spoken { prefix: format!("/v{api}"), arch })
    }

    /// Sends a call once, and reads its whole answer, whatever its status.
    pub(crate) async fn send(&self, call: Call) -> Result<Said, ProviderError> {
        let Call { name, method, path, body, within } = call;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "engine");
        let body = match body {
            Some((kind, body)) => {
                request = request.header(header::CONTENT_TYPE, kind);
                body
            }
            None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
        };
        let request = request.body(body).map_err(|_| ProviderError::Reject {
            reason: format!("{name} has a part that cannot stand in a URL"),
        })?;
        let exchange = Box::pin(async {
            let mut answer = blueprint_common_engine::open(&self.place, request).await?;
            let body = answer.collect(MAX_ANSWER_BYTES).await?;
            let time = cloud_time(answer.headers());
            Ok(Said { call: name, status: answer.status(), body, time })
        });
        let said = timeout(within, exchange).await.unwrap_or_else(|_| Err(Failure::Late(within)));
        match said {
            Ok(said) => {
                let (status, bytes) = (said.status.as_u16(), said.body.len());
                debug!(call = name, engine = %self.place, status, bytes, "engine answered");
                Ok(said)
            }
            Err(failure) => {
                debug!(call = name, engine = %self.place, "engine did not answer");
                Err(self.failed(name, failure))
            }
        }
    }

    fn failed(&self, call: &'static str, failure: Failure) -> ProviderError {
        match failure {
            Failure::Wire(WireError::Connect(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                let action = format!(
                    "use the engine on {}: let the hub's user into the group of that socket, which makes it root on that host",
                    self.place
                );
                ProviderError::Deny { action }
            }
            Failure::Wire(error @ (WireError::Connect(_) | WireError::Tls(_))) => {
                ProviderError::Unsent { call, source: Box::new(error) }
            }
            // With TLS 1.3 a client learns only with the first answer that its certificate is not taken.
            Failure::Wire(WireError::Broken(error)) if is_refused_certificate(&error) => {
                let action = format!(
                    "use the engine on {}: it does not take the certificate that the inventory names; have one made by its \
                     authority",
                    self.place
                );
                ProviderError::Deny { action }
            }
            failure @ (Failure::Wire(_) | Failure::Late(_)) => {
                ProviderError::Other { call, source: Box::new(failure) }
            }
        }
    }
}

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("no answer within {0:?}")]
    Late(Duration),
}

fn is_refused_certificate(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let text = error.to_string();
        if text.contains("fatal alert") && text.to_ascii_lowercase().contains("certificate") {
            return true;
        }
        source = error.source();
    }
    false
}
