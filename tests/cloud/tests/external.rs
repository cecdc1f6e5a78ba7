//! The provider of plugins against the example of one, in Python: the contract, and what is its own.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use blueprint_common_types::HubId;
use blueprint_hub_provider_external::{External, ExternalConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{ErrorClass, InstanceSpec, Provider, ProviderError, Tags};
use blueprint_tests_cloud::FakeCloud;
use blueprint_tests_cloud::contract::{self, Lab, LeftOut};
use blueprint_tests_support::{Launch, Need, Process, plugin_python, require};
use tempfile::TempDir;

/// Longest wait for an interpreter that reads a compiler of protocols, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hub/provider-external/examples/python/plugin.py")
}

fn hub() -> HubId {
    "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap()
}

/// The example, with its folder.
struct Plugin {
    process: Process,
    folder: TempDir,
}

impl Plugin {
    fn start(quota: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Launch::new(plugin_python().unwrap())
            .arg("-B")
            .arg(example())
            .env("BLUEPRINT_PLUGIN_SOCKET", folder.path().join("plugin.sock").display().to_string())
            .env("PLUGIN_QUOTA", quota.to_string())
            .start()
            .unwrap();
        process.wait_for_line("the plugin serves", SOON).unwrap();
        Self { process, folder }
    }

    fn provider(&self, users: Vec<u32>) -> External {
        External::new(ExternalConfig {
            name: "external",
            hub: hub(),
            socket: self.folder.path().join("plugin.sock"),
            users,
            within: Duration::from_secs(5),
        })
    }
}

fn me() -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    vec![std::fs::metadata("/proc/self").unwrap().uid()]
}

struct Account {
    provider: External,
}

fn order(number: u32) -> InstanceSpec {
    contract::order(hub(), number, ("tiny", "here"), "#cloud-config\n# canary\n")
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
            InstanceSpec { plan: "none".to_owned(), ..order(1) },
            InstanceSpec { region: "mars".to_owned(), ..order(1) },
            InstanceSpec { spot: true, ..order(1) },
            InstanceSpec { arch: Arch::Arm64, ..order(1) },
            InstanceSpec { tags: other, ..order(1) },
            InstanceSpec { tags: None, ..order(1) },
        ]
    }

    fn absent(&self) -> String {
        "here-absent".to_owned()
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
                reason: "the example's cloud is in the plugin and does nothing wrong when it is told to; what a plugin answers is checked by \
                         tests of hub/provider-external, and a cloud behind one by its own author",
            },
            LeftOut {
                promises: &[contract::OF_SHUT_FAKES],
                reason: "a plugin that is away is tried beside this, as it is a process and no server",
            },
        ]
    }

    async fn shut(&mut self) {}
}

#[tokio::test]
async fn the_contract_holds_for_the_example() {
    if !require(&[Need::PluginPython]) {
        return;
    }
    let plugin = Plugin::start(50);
    contract::run(async || {
        let provider = plugin.provider(me());
        for machine in provider.list().await.unwrap().instances {
            provider.delete(&machine.provider_id).await.unwrap();
        }
        Account { provider }
    })
    .await;
}

#[tokio::test]
async fn a_plugin_that_is_away_was_not_asked_and_one_that_dies_forgets_nothing() {
    if !require(&[Need::PluginPython]) {
        return;
    }
    let mut plugin = Plugin::start(1);
    let provider = plugin.provider(me());
    provider.create(&order(1)).await.unwrap();
    let over = provider.create(&order(2)).await.unwrap_err();
    assert!(matches!(over, ProviderError::Quota { limit: Some(1), .. }), "{over:?}");

    // Somebody else's socket is told nothing.
    let error = plugin.provider(vec![4_000_000]).list().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unsent { .. }), "{error:?}");
    assert!(error.line().contains("it is served by user"), "{}", error.line());

    plugin.process.kill().unwrap();
    let error = provider.create(&order(3)).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Again, "{error:?}");
}
