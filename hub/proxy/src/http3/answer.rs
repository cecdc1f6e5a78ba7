//! An answer on its way to a client of HTTP/3, piece by piece.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h3::error::Code;
use h3::server::RequestStream;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::body::{AnswerBody, AnswerError, BoxError};
use crate::metrics::{Cut, ProxyMetrics};
use crate::progress::patience_with;

/// Bytes of an answer of which a client has to take one such piece in time.
const PIECE: usize = 8 * 1024;

/// The half of a stream that goes to the client.
type Stream = RequestStream<h3_quinn::SendStream<Bytes>, Bytes>;

/// The half of a stream that an answer leaves by; a stream that is dropped before its end is reset.
pub(super) struct Sending {
    stream: Stream,
    is_over: bool,
    patience: Duration,
    metrics: Arc<ProxyMetrics>,
}

impl Sending {
    /// `patience` is how long the client may leave one piece of it unread.
    pub(super) const fn new(stream: Stream, patience: Duration, metrics: Arc<ProxyMetrics>) -> Self {
        Self { stream, is_over: false, patience, metrics }
    }

    /// Sends all of it.
    pub(super) async fn send(&mut self, answer: Response<AnswerBody>, is_head: bool) -> Result<(), BoxError> {
        let (mut parts, mut body) = answer.into_parts();
        // Neither has a body (RFC 9110, section 6.4.1), whatever is in ours.
        let has_body = !is_head && !matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if let Some(length) = body.size_hint().exact().filter(|_| has_body) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        let patience = self.patience.saturating_mul(patience_with(&parts.headers));
        let unread = Unread { patience, metrics: &self.metrics };
        let sent = unread.wait(self.stream.send_response(Response::from_parts(parts, ()))).await;
        unread.judge(sent, &body)?;
        while has_body && let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(mut data) => {
                    while !data.is_empty() {
                        let piece = data.split_to(data.len().min(PIECE));
                        let sent = unread.wait(self.stream.send_data(piece)).await;
                        unread.judge(sent, &body)?;
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let sent = unread.wait(self.stream.send_trailers(trailers)).await;
                        unread.judge(sent, &body)?;
                    }
                }
            }
        }
        let sent = unread.wait(self.stream.finish()).await;
        unread.judge(sent, &body)?;
        self.is_over = true;
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.is_over {
            self.stream.stop_stream(Code::H3_REQUEST_CANCELLED);
        }
    }
}

/// What becomes of an answer that its client does not read.
struct Unread<'m> {
    patience: Duration,
    metrics: &'m ProxyMetrics,
}

impl Unread<'_> {
    /// Waits for a piece of an answer to be taken; `None` where that takes too long.
    async fn wait<E>(&self, piece: impl Future<Output = Result<(), E>>) -> Option<Result<(), E>> {
        timeout(self.patience, piece).await.ok()
    }

    /// Counts what the client did not take in time.
    fn judge<E: Into<BoxError>>(
        &self,
        sent: Option<Result<(), E>>,
        body: &AnswerBody,
    ) -> Result<(), BoxError> {
        match (sent, body) {
            (Some(sent), _) => return sent.map_err(Into::into),
            (None, AnswerBody::Own(_)) => self.metrics.count_cut(Cut::SlowReader),
            (None, AnswerBody::Stream(_)) => body.note_slow_reader(),
        }
        Err(AnswerError::Unread.into())
    }
}
