//! Requests and answers over the Unix socket of an engine, as the agent asks them: with limits, and in words for people.

use std::io;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use blueprint_common_engine::{Hijacked, Place, Upgrade, WireError};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) use blueprint_common_engine::encode;

use super::EngineError;

/// Largest answer that is taken in whole; a container's whole state has some ten KiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Questions are answered from memory.
pub(super) const ASK: Duration = Duration::from_secs(10);

/// Making, starting and removing a container touches disks and kernels.
pub(super) const CHANGE: Duration = Duration::from_secs(60);

/// A request.
#[derive(Debug)]
pub(super) struct Call {
    /// What it is to do, behind "asked to".
    pub(super) action: String,
    method: Method,
    path: String,
    body: Option<Value>,
    registry_auth: Option<HeaderValue>,
    within: Duration,
}

impl Call {
    fn new(method: Method, action: impl Into<String>, path: String, within: Duration) -> Self {
        Self { action: action.into(), method, path, body: None, registry_auth: None, within }
    }

    /// A question: `action` says what for, `path` is the whole of it with its version.
    pub(super) fn get(action: impl Into<String>, path: String) -> Self {
        Self::new(Method::GET, action, path, ASK)
    }

    /// A change.
    pub(super) fn post(action: impl Into<String>, path: String) -> Self {
        Self::new(Method::POST, action, path, CHANGE)
    }

    /// A removal.
    pub(super) fn delete(action: impl Into<String>, path: String) -> Self {
        Self::new(Method::DELETE, action, path, CHANGE)
    }

    /// Adds a body.
    pub(super) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// Adds credentials for a registry.
    pub(super) fn registry_auth(mut self, auth: Option<HeaderValue>) -> Self {
        self.registry_auth = auth;
        self
    }

    fn broken(&self, reason: impl std::fmt::Display) -> EngineError {
        EngineError::Broken { action: self.action.clone(), reason: reason.to_string() }
    }

    fn unreadable(&self, reason: impl std::fmt::Display) -> EngineError {
        EngineError::Answer { action: self.action.clone(), reason: reason.to_string() }
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, EngineError> {
        let mut request =
            Request::builder().method(self.method.clone()).uri(&self.path).header(header::HOST, "engine");
        if let Some(auth) = &self.registry_auth {
            request = request.header("x-registry-auth", auth);
        }
        if self.body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = self.body.as_ref().map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        request.body(Full::new(body)).map_err(|error| self.unreadable(error))
    }
}

/// Where an engine listens.
#[derive(Debug, Clone)]
pub(super) struct Socket {
    place: Place,
}

impl Socket {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { place: Place::unix(&path) }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.place.socket().map(Path::to_path_buf).unwrap_or_default()
    }

    /// Sends a request and waits for the head of its answer, without a limit of time.
    pub(super) async fn open(&self, call: &Call) -> Result<Answer, EngineError> {
        let opened = blueprint_common_engine::open(&self.place, call.request()?).await;
        let inner = opened.map_err(|error| self.wire_error(call, error))?;
        Ok(Answer { status: inner.status(), inner })
    }

    /// Sends a request after which its connection is a stream, within the time of the call.
    pub(super) async fn hijack(&self, call: &Call) -> Result<Hijacked, EngineError> {
        let mut request = call.request()?;
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        let exchange = Box::pin(async {
            let upgraded = blueprint_common_engine::upgrade(&self.place, request).await;
            match upgraded.map_err(|error| self.wire_error(call, error))? {
                Upgrade::Stream(stream) => Ok(stream),
                Upgrade::Answer(inner) => {
                    let mut answer = Answer { status: inner.status(), inner };
                    let body = answer.collect(call).await?;
                    Err(EngineError::refusal(&call.action, answer.status, &body))
                }
            }
        });
        let timeout = || EngineError::Timeout { action: call.action.clone(), after: call.within };
        tokio::time::timeout(call.within, exchange).await.map_err(|_| timeout())?
    }

    /// Sends a request and reads its whole answer, within the time of the call.
    pub(super) async fn answer(&self, call: &Call) -> Result<(StatusCode, Vec<u8>), EngineError> {
        let exchange = Box::pin(async {
            let mut answer = self.open(call).await?;
            Ok((answer.status, answer.collect(call).await?))
        });
        let timeout = || EngineError::Timeout { action: call.action.clone(), after: call.within };
        tokio::time::timeout(call.within, exchange).await.map_err(|_| timeout())?
    }

    /// The JSON of an answer; `None` for status 404.
    pub(super) async fn find<T: DeserializeOwned>(&self, call: &Call) -> Result<Option<T>, EngineError> {
        let (status, body) = self.answer(call).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(EngineError::refusal(&call.action, status, &body));
        }
        serde_json::from_slice(&body).map(Some).map_err(|error| call.unreadable(error))
    }

    /// The JSON of an answer.
    pub(super) async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, EngineError> {
        let (status, body) = self.answer(call).await?;
        if !status.is_success() {
            return Err(EngineError::refusal(&call.action, status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| call.unreadable(error))
    }

    /// Has something done; the statuses in `also_fine` and 304, "it is so already", are no refusals.
    pub(super) async fn tell(
        &self,
        call: &Call,
        also_fine: &[StatusCode],
    ) -> Result<StatusCode, EngineError> {
        let (status, body) = self.answer(call).await?;
        if status.is_success() || status == StatusCode::NOT_MODIFIED || also_fine.contains(&status) {
            return Ok(status);
        }
        Err(EngineError::refusal(&call.action, status, &body))
    }

    fn wire_error(&self, call: &Call, error: WireError) -> EngineError {
        match error {
            WireError::Connect(error) | WireError::Tls(error) => self.connect_error(call, &error),
            WireError::Broken(error) => call.broken(error),
            error @ WireError::TooLong { .. } => call.unreadable(error),
        }
    }

    fn connect_error(&self, call: &Call, error: &io::Error) -> EngineError {
        let socket = self.path();
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not ours and is open")]
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
                EngineError::NoEngine { socket }
            }
            io::ErrorKind::PermissionDenied => EngineError::NoAccess { socket },
            _ => call.broken(error),
        }
    }
}

/// An answer whose head has come.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    inner: blueprint_common_engine::Answer,
}

impl Answer {
    /// The next bytes of the body; `None` at its end.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        self.inner.poll_chunk(cx)
    }

    /// The next bytes of the body; `None` at its end.
    pub(super) async fn chunk(&mut self, call: &Call) -> Result<Option<Bytes>, EngineError> {
        self.inner.chunk().await.map_err(|error| call.broken(error))
    }

    /// All that is left of the body.
    pub(super) async fn collect(&mut self, call: &Call) -> Result<Vec<u8>, EngineError> {
        self.inner.collect(MAX_ANSWER_BYTES).await.map_err(|error| match error {
            WireError::Broken(error) => call.broken(error),
            error @ (WireError::TooLong { .. } | WireError::Connect(_) | WireError::Tls(_)) => {
                call.unreadable(error)
            }
        })
    }
}
