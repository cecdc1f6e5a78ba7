//! The supervisor: the only place where tasks are made, and the order in which they end.
//!
//! Invariants:
//! - every task has a name and is counted from its spawn until its future is dropped;
//! - an *essential* task that ends before `drain` starts the shutdown and makes [`Supervisor::run`] fail;
//! - a *restartable* task is started again after an error or a panic, later each time, until `drain`;
//! - a connection task is dropped at `stop` and its panic touches nothing else.
//!
//! ```text
//! running --signal, essential end, shutdown()--> drain --grace over, 2nd signal, all done--> stop --1 s--> abort
//! ```

mod table;

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::table::Shared;
use crate::Chain;

/// First pause before a restart; doubles up to [`RESTART_LONGEST`].
const RESTART_FIRST: Duration = Duration::from_millis(100);

/// Longest pause before a restart, and how long a run must last to be forgiven what came before it.
const RESTART_LONGEST: Duration = Duration::from_secs(10);

/// What a task may take to end after `stop`.
pub(crate) const STOP_WAIT: Duration = Duration::from_secs(1);

type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// Why the process ended other than by being asked to and draining.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// An essential task returned before anybody asked it to.
    #[error("task {name} ended")]
    Ended {
        /// The task.
        name: &'static str,
    },
    /// An essential task returned an error.
    #[error("task {name} failed")]
    Failed {
        /// The task.
        name: &'static str,
        /// What it returned.
        source: BoxError,
    },
    /// An essential task panicked.
    #[error("task {name} panicked: {text}")]
    Panicked {
        /// The task.
        name: &'static str,
        /// The text of the panic.
        text: String,
    },
    /// Tasks were still there a second after `stop` and were aborted.
    #[error("tasks did not stop and were aborted: {}", names.join(", "))]
    Left {
        /// Their names, ordered, one per task.
        names: Vec<&'static str>,
    },
    /// The system does not let this process listen to signals.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
}

/// The two calls to end, in their order: first take no more and finish what is open, then end now.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Finish what is open and take no more. Cancelling it shuts the whole process down.
    pub drain: CancellationToken,
    /// End now.
    pub stop: CancellationToken,
}

/// Owner of every task of the process.
///
/// Dropping it ends nothing; [`Supervisor::run`] does.
#[derive(Default)]
pub struct Supervisor {
    shared: Arc<Shared>,
    signals: Option<Signals>,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("open", &self.child_spawner().open()).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Makes a supervisor without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes SIGTERM and SIGINT from now on instead of from [`Supervisor::run`] on, so that one which comes
    /// while the process starts ends it in order too. Must be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`TaskError::Signals`] where the system does not allow it.
    pub fn listen(&mut self) -> Result<(), TaskError> {
        self.signals = Some(Signals::listen().map_err(TaskError::Signals)?);
        Ok(())
    }

    /// The calls to end that every task waits on.
    #[must_use]
    pub fn stop(&self) -> Stop {
        self.shared.stop.clone()
    }

    /// Asks the process to drain and end, as SIGTERM does.
    pub fn shutdown(&self) {
        self.shared.stop.drain.cancel();
    }

    /// Spawns a task without which the process is of no use: its end before `drain` ends the process.
    ///
    /// An error or a panic after `drain` is logged and changes nothing. Must be called on a tokio runtime.
    pub fn spawn_essential<F, E>(&self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        self.shared.spawn(name, async move {
            let end = run_to_end(name, future).await;
            let is_draining = shared.stop.drain.is_cancelled();
            match end {
                Ok(()) if is_draining => {}
                Ok(()) => shared.fail(TaskError::Ended { name }),
                Err(failure) if is_draining => {
                    warn!(task = name, error = %Chain(&failure), "task failed while draining");
                }
                Err(failure) => shared.fail(failure),
            }
        });
    }

    /// Spawns an essential task that the others need to finish what is open, such as the tunnel: it ends at
    /// `stop`, and the drain does not wait for it.
    ///
    /// Must be called on a tokio runtime.
    pub fn spawn_base<F, E>(&self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        self.shared.spawn_as(name, false, async move {
            let end = run_to_end(name, future).await;
            match end {
                // What only served others may end when the last of them is gone.
                Ok(()) if shared.stop.drain.is_cancelled() => {}
                Ok(()) => shared.fail(TaskError::Ended { name }),
                Err(failure) => shared.fail(failure),
            }
        });
    }

    /// Spawns a task that is started again whenever it fails or panics, until `drain`.
    ///
    /// The pause before a restart is 100 ms and doubles up to 10 s; a run of at least 10 s starts over at
    /// 100 ms. A task that returns `Ok` is done and is not started again. Must be called on a tokio runtime.
    pub fn spawn_restartable<M, F, E>(&self, name: &'static str, mut make: M)
    where
        M: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + Send + 'static,
    {
        let drain = self.shared.stop.drain.clone();
        self.shared.spawn(name, async move {
            let mut pause = RESTART_FIRST;
            loop {
                let started_at = Instant::now();
                let Err(failure) = run_to_end(name, async { make().await }).await else { return };
                if drain.is_cancelled() {
                    warn!(task = name, error = %Chain(&failure), "task failed while draining");
                    return;
                }
                if started_at.elapsed() >= RESTART_LONGEST {
                    pause = RESTART_FIRST;
                }
                warn!(task = name, ?pause, error = %Chain(&failure), "task is restarted");
                if drain.run_until_cancelled(sleep(pause)).await.is_none() {
                    return;
                }
                pause = pause.saturating_mul(2).min(RESTART_LONGEST);
            }
        });
    }

    /// A handle with which tasks spawn tasks of their own, one per connection for example.
    #[must_use]
    pub fn child_spawner(&self) -> Spawner {
        Spawner { shared: Arc::clone(&self.shared) }
    }

    /// Waits for a reason to end, then ends everything in order.
    ///
    /// Reasons are SIGTERM, SIGINT, the end of an essential task and [`Supervisor::shutdown`] (or a cancelled
    /// [`Stop::drain`]). `drain` is cancelled at once; `stop` when all tasks but the base ones are gone, when `grace` is over or at
    /// the next signal; what is left a second later is aborted and named.
    ///
    /// # Errors
    ///
    /// [`TaskError::Ended`], [`TaskError::Failed`] or [`TaskError::Panicked`] of the essential task that ended
    /// first, else [`TaskError::Left`] when tasks had to be aborted.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the tasks running without a supervisor.
    pub async fn run(self, grace: Duration) -> Result<(), TaskError> {
        let shared = self.shared;
        let mut signals = match self.signals {
            Some(signals) => signals,
            None => Signals::listen().map_err(TaskError::Signals)?,
        };
        tokio::select! {
            biased;
            () = shared.stop.drain.cancelled() => {}
            name = signals.next() => info!(signal = name, "draining"),
        }
        shared.stop.drain.cancel();
        tokio::select! {
            biased;
            () = shared.drained() => {}
            name = signals.next() => warn!(signal = name, "second signal, stopping without draining"),
            () = sleep(grace) => info!(?grace, "grace is over, stopping"),
        }
        shared.stop.stop.cancel();
        let is_idle = tokio::time::timeout(STOP_WAIT, shared.idle()).await.is_ok();
        let left = if is_idle { Vec::new() } else { shared.abort_all() };
        if !left.is_empty() {
            warn!(tasks = left.join(", "), "tasks did not stop and are aborted");
        }
        match shared.table.lock().failure.take() {
            Some(failure) => Err(failure),
            None if left.is_empty() => Ok(()),
            None => Err(TaskError::Left { names: left }),
        }
    }
}

/// Spawns tasks that live no longer than the process may: one per connection, for example.
#[derive(Clone)]
pub struct Spawner {
    shared: Arc<Shared>,
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").field("open", &self.open()).finish_non_exhaustive()
    }
}

impl Spawner {
    /// Spawns `future`; it is dropped at `stop`, and its panic is logged and goes no further.
    ///
    /// The grace of the shutdown waits for it. Must be called on a tokio runtime.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let stop = self.shared.stop.stop.clone();
        // What wraps a future holds it twice, before and after its start, and there are four wraps here.
        let future = Box::pin(future);
        self.shared.spawn(name, async move {
            let run = AssertUnwindSafe(async { drop(future.await) }).catch_unwind();
            if let Some(Err(panic)) = stop.run_until_cancelled_owned(run).await {
                error!(task = name, text = panic_text(panic.as_ref()), "task panicked");
            }
        });
    }

    /// Runs `future` in a task of its own and waits for what it gives; `None` where it was dropped at `stop` or
    /// panicked. Must be called on a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Once it was polled the task goes on to its end, also where nobody waits for it any more: it is for what must
    /// not stop half-way because a client leaves.
    pub async fn finish<F>(&self, name: &'static str, future: F) -> Option<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (reply, done) = oneshot::channel();
        self.spawn(name, async move {
            // Whoever waited may be gone.
            let _ = reply.send(future.await);
        });
        done.await.ok()
    }

    /// As [`Spawner::spawn`], for a task that the others need until the end: the grace does not wait for it.
    pub fn spawn_base<F>(&self, name: &'static str, future: F)
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let stop = self.shared.stop.stop.clone();
        let future = Box::pin(future);
        self.shared.spawn_as(name, false, async move {
            let run = AssertUnwindSafe(async { drop(future.await) }).catch_unwind();
            if let Some(Err(panic)) = stop.run_until_cancelled_owned(run).await {
                error!(task = name, text = panic_text(panic.as_ref()), "task panicked");
            }
        });
    }

    /// The calls to end, the same for all tasks of the process.
    #[must_use]
    pub fn stop(&self) -> Stop {
        self.shared.stop.clone()
    }

    /// How many tasks of any kind there are now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.table.lock().entries.len()
    }
}

/// Runs one task to its end and turns a panic into an error.
async fn run_to_end<F, E>(name: &'static str, future: F) -> Result<(), TaskError>
where
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(TaskError::Failed { name, source: error.into() }),
        Err(panic) => Err(TaskError::Panicked { name, text: panic_text(panic.as_ref()).to_owned() }),
    }
}

/// The text that a panic carries, where it carries one.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not text")
}

/// The two signals that ask a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for either and says which it was.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests;
