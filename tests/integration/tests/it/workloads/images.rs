//! What an image needs beside its layers: a login of its registry, folders that stay, and a check of its own health.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Lab, eventually_ok};
use serde_json::{Value, json};

use super::is_possible;
use super::rig::Node;
use crate::containers::USER;
use crate::containers::docker::Docker;
use crate::fixture::{CALL, Hub, SOON, text};

/// A folder that rests is measured every half a minute, and the workload waits between two tries.
const MEASURED: Duration = Duration::from_secs(75);

/// Whether a file below a folder holds this text.
fn holds(folder: &Path, wanted: &str) -> Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let found = if path.is_dir() {
            holds(&path, wanted)?
        } else {
            path.is_file()
                && std::fs::read(&path)?.windows(wanted.len()).any(|part| part == wanted.as_bytes())
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// That the password is where it has to be, and nowhere else.
fn is_nowhere_else(hub: &Hub<'_>, node: &Node<'_>, docker: &Docker) -> Result<()> {
    let (_, password) = USER;
    let listed = docker.raw("GET", "/containers/json?all=1")?;
    let id = text(&listed, "/0/Id")?.to_owned();
    let inspected = docker.raw("GET", &format!("/containers/{id}/json"))?.to_string();
    let shown = hub.json(&["workload", "show", "7/42"])?.to_string();
    let audit = hub.audit()?.join("\n");
    ensure!(audit.contains("a login of its registry"), "{audit}");
    let told = [("inspect", inspected), ("show", shown), ("audit", audit), ("hub", hub.log())];
    for (place, said) in told.into_iter().chain([("agent", node.agent.log())]) {
        ensure!(
            !said.contains(password) && !said.contains("guess-guess"),
            "the password is in {place}: {said}"
        );
    }
    ensure!(!holds(&hub.state(), password)? && !holds(&node.agent.state(), password)?, "it is on a disk");
    Ok(())
}

/// What it keeps in a volume counts for its limit of storage: it ends, and comes back once there is room.
fn keeps_too_much(hub: &Hub<'_>, volume: &Path) -> Result<()> {
    std::fs::write(volume.join("large"), vec![7; 20 << 20])?;
    eventually_ok(MEASURED, "the end of what keeps too much", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(text(&shown, "/reason")?.starts_with("over its storage limit: "), "{shown}");
        Ok(())
    })?;
    std::fs::remove_file(volume.join("large"))?;
    eventually_ok(MEASURED, "the workload once there is room", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(text(&shown, "/state")? == "running", "{shown}");
        Ok(())
    })
}

#[test]
fn a_private_image_with_a_volume_and_a_check_runs_where_its_node_may_sign_in() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let Some(docker) = Docker::start_at(&hosts[1])? else { return Ok(()) };
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &[])?;
    let mut node = Node::start_with(&hub, Some(&hosts[1]), "one", &docker.socket())?;
    let (image, digest) = docker.push_checked()?;
    docker.registry.lock();
    let source =
        |volume: Value| json!({ "type": "container", "image": image, "digest": digest, "volumes": [volume] });
    let written = |name: &str, text: &str| -> Result<String> {
        let path = node.folder("documents")?.join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let document = |volume: Value| {
        json!({
            "source": source(volume), "env": { "EXAMPLE_LISTEN": "0.0.0.0" },
            "limits": { "memory_bytes": 268_435_456, "storage_bytes": 16 << 20 },
        })
    };
    let file =
        written("workload.json", &document(json!({ "name": "db", "path": "/var/lib/db" })).to_string())?;

    // No folder of the node can be named.
    for volume in
        [json!({ "name": "db", "path": "/db", "host": "/etc" }), json!({ "name": "../x", "path": "/db" })]
    {
        let bad = written("bad.json", &document(volume).to_string())?;
        let refused = hub.command(&["workload", "run", "7/42", "--file", &bad])?.run(CALL)?;
        ensure!(refused.code == Some(2), "{:?}: {}", refused.code, refused.stderr);
    }

    // Without a login, and with a wrong one, the registry says no; with the right one it runs.
    let says_why = |why: &str| {
        eventually_ok(SOON, why, || {
            let shown = hub.json(&["workload", "show", "7/42"])?;
            ensure!(text(&shown, "/reason")?.contains(why), "{shown}");
            Ok(())
        })
    };
    hub.json(&["workload", "run", "7/42", "--file", &file])?;
    says_why("registry")?;
    let denied = text(&hub.json(&["workload", "show", "7/42"])?, "/state")?.to_owned();
    let wrong = written("wrong", "operator:guess-guess\n")?;
    hub.json(&["workload", "run", "7/42", "--file", &file, "--registry-login", &wrong])?;
    says_why("registry")?;
    ensure!(["failed", "backing-off"].contains(&denied.as_str()), "{denied}");
    let (user, password) = USER;
    let login = written("login", &format!("{user}:{password}\n"))?;
    let run = ["workload", "run", "7/42", "--file", &file, "--registry-login", &login, "--wait", "20s"];
    let running = hub.json(&run)?;
    ensure!(text(&running, "/state")? == "running", "{running}");

    // It greeted and it listens, and nobody is sent there until the check of its image is content.
    eventually_ok(SOON, "what the check of the image says", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(text(&shown, "/health")? == "unhealthy", "{shown}");
        let reason = text(&shown, "/health_reason")?;
        ensure!(reason.contains("the check of its image fails") && reason.contains("well"), "{shown}");
        Ok(())
    })?;
    let access = hub.access_token("7/42")?;
    ensure!(hub.get("42", &access, "/")?.status >= 500, "it is served");
    let volume = node.path("data/data/svc-7-42/volume-db");
    std::fs::write(volume.join("well"), "")?;
    hub.wait_served("42", &access, SOON)?;

    keeps_too_much(&hub, &volume)?;
    hub.wait_served("42", &access, SOON)?;
    is_nowhere_else(&hub, &node, &docker)?;
    hub.json(&["workload", "rm", "7/42"])?;
    eventually_ok(SOON, "the end of the container", || {
        let left = docker.raw("GET", "/containers/json?all=1")?;
        ensure!(left.as_array().is_some_and(Vec::is_empty), "{left}");
        Ok(())
    })?;
    ensure!(volume.join("well").is_file(), "what it kept is gone");
    let volumes = docker.raw("GET", "/v1.41/volumes")?;
    ensure!(volumes["Volumes"].as_array().is_none_or(Vec::is_empty), "{volumes}");
    ensure!(node.agent.process().context("no agent")?.is_running(), "{}", node.agent.log());
    Ok(())
}
