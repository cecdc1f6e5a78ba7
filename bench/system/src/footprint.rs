//! Size of the agent's program, and memory of an agent that idles.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use crate::process::program;
use crate::report::Figure;
use crate::spoke::Spoke;
use crate::stats::float;

/// Enough for a few heartbeats and samples.
const SETTLE: Duration = Duration::from_secs(8);

/// Promises of the product (README, "what an agent costs"), in MB of 10^6 bytes.
const BINARY_MB: f64 = 15.0;
const RESIDENT_MB: f64 = 20.0;

/// Measures both; the agent offers one service, samples it, and serves its metrics.
///
/// # Errors
///
/// Fails where the agent has ended.
pub(crate) async fn measure(spoke: &Spoke) -> Result<Vec<Figure>> {
    sleep(SETTLE).await;
    let before = spoke.agent.usage()?;
    sleep(SETTLE).await;
    let usage = spoke.agent.usage()?;
    let busy = usage.processor.saturating_sub(before.processor).as_secs_f64() / SETTLE.as_secs_f64();
    let size = std::fs::metadata(program("blueprint-agent")?).context("cannot look at the agent")?.len();
    let figures = vec![
        Figure::once("agent.resident", "MB", float(usage.resident_bytes) / 1e6).at_most(RESIDENT_MB),
        Figure::once("agent.cpu", "% of a core", busy * 100.0),
    ];
    let binary = Figure::once("agent.binary", "MB", float(size) / 1e6);
    // A debug build holds what debuggers want.
    let binary = if cfg!(debug_assertions) { binary } else { binary.at_most(BINARY_MB) };
    Ok(figures.into_iter().chain([binary]).collect())
}
