//! Every call of a life fails once, in each of the ways that calls fail: the machine is made, switched and ended, and nothing is left.

use std::fmt;
use std::time::{Duration, Instant};

use blueprint_hub_provision::Provisioner;
use blueprint_hub_provision_core::lifecycle::{Deployer, Record, RecordState, Wanted};
use blueprint_tests_cloud::{Fault, Power, Refusal};
use futures_util::future::join_all;

use crate::clouds::{self, Cloud};
use crate::{live, order};

/// Before the cloud did anything, after it did all of it, and with the word that something broke.
const FAULTS: [Fault; 3] = [Fault::Break, Fault::DoAndBreak, Fault::Refuse(Refusal::Broken)];

/// Lives at the same time.
const AT_ONCE: usize = 12;

/// Longest step; some clouds take one call a second.
const STEP: Duration = Duration::from_secs(60);

/// What goes wrong in each step of a life: the request with this number, counted from 1.
type Wrong = Option<(usize, Fault)>;

/// One step of a life.
struct Step<'a> {
    cloud: &'a Cloud,
    provisioner: &'a Provisioner,
    wrong: Wrong,
}

impl Step<'_> {
    /// Waits until records and cloud are like this; gives how many requests that took.
    async fn until(&self, what: &str, earlier: usize, is_it: impl Fn(&[Record], &[Power]) -> bool) -> usize {
        let began = Instant::now();
        loop {
            let records: Vec<_> = self.provisioner.records().await.unwrap().instances.into_values().collect();
            let fake = &self.cloud.fake;
            let powers = fake.world(|world| world.machines.iter().map(|one| one.power).collect::<Vec<_>>());
            if is_it(&records, &powers) {
                return fake.asked().len() - earlier;
            }
            assert!(began.elapsed() < STEP, "{what}: {}", self.told(earlier, &records));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn told(&self, earlier: usize, records: &dyn fmt::Debug) -> String {
        let fake = &self.cloud.fake;
        let name = self.cloud.provider.name();
        let mut text = format!("{name} with {:?}\n{records:#?}\n{:?}\n", self.wrong, (self.cloud.beside)());
        for asked in fake.asked().iter().skip(earlier) {
            let status = asked.answer.as_ref().map(|answer| answer.status);
            text.push_str(&format!("{} {} {status:?}\n", asked.request.method, asked.request.path));
        }
        text
    }

    fn begin(&self) -> usize {
        if let Some((number, fault)) = self.wrong {
            self.cloud.fake.fail_nth(number, fault);
        }
        self.cloud.fake.asked().len()
    }

    /// One machine, from its order to its end; gives the most requests of a step.
    async fn all(&self) -> usize {
        let earlier = self.begin();
        let id = self.provisioner.deploy(order(self.cloud, 1)).await.unwrap().0.id;
        let is_made = |record: &Record| record.state == RecordState::Created && record.provider_id.is_some();
        let ordered = self.until("an order", earlier, |records, powers| {
            records.iter().any(is_made) && powers == [Power::On]
        });
        let mut most = ordered.await;
        for (wanted, power) in [(Wanted::Stopped, Power::Off), (Wanted::Running, Power::On)] {
            let earlier = self.begin();
            self.provisioner.set_wanted(id.clone(), wanted, "a test".to_owned()).await.unwrap();
            let switched = self.until(wanted.label(), earlier, |records, powers| {
                let is_seen = |record: &Record| is_made(record) && record.is_off == (power == Power::Off);
                records.iter().any(is_seen) && powers == [power]
            });
            most = most.max(switched.await);
        }
        let earlier = self.begin();
        self.provisioner.set_wanted(id, Wanted::Gone, "a test".to_owned()).await.unwrap();
        let ended = self.until("an end", earlier, |records, powers| {
            let is_over = records.iter().all(|record| record.state.is_ended());
            is_over && powers.is_empty() && (self.cloud.beside)().is_empty()
        });
        most.max(ended.await)
    }
}

async fn a_life(cloud: &Cloud, wrong: Wrong) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let mut most = 0;
    live(folder.path(), cloud, async |provisioner| {
        most = Step { cloud, provisioner, wrong }.all().await;
    })
    .await;
    most
}

async fn each_call_fails_once(make: impl AsyncFn() -> Cloud) {
    let most = Box::pin(a_life(&make().await, None)).await;
    let runs: Vec<_> = (1..=most).flat_map(|number| FAULTS.map(|fault| (number, fault))).collect();
    for some in runs.chunks(AT_ONCE) {
        let mut made = Vec::new();
        for wrong in some {
            made.push((make().await, *wrong));
        }
        join_all(made.iter().map(|(cloud, wrong)| Box::pin(a_life(cloud, Some(*wrong))))).await;
    }
}

#[tokio::test]
async fn each_call_to_digitalocean_fails_once_and_nothing_is_left() {
    each_call_fails_once(clouds::digitalocean).await;
}

#[tokio::test]
async fn each_call_to_ec2_fails_once_and_nothing_is_left() {
    each_call_fails_once(clouds::ec2).await;
}

#[tokio::test]
async fn each_call_to_vultr_fails_once_and_nothing_is_left() {
    each_call_fails_once(clouds::vultr).await;
}

#[tokio::test]
async fn each_call_to_linode_fails_once_and_nothing_is_left() {
    each_call_fails_once(clouds::linode).await;
}

#[tokio::test]
async fn each_call_to_google_fails_once_and_nothing_is_left() {
    each_call_fails_once(clouds::gcp).await;
}

#[tokio::test]
async fn each_call_to_azure_fails_once_and_nothing_is_left() {
    each_call_fails_once(clouds::azure).await;
}

#[tokio::test]
async fn each_call_to_scaleway_fails_once_and_nothing_is_left() {
    each_call_fails_once(clouds::scaleway).await;
}

#[tokio::test]
async fn each_call_to_hivelocity_fails_once_and_nothing_is_left() {
    each_call_fails_once(clouds::hivelocity).await;
}

#[tokio::test]
async fn each_call_to_an_engine_fails_once_and_nothing_is_left() {
    each_call_fails_once(clouds::engine).await;
}
