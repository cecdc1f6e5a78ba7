//! Prometheus finds every target through the hub, and reads the metrics of hub, machines and services there.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Launch, Need, eventually_ok, free_port, require, scratch};
use serde_json::Value;

use crate::fixture::{Agent, CALL, Hub, SOON, Service, Spoke, rows, text};
use crate::told::Teller;

/// A hub that shows metrics at an address of its own, and what the token there is.
fn hub() -> Result<(Hub<'static>, SocketAddr, String)> {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let hub = Hub::start(&[&format!("metrics.listen={address}"), "session.heartbeat=1s"])?;
    let token = std::fs::read_to_string(hub.state().join("metrics.token"))?.trim().to_owned();
    Ok((hub, address, token))
}

#[test]
fn prometheus_discovers_and_scrapes_everything_through_the_hub() -> Result<()> {
    if !require(&[Need::Program("prometheus")]) {
        return Ok(());
    }
    let (hub, address, _) = hub()?;
    let mut first = Spoke::start(&hub, None, "first", "7/42")?;
    let second = Spoke::start(&hub, None, "second", "7/43")?;
    let folder = scratch("prometheus")?;
    let file = folder.path().join("prometheus.yml");
    let token = hub.state().join("metrics.token");
    let job = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs:\n\
         - job_name: blueprint-hub\n  \
           authorization: {{type: Bearer, credentials_file: {token}}}\n  \
           http_sd_configs:\n  \
           - url: http://{address}/v1/targets\n    \
             refresh_interval: 1s\n    \
             authorization: {{type: Bearer, credentials_file: {token}}}\n",
        token = token.display(),
    );
    std::fs::write(&file, job)?;
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let prometheus = Launch::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address={listen}"))
        .start()?;

    let up = |wanted: [(&str, &str, &str); 5]| {
        let wanted: BTreeMap<String, String> = wanted
            .iter()
            .map(|(kind, name, health)| (format!("{kind} {name}"), (*health).to_owned()))
            .collect();
        eventually_ok(SOON, "the targets in Prometheus", || {
            let found = targets(listen)?;
            ensure!(found == wanted, "{found:?}");
            Ok(())
        })
        .with_context(|| format!("Prometheus logged:\n{}", prometheus.log()))
    };
    let (one, two) = (
        format!("first:{}", first.service.address.port()),
        format!("second:{}", second.service.address.port()),
    );
    up([
        ("hub", "hub", "up"),
        ("agent", "first", "up"),
        ("agent", "second", "up"),
        ("service", &one, "up"),
        ("service", &two, "up"),
    ])?;
    let query = "/api/v1/query?query=count%20by%20(kind)%20(up%3D%3D1)";
    let answer = Request::get(query).send(listen, CALL)?.json()?;
    ensure!(rows(&answer, "/data/result")?.len() == 3, "{answer}");

    // A service that ended is down, the others are not touched.
    first.service.process.kill()?;
    up([
        ("hub", "hub", "up"),
        ("agent", "first", "up"),
        ("agent", "second", "up"),
        ("service", &one, "down"),
        ("service", &two, "up"),
    ])
}

/// What Prometheus found: kind and name, and how the last scrape went.
fn targets(prometheus: SocketAddr) -> Result<BTreeMap<String, String>> {
    let answer = Request::get("/api/v1/targets").send(prometheus, CALL)?.json()?;
    let row = |row: &Value| {
        let name = format!("{} {}", text(row, "/labels/kind")?, text(row, "/labels/instance")?);
        Ok((name, text(row, "/health")?.to_owned()))
    };
    rows(&answer, "/data/activeTargets")?.iter().map(row).collect()
}

#[test]
fn the_scrapers_token_opens_metrics_and_nothing_else() -> Result<()> {
    let (hub, address, token) = hub()?;
    let mut agent = Agent::join(None, "node", &hub.join_line(&[])?)?;
    agent.run()?;
    let service = Service::start(None, "shown")?;
    let local = service.address.to_string();
    agent.json(&["service", "add", "7/42", "--local", &local, "--port", "8000"])?;
    agent.json(&["service", "add", "7/43", "--local", &local, "--port", "8001", "--metrics", "none"])?;

    for wrong in [None, Some("x"), Some(&*std::fs::read_to_string(hub.state().join("admin.token"))?)] {
        let request = Request::get("/v1/targets");
        let request = wrong.into_iter().fold(request, |request, token| request.bearer(token.trim()));
        let refused = request.send(address, CALL)?;
        ensure!(refused.status == 401 && refused.text().contains("metrics.token"), "{}", refused.text());
    }
    let get = |path: &str| Request::get(path).bearer(&token).send(address, CALL);
    for path in ["/v1/nodes", "/v1/tokens", "/v1/status", "/v1/audit"] {
        ensure!(get(path)?.status == 404, "{path}");
    }
    ensure!(get("/metrics")?.text().contains("hub_control_sessions"), "the hub's own");

    let node = format!("/v1/nodes/{}", agent.id());
    let page = eventually_ok(SOON, "the agent's metrics", || {
        let page = get(&format!("{node}/metrics"))?;
        ensure!(page.status == 200, "{}", page.text());
        Ok(page)
    })?;
    ensure!(page.text().contains("agent_"), "{}", page.text());
    let page = eventually_ok(SOON, "the service's metrics", || {
        let page = get(&format!("{node}/services/7/42/8000/metrics"))?;
        ensure!(page.status == 200, "{}", page.text());
        Ok(page)
    })?;
    ensure!(page.text().contains("example_"), "{}", page.text());
    ensure!(page.header("x-content-type-options") == Some("nosniff"), "what a node says is text");
    let none = get(&format!("{node}/services/7/43/8001/metrics"))?;
    ensure!(none.status == 404 && none.text().contains("shows no metrics"), "{}", none.text());
    ensure!(get(&format!("{node}/services/7/42/9999/metrics"))?.status == 404);
    ensure!(get("/v1/nodes/nobody/metrics")?.status == 404);

    agent.process()?.kill()?;
    let gone = get(&format!("{node}/metrics"))?;
    ensure!([502, 504].contains(&gone.status), "{}", gone.text());
    gone.json().context("an error is a JSON document")?;
    Ok(())
}

#[test]
fn what_a_blueprint_tells_by_grpc_is_read_like_a_page() -> Result<()> {
    let (hub, address, token) = hub()?;
    let mut agent = Agent::join(None, "node", &hub.join_line(&[])?)?;
    agent.run()?;
    let (service, teller) = (Service::start(None, "shown")?, Teller::start()?);
    let (local, place) = (service.address.to_string(), format!("grpc:{}", teller.address().port()));
    agent.json(&["service", "add", "7/42", "--local", &local, "--port", "8000", "--metrics", &place])?;
    agent.json(&["service", "add", "7/43", "--local", &local, "--port", "8001", "--metrics", "grpc"])?;
    let get = |path: &str| Request::get(path).bearer(&token).send(address, CALL);
    let node = format!("/v1/nodes/{}", agent.id());
    let page = eventually_ok(SOON, "what the blueprint tells", || {
        let page = get(&format!("{node}/services/7/42/8000/metrics"))?;
        ensure!(page.status == 200, "{}", page.text());
        Ok(page.text())
    })?;
    ensure!(page == "jobs_total 12\nversion_info{value=\"v1\"} 1\n", "{page}");
    let none = get(&format!("{node}/services/7/43/8001/metrics"))?;
    ensure!(none.status == 404 || none.status == 502, "the example has no such call: {}", none.text());
    ensure!(none.text().contains("qos.QosMetrics"), "{}", none.text());
    Ok(())
}
