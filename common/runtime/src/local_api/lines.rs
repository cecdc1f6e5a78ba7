//! An answer that comes a line at a time, for as long as it goes on.

use std::fmt;
use std::future::pending;
use std::pin::Pin;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::LocalError;

/// Longest line, in bytes; also the longest answer of refusal.
const MAX_LINE_BYTES: usize = 1 << 20;

type Connection = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

/// An answer whose head has come; made by [`super::LocalClient::lines`].
pub struct LocalLines {
    status: StatusCode,
    body: Incoming,
    /// What moves the bytes, until it is done.
    connection: Option<Connection>,
    /// Bytes behind the last line that was given.
    held: Vec<u8>,
    /// The connection ends with it.
    _sender: SendRequest<Full<Bytes>>,
}

impl fmt::Debug for LocalLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLines").field("status", &self.status).finish_non_exhaustive()
    }
}

impl LocalLines {
    pub(super) async fn begin(stream: UnixStream, request: Request<Full<Bytes>>) -> Result<Self, LocalError> {
        let broke = |error: hyper::Error| LocalError::Exchange(error.into());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
        let mut connection: Option<Connection> = Some(Box::pin(connection));
        let response = {
            let answer = sender.send_request(request);
            tokio::pin!(answer);
            loop {
                tokio::select! {
                    biased;
                    answer = &mut answer => break answer.map_err(broke)?,
                    _ = run(&mut connection) => connection = None,
                }
            }
        };
        let (status, body) = (response.status(), response.into_body());
        Ok(Self { status, body, connection, held: Vec::new(), _sender: sender })
    }

    /// The status of the answer.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The next whole line without its end; `None` at the end of the answer. A line that broke off is left out.
    ///
    /// # Errors
    ///
    /// [`LocalError::Exchange`] where the connection breaks, [`LocalError::TooLarge`] for a line of more than 1 MiB.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<String>, LocalError> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if self.held.len() > MAX_LINE_BYTES {
                return Err(LocalError::TooLarge);
            }
            let Some(bytes) = self.bytes().await? else { return Ok(None) };
            self.held.extend_from_slice(&bytes);
        }
    }

    /// The whole answer as JSON, where it is a refusal and no stream; null where it is none.
    ///
    /// # Errors
    ///
    /// As [`LocalLines::next`].
    pub async fn rest(mut self) -> Result<Value, LocalError> {
        while let Some(bytes) = self.bytes().await? {
            self.held.extend_from_slice(&bytes);
            if self.held.len() > MAX_LINE_BYTES {
                return Err(LocalError::TooLarge);
            }
        }
        Ok(serde_json::from_slice(&self.held).unwrap_or_default())
    }

    async fn bytes(&mut self) -> Result<Option<Bytes>, LocalError> {
        loop {
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => frame,
                // What it read before its end is still to be read here.
                _ = run(&mut self.connection) => {
                    self.connection = None;
                    continue;
                }
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(LocalError::Exchange(error.into())),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

async fn run(connection: &mut Option<Connection>) -> Result<(), hyper::Error> {
    match connection {
        Some(connection) => connection.as_mut().await,
        None => pending().await,
    }
}
