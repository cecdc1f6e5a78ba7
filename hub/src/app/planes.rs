//! The control plane and the operator's sides: what runs once everything is bound.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use blueprint_common_runtime::accept::AcceptLoop;
use blueprint_common_runtime::local_api;
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_tunnel::carrier::{QuicLimits, SharedSocket};
use blueprint_common_types::Timestamp;
use blueprint_hub_admin::{
    AdminState, HubFacts, OperatorToken, Sessions, metrics_router, private_router, public_router,
};
use blueprint_hub_proxy::Ledger;
use blueprint_hub_proxy_core::identity::IdentitySigner;
use blueprint_hub_registry::{
    Blueprints, ControlConfig, ControlPlane, LauncherParts, PushedFiles, RegistrarHandle, WorkloadsHandle,
    serve_operator,
};
use blueprint_hub_registry_core::{AuditEvent, AuditKind, Store};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tracing::error;

use super::shared::SharedPort;
use super::{Base, Sockets, tunnel};
use crate::artefacts::Artefacts;
use crate::blueprints::{BlueprintPort, WorkloadKeys};
use crate::config::HubConfig;
use crate::files::{self, Identity};
use crate::overlay::TunnelOverlay;
use crate::ports::{AdminHub, TunnelPeers};
use crate::scrape::Scraper;
use crate::service_view::ServiceView;
use crate::tls::TlsOperator;
use crate::{discovery, identities, qos};

/// Keys of workloads, and what signs reports.
type Keys = (WorkloadKeys, Arc<IdentitySigner>);

/// Starts the control plane and the two operator's sides.
pub(super) async fn start(
    config: HubConfig,
    identity: Identity,
    base: Base,
    sockets: Sockets,
    facts: Arc<HubFacts>,
    (tls, services, (workload_keys, signer)): (Arc<TlsOperator>, ServiceView, Keys),
    supervisor: &Supervisor,
) -> Result<()> {
    let tokens = tokens(&identity);
    let sealing = workload_keys.sealing();
    let (store, tables) = (Arc::clone(&base.store), Arc::clone(&tls));
    let blueprints = Arc::new(BlueprintPort { keys: workload_keys, store, tls: tables });
    let pushed: Arc<dyn PushedFiles> = Arc::<Artefacts>::clone(&base.artefacts);
    let control = ControlPlane::new(
        ControlConfig {
            workloads: base.workloads.clone(),
            blueprints: Arc::<BlueprintPort>::clone(&blueprints),
            launchers: base.launchers.clone(),
            artefacts: pushed,
            agent_files: base.clouds.agents(),
            rpc_port: config.rpc_port,
            rpc_idle: config.rpc_idle,
            facts: tunnel::facts(&config, &identity, &base, &sockets)?,
            identities: identities::start(&config.identity, facts.pin, &base.clouds, supervisor)?,
            authority: identity.authority,
            store: Arc::clone(&base.store),
            registrar: base.registrar.clone(),
            peers: Arc::new(TunnelPeers(base.tunnel.clone())),
            tunnel: base.tunnel.clone(),
            certificate_ttl: config.certificate_ttl,
            target_ttl: config.target_ttl,
            heartbeat: config.heartbeat,
        },
        &base.metrics,
        supervisor.child_spawner(),
    )?;
    SharedPort::lead(sockets.shared.as_ref(), &control);
    let launcher = launcher_parts(&base, Arc::<BlueprintPort>::clone(&blueprints), &control);
    control.start_rpc(&base.tunnel).await.context(
        "cannot serve the RPC of workloads inside the tunnel; give tunnel.rpc_port another port, or off",
    )?;
    let known = (base.registrar.clone(), base.tunnel.clone());
    Box::pin(discovery::start(&config.discovery, base.prefixes, known, &base.metrics, supervisor)).await?;
    start_inside(&config, &control, &base, sockets.quic, supervisor).await?;
    let planes = (control.clone(), scaled_by(&base), base.tunnel.clone(), sealing);
    let spawner = supervisor.child_spawner();
    let clouds = Box::pin(base.clouds.start(Arc::clone(&facts), planes, &base.metrics, &spawner)).await?;
    let lists = clouds.prices.watch();
    let hub = AdminHub {
        provision: clouds,
        scraper: Scraper::new(base.tunnel.clone()),
        overlay: TunnelOverlay(base.tunnel.clone()),
        tunnel: base.tunnel,
        registrar: base.registrar.clone(),
        control: control.clone(),
        tables: tls.tables().clone(),
        policy: base.policy,
        ledger: base.ledger,
        services,
        tls,
        workloads: base.workloads,
        blueprints,
        artefacts: base.artefacts,
        quality: (base.qos.0.clone(), signer),
    };
    let (store, metrics) = (Arc::clone(&base.store), Arc::clone(&base.metrics));
    let state = AdminState {
        market: config.prices.market(&config.providers, &facts.advertise_host, lists),
        facts,
        hub: Arc::new(hub),
        store,
        sessions: Sessions::new(config.sessions, &metrics),
        metrics: base.metrics,
        spawner,
    };
    start_control(supervisor, control, sockets.control, sockets.control_also);
    start_admin(supervisor, state, sockets.admin_socket, [sockets.admin, sockets.metrics], tokens);
    let (socket, spawner) = (sockets.registry_socket, supervisor.child_spawner());
    supervisor.spawn_essential("operator grpc", async move {
        serve_operator(socket, base.registrar, (launcher, Some(base.qos.0)), &metrics, spawner).await
    });
    audit_life(supervisor, base.store, base.epoch).await;
    Ok(())
}

/// Lets machines in, at one or two ports.
fn start_control(
    supervisor: &Supervisor,
    control: ControlPlane,
    listener: AcceptLoop,
    also: Option<AcceptLoop>,
) {
    if let Some(also) = also {
        supervisor.spawn_essential("control also", control.clone().run(also));
    }
    supervisor.spawn_essential("control", control.run(listener));
}

/// What scaling reads, and what it acts on.
fn scaled_by(base: &Base) -> (RegistrarHandle, Ledger, WorkloadsHandle) {
    (base.registrar.clone(), base.ledger.clone(), base.workloads.clone())
}

/// What launchers need of the rest.
fn launcher_parts(base: &Base, blueprints: Arc<dyn Blueprints>, control: &ControlPlane) -> LauncherParts {
    LauncherParts {
        workloads: base.workloads.clone(),
        launchers: base.launchers.clone(),
        blueprints,
        reach: Arc::new(base.tunnel.clone()),
        logs: Arc::new(control.clone()),
    }
}

/// What opens the TCP ports: all of the JSON API, and what scrapers read.
fn tokens(identity: &Identity) -> [OperatorToken; 2] {
    [
        OperatorToken::new(identity.admin_token.expose(), files::ADMIN_TOKEN),
        OperatorToken::new(identity.metrics_token.expose(), files::METRICS_TOKEN),
    ]
}

/// Serves quality of service, and the QUIC carrier.
async fn start_inside(
    config: &HubConfig,
    control: &ControlPlane,
    base: &Base,
    quic: Option<Arc<SharedSocket>>,
    supervisor: &Supervisor,
) -> Result<()> {
    qos::serve(config, &base.tunnel, base.qos.clone(), supervisor).await?;
    if let Some(socket) = quic {
        control.start_quic(socket, QuicLimits::default(), &base.metrics)?;
    }
    Ok(())
}

/// Serves the JSON API on the socket, and on two TCP ports what their tokens open: all of it, and what scrapers read.
fn start_admin(
    supervisor: &Supervisor,
    state: AdminState,
    socket: UnixListener,
    ports: [Option<AcceptLoop>; 2],
    [operator, scraper]: [OperatorToken; 2],
) {
    let drain = supervisor.stop().drain;
    let private = private_router(state.clone());
    supervisor.spawn_essential(
        "admin socket",
        local_api::serve(
            socket,
            move || TowerToHyperService::new(private.clone()),
            supervisor.child_spawner(),
            drain.clone(),
        ),
    );
    let routers = [public_router(state.clone(), operator), metrics_router(state, scraper)];
    for ((port, router), name) in ports.into_iter().zip(routers).zip(["admin port", "metrics port"]) {
        let Some(port) = port else { continue };
        let ended = drain.clone();
        supervisor.spawn_essential(
            name,
            port.run(supervisor.child_spawner(), drain.clone(), move |stream, _| {
                local_api::serve_connection(stream, TowerToHyperService::new(router.clone()), ended.clone())
            }),
        );
    }
}

/// One audit row for the start, and one for an orderly stop.
async fn audit_life(supervisor: &Supervisor, store: Arc<dyn Store>, epoch: u64) {
    let row = move |kind| {
        AuditEvent::new(kind, "hub", format!("version {}, epoch {epoch}", env!("CARGO_PKG_VERSION")))
    };
    if let Err(error) = store.audit(row(AuditKind::HubStart), Timestamp::from(SystemTime::now())).await {
        error!(%error, "audit row not stored");
    }
    let drain = supervisor.stop().drain;
    supervisor.child_spawner().spawn("audit stop", async move {
        drain.cancelled().await;
        let written = store.audit(row(AuditKind::HubStop), Timestamp::from(SystemTime::now()));
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), written).await {
            error!(%error, "audit row not stored");
        }
    });
}
