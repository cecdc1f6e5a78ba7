//! Alerts about costs, and the egress that they count: the task that watches, and what the operator's side asks.
//!
//! Invariants:
//! - what is told is stored before it is logged, acted on or sent;
//! - a message is noted as delivered only after its receiver took it, so after a kill it may come twice, with the same id;
//! - what machines sent counts as measured only once it is stored.

mod desk;
mod post;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::{AgentId, Secret, Timestamp};
use blueprint_hub_provision_core::catalogue::Day;
use blueprint_hub_provision_core::cost::alert::{AlertEvent, Hook, last_believed};
use blueprint_hub_provision_core::cost::egress::Egress;
use blueprint_hub_provision_core::cost::{CostStore, Span};
use blueprint_hub_provision_core::lifecycle::{Deployer, RecordsResult};
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use crate::Provisioner;
use crate::metrics::CostMetrics;

pub use desk::CostOffice;
pub use watch::CostWatch;

/// Sends messages of alerts to webhooks.
pub trait Courier: Send + Sync {
    /// Whether messages may go to a URL.
    ///
    /// # Errors
    ///
    /// Why they may not, one line that names what to do.
    fn check(&self, url: &str) -> Result<(), String>;

    /// Seals the URL that messages of an alert go to and the key that they are signed with, as it is stored; `None` where
    /// there is no randomness.
    fn seal(&self, alert: &str, url: &Secret<String>, key: &Secret<String>) -> Option<String>;

    /// Whether messages of an alert go to `url` already; false where that was sealed by another hub.
    fn is_same(&self, alert: &str, hook: &Hook, url: &Secret<String>) -> bool;

    /// Sends the message of an event once, and waits until its receiver took it.
    ///
    /// # Errors
    ///
    /// Why it did not, one line without secrets.
    fn send<'a>(&'a self, event: &'a AlertEvent, hook: &'a Hook) -> BoxFuture<'a, Result<(), String>>;
}

/// Bytes that arrived from each agent through its tunnel since the hub started, or since its peer was made.
pub type Received = Arc<dyn Fn() -> BTreeMap<AgentId, u64> + Send + Sync>;

/// What alerts are watched with.
#[derive(Clone)]
pub(crate) struct Parts {
    store: Arc<dyn CostStore>,
    provisioner: Provisioner,
    courier: Arc<dyn Courier>,
    kick: Arc<Notify>,
    metrics: CostMetrics,
}

/// Makes the task and the operator's side of it; the meter is read `every` so often.
#[must_use]
pub fn cost_watch(
    every: Duration,
    store: Arc<dyn CostStore>,
    provisioner: Provisioner,
    courier: Arc<dyn Courier>,
    received: Received,
    metrics: &Metrics,
) -> (CostWatch, CostOffice) {
    let metrics = CostMetrics::new(metrics);
    let parts = Parts { store, provisioner, courier, kick: Arc::default(), metrics };
    (CostWatch::new(every, parts.clone(), received), CostOffice(parts))
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// All that the meter says of a time.
struct Read {
    spans: Vec<Span>,
    egress: Vec<Egress>,
    now: Timestamp,
    last: Option<Timestamp>,
}

impl Parts {
    /// Reads the meter: of this month, or all there is where an alert counts the whole life of a deployment or time is in doubt.
    async fn read(&self, is_whole: bool) -> RecordsResult<Read> {
        let scanned_at = self.provisioner.store.load_lifecycle().await?.scanned_at;
        let now = self.provisioner.now();
        let last = last_believed(scanned_at, now);
        let is_whole = is_whole || last.is_some();
        let epoch = Timestamp::default();
        let month = Duration::from_secs(32 * 24 * 3600);
        let since = if is_whole { epoch } else { epoch.plus(now.since(epoch.plus(month))) };
        let spans = self.provisioner.store.spans(since).await?;
        // From the first day of the month that `since` lies in.
        let egress = self.store.egress(Day::from(since).back(31)).await?;
        Ok(Read { spans, egress, now, last })
    }
}
