//! Connections of processes that are not the workload's: refused, counted, and told to the hub.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use blueprint_common_types::ServiceKey;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::kin::Peer;
use crate::HubPort;

/// Pause between two reports; what is refused meanwhile is counted in the next.
const EVERY: Duration = Duration::from_secs(60);

/// Pause before a hub is told again that was away.
const AGAIN: Duration = Duration::from_secs(5);

/// Strangers of one bridge.
#[derive(Debug)]
pub(super) struct Strangers {
    /// Of all bridges of the node.
    all: Arc<AtomicU64>,
    /// Those that the hub was not told of.
    untold: AtomicU32,
    news: Notify,
}

impl Strangers {
    pub(super) fn new(all: Arc<AtomicU64>) -> Self {
        Self { all, untold: AtomicU32::new(0), news: Notify::new() }
    }

    /// Takes note of one.
    pub(super) fn refuse(&self, service: ServiceKey, peer: &Peer) {
        self.all.fetch_add(1, Ordering::Relaxed);
        let pid = peer.process.map(|process| process.pid);
        // The first of each report; the others would let it fill the log.
        if self.untold.fetch_add(1, Ordering::Relaxed) == 0 {
            warn!(%service, user = peer.user, pid, "a process that is not the workload's tried its bridge");
            self.news.notify_one();
        } else {
            debug!(%service, user = peer.user, pid, "a process that is not the workload's tried its bridge");
        }
    }

    /// Tells the hub, once a minute at most, until it is dropped.
    pub(super) async fn tell(&self, service: ServiceKey, hub: &dyn HubPort) {
        loop {
            self.news.notified().await;
            while let count @ 1.. = self.untold.load(Ordering::Relaxed) {
                match hub.strangers(service, count).await {
                    Ok(()) => {
                        self.untold.fetch_sub(count, Ordering::Relaxed);
                        sleep(EVERY).await;
                    }
                    Err(status) => {
                        debug!(%service, %status, "the hub is not told of strangers yet");
                        sleep(AGAIN).await;
                    }
                }
            }
        }
    }
}
