//! Starts the provisioner: which clouds there are, and what the rest of the hub does for it.

mod aws;
mod azure;
mod digitalocean;
mod docker;
mod external;
mod gcp;
mod hivelocity;
mod host;
mod local_vm;
mod meter;
mod prices;
mod rest_clouds;
mod scaleway;
mod sim;
mod ssh;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::Tunnel;
use blueprint_common_types::{HubId, Timestamp, fill_random};
use blueprint_hub_admin::HubFacts;
use blueprint_hub_provider_sim::SimCloud;
use blueprint_hub_provision::{
    CostOffice, Leader, PriceOffice, ProvisionConfig, Provisioner, Received, ScaleConfig, ScaleOffice,
    cost_watch, scale_watch,
};
use blueprint_hub_provision_core::{CredentialStore, Provider};
use blueprint_hub_proxy::Ledger;
use blueprint_hub_proxy_core::identity::SealingKey;
use blueprint_hub_registry::{ControlPlane, RegistrarHandle, WorkloadsHandle};
use blueprint_hub_store::SqliteStore;
use ipnetwork::Ipv4Network;

use self::host::HubHost;
use self::meter::HubMeter;
use crate::accounts::{Accounts, Entry, Vault};
use crate::agent_files::AgentShelf;
use crate::config::{AlertSettings, IdentitySettings, PriceConfig, ProviderSettings, ProvisionSettings};
use crate::identities::OrderedMachines;
use crate::webhook::WebhookCourier;

/// What the operator's side asks.
#[derive(Clone)]
pub(crate) struct Provision {
    /// Orders machines.
    pub(crate) orders: Provisioner,
    /// Alerts, and what machines sent.
    pub(crate) costs: CostOffice,
    /// Tiers of services, and their replicas.
    pub(crate) scaling: ScaleOffice,
    /// Price lists of providers.
    pub(crate) prices: PriceOffice,
    /// Accounts at clouds, and their credentials.
    pub(crate) accounts: Arc<Accounts>,
}

/// The clouds of this hub, before anything is asked of them.
pub(crate) struct Clouds {
    store: Arc<SqliteStore>,
    settings: ProvisionSettings,
    alerts: AlertSettings,
    prices: PriceConfig,
    sim: Option<Arc<SimCloud>>,
    /// Those that need nothing of the hub.
    made: Vec<Arc<dyn Provider>>,
    others: ProviderSettings,
    state: PathBuf,
    agents: Arc<AgentShelf>,
    ordered: Arc<OrderedMachines>,
}

impl Clouds {
    /// Makes those that are configured.
    ///
    /// # Errors
    ///
    /// Where something is missing that one of them needs.
    pub(crate) fn new(
        (settings, alerts, prices, identity): (
            ProvisionSettings,
            AlertSettings,
            PriceConfig,
            &IdentitySettings,
        ),
        providers: &ProviderSettings,
        overlay: Ipv4Network,
        store: Arc<SqliteStore>,
        state: &Path,
    ) -> Result<Self> {
        let sim = providers.sim.map(|faults| sim::make(faults, providers.sim_regions, state)).transpose()?;
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
        let ordered = Arc::new(OrderedMachines::new(identity, providers)?);
        let (others, state, agents) = (providers.clone(), state.to_owned(), Arc::new(agents));
        Ok(Self { store, settings, alerts, prices, sim, made, others, state, agents, ordered })
    }

    /// How ordered machines join, and how their clouds name them.
    pub(crate) fn ordered(&self) -> Arc<OrderedMachines> {
        Arc::clone(&self.ordered)
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
        (control, (registrar, ledger, workloads), tunnel, sealing): (
            ControlPlane,
            (RegistrarHandle, Ledger, WorkloadsHandle),
            Tunnel,
            Arc<SealingKey>,
        ),
        metrics: &Metrics,
        spawner: &Spawner,
    ) -> Result<Provision> {
        let Self {
            store,
            settings,
            alerts,
            prices,
            sim,
            made: mut providers,
            others,
            state,
            agents,
            ordered,
        } = self;
        let credentials: Arc<dyn CredentialStore> = Arc::<SqliteStore>::clone(&store);
        let vault = Vault::open(credentials, Arc::clone(&sealing)).await?;
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
        let (clouds, entries) = with_accounts((&others, &prices), facts.id, &vault, &state)?;
        providers.extend(clouds);
        if let Some(settings) = &others.ssh {
            providers.push(ssh::make(settings, facts.id, &state));
        }
        providers.extend(docker::make(&others, facts.id, &agents, &state)?);
        providers.extend(external::start(&others.external, facts.id, spawner)?);
        ordered.ask(&providers);
        let accounts =
            Accounts::new(facts.id, vault, entries, others.without_account()).with_plain(&providers);
        let courier = Arc::new(WebhookCourier::new(&alerts, sealing, facts.id)?);
        let received = received(registrar.clone(), tunnel);
        let meter = HubMeter::new(registrar.clone(), ledger, workloads);
        let host = HubHost::new(facts, control, registrar, (agents.digests(), ordered), settings.token_ttl);
        let host = host.allowing_unlimited(settings.allow_unlimited);
        let host = Arc::new(host);
        let wall = Arc::new(|| Timestamp::from(SystemTime::now()));
        let (leader, provisioner) =
            Leader::new(config, store.clone(), host, providers, wall, metrics).await?;
        let drain = spawner.stop().drain;
        spawner.spawn("provisioner", async move {
            leader.run(drain).await;
            if let Some(sim) = sim {
                sim.stop_all().await;
            }
        });
        let prices = prices::open(&prices, &others, store.clone(), provisioner.clone(), spawner).await?;
        prices.register(metrics);
        let scaling =
            start_scaling(settings.scaling, store.clone(), provisioner.clone(), meter, metrics, spawner);
        let (watch, office) =
            cost_watch(alerts.every, store, provisioner.clone(), courier, received, metrics);
        spawner.spawn("cost watch", watch.run(spawner.stop().drain));
        Ok(Provision { orders: provisioner, costs: office, scaling, prices, accounts: Arc::new(accounts) })
    }
}

/// The clouds that have accounts: those that are switched on, and the accounts of all.
type WithAccounts = (Vec<Arc<dyn Provider>>, Vec<Entry>);

/// Makes the clouds that have accounts; one line for each of them.
fn with_accounts(
    (settings, prices): (&ProviderSettings, &PriceConfig),
    hub: HubId,
    vault: &Arc<Vault>,
    state: &Path,
) -> Result<WithAccounts> {
    let made = [
        digitalocean::make(settings.digitalocean.as_ref(), hub, vault, state)?,
        aws::make(settings.aws.as_ref(), hub, vault, state)?,
        gcp::make(settings.gcp.as_ref(), hub, vault, state)?,
        azure::make(settings.azure.as_ref(), hub, (vault, prices), state)?,
        rest_clouds::linode(settings.linode.as_ref(), hub, vault, state)?,
        rest_clouds::vultr(settings.vultr.as_ref(), hub, vault, state)?,
        scaleway::make(settings.scaleway.as_ref(), hub, vault, state)?,
        hivelocity::make(settings.hivelocity.as_ref(), hub, vault, state)?,
    ];
    let (clouds, entries): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    Ok((clouds.into_iter().flatten().collect(), entries))
}

/// Starts what looks after services with a tier.
fn start_scaling(
    config: ScaleConfig,
    store: Arc<SqliteStore>,
    provisioner: Provisioner,
    meter: HubMeter,
    metrics: &Metrics,
    spawner: &Spawner,
) -> ScaleOffice {
    let (watch, office) = scale_watch(config, store, provisioner, Arc::new(meter), metrics);
    spawner.spawn("scaling", watch.run(spawner.stop().drain));
    office
}

/// Bytes that arrived from each agent, as its tunnel counts them.
fn received(registrar: RegistrarHandle, tunnel: Tunnel) -> Received {
    Arc::new(move || {
        let (registry, tunnel) = (registrar.snapshot(), tunnel.snapshot());
        let agents = registry.agents.iter();
        agents
            .filter_map(|(id, view)| Some((*id, tunnel.peers.get(&view.agent.wireguard_key)?.rx_bytes)))
            .collect()
    })
}

/// A program in the folder of this one; `None` where it is not there.
fn beside(name: &str) -> Result<Option<PathBuf>> {
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    Ok(Some(own.with_file_name(name)).filter(|path| path.is_file()))
}
