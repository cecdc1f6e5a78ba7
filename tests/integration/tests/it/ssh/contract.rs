//! The operator's own machines, held to the contract of every provider: two real machines with systemd and an SSH server.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_ssh::{OwnHosts, SshConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{InstanceSpec, Provider, Tags};
use blueprint_tests_cloud::FakeCloud;
use blueprint_tests_cloud::contract::{self, LeftOut};
use serde_json::json;
use tempfile::TempDir;

use super::Site;

/// The inventory, as a provider of one hub sees it.
struct OwnMachines {
    provider: OwnHosts,
    _state: TempDir,
}

fn owner() -> HubId {
    HubId::from_bytes([9; 16])
}

impl OwnMachines {
    /// A hub that knows nothing yet; what an earlier one of the same name left on the hosts goes.
    async fn open(hosts: &Path) -> Self {
        let state = tempfile::tempdir().unwrap();
        let provider =
            OwnHosts::open(SshConfig { hub: owner(), hosts: hosts.to_owned(), dir: state.path().to_owned() });
        for instance in provider.list().await.unwrap().instances {
            provider.delete(&instance.provider_id).await.unwrap();
        }
        Self { provider, _state: state }
    }
}

/// What makes a host a node, with a program in the place of the agent that stays until it is stopped.
fn user_data() -> String {
    let unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
    let document = json!({
        "files": [
            { "path": "/etc/blueprint-agent/join", "mode": 0o600, "content": "hub:7443/pin/bpj_canary\n" },
            { "path": "/etc/systemd/system/blueprint-agent.service", "mode": 0o644, "content": unit },
        ],
        "start": [["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", "blueprint-agent.service"]],
    });
    document.to_string()
}

impl contract::Lab for OwnMachines {
    fn provider(&self) -> &dyn Provider {
        &self.provider
    }

    /// A host is a plan that there is one of: odd orders want the first, even ones the second.
    fn order(&self, number: u32) -> InstanceSpec {
        let plan = if number % 2 == 1 { "rack-1" } else { "rack-2" };
        contract::order(owner(), number, (plan, "own"), user_data())
    }

    fn wrong_orders(&self) -> Vec<InstanceSpec> {
        let right = self.order(1);
        let other = Some(Tags { hub: HubId::from_bytes([7; 16]), ..right.tags.clone().unwrap() });
        vec![
            InstanceSpec { plan: "rack-3".to_owned(), ..self.order(1) },
            InstanceSpec { region: "mars".to_owned(), ..self.order(1) },
            InstanceSpec { spot: true, ..self.order(1) },
            InstanceSpec { arch: Arch::Arm64, ..self.order(1) },
            InstanceSpec { disk_gb: 1000, ..self.order(1) },
            InstanceSpec { user_data: Secret::new("canary".to_owned()), ..self.order(1) },
            InstanceSpec { tags: other, ..self.order(1) },
            InstanceSpec { tags: None, ..right },
        ]
    }

    fn absent(&self) -> String {
        "rack-1/bp-aaaaaaaaaaaaaaaa-99/1".to_owned()
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
                promises: &["the_clock_of_the_cloud_is_told"],
                reason: "hosts have clocks of their own and no cloud above them; the hub goes by its own",
            },
            LeftOut {
                promises: &[
                    "a_long_list_comes_whole",
                    "half_a_list_is_an_error",
                    "a_list_that_changes_is_whole_or_an_error",
                    "a_late_list_is_no_error",
                ],
                reason: "nobody sends a list: each host is asked by itself, and one that does not answer counts as it was",
            },
            LeftOut {
                promises: &["a_machine_made_twice_is_listed_twice"],
                reason: "a host has one claim, so that there is no second machine on it",
            },
            LeftOut {
                promises: &["a_pause_is_told_in_every_dialect", "a_pause_is_right_with_a_wrong_clock"],
                reason: "a host asks nobody for a pause",
            },
            LeftOut {
                promises: &["absurd_prices_are_not_offered"],
                reason: "the operator says the price, and the inventory is checked when it is read",
            },
            LeftOut {
                promises: &[
                    "strangers_are_not_touched",
                    "a_machine_made_behind_an_error_is_found",
                    "a_lost_answer_is_unknown_and_its_machine_is_found",
                    "refusals_have_their_class_and_make_nothing",
                    "nonsense_is_an_error",
                    "a_slow_answer_is_given_up",
                    "nothing_is_tried_twice",
                    "what_fails_before_an_order_says_that_nothing_was_ordered",
                    "wrong_credentials_are_told",
                    "without_a_cloud_nothing_was_done",
                ],
                reason: "a host is no server of a fake; with wrong keys, strangers, hosts that are cut off and a hub that is killed the \
                         same is tried beside this test and in hub/provider-ssh",
            },
        ]
    }

    fn moment(&self) -> Duration {
        Duration::from_millis(12)
    }

    /// A script that was begun goes to its end.
    fn settled_after(&self) -> Duration {
        Duration::from_secs(2)
    }

    async fn shut(&mut self) {}
}

fn hold(hosts: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        contract::run(async || OwnMachines::open(hosts).await).await;
        // Nothing is left on the hosts, as a hub that begins sees.
        drop(OwnMachines::open(hosts).await);
    });
    Ok(())
}

#[test]
fn the_contract_of_every_provider_holds_for_own_hosts() -> Result<()> {
    let Some(site) = Site::new(&["rack1", "rack2"])? else { return Ok(()) };
    let more = "price = \"0.01\"";
    let blocks = [site.block(0, "root", &site.pin(0)?, more)?, site.block(1, "ops", &site.pin(1)?, more)?];
    let hosts: PathBuf = site.hosts();
    std::fs::write(&hosts, blocks.concat())?;
    site.hub.enter(|| hold(&hosts))?.context("the contract")
}
