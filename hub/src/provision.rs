//! Starts the provisioner: which clouds there are, and what the rest of the hub does for it.

mod digitalocean;
mod sim;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::{AgentId, JoinLine, JoinToken, Secret, ServiceKey, Timestamp, fill_random};
use blueprint_hub_admin::HubFacts;
use blueprint_hub_provider_sim::SimCloud;
use blueprint_hub_provision::{Host, Leader, ProvisionConfig, Provisioner};
use blueprint_hub_provision_core::Provider;
use blueprint_hub_provision_core::lifecycle::{LifecycleStore, Record};
use blueprint_hub_registry::{ControlPlane, RegistrarHandle};
use futures_util::future::{BoxFuture, FutureExt};
use serde_json::json;

use crate::config::{ProviderSettings, ProvisionSettings};

/// The clouds of this hub, before anything is asked of them.
pub(crate) struct Clouds {
    store: Arc<dyn LifecycleStore>,
    settings: ProvisionSettings,
    sim: Option<Arc<SimCloud>>,
    others: ProviderSettings,
    state: PathBuf,
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
        store: Arc<dyn LifecycleStore>,
        state: &Path,
    ) -> Result<Self> {
        let sim = providers.sim.map(|faults| sim::make(faults, state)).transpose()?;
        Ok(Self { store, settings, sim, others: providers.clone(), state: state.to_owned() })
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
        let Self { store, settings, sim, others, state } = self;
        let mut seed = [0u8; 8];
        fill_random(&mut seed)?;
        let config = ProvisionConfig {
            hub: facts.id,
            settings: settings.lifecycle,
            every: settings.every,
            token_ttl: settings.token_ttl,
            seed: u64::from_be_bytes(seed),
        };
        let mut providers: Vec<Arc<dyn Provider>> = Vec::new();
        if let Some(sim) = &sim {
            providers.push(Arc::<SimCloud>::clone(sim));
        }
        if let Some(settings) = &others.digitalocean {
            providers.push(digitalocean::make(settings, facts.id, &state)?);
        }
        let host = Arc::new(HubHost { facts, control, registrar });
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

/// The hub, as the provisioner needs it.
struct HubHost {
    facts: Arc<HubFacts>,
    control: ControlPlane,
    registrar: RegistrarHandle,
}

impl Host for HubHost {
    fn user_data(&self, record: &Record, service: Option<ServiceKey>, token: JoinToken) -> Secret<String> {
        let line = JoinLine {
            host: self.facts.advertise_host.clone(),
            port: self.facts.control_port,
            pin: self.facts.pin,
            token,
        };
        let services: Vec<_> =
            service.iter().map(|key| json!({ "blueprint": key.blueprint, "service": key.service })).collect();
        let document = json!({
            "join_line": line.expose_text().expose(),
            "name": record.key.as_str(),
            "services": services,
        });
        Secret::new(document.to_string())
    }

    fn agents(&self) -> BTreeMap<AgentId, bool> {
        let snapshot = self.registrar.snapshot();
        snapshot.agents.iter().map(|(id, view)| (*id, view.connected)).collect()
    }

    fn remove_agent(&self, agent: AgentId) -> BoxFuture<'_, Result<(), String>> {
        async move {
            if !self.registrar.snapshot().agents.contains_key(&agent) {
                return Ok(());
            }
            self.control.remove_agent(agent).await.map_err(|error| error.to_string())
        }
        .boxed()
    }
}
