//! Workloads: an unmodified blueprint on a node that the hub chose, from its artefact to its last trace.

mod bridges;
mod closed;
mod ends;
mod engine;
mod held;
mod images;
mod limits;
mod logs;
mod memory;
mod nothing_left;
mod published;
mod recovery;
mod refused;
pub(crate) mod rig;
mod storage;
mod stranger;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Lab, Need, eventually_ok, processes_naming, require};
use serde_json::Value;

use self::rig::{Artefact, Node};
use crate::containers::docker::Docker;
use crate::fixture::{Agent, CALL, Hub, SOON, rows, text};
use crate::owners::{Owner, token};

/// Time until a node that died has lost its workloads, and they run elsewhere.
const MOVED: Duration = Duration::from_secs(60);

/// Own users, control groups and namespaces take root.
fn is_possible() -> bool {
    require(&[Need::Root])
}

#[test]
fn a_blueprint_is_fetched_runs_is_reached_by_its_owner_and_comes_back_after_a_crash() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let node = Node::start(&hub, None, "one")?;
    let (artefact, owner) = (Artefact::serve()?, Owner::new()?);
    let keystore = node.folder("keystore")?;
    std::fs::create_dir(keystore.join("Ecdsa"))?;
    std::fs::write(keystore.join("Ecdsa/ab12"), "[[1],[2]]")?;
    let keys = keystore.display().to_string();
    let owner_variable = format!("EXAMPLE_OWNER={}", owner.public());
    let rpc = ["--http-rpc-url", "https://rpc.example.org/", "--name", "demo"];
    let mut arguments = vec!["--env", owner_variable.as_str(), "--keystore", &keys];
    arguments.extend(rpc);
    artefact.run(&hub, "7/42", &arguments)?;

    // Its owner gets in by challenge, key and token; nobody named it to the hub but the blueprint itself.
    let access = token(&hub, &owner.api_key(&hub)?)?;
    let told = hub.get("42", &access, "/blueprint")?;
    ensure!(told.status == 200, "{}", told.text());
    let told = told.json()?;
    ensure!(text(&told, "/env/CHAIN")? == "testnet" && text(&told, "/env/BLUEPRINT_ID")? == "7", "{told}");
    ensure!(text(&told, "/env/DATA_DIR")?.ends_with("/blueprint-7-demo"), "{told}");
    ensure!(text(&told, "/args/0")? == "run" && text(&told, "/keys/0")? == "Ecdsa/ab12", "{told}");
    ensure!(told["starts"] == 1, "{told}");

    // It is another user than the agent, within its limits, and its keys are in memory and its alone.
    let pid = told["pid"].as_u64().unwrap_or(0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").to_owned();
    ensure!(!field("Uid:").contains("\t0") && field("NoNewPrivs:").trim() == "1", "{status}");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    ensure!(groups.contains("/svc-7-42"), "{groups}");
    let stored = PathBuf::from(text(&told, "/env/KEYSTORE_URI")?);
    ensure!(
        rig::mode(&stored)? == 0o700 && rig::mode(&stored.join("Ecdsa/ab12"))? == 0o400,
        "rights of keys"
    );
    ensure!(rig::is_in_memory(&stored)?, "keys are on a disk");

    // A crash: the agent starts it again, with its data, and its owner's token still counts.
    let _ = hub.get("42", &access, "/crash");
    let again = eventually_ok(SOON, "the blueprint after its crash", || {
        let told = hub.get("42", &access, "/blueprint")?;
        ensure!(told.status == 200, "{}: {}", told.status, told.text());
        told.json()
    })?;
    ensure!(again["starts"] == 2, "{again}");
    let shown = hub.json(&["workload", "show", "7/42"])?;
    ensure!(shown["restarts"] == 1 && text(&shown, "/state")? == "running", "{shown}");

    // Taken back: nothing stays but its data.
    hub.json(&["workload", "rm", "7/42"])?;
    eventually_ok(SOON, "the end of the blueprint", || {
        ensure!(processes_naming("svc-7-42").is_empty() && !stored.exists(), "something is left");
        ensure!(hub.json(&["service", "ls"])?.to_string().matches("7/42").count() <= 1, "still offered");
        Ok(())
    })?;
    ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the process is left");
    let data = text(&told, "/env/DATA_DIR")?;
    ensure!(std::fs::read_to_string(format!("{data}/starts"))?.trim() == "2", "its data is gone");
    let audit = hub.audit()?.join("\n");
    for event in ["workload.set 7/42", "workload.move 7/42", "workload.remove 7/42"] {
        ensure!(audit.contains(event), "{event} is not in\n{audit}");
    }
    ensure!(!hub.log().contains("[[1],[2]]") && !node.agent.log().contains("[[1],[2]]"), "a key in a log");
    Ok(())
}

#[test]
fn a_workload_moves_to_another_node_when_its_own_dies() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?, lab.host("two")?];
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &[])?;
    let mut one = Node::start(&hub, Some(&hosts[1]), "one")?;
    let mut two = Node::start(&hub, Some(&hosts[2]), "two")?;
    let program = rig::program(&one)?;
    let program = program.display().to_string();
    hub.json(&["workload", "run", "7/42", "--path", &program, "--wait", "20s"])?;
    let access = hub.access_token("7/42")?;
    hub.wait_served("42", &access, SOON)?;
    let chosen = text(&hub.json(&["workload", "show", "7/42"])?, "/node")?.to_owned();
    let (first, other) = if chosen == "one" { (&mut one, "two") } else { (&mut two, "one") };

    first.agent.process()?.kill()?;
    eventually_ok(MOVED, "the workload on the other node", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(text(&shown, "/node")? == other && text(&shown, "/state")? == "running", "{shown}");
        Ok(())
    })?;
    hub.wait_served("42", &access, SOON)?;
    let running = processes_naming(&program);
    ensure!(running.len() == 1, "it runs on under the agent that is dead: {running:?}");

    // The first comes back: the service stays where it is.
    first.agent.run()?;
    eventually_ok(SOON, "one process of it", || {
        let running = processes_naming(&program).len();
        ensure!(running == 1, "{running} processes");
        Ok(())
    })?;
    ensure!(text(&hub.json(&["workload", "show", "7/42"])?, "/node")? == other, "it went back");
    hub.wait_served("42", &access, SOON)?;
    Ok(())
}

#[test]
fn a_blueprint_in_a_container_is_reached_by_its_owner_and_comes_back_after_a_crash() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let Some(docker) = Docker::start_at(&hosts[1])? else { return Ok(()) };
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &[])?;
    let mut node = Node::start_with(&hub, Some(&hosts[1]), "one", &docker.socket())?;
    let ((image, digest), owner) = (docker.push_blueprint()?, Owner::new()?);
    let (digest, variable) = (digest.to_string(), format!("EXAMPLE_OWNER={}", owner.public()));
    let arguments = ["workload", "run", "7/42", "--image", &image, "--digest", &digest, "--env", &variable];
    hub.json(
        &[
            &arguments[..],
            &["--env", "EXAMPLE_LISTEN=0.0.0.0", "--memory-bytes", "268435456", "--wait", "20s"],
        ]
        .concat(),
    )?;

    let access = token(&hub, &owner.api_key(&hub)?)?;
    let reached = || {
        let told = hub.get("42", &access, "/blueprint")?;
        ensure!(told.status == 200, "{}: {}", told.status, told.text());
        told.json()
    };
    let told = eventually_ok(SOON, "the blueprint in its container", reached)?;
    ensure!(text(&told, "/env/DATA_DIR")? == "/mnt/data" && told["starts"] == 1, "{told}");

    let _ = hub.get("42", &access, "/crash");
    eventually_ok(SOON, "the blueprint after its crash", || {
        let told = reached()?;
        ensure!(told["starts"] == 2, "{told}");
        Ok(())
    })?;

    // An agent that is killed leaves a container; the next one removes it and starts its own.
    node.agent.process()?.kill()?;
    node.agent.run()?;
    eventually_ok(SOON, "the blueprint under the next agent", || {
        let told = reached()?;
        ensure!(told["starts"] == 3, "{told}");
        Ok(())
    })?;
    let count = || -> Result<usize> {
        let listed = docker.raw("GET", "/containers/json?all=1")?;
        Ok(listed.as_array().map_or(0, Vec::len))
    };
    ensure!(count()? == 1, "more than one container");
    // What each of the three wrote is kept, without its secrets, also where its agent was gone.
    let kept = hub.command(&["logs", "7/42", "--output", "json"])?.run(CALL)?.stdout;
    ensure!(kept.matches("listens on").count() == 3 && !kept.contains(&owner.public()), "{kept}");
    hub.json(&["workload", "rm", "7/42"])?;
    eventually_ok(SOON, "the end of the container", || {
        ensure!(count()? == 0, "it is left");
        Ok(())
    })
}

#[test]
fn a_blueprint_that_asks_for_what_is_not_its_own_is_refused_and_recorded() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let node = Node::start(&hub, None, "one")?;
    let program = rig::program(&node)?;
    let program = program.display().to_string();
    for (service, variable, why) in [
        ("7/42", "EXAMPLE_REGISTER_AS=43", "this bridge belongs to service 42"),
        ("7/44", "EXAMPLE_UPSTREAM=http://10.88.0.1:80", "not on this machine"),
    ] {
        hub.json(&["workload", "run", service, "--path", &program, "--env", variable])?;
        eventually_ok(SOON, "the end of a blueprint that was refused", || {
            let shown = hub.json(&["workload", "show", service])?;
            ensure!(text(&shown, "/reason")?.contains(why), "{shown}");
            Ok(())
        })?;
    }
    let services = hub.json(&["service", "ls"])?.to_string();
    ensure!(!services.contains("7/42") && !services.contains("7/43"), "{services}");
    let audit = hub.audit()?.join("\n");
    ensure!(audit.contains("bridge.refuse 7/42") && audit.contains("asked for service 43"), "{audit}");
    Ok(())
}

/// A node that runs 7/42 with a key.
struct Keyed {
    hub: Hub<'static>,
    node: Node<'static>,
    program: String,
    /// What the blueprint says of itself.
    told: Value,
    /// Where its keys are on the node.
    stored: PathBuf,
}

impl Keyed {
    fn start() -> Result<Self> {
        let hub = Hub::start(&[])?;
        let node = Node::start(&hub, None, "one")?;
        let program = rig::program(&node)?.display().to_string();
        let keystore = node.folder("keystore")?;
        std::fs::write(keystore.join("key"), "[[1],[2]]")?;
        let keys = keystore.display().to_string();
        hub.json(&["workload", "run", "7/42", "--path", &program, "--keystore", &keys, "--wait", "8s"])?;
        let access = hub.access_token("7/42")?;
        hub.wait_served("42", &access, SOON)?;
        let told = hub.get("42", &access, "/blueprint")?.json()?;
        let stored = PathBuf::from(text(&told, "/env/KEYSTORE_URI")?);
        Ok(Self { hub, node, program, told, stored })
    }
}

#[test]
fn a_node_that_is_removed_ends_its_workloads_and_forgets_their_keys() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let Keyed { hub, node: _node, program, told, stored } = Keyed::start()?;
    ensure!(stored.join("key").is_file() && processes_naming(&program).len() == 1, "{told}");

    hub.json(&["node", "rm", "one"])?;
    eventually_ok(SOON, "the end of its workload", || {
        let running = processes_naming(&program).len();
        ensure!(running == 0 && !stored.exists(), "{running} processes, keys there: {}", stored.exists());
        Ok(())
    })
}

#[test]
fn keys_leave_memory_when_their_agent_is_killed_for_good_and_when_it_runs_no_workloads_any_more() -> Result<()>
{
    if !is_possible() {
        return Ok(());
    }
    let Keyed { hub, mut node, program, told, stored } = Keyed::start()?;
    let folder = stored.parent().context("no folder")?.to_owned();
    ensure!(stored.join("key").is_file() && processes_naming(&program).len() == 1, "{told}");

    // Killed, and never back: the keeper ends the workload, and nothing of it stays in memory.
    node.agent.process()?.kill()?;
    eventually_ok(SOON, "the end of the keys", || {
        let running = processes_naming(&program).len();
        ensure!(running == 0 && !folder.exists(), "{running} processes, keys there: {}", stored.exists());
        Ok(())
    })?;

    // Killed together with the keeper: the next agent wipes, though it is to run no workloads.
    node.agent.run()?;
    eventually_ok(SOON, "the workload again", || {
        ensure!(stored.join("key").is_file() && processes_naming(&program).len() == 1, "{}", hub.log());
        Ok(())
    })?;
    let pid = processes_naming(&program).first().copied().context("no process")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let keeper = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("no parent")?;
    node.agent.process()?.kill()?;
    let keeper = nix::unistd::Pid::from_raw(keeper.trim().parse()?);
    // It may be ending the workload already, and be through with that before.
    let _ = nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGKILL);
    let mut node = node.set("workload.enabled=false");
    node.agent.run()?;
    eventually_ok(SOON, "the end of all that was left", || {
        let running = processes_naming(&program).len();
        ensure!(running == 0 && !folder.exists(), "{running} processes, keys there: {}", stored.exists());
        Ok(())
    })
}

#[test]
fn a_blueprint_sees_nothing_of_another() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let Keyed { hub, node, program: _, told, stored } = Keyed::start()?;
    let socket = stored.with_file_name("bridge").join("bridge.sock");
    ensure!(stored.join("key").is_file() && socket.exists(), "{told}");

    // Each try leaves a file that says what came of it.
    let script = node.folder("bin")?.join("curious");
    let lines = [
        "#!/bin/sh",
        "try() { if \"$@\" >/dev/null 2>&1; then touch \"$DATA_DIR/did-$N\"; else touch \"$DATA_DIR/no-$N\"; fi; }",
        "N=key; try cat \"$VICTIM/key\"",
        "N=list; try ls \"$VICTIM\"",
        "N=data; try cat \"$VICTIM_DATA/starts\"",
        "N=socket; try python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])' \"$SOCKET\"",
        "N=agent; try cat \"$AGENT/identity.json\"",
        "N=kill; try kill -0 \"$VICTIM_PID\"",
        "N=write; try touch \"/var/tmp/blueprint-test-$$\"",
        "N=own; try ls \"$KEYSTORE_URI\"",
        "sleep 600",
    ];
    std::fs::write(&script, lines.join("\n"))?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let variables = [
        format!("VICTIM={}", stored.display()),
        format!("VICTIM_DATA={}", text(&told, "/env/DATA_DIR")?),
        format!("SOCKET={}", socket.display()),
        format!("AGENT={}", node.agent.state().display()),
        format!("VICTIM_PID={}", told["pid"]),
    ];
    let path = script.display().to_string();
    let mut arguments = vec!["workload", "run", "7/43", "--path", &path, "--test-mode"];
    for variable in &variables {
        arguments.extend(["--env", variable]);
    }
    hub.json(&arguments)?;
    let data = node.folder("data/data/svc-7-43")?.join("blueprint-7-service");
    let names = || -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&data)?.flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    };
    eventually_ok(SOON, "the last try", || {
        ensure!(names()?.iter().any(|name| name.ends_with("-own")), "{:?}", names());
        Ok(())
    })?;
    let expected =
        ["did-own", "no-agent", "no-data", "no-key", "no-kill", "no-list", "no-socket", "no-write"];
    ensure!(names()? == expected, "{:?}", names()?);
    Ok(())
}

#[test]
fn what_cannot_be_run_says_why_and_leaves_nothing() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let node = Node::start(&hub, None, "one")?;
    let artefact = Artefact::serve()?;
    let (url, sha256) = (artefact.url(), artefact.sha256());
    let wrong = "00".repeat(32);
    let absent = node.folder("")?.join("absent").display().to_string();
    let cases: [(&str, Vec<&str>, &str); 5] = [
        ("7/1", vec!["--url", &url, "--sha256", &wrong], "SHA-256"),
        ("7/2", vec!["--path", &absent], "No such file"),
        (
            "7/3",
            vec!["--url", &url, "--sha256", &sha256, "--memory-bytes", "1000000000000000"],
            "MiB of memory",
        ),
        (
            "7/4",
            vec!["--url", &url, "--sha256", &sha256, "--cpu-millis", "1024000"],
            "thousandths of a processor",
        ),
        ("7/5", vec!["--image", "example/none", "--digest", &wrong], "workload.engine_socket"),
    ];
    for (service, options, _) in &cases {
        let mut arguments = vec!["workload", "run", service];
        arguments.extend(options);
        hub.json(&arguments)?;
    }
    for (service, _, why) in &cases {
        eventually_ok(SOON, &format!("the reason of {service}"), || {
            let shown = hub.json(&["workload", "show", service])?;
            let (state, reason) = (text(&shown, "/state")?, text(&shown, "/reason")?);
            ensure!(
                ["failed", "backing-off", "unplaced"].contains(&state) && reason.contains(why),
                "{shown}"
            );
            Ok(())
        })?;
    }
    let left = node.programs_in_cache()?;
    ensure!(left.is_empty(), "left in the cache: {left:?}");
    let listed = hub.json(&["workload", "ls"])?;
    ensure!(rows(&listed, "/workloads")?.len() == cases.len(), "{listed}");
    let refused = hub.command(&["workload", "run", "7/6", "--path", "relative"])?.run(CALL)?;
    ensure!(refused.code == Some(2) && refused.stderr.contains("absolute path"), "{}", refused.stderr);
    Ok(())
}

#[test]
fn a_node_that_runs_no_workloads_gets_none_and_the_operator_reads_why() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let off = Agent::join(None, "off", &hub.join_line(&[])?)?;
    let mut off = off.set("workload.enabled=false");
    off.run()?;
    hub.json(&["workload", "run", "7/42", "--path", "/bin/true", "--test-mode"])?;
    eventually_ok(SOON, "the reason", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(text(&shown, "/state")? == "unplaced" && shown["node"].is_null(), "{shown}");
        ensure!(text(&shown, "/reason")?.starts_with("no node runs workloads"), "{shown}");
        Ok(())
    })?;
    // Meanwhile the service is nobody's to offer.
    let local = std::net::TcpListener::bind("127.0.0.1:0")?;
    let _ = off.offer("7/42", local.local_addr()?);
    eventually_ok(SOON, "the refusal", || {
        let audit = hub.audit()?.join("\n");
        ensure!(audit.contains("target.refuse") && audit.contains("has none for it yet"), "{audit}");
        Ok(())
    })?;
    let on = Node::start(&hub, None, "on")?;
    let program = rig::program(&on)?.display().to_string();
    let run = ["workload", "run", "7/42", "--path", &program, "--test-mode", "--wait", "20s"];
    let running = hub.json(&run)?;
    ensure!(text(&running, "/node")? == "on" && text(&running, "/state")? == "running", "{running}");
    Ok(())
}
