//! How nothing is left of a workload but its data.

use std::fs;
use std::time::Duration;

use blueprint_agent_workload_core::label;
use blueprint_common_types::workload::{WorkloadState, WorkloadStatus};
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::container::EngineError;
use crate::instance::Instance;
use crate::users::Users;
use crate::{keystore, shared};

use super::Run;

/// How long the end of a workload waits for an engine that does not remove its container. Then the keeper of the
/// container and the sweep go on.
const REMOVE_WITHIN: Duration = Duration::from_secs(60);

/// Pause before an engine is asked again to remove a container.
const REMOVE_AGAIN: Duration = Duration::from_millis(500);

impl Run<'_> {
    /// Removes the container of a workload that ended for good, before that is told. One that is started again makes
    /// room for itself.
    pub(super) async fn remove(&self, mut instance: Instance) {
        if !self.life.is_over() {
            return;
        }
        let tell = |error: &EngineError| {
            let reason = format!("its container is not removed: {error}");
            let restarts = self.life.restarts().saturating_add(self.workload.falls);
            let status = self.workload.status(WorkloadState::Stopping);
            (self.workload.tell)(WorkloadStatus { reason, restarts, ..status });
        };
        if let Err(error) = instance.remove_within(REMOVE_WITHIN, REMOVE_AGAIN, tell).await {
            warn!(service = %self.workload.seat.service, %error, "its container is left to its keeper and the sweep");
        }
    }

    /// Leaves nothing but its data: not a process, not a key, not a socket.
    pub(super) async fn remove_traces(&self) {
        if let Ok(cgroups) = &self.workload.common.cgroups {
            let group = cgroups.at(&label(self.workload.seat));
            // It is over at the end of the process, too.
            let _ = spawn_blocking(move || group.remove()).await;
        }
        self.remove_memory().await;
        self.remove_shared().await;
    }

    /// Removes what it had in memory, its keys first.
    pub(super) async fn remove_memory(&self) {
        let folders = self.folders.clone();
        let removed = spawn_blocking(move || {
            keystore::remove(&folders);
            folders.remove_runtime();
        });
        // It is over at the end of the process, too.
        let _ = removed.await;
    }

    /// Removes what its user has in folders that all write to.
    async fn remove_shared(&self) {
        let Some(user) = self.own_user() else { return };
        // It is over at the end of the process, too.
        let _ = spawn_blocking(move || shared::remove(user)).await;
    }

    /// Removes its data folder where the service never kept anything.
    fn remove_unused_data(&self) {
        let data = &self.folders.data;
        let Some(service) = data.parent() else { return };
        // What lies beside it, such as volumes, belongs to the user that this folder says.
        let is_alone = fs::read_dir(service).is_ok_and(|entries| entries.count() == 1);
        let users = self.workload.common.users.as_ref();
        if is_alone && users.is_some_and(|users| users.remove_unused(data)) {
            let _ = fs::remove_dir(service);
        }
    }

    /// The user that is its alone, unless another version of the service runs as that.
    fn own_user(&self) -> Option<u32> {
        let users = self.workload.common.users.as_ref()?;
        Users::of(&self.folders.data).filter(|user| users.is_free(*user))
    }

    pub(super) async fn clean(&mut self) {
        self.running = None;
        self.rpc = None;
        self.gpus = None;
        self.remove_traces().await;
        self.remove_unused_data();
    }
}
