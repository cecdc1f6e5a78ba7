//! A connection that becomes a stream of bytes once its request was answered, for sessions of `exec` and `forward`.

use std::fmt;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{LocalClient, LocalError};

/// What the request asks its connection to become.
pub const PROTOCOL: &str = "blueprint-session/1";

/// Longest refusal in bytes.
const MAX_REFUSAL: usize = 1 << 20;

/// The bytes of a connection, both ways; an end of one direction is passed on alone.
pub type LocalStream = TokioIo<hyper::upgrade::Upgraded>;

/// What came of it.
pub enum Upgrade {
    /// The connection is a stream now.
    Open(LocalStream),
    /// It was refused, with this status and body.
    Refused(StatusCode, Value),
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(_) => f.write_str("Open"),
            Self::Refused(status, _) => f.debug_tuple("Refused").field(status).finish(),
        }
    }
}

impl LocalClient {
    /// Sends one request that asks for a stream, and waits for the answer.
    ///
    /// # Errors
    ///
    /// As [`LocalClient::request`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future, or the stream, closes the connection.
    pub async fn upgrade(&self, method: Method, path: &str, body: &Value) -> Result<Upgrade, LocalError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, PROTOCOL)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(LocalError::BadRequest)?;
        let exchange = Box::pin(async { exchange(self.connect().await?, request).await });
        self.in_time(exchange).await
    }
}

async fn exchange(stream: UnixStream, request: Request<Full<Bytes>>) -> Result<Upgrade, LocalError> {
    let broke = |error: hyper::Error| LocalError::Exchange(error.into());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let connection = connection.with_upgrades();
    let answer = async move {
        let response = sender.send_request(request).await.map_err(broke)?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = hyper::upgrade::on(response).await.map_err(broke)?;
            return Ok(Upgrade::Open(TokioIo::new(upgraded)));
        }
        let body = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
        let body = body.map_err(LocalError::Exchange)?.to_bytes();
        Ok(Upgrade::Refused(status, serde_json::from_slice(&body).unwrap_or_default()))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // It is over once the stream is handed on.
        _ = &mut connection => answer.await,
    }
}
