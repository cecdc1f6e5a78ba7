//! Machines of Linode, at a fake of it: ordered, joined by real agents with what stands in their user data, switched off and on, and
//! ended, with the hub killed on the way.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_cloud::linode::LinodeDialect;
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Machine, Power};
use blueprint_tests_support::eventually_ok;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::fixture::{Agent, Hub, SOON, rows, text};

const TOKEN: &str = "canary0123456789abcdef";

/// Longest wait for machines to be made, switched or gone on a busy machine.
const SETTLED: Duration = Duration::from_secs(90);

/// What a machine's first boot reads to join.
fn join_line(machine: &Machine) -> Result<String> {
    let document = machine.user_data.strip_prefix("#cloud-config\n").context("no #cloud-config")?;
    let document: Value = serde_json::from_str(document)?;
    let files = rows(&document, "/write_files")?;
    let line = files.iter().find(|file| file["path"] == "/etc/blueprint-agent/join");
    Ok(text(line.context("no join line")?, "/content")?.to_owned())
}

fn settled(hub: &Hub<'_>, what: &str, holds: impl FnMut() -> Result<()>) -> Result<()> {
    eventually_ok(SETTLED, what, holds).with_context(|| hub.log())
}

/// The machines of the hub, and how many there are in all.
fn machines(fake: &FakeCloud) -> Vec<Machine> {
    fake.world(|world| world.machines.clone())
}

#[test]
fn instances_join_are_switched_off_and_on_and_end_with_their_deployment() -> Result<()> {
    let runtime = Runtime::new()?;
    let dialect = LinodeDialect::default();
    let fake = runtime.block_on(FakeCloud::start(dialect.clone(), TOKEN));
    // Another hub's, and one of nobody's.
    let others = ["bp-node", "bp-hub-ffffffff-ffff-ffff-ffff-ffffffffffff", "bp-dep-bbbbbbbbbbbbbbbb", "bp-att-1"];
    let others = others.map(str::to_owned);
    fake.world(|world| world.add("bp-bbbbbbbbbbbbbbbb-1", &others, "g6-nanode-1", "us-east", ""));
    fake.world(|world| world.add("mine", &[], "g6-nanode-1", "us-east", ""));
    let own = || machines(&fake).into_iter().skip(2).collect::<Vec<_>>();

    let endpoint = format!("providers.linode.endpoint={}", fake.url());
    let mut hub = Hub::start(&[
        "hub.advertise=127.0.0.1",
        "providers.linode.enabled=true",
        "providers.linode.regions=us-east,eu-central",
        &endpoint,
        "provision.every=1s",
        "provision.call_again=2s",
        "provision.second_look=1s",
    ])?;
    let path = hub.state().join("linode.credentials");
    std::fs::write(&path, format!("token = {TOKEN}\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let checked = hub.json(&["provider", "check", "linode"])?;
    ensure!(text(&checked, "/identity")? == "ops, ops@example.com", "{checked}");
    let policy = hub.json(&["provider", "policy", "linode"])?.to_string();
    ensure!(policy.contains("linodes:read_write") && policy.contains("firewall:read_write"), "{policy}");

    // The answer about the first machine is lost: its label keeps a second one from being made.
    fake.fail(Kind::Create, Fault::DoAndBreak);
    let options = ["deploy", "--yes", "--provider", "linode", "--replicas", "2", "--request-key", "once"];
    let ordered = eventually_ok(SETTLED, "an order", || hub.json(&options))?;
    let id = text(&ordered, "/id")?.to_owned();
    hub.kill()?;
    hub.start_again()?;
    settled(&hub, "two instances", || {
        ensure!(own().len() == 2, "{:?}", own());
        Ok(())
    })?;
    ensure!(dialect.firewalls().len() == 1, "{:?}", dialect.firewalls());

    let mut agents = Vec::new();
    for machine in own() {
        let mut agent = Agent::join(None, &machine.name, &join_line(&machine)?)?;
        agent.run()?;
        agents.push(agent);
    }
    let shows = |hub: &Hub<'_>, state: &str| -> Result<()> {
        let shown = hub.json(&["deployment", "show", &id])?;
        ensure!(text(&shown, "/state")? == state, "{shown}");
        Ok(())
    };
    settled(&hub, "a deployment that runs", || shows(&hub, "running"))?;
    drop(agents);

    hub.json(&["deployment", "stop", &id])?;
    settled(&hub, "a deployment that is switched off", || shows(&hub, "stopped"))?;
    ensure!(own().iter().all(|machine| machine.power == Power::Off), "{:?}", own());
    hub.json(&["deployment", "start", &id])?;
    settled(&hub, "instances that run", || {
        ensure!(own().iter().all(|machine| machine.power == Power::On), "{:?}", own());
        Ok(())
    })?;

    hub.json(&["deployment", "terminate", &id, "--yes"])?;
    hub.kill()?;
    hub.start_again()?;
    settled(&hub, "an end", || {
        ensure!(own().is_empty(), "{:?}", own());
        Ok(())
    })?;
    let names: Vec<_> = machines(&fake).into_iter().map(|machine| machine.name).collect();
    ensure!(names == ["bp-bbbbbbbbbbbbbbbb-1", "mine"], "others were touched: {names:?}");
    ensure!(!hub.log().contains("canary"), "the log holds the token");
    Ok(())
}

#[test]
fn without_a_token_it_is_said_where_one_is_looked_for() -> Result<()> {
    // A developer's own token is not used for anything.
    if ["LINODE_TOKEN", "LINODE_API_TOKEN", "LINODE_CLI_TOKEN"].iter().any(|name| std::env::var_os(name).is_some()) {
        return Ok(());
    }
    let hub = Hub::start(&["hub.advertise=127.0.0.1", "providers.linode.enabled=true"])?;
    let finished = hub.command(&["deploy", "--yes", "--provider", "linode"])?.run(SOON)?;
    ensure!(finished.code != Some(0) && finished.stderr.contains("LINODE_TOKEN"), "{}", finished.stderr);
    Ok(())
}
