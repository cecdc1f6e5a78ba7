//! Keeps what services and their callers have used over restarts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_types::Timestamp;
use blueprint_hub_proxy::Ledger;
use blueprint_hub_proxy_core::usage::{UsageSum, Used};
use blueprint_hub_registry_core::{UsageRow, UsageStore};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// How often sums that changed are stored: what a crash may cost.
const PACE: Duration = Duration::from_secs(5);

/// How long the last ones may take when the hub stops.
const LAST: Duration = Duration::from_secs(1);

/// How long the sums of a service stay that nobody calls any more.
const KEPT: Duration = Duration::from_secs(400 * 24 * 3600);

/// Gives the ledger what was kept, and keeps what changes from now on; since when the sums count.
pub(crate) async fn start(
    store: Arc<dyn UsageStore>,
    ledger: &Ledger,
    supervisor: &Supervisor,
) -> Result<Timestamp> {
    let now = SystemTime::now();
    let after = Timestamp::from(now.checked_sub(KEPT).unwrap_or(SystemTime::UNIX_EPOCH));
    let kept = store.load_usage(after).await.context("cannot load what services have used")?;
    let since = kept.since.unwrap_or_else(|| now.into());
    ledger.restore(kept.rows.into_iter().map(sum));
    let task = keep(store, ledger.clone(), since, supervisor.stop().stop);
    crate::app::spawn(supervisor, "sums of usage", task);
    Ok(since)
}

async fn keep(store: Arc<dyn UsageStore>, ledger: Ledger, since: Timestamp, stop: CancellationToken) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(pace.tick()).await.is_some() {
        save(store.as_ref(), &ledger, since).await;
    }
    let _ = timeout(LAST, save(store.as_ref(), &ledger, since)).await;
}

async fn save(store: &dyn UsageStore, ledger: &Ledger, since: Timestamp) {
    let sums = ledger.take_changed();
    if sums.is_empty() {
        return;
    }
    let rows = sums.iter().cloned().map(row).collect();
    if let Err(error) = store.save_usage(rows, since, Timestamp::from(SystemTime::now())).await {
        error!(%error, "sums of usage not stored, they are tried again");
        ledger.keep_changed(&sums);
    }
}

fn sum(row: UsageRow) -> UsageSum {
    let UsageRow { service, key, requests, refused, bytes_in, bytes_out, open } = row;
    UsageSum { service, key, used: Used { requests, refused, bytes_in, bytes_out, open } }
}

fn row(sum: UsageSum) -> UsageRow {
    let UsageSum { service, key, used: Used { requests, refused, bytes_in, bytes_out, open } } = sum;
    UsageRow { service, key, requests, refused, bytes_in, bytes_out, open }
}
