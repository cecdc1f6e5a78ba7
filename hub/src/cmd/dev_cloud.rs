//! The simulated cloud of `dev`: machines are processes, each with its own single-use token.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use blueprint_common_types::Secret;
use blueprint_hub_provider_sim::{Faults, SimCloud, SimConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{InstanceKey, InstanceSpec, InstanceState, Provider};
use serde_json::json;

use super::client::{ask_async, text};
use crate::cli::Global;

/// Runs the machines below one folder.
pub(crate) struct DevCloud {
    cloud: SimCloud,
    folder: PathBuf,
}

impl DevCloud {
    /// Finds the agent and the example service beside this program.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this program's own path")?;
        let beside = |name: &str| {
            let path = own.with_file_name(name);
            if path.is_file() {
                return Ok(path);
            }
            Err(anyhow!(
                "{} is missing: dev needs the agent and the example service beside the hub; from a checkout run packaging/dev",
                path.display()
            ))
        };
        let config = SimConfig {
            dir: folder.to_owned(),
            agent_binary: beside("blueprint-agent")?,
            service_binary: Some(beside("blueprint-example-service")?),
            faults: Faults::default(),
            regions: 1,
        };
        Ok(Self { cloud: SimCloud::new(config), folder: folder.join("machines") })
    }

    /// Where the machines' consoles are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Boots machine `number`, or orders it with a token of its own where there is none yet.
    pub(crate) async fn ensure(&self, global: &Global, number: u32) -> Result<()> {
        let name = format!("sim-{number}");
        let key: InstanceKey = name.parse()?;
        let listed = self.cloud.list().await?.instances;
        if let Some(known) = listed.iter().find(|instance| instance.key == key) {
            return self.cloud.boot(&known.provider_id).await.with_context(|| format!("cannot boot {name}"));
        }
        let grant = format!("1/{number}");
        let body = json!({ "label": name, "services": grant });
        let answer = ask_async(global, "POST", "/v1/tokens", Some(&body)).await?;
        let user_data = json!({
            "join_line": text(&answer, "join_line"),
            "name": name,
            "services": [{ "blueprint": 1, "service": number }],
        });
        let spec = InstanceSpec {
            key,
            // Nobody looks after these machines but this command.
            tags: None,
            plan: "sim-small".to_owned(),
            region: "local".to_owned(),
            spot: false,
            disk_gb: 0,
            arch: Arch::X86_64,
            ttl: None,
            user_data: Secret::new(user_data.to_string()),
        };
        self.cloud.create(&spec).await.with_context(|| format!("cannot create {name}"))?;
        Ok(())
    }

    /// Why a machine failed, where one did.
    pub(crate) async fn failed(&self) -> Option<String> {
        let instances = self.cloud.list().await.ok()?.instances;
        instances.into_iter().find_map(|instance| match instance.state {
            InstanceState::Failed { reason } => Some(format!("{}: {reason}", instance.key)),
            InstanceState::Starting
            | InstanceState::Running
            | InstanceState::Stopping
            | InstanceState::Stopped
            | InstanceState::Halted
            | InstanceState::Unfinished => None,
        })
    }

    /// Ends every machine.
    pub(crate) async fn stop_all(&self) {
        self.cloud.stop_all().await;
    }
}
