//! A normal client while thousands of slow ones hold connections open.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use blueprint_common_runtime::tasks::Spawner;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::client::{Client, Way};
use crate::hub::Hub;
use crate::path;
use crate::process::Running;
use crate::report::Figure;
use crate::stats::{Spread, float, millis, percentile};

/// How long it is measured before, and during: until who came first was cut and came again.
const BEFORE: Duration = Duration::from_secs(5);
const DURING: Duration = Duration::from_secs(30);

/// What a turn is: connections that stay, requests over each, and connections for one request each.
const KEPT: usize = 4;
const EACH: usize = 200;
const FRESH: usize = 200;

/// Longest wait for the slow ones.
const UP: Duration = Duration::from_secs(40);

/// How much slower the slow ones may make the others (issue 4, "How it is judged").
const RATIO: f64 = 2.0;

/// Measures without the slow clients, then with them.
///
/// # Errors
///
/// Fails where a request of the normal client does.
pub(crate) async fn measure(hub: &Hub, count: u32, folder: &Path, spawner: &Spawner) -> Result<Vec<Figure>> {
    let (proxy, token) = (hub.proxy().await?, hub.access_token().await?);
    let way = Way::proxied(proxy, token.clone());
    turns(&way, BEFORE, spawner).await?;
    let before = turns(&way, BEFORE, spawner).await?;
    let resident = hub.usage()?.resident_bytes;

    let own = std::env::current_exe().context("cannot find this program's own path")?;
    let own = own.to_string_lossy();
    // Elsewhere they would not take the processors of this machine.
    let arguments = ["-n", "19", &own, "drip", "--proxy", &proxy.to_string(), "--count", &count.to_string()];
    let mut slow = Running::start(Path::new("nice"), folder, arguments)?;
    let stdin = slow.stdin.as_mut().context("the slow clients have no standard input")?;
    stdin.write_all(format!("{token}\n").as_bytes()).await?;
    let up = slow.next_json(UP).await?;
    let grown = hub.usage()?.resident_bytes.saturating_sub(resident);
    let during = turns(&way, DURING, spawner).await?;
    let after = hub.usage()?.resident_bytes.saturating_sub(resident);
    drop(slow.stdin.take());
    let last = slow.next_json(UP).await?;
    // It may have ended with its last line.
    let _ = slow.end(Signal::SIGTERM).await;

    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64).map_or(0.0, float);
    let open = number(&up, "open").max(1.0);
    let spread =
        |turns: &[[f64; 2]], at: usize| Spread::of(turns.iter().filter_map(|turn| turn.get(at).copied()));
    let mut figures = vec![
        Figure::once("slow.connections", "connections", open),
        Figure::once("slow.connections_at_the_end", "connections", number(&last, "open")),
        Figure::once("slow.cut", "connections", number(&last, "cut")),
        Figure::once("slow.refused", "connections", number(&last, "refused")),
        Figure::once("slow.hub_memory_each", "KiB", float(grown) / 1024.0 / open),
        Figure::once("slow.hub_memory_each_at_the_end", "KiB", float(after) / 1024.0 / open),
    ];
    for (at, what) in ["kept", "fresh"].into_iter().enumerate() {
        let (quiet, busy) = (spread(&before, at), spread(&during, at));
        figures.push(Figure::of(format!("slow.p99_{what}.without"), "ms", quiet));
        figures.push(Figure::of(format!("slow.p99_{what}.with"), "ms", busy));
        let ratio = busy.median / quiet.median.max(f64::MIN_POSITIVE);
        figures.push(Figure::once(format!("slow.p99_{what}.ratio"), "with/without", ratio).at_most(RATIO));
    }
    Ok(figures)
}

/// The 99th percentile of each turn, in ms: over connections that stay, and over new ones.
async fn turns(way: &Way, span: Duration, spawner: &Spawner) -> Result<Vec<[f64; 2]>> {
    let mut clients = path::open(way, KEPT, spawner).await?;
    let (mut turns, began) = (Vec::new(), Instant::now());
    while began.elapsed() < span {
        let kept = path::turn(&mut clients, EACH).await?.p99;
        let mut samples = Vec::with_capacity(FRESH);
        for _ in 0..FRESH {
            let began = Instant::now();
            Client::connect(way, spawner).await?.get(path::SHORT).await?;
            samples.push(began.elapsed());
        }
        turns.push([kept, millis(percentile(&samples, 99))]);
    }
    Ok(turns)
}
