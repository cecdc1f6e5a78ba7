//! One request to a hub's JSON API.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::transport;

/// How long one request may take.
const WITHIN: Duration = Duration::from_secs(20);

/// Largest answer that is read, in bytes: that about 10,000 nodes.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Why a request has no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("the hub's API is not reached")]
    Connect(#[from] io::Error),
    #[error("the hub's API did not answer within {} s", WITHIN.as_secs())]
    TimedOut,
    #[error("the hub's API broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the hub's API gives what is not understood: {0}")]
    Answer(String),
    #[error("{message}; {hint}")]
    Refused { status: StatusCode, message: String, hint: String },
}

impl ApiError {
    /// The status of a refusal.
    pub(super) const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Connect(_) | Self::TimedOut | Self::Broken(_) | Self::Answer(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct Refused {
    error: RefusedError,
}

#[derive(Deserialize)]
struct RefusedError {
    message: String,
    #[serde(default)]
    hint: String,
}

/// A hub's Unix socket.
#[derive(Debug, Clone)]
pub(super) struct Api {
    pub(super) socket: PathBuf,
}

impl Api {
    /// Sends one request and reads its answer, both JSON.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let asked = timeout(WITHIN, self.exchange(method, path, body)).await;
        let (status, answer) = asked.map_err(|_| ApiError::TimedOut)??;
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|error| ApiError::Answer(error.to_string()));
        }
        let refused: Refused = serde_json::from_slice(&answer)
            .map_err(|_| ApiError::Answer(format!("status {status} without an error")))?;
        Err(ApiError::Refused { status, message: refused.error.message, hint: refused.error.hint })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        let broken = |error: hyper::Error| ApiError::Broken(error.into());
        let stream = transport::unix(&self.socket).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder().method(method).uri(path).header(HOST, "hub");
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| ApiError::Answer(error.to_string()))?;
        let exchange = async move {
            let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
                Ok(_) => ApiError::Answer(format!("more than {MAX_ANSWER_BYTES} bytes")),
                Err(error) => ApiError::Broken(error),
            })?;
            Ok((head.status, body.to_bytes()))
        };
        // The connection ends with the request's sender; what breaks it breaks the exchange.
        join(exchange, connection).await.0
    }
}
