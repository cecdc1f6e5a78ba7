//! Containers as workloads, by a real Docker engine: images from a registry, limits, output, ends, and what is left.

pub(crate) mod docker;
mod registry;

pub(crate) use registry::{USER, archive};

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use blueprint_agent_workload::container::{
    Engine, EngineError, ExtraHost, Health, LogStream, Mount, Product, Progress, RegistryAuth, Running,
};
use blueprint_agent_workload_core::Exit;
use blueprint_common_types::Secret;
use blueprint_common_types::workload::{GpuPolicy, Sha256Digest};
use blueprint_tests_support::eventually_ok;
use futures_util::StreamExt;
use serde_json::json;

use crate::fixture::SOON;
use docker::{Docker, NODE};

/// All that a container writes until its end.
fn output(docker: &Docker, running: &Running) -> Result<Vec<(LogStream, String, bool)>> {
    docker.ask(async {
        let lines = running.logs(None).await?;
        let lines: Vec<_> = lines.collect().await;
        let taken = lines.into_iter().map(|line| line.map(|line| (line.stream, line.text(), line.is_whole)));
        Ok(taken.collect::<Result<Vec<_>, EngineError>>()?)
    })?
}

fn text(docker: &Docker, running: &Running) -> Result<String> {
    let lines = output(docker, running)?.into_iter().map(|(_, line, _)| line);
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Waits until the container has written this line, on either output.
fn wait_for_line(docker: &Docker, running: &Running, wanted: &str) -> Result<()> {
    docker.ask(async {
        let mut lines = running.logs(None).await?;
        while let Some(line) = lines.next().await {
            if line?.text() == wanted {
                return Ok(());
            }
        }
        bail!("the container ended without {wanted:?}")
    })?
}

/// The reason of an error, to compare.
fn reason<T>(result: Result<T, EngineError>) -> &'static str {
    result.map_or_else(|error| error.reason(), |_| "none")
}

#[test]
fn an_image_comes_by_its_digest_or_not_at_all() -> Result<()> {
    let Some(docker) = Docker::start()? else { return Ok(()) };
    let engine = &docker.engine;
    let info = docker.ask(engine.check())??;
    ensure!(info.product == Product::Docker && !info.version.is_empty(), "{info:?}");
    ensure!(info.api.to_string() == "1.41" && [1, 2].contains(&info.cgroup_version), "{info:?}");
    ensure!(info.runtimes.iter().any(|name| name == "runc") && info.unbounded.is_empty(), "{info:?}");
    ensure!(!info.is_rootless && !info.has_gpu_runtime, "{info:?}");

    let (image, digest) = (docker.registry.name("test/a")?, docker.push("test/a", 2)?);
    let seen = std::cell::RefCell::new(Vec::new());
    let note = |progress: Progress| seen.borrow_mut().push(progress);
    docker.ask(engine.pull(&image, &digest, None, note))??;
    let last = seen.borrow().last().copied().context("no progress")?;
    ensure!((last.layers, last.layers_done) == (1, 1), "{last:?}");
    ensure!(last.bytes > 2 << 20 && last.bytes == last.bytes_done, "{last:?}");
    let asked = docker.registry.asked().len();
    docker.ask(engine.pull(&image, &digest, None, |_| ()))??;
    ensure!(docker.registry.asked().len() == asked, "what is there is not asked for again");

    let unknown = Sha256Digest::from_bytes([7; 32]);
    let missing = docker.ask(engine.pull(&image, &unknown, None, drop))?;
    ensure!(reason(missing) == "no_image");
    docker.registry.swap("test/a", &unknown, &digest)?;
    let swapped = docker.ask(engine.pull(&image, &unknown, None, drop))?;
    ensure!(matches!(swapped, Err(EngineError::Digest { .. })), "{swapped:?}");
    let nowhere = docker.ask(engine.pull("127.0.0.1:1/a", &unknown, None, drop))?;
    ensure!(matches!(&nowhere, Err(error @ EngineError::Registry { .. }) if error.may_pass()), "{nowhere:?}");

    let (private, digest) = (docker.registry.name("private/b")?, docker.push("private/b", 0)?);
    docker.registry.lock();
    let stranger = docker.ask(engine.pull(&private, &digest, None, drop))?;
    ensure!(matches!(stranger, Err(EngineError::ImageDenied { .. })), "{stranger:?}");
    let (user, password) = USER;
    let registry = private.split('/').next().unwrap_or_default().to_owned();
    let auth = RegistryAuth { registry, user: user.to_owned(), password: Secret::new(password.to_owned()) };
    docker.ask(engine.pull(&private, &digest, Some(&auth), drop))??;
    Ok(())
}

#[test]
fn a_container_gets_what_it_was_given_and_nothing_else() -> Result<()> {
    let Some(docker) = Docker::start()? else { return Ok(()) };
    let odd = ["$(id) `id` \"'", "", "two\nlines", "ä"];
    let mut spec = docker.probe(&[&["report"], &odd[..]].concat())?;
    spec.env = [("GIVEN", "$HOME=\"x\""), ("EMPTY", "")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    spec.user = Some((4711, 4712));
    let (given, data) = (docker.folder("given")?, docker.folder("data-of-it")?);
    std::fs::write(given.join("file"), "from the node")?;
    std::os::unix::fs::chown(&data, Some(4711), Some(4712))?;
    spec.mounts = vec![
        Mount { host: given, inside: "/given".to_owned(), read_only: true },
        Mount { host: data.clone(), inside: "/data".to_owned(), read_only: false },
    ];
    spec.extra_hosts = vec![
        ExtraHost { name: "node.test".to_owned(), address: None },
        ExtraHost { name: "chain.test".to_owned(), address: Some([192, 0, 2, 1].into()) },
    ];
    let gateway = docker.ask(docker.engine.gateway())??.context("no gateway")?;
    let running = docker.ask(docker.engine.run(&spec))??;
    ensure!(running.gateway.is_none_or(|found| found == gateway), "{running:?}");
    ensure!(docker.ask(running.wait())? == Exit::Code(7));
    let said = text(&docker, &running)?;
    for wanted in [
        "argument [$(id) `id` \"']\nargument []\nargument [two\nlines]\nargument [ä]\nvariable",
        "variable [FROM_IMAGE=1]",
        "variable [GIVEN=$HOME=\"x\"]",
        "variable [EMPTY=]",
        "user 4711:4712",
        "parent 1",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "memory 67108864",
        "quota 50000",
        "processes 32",
        &format!("{gateway}\tnode.test"),
        "192.0.2.1\tchain.test",
        "given from the node",
        "write /file: Read-only file system",
        "write /given/new: Read-only file system",
        "write /data/new: ok",
        // A quarter of its memory each, and in memory.
        "fill /tmp/file: 16 MiB, No space left on device",
        "fill /cache/file: 16 MiB, No space left on device",
    ] {
        ensure!(said.contains(wanted), "no {wanted:?} in\n{said}");
    }
    ensure!(data.join("new").exists(), "what is written to a mount is on the node");
    ensure!(docker.raw("GET", "/v1.41/volumes")?["Volumes"] == json!([]), "no volume on the engine's disk");
    docker.ask(running.remove())??;
    ensure!(docker.ask(running.wait())? == Exit::Unknown, "nobody knows any more");
    Ok(())
}

#[test]
fn limits_hold_and_the_end_says_which_one_it_was() -> Result<()> {
    let Some(docker) = Docker::start()? else { return Ok(()) };
    let mut spec = docker.probe(&["eat"])?;
    let running = docker.ask(docker.engine.run(&spec))??;
    ensure!(docker.ask(running.wait())? == Exit::OutOfMemory);

    spec.args = vec!["grow".to_owned()];
    let running = docker.ask(docker.engine.run(&spec))??;
    ensure!(docker.ask(running.wait())? == Exit::Code(0));
    let said = text(&docker, &running)?;
    // The first process and the engine's init are two of the 32.
    ensure!(said == "grew 30: Resource temporarily unavailable", "{said}");

    spec.limits.cpu_millis = 1_024_000;
    let error = docker.ask(docker.engine.run(&spec))?.err().context("more processors than there are")?;
    ensure!(!error.may_pass() && error.to_string().contains("CPUs available"), "{error}");
    spec.limits.cpu_millis = 500;

    (spec.limits.gpu_policy, spec.limits.gpu_count) = (GpuPolicy::Required, 2);
    let error = docker.ask(docker.engine.run(&spec))?.err().context("GPUs that are not there")?;
    ensure!(matches!(error, EngineError::NoGpu { wanted: 2, .. }) && !error.may_pass(), "{error}");
    ensure!(docker.ask(docker.engine.leftovers(NODE))??.is_empty(), "what does not start is not left");
    spec.limits.gpu_policy = GpuPolicy::Preferred;
    let running = docker.ask(docker.engine.run(&spec))??;
    ensure!(running.gpus == 0 && docker.ask(running.wait())? == Exit::Code(0));

    spec.mounts = vec![Mount { host: "/no/such/folder".into(), inside: "/x".to_owned(), read_only: true }];
    let error = docker.ask(docker.engine.run(&spec))?.err().context("a mount that is not there")?;
    ensure!(error.to_string().contains("/no/such/folder") && !error.may_pass(), "{error}");
    ensure!(docker.ask(docker.engine.leftovers(NODE))??.is_empty());
    Ok(())
}

#[test]
fn a_container_is_asked_to_end_and_then_killed() -> Result<()> {
    let Some(docker) = Docker::start()? else { return Ok(()) };
    let mut spec = docker.probe(&["hold"])?;
    let running = docker.ask(docker.engine.run(&spec))??;
    wait_for_line(&docker, &running, "ready")?;
    let stats = docker.ask(running.stats())??;
    ensure!(stats.memory_limit_bytes == 64 << 20 && stats.memory_bytes > 0 && stats.pids == 2, "{stats:?}");
    ensure!(stats.cpu > Duration::ZERO, "{stats:?}");
    let (exit, asked) = docker.ask(async { tokio::join!(running.wait(), running.terminate()) })?;
    asked?;
    ensure!(exit == Exit::Code(5), "it tidied up: {exit:?}");
    ensure!(text(&docker, &running)? == "ready\nbye");
    docker.ask(running.terminate())??;
    docker.ask(running.kill())??;

    spec.args = vec!["stubborn".to_owned()];
    let running = docker.ask(docker.engine.run(&spec))??;
    wait_for_line(&docker, &running, "ready")?;
    docker.ask(running.terminate())??;
    let still =
        docker.ask(async { tokio::time::timeout(Duration::from_millis(300), running.wait()).await })?;
    ensure!(still.is_err(), "it does not listen: {still:?}");
    docker.ask(running.kill())??;
    ensure!(docker.ask(running.wait())? == Exit::Signal(9));
    docker.ask(running.remove())??;
    docker.ask(running.remove())??;
    docker.ask(running.kill())??;
    Ok(())
}

#[test]
fn both_outputs_arrive_in_order_and_from_a_moment_on() -> Result<()> {
    let Some(docker) = Docker::start()? else { return Ok(()) };
    let spec = docker.probe(&["say"])?;
    let running = docker.ask(docker.engine.run(&spec))??;
    let lines = output(&docker, &running)?;
    let (out, err) = (LogStream::Stdout, LogStream::Stderr);
    let line = |stream, text: &str, is_whole| (stream, text.to_owned(), is_whole);
    let expected = [
        line(out, "line 0", true),
        line(err, "line 1", true),
        line(out, "line 2", true),
        line(err, "line 3", true),
        line(out, &"x".repeat(16 << 10), false),
        line(out, &"x".repeat(20_000 - (16 << 10)), false),
        line(err, "no end", false),
    ];
    let short = |text: &str| format!("{:.20} ({} bytes)", text, text.len());
    let shown: Vec<_> =
        lines.iter().map(|(stream, text, is_whole)| (stream, short(text), is_whole)).collect();
    ensure!(lines == expected, "{shown:?}");
    ensure!(docker.ask(running.wait())? == Exit::Code(0));
    let later = docker.ask(async {
        let lines = running.logs(Some(SystemTime::now() + Duration::from_secs(5))).await?;
        Ok::<_, EngineError>(lines.count().await)
    })??;
    ensure!(later == 0, "{later} lines from a moment to come");
    Ok(())
}

#[test]
fn a_port_is_reached_from_the_node_alone_and_health_is_the_images() -> Result<()> {
    let Some(docker) = Docker::start()? else { return Ok(()) };
    let mut spec = docker.probe(&["serve", "8080"])?;
    spec.ports = vec![8080];
    let data = docker.folder("data-of-it")?;
    spec.mounts = vec![Mount { host: data.clone(), inside: "/data".to_owned(), read_only: false }];
    let running = docker.ask(docker.engine.run(&spec))??;
    wait_for_line(&docker, &running, "ready")?;
    let outside = *running.ports.get(&8080).context("no port")?;
    ensure!(outside.ip().is_loopback(), "{outside}");
    ensure!(docker.read_from(outside)? == "hello");
    let inside = (running.address.context("no address")?, 8080).into();
    ensure!(docker.read_from(inside)? == "hello");
    let gateway = running.gateway.context("no gateway")?;
    ensure!(docker.read_from((gateway, outside.port()).into()).is_err(), "published on loopback alone");

    let sick = eventually_ok(SOON, "a failed check", || match docker.ask(running.health())? {
        Some(Health::Unhealthy { said }) => Ok(said),
        other => bail!("{other:?}"),
    })?;
    ensure!(sick == "not well", "{sick}");
    std::fs::write(data.join("well"), "")?;
    eventually_ok(SOON, "a successful check", || {
        let health = docker.ask(running.health())?;
        ensure!(health == Some(Health::Healthy), "{health:?}");
        Ok(())
    })
}

#[test]
fn containers_do_not_reach_each_other() -> Result<()> {
    let Some(docker) = Docker::start()? else { return Ok(()) };
    let mut spec = docker.probe(&["serve", "8080"])?;
    spec.ports = vec![8080];
    let server = docker.ask(docker.engine.run(&spec))??;
    wait_for_line(&docker, &server, "ready")?;
    let (address, gateway) = (server.address.context("no address")?, server.gateway.context("no gateway")?);
    let outside = server.ports.get(&8080).context("no port")?.port();
    // A program of the node that listens for containers.
    let listener = docker.listen((gateway, 0).into())?;
    let own = listener.local_addr()?.port();
    spec.name = "svc-7-43".to_owned();
    let mut dial = |host: String, port: u16| {
        spec.args = vec!["dial".to_owned(), host, port.to_string()];
        let client = docker.ask(docker.engine.run(&spec))??;
        ensure!(docker.ask(client.wait())? == Exit::Code(0));
        text(&docker, &client)
    };
    ensure!(dial(gateway.to_string(), own)? == "dial ok", "what listens for them on the node");
    let direct = dial(address.to_string(), 8080)?;
    ensure!(direct.starts_with("dial ") && direct != "dial ok", "{direct}");
    let published = dial(gateway.to_string(), outside)?;
    ensure!(published.starts_with("dial ") && published != "dial ok", "{published}");
    Ok(())
}

#[test]
fn what_an_earlier_agent_left_is_found_and_what_others_made_is_not_touched() -> Result<()> {
    let Some(docker) = Docker::start()? else { return Ok(()) };
    let mut theirs = docker.probe(&["hold"])?;
    theirs.node = "another-node".to_owned();
    let foreign = docker.ask(docker.engine.run(&theirs))??;
    let mut ours = theirs.clone();
    ours.node = NODE.to_owned();
    let taken = docker.ask(docker.engine.run(&ours))?;
    ensure!(matches!(taken, Err(EngineError::Foreign { .. })), "{taken:?}");

    ours.name = "svc-7-43".to_owned();
    let first = docker.ask(docker.engine.run(&ours))??;
    let second = docker.ask(docker.engine.run(&ours))??;
    ensure!(first.id != second.id, "one of the same name that is ours is replaced");
    ensure!(docker.ask(first.wait())? == Exit::Unknown, "the first is gone");

    // The same agent after its restart.
    let socket = docker.folder("")?.join("docker.sock");
    let engine = Engine::new(socket);
    let left = docker.ask(engine.leftovers(NODE))??;
    let found: Vec<_> =
        left.iter().map(|left| (left.id.as_str(), left.name.as_str(), left.is_running)).collect();
    ensure!(found == [(second.id.as_str(), "svc-7-43", true)], "{left:?}");
    for left in &left {
        docker.ask(engine.remove(&left.id))??;
        docker.ask(engine.remove(&left.id))??;
    }
    ensure!(docker.ask(engine.leftovers(NODE))??.is_empty());
    let others = docker.ask(engine.leftovers("another-node"))??;
    ensure!(others.len() == 1 && others.iter().all(|other| other.id == foreign.id), "{others:?}");
    Ok(())
}

#[test]
fn a_full_disk_is_told_as_such_and_leaves_room_for_what_fits() -> Result<()> {
    let Some(docker) = Docker::start_small(48)? else { return Ok(()) };
    let (image, digest) = (docker.registry.name("test/large")?, docker.push("test/large", 64)?);
    let full = docker.ask(docker.engine.pull(&image, &digest, None, drop))?;
    ensure!(matches!(&full, Err(error @ EngineError::NoSpace { .. }) if error.may_pass()), "{full:?}");
    let mut spec = docker.probe(&["hold"])?;
    let running = docker.ask(docker.engine.run(&spec))??;
    docker.ask(running.remove())??;
    spec.digest = digest;
    spec.image = image;
    ensure!(reason(docker.ask(docker.engine.run(&spec))?) == "no_image", "what was not pulled does not run");
    Ok(())
}
