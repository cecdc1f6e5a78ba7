//! Messages on their way to webhooks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use blueprint_hub_provision_core::cost::alert::{AlertEvent, Delivery, DeliveryState};
use blueprint_hub_provision_core::lifecycle::Deployer;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use super::Parts;
use crate::calls::chain;

/// Messages that are sent at once.
const AT_ONCE: u32 = 8;

/// Longest time that a try may take, whatever the courier does.
const WITHIN: Duration = Duration::from_secs(30);

/// Pause before the store is asked again where it failed.
const AGAIN: Duration = Duration::from_secs(5);

/// What is under way, and when to look for more.
pub(super) struct Post {
    parts: Parts,
    open: FuturesUnordered<BoxFuture<'static, (AlertEvent, Result<(), String>)>>,
    /// Those under way, and with what came of it those that are to be noted.
    known: BTreeMap<u64, Option<Delivery>>,
    next: Option<Instant>,
}

impl Post {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts, open: FuturesUnordered::new(), known: BTreeMap::new(), next: None }
    }

    /// When the next message is due that is not under way; `None` where none waits.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Notes what came of messages, and begins to send what is due, as far as there is room.
    pub(super) async fn begin(&mut self) {
        self.next = None;
        let ended: Vec<_> = self.known.iter().filter_map(|(id, ended)| Some((*id, ended.clone()?))).collect();
        for (id, delivery) in ended {
            // What is not noted is not sent again as long as this process lives.
            match self.parts.store.note_delivery(id, delivery).await {
                Ok(()) => drop(self.known.remove(&id)),
                Err(error) => {
                    error!(event = id, error = chain(&error), "message of an alert not noted");
                    self.next = Some(Instant::now() + AGAIN);
                    return;
                }
            }
        }
        let room = AT_ONCE.saturating_sub(u32::try_from(self.open.len()).unwrap_or(u32::MAX));
        if room == 0 {
            return;
        }
        let now = self.parts.provisioner.now();
        // Those under way are due as well.
        let found = match self.parts.store.deliveries(now, AT_ONCE * 2).await {
            Ok(found) => found,
            Err(error) => {
                error!(error = chain(&error), "messages of alerts not read");
                self.next = Some(Instant::now() + AGAIN);
                return;
            }
        };
        self.parts.metrics.waiting(found.waiting);
        self.next = found.next.map(|next| Instant::now() + next.since(now));
        let new: Vec<_> =
            found.due.into_iter().filter(|(event, _)| !self.known.contains_key(&event.id)).collect();
        for (event, hook) in new.into_iter().take(usize::try_from(room).unwrap_or(0)) {
            self.known.insert(event.id, None);
            let courier = Arc::clone(&self.parts.courier);
            let sent = async move {
                let sent = timeout(WITHIN, courier.send(&event, &hook)).await;
                let late = || Err(format!("no answer within {} s", WITHIN.as_secs()));
                let sent = sent.unwrap_or_else(|_| late());
                (event, sent)
            };
            self.open.push(sent.boxed());
        }
    }

    /// Waits until one of those under way ends; for ever where none is. [`Self::begin`] notes how.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn progress(&mut self) {
        let Some((event, result)) = self.open.next().await else { return std::future::pending().await };
        let delivery = event.delivery.tried(result, self.parts.provisioner.now());
        self.parts.metrics.delivered(delivery.state.label());
        let (alert, attempts, id) = (&event.alert, delivery.attempts, event.id);
        match delivery.state {
            DeliveryState::Delivered => info!(alert, event = id, attempts, "message of an alert delivered"),
            DeliveryState::Failed => {
                error!(alert, event = id, attempts, error = delivery.error, "message of an alert given up");
            }
            DeliveryState::None | DeliveryState::Waiting | DeliveryState::Dropped => {
                warn!(
                    alert,
                    event = id,
                    attempts,
                    error = delivery.error,
                    "message of an alert not delivered"
                );
            }
        }
        self.known.insert(id, Some(delivery));
    }
}
