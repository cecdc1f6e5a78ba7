//! The streams of one connection of HTTP/2, run by the task of the connection.
//!
//! A task for each stream would be woken for every frame and wake the connection in its turn.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tracing::error;

use crate::rarely::Bell;

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
    of_connection: Rung,
    of_streams: Rung,
    /// Whom both bells wake.
    task: Option<Waker>,
}

/// A bell, and the waker that rings it.
struct Rung {
    bell: Arc<Bell>,
    waker: Waker,
}

impl Rung {
    fn new() -> Self {
        let bell = Bell::new();
        Self { waker: Waker::from(Arc::clone(&bell)), bell }
    }
}

impl Running {
    /// Those that come through `new`.
    pub(crate) fn new(new: Streams) -> Self {
        let (of_connection, of_streams) = (Rung::new(), Rung::new());
        Self { new, open: FuturesUnordered::new(), of_connection, of_streams, task: None }
    }

    /// Has the connection looked at by the next [`Self::poll`]: something was asked of it from outside.
    pub(crate) fn look(&self) {
        self.of_connection.bell.ring();
    }

    /// Drives the connection and its streams, each where it was woken.
    ///
    /// They wake each other all the time: a stream that answers wakes the connection, which has room again and wakes
    /// the stream. That happens in here, so it need not wake the task, and who was not woken is not asked.
    pub(crate) fn poll<C: Future>(
        &mut self,
        mut connection: Pin<&mut C>,
        cx: &mut Context<'_>,
    ) -> Poll<C::Output> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.of_connection.bell.wakes(cx.waker());
            self.of_streams.bell.wakes(cx.waker());
            self.task = Some(cx.waker().clone());
        }
        for _ in 0..ROUNDS {
            self.of_connection.bell.hear();
            self.of_streams.bell.hear();
            if self.of_connection.bell.take()
                && let Poll::Ready(ended) =
                    connection.as_mut().poll(&mut Context::from_waker(&self.of_connection.waker))
            {
                return Poll::Ready(ended);
            }
            let has_new = self.admit();
            if self.of_streams.bell.take() || has_new {
                let mut cx = Context::from_waker(&self.of_streams.waker);
                while let Poll::Ready(Some(())) = self.open.poll_next_unpin(&mut cx) {}
            }
            // A stream that goes on in another protocol brings one more, which is to run at once.
            if self.admit() {
                self.of_streams.bell.ring();
            }
            // Both, whatever the first says.
            let (of_connection, of_streams) = (self.of_connection.bell.leave(), self.of_streams.bell.leave());
            if !of_connection && !of_streams {
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
    use std::future::{pending, poll_fn};
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

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
        poll_fn(|cx| running.poll(connection.as_mut(), cx)).await;
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
        let first = poll_fn(|cx| Poll::Ready(running.poll(never.as_mut(), cx))).await;
        assert!(first.is_pending());
        assert!(connection.as_mut().await, "the other stream has not ended");
    }
    /// Asks a connection that counts how often it is asked, and what is open beside it.
    async fn poll_once<C: Future<Output = ()>>(running: &mut Running, connection: Pin<&mut C>) {
        let mut connection = connection;
        let polled = poll_fn(|cx| Poll::Ready(running.poll(connection.as_mut(), cx))).await;
        assert!(polled.is_pending());
    }

    #[tokio::test]
    async fn who_was_not_woken_is_not_asked() {
        let streams = Streams::default();
        let mut running = Running::new(streams.clone());
        let (asked, waker) = (AtomicUsize::new(0), Mutex::new(None));
        let mut connection = pin!(poll_fn(|cx| {
            asked.fetch_add(1, Ordering::Relaxed);
            *waker.lock() = Some(cx.waker().clone());
            Poll::<()>::Pending
        }));
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let (ended, has_ended) = tokio::sync::oneshot::channel();
        streams.execute(async move {
            receiver.await.unwrap();
            ended.send(()).unwrap();
        });
        let asked_after = |times: usize| assert_eq!(asked.load(Ordering::Relaxed), times);
        poll_once(&mut running, connection.as_mut()).await;
        asked_after(1);
        sender.send(()).unwrap();
        poll_once(&mut running, connection.as_mut()).await;
        has_ended.await.unwrap();
        asked_after(1);
        waker.lock().take().unwrap().wake();
        poll_once(&mut running, connection.as_mut()).await;
        asked_after(2);
        running.look();
        poll_once(&mut running, connection.as_mut()).await;
        asked_after(3);
    }

    #[tokio::test]
    async fn a_stream_and_its_connection_wake_each_other_and_then_the_task() {
        let streams = Streams::default();
        let mut running = Running::new(streams.clone());
        let (to_stream, mut at_stream) = tokio::sync::mpsc::channel::<u32>(1);
        let (to_connection, mut at_connection) = tokio::sync::mpsc::channel::<u32>(1);
        streams.execute(async move {
            while let Some(number) = at_stream.recv().await {
                to_connection.send(number + 1).await.unwrap();
            }
        });
        let mut connection = pin!(async {
            // More turns than one poll makes, each the work of the other.
            for number in 0..100 {
                to_stream.send(number).await.unwrap();
                assert_eq!(at_connection.recv().await, Some(number + 1));
            }
            let thread = std::thread::Builder::new().spawn(move || to_stream.blocking_send(7)).unwrap();
            assert_eq!(at_connection.recv().await, Some(8));
            thread.join().unwrap().unwrap();
        });
        let driven = poll_fn(|cx| running.poll(connection.as_mut(), cx));
        tokio::time::timeout(std::time::Duration::from_secs(10), driven).await.unwrap();
    }
}
