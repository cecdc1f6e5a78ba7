//! What the check that an image brings along (`HEALTHCHECK`) says of its container, for whoever asks how well a workload is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::workload::Seat;
use parking_lot::Mutex;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::container::{Health, Running};

/// Pause between two questions to the engine, which checks at the pace of the image.
const EVERY: Duration = Duration::from_secs(1);

/// What was found last of each container whose image has a check.
#[derive(Debug, Clone, Default)]
pub(crate) struct ImageHealths(Arc<Mutex<BTreeMap<Seat, Health>>>);

/// One container that is asked about until this is dropped.
#[derive(Debug)]
pub(crate) struct ImageWatch {
    healths: ImageHealths,
    seat: Seat,
    _stop: DropGuard,
}

impl ImageHealths {
    /// What the check said last; `None` where the image has none, or nothing runs.
    pub(crate) fn of(&self, seat: Seat) -> Option<Health> {
        self.0.lock().get(&seat).cloned()
    }

    /// Asks about a container from now on; until its check succeeds or fails, it starts.
    pub(crate) fn watch(&self, seat: Seat, container: Running, spawner: &Spawner) -> ImageWatch {
        self.0.lock().insert(seat, Health::Starting);
        let (stop, healths) = (CancellationToken::new(), self.clone());
        let asking = async move {
            loop {
                // An engine that is away says nothing new.
                if let Some(health) = container.health().await
                    && let Some(known) = healths.0.lock().get_mut(&seat)
                {
                    *known = health;
                }
                sleep(EVERY).await;
            }
        };
        let until = stop.clone();
        spawner.spawn_base("image health", async move { until.run_until_cancelled(asking).await });
        ImageWatch { healths: self.clone(), seat, _stop: stop.drop_guard() }
    }
}

impl Drop for ImageWatch {
    fn drop(&mut self) {
        self.healths.0.lock().remove(&self.seat);
    }
}
