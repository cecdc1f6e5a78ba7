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
        let head = self.stream.send_response(Response::from_parts(parts, ()));
        unread.cut(head, &body).await?;
        while has_body && let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(mut data) => {
                    while !data.is_empty() {
                        let piece = data.split_to(data.len().min(PIECE));
                        unread.cut(self.stream.send_data(piece), &body).await?;
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        unread.cut(self.stream.send_trailers(trailers), &body).await?;
                    }
                }
            }
        }
        unread.cut(self.stream.finish(), &body).await?;
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
    /// Sends a piece of an answer, or counts that its client did not take it in time.
    async fn cut<E: Into<BoxError>>(
        &self,
        piece: impl Future<Output = Result<(), E>>,
        body: &AnswerBody,
    ) -> Result<(), BoxError> {
        let Ok(sent) = timeout(self.patience, piece).await else {
            match body {
                AnswerBody::Own(_) => self.metrics.count_cut(Cut::SlowReader),
                AnswerBody::Stream(_) => body.note_slow_reader(),
            }
            return Err(AnswerError::Unread.into());
        };
        sent.map_err(Into::into)
    }
}
