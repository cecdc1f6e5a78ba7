//! Replicas of a workload that leave, under a load that does not stop: their machine goes, or their tier is forgotten.

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Need, eventually_ok, require};
use serde_json::{Value, json};

use super::{SERVICE, SETTLED, deployed, failures, history, load, show, wait_replicas};
use crate::fixture::{CALL, Hub, SOON, rows, text};
use crate::load::Load;
use crate::say::say;
use crate::workloads::rig::Artefact;

/// How long a slow call takes, in milliseconds.
const SLOW: u32 = 3000;

/// Waits until so many nodes run it and none leaves; gives what is shown.
fn runs_on(hub: &Hub<'_>, count: usize) -> Result<Value> {
    let found = eventually_ok(SETTLED, &format!("runs on {count} nodes"), || {
        let shown = hub.json(&["workload", "show", SERVICE])?;
        let others = rows(&shown, "/replicas")?;
        let running = others.iter().filter(|row| row["state"] == "running").count();
        ensure!(
            text(&shown, "/state")? == "running" && running + 1 == count && others.len() == running,
            "{shown}"
        );
        ensure!(rows(&shown, "/leaving")?.is_empty(), "{shown}");
        Ok(shown)
    });
    found.with_context(|| format!("the hub logged:\n{}", hub.log()))
}

/// What a node offers of it: the run of the workload, and what its machine was ordered with.
fn targets(hub: &Hub<'_>, node: &Value) -> Result<Vec<Value>> {
    let shown = hub.json(&["service", "show", SERVICE])?;
    Ok(rows(&shown, "/targets")?.iter().filter(|row| row["node_name"] == *node).cloned().collect())
}

#[test]
fn no_call_is_lost_from_three_replicas_to_two_nor_when_the_tier_is_forgotten() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let (hub, access) = deployed(&[], &[])?;
    let artefact = Artefact::serve()?;
    // Machines of the simulated cloud lie in the hub's folder, which no other user may pass.
    let document = json!({
        "source": { "type": "native", "url": artefact.url(), "sha256": artefact.sha256() },
        "env": { "EXAMPLE_NAME": "whole" },
        "sandbox": { "own_user": false },
    });
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), document.to_string())?;
    hub.json(&["scale", "set", SERVICE, "--tier", "standard", "--min", "3"])?;
    wait_replicas(&hub, 3)?;
    hub.json(&["workload", "run", SERVICE, "--file", &file.path().display().to_string()])?;
    runs_on(&hub, 3)?;
    wait_replicas(&hub, 3)?;

    let mut clients = load(&hub, &access)?;
    let path = format!("/slow/{SLOW}");
    for _ in 0..6 {
        clients.push(Load::of(&path, hub.proxy(), ("42", &access), CALL)?);
    }
    clients.iter().try_for_each(|one| one.wait_for_calls(1))?;

    // A machine goes: it drains first, and the operator sees why.
    hub.json(&["scale", "set", SERVICE, "--min", "2", "--max", "2"])?;
    eventually_ok(SOON, "a replica that drains", || {
        let shown = show(&hub)?;
        ensure!(shown["leaving"] == 1 && text(&shown, "/why")?.contains("one replica drains"), "{shown}");
        Ok(())
    })?;
    wait_replicas(&hub, 2)?;
    runs_on(&hub, 2)?;
    let told = history(&hub)?;
    let reason = told.iter().find(|(what, _)| what == "drain").map(|(_, why)| why.as_str());
    ensure!(reason.is_some_and(|why| why.ends_with("the terms allow 2 at the most")), "{told:?}");
    ensure!(failures(&clients).is_empty(), "at the machine's end: {:?}", failures(&clients));

    // The tier is forgotten: the machines stay, and one of the two runs drains.
    let removed = hub.json(&["scale", "rm", SERVICE])?;
    ensure!(rows(&removed, "/machines")?.len() == 2 && removed["drain_secs"] == 10, "{removed}");
    let [left] = rows(&removed, "/draining")? else { anyhow::bail!("{removed}") };
    let before = targets(&hub, left)?;
    let stays = text(&removed, "/runs_on")?.to_owned();
    eventually_ok(SOON, "a run that leaves", || {
        let shown = hub.json(&["workload", "show", SERVICE])?;
        let [leaver] = rows(&shown, "/leaving")? else { anyhow::bail!("{shown}") };
        ensure!(leaver["node"] == *left && leaver["until"].is_string(), "{shown}");
        Ok(())
    })?;
    let shown = runs_on(&hub, 1)?;
    ensure!(text(&shown, "/node")? == stays, "{shown}");
    eventually_ok(SOON, "the end of the other run", || {
        let now = targets(&hub, left)?;
        // What its machine was ordered with has the same service, and goes with it.
        ensure!(now.len() < before.len(), "{now:?} of {before:?}");
        Ok(())
    })?;
    let told = history(&hub)?;
    ensure!(
        told.last().is_some_and(|(what, why)| what == "remove" && why.contains("drains on all")),
        "{told:?}"
    );
    let answer = hub.wait_served("42", &access, SOON)?.json()?;
    ensure!(text(&answer, "/service")? == "whole", "{answer}");
    ensure!(rows(&hub.json(&["node", "ls"])?, "/nodes")?.len() == 2, "the machines stay");
    ensure!(failures(&clients).is_empty(), "without a tier: {:?}", failures(&clients));
    let calls: usize = clients.iter().map(|one| one.summary().0).sum();
    say(format_args!("{calls} calls, none lost"));
    ensure!(calls > 200, "only {calls} calls");
    Ok(())
}
