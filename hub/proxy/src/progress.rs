//! What is open on one connection of a client: to know when it idles, and who does not read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use blueprint_hub_proxy_core::is_grpc;
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::body::{AnswerBody, AnswerError};

/// One connection, from its first byte on.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Mutex<Shared>>);

struct Shared {
    open: usize,
    idle_since: Instant,
    next: u64,
    reader: Option<Waker>,
    /// On HTTP/2 only, where there are few.
    answers: Vec<(u64, Arc<Mutex<Held>>)>,
}

/// An answer that the HTTP library asks for piece by piece.
struct Held {
    /// `None` once it was taken away from a client that does not read.
    body: Option<AnswerBody>,
    /// Since when the next piece waits for the client; `None` while the client waits for the service.
    ready_since: Option<Instant>,
    /// How many times longer than others its client may take.
    patience: u32,
}

/// Who reads the messages of a call one by one holds the next one back, as gRPC means it.
const PATIENCE_WITH_CALLS: u32 = 5;

/// How many times longer than others the client of an answer with this head may take.
pub(crate) fn patience_with(headers: &HeaderMap) -> u32 {
    if is_grpc(headers) { PATIENCE_WITH_CALLS } else { 1 }
}

/// What a look at slow readers found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Answers that were taken away just now.
    pub(crate) cut: usize,
    /// Nothing is left that the client reads.
    pub(crate) is_dead: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let shared =
            Shared { open: 0, idle_since: Instant::now(), next: 0, reader: None, answers: Vec::new() };
        Self(Arc::new(Mutex::new(shared)))
    }

    /// A request has begun; it is open until the result, or the answer made of it, is dropped.
    pub(crate) fn begin(&self) -> Turn {
        let mut shared = self.0.lock();
        shared.open = shared.open.saturating_add(1);
        shared.next = shared.next.wrapping_add(1);
        Turn { progress: self.clone(), number: shared.next, polled_at: None }
    }

    /// How long nothing has been open; `None` while something is.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        let shared = self.0.lock();
        (shared.open == 0).then(|| shared.idle_since.elapsed())
    }

    /// Since when nothing is open, where nothing is.
    pub(crate) fn idle_since(&self) -> Instant {
        self.0.lock().idle_since
    }

    /// Whether nothing is open.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.lock().open == 0
    }

    /// Ready while nothing is open.
    ///
    /// The HTTP library does not ask for the next request again once it has asked, so whoever keeps the
    /// time between requests has to be woken at the end of the last one.
    pub(crate) fn poll_idle(&self, cx: &Context<'_>) -> Poll<()> {
        let mut shared = self.0.lock();
        if shared.open == 0 {
            return Poll::Ready(());
        }
        shared.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Resolves once nothing has been open for `limit`.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again. One task may wait at a time.
    pub(crate) async fn idled(&self, limit: Duration) {
        loop {
            std::future::poll_fn(|cx| self.poll_idle(cx)).await;
            match self.idle_for() {
                Some(idle) if idle >= limit => return,
                Some(idle) => sleep(limit.saturating_sub(idle)).await,
                None => {}
            }
        }
    }

    /// Takes away the answers whose next piece has waited for the client for `patience`.
    ///
    /// Their connections to services end here; the stream of the client gets an error when it wakes up.
    pub(crate) fn look(&self, patience: Duration) -> Look {
        let (open, answers) = {
            let shared = self.0.lock();
            (shared.open, shared.answers.iter().map(|(_, answer)| Arc::clone(answer)).collect::<Vec<_>>())
        };
        let (mut cut, mut gone) = (0usize, 0usize);
        for answer in answers {
            let mut held = answer.lock();
            if held.ready_since.is_some_and(|since| since.elapsed() >= patience.saturating_mul(held.patience))
                && let Some(body) = held.body.take()
            {
                body.note_slow_reader();
                cut = cut.saturating_add(1);
            }
            gone = gone.saturating_add(usize::from(held.body.is_none()));
        }
        Look { cut, is_dead: gone > 0 && gone == open }
    }
}

/// One open request.
pub(crate) struct Turn {
    progress: Progress,
    number: u64,
    /// When its answer was asked for a piece last, where that is known: to ask the clock once more says little else.
    polled_at: Option<Instant>,
}

impl Turn {
    /// Keeps it open for as long as its answer is. On HTTP/1, where the connection itself ends with a client
    /// that does not read, and keeps the time between requests.
    pub(crate) fn hold(self, answer: Response<AnswerBody>) -> Response<Tracked> {
        answer.map(|body| Tracked { answer: Answer::Own(body), turn: self })
    }

    /// The same, and the answer can be taken away.
    pub(crate) fn track(self, answer: Response<AnswerBody>) -> Response<Tracked> {
        let patience = patience_with(answer.headers());
        answer.map(|body| {
            let held = Held { body: Some(body), ready_since: Some(Instant::now()), patience };
            let held = Arc::new(Mutex::new(held));
            self.progress.0.lock().answers.push((self.number, Arc::clone(&held)));
            Tracked { answer: Answer::Shared(held), turn: self }
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut shared = self.progress.0.lock();
        let place = shared.answers.iter().position(|(number, _)| *number == self.number);
        let gone = place.map(|place| shared.answers.swap_remove(place));
        shared.open = shared.open.saturating_sub(1);
        if shared.open == 0 {
            shared.idle_since = self.polled_at.unwrap_or_else(Instant::now);
            if let Some(reader) = shared.reader.take() {
                reader.wake();
            }
        }
        drop(shared);
        // Outside the lock: it ends the request, which others take note of.
        drop(gone);
    }
}

/// An answer that keeps its request open.
pub(crate) struct Tracked {
    answer: Answer,
    turn: Turn,
}

enum Answer {
    Own(AnswerBody),
    Shared(Arc<Mutex<Held>>),
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        let held = match &mut this.answer {
            Answer::Own(body) => {
                let polled = Pin::new(&mut *body).poll_frame(cx);
                this.turn.polled_at = body.polled_at();
                return polled;
            }
            Answer::Shared(held) => held,
        };
        let mut held = held.lock();
        let Some(body) = held.body.as_mut() else { return Poll::Ready(Some(Err(AnswerError::Unread))) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let since = polled.is_ready().then(|| body.polled_at().unwrap_or_else(Instant::now));
        held.ready_since = since;
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.answer {
            Answer::Own(body) => body.is_end_stream(),
            Answer::Shared(held) => held.lock().body.as_ref().is_some_and(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.answer {
            Answer::Own(body) => body.size_hint(),
            Answer::Shared(held) => held.lock().body.as_ref().map_or_else(SizeHint::default, Body::size_hint),
        }
    }
}
