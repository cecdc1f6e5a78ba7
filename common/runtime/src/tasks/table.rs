//! The table of all tasks: each is in it from its spawn until its future is dropped.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tracing::error;

use super::{Stop, TaskError};
use crate::Chain;

/// What one entry of the table knows of its task.
pub(super) struct Entry {
    name: &'static str,
    /// Whether the drain waits for it.
    drains: bool,
    /// Missing only between the entry and the spawn it is for.
    abort: Option<AbortHandle>,
}

/// Every task that there is.
#[derive(Default)]
pub(super) struct Table {
    next: u64,
    pub(super) entries: BTreeMap<u64, Entry>,
    /// Set when everything is aborted, for a task that was being spawned meanwhile.
    is_aborted: bool,
    /// Why the first essential task ended.
    pub(super) failure: Option<TaskError>,
}

/// The tasks of one process.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) stop: Stop,
    pub(super) table: Mutex<Table>,
    ended: Notify,
}

/// Takes the entry out when the task's future is dropped, for whatever reason.
struct Tracked {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.shared.table.lock().entries.remove(&self.id);
        self.shared.ended.notify_waiters();
    }
}

impl Shared {
    /// Spawns `future` under `name`; the one place in the product that spawns.
    pub(super) fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn_as(name, true, future);
    }

    /// The same, and `drains` says whether the drain waits for it.
    pub(super) fn spawn_as(
        self: &Arc<Self>,
        name: &'static str,
        drains: bool,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = {
            let mut table = self.table.lock();
            table.next = table.next.wrapping_add(1);
            let id = table.next;
            table.entries.insert(id, Entry { name, drains, abort: None });
            id
        };
        let tracked = Tracked { shared: Arc::clone(self), id };
        #[expect(clippy::disallowed_methods, reason = "the supervisor is what the ban points to")]
        let task = tokio::spawn(async move {
            let _tracked = tracked;
            future.await;
        });
        let is_aborted = {
            let mut table = self.table.lock();
            if let Some(entry) = table.entries.get_mut(&id) {
                entry.abort = Some(task.abort_handle());
            }
            table.is_aborted
        };
        if is_aborted {
            task.abort();
        }
    }

    /// Notes why an essential task ended and starts the shutdown; later ends are only logged.
    pub(super) fn fail(&self, failure: TaskError) {
        error!(error = %Chain(&failure), "essential task is gone, shutting down");
        self.table.lock().failure.get_or_insert(failure);
        self.stop.drain.cancel();
    }

    /// Waits until no task is left.
    pub(super) async fn idle(&self) {
        self.without(|_| true).await;
    }

    /// Waits until no task is left but those that the others need.
    pub(super) async fn drained(&self) {
        self.without(|entry| entry.drains).await;
    }

    async fn without(&self, counts: impl Fn(&Entry) -> bool) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.table.lock().entries.values().any(&counts) {
                return;
            }
            ended.await;
        }
    }

    /// Aborts what is left and says what it was.
    pub(super) fn abort_all(&self) -> Vec<&'static str> {
        let (mut names, aborts): (Vec<_>, Vec<_>) = {
            let mut table = self.table.lock();
            table.is_aborted = true;
            table.entries.values().map(|entry| (entry.name, entry.abort.clone())).unzip()
        };
        // Outside the lock: an abort may drop the future here and now, which takes its entry out.
        aborts.iter().flatten().for_each(AbortHandle::abort);
        names.sort_unstable();
        names
    }
}
