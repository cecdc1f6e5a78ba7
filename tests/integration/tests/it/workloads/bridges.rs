//! The bridge of a workload: what its seven calls answer, and to whom.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Need, eventually_ok, plugin_python, require};
use serde_json::json;

use super::is_possible;
use super::rig::{self, Artefact, Node};
use crate::fixture::{CALL, Hub, SOON, text};
use crate::owners::Owner;

/// Any user without an entry in the system's list.
const USER: u32 = 59_142;

/// Speaks HTTP/2 to a socket, and fails where nobody answers.
const GREET: &str = "import socket,sys
s=socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])
s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'+bytes([0,0,0,4,0,0,0,0,0]))
sys.exit(0 if s.recv(9) else 1)";

/// What one tries at its neighbour's bridge and at its own; the last from a process that lost its parent.
const TRIES: [&str; 6] = [
    "try() { if \"$@\" >/dev/null 2>&1; then touch \"$DATA_DIR/did-$N\"; else touch \"$DATA_DIR/no-$N\"; fi; }",
    "N=neighbour; try python3 -c \"$GREET\" \"$NEIGHBOUR\"",
    "N=forked; try sh -c 'setsid python3 -c \"$GREET\" \"$NEIGHBOUR\" & wait $!'",
    "N=own; try python3 -c \"$GREET\" \"$BRIDGE_SOCKET_PATH\"",
    "(setsid sh -c 'sleep 1; python3 -c \"$GREET\" \"$BRIDGE_SOCKET_PATH\" && touch \"$DATA_DIR/did-orphan\"' &)",
    "sleep 600",
];

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder)?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> =
        names.filter(|name| name.starts_with("did-") || name.starts_with("no-")).collect();
    names.sort();
    Ok(names)
}

#[test]
fn a_blueprint_of_an_ordinary_user_does_not_get_to_its_neighbours_bridge() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let node = Node::start_as(&hub, USER, "one")?;
    let program = rig::program(&node)?.display().to_string();
    hub.json(&["workload", "run", "7/42", "--path", &program, "--wait", "20s"])?;
    let access = hub.access_token("7/42")?;
    hub.wait_served("42", &access, SOON)?;
    let told = hub.get("42", &access, "/blueprint")?.json()?;
    let keys = PathBuf::from(text(&told, "/env/KEYSTORE_URI")?);
    let socket = keys.with_file_name("bridge").join("bridge.sock");
    ensure!(socket.exists(), "{told}");

    let tries = node.script("tries", &TRIES)?;
    let variables = [format!("NEIGHBOUR={}", socket.display()), format!("GREET={GREET}")];
    hub.json(&["workload", "run", "7/43", "--path", &tries, "--env", &variables[0], "--env", &variables[1]])?;
    let data = node.path("data/data/svc-7-43/blueprint-7-service");
    eventually_ok(SOON, "the tries", || {
        let names = names(&data)?;
        ensure!(names == ["did-orphan", "did-own", "no-forked", "no-neighbour"], "{names:?}");
        Ok(())
    })?;
    eventually_ok(SOON, "the record", || {
        let audit = hub.audit()?;
        let rows: Vec<_> = audit.iter().filter(|row| row.starts_with("bridge.refuse 7/42")).collect();
        ensure!(rows.len() == 1 && rows[0].contains("not the workload's"), "{audit:?}");
        Ok(())
    })?;
    // The service itself is not held up.
    hub.wait_served("42", &access, SOON)?;
    Ok(())
}

/// What each call answers; the Manager's codes, but for a service that is not there: a bridge is of one service, so every
/// other one is refused alike, and nobody learns which there are.
const ANSWERS: [&str; 26] = [
    "ping OK",
    "port OK",
    "port-again OK",
    "port-kept OK",
    "port-too-large INVALID_ARGUMENT",
    "add-before FAILED_PRECONDITION",
    "remove-before FAILED_PRECONDITION",
    "tls-before FAILED_PRECONDITION",
    "unregister-before FAILED_PRECONDITION",
    "register-other PERMISSION_DENIED",
    "register-elsewhere INVALID_ARGUMENT",
    "register-no-url INVALID_ARGUMENT",
    "register OK",
    "register-again OK",
    "add OK",
    "add-again OK",
    "add-unknown INVALID_ARGUMENT",
    "add-nobody INVALID_ARGUMENT",
    "remove OK",
    "remove-again OK",
    "remove-nobody INVALID_ARGUMENT",
    "tls-none OK",
    "tls-empty INVALID_ARGUMENT",
    "unregister OK",
    "unregister-again FAILED_PRECONDITION",
    "no-such UNIMPLEMENTED",
];

#[test]
fn a_client_made_from_the_managers_definition_gets_the_managers_codes() -> Result<()> {
    if !is_possible() || !require(&[Need::PluginPython]) {
        return Ok(());
    }
    let python = plugin_python().context("no python")?;
    let hub = Hub::start(&[])?;
    let node = Node::start(&hub, None, "one")?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let code = node.folder("bin")?.join("calls.py");
    std::fs::write(&code, include_str!("bridge_calls.py"))?;
    let line = format!("exec {} -B {} {folder}", python.display(), code.display());
    let program = node.script("calls", &[&line])?;
    // The interpreter is root's, in a folder that is shut to others: so this one is not confined, and has the agent's user.
    let document = json!({
        "source": { "type": "testing", "path": program },
        "env": { "EXAMPLE_OWNER": Owner::new()?.public() },
        "sandbox": { "no_new_privileges": true, "private_tmp": true, "own_user": false, "landlock": false },
    });
    let file = node.folder("bin")?.join("document.json");
    std::fs::write(&file, document.to_string())?;
    hub.json(&["workload", "run", "7/42", "--file", &file.display().to_string()])?;
    eventually_ok(SOON, "all calls", || {
        let written = hub.command(&["logs", "7/42"])?.run(CALL)?.stdout;
        let said: Vec<&str> = written
            .lines()
            .filter_map(|line| ANSWERS.iter().find(|answer| line.ends_with(&format!(" {answer}"))).copied())
            .collect();
        ensure!(said == ANSWERS && written.contains("done OK"), "{written}");
        Ok(())
    })
    .with_context(|| node.agent.log())
}

#[test]
fn owners_that_a_blueprint_names_no_more_lose_their_right_and_those_of_the_operator_stay() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let _node = Node::start(&hub, None, "one")?;
    let artefact = Artefact::serve()?;
    let (first, second, operators) = (Owner::of(4)?, Owner::of(5)?, Owner::of(6)?);
    let named = |owner: &Owner| format!("EXAMPLE_OWNER={}", owner.public());
    artefact.run(&hub, "7/42", &["--env", &named(&first)])?;
    // Its greeting comes before its registration.
    eventually_ok(SOON, "the first registration", || first.api_key(&hub))?;
    hub.json(&["service", "owner", "add", "7/42", &format!("ecdsa:{}", operators.public())])?;
    operators.api_key(&hub)?;
    let owners = || hub.json(&["service", "owner", "ls", "7/42"]).map(|told| told.to_string());
    artefact.run(&hub, "7/42", &["--env", &named(&second)])?;
    eventually_ok(SOON, "the next registration", || {
        let told = owners()?;
        let has = |owner: &Owner| told.contains(&owner.public());
        ensure!(!has(&first) && has(&second) && has(&operators), "{told}");
        Ok(())
    })?;
    ensure!(first.api_key(&hub).is_err(), "it still gets keys");
    for owner in [&second, &operators] {
        owner.api_key(&hub)?;
    }
    hub.json(&["workload", "rm", "7/42"])?;
    let told = owners()?;
    ensure!(!told.contains(&second.public()) && told.contains(&operators.public()), "{told}");
    Ok(())
}
