//! Many machines that join at once, with one token.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use blueprint_agent::{Agent, JoinOptions};
use blueprint_common_runtime::state::StateDir;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::JoinLine;
use futures_util::future::try_join_all;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::hub::Hub;
use crate::report::Figure;
use crate::stats::{float, millis, percentile};

/// First pause before a machine that was told to come later does; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A machine that joined.
pub(crate) struct Joined {
    /// Its identity is in here.
    pub(crate) state: StateDir,
    /// From the first attempt to the stored identity.
    pub(crate) took: Duration,
    /// How often the hub said that it should come later.
    pub(crate) put_off: u64,
}

/// Lets `count` machines join, all started at the same moment.
///
/// # Errors
///
/// Fails where one of them does not join.
pub(crate) async fn measure(hub: &Hub, count: u32, spawner: &Spawner) -> Result<Vec<Figure>> {
    let line = hub.join_line(count).await?;
    let folder = disks()?;
    let began = Instant::now();
    let joins = (0..count).map(|number| start(line.clone(), folder.path(), number, spawner));
    let joined = try_join_all(joins).await?;
    let took = began.elapsed();
    let samples: Vec<_> = joined.iter().map(|joined| joined.took).collect();
    let put_off = joined.iter().map(|joined| joined.put_off).sum();
    Ok(vec![
        Figure::once("join.machines", "joins at once", f64::from(count)),
        Figure::once("join.rate", "joins/s", f64::from(count) / took.as_secs_f64()),
        Figure::once("join.p50", "ms", millis(percentile(&samples, 50))),
        Figure::once("join.p99", "ms", millis(percentile(&samples, 99))),
        Figure::once("join.told_to_come_later", "answers", float(put_off)),
    ])
}

/// Where machines keep their state: in memory where there is such a folder. Machines have a disk each;
/// a thousand of them on the disk that the hub writes to would measure that disk.
///
/// # Errors
///
/// Fails where no folder can be made.
pub(crate) fn disks() -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("blueprint-bench-");
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).context("cannot make a temporary folder")
}

/// Joins as machine `number`, in a task of its own.
///
/// # Errors
///
/// Fails where it cannot join.
///
/// # Cancel safety
///
/// Dropping it leaves the task to its end.
pub(crate) async fn start(line: JoinLine, disks: &Path, number: u32, spawner: &Spawner) -> Result<Joined> {
    let folder = disks.join(number.to_string());
    let (sender, receiver) = oneshot::channel();
    spawner.spawn("join", async move {
        // Nobody listens only where another machine failed before.
        let _ = sender.send(join(line, &folder, format!("bench-{number}")).await);
    });
    receiver.await.context("the task of a join is gone")?
}

async fn join(line: JoinLine, folder: &Path, name: String) -> Result<Joined> {
    let state = StateDir::open(folder)?;
    let (began, mut pause, mut put_off) = (Instant::now(), FIRST_PAUSE, 0u64);
    loop {
        let options =
            JoinOptions { line: line.clone(), name: Some(name.clone()), state: state.clone(), proxy: None };
        match Agent::join(options).await {
            Ok(_) => return Ok(Joined { state, took: began.elapsed(), put_off }),
            Err(error) if error.is_transient() => put_off = put_off.saturating_add(1),
            Err(error) => return Err(error).with_context(|| format!("{name} cannot join")),
        }
        sleep(pause).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}
