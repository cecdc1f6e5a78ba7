//! A hub with many idle agents: memory for each of them, and processor time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::hub::{Hub, SOON};
use crate::process::{Running, Usage};
use crate::report::Figure;
use crate::stats::float;

/// How long a hub without agents is watched.
const EMPTY: Duration = Duration::from_secs(5);

/// Longest wait until all agents have joined and echo.
const UP: Duration = Duration::from_secs(90);

/// Memory that an idle agent may take at the hub (issue 2, "How it is judged"), in KiB.
const KIB_PER_AGENT: f64 = 64.0;

/// Measures the hub without agents, and with `count` of them after `idle_secs` seconds.
///
/// # Errors
///
/// Fails where not all agents come up and stay up.
pub(crate) async fn measure(hub: &Hub, count: u32, idle_secs: u64, folder: &Path) -> Result<Vec<Figure>> {
    let idle = Duration::from_secs(idle_secs);
    let line = hub.join_line(count).await?;
    let (empty_busy, _) = watch(EMPTY, || hub.usage()).await?;
    let before = hub.usage()?;

    let own = std::env::current_exe().context("cannot find this program's own path")?;
    let mut swarm = Running::start(&own, folder, ["swarm", "--count", &count.to_string()])?;
    let stdin = swarm.stdin.as_mut().context("the swarm has no standard input")?;
    stdin.write_all(format!("{}\n", line.expose_text().expose()).as_bytes()).await?;
    let up = swarm.next_json(UP).await?;
    let all = Value::from(count);
    let are_up = |status: &Value| status.pointer("/nodes/data_plane_up") == Some(&all);
    hub.wait("the hub to see all agents", SOON, are_up).await?;

    let swarm_before = swarm.usage()?;
    let (busy, after) = watch(idle, || hub.usage()).await?;
    let swarm_after = swarm.usage()?;
    ensure!(are_up(&hub.wait("the hub's status", SOON, |_| true).await?), "not all agents are up any more");
    swarm.end(Signal::SIGTERM).await?;

    let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
    let secs = |pointer: &str| up.pointer(pointer).and_then(Value::as_f64).unwrap_or_default();
    let share = |before: Usage, after: Usage| {
        after.processor.saturating_sub(before.processor).as_secs_f64() / idle.as_secs_f64() * 100.0
    };
    Ok(vec![
        Figure::once("idle.agents", "agents", f64::from(count)),
        Figure::once("idle.all_up_after", "s", secs("/ready_secs")),
        Figure::once("idle.hub_resident_without", "MiB", mib(before.resident_bytes)),
        Figure::once("idle.hub_resident_with", "MiB", mib(after.resident_bytes)),
        Figure::once("idle.hub_memory_per_agent", "KiB", float(grown) / 1024.0 / f64::from(count))
            .at_most(KIB_PER_AGENT),
        Figure::once("idle.hub_cpu_without", "% of a core", empty_busy),
        Figure::once("idle.hub_cpu_with", "% of a core", busy),
        Figure::once("idle.agents_cpu", "% of a core", share(swarm_before, swarm_after)),
        Figure::once(
            "idle.agents_resident_each",
            "KiB",
            float(swarm_after.resident_bytes) / 1024.0 / f64::from(count),
        ),
    ])
}

/// Waits; gives the share of a core in percent that was used meanwhile, and the usage at the end.
async fn watch(span: Duration, usage: impl Fn() -> Result<Usage>) -> Result<(f64, Usage)> {
    let before = usage()?;
    sleep(span).await;
    let after = usage()?;
    let used = after.processor.saturating_sub(before.processor);
    Ok((used.as_secs_f64() / span.as_secs_f64() * 100.0, after))
}

fn mib(bytes: u64) -> f64 {
    float(bytes) / f64::from(1u32 << 20)
}
