//! The provider of EC2 against its fake: the contract, zones, and client tokens.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_aws::{AwsCloud, AwsConfig};
use blueprint_hub_provider_kit::{Credentials, Fixed, HttpClient, HttpConfig};
use blueprint_hub_provision_core::catalogue::PriceKind;
use blueprint_hub_provision_core::{Account as _, ErrorClass, InstanceSpec, Provider, Tags, Tidied};
use blueprint_tests_cloud::botocore::Service;
use blueprint_tests_cloud::contract::{self, Lab};
use blueprint_tests_cloud::ec2::{Ec2Dialect, REGION, name_of};
use blueprint_tests_cloud::{Asked, FakeCloud, Fault, Kind, Refusal};
use blueprint_tests_support::moto::Moto;
use blueprint_tests_support::{Need, require};

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "canary-of-a-secret-key";
const USER_DATA: &str = "#cloud-config\n# canary-of-a-join-token\n";

/// The same in base64, as it is sent.
const SENT: &str = "I2Nsb3VkLWNvbmZpZwojIGNhbmFyeS1vZi1hLWpvaW4tdG9rZW4K";

struct Account {
    fake: FakeCloud,
    dialect: Ec2Dialect,
    provider: AwsCloud,
}

async fn account_with(zones: u32) -> Account {
    let dialect = Ec2Dialect::new(zones);
    let fake = FakeCloud::start(dialect.clone(), KEY).await;
    let field = |name: &str, value: &str| (name.to_owned(), Secret::new(value.to_owned()));
    let keys = Credentials::new("a test", [field("access_key_id", KEY), field("secret_access_key", SECRET)]);
    let config =
        AwsConfig { endpoint: Some(fake.url()), spot: true, ..AwsConfig::new(vec![REGION.parse().unwrap()]) };
    let http = HttpConfig { answer_within: Duration::from_secs(2), ..HttpConfig::default() };
    let provider = AwsCloud::new(config, HttpClient::new(http).unwrap(), Arc::new(Fixed::new(keys)));
    Account { fake, dialect, provider }
}

fn order(number: u32) -> InstanceSpec {
    contract::order(HubId::from_bytes([7; 16]), number, ("t3.micro", REGION), USER_DATA)
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
            InstanceSpec { plan: "t99.huge".to_owned(), ..order(1) },
            InstanceSpec { region: "eu-west-1".to_owned(), ..order(1) },
            InstanceSpec { region: "mars".to_owned(), ..order(1) },
            InstanceSpec { user_data: Secret::new("#".repeat(16 * 1024 + 1)), ..order(1) },
        ]
    }

    fn absent(&self) -> String {
        name_of(999_999_999)
    }

    fn name_of(&self, id: u64) -> String {
        name_of(id)
    }

    fn secrets(&self) -> Vec<String> {
        vec!["canary".to_owned(), SENT.to_owned()]
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
    contract::run(async || account_with(1).await).await;
}

#[tokio::test]
async fn every_zone_is_asked_before_a_region_is_full() {
    let account = account_with(3).await;
    account.dialect.fill(&["subnet-1", "subnet-3"]);
    for number in 1..=6 {
        account.provider.create(&order(number)).await.unwrap();
    }
    account.dialect.fill(&["subnet-1", "subnet-2", "subnet-3"]);
    let before = account.fake.count(Kind::Create);
    let error = account.provider.create(&order(7)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Capacity);
    assert_eq!(account.fake.count(Kind::Create) - before, 3);
    assert_eq!(account.provider.list().await.unwrap().instances.len(), 6);
}

/// The list is late, so that only AWS knows that the call was made before.
#[tokio::test]
async fn a_repeated_call_is_one_machine_also_where_the_list_is_late() {
    let account = account_with(3).await;
    account.fake.world(|world| world.late = Duration::from_secs(3600));
    for fault in
        [Fault::DoAndBreak, Fault::DoAndRefuse(Refusal::Throttled(blueprint_tests_cloud::Throttling::Silent))]
    {
        account.fake.fail(Kind::Create, fault);
        account.provider.create(&order(1)).await.unwrap_err();
    }
    let made = account.provider.create(&order(1)).await.unwrap();
    assert_eq!(account.fake.world(|world| world.machines.len()), 1);
    // The same token for something else is a fault of ours: what it made is looked for, and nothing more is made.
    let other = InstanceSpec { plan: "m5.large".to_owned(), ..order(1) };
    assert_eq!(account.provider.create(&other).await.unwrap_err().class(), ErrorClass::Unknown);
    // One whose machine has ended makes none, and the next call makes another.
    account.provider.delete(&made.provider_id).await.unwrap();
    assert_eq!(account.provider.create(&order(1)).await.unwrap_err().class(), ErrorClass::Unknown);
    let again = InstanceSpec { tags: order(1).tags.map(|tags| Tags { attempt: 2, ..tags }), ..order(1) };
    assert_ne!(account.provider.create(&again).await.unwrap().provider_id, made.provider_id);
    assert_eq!(account.fake.world(|world| world.machines.len()), 1);
}

#[tokio::test]
async fn many_at_once_are_as_many_machines() {
    let account = account_with(2).await;
    let orders: Vec<_> = (1..=10).map(order).collect();
    let twice = orders.iter().chain(&orders).map(|order| account.provider.create(order));
    for made in futures_util::future::join_all(twice).await {
        made.unwrap();
    }
    assert_eq!(account.fake.world(|world| world.machines.len()), 10);
}

/// Two pages: the second has a price of another kind, which is nobody's.
#[tokio::test]
async fn the_price_list_is_read_whole_and_only_what_was_asked_for() {
    let account = account_with(1).await;
    let list = account.provider.price_list().await.unwrap();
    let rows: Vec<_> = list.iter().map(|offer| (&*offer.plan, offer.on_demand.get(), offer.kind)).collect();
    assert_eq!(rows, [("t3.micro", 10_401, PriceKind::Live), ("m5.large", 96_000, PriceKind::Live)]);
    assert!(list.iter().all(|offer| &*offer.region == REGION && offer.vcpus == 2));
}

/// Everything that is asked in a life, with a spot machine and without room, fits what AWS publishes of its services.
#[tokio::test]
async fn what_is_asked_fits_the_description_of_each_service() {
    if !require(&[Need::Moto]) {
        return;
    }
    let program = Moto::program().unwrap();
    let service = |name: &str| Service::beside(&program, name).unwrap();
    let services = [
        ("ec2", service("ec2/2016-11-15")),
        ("ssm", service("ssm/2014-11-06")),
        ("pricing", service("pricing/2017-10-15")),
    ];
    let faults_of = |asked: &Asked| {
        let scope = asked.request.header("authorization").unwrap().to_owned();
        let (_, service) = services.iter().find(|(name, _)| scope.contains(&format!("/{name}/"))).unwrap();
        service.faults(&asked.request)
    };
    let account = account_with(2).await;
    account.provider.offers().await.unwrap();
    account.provider.price_list().await.unwrap();
    let disk = InstanceSpec { disk_gb: 40, ..order(1) };
    let made = account.provider.create(&disk).await.unwrap();
    account.provider.create(&InstanceSpec { spot: true, ..order(2) }).await.unwrap();
    account.provider.stop(&made.provider_id).await.unwrap();
    account.provider.boot(&made.provider_id).await.unwrap();
    account.fake.world(|world| world.page_limit = 5);
    for instance in account.provider.list().await.unwrap().instances {
        account.provider.delete(&instance.provider_id).await.unwrap();
    }
    let mut tidied = Tidied::default();
    account.provider.tidy(HubId::from_bytes([7; 16]), &mut tidied).await.unwrap();
    assert_eq!(tidied.removed, [format!("security group sg-1 in {REGION}")]);
    let asked = account.fake.asked();
    for asked in &asked {
        let faults = faults_of(asked);
        let body = String::from_utf8_lossy(&asked.request.body);
        assert!(faults.is_empty(), "{body}: {faults:#?}");
    }
    // The check is not blind.
    let order = asked.iter().find(|asked| asked.kind == Kind::Create).unwrap();
    let body = String::from_utf8_lossy(&order.request.body).into_owned();
    for (from, to, word) in [
        ("MinCount=1", "MinCount=one", "no whole number"),
        ("MinCount=1&", "", "lacks MinCount"),
        ("HttpTokens=required", "HttpTokens=perhaps", "no value"),
        ("BlockDeviceMapping.1.", "BlockDeviceMapping.2.", "not numbered from 1 on"),
        ("Ebs.Encrypted=true", "Ebs.Encrypted=yes", "neither true nor false"),
        ("Ebs.VolumeType", "Ebs.Type", "knows no Type"),
        ("Action=RunInstances", "Action=RunInstance", "there is no operation"),
        ("Version=2016-11-15", "Version=2016-11-14", "Version is"),
    ] {
        let mut wrong = order.clone();
        assert!(body.contains(from), "{from} is not in {body}");
        wrong.request.body = body.replace(from, to).into();
        let faults = faults_of(&wrong);
        assert!(faults.iter().any(|fault| fault.contains(word)), "{from} to {to}: {faults:?}");
    }
}
