//! What a workload waits for, and what comes of it.

use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use blueprint_agent_workload_core::storage::OverStorage;
use blueprint_common_types::Health;
use blueprint_common_types::workload::{Seat, WorkloadState};
use tokio::sync::watch;
use tokio::time::sleep_until;
use tracing::{info, warn};

use super::{Run, Running, Workload};
use crate::bridge::Serving;
use crate::instance::Instance;
use crate::{Healths, registration};

/// What happened while it was waited.
enum Event {
    Stop,
    Exit(blueprint_agent_workload_core::Exit),
    Health(Option<(Health, String)>),
    Greeted,
    Over(OverStorage),
    Due,
}

/// Waits until the checks of an instance find something else.
async fn changed(
    healths: &mut watch::Receiver<Arc<Healths>>,
    seat: Seat,
    known: &Option<(Health, String)>,
) -> Option<(Health, String)> {
    loop {
        if healths.changed().await.is_err() {
            return pending().await;
        }
        let found = healths.borrow_and_update().get(&seat).cloned();
        if found != *known {
            return found;
        }
    }
}

/// Waits for a time; for ever where there is none.
async fn due(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until.into()).await,
        None => pending().await,
    }
}

impl Run<'_> {
    pub(super) async fn wait(&mut self, until: Option<Instant>) {
        let is_starting = self.life.state() == WorkloadState::Starting;
        let (instance, bridge, storage) = match &mut self.running {
            Some(Running { instance, bridge, storage, .. }) => {
                (Some(instance), bridge.as_ref(), Some(storage))
            }
            None => (None, None, None),
        };
        let greeted = bridge.map(Serving::greeted);
        let greeted = async {
            match greeted.filter(|_| is_starting) {
                Some(greeted) => greeted.await,
                None => pending().await,
            }
        };
        let Workload { stop, finish, seat, .. } = self.workload;
        let asked = if finish.is_cancelled() { stop } else { finish };
        let health = changed(&mut self.healths, *seat, &self.health);
        let exit = async {
            match instance {
                Some(instance) => instance.wait().await,
                None => pending().await,
            }
        };
        let over = async {
            match storage {
                Some(storage) => storage.over().await,
                None => pending().await,
            }
        };
        let event = tokio::select! {
            biased;
            exit = exit => Event::Exit(exit),
            () = greeted => Event::Greeted,
            health = health => Event::Health(health),
            () = asked.cancelled(), if !asked.is_cancelled() => Event::Stop,
            over = over => Event::Over(over),
            () = due(until) => Event::Due,
        };
        let now = Instant::now();
        match event {
            Event::Exit(exit) => {
                let mut ended = self.running.take().map(|running| running.instance);
                let last = ended.as_ref().and_then(Instance::last_line);
                if let Some(instance) = &mut ended
                    && let Err(error) = instance.remove().await
                {
                    warn!(service = %self.workload.seat.service, %error, "its container is not removed yet");
                } else {
                    ended = None;
                }
                info!(service = %self.workload.seat.service, %exit, last, "workload ended");
                if self.spec.registration && self.spec.lease.is_some() && exit.is_success() {
                    let Workload { common, seat, generation, .. } = self.workload;
                    let hub = common.hub.as_ref();
                    registration::hand_over(hub, seat.service, *generation, &self.folders, stop).await;
                }
                self.life.handle_hub(self.workload.common.hub.is_away());
                self.life.handle_exit(exit, last.as_deref(), now);
                if let Some(instance) = ended {
                    self.remove(instance).await;
                }
            }
            Event::Greeted => self.life.handle_ready(now),
            Event::Health(found) => {
                let told = found.as_ref().map(|(health, reason)| (*health, reason.as_str()));
                self.life.handle_health(told, now);
                self.health = found;
            }
            Event::Over(over) => {
                warn!(service = %self.workload.seat.service, %over, "workload ended");
                self.life.handle_over_storage(over.to_string(), now);
            }
            Event::Stop => self.life.handle_stop(now),
            Event::Due => {}
        }
    }
}
