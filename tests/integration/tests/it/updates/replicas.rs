//! Updates of a service with a tier: its replicas are on several machines, and go from version to version without a lost request.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Need, eventually_ok, require};
use serde_json::{Value, json};

use super::{THROUGH, calls, failures, is_over};
use crate::fixture::{Hub, SOON, json_of, rows, text};
use crate::scaling::{self, SERVICE, wait_replicas};
use crate::workloads::rig::Artefact;

/// How often it is asked who answers, to see every replica.
const ASKED: usize = 20;

/// A service of the tier `standard` with machines each of which runs version 1, which calls itself `one`.
pub(super) struct Fleet {
    pub(super) hub: Hub<'static>,
    pub(super) access: String,
    replicas: usize,
    _artefact: Artefact,
}

impl Fleet {
    /// On two machines of the simulated cloud.
    pub(super) fn start() -> Result<Option<Self>> {
        if !require(&[Need::Root]) {
            return Ok(None);
        }
        let (hub, access) = scaling::deployed(&[], &[])?;
        hub.json(&["scale", "set", SERVICE, "--tier", "standard"])?;
        wait_replicas(&hub, 2)?;
        // They lie in the hub's folder, which no other user may pass.
        Self::run(hub, access, 2, json!({ "own_user": false })).map(Some)
    }

    /// Has the service's machines run it, which have joined.
    pub(super) fn run(hub: Hub<'static>, access: String, replicas: usize, sandbox: Value) -> Result<Self> {
        let artefact = Artefact::serve()?;
        let document = json!({
            "source": { "type": "native", "url": artefact.url(), "sha256": artefact.sha256() },
            "env": { "EXAMPLE_NAME": "one" },
            "sandbox": sandbox,
            "limits": { "cpu_millis": 100, "memory_bytes": 134_217_728 },
        });
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), document.to_string())?;
        let path = file.path().display().to_string();
        hub.json(&["workload", "run", SERVICE, "--file", &path])?;
        let fleet = Self { hub, access, replicas, _artefact: artefact };
        fleet.serves("one", 1)?;
        Ok(fleet)
    }

    pub(super) fn show(&self) -> Result<Value> {
        self.hub.json(&["workload", "show", SERVICE])
    }

    /// Waits until all machines run this version, and nobody else answers.
    pub(super) fn serves(&self, name: &str, version: u64) -> Result<()> {
        let found = eventually_ok(THROUGH, "all replicas", || {
            let shown = self.show()?;
            let now = shown.get("version").and_then(Value::as_u64);
            ensure!(now == Some(version) && is_over(&shown), "{shown}");
            let others = rows(&shown, "/replicas")?.iter().filter(|row| row["state"] == "running").count();
            ensure!(text(&shown, "/state")? == "running" && others + 1 == self.replicas, "{shown}");
            for _ in 0..ASKED {
                let answer = self.hub.get("42", &self.access, "/")?;
                ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
                ensure!(text(&answer.json()?, "/service")? == name, "another version answers");
            }
            Ok(())
        });
        found.with_context(|| format!("the hub logged:\n{}", self.hub.log()))
    }

    fn update(&self, options: &[&str]) -> Result<Value> {
        let waits = ["--health-time", "1s", "--pause", "1s", "--wait", "80s"];
        let command = self.hub.command(&[&["update", SERVICE], options, &waits].concat())?;
        let done = json_of(&command.args(["--output", "json"]).run(THROUGH)?);
        done.with_context(|| format!("the hub logged:\n{}", self.hub.log()))
    }
}

#[test]
fn replicas_on_two_machines_are_updated_by_every_strategy_and_scaling_waits() -> Result<()> {
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    let load = scaling::load(&fleet.hub, &fleet.access)?;
    load.iter().try_for_each(|one| one.wait_for_calls(5))?;
    for (version, name, options) in [
        (2, "two", &["--strategy", "rolling"][..]),
        (3, "three", &["--strategy", "blue-green"]),
        (4, "four", &["--strategy", "canary", "--canary", "20,60"]),
    ] {
        let named = format!("EXAMPLE_NAME={name}");
        let done = fleet.update(&[&["-e", &named], options].concat())?;
        ensure!(done["version"] == version && is_over(&done), "{done}");
        fleet.serves(name, version)?;
        ensure!(failures(&load).is_empty(), "{options:?}: {:?}", failures(&load));
    }
    ensure!(calls(&load) > 200, "only {} calls", calls(&load));

    // A version that does not answer: the first replica shows it, the other never gets it, and nobody notices.
    let broken = ["-e", "EXAMPLE_UPSTREAM=http://localhost:1", "--strategy", "rolling", "--start-time", "4s"];
    let waits = ["--health-time", "1s", "--wait", "80s"];
    let refused = fleet.hub.command(&[&["update", SERVICE][..], &broken, &waits].concat())?.run(THROUGH)?;
    ensure!(refused.code == Some(1), "{refused:?}");
    ensure!(refused.stderr.contains("version 5 was not healthy within 4 s"), "{}", refused.stderr);
    ensure!(refused.stderr.contains("replica 1 of 2"), "{}", refused.stderr);
    fleet.serves("four", 4)?;
    ensure!(failures(&load).is_empty(), "after the broken version: {:?}", failures(&load));

    // Load that asks for more machines waits for the update, and the scaler says why.
    let next = ["-e", "EXAMPLE_NAME=six", "--strategy", "rolling", "--health-time", "6s"];
    fleet.hub.json(&[&["update", SERVICE][..], &next].concat())?;
    fleet.hub.json(&["scale", "set", SERVICE, "--target-rate", "2"])?;
    eventually_ok(SOON, "a scaler that waits", || {
        let shown = fleet.hub.json(&["scale", "show", SERVICE])?;
        ensure!(
            text(&shown, "/why")?.contains("an update is under way") && shown["replicas"] == 2,
            "{shown}"
        );
        Ok(())
    })?;
    eventually_ok(THROUGH, "the second replica", || {
        let shown = fleet.show()?;
        ensure!(text(&shown, "/update/doing")?.contains("replica 2 of 2"), "{shown}");
        ensure!(rows(&shown, "/update/replicas")?.len() == 2, "{shown}");
        Ok(())
    })?;
    let during = fleet.hub.json(&["scale", "show", SERVICE])?;
    ensure!(during["replicas"] == 2, "{during}");
    eventually_ok(Duration::from_secs(90), "more replicas after the update", || {
        let shown = fleet.hub.json(&["scale", "show", SERVICE])?;
        ensure!(shown["replicas"].as_u64() > Some(2), "{shown}");
        let now = fleet.show()?;
        ensure!(now["version"] == 6 && is_over(&now), "{now}");
        Ok(())
    })?;
    ensure!(failures(&load).is_empty(), "after the update: {:?}", failures(&load));
    drop(load);

    // By recreate every replica ends and starts anew at once.
    let done = fleet.update(&["-e", "EXAMPLE_NAME=seven", "--strategy", "recreate"])?;
    ensure!(done["version"] == 7, "{done}");
    let history = fleet.hub.json(&["workload", "history", SERVICE])?;
    let told: Vec<_> =
        rows(&history, "/versions")?.iter().filter_map(|row| row["outcome"].as_str()).collect();
    let expected = ["current", "replaced", "failed", "replaced", "replaced", "replaced", "replaced"];
    ensure!(told == expected, "{history}");
    Ok(())
}
