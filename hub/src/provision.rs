//! Starts the provisioner: which clouds there are, and what the rest of the hub does for it.

mod aws;
mod digitalocean;
mod host;
mod local_vm;
mod sim;

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
use blueprint_hub_provision_core::lifecycle::LifecycleStore;
use blueprint_hub_provision_core::{CredentialStore, Provider};
use blueprint_hub_proxy_core::identity::SealingKey;
use blueprint_hub_registry::{ControlPlane, RegistrarHandle};
use ipnetwork::Ipv4Network;

use self::host::HubHost;
use crate::accounts::{Accounts, Vault};
use crate::agent_files::AgentShelf;
use crate::config::{ProviderSettings, ProvisionSettings};

/// The clouds of this hub, before anything is asked of them.
pub(crate) struct Clouds {
    store: Arc<dyn LifecycleStore>,
    credentials: Arc<dyn CredentialStore>,
    settings: ProvisionSettings,
    sim: Option<Arc<SimCloud>>,
    /// Those that need nothing of the hub.
    made: Vec<Arc<dyn Provider>>,
    others: ProviderSettings,
    state: PathBuf,
    agents: Arc<AgentShelf>,
}

/// What the operator's side has of them.
#[derive(Clone)]
pub(crate) struct StartedClouds {
    pub(crate) provisioner: Provisioner,
    pub(crate) accounts: Arc<Accounts>,
}

impl Clouds {
    /// Makes those that are configured.
    ///
    /// # Errors
    ///
    /// Where something is missing that one of them needs.
    pub(crate) fn new<S: LifecycleStore + CredentialStore + 'static>(
        settings: ProvisionSettings,
        providers: &ProviderSettings,
        overlay: Ipv4Network,
        store: Arc<S>,
        state: &Path,
    ) -> Result<Self> {
        let credentials: Arc<dyn CredentialStore> = Arc::<S>::clone(&store);
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
        Ok(Self { store, credentials, settings, sim, made, others, state, agents: Arc::new(agents) })
    }

    /// Agents that new machines fetch.
    pub(crate) fn agents(&self) -> Arc<AgentShelf> {
        Arc::clone(&self.agents)
    }

    /// Starts the task, which ends with the drain; machines of the simulated cloud end with it. Gives the accounts, too, whose
    /// credentials are opened with `sealing`.
    ///
    /// # Errors
    ///
    /// Where the store cannot be read, or a cloud cannot be called.
    pub(crate) async fn start(
        self,
        facts: Arc<HubFacts>,
        (control, registrar, sealing): (ControlPlane, RegistrarHandle, Arc<SealingKey>),
        metrics: &Metrics,
        spawner: &Spawner,
    ) -> Result<StartedClouds> {
        let vault = Vault::open(Arc::clone(&self.credentials), sealing).await?;
        let Self { store, settings, sim, made: mut providers, others, state, agents, .. } = self;
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
        let (cloud, on_digitalocean) =
            digitalocean::make(others.digitalocean.as_ref(), facts.id, &vault, &state)?;
        providers.extend(cloud);
        let (cloud, on_aws) = aws::make(others.aws.as_ref(), facts.id, &vault, &state)?;
        providers.extend(cloud);
        let accounts =
            Accounts::new(facts.id, vault, vec![on_digitalocean, on_aws], others.without_account());
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
        Ok(StartedClouds { provisioner, accounts: Arc::new(accounts) })
    }
}

/// A program in the folder of this one; `None` where it is not there.
fn beside(name: &str) -> Result<Option<PathBuf>> {
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    Ok(Some(own.with_file_name(name)).filter(|path| path.is_file()))
}
