//! The provider of Azure against its fake: the contract, sign-in, what fails after it was taken on, and what is left behind.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_azure::{Azure, AzureConfig};
use blueprint_hub_provider_kit::{Credentials, Fixed, HttpClient, HttpConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{
    Account as _, ErrorClass, InstanceSpec, InstanceState, Provider, ProviderError, RightState, Tags,
};
use blueprint_tests_cloud::azure::{AzureDialect, CLIENT_SECRET, REGION, SUBSCRIPTION};
use blueprint_tests_cloud::contract::{self, Lab};
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Nonsense, Refusal};

const TOKEN: &str = "canary-of-an-access-token";
const USER_DATA: &str = "#cloud-config\n# canary-of-a-join-token\n";

struct Account {
    fake: FakeCloud,
    dialect: AzureDialect,
    provider: Azure,
}

fn hub() -> HubId {
    "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap()
}

fn provider(url: &str, fields: &[(&str, &str)], regions: &[&str]) -> Azure {
    let subscription = [("subscription_id", SUBSCRIPTION)];
    let fields = subscription.iter().chain(fields);
    let fields = fields.map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned())));
    let credentials = Arc::new(Fixed::new(Credentials::new("a test", fields)));
    let http = HttpConfig { answer_within: Duration::from_secs(2), ..HttpConfig::default() };
    let regions = regions.iter().map(|region| (*region).to_owned()).collect();
    Azure::new(AzureConfig {
        endpoint: url.to_owned(),
        login_endpoint: url.to_owned(),
        metadata_endpoint: url.to_owned(),
        prices_endpoint: url.to_owned(),
        follow_within: Duration::from_secs(5),
        spot: true,
        ..AzureConfig::new(hub(), regions, credentials, HttpClient::new(http).unwrap())
    })
}

async fn account() -> Account {
    let dialect = AzureDialect::default();
    let fake = FakeCloud::start(dialect.clone(), TOKEN).await;
    let provider = provider(&fake.url(), &[("access_token", TOKEN)], &[REGION]);
    Account { fake, dialect, provider }
}

fn order(number: u32) -> InstanceSpec {
    contract::order(hub(), number, ("Standard_D2s_v5", REGION), USER_DATA)
}

impl Lab for Account {
    fn provider(&self) -> &dyn Provider {
        &self.provider
    }

    fn order(&self, number: u32) -> InstanceSpec {
        order(number)
    }

    fn wrong_orders(&self) -> Vec<InstanceSpec> {
        let others = HubId::from_bytes([9; 16]);
        vec![
            InstanceSpec { plan: "Standard_X99".to_owned(), ..order(1) },
            // The subscription may not have it.
            InstanceSpec { plan: "Standard_D8s_v5".to_owned(), ..order(1) },
            InstanceSpec { arch: Arch::Arm64, ..order(1) },
            InstanceSpec { region: "westeurope".to_owned(), ..order(1) },
            InstanceSpec { region: "mars".to_owned(), ..order(1) },
            InstanceSpec { user_data: Secret::new("#".repeat(65_536)), ..order(1) },
            InstanceSpec { tags: order(1).tags.map(|tags| Tags { hub: others, ..tags }), ..order(1) },
        ]
    }

    fn absent(&self) -> String {
        "bp-aaaaaaaaaaaaaaaa-999".to_owned()
    }

    fn name_of(&self, id: u64) -> String {
        self.dialect.name_of(id)
    }

    fn secrets(&self) -> Vec<String> {
        vec!["canary".to_owned(), STANDARD.encode(USER_DATA)]
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
async fn nothing_is_left_of_a_machine_that_could_not_be_made() {
    let account = account().await;
    for (code, class) in [
        ("AllocationFailed", ErrorClass::Capacity),
        ("SkuNotAvailable", ErrorClass::NotSold),
        ("QuotaExceeded", ErrorClass::Quota),
    ] {
        account.dialect.fail_later(code, "no room");
        let error = account.provider.create(&order(1)).await.unwrap_err();
        assert_eq!(error.class(), class, "{error:?}");
        assert!(error.line().contains("Standard_D2s_v5 in eastus"), "{error:?}");
        assert!(account.provider.list().await.unwrap().instances.is_empty());
        assert_eq!(account.dialect.parts(), Vec::<String>::new());
    }
    // What may run all the same stays, is listed, and is found by the next call.
    account.dialect.fail_later("OSProvisioningTimedOut", "the system did not answer");
    let error = account.provider.create(&order(2)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unknown);
    let listed = account.provider.list().await.unwrap().instances;
    assert!(
        matches!(listed.as_slice(), [one] if matches!(one.state, InstanceState::Failed { .. })),
        "{listed:?}"
    );
    assert_eq!(account.provider.create(&order(2)).await.unwrap().provider_id, listed[0].provider_id);
    account.provider.delete(&listed[0].provider_id).await.unwrap();
    // A removal that fails leaves what is listed, and can be deleted from there.
    account.dialect.fail_later("AllocationFailed", "no room");
    account.fake.fail(Kind::Delete, Fault::Refuse(Refusal::Unavailable));
    assert_eq!(account.provider.create(&order(3)).await.unwrap_err().class(), ErrorClass::Capacity);
    let listed = account.provider.list().await.unwrap().instances;
    assert_eq!((listed.len(), &listed[0].tags), (1, &order(3).tags));
    account.provider.delete(&listed[0].provider_id).await.unwrap();
    assert!(account.provider.list().await.unwrap().instances.is_empty());
}

#[tokio::test]
async fn parts_that_stay_behind_are_listed_until_they_are_deleted() {
    let account = account().await;
    let kept = account.provider.create(&order(1)).await.unwrap();
    let made = account.provider.create(&order(2)).await.unwrap();
    assert_eq!(account.dialect.parts().len(), 6);
    account.dialect.leave_parts(true);
    account.provider.delete(&made.provider_id).await.unwrap();
    assert_eq!(account.dialect.parts().len(), 6);
    let listed = account.provider.list().await.unwrap().instances;
    let left = listed.iter().find(|one| one.key == order(2).key).unwrap();
    assert_eq!((left.provider_id.as_str(), &left.tags), (made.provider_id.as_str(), &order(2).tags));
    assert_eq!(left.state, InstanceState::Stopping, "young parts are no failure");
    account.provider.delete(&left.provider_id).await.unwrap();
    let parts = account.dialect.parts();
    assert!(parts.len() == 3 && parts.iter().all(|part| part.starts_with(kept.key.as_str())), "{parts:?}");
    let listed = account.provider.list().await.unwrap().instances;
    assert!(matches!(listed.as_slice(), [one] if one.provider_id == kept.provider_id), "{listed:?}");
}

#[tokio::test]
async fn one_network_stands_for_all_machines_and_one_that_was_opened_is_closed_again() {
    let account = account().await;
    account.provider.create(&order(1)).await.unwrap();
    let before = account.fake.asked().iter().filter(|asked| asked.request.method == "PUT").count();
    assert_eq!(before, 4, "group, security group, network, machine");
    account.provider.create(&order(2)).await.unwrap();
    let network = account.dialect.network();
    assert_eq!(network.len(), 2, "{network:?}");
    let after = account.fake.asked().iter().filter(|asked| asked.request.method == "PUT").count();
    assert_eq!(after, before + 1, "only the machine");
    account.dialect.open_security_groups();
    // The fake fails the test where a machine is made behind an open one.
    account.provider.create(&order(3)).await.unwrap();
    assert_eq!(account.dialect.network(), network);
}

#[tokio::test]
async fn documents_say_what_the_size_can_do_and_what_the_order_is() {
    let account = account().await;
    let spot = InstanceSpec { spot: true, disk_gb: 100, ..order(1) };
    let arm = InstanceSpec { plan: "Standard_D2ps_v5".to_owned(), arch: Arch::Arm64, ..order(2) };
    let gpu = InstanceSpec { plan: "Standard_NC4as_T4_v3".to_owned(), ..order(3) };
    for spec in [&spot, &arm, &gpu] {
        account.provider.create(spec).await.unwrap();
    }
    let asked = account.fake.asked();
    let bodies: Vec<_> =
        asked.iter().filter(|asked| asked.kind == Kind::Create).map(|asked| asked.request.json()).collect();
    let at = |index: usize, path: &str| bodies[index].pointer(&format!("/properties/{path}")).cloned();
    assert_eq!(at(0, "priority").unwrap(), "Spot");
    assert_eq!(
        (at(0, "evictionPolicy").unwrap(), at(0, "billingProfile/maxPrice").unwrap()),
        ("Delete".into(), (-1).into())
    );
    assert_eq!(at(0, "storageProfile/osDisk/diskSizeGB").unwrap(), 100);
    assert_eq!(at(1, "storageProfile/imageReference/sku").unwrap(), "server-arm64");
    assert_eq!((at(1, "priority"), at(1, "securityProfile")), (None, None));
    assert_eq!(at(2, "securityProfile/uefiSettings/secureBootEnabled").unwrap(), false);
    let fast = "networkProfile/networkInterfaceConfigurations/0/properties/enableAcceleratedNetworking";
    assert_eq!((at(0, fast).unwrap(), at(2, fast).unwrap()), (true.into(), false.into()));
    // One question tells what every size can do.
    assert_eq!(account.fake.count(Kind::Offers), 1);
}

#[tokio::test]
async fn what_is_sold_has_the_prices_of_spot_machines_and_nothing_that_is_closed() {
    let account = account().await;
    let offers = account.provider.offers().await.unwrap();
    let rows: Vec<_> = offers
        .iter()
        .map(|offer| (&*offer.plan, offer.spot.map(blueprint_common_types::Micros::get)))
        .collect();
    let wanted = [
        ("Standard_D2ps_v5", None),
        ("Standard_D2s_v5", Some(19_200)),
        ("Standard_D4s_v5", Some(38_400)),
        // Its price as a spot machine is above the usual one, so it is none.
        ("Standard_NC4as_T4_v3", None),
    ];
    assert_eq!(rows, wanted);
    assert!(offers.iter().any(|offer| offer.gpu.is_some()));
}

#[tokio::test]
async fn spot_machines_that_are_not_available_are_a_want_of_room() {
    let account = account().await;
    account.fake.fail(Kind::Create, Fault::Refuse(Refusal::NotSold));
    let error = account.provider.create(&InstanceSpec { spot: true, ..order(1) }).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Capacity, "{error:?}");
}

#[tokio::test]
async fn an_application_signs_in_once_and_again_when_its_token_is_refused() {
    let account = account().await;
    let fields = [("tenant_id", "contoso.example"), ("client_id", "app"), ("client_secret", CLIENT_SECRET)];
    let of_app = provider(&account.fake.url(), &fields, &[REGION]);
    of_app.create(&order(1)).await.unwrap();
    of_app.list().await.unwrap();
    assert_eq!(account.dialect.tokens(), 1);
    account.fake.world(|world| world.token = "another canary".to_owned());
    assert_eq!(of_app.list().await.unwrap_err().class(), ErrorClass::Deny);
    assert_eq!(of_app.list().await.unwrap().instances.len(), 1);
    assert_eq!(account.dialect.tokens(), 2);

    let wrong =
        provider(&account.fake.url(), &[fields[0], fields[1], ("client_secret", "canary")], &[REGION]);
    let error = wrong.list().await.unwrap_err();
    assert!(
        matches!(&error, ProviderError::Deny { action } if action.contains("provider configure azure")),
        "{error:?}"
    );
    assert!(error.line().contains("invalid_client") && !error.line().contains("canary"), "{error:?}");
    let none = provider(&account.fake.url(), &[("client_secret", CLIENT_SECRET)], &[REGION])
        .list()
        .await
        .unwrap_err();
    assert!(none.line().contains("no tenant_id"), "{none:?}");
    for (tenant, fault) in [
        ("x/../y", None),
        ("x", Some(Fault::Say(Nonsense::Html))),
        ("x", Some(Fault::Refuse(Refusal::Broken))),
    ] {
        let provider =
            provider(&account.fake.url(), &[("tenant_id", tenant), fields[1], fields[2]], &[REGION]);
        fault.into_iter().for_each(|fault| account.fake.fail(Kind::Other, fault));
        let error = provider.list().await.unwrap_err();
        assert!(!format!("{error:?} {}", error.line()).contains("canary"), "{error:?}");
    }
}

#[tokio::test]
async fn a_hub_on_a_machine_of_azure_calls_with_the_machines_identity() {
    let account = account().await;
    let own = provider(&account.fake.url(), &[], &[REGION]);
    own.list().await.unwrap();
    own.offers().await.unwrap();
    assert_eq!(account.dialect.tokens(), 1);
    let asked = account.fake.asked();
    assert!(asked.iter().any(|asked| asked.request.path == "/metadata/identity/oauth2/token"));
}

#[tokio::test]
async fn a_machine_is_named_as_its_attested_document_names_it() {
    let account = account().await;
    let spec = order(1);
    assert_eq!(account.provider.vouched_name(&spec.key).await.unwrap(), None, "there is none");
    account.provider.create(&spec).await.unwrap();
    let id = account.fake.world(|world| world.machines.first().unwrap().id);
    let name = format!("{SUBSCRIPTION}/00000000-0000-0000-0000-{id:012}");
    assert_eq!(account.provider.vouched_name(&spec.key).await.unwrap(), Some(name));
    account.fake.world(|world| {
        for tag in &mut world.machines.first_mut().unwrap().tags {
            *tag = tag.replace(&hub().to_string(), "ffffffff-ffff-ffff-ffff-ffffffffffff");
        }
    });
    assert_eq!(account.provider.vouched_name(&spec.key).await.unwrap(), None, "another hub's");
}

#[tokio::test]
async fn an_account_is_looked_at_and_nothing_is_made() {
    let account = account().await;
    let report = account.provider.look(hub()).await.unwrap();
    assert!(report.problems.is_empty() && report.notes.is_empty(), "{report:?}");
    assert_eq!((report.account.as_str(), report.identity.as_str()), (SUBSCRIPTION, "Machines of ops"));
    assert_eq!(report.quotas, [("cores in eastus".to_owned(), 10)]);
    assert!(report.rights.iter().all(|right| right.state == RightState::Held), "{report:?}");
    assert!(account.fake.asked().iter().all(|asked| asked.request.method == "GET"));

    account.dialect.forbid("Microsoft.Compute/virtualMachines/write");
    let wrong = provider(&account.fake.url(), &[("access_token", TOKEN)], &[REGION, "mars"]);
    let report = wrong.look(hub()).await.unwrap();
    let [right, region] = report.problems.as_slice() else { panic!("{report:?}") };
    assert!(right.contains("virtualMachines/write") && right.contains("provider policy azure"), "{right}");
    assert!(region.contains("mars: the subscription has no such region"), "{region}");
    account.fake.world(|world| world.token = "another".to_owned());
    let error = wrong.look(hub()).await.unwrap_err();
    assert!(
        error.class() == ErrorClass::Deny && error.line().contains("provider configure azure"),
        "{error:?}"
    );
}
