//! The streams of one connection of HTTP/2, run by the task of the connection.
//!
//! A task for each stream would be woken for every frame and wake the connection in its turn.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tracing::error;

type Stream = BoxFuture<'static, ()>;

/// Where the HTTP library puts new streams.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<Vec<Stream>>>);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
{
    fn execute(&self, future: F) {
        // A panic ends its own stream: those beside it may be of other people.
        let future = AssertUnwindSafe(future).catch_unwind();
        let future = future.map(|ended| {
            if ended.is_err() {
                error!("a stream of HTTP/2 panicked; its connection goes on");
            }
        });
        self.0.lock().push(future.boxed());
    }
}

/// How often streams that have ended make way for others before the task lets others of the process work.
const ROUNDS: usize = 16;

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
        for _ in 0..ROUNDS {
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
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what has come in; whether that was anything.
    fn admit(&mut self) -> bool {
        let new = std::mem::take(&mut *self.new.0.lock());
        let is_any = !new.is_empty();
        self.open.extend(new);
        is_any
    }
}

impl Drop for Running {
    /// What came in with the end of the connection holds the place that it waits in: it would stay for ever.
    fn drop(&mut self) {
        let left = std::mem::take(&mut *self.new.0.lock());
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use hyper::rt::Executor;

    use super::*;

    #[tokio::test]
    async fn streams_that_come_with_the_end_of_their_connection_leave_nothing() {
        let streams = Streams::default();
        let held = Arc::downgrade(&streams.0);
        // As the HTTP library does: a stream keeps the place where it puts others.
        let own = streams.clone();
        let stream = async move {
            let _own = own;
            pending::<()>().await;
        };
        let mut running = Running::new(streams.clone());
        let end = streams.clone();
        let mut connection = Box::pin(async move { end.execute(stream) });
        std::future::poll_fn(|cx| running.poll(connection.as_mut(), cx)).await;
        drop((running, connection, streams));
        assert!(held.upgrade().is_none(), "a stream is left");
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_alone() {
        let streams = Streams::default();
        let mut running = Running::new(streams.clone());
        let (sender, mut receiver) = tokio::sync::oneshot::channel();
        streams.execute(async { panic!("on purpose") });
        streams.execute(async move { sender.send(7).unwrap() });
        let mut connection = Box::pin(async { receiver.try_recv().is_ok() });
        let mut never = Box::pin(pending::<()>());
        let first = std::future::poll_fn(|cx| Poll::Ready(running.poll(never.as_mut(), cx))).await;
        assert!(first.is_pending());
        assert!(connection.as_mut().await, "the other stream has not ended");
    }
}
