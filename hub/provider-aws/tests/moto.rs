//! EC2 as moto has it: the provider contract, and what is its own.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_aws::{AssumedRole, AwsCloud, AwsConfig};
use blueprint_hub_provider_kit::{CredentialSource, Credentials, Fixed, HttpClient, HttpConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{
    DeploymentId, ErrorClass, Instance, InstanceSpec, InstanceState, Provider, RightState, Tags,
};
use blueprint_tests_support::moto::{Moto, all};
use blueprint_tests_support::{Need, require};

const HUB: HubId = HubId::from_bytes([7; 16]);
const EAST: &str = "us-east-1";
const WEST: &str = "eu-west-1";

/// Rights that no check can try.
const UNTRIED: [&str; 5] = [
    "ec2:CreateSecurityGroup",
    "ec2:DeleteSecurityGroup",
    "ec2:StartInstances",
    "ec2:StopInstances",
    "ec2:TerminateInstances",
];

/// One server, and the account in two of its regions.
struct World {
    moto: Moto,
    cloud: AwsCloud,
}

fn http() -> HttpClient {
    HttpClient::new(HttpConfig::default()).unwrap()
}

fn keys() -> Arc<dyn CredentialSource> {
    let field = |name: &str, value: &str| (name.to_owned(), Secret::new(value.to_owned()));
    let fields = [field("access_key_id", "AKIDEXAMPLE"), field("secret_access_key", "a/secret+=")];
    Arc::new(Fixed::new(Credentials::new("a test", fields)))
}

fn config(moto: &Moto) -> AwsConfig {
    AwsConfig {
        endpoint: Some(moto.url()),
        image: "/own/{arch}".parse().unwrap(),
        ..AwsConfig::new(vec![EAST.parse().unwrap(), WEST.parse().unwrap()])
    }
}

/// `None` where moto is not installed, which is told.
fn world(change: impl FnOnce(AwsConfig) -> AwsConfig) -> Option<World> {
    if !require(&[Need::Moto]) {
        return None;
    }
    let moto = Moto::start().unwrap();
    for region in [EAST, WEST] {
        for (name, arch) in [("amd64", "x86_64"), ("arm64", "arm64")] {
            moto.put_parameter(region, &format!("/own/{name}"), &moto.image(region, arch).unwrap()).unwrap();
        }
    }
    let cloud = AwsCloud::new(change(config(&moto)), http(), keys());
    Some(World { moto, cloud })
}

fn spec(key: &str, region: &str) -> InstanceSpec {
    InstanceSpec {
        key: key.parse().unwrap(),
        tags: Some(Tags { hub: HUB, deployment: DeploymentId::from_bytes([1; 10]), attempt: 3 }),
        plan: "t3.micro".to_owned(),
        region: region.to_owned(),
        spot: false,
        disk_gb: 33,
        arch: Arch::X86_64,
        ttl: None,
        user_data: Secret::new("#cloud-config\nruncmd: [echo hi]\n".to_owned()),
    }
}

async fn list(cloud: &AwsCloud) -> Vec<Instance> {
    cloud.list().await.unwrap().instances
}

async fn state(cloud: &AwsCloud, instance: &Instance) -> Option<InstanceState> {
    let found = list(cloud).await.into_iter().find(|other| other.provider_id == instance.provider_id);
    found.map(|instance| instance.state)
}

/// The id that AWS calls it by.
fn id(instance: &Instance) -> &str {
    instance.provider_id.split('/').next_back().unwrap()
}

#[tokio::test]
async fn a_machine_is_made_switched_off_and_on_and_ended() {
    let Some(World { moto, cloud }) = world(|config| config) else { return };
    let spec = spec("bp-x-1", EAST);
    let made = cloud.create(&spec).await.unwrap();
    assert!(made.provider_id.starts_with("us-east-1/i-"), "{made:?}");
    assert_eq!((&made.key, &made.tags), (&spec.key, &spec.tags));
    let listing = cloud.list().await.unwrap();
    let [listed] = listing.instances.as_slice() else { panic!("{listing:?}") };
    assert_eq!((&listed.provider_id, &listed.key, &listed.tags), (&made.provider_id, &spec.key, &spec.tags));
    assert!(listing.cloud_time.is_some());

    cloud.stop(&made.provider_id).await.unwrap();
    assert_eq!(state(&cloud, &made).await, Some(InstanceState::Stopped));
    cloud.stop(&made.provider_id).await.unwrap();
    cloud.boot(&made.provider_id).await.unwrap();
    assert_eq!(state(&cloud, &made).await, Some(InstanceState::Running));
    cloud.boot(&made.provider_id).await.unwrap();
    cloud.delete(&made.provider_id).await.unwrap();
    assert_eq!(state(&cloud, &made).await, None);
    assert!(moto.ec2(EAST, "Action=DescribeInstances").unwrap().contains("terminated"), "nothing lingers");
    // Moto refuses that, since the machine's network interface is gone.
    cloud.delete(&made.provider_id).await.unwrap();

    let unknown = "us-east-1/i-0123456789abcdef0";
    cloud.delete(unknown).await.unwrap();
    cloud.delete("no machine of EC2").await.unwrap();
    for switched in [cloud.boot(unknown).await, cloud.stop(unknown).await, cloud.boot("sim/x").await] {
        assert_eq!(switched.unwrap_err().class(), ErrorClass::Reject);
    }
}

#[tokio::test]
async fn a_machine_is_closed_encrypted_tagged_and_reads_its_user_data() {
    let Some(World { moto, cloud }) = world(|config| config) else { return };
    let made = cloud.create(&spec("bp-x-1", EAST)).await.unwrap();
    let attribute = format!("Action=DescribeInstanceAttribute&InstanceId={}&Attribute=userData", id(&made));
    let user_data = all(&moto.ec2(EAST, &attribute).unwrap(), "value");
    assert_eq!(user_data, ["I2Nsb3VkLWNvbmZpZwpydW5jbWQ6IFtlY2hvIGhpXQo="]);
    let own = format!("&Filter.1.Name=attachment.instance-id&Filter.1.Value.1={}", id(&made));
    let volumes = moto.ec2(EAST, &format!("Action=DescribeVolumes{own}")).unwrap();
    for (name, value) in [("size", "33"), ("volumeType", "gp3"), ("encrypted", "true")] {
        assert!(all(&volumes, name).contains(&value.to_owned()), "{name} in {volumes}");
    }
    assert_eq!(all(&volumes, "size").len(), 1, "a second disk: {volumes}");
    assert!(volumes.contains("<value>bp-x-1</value>") && volumes.contains("blueprint-hub"), "{volumes}");
    let machine = moto.ec2(EAST, &format!("Action=DescribeInstances&InstanceId.1={}", id(&made))).unwrap();
    assert!(!all(&machine, "deleteOnTermination").contains(&"false".to_owned()), "{machine}");
    assert!(all(&machine, "httpTokens").contains(&"required".to_owned()), "{machine}");
    let groups = all(&machine, "groupId");
    let group = groups.first().unwrap();
    let group = moto.ec2(EAST, &format!("Action=DescribeSecurityGroups&GroupId.1={group}")).unwrap();
    assert!(group.contains("blueprint-hub-no-ingress") && group.contains("no-ingress</value>"), "{group}");
    assert!(
        group.contains("<ipPermissions/>") || group.contains("<ipPermissions></ipPermissions>"),
        "{group}"
    );
    assert!(all(&group, "cidrIp").contains(&"0.0.0.0/0".to_owned()), "nothing gets out: {group}");

    cloud.create(&spec("bp-x-2", EAST)).await.unwrap();
    let all_groups = moto.ec2(EAST, "Action=DescribeSecurityGroups").unwrap();
    assert_eq!(all_groups.matches("<groupName>blueprint-hub-no-ingress").count(), 1, "{all_groups}");
}

#[tokio::test]
async fn a_key_that_exists_makes_no_second_machine_and_nobody_elses_is_listed() {
    let Some(World { moto, cloud }) = world(|config| config) else { return };
    let first = cloud.create(&spec("bp-x-1", EAST)).await.unwrap();
    let again = cloud.create(&spec("bp-x-1", EAST)).await.unwrap();
    assert_eq!(first.provider_id, again.provider_id);
    let west = cloud.create(&spec("bp-x-2", WEST)).await.unwrap();
    assert!(west.provider_id.starts_with("eu-west-1/i-"));
    let image = moto.image(EAST, "x86_64").unwrap();
    moto.ec2(
        EAST,
        &format!("Action=RunInstances&MinCount=1&MaxCount=1&InstanceType=t3.micro&ImageId={image}"),
    )
    .unwrap();
    let ids: Vec<_> = list(&cloud).await.into_iter().map(|instance| instance.provider_id).collect();
    assert_eq!(ids, [west.provider_id.clone(), first.provider_id.clone()]);
    // Another hub's machine of the same key is another machine, and one without tags is nobody's.
    let mut other = spec("bp-x-1", EAST);
    other.tags = other.tags.map(|tags| Tags { hub: HubId::from_bytes([8; 16]), ..tags });
    let other = cloud.create(&other).await.unwrap();
    assert_ne!(other.provider_id, first.provider_id);
    let bare = cloud.create(&InstanceSpec { tags: None, ..spec("dev-1", EAST) }).await.unwrap();
    assert_eq!(bare.tags, None);
    cloud.delete(&first.provider_id).await.unwrap();
    let next = cloud.create(&spec("bp-x-1", EAST)).await.unwrap();
    assert_ne!(next.provider_id, first.provider_id, "a machine that ended was taken for one that stands");
}

#[tokio::test]
async fn a_list_of_many_pages_is_whole() {
    let Some(World { cloud, moto: _moto }) = world(|config| AwsConfig { page: 5, ..config }) else { return };
    for number in 0..13 {
        cloud.create(&spec(&format!("bp-x-{number}"), EAST)).await.unwrap();
    }
    let keys: std::collections::BTreeSet<_> = list(&cloud).await.into_iter().map(|it| it.key).collect();
    assert_eq!(keys.len(), 13, "{keys:?}");
}

#[tokio::test]
async fn what_cannot_be_made_is_told_apart() {
    let Some(World { moto, cloud }) = world(|config| config) else { return };
    let class = async |spec: InstanceSpec| cloud.create(&spec).await.unwrap_err().class();
    let base = || spec("bp-x-1", EAST);
    assert_eq!(class(InstanceSpec { plan: "t99.huge".to_owned(), ..base() }).await, ErrorClass::NotSold);
    assert_eq!(class(InstanceSpec { region: "us-west-2".to_owned(), ..base() }).await, ErrorClass::NotSold);
    let long = Secret::new("x".repeat(16 * 1024 + 1));
    assert_eq!(class(InstanceSpec { user_data: long, ..base() }).await, ErrorClass::Reject);

    let of = async |change: fn(AwsConfig) -> AwsConfig| {
        let cloud = AwsCloud::new(change(config(&moto)), http(), keys());
        cloud.create(&base()).await.unwrap_err().to_string()
    };
    let words = of(|config| AwsConfig { image: "/own/none".parse().unwrap(), ..config }).await;
    assert!(words.contains("ParameterNotFound"), "{words}");
    let words = of(|config| AwsConfig { image: "/own/arm64".parse().unwrap(), ..config }).await;
    assert!(words.contains("is for arm64, and t3.micro is x86_64"), "{words}");
    let words = of(|config| AwsConfig { image: "ami-0123456789abcdef0".parse().unwrap(), ..config }).await;
    assert!(words.contains("ami-0123456789abcdef0"), "{words}");
    let words = of(|config| AwsConfig { subnets: vec!["subnet-0123".parse().unwrap()], ..config }).await;
    assert!(words.contains("us-east-1 has no subnet to put a machine in"), "{words}");
    let words = of(|config| AwsConfig { endpoint: Some("http://127.0.0.1:1".to_owned()), ..config }).await;
    assert!(words.contains("could not be sent"), "{words}");
    assert!(list(&cloud).await.is_empty());
}

#[tokio::test]
async fn a_group_that_somebody_opened_is_not_used() {
    let Some(World { moto, cloud }) = world(|config| config) else { return };
    cloud.create(&spec("bp-x-1", EAST)).await.unwrap();
    let named = "Filter.1.Name=group-name&Filter.1.Value.1=blueprint-hub-no-ingress";
    let group =
        all(&moto.ec2(EAST, &format!("Action=DescribeSecurityGroups&{named}")).unwrap(), "groupId").remove(0);
    let open = format!(
        "Action=AuthorizeSecurityGroupIngress&GroupId={group}&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=22\
         &IpPermissions.1.ToPort=22&IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0"
    );
    moto.ec2(EAST, &open).unwrap();
    let error = cloud.create(&spec("bp-x-2", EAST)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Reject);
    assert!(
        error.to_string().contains(&format!("{group} (blueprint-hub-no-ingress) lets something in")),
        "{error}"
    );
    assert_eq!(list(&cloud).await.len(), 1);
}

#[tokio::test]
async fn spot_and_arm_machines_are_sold_and_made() {
    let Some(World { moto, cloud }) = world(|config| AwsConfig { spot: true, ..config }) else { return };
    let offers = cloud.offers().await.unwrap();
    assert!(offers.iter().any(|offer| offer.spot.is_some()), "no spot price");
    assert!(offers.iter().all(|offer| offer.spot.is_none_or(|spot| spot <= offer.on_demand)));
    assert!(offers.is_sorted_by_key(|offer| offer.on_demand));
    let made = cloud.create(&InstanceSpec { spot: true, ..spec("bp-x-1", EAST) }).await.unwrap();
    let shown = moto.ec2(EAST, &format!("Action=DescribeInstances&InstanceId.1={}", id(&made))).unwrap();
    assert!(shown.contains("<instanceLifecycle>spot"), "{shown}");
    let arm = InstanceSpec { plan: "t4g.small".to_owned(), arch: Arch::Arm64, ..spec("bp-x-2", EAST) };
    let made = cloud.create(&arm).await.unwrap();
    let shown = moto.ec2(EAST, &format!("Action=DescribeInstances&InstanceId.1={}", id(&made))).unwrap();
    assert!(shown.contains(&moto.image(EAST, "arm64").unwrap()), "{shown}");
}

#[tokio::test]
async fn an_account_is_checked_and_no_machine_is_made() {
    let Some(World { moto, cloud }) = world(|config| config) else { return };
    let checked = cloud.check(HUB).await.unwrap();
    assert_eq!(checked.account, "123456789012");
    assert!(checked.identity.starts_with("arn:aws:"), "{checked:?}");
    assert_eq!(checked.problems, Vec::<String>::new());
    assert_eq!(checked.regions, [(EAST.to_owned(), Some(true)), (WEST.to_owned(), Some(true))]);
    let of = |state| {
        checked.rights.iter().filter(move |right| right.state == state).map(|right| right.name.as_str())
    };
    assert!(of(RightState::Held).any(|name| name == "ec2:RunInstances"), "{checked:?}");
    assert!(of(RightState::Untried).eq(UNTRIED), "{checked:?}");
    let nowhere = AwsConfig { regions: vec!["eu-nowhere-9".parse().unwrap()], ..config(&moto) };
    let lost = AwsCloud::new(nowhere, http(), keys()).check(HUB).await.unwrap();
    assert_eq!(lost.regions, [("eu-nowhere-9".to_owned(), Some(false))]);
    assert!(lost.problems.len() == 1 && lost.problems[0].contains("no such region; correct"), "{lost:?}");
    let lame = AwsConfig { image: "/own/none".parse().unwrap(), ..config(&moto) };
    let checked = AwsCloud::new(lame, http(), keys()).check(HUB).await.unwrap();
    let [east, west] = checked.problems.as_slice() else { panic!("{checked:?}") };
    assert!(east.starts_with("us-east-1: ") && east.contains("ParameterNotFound"), "{east}");
    assert!(west.starts_with("eu-west-1: "), "{west}");
    assert!(list(&cloud).await.is_empty());
    assert!(!moto.ec2(EAST, "Action=DescribeInstances").unwrap().contains("instanceId"));
}

#[tokio::test]
async fn a_role_is_taken_on_once_and_its_keys_are_used() {
    let Some(World { moto, .. }) = world(|config| config) else { return };
    let role = "arn:aws:iam::123456789012:role/hub";
    let external = Some(Secret::new("ours".to_owned()));
    let source =
        AssumedRole::new((http(), Some(moto.url())), keys(), EAST.parse().unwrap(), Some(role), external);
    let source = Arc::new(source);
    let (first, second) = (source.get().await.unwrap(), source.get().await.unwrap());
    assert!(first.get("session_token").is_some() && first.origin() == format!("the role {role}"));
    assert!(Arc::ptr_eq(&first, &second), "taken on for every call");
    let plain = AssumedRole::new((http(), Some(moto.url())), keys(), EAST.parse().unwrap(), None, None);
    assert_eq!(plain.get().await.unwrap(), keys().get().await.unwrap(), "no role is named");
    let field = |name: &str, value: &str| (name.to_owned(), Secret::new(value.to_owned()));
    let other = "arn:aws:iam::123456789012:role/other";
    let fields =
        [field("access_key_id", "AKIDEXAMPLE"), field("secret_access_key", "x"), field("role_arn", other)];
    let own = Arc::new(Fixed::new(Credentials::new("a test", fields)));
    let named = AssumedRole::new((http(), Some(moto.url())), own, EAST.parse().unwrap(), Some(role), None);
    assert_eq!(named.get().await.unwrap().origin(), format!("the role {other}"), "their own role goes first");
    let cloud = AwsCloud::new(config(&moto), http(), source);
    let checked = cloud.check(HUB).await.unwrap();
    assert!(checked.identity.contains("assumed-role"), "{checked:?}");
}

#[tokio::test]
async fn many_calls_at_once_make_as_many_machines_and_one_group() {
    let Some(World { moto, cloud }) = world(|config| config) else { return };
    let specs: Vec<_> = (0..8).map(|number| spec(&format!("bp-x-{number}"), EAST)).collect();
    let made = futures_util::future::join_all(specs.iter().map(|spec| cloud.create(spec)));
    let made = tokio::time::timeout(Duration::from_secs(60), made).await.unwrap();
    for (made, spec) in made.into_iter().zip(&specs) {
        assert_eq!(made.unwrap().key, spec.key);
    }
    assert_eq!(list(&cloud).await.len(), specs.len());
    let groups = moto.ec2(EAST, "Action=DescribeSecurityGroups").unwrap();
    assert_eq!(groups.matches("<groupName>blueprint-hub-no-ingress").count(), 1, "{groups}");
}
