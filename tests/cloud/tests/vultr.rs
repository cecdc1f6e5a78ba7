//! The provider Vultr against its fake: the contract, and what is its own. Vultr's description of its API is not at hand, so
//! requests are held to the rules of the fake alone.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_kit::{Credentials, Fixed, HttpClient, HttpConfig};
use blueprint_hub_provider_vultr::{Vultr, VultrConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{Account as _, ErrorClass, InstanceSpec, Provider, RightState, Tags};
use blueprint_tests_cloud::contract::{self, Lab};
use blueprint_tests_cloud::vultr::{VultrDialect, name_of};
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Nonsense, Power, Refusal};

const KEY: &str = "CANARY0123456789ABCDEF";
const METAL: &str = "vbm-4c-32gb";
const USER_DATA: &str = "#cloud-config\n# canary-of-a-join-token\n";

struct Account {
    fake: FakeCloud,
    dialect: VultrDialect,
    provider: Vultr,
    /// What is ordered.
    plan: &'static str,
}

fn hub() -> HubId {
    "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap()
}

fn provider_with(url: &str, regions: &[&str], image: &str) -> Vultr {
    Vultr::new(config(url, regions, image))
}

fn config(url: &str, regions: &[&str], image: &str) -> VultrConfig {
    let key = [("api_key".to_owned(), Secret::new(KEY.to_owned()))];
    let http = HttpConfig { answer_within: Duration::from_secs(2), ..HttpConfig::default() };
    VultrConfig {
        hub: hub(),
        endpoint: url.to_owned(),
        regions: regions.iter().map(|region| (*region).to_owned()).collect(),
        image: image.to_owned(),
        bare_metal: false,
        credentials: Arc::new(Fixed::new(Credentials::new("a test", key))),
        http: HttpClient::new(http).unwrap(),
    }
}

async fn account() -> Account {
    let dialect = VultrDialect::default();
    let fake = FakeCloud::start(dialect.clone(), KEY).await;
    let provider = provider_with(&fake.url(), &["ewr", "fra"], "Debian 13 x64");
    Account { fake, dialect, provider, plan: "vc2-1c-1gb" }
}

/// One whose hub offers whole machines, and orders them here.
async fn metal() -> Account {
    let account = account().await;
    let config = config(&account.fake.url(), &["ewr", "fra"], "Debian 13 x64");
    let provider = Vultr::new(VultrConfig { bare_metal: true, ..config });
    Account { provider, plan: METAL, ..account }
}

fn order(number: u32) -> InstanceSpec {
    contract::order(hub(), number, ("vc2-1c-1gb", "ewr"), USER_DATA)
}

impl Lab for Account {
    fn provider(&self) -> &dyn Provider {
        &self.provider
    }

    fn order(&self, number: u32) -> InstanceSpec {
        InstanceSpec { plan: self.plan.to_owned(), ..order(number) }
    }

    fn wrong_orders(&self) -> Vec<InstanceSpec> {
        let order = |number| Lab::order(self, number);
        let other = Some(Tags { hub: HubId::from_bytes([7; 16]), ..order(1).tags.unwrap() });
        let is_metal = self.plan == METAL;
        vec![
            InstanceSpec { plan: if is_metal { "vbm-none" } else { "vc2-none" }.to_owned(), ..order(1) },
            InstanceSpec { plan: if is_metal { "vbm-none" } else { METAL }.to_owned(), ..order(1) },
            InstanceSpec { region: "sao".to_owned(), ..order(1) },
            InstanceSpec { region: "mars".to_owned(), ..order(1) },
            InstanceSpec { spot: true, ..order(1) },
            InstanceSpec { arch: Arch::Arm64, ..order(1) },
            InstanceSpec { user_data: Secret::new("#".repeat(16 * 1024 + 1)), ..order(1) },
            InstanceSpec { tags: other, ..order(1) },
        ]
    }

    fn absent(&self) -> String {
        self.name_of(0xffff_ffff_ffff)
    }

    fn name_of(&self, id: u64) -> String {
        if self.plan == METAL { format!("bm-{}", name_of(id)) } else { name_of(id) }
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
async fn the_contract_holds_for_whole_machines() {
    Box::pin(contract::run(metal)).await;
}

#[tokio::test]
async fn a_whole_machine_is_ordered_where_that_is_wanted_and_found_in_any_case() {
    let account = metal().await;
    let made = account.provider.create(&account.order(1)).await.unwrap();
    assert!(made.provider_id.starts_with("bm-"), "{made:?}");
    assert!(account.dialect.firewalls().is_empty(), "it stands behind none");
    let instance = account.provider.create(&order(2)).await.unwrap();
    // A hub that does not offer them any more lists, switches and deletes those that stand.
    let plain = provider_with(&account.fake.url(), &[], "2625");
    let error = plain.create(&account.order(3)).await.unwrap_err();
    assert!(
        error.class() == ErrorClass::NotSold && error.to_string().contains("providers.vultr.bare_metal"),
        "{error}"
    );
    assert!(plain.offers().await.unwrap().iter().all(|offer| !offer.plan.starts_with("vbm-")));
    let mut listed: Vec<_> =
        plain.list().await.unwrap().instances.into_iter().map(|one| one.provider_id).collect();
    listed.sort();
    assert_eq!(listed, [instance.provider_id, made.provider_id.clone()]);
    plain.stop(&made.provider_id).await.unwrap();
    let tags = account.fake.world(|world| world.machines[0].tags.clone());
    assert!(tags.iter().any(|tag| tag == "bp-off") && tags.iter().any(|tag| tag == "bp-node"), "{tags:?}");
    plain.boot(&made.provider_id).await.unwrap();
    let tags = account.fake.world(|world| world.machines[0].tags.clone());
    assert!(tags.iter().all(|tag| tag != "bp-off"), "{tags:?}");
    plain.delete(&made.provider_id).await.unwrap();
    assert_eq!(plain.list().await.unwrap().instances.len(), 1);
}

#[tokio::test]
async fn a_whole_machine_that_is_not_delivered_yet_is_not_switched() {
    let account = metal().await;
    let made = account.provider.create(&account.order(1)).await.unwrap();
    account.fake.world(|world| world.machines[0].power = Power::Starting);
    for switched in
        [account.provider.stop(&made.provider_id).await, account.provider.boot(&made.provider_id).await]
    {
        assert_eq!(switched.unwrap_err().class(), ErrorClass::Again);
    }
}

#[tokio::test]
async fn whole_machines_are_offered_with_the_price_of_an_hour() {
    let account = metal().await;
    let offers = account.provider.offers().await.unwrap();
    let metal: Vec<_> = offers.iter().filter(|offer| offer.plan.starts_with("vbm-")).collect();
    let rows: Vec<_> =
        metal.iter().map(|offer| (&*offer.plan, &*offer.region, offer.on_demand.get())).collect();
    assert_eq!(rows, [("vbm-4c-32gb", "ewr", 179_000), ("vbm-4c-32gb", "fra", 179_000)]);
    assert_eq!((metal[0].vcpus, metal[0].memory_mib, metal[0].disk_gb), (8, 32_768, 480));
    let report = account.provider.look(hub()).await.unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert!(report.notes.iter().any(|note| note.contains("no firewall of Vultr's")), "{report:?}");
}

#[tokio::test]
async fn a_machine_gets_its_user_data_and_the_number_of_its_system() {
    let account = account().await;
    account.provider.create(&order(1)).await.unwrap();
    assert_eq!(account.fake.world(|world| world.machines[0].user_data.clone()), USER_DATA);
    let by_number = provider_with(&account.fake.url(), &[], "2136");
    by_number.create(&order(2)).await.unwrap();
    let asked = account.fake.asked();
    let creations = asked.iter().filter(|asked| asked.kind == Kind::Create);
    let systems: Vec<_> = creations.map(|asked| asked.request.json()["os_id"].as_u64()).collect();
    assert_eq!(systems, [Some(2625), Some(2136)]);
    let error = provider_with(&account.fake.url(), &[], "Debian 1").create(&order(3)).await.unwrap_err();
    assert!(
        error.class() == ErrorClass::Reject && error.to_string().contains("providers.vultr.image"),
        "{error}"
    );
}

#[tokio::test]
async fn a_second_call_for_an_order_finds_the_machine_of_the_first() {
    let account = account().await;
    let first = account.provider.create(&order(1)).await.unwrap();
    let again = InstanceSpec { tags: order(1).tags.map(|tags| Tags { attempt: 2, ..tags }), ..order(1) };
    let second = account.provider.create(&again).await.unwrap();
    assert_eq!((&second.provider_id, &second.tags), (&first.provider_id, &first.tags));
}

#[tokio::test]
async fn the_firewall_is_made_once_and_closed_where_a_person_opened_it() {
    let account = account().await;
    let name = format!("bp-hub-{}", hub());
    account.provider.create(&order(1)).await.unwrap();
    account.dialect.open_firewalls();
    assert_eq!(account.dialect.firewalls(), [(name.clone(), 1)]);
    account.provider.create(&order(2)).await.unwrap();
    assert_eq!(account.dialect.firewalls(), [(name.clone(), 0)]);
    account.dialect.clear();
    account.provider.create(&order(3)).await.unwrap();
    assert_eq!(account.dialect.firewalls(), [(name, 0)]);
}

#[tokio::test]
async fn a_machine_that_was_renamed_keeps_its_key_and_one_without_its_tag_is_left_alone() {
    let account = account().await;
    let made = account.provider.create(&order(1)).await.unwrap();
    account.fake.world(|world| world.machines[0].name = "my favourite".to_owned());
    assert_eq!(account.provider.list().await.unwrap().instances[0].key, order(1).key);
    account.fake.world(|world| world.machines[0].tags.retain(|tag| tag != "bp-node"));
    let error = account.provider.delete(&made.provider_id).await.unwrap_err();
    assert!(error.to_string().contains("bp-node"), "{error}");
    assert_eq!(account.fake.world(|world| world.machines.len()), 1);
    let error = account.provider.delete("../firewalls").await.unwrap_err();
    assert!(error.to_string().contains("a UUID was expected"), "{error}");
}

#[tokio::test]
async fn offers_have_parts_of_gpus_and_the_prices_of_their_region() {
    let account = account().await;
    let offers = provider_with(&account.fake.url(), &[], "2625").offers().await.unwrap();
    let rows: Vec<_> = offers
        .iter()
        .map(|offer| format!("{} {} {}", offer.plan, offer.region, offer.on_demand.get()))
        .collect();
    let expected = [
        "vc2-1c-1gb ewr 7000",
        "vc2-1c-1gb fra 7000",
        "vc2-1c-1gb sao 10000",
        "vc2-2c-4gb ewr 27000",
        "vcg-a16-2c-8g-2vram ewr 59000",
    ];
    assert_eq!(rows, expected);
    assert_eq!(offers[4].gpu.as_ref().unwrap().count_millis, 125);
}

#[tokio::test]
async fn a_key_is_looked_at_and_nothing_is_made() {
    let account = account().await;
    let report = account.provider.look(hub()).await.unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!(report.identity, "Ops, ops@example.com");
    let of = |state| {
        let rights = report.rights.iter().filter(move |right| right.state == state);
        rights.map(|right| right.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of(RightState::Held), ["subscriptions_view", "firewall", "provisioning", "subscriptions"]);
    assert!(account.fake.asked().iter().all(|asked| asked.request.method == "GET"));

    let wrong = provider_with(&account.fake.url(), &["ewr", "mars"], "Debian 1").look(hub()).await.unwrap();
    let [region, image] = wrong.problems.as_slice() else { panic!("{wrong:?}") };
    assert!(region.starts_with("mars: Vultr has no such region"), "{region}");
    assert!(image.contains("providers.vultr.image"), "{image}");

    account.dialect.move_away();
    let error = account.provider.look(hub()).await.unwrap_err();
    assert!(error.class() == ErrorClass::Deny && error.to_string().contains("Access Control"), "{error}");
}

#[tokio::test]
async fn a_look_at_an_account_tells_what_is_wrong_with_the_key() {
    let account = account().await;
    account.fake.fail(Kind::Other, Fault::Slow(Duration::ZERO));
    account.fake.fail(Kind::Other, Fault::Refuse(Refusal::Forbidden));
    let report = account.provider.look(hub()).await.unwrap();
    let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
    assert!(problem.contains("lacks the permission subscriptions_view"), "{problem}");
    for (fault, class) in [
        (Fault::Refuse(Refusal::Unauthorized), ErrorClass::Deny),
        (Fault::Refuse(Refusal::Unavailable), ErrorClass::Unknown),
        (Fault::Say(Nonsense::Html), ErrorClass::Unknown),
        (Fault::Break, ErrorClass::Unknown),
    ] {
        account.fake.fail(Kind::Other, fault);
        let error = account.provider.look(hub()).await.unwrap_err();
        assert_eq!(error.class(), class, "{error:?}");
        assert!(!format!("{error:?} {}", error.line()).to_lowercase().contains("canary"), "{error:?}");
    }
}
