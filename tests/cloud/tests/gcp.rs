//! The provider of Compute Engine against its fake: the contract, zones, request ids, keys, and what Google publishes of its API.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_gcp::{GcpCloud, GcpConfig};
use blueprint_hub_provider_kit::{CredentialSource, Credentials, Fixed, GCP, HttpClient, HttpConfig};
use blueprint_hub_provision_core::catalogue::{Offer, PriceKind};
use blueprint_hub_provision_core::{
    Account as _, ErrorClass, InstanceSpec, InstanceState, Provider, ProviderError, RightState, Tags,
};
use blueprint_tests_cloud::contract::{self, Lab};
use blueprint_tests_cloud::discovery::Discovery;
use blueprint_tests_cloud::gcp::{GcpDialect, PROJECT, REGION, SECOND_REGION, ServiceAccount};
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Nonsense, Power, Refusal};
use blueprint_tests_support::{Need, require};
use serde_json::json;

const TOKEN: &str = "ya29.canary-of-a-token";
const USER_DATA: &str = "#cloud-config\n# canary-of-a-join-token\n";

struct Account {
    fake: FakeCloud,
    dialect: GcpDialect,
    provider: GcpCloud,
}

fn hub() -> HubId {
    HubId::from_bytes([7; 16])
}

fn token() -> Arc<dyn CredentialSource> {
    let field = |name: &str, value: &str| (name.to_owned(), Secret::new(value.to_owned()));
    let fields = [field("project_id", PROJECT), field("access_token", TOKEN)];
    Arc::new(Fixed::new(Credentials::new("a test", fields)))
}

fn provider(
    fake: &FakeCloud,
    source: Arc<dyn CredentialSource>,
    change: impl FnOnce(GcpConfig) -> GcpConfig,
) -> GcpCloud {
    let config = GcpConfig { endpoint: Some(fake.url()), ..GcpConfig::new(vec![REGION.parse().unwrap()]) };
    let http = HttpConfig { answer_within: Duration::from_secs(2), ..HttpConfig::default() };
    GcpCloud::new(change(config), HttpClient::new(http).unwrap(), source)
}

async fn account_with(zones: usize) -> Account {
    let dialect = GcpDialect::new(zones);
    let fake = FakeCloud::start(dialect.clone(), TOKEN).await;
    let provider = provider(&fake, token(), |config| config);
    Account { fake, dialect, provider }
}

fn order(number: u32) -> InstanceSpec {
    contract::order(hub(), number, ("e2-small", REGION), USER_DATA)
}

fn attempt(number: u32, attempt: u32) -> InstanceSpec {
    InstanceSpec { tags: order(number).tags.map(|tags| Tags { attempt, ..tags }), ..order(number) }
}

impl Lab for Account {
    fn provider(&self) -> &dyn Provider {
        &self.provider
    }

    fn order(&self, number: u32) -> InstanceSpec {
        order(number)
    }

    fn wrong_orders(&self) -> Vec<InstanceSpec> {
        vec![
            InstanceSpec { plan: "e2-huge".to_owned(), ..order(1) },
            InstanceSpec { plan: "../x".to_owned(), ..order(1) },
            InstanceSpec { region: "europe-west1".to_owned(), ..order(1) },
            InstanceSpec { region: "mars".to_owned(), ..order(1) },
            InstanceSpec { user_data: Secret::new("#".repeat(256 * 1024 + 1)), ..order(1) },
        ]
    }

    fn absent(&self) -> String {
        "us-central1-a/999999999".to_owned()
    }

    fn name_of(&self, id: u64) -> String {
        self.dialect.name_of(id)
    }

    fn secrets(&self) -> Vec<String> {
        vec!["canary".to_owned()]
    }

    fn fake(&self) -> Option<&FakeCloud> {
        Some(&self.fake)
    }

    async fn shut(&mut self) {
        self.fake.shut().await;
    }
}

/// One zone: the next one would do what the first one is told to refuse.
#[tokio::test]
async fn the_contract_holds() {
    Box::pin(contract::run(async || account_with(1).await)).await;
}

#[tokio::test]
async fn every_zone_is_asked_before_a_region_is_full() {
    let account = account_with(3).await;
    account.dialect.fill(&["us-central1-a", "us-central1-c"]);
    for number in 1..=6 {
        let made = account.provider.create(&order(number)).await.unwrap();
        assert!(made.provider_id.starts_with("us-central1-b/"), "{made:?}");
    }
    account.dialect.fill(&["us-central1-a", "us-central1-b", "us-central1-c"]);
    let before = account.fake.count(Kind::Create);
    let error = account.provider.create(&order(7)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Capacity);
    assert_eq!(account.fake.count(Kind::Create) - before, 3);
    // Zones that had none are asked anew by the next call.
    account.dialect.fill(&[]);
    account.provider.create(&attempt(7, 2)).await.unwrap();
    assert_eq!(account.provider.list().await.unwrap().instances.len(), 7);
}

/// The list is late, so that only Google knows that the call was made before.
#[tokio::test]
async fn a_repeated_call_is_one_machine_also_where_the_list_is_late() {
    let account = account_with(3).await;
    account.fake.world(|world| world.late = Duration::from_secs(3600));
    for fault in [Fault::DoAndBreak, Fault::DoAndRefuse(Refusal::Broken), Fault::Say(Nonsense::Truncated)] {
        account.fake.fail(Kind::Create, fault);
        let error = account.provider.create(&order(1)).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unknown, "{fault:?}: {error:?}");
    }
    let made = account.provider.create(&order(1)).await.unwrap();
    assert_eq!(account.fake.world(|world| world.machines.len()), 1);
    // The next call for the order has another id, and finds the name taken by its own machine.
    let again = account.provider.create(&attempt(1, 2)).await.unwrap();
    assert_eq!((&again.provider_id, &again.tags), (&made.provider_id, &order(1).tags));
    assert_eq!(account.fake.world(|world| world.machines.len()), 1);
    // A call whose machine has ended makes none, and the next one makes another.
    account.provider.delete(&made.provider_id).await.unwrap();
    assert_eq!(account.provider.create(&order(1)).await.unwrap_err().class(), ErrorClass::Unknown);
    let other = account.provider.create(&attempt(1, 3)).await.unwrap();
    assert_ne!(other.provider_id, made.provider_id);
    // The old name of the machine does not end the new one.
    account.provider.delete(&made.provider_id).await.unwrap();
    assert_eq!(account.fake.world(|world| world.machines.len()), 1);
}

#[tokio::test]
async fn many_at_once_are_as_many_machines_behind_one_rule() {
    let account = account_with(2).await;
    let orders: Vec<_> = (1..=10).map(order).collect();
    let twice = orders.iter().chain(&orders).map(|order| account.provider.create(order));
    for made in futures_util::future::join_all(twice).await {
        made.unwrap();
    }
    assert_eq!(account.fake.world(|world| world.machines.len()), 10);
    assert_eq!(account.dialect.firewalls().len(), 1);
}

#[tokio::test]
async fn a_rule_that_a_person_changed_is_not_used_and_one_that_is_gone_is_made_again() {
    let account = account_with(1).await;
    account.provider.create(&order(1)).await.unwrap();
    account.dialect.change_firewalls("disabled", &json!(true));
    let error = account.provider.create(&order(2)).await.unwrap_err();
    assert!(error.to_string().contains("blueprint-hub-no-ingress-default was changed"), "{error}");
    assert_eq!(account.fake.world(|world| world.machines.len()), 1);
    account.dialect.clear();
    account.provider.create(&order(2)).await.unwrap();
    let rules = account.dialect.firewalls();
    assert!(rules.len() == 1 && rules[0]["denied"][0]["IPProtocol"] == "all", "{rules:?}");
}

#[tokio::test]
async fn a_machine_whose_labels_are_gone_is_left_alone_and_so_are_others() {
    let account = account_with(1).await;
    let made = account.provider.create(&order(1)).await.unwrap();
    account.fake.world(|world| world.machines[0].tags.clear());
    assert!(account.provider.list().await.unwrap().instances.is_empty());
    for told in [
        account.provider.delete(&made.provider_id).await,
        account.provider.stop(&made.provider_id).await,
        account.provider.boot(&made.provider_id).await,
    ] {
        assert!(told.unwrap_err().to_string().contains("put the label back"));
    }
    // The name is taken by what is not ours any more, and there is no other zone.
    let error = account.provider.create(&attempt(1, 2)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Reject, "{error:?}");
    // Another hub's machine is listed as that, and is not taken for an order of this one.
    let other = InstanceSpec {
        tags: order(2).tags.map(|tags| Tags { hub: HubId::from_bytes([8; 16]), ..tags }),
        ..order(2)
    };
    let others = account.provider.create(&other).await.unwrap();
    let error = account.provider.create(&order(2)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Reject, "{error:?}");
    let listed = account.provider.list().await.unwrap().instances;
    assert!(listed.len() == 1 && listed[0].provider_id == others.provider_id && listed[0].tags == other.tags);
    assert_eq!(account.fake.world(|world| world.machines.len()), 2);
}

#[tokio::test]
async fn a_zone_that_cannot_be_reached_makes_no_shorter_list() {
    let account = account_with(2).await;
    account.provider.create(&order(1)).await.unwrap();
    account.dialect.lose(Some("us-central1-b"));
    let error = account.provider.list().await.unwrap_err();
    assert!(error.class() == ErrorClass::Unknown && error.line().contains("UNREACHABLE"), "{}", error.line());
    account.provider.create(&order(2)).await.unwrap_err();
    account.dialect.lose(None);
    assert_eq!(account.provider.list().await.unwrap().instances.len(), 1);
}

/// What is under way when the wait is over is told as it is, and never as a failure.
#[tokio::test]
async fn a_machine_that_is_still_being_made_is_made() {
    let account = account_with(2).await;
    account.provider.create(&order(1)).await.unwrap();
    account.dialect.stall(true);
    let made = account.provider.create(&order(2)).await.unwrap();
    assert_eq!(account.provider.list().await.unwrap().instances.len(), 2);
    assert_eq!(account.provider.create(&order(2)).await.unwrap().provider_id, made.provider_id);
    // A zone that fails later than that has made no machine, which the answer cannot say for sure.
    account.dialect.fill(&["us-central1-a", "us-central1-b"]);
    let error = account.provider.create(&order(3)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unknown, "{error:?}");
    // A rule that is not in force yet: nothing is ordered behind it.
    account.dialect.clear();
    account.provider.create(&order(4)).await.unwrap_err();
}

#[tokio::test]
async fn spot_gpus_disks_and_other_processors_are_ordered_in_googles_words() {
    let account = account_with(1).await;
    let of = |plan: &str, number: u32| InstanceSpec { plan: plan.to_owned(), ..order(number) };
    let orders = [
        InstanceSpec { spot: true, ..order(1) },
        of("g2-standard-4", 2),
        InstanceSpec { disk_gb: 200, ..of("c4-standard-2", 3) },
    ];
    let mut ordered = Vec::new();
    for order in &orders {
        let made = account.provider.create(order).await.unwrap();
        let id = made.provider_id.split('/').nth(1).unwrap().parse().unwrap();
        ordered.push(account.dialect.order_of(id));
    }
    assert_eq!(ordered[0]["scheduling"]["instanceTerminationAction"], "DELETE");
    assert_eq!(ordered[1]["scheduling"]["onHostMaintenance"], "TERMINATE");
    assert_eq!(ordered[1]["shieldedInstanceConfig"]["enableSecureBoot"], false);
    let disk = &ordered[2]["disks"][0]["initializeParams"];
    assert!(
        disk["diskType"].as_str().unwrap().ends_with("hyperdisk-balanced") && disk["diskSizeGb"] == "200"
    );
}

#[tokio::test]
async fn offers_are_what_the_zones_have_and_the_list_has_prices_of() {
    let account = account_with(2).await;
    account.fake.world(|world| world.page_limit = 2);
    let offers = account.provider.offers().await.unwrap();
    let plans: Vec<_> = offers.iter().map(|offer| &*offer.plan).collect();
    assert_eq!(plans, ["e2-small", "e2-standard-2", "c2d-standard-2", "n2-standard-4", "g2-standard-4"]);
    assert!(offers.iter().all(|offer| offer.spot.is_none() && &*offer.region == REGION));
    let spot = provider(&account.fake, token(), |config| GcpConfig { spot: true, ..config });
    assert!(spot.offers().await.unwrap().iter().any(|offer| offer.spot.is_some()));
    // A region that does not exist sells nothing, and is told by the check.
    let other = provider(&account.fake, token(), |config| GcpConfig {
        regions: vec!["mars-west1".parse().unwrap()],
        ..config
    });
    assert!(other.offers().await.unwrap().is_empty());
    let report = other.look(hub()).await.unwrap();
    assert!(
        report.problems.iter().any(|line| line.starts_with("mars-west1: Google has no such region")),
        "{report:?}"
    );
}

#[tokio::test]
async fn prices_are_asked_for_by_parts_of_what_can_be_ordered_and_what_is_far_off_is_left_out() {
    let account = account_with(1).await;
    let both = provider(&account.fake, token(), |config| GcpConfig {
        regions: [REGION, SECOND_REGION].map(|region| region.parse().unwrap()).to_vec(),
        spot: true,
        ..config
    });
    let list = both.price_list().await.unwrap();
    let mut rows: Vec<_> = list
        .iter()
        .map(|offer| {
            assert!(offer.kind == PriceKind::Live && offer.source.contains("Billing"), "{offer:?}");
            let spot = offer.spot.map_or(0, |spot| spot.get());
            format!("{} {} {} {spot}", offer.region, offer.plan, offer.on_demand.get())
        })
        .collect();
    rows.sort();
    // Of N2 machines the prices are a thousandth of what they were, and zones have no other kinds that the answer prices.
    // Of C2D machines the built-in list has the price of one region, so that they are ordered there alone.
    let wanted = [
        "europe-west4 e2-small 16830 4990",
        "europe-west4 e2-standard-2 67320 19960",
        "us-central1 c2d-standard-2 90798 0",
        "us-central1 e2-small 16830 4990",
        "us-central1 e2-standard-2 67320 19960",
    ];
    assert_eq!(rows, wanted);
    let ordered = both.offers().await.unwrap();
    let can_be_ordered =
        |row: &Offer| ordered.iter().any(|offer| (&offer.plan, &offer.region) == (&row.plan, &row.region));
    assert!(list.iter().all(can_be_ordered));
    // In a region that the built-in list has nothing of, nothing is ordered, whatever it costs.
    let elsewhere = provider(&account.fake, token(), |config| GcpConfig {
        regions: vec!["us-east1".parse().unwrap()],
        ..config
    });
    let error = elsewhere.price_list().await.unwrap_err();
    assert!(
        error.class() == ErrorClass::Reject && error.line().contains("no machines in us-east1"),
        "{error}"
    );
    // Without prices of Spot machines where those are not wanted.
    let list = account.provider.price_list().await.unwrap();
    assert!(!list.is_empty() && list.iter().all(|offer| offer.spot.is_none()));
    for fault in [Fault::Break, Fault::Refuse(Refusal::Broken), Fault::Say(Nonsense::Truncated)] {
        account.fake.fail(Kind::Other, fault);
        let error = account.provider.price_list().await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unknown, "{fault:?}: {error:?}");
    }
}

#[tokio::test]
async fn google_is_told_when_a_machine_with_an_end_is_to_be_deleted() {
    let account = account_with(1).await;
    let with = |number: u32, ttl: u64| InstanceSpec { ttl: Some(Duration::from_secs(ttl)), ..order(number) };
    for order in [with(1, 7200), order(2), with(3, 200 * 86_400), InstanceSpec { spot: true, ..with(4, 60) }]
    {
        account.provider.create(&order).await.unwrap();
    }
    let orders: Vec<_> = account
        .fake
        .world(|world| world.machines.iter().map(|one| one.id).collect::<Vec<_>>())
        .into_iter()
        .map(|id| account.dialect.order_of(id)["scheduling"].clone())
        .collect();
    // An hour after the hub does it.
    assert_eq!(orders[0]["maxRunDuration"], json!({ "seconds": "10800" }));
    assert_eq!(orders[0]["instanceTerminationAction"], "DELETE");
    assert_eq!(orders[3]["maxRunDuration"], json!({ "seconds": "3660" }));
    // Without an end, and with one that Google cannot keep, there is the hub alone.
    for without in [&orders[1], &orders[2]] {
        assert!(
            without.get("maxRunDuration").is_none() && without.get("instanceTerminationAction").is_none()
        );
    }
}

#[tokio::test]
async fn a_machine_that_is_being_switched_off_is_waited_for_and_a_full_zone_does_not_start_it() {
    let account = account_with(1).await;
    let made = account.provider.create(&order(1)).await.unwrap();
    account.provider.stop(&made.provider_id).await.unwrap();
    assert_eq!(account.provider.list().await.unwrap().instances[0].state, InstanceState::Stopped);
    account.fake.fail(Kind::Switch, Fault::Refuse(Refusal::Capacity));
    let error = account.provider.boot(&made.provider_id).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Capacity, "{error:?}");
    account.fake.world(|world| assert_eq!(world.machines[0].power, Power::Off));
    account.provider.boot(&made.provider_id).await.unwrap();
    assert_eq!(account.provider.list().await.unwrap().instances[0].state, InstanceState::Running);
}

#[tokio::test]
async fn an_account_is_looked_at_and_nothing_is_made() {
    let account = account_with(2).await;
    let report = account.provider.look(hub()).await.unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!((report.account.as_str(), report.identity.as_str()), (PROJECT, "the access token of a test"));
    assert_eq!(report.regions, [(REGION.to_owned(), Some(true))]);
    assert_eq!(report.quotas, [("CPUS in us-central1".to_owned(), 24)]);
    assert!(
        report.rights.len() > 15 && report.rights.iter().all(|right| right.state == RightState::Held),
        "{report:?}"
    );
    assert!(account.dialect.firewalls().is_empty());

    account.dialect.forbid(&["compute.instances.delete", "compute.firewalls.create"]);
    let report = account.provider.look(hub()).await.unwrap();
    assert_eq!(report.problems.len(), 2, "{report:?}");
    let is_missing = |name: &str| {
        report.rights.iter().any(|right| right.name == name && right.state == RightState::Missing)
    };
    assert!(is_missing("compute.instances.delete") && is_missing("compute.firewalls.create"));

    account.dialect.forbid(&[]);
    account.provider.create(&order(1)).await.unwrap();
    account.dialect.change_firewalls("priority", &json!(2000));
    let report = account.provider.look(hub()).await.unwrap();
    assert!(report.problems.len() == 1 && report.problems[0].contains("delete it"), "{report:?}");

    let own = |config| GcpConfig { network: "mesh".parse().unwrap(), ..config };
    let report = provider(&account.fake, token(), own).look(hub()).await.unwrap();
    assert!(report.problems.iter().any(|line| line.contains("has no network mesh")), "{report:?}");
    for (fault, class) in [
        (Fault::Refuse(Refusal::Unauthorized), ErrorClass::Deny),
        (Fault::Refuse(Refusal::Unavailable), ErrorClass::Unknown),
        (Fault::Say(Nonsense::Html), ErrorClass::Unknown),
        (Fault::Break, ErrorClass::Unknown),
    ] {
        account.fake.fail(Kind::Other, fault);
        let error = account.provider.look(hub()).await.unwrap_err();
        assert_eq!(error.class(), class, "{fault:?}: {error:?}");
        assert!(!format!("{error:?} {}", error.line()).contains("canary"), "{error:?}");
    }
}

/// A key as Google's console writes it, changed for a token that is kept.
#[tokio::test]
async fn the_key_of_a_service_account_is_changed_for_a_token_once() {
    if !require(&[Need::Program("openssl")]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let owner = ServiceAccount::make(folder.path()).unwrap();
    let account = account_with(1).await;
    let given = Credentials::given(&GCP, "a test", &owner.json).unwrap();
    let by_key = provider(&account.fake, Arc::new(Fixed::new(given)), |config| config);
    let unknown = by_key.list().await.unwrap_err();
    assert_eq!(unknown.class(), ErrorClass::Deny, "{unknown:?}");
    assert!(
        unknown.line().contains("account not found") && unknown.line().contains("provider configure gcp")
    );

    account.dialect.trust(&owner.email, owner.public_key.clone());
    let made = by_key.create(&order(1)).await.unwrap();
    by_key.delete(&made.provider_id).await.unwrap();
    assert_eq!(account.dialect.tokens_given(), 1);
    assert_eq!(by_key.look(hub()).await.unwrap().identity, owner.email);

    // The same by a file, which has to be its owner's alone.
    let path = folder.path().join("key.json");
    std::fs::write(&path, &owner.json).unwrap();
    let field = |name: &str, value: &str| (name.to_owned(), Secret::new(value.to_owned()));
    let fields = [field("project_id", PROJECT), field("service_account_file", path.to_str().unwrap())];
    let file = Arc::new(Fixed::new(Credentials::new("a test", fields)));
    let by_file = provider(&account.fake, file, |config| config);
    chmod(&path, 0o644);
    assert!(by_file.list().await.unwrap_err().line().contains("chmod 600"));
    chmod(&path, 0o600);
    by_file.list().await.unwrap();

    // Another key of that address does not sign for it.
    let folder = tempfile::tempdir().unwrap();
    let thief = ServiceAccount::make(folder.path()).unwrap();
    let given = Credentials::given(&GCP, "a test", &thief.json).unwrap();
    let by_thief = provider(&account.fake, Arc::new(Fixed::new(given)), |config| config);
    let error = by_thief.list().await.unwrap_err();
    assert!(error.line().contains("Invalid JWT Signature"), "{}", error.line());
    let lines: Vec<_> = owner.json.lines().filter(|line| line.contains("PRIVATE KEY")).collect();
    assert!(!lines.iter().any(|line| format!("{error:?}").contains(*line)));
}

fn chmod(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Requests are held to the document in every test of this file; here the answers of the fake are, too.
#[tokio::test]
async fn requests_and_answers_fit_what_google_publishes() {
    let account = account_with(2).await;
    let made = account.provider.create(&InstanceSpec { spot: true, ..order(1) }).await.unwrap();
    account.provider.create(&InstanceSpec { plan: "g2-standard-4".to_owned(), ..order(2) }).await.unwrap();
    account.provider.offers().await.unwrap();
    account.provider.stop(&made.provider_id).await.unwrap();
    account.provider.boot(&made.provider_id).await.unwrap();
    account.provider.look(hub()).await.unwrap();
    account.dialect.fill(&["us-central1-a", "us-central1-b"]);
    account.provider.create(&order(3)).await.unwrap_err();
    for instance in account.provider.list().await.unwrap().instances {
        account.provider.delete(&instance.provider_id).await.unwrap();
    }
    let document = Discovery::embedded();
    let mut methods = std::collections::BTreeSet::new();
    let asked = account.fake.asked();
    for asked in asked.iter().filter(|asked| asked.request.path.starts_with("/compute/")) {
        let path = asked.request.path.split("/10").next().unwrap_or_default();
        methods.insert(format!("{} {path}", asked.request.method));
        assert_eq!(document.faults(&asked.request), Vec::<String>::new(), "{}", asked.request.path);
        let Some(answer) = asked.answer.as_ref().filter(|answer| answer.status == 200) else { continue };
        let faults = document.faults_of_answer(&asked.request, &answer.body);
        assert_eq!(faults, Vec::<String>::new(), "{}", asked.request.path);
    }
    assert!(methods.len() >= 14, "{methods:?}");
    // The check is not blind.
    let mut wrong = asked.iter().find(|asked| asked.kind == Kind::Create).unwrap().request.clone();
    let mut body = wrong.json();
    body["scheduling"]["provisioningModel"] = json!("CHEAP");
    body["disks"][0]["initializeParams"]["diskSizeGb"] = json!(20);
    body["userData"] = json!("x");
    wrong.body = body.to_string().into();
    wrong.query.push(("clientToken".to_owned(), "x".to_owned()));
    let faults = document.faults(&wrong).join("\n");
    for word in ["provisioningModel", "diskSizeGb", "userData", "clientToken"] {
        assert!(faults.contains(word), "{word}: {faults}");
    }
}

#[tokio::test]
async fn without_a_project_it_is_said_where_one_is_looked_for() {
    let account = account_with(1).await;
    let source = Arc::new(Fixed::new(Credentials::new(
        "the file gcp.conf",
        [("access_token".to_owned(), Secret::new(TOKEN.to_owned()))],
    )));
    let error = provider(&account.fake, source, |config| config).list().await.unwrap_err();
    assert!(
        matches!(&error, ProviderError::Deny { action } if action.contains("gcp.conf has no project_id")),
        "{error:?}"
    );
    assert!(account.fake.asked().is_empty());
}
