//! Updates of a service with a tier, and a hub that is killed in the middle of them.
//!
//! Machines of a cloud outlive the hub: what they run goes on, and so does the update. Those of the simulated cloud end with the hub
//! that made them, and both versions with them: which of the two serves in the end is the update's to say, but it is one.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use blueprint_tests_cloud::digitalocean::DigitalOceanDialect;
use blueprint_tests_cloud::{FakeCloud, Machine};
use blueprint_tests_support::{Need, eventually_ok, require};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::replicas::Fleet;
use super::{THROUGH, failures, is_over};
use crate::cloud_life::join_line;
use crate::fixture::{Hub, SOON, rows, text};
use crate::load::Load;
use crate::say::say;
use crate::scaling::{self, SERVICE};
use crate::workloads::rig::Node;

/// Machines of the cloud that is not simulated.
const REPLICAS: usize = 3;

/// What the fake of DigitalOcean takes.
const DROPLETS: &str = "dop_v1_canary0123456789";

/// Times short enough for a test; each is one that an operator can set.
const QUICK: [&str; 8] = [
    "hub.advertise=127.0.0.1",
    "provision.every=1s",
    "provision.call_again=2s",
    "provision.second_look=1s",
    "provision.max_price_age_days=3650",
    "session.heartbeat=1s",
    "scaling.every=1s",
    "providers.digitalocean.enabled=true",
];

/// Replicas on machines that outlive the hub.
struct Machines {
    fleet: Fleet,
    _nodes: Vec<Node<'static>>,
    _fake: FakeCloud,
    _runtime: Runtime,
}

impl Machines {
    fn start() -> Result<Option<Self>> {
        if !require(&[Need::Root]) {
            return Ok(None);
        }
        let runtime = Runtime::new()?;
        let fake = runtime.block_on(FakeCloud::start(DigitalOceanDialect::default(), DROPLETS));
        let endpoint = format!("providers.digitalocean.endpoint={}", fake.url());
        let own = ["providers.digitalocean.regions=fra1", &endpoint];
        let hub = Hub::start(&[QUICK.as_slice(), &own].concat())?;
        let path = hub.state().join("digitalocean.credentials");
        std::fs::write(&path, format!("token = {DROPLETS}\n"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let count = REPLICAS.to_string();
        let order = ["deploy", "--yes", "--name", "web", "--replicas", &count, "--service", SERVICE];
        eventually_ok(THROUGH, "an order", || hub.json(&[&order[..], &["--request-key", "once"]].concat()))
            .with_context(|| hub.log())?;
        let made = eventually_ok(THROUGH, "machines", || {
            let made = fake.world(|world| world.machines.clone());
            ensure!(made.len() == REPLICAS, "{} machines", made.len());
            Ok(made)
        });
        let made = made.with_context(|| hub.log())?;
        let boot = |machine: &Machine| Node::join(&machine.name, &join_line(&machine.user_data)?);
        let nodes = made.iter().map(boot).collect::<Result<Vec<_>>>()?;
        let access = hub.access_token(SERVICE)?;
        hub.json(&["scale", "set", SERVICE, "--tier", "standard", "--min", &count])?;
        let joined = eventually_ok(THROUGH, "machines that have joined", || {
            let shown = hub.json(&["deployment", "show", "web"])?;
            ensure!(text(&shown, "/state")? == "running", "{shown}");
            Ok(())
        });
        joined.with_context(|| hub.log())?;
        let fleet = Fleet::run(hub, access, REPLICAS, json!({}))?;
        Ok(Some(Self { fleet, _nodes: nodes, _fake: fake, _runtime: runtime }))
    }
}

/// When the hub is killed.
enum Moment {
    /// In this phase.
    Phase(&'static str),
    /// While it is at this one of the replicas.
    Replica(String),
}

impl Moment {
    fn wait(&self, fleet: &Fleet) -> Result<()> {
        eventually_ok(THROUGH, "the moment of the kill", || {
            let shown = fleet.show()?;
            match self {
                Self::Phase(phase) => ensure!(text(&shown, "/update/phase")? == *phase, "{shown}"),
                Self::Replica(place) => {
                    ensure!(text(&shown, "/update/doing")?.contains(place), "{shown}");
                }
            }
            Ok(())
        })
        .with_context(|| format!("the hub logged:\n{}", fleet.hub.log()))
    }
}

/// Kills the hub and starts it again; gives the times of the kill and of the first answer after it.
fn kill(fleet: &mut Fleet, load: &[Load]) -> Result<(Instant, Instant)> {
    let killed = Instant::now();
    fleet.hub.kill()?;
    fleet.hub.start_again()?;
    let again = Instant::now();
    let took = load.iter().map(|one| one.first_answer_after(again, SOON)).collect::<Result<Vec<_>>>();
    let took = took.with_context(|| format!("the hub logged:\n{}", fleet.hub.log()))?;
    let first = took.into_iter().min().context("no load")?;
    say(format_args!("the first answer came {first:.1?} after the hub was up again"));
    Ok((killed, again + first))
}

/// Waits until no update is under way.
fn wait_over(fleet: &Fleet) -> Result<Value> {
    let over = eventually_ok(THROUGH, "the end of the update", || {
        let shown = fleet.show()?;
        ensure!(is_over(&shown), "{shown}");
        Ok(shown)
    });
    over.with_context(|| format!("the hub logged:\n{}", fleet.hub.log()))
}

/// What became of a version, and why, as the history has it.
fn outcome(fleet: &Fleet, version: u64) -> Result<(String, String)> {
    let history = fleet.hub.json(&["workload", "history", SERVICE])?;
    let row = rows(&history, "/versions")?.iter().find(|row| row["version"] == version);
    let row = row.with_context(|| format!("no version {version} in {history}"))?;
    Ok((text(row, "/outcome")?.to_owned(), text(row, "/reason")?.to_owned()))
}

/// No request failed, but for those that were open at the kill or came while nobody listened.
fn nothing_lost(load: &[Load], (killed, answered): (Instant, Instant), what: &str) -> Result<()> {
    for one in load {
        let before = one.failures_before(killed);
        ensure!(before.is_empty(), "{what}, before the kill: {before:?}");
        let after = one.failures_after(answered);
        ensure!(after.is_empty(), "{what}, after the first answer: {after:?}");
    }
    Ok(())
}

fn begin(fleet: &Fleet, name: &str, options: &[&str]) -> Result<()> {
    let named = format!("EXAMPLE_NAME={name}");
    fleet.hub.json(&[&["update", SERVICE, "-e", &named], options].concat())?;
    Ok(())
}

#[test]
fn a_hub_that_is_killed_while_replicas_are_updated_goes_on_and_loses_no_request() -> Result<()> {
    let Some(Machines { mut fleet, _nodes, _fake, _runtime }) = Machines::start()? else { return Ok(()) };
    let second = Moment::Replica(format!("replica 2 of {REPLICAS}"));
    let ways: [(&str, Moment, &[&str]); 4] = [
        ("two", second, &["--strategy", "rolling", "--health-time", "4s"]),
        (
            "three",
            Moment::Phase("proving"),
            &["--strategy", "blue-green", "--health-time", "6s", "--pause", "1s"],
        ),
        (
            "four",
            Moment::Phase("moved"),
            &["--strategy", "blue-green", "--health-time", "1s", "--pause", "8s"],
        ),
        ("five", Moment::Phase("starting"), &["--strategy", "rolling", "--health-time", "1s"]),
    ];
    for (number, (name, moment, options)) in (2u64..).zip(ways) {
        let load = scaling::load(&fleet.hub, &fleet.access)?;
        load.iter().try_for_each(|one| one.wait_for_calls(5))?;
        begin(&fleet, name, options)?;
        moment.wait(&fleet)?;
        let times = kill(&mut fleet, &load)?;
        wait_over(&fleet)?;
        let (outcome, reason) = outcome(&fleet, number)?;
        ensure!(outcome == "current", "{options:?}: {outcome}: {reason}\n{}", fleet.hub.log());
        fleet.serves(name, number)?;
        nothing_lost(&load, times, &format!("{options:?}"))?;
    }

    // One that the operator takes back afterwards goes back on every machine, and says so.
    let load = scaling::load(&fleet.hub, &fleet.access)?;
    load.iter().try_for_each(|one| one.wait_for_calls(5))?;
    begin(&fleet, "six", &["--strategy", "rolling", "--health-time", "10s", "--drain", "5s"])?;
    Moment::Replica(format!("replica 2 of {REPLICAS}")).wait(&fleet)?;
    let times = kill(&mut fleet, &load)?;
    fleet.hub.json(&["update", SERVICE, "--abort"])?;
    wait_over(&fleet)?;
    let (outcome, reason) = outcome(&fleet, 6)?;
    ensure!(outcome == "aborted" && reason.contains("the operator had it taken back"), "{outcome}: {reason}");
    fleet.serves("five", 5)?;
    nothing_lost(&load, times, "taken back")
}

#[test]
fn replicas_on_machines_that_end_with_their_hub_come_back_with_one_version() -> Result<()> {
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    let second = Moment::Replica("replica 2 of 2".to_owned());
    let ways: [(&str, Moment, &[&str]); 3] = [
        ("rolling", second, &["--strategy", "rolling", "--health-time", "4s"]),
        (
            "proving",
            Moment::Phase("proving"),
            &["--strategy", "blue-green", "--health-time", "6s", "--pause", "1s"],
        ),
        (
            "moved",
            Moment::Phase("moved"),
            &["--strategy", "blue-green", "--health-time", "1s", "--pause", "8s"],
        ),
    ];
    let (mut served, mut version) = ("one", 1);
    for (number, (name, moment, options)) in (2u64..).zip(ways) {
        let load = scaling::load(&fleet.hub, &fleet.access)?;
        load.iter().try_for_each(|one| one.wait_for_calls(5))?;
        begin(&fleet, name, options)?;
        moment.wait(&fleet)?;
        ensure!(failures(&load).is_empty(), "{options:?}, before the kill: {:?}", failures(&load));
        drop(load);
        fleet.hub.kill()?;
        fleet.hub.start_again()?;
        let shown = wait_over(&fleet)?;
        let (outcome, reason) = outcome(&fleet, number)?;
        say(format_args!("{options:?}: {outcome} {reason}"));
        match outcome.as_str() {
            "current" => (served, version) = (name, number),
            "failed" => {
                let told = text(&shown, "/taken_back/reason")?;
                ensure!(!reason.is_empty() && told == reason, "{reason:?}: {shown}");
            }
            other => anyhow::bail!("{options:?}: {other} {reason}"),
        }
        fleet.serves(served, version)?;
    }
    Ok(())
}
