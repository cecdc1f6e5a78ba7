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

/// Whether a process still runs a program.
fn runs(pid: &str) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// The number that a plugin wrote of what it gave a session of its own.
fn apart(file: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(file)?.trim().to_owned())
}

#[test]
fn several_plugins_are_clouds_of_their_own_and_nothing_that_they_started_outlives_them() -> Result<()> {
    if !require(&[Need::Root, Need::PluginPython]) {
        return Ok(());
    }
    let folder = scratch("plugins")?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let python = plugin_python().context("no python")?;
    let example =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../hub/provider-external/examples/python/plugin.py");
    let path = |name: &str, file: &str| folder.path().join(format!("{name}{file}"));
    let mut list = String::new();
    for name in ["rack", "lab"] {
        let (script, left) = (path(name, ".sh"), path(name, ".left"));
        let text = format!(
            "#!/bin/sh\nexport MARK={script}\nsetsid sleep 86400 &\necho $! >{left}.part\nmv {left}.part {left}\nexec {python} -B {example}\n",
            script = script.display(),
            left = left.display(),
            python = python.display(),
        );
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        let socket = path(name, "/provider.sock");
        list.push_str(&format!(
            "[[plugin]]\nname = \"{name}\"\nprogram = \"{}\"\nsocket = \"{}\"\nuser = \"root\"\n",
            script.display(),
            socket.display()
        ));
    }
    let file = path("plugins", ".toml");
    std::fs::write(&file, list)?;
    let mut hub = Hub::start(&[
        "hub.advertise=127.0.0.1",
        &format!("providers.external.plugins={}", file.display()),
        "provision.every=1s",
        "provision.call_again=2s",
        "provision.second_look=1s",
    ])?;
    let mut orders = Vec::new();
    for name in ["rack", "lab"] {
        let provider = format!("external-{name}");
        let order = ["deploy", "--yes", "--provider", &provider, "--request-key", name];
        let ordered = eventually_ok(SETTLED, "an order", || hub.json(&order)).with_context(|| hub.log())?;
        orders.push(text(&ordered, "/id")?.to_owned());
        until(&hub, &path(name, "/machines"), "a machine", |found| found.len() == 1)?;
    }
    let told = hub.json(&["providers"])?.to_string();
    ensure!(told.contains("external-rack") && told.contains("external-lab"), "{told}");

    // One dies: what it gave a session of its own ends, and the other goes on.
    let (rack, lab) = (apart(&path("rack", ".left"))?, apart(&path("lab", ".left"))?);
    ensure!(runs(&rack) && runs(&lab), "{rack} {lab}");
    let (first, other) = (process(&path("rack", ".sh"))?, process(&path("lab", ".sh"))?);
    ensure!(Launch::new("kill").args(["-KILL", &first]).run(CALL)?.code == Some(0), "kill {first}");
    eventually_ok(SETTLED, "the plugin again, and the end of what it left", || {
        ensure!(process(&path("rack", ".sh"))? != first && !runs(&rack), "{}", hub.log());
        Ok(())
    })?;
    ensure!(process(&path("lab", ".sh"))? == other && runs(&lab), "the other one was touched");

    for (name, id) in ["rack", "lab"].into_iter().zip(&orders) {
        hub.json(&["deployment", "terminate", id, "--yes"])?;
        until(&hub, &path(name, "/machines"), "no machine", <[Value]>::is_empty)?;
    }
    // The hub is killed, which it cannot help: nothing of its plugins is left.
    let again = apart(&path("rack", ".left"))?;
    ensure!(again != rack && runs(&again), "{again}");
    hub.kill()?;
    eventually_ok(SETTLED, "the end of the plugins", || {
        let left = ["rack", "lab"].map(|name| process(&path(name, ".sh")).is_ok());
        ensure!(left == [false, false] && !runs(&again) && !runs(&lab), "{left:?}");
        Ok(())
    })
}
