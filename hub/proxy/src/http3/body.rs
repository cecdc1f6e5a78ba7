//! The body of a request over HTTP/3, read as far as somebody asks for it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::server::RequestStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};

use super::guarded::Incoming;
use crate::body::BoxError;

/// The half of a stream that a request comes in.
type Recv = RequestStream<Incoming<h3_quinn::RecvStream>, Bytes>;

/// A request's body.
pub(crate) struct Http3Body {
    recv: Recv,
    /// Bytes that are still to come, where the client said how many.
    left: Option<u64>,
    first: Option<Bytes>,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Over,
}

impl Http3Body {
    pub(super) fn new(recv: Recv, headers: &HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { recv, left: length, first: None, state: State::Data }
    }

    /// Waits for the first bytes or the end where nobody said which it is.
    ///
    /// Only then can a request without a body be sent on as one.
    ///
    /// # Cancel safety
    ///
    /// May be dropped: the body then is one whose length is not known.
    pub(super) async fn look(&mut self) -> Result<(), BoxError> {
        if self.left.is_some() {
            return Ok(());
        }
        match std::future::poll_fn(|cx| self.poll_data(cx)).await? {
            Some(bytes) => self.first = Some(bytes),
            None => self.state = State::Trailers,
        }
        if self.state == State::Trailers {
            let trailers = self.recv.recv_trailers().await?;
            // Without a body there is nothing that trailers could be about.
            drop(trailers);
            self.state = State::Over;
            self.left = Some(0);
        }
        Ok(())
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BoxError>> {
        let data = ready!(self.recv.poll_recv_data(cx)).map_err(Box::new)?;
        Poll::Ready(Ok(data.map(|mut data| data.copy_to_bytes(data.remaining()))))
    }

    /// Compares what came with what was announced (RFC 9114, section 4.1.2).
    fn count(&mut self, bytes: &Bytes) -> Result<(), BoxError> {
        if let Some(left) = &mut self.left {
            let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            *left = left.checked_sub(count).ok_or("more bytes than Content-Length says")?;
        }
        Ok(())
    }
}

impl Body for Http3Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.state == State::Data {
            match ready!(self.poll_data(cx))? {
                Some(bytes) => {
                    self.count(&bytes)?;
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                None if self.left.is_some_and(|left| left > 0) => {
                    self.state = State::Over;
                    return Poll::Ready(Some(Err("fewer bytes than Content-Length says".into())));
                }
                None => self.state = State::Trailers,
            }
        }
        if self.state == State::Over {
            return Poll::Ready(None);
        }
        let trailers = ready!(self.recv.poll_recv_trailers(cx)).map_err(Box::new)?;
        self.state = State::Over;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Over && self.first.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
