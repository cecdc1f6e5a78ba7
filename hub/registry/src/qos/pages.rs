//! What services say of themselves, kept from time to time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::ServiceKey;
use blueprint_hub_registry_core::qos::{PagePoint, QosError};
use futures_util::StreamExt;
use futures_util::stream::iter;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::desk::Desk;

/// Pages that are read at once.
const READS: usize = 4;

/// Services that are asked in one round.
const MOST_SERVICES: usize = 500;

/// How long a service that shows nothing is not asked again.
const QUIET: Duration = Duration::from_secs(3600);

/// Most entries of a page that is kept, and most bytes of their names and values.
const KEPT_ENTRIES: usize = 128;
const KEPT_BYTES: usize = 8 * 1024;

/// Pages that are kept of one service and in all, and for how long.
pub(crate) const KEPT_PAGES: (u32, u32) = (600, 20_000);
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(48 * 3600);

/// Pages that are stored in one transaction.
const BATCH: usize = 64;

/// The task.
#[derive(Debug)]
pub struct PageWatch {
    desk: Desk,
    every: Duration,
    quiet: BTreeMap<ServiceKey, Instant>,
    /// The service after the last one that was asked: the next round begins there.
    next: ServiceKey,
}

impl PageWatch {
    /// Reads the metrics of every service so often.
    #[must_use]
    pub fn new(desk: Desk, every: Duration) -> Self {
        Self { desk, every, quiet: BTreeMap::new(), next: ServiceKey { blueprint: 0, service: 0 } }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let round = async {
                tick.tick().await;
                self.round().await;
            };
            if stop.run_until_cancelled(round).await.is_none() {
                return;
            }
        }
    }

    async fn round(&mut self) {
        self.quiet.retain(|_, since| since.elapsed() < QUIET);
        let snapshot = self.desk.snapshot();
        let known = snapshot.by_service.keys().filter(|service| !self.quiet.contains_key(service));
        let (asked, next) = turn(known.copied(), self.next);
        self.next = next;
        drop(snapshot);
        let desk = &self.desk;
        let reads = iter(asked).map(|service| async move { (service, desk.says(service).await) });
        let mut reads = reads.buffer_unordered(READS);
        let mut pages: Vec<(ServiceKey, PagePoint)> = Vec::new();
        let mut quiet = Vec::new();
        while let Some((service, read)) = reads.next().await {
            match read {
                Ok((at, page)) if !page.is_empty() => pages.push((service, (at, cut(page)))),
                Ok(_) => quiet.push(service),
                // A service that is away comes back; one that shows nothing is left alone for a while.
                Err(QosError::NoMetrics { reason, .. }) if reason.contains("shows no metrics") => {
                    quiet.push(service)
                }
                Err(_) => {}
            }
            if pages.len() >= BATCH {
                self.store(std::mem::take(&mut pages)).await;
            }
        }
        drop(reads);
        if !pages.is_empty() {
            self.store(pages).await;
        }
        self.quiet.extend(quiet.into_iter().map(|service| (service, Instant::now())));
    }

    async fn store(&self, pages: Vec<(ServiceKey, PagePoint)>) {
        let store = Arc::clone(&self.desk.parts.store);
        if let Err(error) = store.write_pages(pages, KEPT_FOR, KEPT_PAGES).await {
            warn!(%error, "metrics of services not stored");
        }
    }
}

/// The services of one round, from `next` on and around, and where the round after begins.
pub(super) fn turn(
    known: impl Iterator<Item = ServiceKey> + Clone,
    next: ServiceKey,
) -> (Vec<ServiceKey>, ServiceKey) {
    let from = known.clone().filter(|service| *service >= next);
    let mut around = from.chain(known.filter(|service| *service < next));
    let asked = around.by_ref().take(MOST_SERVICES).collect();
    (asked, around.next().unwrap_or(next))
}

/// The first entries of a page that there is room for.
pub(crate) fn cut(page: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut room = KEPT_BYTES;
    let fits = |(name, value): &(String, String)| {
        let length = name.len() + value.len();
        let is_room = length <= room;
        room = room.saturating_sub(length);
        is_room
    };
    page.into_iter().take(KEPT_ENTRIES).take_while(fits).collect()
}
