//! The streams of one connection of HTTP/2, run by the task of the connection.
//!
//! A task for each stream would be woken for every frame and wake the connection in its turn.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;

type Stream = BoxFuture<'static, ()>;

/// Where the HTTP library puts new streams.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<Vec<Stream>>>);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.lock().push(future.map(drop).boxed());
    }
}

/// The streams that are open; dropping them ends their requests.
pub(crate) struct Running {
    new: Streams,
    open: FuturesUnordered<Stream>,
}

impl Running {
    /// Those that come through `new`.
    pub(crate) fn new(new: Streams) -> Self {
        Self { new, open: FuturesUnordered::new() }
    }

    /// Drives the connection, and each of its streams that has been woken.
    pub(crate) fn poll<C: Future>(
        &mut self,
        mut connection: Pin<&mut C>,
        cx: &mut Context<'_>,
    ) -> Poll<C::Output> {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            let mut is_idle = !self.admit();
            while let Poll::Ready(Some(())) = self.open.poll_next_unpin(cx) {
                is_idle = false;
            }
            // A stream that goes on in another protocol brings one more.
            if is_idle && !self.admit() {
                return Poll::Pending;
            }
        }
    }

    /// Takes what has come in; whether that was anything.
    fn admit(&mut self) -> bool {
        let new = std::mem::take(&mut *self.new.0.lock());
        let is_any = !new.is_empty();
        self.open.extend(new);
        is_any
    }
}
