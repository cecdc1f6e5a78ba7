//! Whole lives of machines at every cloud, against a stand-in that speaks as it does: ordered by a hub that is killed, joined by real
//! agents with what stands in the machines' user data, served through the proxy, switched off and on, served again, ended, and
//! nothing billed is left.
//!
//! Containers of a real engine live theirs in [`crate::docker_machines`].

mod places;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Need, eventually_ok, require};
use serde_json::Value;

use crate::fixture::{Agent, Environment, Hub, SOON, Service, json_of, rows, text};

/// The service that the machines are there for, and how clients call it.
const SERVICE: (&str, &str) = ("7/42", "42");

/// What stands in every secret of these tests.
const CANARY: &str = "canary";

/// Longest wait for machines to be made, switched or gone on a busy machine; some clouds take one call a second.
const SETTLED: Duration = Duration::from_secs(90);

/// A machine of the hub's, as its cloud has it.
#[derive(Debug)]
struct Seen {
    name: String,
    user_data: String,
    is_on: bool,
}

/// A cloud and an account in it.
trait Place {
    /// The hub's name of it.
    fn name(&self) -> &'static str;

    /// Settings of a hub that orders there, beside the usual ones.
    fn settings(&self) -> Vec<String>;

    /// Variables of the hub's environment.
    fn environment(&self) -> Environment {
        Vec::new()
    }

    /// What `provider configure` reads; nothing where the cloud wants none.
    fn credentials(&self) -> Option<String>;

    /// Words that `provider check` and `provider policy` say of the account.
    fn told(&self) -> &'static [&'static str] {
        &[]
    }

    /// Options of the order.
    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    /// The next machine is made, and the answer about it is lost.
    fn lose_an_answer(&self) {}

    /// The machines of the hub.
    fn machines(&self) -> Result<Vec<Seen>>;

    /// What else is billed: disks, addresses, interfaces.
    fn beside(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// What the hub made for itself beside machines, such as firewalls; `None` where the cloud has no such things.
    fn made(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// Whether machines of others are as they were.
    fn spared(&self) -> Result<()> {
        Ok(())
    }
}

/// What runs on a machine.
struct Running {
    agent: Agent<'static>,
    _service: Service,
}

impl Running {
    /// What the first boot does.
    fn boot(machine: &Seen) -> Result<Self> {
        let mut agent = Agent::join(None, &machine.name, &join_line(&machine.user_data)?)?;
        let service = Service::start(None, &machine.name)?;
        agent.run()?;
        agent.offer(SERVICE.0, service.address)?;
        Ok(Self { agent, _service: service })
    }
}

/// What a machine's first boot reads to join, of its user data.
pub(crate) fn join_line(user_data: &str) -> Result<String> {
    let document = user_data.strip_prefix("#cloud-config\n").context("no #cloud-config")?;
    let document: Value = serde_json::from_str(document)?;
    let files = rows(&document, "/write_files")?;
    let line = files.iter().find(|file| file["path"] == "/etc/blueprint-agent/join");
    Ok(text(line.context("no join line")?, "/content")?.trim().to_owned())
}

fn settled<T>(hub: &Hub<'_>, what: &str, holds: impl FnMut() -> Result<T>) -> Result<T> {
    eventually_ok(SETTLED, what, holds).with_context(|| hub.log())
}

fn hub_of(place: &impl Place) -> Result<Hub<'static>> {
    let always = [
        "hub.advertise=127.0.0.1",
        "provision.every=1s",
        "provision.call_again=2s",
        "provision.second_look=1s",
        "provision.max_price_age_days=3650",
        "session.heartbeat=1s",
    ];
    let own = place.settings();
    let settings: Vec<_> = own.iter().map(String::as_str).chain(always).collect();
    let hub = Hub::start_with(&settings, place.environment())?;
    if let Some(credentials) = place.credentials() {
        let configure = hub.command(&["provider", "configure", place.name(), "--output", "json"])?;
        json_of(&configure.stdin(&credentials).run(SOON)?)?;
    }
    if !place.told().is_empty() {
        let checked = hub.json(&["provider", "check", place.name()])?.to_string();
        let policy = hub.json(&["provider", "policy", place.name()])?.to_string();
        for word in place.told() {
            ensure!(checked.contains(word) || policy.contains(word), "no {word} in {checked} or {policy}");
        }
    }
    Ok(hub)
}

fn shows(hub: &Hub<'_>, id: &str, state: &str) -> Result<()> {
    let shown = hub.json(&["deployment", "show", id])?;
    ensure!(text(&shown, "/state")? == state, "{shown}");
    Ok(())
}

fn all_are(place: &impl Place, on: bool) -> Result<()> {
    let machines = place.machines()?;
    ensure!(!machines.is_empty() && machines.iter().all(|machine| machine.is_on == on), "{machines:?}");
    Ok(())
}

fn a_life(place: &impl Place) -> Result<()> {
    let mut hub = hub_of(place)?;
    place.lose_an_answer();
    let usual =
        ["deploy", "--yes", "--provider", place.name(), "--request-key", "once", "--service", SERVICE.0];
    let options = [&usual[..], place.options()].concat();
    let count = if options.contains(&"--replicas") { 2 } else { 1 };
    let ordered = settled(&hub, "an order", || hub.json(&options))?;
    let id = text(&ordered, "/id")?.to_owned();
    hub.kill()?;
    hub.start_again()?;
    ensure!(text(&hub.json(&options)?, "/id")? == id, "ordered twice");
    let made = settled(&hub, "machines that run", || {
        let machines = place.machines()?;
        let names: BTreeSet<_> = machines.iter().map(|machine| &machine.name).collect();
        ensure!(machines.len() == count && names.len() == count, "{machines:?}");
        ensure!(machines.iter().all(|machine| machine.is_on), "{machines:?}");
        Ok(machines)
    })?;

    if place.credentials().is_none() && place.environment().is_empty() {
        let checked = hub.json(&["provider", "check", place.name()])?;
        let note = text(&checked, "/notes/0")?;
        ensure!(note.contains(&format!("{count} machines of this hub")), "{checked}");
        ensure!(!rows(&checked, "/regions")?.is_empty(), "{checked}");
    }

    let mut running: Vec<_> = made.iter().map(Running::boot).collect::<Result<_>>()?;
    settled(&hub, "a deployment that runs", || shows(&hub, &id, "running"))?;
    let token = hub.access_token(SERVICE.0)?;
    hub.wait_served(SERVICE.1, &token, SETTLED)?;

    if place.made()?.is_some() {
        let early = hub.command(&["provider", "clean", place.name()])?.run(SOON)?;
        ensure!(
            early.code == Some(5) && early.stderr.contains("need what would be deleted"),
            "{}",
            early.stderr
        );
    }

    hub.json(&["deployment", "stop", &id])?;
    settled(&hub, "machines that are off", || all_are(place, false))?;
    for one in &mut running {
        one.agent.process()?.kill()?;
    }
    settled(&hub, "a deployment that is switched off", || shows(&hub, &id, "stopped"))?;
    settled(&hub, "no answer of a machine that is off", || {
        let answer = hub.get(SERVICE.1, &token, "/")?;
        ensure!(answer.status == 503, "{}", answer.status);
        Ok(())
    })?;
    hub.json(&["deployment", "start", &id])?;
    settled(&hub, "machines that are on", || all_are(place, true))?;
    running.iter_mut().try_for_each(|one| one.agent.run())?;
    settled(&hub, "a deployment that runs again", || shows(&hub, &id, "running"))?;
    hub.wait_served(SERVICE.1, &token, SETTLED)?;

    hub.json(&["deployment", "terminate", &id, "--yes"])?;
    hub.kill()?;
    hub.start_again()?;
    settled(&hub, "an end", || {
        let (machines, beside) = (place.machines()?, place.beside()?);
        ensure!(machines.is_empty() && beside.is_empty(), "{machines:?} {beside:?}");
        shows(&hub, &id, "gone")
    })?;
    settled(&hub, "no node", || {
        let nodes = hub.json(&["node", "ls"])?;
        ensure!(rows(&nodes, "/nodes")?.is_empty(), "{nodes}");
        Ok(())
    })?;
    if let Some(made) = place.made()? {
        ensure!(!made.is_empty(), "no machine stood behind anything");
        let cleaned = hub.json(&["provider", "clean", place.name()])?;
        let left = place.made()?.unwrap_or_default();
        ensure!(left.is_empty() && rows(&cleaned, "/removed")?.len() >= made.len(), "{left:?} {cleaned}");
        ensure!(hub.audit()?.iter().any(|row| row.starts_with("provider.clean ")), "no audit row");
        let again = hub.json(&["provider", "clean", place.name()])?;
        ensure!(rows(&again, "/removed")?.is_empty(), "{again}");
    }
    place.spared()?;
    ensure!(!hub.log().contains(CANARY), "the log holds a secret");
    Ok(())
}

#[test]
fn droplets_of_digitalocean_live_from_order_to_end() -> Result<()> {
    a_life(&places::digitalocean()?)
}

#[test]
fn instances_of_vultr_live_from_order_to_end() -> Result<()> {
    a_life(&places::vultr()?)
}

#[test]
fn whole_machines_of_vultr_live_from_order_to_end() -> Result<()> {
    a_life(&places::vultr_metal()?)
}

#[test]
fn instances_of_linode_live_from_order_to_end() -> Result<()> {
    a_life(&places::linode()?)
}

#[test]
fn machines_of_google_live_from_order_to_end() -> Result<()> {
    a_life(&places::gcp()?)
}

#[test]
fn machines_of_azure_live_from_order_to_end() -> Result<()> {
    a_life(&places::azure()?)
}

#[test]
fn instances_of_scaleway_live_from_order_to_end() -> Result<()> {
    a_life(&places::scaleway()?)
}

#[test]
fn devices_of_hivelocity_live_from_order_to_end() -> Result<()> {
    a_life(&places::hivelocity()?)
}

#[test]
fn machines_of_ec2_live_from_order_to_end() -> Result<()> {
    if !require(&[Need::Moto]) {
        return Ok(());
    }
    a_life(&places::Ec2::start()?)
}

#[test]
fn machines_of_a_plugin_live_from_order_to_end() -> Result<()> {
    if !require(&[Need::Root, Need::PluginPython]) {
        return Ok(());
    }
    a_life(&places::Plugin::start()?)
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
