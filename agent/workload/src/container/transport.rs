//! One request and its answer over the Unix socket of an engine.
//!
//! Each request has a connection of its own, so that dropping a future ends its exchange and nothing else. No
//! task is needed: whoever reads an answer drives its connection. Answers are read up to a bound.

use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use super::EngineError;

/// Largest answer that is taken in whole; a container's whole state has some ten KiB.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Most that a connection buffers, in bytes; an answer that is not read is not fetched either.
const BUFFER_BYTES: usize = 64 << 10;

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
    path: Arc<Path>,
}

impl Socket {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path: path.into() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.path.to_path_buf()
    }

    /// Sends a request and waits for the head of its answer, without a limit of time.
    pub(super) async fn open(&self, call: &Call) -> Result<Answer, EngineError> {
        let stream =
            UnixStream::connect(&self.path).await.map_err(|error| self.connect_error(call, &error))?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| call.broken(error))?;
        let mut connection: Connection = Box::pin(async move {
            let _ = connection.await;
        });
        let mut response = Box::pin(sender.send_request(call.request()?));
        let mut is_driven = true;
        let response = poll_fn(|cx| {
            if is_driven && connection.as_mut().poll(cx).is_ready() {
                is_driven = false;
            }
            response.as_mut().poll(cx)
        })
        .await
        .map_err(|error| call.broken(error))?;
        let status = response.status();
        Ok(Answer { status, body: response.into_body(), connection: is_driven.then_some(connection) })
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

type Connection = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An answer whose head has come.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Incoming,
    /// `None` once it is done.
    connection: Option<Connection>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answer {
    /// The next bytes of the body; `None` at its end.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        loop {
            if let Some(connection) = &mut self.connection
                && connection.as_mut().poll(cx).is_ready()
            {
                self.connection = None;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers say nothing here.
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// The next bytes of the body; `None` at its end.
    pub(super) async fn chunk(&mut self, call: &Call) -> Result<Option<Bytes>, EngineError> {
        let chunk = poll_fn(|cx| self.poll_chunk(cx)).await.transpose();
        chunk.map_err(|error| call.broken(error))
    }

    /// All that is left of the body.
    pub(super) async fn collect(&mut self, call: &Call) -> Result<Vec<u8>, EngineError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(call).await? {
            if bytes.len().saturating_add(chunk.len()) > MAX_ANSWER_BYTES {
                return Err(call.unreadable(format!("it has more than {MAX_ANSWER_BYTES} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// A text as a part of a path or query: all but letters, digits and `-._~/:@` as `%XX`.
pub(super) fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
