//! The stages in their order, and the result.

use std::path::Path;

use anyhow::{Context, Result, bail};
use blueprint_common_runtime::cli::eprint_line;
use blueprint_common_runtime::tasks::Spawner;
use tempfile::TempDir;

use crate::cli::{Measure, Stage};
use crate::host::Host;
use crate::hub::Hub;
use crate::process::program;
use crate::report::{self, Figure};
use crate::spoke::Spoke;
use crate::{core, dev, footprint, idle, join, netstack, orders, path, peers, slow, udp, workloads};

/// Those that leave the machine busiest come last.
const ORDER: [Stage; 12] = [
    Stage::Udp,
    Stage::Dev,
    Stage::Join,
    Stage::Agent,
    Stage::Path,
    Stage::Slow,
    Stage::Workloads,
    Stage::Orders,
    Stage::Idle,
    Stage::Handshake,
    Stage::Netstack,
    Stage::Peers,
];

/// Those that need no other program.
const CORE_ONLY: [Stage; 3] = [Stage::Udp, Stage::Handshake, Stage::Netstack];

/// Measures what is wanted, and prints it.
///
/// # Errors
///
/// Fails where a stage does, and with `--check` where a figure is beyond its limit.
pub(crate) async fn run(wanted: &Measure, spawner: &Spawner) -> Result<()> {
    let is_core_only = ORDER.iter().all(|stage| !wanted.wants(*stage) || CORE_ONLY.contains(stage));
    if !is_core_only {
        for name in ["blueprint-hub", "blueprint-agent", "blueprint-example-service"] {
            program(name)?;
        }
    }
    let mut figures = Vec::new();
    for stage in ORDER {
        if !wanted.wants(stage) {
            continue;
        }
        eprint_line(&format!("measuring: {stage:?} ..."));
        let measured = Box::pin(measure(stage, wanted, spawner)).await;
        figures.extend(measured.with_context(|| format!("stage {stage:?}"))?);
    }
    report::print(&Host::ask(), &figures, wanted.output);
    let exceeded = report::exceeded(&figures);
    if wanted.check && !exceeded.is_empty() {
        bail!("beyond the limit: {}", exceeded.join(", "));
    }
    Ok(())
}

async fn measure(stage: Stage, wanted: &Measure, spawner: &Spawner) -> Result<Vec<Figure>> {
    let folder = scratch()?;
    match stage {
        Stage::Udp => udp::measure().await,
        Stage::Dev => dev::measure(wanted.starts, folder.path(), spawner).await,
        Stage::Join => {
            let hub = Hub::start(folder.path()).await?;
            let figures = join::measure(&hub, wanted.joins, spawner).await?;
            hub.end().await?;
            Ok(figures)
        }
        Stage::Agent => {
            let (hub, spoke) = start(folder.path()).await?;
            let figures = footprint::measure(&spoke).await?;
            end(hub, spoke).await?;
            Ok(figures)
        }
        Stage::Path => {
            let (hub, spoke) = start(folder.path()).await?;
            let figures = path::measure(&hub, &spoke, spawner).await?;
            end(hub, spoke).await?;
            Ok(figures)
        }
        Stage::Slow => {
            let (hub, spoke) = start(folder.path()).await?;
            let figures = slow::measure(&hub, wanted.slow, folder.path(), spawner).await?;
            end(hub, spoke).await?;
            Ok(figures)
        }
        Stage::Workloads => workloads::measure(folder.path(), spawner).await,
        Stage::Orders => {
            let placed = tokio::task::spawn_blocking(orders::placement).await??;
            Ok([placed, orders::overhead(folder.path()).await?].concat())
        }
        Stage::Idle => {
            let hub = Hub::start(folder.path()).await?;
            let figures = idle::measure(&hub, wanted.agents, wanted.idle_secs, folder.path()).await?;
            hub.end().await?;
            Ok(figures)
        }
        Stage::Handshake => {
            let cores = || Ok([core::handshakes()?, core::lookups()?].concat());
            tokio::task::spawn_blocking(cores).await?
        }
        Stage::Netstack => netstack::measure(folder.path()).await,
        Stage::Peers => {
            let mut figures = peers::measure(wanted.peers, folder.path()).await?;
            figures.extend(peers::joined(wanted.peers, folder.path(), spawner).await?);
            Ok(figures)
        }
    }
}

async fn start(folder: &Path) -> Result<(Hub, Spoke)> {
    let hub = Hub::start(folder).await?;
    let spoke = Spoke::start(&hub, folder).await?;
    Ok((hub, spoke))
}

async fn end(hub: Hub, spoke: Spoke) -> Result<()> {
    spoke.end().await?;
    hub.end().await
}

/// A folder that is removed when dropped.
fn scratch() -> Result<TempDir> {
    tempfile::Builder::new().prefix("blueprint-bench-").tempdir().context("cannot make a temporary folder")
}
