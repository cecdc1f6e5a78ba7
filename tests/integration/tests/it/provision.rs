//! Machines that the hub orders: from the order to a node that answers, and whatever is killed on the way.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::eventually_ok;
use serde_json::Value;

use crate::fixture::{Hub, SOON, json_of, rows, text};
use crate::say::{pass, say, seconds_from};

/// Times short enough for a test; each is one that an operator can set.
const QUICK: [&str; 8] = [
    "providers.sim.enabled=true",
    "hub.advertise=127.0.0.1",
    "provision.every=1s",
    "provision.call_again=2s",
    "provision.second_look=1s",
    "provision.join_within=20s",
    "provision.orphan_grace=3s",
    "session.heartbeat=1s",
];

/// Longest wait for a deployment to come to its end state on a busy machine.
const SETTLED: Duration = Duration::from_secs(60);

fn deployment(hub: &Hub<'_>, id: &str) -> Result<Value> {
    hub.json(&["deployment", "show", id])
}

fn deploy(hub: &Hub<'_>, options: &[&str]) -> Result<String> {
    let command = hub.command(&["deploy", "--yes", "--output", "json"])?.args(options);
    let ordered =
        json_of(&command.run(SETTLED)?).with_context(|| format!("the hub logged:\n{}", hub.log()))?;
    Ok(text(&ordered, "/id")?.to_owned())
}

fn wait(hub: &Hub<'_>, id: &str, state: &str) -> Result<Value> {
    let found = eventually_ok(SETTLED, &format!("deployment {id} is {state}"), || {
        let shown = deployment(hub, id)?;
        ensure!(text(&shown, "/state")? == state, "{shown}");
        Ok(shown)
    });
    found.with_context(|| format!("the hub logged:\n{}", hub.log()))
}

/// Machines that stand at the cloud.
fn machines(hub: &Hub<'_>) -> Result<BTreeSet<String>> {
    let folder = hub.state().join("sim/machines");
    if !folder.exists() {
        return Ok(BTreeSet::new());
    }
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// What is in the folders of machines that should not be there.
fn left_over(hub: &Hub<'_>) -> Result<Vec<PathBuf>> {
    let folders = machines(hub)?.into_iter().map(|name| hub.state().join("sim/machines").join(name));
    let mut found = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(&folder)? {
            found.push(entry?.path());
        }
    }
    Ok(found)
}

/// Machines of a deployment that are wanted, as its records say.
fn active(shown: &Value) -> Result<BTreeSet<String>> {
    let own = rows(shown, "/instances")?.iter();
    own.filter(|row| row.pointer("/state") == Some(&"active".into()))
        .map(|row| Ok(text(row, "/key")?.to_owned()))
        .collect()
}

fn nodes(hub: &Hub<'_>) -> Result<BTreeSet<String>> {
    let answer = hub.json(&["node", "ls"])?;
    rows(&answer, "/nodes")?.iter().map(|node| Ok(text(node, "/name")?.to_owned())).collect()
}

#[test]
fn two_machines_are_ordered_serve_are_switched_off_and_on_and_end() -> Result<()> {
    let hub = Hub::start(&QUICK)?;
    let plan = hub.json(&["deploy", "--replicas", "2", "--dry-run"])?;
    ensure!(text(&plan, "/hourly")? == "0.01" && rows(&plan, "/plan")?.len() == 3, "{plan}");
    let begin = Instant::now();
    let options =
        ["--name", "web", "--replicas", "2", "--service", "7/42", "--request-key", "once", "--wait"];
    let id = deploy(&hub, &options)?;
    say(format_args!("two ordered machines have joined after {:.3?}", begin.elapsed()));
    let shown = wait(&hub, "web", "running")?;
    ensure!(deploy(&hub, &options)? == id, "another deployment for the same key");
    let own = active(&shown)?;
    ensure!(own.len() == 2 && own == nodes(&hub)? && own == machines(&hub)?, "{shown}");
    let token = hub.access_token("7/42")?;
    hub.wait_served("42", &token, SOON)?;

    let stopped = hub.json(&["deployment", "stop", "web", "--wait"])?;
    let off = rows(&stopped, "/instances")?.iter().filter(|it| it.pointer("/is_off") == Some(&true.into()));
    ensure!(text(&stopped, "/state")? == "stopped" && off.count() == 2, "not by its cloud's word: {stopped}");
    ensure!(text(&stopped, "/stopped_hourly")? == "0.01", "{stopped}");
    eventually_ok(SETTLED, "nodes without a machine that runs", || {
        let shown = deployment(&hub, "web")?;
        let up =
            rows(&shown, "/instances")?.iter().any(|it| it.pointer("/node/connected") == Some(&true.into()));
        ensure!(!up, "{shown}");
        Ok(())
    })?;
    hub.json(&["deployment", "start", "web", "--wait"])?;
    hub.wait_served("42", &token, SETTLED)?;
    ensure!(active(&deployment(&hub, "web")?)? == own, "other machines after a stop");

    let ended = hub.command(&["deployment", "terminate", "--all", "--yes", "--wait"])?.run(SETTLED)?;
    ensure!(ended.code == Some(0), "{}", ended.stderr);
    eventually_ok(SOON, "no nodes", || {
        ensure!(nodes(&hub)?.is_empty() && machines(&hub)?.is_empty());
        Ok(())
    })?;
    let answer = hub.json(&["deployment", "history", &id])?;
    let steps: Vec<_> =
        rows(&answer, "/events")?.iter().map(|row| text(row, "/what")).collect::<Result<_>>()?;
    for step in ["planned", "calling", "created", "active", "deleting", "gone"] {
        ensure!(steps.contains(&step), "{step} is missing in {steps:?}");
    }
    let audit = hub.audit()?;
    for event in ["deployment.create", "instance.create", "instance.delete", "deployment.terminate"] {
        ensure!(audit.iter().any(|row| row.starts_with(event)), "no {event} in {audit:?}");
    }
    Ok(())
}

/// From a question about prices to a machine, in two commands.
#[test]
fn what_offers_shows_is_what_deploy_orders() -> Result<()> {
    let hub = Hub::start(&QUICK)?;
    let found = hub.json(&["offers", "--min-cpu", "2", "--min-memory", "4", "--max-price", "0.05"])?;
    let own = rows(&found, "/offers")?.iter().find(|offer| offer["configured"] == true);
    let own = own.with_context(|| format!("a machine of the simulated cloud in {found}"))?;
    ensure!(text(own, "/plan")? == "sim-medium" && text(own, "/freshness")? == "live", "{own}");

    let machine = ["--min-cpu", "2", "--min-memory", "4", "--budget", "0.05"];
    let id = deploy(&hub, &[machine.as_slice(), &["--wait"]].concat())?;
    let shown = deployment(&hub, &id)?;
    let instance = rows(&shown, "/instances")?.first().context("a machine")?;
    ensure!(text(instance, "/offer/plan")? == "sim-medium" && nodes(&hub)?.len() == 1, "{shown}");

    let nothing = |options: &[&str], word: &str| {
        let finished = hub.command(&["deploy", "--yes"])?.args(options).run(SETTLED)?;
        ensure!(
            finished.code != Some(0) && finished.stderr.contains(word),
            "{options:?}: {}",
            finished.stderr
        );
        Ok(())
    };
    nothing(&["--min-cpu", "64"], "has 4 of 64.00 processors")?;
    nothing(&["--budget", "0"], "costs 0.005 an hour, more than 0.00")?;
    nothing(&["--region", "atlantis"], "atlantis")?;
    nothing(&["--provider", "aws"], "aws is switched off")?;
    nothing(&["--template", "hive-large"], "hivelocity is switched off")?;
    nothing(&["--template", "hive-huge"], "blueprint-hub templates")?;
    let needs = hub.state().join("needs.json");
    std::fs::write(
        &needs,
        r#"{"resources": {"cpu": 2.0, "memory_gb": 2.0, "storage_gb": 10.0}, "max_instances": 1}"#,
    )?;
    let needs = needs.to_string_lossy();
    nothing(&["--blueprint", &needs, "--replicas", "2"], "runs on 1 machines at most")?;
    let plan = hub.json(&["deploy", "--blueprint", &needs, "--min-cpu", "1", "--dry-run"])?;
    ensure!(text(&plan, "/explained/cpu_millis/origin")? == "blueprint", "{plan}");
    ensure!(text(&plan, "/plan/0/plan")? == "sim-medium", "{plan}");
    ensure!(machines(&hub)?.len() == 1, "what was refused was ordered");
    Ok(())
}

/// A spot machine that its cloud takes back is told and replaced, and the service goes on.
#[test]
fn a_spot_machine_that_is_taken_back_is_replaced() -> Result<()> {
    let hub = Hub::start(&[QUICK.as_slice(), &["providers.sim.faults=seed=3,spot_kill_ms=16000"]].concat())?;
    let plan = hub.json(&["deploy", "--spot", "--dry-run"])?;
    ensure!(text(&plan, "/hourly")? == "0.002", "a spot machine is cheaper: {plan}");
    let id = deploy(&hub, &["--spot", "--service", "7/42", "--name", "web", "--wait"])?;
    let token = hub.access_token("7/42")?;
    hub.wait_served("42", &token, SOON)?;
    let first = machines(&hub)?;
    ensure!(first.len() == 1, "{first:?}");
    eventually_ok(SETTLED, "another machine in its place", || {
        let now = machines(&hub)?;
        ensure!(now.len() == 1 && now.is_disjoint(&first) && nodes(&hub)? == now, "{now:?} after {first:?}");
        Ok(())
    })
    .with_context(|| hub.log())?;
    hub.wait_served("42", &token, SETTLED)?;
    let answer = hub.json(&["deployment", "history", &id])?;
    ensure!(rows(&answer, "/events")?.iter().any(|row| row["what"] == "lost"), "{answer}");
    let ended = hub.command(&["deployment", "terminate", "web", "--yes", "--wait"])?.run(SETTLED)?;
    ensure!(ended.code == Some(0), "{}", ended.stderr);
    Ok(())
}

#[test]
fn a_hub_killed_at_any_moment_ends_with_exactly_the_machines_wanted() -> Result<()> {
    let runs = seconds_from("BLUEPRINT_TEST_KILLS", 20)?.as_secs();
    let faults = "providers.sim.faults=seed=11,latency_ms=60,errors=10,lost=20,doubles=30,late_ms=800";
    let mut settings = QUICK.to_vec();
    settings.push(faults);
    let mut hub = Hub::start(&settings)?;
    for run in 0..runs {
        let began = Instant::now();
        let key = format!("run-{run}");
        let id = deploy(&hub, &["--replicas", "2", "--request-key", &key])?;
        // Moments from the first call to long after the last, and not the same twice.
        pass(Duration::from_millis(run * 97 % 1500))?;
        hub.kill()?;
        hub.start_again()?;
        ensure!(deploy(&hub, &["--replicas", "2", "--request-key", &key])? == id, "run {run}: ordered twice");
        let shown = wait(&hub, &id, "running")?;
        eventually_ok(SETTLED, "exactly the machines wanted", || {
            let own = active(&shown)?;
            ensure!(own.len() == 2, "run {run}: {shown}");
            let shown = deployment(&hub, &id)?;
            ensure!(active(&shown)? == machines(&hub)?, "run {run}: {:?}, {shown}", machines(&hub)?);
            Ok(())
        })
        .with_context(|| hub.log())?;
        hub.json(&["deployment", "terminate", &id, "--yes"])?;
        pass(Duration::from_millis(run * 61 % 900))?;
        hub.kill()?;
        hub.start_again()?;
        wait(&hub, &id, "gone")?;
        eventually_ok(SETTLED, "no machine and no node", || {
            ensure!(
                machines(&hub)?.is_empty() && nodes(&hub)?.is_empty(),
                "run {run}: {:?} {:?}",
                machines(&hub)?,
                left_over(&hub)?
            );
            Ok(())
        })
        .with_context(|| hub.log())?;
        say(format_args!("run {run} took {:.1?}", began.elapsed()));
    }
    Ok(())
}

#[test]
fn an_orphan_of_this_hub_is_told_and_removed_and_another_hubs_is_left_alone() -> Result<()> {
    let mut hub = Hub::start(&QUICK)?;
    let id = deploy(&hub, &["--wait"])?;
    let own = active(&wait(&hub, &id, "running")?)?;
    let folder = hub.state().join("sim/machines");
    let first: PathBuf = folder.join(own.first().context("no machine")?);
    let label = std::fs::read_to_string(first.join("machine.json"))?;
    let hub_id = std::fs::read_to_string(hub.state().join("hub-id"))?;
    // Behind the hub's back: one with its tag, and one with another's.
    let make = |name: &str, label: &str| -> Result<()> {
        std::fs::create_dir(folder.join(name))?;
        std::fs::copy(first.join("user-data.json"), folder.join(name).join("user-data.json"))?;
        Ok(std::fs::write(folder.join(name).join("machine.json"), label)?)
    };
    make("bp-orphan-1", &label)?;
    make("bp-foreign-1", &label.replace(hub_id.trim(), "00000000-0000-4000-8000-000000000000"))?;
    eventually_ok(SOON, "a word about the orphan", || {
        let answer = hub.json(&["deployment", "ls"])?;
        let told = rows(&answer, "/alarms")?
            .iter()
            .any(|it| it.pointer("/subject") == Some(&"sim/bp-orphan-1".into()));
        ensure!(told || !machines(&hub)?.contains("bp-orphan-1"), "{answer}");
        Ok(())
    })?;
    eventually_ok(SETTLED, "an end of the orphan", || {
        ensure!(!machines(&hub)?.contains("bp-orphan-1"));
        Ok(())
    })
    .with_context(|| hub.log())?;
    let mut kept = own.clone();
    kept.insert("bp-foreign-1".to_owned());
    ensure!(machines(&hub)? == kept, "{:?}", machines(&hub)?);
    ensure!(hub.audit()?.iter().any(|row| row.starts_with("instance.delete bp-orphan-1")), "no audit row");

    // A deployment whose time is over while the hub is away ends when it is back.
    let id = deploy(&hub, &["--ttl", "60s", "--wait"])?;
    hub.kill()?;
    pass(Duration::from_secs(61))?;
    let begin = Instant::now();
    hub.start_again()?;
    wait(&hub, &id, "gone")?;
    ensure!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    ensure!(machines(&hub)? == kept, "{:?}", machines(&hub)?);
    Ok(())
}

#[test]
fn a_token_of_an_ordered_machine_is_no_use_to_another() -> Result<()> {
    let hub = Hub::start(&QUICK)?;
    let id = deploy(&hub, &["--wait"])?;
    let own = active(&wait(&hub, &id, "running")?)?;
    let data =
        hub.state().join("sim/machines").join(own.first().context("no machine")?).join("user-data.json");
    let data: Value = serde_json::from_str(&std::fs::read_to_string(data)?)?;
    let folder = blueprint_tests_support::scratch("thief")?;
    for name in ["thief", own.first().context("no machine")?] {
        let line = text(&data, "/join_line")?;
        let joined = crate::fixture::joining(None, name, &folder.path().join(name))?.stdin(line).run(SOON)?;
        ensure!(joined.code != Some(0), "{name} joined");
    }
    ensure!(nodes(&hub)? == own, "{:?}", nodes(&hub)?);
    Ok(())
}

/// What stands counts for the next order, also after a restart, and what was spent is told by deployment and by day.
#[test]
fn orders_keep_to_the_limits_and_costs_are_told() -> Result<()> {
    let mut settings = QUICK.to_vec();
    settings.extend(["provision.limit_sim=true", "provision.max_machines=2", "provision.max_hourly=0.02"]);
    let mut hub = Hub::start(&settings)?;
    deploy(&hub, &["--name", "web", "--replicas", "2", "--request-key", "once", "--wait"])?;
    let refused = |options: &[&str], word: &str| {
        let finished = hub.command(&["deploy", "--yes"])?.args(options).run(SETTLED)?;
        ensure!(finished.code == Some(5) && finished.stderr.contains(word), "{}", finished.stderr);
        ensure!(finished.stderr.contains("--request-key"), "no word of the key: {}", finished.stderr);
        Ok(())
    };
    refused(&[], "provision.max_machines is 2: 2 is used, and 1 more is asked for")?;
    ensure!(machines(&hub)?.len() == 2, "what was refused was ordered");
    hub.kill()?;
    hub.start_again()?;
    let again = hub.command(&["deploy", "--yes", "--replicas", "1"])?.run(SETTLED)?;
    ensure!(again.code == Some(5), "{}", again.stderr);
    deploy(&hub, &["--name", "web", "--replicas", "2", "--request-key", "once", "--wait"])?;

    let costs = hub.json(&["costs"])?;
    let row = rows(&costs, "/rows")?.first().context("a row")?;
    ensure!(
        text(row, "/name")? == "web" && row["machines"] == 2 && text(row, "/hourly")? == "0.01",
        "{costs}"
    );
    let actual: f64 = text(row, "/actual")?.parse()?;
    // A minute at least for each of them, of half a cent an hour.
    ensure!((2.0 * 0.005 / 60.0..0.01).contains(&actual), "{costs}");
    ensure!(costs.pointer("/limits/machines/used") == Some(&2.into()), "{costs}");
    let days = hub.json(&["costs", "--by", "day", "--deployment", "web"])?;
    ensure!(!rows(&days, "/rows")?.is_empty() && text(&days, "/total")?.parse::<f64>()? >= actual, "{days}");

    hub.json(&["deployment", "terminate", "web", "--yes", "--wait"])?;
    deploy(&hub, &["--wait"])?;
    Ok(())
}
