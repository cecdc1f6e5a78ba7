//! Blueprints on a node: from the assignment to the registered service, and what five of them cost the agent.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_common_runtime::tasks::Spawner;
use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::hub::{Hub, SOON};
use crate::process::program;
use crate::report::Figure;
use crate::spoke;
use crate::stats::{Spread, float, millis};

/// Starts that are timed; the artefact is in the cache from the first, untimed one on.
const STARTS: u64 = 10;

/// Services while the agent is measured (issue 5, "How it is judged"). The keeper of each is counted with the agent.
const SERVICES: u64 = 5;

/// Time for a few heartbeats, samples and checks.
const SETTLE: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(20);

/// Pause between two looks; no finer is what it can tell.
const LOOK: Duration = Duration::from_millis(5);

/// The promises: a second to the registered service, half a percent of a core, 20 MB of 10^6 bytes.
const REGISTERED_MS: f64 = 1000.0;
const CPU_PERCENT: f64 = 0.5;
const RESIDENT_MB: f64 = 20.0;

/// Measures both.
///
/// # Errors
///
/// Fails where a workload does not register in time.
pub(crate) async fn measure(folder: &Path, spawner: &Spawner) -> Result<Vec<Figure>> {
    // Workloads of an agent that is root are other users, who have to pass.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    let hub = Hub::start(folder).await?;
    let agent = spoke::start_node(&hub.join_line(1).await?, folder).await?;
    let source = serve(spawner).await?;
    hub.wait("a node", SOON, |status| status.pointer("/nodes/data_plane_up") == Some(&1.into())).await?;

    registered(&hub, &source, 1).await?;
    let mut times = Vec::new();
    for _ in 0..STARTS {
        remove(&hub, 1).await?;
        times.push(millis(registered(&hub, &source, 1).await?));
    }
    for number in 2..=SERVICES {
        registered(&hub, &source, number).await?;
    }
    sleep(SETTLE).await;
    let before = agent.usage_with_keepers()?;
    sleep(MEASURED).await;
    let usage = agent.usage_with_keepers()?;
    let busy = usage.processor.saturating_sub(before.processor).as_secs_f64() / MEASURED.as_secs_f64();
    for number in 1..=SERVICES {
        remove(&hub, number).await?;
    }
    agent.end(Signal::SIGTERM).await?;
    hub.end().await?;
    Ok(vec![
        Figure::of("workload.registered", "ms", Spread::of(times)).at_most(REGISTERED_MS),
        Figure::once("workload.agent_cpu", "% of a core", busy * 100.0).at_most(CPU_PERCENT),
        Figure::once("workload.agent_resident", "MB", float(usage.resident_bytes) / 1e6).at_most(RESIDENT_MB),
    ])
}

fn path(number: u64) -> String {
    format!("/v1/workloads/7/{number}")
}

/// Has the node run one; the time until the hub sends clients there.
async fn registered(hub: &Hub, source: &Value, number: u64) -> Result<Duration> {
    let began = Instant::now();
    hub.ask(Method::PUT, &path(number), Some(json!({ "spec": { "source": source } }))).await?;
    loop {
        let answer = hub.ask(Method::GET, &format!("/v1/services/7/{number}"), None).await;
        let healthy = answer.is_ok_and(|answer| answer.to_string().contains("\"healthy\""));
        if healthy {
            return Ok(began.elapsed());
        }
        if began.elapsed() > SOON {
            let shown = hub.ask(Method::GET, &path(number), None).await?;
            anyhow::bail!("not registered in time: {shown}");
        }
        sleep(LOOK).await;
    }
}

/// Takes one back and waits until nobody is sent there any more.
async fn remove(hub: &Hub, number: u64) -> Result<()> {
    hub.ask(Method::DELETE, &path(number), None).await?;
    let began = Instant::now();
    while hub.ask(Method::GET, &format!("/v1/services/7/{number}"), None).await.is_ok() {
        ensure!(began.elapsed() < SOON, "service 7/{number} does not go");
        sleep(LOOK).await;
    }
    // The process has a grace of its own after that.
    sleep(Duration::from_millis(300)).await;
    Ok(())
}

/// Offers the example on loopback; gives it as a source.
async fn serve(spawner: &Spawner) -> Result<Value> {
    let bytes = std::fs::read(program("blueprint-example-service")?).context("cannot read the example")?;
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/blueprint", listener.local_addr()?);
    spawner.spawn_base("artefact", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0u8; 4096];
            let _ = stream.read(&mut head).await;
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.write_all(&bytes).await;
        }
    });
    Ok(json!({ "type": "native", "url": url, "sha256": digest }))
}
