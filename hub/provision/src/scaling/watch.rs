//! The task that looks at services with a tier.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_provision_core::lifecycle::{
    Deployer, Record, RecordState, Records, RecordsResult, Spread, Wanted,
};
use blueprint_hub_provision_core::scaling::{
    Measure, Presence, Replica, ResizeError, Scaler, Scaling, Sight, Step, is_replacing, nodes_of,
};
use blueprint_hub_provision_core::{Candidate, InstanceKey};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Meter, Parts, Reading};
use crate::calls::chain;
use crate::metrics::ScaleMetrics;

/// Shortest and longest time over which a rate of requests is measured where looks come quickly.
const RATE_OVER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// Pause before the next look while something is under way.
const SOON: Duration = Duration::from_secs(1);

/// The task.
pub struct ScaleWatch {
    parts: Parts,
    scaler: Scaler,
    meter: Arc<dyn Meter>,
    metrics: ScaleMetrics,
    /// The last sample of each agent for each service: its own time of it, and when the hub first saw it.
    heard: BTreeMap<(ServiceKey, AgentId), (Timestamp, Timestamp)>,
    /// Requests at each agent of a service, and when they were counted.
    counted: BTreeMap<ServiceKey, (Instant, BTreeMap<AgentId, u64>)>,
    /// What could not be done and is noted already.
    held: BTreeMap<ServiceKey, String>,
}

impl fmt::Debug for ScaleWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScaleWatch").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl ScaleWatch {
    pub(super) fn new(parts: Parts, scaler: Scaler, meter: Arc<dyn Meter>, metrics: ScaleMetrics) -> Self {
        let (heard, counted, held) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { parts, scaler, meter, metrics, heard, counted, held }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let kick = Arc::clone(&self.parts.kick);
        loop {
            let is_moving = self.look().await;
            let every = self.parts.config.every;
            let due = Instant::now() + if is_moving { SOON.min(every) } else { every };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = kick.notified() => {}
                () = sleep_until(due) => {}
            }
        }
    }

    /// One look at every service; true where something is under way that is looked at again soon.
    async fn look(&mut self) -> bool {
        match self.look_at_all().await {
            Ok(is_moving) => is_moving,
            Err(error) => {
                error!(error = chain(&error), "replicas not looked at");
                true
            }
        }
    }

    async fn look_at_all(&mut self) -> RecordsResult<bool> {
        let parts = self.parts.clone();
        // Before the machines: a step by terms that are changed since is not done, one by machines of before would be.
        let all = parts.store.scalings().await?;
        let records = parts.provisioner.store.load_lifecycle().await?;
        // Also where nothing is scaled any more: what leaves is not served.
        self.tell_leaving(&records).await;
        self.meter.place(nodes_of(&all, &records)).await;
        self.forget_others(&all);
        let mut is_moving = records.leaving.values().any(|mark| !mark.is_released);
        if !parts.config.is_enabled {
            return Ok(false);
        }
        for scaling in all {
            let sight = self.sight(&scaling, &records).await;
            let now = parts.provisioner.now();
            let (step, why) = self.scaler.look(&scaling, &sight, now);
            self.metrics.seen(&scaling, &sight);
            parts.seen.lock().insert(scaling.service, (sight, why));
            if let Some(step) = step {
                // What takes the place of a replica is minutes away, and what stands in its way stays.
                is_moving |= !matches!(step, Step::Replace { .. });
                self.carry_out(&scaling, step, now).await?;
            } else {
                self.held.remove(&scaling.service);
            }
        }
        Ok(is_moving)
    }

    async fn tell_leaving(&self, records: &Records) {
        let agents = records.leaving.keys().filter_map(|key| records.instances.get(key)?.agent);
        self.meter.leave(agents.collect()).await;
    }

    /// Forgets what is known of services that have no terms any more.
    fn forget_others(&mut self, all: &[Scaling]) {
        let known: BTreeSet<_> = all.iter().map(|scaling| scaling.service).collect();
        let gone: Vec<_> = self.counted.keys().copied().filter(|service| !known.contains(service)).collect();
        for service in gone {
            self.scaler.forget(service);
            self.metrics.forget(service);
            self.counted.remove(&service);
            self.held.remove(&service);
        }
        self.heard.retain(|(service, _), _| known.contains(service));
        self.parts.seen.lock().retain(|service, _| known.contains(service));
    }

    /// What is seen of a service.
    async fn sight(&mut self, scaling: &Scaling, records: &Records) -> Sight {
        let deployment = records.deployments.get(&scaling.deployment);
        let is_own = |record: &&Record| record.deployment == scaling.deployment && record.state.is_live();
        let own: Vec<&Record> = records.instances.values().filter(is_own).collect();
        let agents: BTreeSet<AgentId> = own.iter().filter_map(|record| record.agent).collect();
        let readings = self.meter.read(scaling.service, agents).await;
        let rate = self.rate(scaling.service, &readings);
        let now = self.parts.provisioner.now();
        let clouds = self.parts.provisioner.overview();
        let listed_at = |name: &str| {
            let cloud = clouds.clouds.iter().find(|cloud| cloud.name == name)?;
            // Of its breaker: closed while it is called.
            cloud.listed_at.filter(|_| cloud.is_closed && cloud.error.is_none())
        };
        let mut replicas = Vec::with_capacity(own.len());
        for record in own {
            let mark = records.leaving.get(&record.key);
            if mark.is_some_and(|mark| mark.is_released) {
                continue;
            }
            let reading = record.agent.and_then(|agent| Some((agent, *readings.get(&agent)?)));
            let measure = reading.and_then(|(agent, reading)| {
                let (at, cpu_percent) = reading.cpu?;
                let heard_at = self.heard_at(scaling.service, agent, at, now);
                Some(Measure { cpu_percent: cpu_percent.into(), heard_at })
            });
            let is_up = record.state == RecordState::Active && !record.is_off;
            let presence = match record.state {
                RecordState::Active => {
                    let is_here = reading.is_some_and(|(_, reading)| reading.is_here);
                    if is_here { Presence::Here } else { Presence::Away }
                }
                RecordState::Planned | RecordState::Calling | RecordState::Created => Presence::Coming,
                RecordState::Deleting | RecordState::Gone | RecordState::Lost | RecordState::Failed => {
                    continue;
                }
            };
            replicas.push(Replica {
                key: record.key.clone(),
                number: record.number,
                place: place_of(&record.candidate),
                is_ready: is_up && reading.is_some_and(|(_, reading)| reading.is_ready),
                presence,
                listed_at: listed_at(&record.candidate.provider),
                leaving_since: mark.map(|mark| mark.since),
                measure,
                open: reading.map_or(0, |(_, reading)| reading.open),
            });
        }
        Sight {
            wanted: deployment.map_or(0, |deployment| deployment.replicas),
            replicas,
            rate,
            is_running: deployment.is_some_and(|deployment| deployment.wanted == Wanted::Running),
            is_gone: deployment.is_none_or(|deployment| deployment.wanted == Wanted::Gone),
            is_clock_trusted: self.parts.provisioner.is_clock_trusted(),
            is_reached: self.meter.is_reached(),
            updating: self.meter.updating(scaling.service),
            is_replacing: is_replacing(records),
        }
    }

    /// When the hub first saw a sample: the clocks of agents do not count.
    fn heard_at(&mut self, service: ServiceKey, agent: AgentId, at: Timestamp, now: Timestamp) -> Timestamp {
        let heard = self.heard.entry((service, agent)).or_insert((at, now));
        if heard.0 != at {
            *heard = (at, now);
        }
        heard.1
    }

    /// Requests and connections a second that began since the look before, and one for each that lasts; `None` where there
    /// was no look before, or hardly any time is between.
    fn rate(&mut self, service: ServiceKey, readings: &BTreeMap<AgentId, Reading>) -> Option<f64> {
        let now = Instant::now();
        let none = BTreeMap::new();
        let known = self.counted.get(&service);
        let before = known.map_or(&none, |(_, before)| before);
        let counts = counts(before, readings);
        let Some((then, before)) = known else {
            self.counted.insert(service, (now, counts));
            return None;
        };
        let span = now.saturating_duration_since(*then);
        let [least, most] = RATE_OVER;
        if span < self.parts.config.every.clamp(least, most).mul_f64(0.9) {
            let seen = self.parts.seen.lock();
            return seen.get(&service).and_then(|(sight, _)| sight.rate);
        }
        let grown = u32::try_from(grown(before, &counts)).unwrap_or(u32::MAX);
        // What lasts began long ago and is work all the same.
        let lasting = readings.values().map(|reading| f64::from(reading.lasting)).sum::<f64>();
        let rate = f64::from(grown) / span.as_secs_f64() + lasting;
        self.counted.insert(service, (now, counts));
        Some(rate)
    }

    /// Stores a step; then it is so. Where the operator has changed what it was decided by, nothing is done: the next look is
    /// by what was said.
    async fn carry_out(&mut self, scaling: &Scaling, step: Step, now: Timestamp) -> RecordsResult<()> {
        let parts = self.parts.clone();
        let (label, service) = (step.label(), scaling.service);
        let reason = step.reason().to_owned();
        let nobody = BTreeSet::<InstanceKey>::new();
        let limits = parts.provisioner.limits();
        match step {
            Step::Grow { to, .. } => {
                let grown =
                    parts.store.resize(scaling.clone(), to, nobody, reason.clone(), limits, now).await;
                return self.grown(scaling, grown, to, &reason, now).await;
            }
            Step::Shrink { to, released, .. } => {
                let shrunk =
                    parts.store.resize(scaling.clone(), to, released, reason.clone(), limits, now).await;
                match shrunk {
                    Err(ResizeError::Store(error)) => return Err(error),
                    Ok(false) => return Ok(()),
                    // Nothing stands in the way of fewer.
                    Ok(true) | Err(ResizeError::OverLimit(_) | ResizeError::Held(_)) => {}
                }
                info!(target: "audit", %service, to, reason, "replicas go");
                parts.provisioner.kick.notify_one();
            }
            Step::Drain { keys, .. } => {
                let (of, why) = (scaling.clone(), reason.clone());
                if !parts.store.mark_leaving(of, keys.clone(), nobody, why, now).await? {
                    return Ok(());
                }
                info!(target: "audit", %service, ?keys, reason, "replicas drain");
                self.tell_leaving(&parts.provisioner.store.load_lifecycle().await?).await;
            }
            Step::Keep { keys, .. } => {
                let (of, why) = (scaling.clone(), reason.clone());
                if !parts.store.mark_leaving(of, nobody, keys.clone(), why, now).await? {
                    return Ok(());
                }
                info!(target: "audit", %service, ?keys, reason, "replicas stay");
                self.tell_leaving(&parts.provisioner.store.load_lifecycle().await?).await;
            }
            Step::Replace { key, .. } => {
                match self.give_up(scaling, key.clone(), reason, now).await {
                    Err(ResizeError::Store(error)) => return Err(error),
                    Err(refused @ (ResizeError::OverLimit(_) | ResizeError::Held(_))) => {
                        // Not for how long it is away: it is noted once.
                        let refused = format!("{key} was to be replaced, its agent is away: {refused}");
                        return self.refused(service, refused, now).await;
                    }
                    Ok(false) => return Ok(()),
                    Ok(true) => {}
                }
            }
            Step::Turn { phase, .. } => {
                if !parts.store.set_phase(scaling.clone(), phase, reason.clone(), now).await? {
                    return Ok(());
                }
                info!(target: "audit", %service, phase = phase.label(), reason, "payment of a service");
            }
            Step::End { .. } => {
                if !parts.store.end(scaling.clone(), reason.clone(), now).await? {
                    return Ok(());
                }
                info!(target: "audit", %service, deployment = %scaling.deployment, reason, "deployment ends");
                parts.provisioner.kick.notify_one();
            }
        }
        self.metrics.acted(label);
        Ok(())
    }

    /// Has another machine take the place of one whose agent is away; false where it came back meanwhile.
    ///
    /// # Errors
    ///
    /// Why no other one may take its place; then it stays.
    async fn give_up(
        &self,
        scaling: &Scaling,
        key: InstanceKey,
        reason: String,
        now: Timestamp,
    ) -> Result<bool, ResizeError> {
        let (parts, service) = (&self.parts, scaling.service);
        let records = parts.provisioner.store.load_lifecycle().await?;
        // By the records of now: this very look may have given up a replica of another service.
        if is_replacing(&records) || !self.meter.is_reached() {
            return Ok(false);
        }
        let agent = records.instances.get(&key).and_then(|record| record.agent);
        let Some(agent) = agent else { return Ok(false) };
        let readings = self.meter.read(service, BTreeSet::from([agent])).await;
        if readings.get(&agent).is_none_or(|reading| reading.is_here || reading.is_ready) {
            return Ok(false);
        }
        let limits = parts.provisioner.limits();
        if !parts.store.replace(scaling.clone(), key.clone(), reason.clone(), limits, now).await? {
            return Ok(false);
        }
        warn!(target: "audit", %service, %key, reason, "replica given up, another one takes its place");
        parts.provisioner.kick.notify_one();
        Ok(true)
    }

    /// What came of a step up; what stands in its way is noted once.
    async fn grown(
        &mut self,
        scaling: &Scaling,
        grown: Result<bool, ResizeError>,
        to: u32,
        reason: &str,
        now: Timestamp,
    ) -> RecordsResult<()> {
        let service = scaling.service;
        let refused = match grown {
            Ok(false) => return Ok(()),
            Ok(true) => {
                info!(target: "audit", %service, to, reason, "replicas are ordered");
                self.held.remove(&service);
                self.metrics.acted("grow");
                self.parts.provisioner.kick.notify_one();
                return Ok(());
            }
            Err(ResizeError::Store(error)) => return Err(error),
            Err(refused @ (ResizeError::OverLimit(_) | ResizeError::Held(_))) => {
                format!("{to} replicas were to be wanted ({reason}): {refused}")
            }
        };
        self.refused(service, refused, now).await
    }

    /// Notes what stands in the way of a step, once.
    async fn refused(&mut self, service: ServiceKey, refused: String, now: Timestamp) -> RecordsResult<()> {
        self.metrics.acted("held");
        if let Some((_, why)) = self.parts.seen.lock().get_mut(&service) {
            why.clone_from(&refused);
        }
        if self.held.get(&service) != Some(&refused) {
            warn!(target: "audit", %service, refused, "replicas are not ordered");
            self.parts.store.note_held(service, refused.clone(), now).await?;
            self.held.insert(service, refused);
        }
        Ok(())
    }
}

/// Where a machine is; zones of one region are one place.
fn place_of(candidate: &Candidate) -> (String, String) {
    let (provider, region) = Spread::Regions.place(candidate);
    (provider.to_owned(), region.to_owned())
}

/// Requests at each agent, by what was counted before: one whose target is missing for a look keeps its count.
fn counts(before: &BTreeMap<AgentId, u64>, readings: &BTreeMap<AgentId, Reading>) -> BTreeMap<AgentId, u64> {
    let count = |(agent, reading): (&AgentId, &Reading)| {
        let known = before.get(agent).copied().unwrap_or(0);
        (*agent, if reading.requests == 0 { known } else { reading.requests })
    };
    readings.iter().map(count).collect()
}

/// Requests that came since: one that is new, or counts anew, had none before.
fn grown(before: &BTreeMap<AgentId, u64>, counts: &BTreeMap<AgentId, u64>) -> u64 {
    let more = counts.iter().map(|(agent, count)| {
        let known = before.get(agent).copied().unwrap_or(0);
        if *count < known { *count } else { count - known }
    });
    more.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_missing_for_a_look_does_not_count_twice() {
        let agent = AgentId::from_bytes([7; 16]);
        let look = |requests| BTreeMap::from([(agent, Reading { requests, ..Reading::default() })]);
        let mut before = BTreeMap::from([(agent, 1000)]);
        for (requests, more) in [(1010, 10), (0, 0), (1015, 5), (3, 3), (4, 1)] {
            let now = counts(&before, &look(requests));
            assert_eq!(grown(&before, &now), more, "{requests}");
            before = now;
        }
    }
}
