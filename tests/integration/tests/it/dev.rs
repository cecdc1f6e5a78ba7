//! `blueprint-hub dev`: the first five minutes, on a machine with nothing but the three programs.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{
    Launch, Need, Process, binary, eventually, eventually_ok, processes_naming, require, scratch,
};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Deserializer, Value};

use crate::fixture::{CALL, SOON, json_of, rows, text};

/// What issue and README promise from the start of the program to a service that answers.
const PROMISE: Duration = Duration::from_secs(5);

/// A running `dev` with what it printed.
struct Dev {
    process: Process,
    printed: Value,
    took: Duration,
}

/// `dev` as a shell starts it: in a process group of its own, which Ctrl-C ends as a whole.
fn launch(temporary: &Path) -> Result<Launch> {
    let launch = Launch::new("setsid").arg(binary("blueprint-hub")?).args(["dev", "--output", "json"]);
    Ok(launch.env("TMPDIR", temporary))
}

/// How many machines of a folder have this file.
fn machines_with(folder: &Path, file: &str) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().join(file).exists()).count()
}

impl Dev {
    /// Starts it and waits for what it prints.
    fn start(temporary: &Path, arguments: &[&str]) -> Result<Self> {
        let began = Instant::now();
        let process = launch(temporary)?.args(arguments).start()?;
        let printed = eventually(SOON, "what dev prints", || {
            let log = process.log();
            let document = log.find("{\n").and_then(|at| log.get(at..))?;
            Deserializer::from_str(document).into_iter::<Value>().next()?.ok()
        });
        let took = began.elapsed();
        let printed = printed.with_context(|| format!("dev logged:\n{}", process.log()))?;
        Ok(Self { process, printed, took })
    }

    fn state(&self) -> Result<&str> {
        text(&self.printed, "/state")
    }

    /// Runs one of the printed `curl` lines in a shell: status line, headers and body.
    fn paste(&self, pointer: &str) -> Result<String> {
        let line = text(&self.printed, pointer)?;
        let finished = Launch::new("sh").args(["-c", line]).run(CALL)?;
        ensure!(finished.code == Some(0), "{line}: {}", finished.stderr);
        Ok(finished.stdout)
    }

    /// Asks the hub as another shell would, after the line that is printed for that.
    fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let other = Launch::new(binary("blueprint-hub")?).args(arguments).args(["--output", "json"]);
        json_of(&other.env("BLUEPRINT_HUB_STATE", text(&self.printed, "/hub_state")?).run(SOON)?)
    }

    /// Names, services and states of the deployments, once these run.
    fn deployments(&self, running: usize) -> Result<Vec<[String; 3]>> {
        eventually_ok(SOON, &format!("{running} deployments that run"), || {
            let listed = self.ask(&["list"])?;
            let row = |row: &Value| {
                Ok([text(row, "/name")?, text(row, "/service")?, text(row, "/state")?].map(str::to_owned))
            };
            let listed = rows(&listed, "/deployments")?.iter().map(row).collect::<Result<Vec<_>>>()?;
            let runs = listed.iter().filter(|[_, _, state]| state == "running").count();
            ensure!(runs == running, "{listed:?}");
            Ok(listed)
        })
    }

    /// The machine of a deployment of one.
    fn machine(&self, deployment: &str) -> Result<String> {
        let listed = self.ask(&["list"])?;
        // One that is being ended has the same name.
        let own = rows(&listed, "/deployments")?
            .iter()
            .find(|row| row["name"] == deployment && row["wanted"] != "gone");
        let id = text(own.with_context(|| format!("no {deployment} in {listed}"))?, "/id")?;
        let shown = self.ask(&["deployment", "show", id])?;
        let live = rows(&shown, "/instances")?.iter().filter(|row| row["state"] == "active");
        let keys = live.map(|row| Ok(text(row, "/key")?.to_owned())).collect::<Result<Vec<_>>>()?;
        ensure!(keys.len() == 1, "{shown}");
        keys.into_iter().next().context("no machine")
    }

    fn nodes(&self) -> Result<BTreeSet<String>> {
        rows(&self.printed, "/nodes")?.iter().map(|node| Ok(text(node, "/id")?.to_owned())).collect()
    }

    /// Tokens of the accepted joins, as the audit log names them.
    fn join_tokens(&self) -> Result<Vec<String>> {
        let state = format!("{}/hub", self.state()?);
        let audit = Launch::new(binary("blueprint-hub")?).args(["audit", "--limit", "1000", "--output"]);
        let answer = json_of(&audit.args(["json", "--state", &state]).run(CALL)?)?;
        let accepted =
            rows(&answer, "/rows")?.iter().filter(|row| row.pointer("/event") == Some(&"join.accept".into()));
        accepted
            .map(|row| {
                let detail = text(row, "/detail")?;
                let token = detail.strip_prefix("token ").and_then(|rest| rest.split(',').next());
                Ok(token.with_context(|| format!("no token in {detail:?}"))?.to_owned())
            })
            .collect()
    }

    /// Presses Ctrl-C and waits; gives what is left of its processes.
    fn interrupt(mut self) -> Result<(Option<i32>, Vec<u32>)> {
        let state = self.state()?.to_owned();
        killpg(Pid::from_raw(i32::try_from(self.process.pid())?), Signal::SIGINT)?;
        let status = self.process.wait(SOON)?;
        Ok((status.code(), processes_naming(&state)))
    }
}

#[test]
fn dev_is_ready_in_five_seconds_does_what_it_prints_and_leaves_nothing() -> Result<()> {
    if !require(&[Need::Program("curl"), Need::Program("setsid")]) {
        return Ok(());
    }
    let temporary = scratch("tmp")?;
    let dev = Dev::start(temporary.path(), &[])?;
    ensure!(dev.took < PROMISE, "ready after {:?}", dev.took);

    assert_eq!(dev.nodes()?.len(), 3);
    let healthy = rows(&dev.printed, "/services")?.iter().map(|service| service.pointer("/healthy"));
    assert_eq!(healthy.collect::<Vec<_>>(), vec![Some(&Value::from(1)); 3]);
    let tokens: BTreeSet<_> = dev.join_tokens()?.into_iter().collect();
    assert_eq!(tokens.len(), 3, "each machine joined with a token of its own: {tokens:?}");

    let refused = dev.paste("/curl_refused")?;
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    let (_, body) = refused.split_once("\r\n\r\n").context("no body")?;
    let body: Value = serde_json::from_str(body).context(refused.clone())?;
    for part in ["/error/code", "/error/message", "/error/hint"] {
        assert!(!text(&body, part)?.is_empty());
    }
    let answered = dev.paste("/curl_answered")?;
    assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
    // Its machines were ordered as every other is.
    let listed = dev.deployments(3)?;
    let expected =
        ["1", "2", "3"].map(|number| [format!("sim-{number}"), format!("1/{number}"), "running".to_owned()]);
    assert_eq!(listed, expected);
    let machine = dev.machine("sim-1")?;
    assert!(answered.contains(&format!("hello from {machine}")), "{machine}: {answered}");

    let plan = dev.ask(&["deploy", "--dry-run"])?;
    assert_eq!(text(&plan, "/plan/0/provider")?, "sim", "what is ordered beside it costs nothing");

    let state = dev.state()?.to_owned();
    assert!(Path::new(&state).starts_with(temporary.path()), "{state}");
    assert!(processes_naming(&state).len() >= 3, "three agents run on it");
    let (code, left) = dev.interrupt()?;
    assert_eq!(code, Some(0));
    assert_eq!(left, Vec::<u32>::new(), "no process is left");
    let files: Vec<_> = std::fs::read_dir(temporary.path())?.collect::<Result<_, _>>()?;
    assert!(files.is_empty(), "no file is left: {files:?}");
    Ok(())
}

#[test]
fn dev_with_a_state_folder_goes_on_from_there() -> Result<()> {
    if !require(&[Need::Program("curl"), Need::Program("setsid")]) {
        return Ok(());
    }
    let temporary = scratch("tmp")?;
    let folder = scratch("dev")?;
    let state = folder.path().join("kept");
    let state = state.to_str().context("a path that is no text")?;

    let first = Dev::start(temporary.path(), &["--state", state])?;
    let (nodes, tokens) = (first.nodes()?, first.join_tokens()?);
    let (code, left) = first.interrupt()?;
    assert_eq!((code, left), (Some(0), Vec::new()));

    let second = Dev::start(temporary.path(), &["--state", state])?;
    ensure!(second.took < PROMISE, "ready after {:?}", second.took);
    assert_eq!(second.nodes()?, nodes, "the same nodes");
    assert_eq!(second.join_tokens()?, tokens, "no new join");
    assert!(second.paste("/curl_answered")?.starts_with("HTTP/1.1 200 "));
    let (code, left) = second.interrupt()?;
    assert_eq!((code, left), (Some(0), Vec::new()));
    let files: Vec<_> = std::fs::read_dir(temporary.path())?.collect::<Result<_, _>>()?;
    assert!(files.is_empty(), "no file outside the state folder: {files:?}");
    Ok(())
}

#[test]
fn a_machine_that_is_terminated_is_gone_and_the_next_start_orders_another() -> Result<()> {
    if !require(&[Need::Program("setsid")]) {
        return Ok(());
    }
    let temporary = scratch("tmp")?;
    let folder = scratch("dev")?;
    let state = folder.path().join("kept");
    let state = state.to_str().context("a path that is no text")?;
    // What a version left that ran its machines beside the deployments, and what is somebody else's.
    let machines = folder.path().join("kept/machines");
    std::fs::create_dir_all(machines.join("sim-1/state"))?;
    for file in ["agent.toml", "user-data.json"] {
        std::fs::write(machines.join("sim-1").join(file), "")?;
    }
    std::fs::create_dir(machines.join("sim-2"))?;
    std::fs::write(machines.join("mine"), "mine")?;

    let first = Dev::start(temporary.path(), &["--state", state])?;
    assert!(!machines.join("sim-1").exists(), "the old machine is there");
    assert!(machines.join("sim-2").is_dir() && machines.join("mine").is_file(), "no machine of ours");
    first.deployments(3)?;
    let machine = first.machine("sim-2")?;
    first.ask(&["terminate", "sim-2", "--yes"])?;
    let own = folder.path().join("kept/hub/sim/machines").join(&machine);
    eventually_ok(SOON, "the end of the machine", || {
        ensure!(!own.exists() && processes_naming(&machine).is_empty(), "{machine} is there");
        let nodes = first.ask(&["node", "ls"])?;
        ensure!(rows(&nodes, "/nodes")?.len() == 2, "{nodes}");
        Ok(())
    })?;
    let (code, left) = first.interrupt()?;
    assert_eq!((code, left), (Some(0), Vec::new()));

    let second = Dev::start(temporary.path(), &["--state", state])?;
    second.deployments(3)?;
    assert_ne!(second.machine("sim-2")?, machine);
    let (code, left) = second.interrupt()?;
    assert_eq!((code, left), (Some(0), Vec::new()));

    // Fewer are asked for: the others are switched off and kept.
    let third = Dev::start(temporary.path(), &["--state", state, "--nodes", "1"])?;
    let listed = third.deployments(1)?;
    let is = |name: &str, begins: &str| listed.iter().any(|row| row[0] == name && row[2].starts_with(begins));
    assert!(is("sim-1", "running") && is("sim-2", "stopp") && is("sim-3", "stopp"), "{listed:?}");
    let (code, left) = third.interrupt()?;
    assert_eq!((code, left), (Some(0), Vec::new()));
    Ok(())
}

#[test]
fn dev_that_is_interrupted_while_it_starts_leaves_nothing() -> Result<()> {
    if !require(&[Need::Program("setsid")]) {
        return Ok(());
    }
    // Moments of a start, by what is in the folder then: a file, or so many machines, each with a file of its own.
    for (moment, count, own) in [
        ("", 0, ""),
        ("hub/ca.key", 0, ""),
        ("hub/hub.sock", 0, ""),
        ("hub/sim/machines", 1, ""),
        ("hub/sim/machines", 3, "state"),
    ] {
        let temporary = scratch("tmp")?;
        let mut process = launch(temporary.path())?.start()?;
        eventually(SOON, &format!("the moment of {count} {moment:?}"), || {
            let mut folders = std::fs::read_dir(temporary.path()).ok()?;
            let path = folders.next()?.ok()?.path().join(moment);
            let is_there = path.exists() && (count == 0 || machines_with(&path, own) >= count);
            is_there.then_some(())
        })?;
        killpg(Pid::from_raw(i32::try_from(process.pid())?), Signal::SIGINT)?;
        let code = process.wait(SOON)?.code();
        assert_eq!(code, Some(0), "at {count} {moment:?}: {}", process.log());
        let name = temporary.path().to_str().context("a path that is no text")?;
        assert_eq!(processes_naming(name), Vec::<u32>::new(), "at {count} {moment:?}");
        let files: Vec<_> = std::fs::read_dir(temporary.path())?.collect::<Result<_, _>>()?;
        assert!(files.is_empty(), "at {count} {moment:?}: {files:?}");
    }
    Ok(())
}

#[test]
fn dev_that_is_killed_leaves_no_process() -> Result<()> {
    if !require(&[Need::Program("setsid")]) {
        return Ok(());
    }
    let temporary = scratch("tmp")?;
    // The names of sockets have 107 bytes at the most; this path alone leaves those of machines no room.
    let deep = temporary.path().join("a-long-name-of-a-folder");
    std::fs::create_dir(&deep)?;
    let mut dev = Dev::start(&deep, &["--nodes", "2"])?;
    let state = dev.state()?.to_owned();
    dev.process.kill()?;
    eventually_ok(SOON, "the end of the machines of a killed dev", || {
        let left = processes_naming(&state);
        ensure!(left.is_empty(), "{left:?} still run");
        Ok(())
    })
}
