//! From the start of `blueprint-hub dev` to the first byte of a service through its proxy.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use blueprint_common_runtime::tasks::Spawner;
use nix::sys::signal::Signal;

use crate::client::{Client, Way};
use crate::hub::{SOON, address, text};
use crate::process::{Running, program};
use crate::report::Figure;
use crate::stats::Spread;

/// Promise of the README: ready within this many seconds.
const PROMISE_SECS: f64 = 5.0;

/// Starts and ends `dev` several times, each time without state.
///
/// # Errors
///
/// Fails where it does not come up, or its service does not answer.
pub(crate) async fn measure(starts: u32, folder: &Path, spawner: &Spawner) -> Result<Vec<Figure>> {
    let mut times = Vec::new();
    for _ in 0..starts {
        times.push(first_byte(folder, spawner).await?.as_secs_f64());
    }
    Ok(vec![Figure::of("dev.first_proxied_byte", "s", Spread::of(times)).at_most(PROMISE_SECS)])
}

async fn first_byte(folder: &Path, spawner: &Spawner) -> Result<Duration> {
    let program = program("blueprint-hub")?;
    let began = Instant::now();
    let mut dev = Running::start(&program, folder, ["dev", "--output", "json"])?;
    let printed = dev.next_json(SOON).await?;
    let way = Way::Proxied {
        proxy: address(text(&printed, "/proxy")?)?,
        service: "1",
        token: text(&printed, "/token")?.to_owned(),
    };
    let answer = Client::connect(&way, spawner).await?.get("/").await.context("the first request")?;
    dev.end(Signal::SIGINT).await?;
    Ok(answer.first_byte.saturating_duration_since(began))
}
