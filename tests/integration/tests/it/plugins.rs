//! A hub whose cloud is the example of a plugin, which the hub starts as a user of its own: from the order to the last machine.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Launch, Need, eventually_ok, plugin_python, require, scratch};
use serde_json::Value;

use crate::fixture::{CALL, Hub, SOON, text};

/// Longest wait for machines to be made or gone on a busy machine.
const SETTLED: Duration = Duration::from_secs(60);

/// The machines of the cloud of files.
fn machines(folder: &Path) -> Result<Vec<Value>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let files = entries.flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    files.map(|path| Ok(serde_json::from_slice(&std::fs::read(path)?)?)).collect()
}

fn until(hub: &Hub<'_>, folder: &Path, what: &str, is_it: impl Fn(&[Value]) -> bool) -> Result<()> {
    let settled = eventually_ok(SETTLED, what, || {
        let found = machines(folder)?;
        ensure!(is_it(&found), "{found:?}");
        Ok(())
    });
    settled.with_context(|| hub.log())
}

/// The plugin's process, by the script that it came from.
fn process(script: &Path) -> Result<String> {
    let found = Launch::new("pgrep").args(["-f", "examples/python/plugin.py"]).run(CALL)?;
    let mark = script.display().to_string();
    let is_it = |pid: &&str| {
        let read = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&read).contains(&mark)
    };
    let pid = found.stdout.lines().find(is_it).map(str::to_owned);
    pid.context("the plugin does not run")
}

#[test]
fn a_plugin_makes_machines_and_is_started_again_where_it_dies() -> Result<()> {
    if !require(&[Need::Root, Need::PluginPython]) {
        return Ok(());
    }
    let folder = scratch("plugin")?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let (script, own) = (folder.path().join("plugin"), folder.path().join("own"));
    let python = plugin_python().context("no python")?;
    let example =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../hub/provider-external/examples/python/plugin.py");
    // Who runs it can read what is needed and nothing of the hub: root of the test's folders hides both from others.
    std::fs::write(
        &script,
        format!("#!/bin/sh\nexport MARK={}\nexec {} -B {example}\n", script.display(), python.display()),
    )?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let socket = own.join("provider.sock");
    let hub = Hub::start(&[
        "hub.advertise=127.0.0.1",
        "providers.external.enabled=true",
        &format!("providers.external.socket={}", socket.display()),
        &format!("providers.external.program={}", script.display()),
        "providers.external.user=root",
        "provision.every=1s",
        "provision.call_again=2s",
        "provision.second_look=1s",
    ])?;
    eventually_ok(SETTLED, "a plugin that serves", || {
        ensure!(socket.exists(), "no socket");
        Ok(())
    })
    .with_context(|| hub.log())?;
    let cloud = own.join("machines");
    let order = ["deploy", "--yes", "--provider", "external", "--replicas", "2", "--request-key", "once"];
    let ordered = eventually_ok(SETTLED, "an order", || hub.json(&order)).with_context(|| hub.log())?;
    let id = text(&ordered, "/id")?.to_owned();
    until(&hub, &cloud, "two machines", |found| found.len() == 2)?;

    // It dies, is started again, and knows its machines.
    let pid = process(&script)?;
    ensure!(Launch::new("kill").args(["-KILL", &pid]).run(CALL)?.code == Some(0), "kill {pid}");
    eventually_ok(SETTLED, "the plugin again", || {
        ensure!(process(&script)? != pid, "it is the same");
        Ok(())
    })?;
    ensure!(text(&hub.json(&order)?, "/id")? == id, "ordered twice");
    hub.json(&["deployment", "terminate", &id, "--yes"])?;
    until(&hub, &cloud, "no machine", <[Value]>::is_empty)?;
    ensure!(!hub.log().contains("bpj_"), "the log holds a join token");

    // With the hub it ends.
    drop(hub);
    eventually_ok(SOON, "the end of the plugin", || {
        ensure!(process(&script).is_err(), "it still runs");
        Ok(())
    })
}
