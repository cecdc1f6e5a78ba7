//! What workloads use, each as a whole: with children, without rights, and in a container.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use blueprint_proto::qos::GetResourceUsageRequest;
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Lab, Need, eventually_ok, require};
use serde_json::Value;

use super::Asker;
use crate::containers::docker::Docker;
use crate::fixture::{Hub, SOON};
use crate::workloads::rig::{Node, program};

/// Settings of a hub that looks often and answers Managers.
const SETTINGS: [&str; 2] = ["session.heartbeat=1s", "qos.listen=127.0.0.1:9615"];

/// Starts the example below a shell that has two more children, each of which burns time.
fn run_burning(hub: &Hub<'_>, node: &Node<'_>) -> Result<()> {
    let listens = format!("exec {} \"$@\"", program(node)?.display());
    let burns = "(while :; do :; done) &";
    let script = node.script("burns", &[burns, burns, &listens])?;
    hub.json(&["workload", "run", "7/42", "--path", &script, "--wait", "20s"]).map(drop)
}

/// A figure of the metrics of the node.
fn figure(hub: &Hub<'_>, name: &str) -> Result<f64> {
    let page = hub.api(&Request::get("/v1/nodes/one/metrics"))?.text();
    let line = page.lines().find(|line| line.starts_with(name) && line.contains("service=\"7/42\""));
    let line = line.with_context(|| format!("no {name} of 7/42 in {page}"))?;
    line.rsplit(' ').next().context("no value")?.parse().with_context(|| line.to_owned())
}

/// Waits until the hub shows that two children of the workload burn time.
fn wait_counted(hub: &Hub<'_>) -> Result<Value> {
    eventually_ok(SOON, "figures of the whole workload", || {
        let shown = hub.json(&["qos", "show", "7/42"])?;
        let usage = shown.get("usage").context("no usage")?;
        ensure!(usage["cpu_percent"].as_f64() > Some(8.0), "{shown}");
        ensure!(
            usage["pids"].as_u64() >= Some(4) && usage["memory_bytes"].as_u64() > Some(1_000_000),
            "{shown}"
        );
        ensure!(usage["read_bytes"].is_u64() && usage["written_bytes"].is_u64(), "{shown}");
        ensure!(figure(hub, "agent_workload_cpu_seconds_total")? > 0.5, "hardly any time");
        ensure!(figure(hub, "agent_workload_pids")? >= 4.0, "too few processes");
        Ok(shown)
    })
}

#[test]
fn children_of_a_workload_are_counted_for_operator_manager_and_prometheus() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &SETTINGS)?;
    let node = Node::start(&hub, Some(&hosts[1]), "one")?;
    run_burning(&hub, &node)?;
    wait_counted(&hub)?;
    let table = hub.command(&["qos", "show", "7/42"])?.run(SOON)?;
    ensure!(table.stdout.contains("processes  ") && table.stdout.contains(" written"), "{table:?}");
    let manager = Asker::new(&hosts[0], "127.0.0.1:9615")?;
    let ask = GetResourceUsageRequest { blueprint_id: 7, service_id: 42 };
    let usage = manager.ask(async move |mut client| client.get_resource_usage(ask).await)??.into_inner();
    ensure!(usage.cpu_usage > 8.0 && usage.memory_usage > 1_000_000, "{usage:?}");
    ensure!(usage.memory_usage < usage.total_memory, "{usage:?}");
    Ok(())
}

#[test]
fn children_of_a_workload_are_counted_by_its_control_group_which_goes_with_it() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    // Not on a host of a lab, whose programs see no control groups.
    let hub = Hub::start(&SETTINGS[..1])?;
    let node = Node::start(&hub, None, "one")?;
    run_burning(&hub, &node)?;
    wait_counted(&hub)?;
    let is_first = !Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let base = Path::new("/sys/fs/cgroup").join(if is_first { "cpuacct" } else { "" });
    let pid = hub.json(&["workload", "show", "7/42"])?["pid"].to_string();
    let groups = std::fs::read_dir(&base)?.flatten().map(|entry| entry.path().join("svc-7-42"));
    let holds = |group: &PathBuf| {
        let inside = std::fs::read_to_string(group.join("cgroup.procs"));
        inside.is_ok_and(|inside| inside.lines().any(|line| line == pid))
    };
    let group = groups.into_iter().find(holds).context("it has no group that counts its time")?;
    hub.json(&["workload", "rm", "7/42"])?;
    eventually_ok(SOON, "the end of its group", || {
        ensure!(!group.exists(), "{} is left", group.display());
        Ok(())
    })
}

#[test]
fn children_of_a_workload_are_counted_where_the_agent_has_no_rights() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let hub = Hub::start(&SETTINGS[..1])?;
    let node = Node::start_as(&hub, 61_050, "one")?;
    run_burning(&hub, &node)?;
    wait_counted(&hub).map(drop)
}

#[test]
fn a_container_is_counted_by_its_engine() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let Some(docker) = Docker::start_at(&hosts[1])? else { return Ok(()) };
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &SETTINGS)?;
    let _node = Node::start_with(&hub, Some(&hosts[1]), "one", &docker.socket())?;
    let (image, digest) = docker.push_blueprint()?;
    let digest = digest.to_string();
    let run = ["workload", "run", "7/42", "--image", &image, "--digest", &digest];
    let options = ["--env", "EXAMPLE_LISTEN=0.0.0.0", "--memory-bytes", "268435456", "--wait", "20s"];
    hub.json(&[&run[..], &options].concat())?;
    eventually_ok(SOON, "figures of the container", || {
        let shown = hub.json(&["qos", "show", "7/42"])?;
        let usage = &shown["usage"];
        // Its first process is the engine's, and the blueprint is below it.
        ensure!(
            usage["pids"].as_u64() >= Some(2) && usage["memory_bytes"].as_u64() > Some(500_000),
            "{shown}"
        );
        ensure!(usage["memory_total_bytes"] == 268_435_456u64, "{shown}");
        ensure!(figure(&hub, "agent_workload_cpu_seconds_total")? > 0.0, "no time");
        ensure!(figure(&hub, "agent_workload_memory_bytes")? > 500_000.0, "no memory");
        Ok(())
    })
}
