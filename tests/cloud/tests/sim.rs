//! The simulated cloud, held to the contract.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use blueprint_common_types::Secret;
use blueprint_hub_provider_sim::{Faults, SimCloud, SimConfig};
use blueprint_hub_provision_core::{InstanceSpec, Provider};
use blueprint_tests_cloud::FakeCloud;
use blueprint_tests_cloud::contract::{self, Lab, LeftOut};
use tempfile::TempDir;

struct Sim {
    cloud: SimCloud,
    _dir: TempDir,
}

fn stand_in(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hub/provider-sim/tests/stand-ins").join(name)
}

fn sim() -> Sim {
    let dir = tempfile::tempdir().unwrap();
    let cloud = SimCloud::new(SimConfig {
        dir: dir.path().to_owned(),
        agent_binary: stand_in("agent"),
        service_binary: None,
        faults: Faults::default(),
        regions: 1,
    });
    Sim { cloud, _dir: dir }
}

impl Lab for Sim {
    fn provider(&self) -> &dyn Provider {
        &self.cloud
    }

    fn order(&self, number: u32) -> InstanceSpec {
        let hub = "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap();
        contract::order(hub, number, ("sim-small", "local"), contract::join_document(number))
    }

    fn wrong_orders(&self) -> Vec<InstanceSpec> {
        vec![
            InstanceSpec { plan: "sim-none".to_owned(), ..self.order(1) },
            InstanceSpec { region: "mars".to_owned(), ..self.order(1) },
            InstanceSpec { user_data: Secret::new("canary".to_owned()), ..self.order(1) },
        ]
    }

    fn absent(&self) -> String {
        "sim/sim-absent".to_owned()
    }

    fn secrets(&self) -> Vec<String> {
        vec!["canary".to_owned()]
    }

    fn fake(&self) -> Option<&FakeCloud> {
        None
    }

    fn left_out(&self) -> &'static [LeftOut] {
        &[
            LeftOut {
                promises: contract::OF_FAKES,
                reason: "the cloud is the provider itself, with no wire between; what it does wrong when it is told to is tried in \
                         hub/provider-sim/tests",
            },
            LeftOut {
                promises: &[contract::OF_SHUT_FAKES],
                reason: "the cloud is the provider itself and cannot be taken away from it",
            },
        ]
    }

    async fn shut(&mut self) {
        self.cloud.stop_all().await;
    }
}

#[tokio::test]
async fn the_contract_holds() {
    contract::run(async || sim()).await;
}
