//! Containers as workloads while their engine or their agent is away.

use std::time::Duration;

use anyhow::{Result, ensure};
use blueprint_tests_support::{Lab, eventually_ok};
use serde_json::Value;

use super::rig::Node;
use super::{MOVED, is_possible};
use crate::containers::docker::Docker;
use crate::fixture::{Hub, SOON, text};
use crate::owners::{Owner, token};

/// An engine that is away has 30 s until the end of its container is unknown, and a restart waits for so long.
const BACK: Duration = Duration::from_secs(75);

fn containers(docker: &Docker) -> Result<Vec<Value>> {
    let listed = docker.raw("GET", "/containers/json?all=1")?;
    Ok(listed.as_array().cloned().unwrap_or_default())
}

fn run(hub: &Hub<'_>, docker: &Docker) -> Result<()> {
    let (image, digest) = docker.push_blueprint()?;
    let digest = digest.to_string();
    let arguments = ["workload", "run", "7/42", "--image", &image, "--digest", &digest];
    let options = ["--env", "EXAMPLE_LISTEN=0.0.0.0", "--memory-bytes", "268435456", "--wait", "20s"];
    hub.json(&[&arguments[..], &options].concat()).map(drop)
}

fn wait_none(docker: &Docker) -> Result<()> {
    eventually_ok(SOON, "the end of the container", || {
        let left = containers(docker)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

#[test]
fn a_container_ends_with_an_agent_that_is_killed_and_stays_away() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let Some(docker) = Docker::start_at(&hosts[1])? else { return Ok(()) };
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &[])?;
    let mut node = Node::start_with(&hub, Some(&hosts[1]), "one", &docker.socket())?;
    run(&hub, &docker)?;
    ensure!(containers(&docker)?.len() == 1, "{:?}", containers(&docker)?);
    node.agent.process()?.kill()?;
    wait_none(&docker)
}

#[test]
fn an_engine_that_dies_runs_its_workloads_again_when_it_is_back_and_leaves_none() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let Some(mut docker) = Docker::start_at(&hosts[1])? else { return Ok(()) };
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &[])?;
    let mut node = Node::start_with(&hub, Some(&hosts[1]), "one", &docker.socket())?;
    run(&hub, &docker)?;
    let first = containers(&docker)?;

    // It is told where the operator looks, and runs again without anybody's help.
    docker.kill()?;
    docker.start_again()?;
    eventually_ok(BACK, "the workload under the engine that is back", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        let now = containers(&docker)?;
        ensure!(text(&shown, "/state")? == "running" && shown["restarts"] == 1, "{shown}");
        ensure!(now.len() == 1 && now[0]["Id"] != first[0]["Id"], "{now:?}");
        Ok(())
    })?;

    // Taken back while it is away: removed once it is there.
    docker.kill()?;
    hub.json(&["workload", "rm", "7/42"])?;
    docker.start_again()?;
    wait_none(&docker)?;

    // Left by an agent that was killed with the engine away: the next agent removes it, whenever that comes back.
    run(&hub, &docker)?;
    docker.kill()?;
    node.agent.process()?.kill()?;
    hub.json(&["workload", "rm", "7/42"])?;
    node.agent.run()?;
    docker.start_again()?;
    wait_none(&docker)
}

#[test]
fn a_container_moves_to_another_node_when_its_own_dies_and_its_owner_reaches_it_there() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?, lab.host("two")?];
    let Some(first_engine) = Docker::start_at(&hosts[1])? else { return Ok(()) };
    let Some(second_engine) = first_engine.start_beside(&hosts[2])? else { return Ok(()) };
    let (image, digest) = first_engine.push_blueprint()?;
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &[])?;
    let mut one = Node::start_with(&hub, Some(&hosts[1]), "one", &first_engine.socket())?;
    let mut two = Node::start_with(&hub, Some(&hosts[2]), "two", &second_engine.socket())?;
    let owner = Owner::new()?;
    let (digest, variable) = (digest.to_string(), format!("EXAMPLE_OWNER={}", owner.public()));
    let arguments = ["workload", "run", "7/42", "--image", &image, "--digest", &digest, "--env", &variable];
    let options = ["--env", "EXAMPLE_LISTEN=0.0.0.0", "--memory-bytes", "268435456", "--wait", "20s"];
    let running = hub.json(&[&arguments[..], &options].concat())?;
    let access = token(&hub, &owner.api_key(&hub)?)?;
    let reached = || {
        let told = hub.get("42", &access, "/blueprint")?;
        ensure!(told.status == 200 && told.json()?["starts"] == 1, "{}: {}", told.status, told.text());
        Ok(())
    };
    eventually_ok(SOON, "the blueprint in its container", reached)?;
    let chosen = text(&running, "/node")?.to_owned();
    let (dead, other, engines) = if chosen == "one" {
        (&mut one, "two", [&first_engine, &second_engine])
    } else {
        (&mut two, "one", [&second_engine, &first_engine])
    };
    ensure!(containers(engines[0])?.len() == 1 && containers(engines[1])?.is_empty(), "not on {chosen}");

    // Its own node dies; the token of its owner counts on, and there is one of it in the end.
    dead.agent.process()?.kill()?;
    eventually_ok(MOVED, "the container on the other node", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(text(&shown, "/node")? == other && text(&shown, "/state")? == "running", "{shown}");
        Ok(())
    })?;
    eventually_ok(SOON, "the blueprint on the other node", reached)?;
    wait_none(engines[0])?;
    ensure!(containers(engines[1])?.len() == 1, "{:?}", containers(engines[1])?);

    // The first comes back: the service stays where it is.
    dead.agent.run()?;
    eventually_ok(SOON, "the first node", || {
        let nodes = hub.json(&["node", "ls"])?.to_string();
        ensure!(!nodes.contains("disconnected"), "{nodes}");
        Ok(())
    })?;
    reached()?;
    ensure!(text(&hub.json(&["workload", "show", "7/42"])?, "/node")? == other, "it went back");
    wait_none(engines[0])
}
