//! The provider Scaleway against its fake: the contract, and what is its own.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_kit::{Credentials, Fixed, HttpClient, HttpConfig};
use blueprint_hub_provider_scaleway::{Scaleway, ScalewayConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{
    Account as _, ErrorClass, InstanceSpec, InstanceState, Provider, ProviderError, RightState, Tags,
};
use blueprint_tests_cloud::contract::{self, Lab};
use blueprint_tests_cloud::scaleway::{PROJECT, ScalewayDialect, name_of};
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Power, Refusal};

const KEY: &str = "canary00-1111-2222-3333-444444444444";
const USER_DATA: &str = "#cloud-config\n# canary-of-a-join-token\n";

struct Project {
    fake: FakeCloud,
    dialect: ScalewayDialect,
    provider: Scaleway,
}

fn hub() -> HubId {
    "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap()
}

fn provider(url: &str, zones: &[&str]) -> Scaleway {
    let field = |name: &str, value: &str| (name.to_owned(), Secret::new(value.to_owned()));
    let key = [field("secret_key", KEY), field("project_id", PROJECT)];
    let http = HttpConfig { answer_within: Duration::from_secs(2), ..HttpConfig::default() };
    Scaleway::new(ScalewayConfig {
        hub: hub(),
        endpoint: url.to_owned(),
        zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
        image: "debian_trixie".to_owned(),
        credentials: Arc::new(Fixed::new(Credentials::new("a test", key))),
        http: HttpClient::new(http).unwrap(),
    })
}

async fn project() -> Project {
    let dialect = ScalewayDialect::default();
    let fake = FakeCloud::start(dialect.clone(), KEY).await;
    let provider = provider(&fake.url(), &["fr-par-1", "nl-ams-1"]);
    Project { fake, dialect, provider }
}

fn order(number: u32) -> InstanceSpec {
    InstanceSpec { disk_gb: 20, ..contract::order(hub(), number, ("DEV1-S", "fr-par-1"), USER_DATA) }
}

/// The same order, called for the second time.
fn called_again(number: u32) -> InstanceSpec {
    InstanceSpec {
        tags: order(number).tags.map(|tags| Tags { attempt: 2, ..tags }),
        user_data: Secret::new("#cloud-config\n# another canary\n".to_owned()),
        ..order(number)
    }
}

impl Lab for Project {
    fn provider(&self) -> &dyn Provider {
        &self.provider
    }

    fn order(&self, number: u32) -> InstanceSpec {
        order(number)
    }

    fn wrong_orders(&self) -> Vec<InstanceSpec> {
        let other = Some(Tags { hub: HubId::from_bytes([7; 16]), ..order(1).tags.unwrap() });
        vec![
            InstanceSpec { plan: "NONE-S".to_owned(), ..order(1) },
            InstanceSpec { region: "pl-waw-1".to_owned(), ..order(1) },
            InstanceSpec { region: "mars-1".to_owned(), ..order(1) },
            InstanceSpec { spot: true, ..order(1) },
            InstanceSpec { arch: Arch::Arm64, ..order(1) },
            InstanceSpec { disk_gb: 20_000, ..order(1) },
            InstanceSpec { user_data: Secret::new("#".repeat(16 * 1024 + 1)), ..order(1) },
            InstanceSpec { tags: other, ..order(1) },
        ]
    }

    fn absent(&self) -> String {
        name_of(999_999_999)
    }

    fn name_of(&self, id: u64) -> String {
        name_of(id)
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
    Box::pin(contract::run(project)).await;
}

#[tokio::test]
async fn a_server_is_told_what_to_run_before_it_runs() {
    let project = project().await;
    let made = project.provider.create(&order(1)).await.unwrap();
    assert_eq!(made.state, InstanceState::Starting);
    let asked: Vec<_> = project.fake.asked().into_iter().filter(|it| it.request.method != "GET").collect();
    let paths: Vec<_> = asked
        .iter()
        .map(|it| format!("{} {}", it.request.method, it.request.path.rsplit('/').next().unwrap()))
        .collect();
    let id = made.provider_id.rsplit('/').next().unwrap();
    let steps =
        ["POST security_groups", "POST servers", "PATCH cloud-init", &format!("PATCH {id}"), "POST action"];
    assert_eq!(paths, steps);
    let ordered = asked[1].request.json();
    assert_eq!(ordered["volumes"]["0"]["size"], 20_000_000_000u64);
    assert_eq!(ordered["dynamic_ip_required"], true);
    assert!(ordered["tags"].as_array().unwrap().iter().any(|tag| tag == "bp-new"));
    let tags = project.fake.world(|world| world.machines[0].tags.clone());
    assert!(!tags.contains(&"bp-new".to_owned()), "{tags:?}");
}

#[tokio::test]
async fn a_server_that_was_made_in_part_says_so_and_the_next_call_finishes_it() {
    let project = project().await;
    project.fake.fail(Kind::Create, Fault::DoAndBreak);
    project.provider.create(&order(1)).await.unwrap_err();
    let listed = project.provider.list().await.unwrap().instances;
    assert_eq!(listed[0].state, InstanceState::Unfinished);
    let refused = project.provider.boot(&listed[0].provider_id).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Reject);
    let made = project.provider.create(&called_again(1)).await.unwrap();
    assert_eq!(made.provider_id, listed[0].provider_id);
    // It has the token of the second call, and says so.
    assert_eq!(made.tags, called_again(1).tags);
    let machine = project.fake.world(|world| world.machines[0].clone());
    assert_eq!(machine.user_data, *called_again(1).user_data.expose());
    let listed = project.provider.list().await.unwrap().instances;
    assert_eq!((listed.len(), &listed[0].tags, &listed[0].state), (1, &made.tags, &InstanceState::Running));
}

#[tokio::test]
async fn a_second_call_for_an_order_finds_the_server_of_the_first_and_boots_it_where_it_never_was() {
    let project = project().await;
    project.fake.fail(Kind::Switch, Fault::Break);
    let error = project.provider.create(&order(1)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unknown);
    let second = project.provider.create(&called_again(1)).await.unwrap();
    assert_eq!(second.tags, order(1).tags, "it has the token of the first call");
    let machine = project.fake.world(|world| world.machines[0].clone());
    assert_eq!((machine.power, machine.user_data.as_str()), (Power::On, USER_DATA));
    assert_eq!(project.fake.count(Kind::Create), 1);
}

#[tokio::test]
async fn what_a_refused_order_made_is_taken_away() {
    let project = project().await;
    project.fake.fail(Kind::Switch, Fault::Refuse(Refusal::Capacity));
    let error = project.provider.create(&order(1)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Capacity, "{error:?}");
    assert!(project.provider.list().await.unwrap().instances.is_empty());
    assert_eq!(project.dialect.volumes(), Vec::<u64>::new());
}

#[tokio::test]
async fn of_a_server_only_what_people_attached_stays() {
    for is_off in [false, true] {
        let project = project().await;
        let made = project.provider.create(&order(1)).await.unwrap();
        let id = project.fake.world(|world| world.machines[0].id);
        project.dialect.add_local_volume(id, 7);
        project.dialect.add_address(id, 8);
        assert_eq!((project.dialect.volumes().len(), project.dialect.addresses()), (2, 1));
        if is_off {
            project.provider.stop(&made.provider_id).await.unwrap();
        }
        // One that runs is switched off first: Scaleway takes local volumes away with it.
        for _ in 0..2 {
            project.provider.delete(&made.provider_id).await.unwrap();
        }
        assert!(project.provider.list().await.unwrap().instances.is_empty());
        assert_eq!((project.dialect.volumes(), project.dialect.addresses()), (vec![7], 1), "off: {is_off}");
    }
}

#[tokio::test]
async fn a_locked_server_is_off_and_is_not_switched_on() {
    let project = project().await;
    let made = project.provider.create(&order(1)).await.unwrap();
    project.dialect.lock(project.fake.world(|world| world.machines[0].id));
    let listed = project.provider.list().await.unwrap().instances;
    assert_eq!(listed[0].state, InstanceState::Stopped);
    let error = project.provider.boot(&made.provider_id).await.unwrap_err();
    assert!(matches!(error, ProviderError::Reject { .. }) && error.line().contains("support"), "{error:?}");
    project.provider.stop(&made.provider_id).await.unwrap();
}

#[tokio::test]
async fn a_volume_that_outlives_its_server_is_listed_until_it_is_gone_too() {
    let project = project().await;
    project.dialect.end_slowly();
    let made = project.provider.create(&order(1)).await.unwrap();
    project.provider.delete(&made.provider_id).await.unwrap();
    let state = |listed: Vec<blueprint_hub_provision_core::Instance>| {
        let only: [_; 1] = listed.try_into().unwrap();
        (only[0].provider_id.clone(), only[0].tags.clone(), only[0].state.clone())
    };
    let wanted = (made.provider_id.clone(), order(1).tags, InstanceState::Stopping);
    assert_eq!(state(project.provider.list().await.unwrap().instances), wanted);
    // Asked again while it ends, nothing is done twice.
    project.provider.delete(&made.provider_id).await.unwrap();
    assert_eq!(project.fake.count(Kind::Delete), 1);
    // The server is gone; the hub was killed before it took the volume away.
    project.fake.world(|world| project.dialect.end_now(world));
    assert_eq!(project.dialect.volumes().len(), 1);
    assert_eq!(state(project.provider.list().await.unwrap().instances), wanted);
    let other = provider(&project.fake.url(), &["fr-par-1"]);
    other.delete(&made.provider_id).await.unwrap();
    assert!(other.list().await.unwrap().instances.is_empty());
    assert_eq!(project.dialect.volumes(), Vec::<u64>::new());
}

#[tokio::test]
async fn the_security_group_is_made_once_for_each_zone_and_set_back_where_a_person_opened_it() {
    let project = project().await;
    project.provider.create(&order(1)).await.unwrap();
    project.provider.create(&order(2)).await.unwrap();
    let elsewhere = InstanceSpec { region: "nl-ams-1".to_owned(), ..order(3) };
    project.provider.create(&elsewhere).await.unwrap();
    assert_eq!(project.dialect.groups().len(), 2);
    project.dialect.open_groups();
    project.provider.create(&order(4)).await.unwrap();
    let group = project.dialect.groups().remove(0);
    assert_eq!((&group["zone"], &group["inbound_default_policy"]), (&"fr-par-1".into(), &"drop".into()));
    assert_eq!(group["rules"].as_array().unwrap().len(), 1, "Scaleway's own rule stays: {group}");
    // Another process of the same hub finds it; one that was deleted by hand is made again.
    provider(&project.fake.url(), &[]).create(&order(5)).await.unwrap();
    assert_eq!(project.dialect.groups().len(), 2);
    project.dialect.clear();
    project.provider.create(&order(6)).await.unwrap();
    assert_eq!(project.dialect.groups().len(), 1);
}

#[tokio::test]
async fn servers_are_found_in_zones_that_are_not_configured_any_more() {
    let project = project().await;
    let elsewhere = InstanceSpec { region: "nl-ams-1".to_owned(), ..order(1) };
    let made = project.provider.create(&elsewhere).await.unwrap();
    let other = provider(&project.fake.url(), &["fr-par-1"]);
    let listed = other.list().await.unwrap().instances;
    assert_eq!(listed[0].provider_id, made.provider_id);
    other.delete(&made.provider_id).await.unwrap();
    assert!(other.list().await.unwrap().instances.is_empty());
}

#[tokio::test]
async fn arm_and_gpu_types_are_offered_and_ordered_with_their_image() {
    let project = project().await;
    let offers = project.provider.offers().await.unwrap();
    let of = |plan: &str| {
        let found = offers.iter().filter(move |offer| &*offer.plan == plan);
        found.map(|offer| offer.region.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(of("DEV1-S"), ["fr-par-1", "nl-ams-1"]);
    assert_eq!(of("L4-1-24G"), ["fr-par-1"]);
    assert_eq!((of("START1-S").len(), of("GP1-XS").len()), (0, 0), "one ended, of the other none are left");
    let arm = offers.iter().find(|offer| &*offer.plan == "BASIC2-A4C-8G").unwrap();
    assert_eq!(arm.arch, Arch::Arm64);
    let spec = InstanceSpec { plan: "BASIC2-A4C-8G".to_owned(), arch: Arch::Arm64, ..order(1) };
    project.provider.create(&spec).await.unwrap();
    let spec = InstanceSpec { plan: "L4-1-24G".to_owned(), ..order(2) };
    project.provider.create(&spec).await.unwrap();
    let images: Vec<_> = project
        .fake
        .asked()
        .iter()
        .filter(|asked| asked.kind == Kind::Create)
        .map(|asked| asked.request.json()["image"].as_str().unwrap().to_owned())
        .collect();
    assert_ne!(images[0], images[1]);
}

#[tokio::test]
async fn a_server_without_its_tag_is_left_alone_and_a_renamed_one_keeps_its_key() {
    let project = project().await;
    let made = project.provider.create(&order(1)).await.unwrap();
    project.fake.world(|world| world.machines[0].name = "my.favourite.example".to_owned());
    let listed = project.provider.list().await.unwrap().instances;
    assert_eq!(listed[0].key, order(1).key);
    project.fake.world(|world| world.machines[0].tags.retain(|tag| tag != "bp-node"));
    let error = project.provider.delete(&made.provider_id).await.unwrap_err();
    assert!(error.to_string().contains("bp-node"), "{error}");
    assert_eq!(project.fake.world(|world| world.machines.len()), 1);
    let error = project.provider.delete("17").await.unwrap_err();
    assert!(error.to_string().contains("zone/id was expected"), "{error}");
}

#[tokio::test]
async fn without_a_key_or_with_an_unknown_image_it_is_said_what_to_do() {
    let project = project().await;
    let config = |fields: &[(&str, &str)], image: &str| {
        let fields =
            fields.iter().map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned())));
        Scaleway::new(ScalewayConfig {
            hub: hub(),
            endpoint: project.fake.url(),
            zones: vec!["fr-par-1".to_owned()],
            image: image.to_owned(),
            credentials: Arc::new(Fixed::new(Credentials::new("the file scw.conf", fields))),
            http: HttpClient::new(HttpConfig::default()).unwrap(),
        })
    };
    let error = config(&[], "debian_trixie").list().await.unwrap_err();
    assert!(
        matches!(&error, ProviderError::Deny { action } if action.contains("scw.conf has no project_id")),
        "{error:?}"
    );
    assert!(project.fake.asked().is_empty());
    let both = [("secret_key", KEY), ("project_id", PROJECT)];
    let error = config(&both, "debian_buzz").create(&order(1)).await.unwrap_err();
    assert!(error.to_string().contains("set providers.scaleway.image"), "{error}");
}

#[tokio::test]
async fn a_key_is_looked_at_and_nothing_is_made() {
    let project = project().await;
    let report = project.provider.look(hub()).await.unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!(report.identity, format!("project machines of {PROJECT}"));
    assert_eq!(report.regions, [("fr-par-1".to_owned(), Some(true)), ("nl-ams-1".to_owned(), Some(true))]);
    let held = report.rights.iter().filter(|right| right.state == RightState::Held).count();
    assert_eq!(held, 3, "{report:?}");
    assert!(project.fake.asked().iter().all(|asked| asked.request.method == "GET"));

    let wrong =
        provider(&project.fake.url(), &["fr-par-1", "mars-1-1", "fr-par-3"]).look(hub()).await.unwrap();
    assert_eq!(wrong.problems.len(), 2, "{wrong:?}");
    assert!(wrong.problems[0].starts_with("mars-1-1: Scaleway has no such zone"), "{wrong:?}");

    project.fake.world(|world| world.token = "another".to_owned());
    let error = project.provider.look(hub()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Deny);
    assert!(error.line().contains("provider configure scaleway"), "{error:?}");
}
