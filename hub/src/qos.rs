//! Quality of service, put to the registry, the store and the tunnel.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Context, Result};
use blueprint_common_runtime::http_get::Page;
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_tunnel::Tunnel;
use blueprint_common_types::OverlayLease;
use blueprint_hub_registry::{
    Desk, DeskParts, PageWatch, QosMetrics, QosPages, Recorder, RecorderParts, RegistrarHandle, Samples,
    WorkloadsHandle, serve_local, serve_overlay,
};
use blueprint_hub_registry_core::qos::QosStore;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::net::TcpListener;
use tracing::info;

use crate::app::spawn;
use crate::config::HubConfig;
use crate::scrape::Scraper;

impl QosPages for Scraper {
    fn page(&self, lease: OverlayLease, path: String) -> BoxFuture<'_, Result<Page, String>> {
        async move { self.page(lease, &path).await.map_err(|failed| failed.to_string()) }.boxed()
    }
}

/// What is there before anything runs.
pub(crate) struct QosParts {
    /// The hub's identity, in text.
    pub(crate) hub: String,
    pub(crate) samples: Samples,
    pub(crate) store: Arc<dyn QosStore>,
    pub(crate) registrar: RegistrarHandle,
    pub(crate) workloads: WorkloadsHandle,
    pub(crate) scraper: Scraper,
}

/// Starts what records; gives what answers.
pub(crate) fn record(config: &HubConfig, parts: QosParts, supervisor: &Supervisor) -> Desk {
    let QosParts { hub, samples, store, registrar, workloads, scraper } = parts;
    let recorder = RecorderParts {
        registrar: registrar.clone(),
        workloads: workloads.clone(),
        store: Arc::clone(&store),
        keep: config.qos.keep,
        write_every: config.qos.write_every,
        patience: config.target_ttl,
    };
    let recorder = Recorder::new(recorder, samples);
    let (samples, minutes) = (config.qos.keep.samples, config.qos.keep.minutes);
    let desk = DeskParts { hub, registrar, workloads, store, pages: Arc::new(scraper), samples, minutes };
    let desk = Desk::new(desk, &recorder);
    spawn(supervisor, "quality of service recorder", recorder.run(supervisor.stop()));
    if let Some(every) = config.qos.metrics_every {
        let watch = PageWatch::new(desk.clone(), every);
        spawn(supervisor, "metrics of services", watch.run(supervisor.stop().stop));
    }
    desk
}

/// Opens the ports where it is asked for.
pub(crate) async fn serve(
    config: &HubConfig,
    tunnel: &Tunnel,
    (desk, metrics): (Desk, QosMetrics),
    supervisor: &Supervisor,
) -> Result<()> {
    if let Some(port) = config.qos.port {
        let served = serve_overlay(tunnel, port, desk.clone(), metrics, supervisor.child_spawner()).await;
        served.with_context(|| {
            format!("cannot serve quality of service at port {port} inside the tunnel; give qos.port another, or off")
        })?;
    }
    if let Some(address) = config.qos.listen {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot serve quality of service at {address}; give qos.listen another, or off")
        })?;
        info!(address = %listener.local_addr()?, "quality of service for programs of this machine");
        let served = serve_local(listener, desk, supervisor.child_spawner());
        spawn(supervisor, "local quality of service", async move {
            let ended: Result<(), Infallible> = served.await;
            ended.unwrap_or(())
        });
    }
    Ok(())
}
