//! The provider DigitalOcean against its fake: the contract, what is its own, and the API's own description.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_digitalocean::{DigitalOcean, DigitalOceanConfig};
use blueprint_hub_provider_kit::{Credentials, Fixed, HttpClient, HttpConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{
    Account as _, ErrorClass, InstanceSpec, InstanceState, Provider, ProviderError, RightState, Tags, Tidied,
};
use blueprint_tests_cloud::contract::{self, Lab};
use blueprint_tests_cloud::digitalocean::DigitalOceanDialect;
use blueprint_tests_cloud::openapi::Spec;
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Power};
use blueprint_tests_support::{Need, require};

const TOKEN: &str = "dop_v1_canary0123456789";
const USER_DATA: &str = "#cloud-config\n# canary-of-a-join-token\n";

/// The API's description of itself, digitalocean/openapi of 2026-08-07.
const SPEC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/specs/digitalocean.json.gz");

struct Account {
    fake: FakeCloud,
    dialect: DigitalOceanDialect,
    provider: DigitalOcean,
}

fn hub() -> HubId {
    "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap()
}

fn provider(url: &str, regions: &[&str]) -> DigitalOcean {
    let token = [("token".to_owned(), Secret::new(TOKEN.to_owned()))];
    let http = HttpConfig { answer_within: Duration::from_secs(2), ..HttpConfig::default() };
    DigitalOcean::new(DigitalOceanConfig {
        hub: hub(),
        endpoint: url.to_owned(),
        regions: regions.iter().map(|region| (*region).to_owned()).collect(),
        image: "debian-13-x64".to_owned(),
        credentials: Arc::new(Fixed::new(Credentials::new("a test", token))),
        http: HttpClient::new(http).unwrap(),
    })
}

async fn account() -> Account {
    let dialect = DigitalOceanDialect::default();
    let fake = FakeCloud::start(dialect.clone(), TOKEN).await;
    let provider = provider(&fake.url(), &["fra1", "nyc1"]);
    Account { fake, dialect, provider }
}

fn order(number: u32) -> InstanceSpec {
    contract::order(hub(), number, ("s-1vcpu-1gb", "fra1"), USER_DATA)
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
            InstanceSpec { plan: "s-none".to_owned(), ..order(1) },
            InstanceSpec { region: "ams3".to_owned(), ..order(1) },
            InstanceSpec { region: "mars1".to_owned(), ..order(1) },
            InstanceSpec { spot: true, ..order(1) },
            InstanceSpec { arch: Arch::Arm64, ..order(1) },
            InstanceSpec { user_data: Secret::new("#".repeat(64 * 1024 + 1)), ..order(1) },
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
async fn a_second_call_for_an_order_finds_the_droplet_of_the_first() {
    let account = account().await;
    let first = account.provider.create(&order(1)).await.unwrap();
    let again = InstanceSpec { tags: order(1).tags.map(|tags| Tags { attempt: 2, ..tags }), ..order(1) };
    let second = account.provider.create(&again).await.unwrap();
    assert_eq!((&second.provider_id, &second.tags), (&first.provider_id, &first.tags));
}

#[tokio::test]
async fn droplets_with_gpus_are_listed_and_found() {
    let account = account().await;
    let gpu = InstanceSpec { plan: "gpu-l40sx1-48gb".to_owned(), ..order(1) };
    let made = account.provider.create(&gpu).await.unwrap();
    account.provider.create(&order(2)).await.unwrap();
    let listed = account.provider.list().await.unwrap().instances;
    assert_eq!(listed.len(), 2);
    assert_eq!(account.provider.create(&gpu).await.unwrap().provider_id, made.provider_id);
}

#[tokio::test]
async fn the_firewall_is_made_once_and_set_back_where_a_person_opened_it() {
    let account = account().await;
    account.provider.create(&order(1)).await.unwrap();
    account.provider.create(&order(2)).await.unwrap();
    assert_eq!(account.dialect.firewalls().len(), 1);
    assert_eq!(account.dialect.key_names(), [format!("bp-hub-{}", hub())]);
    account.dialect.open_firewalls();
    account.provider.create(&order(3)).await.unwrap();
    let firewalls = account.dialect.firewalls();
    assert!(
        firewalls.len() == 1 && firewalls[0]["inbound_rules"].as_array().unwrap().is_empty(),
        "{firewalls:?}"
    );
    // Another process of the same hub finds both.
    provider(&account.fake.url(), &[]).create(&order(4)).await.unwrap();
    assert_eq!((account.dialect.firewalls().len(), account.dialect.key_names().len()), (1, 1));
}

#[tokio::test]
async fn what_was_deleted_by_hand_is_made_again() {
    let account = account().await;
    account.provider.create(&order(1)).await.unwrap();
    account.dialect.clear();
    let error = account.provider.create(&order(2)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Again, "{error:?}");
    account.provider.create(&order(2)).await.unwrap();
    assert_eq!((account.dialect.firewalls().len(), account.dialect.key_names().len()), (1, 1));
}

#[tokio::test]
async fn volumes_go_with_their_droplet_and_so_does_the_tag_of_the_order() {
    let account = account().await;
    let made = account.provider.create(&order(1)).await.unwrap();
    account.fake.world(|world| world.machines[0].volumes.push("vol-1".to_owned()));
    account.provider.delete(&made.provider_id).await.unwrap();
    let asked = account.fake.asked();
    let delete = asked.iter().find(|asked| asked.kind == Kind::Delete).unwrap();
    assert_eq!(delete.request.json()["volumes"][0], "vol-1");
    assert!(
        account.dialect.tags().iter().all(|tag| !tag.contains("bp-key-")),
        "{:?}",
        account.dialect.tags()
    );
}

#[tokio::test]
async fn tags_of_a_deployment_go_with_its_last_droplet_and_those_of_calls_with_a_clean_account() {
    let account = account().await;
    let first = account.provider.create(&order(1)).await.unwrap();
    let second = account.provider.create(&order(2)).await.unwrap();
    let has = |word: &str| account.dialect.tags().iter().any(|tag| tag.starts_with(word));
    account.provider.delete(&first.provider_id).await.unwrap();
    assert!(has("bp-dep-"), "another droplet bears it");
    let bears = account.fake.world(|world| world.machines[0].tags.clone());
    assert!(bears.iter().any(|tag| tag.starts_with("bp-dep-")), "{bears:?}");
    account.provider.delete(&second.provider_id).await.unwrap();
    assert!(!has("bp-dep-") && !has("bp-key-"), "{:?}", account.dialect.tags());
    assert!(has("bp-att-"), "it may be another hub's");

    // What another hub's machine bears stays.
    let tags = ["bp-node", "bp-dep-bbbbbbbbbbbbbbbb", "bp-att-2"].map(str::to_owned);
    account.fake.world(|world| world.add("bp-bbbbbbbbbbbbbbbb-1", &tags, "s-1vcpu-1gb", "fra1", ""));
    tags.iter().for_each(|tag| account.dialect.add_tag(tag));
    account.dialect.add_tag("bp-key-bp-cccccccccccccccc-1");
    account.dialect.add_tag("mine");
    let mut tidied = Tidied::default();
    account.provider.tidy(hub(), &mut tidied).await.unwrap();
    assert!(tidied.removed.iter().any(|text| text == "2 tags that nothing bore"), "{tidied:?}");
    let left = account.dialect.tags();
    let wanted = ["bp-att-2", "bp-dep-bbbbbbbbbbbbbbbb", "mine"];
    assert!(wanted.iter().all(|tag| left.iter().any(|own| own == tag)), "{left:?}");
    assert!(left.iter().all(|tag| tag != "bp-att-1" && !tag.starts_with("bp-key-")), "{left:?}");
}

#[tokio::test]
async fn a_droplet_that_was_renamed_keeps_its_key_and_one_without_its_tag_is_left_alone() {
    let account = account().await;
    let made = account.provider.create(&order(1)).await.unwrap();
    account.fake.world(|world| world.machines[0].name = "my.favourite.example".to_owned());
    let listed = account.provider.list().await.unwrap().instances;
    assert_eq!(listed[0].key, order(1).key);
    account.fake.world(|world| world.machines[0].tags.retain(|tag| tag != "bp-node"));
    let error = account.provider.delete(&made.provider_id).await.unwrap_err();
    assert!(error.to_string().contains("bp-node"), "{error}");
    assert_eq!(account.fake.world(|world| world.machines.len()), 1);
    // It is listed for a moment more, and has no other sign of its order than the tag.
    account.fake.world(|world| world.machines[0].tags.push("bp-node".to_owned()));
    account.provider.delete(&made.provider_id).await.unwrap();
    assert!(account.dialect.tags().iter().any(|tag| tag.starts_with("bp-key-")));
}

#[tokio::test]
async fn a_machine_that_ignores_shutdown_loses_its_power() {
    let account = account().await;
    let spec = InstanceSpec { user_data: Secret::new("ignores shutdown".to_owned()), ..order(1) };
    let made = account.provider.create(&spec).await.unwrap();
    account.provider.stop(&made.provider_id).await.unwrap();
    assert_eq!(account.fake.world(|world| world.machines[0].power), Power::On);
    account.provider.stop(&made.provider_id).await.unwrap();
    assert_eq!(account.provider.list().await.unwrap().instances[0].state, InstanceState::Stopped);
}

#[tokio::test]
async fn without_a_token_it_is_said_where_one_is_looked_for() {
    let account = account().await;
    let empty = Arc::new(Fixed::new(Credentials::new("the file do.conf", [])));
    let config = DigitalOceanConfig {
        hub: hub(),
        endpoint: account.fake.url(),
        regions: Vec::new(),
        image: "debian-13-x64".to_owned(),
        credentials: empty,
        http: HttpClient::new(HttpConfig::default()).unwrap(),
    };
    let error = DigitalOcean::new(config).list().await.unwrap_err();
    assert!(
        matches!(&error, ProviderError::Deny { action } if action.contains("do.conf has no token")),
        "{error:?}"
    );
    assert!(account.fake.asked().is_empty());
}

/// Every request of a life, and every answer of the fake, fits what DigitalOcean publishes of its API.
#[tokio::test]
async fn requests_fit_the_published_api() {
    if !require(&[Need::File(SPEC)]) {
        return;
    }
    let spec = Spec::read(Path::new(SPEC)).unwrap();
    let account = account().await;
    let made = account.provider.create(&order(1)).await.unwrap();
    account.dialect.open_firewalls();
    let gpu = InstanceSpec { plan: "gpu-l40sx1-48gb".to_owned(), ..order(2) };
    account.provider.create(&gpu).await.unwrap();
    account.fake.world(|world| world.machines[1].volumes.push("ba49449a".to_owned()));
    account.provider.list().await.unwrap();
    account.provider.offers().await.unwrap();
    account.provider.stop(&made.provider_id).await.unwrap();
    account.provider.boot(&made.provider_id).await.unwrap();
    for instance in account.provider.list().await.unwrap().instances {
        account.provider.delete(&instance.provider_id).await.unwrap();
    }
    account.provider.delete("4242").await.unwrap();
    account.provider.look(hub()).await.unwrap();
    account.fake.fail(Kind::List, Fault::Refuse(blueprint_tests_cloud::Refusal::Unauthorized));
    account.provider.list().await.unwrap_err();
    let asked = account.fake.asked();
    let paths: std::collections::BTreeSet<_> = asked
        .iter()
        .map(|asked| format!("{} {}", asked.request.method, asked.request.path.split("/1").next().unwrap()))
        .collect();
    assert!(paths.len() >= 15, "{paths:?}");
    for asked in &asked {
        let faults = spec.faults(asked).unwrap();
        assert!(faults.is_empty(), "{} {}: {faults:#?}", asked.request.method, asked.request.path);
    }
    // The check is not blind.
    let mut wrong = asked.iter().find(|asked| asked.kind == Kind::Create).unwrap().clone();
    wrong.request.body = br#"{"name": 7, "size": "s-1vcpu-1gb"}"#.as_slice().into();
    assert!(!spec.faults(&wrong).unwrap().is_empty());
    wrong.request.query.push(("tag".to_owned(), "x".to_owned()));
    assert!(spec.faults(&wrong).unwrap().iter().any(|fault| fault.contains("tag")));
}

#[tokio::test]
async fn a_token_is_looked_at_and_nothing_is_made() {
    let account = account().await;
    let report = account.provider.look(hub()).await.unwrap();
    assert!(report.problems.is_empty() && report.notes.is_empty(), "{report:?}");
    assert_eq!(report.identity, "ops@example.com, team My Team");
    assert_eq!(report.regions, [("fra1".to_owned(), Some(true)), ("nyc1".to_owned(), Some(true))]);
    assert!(matches!(report.quotas.as_slice(), [(what, _)] if what == "droplets"), "{report:?}");
    let of = |state| {
        let rights = report.rights.iter().filter(move |right| right.state == state);
        rights.map(|right| right.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of(RightState::Missing), Vec::<&str>::new());
    assert!(
        of(RightState::Held).contains(&"droplet:read") && of(RightState::Untried).contains(&"droplet:create")
    );
    assert!(account.fake.asked().iter().all(|asked| asked.request.method == "GET"));

    let wrong = provider(&account.fake.url(), &["fra1", "mars1", "nyc2"]).look(hub()).await.unwrap();
    let [mars, full] = wrong.problems.as_slice() else { panic!("{wrong:?}") };
    assert!(mars.starts_with("mars1: DigitalOcean has no such region; correct it in"), "{mars}");
    assert!(full.starts_with("nyc2: DigitalOcean makes nothing new there"), "{full}");
}

#[tokio::test]
async fn a_look_at_an_account_tells_what_is_wrong_with_the_token() {
    use blueprint_tests_cloud::{Nonsense, Refusal};
    let account = account().await;
    account.fake.fail(Kind::List, Fault::Refuse(Refusal::Forbidden));
    let report = account.provider.look(hub()).await.unwrap();
    let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
    assert!(problem.contains("lacks the scope") && problem.contains("make one that has it"), "{problem}");
    assert!(report.rights.iter().any(|right| right.state == RightState::Missing), "{report:?}");

    // Whose token it is, is no right that orders need.
    account.fake.fail(Kind::Other, Fault::Refuse(Refusal::Forbidden));
    let report = account.provider.look(hub()).await.unwrap();
    assert!(
        report.problems.is_empty() && report.notes.len() == 1 && report.identity.is_empty(),
        "{report:?}"
    );

    for (fault, class) in [
        (Fault::Refuse(Refusal::Unauthorized), ErrorClass::Deny),
        (Fault::Refuse(Refusal::Unavailable), ErrorClass::Unknown),
        (Fault::Say(Nonsense::Html), ErrorClass::Unknown),
        (Fault::Say(Nonsense::WrongTypes), ErrorClass::Unknown),
        (Fault::Say(Nonsense::Empty), ErrorClass::Unknown),
        (Fault::Break, ErrorClass::Unknown),
    ] {
        account.fake.fail(Kind::Other, fault);
        let error = account.provider.look(hub()).await.unwrap_err();
        assert_eq!(error.class(), class, "{error:?}");
        assert!(!format!("{error:?} {}", error.line()).contains("canary"), "{error:?}");
    }
}
