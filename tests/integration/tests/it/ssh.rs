//! Machines of the operator, reached by SSH: real machines with systemd and an SSH server, a real hub and agents.

mod contract;
mod machine;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{
    Finished, Host, Lab, Launch, Need, eventually_ok, require, scratch, ssh_host_image,
};
use serde_json::Value;
use tempfile::TempDir;

use self::machine::{Machine, fingerprint, key};
use crate::fixture::{CALL, Hub, SOON, json_of, rows, text};
use crate::say::say;

/// From an order to a node, and from an end to a free host, on a busy host.
const LONG: Duration = Duration::from_secs(90);

/// The hub's host, two machines of the operator, and the key that lets the hub in.
struct Site {
    // In the order of their ends.
    machines: Vec<Machine>,
    hub: Host,
    identity: PathBuf,
    folder: TempDir,
    _lab: Lab,
}

impl Site {
    fn new(names: &[&str]) -> Result<Option<Self>> {
        let needs = [
            Need::Root,
            Need::SshHostImage,
            Need::Program("systemd-nspawn"),
            Need::Program("ssh"),
            Need::Program("ssh-keyscan"),
            Need::Device("/dev/net/tun"),
        ];
        if !require(&needs) {
            return Ok(None);
        }
        let image = ssh_host_image().context("no image")?;
        let Some(lab) = Lab::new()? else { return Ok(None) };
        let folder = scratch("site")?;
        let identity = key(folder.path(), "identity")?;
        let hub = lab.host("hub")?;
        let boot = |name: &&str| Machine::boot(&lab, name, &image, &identity);
        let machines = names.iter().map(boot).collect::<Result<_>>()?;
        Ok(Some(Self { machines, hub, identity, folder, _lab: lab }))
    }

    fn hosts(&self) -> PathBuf {
        self.folder.path().join("hosts.toml")
    }

    /// A block of the inventory for the machine with this number.
    fn block(&self, number: usize, user: &str, host_key: &str, more: &str) -> Result<String> {
        let machine = self.machines.get(number).context("no such machine")?;
        Ok(format!(
            "[[host]]\nname = \"rack-{}\"\naddress = \"{}\"\nuser = \"{user}\"\nhost_key = \"{host_key}\"\nidentity = \"{}\"\ncpu = 2\n\
             memory_mib = 2048\ndisk_gb = 20\n{more}\n",
            number + 1,
            machine.host().address(),
            self.identity.display()
        ))
    }

    fn pin(&self, number: usize) -> Result<String> {
        fingerprint(&self.machines.get(number).context("no such machine")?.host_key())
    }

    fn start(&self) -> Result<Hub<'_>> {
        let hosts = format!("providers.ssh.hosts={}", self.hosts().display());
        let settings = [
            "providers.ssh.enabled=true",
            hosts.as_str(),
            "provision.every=1s",
            // A hub that is killed between the word that it calls and the call waits as long.
            "provision.call_again=10s",
            "provision.second_look=1s",
            "session.heartbeat=1s",
            "tunnel.carrier_listen=off",
        ];
        Hub::start_on(&self.hub, &self.hub.address().to_string(), &settings)
    }
}

fn deploy(hub: &Hub<'_>, name: &str, replicas: &str) -> Result<Finished> {
    let arguments =
        ["deploy", "--name", name, "--provider", "ssh", "--replicas", replicas, "--yes", "--output", "json"];
    hub.command(&arguments)?.run(SOON)
}

fn wait(hub: &Hub<'_>, name: &str, state: &str) -> Result<Value> {
    eventually_ok(LONG, &format!("a deployment that is {state}"), || {
        let shown = hub.json(&["deployment", "show", name])?;
        ensure!(text(&shown, "/state")? == state, "{shown}");
        Ok(shown)
    })
    .with_context(|| format!("the hub logged:\n{}", hub.log()))
}

fn terminate(hub: &Hub<'_>, name: &str) -> Result<()> {
    let ended = hub.command(&["deployment", "terminate", name, "--yes", "--wait"])?.run(LONG)?;
    ensure!(ended.code == Some(0), "{}\n{}", ended.stderr, hub.log());
    Ok(())
}

/// States of the hosts, as `host check` shows them, by name.
fn states(hub: &Hub<'_>, site: &Site) -> Result<Vec<String>> {
    let hosts = site.hosts().display().to_string();
    let shown = hub.command(&["host", "check", "--hosts", &hosts, "--output", "json"])?.run(SOON)?;
    let shown: Value = serde_json::from_str(&shown.stdout).with_context(|| shown.stderr.clone())?;
    rows(&shown, "/hosts")?.iter().map(|row| Ok(text(row, "/state")?.to_owned())).collect()
}

#[test]
fn own_hosts_become_nodes_and_are_left_as_they_were() -> Result<()> {
    let Some(site) = Site::new(&["rack1", "rack2"])? else { return Ok(()) };
    // From nothing to an inventory: the key is shown, compared, and only then anybody logs in.
    let program = blueprint_tests_support::binary("blueprint-hub")?;
    let scan =
        |arguments: &[&str]| site.hub.launch(&program).args(["host", "scan"]).args(arguments).run(SOON);
    let address = site.machines[0].host().address().to_string();
    let shown = json_of(&scan(&[&address, "--output", "json"])?)?;
    let pin = text(&shown, "/keys/0/fingerprint")?.to_owned();
    ensure!(pin == site.pin(0)?, "{shown}");
    let identity = site.identity.display().to_string();
    let wrong = scan(&[&address, "--fingerprint", &site.pin(1)?, "--identity", &identity])?;
    ensure!(wrong.code == Some(4) && wrong.stderr.contains("HOST KEY"), "{wrong:?}");
    let block = scan(&[&address, "--fingerprint", &pin, "--identity", &identity, "--name", "rack-1"])?;
    ensure!(block.code == Some(0) && block.stdout.contains("host_key = \"ssh-ed25519 AAAA"), "{block:?}");
    // The second is reached as somebody who may use sudo, and known by its fingerprint.
    std::fs::write(
        site.hosts(),
        block.stdout + &site.block(1, "ops", &site.pin(1)?, "open_ports = [8098]")?,
    )?;

    let mut hub = site.start()?;
    ensure!(states(&hub, &site)? == ["free", "free"], "{:?}", states(&hub, &site));
    let before: Vec<_> = site.machines.iter().map(Machine::files).collect::<Result<_>>()?;

    let begin = Instant::now();
    json_of(&deploy(&hub, "web", "2")?)?;
    let shown = wait(&hub, "web", "running")?;
    say(format_args!("two hosts are nodes after {:.3?}", begin.elapsed()));
    ensure!(rows(&shown, "/instances")?.len() == 2, "{shown}");
    ensure!(states(&hub, &site)? == ["taken", "taken"], "{:?}", states(&hub, &site));
    // There is no third one.
    let none = deploy(&hub, "more", "1")?;
    ensure!(none.code != Some(0) && none.stderr.contains("has the machine"), "{none:?}");

    only_open_ports_are_open(&site)?;
    leave_a_workload(&site, &hub)?;

    // Stopped is the agent, not the machine; it is the same node afterwards, also over a killed hub.
    let switch = |hub: &Hub<'_>, verb: &str| hub.command(&["deployment", verb, "web", "--wait"])?.run(LONG);
    ensure!(switch(&hub, "stop")?.code == Some(0), "{}", hub.log());
    ensure!(site.machines[0].inside("systemctl is-active blueprint-agent")?.trim() == "inactive");
    hub.kill()?;
    hub.start_again()?;
    ensure!(switch(&hub, "start")?.code == Some(0), "{}", hub.log());
    let again = eventually_ok(LONG, "both nodes again", || {
        let shown = hub.json(&["deployment", "show", "web"])?;
        for number in [0, 1] {
            let path = format!("/instances/{number}/node/connected");
            ensure!(shown.pointer(&path) == Some(&true.into()), "{shown}");
        }
        Ok(shown)
    })?;
    let node = |shown: &Value| text(shown, "/instances/0/node/id").map(str::to_owned);
    ensure!(node(&again)? == node(&shown)?, "{again}");

    hold_the_removal_up(&site.machines[0])?;
    terminate(&hub, "web")?;
    ensure!(rows(&hub.json(&["node", "ls"])?, "/nodes")?.is_empty());
    for (machine, before) in site.machines.iter().zip(&before) {
        let after = machine.files()?;
        let left: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        let lost: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
        ensure!(left.is_empty() && lost.is_empty(), "left: {left:#?}\nlost: {lost:#?}");
        let rules = machine.inside("nft list tables; iptables-save 2>/dev/null | grep BLUEPRINT")?;
        ensure!(!rules.to_lowercase().contains("blueprint"), "{rules}");
        let units = machine
            .inside("systemctl list-units --all --no-legend 'blueprint*'; pgrep -lx blueprint-agent")?;
        ensure!(!units.contains("blueprint-"), "{units}");
    }
    ensure!(states(&hub, &site)? == ["free", "free"], "{:?}", states(&hub, &site));

    json_of(&deploy(&hub, "again", "2")?)?;
    wait(&hub, "again", "running")?;
    terminate(&hub, "again")
}

#[test]
fn a_host_that_is_another_or_away_is_told_and_a_killed_hub_claims_once() -> Result<()> {
    let Some(site) = Site::new(&["rack1"])? else { return Ok(()) };
    let other = key(site.folder.path(), "other")?;
    let public = std::fs::read_to_string(other.with_extension("pub"))?;
    let right = site.block(0, "root", &site.pin(0)?, "")?;
    // Another key than the one that it has: written out, and as a fingerprint.
    std::fs::write(site.hosts(), site.block(0, "root", public.trim(), "")?)?;
    let mut hub = site.start()?;
    let nothing = |hub: &Hub<'_>| -> Result<()> {
        let listed = hub.json(&["deployment", "ls", "--all"])?;
        ensure!(rows(&listed, "/deployments")?.is_empty(), "{listed}");
        let said = site.machines[0].inside("ls -d /etc/blueprint* 2>&1; true")?;
        ensure!(said.contains("No such file"), "{said}");
        Ok(())
    };
    for text in [site.block(0, "root", public.trim(), "")?, site.block(0, "root", &fingerprint(&other)?, "")?]
    {
        std::fs::write(site.hosts(), text)?;
        let refused = deploy(&hub, "web", "1")?;
        ensure!(
            refused.code != Some(0) && refused.stderr.contains("HOST KEY IS NOT THE PINNED ONE"),
            "{refused:?}"
        );
        nothing(&hub)?;
    }
    ensure!(hub.log().contains("host refused"), "{}", hub.log());
    // A key to log in with that it does not know.
    std::fs::write(site.hosts(), right.replace("/identity\"", "/other\""))?;
    let refused = deploy(&hub, "web", "1")?;
    ensure!(refused.stderr.contains("authorized_keys"), "{refused:?}");
    // A file that is none keeps everything as it is.
    std::fs::write(site.hosts(), right.replace("cpu = 2", "cpu = 0"))?;
    let refused = deploy(&hub, "web", "1")?;
    ensure!(refused.code != Some(0) && refused.stderr.contains("cpu 0 is outside"), "{refused:?}");
    // Behind a machine on the way, which is held to its own key as strictly; here it is itself that machine.
    let identity = site.identity.display();
    let address = site.machines[0].host().address();
    let own = std::fs::read_to_string(site.machines[0].host_key().with_extension("pub"))?;
    let inner =
        site.block(0, "root", own.trim(), "jump = \"door\"")?.replace(&address.to_string(), "127.0.0.1");
    for (key, state) in [(own.trim(), "free"), (public.trim(), "unfit")] {
        let door = format!(
            "[[jump]]\nname = \"door\"\naddress = \"{address}\"\nhost_key = \"{key}\"\nidentity = \"{identity}\"\n"
        );
        std::fs::write(site.hosts(), door + &inner)?;
        ensure!(states(&hub, &site)? == [state], "{:?}", states(&hub, &site));
    }
    // It is away.
    std::fs::write(site.hosts(), &right)?;
    site.machines[0].host().cut()?;
    let refused = deploy(&hub, "web", "1")?;
    ensure!(refused.code != Some(0) && refused.stderr.contains("is not reached"), "{refused:?}");
    nothing(&hub)?;
    site.machines[0].host().heal()?;
    ensure!(states(&hub, &site)? == ["free"], "{:?}", states(&hub, &site));

    // The hub is killed at many moments of an order; what comes is one machine with one claim.
    json_of(&deploy(&hub, "web", "1")?)?;
    for wait in [0, 100, 300, 600] {
        // Each time a little further on; what matters is that it converges from wherever it was.
        let end = Instant::now() + Duration::from_millis(wait);
        eventually_ok(SOON, "the moment", || {
            ensure!(Instant::now() >= end, "not yet");
            Ok(())
        })?;
        hub.kill()?;
        hub.start_again()?;
    }
    let shown = wait(&hub, "web", "running")?;
    let claim = site.machines[0].inside("cat /etc/blueprint-host/claim; ls /etc/blueprint-host")?;
    let name = text(&shown, "/instances/0/key").or_else(|_| text(&shown, "/instances/0/name"))?;
    ensure!(claim.contains(&format!("key={name}")), "{claim}\n{shown}");
    let nodes = hub.json(&["node", "ls"])?;
    ensure!(rows(&nodes, "/nodes")?.len() == 1, "{nodes}");

    // While it is away it is kept, and it cannot be given back before it answers.
    site.machines[0].host().cut()?;
    let ended = hub.command(&["deployment", "terminate", "web", "--yes"])?.run(CALL)?;
    ensure!(ended.code == Some(0), "{ended:?}");
    eventually_ok(LONG, "what keeps the host from being given back", || {
        let listed = hub.json(&["deployment", "ls", "--all"])?;
        ensure!(listed.to_string().contains("is not reached"), "{listed}");
        Ok(())
    })?;
    site.machines[0].host().heal()?;
    terminate(&hub, "web")?;
    nothing_left(&site.machines[0])
}

fn nothing_left(machine: &Machine) -> Result<()> {
    let said = machine.inside(
        "ls -d /etc/blueprint* /var/lib/blueprint* /usr/local/bin/blueprint* /run/blueprint* 2>/dev/null; true",
    )?;
    ensure!(said.trim().is_empty(), "{said}");
    Ok(())
}

/// What whoever has no right on a machine may do to keep it from being given back.
fn hold_the_removal_up(machine: &Machine) -> Result<()> {
    let said = machine.inside(
        "runuser -u nobody -- flock --no-fork /etc sleep 1000 >/dev/null 2>&1 & cd /var/lib/blueprint-agent && \
         rm identity.json && runuser -u blueprint-agent -- mkfifo identity.json && ls -l identity.json",
    )?;
    ensure!(said.starts_with('p'), "{said}");
    Ok(())
}

/// Nothing gets in but SSH and what the inventory opens.
fn only_open_ports_are_open(site: &Site) -> Result<()> {
    for (machine, port, is_open) in [(0, 8098, false), (1, 8098, true), (1, 8099, false)] {
        let machine = site.machines.get(machine).context("no such machine")?;
        let name = machine.host().namespace();
        let address = std::net::SocketAddr::from((machine.host().address(), port));
        let text = port.to_string();
        let listener =
            Launch::new("ip").args(["netns", "exec", name, "python3", "-m", "http.server", &text]).start()?;
        eventually_ok(SOON, "a listener in the machine", || {
            machine.host().connect(std::net::SocketAddr::from(([127, 0, 0, 1], port)), CALL).map(drop)
        })?;
        let found = site.hub.connect(address, Duration::from_secs(1));
        ensure!(found.is_ok() == is_open, "{port}: {found:?}");
        drop(listener);
    }
    Ok(())
}

/// A workload leaves files and a process behind.
fn leave_a_workload(site: &Site, hub: &Hub<'_>) -> Result<()> {
    let idle = site.folder.path().join("idle");
    std::fs::write(&idle, "#!/bin/sh\necho here >\"$DATA_DIR/left\"\nexec sleep 1000\n")?;
    let pushed = hub.json(&["artefact", "push", &idle.display().to_string()])?;
    let digest = text(&pushed, "/sha256")?;
    hub.json(&["workload", "run", "7/43", "--url", "hub://", "--sha256", digest, "--name", "idle"])?;
    eventually_ok(SOON, "a process of the workload", || {
        let said =
            site.machines.iter().map(|machine| machine.inside("find /var/lib/blueprint-agent -name left"));
        let said = said.collect::<Result<Vec<_>>>()?.concat();
        ensure!(said.contains("left"), "{said}");
        Ok(())
    })
    .with_context(|| hub.log())
}
