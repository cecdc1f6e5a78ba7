//! The providers of Docker engines against a fake of one: the contract, and what is their own.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use blueprint_common_engine::Place;
use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_docker::{AgentProgram, Docker, DockerConfig, EngineHost, Patience};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{InstanceSpec, Provider, ProviderError, Tags};
use blueprint_tests_cloud::contract::{self, Lab};
use blueprint_tests_cloud::docker::DockerDialect;
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Refusal};
use tempfile::TempDir;

const TOKEN: &str = "who is let in";
const IMAGE: &str = "debian:13-slim";

struct Rig {
    fake: FakeCloud,
    dialect: DockerDialect,
    provider: Docker,
    _agent: TempDir,
}

fn hub() -> HubId {
    "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap()
}

async fn rig_with(image: Option<&str>) -> Rig {
    let dialect = DockerDialect::new(TOKEN, &[IMAGE]);
    let fake = FakeCloud::start(dialect.clone(), TOKEN).await;
    let folder = tempfile::tempdir().unwrap();
    let agent = AgentProgram { path: folder.path().join("agent"), is_static: image.is_none() };
    std::fs::write(&agent.path, "an agent").unwrap();
    let address = fake.url().trim_start_matches("http://").parse().unwrap();
    let provider = Docker::new(DockerConfig {
        name: "local-docker",
        hub: hub(),
        hosts: vec![EngineHost { region: "local".to_owned(), place: Place::loopback(address).unwrap() }],
        image: image.map(str::to_owned),
        agents: BTreeMap::from([(Arch::X86_64, agent)]),
        patience: Patience { ask: Duration::from_secs(1), ..Patience::default() },
    });
    Rig { fake, dialect, provider, _agent: folder }
}

async fn rig() -> Rig {
    rig_with(Some(IMAGE)).await
}

fn order(number: u32) -> InstanceSpec {
    contract::order(hub(), number, ("docker-small", "local"), contract::join_document(number))
}

impl Lab for Rig {
    fn provider(&self) -> &dyn Provider {
        &self.provider
    }

    fn order(&self, number: u32) -> InstanceSpec {
        order(number)
    }

    fn wrong_orders(&self) -> Vec<InstanceSpec> {
        let other = Some(Tags { hub: HubId::from_bytes([7; 16]), ..order(1).tags.unwrap() });
        vec![
            InstanceSpec { plan: "docker-none".to_owned(), ..order(1) },
            InstanceSpec { region: "mars".to_owned(), ..order(1) },
            InstanceSpec { spot: true, ..order(1) },
            InstanceSpec { arch: Arch::Arm64, ..order(1) },
            InstanceSpec { user_data: Secret::new("canary".to_owned()), ..order(1) },
            InstanceSpec { tags: other, ..order(1) },
            InstanceSpec { tags: None, ..order(1) },
        ]
    }

    fn absent(&self) -> String {
        format!("local/{}", "f".repeat(64))
    }

    fn name_of(&self, id: u64) -> String {
        format!("local/{id:064x}")
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

    fn has_pages(&self) -> bool {
        false
    }

    fn remedy(&self) -> &'static str {
        "the engine's authorization refuses it"
    }
}

#[tokio::test]
async fn the_contract_holds() {
    Box::pin(contract::run(rig)).await;
}

#[tokio::test]
async fn the_last_machine_takes_the_network_and_the_made_image_with_it() {
    let rig = rig_with(None).await;
    let first = rig.provider.create(&order(1)).await.unwrap();
    let second = rig.provider.create(&order(2)).await.unwrap();
    let has = |text: &str| rig.dialect.left().iter().any(|name| name == text);
    assert!(has("blueprint-00112233") && has("blueprint-machine:00112233"), "{:?}", rig.dialect.left());
    rig.provider.delete(&first.provider_id).await.unwrap();
    assert!(has("blueprint-00112233"), "a network in use is removed");
    rig.provider.delete(&second.provider_id).await.unwrap();
    assert_eq!(rig.dialect.left(), [IMAGE]);
}

#[tokio::test]
async fn an_order_that_is_refused_leaves_no_network() {
    let rig = rig().await;
    rig.fake.fail(Kind::Create, Fault::Refuse(Refusal::Capacity));
    rig.provider.create(&order(1)).await.unwrap_err();
    assert_eq!(rig.dialect.left(), [IMAGE]);
}

#[tokio::test]
async fn an_image_that_is_nowhere_is_told() {
    let rig = rig_with(Some("nobody/nothing:1")).await;
    let error = rig.provider.create(&order(1)).await.unwrap_err();
    assert!(matches!(error, ProviderError::Reject { .. }), "{error:?}");
    assert!(error.line().contains("nobody/nothing:1"), "{}", error.line());
}

#[tokio::test]
async fn a_container_of_somebody_else_is_never_removed() {
    let rig = rig().await;
    let other = [format!("blueprint.hub={}", HubId::from_bytes([7; 16])), "blueprint.key=bp-x".to_owned()];
    let id = rig.fake.world(|world| world.add("bp-x", &other, "", "", ""));
    let name = format!("local/{id:064x}");
    for result in [rig.provider.delete(&name).await, rig.provider.stop(&name).await] {
        assert!(matches!(result, Err(ProviderError::Reject { .. })), "{result:?}");
    }
    assert_eq!(rig.fake.count(Kind::Delete), 0);
}

#[tokio::test]
async fn a_name_that_cannot_be_read_is_not_taken_for_a_machine_that_is_gone() {
    let rig = rig().await;
    for name in ["local/../info", "local/", "mars/0123456789ab", "x"] {
        let result = rig.provider.delete(name).await;
        assert!(matches!(result, Err(ProviderError::Reject { .. })), "{name}: {result:?}");
    }
}

#[tokio::test]
async fn more_memory_than_the_host_has_is_not_promised() {
    let rig = rig().await;
    let first = order(1);
    rig.provider.create(&first).await.unwrap();
    rig.fake.world(|world| {
        let like = world.machines.first().cloned().unwrap();
        for number in 0..63 {
            world.add(&format!("x-{number}"), &like.tags, "", "", "");
        }
    });
    let error = rig.provider.create(&order(2)).await.unwrap_err();
    assert!(matches!(error, ProviderError::Quota { limit: Some(64), .. }), "{error:?}");
}
