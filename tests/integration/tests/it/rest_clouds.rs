//! Machines of Linode and Vultr, at fakes of them: ordered, joined by real agents with what stands in their user data, switched off
//! and on, and ended, with the hub killed on the way.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_cloud::linode::LinodeDialect;
use blueprint_tests_cloud::vultr::VultrDialect;
use blueprint_tests_cloud::{FakeCloud, Fault, Kind, Machine, Power};
use blueprint_tests_support::eventually_ok;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::fixture::{Agent, Hub, SOON, rows, text};

const TOKEN: &str = "canary0123456789abcdef";

/// Longest wait for machines to be made, switched or gone on a busy machine.
const SETTLED: Duration = Duration::from_secs(90);

/// One cloud, as these tests name it.
struct Cloud {
    name: &'static str,
    /// The field of its credentials.
    field: &'static str,
    /// A plan and two regions.
    sells: (&'static str, [&'static str; 2]),
    /// Who the fake says the credentials belong to.
    identity: &'static str,
    /// What the policy has to name.
    rights: [&'static str; 2],
}

const LINODE: Cloud = Cloud {
    name: "linode",
    field: "token",
    sells: ("g6-nanode-1", ["us-east", "eu-central"]),
    identity: "ops, ops@example.com",
    rights: ["linodes:read_write", "firewall:read_write"],
};

const VULTR: Cloud = Cloud {
    name: "vultr",
    field: "api_key",
    sells: ("vc2-1c-1gb", ["ewr", "fra"]),
    identity: "Ops, ops@example.com",
    rights: ["provisioning", "firewall"],
};

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

/// One of another hub, and one of nobody.
fn add_strangers(cloud: &Cloud, fake: &FakeCloud) {
    let (plan, [region, _]) = cloud.sells;
    let others =
        ["bp-node", "bp-hub-ffffffff-ffff-ffff-ffff-ffffffffffff", "bp-dep-bbbbbbbbbbbbbbbb", "bp-att-1"];
    let others = others.map(str::to_owned);
    fake.world(|world| {
        world.add("bp-bbbbbbbbbbbbbbbb-1", &others, plan, region, "");
        world.add("mine", &[], plan, region, "");
    });
}

/// The machines that no stranger owns.
fn own(fake: &FakeCloud) -> Vec<Machine> {
    fake.world(|world| world.machines.iter().skip(2).cloned().collect())
}

fn hub_of<'h>(cloud: &Cloud, url: &str) -> Result<Hub<'h>> {
    let of = |key: &str, value: &str| format!("providers.{}.{key}={value}", cloud.name);
    let settings = [of("enabled", "true"), of("regions", &cloud.sells.1.join(",")), of("endpoint", url)];
    let fixed = [
        "hub.advertise=127.0.0.1",
        "provision.every=1s",
        "provision.call_again=2s",
        "provision.second_look=1s",
    ];
    let hub = Hub::start(&settings.iter().map(String::as_str).chain(fixed).collect::<Vec<_>>())?;
    let path = hub.state().join(format!("{}.credentials", cloud.name));
    std::fs::write(&path, format!("{} = {TOKEN}\n", cloud.field))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let checked = hub.json(&["provider", "check", cloud.name])?;
    ensure!(text(&checked, "/identity")? == cloud.identity, "{checked}");
    let policy = hub.json(&["provider", "policy", cloud.name])?.to_string();
    ensure!(cloud.rights.iter().all(|right| policy.contains(right)), "{policy}");
    Ok(hub)
}

fn shows(hub: &Hub<'_>, id: &str, state: &str) -> Result<()> {
    let shown = hub.json(&["deployment", "show", id])?;
    ensure!(text(&shown, "/state")? == state, "{shown}");
    Ok(())
}

fn a_life(cloud: &Cloud, fake: &FakeCloud) -> Result<()> {
    add_strangers(cloud, fake);
    let mut hub = hub_of(cloud, &fake.url())?;
    // The answer about the first machine is lost.
    fake.fail(Kind::Create, Fault::DoAndBreak);
    let options = ["deploy", "--yes", "--provider", cloud.name, "--replicas", "2", "--request-key", "once"];
    let ordered = eventually_ok(SETTLED, "an order", || hub.json(&options))?;
    let id = text(&ordered, "/id")?.to_owned();
    hub.kill()?;
    hub.start_again()?;
    ensure!(text(&hub.json(&options)?, "/id")? == id, "ordered twice");
    settled(&hub, "two machines", || {
        ensure!(own(fake).len() == 2, "{:?}", own(fake));
        Ok(())
    })?;

    let mut agents = Vec::new();
    for machine in own(fake) {
        let mut agent = Agent::join(None, &machine.name, &join_line(&machine)?)?;
        agent.run()?;
        agents.push(agent);
    }
    settled(&hub, "a deployment that runs", || shows(&hub, &id, "running"))?;
    drop(agents);

    hub.json(&["deployment", "stop", &id])?;
    settled(&hub, "a deployment that is switched off", || shows(&hub, &id, "stopped"))?;
    ensure!(own(fake).iter().all(|machine| machine.power == Power::Off), "{:?}", own(fake));
    hub.json(&["deployment", "start", &id])?;
    settled(&hub, "machines that run", || {
        ensure!(own(fake).iter().all(|machine| machine.power == Power::On), "{:?}", own(fake));
        Ok(())
    })?;

    hub.json(&["deployment", "terminate", &id, "--yes"])?;
    hub.kill()?;
    hub.start_again()?;
    settled(&hub, "an end", || {
        ensure!(own(fake).is_empty(), "{:?}", own(fake));
        Ok(())
    })?;
    let left = fake.world(|world| world.machines.iter().map(|one| one.name.clone()).collect::<Vec<_>>());
    ensure!(left == ["bp-bbbbbbbbbbbbbbbb-1", "mine"], "others were touched: {left:?}");
    ensure!(!hub.log().contains("canary"), "the log holds the token");
    Ok(())
}

#[test]
fn instances_of_linode_join_are_switched_and_end_with_their_deployment() -> Result<()> {
    let runtime = Runtime::new()?;
    let dialect = LinodeDialect::default();
    let fake = runtime.block_on(FakeCloud::start(dialect.clone(), TOKEN));
    a_life(&LINODE, &fake)?;
    ensure!(dialect.firewalls().len() == 1, "{:?}", dialect.firewalls());
    Ok(())
}

#[test]
fn instances_of_vultr_join_are_switched_and_end_with_their_deployment() -> Result<()> {
    let runtime = Runtime::new()?;
    let dialect = VultrDialect::default();
    let fake = runtime.block_on(FakeCloud::start(dialect.clone(), TOKEN));
    a_life(&VULTR, &fake)?;
    ensure!(dialect.firewalls().len() == 1, "{:?}", dialect.firewalls());
    Ok(())
}

#[test]
fn without_credentials_it_is_said_where_they_are_looked_for() -> Result<()> {
    let variables = ["LINODE_TOKEN", "LINODE_API_TOKEN", "LINODE_CLI_TOKEN", "VULTR_API_KEY"];
    // A developer's own are not used for anything.
    if variables.iter().any(|name| std::env::var_os(name).is_some()) {
        return Ok(());
    }
    let settings =
        ["hub.advertise=127.0.0.1", "providers.linode.enabled=true", "providers.vultr.enabled=true"];
    let hub = Hub::start(&settings)?;
    for (name, variable) in [("linode", "LINODE_TOKEN"), ("vultr", "VULTR_API_KEY")] {
        let finished = hub.command(&["deploy", "--yes", "--provider", name])?.run(SOON)?;
        ensure!(finished.code != Some(0) && finished.stderr.contains(variable), "{}", finished.stderr);
    }
    Ok(())
}
