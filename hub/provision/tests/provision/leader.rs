//! The task against scripted clouds, on a clock that jumps.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::{AgentId, HubId, Micros, Timestamp};
use blueprint_hub_provision::{Leader, ProvisionConfig, Provisioner};
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::cost::Limits;
use blueprint_hub_provision_core::lifecycle::{
    Deployer, LifecycleStore, Order, RecordState, Settings, Wanted,
};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{
    Candidate, CloudCall, DeploymentId, Instance, InstanceSpec, InstanceState, Listing, Provider,
    ProviderError,
};
use futures_util::future::{BoxFuture, FutureExt, join_all, ready};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::memory::{Agents, Memory};

pub(crate) const NOON: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// What a cloud does with a call to make a machine.
pub(crate) enum Script {
    Throttle(Duration),
    Lose,
    Hang,
    Slow(Duration),
}

pub(crate) struct Cloud {
    name: &'static str,
    /// For the next calls to make one; what comes after them works.
    script: Mutex<VecDeque<Script>>,
    machines: Mutex<BTreeMap<String, Instance>>,
    creates: Mutex<Vec<Instant>>,
    lists: AtomicUsize,
    joined: Mutex<Vec<String>>,
    fails: bool,
    /// How long it says that a machine takes to make.
    within: Duration,
    store: Arc<Memory>,
}

impl Cloud {
    pub(crate) fn new(
        name: &'static str,
        store: &Arc<Memory>,
        script: impl IntoIterator<Item = Script>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            script: Mutex::new(script.into_iter().collect()),
            machines: Mutex::default(),
            creates: Mutex::default(),
            lists: AtomicUsize::new(0),
            joined: Mutex::default(),
            fails: false,
            within: CloudCall::USUAL,
            store: Arc::clone(store),
        })
    }

    pub(crate) fn offer(&self) -> Candidate {
        Candidate {
            provider: self.name.to_owned(),
            plan: "small".to_owned(),
            region: "here".to_owned(),
            spot: false,
            disk_gb: 62,
            arch: Arch::Arm64,
            hourly: Micros::new(5000),
            stopped_hourly: Micros::new(5000),
            egress: None,
        }
    }

    fn listed(&self) -> Offer {
        Offer::live(self.name, "small", "here", (1, 1024), Micros::new(5000))
    }

    fn make(&self, spec: &InstanceSpec) -> Instance {
        // What is called for is stored before.
        let records = self.store.0.lock().unwrap().clone();
        assert_eq!(records.instances.get(&spec.key).unwrap().state, RecordState::Calling);
        let offer = self.offer();
        assert_eq!((spec.disk_gb, spec.arch), (offer.disk_gb, offer.arch));
        let instance = Instance {
            key: spec.key.clone(),
            provider_id: format!("{}/{}", self.name, spec.key),
            tags: spec.tags.clone(),
            state: InstanceState::Running,
            created_at: Timestamp::default(),
        };
        self.machines.lock().unwrap().insert(instance.provider_id.clone(), instance.clone());
        let mut records = self.store.0.lock().unwrap();
        let record = records.instances.get_mut(&spec.key).unwrap();
        (record.agent, record.agent_attempt) = (Some(agent_of(record.number)), record.attempt);
        instance
    }
}

pub(crate) fn order(key: &str, replicas: u32, plan: Vec<Candidate>) -> Order {
    Order {
        request_key: key.to_owned(),
        name: key.to_owned(),
        asked: key.to_owned(),
        replicas,
        plan,
        spread: blueprint_hub_provision_core::lifecycle::Spread::None,
        service: None,
        ttl: None,
    }
}

pub(crate) fn agent_of(number: u32) -> AgentId {
    AgentId::from_bytes(u128::from(number).to_be_bytes())
}

impl Provider for Cloud {
    fn name(&self) -> &'static str {
        self.name
    }

    fn within(&self, call: CloudCall) -> Duration {
        if call == CloudCall::Create { self.within } else { CloudCall::USUAL }
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        ready(Ok(vec![self.listed()])).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        let instances = self.machines.lock().unwrap().values().cloned().collect();
        let error = || ProviderError::Other { call: "list", source: "out of order".into() };
        ready(if self.fails { Err(error()) } else { Ok(Listing { instances, cloud_time: None }) }).boxed()
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        self.creates.lock().unwrap().push(Instant::now());
        let script = self.script.lock().unwrap().pop_front();
        async move {
            match script {
                None => Ok(self.make(spec)),
                Some(Script::Throttle(pause)) => Err(ProviderError::Throttle { retry_after: Some(pause) }),
                Some(Script::Hang) => std::future::pending().await,
                Some(Script::Slow(pause)) => {
                    sleep(pause).await;
                    Ok(self.make(spec))
                }
                Some(Script::Lose) => {
                    self.make(spec);
                    Err(ProviderError::Other { call: "create", source: "connection reset".into() })
                }
            }
        }
        .boxed()
    }

    fn delete<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.machines.lock().unwrap().remove(provider_id);
        ready(Ok(())).boxed()
    }

    fn have_joined(&self, provider_ids: &[&str]) {
        *self.joined.lock().unwrap() = provider_ids.iter().map(|id| (*id).to_owned()).collect();
    }

    fn boot<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        ready(Ok(())).boxed()
    }

    fn stop<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        ready(Ok(())).boxed()
    }
}

pub(crate) struct Rig {
    pub(crate) store: Arc<Memory>,
    pub(crate) provisioner: Provisioner,
    stop: CancellationToken,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Rig {
    /// Runs the task beside `test`.
    pub(crate) async fn run(store: Arc<Memory>, clouds: Vec<Arc<Cloud>>, test: impl AsyncFnOnce(&Self)) {
        let began = Instant::now();
        let wall = Arc::new(move || NOON.plus(began.elapsed()));
        Self::run_at(wall, store, clouds, test).await;
    }

    async fn run_at(
        wall: Arc<dyn Fn() -> Timestamp + Send + Sync>,
        store: Arc<Memory>,
        clouds: Vec<Arc<Cloud>>,
        test: impl AsyncFnOnce(&Self),
    ) {
        let agents = (1..=9).map(|number| (agent_of(number), true)).collect();
        let config = ProvisionConfig {
            hub: HubId::from_bytes([1; 16]),
            settings: Settings::default(),
            every: Duration::from_secs(60),
            token_ttl: Duration::from_secs(900),
            limits: Limits::default(),
            seed: 7,
        };
        let providers = clouds.into_iter().map(|cloud| -> Arc<dyn Provider> { cloud }).collect();
        let host = Arc::new(Agents(Mutex::new(agents)));
        let own: Arc<dyn LifecycleStore> = store.clone();
        let (leader, provisioner) =
            Leader::new(config, own, host, providers, wall, &Metrics::new()).await.unwrap();
        assert!(!provisioner.overview().clouds.is_empty(), "clouds are known before the task runs");
        let rig = Self { store, provisioner, stop: CancellationToken::new() };
        tokio::join!(leader.run(rig.stop.clone()), async {
            test(&rig).await;
            rig.stop.cancel();
        });
    }

    async fn deploy(&self, key: &str, replicas: u32, plan: Vec<Candidate>) -> DeploymentId {
        self.provisioner.deploy(order(key, replicas, plan)).await.unwrap().0.id
    }

    pub(crate) fn states(&self, of: &DeploymentId) -> Vec<RecordState> {
        let records = self.store.0.lock().unwrap();
        records.instances.values().filter(|it| it.deployment == *of).map(|it| it.state).collect()
    }

    pub(crate) async fn until(&self, of: &DeploymentId, states: &[RecordState]) {
        let reached = timeout(Duration::from_secs(3600), async {
            while self.states(of) != states {
                sleep(Duration::from_millis(100)).await;
            }
        });
        assert!(reached.await.is_ok(), "{:?}", self.store.0.lock().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_orders_with_one_key_make_one_machine_and_ending_it_leaves_none() {
    let store = Arc::new(Memory::default());
    let cloud = Cloud::new("north", &store, []);
    Rig::run(store, vec![Arc::clone(&cloud)], async |rig| {
        let orders = (0..50).map(|_| rig.deploy("key", 1, vec![cloud.offer()]));
        let ids = join_all(orders).await;
        assert!(ids.iter().all(|id| *id == ids[0]));
        let began = Instant::now();
        rig.until(&ids[0], &[RecordState::Active]).await;
        assert!(cloud.creates.lock().unwrap()[0] - began < Duration::from_secs(5), "the promise of P24");
        sleep(Duration::from_secs(3600)).await;
        let standing: Vec<_> = cloud.machines.lock().unwrap().keys().cloned().collect();
        assert_eq!(*cloud.joined.lock().unwrap(), standing, "the cloud is told which of its machines joined");
        rig.deploy("key", 1, vec![cloud.offer()]).await;
        sleep(Duration::from_secs(600)).await;
        assert_eq!(cloud.creates.lock().unwrap().len(), 1);
        rig.provisioner.set_wanted(ids[0].clone(), Wanted::Gone, "by hand".to_owned()).await.unwrap();
        rig.until(&ids[0], &[RecordState::Gone]).await;
        assert!(cloud.machines.lock().unwrap().is_empty());
        assert!(rig.provisioner.set_wanted(ids[0].clone(), Wanted::Running, String::new()).await.is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_makes_no_second_machine_and_the_pause_that_a_cloud_asks_for_is_kept() {
    let store = Arc::new(Memory::default());
    let pause = Duration::from_secs(20);
    let cloud = Cloud::new("north", &store, [Script::Throttle(pause), Script::Lose]);
    Rig::run(store, vec![Arc::clone(&cloud)], async |rig| {
        let id = rig.deploy("key", 1, vec![cloud.offer()]).await;
        rig.until(&id, &[RecordState::Active]).await;
        sleep(Duration::from_secs(600)).await;
        let creates = cloud.creates.lock().unwrap().clone();
        assert_eq!((creates.len(), cloud.machines.lock().unwrap().len()), (2, 1));
        assert!(creates[1] - creates[0] >= pause);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_ordered_while_orders_are_held_and_nothing_is_held_while_one_is_given() {
    let store = Arc::new(Memory::default());
    let cloud = Cloud::new("north", &store, []);
    Rig::run(store, vec![Arc::clone(&cloud)], async |rig| {
        let hold = rig.provisioner.hold_orders("north").unwrap();
        assert!(rig.provisioner.hold_orders("north").is_none(), "it is held already");
        let id = rig.deploy("key", 1, vec![cloud.offer()]).await;
        sleep(Duration::from_secs(60)).await;
        assert!(cloud.creates.lock().unwrap().is_empty() && rig.states(&id) == [RecordState::Planned]);
        drop(hold);
        rig.until(&id, &[RecordState::Active]).await;
        assert!(rig.provisioner.hold_orders("north").is_some() && rig.provisioner.hold_orders("x").is_some());
    })
    .await;
}

/// A pause that is longer than any call waits is kept by all calls to that cloud, also by those that are new.
#[tokio::test(start_paused = true)]
async fn a_long_pause_that_a_cloud_asks_for_is_kept_by_every_call() {
    let store = Arc::new(Memory::default());
    let pause = Duration::from_secs(1500);
    let cloud = Cloud::new("north", &store, [Script::Throttle(pause)]);
    Rig::run(store, vec![Arc::clone(&cloud)], async |rig| {
        let id = rig.deploy("key", 3, vec![cloud.offer()]).await;
        rig.until(&id, &[RecordState::Planned; 3]).await;
        while cloud.creates.lock().unwrap().is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
        sleep(Duration::from_secs(5)).await;
        let (creates, lists) = (cloud.creates.lock().unwrap().len(), cloud.lists.load(Ordering::Relaxed));
        assert!(creates < 4, "{creates}");
        sleep(pause - Duration::from_secs(120) - Duration::from_secs(10)).await;
        assert!(rig.provisioner.offers("north".to_owned()).await.is_err(), "no price is asked for either");
        assert_eq!(cloud.creates.lock().unwrap().len(), creates);
        assert_eq!(cloud.lists.load(Ordering::Relaxed), lists);
        rig.until(&id, &[RecordState::Active; 3]).await;
        let first = cloud.creates.lock().unwrap()[0];
        assert!(cloud.creates.lock().unwrap().iter().skip(creates).all(|at| *at - first >= pause));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_hangs_or_is_out_of_order_does_not_hold_up_another() {
    let store = Arc::new(Memory::default());
    let hangs = Cloud::new("north", &store, [Script::Hang]);
    let works = Cloud::new("south", &store, []);
    let broken = Arc::new(Cloud {
        name: "east",
        script: Mutex::default(),
        machines: Mutex::default(),
        creates: Mutex::default(),
        lists: AtomicUsize::new(0),
        joined: Mutex::default(),
        fails: true,
        within: CloudCall::USUAL,
        store: Arc::clone(&store),
    });
    let clouds = vec![Arc::clone(&hangs), Arc::clone(&works), Arc::clone(&broken)];
    Rig::run(store, clouds, async |rig| {
        let stuck = rig.deploy("one", 1, vec![hangs.offer()]).await;
        rig.until(&stuck, &[RecordState::Calling]).await;
        let began = Instant::now();
        let id = rig.deploy("two", 2, vec![works.offer()]).await;
        rig.until(&id, &[RecordState::Active, RecordState::Active]).await;
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        rig.until(&stuck, &[RecordState::Active]).await;
        assert_eq!(hangs.creates.lock().unwrap().len(), 2, "looked up after two minutes, then called again");
        let before = broken.lists.load(Ordering::Relaxed);
        assert!(!rig.provisioner.overview().clouds.iter().all(|cloud| cloud.error.is_none()));
        sleep(Duration::from_secs(600)).await;
        let calls = broken.lists.load(Ordering::Relaxed) - before;
        assert!(calls < 20, "{calls} calls of a cloud that is out of order");
    })
    .await;
}

/// An image that is pulled, or a plugin whose cloud takes its time.
#[tokio::test(start_paused = true)]
async fn a_call_takes_as_long_as_its_provider_says_and_never_longer_than_any_may() {
    let store = Arc::new(Memory::default());
    let minutes = |count: u64| Duration::from_secs(count * 60);
    let cloud = |name, within, takes| {
        Arc::new(Cloud {
            within,
            ..Arc::into_inner(Cloud::new(name, &store, [Script::Slow(takes)])).unwrap()
        })
    };
    let slow = cloud("north", minutes(10), minutes(9));
    let endless = cloud("south", minutes(100), minutes(99));
    Rig::run(Arc::clone(&store), vec![Arc::clone(&slow), Arc::clone(&endless)], async |rig| {
        let first = rig.deploy("one", 1, vec![slow.offer()]).await;
        let second = rig.deploy("two", 1, vec![endless.offer()]).await;
        rig.until(&first, &[RecordState::Active]).await;
        assert_eq!(slow.creates.lock().unwrap().len(), 1);
        rig.until(&second, &[RecordState::Active]).await;
        let creates = endless.creates.lock().unwrap().clone();
        assert_eq!(creates.len(), 2);
        let waited = creates[1] - creates[0];
        assert!((CloudCall::LONGEST..minutes(35)).contains(&waited), "{waited:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_order_that_comes_while_another_is_given_is_the_next() {
    let store = Arc::new(Memory::default());
    let makes = Duration::from_millis(300);
    let cloud = Cloud::new("north", &store, [Script::Slow(makes)]);
    Rig::run(store, vec![Arc::clone(&cloud)], async |rig| {
        let first = rig.deploy("first", 1, vec![cloud.offer()]).await;
        sleep(makes / 3).await;
        assert_eq!(rig.states(&first), [RecordState::Calling]);
        let second = rig.deploy("second", 1, vec![cloud.offer()]).await;
        rig.until(&second, &[RecordState::Active]).await;
        let creates = cloud.creates.lock().unwrap().clone();
        assert!(creates[1] - creates[0] < makes * 2, "{:?}", creates[1] - creates[0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn many_machines_are_ordered_at_the_pace_that_clouds_bear() {
    let store = Arc::new(Memory::default());
    let cloud = Cloud::new("north", &store, []);
    Rig::run(store, vec![Arc::clone(&cloud)], async |rig| {
        let id = rig.deploy("key", 9, vec![cloud.offer()]).await;
        rig.deploy("other", 30, vec![cloud.offer()]).await;
        rig.until(&id, &[RecordState::Active; 9]).await;
        sleep(Duration::from_secs(60)).await;
        let creates = cloud.creates.lock().unwrap().clone();
        assert_eq!(creates.len(), 39);
        let long = creates[38] - creates[0];
        assert!(long >= Duration::from_secs(9), "{long:?} for 39 calls at 3 a second after 10 at once");
    })
    .await;
    let store = Arc::new(Memory::default());
    let slow = Cloud::new("hivelocity", &store, []);
    Rig::run(store, vec![Arc::clone(&slow)], async |rig| {
        let id = rig.deploy("key", 9, vec![slow.offer()]).await;
        rig.until(&id, &[RecordState::Active; 9]).await;
        let creates = slow.creates.lock().unwrap().clone();
        let apart = creates.windows(2).map(|pair| pair[1] - pair[0]).min();
        assert!(apart >= Some(Duration::from_secs(1)), "{apart:?}: each cloud has a pace of its own");
    })
    .await;
}

/// A clock that is set forward by three hours: the hub does not believe it, and the rest of the hub judges joins by it.
#[tokio::test(start_paused = true)]
async fn a_machine_can_join_and_a_deployment_lives_its_time_while_the_clock_is_in_doubt() {
    let (store, began) = (Arc::new(Memory::default()), Instant::now());
    let ahead = Duration::from_secs(3 * 3600);
    let wall = move || {
        let even = NOON.plus(began.elapsed());
        if began.elapsed() < Duration::from_secs(10) { even } else { even.plus(ahead) }
    };
    let cloud = Cloud::new("north", &store, []);
    Rig::run_at(Arc::new(wall), Arc::clone(&store), vec![Arc::clone(&cloud)], async |rig| {
        sleep(Duration::from_secs(60)).await;
        let order = Order { ttl: Some(Duration::from_secs(3600)), ..order("key", 1, vec![cloud.offer()]) };
        let deployment = rig.provisioner.deploy(order).await.unwrap().0;
        let left = deployment.expires_at.unwrap().since(NOON.plus(began.elapsed()));
        assert_eq!(left, Duration::from_secs(3600), "by the clock that it is ended by");
        rig.until(&deployment.id, &[RecordState::Active]).await;
        let expires_at = store.1.lock().unwrap()[0];
        assert!(expires_at > wall(), "its token ran out hours before it was given");
        assert!(expires_at.since(wall()) <= Duration::from_secs(900));
    })
    .await;
}
