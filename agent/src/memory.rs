//! The memory of an agent at rest: what a start and other large works needed is given back once they are over.
//!
//! It belongs to the process, not to an [`Agent`](crate::Agent): where many run in one process, that one decides.

use std::sync::Arc;
use std::time::Duration;

use blueprint_common_tunnel::give_back_memory;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::shared::Shared;

/// When most of what a start or a change of workloads needs has been used.
const SETTLED: Duration = Duration::from_secs(10);

/// For works that nothing here tells of: commands, renewed certificates, other ways to the hub.
const AGAIN: Duration = Duration::from_mins(10);

/// Gives memory back as long as the process lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        // Changes of that time are the same work.
        sleep(SETTLED).await;
        let statuses = shared.node.get().map(|node| node.statuses());
        match tokio::task::spawn_blocking(give_back_memory).await {
            Ok(Ok(())) => debug!("memory that is not used is given back"),
            Ok(Err(error)) => debug!(%error, "memory that is not used is kept"),
            // The process ends.
            Err(_) => return,
        }
        match statuses {
            Some(mut statuses) => {
                statuses.mark_unchanged();
                // Ends with the node, and with the process then.
                let _ = timeout(AGAIN, statuses.changed()).await;
            }
            None => sleep(AGAIN).await,
        }
    }
}
