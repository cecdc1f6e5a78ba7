//! A client in another language, made from the SDK's definition alone, with another library of gRPC.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Host, Lab, Launch, Need, eventually_ok, plugin_python, require};
use serde_json::Value;

use super::POLICY;
use crate::fixture::{Agent, Hub, Mode, SOON, Spoke, json_of, rows, text};

/// Where the definition and the program are.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/qos");

/// Everything that the client is told of service 7/42.
fn ask(python: &Path, host: &Host, at: &str) -> Result<Value> {
    let program = format!("{FOLDER}/sdk_client.py");
    json_of(&Launch::new(python).on(host).args(["-B", &program, FOLDER, at, "7", "42"]).run(SOON)?)
}

fn number(value: &Value, pointer: &str) -> Result<u64> {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number at {pointer} of {value}"))
}

/// Moments of a history.
fn moments(said: &Value, pointer: &str) -> Result<BTreeSet<u64>> {
    rows(said, pointer)?.iter().map(|point| number(point, "/timestamp")).collect()
}

/// All four answers, as they have to be for a service that is well.
fn four(python: &Path, host: &Host, at: &str) -> Result<Value> {
    let said = ask(python, host, at)?;
    let now = number(&said, "/status/timestamp")?;
    ensure!(number(&said, "/status/status_code")? == 0, "{said}");
    ensure!(
        number(&said, "/status/blueprint_id")? == 7 && number(&said, "/status/service_id")? == 42,
        "{said}"
    );
    ensure!(number(&said, "/status/start_time")? + number(&said, "/status/uptime")? == now, "{said}");
    ensure!(number(&said, "/status/last_heartbeat")?.abs_diff(now) < 10, "{said}");

    let percent = said.pointer("/usage/cpu_usage").and_then(Value::as_f64).context("no processor")?;
    ensure!((0.0..=100.0).contains(&percent), "{said}");
    for (used, total) in [("memory_usage", "total_memory"), ("disk_usage", "total_disk")] {
        let (used, total) =
            (number(&said, &format!("/usage/{used}"))?, number(&said, &format!("/usage/{total}"))?);
        ensure!(used > 100_000 && used <= total, "{said}");
    }
    ensure!(
        number(&said, "/usage/network_rx_bytes")? > 0 && number(&said, "/usage/network_tx_bytes")? > 0,
        "{said}"
    );
    let shown = said.pointer("/metrics/custom_metrics").and_then(Value::as_object).context("no page")?;
    ensure!(shown.keys().any(|name| name.starts_with("example_")), "{said}");

    let machine = rows(&said, "/system/system_metrics")?.last().context("no history of the machine")?;
    ensure!(
        number(machine, "/memory_usage")? > 100_000 && number(machine, "/timestamp")? % 60 == 0,
        "{machine}"
    );
    ensure!(rows(&said, "/system/blueprint_metrics")?.is_empty(), "{said}");
    ensure!(rows(&said, "/blueprint/system_metrics")?.is_empty(), "{said}");
    for point in rows(&said, "/blueprint/blueprint_metrics")? {
        let shown = point.pointer("/custom_metrics").and_then(Value::as_object).context("no metrics")?;
        ensure!(shown.keys().any(|name| name.starts_with("example_")), "{point}");
    }
    ensure!((1..=2).contains(&rows(&said, "/two/blueprint_metrics")?.len()), "{said}");

    for (name, code) in [("respelled", "OK"), ("none", "NOT_FOUND"), ("backwards", "INVALID_ARGUMENT")] {
        ensure!(text(&said, &format!("/codes/{name}"))? == code, "{name}: {said}");
    }
    Ok(said)
}

#[test]
fn a_client_made_from_the_sdks_definition_gets_all_four_answers_also_after_a_killed_hub() -> Result<()> {
    if !require(&[Need::PluginPython, Need::Device("/dev/net/tun")]) {
        return Ok(());
    }
    let python = plugin_python().context("no python")?;
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (public, worker_host, manager_host) = (lab.host("hub")?, lab.host("worker")?, lab.host("manager")?);
    let settings =
        ["session.heartbeat=1s", "qos.write_every=1s", "qos.metrics_every=1s", "qos.listen=127.0.0.1:9615"];
    let mut hub = Hub::start_on(&public, &public.address().to_string(), &settings)?;
    let _worker = Spoke::start(&hub, Some(&worker_host), "worker", "7/42")?;
    let agent = Agent::join(Some(&manager_host), "manager", &hub.join_line(&[])?)?;
    let mut manager =
        Mode::MachineDevices.of_machine().iter().fold(agent, |agent, setting| agent.set(setting));
    manager.run()?;
    let set = hub.command(&["policy", "set", "-"])?.stdin(POLICY).run(SOON)?;
    ensure!(set.code == Some(0), "{set:?}");

    // On the address of the hub's host, and inside the tunnel on that of the overlay.
    let places = [(&public, "127.0.0.1:9615"), (&manager_host, "10.88.0.1:9615")];
    let mut before = Vec::new();
    for (host, at) in places {
        let said = eventually_ok(SOON, &format!("all four answers at {at}"), || {
            let said = four(&python, host, at)?;
            ensure!(moments(&said, "/blueprint/blueprint_metrics")?.len() >= 2, "{said}");
            Ok(said)
        });
        before.push(said.with_context(|| hub.log())?);
    }
    hub.kill()?;
    hub.start_again()?;
    for ((host, at), before) in places.into_iter().zip(&before) {
        eventually_ok(SOON, &format!("all four answers at {at} after the restart"), || {
            let after = four(&python, host, at)?;
            for pointer in ["/system/system_metrics", "/blueprint/blueprint_metrics"] {
                let (known, found) = (moments(before, pointer)?, moments(&after, pointer)?);
                ensure!(known.is_subset(&found), "{pointer}: {known:?} before, {found:?} after");
            }
            Ok(())
        })
        .with_context(|| hub.log())?;
    }
    Ok(())
}
