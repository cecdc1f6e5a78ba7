//! The task that watches alerts, on a clock that jumps: messages that are tried again, what is ended, and counters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::{AgentId, HubId, Micros, Secret, Timestamp};
use blueprint_hub_provision::{CostOffice, Courier, Leader, ProvisionConfig, Received, cost_watch};
use blueprint_hub_provision_core::catalogue::Day;
use blueprint_hub_provision_core::cost::alert::{
    Alert, AlertAction, AlertEvent, AlertTerms, Delivery, DeliveryState, Finding, Hook, Period, Scope,
    THRESHOLDS,
};
use blueprint_hub_provision_core::cost::egress::{Egress, EgressPrice};
use blueprint_hub_provision_core::cost::{CostDesk, CostStore, Deliveries, Limits, SetAlertError, Told};
use blueprint_hub_provision_core::lifecycle::{
    Deployment, LifecycleStore, Record, RecordState, Records, RecordsResult, Settings, Wanted,
};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{Candidate, DeploymentId, InstanceKey};
use futures_util::future::{BoxFuture, FutureExt, ready};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::memory::{Agents, Memory};

/// 2027-01-15T08:00:00Z.
const NOON: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// Alerts, what they told, and what machines sent, in memory.
#[derive(Default)]
struct Costs {
    alerts: Mutex<Vec<Alert>>,
    events: Mutex<Vec<(AlertEvent, Option<Hook>)>>,
    sent: Mutex<BTreeMap<InstanceKey, u64>>,
    /// What it ends.
    lifecycle: Arc<Memory>,
}

impl CostStore for Costs {
    fn alerts(&self) -> BoxFuture<'_, RecordsResult<Vec<Alert>>> {
        ready(Ok(self.alerts.lock().unwrap().clone())).boxed()
    }

    fn set_alert(
        &self,
        name: String,
        terms: AlertTerms,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Alert, SetAlertError>> {
        let alert = Alert { name, terms, edition: 1, released: None, created_at: now, changed_at: now };
        *self.alerts.lock().unwrap() = vec![alert.clone()];
        ready(Ok(alert)).boxed()
    }

    fn remove_alert(&self, _: String, _: Timestamp) -> BoxFuture<'_, RecordsResult<bool>> {
        ready(Ok(self.alerts.lock().unwrap().pop().is_some())).boxed()
    }

    fn release_alert(&self, _: String, period: String, _: Timestamp) -> BoxFuture<'_, RecordsResult<bool>> {
        let mut alerts = self.alerts.lock().unwrap();
        alerts.iter_mut().for_each(|alert| alert.released = Some(period.clone()));
        ready(Ok(!alerts.is_empty())).boxed()
    }

    fn told(&self, _: Timestamp) -> BoxFuture<'_, RecordsResult<Told>> {
        let mut told = Told::new();
        for (event, _) in &*self.events.lock().unwrap() {
            told.entry(event.alert.clone()).or_default().insert(event.finding.mark.clone());
        }
        ready(Ok(told)).boxed()
    }

    fn fire(
        &self,
        alert: String,
        _: u64,
        findings: Vec<Finding>,
        at: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<Vec<AlertEvent>>> {
        let mut events = self.events.lock().unwrap();
        let terms = self.alerts.lock().unwrap().first().unwrap().terms.clone();
        let mut new = Vec::new();
        for (id, finding) in (u64::try_from(events.len()).unwrap()..).zip(findings) {
            let delivery = Delivery::new(terms.webhook.is_some(), at);
            let (alert, amount, action) = (alert.clone(), terms.amount, terms.action);
            new.push(AlertEvent { id, alert, at, amount, action, finding, delivery });
        }
        events.extend(new.iter().map(|event| (event.clone(), terms.webhook.clone())));
        ready(Ok(new)).boxed()
    }

    fn end_by_alert(
        &self,
        _: String,
        edition: u64,
        deployments: Vec<DeploymentId>,
        _: Limits,
        _: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<Vec<DeploymentId>>> {
        let ends = |alert: &Alert| alert.edition == edition && alert.terms.action == AlertAction::Terminate;
        let is_on = self.alerts.lock().unwrap().first().is_some_and(ends);
        let mut records = self.lifecycle.0.lock().unwrap();
        for id in deployments.iter().filter(|_| is_on) {
            records.deployments.get_mut(id).unwrap().wanted = Wanted::Gone;
        }
        ready(Ok(if is_on { deployments } else { Vec::new() })).boxed()
    }

    fn alert_events(&self, _: Option<String>, _: u32) -> BoxFuture<'_, RecordsResult<Vec<AlertEvent>>> {
        let events = self.events.lock().unwrap();
        ready(Ok(events.iter().map(|(event, _)| event.clone()).collect())).boxed()
    }

    fn deliveries(&self, now: Timestamp, _: u32) -> BoxFuture<'_, RecordsResult<Deliveries>> {
        let mut found = Deliveries::default();
        for (event, hook) in &*self.events.lock().unwrap() {
            match event.delivery.next_at {
                Some(at) if at <= now => found.due.push((event.clone(), hook.clone().unwrap())),
                Some(at) => found.next = Some(found.next.map_or(at, |next| next.min(at))),
                None => {}
            }
        }
        ready(Ok(found)).boxed()
    }

    fn note_delivery(&self, id: u64, delivery: Delivery) -> BoxFuture<'_, RecordsResult<()>> {
        let mut events = self.events.lock().unwrap();
        events.iter_mut().find(|(event, _)| event.id == id).unwrap().0.delivery = delivery;
        ready(Ok(())).boxed()
    }

    fn add_egress(&self, bytes: BTreeMap<InstanceKey, u64>, _: Day) -> BoxFuture<'_, RecordsResult<()>> {
        let mut sent = self.sent.lock().unwrap();
        for (key, bytes) in bytes {
            *sent.entry(key).or_default() += bytes;
        }
        ready(Ok(())).boxed()
    }

    /// A dollar for each GB.
    fn egress(&self, _: Day) -> BoxFuture<'_, RecordsResult<Vec<Egress>>> {
        let sent = self.sent.lock().unwrap();
        let row = |(key, bytes): (&InstanceKey, &u64)| Egress {
            key: key.clone(),
            deployment: id(),
            provider: "north".to_owned(),
            day: Day::from(NOON),
            bytes: *bytes,
            price: Some(EgressPrice { gb: Micros::new(1_000_000), included_gb: 0 }),
        };
        ready(Ok(sent.iter().map(row).collect())).boxed()
    }
}

/// Fails so many times, and notes when each message was tried.
struct Mail {
    fails: usize,
    tries: Mutex<Vec<(u64, Duration)>>,
    began: Instant,
}

impl Courier for Mail {
    fn check(&self, url: &str) -> Result<(), String> {
        if url == "https://good" { Ok(()) } else { Err("not that one".to_owned()) }
    }

    fn seal(&self, _: &str, _: &Secret<String>, key: &Secret<String>) -> Option<String> {
        Some(format!("sealed {}", key.expose().len()))
    }

    fn is_same(&self, _: &str, hook: &Hook, url: &Secret<String>) -> bool {
        hook.shown == *url.expose()
    }

    fn send<'a>(&'a self, event: &'a AlertEvent, hook: &'a Hook) -> BoxFuture<'a, Result<(), String>> {
        assert_eq!(hook.sealed, "sealed 64");
        let mut tries = self.tries.lock().unwrap();
        tries.push((event.id, self.began.elapsed()));
        let so_far = tries.iter().filter(|(id, _)| *id == event.id).count();
        ready(if so_far > self.fails { Ok(()) } else { Err("away".to_owned()) }).boxed()
    }
}

fn id() -> DeploymentId {
    DeploymentId::from_bytes([1; 10])
}

/// A deployment with one machine, whose agent is the first.
fn records() -> Records {
    let candidate = Candidate {
        provider: "north".to_owned(),
        plan: "small".to_owned(),
        region: "here".to_owned(),
        spot: false,
        disk_gb: 8,
        arch: Arch::X86_64,
        hourly: Micros::new(5000),
        stopped_hourly: Micros::new(5000),
        egress: None,
    };
    let deployment = Deployment {
        id: id(),
        name: "web".to_owned(),
        request_key: "key".to_owned(),
        asked: String::new(),
        replicas: 1,
        plan: vec![candidate.clone()],
        spread: blueprint_hub_provision_core::lifecycle::Spread::None,
        service: None,
        wanted: Wanted::Running,
        created_at: NOON,
        expires_at: None,
        changed_at: NOON,
    };
    let record = Record {
        key: InstanceKey::of(&id(), 1),
        deployment: id(),
        number: 1,
        candidate,
        state: RecordState::Active,
        attempt: 1,
        created_at: NOON,
        since: NOON,
        called_at: Some(NOON),
        made_at: Some(NOON),
        is_off: false,
        switched_at: None,
        deleted_at: None,
        provider_id: Some("north/1".to_owned()),
        agent: Some(AgentId::from_bytes([1; 16])),
        agent_attempt: 1,
        reason: String::new(),
    };
    Records {
        deployments: BTreeMap::from([(id(), deployment)]),
        instances: BTreeMap::from([(record.key.clone(), record)]),
        scanned_at: None,
        leaving: BTreeMap::new(),
    }
}

struct Rig {
    store: Arc<Memory>,
    costs: Arc<Costs>,
    mail: Arc<Mail>,
    /// What the counter of the agent's tunnel says.
    counter: Arc<Mutex<u64>>,
    office: CostOffice,
}

impl Rig {
    /// Runs the task beside `test`, and then to its end.
    async fn run(records: Records, fails: usize, test: impl AsyncFnOnce(&Self)) -> Self {
        let began = Instant::now();
        let wall = Arc::new(move || NOON.plus(began.elapsed()));
        let store = Arc::new(Memory(Mutex::new(records), Mutex::default()));
        let config = ProvisionConfig {
            hub: HubId::from_bytes([1; 16]),
            settings: Settings::default(),
            every: Duration::from_secs(60),
            token_ttl: Duration::from_secs(900),
            limits: Limits::default(),
            seed: 7,
        };
        let (own, host): (Arc<dyn LifecycleStore>, _) = (store.clone(), Arc::new(Agents(Mutex::default())));
        let metrics = Metrics::new();
        let (_leader, provisioner) =
            Leader::new(config, own, host, Vec::new(), wall, &metrics).await.unwrap();
        let costs = Arc::new(Costs { lifecycle: store.clone(), ..Costs::default() });
        let mail = Arc::new(Mail { fails, tries: Mutex::default(), began });
        let counter: Arc<Mutex<u64>> = Arc::default();
        let said = Arc::clone(&counter);
        let received: Received =
            Arc::new(move || BTreeMap::from([(AgentId::from_bytes([1; 16]), *said.lock().unwrap())]));
        let every = Duration::from_secs(30);
        let (watch, office) = cost_watch(every, costs.clone(), provisioner, mail.clone(), received, &metrics);
        let rig = Self { store, costs, mail, counter, office };
        let stop = CancellationToken::new();
        tokio::join!(watch.run(stop.clone()), async {
            test(&rig).await;
            stop.cancel();
        });
        rig
    }

    async fn set(&self, action: AlertAction, webhook: Option<&str>) -> Option<Secret<String>> {
        self.set_of(Scope::All, action, webhook).await
    }

    async fn set_of(
        &self,
        scope: Scope,
        action: AlertAction,
        webhook: Option<&str>,
    ) -> Option<Secret<String>> {
        let terms = AlertTerms {
            scope,
            period: Period::Month,
            amount: Micros::new(1_000_000),
            thresholds: THRESHOLDS.into(),
            action,
            anomaly: None,
            webhook: None,
        };
        self.office
            .set_alert("team".to_owned(), terms, webhook.map(|url| Secret::new(url.to_owned())), false)
            .await
            .unwrap()
            .1
    }

    /// The machine sends so many bytes more, and the meter is read.
    async fn sends(&self, bytes: u64) {
        *self.counter.lock().unwrap() += bytes;
        sleep(Duration::from_secs(31)).await;
    }

    fn wanted(&self) -> Wanted {
        self.store.0.lock().unwrap().deployments.get(&id()).unwrap().wanted
    }

    fn told(&self) -> Vec<u16> {
        self.costs.events.lock().unwrap().iter().map(|(event, _)| event.finding.mark.threshold).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_tried_again_after_growing_pauses_until_it_is_taken() {
    let rig = Rig::run(records(), 3, async |rig| {
        let key = rig.set(AlertAction::Notify, Some("https://good")).await.unwrap();
        assert_eq!(key.expose().len(), 64);
        assert!(rig.set(AlertAction::Notify, Some("https://good")).await.is_none(), "the key stays");
        rig.sends(600_000_000).await;
        rig.sends(0).await;
    })
    .await;
    assert_eq!(rig.told(), [50]);
    let tries = rig.mail.tries.lock().unwrap().clone();
    let pauses: Vec<_> = tries.windows(2).map(|two| (two[1].1 - two[0].1).as_secs()).collect();
    assert_eq!(pauses, [2, 4, 8]);
    let events = rig.costs.events.lock().unwrap();
    assert_eq!((events[0].0.delivery.state, events[0].0.delivery.attempts), (DeliveryState::Delivered, 4));
}

#[tokio::test(start_paused = true)]
async fn what_is_spent_ends_its_deployments_unless_the_clock_is_in_doubt() {
    let rig = Rig::run(records(), 0, async |rig| {
        rig.set(AlertAction::Terminate, None).await;
        rig.sends(900_000_000).await;
        assert_eq!((rig.told(), rig.wanted()), (vec![50, 80], Wanted::Running));
        rig.sends(100_000_000).await;
        assert_eq!((rig.told(), rig.wanted()), (vec![50, 80, 100], Wanted::Gone));
    })
    .await;
    assert!(rig.mail.tries.lock().unwrap().is_empty(), "it has no webhook");
    Rig::run(records(), 0, async |rig| {
        rig.sends(1_000_000_000).await;
        let terms = |rig: &Rig| rig.costs.alerts.lock().unwrap().first().unwrap().terms.clone();
        rig.set(AlertAction::Hold, None).await;
        let end = AlertTerms { action: AlertAction::Terminate, ..terms(rig) };
        let error = rig.office.set_alert("team".to_owned(), end.clone(), None, false).await.unwrap_err();
        let text = "$1.00 of $1.00 is spent already (2027-01): deployments would be ended for good at once";
        assert_eq!(error.to_string(), text);
        rig.sends(0).await;
        assert_eq!((terms(rig).action, rig.wanted()), (AlertAction::Hold, Wanted::Running));
        rig.office.set_alert("team".to_owned(), end, None, true).await.unwrap();
        rig.sends(0).await;
        assert_eq!(rig.wanted(), Wanted::Gone);
    })
    .await;
    // The hub was away for a day, or its clock was set: no cloud told the time yet, and marks may be of a wrong period.
    let away =
        Records { scanned_at: Some(Timestamp::from_millis(NOON.as_millis() - 86_400_000)), ..records() };
    Rig::run(away, 0, async |rig| {
        rig.set(AlertAction::Terminate, None).await;
        rig.sends(1_000_000_000).await;
        assert_eq!((rig.told(), rig.wanted()), (vec![], Wanted::Running));
        // An hour of even time is enough.
        sleep(Duration::from_secs(3700)).await;
        assert_eq!((rig.told(), rig.wanted()), (vec![50, 80, 100], Wanted::Gone));
    })
    .await;
}

/// The first offer is at another provider, where the first machine is; the second is to be ordered at this one.
#[tokio::test(start_paused = true)]
async fn an_alert_of_a_provider_ends_what_has_a_machine_there_and_not_what_has_one_planned() {
    let records = |called_at| {
        let mut records = records();
        let Candidate { provider, .. } = &mut records.deployments.get_mut(&id()).unwrap().plan[0];
        *provider = "south".to_owned();
        let first = records.instances.values_mut().next().unwrap();
        let second = InstanceKey::of(&id(), 2);
        let planned = Record {
            key: second.clone(),
            number: 2,
            state: RecordState::Planned,
            called_at,
            provider_id: None,
            agent: None,
            ..first.clone()
        };
        first.candidate.provider = "south".to_owned();
        records.instances.insert(second, planned);
        records
    };
    for (called_at, wanted) in [(None, Wanted::Running), (Some(NOON), Wanted::Gone)] {
        let rig = Rig::run(records(called_at), 0, async |rig| {
            rig.set_of(Scope::Provider("north".to_owned()), AlertAction::Terminate, None).await;
            rig.sends(1_000_000_000).await;
        })
        .await;
        assert_eq!((rig.told(), rig.wanted()), (vec![50, 80, 100], wanted));
    }
}

#[tokio::test(start_paused = true)]
async fn what_machines_sent_is_stored_once_also_where_a_counter_began_anew_and_at_the_end() {
    let rig = Rig::run(records(), 0, async |rig| {
        rig.sends(500).await;
        rig.sends(0).await;
        *rig.counter.lock().unwrap() = 0;
        rig.sends(40).await;
        *rig.counter.lock().unwrap() += 2;
    })
    .await;
    assert_eq!(rig.costs.sent.lock().unwrap().values().copied().collect::<Vec<_>>(), [542]);
}
