//! The task that looks at services with a tier, with a meter and a store in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_provision::{Meter, Reading, ScaleConfig, ScaleOffice, scale_watch};
use blueprint_hub_provision_core::cost::Limits;
use blueprint_hub_provision_core::lifecycle::{Deployer, RecordState, RecordsResult};
use blueprint_hub_provision_core::scaling::{
    DrainMark, Phase, ResizeError, ScaleDesk, ScaleEvent, ScaleStore, ScaleView, ScalerSettings, Scaling,
    Terms, TermsLimits, Tier,
};
use blueprint_hub_provision_core::{DeploymentId, InstanceKey};
use futures_util::future::{BoxFuture, FutureExt, ready};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::leader::{Cloud, NOON, Rig, agent_of, order};
use crate::memory::Memory;

const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };
const EVERY: Duration = Duration::from_secs(30);
const HERE: Reading = Reading { is_ready: true, is_here: true, cpu: None, requests: 0, open: 0, lasting: 0 };

/// Terms and steps in memory, beside the records that they are about.
struct Scales {
    records: Arc<Memory>,
    scaling: Mutex<Option<Scaling>>,
    steps: Mutex<Vec<String>>,
}

impl Scales {
    fn step(&self, what: String) {
        self.steps.lock().unwrap().push(what);
    }

    fn is_still(&self, scaling: &Scaling) -> bool {
        self.scaling.lock().unwrap().as_ref() == Some(scaling)
    }
}

impl ScaleStore for Scales {
    fn scalings(&self) -> BoxFuture<'_, RecordsResult<Vec<Scaling>>> {
        ready(Ok(self.scaling.lock().unwrap().iter().cloned().collect())).boxed()
    }

    fn set_scaling(
        &self,
        service: ServiceKey,
        deployment: DeploymentId,
        terms: Terms,
        _: Option<Scaling>,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<Option<Scaling>>> {
        let scaling =
            Scaling { service, deployment, terms, phase: Phase::Paid, phase_since: now, changed_at: now };
        *self.scaling.lock().unwrap() = Some(scaling.clone());
        ready(Ok(Some(scaling))).boxed()
    }

    fn remove_scaling(&self, _: ServiceKey, _: Timestamp) -> BoxFuture<'_, RecordsResult<bool>> {
        ready(Ok(self.scaling.lock().unwrap().take().is_some())).boxed()
    }

    fn set_phase(
        &self,
        scaling: Scaling,
        phase: Phase,
        _: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<bool>> {
        let still = self.is_still(&scaling);
        if still {
            *self.scaling.lock().unwrap() = Some(Scaling { phase, phase_since: now, ..scaling });
            self.step(phase.to_string());
        }
        ready(Ok(still)).boxed()
    }

    fn end(&self, scaling: Scaling, why: String, now: Timestamp) -> BoxFuture<'_, RecordsResult<bool>> {
        self.set_phase(scaling, Phase::Ended, why, now)
    }

    fn resize(
        &self,
        scaling: Scaling,
        to: u32,
        released: BTreeSet<InstanceKey>,
        _: String,
        _: Limits,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<bool, ResizeError>> {
        let still = self.is_still(&scaling);
        if still {
            let mut records = self.records.0.lock().unwrap();
            let deployment = records.deployments.get_mut(&scaling.deployment).unwrap();
            self.step(format!("{} to {to}", deployment.replicas));
            deployment.replicas = to;
            for key in released {
                let mark = DrainMark { since: now, is_released: true, is_given_up: false };
                records.leaving.insert(key, mark);
            }
        }
        ready(Ok(still)).boxed()
    }

    fn replace(
        &self,
        scaling: Scaling,
        key: InstanceKey,
        _: String,
        _: Limits,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<bool, ResizeError>> {
        let still = self.is_still(&scaling);
        if still {
            self.step(format!("replace {key}"));
            let mark = DrainMark { since: now, is_released: true, is_given_up: true };
            self.records.0.lock().unwrap().leaving.insert(key, mark);
        }
        ready(Ok(still)).boxed()
    }

    fn mark_leaving(
        &self,
        scaling: Scaling,
        leave: BTreeSet<InstanceKey>,
        stay: BTreeSet<InstanceKey>,
        _: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<bool>> {
        let still = self.is_still(&scaling);
        if still {
            let leaving = &mut self.records.0.lock().unwrap().leaving;
            self.step(if leave.is_empty() { "keep" } else { "drain" }.to_owned());
            leaving.retain(|key, _| !stay.contains(key));
            let mark = DrainMark { since: now, is_released: false, is_given_up: false };
            leaving.extend(leave.into_iter().map(|key| (key, mark)));
        }
        ready(Ok(still)).boxed()
    }

    fn note_held(&self, _: ServiceKey, _: String, _: Timestamp) -> BoxFuture<'_, RecordsResult<()>> {
        ready(Ok(())).boxed()
    }

    fn scale_events(&self, _: ServiceKey, _: u32) -> BoxFuture<'_, RecordsResult<Vec<ScaleEvent>>> {
        ready(Ok(Vec::new())).boxed()
    }
}

/// What agents are made to say: of all, or of one alone.
struct Dials {
    /// `None` where nothing is measured.
    all: Mutex<(Reading, Option<f32>)>,
    of: Mutex<BTreeMap<AgentId, Reading>>,
    is_cut: AtomicBool,
    began: Instant,
}

impl Meter for Dials {
    fn read(&self, _: ServiceKey, agents: BTreeSet<AgentId>) -> BoxFuture<'_, BTreeMap<AgentId, Reading>> {
        // A sample of this very moment, by the agent's clock.
        let at = NOON.plus(self.began.elapsed());
        let ((all, cpu), one) = (*self.all.lock().unwrap(), self.of.lock().unwrap());
        let of = |agent: AgentId| {
            let reading = one.get(&agent).copied().unwrap_or(all);
            (agent, Reading { cpu: cpu.map(|percent| (at, percent)), ..reading })
        };
        ready(agents.into_iter().map(of).collect()).boxed()
    }

    fn is_reached(&self) -> bool {
        !self.is_cut.load(Ordering::Relaxed)
    }

    fn updating(&self, _: ServiceKey) -> Option<String> {
        None
    }

    fn leave(&self, _: BTreeSet<AgentId>) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }

    fn place(&self, _: BTreeMap<ServiceKey, BTreeSet<AgentId>>) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}

/// A service of two replicas whose cloud and hub are there, and what looks at it.
struct Scene<'r> {
    rig: &'r Rig,
    scales: Arc<Scales>,
    dials: Arc<Dials>,
    desk: ScaleOffice,
    deployment: DeploymentId,
}

impl Scene<'_> {
    async fn run(terms: Terms, test: impl AsyncFnOnce(&Scene<'_>)) {
        let store = Arc::new(Memory::default());
        let cloud = Cloud::new("north", &store, []);
        let plan = vec![cloud.offer()];
        Rig::run(store, vec![cloud], async |rig| {
            let deployment = rig.provisioner.deploy(order("web", 2, plan)).await.unwrap().0.id;
            rig.until(&deployment, &[RecordState::Active; 2]).await;
            rig.store.0.lock().unwrap().deployments.get_mut(&deployment).unwrap().service = Some(SERVICE);
            let (scaling, steps) = (Mutex::default(), Mutex::default());
            let scales = Arc::new(Scales { records: Arc::clone(&rig.store), scaling, steps });
            let (all, of) = (Mutex::new((HERE, Some(10.0))), Mutex::default());
            let dials = Arc::new(Dials { all, of, is_cut: AtomicBool::new(false), began: Instant::now() });
            let config = ScaleConfig {
                is_enabled: true,
                every: EVERY,
                settings: ScalerSettings::default(),
                limits: TermsLimits { min_replicas: 1, max_replicas: 20 },
                target_cpu: 70,
            };
            let (watch, desk) = scale_watch(
                config,
                Arc::<Scales>::clone(&scales),
                rig.provisioner.clone(),
                Arc::<Dials>::clone(&dials),
                &Metrics::new(),
            );
            desk.set(SERVICE, terms, None).await.unwrap();
            let scene = Scene { rig, scales, dials, desk, deployment };
            let stop = CancellationToken::new();
            tokio::join!(watch.run(stop.clone()), async {
                test(&scene).await;
                stop.cancel();
            });
        })
        .await;
    }

    fn say(&self, reading: Reading, cpu: Option<f32>) {
        *self.dials.all.lock().unwrap() = (reading, cpu);
    }

    fn steps(&self) -> Vec<String> {
        self.scales.steps.lock().unwrap().clone()
    }

    fn live(&self) -> usize {
        self.rig.states(&self.deployment).iter().filter(|state| **state == RecordState::Active).count()
    }

    async fn view(&self) -> ScaleView {
        self.desk.list().await.unwrap().remove(0)
    }

    async fn until_live(&self, count: usize) {
        let reached = timeout(Duration::from_secs(3600), async {
            while self.live() != count {
                sleep(Duration::from_secs(1)).await;
            }
        });
        assert!(reached.await.is_ok(), "{:?} after {:?}", self.rig.states(&self.deployment), self.steps());
    }
}

#[tokio::test(start_paused = true)]
async fn processors_alone_bring_replicas_and_take_them_away_and_what_is_not_measured_does_neither() {
    Scene::run(Terms::of(Tier::Standard), async |scene| {
        // 500m each, of which 70 % are to be used: 40 % of a processor is too much for one.
        scene.say(HERE, Some(40.0));
        scene.until_live(3).await;
        scene.say(HERE, Some(30.0));
        sleep(EVERY * 30).await;
        assert_eq!(scene.live(), 3, "{:?}", scene.steps());
        // Agents that cannot see the processes any more: for all that is known, they work.
        scene.say(HERE, None);
        sleep(EVERY * 30).await;
        assert_eq!((scene.live(), scene.steps()), (3, vec!["2 to 3".to_owned()]));
        assert!(scene.view().await.why.starts_with("0 of 3 replicas measured"), "{}", scene.view().await.why);
        scene.say(HERE, Some(1.0));
        scene.until_live(2).await;
        assert_eq!(scene.steps(), ["2 to 3", "drain", "3 to 2"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn streams_that_last_are_no_idle_service() {
    let terms = Terms { target_rate: Some(4), ..Terms::of(Tier::Standard) };
    Scene::run(terms, async |scene| {
        // Five streams at each that began, and nothing after them.
        scene.say(Reading { requests: 5, open: 5, ..HERE }, Some(1.0));
        sleep(EVERY * 2).await;
        scene.say(Reading { requests: 5, open: 5, lasting: 5, ..HERE }, Some(1.0));
        scene.until_live(3).await;
        // Now each has as many as it may: ten in all, and three have them.
        scene.say(Reading { requests: 5, open: 3, lasting: 3, ..HERE }, Some(1.0));
        sleep(EVERY * 30).await;
        assert_eq!((scene.live(), scene.steps()), (3, vec!["2 to 3".to_owned()]));
        assert_eq!(scene.view().await.sight.unwrap().rate, Some(9.0));
        // They end, and nothing is left to do.
        scene.say(Reading { requests: 5, ..HERE }, Some(1.0));
        scene.until_live(2).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_agent_stays_away_is_replaced_and_one_that_comes_back_is_not() {
    Scene::run(Terms::of(Tier::Standard), async |scene| {
        let away = Reading::default();
        scene.dials.of.lock().unwrap().insert(agent_of(1), away);
        sleep(Duration::from_secs(540)).await;
        scene.dials.of.lock().unwrap().clear();
        sleep(Duration::from_secs(120)).await;
        assert_eq!((scene.steps(), scene.live()), (Vec::new(), 2));
        scene.dials.of.lock().unwrap().insert(agent_of(1), away);
        sleep(Duration::from_secs(900)).await;
        scene.until_live(2).await;
        let first = InstanceKey::of(&scene.deployment, 1);
        assert_eq!(scene.steps(), [format!("replace {first}")]);
        let records = scene.rig.store.0.lock().unwrap().clone();
        assert_eq!(records.instances.get(&first).unwrap().state, RecordState::Gone);
        let third = records.instances.get(&InstanceKey::of(&scene.deployment, 3)).unwrap();
        assert_eq!((third.state, records.instances.len()), (RecordState::Active, 3));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_no_agent_reaches_gives_nothing_up_and_waits_anew_once_one_does() {
    Scene::run(Terms::of(Tier::Standard), async |scene| {
        scene.dials.is_cut.store(true, Ordering::Relaxed);
        scene.say(Reading::default(), None);
        sleep(Duration::from_secs(7200)).await;
        assert_eq!((scene.steps(), scene.live()), (Vec::new(), 2));
        // One is back, and the other one has its time to come back, too.
        scene.dials.of.lock().unwrap().insert(agent_of(1), HERE);
        scene.dials.is_cut.store(false, Ordering::Relaxed);
        sleep(Duration::from_secs(540)).await;
        assert_eq!((scene.steps(), scene.live()), (Vec::new(), 2));
        sleep(Duration::from_secs(180)).await;
        let second = InstanceKey::of(&scene.deployment, 2);
        assert_eq!(scene.steps(), [format!("replace {second}")]);
    })
    .await;
}
