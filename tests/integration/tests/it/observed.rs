//! What hub and agent tell of themselves: metrics, probes, samples.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::eventually_ok;
use blueprint_tests_support::http::{Request, Response};
use serde_json::Value;

use crate::fixture::{CALL, Hub, SOON, Spoke, text};

/// Checks a page of OpenMetrics text as a scraper reads it; gives the samples by name and labels.
fn samples(page: &Response) -> Result<BTreeMap<String, f64>> {
    let kind = page.header("content-type").unwrap_or_default();
    ensure!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let text = page.text();
    ensure!(text.ends_with("# EOF\n"), "the page is not whole");
    let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines().take_while(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').with_context(|| line.to_owned())?;
            ensure!(types.insert(name, kind).is_none(), "{name} is described twice");
        } else if !line.starts_with("# HELP ") && !line.starts_with("# UNIT ") {
            let (series, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            let name = series.split('{').next().unwrap_or_default();
            ensure!(is_described(name, &types), "{line:?} has no fitting # TYPE");
            let value = value.parse().with_context(|| line.to_owned())?;
            ensure!(samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
        }
    }
    Ok(samples)
}

fn is_described(name: &str, types: &BTreeMap<&str, &str>) -> bool {
    let of = |suffix: &str, kind: &str| {
        name.strip_suffix(suffix).is_some_and(|family| types.get(family) == Some(&kind))
    };
    of("", "gauge")
        || of("_total", "counter")
        || ["_bucket", "_sum", "_count"].into_iter().any(|suffix| of(suffix, "histogram"))
        || of("_info", "info")
}

fn number(value: &Value, pointer: &str) -> Result<f64> {
    let found = value.pointer(pointer).and_then(Value::as_f64);
    found.with_context(|| format!("no number at {pointer} of {value}"))
}

#[test]
fn an_agent_is_ready_only_while_its_data_plane_echoes() -> Result<()> {
    let mut hub = Hub::start(&["session.heartbeat=1s"])?;
    let mut spoke = Spoke::start(&hub, None, "probed", "7/42")?;
    let address = spoke.agent.observe()?;
    let status = |path: &str| Ok::<_, anyhow::Error>(Request::get(path).send(address, CALL)?.status);
    let becomes = |path: &str, wanted: u16| {
        eventually_ok(SOON, &format!("{wanted} of {path}"), || {
            let found = status(path)?;
            ensure!(found == wanted, "{found}");
            Ok(())
        })
    };
    becomes("/readyz", 200)?;
    assert_eq!(status("/healthz")?, 200);
    assert_eq!(status("/elsewhere")?, 404);
    assert_eq!(Request::new("POST", "/metrics").send(address, CALL)?.status, 405);

    eventually_ok(SOON, "a healthy service on the page", || {
        let page = samples(&Request::get("/metrics").send(address, CALL)?)?;
        let value = |series: &str| page.get(series).copied().with_context(|| format!("no {series}"));
        ensure!(value("agent_tunnel_alive")? == 1.0 && value("agent_control_up")? == 1.0);
        ensure!(value("agent_tunnel_rtt_seconds")? > 0.0);
        ensure!(value("agent_machine_memory_total_bytes")? > 0.0);
        let port = spoke.service.address.port();
        ensure!(value(&format!("agent_service_healthy{{service=\"7/42\",port=\"{port}\"}}"))? == 1.0);
        Ok(())
    })?;

    hub.kill()?;
    becomes("/readyz", 503)?;
    assert_eq!(status("/healthz")?, 200, "the process is well; the hub is not");
    hub.start_again()?;
    becomes("/readyz", 200)
}

#[test]
fn the_hub_shows_metrics_and_every_sample_of_a_node() -> Result<()> {
    let hub = Hub::start(&["session.heartbeat=1s"])?;
    let spoke = Spoke::start(&hub, None, "measured", "7/42")?;
    let token = hub.access_token("7/42")?;
    hub.wait_served("42", &token, SOON)?;
    assert_eq!(hub.get("42", "bpa_wrong", "/")?.status, 401);

    let page = samples(&hub.api(&Request::get("/metrics"))?)?;
    let value = |series: &str| page.get(series).copied().with_context(|| format!("no {series} in {page:?}"));
    assert!(value("hub_proxy_requests_total{class=\"2xx\"}")? >= 1.0);
    assert!(value("hub_proxy_requests_refused_total{reason=\"invalid_token\"}")? >= 1.0);
    assert!(value("hub_control_joins_total{result=\"accepted\"}")? == 1.0);
    for series in page.keys() {
        for secret in [spoke.agent.id(), spoke.agent.name(), &token] {
            assert!(!series.contains(secret), "{series} has an unbounded label");
        }
    }

    let path = format!("/v1/nodes/{}/qos", spoke.agent.id());
    let pid = f64::from(spoke.service.process.pid());
    let qos = eventually_ok(SOON, "a whole sample", || {
        let qos = hub.api(&Request::get(&path))?.json()?;
        ensure!(number(&qos, "/latest/tunnel/rtt_micros")? > 0.0, "{qos}");
        ensure!(number(&qos, "/latest/services/0/pid")? == pid, "{qos}");
        ensure!(number(&qos, "/latest/services/0/check_micros")? > 0.0, "{qos}");
        ensure!(qos.pointer("/history/2").is_some(), "{qos}");
        Ok(qos)
    })?;
    for pointer in ["memory_used_bytes", "memory_total_bytes", "disk_used_bytes", "disk_total_bytes"] {
        assert!(number(&qos, &format!("/latest/machine/{pointer}"))? > 0.0, "{pointer}");
    }
    let cpu = number(&qos, "/latest/machine/cpu_percent")?;
    assert!((0.0..=100.0).contains(&cpu), "{cpu}");
    for pointer in ["/latest/machine/network_rx_bytes", "/latest/tunnel/jitter_micros"] {
        number(&qos, pointer)?;
    }
    for pointer in ["/latest/tunnel/rx_bytes", "/latest/tunnel/tx_bytes", "/latest/services/0/memory_bytes"] {
        assert!(number(&qos, pointer)? > 0.0, "{pointer}");
    }
    assert_eq!(text(&qos, "/latest/services/0/service")?, "7/42");
    assert_eq!(text(&qos, "/latest/services/0/health")?, "healthy");
    assert!(number(&qos, "/latest/tunnel/handshake_age_secs")? < 120.0);
    let few = hub.api(&Request::get(&format!("{path}?points=2")))?.json()?;
    assert!(few.pointer("/history/1").is_some() && few.pointer("/history/2").is_none(), "{few}");
    Ok(())
}
