//! The command's side.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::LocalLines;

/// Largest answer taken in.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// How long an exchange may take where [`LocalClient::timeout`] says nothing else.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The socket is absent, or nobody listens on it.
    #[error("nothing is running at {}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket belongs to somebody else.
    #[error("not allowed to connect to {}", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// No answer in time.
    #[error("no answer from {} within {} s", path.display(), after.as_secs())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// Method or path cannot be sent.
    #[error("not a request")]
    BadRequest(#[source] http::Error),
    /// Connecting failed for another reason.
    #[error("cannot connect to {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The exchange broke off.
    #[error("the exchange broke off")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer has more than 32 MiB.
    #[error("the answer has more than 32 MiB")]
    TooLarge,
}

/// Sends requests to the process that listens on one socket; each over a connection of its own.
#[derive(Debug, Clone)]
pub struct LocalClient {
    path: PathBuf,
    timeout: Duration,
}

impl LocalClient {
    /// Makes a client for the socket at `path`; nothing is opened yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), timeout: TIMEOUT }
    }

    /// Sets how long an exchange may take from connecting to the last byte; 30 s otherwise.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends one request, with a JSON body or none, and waits for the whole answer.
    ///
    /// An empty answer is `Value::Null`, one that is not JSON is its text as a `Value::String`. Statuses of
    /// refusal are answers, not errors: [`crate::cli::CliError::from_response`] reads them.
    ///
    /// # Errors
    ///
    /// [`LocalError::NotRunning`] where nobody listens; the others as they say.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; the process may have done what was asked.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), LocalError> {
        let (status, bytes) = self.request_bytes(method, path, body).await?;
        Ok((status, value_of(&bytes)))
    }

    /// Sends one request and hands out the answer's body as it came, for answers that are not JSON.
    ///
    /// # Errors
    ///
    /// As [`LocalClient::request`].
    ///
    /// # Cancel safety
    ///
    /// As [`LocalClient::request`].
    pub async fn request_bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), LocalError> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(|value| Bytes::from(value.to_string())).unwrap_or_default();
        self.exchange(request.body(Full::new(body)).map_err(LocalError::BadRequest)?).await
    }

    /// Sends one request whose body is read as it goes, `length` bytes of it, and waits for the whole answer, which is
    /// read as by [`LocalClient::request`].
    ///
    /// # Errors
    ///
    /// As [`LocalClient::request`]; an error of `body` is a [`LocalError::Exchange`].
    ///
    /// # Cancel safety
    ///
    /// As [`LocalClient::request`].
    pub async fn send<B>(
        &self,
        method: Method,
        path: &str,
        length: u64,
        body: B,
    ) -> Result<(StatusCode, Value), LocalError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_LENGTH, length)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .body(Box::pin(body))
            .map_err(LocalError::BadRequest)?;
        let (status, bytes) = self.exchange(request).await?;
        Ok((status, value_of(&bytes)))
    }

    /// Sends one request without a body, and reads the answer a line at a time, for as long as it goes on. Statuses of
    /// refusal are answers, not errors.
    ///
    /// # Errors
    ///
    /// As [`LocalClient::request`]; the time limit is that of the head.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future or what it gives closes the connection.
    pub async fn lines(&self, method: Method, path: &str) -> Result<LocalLines, LocalError> {
        let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        let request = request.body(Full::new(Bytes::new())).map_err(LocalError::BadRequest)?;
        let begin = Box::pin(async { LocalLines::begin(self.connect().await?, request).await });
        self.in_time(begin).await
    }

    /// Connects to the socket.
    pub(super) async fn connect(&self) -> Result<UnixStream, LocalError> {
        UnixStream::connect(&self.path).await.map_err(|error| self.connect_error(error))
    }

    /// What an exchange gives, where it does so in time.
    pub(super) async fn in_time<T>(
        &self,
        exchange: impl Future<Output = Result<T, LocalError>>,
    ) -> Result<T, LocalError> {
        let in_time = tokio::time::timeout(self.timeout, exchange).await;
        in_time.map_err(|_| LocalError::TimedOut { path: self.path.clone(), after: self.timeout })?
    }

    /// One exchange over a connection of its own, in time.
    async fn exchange<B>(&self, request: Request<B>) -> Result<(StatusCode, Bytes), LocalError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let exchange = Box::pin(async { exchange(self.connect().await?, request).await });
        self.in_time(exchange).await
    }

    /// What a failure to connect means to whoever runs the command.
    fn connect_error(&self, source: io::Error) -> LocalError {
        let path = self.path.clone();
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not ours and is open")]
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
                LocalError::NotRunning { path }
            }
            io::ErrorKind::PermissionDenied => LocalError::Denied { path },
            _ => LocalError::Io { path, source },
        }
    }
}

/// An answer as JSON, or its text where it is none.
fn value_of(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}

/// One request and its answer over a fresh connection.
async fn exchange<B>(stream: UnixStream, request: Request<B>) -> Result<(StatusCode, Bytes), LocalError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let broke = |error: hyper::Error| LocalError::Exchange(error.into());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(broke)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        match body {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(LocalError::TooLarge),
            Err(error) => Err(LocalError::Exchange(error)),
        }
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection may be done before its answer is read out; an error of it comes out of the answer too.
        _ = &mut connection => answer.await,
    }
}
