//! The provisioner over fakes of clouds: killed again and again, and with every call failing once. What is wanted is there in the end,
//! and no more.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod clouds;
mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::{AgentId, JoinToken, Micros, Secret, ServiceKey, Timestamp};
use blueprint_hub_provision::{Host, Leader, ProvisionConfig, Provisioner};
use blueprint_hub_provision_core::cost::Limits;
use blueprint_hub_provision_core::lifecycle::{Deployer, Order, Record, Settings, Wanted};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{Candidate, DeploymentId};
use blueprint_hub_store::SqliteStore;
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Power, Refusal};
use futures_util::future::{BoxFuture, FutureExt, ready};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clouds::{Cloud, hub};

struct Nobody;

impl Host for Nobody {
    fn user_data(
        &self,
        record: &Record,
        _: Option<ServiceKey>,
        token: JoinToken,
    ) -> Result<Secret<String>, String> {
        if record.candidate.provider == "local-docker" {
            let (key, token) = (&record.key, token.id());
            return Ok(Secret::new(format!(r#"{{"join_line":"hub:7443/pin/{token}","name":"{key}"}}"#)));
        }
        Ok(Secret::new(format!("#cloud-config\n# {}\n", token.id())))
    }

    fn agents(&self) -> BTreeMap<AgentId, bool> {
        BTreeMap::new()
    }

    fn remove_agent(&self, _: AgentId) -> BoxFuture<'_, Result<(), String>> {
        ready(Ok(())).boxed()
    }
}

/// One life of the hub over the database in `folder`: it is over when `test` is, wherever the task then stands.
async fn live(folder: &Path, cloud: &Cloud, test: impl AsyncFnOnce(&Provisioner)) {
    let config = ProvisionConfig {
        hub: hub(),
        settings: Settings {
            call_again: Duration::from_millis(300),
            second_look: Duration::from_millis(100),
            ..Settings::default()
        },
        every: Duration::from_millis(200),
        token_ttl: Duration::from_secs(900),
        limits: Limits::default(),
        seed: 7,
    };
    let store = Arc::new(SqliteStore::open(folder).unwrap());
    let wall = Arc::new(|| Timestamp::from(SystemTime::now()));
    let clouds = vec![Arc::clone(&cloud.provider)];
    let made = Leader::new(config, store, Arc::new(Nobody), clouds, wall, &Metrics::new()).await;
    let (leader, provisioner) = made.unwrap();
    let test = Box::pin(test(&provisioner));
    tokio::select! {
        () = Box::pin(leader.run(CancellationToken::new())) => {}
        () = test => {}
    }
}

fn order(cloud: &Cloud, replicas: u32) -> Order {
    let (plan, region, disk_gb) = cloud.sells;
    Order {
        name: "web".to_owned(),
        request_key: "one".to_owned(),
        asked: "machines".to_owned(),
        replicas,
        plan: vec![Candidate {
            provider: cloud.provider.name().to_owned(),
            plan: plan.to_owned(),
            region: region.to_owned(),
            spot: false,
            disk_gb,
            arch: Arch::X86_64,
            hourly: Micros::new(8930),
            stopped_hourly: Micros::new(8930),
            egress: None,
        }],
        service: None,
        spread: blueprint_hub_provision_core::lifecycle::Spread::None,
        ttl: None,
    }
}

/// Waits until there are `count` machines, each of another order.
async fn until_there_are(fake: &FakeCloud, count: usize) {
    let began = Instant::now();
    loop {
        let names = fake.world(|world| world.machines.iter().map(|one| one.name.clone()).collect::<Vec<_>>());
        if names.len() == count && names.iter().collect::<BTreeSet<_>>().len() == count {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(25), "{count} were wanted: {names:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ordered(provisioner: &Provisioner, cloud: &Cloud) -> DeploymentId {
    provisioner.deploy(order(cloud, 3)).await.unwrap().0.id
}

#[tokio::test]
async fn a_hub_that_is_killed_has_the_droplets_that_are_wanted_in_the_end() {
    killed_again_and_again(clouds::digitalocean().await).await;
}

#[tokio::test]
async fn a_hub_that_is_killed_has_the_machines_of_ec2_that_are_wanted_in_the_end() {
    killed_again_and_again(clouds::ec2().await).await;
}

#[tokio::test]
async fn a_hub_that_is_killed_has_the_instances_of_vultr_that_are_wanted_in_the_end() {
    killed_again_and_again(clouds::vultr().await).await;
}

#[tokio::test]
async fn a_hub_that_is_killed_has_the_whole_machines_of_vultr_that_are_wanted_in_the_end() {
    killed_again_and_again(clouds::vultr_metal().await).await;
}

#[tokio::test]
async fn a_hub_that_is_killed_has_the_containers_that_are_wanted_in_the_end() {
    killed_again_and_again(clouds::engine().await).await;
}

/// One without its files is nothing that runs: it would be waited for until its time to join is over.
#[tokio::test]
async fn a_container_that_was_made_and_not_filled_is_made_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = clouds::engine().await;
    let fake = &cloud.fake;
    // The container is there, and the call that made it is not.
    (0..3).for_each(|_| fake.fail(Kind::Create, Fault::DoAndBreak));
    live(folder.path(), &cloud, async |provisioner| {
        ordered(provisioner, &cloud).await;
        until_there_are(fake, 3).await;
        let began = Instant::now();
        while fake.world(|world| world.machines.iter().filter(|one| one.power == Power::On).count()) < 3 {
            assert!(began.elapsed() < Duration::from_secs(25), "they do not run");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn killed_again_and_again(cloud: Cloud) {
    let folder = tempfile::tempdir().unwrap();
    let fake = &cloud.fake;
    for fault in
        [Fault::DoAndBreak, Fault::DoAndRefuse(Refusal::Broken), Fault::Slow(Duration::from_millis(400))]
    {
        fake.fail(Kind::Create, fault);
    }
    // Killed in the midst of preparations, of orders, and of answers.
    for millis in [5, 20, 60, 150, 300, 700, 1500] {
        live(folder.path(), &cloud, async |provisioner| {
            ordered(provisioner, &cloud).await;
            tokio::time::sleep(Duration::from_millis(millis)).await;
        })
        .await;
    }
    live(folder.path(), &cloud, async |provisioner| {
        ordered(provisioner, &cloud).await;
        until_there_are(fake, 3).await;
    })
    .await;
    // The next life finds them, and orders no more.
    let creations = fake.count(Kind::Create);
    live(folder.path(), &cloud, async |provisioner| {
        let lists = fake.count(Kind::List);
        let listed = async {
            while fake.count(Kind::List) < lists + 6 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(20), listed).await.unwrap();
        until_there_are(fake, 3).await;
        assert_eq!(provisioner.records().await.unwrap().deployments.len(), 1);
    })
    .await;
    assert_eq!(fake.count(Kind::Create), creations);
    // It is killed again while it ends them.
    fake.fail(Kind::Delete, Fault::DoAndBreak);
    fake.fail(Kind::Delete, Fault::Refuse(Refusal::Unavailable));
    live(folder.path(), &cloud, async |provisioner| {
        let id = ordered(provisioner, &cloud).await;
        provisioner.set_wanted(id, Wanted::Gone, "the test is over".to_owned()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    })
    .await;
    live(folder.path(), &cloud, async |_| until_there_are(fake, 0).await).await;
}
