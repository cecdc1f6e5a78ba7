//! The provider Linode against its fake: the contract, what is its own, and the API's own description.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_kit::{Credentials, Fixed, HttpClient, HttpConfig};
use blueprint_hub_provider_linode::{Linode, LinodeConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{
    Account as _, ErrorClass, InstanceSpec, InstanceState, Provider, RightState, Tags,
};
use blueprint_tests_cloud::contract::{self, Lab};
use blueprint_tests_cloud::linode::LinodeDialect;
use blueprint_tests_cloud::openapi::Spec;
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Nonsense, Refusal};
use blueprint_tests_support::{Need, require};

const TOKEN: &str = "canary0123456789abcdef";
const USER_DATA: &str = "#cloud-config\n# canary-of-a-join-token\n";

/// The API's description of itself, linode/linode-api-docs 4.189.0 (2024-10-21).
const SPEC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/specs/linode.yaml.gz");

struct Account {
    fake: FakeCloud,
    dialect: LinodeDialect,
    provider: Linode,
}

fn hub() -> HubId {
    "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap()
}

fn provider_with(url: &str, regions: &[&str], image: &str) -> Linode {
    let token = [("token".to_owned(), Secret::new(TOKEN.to_owned()))];
    let http = HttpConfig { answer_within: Duration::from_secs(2), ..HttpConfig::default() };
    Linode::new(LinodeConfig {
        hub: hub(),
        endpoint: url.to_owned(),
        regions: regions.iter().map(|region| (*region).to_owned()).collect(),
        image: image.to_owned(),
        credentials: Arc::new(Fixed::new(Credentials::new("a test", token))),
        http: HttpClient::new(http).unwrap(),
    })
}

fn provider(url: &str, regions: &[&str]) -> Linode {
    provider_with(url, regions, "linode/debian13")
}

async fn account() -> Account {
    let dialect = LinodeDialect::default();
    let fake = FakeCloud::start(dialect.clone(), TOKEN).await;
    let provider = provider(&fake.url(), &["us-east", "eu-central"]);
    Account { fake, dialect, provider }
}

fn order(number: u32) -> InstanceSpec {
    contract::order(hub(), number, ("g6-nanode-1", "us-east"), USER_DATA)
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
            InstanceSpec { plan: "g6-none".to_owned(), ..order(1) },
            InstanceSpec { region: "id-cgk".to_owned(), ..order(1) },
            InstanceSpec { region: "mars".to_owned(), ..order(1) },
            InstanceSpec { spot: true, ..order(1) },
            InstanceSpec { arch: Arch::Arm64, ..order(1) },
            InstanceSpec { key: "a--b".parse().unwrap(), ..order(1) },
            InstanceSpec { user_data: Secret::new("#".repeat(65_536)), ..order(1) },
            InstanceSpec { tags: other, ..order(1) },
        ]
    }

    fn absent(&self) -> String {
        "999999999".to_owned()
    }

    fn secrets(&self) -> Vec<String> {
        vec![TOKEN.to_owned(), "canary".to_owned()]
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
async fn a_machine_gets_its_user_data_and_a_password_of_its_own() {
    let account = account().await;
    for number in [1, 2] {
        account.provider.create(&order(number)).await.unwrap();
    }
    assert_eq!(account.fake.world(|world| world.machines[0].user_data.clone()), USER_DATA);
    let asked = account.fake.asked();
    let creations = asked.iter().filter(|asked| asked.kind == Kind::Create);
    let passwords: Vec<_> = creations.map(|asked| asked.request.json()["root_pass"].clone()).collect();
    assert!(passwords.len() == 2 && passwords[0] != passwords[1]);
}

/// The label is the request key that this API does not have: where the first answer is lost and lists are late, no second
/// machine is made.
#[tokio::test]
async fn an_order_whose_machine_is_not_listed_yet_makes_no_second_one() {
    let account = account().await;
    account.fake.fail(Kind::Create, Fault::DoAndBreak);
    account.fake.world(|world| world.late = Duration::from_secs(3600));
    account.provider.create(&order(1)).await.unwrap_err();
    for _ in 0..3 {
        let error = account.provider.create(&order(1)).await.unwrap_err();
        assert!(
            error.class() == ErrorClass::Again && error.to_string().contains("not listed yet"),
            "{error:?}"
        );
    }
    account.fake.world(|world| world.late = Duration::ZERO);
    let made = account.provider.create(&order(1)).await.unwrap();
    let there = account.fake.world(|world| world.machines.iter().map(|one| one.id).collect::<Vec<_>>());
    assert_eq!([made.provider_id], [there[0].to_string()]);
    assert_eq!(there.len(), 1);
}

#[tokio::test]
async fn a_label_that_somebody_else_has_is_left_to_them() {
    let account = account().await;
    let stranger =
        account.fake.world(|world| world.add(order(1).key.as_str(), &[], "g6-nanode-1", "us-east", ""));
    let made = account.provider.create(&order(1)).await.unwrap();
    assert!(made.provider_id != stranger.to_string() && made.key == order(1).key);
    let again = account.provider.create(&order(1)).await.unwrap();
    assert_eq!(again.provider_id, made.provider_id);
    account.provider.delete(&made.provider_id).await.unwrap();
    assert_eq!(account.fake.world(|world| world.machines.len()), 1);
}

#[tokio::test]
async fn the_firewall_is_made_once_and_set_back_where_a_person_changed_it() {
    let account = account().await;
    account.provider.create(&order(1)).await.unwrap();
    account.dialect.open_firewalls();
    account.provider.create(&order(2)).await.unwrap();
    account.dialect.disable_firewalls();
    account.provider.create(&order(3)).await.unwrap();
    let firewalls = account.dialect.firewalls();
    let [firewall] = firewalls.as_slice() else { panic!("{firewalls:?}") };
    assert!(firewall["rules"]["inbound"].as_array().unwrap().is_empty() && firewall["status"] == "enabled");
    // Another process of the same hub finds it.
    provider(&account.fake.url(), &[]).create(&order(4)).await.unwrap();
    assert_eq!(account.dialect.firewalls().len(), 1);
    // One that was deleted by hand is made again.
    account.dialect.clear();
    account.provider.create(&order(5)).await.unwrap();
    assert_eq!(account.dialect.firewalls().len(), 1);
}

#[tokio::test]
async fn a_machine_that_was_renamed_keeps_its_key_and_one_without_its_tag_is_left_alone() {
    let account = account().await;
    let made = account.provider.create(&order(1)).await.unwrap();
    account.fake.world(|world| world.machines[0].name = "my.favourite.example".to_owned());
    let listed = account.provider.list().await.unwrap().instances;
    assert_eq!(listed[0].key, order(1).key);
    account.fake.world(|world| world.machines[0].tags.retain(|tag| tag != "bp-node"));
    for error in [
        account.provider.delete(&made.provider_id).await.unwrap_err(),
        account.provider.stop(&made.provider_id).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("bp-node"), "{error}");
    }
    assert_eq!(account.fake.world(|world| world.machines.len()), 1);
}

#[tokio::test]
async fn machines_with_gpus_are_machines_like_others() {
    let account = account().await;
    let offers = account.provider.offers().await.unwrap();
    let of = |plan: &str| offers.iter().filter(|offer| *offer.plan == *plan).collect::<Vec<_>>();
    let gpus = of("g1-gpu-rtx6000-1");
    assert!(gpus.len() == 1 && *gpus[0].region == *"us-east" && gpus[0].gpu.is_some(), "{gpus:?}");
    // What is not known is not sold, nor what is sold out.
    assert!(of("g9-gpu-mystery-1").is_empty());
    let regions = |plan| of(plan).iter().map(|offer| offer.region.to_string()).collect::<Vec<_>>();
    assert_eq!(regions("g6-standard-2"), ["us-east"]);
    assert_eq!(regions("g6-nanode-1"), ["eu-central", "us-east"]);
    let spec = InstanceSpec { plan: "g1-gpu-rtx6000-1".to_owned(), ..order(1) };
    account.provider.create(&spec).await.unwrap();
    assert_eq!(account.provider.list().await.unwrap().instances.len(), 1);
}

#[tokio::test]
async fn offers_have_the_prices_of_their_region() {
    let account = account().await;
    let all = provider(&account.fake.url(), &[]).offers().await.unwrap();
    let price = |region: &str| {
        let found = all.iter().find(|offer| *offer.plan == *"g6-nanode-1" && *offer.region == *region);
        found.map(|offer| offer.on_demand.get())
    };
    assert_eq!((price("us-east"), price("id-cgk")), (Some(7500), Some(9000)));
    assert_eq!((price("us-old"), price("us-dark")), (None, None));
}

#[tokio::test]
async fn a_token_is_looked_at_and_nothing_is_made() {
    let account = account().await;
    let report = account.provider.look(hub()).await.unwrap();
    assert!(report.problems.is_empty() && report.notes.is_empty(), "{report:?}");
    assert_eq!(report.identity, "ops, ops@example.com");
    assert_eq!(report.regions, [("us-east".to_owned(), Some(true)), ("eu-central".to_owned(), Some(true))]);
    let of = |state| {
        let rights = report.rights.iter().filter(move |right| right.state == state);
        rights.map(|right| right.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of(RightState::Missing), Vec::<&str>::new());
    assert_eq!(of(RightState::Held), ["linodes:read_only", "firewall:read_only", "images:read_only"]);
    assert_eq!(of(RightState::Untried), ["linodes:read_write", "firewall:read_write"]);
    assert!(account.fake.asked().iter().all(|asked| asked.request.method == "GET"));

    let wrong = provider(&account.fake.url(), &["us-east", "mars", "us-old", "us-dark"]);
    let wrong = wrong.look(hub()).await.unwrap();
    let [mars, old, dark] = wrong.problems.as_slice() else { panic!("{wrong:?}") };
    assert!(
        mars.starts_with("mars: Linode has no such region; correct it in providers.linode.regions"),
        "{mars}"
    );
    assert!(old.contains("no metadata service"), "{old}");
    assert!(dark.contains("outage"), "{dark}");

    for (image, word) in [
        ("linode/alpine3.12", "cloud-init"),
        ("linode/debian9", "not kept up"),
        ("linode/none", "correct it in providers.linode.image"),
    ] {
        let report = provider_with(&account.fake.url(), &[], image).look(hub()).await.unwrap();
        let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
        assert!(problem.contains(image) && problem.contains(word), "{problem}");
    }
}

#[tokio::test]
async fn a_look_at_an_account_tells_what_is_wrong_with_the_token() {
    let account = account().await;
    account.dialect.restrict_user();
    let report = account.provider.look(hub()).await.unwrap();
    let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
    assert!(problem.contains("restricted") && problem.contains("full access"), "{problem}");
    for (fault, class) in [
        (Fault::Refuse(Refusal::Unauthorized), ErrorClass::Deny),
        (Fault::Refuse(Refusal::Unavailable), ErrorClass::Unknown),
        (Fault::Say(Nonsense::Html), ErrorClass::Unknown),
        (Fault::Say(Nonsense::WrongTypes), ErrorClass::Unknown),
        (Fault::Break, ErrorClass::Unknown),
    ] {
        account.fake.fail(Kind::Other, fault);
        let error = account.provider.look(hub()).await.unwrap_err();
        assert_eq!(error.class(), class, "{error:?}");
        assert!(!format!("{error:?} {}", error.line()).contains("canary"), "{error:?}");
    }
}

#[tokio::test]
async fn a_machine_that_is_busy_is_switched_later() {
    let account = account().await;
    let made = account.provider.create(&order(1)).await.unwrap();
    account.provider.stop(&made.provider_id).await.unwrap();
    assert_eq!(account.provider.list().await.unwrap().instances[0].state, InstanceState::Stopped);
    account.fake.fail(Kind::Switch, Fault::Refuse(Refusal::Busy));
    assert_eq!(account.provider.boot(&made.provider_id).await.unwrap_err().class(), ErrorClass::Again);
    account.provider.boot(&made.provider_id).await.unwrap();
    assert_eq!(account.provider.list().await.unwrap().instances[0].state, InstanceState::Running);
}

/// Every request of a life, and every answer of the fake, fits what Linode publishes of its API.
#[tokio::test]
async fn requests_fit_the_published_api() {
    if !require(&[Need::File(SPEC), Need::Program("python3")]) {
        return;
    }
    let spec = Spec::read(Path::new(SPEC)).unwrap();
    let account = account().await;
    let made = account.provider.create(&order(1)).await.unwrap();
    account.dialect.open_firewalls();
    account.dialect.disable_firewalls();
    account.provider.create(&order(2)).await.unwrap();
    account.provider.list().await.unwrap();
    account.provider.offers().await.unwrap();
    account.provider.stop(&made.provider_id).await.unwrap();
    account.provider.boot(&made.provider_id).await.unwrap();
    for instance in account.provider.list().await.unwrap().instances {
        account.provider.delete(&instance.provider_id).await.unwrap();
    }
    account.provider.delete("4242").await.unwrap();
    account.provider.look(hub()).await.unwrap();
    account.fake.fail(Kind::List, Fault::Refuse(Refusal::Unauthorized));
    account.provider.list().await.unwrap_err();
    let asked = account.fake.asked();
    let paths: std::collections::BTreeSet<_> = asked
        .iter()
        .map(|asked| format!("{} {}", asked.request.method, asked.request.path.split("/1").next().unwrap()))
        .collect();
    assert!(paths.len() >= 12, "{paths:?}");
    // The document leaves the two out at lists that are short today, and says elsewhere that every list has pages.
    let is_of_pages = |fault: &String| fault.starts_with("the query has page");
    let is_short = |path: &str| path.starts_with("/v4/regions") || path == "/v4/linode/types";
    let faults: Vec<_> = asked
        .iter()
        .flat_map(|asked| {
            let (method, path) = (&asked.request.method, asked.request.path.clone());
            let mut faults = spec.faults(asked).unwrap();
            faults.retain(|fault| !(is_short(&path) && is_of_pages(fault)));
            faults.into_iter().map(move |fault| format!("{method} {path}: {fault}"))
        })
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
    // The check is not blind.
    let mut wrong = asked.iter().find(|asked| asked.kind == Kind::Create).unwrap().clone();
    wrong.request.body = br#"{"label": 7, "type": "g6-nanode-1"}"#.as_slice().into();
    assert!(!spec.faults(&wrong).unwrap().is_empty());
    wrong.request.query.push(("tag".to_owned(), "x".to_owned()));
    assert!(spec.faults(&wrong).unwrap().iter().any(|fault| fault.contains("tag")));
}
