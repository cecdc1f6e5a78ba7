//! Bodies on their way through: a frame at a time, asked for by whoever reads.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use blueprint_hub_proxy_core::{Refusal, request_trailers, response_trailers};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::http3::Http3Body;
use crate::open::OpenRequest;
use crate::watch::Watch;

/// Frames of an answer between two looks whether it may go on, where none of them had to wait.
const LOOK_EVERY: u32 = 64;

/// Any error.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request as its client sends it.
pub(crate) enum ClientBody {
    /// Over HTTP/1 or HTTP/2.
    Stream(Incoming),
    /// Over HTTP/3.
    Http3(Box<Http3Body>),
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Stream(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            Self::Http3(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Stream(body) => body.is_end_stream(),
            Self::Http3(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Stream(body) => body.size_hint(),
            Self::Http3(body) => body.size_hint(),
        }
    }
}

/// The body of a client's request, kept while targets are tried.
///
/// A try gets a [`LentBody`]; as long as none was read from, the next try gets the body whole.
#[derive(Clone)]
pub(crate) struct RequestBody(Arc<Mutex<Shared>>);

struct Shared {
    body: ClientBody,
    is_touched: bool,
}

impl RequestBody {
    pub(crate) fn new(body: ClientBody) -> Self {
        Self(Arc::new(Mutex::new(Shared { body, is_touched: false })))
    }

    pub(crate) fn lend(&self) -> LentBody {
        LentBody(Arc::clone(&self.0))
    }

    /// Whether anything was read from it, so that it cannot be sent again.
    pub(crate) fn is_touched(&self) -> bool {
        self.0.lock().is_touched
    }
}

/// The body as one try sends it.
pub(crate) struct LentBody(Arc<Mutex<Shared>>);

impl Body for LentBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut shared = self.0.lock();
        shared.is_touched = true;
        let polled = Pin::new(&mut shared.body).poll_frame(cx);
        polled.map_ok(|frame| filter_trailers(frame, request_trailers))
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().body.size_hint()
    }
}

/// What the client gets.
pub(crate) enum AnswerBody {
    /// The proxy's own words.
    Own(Full<Bytes>),
    /// The service's.
    Stream(StreamBody),
}

/// A service's answer; while it lives the request counts as open.
pub(crate) struct StreamBody {
    inner: Incoming,
    open: OpenRequest,
    watch: Box<Watch>,
    frames: u32,
}

impl StreamBody {
    pub(crate) fn new(inner: Incoming, open: OpenRequest, watch: Watch) -> Self {
        Self { inner, open, watch: Box::new(watch), frames: 0 }
    }
}

/// Why an answer ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The service broke it off.
    #[error("the service broke off its answer")]
    Upstream(#[source] hyper::Error),
    /// What let the request in does not hold any more.
    #[error("cut: {0}")]
    Revoked(Refusal),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match self.get_mut() {
            Self::Own(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Self::Stream(stream) => {
                let polled = Pin::new(&mut stream.inner).poll_frame(cx);
                stream.frames = stream.frames.wrapping_add(1);
                // An answer that is at hand is not worth a timer; one that waits or goes on and on is.
                let looks = polled.is_pending() || stream.frames.is_multiple_of(LOOK_EVERY);
                if looks && let Poll::Ready(refusal) = stream.watch.poll(cx) {
                    stream.open.note_cut(&refusal);
                    return Poll::Ready(Some(Err(AnswerError::Revoked(refusal))));
                }
                if let Poll::Ready(Some(Err(error))) = &polled {
                    stream.open.note_abort(error);
                }
                polled
                    .map_ok(|frame| filter_trailers(frame, response_trailers))
                    .map_err(AnswerError::Upstream)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(full) => full.is_end_stream(),
            Self::Stream(stream) => stream.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(full) => full.size_hint(),
            Self::Stream(stream) => stream.inner.size_hint(),
        }
    }
}

fn filter_trailers(frame: Frame<Bytes>, filter: fn(&HeaderMap) -> HeaderMap) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(trailers) => Frame::trailers(filter(&trailers)),
        Err(frame) => frame,
    }
}
