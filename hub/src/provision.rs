//! Starts the provisioner: which clouds there are, and what the rest of the hub does for it.

mod aws;
mod digitalocean;
mod host;
mod local_vm;
mod sim;
mod ssh;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::{Timestamp, fill_random};
use blueprint_hub_admin::HubFacts;
use blueprint_hub_provider_sim::SimCloud;
use blueprint_hub_provision::{Leader, ProvisionConfig, Provisioner};
use blueprint_hub_provision_core::Provider;
use blueprint_hub_provision_core::lifecycle::LifecycleStore;
use blueprint_hub_registry::{ControlPlane, RegistrarHandle};
use ipnetwork::Ipv4Network;

use self::host::HubHost;
use crate::agent_files::AgentShelf;
use crate::config::{ProviderSettings, ProvisionSettings};

/// The clouds of this hub, before anything is asked of them.
pub(crate) struct Clouds {
    store: Arc<dyn LifecycleStore>,
    settings: ProvisionSettings,
    sim: Option<Arc<SimCloud>>,
    /// Those that need nothing of the hub.
    made: Vec<Arc<dyn Provider>>,
    others: ProviderSettings,
    state: PathBuf,
    agents: Arc<AgentShelf>,
}

impl Clouds {
    /// Makes those that are configured.
    ///
    /// # Errors
    ///
    /// Where something is missing that one of them needs.
    pub(crate) fn new(
        settings: ProvisionSettings,
        providers: &ProviderSettings,
        overlay: Ipv4Network,
        store: Arc<dyn LifecycleStore>,
        state: &Path,
    ) -> Result<Self> {
        let sim = providers.sim.map(|faults| sim::make(faults, state)).transpose()?;
        let mut made: Vec<Arc<dyn Provider>> = Vec::new();
        if let Some(settings) = &providers.local_vm {
            made.push(local_vm::make(settings, &[overlay], state)?);
        }
        let agents = if providers.needs_agents() {
            let own = beside("blueprint-agent")?;
            AgentShelf::open(state, providers.agents.as_deref(), own.as_deref())?
        } else {
            AgentShelf::none(state)
        };
        let (others, state) = (providers.clone(), state.to_owned());
        Ok(Self { store, settings, sim, made, others, state, agents: Arc::new(agents) })
    }

    /// Agents that new machines fetch.
    pub(crate) fn agents(&self) -> Arc<AgentShelf> {
        Arc::clone(&self.agents)
    }

    /// Starts the task, which ends with the drain; machines of the simulated cloud end with it.
    ///
    /// # Errors
    ///
    /// Where the store cannot be read, or a cloud cannot be called.
    pub(crate) async fn start(
        self,
        facts: Arc<HubFacts>,
        (control, registrar): (ControlPlane, RegistrarHandle),
        metrics: &Metrics,
        spawner: &Spawner,
    ) -> Result<Provisioner> {
        let Self { store, settings, sim, made: mut providers, others, state, agents } = self;
        let mut seed = [0u8; 8];
        fill_random(&mut seed)?;
        let config = ProvisionConfig {
            hub: facts.id,
            settings: settings.lifecycle,
            every: settings.every,
            token_ttl: settings.token_ttl,
            limits: settings.limits,
            seed: u64::from_be_bytes(seed),
        };
        if let Some(sim) = &sim {
            providers.push(Arc::<SimCloud>::clone(sim));
        }
        if let Some(settings) = &others.digitalocean {
            providers.push(digitalocean::make(settings, facts.id, &state)?);
        }
        if let Some(settings) = &others.aws {
            providers.push(aws::make(settings, &state)?);
        }
        if let Some(settings) = &others.ssh {
            providers.push(ssh::make(settings, facts.id, &state));
        }
        let host = HubHost::new(facts, control, registrar, agents.digests(), settings.token_ttl);
        let host = Arc::new(host);
        let wall = Arc::new(|| Timestamp::from(SystemTime::now()));
        let (leader, provisioner) = Leader::new(config, store, host, providers, wall, metrics).await?;
        let drain = spawner.stop().drain;
        spawner.spawn("provisioner", async move {
            leader.run(drain).await;
            if let Some(sim) = sim {
                sim.stop_all().await;
            }
        });
        Ok(provisioner)
    }
}

/// A program in the folder of this one; `None` where it is not there.
fn beside(name: &str) -> Result<Option<PathBuf>> {
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    Ok(Some(own.with_file_name(name)).filter(|path| path.is_file()))
}
