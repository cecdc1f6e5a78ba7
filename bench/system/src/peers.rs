//! One hub with very many peers: memory, idle cost, and how long all of them need to come back.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use blueprint_common_runtime::cli::eprint_line;
use blueprint_common_runtime::tasks::Spawner;
use futures_util::{StreamExt, TryStreamExt, stream};
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::hub::{Hub, SOON, address, text};
use crate::join::{self, disks};
use crate::process::Running;
use crate::report::Figure;
use crate::stats::float;

/// Longest wait until every peer has echoed.
const UP: Duration = Duration::from_secs(90);

/// Time until spokes that came up or fell silent have nothing left to do: their searches for the MTU, echoes every second
/// and, at the hub, noticing their loss, which a pace of twenty seconds makes twenty-three.
const SETTLE: Duration = Duration::from_secs(30);

/// How long the processor time of something is watched: a round of the echoes of idle spokes. They go on in the waves in which the
/// spokes came up, so a part of a round says how high its wave is.
const WATCH: Duration = Duration::from_secs(20);

/// Joins at work at once: fewer than a hub takes, so that none is told to come later.
const AT_ONCE: usize = 32;

/// Limits of issue 3: the data plane's memory of a peer, its idle cost, and the time until all are back.
const KIB_EACH: f64 = 15.0;
const IDLE_PERCENT: f64 = 3.0;
const BACK_SECS: f64 = 30.0;

/// Measures the data plane alone with `count` spokes.
///
/// # Errors
///
/// Fails where not all of them come up in time.
pub(crate) async fn measure(count: u32, folder: &Path) -> Result<Vec<Figure>> {
    let mut plane = Plane::start("127.0.0.1:0", count, folder).await?;
    let before = plane.process.usage()?.resident_bytes;
    let began = Instant::now();
    plane.go().await?;
    let arguments = ["spokes", "--hub", &plane.listen.to_string(), "--count", &count.to_string()];
    let mut spokes = Running::start(&std::env::current_exe()?, folder, arguments)?;
    spokes.next_json(UP).await?;
    plane.up().await?;
    let up = began.elapsed();
    sleep(SETTLE).await;
    let idle = busy(&plane.process).await?;
    let after = plane.process.usage()?.resident_bytes;

    let began = Instant::now();
    plane.process.end(Signal::SIGKILL).await?;
    let mut plane = Plane::start(&plane.listen.to_string(), count, folder).await?;
    plane.go().await?;
    plane.up().await?;
    let back = began.elapsed();

    // Spokes that are stopped neither send nor hear: what is left is the cost of knowing them.
    spokes.signal(Signal::SIGSTOP)?;
    sleep(SETTLE).await;
    let silent = busy(&plane.process).await?;
    spokes.signal(Signal::SIGCONT)?;
    spokes.end(Signal::SIGTERM).await?;
    plane.process.end(Signal::SIGTERM).await?;

    let each = float(after.saturating_sub(before)) / 1024.0 / f64::from(count);
    Ok(vec![
        Figure::once("peers.count", "peers", f64::from(count)),
        Figure::once("peers.all_up_after", "s", up.as_secs_f64()),
        Figure::once("peers.plane_memory", "MB", float(after) / 1e6),
        Figure::once("peers.memory_each", "KiB", each).at_most(KIB_EACH),
        Figure::once("peers.idle_cpu", "% of a core", idle).at_most(IDLE_PERCENT),
        Figure::once("peers.silent_cpu", "% of a core", silent),
        Figure::once("peers.back_after_restart", "s", back.as_secs_f64()).at_most(BACK_SECS),
    ])
}

/// Measures the memory of a whole hub, store and control plane included, that `count` machines have joined and
/// none is connected to.
///
/// # Errors
///
/// Fails where a machine cannot join.
pub(crate) async fn joined(count: u32, folder: &Path, spawner: &Spawner) -> Result<Vec<Figure>> {
    eprint_line(&format!("measuring: a hub that {count} machines have joined ..."));
    let hub = Hub::start(folder).await?;
    let line = hub.join_line(count).await?;
    let disks = disks()?;
    stream::iter(0..count)
        .map(|number| join::start(line.clone(), disks.path(), number, spawner))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    sleep(SETTLE).await;
    let usage = hub.usage()?;
    hub.end().await?;
    Ok(vec![Figure::once("peers.memory", "MB", float(usage.resident_bytes) / 1e6)])
}

/// A hub's data plane in a process of its own.
struct Plane {
    process: Running,
    listen: SocketAddr,
}

impl Plane {
    async fn start(listen: &str, count: u32, folder: &Path) -> Result<Self> {
        let arguments = ["plane", "--listen", listen, "--count", &count.to_string()];
        let mut process = Running::start(&std::env::current_exe()?, folder, arguments)?;
        let listen = address(text(&process.next_json(SOON).await?, "/listen")?)?;
        Ok(Self { process, listen })
    }

    /// Lets it add its peers.
    async fn go(&mut self) -> Result<()> {
        let stdin = self.process.stdin.as_mut().context("the data plane has no standard input")?;
        stdin.write_all(b"go\n").await.context("the data plane has ended")
    }

    /// Waits until every peer has echoed.
    async fn up(&mut self) -> Result<()> {
        self.process.next_json(UP).await.map(drop)
    }
}

/// Share of a core in percent that a process uses while nothing is asked of it.
async fn busy(process: &Running) -> Result<f64> {
    let before = process.usage()?.processor;
    sleep(WATCH).await;
    let used = process.usage()?.processor.saturating_sub(before);
    Ok(used.as_secs_f64() / WATCH.as_secs_f64() * 100.0)
}
