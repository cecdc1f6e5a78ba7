//! Requests through proxy, tunnel and agent, beside requests to the same service reached directly.
//!
//! Both ways take turns; each turn gives one ratio, and the spread of a ratio is that of its turns.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use blueprint_common_runtime::tasks::Spawner;
use futures_util::future::try_join_all;

use crate::client::{Client, Way};
use crate::hub::Hub;
use crate::report::Figure;
use crate::spoke::Spoke;
use crate::stats::{Spread, float, millis, percentile};

/// Turns of each way for latencies.
const TURNS: usize = 7;
/// Requests of a turn over one connection.
const SEQUENTIAL: usize = 400;
/// Connections at once, and requests of a turn over each of them.
const CONCURRENCY: usize = 32;
const EACH: usize = 40;
/// Turns of each way for throughput, and bytes of a turn.
const BULK_TURNS: usize = 4;
const BULK_BYTES: u64 = 64 << 20;
/// Pieces of 64 KiB that make [`BULK_BYTES`].
const BULK_PIECES: usize = 1024;

/// What is asked where only the time counts: a short answer.
pub(crate) const SHORT: &str = "/healthz";

/// Latencies of one turn, in ms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    p50: f64,
    pub(crate) p99: f64,
    per_second: f64,
}

/// Measures all of it.
///
/// # Errors
///
/// Fails where a request does.
pub(crate) async fn measure(hub: &Hub, spoke: &Spoke, spawner: &Spawner) -> Result<Vec<Figure>> {
    let ways = [Way::Direct(spoke.local), Way::proxied(hub.proxy().await?, hub.access_token().await?)];
    let mut figures = latencies("path.one", &ways, 1, SEQUENTIAL, spawner).await?;
    figures.extend(latencies("path.32", &ways, CONCURRENCY, EACH, spawner).await?);
    figures.extend(bulk("path.get_64MiB", &ways, false, spawner).await?);
    figures.extend(bulk("path.echo_64MiB", &ways, true, spawner).await?);
    figures.push(Figure::once("path.hub_resident_after", "MB", float(hub.usage()?.resident_bytes) / 1e6));
    let agent = spoke.agent.usage()?;
    figures.push(Figure::once("path.agent_resident_after", "MB", float(agent.resident_bytes) / 1e6));
    Ok(figures)
}

async fn latencies(
    name: &str,
    ways: &[Way; 2],
    connections: usize,
    each: usize,
    spawner: &Spawner,
) -> Result<Vec<Figure>> {
    let [mut direct, mut proxied] =
        [open(&ways[0], connections, spawner).await?, { open(&ways[1], connections, spawner).await? }];
    // Not counted: caches and connections of the proxy are cold.
    turn(&mut direct, each.div_ceil(4)).await?;
    turn(&mut proxied, each.div_ceil(4)).await?;
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        turns.push((turn(&mut direct, each).await?, turn(&mut proxied, each).await?));
    }
    let mut figures = Vec::new();
    type Take = fn(&Turn) -> f64;
    let kinds: [(&str, &str, Take); 3] = [
        ("p50", "ms", |turn| turn.p50),
        ("p99", "ms", |turn| turn.p99),
        ("rate", "requests/s", |turn| turn.per_second),
    ];
    for (what, unit, take) in kinds {
        figures.extend(compare(
            &format!("{name}.{what}"),
            unit,
            turns.iter().map(|(direct, proxied)| (take(direct), take(proxied))).collect(),
        ));
    }
    Ok(figures)
}

/// Opens connections.
///
/// # Errors
///
/// Fails where one cannot be opened.
pub(crate) async fn open(way: &Way, count: usize, spawner: &Spawner) -> Result<Vec<Client>> {
    try_join_all((0..count).map(|_| Client::connect(way, spawner))).await
}

/// One turn: `each` requests after one another over every connection.
///
/// # Errors
///
/// Fails where a request does.
pub(crate) async fn turn(clients: &mut [Client], each: usize) -> Result<Turn> {
    let began = Instant::now();
    let runs = clients.iter_mut().map(|client| async move {
        let mut samples = Vec::with_capacity(each);
        for _ in 0..each {
            let began = Instant::now();
            client.get(SHORT).await?;
            samples.push(began.elapsed());
        }
        anyhow::Ok(samples)
    });
    let samples: Vec<Duration> = try_join_all(runs).await?.into_iter().flatten().collect();
    let count = float(u64::try_from(samples.len())?);
    Ok(Turn {
        p50: millis(percentile(&samples, 50)),
        p99: millis(percentile(&samples, 99)),
        per_second: count / began.elapsed().as_secs_f64(),
    })
}

async fn bulk(name: &str, ways: &[Way; 2], is_echo: bool, spawner: &Spawner) -> Result<Vec<Figure>> {
    let [direct, proxied] = ways;
    let mut direct = Client::connect(direct, spawner).await?;
    let mut proxied = Client::connect(proxied, spawner).await?;
    let mut turns = Vec::new();
    for _ in 0..BULK_TURNS {
        turns.push((transfer(&mut direct, is_echo).await?, transfer(&mut proxied, is_echo).await?));
    }
    Ok(compare(name, "MiB/s", turns))
}

/// MiB/s of one transfer; of an echo, of either direction while both are busy.
async fn transfer(client: &mut Client, is_echo: bool) -> Result<f64> {
    let began = Instant::now();
    let answer = match is_echo {
        true => client.post("/echo", BULK_PIECES).await?,
        false => client.get(&format!("/bytes/{BULK_BYTES}")).await?,
    };
    ensure!(answer.bytes == BULK_BYTES, "{} of {BULK_BYTES} bytes came back", answer.bytes);
    Ok(float(BULK_BYTES) / f64::from(1u32 << 20) / began.elapsed().as_secs_f64())
}

/// Both ways and their ratio, proxied by direct, turn by turn.
fn compare(name: &str, unit: &'static str, turns: Vec<(f64, f64)>) -> Vec<Figure> {
    vec![
        Figure::of(format!("{name}.direct"), unit, Spread::of(turns.iter().map(|(direct, _)| *direct))),
        Figure::of(format!("{name}.proxied"), unit, Spread::of(turns.iter().map(|(_, proxied)| *proxied))),
        Figure::of(
            format!("{name}.ratio"),
            "proxied/direct",
            Spread::of(turns.iter().map(|(direct, proxied)| proxied / direct)),
        ),
    ]
}
