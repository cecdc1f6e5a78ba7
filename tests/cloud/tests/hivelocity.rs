//! The provider Hivelocity against its fake: the contract, and what is its own.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_hivelocity::{Hivelocity, HivelocityConfig};
use blueprint_hub_provider_kit::{Credentials, Fixed, HttpClient, HttpConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{
    Account as _, ErrorClass, InstanceSpec, InstanceState, Provider, RightState, Tags,
};
use blueprint_tests_cloud::contract::{self, Lab};
use blueprint_tests_cloud::hivelocity::HivelocityDialect;
use blueprint_tests_cloud::openapi::Spec;
use blueprint_tests_cloud::{FakeCloud, Power};
use blueprint_tests_support::{Need, require};

const KEY: &str = "canary-of-an-api-key";
const USER_DATA: &str = "#cloud-config\n# canary-of-a-join-token\n";

/// The API's description of itself, of 2024-02-09.
const SPEC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/specs/hivelocity.yaml.gz");

struct Account {
    fake: FakeCloud,
    dialect: HivelocityDialect,
    provider: Hivelocity,
}

fn hub() -> HubId {
    "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap()
}

fn provider(url: &str, facilities: &[&str]) -> Hivelocity {
    let key = [("api_key".to_owned(), Secret::new(KEY.to_owned()))];
    let http = HttpConfig { answer_within: Duration::from_secs(2), ..HttpConfig::default() };
    Hivelocity::new(HivelocityConfig {
        hub: hub(),
        endpoint: url.to_owned(),
        facilities: facilities.iter().map(|facility| (*facility).to_owned()).collect(),
        system: "Ubuntu 24.04".to_owned(),
        credentials: Arc::new(Fixed::new(Credentials::new("a test", key))),
        http: HttpClient::new(http).unwrap(),
    })
}

async fn account() -> Account {
    let dialect = HivelocityDialect::default();
    let fake = FakeCloud::start(dialect.clone(), KEY).await;
    let provider = provider(&fake.url(), &["NYC1", "TPA1"]);
    Account { fake, dialect, provider }
}

fn order(number: u32) -> InstanceSpec {
    InstanceSpec { disk_gb: 960, ..contract::order(hub(), number, ("bm-525", "NYC1"), USER_DATA) }
}

impl Lab for Account {
    fn provider(&self) -> &dyn Provider {
        &self.provider
    }

    fn order(&self, number: u32) -> InstanceSpec {
        order(number)
    }

    fn wrong_orders(&self) -> Vec<InstanceSpec> {
        let other = Some(Tags { hub: HubId::from_bytes([7; 16]), ..order(1).tags.unwrap() });
        vec![
            InstanceSpec { plan: "hive-small".to_owned(), ..order(1) },
            InstanceSpec { plan: "bm-1".to_owned(), ..order(1) },
            InstanceSpec { region: "ATL2".to_owned(), ..order(1) },
            InstanceSpec { spot: true, ..order(1) },
            InstanceSpec { arch: Arch::Arm64, ..order(1) },
            InstanceSpec { user_data: Secret::new("#".repeat(16 * 1024 + 1)), ..order(1) },
            InstanceSpec { tags: other, ..order(1) },
        ]
    }

    fn absent(&self) -> String {
        "bm-999999999".to_owned()
    }

    fn name_of(&self, id: u64) -> String {
        format!("bm-{id}")
    }

    fn secrets(&self) -> Vec<String> {
        vec![KEY.to_owned(), "canary".to_owned()]
    }

    fn fake(&self) -> Option<&FakeCloud> {
        Some(&self.fake)
    }

    async fn shut(&mut self) {
        self.fake.shut().await;
    }
}

#[tokio::test]
async fn the_contract_holds() {
    Box::pin(contract::run(account)).await;
}

#[tokio::test]
async fn a_device_that_is_not_delivered_is_starting_and_is_not_ordered_again() {
    let account = account().await;
    account.dialect.deliver_late();
    let made = account.provider.create(&order(1)).await.unwrap();
    assert_eq!(account.provider.list().await.unwrap().instances[0].state, InstanceState::Starting);
    assert_eq!(account.provider.create(&order(1)).await.unwrap().provider_id, made.provider_id);
    let busy = account.provider.stop(&made.provider_id).await.unwrap_err();
    assert_eq!(busy.class(), ErrorClass::Again);
    account.fake.world(|world| world.machines[0].power = Power::On);
    assert_eq!(account.provider.list().await.unwrap().instances[0].state, InstanceState::Running);
}

#[tokio::test]
async fn virtual_machines_have_calls_of_their_own() {
    let account = account().await;
    let spec = InstanceSpec { plan: "vps-580".to_owned(), ..order(1) };
    let made = account.provider.create(&spec).await.unwrap();
    account.provider.create(&order(2)).await.unwrap();
    assert!(made.provider_id.starts_with("vps-"), "{made:?}");
    assert_eq!(account.provider.list().await.unwrap().instances.len(), 2);
    account.provider.stop(&made.provider_id).await.unwrap();
    account.provider.delete(&made.provider_id).await.unwrap();
    let left = account.provider.list().await.unwrap().instances;
    assert_eq!((left.len(), &left[0].key), (1, &order(2).key));
}

#[tokio::test]
async fn a_cancellation_that_fails_is_an_error_that_is_tried_again() {
    let account = account().await;
    let made = account.provider.create(&order(1)).await.unwrap();
    account.dialect.fail_cancellation();
    let error = account.provider.delete(&made.provider_id).await.unwrap_err();
    assert!(
        error.class() == ErrorClass::Again && error.to_string().contains("cancellation failed"),
        "{error:?}"
    );
    account.provider.delete(&made.provider_id).await.unwrap();
    assert!(account.provider.list().await.unwrap().instances.is_empty());
}

#[tokio::test]
async fn a_device_without_its_tag_is_left_alone() {
    let account = account().await;
    let made = account.provider.create(&order(1)).await.unwrap();
    account.fake.world(|world| world.machines[0].tags.retain(|tag| tag != "bp-node"));
    let error = account.provider.delete(&made.provider_id).await.unwrap_err();
    assert!(error.to_string().contains("bp-node"), "{error}");
    assert_eq!(account.fake.world(|world| world.machines.len()), 1);
}

#[tokio::test]
async fn a_key_is_looked_at_and_nothing_is_made() {
    let account = account().await;
    let report = account.provider.look(hub()).await.unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!((report.account.as_str(), report.identity.as_str()), ("77", "ops@example.com"));
    assert!(report.rights.iter().all(|right| right.state == RightState::Held), "{report:?}");
    assert!(account.fake.asked().iter().all(|asked| asked.request.method == "GET"));
    let wrong = provider(&account.fake.url(), &["MARS1"]).look(hub()).await.unwrap();
    assert!(wrong.problems[0].starts_with("MARS1: Hivelocity has no such facility"), "{wrong:?}");
}

/// Every request of a life, and every answer of the fake, fits what Hivelocity publishes of its API.
#[tokio::test]
async fn requests_fit_the_published_api() {
    if !require(&[Need::File(SPEC)]) {
        return;
    }
    let spec = Spec::read(Path::new(SPEC)).unwrap().of_swagger();
    let account = account().await;
    let made = account.provider.create(&order(1)).await.unwrap();
    let virtual_one = InstanceSpec { plan: "vps-580".to_owned(), ..order(2) };
    account.provider.create(&virtual_one).await.unwrap();
    account.provider.offers().await.unwrap();
    account.provider.stop(&made.provider_id).await.unwrap();
    account.provider.boot(&made.provider_id).await.unwrap();
    for instance in account.provider.list().await.unwrap().instances {
        account.provider.delete(&instance.provider_id).await.unwrap();
    }
    account.provider.look(hub()).await.unwrap();
    let asked = account.fake.asked();
    for asked in &asked {
        let faults = spec.faults(asked).unwrap();
        assert!(faults.is_empty(), "{} {}: {faults:#?}", asked.request.method, asked.request.path);
    }
    // The check is not blind.
    let mut wrong = asked.iter().find(|asked| asked.request.method == "POST").unwrap().clone();
    wrong.request.body = br#"{"productId": "525"}"#.as_slice().into();
    assert!(!spec.faults(&wrong).unwrap().is_empty());
}
