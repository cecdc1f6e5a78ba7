//! Workloads that a node cannot run although another one can: moved there, and failed where there is none.

use anyhow::{Result, ensure};
use blueprint_tests_support::{Lab, eventually_ok};
use serde_json::Value;

use super::is_possible;
use super::rig::Node;
use crate::containers::docker::Docker;
use crate::fixture::{Hub, SOON, rows, text};

/// Kind, node and reason of each event.
fn events(hub: &Hub<'_>, service: &str) -> Result<Vec<(String, String, String)>> {
    let told = hub.json(&["workload", "events", service])?;
    let row = |row: &Value| {
        let node = row["node"].as_str().unwrap_or("-").to_owned();
        Ok((text(row, "/kind")?.to_owned(), node, text(row, "/reason")?.to_owned()))
    };
    rows(&told, "/events")?.iter().map(row).collect()
}

/// The one refusal that the journal has: whose, and why.
fn refusal(hub: &Hub<'_>, service: &str) -> Result<(String, String)> {
    let told = events(hub, service)?;
    let mut refused = told.iter().filter(|(kind, _, _)| kind == "refused");
    let (first, second) = (refused.next(), refused.next());
    ensure!(first.is_some() && second.is_none(), "{told:#?}");
    Ok(first.map(|(_, node, reason)| (node.clone(), reason.clone())).unwrap_or_default())
}

/// Has a node run something, so that the hub takes the other one for what comes next.
fn occupy(hub: &Hub<'_>, node: &Node<'_>, name: &str) -> Result<()> {
    let program = node.script("waits", &["exec sleep 600"])?;
    let run = ["workload", "run", "7/1", "--path", &program, "--test-mode", "--node", name, "--wait", "20s"];
    hub.json(&run).map(drop)
}

#[test]
fn what_one_node_refuses_runs_on_another_and_has_failed_where_there_is_none() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let mut hub = Hub::start(&[])?;
    let mut one = Node::start_set(&hub, None, "one", &["workload.testing=false"])?;
    let two = Node::start(&hub, None, "two")?;
    occupy(&hub, &two, "two")?;
    let program = two.script("program", &["exec sleep 600"])?;

    // Whoever waits for it does not hear of the failure of the first.
    let run = ["--path", &program, "--test-mode"];
    let shown = hub.json(&[&["workload", "run", "7/42"], &run[..], &["--wait", "20s"]].concat())?;
    ensure!(text(&shown, "/state")? == "running" && text(&shown, "/node")? == "two", "{shown}");
    let (node, reason) = refusal(&hub, "7/42")?;
    let why = "its node cannot run it: sources of the kind testing are off on this node";
    ensure!(node == "one" && reason.starts_with(why), "{node}: {reason}");

    // No other node may run it: that is its end, and said.
    hub.json(&[&["workload", "run", "7/43"], &run[..], &["--node", "one"]].concat())?;
    let shown = eventually_ok(SOON, "the end of the one that no node can run", || {
        let shown = hub.json(&["workload", "show", "7/43"])?;
        ensure!(text(&shown, "/state")? == "failed" && shown["refused"] == true, "{shown}");
        ensure!(text(&shown, "/reason")?.ends_with("no other node that it may run on fits"), "{shown}");
        Ok(shown)
    })?;
    ensure!(text(&shown, "/reason")?.starts_with("sources of the kind testing are off"), "{shown}");
    let kinds: Vec<String> = eventually_ok(SOON, "the alarm", || {
        let kinds: Vec<_> = events(&hub, "7/43")?.into_iter().map(|(kind, _, _)| kind).collect();
        ensure!(kinds.last().is_some_and(|kind| kind == "degraded"), "{kinds:?}");
        Ok(kinds)
    })?;
    ensure!(kinds == ["placed", "degraded"], "{kinds:?}");

    // A hub that starts again knows who refused, and moves nothing back.
    hub.kill()?;
    hub.start_again()?;
    eventually_ok(SOON, "the same from the next hub", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(text(&shown, "/state")? == "running" && text(&shown, "/node")? == "two", "{shown}");
        Ok(())
    })?;
    refusal(&hub, "7/42")?;

    // The owner of the node lets it: what waits there runs.
    one.agent.process()?.kill()?;
    let mut one = one.set("workload.testing=true");
    one.agent.run()?;
    eventually_ok(SOON, "the one that may run there alone", || {
        let shown = hub.json(&["workload", "show", "7/43"])?;
        ensure!(text(&shown, "/state")? == "running" && shown["refused"] == false, "{shown}");
        Ok(())
    })
}

#[test]
fn a_container_goes_on_to_the_node_that_has_an_engine() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?, lab.host("two")?];
    let Some(docker) = Docker::start_at(&hosts[2])? else { return Ok(()) };
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &[])?;
    let _one = Node::start(&hub, Some(&hosts[1]), "one")?;
    let two = Node::start_with(&hub, Some(&hosts[2]), "two", &docker.socket())?;
    occupy(&hub, &two, "two")?;
    let (image, digest) = docker.push_blueprint()?;
    let digest = digest.to_string();
    let run = ["workload", "run", "7/42", "--image", &image, "--digest", &digest];
    let limits = ["--env", "EXAMPLE_LISTEN=0.0.0.0", "--memory-bytes", "268435456", "--wait", "60s"];
    let shown = hub.json(&[&run[..], &limits[..]].concat())?;
    ensure!(text(&shown, "/state")? == "running" && text(&shown, "/node")? == "two", "{shown}");
    let (node, reason) = refusal(&hub, "7/42")?;
    ensure!(node == "one" && reason.contains("no container engine listens on"), "{node}: {reason}");
    Ok(())
}
