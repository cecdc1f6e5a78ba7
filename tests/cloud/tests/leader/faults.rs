//! Every call of a life fails once, in each of the ways that calls fail: the machine is made, switched and ended, and nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use blueprint_hub_provision::Provisioner;
use blueprint_hub_provision_core::lifecycle::{Deployer, Record, RecordState, Wanted};
use blueprint_tests_cloud::{Asked, Fault, Kind, Power, Refusal, Request};
use futures_util::future::join_all;

use crate::clouds::{self, Cloud};
use crate::{live, order};

/// Before the cloud did anything, after it did all of it, and with the word that something broke.
const FAULTS: [Fault; 3] = [Fault::Break, Fault::DoAndBreak, Fault::Refuse(Refusal::Broken)];

/// Lives at the same time.
const AT_ONCE: usize = 24;

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
    /// Waits until records and cloud are like this; gives the numbers of the requests that are worth a fault.
    async fn until(
        &self,
        what: &str,
        earlier: usize,
        is_it: impl Fn(&[Record], &[Power]) -> bool,
    ) -> BTreeSet<usize> {
        let began = Instant::now();
        loop {
            let records: Vec<_> = self.provisioner.records().await.unwrap().instances.into_values().collect();
            let fake = &self.cloud.fake;
            let powers = fake.world(|world| world.machines.iter().map(|one| one.power).collect::<Vec<_>>());
            if is_it(&records, &powers) {
                return worth(fake.asked().iter().skip(earlier));
            }
            assert!(began.elapsed() < STEP, "{what}: {}", self.told(earlier, &records));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether an order came to another right end: an engine that says that it cannot start a container is believed, and where people
    /// deliver a machine that may have been ordered, it is waited for, for more than an hour.
    fn is_over(&self, earlier: usize, records: &[Record], powers: &[Power]) -> bool {
        let Some((_, fault)) = self.wrong else { return false };
        let is = |state: RecordState| powers.is_empty() && records.iter().any(|record| record.state == state);
        let is_unclear = |asked: &Asked| {
            asked.kind == Kind::Create && asked.answer.as_ref().is_none_or(|answer| answer.status == 500)
        };
        match self.cloud.provider.name() {
            "local-docker" => fault == Fault::Refuse(Refusal::Broken) && is(RecordState::Failed),
            "hivelocity" => {
                is(RecordState::Calling) && self.cloud.fake.asked().iter().skip(earlier).any(is_unclear)
            }
            _ => false,
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

    /// One machine, from its order to its end; gives the numbers of the requests that are worth a fault.
    async fn all(&self) -> BTreeSet<usize> {
        let earlier = self.begin();
        let id = self.provisioner.deploy(order(self.cloud, 1)).await.unwrap().0.id;
        let is_made = |record: &Record| record.state == RecordState::Created && record.provider_id.is_some();
        let ordered = self.until("an order", earlier, |records, powers| {
            let is_there = records.iter().any(is_made) && powers == [Power::On];
            is_there || self.is_over(earlier, records, powers)
        });
        let mut worth = ordered.await;
        if self.cloud.fake.world(|world| world.machines.is_empty()) {
            assert!((self.cloud.beside)().is_empty(), "{:?}", (self.cloud.beside)());
            return worth;
        }
        for (wanted, power) in [(Wanted::Stopped, Power::Off), (Wanted::Running, Power::On)] {
            let earlier = self.begin();
            self.provisioner.set_wanted(id.clone(), wanted, "a test".to_owned()).await.unwrap();
            let switched = self.until(wanted.label(), earlier, |records, powers| {
                let is_seen = |record: &Record| is_made(record) && record.is_off == (power == Power::Off);
                records.iter().any(is_seen) && powers == [power]
            });
            worth.append(&mut switched.await);
        }
        let earlier = self.begin();
        self.provisioner.set_wanted(id, Wanted::Gone, "a test".to_owned()).await.unwrap();
        let ended = self.until("an end", earlier, |records, powers| {
            let is_over = records.iter().all(|record| record.state.is_ended());
            is_over && powers.is_empty() && (self.cloud.beside)().is_empty()
        });
        worth.append(&mut ended.await);
        worth
    }
}

/// Numbers of requests, counted from 1, without the fourth and later ones of a kind: lists are asked for again and again, and of
/// each zone.
fn worth<'a>(asked: impl Iterator<Item = &'a Asked>) -> BTreeSet<usize> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let is_new = |(number, asked): (usize, &Asked)| {
        let Request { method, path, body, .. } = &asked.request;
        let words = path.split('/').filter(|word| !word.bytes().any(|byte| byte.is_ascii_digit()));
        let body = String::from_utf8_lossy(body);
        let action = body.split('&').find(|field| field.starts_with("Action=")).unwrap_or_default();
        let count = seen.entry(format!("{method} {} {action}", words.collect::<String>())).or_default();
        *count += 1;
        (*count < 4).then_some(number)
    };
    (1..).zip(asked).filter_map(is_new).collect()
}

async fn a_life(cloud: &Cloud, wrong: Wrong) -> BTreeSet<usize> {
    let folder = tempfile::tempdir().unwrap();
    let mut worth = BTreeSet::new();
    live(folder.path(), cloud, async |provisioner| {
        worth = Step { cloud, provisioner, wrong }.all().await;
    })
    .await;
    worth
}

async fn each_call_fails_once(make: impl AsyncFn() -> Cloud) {
    let worth = Box::pin(a_life(&make().await, None)).await;
    let runs: Vec<_> = worth.iter().flat_map(|number| FAULTS.map(|fault| (*number, fault))).collect();
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
async fn each_call_for_whole_machines_of_vultr_fails_once_and_nothing_is_left() {
    each_call_fails_once(clouds::vultr_metal).await;
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
