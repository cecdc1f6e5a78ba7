//! The one task that owns the reconciler.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::{HubId, Timestamp};
use blueprint_hub_provision_core::cost::Limits;
use blueprint_hub_provision_core::lifecycle::{
    Action, Cloud, LifecycleStore, Overview, Reconciler, Record, RecordState, Records, RecordsResult,
    Settings, View, Wanted,
};
use blueprint_hub_provision_core::{Listing, Provider, ProviderError};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::calls::{self, Creation, Ended, chain};
use crate::clock::Clock;
use crate::handle::Renewed;
use crate::lane::Way;
use crate::metrics::ProvisionMetrics;
use crate::{Host, Provisioner};

/// First and longest pause between two lists while machines are on their way.
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(10);

/// How often the look at the clouds is noted.
const NOTE_EVERY: Duration = Duration::from_secs(30);

/// What the provisioner goes by.
#[derive(Debug, Clone, Copy)]
pub struct ProvisionConfig {
    /// Whose machines they are.
    pub hub: HubId,
    /// Times of the reconciler.
    pub settings: Settings,
    /// Pause between two lists of a cloud where nothing is on its way.
    pub every: Duration,
    /// Life of the join token of a machine.
    pub token_ttl: Duration,
    /// What all deployments together may come to.
    pub limits: Limits,
    /// Seed of the jitter between tries.
    pub seed: u64,
}

/// One cloud and what is under way with it.
struct Lane {
    way: Way,
    /// Calls under way, the list included.
    open: usize,
    /// When it is listed next, where nothing is under way.
    due: Instant,
    /// Pause before the list after the next, while machines are on their way.
    pause: Duration,
    /// Something was asked for while calls were under way: it is listed as soon as the last of them has ended.
    is_hurried: bool,
    listed_at: Option<Timestamp>,
    machines: usize,
}

/// The task.
pub struct Leader {
    config: ProvisionConfig,
    store: Arc<dyn LifecycleStore>,
    host: Arc<dyn Host>,
    lanes: BTreeMap<String, Lane>,
    calls: FuturesUnordered<BoxFuture<'static, Ended>>,
    reconciler: Reconciler,
    clock: Clock,
    noted_at: Option<Instant>,
    kick: Arc<Notify>,
    renewed: Renewed,
    overview: watch::Sender<Arc<Overview>>,
    metrics: ProvisionMetrics,
}

impl fmt::Debug for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leader").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Leader {
    /// Reads when clouds were last looked at; the task runs with [`Self::run`]. `wall` says the time of day.
    ///
    /// # Errors
    ///
    /// Where the store cannot be read.
    pub async fn new(
        config: ProvisionConfig,
        store: Arc<dyn LifecycleStore>,
        host: Arc<dyn Host>,
        providers: Vec<Arc<dyn Provider>>,
        wall: Arc<dyn Fn() -> Timestamp + Send + Sync>,
        metrics: &Metrics,
    ) -> RecordsResult<(Self, Provisioner)> {
        let records = store.load_lifecycle().await?;
        let metrics = ProvisionMetrics::new(metrics);
        let began = Instant::now();
        let clock = Clock::new(records.scanned_at, wall);
        let ways: BTreeMap<_, _> = providers
            .into_iter()
            .map(|provider| {
                let way = Way::new(provider, config.seed, metrics.clone());
                (way.name().to_owned(), way)
            })
            .collect();
        let lane = |way: &Way| Lane {
            way: way.clone(),
            open: 0,
            due: began,
            pause: SOON,
            is_hurried: false,
            listed_at: None,
            machines: 0,
        };
        let (sender, overview) = watch::channel(Arc::default());
        let (kick, renewed) = (Arc::new(Notify::new()), Renewed::default());
        let leader = Self {
            lanes: ways.iter().map(|(name, way)| (name.clone(), lane(way))).collect(),
            calls: FuturesUnordered::new(),
            reconciler: Reconciler::new(config.hub, config.settings),
            clock: clock.clone(),
            noted_at: None,
            kick: Arc::clone(&kick),
            renewed: Arc::clone(&renewed),
            overview: sender,
            config,
            store: Arc::clone(&store),
            host,
            metrics,
        };
        // Which clouds there are is known from the first moment on.
        leader.publish();
        Ok((
            leader,
            Provisioner {
                store,
                ways: Arc::new(ways),
                kick,
                renewed,
                overview,
                clock,
                limits: config.limits,
            },
        ))
    }

    /// Runs until `stop`; calls that are under way then are dropped, and looked up at the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        let kick = Arc::clone(&self.kick);
        loop {
            self.deployments().await;
            self.list_due();
            let due = self.lanes.values().filter(|lane| lane.open == 0).map(|lane| lane.due).min();
            // Also without a cloud deployments end when their time is over.
            let due = due.unwrap_or_else(|| Instant::now() + self.config.every);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = self.calls.next() => self.handle(ended).await,
                () = kick.notified() => self.hurry(),
                () = sleep_until(due) => {}
            }
        }
    }

    /// The time to decide by.
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Every cloud is looked at as soon as it can be.
    fn hurry(&mut self) {
        let renewed = std::mem::take(&mut *self.renewed.lock());
        let now = self.now();
        renewed.iter().for_each(|provider| self.reconciler.handle_credentials(provider, now));
        for lane in self.lanes.values_mut() {
            (lane.due, lane.pause, lane.is_hurried) = (Instant::now(), SOON, lane.open > 0);
        }
    }

    fn list_due(&mut self) {
        let (asked_at, now) = (self.now(), Instant::now());
        for lane in self.lanes.values_mut().filter(|lane| lane.open == 0 && lane.due <= now) {
            if !lane.way.is_open() {
                lane.due = now + SOON;
                continue;
            }
            lane.open = 1;
            self.calls.push(calls::list(lane.way.clone(), asked_at).boxed());
        }
    }

    /// Everything that is stored; `None` where it cannot be read, which the next pass tries again.
    ///
    /// Takes `self` whole, since calls under way cannot be shared between threads.
    async fn load(&mut self) -> Option<Records> {
        let loaded = self.store.load_lifecycle().await;
        loaded.inspect_err(|error| error!(error = chain(error), "deployments not read")).ok()
    }

    /// What is wanted becomes records.
    async fn deployments(&mut self) {
        let Some(records) = self.load().await else { return };
        let agents = self.host.agents();
        let view = View {
            deployments: &records.deployments,
            records: &records.instances,
            leaving: &records.leaving,
            agents: &agents,
            now: self.now(),
            is_clock_trusted: self.clock.is_trusted(),
        };
        let providers: BTreeSet<String> = self.lanes.keys().cloned().collect();
        let actions = self.reconciler.plan_deployments(&view, &providers);
        let is_changed = actions.iter().any(|action| !matches!(action, Action::Report(_)));
        for action in actions {
            self.carry_out(action, &records).await;
        }
        if is_changed {
            self.hurry();
        }
        let states = records.instances.values().map(|record| record.state);
        self.metrics.seen(states, self.reconciler.alarms().len());
        self.publish();
    }

    async fn handle(&mut self, ended: Ended) {
        match ended {
            Ended::Listed { provider, asked_at, result } => {
                self.close(provider, Duration::ZERO);
                self.listed(provider, asked_at, result).await;
            }
            Ended::Created { provider, record, answer } => {
                let now = self.now();
                let next = answer.as_ref().and_then(|it| self.reconciler.handle_create(&record, it, now));
                if let Some(action) = next {
                    self.carry_out(action, &Records::default()).await;
                }
                self.close(provider, SOON);
            }
            Ended::Deleted { provider, provider_id, record, is_accepted } => {
                if is_accepted {
                    let now = self.now();
                    let next = self.reconciler.handle_delete(provider, &provider_id, record.as_deref(), now);
                    if let Some(action) = next {
                        self.carry_out(action, &Records::default()).await;
                    }
                }
                self.close(provider, SOON);
            }
            Ended::Switched { provider } => self.close(provider, SOON),
        }
    }

    /// One call of a lane ended; after the last of them it is listed again.
    fn close(&mut self, provider: &str, wait: Duration) {
        if let Some(lane) = self.lanes.get_mut(provider) {
            lane.open = lane.open.saturating_sub(1);
            let wait = if lane.is_hurried { Duration::ZERO } else { wait };
            lane.is_hurried &= lane.open > 0;
            lane.due = Instant::now() + wait;
        }
    }

    async fn listed(
        &mut self,
        provider: &'static str,
        asked_at: Timestamp,
        result: Result<Listing, ProviderError>,
    ) {
        let listing = match result {
            Ok(listing) => listing,
            Err(error) => {
                warn!(provider, error = error.line(), "machines not listed");
                self.rest(provider, true);
                return;
            }
        };
        if let Some(cloud) = listing.cloud_time {
            self.clock.handle_cloud_time(cloud);
        }
        let Some(records) = self.load().await else { return self.rest(provider, true) };
        let agents = self.host.agents();
        let view = View {
            deployments: &records.deployments,
            records: &records.instances,
            leaving: &records.leaving,
            agents: &agents,
            now: asked_at,
            is_clock_trusted: self.clock.is_trusted(),
        };
        let actions = self.reconciler.plan_provider(provider, &listing.instances, &view);
        let ours = |tags: &blueprint_hub_provision_core::Tags| tags.hub == self.config.hub;
        let machines = listing.instances.iter().filter(|it| it.tags.as_ref().is_some_and(ours)).count();
        if let Some(lane) = self.lanes.get_mut(provider) {
            (lane.listed_at, lane.machines) = (Some(asked_at), machines);
        }
        for action in actions {
            self.carry_out(action, &records).await;
        }
        self.tell_joined(provider, &records);
        self.rest(provider, is_moving(&records));
        self.note(asked_at).await;
        self.publish();
    }

    /// Tells a provider which of its machines are nodes.
    fn tell_joined(&self, provider: &str, records: &Records) {
        let Some(lane) = self.lanes.get(provider) else { return };
        let joined = records
            .instances
            .values()
            .filter(|record| record.candidate.provider == provider && record.state == RecordState::Active)
            .filter_map(|record| record.provider_id.as_deref());
        lane.way.provider.have_joined(&joined.collect::<Vec<_>>());
    }

    /// When a lane is listed next, where nothing of it is under way.
    fn rest(&mut self, provider: &str, is_moving: bool) {
        let Some(lane) = self.lanes.get_mut(provider) else { return };
        if is_moving {
            lane.due = Instant::now() + lane.pause.min(self.config.every);
            lane.pause = lane.pause.saturating_mul(2).min(LATER);
        } else {
            (lane.due, lane.pause) = (Instant::now() + self.config.every, SOON);
        }
    }

    async fn note(&mut self, now: Timestamp) {
        let is_fresh = self.noted_at.is_some_and(|at| at.elapsed() < NOTE_EVERY);
        // A time that is in doubt would be believed at the next start.
        if is_fresh || !self.clock.is_trusted() {
            return;
        }
        match self.store.note_scan(now).await {
            Ok(()) => self.noted_at = Some(Instant::now()),
            Err(error) => error!(error = chain(&error), "look at the clouds not noted"),
        }
    }

    fn publish(&self) {
        let clouds = self.lanes.values().map(|lane| Cloud {
            name: lane.way.name().to_owned(),
            listed_at: lane.listed_at,
            machines: lane.machines,
            error: lane.way.error(),
            is_closed: lane.way.is_open(),
        });
        let next = Arc::new(Overview {
            clouds: clouds.collect(),
            alarms: self.reconciler.alarms(),
            unavailable: self.reconciler.unavailable(self.now()),
        });
        self.overview.send_if_modified(|now| {
            let is_changed = *now != next;
            *now = next;
            is_changed
        });
    }

    async fn carry_out(&mut self, action: Action, records: &Records) {
        let (label, why) = (action.label(), action.why().label());
        self.metrics.acted(label, why);
        match action {
            Action::Expire { deployment } => {
                info!(target: "audit", %deployment, reason = why, "deployment ends");
                let now = self.now();
                let ended = self.store.set_wanted(deployment, Wanted::Gone, why.to_owned(), now).await;
                if let Err(error) = ended {
                    error!(error = chain(&error), "end of a deployment not stored");
                }
            }
            Action::Save { record, .. } => {
                self.save(&record, why).await;
            }
            Action::Create { record, .. } => {
                info!(target: "audit", instance = %record.key, provider = record.candidate.provider, plan = record.candidate.plan, attempt = record.attempt, reason = why, "machine is ordered");
                let deployment = records.deployments.get(&record.deployment);
                let service = deployment.and_then(|deployment| deployment.service);
                let ends_at = deployment.and_then(|deployment| deployment.expires_at);
                let (store, host) = (Arc::clone(&self.store), Arc::clone(&self.host));
                let ProvisionConfig { hub, token_ttl, limits, .. } = self.config;
                let provider = record.candidate.provider.clone();
                let clock = self.clock.clone();
                self.open(&provider, |way| {
                    Creation {
                        way,
                        store,
                        host,
                        clock,
                        hub,
                        token_ttl,
                        limits,
                        record: Box::new(record),
                        service,
                        ends_at,
                    }
                    .run()
                    .boxed()
                });
            }
            Action::Delete { record, provider_id, .. } => {
                let is_stored = records.instances.get(&record.key).is_some_and(|stored| stored == &record);
                if !is_stored && !self.save(&record, why).await {
                    return;
                }
                info!(target: "audit", instance = %record.key, provider_id, reason = why, "machine is deleted");
                let provider = record.candidate.provider.clone();
                self.open(&provider, |way| calls::delete(way, provider_id, Some(Box::new(record))).boxed());
            }
            Action::Boot { record, provider_id, .. } => {
                info!(target: "audit", instance = %record.key, reason = why, "machine is switched on");
                self.open(&record.candidate.provider, |way| calls::switch(way, provider_id, true).boxed());
            }
            Action::Stop { record, provider_id, .. } => {
                info!(target: "audit", instance = %record.key, reason = why, "machine is switched off");
                self.open(&record.candidate.provider, |way| calls::switch(way, provider_id, false).boxed());
            }
            Action::Evict { key, agent, .. } => {
                info!(target: "audit", instance = %key, %agent, reason = why, "node of a machine is removed");
                if let Err(error) = self.host.remove_agent(agent).await {
                    error!(instance = %key, %agent, error, "node not removed");
                }
            }
            Action::Remove { provider, key, provider_id, .. } => {
                warn!(target: "audit", instance = %key, provider, provider_id, reason = why, "machine that nobody wants is deleted");
                let (detail, now) = (format!("{provider} {provider_id}: {why}"), self.now());
                if let Err(error) = self.store.note_removal(key, detail, now).await {
                    error!(error = chain(&error), "nothing is deleted: the store failed");
                    return;
                }
                self.open(&provider, |way| calls::delete(way, provider_id, None).boxed());
            }
            Action::Report(alarm) => {
                warn!(subject = alarm.subject, reason = why, "{}", alarm.text);
            }
        }
    }

    /// Stores a record; false where the store failed, so that what comes after must not be done.
    async fn save(&mut self, record: &Record, why: &'static str) -> bool {
        info!(instance = %record.key, state = record.state.label(), reason = why, detail = record.reason, "machine comes to a state");
        match self.store.save_instance(record.clone()).await {
            Ok(()) => true,
            Err(error) => {
                error!(instance = %record.key, error = chain(&error), "machine not stored");
                false
            }
        }
    }

    /// Begins a call of a lane.
    fn open(&mut self, provider: &str, call: impl FnOnce(Way) -> BoxFuture<'static, Ended>) {
        let Some(lane) = self.lanes.get_mut(provider) else { return };
        lane.open = lane.open.saturating_add(1);
        self.calls.push(call(lane.way.clone()));
    }
}

/// True while something is on its way from one state to another.
fn is_moving(records: &Records) -> bool {
    records.instances.values().any(|record| {
        let wanted = records.deployments.get(&record.deployment).map(|deployment| deployment.wanted);
        match record.state {
            RecordState::Calling | RecordState::Created | RecordState::Deleting => true,
            RecordState::Planned => wanted == Some(Wanted::Running),
            RecordState::Active => (wanted == Some(Wanted::Running)) == record.is_off,
            RecordState::Gone | RecordState::Lost | RecordState::Failed => false,
        }
    })
}
