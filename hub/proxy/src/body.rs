//! Bodies on their way through: a frame at a time, asked for by whoever reads.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use blueprint_hub_proxy_core::pace::{LeastRate, Pace};
use blueprint_hub_proxy_core::{Refusal, are_bounded, request_trailers, response_trailers};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::http3::Http3Body;
use crate::open::{Counted, OpenRequest};
use crate::watch::Watch;
use crate::wire::{BodyFault, BodyLength, ServiceBody};

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
pub(crate) struct RequestBody {
    /// `None` where the request has no body.
    shared: Option<Arc<Mutex<Shared>>>,
    began_at: Instant,
}

struct Shared {
    body: ClientBody,
    is_touched: bool,
    /// The client did not send all of it.
    is_broken: bool,
    /// When its end was handed on.
    sent_at: Option<Instant>,
    /// The most there may be, and how much of that is left.
    limit: Option<(u64, u64)>,
    is_too_large: bool,
    /// `None` where the client may take its time.
    pace: Option<Pace>,
    timer: Option<Pin<Box<Sleep>>>,
    is_too_slow: bool,
    counted: Counted,
}

impl RequestBody {
    /// A body of which at least so much has to come while the service waits for it.
    pub(crate) fn new(body: ClientBody, least: Option<LeastRate>, open: &mut OpenRequest) -> Self {
        let began_at = Instant::from_std(open.started_at());
        let shared = (!body.is_end_stream()).then(|| {
            Arc::new(Mutex::new(Shared {
                body,
                is_touched: false,
                is_broken: false,
                sent_at: None,
                limit: None,
                is_too_large: false,
                pace: least.map(Pace::new),
                timer: None,
                is_too_slow: false,
                counted: open.counted().clone(),
            }))
        });
        Self { shared, began_at }
    }

    /// What is known of a body; `other` where there is none.
    fn ask<T>(&self, other: T, question: impl FnOnce(&mut Shared) -> T) -> T {
        match &self.shared {
            Some(shared) => question(&mut shared.lock()),
            None => other,
        }
    }

    /// Bounds it, before any of it is read; what says its own length is refused at once.
    pub(crate) fn limit(&self, most: Option<u64>) -> Result<(), Refusal> {
        self.ask(Ok(()), |shared| {
            shared.limit = most.map(|most| (most, most));
            match most {
                Some(most) if shared.body.size_hint().lower() > most => Err(Refusal::BodyTooLarge { most }),
                Some(_) | None => Ok(()),
            }
        })
    }

    /// The bound that it passed while it was sent.
    pub(crate) fn is_too_large(&self) -> Option<u64> {
        self.ask(None, |shared| shared.limit.filter(|_| shared.is_too_large).map(|(most, _)| most))
    }

    /// The answer has begun. A body without a length may now be one half of a conversation, in which
    /// silence is nobody's fault.
    pub(crate) fn note_answer(&self) {
        self.ask((), |shared| {
            if shared.body.size_hint().exact().is_none() {
                (shared.pace, shared.timer) = (None, None);
            }
        });
    }

    /// Whether the client was cut for taking too long.
    pub(crate) fn is_too_slow(&self) -> bool {
        self.ask(false, |shared| shared.is_too_slow)
    }

    pub(crate) fn lend(&self) -> LentBody {
        LentBody(self.shared.clone())
    }

    /// How long it is, where it says so; `None` where there is none.
    pub(crate) fn length(&self) -> Option<BodyLength> {
        self.ask(None, |shared| {
            if shared.body.is_end_stream() {
                return None;
            }
            Some(shared.body.size_hint().exact().map_or(BodyLength::Chunked, BodyLength::Sized))
        })
    }

    /// Whether anything was read from it, so that it cannot be sent again.
    pub(crate) fn is_touched(&self) -> bool {
        self.ask(false, |shared| shared.is_touched)
    }

    /// Whether the client broke it off.
    pub(crate) fn is_broken(&self) -> bool {
        self.ask(false, |shared| shared.is_broken)
    }

    /// When all of it was handed on; `None` while some is to come.
    pub(crate) fn sent_at(&self) -> Option<Instant> {
        self.ask(Some(self.began_at), |shared| shared.sent_at)
    }
}

/// Why a request's body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The client broke it off.
    #[error("the client broke off its body")]
    Client(#[source] BoxError),
    /// Its trailers are longer than headers may be; the libraries read more.
    #[error("the trailers of the request are too long")]
    Trailers,
    /// It is larger than it may be.
    #[error("the body is larger than it may be")]
    TooLarge,
    /// The client takes too long.
    #[error("the body of the request comes too slowly")]
    TooSlow,
}

impl Shared {
    /// Counts what was read; false where that is too much.
    fn admit(&mut self, bytes: usize) -> bool {
        if let Some((_, left)) = &mut self.limit {
            match left.checked_sub(u64::try_from(bytes).unwrap_or(u64::MAX)) {
                Some(rest) => *left = rest,
                None => self.is_too_large = true,
            }
        }
        !self.is_too_large
    }

    fn note_end(&mut self) {
        self.sent_at.get_or_insert_with(Instant::now);
    }

    /// Ready once the client was waited for long enough.
    fn poll_pace(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(pace) = &mut self.pace else { return Poll::Pending };
        loop {
            let due = Instant::from_std(pace.wait(Instant::now().into_std()));
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() < due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
            if pace.is_too_slow(Instant::now().into_std()) {
                self.is_too_slow = true;
                return Poll::Ready(Some(Err(UploadError::TooSlow)));
            }
        }
    }
}

/// The body as one try sends it.
pub(crate) struct LentBody(Option<Arc<Mutex<Shared>>>);

impl Body for LentBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(shared) = &self.0 else { return Poll::Ready(None) };
        let mut shared = shared.lock();
        if shared.is_too_large {
            return Poll::Ready(Some(Err(UploadError::TooLarge)));
        }
        shared.is_touched = true;
        match Pin::new(&mut shared.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                shared.counted.receive(bytes);
                if !shared.admit(bytes) {
                    return Poll::Ready(Some(Err(UploadError::TooLarge)));
                }
                if let Some(pace) = &mut shared.pace {
                    pace.take(u64::try_from(bytes).unwrap_or(u64::MAX), Instant::now().into_std());
                }
                if shared.body.is_end_stream() {
                    shared.note_end();
                }
                let filtered = filter_trailers(frame, request_trailers);
                shared.is_broken = filtered.is_none();
                Poll::Ready(Some(filtered.ok_or(UploadError::Trailers)))
            }
            Poll::Ready(Some(Err(error))) => {
                shared.is_broken = true;
                Poll::Ready(Some(Err(UploadError::Client(error))))
            }
            Poll::Ready(None) => {
                shared.note_end();
                Poll::Ready(None)
            }
            Poll::Pending => shared.poll_pace(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.lock().body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |shared| shared.lock().body.size_hint())
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
    inner: ServiceBody,
    open: OpenRequest,
    watch: Watch,
    upload: RequestBody,
    /// When it was asked for a piece last.
    polled_at: Option<Instant>,
}

impl StreamBody {
    pub(crate) fn new(inner: ServiceBody, open: OpenRequest, watch: Watch, upload: RequestBody) -> Self {
        Self { inner, open, watch, upload, polled_at: None }
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        if let Some(most) = self.upload.is_too_large() {
            self.open.note_too_large(most);
        }
    }
}

/// Why an answer ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The service broke it off.
    #[error("the service broke off its answer")]
    Upstream(#[source] BodyFault),
    /// What let the request in does not hold any more.
    #[error("cut: {0}")]
    Revoked(Refusal),
    /// The client did not read it for too long.
    #[error("cut: the client does not read the answer")]
    Unread,
}

impl AnswerBody {
    /// When it was asked for a piece last, where it knows.
    pub(crate) const fn polled_at(&self) -> Option<Instant> {
        match self {
            Self::Own(_) => None,
            Self::Stream(stream) => stream.polled_at,
        }
    }

    /// Notes that it is cut because its client does not read it.
    pub(crate) fn note_slow_reader(&self) {
        match self {
            Self::Own(_) => {}
            Self::Stream(stream) => stream.open.note_slow_reader(),
        }
    }
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
                let polled = Pin::new(&mut stream.inner).poll_frame(cx).map(|frame| {
                    let filter = |frame| filter_trailers(frame, response_trailers).ok_or(BodyFault::Trailers);
                    frame.map(|frame| frame.and_then(filter))
                });
                let now = Instant::now();
                stream.polled_at = Some(now);
                // An answer that is at hand is not worth a timer; one that waits is.
                let cut = match &polled {
                    Poll::Pending => match stream.watch.poll(cx) {
                        Poll::Ready(refusal) => Some(refusal),
                        Poll::Pending => None,
                    },
                    Poll::Ready(_) => stream.watch.glance(now),
                };
                if let Some(refusal) = cut {
                    stream.open.note_cut(&refusal);
                    return Poll::Ready(Some(Err(AnswerError::Revoked(refusal))));
                }
                stream.open.settle_now_and_then(now.into_std());
                if let Poll::Ready(Some(Err(error))) = &polled {
                    stream.open.note_abort(error);
                }
                if let Poll::Ready(Some(Ok(frame))) = &polled {
                    stream.open.send(frame.data_ref().map_or(0, Bytes::len));
                }
                polled.map_err(AnswerError::Upstream)
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

/// What may pass of a frame; `None` where it is trailers that are longer than headers may be.
fn filter_trailers(frame: Frame<Bytes>, filter: fn(&HeaderMap) -> HeaderMap) -> Option<Frame<Bytes>> {
    match frame.into_trailers() {
        Ok(trailers) => are_bounded(&trailers).then(|| Frame::trailers(filter(&trailers))),
        Err(frame) => Some(frame),
    }
}

#[cfg(test)]
mod tests {
    use blueprint_hub_proxy_core::{MAX_HEADER_BYTES, MAX_HEADERS};
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn passes(fields: usize, bytes_of_each: usize) -> bool {
        let value = HeaderValue::from_str(&"v".repeat(bytes_of_each)).unwrap();
        let fields = (0..fields)
            .map(|number| (format!("x-{number:03}").parse::<HeaderName>().unwrap(), value.clone()));
        filter_trailers(Frame::trailers(fields.collect()), request_trailers).is_some()
    }

    #[test]
    fn trailers_are_bounded_as_headers_are() {
        assert!(passes(MAX_HEADERS, 10) && !passes(MAX_HEADERS + 1, 10));
        assert!(passes(1, MAX_HEADER_BYTES - 5) && !passes(1, MAX_HEADER_BYTES - 4));
        assert!(filter_trailers(Frame::data(vec![0; 64 * 1024].into()), request_trailers).is_some());
    }
}
