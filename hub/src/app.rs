//! Puts the hub together: everything is bound and loaded before anything runs.

mod planes;
mod shared;
mod tunnel;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use blueprint_common_runtime::accept::{AcceptLimits, AcceptLoop};
use blueprint_common_runtime::local_api;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::state::StateDir;
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_tunnel::carrier::SharedSocket;
use blueprint_common_tunnel::{Engine, Tunnel};
use blueprint_common_tunnel_core::OverlayPrefixes;
use blueprint_common_types::Timestamp;
use blueprint_hub_admin::HubFacts;
use blueprint_hub_provision_core::lifecycle::LifecycleStore;
use blueprint_hub_provision_core::scaling::{ScaleStore, nodes_of};
use blueprint_hub_proxy::{Ledger, Pressure, Proxy, ProxyParts};
use blueprint_hub_registry::{
    Desk, Launchers, LaunchersHandle, QosMetrics, Registrar, RegistrarHandle, Workloads, WorkloadsHandle,
    samples,
};
use blueprint_hub_registry_core::qos::QosStore;
use blueprint_hub_registry_core::workload::{Replicas, WorkloadStore};
use blueprint_hub_registry_core::{AddressPool, Agent, JoinTokenRecord, Loaded, Registry, Store, TlsStore};
use blueprint_hub_store::SqliteStore;
use tokio::net::UnixListener;
use tracing::warn;

use self::shared::SharedPort;
use crate::artefacts::Artefacts;
use crate::blueprints::WorkloadKeys;
use crate::config::HubConfig;
use crate::files::{self, Identity};
use crate::memory::MemoryWatch;
use crate::policy::{self, PolicyHandle, PolicyTask};
use crate::ports::{ProxyTraffic, peer_of};
use crate::provision::Clouds;
use crate::qos::QosParts;
use crate::scrape::Scraper;
use crate::service_view::ServiceView;
use crate::stored_keys::StoredKeys;
use crate::tables::{self, TablesTask};
use crate::tls::{TlsOperator, TlsServices};
use crate::{audit, data_plane, proxy, qos, registry_metrics, stored_assertions, tls, usage};

/// Operators' connections over TCP.
const ADMIN_LIMITS: AcceptLimits = AcceptLimits { total: 256, per_ip: 256 };

/// Control connections: one per agent and a few for joins.
const CONTROL_LIMITS: AcceptLimits = AcceptLimits { total: 20_000, per_ip: 4096 };

/// A hub whose sockets are bound and whose tasks run.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) control: SocketAddr,
    pub(crate) tunnel: SocketAddr,
    pub(crate) proxy_url: String,
    pub(crate) proxy: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) facts: Arc<HubFacts>,
    /// Keeps the lock of the state folder for as long as the hub runs.
    _state: StateDir,
}

/// Every listening socket but the proxy's.
struct Sockets {
    control: AcceptLoop,
    control_also: Option<AcceptLoop>,
    /// Of the proxy, where agents may use it.
    shared: Option<SharedPort>,
    /// QUIC's side of the carriers' port, where that is open.
    quic: Option<Arc<SharedSocket>>,
    admin: Option<AcceptLoop>,
    metrics: Option<AcceptLoop>,
    admin_socket: UnixListener,
    registry_socket: UnixListener,
}

impl Sockets {
    async fn bind(config: &HubConfig, state: &StateDir) -> Result<Self> {
        let admin = match config.admin_listen {
            Some(address) => Some(AcceptLoop::bind("admin", address, ADMIN_LIMITS).await?),
            None => None,
        };
        let metrics = match config.metrics_listen {
            Some(address) => Some(AcceptLoop::bind("metrics", address, ADMIN_LIMITS).await?),
            None => None,
        };
        let control_also = match config.control.also {
            Some(address) => Some(AcceptLoop::bind("control", address, CONTROL_LIMITS).await?),
            None => None,
        };
        Ok(Self {
            control_also,
            shared: None,
            quic: None,
            control: AcceptLoop::bind("control", config.control.listen, CONTROL_LIMITS).await?,
            admin,
            metrics,
            admin_socket: local_api::bind_private(state.path(files::ADMIN_SOCKET)).await?,
            registry_socket: local_api::bind_private(state.path(files::REGISTRY_SOCKET)).await?,
        })
    }
}

/// What stands before anything runs: the keys, and the tunnel with its sockets and its network device.
#[derive(Debug)]
pub(crate) struct Ground {
    identity: Identity,
    prefixes: OverlayPrefixes,
    tunnel: Tunnel,
    engine: Engine,
}

impl Ground {
    /// Reads the keys and binds the tunnel. Starts no thread and takes no runtime.
    pub(crate) fn bind(config: &HubConfig, state: &StateDir) -> Result<Self> {
        let identity = files::load(state)?;
        let v6 = config.overlay_v6(identity.authority.hub());
        let prefixes = OverlayPrefixes { v4: config.overlay_v4, v6 };
        let bound = tunnel::bind(config, &identity, prefixes);
        let (tunnel, engine) = bound.context("cannot open the tunnel")?;
        Ok(Self { identity, prefixes, tunnel, engine })
    }
}

/// What the planes share, once it runs.
struct Base {
    store: Arc<dyn Store>,
    tls_store: Arc<dyn TlsStore>,
    workloads: WorkloadsHandle,
    artefacts: Arc<Artefacts>,
    launchers: LaunchersHandle,
    clouds: Clouds,
    epoch: u64,
    prefixes: OverlayPrefixes,
    tunnel: Tunnel,
    registrar: RegistrarHandle,
    policy: PolicyHandle,
    ledger: Ledger,
    /// Since when the ledger counts.
    usage_since: Timestamp,
    traffic: Arc<ProxyTraffic>,
    metrics: Arc<Metrics>,
    /// Answers about quality of service.
    qos: (Desk, QosMetrics),
}

/// Has the tunnel know every machine that joined.
async fn add_peers(tunnel: &Tunnel, agents: &[Agent]) -> Result<()> {
    for agent in agents {
        let added = tunnel.upsert_peer(peer_of(agent)).await;
        added.with_context(|| format!("node {} cannot be a peer", agent.name))?;
    }
    Ok(())
}

/// The nodes of services that have replicas, before any agent is heard: what they run goes on.
async fn replicas(store: &SqliteStore) -> Result<Replicas> {
    let records = store.load_lifecycle().await.context("cannot load the deployments")?;
    let all = store.scalings().await.context("cannot load the tiers of services")?;
    Ok(nodes_of(&all, &records))
}

impl Base {
    /// Loads the state, and starts tunnel and registrar; gives the keys back.
    async fn start(
        config: &HubConfig,
        ground: Ground,
        state: &StateDir,
        supervisor: &Supervisor,
    ) -> Result<(Self, Identity)> {
        let Ground { identity, prefixes, tunnel, engine } = ground;
        let opened = Arc::new(SqliteStore::open(state.folder())?);
        let tls_store: Arc<dyn TlsStore> = opened.clone();
        let (workload_store, qos_store): (Arc<dyn WorkloadStore>, Arc<dyn QosStore>) =
            (opened.clone(), opened.clone());
        let replicas = replicas(&opened).await?;
        let clouds = Clouds::new(
            (config.provision, config.alerts.clone(), config.prices.clone(), &config.identity),
            &config.providers,
            config.overlay_v4,
            opened.clone(),
            state.folder(),
        )?;
        let store: Arc<dyn Store> = opened.clone();
        let now = Timestamp::from(SystemTime::now());
        let epoch = store.epoch_next().await.context("cannot count this start")?;
        let (loaded, pool) = load(store.as_ref(), prefixes, now).await?;
        // The tunnel outlives the drain: open requests go through it.
        let stop = supervisor.stop().stop;
        spawn(supervisor, "tunnel", async move { engine.run(stop).await });
        add_peers(&tunnel, &loaded.agents).await?;
        let metrics = Arc::new(Metrics::new());
        data_plane::register_metrics(&metrics, tunnel.clone());
        let registry = Registry::restore(
            loaded.agents,
            loaded.targets,
            loaded.claims,
            loaded.index,
            now,
            config.target_ttl,
        );
        let qos_metrics = QosMetrics::new(&metrics);
        let samples = samples(&qos_metrics);
        let (task, registrar) = Registrar::new(registry, pool, Arc::clone(&store));
        registry_metrics::register(&metrics, registrar.clone());
        spawn(supervisor, "registrar", task.recorded(&samples).run(supervisor.stop().stop));
        let ledger = Ledger::default();
        let usage_since = usage::start(opened, &ledger, supervisor).await?;
        let traffic = Arc::new(ProxyTraffic::new(ledger.clone()));
        let rules = config.workloads.rules(config.provision.scaling.settings.drain);
        let (task, workloads) =
            Workloads::new(workload_store, registrar.clone(), rules, traffic.clone(), replicas).await?;
        task.register_metrics(&metrics);
        spawn(supervisor, "workloads", task.run(supervisor.stop().stop));
        let recorded = QosParts {
            hub: identity.authority.hub().to_string(),
            samples,
            store: qos_store,
            registrar: registrar.clone(),
            workloads: workloads.clone(),
            scraper: Scraper::new(tunnel.clone()),
        };
        let desk = qos::record(config, recorded, supervisor);
        let (task, launchers) = Launchers::new(workloads.clone());
        spawn(supervisor, "launchers", task.run(supervisor.stop().stop));
        let watch = data_plane::watch(tunnel.clone(), registrar.clone(), supervisor.stop().stop);
        spawn(supervisor, "data plane watch", watch);
        let (task, policy) = PolicyTask::new(Arc::clone(&store), registrar.clone(), tunnel.clone()).await;
        policy::register_metrics(&metrics, policy.clone());
        spawn(supervisor, "policy", task.run(supervisor.stop().stop));
        let base = Self {
            store,
            tls_store,
            workloads,
            artefacts: Arc::new(Artefacts::open(state.folder(), config.workloads.artefacts)?),
            launchers,
            clouds,
            epoch,
            prefixes,
            tunnel,
            registrar,
            policy,
            ledger,
            usage_since,
            traffic,
            metrics,
            qos: (desk, qos_metrics),
        };
        Ok((base, identity))
    }
}

impl App {
    /// Loads the state, binds every socket that is not yet, and starts the planes.
    pub(crate) async fn build(
        config: HubConfig,
        state: StateDir,
        ground: Ground,
        supervisor: &Supervisor,
    ) -> Result<Self> {
        let mut sockets = Sockets::bind(&config, &state).await?;
        let (base, identity) = Base::start(&config, ground, &state, supervisor).await?;
        let keys = files::proxy_keys(&state, &identity.authority.hub().to_string())?;
        let handshakes = tls::start(&config, &state, &base.metrics, supervisor)?;
        let services = Arc::new(TlsServices::new(
            Arc::clone(&base.tls_store),
            Arc::clone(&keys.sealing),
            &config.proxy_domain,
            &handshakes,
        ));
        let (task, tables_handle, trust) = TablesTask::new(
            Arc::clone(&base.store),
            base.registrar.clone(),
            Arc::clone(&keys.sealing),
            Arc::clone(&services),
        )
        .await?;
        base.traffic.follow(Arc::clone(&trust));
        spawn(supervisor, "proxy tables", task.run(supervisor.stop().stop));
        tables::register_metrics(&base.metrics, tables_handle.clone());
        let operator = Arc::new(TlsOperator::new(
            services,
            (tables_handle, Arc::clone(&trust)),
            handshakes.acme.clone(),
            supervisor,
        ));
        let stored = StoredKeys {
            store: Arc::clone(&base.store),
            tables: operator.tables().clone(),
            spawner: supervisor.child_spawner(),
        };
        let parts = ProxyParts {
            dialer: Arc::new(base.tunnel.clone()),
            trust: Arc::clone(&trust),
            keys: Arc::new(stored),
            assertions: stored_assertions::load(&base.store).await?,
            signer: Arc::clone(&keys.signer),
            operator: proxy::door(&identity, Arc::clone(&operator)),
        };
        let pressure = start_watches(&config, &base, supervisor);
        let handle = handshakes.handle.clone();
        let proxy = shared::bind_proxy(&config, handle.clone(), parts, pressure, &base, &mut sockets).await?;
        let services = ServiceView {
            trust,
            jwks_hosts: config.oauth.hosts.clone(),
            jwks: proxy.jwks(),
            ports: config.forwards.as_ref().map(|forwards| forwards.ports.clone()),
            forwards: proxy.forwards(),
        };
        operator.listens(&proxy)?;
        let keys = (WorkloadKeys::load(&state, keys.sealing)?, keys.signer);

        let control = sockets.control.local_addr()?;
        if config.control.on_proxy {
            sockets.shared = SharedPort::of(&proxy, handle, control)?;
        }
        let facts = Arc::new(facts(&config, &identity, &base, control, &proxy)?);
        let admin_address = sockets.admin.as_ref().map(AcceptLoop::local_addr).transpose()?;
        let app = Self {
            control,
            tunnel: base.tunnel.local_addr(),
            proxy_url: facts.proxy_url.clone(),
            proxy: proxy.local_addr()?,
            admin: admin_address,
            facts: Arc::clone(&facts),
            _state: state,
        };
        proxy::start(supervisor, proxy);
        Box::pin(planes::start(
            config,
            identity,
            base,
            sockets,
            facts,
            (operator, services, keys),
            supervisor,
        ))
        .await?;
        Ok(app)
    }
}

/// What this hub says of itself.
fn facts(
    config: &HubConfig,
    identity: &Identity,
    base: &Base,
    control: SocketAddr,
    proxy: &Proxy,
) -> Result<HubFacts> {
    Ok(HubFacts {
        version: env!("CARGO_PKG_VERSION"),
        id: identity.authority.hub(),
        pin: identity.authority.pin(),
        epoch: base.epoch,
        started_at: Timestamp::from(SystemTime::now()),
        usage_since: base.usage_since,
        advertise_host: config.advertise.clone().unwrap_or_else(files::guess_advertise),
        control_port: control.port(),
        tunnel: base.tunnel.local_addr(),
        proxy_url: proxy::url(proxy)?,
        proxy_listen: proxy.tls_addr()?.map_or_else(|| proxy.local_addr(), Ok)?,
        proxy_domain: config.proxy_domain.clone(),
        proxy_tls: config.proxy.tls.name(),
    })
}

/// Starts what looks after the proxy; gives what says whether the hub is short of memory.
fn start_watches(config: &HubConfig, base: &Base, supervisor: &Supervisor) -> Pressure {
    let pressure = Pressure::default();
    let watch = MemoryWatch::new(config.limits.memory, pressure.clone(), &base.metrics);
    spawn(supervisor, "memory watch", watch.run(supervisor.stop().stop));
    let refusals =
        audit::write_refusals(Arc::clone(&base.store), base.ledger.clone(), supervisor.stop().stop);
    spawn(supervisor, "audit of refusals", refusals);
    pressure
}

/// Spawns a task that the others need until the end.
pub(crate) fn spawn(
    supervisor: &Supervisor,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    supervisor.spawn_base(name, async move {
        task.await;
        Ok::<_, Infallible>(())
    });
}

/// What the store holds, and the pool of addresses that follows from it.
async fn load(store: &dyn Store, prefixes: OverlayPrefixes, now: Timestamp) -> Result<(Loaded, AddressPool)> {
    let loaded = store.load().await.context("cannot load the hub's state")?;
    let tokens = store.list_join_tokens().await.context("cannot load the join tokens")?;
    let pool = pool(prefixes, &loaded, &tokens, now)?;
    Ok((loaded, pool))
}

/// The pool with what nodes hold and what open tokens were promised.
fn pool(
    prefixes: OverlayPrefixes,
    loaded: &Loaded,
    tokens: &[JoinTokenRecord],
    now: Timestamp,
) -> Result<AddressPool> {
    let mut pool =
        AddressPool::new(prefixes.v4, prefixes.v6).context("the overlay's prefixes cannot be used")?;
    for agent in &loaded.agents {
        anyhow::ensure!(
            pool.mark(agent.lease),
            "node {} has the address {}, which is not free in {}: tunnel.overlay_v4 must not change once machines have joined",
            agent.name,
            agent.lease.v4,
            prefixes.v4,
        );
    }
    for token in tokens.iter().filter(|token| token.uses_left > 0 && token.expires_at > now) {
        let kept = token.address.map(|address| pool.promise(address, token.id, token.expires_at, now));
        if let Some(Err(error)) = kept {
            // Its machine gets another address, or none: that is seen, and no reason not to start.
            warn!(token = %token.id, %error, "the address of a join token cannot be kept");
        }
    }
    Ok(pool)
}
