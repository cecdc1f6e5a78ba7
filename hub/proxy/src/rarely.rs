//! A wait that is looked at only where it may have come.
//!
//! A task that waits for several things asks all of them whenever one has come. To ask for the stop of the hub takes
//! locks that all connections share, and it comes once in the life of a hub: so it is asked when it woke the task.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// Asks a future only after that has said so.
pub(crate) struct Rarely<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    /// Rings.
    waker: Waker,
    /// Whom the bell wakes, as far as it was told.
    task: Option<Waker>,
}

/// A waker that remembers that it was woken, and wakes its task unless that is at work on it just now.
pub(crate) struct Bell {
    has_rung: AtomicBool,
    is_heard: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Bell {
    /// One that has rung: nobody has asked yet what it is for.
    pub(crate) fn new() -> Arc<Self> {
        let (has_rung, is_heard) = (AtomicBool::new(true), AtomicBool::new(false));
        Arc::new(Self { has_rung, is_heard, task: Mutex::new(None) })
    }

    /// Whom it wakes from now on.
    pub(crate) fn wakes(&self, task: &Waker) {
        *self.task.lock() = Some(task.clone());
    }

    /// Whether it has rung since the last call.
    pub(crate) fn take(&self) -> bool {
        self.has_rung.load(Ordering::Relaxed) && self.has_rung.swap(false, Ordering::SeqCst)
    }

    /// Rings for whoever hears it now.
    pub(crate) fn ring(&self) {
        self.has_rung.store(true, Ordering::SeqCst);
    }

    /// Wakes nobody from now on: its task hears it, and asks until [`Self::leave`].
    pub(crate) fn hear(&self) {
        self.is_heard.store(true, Ordering::SeqCst);
    }

    /// Wakes its task from now on; true where it has rung before that, so that nobody was woken.
    pub(crate) fn leave(&self) -> bool {
        // Either this sees that it rang, or who rings sees that nobody hears it: all four are in one order.
        self.is_heard.store(false, Ordering::SeqCst);
        self.has_rung.load(Ordering::SeqCst)
    }
}

impl<F> Rarely<F> {
    pub(crate) fn new(future: F) -> Self {
        let bell = Bell::new();
        let waker = Waker::from(Arc::clone(&bell));
        Self { future: Box::pin(future), bell, waker, task: None }
    }
}

impl<F: Future> Future for Rarely<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // Before it is looked whether it has rung: what rings later wakes this task.
        if !this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            this.bell.wakes(cx.waker());
            this.task = Some(cx.waker().clone());
        }
        if !this.bell.take() {
            return Poll::Pending;
        }
        this.future.as_mut().poll(&mut Context::from_waker(&this.waker))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
        if self.is_heard.load(Ordering::SeqCst) {
            return;
        }
        let task = self.task.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::{mpsc, oneshot};
    use tokio::task::{JoinSet, yield_now};

    use super::*;

    #[tokio::test]
    async fn it_is_asked_once_at_first_and_once_for_each_time_that_it_woke_the_task() {
        let (sender, mut receiver) = mpsc::unbounded_channel::<u32>();
        let (mut asked, mut seen) = (0, Vec::new());
        let mut rarely = Rarely::new(poll_fn(|cx| {
            asked += 1;
            while let Poll::Ready(Some(value)) = receiver.poll_recv(cx) {
                seen.push(value);
            }
            if seen.len() < 3 { Poll::Pending } else { Poll::Ready(()) }
        }));
        for value in 0..3 {
            for _ in 0..10 {
                let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut rarely).poll(cx))).await;
                assert!(polled.is_pending(), "{value}");
            }
            sender.send(value).unwrap();
        }
        Pin::new(&mut rarely).await;
        drop(rarely);
        assert_eq!((asked, seen), (4, vec![0, 1, 2]));
    }

    #[tokio::test]
    async fn it_wakes_whichever_task_asked_last() {
        let (sender, receiver) = oneshot::channel();
        let mut rarely = Rarely::new(receiver);
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut rarely).poll(cx))).await.is_pending());
        let mut other = JoinSet::new();
        other.spawn(rarely);
        yield_now().await;
        sender.send(7).unwrap();
        assert_eq!(other.join_next().await.unwrap().unwrap(), Ok(7));
    }
}
