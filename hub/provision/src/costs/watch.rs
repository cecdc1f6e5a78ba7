//! The task that reads the meter and says what alerts have to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{AgentId, Timestamp};
use blueprint_hub_provision_core::InstanceKey;
use blueprint_hub_provision_core::catalogue::Day;
use blueprint_hub_provision_core::cost::alert::{Alert, AlertAction, AlertEvent, Bill, Period};
use blueprint_hub_provision_core::cost::egress::Counters;
use blueprint_hub_provision_core::lifecycle::{
    Deployer, Deployment, Record, RecordState, Records, RecordsResult, Wanted,
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::post::Post;
use super::{Parts, Received};
use crate::calls::chain;

/// The task.
pub struct CostWatch {
    every: Duration,
    parts: Parts,
    received: Received,
    counters: Counters,
    post: Post,
}

impl fmt::Debug for CostWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CostWatch").field("every", &self.every).finish_non_exhaustive()
    }
}

impl CostWatch {
    pub(super) fn new(every: Duration, parts: Parts, received: Received) -> Self {
        let post = Post::new(parts.clone());
        Self { every, parts, received, counters: Counters::default(), post }
    }

    /// Runs until `stop`; then what machines sent is stored once more, and messages under way are dropped and sent again
    /// after the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        let kick = Arc::clone(&self.parts.kick);
        let mut due = Instant::now();
        loop {
            if due <= Instant::now() {
                self.look().await;
                due = Instant::now() + self.every;
            }
            self.post.begin().await;
            let next = self.post.next().map_or(due, |next| next.min(due));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = kick.notified() => due = Instant::now(),
                () = self.post.progress() => {}
                () = sleep_until(next) => {}
            }
        }
        if let Some(records) = self.records().await {
            self.measure(&records).await;
        }
    }

    async fn look(&mut self) {
        let Some(records) = self.records().await else { return };
        self.measure(&records).await;
        if let Err(error) = self.judge(&records).await {
            error!(error = chain(&error), "alerts not looked at");
        }
    }

    /// Everything that is stored. Takes `self` whole, as what follows: messages under way cannot be shared between threads.
    async fn records(&mut self) -> Option<Records> {
        let loaded = self.parts.provisioner.store.load_lifecycle().await;
        loaded.inspect_err(|error| error!(error = chain(error), "deployments not read")).ok()
    }

    /// Stores by how much the counters of tunnels grew; where that fails it is added the next time.
    async fn measure(&mut self, records: &Records) {
        let received = (self.received)();
        let of = |agent: Option<AgentId>| agent.and_then(|id| Some((id, *received.get(&id)?)));
        let own = records.instances.values();
        let now: BTreeMap<InstanceKey, (AgentId, u64)> =
            own.filter_map(|record| Some((record.key.clone(), of(record.agent)?))).collect();
        let grown = self.counters.grown(&now);
        if !grown.is_empty() {
            let bytes = grown.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
            let today = Day::from(self.parts.provisioner.now());
            if let Err(error) = self.parts.store.add_egress(grown, today).await {
                error!(error = chain(&error), "what machines sent is not stored");
                return;
            }
            self.parts.metrics.sent(bytes);
        }
        self.counters.note(now);
    }

    /// Says what alerts have to, and ends what they end.
    async fn judge(&mut self, records: &Records) -> RecordsResult<()> {
        let parts = self.parts.clone();
        let alerts = parts.store.alerts().await?;
        let mut in_force = 0;
        if !alerts.is_empty() {
            let is_trusted = parts.provisioner.is_clock_trusted();
            let read = parts.read(alerts.iter().any(|alert| alert.terms.period == Period::Total)).await?;
            let limits = parts.provisioner.limits();
            let bill = Bill {
                spans: &read.spans,
                egress: &read.egress,
                limits: &limits,
                now: read.now,
                last: read.last,
            };
            let is_trusted = is_trusted && parts.provisioner.is_clock_trusted();
            let (told, nothing) = (parts.store.told(read.now).await?, BTreeSet::new());
            for alert in &alerts {
                let due = alert.due(&bill, told.get(&alert.name).unwrap_or(&nothing));
                // A mark of a period that is not there yet would be told too early, and never when it comes.
                if !due.is_empty() && !is_trusted {
                    warn!(
                        alert = alert.name,
                        told = due.last().map(|finding| finding.text.as_str()),
                        "only logged while the clock is in doubt"
                    );
                } else if !due.is_empty() {
                    let events = parts.store.fire(alert.name.clone(), alert.edition, due, read.now).await?;
                    parts.fired(&events);
                }
                if !alert.standing(&bill).is_in_force {
                    continue;
                }
                in_force += 1;
                if alert.terms.action != AlertAction::Terminate {
                    continue;
                }
                // A clock that was set forward would end everything.
                if is_trusted && parts.provisioner.is_clock_trusted() {
                    self.end(alert, records, read.now).await?;
                } else {
                    warn!(alert = alert.name, "nothing is ended while the clock is in doubt");
                }
            }
        }
        parts.metrics.looked(alerts.len(), in_force);
        Ok(())
    }

    /// Ends every deployment that an alert counts, unless it was released, changed or removed meanwhile.
    async fn end(&mut self, alert: &Alert, records: &Records, now: Timestamp) -> RecordsResult<()> {
        let own = records.deployments.values().filter(|it| it.wanted != Wanted::Gone);
        let doomed = own.filter(|deployment| self.counts(alert, deployment, records));
        let doomed: Vec<_> = doomed.map(|deployment| deployment.id.clone()).collect();
        if doomed.is_empty() {
            return Ok(());
        }
        let parts = self.parts.clone();
        let limits = parts.provisioner.limits();
        let ended = parts.store.end_by_alert(alert.name.clone(), alert.edition, doomed, limits, now).await?;
        for deployment in &ended {
            info!(target: "audit", alert = alert.name, %deployment, "deployment ended by an alert");
        }
        if !ended.is_empty() {
            parts.provisioner.kick.notify_one();
        }
        Ok(())
    }

    /// Whether costs of a deployment count: where its machines are, or where the first would be ordered. One whose cloud was
    /// never called is nowhere yet.
    fn counts(&self, alert: &Alert, deployment: &Deployment, records: &Records) -> bool {
        let limits = self.parts.provisioner.limits();
        let counts =
            |provider: &str| limits.counts(provider) && alert.terms.scope.takes(&deployment.id, provider);
        let machines = records.instances.values().filter(|it| it.deployment == deployment.id);
        let was_called = |it: &&Record| it.state != RecordState::Planned || it.called_at.is_some();
        let there = machines.filter(|it| !it.state.is_ended()).filter(was_called);
        there.map(|it| &it.candidate.provider).any(|provider| counts(provider))
            || deployment.plan.first().is_some_and(|first| counts(&first.provider))
    }
}

impl Parts {
    /// Logs and counts what was told.
    pub(super) fn fired(&self, events: &[AlertEvent]) {
        for event in events {
            let (kind, finding) = (event.finding.mark.kind.label(), &event.finding);
            self.metrics.fired(kind);
            warn!(target: "audit", alert = event.alert, event = event.id, kind, period = finding.mark.period, spent = %finding.spent, amount = %event.amount, told = finding.text, "alert about costs");
        }
    }
}
