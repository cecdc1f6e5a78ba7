//! A region without capacity: what the hub learns from one order counts for the plan of the next.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::eventually_ok;
use serde_json::Value;

use crate::fixture::{CALL, Hub, rows, text};

/// Longest wait for a machine to join on a busy machine.
const SETTLED: Duration = Duration::from_secs(60);

/// Plan and region of each offer.
fn offers(rows: &[Value]) -> Result<Vec<(&str, &str)>> {
    rows.iter().map(|row| Ok((text(row, "/plan")?, text(row, "/region")?))).collect()
}

fn wait(hub: &Hub<'_>, name: &str) -> Result<Value> {
    let found = eventually_ok(SETTLED, &format!("{name} runs"), || {
        let shown = hub.json(&["deployment", "show", name])?;
        ensure!(text(&shown, "/state")? == "running", "{shown}");
        Ok(shown)
    });
    found.with_context(|| format!("the hub logged:\n{}", hub.log()))
}

fn regions(deployment: &Value) -> Result<Vec<&str>> {
    rows(deployment, "/instances")?.iter().map(|row| text(row, "/offer/region")).collect()
}

#[test]
fn the_next_order_goes_around_what_was_refused_a_moment_ago() -> Result<()> {
    let hub = Hub::start(&[
        "providers.sim.enabled=true",
        "providers.sim.regions=2",
        "providers.sim.faults=full=1",
        "hub.advertise=127.0.0.1",
        "provision.every=1s",
    ])?;
    // Nobody knows it yet: the first of the plan is refused, and the second is taken.
    let order = |name: &str| hub.json(&["deploy", "--yes", "--name", name]);
    let first = order("first")?;
    ensure!(text(&first, "/plan/0/region")? == "local", "{first}");
    let shown = wait(&hub, "first")?;
    ensure!(regions(&shown)? == ["local", "local-2"], "{shown}");
    ensure!(text(&shown, "/instances/0/state")? == "failed", "{shown}");

    let plan = hub.json(&["deploy", "--dry-run"])?;
    let planned = offers(rows(&plan, "/plan")?)?;
    ensure!(planned.first() == Some(&("sim-small", "local-2")), "{plan}");
    ensure!(!planned.contains(&("sim-small", "local")), "{plan}");
    let passed = rows(&plan, "/unavailable")?;
    ensure!(offers(passed)? == [("sim-small", "local")], "{plan}");
    ensure!(text(&plan, "/unavailable/0/class")? == "capacity", "{plan}");
    let until = text(&plan, "/unavailable/0/until")?;
    ensure!(plan.pointer("/waits_until") == Some(&Value::Null), "{plan}");
    let read = hub.command(&["deploy", "--dry-run", "--explain"])?.run(CALL)?;
    let line = "cannot be had now: sim-small of sim in local: there was no capacity";
    ensure!(
        read.code == Some(0) && read.stderr.contains(line) && read.stderr.contains(until),
        "{}",
        read.stderr
    );

    order("second")?;
    let shown = wait(&hub, "second")?;
    ensure!(regions(&shown)? == ["local-2"], "the region that is full was asked again: {shown}");

    // All that fits is refused: the order stands, and says until when it waits.
    let only = ["--provider", "sim", "--plan", "sim-small", "--region", "local"];
    let plan = hub.json(&[&["deploy", "--dry-run"], &only[..]].concat())?;
    ensure!(text(&plan, "/waits_until")? == until && rows(&plan, "/plan")?.len() == 1, "{plan}");
    let ordered = hub.command(&["deploy", "--yes", "--name", "third", "--output", "json"])?.args(only);
    let ordered = ordered.run(CALL)?;
    ensure!(ordered.code == Some(0) && ordered.stderr.contains("the order waits"), "{}", ordered.stderr);
    eventually_ok(SETTLED, "a person is told why it waits", || {
        let all = hub.json(&["deployment", "ls"])?;
        let is_told = |alarm: &Value| {
            let about = text(alarm, "/text").unwrap_or_default();
            about.contains("nothing of its plan can be had") && about.contains(until)
        };
        ensure!(rows(&all, "/alarms")?.iter().any(is_told), "{all}");
        Ok(())
    })?;
    let shown = hub.json(&["deployment", "show", "third"])?;
    ensure!(rows(&shown, "/instances")?.is_empty(), "it was ordered: {shown}");
    Ok(())
}
