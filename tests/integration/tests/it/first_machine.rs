//! The first remote machine, as the README says: hub and machine on two hosts, one pasted line.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::curl;
use blueprint_tests_support::{Lab, Launch, Need, binary, eventually_ok, require};
use serde_json::Value;

use crate::fixture::{Agent, CALL, Hub, SOON, Service, rows, text};

/// The address under which curl reaches the proxy on the hub's host.
const PROXY: &str = "http://127.0.0.1:8276/";

#[test]
fn a_machine_joins_by_the_pasted_line_and_its_service_answers() -> Result<()> {
    if !require(&[Need::Program("curl")]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (public, remote) = (lab.host("hub")?, lab.host("machine")?);
    lab.set_name("hub.example.org", &[public.address().into()]);
    let hub = Hub::start_on(&public, "hub.example.org", &[])?;

    let printed = hub.command(&["token", "create"])?.run(CALL)?;
    assert_eq!(printed.stdout.lines().count(), 1, "one line: {printed:?}");
    let line = printed.stdout.trim();
    ensure!(line.starts_with("hub.example.org:7443/"), "{line}");
    let mut agent = Agent::paste(&remote, "machine-1", line)?;
    agent.run()?;
    let service = Service::start(Some(&remote), "greeter")?;
    agent.offer("7/42", service.address)?;

    let token = hub.command(&["access", "create", "--service", "7/42"])?.run(CALL)?.stdout;
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let greeting = hub.wait_served("42", token.trim(), SOON)?;
    assert_eq!(text(&greeting.json()?, "/service")?, "greeter");
    let (status, body) = curl(Some(&public), &["-H", &bearer, "-H", "X-Service-Id: 42", PROXY], CALL)?;
    assert_eq!(status, 200, "{body}");
    let (status, body) = curl(Some(&public), &["-H", "X-Service-Id: 42", PROXY], CALL)?;
    let body: Value = serde_json::from_str(&body)?;
    assert_eq!((status, text(&body, "/error/code")?), (401, "missing_token"));

    what_the_operator_sees(&hub, &agent)?;
    what_the_machine_sees(&mut agent)
}

#[test]
fn the_environment_of_an_agent_may_name_its_folder_and_its_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (state, file) = (folder.path().join("state"), folder.path().join("agent.toml"));
    std::fs::write(&file, "[agent]\nname = \"by-file\"\n")?;
    let ask = |arguments: &[&str]| {
        let agent = Launch::new(binary("blueprint-agent")?).args(arguments);
        let path = |path: &Path| path.display().to_string();
        agent.env("BLUEPRINT_AGENT_STATE", path(&state)).env("BLUEPRINT_AGENT_CONFIG", path(&file)).run(CALL)
    };
    let added = ask(&["service", "add", "7/42", "--local", "127.0.0.1:8080"])?;
    assert_eq!(added.code, Some(0), "{}", added.stderr);
    ensure!(state.is_dir(), "it is kept elsewhere");
    assert!(ask(&["service", "ls"])?.stdout.contains("7/42"));
    let shown = ask(&["config", "show"])?;
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(shown.stdout.contains("by-file"), "{}", shown.stdout);
    // Not joined: that is what is wrong, and not the environment.
    let run = ask(&["run"])?;
    assert!(run.stderr.contains("join") && !run.stderr.contains("environment"), "{}", run.stderr);
    Ok(())
}

fn what_the_operator_sees(hub: &Hub<'_>, agent: &Agent<'_>) -> Result<()> {
    let nodes = hub.json(&["node", "ls"])?;
    let [node] = rows(&nodes, "/nodes")? else { panic!("one node: {nodes}") };
    assert_eq!(text(node, "/id")?, agent.id());
    assert_eq!((text(node, "/name")?, text(node, "/state")?), ("machine-1", "up"));
    assert!(text(node, "/tunnel/endpoint")?.starts_with("198.18.2.2:"), "{node}");

    // The first sample comes with the first heartbeat.
    let shown = eventually_ok(SOON, "a sample of the machine", || {
        let shown = hub.json(&["node", "show", "machine-1"])?;
        ensure!(shown.pointer("/qos/machine").is_some(), "{shown}");
        Ok(shown)
    })?;
    assert_eq!(text(&shown, "/node/id")?, agent.id());
    assert_eq!(text(&shown, "/targets/0/health")?, "healthy");

    let services = hub.json(&["service", "ls"])?;
    assert_eq!(text(&services, "/services/0/service")?, "7/42");
    assert_eq!(services.pointer("/services/0/healthy"), Some(&Value::from(1)));
    let shown = hub.json(&["service", "show", "7/42"])?;
    assert_eq!(text(&shown, "/targets/0/node_name")?, "machine-1");

    let status = hub.json(&["status"])?;
    assert_eq!(text(&status, "/join_address")?, "hub.example.org:7443");
    for (pointer, count) in [("/nodes/joined", 1), ("/nodes/data_plane_up", 1), ("/services/healthy", 1)] {
        assert_eq!(status.pointer(pointer), Some(&Value::from(count)), "{pointer} of {status}");
    }

    let mut watch = hub.command(&["service", "watch", "--output", "json"])?.start()?;
    let line = watch.wait_for_line("upsert", SOON)?;
    let event: Value = serde_json::from_str(&line).with_context(|| format!("a line is an event: {line}"))?;
    assert_eq!(text(&event, "/target/service")?, "7/42");
    assert_eq!(text(&event, "/target/health")?, "healthy");
    assert!(event.pointer("/index").is_some_and(Value::is_u64), "{event}");
    // A removal is told to whoever watches.
    agent.json(&["service", "rm", "7/42"])?;
    let line = watch.wait_for_line("\"remove\"", SOON)?;
    assert_eq!(text(&serde_json::from_str(&line)?, "/target/service")?, "7/42");

    let absent = hub.command(&["node", "show", "nobody"])?.run(CALL)?;
    assert_eq!(absent.code, Some(3), "{}", absent.stderr);
    assert!(absent.stderr.contains("node ls"), "the next step: {}", absent.stderr);
    Ok(())
}

fn what_the_machine_sees(agent: &mut Agent<'_>) -> Result<()> {
    let status = agent.json(&["status"])?;
    assert_eq!(text(&status, "/hub")?, "hub.example.org:7443");
    assert_eq!(text(&status, "/control/state")?, "up");
    for pointer in ["/running", "/ready", "/data_plane/alive"] {
        assert_eq!(status.pointer(pointer), Some(&Value::from(true)), "{pointer} of {status}");
    }
    let left = agent.json(&["leave"])?;
    assert_eq!(left.pointer("/hub_told"), Some(&Value::from(true)));
    assert_eq!(agent.process()?.wait(SOON)?.code(), Some(0));
    let status = agent.command(&["status"])?.run(CALL)?;
    assert_eq!(status.code, Some(3), "{}", status.stderr);
    Ok(())
}
