//! Machines of this host, held to the contract of every provider: real machines of systemd-nspawn.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_common_types::HubId;
use blueprint_hub_provider_local_vm::{LocalVm, LocalVmConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{InstanceSpec, Provider};
use blueprint_tests_cloud::FakeCloud;
use blueprint_tests_cloud::contract::{self, LeftOut};
use blueprint_tests_support::{Lab, scratch};
use futures_util::FutureExt;

use super::image;

/// Set in the process that is inside a namespace.
const INSIDE: &str = "CONTRACT_INSIDE";

/// Longest run of all promises on a busy host.
const WITHIN: Duration = Duration::from_secs(280);

/// A folder of machines; all promises share it, one after the other.
struct Here {
    provider: LocalVm,
}

fn owner() -> HubId {
    HubId::from_bytes([9; 16])
}

impl contract::Lab for Here {
    fn provider(&self) -> &dyn Provider {
        &self.provider
    }

    fn order(&self, number: u32) -> InstanceSpec {
        contract::order(
            owner(),
            number,
            ("local-small", "local"),
            "#cloud-config\n{\"bootcmd\": [\"true canary\"]}\n",
        )
    }

    fn wrong_orders(&self) -> Vec<InstanceSpec> {
        vec![
            InstanceSpec { plan: "local-none".to_owned(), ..self.order(1) },
            InstanceSpec { region: "mars".to_owned(), ..self.order(1) },
            InstanceSpec { spot: true, ..self.order(1) },
            InstanceSpec { arch: Arch::Arm64, ..self.order(1) },
            InstanceSpec { tags: None, ..self.order(1) },
        ]
    }

    fn absent(&self) -> String {
        "bp-aaaaaaaaaaaaaaaa-99".to_owned()
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
                reason: "machines run on the hub's host: its clock is the hub's own, and no second opinion",
            },
            LeftOut {
                promises: contract::OF_FAKES,
                reason: "the host is the cloud: no wire lies between that could break, lie, page or ask for a pause",
            },
            LeftOut {
                promises: &[contract::OF_SHUT_FAKES],
                reason: "the host cannot be taken away from the hub that runs on it",
            },
        ]
    }

    fn moment(&self) -> Duration {
        Duration::from_millis(4)
    }

    /// Programs of the host, such as `ip` and `nft`, go with the future that runs them; the machine's own first steps do not.
    fn settled_after(&self) -> Duration {
        Duration::from_millis(500)
    }

    async fn shut(&mut self) {}
}

async fn clear(provider: &LocalVm) {
    for instance in provider.list().await.unwrap().instances {
        provider.delete(&instance.provider_id).await.unwrap();
    }
}

/// Holds the provider to the contract, in the network that this process is in.
async fn hold(dir: &Path, image: PathBuf) -> Result<()> {
    let config = || LocalVmConfig {
        dir: dir.to_owned(),
        image: image.clone(),
        subnet: "10.231.0.0/24".parse().unwrap(),
        closed: Vec::new(),
    };
    // Another one over the same folder each time, as a hub that starts again makes.
    let make = async || {
        let provider = LocalVm::open(config()).unwrap();
        clear(&provider).await;
        Here { provider }
    };
    let held = std::panic::AssertUnwindSafe(contract::run(make)).catch_unwind().await;
    clear(&LocalVm::open(config())?).await;
    let left: Vec<_> = std::fs::read_dir(dir.join("machines"))?.flatten().map(|entry| entry.path()).collect();
    if let Err(panic) = held {
        std::panic::resume_unwind(panic);
    }
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

#[test]
fn the_contract_of_every_provider_holds_for_machines_of_this_host() -> Result<()> {
    let Some(image) = image(false) else { return Ok(()) };
    if std::env::var_os(INSIDE).is_none() {
        // In a network of its own, and with the control groups of this machine, which systemd needs.
        let Some(lab) = Lab::new()? else { return Ok(()) };
        let host = lab.host("hub")?;
        let thread = std::thread::current();
        let again = host
            .launch_with_mounts(&std::env::current_exe()?)
            .args(["--exact", thread.name().context("no name")?, "--nocapture"])
            .env(INSIDE, "1")
            .run(WITHIN)?;
        crate::say::say(format_args!("{}{}", again.stdout, again.stderr));
        ensure!(again.code == Some(0), "the contract does not hold");
        return Ok(());
    }
    let dir = scratch("contract")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(hold(dir.path(), image))
}
