//! Updates of a running service: none of its requests is lost, what is broken goes back by itself, and a hub that is
//! killed on the way goes on.

mod containers;
mod kept;
mod killed;
mod replicas;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Need, eventually_ok, processes_naming, require};
use serde_json::Value;

use crate::fixture::{CALL, Hub, SOON, rows, text};
use crate::load::Load;
use crate::workloads::rig::{self, Node};

/// Longest time that an update of these tests takes.
const THROUGH: Duration = Duration::from_secs(90);

/// Answers by which the part of a version is measured.
const ANSWERS: u64 = 200;

/// Clients that call without a pause.
const CLIENTS: usize = 4;

/// A hub with one node that serves version 1, which calls itself `one`.
struct Rig {
    hub: Hub<'static>,
    _node: Node<'static>,
    program: String,
    access: String,
}

impl Rig {
    fn start() -> Result<Option<Self>> {
        if !require(&[Need::Root]) {
            return Ok(None);
        }
        let hub = Hub::start(&[])?;
        let node = Node::start(&hub, None, "one")?;
        let program = rig::program(&node)?.display().to_string();
        let run = ["workload", "run", "7/42", "--path", &program, "--env", "EXAMPLE_NAME=one"];
        let small = ["--cpu-millis", "500", "--memory-bytes", "268435456", "--wait", "20s"];
        hub.json(&[run.as_slice(), &small].concat())?;
        let access = hub.access_token("7/42")?;
        hub.wait_served("42", &access, SOON)?;
        Ok(Some(Self { hub, _node: node, program, access }))
    }

    fn load(&self) -> Result<Vec<Load>> {
        let one = |_| Load::here(self.hub.proxy(), ("42", self.access.as_str()), CALL);
        (0..CLIENTS).map(one).collect()
    }

    /// The name that the version which answers gives itself.
    fn name(&self) -> Result<String> {
        let answer = self.hub.get("42", &self.access, "/")?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(text(&answer.json()?, "/service")?.to_owned())
    }

    /// Hundredths of [`ANSWERS`] answers that are of this name, while the next version gets `percent`.
    fn share(&self, name: &str, percent: u64) -> Result<u64> {
        let mut own = 0;
        for _ in 0..ANSWERS {
            own += u64::from(self.name()? == name);
        }
        let shown = self.show()?;
        let now = shown.pointer("/update/next_percent").and_then(Value::as_u64);
        ensure!(now == Some(percent), "the step was over before it was measured: {shown}");
        Ok(own * 100 / ANSWERS)
    }

    fn show(&self) -> Result<Value> {
        self.hub.json(&["workload", "show", "7/42"])
    }

    /// Updates to a version of this name, and waits until that is through.
    fn update(&self, name: &str, options: &[&str]) -> Result<Value> {
        let named = format!("EXAMPLE_NAME={name}");
        let update = ["update", "7/42", "-e", &named, "--health-time", "1s"];
        self.json(&[update.as_slice(), options, &["--wait", "80s"]].concat())
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let finished = self.hub.command(arguments)?.args(["--output", "json"]).run(THROUGH)?;
        crate::fixture::json_of(&finished)
    }

    /// The error of an update that goes back, and its exit code.
    fn refused(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let finished = self.hub.command(arguments)?.run(THROUGH)?;
        ensure!(finished.code != Some(0), "it went through: {}", finished.stdout);
        Ok((finished.code, finished.stderr))
    }

    /// Waits until the update is in this phase.
    fn wait_phase(&self, phase: &str) -> Result<Value> {
        eventually_ok(SOON, phase, || {
            let shown = self.show()?;
            ensure!(shown.pointer("/update/phase").and_then(Value::as_str) == Some(phase), "{shown}");
            Ok(shown)
        })
    }

    /// Waits until no update is under way.
    fn wait_over(&self) -> Result<Value> {
        eventually_ok(THROUGH, "the end of the update", || {
            let shown = self.show()?;
            ensure!(is_over(&shown), "{shown}");
            Ok(shown)
        })
    }

    /// One process serves, and it is of this version and name.
    fn is_alone(&self, version: u64, name: &str) -> Result<()> {
        eventually_ok(SOON, "one version alone", || {
            let running = processes_naming(&self.program);
            ensure!(running.len() == 1, "{running:?}");
            let shown = self.show()?;
            ensure!(shown.get("version") == Some(&Value::from(version)) && is_over(&shown), "{shown}");
            ensure!(text(&shown, "/state")? == "running", "{shown}");
            ensure!(self.name()? == name, "another version answers");
            Ok(())
        })
    }
}

/// No update is under way.
fn is_over(shown: &Value) -> bool {
    shown.get("update").is_some_and(Value::is_null)
}

fn failures(load: &[Load]) -> Vec<String> {
    load.iter().flat_map(Load::failures).collect()
}

fn calls(load: &[Load]) -> usize {
    load.iter().map(|one| one.summary().0).sum()
}

#[test]
fn blue_green_canary_and_rolling_lose_no_request_and_every_version_is_kept() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let load = rig.load()?;
    load.iter().try_for_each(|one| one.wait_for_calls(5))?;

    // A request that is open over the move is answered by the version that took it.
    let (hub, access) = (&rig.hub, rig.access.as_str());
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| hub.get("42", access, "/slow/6000"));
        let shown = rig.update("two", &["--strategy", "blue-green", "--pause", "2s", "--drain", "20s"])?;
        ensure!(shown["version"] == 2 && shown["update"].is_null(), "{shown}");
        let slow = slow.join().map_err(|_| anyhow!("the slow request fell over"))??;
        ensure!(slow.status == 200, "a request that was open: {} {}", slow.status, slow.text());
        Ok(())
    })?;
    ensure!(failures(&load).is_empty(), "blue-green: {:?}", failures(&load));
    rig.is_alone(2, "two")?;

    // A canary: both versions answer, in about the parts that were asked for.
    let before = calls(&load);
    let canary = ["--strategy", "canary", "--canary", "20,60", "--pause", "12s", "--health-time", "1s"];
    let update = ["update", "7/42", "-e", "EXAMPLE_NAME=three"];
    rig.json(&[update.as_slice(), &canary].concat())?;
    let (mut measured, mut percents) = (BTreeMap::new(), BTreeSet::new());
    let began = Instant::now();
    loop {
        let shown = rig.show()?;
        let Some(percent) = shown.pointer("/update/next_percent").and_then(Value::as_u64) else { break };
        percents.insert(percent);
        if [20, 60].contains(&percent) && !measured.contains_key(&percent) {
            measured.insert(percent, rig.share("three", percent)?);
        }
        ensure!(began.elapsed() < THROUGH, "{shown}");
    }
    ensure!(percents.is_superset(&BTreeSet::from([0, 20, 60])), "{percents:?}");
    for (percent, share) in &measured {
        // Four standard deviations of so many answers that are drawn one by one.
        ensure!(share.abs_diff(*percent) <= 14, "{share} % of the answers at {percent} %: {measured:?}");
    }
    ensure!(measured.keys().copied().eq([20, 60]), "{measured:?}");
    rig.is_alone(3, "three")?;
    ensure!(failures(&load).is_empty(), "canary: {:?}", failures(&load));
    ensure!(calls(&load) - before >= 200, "only {} calls", calls(&load) - before);

    // Back to the first, one at a time.
    let back = ["rollback", "7/42", "--version", "1", "--strategy", "rolling", "--health-time", "1s"];
    let shown = rig.json(&[back.as_slice(), &["--wait", "80s"]].concat())?;
    ensure!(shown["version"] == 4, "{shown}");
    rig.is_alone(4, "one")?;
    ensure!(failures(&load).is_empty(), "rolling: {:?}", failures(&load));
    drop(load);

    let history = rig.hub.json(&["workload", "history", "7/42"])?;
    let told: Vec<_> = rows(&history, "/versions")?
        .iter()
        .map(|row| (row["version"].as_u64(), row["strategy"].as_str(), row["outcome"].as_str()))
        .collect();
    let expected = [
        (Some(4), Some("rolling"), Some("current")),
        (Some(3), Some("canary"), Some("replaced")),
        (Some(2), Some("blue-green"), Some("replaced")),
        (Some(1), Some("run"), Some("replaced")),
    ];
    ensure!(told == expected, "{history}");
    ensure!(history.pointer("/versions/0/repeats") == Some(&Value::from(1)), "{history}");
    let audit = rig.hub.audit()?.join("\n");
    ensure!(audit.contains("workload.update 7/42") && audit.contains("workload.updated 7/42"), "{audit}");
    Ok(())
}

#[test]
fn a_broken_version_goes_back_by_itself_and_says_why() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let load = rig.load()?;
    let waits = ["--health-time", "1s", "--wait", "80s"];

    // It cannot be started at all.
    let none = ["update", "7/42", "--path", "/nonexistent/program"];
    let (code, why) = rig.refused(&[none.as_slice(), &waits].concat())?;
    ensure!(code == Some(1) && why.contains("version 2 cannot be run"), "{code:?} {why}");
    let shown = rig.show()?;
    let reason = text(&shown, "/taken_back/reason")?;
    ensure!(reason.contains("/nonexistent/program") && shown["version"] == 1, "{shown}");

    // It runs, and its service is not where it says.
    let deaf = ["update", "7/42", "-e", "EXAMPLE_UPSTREAM=http://localhost:1", "--start-time", "4s"];
    let (code, why) = rig.refused(&[deaf.as_slice(), &waits].concat())?;
    ensure!(code == Some(1) && why.contains("version 3 was not healthy within 4 s"), "{code:?} {why}");
    ensure!(failures(&load).is_empty() && calls(&load) > 50, "{:?}", failures(&load));
    drop(load);

    // It answers, and what it answers is 500: the proxy sees that.
    let canary = ["--strategy", "canary", "--canary", "50", "--pause", "60s"];
    let broken = ["update", "7/42", "-e", "EXAMPLE_BROKEN=1"];
    let load = rig.load()?;
    let (code, why) = rig.refused(&[broken.as_slice(), &canary, &waits].concat())?;
    ensure!(code == Some(1) && why.contains("requests failed at version 4"), "{code:?} {why}");
    drop(load);
    rig.is_alone(1, "one")?;

    // One version at a time: the old one comes back.
    let recreate = ["update", "7/42", "-e", "EXAMPLE_UPSTREAM=http://localhost:1", "--strategy", "recreate"];
    let (code, why) = rig.refused(&[recreate.as_slice(), &["--start-time", "4s"], &waits].concat())?;
    ensure!(code == Some(1) && why.contains("version 5 was not healthy within 4 s"), "{code:?} {why}");
    rig.is_alone(1, "one")?;
    let history = rig.hub.json(&["workload", "history", "7/42"])?;
    let outcomes: Vec<_> =
        rows(&history, "/versions")?.iter().filter_map(|row| row["outcome"].as_str()).collect();
    ensure!(outcomes == ["failed", "failed", "failed", "failed", "current"], "{history}");
    let page = rig.hub.api(&Request::get("/metrics"))?.text();
    for (result, count) in [("started", 4), ("back_starting", 3), ("back_canary", 1)] {
        let line = format!("hub_workload_updates_total{{result=\"{result}\"}} {count}\n");
        ensure!(page.contains(&line), "no {line}: {page}");
    }
    ensure!(page.contains("hub_workload_updates_running 0\n"), "{page}");
    Ok(())
}

#[test]
fn one_update_at_a_time_and_the_operator_may_take_it_back() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    rig.json(&["update", "7/42", "-e", "EXAMPLE_NAME=two", "--health-time", "10m"])?;
    rig.wait_phase("proving")?;
    for other in [
        ["update", "7/42", "-e", "EXAMPLE_NAME=three"].as_slice(),
        &["workload", "run", "7/42", "--path", &rig.program],
        &["workload", "restart", "7/42"],
    ] {
        let (code, why) = rig.refused(other)?;
        ensure!(code == Some(5) && why.contains("is being updated") && why.contains("--abort"), "{why}");
    }
    rig.json(&["update", "7/42", "--abort", "--wait", "60s"])?;
    rig.is_alone(1, "one")?;
    let (code, why) = rig.refused(&["update", "7/42", "--abort"])?;
    ensure!(code == Some(5) && why.contains("no update of 7/42"), "{why}");
    let (code, why) = rig.refused(&["rollback", "7/42"])?;
    ensure!(code == Some(3) && why.contains("no version of 7/42 is kept"), "{why}");
    let history = rig.hub.json(&["workload", "history", "7/42"])?;
    ensure!(history.pointer("/versions/0/outcome") == Some(&Value::from("aborted")), "{history}");

    // By recreate the data is one version's alone, and the document may ask for that.
    let file = tempfile::NamedTempFile::new()?;
    let mut spec = rig.show()?["spec"].take();
    spec["exclusive_data"] = Value::from(true);
    std::fs::write(file.path(), spec.to_string())?;
    let path = file.path().display().to_string();
    let (code, why) = rig.refused(&["update", "7/42", "-f", &path])?;
    ensure!(code == Some(2) && why.contains("exclusive_data") && why.contains("recreate"), "{code:?} {why}");
    let done = rig.update("three", &["-f", &path, "--strategy", "recreate"])?;
    ensure!(done["version"] == 3, "{done}");
    rig.is_alone(3, "three")
}

#[test]
fn a_hub_that_is_killed_on_the_way_goes_on_with_one_version() -> Result<()> {
    let Some(mut rig) = Rig::start()? else { return Ok(()) };
    let ways: [(&str, &str, &[&str]); 3] = [
        ("two", "proving", &["--strategy", "blue-green", "--health-time", "5s", "--pause", "1s"]),
        (
            "three",
            "canary",
            &["--strategy", "canary", "--canary", "50", "--health-time", "1s", "--pause", "5s"],
        ),
        ("four", "moved", &["--strategy", "blue-green", "--health-time", "1s", "--pause", "6s"]),
    ];
    for (number, (name, phase, options)) in (2u64..).zip(ways) {
        let named = format!("EXAMPLE_NAME={name}");
        rig.json(&[["update", "7/42", "-e", &named].as_slice(), options].concat())?;
        rig.wait_phase(phase)?;
        rig.hub.kill()?;
        rig.hub.start_again()?;
        let shown = rig.wait_over()?;
        ensure!(shown["version"] == number, "killed while {phase}: {shown}");
        rig.is_alone(number, name)?;
    }
    Ok(())
}
