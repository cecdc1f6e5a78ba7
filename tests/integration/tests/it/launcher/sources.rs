//! What a launcher has run from where blueprints really come: an artefact of a server, and an image of a registry.

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Lab, Need, eventually_ok, require, scratch};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{SENDS, Scene, code, gone_within, is_there, pid};
use crate::containers::USER;
use crate::containers::docker::Docker;
use crate::fixture::{CALL, Hub, SOON, text};
use crate::workloads::rig::Artefact;

/// It finds what the Manager gave, and the Manager finds it, however it is run.
fn is_as_if_local(scene: &Scene<'_>, times: usize) -> Result<serde_json::Value> {
    let told = scene.served(times)?;
    ensure!(told.pointer("/args") == Some(&json!(["run"])), "{told}");
    ensure!(told.pointer("/keys") == Some(&json!(["Ecdsa/ab12"])), "{told}");
    for (name, value) in [("BLUEPRINT_ID", "7"), ("SERVICE_ID", "42"), ("CHAIN", "local_testnet")] {
        ensure!(text(&told, &format!("/env/{name}"))? == value, "{told}");
    }
    ensure!(text(&told, "/calls/add_owner")? == "done", "{told}");
    ensure!(text(&told, "/calls/remove_owner")? == "NotFound: there is no such owner", "{told}");
    let address = scene.manager.registered().last().cloned().context("registered")?;
    let address = address.trim_start_matches("http://").parse()?;
    let large = Request::get("/bytes/3000000").send(address, CALL)?;
    ensure!(large.body.len() == 3_000_000, "{} bytes", large.body.len());
    Ok(told)
}

#[test]
fn an_artefact_that_a_launcher_names_is_fetched_and_runs_as_if_it_were_local() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let (scene, artefact) = (Scene::start()?, Artefact::serve()?);
    let hub = scene.hub.state().join("registry.sock");
    let (url, sha256) = (artefact.url(), artefact.sha256());
    let source = |digest: &str| format!("type = \"native\", url = {url:?}, sha256 = {digest:?}");

    // What is not what was asked for is told at once, and nothing of it is left.
    scene.configure_source(&hub, &source(&"00".repeat(32)), SENDS)?;
    let mut launcher = scene.launcher()?.start()?;
    ensure!(code(&mut launcher)? == 125, "{}", launcher.log());
    ensure!(launcher.log().contains("SHA-256"), "{}", launcher.log());
    ensure!(scene.workloads()?.is_empty(), "it is left");

    scene.configure_source(&hub, &source(&sha256), &SENDS.replace("never", "always"))?;
    let mut launcher = scene.launcher()?.start()?;
    let told = is_as_if_local(&scene, 1)?;
    ensure!(text(&told, "/env/DATA_DIR")?.ends_with("blueprint-7-demo"), "{told}");
    // A crash: its node starts it again, and the Manager hears of it at the place that it knows.
    let before = pid(&told)?;
    let address = scene.manager.registered().last().cloned().context("registered")?;
    let _ = Request::get("/crash").send(address.trim_start_matches("http://").parse()?, CALL);
    let after = pid(&is_as_if_local(&scene, 2)?)?;
    ensure!(before != after && !is_there(before), "{before} {after}");
    let registered = scene.manager.registered();
    ensure!(registered.first() == registered.last() && scene.manager.pings() == 1, "{registered:?}");
    launcher.signal(Signal::SIGTERM)?;
    ensure!(code(&mut launcher)? == 0, "{}", launcher.log());
    gone_within(after, SOON)?;
    ensure!(scene.workloads()?.is_empty(), "it is left");
    Ok(())
}

#[test]
fn an_image_of_a_private_registry_is_pulled_with_the_login_of_launcher_toml_and_runs_as_if_it_were_local()
-> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| require(&[Need::Root])) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let Some(docker) = Docker::start_at(&hosts[1])? else { return Ok(()) };
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &[])?;
    let scene = Scene::with_engine(hub, &[Some(&hosts[1])], &docker.socket())?;
    let (image, digest) = docker.push_blueprint()?;
    let source = format!("type = \"container\", image = {image:?}, digest = \"{digest}\"");
    let sends = SENDS.replace("[\"EXAMPLE_CALLS\"]", "[\"EXAMPLE_CALLS\", \"EXAMPLE_LISTEN\"]");
    let limits = "limits = { memory_bytes = 268435456 }";
    let hub = scene.hub.state().join("registry.sock");
    docker.registry.lock();

    // The Manager has no login for it, and nobody else's is used.
    scene.configure_source(&hub, &source, &format!("{sends}\n{limits}"))?;
    let mut launcher = scene.launcher()?.env("EXAMPLE_LISTEN", "0.0.0.0").start()?;
    ensure!(code(&mut launcher)? == 125, "{}", launcher.log());
    ensure!(launcher.log().contains("registry refuses"), "{}", launcher.log());
    ensure!(scene.workloads()?.is_empty(), "it is left");

    let folder = scratch("login")?;
    let (login, (user, password)) = (folder.path().join("login"), USER);
    std::fs::write(&login, format!("{user}:{password}\n"))?;
    let more = format!("{}\n{limits}\nregistry_login = {:?}", sends.replace("never", "always"), login);
    scene.configure_source(&hub, &source, &more)?;
    let shut = |mode| std::fs::set_permissions(&login, std::os::unix::fs::PermissionsExt::from_mode(mode));
    shut(0o644)?;
    let mut launcher = scene.launcher()?.env("EXAMPLE_LISTEN", "0.0.0.0").start()?;
    ensure!(code(&mut launcher)? == 78, "{}", launcher.log());
    ensure!(launcher.log().contains("mode 0600"), "{}", launcher.log());
    shut(0o600)?;
    let mut launcher = scene.launcher()?.env("EXAMPLE_LISTEN", "0.0.0.0").start()?;
    let told = is_as_if_local(&scene, 1)?;
    ensure!(text(&told, "/env/DATA_DIR")? == "/mnt/data" && told["starts"] == 1, "{told}");
    ensure!(!told.to_string().contains(password) && !launcher.log().contains(password), "the login is shown");
    let shown = scene.hub.json(&["workload", "show", "7/42"])?.to_string();
    ensure!(!shown.contains(password) && !scene.hub.log().contains(password), "the login is shown");

    let address = scene.manager.registered().last().cloned().context("registered")?;
    let _ = Request::get("/crash").send(address.trim_start_matches("http://").parse()?, CALL);
    let told = is_as_if_local(&scene, 2)?;
    ensure!(told["starts"] == 2 && scene.manager.pings() == 1, "{told}");

    // Its output comes out of the launcher, and its end is the launcher's.
    eventually_ok(SOON, "a line of each run", || {
        // Reasons quote them, too.
        let log = launcher.log();
        let lines = log.lines().filter(|line| line.starts_with("service 42 listens on")).count();
        ensure!(lines == 2, "{lines} lines: {}", launcher.log());
        Ok(())
    })?;
    launcher.signal(Signal::SIGTERM)?;
    ensure!(code(&mut launcher)? == 0, "{}", launcher.log());
    ensure!(scene.workloads()?.is_empty(), "it is left");
    eventually_ok(SOON, "the end of the container", || {
        let left = docker.raw("GET", "/containers/json?all=1")?;
        ensure!(left.as_array().is_some_and(Vec::is_empty), "{left}");
        Ok(())
    })
}
