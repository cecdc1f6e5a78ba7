//! The one clock of the provisioner, and the time of day that the rest of the hub goes by.

use std::fmt;
use std::sync::Arc;

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::lifecycle::ClockWatch;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// What says the time of day.
pub(crate) type Wall = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The time that deployments are decided by; cheap to clone.
#[derive(Clone)]
pub(crate) struct Clock {
    watch: Arc<Mutex<ClockWatch>>,
    began: Instant,
    wall: Wall,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("watch", &*self.watch.lock()).finish_non_exhaustive()
    }
}

impl Clock {
    /// Starts; `last` is when an earlier process looked last.
    pub(crate) fn new(last: Option<Timestamp>, wall: Wall) -> Self {
        let watch = ClockWatch::new(last, wall(), Duration::ZERO);
        Self { watch: Arc::new(Mutex::new(watch)), began: Instant::now(), wall }
    }

    /// The time to decide by: when deployments began and end, too.
    pub(crate) fn now(&self) -> Timestamp {
        self.watch.lock().tick((self.wall)(), self.began.elapsed())
    }

    /// The time of day, right or wrong: joins and their tokens are judged by it.
    pub(crate) fn wall(&self) -> Timestamp {
        (self.wall)()
    }

    /// A cloud said what time it is.
    pub(crate) fn handle_cloud_time(&self, cloud: Timestamp) {
        self.watch.lock().handle_cloud_time(cloud, (self.wall)(), self.began.elapsed());
    }

    /// False while nothing may be ended because of the time alone.
    pub(crate) fn is_trusted(&self) -> bool {
        self.watch.lock().is_trusted()
    }
}
