//! Updates of a workload that is a container, under a real engine.

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Lab, Need, eventually_ok, require};
use serde_json::Value;

use super::{CLIENTS, THROUGH, calls, failures, is_over};
use crate::containers::docker::Docker;
use crate::fixture::{CALL, Hub, SOON, json_of, text};
use crate::load::Load;
use crate::workloads::rig::Node;

const SMALL: [&str; 4] = ["--cpu-millis", "500", "--memory-bytes", "268435456"];

/// The containers of the engine and their images.
fn containers(docker: &Docker) -> Result<Vec<Value>> {
    let listed = docker.raw("GET", "/containers/json")?;
    listed.as_array().cloned().context("no list of containers")
}

#[test]
fn a_container_is_updated_without_a_lost_request_and_a_broken_image_goes_back() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let Some(docker) = Docker::start_at(&hosts[1])? else { return Ok(()) };
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &[])?;
    let _node = Node::start_with(&hub, Some(&hosts[1]), "one", &docker.socket())?;
    let (image, digest) = docker.push_blueprint()?;
    let digest = digest.to_string();
    let run = ["workload", "run", "7/42", "--image", &image, "--digest", &digest];
    let named = ["--env", "EXAMPLE_LISTEN=0.0.0.0", "--env", "EXAMPLE_NAME=one", "--wait", "20s"];
    hub.json(&[&run[..], &SMALL, &named].concat())?;
    let access = hub.access_token("7/42")?;
    hub.wait_served("42", &access, SOON)?;
    let one = |_| Load::start(&hosts[0], hub.proxy(), ("42", access.as_str()), CALL);
    let load = (0..CLIENTS).map(one).collect::<Result<Vec<_>>>()?;
    load.iter().try_for_each(|one| one.wait_for_calls(5))?;

    let update = |options: &[&str]| {
        let waits = ["--health-time", "1s", "--pause", "2s", "--wait", "80s"];
        hub.command(&[&["update", "7/42"], options, &waits].concat())?.args(["--output", "json"]).run(THROUGH)
    };
    let serves = |name: &str, version: u64| {
        eventually_ok(SOON, "one version alone", || {
            let left = containers(&docker)?;
            ensure!(left.len() == 1, "{left:?}");
            let shown = hub.json(&["workload", "show", "7/42"])?;
            ensure!(shown["version"] == version && is_over(&shown) && shown["state"] == "running", "{shown}");
            let answer = hub.get("42", &access, "/")?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
            ensure!(text(&answer.json()?, "/service")? == name, "{}", answer.text());
            Ok(())
        })
    };
    for (version, name, options) in [
        (2, "two", &["--strategy", "blue-green"][..]),
        (3, "three", &["--strategy", "canary", "--canary", "30"]),
        (4, "four", &["--strategy", "rolling"]),
    ] {
        let named = format!("EXAMPLE_NAME={name}");
        let done = json_of(&update(&[&["-e", &named], options].concat())?)?;
        ensure!(done["version"] == version && is_over(&done), "{done}");
        serves(name, version)?;
        ensure!(failures(&load).is_empty(), "{options:?}: {:?}", failures(&load));
    }
    ensure!(calls(&load) > 100, "only {} calls", calls(&load));

    // An image of which the program ends: it is taken back by itself, and nobody notices.
    let (broken, digest) = docker.push_shell("exit 3", &[])?;
    let refused = update(&["--image", &format!("{broken}@sha256:{digest}")])?;
    ensure!(refused.code == Some(1), "{refused:?}");
    ensure!(refused.stderr.contains("version 5"), "{}", refused.stderr);
    let shown = hub.json(&["workload", "show", "7/42"])?;
    let reason = text(&shown, "/taken_back/reason")?;
    ensure!(reason.contains("version 5"), "{shown}");
    serves("four", 4)?;
    ensure!(failures(&load).is_empty(), "after the broken image: {:?}", failures(&load));
    Ok(())
}
