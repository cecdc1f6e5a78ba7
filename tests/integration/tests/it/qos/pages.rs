//! Metrics of a service while no hub is there to read them.

use anyhow::{Context, Result, ensure};
use blueprint_proto::qos::{GetHistoricalMetricsRequest, MetricsType};
use blueprint_tests_support::{Lab, Need, eventually_ok, require};

use super::Asker;
use crate::fixture::{Agent, Hub, SOON, Service};

/// Seconds without a hub, and the longest between two points then: the pace, the time until a hub counts as away, and the restart.
const AWAY: u64 = 12;
const GAP: u64 = 6;

/// Moments of which there are metrics of the service.
fn moments(asker: &Asker<'_>) -> Result<Vec<u64>> {
    let ask = GetHistoricalMetricsRequest {
        blueprint_id: 7,
        service_id: 42,
        max_data_points: 10_000,
        start_time: None,
        end_time: None,
        metrics_type: MetricsType::Blueprint.into(),
    };
    let said = asker.ask(async move |mut client| client.get_historical_metrics(ask).await)??.into_inner();
    for point in &said.blueprint_metrics {
        ensure!(point.custom_metrics.keys().any(|name| name.starts_with("example_")), "{point:?}");
    }
    Ok(said.blueprint_metrics.iter().map(|point| point.timestamp).collect())
}

#[test]
fn metrics_of_services_have_no_gap_where_the_hub_was_away() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (public, worker) = (lab.host("hub")?, lab.host("worker")?);
    let settings = ["session.heartbeat=1s", "qos.metrics_every=1s", "qos.listen=127.0.0.1:9615"];
    let mut hub = Hub::start_on(&public, &public.address().to_string(), &settings)?;
    let agent = Agent::join(Some(&worker), "worker", &hub.join_line(&[])?)?;
    let mut agent = agent.set("qos.metrics_every=1s");
    let service = Service::start(Some(&worker), "worker")?;
    agent.run()?;
    agent.offer("7/42", service.address)?;
    let asker = Asker::new(&public, "127.0.0.1:9615")?;
    let before = eventually_ok(SOON, "metrics of the service", || {
        let moments = moments(&asker)?;
        ensure!(moments.len() >= 3, "{moments:?}");
        Ok(moments)
    })?;
    hub.kill()?;
    // The agent reads on, and keeps what it reads.
    let kept = agent.state().join("pages");
    let began_at = std::time::Instant::now();
    eventually_ok(SOON, "pages on the disk", || {
        let bytes = |entry: std::fs::DirEntry| entry.metadata().map_or(0, |meta| meta.len());
        let bytes: u64 = std::fs::read_dir(&kept)?.flatten().map(bytes).sum();
        ensure!(bytes > 0 && began_at.elapsed().as_secs() >= AWAY, "{bytes} bytes");
        Ok(())
    })?;
    hub.start_again()?;
    let last = *before.last().context("none")?;
    eventually_ok(SOON, "the time without a hub", || {
        let all = moments(&asker)?;
        ensure!(before.iter().all(|at| all.contains(at)), "{before:?} before, {all:?} after");
        ensure!(all.last().is_some_and(|at| *at > last + AWAY), "{all:?}");
        let gap = all.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(0);
        ensure!(gap <= GAP, "{gap} s without metrics in {all:?}");
        Ok(())
    })
    .with_context(|| format!("{}\n{}", agent.log(), hub.log()))
}
