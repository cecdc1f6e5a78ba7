//! Limits and walls of native workloads, as the kernel holds them; and nodes that hold none.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::eventually_ok;
use serde_json::{Value, json};

use super::is_possible;
use super::rig::Node;
use crate::fixture::{Hub, SOON, text};

/// Any user without an entry in the system's list.
const USER: u32 = 59_142;

/// Runs a script by a document with these limits.
fn run(hub: &Hub<'_>, node: &Node<'_>, service: &str, script: &str, limits: Value) -> Result<()> {
    let name = service.replace('/', "-");
    let code = node.folder("bin")?.join(format!("{name}.py"));
    std::fs::write(&code, script)?;
    let path = node.script(&name, &[&format!("exec python3 -I {}", code.display())])?;
    let document = json!({
        "source": { "type": "testing", "path": path }, "limits": limits, "restart": "never", "test_mode": true,
    });
    let file = node.folder("bin")?.join(format!("{name}.json"));
    std::fs::write(&file, document.to_string())?;
    hub.json(&["workload", "run", service, "--file", &file.display().to_string()])?;
    Ok(())
}

/// Waits until the node has said whether it holds limits.
fn says_held(hub: &Hub<'_>, is_held: bool) -> Result<()> {
    eventually_ok(SOON, "what the node says of itself", || {
        let shown = hub.json(&["node", "show", "one"])?;
        ensure!(shown.pointer("/node/inventory/limits_held") == Some(&is_held.into()), "{shown}");
        Ok(())
    })
}

fn data(node: &Node<'_>, service: &str) -> PathBuf {
    node.path(&format!("data/data/svc-{}/blueprint-7-service", service.replace('/', "-")))
}

/// Waits for a file of a workload with a number in it.
fn number(node: &Node<'_>, service: &str, name: &str) -> Result<f64> {
    let path = data(node, service).join(name);
    eventually_ok(SOON, name, || {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().parse::<f64>()?)
    })
}

#[test]
fn a_native_workload_gets_no_more_memory_processes_and_time_than_its_limits_say() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let node = Node::start(&hub, None, "one")?;
    says_held(&hub, true)?;

    let memory = "held = bytearray(256 << 20)\nfor at in range(0, len(held), 4096): held[at] = 1\n";
    run(&hub, &node, "7/1", memory, json!({ "memory_bytes": 48 << 20 }))?;
    eventually_ok(SOON, "the end for memory", || {
        let shown = hub.json(&["workload", "show", "7/1"])?;
        ensure!(text(&shown, "/reason")?.contains("more memory than its limit"), "{shown}");
        Ok(())
    })?;

    let forks = "import os, time\ncount = 0\ntry:\n    while count < 200:\n        if os.fork() == 0:\n            \
                 time.sleep(600)\n            os._exit(0)\n        count += 1\nexcept OSError:\n    pass\n\
                 open(os.environ['DATA_DIR'] + '/new', 'w').write(str(count))\n\
                 os.rename(os.environ['DATA_DIR'] + '/new', os.environ['DATA_DIR'] + '/forked')\ntime.sleep(600)\n";
    run(&hub, &node, "7/2", forks, json!({ "pids": 24 }))?;
    let forked = number(&node, "7/2", "forked")?;
    ensure!((1.0..24.0).contains(&forked), "{forked} processes of 24");

    let spin = "import os, time\nbegin = time.monotonic()\nwhile time.monotonic() - begin < 3: pass\n\
                open(os.environ['DATA_DIR'] + '/new', 'w').write(str(time.process_time() / 3))\n\
                os.rename(os.environ['DATA_DIR'] + '/new', os.environ['DATA_DIR'] + '/share')\ntime.sleep(600)\n";
    run(&hub, &node, "7/3", spin, json!({ "cpu_millis": 200 }))?;
    // A period more than the limit may fall into the time that it is looked at.
    let share = number(&node, "7/3", "share")?;
    ensure!(share > 0.0 && share < 0.3, "{share} of a processor, and 0.2 is the limit");
    Ok(())
}

#[test]
fn a_native_workload_has_a_tmp_of_its_own() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    // Not below /tmp, where a workload that has its folders there keeps that of the machine.
    let outside = tempfile::Builder::new().prefix("blueprint-test-tmp-").tempdir_in("/var/tmp")?;
    std::fs::set_permissions(outside.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let setting = format!("workload.data_dir={}", outside.path().join("data").display());
    let _node = Node::start_set(&hub, None, "one", &[&setting])?;
    let (program, mark) = (outside.path().join("program"), format!("blueprint-mark-{}", std::process::id()));
    let lines = format!(
        "#!/bin/sh\ntouch /tmp/{mark} && ls /tmp >\"$DATA_DIR/new\" && mv \"$DATA_DIR/new\" \"$DATA_DIR/seen\"\nsleep 600\n"
    );
    std::fs::write(&program, lines)?;
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    hub.json(&["workload", "run", "7/42", "--path", &program.display().to_string(), "--test-mode"])?;
    let seen = outside.path().join("data/data/svc-7-42/blueprint-7-service/seen");
    let listed = eventually_ok(SOON, "what it sees", || Ok(std::fs::read_to_string(&seen)?))?;
    ensure!(listed.trim() == mark, "it sees {listed}");
    ensure!(!PathBuf::from("/tmp").join(&mark).exists(), "the machine sees it");
    Ok(())
}

#[test]
fn a_node_that_holds_no_limits_refuses_them_unless_its_owner_lets_it() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let mut node = Node::start_as(&hub, USER, "one")?;
    let program = node.script("waits", &["exec sleep 600"])?;
    says_held(&hub, false)?;

    let asks = ["--memory-bytes", "268435456", "--test-mode"];
    hub.json(&[&["workload", "run", "7/42", "--path", &program], &asks[..]].concat())?;
    eventually_ok(SOON, "the refusal", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        let (state, reason) = (text(&shown, "/state")?, text(&shown, "/reason")?);
        ensure!(["unplaced", "failed"].contains(&state), "{shown}");
        ensure!(reason.contains("(memory_bytes)") && reason.contains("workload.allow_unlimited"), "{shown}");
        Ok(())
    })?;
    // What asks for none runs, and is told to be without.
    let usual = hub.json(&["workload", "run", "7/43", "--path", &program, "--test-mode", "--wait", "20s"])?;
    ensure!(text(&usual, "/state")? == "running" && usual["limits_held"] == false, "{usual}");

    node.agent.process()?.kill()?;
    let mut node = node.set("workload.allow_unlimited=true");
    node.agent.run()?;
    eventually_ok(SOON, "the workload that asks for limits", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(text(&shown, "/state")? == "running" && shown["limits_held"] == false, "{shown}");
        Ok(())
    })
}

/// Writes 8 MiB past the cache, reads them again, and says how long the reading took.
const READS: &str = "import mmap, os, time\n\
    data = os.environ['DATA_DIR']\n\
    piece = mmap.mmap(-1, 1 << 20)\n\
    piece.write(b'x' * (1 << 20))\n\
    file = os.open(data + '/file', os.O_RDWR | os.O_CREAT | os.O_DIRECT)\n\
    for at in range(8): os.pwritev(file, [piece], at << 20)\n\
    begin = time.monotonic()\n\
    for at in range(8): os.preadv(file, [piece], at << 20)\n\
    open(data + '/new', 'w').write(str(time.monotonic() - begin))\n\
    os.rename(data + '/new', data + '/took')\n\
    time.sleep(600)\n";

#[test]
fn a_native_workload_reads_no_faster_than_its_limit_and_what_cannot_be_held_is_refused() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let node = Node::start(&hub, None, "one")?;
    says_held(&hub, true)?;
    let refused = |service: &str, why: &str| {
        eventually_ok(SOON, "the refusal", || {
            let shown = hub.json(&["workload", "show", service])?;
            ensure!(text(&shown, "/state")? == "failed" && text(&shown, "/reason")?.contains(why), "{shown}");
            Ok(())
        })
    };
    let major = nix::sys::stat::major(nix::sys::stat::stat(&node.folder("bin")?)?.st_dev);
    if major == 0 {
        // A folder in memory, as tests may have theirs: then that is the answer.
        run(&hub, &node, "7/1", READS, json!({ "io": { "read_bytes": 2 << 20 } }))?;
        return refused("7/1", "is on no disk of its own");
    }
    run(&hub, &node, "7/1", READS, json!({ "io": { "read_bytes": 2 << 20 } }))?;
    run(&hub, &node, "7/2", READS, json!({ "io": { "read_ops": 1_000_000 } }))?;
    let (slow, fast) = (number(&node, "7/1", "took")?, number(&node, "7/2", "took")?);
    ensure!(
        (2.5..12.0).contains(&slow) && fast < slow / 2.0,
        "{slow} s for 8 MiB at 2 MiB/s, {fast} s without"
    );
    if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        run(&hub, &node, "7/3", READS, json!({ "io": { "write_bytes": 2 << 20 } }))?;
        refused("7/3", "control groups of version 1 do not bound what is written")?;
        ensure!(!data(&node, "7/3").exists(), "it was started");
    }
    Ok(())
}
